//! `trainer`: learns cover generators and novelty models from captures.

use std::collections::BTreeSet;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use chaff_cover::parity;
use chaff_onnx::Extras;
use chaff_trainer::attack_command;
use chaff_trainer::captures;
use chaff_trainer::cover::{self, Config, Progress, Report};
use chaff_trainer::devices::{Devices, Scope};
use chaff_trainer::evaluate_command;
use chaff_trainer::ipet_command;
use chaff_trainer::learn_command;
use chaff_trainer::nets::{self, Validation};
use chaff_trainer::perturb_command;
use chaff_trainer::split::HeldArgs;
use chaff_trainer::staged::{self, Staged};
use chaff_trainer::synth_command;
use chaff_trainer::traces::{self, Limits};
use chaff_trainer::windows::Shape;
use chaff_trainer::winnow_command;
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

/// Learns cover generators (signed ONNX models) and novelty models from captures.
#[derive(Parser)]
#[command(version, after_help = "Exit codes: 0 done, 2 usage, input or output.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train one cover generator for each device, or for one of them.
    #[command(after_long_help = "Examples:\n  \
        trainer cover --pcap captures/ --devices devices.csv --shared --stages 10 --seed 1 --output models/\n  \
        trainer cover --pcap monday.pcap tuesday.pcap --devices devices.csv --device camera --seed 1 --output camera.onnx")]
    Cover(Cover),
    /// Write the demands that a generator makes, as CSV with named columns.
    #[command(after_long_help = "Examples:\n  \
        trainer perturb --model camera.onnx --slots 400 --seed 1 --output cover.csv\n  \
        trainer perturb 100 camera 0 5 --model models/ > cover.csv   # iPET's predict: windows, device, chain, generation")]
    Perturb(Perturb),
    /// Cut captures or iPET's traces into windows of slots, as NumPy arrays.
    Windows(ipet_command::Windows),
    /// Train an attacker on some sessions, try it on the others: table, picture, model file.
    Attack(Box<attack_command::Attack>),
    /// Try attackers on defences: one table and one picture of accuracy over cost.
    Evaluate(Box<evaluate_command::Evaluate>),
    /// Tell cover from real packets in a tunnel, packet by packet: area under the ROC curve by size, gaps and context.
    Winnow(winnow_command::Winnow),
    /// Show what an observer sees of captures under a defence, as packet tables.
    Defend(Box<ipet_command::Defend>),
    /// Turn captures into a table of flow features.
    Features(learn_command::Features),
    /// Learn what normal traffic looks like, for `gateway classify`.
    Learn(Box<learn_command::Learn>),
    /// Synthetic header traces, with or without differential privacy.
    #[command(subcommand)]
    Synth(synth_command::Synth),
}

