//! The commands `trainer synth fit`, `sample` and `evaluate`.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_privacy::file::LedgerFile;
use chaff_privacy::{Entropy, Epsilon, Grant, Ledger};
use chaff_synth::{
    Capture, Engine, MAX_RECORDS, Method, Model, Options, PrivateOptions, Table, Unit, fidelity,
    fit, fit_capture, fit_private, load, read_capture, read_csv, write_csv, write_pcap,
};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::netshare_command;

/// `trainer synth`.
#[derive(Subcommand)]
pub enum Synth {
    /// Learn a model from a flow table or a capture.
    #[command(after_long_help = "Examples:\n  \
        trainer synth fit flows.csv --output flows.synth\n  \
        trainer synth fit home.pcap --output home.synth\n  \
        trainer synth fit flows.csv --method doppelganger --config netshare.json --output flows.synth\n  \
        trainer synth fit flows.csv --epsilon 2 --delta 1e-5 --ledger site.ledger --ledger-epsilon 8 --ledger-delta 1e-4 \\\n    \
        --public-labels benign,attack --output shared.synth")]
    Fit(Box<Fit>),
    /// Draw records from a model: the same model, number and seed give the same bytes.
    #[command(after_long_help = "Examples:\n  \
        trainer synth sample flows.synth --records 1000000 --seed 1 --output synthetic.csv\n  \
        trainer synth sample home.synth --seed 1 --output synthetic.pcap")]
    Sample(Sample),
    /// Compare a real trace with a synthetic one.
    #[command(
        after_long_help = "Example:\n  trainer synth evaluate flows.csv synthetic.csv --output report.json"
    )]
    Evaluate(Evaluate),
}

/// `trainer synth fit`.
#[derive(Args)]
pub struct Fit {
    /// Flow table (CSV; NetShare's, nfdump's or `gateway meter`'s names) or capture (pcap, pcapng, .gz); `-` is standard
    /// input. With --config its original_data_file when not given.
    #[arg(required_unless_present = "config")]
    pub(crate) input: Option<PathBuf>,
    /// Where the model goes.
    #[arg(long, short)]
    pub(crate) output: PathBuf,
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
    /// Of --method doppelganger: chunks that train at the same time; default: one for each core.
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

/// `trainer synth sample`.
#[derive(Args)]
pub struct Sample {
    /// Model of `trainer synth fit`.
    model: PathBuf,
    /// How many records, exactly; default: as many as were learned from (noisy with privacy).
    #[arg(long)]
    records: Option<usize>,
    /// Seed.
    #[arg(long)]
    seed: u64,
    /// Where they go; `-` is standard output. Beside a file, FILE.json says what it was drawn from.
    #[arg(long, short)]
    output: PathBuf,
    /// Format; default: by the file's name, otherwise csv.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Captures with whole packets, their payloads zeros; otherwise packets are cut after their headers.
    #[arg(long)]
    payloads: bool,
    /// IPv4 addresses as NetShare writes them, as numbers.
    #[arg(long)]
    numeric_addresses: bool,
}

/// `trainer synth evaluate`.
#[derive(Args)]
pub struct Evaluate {
    /// Real trace: flow table or capture.
    real: PathBuf,
    /// Synthetic trace.
    synthetic: PathBuf,
    /// Label column.
    #[arg(long)]
    label: Option<String>,
    /// Where the report goes, JSON; default: standard output.
    #[arg(long, short)]
    output: Option<PathBuf>,
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

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// NetShare's columns.
    Csv,
    /// Raw IP packets.
    Pcap,
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
    }
}

/// An input whose first bytes have been looked at, and whether they are a capture's.
pub(crate) fn open(path: &Path) -> Result<(impl BufRead + use<>, bool)> {
    let name = path.display();
    let mut input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(path).with_context(|| format!("while opening {name}"))?)
    };
    let mut magic = Vec::new();
    input
        .by_ref()
        .take(4)
        .read_to_end(&mut magic)
        .with_context(|| format!("while reading {name}"))?;
    let capture = matches!(
        magic.as_slice(),
        [0x0a, 0x0d, 0x0d, 0x0a]
            | [0xd4, 0xc3, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0xc3, 0xd4]
            | [0x4d, 0x3c, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d]
            | [0x1f, 0x8b, ..]
    );
    Ok((BufReader::new(Cursor::new(magic).chain(input)), capture))
}

