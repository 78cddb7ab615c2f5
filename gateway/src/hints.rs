//! Copies of first packets, on their way from the kernel to the dissectors in the flow table.
//!
//! Copies wait for the drain that brings the counts of their flows, so that each meets the flow that it belongs to. What
//! they say stays in memory: only the hints drawn from it (application, server name, fingerprints) are written, beside the
//! flow's addresses. Memory is bounded: of what waits, and, by a budget over time, of what half-read messages hold.

use std::collections::VecDeque;

use chaff_abi::{Dir, HintHeader, Nanos};
use chaff_engine::Gateway;
use serde::Serialize;

/// Most bytes that wait for a drain.
const WAITING: usize = 4 << 20;
/// Bytes a second that dissectors are given; over a flow's idle timeout of two minutes, 30 MiB.
const RATE: u64 = 256 << 10;
/// Bytes that they are given at once.
const BURST: u64 = 4 << 20;

/// What became of the copies that the kernel made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HintStats {
    /// Given to a dissector.
    pub read: u64,
    /// Not given: too many were waiting, or the budget was used up.
    pub over_budget: u64,
    /// Not a packet that the parser of user space takes.
    pub unreadable: u64,
}

/// A queue of copies.
#[derive(Debug)]
pub struct Hints {
    waiting: VecDeque<(HintHeader, Box<[u8]>)>,
    bytes: usize,
    budget: u64,
    filled_at: Nanos,
    stats: HintStats,
}

impl Hints {
    /// An empty queue with a full budget.
    pub fn new(now: Nanos) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            budget: BURST,
            filled_at: now,
            stats: HintStats::default(),
        }
    }

    /// Takes a copy.
    pub fn push(&mut self, header: HintHeader, bytes: Box<[u8]>) {
        if self.bytes + bytes.len() > WAITING {
            self.stats.over_budget += 1;
            return;
        }
        self.bytes += bytes.len();
        self.waiting.push_back((header, bytes));
    }

    /// Gives the dissectors what was copied until `until`, which is when the last drain began.
    pub fn show(&mut self, until: Nanos, engine: &mut Gateway) {
        let gained = until.since(self.filled_at).as_micros().saturating_mul(RATE) / 1_000_000;
        if gained > 0 {
            self.budget = self.budget.saturating_add(gained).min(BURST);
            self.filled_at = until;
        }
        while let Some((header, bytes)) = self.waiting.pop_front_if(|(h, _)| h.at <= until) {
            self.bytes -= bytes.len();
            let Some(left) = self.budget.checked_sub(bytes.len() as u64) else {
                self.stats.over_budget += 1;
                continue;
            };
            self.budget = left;
            let dir = if header.dir == Dir::In as u8 {
                Dir::In
            } else {
                Dir::Out
            };
            let read = engine.handle_payload(
                header.at,
                dir,
                header.vlan,
                &bytes,
                header.frame_len as usize,
            );
            if read {
                self.stats.read += 1;
            } else {
                self.stats.unreadable += 1;
            }
        }
    }

    /// What became of the copies so far.
    pub fn stats(&self) -> HintStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaff_engine::{Config, Parts, Source};

    fn engine() -> Gateway {
        let config = Config {
            source: Source::Kernel,
            ..Config::default()
        };
        Gateway::new(config, Parts::default(), [0; 32], Nanos::ZERO).expect("valid")
    }

    fn header(at: Nanos, len: usize) -> HintHeader {
        HintHeader {
            at,
            frame_len: len as u32,
            len: len as u32,
            ..HintHeader::default()
        }
    }

    #[test]
    fn holds_back_what_the_drain_has_not_counted() {
        let mut hints = Hints::new(Nanos::ZERO);
        let mut engine = engine();
        for ms in [10, 20, 30] {
            hints.push(header(Nanos::from_millis(ms), 60), Box::new([0; 60]));
        }
        hints.show(Nanos::from_millis(20), &mut engine);
        assert_eq!((hints.stats.unreadable, hints.waiting.len()), (2, 1));
        hints.show(Nanos::from_millis(40), &mut engine);
        assert_eq!((hints.stats.unreadable, hints.bytes), (3, 0));
    }

    #[test]
    fn a_flood_of_copies_meets_its_bounds() {
        let mut hints = Hints::new(Nanos::ZERO);
        let mut engine = engine();
        let copy = [0u8; 2_048];
        for _ in 0..5_000 {
            hints.push(header(Nanos::ZERO, copy.len()), Box::new(copy));
        }
        assert_eq!(hints.bytes, WAITING);
        let waiting = (WAITING / copy.len()) as u64;
        assert_eq!(hints.stats.over_budget, 5_000 - waiting);
        hints.show(Nanos::ZERO, &mut engine);
        assert_eq!(hints.stats.unreadable, waiting);
        // The budget is spent; a second earns another 128 copies.
        for _ in 0..1_000 {
            hints.push(header(Nanos::ZERO, copy.len()), Box::new(copy));
        }
        hints.show(Nanos::from_secs(1), &mut engine);
        assert_eq!(hints.stats.unreadable, waiting + RATE / 2_048);
        assert_eq!(hints.bytes, 0);
    }
}
