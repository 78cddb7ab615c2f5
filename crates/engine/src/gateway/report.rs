//! What a gateway counts.

use std::collections::BTreeMap;

use chaff_cover::{Overhead, Tally};
use serde::Serialize;

use super::Gateway;

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GatewayReport {
    /// Schema version of this report.
    pub version: u32,
    /// Frames given to the gateway, or seen by the kernel's meter.
    pub seen: u64,
    /// Of these, counted in a flow.
    pub metered: u64,
    /// Of these, not, by reason.
    pub ignored: BTreeMap<&'static str, u64>,
    /// Flow records made.
    pub flows: u64,
    /// Uplink cover handed out for sending.
    pub cover: Tally,
    /// Schedules handed out for sending.
    pub schedules: Tally,
    /// Downlink cover planned.
    pub downlink_planned: Tally,
    /// Authentic downlink cover received.
    pub downlink: Tally,
    /// Datagrams from the sink's address that are not authentic, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Slots for which no cover was planned because the gateway came too late.
    pub slots_missed: u64,
    /// Dummies that limits or budget removed, and generator failures.
    pub cover_dropped: u64,
    /// Alerts raised.
    pub alerts: u64,
    /// Alerts not raised because they had been said already or there were too many.
    pub alerts_suppressed: u64,
    /// Changes of flows that the alerts did not look at one by one because there were too many.
    pub changes_skipped: u64,
    /// Slots and alerts dropped because nobody collected them; never flow records.
    pub events_dropped: u64,
    /// Windows of telemetry that were released.
    pub releases: u64,
    /// Windows that the budget or its storage refused.
    pub releases_refused: u64,
    /// Windows that nobody watched, or collected in time.
    pub releases_missed: u64,
    /// Pure ε of devices' days that was spent in this run.
    pub epsilon_spent: f64,
    /// ρ of devices' days that was spent in this run.
    pub rho_spent: f64,
    /// Real traffic (IP bytes) and cover with headers, over all devices.
    pub overhead: OverheadReport,
}

/// Cost of cover against real traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OverheadReport {
    /// Real packets, out and in.
    pub real_packets: [u64; 2],
    /// Real IP bytes, out and in.
    pub real_bytes: [u64; 2],
    /// Planned cover packets, schedules included, out and in.
    pub cover_packets: [u64; 2],
    /// Planned cover bytes, out and in, with IP and UDP headers.
    pub cover_bytes: [u64; 2],
}

/// What one device, or all that is not listed, did so far; each pair is out and in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceTotals {
    /// Real packets.
    pub real_packets: [u64; 2],
    /// Their IP bytes.
    pub real_bytes: [u64; 2],
    /// Planned cover packets.
    pub cover_packets: [u64; 2],
    /// UDP payload bytes of these.
    pub cover_bytes: [u64; 2],
}

impl Gateway {
    /// The counts so far.
    pub fn report(&self) -> GatewayReport {
        let mut report = self.report.clone();
        if let Some(r) = &self.releases {
            let exporter = r.exporter();
            report.releases = exporter.releases();
            report.releases_refused = r.refused();
            report.releases_missed = exporter.missed();
            report.epsilon_spent = exporter.spent_nanos().0 as f64 / 1e9;
            report.rho_spent = exporter.spent_nanos().1 as f64 / 1e9;
        }
        if let Some(watch) = &self.watch {
            report.alerts_suppressed = watch.suppressed();
            report.changes_skipped = watch.skipped();
        }
        for u in &self.units {
            if let Some(s) = &u.scheduler {
                let o: Overhead = s.overhead();
                report.cover_dropped += o
                    .by_dir
                    .iter()
                    .map(|d| d.capped_packets + d.budget_packets)
                    .sum::<u64>();
            }
        }
        report
    }
}
