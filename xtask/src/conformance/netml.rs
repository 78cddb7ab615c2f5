//! Flow features and detectors against those of netml 0.7.1, with the reference's own checker.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Options, build, fits, tempfile};
use crate::command::{Stop, output};
use crate::root;

/// Feature files of one capture.
#[derive(Clone, Copy, Default)]
struct Total {
    files: usize,
    matching: usize,
    refused: usize,
}

/// Makes each expected feature file with `trainer features` and compares; then the areas of detectors on netml's demo.
///
/// # Errors
/// [`Stop::Check`] when a file differs or an area does; else when a program cannot run.
pub(super) fn run(options: &Options, set: &Path) -> Result<()> {
    let trainer = build(options, "trainer")?;
    let temporary = tempfile()?;
    let keep = options.keep.as_deref().unwrap_or(&temporary);
    fs::create_dir_all(keep).with_context(|| format!("while making {}", keep.display()))?;
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    let mut folders: Vec<PathBuf> = fs::read_dir(set.join("expected"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|folder| folder.join("meta.json").is_file())
        .collect();
    folders.sort();
    let mut failed = Vec::new();
    for folder in &folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        // netml's own lengths, wrong by its parser's mistake.
        if name.ends_with("-literal") || name.ends_with("-detectors") {
            continue;
        }
        let text = fs::read_to_string(folder.join("meta.json"))?;
        let meta: Value = serde_json::from_str(&text)
            .with_context(|| format!("{}/meta.json", folder.display()))?;
        for (variant, expected) in variants(folder)? {
            if !fits(&options.filter, &format!("{name}/{variant}")) {
                continue;
            }
            let made = keep.join(format!("{name}.{variant}.csv"));
            features(&trainer, set, &name, &meta, &variant, &made)?;
            let total = totals.entry(name.clone().into_owned()).or_default();
            total.files += 1;
            match compare(set, &made, &expected, &variant)? {
                None => total.matching += 1,
                Some(problem) => failed.push(format!("{name}/{variant}: {problem}")),
            }
        }
        // What netml cannot make, we must refuse.
        for variant in meta["errors"].as_object().into_iter().flatten() {
            if !fits(&options.filter, &format!("{name}/{}", variant.0)) {
                continue;
            }
            let made = keep.join("refused.csv");
            if features(&trainer, set, &name, &meta, variant.0, &made).is_ok() {
                failed.push(format!("{name}/{}: made, netml cannot", variant.0));
            }
            totals.entry(name.clone().into_owned()).or_default().refused += 1;
        }
    }
    let _ = fs::remove_dir_all(&temporary);
    ensure!(
        !totals.is_empty(),
        Stop::Usage.error("no expected file fits")
    );
    println!("| capture | files | matching | refused as by netml |\n| --- | --- | --- | --- |");
    let mut sum = Total::default();
    for (name, t) in &totals {
        println!("| {name} | {} | {} | {} |", t.files, t.matching, t.refused);
        sum.files += t.files;
        sum.matching += t.matching;
        sum.refused += t.refused;
    }
    println!(
        "| all | {} | {} | {} |",
        sum.files, sum.matching, sum.refused
    );
    for problem in &failed {
        println!("{problem}");
    }
    let areas = areas();
    if !failed.is_empty() {
        return Err(Stop::Check.error(format_args!("{} files differ", failed.len())));
    }
    areas
}

/// Names of variants, such as `iat.fft.header`, with their files.
fn variants(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.strip_suffix(".gz").unwrap_or(&name);
        if let Some(variant) = stem.strip_suffix(".csv").filter(|v| *v != "flows") {
            found.push((variant.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}

fn features(
    trainer: &Path,
    set: &Path,
    name: &str,
    meta: &Value,
    variant: &str,
    to: &Path,
) -> Result<()> {
    let mut parts = variant.split('.');
    let kind = parts.next().unwrap_or_default().replace('_', "-");
    let captures = set.join("pcaps");
    let mut command = Command::new(trainer);
    let pcap = meta["pcap"].as_str().context("meta.json names no pcap")?;
    command.arg("features").arg(captures.join(pcap));
    command.args(["--profile", "netml", "--kind", &kind]);
    for (option, key) in [
        ("--q-interval", "q_interval"),
        ("--flow-pkts-threshold", "flow_pkts_thres"),
    ] {
        command.args([option, &meta[key].to_string()]);
    }
    command.args(parts.map(|option| format!("--{option}")));
    if name.ends_with("-labelled") {
        let labels = Path::new(pcap).with_extension("csv");
        command.arg("--label").arg(captures.join(labels));
    }
    command.arg("--output").arg(to);
    output(command).map(|_| ())
}

/// What the reference's checker says when it does not agree.
fn compare(set: &Path, made: &Path, expected: &Path, variant: &str) -> Result<Option<String>> {
    let mut checker = Command::new("python3");
    checker.arg(set.join("compare.py")).args([made, expected]);
    if variant.starts_with("iat") {
        // netml's times are floating point, ours are not.
        checker.args(["--atol", "5e-7"]);
    }
    let done = checker.output().context("while starting python3")?;
    match done.status.code() {
        Some(0) => Ok(None),
        Some(1) => {
            let said = String::from_utf8_lossy(&done.stdout);
            Ok(Some(said.lines().take(3).collect::<Vec<_>>().join("; ")))
        }
        _ => anyhow::bail!(
            "compare.py: {}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        ),
    }
}

/// Areas of the detectors on netml's demo, its split and settings: the test that also compares every score.
fn areas() -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--quiet", "--release", "--package", "chaff-novelty"]);
    cargo.args(["--test", "demo", "--", "--nocapture"]);
    cargo.current_dir(root());
    let done = cargo.output().context("while starting cargo")?;
    let said = String::from_utf8_lossy(&done.stdout);
    let table = |l: &&str| {
        let first = l.split_whitespace().next().unwrap_or("");
        ["kind", "iat", "stats", "size", "samp_num", "samp_size"].contains(&first)
    };
    println!(
        "\nareas under the curve on netml's demo (IF: mean of 20 forests, netml's sign set right):"
    );
    said.lines().filter(table).for_each(|l| println!("{l}"));
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        return Err(Stop::Check.error(format_args!("the detectors differ: {why}{said}")));
    }
    Ok(())
}
