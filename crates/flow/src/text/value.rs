//! A [`Value`] as a cell of CSV or a value of JSON.

use super::{push_float, push_ip, push_mac, push_python_float, push_signed, push_unsigned};
use crate::Value;

/// How numbers and lists look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Floats never have an exponent, and no point when they are whole; lists of numbers are separated by spaces, lists of texts
    /// are JSON arrays.
    Native,
    /// As Python's `str` of the value.
    Python,
}

/// Adds the text of a value; [`Value::Missing`] is empty. Nothing is quoted.
#[inline]
pub fn push_value(out: &mut Vec<u8>, value: &Value, style: Style) {
    match value {
        Value::Unsigned(n) => push_unsigned(out, *n),
        Value::Signed(n) => push_signed(out, *n),
        Value::Float(x) if style == Style::Native => push_float(out, *x),
        Value::Float(x) => push_python_float(out, *x),
        Value::Ip(ip) => push_ip(out, *ip),
        Value::Mac(mac) => push_mac(out, *mac),
        Value::Word(word) => out.extend_from_slice(word.as_bytes()),
        Value::Text(text) => out.extend_from_slice(text.as_bytes()),
        Value::List(_) | Value::SignedList(_) | Value::TextList(_) => push_list(out, value, style),
        Value::Missing => (),
    }
}

/// Adds the text of a value as one cell of CSV, in quotes only where it has a comma, a quote or a line end (RFC 4180).
#[inline]
pub fn push_cell(out: &mut Vec<u8>, value: &Value, style: Style) {
    let is_sure = match value {
        // Only the comma between items asks for quotes.
        Value::List(list) => style == Style::Native || list.len() < 2,
        Value::SignedList(list) => style == Style::Native || list.len() < 2,
        Value::Text(text) => {
            quoted(out, text.as_bytes());
            return;
        }
        Value::TextList(_) => {
            let from = out.len();
            push_value(out, value, style);
            quote(out, from);
            return;
        }
        _ => true,
    };
    if is_sure {
        push_value(out, value, style);
    } else {
        out.push(b'"');
        push_list(out, value, style);
        out.push(b'"');
    }
}

/// Puts what begins at `from` into quotes if it holds a comma, a quote or a line end.
pub fn quote(out: &mut Vec<u8>, from: usize) {
    if needs_quotes(&out[from..]) {
        let cell = out.split_off(from);
        quoted(out, &cell);
    }
}

fn needs_quotes(cell: &[u8]) -> bool {
    cell.iter()
        .any(|b| matches!(b, b',' | b'"' | b'\r' | b'\n'))
}

fn quoted(out: &mut Vec<u8>, cell: &[u8]) {
    if !needs_quotes(cell) {
        out.extend_from_slice(cell);
        return;
    }
    out.push(b'"');
    for &byte in cell {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

fn push_list(out: &mut Vec<u8>, value: &Value, style: Style) {
    match (value, style) {
        (Value::List(items), Style::Native) => {
            separated(out, items, b" ", |o, n| push_unsigned(o, *n));
        }
        (Value::SignedList(items), Style::Native) => {
            separated(out, items, b" ", |o, n| push_signed(o, *n));
        }
        (Value::TextList(items), Style::Native) => {
            bracketed(out, items, b",", |o, text| push_json_text(o, text));
        }
        (Value::List(items), Style::Python) => {
            bracketed(out, items, b", ", |o, n| push_unsigned(o, *n));
        }
        (Value::SignedList(items), Style::Python) => push_python_numbers(out, items),
        (Value::TextList(items), Style::Python) => {
            bracketed(out, items, b", ", |o, text| push_python_text(o, text));
        }
        // No list.
        _ => (),
    }
}

/// As [`bracketed`]. The sequences of short flows are filled up with -1, often most of them.
fn push_python_numbers(out: &mut Vec<u8>, items: &[i64]) {
    const FILL: &[u8; 40] = b", -1, -1, -1, -1, -1, -1, -1, -1, -1, -1";
    const EACH: usize = 4;
    let filled = items.iter().rev().take_while(|n| **n == -1).count();
    let (told, fill) = items.split_at(items.len() - filled);
    out.push(b'[');
    for (i, n) in told.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b", ");
        }
        push_signed(out, *n);
    }
    let mut skip = if told.is_empty() { b", ".len() } else { 0 };
    for some in fill.chunks(FILL.len() / EACH) {
        out.extend_from_slice(&FILL[skip..some.len() * EACH]);
        skip = 0;
    }
    out.push(b']');
}

fn separated<T>(out: &mut Vec<u8>, items: &[T], separator: &[u8], push: impl Fn(&mut Vec<u8>, &T)) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(separator);
        }
        push(out, item);
    }
}

fn bracketed<T>(out: &mut Vec<u8>, items: &[T], separator: &[u8], push: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    separated(out, items, separator, push);
    out.push(b']');
}

