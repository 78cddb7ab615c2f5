use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::Epsilon;
use crate::epsilon::{Decimal, nanos_from_decimal};
use crate::grant::Grant;

const VERSION: u32 = 1;
const HASH_START: &[u8] = b",\"hash\":\"";
/// Bytes of `,"hash":"<64 digits>"}`.
const HASH_FIELD: usize = HASH_START.len() + 64 + 2;
const RECOVERED: &str = "recovered after a crash";

/// The privacy budget of one place: what it may spend in total and what it has spent.
///
/// Stored as JSON lines that are only ever appended. The first line holds format version, total ε and δ; each further
/// line one expense. Every line ends in the SHA-256 of the previous line's hash and of its own text, so a line that is
/// changed, removed or moved is found when the ledger is opened. A ledger that was cut at the end of a line, or put
/// back from a backup, is found by the [`Head`] kept in a second place ([`Ledger::open_since`]).
///
/// Who stores it: the caller, before the answer. See [`PendingGrant`].
#[derive(Debug)]
pub struct Ledger {
    total: Epsilon,
    delta: f64,
    spent: u64,
    /// Sum of the entries' δ, rounded up.
    spent_delta: f64,
    head: Head,
    to_store: Option<ToStore>,
    cut: Option<CutLine>,
    in_doubt: bool,
}

/// What storage must do before a just-opened ledger can be used: cut after `keep` bytes, append, make it durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToStore {
    /// Bytes from the start that stay.
    pub keep: usize,
    /// Bytes to append.
    pub append: Vec<u8>,
}

/// What became of a last line that a crash left unfinished.
///
/// Its entry was being stored, so its answer had not been given: whatever is done with it, a crash may waste budget
/// but never privacy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CutLine {
    /// Only the line's end was missing: it counts.
    Completed,
    /// The amount could be read: it counts, as an entry labelled "recovered after a crash".
    Charged(Epsilon),
    /// Nothing could be read: the line goes.
    Dropped,
}

/// Number and hash of a ledger's last entry: fixes everything before it. Text form: `number hash`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Number of the entry; the first line is 0.
    pub entry: u64,
    /// SHA-256 of that line's chain.
    pub hash: [u8; 32],
}

/// Why stored bytes are not a ledger that may be used. Lines count from 1.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// A line is not of the ledger's format.
    #[error("line {line} is not a ledger line: {what}")]
    Format {
        /// Line.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A line does not follow from the lines before it.
    #[error(
        "line {line} does not follow from the line before it: one of them was changed, removed or moved"
    )]
    Chain {
        /// Line.
        line: usize,
    },
    /// The ledger was set up with other settings. They cannot be changed later.
    #[error("line 1: the ledger was set up with {what} {stored}, not {given}")]
    Settings {
        /// Which setting.
        what: &'static str,
        /// In the ledger.
        stored: String,
        /// Asked for now.
        given: String,
    },
    /// More was spent than the total.
    #[error("line {line} spends more than the total")]
    OverSpent {
        /// Line.
        line: usize,
    },
    /// Entries are missing at the end, or others stand in their place.
    #[error(
        "entry {want} was stored but is not in the ledger, which ends with entry {found}: it was cut or put back from a backup"
    )]
    Older {
        /// The entry known to have been stored.
        want: u64,
        /// The last entry there is; none counts as 0.
        found: u64,
    },
    /// δ is not at least 0 and below 1.
    #[error("delta must be at least 0 and below 1")]
    Delta,
}

/// Why nothing was spent. A refused question leaves no trace in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It would exceed the total.
    #[error("privacy budget: asked for {asked}, left {} of {total}", Decimal(*left_nanos))]
    OverBudget {
        /// Asked for.
        asked: Epsilon,
        /// What is left, in billionths.
        left_nanos: u64,
        /// The ledger's total.
        total: Epsilon,
    },
    /// It would exceed the total δ.
    #[error("privacy budget: asked for delta {asked}, left {left} of {total}")]
    OverDelta {
        /// Asked for.
        asked: f64,
        /// What is left.
        left: f64,
        /// The ledger's total.
        total: f64,
    },
    /// It is not known what storage holds: [`Ledger::to_store`] was not done, or storing an earlier entry failed.
    /// Opening the ledger again from storage settles it.
    #[error("the ledger's stored state is in doubt; open it again")]
    InDoubt,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    version: u32,
    total: Epsilon,
    delta: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine {
    entry: u64,
    #[serde(rename = "label")]
    _label: String,
    epsilon: Epsilon,
    /// Absent for a pure release.
    #[serde(default)]
    delta: f64,
    spent: Epsilon,
}

