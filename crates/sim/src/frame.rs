//! Builds and reads the Ethernet, IPv4 and UDP headers around a cover datagram.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use chaff_abi::Mac;

/// Header bytes in front of the UDP payload.
pub const HEADERS: usize = 14 + 20 + 8;

/// Where a datagram comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Sender's MAC address.
    pub src_mac: Mac,
    /// Receiver's MAC address.
    pub dst_mac: Mac,
    /// Sender.
    pub src: SocketAddrV4,
    /// Receiver.
    pub dst: SocketAddrV4,
}

impl Path {
    /// The way back.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            src_mac: self.dst_mac,
            dst_mac: self.src_mac,
            src: self.dst,
            dst: self.src,
        }
    }

    /// Puts headers and payload into `out`. DF is set and the UDP checksum is filled in.
    pub fn build(&self, payload: &[u8], out: &mut Vec<u8>) {
        let ip_len = (20 + 8 + payload.len()) as u16;
        let udp_len = (8 + payload.len()) as u16;
        out.clear();
        out.extend_from_slice(&self.dst_mac.0);
        out.extend_from_slice(&self.src_mac.0);
        out.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
        out.extend_from_slice(&ip_len.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
        out.extend_from_slice(&self.src.ip().octets());
        out.extend_from_slice(&self.dst.ip().octets());
        let sum = !fold(ones(&out[14..34], 0));
        out[24..26].copy_from_slice(&sum.to_be_bytes());
        out.extend_from_slice(&self.src.port().to_be_bytes());
        out.extend_from_slice(&self.dst.port().to_be_bytes());
        out.extend_from_slice(&udp_len.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(payload);
        let pseudo = ones(&out[26..34], 17 + u32::from(udp_len));
        let sum = match !fold(ones(&out[34..], pseudo)) {
            0 => 0xffff,
            sum => sum,
        };
        out[40..42].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Sender and payload of an IPv4 UDP frame addressed to `to`; `None` for everything else.
pub fn udp_to(frame: &[u8], to: SocketAddrV4) -> Option<(SocketAddr, &[u8])> {
    let plain = frame.len() >= HEADERS && frame[12..15] == [0x08, 0, 0x45] && frame[23] == 17;
    if !plain || frame[30..34] != to.ip().octets() || frame[36..38] != to.port().to_be_bytes() {
        return None;
    }
    let len = usize::from(u16::from_be_bytes([frame[38], frame[39]])).checked_sub(8)?;
    let src = Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]);
    let port = u16::from_be_bytes([frame[34], frame[35]]);
    Some((
        SocketAddr::from((src, port)),
        frame.get(HEADERS..HEADERS + len)?,
    ))
}

fn ones(bytes: &[u8], start: u32) -> u32 {
    bytes.chunks(2).fold(start, |sum, c| {
        let low = c.get(1).copied().unwrap_or(0);
        sum + u32::from(u16::from_be_bytes([c[0], low]))
    })
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_and_its_checksums_are_right() {
        let path = Path {
            src_mac: Mac([2, 0, 0, 0, 0, 1]),
            dst_mac: Mac([2, 0, 0, 0, 0, 2]),
            src: SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 40_000),
            dst: SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 2), 4_789),
        };
        let mut frame = Vec::new();
        for len in [0usize, 1, 24, 333, 1_400] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            path.build(&payload, &mut frame);
            assert_eq!(
                udp_to(&frame, path.dst),
                Some((SocketAddr::from(path.src), payload.as_slice()))
            );
            assert_eq!(udp_to(&frame, path.src), None);
            assert_eq!(fold(ones(&frame[14..34], 0)), 0xffff);
            let udp = (8 + len) as u32;
            assert_eq!(
                fold(ones(&frame[34..], ones(&frame[26..34], 17 + udp))),
                0xffff
            );
        }
    }
}
