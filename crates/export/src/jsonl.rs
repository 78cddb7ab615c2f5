use std::io;

use chaff_flow::text::{push_json, push_json_text};
use chaff_flow::{Column, Value};

use crate::lines::Lines;
use crate::{Output, Target, check_row};

/// One JSON object a line and flow, with all columns in order; [`Value::Missing`] is `null`.
pub struct JsonLines<T: Target> {
    lines: Lines<T>,
    /// `{"first":`, `,"second":`, ...
    names: Vec<Vec<u8>>,
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
            lines: Lines::new(out),
            names: names.collect(),
        }
    }
}

impl<T: Target> Output for JsonLines<T> {
    fn write(&mut self, row: &[Value]) -> io::Result<()> {
        check_row(row, self.names.len())?;
        for (name, value) in self.names.iter().zip(row) {
            self.lines.buffer.extend_from_slice(name);
            push_json(&mut self.lines.buffer, value);
        }
        self.lines
            .buffer
            .extend_from_slice(if row.is_empty() { b"{}\n" } else { b"}\n" });
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
