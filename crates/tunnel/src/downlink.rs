//! Dummies that the far end asked for: when they are due, and what caps them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use chaff_abi::Nanos;
use chaff_cover::TokenBucket;
use serde::Serialize;

use crate::config::DownlinkConfig;
use crate::dummy::Entry;

/// A dummy later than this is dropped: an end that was held up must not catch up in a burst.
pub(crate) const LATE: Nanos = Nanos::from_secs(1);

/// Counts of downlink cover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DownlinkReport {
    /// Schedules received.
    pub schedules: u64,
    /// Dummies that they asked for and that were accepted.
    pub accepted: u64,
    /// Dummies not sent, by reason: `pending` (too many), `ahead` (too far in the future), `lease` (schedules stopped),
    /// `late`, `ratio` and `rate` (beyond a cap).
    pub dropped: BTreeMap<&'static str, u64>,
    /// Leases that ended.
    pub leases_ended: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pending {
    due: Nanos,
    order: u64,
    stream: u16,
    size: u16,
}

/// A dummy that is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) due: Nanos,
    pub(crate) stream: u16,
    /// Inner bytes wanted, or 0.
    pub(crate) size: u16,
}

/// What one peer asked for.
#[derive(Debug)]
pub(crate) struct Downlink {
    config: DownlinkConfig,
    pending: BinaryHeap<Reverse<Pending>>,
    order: u64,
    leased_at: Nanos,
    credit: f64,
    bucket: TokenBucket,
    pub(crate) report: DownlinkReport,
}

impl Downlink {
    pub(crate) fn new(config: DownlinkConfig) -> Self {
        Self {
            pending: BinaryHeap::new(),
            order: 0,
            leased_at: Nanos::ZERO,
            credit: config.allowance as f64,
            // A second's worth at once, and always a packet.
            bucket: TokenBucket::new(config.bytes_per_second, config.bytes_per_second.max(10_000)),
            report: DownlinkReport::default(),
            config,
        }
    }

    /// Notes authentic bytes that arrived; only these earn credit, whatever a peer claims.
    pub(crate) fn earn(&mut self, bytes: usize) {
        let c = &self.config;
        let most = c.allowance as f64 + c.bytes_per_second as f64 * c.lease.as_secs_f64();
        self.credit = (self.credit + bytes as f64 * c.ratio).min(most);
    }

    pub(crate) fn accept(&mut self, now: Nanos, entries: &[Entry]) {
        self.leased_at = now;
        self.report.schedules += 1;
        for e in entries {
            if self.pending.len() >= self.config.max_pending {
                self.drop("pending", 1);
            } else if e.offset > self.config.max_ahead {
                self.drop("ahead", 1);
            } else {
                self.order += 1;
                self.report.accepted += 1;
                self.pending.push(Reverse(Pending {
                    due: now + e.offset,
                    order: self.order,
                    stream: e.stream,
                    size: e.size,
                }));
            }
        }
    }

    fn drop(&mut self, why: &'static str, n: u64) {
        *self.report.dropped.entry(why).or_default() += n;
    }

    /// Whether the peer's schedules still come at `now`.
    pub(crate) fn is_leased(&self, now: Nanos) -> bool {
        self.report.schedules > 0 && now < self.leased_at + self.config.lease
    }

    pub(crate) fn poll_timeout(&self) -> Option<Nanos> {
        let due = self.pending.peek()?.0.due;
        Some(due.min(self.leased_at + self.config.lease))
    }

    /// The next dummy that is due. The caller pays its price to [`Downlink::pay`].
    pub(crate) fn poll(&mut self, now: Nanos) -> Option<Asked> {
        if now >= self.leased_at + self.config.lease && !self.pending.is_empty() {
            let n = self.pending.len() as u64;
            self.pending.clear();
            self.drop("lease", n);
            self.report.leases_ended += 1;
        }
        while self.pending.peek().is_some_and(|p| p.0.due <= now) {
            let p = self.pending.pop()?.0;
            if now.since(p.due) > LATE {
                self.drop("late", 1);
                continue;
            }
            return Some(Asked {
                due: p.due,
                stream: p.stream,
                size: p.size,
            });
        }
        None
    }

    /// Takes the price of a datagram of `bytes`, headers included, or counts why not.
    pub(crate) fn pay(&mut self, now: Nanos, bytes: usize) -> bool {
        if self.credit < bytes as f64 {
            self.drop("ratio", 1);
            return false;
        }
        if !self.bucket.take(now, bytes as u64) {
            self.drop("rate", 1);
            return false;
        }
        self.credit -= bytes as f64;
        true
    }
}
