//! The report of a replay. Its JSON form carries [`VERSION`]; fields are only added within a version.
use chaff_abi::Nanos;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::plan::Selection;
use crate::send::{LaneStats, LoopStats};
use crate::verify::Verdict;

/// Version of the JSON form.
pub const VERSION: u32 = 1;

/// What a replay did. All times are ns; `*_unix_ns` counts from the Unix epoch.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// The captures.
    pub files: Vec<String>,
    /// What was wrong with broken captures.
    pub damage: Vec<String>,
    /// The devices that direction was told by.
    pub devices: String,
    /// What became of the captures' packets.
    pub capture: Selection,
    /// Packets that left.
    pub packets: u64,
    /// Their bytes: frames without FCS, IP packets (TUN), or payloads (UDP).
    pub bytes: u64,
    /// From the first packet to the last, s.
    pub seconds: f64,
    /// Packets per second over that time; 0 when there is none.
    pub packets_per_second: f64,
    /// Bits per second over that time; 0 when there is none.
    pub bits_per_second: f64,
    /// Whether the replay was ended early (signal or `--duration`).
    pub stopped: bool,
    /// When the first packet left.
    pub first_unix_ns: u64,
    /// When the last packet left.
    pub last_unix_ns: u64,
    /// Per interface.
    pub lanes: Vec<LaneReport>,
    /// Per loop, both interfaces together; the first 1,024.
    pub loops: Vec<LoopReport>,
    /// Loops that are not listed.
    pub loops_omitted: u64,
    /// Per direction, when arrivals were compared.
    pub verify: Option<VerifyReport>,
}

/// What left at one interface.
#[derive(Clone, Debug, Serialize)]
pub struct LaneReport {
    /// Interface, TUN device or address.
    pub interface: String,
    /// Packets that left.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sends repeated because a queue was full.
    pub retries: u64,
    /// Datagrams the far end refused.
    pub refused: u64,
    /// When the first packet left.
    pub first_unix_ns: u64,
    /// When the last packet left.
    pub last_unix_ns: u64,
    /// By how much first to last took longer than planned, ns.
    pub drift_ns: i64,
    /// From a packet's due time to its system call; empty at top speed.
    pub lateness_ns: Distribution,
    /// Whether the thread had real-time priority.
    pub realtime: bool,
}

/// One loop.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LoopReport {
    /// From 1.
    pub number: u64,
    /// Packets that left.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the first packet left.
    pub first_unix_ns: u64,
    /// When the last packet left.
    pub last_unix_ns: u64,
    /// Packets per second from first to last; 0 when that is no time.
    pub packets_per_second: f64,
}

/// The comparison of what was sent with what arrived.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// Whether everything arrived once and unchanged, and nothing else did.
    pub clean: bool,
    /// Per direction.
    pub directions: Vec<VerdictReport>,
}

/// One direction of the comparison.
#[derive(Clone, Debug, Serialize)]
pub struct VerdictReport {
    /// Where it was sent.
    pub from: String,
    /// Where it was to arrive.
    pub to: String,
    /// Packets sent.
    pub sent: u64,
    /// Arrived as sent.
    pub matched: u64,
    /// Bytes of those.
    pub matched_bytes: u64,
    /// Never arrived.
    pub lost: u64,
    /// Arrived once too often.
    pub duplicated: u64,
    /// Unknown, between two hosts that the replay speaks for.
    pub altered: u64,
    /// Unknown, from elsewhere.
    pub foreign: u64,
    /// From or to an ignored host.
    pub ignored: u64,
    /// Arrived after a frame that was sent later; not an error.
    pub out_of_order: u64,
    /// Lost by the receiving socket.
    pub receiver_dropped: u64,
    /// SHA-256 multiset hash of what was sent.
    pub sent_hash: String,
    /// SHA-256 multiset hash of what arrived.
    pub received_hash: String,
    /// From the sending call to the kernel's receive time.
    pub latency_ns: Distribution,
    /// The first lost packets.
    pub lost_examples: Vec<String>,
}

/// Quantiles of a histogram, ns, to three digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Values.
    pub count: u64,
    /// Smallest.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// Largest.
    pub max: u64,
}

impl From<&Histogram<u64>> for Distribution {
    fn from(h: &Histogram<u64>) -> Self {
        if h.is_empty() {
            return Self::default();
        }
        Self {
            count: h.len(),
            min: h.min(),
            mean: h.mean(),
            p50: h.value_at_quantile(0.5),
            p90: h.value_at_quantile(0.9),
            p99: h.value_at_quantile(0.99),
            p999: h.value_at_quantile(0.999),
            max: h.max(),
        }
    }
}

/// Turns monotonic into Unix time.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    /// A monotonic time.
    pub monotonic: Nanos,
    /// The Unix time at that moment.
    pub unix: Nanos,
}

impl Epoch {
    fn unix(&self, at: Nanos) -> u64 {
        (self.unix + at - self.monotonic).0
    }
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

impl Report {
    /// Puts the lanes' statistics together.
    pub fn new(
        files: Vec<String>,
        damage: Vec<String>,
        devices: String,
        capture: Selection,
        lanes: &[(String, LaneStats, bool)],
        epoch: Epoch,
    ) -> Self {
        let stats = || lanes.iter().map(|(_, s, _)| s);
        let first = stats().filter_map(|s| s.first).map(|f| f.0).min();
        let last = stats().filter_map(|s| s.last).map(|l| l.0).max();
        let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
        let seconds = (last - first).as_secs_f64();
        let packets = stats().map(|s| s.packets).sum();
        let bytes: u64 = stats().map(|s| s.bytes).sum();
        let loops = merge_loops(stats().map(|s| s.loops.as_slice()), epoch);
        let listed: u64 = loops.iter().map(|l| l.packets).sum();
        let per_loop = capture.selected.max(1);
        Self {
            version: VERSION,
            files,
            damage,
            devices,
            capture,
            packets,
            bytes,
            seconds,
            packets_per_second: rate(packets, seconds),
            bits_per_second: rate(bytes * 8, seconds),
            stopped: stats().any(|s| s.stopped),
            first_unix_ns: epoch.unix(first),
            last_unix_ns: epoch.unix(last),
            lanes: lanes.iter().map(|l| LaneReport::new(l, epoch)).collect(),
            loops,
            loops_omitted: (packets - listed).div_ceil(per_loop),
            verify: None,
        }
    }

