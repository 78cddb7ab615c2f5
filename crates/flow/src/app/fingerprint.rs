//! JA3 and JA3S (Althouse, Atkinson, Atkins 2017), JA4 (FoxIO's public technical details of JA4, TLS client).

use std::net::IpAddr;

use md5::Md5;
use sha2::{Digest, Sha256};

use super::tls::{ALPN, ClientHello, SERVER_NAME, ServerHello, is_grease};
use crate::text::{push_hex, push_unsigned};

/// Stands for the hash of an empty list.
const NO_LIST: &[u8] = b"000000000000";

/// Over what a hello came, the first letter of JA4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TLS over TCP.
    Tcp,
    /// QUIC.
    Quic,
    /// DTLS.
    Dtls,
}

/// What was pushed as ASCII.
fn ascii(push: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut text = Vec::with_capacity(128);
    push(&mut text);
    super::text::utf8(&text)
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    ascii(|text| push_hex(text, bytes))
}

/// MD5 as 32 hex digits; a name, not a protection.
pub(super) fn md5_hex(text: &[u8]) -> String {
    hex(&Md5::digest(text))
}

/// First 48 bits of the hash.
fn push_sha256_12(text: &mut Vec<u8>, hashed: &[u8]) {
    push_hex(text, &Sha256::digest(hashed)[..6]);
}

fn push_decimals(text: &mut Vec<u8>, values: impl Iterator<Item = u16>) {
    for (i, value) in values.enumerate() {
        if i > 0 {
            text.push(b'-');
        }
        push_unsigned(text, value.into());
    }
}

fn push_hexes(text: &mut Vec<u8>, values: impl Iterator<Item = u16>) {
    for (i, value) in values.enumerate() {
        if i > 0 {
            text.push(b',');
        }
        push_hex(text, &value.to_be_bytes());
    }
}

fn hexes(values: &[u16]) -> Vec<u8> {
    let mut text = Vec::with_capacity(values.len() * 5 + 256);
    push_hexes(&mut text, values.iter().copied());
    text
}

/// The text behind JA3: version, ciphers, extensions, groups and point formats in decimal, without GREASE.
pub fn ja3_text(hello: &ClientHello) -> String {
    ascii(|text| {
        push_unsigned(text, hello.version.into());
        for values in [&hello.ciphers, &hello.extensions, &hello.groups] {
            text.push(b',');
            push_decimals(text, values.iter().copied().filter(|v| !is_grease(*v)));
        }
        text.push(b',');
        push_decimals(text, hello.formats.iter().map(|f| u16::from(*f)));
    })
}

/// JA3 of a client: MD5 of [`ja3_text`].
pub fn ja3(hello: &ClientHello) -> String {
    md5_hex(ja3_text(hello).as_bytes())
}

/// JA3S of a server: MD5 of version, cipher and extensions in decimal.
pub fn ja3s(hello: &ServerHello) -> String {
    let mut text = Vec::with_capacity(128);
    for value in [hello.version, hello.cipher] {
        push_unsigned(&mut text, value.into());
        text.push(b',');
    }
    push_decimals(&mut text, hello.extensions.iter().copied());
    md5_hex(&text)
}

/// JA4 of a client.
pub fn ja4(hello: &ClientHello, transport: Transport) -> String {
    let mut parts = Parts::new(hello);
    let (ciphers, tail) = (hexes(&parts.ciphers), parts.tail(hello));
    let is_empty = [parts.ciphers.is_empty(), parts.extensions.is_empty()];
    let named = parts.extensions.contains(&SERVER_NAME);
    // Two digits each.
    parts.ciphers.truncate(99);
    parts.extensions.truncate(99);
    ascii(|text| {
        parts.push_head(text, transport, named);
        push_alpn(text, hello.alpn.first().map_or(&[][..], Vec::as_slice));
        for (hashed, is_empty) in [&ciphers, &tail].into_iter().zip(is_empty) {
            text.push(b'_');
            if is_empty {
                text.extend_from_slice(NO_LIST);
            } else {
                push_sha256_12(text, hashed);
            }
        }
    })
}

/// Ciphers or extensions beyond which nDPI gives no fingerprint.
const NDPI_LIST: usize = 128;
/// Signature algorithms that nDPI takes in.
const NDPI_ALGORITHMS: usize = 64;
/// Bytes of JA4 that nDPI keeps.
const NDPI_JA4: usize = 36;

