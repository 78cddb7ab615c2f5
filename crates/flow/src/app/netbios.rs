//! NetBIOS names (RFC 1001, RFC 1002).

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

/// The first name in a message of the name service.
pub fn name(message: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(message);
    reader.take(12)?;
    if reader.u8()? as usize != ENCODED {
        return None;
    }
    decode(reader.rest())
}
