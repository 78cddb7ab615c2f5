//! iPET's own numbers: its reading of traces, its windows, slot by slot.
//!
//! Rules as the published program has them (see `docs/training.md` for the list of what differs from Chaff's own windows):
//! a packet counts when exactly one end starts with the home's prefix, when it is TCP or UDP, and when its payload is not
//! empty; times are floating-point seconds since the file's first frame; a window starts with a packet, and the first packet at
//! or after `start + total_time` starts the next one; a slot is Python's `(t - start) // omega`; the silence is the
//! time since the packet before the window, 0 for the first; there are `int(total_time / omega)` slots.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_abi::{Dir, Nanos};
use chaff_trace::Reader;

use crate::captures::{TCP, UDP, packets};
use crate::devices::{Devices, Home, Scope};
use crate::sessions::{self, Copies, Session, tell_apart};
use crate::windows::{COLUMNS, Window};

/// Longest window, slots.
const MAX_ROWS: usize = 10_000;
/// Longest line of a trace table, bytes.
const MAX_LINE: u64 = 65_536;

/// A packet of a [`Timed`] trace: seconds, direction, payload in bytes (negative where iPET's arithmetic makes it so).
pub type Packet = (f64, Dir, f64);

/// A device's packets in one file, seconds since the file's first frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// Label of the device.
    pub label: String,
    /// Name of the device.
    pub device: String,
    /// Name of the file without its ending.
    pub session: String,
    /// In the file's order.
    pub packets: Vec<Packet>,
}

impl Session for Timed {
    fn file_name(&self) -> String {
        format!("{}__{}__{}.csv", self.label, self.device, self.session)
    }

    fn session(&mut self) -> &mut String {
        &mut self.session
    }
}

/// Reads captures: a trace for each device and file, up to `max_seconds` after its first packet, without those that are the same as
/// one of another file.
///
/// # Errors
/// When a file cannot be opened or is no capture; damage later in a file ends it, with a line in `notes`.
pub fn from_captures(
    files: &[PathBuf],
    devices: &Devices,
    home: &Home,
    max_seconds: f64,
    notes: &mut Vec<String>,
    tick: &mut dyn FnMut(),
) -> Result<Vec<Timed>> {
    let (mut traces, mut folders) = (Vec::new(), Vec::new());
    let mut copies = Copies::default();
    for file in files {
        let folder = sessions::folder(file);
        let first = first_frame(file)?;
        let mut found: BTreeMap<usize, Vec<(Nanos, Dir, u32)>> = BTreeMap::new();
        packets(file, notes, &mut |at, p| {
            let (from, to) = (p.key.source(), p.key.destination());
            let out = home.contains(from);
            if out == home.contains(to)
                || !matches!(p.key.protocol, TCP | UDP)
                || p.sample.payload == 0
            {
                return;
            }
            for (device, dir) in devices.find(p, folder, Scope::All).into_iter().flatten() {
                if (dir == Dir::Out) == out {
                    found
                        .entry(device)
                        .or_default()
                        .push((at, dir, p.sample.payload));
                }
            }
        })?;
        for (device, mut packets) in found {
            let start = packets[0].0;
            packets.retain(|p| p.0.since(start).as_secs_f64() <= max_seconds);
            let numbers = |p: &(Nanos, Dir, u32)| {
                let since = p.0.0.wrapping_sub(start.0);
                [since, u64::from(p.1 == Dir::Out), p.2.into()]
            };
            if copies.has(device, packets.iter().map(numbers)) {
                continue;
            }
            let device = &devices.list()[device];
            // Seconds as tshark prints them: decimal, so rounded once.
            let timed = |(at, dir, bytes): (Nanos, Dir, u32)| {
                (at.since(first).as_secs_f64(), dir, f64::from(bytes))
            };
            traces.push(Timed {
                label: device.label.clone(),
                device: device.name.clone(),
                session: sessions::stem(file),
                packets: packets.into_iter().map(timed).collect(),
            });
            folders.push(folder.to_owned());
        }
        copies.note(file, notes);
        tick();
    }
    tell_apart(&mut traces, &folders);
    Ok(traces)
}

fn first_frame(file: &Path) -> Result<Nanos> {
    let input = File::open(file).with_context(|| format!("while opening {}", file.display()))?;
    let mut reader =
        Reader::new(input).with_context(|| format!("while reading {}", file.display()))?;
    let frame = reader.next(&mut Vec::new());
    Ok(frame.ok().flatten().map_or(Nanos::ZERO, |f| f.at))
}

