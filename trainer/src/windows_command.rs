//! The command `trainer windows`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use chaff_abi::Nanos;
use clap::{Args, ValueEnum};

use crate::captures;
use crate::cover::stream;
use crate::devices::{Devices, Home};
use crate::ipet;
use crate::ipet_command::{bar, devices};
use crate::traces;
use crate::windows::{COLUMNS, Cutter, Shape};

/// Which numbers windows hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WindowProfile {
    /// Slots in exact nanoseconds.
    Native,
    /// iPET's arithmetic, to the last bit.
    Ipet,
}

/// `trainer windows`.
#[derive(Args)]
#[command(after_long_help = "Examples:\n  \
    trainer windows --pcap captures/ --devices devices.csv --output windows/\n  \
    trainer windows --profile ipet --pcap captures/ --devices devices.csv --home 192 --output windows/\n  \
    trainer windows --profile ipet --ipet-traces day1.csv day2.csv --ipet-devices devices.csv --output windows/")]
pub struct Windows {
    /// Captures (pcap, pcapng), or folders with captures below them.
    #[arg(long, num_args = 1.., required_unless_present = "ipet_traces")]
    pcap: Vec<PathBuf>,
    /// Devices: comma-separated, columns device, mac, ip, label.
    #[arg(long, requires = "pcap")]
    devices: Option<PathBuf>,
    /// Trace tables of iPET: raw days, or one file a device with transport.len.
    #[arg(long, num_args = 1.., conflicts_with = "pcap")]
    ipet_traces: Vec<PathBuf>,
    /// iPET's list of devices (tab-separated, IPs joined by `::`), for raw days.
    #[arg(long, requires = "ipet_traces")]
    ipet_devices: Option<PathBuf>,
    /// What belongs to the home: `private`, a network such as 10.0.0.0/8 or the home's public IPv6 prefix, or the beginning of an
    /// address; several separated by commas. Default private, with the profile ipet 192.
    #[arg(long)]
    home: Option<Home>,
    /// Whose arithmetic.
    #[arg(long, value_enum, default_value = "native")]
    profile: WindowProfile,
    /// Length of a window, seconds.
    #[arg(long, default_value_t = 4.0)]
    total_time: f64,
    /// Length of a slot, seconds.
    #[arg(long, default_value_t = 0.1)]
    omega: f64,
    /// Captures: use the first seconds of a session only; default: all of it.
    #[arg(long, default_value_t = f64::INFINITY, hide_default_value = true, conflicts_with = "ipet_traces")]
    max_seconds: f64,
    /// Folder for windows.npy (windows x slots x 4: incoming packets and bytes, outgoing packets and bytes), silence.npy and
    /// windows.csv (label, device, session, number in the session).
    #[arg(long)]
    output: PathBuf,
}

/// What to say of listed devices whose addresses are not those of the home: hardly any of their packets count.
fn outside(devices: &Devices, home: &Home) -> Option<String> {
    let listed = || devices.list().iter().filter(|d| !d.ips.is_empty());
    let away: Vec<&str> = listed()
        .filter(|d| !d.ips.iter().any(|ip| home.contains(*ip)))
        .map(|d| d.name.as_str())
        .collect();
    (!away.is_empty()).then(|| {
        format!(
            "{} of {} listed devices have no address that belongs to the home, {home}: {}{}; see --home",
            away.len(),
            listed().count(),
            away[..away.len().min(5)].join(", "),
            if away.len() > 5 { ", ..." } else { "" }
        )
    })
}

/// Runs `trainer windows`.
///
/// # Errors
/// For usage, input or output.
pub fn run(args: &Windows) -> Result<()> {
    let ipet = args.profile == WindowProfile::Ipet;
    traces::check_seconds(args.max_seconds)?;
    let home = match &args.home {
        Some(home) => home.clone(),
        None if ipet || args.pcap.is_empty() => Home::Text("192".to_owned()),
        None => Home::Private,
    };
    let traces = if args.pcap.is_empty() {
        let Home::Text(prefix) = &home else {
            bail!("--home: with --ipet-traces only the beginning of an address");
        };
        let hosts = match &args.ipet_devices {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("while reading {}", path.display()))?;
                Some(ipet::hosts(&text).with_context(|| format!("in {}", path.display()))?)
            }
        };
        ipet::from_tables(&args.ipet_traces, hosts.as_ref(), prefix)?
    } else {
        let files = captures::find(&args.pcap)?;
        let devices = devices(args.devices.as_deref(), &files)?;
        let reading = bar(files.len() as u64, "captures")?;
        let mut notes = Vec::new();
        let found = ipet::from_captures(
            &files,
            &devices,
            &home,
            args.max_seconds,
            &mut notes,
            &mut || reading.inc(1),
        )?;
        reading.finish_and_clear();
        notes.extend(outside(&devices, &home));
        notes.iter().for_each(|n| eprintln!("note: {n}"));
        found
    };
    let (mut all, mut names) = (Vec::new(), String::from("label,device,session,window\n"));
    for t in &traces {
        let windows = if ipet {
            ipet::windows(&t.packets, args.total_time, args.omega)?
        } else {
            let shape = Shape::new(args.omega, args.total_time)?;
            let mut cutter = Cutter::new(shape, usize::MAX);
            let mut rng = stream(0, "unused: nothing is left out");
            for &(seconds, dir, bytes) in &t.packets {
                cutter.push(
                    Nanos((seconds * 1e9).round() as u64),
                    dir,
                    bytes.max(0.0) as u32,
                    &mut rng,
                );
            }
            cutter.finish(&mut rng)
        };
        for w in &windows {
            names.push_str(&format!(
                "{},{},{},{}\n",
                t.label, t.device, t.session, w.index
            ));
        }
        all.extend(windows);
    }
    if all.is_empty() {
        bail!(
            "no window: no TCP or UDP packet with payload between a listed device and the world outside the home, which is {home}; see --home"
        );
    }
    let rows = all[0].slots.len() / COLUMNS;
    std::fs::create_dir_all(&args.output)
        .with_context(|| format!("while making {}", args.output.display()))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = args.output.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("while writing {}", path.display()))
    };
    let numbers = all
        .iter()
        .flat_map(|w| w.slots.iter().map(|v| f64::from(*v)));
    write(
        "windows.npy",
        &ipet::npy(&[all.len(), rows, COLUMNS], numbers),
    )?;
    write(
        "silence.npy",
        &ipet::npy(&[all.len()], all.iter().map(|w| w.silence)),
    )?;
    write("windows.csv", names.as_bytes())?;
    println!(
        "{} windows of {rows} slots from {} traces",
        all.len(),
        traces.len()
    );
    Ok(())
}
