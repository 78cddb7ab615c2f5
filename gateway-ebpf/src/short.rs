//! The short way for frames of the network side.
//!
//! Of a frame that is not cover only the IP length is counted there. [`length`] reads it from ordinary frames, with the
//! checks of [`crate::parse`] that decide whether a frame is a packet at all; for every other frame it gives up and the
//! full parser counts. The counts are the same either way.

use aya_ebpf::bindings::__sk_buff;
use chaff_abi::{Dir, MeterConfig};

use crate::parse::{
    AUTHENTICATION, Bytes, DESTINATION, Ethernet, FRAGMENT, HOP_BY_HOP, Header, IPV4, IPV6,
    ROUTING, TCP, Tcp, UDP, V4, V6,
};

/// Start of an untagged IPv4 frame without options, up to the ports.
#[repr(C, packed)]
struct Frame4 {
    ethernet: Ethernet,
    ip: V4,
    source_port: u16,
}

/// Start of an untagged IPv6 frame without extension headers, up to the ports.
#[repr(C, packed)]
struct Frame6 {
    ethernet: Ethernet,
    ip: V6,
    source_port: u16,
}

// SAFETY: packed integers.
unsafe impl Header for Frame4 {}
// SAFETY: packed integers.
unsafe impl Header for Frame6 {}

/// The IP length of a frame that certainly is a single packet and not cover; `None` when that takes a closer look.
#[inline(always)]
pub fn length(b: Bytes, skb: &__sk_buff, dir: Dir, config: &MeterConfig) -> Option<u32> {
    if skb.gso_size != 0 {
        return None;
    }
    if matches!(dir, Dir::Out) && config.cover_mark != 0 && skb.mark == config.cover_mark {
        return None;
    }
    let f: &Frame4 = b.load(0).ok()?;
    match u16::from_be(f.ethernet.kind) {
        IPV4 => {
            // Version 4, no options; no fragment but perhaps the first of some.
            if f.ip.version_ihl != 0x45 || u16::from_be(f.ip.fragment) & 0x1fff != 0 {
                return None;
            }
            let bytes = u16::from_be(f.ip.length) as u32;
            rest(b, skb, dir, config, 34, bytes, f.ip.protocol, f.source_port)
        }
        IPV6 => {
            let f: &Frame6 = b.load(0).ok()?;
            let next = f.ip.next;
            if f.ip.version as u8 >> 4 != 6
                || matches!(
                    next,
                    HOP_BY_HOP | ROUTING | DESTINATION | AUTHENTICATION | FRAGMENT
                )
            {
                return None;
            }
            let bytes = u16::from_be(f.ip.length) as u32 + 40;
            rest(b, skb, dir, config, 54, bytes, next, f.source_port)
        }
        _ => None,
    }
}

/// What both IP versions share: the checks of lengths, and whether the far end may have sent it.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "inlined: a struct would only be taken apart again"
)]
fn rest(
    b: Bytes,
    skb: &__sk_buff,
    dir: Dir,
    config: &MeterConfig,
    l4: u32,
    bytes: u32,
    protocol: u8,
    source_port: u16,
) -> Option<u32> {
    let after_ip = 14 + bytes;
    if after_ip > skb.len {
        return None;
    }
    let header = match protocol {
        TCP => {
            let tcp: &Tcp = b.load(l4).ok()?;
            let header = (tcp.offset >> 4) as u32 * 4;
            if header < 20 {
                return None;
            }
            header
        }
        UDP => {
            let port = config.cover_peer.port;
            if matches!(dir, Dir::In) && port != [0; 2] && source_port.to_ne_bytes() == port {
                return None;
            }
            8
        }
        _ => 0,
    };
    if l4 + header > after_ip {
        return None;
    }
    Some(bytes)
}
