//! The commands `trainer defend`, `windows`, `attack` and `evaluate`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_abi::Nanos;
use chaff_cover::{BINS, Demand, EnvelopeConfig, Generator as _, OnnxGenerator, Window};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::captures;
use crate::cover::stream;
use crate::defend::{Cost, Defence, EnvelopeOptions};
use crate::devices::{Devices, Scope};
use crate::traces::{self, Limits, Trace};

/// Rows drawn from a generator for one run of a defence.
const ROWS: usize = 4_000;

/// Where sessions come from.
#[derive(Args)]
pub struct Input {
    /// Captures (pcap, pcapng), or folders with captures below them.
    #[arg(long, num_args = 1.., required_unless_present = "traces")]
    pcap: Vec<PathBuf>,
    /// Devices: comma-separated, columns device, mac, ip, label. Without it, every MAC address that sends from private
    /// addresses only, and is not a router, is a device.
    #[arg(long, requires = "pcap")]
    devices: Option<PathBuf>,
    /// A folder of trace files, or packets.csv of `gateway simulate`; instead of captures.
    #[arg(long, conflicts_with = "pcap")]
    traces: Option<PathBuf>,
    /// Which packets count.
    #[arg(long, value_enum, default_value = "wan")]
    scope: ScopeArg,
    /// Leave out sessions with fewer packets.
    #[arg(long, default_value_t = 8)]
    min_packets: usize,
    /// Use the first seconds of a session only.
    #[arg(long, default_value_t = 3600.0)]
    max_seconds: f64,
}

/// [`Scope`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ScopeArg {
    /// Packets between a device and the Internet.
    Wan,
    /// All packets of a device.
    All,
}

impl From<ScopeArg> for Scope {
    fn from(arg: ScopeArg) -> Self {
        match arg {
            ScopeArg::Wan => Self::Wan,
            ScopeArg::All => Self::All,
        }
    }
}

impl Input {
    /// Reads the sessions.
    ///
    /// # Errors
    /// When a file cannot be read, or no session is left.
    pub fn read(&self) -> Result<Vec<Trace>> {
        let limits = Limits {
            scope: self.scope.into(),
            min_packets: self.min_packets.max(1),
            max_seconds: self.max_seconds,
        };
        if let Some(path) = &self.traces {
            return traces::from_tables(path, limits);
        }
        let files = captures::find(&self.pcap)?;
        let devices = devices(self.devices.as_deref(), &files)?;
        let reading = bar(files.len() as u64, "captures")?;
        let mut notes = Vec::new();
        let out = traces::from_captures(&files, &devices, limits, &mut notes, &mut || {
            reading.inc(1);
        })?;
        reading.finish_and_clear();
        for note in notes {
            eprintln!("note: {note}");
        }
        if out.is_empty() {
            bail!(
                "no device of the list has {} TCP or UDP packets in these captures{}",
                limits.min_packets,
                match self.scope {
                    ScopeArg::Wan =>
                        " with the Internet; --scope all takes those inside the home too",
                    ScopeArg::All => "",
                }
            );
        }
        Ok(out)
    }
}

/// Reads the list of devices, or looks for them.
///
/// # Errors
/// When a file cannot be read.
pub fn devices(list: Option<&Path>, files: &[PathBuf]) -> Result<Devices> {
    match list {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("while reading {}", path.display()))?;
            Devices::parse(&text).with_context(|| format!("in {}", path.display()))
        }
        None => {
            let looking = bar(files.len() as u64, "devices")?;
            let found = captures::detect(files, &mut || looking.inc(1))?;
            looking.finish_and_clear();
            Ok(found)
        }
    }
}

/// A progress bar on the standard error stream, invisible unless that is a terminal.
///
/// # Errors
/// Never in practice: for a template that does not parse.
pub fn bar(total: u64, what: &'static str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg:10} {bar:40} {pos}/{len} {elapsed}")?;
    Ok(ProgressBar::new(total).with_style(style).with_message(what))
}

/// Settings of the envelope.
#[derive(Args)]
pub struct EnvelopeArgs {
    /// Envelope: mean cover, packets/s and direction.
    #[arg(long, default_value_t = 2.0)]
    rate: f64,
    /// Envelope: tick of the release clock, ms; 0 for none. Delays real packets by up to a tick.
    #[arg(long, default_value_t = 4.0)]
    clock_ms: f64,
    /// Envelope: sizes on the wire, bytes, smallest first.
    #[arg(long, value_delimiter = ',', default_values_t = [128, 576, 1420])]
    sizes: Vec<u32>,
    /// Envelope: weights of these sizes in the cover.
    #[arg(long, value_delimiter = ',', default_values_t = [3.0, 0.6, 0.6])]
    mix: Vec<f64>,
    /// Envelope: standard deviation of the logarithm of a segment's rate.
    #[arg(long, default_value_t = 1.5)]
    modulation: f64,
    /// Envelope: standard deviation of the logarithm of an epoch's rate.
    #[arg(long, default_value_t = 0.8)]
    rate_spread: f64,
    /// Envelope: mean length of a segment, s.
    #[arg(long, default_value_t = 10.0)]
    segment: f64,
    /// Envelope: mean length of an epoch, s.
    #[arg(long, default_value_t = 3600.0)]
    epoch: f64,
    /// Envelope: largest mean number of dummies in a clump.
    #[arg(long, default_value_t = 6.0)]
    clump: f64,
}