impl Ledger {
    /// Opens a ledger from its stored bytes; no bytes make a new one.
    ///
    /// Before anything can be spent, [`Ledger::to_store`] must be carried out.
    ///
    /// # Errors
    /// [`LedgerError`], naming the line. An unfinished last line is no error: see [`Ledger::cut_line`].
    pub fn open(total: Epsilon, delta: f64, stored: &[u8]) -> Result<Self, LedgerError> {
        Self::open_since(total, delta, stored, None)
    }

    /// Opens a ledger that must still hold the entry `since`, which was read from a second place.
    ///
    /// # Errors
    /// As [`Ledger::open`]; [`LedgerError::Older`] when the entry is missing or another.
    pub fn open_since(
        total: Epsilon,
        delta: f64,
        stored: &[u8],
        since: Option<Head>,
    ) -> Result<Self, LedgerError> {
        if !(0.0..1.0).contains(&delta) {
            return Err(LedgerError::Delta);
        }
        let mut ledger = Self {
            total,
            delta,
            spent: 0,
            spent_delta: 0.0,
            head: Head::default(),
            to_store: None,
            cut: None,
            in_doubt: false,
        };
        let mut seen = false;
        let mut keep = 0;
        let mut tail: &[u8] = &[];
        for (index, line) in stored.split_inclusive(|b| *b == b'\n').enumerate() {
            let Some(text) = line.strip_suffix(b"\n") else {
                tail = line;
                break;
            };
            ledger.read_line(index, text)?;
            keep += line.len();
            seen |= since == Some(ledger.head);
        }
        ledger.settle_tail(keep, tail)?;
        seen |= since == Some(ledger.head);
        match since {
            Some(since) if !seen => Err(LedgerError::Older {
                want: since.entry,
                found: ledger.head.entry,
            }),
            _ => Ok(ledger),
        }
    }

    /// Reads line `index` (from 0), given without its end.
    fn read_line(&mut self, index: usize, text: &[u8]) -> Result<(), LedgerError> {
        let line = index + 1;
        let format = |what| LedgerError::Format { line, what };
        let (body, hash) = split_hash(text).ok_or(format("no hash at its end"))?;
        if chain(&self.head.hash, body) != hash {
            return Err(LedgerError::Chain { line });
        }
        let mut json = body.to_vec();
        json.push(b'}');
        if index == 0 {
            let header: HeaderLine =
                serde_json::from_slice(&json).map_err(|_| format("the first line is no header"))?;
            self.check_header(&header)?;
        } else {
            let entry: EntryLine =
                serde_json::from_slice(&json).map_err(|_| format("not an entry"))?;
            if entry.entry != index as u64 {
                return Err(format("wrong entry number"));
            }
            self.spent = self
                .spent
                .checked_add(entry.epsilon.nanos())
                .filter(|spent| *spent <= self.total.nanos())
                .ok_or(LedgerError::OverSpent { line })?;
            if entry.spent.nanos() != self.spent {
                return Err(format("the running sum is wrong"));
            }
            self.spent_delta = add_delta(self.spent_delta, entry.delta);
            if !(entry.delta >= 0.0 && self.spent_delta <= self.delta_limit()) {
                return Err(LedgerError::OverSpent { line });
            }
        }
        self.head = Head {
            entry: index as u64,
            hash,
        };
        Ok(())
    }

    fn check_header(&self, header: &HeaderLine) -> Result<(), LedgerError> {
        let differs = |what, stored: String, given: String| {
            Err(LedgerError::Settings {
                what,
                stored,
                given,
            })
        };
        if header.version != VERSION {
            return differs(
                "format version",
                header.version.to_string(),
                VERSION.to_string(),
            );
        }
        if header.total != self.total {
            return differs(
                "total epsilon",
                header.total.to_string(),
                self.total.to_string(),
            );
        }
        if header.delta != self.delta {
            return differs("delta", header.delta.to_string(), self.delta.to_string());
        }
        Ok(())
    }

