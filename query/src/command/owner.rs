//! What the owner of the data does: the budget, and imports.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};
use chaff_privacy::{Budget, DAY_NS, Day, Epsilon, Ledger as Book, Rho};
use clap::Args;
use serde::Serialize;

use super::print;
use crate::flows::Format;
use crate::manifest::{self, Manifest};
use crate::purse::{self, Entry};
use crate::show::{number, span};

/// Logs into Parquet, once.
#[derive(Args, Debug)]
pub(super) struct Import {
    /// Flow logs: files, or folders with files below them. Packed with gzip or not.
    #[arg(value_name = "PATH", required_unless_present = "check")]
    logs: Vec<PathBuf>,
    /// Folder for the Parquet files and their manifest; made, or empty.
    #[arg(long, value_name = "FOLDER", required_unless_present = "check")]
    output: Option<PathBuf>,
    /// What the logs are [default: what their first bytes say].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Compares the files of a folder with its manifest instead, sizes and digests.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["logs", "output", "format"])]
    check: Option<PathBuf>,
    /// Prints the manifest.
    #[arg(long)]
    json: bool,
}

impl Import {
    pub(super) fn run(&self) -> Result<()> {
        if let Some(folder) = &self.check {
            let manifest = manifest::verify(folder)?;
            return print(self.json, &manifest, || {
                format!(
                    "as the manifest says: {} of {0} files\n",
                    manifest.files.len()
                )
            });
        }
        let Some(folder) = &self.output else {
            bail!("--output FOLDER is missing");
        };
        let manifest = crate::import::import(&self.logs, self.format, folder, |file| {
            eprintln!("{}: {} flows", file.source, number(file.rows as f64));
        })?;
        print(self.json, &manifest, || summary(&manifest))
    }
}

fn summary(manifest: &Manifest) -> String {
    let mut text = String::new();
    let sum =
        |of: fn(&manifest::Entry) -> u64| number(manifest.files.iter().map(of).sum::<u64>() as f64);
    // Writing into a text does not fail.
    let _ = writeln!(
        text,
        "{} flows of {} {} {}, {} bytes, are now {} bytes",
        sum(|f| f.rows),
        manifest.files.len(),
        manifest.format.name(),
        if manifest.files.len() == 1 {
            "log"
        } else {
            "logs"
        },
        sum(|f| f.source_bytes),
        sum(|f| f.bytes)
    );
    for file in manifest.files.iter().filter(|f| f.errors.total() > 0) {
        let e = &file.errors;
        let _ = writeln!(
            text,
            "{}: {} lines and {} rows cut short, {} wrong numbers, {} wrong addresses: left empty",
            file.source, e.lines, e.fields, e.numbers, e.addresses
        );
    }
    text
}

/// The budget.
#[derive(Args, Debug)]
pub(super) struct Ledger {
    /// The ledger.
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Makes the ledger: this much epsilon within any 24 hours.
    #[arg(long, value_name = "EPSILON")]
    budget: Option<Epsilon>,
    /// And this much delta within any 24 hours, for top-domains; below 1.
    #[arg(long, default_value_t = 0.0, value_name = "D", requires = "budget")]
    delta: f64,
    /// And this much epsilon for ever [default: no cap].
    #[arg(long, value_name = "EPSILON", requires = "budget")]
    total: Option<Epsilon>,
    /// Says how many questions of this cost are left now.
    #[arg(long, default_value = "1", value_name = "E")]
    epsilon: Epsilon,
    /// Lists all expenses.
    #[arg(long)]
    entries: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A purse of 24 hours, now.
#[derive(Serialize)]
struct Purse {
    name: &'static str,
    /// What it holds when nothing was spent.
    purse: f64,
    spent: f64,
    left: f64,
}

/// What is told of a ledger.
#[derive(Serialize)]
struct Shown {
    version: u32,
    protects: String,
    /// Of any 24 hours: what was spent within the last ones, what is left now.
    purses: Vec<Purse>,
    /// When the oldest expense of these 24 hours no longer counts, nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_free_ns: Option<u64>,
    /// What that gives back, epsilon.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_free: Option<f64>,
    /// Cap of epsilon for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<Epsilon>,
    /// Epsilon since the ledger was made.
    spent: f64,
    /// Epsilon that can be spent now, by purse and cap.
    left: f64,
    /// Questions of the cost asked about that can be paid now.
    questions_left: u64,
    expenses: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<Entry>>,
}

impl Ledger {
    pub(super) fn run(&self) -> Result<()> {
        let file = match self.budget {
            Some(_) if self.ledger.exists() => bail!(
                "--ledger {}: it is there already and its budget cannot be changed; without --budget it is shown",
                self.ledger.display()
            ),
            Some(epsilon) => purse::make(&self.ledger, self.to_make(epsilon)?)?,
            None => purse::open(&self.ledger)?,
        };
        let entries = purse::entries(&self.ledger)?;
        let now = purse::now_ns();
        let mut shown = self.look(file.ledger(), &entries, now);
        let text = self.text(&shown, &entries, now);
        shown.entries = self.entries.then_some(entries);
        print(self.json, &shown, || text)
    }

