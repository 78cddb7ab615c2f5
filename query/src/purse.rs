//! The ledger of a site: its purses stand in it, every process shares it, the gateway's telemetry too.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use chaff_ledger::{LedgerFile, LedgerFileError};
use chaff_privacy::{Budget, Epsilon, Expense, Grant, Rho};
use serde::{Deserialize, Serialize};

/// What a ledger made here protects.
pub const UNIT: &str = "all flows of one unit of a question";

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PurseError {
    /// It is not there.
    #[error(
        "--ledger {0}: no such ledger; make one with `query ledger --ledger {0} --budget EPSILON`"
    )]
    Missing(String),
    /// It is one of an older version, or of `trainer synth`.
    #[error(
        "--ledger {0}: a ledger of version 1, which has one sum for ever and no purses of 24 hours; keep it as a record and make another one with `query ledger --ledger FILE --budget EPSILON`"
    )]
    Lifetime(String),
    /// It has no purse of ε.
    #[error("--ledger {0}: it has no purse of epsilon, which every answer is paid from")]
    NoPurse(String),
    /// Reading, locking, a wrong chain, too little left.
    #[error(transparent)]
    File(#[from] LedgerFileError),
}

/// Opens a ledger that is there.
///
/// # Errors
/// [`PurseError`].
pub fn open(path: &Path) -> Result<LedgerFile, PurseError> {
    let name = || path.display().to_string();
    let ledger = match LedgerFile::reopen(path) {
        Err(LedgerFileError::Missing { .. }) => return Err(PurseError::Missing(name())),
        other => other?,
    };
    match ledger.ledger().budget().day {
        None => Err(PurseError::Lifetime(name())),
        Some(day) if day.epsilon.is_none() => Err(PurseError::NoPurse(name())),
        Some(_) => Ok(ledger),
    }
}

/// Makes a ledger.
///
/// # Errors
/// [`PurseError`].
pub fn make(path: &Path, budget: Budget) -> Result<LedgerFile, PurseError> {
    Ok(LedgerFile::open_shared(path, budget)?)
}

/// Pays; the entry is durable when this returns.
///
/// # Errors
/// [`PurseError`]; then nothing was paid.
pub fn pay(
    ledger: &mut LedgerFile,
    label: &str,
    epsilon: Epsilon,
    delta: f64,
) -> Result<Grant, PurseError> {
    let paid = ledger.charge(&Expense {
        label,
        at_ns: now_ns(),
        epsilon: Some(epsilon),
        delta,
        ..Expense::default()
    })?;
    // What was paid in ε alone is such a grant.
    paid.into_grant()
        .ok_or_else(|| PurseError::NoPurse(ledger.path().display().to_string()))
}

/// The system's clock, nanoseconds since 1970.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// The expenses of a ledger that was opened, as they are stored.
///
/// # Errors
/// What the system said.
pub fn entries(path: &Path) -> std::io::Result<Vec<Entry>> {
    let mut text = String::new();
    File::open(path)?.read_to_string(&mut text)?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// One expense.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Entry {
    /// Its number.
    pub entry: u64,
    /// When it counts, nanoseconds since 1970.
    #[serde(default)]
    pub at_ns: u64,
    /// What for.
    pub label: String,
    /// ε.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<Epsilon>,
    /// ρ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rho: Option<Rho>,
    /// δ.
    #[serde(default)]
    pub delta: f64,
    /// What it protects, when that is not the ledger's unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_unit: Option<String>,
}
