//! QUIC: what the client's first packets show (RFC 9000, RFC 9001, RFC 9369, drafts 22 to 34, and Google's QUIC before them).
//!
//! Initial packets are encrypted with keys that everyone can derive from them. Their authentication tag is not checked:
//! what comes out is read like any other bytes of strangers.

use aes::Aes128;
use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockEncrypt, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;

use super::bytes::Reader;

/// Version 1.
pub const V1: u32 = 1;
/// Version 2.
pub const V2: u32 = 0x6b33_43cf;
/// Bytes of handshake that are put together.
pub const MAX_CRYPTO: usize = 16 * 1024;
/// Pieces of the handshake with gaps between them that are kept.
const MAX_PIECES: usize = 32;
/// Packets of a datagram that are looked at.
const MAX_COALESCED: usize = 8;
const TAG: usize = 16;
const SAMPLE: usize = 16;
const MAX_CONNECTION_ID: usize = 20;

const SALT_22: [u8; 20] = [
    0x7f, 0xbc, 0xdb, 0x0e, 0x7c, 0x66, 0xbb, 0xe9, 0x19, 0x3a, 0x96, 0xcd, 0x21, 0x51, 0x9e, 0xbd,
    0x7a, 0x02, 0x64, 0x4a,
];
const SALT_23: [u8; 20] = [
    0xc3, 0xee, 0xf7, 0x12, 0xc7, 0x2e, 0xbb, 0x5a, 0x11, 0xa7, 0xd2, 0x43, 0x2b, 0xb4, 0x63, 0x65,
    0xbe, 0xf9, 0xf5, 0x02,
];
const SALT_29: [u8; 20] = [
    0xaf, 0xbf, 0xec, 0x28, 0x99, 0x93, 0xd2, 0x4c, 0x9e, 0x97, 0x86, 0xf1, 0x9c, 0x61, 0x11, 0xe0,
    0x43, 0x90, 0xa8, 0x99,
];
const SALT_V1: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];
const SALT_V2: [u8; 20] = [
    0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb,
    0xf9, 0xbd, 0x2e, 0xd9,
];
const SALT_Q050: [u8; 20] = [
    0x50, 0x45, 0x74, 0xef, 0xd0, 0x66, 0xfe, 0x2f, 0x9d, 0x94, 0x5c, 0xfc, 0xdb, 0xd3, 0xa7, 0xf0,
    0xd3, 0xb5, 0x6b, 0x45,
];
const SALT_T050: [u8; 20] = [
    0x7f, 0xf5, 0x79, 0xe5, 0xac, 0xd0, 0x72, 0x91, 0x55, 0x80, 0x30, 0x4c, 0x43, 0xa2, 0x36, 0x7c,
    0x60, 0x48, 0x83, 0x10,
];
const SALT_T051: [u8; 20] = [
    0x7a, 0x4e, 0xde, 0xf4, 0xe7, 0xcc, 0xee, 0x5f, 0xa4, 0x50, 0x6c, 0x19, 0x12, 0x4f, 0xc8, 0xcc,
    0xda, 0x6e, 0x03, 0x3d,
];

/// How the handshake of a version is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// TLS 1.3 in CRYPTO frames of Initial packets.
    Tls,
    /// Google's CHLO in CRYPTO frames of Initial packets (Q050).
    EncryptedChlo,
    /// Google's CHLO in the clear.
    Chlo,
}

/// How the handshake of `version` is written; `None` for versions that are not known.
pub const fn handshake(version: u32) -> Option<Handshake> {
    match version {
        0x5130_3530 => Some(Handshake::EncryptedChlo),
        _ if salt(version).is_some() => Some(Handshake::Tls),
        // Q0 and two digits.
        _ if version >> 16 == 0x5130 => {
            let [_, _, tens, ones] = version.to_be_bytes();
            match tens.is_ascii_digit() && ones.is_ascii_digit() {
                true => Some(Handshake::Chlo),
                false => None,
            }
        }
        _ => None,
    }
}

