//! What lies inside tunnels. Each function finds out where the inner packet begins and with what; whether it is one is
//! decided by parsing it. What does not parse is a packet of the outer flow.

use std::net::IpAddr;

use chaff_abi::FlowKey;

use super::bytes::Bytes;
use super::link::{LinkHeader, MPLS};
use super::transport::UDP;
use super::{Fragment, IPV4, IPV6, Packet};

/// Tunnels inside tunnels that are walked; deeper ones are flows of the last tunnel that is.
pub const MAX_DEPTH: u8 = 8;

const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;
const ETHERIP: u8 = 97;
const L2TP: u8 = 115;
const MPLS_IN_IP: u8 = 137;

const PORT_L2TP: u16 = 1701;
const PORT_GTP_U: u16 = 2152;
const PORT_TEREDO: u16 = 3544;
const PORT_VXLAN: u16 = 4789;
const PORT_VXLAN_GPE: u16 = 4790;
const PORT_CAPWAP_DATA: u16 = 5247;
const PORT_GENEVE: u16 = 6081;
/// What Linux used for VXLAN before the number was assigned.
const PORT_VXLAN_LINUX: u16 = 8472;
const PORT_TZSP: u16 = 37008;

/// Ethertype of Ethernet inside GRE and Geneve ("transparent Ethernet bridging").
const BRIDGED: u16 = 0x6558;
const ERSPAN_II: u16 = 0x88be;
const ERSPAN_III: u16 = 0x22eb;
const PPP: u16 = 0x880b;

/// Kind of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum TunnelKind {
    /// Not in a tunnel.
    #[default]
    None = 0,
    /// IP directly in IP: 4in4, 6in4, 4in6, 6in6 (RFC 2003, RFC 4213, RFC 2473), and MPLS in IP (RFC 4023).
    Ip = 1,
    /// GRE (RFC 2784, RFC 2890), also with Ethernet inside (RFC 7637) and with PPP inside (RFC 2637).
    Gre = 2,
    /// Mirrored frames in GRE (ERSPAN types I, II and III).
    Erspan = 3,
    /// VXLAN (RFC 7348), and with the generic protocol extension.
    Vxlan = 4,
    /// Geneve (RFC 8926).
    Geneve = 5,
    /// GTP-U version 1 (3GPP TS 29.281).
    GtpU = 6,
    /// Teredo (RFC 4380).
    Teredo = 7,
    /// L2TP version 2 (RFC 2661) and 3 (RFC 3931), data.
    L2tp = 8,
    /// CAPWAP data (RFC 5415).
    Capwap = 9,
    /// TaZmen sniffer protocol.
    Tzsp = 10,
    /// Ethernet in IP (RFC 3378).
    EtherIp = 11,
    /// An Ethernet pseudowire in MPLS (RFC 4448).
    Pseudowire = 12,
}

impl TunnelKind {
    /// All of them in index order.
    pub const ALL: [Self; 13] = [
        Self::None,
        Self::Ip,
        Self::Gre,
        Self::Erspan,
        Self::Vxlan,
        Self::Geneve,
        Self::GtpU,
        Self::Teredo,
        Self::L2tp,
        Self::Capwap,
        Self::Tzsp,
        Self::EtherIp,
        Self::Pseudowire,
    ];

    /// The name used in records; empty without a tunnel.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Ip => "ip",
            Self::Gre => "gre",
            Self::Erspan => "erspan",
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::GtpU => "gtp_u",
            Self::Teredo => "teredo",
            Self::L2tp => "l2tp",
            Self::Capwap => "capwap",
            Self::Tzsp => "tzsp",
            Self::EtherIp => "etherip",
            Self::Pseudowire => "pseudowire",
        }
    }
}

/// In which tunnel a packet was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tunnel {
    /// The innermost one.
    pub kind: TunnelKind,
    /// Tunnels around the packet, at most [`MAX_DEPTH`].
    pub depth: u8,
    /// Number of the virtual network, the innermost one that has one: VNI of VXLAN and Geneve, virtual subnet of Ethernet
    /// in GRE; 0 without.
    pub network: u32,
    /// What the innermost tunnel's header calls it in the packet's direction: VNI of VXLAN and Geneve, key of GRE (of
    /// Ethernet in GRE the virtual subnet), endpoint identifier (TEID) of GTP-U; 0 without.
    pub id: u32,
}

/// Addresses of the packet that is the innermost tunnel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outer {
    /// Source, 16 bytes, IPv4 mapped.
    pub src: [u8; 16],
    /// Destination.
    pub dst: [u8; 16],
    /// IP version: 4 or 6.
    pub version: u8,
}

