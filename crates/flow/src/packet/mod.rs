mod bytes;
mod error;
mod fragments;
mod ip;
mod link;
mod transport;
mod tunnel;

use chaff_abi::{FlowKey, Mac, Nanos, Sample};

use bytes::Bytes;
pub use error::{Ignored, Layer, ParseError};
use fragments::Fragments;
pub use ip::MAX_EXTENSIONS;
use ip::{ipv4, ipv6};
use link::LinkHeader;
pub use link::{Link, MAX_LABELS, MAX_TAGS};
pub use transport::TcpFacts;
pub use tunnel::{MAX_DEPTH, Outer, Tunnel, TunnelKind};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Whether a packet is a part of a larger one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// Whole.
    #[default]
    None,
    /// The first fragment: it has the transport header.
    First,
    /// A later fragment: its ports are not in it. They are 0 unless [`Parser`] has seen the first one.
    Later,
}

/// A checked view of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Source to destination as in the packet.
    pub key: FlowKey,
    /// What the packet adds to its flow; one segment. `wire` is that of the whole frame, the rest is of the innermost
    /// packet.
    pub sample: Sample,
    /// Source MAC of the innermost Ethernet or 802.11 frame, zero where the link has none.
    pub src_mac: Mac,
    /// Destination MAC, zero where the link has none.
    pub dst_mac: Mac,
    /// VLAN tags.
    pub tags: u8,
    /// VLAN id of the innermost tag when there are two or more, otherwise 0 (the outer one is in the key).
    pub inner_vlan: u16,
    /// The tunnel around it.
    pub tunnel: Tunnel,
    /// The ends of that tunnel; `None` without one, and for pseudowires.
    pub outer: Option<Outer>,
    /// Where the IP header starts, bytes from the start of the frame.
    pub ip_offset: usize,
    /// Length of the IP headers, extension headers included, bytes.
    pub ip_header_len: usize,
    /// Where the transport payload starts, bytes from the start of the frame; it may lie behind what was captured.
    pub payload_offset: usize,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// What the fragments of one packet have in common, 0 for a whole packet.
    pub fragment_id: u32,
    /// IPv4 time to live or IPv6 hop limit.
    pub ttl: u8,
    /// IPv4 type of service or IPv6 traffic class: DSCP in the upper six bits, ECN in the lower two.
    pub traffic_class: u8,
    /// TCP only.
    pub tcp: Option<TcpFacts>,
    /// ICMP and ICMPv6 type and code.
    pub icmp: Option<(u8, u8)>,
    /// Captured part of the transport payload, at most `sample.payload` bytes.
    pub payload: &'a [u8],
    /// Captured part of the IP packet, headers included, at most `sample.bytes` bytes.
    pub ip_packet: &'a [u8],
}

impl Packet<'_> {
    /// Length of what follows the IP headers, bytes.
    pub fn transport_len(&self) -> u32 {
        self.sample.bytes.saturating_sub(self.ip_header_len as u32)
    }
}

/// Settings of a [`Parser`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParserConfig {
    /// Whether packets inside tunnels are taken instead of those around them. Default true.
    pub decode_tunnels: bool,
    /// Fragmented packets that are remembered, so that later fragments join the flow of the first one; 80 bytes each,
    /// 0 for none. Default 4096. Without memory, later fragments have ports 0, as in the kernel's meter.
    pub fragments: usize,
    /// Key of the hash function over fragmented packets.
    pub hash_seed: u64,
}

impl Default for ParserConfig {
    fn default() -> Self {
        Self {
            decode_tunnels: true,
            fragments: 4096,
            hash_seed: 0,
        }
    }
}

impl ParserConfig {
    /// What [`parse`] and the kernel's meter see: the outer packet, fragments each for itself.
    pub const PLAIN: Self = Self {
        decode_tunnels: false,
        fragments: 0,
        hash_seed: 0,
    };
}

