//! Offline metering: `gateway meter` and its peers on one capture that the project makes, by CPU time and memory.
//!
//! Every contender is a whole process. Rounds take turns; medians count. What each made is looked at after its first run, so
//! that nobody is fast by doing less: packets, flows, and for NFStream's profile equality byte for byte.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::household::{self, Settings};
use super::measure::Used;
use super::{Options, short};
use crate::command::{self, installed, privileged};
use crate::{packages, root};

/// The version that our numbers are about.
const NFSTREAM: &str = "nfstream==6.6.0";

/// NFStream on a capture of one packet: what it costs to start.
const START: &str = "NFStream-start";

const SCRIPT: &str = "\
import sys
from nfstream import NFStreamer

if __name__ == '__main__':
    source, output, dissections, splt = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    flows = NFStreamer(
        source=source, n_dissections=dissections, statistical_analysis=True, splt_analysis=splt
    ).to_csv(path=output)
    print(flows)
";

/// Who made a file, and so how to look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gateway,
    NfStream,
    Softflowd,
    Nfpcapd,
    Tcpdump,
}

/// One program with its arguments.
struct Contender {
    name: &'static str,
    kind: Kind,
    command: Vec<String>,
    /// In a network namespace of its own.
    alone: bool,
    /// What it writes.
    output: PathBuf,
    /// Why it is not measured.
    missing: Option<String>,
    runs: Vec<Used>,
    made: Made,
}

/// What a contender made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Made {
    /// Packets in its flows.
    packets: Option<u64>,
    /// Flows or records.
    flows: Option<u64>,
    /// Bytes of its output.
    bytes: Option<u64>,
}

/// A ratio of two contenders.
struct Ratio {
    what: &'static str,
    ours: &'static str,
    peer: &'static str,
    of: Of,
    /// At least this for speed, at most this for memory; `None`: no bar, a stretch or for information.
    bar: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Packets per CPU second, ours to the peer's.
    Speed,
    /// The same with NFStream's start-up taken off the peer's time.
    SpeedBeyondStart,
    /// Peak memory, ours to the peer's.
    Memory,
    /// CPU time, ours to the peer's.
    Time,
}

const fn ratio(
    what: &'static str,
    ours: &'static str,
    peer: &'static str,
    of: Of,
    bar: Option<f64>,
) -> Ratio {
    Ratio {
        what,
        ours,
        peer,
        of,
        bar,
    }
}

const RATIOS: &[Ratio] = &[
    ratio(
        "nfstream profile, statistics, CSV / NFStream, the same: packets per CPU second",
        "nfstream",
        "NFStream",
        Of::Speed,
        Some(30.0),
    ),
    ratio(
        "the same, NFStream's start-up taken off",
        "nfstream",
        "NFStream",
        Of::SpeedBeyondStart,
        None,
    ),
    ratio(
        "the same with 20 packets of SPLT",
        "nfstream-splt",
        "NFStream-splt",
        Of::Speed,
        Some(30.0),
    ),
    ratio(
        "the same with SPLT and 20 dissected packets",
        "nfstream-dissect",
        "NFStream-dissect",
        Of::Speed,
        Some(30.0),
    ),
    ratio(
        "native profile / NFStream with statistics",
        "native",
        "NFStream",
        Of::Speed,
        None,
    ),
    // nfpcapd counts packets and bytes of five-tuples: the bar is on what does at least that.
    ratio(
        "native profile / nfpcapd: packets per CPU second",
        "native",
        "nfpcapd",
        Of::Speed,
        Some(1.0),
    ),
    ratio(
        "native profile, all statistics / nfpcapd",
        "native-statistics",
        "nfpcapd",
        Of::Speed,
        None,
    ),
    ratio(
        "nfstream profile, statistics and SPLT / nfpcapd",
        "nfstream-splt",
        "nfpcapd",
        Of::Speed,
        Some(1.0),
    ),
    ratio(
        "nfstream profile, statistics and SPLT / softflowd",
        "nfstream-splt",
        "softflowd",
        Of::Speed,
        None,
    ),
    ratio(
        "native profile / softflowd",
        "native",
        "softflowd",
        Of::Speed,
        None,
    ),
    ratio(
        "nfstream profile, statistics and SPLT / a loop of libpcap",
        "nfstream-splt",
        "tcpdump",
        Of::Speed,
        None,
    ),
    ratio(
        "peak memory, nfstream profile / NFStream",
        "nfstream",
        "NFStream",
        Of::Memory,
        Some(0.2),
    ),
    ratio(
        "peak memory, with SPLT and dissection / NFStream",
        "nfstream-dissect",
        "NFStream-dissect",
        Of::Memory,
        Some(0.2),
    ),
    ratio(
        "peak memory, native with statistics / NFStream",
        "native-statistics",
        "NFStream",
        Of::Memory,
        Some(0.2),
    ),
    ratio(
        "native as JSON lines / as CSV: CPU time",
        "native-jsonl",
        "native",
        Of::Time,
        None,
    ),
    ratio(
        "native as Parquet / as CSV",
        "native-parquet",
        "native",
        Of::Time,
        None,
    ),
    ratio(
        "native as IPFIX / as CSV",
        "native-ipfix",
        "native",
        Of::Time,
        None,
    ),
];

