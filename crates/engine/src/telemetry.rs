//! Private releases of per-device totals.
//!
//! What is protected is one slot of one device: two homes that differ in what a device did in one slot look alike.
//! Every `period` each listed device gets one release: the sum over the slots of its IP bytes, each slot clamped to
//! `slot_bound`, with noise.

use std::collections::{BTreeMap, VecDeque};

use chaff_abi::Nanos;
use chaff_privacy::{Bounds, Epsilon, Grant, Noise};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::event::Telemetry;

/// Settings of the releases.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// Time between releases; rounded up to whole slots.
    pub period: Nanos,
    /// Budget of one release.
    pub epsilon: Epsilon,
    /// Most bytes one slot contributes.
    pub slot_bound: u64,
    /// Fixed noise for simulations; `None` takes OpenDP's cryptographic noise.
    pub simulated_noise: Option<[u8; 32]>,
}

/// Pays for a release: charges `epsilon` under a label to the budget ledger and returns once that is stored durably.
pub type Pay<'a> =
    dyn FnMut(&str, Epsilon) -> Result<Grant, Box<dyn std::error::Error + Send + Sync>> + 'a;

/// The totals that wait for their release.
pub struct Releases {
    config: TelemetryConfig,
    made: u64,
    noise: Option<ChaCha20Rng>,
    period: u64,
    rows: BTreeMap<usize, Vec<(u64, f64)>>,
    due: VecDeque<Due>,
    missed: u64,
}

struct Due {
    period: u64,
    period_s: f64,
    device: usize,
    rows: Vec<(u64, f64)>,
}

/// Why a due release was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreleased {
    /// The ledger did not pay: no budget left, or it cannot be written.
    #[error("the budget ledger refuses: {0}")]
    Ledger(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The bounds or the noise refused.
    #[error("{0}")]
    Mechanism(String),
}

/// Releases that wait for the driver; beyond this the oldest are given up and counted.
const MAX_DUE: usize = 1_024;

impl Releases {
    /// No totals yet.
    pub fn new(config: TelemetryConfig) -> Self {
        Self {
            noise: config.simulated_noise.map(ChaCha20Rng::from_seed),
            config,
            made: 0,
            period: 0,
            rows: BTreeMap::new(),
            due: VecDeque::new(),
            missed: 0,
        }
    }

    /// Budget spent in this run.
    pub fn spent(&self) -> f64 {
        self.made as f64 * self.config.epsilon.value()
    }

    /// Due releases that nobody collected in time.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Takes a device's total of one slot; device 0 (unlisted devices) has no releases.
    pub(crate) fn count(&mut self, slot: u64, device: usize, bytes: u64) {
        if device > 0 {
            let rows = self.rows.entry(device).or_default();
            if bytes > 0 {
                rows.push((slot, bytes as f64));
            }
        }
    }

    /// Notes what is due after `slots` slots.
    pub(crate) fn note_due(&mut self, slots: u64, slot: Nanos) {
        let per_period = self.config.period.0.div_ceil(slot.0.max(1)).max(1);
        if slots < (self.period + 1) * per_period {
            return;
        }
        let period = self.period;
        let period_s = slot.times(per_period).as_secs_f64();
        self.period = slots / per_period;
        for (device, rows) in std::mem::take(&mut self.rows) {
            if self.due.len() >= MAX_DUE {
                self.due.pop_front();
                self.missed += 1;
            }
            self.due.push_back(Due {
                period,
                period_s,
                device,
                rows,
            });
        }
    }

    /// Makes the next due release with budget from `pay`.
    pub(crate) fn poll(&mut self, pay: &mut Pay<'_>) -> Option<Result<Telemetry, Unreleased>> {
        let due = self.due.pop_front()?;
        Some(self.release(due, pay))
    }

    fn release(&mut self, due: Due, pay: &mut Pay<'_>) -> Result<Telemetry, Unreleased> {
        let label = format!("bytes of device {} in period {}", due.device, due.period);
        let mechanism = |e: &dyn std::fmt::Display| Unreleased::Mechanism(e.to_string());
        let bounds = Bounds::new(0.0, self.config.slot_bound as f64, 1.0)
            .map_err(|e| mechanism(&e))?
            .unit("bytes")
            .protects("one slot of one device");
        let grant = pay(&label, self.config.epsilon).map_err(Unreleased::Ledger)?;
        self.made += 1;
        let noise = self
            .noise
            .as_mut()
            .map_or(Noise::System, |rng| Noise::Seeded(rng));
        let bytes = grant
            .sum(due.rows, &bounds, noise)
            .map_err(|e| mechanism(&e))?;
        Ok(Telemetry {
            period: due.period,
            period_s: due.period_s,
            device: due.device as u32,
            bytes,
        })
    }
}
