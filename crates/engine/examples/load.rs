//! What the live alerts cost: CPU and memory of a gateway with and without them, in virtual time, under more than a home does.
//!
//! `cargo run --release -p chaff-engine --example load -- [SECONDS] [FLOWS_A_SECOND] [OPEN_FLOWS] [on|off]`, by default 20, 10,000 and
//! 10,000. 30 devices begin so many flows a second, and so many are held. Each device first learns for 5 s; from then on every other flow
//! goes to an address and a port that were never there before, so that every bounded list fills. Prints CPU of this thread
//! and resident memory without and with alerts: their cost is the difference. Memory is right in a run of one of both only.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "an example")]

use std::fs;

use chaff_abi::{Counters, FlowKey, FlowValue, Mac, Nanos, Sample};
use chaff_engine::{AlertConfig, Config, Device, Event, Gateway, Parts, Source};
use chaff_flow::TableConfig;

const DEVICES: u64 = 30;
const LEARN: u64 = 5;

/// CPU seconds of this thread.
fn cpu() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace()
        .next()
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1e9
}

/// Resident memory, bytes.
fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024.0
}

fn device(i: u64) -> Device {
    Device {
        label: format!("device-{i}"),
        mac: Some(Mac([2, 0, 0, 0, 0, i as u8])),
        ip: Vec::new(),
        cover: false,
    }
}

/// Flow `n` of a device: while it learns one of few servers, later every other flow a place that nobody called before.
fn key(device: u64, n: u64, is_learning: bool) -> FlowKey {
    let place = if is_learning || n.is_multiple_of(2) {
        n % 16
    } else {
        n
    };
    let [.., a, b, c] = place.to_be_bytes();
    FlowKey {
        src: FlowKey::mapped([10, 0, 0, device as u8]),
        dst: FlowKey::mapped([203, a, b, c & 0x7f]),
        src_port: (1_024 + (n % 60_000) as u16).to_be_bytes(),
        dst_port: (if place < 16 {
            443
        } else {
            1 + (n % 30_000) as u16
        })
        .to_be_bytes(),
        protocol: 6,
        version: 4,
        ..FlowKey::default()
    }
}

fn value(device: u64, at: Nanos) -> FlowValue {
    let mut counters = [Counters::EMPTY; 2];
    for (i, way) in counters.iter_mut().enumerate() {
        let bytes = 60 + 1_000 * u32::from(i == 1);
        let sample = Sample {
            wire: bytes + 14,
            bytes,
            payload: bytes - 40,
            segments: 1,
            // SYN, and SYN with ACK.
            tcp_flags: 2 + 16 * i as u16,
        };
        way.add(at + Nanos::from_micros(i as u64), sample);
    }
    FlowValue {
        counters,
        device: device as u32,
        ..FlowValue::EMPTY
    }
}

fn run(alerts: bool, seconds: u64, rate: u64, open: u64) {
    let before = resident();
    let config = Config {
        devices: (1..=DEVICES).map(device).collect(),
        source: Source::Kernel,
        alerts: alerts.then(|| AlertConfig {
            learn: Nanos::from_secs(LEARN),
            ..AlertConfig::default()
        }),
        slot_events: false,
        flow: TableConfig {
            max_flows: open as usize,
            ..TableConfig::default()
        },
        ..Config::default()
    };
    let mut gateway = Gateway::new(config, Parts::default(), [1; 32], Nanos::ZERO).unwrap();
    let (mut told, mut ended, mut busiest) = (0, 0, 0.0f64);
    let mut most_open = 0;
    let began = cpu();
    for second in 0..seconds {
        let start = cpu();
        for i in 0..rate {
            let at = Nanos::from_secs(second) + Nanos(i * 1_000_000_000 / rate);
            let (unit, n) = (1 + i % DEVICES, (second * rate + i) / DEVICES);
            let key = key(unit, n, second < LEARN);
            gateway.handle_counters(at, key, &value(unit, at));
            most_open = most_open.max(gateway.open_flows());
            while let Some(event) = gateway.poll_event() {
                match event {
                    Event::Alert(_) => told += 1,
                    Event::Flow(_) => ended += 1,
                    _ => {}
                }
            }
        }
        gateway.handle_timeout(Nanos::from_secs(second + 1));
        busiest = busiest.max(cpu() - start);
    }
    let used = cpu() - began;
    let report = gateway.report();
    println!(
        "alerts {}: {:.4} CPU s a second (busiest {busiest:.4}), {:.1} MiB more resident, at most {most_open} flows open, \
         {ended} ended, {told} alerts, {} suppressed, {} changes skipped, history {} KiB",
        if alerts { "on" } else { "off" },
        used / seconds as f64,
        (resident() - before) / f64::from(1 << 20),
        report.alerts_suppressed,
        report.changes_skipped,
        gateway.history().len() / 1_024,
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, other: u64| words.get(i).map_or(other, |w| w.parse().unwrap());
    let (seconds, rate, open) = (number(0, 20), number(1, 10_000), number(2, 10_000));
    let only = words.get(3).map(String::as_str);
    for (name, alerts) in [("off", false), ("on", true)] {
        if only.is_none_or(|o| o == name) {
            run(alerts, seconds, rate, open);
        }
    }
}
