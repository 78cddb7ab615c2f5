//! The privacy claims: what is charged, what is kept, and that a broken account is found.

use chaff_privacy::{Entropy, Epsilon, Ledger, Tables, epsilon_of_rho, rho_of_epsilon};
use chaff_synth::{
    Capture, Engine, Measures, Model, Options, PcapOptions, PrivateOptions, Record, SynthError,
    Table, TableMethod, Unit, evaluate, fidelity, fit, fit_capture_private, fit_private,
    read_capture, write_pcap,
};

const DELTA: f64 = 1e-5;

fn tables(epsilon: f64, sensitivity: u32, seed: u64) -> Tables {
    let epsilon = Epsilon::new(epsilon).expect("it works");
    let mut ledger = Ledger::open(epsilon, DELTA, &[]).expect("it works");
    ledger.mark_stored();
    let grant = ledger
        .spend_approximate("test", epsilon, DELTA)
        .expect("it works")
        .stored();
    grant
        .into_tables(sensitivity, Entropy::Seed(seed))
        .expect("it works")
}

/// Web, name look-ups and pings of 40 hosts.
fn trace(n: u64) -> Table {
    let records = (0..n)
        .map(|i| {
            let (protocol, port, packets) = match i % 5 {
                0 => (17, 53, 1),
                1 => (1, 0, 4),
                _ => (6, 443, 5 + i % 30),
            };
            Record {
                start_us: 1_458_298_072_000_000 + i * 50_000,
                duration_us: if packets > 1 { 1000 * (i % 977) } else { 0 },
                packets,
                bytes: packets * (60 + i % 700),
                src: std::net::Ipv4Addr::new(192, 168, 1, (i * i % 40) as u8).into(),
                dst: std::net::Ipv4Addr::new(203, 0, 113, (i % 9) as u8).into(),
                src_port: if port == 0 {
                    0
                } else {
                    40_000 + (i * 7919 % 20_000) as u16
                },
                dst_port: port,
                protocol,
                label: (i % 5 == 0) as u32,
                ..Record::default()
            }
        })
        .collect();
    Table {
        records,
        labels: vec!["web".into(), "dns".into()],
        label_column: Some("type".into()),
        capture: false,
    }
}

fn private(unit: Unit) -> PrivateOptions {
    PrivateOptions {
        unit,
        labels: Some(vec!["web".into(), "dns".into()]),
        time_range_us: None,
        label_column: Some("type".into()),
    }
}

fn fitted(table: &Table, epsilon: f64, unit: Unit, seed: u64) -> Model {
    fit_private(
        table,
        &private(unit),
        &mut tables(epsilon, unit.most(), seed),
        None,
        (epsilon, DELTA),
    )
    .expect("it works")
}

#[test]
fn every_release_is_charged_and_the_sum_is_within_epsilon() {
    for unit in [Unit::Record, Unit::SourceHost { max_records: 8 }] {
        for n in [1, 30, 3000, 12_000] {
            let model = fitted(&trace(n), 2.0, unit, n);
            let privacy = model.info().privacy.clone().expect("it works");
            let spent: f64 = privacy.releases.iter().map(|r| r.rho).sum();
            assert!(epsilon_of_rho(spent, DELTA) <= 2.0);
            assert!(privacy.simulated && !privacy.public_assumptions.is_empty());
            let drawn = model.sample(321, 5).expect("it works");
            assert_eq!(
                (drawn.records.len(), &drawn),
                (321, &model.sample(321, 5).expect("it works"))
            );
            let again = Model::from_bytes(&model.to_bytes().expect("it works")).unwrap();
            assert_eq!(again.sample(321, 5).expect("it works"), drawn);
        }
    }
}

#[test]
fn no_address_of_the_input_comes_out() {
    let table = trace(4000);
    let model = fitted(&table, 8.0, Unit::Record, 1);
    let bytes = String::from_utf8_lossy(&model.to_bytes().expect("it works")).into_owned();
    assert!(!bytes.contains("192.168.1.") && !bytes.contains("203.0.113."));
    let drawn = model.sample(4000, 1).expect("it works");
    for r in &drawn.records {
        assert!(
            table
                .records
                .iter()
                .all(|t| t.src != r.src && t.dst != r.dst)
        );
    }
    assert!(fidelity(&table, &drawn).expect("it works").pair_tvd < 0.5);
}

