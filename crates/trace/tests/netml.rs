//! Features of the shared captures against those that netml made, with the rules of the reference's comparison script.
//!
//! With `CHAFF_NETML_OUT` set, the candidate files are kept there.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use chaff_flow::features::netml::{Config, Labels};
use chaff_flow::features::{FeatureError, Kind, Profile};
use chaff_trace::Reader;
use chaff_trace::features::{self, Request, Table, TableError};

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

fn table(pcap: &Path, request: &Request, labels: Option<&Labels>) -> Result<Table, TableError> {
    let mut reader = Reader::new(BufReader::new(File::open(pcap).unwrap())).unwrap();
    features::extract(&mut reader, request, labels)
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
        let labels = (name == "demo-labelled")
            .then(|| Labels::parse(&text(&root.join("pcaps/demo.csv"))).unwrap());
        let listed = text(&folder.join("flows.csv"));

        for kind in Kind::ALL {
            for (fft, header) in [(false, false), (true, false), (false, true), (true, true)] {
                let variant = format!(
                    "{}{}{}",
                    kind.name().replace('-', "_"),
                    if fft { ".fft" } else { "" },
                    if header { ".header" } else { "" }
                );
                let request = Request::Netml {
                    config,
                    kind,
                    fft,
                    header,
                };
                let made = table(&pcap, &request, labels.as_ref());
                if meta["errors"].get(&variant).is_some() {
                    let refused = FeatureError::NoHeader { packets: 0 }.to_string();
                    let told = made.unwrap_err().to_string();
                    assert_eq!(told.split(", and").next(), refused.split(", and").next());
                    continue;
                }
                let made = made.unwrap();
                assert_eq!(made.flows.len() as u64, meta["subflows"], "{name}");
                let Profile::Netml {
                    config: used,
                    shape,
                } = made.profile
                else {
                    panic!("another profile")
                };
                let interval = meta["interval_s"].as_f64().unwrap();
                assert!((used.interval_s.unwrap() - interval).abs() < 1e-9);
                assert_eq!(shape.base as u64, meta["dim_base"], "{name}");
                assert_eq!(
                    shape.window_s,
                    meta["sampling_rate_s"].as_f64().unwrap(),
                    "{name}"
                );
                if labels.is_some() {
                    for (line, flow) in listed.lines().skip(1).zip(&made.flows) {
                        assert_eq!(flow.attack, Some(line.ends_with(",1")), "{line}");
                    }
                }
                let want = ["csv", "csv.gz"]
                    .map(|e| folder.join(format!("{variant}.{e}")))
                    .into_iter()
                    .find(|p| p.exists());
                let Some(want) = want else { continue };
                let mut got = Vec::new();
                features::write_csv(&mut got, &made.profile.names(), &made.flows).unwrap();
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
