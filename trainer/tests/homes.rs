//! Whole homes: what is the same for all defences, and what is told.

use chaff_abi::{Dir, Nanos};
use chaff_cover::EnvelopeConfig;
use chaff_trainer::defend::{Defence, EnvelopeOptions};
use chaff_trainer::homes::{HomeOptions, HomeScore, homes};
use chaff_trainer::traces::{Seen, Trace};

/// Four sessions of each of three labels, that differ by sizes.
fn traces() -> Vec<Trace> {
    let mut out = Vec::new();
    for (label, size) in [("cam", 1300), ("lock", 90), ("plug", 400)] {
        for session in 0..4u64 {
            let packet = |i: u64| Seen {
                at: Nanos::from_millis(i * (450 + 30 * session)),
                dir: if i.is_multiple_of(3) {
                    Dir::In
                } else {
                    Dir::Out
                },
                size: size + (i % 7) as u32,
                payload: size - 40,
                udp: false,
                dummy: false,
            };
            out.push(Trace {
                label: label.into(),
                device: label.into(),
                session: format!("s{session}"),
                begins: None,
                packets: (0..200).map(packet).collect(),
            });
        }
    }
    out
}

#[test]
fn defences_are_compared_on_the_same_homes_and_twice_the_same() {
    let envelope = EnvelopeOptions {
        config: EnvelopeConfig::home(),
        ..EnvelopeOptions::default()
    };
    let defences = [
        ("none".to_owned(), Defence::None),
        ("home".to_owned(), Defence::Envelope(Box::new(envelope))),
    ];
    let options = HomeOptions {
        devices: 1,
        homes: [12, 6],
        length: Nanos::from_secs(300),
        pause: Nanos::from_secs(30),
        trees: 10,
    };
    let run = || {
        let mut ticks = 0;
        let found = homes(&traces(), &defences, &[1, 2, 3], &options, &mut || {
            ticks += 1
        });
        assert_eq!(ticks, 6);
        found.expect("runs")
    };
    let found = run();
    let json = |found: &[HomeScore]| serde_json::to_string(found).expect("JSON");
    assert_eq!(json(&found), json(&run()));
    let [none, home] = &found[..] else {
        panic!("two defences")
    };
    let real = |s: &HomeScore| {
        s.seeds
            .iter()
            .map(|s| s.real_bytes_per_second)
            .collect::<Vec<_>>()
    };
    assert_eq!(real(none), real(home));
    assert_eq!(
        none.seeds.iter().map(|s| s.seed).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(
        (none.bytes_per_second.mean, none.delay_p99_ms.mean),
        (0.0, 0.0)
    );
    assert!(home.bytes_per_second.mean > 0.0);
    assert!(
        (2.0..5.0).contains(&home.delay_p99_ms.mean),
        "{:?}",
        home.delay_p99_ms
    );
    // Sizes tell the only device there is.
    assert!(
        none.whole_present_auc.mean > 0.95,
        "{:?}",
        none.whole_present_auc
    );
    assert_eq!(none.top_hits.mean, 1.0);
    let labels: Vec<&str> = home.devices.iter().map(|d| d.label.as_str()).collect();
    assert_eq!(labels, ["cam", "lock", "plug"]);
    assert!(none.devices.iter().all(|d| d.whole_present_auc > 0.9));
}

#[test]
fn a_defence_that_fails_is_told() {
    let missing = Defence::Ipet {
        vectors: std::collections::BTreeMap::new(),
    };
    let options = HomeOptions {
        devices: 2,
        homes: [2, 2],
        ..HomeOptions::default()
    };
    let defences = [("ipet".to_owned(), missing)];
    let e = homes(&traces(), &defences, &[1, 2, 3], &options, &mut || ());
    assert!(e.expect_err("no generator").to_string().contains("home"));
    let many = HomeOptions {
        devices: 4,
        ..options
    };
    let e = homes(&traces(), &defences, &[1], &many, &mut || ()).expect_err("three labels");
    assert!(e.to_string().contains("found 3"), "{e}");
}