/// Reads frames, looks into tunnels, and remembers fragments.
///
/// The tunnels of [`TunnelKind`] are known by IP protocol or UDP port and followed to [`MAX_DEPTH`]. A packet whose tunnel
/// header or inner packet cannot be read, because it is damaged, cut, encrypted, for control or not IP, is a packet of the
/// outer flow, so no frame is lost by looking into tunnels. Of a fragmented tunnel packet the first fragment counts as the
/// whole inner packet with the length of its own frame, so there `bytes` can exceed `wire`, and the later ones are packets
/// of the outer flow.
///
/// A later fragment that comes before the first one, more than 60 s after it or after its place was taken by another
/// packet has ports 0.
///
/// ```
/// use chaff_abi::Nanos;
/// use chaff_flow::{Link, Parser, ParserConfig, TunnelKind};
/// // IPv4 in IPv4: 10.0.0.1 -> 10.0.0.2 around 192.168.1.9 -> 192.168.1.1, UDP 5000 -> 53, no payload.
/// let frame = [
///     0x45, 0, 0, 48, 0, 0, 0, 0, 64, 4, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192,
///     168, 1, 9, 192, 168, 1, 1, 0x13, 0x88, 0, 53, 0, 8, 0, 0,
/// ];
/// let mut parser = Parser::new(ParserConfig::default());
/// let packet = parser.parse(Nanos::ZERO, Link::RawIp, &frame, frame.len())?;
/// assert_eq!((packet.tunnel.kind, packet.key.destination_port()), (TunnelKind::Ip, 53));
/// assert_eq!((packet.sample.wire, packet.sample.bytes), (48, 28));
/// # Ok::<(), chaff_flow::ParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Parser {
    config: ParserConfig,
    fragments: Fragments,
    joined: u64,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new(ParserConfig::default())
    }
}

impl Parser {
    /// A parser that has seen no fragment.
    pub fn new(config: ParserConfig) -> Self {
        Self {
            fragments: Fragments::new(config.fragments, config.hash_seed),
            config,
            joined: 0,
        }
    }

    /// Reads a frame seen at `at` that had `wire_len` bytes on the wire, of which `frame` was captured. See [`parse`] for
    /// what it makes of lengths.
    ///
    /// # Errors
    /// As [`parse`].
    #[inline]
    pub fn parse<'a>(
        &mut self,
        at: Nanos,
        link: Link,
        frame: &'a [u8],
        wire_len: usize,
    ) -> Result<Packet<'a>, ParseError> {
        let bytes = Bytes {
            frame,
            wire_len: wire_len.max(frame.len()),
        };
        let tunnels = self.config.decode_tunnels;
        // What is read goes through as it is, but for the few that need another look.
        match read(link, bytes, tunnels) {
            Ok(packet)
                if packet.fragment != Fragment::None || (tunnels && tunnel::may_be(&packet)) =>
            {
                Ok(self.descend(at, bytes, packet))
            }
            other => other,
        }
    }

    /// Remembers and joins fragments, and follows tunnels. By value, so that a plain packet need not be in memory.
    #[cold]
    #[inline(never)]
    fn descend<'a>(&mut self, at: Nanos, bytes: Bytes<'a>, packet: Packet<'a>) -> Packet<'a> {
        let mut packet = packet;
        loop {
            if packet.fragment != Fragment::None {
                self.joined += u64::from(self.fragments.join(at, &mut packet));
            }
            if !self.config.decode_tunnels || !tunnel::may_be(&packet) {
                return packet;
            }
            match tunnel::inner(bytes, &packet) {
                Some(inner) => packet = inner,
                None => return packet,
            }
        }
    }

    /// Later fragments that were given the ports of the first one.
    pub fn joined_fragments(&self) -> u64 {
        self.joined
    }
}

