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
    frames: Vec<Held>,
    bytes: Vec<u8>,
    /// What came behind them.
    quiet: Option<Nanos>,
    /// What was read up to here.
    inputs: Vec<Input>,
}

/// A frame in a batch.
struct Held {
    frame: Frame,
    /// Where its bytes are in [`Batch::bytes`].
    bytes: Range<usize>,
    /// Of the source, up to this frame.
    place: (usize, u64),
}

/// See the module. Its frames are those of the inner source, in its order.
pub struct Ahead {
    receiver: Receiver<Batch>,
    back: SyncSender<Batch>,
    batch: Batch,
    next: usize,
    /// What was read before this batch.
    before: Vec<Input>,
    has_ended: bool,
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
            before: Vec::new(),
            has_ended: false,
            position,
        })
    }

    /// Takes the next batch; false at the end.
    fn take(&mut self) -> bool {
        let Ok(batch) = self.receiver.recv() else {
            return false;
        };
        let mut old = std::mem::replace(&mut self.batch, batch);
        self.before = std::mem::take(&mut old.inputs);
        // Full only when the reader has ended.
        let _ = self.back.try_send(old);
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
                let place = source.place();
                batch.frames.push(Held {
                    frame,
                    bytes: start..batch.bytes.len(),
                    place,
                });
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
                self.has_ended = true;
                return Event::End;
            }
        }
        self.next += 1;
        match self.batch.frames.get(self.next - 1) {
            Some(held) => {
                let bytes = self.batch.bytes.get(held.bytes.clone());
                Event::Frame(held.frame, bytes.unwrap_or(&[]))
            }
            None => Event::End,
        }
    }

    /// Frames that were read and not asked for were not seen by the meter, if it stops here: they do not count.
    fn inputs(&mut self) -> Vec<Input> {
        let mut inputs = self.batch.inputs.clone();
        if self.has_ended || self.batch.frames.is_empty() {
            return inputs;
        }
        let (seen, ahead) = self
            .batch
            .frames
            .split_at(self.next.min(self.batch.frames.len()));
        let Some((index, bytes)) = seen.last().map(|held| held.place) else {
            return self.before.clone();
        };
        inputs.truncate(index + 1);
        if let Some(input) = inputs.last_mut() {
            let of_input = |held: &&Held| held.place.0 == index;
            let before = self.before.get(index).map_or(Nanos::ZERO, |i| i.last);
            let times = seen.iter().filter(of_input).map(|held| held.frame.at);
            input.packets -= (ahead.iter().filter(of_input).count() as u64).min(input.packets);
            input.bytes = bytes;
            input.last = times.fold(before, Nanos::max);
            // What ended it, if anything, comes behind its last frame.
            input.error = None;
        }
        inputs
    }

    fn place(&self) -> (usize, u64) {
        let last = self
            .next
            .checked_sub(1)
            .and_then(|i| self.batch.frames.get(i));
        last.map_or((0, 0), |held| held.place)
    }

    fn position(&self) -> Arc<AtomicU64> {
        self.position.clone()
    }
}