    fn to_make(&self, epsilon: Epsilon) -> Result<Budget> {
        if !(0.0..1.0).contains(&self.delta) {
            bail!("--delta {}: must be at least 0 and below 1", self.delta);
        }
        if self.total.is_some_and(|total| total < epsilon) {
            bail!("--total: must be at least --budget {epsilon}");
        }
        let day = Day {
            epsilon: Some(epsilon),
            rho: None,
        };
        Ok(Budget {
            total: self.total.unwrap_or(Epsilon::MAX),
            ..Budget::daily(purse::UNIT, day, self.delta)
        })
    }

    fn look(&self, ledger: &Book, entries: &[Entry], now: u64) -> Shown {
        let budget = ledger.budget();
        let day = budget.day.unwrap_or_default();
        let counts = |e: &&Entry| e.other_unit.is_none() && e.at_ns.saturating_add(DAY_NS) > now;
        let recent = || entries.iter().filter(counts);
        let (epsilon_left, rho_left) = ledger.day_left_nanos(now);
        let value = |nanos: u64| nanos as f64 / 1e9;
        let epsilons = |e: &Entry| e.epsilon.map_or(0, Epsilon::nanos);
        let mut purses = vec![Purse {
            name: "epsilon",
            purse: day.epsilon.map_or(0.0, Epsilon::value),
            spent: value(recent().map(epsilons).sum()),
            left: value(epsilon_left),
        }];
        if let Some(rho) = day.rho {
            purses.push(Purse {
                name: "rho",
                purse: rho.value(),
                spent: value(recent().map(|e| e.rho.map_or(0, Rho::nanos)).sum()),
                left: value(rho_left),
            });
        }
        if budget.delta > 0.0 {
            let left = ledger.delta_left(now);
            purses.push(Purse {
                name: "delta",
                purse: budget.delta,
                spent: recent().fold(0.0, |sum, e| sum + e.delta),
                left,
            });
        }
        let oldest = recent()
            .filter(|e| e.epsilon.is_some())
            .min_by_key(|e| e.at_ns);
        Shown {
            version: 2,
            protects: budget.unit.clone(),
            purses,
            next_free_ns: oldest.map(|e| e.at_ns.saturating_add(DAY_NS)),
            next_free: oldest.map(|e| value(epsilons(e))),
            total: (budget.total < Epsilon::MAX).then_some(budget.total),
            spent: value(ledger.spent_nanos()),
            left: value(epsilon_left),
            questions_left: epsilon_left / self.epsilon.nanos(),
            expenses: entries.len(),
            entries: None,
        }
    }

    fn text(&self, shown: &Shown, entries: &[Entry], now: u64) -> String {
        let mut text = "within any 24 hours\n".to_owned();
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            // Writing into a text does not fail.
            let _ = writeln!(text, "{arguments}");
        };
        for p in &shown.purses {
            line(format_args!(
                "{:>10}  {} of {} spent, {} left",
                p.name,
                small(p.spent),
                small(p.purse),
                small(p.left)
            ));
        }
        line(format_args!(
            "{:>10}  {} questions of epsilon {} can be paid now",
            "", shown.questions_left, self.epsilon
        ));
        if let (Some(at), Some(amount)) = (shown.next_free_ns, shown.next_free) {
            line(format_args!(
                "{:>10}  epsilon {} is free again in {}",
                "",
                small(amount),
                span(at.saturating_sub(now))
            ));
        }
        let cap = shown.total.map_or("no cap".to_owned(), |total| {
            format!("at most {total} for ever")
        });
        line(format_args!(
            "since it was made\n{:>10}  {} spent, {cap}; {} expenses",
            "epsilon",
            small(shown.spent),
            shown.expenses
        ));
        line(format_args!("protects {}", shown.protects));
        if self.entries {
            for e in entries {
                let paid = [
                    e.epsilon.map(|v| format!("epsilon {v}")),
                    e.rho.map(|v| format!("rho {v}")),
                    (e.delta > 0.0).then(|| format!("delta {}", small(e.delta))),
                ];
                let paid: Vec<String> = paid.into_iter().flatten().collect();
                line(format_args!(
                    "{:>6}  {:>14} ago  {:<20}  {}",
                    e.entry,
                    span(now.saturating_sub(e.at_ns)),
                    paid.join(", "),
                    e.label
                ));
            }
        }
        text
    }
}

/// A number, or one so small that its zeros would be counted.
fn small(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if value.abs() < 1e-4 {
        let text = format!("{value:.5e}");
        return text.parse::<f64>().map_or(text, |v| format!("{v:e}"));
    }
    number(value)
}
