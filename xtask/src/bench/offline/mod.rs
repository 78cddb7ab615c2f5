//! Offline metering: `gateway meter` and its peers on one capture that the project makes, by CPU time and memory.
//!
//! Every contender is a whole process. Rounds take turns; medians count. What each made is looked at after its first run, so
//! that nobody is fast by doing less: packets, flows, and for NFStream's profile equality byte for byte.

mod capture;
mod contender;
mod programs;
mod ratios;
mod report;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use self::contender::remove;
use super::Options;
use crate::command;
use crate::root;

/// Runs the benchmark; gives the number of missed bars.
///
/// # Errors
/// When the capture cannot be made or a contender of ours fails.
pub(super) fn run(options: &Options) -> Result<u32> {
    let folder = root().join("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("while making {}", folder.display()))?;
    let (capture, packets) = match &options.pcap {
        Some(path) => (path.clone(), capture::count(path)?),
        None => capture::make(&folder, options)?,
    };
    let mut contenders = programs::contenders(options, &folder, &capture)?;
    if let Some(text) = &options.only {
        contenders.retain(|c| c.name.contains(text.as_str()));
    }
    for round in 0..options.rounds {
        for contender in contenders.iter_mut().filter(|c| c.missing.is_none()) {
            eprintln!(
                "round {} of {}: {}",
                round + 1,
                options.rounds,
                contender.name
            );
            if let Err(error) = contender.run(&folder, round == 0) {
                eprintln!("  `{}` {error:#}", contender.command.join(" "));
                contender.missing = Some(format!("{error:#}"));
            }
        }
    }
    report::same_values(&contenders);
    let missed = if options.json {
        let (value, missed) = report::as_json(&contenders, packets);
        println!("{value}");
        missed
    } else {
        report::table(&contenders, packets);
        report::bars(&contenders)
    };
    for contender in &contenders {
        let _ = remove(&contender.output);
    }
    Ok(missed)
}

/// The gateway that is measured, built where none is named.
pub(super) fn gateway(options: &Options) -> Result<PathBuf> {
    if let Some(path) = &options.gateway {
        return Ok(path.clone());
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "chaff-gateway",
    ]);
    let text = command::shown(&cargo);
    let status = cargo.current_dir(root()).status()?;
    ensure!(status.success(), "`{text}`: {status}");
    Ok(root().join("target/release/gateway"))
}
