//! The whole way of a question: check what is public, pay, compute, clamp, noise, keep.

use std::io;
use std::path::{Path, PathBuf};

use chaff_ledger::LedgerFile;
use chaff_privacy::{BoundsError, ReleaseError};

use crate::cache;
use crate::engine::{Databases, Engine, Table, Unready};
use crate::purse::{self, PurseError};
use crate::release::{self, Answer, Grants};
use crate::request::{Request, UnitKey};
use crate::source::{Source, SourceError};

/// Longest label in a ledger, bytes.
const LABEL: usize = 400;

/// Why there is no answer. None of these depends on flows: they come before paying, but for the last two, which depend on
/// the machine only.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The request is wrong in itself.
    #[error("{0}")]
    Request(String),
    /// Its bounds are.
    #[error("--bounds: {0}")]
    Bounds(#[from] BoundsError),
    /// The files do not fit it.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A database is missing.
    #[error("{0}")]
    Database(&'static str),
    /// The engine cannot begin.
    #[error(transparent)]
    Engine(#[from] Unready),
    /// The budget does not allow it, or the ledger cannot be used.
    #[error(transparent)]
    Purse(#[from] PurseError),
    /// No randomness.
    #[error("while reading /dev/urandom: {0}")]
    Randomness(io::Error),
    /// The noise could not be made.
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

/// A question with all that it is about.
#[derive(Debug)]
pub struct Question<'a> {
    /// What is asked.
    pub request: &'a Request,
    /// About what.
    pub source: &'a Source,
    /// With which files of addresses.
    pub databases: &'a Databases,
}

/// How a question ended.
#[derive(Debug)]
pub struct Outcome {
    /// The answer.
    pub answer: Answer,
    /// What the ledger says that it protects.
    pub ledger_unit: String,
    /// The engine failed, and the answer is one about no flows. **For the owner only**: it may tell of the data.
    pub engine_failed: bool,
    /// The answer could not be kept, so asking again will cost again.
    pub not_kept: Option<(PathBuf, io::Error)>,
}

impl Question<'_> {
    /// Everything that can be refused without paying.
    ///
    /// # Errors
    /// [`AskError`]; nothing of it comes from flows.
    pub fn check(&self) -> Result<(), AskError> {
        self.request
            .check(self.source.format)
            .map_err(AskError::Request)?;
        release::check_bounds(self.request)?;
        self.source.check(self.request)?;
        if self.request.filter.asn.is_some() && self.databases.asns.is_none() {
            return Err(AskError::Database(
                "--asn needs --asn-db FILE, a database of prefixes (pyasn, mmdb or MRT)",
            ));
        }
        if self.request.unit == UnitKey::Listed && self.databases.units.is_none() {
            return Err(AskError::Database(
                "--unit listed needs --units FILE, lines of address,group",
            ));
        }
        Ok(())
    }

    fn key(&self) -> String {
        let asns = self
            .databases
            .asns
            .as_ref()
            .filter(|_| self.request.filter.asn.is_some());
        let units = self
            .databases
            .units
            .as_ref()
            .filter(|_| self.request.unit == UnitKey::Listed);
        cache::key(
            self.request,
            &[
                self.source.format.name(),
                &self.source.version,
                asns.map_or("", |a| a.version.as_str()),
                units.map_or("", |u| u.version.as_str()),
            ],
        )
    }
}

/// Asks, pays from the ledger, answers. A question that was asked before of the same data is answered as before, for free.
///
/// # Errors
/// [`AskError`].
pub fn ask(
    engine: &dyn Engine,
    question: &Question<'_>,
    ledger: &Path,
    mut noise: release::Source,
) -> Result<Outcome, AskError> {
    question.check()?;
    let kept = cache::beside(ledger);
    let key = question.key();
    // A ledger that was changed or put back answers nothing, not even again. It is locked while it pays only.
    let mut purse = purse::open(ledger)?;
    let ledger_unit = purse.ledger().budget().unit.clone();
    if let Some(answer) = cache::find(&kept, &key) {
        return Ok(Outcome {
            answer,
            ledger_unit,
            engine_failed: false,
            not_kept: None,
        });
    }
    engine.ready(question.source, question.request)?;
    let grants = pay(&mut purse, question.request)?;
    drop(purse);
    let table = engine.table(question.source, question.request, question.databases);
    let engine_failed = table.is_err();
    let table = table.unwrap_or_else(|_| Table::empty(&question.request.measure));
    let answer = release::release(&table, question.request, grants, &mut noise)?;
    let not_kept = cache::keep(&kept, &key, &answer).err();
    Ok(Outcome {
        answer,
        ledger_unit,
        engine_failed,
        not_kept: not_kept.map(|error| (kept, error)),
    })
}

fn pay(purse: &mut LedgerFile, request: &Request) -> Result<Grants, PurseError> {
    let mut label = serde_json::to_string(request).unwrap_or_default();
    while label.len() > LABEL {
        label.pop();
    }
    // One entry for bounds and answer: half a payment would be lost.
    let delta = request.delta.unwrap_or(0.0);
    let grant = purse::pay(purse, &label, request.epsilon, delta)?;
    let (for_bounds, _) = release::shares(request);
    let (bounds, answer) = match for_bounds {
        None => (None, grant),
        Some(part) => match grant.split(part) {
            Ok((bounds, answer)) => (Some(bounds), answer),
            Err(answer) => (None, answer),
        },
    };
    Ok(Grants { bounds, answer })
}
