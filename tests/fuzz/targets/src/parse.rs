//! Frames of every link type to packets ([`chaff_flow::parse`]).
//!
//! Input: link, how the wire length differs from the captured one, how much the second capture keeps (2 bytes), frame.
//!
//! - The payload is a piece of the frame and not longer than the packet says it was on the wire.
//! - The IP packet lies within the frame as it was on the wire, and its header within the capture.
//! - The same bytes give the same packet.
//! - A capture that kept less of the same frame gives the same packet with less payload (and perhaps without ICMP type
//!   or with less of the TCP facts), or is counted as truncated.

use chaff_flow::{Fragment, Ignored, Link, Packet, parse};

use crate::bytes::Bytes;
use crate::{Seeds, frames};

/// The link type that a byte of an input stands for: one that is read, or one that is not.
pub(crate) fn link(byte: u8) -> Link {
    let place = usize::from(byte) % (Link::ALL.len() + 1);
    Link::ALL.get(place).copied().unwrap_or(Link::Other(147))
}

/// The wire length that a byte of an input stands for: mostly the captured one and a little more.
pub(crate) fn wire_len(byte: u8, captured: usize) -> usize {
    match byte {
        255 => 0,
        254 => captured / 2,
        253 => 1 << 20,
        more => captured + usize::from(more),
    }
}

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let (link, more, keep) = (link(input.u8()), input.u8(), input.u16());
    let frame = input.rest();
    let wire_len = wire_len(more, frame.len());
    let whole = parse(link, frame, wire_len);
    assert_eq!(whole, parse(link, frame, wire_len), "the same bytes");
    let Ok(packet) = whole else { return };
    check(frame, wire_len, &packet);

    // What is captured never exceeds the wire in this comparison: a shorter capture then knows as much of the wire.
    let kept = usize::from(keep) % (frame.len() + 1);
    if wire_len < frame.len() {
        return;
    }
    match parse(link, &frame[..kept], wire_len) {
        Ok(cut) => {
            assert!(
                packet.payload.starts_with(cut.payload),
                "{packet:?} {cut:?}"
            );
            // What only describes the packet may be unknown.
            let known = Packet {
                payload: packet.payload,
                ip_packet: packet.ip_packet,
                icmp: cut.icmp.or(packet.icmp),
                tcp: cut.tcp.and(packet.tcp),
                ..cut
            };
            assert_eq!(known, packet, "kept {kept}");
        }
        Err(error) => assert_eq!(error.reason(), Ignored::Truncated, "kept {kept}: {error}"),
    }
}

/// What holds of every packet, inside a tunnel too.
pub(crate) fn check(frame: &[u8], wire_len: usize, packet: &Packet<'_>) {
    let sample = packet.sample;
    let on_wire = wire_len.max(frame.len());
    assert!(
        packet.payload.len() <= sample.payload as usize,
        "{packet:?}"
    );
    assert!(sample.payload <= sample.bytes, "{packet:?}");
    assert!(
        packet.ip_offset + sample.bytes as usize <= on_wire,
        "{packet:?}"
    );
    assert!(packet.ip_offset < frame.len(), "{packet:?}");
    assert_eq!(
        frame[packet.ip_offset] >> 4,
        packet.key.version,
        "{packet:?}"
    );
    assert_eq!(
        frame[packet.ip_offset..].get(..packet.ip_packet.len()),
        Some(packet.ip_packet)
    );
    assert!(
        packet.ip_packet.len() <= sample.bytes as usize,
        "{packet:?}"
    );
    assert!(packet.ip_header_len <= sample.bytes as usize, "{packet:?}");
    if !packet.payload.is_empty() {
        let payload = frame[packet.payload_offset..].get(..packet.payload.len());
        assert_eq!(payload, Some(packet.payload));
        assert!(packet.payload_offset >= packet.ip_offset + packet.ip_header_len);
    }
    if packet.fragment == Fragment::Later {
        assert_eq!((packet.key.src_port, packet.key.dst_port), ([0; 2], [0; 2]));
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let mut seeds = Vec::new();
    for (name, link, frame) in frames::all() {
        let mut input = vec![index(link), 0, 0, 60];
        input.extend_from_slice(&frame);
        seeds.push((name, input));
    }
    seeds
}

/// The byte that stands for a link type.
pub(crate) fn index(link: Link) -> u8 {
    let place = Link::ALL.iter().position(|l| *l == link);
    place.unwrap_or(Link::ALL.len()) as u8
}
