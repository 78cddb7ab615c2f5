//! The ledger of a site: its totals stand in it, every process shares it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use chaff_privacy::Epsilon;
use chaff_privacy::file::{LedgerFile, LedgerFileError};
use serde::Deserialize;

/// How long to wait for another process to finish paying.
const PATIENCE: Duration = Duration::from_secs(30);
/// A first line is shorter.
const FIRST_LINE: u64 = 1024;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PurseError {
    /// It is not there.
    #[error(
        "--ledger {0}: no such ledger; make one with `query ledger --ledger {0} --budget EPSILON`"
    )]
    Missing(String),
    /// Its first line is no header.
    #[error("--ledger {0}: its first line is no header of a ledger")]
    Header(String),
    /// Reading, locking, a wrong chain, too little left.
    #[error(transparent)]
    File(#[from] LedgerFileError),
}

#[derive(Deserialize)]
struct Header {
    total: Epsilon,
    delta: f64,
}

/// Opens a ledger that is there.
///
/// # Errors
/// [`PurseError`].
pub fn open(path: &Path) -> Result<LedgerFile, PurseError> {
    let name = || path.display().to_string();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(PurseError::Missing(name()));
        }
        Err(_) => return Err(PurseError::Header(name())),
    };
    let mut line = String::new();
    BufReader::new(file.take(FIRST_LINE))
        .read_line(&mut line)
        .map_err(|_| PurseError::Header(name()))?;
    let header: Header = serde_json::from_str(&line).map_err(|_| PurseError::Header(name()))?;
    open_with(path, header.total, header.delta)
}

/// Opens or makes a ledger with these totals.
///
/// # Errors
/// [`PurseError`].
pub fn open_with(path: &Path, total: Epsilon, delta: f64) -> Result<LedgerFile, PurseError> {
    let started = Instant::now();
    loop {
        match LedgerFile::open(path, total, delta) {
            Err(LedgerFileError::Locked { .. }) if started.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(20));
            }
            other => return Ok(other?),
        }
    }
}

/// The ledger's entries as they are stored: number, label, ε.
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
#[derive(Clone, Debug, PartialEq, Deserialize, serde::Serialize)]
pub struct Entry {
    /// Its number.
    pub entry: u64,
    /// What for.
    pub label: String,
    /// ε.
    pub epsilon: f64,
    /// δ.
    #[serde(default)]
    pub delta: f64,
}
