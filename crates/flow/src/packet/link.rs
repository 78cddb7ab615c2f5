use chaff_abi::Mac;

use super::bytes::Bytes;
use super::{IPV4, IPV6, Layer, ParseError};

/// VLAN tags that are walked; a frame with more is malformed. The kernel's parser walks two in the frame.
pub const MAX_TAGS: usize = 4;
/// MPLS labels that are walked; a frame with more is malformed.
pub const MAX_LABELS: usize = 16;

/// Encapsulations of all kinds that are walked below IP.
const MAX_STEPS: usize = 8;

const TAG_8021Q: u16 = 0x8100;
const TAG_8021AD: u16 = 0x88a8;
const TAG_9100: u16 = 0x9100;
pub(super) const MPLS: u16 = 0x8847;
const MPLS_MULTICAST: u16 = 0x8848;
const PPPOE_DISCOVERY: u16 = 0x8863;
const PPPOE_SESSION: u16 = 0x8864;
/// Address resolution and keep-alives of Cisco HDLC.
const SLARP: u16 = 0x8035;
/// Largest value of the Ethernet type field that is a length.
const MAX_LENGTH: u16 = 1500;
/// Smallest value of the Ethernet type field that is a type.
const MIN_TYPE: u16 = 1536;

/// `ARPHRD_` numbers whose packets do not begin with what the protocol field of a cooked header says.
const ARPHRD_RADIOTAP: u16 = 803;
const ARPHRD_NETLINK: u16 = 824;

/// What the first bytes of a frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Link {
    /// Ethernet II and IEEE 802.3 with LLC and SNAP.
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
    /// A `LINKTYPE_` number that is not read; [`crate::parse`] gives [`ParseError::Link`].
    Other(u32),
}

impl Link {
    /// All that are read.
    pub const ALL: [Self; 13] = [
        Self::Ethernet,
        Self::RawIp,
        Self::RawIpv4,
        Self::RawIpv6,
        Self::LinuxSll,
        Self::LinuxSll2,
        Self::Null,
        Self::Loop,
        Self::Ppp,
        Self::PppSerial,
        Self::CiscoHdlc,
        Self::Ieee80211,
        Self::Radiotap,
    ];

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

/// What lies before the IP header.
#[derive(Clone, Copy)]
pub(super) struct LinkHeader {
    pub(super) src_mac: Mac,
    pub(super) dst_mac: Mac,
    /// `None`: the version nibble decides.
    pub(super) ethertype: Option<u16>,
    /// Where what the ethertype names begins.
    pub(super) offset: usize,
    /// VLAN tags.
    pub(super) tags: u8,
    /// Id of the outer tag.
    pub(super) outer_vlan: u16,
    /// Id of the innermost tag of two or more.
    pub(super) inner_vlan: u16,
    /// The frame lay in an Ethernet pseudowire.
    pub(super) pseudowire: bool,
}

impl LinkHeader {
    /// One without addresses and tags.
    #[inline(always)]
    pub(super) const fn bare(ethertype: Option<u16>, offset: usize) -> Self {
        Self {
            src_mac: Mac([0; 6]),
            dst_mac: Mac([0; 6]),
            ethertype,
            offset,
            tags: 0,
            outer_vlan: 0,
            inner_vlan: 0,
            pseudowire: false,
        }
    }

    /// The header of an Ethernet frame that holds IP and nothing before it.
    #[inline(always)]
    pub(super) fn plain_ethernet(bytes: Bytes<'_>) -> Option<Self> {
        let head = Self::ethernet(bytes, 0).ok()?;
        matches!(head.ethertype, Some(IPV4 | IPV6)).then_some(head)
    }

    /// The header of a frame that begins the bytes.
    pub(super) fn read(link: Link, bytes: Bytes<'_>) -> Result<Self, ParseError> {
        match link {
            Link::Ethernet => Self::ethernet(bytes, 0),
            Link::RawIp => Ok(Self::bare(None, 0)),
            Link::RawIpv4 => Ok(Self::bare(Some(IPV4), 0)),
            Link::RawIpv6 => Ok(Self::bare(Some(IPV6), 0)),
            Link::LinuxSll => {
                let h = bytes.header::<16>(Layer::Link, 0)?;
                let (kind, address) = (be(h, 2), (be(h, 4), mac(h, 6)));
                cooked(bytes, kind, be(h, 14), address, 16)
            }
            Link::LinuxSll2 => {
                let h = bytes.header::<20>(Layer::Link, 0)?;
                let (kind, address) = (be(h, 8), (h[11].into(), mac(h, 12)));
                cooked(bytes, kind, be(h, 0), address, 20)
            }
            Link::Null | Link::Loop => loopback(link, bytes),
            Link::Ppp | Link::PppSerial => Self::ppp(bytes, 0),
            Link::CiscoHdlc => {
                let h = bytes.header::<4>(Layer::Link, 0)?;
                Ok(Self::bare(Some(be(h, 2)), 4))
            }
            Link::Ieee80211 => Self::wifi(bytes, 0, false),
            Link::Radiotap => radiotap(bytes, 0),
            other => Err(ParseError::Link {
                link_type: other.to_pcap(),
            }),
        }
    }

