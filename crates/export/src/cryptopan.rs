//! Permutations of addresses that keep what addresses share.

use std::net::{Ipv4Addr, Ipv6Addr};

use aes::Aes128;
use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockEncrypt as _, KeyInit as _};

/// Crypto-PAn: Xu, Fan, Ammar, Moon, "Prefix-preserving IP address anonymization", ICNP 2002, with AES-128.
///
/// Bit `n` of an address is flipped or not by the first bit of AES of its first `n` bits followed by a secret pad. The
/// same rule over 128 bits serves IPv6.
pub(crate) struct CryptoPan {
    cipher: Aes128,
    pad: u128,
}

impl CryptoPan {
    /// The first 16 bytes are the cipher's key, the last 16 become the pad.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let (key, pad) = key.split_at(16);
        let cipher = Aes128::new(GenericArray::from_slice(key));
        let mut block = GenericArray::clone_from_slice(pad);
        cipher.encrypt_block(&mut block);
        Self {
            cipher,
            pad: u128::from_be_bytes(block.into()),
        }
    }

    pub(crate) fn ipv4(&self, ip: Ipv4Addr) -> Ipv4Addr {
        let bits = u32::from(ip);
        let flips = self.flips::<32>(u128::from(bits) << 96);
        Ipv4Addr::from(bits ^ (flips >> 96) as u32)
    }

    pub(crate) fn ipv6(&self, ip: Ipv6Addr) -> Ipv6Addr {
        let bits = u128::from(ip);
        Ipv6Addr::from(bits ^ self.flips::<128>(bits))
    }

    /// Which of the first `N` bits flip; `bits` begins with the address.
    fn flips<const N: usize>(&self, bits: u128) -> u128 {
        let mut blocks = [GenericArray::from([0; 16]); N];
        for (n, block) in blocks.iter_mut().enumerate() {
            let kept = !(u128::MAX.checked_shr(n as u32).unwrap_or(0));
            *block = GenericArray::from((bits & kept | self.pad & !kept).to_be_bytes());
        }
        self.cipher.encrypt_blocks(&mut blocks);
        blocks.iter().enumerate().fold(0, |flips, (n, block)| {
            flips | u128::from(block[0] >> 7) << (127 - n)
        })
    }
}

/// A permutation of the last three bytes of MAC addresses, another one for each manufacturer's prefix: a Feistel network
/// of eight rounds over halves of 12 bits, with AES-128 as its function.
pub(crate) struct MacPermutation(Aes128);

impl MacPermutation {
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        Self(Aes128::new(GenericArray::from_slice(key)))
    }

    /// All zeros and all ones, which are no device, stay.
    pub(crate) fn map(&self, mac: [u8; 6]) -> [u8; 6] {
        if mac == [0; 6] || mac == [0xff; 6] {
            return mac;
        }
        let [a, b, c, d, e, f] = mac;
        let (mut left, mut right) = (
            u16::from(d) << 4 | u16::from(e) >> 4,
            u16::from(e & 15) << 8 | u16::from(f),
        );
        for round in 0..8 {
            let [high, low] = right.to_be_bytes();
            let mut block =
                GenericArray::from([a, b, c, round, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            self.0.encrypt_block(&mut block);
            let mixed = u16::from_be_bytes([block[0], block[1]]) & 0xfff;
            (left, right) = (right, left ^ mixed);
        }
        let [g, h] = left.to_be_bytes();
        let [i, j] = right.to_be_bytes();
        [a, b, c, g << 4 | h >> 4, h << 4 | i, j]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Key of the sample in the authors' distribution.
    const KEY: [u8; 32] = [
        21, 34, 23, 141, 51, 164, 207, 128, 19, 10, 91, 22, 73, 144, 125, 16, 216, 152, 143, 131,
        121, 121, 101, 39, 98, 87, 76, 45, 42, 132, 34, 2,
    ];

    #[test]
    fn maps_the_sample_of_the_authors() {
        let pan = CryptoPan::new(&KEY);
        for (from, to) in [
            ("128.11.68.132", "135.242.180.132"),
            ("129.118.74.4", "134.136.186.123"),
            ("130.132.252.244", "133.68.164.234"),
            ("141.223.7.43", "141.167.8.160"),
            ("141.233.145.108", "141.129.237.235"),
            ("152.163.225.39", "151.140.114.167"),
            ("156.29.3.236", "147.225.12.42"),
            ("165.247.96.84", "162.9.99.234"),
            ("166.107.77.190", "160.132.178.185"),
            ("192.102.249.13", "252.138.62.131"),
        ] {
            let from: Ipv4Addr = from.parse().expect("an address");
            assert_eq!(pan.ipv4(from).to_string(), to);
        }
    }

    #[test]
    fn keeps_exactly_the_shared_prefix() {
        let pan = CryptoPan::new(&KEY);
        let base = u128::from(
            "2001:db8:1:2:3:4:5:6"
                .parse::<Ipv6Addr>()
                .expect("an address"),
        );
        let mapped = u128::from(pan.ipv6(base.into()));
        for shared in 0..128 {
            let other = pan.ipv6((base ^ 1 << (127 - shared)).into());
            assert_eq!((mapped ^ u128::from(other)).leading_zeros(), shared);
        }
        let base = u32::from(Ipv4Addr::new(10, 1, 2, 3));
        let mapped = u32::from(pan.ipv4(base.into()));
        for shared in 0..32 {
            let other = pan.ipv4((base ^ 1 << (31 - shared)).into());
            assert_eq!((mapped ^ u32::from(other)).leading_zeros(), shared);
        }
    }

    #[test]
    fn macs_keep_the_manufacturer_and_stay_distinct() {
        let permutation = MacPermutation::new(&[7; 16]);
        let mut seen = BTreeSet::new();
        for n in 0..5_000u32 {
            let [_, d, e, f] = n.to_be_bytes();
            let mapped = permutation.map([2, 0x5e, 0x10, d, e, f]);
            assert_eq!(mapped[..3], [2, 0x5e, 0x10]);
            assert!(seen.insert(mapped));
        }
        let moved = (0..5_000u32).filter(|n| {
            let [_, d, e, f] = n.to_be_bytes();
            !seen.contains(&[2, 0x5e, 0x10, d, e, f])
        });
        // 5,000 of 16.8 million: few land on each other by chance.
        assert!(moved.count() > 4_900);
        assert_eq!(permutation.map([0xff; 6]), [0xff; 6]);
    }
}
