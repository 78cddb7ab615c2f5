//! The thread: what it waits for, sends and drops.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chaff_abi::Nanos;
use chaff_sys::clock::monotonic;

use super::shared::{Shared, lock};
use super::{Datagram, InjectorOptions};
use crate::sys_net::{self, MAX_BATCH};

/// Time in which at most one batch's worth of datagrams leaves.
pub(super) const WINDOW: Nanos = Nanos::from_millis(1);
/// A datagram sent this much after its time counts as late.
const LATE: Nanos = Nanos::from_millis(1);

/// A waiting datagram; the greatest in the heap is the one due first, earlier arrivals before later ones.
struct Waiting {
    datagram: Datagram,
    number: u64,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Order {
        (other.datagram.at, other.number).cmp(&(self.datagram.at, self.number))
    }
}
impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}
impl Eq for Waiting {}

/// What the thread owns.
pub(super) struct Worker {
    shared: Arc<Shared>,
    socket: UdpSocket,
    spin: Nanos,
    max_batch: usize,
    drop_after: Nanos,
    heap: BinaryHeap<Waiting>,
    number: u64,
    /// Taken from the inbox in exchange, so both keep their room.
    arrived: Vec<Datagram>,
    /// Payloads of the batch being sent.
    batch: Vec<Vec<u8>>,
    /// Due times of the batch.
    due: Vec<Nanos>,
    used: Vec<Vec<u8>>,
    /// Lateness not yet in the shared histogram, because a reader held it. What has no room is not recorded.
    unrecorded: Vec<u64>,
    /// Start of the current [`WINDOW`], and how many datagrams left in it.
    window: Nanos,
    in_window: usize,
    /// While the window is used up: its end.
    not_before: Nanos,
}

impl Worker {
    pub(super) fn new(options: InjectorOptions, queue: usize, shared: Arc<Shared>) -> Self {
        let nanos = |d: Duration| Nanos(d.as_nanos().min(u64::MAX.into()) as u64);
        Self {
            shared,
            socket: options.socket,
            spin: options.spin.map_or(Nanos::ZERO, nanos),
            max_batch: options.max_batch.clamp(1, MAX_BATCH),
            drop_after: nanos(options.drop_after),
            heap: BinaryHeap::with_capacity(queue),
            number: 0,
            arrived: Vec::with_capacity(queue),
            batch: Vec::with_capacity(MAX_BATCH),
            due: Vec::with_capacity(MAX_BATCH),
            used: Vec::with_capacity(queue),
            unrecorded: Vec::with_capacity(1024),
            window: Nanos::ZERO,
            in_window: 0,
            not_before: Nanos::ZERO,
        }
    }