impl Outer {
    fn of(key: &FlowKey) -> Self {
        Self {
            src: key.src,
            dst: key.dst,
            version: key.version,
        }
    }

    /// Whether the two ends are the same. Mirrored frames of both directions go one way, so which is which does not count.
    pub(crate) fn has_ends_of(&self, other: &Self) -> bool {
        self.version == other.version
            && ((self.src, self.dst) == (other.src, other.dst)
                || (self.src, self.dst) == (other.dst, other.src))
    }

    fn key(&self) -> FlowKey {
        FlowKey {
            src: self.src,
            dst: self.dst,
            version: self.version,
            ..FlowKey::default()
        }
    }

    /// Source address.
    pub fn source(&self) -> IpAddr {
        self.key().source()
    }

    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        self.key().destination()
    }
}

/// What an inner packet begins with.
#[derive(Clone, Copy)]
enum Start {
    Ethernet,
    /// The version nibble decides.
    Ip,
    Ethertype(u16),
    Ppp,
    Wifi,
}

/// A place where an inner packet may begin.
#[derive(Clone, Copy)]
struct Inside {
    kind: TunnelKind,
    start: Start,
    at: usize,
    /// 0 leaves that of the outer tunnel.
    network: u32,
    /// [`Tunnel::id`].
    id: u32,
}

/// Whether [`inner`] has to look; cheap, because it is asked of every packet.
#[inline(always)]
pub(super) fn may_be(p: &Packet<'_>) -> bool {
    match p.key.protocol {
        UDP => is_port(p.key.destination_port()) || is_port(p.key.source_port()),
        IPV4_IN_IP | IPV6_IN_IP | GRE | ETHERIP | L2TP | MPLS_IN_IP => true,
        _ => false,
    }
}

#[inline(always)]
fn is_port(port: u16) -> bool {
    matches!(
        port,
        PORT_L2TP
            | PORT_GTP_U
            | PORT_TEREDO
            | PORT_VXLAN
            | PORT_VXLAN_GPE
            | PORT_CAPWAP_DATA
            | PORT_GENEVE
            | PORT_VXLAN_LINUX
            | PORT_TZSP
    )
}

/// The packet inside a packet, if there is one. Of a fragmented outer packet the first fragment is looked into.
#[cold]
#[inline(never)]
pub(super) fn inner<'a>(bytes: Bytes<'a>, outer: &Packet<'a>) -> Option<Packet<'a>> {
    if outer.fragment == Fragment::Later || outer.tunnel.depth >= MAX_DEPTH {
        return None;
    }
    let end = match outer.fragment {
        // The rest of the inner packet is in later fragments.
        Fragment::First => outer.ip_offset + usize::from(u16::MAX),
        _ => outer.ip_offset + outer.sample.bytes as usize,
    };
    let inside = Bytes {
        frame: bytes.frame.get(..end).unwrap_or(bytes.frame),
        wire_len: end,
    };
    let at = outer.payload_offset;
    match outer.key.protocol {
        UDP => in_udp(inside, outer, at),
        L2TP => l2tp_in_ip(inside, outer, at),
        protocol => read(inside, outer, in_ip(inside, protocol, at)?),
    }
}

fn in_ip(bytes: Bytes<'_>, protocol: u8, at: usize) -> Option<Inside> {
    let inside = |kind, start, at| {
        Some(Inside {
            kind,
            start,
            at,
            network: 0,
            id: 0,
        })
    };
    match protocol {
        IPV4_IN_IP | IPV6_IN_IP => inside(TunnelKind::Ip, Start::Ip, at),
        MPLS_IN_IP => inside(TunnelKind::Ip, Start::Ethertype(MPLS), at),
        GRE => gre(bytes, at),
        // RFC 3378: version 3 in the upper nibble, the rest is 0.
        ETHERIP if bytes.peek(at)? == &[0x30, 0] => {
            inside(TunnelKind::EtherIp, Start::Ethernet, at + 2)
        }
        _ => None,
    }
}

fn in_udp<'a>(bytes: Bytes<'a>, outer: &Packet<'a>, at: usize) -> Option<Packet<'a>> {
    let (src, dst) = (outer.key.source_port(), outer.key.destination_port());
    let either = |port| src == port || dst == port;
    let inside = match dst {
        PORT_VXLAN | PORT_VXLAN_LINUX => vxlan(bytes, at),
        PORT_VXLAN_GPE => vxlan_gpe(bytes, at),
        PORT_GENEVE => geneve(bytes, at),
        _ if either(PORT_GTP_U) => gtp_u(bytes, at),
        _ if either(PORT_TEREDO) => teredo(bytes, at),
        _ if either(PORT_CAPWAP_DATA) => return capwap(bytes, outer, at),
        _ if either(PORT_TZSP) => tzsp(bytes, at),
        _ if either(PORT_L2TP) => return l2tp_in_udp(bytes, outer, at),
        _ => None,
    };
    read(bytes, outer, inside?)
}

