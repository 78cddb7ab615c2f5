//! STUN and TURN (RFC 8489, RFC 8656): messages, and what relays carry inside of them.

use super::bytes::Reader;

/// Bytes of a message's header.
pub const HEADER: usize = 20;
const COOKIE: u32 = 0x2112_a442;
const REALM: u16 = 0x0014;
const DATA: u16 = 0x0013;

/// Whether a payload is a message; without `strict` also one from before RFC 5389, which has no cookie.
pub fn is_message(payload: &[u8], strict: bool) -> bool {
    let mut reader = Reader::new(payload);
    let (Some(kind), Some(length), Some(cookie)) = (reader.u16(), reader.u16(), reader.u32())
    else {
        return false;
    };
    let method = matches!(kind & 0x3eef, 1..=4 | 6..=0x0c);
    let whole = length as usize + HEADER == payload.len() && length % 4 == 0;
    kind >> 14 == 0 && method && whole && (cookie == COOKIE || !strict)
}

/// Value of the first attribute of a kind.
fn attribute(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut reader = Reader::new(message.get(HEADER..)?);
    loop {
        let kind = reader.u16()?;
        let length = reader.u16()? as usize;
        let value = reader.take(length)?;
        if kind == wanted {
            return Some(value);
        }
        reader.take(length.wrapping_neg() % 4)?;
    }
}

/// REALM of a message: the name of the relay's domain.
pub fn realm(message: &[u8]) -> Option<&[u8]> {
    attribute(message, REALM)
}

/// What a payload of a flow with STUN carries: channel data, the data of an indication, or the payload itself.
pub fn inner(payload: &[u8]) -> &[u8] {
    let mut reader = Reader::new(payload);
    let (Some(kind), Some(length)) = (reader.u16(), reader.u16()) else {
        return payload;
    };
    match kind {
        0x4000..=0x7fff => reader.take(length as usize).unwrap_or(payload),
        0x0016 | 0x0017 => attribute(payload, DATA).unwrap_or(payload),
        _ => payload,
    }
}

/// Payload type of what looks like RTP (RFC 3550): version 2 and a type that is no RTCP.
pub fn rtp_kind(payload: &[u8]) -> Option<u8> {
    let [first, second, ..] = payload.first_chunk::<12>()?;
    let kind = second & 0x7f;
    (first >> 6 == 2 && (kind <= 34 || kind >= 96)).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend(kind.to_be_bytes());
            body.extend((value.len() as u16).to_be_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut out = kind.to_be_bytes().to_vec();
        out.extend((body.len() as u16).to_be_bytes());
        out.extend(COOKIE.to_be_bytes());
        out.extend([7; 12]);
        out.extend(body);
        out
    }

    #[test]
    fn reads_messages() {
        let allocate = message(3, &[(6, b"user"), (REALM, b"example.org"), (0x15, b"x")]);
        assert!(is_message(&allocate, true));
        assert_eq!(realm(&allocate), Some(&b"example.org"[..]));
        assert!(!is_message(&allocate[..30], false));
        let mut old = message(1, &[]);
        old[4] = 9;
        assert!(is_message(&old, false) && !is_message(&old, true));
        assert_eq!(realm(&old), None);
    }

    #[test]
    fn takes_out_what_is_relayed() {
        let channel = [&[0x40, 1, 0, 3][..], b"abc"].concat();
        assert_eq!(inner(&channel), b"abc");
        let send = message(0x16, &[(0x12, &[0; 8]), (DATA, b"abc")]);
        assert_eq!(inner(&send), b"abc");
        assert_eq!(inner(b"\x16\xfe\xfd"), b"\x16\xfe\xfd");
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            is_message(&bytes, false);
            realm(&bytes);
            inner(&bytes);
            rtp_kind(&bytes);
        }
    }
}
