//! JA4 and JA4S as NFStream's plugin makes them, which differs from FoxIO's definition: a value after a GREASE value
//! (RFC 8701) is never taken for GREASE where lists are cleaned, and hellos have to fit into one segment.

use sha2::{Digest, Sha256};

use super::view::{NotParsed, ipv4_payload};
use super::{FlowView, Next, PacketView, Plugin, column};
use crate::{Column, Kind, Value};

const SYN: u8 = 2;
const ACK: u8 = 16;

/// `ja4` of the client and `ja4s` of the server, of TLS over TCP over IPv4, in flows that begin with SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ja4;

/// How far a flow has come.
#[derive(Debug, Default)]
pub struct Hellos {
    client: Option<String>,
    server: Option<String>,
    /// Further packets can change the above.
    open: bool,
    /// Steps of TCP's handshake that were seen, 3 when it is done.
    handshake: u8,
}

impl Hellos {
    fn see(&mut self, packet: &PacketView<'_>) {
        if !self.open {
            return;
        }
        if self.client.is_none() {
            self.client = fingerprint(packet, Hello::Client).unwrap_or(None);
        } else {
            match fingerprint(packet, Hello::Server) {
                Ok(server) => self.server = server,
                // A server hello that cannot be read takes the client's fingerprint with it.
                Err(NotParsed) => self.client = None,
            }
            if self.server.is_some() {
                self.open = false;
            }
        }
        if self.handshake == 3 && self.client.is_none() {
            self.open = false;
        }
        let (syn, ack) = (packet.tcp_flags & SYN != 0, packet.tcp_flags & ACK != 0);
        match self.handshake {
            0 if syn && !ack => self.handshake = 1,
            1 if syn && ack => self.handshake = 2,
            2 if ack && !syn => self.handshake = 3,
            _ => (),
        }
    }
}

impl Plugin for Ja4 {
    type State = Box<Hellos>;

    fn name(&self) -> &'static str {
        "ja4"
    }

    fn columns(&self) -> Vec<Column> {
        vec![
            column("ja4", Kind::Text, "", "fingerprint of the TLS client"),
            column("ja4s", Kind::Text, "", "fingerprint of the TLS server"),
        ]
    }

    fn start(&self, _: &FlowView, packet: &PacketView<'_>) -> (Self::State, Next) {
        let open = packet.tcp_flags & (SYN | ACK) == SYN;
        let state = Hellos {
            open,
            handshake: open.into(),
            ..Hellos::default()
        };
        (Box::new(state), Next::Go)
    }

    fn update(&self, state: &mut Self::State, _: &FlowView, packet: &PacketView<'_>) -> Next {
        state.see(packet);
        Next::Go
    }

    fn expire(&self, state: Self::State, _: &FlowView, row: &mut Vec<Value>) {
        let text = |value: Option<String>| value.map_or(Value::Missing, Value::Text);
        row.extend([text(state.client), text(state.server)]);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hello {
    Client = 1,
    Server = 2,
}

/// The fingerprint of the hello that a packet holds; `None` when it holds none.
fn fingerprint(packet: &PacketView<'_>, wanted: Hello) -> Result<Option<String>, NotParsed> {
    if packet.ip_version != 4 || packet.protocol != 6 {
        return Ok(None);
    }
    let mut cursor = Cursor(ipv4_payload(packet.ip_packet)?);
    let record = cursor.take(5);
    let handshake = cursor.take(4);
    let version = cursor.take(2);
    if !record.starts_with(&[0x16, 3]) {
        return Ok(None);
    }
    let kind = *handshake.first().ok_or(NotParsed)?;
    if kind != 1 && kind != 2 {
        return Ok(None);
    }
    if *version.first().ok_or(NotParsed)? != 3 || kind != wanted as u8 {
        return Ok(None);
    }
    cursor.take(32);
    cursor.counted(1);
    let hello = match wanted {
        Hello::Client => {
            let ciphers = cursor.counted(2);
            cursor.counted(1);
            let extensions = extensions(cursor.counted(2))?;
            client(version, pairs_of(ciphers)?, &extensions)?
        }
        Hello::Server => {
            let cipher = cursor.take(2);
            cursor.take(1);
            let extensions = extensions(cursor.counted(2))?;
            server(version, cipher, &extensions)?
        }
    };
    Ok(Some(hello.to_lowercase()))
}

/// Bytes that are taken from the front, fewer than wanted at the end.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// What a length of `width` bytes announces; `None` for nothing announced.
    fn counted(&mut self, width: usize) -> Option<&'a [u8]> {
        match number(self.take(width)) {
            0 => None,
            n => Some(self.take(n)),
        }
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |n, &b| n << 8 | usize::from(b))
}

