//! `gateway meter`: captures to flow records.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chaff_abi::{Dir, Mac, Nanos};
use chaff_flow::{Ignored, Packet, Record, Table, TableConfig, parse};
use chaff_trace::{Reader, TraceError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Turns captures into flow records.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  gateway meter home.pcap --output flows.csv
  gateway meter monday.pcap tuesday.pcapng --output - --format jsonl --idle-timeout 60
  zcat week.pcap.gz | gateway meter - --output flows.csv --devices devices.csv --report report.json

Every packet ends up in one record or is counted by the reason why not; the report has the sum.

Exit codes:
  0  done
  1  an input was damaged (what came before the damage is in the output), or the output could not be written on
  2  wrong usage, no such file, not a capture")]
pub struct Args {
    /// Captures (pcap, pcapng), read one after another as one source; `-` is standard input.
    #[arg(required = true, value_name = "INPUT")]
    pub input: Vec<PathBuf>,
    /// Where the records go; `-` is standard output.
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Format of the records.
    #[arg(long, value_enum, default_value = "csv")]
    pub format: Format,
    /// Seconds without a packet after which a flow ends.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub idle_timeout: Nanos,
    /// Seconds after which a flow is cut.
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = seconds)]
    pub active_timeout: Nanos,
    /// Flows held in memory at once; beyond that the least recently active one ends early.
    #[arg(long, value_name = "N", default_value = "262144", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_flows: u32,
    /// Table of protected devices with a column `mac`; it fills the column `device_dir`.
    #[arg(long, value_name = "CSV")]
    pub devices: Option<PathBuf>,
    /// Where to write what was read, metered and ignored, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print the table of output fields in Markdown to standard error before starting.
    #[arg(long)]
    pub explain: bool,
}

/// Output formats.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values with a header line.
    Csv,
    /// One JSON object a line.
    Jsonl,
}

fn seconds(text: &str) -> Result<Nanos, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=1e9).contains(&s) => Ok(Nanos::from_secs_f64(s)),
        _ => Err("expected seconds between 0 and 1000000000, such as 120 or 0.5".into()),
    }
}