#[derive(Args)]
struct Cover {
    /// Captures (pcap, pcapng), or folders with captures below them.
    #[arg(long, required = true, num_args = 1..)]
    pcap: Vec<PathBuf>,
    /// Devices: comma-separated, columns device, mac, ip, label. Without it, every MAC address that sends from private
    /// addresses only, and is not a router, is a device.
    #[arg(long)]
    devices: Option<PathBuf>,
    /// Train for this label only.
    #[arg(long)]
    device: Option<String>,
    /// Which packets count.
    #[arg(long, value_enum, default_value = "wan")]
    scope: ScopeArg,
    /// Leave out sessions with fewer TCP and UDP packets.
    #[arg(long, default_value_t = 1)]
    min_packets: usize,
    /// Use the first seconds of a session only; default: all of it.
    #[arg(long, default_value_t = f64::INFINITY, hide_default_value = true)]
    max_seconds: f64,
    /// Length of a slot, seconds.
    #[arg(long, default_value_t = 0.1)]
    omega: f64,
    /// Length of a window, seconds.
    #[arg(long, default_value_t = 4.0)]
    total_time: f64,
    /// One generator for all devices: cover that does not itself tell which device it is for.
    #[arg(long, conflicts_with = "device")]
    shared: bool,
    /// Rounds of generators against attacker; default 1.
    #[arg(long)]
    stages: Option<u32>,
    /// Passes of a generator over its device's windows, each stage.
    #[arg(long, default_value_t = 3)]
    epochs: usize,
    /// Passes of the attacker over all windows; default 40.
    #[arg(long)]
    attacker_epochs: Option<usize>,
    /// What full cover all the time would have to gain, in nats of the attacker's cross-entropy; 0: cost does not count.
    #[arg(long, default_value_t = 0.0)]
    overhead_weight: f64,
    /// Most dummies of a slot and direction.
    #[arg(long, default_value_t = 4.0)]
    max_packets: f64,
    /// Most cover bytes of a slot and direction.
    #[arg(long, default_value_t = 100.0)]
    max_payload: f64,
    #[command(flatten)]
    beyond: BeyondArgs,
    /// Most windows used of one device.
    #[arg(long, default_value_t = 1000)]
    max_windows: usize,
    /// With `ipet` exactly the published method: LSTM discriminator, generators from scratch in each stage, no cost term; defaults
    /// then --stages 5 --attacker-epochs 100. Checkpoints of every stage are in the output folder.
    #[arg(long, value_enum, default_value = "native")]
    profile: Method,
    /// With --profile ipet: which windows decide when the discriminator stops; the published program takes those it is judged by.
    #[arg(long, value_enum, default_value = "training")]
    validation: Validation,
    #[command(flatten)]
    held: HeldArgs,
    /// With --profile ipet: go on after the last stage in the output folder.
    #[arg(long)]
    resume: bool,
    /// Number of this series, when several are trained independently.
    #[arg(long, default_value_t = 0)]
    chain: u32,
    /// Seed: the same captures, options and seed give the same files.
    #[arg(long)]
    seed: u64,
    /// Model file (with --device or --shared), or folder for LABEL.onnx of each device and report.json.
    #[arg(long)]
    output: PathBuf,
    /// Where the report goes; default: report.json in the folder, or the model file's name with .json.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl Cover {
    fn limits(&self) -> Result<Limits> {
        traces::check_seconds(self.max_seconds)?;
        let scope = match self.scope {
            ScopeArg::Wan => Scope::Wan,
            ScopeArg::All => Scope::All,
        };
        Ok(Limits {
            scope,
            min_packets: self.min_packets.max(1),
            max_seconds: self.max_seconds,
        })
    }
}

/// What generators do beyond iPET's; in the model's signature, and done wherever the model is used.
#[derive(Args)]
struct BeyondArgs {
    /// The generator sees this many slots of recent real traffic, at most 1024; the gateway keeps 40.
    #[arg(long, default_value_t = 0)]
    past: u32,
    /// The generator gets this many random numbers that are the home's secret, drawn when the gateway starts; an attacker trains on
    /// other homes. At most 1024.
    #[arg(long, default_value_t = 0)]
    secret: u32,
    /// The generator counts dummies of these UDP payloads, at most three, instead of packets and bytes; --max-packets is for each.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<u16>,
    /// Cover goes on for a random time after the device, and starts without it for as long: mean, seconds. With --mask-pause.
    #[arg(long, requires = "mask_pause")]
    mask_hold: Option<f64>,
    /// Mean time between starts of cover without the device, seconds.
    #[arg(long, requires = "mask_hold")]
    mask_pause: Option<f64>,
}

