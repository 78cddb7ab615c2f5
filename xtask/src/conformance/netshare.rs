//! Synthetic traces by the evaluator beside the repository: fidelity with and without privacy, membership inference, tshark's
//! opinion of captures, and time and memory for a million records.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Options, build, tempfile};
use crate::bench::Used;
use crate::command::{Stop, output};

/// A number of the evaluator's summary and what it should be.
struct Bar {
    what: &'static str,
    at: &'static str,
    least: Option<f64>,
    most: Option<f64>,
}

const fn most(what: &'static str, at: &'static str, bar: f64) -> Bar {
    Bar {
        what,
        at,
        least: None,
        most: Some(bar),
    }
}

const fn least(what: &'static str, at: &'static str, bar: f64) -> Bar {
    Bar {
        what,
        at,
        least: Some(bar),
        most: None,
    }
}

const fn told(what: &'static str, at: &'static str) -> Bar {
    Bar {
        what,
        at,
        least: None,
        most: None,
    }
}

const JSD: &str = "bucketed JSD over two halves";
const PAIRS: &str = "pairs of fields, TVD";
const TSTR: &str = "accuracy, trained on synthetic / on real";
const GAP: &str = "rules, mean difference";
const COPIES: &str = "copies of real records";
const EMD: &str = "EMD of logarithms";
const NEXT: &str = "next service of a source, TVD";

const UGR16: &[Bar] = &[
    most(JSD, "/excess/jsd_mean_bucketed", 0.01),
    most(
        "pairs of fields, TVD over two halves",
        "/excess/pair_tvd_mean",
        0.05,
    ),
    most(NEXT, "/bigram_tvd", 0.36),
    most(GAP, "/sanity_gap", 0.01),
    least(TSTR, "/tstr_acc_ratio", 0.95),
    most(COPIES, "/exact_copy_share", 0.0),
    told(EMD, "/emd_log_rel_mean"),
];
const UGR16_PRIVATE: &[Bar] = &[
    least(TSTR, "/tstr_acc_ratio", 0.83),
    most(PAIRS, "/pair_tvd_mean", 0.42),
    most(EMD, "/emd_log_rel_mean", 0.42),
    most(GAP, "/sanity_gap", 0.02),
];
const IOT: &[Bar] = &[
    least(TSTR, "/tstr_acc_ratio", 0.85),
    most(PAIRS, "/pair_tvd_mean", 0.12),
    told(NEXT, "/bigram_tvd"),
];
const IOT_PRIVATE: &[Bar] = &[
    least(TSTR, "/tstr_acc_ratio", 0.70),
    most(PAIRS, "/pair_tvd_mean", 0.30),
];
const PACKETS: &[Bar] = &[
    told("bucketed JSD", "/jsd_mean_bucketed"),
    told(EMD, "/emd_log_rel_mean"),
    told(PAIRS, "/pair_tvd_mean"),
    told(NEXT, "/bigram_tvd"),
    told(TSTR, "/tstr_acc_ratio"),
    most(GAP, "/sanity_gap", 0.05),
];
const MEMBERS: &[Bar] = &[
    Bar {
        what: "membership inference, AUC",
        at: "/membership_auc",
        least: Some(0.48),
        most: Some(0.53),
    },
    told(COPIES, "/exact_copy_share"),
    most(
        "copies, less those among the held-out records",
        "/copies_excess",
        0.0,
    ),
];

/// A trace, how it is learned, and what should come out.
struct Case {
    file: &'static str,
    private: bool,
    bars: &'static [Bar],
}

const CASES: [Case; 8] = [
    case("ugr16-small.csv", false, UGR16),
    case("ugr16-small.csv", true, UGR16_PRIVATE),
    case("iot-sentinel-dev-flows.csv", false, IOT),
    case("iot-sentinel-dev-flows.csv", true, IOT_PRIVATE),
    case("caida-small.pcap", false, PACKETS),
    case("caida-small.pcap", true, PACKETS),
    case("iot-sentinel-dev.pcap", false, PACKETS),
    case("iot-sentinel-dev.pcap", true, PACKETS),
];

