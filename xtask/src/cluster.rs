//! `query-cluster`, a workspace of its own because its query engine takes longer to build than all of Chaff: built, tested.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{self, Stop};
use crate::{packages, root};

/// What `cluster` takes.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Options {
    /// Builds the program only.
    #[arg(long, conflicts_with = "lint")]
    build: bool,
    /// Lints as well, which checks the engine a second time: some minutes.
    #[arg(long)]
    lint: bool,
}

/// Builds and tests the program.
///
/// # Errors
/// [`Stop::Check`] when it does not build or a test fails, [`Stop::Privilege`] when the machine lacks a package and it cannot
/// be installed.
pub fn run(options: Options) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    if options.build {
        return cargo(&["build", "--release"]);
    }
    cargo(&["fmt", "--check"])?;
    if options.lint {
        cargo(&[
            "clippy",
            "--release",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])?;
    }
    cargo(&["test", "--release", "--no-fail-fast"])
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .args(arguments)
        .current_dir(root().join("query-cluster"));
    let shown = command::shown(&command);
    eprintln!("{shown}");
    let status = command.status().with_context(|| shown.clone())?;
    if status.success() {
        return Ok(());
    }
    Err(Stop::Check.error(format_args!("{shown}: {status}")))
}
