//! Flows and dimensions exactly as netml 0.7.1 makes them.
//!
//! Flows are directed: the two halves of a connection are two flows. A flow is cut at long gaps (timeout), then at gaps
//! longer than a quantile of all durations (interval), and each flow that was cut loses its last piece. Dimensions follow
//! from the capture. TCP and UDP without an IPv4 header all fall into one flow without a key. Times are binary floating
//! point seconds since the epoch, so differences have a granularity of 2.4e-7 s.
//!
//! The one intended difference: lengths are captured lengths, not those of a packet rebuilt by a parser.
//!
//! ```no_run
//! use chaff_flow::features::{Kind, netml::{Config, Table}};
//! # let frames: Vec<(chaff_abi::Nanos, Vec<u8>)> = Vec::new();
//! let mut table = Table::new(Config::default());
//! for (at, frame) in &frames {
//!     table.observe(chaff_flow::Link::Ethernet, *at, frame)?;
//! }
//! let flows = table.finish()?;
//! let shape = flows.shape(Kind::Stats, false, false)?;
//! let matrix = flows.matrix(&shape)?;
//! # Ok::<(), chaff_flow::features::FeatureError>(())
//! ```

mod dissect;
mod labels;

use std::collections::HashMap;
use std::net::Ipv4Addr;

use chaff_abi::Nanos;

pub use dissect::{Seen, dissect};
pub use labels::Labels;

use super::samples::floor_division;
use super::{FeatureError, Kind, Matrix, Sequence, Shape, quantile};
use crate::Link;

/// Packets that are held unless told otherwise: 1.2 GB.
pub const MAX_PACKETS: usize = 50_000_000;

/// The quantile of durations that makes the window of the samp kinds.
const WINDOW_QUANTILE: f64 = 0.3;

/// A directed flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// With an IPv4 header.
    Flow {
        /// Of the outermost IPv4 header.
        source: Ipv4Addr,
        /// Of the outermost IPv4 header.
        destination: Ipv4Addr,
        /// Of the first TCP header, else of the first UDP header.
        source_port: u16,
        /// As the source port.
        destination_port: u16,
        /// 6 or 17.
        protocol: u8,
    },
    /// Everything without an IPv4 header.
    Pooled,
}

/// How flows are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Packets a flow needs; 2 is the least that has an effect.
    pub min_packets: usize,
    /// A longer gap ends a flow, seconds.
    pub timeout_s: f64,
    /// Quantile of durations that makes the interval, and of packet counts that makes the dimension; above 0, at most 1.
    pub q_interval: f64,
    /// The interval itself, seconds, instead of a quantile.
    pub interval_s: Option<f64>,
    /// Packets held at most.
    pub max_packets: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_packets: 2,
            timeout_s: 600.0,
            q_interval: 0.9,
            interval_s: None,
            max_packets: MAX_PACKETS,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    at: f64,
    bytes: u32,
    flags: u8,
    ttl: Option<u8>,
}

/// Collects packets. It holds 24 bytes for each, since every threshold depends on all of them.
#[derive(Debug)]
pub struct Table {
    config: Config,
    index: HashMap<Key, usize>,
    groups: Vec<(Key, Vec<Packet>)>,
    packets: usize,
    ignored: u64,
}

impl Table {
    /// Without packets.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            index: HashMap::new(),
            groups: Vec::new(),
            packets: 0,
            ignored: 0,
        }
    }

    /// Takes a frame; `frame` is what was captured, its length counts. Frames without TCP or UDP are only counted.
    ///
    /// # Errors
    /// [`FeatureError::TooManyPackets`].
    pub fn observe(&mut self, link: Link, at: Nanos, frame: &[u8]) -> Result<(), FeatureError> {
        let Some(seen) = dissect(link, frame) else {
            self.ignored += 1;
            return Ok(());
        };
        if self.packets == self.config.max_packets {
            return Err(FeatureError::TooManyPackets {
                limit: self.config.max_packets,
            });
        }
        self.packets += 1;
        let groups = &mut self.groups;
        let index = *self.index.entry(seen.key).or_insert_with(|| {
            groups.push((seen.key, Vec::new()));
            groups.len() - 1
        });
        self.groups[index].1.push(Packet {
            at: seconds(at),
            bytes: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            flags: seen.flags,
            ttl: seen.ttl,
        });
        Ok(())
    }

    /// Packets kept.
    pub fn packets(&self) -> usize {
        self.packets
    }

    /// Frames without TCP or UDP.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Makes the flows.
    ///
    /// # Errors
    /// [`FeatureError::NoFlows`] and [`FeatureError::Range`].
    pub fn finish(self) -> Result<Flows, FeatureError> {
        let Config {
            min_packets,
            timeout_s,
            q_interval,
            interval_s,
            ..
        } = self.config;
        if !(q_interval > 0.0 && q_interval <= 1.0) {
            return Err(FeatureError::Range {
                name: "the interval quantile",
                value: q_interval,
                range: "above 0 and at most 1",
            });
        }
        let mut pieces = Vec::new();
        for (key, mut packets) in self.groups {
            if packets.len() < min_packets.max(2) {
                continue;
            }
            packets.sort_by(|a, b| a.at.total_cmp(&b.at));
            split(packets, timeout_s, |piece| {
                if piece.len() >= min_packets {
                    pieces.push((key, piece));
                }
            });
        }
        let none = FeatureError::NoFlows {
            min_packets: min_packets.max(2),
        };
        let mut durations: Vec<f64> = pieces.iter().map(|(_, p)| duration(p)).collect();
        durations.sort_unstable_by(f64::total_cmp);
        let interval_s = match interval_s.filter(|&i| i > 0.0) {
            Some(interval) => interval,
            None => quantile(&durations, q_interval).ok_or(none.clone())?,
        };
        let before_interval = pieces.len();
        let mut flows = Vec::with_capacity(pieces.len());
        for (key, packets) in pieces {
            align(packets, interval_s, |piece| {
                if piece.len() >= min_packets.max(2) {
                    flows.push(Flow::new(key, &piece));
                }
            });
        }
        if flows.is_empty() {
            return Err(none);
        }
        Ok(Flows {
            flows,
            interval_s,
            before_interval,
            q_interval,
            min_packets,
        })
    }
}

