use crate::{CoverError, Demand, Generator, Window};
use chaff_abi::Nanos;
use rand::RngCore;

/// Replays a table of demands, one row a slot, from the start again at its end.
///
/// Both directions of a row belong to the same slot (the reference mixer takes a new row for each direction).
#[derive(Clone, Debug)]
pub struct Recorded {
    slot: Nanos,
    rows: Vec<Demand>,
    next: usize,
}

impl Recorded {
    /// A generator of these rows, for example from [`crate::parity::read_rows`].
    ///
    /// # Errors
    /// [`CoverError::Empty`] without rows.
    pub fn new(slot: Nanos, rows: Vec<Demand>) -> Result<Self, CoverError> {
        if rows.is_empty() {
            return Err(CoverError::Empty);
        }
        Ok(Self {
            slot,
            rows,
            next: 0,
        })
    }

    /// Rows of the table.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Never: a recording has rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Generator for Recorded {
    fn slot(&self) -> Nanos {
        self.slot
    }

    fn seek(&mut self, slot: u64) {
        // The remainder is below len(), a usize.
        self.next = (slot % self.rows.len() as u64) as usize;
    }

    fn fill(
        &mut self,
        _past: &Window,
        _rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError> {
        for demand in out {
            *demand = self.rows[self.next];
            self.next = (self.next + 1) % self.rows.len();
        }
        Ok(())
    }

    fn name(&self) -> &str {
        "recorded"
    }
}
