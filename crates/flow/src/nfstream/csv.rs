//! CSV as Python's `csv` module with its defaults writes NFStream's values (RFC 4180, minimal quotes).

use crate::text::{Style, push_cell, quote};
use crate::{Column, Value};

/// Adds the header line, ended by `line_end` (NFStream writes `"\r\n"`).
pub fn write_csv_header(out: &mut Vec<u8>, columns: &[Column], line_end: &str) {
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let from = out.len();
        out.extend_from_slice(column.name.as_bytes());
        quote(out, from);
    }
    out.extend_from_slice(line_end.as_bytes());
}

/// Adds one line: floats as Python's `repr`, lists as `[0, 1]`, missing values empty.
pub fn write_csv_row(out: &mut Vec<u8>, row: &[Value], line_end: &str) {
    for (i, value) in row.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push_cell(out, value, Style::Python);
    }
    out.extend_from_slice(line_end.as_bytes());
}
