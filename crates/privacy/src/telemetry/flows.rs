//! Flows and their bytes by the minute: protects single flows only.

use super::exporter::Flows;
use crate::Epsilon;
use crate::vector::Law;

/// Length of a window.
pub(super) const MINUTE_NS: u64 = 60_000_000_000;

/// The open minute.
#[derive(Debug)]
pub(super) struct Minute {
    config: Flows,
    number: Option<u64>,
    flows: i64,
    bytes: i64,
}

/// A minute that is over.
#[derive(Debug)]
pub(super) struct ClosedMinute {
    pub(super) number: u64,
    pub(super) sums: [i64; 2],
}

impl Minute {
    pub(super) fn new(config: Flows) -> Self {
        Self {
            config,
            number: None,
            flows: 0,
            bytes: 0,
        }
    }

    pub(super) fn epsilon(&self) -> Epsilon {
        self.config.epsilon
    }

    pub(super) fn config_bound(&self) -> u64 {
        self.config.bound.max(1)
    }

    /// Noise of the number of flows and of their bytes: half of ε each.
    pub(super) fn laws(&self) -> [Law; 2] {
        let half = self.config.epsilon.nanos() / 2;
        let epsilon = Epsilon::from_nanos(half.max(1)).unwrap_or(Epsilon::ONE);
        [1, self.config_bound()].map(|l1| Law::Laplace { l1, epsilon })
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.flows += 1;
        let bytes = bytes.min(self.config.bound) as i64;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(super) fn advance(&mut self, now_ns: u64) -> Option<ClosedMinute> {
        let now = now_ns / MINUTE_NS;
        let number = *self.number.get_or_insert(now);
        if now <= number {
            return None;
        }
        self.number = Some(now);
        let sums = [
            std::mem::take(&mut self.flows),
            std::mem::take(&mut self.bytes),
        ];
        Some(ClosedMinute { number, sums })
    }
}
