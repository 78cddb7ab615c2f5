//! Calls of one peer, one by one: are they regular as a clock?

use serde::{Deserialize, Serialize};

/// Calls whose distances are looked at.
const GAPS: usize = 16;
/// A packet after so much silence is a new call, ns.
const QUIET: u64 = 500_000_000;
/// Retries and checks are regular for less time than this, seconds.
const SPAN: f64 = 9.0;
/// No clock is taken for more exact than this share of its period.
const EXACT: f64 = 0.005;

/// Calls from the device to one peer.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    /// The peer was not known, and learning was over, when it was first called.
    pub(super) fresh: bool,
    /// How rare a new peer of this kind was then, nats.
    pub(super) novelty: f64,
    pub(super) calls: u64,
    pub(super) last: u64,
    /// Bytes sent so far.
    pub(super) bytes: u64,
    call: u64,
    gaps: Vec<f64>,
    /// Its clock is among the habits already.
    pub(super) noted: bool,
    /// Bytes sent in the running short window, and its number.
    pub(super) sent: (u64, u64),
}

/// A clock behind calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Clock {
    /// Median distance, seconds.
    pub(super) period: f64,
    /// Largest deviation from it, as a share.
    pub(super) jitter: f64,
    /// How rare such regularity is for calls at random, nats.
    pub(super) surprise: f64,
}

/// A clock that a device is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Habit {
    pub(super) protocol: u8,
    /// 0 for ports that stand for nothing.
    pub(super) port: u16,
    /// Logarithm of the period in steps of a quarter.
    pub(super) period: i16,
}

impl Channel {
    pub(super) fn new(fresh: bool, novelty: f64) -> Self {
        Self {
            fresh,
            novelty,
            calls: 0,
            last: 0,
            bytes: 0,
            call: 0,
            gaps: Vec::new(),
            noted: false,
            sent: (0, 0),
        }
    }

    /// Takes packets that the device sent from `first` to `last`; whether they are a new call.
    pub(super) fn hear(&mut self, first: u64, last: u64) -> bool {
        let first = first.max(self.last);
        let is_new = self.calls == 0 || first - self.last >= QUIET;
        if is_new {
            if self.calls > 0 {
                if self.gaps.len() == GAPS {
                    self.gaps.remove(0);
                }
                self.gaps.push((first - self.call) as f64 / 1e9);
            }
            self.calls += 1;
            self.call = first;
        }
        self.last = last.max(first);
        is_new
    }

    /// The clock behind the calls, from three calls on that take [`SPAN`] together.
    ///
    /// Calls at random have exponential distances; one of them lies within a share `j` of the median `m` with a probability
    /// of at most `2 j / e`. The first distance tells the period and proves nothing.
    pub(super) fn clock(&self) -> Option<Clock> {
        if self.gaps.len() < 2 || self.gaps.iter().sum::<f64>() < SPAN {
            return None;
        }
        let mut sorted = self.gaps.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let period = sorted[sorted.len() / 2];
        if period <= 0.0 {
            return None;
        }
        let off = |g: &f64| (g - period).abs() / period;
        let jitter = self.gaps.iter().map(off).fold(0.0, f64::max);
        let one = (2.0 * jitter.max(EXACT) / std::f64::consts::E).min(1.0);
        Some(Clock {
            period,
            jitter,
            surprise: -one.ln() * (self.gaps.len() - 1) as f64,
        })
    }
}

impl Habit {
    pub(super) fn new(protocol: u8, port: u16, clock: &Clock) -> Self {
        Self {
            protocol,
            port: if port < 1_024 || protocol == 6 {
                port
            } else {
                0
            },
            period: (clock.period.max(1e-3).ln() * 4.0).round() as i16,
        }
    }

    /// Whether another one is the same but for its period, and that only by less than half.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.protocol, self.port) == (other.protocol, other.port)
            && (self.period - other.period).abs() <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(times: &[f64]) -> Option<Clock> {
        let mut c = Channel::new(true, 0.0);
        for t in times {
            let at = (t * 1e9) as u64;
            c.hear(at, at + 90_000_000);
        }
        c.clock()
    }

    #[test]
    fn a_clock_is_told_from_chance() {
        let exact = calls(&[1.0, 6.0, 11.0, 16.001, 21.0]).expect("enough calls");
        assert!((exact.period - 5.0).abs() < 0.01);
        assert!(exact.surprise > 16.0, "{exact:?}");
        let chance = calls(&[1.0, 2.0, 9.0, 10.5, 25.0]).expect("enough calls");
        assert!(chance.surprise < 2.0, "{chance:?}");
        assert_eq!(calls(&[1.0, 6.0]), None);
        // One connection with packets in a row is one call.
        assert_eq!(calls(&[1.0, 1.2, 1.5, 1.9]), None);
    }

    #[test]
    fn periods_of_about_the_same_length_are_one_habit() {
        let habit = |period| {
            Habit::new(
                6,
                443,
                &Clock {
                    period,
                    jitter: 0.0,
                    surprise: 9.0,
                },
            )
        };
        assert!(habit(60.0).is_like(&habit(64.0)));
        assert!(!habit(60.0).is_like(&habit(5.0)));
    }
}