const fn salt(version: u32) -> Option<&'static [u8; 20]> {
    match version {
        V1 | 0xff00_0021..=0xff00_0022 => Some(&SALT_V1),
        V2 => Some(&SALT_V2),
        0xff00_001d..=0xff00_0020 => Some(&SALT_29),
        0xff00_0017..=0xff00_001c | 0xface_b002 | 0xface_b00e => Some(&SALT_23),
        0xff00_0015..=0xff00_0016 | 0xface_b001 => Some(&SALT_22),
        0x5130_3530 => Some(&SALT_Q050),
        0x5430_3530 => Some(&SALT_T050),
        0x5430_3531 => Some(&SALT_T051),
        // Reserved to force negotiation.
        _ if version & 0x0f0f_0f0f == 0x0a0a_0a0a => Some(&SALT_29),
        _ => None,
    }
}

/// A long header packet before its protection is taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Long<'a> {
    /// First byte; its lower bits are protected.
    pub first: u8,
    /// Version, never 0.
    pub version: u32,
    /// Destination connection id.
    pub destination: &'a [u8],
    /// Source connection id.
    pub source: &'a [u8],
    /// Bytes before the packet number.
    header: &'a [u8],
    /// Packet number and protected payload with tag.
    rest: &'a [u8],
}

/// A variable-length integer (RFC 9000, section 16).
fn variable(reader: &mut Reader<'_>) -> Option<u64> {
    let first = reader.u8()?;
    let mut value = u64::from(first & 0x3f);
    for _ in 1..1u8 << (first >> 6) {
        value = value << 8 | u64::from(reader.u8()?);
    }
    Some(value)
}

/// Kinds of packets with a long header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of RFC 9000")]
pub enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
}

impl<'a> Long<'a> {
    /// What kind of packet a datagram begins with; `None` when it is no long header of a known version.
    pub fn kind(datagram: &[u8]) -> Option<Kind> {
        let mut reader = Reader::new(datagram);
        let first = reader.u8()?;
        let version = reader.u32()?;
        // The fixed bit is set in all versions whose header is protected.
        if first & 0xc0 != 0xc0 || salt(version).is_none() {
            return None;
        }
        let kind = first >> 4 & 3;
        // The numbers of version 2 begin with another kind.
        let kind = if version == V2 {
            kind.wrapping_sub(1) & 3
        } else {
            kind
        };
        Some([Kind::Initial, Kind::ZeroRtt, Kind::Handshake, Kind::Retry][usize::from(kind)])
    }

    /// Reads the Initial packet at the start of `datagram`; gives it and what follows it. `None` when it is none.
    pub fn initial(datagram: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut reader = Reader::new(datagram);
        let first = reader.u8()?;
        let version = reader.u32()?;
        if Self::kind(datagram)? != Kind::Initial {
            return None;
        }
        let destination = reader.vector8()?;
        let source = reader.vector8()?;
        if destination.len() > MAX_CONNECTION_ID || source.len() > MAX_CONNECTION_ID {
            return None;
        }
        let token = variable(&mut reader)?;
        reader.take(usize::try_from(token).ok()?)?;
        let length = usize::try_from(variable(&mut reader)?).ok()?;
        let header = &datagram[..datagram.len() - reader.rest().len()];
        let rest = reader.take(length)?;
        let packet = Self {
            first,
            version,
            destination,
            source,
            header,
            rest,
        };
        Some((packet, reader.rest()))
    }

    /// Takes the protection off a packet of the client whose first destination connection id was `id`.
    ///
    /// The payload is wrong, not missing, when the packet was made with other keys.
    pub fn open(&self, id: &[u8]) -> Option<Vec<u8>> {
        let keys = Keys::client(self.version, id)?;
        let sample = self.rest.get(4..4 + SAMPLE)?;
        let mask = keys.block(&keys.header, sample.try_into().ok()?);
        let first = self.first ^ mask[0] & 0x0f;
        let length = usize::from(first & 3) + 1;
        let mut nonce = keys.iv;
        for (i, byte) in self.rest[..length].iter().enumerate() {
            let number = byte ^ mask[1 + i];
            nonce[12 - length + i] ^= number;
        }
        let sealed = self.rest.get(length..)?;
        let mut payload = sealed.get(..sealed.len().checked_sub(TAG)?)?.to_vec();
        keys.stream(nonce, &mut payload);
        Some(payload)
    }
}

