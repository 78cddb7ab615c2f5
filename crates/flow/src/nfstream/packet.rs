//! Frames to packets as NFStream 6.6.0 reads them: link layer, stacked headers, tunnels, transport.
//!
//! The rules are odd in places and kept so; section 1.2 to 1.6 of the written semantics names them. What NFStream reads
//! beyond the captured bytes counts as zero here. Positions are 16 bits wide as in NFStream, so they wrap in frames
//! above 64 KiB.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chaff_abi::Mac;

use super::tunnel::{self, Decoded};
use crate::Link;

pub(super) const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const MPLS_UNICAST: u16 = 0x8847;
const MPLS_MULTICAST: u16 = 0x8848;
const PPPOE: u16 = 0x8864;
const SNAP: u8 = 0xaa;
const SPANNING_TREE: u8 = 0x42;

pub(super) const ICMP: u8 = 1;
pub(super) const IP_IN_IP: u8 = 4;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const IPV6_IN_IP: u8 = 41;
pub(super) const ICMPV6: u8 = 58;

/// Smallest frame part that is looked at: the smallest IPv4 and UDP headers.
const SMALLEST: usize = 28;
/// Headers that are walked. Each takes at least 4 bytes of 64 KiB; only wrapped positions need more, without end.
const MAX_HEADERS: usize = 1 << 14;

/// Why a frame is not part of any flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Ignored {
    /// The capture's link type is not read.
    Link,
    /// Fewer captured bytes than a header, or an IPv6 packet, needs.
    Short,
    /// Neither version 4 nor 6 where an IP header should be; spanning tree; management frames of 802.11.
    NotIp,
    /// A later fragment.
    Fragment,
    /// Lengths that contradict each other, or more stacked headers than there is room for.
    Malformed,
    /// A radiotap frame whose check sequence is wrong.
    BadFrameCheck,
}

impl Ignored {
    /// All of them in index order.
    pub const ALL: [Self; 6] = [
        Self::Link,
        Self::Short,
        Self::NotIp,
        Self::Fragment,
        Self::Malformed,
        Self::BadFrameCheck,
    ];

    /// The name used in reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Link => "link_type",
            Self::Short => "truncated",
            Self::NotIp => "not_ip",
            Self::Fragment => "later_fragment",
            Self::Malformed => "malformed",
            Self::BadFrameCheck => "bad_frame_check",
        }
    }

    /// Index into an array of [`Ignored::ALL`]'s length.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// An IP address as two little-endian words of its bytes; IPv4 fills the lower half of the first.
///
/// The version is not part of it: the rare IPv6 address that looks like an IPv4 one falls into the same flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Address(pub(super) [u64; 2]);

impl Address {
    fn v4(bytes: [u8; 4]) -> Self {
        Self([u64::from(u32::from_le_bytes(bytes)), 0])
    }

    pub(super) fn to_ip(self, version: u8) -> IpAddr {
        let [low, high] = self.0.map(u64::to_le_bytes);
        if version == 4 {
            let [a, b, c, d, ..] = low;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&low);
            bytes[8..].copy_from_slice(&high);
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
    }
}

/// What a frame adds to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) src: Address,
    pub(super) dst: Address,
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    pub(super) vlan: u16,
    pub(super) protocol: u8,
    /// 0 none, 1 GTP, 2 CAPWAP, 3 TZSP.
    pub(super) tunnel: u8,
    pub(super) ip_version: u8,
    /// As in the TCP header, 0 for others.
    pub(super) tcp_flags: u8,
    pub(super) src_mac: Mac,
    pub(super) dst_mac: Mac,
    /// By accounting mode: frame, IP, transport, payload; each modulo 65536.
    pub(super) sizes: [u16; 4],
    /// From the IP header to the end of the captured bytes.
    pub(super) ip: &'a [u8],
    /// Where in `ip` the transport header begins.
    pub(super) transport: u16,
}

impl<'a> Packet<'a> {
    /// Captured bytes after the transport header, at most as many as the headers announce.
    pub(super) fn payload(&self) -> &'a [u8] {
        let announced = usize::from(self.sizes[3]);
        let header = usize::from(self.sizes[2]).saturating_sub(announced);
        let start = usize::from(self.transport) + header;
        let end = (start + announced).min(self.ip.len());
        self.ip.get(start..end).unwrap_or(&[])
    }

    /// Sequence number of a TCP packet, 0 for others.
    pub(super) fn tcp_sequence(&self) -> u32 {
        if self.protocol != TCP || self.sizes[2] < 20 {
            return 0;
        }
        let at = usize::from(self.transport) + 4;
        self.ip
            .get(at..at + 4)
            .and_then(|b| b.first_chunk::<4>())
            .map_or(0, |b| u32::from_be_bytes(*b))
    }
}

