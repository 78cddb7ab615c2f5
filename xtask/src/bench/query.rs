//! Private queries over 2 million made flows: the whole program against the way DPMon takes.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::measure::Used;
use super::{Bar, Options, least, most, row};
use crate::command::{Stop, output};
use crate::root;

/// What all contenders are asked about.
const DOMAIN: &str = "video7.example";
const USERS: u64 = 5_000;
/// Most rounds: later ones say nothing new.
const MOST_ROUNDS: u32 = 5;

const BARS: &[Bar] = &[
    least(
        "DPMon's way (9 columns of text) / query: CPU of one question, loading included",
        "/ratio/peer",
        50.0,
    ),
    most("query, peak memory, MB", "/peak_mb/query", 400.0),
];

/// The published semantics: the filtered table goes into an in-memory SQLite on each question, one group-by, then one call
/// of diffprivlib with bounds from the data.
const PEER: &str = r##"
import sys
import numpy as np
import pandas as pd
from diffprivlib.tools import nansum
from pandasql import sqldf

path, domain = sys.argv[1], sys.argv[2]
table = pd.read_csv(path, sep=" ")
table.columns = [c.split("#")[-1].split(":")[0] for c in table.columns]
table = table[(table.c_isint == 1) & (table.s_isint == 0)]
answer = sqldf(
    "SELECT c_ip, SUM(CASE WHEN c_tls_SNI = '%s' THEN s_bytes_all ELSE 0 END) AS value FROM table_ GROUP BY c_ip" % domain,
    {"table_": table},
)
values = answer["value"].to_numpy(dtype=float)
print(len(values), int(values.sum()), nansum(values, epsilon=1.0, bounds=(values.min(), values.max())))
"##;
const PACKAGES: [&str; 6] = [
    "diffprivlib==0.6.6",
    "scikit-learn<1.6",
    "numpy<2.4",
    "pandas",
    "pandasql==0.7.3",
    "SQLAlchemy",
];

/// Runs the benchmark; gives the number of missed bars.
///
/// # Errors
/// When ours cannot run.
pub(super) fn run(options: &Options) -> Result<u32> {
    let folder = root().join("target/bench-query");
    fs::create_dir_all(&folder).with_context(|| format!("while making {}", folder.display()))?;
    let log = folder.join(format!("log_{}", options.flows));
    if !log.exists() {
        eprintln!("making {} flows", options.flows);
        make(&log, options.flows)?;
    }
    let result = measure(options, &folder, &log)?;
    if options.json {
        println!("{result}");
        return Ok(0);
    }
    println!("{}", serde_json::to_string_pretty(&result)?);
    let mut missed = 0;
    for bar in BARS {
        if result.pointer(bar.at).is_some_and(Value::is_number) {
            missed += u32::from(!row(&result, bar, "query"));
        } else {
            println!(
                "| {} | not measured | | `cargo xtask bench query` |",
                bar.what
            );
        }
    }
    Ok(missed)
}

/// A log of Tstat with nine columns: as many users as a campus, a few hundred names, heavy tails.
fn make(path: &Path, flows: u64) -> Result<()> {
    let part = path.with_extension("part");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&part)?);
    writeln!(
        out,
        "#15#c_ip:1 s_ip:2 c_isint:3 s_isint:4 c_bytes_all:5 s_bytes_all:6 c_rtt_avg:7 durat:8 c_tls_SNI:9"
    )?;
    // A plain generator: the same log from every build.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % n
    };
    for _ in 0..flows {
        let user = draw(USERS);
        let (client, server) = match draw(20) {
            0 => (0, 1),
            1 => (1, 1),
            _ => (1, 0),
        };
        let name = draw(300).min(draw(300));
        let down = 200 + (1u64 << draw(22)) + draw(5000);
        writeln!(
            out,
            "10.{}.{}.{} 198.18.{}.{} {client} {server} {} {down} {}.{:06} {}.{:03} video{name}.example",
            20 + user / 60_000,
            user / 250,
            1 + user % 250,
            draw(64),
            draw(256),
            100 + draw(3000),
            draw(120),
            draw(1_000_000),
            draw(60_000),
            draw(1000),
        )?;
    }
    out.flush()?;
    fs::rename(&part, path).context("while naming the log")
}

