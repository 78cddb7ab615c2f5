//! What `gateway run` does with its telemetry over a month of virtual time: the engine, the ledger and the state in real files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chaff_abi::{Nanos, SlotCounters};
use chaff_engine::{Config, Device, Gateway, Parts, Source};
use chaff_gateway::config::File;
use chaff_gateway::telemetry::{FileBook, write_prometheus};
use chaff_privacy::Entropy;
use chaff_privacy::telemetry::{Book, Published, Tier};
use chaff_test_support::folder_in_memory;

const DAY: Nanos = Nanos::from_secs(86_400);
const SLOT: Nanos = Nanos::from_secs(10);
/// 2026-11-01 00:00 UTC.
const START: Nanos = Nanos::from_secs(1_793_491_200);
const DEVICES: usize = 20;
/// What each device moves in a slot; a third of its bound in a day.
const BYTES: u64 = 100_000_000 / 3 / 8_640;

fn settings(more: &str) -> File {
    let text =
        format!("[telemetry]\nenabled = true\n{more}\n[telemetry.bounds]\nbytes = \"100MB\"\n");
    File::parse(&text, Path::new(".")).expect("a valid configuration")
}

/// One life of a gateway, from `begin` on.
struct Life {
    engine: Gateway,
    book: FileBook,
    begin: Nanos,
}

impl Life {
    fn new(file: &File, folder: &Path, begin: Nanos, seed: u64) -> Self {
        let terms = file.telemetry.terms().expect("valid");
        let ledger = folder.join(&file.telemetry.ledger);
        let state = folder.join(&file.telemetry.state);
        let book = FileBook::open(&ledger, state, terms.budget()).expect("opens");
        let device = |n: usize| Device {
            label: format!("device {n}"),
            mac: None,
            ip: vec![std::net::Ipv4Addr::new(192, 0, 2, n as u8 + 1).into()],
            cover: false,
        };
        let config = Config {
            devices: (0..DEVICES).map(device).collect(),
            source: Source::Kernel,
            slot: SLOT,
            alerts: None,
            slot_events: false,
            unix_offset: begin,
            ..Config::default()
        };
        let mut engine =
            Gateway::new(config, Parts::default(), [1; 32], Nanos::ZERO).expect("works");
        let stored = book.read().expect("reads");
        let releases = terms
            .releases(Entropy::Seed(seed), &stored, &book)
            .expect("works");
        engine.set_releases(releases);
        Self {
            engine,
            book,
            begin,
        }
    }

    /// Runs until a Unix time; gives what was released.
    fn run_until(&mut self, end: Nanos) -> Vec<Published> {
        let mut out = Vec::new();
        let mut counts = vec![SlotCounters::default(); DEVICES + 1];
        for device in &mut counts {
            device.bytes = [BYTES / 4, BYTES - BYTES / 4];
            device.packets = [3, 3];
            // Never counted.
            device.cover_packets = [1_000, 1_000];
            device.cover_bytes = [1 << 30, 1 << 30];
        }
        // Unlisted devices: not counted either.
        counts[0].bytes = [1 << 30, 1 << 30];
        let first = 0;
        let slots = (end - self.begin).0 / SLOT.0;
        for slot in first..slots {
            self.engine.handle_slot(SLOT.times(slot + 1), slot, &counts);
            while let Some(made) = self.engine.poll_release(&mut self.book) {
                out.extend(made.expect("is paid"));
            }
        }
        out
    }

    fn published(&self) -> Vec<Published> {
        let releases = self.engine.releases().expect("there is telemetry");
        releases.exporter().published().to_vec()
    }

    /// A clean stop, as `gateway run` makes it.
    fn stop(mut self) {
        let state = self
            .engine
            .releases()
            .expect("there is telemetry")
            .exporter()
            .to_state();
        self.book.store(&state).expect("stores");
    }
}

/// Sums over any 24 hours, read from the ledger's lines and not from its code.
fn check_budget(ledger: &Path) -> usize {
    let text = std::fs::read_to_string(ledger).expect("reads");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let purse = |key: &str| lines[0][key].as_f64().expect("a purse");
    for (key, purse) in [("epsilon", purse("day_epsilon")), ("rho", purse("day_rho"))] {
        let paid: Vec<(u64, f64)> = lines[1..]
            .iter()
            .filter_map(|e| Some((e["at_ns"].as_u64()?, e[key].as_f64()?)))
            .collect();
        for (end, _) in &paid {
            let inside = paid.iter().filter(|(at, _)| at <= end && at + DAY.0 > *end);
            let sum: f64 = inside.map(|(_, amount)| amount).sum();
            assert!(sum <= purse * (1.0 + 1e-12), "{key}: {sum} in 24 h");
        }
    }
    lines.len()
}

