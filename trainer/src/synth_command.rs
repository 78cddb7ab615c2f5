//! The command `trainer synth fit`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use chaff_ledger::LedgerFile;
use chaff_privacy::{Entropy, Epsilon, Grant, Ledger};
use chaff_synth::{
    Capture, Engine, Model, Options, PrivateOptions, TableMethod, Unit, fit, fit_capture,
    fit_capture_private, fit_private,
};
use clap::{Args, Subcommand, ValueEnum};

use crate::netshare_command;
use crate::synth_evaluate::{Evaluate, Score, run_evaluate, run_score};
use crate::synth_input::read;
use crate::synth_sample::{Sample, run_sample};

/// `trainer synth`.
#[derive(Subcommand)]
pub enum Synth {
    /// Learn a model from a flow table or a capture.
    #[command(after_long_help = "Examples:\n  \
        trainer synth fit flows.csv --output flows.synth\n  \
        trainer synth fit home.pcap --output home.synth\n  \
        trainer synth fit flows.csv --method doppelganger --config netshare.json --output flows.synth\n  \
        trainer synth fit monday.pcap tuesday.pcap wednesday.parquet --output models/ --jobs 2\n  \
        trainer synth fit flows.csv --epsilon 2 --delta 1e-5 --ledger site.ledger --ledger-epsilon 8 --ledger-delta 1e-4 \\\n    \
        --public-labels benign,attack --output shared.synth")]
    Fit(Box<Fit>),
    /// Draw records from a model: the same model, number and seed give the same bytes.
    #[command(after_long_help = "Examples:\n  \
        trainer synth sample flows.synth --records 1000000 --seed 1 --output synthetic.csv\n  \
        trainer synth sample home.synth --seed 1 --output synthetic.pcap")]
    Sample(Sample),
    /// Compare a real trace with a synthetic one.
    #[command(after_long_help = "Examples:\n  \
        trainer synth evaluate flows.csv synthetic.csv --output report.json --picture report.svg\n  \
        trainer synth evaluate monday.pcap synthetic.pcap --holdout tuesday.pcap --output report.json")]
    Evaluate(Evaluate),
    /// Score how strange records are to a model, in nats: a novelty detector for flows.
    #[command(after_long_help = "Example:\n  \
        trainer synth score normal.synth today.csv --normal yesterday.csv --false-alarms 0.001 --output scores.csv")]
    Score(Score),
}