/// Devices of iPET's tab-separated list: index, Device, MAC ADDRESS, IPs (joined by `::`), Hostname. Gives address to hostname.
///
/// # Errors
/// When a column is missing; the text names it.
pub fn hosts(text: &str) -> Result<BTreeMap<String, String>> {
    let mut lines = text.trim_start_matches('\u{feff}').lines();
    let header: Vec<&str> = lines
        .next()
        .unwrap_or("")
        .split('\t')
        .map(str::trim)
        .collect();
    let column = |name: &str| {
        header
            .iter()
            .position(|c| c.eq_ignore_ascii_case(name))
            .with_context(|| format!("line 1: no column `{name}`; wanted a tab-separated header with IPs and Hostname"))
    };
    let (ips, host) = (column("IPs")?, column("Hostname")?);
    let mut out = BTreeMap::new();
    for line in lines.filter(|l| !l.trim().is_empty()) {
        let cells: Vec<&str> = line.split('\t').map(str::trim).collect();
        let (Some(ips), Some(host)) = (cells.get(ips), cells.get(host)) else {
            continue;
        };
        for ip in ips.split("::").filter(|ip| !ip.is_empty()) {
            out.entry(ip.to_owned())
                .or_insert_with(|| (*host).to_owned());
        }
    }
    Ok(out)
}

/// Reads iPET's trace tables, tab- or comma-separated, columns by name: the raw days (`frame.time_relative`, `ip.src`, `ip.dst`, `ip.proto`,
/// `tcp.len`, `udp.length`) and those already split by device, which carry `transport.len`.
///
/// The device is found by address in `hosts`; without `hosts` a file is one device's, named as in `day_2_HOST.csv` or by the file. An
/// address must be equal (iPET searches it as a pattern, so that 192.168.1.1 finds 192.168.1.196 too).
///
/// # Errors
/// When a file cannot be read, lacks a column or has a value out of range.
pub fn from_tables(
    files: &[PathBuf],
    hosts: Option<&BTreeMap<String, String>>,
    prefix: &str,
) -> Result<Vec<Timed>> {
    let mut out = Vec::new();
    for file in files {
        let input =
            File::open(file).with_context(|| format!("while opening {}", file.display()))?;
        let session = sessions::stem(file);
        let own = session
            .strip_prefix("day_")
            .and_then(|rest| rest.split_once('_'))
            .map_or(session.as_str(), |(_, host)| host);
        let found = table(BufReader::new(input), own, hosts, prefix)
            .with_context(|| format!("in {}", file.display()))?;
        out.extend(found.into_iter().map(|(device, packets)| Timed {
            label: device.clone(),
            device,
            session: session.clone(),
            packets,
        }));
    }
    Ok(out)
}

