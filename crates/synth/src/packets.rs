//! Flows into packets, and packets into a capture.
//!
//! A flow's bytes and duration are shared out packet by packet: the size of the next one given what each of those left has on
//! average, the size before it and its place; gaps likewise. The last packet takes what is left, so a flow keeps exactly
//! its count, bytes and duration.

use std::collections::HashMap;
use std::io::Write;
use std::net::IpAddr;

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_trace::PcapWriter;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use crate::address::key;
use crate::capture::{Capture, Step};
use crate::chain::Chain;
use crate::encode::{Encoder, FIELDS, SERVICE};
use crate::grid::Grid;
use crate::sample::{pick, running, stratum};
use crate::table::{MAX_RECORDS, Record, Table, header_bytes};
use crate::wire::{Out, Sent, build, ethernet, headers, least_bytes, well_formed};
use crate::{Engine, Model, SynthError};

/// The most packets that are written at once: 20 million.
pub const MAX_WRITTEN: u64 = 20_000_000;
/// Gaps are told apart in 64 steps of two thirds of an octave.
pub(crate) const GAP_SYMBOLS: u32 = 64;
/// Levels of the two chains.
pub(crate) const SIZE_LEVELS: usize = 6;
pub(crate) const GAP_LEVELS: usize = 4;

/// Bins of packet sizes; the tables are the model's last two chains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PacketModel {
    pub(crate) sizes: Grid,
    /// Bins of packets' times with their packets, and the last time of all; private models have none.
    pub(crate) times: Option<(Grid, Vec<f64>, u64)>,
    /// Flows with each number of packets, in the encoder's bins; private models have none.
    pub(crate) counts: Vec<f64>,
}

/// How a capture is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct PcapOptions {
    /// Seed of sizes, times and identifications.
    pub seed: u64,
    /// Payloads, zeros, are in the file; otherwise packets are cut after their headers, as header traces are.
    pub payloads: bool,
    /// Ethernet frames instead of raw IP: private and link-local hosts have MAC addresses of their own, the others are
    /// behind one router.
    pub ethernet: bool,
}

/// What a packet's size or gap depends on.
#[derive(Clone, Copy, Default)]
pub(crate) struct Before {
    pub(crate) service: u32,
    /// Bin of what each packet left has on average.
    pub(crate) mean: u32,
    /// Packets before it, at most 3.
    pub(crate) place: u32,
    /// Bin of the packet before it and 1, or 0.
    pub(crate) last: u32,
}

pub(crate) fn size_contexts(b: &Before) -> [u64; SIZE_LEVELS] {
    let n = u64::from;
    [
        key(&[n(b.service), n(b.mean), n(b.place), n(b.last)]),
        key(&[1, n(b.mean), n(b.place), n(b.last)]),
        key(&[2, n(b.mean), n(b.last)]),
        key(&[3, n(b.service), n(b.last)]),
        key(&[4, n(b.mean)]),
        key(&[]),
    ]
}

pub(crate) fn gap_contexts(b: &Before) -> [u64; GAP_LEVELS] {
    let n = u64::from;
    [
        key(&[n(b.service), n(b.mean), n(b.place), n(b.last)]),
        key(&[1, n(b.mean), n(b.last)]),
        key(&[2, n(b.mean)]),
        key(&[]),
    ]
}

pub(crate) fn gap_symbol(gap: u64) -> u32 {
    ((((gap + 1) as f64).log2() * 1.5) as u32).min(GAP_SYMBOLS - 1)
}

/// A packet that is not the last of its flow: it has a size to learn, and a gap when it is not the first.
pub(crate) struct Inner {
    pub(crate) flow: u32,
    /// Without service and bins.
    pub(crate) size: Before,
    pub(crate) bytes: u32,
    pub(crate) mean_bytes: u64,
    pub(crate) last_bytes: Option<u32>,
    pub(crate) gap: Option<(Before, u32)>,
}

