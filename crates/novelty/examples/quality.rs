//! Which detector, scaling and features find attacks best, trained on benign traffic only.
//!
//! `cargo run --release -p chaff-novelty --example quality -- DATA [seeds] [--captures FOLDER] [--only DETECTOR] [--features NAME]`
//!
//! DATA has one folder per device with its captures; a share of each device's captures is held out. Attacks are made by
//! `attacks.rs`, or read from FOLDER (every capture there is one attack). For each cell: the mean over the attacks of the
//! area under the curve against the held-out benign rows (macro), and the area over all attack rows together (pooled).
#![allow(clippy::unwrap_used, reason = "an example")]

mod attacks;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_flow::features::{Kind as Features, Shape, native, netml};
use chaff_novelty::{Kind, Matrix, Scaler, Scaling, roc_auc};
use chaff_trace::Reader;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

const TRAIN: usize = 4000;
const BENIGN: usize = 3000;
const PER_ATTACK: usize = 300;

type Frames = Vec<(Link, Nanos, usize, Vec<u8>)>;
type Rows = Vec<Vec<f64>>;
/// Detector and scaling; macro and pooled area of each seed; areas of the attacks of each seed.
type Cell = (String, Vec<[f64; 2]>, Vec<Vec<f64>>);

fn read(path: &Path) -> Frames {
    let mut reader = Reader::new(BufReader::new(File::open(path).unwrap())).unwrap();
    let mut out = Vec::new();
    while let Ok(Some((frame, bytes))) = reader.next_borrowed() {
        out.push((frame.link, frame.at, frame.wire_len, bytes.to_vec()));
    }
    out
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Netml,
    Native(native::Settings),
}

fn rows(how: How, frames: &Frames) -> Rows {
    match how {
        How::Netml => {
            let mut table = netml::Table::new(netml::Config::default());
            for (link, at, _, bytes) in frames {
                table.observe(*link, *at, bytes).unwrap();
            }
            let Ok(flows) = table.finish() else {
                return Vec::new();
            };
            let shape = Shape {
                base: 2,
                ..flows.shape(Features::Stats, false, false).unwrap()
            };
            let matrix = flows.matrix(&shape).unwrap();
            (0..matrix.rows()).map(|i| matrix.row(i).to_vec()).collect()
        }
        How::Native(settings) => {
            let mut meter = native::Meter::new(settings, native::Limits::default()).unwrap();
            for (link, at, wire, bytes) in frames {
                if let Ok(packet) = chaff_flow::parse(*link, bytes, *wire) {
                    meter.observe(*at, &packet);
                }
            }
            meter.finish();
            std::iter::from_fn(|| meter.poll())
                .map(|r| r.values)
                .collect()
        }
    }
}

fn pick(rows: Rows, most: usize, rng: &mut dyn RngCore) -> Rows {
    let mut rows = rows;
    for i in 0..rows.len().min(most) {
        let j = i + (rng.next_u64() % (rows.len() - i) as u64) as usize;
        rows.swap(i, j);
    }
    rows.truncate(most);
    rows
}

fn matrix(rows: &Rows) -> Matrix {
    Matrix::new(rows[0].len(), rows.concat()).unwrap()
}

fn captures(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "pcap" || e == "pcapng"))
        .collect();
    files.sort();
    files
}

