//! Reads numbers and slices from bytes of strangers; every step says when there is nothing left.

/// What is left of some bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    /// Network byte order, as all of these.
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u24(&mut self) -> Option<u32> {
        self.array::<3>()
            .map(|[a, b, c]| u32::from_be_bytes([0, a, b, c]))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A slice after its length of one byte.
    pub(super) fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length as usize)
    }

    /// A slice after its length of two bytes.
    pub(super) fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length as usize)
    }

    /// Like [`Self::take`], but gives what there is when that is less.
    pub(super) fn take_at_most(&mut self, length: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(length.min(self.0.len()));
        self.0 = tail;
        head
    }
}

/// The whole 16-bit numbers in `bytes`.
pub(super) fn u16s(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_until_there_is_nothing_left() {
        let mut reader = Reader::new(&[1, 0, 2, 0, 0, 3, 0, 0, 0, 4, 2, 9, 8, 0, 1, 7]);
        assert_eq!((reader.u8(), reader.u16()), (Some(1), Some(2)));
        assert_eq!((reader.u24(), reader.u32()), (Some(3), Some(4)));
        assert_eq!(reader.vector8(), Some(&[9, 8][..]));
        assert_eq!(reader.vector16(), Some(&[7][..]));
        assert!(reader.is_empty() && reader.u8().is_none());
        let mut short = Reader::new(&[5, 1]);
        assert_eq!((short.vector8(), short.rest()), (None, &[1][..]));
        assert_eq!(short.take_at_most(9), &[1]);
        assert_eq!(u16s(&[0, 1, 2]).collect::<Vec<_>>(), [1]);
    }
}
