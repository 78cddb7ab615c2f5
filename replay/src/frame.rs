//! Ethernet frames out of captures of any link type.
use chaff_abi::Mac;
use chaff_flow::Link;

use crate::headers::{ETHERNET_LEN, IPV4, IPV6};

/// Makes an Ethernet frame in `out` from captured bytes, with the given addresses where the capture has none.
/// Returns by how many bytes the link header grew; `None` when the link header is cut or of an unknown family.
pub fn to_ethernet(
    link: Link,
    captured: &[u8],
    src: Mac,
    dst: Mac,
    out: &mut Vec<u8>,
) -> Option<isize> {
    out.clear();
    let be16 = |at: usize| captured.get(at..at + 2).map(|b| [b[0], b[1]]);
    let (src, ether_type, header) = match link {
        Link::Ethernet => {
            out.extend_from_slice(captured);
            return Some(0);
        }
        Link::RawIp | Link::RawIpv4 | Link::RawIpv6 => (src, ip_type(captured)?, 0),
        Link::Null | Link::Loop => (src, ip_type(captured.get(4..)?)?, 4),
        Link::LinuxSll => (cooked(captured, be16(4)?[1], 6, src), be16(14)?, 16),
        Link::LinuxSll2 => (cooked(captured, *captured.get(11)?, 12, src), be16(0)?, 20),
        // Link types that the readers may learn later.
        _ => return None,
    };
    out.extend_from_slice(&dst.0);
    out.extend_from_slice(&src.0);
    out.extend_from_slice(&ether_type);
    out.extend_from_slice(captured.get(header..)?);
    Some(ETHERNET_LEN as isize - header as isize)
}

fn ip_type(packet: &[u8]) -> Option<[u8; 2]> {
    match packet.first()? >> 4 {
        4 => Some(IPV4.to_be_bytes()),
        6 => Some(IPV6.to_be_bytes()),
        _ => None,
    }
}

/// The sender's address of a Linux cooked capture.
fn cooked(captured: &[u8], len: u8, at: usize, otherwise: Mac) -> Mac {
    let found = captured.get(at..at + 6).and_then(|b| b.try_into().ok());
    match found {
        Some(mac) if len == 6 && mac != [0; 6] => Mac(mac),
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn gives_every_link_type_an_ethernet_header() {
        let ip = [0x45u8, 1, 2, 3];
        let mut sll = vec![0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 7, 0, 0, 8, 0];
        sll.extend(ip);
        let mut sll2 = vec![8, 0, 0, 0, 0, 0, 0, 1, 0, 1, 4, 6, 2, 0, 0, 0, 0, 7, 0, 0];
        sll2.extend(ip);
        let null = [2, 0, 0, 0, 0x45, 1, 2, 3];
        let mut out = Vec::new();
        for (link, bytes, src, grown) in [
            (Link::RawIp, &ip[..], 1, 14),
            (Link::Null, &null, 1, 10),
            (Link::LinuxSll, &sll, 7, -2),
            (Link::LinuxSll2, &sll2, 7, -6),
        ] {
            assert_eq!(to_ethernet(link, bytes, A, B, &mut out), Some(grown));
            assert_eq!(
                (out[11], &out[..6], &out[12..]),
                (src, &B.0[..], &[8, 0, 0x45, 1, 2, 3][..])
            );
        }
    }

    #[test]
    fn cut_link_headers_give_nothing() {
        let mut out = Vec::new();
        for link in [Link::RawIp, Link::Null, Link::LinuxSll, Link::LinuxSll2] {
            assert_eq!(to_ethernet(link, &[], A, B, &mut out), None);
        }
    }
}