/// Finds the packet in a frame. `wire_len` is the frame's length before it was cut.
#[inline]
pub(super) fn parse(
    link: Link,
    frame: &[u8],
    wire_len: usize,
    decode_tunnels: bool,
) -> Result<Packet<'_>, Ignored> {
    if link == Link::Ethernet
        && let Some(packet) = plain(frame, wire_len, decode_tunnels)
    {
        return Ok(packet);
    }
    walk(link, frame, wire_len, decode_tunnels)
}

/// [`parse`] for every frame.
fn walk(
    link: Link,
    frame: &[u8],
    wire_len: usize,
    decode_tunnels: bool,
) -> Result<Packet<'_>, Ignored> {
    let mut walk = Walk {
        frame: Bytes(frame),
        link,
        at: 0,
        ethertype: 0,
        length_field: false,
        wifi_header: 0,
        vlan: 0,
        tunnel: 0,
        protocol: 0,
        fragment: 0,
        src_mac: Mac::default(),
        dst_mac: Mac::default(),
    };
    walk.link_layer(0)?;
    for _ in 0..MAX_HEADERS {
        match walk.network(decode_tunnels)? {
            Step::Inside => (),
            Step::Frame(base) => walk.link_layer(base)?,
            Step::Packet(header) => return walk.packet(&header, wire_len),
        }
    }
    Err(Ignored::Malformed)
}

/// The commonest frames, TCP and UDP over IPv4 without options over Ethernet, by the same rules but without a walk; `None`
/// for all others.
#[inline]
fn plain(frame: &[u8], wire_len: usize, decode_tunnels: bool) -> Option<Packet<'_>> {
    // With every header field that is read, so that one check of the length serves all.
    let h = frame.first_chunk::<54>()?;
    let u16_at = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
    let total = u16_at(16);
    let is_plain = u16_at(12) == IPV4
        && h[14] == 0x45
        && u16_at(20) & 0x1fff == 0
        && total >= 40
        && frame.len() < 1 << 16;
    if !is_plain {
        return None;
    }
    let (src_port, dst_port) = (u16_at(34), u16_at(36));
    let len = total - 20;
    let (payload, tcp_flags) = match h[23] {
        TCP => (len.saturating_sub(u16::from(h[46] >> 4) * 4), h[47]),
        UDP if decode_tunnels && tunnel::is_port_of_one([src_port, dst_port]) => return None,
        UDP => (len - 8, 0),
        _ => return None,
    };
    Some(Packet {
        src: Address::v4([h[26], h[27], h[28], h[29]]),
        dst: Address::v4([h[30], h[31], h[32], h[33]]),
        src_port,
        dst_port,
        vlan: 0,
        protocol: h[23],
        tunnel: 0,
        ip_version: 4,
        tcp_flags,
        src_mac: Mac([h[6], h[7], h[8], h[9], h[10], h[11]]),
        dst_mac: Mac([h[0], h[1], h[2], h[3], h[4], h[5]]),
        sizes: [wire_len as u16, total, len, payload],
        ip: &frame[14..],
        transport: 20,
    })
}

/// Captured bytes; what is not there reads as zero.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    #[inline]
    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(super) fn array<const N: usize>(self, at: usize) -> [u8; N] {
        match self.0.get(at..).and_then(|b| b.first_chunk::<N>()) {
            Some(found) => *found,
            None => {
                let mut out = [0; N];
                let there = self.0.get(at..).unwrap_or(&[]);
                for (to, from) in out.iter_mut().zip(there) {
                    *to = *from;
                }
                out
            }
        }
    }

    #[inline]
    pub(super) fn u8(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    #[inline]
    pub(super) fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    fn mac(self, at: usize) -> Mac {
        Mac(self.array(at))
    }
}

/// What an IP header leads to.
enum Step {
    /// Another IP header, at [`Walk::at`].
    Inside,
    /// Another frame, at this byte.
    Frame(usize),
    /// The end of the walk.
    Packet(Header),
}

/// The innermost IP header.
pub(super) enum Header {
    /// Version 4 at [`Walk::at`].
    V4,
    /// Version 6 at [`Walk::at`], what follows its extension headers.
    V6(Upper),
}

/// What follows the extension headers of an IPv6 packet.
#[derive(Clone, Copy)]
pub(super) struct Upper {
    /// From the start of the IPv6 header.
    pub(super) offset: usize,
    /// As the payload length says, less the extension headers.
    pub(super) len: u16,
    pub(super) protocol: u8,
}

