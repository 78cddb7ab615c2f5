//! The few fields of an inner IP packet that a tunnel looks at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses and true length of an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Bytes that belong to the packet; what follows is padding.
    pub len: usize,
}

/// Reads an IPv4 or IPv6 packet; `None` when it is neither, or shorter than it says.
pub fn parse(packet: &[u8]) -> Option<Inner> {
    match packet.first()? >> 4 {
        4 => {
            let head: &[u8; 20] = packet.first_chunk()?;
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let header = usize::from(head[0] & 15) * 4;
            let address = |at: usize| {
                Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]).into()
            };
            (header >= 20 && len >= header && len <= packet.len()).then(|| Inner {
                source: address(12),
                destination: address(16),
                len,
            })
        }
        6 => {
            let head: &[u8; 40] = packet.first_chunk()?;
            let len = 40 + usize::from(u16::from_be_bytes([head[4], head[5]]));
            let address = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&head[at..at + 16]);
                Ipv6Addr::from(octets).into()
            };
            (len <= packet.len()).then(|| Inner {
                source: address(8),
                destination: address(24),
                len,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_is_found_by_the_length_field() {
        let mut v4 = vec![0; 128];
        v4[0] = 0x45;
        v4[3] = 61;
        v4[12..16].copy_from_slice(&[10, 0, 0, 1]);
        let inner = parse(&v4).expect("valid");
        assert_eq!((inner.len, inner.source), (61, IpAddr::from([10, 0, 0, 1])));
        let mut v6 = vec![0; 576];
        v6[0] = 0x60;
        v6[5] = 8;
        assert_eq!(parse(&v6).map(|i| i.len), Some(48));
    }

    proptest! {
        #[test]
        fn a_packet_is_never_longer_than_its_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(inner) = parse(&bytes) {
                prop_assert!(inner.len <= bytes.len() && inner.len >= 20);
            }
        }
    }
}