const fn case(file: &'static str, private: bool, bars: &'static [Bar]) -> Case {
    Case {
        file,
        private,
        bars,
    }
}

/// What a filter names: a trace or a measurement, `@dp` when it is private.
fn named(name: &str, private: bool) -> String {
    format!("{name}{}", if private { "@dp" } else { "" })
}

struct Lab<'a> {
    trainer: PathBuf,
    python: &'a str,
    evaluator: PathBuf,
    folder: PathBuf,
    failed: Vec<String>,
}

/// Prints a table of every bar.
///
/// # Errors
/// [`Stop::Check`] when a bar is not met; else when a program cannot run.
pub(super) fn run(options: &Options, set: &Path) -> Result<()> {
    let mut probe = Command::new(&options.python);
    probe.args(["-c", "import numpy, scipy, pandas"]);
    if !probe.output().is_ok_and(|o| o.status.success()) {
        println!(
            "skipped: {} has no numpy, scipy and pandas, which the evaluator needs (--python names another)",
            options.python
        );
        return Ok(());
    }
    let temporary = tempfile()?;
    let mut lab = Lab {
        trainer: build(options, "trainer")?,
        python: &options.python,
        evaluator: set.join("evaluate.py"),
        folder: options.keep.clone().unwrap_or_else(|| temporary.clone()),
        failed: Vec::new(),
    };
    fs::create_dir_all(&lab.folder)
        .with_context(|| format!("while making {}", lab.folder.display()))?;
    println!(
        "| trace | ε | measure | should be | mean of {} seeds |",
        options.seeds
    );
    println!("| --- | --- | --- | --- | --- |");
    let done = lab.all(options, &set.join("data"));
    let _ = fs::remove_dir_all(&temporary);
    done?;
    if lab.failed.is_empty() {
        return Ok(());
    }
    let all = lab.failed.join("; ");
    Err(Stop::Check.error(format_args!("not met: {all}")))
}

