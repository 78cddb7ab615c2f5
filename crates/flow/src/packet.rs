use chaff_abi::{FlowKey, Mac, Sample};

/// VLAN tags that are walked; a frame with more is malformed. The kernel's parser walks two in the frame.
pub const MAX_TAGS: usize = 4;
/// IPv6 extension headers that are walked, as in the kernel; after more the next header's number is the protocol.
pub const MAX_EXTENSIONS: usize = 6;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION: u8 = 60;

/// What the first bytes of a frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Link {
    /// Ethernet II.
    Ethernet,
    /// Nothing before the IP header; its version nibble tells which one.
    RawIp,
    /// Nothing before the IPv4 header (228).
    RawIpv4,
    /// Nothing before the IPv6 header (229).
    RawIpv6,
    /// Linux cooked capture, 16 bytes.
    LinuxSll,
    /// Linux cooked capture version 2, 20 bytes.
    LinuxSll2,
    /// BSD loopback: 4 bytes of address family in either byte order.
    Null,
    /// BSD loopback of OpenBSD: 4 bytes of address family in network byte order (108).
    Loop,
    /// PPP, with or without HDLC framing (9).
    Ppp,
    /// PPP in HDLC framing (50).
    PppSerial,
    /// Cisco HDLC (104).
    CiscoHdlc,
    /// IEEE 802.11 (105).
    Ieee80211,
    /// Radiotap header, then IEEE 802.11 (127).
    Radiotap,
    /// A `LINKTYPE_` number that is not read; [`parse`] gives [`ParseError::Link`].
    Other(u32),
}

impl Link {
    /// The link of a `LINKTYPE_` number as capture files hold it; `None` for those that are not read.
    pub const fn from_pcap(link_type: u32) -> Option<Self> {
        match link_type {
            1 => Some(Self::Ethernet),
            12 | 14 | 101 => Some(Self::RawIp),
            228 => Some(Self::RawIpv4),
            229 => Some(Self::RawIpv6),
            113 => Some(Self::LinuxSll),
            276 => Some(Self::LinuxSll2),
            0 => Some(Self::Null),
            108 => Some(Self::Loop),
            9 => Some(Self::Ppp),
            50 => Some(Self::PppSerial),
            104 => Some(Self::CiscoHdlc),
            105 => Some(Self::Ieee80211),
            127 => Some(Self::Radiotap),
            _ => None,
        }
    }

    /// The `LINKTYPE_` number that a writer puts into a capture file.
    pub const fn to_pcap(self) -> u32 {
        match self {
            Self::Ethernet => 1,
            Self::RawIp => 101,
            Self::LinuxSll => 113,
            Self::LinuxSll2 => 276,
            Self::Null => 0,
            Self::RawIpv4 => 228,
            Self::RawIpv6 => 229,
            Self::Loop => 108,
            Self::Ppp => 9,
            Self::PppSerial => 50,
            Self::CiscoHdlc => 104,
            Self::Ieee80211 => 105,
            Self::Radiotap => 127,
            Self::Other(n) => n,
        }
    }
}

/// Where in a packet something was missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Link header.
    Link,
    /// VLAN tag.
    Vlan,
    /// IPv4 header with options.
    Ipv4,
    /// IPv6 header.
    Ipv6,
    /// IPv6 extension header.
    Extension,
    /// TCP header.
    Tcp,
    /// UDP header.
    Udp,
}