/// Runs the benchmark; gives the number of missed bars.
///
/// # Errors
/// When the capture cannot be made or a contender of ours fails.
pub(super) fn run(options: &Options) -> Result<u32> {
    let folder = root().join("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("while making {}", folder.display()))?;
    let (capture, packets) = match &options.pcap {
        Some(path) => (path.clone(), count(path)?),
        None => make(&folder, options)?,
    };
    let mut contenders = contenders(options, &folder, &capture)?;
    if let Some(text) = &options.only {
        contenders.retain(|c| c.name.contains(text.as_str()));
    }
    for round in 0..options.rounds {
        for contender in contenders.iter_mut().filter(|c| c.missing.is_none()) {
            eprintln!(
                "round {} of {}: {}",
                round + 1,
                options.rounds,
                contender.name
            );
            if let Err(error) = contender.run(&folder, round == 0) {
                eprintln!("  `{}` {error:#}", contender.command.join(" "));
                contender.missing = Some(format!("{error:#}"));
            }
        }
    }
    same_values(&contenders);
    let missed = if options.json {
        let (value, missed) = as_json(&contenders, packets);
        println!("{value}");
        missed
    } else {
        table(&contenders, packets);
        bars(&contenders)
    };
    for contender in &contenders {
        let _ = remove(&contender.output);
    }
    Ok(missed)
}

/// Makes the capture, or finds it made.
fn make(folder: &Path, options: &Options) -> Result<(PathBuf, u64)> {
    let settings = Settings {
        packets: options.packets,
        seed: options.seed,
        seconds: 1800,
    };
    let path = folder.join(format!(
        "household-{}-{}.pcap",
        settings.packets, settings.seed
    ));
    if !path.exists() {
        eprintln!("making {}", path.display());
        // Under another name until it is whole.
        let part = path.with_extension("part");
        let file =
            File::create(&part).with_context(|| format!("while making {}", part.display()))?;
        let summary = household::write(settings, &mut BufWriter::with_capacity(1 << 20, file))
            .with_context(|| format!("while writing {}", part.display()))?;
        fs::rename(&part, &path)?;
        eprintln!("{}", serde_json::to_string(&summary)?);
    }
    Ok((path, settings.packets))
}

/// Counts the records of a classic pcap.
fn count(path: &Path) -> Result<u64> {
    let mut file = BufReader::new(
        File::open(path).with_context(|| format!("while opening {}", path.display()))?,
    );
    let mut header = [0; 24];
    file.read_exact(&mut header)?;
    let word = word(&header).with_context(|| format!("in {}", path.display()))?;
    let mut packets = 0;
    let mut record = [0; 16];
    while file.read_exact(&mut record).is_ok() {
        let length = word([record[8], record[9], record[10], record[11]]);
        file.seek_relative(i64::from(length))?;
        packets += 1;
    }
    Ok(packets)
}

fn contenders(options: &Options, folder: &Path, capture: &Path) -> Result<Vec<Contender>> {
    if privileged()
        && let Err(error) = packages::ensure(packages::METERS)
    {
        eprintln!("{error:#}");
    }
    let wants = |name: &str| options.only.as_ref().is_none_or(|text| name.contains(text));
    let mut all = ours(options, folder, capture)?;
    // Any of NFStream's contenders needs its environment.
    let is_nfstream = [START, "NFStream", "NFStream-splt", "NFStream-dissect"]
        .into_iter()
        .any(wants);
    all.extend(nfstream(folder, capture, is_nfstream)?);
    all.extend(others(folder, capture));
    Ok(all)
}

/// The gateway that is measured, built where none is named.
pub(super) fn gateway(options: &Options) -> Result<PathBuf> {
    if let Some(path) = &options.gateway {
        return Ok(path.clone());
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "chaff-gateway",
    ]);
    let text = command::shown(&cargo);
    let status = cargo.current_dir(root()).status()?;
    ensure!(status.success(), "`{text}`: {status}");
    Ok(root().join("target/release/gateway"))
}

