//! What the owner of the data does: ledgers and imports.

use std::path::PathBuf;

use anyhow::{Result, bail};
use chaff_privacy::Epsilon;
use clap::Args;
use serde_json::json;

use super::print;
use crate::purse;
use crate::show::number;

/// The budget.
#[derive(Args, Debug)]
pub(super) struct Ledger {
    /// The ledger.
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Makes the ledger with this total when it is not there.
    #[arg(long, value_name = "EPSILON")]
    budget: Option<Epsilon>,
    /// And this total of delta, for top-domains.
    #[arg(long, default_value_t = 0.0, requires = "budget")]
    delta: f64,
    /// Says how many questions of this cost are left.
    #[arg(long, default_value = "1", value_name = "E")]
    epsilon: Epsilon,
    /// Lists all expenses.
    #[arg(long)]
    entries: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl Ledger {
    pub(super) fn run(&self) -> Result<()> {
        let file = match self.budget {
            Some(total) if !self.ledger.exists() => {
                purse::open_with(&self.ledger, total, self.delta)?
            }
            Some(_) => bail!(
                "--ledger {}: it is there already; without --budget it is shown",
                self.ledger.display()
            ),
            None => purse::open(&self.ledger)?,
        };
        let ledger = file.ledger();
        let entries = purse::entries(&self.ledger)?;
        let left = ledger.left_nanos();
        let times = left / self.epsilon.nanos();
        let value = json!({
            "version": 1,
            "total": ledger.total(),
            "spent": ledger.spent_nanos() as f64 / 1e9,
            "left": left as f64 / 1e9,
            "delta": ledger.delta(),
            "spent_delta": ledger.spent_delta(),
            "questions_left": times,
            "entries": if self.entries { json!(entries) } else { json!(entries.len()) },
        });
        print(self.json, &value, || {
            let mut text = format!(
                "epsilon: {} of {} spent, {} left: {times} questions of {}\n",
                number(ledger.spent_nanos() as f64 / 1e9),
                ledger.total(),
                number(left as f64 / 1e9),
                self.epsilon
            );
            text += &format!(
                "delta: {:e} of {:e} spent\n",
                ledger.spent_delta(),
                ledger.delta()
            );
            text += &format!("{} expenses\n", entries.len());
            if self.entries {
                for e in &entries {
                    text += &format!("{:>6}  {:>10}  {}\n", e.entry, number(e.epsilon), e.label);
                }
            }
            text
        })
    }
}
