use crate::{Constant, CoverError, Demand, Random, RandomPlus, Window};
use chaff_abi::Nanos;
use rand::RngCore;

/// Decides how many dummies of how many bytes each slot gets.
///
/// Slots belong together in blocks of [`Generator::rows`] (one run of a model, one quota period). The scheduler asks for
/// a block when it comes to the first slot it needs of it: [`Generator::seek`] with the number of the block's first
/// slot, then [`Generator::fill`] with an rng that depends only on the seed, the device and the block. Blocks come in
/// increasing order and may be missing (a late gateway skips slots). So that a run can be repeated, what `fill` writes must depend
/// only on the parameters, what [`Generator::start`] drew, the block, the rng and, for generators that want it, `past`.
pub trait Generator: Send {
    /// Length of a slot; not zero.
    fn slot(&self) -> Nanos;

    /// Slots of a block, 1 to 65,536: the length of `out` in every [`Generator::fill`].
    fn rows(&self) -> usize {
        1
    }

    /// Called once, before everything else, for what is drawn once per run.
    fn start(&mut self, rng: &mut dyn RngCore) {
        let _ = rng;
    }

    /// Says which slot `out[0]` of the next [`Generator::fill`] is.
    fn seek(&mut self, slot: u64) {
        let _ = slot;
    }

    /// Writes the demand of every slot of the block.
    ///
    /// # Errors
    /// [`CoverError`] when it cannot; nothing of `out` is used then.
    fn fill(
        &mut self,
        past: &Window,
        rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError>;

    /// What reports call it.
    fn name(&self) -> &str;

    /// The only UDP payloads of its dummies, ascending, at most three; empty: any.
    fn sizes(&self) -> &[u16] {
        &[]
    }

    /// When it makes cover; `None`: as [`crate::SchedulerConfig::mode`] says.
    fn mask(&self) -> Option<crate::Mask> {
        None
    }
}

/// No cover. The name has an underscore because `None` is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct None_ {
    /// Length of a slot, default 100 ms.
    pub slot: Nanos,
}

impl Default for None_ {
    fn default() -> Self {
        Self {
            slot: Nanos::from_millis(100),
        }
    }
}

impl Generator for None_ {
    fn slot(&self) -> Nanos {
        self.slot
    }

    fn fill(
        &mut self,
        _past: &Window,
        _rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError> {
        out.fill(Demand::NONE);
        Ok(())
    }

    fn name(&self) -> &str {
        "none"
    }
}

/// Names that [`by_name`] knows.
pub const NAMES: [&str; 4] = ["none", "constant", "random", "random+"];

/// The built-in generator with this name for slots of length `slot`, other parameters default; where a slot is longer
/// than the default period, a period is one slot.
pub fn by_name(name: &str, slot: Nanos) -> Option<Box<dyn Generator>> {
    let (constant, random, plus) = (
        Constant::default(),
        Random::default(),
        RandomPlus::default(),
    );
    Some(match name {
        "none" => Box::new(None_ { slot }),
        "constant" => Box::new(Constant {
            slot,
            period: constant.period.max(slot),
            ..constant
        }),
        "random" => Box::new(Random {
            slot,
            period: random.period.max(slot),
            ..random
        }),
        "random+" => {
            let random = Random {
                slot,
                period: plus.random.period.max(slot),
                ..plus.random
            };
            Box::new(RandomPlus::new(random, plus.mean_from, plus.mean_to))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_gives_the_generator_of_that_name_and_slot() {
        for slot in [1, 100, 7_000, 60_000].map(Nanos::from_millis) {
            for name in NAMES {
                let mut g = by_name(name, slot).expect("listed");
                assert_eq!((g.name(), g.slot()), (name, slot));
                let mut out = vec![Demand::NONE; g.rows()];
                let mut rng = rand_chacha::rand_core::SeedableRng::seed_from_u64(1);
                let rng: &mut rand_chacha::ChaCha20Rng = &mut rng;
                g.fill(&Window::new(1), rng, &mut out).expect("in range");
            }
        }
        assert!(by_name("envelope?", Nanos::from_millis(100)).is_none());
    }
}
