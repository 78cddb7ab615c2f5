use std::io;

use chaff_flow::text::{push_json, push_json_text};
use chaff_flow::{Column, Value};

use crate::{Output, Target, check_row};

/// Handed to the target at once, bytes.
const CHUNK: usize = 64 << 10;

/// One JSON object a line and flow, with all columns in order; [`Value::Missing`] is `null`.
pub struct JsonLines<T: Target> {
    out: T,
    buffer: Vec<u8>,
    /// `{"first":`, `,"second":`, ...
    names: Vec<Vec<u8>>,
    written: u64,
}

impl<T: Target> JsonLines<T> {
    /// An output without a line yet.
    pub fn new(out: T, columns: &[Column]) -> Self {
        let names = columns.iter().enumerate().map(|(i, column)| {
            let mut text = vec![if i == 0 { b'{' } else { b',' }];
            push_json_text(&mut text, &column.name);
            text.push(b':');
            text
        });
        Self {
            out,
            buffer: Vec::with_capacity(CHUNK + 4096),
            names: names.collect(),
            written: 0,
        }
    }

    fn hand_on(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl<T: Target> Output for JsonLines<T> {
    fn write(&mut self, row: &[Value]) -> io::Result<()> {
        check_row(row, self.names.len())?;
        for (name, value) in self.names.iter().zip(row) {
            self.buffer.extend_from_slice(name);
            push_json(&mut self.buffer, value);
        }
        self.buffer
            .extend_from_slice(if row.is_empty() { b"{}\n" } else { b"}\n" });
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
