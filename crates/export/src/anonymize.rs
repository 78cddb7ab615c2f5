use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use blake2::Blake2bMac512;
use blake2::digest::Mac as _;
use chaff_abi::Mac;
use chaff_flow::{Column, Kind, Value};
use zeroize::Zeroizing;

use crate::cryptopan::{CryptoPan, MacPermutation};
use chaff_flow::text::{Style, push_hex, push_value};

/// What becomes of a chosen column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Every value becomes a token of 128 hexadecimal digits: BLAKE2b (RFC 7693) of its text with the key. Equal values
    /// have equal tokens under one key, in every column.
    #[default]
    Hash,
    /// Addresses become other addresses: two that share their first n bits and no more do so afterwards too
    /// (Crypto-PAn), and MAC addresses keep their first three bytes, the manufacturer's. Other values become tokens.
    Prefix,
}

/// Secret that decides what values become; forgotten from memory when dropped.
#[derive(Clone)]
pub struct Key {
    bytes: Zeroizing<[u8; Key::MAX]>,
    length: usize,
}

impl Key {
    /// Shortest key, bytes: what [`Mode::Prefix`] needs.
    pub const MIN: usize = 32;
    /// Longest key, bytes: what BLAKE2b takes.
    pub const MAX: usize = 64;

    /// Takes a key of 32 to 64 bytes. The first 32 are the key of Crypto-PAn, all are the key of BLAKE2b.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn new(key: &[u8]) -> Result<Self, KeyError> {
        let length = key.len();
        if !(Self::MIN..=Self::MAX).contains(&length) {
            return Err(KeyError::Length { length });
        }
        if key.iter().all(|byte| *byte == 0) {
            return Err(KeyError::Zeros);
        }
        let mut bytes = Zeroizing::new([0; Self::MAX]);
        bytes[..length].copy_from_slice(key);
        Ok(Self { bytes, length })
    }

    /// Reads what a key file holds: 32 to 64 bytes, or as many in hexadecimal digits with white space around them.
    ///
    /// # Errors
    /// [`KeyError`], with the length found when it is neither.
    pub fn from_file_content(content: &[u8]) -> Result<Self, KeyError> {
        let text = content.trim_ascii();
        let is_hex = text.len().is_multiple_of(2) && text.iter().all(u8::is_ascii_hexdigit);
        if !is_hex || !(2 * Self::MIN..=2 * Self::MAX).contains(&text.len()) {
            return Self::new(content);
        }
        let digit = |d: u8| (d as char).to_digit(16).unwrap_or(0) as u8;
        let mut bytes = Zeroizing::new([0; Self::MAX]);
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0]) << 4 | digit(pair[1]);
        }
        Self::new(&bytes[..text.len() / 2])
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What cannot be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It is too short or too long.
    #[error("a key of {length} bytes; it needs {} to {}", Key::MIN, Key::MAX)]
    Length {
        /// Bytes it has.
        length: usize,
    },
    /// Anybody would try it first; most likely a file that was never written.
    #[error("a key of zeros only, which is no secret; make one with `head -c 64 /dev/urandom`")]
    Zeros,
}

/// Replaces the values of chosen columns before they are written. [`Value::Missing`] stays.
///
/// Tokens and mapped addresses are pseudonyms: who knows the key can test a guess, and what a flow does (sizes, times,
/// ports left as they are) can still tell whose it is.
pub struct Anonymizer {
    chosen: Vec<usize>,
    mode: Mode,
    keyed: Blake2bMac512,
    addresses: CryptoPan,
    macs: MacPermutation,
    text: Vec<u8>,
}

impl Anonymizer {
    /// Chooses columns by name; gives the names that are no columns beside it.
    pub fn new<'n>(
        columns: &[Column],
        names: impl IntoIterator<Item = &'n str>,
        mode: Mode,
        key: &Key,
    ) -> (Self, Vec<&'n str>) {
        let (mut chosen, mut missing) = (Vec::new(), Vec::new());
        for name in names {
            match columns.iter().position(|c| c.name == name) {
                Some(i) if chosen.contains(&i) => (),
                Some(i) => chosen.push(i),
                None => missing.push(name),
            }
        }
        let anonymizer = Self {
            chosen,
            mode,
            keyed: keyed(key.bytes()),
            addresses: CryptoPan::new(key.bytes().first_chunk().unwrap_or(&[0; 32])),
            macs: MacPermutation::new(&derive(key.bytes(), b"chaff: permutation of MAC addresses")),
            text: Vec::new(),
        };
        (anonymizer, missing)
    }

    /// Columns as they are afterwards: tokens are texts without a unit.
    pub fn columns(&self, columns: &[Column]) -> Vec<Column> {
        let mut columns = columns.to_vec();
        for &i in &self.chosen {
            if let Some(column) = columns.get_mut(i) {
                if column.kind != Kind::Text {
                    column.kind = Kind::Text;
                    column.unit = "".into();
                }
                column.doc = format!("{} Anonymised.", column.doc).into();
            }
        }
        columns
    }

    /// Replaces the chosen values of a row.
    pub fn apply(&mut self, row: &mut [Value]) {
        for k in 0..self.chosen.len() {
            if let Some(value) = self.chosen.get(k).and_then(|&i| row.get_mut(i)) {
                let new = self.replace(value);
                *value = new;
            }
        }
    }

    fn replace(&mut self, value: &Value) -> Value {
        if *value == Value::Missing {
            return Value::Missing;
        }
        if self.mode == Mode::Prefix {
            let read = match value {
                // Profiles that write addresses as texts.
                Value::Text(text) => text
                    .parse()
                    .map(Value::Ip)
                    .or_else(|_| text.parse().map(Value::Mac))
                    .ok(),
                other => Some(other.clone()),
            };
            match read {
                Some(Value::Ip(IpAddr::V4(ip))) => return Value::Ip(self.ipv4(ip).into()),
                Some(Value::Ip(IpAddr::V6(ip))) => return Value::Ip(self.ipv6(ip).into()),
                Some(Value::Mac(mac)) => return Value::Mac(Mac(self.macs.map(mac.0))),
                _ => (),
            }
        }
        self.text.clear();
        push_value(&mut self.text, value, Style::Python);
        let token = self
            .keyed
            .clone()
            .chain_update(&self.text)
            .finalize()
            .into_bytes();
        let mut digits = Vec::with_capacity(128);
        push_hex(&mut digits, &token);
        Value::Text(digits.into_iter().map(char::from).collect())
    }

    fn ipv4(&self, ip: Ipv4Addr) -> Ipv4Addr {
        self.addresses.ipv4(ip)
    }

    fn ipv6(&self, ip: Ipv6Addr) -> Ipv6Addr {
        match ip.to_ipv4_mapped() {
            Some(v4) => self.addresses.ipv4(v4).to_ipv6_mapped(),
            None => self.addresses.ipv6(ip),
        }
    }
}

fn keyed(key: &[u8]) -> Blake2bMac512 {
    Blake2bMac512::new_from_slice(key).expect("a key has at most 64 bytes")
}

fn derive(key: &[u8], purpose: &[u8]) -> [u8; 16] {
    let bytes = keyed(key).chain_update(purpose).finalize().into_bytes();
    *bytes.first_chunk().unwrap_or(&[0; 16])
}
