//! The first bytes of one direction of a TCP connection, put in order.

/// Bytes of a direction that are kept.
pub(super) const MAX_STREAM: usize = 16 * 1024 + 512;
/// Segments kept that came too early.
const MAX_HELD: usize = 4;

/// First bytes of one direction, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    bytes: Vec<u8>,
    /// Sequence number after `bytes`; `None` before the first byte.
    next: Option<u32>,
    /// Segments ahead of `next`.
    held: Vec<(u32, Vec<u8>)>,
}

impl Stream {
    /// In-order bytes since the beginning.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Says where the direction's data begin, from its SYN.
    pub(super) fn starts_at(&mut self, sequence: u32) {
        if self.next.is_none() {
            self.next = Some(sequence);
        }
    }

    /// Adds a segment; true when that made more in-order bytes.
    pub(super) fn push(&mut self, sequence: u32, payload: &[u8]) -> bool {
        let next = *self.next.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(next);
        if ahead == 0 {
            self.append(payload);
        } else if (ahead as i32) < 0 {
            let known = ahead.wrapping_neg() as usize;
            let Some(fresh) = payload.get(known..).filter(|f| !f.is_empty()) else {
                return false;
            };
            self.append(fresh);
        } else {
            if self.held.len() < MAX_HELD && (ahead as usize) < MAX_STREAM {
                let room = MAX_STREAM - ahead as usize;
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
            let due = |(s, part): &(u32, Vec<u8>)| {
                let behind = next.wrapping_sub(*s);
                (behind as i32) >= 0 && (behind as usize) <= part.len()
            };
            let Some(index) = self.held.iter().position(due) else {
                return;
            };
            let (sequence, part) = self.held.swap_remove(index);
            let known = next.wrapping_sub(sequence) as usize;
            self.append(&part[known..]);
        }
    }

    /// Gives the memory back.
    pub(super) fn clear(&mut self) {
        *self = Self {
            next: self.next,
            ..Self::default()
        };
    }
}
