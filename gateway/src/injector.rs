//! Sends cover at exact times, on a thread of its own.
//!
//! The engine plans dummies ahead; [`Injector::submit`] hands them over with their due time on the monotonic clock.
//! The thread sleeps until the earliest (absolute deadline, woken by a futex when something earlier arrives), then
//! sends what is due in one system call. It takes no lock that it would have to wait for, opens nothing, and in steady
//! state allocates nothing: buffers go round.
//!
//! Being late never becomes a burst: at most [`InjectorOptions::max_batch`] datagrams leave per millisecond, and what is
//! more than [`InjectorOptions::drop_after`] late is dropped and counted.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use chaff_abi::Nanos;
use hdrhistogram::Histogram;

use crate::sys_net::{self, MAX_BATCH, monotonic_now};

/// Time in which at most one batch's worth of datagrams leaves.
const WINDOW: Nanos = Nanos::from_millis(1);
/// A datagram sent this much after its time counts as late.
const LATE: Nanos = Nanos::from_millis(1);
/// Above ordinary processes, below the kernel's interrupt threads (50).
const PRIORITY: i32 = 10;
/// Largest UDP payload; more cannot be sent.
const MAX_PAYLOAD: usize = 65_507;
/// Lateness is kept up to a minute, with two significant digits.
const MAX_LATENESS: u64 = 60_000_000_000;

/// How to inject.
#[derive(Debug)]
pub struct InjectorOptions {
    /// Connected to the sink, mark set: see [`crate::sys_net::open_cover_socket`].
    pub socket: UdpSocket,
    /// Wake this much early and wait the rest on the processor: exact, but costs a core that much per wake-up.
    pub spin: Option<Duration>,
    /// Ask for real-time scheduling (`SCHED_FIFO`).
    pub fifo: bool,
    /// Datagrams that may wait; more are refused.
    pub queue: usize,
    /// Datagrams per system call and per millisecond, 1 to 64.
    pub max_batch: usize,
    /// Datagrams later than this are dropped.
    pub drop_after: Duration,
}

impl InjectorOptions {
    /// The defaults for a socket: no spinning, real-time, 4,096 waiting, batches of 64, drop after one second.
    pub fn new(socket: UdpSocket) -> Self {
        Self {
            socket,
            spin: None,
            fifo: true,
            queue: 4096,
            max_batch: MAX_BATCH,
            drop_after: Duration::from_secs(1),
        }
    }
}

/// A datagram and when it is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Monotonic clock.
    pub at: Nanos,
    /// UDP payload.
    pub bytes: Vec<u8>,
}

/// The datagram was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The queue is full; counted in [`InjectorStats::dropped_full`].
    #[error("the injector's queue is full")]
    Full,
    /// Longer than UDP can carry.
    #[error("a datagram of {0} bytes cannot be sent")]
    TooLong(usize),
    /// The thread has ended.
    #[error("the injector has stopped")]
    Stopped,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct InjectorStats {
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Their payload bytes.
    pub sent_bytes: u64,
    /// System calls that sent something.
    pub batches: u64,
    /// Of `sent`, those more than a millisecond after their time.
    pub late: u64,
    /// Dropped because they were too late to be sent.
    pub dropped_late: u64,
    /// Refused because the queue was full.
    pub dropped_full: u64,
    /// Dropped because they came due while paused.
    pub dropped_paused: u64,
    /// Still waiting when the injector stopped.
    pub dropped_stopped: u64,
    /// Not sent because the kernel refused.
    pub errors: u64,
    /// Waiting now.
    pub waiting: u64,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    batches: AtomicU64,
    late: AtomicU64,
    dropped_late: AtomicU64,
    dropped_full: AtomicU64,
    dropped_paused: AtomicU64,
    dropped_stopped: AtomicU64,
    errors: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    arrived: Vec<Datagram>,
    free: Vec<Vec<u8>>,
    stopped: bool,
}

struct Shared {
    inbox: Mutex<Inbox>,
    /// Changes with every event for the thread; what it sleeps on.
    word: AtomicU32,
    /// When the thread will wake by itself; 0 while it is awake.
    wakes_at: AtomicU64,
    waiting: AtomicUsize,
    paused: AtomicBool,
    stop: AtomicBool,
    drop_capabilities: AtomicBool,
    counts: Counts,
    lateness: Mutex<Histogram<u64>>,
}

