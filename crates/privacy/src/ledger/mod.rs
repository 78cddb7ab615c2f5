//! The privacy budget: what may be spent, what was, and the text it is kept as.

mod budget;
mod error;
mod line;
mod pending;

use std::collections::BTreeMap;

pub use budget::{Budget, DAY_NS, Day, Expense, Rho};
pub use error::{LedgerError, Refused};
pub use line::Head;
pub use pending::{Paid, Pending, PendingGrant};

use crate::Epsilon;
use crate::grant::Grant;
use budget::{Amounts, Recent};
use line::{EntryLine, HeaderLine};

const RECOVERED: &str = "recovered after a crash";

/// The privacy budget of one place: what it may spend and what it has spent.
///
/// Two kinds, by how it was set up ([`Budget`]): one sum for ever, or daily purses, where the sum over **any** 24 hours
/// stays within the purse of pure ε and the purse of ρ. Within a purse plain sums are a valid filter when later questions
/// depend on earlier answers; all releases of any 24 hours together cost `day.epsilon + epsilon_of_rho(day.rho, δ)`.
///
/// Stored as JSON lines that are only ever appended. The first line holds format version and budget; each further
/// line one expense. Every line ends in the SHA-256 of the previous line's hash and of its own text, so a line that is
/// changed, removed or moved is found when the ledger is opened. A ledger that was cut at the end of a line, or put
/// back from a backup, is found by the [`Head`] kept in a second place ([`Ledger::open_since`]).
///
/// Who stores it: the caller, before the answer. See [`Pending`].
#[derive(Debug)]
pub struct Ledger {
    budget: Budget,
    spent: u64,
    /// Sum of the entries' δ, rounded up; without daily purses.
    spent_delta: f64,
    recent: Recent,
    /// The last window of each series, and its entry.
    windows: BTreeMap<String, (u64, u64)>,
    has_header: bool,
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

impl Ledger {
    /// Opens a ledger without daily purses from its stored bytes; no bytes make a new one.
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
        Self::open_budget(Budget::lifetime(total, delta), stored, since)
    }

    /// What a stored ledger was set up with, by its first line alone: to open it without saying so again. Opening it
    /// still checks that line.
    ///
    /// # Errors
    /// [`LedgerError::Format`] when there is no whole first line, or it is no header.
    pub fn stored_budget(stored: &[u8]) -> Result<Budget, LedgerError> {
        let format = |what| LedgerError::Format { line: 1, what };
        let end = stored.iter().position(|b| *b == b'\n');
        let text = &stored[..end.ok_or(format("it is not whole"))?];
        let (body, _) = line::split_hash(text).ok_or(format("no hash at its end"))?;
        let mut json = body.to_vec();
        json.push(b'}');
        let header: HeaderLine =
            serde_json::from_slice(&json).map_err(|_| format("the first line is no header"))?;
        match header.version {
            1 => Ok(Budget::lifetime(header.total, header.delta)),
            2 => Ok(Budget {
                unit: header.unit.unwrap_or_default(),
                total: header.total,
                delta: header.delta,
                day: Some(Day {
                    epsilon: header.day_epsilon,
                    rho: header.day_rho,
                }),
            }),
            _ => Err(format("a version that is not known here")),
        }
    }

    /// Opens a ledger of any kind; see [`Ledger::open_since`].
    ///
    /// # Errors
    /// As [`Ledger::open_since`].
    pub fn open_budget(
        budget: Budget,
        stored: &[u8],
        since: Option<Head>,
    ) -> Result<Self, LedgerError> {
        if !(0.0..1.0).contains(&budget.delta) {
            return Err(LedgerError::Delta);
        }
        let mut ledger = Self {
            budget,
            spent: 0,
            spent_delta: 0.0,
            recent: Recent::default(),
            windows: BTreeMap::new(),
            has_header: false,
            head: Head::default(),
            to_store: None,
            cut: None,
            in_doubt: false,
        };
        let seen = ledger.follow(0, stored, since)?;
        match since {
            Some(since) if !seen => Err(LedgerError::Older {
                want: since.entry,
                found: ledger.head.entry,
            }),
            _ => Ok(ledger),
        }
    }

    /// Reads what another process appended after the first `from` bytes, which were read before; `since` comes from the
    /// second place. Afterwards [`Ledger::to_store`] may ask for something, as after opening.
    ///
    /// # Errors
    /// As [`Ledger::open_since`]. Then the ledger is in doubt and spends nothing more.
    pub fn read_on(
        &mut self,
        from: usize,
        appended: &[u8],
        since: Option<Head>,
    ) -> Result<(), LedgerError> {
        self.in_doubt = true;
        let before = self.head;
        let seen = self.follow(from, appended, since)?;
        // Older heads were compared when they were the newest.
        if let Some(since) = since
            && !seen
            && since.entry >= before.entry
            && since != before
        {
            return Err(LedgerError::Older {
                want: since.entry,
                found: self.head.entry,
            });
        }
        self.in_doubt = false;
        Ok(())
    }

