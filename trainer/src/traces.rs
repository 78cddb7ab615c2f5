//! Traces: what an observer sees of one device in one session, packet by packet.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_abi::{Dir, Nanos};

use crate::captures::{TCP, UDP, packets};
use crate::devices::{Devices, Scope};
use crate::sessions::{self, Copies, Session, tell_apart};

/// Columns of a trace file, those of `packets.csv` of `gateway simulate`.
pub const HEADER: &str = "time_s,dir,size_bytes,is_dummy,device";

/// Longest line of a trace file, bytes.
const MAX_LINE: u64 = 4_096;

/// One packet as an observer outside the home sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Since the first packet of the session.
    pub at: Nanos,
    /// As the device sees it.
    pub dir: Dir,
    /// Size on the wire: the IP packet, or whatever the defence makes of it, bytes.
    pub size: u32,
    /// TCP or UDP payload, bytes; 0 where a file does not tell.
    pub payload: u32,
    /// Whether it is UDP; `false` where a file does not tell.
    pub udp: bool,
    /// Whether it is cover. Attackers never look at it.
    pub dummy: bool,
}

/// The packets of one device in one session, in order of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What attackers have to guess.
    pub label: String,
    /// Name of the device.
    pub device: String,
    /// Name of the session: the capture file without its ending.
    pub session: String,
    /// When it begins, since 1970; `None` where a file does not tell.
    pub begins: Option<Nanos>,
    /// The packets.
    pub packets: Vec<Seen>,
}

impl Trace {
    /// `LABEL__DEVICE__SESSION.csv`, with characters that do not belong into a file name replaced by `_`.
    pub fn file_name(&self) -> String {
        let safe = |text: &str| -> String {
            let ok = |c: char| !(c == '/' || c == '\\' || c.is_control());
            let text: String = text.chars().map(|c| if ok(c) { c } else { '_' }).collect();
            text.trim_start_matches('.').to_owned()
        };
        format!(
            "{}__{}__{}.csv",
            safe(&self.label),
            safe(&self.device),
            safe(&self.session)
        )
    }

    /// From the first packet to the last one, seconds; 0 without packets.
    pub fn seconds(&self) -> f64 {
        match (self.packets.first(), self.packets.last()) {
            (Some(a), Some(b)) => b.at.since(a.at).as_secs_f64(),
            _ => 0.0,
        }
    }

    /// Writes [`HEADER`] and one line a packet.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let put = || -> std::io::Result<()> {
            let mut out = BufWriter::new(File::create(path)?);
            writeln!(out, "{HEADER}")?;
            for p in &self.packets {
                let us = (p.at.0 + 500) / 1000;
                writeln!(
                    out,
                    "{}.{:06},{},{},{},{}",
                    us / 1_000_000,
                    us % 1_000_000,
                    p.dir.sign(),
                    p.size,
                    u8::from(p.dummy),
                    self.label
                )?;
            }
            out.flush()
        };
        put().with_context(|| format!("while writing {}", path.display()))
    }
}

impl Session for Trace {
    fn file_name(&self) -> String {
        self.file_name()
    }

    fn session(&mut self) -> &mut String {
        &mut self.session
    }
}

/// What is taken from captures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Which packets of a device count.
    pub scope: Scope,
    /// Traces with fewer packets are left out.
    pub min_packets: usize,
    /// Longest part of a session that is used, from its first packet, seconds.
    pub max_seconds: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            scope: Scope::Wan,
            min_packets: 8,
            max_seconds: 3600.0,
        }
    }
}

/// Whether a session can be cut to this many seconds.
///
/// # Errors
/// When it cannot.
pub fn check_seconds(max_seconds: f64) -> Result<()> {
    if max_seconds.is_nan() || max_seconds <= 0.0 {
        bail!("--max-seconds is {max_seconds}, allowed is above 0");
    }
    Ok(())
}

