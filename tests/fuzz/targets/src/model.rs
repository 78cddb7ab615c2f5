//! Model files of novelty detectors ([`chaff_novelty::Model::from_bytes`]).
//!
//! Input: a model file without the checksum at its end, which is added, so that the fuzzer need not guess it.
//!
//! - Without the right checksum nothing is accepted.
//! - What an accepted model writes is accepted, and written alike again.
//! - A model that was accepted scores and explains any row without a panic, and a row that is not finite as infinitely novel.

use chaff_novelty::{Kind, MatRef, Model, Scaling};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

use crate::Seeds;

/// Columns beyond which explaining takes long.
const COLUMNS: usize = 64;

/// See the module.
pub fn run(data: &[u8]) {
    let _refused_or_intact = Model::from_bytes(data);
    let mut file = data.to_vec();
    file.extend(Sha256::digest(data));
    let Ok(mut model) = Model::from_bytes(&file) else {
        return;
    };
    // A flag may be any number but 0 in the input; what is written is read and written alike.
    let again = model.to_bytes();
    assert_eq!(Model::from_bytes(&again).unwrap().to_bytes(), again);
    let columns = model.names().len();
    if columns > COLUMNS {
        return;
    }
    for value in [0.0, 1.0, -1e300, f64::MAX, 1e-300] {
        let row = vec![value; columns];
        let scores = model.score(MatRef::new(columns, &row).unwrap()).unwrap();
        assert!(scores.len() == 1 && !scores[0].is_nan());
        let reasons = model.explain(&row, 2).unwrap();
        assert!(reasons.iter().all(|r| r.column < columns));
    }
    let odd = vec![f64::NAN; columns];
    let scores = model.score(MatRef::new(columns, &odd).unwrap()).unwrap();
    assert_eq!(scores, [f64::INFINITY]);
    let _any = model.observe(&vec![1.0; columns]).unwrap();
    assert!(
        model
            .score(MatRef::new(columns + 1, &vec![0.0; columns + 1]).unwrap())
            .is_err()
    );
    let last = file.len() - 1;
    file[last] ^= 1;
    assert!(Model::from_bytes(&file).is_err());
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let rows: Vec<f64> = (0..24u32)
        .flat_map(|i| [f64::from(i % 5), f64::from(i % 7)])
        .collect();
    let names = vec!["a".to_owned(), "b".to_owned()];
    let mut seeds = vec![("empty".to_owned(), Vec::new())];
    for kind in Kind::ALL {
        let mut settings = kind.settings();
        let small: &[(&str, &str)] = match kind {
            Kind::Gmm => &[("components", "2")],
            Kind::IsolationForest => &[("trees", "2"), ("sample", "8")],
            Kind::Autoencoder => &[("hidden", "3"), ("code", "1"), ("epochs", "1")],
            Kind::Online => &[("passes", "1")],
            Kind::Ocsvm | Kind::Kde | Kind::Pca | Kind::Knn => &[],
        };
        for (name, value) in small {
            settings.set(name, value).unwrap();
        }
        let scaling = match kind {
            Kind::Gmm => Scaling::Rank,
            _ => Scaling::ZScore,
        };
        let view = MatRef::new(2, &rows).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut model = Model::fit(&settings, scaling, names.clone(), view, 0.1, &mut rng).unwrap();
        model.facts_mut().insert("made".into(), "as a seed".into());
        let mut file = model.to_bytes();
        file.truncate(file.len() - 32);
        seeds.push((kind.name().to_owned(), file));
    }
    seeds
}