fn ours(options: &Options, folder: &Path, capture: &Path) -> Result<Vec<Contender>> {
    let gateway = gateway(options)?;
    let meter = |name: &'static str, extension: &str, arguments: &str| {
        let output = folder.join(format!("{name}.{extension}"));
        let report = folder.join(format!("{name}.json"));
        let mut command = vec![gateway.display().to_string(), "meter".to_owned()];
        command.push(capture.display().to_string());
        for (flag, path) in [("--output", &output), ("--report", &report)] {
            command.extend([flag.to_owned(), path.display().to_string()]);
        }
        command.extend(arguments.split_whitespace().map(str::to_owned));
        Contender::new(name, Kind::Gateway, command, output)
    };
    Ok(vec![
        meter("native", "csv", "--dissect 0"),
        meter(
            "native-statistics",
            "csv",
            "--dissect 0 --statistics --splt 20",
        ),
        meter(
            "native-dissect",
            "csv",
            "--dissect 20 --statistics --splt 20",
        ),
        meter("native-jsonl", "jsonl", "--dissect 0 --format jsonl"),
        meter("native-parquet", "parquet", "--dissect 0 --format parquet"),
        meter("native-ipfix", "ipfix", "--dissect 0 --format ipfix"),
        meter(
            "nfstream",
            "csv",
            "--profile nfstream --dissect 0 --statistics",
        ),
        meter(
            "nfstream-splt",
            "csv",
            "--profile nfstream --dissect 0 --statistics --splt 20",
        ),
        meter(
            "nfstream-dissect",
            "csv",
            "--profile nfstream --dissect 20 --statistics --splt 20",
        ),
    ])
}

fn nfstream(folder: &Path, capture: &Path, wanted: bool) -> Result<Vec<Contender>> {
    let (python, missing) = match wanted.then(|| environment(folder)) {
        None => (PathBuf::new(), None),
        Some(Ok(python)) => (python, None),
        Some(Err(error)) => (PathBuf::new(), Some(format!("{error:#}"))),
    };
    let script = folder.join("run_nfstream.py");
    fs::write(&script, SCRIPT).with_context(|| format!("while writing {}", script.display()))?;
    let single = folder.join("single.pcap");
    first_packet(capture, &single)?;
    let run = |name: &'static str, capture: &Path, dissections: u32, splt: u32| {
        let output = folder.join(format!("{name}.csv"));
        let paths = [&python, &script, capture, &output].map(|p| p.display().to_string());
        let mut command = paths.to_vec();
        command.extend([dissections.to_string(), splt.to_string()]);
        let mut contender = Contender::new(name, Kind::NfStream, command, output);
        contender.missing.clone_from(&missing);
        contender
    };
    Ok(vec![
        run(START, &single, 0, 0),
        run("NFStream", capture, 0, 0),
        run("NFStream-splt", capture, 0, 20),
        run("NFStream-dissect", capture, 20, 20),
    ])
}