    /// Ethernet at an offset.
    #[inline(always)]
    pub(super) fn ethernet(bytes: Bytes<'_>, at: usize) -> Result<Self, ParseError> {
        let h = bytes.header::<14>(Layer::Link, at)?;
        Ok(Self {
            src_mac: Mac([h[6], h[7], h[8], h[9], h[10], h[11]]),
            dst_mac: Mac([h[0], h[1], h[2], h[3], h[4], h[5]]),
            ..Self::bare(Some(u16::from_be_bytes([h[12], h[13]])), at + 14)
        })
    }

    /// PPP at an offset: address and control bytes may be there (RFC 1662), or those of Cisco HDLC (RFC 1547), and the
    /// protocol may be compressed to one byte (RFC 1661).
    pub(super) fn ppp(bytes: Bytes<'_>, at: usize) -> Result<Self, ParseError> {
        let mut at = at;
        match bytes.header::<2>(Layer::Link, at)? {
            [0xff, 0x03] => at += 2,
            [0x0f | 0x8f, 0x00] => {
                let h = bytes.header::<4>(Layer::Link, at)?;
                return Ok(Self::bare(Some(be(h, 2)), at + 4));
            }
            _ => (),
        }
        let [first] = *bytes.header::<1>(Layer::Link, at)?;
        let protocol = if first & 1 == 1 {
            at += 1;
            first.into()
        } else {
            let h = bytes.header::<2>(Layer::Link, at)?;
            at += 2;
            be(h, 0)
        };
        Ok(Self::bare(Some(ppp_ethertype(protocol)?), at))
    }

    /// IEEE 802.11 at an offset. `padded`: the header is filled up to four bytes before the payload.
    ///
    /// Of an aggregated frame (A-MSDU) only the first part is read.
    pub(super) fn wifi(bytes: Bytes<'_>, at: usize, padded: bool) -> Result<Self, ParseError> {
        let control = *bytes.header::<2>(Layer::Link, at)?;
        let code = u16::from_le_bytes(control);
        let (kind, subtype) = (control[0] >> 2 & 3, control[0] >> 4);
        if control[0] & 3 != 0 {
            return Err(ParseError::NotIp { ethertype: code });
        }
        // Data frames are of kind 2; a subtype with bit 2 says that there is none.
        if kind != 2 || subtype & 4 != 0 {
            return Err(ParseError::Control { code });
        }
        let h = bytes.header::<24>(Layer::Link, at)?;
        let (to_ds, from_ds) = (control[1] & 1 != 0, control[1] & 2 != 0);
        let (qos, order) = (subtype & 8 != 0, control[1] & 0x80 != 0);
        if h[22] & 0x0f != 0 {
            return Err(ParseError::LinkFragment);
        }
        if control[1] & 0x40 != 0 {
            return Err(ParseError::Encrypted);
        }
        let mut length = 24;
        let (mut src, mut dst) = match (to_ds, from_ds) {
            (false, false) => (mac(h, 10), mac(h, 4)),
            (false, true) => (mac(h, 16), mac(h, 4)),
            (true, false) => (mac(h, 10), mac(h, 16)),
            (true, true) => {
                length += 6;
                let fourth = bytes.header::<6>(Layer::Link, at + 24)?;
                (Mac(*fourth), mac(h, 16))
            }
        };
        let mut aggregated = false;
        if qos {
            let control = bytes.header::<2>(Layer::Link, at + length)?;
            aggregated = control[0] & 0x80 != 0;
            // The order bit of a QoS frame announces the high-throughput control field.
            length += if order { 6 } else { 2 };
        }
        if padded {
            length = length.next_multiple_of(4);
        }
        if aggregated {
            let sub = bytes.header::<14>(Layer::Link, at + length)?;
            (dst, src) = (mac(sub, 0), mac(sub, 6));
            length += 14;
        }
        let (ethertype, offset) = llc(bytes, at + length)?;
        Ok(Self {
            src_mac: src,
            dst_mac: dst,
            ..Self::bare(Some(ethertype), offset)
        })
    }

