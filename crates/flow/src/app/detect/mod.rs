//! Protocols that show in a few bytes of one payload.
//!
//! Each family is a file with one function per transport; they look at one payload at a time and keep nothing.

mod data;
mod games;
mod industry;
mod network;
mod peers;
mod voice;
mod vpn;

use super::names::App;

/// One payload and where it was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload<'a> {
    /// Its bytes.
    pub(super) bytes: &'a [u8],
    /// Ports of the flow, initiator first.
    pub(super) ports: [u16; 2],
}

/// A match: the protocol, and the application if the payload tells that too.
pub(super) type Match = Option<(App, Option<App>)>;

impl<'a> Payload<'a> {
    fn has_port(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    fn starts_with(&self, prefix: &[u8]) -> bool {
        self.bytes.starts_with(prefix)
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes))
    }

    fn u32_le(&self, at: usize) -> Option<u32> {
        self.u32(at).map(u32::swap_bytes)
    }

    /// The first line, when it has an end.
    fn line(&self) -> Option<&'a [u8]> {
        const LONGEST: usize = 512;
        let area = &self.bytes[..self.bytes.len().min(LONGEST)];
        let end = area.iter().position(|b| matches!(b, b'\r' | b'\n'))?;
        Some(&area[..end])
    }

    fn contains(&self, needle: &[u8]) -> bool {
        const AREA: usize = 512;
        let area = &self.bytes[..self.bytes.len().min(AREA)];
        area.windows(needle.len()).any(|w| w == needle)
    }
}

/// Whether something is so, as a match of `app`.
fn when(so: Option<bool>, app: App) -> Match {
    (so == Some(true)).then_some((app, None))
}

/// Looks at a segment of TCP.
pub(super) fn tcp(payload: &Payload<'_>) -> Match {
    data::tcp(payload)
        .or_else(|| network::tcp(payload))
        .or_else(|| industry::tcp(payload))
        .or_else(|| voice::tcp(payload))
        .or_else(|| peers::tcp(payload))
        .or_else(|| games::tcp(payload))
        .or_else(|| vpn::tcp(payload))
}

/// Looks at a datagram of UDP.
pub(super) fn udp(payload: &Payload<'_>) -> Match {
    network::udp(payload)
        .or_else(|| industry::udp(payload))
        .or_else(|| voice::udp(payload))
        .or_else(|| vpn::udp(payload))
        .or_else(|| peers::udp(payload))
        .or_else(|| data::udp(payload))
        .or_else(|| games::udp(payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn takes_any_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            ports: [u16; 2],
        ) {
            let payload = Payload { bytes: &bytes, ports };
            tcp(&payload);
            udp(&payload);
        }

        #[test]
        fn takes_any_bytes_on_known_ports(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            port in prop::sample::select(vec![
                69u16, 88, 102, 111, 123, 161, 179, 389, 443, 445, 500, 502, 514, 546, 1194, 1433, 1521, 1812, 2049, 2123,
                2152, 2404, 3389, 3478, 3544, 4500, 4569, 4789, 5060, 5246, 5351, 5683, 6379, 6667, 9042, 9999, 11095, 11211,
                20000, 27017, 44818, 47808, 51820,
            ]),
        ) {
            let payload = Payload { bytes: &bytes, ports: [40_000, port] };
            tcp(&payload);
            udp(&payload);
        }
    }
}