/// Type and data of each extension, each type once, the last data; `None` for those announced as empty.
type Extensions<'a> = Vec<(u16, Option<&'a [u8]>)>;

fn extensions(bytes: Option<&[u8]>) -> Result<Extensions<'_>, NotParsed> {
    let mut cursor = Cursor(bytes.unwrap_or(&[]));
    let mut found: Extensions<'_> = Vec::new();
    while !cursor.0.is_empty() {
        let kind = *cursor.take(2).first_chunk::<2>().ok_or(NotParsed)?;
        let kind = u16::from_be_bytes(kind);
        let data = match cursor.take(2) {
            [] => return Err(NotParsed),
            [0, 0] => None,
            len => Some(cursor.take(number(len))),
        };
        match found.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, old)) => *old = data,
            None => found.push((kind, data)),
        }
    }
    Ok(found)
}

/// Data of an extension: outer `None` when it is absent, an error when it is there and empty.
fn data<'a>(extensions: &Extensions<'a>, kind: u16) -> Result<Option<&'a [u8]>, NotParsed> {
    match extensions.iter().find(|(known, _)| *known == kind) {
        None => Ok(None),
        Some((_, data)) => data.map(Some).ok_or(NotParsed),
    }
}

/// What follows a length of `width` bytes that has to be right.
fn exact(bytes: &[u8], width: usize) -> Result<&[u8], NotParsed> {
    let (len, rest) = bytes.split_at(width.min(bytes.len()));
    if len.is_empty() || number(len) != rest.len() {
        return Err(NotParsed);
    }
    Ok(rest)
}

fn pairs(bytes: &[u8]) -> Result<Vec<u16>, NotParsed> {
    if !bytes.len().is_multiple_of(2) {
        return Err(NotParsed);
    }
    let pair = |b: &[u8]| u16::from(b[0]) << 8 | u16::from(b[1]);
    Ok(bytes.chunks_exact(2).map(pair).collect())
}

fn pairs_of(bytes: Option<&[u8]>) -> Result<Vec<u16>, NotParsed> {
    pairs(bytes.ok_or(NotParsed)?)
}

fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 15 == 10
}

/// Two digits, at most 99.
fn count(values: impl Iterator<Item = u16>) -> String {
    format!("{:02}", values.filter(|v| !is_grease(*v)).count().min(99))
}

/// Removes GREASE, but not right after GREASE that was removed.
fn without_grease(values: Vec<u16>) -> Vec<u16> {
    let mut kept = Vec::with_capacity(values.len());
    let mut spared = false;
    for value in values {
        if is_grease(value) && !spared {
            spared = true;
        } else {
            spared = false;
            kept.push(value);
        }
    }
    kept
}

/// Major less 2, minor less 1, in decimal: 0x0304 gives `13`.
fn version_digits(bytes: &[u8]) -> Result<String, NotParsed> {
    let (major, minor) = bytes.split_first().ok_or(NotParsed)?;
    if minor.is_empty() || minor.len() > 8 {
        return Err(NotParsed);
    }
    let minor = minor.iter().fold(0i128, |n, &b| n << 8 | i128::from(b));
    Ok(format!("{}{}", i16::from(*major) - 2, minor - 1))
}

