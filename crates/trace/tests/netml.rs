//! Features of the shared captures against those that netml made, with the rules of the reference's comparison script.
//!
//! With `CHAFF_NETML_OUT` set, the candidate files are kept there.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use chaff_flow::features::netml::{Config, Flows, Labels, Table};
use chaff_flow::features::{FeatureError, Kind};
use chaff_trace::{Reader, features};

fn conformance() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here
        .ancestors()
        .map(|a| a.join("../shared/conformance/netml"))
        .find(|p| p.is_dir());
    if found.is_none() {
        eprintln!("skipped: needs ../shared/conformance/netml");
    }
    found
}

fn flows(pcap: &Path, config: Config) -> Flows {
    let mut reader = Reader::new(BufReader::new(File::open(pcap).unwrap())).unwrap();
    let mut table = Table::new(config);
    while let Some((frame, bytes)) = reader.next_borrowed().unwrap() {
        table.observe(frame.link, frame.at, bytes).unwrap();
    }
    table.finish().unwrap()
}

fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let mut text = String::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(&bytes[..])
            .read_to_string(&mut text)
            .unwrap();
    } else {
        text = String::from_utf8(bytes).unwrap();
    }
    text
}

struct Row {
    start: f64,
    values: Vec<f64>,
}

fn rows(text: &str) -> HashMap<Vec<String>, Vec<Row>> {
    let mut out: HashMap<Vec<String>, Vec<Row>> = HashMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let key = fields[..5].iter().map(|&f| f.to_owned()).collect();
        let number = |f: &&str| f.parse().unwrap();
        out.entry(key).or_default().push(Row {
            start: number(&fields[5]),
            values: fields[6..].iter().map(number).collect(),
        });
    }
    out
}

/// Differences beyond tolerance, in words.
fn compare(got: &str, want: &str, fft: bool, atol: f64) -> Vec<String> {
    const RTOL: f64 = 1e-6;
    let mut problems = Vec::new();
    let mut pool = rows(got);
    for (key, wanted) in rows(want) {
        for want in wanted {
            let candidates = pool.entry(key.clone()).or_default();
            let nearest = (0..candidates.len()).min_by(|&a, &b| {
                let far = |i: usize| (candidates[i].start - want.start).abs();
                far(a).total_cmp(&far(b))
            });
            let Some(got) = nearest
                .filter(|&i| (candidates[i].start - want.start).abs() <= 1e-6)
                .map(|i| candidates.swap_remove(i))
            else {
                problems.push(format!("missing {key:?} {}", want.start));
                continue;
            };
            if got.values.len() != want.values.len() {
                problems.push(format!(
                    "{} columns, not {}",
                    got.values.len(),
                    want.values.len()
                ));
                continue;
            }
            let scale = if fft {
                want.values.iter().fold(0.0f64, |m, v| m.max(v.abs()))
            } else {
                0.0
            };
            for (i, (c, e)) in got.values.iter().zip(&want.values).enumerate() {
                if (c - e).abs() > atol + RTOL * c.abs().max(e.abs()).max(scale) {
                    problems.push(format!("{key:?} {} f{i}: {c}, not {e}", want.start));
                }
            }
        }
    }
    let extra: usize = pool.values().map(Vec::len).sum();
    if extra > 0 {
        problems.push(format!("{extra} flows too many"));
    }
    problems
}

#[test]
fn features_are_those_of_netml() {
    let Some(root) = conformance() else { return };
    let out = std::env::var_os("CHAFF_NETML_OUT").map(PathBuf::from);
    let mut compared = 0;
    for folder in fs::read_dir(root.join("expected")).unwrap() {
        let folder = folder.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        // Detectors are compared elsewhere; "literal" holds the lengths of netml's rebuilt packets.
        if name == "demo-detectors" || name == "demo-literal" {
            continue;
        }
        let meta: serde_json::Value =
            serde_json::from_str(&text(&folder.join("meta.json"))).unwrap();
        let config = Config {
            q_interval: meta["q_interval"].as_f64().unwrap(),
            min_packets: meta["flow_pkts_thres"].as_u64().unwrap() as usize,
            timeout_s: meta["tcp_timeout"].as_f64().unwrap(),
            ..Config::default()
        };
        let pcap = root.join("pcaps").join(meta["pcap"].as_str().unwrap());
        let mut made = flows(&pcap, config);
        assert_eq!(
            made.before_interval() as u64,
            meta["flows_before_interval_split"]
        );
        if name == "demo-labelled" {
            let labels = Labels::parse(&text(&root.join("pcaps/demo.csv"))).unwrap();
            let attacks = made.label(&labels);
            assert_eq!(attacks.iter().filter(|&&a| a).count(), 15);
            let listed = text(&folder.join("flows.csv"));
            for (line, attack) in listed.lines().skip(1).zip(attacks) {
                assert_eq!(line.ends_with(",1"), attack, "{line}");
            }
        }
        assert_eq!(made.flows().len() as u64, meta["subflows"], "{name}");
        assert!((made.interval_s() - meta["interval_s"].as_f64().unwrap()).abs() < 1e-9);
        let base = made.shape(Kind::Iat, false, false).unwrap();
        assert_eq!(base.base as u64, meta["dim_base"], "{name}");
        assert_eq!(
            base.window_s,
            meta["sampling_rate_s"].as_f64().unwrap(),
            "{name}"
        );

        for kind in Kind::ALL {
            for (fft, header) in [(false, false), (true, false), (false, true), (true, true)] {
                let variant = format!(
                    "{}{}{}",
                    kind.name().replace('-', "_"),
                    if fft { ".fft" } else { "" },
                    if header { ".header" } else { "" }
                );
                let shape = made.shape(kind, fft, header).unwrap();
                if meta["errors"].get(&variant).is_some() {
                    assert!(
                        matches!(made.matrix(&shape), Err(FeatureError::NoHeader { .. })),
                        "{name} {variant}"
                    );
                    continue;
                }
                let want = ["csv", "csv.gz"]
                    .map(|e| folder.join(format!("{variant}.{e}")))
                    .into_iter()
                    .find(|p| p.exists());
                let Some(want) = want else { continue };
                let matrix = made.matrix(&shape).unwrap();
                let mut got = Vec::new();
                features::write_netml(&mut got, made.flows(), &matrix).unwrap();
                if let Some(out) = &out {
                    fs::create_dir_all(out.join(&name)).unwrap();
                    fs::write(out.join(&name).join(format!("{variant}.csv")), &got).unwrap();
                }
                let got = String::from_utf8(got).unwrap();
                let problems = compare(&got, &text(&want), fft, 1e-9);
                assert!(
                    problems.is_empty(),
                    "{name} {variant}: {} differences, the first: {}",
                    problems.len(),
                    problems[0]
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 150, "only {compared} files were compared");
    eprintln!("{compared} feature files match");
}
