//! The tables, as text and as JSON.

use std::fs;

use serde_json::{Value, json};

use super::contender::{Contender, median};
use super::ratios::{Of, RATIOS};
use crate::bench::short;

/// Says whether NFStream's profile made NFStream's bytes, where nothing of nDPI is in them.
pub(super) fn same_values(contenders: &[Contender]) {
    let find = |name: &str| {
        contenders
            .iter()
            .find(|c| c.name == name && !c.runs.is_empty())
    };
    for (ours, peer) in [("nfstream", "NFStream"), ("nfstream-splt", "NFStream-splt")] {
        let (Some(a), Some(b)) = (find(ours), find(peer)) else {
            continue;
        };
        let verdict = match (fs::read(&a.output), fs::read(&b.output)) {
            (Ok(a), Ok(b)) if a == b => "the same bytes".to_owned(),
            (Ok(a), Ok(b)) => {
                let at = a.iter().zip(&b).take_while(|(a, b)| a == b);
                let line = at.filter(|(a, _)| **a == b'\n').count() + 1;
                format!("DIFFERENT from line {line} on")
            }
            (Err(e), _) | (_, Err(e)) => e.to_string(),
        };
        eprintln!("output of {ours} and of {peer}: {verdict}");
    }
}

pub(super) fn table(contenders: &[Contender], packets: u64) {
    println!(
        "| contender | CPU s | packets per CPU second | wall s | peak MiB | packets | flows | output bytes |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let shown = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    for c in contenders {
        let wall = median(c.runs.iter().map(|r| r.wall_s));
        match (c.cpu(), c.peak(), wall, &c.missing) {
            (Some(cpu), Some(peak), Some(wall), None) => println!(
                "| {} | {cpu:.2} | {:.0} | {wall:.2} | {:.1} | {} | {} | {} |",
                c.name,
                packets as f64 / cpu,
                peak / 1_048_576.0,
                shown(c.made.packets),
                shown(c.made.flows),
                shown(c.made.bytes)
            ),
            (_, _, _, missing) => {
                println!(
                    "| {} | not measured: {} |",
                    c.name,
                    missing.as_deref().unwrap_or("no run")
                );
            }
        }
    }
    println!();
}

/// Prints the ratios; gives the number of missed bars. One without its peer is no miss and says so.
pub(super) fn bars(contenders: &[Contender]) -> u32 {
    let mut missed = 0;
    let has = |name: &str| contenders.iter().any(|c| c.name == name);
    for ratio in RATIOS.iter().filter(|r| has(r.ours) && has(r.peer)) {
        let Some(value) = ratio.value(contenders) else {
            println!(
                "| {} | not measured | | `cargo xtask bench offline` |",
                ratio.what
            );
            missed += u32::from(
                contenders
                    .iter()
                    .any(|c| c.name == ratio.ours && c.missing.is_some()),
            );
            continue;
        };
        let met = ratio.is_met(value);
        missed += u32::from(!met);
        let verdict = if met { "" } else { " (missed)" };
        let bar = match (ratio.bar, ratio.of) {
            (None, _) => "-".to_owned(),
            (Some(bar), Of::Speed | Of::SpeedBeyondStart) => format!("≥ {}", short(bar)),
            (Some(bar), _) => format!("≤ {}", short(bar)),
        };
        println!(
            "| {} | {}{verdict} | {bar} | `cargo xtask bench offline` |",
            ratio.what,
            short(value)
        );
    }
    missed
}

pub(super) fn as_json(contenders: &[Contender], packets: u64) -> (Value, u32) {
    let rows: Vec<Value> = contenders
        .iter()
        .map(|c| {
            json!({
                "name": c.name, "command": c.command, "missing": c.missing, "made": c.made,
                "cpu_s": c.cpu(), "peak_bytes": c.peak(), "wall_s": median(c.runs.iter().map(|r| r.wall_s)),
                "packets_per_cpu_s": c.cpu().map(|cpu| packets as f64 / cpu), "runs": c.runs,
            })
        })
        .collect();
    let mut missed = 0;
    let ratios: Vec<Value> = RATIOS
        .iter()
        .map(|r| {
            let value = r.value(contenders);
            let met = value.map(|v| r.is_met(v));
            missed += u32::from(met == Some(false));
            json!({"what": r.what, "ours": r.ours, "peer": r.peer, "ratio": value, "bar": r.bar, "met": met})
        })
        .collect();
    let value = json!({
        "version": 1, "bench": "offline", "packets": packets, "contenders": rows, "ratios": ratios,
    });
    (value, missed)
}
