/// Bytes that are not body: masked header 8, tag 16.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

/// Smallest datagram: bare cover without a readable body.
pub const MIN_LEN: usize = OVERHEAD;

/// Largest datagram: what one IPv4 UDP datagram can carry.
pub const MAX_LEN: usize = 65_507;

/// Bytes of kind, version and length in front of a body.
pub const BODY_PREFIX: usize = 4;

/// Layout version inside the body.
pub const VERSION: u8 = 1;

pub(crate) const HEADER_LEN: usize = 8;
pub(crate) const TAG_LEN: usize = 16;

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// To be thrown away.
    Cover = 0,
    /// Tells the sink which cover to send back.
    Schedule = 1,
    /// Counts of what was seen.
    Report = 2,
}

impl Kind {
    /// The kind with this number.
    pub const fn from_byte(b: u8) -> Option<Self> {
        match b {
            0 => Some(Self::Cover),
            1 => Some(Self::Schedule),
            2 => Some(Self::Report),
            _ => None,
        }
    }
}

/// The part of a datagram that makes it unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Header {
    /// Low 16 bits of the number of ten-minute epochs since the Unix epoch.
    pub epoch: u16,
    /// Who sends, within one key and direction (one protected device, for example).
    pub stream: u16,
    /// Grows with every datagram of a stream in an epoch, not from zero.
    pub counter: u32,
}

impl Header {
    /// Eight bytes, network byte order.
    pub const fn to_bytes(self) -> [u8; 8] {
        let ([a, b], [c, d]) = (self.epoch.to_be_bytes(), self.stream.to_be_bytes());
        let [e, f, g, h] = self.counter.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// The reverse of [`Header::to_bytes`].
    pub const fn from_bytes(b: [u8; 8]) -> Self {
        Self {
            epoch: u16::from_be_bytes([b[0], b[1]]),
            stream: u16::from_be_bytes([b[2], b[3]]),
            counter: u32::from_be_bytes([b[4], b[5], b[6], b[7]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_bytes_are_in_network_order_and_come_back() {
        let h = Header {
            epoch: 0x0102,
            stream: 0x0304,
            counter: 0x0506_0708,
        };
        assert_eq!(h.to_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Header::from_bytes(h.to_bytes()), h);
    }
}
