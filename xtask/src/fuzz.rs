//! Fuzzing with libFuzzer: builds the binaries of `tests/fuzz`, runs them one after another, says what they found.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::command::{self, Stop};
use crate::{packages, root};

/// What `fuzz` takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Which targets [default: all]; `--list` names them.
    #[arg(value_name = "TARGET")]
    target: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Longest input, bytes.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_len: u32,
    /// Names the targets and ends.
    #[arg(long)]
    list: bool,
    /// Adds to the committed corpus what reaches code that it does not reach yet, smallest inputs first, instead of fuzzing.
    #[arg(long)]
    keep: bool,
    /// Builds with stable Rust, without the address sanitizer, also where a nightly toolchain is installed.
    #[arg(long)]
    stable: bool,
    /// Prints one JSON object a target instead of the table.
    #[arg(long)]
    json: bool,
}

/// Coverage of edges and comparisons, as cargo-fuzz asks for it. All of these are options of stable rustc.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cforce-frame-pointers -Ccodegen-units=1";

/// Largest input that `--keep` adds, bytes.
const KEEP: u64 = 2048;

/// What a run of one target ended with.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
struct Outcome {
    target: String,
    /// Inputs tried.
    executions: u64,
    /// Of this run, starting included.
    seconds: f64,
    /// Edges reached, of those that the binary has; both with all libraries in it.
    edges: u64,
    edges_total: u64,
    /// Inputs in the corpus that grew.
    corpus: u64,
    /// Peak memory, MiB.
    memory_mib: u64,
    /// File of the input that broke an invariant, ran too long or used too much memory.
    finding: Option<String>,
}

/// Runs fuzz targets.
///
/// # Errors
/// [`Stop::Check`] when something was found, [`Stop::Usage`] for a target that is not there, [`Stop::Privilege`] when the
/// compiler of libFuzzer is missing and cannot be installed.
pub fn run(options: &Options) -> Result<()> {
    let all = targets()?;
    if options.list {
        for target in &all {
            println!("{target}");
        }
        return Ok(());
    }
    if let Some(unknown) = options.target.iter().find(|name| !all.contains(name)) {
        let list = all.join(", ");
        return Err(Stop::Usage.error(format_args!("no target {unknown}; there are {list}")));
    }
    let chosen: Vec<&String> = all
        .iter()
        .filter(|name| options.target.is_empty() || options.target.contains(name))
        .collect();
    packages::ensure(packages::FUZZ)?;
    let folder = build(options, &chosen)?;
    if options.keep {
        return chosen.iter().try_for_each(|name| keep(&folder, name));
    }
    let mut found = 0;
    if !options.json {
        println!("| target | executions | per second | edges | of | corpus | MiB | finding |");
        println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    }
    for name in chosen {
        let outcome = fuzz(options, &folder, name)?;
        found += u32::from(outcome.finding.is_some());
        if options.json {
            println!("{}", serde_json::to_string(&outcome)?);
        } else {
            println!("{}", outcome.row());
        }
    }
    if found > 0 {
        return Err(Stop::Check.error(format_args!("{found} targets found something")));
    }
    Ok(())
}

fn workspace() -> PathBuf {
    root().join("tests/fuzz")
}

fn grown(name: &str) -> PathBuf {
    root().join("target/fuzz/corpus").join(name)
}

fn committed(name: &str) -> PathBuf {
    workspace().join("corpus").join(name)
}

/// The binaries by their files.
fn targets() -> Result<Vec<String>> {
    let folder = workspace().join("fuzz_targets");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("while reading {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs") {
            names.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Builds the binaries; gives the folder they are in.
fn build(options: &Options, names: &[&String]) -> Result<PathBuf> {
    let nightly = if options.stable { None } else { nightly() };
    let mut flags = COVERAGE.to_owned();
    let mut cargo = match &nightly {
        Some(toolchain) => {
            flags.push_str(" -Zsanitizer=address");
            let mut cargo = Command::new("rustup");
            cargo.args(["run", toolchain.as_str(), "cargo"]);
            cargo
        }
        None => {
            eprintln!(
                "without the address sanitizer: it needs a nightly toolchain (`rustup toolchain install nightly`)"
            );
            Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        }
    };
    let host = host()?;
    let target_dir = root().join(if nightly.is_some() {
        "target/fuzz/nightly"
    } else {
        "target/fuzz/stable"
    });
    // With `--target`, build scripts and procedural macros are built without the flags.
    cargo
        .args(["build", "--release", "--target", &host, "--target-dir"])
        .arg(&target_dir);
    for name in names {
        cargo.args(["--bin", name]);
    }
    cargo
        .current_dir(workspace())
        .env("RUSTFLAGS", &flags)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC");
    let text = command::shown(&cargo);
    let status = cargo
        .status()
        .with_context(|| format!("while starting `{text}`"))?;
    ensure!(status.success(), "`{text}`: {status}");
    Ok(target_dir.join(host).join("release"))
}

/// The name of an installed nightly toolchain.
fn nightly() -> Option<String> {
    let list = command::output(command::words("rustup toolchain list")).ok()?;
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|name| name.starts_with("nightly"))
        .map(str::to_owned)
}

fn host() -> Result<String> {
    let text = command::output(command::words("rustc --version --verbose"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc names no host")
}

fn fuzz(options: &Options, folder: &Path, name: &str) -> Result<Outcome> {
    let (grown, artifacts) = (grown(name), root().join("target/fuzz/artifacts").join(name));
    for folder in [&grown, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("while making {}", folder.display()))?;
    }
    let mut fuzzer = Command::new(folder.join(name));
    fuzzer
        .arg(&grown)
        .arg(committed(name))
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-max_len={}", options.max_len))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args([
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            "-use_value_profile=0",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    eprintln!("{name}: {} s", options.seconds);
    let started = std::time::Instant::now();
    let text = command::shown(&fuzzer);
    let mut child = fuzzer
        .spawn()
        .with_context(|| format!("while starting `{text}`"))?;
    let mut outcome = Outcome {
        target: name.to_owned(),
        ..Outcome::default()
    };
    let mut story = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            // Inputs are shown as raw bytes here and there.
            let line = String::from_utf8_lossy(&line?).into_owned();
            outcome.note(&line);
            if tells_why(&line) || (story.len() < 6 && !story.is_empty()) {
                story.push(line);
            }
        }
    }
    let status = child.wait()?;
    outcome.seconds = started.elapsed().as_secs_f64();
    if !status.success() && outcome.finding.is_none() {
        outcome.finding = Some(status.to_string());
    }
    if outcome.finding.is_some() {
        for line in story {
            eprintln!("  {line}");
        }
    }
    Ok(outcome)
}