    /// Whether `since` was among the lines read.
    fn follow(
        &mut self,
        from: usize,
        stored: &[u8],
        since: Option<Head>,
    ) -> Result<bool, LedgerError> {
        let mut seen = false;
        let mut keep = from;
        let mut tail: &[u8] = &[];
        for line in stored.split_inclusive(|b| *b == b'\n') {
            let Some(text) = line.strip_suffix(b"\n") else {
                tail = line;
                break;
            };
            self.read_line(text)?;
            keep += line.len();
            seen |= since == Some(self.head);
        }
        self.settle_tail(keep, tail)?;
        Ok(seen | (since == Some(self.head)))
    }

    /// Reads the next line, given without its end.
    fn read_line(&mut self, text: &[u8]) -> Result<(), LedgerError> {
        let number = if self.has_header {
            self.head.entry + 1
        } else {
            0
        };
        let line = number as usize + 1;
        let format = |what| LedgerError::Format { line, what };
        let (body, hash) = line::split_hash(text).ok_or(format("no hash at its end"))?;
        if line::chain(&self.head.hash, body) != hash {
            return Err(LedgerError::Chain { line });
        }
        let mut json = body.to_vec();
        json.push(b'}');
        if number == 0 {
            let header: HeaderLine =
                serde_json::from_slice(&json).map_err(|_| format("the first line is no header"))?;
            self.check_header(&header)?;
            self.has_header = true;
        } else {
            let entry: EntryLine =
                serde_json::from_slice(&json).map_err(|_| format("not an entry"))?;
            if entry.entry != number {
                return Err(format("wrong entry number"));
            }
            if entry.stream.is_some() != entry.window.is_some() {
                return Err(format("a window without its series"));
            }
            let timed = self.budget.day.is_some();
            if entry.at_ns.is_some() != timed || (!timed && entry.epsilon.is_none()) {
                return Err(format("not an entry of this kind of ledger"));
            }
            let expense = Expense {
                label: &entry.label,
                at_ns: entry.at_ns.unwrap_or(0),
                epsilon: entry.epsilon,
                rho: entry.rho,
                delta: entry.delta,
                window: entry.stream.as_deref().zip(entry.window),
                other_unit: entry.other_unit.as_deref(),
            };
            self.check(&expense)
                .map_err(|_| LedgerError::OverSpent { line })?;
            self.count(number, &expense);
            if entry.spent != self.spent {
                return Err(format("the running sum is wrong"));
            }
        }
        self.head = Head {
            entry: number,
            hash,
        };
        Ok(())
    }

    fn check_header(&self, header: &HeaderLine) -> Result<(), LedgerError> {
        let budget = &self.budget;
        let day = budget.day.unwrap_or_default();
        let version = 1 + u32::from(budget.day.is_some());
        let purse = |nanos: Option<u64>| {
            nanos.map_or("nothing".to_owned(), |n| {
                crate::epsilon::Decimal(n).to_string()
            })
        };
        let unit = |text: &str| format!("`{text}`");
        let stored_unit = header.unit.as_deref().unwrap_or_default();
        for (what, stored, given) in [
            (
                "format version",
                header.version.to_string(),
                version.to_string(),
            ),
            (
                "total epsilon",
                header.total.to_string(),
                budget.total.to_string(),
            ),
            ("delta", header.delta.to_string(), budget.delta.to_string()),
            ("the unit", unit(stored_unit), unit(&budget.unit)),
            (
                "epsilon of a day",
                purse(header.day_epsilon.map(Epsilon::nanos)),
                purse(day.epsilon.map(Epsilon::nanos)),
            ),
            (
                "rho of a day",
                purse(header.day_rho.map(Rho::nanos)),
                purse(day.rho.map(Rho::nanos)),
            ),
        ] {
            if stored != given {
                return Err(LedgerError::Settings {
                    what,
                    stored,
                    given,
                });
            }
        }
        Ok(())
    }

