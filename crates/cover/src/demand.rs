use chaff_abi::{Dir, SlotCounters};
use std::collections::VecDeque;

/// What a generator wants in one slot. Arrays are indexed by [`Dir`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Demand {
    /// Dummies.
    pub packets: [u32; 2],
    /// UDP payload bytes of all of them together; without packets they count for nothing.
    pub bytes: [u32; 2],
}

impl Demand {
    /// Nothing in either direction.
    pub const NONE: Self = Self {
        packets: [0; 2],
        bytes: [0; 2],
    };

    /// Adds dummies of `bytes` together in one direction; saturates.
    pub fn add(&mut self, dir: Dir, packets: u32, bytes: u32) {
        let i = dir.index();
        self.packets[i] = self.packets[i].saturating_add(packets);
        self.bytes[i] = self.bytes[i].saturating_add(bytes);
    }
}

/// The last slots of one device's real traffic, and its totals since the beginning.
#[derive(Clone, Debug)]
pub struct Window {
    slots: VecDeque<SlotCounters>,
    capacity: usize,
    pushed: u64,
    idle: Option<u64>,
    total: SlotCounters,
}

impl Window {
    /// A window of the last `slots` slots (at least one).
    pub fn new(slots: usize) -> Self {
        let capacity = slots.max(1);
        Self {
            slots: VecDeque::with_capacity(capacity),
            capacity,
            pushed: 0,
            idle: None,
            total: SlotCounters::default(),
        }
    }

    /// Appends the slot that has just ended.
    pub fn push(&mut self, slot: SlotCounters) {
        if self.slots.len() == self.capacity {
            self.slots.pop_front();
        }
        self.slots.push_back(slot);
        self.pushed += 1;
        self.total.add(&slot);
        if slot.packets != [0, 0] {
            self.idle = Some(0);
        } else if let Some(idle) = &mut self.idle {
            *idle += 1;
        }
    }

    /// The slots, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &SlotCounters> + ExactSizeIterator {
        self.slots.iter()
    }

    /// The slot `back` before the newest one; `None` beyond what is kept.
    pub fn get(&self, back: usize) -> Option<&SlotCounters> {
        self.slots.iter().rev().nth(back)
    }

    /// Slots kept at most.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Slots pushed since the beginning.
    pub const fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Slots without a real packet since the last one with any; `None` before the first real packet.
    pub const fn idle_slots(&self) -> Option<u64> {
        self.idle
    }

    /// Sums since the beginning.
    pub const fn total(&self) -> &SlotCounters {
        &self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(packets: u64) -> SlotCounters {
        SlotCounters {
            packets: [packets, 0],
            bytes: [packets * 100, 0],
            ..SlotCounters::default()
        }
    }

    #[test]
    fn keeps_the_last_slots_and_the_sums_of_all() {
        let mut w = Window::new(2);
        assert_eq!(w.idle_slots(), None);
        w.push(slot(0));
        assert_eq!(w.idle_slots(), None);
        w.push(slot(3));
        w.push(slot(0));
        w.push(slot(0));
        assert_eq!(
            (w.iter().len(), w.pushed(), w.idle_slots()),
            (2, 4, Some(2))
        );
        assert_eq!(w.total().bytes, [300, 0]);
        w.push(slot(1));
        assert_eq!(w.idle_slots(), Some(0));
        assert_eq!(w.get(0).map(|s| s.packets[0]), Some(1));
        assert_eq!(w.get(2), None);
    }
}