impl BeyondArgs {
    fn extras(&self) -> Result<Extras> {
        let ms = |name: &str, seconds: f64| -> Result<u32> {
            let ms = (seconds * 1e3).round();
            if !(1.0..=86_400_000.0).contains(&ms) {
                bail!("--{name} is {seconds}, allowed is 0.001 to 86400");
            }
            Ok(ms as u32)
        };
        let ascending = self.sizes.windows(2).all(|w| w[0] < w[1]);
        if self.sizes.len() > 3 || !ascending || self.sizes.first() == Some(&0) {
            bail!(
                "--sizes is {:?}, wanted at most 3 numbers, smallest first",
                self.sizes
            );
        }
        for (name, n) in [("past", self.past), ("secret", self.secret)] {
            if n > 1_024 {
                bail!("--{name} is {n}, allowed is 0 to 1024");
            }
        }
        let mask_ms = match (self.mask_hold, self.mask_pause) {
            (Some(hold), Some(pause)) => Some([ms("mask-hold", hold)?, ms("mask-pause", pause)?]),
            _ => None,
        };
        Ok(Extras {
            past: self.past,
            secret: self.secret,
            sizes: self.sizes.clone(),
            mask_ms,
        })
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum ScopeArg {
    /// Packets between a device and the Internet.
    Wan,
    /// All packets of a device.
    All,
}

/// How generators are trained.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// With cost term, shared generators, a small attacker.
    Native,
    /// As published.
    Ipet,
}

#[derive(Args)]
struct Perturb {
    /// iPET's positional interface: windows to make, device (label, or its number in sorted order), series (--chain), stage; writes
    /// to standard output. --model is then the folder of `trainer cover --profile ipet`, default the current one.
    #[arg(num_args = 4, value_names = ["NUM_SAMPLES", "DEV_ID", "CHAIN", "GENERATION"])]
    positional: Vec<String>,
    /// Generator: a file, or a model that comes with Chaff (ipet, learned).
    #[arg(long, required_unless_present = "positional")]
    model: Option<PathBuf>,
    /// Slots to write.
    #[arg(long, required_unless_present = "positional", conflicts_with = "positional",
        value_parser = clap::value_parser!(u64).range(1..=parity::MAX_ROWS as u64))]
    slots: Option<u64>,
    /// Seed; with the positional interface default 0.
    #[arg(long, required_unless_present = "positional")]
    seed: Option<u64>,
    /// CSV file; `-` is standard output, and the default with the positional interface.
    #[arg(long, required_unless_present = "positional")]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Cover(args) => train(args),
        Command::Perturb(args) => perturb(args),
        Command::Attack(args) => attack_command::run_attack(&args),
        Command::Evaluate(args) => evaluate_command::run_evaluate(&args),
        Command::Windows(args) => ipet_command::run_windows(&args),
        Command::Defend(args) => ipet_command::run_defend(&args),
        Command::Winnow(args) => winnow_command::run(&args, &mut std::io::stdout().lock()),
        Command::Features(args) => learn_command::run_features(args),
        Command::Learn(args) => learn_command::run_learn(&args),
        Command::Synth(args) => synth_command::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("trainer: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn bar(total: u64, what: &'static str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg:10} {bar:40} {pos}/{len} {elapsed}")?;
    Ok(ProgressBar::new(total).with_style(style).with_message(what))
}