/// Copies the head of a classic pcap and its first record.
fn first_packet(from: &Path, to: &Path) -> Result<()> {
    let mut start = vec![0; 24 + 16];
    let mut file = File::open(from).with_context(|| format!("while opening {}", from.display()))?;
    file.read_exact(&mut start)?;
    let word = word(&start)?;
    let length = word([start[32], start[33], start[34], start[35]]);
    start.resize(start.len() + length as usize, 0);
    file.read_exact(&mut start[24 + 16..])?;
    fs::write(to, start).with_context(|| format!("while writing {}", to.display()))
}

/// How numbers of a classic pcap are read.
fn word(header: &[u8]) -> Result<fn([u8; 4]) -> u32> {
    Ok(match header {
        [0xd4, 0xc3, 0xb2, 0xa1, ..] | [0x4d, 0x3c, 0xb2, 0xa1, ..] => u32::from_le_bytes,
        [0xa1, 0xb2, 0xc3, 0xd4, ..] | [0xa1, 0xb2, 0x3c, 0x4d, ..] => u32::from_be_bytes,
        _ => bail!("not a classic pcap"),
    })
}

/// A Python environment with NFStream in it.
fn environment(folder: &Path) -> Result<PathBuf> {
    let home = folder.join("nfstream-6.6.0");
    let python = super::query::python(&home, "nfstream", &[NFSTREAM])?;
    let mut probe = Command::new(&python);
    probe.args(["-c", "import nfstream; print(nfstream.__version__)"]);
    let version = command::output(probe).context("NFStream does not start")?;
    ensure!(version.trim() == "6.6.0", "NFStream is {}", version.trim());
    Ok(python)
}

fn others(folder: &Path, capture: &Path) -> Vec<Contender> {
    let capture = capture.display().to_string();
    let list = |text: &str| -> Vec<String> {
        text.split_whitespace()
            .map(|word| {
                if word == "CAPTURE" {
                    capture.clone()
                } else {
                    word.to_owned()
                }
            })
            .collect()
    };
    let flows = folder.join("nfpcapd");
    let mut softflowd = Contender::new(
        "softflowd",
        Kind::Softflowd,
        list(
            "softflowd -r CAPTURE -n 127.0.0.1:9995 -v 10 -b -6 -d -c none -m 4000000 -t maxlife=1800 -t tcp=120 \
             -t tcp.rst=120 -t tcp.fin=120 -t udp=120 -t icmp=120 -t general=120 -p",
        ),
        folder.join("softflowd.pid"),
    );
    softflowd
        .command
        .push(folder.join("softflowd.pid").display().to_string());
    softflowd.alone = true;
    if !privileged() {
        softflowd.missing = Some("it sends: needs root for a network namespace".to_owned());
    }
    let mut nfpcapd = Contender::new(
        "nfpcapd",
        Kind::Nfpcapd,
        list("nfpcapd -r CAPTURE -e 1800,120 -w"),
        flows.clone(),
    );
    nfpcapd.command.push(flows.display().to_string());
    let tcpdump = Contender::new(
        "tcpdump",
        Kind::Tcpdump,
        list("tcpdump -r CAPTURE -w /dev/null"),
        folder.join("tcpdump.none"),
    );
    let mut all = vec![softflowd, nfpcapd, tcpdump];
    for contender in &mut all {
        let program = &contender.command[0];
        if !installed(program) {
            contender.missing = Some(format!("{program} is not installed"));
        }
    }
    all
}

