//! One Ethernet frame, built in place.

use super::Random;

/// Which end of a session sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The end that began the session.
    Client,
    /// The other end.
    Server,
}

/// Addresses of one end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct End {
    pub(crate) mac: [u8; 6],
    /// IPv4 in the last four bytes when the session is IPv4.
    pub(crate) address: [u8; 16],
    pub(crate) port: u16,
}

/// Transport of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
    /// Echo requests and replies.
    Ping,
    /// ARP: no IP at all.
    Arp,
}

/// What all frames of a session share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) client: End,
    pub(crate) server: End,
    pub(crate) transport: Transport,
    pub(crate) ipv6: bool,
    /// VLAN id, 0 when untagged.
    pub(crate) vlan: u16,
}

/// What a frame adds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) from: From,
    /// TCP flags.
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) payload: &'a [u8],
}

/// A frame and its buffer.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    bytes: Vec<u8>,
    kind: u16,
    identification: u16,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const RST: u8 = 0x04;

impl Frame {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn is_ip(&self) -> bool {
        self.kind != ARP
    }

    pub(crate) fn is_ipv6(&self) -> bool {
        self.kind == IPV6
    }

    /// Makes the frame anew.
    pub(crate) fn fill(&mut self, path: &Path, segment: Segment<'_>, random: &mut Random) {
        let (source, target) = match segment.from {
            From::Client => (&path.client, &path.server),
            From::Server => (&path.server, &path.client),
        };
        self.kind = match path.transport {
            Transport::Arp => ARP,
            _ if path.ipv6 => IPV6,
            _ => IPV4,
        };
        self.bytes.clear();
        self.bytes.extend_from_slice(&target.mac);
        self.bytes.extend_from_slice(&source.mac);
        if path.vlan != 0 {
            self.bytes.extend_from_slice(&0x8100_u16.to_be_bytes());
            self.bytes.extend_from_slice(&path.vlan.to_be_bytes());
        }
        self.bytes.extend_from_slice(&self.kind.to_be_bytes());
        if path.transport == Transport::Arp {
            self.arp(source, target, segment.from);
            return;
        }
        self.identification = random.next() as u16;
        let header = match path.transport {
            Transport::Tcp => tcp_header_len(segment.flags),
            Transport::Udp | Transport::Ping | Transport::Arp => 8,
        };
        let length = header + segment.payload.len();
        self.ip(path, source, target, length as u16);
        let start = self.bytes.len();
        match path.transport {
            Transport::Tcp => self.tcp(source.port, target.port, segment),
            Transport::Ping => self.ping(path.ipv6, segment),
            Transport::Udp | Transport::Arp => {
                for n in [source.port, target.port, length as u16, 0] {
                    self.bytes.extend_from_slice(&n.to_be_bytes());
                }
            }
        }
        self.bytes.extend_from_slice(segment.payload);
        self.checksum(path, source, target, start);
    }

    fn arp(&mut self, source: &End, target: &End, from: From) {
        let operation = if from == From::Client { 1 } else { 2 };
        self.bytes
            .extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
        for end in [source, target] {
            self.bytes.extend_from_slice(&end.mac);
            self.bytes.extend_from_slice(&end.address[12..]);
        }
        self.bytes.resize(60, 0);
    }