fn table(
    mut input: impl BufRead,
    own: &str,
    hosts: Option<&BTreeMap<String, String>>,
    prefix: &str,
) -> Result<BTreeMap<String, Vec<Packet>>> {
    let mut line = String::new();
    Read::take(&mut input, MAX_LINE).read_line(&mut line)?;
    let header = line.trim_end().trim_start_matches('\u{feff}').to_owned();
    let mark = if header.contains('\t') { '\t' } else { ',' };
    let names: Vec<&str> = header
        .split(mark)
        .map(|c| c.trim().trim_matches('"'))
        .collect();
    let column = |name: &str| names.iter().position(|c| *c == name);
    let need = |name: &str| column(name).with_context(|| format!("line 1: no column `{name}`"));
    let (time, from, to, protocol) = (
        need("frame.time_relative")?,
        need("ip.src")?,
        need("ip.dst")?,
        need("ip.proto")?,
    );
    let length = column("transport.len");
    let (tcp, udp) = match length {
        Some(at) => (at, at),
        None => (need("tcp.len")?, need("udp.length")?),
    };
    let mut out: BTreeMap<String, Vec<Packet>> = BTreeMap::new();
    for number in 2u64.. {
        line.clear();
        if Read::take(&mut input, MAX_LINE)
            .read_line(&mut line)
            .with_context(|| format!("line {number}"))?
            == 0
        {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        let cells: Vec<&str> = line.trim_end_matches(['\r', '\n']).split(mark).collect();
        let cell = |at: usize| cells.get(at).map_or("", |c| c.trim().trim_matches('"'));
        // A tunnelled or ICMP-quoted packet has several addresses; the outer one is meant.
        let outer = |at: usize| cell(at).split(',').next().unwrap_or("");
        let leaves = outer(from).starts_with(prefix);
        let protocol: f64 = outer(protocol).parse().unwrap_or(0.0);
        let is_udp = protocol == 17.0;
        if leaves == outer(to).starts_with(prefix) || !(is_udp || protocol == 6.0) {
            continue;
        }
        let seconds: f64 = match cell(time).parse() {
            Ok(t) if (0.0..=1e10).contains(&t) => t,
            _ => bail!(
                "line {number}: frame.time_relative is {:?}, wanted seconds",
                cell(time)
            ),
        };
        let place = if is_udp { udp } else { tcp };
        let found = match outer(place) {
            "" => -1.0,
            text => match text.parse::<f64>() {
                Ok(n) if (-1e9..=1e9).contains(&n) => n,
                _ => bail!("line {number}: {} is {text:?}, wanted bytes", names[place]),
            },
        };
        let bytes = if length.is_none() && is_udp {
            found - 8.0
        } else {
            found
        };
        if bytes == 0.0 {
            continue;
        }
        let dir = if leaves { Dir::Out } else { Dir::In };
        let device = match hosts {
            None => own,
            Some(hosts) => match hosts.get(outer(if leaves { from } else { to })) {
                Some(host) => host,
                None => continue,
            },
        };
        out.entry(device.to_owned())
            .or_default()
            .push((seconds, dir, bytes));
    }
    Ok(out)
}

/// Slots of a window: `int(total_time / omega)`, so 0.3 / 0.1 gives 2.
///
/// # Errors
/// Unless both are positive and give 1 to 10,000 slots.
pub fn rows(total: f64, omega: f64) -> Result<usize> {
    let rows = (total / omega) as usize;
    if !(total > 0.0 && omega > 0.0 && (1..=MAX_ROWS).contains(&rows)) {
        bail!("a window of {total} s with slots of {omega} s: allowed are 1 to {MAX_ROWS} slots");
    }
    Ok(rows)
}

/// Cuts a trace into windows, in order of time. Without packets there is none.
///
/// # Errors
/// As [`rows`].
pub fn windows(packets: &[Packet], total: f64, omega: f64) -> Result<Vec<Window>> {
    let rows = rows(total, omega)?;
    let Some(base) = packets.first().map(|p| p.0) else {
        return Ok(Vec::new());
    };
    let mut out: Vec<Window> = Vec::new();
    let (mut start, mut last) = (0.0, 0.0);
    for &(time, dir, bytes) in packets {
        let time = time - base;
        if out.is_empty() || time >= start + total {
            let silence = if out.is_empty() { 0.0 } else { time - last };
            start = time;
            out.push(Window {
                slots: vec![0.0; rows * COLUMNS],
                silence,
                index: out.len() as u64,
            });
        }
        last = time;
        let row = floor_divide(time - start, omega);
        if let Some(window) = out.last_mut()
            && (0.0..rows as f64).contains(&row)
        {
            let column = row as usize * COLUMNS + if dir == Dir::Out { 2 } else { 0 };
            window.slots[column] += 1.0;
            window.slots[column + 1] += bytes as f32;
        }
    }
    Ok(out)
}

/// Python's and NumPy's `a // b`: `(a - fmod(a, b)) / b`, rounded to the nearest whole number, so that 1.0 // 0.1 is 9.
fn floor_divide(a: f64, b: f64) -> f64 {
    let rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest != 0.0 && (b < 0.0) != (rest < 0.0) {
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return quotient;
    }
    let floor = quotient.floor();
    if quotient - floor > 0.5 {
        floor + 1.0
    } else {
        floor
    }
}

/// The bytes of a NumPy array of 64-bit floats (`.npy`, version 1.0).
pub fn npy(shape: &[usize], numbers: impl IntoIterator<Item = f64>) -> Vec<u8> {
    let sizes: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let mut header = format!(
        "{{'descr': '<f8', 'fortran_order': False, 'shape': ({}), }}",
        sizes.trim_end()
    );
    let padding = 64 - (10 + header.len() + 1) % 64;
    header.push_str(&" ".repeat(padding % 64));
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    numbers
        .into_iter()
        .for_each(|x| out.extend(x.to_le_bytes()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divides_as_python_does() {
        for (a, b, want) in [
            (1.0, 0.1, 9.0),
            (0.3, 0.1, 2.0),
            (0.1, 0.1, 1.0),
            (0.25, 0.1, 2.0),
            (3.9999, 0.1, 39.0),
            (0.0, 0.1, 0.0),
            (5.0, 0.5, 10.0),
        ] {
            assert_eq!(floor_divide(a, b), want, "{a} // {b}");
        }
        assert_eq!(rows(0.3, 0.1).expect("valid"), 2);
        assert_eq!(rows(4.0, 0.1).expect("valid"), 40);
        for (total, omega) in [
            (0.0, 0.1),
            (4.0, 0.0),
            (f64::NAN, 0.1),
            (0.1, 4.0),
            (1e9, 1.0),
        ] {
            assert!(rows(total, omega).is_err(), "{total} {omega}");
        }
    }

    #[test]
    fn windows_follow_packets_and_columns_are_incoming_first() {
        let packets = [
            (5.0, Dir::Out, 10.0),
            (6.0, Dir::In, 7.0),
            (9.0, Dir::Out, 3.0),
            (29.5, Dir::In, 1.0),
        ];
        let w = windows(&packets, 4.0, 0.1).expect("windows");
        assert_eq!(
            w.iter().map(|w| w.silence).collect::<Vec<_>>(),
            [0.0, 3.0, 20.5]
        );
        assert_eq!(w[0].slots[..4], [0.0, 0.0, 1.0, 10.0]);
        // 1.0 // 0.1 is 9.
        assert_eq!(w[0].slots[36..40], [1.0, 7.0, 0.0, 0.0]);
        assert!(windows(&[], 4.0, 0.1).expect("no packet").is_empty());
        assert_eq!(
            windows(&packets[..1], 4.0, 0.1).expect("one packet").len(),
            1
        );
    }

    #[test]
    fn reads_both_layouts() {
        let raw = "frame.number\tframe.time_relative\tip.src\tip.dst\tip.proto\ttcp.len\ttcp.stream\tudp.length\teth.src\teth.dst\n\
            1\t0.5\t192.168.1.7\t8.8.8.8\t17\t\t\t40\ta\tb\n\
            2\t0.6\t8.8.8.8\t192.168.1.7\t6\t0\t1\t\ta\tb\n\
            3\t0.7\t8.8.8.8\t192.168.1.8\t6\t5\t1\t\ta\tb\n\
            4\t0.8\t192.168.1.7\t192.168.1.8\t6\t5\t1\t\ta\tb\n\
            5\t0.9\t8.8.8.8\t192.168.1.7\t1\t\t\t\ta\tb\n";
        let hosts = hosts("index\tDevice\tMAC ADDRESS\tIPs\tHostname\n0\tCam\taa\t192.168.1.7::192.168.1.9\tcam\n").expect("list");
        let found = table(raw.as_bytes(), "day1", Some(&hosts), "192").expect("table");
        assert_eq!(found["cam"], [(0.5, Dir::Out, 32.0)]);
        let split = "frame.time_relative,ip.src,ip.dst,ip.proto,transport.len\n0.5,192.168.1.7,8.8.8.8,17,32\n";
        let found = table(split.as_bytes(), "cam", None, "192").expect("table");
        assert_eq!(found["cam"], [(0.5, Dir::Out, 32.0)]);
        for (text, want) in [
            ("a,b\n", "no column `frame.time_relative`"),
            (
                "frame.time_relative,ip.src,ip.dst,ip.proto,transport.len\nx,192.1,8.8,17,32\n",
                "line 2: frame.time_relative",
            ),
            (
                "frame.time_relative,ip.src,ip.dst,ip.proto,transport.len\n1,192.1,8.8,17,q\n",
                "line 2: transport.len",
            ),
        ] {
            let e = format!(
                "{:#}",
                table(text.as_bytes(), "x", None, "192").expect_err("refused")
            );
            assert!(e.contains(want), "{e}");
        }
    }

    #[test]
    fn arrays_have_a_header_of_whole_lines() {
        let bytes = npy(&[2, 1], [1.0, 2.0]);
        assert_eq!((bytes.len() - 16) % 64, 0);
        let text = String::from_utf8_lossy(&bytes[10..bytes.len() - 16]);
        assert!(
            text.contains("'shape': (2, 1,)") && text.ends_with('\n'),
            "{text}"
        );
    }
}