/// The packets of a capture that have something to learn.
pub(crate) fn inner(capture: &Capture) -> Vec<Inner> {
    struct Flow {
        packets: u64,
        bytes: u64,
        duration: u64,
        at: u64,
        place: u32,
        last: Option<u32>,
        last_gap: u32,
    }
    let mut flows: Vec<Flow> = capture
        .table
        .records
        .iter()
        .map(|r| Flow {
            packets: r.packets,
            bytes: r.bytes,
            duration: r.duration_us,
            at: r.start_us,
            place: 0,
            last: None,
            last_gap: 0,
        })
        .collect();
    let mut out = Vec::new();
    for step in &capture.steps {
        let f = &mut flows[step.flow as usize];
        let gap = step.at_us.saturating_sub(f.at);
        if f.packets > 1 {
            let before = Before {
                place: f.place,
                ..Before::default()
            };
            out.push(Inner {
                flow: step.flow,
                size: before,
                bytes: step.bytes,
                mean_bytes: f.bytes / f.packets,
                last_bytes: f.last,
                gap: (f.last.is_some()).then(|| {
                    let mean = gap_symbol(f.duration / f.packets);
                    let last = f.last_gap;
                    (
                        Before {
                            mean,
                            last,
                            ..before
                        },
                        gap_symbol(gap),
                    )
                }),
            });
        }
        if f.last.is_some() {
            f.last_gap = gap_symbol(gap) + 1;
        }
        f.packets = f.packets.saturating_sub(1);
        f.bytes = f.bytes.saturating_sub(u64::from(step.bytes));
        f.duration = f.duration.saturating_sub(gap);
        f.at = f.at.max(step.at_us);
        f.place = (f.place + 1).min(3);
        f.last = Some(step.bytes);
    }
    out
}

impl PacketModel {
    /// Whether a model file's part can be used.
    pub(crate) fn valid(&self) -> bool {
        let times = |(grid, weights, _): &(Grid, Vec<f64>, u64)| {
            grid.valid()
                && grid.len() == weights.len()
                && weights.iter().all(|w| w.is_finite() && *w >= 0.0)
        };
        let counted = self.counts.iter().all(|w| w.is_finite() && *w >= 0.0);
        counted && self.sizes.valid() && self.times.as_ref().is_none_or(times)
    }

    /// What a size depends on, in bins.
    pub(crate) fn before(&self, inner: &Inner, service: u32) -> Before {
        Before {
            service,
            mean: self.sizes.find(inner.mean_bytes),
            last: inner
                .last_bytes
                .map_or(0, |b| self.sizes.find(u64::from(b)) + 1),
            ..inner.size
        }
    }
}

fn counts(capture: &Capture, encoder: &Encoder) -> Vec<f64> {
    let mut out = vec![0.0; encoder.packets.len()];
    for r in &capture.table.records {
        out[encoder.packets.find(r.packets) as usize] += 1.0;
    }
    out
}

/// Gives flows the learned numbers of packets, the largest to those that have most: few flows carry most packets, so numbers
/// that were drawn one by one add up to anything. Bytes for each packet stay as they are.
pub(crate) fn calibrate(
    records: &mut [Record],
    encoder: &Encoder,
    counts: &[f64],
    rng: &mut dyn RngCore,
) {
    if counts.len() != encoder.packets.len() || counts.iter().sum::<f64>() <= 0.0 {
        return;
    }
    let sums = running(counts);
    let n = records.len();
    let mut order: Vec<(u64, u32, usize)> = records
        .iter()
        .enumerate()
        .map(|(i, r)| (r.packets, rng.random(), i))
        .collect();
    order.sort_unstable();
    for (rank, (packets, _, i)) in order.into_iter().enumerate() {
        let bin = pick(&sums, (rank as f64 + 0.5) / n as f64) as u32;
        if encoder.packets.find(packets) == bin {
            continue;
        }
        let r = &mut records[i];
        let now = encoder.packets.draw(bin, rng).max(1);
        r.bytes = (u128::from(r.bytes) * u128::from(now) / u128::from(packets.max(1))) as u64;
        r.packets = now;
    }
}

/// Times of packets.
fn arrivals(steps: &[Step]) -> (Grid, Vec<f64>, u64) {
    let times: Vec<u64> = steps.iter().map(|s| s.at_us).collect();
    let (first, last) = times
        .iter()
        .fold((u64::MAX, 0), |(a, b), t| (a.min(*t), b.max(*t)));
    let gap = (last.saturating_sub(first) / 512).max(1);
    let grid = Grid::exact(times.clone(), usize::MAX, (times.len() / 1024).max(16), gap);
    let mut weights = vec![0.0; grid.len()];
    for t in times {
        weights[grid.find(t) as usize] += 1.0;
    }
    (grid, weights, last)
}