/// Parses the inner packet; `None` when it is none.
fn read<'a>(bytes: Bytes<'a>, outer: &Packet<'a>, inside: Inside) -> Option<Packet<'a>> {
    let at = inside.at;
    let head = match inside.start {
        Start::Ethernet => LinkHeader::ethernet(bytes, at),
        Start::Ip => Ok(LinkHeader::bare(None, at)),
        Start::Ethertype(ethertype) => Ok(LinkHeader::bare(Some(ethertype), at)),
        Start::Ppp => LinkHeader::ppp(bytes, at),
        Start::Wifi => LinkHeader::wifi(bytes, at, false),
    };
    let head = head.and_then(|head| head.up_to_ip(bytes, true));
    let mut packet = super::from_ip(head.ok()?, bytes).ok()?;
    // Of a packet without a length only its outer packet knows where it ends, which a first fragment does not.
    let open = packet.ip_offset + packet.sample.bytes as usize == bytes.wire_len;
    if outer.fragment == Fragment::First && open {
        return None;
    }
    let no_frame = matches!(inside.start, Start::Ip | Start::Ethertype(_) | Start::Ppp)
        && !matches!(packet.tunnel.kind, TunnelKind::Pseudowire);
    if no_frame {
        packet.src_mac = outer.src_mac;
        packet.dst_mac = outer.dst_mac;
        // An ethertype may have been that of a tag.
        if packet.tags == 0 {
            packet.tags = outer.tags;
            packet.key.vlan = outer.key.vlan;
            packet.inner_vlan = outer.inner_vlan;
        }
    }
    packet.sample.wire = outer.sample.wire;
    let network = match inside.network {
        0 => outer.tunnel.network,
        n => n,
    };
    packet.tunnel = match packet.tunnel.kind {
        TunnelKind::None => Tunnel {
            kind: inside.kind,
            depth: outer.tunnel.depth + 1,
            network,
            id: inside.id,
        },
        below => Tunnel {
            kind: below,
            depth: (outer.tunnel.depth + 2).min(MAX_DEPTH),
            network,
            id: 0,
        },
    };
    packet.outer = Some(Outer::of(&outer.key));
    Some(packet)
}

/// 24 bits in network order.
fn number(b: [u8; 3]) -> u32 {
    u32::from_be_bytes([0, b[0], b[1], b[2]])
}

fn gre(bytes: Bytes<'_>, at: usize) -> Option<Inside> {
    let h = bytes.peek::<4>(at)?;
    let flag = |bit: u8, size: usize| if h[0] & bit != 0 { size } else { 0 };
    let (checksum, routing, key, sequence) =
        (flag(0x80, 4), h[0] & 0x40, flag(0x20, 4), flag(0x10, 4));
    let protocol = u16::from_be_bytes([h[2], h[3]]);
    if routing != 0 {
        return None;
    }
    let mut inside = Inside {
        kind: TunnelKind::Gre,
        start: Start::Ethertype(protocol),
        at: at + 4 + checksum + key + sequence,
        network: 0,
        id: 0,
    };
    match (h[1] & 7, protocol) {
        // RFC 2637: length and call id in place of the key, and an acknowledgement; no payload without a sequence number.
        (1, PPP) if key != 0 && sequence != 0 => {
            inside.at += if h[1] & 0x80 != 0 { 4 } else { 0 };
            inside.start = Start::Ppp;
        }
        (0, BRIDGED) => {
            if key != 0 {
                let [a, b, c, _] = *bytes.peek::<4>(at + 4 + checksum)?;
                inside.network = number([a, b, c]);
                inside.id = inside.network;
            }
            inside.start = Start::Ethernet;
        }
        // Type I has no header of its own, and no sequence number.
        (0, ERSPAN_II) => {
            inside.at += if sequence != 0 { 8 } else { 0 };
            (inside.kind, inside.start) = (TunnelKind::Erspan, Start::Ethernet);
        }
        (0, ERSPAN_III) => {
            let flags = bytes.peek::<12>(inside.at)?[11];
            inside.at += if flags & 1 != 0 { 20 } else { 12 };
            (inside.kind, inside.start) = (TunnelKind::Erspan, Start::Ethernet);
        }
        (0, PPP) => inside.start = Start::Ppp,
        (0, _) => (),
        _ => return None,
    }
    if key != 0 && h[1] & 7 == 0 && protocol != BRIDGED {
        inside.id = u32::from_be_bytes(*bytes.peek::<4>(at + 4 + checksum)?);
    }
    Some(inside)
}

