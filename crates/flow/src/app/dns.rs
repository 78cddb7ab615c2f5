//! DNS messages (RFC 1035), also those of multicast DNS (RFC 6762) and LLMNR (RFC 4795).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bytes::Reader;

/// Records of a message that are looked at; a message with more is read up to here.
pub const MAX_RECORDS: usize = 64;
/// Labels and pointers of a name that are followed.
const MAX_STEPS: usize = 128;
/// Longest name, characters with dots.
const MAX_NAME: usize = 255;

/// Type of a question or record.
pub mod kind {
    #![allow(missing_docs, reason = "names of RFC 1035, RFC 3596, RFC 2782")]
    pub const A: u16 = 1;
    pub const CNAME: u16 = 5;
    pub const PTR: u16 = 12;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
}

/// The twelve bytes of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Transaction.
    pub id: u16,
    /// Flags as they are.
    pub flags: u16,
    /// Questions, answers, authorities, additional records.
    pub counts: [u16; 4],
}

/// What a record holds, of those that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// CNAME or PTR, or the target of SRV.
    Name(String),
    /// Something else.
    Other,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Owner, as sent.
    pub name: String,
    /// Type.
    pub kind: u16,
    /// Seconds that it may be kept.
    pub ttl: u32,
    /// Content.
    pub data: Data,
}

/// A message, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Header.
    pub header: Header,
    /// Names and types asked for.
    pub questions: Vec<(String, u16)>,
    /// Answers, then authorities and additional records.
    pub records: Vec<Record>,
}

impl Header {
    /// Bytes of a header.
    pub const LENGTH: usize = 12;

    /// Whether it is an answer.
    pub const fn is_response(self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// Reads the header.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(message);
        Some(Self {
            id: reader.u16()?,
            flags: reader.u16()?,
            counts: [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?],
        })
    }
}

impl Message {
    /// Reads a message; what follows the first broken or cut record is left out. `None` without a whole header.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let header = Header::parse(message)?;
        let mut result = Self {
            header,
            questions: Vec::new(),
            records: Vec::new(),
        };
        result.sections(message);
        Some(result)
    }

    fn sections(&mut self, message: &[u8]) -> Option<()> {
        let mut at = 12;
        for _ in 0..(self.header.counts[0] as usize).min(MAX_RECORDS) {
            let name = name(message, &mut at)?;
            let mut reader = Reader::new(message.get(at..)?);
            let kind = reader.u16()?;
            reader.u16()?;
            at += 4;
            self.questions.push((name, kind));
        }
        let records: usize = self.header.counts[1..].iter().map(|n| *n as usize).sum();
        for _ in 0..records.min(MAX_RECORDS) {
            let owner = name(message, &mut at)?;
            let mut reader = Reader::new(message.get(at..)?);
            let kind = reader.u16()?;
            reader.u16()?;
            let ttl = reader.u32()?;
            let data = reader.vector16()?;
            at += 10;
            self.records.push(Record {
                name: owner,
                kind,
                ttl,
                data: record_data(message, kind, at, data),
            });
            at += data.len();
        }
        Some(())
    }
}

fn record_data(message: &[u8], kind: u16, at: usize, data: &[u8]) -> Data {
    let found = match kind {
        kind::A => <[u8; 4]>::try_from(data)
            .ok()
            .map(|a| Data::Address(IpAddr::V4(Ipv4Addr::from(a)))),
        kind::AAAA => <[u8; 16]>::try_from(data)
            .ok()
            .map(|a| Data::Address(IpAddr::V6(Ipv6Addr::from(a)))),
        kind::CNAME | kind::PTR => name(message, &mut { at }).map(Data::Name),
        kind::SRV => name(message, &mut (at + 6)).map(Data::Name),
        _ => None,
    };
    found.unwrap_or(Data::Other)
}

/// Reads the name at `at` and moves `at` behind it; labels are joined by dots, bytes that are no UTF-8 become U+FFFD.
pub fn name(message: &[u8], at: &mut usize) -> Option<String> {
    Some(String::from_utf8_lossy(&raw_name(message, at)?).into_owned())
}

