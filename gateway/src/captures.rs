//! Captures as the traffic of one home: frames in time order, with direction and device.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use chaff_abi::{Dir, Mac, Nanos};
use chaff_engine::{Device, mapped};
use chaff_flow::Link;
use chaff_trace::Reader;

/// Addresses between which simulated cover travels: gateway, sink. They are told apart from the home's by address alone,
/// so they must be nobody's: IANA's special-purpose registry holds 192.0.0.0/24 for protocol assignments (RFC 6890) and
/// has assigned .0 to .10, .170 and .171 of it; no host may have another. [`load`] refuses captures that hold them.
pub const COVER_ADDRESSES: [Ipv4Addr; 2] =
    [Ipv4Addr::new(192, 0, 0, 98), Ipv4Addr::new(192, 0, 0, 99)];

/// One frame of the home.
#[derive(Clone, Debug)]
pub struct HomeFrame {
    /// Time since the first frame of its capture.
    pub at: Nanos,
    /// Direction seen from its device.
    pub dir: Dir,
    /// Index of its device, 0 when unlisted.
    pub device: usize,
    /// The captured part of the frame.
    pub bytes: Box<[u8]>,
    /// Length on the wire, bytes; at least the captured length.
    pub wire_len: usize,
    /// Where it was read.
    pub origin: Origin,
}

/// Where a frame was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Index into [`Home::files`].
    pub file: usize,
    /// Number of the packet in the file, from 1.
    pub packet: u64,
}

impl HomeFrame {
    /// The frame as it was on the wire, zeros in place of what was not captured.
    pub fn padded(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.wire_len);
        self.pad_into(&mut out);
        out
    }

    fn pad_into(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        out.resize(self.wire_len, 0);
    }
}

/// The traffic of one home.
#[derive(Debug)]
pub struct Home {
    /// The captures.
    pub files: Vec<PathBuf>,
    /// The devices; index `i` is device `i + 1`.
    pub devices: Vec<Device>,
    /// All frames in time order.
    pub frames: Vec<HomeFrame>,
    /// Frames longer than what was captured, padded with zeros when they are sent.
    pub padded: u64,
}

/// What captures may ask of this machine.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most memory for all frames, bytes: what was captured and [`FRAME_COST`] a frame.
    pub memory: u64,
    /// Longest time from a capture's first packet to another; `None` is without end.
    pub longest: Option<Nanos>,
}

impl Default for Limits {
    /// 2 GiB (3 million full-size frames, 15 million of 40 bytes) and 31 days.
    fn default() -> Self {
        Self {
            memory: 2 << 30,
            longest: Some(Nanos::from_secs(31 * 86_400)),
        }
    }
}

/// Memory of a frame beside its bytes: the entry and what the allocator adds.
pub const FRAME_COST: u64 = size_of::<HomeFrame>() as u64 + 32;

/// Largest frame accepted, bytes; larger lengths are taken for damage.
const MAX_FRAME: usize = 65_575;

/// Most bytes on the way at once. Frames have their full length there, and a hostile capture can claim 64 KiB for each
/// packet of a few bytes; 256 MiB are two seconds of a full gigabit link.
pub const MAX_ON_THE_WAY: u64 = 256 << 20;

/// Reads captures and lays them over one another: each begins at time zero. Frames whose source MAC (or else IP
/// address) is a device's go out, all others come in. Without `devices`, they are found: the unicast MAC addresses that
/// send from local IP addresses (private, link-local or unspecified) and never from a global one, as a router does. They
/// are named by MAC address.
///
/// # Errors
/// A capture cannot be read, is damaged, is not Ethernet, holds one of [`COVER_ADDRESSES`], or exceeds `limits`; the error
/// names file and packet.
pub fn load(
    paths: &[PathBuf],
    devices: Option<Vec<Device>>,
    limits: &Limits,
) -> anyhow::Result<Home> {
    load_with(paths, None, devices, limits)
}

/// As [`load`], with one more capture that is in memory already, and what it is called.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    paths: &[PathBuf],
    drawn: Option<(PathBuf, Vec<u8>)>,
    devices: Option<Vec<Device>>,
    limits: &Limits,
) -> anyhow::Result<Home> {
    let mut home = Home {
        files: paths.to_vec(),
        devices: Vec::new(),
        frames: Vec::new(),
        padded: 0,
    };
    let mut memory = 0;
    for (file, path) in paths.iter().enumerate() {
        let opened =
            File::open(path).with_context(|| format!("while opening {}", path.display()))?;
        home.read(file, BufReader::new(opened), &mut memory, limits)?;
    }
    if let Some((name, bytes)) = drawn {
        home.files.push(name);
        home.read(paths.len(), bytes.as_slice(), &mut memory, limits)?;
    }
    home.frames.sort_unstable_by_key(|f| (f.at, f.origin));
    home.devices = devices.unwrap_or_else(|| find_devices(&home.frames));
    home.classify();
    Ok(home)
}