    /// Deals with what stands after the last line end: nothing, or a line that a crash cut.
    fn settle_tail(&mut self, keep: usize, tail: &[u8]) -> Result<(), LedgerError> {
        if !self.has_header {
            if !tail.is_empty() {
                self.cut = Some(CutLine::Dropped);
            }
            let (append, hash) = line::finish(&self.head.hash, &line::header(&self.budget));
            self.head = Head { entry: 0, hash };
            self.has_header = true;
            self.to_store = Some(ToStore { keep, append });
            return Ok(());
        }
        if tail.is_empty() {
            return Ok(());
        }
        if line::split_hash(tail).is_some() {
            self.read_line(tail)?;
            self.cut = Some(CutLine::Completed);
            self.to_store = Some(ToStore {
                keep: keep + tail.len(),
                append: b"\n".to_vec(),
            });
            return Ok(());
        }
        let mut append = Vec::new();
        self.cut = Some(CutLine::Dropped);
        if self.budget.day.is_none()
            && let Some(epsilon) = line::legible_epsilon(tail)
            && epsilon.nanos() <= self.left_nanos()
        {
            let expense = Expense {
                label: RECOVERED,
                epsilon: Some(epsilon),
                ..Expense::default()
            };
            let (line, head) = self.next_line(&expense);
            append = line;
            self.count(head.entry, &expense);
            self.head = head;
            self.cut = Some(CutLine::Charged(epsilon));
        }
        self.to_store = Some(ToStore { keep, append });
        Ok(())
    }

    /// The pure ε that counts against the total.
    fn pure_nanos(expense: &Expense<'_>) -> u64 {
        match expense.other_unit {
            Some(_) => 0,
            None => expense.epsilon.map_or(0, Epsilon::nanos),
        }
    }

    fn next_line(&self, expense: &Expense<'_>) -> (Vec<u8>, Head) {
        let entry = self.head.entry + 1;
        let spent = self.spent + Self::pure_nanos(expense);
        let timed = self.budget.day.is_some();
        let body = line::entry(entry, timed, expense, spent);
        let (line, hash) = line::finish(&self.head.hash, &body);
        (line, Head { entry, hash })
    }

    /// Whether the budget allows it.
    fn check(&self, e: &Expense<'_>) -> Result<(), Refused> {
        if !(0.0..1.0).contains(&e.delta) {
            return Err(Refused::Expense {
                what: "delta must be at least 0 and below 1",
            });
        }
        if let Some((stream, window)) = e.window
            && let Some((last, entry)) = self.windows.get(stream)
            && window <= *last
        {
            return Err(Refused::Again {
                stream: stream.to_owned(),
                window,
                last: *last,
                entry: *entry,
            });
        }
        if e.epsilon.is_none() && e.rho.is_none() && e.delta == 0.0 {
            // A window that another entry paid for is noted, so that it is not noised again.
            return match (e.window, self.budget.day) {
                (Some(_), Some(_)) => Ok(()),
                _ => Err(Refused::Expense {
                    what: "it asks for nothing",
                }),
            };
        }
        if e.other_unit.is_some() && self.budget.day.is_some() {
            return Ok(());
        }
        if let Some(epsilon) = e.epsilon
            && epsilon.nanos() > self.left_nanos()
        {
            return Err(Refused::OverBudget {
                asked: epsilon,
                left_nanos: self.left_nanos(),
                total: self.budget.total,
            });
        }
        if let Some(day) = &self.budget.day {
            let amounts = Amounts::of(e.epsilon, e.rho, e.delta);
            return self.recent.check(day, self.budget.delta, e.at_ns, amounts);
        }
        if e.rho.is_some() || e.window.is_some() || e.other_unit.is_some() {
            return Err(Refused::Expense {
                what: "it has no daily purses",
            });
        }
        if e.delta > 0.0 && add_delta(self.spent_delta, e.delta) > self.delta_limit() {
            return Err(Refused::OverDelta {
                asked: e.delta,
                left: (self.budget.delta - self.spent_delta).max(0.0),
                total: self.budget.delta,
            });
        }
        Ok(())
    }

    /// Counts what is stored.
    fn count(&mut self, entry: u64, e: &Expense<'_>) {
        self.spent += Self::pure_nanos(e);
        if let Some((stream, window)) = e.window {
            self.windows.insert(stream.to_owned(), (window, entry));
        }
        if self.budget.day.is_none() {
            self.spent_delta = add_delta(self.spent_delta, e.delta);
        } else if e.other_unit.is_none() {
            let amounts = Amounts::of(e.epsilon, e.rho, e.delta);
            if amounts != Amounts::default() {
                self.recent.push(e.at_ns, amounts);
            }
        }
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

    /// Charges `epsilon` for one release. The expense counts once [`Pending::stored`] is called.
    ///
    /// `label` is stored and released in the clear and must not depend on the data.
    ///
    /// # Errors
    /// [`Refused`]; then nothing changed. A ledger with daily purses needs the time: [`Ledger::charge`].
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
        if delta.is_nan() || delta <= 0.0 {
            return Err(Refused::OverDelta {
                asked: delta,
                left: (self.budget.delta - self.spent_delta).max(0.0),
                total: self.budget.delta,
            });
        }
        self.spend_both(label, epsilon, delta)
    }