/// Reads the headers of a frame that had `wire_len` bytes on the wire, of which `frame` was captured, without looking into
/// tunnels ([`Parser`] does). A `wire_len` below what was captured is damage and counts as that.
///
/// Lengths come from the IP header, so a capture that kept only the headers loses nothing. An IP length of 0, as
/// segmentation offload leaves it in captures, stands for the rest of the frame; one beyond the end of the frame is
/// malformed. The key has the outer VLAN id. Ports are 0 for later fragments and for protocols without ports. The kernel's
/// parser gives the same for every whole Ethernet II frame that has its length in the header; frames with SNAP, MPLS and
/// PPPoE are not IP to the kernel and are read here.
///
/// # Errors
/// [`ParseError`] says what is missing and where; [`ParseError::reason`] is what to count it as. No input panics.
#[inline]
pub fn parse<'a>(link: Link, frame: &'a [u8], wire_len: usize) -> Result<Packet<'a>, ParseError> {
    let wire_len = wire_len.max(frame.len());
    read(link, Bytes { frame, wire_len }, false)
}

/// The outer packet of a frame. Plain Ethernet has a way of its own, on which nothing need be in memory before it is in the
/// packet; with one way for all, a third of the time goes into copies of headers.
#[inline(always)]
fn read<'a>(link: Link, bytes: Bytes<'a>, pseudowires: bool) -> Result<Packet<'a>, ParseError> {
    if link == Link::Ethernet
        && let Some(head) = LinkHeader::plain_ethernet(bytes)
    {
        return from_ip(head, bytes);
    }
    read_any(link, bytes, pseudowires)
}

#[inline(never)]
fn read_any<'a>(link: Link, bytes: Bytes<'a>, pseudowires: bool) -> Result<Packet<'a>, ParseError> {
    from_ip(
        LinkHeader::read(link, bytes)?.up_to_ip(bytes, pseudowires)?,
        bytes,
    )
}

/// The packet behind a link header, whose ethertype is that of IPv4 or IPv6.
#[inline(always)]
fn from_ip<'a>(head: LinkHeader, bytes: Bytes<'a>) -> Result<Packet<'a>, ParseError> {
    let ip_offset = head.offset;
    let (layer, mut ip) = match head.ethertype {
        Some(IPV4) => (Layer::Ipv4, ipv4(bytes, ip_offset)?),
        _ => (Layer::Ipv6, ipv6(bytes, ip_offset)?),
    };
    let length = bytes.wire_len - ip_offset;
    if ip.length > length {
        return Err(ParseError::Length {
            layer,
            length,
            minimum: ip.length,
        });
    }
    ip.key.vlan = head.outer_vlan.to_be_bytes();

    let mut packet = Packet {
        key: ip.key,
        sample: Sample {
            wire: bytes.wire_len as u32,
            bytes: ip.length as u32,
            payload: (ip.length - ip.headers) as u32,
            segments: 1,
            tcp_flags: 0,
        },
        src_mac: head.src_mac,
        dst_mac: head.dst_mac,
        tags: head.tags,
        inner_vlan: head.inner_vlan,
        tunnel: Tunnel::default(),
        outer: None,
        ip_offset,
        ip_header_len: ip.headers,
        payload_offset: ip_offset + ip.headers,
        fragment: ip.fragment,
        fragment_id: ip.fragment_id,
        ttl: ip.ttl,
        traffic_class: ip.traffic_class,
        tcp: None,
        icmp: None,
        payload: &[],
        ip_packet: &[],
    };
    if head.pseudowire {
        packet.tunnel = Tunnel {
            kind: TunnelKind::Pseudowire,
            depth: 1,
            network: 0,
            id: 0,
        };
    }
    if ip.fragment != Fragment::Later {
        let header = transport::header(bytes, packet.payload_offset, &mut packet)?;
        packet.sample.payload = packet.sample.payload.saturating_sub(header as u32);
        packet.payload_offset += header;
    }
    let start = packet.payload_offset;
    let end = (start + packet.sample.payload as usize).min(bytes.frame.len());
    packet.payload = bytes.frame.get(start..end).unwrap_or(&[]);
    let end = (ip_offset + ip.length).min(bytes.frame.len());
    packet.ip_packet = bytes.frame.get(ip_offset..end).unwrap_or(&[]);
    Ok(packet)
}
