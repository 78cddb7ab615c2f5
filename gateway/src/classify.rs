//! `gateway classify`: flows of a capture or an interface with score, verdict and the reason for it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chaff_flow::features::{Profile, native};
use chaff_novelty::{MatRef, Model};
use chaff_trace::Reader;
use chaff_trace::features::{self, Flow, Request};
use clap::ValueEnum;
use serde::Serialize;

use crate::file_id::FileId;
use crate::meter::input::{Event, Source};
use crate::meter::live::{Live, LiveOptions};
use crate::meter::ring::RingOptions;

/// Memory for packets of an interface that wait for their turn, bytes.
const RING: usize = 16 << 20;

/// Options of `gateway classify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gateway classify --model home.model today.pcap
  tcpdump -i lan0 -U -w - | gateway classify --model home.model - --format json --report-all
  gateway classify --model home.model --live lan0 --duration 3600          as root, until then or Ctrl-C

A model comes from `trainer learn`. Columns: times in seconds since the epoch, score (higher is stranger), verdict
NORMAL or ANOMALY, and the reason: the columns that make the flow strange, their values, what is usual (5 % to 95 % of
the training flows), and how much of the score is due to them. Exit code 1: the capture is damaged, what came before is
classified.")]
pub struct Args {
    /// Capture (pcap, pcapng, packed with gzip or not); `-` is standard input.
    #[arg(required_unless_present = "live", conflicts_with = "live")]
    pub input: Option<PathBuf>,
    /// Interface to read from instead, until SIGINT or SIGTERM; needs CAP_NET_RAW.
    #[arg(long, value_name = "INTERFACE")]
    pub live: Option<String>,
    /// With --live: stop after so many seconds.
    #[arg(long, value_name = "SECONDS", requires = "live", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub duration: Option<u64>,
    /// Model.
    #[arg(long, short)]
    pub model: PathBuf,
    /// Where verdicts go, a file that is overwritten; `-` is standard output.
    #[arg(long, short, default_value = "-")]
    pub output: PathBuf,
    /// Comma-separated, or one JSON object a line.
    #[arg(long, value_enum, default_value = "csv")]
    pub format: Format,
    /// Normal flows too.
    #[arg(long)]
    pub report_all: bool,
    /// Another threshold than the model's: flows with a higher score are unusual.
    #[arg(long, value_parser = threshold)]
    pub threshold: Option<f64>,
    /// Columns named in a reason at most.
    #[arg(long, default_value_t = 3)]
    pub reasons: usize,
}

fn threshold(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(t) if !t.is_nan() => Ok(t),
        _ => Err("expected a number, such as 0.5".into()),
    }
}

/// How verdicts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Comma-separated.
    Csv,
    /// One JSON object a line.
    Json,
}

/// One flow, judged. The names are those of the JSON output, version 1.
#[derive(Debug, Serialize)]
struct Verdict<'a> {
    start_s: f64,
    end_s: f64,
    src_ip: String,
    src_port: u16,
    dst_ip: String,
    dst_port: u16,
    protocol: u8,
    score: f64,
    threshold: f64,
    verdict: &'static str,
    reasons: Vec<Because<'a>>,
}

#[derive(Debug, Serialize)]
struct Because<'a> {
    column: &'a str,
    value: f64,
    usual_low: f64,
    usual_median: f64,
    usual_high: f64,
    effect: f64,
}

struct Judge<'m> {
    model: &'m Model,
    threshold: f64,
    report_all: bool,
    reasons: usize,
    format: Format,
    flows: u64,
    novel: u64,
}

