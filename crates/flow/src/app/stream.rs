//! Bytes of one direction of a TCP connection, put in order until someone has read them.

/// Bytes of a direction that wait to be read.
pub(super) const MAX_STREAM: usize = 16 * 1024 + 512;
/// Memory that stays when all is read, for what comes next.
const MAX_KEPT: usize = 4 * 1024;
/// Segments that came too early and are kept; together they hold at most [`MAX_STREAM`] bytes.
const MAX_HELD: usize = 4;

/// Bytes of one direction, in order, from its first segment on.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    bytes: Vec<u8>,
    /// Sequence number after `bytes`; `None` before the first byte.
    next: Option<u32>,
    /// Segments ahead of `next`.
    held: Vec<(u32, Vec<u8>)>,
}

/// What to do with segments that do not follow the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Put them where they belong.
    Restore,
    /// Leave them out.
    Required,
}

impl Stream {
    /// In-order bytes that were not consumed.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Memory that its bytes and segments take, bytes.
    pub(super) fn held(&self) -> usize {
        let held = self.held.iter().map(|(_, part)| part.capacity());
        self.bytes.capacity() + held.sum::<usize>()
    }

    /// Forgets the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
        if self.bytes.is_empty() && self.bytes.capacity() > MAX_KEPT {
            self.bytes = Vec::new();
        }
    }

    /// Whether no more can be taken before something is consumed.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= MAX_STREAM
    }

    /// Adds a segment; true when that made more in-order bytes.
    pub(super) fn push(&mut self, order: Order, sequence: u32, payload: &[u8]) -> bool {
        let next = *self.next.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(next);
        if ahead == 0 {
            self.append(payload);
        } else if order == Order::Required {
            return false;
        } else if (ahead as i32) < 0 {
            let known = ahead.wrapping_neg() as usize;
            let Some(fresh) = payload.get(known..).filter(|f| !f.is_empty()) else {
                return false;
            };
            self.append(fresh);
        } else {
            let held: usize = self.held.iter().map(|(_, part)| part.len()).sum();
            let room = MAX_STREAM.saturating_sub(held.max(ahead as usize));
            if self.held.len() < MAX_HELD && room > 0 {
                let part = &payload[..payload.len().min(room)];
                self.held.push((sequence, part.to_vec()));
            }
            return false;
        }
        self.release();
        true
    }

    fn append(&mut self, payload: &[u8]) {
        let room = MAX_STREAM.saturating_sub(self.bytes.len());
        self.bytes
            .extend_from_slice(&payload[..payload.len().min(room)]);
        self.next = self.next.map(|n| n.wrapping_add(payload.len() as u32));
    }

    /// Appends the held segments whose time has come.
    fn release(&mut self) {
        while let Some(next) = self.next {
            let due = |(s, _): &(u32, Vec<u8>)| (next.wrapping_sub(*s) as i32) >= 0;
            let Some(index) = self.held.iter().position(due) else {
                return;
            };
            let (sequence, part) = self.held.swap_remove(index);
            let known = next.wrapping_sub(sequence) as usize;
            if let Some(fresh) = part.get(known..) {
                self.append(fresh);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn restores_order() {
        let mut stream = Stream::default();
        assert!(stream.push(Order::Restore, u32::MAX - 1, b"abc"));
        assert!(!stream.push(Order::Restore, 4, b"gh"));
        assert!(!stream.push(Order::Restore, u32::MAX, b"bc"));
        assert!(stream.push(Order::Restore, 0, b"cdef"));
        assert_eq!(stream.bytes(), b"abcdefgh");
        stream.consume(6);
        assert_eq!(stream.bytes(), b"gh");
    }

    #[test]
    fn requires_order() {
        let mut stream = Stream::default();
        assert!(stream.push(Order::Required, 7, b"abc"));
        assert!(!stream.push(Order::Required, 7, b"abcdef"));
        assert!(!stream.push(Order::Required, 13, b"gh"));
        assert!(stream.push(Order::Required, 10, b"def"));
        assert_eq!(stream.bytes(), b"abcdef");
    }

    proptest! {
        #[test]
        fn any_cut_and_swap_gives_the_stream(
            start: u32,
            data in prop::collection::vec(any::<u8>(), 1..200),
            cuts in prop::collection::vec(0usize..200, 0..4),
            swap in 1usize..4,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c < data.len()).collect();
            cuts.extend([0, data.len()]);
            cuts.sort_unstable();
            let mut parts: Vec<(usize, usize)> = cuts.windows(2).map(|w| (w[0], w[1])).collect();
            parts.retain(|(a, b)| a < b);
            if swap + 1 < parts.len() {
                parts.swap(swap, swap + 1);
            }
            let mut stream = Stream::default();
            for (a, b) in parts {
                stream.push(Order::Restore, start.wrapping_add(a as u32), &data[a..b]);
            }
            prop_assert_eq!(stream.bytes(), &data[..]);
        }

        #[test]
        fn never_holds_more_than_its_bound(segments in prop::collection::vec((any::<u16>(), 0usize..40_000), 0..20)) {
            let mut stream = Stream::default();
            for (sequence, length) in segments {
                stream.push(Order::Restore, sequence as u32, &vec![0; length]);
                prop_assert!(stream.bytes.len() <= MAX_STREAM);
                let held: usize = stream.held.iter().map(|h| h.1.len()).sum();
                prop_assert!(held <= MAX_STREAM);
            }
        }
    }
}