struct Keys {
    key: Aes128,
    iv: [u8; 12],
    header: Aes128,
}

impl Keys {
    /// Keys of the client's Initial packets (RFC 9001, section 5.2).
    fn client(version: u32, id: &[u8]) -> Option<Self> {
        let labels: [&[u8]; 3] = match version {
            V2 => [b"quicv2 key", b"quicv2 iv", b"quicv2 hp"],
            _ => [b"quic key", b"quic iv", b"quic hp"],
        };
        let mut secret = [0; 32];
        let initial = Hkdf::<Sha256>::new(Some(salt(version)?), id);
        expand(&initial, b"client in", &mut secret)?;
        let secret = Hkdf::<Sha256>::from_prk(&secret).ok()?;
        let (mut key, mut iv, mut header) = ([0; 16], [0; 12], [0; 16]);
        expand(&secret, labels[0], &mut key)?;
        expand(&secret, labels[1], &mut iv)?;
        expand(&secret, labels[2], &mut header)?;
        Some(Self {
            key: Aes128::new(&GenericArray::from(key)),
            iv,
            header: Aes128::new(&GenericArray::from(header)),
        })
    }

    fn block(&self, key: &Aes128, input: [u8; 16]) -> [u8; 16] {
        let mut block = GenericArray::from(input);
        key.encrypt_block(&mut block);
        block.into()
    }

    /// AES-GCM's key stream: counters from 2 on.
    fn stream(&self, nonce: [u8; 12], text: &mut [u8]) {
        for (counter, part) in (2u32..).zip(text.chunks_mut(16)) {
            let mut input = [0; 16];
            input[..12].copy_from_slice(&nonce);
            input[12..].copy_from_slice(&counter.to_be_bytes());
            let block = self.block(&self.key, input);
            for (byte, key) in part.iter_mut().zip(block) {
                *byte ^= key;
            }
        }
    }
}

/// HKDF-Expand-Label of TLS 1.3 without context (RFC 8446, section 7.1).
fn expand(secret: &Hkdf<Sha256>, label: &[u8], out: &mut [u8]) -> Option<()> {
    let length = (out.len() as u16).to_be_bytes();
    let label_length = [b"tls13 ".len() as u8 + label.len() as u8];
    secret
        .expand_multi_info(&[&length, &label_length, b"tls13 ", label, &[0]], out)
        .ok()
}

/// The client's handshake, put together from CRYPTO frames in any order.
#[derive(Clone, Debug, Default)]
pub struct Crypto {
    bytes: Vec<u8>,
    /// Where bytes are known, in order, not touching each other.
    known: Vec<(usize, usize)>,
    /// First destination connection id of the client, which the keys come from.
    id: Vec<u8>,
}

impl Crypto {
    /// Handshake bytes that are known without a gap from the beginning.
    pub fn bytes(&self) -> &[u8] {
        match self.known.first() {
            Some((0, end)) => &self.bytes[..*end],
            _ => &[],
        }
    }

    /// Memory that its parts take, bytes.
    pub(super) fn held(&self) -> usize {
        self.bytes.capacity() + self.known.capacity() * size_of::<(usize, usize)>()
    }

    /// Reads a datagram of the client; true when one of its packets was an Initial packet with sound frames.
    pub fn datagram(&mut self, datagram: &[u8]) -> bool {
        let (mut rest, mut sound) = (datagram, false);
        for _ in 0..MAX_COALESCED {
            let Some((packet, next)) = Long::initial(rest) else {
                break;
            };
            if self.id.is_empty() {
                self.id = packet.destination.to_vec();
            }
            if let Some(payload) = packet.open(&self.id) {
                sound |= self.frames(&payload).is_some();
            }
            rest = next;
        }
        sound
    }