/// The nearest binary number of seconds.
fn seconds(at: Nanos) -> f64 {
    if at.0.is_multiple_of(1000) {
        // Both are exact below 2^53 us, and the quotient is correctly rounded.
        (at.0 / 1000) as f64 / 1e6
    } else {
        let text = format!("{}.{:09}", at.0 / 1_000_000_000, at.0 % 1_000_000_000);
        text.parse().unwrap_or(0.0)
    }
}

fn duration(packets: &[Packet]) -> f64 {
    match (packets.first(), packets.last()) {
        (Some(first), Some(last)) => last.at - first.at,
        _ => 0.0,
    }
}

/// Cuts where a gap is longer than `timeout`; a flow that was cut loses its last piece.
fn split(packets: Vec<Packet>, timeout: f64, mut each: impl FnMut(Vec<Packet>)) {
    let mut piece: Vec<Packet> = Vec::with_capacity(packets.len());
    let mut was_cut = false;
    for packet in packets {
        if piece.last().is_some_and(|p| packet.at - p.at > timeout) {
            each(std::mem::take(&mut piece));
            was_cut = true;
        }
        piece.push(packet);
    }
    if !was_cut {
        each(piece);
    }
}

/// Cuts where a packet is more than `interval` after the one before; for the first packet of a piece what counts as its
/// time is the beginning of its interval, counted from the first packet.
fn align(packets: Vec<Packet>, interval: f64, mut each: impl FnMut(Vec<Packet>)) {
    let Some(first) = packets.first() else {
        return;
    };
    let (mut start, mut previous) = (first.at, first.at);
    let mut piece: Vec<Packet> = Vec::with_capacity(packets.len());
    let mut was_cut = false;
    for packet in packets {
        if !piece.is_empty() && packet.at - previous > interval {
            each(std::mem::take(&mut piece));
            let steps = floor_division(packet.at - start, interval);
            // An interval of 0 has no beginnings.
            start += if steps.is_finite() {
                steps.trunc() * interval
            } else {
                packet.at - start
            };
            previous = start;
            was_cut = true;
        } else {
            previous = packet.at;
        }
        piece.push(packet);
    }
    if !was_cut {
        each(piece);
    }
}

/// One flow after both cuts.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Which.
    pub key: Key,
    at: Vec<f64>,
    bytes: Vec<f64>,
    flags: Vec<u8>,
    ttl: Vec<u8>,
    headless: u64,
}

impl Flow {
    fn new(key: Key, packets: &[Packet]) -> Self {
        Self {
            key,
            at: packets.iter().map(|p| p.at).collect(),
            bytes: packets.iter().map(|p| f64::from(p.bytes)).collect(),
            flags: packets.iter().map(|p| p.flags).collect(),
            ttl: packets.iter().map(|p| p.ttl.unwrap_or(0)).collect(),
            headless: packets.iter().filter(|p| p.ttl.is_none()).count() as u64,
        }
    }

    /// First packet's time, seconds since the epoch.
    pub fn start_s(&self) -> f64 {
        self.at.first().copied().unwrap_or(0.0)
    }

    /// Last packet's time, seconds since the epoch.
    pub fn end_s(&self) -> f64 {
        self.at.last().copied().unwrap_or(0.0)
    }

    /// Its packets.
    pub fn sequence(&self) -> Sequence<'_> {
        Sequence {
            at: &self.at,
            bytes: &self.bytes,
            flags: &self.flags,
            ttl: &self.ttl,
            headless: self.headless,
        }
    }
}