/// Why a frame is not a packet of any flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The capture's link type is not read.
    #[error("link type {link_type} is not read")]
    Link {
        /// `LINKTYPE_` number.
        link_type: u32,
    },
    /// The link layer carries something else (ARP, EAPOL, LLC, ...).
    #[error("not IP: ethertype {ethertype:#06x}")]
    NotIp {
        /// Ethertype, or the length field of an 802.3 frame.
        ethertype: u16,
    },
    /// The frame ended on the wire before the header did.
    #[error("{layer:?} header at byte {offset} needs {needed} bytes, the frame has {had}")]
    Short {
        /// The header.
        layer: Layer,
        /// Where it starts, bytes from the start of the frame.
        offset: usize,
        /// Bytes the header needs.
        needed: usize,
        /// Bytes there.
        had: usize,
    },
    /// The capture kept too little of the frame; the header was there on the wire.
    #[error("{layer:?} header at byte {offset} needs {needed} bytes, the capture kept {had}")]
    Cut {
        /// The header.
        layer: Layer,
        /// Where it starts, bytes from the start of the frame.
        offset: usize,
        /// Bytes the header needs.
        needed: usize,
        /// Bytes there.
        had: usize,
    },
    /// The version nibble is not the one that was announced.
    #[error("IP version {version} at byte {offset}")]
    Version {
        /// What the nibble says.
        version: u8,
        /// Where the IP header starts.
        offset: usize,
    },
    /// Lengths that contradict each other: a header longer than what it is in, or a packet longer than its frame.
    #[error("{layer:?} has {length} bytes where {minimum} are announced or needed")]
    Length {
        /// The header.
        layer: Layer,
        /// Bytes there are.
        length: usize,
        /// Bytes there must be.
        minimum: usize,
    },
    /// More stacked headers than are walked ([`MAX_TAGS`]).
    #[error("more stacked {layer:?} headers than are walked")]
    TooDeep {
        /// The header.
        layer: Layer,
    },
}

impl ParseError {
    /// What the frame is counted as.
    pub const fn reason(&self) -> Ignored {
        match self {
            Self::Link { .. } => Ignored::Link,
            Self::NotIp { .. } => Ignored::NotIp,
            Self::Cut { .. } => Ignored::Truncated,
            Self::Short { .. }
            | Self::Version { .. }
            | Self::Length { .. }
            | Self::TooDeep { .. } => Ignored::Malformed,
        }
    }
}

/// Why a frame was left out of the flow records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Ignored {
    /// Not IP (ARP, EAPOL, LLC, ...).
    NotIp,
    /// Headers that contradict themselves or a frame too short for them.
    Malformed,
    /// The capture kept too few bytes for the headers.
    Truncated,
    /// The capture's link type is not read.
    Link,
}

impl Ignored {
    /// All of them in index order.
    pub const ALL: [Self; 4] = [Self::NotIp, Self::Malformed, Self::Truncated, Self::Link];

    /// The name used in reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::Link => "link_type",
        }
    }

    /// Index into an array of [`Ignored::ALL`]'s length.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Whether a packet is a part of a larger one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// Whole.
    #[default]
    None,
    /// The first fragment: it has the transport header.
    First,
    /// A later fragment: its ports are not known and count as 0.
    Later,
}

/// Facts of a TCP header beyond ports and flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFacts {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Window as in the header, not scaled.
    pub window: u16,
}

/// A checked view of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Source to destination as in the packet.
    pub key: FlowKey,
    /// What the packet adds to its flow; one segment.
    pub sample: Sample,
    /// Source MAC, zero where the link has none.
    pub src_mac: Mac,
    /// Destination MAC, zero where the link has none.
    pub dst_mac: Mac,
    /// VLAN tags.
    pub tags: u8,
    /// VLAN id of the innermost tag when there are two or more, otherwise 0 (the outer one is in the key).
    pub inner_vlan: u16,
    /// Where the IP header starts, bytes from the start of the frame.
    pub ip_offset: usize,
    /// Whether it is a fragment.
    pub fragment: Fragment,
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
}

/// Bounds-checked access to a frame that knows how long it was on the wire.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    frame: &'a [u8],
    wire_len: usize,
}

impl<'a> Bytes<'a> {
    #[inline(always)]
    fn header<const N: usize>(
        self,
        layer: Layer,
        offset: usize,
    ) -> Result<&'a [u8; N], ParseError> {
        match self
            .frame
            .get(offset..)
            .and_then(|rest| rest.first_chunk::<N>())
        {
            Some(header) => Ok(header),
            None => Err(self.missing(layer, offset, N)),
        }
    }

    #[cold]
    fn missing(self, layer: Layer, offset: usize, needed: usize) -> ParseError {
        if offset + needed <= self.wire_len {
            let had = self.frame.len().saturating_sub(offset);
            ParseError::Cut {
                layer,
                offset,
                needed,
                had,
            }
        } else {
            let had = self.wire_len.max(self.frame.len()).saturating_sub(offset);
            ParseError::Short {
                layer,
                offset,
                needed,
                had,
            }
        }
    }

    #[inline(always)]
    fn require(self, layer: Layer, offset: usize, needed: usize) -> Result<(), ParseError> {
        if offset + needed <= self.frame.len() {
            Ok(())
        } else {
            Err(self.missing(layer, offset, needed))
        }
    }
}

