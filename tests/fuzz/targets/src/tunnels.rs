//! Frames with tunnels and fragments, one after another through one parser ([`chaff_flow::Parser`]).
//!
//! Input: frames, each with link, wire length, time passed and its length in front (see [`run`]).
//!
//! - A parser that looks into nothing gives what the plain function gives.
//! - What is refused is refused by both for the same reason, whatever is inside; but for frames inside MPLS, which only one reads.
//! - The innermost packet holds what every packet holds (see [`crate::parse`]) and lies inside the outer one.
//! - Layers are counted, and no more than there may be are walked.

use chaff_abi::Nanos;
use chaff_flow::{
    Fragment, Ignored, MAX_DEPTH, Packet, Parser, ParserConfig, Tunnel, TunnelKind, parse,
};

use crate::bytes::{Bytes, push_piece};
use crate::parse::{check, index, link, wire_len};
use crate::{Seeds, frames};

/// See the module. Each frame: link (1 byte), wire length (1 byte), seconds passed (1 byte), a piece.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let mut deep = Parser::new(ParserConfig {
        fragments: 6,
        ..ParserConfig::default()
    });
    let mut plain = Parser::new(ParserConfig::PLAIN);
    let mut now = Nanos::ZERO;
    let mut first_fragments = 0;
    while !input.is_empty() {
        let (link, more, passed) = (link(input.u8()), input.u8(), input.u8());
        let frame = input.piece();
        let wire_len = wire_len(more, frame.len());
        now += Nanos::from_secs(u64::from(passed));
        let outer = parse(link, frame, wire_len);
        assert_eq!(plain.parse(now, link, frame, wire_len), outer);
        let inner = deep.parse(now, link, frame, wire_len);
        match (outer, inner) {
            (Ok(outer), Ok(inner)) => {
                check_inner(frame, wire_len, &outer, &inner);
                first_fragments += u64::from(outer.fragment == Fragment::First);
                first_fragments += u64::from(inner.fragment == Fragment::First);
            }
            // The deep parser also takes frames inside MPLS.
            (Err(_), Ok(inner)) => {
                let deeper = inner.tunnel.depth > 1;
                assert!(deeper || inner.tunnel.kind == TunnelKind::Pseudowire);
                check(
                    frame,
                    wire_inside(deeper, frame, wire_len),
                    &without_ports(inner),
                );
            }
            (Err(outer), Err(inner)) => {
                let inside_mpls = outer.reason() == Ignored::NotIp;
                assert!(
                    inside_mpls || outer.reason() == inner.reason(),
                    "{outer} {inner}"
                );
            }
            (Ok(outer), Err(inner)) => panic!("{inner} inside of {outer:?}"),
        }
    }
    assert!(first_fragments > 0 || deep.joined_fragments() == 0);
    assert_eq!(plain.joined_fragments(), 0);
}

/// What an inner packet may be long: what is in the first fragment of a packet goes on in later ones.
fn wire_inside(cut: bool, frame: &[u8], wire_len: usize) -> usize {
    if cut {
        frame.len() + usize::from(u16::MAX)
    } else {
        wire_len
    }
}

fn check_inner(frame: &[u8], wire_len: usize, outer: &Packet<'_>, inner: &Packet<'_>) {
    let tunnel = inner.tunnel;
    let cut = tunnel.depth > 1 || tunnel.depth == 1 && outer.fragment == Fragment::First;
    check(
        frame,
        wire_inside(cut, frame, wire_len),
        &without_ports(*inner),
    );
    assert!(tunnel.depth <= MAX_DEPTH, "{inner:?}");
    assert_eq!(
        tunnel.kind == TunnelKind::None,
        tunnel.depth == 0,
        "{inner:?}"
    );
    assert_eq!(inner.sample.wire, outer.sample.wire);
    if tunnel == Tunnel::default() {
        let same = Packet {
            key: outer.key,
            ..*inner
        };
        assert_eq!(&same, outer);
        return;
    }
    assert!(inner.ip_offset >= outer.ip_offset, "{inner:?}");
}

/// A later fragment may have been given the ports of the first one.
fn without_ports(mut packet: Packet<'_>) -> Packet<'_> {
    if packet.fragment == Fragment::Later {
        (packet.key.src_port, packet.key.dst_port) = ([0; 2], [0; 2]);
    }
    packet
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let mut seeds: Seeds = Vec::new();
    let mut all = Vec::new();
    for (name, link, frame) in frames::all() {
        let mut one = vec![index(link), 0, 1];
        push_piece(&mut one, &frame);
        all.extend(&one);
        if link == chaff_flow::Link::Ethernet {
            seeds.push((name, one));
        }
    }
    seeds.push(("all".into(), all));
    seeds
}
