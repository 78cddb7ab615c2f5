//! A flow's first payloads to hints ([`chaff_flow::app::Dissector`]), by nDPI's rules and by the specifications'.
//!
//! Input: rules, protocol, ports (5 bytes), then packets (see [`run`]).
//!
//! - The same packets give the same hints, whether the dissector was copied between them or not.
//! - Once everything was found, further packets change nothing.
//! - Texts are bounded, and those of one line have no line breaks where a format forbids them.

use std::net::{IpAddr, Ipv4Addr};

use chaff_flow::app::{Dialect, Dissector, Hints, Progress, Seen};

use crate::bytes::{Bytes, push_piece};
use crate::{Seeds, frames, quic};

/// Longest hint, bytes.
const LONGEST: usize = 2048;

/// See the module. Each packet: how (bit 0 the other side, 1 the capture cut it, 2 a sequence number out of order, 3 frames
/// of a QUIC Initial packet instead of the payload, 4-7 TCP flags), a piece.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let rules = input.u8();
    let dialect = if rules & 1 == 0 {
        Dialect::Ndpi
    } else {
        Dialect::Standard
    };
    let protocol = match rules >> 1 & 3 {
        0 | 1 => 6,
        2 => 17,
        _ => rules >> 3,
    };
    let ports = [input.u16(), input.u16()];
    let mut first = Dissector::new(dialect);
    let mut second = Dissector::new(dialect);
    let (mut sequence, mut done) = ([1000u32, 77_000], false);
    while !input.is_empty() {
        let how = input.u8();
        let side = usize::from(how & 1);
        let piece = input.piece();
        let sealed = (how & 8 != 0).then(|| quic::initial(piece));
        let payload = sealed.as_deref().unwrap_or(piece);
        let jump = if how & 4 != 0 { 500 } else { 0 };
        let seen = Seen {
            forward: side == 0,
            protocol,
            ip_version: 4,
            addresses: [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(198, 51, 100, 2)].map(IpAddr::V4),
            ports,
            tcp_flags: how >> 4 | 0x10,
            tcp_sequence: sequence[side].wrapping_add(jump),
            payload: if how & 2 != 0 {
                &payload[..payload.len() / 2]
            } else {
                payload
            },
            payload_len: payload.len(),
        };
        if jump == 0 {
            sequence[side] = sequence[side].wrapping_add(payload.len() as u32);
        }
        let before = done.then(|| first.clone().finish());
        let progress = first.observe(&seen);
        assert!(!done || progress == Progress::Done);
        if let Some(before) = before {
            assert_eq!(first.clone().finish(), before);
        }
        done = progress == Progress::Done;
        second = second.clone();
        assert_eq!(second.observe(&seen), progress);
    }
    let hints = first.finish();
    assert_eq!(hints, second.finish());
    check(&hints);
}

fn check(hints: &Hints) {
    assert!(!hints.application.is_empty());
    for text in [
        &hints.server_name,
        &hints.client_fingerprint,
        &hints.server_fingerprint,
        &hints.ja3,
        &hints.alpn,
        &hints.user_agent,
        &hints.content_type,
        &hints.host_name,
        &hints.device_hint,
    ] {
        assert!(text.len() <= LONGEST, "{} bytes: {text:?}", text.len());
    }
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(hints.ja3.is_empty() || hints.ja3.len() == 32 && is_hex(&hints.ja3));
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    for (dialect, rules) in [("ndpi", 0), ("standard", 1)] {
        for (n, (ports, payload)) in frames::talk().into_iter().enumerate() {
            for (name, protocol) in [("tcp", 0), ("udp", 4)] {
                let mut input = vec![rules | protocol];
                input.extend(ports.iter().flat_map(|p| p.to_be_bytes()));
                // Whole, from both sides, then in three parts.
                for how in [0x80, 0x81] {
                    input.push(how);
                    push_piece(&mut input, &payload);
                }
                for part in payload.chunks(payload.len() / 3 + 1) {
                    input.push(0x80);
                    push_piece(&mut input, part);
                }
                seeds.push((format!("{dialect}-{name}-{n}"), input));
            }
        }
        let hello = frames::client_hello();
        let mut input = vec![rules | 4, 0x9c, 0x40, 1, 0xbb];
        let (one, two) = hello[5..].split_at(60);
        for crypto in [quic::crypto(60, two), quic::crypto(0, one)] {
            input.push(8);
            push_piece(&mut input, &[crypto, vec![0; 20]].concat());
        }
        seeds.push((format!("{dialect}-quic"), input));
    }
    seeds
}