/// State of the walk. What one header sets stays until another sets it again, inside tunnels too: NFStream depends on it.
pub(super) struct Walk<'a> {
    pub(super) frame: Bytes<'a>,
    link: Link,
    /// Where the next header begins.
    pub(super) at: u16,
    pub(super) ethertype: u16,
    /// The Ethernet header had a length instead of a type.
    length_field: bool,
    /// Bytes of the 802.11 header after radiotap.
    wifi_header: usize,
    vlan: u16,
    pub(super) tunnel: u8,
    /// Refreshed by IPv4 headers only where the ethertype says IPv4.
    protocol: u8,
    /// As `protocol`.
    fragment: u16,
    pub(super) src_mac: Mac,
    pub(super) dst_mac: Mac,
}

impl<'a> Walk<'a> {
    /// Walks from the start of a frame at `base` to its network header.
    #[inline]
    fn link_layer(&mut self, base: usize) -> Result<(), Ignored> {
        // A position again, and as such 16 bits wide.
        let base = usize::from(base as u16);
        if self.frame.len() < base + SMALLEST {
            return Err(Ignored::Short);
        }
        let at = match self.link {
            Link::Ethernet => self.ethernet(base)?,
            Link::RawIp => {
                match self.frame.u8(base) >> 4 {
                    4 => self.ethertype = IPV4,
                    6 => self.ethertype = IPV6,
                    _ => (),
                }
                base
            }
            Link::RawIpv4 => {
                self.ethertype = IPV4;
                base
            }
            Link::RawIpv6 => {
                self.ethertype = IPV6;
                base
            }
            Link::LinuxSll => {
                self.ethertype = self.frame.u16(base + 14);
                base + 16
            }
            Link::Null => {
                let family = u32::from_be_bytes(self.frame.array(base));
                self.ethertype = if family == 2 { IPV4 } else { IPV6 };
                base + 4
            }
            Link::PppSerial => self.hdlc(base),
            Link::Ppp | Link::CiscoHdlc => match self.frame.u8(0) {
                0x0f | 0x8f => self.hdlc(base),
                _ => {
                    self.ethertype = self.frame.u16(base);
                    base + 2
                }
            },
            Link::Radiotap => self.radiotap(base)?,
            _ => return Err(Ignored::Link),
        };
        self.at = at as u16;
        self.encapsulation()
    }

    fn hdlc(&mut self, base: usize) -> usize {
        self.ethertype = self.frame.u16(base + 2);
        base + 4
    }

    #[inline]
    fn ethernet(&mut self, base: usize) -> Result<usize, Ignored> {
        self.dst_mac = self.frame.mac(base);
        self.src_mac = self.frame.mac(base + 6);
        match self.frame.u16(base + 12) {
            0 => self.length_field = false,
            1..=1500 => self.length_field = true,
            1501..1536 => (),
            ethertype => self.ethertype = ethertype,
        }
        let at = base + 14;
        if self.length_field {
            let [dsap, ssap] = self.frame.array(at);
            if dsap == SNAP || ssap == SNAP {
                // In the byte order of a little-endian machine: 0x0800 shows as 0x0008.
                self.ethertype = u16::from_le_bytes(self.frame.array(at + 6));
                return Ok(at + 8);
            }
            if dsap == SPANNING_TREE || ssap == SPANNING_TREE {
                return Err(Ignored::NotIp);
            }
        }
        Ok(at)
    }

    fn radiotap(&mut self, base: usize) -> Result<usize, Ignored> {
        const WIFI: usize = 24;
        const LLC: usize = 8;
        let frame = self.frame;
        let wifi = base + usize::from(u16::from_le_bytes(frame.array(base + 2)));
        if frame.u8(base + 16) & 0x50 == 0x50 {
            return Err(Ignored::BadFrameCheck);
        }
        if frame.len() < wifi + WIFI {
            return Err(Ignored::Short);
        }
        let control = u16::from_le_bytes(frame.array(wifi));
        if (control >> 2) & 3 != 2 {
            return Err(Ignored::NotIp);
        }
        if (control & 0x0100 != 0) != (control & 0x0200 != 0) {
            self.wifi_header = 26;
        }
        self.src_mac = frame.mac(wifi + 10);
        self.dst_mac = frame.mac(wifi + 16);
        let llc = wifi + self.wifi_header;
        if frame.len() < llc + LLC {
            return Err(Ignored::Short);
        }
        if frame.u8(llc) == SNAP {
            self.ethertype = frame.u16(llc + 6);
        }
        Ok(llc + LLC)
    }

