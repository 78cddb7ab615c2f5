//! Fit and score against scikit-learn and pyod, side by side, in CPU seconds of one thread.
//!
//! `cargo run --release -p chaff-novelty --example bench -- PYTHON [rounds] [rows] [columns]`
//!
//! PYTHON is an interpreter that has scikit-learn and pyod. Rounds alternate between the two; medians are printed, and
//! the ratio says how many times less CPU time is used here.
#![allow(clippy::unwrap_used, reason = "an example")]

use std::fs;
use std::process::Command;

use chaff_novelty::{Kind, Matrix, Settings, gmm};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

const KINDS: [Kind; 6] = [
    Kind::Ocsvm,
    Kind::Kde,
    Kind::Gmm,
    Kind::Pca,
    Kind::IsolationForest,
    Kind::Knn,
];

/// CPU time of this thread, seconds.
fn cpu() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// CPU seconds of one run; short ones are repeated, since the kernel adds up a thread's time in ticks only.
fn time(mut what: impl FnMut()) -> f64 {
    let (begin, mut runs) = (cpu(), 0);
    loop {
        what();
        runs += 1;
        let used = cpu() - begin;
        if used > 0.2 {
            return used / f64::from(runs);
        }
    }
}

fn settings(kind: Kind) -> Settings {
    match kind {
        // As many components, rounds at most and starts as there.
        Kind::Gmm => Settings::Gmm(gmm::Settings {
            starts: 1,
            ..gmm::Settings::default()
        }),
        other => other.netml_settings(),
    }
}

/// Eight clusters of correlated columns.
fn matrix(rows: usize, columns: usize, rng: &mut dyn RngCore) -> Matrix {
    let mut unit = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        let common = unit() + unit() + unit() - 1.5;
        for column in 0..columns {
            let centre = ((row % 8 * 31 + column * 17) % 13) as f64 - 6.0;
            values.push(centre + common + unit() + unit() - 1.0);
        }
    }
    Matrix::new(columns, values).unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let python = args.first().expect("a Python interpreter");
    let number = |i: usize, default| args.get(i).map_or(default, |a| a.parse().unwrap());
    let (rounds, rows, columns) = (number(1, 5), number(2, 4000), number(3, 20));
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (train, test) = (
        matrix(rows, columns, &mut rng),
        matrix(rows, columns, &mut rng),
    );
    let folder = std::env::temp_dir().join(format!("chaff-novelty-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (name, m) in [("train", &train), ("test", &test)] {
        let bytes: Vec<u8> = m
            .view()
            .values()
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        fs::write(folder.join(name), bytes).unwrap();
    }
    let mut times = vec![[const { Vec::new() }; 4]; KINDS.len()];
    for _ in 0..rounds {
        for (kind, times) in KINDS.iter().zip(&mut times) {
            let mut fitted = None;
            times[0].push(time(|| {
                fitted = settings(*kind).fit(train.view(), &mut rng).ok()
            }));
            let detector = fitted.unwrap();
            let mut scores = vec![0.0; rows];
            times[1].push(time(|| detector.score(test.view(), &mut scores)));
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bench.py");
        let output = Command::new(python)
            .arg(script)
            .args([folder.join("train"), folder.join("test")])
            .arg(columns.to_string())
            .env("OMP_NUM_THREADS", "1")
            .env("OPENBLAS_NUM_THREADS", "1")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let theirs: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for (kind, times) in KINDS.iter().zip(&mut times) {
            for i in 0..2 {
                times[2 + i].push(theirs[kind.name()][i].as_f64().unwrap());
            }
        }
    }
    fs::remove_dir_all(&folder).unwrap();
    println!("{rows} x {columns}, CPU seconds, median of {rounds} alternating rounds");
    println!("| detector | fit | theirs | ratio | score | theirs | ratio |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (kind, times) in KINDS.iter().zip(times) {
        let [fit, score, their_fit, their_score] = times.map(median);
        println!(
            "| {} | {fit:.4} | {their_fit:.4} | {:.1} | {score:.4} | {their_score:.4} | {:.1} |",
            kind.name(),
            their_fit / fit.max(1e-9),
            their_score / score.max(1e-9)
        );
    }
}