    /// Deals with what stands after the last line end: nothing, or a line that a crash cut.
    fn settle_tail(&mut self, keep: usize, tail: &[u8]) -> Result<(), LedgerError> {
        if keep == 0 {
            if !tail.is_empty() {
                self.cut = Some(CutLine::Dropped);
            }
            let body = format!(
                "{{\"version\":{VERSION},\"total\":{},\"delta\":{}",
                self.total, self.delta
            );
            let (append, hash) = finish_line(&self.head.hash, body);
            self.head = Head { entry: 0, hash };
            self.to_store = Some(ToStore { keep, append });
            return Ok(());
        }
        if tail.is_empty() {
            return Ok(());
        }
        if split_hash(tail).is_some() {
            self.read_line(self.head.entry as usize + 1, tail)?;
            self.cut = Some(CutLine::Completed);
            self.to_store = Some(ToStore {
                keep: keep + tail.len(),
                append: b"\n".to_vec(),
            });
            return Ok(());
        }
        let mut append = Vec::new();
        self.cut = Some(CutLine::Dropped);
        if let Some(epsilon) = legible_epsilon(tail)
            && epsilon.nanos() <= self.left_nanos()
        {
            let (line, head) = self.next_line(RECOVERED, epsilon, 0.0);
            append = line;
            self.spent += epsilon.nanos();
            self.head = head;
            self.cut = Some(CutLine::Charged(epsilon));
        }
        self.to_store = Some(ToStore { keep, append });
        Ok(())
    }

    fn next_line(&self, label: &str, epsilon: Epsilon, delta: f64) -> (Vec<u8>, Head) {
        let entry = self.head.entry + 1;
        // A JSON string has no raw control characters or quotes, so a line is one line and its fields are found.
        let label = serde_json::Value::from(label);
        let spent = Decimal(self.spent + epsilon.nanos());
        let delta = if delta > 0.0 {
            format!(",\"delta\":{delta:?}")
        } else {
            String::new()
        };
        let body = format!(
            "{{\"entry\":{entry},\"label\":{label},\"epsilon\":{epsilon}{delta},\"spent\":{spent}"
        );
        let (line, hash) = finish_line(&self.head.hash, body);
        (line, Head { entry, hash })
    }

    /// What storage must do before the ledger can be used, if anything.
    pub fn to_store(&self) -> Option<&ToStore> {
        self.to_store.as_ref()
    }

    /// Says that [`Ledger::to_store`] was carried out and is durable.
    pub fn mark_stored(&mut self) {
        self.to_store = None;
    }

    /// What became of an unfinished last line, if there was one.
    pub fn cut_line(&self) -> Option<CutLine> {
        self.cut
    }

    /// Charges `epsilon` for one release. The expense counts once [`PendingGrant::stored`] is called.
    ///
    /// `label` is stored and released in the clear and must not depend on the data.
    ///
    /// # Errors
    /// [`Refused`]; then nothing changed.
    pub fn spend(&mut self, label: &str, epsilon: Epsilon) -> Result<PendingGrant<'_>, Refused> {
        self.spend_both(label, epsilon, 0.0)
    }

    /// Charges (ε, δ) for a group of approximate releases, for [`Grant::into_tables`]. Sums of ε and of δ are both kept
    /// within the ledger's (basic composition).
    ///
    /// # Errors
    /// [`Refused`]; then nothing changed. A `delta` that is not above 0 is refused as well.
    pub fn spend_approximate(
        &mut self,
        label: &str,
        epsilon: Epsilon,
        delta: f64,
    ) -> Result<PendingGrant<'_>, Refused> {
        if !(delta > 0.0 && add_delta(self.spent_delta, delta) <= self.delta_limit()) {
            return Err(Refused::OverDelta {
                asked: delta,
                left: (self.delta - self.spent_delta).max(0.0),
                total: self.delta,
            });
        }
        self.spend_both(label, epsilon, delta)
    }

    /// The ledger's δ with room for the rounding of sums of decimals.
    fn delta_limit(&self) -> f64 {
        self.delta * (1.0 + 1e-9)
    }

    fn spend_both(
        &mut self,
        label: &str,
        epsilon: Epsilon,
        delta: f64,
    ) -> Result<PendingGrant<'_>, Refused> {
        if self.in_doubt || self.to_store.is_some() {
            return Err(Refused::InDoubt);
        }
        if epsilon.nanos() > self.left_nanos() {
            return Err(Refused::OverBudget {
                asked: epsilon,
                left_nanos: self.left_nanos(),
                total: self.total,
            });
        }
        let (entry, head) = self.next_line(label, epsilon, delta);
        self.in_doubt = true;
        Ok(PendingGrant {
            ledger: self,
            entry,
            head,
            grant: Grant::new(label, epsilon, delta, head.entry),
        })
    }

    /// What the ledger may spend in total.
    pub fn total(&self) -> Epsilon {
        self.total
    }

    /// The δ the ledger was set up with.
    pub fn delta(&self) -> f64 {
        self.delta
    }

    /// Sum of the δ that was spent, rounded up.
    pub fn spent_delta(&self) -> f64 {
        self.spent_delta
    }

    /// What was spent, in billionths of ε.
    pub fn spent_nanos(&self) -> u64 {
        self.spent
    }

    /// What is left, in billionths of ε.
    pub fn left_nanos(&self) -> u64 {
        self.total.nanos() - self.spent
    }

    /// The largest ε that can still be spent; `None` when all is spent.
    pub fn left(&self) -> Option<Epsilon> {
        Epsilon::from_nanos(self.left_nanos()).ok()
    }

    /// Number and hash of the last entry, for keeping in a second place.
    pub fn head(&self) -> Head {
        self.head
    }
}