#[test]
fn a_month_with_restarts_stays_within_budget_and_prediction() {
    for (more, tolerance) in [
        ("metrics = [\"bytes\"]", 0.6),
        (
            "metrics = [\"bytes\"]\nsize = \"office\"\ncounters = true",
            0.3,
        ),
        (
            "metrics = [\"bytes\"]\nperiod = \"1h\"\ncap = \"window\"\ncounters = true",
            0.1,
        ),
    ] {
        let dir = folder_in_memory();
        let file = settings(more);
        let plan = *file.telemetry.terms().expect("valid").plan();
        let mut released = Vec::new();
        let mut life = Life::new(&file, dir.path(), START, 1);
        released.extend(life.run_until(START + Nanos::from_secs(9 * 86_400 + 40_000)));
        // A clean stop in the middle of a window; the next scrape sees the same numbers.
        let before = life.published();
        life.stop();
        let begin = START + Nanos::from_secs(9 * 86_400 + 40_010);
        let mut life = Life::new(&file, dir.path(), begin, 2);
        assert_eq!(life.published(), before);
        released.extend(life.run_until(START + DAY.times(20) + Nanos::from_secs(30_000)));
        // A kill: nothing is stored any more.
        let before = life.published();
        drop(life);
        let begin = START + DAY.times(20) + Nanos::from_secs(30_000);
        let mut life = Life::new(&file, dir.path(), begin, 3);
        assert_eq!(life.published(), before);
        released.extend(life.run_until(START + DAY.times(31) + SLOT));
        let prometheus = dir.path().join("telemetry.prom");
        for _ in 0..2 {
            write_prometheus(&prometheus, &life.published()).expect("writes");
        }
        let text = std::fs::read_to_string(&prometheus).expect("reads");
        assert_eq!(text.matches("\nchaff_window_bytes ").count(), 1, "{text}");
        drop(life);

        let mut seen = BTreeSet::new();
        let mut windows = BTreeMap::new();
        for p in &released {
            let key = (p.tier, p.from_s + p.period_s, p.value.label().to_owned());
            assert!(seen.insert(key), "noised twice: {p:?}");
            if p.tier == Tier::Totals {
                windows.insert(p.from_s, p);
            }
        }
        assert_eq!(windows.len() as u64, 31 * plan.windows());
        let per_window = (DEVICES as u64 * BYTES * 8_640) as f64 / plan.windows() as f64;
        // Windows with a restart are marked; the clean stop lost nothing, the kill what was not released.
        let partial = windows.values().filter(|p| p.is_partial).count();
        assert!((1..=2).contains(&partial), "{partial}");
        let errors: Vec<f64> = windows
            .values()
            .filter(|p| !p.is_partial)
            .map(|p| (p.value.value() - per_window) / per_window)
            .collect();
        let rms = (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt();
        // The prediction is for the number of devices that the size stands for.
        let predicted = plan.noise_sd() * 100e6 / per_window;
        println!(
            "{more:?}: {plan}; with {DEVICES} devices predicted {predicted:.3}, measured {rms:.3}"
        );
        assert!(
            (rms / predicted - 1.0).abs() < tolerance,
            "{rms} for {predicted}"
        );
        let lines = check_budget(&dir.path().join("ledger.jsonl"));
        println!("{lines} lines in the ledger");
        let counters: Vec<&Published> = released
            .iter()
            .filter(|p| p.tier == Tier::Counters)
            .collect();
        assert_eq!(!counters.is_empty(), file.telemetry.counters);
        assert!(
            counters
                .windows(2)
                .all(|w| w[0].value.value() <= w[1].value.value())
        );
        if let Some(last) = counters.last() {
            // All but what the kill lost: part of an hour.
            let exact = per_window * plan.windows() as f64 * 31.0;
            let off = (last.value.value() - exact).abs();
            assert!(off < 5.0 * last.value.scale() + exact / 400.0, "{off}");
        }
    }
}
