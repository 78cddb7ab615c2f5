//! Scores against those of scikit-learn and pyod. `golden.json` was made by `golden.py` on the matrix below.
#![allow(clippy::unwrap_used, reason = "a test")]

use chaff_novelty::{Kind, MatRef, Matrix, Settings, gmm, kde, neighbours, ocsvm, pca};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn row(i: u32) -> [f64; 4] {
    let cluster = if i.is_multiple_of(3) { 8.0 } else { 0.0 };
    [0, 1, 2, 3].map(|j| {
        let x = f64::from(j);
        (1.7 * f64::from(i) + 0.3 * x * x).sin() * (x + 1.0)
            + cluster
            + 0.01 * f64::from(i * (j + 3) % 17)
    })
}

fn train() -> Matrix {
    Matrix::new(4, (0..90).flat_map(row).collect()).unwrap()
}

fn test() -> Matrix {
    let values = (0..20).flat_map(|i| {
        let [a, b, c, d] = row(i + 1000);
        [a, b + 0.1 * f64::from(i), c, d - 0.2 * f64::from(i)]
    });
    Matrix::new(4, values.collect()).unwrap()
}

fn golden(name: &str) -> Vec<f64> {
    let all: serde_json::Value = serde_json::from_str(include_str!("golden.json")).unwrap();
    all[name]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

fn scores(settings: Settings, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let detector = settings.fit(train().view(), &mut rng).unwrap();
    let test = test();
    let mut out = vec![0.0; test.view().rows()];
    detector.score(test.view(), &mut out);
    out
}

fn assert_close(got: &[f64], want: &[f64], relative: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            (g - w).abs() <= relative * w.abs().max(1e-9),
            "row {i}: {g}, not {w}"
        );
    }
}

#[test]
fn support_vector_machine_is_that_of_scikit_learn() {
    let settings = ocsvm::Settings {
        nu: 0.3,
        ..ocsvm::Settings::default()
    };
    let machine = ocsvm::OneClassSvm::fit(&settings, train().view()).unwrap();
    let raw: Vec<f64> = scores(Settings::Ocsvm(settings), 0)
        .iter()
        .map(|s| s - machine.rho())
        .collect();
    assert_close(&raw, &golden("ocsvm"), 1e-6);
    let all: serde_json::Value = serde_json::from_str(include_str!("golden.json")).unwrap();
    assert!((machine.rho() - all["ocsvm_rho"].as_f64().unwrap()).abs() < 1e-6);
}

#[test]
fn density_is_that_of_scikit_learn() {
    let settings = Settings::Kde(kde::Settings {
        bandwidth: Some(0.7),
    });
    assert_close(&scores(settings, 0), &golden("kde"), 1e-10);
}

#[test]
fn mixture_is_that_of_scikit_learn() {
    let one = Settings::Gmm(gmm::Settings::NETML);
    assert_close(&scores(one, 0), &golden("gmm1"), 1e-9);
    let two = Settings::Gmm(gmm::Settings {
        components: 2,
        tolerance: 1e-9,
        rounds: 500,
        ..gmm::Settings::default()
    });
    assert_close(&scores(two, 1), &golden("gmm2"), 1e-4);
}

#[test]
fn components_are_those_of_pyod() {
    let settings = Settings::Pca(pca::Settings::NETML);
    assert_close(&scores(settings, 0), &golden("pca"), 1e-8);
}

#[test]
fn distances_are_those_of_scikit_learn() {
    let settings = Settings::Knn(neighbours::Settings::default());
    assert_close(&scores(settings, 0), &golden("knn"), 1e-12);
}

/// Trees are drawn, so the mean of 20 forests is compared with the mean of 20 of scikit-learn's.
#[test]
fn forest_agrees_with_scikit_learn_on_average() {
    let mut mean = vec![0.0; 20];
    for seed in 0..20 {
        let one = scores(Kind::IsolationForest.settings(), seed);
        mean.iter_mut().zip(one).for_each(|(m, s)| *m += s / 20.0);
    }
    let want = golden("if");
    for (g, w) in mean.iter().zip(&want) {
        assert!((g - w).abs() < 0.012, "{g}, not {w}");
    }
    assert!(correlation(&mean, &want) > 0.99);
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let cov: f64 = a.iter().zip(b).map(|(x, y)| (x - ma) * (y - mb)).sum();
    let va: f64 = a.iter().map(|x| (x - ma) * (x - ma)).sum();
    let vb: f64 = b.iter().map(|y| (y - mb) * (y - mb)).sum();
    cov / (va * vb).sqrt()
}

#[test]
fn a_view_of_nothing_scores_nothing() {
    for kind in Kind::ALL {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let detector = kind.settings().fit(train().view(), &mut rng).unwrap();
        detector.score(MatRef::new(4, &[]).unwrap(), &mut []);
    }
}