#[test]
fn a_broken_account_is_found() {
    let mut privacy = fitted(&trace(500), 1.0, Unit::Record, 3)
        .info()
        .privacy
        .clone()
        .expect("it works");
    privacy.verify().expect("it works");
    let good = privacy.clone();
    // Noise that is smaller than what was paid for.
    privacy.releases[4].sigma /= 2.0;
    assert!(matches!(privacy.verify(), Err(SynthError::Model(_))));
    // A release that was forgotten in the claim: the same budget twice.
    privacy.clone_from(&good);
    privacy.releases.extend(good.releases.clone());
    assert!(privacy.verify().is_err());
    // A unit of more records than the noise hides.
    privacy.clone_from(&good);
    privacy.unit = Unit::SourceHost { max_records: 2 };
    assert!(privacy.verify().is_err());
    // A smaller ε than was spent.
    privacy.clone_from(&good);
    privacy.epsilon = 0.5;
    assert!(privacy.verify().is_err());
    // The noise must be for the unit that the model claims.
    let mut wrong = tables(1.0, 1, 1);
    let options = private(Unit::SourceHost { max_records: 8 });
    assert!(fit_private(&trace(50), &options, &mut wrong, None, (1.0, DELTA)).is_err());
    assert_eq!(wrong.charges().len(), 0);
}

/// The most that the log ratio of an event's frequency on two inputs exceeds ε, after δ, less six standard errors.
fn excess(with: &[i64], without: &[i64], epsilon: f64) -> f64 {
    let n = with.len() as f64;
    let mut worst = f64::NEG_INFINITY;
    for k in -60..60 {
        let p = with.iter().filter(|v| **v >= k).count() as f64;
        let q = without.iter().filter(|v| **v >= k).count() as f64;
        if p >= 300.0 && q >= 300.0 {
            let error = (1.0 / p + 1.0 / q).sqrt();
            worst = worst.max(((p - n * DELTA) / q).ln() - 6.0 * error - epsilon);
        }
    }
    worst
}

#[test]
fn an_audit_from_outside_tells_right_noise_from_too_little() {
    // A host with 6 records is added. Noise for 6 records hides it; noise for one record (the bug) does not.
    let rho = rho_of_epsilon(Epsilon::new(0.5).expect("it works"), DELTA);
    let draws = |sensitivity: u32, count: i64| -> Vec<i64> {
        let mut budget = tables(50_000.0, sensitivity, u64::from(sensitivity) + count as u64);
        (0..60_000)
            .map(|_| {
                let mut cell = [count];
                budget.release("audit", &mut cell, rho).expect("it works");
                cell[0]
            })
            .collect()
    };
    let right = excess(&draws(6, 6), &draws(6, 0), 0.5);
    assert!(right <= 0.0, "{right}");
    let broken = excess(&draws(1, 6), &draws(1, 0), 0.5);
    assert!(broken > 0.0, "{broken}");
}

#[test]
fn who_was_learned_from_cannot_be_told() {
    let table = trace(6000);
    let half = |odd: u64| {
        let rows = table.records.iter().zip(0u64..);
        Capture::of_table(Table {
            records: rows
                .filter(|(_, i)| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 2 == odd)
                .map(|(r, _)| *r)
                .collect(),
            ..table.clone()
        })
    };
    let (train, held) = (half(0), half(1));
    let options = Options {
        method: TableMethod::Sequence,
        fresh_addresses: true,
        seed: 1,
    };
    let free = fit(&train.table, &options).expect("it works");
    let private = fitted(&train.table, 2.0, Unit::Record, 1);
    let auc = |drawn: Table| {
        let drawn = Capture::of_table(drawn);
        let report = evaluate(&train, &drawn, Some(&held), &Measures::default());
        report
            .expect("it works")
            .privacy
            .holdout
            .expect("there is one")
            .membership_auc
    };
    for model in [free, private] {
        let found = auc(model.sample(3000, 2).expect("it works"));
        assert!((0.47..0.53).contains(&found), "{found}");
    }
    // A copy of the input is what it is taken for.
    let copied = auc(train.table.clone());
    assert!(copied > 0.9, "{copied}");
}