/// Runs the command.
///
/// # Errors
/// The output or the report cannot be written. Wrong inputs are printed and give exit code 2, damaged ones 1.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.explain {
        eprint!("{}", chaff_flow::fields_markdown());
    }
    let (devices, output) = match check(&args).and_then(|d| Ok((d, open_output(&args.output)?))) {
        Ok(parts) => parts,
        Err(e) => {
            eprintln!("error: {e:#}");
            return Ok(ExitCode::from(2));
        }
    };
    let result = Meter::new(&args, devices, output).run(&args.input);
    let summary = match result {
        Err(e) if is_broken_pipe(&e) => return Ok(ExitCode::SUCCESS),
        other => other.with_context(|| format!("while writing {}", args.output.display()))?,
    };
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&summary.to_json())? + "\n";
        write_all(path, text.as_bytes())
            .with_context(|| format!("while writing {}", path.display()))?;
    }
    for input in &summary.inputs {
        if let Some(error) = &input.error {
            eprintln!("error: {}: {error}", input.path);
        }
    }
    if summary.clamped > 0 {
        let n = summary.clamped;
        eprintln!(
            "note: {n} packets were older than one before them and count as simultaneous with it"
        );
        for (before, input) in summary.inputs.iter().zip(summary.inputs.iter().skip(1)) {
            if input.first.is_some_and(|first| first < before.last) {
                eprintln!(
                    "note: {} begins before {} ends; give captures in the order of time",
                    input.path, before.path
                );
            }
        }
    }
    let damaged = summary.inputs.iter().any(|i| i.error.is_some());
    if !summary.is_balanced() {
        eprintln!(
            "error: packets in, metered and ignored do not add up; please report this with the capture"
        );
    }
    Ok(if damaged || !summary.is_balanced() {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

/// Everything that can be wrong before the first packet: files that are no captures, an output that is an input.
fn check(args: &Args) -> anyhow::Result<BTreeSet<Mac>> {
    let dashes = args.input.iter().filter(|p| is_dash(p)).count();
    if dashes > 1 {
        bail!("standard input is given {dashes} times");
    }
    for path in args.input.iter().filter(|p| !is_dash(p)) {
        let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        if meta.is_dir() {
            bail!("{} is a directory, not a capture", path.display());
        }
        if !is_dash(&args.output) && same_file(path, &args.output) {
            bail!("{} is input and output", path.display());
        }
        // A pipe can be read only once.
        if meta.is_file() {
            let file =
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            Reader::new(file)
                .map_err(|e| anyhow::anyhow!("{}: {}", path.display(), explain(&e)))?;
        }
    }
    match &args.devices {
        Some(path) => {
            read_devices(path).with_context(|| format!("in device table {}", path.display()))
        }
        None => Ok(BTreeSet::new()),
    }
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// An error with its causes in one line.
fn explain(error: &TraceError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}

/// The MACs in column `mac`. Quoted cells are not needed for MACs; other columns are not looked at.
fn read_devices(path: &Path) -> anyhow::Result<BTreeSet<Mac>> {
    let text = fs::read_to_string(path)?;
    let mut lines = text.lines();
    let header = lines.next().context("it is empty")?;
    let column = header
        .split(',')
        .position(|name| name.trim() == "mac")
        .context("it has no column `mac`")?;
    let mut macs = BTreeSet::new();
    for (i, line) in lines
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let cell = line.split(',').nth(column).unwrap_or("").trim();
        let mac = cell
            .parse::<Mac>()
            .with_context(|| format!("line {}: `{cell}`", i + 2))?;
        macs.insert(mac);
    }
    Ok(macs)
}

fn open_input(path: &Path) -> io::Result<Box<dyn Read>> {
    if is_dash(path) {
        Ok(Box::new(io::stdin().lock()))
    } else {
        Ok(Box::new(File::open(path)?))
    }
}

fn open_output(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if is_dash(path) {
        return Ok(Box::new(io::stdout().lock()));
    }
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Box::new(file))
}

fn write_all(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if is_dash(path) {
        io::stdout().lock().write_all(bytes)
    } else {
        fs::write(path, bytes)
    }
}

/// The loop from frames to records.
struct Meter {
    table: Table,
    devices: BTreeSet<Mac>,
    format: Format,
    output: BufWriter<Box<dyn Write>>,
    summary: Summary,
    progress: Progress,
}

/// What was done.
#[derive(Debug, Default)]
struct Summary {
    inputs: Vec<InputSummary>,
    packets_in: u64,
    packets_metered: u64,
    ignored: [u64; Ignored::ALL.len()],
    records: u64,
    record_packets: u64,
    record_bytes: u64,
    evicted: u64,
    clamped: u64,
    later_fragments: u64,
    peak_flows: usize,
    seconds: f64,
}

/// One input.
#[derive(Debug)]
struct InputSummary {
    path: String,
    packets: u64,
    bytes: u64,
    first: Option<Nanos>,
    last: Nanos,
    error: Option<String>,
}

impl Meter {
    fn new(args: &Args, devices: BTreeSet<Mac>, output: Box<dyn Write>) -> Self {
        let config = TableConfig {
            idle_timeout: args.idle_timeout,
            active_timeout: args.active_timeout,
            max_flows: args.max_flows as usize,
            ..TableConfig::default()
        };
        Self {
            table: Table::new(config),
            devices,
            format: args.format,
            output: BufWriter::with_capacity(128 << 10, output),
            summary: Summary::default(),
            progress: Progress::new(&args.input),
        }
    }

    fn run(mut self, inputs: &[PathBuf]) -> anyhow::Result<Summary> {
        let started = Instant::now();
        if self.format == Format::Csv {
            writeln!(self.output, "{}", Record::csv_header())?;
        }
        for path in inputs {
            self.read(path)?;
        }
        let last = self
            .summary
            .inputs
            .iter()
            .map(|i| i.last)
            .max()
            .unwrap_or_default();
        self.table.finish(last);
        self.write_records()?;
        self.output.flush()?;
        self.progress.finish();
        let stats = self.table.stats();
        self.summary.packets_metered = stats.packets;
        self.summary.evicted = stats.evicted;
        self.summary.clamped = stats.clamped;
        self.summary.later_fragments = stats.later_fragments;
        self.summary.peak_flows = stats.peak_flows;
        self.summary.seconds = started.elapsed().as_secs_f64();
        Ok(self.summary)
    }

    /// Reads one input to its end or its first damage. Fails only when the output does.
    fn read(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut input = InputSummary {
            path: if is_dash(path) {
                "standard input".into()
            } else {
                path.display().to_string()
            },
            packets: 0,
            bytes: 0,
            first: None,
            last: Nanos::ZERO,
            error: None,
        };
        let opened = open_input(path).map_err(|e| e.to_string());
        match opened.and_then(|file| Reader::new(file).map_err(|e| explain(&e))) {
            Ok(mut reader) => {
                loop {
                    match reader.next_borrowed() {
                        Ok(Some((frame, bytes))) => {
                            input.first.get_or_insert(frame.at);
                            input.last = input.last.max(frame.at);
                            match parse(frame.link, bytes, frame.wire_len) {
                                Ok(packet) => {
                                    self.table.observe(
                                        frame.at,
                                        direction(&self.devices, &packet),
                                        &packet,
                                    );
                                    self.write_records()?;
                                }
                                Err(e) => self.summary.ignored[e.reason().index()] += 1,
                            }
                        }
                        Ok(None) => break,
                        Err(e) => {
                            input.error = Some(explain(&e));
                            break;
                        }
                    }
                    if reader.packets().is_multiple_of(8192) {
                        self.progress
                            .show(input.bytes_before(&self.summary) + reader.offset());
                    }
                }
                input.packets = reader.packets();
                input.bytes = reader.offset();
            }
            Err(e) => input.error = Some(e),
        }
        self.summary.packets_in += input.packets;
        self.summary.inputs.push(input);
        Ok(())
    }

    #[inline]
    fn write_records(&mut self) -> io::Result<()> {
        while let Some(record) = self.table.poll_record() {
            self.summary.records += 1;
            self.summary.record_packets += record.packets();
            self.summary.record_bytes += record.bytes();
            match self.format {
                Format::Csv => record.write_csv(&mut self.output)?,
                Format::Jsonl => record.write_json(&mut self.output)?,
            }
        }
        Ok(())
    }
}

/// A packet between two devices counts as going out.
fn direction(devices: &BTreeSet<Mac>, packet: &Packet<'_>) -> Option<Dir> {
    if devices.is_empty() {
        None
    } else if devices.contains(&packet.src_mac) {
        Some(Dir::Out)
    } else if devices.contains(&packet.dst_mac) {
        Some(Dir::In)
    } else {
        None
    }
}

impl InputSummary {
    fn bytes_before(&self, summary: &Summary) -> u64 {
        summary.inputs.iter().map(|i| i.bytes).sum()
    }
}

impl Summary {
    fn is_balanced(&self) -> bool {
        self.packets_in == self.packets_metered + self.ignored.iter().sum::<u64>()
            && self.packets_metered == self.record_packets
    }

    fn to_json(&self) -> serde_json::Value {
        let ignored: serde_json::Map<String, serde_json::Value> = Ignored::ALL
            .iter()
            .map(|r| (r.name().to_string(), self.ignored[r.index()].into()))
            .collect();
        let inputs: Vec<_> = self
            .inputs
            .iter()
            .map(|i| {
                serde_json::json!({
                    "path": i.path, "packets": i.packets, "bytes": i.bytes,
                    "first_ns": i.first.map(|t| t.0), "last_ns": i.first.map(|_| i.last.0), "error": i.error,
                })
            })
            .collect();
        serde_json::json!({
            "version": 1,
            "packets_in": self.packets_in,
            "packets_metered": self.packets_metered,
            "packets_ignored": self.ignored.iter().sum::<u64>(),
            "ignored": ignored,
            "records": self.records,
            "record_packets": self.record_packets,
            "record_bytes": self.record_bytes,
            "balanced": self.is_balanced(),
            "evicted_records": self.evicted,
            "clamped_packets": self.clamped,
            "later_fragments": self.later_fragments,
            "peak_flows": self.peak_flows,
            "seconds": self.seconds,
            "packets_per_second": if self.seconds > 0.0 { self.packets_in as f64 / self.seconds } else { 0.0 },
            "peak_memory_bytes": peak_memory(),
            "inputs": inputs,
        })
    }
}

/// High-water mark of resident memory, from `/proc`.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// A bar on the terminal for work that takes longer than two seconds.
struct Progress {
    bar: ProgressBar,
    started: Instant,
    is_wanted: bool,
}

impl Progress {
    fn new(inputs: &[PathBuf]) -> Self {
        let sizes: Option<Vec<u64>> = inputs
            .iter()
            .map(|p| {
                fs::metadata(p)
                    .ok()
                    .filter(fs::Metadata::is_file)
                    .map(|m| m.len())
            })
            .collect();
        let total = sizes.map(|s| s.iter().sum());
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        let template = if total.is_some() {
            "{bytes} of {total_bytes} {wide_bar} {bytes_per_sec}, {eta} left"
        } else {
            "{bytes} {spinner} {bytes_per_sec}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            bar,
            started: Instant::now(),
            is_wanted: io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, bytes: u64) {
        if !self.is_wanted || self.started.elapsed() < Duration::from_secs(2) {
            return;
        }
        if self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(bytes);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../shared")
            .join(path)
    }

    fn captures(dir: &Path, out: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                captures(&path, out);
            } else if path
                .extension()
                .is_some_and(|e| e == "pcap" || e == "pcapng" || e == "cap")
            {
                out.push(path);
            }
        }
    }

    fn args(input: Vec<PathBuf>, output: PathBuf) -> Args {
        Args {
            input,
            output,
            format: Format::Csv,
            idle_timeout: Nanos::from_secs(120),
            active_timeout: Nanos::from_secs(1800),
            max_flows: 262_144,
            devices: None,
            report: None,
            explain: false,
        }
    }

    fn meter(input: Vec<PathBuf>) -> Summary {
        let args = args(input, PathBuf::from("-"));
        Meter::new(&args, BTreeSet::new(), Box::new(io::sink()))
            .run(&args.input)
            .expect("a sink takes all")
    }

    /// Ethernet, IPv4, UDP with one byte of payload; then an ARP frame.
    fn small_capture() -> Vec<u8> {
        let mut udp = vec![
            2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0,
        ];
        udp.extend([
            192, 168, 1, 9, 10, 0, 0, 1, 0x13, 0x88, 0, 53, 0, 9, 0, 0, 7,
        ]);
        let mut arp = vec![0xff; 12];
        arp.extend([8, 6]);
        arp.extend([0; 46]);
        let mut file = Vec::new();
        let mut writer =
            chaff_trace::PcapWriter::new(&mut file, chaff_flow::Link::Ethernet).expect("memory");
        for (i, frame) in [&udp, &arp, &udp].into_iter().enumerate() {
            writer
                .write(Nanos::from_secs(i as u64), frame, frame.len())
                .expect("memory");
        }
        file
    }

    #[test]
    fn accounts_for_every_packet_of_the_device_captures() {
        let mut files = Vec::new();
        captures(&shared("data/iot"), &mut files);
        if files.is_empty() {
            eprintln!("skipped: no captures in ../shared/data/iot");
            return;
        }
        for file in files {
            let s = meter(vec![file.clone()]);
            assert!(s.is_balanced(), "{file:?}: {s:?}");
            assert!(
                s.inputs.iter().all(|i| i.error.is_none()),
                "{file:?}: {s:?}"
            );
        }
    }

    #[test]
    fn accounts_for_every_packet_of_odd_captures() {
        let mut files = Vec::new();
        captures(&shared("conformance/nfstream/pcaps"), &mut files);
        if files.is_empty() {
            eprintln!("skipped: no captures in ../shared/conformance/nfstream/pcaps");
            return;
        }
        for file in files {
            let s = meter(vec![file.clone()]);
            assert!(s.is_balanced(), "{file:?}: {s:?}");
        }
    }

    #[test]
    fn writes_records_and_a_report_that_adds_up() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let capture = dir.path().join("a.pcap");
        fs::write(&capture, small_capture()).expect("written");
        let devices = dir.path().join("devices.csv");
        fs::write(&devices, "device,mac\nlamp,02:00:00:00:00:02\n").expect("written");
        let (output, report) = (dir.path().join("out.csv"), dir.path().join("report.json"));
        let mut args = args(vec![capture.clone(), capture], output.clone());
        args.devices = Some(devices);
        args.report = Some(report.clone());
        assert_eq!(run(args).expect("it runs"), ExitCode::SUCCESS);
        let text = fs::read_to_string(output).expect("there");
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!((rows.len(), rows[0]), (2, Record::csv_header().as_str()));
        assert!(rows[1].contains(
            "192.168.1.9,5000,10.0.0.1,53,17,4,0,02:00:00:00:00:02,02:00:00:00:00:01,out,4,116,"
        ));
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(report).expect("there")).expect("JSON");
        assert_eq!(json["packets_in"], 6);
        assert_eq!(json["packets_metered"], 4);
        assert_eq!(json["ignored"]["not_ip"], 2);
        assert_eq!(json["balanced"], true);
        // The second file begins before the first one ends: two UDP packets and no more.
        assert_eq!(json["clamped_packets"], 1);
    }

    #[test]
    fn every_json_line_is_an_object_with_all_fields() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let capture = dir.path().join("a.pcap");
        fs::write(&capture, small_capture()).expect("written");
        let output = dir.path().join("out.jsonl");
        let mut args = args(vec![capture], output.clone());
        args.format = Format::Jsonl;
        assert_eq!(run(args).expect("it runs"), ExitCode::SUCCESS);
        for line in fs::read_to_string(output).expect("there").lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let names: Vec<&str> = chaff_flow::FIELDS.iter().map(|f| f.name).collect();
            let object = value.as_object().expect("an object");
            assert_eq!(object.len(), names.len());
            assert!(names.iter().all(|n| object.contains_key(*n)));
            assert_eq!(value["packets"], 2);
        }
    }

    #[test]
    fn damage_is_told_after_the_good_packets_were_metered() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let capture = dir.path().join("cut.pcap");
        let bytes = small_capture();
        fs::write(&capture, &bytes[..bytes.len() - 3]).expect("written");
        let s = meter(vec![capture.clone()]);
        let error = s.inputs[0].error.as_deref().expect("an error");
        assert_eq!(
            error,
            "the file ends inside packet 3, which begins at byte 159"
        );
        assert_eq!(
            (s.packets_in, s.record_packets, s.is_balanced()),
            (2, 1, true)
        );
        let args = args(vec![capture], dir.path().join("out.csv"));
        assert_eq!(run(args).expect("it runs"), ExitCode::from(1));
    }

    #[test]
    fn wrong_inputs_are_usage_errors_and_leave_no_output() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = dir.path().join("notes.txt");
        fs::write(&text, "no capture").expect("written");
        let gz = dir.path().join("a.pcap.gz");
        fs::write(&gz, [0x1f, 0x8b, 8, 0]).expect("written");
        let empty = dir.path().join("empty.pcap");
        fs::write(&empty, []).expect("written");
        let output = dir.path().join("out.csv");
        for input in [
            text,
            gz,
            empty,
            dir.path().join("missing.pcap"),
            dir.path().to_path_buf(),
        ] {
            let code = run(args(vec![input.clone()], output.clone())).expect("it answers");
            assert_eq!(code, ExitCode::from(2), "{input:?}");
            assert!(!output.exists());
        }
    }
}
