//! Real captures, replayed across the live gateway: its flow records equal those of the offline meter.
//!
//! Two captures by default, six with `CHAFF_LONG=1`; skipped where the developers' captures are absent. Of each, the
//! densest part is played. Keys, counts, sizes and flags must be equal. Times may differ by what the replay itself
//! reports: a packet is metered after it was due and before it is received, so its error lies between 0 and the largest
//! lateness plus the largest latency, and the difference of any two instants is off by that at most. Packets that are
//! closer together than that, in opposite directions, may swap.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use chaff_abi::{Nanos, SEQUENCE_LEN};
use chaff_flow::Link;
use chaff_tests::stage::{Stage, rows};
use chaff_tests::{program, shared, skip_without_root};
use chaff_trace::{PcapWriter, Reader};
use serde_json::Value;

/// What of a capture is played.
struct Case {
    /// Name in the device list, which is that of the folder too.
    device: &'static str,
    session: &'static str,
    /// Longest part of the capture, seconds.
    window: u64,
    /// How much faster it is played.
    speed: u64,
}

const fn case(device: &'static str, session: &'static str, window: u64, speed: u64) -> Case {
    Case {
        device,
        session,
        window,
        speed,
    }
}

/// The first two run always. Tagged frames: blink-cam and ultraloq-hub; IPv6: smartthings-hub.
const CASES: [Case; 6] = [
    case("blink-cam-01", "day2", 48, 4),
    case("HueBridge", "Setup-A-2-STA", 48, 4),
    case("fw-xiaomi-cam", "no-firewall", 12, 1),
    case("ultraloq-hub-01", "day1", 72, 6),
    case("fw-smartthings-hub", "no-firewall", 72, 6),
    case("WeMoLink", "Setup-A-9-STA", 48, 4),
];

/// Clocks are read one after the other and counts rounded: what a bound may be short of.
const SLACK_NS: f64 = 1e6;

/// Fields that are equal, of a flow and of each direction.
const EXACT: [&str; 9] = [
    "part",
    "end_reason",
    "protocol",
    "ip_version",
    "packets",
    "bytes",
    "wire_bytes",
    "payload_bytes",
    "tcp_flags",
];
const EXACT_SIDE: [&str; 19] = [
    "packets",
    "bytes",
    "wire_bytes",
    "payload_bytes",
    "payload_packets",
    "bytes_min",
    "bytes_max",
    "bytes_mean",
    "bytes_stddev",
    "fin_packets",
    "syn_packets",
    "rst_packets",
    "psh_packets",
    "ack_packets",
    "urg_packets",
    "ece_packets",
    "cwr_packets",
    "cover_packets",
    "cover_bytes",
];
/// Durations of a direction whose difference has the bound of two instants.
const GAPS_SIDE: [&str; 3] = ["iat_min_ns", "iat_max_ns", "iat_mean_ns"];

/// Both ends, address and port, in the order of their texts, so that it does not matter who began; protocol.
type Key = [String; 5];

/// Orders the ends; whether they were turned.
fn key(from: [String; 2], to: [String; 2], protocol: String) -> (Key, bool) {
    let turned = from > to;
    let ([a, b], [c, d]) = if turned { (to, from) } else { (from, to) };
    ([a, b, c, d, protocol], turned)
}

/// A line of a file of flow records.
struct Row {
    cells: BTreeMap<String, String>,
    turned: bool,
}

impl Row {
    fn get(&self, name: &str) -> Result<&str> {
        let cell = self.cells.get(name);
        Ok(cell.with_context(|| format!("no column {name}"))?)
    }

    /// The cell of an end: 0 for the first in the key.
    fn side(&self, side: usize, name: &str) -> Result<&str> {
        let prefix = ["fwd", "bwd"][side ^ usize::from(self.turned)];
        self.get(&format!("{prefix}_{name}"))
    }

    fn time(&self, name: &str) -> Result<f64> {
        Ok(self.get(name)?.parse::<i128>()? as f64)
    }

    fn list(&self, name: &str) -> Result<Vec<u64>> {
        let items = self.get(name)?.split_whitespace();
        Ok(items.map(str::parse).collect::<Result<_, _>>()?)
    }

