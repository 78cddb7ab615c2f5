use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::vector::Law;

/// How a device's bound is given out over the windows of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cap {
    /// A running cap: what a device did not use stays for the later windows of the same UTC day, so that a bursty device pays
    /// for what it uses. Protects one UTC day of one device; any other 24 hours of it lie in two such days.
    #[default]
    Day,
    /// The same cap for each window. Protects any 24 hours of one device that begin with a window.
    Window,
}

/// What each device may still contribute, in steps (Laplace) or squared steps (Gaussian).
#[derive(Clone, Debug)]
pub(super) struct Allowance {
    cap: Cap,
    is_squared: bool,
    /// Of a day, or of a window.
    full: u64,
    day: u64,
    used: BTreeMap<u32, u64>,
}

/// What is kept of it over a restart: the exact use of each device. Private.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Used {
    day: u64,
    used: BTreeMap<u32, u64>,
}

impl Allowance {
    pub(super) fn new(cap: Cap, law: Law, windows: u64) -> Self {
        match law {
            Law::Laplace { l1, .. } => Self::with(cap, false, l1, windows),
            Law::Gaussian { squares, .. } => Self::with(cap, true, squares, windows),
        }
    }

    /// A bound of the L1 norm.
    pub(super) fn linear(cap: Cap, l1: u64, windows: u64) -> Self {
        Self::with(cap, false, l1, windows)
    }

    fn with(cap: Cap, is_squared: bool, day: u64, windows: u64) -> Self {
        let full = match cap {
            Cap::Day => day,
            Cap::Window => day / windows,
        };
        Self {
            cap,
            is_squared,
            full,
            day: 0,
            used: BTreeMap::new(),
        }
    }

    /// The largest contribution of a unit within what is renewed together, steps or squared steps.
    pub(super) fn full(&self) -> u64 {
        self.full
    }

    /// Begins a window of the UTC day `day`.
    pub(super) fn begin(&mut self, day: u64) {
        if self.cap == Cap::Window || day > self.day {
            self.used.clear();
            self.day = self.day.max(day);
        }
    }

    /// Shrinks a device's vector until it is within what the device has left, and takes that off.
    pub(super) fn clip(&mut self, device: u32, vector: &mut [i64]) {
        let used = self.used.get(&device).copied().unwrap_or(0);
        let left = self.full.saturating_sub(used);
        let size = self.size(vector);
        if size > u128::from(left) {
            // Whole steps towards zero: the norm is below what is left, whatever the rounding of the factor.
            let factor = match self.is_squared {
                true => (left as f64 / size as f64).sqrt(),
                false => left as f64 / size as f64,
            };
            for v in vector.iter_mut() {
                *v = (*v as f64 * factor) as i64;
            }
            while self.size(vector) > u128::from(left) {
                // The factor was rounded up.
                let largest = vector.iter_mut().max_by_key(|v| v.unsigned_abs());
                match largest {
                    Some(v) => *v -= v.signum(),
                    None => break,
                }
            }
        }
        let taken = self.size(vector) as u64;
        if taken > 0 {
            self.used.insert(device, used + taken);
        }
    }

    fn size(&self, vector: &[i64]) -> u128 {
        vector
            .iter()
            .map(|v| {
                let v = u128::from(v.unsigned_abs());
                if self.is_squared { v * v } else { v }
            })
            .sum()
    }

    pub(super) fn to_stored(&self) -> Used {
        Used {
            day: self.day,
            used: self.used.clone(),
        }
    }

    pub(super) fn restore(&mut self, stored: Used) {
        self.day = stored.day;
        self.used = stored.used;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epsilon, Rho};
    use proptest::prelude::*;

    fn laws() -> [Law; 2] {
        [
            Law::Laplace {
                l1: 1_000,
                epsilon: Epsilon::ONE,
            },
            Law::Gaussian {
                squares: 90_000,
                rho: Rho::from_nanos(1_000).unwrap(),
            },
        ]
    }

    proptest! {
        #[test]
        fn a_device_never_contributes_more_than_its_bound_in_a_day(
            windows in proptest::collection::vec((0..3u64, proptest::collection::vec(0..5_000i64, 3)), 1..40),
            cap in prop_oneof![Just(Cap::Day), Just(Cap::Window)],
        ) {
            for law in laws() {
                let mut allowance = Allowance::new(cap, law, 4);
                let mut by_day = BTreeMap::<u64, u128>::new();
                let mut days: Vec<_> = windows.clone();
                days.sort_by_key(|(day, _)| *day);
                for (day, vector) in days {
                    let mut vector = vector;
                    allowance.begin(day);
                    allowance.clip(7, &mut vector);
                    prop_assert!(vector.iter().all(|v| *v >= 0));
                    let size = allowance.size(&vector);
                    prop_assert!(size <= u128::from(allowance.full()));
                    *by_day.entry(day).or_default() += size;
                }
                if cap == Cap::Day {
                    prop_assert!(by_day.values().all(|sum| *sum <= u128::from(allowance.full())));
                }
            }
        }
    }

    #[test]
    fn a_burst_is_paid_from_the_whole_day() {
        let mut allowance = Allowance::new(Cap::Day, laws()[0], 4);
        allowance.begin(1);
        let mut burst = [700, 200];
        allowance.clip(1, &mut burst);
        assert_eq!(burst, [700, 200]);
        let mut more = [150, 150];
        allowance.clip(1, &mut more);
        assert_eq!(more, [50, 50]);
        let mut other = [1_000];
        allowance.clip(2, &mut other);
        assert_eq!(other, [1_000]);
        // A restart keeps what was used; the next day begins anew.
        let mut again = Allowance::new(Cap::Day, laws()[0], 4);
        again.restore(allowance.to_stored());
        again.begin(1);
        let mut nothing = [10];
        again.clip(1, &mut nothing);
        assert_eq!(nothing, [0]);
        again.begin(2);
        let mut all = [10];
        again.clip(1, &mut all);
        assert_eq!(all, [10]);
    }
}
