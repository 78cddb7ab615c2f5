//! NetBIOS names (RFC 1001, RFC 1002).

use std::net::{IpAddr, Ipv4Addr};

use super::bytes::Reader;

/// Bytes of an encoded name.
const ENCODED: usize = 32;

/// Decodes a name of 32 letters: two for each byte, the last byte is the service and is left out, as padding is.
pub fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    let encoded = encoded.first_chunk::<ENCODED>()?;
    let mut name = Vec::with_capacity(15);
    for pair in encoded[..ENCODED - 2].chunks_exact(2) {
        if !pair.iter().all(|c| (b'A'..=b'P').contains(c)) {
            return None;
        }
        name.push((pair[0] - b'A') << 4 | (pair[1] - b'A'));
    }
    name.retain(|b| matches!(b, b' '..=b'~'));
    name.truncate(name.trim_ascii_end().len());
    Some(name)
}

/// The first name in a message of the name service: a question, a registration, a refresh, a release or an answer.
pub fn name(message: &[u8]) -> Option<Vec<u8>> {
    const RESPONSE: u16 = 0x8000;
    const BROADCAST: u16 = 0x10;
    let mut reader = Reader::new(message);
    reader.u16()?;
    let flags = reader.u16()?;
    let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
    let operation = flags >> 11 & 15;
    let sound = match (flags & RESPONSE != 0, counts) {
        (true, [0, 1, 0, 0]) => operation == 0,
        (false, [1, 0, 0, 0]) => operation == 0 || flags & BROADCAST != 0,
        (false, [1, 0, 0, 1]) => match operation {
            5 | 8 | 9 => true,
            0 | 6 => flags & BROADCAST != 0,
            _ => false,
        },
        _ => false,
    };
    if !sound {
        return None;
    }
    if reader.u8()? as usize != ENCODED {
        return None;
    }
    decode(reader.rest())
}

/// Name of the sender of a message of the datagram service that says to come from `sender`.
pub fn datagram_source(message: &[u8], sender: IpAddr) -> Option<Vec<u8>> {
    const HEADER: usize = 14;
    let mut reader = Reader::new(message);
    let kind = reader.u8()?;
    reader.take(3)?;
    let address = Ipv4Addr::from(reader.u32()?);
    reader.u16()?;
    let length = reader.u16()? as usize;
    reader.u16()?;
    let sound = (0x10..=0x16).contains(&kind)
        && address == sender
        && length + HEADER == message.len()
        && reader.u8()? as usize == ENCODED;
    if !sound {
        return None;
    }
    decode(reader.rest())
}