/// Whether a line begins what a finding is about.
fn tells_why(line: &str) -> bool {
    ["panicked at", "ERROR: ", "SUMMARY: "]
        .iter()
        .any(|mark| line.contains(mark))
}

impl Outcome {
    /// Takes from a line of libFuzzer what it tells.
    fn note(&mut self, line: &str) {
        let number = |text: &str| text.trim().parse().unwrap_or(0);
        if let Some((_, n)) = line.split_once("stat::number_of_executed_units:") {
            self.executions = number(n);
        } else if let Some((_, n)) = line.split_once("stat::peak_rss_mb:") {
            self.memory_mib = number(n);
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.finding = Some(path.to_owned());
        } else if let Some((_, rest)) = line.split_once("inline 8-bit counters): ") {
            // `INFO: Loaded 1 PC tables ...` and `INFO: Loaded 1 modules   (7777 inline 8-bit counters): 7777 [...]`.
            self.edges_total += number(rest.split(' ').next().unwrap_or_default());
        } else if let Some((_, rest)) = line.split_once(" cov: ") {
            self.edges = number(rest.split(' ').next().unwrap_or_default());
            if let Some((_, corpus)) = line.split_once(" corp: ") {
                self.corpus = number(corpus.split(['/', ' ']).next().unwrap_or_default());
            }
        }
    }

    fn row(&self) -> String {
        let rate = self.executions as f64 / self.seconds.max(1e-9);
        format!(
            "| {} | {} | {rate:.0} | {} | {} | {} | {} | {} |",
            self.target,
            self.executions,
            self.edges,
            self.edges_total,
            self.corpus,
            self.memory_mib,
            self.finding.as_deref().unwrap_or("none")
        )
    }
}

/// Adds small inputs that reach new code to the committed corpus.
fn keep(folder: &Path, name: &str) -> Result<()> {
    let small = root().join("target/fuzz/small").join(name);
    if small.exists() {
        fs::remove_dir_all(&small)?;
    }
    fs::create_dir_all(&small)?;
    if let Ok(entries) = fs::read_dir(grown(name)) {
        for entry in entries {
            let entry = entry?;
            if entry.metadata()?.len() <= KEEP {
                fs::copy(entry.path(), small.join(entry.file_name()))?;
            }
        }
    }
    let count = || fs::read_dir(committed(name)).map_or(0, Iterator::count);
    let before = count();
    let mut merge = Command::new(folder.join(name));
    merge
        .args(["-merge=1", "-timeout=10"])
        .arg(committed(name))
        .arg(&small);
    command::output(merge)?;
    eprintln!(
        "{name}: {} inputs added to {}",
        count() - before,
        committed(name).display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_from_the_lines_of_libfuzzer() {
        let mut outcome = Outcome::default();
        for line in [
            "INFO: Loaded 1 modules   (9000 inline 8-bit counters): 9000 [0x1, 0x2), ",
            "INFO: Loaded 1 PC tables (9000 PCs): 9000 [0x1,0x2), ",
            "#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb",
            "#700\tREDUCE cov: 321 ft: 400 corp: 77/2048b lim: 4 exec/s: 0 rss: 31Mb L: 3/9 MS: 1",
            "stat::number_of_executed_units: 12345",
            "stat::peak_rss_mb:              61",
        ] {
            outcome.note(line);
        }
        let want = Outcome {
            executions: 12_345,
            edges: 321,
            edges_total: 9000,
            corpus: 77,
            memory_mib: 61,
            ..Outcome::default()
        };
        assert_eq!(outcome, want);
        outcome.note("artifact_prefix='a/'; Test unit written to a/crash-1");
        assert_eq!(outcome.finding.as_deref(), Some("a/crash-1"));
    }

    #[test]
    fn every_target_has_a_committed_corpus() {
        let names = targets().unwrap();
        assert!(!names.is_empty());
        for name in names {
            assert!(committed(&name).is_dir(), "{name}");
        }
    }
}