fn train(args: Cover) -> Result<()> {
    let extras = args.beyond.extras()?;
    let shape = Shape::new(args.omega, args.total_time)?;
    let files = captures::find(&args.pcap)?;
    let one_file = args.output.extension().is_some_and(|e| e == "onnx");
    if one_file && args.device.is_none() && !args.shared {
        bail!(
            "--output {} is one file: say which device with --device, ask for --shared, or give a folder",
            args.output.display()
        );
    }
    let devices = ipet_command::devices(args.devices.as_deref(), &files)?;
    if args.profile == Method::Ipet {
        return train_ipet(&args, shape, &files, &devices);
    }
    if args.held.asked() {
        bail!(
            "--split-seed and --test-last are of --profile ipet; without it whole captures are held out"
        );
    }
    let limits = args.limits()?;
    let reading = bar(files.len() as u64, "captures")?;
    let mut rng = cover::stream(args.seed, "sampling");
    let data = captures::read(
        &files,
        &devices,
        shape,
        limits,
        args.max_windows,
        &mut rng,
        &mut || {
            reading.inc(1);
        },
    )?;
    reading.finish_and_clear();
    let config = Config {
        shape,
        device: args.device,
        shared: args.shared,
        one: one_file,
        stages: args.stages.unwrap_or(1),
        epochs: args.epochs,
        attacker_epochs: args.attacker_epochs.unwrap_or(40),
        overhead_weight: args.overhead_weight,
        max_packets: args.max_packets,
        max_payload: args.max_payload,
        max_windows: args.max_windows,
        chain: args.chain,
        extras,
        seed: args.seed,
    };
    let names: BTreeSet<String> = data.labels.iter().map(|l| file_name(l)).collect();
    if names.len() < data.labels.len() {
        bail!(
            "two labels give the same file name once `/`, `\\` and control characters are replaced by `_`"
        );
    }
    let training = bar(0, "training")?;
    let (models, report) = cover::train(&data, &config, &mut |p: Progress| {
        training.set_length(p.total);
        training.set_position(p.done);
    })?;
    training.finish_and_clear();

    let report_path = args.report.unwrap_or_else(|| {
        if one_file {
            args.output.with_extension("json")
        } else {
            args.output.join("report.json")
        }
    });
    if !one_file {
        std::fs::create_dir_all(&args.output)
            .with_context(|| format!("while making {}", args.output.display()))?;
    }
    for model in &models {
        let path = if one_file {
            args.output.clone()
        } else {
            args.output.join(file_name(&model.label))
        };
        write(&path, &model.onnx)?;
    }
    let json = format!("{}\n", serde_json::to_string_pretty(&report)?);
    write(&report_path, json.as_bytes())?;
    if args.json {
        print!("{json}");
    } else {
        summary(&report, &mut std::io::stdout().lock())?;
    }
    if report.accuracy_retrained > report.accuracy_before {
        eprintln!(
            "warning: an attacker who learns from this cover tells the devices apart better than without it; \
             try --shared --stages 10, or fewer --epochs"
        );
    }
    if std::io::stderr().is_terminal() {
        eprintln!(
            "{} model(s) in {}, report in {}",
            models.len(),
            args.output.display(),
            report_path.display()
        );
    }
    Ok(())
}