impl Contender {
    fn new(name: &'static str, kind: Kind, command: Vec<String>, output: PathBuf) -> Self {
        Self {
            name,
            kind,
            command,
            alone: false,
            output,
            missing: None,
            runs: Vec::new(),
            made: Made::default(),
        }
    }

    /// Runs it once; `look` also reads what it made.
    fn run(&mut self, folder: &Path, look: bool) -> Result<()> {
        remove(&self.output)?;
        if self.kind == Kind::Nfpcapd {
            fs::create_dir_all(&self.output)?;
        }
        let said = [folder.join("stdout.txt"), folder.join("stderr.txt")];
        let mut measure = Command::new(std::env::current_exe()?);
        measure.args(["measure", "--stdout"]).arg(&said[0]);
        measure.arg("--stderr").arg(&said[1]);
        if self.alone {
            measure.arg("--alone");
        }
        measure.arg("--").args(&self.command);
        let used: Used = serde_json::from_str(&command::output(measure)?)?;
        let said = said.map(|path| fs::read_to_string(path).unwrap_or_default());
        if used.code != 0 {
            let lines: Vec<&str> = said[1].lines().take(3).collect();
            bail!("ended with {}: {}", used.code, lines.join(" / "));
        }
        self.runs.push(used);
        if look {
            self.made = self
                .look(&said)
                .with_context(|| format!("while looking at what {} made", self.name))?;
        }
        Ok(())
    }

    /// Reads packets and flows from what it wrote and said.
    fn look(&self, [stdout, stderr]: &[String; 2]) -> Result<Made> {
        let mut made = Made {
            bytes: fs::metadata(&self.output)
                .ok()
                .filter(fs::Metadata::is_file)
                .map(|m| m.len()),
            ..Made::default()
        };
        match self.kind {
            Kind::Gateway => {
                let text = fs::read_to_string(self.output.with_extension("json"))?;
                let report: Value = serde_json::from_str(&text)?;
                made.packets = report["packets_metered"].as_u64();
                made.flows = report["records"].as_u64();
                ensure!(report["balanced"] == true, "its report is not balanced");
            }
            Kind::NfStream => {
                let (rows, packets) = rows(&self.output, "bidirectional_packets")?;
                let said: u64 = stdout.trim().parse().context("it did not say its flows")?;
                ensure!(said == rows, "{rows} rows, {said} flows");
                (made.packets, made.flows) = (Some(packets), Some(rows));
            }
            Kind::Softflowd => {
                let said = format!("{stdout}{stderr}");
                made.packets = number_after(&said, "Packets processed: ");
                made.flows = number_after(&said, "Flows exported: ");
            }
            Kind::Nfpcapd => {
                let mut nfdump = Command::new("nfdump");
                nfdump.arg("-R").arg(&self.output).arg("-I");
                let text = command::output(nfdump)?;
                made.packets = number_after(&text, "\nPackets: ");
                made.flows = number_after(&text, "\nFlows: ");
            }
            Kind::Tcpdump => {
                let mut tcpdump = Command::new("tcpdump");
                tcpdump.args(["--count", "-r", &self.command[2]]);
                made.packets = command::output(tcpdump)?
                    .split_whitespace()
                    .next()
                    .and_then(|n| n.parse().ok());
            }
        }
        Ok(made)
    }

    fn cpu(&self) -> Option<f64> {
        median(self.runs.iter().map(|r| r.cpu_s))
    }