/// JA4 of a client as nDPI 5.0 writes it; `None` for a hello with very long lists. `server_name` is what is known of the
/// flow, from this hello or from before.
///
/// It differs from [`ja4`] where lists are empty, counts exceed 99, the protocol of ALPN is no plain text, the server
/// name is an address, signature algorithms hold GREASE, or several versions of DTLS are supported.
pub fn ja4_ndpi(hello: &ClientHello, transport: Transport, server_name: &str) -> Option<String> {
    if hello.ciphers.len() > NDPI_LIST || hello.extensions.len() > NDPI_LIST {
        return None;
    }
    let mut parts = Parts::new(hello);
    parts.algorithms = hello.signature_algorithms.clone();
    parts.algorithms.truncate(NDPI_ALGORITHMS);
    let versions = hello.versions.iter().copied();
    parts.version = versions
        .filter(|v| !is_grease(*v))
        .max()
        .unwrap_or(hello.version);
    let named = !server_name.is_empty() && server_name.parse::<IpAddr>().is_err();
    let mut print = Vec::with_capacity(64);
    parts.push_head(&mut print, transport, named);
    let protocol = hello.alpn.iter().find(|p| !p.is_empty());
    match protocol.map(Vec::as_slice) {
        Some([first, .., last]) => {
            print.extend([*first, *last].map(|b| if b == 0 { b'0' } else { b }))
        }
        Some([one]) => print.extend([*one, *one]),
        _ => print.extend(b"00"),
    }
    for hashed in [hexes(&parts.ciphers), parts.tail(hello)] {
        print.push(b'_');
        push_sha256_12(&mut print, &hashed);
    }
    print.truncate(NDPI_JA4);
    Some(super::text::utf8(&print))
}

/// The lists of a hello without GREASE, sorted where JA4 sorts them.
struct Parts {
    version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    algorithms: Vec<u16>,
}

impl Parts {
    fn new(hello: &ClientHello) -> Self {
        let plain = |values: &[u16]| -> Vec<u16> {
            values.iter().copied().filter(|v| !is_grease(*v)).collect()
        };
        let (mut ciphers, mut extensions) = (plain(&hello.ciphers), plain(&hello.extensions));
        ciphers.sort_unstable();
        extensions.sort_unstable();
        let versions = plain(&hello.versions);
        Self {
            version: versions
                .into_iter()
                .max_by_key(|v| rank(*v))
                .unwrap_or(hello.version),
            ciphers,
            extensions,
            algorithms: plain(&hello.signature_algorithms),
        }
    }

    /// All of the first part but ALPN.
    fn push_head(&self, text: &mut Vec<u8>, transport: Transport, named: bool) {
        text.push(match transport {
            Transport::Tcp => b't',
            Transport::Quic => b'q',
            Transport::Dtls => b'd',
        });
        text.extend_from_slice(version_name(self.version).as_bytes());
        text.push(if named { b'd' } else { b'i' });
        for count in [self.ciphers.len(), self.extensions.len()] {
            if count < 10 {
                text.push(b'0');
            }
            push_unsigned(text, count as u64);
        }
    }

    /// What the third part is a hash of.
    fn tail(&self, hello: &ClientHello) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.extensions.len() * 5 + 256);
        let extensions = self.extensions.iter().copied();
        push_hexes(
            &mut text,
            extensions.filter(|e| *e != SERVER_NAME && *e != ALPN),
        );
        if !hello.signature_algorithms.is_empty() {
            text.push(b'_');
            push_hexes(&mut text, self.algorithms.iter().copied());
        }
        text
    }
}

/// Orders versions by age: those of DTLS count down.
const fn rank(version: u16) -> u16 {
    if version >> 8 == 0xfe {
        !version
    } else {
        version
    }
}

const fn version_name(version: u16) -> &'static str {
    match version {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        0xfeff => "d1",
        0xfefd => "d2",
        0xfefc => "d3",
        _ => "00",
    }
}