    fn ip(&mut self, path: &Path, source: &End, target: &End, length: u16) {
        let protocol = protocol(path);
        if path.ipv6 {
            self.bytes.extend_from_slice(&[0x60, 0, 0, 0]);
            self.bytes.extend_from_slice(&length.to_be_bytes());
            self.bytes.extend_from_slice(&[protocol, 64]);
            self.bytes.extend_from_slice(&source.address);
            self.bytes.extend_from_slice(&target.address);
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0x45, 0]);
        self.bytes.extend_from_slice(&(length + 20).to_be_bytes());
        self.bytes
            .extend_from_slice(&self.identification.to_be_bytes());
        self.bytes.extend_from_slice(&[0x40, 0, 64, protocol, 0, 0]);
        self.bytes.extend_from_slice(&source.address[12..]);
        self.bytes.extend_from_slice(&target.address[12..]);
        let sum = fold(sum(0, &self.bytes[start..]));
        self.bytes[start + 10..start + 12].copy_from_slice(&(!sum).to_be_bytes());
    }

    fn tcp(&mut self, source: u16, target: u16, segment: Segment<'_>) {
        self.bytes.extend_from_slice(&source.to_be_bytes());
        self.bytes.extend_from_slice(&target.to_be_bytes());
        self.bytes
            .extend_from_slice(&segment.sequence.to_be_bytes());
        self.bytes
            .extend_from_slice(&segment.acknowledgement.to_be_bytes());
        let header = tcp_header_len(segment.flags);
        self.bytes.extend_from_slice(&[
            (header as u8 / 4) << 4,
            segment.flags,
            0x20,
            0,
            0,
            0,
            0,
            0,
        ]);
        if segment.flags & SYN != 0 {
            // Maximum segment size, selective acknowledgement, timestamps, window scale.
            self.bytes.extend_from_slice(&[
                2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 1, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7,
            ]);
        } else {
            self.bytes
                .extend_from_slice(&[1, 1, 8, 10, 0, 1, 0, 1, 0, 2, 0, 1]);
        }
    }

    fn ping(&mut self, ipv6: bool, segment: Segment<'_>) {
        let kind = match (ipv6, segment.from) {
            (false, From::Client) => 8,
            (false, From::Server) => 0,
            (true, From::Client) => 128,
            (true, From::Server) => 129,
        };
        self.bytes.extend_from_slice(&[kind, 0, 0, 0, 0, 7]);
        self.bytes
            .extend_from_slice(&(segment.sequence as u16).to_be_bytes());
    }

    /// Fills in the transport checksum of what begins at `start`.
    fn checksum(&mut self, path: &Path, source: &End, target: &End, start: usize) {
        let (at, pseudo) = match path.transport {
            Transport::Tcp => (16, true),
            Transport::Udp | Transport::Arp => (6, true),
            Transport::Ping => (2, path.ipv6),
        };
        let body = &self.bytes[start..];
        let mut total = 0;
        if pseudo {
            let from = if path.ipv6 { 0 } else { 12 };
            total = sum(total, &source.address[from..]);
            total = sum(total, &target.address[from..]);
            total += u64::from(protocol(path)) + body.len() as u64;
        }
        let total = fold(sum(total, body));
        self.bytes[start + at..start + at + 2].copy_from_slice(&(!total).to_be_bytes());
    }
}

/// Bytes of the TCP header with the options that a segment with these flags has.
pub(crate) fn tcp_header_len(flags: u8) -> usize {
    if flags & SYN != 0 { 40 } else { 32 }
}

fn protocol(path: &Path) -> u8 {
    match (path.transport, path.ipv6) {
        (Transport::Tcp, _) => 6,
        (Transport::Udp | Transport::Arp, _) => 17,
        (Transport::Ping, false) => 1,
        (Transport::Ping, true) => 58,
    }
}

/// Adds 16-bit words; the last one is padded with a zero.
fn sum(mut total: u64, bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_be_bytes(*pair));
    }
    if let [last] = rest {
        total += u64::from(*last) << 8;
    }
    total
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Lengths fit, and both checksums are those of RFC 1071.
    pub(crate) fn assert_sound(frame: &[u8]) {
        let tagged = frame[12..14] == [0x81, 0];
        let at = if tagged { 18 } else { 14 };
        let ip = &frame[at..];
        match u16::from_be_bytes([frame[at - 2], frame[at - 1]]) {
            ARP => (),
            IPV4 => {
                assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len());
                assert_eq!(fold(sum(0, &ip[..20])), 0xffff);
                let pseudo = sum(u64::from(ip[9]) + ip.len() as u64 - 20, &ip[12..20]);
                let start = if ip[9] == 1 { 0 } else { pseudo };
                assert_eq!(fold(sum(start, &ip[20..])), 0xffff, "{frame:02x?}");
            }
            IPV6 => {
                assert_eq!(
                    usize::from(u16::from_be_bytes([ip[4], ip[5]])),
                    ip.len() - 40
                );
                let pseudo = sum(u64::from(ip[6]) + ip.len() as u64 - 40, &ip[8..40]);
                assert_eq!(fold(sum(pseudo, &ip[40..])), 0xffff, "{frame:02x?}");
            }
            other => panic!("ethertype {other:#06x}"),
        }
    }
}