    /// Notes the CRYPTO frames of a payload; `None` when it is no sequence of frames that Initial packets may have.
    fn frames(&mut self, payload: &[u8]) -> Option<()> {
        let mut reader = Reader::new(payload);
        while let Some(kind) = reader.u8() {
            match kind {
                // PADDING, PING
                0 | 1 => {}
                // ACK, with counts of congestion marks
                2 | 3 => {
                    variable(&mut reader)?;
                    variable(&mut reader)?;
                    let ranges = variable(&mut reader)?;
                    variable(&mut reader)?;
                    for _ in 0..ranges.min(payload.len() as u64) {
                        variable(&mut reader)?;
                        variable(&mut reader)?;
                    }
                    for _ in 0..3 * (kind - 2) {
                        variable(&mut reader)?;
                    }
                }
                // CRYPTO; 8 in Google's Q050
                6 | 8 => {
                    let offset = usize::try_from(variable(&mut reader)?).ok()?;
                    let length = usize::try_from(variable(&mut reader)?).ok()?;
                    self.insert(offset, reader.take(length)?);
                }
                // CONNECTION_CLOSE
                0x1c => return Some(()),
                _ => return None,
            }
        }
        Some(())
    }

    fn insert(&mut self, offset: usize, part: &[u8]) {
        let end = offset.saturating_add(part.len());
        if part.is_empty() || end > MAX_CRYPTO {
            return;
        }
        let (mut from, mut to) = (offset, end);
        self.known.retain(|(a, b)| {
            let touches = *a <= to && *b >= from;
            if touches {
                from = from.min(*a);
                to = to.max(*b);
            }
            !touches
        });
        if self.known.len() >= MAX_PIECES {
            return;
        }
        let place = self.known.partition_point(|(a, _)| *a < from);
        self.known.insert(place, (from, to));
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(part);
    }
}

/// What Google's CHLO says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chlo<'a> {
    /// Tag `SNI`.
    pub server_name: Option<&'a [u8]>,
    /// Tag `UAID`.
    pub user_agent: Option<&'a [u8]>,
}

/// Tags of a CHLO that are looked at.
const MAX_TAGS: u16 = 256;
/// Bytes before a CHLO in the first packet, at most.
const MAX_CHLO_OFFSET: usize = 128;

/// The version in the first packet of a client that speaks Google's QUIC up to Q046.
pub fn google_version(datagram: &[u8]) -> Option<u32> {
    let flags = *datagram.first()?;
    let at = match flags {
        // Q046: long header.
        f if f & 0x80 != 0 => 1,
        // With version and a connection id of eight bytes.
        f if f & 0x09 == 0x09 => 9,
        _ => return None,
    };
    let version = Reader::new(datagram.get(at..)?).u32()?;
    (handshake(version) == Some(Handshake::Chlo)).then_some(version)
}

impl<'a> Chlo<'a> {
    /// Finds and reads a CHLO near the start of a datagram.
    pub fn find(datagram: &'a [u8]) -> Option<Self> {
        let area = &datagram[..datagram.len().min(MAX_CHLO_OFFSET)];
        let at = area.windows(4).position(|w| w == b"CHLO")?;
        Self::parse(&datagram[at..])
    }

    /// Reads a CHLO from its name on; tags behind a cut are left out.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.strip_prefix(b"CHLO")?.first_chunk::<4>()?;
        let tags = u16::from_le_bytes([head[0], head[1]]).min(MAX_TAGS);
        let index = bytes.get(8..8 + usize::from(tags) * 8)?;
        let values = &bytes[8 + index.len()..];
        let (mut chlo, mut start) = (Self::default(), 0);
        for entry in index.chunks_exact(8) {
            let end = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]) as usize;
            let value = values.get(start..end);
            start = end;
            match &entry[..4] {
                b"SNI\0" => chlo.server_name = value,
                b"UAID" => chlo.user_agent = value,
                _ => {}
            }
        }
        Some(chlo)
    }
}

