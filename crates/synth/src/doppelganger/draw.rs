//! Rows from trained generators: exactly as many as asked for, and none that a protocol forbids.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ndarray::{Array1, Array2, ArrayView1, Axis};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::chunk::{Plan, Times};
use super::column::{Kind, Row};
use super::field::{Code, width};
use super::generator::{Generator, Shape};
use super::train::{draw_attributes, draw_flows};
use crate::address::key;
use crate::rules::{port_allowed, settle};
use crate::{Record, has_ports};

/// Flows that are made at once.
const BATCH: usize = 200;
/// Attributes that reaches are found from.
const REACHES: usize = 4000;
/// Rounds without a new record after which a rule about which flows are taken is given up.
const PATIENCE: usize = 5;

/// A chunk that can be drawn from.
pub(crate) struct Source<'a> {
    pub(crate) times: Times,
    /// Flows that were learned from.
    pub(crate) flows: usize,
    /// Generator of attributes, and of records.
    pub(crate) generators: &'a mut [Generator<f32>; 2],
}

/// How far values with vectors reach, from what the generators of attributes make of each chunk and what there is.
pub(crate) fn set_reaches(plan: &mut Plan, chunks: &mut [Source<'_>], metadata: &[Row], seed: u64) {
    let mut made: Vec<Array1<f32>> = Vec::new();
    let flows: usize = chunks.iter().map(|c| c.flows).sum();
    for (k, source) in chunks.iter_mut().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(key(&[seed, 0x7265_6163, k as u64]));
        let wanted = (REACHES * source.flows).div_ceil(flows.max(1));
        let drawn = draw_attributes(&mut source.generators[0], 2 * wanted, &mut rng);
        let (own, others): (Vec<_>, Vec<_>) = drawn
            .columns()
            .into_iter()
            .partition(|f| starts(plan, *f, k));
        made.extend(
            own.into_iter()
                .chain(others)
                .take(wanted)
                .map(|f| f.to_owned()),
        );
    }
    let mut at = 0;
    for field in plan.metadata.clone() {
        let size = width(&field.heads(plan.words.size));
        if field.code == Code::Word {
            let vectors: Vec<Vec<f32>> = made
                .iter()
                .map(|f| f.iter().skip(at).take(size).copied().collect())
                .collect();
            let values: Vec<f64> = metadata.iter().map(|r| r.number(field.column)).collect();
            plan.words.reach(field.column, &values, &vectors);
        }
        at += size;
    }
}

/// The rows of a flow, as they were made.
fn decode(plan: &Plan, shape: &Shape, times: &Times, flow: ArrayView1<'_, f32>) -> Vec<Row> {
    let x: Vec<f32> = flow.to_vec();
    let attributes = &x[shape.records_size()..];
    let mut base = Row::default();
    let word = plan.words.size;
    let mut at = 0;
    for field in &plan.metadata {
        let size = width(&field.heads(word));
        field.decode(
            &attributes[at..at + size],
            &plan.words,
            &plan.labels,
            &mut base,
        );
        at += size;
    }
    let mut time = match attributes.last() {
        Some(start) if !plan.raw_time => times.start.decode(*start),
        _ => 0.0,
    };
    let size = shape.record_size();
    let mut rows = Vec::new();
    for (k, record) in x[..shape.records_size()]
        .chunks(size)
        .take(plan.length)
        .enumerate()
    {
        if plan.raw_time {
            time = times.start.decode(record[0]);
        } else if k > 0 {
            time += times.gap.decode(record[0]).max(0.0);
        }
        let mut row = base;
        let mut at = 1;
        for field in &plan.series {
            let size = width(&field.heads(word));
            field.decode(&record[at..at + size], &plan.words, &plan.labels, &mut row);
            at += size;
        }
        row.record.start_us = times.first.saturating_add(time.round() as u64);
        rows.push(row);
        if record[size - 2] <= record[size - 1] {
            break;
        }
    }
    rows
}

/// Addresses that no host sends from or to, ports on the wrong transport, and impossible counters become possible.
pub(crate) fn allow(r: &mut Record, kind: Kind, spare: u64) {
    let host = |address: IpAddr, receives: bool| match address {
        IpAddr::V4(a) => {
            let [first, b, c, d] = a.octets();
            let first = match first {
                0 => 1,
                127 => 126,
                224..=239 if receives => first,
                224.. if !(receives && a == Ipv4Addr::BROADCAST) => first - 64,
                _ => first,
            };
            Ipv4Addr::new(first, b, c, d).into()
        }
        v6 => v6,
    };
    (r.src, r.dst) = (host(r.src, false), host(r.dst, true));
    if kind == Kind::Packets {
        r.packets = 1;
    }
    settle(r, false);
    if has_ports(r.protocol) {
        let fits =
            |protocol: u8| port_allowed(r.src_port, protocol) && port_allowed(r.dst_port, protocol);
        let other = if r.protocol == 6 { 17 } else { 6 };
        if !fits(r.protocol) && fits(other) {
            r.protocol = other;
            settle(r, false);
        }
        // Ports of two transports: the source's gives way.
        for port in [&mut r.src_port, &mut r.dst_port] {
            if !port_allowed(*port, r.protocol) {
                *port = 49_152 + (spare % 16_384) as u16;
            }
        }
    }
}

/// Whether the tags say that a flow starts in chunk `k` and has records there.
fn starts(plan: &Plan, attributes: ArrayView1<'_, f32>, k: usize) -> bool {
    let at = plan.tags_at();
    let on = |i: usize| attributes[at + 2 * i] < attributes[at + 2 * i + 1];
    plan.tags <= 1 || (on(0) && on(1 + k))
}

