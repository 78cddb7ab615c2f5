//! Where things are in a frame: offsets only, for changing and classifying packets.
//!
//! Nothing is copied and every offset returned lies inside the frame.

/// ARP.
pub const ARP: u16 = 0x0806;
/// IPv4.
pub const IPV4: u16 = 0x0800;
/// IPv6.
pub const IPV6: u16 = 0x86dd;
/// Bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;

/// Whether an EtherType is that of a VLAN tag.
pub fn is_vlan(ether_type: u16) -> bool {
    matches!(ether_type, 0x8100 | 0x88a8 | 0x9100)
}

/// Layers of an Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers {
    /// EtherType behind all VLAN tags.
    pub ether_type: u16,
    /// VLAN tags.
    pub tags: usize,
    /// Offset of what follows the link header.
    pub network: usize,
    /// The IP layer when there is one and its addresses are complete.
    pub ip: Option<Ip>,
}

/// Offsets in an IP packet, counted from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// 4 or 6.
    pub version: u8,
    /// Offset of the source address.
    pub source: usize,
    /// Offset of the destination address.
    pub destination: usize,
    /// Protocol of the transport header (or of what stopped the walk).
    pub protocol: u8,
    /// Offset of the transport header; none in later fragments and when headers are cut off.
    pub transport: Option<usize>,
    /// Whether the transport checksum covers the destination address of this header (not with a routing header that
    /// has segments left: then it covers the final one).
    pub covers_destination: bool,
    /// End of the packet as its header states; may lie behind the captured bytes.
    pub end: usize,
}

impl Ip {
    /// Bytes of an address.
    pub fn address_len(&self) -> usize {
        if self.version == 4 { 4 } else { 16 }
    }
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]))
}

/// Finds the layers of an Ethernet frame; `None` when the Ethernet header is cut.
pub fn layers(frame: &[u8]) -> Option<Layers> {
    let mut ether_type = be16(frame, 12)?;
    let mut network = ETHERNET_LEN;
    let mut tags = 0;
    while is_vlan(ether_type) && tags < 4 {
        let Some(next) = be16(frame, network + 2) else {
            break;
        };
        ether_type = next;
        network += 4;
        tags += 1;
    }
    let ip = match ether_type {
        IPV4 => ipv4(frame, network),
        IPV6 => ipv6(frame, network),
        _ => None,
    };
    Some(Layers {
        ether_type,
        tags,
        network,
        ip,
    })
}

/// Finds the IP layer of a packet without link header.
pub fn raw_ip(packet: &[u8]) -> Option<Ip> {
    match packet.first()? >> 4 {
        4 => ipv4(packet, 0),
        6 => ipv6(packet, 0),
        _ => None,
    }
}

fn ipv4(b: &[u8], at: usize) -> Option<Ip> {
    let first = *b.get(at)?;
    let header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < 20 || b.len() < at + 20 {
        return None;
    }
    let total = usize::from(be16(b, at + 2)?);
    let later_fragment = be16(b, at + 6)? & 0x1fff != 0;
    let transport = at + header;
    Some(Ip {
        version: 4,
        source: at + 12,
        destination: at + 16,
        protocol: b[at + 9],
        transport: (!later_fragment && transport < b.len()).then_some(transport),
        covers_destination: true,
        // Segmentation offload leaves 0 here: then the packet ends with the frame.
        end: if total == 0 { b.len() } else { at + total },
    })
}

fn ipv6(b: &[u8], at: usize) -> Option<Ip> {
    if *b.get(at)? >> 4 != 6 || b.len() < at + 40 {
        return None;
    }
    let payload = usize::from(be16(b, at + 4)?);
    let mut ip = Ip {
        version: 6,
        source: at + 8,
        destination: at + 24,
        protocol: b[at + 6],
        transport: None,
        covers_destination: true,
        end: if payload == 0 {
            b.len()
        } else {
            at + 40 + payload
        },
    };
    let mut next = at + 40;
    // The longest sensible chain has each extension header once, destination options twice (RFC 8200, 4.1).
    for _ in 0..8 {
        let units =
            |unit: usize, plus: usize| b.get(next + 1).map(|&n| (usize::from(n) + plus) * unit);
        let len = match ip.protocol {
            0 | 60 | 135 => units(8, 1),
            43 => {
                if b.get(next + 3).is_some_and(|&left| left > 0) {
                    ip.covers_destination = false;
                }
                units(8, 1)
            }
            51 => units(4, 2),
            44 => {
                if be16(b, next + 2).is_none_or(|f| f & 0xfff8 != 0) {
                    ip.protocol = b.get(next).copied().unwrap_or(59);
                    return Some(ip);
                }
                Some(8)
            }
            _ => {
                ip.transport = (next < b.len()).then_some(next);
                return Some(ip);
            }
        };
        let (Some(len), Some(&protocol)) = (len, b.get(next)) else {
            return Some(ip);
        };
        ip.protocol = protocol;
        next += len;
    }
    Some(ip)
}

/// Range of the transport payload of a UDP or TCP packet, as its headers state it; may reach behind the captured
/// bytes. `None` for other protocols, later fragments, and cut headers.
pub fn payload(b: &[u8], ip: &Ip) -> Option<std::ops::Range<usize>> {
    let transport = ip.transport?;
    let start = match ip.protocol {
        17 => transport + 8,
        6 => transport + usize::from(b.get(transport + 12)? >> 4) * 4,
        _ => return None,
    };
    (start <= ip.end).then_some(start..ip.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn udp6() -> Vec<u8> {
        let mut out = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .single_vlan(etherparse::VlanId::try_new(9).unwrap())
            .ipv6([3; 16], [4; 16], 64)
            .udp(5, 6)
            .write(&mut out, b"payload")
            .unwrap();
        out
    }

    #[test]
    fn finds_addresses_transport_and_payload_behind_a_tag() {
        let frame = udp6();
        let l = layers(&frame).unwrap();
        assert_eq!((l.ether_type, l.tags, l.network), (IPV6, 1, 18));
        let ip = l.ip.unwrap();
        assert_eq!(&frame[ip.source..][..16], [3; 16]);
        assert_eq!(&frame[ip.destination..][..16], [4; 16]);
        assert_eq!(&frame[payload(&frame, &ip).unwrap()], b"payload");
    }

    #[test]
    fn cut_frames_give_offsets_inside_the_frame_only() {
        let frame = udp6();
        for n in 0..frame.len() {
            if let Some(ip) = layers(&frame[..n]).and_then(|l| l.ip) {
                assert!(ip.destination + ip.address_len() <= n);
                assert!(ip.transport.is_none_or(|t| t < n));
            }
        }
    }

    #[test]
    fn later_fragments_have_no_transport() {
        let mut out = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(5, 6)
            .write(&mut out, b"x")
            .unwrap();
        assert!(layers(&out).unwrap().ip.unwrap().transport.is_some());
        out[ETHERNET_LEN + 7] = 1;
        assert_eq!(layers(&out).unwrap().ip.unwrap().transport, None);
    }
}
