//! The loop from frames to rows, in one thread or in three.
//!
//! Alone: `source → filter → meter → rows → output`. With two threads the rows are made and written in the second one,
//! with three the source is read in the third one. Either way the order is that of one thread, and so is every byte that is
//! written: threads hand batches over in order, and no thread does the work of another.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chaff_abi::Nanos;
use chaff_export::{Anonymizer, Output};
use chaff_flow::{Link, Value};

use super::filter::Filter;
use super::input::{Event, Source};
use super::libpcap::FilterError;
use super::profile::{Flow, Meter, RowMaker};
use crate::processes::Processes;

/// Flows a batch.
const BATCH: usize = 256;
/// Batches that wait for the writer; more, and the meter waits.
const QUEUE: usize = 8;
/// Live rows reach the output at the latest after this time.
const FLUSH: Duration = Duration::from_secs(1);

/// Why the loop stopped early.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The output takes no more.
    #[error(transparent)]
    Output(#[from] io::Error),
    /// The filter cannot be compiled for frames of this kind.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// What was counted on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came in.
    pub packets_in: u64,
    /// Frames that the filter kept out.
    pub filtered: u64,
    /// Flows written.
    pub flows: u64,
    /// Packets in them.
    pub flow_packets: u64,
    /// Whether it stopped at the limit of flows, with others in progress.
    pub stopped_at_limit: bool,
    /// Numbers of the first link types that are not read.
    pub unread_links: [Option<u32>; 4],
}

impl Counts {
    #[cold]
    fn note_link(&mut self, number: u32) {
        let slot = self
            .unread_links
            .iter_mut()
            .find(|n| n.is_none_or(|n| n == number));
        if let Some(slot) = slot {
            *slot = Some(number);
        }
    }
}

/// Flows on their way to the output.
pub struct Rows {
    maker: RowMaker,
    anonymizer: Option<Anonymizer>,
    output: Box<dyn Output>,
    row: Vec<Value>,
    now: Nanos,
    flows: u64,
    packets: u64,
}

impl Rows {
    /// Nothing is written yet.
    pub fn new(maker: RowMaker, anonymizer: Option<Anonymizer>, output: Box<dyn Output>) -> Self {
        Self {
            maker,
            anonymizer,
            output,
            row: Vec::new(),
            now: Nanos::ZERO,
            flows: 0,
            packets: 0,
        }
    }

    fn time(&mut self, now: Nanos) -> io::Result<()> {
        if now > self.now {
            self.now = now;
            self.output.time(now)?;
        }
        Ok(())
    }

    fn write(&mut self, now: Nanos, flow: &Flow) -> io::Result<()> {
        self.time(now)?;
        self.maker.fill(flow, &mut self.row);
        if let Some(anonymizer) = &mut self.anonymizer {
            anonymizer.apply(&mut self.row);
        }
        self.flows += 1;
        self.packets += flow.packets();
        self.output.write(&self.row)
    }

    fn finish(self, counts: &mut Counts) -> io::Result<()> {
        counts.flows = self.flows;
        counts.flow_packets = self.packets;
        self.output.finish()
    }
}

/// What the writer is told.
enum Message {
    Flows(Vec<(Nanos, Flow)>),
    /// It is this late: write out what waits.
    Flush(Nanos),
}

/// The way from the meter to the rows.
enum Way {
    Here(Box<Rows>),
    There(Writer),
}

/// The thread that makes rows and writes them.
struct Writer {
    batch: Vec<(Nanos, Flow)>,
    sender: SyncSender<Message>,
    /// Empty batches come back, so that none is made anew.
    empty: Receiver<Vec<(Nanos, Flow)>>,
    thread: JoinHandle<(Rows, io::Result<()>)>,
}

