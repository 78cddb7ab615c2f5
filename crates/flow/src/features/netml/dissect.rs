//! What netml sees of a frame: the outermost IPv4 header and the first TCP or UDP header anywhere, through tunnels.

use std::net::Ipv4Addr;

use super::Key;
use crate::Link;

/// Headers that are walked before a frame is given up; every step consumes bytes, so this bounds odd frames only.
const MAX_LAYERS: usize = 32;

/// What is kept of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Flow it belongs to.
    pub key: Key,
    /// TCP flags, where the IPv4 header follows the link header directly and carries TCP; otherwise 0.
    pub flags: u8,
    /// Of the outermost IPv4 header; `None` where that one cannot be asked (no IPv4, or nothing before it).
    pub ttl: Option<u8>,
}

#[derive(Clone, Copy)]
enum Next {
    Ethernet,
    Type(u16),
    Llc,
    RawIp,
    Ipv4,
    Ipv6,
    /// By number; the flag says that the packet is a later fragment.
    Protocol(u8, bool),
    Ppp,
    Dot11,
    Tcp,
    Udp,
    Gre,
    Vxlan,
    L2tp,
    MobileIp,
}

struct Outer {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    ttl: u8,
    /// Layers before it.
    depth: usize,
    /// Something stands between the link header and it.
    tagged: bool,
}

/// Reads a frame; `None` when it has no TCP or UDP header that can be reached.
pub fn dissect(link: Link, frame: &[u8]) -> Option<Seen> {
    let mut walk = Walk {
        rest: frame,
        outer: None,
        udp: None,
        tcp: None,
        tagged: false,
    };
    let mut next = walk.link(link)?;
    let first = usize::from(matches!(link, Link::RawIp | Link::RawIpv4 | Link::RawIpv6));
    for depth in 1..=MAX_LAYERS {
        match walk.step(next, depth) {
            Some(n) => next = n,
            None => break,
        }
    }
    let (protocol, ports) = match (walk.tcp, walk.udp) {
        (Some((ports, _)), _) => (6, ports),
        (None, Some(ports)) => (17, ports),
        (None, None) => return None,
    };
    let Some(outer) = walk.outer else {
        return Some(Seen {
            key: Key::Pooled,
            flags: 0,
            ttl: None,
        });
    };
    let direct = outer.depth == 1 && first == 0 && !outer.tagged;
    let flags = match walk.tcp {
        Some((_, flags)) if direct && outer.protocol == 6 => flags,
        _ => 0,
    };
    Some(Seen {
        key: Key::Flow {
            source: outer.source,
            destination: outer.destination,
            source_port: ports.0,
            destination_port: ports.1,
            protocol,
        },
        flags,
        ttl: (first == 0).then_some(outer.ttl),
    })
}

struct Walk<'a> {
    rest: &'a [u8],
    outer: Option<Outer>,
    udp: Option<(u16, u16)>,
    tcp: Option<((u16, u16), u8)>,
    tagged: bool,
}

