//! What tables of flows are made of, whichever profile or plugin fills them.

use std::borrow::Cow;
use std::net::IpAddr;

use chaff_abi::Mac;

/// Type of a column, as schemas name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Unsigned, 64 bits.
    Unsigned,
    /// Signed, 64 bits.
    Signed,
    /// Floating point, 64 bits.
    Float,
    /// Text in UTF-8.
    Text,
    /// List of unsigned numbers: in native CSV separated by spaces, in JSON an array.
    List,
    /// List of signed numbers.
    SignedList,
    /// List of texts.
    TextList,
}

impl Kind {
    /// The name used in documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Signed => "signed",
            Self::Float => "float",
            Self::Text => "text",
            Self::List => "list of unsigned",
            Self::SignedList => "list of signed",
            Self::TextList => "list of text",
        }
    }
}

/// Value of one column of one flow.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// [`Kind::Unsigned`].
    Unsigned(u64),
    /// [`Kind::Signed`].
    Signed(i64),
    /// [`Kind::Float`]; always finite.
    Float(f64),
    /// An address, [`Kind::Text`].
    Ip(IpAddr),
    /// A MAC address, [`Kind::Text`].
    Mac(Mac),
    /// A word, [`Kind::Text`]; never needs quoting.
    Word(&'static str),
    /// Any text, [`Kind::Text`]; may need quoting.
    Text(String),
    /// [`Kind::List`].
    List(Vec<u64>),
    /// [`Kind::SignedList`].
    SignedList(Vec<i64>),
    /// [`Kind::TextList`].
    TextList(Vec<String>),
    /// Not known or not defined: empty in CSV, null elsewhere.
    Missing,
}

impl Value {
    /// Whether it may stand in a column of this kind.
    pub fn fits(&self, kind: Kind) -> bool {
        match self {
            Self::Missing => true,
            Self::Unsigned(_) => kind == Kind::Unsigned,
            Self::Signed(_) => kind == Kind::Signed,
            Self::Float(x) => kind == Kind::Float && x.is_finite(),
            Self::Ip(_) | Self::Mac(_) | Self::Word(_) | Self::Text(_) => kind == Kind::Text,
            Self::List(_) => kind == Kind::List,
            Self::SignedList(_) => kind == Kind::SignedList,
            Self::TextList(_) => kind == Kind::TextList,
        }
    }
}

/// Name, type, unit and meaning of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// As in the header.
    pub name: Cow<'static, str>,
    /// Type of its values; each may also be [`Value::Missing`].
    pub kind: Kind,
    /// Unit, empty when it has none.
    pub unit: Cow<'static, str>,
    /// What it is.
    pub doc: Cow<'static, str>,
}

/// The name that is most like `wrong`, if any is: for "did you mean".
pub fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let (distance, name) = names.map(|n| (distance(wrong, n), n)).min()?;
    (distance <= wrong.chars().count().div_ceil(2)).then_some(name)
}

/// Letters to insert, remove or replace until one text is the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_what_was_meant() {
        for (wrong, names, want) in [
            ("c_rtt_mean", ["c_rtt_max", "c_ip"], Some("c_rtt_max")),
            ("duration", ["durat", "x"], Some("durat")),
            ("zzzzzzzz", ["durat", "x"], None),
        ] {
            assert_eq!(nearest(wrong, names.into_iter()), want);
        }
    }
}