impl Shared {
    /// Tells the thread that something changed; wakes it when it sleeps past `at`.
    ///
    /// The thread publishes `wakes_at` before it sleeps, and the kernel compares `word` when it goes to sleep: either it sees
    /// the changed word and does not sleep, or it went to sleep before the change and `wakes_at` is current.
    fn notify(&self, at: Nanos) {
        self.word.fetch_add(1, Ordering::SeqCst);
        if at.0 < self.wakes_at.load(Ordering::SeqCst) {
            sys_net::wake(&self.word);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks can leave them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handle of the injector thread. Dropping it stops the thread.
pub struct Injector {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    queue: usize,
    realtime: bool,
}

impl fmt::Debug for Injector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injector")
            .field("stats", &self.stats())
            .field("realtime", &self.realtime)
            .finish_non_exhaustive()
    }
}

impl Injector {
    /// Starts the thread. Without permission for real-time scheduling it runs as an ordinary thread and says so once.
    ///
    /// # Errors
    /// What the system says when no thread can be made.
    pub fn spawn(options: InjectorOptions) -> io::Result<Self> {
        let queue = options.queue.max(1);
        let shared = Arc::new(Shared {
            inbox: Mutex::new(Inbox {
                arrived: Vec::with_capacity(queue),
                free: Vec::with_capacity(queue),
                stopped: false,
            }),
            word: AtomicU32::new(0),
            wakes_at: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            drop_capabilities: AtomicBool::new(false),
            counts: Counts::default(),
            lateness: Mutex::new(new_histogram()),
        });
        let fifo = options.fifo;
        let mut worker = Worker::new(options, queue, Arc::clone(&shared));
        let (tell, told) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("chaff-injector".into())
            .stack_size(256 << 10)
            .spawn(move || {
                let realtime = if fifo {
                    sys_net::make_realtime(PRIORITY)
                } else {
                    Ok(())
                };
                sys_net::wake_precisely();
                let _ = tell.send(realtime);
                worker.run();
            })?;
        let realtime = match told.recv() {
            Ok(Ok(())) => fifo,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cover is sent without real-time priority; under load it will be late");
                false
            }
            Err(_) => return Err(io::Error::other("the injector thread ended at its start")),
        };
        Ok(Self {
            shared,
            thread: Some(thread),
            queue,
            realtime,
        })
    }

