//! How much the handshakes of all flows may hold together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory for what dissectors put together, shared by those of a meter; a clone is the same room.
///
/// Whoever sends the beginnings of many handshakes and no end fills it. A dissector that finds no room any more ends with
/// what it knows, and what it held is free again.
#[derive(Clone, Debug)]
pub struct Room {
    limit: usize,
    used: Arc<AtomicUsize>,
}

impl Room {
    /// Of so many bytes, all free.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            used: Arc::default(),
        }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// A part of a [`Room`], free again when dropped. Of no room, it takes what it likes.
#[derive(Debug, Default)]
pub(super) struct Share {
    room: Option<Room>,
    bytes: usize,
}

impl Share {
    pub(super) fn of(room: &Room) -> Self {
        Self {
            room: Some(room.clone()),
            bytes: 0,
        }
    }

    /// Makes it `bytes` wide; false, and then it is as before, when there is no room for that.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        if bytes == self.bytes {
            return true;
        }
        if let Some(room) = &self.room {
            // Rows of counts only: no other memory is ordered by it.
            let more = bytes.wrapping_sub(self.bytes);
            let used = room.used.fetch_add(more, Ordering::Relaxed);
            if bytes > self.bytes && used.wrapping_add(more) > room.limit {
                room.used.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        }
        self.bytes = bytes;
        true
    }
}

impl Clone for Share {
    /// The copy holds as much again, whatever the limit.
    fn clone(&self) -> Self {
        if let Some(room) = &self.room {
            room.used.fetch_add(self.bytes, Ordering::Relaxed);
        }
        Self {
            room: self.room.clone(),
            bytes: self.bytes,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(room) = &self.room {
            room.used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fill_the_room_and_leave_it() {
        let room = Room::new(100);
        let (mut a, mut b) = (Share::of(&room), Share::of(&room));
        assert!(a.resize(60) && b.resize(40));
        assert!(!a.resize(61));
        assert_eq!(room.used(), 100);
        assert!(a.resize(10) && b.resize(90));
        let copy = b.clone();
        assert_eq!(room.used(), 190);
        assert!(!a.resize(11) && a.resize(9));
        drop((b, copy));
        assert_eq!(room.used(), 9);
        drop(a);
        assert_eq!(room.used(), 0);
        assert!(Share::default().resize(usize::MAX));
    }
}