    /// Which end is the protected device.
    fn device_side(&self) -> Result<Option<usize>> {
        Ok(match self.get("device_dir")? {
            "out" => Some(usize::from(self.turned)),
            "in" => Some(usize::from(!self.turned)),
            _ => None,
        })
    }
}

/// Flow records by their keys, those of cover alone left out.
fn records(path: &Path) -> Result<BTreeMap<Key, Row>> {
    let (header, lines) = rows(path)?;
    let mut out = BTreeMap::new();
    for line in lines {
        ensure!(line.len() == header.len(), "a line of {}", line.len());
        let cells: BTreeMap<String, String> = header.iter().cloned().zip(line).collect();
        let get = |name: &str| cells.get(name).cloned().context("a column is missing");
        if get("packets")? == "0" {
            continue;
        }
        let (key, turned) = key(
            [get("src_ip")?, get("src_port")?],
            [get("dst_ip")?, get("dst_port")?],
            get("protocol")?,
        );
        let before = out.insert(key.clone(), Row { cells, turned });
        ensure!(before.is_none(), "two records of {key:?}");
    }
    Ok(out)
}

/// A packet of a flow as the capture has it.
struct Seen {
    at: f64,
    side: usize,
    bytes: u64,
    flags: u64,
}

/// The densest part of a capture, its times divided by the speed, as a capture of its own.
fn cut(case: &Case, capture: &Path, to: &Path) -> Result<usize> {
    let mut reader = Reader::new(BufReader::new(File::open(capture)?))?;
    let mut frames = Vec::new();
    while let Some((frame, bytes)) = reader.next_borrowed()? {
        frames.push((frame.at, frame.wire_len, bytes.to_vec()));
    }
    frames.sort_by_key(|f| f.0);
    let (mut begin, mut best) = (0, 0..0);
    for end in 0..frames.len() {
        while frames[end].0 - frames[begin].0 > Nanos::from_secs(case.window) {
            begin += 1;
        }
        if end + 1 - begin > best.len() {
            best = begin..end + 1;
        }
    }
    let part = &frames[best];
    let first = part.first().context("no packets")?.0;
    let mut out = PcapWriter::new(BufWriter::new(File::create(to)?), Link::Ethernet)?;
    for (at, wire_len, bytes) in part {
        let at = Nanos::from_secs(1_700_000_000) + Nanos((*at - first).0 / case.speed);
        out.write(at, bytes, *wire_len)?;
    }
    out.into_inner()?;
    Ok(part.len())
}

/// All packets of all flows of a capture.
fn packets(capture: &Path) -> Result<BTreeMap<Key, Vec<Seen>>> {
    let mut reader = Reader::new(BufReader::new(File::open(capture)?))?;
    let mut flows: BTreeMap<Key, Vec<Seen>> = BTreeMap::new();
    while let Some((frame, bytes)) = reader.next_borrowed()? {
        let Ok(p) = chaff_flow::parse(frame.link, bytes, frame.wire_len) else {
            continue;
        };
        let end = |ip: std::net::IpAddr, port: u16| [ip.to_string(), port.to_string()];
        let k = &p.key;
        let (key, turned) = key(
            end(k.source(), k.source_port()),
            end(k.destination(), k.destination_port()),
            k.protocol.to_string(),
        );
        flows.entry(key).or_default().push(Seen {
            at: frame.at.0 as f64,
            side: usize::from(turned),
            bytes: u64::from(p.sample.bytes),
            flags: u64::from(p.sample.tcp_flags & 0xff),
        });
    }
    Ok(flows)
}

/// The list of the device alone.
fn device_list(all: &Path, device: &str, to: &Path) -> Result<()> {
    let text = fs::read_to_string(all)?;
    let mut lines = text.lines();
    let header = lines.next().context("an empty list")?;
    let line = lines
        .find(|l| l.split(',').next() == Some(device))
        .with_context(|| format!("no device {device}"))?;
    Ok(fs::write(to, format!("{header}\n{line}\n"))?)
}