struct LinkHeader {
    src_mac: Mac,
    dst_mac: Mac,
    /// `None`: the version nibble decides.
    ethertype: Option<u16>,
    offset: usize,
}

struct IpHeader {
    key: FlowKey,
    /// IP length with headers, bytes.
    length: usize,
    /// Length of all IP headers, bytes.
    headers: usize,
    fragment: Fragment,
    ttl: u8,
    traffic_class: u8,
}

/// Reads the headers of a frame that had `wire_len` bytes on the wire, of which `frame` was captured.
///
/// Lengths come from the IP header, so a capture that kept only the headers loses nothing. An IP length of 0, as
/// segmentation offload leaves it in captures, stands for the rest of the frame; one beyond the end of the frame is
/// malformed. The key has the outer VLAN id. Ports are 0 for later fragments and for protocols without ports. The kernel's
/// parser gives the same for every whole frame that has its length in the header.
///
/// # Errors
/// [`ParseError`] says what is missing and where; [`ParseError::reason`] is what to count it as. No input panics.
#[inline]
pub fn parse<'a>(link: Link, frame: &'a [u8], wire_len: usize) -> Result<Packet<'a>, ParseError> {
    let bytes = Bytes { frame, wire_len };
    let mut head = link_header(link, bytes)?;
    let (tags, outer, inner_vlan) = vlan_tags(&mut head, bytes)?;
    let ip_offset = head.offset;
    let ethertype = match head.ethertype {
        Some(t) => t,
        None => match bytes.header::<1>(Layer::Link, ip_offset)?[0] >> 4 {
            4 => IPV4,
            6 => IPV6,
            version => {
                return Err(ParseError::Version {
                    version,
                    offset: ip_offset,
                });
            }
        },
    };
    let (layer, mut ip) = match ethertype {
        IPV4 => (Layer::Ipv4, ipv4(bytes, ip_offset)?),
        IPV6 => (Layer::Ipv6, ipv6(bytes, ip_offset)?),
        ethertype => return Err(ParseError::NotIp { ethertype }),
    };
    let length = wire_len.max(frame.len()) - ip_offset;
    if ip.length > length {
        return Err(ParseError::Length {
            layer,
            length,
            minimum: ip.length,
        });
    }
    ip.key.vlan = outer.to_be_bytes();

    let mut packet = Packet {
        key: ip.key,
        sample: Sample {
            wire: wire_len as u32,
            bytes: ip.length as u32,
            payload: (ip.length - ip.headers) as u32,
            segments: 1,
            tcp_flags: 0,
        },
        src_mac: head.src_mac,
        dst_mac: head.dst_mac,
        tags,
        inner_vlan,
        ip_offset,
        fragment: ip.fragment,
        ttl: ip.ttl,
        traffic_class: ip.traffic_class,
        tcp: None,
        icmp: None,
        payload: &[],
    };
    let transport = ip_offset + ip.headers;
    let header = if ip.fragment == Fragment::Later {
        0
    } else {
        transport_header(bytes, transport, &mut packet)?
    };
    packet.sample.payload = packet.sample.payload.saturating_sub(header as u32);
    let start = transport + header;
    let end = (start + packet.sample.payload as usize).min(frame.len());
    packet.payload = frame.get(start..end).unwrap_or(&[]);
    Ok(packet)
}

