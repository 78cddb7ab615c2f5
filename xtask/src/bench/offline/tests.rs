use std::path::PathBuf;

use super::contender::{Contender, Kind};
use super::programs::{nfstream, others, ours};
use super::ratios::{Of, RATIOS, ratio};
use super::*;
use crate::bench::measure::Used;

fn contender(name: &'static str, cpu: [f64; 3], peak: u64) -> Contender {
    let mut contender = Contender::new(name, Kind::Gateway, Vec::new(), PathBuf::new());
    contender.runs = cpu
        .map(|cpu_s| Used {
            cpu_s,
            peak_bytes: peak,
            ..Used::default()
        })
        .to_vec();
    contender
}

#[test]
fn ratios_are_of_medians_and_a_missing_peer_gives_none() {
    let all = [
        contender("a", [0.5, 9.0, 0.4], 10),
        contender("b", [20.0, 10.0, 15.0], 100),
    ];
    let speed = ratio("", "a", "b", Of::Speed, Some(30.0));
    assert_eq!(speed.value(&all), Some(30.0));
    assert!(speed.is_met(30.0) && !speed.is_met(29.9));
    let memory = ratio("", "a", "b", Of::Memory, Some(0.05));
    assert_eq!(memory.value(&all), Some(0.1));
    assert!(!memory.is_met(0.1));
    assert_eq!(ratio("", "a", "c", Of::Time, None).value(&all), None);
}

#[test]
fn every_ratio_names_contenders_that_there_are() {
    let folder = std::env::temp_dir();
    let options = Options {
        name: Vec::new(),
        rounds: 1,
        json: false,
        packets: 1,
        seed: 1,
        pcap: None,
        gateway: Some(PathBuf::from("gateway")),
        only: None,
        flows: 1,
        dpmon: None,
        netshare: None,
    };
    let mut names: Vec<_> = ours(&options, &folder, &folder).unwrap();
    let capture = root().join("tests/fixtures/demo.pcap");
    names.extend(nfstream(&folder, &capture, false).unwrap());
    names.extend(others(&folder, &folder));
    for ratio in RATIOS {
        for name in [ratio.ours, ratio.peer] {
            assert!(names.iter().any(|c| c.name == name), "{name}");
        }
    }
}
