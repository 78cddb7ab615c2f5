use chaff_abi::FlowKey;

use super::bytes::Bytes;
use super::{Fragment, Layer, ParseError};

/// IPv6 extension headers that are walked, as in the kernel; after more the next header's number is the protocol.
pub const MAX_EXTENSIONS: usize = 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION: u8 = 60;

pub(super) struct IpHeader {
    /// Without ports and VLAN id.
    pub(super) key: FlowKey,
    /// IP length with headers, bytes.
    pub(super) length: usize,
    /// Length of all IP headers, bytes.
    pub(super) headers: usize,
    pub(super) fragment: Fragment,
    /// Identification of a fragment.
    pub(super) fragment_id: u32,
    pub(super) ttl: u8,
    pub(super) traffic_class: u8,
}

#[inline(always)]
pub(super) fn ipv4(bytes: Bytes<'_>, offset: usize) -> Result<IpHeader, ParseError> {
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
        src: mapped([h[12], h[13], h[14], h[15]]),
        dst: mapped([h[16], h[17], h[18], h[19]]),
        protocol: h[9],
        version: 4,
        ..FlowKey::default()
    };
    Ok(IpHeader {
        key,
        length,
        headers,
        fragment,
        fragment_id: match fragment {
            Fragment::None => 0,
            _ => u16::from_be_bytes([h[4], h[5]]).into(),
        },
        ttl: h[8],
        traffic_class: h[1],
    })
}

#[inline(always)]
pub(super) fn ipv6(bytes: Bytes<'_>, offset: usize) -> Result<IpHeader, ParseError> {
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
    let mut fragment_id = 0;
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
                if part != Fragment::None {
                    fragment_id = u32::from_be_bytes([e[4], e[5], e[6], e[7]]);
                }
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
        fragment_id,
        ttl: h[7],
        traffic_class,
    })
}

/// [`FlowKey::mapped`] as one number, so that it is stored at once: who reads it at once soon after waits otherwise.
#[inline(always)]
fn mapped(address: [u8; 4]) -> [u8; 16] {
    (0xffff_0000_0000 | u128::from(u32::from_be_bytes(address))).to_be_bytes()
}

fn fragment(has_offset: bool, more: bool) -> Fragment {
    match (has_offset, more) {
        (true, _) => Fragment::Later,
        (false, true) => Fragment::First,
        (false, false) => Fragment::None,
    }
}