/// Reads the TCP and UDP packets of every device in every capture; a trace for each device and file, without those that are the
/// same as one of another file.
///
/// # Errors
/// When a file cannot be opened or is no capture. One that ends early is used up to there, with a line in `notes`.
pub fn from_captures(
    files: &[PathBuf],
    devices: &Devices,
    limits: Limits,
    notes: &mut Vec<String>,
    tick: &mut dyn FnMut(),
) -> Result<Vec<Trace>> {
    let (mut out, mut folders) = (Vec::new(), Vec::new());
    let mut copies = Copies::default();
    for file in files {
        let folder = sessions::folder(file);
        let mut found: BTreeMap<usize, Vec<Seen>> = BTreeMap::new();
        packets(file, notes, &mut |at, p| {
            if !matches!(p.key.protocol, TCP | UDP) {
                return;
            }
            for (device, dir) in devices.find(p, folder, limits.scope).into_iter().flatten() {
                found.entry(device).or_default().push(Seen {
                    at,
                    dir,
                    size: p.sample.bytes,
                    payload: p.sample.payload,
                    udp: p.key.protocol == UDP,
                    dummy: false,
                });
            }
        })?;
        for (device, mut packets) in found {
            let begins = settle(&mut packets, limits.max_seconds);
            if packets.len() < limits.min_packets {
                continue;
            }
            let numbers = |p: &Seen| {
                let kind = u64::from(p.dir == Dir::Out) << 1 | u64::from(p.udp);
                [p.at.0, kind, p.size.into(), p.payload.into()]
            };
            if copies.has(device, packets.iter().map(numbers)) {
                continue;
            }
            let device = &devices.list()[device];
            out.push(Trace {
                label: device.label.clone(),
                device: device.name.clone(),
                session: sessions::stem(file),
                begins,
                packets,
            });
            folders.push(folder.to_owned());
        }
        copies.note(file, notes);
        tick();
    }
    tell_apart(&mut out, &folders);
    Ok(out)
}

/// Sorts by time, makes the first packet time 0 and drops what comes after `max_seconds`. Gives the time that the first packet had.
fn settle(packets: &mut Vec<Seen>, max_seconds: f64) -> Option<Nanos> {
    packets.sort_by_key(|p| p.at);
    let first = packets.first()?.at;
    packets
        .iter_mut()
        .for_each(|p| p.at = Nanos(p.at.since(first).0));
    packets.retain(|p| p.at.as_secs_f64() <= max_seconds);
    Some(first)
}

/// Reads a folder of trace files named `LABEL__DEVICE__SESSION.csv`, or one file in which the column `device` tells the
/// devices apart (`packets.csv` of `gateway simulate`), which gives one trace for each of them.
///
/// # Errors
/// When a file cannot be read, lacks a column or holds a value out of range; the text names file and line.
pub fn from_tables(path: &Path, limits: Limits) -> Result<Vec<Trace>> {
    let mut out = Vec::new();
    if path.is_dir() {
        let mut files: Vec<PathBuf> = std::fs::read_dir(path)
            .with_context(|| format!("while listing {}", path.display()))?
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "csv"))
            .collect();
        files.sort();
        for file in files {
            out.extend(table(&file, limits)?);
        }
    } else {
        out = table(path, limits)?;
    }
    if out.is_empty() {
        bail!(
            "no trace with at least {} packets in {}",
            limits.min_packets,
            path.display()
        );
    }
    Ok(out)
}

/// Reads a file in which the column `device` tells devices apart, and gives all packets as one stream by time, as an observer
/// of a tunnel sees them; the first is at time 0.
///
/// # Errors
/// As [`from_tables`]; a file without packets gives an empty stream.
pub fn whole(file: &Path) -> Result<Vec<Seen>> {
    let mut packets: Vec<Seen> = open(file)?.into_values().flatten().collect();
    settle(&mut packets, f64::INFINITY);
    Ok(packets)
}

fn open(file: &Path) -> Result<BTreeMap<String, Vec<Seen>>> {
    let input = File::open(file).with_context(|| format!("while opening {}", file.display()))?;
    read_table(BufReader::new(input)).with_context(|| format!("in {}", file.display()))
}

fn table(file: &Path, limits: Limits) -> Result<Vec<Trace>> {
    let stem = file
        .file_stem()
        .and_then(|n| n.to_str())
        .unwrap_or("")
        .to_owned();
    let parts: Vec<&str> = stem.split("__").collect();
    let mut out = Vec::new();
    for (label, mut packets) in open(file)? {
        settle(&mut packets, limits.max_seconds);
        if packets.len() < limits.min_packets {
            continue;
        }
        let (device, session) = match parts.as_slice() {
            [_, device, session] => ((*device).to_owned(), (*session).to_owned()),
            _ => (label.clone(), stem.clone()),
        };
        out.push(Trace {
            label,
            device,
            session,
            begins: None,
            packets,
        });
    }
    Ok(out)
}