impl Walk<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.rest.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(
            *self.rest.get(at..)?.first_chunk::<2>()?,
        ))
    }

    fn skip(&mut self, n: usize) -> Option<()> {
        self.rest = self.rest.get(n..)?;
        // A layer without bytes is no layer.
        (!self.rest.is_empty()).then_some(())
    }

    /// A payload ends where its header says, when the header says so and the frame is longer.
    fn limit(&mut self, n: usize) {
        self.rest = &self.rest[..self.rest.len().min(n)];
    }

    fn link(&mut self, link: Link) -> Option<Next> {
        Some(match link {
            Link::Ethernet => Next::Ethernet,
            Link::RawIp => Next::RawIp,
            Link::RawIpv4 => Next::Ipv4,
            Link::RawIpv6 => Next::Ipv6,
            Link::LinuxSll => {
                let kind = self.u16(14)?;
                self.skip(16)?;
                Next::Type(kind)
            }
            Link::LinuxSll2 => {
                let kind = self.u16(0)?;
                self.skip(20)?;
                Next::Type(kind)
            }
            Link::Null | Link::Loop => {
                let family = *self.rest.first_chunk::<4>()?;
                self.skip(4)?;
                match u32::from_le_bytes(family).min(u32::from_be_bytes(family)) {
                    0 | 2 => Next::Ipv4,
                    10 | 24 | 28 | 30 => Next::Ipv6,
                    _ => return None,
                }
            }
            Link::Ppp | Link::PppSerial => Next::Ppp,
            Link::CiscoHdlc => {
                let kind = self.u16(2)?;
                self.skip(4)?;
                Next::Type(kind)
            }
            Link::Ieee80211 => Next::Dot11,
            Link::Radiotap => {
                let length = u16::from_le_bytes([self.byte(2)?, self.byte(3)?]);
                self.skip(usize::from(length))?;
                Next::Dot11
            }
            Link::Other(_) => return None,
        })
    }

    fn step(&mut self, next: Next, depth: usize) -> Option<Next> {
        match next {
            Next::Ethernet => {
                let kind = self.u16(12)?;
                self.skip(14)?;
                if kind <= 1500 {
                    self.limit(usize::from(kind));
                    return (!self.rest.is_empty()).then_some(Next::Llc);
                }
                // Counts as the layer before the packet, so it does not add to the depth.
                self.step(Next::Type(kind), depth)
            }
            Next::Type(kind) => self.ethertype(kind, depth),
            Next::Llc => {
                if self.rest.get(..3)? != [0xaa, 0xaa, 3] {
                    return None;
                }
                let kind = self.u16(6)?;
                self.skip(8)?;
                self.tagged = true;
                Some(Next::Type(kind))
            }
            Next::RawIp => match self.byte(0)? >> 4 {
                6 => self.ipv6(),
                _ => self.ipv4(depth),
            },
            Next::Ipv4 => self.ipv4(depth),
            Next::Ipv6 => self.ipv6(),
            Next::Protocol(number, later) => self.protocol(number, later, depth),
            Next::Ppp => self.ppp(depth),
            Next::Dot11 => self.dot11(),
            Next::Tcp => {
                self.transport(6);
                None
            }
            Next::Udp => self.transport(17),
            Next::Gre => self.gre(),
            Next::Vxlan => self.vxlan(),
            Next::L2tp => self.l2tp(),
            Next::MobileIp => {
                // Tunnel data: type 4, next header 4.
                if self.byte(0)? != 4 || self.byte(1)? != 4 {
                    return None;
                }
                self.skip(4)?;
                Some(Next::Ipv4)
            }
        }
    }

    fn ethertype(&mut self, kind: u16, depth: usize) -> Option<Next> {
        match kind {
            0x0800 => self.ipv4(depth),
            0x86dd => self.ipv6(),
            0x8100 | 0x88a8 => {
                let kind = self.u16(2)?;
                self.skip(4)?;
                self.tagged = true;
                if kind <= 1500 {
                    return Some(Next::Llc);
                }
                Some(Next::Type(kind))
            }
            0x8864 => {
                if self.byte(1)? != 0 {
                    return None;
                }
                self.skip(6)?;
                self.tagged = true;
                Some(Next::Ppp)
            }
            0x6558 => Some(Next::Ethernet),
            _ => None,
        }
    }

    fn ppp(&mut self, depth: usize) -> Option<Next> {
        if self.byte(0)? == 0xff {
            self.skip(2)?;
            self.tagged = true;
        }
        let number = match self.byte(0)? {
            short if short & 1 == 1 => {
                self.skip(1)?;
                u16::from(short)
            }
            _ => {
                let number = self.u16(0)?;
                self.skip(2)?;
                number
            }
        };
        match number {
            0x21 => self.ipv4(depth),
            0x57 => self.ipv6(),
            _ => None,
        }
    }

    /// A data frame of IEEE 802.11 that is not protected.
    fn dot11(&mut self) -> Option<Next> {
        let (control, flags) = (self.byte(0)?, self.byte(1)?);
        if control >> 2 & 3 != 2 || flags & 0x40 != 0 {
            return None;
        }
        let mut length = if flags & 3 == 3 { 30 } else { 24 };
        if control & 0x80 != 0 {
            length += 2;
        }
        self.skip(length)?;
        self.tagged = true;
        Some(Next::Llc)
    }

    fn ipv4(&mut self, depth: usize) -> Option<Next> {
        let h = *self.rest.first_chunk::<20>()?;
        let header = usize::from(h[0] & 15) * 4;
        if header < 20 {
            return None;
        }
        if self.outer.is_none() {
            self.outer = Some(Outer {
                source: Ipv4Addr::new(h[12], h[13], h[14], h[15]),
                destination: Ipv4Addr::new(h[16], h[17], h[18], h[19]),
                protocol: h[9],
                ttl: h[8],
                depth,
                tagged: self.tagged,
            });
        }
        let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
        let later = u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0;
        self.skip(header)?;
        if total >= header {
            self.limit(total - header);
        }
        (!self.rest.is_empty()).then_some(Next::Protocol(h[9], later))
    }

    fn ipv6(&mut self) -> Option<Next> {
        let h = *self.rest.first_chunk::<40>()?;
        let payload = usize::from(u16::from_be_bytes([h[4], h[5]]));
        self.skip(40)?;
        if payload > 0 || h[6] != 0 {
            self.limit(payload);
        }
        let mut number = h[6];
        for _ in 0..MAX_LAYERS {
            let length = match number {
                0 | 43 | 60 => usize::from(self.byte(1)?) * 8 + 8,
                44 => {
                    if self.u16(2)? & 0xfff8 != 0 {
                        return None;
                    }
                    8
                }
                _ => break,
            };
            number = self.byte(0)?;
            self.skip(length)?;
        }
        (!self.rest.is_empty()).then_some(Next::Protocol(number, false))
    }

    fn protocol(&mut self, number: u8, later: bool, depth: usize) -> Option<Next> {
        let next = match number {
            4 if !later => return self.ipv4(depth),
            6 if !later => Next::Tcp,
            17 if !later => Next::Udp,
            47 if !later => Next::Gre,
            41 => return self.ipv6(),
            51 => {
                let (inner, words) = (self.byte(0)?, usize::from(self.byte(1)?));
                self.skip(words * 4 + 8)?;
                return match inner {
                    0 => self.ipv4(depth),
                    41 => self.ipv6(),
                    _ => None,
                };
            }
            _ => return None,
        };
        self.step(next, depth)
    }

    /// TCP and UDP. A TCP header that the capture cut between two fields counts, with port 80 and the flag SYN where they
    /// are missing; a UDP header does when only the checksum is missing.
    fn transport(&mut self, number: u8) -> Option<Next> {
        let had = self.rest.len();
        let whole: &[usize] = match number {
            6 => &[2, 4, 8, 12, 14, 16, 18],
            _ => &[6],
        };
        let header = if number == 6 { 20 } else { 8 };
        if had < header && !whole.contains(&had) {
            return None;
        }
        let ports = (self.u16(0)?, self.u16(2).unwrap_or(80));
        if number == 6 {
            self.tcp = Some((ports, self.byte(13).unwrap_or(2)));
            return None;
        }
        self.udp.get_or_insert(ports);
        let length = usize::from(self.u16(4).unwrap_or(8));
        self.skip(8)?;
        if length >= 8 {
            self.limit(length - 8);
        }
        if self.rest.is_empty() {
            return None;
        }
        let either = |p: u16| ports.0 == p || ports.1 == p;
        if [4789, 4790, 6633, 8472].into_iter().any(either) || ports.1 == 48879 {
            Some(Next::Vxlan)
        } else if either(1701) {
            Some(Next::L2tp)
        } else if either(434) {
            Some(Next::MobileIp)
        } else {
            None
        }
    }

    fn gre(&mut self) -> Option<Next> {
        let (bits, kind) = (self.byte(0)?, self.u16(2)?);
        let mut length = 4;
        if kind == 0x880b {
            // The enhanced form of PPTP always has a key; acknowledgement is bit 7 of the second byte.
            length += 4;
            length += if bits & 0x10 != 0 { 4 } else { 0 };
            length += if self.byte(1)? & 0x80 != 0 { 4 } else { 0 };
            self.skip(length)?;
            return Some(Next::Ppp);
        }
        for flag in [0xc0, 0x20, 0x10] {
            length += if bits & flag != 0 { 4 } else { 0 };
        }
        if bits & 0x40 != 0 {
            return None;
        }
        self.skip(length)?;
        Some(Next::Type(kind))
    }

    fn vxlan(&mut self) -> Option<Next> {
        let (flags, next) = (self.byte(0)?, self.byte(3)?);
        self.skip(8)?;
        Some(match (flags & 4 != 0, next) {
            (false, _) | (true, 0 | 3) => Next::Ethernet,
            (true, 1) => Next::Ipv4,
            (true, 2) => Next::Ipv6,
            _ => return None,
        })
    }

    fn l2tp(&mut self) -> Option<Next> {
        let bits = self.byte(0)?;
        let control = bits & 0x80 != 0;
        let mut length = 6;
        length += if bits & 0xc0 != 0 { 2 } else { 0 };
        length += if bits & 0x88 != 0 { 4 } else { 0 };
        length += if !control && bits & 2 != 0 { 4 } else { 0 };
        self.skip(length)?;
        Some(Next::Ppp)
    }
}

