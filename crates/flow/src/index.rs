//! From hashes to slots, for tables whose entries know their own keys.

/// Finds slots by hash: open addressing with linear probing, at most three quarters full, 8 bytes a place. The identities
/// themselves are in the slots.
#[derive(Debug, Default)]
pub(crate) struct Index {
    places: Vec<Place>,
    len: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    hash: u32,
    /// Slot and one; 0 for a free place.
    slot: u32,
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The slot with this hash for which `is_it` holds.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.places.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        loop {
            let place = self.places.get(at)?;
            if place.slot == 0 {
                return None;
            }
            if place.hash == hash && is_it(place.slot - 1) {
                return Some(place.slot - 1);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a slot that is not there.
    pub(crate) fn insert(&mut self, hash: u32, slot: u32) {
        if (self.len + 1) * 4 > self.places.len() * 3 {
            let size = (self.places.len() * 2).max(64);
            let old = std::mem::replace(&mut self.places, vec![Place::default(); size]);
            for place in old.into_iter().filter(|p| p.slot != 0) {
                self.put(place);
            }
        }
        self.put(Place {
            hash,
            slot: slot + 1,
        });
        self.len += 1;
    }

    fn put(&mut self, place: Place) {
        let mask = self.places.len().wrapping_sub(1);
        let mut at = place.hash as usize & mask;
        while let Some(there) = self.places.get_mut(at) {
            if there.slot == 0 {
                *there = place;
                return;
            }
            at = (at + 1) & mask;
        }
    }

    /// Takes a slot out; the places behind it move up, so that no marks of removed ones are needed.
    pub(crate) fn remove(&mut self, hash: u32, slot: u32) {
        let Some(mask) = self.places.len().checked_sub(1) else {
            return;
        };
        let mut hole = hash as usize & mask;
        loop {
            match self.places.get(hole) {
                Some(place) if place.slot == slot + 1 => break,
                Some(place) if place.slot != 0 => hole = (hole + 1) & mask,
                _ => return,
            }
        }
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let Some(place) = self.places.get(at).copied().filter(|p| p.slot != 0) else {
                break;
            };
            // A place may move to the hole unless its home lies behind the hole.
            let home = place.hash as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.places[hole] = place;
                hole = at;
            }
        }
        self.places[hole] = Place::default();
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Few hash values, so that runs are long and wrap round.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0..90u32, any::<bool>()), 1..400)) {
            let mut index = Index::default();
            let mut model: HashMap<u32, u32> = HashMap::new();
            let hash_of = |slot: u32| slot % 7 * 0x1000_0001 + 60;
            for (slot, add) in steps {
                let hash = hash_of(slot);
                if add && !model.contains_key(&slot) {
                    index.insert(hash, slot);
                    model.insert(slot, hash);
                } else if !add {
                    index.remove(hash, slot);
                    model.remove(&slot);
                }
                prop_assert_eq!(index.len(), model.len());
                for slot in 0..90 {
                    let found = index.find(hash_of(slot), |s| s == slot);
                    prop_assert_eq!(found.is_some(), model.contains_key(&slot));
                }
            }
        }
    }
}
