//! One program, run to its end, and what it used.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use crate::command;

/// What `measure` takes. It is a process of its own, so that the system's account of finished children is that of one
/// program: CPU time with all descendants that were waited for, and the peak memory of the largest of them.
#[derive(clap::Args, Clone, Debug)]
pub struct Measured {
    /// Where the program's standard output goes.
    #[arg(long)]
    stdout: PathBuf,
    /// Where its standard error goes.
    #[arg(long)]
    stderr: PathBuf,
    /// In a network namespace of its own, where only loopback is. Needs root.
    #[arg(long)]
    alone: bool,
    /// Program and arguments.
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

/// What a program used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Used {
    /// Exit code; -1 for a signal.
    pub(crate) code: i32,
    /// Seconds from start to end.
    pub(crate) wall_s: f64,
    /// User and system time, seconds.
    pub(crate) cpu_s: f64,
    /// Largest resident memory of one process, bytes.
    pub(crate) peak_bytes: u64,
}

impl Measured {
    /// Runs the program and prints what it used as JSON.
    ///
    /// # Errors
    /// When it cannot be started; how it ends is part of what is printed.
    pub fn run(&self) -> Result<()> {
        if self.alone {
            unshare(CloneFlags::CLONE_NEWNET).context("while making a network namespace")?;
            command::run("ip link set lo up")?;
        }
        let create = |path: &PathBuf| {
            File::create(path).with_context(|| format!("while making {}", path.display()))
        };
        let (program, arguments) = self.program.split_first().context("no program")?;
        let mut run = Command::new(program);
        run.args(arguments)
            .stdin(Stdio::null())
            .stdout(create(&self.stdout)?)
            .stderr(create(&self.stderr)?);
        let before = usage()?;
        let started = Instant::now();
        let status = run
            .status()
            .with_context(|| format!("while starting `{}`", command::shown(&run)))?;
        let wall_s = started.elapsed().as_secs_f64();
        let after = usage()?;
        let used = Used {
            code: status.code().unwrap_or(-1),
            wall_s,
            cpu_s: cpu(&after) - cpu(&before),
            peak_bytes: u64::try_from(after.max_rss()).unwrap_or(0) * 1024,
        };
        println!("{}", serde_json::to_string(&used)?);
        Ok(())
    }
}

fn usage() -> Result<Usage> {
    getrusage(UsageWho::RUSAGE_CHILDREN).context("while asking what the program used")
}

fn cpu(usage: &Usage) -> f64 {
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}