    /// The ledger's δ with room for the rounding of sums of decimals.
    fn delta_limit(&self) -> f64 {
        self.budget.delta * (1.0 + 1e-9)
    }

    fn spend_both(
        &mut self,
        label: &str,
        epsilon: Epsilon,
        delta: f64,
    ) -> Result<PendingGrant<'_>, Refused> {
        if self.budget.day.is_some() {
            return Err(Refused::Expense {
                what: "with daily purses it needs the time",
            });
        }
        let expense = Expense {
            label,
            epsilon: Some(epsilon),
            delta,
            ..Expense::default()
        };
        self.pend(&expense, |entry| Grant::new(label, epsilon, delta, entry))
    }

    /// Charges an expense of a ledger with daily purses. It counts once [`Pending::stored`] is called.
    ///
    /// # Errors
    /// [`Refused`]; then nothing changed.
    pub fn charge(&mut self, expense: &Expense<'_>) -> Result<Pending<'_, Paid>, Refused> {
        if self.budget.day.is_none() {
            return Err(Refused::Expense {
                what: "it has no daily purses",
            });
        }
        let paid = Paid {
            label: expense.label.to_owned(),
            epsilon: expense.epsilon,
            rho: expense.rho,
            delta: expense.delta,
            entry: 0,
        };
        self.pend(expense, |entry| Paid { entry, ..paid })
    }

    fn pend<G>(
        &mut self,
        expense: &Expense<'_>,
        grant: impl FnOnce(u64) -> G,
    ) -> Result<Pending<'_, G>, Refused> {
        if self.in_doubt || self.to_store.is_some() {
            return Err(Refused::InDoubt);
        }
        self.check(expense)?;
        let (line, head) = self.next_line(expense);
        self.in_doubt = true;
        Ok(Pending::new(self, line, head, expense, grant(head.entry)))
    }

    /// The budget it was set up with.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// What the ledger may spend of pure ε in total.
    pub fn total(&self) -> Epsilon {
        self.budget.total
    }

    /// The δ the ledger was set up with.
    pub fn delta(&self) -> f64 {
        self.budget.delta
    }

    /// Sum of the δ that was spent, rounded up; without daily purses.
    pub fn spent_delta(&self) -> f64 {
        self.spent_delta
    }

    /// What was spent of pure ε since it was set up, in billionths.
    pub fn spent_nanos(&self) -> u64 {
        self.spent
    }

    /// What is left of the total, in billionths of ε.
    pub fn left_nanos(&self) -> u64 {
        self.budget.total.nanos() - self.spent
    }

    /// The largest ε that can still be spent of the total; `None` when all is spent.
    pub fn left(&self) -> Option<Epsilon> {
        Epsilon::from_nanos(self.left_nanos()).ok()
    }

    /// What an expense at `at_ns` finds in the daily purses, ε and ρ in billionths; without purses the total's rest.
    pub fn day_left_nanos(&self, at_ns: u64) -> (u64, u64) {
        let Some(day) = &self.budget.day else {
            return (self.left_nanos(), 0);
        };
        let used = self.recent.used(at_ns);
        let left = |purse: u64, used: u64| purse.saturating_sub(used);
        let purses = Amounts::of(day.epsilon, day.rho, 0.0);
        (
            left(purses.epsilon, used.epsilon).min(self.left_nanos()),
            left(purses.rho, used.rho),
        )
    }

    /// The δ that an expense at `at_ns` finds: of any 24 hours with daily purses, else of the total.
    pub fn delta_left(&self, at_ns: u64) -> f64 {
        match self.budget.day {
            Some(_) => self.recent.delta_left(self.budget.delta, at_ns),
            None => (self.budget.delta - self.spent_delta).max(0.0),
        }
    }

    /// The last window of a series that was paid, and the number of its entry.
    pub fn last_window(&self, stream: &str) -> Option<(u64, u64)> {
        self.windows.get(stream).copied()
    }

    /// Number and hash of the last entry, for keeping in a second place.
    pub fn head(&self) -> Head {
        self.head
    }
}

/// A sum of δ, rounded up.
fn add_delta(a: f64, b: f64) -> f64 {
    if b == 0.0 { a } else { (a + b).next_up() }
}

#[cfg(test)]
mod tests;
