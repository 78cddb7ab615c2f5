//! The thread that reads the kernel's flow maps and rings, so that a flood of flows keeps nobody else waiting.
//!
//! It hands over small batches through a queue of bounded length. When the queue is full it waits, and meanwhile the kernel
//! counts on: first in the maps, then in the ring, then as overflow. So no packet is unaccounted for, whatever the load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use chaff_abi::{DirectRecord, FlowKey, FlowValue, HintHeader, Nanos};
use chaff_sys::clock::monotonic;
use tokio::sync::mpsc as queue;

use crate::datapath::{Meter, MeterError};

/// Batches that wait at most: 8 MiB of flows.
const QUEUE: usize = 64;
/// Flows a batch, 552 bytes each.
const FLOWS: usize = 256;
/// Single packets a batch.
const RECORDS: usize = 1_024;
/// Copies of first packets a batch, 2 KiB each at most: 2 MiB wait at most.
const HINTS: usize = 16;
/// Time between two looks at the rings.
const RINGS: Duration = Duration::from_millis(100);
/// The same while the ring of single packets fills.
const RINGS_BUSY: Duration = Duration::from_millis(5);
/// Single packets that make a ring busy.
const BUSY: u64 = 1_000;
/// Least time between two drains while the kernel's map is full.
const FULL_DRAIN: Nanos = Nanos::from_millis(250);

/// What was read, oldest first.
pub(super) enum Batch {
    /// Packets for which the kernel's map had no room.
    Records(Vec<DirectRecord>),
    /// Counts of flows since they were last read.
    Flows(Vec<(FlowKey, FlowValue)>),
    /// Copies of first packets.
    Hints(Vec<(HintHeader, Box<[u8]>)>),
    /// Whatever was counted or copied until then has been handed over.
    Drained(Nanos),
}

/// The meter as the thread left it.
pub(super) struct Ended {
    /// Detached; its maps are empty.
    pub(super) meter: Meter,
    /// How detaching went.
    pub(super) stopped: Result<(), MeterError>,
}

/// The thread, seen from the loop.
pub(super) struct Feed {
    batches: queue::Receiver<Batch>,
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Option<Ended>>,
    errors: Arc<AtomicU64>,
}

impl Feed {
    /// Starts reading: the rings often, the maps every `interval`. When the feed is dropped the programs stay attached.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn start(meter: Meter, interval: Nanos) -> anyhow::Result<Self> {
        let (sender, batches) = queue::channel(QUEUE);
        let (stop, stopped) = mpsc::channel();
        let errors = Arc::<AtomicU64>::default();
        let reader = Reader {
            meter,
            batches: sender,
            errors: errors.clone(),
        };
        let thread = thread::Builder::new()
            .name("flows".into())
            .spawn(move || reader.run(interval, &stopped))
            .context("while starting the thread that reads flows")?;
        Ok(Self {
            batches,
            stop,
            thread,
            errors,
        })
    }

    /// The next batch; `None` when the thread has ended. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }

    /// Failures to read the maps.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Asks the thread to detach the programs, read what is left, and end: batches come until [`Feed::next`] says `None`.
    pub(super) fn stop(&self) {
        // It may have ended already.
        let _ = self.stop.send(());
    }

    /// What the thread left, once it has ended.
    ///
    /// # Errors
    /// It was not asked to stop.
    pub(super) fn join(self) -> anyhow::Result<Ended> {
        match self.thread.join() {
            Ok(ended) => ended.context("the thread that reads flows was not stopped"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// The thread itself.
struct Reader {
    meter: Meter,
    batches: queue::Sender<Batch>,
    errors: Arc<AtomicU64>,
}

impl Reader {
    fn run(mut self, interval: Nanos, stopped: &mpsc::Receiver<()>) -> Option<Ended> {
        let mut last = monotonic();
        let mut next = last + interval;
        let mut rest = RINGS;
        loop {
            let until_drain = Duration::from_nanos(next.since(monotonic()).0);
            match stopped.recv_timeout(rest.min(until_drain)) {
                Ok(()) => break,
                // The loop is gone without a word: what is pinned stays for the next gateway.
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => (),
            }
            let records = self.records();
            rest = if records >= BUSY { RINGS_BUSY } else { RINGS };
            if records > 0 {
                // The map is full: sooner than planned, so that a flood finds room again.
                next = next.min(last + FULL_DRAIN);
            }
            self.hints();
            let now = monotonic();
            if now >= next {
                (last, next) = (now, now + interval);
                self.drain();
            }
        }
        // From here on nothing is counted: what the kernel has is all there is.
        let stopped = self.meter.stop_counting();
        // One drain a generation.
        self.drain();
        self.drain();
        Some(Ended {
            meter: self.meter,
            stopped,
        })
    }

    /// Single packets; returns how many.
    fn records(&mut self) -> u64 {
        let mut full = Chunks::new(RECORDS, Batch::Records, &self.batches);
        let n = self.meter.poll_records(|record| full.push(record));
        full.finish();
        n
    }

    fn hints(&mut self) {
        let mut full = Chunks::new(HINTS, Batch::Hints, &self.batches);
        self.meter
            .poll_hints(|header, bytes| full.push((header, bytes.into())));
        full.finish();
    }

    /// Everything that the kernel has. After an error what was not moved stays for a later drain.
    fn drain(&mut self) {
        let now = monotonic();
        self.records();
        let mut full = Chunks::new(FLOWS, Batch::Flows, &self.batches);
        let drained = self.meter.drain(|key, value| full.push((key, value)));
        full.finish();
        if let Err(e) = drained
            && self.errors.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!(error = %e, "cannot read the flow maps; further failures are only counted");
        }
        self.hints();
        send(&self.batches, Batch::Drained(now));
    }
}

/// Waits for room. Nobody takes batches any more only when the process ends.
fn send(batches: &queue::Sender<Batch>, batch: Batch) {
    let _gone = batches.blocking_send(batch);
}

/// Cuts items into batches.
struct Chunks<'a, T> {
    items: Vec<T>,
    most: usize,
    batch: fn(Vec<T>) -> Batch,
    batches: &'a queue::Sender<Batch>,
}

impl<'a, T> Chunks<'a, T> {
    fn new(most: usize, batch: fn(Vec<T>) -> Batch, batches: &'a queue::Sender<Batch>) -> Self {
        Self {
            items: Vec::new(),
            most,
            batch,
            batches,
        }
    }

    fn push(&mut self, item: T) {
        self.items.push(item);
        if self.items.len() >= self.most {
            let room = Vec::with_capacity(self.most);
            send(
                self.batches,
                (self.batch)(std::mem::replace(&mut self.items, room)),
            );
        }
    }

    fn finish(self) {
        if !self.items.is_empty() {
            send(self.batches, (self.batch)(self.items));
        }
    }
}
