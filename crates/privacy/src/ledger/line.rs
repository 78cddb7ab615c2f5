//! The text of a ledger's lines and the chain that binds them.

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

use super::budget::{Budget, Rho};
use super::{Expense, LedgerError};
use crate::Epsilon;
use crate::epsilon::{Decimal, nanos_from_decimal};

const HASH_START: &[u8] = b",\"hash\":\"";
/// Bytes of `,"hash":"<64 digits>"}`.
pub(super) const HASH_FIELD: usize = HASH_START.len() + 64 + 2;

/// Number and hash of a ledger's last entry: fixes everything before it. Text form: `number hash`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Number of the entry; the first line is 0.
    pub entry: u64,
    /// SHA-256 of that line's chain.
    pub hash: [u8; 32],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderLine {
    pub(super) version: u32,
    pub(super) unit: Option<String>,
    pub(super) total: Epsilon,
    pub(super) delta: f64,
    pub(super) day_epsilon: Option<Epsilon>,
    pub(super) day_rho: Option<Rho>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryLine {
    pub(super) entry: u64,
    pub(super) at_ns: Option<u64>,
    pub(super) label: String,
    pub(super) stream: Option<String>,
    pub(super) window: Option<u64>,
    pub(super) other_unit: Option<String>,
    pub(super) epsilon: Option<Epsilon>,
    pub(super) rho: Option<Rho>,
    /// Absent for a pure release.
    #[serde(default)]
    pub(super) delta: f64,
    /// Pure ε so far, this entry included.
    #[serde(deserialize_with = "sum")]
    pub(super) spent: u64,
}

/// A sum in billionths, which may be 0.
fn sum<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let nanos = (f64::deserialize(d)? * 1e9).round();
    if !(0.0..=Epsilon::MAX.nanos() as f64).contains(&nanos) {
        return Err(serde::de::Error::custom("not a sum of epsilons"));
    }
    Ok(nanos as u64)
}

/// The header of a new ledger, without its hash: version 1 for ever, version 2 with daily purses.
pub(super) fn header(budget: &Budget) -> String {
    let Some(day) = &budget.day else {
        return format!(
            "{{\"version\":1,\"total\":{},\"delta\":{}",
            budget.total, budget.delta
        );
    };
    let mut line = format!(
        "{{\"version\":2,\"unit\":{},\"total\":{},\"delta\":{:?}",
        serde_json::Value::from(budget.unit.as_str()),
        budget.total,
        budget.delta
    );
    for (name, purse) in [
        ("day_epsilon", day.epsilon.map(Epsilon::nanos)),
        ("day_rho", day.rho.map(Rho::nanos)),
    ] {
        if let Some(nanos) = purse {
            // Writing into a text does not fail.
            let _ = write!(line, ",\"{name}\":{}", Decimal(nanos));
        }
    }
    line
}

/// An entry without its hash. Only ledgers with daily purses have times.
pub(super) fn entry(number: u64, timed: bool, e: &Expense<'_>, spent: u64) -> String {
    // A JSON string has no raw control characters or quotes, so a line is one line and its fields are found.
    let text = serde_json::Value::from;
    let mut line = format!("{{\"entry\":{number}");
    // Writing into a text does not fail.
    let mut put = |part: fmt::Arguments<'_>| {
        let _ = line.write_fmt(part);
    };
    if timed {
        put(format_args!(",\"at_ns\":{}", e.at_ns));
    }
    put(format_args!(",\"label\":{}", text(e.label)));
    if let Some((stream, window)) = e.window {
        put(format_args!(
            ",\"stream\":{},\"window\":{window}",
            text(stream)
        ));
    }
    if let Some(unit) = e.other_unit {
        put(format_args!(",\"other_unit\":{}", text(unit)));
    }
    if let Some(epsilon) = e.epsilon {
        put(format_args!(",\"epsilon\":{epsilon}"));
    }
    if let Some(rho) = e.rho {
        put(format_args!(",\"rho\":{rho}"));
    }
    if e.delta > 0.0 {
        put(format_args!(",\"delta\":{:?}", e.delta));
    }
    put(format_args!(",\"spent\":{}", Decimal(spent)));
    line
}

/// The chained hash of a line's text.
pub(super) fn chain(previous: &[u8; 32], body: &[u8]) -> [u8; 32] {
    let mut sha = Sha256::new();
    sha.update(previous);
    sha.update(body);
    sha.finalize().into()
}

/// Closes a line that lacks its hash.
pub(super) fn finish(previous: &[u8; 32], body: &str) -> (Vec<u8>, [u8; 32]) {
    let hash = chain(previous, body.as_bytes());
    let line = format!("{body},\"hash\":\"{}\"}}\n", hex(&hash));
    (line.into_bytes(), hash)
}

/// The hashed part of a line and its hash.
pub(super) fn split_hash(line: &[u8]) -> Option<(&[u8], [u8; 32])> {
    let (body, field) = line.split_at_checked(line.len().checked_sub(HASH_FIELD)?)?;
    let digits = field.strip_prefix(HASH_START)?.strip_suffix(b"\"}")?;
    Some((body, from_hex(digits)?))
}

/// The amount of an entry that was cut somewhere after it.
pub(super) fn legible_epsilon(line: &[u8]) -> Option<Epsilon> {
    let text = String::from_utf8_lossy(line);
    let (_, after) = text.rsplit_once(",\"epsilon\":")?;
    let (number, _) = after.split_once(',')?;
    Epsilon::from_nanos(nanos_from_decimal(number).ok()?).ok()
}

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(digits: &[u8]) -> Option<[u8; 32]> {
    let mut out = [0u8; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.entry, hex(&self.hash))
    }
}

impl FromStr for Head {
    type Err = LedgerError;
    fn from_str(text: &str) -> Result<Self, LedgerError> {
        let bad = LedgerError::Format {
            line: 1,
            what: "a head is an entry number, a space and 64 hexadecimal digits",
        };
        let (entry, hash) = text.trim_end().split_once(' ').ok_or(bad.clone())?;
        Ok(Self {
            entry: entry.parse().map_err(|_| bad.clone())?,
            hash: from_hex(hash.as_bytes()).ok_or(bad)?,
        })
    }
}