    /// Whether everything that was checked is right.
    pub fn is_clean(&self) -> bool {
        self.verify.as_ref().is_none_or(|v| v.clean)
    }
}

impl LaneReport {
    fn new((name, s, realtime): &(String, LaneStats, bool), epoch: Epoch) -> Self {
        let at = |t: Option<(Nanos, Nanos)>| t.map_or(0, |t| epoch.unix(t.0));
        Self {
            interface: name.clone(),
            packets: s.packets,
            bytes: s.bytes,
            retries: s.retries,
            refused: s.refused,
            first_unix_ns: at(s.first),
            last_unix_ns: at(s.last),
            drift_ns: s.drift(),
            lateness_ns: (&s.lateness).into(),
            realtime: *realtime && s.no_realtime.is_none(),
        }
    }
}

fn merge_loops<'a>(lanes: impl Iterator<Item = &'a [LoopStats]>, epoch: Epoch) -> Vec<LoopReport> {
    let mut merged: Vec<LoopStats> = Vec::new();
    for lane in lanes {
        for (i, l) in lane.iter().enumerate() {
            match merged.get_mut(i) {
                Some(m) => {
                    m.packets += l.packets;
                    m.bytes += l.bytes;
                    m.first = m.first.min(l.first);
                    m.last = m.last.max(l.last);
                }
                None => merged.push(*l),
            }
        }
    }
    merged
        .iter()
        .enumerate()
        .map(|(i, l)| LoopReport {
            number: i as u64 + 1,
            packets: l.packets,
            bytes: l.bytes,
            first_unix_ns: epoch.unix(l.first),
            last_unix_ns: epoch.unix(l.last),
            packets_per_second: rate(l.packets, (l.last - l.first).as_secs_f64()),
        })
        .collect()
}

impl VerdictReport {
    /// Puts one direction's account together.
    pub fn new(from: &str, to: &str, v: &Verdict, files: &[String]) -> Self {
        let f = &v.found;
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            sent: v.sent,
            matched: f.matched,
            matched_bytes: f.matched_bytes,
            lost: v.lost,
            duplicated: f.duplicated,
            altered: f.altered,
            foreign: f.foreign,
            ignored: f.ignored,
            out_of_order: f.out_of_order,
            receiver_dropped: f.receiver_dropped,
            sent_hash: v.sent_hash.to_string(),
            received_hash: f.hash.to_string(),
            latency_ns: (&f.latency).into(),
            lost_examples: v
                .examples
                .iter()
                .map(|&(file, number)| {
                    let file = files.get(file as usize).map_or("?", String::as_str);
                    format!("packet {number} of {file}")
                })
                .collect(),
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "sent {} packets, {} bytes in {:.6} s ({:.0} packets/s, {:.3} Mbit/s){}",
            self.packets,
            self.bytes,
            self.seconds,
            self.packets_per_second,
            self.bits_per_second / 1e6,
            if self.stopped { ", ended early" } else { "" },
        )?;
        for l in &self.lanes {
            let d = &l.lateness_ns;
            write!(
                f,
                "  {}: {} packets, {} bytes",
                l.interface, l.packets, l.bytes
            )?;
            if d.count > 0 {
                write!(
                    f,
                    "; late p50 {:.1} µs, p99 {:.1} µs, max {:.1} µs; drift {:.1} µs",
                    d.p50 as f64 / 1e3,
                    d.p99 as f64 / 1e3,
                    d.max as f64 / 1e3,
                    l.drift_ns as f64 / 1e3,
                )?;
            }
            if l.retries + l.refused > 0 {
                write!(f, "; {} retries, {} refused", l.retries, l.refused)?;
            }
            writeln!(f)?;
        }
        let Some(v) = &self.verify else {
            return Ok(());
        };
        for d in &v.directions {
            write!(
                f,
                "  {} -> {}: {} of {} arrived, {} lost, {} duplicated, {} altered, {} foreign, {} ignored, {} out of order",
                d.from,
                d.to,
                d.matched,
                d.sent,
                d.lost,
                d.duplicated,
                d.altered,
                d.foreign,
                d.ignored,
                d.out_of_order,
            )?;
            if d.receiver_dropped > 0 {
                write!(
                    f,
                    ", {} dropped by the receiving socket",
                    d.receiver_dropped
                )?;
            }
            let l = &d.latency_ns;
            if l.count > 0 {
                write!(
                    f,
                    "; latency p50 {:.1} µs, p99 {:.1} µs",
                    l.p50 as f64 / 1e3,
                    l.p99 as f64 / 1e3
                )?;
            }
            writeln!(f)?;
            if !d.lost_examples.is_empty() {
                writeln!(f, "    lost: {}", d.lost_examples.join(", "))?;
            }
        }
        writeln!(
            f,
            "  {}",
            if v.clean {
                "everything arrived once and unchanged"
            } else {
                "NOT everything arrived once and unchanged"
            }
        )
    }
}
