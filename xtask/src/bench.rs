//! Benchmarks: ours and a peer, or a physical limit, side by side in interleaved rounds, as ratios against their bars.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::command::{Stop, require_root, shown};
use crate::{packages, root};

mod household;
mod measure;
mod offline;
mod query;
mod simulate;
mod synth;
mod tunnel;

pub use measure::Measured;
pub(crate) use measure::Used;

/// What `bench` takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Which: meter, tcx, injector, replay, offline, tunnel, tunnel-cover, query, simulate, synth [default: all].
    #[arg(value_name = "NAME", value_parser = ["meter", "tcx", "injector", "replay", "offline", "tunnel", "tunnel-cover", "query", "simulate", "synth"])]
    name: Vec<String>,
    /// Rounds that take turns; the median counts.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Prints the benchmarks' own JSON, one line each, instead of the table.
    #[arg(long)]
    json: bool,
    /// offline: packets of the capture that is made.
    #[arg(long, default_value_t = 1_500_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    packets: u64,
    /// offline: seed of the capture.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// query: flows of the log that is made.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    flows: u64,
    /// query: a folder with DPMon's package `dpmon` (github.com/marty90/DPMon); without it what DPMon does is done by its
    /// description.
    #[arg(long, value_name = "FOLDER")]
    dpmon: Option<PathBuf>,
    /// synth: a checkout of NetShare (github.com/netsharecmu/NetShare), whose torch code is run; without it a model of the
    /// same sizes and steps.
    #[arg(long, value_name = "FOLDER")]
    netshare: Option<PathBuf>,
    /// offline: reads this capture instead of making one.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// offline, simulate: measures this gateway instead of building one.
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
    /// offline, tunnel: measures only contenders whose names contain this, and the ratios that need no others.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.name.is_empty() || self.name.iter().any(|n| n == name)
    }
}

/// A number of a benchmark and what it should be.
struct Bar {
    what: &'static str,
    at: &'static str,
    /// `true`: at most; `false`: at least.
    at_most: bool,
    bar: f64,
}

const fn most(what: &'static str, at: &'static str, bar: f64) -> Bar {
    let at_most = true;
    Bar {
        what,
        at,
        at_most,
        bar,
    }
}

const fn least(what: &'static str, at: &'static str, bar: f64) -> Bar {
    let at_most = false;
    Bar {
        what,
        at,
        at_most,
        bar,
    }
}

const METER: &[Bar] = &[
    most(
        "meter program, one IPv4 flow / empty XDP program",
        "/meter_v4",
        6.5,
    ),
    most(
        "meter program, one IPv6+VLAN flow / empty XDP program",
        "/meter_v6_vlan",
        6.5,
    ),
    most("64k flows / one flow", "/flows_64k_vs_1", 5.0),
    most(
        "a new flow with every packet / one flow",
        "/new_flow_flood_vs_1",
        4.0,
    ),
];
const TCX: &[Bar] = &[
    most(
        "tcx meter, CPU per forwarded 100 B datagram / plain routing",
        "/tcx_cpu_vs_route",
        1.10,
    ),
    most(
        "the same with hints (flows.hints, off by default)",
        "/hints_cpu_vs_route",
        1.25,
    ),
    least(
        "tcx meter, bulk TCP / plain routing",
        "/tcx_bulk_tcp_vs_route",
        0.90,
    ),
];
const INJECTOR: &[Bar] = &[
    most(
        "injector lateness p50 / tokio timer, 1 ms schedule",
        "/ratios/0/ratio",
        1.0 / 20.0,
    ),
    most(
        "injector lateness p99 / tokio timer",
        "/ratios/1/ratio",
        1.0 / 10.0,
    ),
    most(
        "injector with spin, p50 / tokio timer",
        "/ratios/2/ratio",
        1.0 / 500.0,
    ),
];
const REPLAY: &[Bar] = &[
    least(
        "replay top speed / tcpreplay --topspeed --preload-pcap",
        "/top_speed/ratio",
        1.0,
    ),
    most(
        "replay drift at original timing / tcpreplay",
        "/timing/drift_ratio",
        1.0 / 50.0,
    ),
    most(
        "replay p99 error at original timing / tcpreplay",
        "/timing/p99_ratio",
        1.0 / 10.0,
    ),
];