/// Adds first and last character of the first protocol; of its hex form when one of them is no letter or digit.
fn push_alpn(text: &mut Vec<u8>, protocol: &[u8]) {
    let (Some(first), Some(last)) = (protocol.first(), protocol.last()) else {
        text.extend_from_slice(b"00");
        return;
    };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        text.extend([*first, *last]);
    } else {
        push_hex(text, &[(first & 0xf0) | (last & 15)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hello of JA4's technical details: GREASE and the original order do not matter.
    fn chrome() -> ClientHello {
        ClientHello {
            version: 0x0303,
            ciphers: vec![
                0x3a3a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8,
                0xc013, 0xc014, 0x009c, 0x009d, 0x002f, 0x0035,
            ],
            extensions: vec![
                0x2a2a, 0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005,
                0x0023, 0x0012, 0x002b, 0xff01, 0x000b, 0x000a, 0x0015, 0x1a1a,
            ],
            signature_algorithms: vec![
                0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601,
            ],
            versions: vec![0x4a4a, 0x0304, 0x0303],
            server_name: Some(b"example.org".to_vec()),
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            ..ClientHello::default()
        }
    }

    #[test]
    fn makes_ja4_as_its_authors() {
        let print = "t13d1516h2_8daaf6152771_e5627efa2ab1";
        assert_eq!(ja4(&chrome(), Transport::Tcp), print);
        let ndpi = ja4_ndpi(&chrome(), Transport::Tcp, "example.org");
        assert_eq!(ndpi.as_deref(), Some(print));
        assert!(ja4(&chrome(), Transport::Quic).starts_with("q13d"));
    }

    #[test]
    fn makes_ja4_of_hellos_with_little_in_them() {
        let empty = ClientHello {
            version: 0x0301,
            ..ClientHello::default()
        };
        assert_eq!(
            ja4(&empty, Transport::Tcp),
            "t10i000000_000000000000_000000000000"
        );
        assert_eq!(
            ja4_ndpi(&empty, Transport::Tcp, "").as_deref(),
            Some("t10i000000_e3b0c44298fc_e3b0c44298fc")
        );
        let odd = |alpn: &[u8]| ClientHello {
            alpn: vec![alpn.to_vec()],
            ..empty.clone()
        };
        assert_eq!(&ja4(&odd(b"\xab\xcd"), Transport::Tcp)[8..10], "ad");
        assert_eq!(&ja4(&odd(b"0"), Transport::Tcp)[8..10], "00");
        assert_eq!(&ja4(&odd(b"-x"), Transport::Tcp)[8..10], "28");
    }

    #[test]
    fn names_versions() {
        let with = |version, versions: &[u16]| {
            let hello = ClientHello {
                version,
                versions: versions.to_vec(),
                ..ClientHello::default()
            };
            ja4(&hello, Transport::Dtls)[1..3].to_owned()
        };
        assert_eq!(with(0xfefd, &[]), "d2");
        assert_eq!(with(0xfefd, &[0xfefd, 0xfefc]), "d3");
        assert_eq!(with(0x0300, &[]), "s3");
        assert_eq!(with(0x0303, &[0x0a0a]), "12");
        assert_eq!(with(0x0100, &[]), "00");
    }

    #[test]
    fn counts_stop_at_99() {
        let many = ClientHello {
            version: 0x0303,
            ciphers: (1..=120).collect(),
            ..ClientHello::default()
        };
        assert_eq!(&ja4(&many, Transport::Tcp)[..8], "t12i9900");
        let ndpi = ja4_ndpi(&many, Transport::Tcp, "").expect("a print");
        assert!(ndpi.starts_with("t12i12000") && ndpi.len() == NDPI_JA4);
        let more = ClientHello {
            ciphers: (1..=129).collect(),
            ..many
        };
        assert_eq!(ja4_ndpi(&more, Transport::Tcp, ""), None);
    }

    #[test]
    fn makes_ja3_as_its_authors() {
        let hello = ClientHello {
            version: 769,
            ciphers: vec![47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4],
            extensions: vec![0, 10, 11],
            groups: vec![23, 24, 25],
            formats: vec![0],
            ..ClientHello::default()
        };
        assert_eq!(
            ja3_text(&hello),
            "769,47-53-5-10-49161-49162-49171-49172-50-56-19-4,0-10-11,23-24-25,0"
        );
        assert_eq!(ja3(&hello), "ada70206e40642a3e4461f35503241d5");
        let bare = ClientHello {
            version: 769,
            ciphers: vec![4, 5, 10, 9, 100, 98, 3, 6, 19, 18, 99],
            ..ClientHello::default()
        };
        assert_eq!(ja3(&bare), "de350869b8c85de67a350c8d186f11e6");
        let server = ServerHello {
            version: 769,
            cipher: 47,
            extensions: vec![65281, 0, 11, 35, 5, 16],
            ..ServerHello::default()
        };
        assert_eq!(ja3s(&server), "836ce314215654b5b1f85f97c73e506f");
    }
}