    fn peak(&self) -> Option<f64> {
        median(self.runs.iter().map(|r| r.peak_bytes as f64))
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn number_after(text: &str, mark: &str) -> Option<u64> {
    let (_, rest) = text.split_once(mark)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

/// Rows of a CSV, and the sum of a column that no quoted one precedes.
fn rows(path: &Path, column: &str) -> Result<(u64, u64)> {
    let mut lines = BufReader::new(File::open(path)?).lines();
    let header = lines.next().context("no header")??;
    let index = header.split(',').position(|name| name == column);
    let index = index.with_context(|| format!("no column {column}"))?;
    let (mut rows, mut sum) = (0, 0);
    for line in lines {
        let line = line?;
        let number: Option<u64> = line.split(',').nth(index).and_then(|n| n.parse().ok());
        sum += number.with_context(|| format!("row {} has no {column}", rows + 1))?;
        rows += 1;
    }
    Ok((rows, sum))
}

/// Says whether NFStream's profile made NFStream's bytes, where nothing of nDPI is in them.
fn same_values(contenders: &[Contender]) {
    let find = |name: &str| {
        contenders
            .iter()
            .find(|c| c.name == name && !c.runs.is_empty())
    };
    for (ours, peer) in [("nfstream", "NFStream"), ("nfstream-splt", "NFStream-splt")] {
        let (Some(a), Some(b)) = (find(ours), find(peer)) else {
            continue;
        };
        let verdict = match (fs::read(&a.output), fs::read(&b.output)) {
            (Ok(a), Ok(b)) if a == b => "the same bytes".to_owned(),
            (Ok(a), Ok(b)) => {
                let at = a.iter().zip(&b).take_while(|(a, b)| a == b);
                let line = at.filter(|(a, _)| **a == b'\n').count() + 1;
                format!("DIFFERENT from line {line} on")
            }
            (Err(e), _) | (_, Err(e)) => e.to_string(),
        };
        eprintln!("output of {ours} and of {peer}: {verdict}");
    }
}

fn table(contenders: &[Contender], packets: u64) {
    println!(
        "| contender | CPU s | packets per CPU second | wall s | peak MiB | packets | flows | output bytes |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let shown = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    for c in contenders {
        let wall = median(c.runs.iter().map(|r| r.wall_s));
        match (c.cpu(), c.peak(), wall, &c.missing) {
            (Some(cpu), Some(peak), Some(wall), None) => println!(
                "| {} | {cpu:.2} | {:.0} | {wall:.2} | {:.1} | {} | {} | {} |",
                c.name,
                packets as f64 / cpu,
                peak / 1_048_576.0,
                shown(c.made.packets),
                shown(c.made.flows),
                shown(c.made.bytes)
            ),
            (_, _, _, missing) => {
                println!(
                    "| {} | not measured: {} |",
                    c.name,
                    missing.as_deref().unwrap_or("no run")
                );
            }
        }
    }
    println!();
}

/// Prints the ratios; gives the number of missed bars. One without its peer is no miss and says so.
fn bars(contenders: &[Contender]) -> u32 {
    let mut missed = 0;
    let has = |name: &str| contenders.iter().any(|c| c.name == name);
    for ratio in RATIOS.iter().filter(|r| has(r.ours) && has(r.peer)) {
        let Some(value) = ratio.value(contenders) else {
            println!(
                "| {} | not measured | | `cargo xtask bench offline` |",
                ratio.what
            );
            missed += u32::from(
                contenders
                    .iter()
                    .any(|c| c.name == ratio.ours && c.missing.is_some()),
            );
            continue;
        };
        let met = ratio.is_met(value);
        missed += u32::from(!met);
        let verdict = if met { "" } else { " (missed)" };
        let bar = match (ratio.bar, ratio.of) {
            (None, _) => "-".to_owned(),
            (Some(bar), Of::Speed | Of::SpeedBeyondStart) => format!("≥ {}", short(bar)),
            (Some(bar), _) => format!("≤ {}", short(bar)),
        };
        println!(
            "| {} | {}{verdict} | {bar} | `cargo xtask bench offline` |",
            ratio.what,
            short(value)
        );
    }
    missed
}

impl Ratio {
    fn value(&self, contenders: &[Contender]) -> Option<f64> {
        let find = |name| {
            contenders
                .iter()
                .find(|c| c.name == name && c.missing.is_none())
        };
        let (ours, peer) = (find(self.ours)?, find(self.peer)?);
        Some(match self.of {
            Of::Speed => peer.cpu()? / ours.cpu()?,
            Of::SpeedBeyondStart => (peer.cpu()? - find(START)?.cpu()?) / ours.cpu()?,
            Of::Time => ours.cpu()? / peer.cpu()?,
            Of::Memory => ours.peak()? / peer.peak()?,
        })
    }

    fn is_met(&self, value: f64) -> bool {
        self.bar.is_none_or(|bar| match self.of {
            Of::Speed | Of::SpeedBeyondStart => value >= bar,
            Of::Time | Of::Memory => value <= bar,
        })
    }
}

fn as_json(contenders: &[Contender], packets: u64) -> (Value, u32) {
    let rows: Vec<Value> = contenders
        .iter()
        .map(|c| {
            json!({
                "name": c.name, "command": c.command, "missing": c.missing, "made": c.made,
                "cpu_s": c.cpu(), "peak_bytes": c.peak(), "wall_s": median(c.runs.iter().map(|r| r.wall_s)),
                "packets_per_cpu_s": c.cpu().map(|cpu| packets as f64 / cpu), "runs": c.runs,
            })
        })
        .collect();
    let mut missed = 0;
    let ratios: Vec<Value> = RATIOS
        .iter()
        .map(|r| {
            let value = r.value(contenders);
            let met = value.map(|v| r.is_met(v));
            missed += u32::from(met == Some(false));
            json!({"what": r.what, "ours": r.ours, "peer": r.peer, "ratio": value, "bar": r.bar, "met": met})
        })
        .collect();
    let value = json!({
        "version": 1, "bench": "offline", "packets": packets, "contenders": rows, "ratios": ratios,
    });
    (value, missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contender(name: &'static str, cpu: [f64; 3], peak: u64) -> Contender {
        let mut contender = Contender::new(name, Kind::Gateway, Vec::new(), PathBuf::new());
        contender.runs = cpu
            .map(|cpu_s| Used {
                cpu_s,
                peak_bytes: peak,
                ..Used::default()
            })
            .to_vec();
        contender
    }

    #[test]
    fn ratios_are_of_medians_and_a_missing_peer_gives_none() {
        let all = [
            contender("a", [0.5, 9.0, 0.4], 10),
            contender("b", [20.0, 10.0, 15.0], 100),
        ];
        let speed = ratio("", "a", "b", Of::Speed, Some(30.0));
        assert_eq!(speed.value(&all), Some(30.0));
        assert!(speed.is_met(30.0) && !speed.is_met(29.9));
        let memory = ratio("", "a", "b", Of::Memory, Some(0.05));
        assert_eq!(memory.value(&all), Some(0.1));
        assert!(!memory.is_met(0.1));
        assert_eq!(ratio("", "a", "c", Of::Time, None).value(&all), None);
    }

    #[test]
    fn every_ratio_names_contenders_that_there_are() {
        let folder = std::env::temp_dir();
        let options = Options {
            name: Vec::new(),
            rounds: 1,
            json: false,
            packets: 1,
            seed: 1,
            pcap: None,
            gateway: Some(PathBuf::from("gateway")),
            only: None,
            flows: 1,
            dpmon: None,
        };
        let mut names: Vec<_> = ours(&options, &folder, &folder).unwrap();
        let capture = root().join("tests/fixtures/demo.pcap");
        names.extend(nfstream(&folder, &capture, false).unwrap());
        names.extend(others(&folder, &folder));
        for ratio in RATIOS {
            for name in [ratio.ours, ratio.peer] {
                assert!(names.iter().any(|c| c.name == name), "{name}");
            }
        }
    }

    #[test]
    fn figures_are_found_in_what_peers_say() {
        let text = "Packets processed: 829\nFlows exported: 78 (78 records) in 4 packets";
        assert_eq!(number_after(text, "Packets processed: "), Some(829));
        assert_eq!(number_after(text, "Flows exported: "), Some(78));
        assert_eq!(number_after(text, "Bytes: "), None);
    }
}
