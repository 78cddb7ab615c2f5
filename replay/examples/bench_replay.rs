//! Replay against tcpreplay over the same veth pair, in interleaved rounds; prints one JSON object.
//!
//! ```text
//! cargo run --release -p chaff-replay --example bench_replay [ROUNDS]
//! ```
//!
//! Top speed: a capture of 64-byte to 1,514-byte frames, looped; the rate is the receiving interface's packet count
//! over the time the tool says it sent for, and a round counts only when every packet arrived. Original timing: 1,500
//! packets at 1 ms; times are taken by the kernel at the receiving end. Needs root and Debian's tcpreplay.
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_replay::sys::{self, RecvBatch};
use chaff_trace::PcapWriter;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Frames in the top-speed capture and how often it is sent.
const FRAMES: u64 = 1_000;
const LOOPS: u64 = 100;
/// Frames of the timing capture and their distance.
const TIMED: u64 = 1_500;
const STEP: Nanos = Nanos::from_millis(1);

fn main() -> Result<()> {
    let rounds = match std::env::args().nth(1) {
        Some(n) => n.parse()?,
        None => 7,
    };
    let dir = tempfile::tempdir()?;
    let lab = Lab::new()?;
    let replay = program()?;
    let fast = dir.path().join("fast.pcap");
    write(
        &fast,
        FRAMES,
        |n| [64, 128, 576, 1_514][n as usize % 4],
        Nanos::from_micros(1),
    )?;
    let timed = dir.path().join("timed.pcap");
    write(&timed, TIMED, |_| 200, STEP)?;

    let mut top = [Vec::new(), Vec::new()];
    let mut timing = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..rounds {
        // Both orders, so that neither always runs on the warmer machine.
        for which in [round % 2, 1 - round % 2] {
            top[which].push(lab.top_speed(which, &replay, &fast)?);
        }
        for which in 0..3 {
            let which = (which + round) % 3;
            timing[which].push(lab.timing(which, &replay, &timed)?);
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    let version = Command::new("tcpreplay").arg("--version").output()?;
    let version = String::from_utf8_lossy(&[version.stdout, version.stderr].concat()).into_owned();
    println!(
        "{:#}",
        report(rounds, &top, &timing, version.lines().next().unwrap_or("?"))
    );
    Ok(())
}

fn report(rounds: usize, top: &[Vec<f64>; 2], timing: &[Vec<Timing>; 3], version: &str) -> Value {
    let ratios = top[0]
        .iter()
        .zip(&top[1])
        .map(|(a, b)| a / b)
        .collect::<Vec<_>>();
    let of = |which: usize, f: fn(&Timing) -> f64| median(timing[which].iter().map(f).collect());
    let one = |which: usize| {
        json!({
            "drift_us": of(which, |t| t.drift_us),
            "absolute_error_p50_us": of(which, |t| t.p50_us),
            "absolute_error_p99_us": of(which, |t| t.p99_us),
            "rounds": timing[which].iter().map(|t| t.drift_us).collect::<Vec<_>>(),
        })
    };
    let drift_ratio = of(0, |t| t.drift_us.abs()) / of(1, |t| t.drift_us.abs());
    let drift_ratio_realtime = of(0, |t| t.drift_us.abs()) / of(2, |t| t.drift_us.abs());
    json!({
        "bench": "replay",
        "rounds": rounds,
        "against": version,
        "top_speed": {
            "packets_per_round": FRAMES * LOOPS,
            "replay_pps": median(top[0].clone()),
            "tcpreplay_pps": median(top[1].clone()),
            "ratio": median(ratios),
            "bar": 1.0,
            "stretch": 1.2,
        },
        "timing": {
            "packets": TIMED,
            "replay": one(0),
            "tcpreplay": one(1),
            "tcpreplay_realtime": one(2),
            "drift_ratio": drift_ratio,
            "drift_ratio_to_realtime": drift_ratio_realtime,
            "bar": 0.02,
            "p99_ratio": of(0, |t| t.p99_us) / of(1, |t| t.p99_us),
            "p99_ratio_to_realtime": of(0, |t| t.p99_us) / of(2, |t| t.p99_us),
            "p99_bar": 0.1,
        },
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 {
        return f64::NAN;
    }
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

/// The program beside this example.
fn program() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let built = here
        .ancestors()
        .nth(2)
        .ok_or("no build folder")?
        .join("replay");
    if built.exists() {
        return Ok(built);
    }
    Err(format!(
        "{} is missing: cargo build --release -p chaff-replay",
        built.display()
    )
    .into())
}

fn write(file: &Path, n: u64, len: impl Fn(u64) -> usize, step: Nanos) -> Result<()> {
    let mut out = PcapWriter::new(io::BufWriter::new(File::create(file)?), Link::Ethernet)?;
    for i in 0..n {
        // An experimental EtherType (RFC 7042): nobody answers it.
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x88, 0xb5];
        frame.extend(i.to_be_bytes());
        frame.resize(len(i), 0);
        let at = Nanos::from_secs(1_700_000_000) + step.times(i);
        out.write(at, &frame, frame.len())?;
    }
    out.into_inner()?.into_inner().map_err(|e| e.into_error())?;
    Ok(())
}

/// Times of one run as the receiver saw them.
struct Timing {
    /// How much longer first to last took than in the capture.
    drift_us: f64,
    p50_us: f64,
    p99_us: f64,
}

/// A veth pair between two namespaces.
struct Lab {
    from: String,
    to: String,
}

impl Lab {
    fn new() -> Result<Self> {
        let id = std::process::id();
        let lab = Self {
            from: format!("chaff-bench-{id}-from"),
            to: format!("chaff-bench-{id}-to"),
        };
        let (from, to) = (&lab.from, &lab.to);
        ip(&format!("netns add {from}"))?;
        ip(&format!("netns add {to}"))?;
        for ns in [from, to] {
            let off = ["all", "default"].map(|c| format!("net.ipv6.conf.{c}.disable_ipv6=1"));
            let _ = Command::new("ip")
                .args(["netns", "exec", ns, "sysctl", "-qw"])
                .args(off)
                .status();
        }
        ip(&format!(
            "link add out0 netns {from} type veth peer name in0 netns {to}"
        ))?;
        ip(&format!("-n {from} link set out0 up"))?;
        ip(&format!("-n {to} link set in0 up"))?;
        Ok(lab)
    }

    /// Packets per second; `which` 0 is replay, 1 tcpreplay.
    fn top_speed(&self, which: usize, replay: &Path, file: &Path) -> Result<f64> {
        let before = self.received()?;
        let seconds = if which == 0 {
            let done = Command::new(replay)
                .arg(file)
                .args(["--interface", &format!("out0@{}", self.from)])
                .args([
                    "--topspeed",
                    "--json",
                    "--quiet",
                    "--loop",
                    &LOOPS.to_string(),
                ])
                .output()?;
            let report: Value = serde_json::from_slice(&done.stdout)?;
            report["seconds"]
                .as_f64()
                .ok_or("no seconds in the report")?
        } else {
            let done = self.tcpreplay(
                &["--topspeed", "--preload-pcap", &format!("--loop={LOOPS}")],
                file,
                false,
            )?;
            let line = done
                .lines()
                .find(|l| l.starts_with("Actual:"))
                .ok_or_else(|| format!("no result in: {done}"))?;
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words
                .iter()
                .position(|w| *w == "in")
                .ok_or("no time in the result")?;
            words[at + 1].parse()?
        };
        let arrived = self.received()? - before;
        if arrived != FRAMES * LOOPS {
            return Err(format!("{arrived} of {} packets arrived", FRAMES * LOOPS).into());
        }
        Ok(arrived as f64 / seconds)
    }

    /// `which`: 0 replay, 1 tcpreplay, 2 tcpreplay with real-time priority.
    fn timing(&self, which: usize, replay: &Path, file: &Path) -> Result<Timing> {
        let receiver = sys::in_netns(Some(&self.to), || {
            sys::open_receiver(sys::interface("in0")?.index)
        })?;
        if which == 0 {
            let done = Command::new(replay)
                .arg(file)
                .args(["--interface", &format!("out0@{}", self.from), "--quiet"])
                .output()?;
            if !done.status.success() {
                return Err(String::from_utf8_lossy(&done.stderr).into_owned().into());
            }
        } else {
            self.tcpreplay(&[], file, which == 2)?;
        }
        timing_of(&receiver)
    }

    fn tcpreplay(&self, args: &[&str], file: &Path, realtime: bool) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.from]);
        if realtime {
            command.args(["chrt", "-f", "50"]);
        }
        let done = command
            .args(["tcpreplay", "-q", "-i", "out0"])
            .args(args)
            .arg(file)
            .output()?;
        let text = [done.stdout, done.stderr].concat();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn received(&self) -> Result<u64> {
        let done = Command::new("ip")
            .args(["-n", &self.to, "-j", "-s", "link", "show", "in0"])
            .output()?;
        let links: Value = serde_json::from_slice(&done.stdout)?;
        links[0]["stats64"]["rx"]["packets"]
            .as_u64()
            .ok_or_else(|| "no packet count".into())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for ns in [&self.from, &self.to] {
            let _ = ip(&format!("netns del {ns}"));
        }
    }
}

fn ip(args: &str) -> Result<()> {
    let done = Command::new("ip").args(args.split_whitespace()).output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("ip {args}: {}", String::from_utf8_lossy(&done.stderr)).into())
}

fn timing_of(receiver: &OwnedFd) -> Result<Timing> {
    let mut batch = RecvBatch::default();
    let mut at = Vec::new();
    while batch.receive(receiver.as_fd(), |r| at.push(r.at)).is_ok() {}
    if at.len() as u64 != TIMED {
        return Err(format!("{} of {TIMED} packets arrived", at.len()).into());
    }
    let error_us = |i: usize| {
        let want = STEP.times(i as u64);
        ((at[i] - at[0]).0 as f64 - want.0 as f64) / 1e3
    };
    let mut errors: Vec<f64> = (0..at.len()).map(|i| error_us(i).abs()).collect();
    let drift_us = error_us(at.len() - 1);
    errors.sort_by(f64::total_cmp);
    let quantile = |q: f64| errors[((errors.len() - 1) as f64 * q) as usize];
    Ok(Timing {
        drift_us,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
    })
}
