//! From flow keys to slots: open addressing with the hash's upper half beside each slot.

use super::packet::Packet;

/// Slot of an empty place.
const EMPTY: u32 = u32::MAX;

/// A hash table that holds slots of a slab; keys stay in the slab.
///
/// Linear probing, at most 3/4 full, removal shifts back. A look-up touches one cache line here and the flow itself.
pub(super) struct Index {
    places: Vec<Place>,
    len: usize,
}

#[derive(Clone, Copy)]
struct Place {
    tag: u32,
    slot: u32,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            places: vec![Place::VACANT; 64],
            len: 0,
        }
    }

    fn mask(&self) -> usize {
        self.places.len() - 1
    }

    /// Where a hash would like to be: by its lower half, which is also its tag, so that growing needs no key.
    fn home(&self, tag: u32) -> usize {
        tag as usize & self.mask()
    }

    /// The slot with this tag that `is_it` accepts.
    #[inline]
    pub(super) fn find(&self, tag: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.mask();
        let mut at = self.home(tag);
        loop {
            let place = self.places[at & mask];
            if place.slot == EMPTY {
                return None;
            }
            if place.tag == tag && is_it(place.slot) {
                return Some(place.slot);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a slot whose key is not there yet.
    pub(super) fn insert(&mut self, tag: u32, slot: u32) {
        if (self.len + 1) * 4 > self.places.len() * 3 {
            let doubled = vec![Place::VACANT; self.places.len() * 2];
            let old = std::mem::replace(&mut self.places, doubled);
            for place in old {
                if place.slot != EMPTY {
                    self.put(place);
                }
            }
        }
        self.put(Place { tag, slot });
        self.len += 1;
    }

    fn put(&mut self, place: Place) {
        let mask = self.mask();
        let mut at = self.home(place.tag);
        while self.places[at].slot != EMPTY {
            at = (at + 1) & mask;
        }
        self.places[at] = place;
    }

    /// Removes a slot; nothing happens if it is not there.
    pub(super) fn remove(&mut self, tag: u32, slot: u32) {
        let mask = self.mask();
        let mut hole = self.home(tag);
        while self.places[hole].slot != slot {
            if self.places[hole].slot == EMPTY {
                return;
            }
            hole = (hole + 1) & mask;
        }
        self.len -= 1;
        // Whatever probing would no longer find across the hole moves into it.
        let mut at = (hole + 1) & mask;
        while self.places[at].slot != EMPTY {
            let wanted = self.home(self.places[at].tag);
            if at.wrapping_sub(wanted) & mask >= at.wrapping_sub(hole) & mask {
                self.places[hole] = self.places[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.places[hole] = Place::VACANT;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Place {
    const VACANT: Self = Self {
        tag: 0,
        slot: EMPTY,
    };
}

/// Hashes keys by folded 64x64-bit multiplication; both directions of a flow give the same.
#[derive(Clone, Copy)]
pub(super) struct Hasher([u64; 3]);

impl Hasher {
    /// `seed` decides which keys share a place; no output depends on it.
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            // SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) | 1
        }))
    }

    #[inline]
    pub(super) fn tag(&self, packet: &Packet<'_>) -> u32 {
        let [a, b, c] = self.0;
        let end = |address: [u64; 2], port: u16| {
            let [low, high] = address;
            let mixed = fold(low ^ a, high ^ b);
            fold(mixed ^ u64::from(port), c)
        };
        let both =
            end(packet.src.0, packet.src_port).wrapping_add(end(packet.dst.0, packet.dst_port));
        let rest = u64::from(packet.protocol)
            | u64::from(packet.tunnel) << 8
            | u64::from(packet.vlan) << 16;
        fold(both ^ rest, a) as u32
    }
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::Index;

    proptest! {
        #[test]
        fn holds_what_a_map_holds(steps in prop::collection::vec((any::<bool>(), 0..200u32, 0..24u32), 0..600)) {
            let mut index = Index::new();
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            for (add, slot, tag) in steps {
                // Few tags, near the end of the table too: long probes that wrap.
                let tag = tag.wrapping_sub(12);
                if add {
                    if model.insert(slot, tag).is_none() {
                        index.insert(tag, slot);
                    } else if let Some(old) = model.get(&slot).copied() {
                        // Replaced in the model: keep the first tag in both.
                        let first = index.find(old, |s| s == slot).map(|_| old);
                        if first.is_none() {
                            let kept = (0..24u32).map(|t| t.wrapping_sub(12)).find(|&t| index.find(t, |s| s == slot).is_some());
                            model.insert(slot, kept.expect("it was inserted"));
                        }
                    }
                } else if let Some(tag) = model.remove(&slot) {
                    index.remove(tag, slot);
                } else {
                    index.remove(tag, slot);
                }
                prop_assert_eq!(index.len(), model.len());
                for (&slot, &tag) in &model {
                    prop_assert_eq!(index.find(tag, |s| s == slot), Some(slot));
                }
            }
        }
    }
}
