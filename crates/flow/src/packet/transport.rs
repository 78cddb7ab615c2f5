use super::bytes::Bytes;
use super::{Layer, Packet, ParseError};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

const SYN: u8 = 2;

/// Facts of a TCP header beyond ports and flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFacts {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Window as in the header, not scaled.
    pub window: u16,
    /// Window scale option of a SYN: the window of later packets counts `2^scale` bytes. `None` without it.
    pub window_scale: Option<u8>,
    /// Maximum segment size option of a SYN, bytes.
    pub segment_size: Option<u16>,
}

/// Fills in what the transport header says; gives the header's length in bytes.
#[inline(always)]
pub(super) fn header(
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
            let mut facts = TcpFacts {
                sequence: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
                acknowledgement: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
                window: bytes.peek_u16(offset + 14).unwrap_or(0),
                ..TcpFacts::default()
            };
            if h[13] & SYN != 0 {
                (facts.window_scale, facts.segment_size) =
                    options(bytes, offset + 20, offset + header);
            }
            packet.tcp = Some(facts);
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
            packet.icmp = bytes.peek::<2>(offset).map(|h| (h[0], h[1]));
            Ok(0)
        }
        _ => Ok(0),
    }
}

/// Window scale and segment size of a SYN, as far as its options were captured and make sense.
#[inline(never)]
fn options(bytes: Bytes<'_>, mut at: usize, end: usize) -> (Option<u8>, Option<u16>) {
    let (mut scale, mut size) = (None, None);
    while at < end {
        match bytes.peek::<2>(at) {
            Some([0, _]) | None => break,
            Some([1, _]) => at += 1,
            Some([kind, length]) => {
                let length = usize::from(*length);
                if length < 2 || at + length > end {
                    break;
                }
                match (kind, length) {
                    (2, 4) => size = bytes.peek_u16(at + 2),
                    // RFC 7323: more than 14 counts as 14.
                    (3, 3) => scale = bytes.peek::<1>(at + 2).map(|b| b[0].min(14)),
                    _ => (),
                }
                at += length;
            }
        }
    }
    (scale, size)
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
