use super::{Expense, Head, Ledger, Rho};
use crate::Epsilon;
use crate::grant::Grant;

/// A grant whose entry is not stored yet.
///
/// The type is the rule "store, then answer": only [`Pending::stored`] yields the grant, and calling it states
/// that [`Pending::entry`] was appended and made durable. Until then the ledger is borrowed, so no second
/// expense can be prepared from the same balance. A pending grant that is dropped (or forgotten) leaves its ledger in
/// doubt, refusing everything: the entry may or may not have reached the disk.
#[derive(Debug)]
#[must_use = "dropping it leaves the ledger in doubt"]
pub struct Pending<'a, G> {
    ledger: &'a mut Ledger,
    line: Vec<u8>,
    head: Head,
    counted: Counted,
    grant: G,
}

/// A pending release of one kind: pure, or approximate with its δ.
pub type PendingGrant<'a> = Pending<'a, Grant>;

/// An expense that outlives its texts.
#[derive(Debug)]
struct Counted {
    label: String,
    window: Option<(String, u64)>,
    other_unit: Option<String>,
    rest: Expense<'static>,
}

impl Counted {
    fn of(e: &Expense<'_>) -> Self {
        Self {
            label: e.label.to_owned(),
            window: e.window.map(|(stream, n)| (stream.to_owned(), n)),
            other_unit: e.other_unit.map(str::to_owned),
            rest: Expense {
                label: "",
                window: None,
                other_unit: None,
                at_ns: e.at_ns,
                epsilon: e.epsilon,
                rho: e.rho,
                delta: e.delta,
            },
        }
    }

    fn expense(&self) -> Expense<'_> {
        Expense {
            label: &self.label,
            window: self.window.as_ref().map(|(s, n)| (s.as_str(), *n)),
            other_unit: self.other_unit.as_deref(),
            ..self.rest
        }
    }
}

impl<'a, G> Pending<'a, G> {
    pub(super) fn new(
        ledger: &'a mut Ledger,
        line: Vec<u8>,
        head: Head,
        expense: &Expense<'_>,
        grant: G,
    ) -> Self {
        Self {
            ledger,
            line,
            head,
            counted: Counted::of(expense),
            grant,
        }
    }

    /// The line to append, with its end.
    pub fn entry(&self) -> &[u8] {
        &self.line
    }

    /// States that the entry is durable; the expense counts and the grant can be used.
    pub fn stored(self) -> G {
        self.ledger.count(self.head.entry, &self.counted.expense());
        self.ledger.head = self.head;
        self.ledger.in_doubt = false;
        self.grant
    }

    /// States that no byte of the entry is in storage; nothing was spent.
    pub fn abandon(self) {
        self.ledger.in_doubt = false;
    }
}

/// A stored expense of a ledger with daily purses: the right to one release.
#[derive(Debug, PartialEq)]
#[must_use = "the budget is already spent"]
pub struct Paid {
    pub(crate) label: String,
    pub(crate) epsilon: Option<Epsilon>,
    pub(crate) rho: Option<Rho>,
    pub(crate) delta: f64,
    pub(crate) entry: u64,
}

impl Paid {
    /// What was paid from the purse of pure releases.
    pub fn epsilon(&self) -> Option<Epsilon> {
        self.epsilon
    }

    /// What was paid from the purse of Gaussian releases.
    pub fn rho(&self) -> Option<Rho> {
        self.rho
    }

    /// Number of the ledger's entry.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// As a grant for the mechanisms of pure ε, or of ε and δ; `None` when it was paid in ρ.
    pub fn into_grant(self) -> Option<Grant> {
        match (self.epsilon, self.rho) {
            (Some(epsilon), None) => Some(Grant::new(&self.label, epsilon, self.delta, self.entry)),
            _ => None,
        }
    }
}
