//! The flows in progress: a slab, an index over it, and the order in which the flows were created.

use super::dissect::Dissection;
use super::flow::{Core, Sequence, Statistics};
use super::packet::Packet;
use crate::index::Index;
use crate::plugin;

/// End of the list.
const NONE: u32 = u32::MAX;

/// Flows in progress, a few hundred bytes each. What a configuration does not use takes no room.
pub(super) struct Cache {
    index: Index,
    cores: Vec<Entry>,
    statistics: Vec<Statistics>,
    extras: Vec<Extras>,
    has_statistics: bool,
    has_extras: bool,
    /// First of the unused slots, which are linked by `next`.
    free: u32,
    oldest: u32,
    newest: u32,
}

/// A flow and its neighbours in the order of creation.
struct Entry {
    core: Core,
    previous: u32,
    next: u32,
}

/// Parts of a flow that only some configurations have.
#[derive(Default)]
pub(super) struct Extras {
    pub(super) sequence: Sequence,
    pub(super) dissection: Dissection,
    pub(super) states: Option<Box<plugin::States>>,
}

/// A flow that left the cache.
pub(super) struct Taken {
    pub(super) core: Core,
    pub(super) statistics: Statistics,
    pub(super) extras: Extras,
}

/// A flow in the cache.
pub(super) struct Found<'a> {
    pub(super) core: &'a mut Core,
    pub(super) statistics: Option<&'a mut Statistics>,
    pub(super) extras: Option<&'a mut Extras>,
}

impl Cache {
    /// An empty cache for flows with or without statistics and extras.
    pub(super) fn new(has_statistics: bool, has_extras: bool) -> Self {
        Self {
            index: Index::default(),
            cores: Vec::new(),
            statistics: Vec::new(),
            extras: Vec::new(),
            has_statistics,
            has_extras,
            free: NONE,
            oldest: NONE,
            newest: NONE,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// The slot of the packet's flow.
    #[inline]
    pub(super) fn find(&self, tag: u32, packet: &Packet<'_>) -> Option<u32> {
        self.index.find(tag, |slot| {
            self.cores
                .get(slot as usize)
                .is_some_and(|entry| entry.core.has(packet))
        })
    }

    #[inline]
    pub(super) fn core(&self, slot: u32) -> Option<&Core> {
        self.cores.get(slot as usize).map(|entry| &entry.core)
    }

    #[inline]
    pub(super) fn get(&mut self, slot: u32) -> Option<Found<'_>> {
        let at = slot as usize;
        Some(Found {
            core: &mut self.cores.get_mut(at)?.core,
            statistics: self.statistics.get_mut(at),
            extras: self.extras.get_mut(at),
        })
    }

    /// The flow that was created first.
    #[inline]
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Adds a flow as the newest one.
    pub(super) fn insert(&mut self, core: Core) -> u32 {
        let entry = Entry {
            core,
            previous: self.newest,
            next: NONE,
        };
        let slot = if let Some(place) = self.cores.get_mut(self.free as usize) {
            let slot = self.free;
            self.free = place.next;
            *place = entry;
            if let Some(statistics) = self.statistics.get_mut(slot as usize) {
                *statistics = Statistics::default();
            }
            slot
        } else {
            let slot = self.cores.len() as u32;
            self.cores.push(entry);
            if self.has_statistics {
                self.statistics.push(Statistics::default());
            }
            if self.has_extras {
                self.extras.push(Extras::default());
            }
            slot
        };
        match self.cores.get_mut(self.newest as usize) {
            Some(newest) => newest.next = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
        self.index.insert(core.tag, slot);
        slot
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Taken> {
        let at = slot as usize;
        let entry = self.cores.get_mut(at)?;
        let (core, previous, next) = (entry.core, entry.previous, entry.next);
        entry.next = self.free;
        self.free = slot;
        match self.cores.get_mut(previous as usize) {
            Some(entry) => entry.next = next,
            None => self.oldest = next,
        }
        match self.cores.get_mut(next as usize) {
            Some(entry) => entry.previous = previous,
            None => self.newest = previous,
        }
        self.index.remove(core.tag, slot);
        Some(Taken {
            core,
            statistics: self.statistics.get(at).copied().unwrap_or_default(),
            extras: self
                .extras
                .get_mut(at)
                .map(std::mem::take)
                .unwrap_or_default(),
        })
    }
}