#[test]
fn packets_of_private_models_are_in_the_account() {
    let bytes = include_bytes!("../../../tests/fixtures/demo.pcap");
    let capture = read_capture(&bytes[..]).expect("it is a capture");
    for unit in [Unit::Record, Unit::SourceHost { max_records: 4 }] {
        let options = PrivateOptions {
            labels: None,
            // So few flows do not tell when they were.
            time_range_us: Some((1_795_000_000_000_000, 1_796_000_000_000_000)),
            ..private(unit)
        };
        let mut budget = tables(2.0, unit.most(), 3);
        let paid = (2.0, DELTA);
        let model =
            fit_capture_private(&capture, &options, &mut budget, None, paid).expect("it works");
        let privacy = model.info().privacy.clone().expect("it is private");
        let spent: f64 = privacy.releases.iter().map(|r| r.rho).sum();
        assert!(epsilon_of_rho(spent, DELTA) <= 2.0);
        let named = |n: &str| privacy.releases.iter().any(|r| r.name.starts_with(n));
        assert!(named("packet sizes") && named("gaps") && named("time to live"));
        let drawn = model.sample(60, 1).expect("it works");
        let mut out = Vec::new();
        let options = PcapOptions::default();
        write_pcap(&mut out, &drawn, Some(&model), &options).expect("it writes");
        let back = read_capture(&out[..]).expect("it is a capture");
        assert_eq!(
            back.packets() as u64,
            drawn.records.iter().map(|r| r.packets).sum::<u64>()
        );
        let again = Model::from_bytes(&model.to_bytes().expect("it works")).expect("it reads");
        assert_eq!(again.sample(60, 1).expect("it works"), drawn);
    }
}

#[test]
fn copies_stay_within_the_natural_range() {
    let table = trace(6000);
    let half = |odd: u64| Table {
        records: table
            .records
            .iter()
            .zip(0u64..)
            .filter(|(_, i)| i % 2 == odd)
            .map(|(r, _)| *r)
            .collect(),
        ..table.clone()
    };
    let (train, held) = (half(0), half(1));
    for fresh_addresses in [true, false] {
        let options = Options {
            method: TableMethod::Sequence,
            fresh_addresses,
            seed: 1,
        };
        let drawn = fit(&train, &options)
            .expect("it works")
            .sample(3000, 2)
            .unwrap();
        let seen = fidelity(&train, &drawn).expect("it works").copies;
        let unseen = fidelity(&held, &drawn).expect("it works").copies;
        let natural = fidelity(&train, &held).expect("it works").copies;
        // Drawn records meet the learned ones no more often than held-out records do, and no more than records they
        // have not seen by more than one in fifty.
        assert!(
            seen <= natural + 0.02 && seen <= unseen + 0.02,
            "{seen} {unseen} {natural}"
        );
    }
}

#[test]
fn the_time_of_a_few_hundred_flows_is_found() {
    // A tenth of a second in 136 years.
    let (first, records) = (1_600_000_000_000_000, 500);
    let short = |n: u64| Table {
        records: trace(n)
            .records
            .into_iter()
            .zip(0..)
            .map(|(r, i): (Record, u64)| Record {
                start_us: first + i * 200,
                packets: 1,
                bytes: 60,
                duration_us: 0,
                ..r
            })
            .collect(),
        labels: vec![String::new()],
        label_column: None,
        capture: true,
    };
    let private = PrivateOptions {
        unit: Unit::Record,
        labels: None,
        time_range_us: None,
        label_column: None,
    };
    let mut near = 0;
    for seed in 0..12 {
        let mut tables = tables(2.0, 1, seed);
        let model = fit_private(&short(records), &private, &mut tables, None, (2.0, DELTA));
        let drawn = model
            .expect("it works")
            .sample(300, seed)
            .expect("it works");
        let inside = |r: &&Record| (first - 100_000..first + 300_000).contains(&r.start_us);
        near += usize::from(drawn.records.iter().filter(inside).count() > 200);
    }
    assert!(near >= 8, "{near} of 12");
}