impl EnvelopeArgs {
    /// The settings.
    ///
    /// # Errors
    /// For sizes that are not three, ascending and positive.
    pub fn options(&self) -> Result<EnvelopeOptions> {
        let sizes: [u32; BINS] = self
            .sizes
            .clone()
            .try_into()
            .ok()
            .filter(|s: &[u32; BINS]| s[0] > 0 && s.is_sorted() && s[BINS - 1] <= 65_535)
            .with_context(|| {
                format!(
                    "--sizes is {:?}, wanted {BINS} numbers, smallest first",
                    self.sizes
                )
            })?;
        let mix: [f64; BINS] = self
            .mix
            .clone()
            .try_into()
            .ok()
            .with_context(|| format!("--mix is {:?}, wanted {BINS} numbers", self.mix))?;
        if !(0.0..=1000.0).contains(&self.clock_ms) {
            bail!("--clock-ms is {}, allowed is 0 to 1000", self.clock_ms);
        }
        Ok(EnvelopeOptions {
            config: EnvelopeConfig {
                rate: self.rate,
                rate_spread: self.rate_spread,
                epoch: Nanos::from_secs_f64(self.epoch),
                segment: Nanos::from_secs_f64(self.segment),
                modulation: self.modulation,
                clump: self.clump,
                mix,
                ..EnvelopeConfig::default()
            },
            sizes,
            tick: Nanos::from_secs_f64(self.clock_ms / 1e3),
            ..EnvelopeOptions::default()
        })
    }
}

/// `trainer defend`.
#[derive(Args)]
#[command(after_long_help = "Examples:\n  \
    trainer defend --pcap captures/ --devices devices.csv --defence none --seed 1 --output plain/\n  \
    trainer defend --pcap captures/ --devices devices.csv --defence envelope --rate 2 --seed 1 --output covered/\n  \
    trainer defend --traces plain/ --defence ipet --model models/ --seed 1 --output ipet/")]
pub struct Defend {
    #[command(flatten)]
    input: Input,
    /// What the observer sees: none, constant, random, random+, ipet, ipet-mended, envelope.
    #[arg(long, default_value = "envelope")]
    defence: String,
    /// iPET: a generator, or a folder of LABEL.onnx.
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    envelope: EnvelopeArgs,
    /// Seed.
    #[arg(long)]
    seed: u64,
    /// Folder for one file a session.
    #[arg(long)]
    output: PathBuf,
    /// Print the cost as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `trainer defend`.
///
/// # Errors
/// For usage, input or output.
pub fn run_defend(args: &Defend) -> Result<()> {
    let traces = args.input.read()?;
    let defence = defence(
        &args.defence,
        args.model.as_deref(),
        &args.envelope,
        args.seed,
    )?;
    std::fs::create_dir_all(&args.output)
        .with_context(|| format!("while making {}", args.output.display()))?;
    let working = bar(traces.len() as u64, "sessions")?;
    let mut covered = Vec::with_capacity(traces.len());
    for trace in &traces {
        let after = defence.apply(trace, args.seed)?;
        after.write(&args.output.join(after.file_name()))?;
        covered.push(after);
        working.inc(1);
    }
    working.finish_and_clear();
    let cost = Cost::of(traces.iter().zip(&covered));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&cost)?);
    } else {
        println!(
            "{} sessions, {}: {:+.0} % bytes, {:+.0} % packets, {:.2} kB/s added, delay p50 {:.2} ms, p99 {:.2} ms",
            traces.len(),
            defence.name(),
            100.0 * cost.bytes,
            100.0 * cost.packets,
            cost.bytes_per_second / 1e3,
            cost.delay_p50_ms,
            cost.delay_p99_ms
        );
    }
    Ok(())
}

/// The defence of this name.
///
/// # Errors
/// For an unknown name, and for iPET without models.
pub fn defence(
    name: &str,
    model: Option<&Path>,
    envelope: &EnvelopeArgs,
    seed: u64,
) -> Result<Defence> {
    Ok(match name {
        "none" => Defence::None,
        "constant" | "random" | "random+" => Defence::Slots(name.to_owned()),
        "envelope" => Defence::Envelope(Box::new(envelope.options()?)),
        "ipet" | "ipet-mended" => {
            let path = model.context("--defence ipet needs --model")?;
            let vectors = vectors(path, seed)?;
            match name {
                "ipet" => Defence::Ipet { vectors },
                _ => Defence::IpetMended { vectors },
            }
        }
        other => bail!(
            "--defence is {other:?}, wanted none, constant, random, random+, ipet, ipet-mended or envelope"
        ),
    })
}

/// Demands of a generator or of each generator of a folder, by label.
fn vectors(path: &Path, seed: u64) -> Result<BTreeMap<String, Vec<Demand>>> {
    let draw = |file: &Path| -> Result<(String, Vec<Demand>)> {
        let bytes =
            std::fs::read(file).with_context(|| format!("while reading {}", file.display()))?;
        let mut g = OnnxGenerator::load(&bytes)
            .with_context(|| format!("while loading {}", file.display()))?;
        let label = g.signature().device_label.clone();
        let mut rng = stream(seed, &format!("vectors of {label}"));
        let mut block = vec![Demand::NONE; g.rows()];
        let mut rows = Vec::with_capacity(ROWS + block.len());
        while rows.len() < ROWS {
            g.fill(&Window::new(1), &mut rng, &mut block)?;
            rows.extend_from_slice(&block);
        }
        Ok((label, rows))
    };
    if !path.is_dir() {
        let (_, rows) = draw(path)?;
        return Ok(BTreeMap::from([(String::new(), rows)]));
    }
    let mut out = BTreeMap::new();
    for entry in
        std::fs::read_dir(path).with_context(|| format!("while listing {}", path.display()))?
    {
        let file = entry?.path();
        if file.extension().is_some_and(|e| e == "onnx") {
            let (label, rows) = draw(&file)?;
            out.insert(label, rows);
        }
    }
    if out.is_empty() {
        bail!("no .onnx file in {}", path.display());
    }
    Ok(out)
}
