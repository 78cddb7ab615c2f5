//! CoAP requests (RFC 7252): whom they ask for what.

use super::bytes::Reader;

const URI_HOST: u32 = 3;
const URI_PATH: u32 = 11;
/// Longest path that is put together, bytes.
const MAX_PATH: usize = 255;

/// Host and path of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// Option Uri-Host.
    pub host: Option<&'a [u8]>,
    /// Options Uri-Path, joined by slashes, at most 255 bytes.
    pub path: Vec<u8>,
}

impl<'a> Request<'a> {
    /// Reads a request; `None` when the message is none. Options behind a broken one are left out.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(message);
        let (first, code) = (reader.u8()?, reader.u8()?);
        reader.u16()?;
        if first >> 6 != 1 || !(1..=31).contains(&code) {
            return None;
        }
        reader.take(usize::from(first & 15))?;
        let (mut request, mut number) = (Self::default(), 0u32);
        while let Some((delta, value)) = option(&mut reader) {
            number = number.saturating_add(delta);
            match number {
                URI_HOST => request.host = Some(value),
                URI_PATH if request.path.len() + value.len() < MAX_PATH => {
                    request.path.push(b'/');
                    request.path.extend_from_slice(value);
                }
                _ => {}
            }
        }
        Some(request)
    }
}

/// Difference to the option before and value.
fn option<'a>(reader: &mut Reader<'a>) -> Option<(u32, &'a [u8])> {
    let first = reader.u8()?;
    let delta = extended(reader, first >> 4)?;
    let length = extended(reader, first & 15)?;
    Some((delta, reader.take(length as usize)?))
}

/// A number of four bits with what may follow it; 15 marks the payload.
fn extended(reader: &mut Reader<'_>, nibble: u8) -> Option<u32> {
    match nibble {
        13 => Some(u32::from(reader.u8()?) + 13),
        14 => Some(u32::from(reader.u16()?) + 269),
        15 => None,
        n => Some(u32::from(n)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_host_and_path() {
        // GET coap://example.net/.well-known/core?rt=x with a token of two bytes.
        let mut message = vec![0x42, 1, 0x7d, 0x34, 9, 9, 0x3b];
        message.extend(b"example.net");
        message.push(0x8b);
        message.extend(b".well-known");
        message.push(0x04);
        message.extend(b"core");
        message.push(0x44);
        message.extend(b"rt=x");
        message.extend([0xff, 1, 2, 3]);
        let request = Request::parse(&message).expect("a request");
        assert_eq!(request.host, Some(&b"example.net"[..]));
        assert_eq!(request.path, b"/.well-known/core");
    }

    #[test]
    fn refuses_responses_and_other_versions() {
        assert_eq!(Request::parse(&[0x60, 0x45, 0, 1]), None);
        assert_eq!(Request::parse(&[0x80, 1, 0, 1]), None);
        assert_eq!(Request::parse(&[0x49, 1, 0, 1, 0]), None);
    }

    proptest! {
        #[test]
        fn takes_any_bytes(tail in prop::collection::vec(any::<u8>(), 0..100)) {
            Request::parse(&tail);
            let message = [&[0x40, 1, 0, 0][..], &tail].concat();
            let request = Request::parse(&message);
            prop_assert!(request.is_some_and(|r| r.path.len() <= MAX_PATH));
        }
    }
}
