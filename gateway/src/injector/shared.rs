//! What the thread and its handle share.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chaff_abi::Nanos;
use hdrhistogram::Histogram;

use super::{Datagram, InjectorStats};
use crate::sys_net;

/// Lateness is kept up to a minute, with two significant digits.
const MAX_LATENESS: u64 = 60_000_000_000;

#[derive(Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) dropped_late: AtomicU64,
    pub(super) dropped_full: AtomicU64,
    pub(super) dropped_paused: AtomicU64,
    pub(super) dropped_stopped: AtomicU64,
    pub(super) errors: AtomicU64,
}

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) arrived: Vec<Datagram>,
    pub(super) free: Vec<Vec<u8>>,
    pub(super) stopped: bool,
}

pub(super) struct Shared {
    pub(super) inbox: Mutex<Inbox>,
    /// Changes with every event for the thread; what it sleeps on.
    pub(super) word: AtomicU32,
    /// When the thread will wake by itself; 0 while it is awake.
    pub(super) wakes_at: AtomicU64,
    pub(super) waiting: AtomicUsize,
    pub(super) paused: AtomicBool,
    pub(super) stop: AtomicBool,
    pub(super) drop_capabilities: AtomicBool,
    pub(super) counts: Counts,
    pub(super) lateness: Mutex<Histogram<u64>>,
}

impl Shared {
    /// Tells the thread that something changed; wakes it when it sleeps past `at`.
    ///
    /// The thread publishes `wakes_at` before it sleeps, and the kernel compares `word` when it goes to sleep: either it sees
    /// the changed word and does not sleep, or it went to sleep before the change and `wakes_at` is current.
    pub(super) fn notify(&self, at: Nanos) {
        self.word.fetch_add(1, Ordering::SeqCst);
        if at.0 < self.wakes_at.load(Ordering::SeqCst) {
            sys_net::wake(&self.word);
        }
    }

    /// Counts up to now.
    pub(super) fn stats(&self) -> InjectorStats {
        let c = &self.counts;
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        InjectorStats {
            sent: read(&c.sent),
            sent_bytes: read(&c.sent_bytes),
            batches: read(&c.batches),
            late: read(&c.late),
            dropped_late: read(&c.dropped_late),
            dropped_full: read(&c.dropped_full),
            dropped_paused: read(&c.dropped_paused),
            dropped_stopped: read(&c.dropped_stopped),
            errors: read(&c.errors),
            waiting: self.waiting.load(Ordering::Relaxed) as u64,
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks can leave them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENESS, 2).expect("the bounds are constants in range")
}