impl Home {
    /// File and number of a packet.
    pub fn place(&self, origin: Origin) -> String {
        let file = self.files.get(origin.file).map(|p| p.display().to_string());
        format!("{} packet {}", file.unwrap_or_default(), origin.packet)
    }

    /// Checks that the frames up to `last` never put more than `limit` bytes on a link with `delay`.
    ///
    /// # Errors
    /// They do; the error names file and packet.
    pub fn check_on_the_way(&self, delay: Nanos, last: Nanos, limit: u64) -> anyhow::Result<()> {
        let mut oldest = self.frames.iter().peekable();
        let mut bytes = 0;
        for f in self.frames.iter().take_while(|f| f.at <= last) {
            bytes += f.wire_len as u64;
            while let Some(gone) = oldest.next_if(|o| o.at + delay < f.at) {
                bytes -= gone.wire_len as u64;
            }
            if bytes > limit {
                bail!(
                    "{}: with it {bytes} bytes are on the way at once, at most {limit} can be simulated",
                    self.place(f.origin)
                );
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        file: usize,
        input: impl Read,
        memory: &mut u64,
        limits: &Limits,
    ) -> anyhow::Result<()> {
        let path = self.files[file].display().to_string();
        let mut reader = Reader::new(input).with_context(|| format!("in {path}"))?;
        let mut buf = Vec::new();
        let mut first = None;
        let mut packet = 0;
        while let Some(frame) = reader
            .next(&mut buf)
            .with_context(|| format!("in {path}"))?
        {
            packet += 1;
            if frame.link != Link::Ethernet {
                bail!(
                    "{path} packet {packet}: link type {:?}, only Ethernet can be simulated",
                    frame.link
                );
            }
            let wire_len = frame.wire_len.max(buf.len());
            if wire_len > MAX_FRAME {
                bail!("{path} packet {packet}: {wire_len} bytes, at most {MAX_FRAME} are possible");
            }
            let at = frame.at.since(*first.get_or_insert(frame.at));
            if limits.longest.is_some_and(|longest| at > longest) {
                bail!(
                    "{path} packet {packet}: its time, {} s, is {at} s after the first packet's, at most {} s are \
                     simulated; --duration simulates a part",
                    frame.at,
                    limits.longest.unwrap_or_default()
                );
            }
            if let Some(ip) = cover_address(&buf) {
                bail!(
                    "{path} packet {packet}: from or to {ip}, which stands for simulated cover and is nobody's address"
                );
            }
            *memory += buf.len() as u64 + FRAME_COST;
            if *memory > limits.memory {
                bail!(
                    "{path} packet {packet}: with it the captures take more than {} bytes of memory; give fewer or \
                     shorter ones",
                    limits.memory
                );
            }
            self.padded += u64::from(wire_len > buf.len());
            self.frames.push(HomeFrame {
                at,
                dir: Dir::In,
                device: 0,
                bytes: buf.as_slice().into(),
                wire_len,
                origin: Origin { file, packet },
            });
        }
        Ok(())
    }

    fn classify(&mut self) {
        let devices = || self.devices.iter().zip(1..);
        let macs: BTreeMap<Mac, usize> = devices().filter_map(|(d, i)| Some((d.mac?, i))).collect();
        let ips: BTreeMap<[u8; 16], usize> = devices()
            .flat_map(|(d, i)| d.ip.iter().map(move |ip| (mapped(*ip), i)))
            .collect();
        let mut wire = Vec::new();
        for f in &mut self.frames {
            f.pad_into(&mut wire);
            (f.dir, f.device) = classify(&wire, &macs, &ips);
        }
    }
}

/// The first of [`COVER_ADDRESSES`] that an IPv4 frame, tagged or not, comes from or goes to.
fn cover_address(frame: &[u8]) -> Option<Ipv4Addr> {
    let mut ethertype = 12;
    while let Some([0x81, 0] | [0x88, 0xa8]) = frame.get(ethertype..ethertype + 2) {
        ethertype += 4;
    }
    let ip = frame.get(ethertype..)?.strip_prefix(&[8, 0])?;
    [12, 16]
        .into_iter()
        .filter_map(|at| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?)))
        .find(|ip| COVER_ADDRESSES.contains(ip))
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

/// As [`load`] says.
fn find_devices(frames: &[HomeFrame]) -> Vec<Device> {
    let mut local = BTreeSet::new();
    let mut global = BTreeSet::new();
    let mut wire = Vec::new();
    for frame in frames {
        frame.pad_into(&mut wire);
        let Ok(p) = chaff_flow::parse(Link::Ethernet, &wire, wire.len()) else {
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

#[cfg(test)]
mod tests {
    use chaff_trace::PcapWriter;

    use super::*;

    /// UDP over IPv4 from a device to `to`.
    fn udp(to: [u8; 4]) -> Vec<u8> {
        let path = chaff_sim::frame::Path {
            src_mac: Mac([2, 0, 0x5e, 0x10, 0, 1]),
            dst_mac: Mac([2, 0, 0x5e, 0x10, 0, 9]),
            src: "192.168.77.10:40000".parse().expect("an address"),
            dst: std::net::SocketAddrV4::new(to.into(), 53),
        };
        let mut out = Vec::new();
        path.build(&[7; 20], &mut out);
        out
    }

    /// A capture of (time, frame, length on the wire).
    fn capture(dir: &std::path::Path, packets: &[(Nanos, &[u8], usize)]) -> PathBuf {
        let path = dir.join("home.pcap");
        let file = File::create(&path).expect("creates");
        let mut writer = PcapWriter::new(file, Link::Ethernet).expect("writes");
        for (at, frame, wire_len) in packets {
            writer.write(*at, frame, *wire_len).expect("writes");
        }
        path
    }

    #[test]
    fn frames_are_padded_only_when_they_are_sent() {
        let dir = tempfile::tempdir().expect("temp dir");
        let frame = udp([203, 0, 113, 1]);
        let head = &frame[..34];
        let at = Nanos::from_secs(5);
        let path = capture(
            dir.path(),
            &[
                (at, &frame, frame.len()),
                (at, head, 65_575),
                (at, head, 62),
            ],
        );
        let home = load(&[path], None, &Limits::default()).expect("loads");
        let held: Vec<_> = home.frames.iter().map(|f| f.bytes.len()).collect();
        assert_eq!((held, home.padded), (vec![frame.len(), 34, 34], 2));
        for f in &home.frames {
            let sent = f.padded();
            assert_eq!(sent.len(), f.wire_len);
            assert!(sent.starts_with(&f.bytes));
            assert!(sent[f.bytes.len()..].iter().all(|b| *b == 0));
        }
        // The last is a whole IPv4 packet once padded: it shows its device, as an uncut one does.
        assert_eq!(home.devices.len(), 1);
        assert!(
            home.frames
                .iter()
                .all(|f| f.dir == Dir::Out && f.device == 1)
        );
    }

    #[test]
    fn errors_name_file_packet_and_limit() {
        let dir = tempfile::tempdir().expect("temp dir");
        let day = |n: u64| Nanos::from_secs(n * 86_400);
        let (good, [from, to]) = (udp([203, 0, 113, 1]), COVER_ADDRESSES);
        let cover = udp(to.octets());
        let mut tagged = udp(from.octets());
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        let memory = Limits {
            memory: 2 * (FRAME_COST + 62),
            ..Limits::default()
        };
        let none = Limits::default();
        for (second, third, limits, wants) in [
            (
                (day(10), &good, 62),
                (day(42), &good, 62),
                &none,
                ["packet 3", "3628800", "2764800", "2678400", "--duration"].as_slice(),
            ),
            (
                (day(10), &good, 62),
                (day(10), &good, 62),
                &memory,
                &["packet 3", "bytes of memory"],
            ),
            (
                (day(10), &cover, 62),
                (day(10), &good, 62),
                &none,
                &["packet 2", "192.0.0.99", "cover"],
            ),
            (
                (day(10), &good, 62),
                (day(10), &tagged, 66),
                &none,
                &["packet 3", "192.0.0.98"],
            ),
            (
                (day(10), &good, 65_576),
                (day(10), &good, 62),
                &none,
                &["packet 2", "65576 bytes", "65575"],
            ),
        ] {
            let packets = [(day(10), &good, 62), second, third]
                .map(|(at, frame, wire)| (at, frame.as_slice(), wire));
            let path = capture(dir.path(), &packets);
            let e = load(&[path], None, limits).expect_err("refused");
            let e = format!("{e:#}");
            for want in ["home.pcap"].iter().chain(wants) {
                assert!(e.contains(want), "`{want}` is not in `{e}`");
            }
        }
    }

    #[test]
    fn counts_what_is_on_the_way_during_the_delay() {
        let dir = tempfile::tempdir().expect("temp dir");
        let frame = udp([203, 0, 113, 1]);
        let packets = [0, 0, 10, 20].map(|s| (Nanos::from_secs(s), frame.as_slice(), 1_000));
        let path = capture(dir.path(), &packets);
        let home = load(&[path], None, &Limits::default()).expect("loads");
        let check = |delay, last, limit| {
            home.check_on_the_way(Nanos::from_secs(delay), Nanos::from_secs(last), limit)
                .map_err(|e| e.to_string())
        };
        assert_eq!(check(0, 20, 2_000), Ok(()));
        assert_eq!(check(9, 20, 2_000), Ok(()));
        assert_eq!(check(10, 5, 2_000), Ok(()), "the others are never sent");
        let e = check(10, 20, 2_000).expect_err("too much");
        assert!(e.contains("packet 3") && e.contains("3000 bytes"), "{e}");
        assert!(check(0, 20, 1_999).is_err());
    }
}
