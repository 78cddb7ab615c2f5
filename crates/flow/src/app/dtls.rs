//! DTLS (RFC 9147, RFC 6347): records and handshake messages of datagrams.

use super::bytes::Reader;

/// A record at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// As in TLS.
    pub kind: u8,
    /// 0xfeff, 0xfefd, or 0x0100 of OpenSSL before 0.9.8f.
    pub version: u16,
    /// Key epoch; 0 is in the clear.
    pub epoch: u16,
    /// Length of the content that the header tells, bytes.
    pub length: usize,
    /// Content, as far as it is there.
    pub content: &'a [u8],
}

/// Whether a number is a version of DTLS.
pub const fn is_version(version: u16) -> bool {
    matches!(version, 0xfeff | 0xfefd | 0xfefc | 0x0100)
}

impl<'a> Record<'a> {
    /// Bytes before the content.
    pub const HEADER: usize = 13;

    /// Reads the record at the start of `bytes`; `None` when it is none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (kind, version, epoch) = (reader.u8()?, reader.u16()?, reader.u16()?);
        reader.take(6)?;
        let length = reader.u16()? as usize;
        if !(20..=25).contains(&kind) || !is_version(version) {
            return None;
        }
        Some(Self {
            kind,
            version,
            epoch,
            length,
            content: reader.take_at_most(length),
        })
    }
}

/// A handshake message or a fragment of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// As in TLS.
    pub kind: u8,
    /// Length of the whole message's body, bytes.
    pub length: usize,
    /// Where the fragment begins in the body.
    pub offset: usize,
    /// The fragment, as far as it is there.
    pub fragment: &'a [u8],
}

impl<'a> Message<'a> {
    /// Bytes before the fragment.
    pub const HEADER: usize = 12;

    /// Reads the message or fragment at the start of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (kind, length) = (reader.u8()?, reader.u24()? as usize);
        reader.u16()?;
        let (offset, part) = (reader.u24()? as usize, reader.u24()? as usize);
        Some(Self {
            kind,
            length,
            offset,
            fragment: reader.take_at_most(part),
        })
    }

    /// Whether this is the whole message.
    pub const fn is_whole(&self) -> bool {
        self.offset == 0 && self.fragment.len() == self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_records_and_fragments() {
        let mut bytes = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 5, 0, 15];
        bytes.extend([1, 0, 0, 9, 0, 0, 0, 0, 2, 0, 0, 3, 7, 8, 9]);
        let record = Record::parse(&bytes).expect("a record");
        assert_eq!((record.kind, record.epoch, record.length), (22, 0, 15));
        let message = Message::parse(record.content).expect("a message");
        assert_eq!((message.kind, message.length, message.offset), (1, 9, 2));
        assert_eq!(message.fragment, [7, 8, 9]);
        assert!(!message.is_whole());
        bytes[1] = 3;
        assert_eq!(Record::parse(&bytes), None);
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            Record::parse(&bytes);
            Message::parse(&bytes);
        }
    }
}