fn main() {
    let mut args = std::env::args().skip(1);
    let data = PathBuf::from(args.next().expect("a folder of captures"));
    let (mut seeds, mut folder, mut only, mut features) = (5, None, None, None);
    while let Some(a) = args.next() {
        match a.as_str() {
            "--captures" => folder = args.next().map(PathBuf::from),
            "--only" => only = args.next(),
            "--features" => features = args.next(),
            n => seeds = n.parse().unwrap(),
        }
    }
    let mut devices: Vec<Vec<Frames>> = Vec::new();
    let mut folders: Vec<PathBuf> = fs::read_dir(&data)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    folders.sort();
    for f in folders.iter().filter(|f| f.is_dir()) {
        devices.push(captures(f).iter().map(|p| read(p)).collect());
    }
    let plain = native::Settings {
        around: false,
        ..native::Settings::default()
    };
    let representations = [
        ("netml stats", How::Netml),
        ("native stats", How::Native(plain)),
        (
            "native stats+around",
            How::Native(native::Settings::default()),
        ),
    ];
    for (label, how) in representations {
        if features.as_ref().is_some_and(|f| f != label) {
            continue;
        }
        let benign: Vec<Vec<Rows>> = devices
            .iter()
            .map(|d| d.iter().map(|f| rows(how, f)).collect())
            .collect();
        let mut results: Vec<Cell> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for seed in 0..seeds {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut train, mut test) = (Rows::new(), Rows::new());
            for device in &benign {
                for capture in device {
                    let held = rng.next_u64() % 10 < 3;
                    if held { &mut test } else { &mut train }.extend(capture.iter().cloned());
                }
            }
            let train = pick(train, TRAIN, &mut rng);
            let test = pick(test, BENIGN, &mut rng);
            let attacks: Vec<(String, Frames)> = match &folder {
                Some(folder) => captures(folder)
                    .iter()
                    .map(|p| {
                        (
                            p.file_stem().unwrap().to_string_lossy().into_owned(),
                            read(p),
                        )
                    })
                    .collect(),
                None => attacks::NAMES
                    .iter()
                    .map(|n| {
                        let frames = attacks::make(n, &mut rng).into_iter();
                        let frames = frames.map(|(at, b)| (Link::Ethernet, Nanos(at), b.len(), b));
                        ((*n).to_owned(), frames.collect())
                    })
                    .collect(),
            };
            let attacks: Vec<(String, Rows)> = attacks
                .into_iter()
                .map(|(n, f)| (n, pick(rows(how, &f), PER_ATTACK, &mut rng)))
                .filter(|(_, r)| !r.is_empty())
                .collect();
            names = attacks.iter().map(|(n, _)| n.clone()).collect();
            if seed == 0 {
                let counts: Vec<String> = attacks
                    .iter()
                    .map(|(n, r)| format!("{n} {}", r.len()))
                    .collect();
                println!(
                    "{label}: {} train, {} test rows; {}",
                    train.len(),
                    test.len(),
                    counts.join(", ")
                );
            }
            let train = matrix(&train);
            let mut all = test.clone();
            for (_, r) in &attacks {
                all.extend(r.iter().cloned());
            }
            let all = matrix(&all);
            for scaling in Scaling::ALL {
                let scaler = Scaler::fit(scaling, train.view()).unwrap();
                let (train, all) = (scaler.apply(train.view()), scaler.apply(all.view()));
                for kind in Kind::ALL {
                    let cell = format!("{:7} {scaling}", kind.name());
                    if only.as_ref().is_some_and(|o| o != kind.name()) {
                        continue;
                    }
                    let Ok(detector) = kind.settings().fit(train.view(), &mut rng) else {
                        continue;
                    };
                    let mut scores = vec![0.0; all.view().rows()];
                    detector.score(all.view(), &mut scores);
                    scores
                        .iter_mut()
                        .filter(|s| s.is_nan())
                        .for_each(|s| *s = f64::INFINITY);
                    let (known, mut rest) = scores.split_at(test.len());
                    let mut areas = Vec::new();
                    for (_, r) in &attacks {
                        let (mine, others) = rest.split_at(r.len());
                        rest = others;
                        let both = [known, mine].concat();
                        let labels: Vec<bool> = (0..both.len()).map(|i| i >= known.len()).collect();
                        areas.push(roc_auc(&both, &labels).unwrap());
                    }
                    let macro_area = areas.iter().sum::<f64>() / areas.len() as f64;
                    let weight: f64 = attacks.iter().map(|(_, r)| r.len() as f64).sum();
                    let pooled = areas
                        .iter()
                        .zip(&attacks)
                        .map(|(a, (_, r))| a * r.len() as f64 / weight)
                        .sum();
                    match results.iter_mut().find(|r| r.0 == cell) {
                        Some(r) => {
                            r.1.push([macro_area, pooled]);
                            r.2.push(areas);
                        }
                        None => results.push((cell, vec![[macro_area, pooled]], vec![areas])),
                    }
                }
            }
        }
        results.sort_by(|a, b| mean(&b.1, 0).total_cmp(&mean(&a.1, 0)));
        println!("| {label} | macro | pooled | {} |", names.join(" | "));
        println!("| --- | --- | --- |{}", " --- |".repeat(names.len()));
        for (cell, areas, each) in &results {
            let n = each.len() as f64;
            let parts: Vec<String> = (0..names.len())
                .map(|i| format!("{:.2}", each.iter().map(|e| e[i]).sum::<f64>() / n))
                .collect();
            println!(
                "| {cell} | {:.3} | {:.3} | {} |",
                mean(areas, 0),
                mean(areas, 1),
                parts.join(" | ")
            );
        }
    }
}

fn mean(areas: &[[f64; 2]], which: usize) -> f64 {
    areas.iter().map(|a| a[which]).sum::<f64>() / areas.len().max(1) as f64
}
