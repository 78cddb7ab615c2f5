//! Packets as bytes, with checksums that are right.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::Record;
use crate::address::key;
use crate::capture::{DONT_FRAGMENT, NO_ID, OPENS};

pub(crate) fn ones_sum(bytes: &[u8]) -> u64 {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let sum: u64 = pairs
        .iter()
        .map(|p| u64::from(u16::from_be_bytes(*p)))
        .sum();
    sum + odd.first().map_or(0, |b| u64::from(*b) << 8)
}

pub(crate) fn folded(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// A packet to write.
pub(crate) struct Out {
    pub(crate) at: u64,
    pub(crate) flow: u32,
    pub(crate) bytes: u32,
    pub(crate) first: bool,
    pub(crate) last: bool,
}

/// What went before: next sequence number of each direction of a connection.
pub(crate) type Sent = HashMap<(IpAddr, IpAddr, u16, u16), u32>;

/// Marks of a flow whose packets nobody has seen.
fn marks(r: &Record) -> u8 {
    match (r.ttl, r.protocol) {
        (0, 6) => DONT_FRAGMENT | OPENS,
        _ => r.marks,
    }
}

/// Bytes that are kept of a packet when payloads are not.
pub(crate) fn headers(r: &Record, packet: &[u8]) -> usize {
    let ip = if r.src.is_ipv6() { 40 } else { 20 };
    ip + match r.protocol {
        4 => 20,
        6 => packet.get(ip + 12).map_or(20, |b| usize::from(b >> 4) * 4),
        41 => 40,
        47 => 4,
        _ => 8,
    }
}

/// The nearest size that is well formed: options of neighbour discovery come in eights.
pub(crate) fn well_formed(r: &Record, bytes: u64) -> u64 {
    match (r.protocol, r.dst_port >> 8) {
        (58, 133..=136) => bytes.next_multiple_of(8),
        _ => bytes,
    }
}

/// Bytes that packets of the protocol need to be well formed, more than their header.
pub(crate) fn least_bytes(r: &Record) -> u64 {
    let ip = if r.src.is_ipv6() { 40 } else { 20 };
    if let (58, kind @ 133..=136) = (r.protocol, (r.dst_port >> 8) as u8) {
        return ip + discovery_bytes(kind) as u64;
    }
    // Errors quote the header of the packet they are about, and 8 bytes more (RFC 792); those of ICMPv6 its header (RFC 4443).
    let kind = r.dst_port >> 8;
    ip + match r.protocol {
        1 if matches!(kind, 3 | 4 | 5 | 11 | 12) => 8 + 28,
        58 if matches!(kind, 1..=4) => 8 + 40,
        1 | 2 | 58 => 8,
        4 => 20,
        41 => 40,
        47 => 4,
        _ => 0,
    }
}

/// One packet of `p.bytes` bytes into `out`.
pub(crate) fn build(r: &Record, p: &Out, id: u16, sent: &mut Sent, out: &mut Vec<u8>) {
    let total = p.bytes as usize;
    out.clear();
    out.resize(total, 0);
    let ttl = if r.ttl == 0 { 64 } else { r.ttl };
    let marks = marks(r);
    let length = |n: usize| (n as u16).to_be_bytes();
    let (ip, pseudo) = match (r.src, r.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let dont_fragment = (marks & DONT_FRAGMENT) << 5;
            let id = if marks & NO_ID == 0 { id } else { 0 };
            put(out, 0, &[0x45, r.tos]);
            put(out, 2, &length(total));
            put(out, 4, &id.to_be_bytes());
            put(out, 6, &[dont_fragment, 0, ttl, r.protocol]);
            put(out, 12, &src.octets());
            put(out, 16, &dst.octets());
            let sum = folded(ones_sum(&out[..20]));
            put(out, 10, &sum.to_be_bytes());
            (20, ones_sum(&src.octets()) + ones_sum(&dst.octets()))
        }
        (src, dst) => {
            let octets = |a: IpAddr| match a {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            put(out, 0, &[0x60 | r.tos >> 4, r.tos << 4]);
            put(out, 4, &length(total.saturating_sub(40)));
            put(out, 6, &[r.protocol, ttl]);
            put(out, 8, &octets(src));
            put(out, 24, &octets(dst));
            (40, ones_sum(&octets(src)) + ones_sum(&octets(dst)))
        }
    };
    let body = total.saturating_sub(ip);
    let pseudo = pseudo + u64::from(r.protocol) + body as u64;
    let Some(rest) = out.get_mut(ip..) else {
        return;
    };
    let ports = [r.src_port.to_be_bytes(), r.dst_port.to_be_bytes()].concat();
    match r.protocol {
        6 => {
            put(rest, 0, &ports);
            let payload = body.saturating_sub(20);
            let (mine, other) = (
                (r.src, r.dst, r.src_port, r.dst_port),
                (r.dst, r.src, r.dst_port, r.src_port),
            );
            let start = |k: &(IpAddr, IpAddr, u16, u16)| {
                key(&[
                    u64::from(k.2),
                    u64::from(k.3),
                    ones_sum(&k.0.to_string().into_bytes()),
                ]) as u32
            };
            let fresh = !sent.contains_key(&mine);
            let answer = sent.get(&other).copied();
            let next = sent.entry(mine).or_insert_with(|| start(&mine));
            // Options fill a first packet of up to 60 bytes: SYN packets are longer by them.
            let opening = p.first
                && fresh
                && marks & OPENS != 0
                && payload <= 40
                && payload.is_multiple_of(4);
            // What an acknowledgement with the timestamp option has.
            let stamped = !opening && payload == 12;
            let (flags, header, counts) = if opening {
                (if answer.is_some() { 0x12 } else { 0x02 }, 20 + payload, 1)
            } else if stamped {
                (if p.last { 0x11 } else { 0x10 }, 32, u32::from(p.last))
            } else if p.last {
                (0x11, 20, payload as u32 + 1)
            } else {
                (if payload > 0 { 0x18 } else { 0x10 }, 20, payload as u32)
            };
            put(rest, 4, &next.to_be_bytes());
            if flags != 0x02 {
                put(rest, 8, &answer.unwrap_or(0).to_be_bytes());
            }
            *next = next.wrapping_add(counts);
            put(rest, 12, &[((header / 4) << 4) as u8, flags, 0xfa, 0xf0]);
            if opening {
                // Four at a time: maximum segment size first, then no-operation.
                rest[20..].fill(1);
                if payload >= 4 {
                    put(rest, 20, &[2, 4, 5, 0xb4]);
                }
            }
            if stamped {
                // RFC 7323: milliseconds; what is echoed is not known.
                let clock = (p.at / 1000) as u32;
                put(rest, 20, &[1, 1, 8, 10]);
                put(rest, 24, &clock.to_be_bytes());
            }
            let sum = folded(pseudo + ones_sum(rest));
            put(rest, 16, &sum.to_be_bytes());
        }
        17 => {
            put(rest, 0, &ports);
            put(rest, 4, &length(body));
            let sum = folded(pseudo + ones_sum(rest));
            put(
                rest,
                6,
                &(if sum == 0 { 0xffff } else { sum }).to_be_bytes(),
            );
        }
        1 | 58 => {
            let echo = if r.protocol == 1 { 8 } else { 128 };
            let known = r.dst_port != 0;
            let kind = if known {
                r.dst_port.to_be_bytes()
            } else {
                [echo, 0]
            };
            put(rest, 0, &kind);
            if let (IpAddr::V6(dst), 133..=136) = (r.dst, kind[0]) {
                discovery(rest, kind[0], dst.octets());
            }
            let sum = folded(ones_sum(rest) + if r.protocol == 58 { pseudo } else { 0 });
            put(rest, 2, &sum.to_be_bytes());
        }
        2 => {
            // Membership report of version 2.
            put(rest, 0, &[0x16]);
            if let IpAddr::V4(group) = r.dst {
                put(rest, 4, &group.octets());
            }
            let sum = folded(ones_sum(rest));
            put(rest, 2, &sum.to_be_bytes());
        }
        4 => {
            // An inner packet of protocol 253 (experiments, RFC 3692).
            put(rest, 0, &[0x45, 0]);
            put(rest, 2, &length(body));
            put(rest, 8, &[ttl, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = folded(ones_sum(rest.get(..20).unwrap_or(&[])));
            put(rest, 10, &sum.to_be_bytes());
        }
        41 => {
            put(rest, 0, &[0x60]);
            put(rest, 4, &length(body.saturating_sub(40)));
            put(rest, 6, &[59, ttl]);
            put(rest, 8, &[0xfe, 0x80]);
            put(rest, 24, &[0xfe, 0x80]);
        }
        132 => put(rest, 0, &ports),
        _ => {}
    }
}

/// Fixed part of a neighbour discovery message (RFC 4861).
fn discovery_bytes(kind: u8) -> usize {
    match kind {
        133 => 8,
        134 => 16,
        _ => 24,
    }
}

/// What neighbour discovery has after type, code and checksum: a target, and experimental options (RFC 4727) to the end.
fn discovery(message: &mut [u8], kind: u8, target: [u8; 16]) {
    if matches!(kind, 135 | 136) {
        put(message, 8, &target);
    }
    let fixed = discovery_bytes(kind).min(message.len());
    for option in message[fixed..].chunks_mut(8) {
        put(option, 0, &[253, 1]);
    }
}

/// The header of an Ethernet frame around an IP packet: local hosts have an address each, all others are behind a router.
pub(crate) fn ethernet(r: &Record) -> [u8; 14] {
    let mut out = [0; 14];
    out[..6].copy_from_slice(&mac(r.dst));
    out[6..12].copy_from_slice(&mac(r.src));
    out[12..].copy_from_slice(if r.src.is_ipv6() {
        &[0x86, 0xdd]
    } else {
        &[8, 0]
    });
    out
}

fn mac(address: IpAddr) -> [u8; 6] {
    let bits = match address {
        IpAddr::V4(a) => {
            let [_, b, c, d] = a.octets();
            if a.is_broadcast() {
                return [0xff; 6];
            }
            if a.is_multicast() {
                return [1, 0, 0x5e, b & 0x7f, c, d];
            }
            u64::from(u32::from(a))
        }
        IpAddr::V6(a) => {
            let [.., w, x, y, z] = a.octets();
            if a.is_multicast() {
                return [0x33, 0x33, w, x, y, z];
            }
            u128::from(a) as u64 ^ (u128::from(a) >> 64) as u64
        }
    };
    let local = match address {
        IpAddr::V4(a) => a.is_private() || a.is_link_local() || a.is_unspecified(),
        IpAddr::V6(a) => a.is_unique_local() || a.is_unicast_link_local() || a.is_unspecified(),
    };
    if !local {
        return [2, 0, 0x5e, 0x10, 0xff, 0xfe];
    }
    // Locally administered.
    let [a, b, c, d, e, ..] = key(&[bits]).to_be_bytes();
    [2, a, b, c, d, e]
}
