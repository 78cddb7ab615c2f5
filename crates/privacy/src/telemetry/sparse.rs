//! Publishing only what moved.
//!
//! Source: Kellaris, Papadopoulos, Xiao, Papadias, "Differentially Private Event Sequences over Infinite Streams" (2014): budget
//! absorption.

use serde::{Deserialize, Serialize};

use crate::Epsilon;
use crate::vector::{Draws, Law};

/// Releases totals only when they moved by more than the noise would hide (experimental).
///
/// Half of a window's share of ε pays for a noised distance to what was last published, the other half for publishing. A
/// window that publishes uses the halves of the windows before it that did not, and as many after it stay silent: so less noise
/// where little changes. The pattern of publishing depends on the data through the noised distance only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sparse;

/// What was published last and which windows are used up. Nothing of it is private.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Moves {
    /// Steps.
    pub(super) last: Vec<i64>,
    /// The first window whose share was not used.
    free_from: u64,
}

/// What a window may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chance {
    /// Shares that can be used, at least 1.
    pub(super) shares: u64,
    pub(super) decision: Law,
    pub(super) release: Law,
}

impl Moves {
    pub(super) fn new(metrics: usize, window: u64) -> Self {
        Self {
            last: vec![0; metrics],
            free_from: window,
        }
    }

    /// What window `number` may do with `share` of ε and a sensitivity of `l1`, when a day has `windows`; `None` while it must stay
    /// silent.
    pub(super) fn chance(
        &self,
        number: u64,
        windows: u64,
        l1: u64,
        share: Epsilon,
    ) -> Option<Chance> {
        if number < self.free_from {
            return None;
        }
        let half = Epsilon::from_nanos(share.nanos() / 2).ok()?;
        let shares = (number - self.free_from + 1).min(windows);
        let together = Epsilon::from_nanos(half.nanos() * shares).ok()?;
        Some(Chance {
            shares,
            decision: Law::Laplace { l1, epsilon: half },
            release: Law::Laplace {
                l1,
                epsilon: together,
            },
        })
    }

    /// Whether the sums moved by more than publishing them would err.
    pub(super) fn has_moved(&self, sums: &[i64], chance: &Chance, draws: &mut Draws) -> bool {
        let distance: i64 = sums
            .iter()
            .zip(&self.last)
            .map(|(a, b)| (a - b).abs())
            .sum();
        let noised = distance.saturating_add(draws.draw(chance.decision));
        noised as f64 > sums.len() as f64 * chance.release.scale()
    }

    pub(super) fn publish(&mut self, number: u64, shares: u64, values: &[i64]) {
        self.last = values.to_vec();
        // The window itself, and as many silent ones as it used shares of windows before.
        self.free_from = number + shares;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entropy;

    #[test]
    fn no_day_of_windows_publishes_for_more_than_half() {
        let (windows, l1) = (24, 1_000);
        let share = Epsilon::from_nanos(1_000_000_000 / windows).unwrap();
        let mut draws = Draws::new(Entropy::Seed(1));
        for seed in 0..40u64 {
            let mut moves = Moves::new(1, 0);
            let mut spent = Vec::new();
            for window in 0..400 {
                // Flat with jumps, or always moving.
                let sum = match seed % 2 {
                    0 => (window / 37 * 50_000) as i64,
                    _ => (window * seed * 9_999 % 100_000) as i64,
                };
                let mut paid = 0;
                if let Some(chance) = moves.chance(window, windows, l1, share)
                    && moves.has_moved(&[sum], &chance, &mut draws)
                {
                    let Law::Laplace { epsilon, .. } = chance.release else {
                        panic!("publishing has Laplace noise")
                    };
                    paid = epsilon.nanos();
                    moves.publish(window, chance.shares, &[sum + draws.draw(chance.release)]);
                }
                spent.push(paid);
            }
            assert!(spent.iter().any(|p| *p > 0));
            for day in spent.windows(windows as usize) {
                let sum: u64 = day.iter().sum();
                assert!(sum <= share.nanos() * windows / 2, "{seed}: {sum}");
            }
        }
    }
}