    /// VLAN tags, MPLS labels, PPPoE: as many as there are.
    #[inline]
    fn encapsulation(&mut self) -> Result<(), Ignored> {
        loop {
            let at = usize::from(self.at);
            match self.ethertype {
                VLAN => {
                    if at + 4 >= self.frame.len() {
                        return Err(Ignored::Short);
                    }
                    self.vlan = self.frame.u16(at) & 0x0fff;
                    self.ethertype = self.frame.u16(at + 2);
                    self.at = self.at.wrapping_add(4);
                }
                MPLS_UNICAST | MPLS_MULTICAST => {
                    if at + 4 >= self.frame.len() {
                        return Err(Ignored::Short);
                    }
                    self.labels(at);
                    self.ethertype = IPV4;
                }
                PPPOE => {
                    self.ethertype = IPV4;
                    self.at = self.at.wrapping_add(8);
                }
                _ => return Ok(()),
            }
        }
    }

    /// Skips MPLS labels up to the bottom of the stack.
    fn labels(&mut self, mut at: usize) {
        while self.frame.u8(at + 2) & 1 == 0 && at + 8 < self.frame.len() {
            at += 4;
        }
        self.at = (at + 4) as u16;
    }

    /// Reads one IP header; the ethertype does not decide which one.
    #[inline]
    fn network(&mut self, decode_tunnels: bool) -> Result<Step, Ignored> {
        let at = usize::from(self.at);
        let frame = self.frame;
        if frame.len() < at + 20 {
            return Err(Ignored::Short);
        }
        let first = frame.u8(at);
        let protocol = frame.u8(at + 9);
        if self.ethertype == IPV4 {
            self.protocol = protocol;
            self.fragment = frame.u16(at + 6);
        }
        let (header, transport) = match first >> 4 {
            4 => {
                let len = u16::from(first & 15) * 4;
                if matches!(protocol, IP_IN_IP | IPV6_IN_IP) && len > 0 {
                    self.at = self.at.wrapping_add(len);
                    return Ok(Step::Inside);
                }
                if self.fragment & 0x1fff != 0 {
                    return Err(Ignored::Fragment);
                }
                (Header::V4, at + usize::from(len))
            }
            6 => {
                let upper = self.extensions(at)?;
                self.protocol = upper.protocol;
                if matches!(upper.protocol, IP_IN_IP | IPV6_IN_IP) {
                    self.at = (at + upper.offset) as u16;
                    return Ok(Step::Inside);
                }
                // Not where the UDP header is: NFStream adds the transport length.
                (Header::V6(upper), at + usize::from(upper.len))
            }
            _ => return Err(Ignored::NotIp),
        };
        if !decode_tunnels || self.protocol != UDP {
            return Ok(Step::Packet(header));
        }
        match tunnel::decode(self, transport)? {
            Decoded::Nothing => Ok(Step::Packet(header)),
            Decoded::Ip => Ok(Step::Inside),
            Decoded::Frame(base) => Ok(Step::Frame(base)),
            Decoded::Packet(4) => Ok(Step::Packet(Header::V4)),
            Decoded::Packet(_) => {
                let upper = self.extensions(usize::from(self.at))?;
                Ok(Step::Packet(Header::V6(upper)))
            }
        }
    }

    /// Walks the extension headers of the IPv6 header at `at`.
    fn extensions(&self, at: usize) -> Result<Upper, Ignored> {
        let frame = self.frame;
        if frame.len() < at + 40 {
            return Err(Ignored::Short);
        }
        let mut upper = Upper {
            offset: 40,
            len: frame.u16(at + 4),
            protocol: frame.u8(at + 6),
        };
        if frame.len() < at + 40 + usize::from(upper.len) {
            return Err(Ignored::Short);
        }
        // What is left of the capture, padding included, as NFStream counts it down.
        let mut left = ((frame.len() - at) as u16).wrapping_sub(40);
        while left > 1 {
            let here = at + upper.offset;
            let size = match upper.protocol {
                59 => return Err(Ignored::NotIp),
                44 => {
                    if upper.len < 8 || left < 5 {
                        return Err(Ignored::Short);
                    }
                    if frame.u16(here + 2) >> 3 != 0 {
                        return Err(Ignored::Fragment);
                    }
                    left -= 5;
                    8
                }
                0 | 43 | 60 | 135 => {
                    let size = u16::from(frame.u8(here + 1)) * 8 + 8;
                    if size > left || size > upper.len {
                        return Err(Ignored::Short);
                    }
                    left -= size;
                    size
                }
                _ => break,
            };
            upper.protocol = frame.u8(here);
            upper.offset += usize::from(size);
            upper.len -= size;
        }
        Ok(upper)
    }