/// The packets of each value of the column `device`.
fn read_table(mut input: impl BufRead) -> Result<BTreeMap<String, Vec<Seen>>> {
    const COLUMNS: [&str; 5] = ["time_s", "dir", "size_bytes", "is_dummy", "device"];
    let mut line = String::new();
    let mut number = 0u64;
    let mut next = |line: &mut String| -> Result<bool> {
        line.clear();
        number += 1;
        let n = std::io::Read::take(&mut input, MAX_LINE)
            .read_line(line)
            .with_context(|| format!("line {number}"))?;
        Ok(n > 0)
    };
    next(&mut line)?;
    let header: Vec<&str> = line
        .trim()
        .trim_start_matches('\u{feff}')
        .split(',')
        .collect();
    let mut places = [0; 5];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        *place = header
            .iter()
            .position(|c| c.trim() == column)
            .with_context(|| format!("line 1: no column `{column}`; wanted {HEADER}"))?;
    }
    let payload_at = header.iter().position(|c| c.trim() == "payload");
    let mut out: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    let mut at_line = 1u64;
    while next(&mut line)? {
        at_line += 1;
        if line.trim().is_empty() {
            continue;
        }
        let cells: Vec<&str> = line.trim().split(',').collect();
        let cell = |i: usize| cells.get(places[i]).copied().unwrap_or("").trim();
        let bad = |i: usize, want: &str| {
            anyhow::anyhow!(
                "line {at_line}: {} is {:?}, wanted {want}",
                COLUMNS[i],
                cell(i)
            )
        };
        let time: f64 = cell(0).parse().unwrap_or(f64::NAN);
        if !(time.is_finite() && (-1e9..=1e10).contains(&time)) {
            return Err(bad(0, "seconds"));
        }
        let dir = match cell(1).trim_start_matches('+') {
            "1" => Dir::Out,
            "-1" => Dir::In,
            _ => return Err(bad(1, "1 or -1")),
        };
        let size = match cell(2).parse::<f64>() {
            Ok(x) if (0.0..=1e9).contains(&x) => x as u32,
            _ => return Err(bad(2, "bytes, 0 to 10^9")),
        };
        let dummy = match cell(3) {
            "0" | "false" => false,
            "1" | "true" => true,
            _ => return Err(bad(3, "0 or 1")),
        };
        let payload = payload_at
            .and_then(|i| cells.get(i)?.trim().parse::<u32>().ok())
            .unwrap_or(0);
        // Times before the session's first packet are possible in a file of several devices.
        let at = Nanos(((time + 1e9) * 1e6).round() as u64 * 1000);
        out.entry(cell(4).to_owned()).or_default().push(Seen {
            at,
            dir,
            size,
            payload,
            udp: false,
            dummy,
        });
    }
    Ok(out)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    pub(crate) fn trace(label: &str, session: usize) -> Trace {
        Trace {
            label: label.to_owned(),
            device: label.to_owned(),
            session: format!("s{session:02}"),
            begins: None,
            packets: Vec::new(),
        }
    }

    #[test]
    fn sessions_of_one_name_in_several_folders_are_told_apart() {
        let names = ["a", "a", "b", "a", "a-2", "a"];
        let mut traces: Vec<Trace> = names
            .iter()
            .map(|name| Trace {
                session: (*name).to_owned(),
                ..trace("plug", 0)
            })
            .collect();
        let folders = ["x", "y", "x", "x", "x", "x"].map(str::to_owned);
        tell_apart(&mut traces, &folders);
        let sessions: Vec<&str> = traces.iter().map(|t| t.session.as_str()).collect();
        assert_eq!(sessions, ["a@x", "a@y", "b", "a@x-2", "a-2", "a@x-3"]);
        let files: BTreeSet<String> = traces.iter().map(Trace::file_name).collect();
        assert_eq!(files.len(), traces.len());
    }

    #[test]
    fn writes_what_it_reads_and_names_the_bad_line() {
        let dir = tempfile::tempdir().expect("folder");
        let mut t = trace("cam/1", 3);
        for (ms, dir, size, dummy) in [(0, Dir::Out, 60, false), (1500, Dir::In, 1420, true)] {
            t.packets.push(Seen {
                at: Nanos::from_millis(ms),
                dir,
                size,
                payload: 0,
                udp: false,
                dummy,
            });
        }
        let path = dir.path().join(t.file_name());
        t.write(&path).expect("written");
        let limits = Limits {
            min_packets: 1,
            ..Limits::default()
        };
        let back = from_tables(dir.path(), limits).expect("read");
        assert_eq!(back[0].packets, t.packets);
        assert_eq!((back[0].session.as_str(), back[0].seconds()), ("s03", 1.5));
        for (text, want) in [
            ("time_s,dir\n", "line 1: no column `size_bytes`"),
            (
                "time_s,dir,size_bytes,is_dummy,device\n0,1,60,0,a\nx,1,60,0,a\n",
                "line 3: time_s",
            ),
            (
                "time_s,dir,size_bytes,is_dummy,device\n0,2,60,0,a\n",
                "line 2: dir",
            ),
            (
                "time_s,dir,size_bytes,is_dummy,device\n0,1,-4,0,a\n",
                "line 2: size_bytes",
            ),
        ] {
            let e = format!("{:#}", read_table(text.as_bytes()).expect_err("refused"));
            assert!(e.contains(want), "{e}");
        }
    }
}
