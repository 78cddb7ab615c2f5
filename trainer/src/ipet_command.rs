//! The command `trainer defend`, and what it shares with others: sessions from captures or tables, and defences by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_abi::Nanos;
use chaff_cover::{
    BINS, BurstConfig, Demand, EnvelopeConfig, Generator as _, OnnxGenerator, PollConfig, Window,
};
use clap::builder::{RangedU64ValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::captures;
use crate::cover::stream;
use crate::defend::{Cost, Defence, EnvelopeOptions};
use crate::devices::{Devices, Scope};
use crate::machines;
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
        traces::check_seconds(self.max_seconds)?;
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
            if devices.list().is_empty() {
                bail!(
                    "no device found: no MAC address sends from private addresses only; name the devices with --devices"
                );
            }
            let whose = match self.devices {
                Some(_) => "of the list",
                None => "that was found",
            };
            bail!(
                "no device {whose} has {} TCP or UDP packets in these captures{}",
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

/// Takes whole numbers of this range on the command line.
pub fn whole(least: u64, most: u64) -> impl TypedValueParser<Value = usize> {
    RangedU64ValueParser::<u64>::new()
        .range(least..=most)
        .map(|n| n as usize)
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
    /// Envelope: mean cover, packets/s and direction. With this rate and mix a device gets about 2 kB/s.
    #[arg(long, default_value_t = EnvelopeConfig::default().rate)]
    rate: f64,
    /// Envelope: tick of the release clock, ms; 0 for none. Delays real packets by up to a tick.
    #[arg(long, default_value_t = 4.0)]
    clock_ms: f64,
    /// Envelope: sizes on the wire, bytes, smallest first.
    #[arg(long, value_delimiter = ',', default_values_t = EnvelopeOptions::default().sizes)]
    sizes: Vec<u32>,
    /// Envelope: weights of these sizes in the cover.
    #[arg(long, value_delimiter = ',', default_values_t = EnvelopeConfig::default().mix)]
    mix: Vec<f64>,
    /// Envelope: standard deviation of the logarithm of a segment's rate.
    #[arg(long, default_value_t = EnvelopeConfig::default().modulation)]
    modulation: f64,
    /// Envelope: standard deviation of the logarithm of an epoch's rate.
    #[arg(long, default_value_t = EnvelopeConfig::default().rate_spread)]
    rate_spread: f64,
    /// Envelope: mean length of a segment, s.
    #[arg(long, default_value_t = EnvelopeConfig::default().segment.as_secs_f64())]
    segment: f64,
    /// Envelope: mean length of an epoch, s.
    #[arg(long, default_value_t = EnvelopeConfig::default().epoch.as_secs_f64())]
    epoch: f64,
    /// Envelope: largest mean number of dummies in a clump.
    #[arg(long, default_value_t = EnvelopeConfig::default().clump)]
    clump: f64,
    /// Envelope: bursts as of devices that are not there, a minute; `envelope-home` has its own.
    #[arg(long, default_value_t = 60.0 * EnvelopeConfig::default().bursts.rate)]
    bursts: f64,
    /// Envelope: mean number of packets of a burst.
    #[arg(long, default_value_t = BurstConfig::default().packets)]
    burst_packets: f64,
    /// Envelope: kinds of bursts of an epoch.
    #[arg(long, default_value_t = BurstConfig::default().kinds)]
    burst_kinds: u32,
    /// Envelope: steady exchanges as of devices that are not there that begin in a minute; `envelope-home` has its own.
    #[arg(long, default_value_t = 60.0 * EnvelopeConfig::default().polls.rate)]
    polls: f64,
    /// Envelope: each session takes its rates and mixes from one of this many homes that the attacker knows and trains on as well
    /// (its dummies stay secret); 0: each session has its own, which nobody knows.
    #[arg(long, default_value_t = 0)]
    known_homes: u32,
}

/// Settings of defences.
#[derive(Args)]
pub struct DefenceArgs {
    /// iPET: a generator, a folder of LABEL.onnx, or a model that comes with Chaff (ipet, learned).
    #[arg(long)]
    model: Option<PathBuf>,
    /// Maybenot: file with one serialized machine a line, after `home` or `far` for the end that runs it; without it every session
    /// draws machines of its own.
    #[arg(long)]
    machines: Option<PathBuf>,
    #[command(flatten)]
    envelope: EnvelopeArgs,
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
                    "--sizes is {:?}, wanted {BINS} numbers from 1 to 65535, smallest first",
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
                bursts: BurstConfig {
                    rate: self.bursts / 60.0,
                    packets: self.burst_packets,
                    kinds: self.burst_kinds,
                    ..BurstConfig::default()
                },
                polls: PollConfig {
                    rate: self.polls / 60.0,
                    ..PollConfig::default()
                },
                mix,
                ..EnvelopeConfig::default()
            },
            sizes,
            tick: Nanos::from_secs_f64(self.clock_ms / 1e3),
            known_homes: self.known_homes,
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
    /// What the observer sees: none, constant, random, random+, ipet, ipet-mended, envelope, envelope-home (with bursts), maybenot,
    /// maybenot-bins, model:PATH.
    #[arg(long, default_value = "envelope")]
    defence: String,
    #[command(flatten)]
    how: DefenceArgs,
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
    let defence = args.how.defence(&args.defence, 1.0, args.seed)?;
    std::fs::create_dir_all(&args.output)
        .with_context(|| format!("while making {}", args.output.display()))?;
    let working = bar(traces.len() as u64, "sessions")?;
    let mut covered = Vec::with_capacity(traces.len());
    for trace in &traces {
        let after = defence.apply(trace, args.seed, 0)?;
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

impl DefenceArgs {
    /// Whether this defence has an amount of cover.
    pub fn scales(&self, name: &str) -> bool {
        match name {
            "maybenot" | "maybenot-bins" => self.machines.is_none(),
            "constant" | "random" | "random+" | "ipet-mended" | "envelope" | "envelope-home" => {
                true
            }
            _ => false,
        }
    }

    /// The defence of this name, with `scale` times the cover where [`DefenceArgs::scales`].
    ///
    /// # Errors
    /// For an unknown name, for iPET without models, for files that cannot be read.
    pub fn defence(&self, name: &str, scale: f64, seed: u64) -> Result<Defence> {
        Ok(match name {
            "none" => Defence::None,
            "constant" | "random" | "random+" => Defence::Slots {
                name: name.to_owned(),
                scale,
            },
            "envelope" => {
                let mut options = self.envelope.options()?;
                options.config = options.config.scaled(scale);
                Defence::Envelope(Box::new(options))
            }
            "envelope-home" => {
                let options = self.envelope.options()?;
                Defence::Envelope(Box::new(EnvelopeOptions {
                    config: EnvelopeConfig::home().scaled(scale),
                    ..options
                }))
            }
            "maybenot" | "maybenot-bins" => {
                let envelope = self.envelope.options()?;
                let fixed = self.machines.as_deref().map(machines::read).transpose()?;
                Defence::Machines(Box::new(machines::Options {
                    fixed,
                    scale,
                    sizes: envelope.sizes,
                    constant_size: name == "maybenot",
                    mix: envelope.config.mix,
                }))
            }
            "ipet" | "ipet-mended" => {
                let path = self
                    .model
                    .as_deref()
                    .with_context(|| format!("the defence {name} needs --model"))?;
                let vectors = vectors(path, seed)?;
                match name {
                    "ipet" => Defence::Ipet { vectors },
                    _ => Defence::IpetMended { vectors, scale },
                }
            }
            other => match other.strip_prefix("model:") {
                Some(path) => Defence::Models(model_files(Path::new(path))?),
                None => bail!(
                    "the defence is {other:?}, wanted none, constant, random, random+, ipet, ipet-mended, envelope, \
                     envelope-home, maybenot, \
                     maybenot-bins or model:PATH"
                ),
            },
        })
    }
}

/// Reads a model file, or a model that comes with Chaff by its name.
fn model_bytes(path: &Path) -> Result<Vec<u8>> {
    let own = path.to_str().and_then(chaff_cover::model);
    match own.filter(|_| !path.exists()) {
        Some(bytes) => Ok(bytes.to_vec()),
        None => std::fs::read(path).with_context(|| format!("while reading {}", path.display())),
    }
}

/// Loads a generator: a file, or a model that comes with Chaff by its name.
///
/// # Errors
/// When there is no such file or it is no generator.
pub fn generator(path: &Path) -> Result<OnnxGenerator> {
    let bytes = model_bytes(path)?;
    OnnxGenerator::load(&bytes).with_context(|| format!("while loading {}", path.display()))
}

/// A model file for all labels, or those of a folder by label; each was loaded once.
fn model_files(path: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = std::fs::read_dir(path)
            .and_then(|all| all.map(|e| Ok(e?.path())).collect())
            .with_context(|| format!("while listing {}", path.display()))?;
        files.retain(|f| f.extension().is_some_and(|e| e == "onnx"));
    }
    let mut out = BTreeMap::new();
    for file in files {
        let label = generator(&file)?.signature().device_label.clone();
        let label = if path.is_dir() { label } else { String::new() };
        out.insert(label, model_bytes(&file)?);
    }
    if out.is_empty() {
        bail!("no .onnx file in {}", path.display());
    }
    Ok(out)
}

/// Demands of a generator or of each generator of a folder, by label.
fn vectors(path: &Path, seed: u64) -> Result<BTreeMap<String, Vec<Demand>>> {
    let draw = |file: &Path| -> Result<(String, Vec<Demand>)> {
        let mut g = generator(file)?;
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
