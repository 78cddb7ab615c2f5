//! What outputs of lines share.

use std::io;

use crate::Target;

/// Handed to the target at once, bytes.
const CHUNK: usize = 64 << 10;

/// Text that is gathered and handed to a target in large pieces.
pub(crate) struct Lines<T: Target> {
    out: T,
    /// What was not handed on yet; lines are written here.
    pub(crate) buffer: Vec<u8>,
    written: u64,
}

impl<T: Target> Lines<T> {
    pub(crate) fn new(out: T) -> Self {
        Self {
            out,
            buffer: Vec::with_capacity(CHUNK + 4096),
            written: 0,
        }
    }

    /// A line is whole.
    pub(crate) fn end_line(&mut self) -> io::Result<()> {
        if self.buffer.len() >= CHUNK {
            self.hand_on()?;
        }
        Ok(())
    }

    fn hand_on(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.hand_on()?;
        self.out.flush()
    }

    /// Of all text so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.hand_on()?;
        self.out.close()
    }
}
