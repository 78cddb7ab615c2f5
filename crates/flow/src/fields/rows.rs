use std::io;

use super::FIELDS;
use crate::text::{Style, push_json, push_value};
use crate::{Record, Value};

impl Record {
    /// Names of [`FIELDS`] separated by commas, without line end.
    pub fn csv_header() -> String {
        let names: Vec<&str> = FIELDS.iter().map(|f| f.name).collect();
        names.join(",")
    }

    /// Writes one CSV line of [`FIELDS`]. No value of theirs ever needs quoting.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_csv(&self, out: &mut impl io::Write) -> io::Result<()> {
        let mut line = Vec::with_capacity(1024);
        for (i, field) in FIELDS.iter().enumerate() {
            if i > 0 {
                line.push(b',');
            }
            if let Some(put) = field.put {
                put(self, &mut line);
            }
        }
        line.push(b'\n');
        out.write_all(&line)
    }

    /// Writes one line with a JSON object of [`FIELDS`].
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, out: &mut impl io::Write) -> io::Result<()> {
        let mut line = Vec::with_capacity(2048);
        for (i, field) in FIELDS.iter().enumerate() {
            line.extend_from_slice(if i == 0 { b"{\"" } else { b",\"" });
            line.extend_from_slice(field.name.as_bytes());
            line.extend_from_slice(b"\":");
            push_json(&mut line, &(field.get)(self));
        }
        line.extend_from_slice(b"}\n");
        out.write_all(&line)
    }
}

/// Adds a value of a core field as in CSV; no value of theirs ever needs quoting.
#[inline(always)]
pub(super) fn push_core(out: &mut Vec<u8>, value: Value) {
    push_value(out, &value, Style::Native);
    // Where the kind is known nothing is left to drop; the compiler does not see through the glue of all kinds.
    if !matches!(
        value,
        Value::List(_) | Value::Text(_) | Value::SignedList(_) | Value::TextList(_)
    ) {
        std::mem::forget(value);
    }
}
