//! `gateway classify`: flows of a capture with score, verdict and the reason for it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use chaff_flow::features::{Profile, native};
use chaff_novelty::{MatRef, Model};
use chaff_trace::Reader;
use chaff_trace::features::{self, Flow, Request};
use clap::ValueEnum;
use serde::Serialize;

use crate::file_id::FileId;

/// Options of `gateway classify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gateway classify --model home.model today.pcap
  tcpdump -i lan0 -U -w - | gateway classify --model home.model - --format json --report-all

A model comes from `trainer learn`. Columns: times in seconds since the epoch, score (higher is stranger), verdict
NORMAL or ANOMALY, and the reason: the columns that make the flow strange, their values, what is usual (5 % to 95 % of
the training flows), and how much of the score is due to them. Exit code 1: the capture is damaged, what came before is
classified.")]
pub struct Args {
    /// Capture (pcap, pcapng, packed with gzip or not); `-` is standard input.
    pub input: PathBuf,
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
    let input: Box<dyn Read> = if args.input == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let path = args.input.display();
        Box::new(File::open(&args.input).with_context(|| format!("while opening {path}"))?)
    };
    let path = args.input.display();
    let mut reader =
        Reader::new(BufReader::new(input)).with_context(|| format!("while reading {path}"))?;
    // Only now: what is no capture overwrites nothing.
    let mut out = BufWriter::new(open_output(args)?);
    match classify(args, &model, profile, &mut reader, &mut out) {
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
    let input = match args.input.as_path() {
        dash if dash == Path::new("-") => Path::new("/dev/stdin"),
        input => input,
    };
    for (other, what) in [(input, "input"), (&args.model, "model")] {
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
    reader: &mut Reader<impl Read>,
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
    let path = args.input.display();
    let damage = match profile {
        Profile::Native(settings) => stream(reader, settings, &mut judge, out)?,
        Profile::Netml { .. } => {
            let request = Request::Exactly(profile);
            let (table, damage) = features::extract_until_damage(reader, &request, None)
                .with_context(|| format!("in {path}"))?;
            for flow in &table.flows {
                judge.judge(flow, out)?;
            }
            damage
        }
    };
    out.flush()?;
    eprintln!(
        "gateway: {} flows, {} of them unusual",
        judge.flows, judge.novel
    );
    Ok(match damage {
        Some(e) => {
            eprintln!("gateway: in {path}: {e}");
            ExitCode::from(1)
        }
        None => ExitCode::SUCCESS,
    })
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
        let mut any = false;
        while let Some(row) = meter.poll() {
            judge.judge(&Flow::from(row), out)?;
            any = true;
        }
        if any {
            out.flush()?;
        }
    };
    meter.finish();
    while let Some(row) = meter.poll() {
        judge.judge(&Flow::from(row), out)?;
    }
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
