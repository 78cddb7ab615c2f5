//! The README's demonstration: a capture through the real programs, covered, metered, winnowed, and a true account of it.
//!
//! With root it runs live in namespaces (`live`), without in virtual time by `gateway simulate`; the account
//! (`account`) checks the same equalities in both.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::account::{Account, simulated};
use crate::command::{Running, Stop, privileged, shown};
use crate::input::{convert, find_devices, present_devices, short_name};
use crate::live;
use crate::pcap::{self, Capture};
use crate::{command, packages, root};

/// Seconds of a long capture that are replayed when `--duration` does not say otherwise.
const LONGEST: f64 = 60.0;
/// Device of the demo capture whose generator covers devices of other captures.
const STAND_IN: &str = "camera";

/// What `demo` takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Captures, one run each [default: the recorded home in tests/fixtures].
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pcap: Vec<PathBuf>,
    /// Table of devices with the columns device, mac, ip, label [default: devices.csv beside the capture or one folder up].
    #[arg(long, value_name = "CSV")]
    devices: Option<PathBuf>,
    /// Plays the capture this many times faster (live only).
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Most seconds to replay; longer captures are cut [default: 60].
    #[arg(long, value_name = "S")]
    duration: Option<f64>,
    /// none, constant, random, random+, an ONNX file, or train: generators trained on the recorded home.
    #[arg(long, default_value = "train")]
    cover: String,
    /// Leaves the namespaces standing for a look around.
    #[arg(long)]
    keep: bool,
    /// Runs in virtual time even as root.
    #[arg(long)]
    no_privileged: bool,
    /// Folder for everything the demo writes [default: out/demo].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The built programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds the workspace in release mode, with cargo's output on this terminal.
    fn build() -> Result<Self> {
        // Found before the build, which may replace this very program.
        let own = std::env::current_exe().context("while finding this program's folder")?;
        let profiles = own
            .parent()
            .and_then(Path::parent)
            .context("this program has no folder")?;
        let folder = profiles.join("release");
        eprintln!("building (the first time takes some minutes)");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // The whole workspace, as the tests build it: a part of it would compile shared packages a second time.
        cargo
            .args(["build", "--release", "--workspace", "--quiet"])
            .current_dir(root());
        let status = cargo.status().context("while starting cargo")?;
        anyhow::ensure!(status.success(), "the build failed");
        Ok(Self { folder })
    }

    /// Returns the path of a program.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let plain = self.folder.join(name);
        if plain.is_file() {
            plain
        } else {
            self.folder.join(format!("chaff-{name}"))
        }
    }
}

/// One capture, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Headline: name of the capture.
    pub(crate) name: String,
    /// What is replayed: the capture, or its cut beginning.
    pub(crate) pcap: PathBuf,
    /// Frames in it.
    pub(crate) frames: u64,
    /// Its length in seconds.
    pub(crate) seconds: f64,
    /// Table of the devices that occur in it.
    pub(crate) devices: PathBuf,
    /// MAC addresses of those.
    pub(crate) macs: BTreeSet<[u8; 6]>,
    /// Generator for the gateway: a name, a file, or a folder of files.
    pub(crate) cover: String,
    /// Speed-up of the replay.
    pub(crate) speed: f64,
    /// Folder for results.
    pub(crate) out: PathBuf,
    /// What to say about cutting.
    note: Option<String>,
}

