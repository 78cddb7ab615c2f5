//! How long a thread that carries packets keeps the processor at a time.

use crate::sys;

/// A short turn, ns: a thread that wakes up for a packet goes before others whose turns are longer (milliseconds), instead of
/// waiting for the end of theirs. Beside a busy machine's other work that is most of a packet's delay.
const SHORT: u64 = 200_000;
/// Packets at once that make a bulk transfer. It is cheaper in large batches, which short turns would cut.
const BULK: usize = 16;
/// Batches in a row that change the kind of turns.
const CHANGE: u32 = 8;

/// Turns of the calling thread: short ones, except in bulk transfers.
pub(crate) struct Turns {
    short: bool,
    /// Batches in a row that speak for the other kind.
    against: u32,
}

impl Turns {
    pub(crate) fn short() -> Self {
        let mut turns = Self {
            short: false,
            against: 0,
        };
        turns.change();
        turns
    }

    /// Notes a batch of so many packets.
    pub(crate) fn note(&mut self, packets: usize) {
        if self.count(packets) {
            self.change();
        }
    }

    /// Whether it is time to change.
    fn count(&mut self, packets: usize) -> bool {
        let agrees = self.short == (packets < BULK);
        self.against = if agrees { 0 } else { self.against + 1 };
        self.against >= CHANGE
    }

    fn change(&mut self) {
        self.short = !self.short;
        self.against = 0;
        // 0 means ordinary ones. A container may forbid it; packets then wait longer on a busy machine.
        if let Err(error) = sys::take_turns(if self.short { SHORT } else { 0 }) {
            tracing::debug!(%error, "turns on the processor stay as they are");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_many_batches_in_a_row_change_the_turns() {
        let mut turns = Turns::short();
        assert!((0..96).all(|i| !turns.count(if i % 8 == 7 { 1 } else { 64 })));
        assert!((0..7).all(|_| !turns.count(64)) && turns.count(64));
        turns.note(64);
        assert!(!turns.short);
        (0..8).for_each(|_| turns.note(2));
        assert!(turns.short);
    }
}
