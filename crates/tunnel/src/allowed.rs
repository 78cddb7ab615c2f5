//! Which peer owns which inner addresses (WireGuard's cryptokey routing).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address range such as `10.7.0.2/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    /// A range of the addresses that share the first `bits` bits with `address`; `None` when there are not as many.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Self { address, bits })
    }

    /// The address as written, host bits included.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Length of the prefix.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The first address of the range.
    pub fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() & mask(self.bits, 32) as u32).into(),
            IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & mask(self.bits, 128)).into(),
        }
    }

    /// Whether `address` lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                u128::from(a.to_bits() ^ b.to_bits()) & mask(self.bits, 32) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()) & mask(self.bits, 128) == 0
            }
            _ => false,
        }
    }
}

/// The first `bits` of `width` low bits.
fn mask(bits: u8, width: u32) -> u128 {
    let all = u128::MAX >> (128 - width);
    all & !(all.checked_shr(bits.into()).unwrap_or(0))
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A text is not an address range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address range such as 10.7.0.2/32")]
pub struct PrefixError(String);

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || PrefixError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| error())?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.trim().parse().map_err(|_| error())?,
            None => full,
        };
        Self::new(address, bits).ok_or_else(error)
    }
}

/// Owners of address ranges; the longest matching range decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    /// Longest first, so that the first match is the answer. Peers are few; a linear search beats a tree until dozens.
    ranges: Vec<(Prefix, usize)>,
}

impl Allowed {
    /// Gives `range` to peer `index`; a range that another peer had moves, as in every WireGuard.
    pub(crate) fn insert(&mut self, range: Prefix, index: usize) {
        self.ranges
            .retain(|(r, _)| r.bits != range.bits || r.network() != range.network());
        self.ranges.push((range, index));
        self.ranges.sort_by_key(|(r, _)| std::cmp::Reverse(r.bits));
    }

    /// The peer that owns `address`.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<usize> {
        let found = self.ranges.iter().find(|(r, _)| r.contains(address));
        found.map(|(_, index)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Prefix {
        text.parse().expect("valid")
    }

    #[test]
    fn the_longest_range_owns_an_address() {
        let mut a = Allowed::default();
        a.insert(range("0.0.0.0/0"), 0);
        a.insert(range("10.7.0.2/32"), 1);
        a.insert(range("10.7.0.0/16"), 2);
        a.insert(range("::/0"), 3);
        let owner = |text: &str| a.owner(text.parse().expect("valid"));
        assert_eq!(owner("10.7.0.2"), Some(1));
        assert_eq!(owner("10.7.9.2"), Some(2));
        assert_eq!(owner("192.0.2.1"), Some(0));
        assert_eq!(owner("2001:db8::1"), Some(3));
        assert_eq!(range("10.7.3.4/16").network(), IpAddr::from([10, 7, 0, 0]));
    }

    #[test]
    fn refuses_what_is_no_range() {
        for bad in ["", "10.0.0.1/33", "::1/129", "10.0.0/8", "x", "1.2.3.4/-1"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_range_contains_its_network_and_prints_as_it_is_read(v6 in any::<bool>(), bits in any::<u128>(), len in 0u8..=128) {
            let address: IpAddr = if v6 { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits(bits as u32).into() };
            let len = if v6 { len } else { len % 33 };
            let r = Prefix::new(address, len).expect("in range");
            prop_assert!(r.contains(r.network()) && r.contains(address));
            prop_assert_eq!(r.to_string().parse::<Prefix>(), Ok(r));
        }
    }
}