/// The user agent in TLS transport parameters, as Google's clients send it (parameter 0x3129).
pub fn user_agent(parameters: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(parameters);
    while !reader.is_empty() {
        let id = variable(&mut reader)?;
        let length = usize::try_from(variable(&mut reader)?).ok()?;
        let value = reader.take(length)?;
        if id == 0x3129 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tls::{ClientHello, Message};
    use super::*;
    use proptest::prelude::*;

    /// Destination connection id of RFC 9001, appendix A.
    const ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
    /// CRYPTO frame of RFC 9001, appendix A.2.
    const CRYPTO: &str = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c\
        00000413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504\
        616c706e000500050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748\
        002b0003020304000d0010000e0403050306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff0504\
        8000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff";

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16);
        digits
            .chunks(2)
            .map(|pair| byte(pair).expect("digits"))
            .collect()
    }

    /// An Initial packet of 1200 bytes with packet number 2 in four bytes, as in the RFCs, but without a tag.
    fn seal(version: u32, id: &[u8], frames: &[u8]) -> Vec<u8> {
        let keys = Keys::client(version, id).expect("a known version");
        let mut header = vec![if version == V2 { 0xd3 } else { 0xc3 }];
        header.extend(version.to_be_bytes());
        header.push(id.len() as u8);
        header.extend(id);
        header.extend([0, 0]);
        let length = 1200 - header.len() - 2;
        header.extend((0x4000 | length as u16).to_be_bytes());
        header.extend([0, 0, 0, 2]);
        let mut payload = frames.to_vec();
        payload.resize(1200 - header.len() - TAG, 0);
        let mut nonce = keys.iv;
        nonce[11] ^= 2;
        keys.stream(nonce, &mut payload);
        let mask = keys.block(
            &keys.header,
            payload[..SAMPLE].try_into().expect("a sample"),
        );
        header[0] ^= mask[0] & 0x0f;
        let at = header.len() - 4;
        for (byte, mask) in header[at..].iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
        }
        [&header[..], &payload, &[0; TAG]].concat()
    }

    fn frame(offset: usize, part: &[u8]) -> Vec<u8> {
        let number = |n: usize| (0x4000 | n as u16).to_be_bytes();
        [&[6][..], &number(offset), &number(part.len()), part].concat()
    }

    fn server_name(crypto: &Crypto) -> Option<Vec<u8>> {
        let message = Message::parse(crypto.bytes()).filter(Message::is_whole)?;
        ClientHello::parse(message.body, false)?.server_name
    }

    #[test]
    fn seals_and_opens_the_packets_of_the_rfcs() {
        // RFC 9001, appendix A.2, and RFC 9369, appendix A.2.
        let cases = [
            (
                V1,
                "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9bd8bab936b47d92ec356c",
            ),
            (
                V2,
                "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485dd04de806071bf03dceebfa162e75d6c",
            ),
        ];
        for (version, start) in cases {
            let packet = seal(version, &ID, &unhex(CRYPTO));
            assert_eq!(packet[..48], unhex(start));
            let mut crypto = Crypto::default();
            assert!(crypto.datagram(&packet));
            assert_eq!(server_name(&crypto).as_deref(), Some(&b"example.com"[..]));
        }
    }

    #[test]
    fn opens_every_version_with_its_salt() {
        for version in [
            0xff00_0016,
            0xff00_001b,
            0xff00_001d,
            0xff00_0022,
            0xface_b002,
            0x5430_3531,
        ] {
            let mut crypto = Crypto::default();
            assert!(
                crypto.datagram(&seal(version, &ID, &unhex(CRYPTO))),
                "{version:x}"
            );
            assert_eq!(server_name(&crypto).as_deref(), Some(&b"example.com"[..]));
        }
        assert_eq!(handshake(0x5130_3433), Some(Handshake::Chlo));
        assert_eq!(handshake(0x5130_3530), Some(Handshake::EncryptedChlo));
        assert_eq!(handshake(0x5130_7a30), None);
        assert_eq!(handshake(0xdead_beef), None);
    }

    #[test]
    fn puts_the_hello_together_from_packets_in_any_order() {
        let hello = &unhex(CRYPTO)[4..];
        let first = [frame(100, &hello[100..]), vec![1, 0, 0]].concat();
        let second = [vec![0], frame(40, &hello[40..110]), frame(0, &hello[..50])].concat();
        let mut crypto = Crypto::default();
        assert!(crypto.datagram(&seal(V1, &ID, &first)));
        assert_eq!(crypto.bytes(), b"");
        assert!(crypto.datagram(&seal(V1, &ID, &second)));
        assert_eq!(crypto.bytes(), hello);
        assert_eq!(server_name(&crypto).as_deref(), Some(&b"example.com"[..]));
    }

    #[test]
    fn keeps_the_keys_of_the_first_packet() {
        let hello = &unhex(CRYPTO)[4..];
        let mut crypto = Crypto::default();
        assert!(crypto.datagram(&seal(V1, &ID, &frame(0, &hello[..50]))));
        // The server chose another id for the header; the keys stay.
        let mut moved = seal(V1, &ID, &frame(50, &hello[50..]));
        assert_eq!(crypto.bytes().len(), 50);
        moved[6..14].copy_from_slice(b"serverid");
        assert!(crypto.datagram(&moved));
        assert_eq!(crypto.bytes(), hello);
    }

    #[test]
    fn refuses_packets_of_other_keys_and_kinds() {
        let packet = seal(V1, &ID, &unhex(CRYPTO));
        let mut crypto = Crypto::default();
        crypto.datagram(&seal(V1, b"other", &[1]));
        assert!(!crypto.datagram(&packet));
        assert_eq!(crypto.bytes(), b"");
        assert!(Long::initial(&packet[..1000]).is_none());
        let mut handshake = packet.clone();
        handshake[0] |= 0x20;
        assert!(Long::initial(&handshake).is_none());
        let mut unknown = packet;
        unknown[1] = 0x99;
        assert!(Long::initial(&unknown).is_none());
    }

    #[test]
    fn reads_a_chlo() {
        let tags: [(&[u8; 4], &[u8]); 3] = [
            (b"PAD\0", &[0x2d; 20]),
            (b"SNI\0", b"www.example.org"),
            (b"UAID", b"dev Chrome/60"),
        ];
        let (mut index, mut values) = (Vec::new(), Vec::new());
        for (tag, value) in tags {
            values.extend_from_slice(value);
            index.extend_from_slice(tag);
            index.extend((values.len() as u32).to_le_bytes());
        }
        let chlo = [&b"CHLO\x03\0\0\0"[..], &index, &values].concat();
        let mut datagram = b"\x0d12345678Q043\x01".to_vec();
        datagram.extend([0; 12]);
        datagram.extend([0xa0, 1, 4, 0]);
        datagram.extend(&chlo);
        assert_eq!(google_version(&datagram), Some(0x5130_3433));
        let found = Chlo::find(&datagram).expect("a CHLO");
        assert_eq!(found.server_name, Some(&b"www.example.org"[..]));
        assert_eq!(found.user_agent, Some(&b"dev Chrome/60"[..]));
        let cut = Chlo::find(&datagram[..datagram.len() - 5]).expect("a CHLO");
        assert_eq!((cut.server_name.is_some(), cut.user_agent), (true, None));
    }

    #[test]
    fn finds_the_user_agent_among_parameters() {
        let parameters = [&[1, 2, 0x40, 0x64, 0x71, 0x29, 3][..], b"abc", &[4, 0]].concat();
        assert_eq!(user_agent(&parameters), Some(&b"abc"[..]));
        assert_eq!(user_agent(&parameters[..8]), None);
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Long::initial(&bytes);
            google_version(&bytes);
            Chlo::find(&bytes);
            Chlo::parse(&[b"CHLO", &bytes[..]].concat());
            user_agent(&bytes);
        }

        #[test]
        fn takes_any_frames(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6)) {
            let mut crypto = Crypto::default();
            for frames in frames {
                crypto.datagram(&seal(V1, &ID, &frames));
                prop_assert!(crypto.bytes.len() <= MAX_CRYPTO && crypto.known.len() <= MAX_PIECES);
            }
        }

        #[test]
        fn pieces_in_any_order_give_the_whole(
            data in prop::collection::vec(any::<u8>(), 1..400),
            mut cuts in prop::collection::vec(0usize..400, 0..8),
            seed: u64,
        ) {
            cuts.retain(|c| *c < data.len());
            cuts.extend([0, data.len()]);
            cuts.sort_unstable();
            let mut pieces: Vec<(usize, usize)> = cuts.windows(2).map(|w| (w[0], w[1])).collect();
            let turn = (seed % pieces.len() as u64) as usize;
            pieces.rotate_left(turn);
            let mut crypto = Crypto::default();
            for (from, to) in pieces {
                crypto.insert(from, &data[from..to]);
            }
            prop_assert_eq!(crypto.bytes(), &data[..]);
        }
    }
}
