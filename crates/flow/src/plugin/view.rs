//! What plugins see of packets and flows.

use std::net::IpAddr;

use chaff_abi::{Mac, Nanos};

/// One packet of a flow, whatever the profile.
#[derive(Clone, Copy, Debug)]
pub struct PacketView<'a> {
    /// Since the Unix epoch, in the profile's resolution (NFStream: whole milliseconds, never before an earlier packet).
    pub at: Nanos,
    /// Since the flow's packet before, zero for the first one.
    pub gap: Nanos,
    /// Whether the flow's source sent it.
    pub forward: bool,
    /// The frame on the wire, bytes.
    pub frame_size: u32,
    /// The IP packet, bytes.
    pub ip_size: u32,
    /// Transport header and payload, bytes; 0 for protocols other than TCP, UDP, ICMP and ICMPv6.
    pub transport_size: u32,
    /// Transport payload, bytes.
    pub payload_size: u32,
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// Link address of the sender, zero where there is none.
    pub source_mac: Mac,
    /// Link address of the receiver, zero where there is none.
    pub destination_mac: Mac,
    /// 0 without ports.
    pub source_port: u16,
    /// 0 without ports.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// 802.1Q id, 0 when untagged.
    pub vlan: u16,
    /// The profile's number of the tunnel that it came out of, 0 for none.
    pub tunnel: u8,
    /// As in the TCP header, 0 for others.
    pub tcp_flags: u8,
    /// Captured bytes from the IP header on.
    pub ip_packet: &'a [u8],
}

/// What a plugin is told of the meter that it is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeterView {
    /// A flow that is this old is cut.
    pub active_timeout: Nanos,
}

/// A flow as far as it has come, this packet counted.
#[derive(Clone, Copy, Debug)]
pub struct FlowView {
    /// Sender of the first packet.
    pub source: IpAddr,
    /// Its receiver.
    pub destination: IpAddr,
    /// Source port, 0 without ports.
    pub source_port: u16,
    /// Destination port, 0 without ports.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// First packet, since the Unix epoch.
    pub first: Nanos,
    /// Newest packet.
    pub last: Nanos,
    /// Packets from the source and from the destination.
    pub packets: [u64; 2],
    /// Bytes from the source and from the destination, in the size that the profile counts.
    pub bytes: [u64; 2],
}

impl FlowView {
    /// Packets of both directions.
    pub const fn total_packets(&self) -> u64 {
        self.packets[0] + self.packets[1]
    }
}

/// TCP or UDP payload of bytes taken for an IPv4 packet, as the parser beneath NFStream's plugins finds it.
///
/// It does not look at the version, keeps to the total length unless that is 0 (segmentation offload), and wants whole
/// headers. `Err` when there is no such payload.
pub(super) fn ipv4_payload(ip: &[u8]) -> Result<&[u8], NotParsed> {
    let header = ip.first_chunk::<20>().ok_or(NotParsed)?;
    let len = usize::from(header[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if len < 20 || offset != 0 {
        return Err(NotParsed);
    }
    let end = if total == 0 {
        ip.len()
    } else {
        total.min(ip.len())
    };
    let segment = ip.get(len..end).unwrap_or(&[]);
    let transport = match header[9] {
        6 => usize::from(segment.get(12).ok_or(NotParsed)? >> 4) * 4,
        17 => 8,
        _ => return Err(NotParsed),
    };
    let smallest = if header[9] == 6 { 20 } else { 8 };
    if segment.len() < smallest || transport < smallest {
        return Err(NotParsed);
    }
    Ok(segment.get(transport..).unwrap_or(&[]))
}

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotParsed;