const TUNNEL: &[Bar] = &[
    least(
        "tunnel, offload engine, TCP / wireguard-go",
        "/ratio/fast/tcp",
        5.0,
    ),
    most(
        "tunnel, offload engine, CPU per Mbit / wireguard-go",
        "/ratio/fast/cpu",
        0.15,
    ),
    least(
        "tunnel, portable engine, TCP / wireguard-go",
        "/ratio/portable/tcp",
        1.2,
    ),
    most(
        "tunnel, portable engine, CPU per Mbit / wireguard-go",
        "/ratio/portable/cpu",
        0.5,
    ),
    least(
        "tunnel, offload engine, UDP of 1,300 B / wireguard-go",
        "/ratio/fast/udp",
        1.0,
    ),
    most(
        "tunnel, offload engine, RTT p50 / wireguard-go",
        "/ratio/fast/rtt",
        0.6,
    ),
    most(
        "tunnel, CPU per Mbit with size bins / without",
        "/ratio/bins_cpu",
        1.05,
    ),
];

const SIMULATE: &[Bar] = &[
    least(
        "1,000 devices, cover `random`, virtual seconds per CPU second",
        "/realtime/random",
        1.0,
    ),
    least(
        "the same with the ONNX model `learned` for each device",
        "/realtime/learned",
        1.0,
    ),
    least("the same with the ONNX model `ipet`", "/realtime/ipet", 1.0),
    least(
        "the same in one tunnel with `envelope`",
        "/realtime/envelope",
        1.0,
    ),
];

/// Name, package, example program, bars.
const ALL: [(&str, &str, &str, &[Bar]); 4] = [
    ("meter", "chaff-gateway", "bench_meter", METER),
    ("tcx", "chaff-gateway", "bench_tcx", TCX),
    ("injector", "chaff-gateway", "bench_injector", INJECTOR),
    ("replay", "chaff-replay", "bench_replay", REPLAY),
];

/// Runs benchmarks.
///
/// # Errors
/// [`Stop::Check`] when a bar is missed; else when one cannot run.
pub fn run(options: &Options) -> Result<()> {
    let mut missed = 0;
    for (name, package, example, bars) in ALL {
        if !options.wants(name) {
            continue;
        }
        require_root(name)?;
        packages::ensure(packages::BENCH)?;
        let result = measure(package, example, options.rounds)?;
        if options.json {
            println!("{result}");
            continue;
        }
        for bar in bars {
            missed += u32::from(!row(&result, bar, name));
        }
    }
    if options.wants("offline") {
        missed += offline::run(options)?;
    }
    if options.wants("tunnel") {
        let result = tunnel::measure(options.rounds, options.only.as_deref())?;
        if options.json {
            println!("{result}");
        } else {
            for bar in TUNNEL {
                missed += u32::from(!row(&result, bar, "tunnel"));
            }
        }
    }
    if options.wants("tunnel-cover") {
        let result = tunnel::measure_cover(options.rounds)?;
        if options.json {
            println!("{result}");
        } else {
            print!("{}", tunnel::cover_table(&result));
        }
    }
    if options.wants("query") {
        missed += query::run(options)?;
    }
    if options.wants("synth") {
        missed += synth::run(options)?;
    }
    if options.wants("simulate") {
        let result = simulate::measure(options)?;
        if options.json {
            println!("{result}");
        } else {
            for bar in SIMULATE {
                missed += u32::from(!row(&result, bar, "simulate"));
            }
        }
    }
    if missed > 0 {
        return Err(Stop::Check.error(format_args!("{missed} bars missed")));
    }
    Ok(())
}

fn measure(package: &str, example: &str, rounds: u32) -> Result<Value> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        package,
        "--example",
        example,
        "--",
    ]);
    cargo
        .arg(rounds.to_string())
        .current_dir(root())
        .stderr(Stdio::inherit());
    let text = shown(&cargo);
    let out = cargo
        .output()
        .with_context(|| format!("while starting `{text}`"))?;
    // A benchmark may end with 1 because of its own bars; its numbers count all the same.
    ensure!(
        matches!(out.status.code(), Some(0 | 1)),
        "`{text}`: {}",
        out.status
    );
    serde_json::from_slice(&out.stdout).with_context(|| format!("`{text}` printed no JSON"))
}

/// Prints a row and returns whether the bar is met.
fn row(result: &Value, bar: &Bar, name: &str) -> bool {
    let Some(ratio) = result.pointer(bar.at).and_then(Value::as_f64) else {
        println!(
            "| {} | no number | | `cargo xtask bench {name}` |",
            bar.what
        );
        return false;
    };
    let met = if bar.at_most {
        ratio <= bar.bar
    } else {
        ratio >= bar.bar
    };
    let sign = if bar.at_most { "≤" } else { "≥" };
    let verdict = if met { "" } else { " (missed)" };
    println!(
        "| {} | {}{verdict} | {sign} {} | `cargo xtask bench {name}` |",
        bar.what,
        short(ratio),
        short(bar.bar)
    );
    met
}

/// Three digits that mean something.
fn short(ratio: f64) -> String {
    if ratio == 0.0 || ratio.abs() >= 0.1 {
        format!("{ratio:.2}")
    } else {
        format!("{ratio:.1e}")
    }
}
