//! Dumps of a routing table: MRT's TABLE_DUMP_V2 (RFC 6396), as RouteViews and RIPE RIS publish them.
//!
//! Of each prefix the first route counts, and of its AS path the last number of the last sequence: the origin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::request::Network;

const TABLE_DUMP_V2: u16 = 13;
const PEER_INDEX_TABLE: u16 = 1;
const RIB_IPV4_UNICAST: u16 = 2;
const RIB_IPV6_UNICAST: u16 = 4;
const AS_PATH: u8 = 2;
const AS_SEQUENCE: u8 = 2;
const EXTENDED_LENGTH: u8 = 0x10;

/// Whether the first record is one of such a dump.
pub(super) fn is(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let _time = input.u32();
    input.u16() == Some(TABLE_DUMP_V2)
        && matches!(
            input.u16(),
            Some(PEER_INDEX_TABLE | RIB_IPV4_UNICAST | RIB_IPV6_UNICAST)
        )
}

pub(super) fn prefixes(bytes: &[u8]) -> Result<Vec<(Network, u32)>, String> {
    let mut input = Input(bytes);
    let mut out = Vec::new();
    let mut record = 0u64;
    while !input.0.is_empty() {
        record += 1;
        let cut = || format!("MRT record {record} is cut short");
        let _time = input.u32().ok_or_else(cut)?;
        let (kind, subtype) = (input.u16().ok_or_else(cut)?, input.u16().ok_or_else(cut)?);
        let length = input.u32().ok_or_else(cut)?;
        let body = input.take(length as usize).ok_or_else(cut)?;
        let v6 = match (kind, subtype) {
            (TABLE_DUMP_V2, RIB_IPV4_UNICAST) => false,
            (TABLE_DUMP_V2, RIB_IPV6_UNICAST) => true,
            _ => continue,
        };
        match rib_entry(body, v6) {
            Some(Some(found)) => out.push(found),
            Some(None) => {}
            None => return Err(format!("MRT record {record} is no RIB entry")),
        }
    }
    Ok(out)
}

/// Prefix and origin; `Some(None)` when no route has an origin, `None` when the bytes are no entry.
fn rib_entry(body: &[u8], v6: bool) -> Option<Option<(Network, u32)>> {
    let mut input = Input(body);
    let _sequence = input.u32()?;
    let length = input.u8()?;
    let bytes = input.take(usize::from(length).div_ceil(8))?;
    let address = if v6 {
        let mut octets = [0u8; 16];
        octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
        IpAddr::V6(Ipv6Addr::from(octets))
    } else {
        let mut octets = [0u8; 4];
        octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
        IpAddr::V4(Ipv4Addr::from(octets))
    };
    let network = Network::new(address, length)?;
    let routes = input.u16()?;
    for _ in 0..routes {
        let _peer = input.u16()?;
        let _since = input.u32()?;
        let length = input.u16()?;
        let attributes = input.take(length.into())?;
        if let Some(origin) = origin(attributes) {
            return Some(Some((network, origin)));
        }
    }
    Some(None)
}

fn origin(attributes: &[u8]) -> Option<u32> {
    let mut input = Input(attributes);
    while !input.0.is_empty() {
        let (flags, kind) = (input.u8()?, input.u8()?);
        let length = if flags & EXTENDED_LENGTH != 0 {
            usize::from(input.u16()?)
        } else {
            usize::from(input.u8()?)
        };
        let value = input.take(length)?;
        if kind != AS_PATH {
            continue;
        }
        let mut path = Input(value);
        let mut last = None;
        while !path.0.is_empty() {
            let (segment, count) = (path.u8()?, path.u8()?);
            let numbers = path.take(usize::from(count) * 4)?;
            if segment == AS_SEQUENCE {
                last = Input(&numbers[numbers.len().saturating_sub(4)..])
                    .u32()
                    .or(last);
            }
        }
        return last;
    }
    None
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(subtype: u16, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, 0, 1];
        out.extend_from_slice(&TABLE_DUMP_V2.to_be_bytes());
        out.extend_from_slice(&subtype.to_be_bytes());
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    fn entry(prefix: &[u8], length: u8, path: &[u32]) -> Vec<u8> {
        let mut segment = vec![AS_SEQUENCE, path.len() as u8];
        for asn in path {
            segment.extend_from_slice(&asn.to_be_bytes());
        }
        // ORIGIN, then AS_PATH with an extended length.
        let mut attributes = vec![0x40, 1, 1, 0, 0x50, AS_PATH];
        attributes.extend_from_slice(&(segment.len() as u16).to_be_bytes());
        attributes.extend_from_slice(&segment);
        let mut body = vec![0, 0, 0, 9, length];
        body.extend_from_slice(prefix);
        body.extend_from_slice(&[0, 1, 0, 3, 0, 0, 0, 0]);
        body.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
        body.extend_from_slice(&attributes);
        body
    }

    #[test]
    fn takes_the_origin_of_each_prefix() {
        let mut dump = record(PEER_INDEX_TABLE, &[1, 2, 3, 4, 0, 0, 0, 0]);
        dump.extend(record(
            RIB_IPV4_UNICAST,
            &entry(&[198, 18], 15, &[1, 2, 64512]),
        ));
        dump.extend(record(
            RIB_IPV6_UNICAST,
            &entry(&[0x20, 1, 0xd, 0xb8, 0xca, 0xfe], 48, &[4_200_000_001]),
        ));
        assert!(is(&dump));
        let asns = super::super::Asns::parse(dump.clone(), String::new()).unwrap();
        assert_eq!(asns.lookup("198.19.0.1".parse().unwrap()), Some(64512));
        assert_eq!(
            asns.lookup("2001:db8:cafe::1".parse().unwrap()),
            Some(4_200_000_001)
        );
        for cut in 1..dump.len() {
            let _ = prefixes(&dump[..cut]);
        }
        assert!(prefixes(&dump[..dump.len() - 1]).is_err());
    }
}