/// A grant whose entry is not stored yet.
///
/// The type is the rule "store, then answer": only [`PendingGrant::stored`] yields a [`Grant`], and calling it states
/// that [`PendingGrant::entry`] was appended and made durable. Until then the ledger is borrowed, so no second
/// expense can be prepared from the same balance. A pending grant that is dropped (or forgotten) leaves its ledger in
/// doubt, refusing everything: the entry may or may not have reached the disk.
#[derive(Debug)]
#[must_use = "dropping it leaves the ledger in doubt"]
pub struct PendingGrant<'a> {
    ledger: &'a mut Ledger,
    entry: Vec<u8>,
    head: Head,
    grant: Grant,
}

impl PendingGrant<'_> {
    /// The line to append, with its end.
    pub fn entry(&self) -> &[u8] {
        &self.entry
    }

    /// States that the entry is durable; the expense counts and the grant can be used.
    pub fn stored(self) -> Grant {
        self.ledger.spent += self.grant.epsilon().nanos();
        self.ledger.spent_delta = add_delta(self.ledger.spent_delta, self.grant.delta());
        self.ledger.head = self.head;
        self.ledger.in_doubt = false;
        self.grant
    }

    /// States that no byte of the entry is in storage; nothing was spent.
    pub fn abandon(self) {
        self.ledger.in_doubt = false;
    }
}

/// A sum of δ, rounded up.
fn add_delta(a: f64, b: f64) -> f64 {
    if b == 0.0 { a } else { (a + b).next_up() }
}

