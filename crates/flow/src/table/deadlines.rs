use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use chaff_abi::Nanos;

/// Queues for entries whose deadlines grow with the time at which they are made.
pub(super) const LANES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) at: Nanos,
    pub(super) serial: u64,
    pub(super) slot: u32,
}

/// A queue of deadlines with at most one true entry per flow, served in the order of [`Entry`]. Entries of flows that are
/// gone stay until they come up, or until there are more of them than of flows.
///
/// Deadlines of one kind mostly come in order and then cost a queue's push and pop; the others go through a heap.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    lanes: [VecDeque<Entry>; LANES],
    heap: BinaryHeap<Reverse<Entry>>,
    len: usize,
    /// The first entry's time; [`Nanos::MAX`] without one.
    next: Option<Nanos>,
}

impl Deadlines {
    #[inline(always)]
    pub(super) fn next(&self) -> Option<Nanos> {
        self.next
    }

    pub(super) fn push(&mut self, lane: usize, entry: Entry) {
        match self.lanes.get_mut(lane) {
            Some(lane) if lane.back().is_none_or(|last| *last <= entry) => lane.push_back(entry),
            _ => self.heap.push(Reverse(entry)),
        }
        self.len += 1;
        self.next = Some(self.next.map_or(entry.at, |next| next.min(entry.at)));
    }

    /// Puts an entry back that is out of order.
    pub(super) fn renew(&mut self, entry: Entry) {
        self.push(LANES, entry);
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let mut first = self.heap.peek().map(|e| e.0);
        let mut from = None;
        for (i, lane) in self.lanes.iter().enumerate() {
            if let Some(entry) = lane.front()
                && first.is_none_or(|best| *entry < best)
            {
                (first, from) = (Some(*entry), Some(i));
            }
        }
        match from.and_then(|i| self.lanes.get_mut(i)) {
            Some(lane) => lane.pop_front(),
            None => self.heap.pop().map(|e| e.0),
        };
        self.len -= usize::from(first.is_some());
        self.set_next();
        first
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Throws out untrue entries when there are more of them than of flows.
    pub(super) fn compact(&mut self, flows: usize, is_true: impl Fn(&Entry) -> bool) {
        if self.len <= 2 * flows + 64 {
            return;
        }
        for lane in &mut self.lanes {
            lane.retain(&is_true);
        }
        self.heap.retain(|e| is_true(&e.0));
        self.len = self.heap.len() + self.lanes.iter().map(VecDeque::len).sum::<usize>();
        self.set_next();
    }

    fn set_next(&mut self) {
        let lanes = self.lanes.iter().filter_map(|lane| lane.front());
        self.next = lanes
            .map(|e| e.at)
            .chain(self.heap.peek().map(|e| e.0.at))
            .min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gives_entries_in_order(
            steps in prop::collection::vec((0..LANES + 1, 0..50u64, any::<bool>()), 1..200),
        ) {
            let mut queue = Deadlines::default();
            let mut model: Vec<Entry> = Vec::new();
            for (serial, (lane, at, pop)) in (0u64..).zip(steps) {
                if pop {
                    model.sort_unstable();
                    let expected = (!model.is_empty()).then(|| model.remove(0));
                    prop_assert_eq!(queue.pop(), expected);
                } else {
                    let entry = Entry { at: Nanos(at), serial, slot: 0 };
                    queue.push(lane, entry);
                    model.push(entry);
                }
                prop_assert_eq!(queue.next(), model.iter().map(|e| e.at).min());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                queue.compact(0, |e| e.serial % 2 == 0 || model.len() <= 64);
                if model.len() > 64 {
                    model.retain(|e| e.serial % 2 == 0);
                }
            }
        }
    }
}
