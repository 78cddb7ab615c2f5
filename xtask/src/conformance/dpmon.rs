//! Exact answers and errors of `query` against DPMon's questions, by the example program `dpmon` of the query crate: only a
//! build with the feature `exact` can leave noise out, and the program `query` is never built with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{Stop, output};
use crate::root;

/// Builds the example and runs it over a folder with `expected.json`.
///
/// # Errors
/// [`Stop::Check`] when an answer differs or an error is not the published one; else when it cannot run.
pub(super) fn run(set: &Path, runs: u32) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The whole workspace's choice of features, so that the query engine is built once.
    cargo
        .args(["build", "--quiet", "--release", "--workspace"])
        .args(["--example", "dpmon", "--features", "chaff-query/exact"])
        .current_dir(root());
    output(cargo)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let status = Command::new(target.join("release/examples/dpmon"))
        .arg(set)
        .arg(runs.to_string())
        .status()
        .context("while starting the example dpmon")?;
    match status.code() {
        Some(0) => Ok(()),
        Some(1) => Err(Stop::Check.error("answers or errors differ")),
        _ => Err(Stop::Usage.error(format_args!("dpmon: {status}"))),
    }
}