fn chain(previous: &[u8; 32], body: &[u8]) -> [u8; 32] {
    let mut sha = Sha256::new();
    sha.update(previous);
    sha.update(body);
    sha.finalize().into()
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

/// Closes a line that lacks its hash.
fn finish_line(previous: &[u8; 32], body: String) -> (Vec<u8>, [u8; 32]) {
    let hash = chain(previous, body.as_bytes());
    let line = format!("{body},\"hash\":\"{}\"}}\n", hex(&hash));
    (line.into_bytes(), hash)
}

/// The hashed part of a line and its hash.
fn split_hash(line: &[u8]) -> Option<(&[u8], [u8; 32])> {
    let (body, field) = line.split_at_checked(line.len().checked_sub(HASH_FIELD)?)?;
    let digits = field.strip_prefix(HASH_START)?.strip_suffix(b"\"}")?;
    Some((body, from_hex(digits)?))
}

/// The amount of an entry that was cut somewhere after it.
fn legible_epsilon(line: &[u8]) -> Option<Epsilon> {
    let text = String::from_utf8_lossy(line);
    let (_, after) = text.rsplit_once(",\"epsilon\":")?;
    let (number, _) = after.split_once(',')?;
    Epsilon::from_nanos(nanos_from_decimal(number).ok()?).ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn eps(text: &str) -> Epsilon {
        text.parse().unwrap()
    }

    fn settle(ledger: &mut Ledger, file: &mut Vec<u8>) {
        if let Some(store) = ledger.to_store() {
            file.truncate(store.keep);
            file.extend_from_slice(&store.append);
            ledger.mark_stored();
        }
    }

    fn sample() -> Vec<u8> {
        let mut file = Vec::new();
        let mut ledger = Ledger::open(eps("1"), 0.0, &file).unwrap();
        settle(&mut ledger, &mut file);
        for (label, e) in [
            ("a \"quoted\",\n label", "0.1"),
            ("b", "0.25"),
            ("c", "0.1"),
        ] {
            let pending = ledger.spend(label, eps(e)).unwrap();
            file.extend_from_slice(pending.entry());
            let _ = pending.stored();
        }
        file
    }

    fn spent(file: &[u8]) -> u64 {
        Ledger::open(eps("1"), 0.0, file).unwrap().spent_nanos()
    }

    #[test]
    fn reopens_with_what_was_spent() {
        let file = sample();
        assert_eq!(spent(&file), 450_000_000);
        assert!(file.starts_with(b"{\"version\":1,\"total\":1,\"delta\":0,\"hash\":\""));
        for line in file.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            serde_json::from_slice::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn every_changed_byte_is_found() {
        let file = sample();
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 1;
            let opened = Ledger::open(eps("1"), 0.0, &bad);
            // The very last line end is the one byte whose loss looks like a crash; what it became then is not a line.
            assert!(opened.is_err() || at == file.len() - 1, "byte {at}");
        }
    }

    #[test]
    fn removed_swapped_and_doubled_lines_are_found() {
        let file = sample();
        let lines: Vec<&[u8]> = file.split_inclusive(|b| *b == b'\n').collect();
        let join = |order: &[usize]| {
            let bytes: Vec<u8> = order.iter().flat_map(|i| lines[*i].to_vec()).collect();
            Ledger::open(eps("1"), 0.0, &bytes).map(|_| ())
        };
        assert_eq!(join(&[0, 1, 2, 3]), Ok(()));
        assert_eq!(join(&[0, 2, 3]), Err(LedgerError::Chain { line: 2 }));
        assert_eq!(join(&[0, 1, 3]), Err(LedgerError::Chain { line: 3 }));
        assert_eq!(join(&[0, 1, 3, 2]), Err(LedgerError::Chain { line: 3 }));
        assert_eq!(join(&[0, 1, 1, 2, 3]), Err(LedgerError::Chain { line: 3 }));
        assert_eq!(join(&[1, 2, 3]), Err(LedgerError::Chain { line: 1 }));
    }

    #[test]
    fn other_settings_are_refused() {
        let file = sample();
        let settings = |r: Result<Ledger, LedgerError>| match r {
            Err(LedgerError::Settings { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            settings(Ledger::open(eps("2"), 0.0, &file)),
            "total epsilon"
        );
        assert_eq!(settings(Ledger::open(eps("1"), 1e-9, &file)), "delta");
        for delta in [-0.1, 1.0, f64::NAN] {
            assert_eq!(
                Ledger::open(eps("1"), delta, &[]).unwrap_err(),
                LedgerError::Delta
            );
        }
    }

    #[test]
    fn a_crash_at_any_byte_never_gives_budget_back() {
        let file = sample();
        let ends: Vec<usize> = (0..file.len()).filter(|i| file[*i] == b'\n').collect();
        for cut in 0..=file.len() {
            let mut short = file[..cut].to_vec();
            let mut ledger = Ledger::open(eps("1"), 0.0, &short).unwrap();
            let whole = ends.iter().filter(|e| **e < cut).count();
            let at_least = [0u64, 0, 100, 350, 450][whole] * 1_000_000;
            assert!(ledger.spent_nanos() >= at_least, "cut at {cut}");
            assert!(
                matches!(ledger.spend("x", eps("0.1")), Err(Refused::InDoubt))
                    == ledger.to_store().is_some()
            );
            settle(&mut ledger, &mut short);
            // What was settled reads the same again, without a cut line.
            let again = Ledger::open(eps("1"), 0.0, &short).unwrap();
            assert_eq!(
                (again.cut_line(), again.spent_nanos(), again.head()),
                (None, ledger.spent_nanos(), ledger.head())
            );
        }
    }

    #[test]
    fn a_cut_line_with_a_legible_amount_is_charged() {
        let file = sample();
        let cut = |drop: usize| {
            Ledger::open(eps("1"), 0.0, &file[..file.len() - drop])
                .unwrap()
                .cut_line()
        };
        assert_eq!(cut(0), None);
        assert_eq!(cut(1), Some(CutLine::Completed));
        assert_eq!(cut(2), Some(CutLine::Charged(eps("0.1"))));
        assert_eq!(cut(HASH_FIELD + 20), Some(CutLine::Dropped));
    }

    #[test]
    fn a_ledger_from_a_backup_is_refused() {
        let file = sample();
        let head = Ledger::open(eps("1"), 0.0, &file).unwrap().head();
        let head: Head = head.to_string().parse().unwrap();
        assert!(Ledger::open_since(eps("1"), 0.0, &file, Some(head)).is_ok());
        let second_end = file
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'\n')
            .nth(1)
            .unwrap()
            .0;
        for old in [&file[..=second_end], &[]] {
            let got = Ledger::open_since(eps("1"), 0.0, old, Some(head));
            assert!(matches!(got, Err(LedgerError::Older { want: 3, .. })));
        }
        for bad in ["", "3", "3 zz", "x 00"] {
            assert!(bad.parse::<Head>().is_err());
        }
    }

    #[test]
    fn a_refused_question_leaves_no_trace() {
        let file = sample();
        let mut ledger = Ledger::open(eps("1"), 0.0, &file).unwrap();
        let before = (ledger.head(), ledger.spent_nanos());
        let refused = ledger.spend("too much", eps("0.550000001")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "privacy budget: asked for 0.550000001, left 0.55 of 1"
        );
        assert_eq!((ledger.head(), ledger.spent_nanos()), before);
        let _ = ledger.spend("all of it", eps("0.55")).unwrap().stored();
        assert_eq!((ledger.left_nanos(), ledger.left()), (0, None));
    }

    #[test]
    fn a_dropped_pending_grant_stops_the_ledger() {
        let file = sample();
        let mut ledger = Ledger::open(eps("1"), 0.0, &file).unwrap();
        drop(ledger.spend("lost", eps("0.1")).unwrap());
        assert_eq!(
            ledger.spend("next", eps("0.1")).unwrap_err(),
            Refused::InDoubt
        );
        let mut ledger = Ledger::open(eps("1"), 0.0, &file).unwrap();
        ledger
            .spend("nothing written", eps("0.1"))
            .unwrap()
            .abandon();
        assert_eq!(ledger.spent_nanos(), 450_000_000);
        assert!(ledger.spend("next", eps("0.1")).is_ok());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Spend(u64),
        Abandon(u64),
        CrashBeforeWrite(u64),
        CrashAfterWrite(u64),
        CrashInWrite(u64, usize),
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        let amount = 1..400_000_000u64;
        prop_oneof![
            4 => amount.clone().prop_map(Step::Spend),
            1 => amount.clone().prop_map(Step::Abandon),
            1 => amount.clone().prop_map(Step::CrashBeforeWrite),
            1 => amount.clone().prop_map(Step::CrashAfterWrite),
            1 => (amount, 0..200usize).prop_map(|(a, n)| Step::CrashInWrite(a, n)),
            1 => Just(Step::Reopen),
        ]
    }

    proptest! {
        #[test]
        fn no_interleaving_answers_more_than_the_total(steps in proptest::collection::vec(step(), 1..40)) {
            let total = eps("1");
            let mut file = Vec::new();
            let mut answered = 0u64;
            let open = |file: &mut Vec<u8>| {
                let mut ledger = Ledger::open(total, 0.0, file).unwrap();
                settle(&mut ledger, file);
                ledger
            };
            let mut ledger = open(&mut file);
            for step in steps {
                let (Step::Spend(n) | Step::Abandon(n) | Step::CrashBeforeWrite(n) | Step::CrashAfterWrite(n)
                    | Step::CrashInWrite(n, _)) = step
                else {
                    ledger = open(&mut file);
                    continue;
                };
                let epsilon = Epsilon::from_nanos(n).unwrap();
                let Ok(pending) = ledger.spend("q", epsilon) else {
                    prop_assert!(n > ledger.left_nanos());
                    continue;
                };
                match step {
                    Step::Spend(_) => {
                        file.extend_from_slice(pending.entry());
                        answered += pending.stored().epsilon().nanos();
                    }
                    Step::Abandon(_) => pending.abandon(),
                    Step::CrashAfterWrite(_) => {
                        file.extend_from_slice(pending.entry());
                        drop(pending);
                        ledger = open(&mut file);
                    }
                    Step::CrashInWrite(_, cut) => {
                        let cut = cut.min(pending.entry().len());
                        file.extend_from_slice(&pending.entry()[..cut]);
                        drop(pending);
                        ledger = open(&mut file);
                    }
                    _ => {
                        drop(pending);
                        ledger = open(&mut file);
                    }
                }
                prop_assert!(answered <= ledger.spent_nanos());
                prop_assert!(ledger.spent_nanos() <= total.nanos());
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_made_new(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(ledger) = Ledger::open(eps("1"), 0.0, &bytes) {
                prop_assert_eq!(ledger.spent_nanos(), 0);
                prop_assert!(ledger.to_store().is_some());
            }
        }
    }
}
