//! What a simulation reports.

use std::path::Path;

use chaff_engine::{GatewayReport, SinkReport};
use chaff_tunnel::TunnelReport;
use serde::Serialize;

use super::args::ModeArg;

/// `report.json`
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) version: u32,
    pub(super) captures: Vec<String>,
    pub(super) devices: Vec<String>,
    pub(super) cover: String,
    pub(super) mode: ModeArg,
    pub(super) seed: u64,
    pub(super) duration_s: f64,
    pub(super) frames: u64,
    pub(super) frames_padded: u64,
    pub(super) gateway: GatewayReport,
    pub(super) sink: SinkReport,
    /// Both ends of the tunnel, with `--mode tunnel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tunnel: Option<[TunnelReport; 2]>,
    pub(super) observed: Observed,
    pub(super) latency_us: Latency,
    /// Time that real packets waited at the tunnel's ends, with `--mode tunnel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waited_us: Option<Latency>,
    pub(super) sim: SimOutcome,
    pub(super) checks: Checks,
}

#[derive(Default, Serialize)]
pub(super) struct Observed {
    pub(super) real_packets: [u64; 2],
    pub(super) real_bytes: [u64; 2],
    pub(super) cover_packets: [u64; 2],
    pub(super) cover_bytes: [u64; 2],
}

#[derive(Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

#[derive(Serialize)]
pub(super) struct SimOutcome {
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) queue_drops: u64,
}

/// What must hold; `gateway simulate` exits with 1 when something does not.
#[derive(Serialize)]
pub(super) struct Checks {
    pub(super) frames_seen: bool,
    pub(super) flows_plus_ignored_is_seen: bool,
    pub(super) cover_authenticated: bool,
    pub(super) nothing_refused: bool,
}

impl Checks {
    pub(super) fn hold(&self) -> bool {
        self.frames_seen
            && self.flows_plus_ignored_is_seen
            && self.cover_authenticated
            && self.nothing_refused
    }
}

pub(super) fn summary(r: &Report, out: &Path) {
    let sum = |a: [u64; 2]| a[0] + a[1];
    let real = sum(r.observed.real_bytes);
    let cover = sum(r.observed.cover_bytes);
    let percent = if real > 0 {
        format!("{:.0} %", 100.0 * cover as f64 / real as f64)
    } else {
        "-".to_owned()
    };
    eprintln!(
        "simulated {:.1} s: {} frames, {} in {} flow records, {} not IP or malformed",
        r.duration_s,
        r.frames,
        r.gateway.metered,
        r.gateway.flows,
        r.gateway.ignored.values().sum::<u64>()
    );
    eprintln!(
        "cover: {} packets up, {} down, {cover} bytes ({percent} of the real {real}); sink refused {}; alerts {}",
        r.observed.cover_packets[0],
        r.observed.cover_packets[1],
        r.sink.refused.values().sum::<u64>(),
        r.gateway.alerts
    );
    eprintln!("written to {}", out.display());
    if !r.checks.hold() {
        eprintln!("a check failed, see `checks` in report.json");
    }
}
