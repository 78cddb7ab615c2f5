use chaff_abi::FlowKey;

/// What tells flows apart: addresses, ports, protocol and, where wanted, outer VLAN, and in `beyond` what the key of the
/// kernel's maps lacks: the inner VLAN id where wanted, or in a tunnel a digest of that, the tunnel and its ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity<'a> {
    /// In either orientation.
    pub(super) key: &'a FlowKey,
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
    pub(super) fn hash(self, identity: Identity<'_>) -> u32 {
        let hash = self.digest(identity);
        (hash ^ hash >> 32) as u32
    }

    #[inline(always)]
    pub(super) fn digest(self, identity: Identity<'_>) -> u64 {
        let k = identity.key;
        let ends = self
            .end(&k.src, k.src_port)
            .wrapping_add(self.end(&k.dst, k.dst_port));
        let [a, b] = k.vlan;
        let rest = u64::from(u32::from_le_bytes([a, b, k.protocol, k.version]));
        folded(ends ^ A, identity.beyond ^ rest.rotate_left(17) ^ B)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_directions_have_one_hash(src: [u8; 16], dst: [u8; 16], ports: [[u8; 2]; 2], seed: u64, beyond: u64) {
            let key = FlowKey {
                src, dst, src_port: ports[0], dst_port: ports[1], vlan: [1, 2], protocol: 6, version: 6,
            };
            let hash = |key| Seeded::new(seed).hash(Identity { key: &key, beyond });
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
            let hash = Seeded::new(0).hash(Identity {
                key: &key,
                beyond: 0,
            });
            buckets[hash as usize & 255] += 1;
        }
        assert!(buckets.iter().all(|n| (85..768).contains(n)), "{buckets:?}");
    }
}