#[cfg(test)]
mod tests {
    use chaff_test_support::frame;

    use super::*;

    fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        frame::ipv4([[10, 0, 0, 1], [10, 0, 0, 2]], protocol, 0, &[], payload)
    }

    fn tcp(flags: u8) -> Vec<u8> {
        frame::tcp([99, 80], flags, &[], &[])
    }

    fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
        frame::ethernet([[0; 6]; 2], kind, payload)
    }

    fn ports(seen: Seen) -> (u16, u16, u8) {
        match seen.key {
            Key::Flow {
                source_port,
                destination_port,
                protocol,
                ..
            } => (source_port, destination_port, protocol),
            Key::Pooled => (0, 0, 0),
        }
    }

    #[test]
    fn plain_tcp_has_flags_and_ttl() {
        let seen = dissect(Link::Ethernet, &ethernet(0x0800, &ipv4(6, &tcp(18)))).unwrap();
        assert_eq!(
            (ports(seen), seen.flags, seen.ttl),
            ((99, 80, 6), 18, Some(64))
        );
    }

    #[test]
    fn a_tag_hides_the_flags_and_a_raw_link_the_header() {
        let mut tagged = vec![0, 7, 8, 0];
        tagged.extend(ipv4(6, &tcp(18)));
        let seen = dissect(Link::Ethernet, &ethernet(0x8100, &tagged)).unwrap();
        assert_eq!((seen.flags, seen.ttl), (0, Some(64)));
        let seen = dissect(Link::RawIp, &ipv4(6, &tcp(18))).unwrap();
        assert_eq!((ports(seen), seen.ttl), ((99, 80, 6), None));
    }

    #[test]
    fn tcp_inside_vxlan_goes_before_the_udp_around_it() {
        let mut udp = vec![0x30, 0x39, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0];
        udp.extend(ethernet(0x0800, &ipv4(6, &tcp(2))));
        let length = udp.len() as u16;
        udp[4..6].copy_from_slice(&length.to_be_bytes());
        let seen = dissect(Link::Ethernet, &ethernet(0x0800, &ipv4(17, &udp))).unwrap();
        assert_eq!((ports(seen), seen.flags), ((99, 80, 6), 0));
    }

    #[test]
    fn gre_is_walked_and_icmp_is_not() {
        let mut gre = vec![0, 0, 8, 0];
        gre.extend(ipv4(6, &tcp(2)));
        assert!(dissect(Link::Ethernet, &ethernet(0x0800, &ipv4(47, &gre))).is_some());
        let mut icmp = vec![3, 3, 0, 0, 0, 0, 0, 0];
        icmp.extend(ipv4(17, &[0; 8]));
        assert!(dissect(Link::Ethernet, &ethernet(0x0800, &ipv4(1, &icmp))).is_none());
    }

    #[test]
    fn padding_is_no_transport_header() {
        let mut frame = ethernet(0x0800, &ipv4(6, &[]));
        frame.resize(60, 0);
        assert!(dissect(Link::Ethernet, &frame).is_none());
    }

    #[test]
    fn no_bytes_panic() {
        let mut state = 1u32;
        for length in 0..200 {
            for link in [0, 1, 9, 50, 101, 104, 105, 113, 127, 228, 229, 276] {
                let bytes: Vec<u8> = (0..length)
                    .map(|i| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        if i % 3 == 0 { (state >> 24) as u8 } else { 4 }
                    })
                    .collect();
                dissect(Link::from_pcap(link).unwrap(), &bytes);
            }
        }
    }
}