/// A flow table or a capture, told apart by the first bytes.
fn read(path: &Path, label: Option<&str>) -> Result<Capture> {
    let name = path.display();
    let (input, capture) = open(path)?;
    if capture {
        let read = read_capture(input).with_context(|| format!("in {name}"))?;
        if read.ignored > 0 {
            eprintln!(
                "{name}: {} frames are not IP or damaged and were left out",
                read.ignored
            );
        }
        return Ok(read);
    }
    let table = read_csv(input, label).with_context(|| format!("in {name}"))?;
    Ok(Capture::of_table(table))
}

fn run_fit(args: &Fit) -> Result<()> {
    if args.config.is_some() || args.method == Some(MethodArg::Doppelganger) {
        return netshare_command::run(args);
    }
    let Some(path) = &args.input else {
        bail!("name the input");
    };
    let input = read(path, args.label.as_deref())?;
    let model = match (args.epsilon, args.delta) {
        (Some(epsilon), Some(delta)) => fit_paid(args, &input.table, epsilon, delta)?,
        _ => {
            if args.public_labels.is_some() || args.public_time_range.is_some() {
                bail!("--public-labels and --public-time-range are for --epsilon");
            }
            let method = match args.method {
                Some(MethodArg::Marginal) => Method::Marginal,
                Some(MethodArg::Sequence | MethodArg::Doppelganger) | None => Method::Sequence,
            };
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
    write_model(&model, &args.output)
}

/// Writes model and side-car, and says what is promised.
pub(crate) fn write_model(model: &dyn Engine, output: &Path) -> Result<()> {
    let bytes = model.to_bytes()?;
    std::fs::write(output, bytes).with_context(|| format!("while writing {}", output.display()))?;
    let sidecar = serde_json::to_string_pretty(model.info())?;
    write_text(&beside(output), &sidecar)?;
    match &model.info().privacy {
        Some(p) => eprintln!(
            "({}, {})-differential privacy for {}{}; {} releases; assumptions and account in {}",
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
        None => eprintln!("no formal privacy guarantee: give --epsilon and --delta for one"),
    }
    Ok(())
}

fn fit_paid(args: &Fit, table: &Table, epsilon: Epsilon, delta: f64) -> Result<Model> {
    if !(delta > 0.0 && delta < 1.0) {
        bail!("--delta {delta}: must be above 0 and below 1");
    }
    if matches!(args.method, Some(MethodArg::Sequence)) {
        bail!("--method sequence has no differential privacy; with --epsilon only marginal works");
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
    Ok(fit_private(
        table,
        &options,
        &mut tables,
        entry,
        (epsilon.value(), delta),
    )?)
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

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, format!("{text}\n"))
        .with_context(|| format!("while writing {}", path.display()))
}

fn run_sample(args: &Sample) -> Result<()> {
    let name = args.model.display();
    let bytes = std::fs::read(&args.model).with_context(|| format!("while reading {name}"))?;
    let model = load(&bytes).with_context(|| format!("in {name}"))?;
    let records = args
        .records
        .unwrap_or(model.info().records.min(MAX_RECORDS as u64) as usize);
    let drawn = model.sample(records, args.seed)?;
    let by_name = args.output.extension().is_some_and(|e| e == "pcap");
    let format = args
        .format
        .unwrap_or(if by_name { Format::Pcap } else { Format::Csv });
    let to_stdout = args.output == Path::new("-");
    let out: Box<dyn Write> = if to_stdout {
        Box::new(std::io::stdout().lock())
    } else {
        Box::new(
            File::create(&args.output)
                .with_context(|| format!("while creating {}", args.output.display()))?,
        )
    };
    let out = BufWriter::with_capacity(1 << 20, out);
    let written = || format!("while writing {}", args.output.display());
    let packets = match format {
        Format::Csv => {
            write_csv(out, &drawn, args.numeric_addresses).with_context(written)?;
            None
        }
        Format::Pcap => Some(
            write_pcap(out, &drawn, model.tables(), args.seed, args.payloads)
                .with_context(written)?,
        ),
    };
    if !to_stdout {
        let sidecar = json!({
            "synthetic": true,
            "records": drawn.records.len(),
            "packets": packets,
            "seed": args.seed,
            "model": model.info(),
        });
        write_text(
            &beside(&args.output),
            &serde_json::to_string_pretty(&sidecar)?,
        )?;
    }
    Ok(())
}

fn run_evaluate(args: &Evaluate) -> Result<()> {
    let real = read(&args.real, args.label.as_deref())?;
    let synthetic = read(&args.synthetic, args.label.as_deref())?;
    let report = fidelity(&real.table, &synthetic.table)?;
    let text = serde_json::to_string_pretty(&report)?;
    match &args.output {
        Some(path) => write_text(path, &text),
        None => {
            println!("{text}");
            Ok(())
        }
    }
}