/// All flows of a capture, by the first appearance of their key, then by time.
#[derive(Clone, Debug)]
pub struct Flows {
    flows: Vec<Flow>,
    interval_s: f64,
    before_interval: usize,
    q_interval: f64,
    min_packets: usize,
}

impl Flows {
    /// The flows.
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// Interval that flows were cut with, seconds.
    pub fn interval_s(&self) -> f64 {
        self.interval_s
    }

    /// Flows there were before the cut by interval.
    pub fn before_interval(&self) -> usize {
        self.before_interval
    }

    /// Keeps the flows that the label file names and tells which of them are attacks. Dimensions made afterwards are those
    /// of the flows that are left.
    pub fn label(&mut self, labels: &Labels) -> Vec<bool> {
        let mut kept = Vec::new();
        self.flows.retain(|flow| match labels.is_attack(&flow.key) {
            Some(attack) => {
                kept.push(attack);
                true
            }
            None => false,
        });
        kept
    }

    /// Dimension base and sampling window that follow from these flows.
    ///
    /// # Errors
    /// [`FeatureError::NoFlows`].
    pub fn shape(&self, kind: Kind, fft: bool, header: bool) -> Result<Shape, FeatureError> {
        let none = FeatureError::NoFlows {
            min_packets: self.min_packets.max(2),
        };
        let sorted = |value: fn(&Flow) -> f64| {
            let mut all: Vec<f64> = self.flows.iter().map(value).collect();
            all.sort_unstable_by(f64::total_cmp);
            all
        };
        let counts = sorted(|f| f.at.len() as f64);
        let durations = sorted(|f| f.sequence().duration());
        let base = quantile(&counts, self.q_interval).ok_or(none.clone())?;
        Ok(Shape {
            kind,
            fft,
            header,
            base: base.floor() as usize,
            window_s: quantile(&durations, WINDOW_QUANTILE).ok_or(none)?,
        })
    }

    /// One row per flow.
    ///
    /// # Errors
    /// Those of [`Shape::row`] and [`Shape::check`].
    pub fn matrix(&self, shape: &Shape) -> Result<Matrix, FeatureError> {
        shape.check()?;
        if shape.header {
            let packets = self.flows.iter().map(|f| f.headless).sum();
            if packets > 0 {
                return Err(FeatureError::NoHeader { packets });
            }
        }
        let columns = shape.columns();
        let mut values = Vec::with_capacity(columns * self.flows.len());
        for flow in &self.flows {
            shape.row(&flow.sequence(), &mut values)?;
        }
        Ok(Matrix { columns, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(times: &[f64]) -> Vec<Packet> {
        times
            .iter()
            .map(|&at| Packet {
                at,
                bytes: 60,
                flags: 0,
                ttl: Some(64),
            })
            .collect()
    }

    fn cut(times: &[f64], by: impl Fn(Vec<Packet>, &mut dyn FnMut(Vec<Packet>))) -> Vec<Vec<f64>> {
        let mut out = Vec::new();
        by(packets(times), &mut |p| {
            out.push(p.iter().map(|p| p.at).collect())
        });
        out
    }

    #[test]
    fn a_flow_that_was_cut_loses_its_last_piece() {
        let timeout = |p: Vec<Packet>, each: &mut dyn FnMut(Vec<Packet>)| split(p, 600.0, each);
        assert_eq!(cut(&[0.0, 600.0], timeout), [vec![0.0, 600.0]]);
        assert_eq!(
            cut(&[0.0, 1.0, 700.0, 701.0, 1500.0], timeout),
            [vec![0.0, 1.0], vec![700.0, 701.0]]
        );
    }

    #[test]
    fn pieces_are_aligned_to_intervals_of_the_first_packet() {
        let interval = |p: Vec<Packet>, each: &mut dyn FnMut(Vec<Packet>)| align(p, 10.0, each);
        // 25 opens a piece that counts from 20, so 31 is more than 10 later.
        assert_eq!(
            cut(&[0.0, 5.0, 25.0, 31.0, 33.0, 60.0], interval),
            [vec![0.0, 5.0], vec![25.0], vec![31.0, 33.0]]
        );
        assert_eq!(cut(&[0.0, 10.0, 20.0], interval), [vec![0.0, 10.0, 20.0]]);
    }

    #[test]
    fn times_are_the_nearest_binary_numbers() {
        assert_eq!(seconds(Nanos(1_499_083_690_807_570_000)), 1499083690.80757);
        assert_eq!(
            seconds(Nanos(1_499_083_690_807_570_001)),
            "1499083690.807570001".parse::<f64>().unwrap()
        );
    }

    #[test]
    fn a_table_without_flows_says_so() {
        let error = Table::new(Config::default()).finish().unwrap_err();
        assert_eq!(error, FeatureError::NoFlows { min_packets: 2 });
        let config = Config {
            q_interval: 0.0,
            ..Config::default()
        };
        assert!(matches!(
            Table::new(config).finish(),
            Err(FeatureError::Range { .. })
        ));
    }
}
