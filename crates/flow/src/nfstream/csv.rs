//! CSV as Python's `csv` module with its defaults writes NFStream's values (RFC 4180, minimal quotes).

use std::io::Write;

use crate::text::{push_ip, push_mac, push_signed, push_unsigned};
use crate::{Column, Value};

/// Adds the header line, ended by `line_end` (NFStream writes `"\r\n"`).
pub fn write_csv_header(out: &mut Vec<u8>, columns: &[Column], line_end: &str) {
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        quoted(out, &column.name);
    }
    out.extend_from_slice(line_end.as_bytes());
}

/// Adds one line: floats as Python's `repr`, lists as `[0, 1]`, missing values empty.
pub fn write_csv_row(out: &mut Vec<u8>, row: &[Value], line_end: &str) {
    out.reserve(row.len() * 8);
    for (i, value) in row.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_value(out, value);
    }
    out.extend_from_slice(line_end.as_bytes());
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Unsigned(n) => push_unsigned(out, *n),
        Value::Signed(n) => push_signed(out, *n),
        Value::Float(x) => write_float(out, *x),
        Value::Ip(ip) => push_ip(out, *ip),
        Value::Mac(mac) => push_mac(out, *mac),
        Value::Word(word) => out.extend_from_slice(word.as_bytes()),
        Value::Text(text) => quoted(out, text),
        Value::List(list) => write_list(out, list, |out, n| push_unsigned(out, *n)),
        Value::SignedList(list) => write_list(out, list, |out, n| push_signed(out, *n)),
        Value::TextList(list) => {
            let mut text = Vec::new();
            write_list_plain(&mut text, list, |out, s| write_text_repr(out, s));
            quoted(out, &String::from_utf8_lossy(&text));
        }
        Value::Missing => (),
    }
}

/// Adds a float as Python's `repr`: the shortest digits that read back as the same number, an exponent of at least two
/// digits below 0.0001 and from 1e16 on, and always a `.0` or an exponent.
pub fn write_float(out: &mut Vec<u8>, x: f64) {
    // Most values are whole numbers, which need no search for digits.
    let whole = x as i64;
    if whole as f64 == x && whole.unsigned_abs() < 1 << 53 && (whole != 0 || x.is_sign_positive()) {
        push_signed(out, whole);
        out.extend_from_slice(b".0");
        return;
    }
    let size = x.abs();
    if !x.is_finite() {
        let name: &[u8] = match (x.is_nan(), x < 0.0) {
            (true, _) => b"nan",
            (_, true) => b"-inf",
            _ => b"inf",
        };
        out.extend_from_slice(name);
    } else if size == 0.0 {
        out.extend_from_slice(b"-0.0");
    } else if (1e-4..1e16).contains(&size) {
        // Of two shortest texts the nearer one, as Python has it; the standard library has the other.
        out.extend_from_slice(zmij::Buffer::new().format_finite(x).as_bytes());
    } else {
        write_exponential(out, x);
    }
}

/// `1.5e-07`.
fn write_exponential(out: &mut Vec<u8>, x: f64) {
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    // Writing into a Vec does not fail.
    let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
}

fn write_list<T>(out: &mut Vec<u8>, list: &[T], item: impl Fn(&mut Vec<u8>, &T)) {
    // Only the comma between items asks for quotes.
    let quote = list.len() > 1;
    if quote {
        out.push(b'"');
    }
    write_list_plain(out, list, item);
    if quote {
        out.push(b'"');
    }
}

fn write_list_plain<T>(out: &mut Vec<u8>, list: &[T], item: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (i, value) in list.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b", ");
        }
        item(out, value);
    }
    out.push(b']');
}

/// A text as Python's `repr` of it.
fn write_text_repr(out: &mut Vec<u8>, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut repr = String::with_capacity(text.len() + 2);
    repr.push(quote);
    for c in text.chars() {
        match c {
            '\\' => repr.push_str("\\\\"),
            '\n' => repr.push_str("\\n"),
            '\r' => repr.push_str("\\r"),
            '\t' => repr.push_str("\\t"),
            _ if c == quote => repr.extend(['\\', c]),
            ' '..='~' => repr.push(c),
            _ if c.is_control() || c.is_whitespace() => {
                repr.push_str(&match u32::from(c) {
                    n @ ..0x100 => format!("\\x{n:02x}"),
                    n @ ..0x1_0000 => format!("\\u{n:04x}"),
                    n => format!("\\U{n:08x}"),
                });
            }
            _ => repr.push(c),
        }
    }
    repr.push(quote);
    out.extend_from_slice(repr.as_bytes());
}

/// A text, in quotes where it has a comma, a quote or a line end.
fn quoted(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    if !bytes
        .iter()
        .any(|b| matches!(b, b',' | b'"' | b'\r' | b'\n'))
    {
        out.extend_from_slice(bytes);
        return;
    }
    out.push(b'"');
    for &byte in bytes {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::{write_csv_row, write_float};
    use crate::Value;

    fn float(x: f64) -> String {
        let mut out = Vec::new();
        write_float(&mut out, x);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn writes_floats_as_python_does() {
        for (x, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-54.0, "-54.0"),
            (0.1, "0.1"),
            (439.82041789803264, "439.82041789803264"),
            (0.0001, "0.0001"),
            (0.00012345, "0.00012345"),
            (0.00001, "1e-05"),
            (8.038873388460929e-14, "8.038873388460929e-14"),
            (9007199254740993.0, "9007199254740992.0"),
            (9999999999999998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (-1.5e300, "-1.5e+300"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float(x), expected);
        }
    }

    #[test]
    fn quotes_only_where_needed() {
        let text = |s: &str| Value::Text(s.to_owned());
        let row = [
            text("plain"),
            text("a,b"),
            text("say \"x\""),
            text("two\nlines"),
            Value::Missing,
            Value::SignedList(vec![0, -1]),
            Value::List(vec![7]),
            Value::List(Vec::new()),
            Value::TextList(vec!["it's".to_owned(), "b\u{7}".to_owned()]),
            Value::Signed(i64::MIN),
        ];
        let mut line = Vec::new();
        write_csv_row(&mut line, &row, "\r\n");
        assert_eq!(
            String::from_utf8(line).expect("text"),
            "plain,\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",,\"[0, -1]\",[7],[],\"[\"\"it's\"\", 'b\\x07']\",\
             -9223372036854775808\r\n"
        );
    }
}
