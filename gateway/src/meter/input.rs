//! Where frames come from.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chaff_abi::Nanos;
use chaff_trace::{Frame, Reader, TraceError};

/// What comes next.
#[derive(Debug)]
pub enum Event<'s> {
    /// A frame and its captured bytes.
    Frame(Frame, &'s [u8]),
    /// No frame for a while; all frames before this time were given. Only live.
    Quiet(Nanos),
    /// There will be none.
    End,
}

/// A stream of frames in the order in which they were read.
pub trait Source: Send {
    /// The next frame. Errors end an input, not the source, and are in [`Source::inputs`].
    fn next(&mut self) -> Event<'_>;

    /// What was read from each input so far.
    fn inputs(&mut self) -> Vec<Input>;

    /// Bytes of the inputs that were used up, packed as they are. For a progress bar.
    fn position(&self) -> Arc<AtomicU64>;
}

/// What was read from a file, a pipe or an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// Path, or what it is.
    pub name: String,
    /// Frames.
    pub packets: u64,
    /// Bytes after unpacking; live, of the frames.
    pub bytes: u64,
    /// Time of the first frame.
    pub first: Option<Nanos>,
    /// Latest time of a frame.
    pub last: Nanos,
    /// Frames that the kernel dropped because the meter was too slow. Only live.
    pub dropped: Option<u64>,
    /// Why it ended early.
    pub error: Option<String>,
}

impl Input {
    /// Counts a frame.
    #[inline]
    pub fn count(&mut self, at: Nanos) {
        self.packets += 1;
        self.first.get_or_insert(at);
        self.last = self.last.max(at);
    }
}

/// Captures that are read one after another, as if they were one.
pub struct Captures {
    waiting: std::vec::IntoIter<PathBuf>,
    reader: Option<Reader<Counted>>,
    done: Vec<Input>,
    current: Input,
    position: Arc<AtomicU64>,
}

impl Captures {
    /// Nothing is opened yet.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            waiting: paths.into_iter(),
            reader: None,
            done: Vec::new(),
            current: Input::default(),
            position: Arc::default(),
        }
    }

    /// Opens the next capture; false when there is none.
    fn open(&mut self) -> bool {
        let Some(path) = self.waiting.next() else {
            return false;
        };
        self.current = Input {
            name: name(&path),
            ..Input::default()
        };
        let opened = open(&path).map_err(|e| e.to_string());
        let counted = opened.map(|input| Counted {
            input,
            position: self.position.clone(),
        });
        match counted.and_then(|file| Reader::new(file).map_err(|e| explain(&e))) {
            Ok(reader) => self.reader = Some(reader),
            Err(e) => self.close(Some(e)),
        }
        true
    }

    fn close(&mut self, error: Option<String>) {
        let mut input = std::mem::take(&mut self.current);
        if let Some(reader) = self.reader.take() {
            input.bytes = reader.offset();
        }
        input.error = error;
        self.done.push(input);
    }
}

impl Source for Captures {
    fn next(&mut self) -> Event<'_> {
        loop {
            while self.reader.is_none() {
                if !self.open() {
                    return Event::End;
                }
            }
            // The borrow of a frame that is returned lasts as long as that of `self`, so it is asked for last.
            let error = match self.reader.as_mut().map(Reader::advance) {
                Some(Ok(true)) => break,
                Some(Err(e)) => Some(explain(&e)),
                _ => None,
            };
            self.close(error);
        }
        match self.reader.as_ref().and_then(Reader::current) {
            Some((frame, bytes)) => {
                self.current.count(frame.at);
                Event::Frame(frame, bytes)
            }
            None => Event::End,
        }
    }

    fn inputs(&mut self) -> Vec<Input> {
        let mut inputs = self.done.clone();
        if let Some(reader) = &self.reader {
            inputs.push(Input {
                bytes: reader.offset(),
                ..self.current.clone()
            });
        }
        inputs
    }

    fn position(&self) -> Arc<AtomicU64> {
        self.position.clone()
    }
}

/// Counts what is read.
struct Counted {
    input: Box<dyn Read + Send>,
    position: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.position.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    if is_dash(path) {
        Ok(Box::new(io::stdin()))
    } else {
        Ok(Box::new(File::open(path)?))
    }
}

/// Whether it means standard input or output.
pub fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn name(path: &Path) -> String {
    if is_dash(path) {
        "standard input".into()
    } else {
        path.display().to_string()
    }
}

/// An error with its causes in one line.
pub fn explain(error: &TraceError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}
