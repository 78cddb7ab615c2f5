//! How long a thread that carries packets keeps the processor at a time.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys;

/// A short turn, ns: a thread that wakes up for a packet goes before others whose turns are longer (milliseconds), instead of
/// waiting for the end of theirs. Beside a busy machine's other work that is most of a packet's delay.
const SHORT: u64 = 200_000;
/// Packets at once that make a bulk transfer. It is cheaper in large batches, which short turns would cut.
const BULK: usize = 16;
/// Batches in a row that change the kind of turns.
const CHANGE: u32 = 8;

/// Whether a bulk transfer runs in one direction of a tunnel: kept by the thread that carries it, read by the one that carries
/// the acknowledgements back, whose short turns would cut the batches of the first.
#[derive(Default)]
pub(crate) struct Bulk(AtomicBool);

/// Turns of the calling thread: short ones, except in bulk transfers.
pub(crate) struct Turns<'a> {
    short: bool,
    /// Batches in a row that speak for the other kind.
    against: u32,
    own: &'a Bulk,
    other: &'a Bulk,
}

impl<'a> Turns<'a> {
    /// Short turns for the thread that carries `own`'s direction.
    pub(crate) fn short(own: &'a Bulk, other: &'a Bulk) -> Self {
        let turns = Self {
            short: true,
            against: 0,
            own,
            other,
        };
        take(SHORT);
        turns
    }

    /// Notes a batch of so many packets.
    pub(crate) fn note(&mut self, packets: usize) {
        if self.count(packets) {
            take(if self.short { SHORT } else { 0 });
        }
    }

    /// Whether it is time to change.
    fn count(&mut self, packets: usize) -> bool {
        let bulk = self.own.0.load(Ordering::Relaxed);
        let agrees = bulk == (packets >= BULK);
        self.against = if agrees { 0 } else { self.against + 1 };
        if self.against >= CHANGE {
            self.own.0.store(!bulk, Ordering::Relaxed);
            self.against = 0;
        }
        let short = ![self.own, self.other]
            .iter()
            .any(|b| b.0.load(Ordering::Relaxed));
        std::mem::replace(&mut self.short, short) != short
    }
}

/// Gives the calling thread short turns for good.
pub(crate) fn take_short() {
    take(SHORT);
}

/// Turns of `ns`; 0 means ordinary ones.
fn take(ns: u64) {
    // A container may forbid it; packets then wait longer on a busy machine.
    if let Err(error) = sys::take_turns(ns) {
        tracing::debug!(%error, "turns on the processor stay as they are");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_many_batches_in_a_row_change_the_turns() {
        let (own, other) = (Bulk::default(), Bulk::default());
        let mut turns = Turns::short(&own, &other);
        assert!((0..96).all(|i| !turns.count(if i % 8 == 7 { 1 } else { 64 })));
        assert!((0..7).all(|_| !turns.count(64)) && turns.count(64));
        assert!(!turns.short);
        (0..8).for_each(|_| turns.note(2));
        assert!(turns.short);
    }

    #[test]
    fn acknowledgements_follow_the_turns_of_the_bulk_they_answer() {
        let (bulk, acks) = (Bulk::default(), Bulk::default());
        let (mut forth, mut back) = (Turns::short(&bulk, &acks), Turns::short(&acks, &bulk));
        (0..8).for_each(|_| forth.note(64));
        assert!(back.short);
        assert!(back.count(2));
        assert!(!back.short);
        (0..8).for_each(|_| forth.note(2));
        assert!(back.count(2) && back.short);
    }
}
