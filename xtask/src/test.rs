//! The README's test command: every check that CI runs, each a named step with its time, and a table at the end.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::command::{self, Stop, privileged};
use crate::{packages, root};

/// What `test` takes.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Options {
    /// Leaves out what needs root: namespaces, kernel programs, the eBPF rebuild.
    #[arg(long)]
    no_privileged: bool,
    /// Leaves out the documentation, the eBPF rebuild and the demo.
    #[arg(long)]
    quick: bool,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// These integration tests failed among the others and passed alone.
    PassedAlone(String),
    Failed(String),
    /// With the reason.
    Skipped(String),
}

/// Exit code of Chaff's programs for a missing privilege, kernel feature or package.
const MISSING: i32 = 3;

struct Step {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// Runs the checks one after another, also after one has failed.
///
/// # Errors
/// [`Stop::Check`] when a step failed, [`Stop::Privilege`] when the machine lacks a package and it cannot be installed.
pub fn run(options: Options) -> Result<()> {
    let use_root = privileged() && !options.no_privileged;
    prepare(use_root)?;
    let started = Instant::now();
    let mut steps = Steps { steps: Vec::new() };
    steps.cargo("format", &["fmt", "--all", "--check"]);
    steps.cargo(
        "lint",
        &[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    );
    if options.quick {
        steps.skip("documentation", "--quick");
    } else {
        let mut doc = cargo(&["doc", "--release", "--workspace", "--no-deps", "--quiet"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        steps.command("documentation", doc);
    }
    // The end-to-end tests start the programs of this build.
    let built = steps.cargo("build", &["build", "--release", "--workspace"]);
    if built {
        let mut test = cargo(&["test", "--release", "--workspace", "--no-fail-fast"]);
        // What one commit passes it must pass again; `cargo test` by itself draws new cases each time.
        test.env("PROPTEST_RNG_SEED", "20261121");
        if options.no_privileged {
            test.env("CHAFF_UNPRIVILEGED", "1");
        }
        if options.quick {
            test.env("CHAFF_QUICK", "1");
        }
        steps.tests(test);
    } else {
        steps.skip("tests", "the build failed");
    }
    ebpf(&mut steps, options, use_root);
    demo(&mut steps, options, use_root, built);
    report(&steps.steps, started.elapsed())
}

/// Installs packages when root; without root, only what the build cannot do without is demanded.
fn prepare(use_root: bool) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    if use_root {
        packages::ensure(packages::NETNS)?;
        packages::ensure(packages::TUNNEL)?;
        if let Err(error) = packages::ensure(packages::DEMO) {
            eprintln!("without the picture as PNG: {error:#}");
        }
        if let Err(error) = packages::ensure(packages::OPTIONAL) {
            eprintln!("without the tests of optional libraries: {error:#}");
        }
    }
    Ok(())
}

/// Rebuilds the kernel program and compares it with the committed one, where its tools can be had.
fn ebpf(steps: &mut Steps, options: Options, use_root: bool) {
    const NAME: &str = "eBPF rebuild";
    if options.quick || !use_root {
        let why = if options.quick {
            "--quick"
        } else {
            "needs root for its packages"
        };
        return steps.skip(NAME, why);
    }
    steps.task(NAME, &["build-ebpf", "--check"]);
}

/// Runs the README's other command for a few seconds, in namespaces with root and in virtual time without.
fn demo(steps: &mut Steps, options: Options, use_root: bool, built: bool) {
    const NAME: &str = "demo";
    if options.quick || !built {
        return steps.skip(NAME, if built { "--quick" } else { "the build failed" });
    }
    let mut arguments = vec!["demo", "--duration", "15", "--out", "out/test-demo"];
    if !use_root {
        arguments.push("--no-privileged");
    }
    steps.task(NAME, &arguments);
}

struct Steps {
    steps: Vec<Step>,
}

impl Steps {
    fn cargo(&mut self, name: &'static str, arguments: &[&str]) -> bool {
        self.command(name, cargo(arguments))
    }

    /// Runs another task of this program.
    fn task(&mut self, name: &'static str, arguments: &[&str]) {
        match std::env::current_exe() {
            Ok(program) => {
                // The build may have replaced this very program: then the kernel says that its file is deleted.
                let shown = program.to_string_lossy().into_owned();
                let program = shown.strip_suffix(" (deleted)").unwrap_or(&shown);
                let mut command = Command::new(program);
                command.args(arguments).current_dir(root());
                self.command(name, command);
            }
            Err(error) => self.end(name, Outcome::Failed(error.to_string()), Duration::ZERO),
        }
    }

    /// Runs a step with its output on this terminal; returns whether it passed.
    fn command(&mut self, name: &'static str, mut command: Command) -> bool {
        eprintln!("\n== {name}: {}", command::shown(&command));
        let started = Instant::now();
        let outcome = match command.status() {
            Ok(status) if status.success() => Outcome::Passed,
            // Chaff's own programs say by this code that the machine lacks something.
            Ok(status) if status.code() == Some(MISSING) => {
                Outcome::Skipped("this machine lacks something, see above".to_owned())
            }
            Ok(status) => Outcome::Failed(status.to_string()),
            Err(error) => Outcome::Failed(format!("cannot start: {error}")),
        };
        let passed = outcome == Outcome::Passed;
        self.end(name, outcome, started.elapsed());
        passed
    }

    /// Runs all tests, and integration tests that failed once more without the others: they start real programs in real
    /// namespaces, and a machine that others use too may stand still at the wrong moment. What fails twice has failed.
    fn tests(&mut self, mut command: Command) {
        const NAME: &str = "tests";
        eprintln!("\n== {NAME}: {}", command::shown(&command));
        let started = Instant::now();
        let mut failed = Vec::new();
        let done = command
            .stderr(Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                if let Some(stderr) = child.stderr.take() {
                    for line in BufReader::new(stderr).lines() {
                        let line = line?;
                        eprintln!("{line}");
                        failed.extend(failed_target(&line));
                    }
                }
                child.wait()
            });
        let outcome = match done {
            Ok(status) if status.success() => Outcome::Passed,
            Ok(status) => match failed.iter().cloned().collect::<Option<Vec<String>>>() {
                Some(names) if (1..=MOST_AGAIN).contains(&names.len()) && self.pass(&names) => {
                    Outcome::PassedAlone(format!("only when run alone: {}", names.join(", ")))
                }
                _ => Outcome::Failed(status.to_string()),
            },
            Err(error) => Outcome::Failed(format!("cannot start: {error}")),
        };
        self.end(NAME, outcome, started.elapsed());
    }

    /// Whether these integration tests pass.
    fn pass(&self, names: &[String]) -> bool {
        let mut again = cargo(&["test", "--release", "--workspace", "--no-fail-fast"]);
        for name in names {
            again.args(["--test", name]);
        }
        eprintln!("\n== once more: {}", command::shown(&again));
        again.status().is_ok_and(|status| status.success())
    }

    fn skip(&mut self, name: &'static str, why: &str) {
        self.end(name, Outcome::Skipped(why.to_owned()), Duration::ZERO);
    }

    fn end(&mut self, name: &'static str, outcome: Outcome, took: Duration) {
        let step = Step {
            name,
            outcome,
            took,
        };
        eprint!("{}", row(&step));
        self.steps.push(step);
    }
}

/// Integration tests of different packages that are run again at most; more failures are no accident.
const MOST_AGAIN: usize = 3;

/// What a line of cargo's list of failed targets names: an integration test, or (`Some(None)`) something else, which no load on
/// the machine excuses.
fn failed_target(line: &str) -> Option<Option<String>> {
    let target = line.strip_prefix("    `-p ")?.strip_suffix('`')?;
    let test = target
        .split_once(" --test ")
        .map(|(_, name)| name.to_owned());
    Some(test)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

fn row(step: &Step) -> String {
    let (verdict, detail) = match &step.outcome {
        Outcome::Passed => ("passed", ""),
        Outcome::PassedAlone(which) => ("passed", which.as_str()),
        Outcome::Failed(why) => ("FAILED", why.as_str()),
        Outcome::Skipped(why) => ("skipped", why.as_str()),
    };
    let line = format!(
        "{:<15}{verdict:<9}{:>7.1} s  {detail}",
        step.name,
        step.took.as_secs_f64()
    );
    format!("{}\n", line.trim_end())
}

fn report(steps: &[Step], took: Duration) -> Result<()> {
    let mut table = String::from("\n");
    for step in steps {
        table.push_str(&row(step));
    }
    writeln!(table, "{:<24}{:>7.1} s", "all", took.as_secs_f64())?;
    eprint!("{table}");
    let failed: Vec<_> = steps
        .iter()
        .filter(|s| matches!(s.outcome, Outcome::Failed(_)))
        .map(|s| s.name)
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Stop::Check.error(format_args!("failed: {}", failed.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_fails_the_run_and_a_skipped_one_does_not() {
        let step = |outcome| Step {
            name: "step",
            outcome,
            took: Duration::from_millis(1500),
        };
        let skipped = step(Outcome::Skipped("no root".to_owned()));
        assert_eq!(
            row(&skipped),
            "step           skipped      1.5 s  no root\n"
        );
        assert!(report(&[step(Outcome::Passed), skipped], Duration::ZERO).is_ok());
        let failed = [
            step(Outcome::Passed),
            step(Outcome::Failed("exit 1".to_owned())),
        ];
        let error = report(&failed, Duration::ZERO).unwrap_err();
        assert_eq!(error.downcast_ref::<Stop>(), Some(&Stop::Check));
    }

    #[test]
    fn failed_targets_are_read_from_cargos_list() {
        let line = "    `-p chaff-gateway --test meter_interface`";
        assert_eq!(
            failed_target(line),
            Some(Some("meter_interface".to_owned()))
        );
        assert_eq!(failed_target("    `-p chaff-flow --lib`"), Some(None));
        assert_eq!(failed_target("error: 1 target failed:"), None);
    }

    #[test]
    fn a_program_that_cannot_start_is_a_failed_step() {
        let mut steps = Steps { steps: Vec::new() };
        assert!(!steps.command("missing", Command::new("no-such-program")));
        assert!(matches!(&steps.steps[0].outcome, Outcome::Failed(why) if why.contains("start")));
    }
}
