//! Captures as the traffic of one home: frames in time order, with direction and device.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use chaff_abi::{Dir, Mac, Nanos};
use chaff_engine::{Device, mapped};
use chaff_flow::Link;
use chaff_trace::Reader;

/// One frame of the home.
#[derive(Clone, Debug)]
pub struct HomeFrame {
    /// Time since the first frame.
    pub at: Nanos,
    /// Direction seen from its device.
    pub dir: Dir,
    /// Index of its device, 0 when unlisted.
    pub device: usize,
    /// The frame, zero-padded to its length on the wire.
    pub bytes: Vec<u8>,
}

/// The traffic of one home.
#[derive(Debug)]
pub struct Home {
    /// The devices; index `i` is device `i + 1`.
    pub devices: Vec<Device>,
    /// All frames in time order.
    pub frames: Vec<HomeFrame>,
    /// Frames longer than what was captured, padded with zeros.
    pub padded: u64,
}

/// Largest frame accepted, bytes; larger lengths are taken for damage.
const MAX_FRAME: usize = 65_575;

/// Reads captures and lays them over one another: each begins at time zero. Frames whose source MAC (or else IP
/// address) is a device's go out, all others come in. Without `devices`, they are found by [`find_devices`].
///
/// # Errors
/// A capture cannot be read, is damaged, or is not Ethernet; the error names file and packet.
pub fn load(paths: &[PathBuf], devices: Option<Vec<Device>>) -> anyhow::Result<Home> {
    let mut raw = Vec::new();
    let mut padded = 0;
    for (order, path) in paths.iter().enumerate() {
        read(path, order, &mut raw, &mut padded)?;
    }
    raw.sort_by_key(|(at, order, _)| (*at, *order));
    let devices = devices.unwrap_or_else(|| find_devices(raw.iter().map(|(_, _, f)| f.as_slice())));
    let macs: BTreeMap<Mac, usize> = devices
        .iter()
        .enumerate()
        .filter_map(|(i, d)| Some((d.mac?, i + 1)))
        .collect();
    let ips: BTreeMap<[u8; 16], usize> = devices
        .iter()
        .enumerate()
        .flat_map(|(i, d)| d.ip.iter().map(move |ip| (mapped(*ip), i + 1)))
        .collect();
    let frames = raw
        .into_iter()
        .map(|(at, _, bytes)| {
            let (dir, device) = classify(&bytes, &macs, &ips);
            HomeFrame {
                at,
                dir,
                device,
                bytes,
            }
        })
        .collect();
    Ok(Home {
        devices,
        frames,
        padded,
    })
}

fn read(
    path: &Path,
    order: usize,
    out: &mut Vec<(Nanos, usize, Vec<u8>)>,
    padded: &mut u64,
) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("while opening {}", path.display()))?;
    let mut reader =
        Reader::new(BufReader::new(file)).with_context(|| format!("in {}", path.display()))?;
    let mut buf = Vec::new();
    let mut first = None;
    let mut number = 0u64;
    while let Some(frame) = reader
        .next(&mut buf)
        .with_context(|| format!("in {}", path.display()))?
    {
        number += 1;
        if frame.link != Link::Ethernet {
            bail!(
                "{} packet {number}: link type {:?}, only Ethernet can be simulated",
                path.display(),
                frame.link
            );
        }
        if frame.wire_len > MAX_FRAME {
            bail!(
                "{} packet {number}: {} bytes, at most {MAX_FRAME} are possible",
                path.display(),
                frame.wire_len
            );
        }
        let start = *first.get_or_insert(frame.at);
        let mut bytes = buf.clone();
        if frame.wire_len > bytes.len() {
            *padded += 1;
            bytes.resize(frame.wire_len, 0);
        }
        out.push((frame.at.since(start), order, bytes));
    }
    Ok(())
}

fn classify(
    frame: &[u8],
    macs: &BTreeMap<Mac, usize>,
    ips: &BTreeMap<[u8; 16], usize>,
) -> (Dir, usize) {
    let (dst, src) = (mac_at(frame, 0), mac_at(frame, 6));
    if let Some(i) = macs.get(&src) {
        return (Dir::Out, *i);
    }
    let packet = chaff_flow::parse(Link::Ethernet, frame, frame.len()).ok();
    if let Some(i) = packet.as_ref().and_then(|p| ips.get(&p.key.src)) {
        return (Dir::Out, *i);
    }
    let to = macs
        .get(&dst)
        .or_else(|| packet.as_ref().and_then(|p| ips.get(&p.key.dst)));
    (Dir::In, to.copied().unwrap_or(0))
}

fn mac_at(frame: &[u8], at: usize) -> Mac {
    frame
        .get(at..at + 6)
        .and_then(|m| m.try_into().ok())
        .map_or(Mac::default(), Mac)
}

/// Finds the devices of a capture: the unicast MAC addresses that send from local IP addresses (private, link-local or
/// unspecified) and never from a global one, as a router does. They are named by MAC address.
pub fn find_devices<'a>(frames: impl Iterator<Item = &'a [u8]>) -> Vec<Device> {
    let mut local = BTreeSet::new();
    let mut global = BTreeSet::new();
    for frame in frames {
        let Ok(p) = chaff_flow::parse(Link::Ethernet, frame, frame.len()) else {
            continue;
        };
        if p.src_mac.0[0] & 1 == 1 {
            continue;
        }
        let set = if is_local(p.key.source()) {
            &mut local
        } else {
            &mut global
        };
        set.insert(p.src_mac);
    }
    local
        .difference(&global)
        .take(usize::try_from(chaff_abi::MAX_DEVICES - 1).unwrap_or(255))
        .map(|mac| Device {
            label: mac.to_string(),
            mac: Some(*mac),
            ip: Vec::new(),
            cover: true,
        })
        .collect()
}

fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unique_local() || ip.is_unspecified(),
    }
}
