//! Whom a device talks to, who began, and how rare somebody new is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use chaff_abi::{Counters, FlowKey};
use serde::{Deserialize, Serialize};

/// Whom a device talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Peer {
    pub(super) address: [u8; 16],
    pub(super) version: u8,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

/// Peers, the one that was not seen for the longest time goes first.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    pub(super) seen: BTreeMap<Peer, u64>,
    by_age: BTreeSet<(u64, Peer)>,
}

impl Peers {
    /// Whether it is known; its age is 0 then.
    pub(super) fn touch(&mut self, peer: Peer, now: u64) -> bool {
        let Some(seen) = self.seen.get_mut(&peer) else {
            return false;
        };
        if *seen != now {
            self.by_age.remove(&(*seen, peer));
            self.by_age.insert((now, peer));
            *seen = now;
        }
        true
    }

    pub(super) fn insert(&mut self, peer: Peer, now: u64, limit: usize) {
        if self.seen.len() >= limit.max(1)
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.seen.remove(&oldest);
        }
        self.seen.insert(peer, now);
        self.by_age.insert((now, peer));
    }
}

/// How often something was new among the last things, with decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Rarity {
    pub(super) all: f64,
    pub(super) new: f64,
}

impl Rarity {
    pub(super) fn add(&mut self, is_new: bool) {
        // Half of it is forgotten after 5,000.
        let keep = 0.999_861_4;
        self.all = self.all * keep + 1.0;
        self.new = self.new * keep + f64::from(u8::from(is_new));
    }

    /// How rare something new is, nats.
    pub(super) fn surprise(&self) -> f64 {
        ((self.all + 5.0) / (self.new + 0.5)).ln().max(0.0)
    }
}

/// Whether the device opened a flow of which this is the first that is seen: it sent first, and not from a well-known port
/// to one that is none.
pub(super) fn is_asking(key: &FlowKey, out: &Counters, back: &Counters) -> bool {
    let first = match (out.packets, back.packets) {
        (0, _) => false,
        (_, 0) => true,
        _ => out.first <= back.first,
    };
    let (own, other) = (key.source_port(), key.destination_port());
    let serves = own != 0 && own < 1_024 && other >= 1_024;
    // A connection that was open before it was seen: the lower port is the one that was asked.
    let in_the_middle = key.protocol == 6 && out.tcp_flags[1] == 0 && back.tcp_flags[1] == 0;
    if in_the_middle {
        return out.packets > 0 && other <= own;
    }
    first && !serves
}

/// Multicast, broadcast, unspecified.
pub(super) fn is_group(address: &[u8; 16]) -> bool {
    match ip(address) {
        IpAddr::V4(v4) => {
            v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || v4.octets()[3] == 255
        }
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified(),
    }
}

fn ip(address: &[u8; 16]) -> IpAddr {
    std::net::Ipv6Addr::from(*address).to_canonical()
}

pub(super) fn address(peer: Peer) -> IpAddr {
    ip(&peer.address)
}
