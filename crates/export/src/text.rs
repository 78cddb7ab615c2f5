//! Values as text, in the two ways that our CSV files are written.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chaff_flow::Value;

/// How numbers, addresses and lists look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Lists of numbers are separated by spaces, lists of texts are JSON arrays.
    Native,
    /// As Python's `str` of the value.
    Python,
}

/// Appends the text of a value; [`Value::Missing`] is empty. Nothing is quoted.
pub(crate) fn push_value(out: &mut Vec<u8>, value: &Value, style: Style) {
    match (value, style) {
        (Value::Unsigned(n), _) => push_unsigned(out, *n),
        (Value::Signed(n), _) => push_signed(out, *n),
        (Value::Float(x), Style::Native) => push_float(out, *x),
        (Value::Float(x), Style::Python) => push_python_float(out, *x),
        (Value::Ip(ip), _) => push_ip(out, *ip),
        (Value::Mac(mac), _) => push_mac(out, mac.0),
        (Value::Word(word), _) => out.extend_from_slice(word.as_bytes()),
        (Value::Text(text), _) => out.extend_from_slice(text.as_bytes()),
        (Value::List(items), Style::Native) => {
            separated(out, items, b" ", |o, n| push_unsigned(o, *n))
        }
        (Value::SignedList(items), Style::Native) => {
            separated(out, items, b" ", |o, n| push_signed(o, *n))
        }
        (Value::TextList(items), Style::Native) => {
            bracketed(out, items, b",", |o, text| push_json_text(o, text));
        }
        (Value::List(items), Style::Python) => {
            bracketed(out, items, b", ", |o, n| push_unsigned(o, *n))
        }
        (Value::SignedList(items), Style::Python) => {
            bracketed(out, items, b", ", |o, n| push_signed(o, *n))
        }
        (Value::TextList(items), Style::Python) => {
            bracketed(out, items, b", ", |o, text| push_python_text(o, text))
        }
        // `Missing`, and kinds that the flow crate may add.
        _ => (),
    }
}

fn separated<T>(out: &mut Vec<u8>, items: &[T], separator: &[u8], push: impl Fn(&mut Vec<u8>, &T)) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(separator);
        }
        push(out, item);
    }
}

pub(crate) fn bracketed<T>(
    out: &mut Vec<u8>,
    items: &[T],
    separator: &[u8],
    push: impl Fn(&mut Vec<u8>, &T),
) {
    out.push(b'[');
    separated(out, items, separator, push);
    out.push(b']');
}

/// Appends decimal digits.
pub(crate) fn push_unsigned(out: &mut Vec<u8>, n: u64) {
    if n < 10 {
        out.push(b'0' + n as u8);
    } else {
        out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
    }
}