    /// Queues a copy of `bytes` for `at`. Past times are sent at once, if not too late.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn submit(&self, at: Nanos, bytes: &[u8]) -> Result<(), SubmitError> {
        if bytes.len() > MAX_PAYLOAD {
            return Err(SubmitError::TooLong(bytes.len()));
        }
        {
            let mut inbox = lock(&self.shared.inbox);
            if inbox.stopped {
                return Err(SubmitError::Stopped);
            }
            if self.shared.waiting.load(Ordering::Relaxed) >= self.queue {
                drop(inbox);
                self.shared
                    .counts
                    .dropped_full
                    .fetch_add(1, Ordering::Relaxed);
                return Err(SubmitError::Full);
            }
            let mut buffer = inbox.free.pop().unwrap_or_default();
            buffer.clear();
            buffer.extend_from_slice(bytes);
            inbox.arrived.push(Datagram { at, bytes: buffer });
            self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        }
        self.shared.notify(at);
        Ok(())
    }

    /// While paused, datagrams that come due are dropped and counted, so nothing is caught up afterwards.
    pub fn pause(&self) {
        self.shared.paused.store(true, Ordering::SeqCst);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.shared.paused.load(Ordering::SeqCst)
    }

    /// Whether the thread has real-time priority.
    pub fn is_realtime(&self) -> bool {
        self.realtime
    }

    /// Makes the thread give up its own capabilities, and waits until it did (at most a second).
    ///
    /// Changing the process's user does that already; this is for a process that started without root. See
    /// [`chaff_confine::privileges`] for the order.
    pub fn drop_capabilities(&self) -> bool {
        self.shared.drop_capabilities.store(true, Ordering::SeqCst);
        self.shared.notify(Nanos::ZERO);
        let deadline = monotonic_now() + Nanos::from_secs(1);
        while self.shared.drop_capabilities.load(Ordering::SeqCst) {
            if monotonic_now() >= deadline {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    /// Counts up to now.
    pub fn stats(&self) -> InjectorStats {
        stats(&self.shared)
    }

    /// Lateness of every sent datagram in nanoseconds: time of the system call minus due time.
    pub fn lateness(&self) -> Histogram<u64> {
        lock(&self.shared.lateness).clone()
    }

    /// Ends the thread; what still waits is dropped and counted.
    pub fn stop(mut self) -> InjectorStats {
        self.end();
        self.stats()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.notify(Nanos::ZERO);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the injector thread panicked");
        }
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        self.end();
    }
}

fn stats(shared: &Shared) -> InjectorStats {
    let c = &shared.counts;
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
        waiting: shared.waiting.load(Ordering::Relaxed) as u64,
    }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENESS, 2).expect("the bounds are constants in range")
}

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
struct Worker {
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
    fn new(options: InjectorOptions, queue: usize, shared: Arc<Shared>) -> Self {
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

    fn run(&mut self) {
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
            if monotonic_now() < wake_at {
                self.sleep(word, Some(wake_at));
            } else {
                while monotonic_now() < next && self.shared.word.load(Ordering::Relaxed) == word {
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
        let now = monotonic_now();
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
            let at_call = monotonic_now();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys_net::open_cover_socket;

    fn pair() -> (InjectorOptions, UdpSocket) {
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let local = "127.0.0.1:0".parse().unwrap();
        let socket = open_cover_socket(local, sink.local_addr().unwrap(), 0).unwrap();
        (InjectorOptions::new(socket), sink)
    }

    fn receive(sink: &UdpSocket) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let n = sink.recv(&mut buffer).unwrap();
        buffer[..n].to_vec()
    }

    #[test]
    fn sends_in_order_of_due_time_and_never_early() {
        let (options, sink) = pair();
        let injector = Injector::spawn(options).unwrap();
        let start = monotonic_now() + Nanos::from_millis(20);
        // The first to arrive is the last due: each later submission must wake the sleeping thread for itself.
        for i in (0..10u8).rev() {
            let at = start + Nanos::from_millis(u64::from(i) * 2);
            injector.submit(at, &[i; 40]).unwrap();
        }
        for i in 0..10u8 {
            assert_eq!(receive(&sink), vec![i; 40]);
            assert!(monotonic_now() >= start + Nanos::from_millis(u64::from(i) * 2));
        }
        // Counted only after the call returns, so stop first.
        let stats = injector.stop();
        assert_eq!(
            (stats.sent, stats.sent_bytes, stats.waiting, stats.errors),
            (10, 400, 0, 0)
        );
    }

    #[test]
    fn an_earlier_datagram_wakes_a_long_sleep() {
        let (options, sink) = pair();
        let injector = Injector::spawn(options).unwrap();
        injector
            .submit(monotonic_now() + Nanos::from_secs(3600), b"later")
            .unwrap();
        injector.submit(monotonic_now(), b"now").unwrap();
        assert_eq!(receive(&sink), b"now");
        let stats = injector.stop();
        assert_eq!(
            (stats.sent, stats.dropped_stopped, stats.waiting),
            (1, 1, 0)
        );
    }

    #[test]
    fn what_is_too_late_is_dropped_and_not_burst_out() {
        let (mut options, _sink) = pair();
        options.max_batch = 4;
        let injector = Injector::spawn(options).unwrap();
        let now = monotonic_now();
        for _ in 0..50 {
            injector
                .submit(now - Nanos::from_secs(2), b"stale")
                .unwrap();
        }
        for _ in 0..20 {
            injector
                .submit(now - Nanos::from_millis(5), b"backlog")
                .unwrap();
        }
        while injector.stats().waiting > 0 {
            thread::yield_now();
        }
        let took = monotonic_now() - now;
        let lateness = injector.lateness();
        let stats = injector.stop();
        assert_eq!((stats.dropped_late, stats.sent, stats.late), (50, 20, 20));
        assert!(stats.batches >= 5, "{stats:?}");
        // Four datagrams per window: the fifth window starts at least four after the first.
        assert!(took >= WINDOW.times(4), "{took}");
        assert_eq!(lateness.len(), 20);
        assert!(lateness.min() >= 4_900_000);
    }

    #[test]
    fn a_full_queue_refuses_and_counts() {
        let (mut options, _sink) = pair();
        options.queue = 3;
        let injector = Injector::spawn(options).unwrap();
        let at = monotonic_now() + Nanos::from_secs(60);
        for _ in 0..3 {
            injector.submit(at, b"x").unwrap();
        }
        assert_eq!(injector.submit(at, b"x"), Err(SubmitError::Full));
        assert_eq!(
            injector.submit(at, &[0; 65_508]),
            Err(SubmitError::TooLong(65_508))
        );
        let stats = injector.stop();
        assert_eq!((stats.dropped_full, stats.dropped_stopped), (1, 3));
    }

    #[test]
    fn a_pause_drops_what_comes_due_and_ends() {
        let (options, sink) = pair();
        let injector = Injector::spawn(options).unwrap();
        injector.pause();
        for _ in 0..5 {
            injector.submit(monotonic_now(), b"hidden").unwrap();
        }
        while injector.stats().dropped_paused < 5 {
            thread::yield_now();
        }
        injector.resume();
        injector.submit(monotonic_now(), b"seen").unwrap();
        assert_eq!(receive(&sink), b"seen");
        assert!(!injector.is_paused());
    }

    #[test]
    fn a_closed_sink_is_an_error_count_and_nothing_more() {
        let (options, sink) = pair();
        drop(sink);
        let injector = Injector::spawn(options).unwrap();
        for i in 0..20 {
            let at = monotonic_now() + Nanos::from_millis(i);
            injector.submit(at, b"nobody there").unwrap();
        }
        while injector.stats().waiting > 0 {
            thread::yield_now();
        }
        let stats = injector.stop();
        assert_eq!(stats.sent + stats.errors, 20, "{stats:?}");
        assert!(stats.errors > 0);
    }

    #[test]
    fn many_submitters_lose_nothing() {
        let (mut options, _sink) = pair();
        options.queue = 10_000;
        let injector = Injector::spawn(options).unwrap();
        thread::scope(|scope| {
            for t in 0..4u64 {
                let injector = &injector;
                scope.spawn(move || {
                    for i in 0..500u64 {
                        let at = monotonic_now() + Nanos::from_micros((i * 7919 + t) % 20_000);
                        injector.submit(at, &[t as u8; 24]).unwrap();
                    }
                });
            }
        });
        // Counted here and not at the sink, whose buffer may overflow on a busy machine.
        while injector.stats().waiting > 0 {
            thread::yield_now();
        }
        let stats = injector.stop();
        assert_eq!((stats.sent, stats.sent_bytes), (2000, 48_000));
    }
}
