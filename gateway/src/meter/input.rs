//! Where frames come from.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chaff_abi::Nanos;
use chaff_trace::{Frame, Reader, TraceError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

/// How often a wait for a pipe looks whether it shall end, ms.
const PATIENCE_MS: u16 = 100;

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

    /// Index of the input of the frame that [`Source::next`] gave last, and [`Input::bytes`] of it up to this frame.
    fn place(&self) -> (usize, u64);

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

/// Captures that are read one after another, as if they were one, until the last one ends or somebody says stop.
pub struct Captures {
    waiting: std::vec::IntoIter<PathBuf>,
    reader: Option<Reader<Counted>>,
    done: Vec<Input>,
    current: Input,
    position: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// Frames that may still be given.
    left: u64,
}

impl Captures {
    /// Nothing is opened yet. The source ends after `max_packets` frames, and soon after `stop` is set, also while it
    /// waits for a pipe.
    pub fn new(paths: Vec<PathBuf>, stop: Arc<AtomicBool>, max_packets: Option<u64>) -> Self {
        Self {
            waiting: paths.into_iter(),
            reader: None,
            done: Vec::new(),
            current: Input::default(),
            position: Arc::default(),
            stop,
            left: max_packets.unwrap_or(u64::MAX),
        }
    }

    /// Opens the first capture and reads its header, for which a pipe is waited for.
    ///
    /// # Errors
    /// What is wrong with it, with its name.
    pub fn open_first(&mut self) -> Result<(), String> {
        self.open();
        match self.done.first() {
            Some(Input {
                name,
                error: Some(error),
                ..
            }) => Err(format!("{name}: {error}")),
            _ => Ok(()),
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
        let counted = opened.map(|(file, waits)| Counted {
            file,
            waits,
            stop: self.stop.clone(),
            position: self.position.clone(),
        });
        match counted.and_then(|file| Reader::new(file).map_err(|e| explain(&e))) {
            Ok(reader) => self.reader = Some(reader),
            Err(e) => self.close(Some(e)),
        }
        true
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn close(&mut self, error: Option<String>) {
        let mut input = std::mem::take(&mut self.current);
        if let Some(reader) = self.reader.take() {
            input.bytes = reader.offset();
        }
        // Whoever stopped in the middle of a packet did no damage.
        input.error = error.filter(|_| !self.is_stopped());
        self.done.push(input);
    }
}

impl Source for Captures {
    fn next(&mut self) -> Event<'_> {
        if self.left == 0 || self.is_stopped() {
            return Event::End;
        }
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
                self.left -= 1;
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

    fn place(&self) -> (usize, u64) {
        (
            self.done.len(),
            self.reader.as_ref().map_or(0, Reader::offset),
        )
    }

    fn position(&self) -> Arc<AtomicU64> {
        self.position.clone()
    }
}

/// Counts what is read, and ends when somebody says stop.
struct Counted {
    file: File,
    /// A read can wait for ever: it is no file on a disk.
    waits: bool,
    stop: Arc<AtomicBool>,
    position: Arc<AtomicU64>,
}

impl Counted {
    /// Waits until there is something to read; false when it shall end.
    fn wait(&self) -> io::Result<bool> {
        while !self.stop.load(Ordering::Relaxed) {
            if !self.waits {
                return Ok(true);
            }
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PATIENCE_MS) {
                Ok(0) | Err(Errno::EINTR) => (),
                Ok(_) => return Ok(true),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(false)
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.wait()? {
            match self.file.read(buffer) {
                // Another reader of the pipe was faster.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => (),
                Err(e) => return Err(e),
                Ok(n) => {
                    self.position.fetch_add(n as u64, Ordering::Relaxed);
                    return Ok(n);
                }
            }
        }
        Ok(0)
    }
}

/// Opens an input without waiting for anything; tells whether reading it can wait.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let file = if is_dash(path) {
        // Not through the buffer of `io::Stdin`: what waits there cannot be polled.
        File::from(io::stdin().as_fd().try_clone_to_owned()?)
    } else if fs::metadata(path)?.file_type().is_fifo() {
        // Else opening waits until somebody writes, and no signal ends that.
        File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?
    } else {
        File::open(path)?
    };
    let waits = !file.metadata()?.is_file();
    Ok((file, waits))
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
