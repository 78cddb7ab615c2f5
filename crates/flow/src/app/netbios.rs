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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// "FRED" of RFC 1001, section 14.1.
    const FRED: &[u8; 32] = b"EGFCEFEECACACACACACACACACACACACA";

    fn question(flags: u16, counts: [u16; 4]) -> Vec<u8> {
        let mut out = vec![0, 1];
        out.extend(flags.to_be_bytes());
        out.extend(counts.iter().flat_map(|c| c.to_be_bytes()));
        out.push(32);
        out.extend(FRED);
        out.extend([0, 0, 32, 0, 1]);
        out
    }

    #[test]
    fn decodes_names() {
        assert_eq!(decode(FRED).as_deref(), Some(&b"FRED"[..]));
        assert_eq!(decode(&FRED[..31]), None);
        assert_eq!(decode(b"EGFCEFEEcacacacacacacacacacacaca"), None);
    }

    #[test]
    fn reads_messages_of_the_name_service() {
        assert_eq!(
            name(&question(0x0110, [1, 0, 0, 0])).as_deref(),
            Some(&b"FRED"[..])
        );
        assert_eq!(
            name(&question(0x2910, [1, 0, 0, 1])).as_deref(),
            Some(&b"FRED"[..])
        );
        assert_eq!(
            name(&question(0x8500, [0, 1, 0, 0])).as_deref(),
            Some(&b"FRED"[..])
        );
        assert_eq!(name(&question(0x0110, [2, 0, 0, 0])), None);
        assert_eq!(name(&question(0xb400, [0, 1, 0, 0])), None);
    }

    #[test]
    fn reads_datagrams_of_their_sender() {
        let mut message = vec![0x11, 0x0e, 0, 1, 10, 0, 0, 9, 0, 138, 0, 73, 0, 0];
        for _ in 0..2 {
            message.push(32);
            message.extend(FRED);
            message.push(0);
        }
        message.extend(b"\xffSMB%");
        let sender = IpAddr::from([10, 0, 0, 9]);
        assert_eq!(
            datagram_source(&message, sender).as_deref(),
            Some(&b"FRED"[..])
        );
        assert_eq!(datagram_source(&message, IpAddr::from([10, 0, 0, 8])), None);
        message.pop();
        assert_eq!(datagram_source(&message, sender), None);
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            decode(&bytes);
            name(&bytes);
            datagram_source(&bytes, IpAddr::from([0, 0, 0, 0]));
        }
    }
}