impl Lab<'_> {
    fn all(&mut self, options: &Options, data: &Path) -> Result<()> {
        let fits = |name: &str| super::fits(&options.filter, name);
        for case in CASES.iter().filter(|c| fits(&named(c.file, c.private))) {
            let trace = data.join(case.file);
            let mut reports = Vec::new();
            for seed in 1..=options.seeds {
                let made = self.make(&trace, case.private, seed)?;
                reports.push(self.evaluate(&trace, &made, None)?);
                if trace.extension().is_some_and(|e| e == "pcap") && seed == 1 {
                    self.tshark(case, &made)?;
                }
            }
            self.judge(case.file, case.private, case.bars, &reports);
        }
        for private in [false, true] {
            if fits(&named("members", private)) {
                let trace = data.join("iot-sentinel-dev-flows.csv");
                self.members(&trace, private, options.seeds)?;
            }
        }
        if fits("million") {
            self.million(&data.join("ugr16-small.csv"))?;
        }
        Ok(())
    }

    fn synth(&self, args: &[&str], rest: &[&Path]) -> Result<()> {
        let mut command = Command::new(&self.trainer);
        command.arg("synth").args(args).args(rest);
        output(command).map(|_| ())
    }

    /// A synthetic trace of the same kind.
    fn make(&self, trace: &Path, private: bool, seed: u32) -> Result<PathBuf> {
        let model = self.folder.join("model");
        let extension = trace.extension().unwrap_or_default();
        let made = self.folder.join("synthetic").with_extension(extension);
        let seed = seed.to_string();
        let mut fit = vec!["fit", "--seed", &seed];
        if private {
            fit.extend(["--epsilon", "2", "--delta", "1e-5", "--no-ledger"]);
            fit.extend(["--noise-seed", &seed]);
            fit.extend(["--public-labels", "from-input"]);
        }
        fit.push("--output");
        self.synth(&fit, &[&model, trace])?;
        self.synth(&["sample", "--seed", &seed, "--output"], &[&made, &model])?;
        Ok(made)
    }

    /// The evaluator's summary.
    fn evaluate(&self, real: &Path, made: &Path, holdout: Option<&Path>) -> Result<Value> {
        let report = self.folder.join("report.json");
        let mut command = Command::new(self.python);
        command.arg(&self.evaluator).args([real, made]);
        if let Some(holdout) = holdout {
            command.arg("--holdout").arg(holdout);
        }
        command.arg("--out").arg(&report);
        output(command)?;
        let text = fs::read_to_string(&report)?;
        let all: Value = serde_json::from_str(&text)?;
        let mut summary = all["summary"].clone();
        let of = |at: &str| all["privacy"][at].as_f64();
        if let (Some(made), Some(held)) = (
            of("exact_copy_share_no_time"),
            of("exact_copy_share_holdout_in_real"),
        ) {
            summary["copies_excess"] = (made - held).into();
        }
        Ok(summary)
    }

    fn judge(&mut self, file: &str, private: bool, bars: &[Bar], reports: &[Value]) {
        for bar in bars {
            let values: Vec<f64> = reports
                .iter()
                .filter_map(|r| r.pointer(bar.at)?.as_f64())
                .collect();
            let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
            self.row(file, private, bar, mean);
        }
    }

    fn row(&mut self, file: &str, private: bool, bar: &Bar, value: f64) {
        let epsilon = if private { "2" } else { "-" };
        let should = match (bar.least, bar.most) {
            (Some(a), Some(b)) => format!("{a} to {b}"),
            (Some(a), None) => format!("at least {a}"),
            (None, Some(b)) => format!("at most {b}"),
            (None, None) => String::new(),
        };
        println!(
            "| {file} | {epsilon} | {} | {should} | {value:.3} |",
            bar.what
        );
        let met = bar.least.is_none_or(|b| value >= b) && bar.most.is_none_or(|b| value <= b);
        if !met {
            self.failed
                .push(format!("{file}, epsilon {epsilon}: {}", bar.what));
        }
    }

    /// Half of a trace is learned, the other half is held out. Halves are drawn: of each two records that follow each other
    /// in a capture, the second is often the answer to the first.
    fn members(&mut self, trace: &Path, private: bool, seeds: u32) -> Result<()> {
        let text = fs::read_to_string(trace)?;
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        let mut halves = [header.to_owned() + "\n", header.to_owned() + "\n"];
        let mut state = 1u64;
        for line in lines {
            // Knuth's linear congruential generator (MMIX); its high bits are good enough for a coin.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let half = (state >> 63) as usize;
            halves[half] += line;
            halves[half].push('\n');
        }
        let paths = ["learned.csv", "held.csv"].map(|n| self.folder.join(n));
        for (path, half) in paths.iter().zip(&halves) {
            fs::write(path, half)?;
        }
        let [learned, held] = &paths;
        let mut reports = Vec::new();
        for seed in 1..=seeds {
            let made = self.make(learned, private, seed)?;
            reports.push(self.evaluate(learned, &made, Some(held))?);
        }
        let name = "iot-sentinel-dev-flows.csv, half";
        self.judge(name, private, MEMBERS, &reports);
        Ok(())
    }

    /// Frames that tshark calls malformed, or whose checksums it finds wrong when payloads are there. (Zeros are no messages of
    /// most applications, so payloads are malformed.)
    fn tshark(&mut self, case: &Case, made: &Path) -> Result<()> {
        const BAR: Bar = most("frames that tshark complains about", "", 0.0);
        let mut probe = Command::new("tshark");
        if !probe
            .arg("--version")
            .output()
            .is_ok_and(|o| o.status.success())
        {
            println!("| {} | | {} | | skipped: no tshark |", case.file, BAR.what);
            return Ok(());
        }
        let complaints = |filter: &str| -> Result<usize> {
            let mut command = Command::new("tshark");
            command.arg("-r").arg(made);
            for protocol in ["ip", "tcp", "udp"] {
                command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
            }
            command.args(["-Y", filter]);
            Ok(output(command)?.lines().count())
        };
        let malformed = complaints("_ws.malformed || ip.checksum.status == 0")?;
        let sample = ["sample", "--seed", "1", "--payloads", "--output"];
        self.synth(&sample, &[made, &self.folder.join("model")])?;
        let wrong = complaints(
            "ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 || \
             icmp.checksum.status == 0 || icmpv6.checksum.status == 0",
        )?;
        self.row(case.file, case.private, &BAR, (malformed + wrong) as f64);
        Ok(())
    }

    /// A million records: each of the trace's, again and again, at other times and with other client ports.
    fn million(&mut self, trace: &Path) -> Result<()> {
        const RECORDS: usize = 1_000_000;
        let text = fs::read_to_string(trace)?;
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        let rows: Vec<Vec<&str>> = lines.map(|l| l.split(',').collect()).collect();
        ensure!(
            rows.iter().all(|r| r.len() == 10),
            "{} has other columns",
            trace.display()
        );
        let large = self.folder.join("million.csv");
        let mut out = BufWriter::new(fs::File::create(&large)?);
        writeln!(out, "{header}")?;
        for i in 0..RECORDS {
            let row = &rows[i % rows.len()];
            let turn = (i / rows.len()) as u64;
            for (column, field) in row.iter().enumerate() {
                let comma = if column == 9 { "\n" } else { "," };
                // Ports and times may be written as 443.0.
                let number = field.parse::<f64>().map(|v| v as u64);
                match (column, number) {
                    (2 | 3, Ok(port)) if port > 10_000 => {
                        write!(out, "{}{comma}", 10_000 + (port + turn * 7919) % 55_000)?;
                    }
                    (5, Ok(at)) => write!(out, "{}{comma}", at + turn * 1013)?,
                    _ => write!(out, "{field}{comma}")?,
                }
            }
        }
        out.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?;
        let (model, made) = (
            self.folder.join("million.synth"),
            self.folder.join("drawn.csv"),
        );
        let fit = self.measure(
            &["fit", "--method", "marginal", "--output"],
            &[&model, &large],
        )?;
        let draw = ["sample", "--seed", "1", "--records", "1000000", "--output"];
        let sample = self.measure(&draw, &[&made, &model])?;
        const TIME: Bar = most("1,000,000 records, fit and sample, s", "", 60.0);
        const MEMORY: Bar = most("1,000,000 records, peak memory, MB", "", 1000.0);
        let name = "ugr16-small.csv, a thousand times";
        self.row(name, false, &TIME, fit.wall_s + sample.wall_s);
        let peak = fit.peak_bytes.max(sample.peak_bytes) as f64 / 1e6;
        self.row(name, false, &MEMORY, peak);
        let first = fs::read(&made)?;
        self.synth(&draw, &[&made, &model])?;
        ensure!(first == fs::read(&made)?, "the same seed gave other bytes");
        Ok(())
    }

    fn measure(&self, args: &[&str], paths: &[&Path]) -> Result<Used> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("measure");
        command.arg("--stdout").arg(self.folder.join("stdout"));
        command.arg("--stderr").arg(self.folder.join("stderr"));
        command
            .arg("--")
            .arg(&self.trainer)
            .arg("synth")
            .args(args)
            .args(paths);
        let used: Used = serde_json::from_str(&output(command)?)?;
        let said = fs::read_to_string(self.folder.join("stderr")).unwrap_or_default();
        ensure!(used.code == 0, "trainer synth: {}", said.trim());
        Ok(used)
    }
}
