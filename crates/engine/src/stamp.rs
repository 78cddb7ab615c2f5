//! What a dummy says of itself to the sink, when it is long enough to say anything.

use chaff_abi::Nanos;
use chaff_wire::OVERHEAD;

/// Slot number and intended sending time of a dummy; encrypted, so only the sink reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the slot it belongs to.
    pub slot: u32,
    /// Intended sending time on the Unix clock.
    pub at: Nanos,
}

/// Bytes in front of a body: kind, version, length.
const BODY_HEAD: usize = 4;

impl Stamp {
    /// Encoded length in bytes.
    pub const LEN: usize = 12;

    /// Writes the stamp, or nothing when a datagram of `total` bytes has no room for it.
    pub(crate) fn encode<'b>(&self, buf: &'b mut [u8; Self::LEN], total: usize) -> &'b [u8] {
        if total < OVERHEAD + BODY_HEAD + Self::LEN {
            return &[];
        }
        buf[..4].copy_from_slice(&self.slot.to_be_bytes());
        buf[4..].copy_from_slice(&self.at.0.to_be_bytes());
        buf
    }

    /// Reads a stamp; `None` when the body holds none.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let (slot, at) = body.get(..Self::LEN)?.split_at(4);
        Some(Self {
            slot: u32::from_be_bytes(slot.try_into().ok()?),
            at: Nanos(u64::from_be_bytes(at.try_into().ok()?)),
        })
    }
}