fn number(v: &Value, path: &str) -> Result<u64> {
    v.pointer(path)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number {path} in {v}"))
}

/// The most by which a packet can have been metered after it was due, ns.
fn largest_error(replay: &Value) -> Result<f64> {
    let mut largest = [0, 0];
    for i in 0..2 {
        // A direction without packets has no latency.
        for (j, path) in [
            format!("/lanes/{i}/lateness_ns/max"),
            format!("/verify/directions/{i}/latency_ns/max"),
        ]
        .iter()
        .enumerate()
        {
            largest[j] = largest[j].max(number(replay, path)?);
        }
    }
    // The histograms have three digits.
    Ok((largest[0] + largest[1]) as f64 * 1.002 + SLACK_NS)
}

/// What the comparison of a capture found.
#[derive(Default)]
struct Found {
    records: usize,
    packets: u64,
    /// Differences of times, ns.
    off: Vec<f64>,
    sequences_in_another_order: usize,
    sequences_with_gaps: usize,
    other_initiator: usize,
}

impl Found {
    /// Notes a difference that must not exceed `bound`.
    fn within(&mut self, live: f64, offline: f64, bound: f64, what: &str) -> Result<()> {
        let off = (live - offline).abs();
        ensure!(
            off <= bound,
            "{what}: {live} live, {offline} offline, allowed are {bound}"
        );
        self.off.push(off);
        Ok(())
    }

    /// Compares the records of one flow. `bases` are the instants from which each file's times count.
    fn compare(&mut self, live: &Row, offline: &Row, bases: [f64; 2], error: f64) -> Result<()> {
        for name in EXACT {
            let (a, b) = (live.get(name)?, offline.get(name)?);
            ensure!(a == b, "{name}: {a} live, {b} offline");
        }
        ensure!(
            live.device_side()? == offline.device_side()?,
            "device_dir differs"
        );
        for (name, other) in [("src_mac", "dst_mac"), ("dst_mac", "src_mac")] {
            let same_end = if live.turned == offline.turned {
                name
            } else {
                other
            };
            let (a, b) = (live.get(name)?, offline.get(same_end)?);
            // The kernel keeps the device's address only.
            ensure!(a.is_empty() || a == b, "{name}: {a} live, {b} offline");
        }
        let tags = |row: &Row| -> Result<[String; 2]> {
            let mut ids = [
                row.get("vlan_id")?.to_owned(),
                row.get("bwd_vlan_id")?.to_owned(),
            ];
            if row.turned {
                ids.reverse();
            }
            Ok(ids)
        };
        let (a, b) = (tags(live)?, tags(offline)?);
        ensure!(a == b, "VLAN ids by end: {a:?} live, {b:?} offline");
        for name in ["start_ns", "end_ns"] {
            let (a, b) = (live.time(name)? - bases[0], offline.time(name)? - bases[1]);
            self.within(a, b, error, name)?;
        }
        let (a, b) = (live.time("duration_ns")?, offline.time("duration_ns")?);
        self.within(a, b, error, "duration_ns")?;
        for side in 0..2 {
            for name in EXACT_SIDE {
                let (a, b) = (live.side(side, name)?, offline.side(side, name)?);
                ensure!(a == b, "{name} of end {side}: {a} live, {b} offline");
            }
            self.times(live, offline, side, bases, error)?;
        }
        self.other_initiator += usize::from(live.turned != offline.turned);
        self.records += 1;
        self.packets += live.get("packets")?.parse::<u64>()?;
        Ok(())
    }