fn measure(options: &Options, folder: &Path, log: &Path) -> Result<Value> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--release", "--workspace"])
        .args(["--bin", "query"])
        .current_dir(root());
    output(cargo)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let query = target.join("release/query");
    let ledger = folder.join("ledger");
    for old in ["ledger", "ledger.head", "ledger.answers"] {
        let _ = fs::remove_file(folder.join(old));
    }
    let text = |path: &Path| path.display().to_string();
    let program = |parts: &[&str]| {
        let mut all = vec![text(&query)];
        all.extend(parts.iter().map(|p| (*p).to_owned()));
        all
    };
    let (ledger, log_text) = (text(&ledger), text(log));
    one(
        folder,
        &program(&["ledger", "--ledger", &ledger, "--budget", "10000"]),
    )?;
    let mut runs = Vec::new();
    for round in 0..options.rounds.min(MOST_ROUNDS) {
        // Another cost in each round: the same question would be answered from what is kept.
        let epsilon = format!("1.{round:03}");
        let command = program(&[
            "volume-on-domain",
            "--domain",
            DOMAIN,
            "--bounds",
            "0..10000000",
            "--data",
            &log_text,
            "--ledger",
            &ledger,
            "--epsilon",
            &epsilon,
            "--prompt-time",
        ]);
        runs.push(one(folder, &command)?);
    }
    let ours = median(&runs);
    let peer = match peer(folder, log) {
        Ok(used) => Some(used),
        Err(error) => {
            eprintln!("DPMon's way is not measured: {error:#}");
            None
        }
    };
    let megabytes = |used: &Used| used.peak_bytes as f64 / 1e6;
    Ok(json!({
        "flows": options.flows,
        "bytes": fs::metadata(log)?.len(),
        "cpu_s": { "query": ours.cpu_s, "peer": peer.map(|p| p.cpu_s) },
        "peak_mb": { "query": megabytes(&ours), "peer": peer.as_ref().map(megabytes) },
        "ratio": { "peer": peer.map(|p| p.cpu_s / ours.cpu_s) },
    }))
}

/// Runs a program in a process of its own that counts for it.
pub(super) fn one(folder: &Path, command: &[String]) -> Result<Used> {
    let said = [folder.join("stdout.txt"), folder.join("stderr.txt")];
    let mut measure = Command::new(std::env::current_exe()?);
    measure.args(["measure", "--stdout"]).arg(&said[0]);
    measure.arg("--stderr").arg(&said[1]);
    measure.arg("--").args(command);
    let used: Used = serde_json::from_str(&output(measure)?)?;
    if used.code != 0 {
        let error = fs::read_to_string(&said[1]).unwrap_or_default();
        bail!(Stop::Check.error(format_args!(
            "{command:?} ended with {}: {error}",
            used.code
        )));
    }
    Ok(used)
}

pub(super) fn median(runs: &[Used]) -> Used {
    let mut sorted = runs.to_vec();
    sorted.sort_by(|a, b| a.cpu_s.total_cmp(&b.cpu_s));
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn peer(folder: &Path, log: &Path) -> Result<Used> {
    let python = python(
        &folder.join("dpmon-peer"),
        "diffprivlib, pandasql",
        &PACKAGES,
    )?;
    let script = folder.join("dpmon_peer.py");
    fs::write(&script, PEER)?;
    let text = |path: &Path| path.display().to_string();
    let command = [text(&python), text(&script), text(log), DOMAIN.to_owned()];
    one(folder, &command)
}

/// A Python environment with these packages, made when it cannot import what is needed yet.
pub(super) fn python(home: &Path, imports: &str, packages: &[&str]) -> Result<PathBuf> {
    let python = home.join("bin/python");
    let probe = || {
        let mut probe = Command::new(&python);
        probe.args(["-c", &format!("import {imports}")]);
        output(probe)
    };
    if !python.exists() || probe().is_err() {
        eprintln!("installing {packages:?} into {}", home.display());
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(home);
        output(make).context("no Python environment")?;
        let mut install = Command::new(&python);
        install.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]);
        install.args(packages);
        output(install)?;
    }
    Ok(python)
}