/// Adds a value as JSON (RFC 8259); [`Value::Missing`] and numbers that are none are `null`.
pub fn push_json(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Unsigned(n) => push_unsigned(out, *n),
        Value::Signed(n) => push_signed(out, *n),
        Value::Float(x) if x.is_finite() => push_float(out, *x),
        Value::Ip(_) | Value::Mac(_) | Value::Word(_) => {
            out.push(b'"');
            push_value(out, value, Style::Native);
            out.push(b'"');
        }
        Value::Text(text) => push_json_text(out, text),
        Value::List(items) => bracketed(out, items, b",", |o, n| push_unsigned(o, *n)),
        Value::SignedList(items) => bracketed(out, items, b",", |o, n| push_signed(o, *n)),
        Value::TextList(items) => bracketed(out, items, b",", |o, text| push_json_text(o, text)),
        Value::Float(_) | Value::Missing => out.extend_from_slice(b"null"),
    }
}

/// Adds a JSON string with its quotes.
pub fn push_json_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 | 0x7f => {
                out.extend_from_slice(b"\\u00");
                super::push_hex(out, &[byte]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// As `repr` of a Python string.
fn push_python_text(out: &mut Vec<u8>, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut line = String::with_capacity(text.len() + 2);
    line.push(quote);
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c == quote || c == '\\' => line.extend(['\\', c]),
            c if is_printable(c) => line.push(c),
            c => {
                let n = u32::from(c);
                line.push_str(&match n {
                    0..=0xff => format!("\\x{n:02x}"),
                    0x100..=0xffff => format!("\\u{n:04x}"),
                    _ => format!("\\U{n:08x}"),
                });
            }
        }
    }
    line.push(quote);
    out.extend_from_slice(line.as_bytes());
}

/// Neither a control, format, private, unassigned character nor a separator other than the space: what both Rust and
/// Python print as it is. Rust escapes combining characters only at the start of a text.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    let mut buffer = [b'x', 0, 0, 0, 0];
    let end = 1 + c.encode_utf8(&mut buffer[1..]).len();
    std::str::from_utf8(&buffer[..end]).is_ok_and(|text| text.escape_debug().nth(1) == Some(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &Value, style: Style) -> String {
        let mut out = Vec::new();
        push_value(&mut out, value, style);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn native_floats_read_back_and_have_no_exponent() {
        for x in [
            0.0,
            1.0,
            -3.0,
            0.5,
            1e-7,
            1.5e20,
            1e300,
            2.0 / 3.0,
            1e15,
            -1e15,
        ] {
            let text = text(&Value::Float(x), Style::Native);
            assert!(!text.contains('e'), "{text}");
            assert_eq!(text.parse::<f64>(), Ok(x), "{text}");
        }
        assert_eq!(text(&Value::Float(12.0), Style::Native), "12");
    }

    #[test]
    fn python_texts_are_quoted_as_by_repr() {
        let list = Value::TextList(
            [
                "a",
                "it's",
                "\"",
                "a'b\"c",
                "t\tn\n\\",
                "\u{1}\u{7f}\u{ad}",
                "é",
                "e\u{301}",
                "\u{200b}\u{1f600}",
            ]
            .map(String::from)
            .to_vec(),
        );
        let expected = concat!(
            r#"['a', "it's", '"', 'a\'b"c', 't\tn\n\\', '\x01\x7f\xad', 'é', "#,
            "'e\u{301}', '\\u200b😀']"
        );
        assert_eq!(text(&list, Style::Python), expected);
    }

    #[test]
    fn lists_follow_their_style() {
        let signed = Value::SignedList(vec![0, -1, 12]);
        assert_eq!(text(&signed, Style::Python), "[0, -1, 12]");
        assert_eq!(text(&signed, Style::Native), "0 -1 12");
        assert_eq!(text(&Value::List(vec![]), Style::Python), "[]");
        let texts = Value::TextList(vec!["a b".into(), "\"".into()]);
        assert_eq!(text(&texts, Style::Native), r#"["a b","\""]"#);
    }

    #[test]
    fn sequences_are_filled_up() {
        for told in [0, 1, 3, 20] {
            for filled in [0, 1, 2, 10, 11, 25] {
                let items: Vec<i64> = (0..told).chain((0..filled).map(|_| -1)).collect();
                let plain: Vec<String> = items.iter().map(i64::to_string).collect();
                let expected = format!("[{}]", plain.join(", "));
                assert_eq!(text(&Value::SignedList(items), Style::Python), expected);
            }
        }
    }

    #[test]
    fn quotes_only_where_needed() {
        let row = [
            Value::Text("plain".into()),
            Value::Text("a,b".into()),
            Value::Text("say \"x\"".into()),
            Value::Text("two\nlines".into()),
            Value::Missing,
            Value::SignedList(vec![0, -1]),
            Value::List(vec![7]),
            Value::List(Vec::new()),
            Value::TextList(vec!["it's".into(), "b\u{7}".into()]),
            Value::Signed(i64::MIN),
        ];
        let line = |style| {
            let mut line = Vec::new();
            for (i, value) in row.iter().enumerate() {
                if i > 0 {
                    line.push(b',');
                }
                push_cell(&mut line, value, style);
            }
            String::from_utf8(line).expect("text")
        };
        assert_eq!(
            line(Style::Python),
            "plain,\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",,\"[0, -1]\",[7],[],\"[\"\"it's\"\", 'b\\x07']\",\
             -9223372036854775808"
        );
        assert!(
            line(Style::Native).contains(",0 -1,7,,"),
            "{}",
            line(Style::Native)
        );
    }
}
