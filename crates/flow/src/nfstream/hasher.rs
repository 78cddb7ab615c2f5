//! Hashes of flow keys.

use super::packet::Packet;

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