    /// Walks tags, LLC, MPLS and PPPoE up to IP; the ethertype is then that of IPv4 or IPv6. Without `pseudowires` an
    /// Ethernet frame below MPLS is not IP.
    pub(super) fn up_to_ip(
        mut self,
        bytes: Bytes<'_>,
        pseudowires: bool,
    ) -> Result<Self, ParseError> {
        for _ in 0..MAX_STEPS {
            match self.ethertype {
                Some(IPV4 | IPV6) => return Ok(self),
                Some(TAG_8021Q | TAG_8021AD | TAG_9100) => self.tag(bytes)?,
                Some(MPLS | MPLS_MULTICAST) => self.labels(bytes, pseudowires)?,
                Some(PPPOE_SESSION) => {
                    let h = bytes.header::<8>(Layer::Pppoe, self.offset)?;
                    if h[0] != 0x11 || h[1] != 0 {
                        return Err(ParseError::Control { code: be(h, 0) });
                    }
                    self.ethertype = Some(ppp_ethertype(be(h, 6))?);
                    self.offset += 8;
                }
                Some(code @ (PPPOE_DISCOVERY | SLARP)) => return Err(ParseError::Control { code }),
                Some(length) if length <= MAX_LENGTH => {
                    let (ethertype, offset) = llc(bytes, self.offset)?;
                    (self.ethertype, self.offset) = (Some(ethertype), offset);
                }
                Some(ethertype) => return Err(ParseError::NotIp { ethertype }),
                None => {
                    let version = bytes.header::<1>(Layer::Link, self.offset)?[0] >> 4;
                    self.ethertype = match version {
                        4 => Some(IPV4),
                        6 => Some(IPV6),
                        _ => {
                            return Err(ParseError::Version {
                                version,
                                offset: self.offset,
                            });
                        }
                    };
                }
            }
        }
        Err(ParseError::TooDeep { layer: Layer::Link })
    }

    /// One VLAN tag.
    fn tag(&mut self, bytes: Bytes<'_>) -> Result<(), ParseError> {
        if self.tags as usize == MAX_TAGS {
            return Err(ParseError::TooDeep { layer: Layer::Vlan });
        }
        let tag = bytes.header::<4>(Layer::Vlan, self.offset)?;
        let id = be(tag, 0) & 0x0fff;
        if self.tags == 0 {
            self.outer_vlan = id;
        } else {
            self.inner_vlan = id;
        }
        self.tags += 1;
        self.ethertype = Some(be(tag, 2));
        self.offset += 4;
        Ok(())
    }

    /// An MPLS label stack (RFC 3032). What follows says by its first nibble what it is: IPv4, IPv6, or 0 for the control
    /// word of a pseudowire (RFC 4385), which is taken for one of Ethernet (RFC 4448).
    fn labels(&mut self, bytes: Bytes<'_>, pseudowires: bool) -> Result<(), ParseError> {
        for _ in 0..MAX_LABELS {
            let label = bytes.header::<4>(Layer::Mpls, self.offset)?;
            self.offset += 4;
            if label[2] & 1 == 0 {
                continue;
            }
            let first = bytes.header::<1>(Layer::Mpls, self.offset)?[0] >> 4;
            match first {
                4 => self.ethertype = Some(IPV4),
                6 => self.ethertype = Some(IPV6),
                0 if pseudowires => {
                    *self = Self {
                        pseudowire: true,
                        ..Self::ethernet(bytes, self.offset + 4)?
                    };
                }
                _ => return Err(ParseError::NotIp { ethertype: MPLS }),
            }
            return Ok(());
        }
        Err(ParseError::TooDeep { layer: Layer::Mpls })
    }
}

/// A number in network order inside a header.
fn be<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    match header.get(at..at + 2) {
        Some(b) => u16::from_be_bytes([b[0], b[1]]),
        None => 0,
    }
}

/// An address inside a header.
fn mac<const N: usize>(header: &[u8; N], at: usize) -> Mac {
    match header.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(address) => Mac(*address),
        None => Mac::default(),
    }
}

/// The ethertype of a PPP protocol number.
fn ppp_ethertype(protocol: u16) -> Result<u16, ParseError> {
    match protocol {
        0x0021 => Ok(IPV4),
        0x0057 => Ok(IPV6),
        0x0281 => Ok(MPLS),
        0x0283 => Ok(MPLS_MULTICAST),
        // RFC 1661: 0x4000 and above are protocols without a network layer, network control and link control.
        0x4000.. => Err(ParseError::Control { code: protocol }),
        _ => Err(ParseError::NotIp {
            ethertype: protocol,
        }),
    }
}

