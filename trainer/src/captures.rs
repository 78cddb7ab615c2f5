use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_flow::{Packet, parse};
use chaff_trace::Reader;
use rand::RngCore;
use sha2::{Digest, Sha256};

use crate::devices::{Detector, Devices};
use crate::traces::{self, Limits};
use crate::windows::{Cutter, Shape, Window};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Windows of one label in one capture file.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Index into [`Data::labels`].
    pub label: usize,
    /// In order of time.
    pub windows: Vec<Window>,
}

/// Windows of all devices in all captures.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// Sorted.
    pub labels: Vec<String>,
    /// In order of file, then device.
    pub sessions: Vec<Session>,
    /// What was odd: captures cut short, packets that could not be read.
    pub notes: Vec<String>,
    /// SHA-256 over, for each session in order: label, zero byte, then for each window the slots and the silence as
    /// little-endian 32-bit floats.
    pub digest: [u8; 32],
}

/// All captures among the paths: files as they are, folders with everything below them that ends in `.pcap`, `.pcapng`
/// or `.cap`, sorted.
///
/// # Errors
/// When a path cannot be read or nothing is found.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for path in paths {
        if path.is_dir() {
            walk(path, &mut out).with_context(|| format!("while listing {}", path.display()))?;
        } else {
            out.push(path.clone());
        }
    }
    out.sort();
    out.dedup();
    if out.is_empty() {
        let paths: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
        bail!(
            "no file that ends in .pcap, .pcapng or .cap in {}",
            paths.join(", ")
        );
    }
    Ok(out)
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        // Links to folders are not followed, so there is no loop.
        if entry.file_type()?.is_dir() {
            walk(&path, out)?;
        } else if path
            .extension()
            .is_some_and(|e| e == "pcap" || e == "pcapng" || e == "cap")
        {
            out.push(path);
        }
    }
    Ok(())
}

/// Looks for devices in the captures; see [`Detector`].
///
/// # Errors
/// When a file cannot be opened or is not a capture.
pub fn detect(files: &[PathBuf], tick: &mut dyn FnMut()) -> Result<Devices> {
    let mut detector = Detector::default();
    for file in files {
        packets(file, &mut Vec::new(), &mut |_, p| detector.observe(p))?;
        tick();
    }
    Ok(detector.finish())
}

/// Cuts the devices' TCP and UDP packets with payload into windows, at most `most` a device and file; see
/// [`traces::from_captures`].
///
/// # Errors
/// When a file cannot be opened or is not a capture. One that ends early is used up to there, with a note.
pub fn read(
    files: &[PathBuf],
    devices: &Devices,
    shape: Shape,
    limits: Limits,
    most: usize,
    rng: &mut dyn RngCore,
    tick: &mut dyn FnMut(),
) -> Result<Data> {
    let mut labels: Vec<String> = devices.list().iter().map(|d| d.label.clone()).collect();
    labels.sort();
    labels.dedup();
    let mut data = Data {
        labels,
        sessions: Vec::new(),
        notes: Vec::new(),
        digest: [0; 32],
    };
    let mut digest = Sha256::new();
    for trace in traces::from_captures(files, devices, limits, &mut data.notes, tick)? {
        let mut cutter = Cutter::new(shape, most);
        for p in trace.packets.iter().filter(|p| p.payload > 0) {
            cutter.push(p.at, p.dir, p.payload, rng);
        }
        let windows = cutter.finish(rng);
        if windows.is_empty() {
            continue;
        }
        digest.update(trace.label.as_bytes());
        digest.update([0]);
        for w in &windows {
            w.slots.iter().for_each(|v| digest.update(v.to_le_bytes()));
            digest.update((w.silence as f32).to_le_bytes());
        }
        if let Ok(label) = data.labels.binary_search(&trace.label) {
            data.sessions.push(Session { label, windows });
        }
    }
    data.digest = digest.finalize().into();
    Ok(data)
}

/// Calls `each` for every packet that can be read, with its time.
pub(crate) fn packets(
    file: &Path,
    notes: &mut Vec<String>,
    each: &mut dyn FnMut(chaff_abi::Nanos, &Packet<'_>),
) -> Result<()> {
    let input = File::open(file).with_context(|| format!("while opening {}", file.display()))?;
    let mut reader =
        Reader::new(input).with_context(|| format!("while reading {}", file.display()))?;
    let mut bytes = Vec::new();
    loop {
        match reader.next(&mut bytes) {
            Ok(Some(frame)) => {
                if let Ok(packet) = parse(frame.link, &bytes, frame.wire_len) {
                    each(frame.at, &packet);
                }
            }
            Ok(None) => return Ok(()),
            Err(e) => {
                notes.push(format!("{}: used up to the damage: {e}", file.display()));
                return Ok(());
            }
        }
    }
}
