//! Names in a certificate (RFC 5280), found without reading all of it.

use super::bytes::Reader;

/// Names of a certificate that are looked at.
const MAX_NAMES: usize = 64;
const COMMON_NAME: [u8; 5] = [6, 3, 0x55, 4, 3];
const SUBJECT_ALTERNATIVE_NAME: [u8; 5] = [6, 3, 0x55, 0x1d, 0x11];
const BOOLEAN: u8 = 1;
const OCTET_STRING: u8 = 4;
const SEQUENCE: u8 = 0x30;
const DNS_NAME: u8 = 0x82;

/// The first certificate of a Certificate message of TLS 1.2 and before.
pub fn first(message: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(message);
    reader.u24()?;
    let length = reader.u24()? as usize;
    Some(reader.take_at_most(length))
}

/// The subject's common name, then the DNS names of the alternative names, at most 64.
pub fn names(certificate: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    // The issuer's name comes before the subject's.
    if let Some(at) = find_last(certificate, &COMMON_NAME) {
        let mut value = Reader::new(&certificate[at..]);
        names.extend(element(&mut value).map(|(_, name)| name));
    }
    if let Some(at) = find_last(certificate, &SUBJECT_ALTERNATIVE_NAME) {
        names.extend(alternatives(&certificate[at..]).unwrap_or_default());
    }
    names
}

fn alternatives(extension: &[u8]) -> Option<Vec<&[u8]>> {
    let mut reader = Reader::new(extension);
    let (mut tag, mut value) = element(&mut reader)?;
    if tag == BOOLEAN {
        (tag, value) = element(&mut reader)?;
    }
    if tag != OCTET_STRING {
        return None;
    }
    let (tag, list) = element(&mut Reader::new(value))?;
    if tag != SEQUENCE {
        return None;
    }
    let mut list = Reader::new(list);
    let mut names = Vec::new();
    while let Some((tag, name)) = element(&mut list).filter(|_| names.len() < MAX_NAMES) {
        if tag == DNS_NAME {
            names.push(name);
        }
    }
    Some(names)
}

/// A tag and what it holds, as far as it is there.
fn element<'a>(reader: &mut Reader<'a>) -> Option<(u8, &'a [u8])> {
    let tag = reader.u8()?;
    let length = match reader.u8()? {
        0x81 => usize::from(reader.u8()?),
        0x82 => usize::from(reader.u16()?),
        0x83 => reader.u24()? as usize,
        length @ 0..=0x7f => usize::from(length),
        _ => return None,
    };
    Some((tag, reader.take_at_most(length)))
}

/// Where what follows the last occurrence of `identifier` begins.
fn find_last(bytes: &[u8], identifier: &[u8; 5]) -> Option<usize> {
    let at = bytes.windows(5).rposition(|w| w == identifier)?;
    Some(at + 5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tag with its content.
    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag, 0x82];
        out.extend((content.len() as u16).to_be_bytes());
        out.extend(content);
        out
    }

    #[test]
    fn finds_subject_and_alternatives() {
        let common = |name: &[u8]| der(0x31, &[&der(0x30, &[&COMMON_NAME, &der(0x0c, &[name])])]);
        let list = der(
            SEQUENCE,
            &[
                &der(DNS_NAME, &[b"*.example.org"]),
                &der(0x87, &[&[1, 2, 3, 4]]),
                &der(DNS_NAME, &[b"example.net"]),
            ],
        );
        let extension = [
            &SUBJECT_ALTERNATIVE_NAME[..],
            &[BOOLEAN, 1, 0xff],
            &der(OCTET_STRING, &[&list]),
        ]
        .concat();
        let certificate = der(
            SEQUENCE,
            &[
                &common(b"An authority"),
                &common(b"www.example.org"),
                &extension,
            ],
        );
        let expected: Vec<&[u8]> = vec![b"www.example.org", b"*.example.org", b"example.net"];
        assert_eq!(names(&certificate), expected);
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            first(&bytes);
            names(&bytes);
        }

        #[test]
        fn takes_any_extension(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            names(&[&SUBJECT_ALTERNATIVE_NAME[..], &bytes].concat());
            names(&[&COMMON_NAME[..], &bytes].concat());
        }
    }
}
