//! The command line.

mod args;
mod owner;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::ask::{Question, ask};
use crate::asn::Asns;
use crate::engine::{Databases, Engine};
use crate::plain::Plain;
use crate::request::{Request, UnitKey};
use crate::source::Source;
use crate::units::Units;
use crate::{picture, purse, release, show};
use args::{Action, Common};

/// Private answers to questions about flow logs.
///
/// Each answer costs epsilon, paid from a ledger before the data are looked at. The noise protects a unit: by default an
/// address of the protected side, with all its flows.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 2 refused: usage, files, ledger, budget.

Examples:
  query ledger --ledger site.ledger --budget 10 --delta 1e-6
  query plan volume-on-domain --domain video.example.net --epsilon 0.5 --bounds 0..1000000
  query volume-on-domain --domain video.example.net --data log_tcp_complete --ledger site.ledger --epsilon 0.5 --bounds 0..1000000
  query volume-histogram --data flows/ --ledger site.ledger --epsilon 0.5 --range 0..40000000 --bins 8
  query flow-feature --feature c_rtt_avg --metric mean --data log.gz --ledger site.ledger --epsilon 1 --bounds 0..200"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Ask(Action),
    /// Say what a question will cost and how far off its answer will be, without asking it.
    #[command(
        subcommand,
        after_help = "Example:
  query plan user-count --domain video.example.net --epsilon 0.2 --ledger site.ledger"
    )]
    Plan(Action),
    /// Turn logs into Parquet, once: a question then reads only the columns that it needs.
    #[command(after_help = "Examples:
  query import log_tcp_complete.gz --output flows
  query import nfdump/ --output flows --format nfdump
  query import --check flows")]
    Import(owner::Import),
    /// Show a ledger, or make one: what was spent on what, what is left.
    Ledger(owner::Ledger),
}

/// A question, for programs with another engine.
#[derive(Args, Debug)]
pub struct Asked {
    #[command(subcommand)]
    action: Action,
}

impl Asked {
    /// Asks, pays, prints the answer.
    ///
    /// # Errors
    /// One sentence for people.
    pub fn answer(&self, engine: &dyn Engine) -> Result<()> {
        answer(&self.action, engine)
    }
}

/// Carries out a command.
///
/// # Errors
/// One sentence for people.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Ask(action) => {
            let threads = action.common().threads;
            answer(&action, &Plain { threads })
        }
        Command::Plan(action) => plan(&action),
        Command::Import(import) => import.run(),
        Command::Ledger(ledger) => ledger.run(),
    }
}

fn answer(action: &Action, engine: &dyn Engine) -> Result<()> {
    let started = Instant::now();
    let common = action.common();
    let request = action.request().map_err(anyhow::Error::msg)?;
    let Some(ledger) = &common.ledger else {
        bail!("--ledger FILE is missing: nothing is answered without a budget");
    };
    if common.data.is_empty() {
        bail!("--data PATH is missing");
    }
    let source = Source::open(&common.data, common.format)?;
    let bytes = source.bytes;
    let databases = databases(common)?;
    let question = Question {
        request: &request,
        source: &source,
        databases: &databases,
    };
    question.check()?;
    if let Some(path) = &common.picture
        && !picture::can_draw(&request)
    {
        bail!(
            "--picture {}: the answer is one number; pictures are of volume-histogram, flow-feature --metric histogram, user-count and top-domains",
            path.display()
        );
    }
    let noise = release::Source::system().context("while reading /dev/urandom")?;
    let outcome = ask(engine, &question, ledger, noise)?;
    if outcome.ledger_unit != purse::UNIT
        && request.unit != UnitKey::Mac
        && request.unit != UnitKey::Listed
    {
        eprintln!(
            "note: the ledger counts for {}; this answer protects {}, and a device with several of them loses as many times epsilon: --unit mac or listed",
            outcome.ledger_unit,
            request.unit.name()
        );
    }
    if outcome.engine_failed
        && let Some(path) = &common.owner_log
    {
        owner_log(path, engine.last_failure())?;
    }
    if let Some((path, error)) = &outcome.not_kept {
        eprintln!(
            "warning: {}: the answer could not be kept, asking again will cost again: {error}",
            path.display()
        );
    }
    if !common.prompt_time && !outcome.answer.cached {
        thread::sleep(rounded(started.elapsed(), quantum(bytes)).saturating_sub(started.elapsed()));
    }
    print(common.json, &outcome.answer, || {
        show::answer(&outcome.answer)
    })?;
    if let Some(path) = &common.picture {
        picture::write(path, &outcome.answer)
            .with_context(|| format!("--picture {}", path.display()))?;
    }
    Ok(())
}

fn print(json: bool, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, value)?;
        out.write_all(b"\n")?;
    } else {
        out.write_all(text().as_bytes())?;
    }
    Ok(())
}

fn databases(common: &Common) -> Result<Databases> {
    Ok(Databases {
        asns: match &common.asn_db {
            Some(path) => Some(Arc::new(Asns::load(path)?)),
            None => None,
        },
        units: match &common.units {
            Some(path) => Some(Arc::new(Units::load(path)?)),
            None => None,
        },
    })
}

fn owner_log(path: &Path, why: Option<String>) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("--owner-log {}", path.display()))?;
    let mut line =
        "the query engine failed; the question was answered as if there were no flows".to_owned();
    if let Some(why) = why {
        line += ": ";
        line += &why.replace(char::is_control, " ");
    }
    line += "\n";
    Ok(file.write_all(line.as_bytes())?)
}

/// Answers take a multiple of this: known from the size of the files, long enough for one to be enough.
fn quantum(bytes: u64) -> Duration {
    Duration::from_millis(500) + Duration::from_nanos(bytes.saturating_mul(10))
}

fn rounded(took: Duration, quantum: Duration) -> Duration {
    let times = took.as_nanos().div_ceil(quantum.as_nanos().max(1)).max(1);
    quantum.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX))
}

fn plan(action: &Action) -> Result<()> {
    let common = action.common();
    let request: Request = action.request().map_err(anyhow::Error::msg)?;
    // Without data the request alone is checked.
    let format = common.format.unwrap_or(crate::Format::Tstat);
    if common.data.is_empty() {
        request.check(format).map_err(anyhow::Error::msg)?;
        release::check_bounds(&request).context("--bounds")?;
    } else {
        let source = Source::open(&common.data, common.format)?;
        let databases = databases(common)?;
        Question {
            request: &request,
            source: &source,
            databases: &databases,
        }
        .check()?;
    }
    let plan = release::predict(&request, common.assume_units);
    let left = match &common.ledger {
        Some(path) => {
            let ledger = purse::open(path)?;
            let (nanos, _) = ledger.ledger().day_left_nanos(purse::now_ns());
            Some((nanos as f64 / 1e9, nanos / request.epsilon.nanos()))
        }
        None => None,
    };
    let value = json!({
        "version": 1,
        "request": request,
        "plan": plan,
        "left": left.map(|l| l.0),
        "times": left.map(|l| l.1),
    });
    print(common.json, &value, || show::plan(&plan, left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn answers_take_whole_multiples() {
        let q = quantum(100_000_000);
        assert_eq!(q, Duration::from_millis(1500));
        assert_eq!(rounded(Duration::from_millis(3), q), q);
        assert_eq!(rounded(Duration::from_millis(1400), q), q);
        assert_eq!(rounded(Duration::from_millis(1501), q), 2 * q);
        assert_eq!(rounded(Duration::ZERO, q), q);
    }
}