/// Runs the demo.
///
/// # Errors
/// [`Stop::Check`] when an equality does not hold; usage and build errors as they come.
pub fn run(options: &Options) -> Result<()> {
    let bad = |what: &str| Err(Stop::Usage.error(what.to_owned()));
    if !(options.speed.is_finite() && options.speed > 0.0) {
        return bad("--speed must be above 0");
    }
    if options
        .duration
        .is_some_and(|d| !(d.is_finite() && d >= 1.0))
    {
        return bad("--duration must be at least 1");
    }
    for capture in &options.pcap {
        fs::File::open(capture)
            .map_err(|e| Stop::Usage.error(format!("--pcap {}: {e}", capture.display())))?;
    }
    let is_live = privileged() && !options.no_privileged;
    packages::ensure(packages::BUILD)?;
    if is_live {
        packages::ensure(packages::NETNS)?;
        packages::ensure(packages::DEMO)?;
    } else {
        eprintln!("without root: the same home in virtual time (no kernel program, no real clock)");
    }
    let stop = command::Interrupt::watch()?;
    let programs = Programs::build()?;
    let out = options
        .out
        .clone()
        .unwrap_or_else(|| root().join("out/demo"));
    fs::create_dir_all(&out).with_context(|| format!("while making {}", out.display()))?;
    // The programs run elsewhere and must find it.
    let out = fs::canonicalize(&out).with_context(|| format!("while finding {}", out.display()))?;
    let fixture = root().join("tests/fixtures/demo.pcap");
    let captures = if options.pcap.is_empty() {
        vec![fixture.clone()]
    } else {
        options.pcap.clone()
    };
    let models = match options.cover.as_str() {
        "train" => Some(train(&programs, &fixture, &out)?),
        _ => None,
    };
    let mut rows = Vec::new();
    let mut failed = 0;
    for capture in &captures {
        stop.check()?;
        let name = short_name(capture);
        let folder = if captures.len() == 1 {
            out.clone()
        } else {
            out.join(&name)
        };
        let done = prepare(
            options,
            capture,
            &fixture,
            models.as_deref(),
            folder,
            is_live,
        )
        .and_then(|run| one(&programs, &run, is_live, options.keep, &stop))
        .with_context(|| format!("while running {}", capture.display()));
        match done {
            // A single run is the whole demo: its error decides the exit code.
            Err(error) if captures.len() == 1 => return Err(error),
            Err(error) => {
                eprintln!("error: {error:#}");
                rows.push(format!("  ERROR {name}"));
                failed += 1;
            }
            Ok(account) => {
                rows.push(account.row(&name));
                failed += usize::from(!account.holds());
            }
        }
    }
    if rows.len() > 1 {
        println!("\nAll runs:\n{}", rows.join("\n"));
    }
    if failed > 0 {
        let all = captures.len();
        return Err(Stop::Check.error(format_args!("{failed} of {all} runs do not add up")));
    }
    Ok(())
}

/// Runs one capture and says what happened.
fn one(
    programs: &Programs,
    run: &Run,
    is_live: bool,
    keep: bool,
    stop: &command::Interrupt,
) -> Result<Account> {
    let account = if is_live {
        live::run(programs, run, keep, stop)?
    } else {
        in_virtual_time(programs, run)?
    };
    finish(run, &account, is_live)?;
    Ok(account)
}

/// Trains one generator for each device of the recorded home; returns the folder of models.
fn train(programs: &Programs, fixture: &Path, out: &Path) -> Result<PathBuf> {
    let models = out.join("models");
    eprintln!("training cover generators on the recorded home");
    let mut trainer = Command::new(programs.path("trainer"));
    trainer.arg("cover").arg("--pcap").arg(fixture);
    trainer
        .arg("--devices")
        .arg(fixture.with_file_name("devices.csv"));
    trainer.args(["--shared", "--stages", "10"]);
    trainer.args(["--seed", "1", "--output"]).arg(&models);
    let log = fs::File::create(out.join("trainer.log"))?;
    trainer.stdout(log);
    let shown = shown(&trainer);
    let mut trainer = Running::start("trainer", trainer)?;
    let status = trainer
        .wait(Duration::from_secs(600))?
        .context("the trainer did not end in 10 minutes")?;
    anyhow::ensure!(status.success(), "`{shown}`: {status}");
    Ok(models)
}