    pub(super) fn run(&mut self) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let word = self.shared.word.load(Ordering::SeqCst);
            if self.shared.drop_capabilities.load(Ordering::SeqCst) {
                if let Err(error) = chaff_confine::privileges::drop_thread_capabilities() {
                    tracing::error!(%error, "the injector keeps its capabilities");
                }
                self.shared.drop_capabilities.store(false, Ordering::SeqCst);
            }
            self.exchange();
            self.send_due();
            let Some(next) = self.heap.peek().map(|w| w.datagram.at.max(self.not_before)) else {
                self.sleep(word, None);
                continue;
            };
            let wake_at = next - self.spin;
            if monotonic() < wake_at {
                self.sleep(word, Some(wake_at));
            } else {
                while monotonic() < next && self.shared.word.load(Ordering::Relaxed) == word {
                    std::hint::spin_loop();
                }
            }
        }
        self.finish();
    }

    fn sleep(&self, word: u32, until: Option<Nanos>) {
        let at = until.unwrap_or(Nanos::MAX);
        self.shared.wakes_at.store(at.0, Ordering::SeqCst);
        sys_net::wait_until(&self.shared.word, word, until);
        self.shared.wakes_at.store(0, Ordering::SeqCst);
    }

    /// Takes what arrived and gives used buffers back. When a submitter holds the lock, the change of `word` that
    /// follows brings the thread back here.
    fn exchange(&mut self) {
        if let Ok(mut inbox) = self.shared.inbox.try_lock() {
            std::mem::swap(&mut inbox.arrived, &mut self.arrived);
            let room = inbox.free.capacity() - inbox.free.len();
            let keep = self.used.len().saturating_sub(room);
            inbox.free.extend(self.used.drain(keep..));
        }
        for datagram in self.arrived.drain(..) {
            self.number += 1;
            self.heap.push(Waiting {
                datagram,
                number: self.number,
            });
        }
    }

    /// Sends one batch of what is due, or drops what must not be sent.
    fn send_due(&mut self) {
        let now = monotonic();
        let paused = self.shared.paused.load(Ordering::SeqCst);
        if now.since(self.window) >= WINDOW {
            (self.window, self.in_window) = (now, 0);
        }
        let room = self.max_batch - self.in_window;
        let mut dropped = 0;
        while let Some(first) = self.heap.peek() {
            let at = first.datagram.at;
            let too_late = now.since(at) > self.drop_after;
            let drop_it = paused || too_late;
            if at > now || (!drop_it && self.batch.len() == room) {
                break;
            }
            let Some(Waiting { datagram, .. }) = self.heap.pop() else {
                break;
            };
            if drop_it {
                dropped += 1;
                self.recycle(datagram.bytes);
            } else {
                self.batch.push(datagram.bytes);
                self.due.push(at);
            }
        }
        let counts = &self.shared.counts;
        if dropped > 0 {
            let counter = if paused {
                &counts.dropped_paused
            } else {
                &counts.dropped_late
            };
            counter.fetch_add(dropped, Ordering::Relaxed);
        }
        let taken = dropped as usize + self.batch.len();
        if !self.batch.is_empty() {
            self.in_window += self.batch.len();
            if self.in_window == self.max_batch {
                self.not_before = self.window + WINDOW;
            }
            self.send_batch();
        }
        if taken > 0 {
            self.shared.waiting.fetch_sub(taken, Ordering::Relaxed);
        }
    }

    fn send_batch(&mut self) {
        let counts = &self.shared.counts;
        let mut from = 0;
        while from < self.batch.len() {
            let at_call = monotonic();
            match sys_net::send_batch(&self.socket, &self.batch[from..]) {
                Ok(n) if n > 0 => {
                    let bytes: usize = self.batch[from..from + n].iter().map(Vec::len).sum();
                    counts.sent.fetch_add(n as u64, Ordering::Relaxed);
                    counts.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                    counts.batches.fetch_add(1, Ordering::Relaxed);
                    for due in &self.due[from..from + n] {
                        let lateness = at_call.since(*due);
                        if lateness > LATE {
                            counts.late.fetch_add(1, Ordering::Relaxed);
                        }
                        if self.unrecorded.len() < self.unrecorded.capacity() {
                            self.unrecorded.push(lateness.0);
                        }
                    }
                    from += n;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A refused port, a full queue or a too small path concerns this datagram; the next may pass.
                _ => {
                    counts.errors.fetch_add(1, Ordering::Relaxed);
                    from += 1;
                }
            }
        }
        if let Ok(mut histogram) = self.shared.lateness.try_lock() {
            for nanos in self.unrecorded.drain(..) {
                histogram.saturating_record(nanos.max(1));
            }
        }
        self.due.clear();
        while let Some(bytes) = self.batch.pop() {
            self.recycle(bytes);
        }
    }

    fn recycle(&mut self, bytes: Vec<u8>) {
        if self.used.len() < self.used.capacity() {
            self.used.push(bytes);
        }
    }

    fn finish(&mut self) {
        let mut inbox = lock(&self.shared.inbox);
        inbox.stopped = true;
        let left = inbox.arrived.len() + self.heap.len();
        inbox.arrived.clear();
        drop(inbox);
        self.shared
            .counts
            .dropped_stopped
            .fetch_add(left as u64, Ordering::Relaxed);
        self.shared.waiting.fetch_sub(left, Ordering::Relaxed);
    }
}