/// Learns sizes and gaps of packets inside their flows.
pub(crate) fn learn(capture: &Capture, encoder: &Encoder) -> (PacketModel, [Chain; 2]) {
    let n = capture.steps.len();
    let sizes = capture.steps.iter().map(|s| u64::from(s.bytes)).collect();
    let model = PacketModel {
        sizes: Grid::exact(sizes, (n / 2048).max(5), (n / 512).max(8), u64::MAX),
        times: Some(arrivals(&capture.steps)),
        counts: counts(capture, encoder),
    };
    let index = encoder.index();
    let services: Vec<u32> = capture
        .table
        .records
        .iter()
        .map(|r| encoder.symbols(&index, r)[SERVICE])
        .collect();
    let inner = inner(capture);
    let size = Chain::exact(
        SIZE_LEVELS,
        inner.len(),
        |i, out| {
            let service = services[inner[i].flow as usize];
            out.copy_from_slice(&size_contexts(&model.before(&inner[i], service)));
        },
        |i| model.sizes.find(u64::from(inner[i].bytes)),
    );
    let gaps: Vec<(u32, Before, u32)> = inner
        .iter()
        .filter_map(|p| p.gap.map(|(before, symbol)| (p.flow, before, symbol)))
        .collect();
    let gap = Chain::exact(
        GAP_LEVELS,
        gaps.len(),
        |i, out| {
            let (flow, before, _) = gaps[i];
            let service = services[flow as usize];
            out.copy_from_slice(&gap_contexts(&Before { service, ..before }));
        },
        |i| gaps[i].2,
    );
    (model, [size, gap])
}

/// Writes flows as packets: a capture of raw IP or Ethernet with right lengths and checksums. Payloads are zeros.
///
/// A flow has exactly its number of packets, the first at its start, the last at its end, and its bytes as far as headers
/// and the largest packet allow. TCP connections open with SYN and close with FIN where the flow is long enough; sequence
/// numbers count the payload, acknowledgements what the other direction sent. Without a model of packets (flow tables) sizes
/// are near the flow's mean and times even. Gives the number of packets.
///
/// # Errors
/// [`SynthError::TooMany`] above [`MAX_WRITTEN`] packets, [`SynthError::Capture`] for a time that pcap cannot hold.
pub fn write_pcap(
    out: impl Write,
    table: &Table,
    model: Option<&Model>,
    options: &PcapOptions,
) -> Result<u64, SynthError> {
    let total = table
        .records
        .iter()
        .try_fold(0u64, |n, r| n.checked_add(r.packets));
    if total.is_none_or(|n| n > MAX_WRITTEN) {
        return Err(SynthError::TooMany {
            what: "packets in a capture",
            limit: MAX_WRITTEN as usize,
        });
    }
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed ^ 0x70_61_63_6b);
    let learned = model.and_then(|m| {
        Some(Learned {
            sizes: &m.packets.as_ref()?.sizes,
            size: m.chains.get(FIELDS)?,
            gap: m.chains.get(FIELDS + 1)?,
        })
    });
    let index = model.map(|m| m.encoder.index());
    let mut packets: Vec<Out> = Vec::with_capacity(total.unwrap_or(0) as usize);
    for (flow, r) in table.records.iter().enumerate() {
        let service = match (model, &index) {
            (Some(m), Some(index)) if learned.is_some() => m.encoder.symbols(index, r)[SERVICE],
            _ => 0,
        };
        let parts = (learned.as_ref(), service);
        let times = times(r, parts, &mut rng);
        let n = times.len();
        for ((i, at), bytes) in times.into_iter().enumerate().zip(sizes(r, parts, &mut rng)) {
            packets.push(Out {
                at,
                flow: flow as u32,
                bytes,
                first: i == 0,
                last: i + 1 == n && n > 3,
            });
        }
    }
    packets.sort_by_key(|p| p.at);
    if let Some((grid, weights, _)) = model.and_then(|m| m.packets.as_ref()?.times.as_ref()) {
        arrive(&mut packets, grid, weights, &mut rng);
        packets.sort_by_key(|p| p.at);
    }
    let link = if options.ethernet {
        Link::Ethernet
    } else {
        Link::RawIp
    };
    let mut writer = PcapWriter::new(out, link)?;
    let mut sent = Sent::new();
    let mut ids: HashMap<IpAddr, u16> = HashMap::new();
    let (mut bytes, mut frame) = (Vec::new(), Vec::new());
    for p in &packets {
        let r = &table.records[p.flow as usize];
        let id = ids.entry(r.src).or_insert_with(|| rng.random());
        *id = id.wrapping_add(1);
        build(r, p, *id, &mut sent, &mut bytes);
        let kept = if options.payloads {
            bytes.len()
        } else {
            headers(r, &bytes).min(bytes.len())
        };
        frame.clear();
        if options.ethernet {
            frame.extend(ethernet(r));
        }
        let length = frame.len() + bytes.len();
        frame.extend_from_slice(&bytes[..kept]);
        writer.write(Nanos(p.at.saturating_mul(1000)), &frame, length)?;
    }
    writer.into_inner()?;
    Ok(packets.len() as u64)
}

