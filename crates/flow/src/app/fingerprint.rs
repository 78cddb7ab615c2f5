//! JA3 and JA3S (Althouse, Atkinson, Atkins 2017), JA4 (FoxIO's public technical details of JA4, TLS client).

use std::fmt::Write as _;

use md5::Md5;
use sha2::{Digest, Sha256};

use super::tls::{ClientHello, ServerHello, is_grease};

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

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// MD5 as 32 hex digits; a name, not a protection.
pub(super) fn md5_hex(text: &str) -> String {
    hex(&Md5::digest(text))
}

fn sha256_12(text: &str) -> String {
    hex(&Sha256::digest(text)[..6])
}

fn decimals(values: impl Iterator<Item = u16>) -> String {
    let mut text = String::new();
    for value in values {
        if !text.is_empty() {
            text.push('-');
        }
        let _ = write!(text, "{value}");
    }
    text
}

fn hexes(values: &[u16]) -> String {
    let mut text = String::with_capacity(values.len() * 5);
    for value in values {
        if !text.is_empty() {
            text.push(',');
        }
        let _ = write!(text, "{value:04x}");
    }
    text
}

/// The text behind JA3: version, ciphers, extensions, groups and point formats in decimal, without GREASE.
pub fn ja3_text(hello: &ClientHello) -> String {
    let plain = |values: &[u16]| decimals(values.iter().copied().filter(|v| !is_grease(*v)));
    format!(
        "{},{},{},{},{}",
        hello.version,
        plain(&hello.ciphers),
        plain(&hello.extensions),
        plain(&hello.groups),
        decimals(hello.formats.iter().map(|f| u16::from(*f)))
    )
}

/// JA3 of a client: MD5 of [`ja3_text`].
pub fn ja3(hello: &ClientHello) -> String {
    md5_hex(&ja3_text(hello))
}

/// JA3S of a server: MD5 of version, cipher and extensions in decimal.
pub fn ja3s(hello: &ServerHello) -> String {
    let extensions = decimals(hello.extensions.iter().copied());
    md5_hex(&format!("{},{},{extensions}", hello.version, hello.cipher))
}

/// JA4 of a client.
pub fn ja4(hello: &ClientHello, transport: Transport) -> String {
    let plain = |values: &[u16]| -> Vec<u16> {
        values.iter().copied().filter(|v| !is_grease(*v)).collect()
    };
    let (mut ciphers, extensions) = (plain(&hello.ciphers), plain(&hello.extensions));
    let version = plain(&hello.versions)
        .into_iter()
        .max_by_key(|v| rank(*v))
        .unwrap_or(hello.version);
    let head = format!(
        "{}{}{}{:02}{:02}{}",
        match transport {
            Transport::Tcp => 't',
            Transport::Quic => 'q',
            Transport::Dtls => 'd',
        },
        version_name(version),
        if extensions.contains(&0) { 'd' } else { 'i' },
        ciphers.len().min(99),
        extensions.len().min(99),
        alpn_name(hello.alpn.first().map_or(&[][..], Vec::as_slice)),
    );
    ciphers.sort_unstable();
    let mut kept: Vec<u16> = extensions
        .into_iter()
        .filter(|e| *e != 0 && *e != 16)
        .collect();
    kept.sort_unstable();
    let mut tail = hexes(&kept);
    if !hello.signature_algorithms.is_empty() {
        tail.push('_');
        tail.push_str(&hexes(&plain(&hello.signature_algorithms)));
    }
    let ciphers = match ciphers.is_empty() {
        true => "000000000000".to_owned(),
        false => sha256_12(&hexes(&ciphers)),
    };
    let extensions = match hello.extensions.is_empty() {
        true => "000000000000".to_owned(),
        false => sha256_12(&tail),
    };
    format!("{head}_{ciphers}_{extensions}")
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

/// First and last character of the first protocol; of its hex form when one of them is no letter or digit.
fn alpn_name(protocol: &[u8]) -> String {
    let (Some(first), Some(last)) = (protocol.first(), protocol.last()) else {
        return "00".to_owned();
    };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return format!("{}{}", *first as char, *last as char);
    }
    format!("{:x}{:x}", first >> 4, last & 15)
}