/// Like [`name`], but gives the bytes as they are.
pub fn raw_name(message: &[u8], at: &mut usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut here, mut end) = (*at, None);
    for _ in 0..MAX_STEPS {
        let length = *message.get(here)? as usize;
        match length >> 6 {
            0 if length == 0 => {
                *at = end.unwrap_or(here + 1);
                return Some(bytes);
            }
            0 => {
                if !bytes.is_empty() {
                    bytes.push(b'.');
                }
                bytes.extend_from_slice(message.get(here + 1..here + 1 + length)?);
                if bytes.len() > MAX_NAME {
                    return None;
                }
                here += 1 + length;
            }
            3 => {
                end.get_or_insert(here + 2);
                here = (length & 0x3f) << 8 | *message.get(here + 1)? as usize;
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A name without compression.
    fn encoded(name: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for label in name.split('.').filter(|l| !l.is_empty()) {
            out.push(label.len() as u8);
            out.extend(label.bytes());
        }
        out.push(0);
        out
    }

    /// A question for an address.
    pub(in super::super) fn question(name: &str) -> Vec<u8> {
        [&encoded(name)[..], &[0, 1, 0, 1]].concat()
    }

    /// A record for the name at the start of the first question.
    fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
        let mut out = vec![0xc0, 12];
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend((data.len() as u16).to_be_bytes());
        out.extend_from_slice(data);
        out
    }

    /// An address record.
    pub(in super::super) fn answer(ttl: u32, address: [u8; 4]) -> Vec<u8> {
        record(kind::A, ttl, &address)
    }

    /// A response with questions and answers.
    pub(in super::super) fn response(questions: &[Vec<u8>], answers: &[Vec<u8>]) -> Vec<u8> {
        let mut out = vec![0, 7, 0x81, 0x80];
        out.extend((questions.len() as u16).to_be_bytes());
        out.extend((answers.len() as u16).to_be_bytes());
        out.extend([0; 4]);
        out.extend(questions.concat());
        out.extend(answers.concat());
        out
    }

    #[test]
    fn reads_a_response() {
        let message = response(
            &[question("F.ISI.ARPA")],
            &[
                record(kind::CNAME, 300, &[3, b'F', b'O', b'O', 0xc0, 14]),
                answer(60, [10, 2, 0, 52]),
                record(kind::AAAA, 60, &[1; 16]),
                record(kind::SRV, 60, &[&[0; 6][..], &encoded("a.b")].concat()),
                record(kind::TXT, 60, b"\x03a=b"),
            ],
        );
        let message = Message::parse(&message).expect("a message");
        assert!(message.header.is_response());
        assert_eq!(message.questions, [("F.ISI.ARPA".to_owned(), kind::A)]);
        let data: Vec<&Data> = message.records.iter().map(|r| &r.data).collect();
        let expected = [
            Data::Name("FOO.ISI.ARPA".to_owned()),
            Data::Address([10, 2, 0, 52].into()),
            Data::Address([1; 16].into()),
            Data::Name("a.b".to_owned()),
            Data::Other,
        ];
        assert_eq!(data, expected.iter().collect::<Vec<_>>());
        assert_eq!(
            (message.records[0].ttl, &*message.records[1].name),
            (300, "F.ISI.ARPA")
        );
    }

    #[test]
    fn keeps_what_comes_before_a_cut() {
        let message = response(
            &[question("a.example")],
            &[answer(1, [1; 4]), answer(1, [2; 4])],
        );
        let cut = Message::parse(&message[..message.len() - 2]).expect("a message");
        assert_eq!((cut.questions.len(), cut.records.len()), (1, 1));
        assert_eq!(Message::parse(&message[..11]), None);
    }

    #[test]
    fn refuses_loops_and_long_names() {
        let mut looping = response(&[], &[]);
        looping.extend([0xc0, 12]);
        assert_eq!(name(&looping, &mut { 12 }), None);
        let mut ladder = response(&[], &[]);
        for at in 0..100u16 {
            ladder.push(1);
            ladder.push(b'a');
            ladder.extend((0xc000 | (12 + (at + 1) * 4)).to_be_bytes());
        }
        assert_eq!(name(&ladder, &mut { 12 }), None);
        let long = [
            &response(&[], &[])[..],
            &encoded(&["abcdefghi"; 26].join(".")),
        ]
        .concat();
        assert_eq!(name(&long, &mut { 12 }), None);
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            Message::parse(&bytes);
        }

        #[test]
        fn takes_any_pointers(bytes in prop::collection::vec(prop::sample::select(vec![0u8, 1, 12, 13, 14, 0xc0, 0xff]), 12..100)) {
            Message::parse(&bytes);
        }
    }
}