#[inline(always)]
fn link_header(link: Link, bytes: Bytes<'_>) -> Result<LinkHeader, ParseError> {
    let none = Mac::default();
    Ok(match link {
        Link::Ethernet => {
            let h = bytes.header::<14>(Layer::Link, 0)?;
            LinkHeader {
                src_mac: Mac([h[6], h[7], h[8], h[9], h[10], h[11]]),
                dst_mac: Mac([h[0], h[1], h[2], h[3], h[4], h[5]]),
                ethertype: Some(u16::from_be_bytes([h[12], h[13]])),
                offset: 14,
            }
        }
        Link::RawIp | Link::RawIpv4 | Link::RawIpv6 => LinkHeader {
            src_mac: none,
            dst_mac: none,
            ethertype: None,
            offset: 0,
        },
        Link::LinuxSll => {
            let h = bytes.header::<16>(Layer::Link, 0)?;
            let mac = if h[4..6] == [0, 6] {
                Mac([h[6], h[7], h[8], h[9], h[10], h[11]])
            } else {
                none
            };
            let ethertype = Some(u16::from_be_bytes([h[14], h[15]]));
            LinkHeader {
                src_mac: mac,
                dst_mac: none,
                ethertype,
                offset: 16,
            }
        }
        Link::LinuxSll2 => {
            let h = bytes.header::<20>(Layer::Link, 0)?;
            let mac = if h[11] == 6 {
                Mac([h[12], h[13], h[14], h[15], h[16], h[17]])
            } else {
                none
            };
            let ethertype = Some(u16::from_be_bytes([h[0], h[1]]));
            LinkHeader {
                src_mac: mac,
                dst_mac: none,
                ethertype,
                offset: 20,
            }
        }
        Link::Ppp | Link::PppSerial | Link::CiscoHdlc | Link::Ieee80211 | Link::Radiotap => {
            let link_type = link.to_pcap();
            return Err(ParseError::Link { link_type });
        }
        Link::Other(link_type) => return Err(ParseError::Link { link_type }),
        Link::Null | Link::Loop => {
            let h = bytes.header::<4>(Layer::Link, 0)?;
            // AF_INET is 2 everywhere; AF_INET6 is 10, 24, 28 or 30 by system. The writer's byte order is not known.
            let ethertype = match u32::from_le_bytes(*h).min(u32::from_be_bytes(*h)) {
                2 => IPV4,
                10 | 24 | 28 | 30 => IPV6,
                _ => {
                    return Err(ParseError::NotIp {
                        ethertype: u16::from_be_bytes([h[2], h[3]]),
                    });
                }
            };
            LinkHeader {
                src_mac: none,
                dst_mac: none,
                ethertype: Some(ethertype),
                offset: 4,
            }
        }
    })
}

/// Walks the tags; gives how many, the outer id, and the innermost id of two or more.
#[inline(always)]
fn vlan_tags(head: &mut LinkHeader, bytes: Bytes<'_>) -> Result<(u8, u16, u16), ParseError> {
    let (mut tags, mut outer, mut inner) = (0u8, 0u16, 0u16);
    while let Some(0x8100 | 0x88a8 | 0x9100) = head.ethertype {
        if tags as usize == MAX_TAGS {
            return Err(ParseError::TooDeep { layer: Layer::Vlan });
        }
        let tag = bytes.header::<4>(Layer::Vlan, head.offset)?;
        let id = u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff;
        if tags == 0 {
            outer = id;
        } else {
            inner = id;
        }
        tags += 1;
        head.ethertype = Some(u16::from_be_bytes([tag[2], tag[3]]));
        head.offset += 4;
    }
    Ok((tags, outer, inner))
}

#[inline(always)]
fn ipv4(bytes: Bytes<'_>, offset: usize) -> Result<IpHeader, ParseError> {
    let h = bytes.header::<20>(Layer::Ipv4, offset)?;
    if h[0] >> 4 != 4 {
        return Err(ParseError::Version {
            version: h[0] >> 4,
            offset,
        });
    }
    let headers = (h[0] & 0x0f) as usize * 4;
    if headers < 20 {
        return Err(ParseError::Length {
            layer: Layer::Ipv4,
            length: headers,
            minimum: 20,
        });
    }
    bytes.require(Layer::Ipv4, offset, headers)?;
    let length = match u16::from_be_bytes([h[2], h[3]]) {
        0 => bytes.wire_len.saturating_sub(offset),
        n => n as usize,
    };
    if length < headers {
        return Err(ParseError::Length {
            layer: Layer::Ipv4,
            length,
            minimum: headers,
        });
    }
    let flags = u16::from_be_bytes([h[6], h[7]]);
    let fragment = fragment(flags & 0x1fff != 0, flags & 0x2000 != 0);
    let key = FlowKey {
        src: FlowKey::mapped([h[12], h[13], h[14], h[15]]),
        dst: FlowKey::mapped([h[16], h[17], h[18], h[19]]),
        protocol: h[9],
        version: 4,
        ..FlowKey::default()
    };
    Ok(IpHeader {
        key,
        length,
        headers,
        fragment,
        ttl: h[8],
        traffic_class: h[1],
    })
}

