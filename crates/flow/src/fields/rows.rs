use std::io;

use super::FIELDS;
use crate::text::{push_float, push_ip, push_mac, push_signed, push_unsigned};
use crate::{Kind, Record, Value};

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
            match (field.get)(self) {
                Value::Missing => line.extend_from_slice(b"null"),
                Value::List(items) => {
                    line.push(b'[');
                    push_list(&mut line, &items, b',');
                    line.push(b']');
                }
                value if field.kind == Kind::Text => {
                    line.push(b'"');
                    push_scalar(&mut line, &value);
                    line.push(b'"');
                }
                value => push_scalar(&mut line, &value),
            }
        }
        line.extend_from_slice(b"}\n");
        out.write_all(&line)
    }
}

/// Adds a value of a core field as in CSV.
#[inline(always)]
pub(super) fn push_value(out: &mut Vec<u8>, value: Value) {
    if let Value::List(items) = value {
        push_list(out, &items, b' ');
        return;
    }
    push_scalar(out, &value);
    // Where the kind is known nothing is left to drop; the compiler does not see through the glue of all kinds.
    if !matches!(
        value,
        Value::Text(_) | Value::SignedList(_) | Value::TextList(_)
    ) {
        std::mem::forget(value);
    }
}

fn push_list(out: &mut Vec<u8>, items: &[u64], separator: u8) {
    for (i, n) in items.iter().enumerate() {
        if i > 0 {
            out.push(separator);
        }
        push_unsigned(out, *n);
    }
}

#[inline(always)]
fn push_scalar(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Unsigned(n) => push_unsigned(out, *n),
        Value::Signed(n) => push_signed(out, *n),
        Value::Float(x) => push_float(out, *x),
        Value::Ip(ip) => push_ip(out, *ip),
        Value::Mac(mac) => push_mac(out, *mac),
        Value::Word(word) => out.extend_from_slice(word.as_bytes()),
        // No core field holds free text or lists of other things.
        Value::Text(_)
        | Value::List(_)
        | Value::SignedList(_)
        | Value::TextList(_)
        | Value::Missing => (),
    }
}
