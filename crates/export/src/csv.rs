use std::io;

use chaff_flow::text::{Style, push_cell, quote};
use chaff_flow::{Column, Value};

use crate::lines::Lines;
use crate::{Output, Target, check_row};

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
    lines: Lines<T>,
    columns: usize,
    style: Style,
    line_end: &'static [u8],
}

impl<T: Target> Csv<T> {
    /// Writes the header line, at the latest with the first flows.
    pub fn new(out: T, columns: &[Column], dialect: Dialect) -> Self {
        let (style, line_end): (_, &[u8]) = match dialect {
            Dialect::Native => (Style::Native, b"\n"),
            Dialect::NfStream => (Style::Python, b"\r\n"),
        };
        let mut csv = Self {
            lines: Lines::new(out),
            columns: columns.len(),
            style,
            line_end,
        };
        for (i, column) in columns.iter().enumerate() {
            if i > 0 {
                csv.lines.buffer.push(b',');
            }
            let from = csv.lines.buffer.len();
            csv.lines.buffer.extend_from_slice(column.name.as_bytes());
            quote(&mut csv.lines.buffer, from);
        }
        csv.lines.buffer.extend_from_slice(line_end);
        csv
    }
}

impl<T: Target> Output for Csv<T> {
    fn write(&mut self, row: &[Value]) -> io::Result<()> {
        check_row(row, self.columns)?;
        for (i, value) in row.iter().enumerate() {
            if i > 0 {
                self.lines.buffer.push(b',');
            }
            push_cell(&mut self.lines.buffer, value, self.style);
        }
        self.lines.buffer.extend_from_slice(self.line_end);
        self.lines.end_line()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lines.flush()
    }

    fn bytes(&self) -> u64 {
        self.lines.bytes()
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.lines.finish()
    }
}
