//! The command `trainer cover`.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_cover::model_file;
use chaff_onnx::Extras;
use clap::{Args, ValueEnum};

use crate::captures;
use crate::cover::{self, Config, Progress, Report};
use crate::devices::Devices;
use crate::ipet_command::{self, ScopeArg, bar, whole};
use crate::nets::{self, Validation};
use crate::split::HeldArgs;
use crate::staged::{self, Staged};
use crate::traces::{self, Limits};
use crate::windows::Shape;

/// `trainer cover`.
#[derive(Args)]
#[command(after_long_help = "Examples:\n  \
    trainer cover --pcap captures/ --devices devices.csv --shared --stages 10 --seed 1 --output models/\n  \
    trainer cover --pcap monday.pcap tuesday.pcap --devices devices.csv --device camera --seed 1 --output camera.onnx")]
pub struct Cover {
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
    #[arg(long, default_value_t = 3, value_parser = whole(1, 100_000))]
    epochs: usize,
    /// Passes of the attacker over all windows; default 40.
    #[arg(long, value_parser = whole(1, 100_000))]
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
    #[arg(long, default_value_t = 1000, value_parser = whole(1, 1_000_000))]
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
        Ok(Limits {
            scope: self.scope.into(),
            min_packets: self.min_packets.max(1),
            max_seconds: self.max_seconds,
        })
    }
}

/// Bytes that a datagram of cover holds on a path of 1,500.
const MOST_PAYLOAD: u16 = 1_452;

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
        let fit = self.sizes.iter().all(|s| (1..=MOST_PAYLOAD).contains(s));
        if self.sizes.len() > 3 || !ascending || !fit {
            bail!(
                "--sizes is {:?}, wanted at most 3 different numbers from 1 to {MOST_PAYLOAD}, smallest first",
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

/// How generators are trained.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// With cost term, shared generators, a small attacker.
    Native,
    /// As published.
    Ipet,
}

/// Options that only one of the two methods has.
fn check_method(args: &Cover, plain: bool, one_file: bool) -> Result<()> {
    let output = args.output.display();
    if args.profile == Method::Ipet {
        if args.shared || args.device.is_some() || args.overhead_weight != 0.0 || !plain {
            bail!(
                "--profile ipet trains one generator for every device, without cost; leave out --shared, --device, --overhead-weight, --past, --secret, --sizes and --mask-hold"
            );
        }
        if one_file {
            bail!("--output {output} is one file: --profile ipet fills a folder");
        }
        return Ok(());
    }
    let only = [
        ("--resume", args.resume),
        (args.held.asked().unwrap_or(""), args.held.asked().is_some()),
        (
            "--validation held-out",
            args.validation != Validation::Training,
        ),
    ];
    if let Some((name, _)) = only.iter().find(|(_, given)| *given) {
        bail!("{name} is for --profile ipet only");
    }
    if one_file && args.device.is_none() && !args.shared {
        bail!(
            "--output {output} is one file: say which device with --device, ask for --shared, or give a folder"
        );
    }
    Ok(())
}

/// Runs `trainer cover`.
///
/// # Errors
/// For usage, input or output, and when fewer than two labels can be told apart.
pub fn run(args: Cover) -> Result<()> {
    let extras = args.beyond.extras()?;
    let shape = Shape::new(args.omega, args.total_time)?;
    let one_file = args.output.extension().is_some_and(|e| e == "onnx");
    check_method(&args, extras == Extras::default(), one_file)?;
    let files = captures::find(&args.pcap)?;
    let devices = ipet_command::devices(args.devices.as_deref(), &files)?;
    if args.profile == Method::Ipet {
        return train_ipet(&args, shape, &files, &devices);
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
    let names: BTreeSet<String> = data.labels.iter().map(|l| model_file(l)).collect();
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
            args.output.join(model_file(&model.label))
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
    if args.resume && !args.output.join("checkpoint.json").exists() {
        eprintln!(
            "note: no checkpoint.json in {}: training begins with stage 1",
            args.output.display()
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
        model_file,
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
