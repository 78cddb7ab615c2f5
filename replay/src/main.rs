//! The program `replay`: command line, progress bar, exit code.
mod cli;

use std::io::Write;
use std::process::ExitCode;

use chaff_replay::{Observer, ReplayError, Report, run, sys};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

fn main() -> ExitCode {
    let args = cli::Args::parse();
    match replay(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("replay: {}", chain(&e));
            if let Some(remedy) = e.remedy() {
                eprintln!("hint: {remedy}");
            }
            ExitCode::from(e.exit_code())
        }
    }
}

/// Returns whether all checks passed.
fn replay(args: &cli::Args) -> Result<bool, ReplayError> {
    let options = args.options()?;
    sys::catch_interrupts();
    let mut screen = Screen {
        quiet: args.quiet,
        verbose: args.verbose,
        bar: ProgressBar::hidden(),
    };
    let report = run(&options, &mut screen);
    screen.bar.finish_and_clear();
    let report = report?;
    show(args, &report)?;
    // Echoes of datagrams are always counted, but only asked-for checks decide.
    Ok(report.is_clean() || !options.verify)
}

fn show(args: &cli::Args, report: &Report) -> Result<(), ReplayError> {
    let json = || serde_json::to_string_pretty(report).expect("the report has string keys only");
    let write_error = |file: &std::path::Path, source| ReplayError::Write {
        file: file.to_owned(),
        source,
    };
    if let Some(file) = args.stats.as_deref().filter(|f| f.as_os_str() != "-") {
        std::fs::write(file, json() + "\n").map_err(|e| write_error(file, e))?;
    }
    let to_stdout = args.json || args.stats.as_ref().is_some_and(|f| f.as_os_str() == "-");
    let mut out = std::io::stdout().lock();
    let done = if to_stdout {
        writeln!(out, "{}", json())
    } else {
        write!(out, "{report}")
    };
    match done {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(write_error("standard output".as_ref(), e))
        }
        _ => Ok(()),
    }
}

/// The error and its causes in one line, without repetitions.
fn chain(e: &ReplayError) -> String {
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

struct Screen {
    quiet: bool,
    verbose: bool,
    bar: ProgressBar,
}

impl Observer for Screen {
    fn note(&mut self, line: &str) {
        if !self.quiet {
            self.bar.suspend(|| eprintln!("replay: {line}"));
        }
    }

    fn detail(&mut self, line: &str) {
        if self.verbose {
            self.note(line);
        }
    }

    fn start(&mut self, total: Option<u64>) {
        if self.quiet {
            return;
        }
        // Draws on a terminal only.
        let (bar, form) = match total {
            Some(n) => (
                ProgressBar::new(n),
                "{bar:40} {pos}/{len} packets, {per_sec}, {eta} left",
            ),
            None => (
                ProgressBar::no_length(),
                "{spinner} {pos} packets, {per_sec}, {elapsed}",
            ),
        };
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        self.bar = bar;
    }

    fn progress(&mut self, sent: u64) {
        self.bar.set_position(sent);
    }
}
