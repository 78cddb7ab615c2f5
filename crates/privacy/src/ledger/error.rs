use crate::Epsilon;
use crate::epsilon::Decimal;

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
    /// More was spent than the total, or within 24 hours than a day's purse.
    #[error("line {line} spends more than the budget allows")]
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
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
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
    /// Some 24 hours that hold it would exceed a day's purse.
    #[error("privacy budget of any 24 hours: asked for {purse} {}, left {} of {}", amount(purse, *asked_nanos), amount(purse, *left_nanos), amount(purse, *day_nanos))]
    OverDay {
        /// `epsilon`, `rho` or `delta` (this one in 10^-18, not in billionths).
        purse: &'static str,
        /// Asked for, in billionths.
        asked_nanos: u64,
        /// What is left, in billionths.
        left_nanos: u64,
        /// The day's purse, in billionths.
        day_nanos: u64,
    },
    /// The ledger has no daily purses, or the expense asks for nothing, or for a δ that is none.
    #[error("this ledger cannot take the expense: {what}")]
    Expense {
        /// What does not fit.
        what: &'static str,
    },
    /// The window was paid before: its answer is not noised again.
    #[error(
        "window {window} of {stream} was released before (the last was {last}); it is not noised again"
    )]
    Again {
        /// The series of releases.
        stream: String,
        /// The window asked for.
        window: u64,
        /// The last one that was paid.
        last: u64,
        /// Number of the entry that paid for the last one.
        entry: u64,
    },
    /// More than two days before the newest entry: the clock was set back.
    #[error(
        "the time lies more than 48 hours before the ledger's newest entry: the clock was set back"
    )]
    Past,
    /// It is not known what storage holds: [`crate::Ledger::to_store`] was not done, or storing an earlier entry failed.
    /// Opening the ledger again from storage settles it.
    #[error("the ledger's stored state is in doubt; open it again")]
    InDoubt,
}

/// An amount of a purse as people write it.
fn amount(purse: &str, steps: u64) -> String {
    match purse {
        // So many digits that the room for sums of decimals does not show.
        "delta" => {
            let text = format!("{:.7e}", steps as f64 * super::budget::DELTA_STEP);
            text.parse::<f64>().map_or(text, |v| v.to_string())
        }
        _ => Decimal(steps).to_string(),
    }
}
