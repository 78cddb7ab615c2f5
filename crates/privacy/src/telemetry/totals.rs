//! Windows of totals by device, closed at their end and clipped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::allowance::Allowance;
use super::exporter::Metric;
use super::state::WindowState;
use crate::DAY_NS;

/// What a window was seen to hold so far, exactly. Private.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenWindow {
    pub(super) number: u64,
    /// Since when it was watched.
    since_ns: u64,
    devices: BTreeMap<u32, Vec<u64>>,
}

/// A window that is over: clipped sums over devices, in steps.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) number: u64,
    pub(super) is_partial: bool,
    pub(super) sums: Vec<i64>,
}

/// A series of windows of equal length, counted from 1970.
#[derive(Debug)]
pub(super) struct Windows {
    period_ns: u64,
    steps: u64,
    pub(super) allowance: Allowance,
    open: Option<OpenWindow>,
    /// End of the last window that was released, seconds since 1970.
    pub(super) last_s: Option<u64>,
    /// UTC day of which it is not known what devices have used: nothing of them counts.
    pub(super) blocked_day: Option<u64>,
    /// Windows nobody watched.
    pub(super) unwatched: u64,
}

impl Windows {
    pub(super) fn new(period_ns: u64, steps: u64, allowance: Allowance) -> Self {
        Self {
            period_ns,
            steps,
            allowance,
            open: None,
            last_s: None,
            blocked_day: None,
            unwatched: 0,
        }
    }

    pub(super) fn end_s(&self, number: u64) -> u64 {
        (number + 1) * self.period_ns / 1_000_000_000
    }

    pub(super) fn start_ns(&self, number: u64) -> u64 {
        number * self.period_ns
    }

    pub(super) fn day(&self, number: u64) -> u64 {
        self.start_ns(number) / DAY_NS
    }

    pub(super) fn add(&mut self, device: u32, metric: usize, metrics: usize, amount: u64) {
        if let Some(open) = &mut self.open {
            let totals = open
                .devices
                .entry(device)
                .or_insert_with(|| vec![0; metrics]);
            if let Some(total) = totals.get_mut(metric) {
                *total = total.saturating_add(amount);
            }
        }
    }

    /// Tells the time; gives the window that is over, if one is. A time before the open window counts as that window's.
    pub(super) fn advance(&mut self, now_ns: u64, metrics: &[Metric]) -> Option<Closed> {
        let number = now_ns / self.period_ns;
        let fresh = |since_ns| OpenWindow {
            number,
            since_ns,
            devices: BTreeMap::new(),
        };
        let Some(open) = &self.open else {
            self.open = Some(fresh(now_ns));
            return None;
        };
        if number <= open.number {
            return None;
        }
        let since = if number == open.number + 1 {
            self.start_ns(number)
        } else {
            self.unwatched += number - open.number - 1;
            now_ns
        };
        let open = self.open.replace(fresh(since))?;
        Some(self.close(open, metrics))
    }

    fn close(&mut self, open: OpenWindow, metrics: &[Metric]) -> Closed {
        let day = self.day(open.number);
        self.allowance.begin(day);
        let mut sums = vec![0i64; metrics.len()];
        if self.blocked_day != Some(day) {
            for (device, totals) in &open.devices {
                let mut vector: Vec<i64> = totals
                    .iter()
                    .zip(metrics)
                    .map(|(total, m)| steps_of(*total, m.bound, self.steps))
                    .collect();
                self.allowance.clip(*device, &mut vector);
                for (sum, v) in sums.iter_mut().zip(vector) {
                    *sum += v;
                }
            }
        }
        let late = open.since_ns.saturating_sub(self.start_ns(open.number));
        Closed {
            number: open.number,
            is_partial: late > self.period_ns / 100,
            sums,
        }
    }

    /// What is kept over a restart; without exact numbers nothing of the open window and of what devices used.
    pub(super) fn to_state(&self, exact: bool) -> WindowState {
        WindowState {
            last_s: self.last_s,
            used: exact.then(|| self.allowance.to_stored()),
            open: self.open.clone().filter(|_| exact),
        }
    }

    /// Goes on where the state ends, when that is where the ledger ends as well. Gives whether it is.
    pub(super) fn restore(&mut self, state: WindowState, noted: Option<u64>) -> bool {
        if state.last_s != noted {
            return false;
        }
        self.last_s = state.last_s;
        if let Some(used) = state.used {
            self.allowance.restore(used);
        }
        let after = |open: &OpenWindow| noted.is_none_or(|s| self.end_s(open.number) > s);
        self.open = state.open.filter(after).map(|mut open| {
            // What passed while nobody watched is missing: the window is partial.
            open.since_ns = open
                .since_ns
                .max(self.start_ns(open.number) + self.period_ns / 50);
            open
        });
        true
    }
}

/// An amount in steps of its bound, rounded to the nearest.
fn steps_of(amount: u64, bound: u64, steps: u64) -> i64 {
    let bound = u128::from(bound.max(1));
    let n = (u128::from(amount) * u128::from(steps) + bound / 2) / bound;
    n.min(1 << 40) as i64
}