/// An LLC header (IEEE 802.2) with SNAP, or with the service access point of IPv4. Gives the ethertype, which is at
/// least 1536, and where its packet begins.
fn llc(bytes: Bytes<'_>, at: usize) -> Result<(u16, usize), ParseError> {
    let h = bytes.header::<3>(Layer::Link, at)?;
    let saps = ParseError::NotIp {
        ethertype: be(h, 0),
    };
    match h {
        [0xaa, 0xaa, 0x03] => {
            let snap = bytes.header::<5>(Layer::Link, at + 3)?;
            let ethertype = be(snap, 3);
            // RFC 1042 and IEEE 802.1H: other organisations number their own protocols.
            match snap[..3] {
                [0, 0, 0 | 0xf8] if ethertype >= MIN_TYPE => Ok((ethertype, at + 8)),
                _ => Err(saps),
            }
        }
        [0x06, 0x06, 0x03] => Ok((IPV4, at + 3)),
        _ => Err(saps),
    }
}

/// What follows a cooked header: `kind` is the `ARPHRD_` number, `address` the sender's with its length.
fn cooked(
    bytes: Bytes<'_>,
    kind: u16,
    protocol: u16,
    address: (u16, Mac),
    offset: usize,
) -> Result<LinkHeader, ParseError> {
    let mut head = match (kind, protocol) {
        (ARPHRD_RADIOTAP, _) => return radiotap(bytes, offset),
        (ARPHRD_NETLINK, ethertype) => return Err(ParseError::NotIp { ethertype }),
        // ETH_P_802_2: a frame with a length instead of a type.
        (_, 4) => {
            let (ethertype, offset) = llc(bytes, offset)?;
            LinkHeader::bare(Some(ethertype), offset)
        }
        (_, ethertype) if ethertype < MIN_TYPE => return Err(ParseError::NotIp { ethertype }),
        (_, ethertype) => LinkHeader::bare(Some(ethertype), offset),
    };
    if address.0 == 6 {
        head.src_mac = address.1;
    }
    Ok(head)
}

/// `AF_INET` is 2 everywhere; `AF_INET6` is 10, 24, 28 or 30 by system. [`Link::Null`] is in the byte order of its writer.
fn loopback(link: Link, bytes: Bytes<'_>) -> Result<LinkHeader, ParseError> {
    let h = bytes.header::<4>(Layer::Link, 0)?;
    let family = match link {
        Link::Loop => u32::from_be_bytes(*h),
        _ => u32::from_le_bytes(*h).min(u32::from_be_bytes(*h)),
    };
    match family {
        2 => Ok(LinkHeader::bare(Some(IPV4), 4)),
        10 | 24 | 28 | 30 => Ok(LinkHeader::bare(Some(IPV6), 4)),
        _ => Err(ParseError::NotIp {
            ethertype: family as u16,
        }),
    }
}

/// A radiotap header (radiotap.org) and the 802.11 frame behind it.
fn radiotap(bytes: Bytes<'_>, at: usize) -> Result<LinkHeader, ParseError> {
    const BAD_FCS: u8 = 0x40;
    const PADDED: u8 = 0x20;
    let h = bytes.header::<8>(Layer::Link, at)?;
    let length = u16::from_le_bytes([h[2], h[3]]) as usize;
    if length < 8 || h[0] != 0 {
        return Err(ParseError::Length {
            layer: Layer::Link,
            length,
            minimum: 8,
        });
    }
    bytes.require(Layer::Link, at, length)?;
    let fields = u32::from_le_bytes([h[4], h[5], h[6], h[7]]);
    let mut flags = 0;
    if fields & 2 != 0 {
        // The fields come after the last of the presence words, each of which says whether there is another.
        let (mut word, mut offset) = (fields, 8);
        while word & 0x8000_0000 != 0 && offset < length {
            let next = bytes.header::<4>(Layer::Link, at + offset)?;
            word = u32::from_le_bytes(*next);
            offset += 4;
        }
        // The first field is a time stamp of 8 bytes, aligned to 8.
        if fields & 1 != 0 {
            offset = offset.next_multiple_of(8) + 8;
        }
        if offset < length {
            flags = bytes.header::<1>(Layer::Link, at + offset)?[0];
        }
    }
    if flags & BAD_FCS != 0 {
        return Err(ParseError::BadFcs);
    }
    LinkHeader::wifi(bytes, at + length, flags & PADDED != 0)
}
