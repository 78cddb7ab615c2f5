//! `gateway simulate`: captures through the gateway and sink in virtual time.

mod args;
mod fit;
mod observer;
mod report;
mod scene;
mod tunnel;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, bail};
use chaff_abi::Nanos;
use chaff_engine::Device;

pub use self::args::{Args, ModeArg};
use self::report::summary;
use self::scene::Scene;
use crate::captures::{self, Home};
use crate::config::read_devices;

/// Unix time of virtual time zero: fixed, so that runs repeat.
const UNIX_START: Nanos = Nanos::from_secs(1_700_000_000);

/// Runs the command.
///
/// # Errors
/// An input cannot be used or an output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.check()?;
    let listed = args.devices.as_deref().map(devices_of).transpose()?;
    let mut limits = captures::Limits::default();
    let longest = limits.longest.unwrap_or(Nanos::MAX);
    if args.duration.is_some() {
        limits.longest = None;
    }
    let mut home = captures::load_with(&args.pcap, draw(args)?, listed, &limits)?;
    keep_present(&mut home);
    if args.mode == ModeArg::Tunnel {
        // Both ends tell devices and servers, by the maximum segment size of TCP.
        fit::fit(&mut home, chaff_tunnel::Config::default().mtu);
    }
    let start = Nanos::from_secs_f64(args.start);
    let last = home.frames.last().map_or(Nanos::ZERO, |f| f.at);
    let end = match args.duration {
        Some(s) => Nanos::from_secs_f64(s),
        None if start > longest => bail!(
            "--start is {}, allowed is 0 to {} without --duration",
            args.start,
            longest.as_secs_f64()
        ),
        None => start + last + Nanos::from_secs(5),
    };
    home.check_on_the_way(args.wan_delay(), end - start, captures::MAX_ON_THE_WAY)?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("while creating {}", args.out.display()))?;
    let home = Rc::new(home);
    let scene = Scene::build(args, &home, start, end)?;
    let report = scene.run(args, &home, end)?;
    let text = serde_json::to_string_pretty(&report)?;
    let path = args.out.join("report.json");
    std::fs::write(&path, &text).with_context(|| format!("while writing {}", path.display()))?;
    if args.json {
        println!("{text}");
    }
    if args.devices.is_none() {
        let names = report.devices.join(", ");
        eprintln!(
            "no --devices: found {} by their local addresses: {names}",
            report.devices.len()
        );
    }
    summary(&report, &args.out);
    Ok(if report.checks.hold() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// The capture that `--synthetic` asks for.
fn draw(args: &Args) -> anyhow::Result<Option<(PathBuf, Vec<u8>)>> {
    let Some(path) = &args.synthetic else {
        return Ok(None);
    };
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("while reading {name}"))?;
    let model = chaff_synth::load(&bytes).with_context(|| format!("in {name}"))?;
    let records = args.records.map(|n| n as usize);
    let frames = chaff_synth::draw_frames(model.as_ref(), records, args.seed)
        .with_context(|| format!("while drawing from {name}"))?;
    Ok(Some((path.clone(), frames)))
}

/// The device list of a CSV file.
///
/// # Errors
/// As [`read_devices`].
pub fn devices_of(path: &Path) -> anyhow::Result<Vec<Device>> {
    let entries = read_devices(path)?;
    let file = crate::config::File {
        devices: entries,
        ..Default::default()
    };
    file.engine_devices()
}

/// Drops listed devices that the captures do not hold, so that a list of all devices can be given with one capture.
fn keep_present(home: &mut Home) {
    let mut present = vec![false; home.devices.len() + 1];
    for f in &home.frames {
        present[f.device] = true;
    }
    let mut index = vec![0; present.len()];
    let mut next = 0;
    for i in 1..present.len() {
        if present[i] {
            next += 1;
            index[i] = next;
        }
    }
    let mut i = 0;
    home.devices.retain(|_| {
        i += 1;
        present[i]
    });
    for f in &mut home.frames {
        f.device = index[f.device];
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    )
}
