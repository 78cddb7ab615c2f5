//! What handshakes may cost an end, whoever sends them: they are worked through under the same lock as data.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use chaff_abi::Nanos;

/// Time over which handshakes are counted.
const PERIOD: Nanos = Nanos::from_secs(1);
/// Handshakes of all sources that are worked through at most, as a multiple of what needs no proof.
const PROVED: u64 = 4;
/// Handshakes of a source with proof of its address that are worked through in any case.
const LEAST: u64 = 20;

/// Counts handshakes of the second under way. Those counted carry this end's public key and, where asked for, a cookie; all
/// others are refused before they cost anything.
#[derive(Debug)]
pub(crate) struct Flood {
    /// Handshakes a second that need no proof of their address, all sources together.
    open: u64,
    /// Handshakes a second and source, with proof.
    each: u64,
    since: Nanos,
    all: u64,
    sources: BTreeMap<IpAddr, u64>,
}

impl Flood {
    pub(crate) fn new(each: u64, open: u64, now: Nanos) -> Self {
        Self {
            open,
            each: each.max(LEAST),
            since: now,
            all: 0,
            sources: BTreeMap::new(),
        }
    }

    /// Whether every source has to prove its address: so many came that forged ones may be among them.
    pub(crate) fn needs_proof(&mut self, now: Nanos) -> bool {
        if now.since(self.since) >= PERIOD {
            self.since = now;
            self.all = 0;
            self.sources.clear();
        }
        self.all >= self.open
    }

    /// Counts a handshake, and tells whether it is worked through.
    pub(crate) fn admit(&mut self, from: IpAddr) -> bool {
        if self.all >= self.open.saturating_mul(PROVED) {
            return false;
        }
        self.all += 1;
        let count = self.sources.entry(source(from)).or_default();
        *count += 1;
        *count <= self.each
    }
}

/// Whoever has one address of an IPv6 network has all of it.
fn source(from: IpAddr) -> IpAddr {
    match from {
        IpAddr::V4(_) => from,
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sources_have_to_prove_their_address_and_are_bounded_in_all() {
        let mut flood = Flood::new(30, 50, Nanos::ZERO);
        let mut admitted = 0;
        for i in 0..1_000u32 {
            assert_eq!(flood.needs_proof(Nanos::ZERO), i >= 50);
            admitted += u32::from(flood.admit(std::net::Ipv4Addr::from_bits(i).into()));
        }
        assert_eq!(admitted, 200);
        assert!(flood.sources.len() <= 200);
        // The next second begins anew.
        assert!(!flood.needs_proof(PERIOD));
        assert!(flood.admit([192, 0, 2, 1].into()));
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let mut flood = Flood::new(30, 1_000, Nanos::ZERO);
        let from = |i: u128| IpAddr::from(Ipv6Addr::from_bits((0x2001 << 112) | i));
        let admitted = (0..100).filter(|i| flood.admit(from(*i))).count();
        assert_eq!(admitted, 30);
        assert!(flood.admit(from(1 << 64)));
    }
}