    /// Compares the times of one direction.
    fn times(
        &mut self,
        live: &Row,
        offline: &Row,
        side: usize,
        bases: [f64; 2],
        error: f64,
    ) -> Result<()> {
        let pair = |name: &str| -> Result<Option<[f64; 2]>> {
            let cells = [live.side(side, name)?, offline.side(side, name)?];
            ensure!(
                cells[0].is_empty() == cells[1].is_empty(),
                "{name} of end {side}: {cells:?}"
            );
            if cells[0].is_empty() {
                return Ok(None);
            }
            Ok(Some([cells[0].parse()?, cells[1].parse()?]))
        };
        for name in ["first_ns", "last_ns"] {
            if let Some([a, b]) = pair(name)? {
                self.within(a - bases[0], b - bases[1], error, name)?;
            }
        }
        for name in GAPS_SIDE {
            if let Some([a, b]) = pair(name)? {
                self.within(a, b, error, name)?;
            }
        }
        if let (Some([a, b]), Some([longest, _])) = (pair("iat_stddev_ns")?, pair("iat_max_ns")?) {
            // Each time between two packets is off by `error` at most, so their standard deviation by sqrt(n / (n - 1))
            // of it, n at least 2; and squares of whole microseconds shift a variance by 2 us x the time.
            let bound = 1.5 * error + 2.0 * (2_000.0 * longest).sqrt();
            self.within(a, b, bound, "iat_stddev_ns")?;
        }
        Ok(())
    }

    /// The first packets of a flow: of each direction the first ones in their order, each near its time, and none left
    /// out that came clearly before another.
    fn sequence(&mut self, live: &Row, offline: &Row, all: &[Seen], error: f64) -> Result<()> {
        let dirs = live.list("seq_dir")?;
        let bytes = live.list("seq_bytes")?;
        let flags = live.list("seq_tcp_flags")?;
        let offsets = live.list("seq_offset_us")?;
        // Two CPUs that count packets of a flow at the same instant may write the same entry.
        let missing = all.len().min(SEQUENCE_LEN).saturating_sub(dirs.len());
        let together = |w: &&[Seen]| w[0].side != w[1].side && (w[1].at - w[0].at).abs() <= error;
        ensure!(
            dirs.len() <= all.len().min(SEQUENCE_LEN)
                && missing <= all.windows(2).filter(together).count(),
            "{} packets in the sequence of a flow of {}",
            dirs.len(),
            all.len()
        );
        if missing > 0 {
            self.sequences_with_gaps += 1;
            return Ok(());
        }
        ensure!(offsets.is_sorted(), "offsets {offsets:?}");
        let start = all.iter().map(|p| p.at).fold(f64::INFINITY, f64::min);
        let mut sides = [0, 1].map(|side| all.iter().filter(move |p| p.side == side));
        let mut last = start;
        for i in 0..dirs.len() {
            let side = dirs[i] as usize ^ usize::from(live.turned);
            let packet = sides[side].next().context("a packet too many")?;
            ensure!(
                (bytes[i], flags[i]) == (packet.bytes.min(0xffff), packet.flags),
                "packet {i} of the sequence, end {side}: {} bytes, flags {}; the capture has {} and {}",
                bytes[i],
                flags[i],
                packet.bytes,
                packet.flags
            );
            let at = offsets[i] as f64 * 1e3;
            self.within(at, packet.at - start, error, "seq_offset_us")?;
            last = last.max(packet.at);
        }
        for mut left in sides {
            let next = left.next().map_or(f64::INFINITY, |p| p.at);
            ensure!(
                next >= last - error,
                "a packet that came {} ns before the sequence's last is not in it",
                last - next
            );
        }
        let same = live.turned == offline.turned && dirs == offline.list("seq_dir")?;
        self.sequences_in_another_order += usize::from(!same);
        Ok(())
    }
}

