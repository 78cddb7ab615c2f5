use chaff_abi::FlowKey;

/// What tells flows apart: addresses, ports, protocol and outer VLAN, and in `beyond` what the key of the kernel's maps
/// lacks (tunnel, inner VLAN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// In either orientation.
    pub(super) key: FlowKey,
    pub(super) beyond: u64,
}

/// Hashes identities so that both directions get the same value: two folded 64x64-bit multiplications side by side, one
/// for each end, their sum, and a third with the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeded(u64);

const A: u64 = 0xa076_1d64_78bd_642f;
const B: u64 = 0xe703_7ed1_a0b4_28db;
const C: u64 = 0x8ebc_6af0_9c88_c6e3;

impl Seeded {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    #[inline(always)]
    pub(super) fn hash(self, identity: &Identity) -> u32 {
        let k = &identity.key;
        let ends = self
            .end(&k.src, k.src_port)
            .wrapping_add(self.end(&k.dst, k.dst_port));
        let [a, b] = k.vlan;
        let rest = u64::from(u32::from_le_bytes([a, b, k.protocol, k.version]));
        let hash = folded(ends ^ A, identity.beyond ^ rest.rotate_left(17) ^ B);
        (hash ^ hash >> 32) as u32
    }

    #[inline(always)]
    fn end(self, address: &[u8; 16], port: [u8; 2]) -> u64 {
        let [high, low] = halves(address);
        let port = u64::from(u16::from_le_bytes(port)) << 24;
        folded(high ^ self.0 ^ B, low ^ port ^ C ^ self.0.rotate_left(32))
    }
}

#[inline(always)]
fn halves(address: &[u8; 16]) -> [u64; 2] {
    let all = u128::from_le_bytes(*address);
    [all as u64, (all >> 64) as u64]
}

#[inline(always)]
fn folded(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ (wide >> 64) as u64
}

/// Finds slots by hash: open addressing with linear probing, at most three quarters full, 8 bytes a place. The identities
/// themselves are in the slots.
#[derive(Debug, Default)]
pub(super) struct Index {
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
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The slot with this hash for which `is_it` holds.
    #[inline(always)]
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
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
    pub(super) fn insert(&mut self, hash: u32, slot: u32) {
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
    pub(super) fn remove(&mut self, hash: u32, slot: u32) {
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

        #[test]
        fn both_directions_have_one_hash(src: [u8; 16], dst: [u8; 16], ports: [[u8; 2]; 2], seed: u64, beyond: u64) {
            let key = FlowKey {
                src, dst, src_port: ports[0], dst_port: ports[1], vlan: [1, 2], protocol: 6, version: 6,
            };
            let hash = |key| Seeded::new(seed).hash(&Identity { key, beyond });
            prop_assert_eq!(hash(key), hash(key.reversed()));
        }
    }

    /// Neighbouring addresses, ports and networks spread: no bucket of 256 gets more than three times its share.
    #[test]
    fn hashes_of_similar_flows_spread() {
        let mut buckets = [0u32; 256];
        for i in 0..=u16::MAX {
            let [a, b] = i.to_be_bytes();
            let key = FlowKey {
                src: FlowKey::mapped([10, 0, 0, a]),
                dst: FlowKey::mapped([10, 0, 0, 1]),
                src_port: [0, b],
                dst_port: [0, 53],
                protocol: 17,
                version: 4,
                ..FlowKey::default()
            };
            let hash = Seeded::new(0).hash(&Identity { key, beyond: 0 });
            buckets[hash as usize & 255] += 1;
        }
        assert!(buckets.iter().all(|n| (85..768).contains(n)), "{buckets:?}");
    }
}
