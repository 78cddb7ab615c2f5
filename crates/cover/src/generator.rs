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

    /// Slots of a block, at least 1: the length of `out` in every [`Generator::fill`].
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

/// The built-in generator with this name and default parameters.
pub fn by_name(name: &str) -> Option<Box<dyn Generator>> {
    Some(match name {
        "none" => Box::new(None_::default()),
        "constant" => Box::new(Constant::default()),
        "random" => Box::new(Random::default()),
        "random+" => Box::new(RandomPlus::default()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_gives_the_generator_of_that_name() {
        for name in NAMES {
            assert_eq!(
                by_name(name).map(|g| g.name().to_owned()),
                Some(name.into())
            );
        }
        assert!(by_name("envelope?").is_none());
    }
}