/// Draws a capture of Ethernet frames, cut after their headers, as input for a simulation or a replay. `records` flows; without
/// it as many as were learned from.
///
/// # Errors
/// As [`Engine::sample`] and [`write_pcap`].
pub fn draw_frames(
    model: &dyn Engine,
    records: Option<usize>,
    seed: u64,
) -> Result<Vec<u8>, SynthError> {
    let usual = usize::try_from(model.info().records).unwrap_or(usize::MAX);
    let drawn = model.sample(records.unwrap_or(usual.min(MAX_RECORDS)), seed)?;
    let options = PcapOptions {
        seed,
        ethernet: true,
        payloads: false,
    };
    let mut out = Vec::new();
    write_pcap(&mut out, &drawn, model.tables(), &options)?;
    Ok(out)
}

/// Lets packets arrive at the learned rate, in the order that they have: each bin of time takes the next of them and spreads them
/// as they were spread.
fn arrive(packets: &mut [Out], grid: &Grid, weights: &[f64], rng: &mut dyn RngCore) {
    let sums = running(weights);
    let n = packets.len();
    let mut bins: Vec<usize> = (0..n).map(|i| pick(&sums, stratum(i, n, rng))).collect();
    bins.sort_unstable();
    let mut left = packets;
    for run in bins.chunk_by(|a, b| a == b) {
        let (mine, after) = left.split_at_mut(run.len());
        left = after;
        let (low, high) = grid.bounds(run[0] as u32);
        let (first, last) = (mine[0].at, mine[mine.len() - 1].at);
        let width = u128::from(last - first);
        for p in mine {
            let far = u128::from(p.at - first) * u128::from(high - low);
            p.at = match far.checked_div(width) {
                Some(far) => low + far as u64,
                None => grid.draw_evenly(run[0] as u32, rng),
            };
        }
    }
}

/// What was learned of packets.
struct Learned<'a> {
    sizes: &'a Grid,
    size: &'a Chain,
    gap: &'a Chain,
}

/// Sizes of a flow's packets.
fn sizes(
    r: &Record,
    (learned, service): (Option<&Learned<'_>>, u32),
    rng: &mut dyn RngCore,
) -> Vec<u32> {
    let n = r.packets.max(1);
    let least = header_bytes(r.protocol, r.src.is_ipv6()).max(least_bytes(r));
    let largest = learned.map_or(65_535, |l| l.sizes.largest().clamp(least, 65_535));
    let mut left = r.bytes;
    let mut last = 0;
    let mut out = Vec::with_capacity(n as usize);
    for i in 0..n {
        let after = n - 1 - i;
        // What the packets after it need at least and can take at most.
        let high = left.saturating_sub(least * after).min(65_535).max(least);
        let low = left.saturating_sub(largest * after).clamp(least, high);
        let mean = left / (n - i);
        let bytes = match learned {
            Some(l) if after > 0 => {
                let before = Before {
                    service,
                    mean: l.sizes.find(mean),
                    place: (i as u32).min(3),
                    last,
                };
                let keys = size_contexts(&before);
                let drawn = (0..16).find_map(|_| l.size.draw(&keys, rng));
                drawn.map_or(mean, |symbol| l.sizes.draw(symbol, rng))
            }
            Some(_) => left,
            None => mean,
        };
        let bytes = well_formed(r, bytes.clamp(low, high));
        last = learned.map_or(0, |l| l.sizes.find(bytes) + 1);
        left = left.saturating_sub(bytes);
        out.push(bytes as u32);
    }
    out
}

/// Times of a flow's packets, ascending, the first and last as the record says.
fn times(
    r: &Record,
    (learned, service): (Option<&Learned<'_>>, u32),
    rng: &mut dyn RngCore,
) -> Vec<u64> {
    let n = r.packets.max(1);
    let Some(learned) = learned else {
        let part = |i: u64| u128::from(r.duration_us) * u128::from(i) / u128::from(n.max(2) - 1);
        return (0..n).map(|i| r.start_us + part(i) as u64).collect();
    };
    let mut out = Vec::with_capacity(n as usize);
    let (mut at, mut left, mut last) = (r.start_us, r.duration_us, 0);
    out.push(at);
    for i in 1..n {
        let gap = if i + 1 == n {
            left
        } else {
            let before = Before {
                service,
                mean: gap_symbol(left / (n - i)),
                place: (i as u32).min(3),
                last,
            };
            let keys = gap_contexts(&before);
            let drawn = (0..16).find_map(|_| learned.gap.draw(&keys, rng));
            let gap = drawn.map_or(left / (n - i), |symbol| {
                (((f64::from(symbol) + rng.random::<f64>()) / 1.5).exp2() - 1.0) as u64
            });
            gap.min(left)
        };
        last = gap_symbol(gap) + 1;
        left -= gap;
        at += gap;
        out.push(at);
    }
    out
}