impl Judge<'_> {
    /// Judges the flows that have ended.
    fn all(&mut self, meter: &mut native::Meter, out: &mut dyn Write) -> Result<()> {
        let mut any = false;
        while let Some(row) = meter.poll() {
            self.judge(&Flow::from(row), out)?;
            any = true;
        }
        if any {
            out.flush()?;
        }
        Ok(())
    }

    fn judge(&mut self, flow: &Flow, out: &mut dyn Write) -> Result<()> {
        let score = self
            .model
            .score(MatRef::new(flow.values.len(), &flow.values)?)?
            .first()
            .copied()
            .unwrap_or(f64::INFINITY);
        let novel = score > self.threshold;
        self.flows += 1;
        self.novel += u64::from(novel);
        if !novel && !self.report_all {
            return Ok(());
        }
        let reasons = if novel {
            self.model.explain(&flow.values, self.reasons)?
        } else {
            Vec::new()
        };
        let names = self.model.names();
        let (source, destination) = match flow.addresses {
            Some((a, b)) => (a.to_string(), b.to_string()),
            None => (String::new(), String::new()),
        };
        let verdict = Verdict {
            start_s: flow.start_s,
            end_s: flow.end_s,
            src_ip: source,
            src_port: flow.ports.0,
            dst_ip: destination,
            dst_port: flow.ports.1,
            protocol: flow.protocol,
            // JSON has no infinity.
            score: score.min(f64::MAX),
            threshold: self.threshold,
            verdict: if novel { "ANOMALY" } else { "NORMAL" },
            reasons: reasons
                .iter()
                .map(|r| Because {
                    column: names.get(r.column).map_or("", String::as_str),
                    value: r.value,
                    usual_low: r.usual[0],
                    usual_median: r.usual[1],
                    usual_high: r.usual[2],
                    effect: r.effect,
                })
                .collect(),
        };
        match self.format {
            Format::Json => {
                serde_json::to_writer(&mut *out, &verdict)?;
                writeln!(out)?;
            }
            Format::Csv => {
                let reasons: Vec<String> = verdict.reasons.iter().map(Because::words).collect();
                writeln!(
                    out,
                    "{:.6},{:.6},{},{},{},{},{},{},{},{}",
                    verdict.start_s,
                    verdict.end_s,
                    verdict.src_ip,
                    verdict.src_port,
                    verdict.dst_ip,
                    verdict.dst_port,
                    verdict.protocol,
                    verdict.score,
                    verdict.verdict,
                    reasons.join("; ")
                )?;
            }
        }
        Ok(())
    }
}

impl Because<'_> {
    fn words(&self) -> String {
        format!(
            "{} is {} (usual {} to {}; {} of the score)",
            self.column,
            short(self.value),
            short(self.usual_low),
            short(self.usual_high),
            short(self.effect)
        )
    }
}

/// Four digits.
fn short(v: f64) -> String {
    if v == 0.0 || (0.001..1e7).contains(&v.abs()) {
        let digits = if v == 0.0 {
            0
        } else {
            (3 - v.abs().log10().floor() as i32).clamp(0, 6)
        };
        let text = format!("{v:.*}", digits as usize);
        match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        }
    } else {
        format!("{v:.3e}")
    }
}

/// Runs the command.
///
/// # Errors
/// Files that cannot be opened, models that cannot be used.
pub fn run(args: &Args) -> Result<ExitCode> {
    let name = args.model.display();
    let bytes = std::fs::read(&args.model).with_context(|| format!("while reading {name}"))?;
    let model = Model::from_bytes(&bytes).with_context(|| format!("while loading {name}"))?;
    let profile =
        Profile::from_entries(model.facts()).with_context(|| format!("while loading {name}"))?;
    anyhow::ensure!(
        profile.names().len() == model.names().len(),
        "while loading {name}: its features have {} columns and its detector {}",
        profile.names().len(),
        model.names().len()
    );
    let input = match (&args.live, &args.input) {
        (Some(interface), _) => Input::Interface(interface, Box::new(open_live(args, interface)?)),
        (None, Some(path)) if path != Path::new("-") => {
            let shown = path.display();
            let file = File::open(path).with_context(|| format!("while opening {shown}"))?;
            Input::capture(path, Box::new(file))?
        }
        _ => Input::capture(Path::new("-"), Box::new(std::io::stdin().lock()))?,
    };
    // Only now: what is no capture overwrites nothing.
    let mut out = BufWriter::new(open_output(args)?);
    match classify(args, &model, profile, input, &mut out) {
        // Whoever reads the verdicts has seen enough.
        Err(e) if is_broken_pipe(&e) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

fn open_output(args: &Args) -> Result<Box<dyn Write>> {
    if args.output == Path::new("-") {
        return Ok(Box::new(std::io::stdout().lock()));
    }
    let path = args.output.display();
    let output = FileId::of(&args.output);
    let input = match args.input.as_deref() {
        Some(dash) if dash == Path::new("-") => Some(Path::new("/dev/stdin")),
        input => input,
    };
    let inputs = input.map(|path| (path, "input"));
    for (other, what) in inputs.into_iter().chain([(args.model.as_path(), "model")]) {
        anyhow::ensure!(
            output.is_none() || FileId::of(other) != output,
            "{path} is {what} and output"
        );
    }
    let file = File::create(&args.output).with_context(|| format!("while writing {path}"))?;
    Ok(Box::new(file))
}

fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.chain().any(|cause| {
        let kind = match cause.downcast_ref::<std::io::Error>() {
            Some(e) => Some(e.kind()),
            None => cause
                .downcast_ref::<serde_json::Error>()
                .and_then(serde_json::Error::io_error_kind),
        };
        kind == Some(std::io::ErrorKind::BrokenPipe)
    })
}

fn classify(
    args: &Args,
    model: &Model,
    profile: Profile,
    input: Input<'_>,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let mut judge = Judge {
        model,
        threshold: args.threshold.unwrap_or(model.threshold()),
        report_all: args.report_all,
        reasons: args.reasons,
        format: args.format,
        flows: 0,
        novel: 0,
    };
    if args.format == Format::Csv {
        writeln!(
            out,
            "start_s,end_s,src_ip,src_port,dst_ip,dst_port,protocol,score,verdict,reason"
        )?;
    }
    // Whoever waits for verdicts sees the header at once.
    out.flush()?;
    let damage = match (input, profile) {
        (Input::Capture(path, mut reader), profile) => {
            let path = path.display();
            match profile {
                Profile::Native(settings) => stream(&mut *reader, settings, &mut judge, out)?,
                Profile::Netml { .. } => {
                    let request = Request::Exactly(profile);
                    let (table, damage) =
                        features::extract_until_damage(&mut *reader, &request, None)
                            .with_context(|| format!("in {path}"))?;
                    for flow in &table.flows {
                        judge.judge(flow, out)?;
                    }
                    damage
                }
            }
            .map(|e| format!("in {path}: {e}"))
        }
        (Input::Interface(name, live), Profile::Native(settings)) => {
            listen(*live, settings, &mut judge, out)?.map(|e| format!("on {name}: {e}"))
        }
        (Input::Interface(..), Profile::Netml { .. }) => bail!(
            "the model has netml's features, which are known only at a capture's end: --live needs a model of the native \
             profile (trainer learn --profile native)"
        ),
    };
    out.flush()?;
    eprintln!(
        "gateway: {} flows, {} of them unusual",
        judge.flows, judge.novel
    );
    Ok(match damage {
        Some(e) => {
            eprintln!("gateway: {e}");
            ExitCode::from(1)
        }
        None => ExitCode::SUCCESS,
    })
}