fn vxlan(bytes: Bytes<'_>, at: usize) -> Option<Inside> {
    let h = bytes.peek::<8>(at)?;
    (h[0] & 0x08 != 0).then_some(Inside {
        kind: TunnelKind::Vxlan,
        start: Start::Ethernet,
        at: at + 8,
        network: number([h[4], h[5], h[6]]),
        id: number([h[4], h[5], h[6]]),
    })
}

fn vxlan_gpe(bytes: Bytes<'_>, at: usize) -> Option<Inside> {
    let h = bytes.peek::<8>(at)?;
    let start = match (h[0] & 0x04, h[3]) {
        (0, _) | (_, 3) => Start::Ethernet,
        (_, 1) => Start::Ethertype(IPV4),
        (_, 2) => Start::Ethertype(IPV6),
        (_, 5) => Start::Ethertype(MPLS),
        _ => return None,
    };
    (h[0] & 0x08 != 0).then_some(Inside {
        kind: TunnelKind::Vxlan,
        start,
        at: at + 8,
        network: number([h[4], h[5], h[6]]),
        id: number([h[4], h[5], h[6]]),
    })
}

fn geneve(bytes: Bytes<'_>, at: usize) -> Option<Inside> {
    let h = bytes.peek::<8>(at)?;
    let options = usize::from(h[0] & 0x3f) * 4;
    // Version 0, and no control message.
    if h[0] >> 6 != 0 || h[1] & 0x80 != 0 {
        return None;
    }
    let start = match u16::from_be_bytes([h[2], h[3]]) {
        BRIDGED => Start::Ethernet,
        ethertype => Start::Ethertype(ethertype),
    };
    Some(Inside {
        kind: TunnelKind::Geneve,
        start,
        at: at + 8 + options,
        network: number([h[4], h[5], h[6]]),
        id: number([h[4], h[5], h[6]]),
    })
}

fn gtp_u(bytes: Bytes<'_>, at: usize) -> Option<Inside> {
    let h = bytes.peek::<8>(at)?;
    // Version 1, not GTP', a packet of the user.
    if h[0] & 0xf0 != 0x30 || h[1] != 255 {
        return None;
    }
    let id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
    let mut at = at + 8;
    if h[0] & 7 != 0 {
        let mut next = bytes.peek::<4>(at)?[3];
        at += 4;
        if h[0] & 4 == 0 {
            next = 0;
        }
        while next != 0 {
            let length = usize::from(bytes.peek::<1>(at)?[0]) * 4;
            if length == 0 {
                return None;
            }
            next = bytes.peek::<1>(at + length - 1)?[0];
            at += length;
        }
    }
    Some(Inside {
        kind: TunnelKind::GtpU,
        start: Start::Ip,
        at,
        network: 0,
        id,
    })
}

fn teredo(bytes: Bytes<'_>, at: usize) -> Option<Inside> {
    let mut at = at;
    // Authentication: lengths of an identifier and a value, both of which follow, then a nonce and a confirmation.
    if let [0, 1, identifier, value] = *bytes.peek::<4>(at)? {
        at += 13 + usize::from(identifier) + usize::from(value);
    }
    if let [0, 0] = *bytes.peek::<2>(at)? {
        at += 8;
    }
    Some(Inside {
        kind: TunnelKind::Teredo,
        start: Start::Ethertype(IPV6),
        at,
        network: 0,
        id: 0,
    })
}

fn tzsp(bytes: Bytes<'_>, at: usize) -> Option<Inside> {
    let h = bytes.peek::<4>(at)?;
    // Version 1; received packets and packets for transmission.
    if h[0] != 1 || h[1] > 1 {
        return None;
    }
    let start = match u16::from_be_bytes([h[2], h[3]]) {
        1 => Start::Ethernet,
        18 => Start::Wifi,
        _ => return None,
    };
    let mut at = at + 4;
    loop {
        match bytes.peek::<1>(at)?[0] {
            0 => at += 1,
            1 => break,
            _ => at += 2 + usize::from(bytes.peek::<1>(at + 1)?[0]),
        }
    }
    Some(Inside {
        kind: TunnelKind::Tzsp,
        start,
        at: at + 1,
        network: 0,
        id: 0,
    })
}

