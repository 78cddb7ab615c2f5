use std::io;

use chaff_flow::text::{Style, push_cell, quote};
use chaff_flow::{Column, Value};

use crate::{Output, Target, check_row};

/// Handed to the target at once, bytes.
const CHUNK: usize = 64 << 10;

/// Which CSV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Lines end with LF, lists of numbers are separated by spaces, lists of texts are JSON arrays.
    Native,
    /// As NFStream 6.6.0 writes: Python's `csv` module with its defaults. Lines end with CRLF, floats and lists look as
    /// Python prints them.
    NfStream,
}

/// Comma-separated values: a header line, then one line a flow. A cell is quoted only when it has to be (RFC 4180);
/// [`Value::Missing`] is an empty cell.
pub struct Csv<T: Target> {
    out: T,
    buffer: Vec<u8>,
    columns: usize,
    style: Style,
    line_end: &'static [u8],
    written: u64,
}

impl<T: Target> Csv<T> {
    /// Writes the header line, at the latest with the first flows.
    pub fn new(out: T, columns: &[Column], dialect: Dialect) -> Self {
        let (style, line_end): (_, &[u8]) = match dialect {
            Dialect::Native => (Style::Native, b"\n"),
            Dialect::NfStream => (Style::Python, b"\r\n"),
        };
        let mut csv = Self {
            out,
            buffer: Vec::with_capacity(CHUNK + 4096),
            columns: columns.len(),
            style,
            line_end,
            written: 0,
        };
        for (i, column) in columns.iter().enumerate() {
            if i > 0 {
                csv.buffer.push(b',');
            }
            let from = csv.buffer.len();
            csv.buffer.extend_from_slice(column.name.as_bytes());
            quote(&mut csv.buffer, from);
        }
        csv.buffer.extend_from_slice(line_end);
        csv
    }

    fn hand_on(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl<T: Target> Output for Csv<T> {
    fn write(&mut self, row: &[Value]) -> io::Result<()> {
        check_row(row, self.columns)?;
        for (i, value) in row.iter().enumerate() {
            if i > 0 {
                self.buffer.push(b',');
            }
            push_cell(&mut self.buffer, value, self.style);
        }
        self.buffer.extend_from_slice(self.line_end);
        if self.buffer.len() >= CHUNK {
            self.hand_on()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hand_on()?;
        self.out.flush()
    }

    fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.hand_on()?;
        self.out.close()
    }
}
