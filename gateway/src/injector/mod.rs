//! Sends cover at exact times, on a thread of its own.
//!
//! The engine plans dummies ahead; [`Injector::submit`] hands them over with their due time on the monotonic clock.
//! The thread sleeps until the earliest (absolute deadline, woken by a futex when something earlier arrives), then
//! sends what is due in one system call. It takes no lock that it would have to wait for, opens nothing, and in steady
//! state allocates nothing: buffers go round.
//!
//! Being late never becomes a burst: at most [`InjectorOptions::max_batch`] datagrams leave per millisecond, and what is
//! more than [`InjectorOptions::drop_after`] late is dropped and counted.

mod shared;
#[cfg(test)]
mod tests;
mod worker;

use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use chaff_abi::Nanos;
use chaff_sys::clock::monotonic;
use chaff_sys::thread::{make_realtime, wake_precisely};
use hdrhistogram::Histogram;

use self::shared::{Counts, Inbox, Shared, lock, new_histogram};
use self::worker::Worker;
use crate::sys_net::MAX_BATCH;

/// Above ordinary processes, below the kernel's interrupt threads (50).
const PRIORITY: i32 = 10;
/// Largest UDP payload; more cannot be sent.
const MAX_PAYLOAD: usize = 65_507;

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
                    make_realtime(PRIORITY)
                } else {
                    Ok(())
                };
                wake_precisely();
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
        let deadline = monotonic() + Nanos::from_secs(1);
        while self.shared.drop_capabilities.load(Ordering::SeqCst) {
            if monotonic() >= deadline {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    /// Counts up to now.
    pub fn stats(&self) -> InjectorStats {
        self.shared.stats()
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
