//! netml's demo: detectors on its labelled flows, its split, its settings; scores and areas against the shared ones.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use chaff_novelty::{Kind, Matrix, Settings, ocsvm, roc_auc};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn expected() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here
        .ancestors()
        .map(|a| a.join("../shared/conformance/netml/expected"))
        .find(|p| p.is_dir());
    if found.is_none() {
        eprintln!("skipped: needs ../shared/conformance/netml");
    }
    found
}

/// Numbers of all lines after the header, from column `skip` on.
fn table(path: &Path, skip: usize) -> Matrix {
    let text = fs::read_to_string(path).unwrap();
    let rows: Vec<Vec<f64>> = text
        .lines()
        .skip(1)
        .map(|l| {
            l.split(',')
                .skip(skip)
                .map(|v| v.parse().unwrap())
                .collect()
        })
        .collect();
    Matrix::new(rows[0].len(), rows.concat()).unwrap()
}

fn indices(facts: &serde_json::Value, name: &str) -> Vec<usize> {
    facts[name]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_u64().unwrap() as usize)
        .collect()
}

fn scores(settings: Settings, train: &Matrix, test: &Matrix, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let detector = settings.fit(train.view(), &mut rng).unwrap();
    let mut out = vec![0.0; test.view().rows()];
    detector.score(test.view(), &mut out);
    out
}

#[test]
fn areas_are_those_of_netml() {
    let Some(root) = expected() else { return };
    println!("kind       detector  area   netml");
    for kind in ["iat", "stats", "size", "samp_num", "samp_size"] {
        let features = table(&root.join(format!("demo-labelled/{kind}.csv")), 6);
        let text = fs::read_to_string(root.join(format!("demo-detectors/{kind}.json"))).unwrap();
        let facts: serde_json::Value = serde_json::from_str(&text).unwrap();
        let train = features.select(&indices(&facts, "train_indices"));
        let test = features.select(&indices(&facts, "test_indices"));
        // label,ocsvm,kde,gmm,pca,if
        let want = table(&root.join(format!("demo-detectors/{kind}.scores.csv")), 7);
        let column = |i: usize| -> Vec<f64> { want.view().iter().map(|r| r[i]).collect() };
        let novel: Vec<bool> = column(0).iter().map(|l| *l == 1.0).collect();
        let area = |scores: &[f64]| roc_auc(scores, &novel).unwrap();

        // With 58 rows in 50 or more columns the regularisation, 1e-6, is all the variance of many directions, and sums
        // of squared bytes are rounded to about as much.
        let deficient = if train.view().columns() > 12 {
            1e-2
        } else {
            1e-6
        };
        for (i, name, detector, tolerance) in [
            (1, "OCSVM", Kind::Ocsvm, 1e-3),
            (2, "KDE", Kind::Kde, 1e-6),
            (3, "GMM", Kind::Gmm, deficient),
            (4, "PCA", Kind::Pca, 1e-6),
        ] {
            // On the others the training rows leave 30 or more directions without variance: scores are rounding noise.
            if detector == Kind::Pca && kind != "stats" {
                continue;
            }
            let mut got = scores(detector.netml_settings(), &train, &test, 42);
            if detector == Kind::Ocsvm {
                let Settings::Ocsvm(s) = detector.netml_settings() else {
                    unreachable!()
                };
                let rho = ocsvm::OneClassSvm::fit(&s, train.view()).unwrap().rho();
                got.iter_mut().for_each(|g| *g -= rho);
            }
            for (row, (g, w)) in got.iter().zip(column(i)).enumerate() {
                let close = (g - w).abs() <= tolerance * w.abs();
                assert!(close, "{kind} {name} row {row}: {g}, not {w}");
            }
            let netml = facts["auc"][name].as_f64().unwrap();
            println!("{kind:10} {name:9} {:.3}  {netml:.3}", area(&got));
            assert!(
                (area(&got) - netml).abs() < 1e-9,
                "{kind} {name}: {}",
                area(&got)
            );
        }

        // Trees are drawn. netml's one forest has the sign wrong, and its seed, 42, is an unlucky one on STATS: 0.700. Mean area
        // of scikit-learn 1.5 with netml's settings and seeds 0 to 9 (deviation of one forest 0.018 to 0.028):
        let netml = match kind {
            "iat" => 0.600,
            "stats" => 0.776,
            "size" => 0.588,
            "samp_num" => 0.531,
            _ => 0.533,
        };
        let areas: Vec<f64> = (0..20)
            .map(|seed| {
                area(&scores(
                    Kind::IsolationForest.settings(),
                    &train,
                    &test,
                    seed,
                ))
            })
            .collect();
        let mean = areas.iter().sum::<f64>() / 20.0;
        let deviation = (areas.iter().map(|a| (a - mean) * (a - mean)).sum::<f64>() / 20.0).sqrt();
        println!("{kind:10} IF        {mean:.3} (sd {deviation:.3})  {netml:.3}");
        assert!((mean - netml).abs() < 0.04, "{kind} IF: {mean}");
    }
}
