//! A value of a flow log as it is read: text of a line, or a typed value of a Parquet column.

use std::borrow::Cow;
use std::net::IpAddr;

/// One value. The same flow gives the same numbers and texts, whatever it was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Cell<'a> {
    /// The row has no such field, or a null.
    #[default]
    Missing,
    /// As it stands in the log, without spaces around it.
    Text(&'a [u8]),
    /// The same, with a number that stands for it in its column, within one piece of a file.
    Word {
        /// The text.
        text: &'a [u8],
        /// From 0 on.
        number: u32,
    },
    /// A whole number.
    Integer(i64),
    /// A number.
    Float(f64),
}

impl<'a> Cell<'a> {
    /// The text, of a text.
    pub fn text(self) -> Option<&'a [u8]> {
        match self {
            Self::Text(text) | Self::Word { text, .. } => Some(text),
            Self::Missing | Self::Integer(_) | Self::Float(_) => None,
        }
    }

    /// A whole number; others are rounded. Nothing where there is none.
    pub fn integer(self) -> Option<i64> {
        match self {
            Self::Missing => None,
            Self::Text(text) | Self::Word { text, .. } => integer(text),
            Self::Integer(value) => Some(value),
            Self::Float(value) => rounded(value),
        }
    }

    /// A finite number.
    pub fn float(self) -> Option<f64> {
        match self {
            Self::Missing => None,
            Self::Text(text) | Self::Word { text, .. } => float(text),
            Self::Integer(value) => Some(value as f64),
            Self::Float(value) => value.is_finite().then_some(value),
        }
    }
}

/// An address in its canonical form, so that it can be compared as text; what is none stays as it is.
pub fn address(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let text = String::from_utf8_lossy(bytes);
    if text.is_empty() {
        return None;
    }
    // An IPv4 address has one form.
    match text.contains(':').then(|| text.parse::<IpAddr>()) {
        Some(Ok(address)) => Some(Cow::Owned(address.to_string())),
        _ => Some(text),
    }
}

/// A whole number; others are rounded. Nothing where there is none.
pub fn integer(bytes: &[u8]) -> Option<i64> {
    if !bytes.is_empty() && bytes.len() <= 18 && bytes.iter().all(u8::is_ascii_digit) {
        return Some(bytes.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')));
    }
    match bytes {
        // nfdump's directions as letters: ingress, egress.
        b"I" => Some(0),
        b"E" => Some(1),
        _ => rounded(float(bytes)?),
    }
}

fn rounded(value: f64) -> Option<i64> {
    let value = value.round();
    (value.abs() < 9e18).then_some(value as i64)
}

/// A finite number.
pub fn float(bytes: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}