/// First and last character of the first protocol.
fn alpn(extensions: &Extensions<'_>) -> Result<String, NotParsed> {
    let Some(data) = data(extensions, 16)? else {
        return Ok("00".to_owned());
    };
    let mut list = Cursor(exact(data, 2)?);
    if list.0.is_empty() {
        return Ok("00".to_owned());
    }
    let len = number(list.take(1));
    let first = std::str::from_utf8(list.take(len)).map_err(|_| NotParsed)?;
    match (first.chars().next(), first.chars().next_back()) {
        (Some(a), Some(b)) => Ok(format!("{a}{b}")),
        _ => Err(NotParsed),
    }
}

fn client(
    version: &[u8],
    ciphers: Vec<u16>,
    extensions: &Extensions<'_>,
) -> Result<String, NotParsed> {
    let supported = match data(extensions, 0x2b)? {
        None => version_digits(version)?,
        Some(data) => {
            let newest = without_grease(pairs(exact(data, 1)?)?);
            let newest = newest.into_iter().max().ok_or(NotParsed)?;
            version_digits(&newest.to_be_bytes())?
        }
    };
    let kinds = || extensions.iter().map(|(kind, _)| *kind);
    let name = if kinds().any(|k| k == 0) { "d" } else { "i" };
    let (n_ciphers, n_extensions) = (count(ciphers.iter().copied()), count(kinds()));
    let first = format!(
        "t{supported}{name}{n_ciphers}{n_extensions}{}",
        alpn(extensions)?
    );
    let mut ciphers = without_grease(ciphers);
    ciphers.sort_unstable();
    let mut sorted = without_grease(kinds().collect());
    sorted.retain(|kind| *kind != 0 && *kind != 16);
    sorted.sort_unstable();
    let mut text = hex_list(&sorted);
    if let Some(data) = data(extensions, 13)? {
        let algorithms = pairs(exact(data, 2)?)?;
        if !algorithms.is_empty() {
            text.push('_');
            text.push_str(&hex_list(&without_grease(algorithms)));
        }
    }
    Ok(format!(
        "{first}_{}_{}",
        digest(&hex_list(&ciphers)),
        digest(&text)
    ))
}

fn server(version: &[u8], cipher: &[u8], extensions: &Extensions<'_>) -> Result<String, NotParsed> {
    let version = match data(extensions, 0x2b)? {
        None => version_digits(version)?,
        Some(data) => version_digits(data)?,
    };
    let kinds: Vec<u16> = extensions.iter().map(|(kind, _)| *kind).collect();
    let n = count(kinds.iter().copied());
    let cipher: String = cipher.iter().map(|b| format!("{b:02x}")).collect();
    let kinds = digest(&hex_list(&kinds));
    Ok(format!(
        "t{version}{n}{}_{cipher}_{kinds}",
        alpn(extensions)?
    ))
}

/// `1301,1302`.
fn hex_list(values: &[u16]) -> String {
    let values: Vec<String> = values.iter().map(|v| format!("{v:04x}")).collect();
    values.join(",")
}

/// The first 12 hexadecimal digits of the SHA-256; zeros for an empty text.
fn digest(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(12);
    }
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(6).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{count, version_digits, without_grease};

    #[test]
    fn spares_the_value_after_grease() {
        assert_eq!(without_grease(vec![0x0a0a, 0x1a1a, 0x2a2a, 5]), [0x1a1a, 5]);
    }

    #[test]
    fn counts_up_to_99_without_grease() {
        assert_eq!(count([0x0a0a, 1, 2].into_iter()), "02");
        assert_eq!(count((1..=300).filter(|v| v % 257 != 0)), "99");
    }

    #[test]
    fn writes_versions_as_two_numbers() {
        assert_eq!(version_digits(&[3, 4]).as_deref(), Ok("13"));
        assert_eq!(version_digits(&[0xfe, 0xfd]).as_deref(), Ok("252252"));
    }
}
