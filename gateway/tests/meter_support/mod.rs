//! Crafted frames and other things that the meter's tests share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of this module"
)]

pub mod net;

use chaff_abi::{FlowKey, FlowValue, MeterConfig, Nanos};
use chaff_gateway::datapath::{Meter, MeterError, MeterOptions};
use chaff_test_support::frame;

pub const DEVICE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xd1];
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x01];

/// A meter without interfaces, or `None` (with a line that says why) where the machine does not allow one.
pub fn unattached(options: MeterOptions) -> Option<Meter> {
    match Meter::load(&options) {
        Ok(m) => Some(m),
        Err(e @ (MeterError::Privilege { .. } | MeterError::Kernel { .. })) => {
            println!("skipped: {e}");
            None
        }
        Err(e) => panic!("{e:?}"),
    }
}

/// Options with a slot length of one second from time zero.
pub fn options() -> MeterOptions {
    MeterOptions {
        config: MeterConfig {
            slot_len: Nanos::from_secs(1_000_000),
            ..MeterConfig::default()
        },
        max_flows: 1024,
        ..MeterOptions::default()
    }
}

/// All flows of both generations.
pub fn flows(m: &mut Meter) -> Vec<(FlowKey, FlowValue)> {
    let mut out = Vec::new();
    m.drain(|k, v| out.push((k, v))).expect("drain");
    out
}

/// An Ethernet header with tags (type, id) before the last type.
pub fn ethernet(tags: &[(u16, u16)], kind: u16) -> Vec<u8> {
    let mut f = Vec::new();
    f.extend(GATEWAY_MAC);
    f.extend(DEVICE_MAC);
    for (tag, id) in tags {
        f.extend(tag.to_be_bytes());
        f.extend(id.to_be_bytes());
    }
    f.extend(kind.to_be_bytes());
    f
}

/// IPv4 from the device to a server.
pub fn ipv4(protocol: u8, fragment: u16, options: &[u8], body: &[u8]) -> Vec<u8> {
    let ends = [[192, 168, 7, 2], [203, 0, 113, 9]];
    frame::ipv4(ends, protocol, fragment, options, body)
}

pub const V6_SRC: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub const V6_DST: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// IPv6 from the device to a server.
pub fn ipv6(next: u8, body: &[u8]) -> Vec<u8> {
    frame::ipv6([V6_SRC, V6_DST], next, body)
}

pub fn tcp(flags: u8, options: &[u8], payload: usize) -> Vec<u8> {
    frame::tcp([40_000, 443], flags, options, &vec![0xaa; payload])
}

pub fn udp(source: u16, target: u16, payload: usize) -> Vec<u8> {
    frame::udp([source, target], &vec![0xbb; payload])
}

pub fn frame(tags: &[(u16, u16)], packet: &[u8]) -> Vec<u8> {
    let mut f = ethernet(tags, frame::ethertype(packet));
    f.extend(packet);
    f
}

/// `__sk_buff` as a test-run context, with the fields that the kernel lets one set.
pub fn skb(mark: u32, gso_segs: u32, gso_size: u32) -> Vec<u8> {
    let mut c = vec![0u8; 192];
    let mut put = |at: usize, v: u32| c[at..at + 4].copy_from_slice(&v.to_ne_bytes());
    put(8, mark);
    put(164, gso_segs);
    put(176, gso_size);
    c
}
