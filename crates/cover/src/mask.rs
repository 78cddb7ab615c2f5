use chaff_abi::Nanos;
use rand::Rng;
use rand_chacha::ChaCha20Rng;

/// Hides how long a device is active: cover goes on after it, and starts without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Mean time that cover lasts after the last real packet, and mean length of cover that starts by itself; exponential.
    pub hold: Nanos,
    /// Mean time between such starts; exponential.
    pub pause: Nanos,
}

/// Where a [`Mask`] is.
#[derive(Clone, Debug)]
pub(crate) struct Masking {
    mask: Mask,
    /// End of the cover under way.
    until: Nanos,
    /// How long it lasts after a real packet.
    hold: Nanos,
}

impl Masking {
    pub(crate) fn new(mask: Mask) -> Self {
        Self {
            mask,
            until: Nanos::ZERO,
            hold: Nanos::ZERO,
        }
    }

    /// Whether the slot that begins at `start` has cover. `active`: the device sent or received in the last slot that is known. `rng`
    /// is the slot's own.
    pub(crate) fn covers(
        &mut self,
        start: Nanos,
        slot: Nanos,
        active: bool,
        rng: &mut ChaCha20Rng,
    ) -> bool {
        // Both are drawn in every slot, so that they do not depend on what the device did.
        let begins = exponential(self.mask.pause, rng) < slot;
        let hold = exponential(self.mask.hold, rng);
        if active {
            if start >= self.until {
                self.hold = hold;
            }
            self.until = self.until.max(start + self.hold.max(slot));
        } else if begins {
            if start >= self.until {
                self.hold = hold;
            }
            self.until = self.until.max(start + hold);
        }
        start < self.until
    }
}

fn exponential(mean: Nanos, rng: &mut ChaCha20Rng) -> Nanos {
    Nanos::from_secs_f64(-mean.as_secs_f64() * (1.0 - rng.random::<f64>()).ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    const SLOT: Nanos = Nanos::from_millis(100);

    /// Whether each slot has cover, when the device is active in the slots of `active`.
    fn run(mask: Mask, slots: u64, active: std::ops::Range<u64>, seed: u64) -> Vec<bool> {
        let mut masking = Masking::new(mask);
        (0..slots)
            .map(|slot| {
                let mut rng = ChaCha20Rng::seed_from_u64(seed);
                rng.set_stream(slot);
                masking.covers(SLOT.times(slot), SLOT, active.contains(&slot), &mut rng)
            })
            .collect()
    }

    #[test]
    fn cover_starts_with_the_device_and_goes_on_for_a_random_time() {
        let mask = Mask {
            hold: Nanos::from_secs(20),
            pause: Nanos::from_secs(86_400),
        };
        let mut tails = Vec::new();
        for seed in 0..200 {
            let covered = run(mask, 3_000, 50..80, seed);
            if covered[..50].iter().any(|c| *c) {
                // It had started by itself.
                continue;
            }
            assert!(covered[50..80].iter().all(|c| *c));
            tails.push(covered[80..].iter().take_while(|c| **c).count() as f64 / 10.0);
        }
        // The mean of about 200 exponential lengths of mean 20 s: six standard errors are 8.5 s.
        let mean = tails.iter().sum::<f64>() / tails.len() as f64;
        assert!(
            tails.len() > 150 && (11.0..29.0).contains(&mean),
            "{mean} s of {}",
            tails.len()
        );
    }

    #[test]
    fn cover_starts_without_the_device() {
        let mask = Mask {
            hold: Nanos::from_secs(10),
            pause: Nanos::from_secs(60),
        };
        let covered = run(mask, 200_000, 0..0, 3);
        let share = covered.iter().filter(|c| **c).count() as f64 / covered.len() as f64;
        // Of 20,000 s about 1 - exp(-10/60) are covered: starts come as a Poisson process. Some 280 stretches.
        let want = 1.0 - (-10.0f64 / 60.0).exp();
        assert!((share - want).abs() < 0.06, "{share}, wanted {want}");
        assert!(!covered[0] || covered.iter().any(|c| !c));
    }
}
