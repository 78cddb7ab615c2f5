//! Cost of the meter program per frame, by BPF_PROG_TEST_RUN, as JSON; needs root.
//!
//! `cargo run --release --example bench_meter [rounds]`. Ratios are to an empty XDP program (one that returns at the
//! first instruction), taken in the same round; the median over the rounds counts. Absolute times depend on the machine.

use std::time::Instant;

use aya::programs::TestRunOptions;
use chaff_abi::{MeterConfig, Nanos, program};
use chaff_gateway::datapath::{Hook, Meter, MeterError, MeterOptions};
use chaff_sys::clock::monotonic;

#[path = "bench_support/mod.rs"]
mod bench_support;
use bench_support::{EmptyXdp, median};

const REPEAT: u32 = 200_000;
const FLOWS: u32 = 65_536;

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .and_then(|a| a.parse().ok())
        .unwrap_or(9);
    match bench(rounds) {
        Ok(text) => println!("{text}"),
        Err(e) => {
            eprintln!("bench_meter: {e:?}");
            std::process::exit(if e.is_environment() { 3 } else { 1 });
        }
    }
}

fn options(max_flows: u32) -> MeterOptions {
    MeterOptions {
        hook: Hook::Tcx,
        max_flows,
        config: MeterConfig {
            slot_epoch: monotonic(),
            slot_len: Nanos::from_millis(100),
            ..MeterConfig::default()
        },
        ..MeterOptions::default()
    }
}

fn bench(rounds: usize) -> Result<String, MeterError> {
    let empty = EmptyXdp::load().map_err(|e| MeterError::Options {
        what: e.to_string(),
    })?;
    let mut one = Meter::load(&options(16_384))?;
    let (v4, v6) = (bench_support::v4(0), bench_support::v6_vlan());
    let mut rows: [Vec<f64>; 6] = Default::default();
    for _ in 0..rounds {
        let base = empty.run(&v4, REPEAT);
        rows[0].push(base);
        rows[1].push(run(&mut one, program::XDP_LAN, &v4)? / base);
        rows[2].push(run(&mut one, program::XDP_LAN, &v6)? / base);
        rows[3].push(run(&mut one, program::TCX_LAN_INGRESS, &v6)? / base);
        one.drain(|_, _| {})?;
    }
    // Many flows: one frame per system call, so the call's own cost, measured with the empty program, is taken off.
    let mut many = Meter::load(&options(2 * FLOWS))?;
    let mut full = Meter::load(&options(1_024))?;
    let frames: Vec<_> = (0..FLOWS)
        .map(|i| bench_support::v4(i.wrapping_mul(2_654_435_761)))
        .collect();
    let mut other = Vec::new();
    for round in 0..rounds.min(5) {
        let call = each(&frames, |f| Ok(empty.run(f, 1)))?;
        let single = each(&frames, |_| run_once(&mut many, &frames[0]))? - call;
        if round == 0 {
            each(&frames, |f| run_once(&mut many, f))?;
        }
        let spread = each(&frames, |f| run_once(&mut many, f))? - call;
        let flood = each(&frames, |f| run_once(&mut full, f))? - call;
        rows[4].push(spread / single);
        rows[5].push(flood / single);
        other.push((call, single, spread, flood));
        full.poll_records(|_| {});
    }
    let mut m = rows.map(median);
    for x in &mut m {
        *x = (*x * 100.0).round() / 100.0;
    }
    let drain = many.drain(|_, _| {})?;
    Ok(format!(
        "{{\"rounds\":{rounds},\"empty_ns\":{},\"meter_v4\":{},\"meter_v6_vlan\":{},\"meter_tcx_v6_vlan\":{},\
         \"flows_64k_vs_1\":{},\"new_flow_flood_vs_1\":{},\"drain_flows\":{},\"drain_us_per_flow\":{:.3}}}",
        m[0],
        m[1],
        m[2],
        m[3],
        m[4],
        m[5],
        drain.flows,
        drain.took.since(drain.grace).0 as f64 / 1e3 / drain.flows.max(1) as f64,
    ))
}

/// Nanoseconds per run of a program on one frame.
fn run(m: &mut Meter, name: &str, frame: &[u8]) -> Result<f64, MeterError> {
    let mut o = TestRunOptions::new();
    o.data_in = Some(frame);
    o.repeat = REPEAT;
    Ok(m.test_run(name, o)?.duration.as_nanos() as f64)
}

fn run_once(m: &mut Meter, frame: &[u8]) -> Result<f64, MeterError> {
    let mut o = TestRunOptions::new();
    o.data_in = Some(frame);
    m.test_run(program::XDP_LAN, o).map(|_| 0.0)
}

/// Nanoseconds per frame of a pass over all frames, system calls included.
fn each(
    frames: &[Vec<u8>],
    mut f: impl FnMut(&[u8]) -> Result<f64, MeterError>,
) -> Result<f64, MeterError> {
    let start = Instant::now();
    for frame in frames {
        f(frame)?;
    }
    Ok(start.elapsed().as_nanos() as f64 / frames.len() as f64)
}