/// `trainer synth fit`.
#[derive(Args)]
pub struct Fit {
    /// Flow tables (CSV or Parquet; NetShare's, nfdump's or `gateway meter`'s names) or captures (pcap, pcapng, .gz); `-` is
    /// standard input. Of several, each becomes a model. With --config its original_data_file when not given.
    #[arg(required_unless_present = "config")]
    pub(crate) inputs: Vec<PathBuf>,
    /// Where the model goes; of several inputs, a folder for NAME.synth of each.
    #[arg(long, short)]
    pub(crate) output: PathBuf,
    /// Models that are learned at the same time; they do not depend on it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) jobs: u32,
    /// Method; default: sequence, with --epsilon marginal.
    #[arg(long, value_enum, visible_alias = "engine")]
    pub(crate) method: Option<MethodArg>,
    /// Of --method doppelganger: NetShare's configuration file (JSON).
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// Of --method doppelganger: passes over the first chunk, in place of the configuration's `epochs`.
    #[arg(long, requires = "config", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) epochs: Option<u32>,
    /// Of --method doppelganger: folder of checkpoints; a run that was stopped goes on from there.
    #[arg(long, requires = "config")]
    pub(crate) checkpoints: Option<PathBuf>,
    /// Of --method doppelganger: chunks of a model that train at the same time; default: the cores, shared by --jobs.
    #[arg(long, requires = "config", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    /// Label column; default: the first of label, type, attacktype, class, attack.
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// What becomes of addresses (without --epsilon; with it they are always made up).
    #[arg(long, value_enum, default_value = "fresh")]
    pub(crate) addresses: Addresses,
    /// Key of the made-up addresses; the same input and key give the same model.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Differential privacy: ε of everything in the model together.
    #[arg(long, requires = "delta")]
    pub(crate) epsilon: Option<Epsilon>,
    /// Differential privacy: δ, above 0; well below one in the number of records.
    #[arg(long, requires = "epsilon")]
    pub(crate) delta: Option<f64>,
    /// Budget ledger that pays; it is made when it does not exist.
    #[arg(long, requires_all = ["epsilon", "ledger_epsilon", "ledger_delta"])]
    ledger: Option<PathBuf>,
    /// What the ledger may spend in total.
    #[arg(long)]
    ledger_epsilon: Option<Epsilon>,
    /// What δ the ledger may spend in total.
    #[arg(long)]
    ledger_delta: Option<f64>,
    /// Keep no account over several fits: the guarantee holds for this model alone.
    #[arg(long, conflicts_with = "ledger")]
    no_ledger: bool,
    /// Whose records are hidden; default: record, with --method doppelganger always flow.
    #[arg(long, value_enum)]
    pub(crate) unit: Option<UnitArg>,
    /// With --unit host: the first records of each source that are used.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_records_per_host: u32,
    /// With --epsilon: the set of labels, comma-separated, or `from-input` to declare that the labels that occur are
    /// public. Without it labels are left out.
    #[arg(long)]
    pub(crate) public_labels: Option<String>,
    /// With --epsilon: first and last start time, µs since 1970, as FIRST..LAST. Without it they are found and paid for.
    #[arg(long)]
    pub(crate) public_time_range: Option<String>,
    /// **Simulation only**: noise from a seed, which protects nobody; the model says so.
    #[arg(long, requires = "epsilon")]
    noise_seed: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum MethodArg {
    /// Low-dimensional tables.
    Marginal,
    /// Record after record.
    Sequence,
    /// NetShare's networks, by its configuration file.
    Doppelganger,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Addresses {
    /// Made-up ones of the same kind; equal prefixes stay equal.
    Fresh,
    /// The real ones.
    Keep,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum UnitArg {
    /// One record (one-way flow).
    Record,
    /// All records of one source address.
    Host,
}

/// Runs `trainer synth`.
///
/// # Errors
/// What is wrong with input, options, budget or output, naming the file.
pub fn run(command: Synth) -> Result<()> {
    match command {
        Synth::Fit(args) => run_fit(&args),
        Synth::Sample(args) => run_sample(&args),
        Synth::Evaluate(args) => run_evaluate(&args),
        Synth::Score(args) => run_score(&args),
    }
}

/// What learns.
enum Learner<'a> {
    Tables(TableMethod),
    /// With NetShare's configuration.
    Networks(&'a Path),
}

fn learner(args: &Fit) -> Result<Learner<'_>> {
    Ok(match (args.method, &args.config) {
        (Some(MethodArg::Doppelganger) | None, Some(config)) => Learner::Networks(config),
        (Some(MethodArg::Doppelganger), None) => {
            bail!("--method doppelganger needs --config FILE, NetShare's configuration")
        }
        (Some(MethodArg::Marginal | MethodArg::Sequence), Some(_)) => {
            bail!("--config is for --method doppelganger")
        }
        (Some(MethodArg::Sequence), None) if args.epsilon.is_some() => bail!(
            "--method sequence has no differential privacy; with --epsilon marginal and doppelganger work"
        ),
        (Some(MethodArg::Marginal), None) => Learner::Tables(TableMethod::Marginal),
        (Some(MethodArg::Sequence), None) => Learner::Tables(TableMethod::Sequence),
        (None, None) if args.epsilon.is_some() => Learner::Tables(TableMethod::Marginal),
        (None, None) => Learner::Tables(TableMethod::Sequence),
    })
}

fn run_fit(args: &Fit) -> Result<()> {
    let learner = learner(args)?;
    let outputs = outputs(args)?;
    let next = AtomicUsize::new(0);
    let errors = Mutex::new(Vec::new());
    let work = || {
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(output) = outputs.get(at)
        {
            // A configuration may name its input.
            let input = args.inputs.get(at).map(PathBuf::as_path);
            let done = match (&learner, input) {
                (Learner::Networks(config), _) => {
                    netshare_command::run(args, config, input, output)
                }
                (Learner::Tables(method), Some(input)) => fit_one(args, *method, input, output),
                (Learner::Tables(_), None) => Err(anyhow!("no input is given")),
            };
            if let Err(e) = done
                && let Ok(mut errors) = errors.lock()
            {
                errors.push((at, e));
            }
        }
    };
    std::thread::scope(|scope| {
        let jobs = (args.jobs as usize).min(outputs.len());
        (1..jobs).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let mut errors = errors.into_inner().unwrap_or_default();
    errors.sort_by_key(|(at, _)| *at);
    let failed = errors.len();
    let mut errors = errors.into_iter().map(|(_, e)| e);
    let Some(first) = errors.next() else {
        return Ok(());
    };
    errors.for_each(|e| eprintln!("trainer: {e:#}"));
    if failed > 1 {
        return Err(first.context(format!("{failed} of {} fits failed", outputs.len())));
    }
    Err(first)
}

/// Where each model goes.
fn outputs(args: &Fit) -> Result<Vec<PathBuf>> {
    if args.inputs.len() < 2 {
        return Ok(vec![args.output.clone()]);
    }
    std::fs::create_dir_all(&args.output)
        .with_context(|| format!("while making {}", args.output.display()))?;
    let mut all: Vec<PathBuf> = Vec::new();
    for input in &args.inputs {
        let name = input.file_name().unwrap_or(input.as_os_str());
        let mut name = name.to_owned();
        name.push(".synth");
        let output = args.output.join(name);
        if all.contains(&output) {
            bail!(
                "{}: another input has the same file name, and so the same model {}",
                input.display(),
                output.display()
            );
        }
        all.push(output);
    }
    Ok(all)
}

fn fit_one(args: &Fit, method: TableMethod, input: &Path, output: &Path) -> Result<()> {
    let input = read(input, args.label.as_deref())?;
    let model = match (args.epsilon, args.delta) {
        (Some(epsilon), Some(delta)) => fit_paid(args, &input, epsilon, delta)?,
        _ => {
            if args.public_labels.is_some() || args.public_time_range.is_some() {
                bail!("--public-labels and --public-time-range are for --epsilon");
            }
            let fresh_addresses = args.addresses == Addresses::Fresh;
            let options = Options {
                method,
                fresh_addresses,
                seed: args.seed,
            };
            if input.table.capture {
                fit_capture(&input, &options)?
            } else {
                fit(&input.table, &options)?
            }
        }
    };
    write_model(&model, output)
}

/// Writes model and side-car, and says what is promised.
pub(crate) fn write_model(model: &dyn Engine, output: &Path) -> Result<()> {
    let name = output.display();
    let bytes = model.to_bytes()?;
    std::fs::write(output, bytes).with_context(|| format!("while writing {}", output.display()))?;
    let sidecar = serde_json::to_string_pretty(model.info())?;
    write_text(&beside(output), &sidecar)?;
    match &model.info().privacy {
        Some(p) => eprintln!(
            "{name}: ({}, {})-differential privacy for {}{}; {} releases; assumptions and account in {}",
            p.epsilon,
            p.delta,
            p.relation,
            if p.simulated {
                " (SIMULATED: the noise is from a seed and protects nobody)"
            } else {
                ""
            },
            p.releases.len() + p.gradients.len(),
            beside(output).display()
        ),
        None => {
            eprintln!("{name}: no formal privacy guarantee: give --epsilon and --delta for one")
        }
    }
    Ok(())
}

fn fit_paid(args: &Fit, input: &Capture, epsilon: Epsilon, delta: f64) -> Result<Model> {
    let table = &input.table;
    if !(delta > 0.0 && delta < 1.0) {
        bail!("--delta {delta}: must be above 0 and below 1");
    }
    needs_ledger(args)?;
    let labels = match args.public_labels.as_deref() {
        Some("from-input") => Some(table.labels.clone()),
        Some(list) => Some(list.split(',').map(|l| l.trim().to_owned()).collect()),
        None => {
            if table.label_column.is_some() {
                eprintln!("labels are left out: name the possible ones with --public-labels");
            }
            None
        }
    };
    let time_range_us = args
        .public_time_range
        .as_deref()
        .map(time_range)
        .transpose()?;
    let unit = match args.unit {
        Some(UnitArg::Record) | None => Unit::Record,
        Some(UnitArg::Host) => Unit::SourceHost {
            max_records: args.max_records_per_host,
        },
    };
    let entropy = entropy(args)?;
    // Only public checks before this line, only the paid mechanism after it.
    let (grant, entry) = pay(args, epsilon, delta)?;
    let mut tables = grant.into_tables(unit.most(), entropy)?;
    let options = PrivateOptions {
        unit,
        labels,
        time_range_us,
        label_column: table.label_column.clone(),
    };
    let paid = (epsilon.value(), delta);
    Ok(if table.capture {
        fit_capture_private(input, &options, &mut tables, entry, paid)?
    } else {
        fit_private(table, &options, &mut tables, entry, paid)?
    })
}

pub(crate) fn needs_ledger(args: &Fit) -> Result<()> {
    if args.ledger.is_none() && !args.no_ledger {
        bail!(
            "--epsilon needs --ledger FILE, which keeps account over several fits, or --no-ledger"
        );
    }
    Ok(())
}

/// Where the noise comes from.
pub(crate) fn entropy(args: &Fit) -> Result<Entropy> {
    Ok(match args.noise_seed {
        Some(seed) => Entropy::Seed(seed),
        None => {
            let mut key = [0; 32];
            File::open("/dev/urandom")
                .and_then(|mut f| f.read_exact(&mut key))
                .context("while reading /dev/urandom")?;
            Entropy::System(key)
        }
    })
}

pub(crate) fn pay(args: &Fit, epsilon: Epsilon, delta: f64) -> Result<(Grant, Option<u64>)> {
    let label = "trainer synth fit";
    match (&args.ledger, args.ledger_epsilon, args.ledger_delta) {
        (Some(path), Some(total), Some(total_delta)) => {
            let mut ledger = LedgerFile::open(path, total, total_delta)?;
            let grant = ledger.spend_approximate(label, epsilon, delta)?;
            let entry = ledger.ledger().head().entry;
            Ok((grant, Some(entry)))
        }
        _ => {
            let mut ledger = Ledger::open(epsilon, delta, &[])?;
            ledger.mark_stored();
            Ok((
                ledger.spend_approximate(label, epsilon, delta)?.stored(),
                None,
            ))
        }
    }
}

pub(crate) fn time_range(text: &str) -> Result<(u64, u64)> {
    let parts = text
        .split_once("..")
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match parts {
        Some((first, last)) if first <= last => Ok((first, last)),
        _ => bail!(
            "--public-time-range {text}: must be FIRST..LAST in whole µs since 1970, FIRST at most LAST"
        ),
    }
}

pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, format!("{text}\n"))
        .with_context(|| format!("while writing {}", path.display()))
}