#[inline(always)]
fn ipv6(bytes: Bytes<'_>, offset: usize) -> Result<IpHeader, ParseError> {
    let h = bytes.header::<40>(Layer::Ipv6, offset)?;
    if h[0] >> 4 != 6 {
        return Err(ParseError::Version {
            version: h[0] >> 4,
            offset,
        });
    }
    let mut next = h[6];
    let length = match u16::from_be_bytes([h[4], h[5]]) {
        // Segmentation offload (BIG TCP) and jumbograms; an empty packet says "no next header".
        0 if next != NO_NEXT_HEADER => bytes.wire_len.saturating_sub(offset).max(40),
        n => n as usize + 40,
    };
    let mut headers = 40;
    let mut part = Fragment::None;
    for _ in 0..MAX_EXTENSIONS {
        let at = offset + headers;
        let size = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | AUTHENTICATION => {
                let e = bytes.header::<2>(Layer::Extension, at)?;
                let unit = if next == AUTHENTICATION { 4 } else { 8 };
                next = e[0];
                e[1] as usize * unit + 8
            }
            FRAGMENT => {
                let e = bytes.header::<8>(Layer::Extension, at)?;
                next = e[0];
                let field = u16::from_be_bytes([e[2], e[3]]);
                part = fragment(field & 0xfff8 != 0, field & 1 != 0);
                8
            }
            _ => break,
        };
        headers += size;
        if part == Fragment::Later {
            break;
        }
    }
    if headers > length {
        return Err(ParseError::Length {
            layer: Layer::Extension,
            length,
            minimum: headers,
        });
    }
    let mut key = FlowKey {
        protocol: next,
        version: 6,
        ..FlowKey::default()
    };
    key.src.copy_from_slice(&h[8..24]);
    key.dst.copy_from_slice(&h[24..40]);
    let traffic_class = (h[0] << 4) | (h[1] >> 4);
    Ok(IpHeader {
        key,
        length,
        headers,
        fragment: part,
        ttl: h[7],
        traffic_class,
    })
}

fn fragment(has_offset: bool, more: bool) -> Fragment {
    match (has_offset, more) {
        (true, _) => Fragment::Later,
        (false, true) => Fragment::First,
        (false, false) => Fragment::None,
    }
}

/// Fills in what the transport header says; gives the header's length in bytes.
#[inline(always)]
fn transport_header(
    bytes: Bytes<'_>,
    offset: usize,
    packet: &mut Packet<'_>,
) -> Result<usize, ParseError> {
    let room = packet.sample.payload as usize;
    match packet.key.protocol {
        TCP => {
            // Flags end at byte 14; the window is only wanted when it was captured.
            let h = bytes.header::<14>(Layer::Tcp, offset)?;
            let header = (h[12] >> 4) as usize * 4;
            fits(Layer::Tcp, header, 20, room)?;
            packet.key.src_port = [h[0], h[1]];
            packet.key.dst_port = [h[2], h[3]];
            packet.sample.tcp_flags = h[13] as u16;
            let window = bytes.frame.get(offset + 14..offset + 16);
            packet.tcp = Some(TcpFacts {
                sequence: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
                acknowledgement: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
                window: window.map_or(0, |w| u16::from_be_bytes([w[0], w[1]])),
            });
            Ok(header)
        }
        UDP => {
            let h = bytes.header::<4>(Layer::Udp, offset)?;
            fits(Layer::Udp, 8, 8, room)?;
            packet.key.src_port = [h[0], h[1]];
            packet.key.dst_port = [h[2], h[3]];
            Ok(8)
        }
        1 | 58 => {
            packet.icmp = bytes.frame.get(offset..offset + 2).map(|h| (h[0], h[1]));
            Ok(0)
        }
        _ => Ok(0),
    }
}

/// A header must reach its minimum and end inside the IP packet.
fn fits(layer: Layer, header: usize, minimum: usize, room: usize) -> Result<(), ParseError> {
    if header < minimum {
        Err(ParseError::Length {
            layer,
            length: header,
            minimum,
        })
    } else if header > room {
        Err(ParseError::Length {
            layer,
            length: room,
            minimum: header,
        })
    } else {
        Ok(())
    }
}