/// Plays one capture through the gateway and compares.
fn play(case: &Case, folder: &Path) -> Result<()> {
    let started = Instant::now();
    let name = format!("{}/{}", case.device, case.session);
    let mut stage = Stage::new("capture")?;
    let (capture, devices) = (stage.path("cut.pcap"), stage.path("device.csv"));
    device_list(&folder.join("devices.csv"), case.device, &devices)?;
    let session: PathBuf = folder.join(format!("{name}.pcap"));
    let frames = cut(case, &session, &capture)? as u64;
    stage.start_sink()?;
    stage.start_gateway(&devices, "generator = \"none\"", "")?;
    let replayed = stage
        .replay(&capture, &devices, &["--only-devices", "--quiet"])?
        .status()?;
    ensure!(replayed.success(), "replay: {replayed}");
    let report = stage.stop_gateway()?;
    stage.stop_sink()?;
    let replay: Value = serde_json::from_slice(&fs::read(stage.path("replay.json"))?)?;

    let (offline_csv, offline_json) = (stage.path("offline.csv"), stage.path("offline.json"));
    let metered = Command::new(program("gateway")?)
        .arg("meter")
        .arg(&capture)
        .arg("--devices")
        .arg(&devices)
        .arg("--output")
        .arg(&offline_csv)
        .arg("--report")
        .arg(&offline_json)
        .status()?;
    ensure!(metered.success(), "gateway meter: {metered}");
    let offline: Value = serde_json::from_slice(&fs::read(&offline_json)?)?;

    // Every frame once, on both sides.
    ensure!(number(&replay, "/packets")? == frames, "{replay}");
    ensure!(
        number(&report, "/meter/seen")? == frames,
        "{}",
        report["meter"]
    );
    ensure!(number(&offline, "/packets_in")? == frames, "{offline}");
    let ignored = number(&offline, "/ignored/not_ip")?;
    ensure!(
        number(&report, "/meter/not_ip")? == ignored,
        "{}",
        report["meter"]
    );
    ensure!(
        number(&offline, "/packets_ignored")? - ignored == number(&report, "/meter/malformed")?,
        "{offline} {}",
        report["meter"]
    );

    let live = records(&stage.state("flows.csv"))?;
    let offline = records(&offline_csv)?;
    let seen = packets(&capture)?;
    let keys = |m: &BTreeMap<Key, Row>| m.keys().cloned().collect::<Vec<_>>();
    ensure!(
        keys(&live) == keys(&offline),
        "live {:?}, offline {:?}",
        keys(&live),
        keys(&offline)
    );
    let base = |m: &BTreeMap<Key, Row>| -> Result<f64> {
        let starts = m.values().map(|r| r.time("start_ns"));
        starts.reduce(|a, b| Ok(a?.min(b?))).context("no records")?
    };
    let bases = [base(&live)?, base(&offline)?];
    let error = largest_error(&replay)?;
    let mut found = Found::default();
    for ((key, l), o) in live.iter().zip(offline.values()) {
        let all = seen
            .get(key)
            .with_context(|| format!("{key:?} is not in the capture"))?;
        found
            .compare(l, o, bases, error)
            .and_then(|()| found.sequence(l, o, all, error))
            .with_context(|| format!("{name}: flow {key:?}"))?;
    }
    ensure!(
        found.packets + number(&report, "/meter/not_ip")? + number(&report, "/meter/malformed")?
            == frames,
        "{} in records",
        found.packets
    );
    found.off.sort_by(f64::total_cmp);
    let at = |q: usize| found.off[(found.off.len() - 1) * q / 100] / 1e6;
    let tagged = live
        .values()
        .filter(|r| r.get("vlan_id").is_ok_and(|id| id != "0"))
        .count();
    let v6 = live
        .values()
        .filter(|r| r.cells["ip_version"] == "6")
        .count();
    eprintln!(
        "{name}: {frames} frames, {ignored} not IP, {} records equal ({tagged} tagged, {v6} IPv6); {} times off by \
         {:.3} ms at p50, {:.3} at p99, {:.3} at most, allowed were {:.3}; {} sequences in another order, {} with a gap, \
         {} flows begun by the other end; {:.1} s",
        found.records,
        found.off.len(),
        at(50),
        at(99),
        at(100),
        error / 1e6,
        found.sequences_in_another_order,
        found.sequences_with_gaps,
        found.other_initiator,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

#[test]
fn live_records_of_replayed_captures_equal_offline_records() -> Result<()> {
    const TEST: &str = "live_records_of_replayed_captures_equal_offline_records";
    if skip_without_root(TEST) {
        return Ok(());
    }
    let Some(folder) = shared(TEST, "data/iot") else {
        return Ok(());
    };
    let long = std::env::var_os("CHAFF_LONG").is_some_and(|v| v == "1");
    for case in &CASES[..if long { CASES.len() } else { 2 }] {
        play(case, &folder)?;
    }
    Ok(())
}