pub(crate) fn push_signed(out: &mut Vec<u8>, n: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// The shortest decimal number that reads back as `x`, never with an exponent; whole numbers without a point.
pub(crate) fn push_float(out: &mut Vec<u8>, x: f64) {
    if x.trunc() == x && x.abs() < 1e15 {
        if x == 0.0 {
            out.push(b'0');
        } else {
            push_signed(out, x as i64);
        }
        return;
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format(x);
    if text.contains('e') {
        // Writing into memory cannot fail.
        let _ = write!(out, "{x}");
    } else {
        out.extend_from_slice(text.strip_suffix(".0").unwrap_or(text).as_bytes());
    }
}

/// As `repr` of a Python float: shortest digits, a point or an exponent always, the exponent from 1e16 on and below 1e-4.
pub(crate) fn push_python_float(out: &mut Vec<u8>, x: f64) {
    if !x.is_finite() {
        let text: &[u8] = if x.is_nan() {
            b"nan"
        } else if x > 0.0 {
            b"inf"
        } else {
            b"-inf"
        };
        return out.extend_from_slice(text);
    }
    if x.trunc() == x && x.abs() < 1e15 && x != 0.0 {
        push_signed(out, x as i64);
        return out.extend_from_slice(b".0");
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(x);
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text),
    };
    let (mantissa, exponent) = match text.split_once('e') {
        Some((m, e)) => (m, e.parse::<i32>().unwrap_or(0)),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // `digits` without zeros at either end, and where the point is: 0.digits * 10^point.
    let all = [whole, fraction].concat();
    let trimmed = all.trim_start_matches('0');
    let point = whole.len() as i32 + exponent - (all.len() - trimmed.len()) as i32;
    let digits = trimmed.trim_end_matches('0');
    out.extend_from_slice(sign.as_bytes());
    if digits.is_empty() {
        return out.extend_from_slice(b"0.0");
    }
    let digits = digits.as_bytes();
    match point {
        1..=16 => {
            let point = point as usize;
            if digits.len() <= point {
                out.extend_from_slice(digits);
                out.resize(out.len() + point - digits.len(), b'0');
                out.extend_from_slice(b".0");
            } else {
                out.extend_from_slice(&digits[..point]);
                out.push(b'.');
                out.extend_from_slice(&digits[point..]);
            }
        }
        -3..=0 => {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + point.unsigned_abs() as usize, b'0');
            out.extend_from_slice(digits);
        }
        _ => {
            out.push(digits[0]);
            if digits.len() > 1 {
                out.push(b'.');
                out.extend_from_slice(&digits[1..]);
            }
            let exponent = point - 1;
            let sign = if exponent < 0 { '-' } else { '+' };
            // Writing into memory cannot fail.
            let _ = write!(out, "e{sign}{:02}", exponent.unsigned_abs());
        }
    }
}

/// Appends an address as `inet_ntop` of glibc writes it: RFC 5952, and a dotted tail for `::a.b.c.d` too.
pub(crate) fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => push_ipv4(out, v4),
        IpAddr::V6(v6) => push_ipv6(out, v6),
    }
}

fn push_ipv4(out: &mut Vec<u8>, ip: Ipv4Addr) {
    separated(out, &ip.octets(), b".", |o, n| {
        push_unsigned(o, u64::from(*n))
    });
}

fn push_ipv6(out: &mut Vec<u8>, ip: Ipv6Addr) {
    let words = ip.segments();
    if words[..6] == [0; 6] && words[6] != 0 {
        let [a, b] = words[6].to_be_bytes();
        let [c, d] = words[7].to_be_bytes();
        out.extend_from_slice(b"::");
        return push_ipv4(out, Ipv4Addr::new(a, b, c, d));
    }
    // Writing into memory cannot fail.
    let _ = write!(out, "{ip}");
}

pub(crate) fn push_mac(out: &mut Vec<u8>, mac: [u8; 6]) {
    separated(out, &mac, b":", |o, byte| push_hex(o, &[*byte]));
}

/// Two lower-case hexadecimal digits a byte.
pub(crate) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// A JSON string with its quotes.
pub(crate) fn push_json_text(out: &mut Vec<u8>, text: &str) {
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
                push_hex(out, &[byte]);
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
    fn floats_are_written_as_python_writes_them() {
        // Each right side is what CPython 3.11 prints.
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (100.0, "100.0"),
            (123456789012345.0, "123456789012345.0"),
            (1234567890123456.0, "1234567890123456.0"),
            (9007199254740993.0, "9007199254740992.0"),
            (9999999999999998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.5e16, "1.5e+16"),
            (1e22, "1e+22"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (0.1, "0.1"),
            (0.001, "0.001"),
            (0.0001, "0.0001"),
            (0.00012345, "0.00012345"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (5e-324, "5e-324"),
            (2.0 / 3.0, "0.6666666666666666"),
            (1000.0 / 3.0, "333.3333333333333"),
            (418.7936381035233, "418.7936381035233"),
        ];
        for (x, expected) in cases {
            assert_eq!(text(&Value::Float(x), Style::Python), expected, "{x:e}");
        }
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
    fn addresses_are_those_of_inet_ntop() {
        for (ip, expected) in [
            ("192.168.1.9", "192.168.1.9"),
            ("::1", "::1"),
            ("::", "::"),
            ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("::0a00:0001", "::10.0.0.1"),
            ("fe80::1", "fe80::1"),
        ] {
            assert_eq!(
                text(&Value::Ip(ip.parse().expect("an address")), Style::Native),
                expected
            );
        }
    }
}