/// Draws `targets[k]` rows of each chunk, in order of time. The same seed gives the same rows.
///
/// As NetShare does: attributes of flows that start in a chunk, and those of earlier chunks whose tags name it; no
/// 5-tuple twice (as long as there are others); no record outside the chunk's time. Unlike NetShare it goes on until there
/// are enough records.
pub(crate) fn draw(
    plan: &Plan,
    kind: Kind,
    chunks: &mut [Source<'_>],
    targets: &[usize],
    seed: u64,
) -> Vec<Vec<Row>> {
    let mut carried: Vec<Vec<Array1<f32>>> = vec![Vec::new(); chunks.len()];
    let mut out = Vec::with_capacity(chunks.len());
    for k in 0..chunks.len() {
        let mut rng = ChaCha8Rng::seed_from_u64(key(&[seed, k as u64]));
        let target = targets.get(k).copied().unwrap_or(0);
        let mut rows: Vec<Row> = Vec::with_capacity(target);
        let mut seen = BTreeSet::new();
        let (mut given_up, mut stale) = (0, 0);
        let mut given = std::mem::take(&mut carried[k]);
        while rows.len() < target {
            let before = rows.len();
            let mut taken: Vec<Array1<f32>> =
                given.split_off(given.len() - given.len().min(BATCH / 2));
            let source = &mut chunks[k];
            let drawn = draw_attributes(&mut source.generators[0], BATCH, &mut rng);
            let most = 4 * source.flows;
            for flow in drawn.columns() {
                if given_up < 1 && !starts(plan, flow, k) {
                    continue;
                }
                taken.push(flow.to_owned());
                let tags = plan.tags_at();
                for later in k + 1..plan.tags.min(carried.len()) {
                    let at = tags + 2 * (1 + later);
                    if flow[at] < flow[at + 1] && carried[later].len() < most {
                        let mut copy = flow.to_owned();
                        (copy[tags], copy[tags + 1]) = (1.0, 0.0);
                        carried[later].push(copy);
                    }
                }
            }
            for part in taken.chunks(BATCH) {
                let views: Vec<_> = part.iter().map(|c| c.view().insert_axis(Axis(1))).collect();
                let Ok(attributes): Result<Array2<f32>, _> = ndarray::concatenate(Axis(1), &views)
                else {
                    continue;
                };
                let generator = &mut source.generators[1];
                let flows = draw_flows(generator, attributes.view(), &mut rng);
                for flow in flows.columns() {
                    let of_flow = decode(plan, &generator.shape, &source.times, flow);
                    let Some(first) = of_flow.first().map(|r| r.record) else {
                        continue;
                    };
                    let tuple = (
                        first.src,
                        first.dst,
                        first.src_port,
                        first.dst_port,
                        first.protocol,
                    );
                    // A further copy of the chunk may have them again.
                    if seen.len() >= source.flows.max(1) {
                        seen.clear();
                    }
                    if !seen.insert(tuple) && given_up < 2 {
                        continue;
                    }
                    for mut row in of_flow {
                        let r = &mut row.record;
                        let (first, last) = (source.times.first, source.times.last);
                        if given_up >= 3 {
                            r.start_us = r.start_us.clamp(first, last);
                        }
                        if (first..=last).contains(&r.start_us) && rows.len() < target {
                            allow(r, kind, key(&[seed, rows.len() as u64]));
                            rows.push(row);
                        }
                    }
                }
            }
            stale = if rows.len() == before { stale + 1 } else { 0 };
            if stale >= PATIENCE {
                (given_up, stale) = (given_up + 1, 0);
            }
        }
        rows.sort_by_key(|r| r.record.start_us);
        out.push(rows);
    }
    out
}

/// `total` in parts as the weights are, exactly.
pub(crate) fn shares(total: usize, weights: &[u64]) -> Vec<usize> {
    let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    let mut edge = 0;
    let mut run: u128 = 0;
    weights
        .iter()
        .map(|w| {
            run += u128::from(*w);
            let to = (total as u128 * run).checked_div(sum).unwrap_or(0) as usize;
            let part = to - edge;
            edge = to;
            part
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        assert_eq!(shares(10, &[1, 1, 1]), [3, 3, 4]);
        assert_eq!(shares(7, &[0, 5]), [0, 7]);
        assert_eq!(shares(1, &[3, 2, 1]).iter().sum::<usize>(), 1);
    }

    #[test]
    fn what_protocols_forbid_is_mended() {
        let mut r = Record {
            src: Ipv4Addr::new(230, 1, 2, 3).into(),
            dst: Ipv4Addr::new(0, 1, 2, 3).into(),
            src_port: 80,
            dst_port: 123,
            protocol: 17,
            ..Record::default()
        };
        allow(&mut r, Kind::Flows, 5);
        assert!(port_allowed(r.src_port, r.protocol) && port_allowed(r.dst_port, r.protocol));
        assert_eq!(r.src, IpAddr::from(Ipv4Addr::new(166, 1, 2, 3)));
        assert_eq!(r.dst, IpAddr::from(Ipv4Addr::new(1, 1, 2, 3)));
        let mut r = Record {
            src_port: 50_000,
            dst_port: 80,
            protocol: 17,
            ..r
        };
        allow(&mut r, Kind::Packets, 5);
        assert_eq!((r.protocol, r.dst_port, r.packets), (6, 80, 1));
    }
}