/// iPET as published, from the same captures.
fn train_ipet(args: &Cover, shape: Shape, files: &[PathBuf], devices: &Devices) -> Result<()> {
    let plain = args.beyond.extras()? == Extras::default();
    if args.shared || args.device.is_some() || args.overhead_weight != 0.0 || !plain {
        bail!(
            "--profile ipet trains one generator for every device, without cost; leave out --shared, --device, --overhead-weight, --past, --secret, --sizes and --mask-hold"
        );
    }
    let limits = args.limits()?;
    let reading = bar(files.len() as u64, "captures")?;
    let mut notes = Vec::new();
    let found = traces::from_captures(files, devices, limits, &mut notes, &mut || reading.inc(1))?;
    reading.finish_and_clear();
    notes.iter().for_each(|n| eprintln!("note: {n}"));
    let how = nets::Windowing {
        shape,
        cap: args.max_windows,
        least: 4,
        validation: args.validation,
    };
    let split = args.held.split(&found)?;
    let sets = nets::sets(&found, &split, how, args.seed)?;
    let defaults = Staged::default();
    let settings = Staged {
        stages: args.stages.unwrap_or(defaults.stages),
        generator_epochs: args.epochs,
        attacker_epochs: args.attacker_epochs.unwrap_or(defaults.attacker_epochs),
        limits: [args.max_packets, args.max_payload],
        chain: args.chain,
        validation: args.validation,
        seed: args.seed,
        ..defaults
    };
    let training = bar(0, "training")?;
    let report = staged::train(
        &sets,
        shape,
        &settings,
        &args.output,
        args.resume,
        file_name,
        &mut |done, all| {
            training.set_length(all);
            training.set_position(done);
        },
    )?;
    training.finish_and_clear();
    let json = format!("{}\n", serde_json::to_string_pretty(&report)?);
    write(&args.output.join("report.json"), json.as_bytes())?;
    if args.json {
        print!("{json}");
        return Ok(());
    }
    let [train, validation, test] = report.windows;
    println!(
        "{} labels (chance {:.3}), {train} + {validation} windows to learn from, {test} of held-out sessions; balanced / plain accuracy of the LSTM:",
        report.labels.len(),
        report.chance
    );
    for (name, s) in [
        ("no cover", &report.undefended),
        ("cover", &report.r#static),
        ("cover, trained along", &report.trained_along),
        ("cover, retrained", &report.retrained),
    ] {
        println!("  {name:22} {:.3} / {:.3}", s.balanced, s.accuracy);
    }
    let c = report.cover_per_slot;
    println!(
        "cover of a slot: {:.2} packets {:.1} B in, {:.2} packets {:.1} B out; payload {:+.0} %, median label {:+.0} %; {:.0} s",
        c[0],
        c[1],
        c[2],
        c[3],
        100.0 * report.overhead[0],
        100.0 * report.overhead[1],
        report.seconds
    );
    Ok(())
}

/// A label as the name of a file: what would lead out of the folder, or hide the file, becomes `_`.
fn file_name(label: &str) -> String {
    let safe = |c: char| {
        if c == '/' || c == '\\' || c.is_control() {
            '_'
        } else {
            c
        }
    };
    let name: String = label.chars().map(safe).collect();
    match name.strip_prefix('.') {
        Some(rest) => format!("_{rest}.onnx"),
        None => format!("{name}.onnx"),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("while writing {}", path.display()))
}

fn summary(r: &Report, out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "attacker's balanced accuracy on held-out windows (chance {:.3}):\n  \
         without cover {:.3}, with cover {:.3}, with cover and retrained {:.3}",
        r.chance, r.accuracy_before, r.accuracy_after, r.accuracy_retrained
    )?;
    writeln!(
        out,
        "{:24} {:>7} {:>6} {:>6} {:>6}   {:>22}   {:>22}",
        "device", "windows", "before", "after", "retr.", "cover/slot in, out", "real/slot in, out"
    )?;
    for d in &r.devices {
        let pair = |v: [f64; 4]| format!("{:.2}p {:.0}B, {:.2}p {:.0}B", v[0], v[1], v[2], v[3]);
        writeln!(
            out,
            "{:24} {:>7} {:>6.3} {:>6.3} {:>6.3}   {:>22}   {:>22}",
            d.label,
            d.train_windows + d.test_windows,
            d.recognised[0],
            d.recognised[1],
            d.recognised[2],
            pair(d.cover_per_slot),
            pair(d.real_per_slot)
        )?;
    }
    for (what, lines) in [("left out", &r.left_out), ("note", &r.notes)] {
        for line in lines {
            writeln!(out, "{what}: {line}")?;
        }
    }
    Ok(())
}

fn perturb(args: Perturb) -> Result<()> {
    let model = args.model.unwrap_or_else(|| PathBuf::from("."));
    let output = args.output.unwrap_or_else(|| PathBuf::from("-"));
    let seed = args.seed.unwrap_or(0);
    let rows = match args.positional.as_slice() {
        [samples, device, chain, generation] => {
            perturb_command::predict(&model, [samples, device, chain, generation], seed)?
        }
        _ => {
            let mut generator = ipet_command::generator(&model)?;
            perturb_command::rows(&mut generator, args.slots.unwrap_or(0), seed)?
        }
    };
    if output == Path::new("-") {
        parity::write_rows(&rows, std::io::stdout().lock())?;
    } else {
        let out = std::fs::File::create(&output)
            .with_context(|| format!("while writing {}", output.display()))?;
        parity::write_rows(&rows, BufWriter::new(out))?;
    }
    Ok(())
}
