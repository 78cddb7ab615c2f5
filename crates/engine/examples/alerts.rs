//! What the alerts say of one device's captures: `alerts MAC LEARN_SECONDS CAPTURE...`. Captures come one after the other, a
//! later one that begins before the end of the earlier 30 s behind it.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "an example")]

use std::error::Error;
use std::fs::File;

use chaff_abi::{Dir, Mac, Nanos};
use chaff_engine::{AlertConfig, Config, Device, Event, Gateway, Parts};
use chaff_trace::Reader;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mac: Mac = args.next().ok_or("MAC address")?.parse()?;
    let learn: f64 = args.next().ok_or("learning time")?.parse()?;
    let device = Device {
        label: "device".into(),
        mac: Some(mac),
        ip: Vec::new(),
        cover: false,
    };
    let mut alerts = AlertConfig {
        learn: Nanos::from_secs_f64(learn),
        ..AlertConfig::default()
    };
    if let Ok(t) = std::env::var("THRESHOLD") {
        alerts.threshold = t.parse()?;
    }
    let config = Config {
        devices: vec![device],
        alerts: Some(alerts),
        slot_events: false,
        ..Config::default()
    };
    let mut gateway = Gateway::new(config, Parts::default(), [1; 32], Nanos::ZERO)?;
    let (mut base, mut end) = (None, Nanos::ZERO);
    let (mut packets, mut found) = (0u64, 0u64);
    let mut say = |gateway: &mut Gateway| {
        while let Some(event) = gateway.poll_event() {
            if let Event::Alert(a) = event {
                found += 1;
                let day = a.at.0.as_secs_f64() / 86_400.0;
                println!(
                    "  day {day:.3} {:?} {:.1} {}",
                    a.severity, a.score, a.summary
                );
                for e in &a.evidence {
                    println!("      {e:?}");
                }
            }
        }
    };
    for path in args {
        let mut reader = Reader::new(File::open(&path)?)?;
        let mut bytes = Vec::new();
        let mut shift = None;
        while let Some(frame) = reader.next(&mut bytes)? {
            let first = *base.get_or_insert(frame.at);
            let at = frame.at.since(first);
            let wanted = *shift.get_or_insert_with(|| {
                if at <= end && end > Nanos::ZERO {
                    end.since(at) + Nanos::from_secs(30)
                } else {
                    Nanos::ZERO
                }
            });
            let at = at + wanted;
            if bytes.len() < 14 {
                continue;
            }
            let dir = if bytes[6..12] == mac.0 {
                Dir::Out
            } else {
                Dir::In
            };
            gateway.handle_timeout(at);
            gateway.handle_frame(at, dir, &bytes, frame.wire_len);
            packets += 1;
            end = end.max(at);
            if packets % 64 == 0 {
                say(&mut gateway);
            }
        }
    }
    gateway.finish(end);
    say(&mut gateway);
    let report = gateway.report();
    let stored = gateway.history();
    chaff_engine::check_history(&stored)?;
    println!(
        "{packets} packets, {:.2} days, {found} alerts, {} suppressed, profile {} bytes",
        end.as_secs_f64() / 86_400.0,
        report.alerts_suppressed,
        stored.len()
    );
    Ok(())
}
