//! Private releases of per-device totals.
//!
//! What is protected is one slot of one device: two homes that differ in what a device did in one slot look alike.
//! Every `period` each listed device gets one release: the sum over the slots of its IP bytes, each slot clamped to
//! `slot_bound`, with noise.

use std::collections::{BTreeMap, VecDeque};

use chaff_abi::Nanos;
use chaff_privacy::{Bounds, Epsilon, Ledger, Noise, Refused};
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

/// The budget and the totals that wait for it.
pub struct Releases {
    config: TelemetryConfig,
    ledger: Ledger,
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
    /// The budget does not allow it, or an earlier storing failed.
    #[error("the privacy budget refuses: {0}")]
    Budget(#[from] Refused),
    /// The ledger's entry could not be stored, so nothing was answered; the ledger refuses everything from now on.
    #[error("the budget ledger cannot be written: {0}")]
    Store(std::io::Error),
    /// The bounds or the noise refused.
    #[error("{0}")]
    Mechanism(String),
}

/// Releases that wait for the driver; beyond this the oldest are given up and counted.
const MAX_DUE: usize = 1_024;

impl Releases {
    /// Releases paid from `ledger`, whose storage is in order ([`Ledger::to_store`] is `None`).
    pub fn new(config: TelemetryConfig, ledger: Ledger) -> Self {
        Self {
            noise: config.simulated_noise.map(ChaCha20Rng::from_seed),
            config,
            ledger,
            period: 0,
            rows: BTreeMap::new(),
            due: VecDeque::new(),
            missed: 0,
        }
    }

    /// Budget spent so far, in this run and before.
    pub fn spent(&self) -> f64 {
        self.ledger.spent_nanos() as f64 / 1e9
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

    /// Makes the next due release. `store` must append the bytes to the ledger durably before it returns.
    pub(crate) fn poll(
        &mut self,
        store: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Option<Result<Telemetry, Unreleased>> {
        let due = self.due.pop_front()?;
        Some(self.release(due, store))
    }

    fn release(
        &mut self,
        due: Due,
        store: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<Telemetry, Unreleased> {
        let label = format!("bytes of device {} in period {}", due.device, due.period);
        let mechanism = |e: &dyn std::fmt::Display| Unreleased::Mechanism(e.to_string());
        let bounds = Bounds::new(0.0, self.config.slot_bound as f64, 1.0)
            .map_err(|e| mechanism(&e))?
            .unit("bytes");
        let pending = self.ledger.spend(&label, self.config.epsilon)?;
        store(pending.entry()).map_err(Unreleased::Store)?;
        let noise = self
            .noise
            .as_mut()
            .map_or(Noise::System, |rng| Noise::Seeded(rng));
        let bytes = pending
            .stored()
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