impl Writer {
    fn start(mut rows: Rows) -> io::Result<Self> {
        let (sender, receiver) = sync_channel::<Message>(QUEUE);
        let (back, empty) = sync_channel(QUEUE + 2);
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || {
                let done = receiver.iter().try_for_each(|message| match message {
                    Message::Flows(mut batch) => {
                        for (now, flow) in batch.drain(..) {
                            rows.write(now, &flow)?;
                        }
                        // Full only when nobody takes any: then it may go.
                        let _ = back.try_send(batch);
                        Ok(())
                    }
                    Message::Flush(now) => {
                        rows.time(now)?;
                        rows.output.flush()
                    }
                });
                (rows, done)
            })?;
        Ok(Self {
            batch: Vec::with_capacity(BATCH),
            sender,
            empty,
            thread,
        })
    }

    /// False when the writer has stopped, which it does for an error only.
    fn send(&mut self) -> bool {
        if self.batch.is_empty() {
            return true;
        }
        let empty = match self.empty.try_recv() {
            Ok(batch) => batch,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Vec::with_capacity(BATCH),
        };
        let batch = std::mem::replace(&mut self.batch, empty);
        self.sender.send(Message::Flows(batch)).is_ok()
    }

    fn join(self) -> (Rows, io::Result<()>) {
        drop(self.sender);
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// The writer has stopped; why, its thread tells.
struct Stopped;

/// Why the flows of a moment did not all go on.
enum Halt {
    Error(io::Error),
    Stopped,
}

impl From<Stopped> for Halt {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl Way {
    #[inline]
    fn take(&mut self, now: Nanos, flow: Flow) -> Result<(), Halt> {
        match self {
            Self::Here(rows) => rows.write(now, &flow).map_err(Halt::Error),
            Self::There(writer) => {
                writer.batch.push((now, flow));
                if writer.batch.len() >= BATCH && !writer.send() {
                    return Err(Stopped.into());
                }
                Ok(())
            }
        }
    }

    fn flush(&mut self, now: Nanos) -> Result<(), Halt> {
        match self {
            Self::Here(rows) => {
                rows.time(now).map_err(Halt::Error)?;
                rows.output.flush().map_err(Halt::Error)
            }
            Self::There(writer) => {
                if writer.send() && writer.sender.send(Message::Flush(now)).is_ok() {
                    Ok(())
                } else {
                    Err(Stopped.into())
                }
            }
        }
    }

    /// Writes the rest; `done` is how the loop ended.
    fn finish(self, done: Result<(), Halt>, counts: &mut Counts) -> io::Result<()> {
        let (rows, done) = match self {
            Self::Here(rows) => (*rows, done),
            Self::There(mut writer) => {
                // What it says of the failure comes from the thread.
                let _ = writer.send();
                let (rows, written) = writer.join();
                (rows, written.map_err(Halt::Error).and(done))
            }
        };
        match done {
            Ok(()) => rows.finish(counts),
            Err(Halt::Error(e)) => Err(e),
            Err(Halt::Stopped) => Err(io::Error::other("the writer stopped without a reason")),
        }
    }
}

/// Looks on: meter, counts so far, source.
pub type Watch<'p> = dyn FnMut(&Meter, &Counts, &mut dyn Source) + 'p;

/// What is done beside the metering.
pub struct Pipeline<'p> {
    /// Which frames are metered.
    pub filter: Option<Filter>,
    /// Stops after as many flows.
    pub max_flows: Option<u64>,
    /// Writes in a thread of its own.
    pub writer_thread: bool,
    /// Somebody waits for the rows: they reach the output within about a second.
    pub live: bool,
    /// Who tells whose socket a flow is.
    pub processes: Option<Processes>,
    /// Called now and then and in quiet moments, with what was counted so far.
    pub watch: Box<Watch<'p>>,
}

impl Pipeline<'_> {
    /// Runs until the source ends.
    ///
    /// # Errors
    /// The output fails, or the filter does not fit the frames.
    pub fn run(
        mut self,
        source: &mut dyn Source,
        meter: &mut Meter,
        rows: Rows,
    ) -> Result<Counts, PipelineError> {
        let mut way = if self.writer_thread {
            Way::There(Writer::start(rows)?)
        } else {
            Way::Here(Box::new(rows))
        };
        let mut counts = Counts::default();
        let mut wrong = None;
        let done = match self.pump(source, meter, &mut way, &mut counts) {
            Ok(()) => Ok(()),
            Err(End::Halt(halt)) => Err(halt),
            Err(End::Filter(e)) => {
                wrong = Some(e);
                Ok(())
            }
        };
        way.finish(done, &mut counts)?;
        match wrong {
            Some(e) => Err(e.into()),
            None => Ok(counts),
        }
    }

    fn pump(
        &mut self,
        source: &mut dyn Source,
        meter: &mut Meter,
        way: &mut Way,
        counts: &mut Counts,
    ) -> Result<(), End> {
        let mut now = Nanos::ZERO;
        let mut flushed = Instant::now();
        // Frames between two looks at the clock.
        let stride = if self.live { 256 } else { 8192 };
        loop {
            let mut is_quiet = false;
            match source.next() {
                Event::Frame(frame, bytes) => {
                    counts.packets_in += 1;
                    let bytes = meter.seen(&frame, bytes);
                    let is_wanted = match &mut self.filter {
                        Some(filter) => filter.accepts(frame.link, bytes, frame.wire_len)?,
                        None => true,
                    };
                    if is_wanted {
                        now = now.max(frame.at);
                        if let Link::Other(number) = frame.link {
                            counts.note_link(number);
                        }
                        meter.observe(&frame, bytes);
                    } else {
                        counts.filtered += 1;
                    }
                }
                Event::Quiet(at) => {
                    now = now.max(at);
                    meter.handle_timeout(now);
                    is_quiet = true;
                }
                Event::End => break,
            }
            self.drain(meter, way, counts, now)?;
            if counts.stopped_at_limit {
                return Ok(());
            }
            if is_quiet || counts.packets_in.is_multiple_of(stride) {
                (self.watch)(meter, counts, source);
                if self.live && flushed.elapsed() >= FLUSH {
                    flushed = Instant::now();
                    way.flush(now)?;
                }
            }
        }
        meter.finish(now);
        self.drain(meter, way, counts, now)
    }

    #[inline]
    fn drain(
        &self,
        meter: &mut Meter,
        way: &mut Way,
        counts: &mut Counts,
        now: Nanos,
    ) -> Result<(), End> {
        while let Some(mut flow) = meter.poll() {
            if let Some(processes) = &self.processes {
                flow.find_process(processes);
            }
            way.take(now, flow)?;
            counts.flows += 1;
            if self.max_flows.is_some_and(|max| counts.flows >= max) {
                counts.stopped_at_limit = true;
                break;
            }
        }
        Ok(())
    }
}

/// Why `pump` ended early.
enum End {
    Halt(Halt),
    Filter(FilterError),
}

impl From<Halt> for End {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

impl From<FilterError> for End {
    fn from(error: FilterError) -> Self {
        Self::Filter(error)
    }
}
