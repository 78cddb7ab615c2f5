use super::{Layer, ParseError};

/// Bounds-checked access to a frame that knows how long it was on the wire. Offsets count from the start of the frame,
/// also inside tunnels: there `frame` and `wire_len` end where the enclosing packet does.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a> {
    pub(super) frame: &'a [u8],
    pub(super) wire_len: usize,
}

impl<'a> Bytes<'a> {
    #[inline(always)]
    pub(super) fn header<const N: usize>(
        self,
        layer: Layer,
        offset: usize,
    ) -> Result<&'a [u8; N], ParseError> {
        match self.peek(offset) {
            Some(header) => Ok(header),
            None => Err(self.missing(layer, offset, N)),
        }
    }

    /// The bytes at an offset, where they were captured.
    #[inline(always)]
    pub(super) fn peek<const N: usize>(self, offset: usize) -> Option<&'a [u8; N]> {
        self.frame
            .get(offset..)
            .and_then(|rest| rest.first_chunk::<N>())
    }

    /// A number in network order, where it was captured.
    #[inline(always)]
    pub(super) fn peek_u16(self, offset: usize) -> Option<u16> {
        self.peek(offset).map(|b| u16::from_be_bytes(*b))
    }

    #[cold]
    pub(super) fn missing(self, layer: Layer, offset: usize, needed: usize) -> ParseError {
        if offset + needed <= self.wire_len {
            let had = self.frame.len().saturating_sub(offset);
            ParseError::Cut {
                layer,
                offset,
                needed,
                had,
            }
        } else {
            let had = self.wire_len.max(self.frame.len()).saturating_sub(offset);
            ParseError::Short {
                layer,
                offset,
                needed,
                had,
            }
        }
    }

    #[inline(always)]
    pub(super) fn require(
        self,
        layer: Layer,
        offset: usize,
        needed: usize,
    ) -> Result<(), ParseError> {
        if offset + needed <= self.frame.len() {
            Ok(())
        } else {
            Err(self.missing(layer, offset, needed))
        }
    }
}
