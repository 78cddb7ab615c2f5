//! A source that is read in a thread of its own, ahead of the meter.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use chaff_abi::Nanos;
use chaff_trace::Frame;

use super::input::{Event, Input, Source};

/// Bytes of frames a batch.
const BYTES: usize = 256 << 10;
/// Batches that wait for the meter; more, and the reader waits.
const QUEUE: usize = 4;

/// Frames in order.
#[derive(Default)]
struct Batch {
    frames: Vec<(Frame, Range<usize>)>,
    bytes: Vec<u8>,
    /// What came behind them.
    quiet: Option<Nanos>,
    /// What was read up to here.
    inputs: Vec<Input>,
}

/// See the module. Its frames are those of the inner source, in its order.
pub struct Ahead {
    receiver: Receiver<Batch>,
    back: SyncSender<Batch>,
    batch: Batch,
    next: usize,
    inputs: Vec<Input>,
    position: Arc<AtomicU64>,
}

impl Ahead {
    /// Starts reading.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(mut source: Box<dyn Source>) -> io::Result<Self> {
        let position = source.position();
        let (sender, receiver) = sync_channel(QUEUE);
        let (back, empty) = sync_channel::<Batch>(QUEUE + 2);
        // It ends when nobody takes its batches; it may wait in a read for ever, so nobody waits for it.
        std::thread::Builder::new()
            .name("reader".into())
            .spawn(move || {
                loop {
                    let mut batch = empty.try_recv().unwrap_or_default();
                    let has_more = fill(&mut batch, source.as_mut());
                    if sender.send(batch).is_err() || !has_more {
                        return;
                    }
                }
            })?;
        Ok(Self {
            receiver,
            back,
            batch: Batch::default(),
            next: 0,
            inputs: Vec::new(),
            position,
        })
    }

    /// Takes the next batch; false at the end.
    fn take(&mut self) -> bool {
        let Ok(batch) = self.receiver.recv() else {
            return false;
        };
        let old = std::mem::replace(&mut self.batch, batch);
        // Full only when the reader has ended.
        let _ = self.back.try_send(old);
        self.inputs.clone_from(&self.batch.inputs);
        self.next = 0;
        true
    }
}

fn fill(batch: &mut Batch, source: &mut dyn Source) -> bool {
    batch.frames.clear();
    batch.bytes.clear();
    batch.quiet = None;
    let has_more = loop {
        match source.next() {
            Event::Frame(frame, bytes) => {
                let start = batch.bytes.len();
                batch.bytes.extend_from_slice(bytes);
                batch.frames.push((frame, start..batch.bytes.len()));
                if batch.bytes.len() >= BYTES || batch.frames.len() >= BYTES / 64 {
                    break true;
                }
            }
            Event::Quiet(at) => {
                batch.quiet = Some(at);
                break true;
            }
            Event::End => break false,
        }
    };
    batch.inputs = source.inputs();
    has_more
}

impl Source for Ahead {
    fn next(&mut self) -> Event<'_> {
        while self.next >= self.batch.frames.len() {
            if let Some(at) = self.batch.quiet.take() {
                return Event::Quiet(at);
            }
            if !self.take() {
                return Event::End;
            }
        }
        self.next += 1;
        match self.batch.frames.get(self.next - 1) {
            Some((frame, range)) => {
                Event::Frame(*frame, self.batch.bytes.get(range.clone()).unwrap_or(&[]))
            }
            None => Event::End,
        }
    }

    fn inputs(&mut self) -> Vec<Input> {
        let ahead = self.batch.frames.len() - self.next.min(self.batch.frames.len());
        let mut inputs = self.inputs.clone();
        // Frames that were read and not asked for were not seen by the meter, if it stops here.
        if let Some(last) = inputs.last_mut() {
            last.packets = last.packets.saturating_sub(ahead as u64);
        }
        inputs
    }

    fn position(&self) -> Arc<AtomicU64> {
        self.position.clone()
    }
}