/// Where packets come from.
enum Input<'a> {
    Capture(&'a Path, Box<Reader<BufReader<Box<dyn Read>>>>),
    Interface(&'a str, Box<Live>),
}

impl<'a> Input<'a> {
    /// A capture whose head is one.
    fn capture(path: &'a Path, bytes: Box<dyn Read>) -> Result<Self> {
        let reader = Reader::new(BufReader::new(bytes));
        let reader = reader.with_context(|| format!("while reading {}", path.display()))?;
        Ok(Self::Capture(path, Box::new(reader)))
    }
}

fn open_live(args: &Args, interface: &str) -> Result<Live> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot catch signals")?;
    }
    let options = LiveOptions {
        interface: interface.to_owned(),
        ring: RingOptions {
            buffer: RING,
            // Headers are enough: lengths are those that the headers tell.
            snaplen: 256,
            promiscuous: true,
        },
        duration: args.duration.map(Duration::from_secs),
        max_packets: None,
    };
    Live::open(options, stop).with_context(|| format!("while opening the interface {interface}"))
}

/// Judges flows of an interface as they end; gives what ended it early.
fn listen(
    mut live: Live,
    settings: native::Settings,
    judge: &mut Judge<'_>,
    out: &mut dyn Write,
) -> Result<Option<String>> {
    let mut meter = native::Meter::new(settings, native::Limits::default())?;
    loop {
        match live.next() {
            Event::Frame(frame, bytes) => {
                features::observe(&mut meter, &frame, bytes);
            }
            Event::Quiet(at) => meter.handle_timeout(at),
            Event::End => break,
        }
        judge.all(&mut meter, out)?;
    }
    meter.finish();
    judge.all(&mut meter, out)?;
    let input = live.inputs().pop().unwrap_or_default();
    let dropped = input.dropped.unwrap_or(0);
    if dropped > 0 {
        eprintln!("gateway: the kernel dropped {dropped} packets: verdicts came too slowly");
    }
    Ok(input.error)
}

/// Judges flows as they end; gives what is wrong with the capture from some packet on.
fn stream<R: Read>(
    reader: &mut Reader<R>,
    settings: native::Settings,
    judge: &mut Judge<'_>,
    out: &mut dyn Write,
) -> Result<Option<chaff_trace::TraceError>> {
    let mut meter = native::Meter::new(settings, native::Limits::default())?;
    let damage = loop {
        match reader.next_borrowed() {
            Ok(Some((frame, bytes))) => {
                features::observe(&mut meter, &frame, bytes);
            }
            Ok(None) => break None,
            Err(e) => break Some(e),
        }
        judge.all(&mut meter, out)?;
    };
    meter.finish();
    judge.all(&mut meter, out)?;
    Ok(damage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (v, text) in [
            (0.0, "0"),
            (60.0, "60"),
            (0.123_456, "0.1235"),
            (1234.56, "1235"),
            (1e9, "1.000e9"),
            (-2.5, "-2.5"),
        ] {
            assert_eq!(short(v), text);
        }
    }
}