    /// Checks the lengths and reads the transport header.
    #[inline]
    fn packet(&self, header: &Header, wire_len: usize) -> Result<Packet<'a>, Ignored> {
        let at = usize::from(self.at);
        let frame = self.frame;
        let available = frame.len().saturating_sub(at) as u16;
        let (ip_version, src, dst, protocol, ip_size, offset, len) = match *header {
            Header::V4 => {
                let total = frame.u16(at + 2);
                let header = u16::from(frame.u8(at) & 15) * 4;
                if available < 20 || header > available {
                    return Err(Ignored::Short);
                }
                let src = Address::v4(frame.array(at + 12));
                let dst = Address::v4(frame.array(at + 16));
                let len = total.wrapping_sub(header);
                (4, src, dst, frame.u8(at + 9), total, header, len)
            }
            Header::V6(upper) => {
                let payload = frame.u16(at + 4);
                let offset = upper.offset as u16;
                if available < 40
                    || usize::from(available) < 40 + usize::from(payload)
                    || offset > available
                {
                    return Err(Ignored::Short);
                }
                let word = |at| u64::from_le_bytes(frame.array(at));
                let src = Address([word(at + 8), word(at + 16)]);
                let dst = Address([word(at + 24), word(at + 32)]);
                let size = payload.wrapping_add(40);
                (6, src, dst, upper.protocol, size, offset, upper.len)
            }
        };
        // True only when the total length is less than the header's.
        if u32::from(ip_size.max(available)) < u32::from(offset) + u32::from(len) {
            return Err(Ignored::Malformed);
        }
        let transport = at + usize::from(offset);
        let ports = || (frame.u16(transport), frame.u16(transport + 2));
        let ((src_port, dst_port), size, payload, tcp_flags) = match protocol {
            TCP if len >= 20 => {
                let header = u16::from(frame.u8(transport + 12) >> 4) * 4;
                let payload = len.saturating_sub(header);
                (ports(), len, payload, frame.u8(transport + 13))
            }
            UDP if len >= 8 => (ports(), len, len - 8, 0),
            ICMP | ICMPV6 => ((0, 0), len, len.saturating_sub(8), 0),
            _ => ((0, 0), 0, 0, 0),
        };
        let ip = frame.0.get(at..).unwrap_or(&[]);
        Ok(Packet {
            src,
            dst,
            src_port,
            dst_port,
            vlan: self.vlan,
            protocol,
            tunnel: self.tunnel,
            ip_version,
            tcp_flags,
            src_mac: self.src_mac,
            dst_mac: self.dst_mac,
            sizes: [wire_len as u16, ip_size, size, payload],
            ip: ip.get(..usize::from(available)).unwrap_or(ip),
            transport: offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{plain, walk};
    use crate::Link;

    /// Ethernet and IPv4 with telling values in the fields that decide.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let fields = (
            prop::sample::select(vec![0x0800u16, 0x0800, 0x0800, 0x86dd, 0x8100, 40]),
            prop::sample::select(vec![0x45u8, 0x45, 0x45, 0x46, 0x44, 0x65]),
            prop_oneof![0..80u16, any::<u16>()],
            prop::sample::select(vec![0u16, 0x4000, 0x2000, 1, 0x1fff]),
            prop::sample::select(vec![6u8, 17, 1, 4, 41]),
            prop::sample::select(vec![53u16, 2152, 5247, 37008]),
        );
        let bytes = prop::collection::vec(any::<u8>(), 28..200);
        (fields, bytes).prop_map(
            |((ethertype, first, total, fragment, protocol, port), mut f)| {
                let mut set = |at: usize, value: &[u8]| {
                    if let Some(place) = f.get_mut(at..at + value.len()) {
                        place.copy_from_slice(value);
                    }
                };
                set(12, &ethertype.to_be_bytes());
                set(14, &[first]);
                set(16, &total.to_be_bytes());
                set(20, &fragment.to_be_bytes());
                set(23, &[protocol]);
                set(34, &port.to_be_bytes());
                f
            },
        )
    }

    proptest! {
        #[test]
        fn finds_the_same_with_and_without_a_walk(
            frame in frames(),
            wire_len in 0..100_000usize,
            decode_tunnels in any::<bool>(),
        ) {
            if let Some(packet) = plain(&frame, wire_len, decode_tunnels) {
                let walked = walk(Link::Ethernet, &frame, wire_len, decode_tunnels);
                prop_assert_eq!(Ok(packet), walked);
            }
        }
    }
}