/// CAPWAP data: after the header an 802.3 or, with bit T, an 802.11 frame. Some senders leave T out, and some swap the two
/// bytes of the 802.11 frame control.
fn capwap<'a>(bytes: Bytes<'a>, outer: &Packet<'a>, at: usize) -> Option<Packet<'a>> {
    let h = bytes.peek::<8>(at)?;
    // Version 0, not encrypted, and not a later part of a fragmented frame.
    let fragment = u16::from_be_bytes([h[6], h[7]]) >> 3;
    if h[0] != 0 || (h[3] & 0x80 != 0 && fragment != 0) {
        return None;
    }
    let at = at + usize::from(h[1] >> 3) * 4;
    let native = h[2] & 0x01 != 0;
    let try_as = |start| {
        let inside = Inside {
            kind: TunnelKind::Capwap,
            start,
            at,
            network: 0,
            id: 0,
        };
        read(bytes, outer, inside)
    };
    if native {
        try_as(Start::Wifi).or_else(|| capwap_swapped(bytes, outer, at))
    } else {
        try_as(Start::Ethernet)
            .or_else(|| try_as(Start::Wifi))
            .or_else(|| capwap_swapped(bytes, outer, at))
    }
}

/// An 802.11 data frame whose frame control has its bytes swapped, with LLC behind its header.
fn capwap_swapped<'a>(bytes: Bytes<'a>, outer: &Packet<'a>, at: usize) -> Option<Packet<'a>> {
    let [flags, kind] = *bytes.peek::<2>(at)?;
    let subtype = kind >> 4;
    if kind & 0x0f != 0x08 || subtype & 4 != 0 || flags & 0x40 != 0 {
        return None;
    }
    let fourth = if flags & 3 == 3 { 6 } else { 0 };
    let qos = if subtype & 8 != 0 { 2 } else { 0 };
    let llc = at + 24 + fourth + qos;
    let [0xaa, 0xaa, 3, 0, 0, 0, a, b] = *bytes.peek::<8>(llc)? else {
        return None;
    };
    let inside = Inside {
        kind: TunnelKind::Capwap,
        start: Start::Ethertype(u16::from_be_bytes([a, b])),
        at: llc + 8,
        network: 0,
        id: 0,
    };
    read(bytes, outer, inside)
}

fn l2tp_in_udp<'a>(bytes: Bytes<'a>, outer: &Packet<'a>, at: usize) -> Option<Packet<'a>> {
    const CONTROL: u8 = 0x80;
    const LENGTH: u8 = 0x40;
    const SEQUENCE: u8 = 0x08;
    const OFFSET: u8 = 0x02;
    let [flags, version] = *bytes.peek::<2>(at)?;
    if flags & CONTROL != 0 {
        return None;
    }
    match version & 0x0f {
        2 => {
            let mut at = at + 6;
            at += if flags & LENGTH != 0 { 2 } else { 0 };
            at += if flags & SEQUENCE != 0 { 4 } else { 0 };
            if flags & OFFSET != 0 {
                at += 2 + usize::from(bytes.peek_u16(at)?);
            }
            let inside = Inside {
                kind: TunnelKind::L2tp,
                start: Start::Ppp,
                at,
                network: 0,
                id: 0,
            };
            read(bytes, outer, inside)
        }
        3 => l2tp_session(bytes, outer, at + 8),
        _ => None,
    }
}

fn l2tp_in_ip<'a>(bytes: Bytes<'a>, outer: &Packet<'a>, at: usize) -> Option<Packet<'a>> {
    // Session 0 is for control messages.
    if bytes.peek::<4>(at)? == &[0; 4] {
        return None;
    }
    l2tp_session(bytes, outer, at + 4)
}

/// The payload of an L2TPv3 session. Both ends know how long the cookie is (0, 4 or 8 bytes), whether a sublayer header of 4
/// bytes follows, and what is inside; the packet does not say. So the places are tried for Ethernet, and a place counts
/// when an IP packet is there that ends where the outer one ends, but for Ethernet's padding.
fn l2tp_session<'a>(bytes: Bytes<'a>, outer: &Packet<'a>, at: usize) -> Option<Packet<'a>> {
    for start in [Start::Ethernet, Start::Ip] {
        for skip in [0, 4, 8, 12] {
            let inside = Inside {
                kind: TunnelKind::L2tp,
                start,
                at: at + skip,
                network: 0,
                id: 0,
            };
            let Some(packet) = read(bytes, outer, inside) else {
                continue;
            };
            let end = packet.ip_offset + packet.sample.bytes as usize;
            let padded = at + skip + 60;
            if end == bytes.wire_len || (end < padded && bytes.wire_len <= padded) {
                return Some(packet);
            }
        }
    }
    None
}