fn prepare(
    options: &Options,
    capture: &Path,
    fixture: &Path,
    models: Option<&Path>,
    out: PathBuf,
    is_live: bool,
) -> Result<Run> {
    fs::create_dir_all(&out).with_context(|| format!("while making {}", out.display()))?;
    let classic = if pcap::is_classic(capture) {
        capture.to_owned()
    } else {
        convert(capture, &out)?
    };
    let mut frames = Capture::read(&classic)?;
    anyhow::ensure!(!frames.frames.is_empty(), "the capture is empty");
    let speed = if is_live { options.speed } else { 1.0 };
    let whole = frames.seconds();
    let limit = options.duration.unwrap_or(LONGEST) * speed;
    let mut note = None;
    let mut pcap = classic;
    if whole > limit {
        frames.cut(limit);
        pcap = out.join("input.pcap");
        frames.write(&pcap)?;
        note = Some(format!(
            "Only the busiest {limit:.0} s of {whole:.0} s; --duration takes more, --speed plays faster."
        ));
    }
    let table = match &options.devices {
        Some(path) => path.clone(),
        None => find_devices(capture)?,
    };
    let devices = out.join("devices.csv");
    let macs = present_devices(&table, capture, &frames, &devices)?;
    let cover = match (models, options.cover.as_str()) {
        // A model for each device by name exists for the recorded home only.
        (Some(models), _) if capture == fixture => models.display().to_string(),
        (Some(models), _) => models
            .join(format!("{STAND_IN}.onnx"))
            .display()
            .to_string(),
        (None, name @ ("none" | "constant" | "random" | "random+")) => name.to_owned(),
        (None, file) => fs::canonicalize(file)
            .with_context(|| format!("--cover {file}: neither a generator's name nor a file"))?
            .display()
            .to_string(),
    };
    Ok(Run {
        name: short_name(capture),
        frames: frames.frames.len() as u64,
        seconds: frames.seconds(),
        pcap,
        devices,
        macs,
        cover,
        speed,
        out,
        note,
    })
}

fn in_virtual_time(programs: &Programs, run: &Run) -> Result<Account> {
    let mut simulate = Command::new(programs.path("gateway"));
    simulate
        .arg("simulate")
        .arg("--pcap")
        .arg(&run.pcap)
        .arg("--devices")
        .arg(&run.devices);
    simulate.args(["--learn", &live::LEARN.to_string()]);
    simulate.args([
        "--telemetry-period",
        &live::PERIOD.to_string(),
        "--epsilon",
        "0.5",
    ]);
    simulate
        .args(["--cover", &run.cover, "--seed", "1", "--out"])
        .arg(&run.out);
    let shown = shown(&simulate);
    let status = simulate.status().context("while starting the gateway")?;
    // With 1 the simulation itself saw a check fail; the account below says which.
    anyhow::ensure!(matches!(status.code(), Some(0 | 1)), "`{shown}`: {status}");
    simulated(run)
}

fn finish(run: &Run, account: &Account, is_live: bool) -> Result<()> {
    let mut text = account.text(run);
    if let Some(note) = &run.note {
        text.push_str(&format!("{note}\n"));
    }
    let pictures = account.picture(run).write(&run.out, "picture")?;
    let show = |path: &Path| {
        path.strip_prefix(root())
            .unwrap_or(path)
            .display()
            .to_string()
    };
    let best = pictures.last().map(|p| show(p)).unwrap_or_default();
    text.push_str("\nNext:\n");
    text.push_str(&format!("  picture        {best}\n"));
    text.push_str(&format!(
        "  every packet   {}\n",
        show(&run.out.join("packets.csv"))
    ));
    text.push_str(&format!(
        "  flow records   {}\n",
        show(&run.out.join("flows.csv"))
    ));
    if is_live {
        text.push_str("  hands on       cargo xtask netns up, then cargo xtask netns shell gw\n");
    }
    fs::write(run.out.join("account.txt"), &text)?;
    println!("{text}");
    Ok(())
}
