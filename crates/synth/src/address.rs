//! Kinds of addresses, and made-up addresses that keep kind and neighbourhood.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that mean the same in every network; public knowledge.
pub(crate) const COMMON: [IpAddr; 14] = [
    v4(0, 0, 0, 0),
    v4(255, 255, 255, 255),
    v4(127, 0, 0, 1),
    v4(224, 0, 0, 1),
    v4(224, 0, 0, 2),
    v4(224, 0, 0, 22),
    v4(224, 0, 0, 251),
    v4(224, 0, 0, 252),
    v4(239, 255, 255, 250),
    v6(0, 0),
    v6(0xff02, 1),
    v6(0xff02, 2),
    v6(0xff02, 0x16),
    v6(0xff02, 0xfb),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(first: u16, last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last))
}

/// Kinds of hosts, [`kind`]'s range.
pub(crate) const KINDS: usize = 8;

/// 0 private, 1 public, 2 multicast, 3 zero, reserved and broadcast, 4 link-local and loopback; IPv6: 5 unicast,
/// 6 link-local, 7 multicast.
pub(crate) fn kind(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(a) => match a.octets() {
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => 0,
            [169, 254, ..] | [127, ..] => 4,
            [0, ..] | [240..=255, ..] => 3,
            [224..=239, ..] => 2,
            _ => 1,
        },
        IpAddr::V6(a) => match a.segments()[0] {
            0xff00..=0xffff => 7,
            0xfe80..=0xfebf => 6,
            _ => 5,
        },
    }
}

/// A 64-bit mixing function (SplitMix64's finaliser): for tables and made-up values, not for secrets.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number of the words.
pub(crate) fn key(words: &[u64]) -> u64 {
    words.iter().fold(0x51_7c_c1_b7_27_22_0a_95, |h, w| {
        mix(h ^ *w).rotate_left(23)
    })
}

/// An address of the same kind in place of `address`; equal prefixes stay equal, different addresses different.
///
/// Zero, reserved, loopback and multicast addresses stay. Kept are also the first bits: those of private networks, the
/// first octet (two in 169, 172 and 192) of public addresses, the first 16 bits of IPv6 (64 of link-local ones). The
/// method is that of Crypto-PAn (Xu, Fan, Ammar, Moon 2002) with a fast function: pseudonyms, not secrets.
pub(crate) fn pseudonym(secret: u64, address: IpAddr) -> IpAddr {
    match (address, kind(address)) {
        (IpAddr::V4(a), 0 | 1) | (IpAddr::V4(a), 4) if a.octets()[0] != 127 => {
            let keep = match a.octets()[0] {
                169 | 172 | 192 => 16,
                _ => 8,
            };
            let bits = flip(secret, u128::from(u32::from(a)) << 96, keep, 32);
            Ipv4Addr::from((bits >> 96) as u32).into()
        }
        (IpAddr::V6(a), 5 | 6) if u128::from(a) > 1 => {
            let keep = if kind(address) == 6 { 64 } else { 16 };
            Ipv6Addr::from(flip(secret, u128::from(a), keep, 128)).into()
        }
        _ => address,
    }
}

fn flip(secret: u64, bits: u128, keep: u32, length: u32) -> u128 {
    let mut out = bits;
    for at in keep..length {
        let prefix = bits >> (128 - at);
        let turn = key(&[secret, u64::from(at), prefix as u64, (prefix >> 64) as u64]) & 1;
        out ^= u128::from(turn) << (127 - at);
    }
    out
}

/// A made-up host: number `index` of its kind.
pub(crate) fn invent(secret: u64, kind: u32, index: u64) -> IpAddr {
    let h = key(&[secret, u64::from(kind), index]);
    let [a, b, c, d] = (h as u32).to_be_bytes();
    let net = key(&[secret, 77]).to_be_bytes();
    match kind {
        0 => Ipv4Addr::new(10, net[0], b, d.clamp(1, 254)).into(),
        2 => Ipv4Addr::new(239, 192 | (b & 63), c, d).into(),
        3 => Ipv4Addr::BROADCAST.into(),
        4 => Ipv4Addr::new(169, 254, c.clamp(1, 254), d).into(),
        5 => Ipv6Addr::new(
            0x2001,
            0x0db8,
            u16::from(net[1]),
            u16::from(a),
            0,
            (h >> 48) as u16,
            (h >> 32) as u16,
            h as u16,
        )
        .into(),
        6 => Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            (h >> 48) as u16,
            (h >> 32) as u16,
            (h >> 16) as u16,
            h as u16,
        )
        .into(),
        7 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, (h >> 16) as u16, h as u16).into(),
        _ => {
            // Unicast first octets only; private and special ones are passed over.
            let mut first = 1 + a % 223;
            while matches!(first, 10 | 127 | 169 | 172 | 192 | 224..) {
                first = 1 + (first + 36) % 223;
            }
            Ipv4Addr::new(first, b, c, d).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudonyms_keep_kind_and_neighbourhood() {
        let map = |t: &str| pseudonym(7, t.parse().unwrap());
        for text in [
            "10.1.2.3",
            "192.168.7.9",
            "8.8.8.8",
            "172.15.3.4",
            "172.17.0.1",
            "fe80::1",
            "2001:db8::5",
        ] {
            let a: IpAddr = text.parse().unwrap();
            assert_eq!(kind(map(text)), kind(a), "{text}");
            assert_ne!(map(text), a, "{text}");
        }
        for text in [
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.251",
            "ff02::fb",
            "127.0.0.1",
            "::",
            "::1",
        ] {
            assert_eq!(map(text).to_string(), text);
        }
        let octets = |a: IpAddr| match a {
            IpAddr::V4(v) => v.octets(),
            IpAddr::V6(_) => [0; 4],
        };
        let (x, y, z) = (
            octets(map("8.8.4.1")),
            octets(map("8.8.4.2")),
            octets(map("8.8.5.1")),
        );
        assert_eq!(x[..3], y[..3]);
        assert_eq!(x[..2], z[..2]);
        assert_ne!(x[2], z[2]);
    }

    #[test]
    fn made_up_hosts_have_the_kind_asked_for() {
        for k in 0..KINDS as u32 {
            for i in 0..500 {
                assert_eq!(kind(invent(3, k, i)), k);
            }
        }
    }
}
