//! How close a synthetic table is to a real one.
//!
//! Measures of NetShare's paper (Yin et al., SIGCOMM 2022) and of distinguishing copies; bins and categories come from
//! the real table only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use crate::{Record, SynthError, Table};

/// A Wasserstein-1 distance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distance {
    /// In the field's unit: µs, s, packets, bytes, records.
    pub raw: f64,
    /// Of log(1 + x), over the real values' mean deviation from their median: 1 is as bad as a constant.
    pub log_relative: f64,
}

/// What [`fidelity`] finds; smaller is closer for all but copies, for which see there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fidelity {
    /// Records of the real and the synthetic table.
    pub records: [usize; 2],
    /// Jensen-Shannon divergence, nats: SA, DA over popularity ranks of addresses; SP, DP over ports, `_bucket` with ports
    /// from 1024 in steps of 512; PR over protocols; label.
    pub divergence: BTreeMap<&'static str, f64>,
    /// Earth mover's distance: TS start after the first record (µs), TD duration (s), PKT, BYT, FS records per 5-tuple.
    pub distance: BTreeMap<&'static str, Distance>,
    /// Mean total variation distance over the tables of all pairs of fields.
    pub pair_tvd: f64,
    /// Total variation distance of what a source does next (service after service); `None` without sources that recur.
    pub bigram_tvd: Option<f64>,
    /// Share of synthetic records that are in the real table, time aside. Compare with the same share between two parts
    /// of the real trace: above it is copying.
    pub copies: f64,
    /// Share of synthetic records whose addresses, ports and protocol are in the real table.
    pub five_tuple_copies: f64,
}

pub(crate) fn divergence<K: Ord + Clone>(
    real: impl Iterator<Item = K>,
    synthetic: impl Iterator<Item = K>,
) -> f64 {
    let mut counts: BTreeMap<K, [f64; 2]> = BTreeMap::new();
    real.for_each(|k| counts.entry(k).or_default()[0] += 1.0);
    synthetic.for_each(|k| counts.entry(k).or_default()[1] += 1.0);
    of_counts(&counts.into_values().collect::<Vec<_>>())
}

fn of_counts(counts: &[[f64; 2]]) -> f64 {
    let sum = |i: usize| counts.iter().map(|c| c[i]).sum::<f64>().max(1e-300);
    let (n, m) = (sum(0), sum(1));
    let part = |p: f64, middle: f64| if p > 0.0 { p * (p / middle).ln() } else { 0.0 };
    let total: f64 = counts
        .iter()
        .map(|c| {
            let (p, q) = (c[0] / n, c[1] / m);
            let middle = 0.5 * (p + q);
            part(p, middle) + part(q, middle)
        })
        .sum();
    (0.5 * total).max(0.0)
}

fn popularity(addresses: impl Iterator<Item = IpAddr>) -> Vec<f64> {
    let mut counts: BTreeMap<IpAddr, f64> = BTreeMap::new();
    addresses.for_each(|a| *counts.entry(a).or_default() += 1.0);
    let mut sorted: Vec<f64> = counts.into_values().collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted
}

fn rank_divergence(real: Vec<f64>, synthetic: Vec<f64>) -> f64 {
    let at = |v: &[f64], i: usize| v.get(i).copied().unwrap_or(0.0);
    let length = real.len().max(synthetic.len());
    of_counts(
        &(0..length)
            .map(|i| [at(&real, i), at(&synthetic, i)])
            .collect::<Vec<_>>(),
    )
}

pub(crate) fn wasserstein(a: &[f64], b: &[f64]) -> f64 {
    // Both sorted: the area between the distribution functions.
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    let mut last: Option<f64> = None;
    while i < a.len() || j < b.len() {
        let next = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) => x.min(*y),
            (Some(x), None) | (None, Some(x)) => *x,
            (None, None) => break,
        };
        if let Some(last) = last {
            sum += (i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs() * (next - last);
        }
        while a.get(i).is_some_and(|x| *x <= next) {
            i += 1;
        }
        while b.get(j).is_some_and(|x| *x <= next) {
            j += 1;
        }
        last = Some(next);
    }
    sum
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len().saturating_sub(1)) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let value = |i: usize| sorted.get(i).or(sorted.last()).copied().unwrap_or(0.0);
    value(low) + part * (value(low + 1) - value(low))
}

fn distance(real: impl Iterator<Item = f64>, synthetic: impl Iterator<Item = f64>) -> Distance {
    let sorted = |values: &mut dyn Iterator<Item = f64>| {
        let mut v: Vec<f64> = values.collect();
        v.sort_by(f64::total_cmp);
        v
    };
    let (a, b) = (sorted(&mut { real }), sorted(&mut { synthetic }));
    let log = |v: &[f64]| v.iter().map(|x| x.ln_1p()).collect::<Vec<f64>>();
    let (la, lb) = (log(&a), log(&b));
    let middle = quantile(&la, 0.5);
    let n = la.len().max(1) as f64;
    let spread = la.iter().map(|x| (x - middle).abs()).sum::<f64>() / n;
    let base = spread.max(0.05 * la.iter().sum::<f64>() / n);
    let moved = wasserstein(&la, &lb);
    Distance {
        raw: wasserstein(&a, &b),
        log_relative: if base > 0.0 { moved / base } else { moved },
    }
}

type Tuple = (IpAddr, IpAddr, u16, u16, u8);

fn tuple(r: &Record) -> Tuple {
    (r.src, r.dst, r.src_port, r.dst_port, r.protocol)
}

/// A number of a record of the table with this index.
type Number<'a> = &'a dyn Fn(usize, &Record) -> f64;

/// Codes of the most frequent values; ties in order of value.
fn top<K: Ord + Copy>(values: impl Iterator<Item = K>, most: usize) -> BTreeMap<K, u32> {
    let mut counts: BTreeMap<K, usize> = BTreeMap::new();
    values.for_each(|v| *counts.entry(v).or_default() += 1);
    let mut sorted: Vec<(K, usize)> = counts.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sorted
        .into_iter()
        .take(most)
        .zip(0..)
        .map(|((k, _), i)| (k, i))
        .collect()
}

fn place<T: PartialOrd>(edges: &[T], value: T) -> u32 {
    edges.iter().take_while(|e| **e <= value).count() as u32
}

/// A column as codes, for the real and the synthetic table.
type Column = [Vec<u32>; 2];

fn columns(real: &Table, synthetic: &Table) -> Vec<Column> {
    let tables = [real, synthetic];
    let mut out: Vec<Column> = Vec::new();
    let mut push = |code: &dyn Fn(usize) -> Vec<u32>| out.push([code(0), code(1)]);
    for side in [(|r: &Record| r.src) as fn(&Record) -> IpAddr, |r| r.dst] {
        push(&|i| {
            let records = &tables[i].records;
            let ranks = top(records.iter().map(side), usize::MAX);
            let edges = [2, 4, 11, 31, 101, 301, 1001, 5001];
            records
                .iter()
                .map(|r| place(&edges, ranks.get(&side(r)).map_or(0, |k| k + 1)))
                .collect()
        });
    }
    for side in [(|r: &Record| r.src_port) as fn(&Record) -> u16, |r| {
        r.dst_port
    }] {
        let known = top(real.records.iter().map(side), 16);
        push(&|i| {
            let code = |p: u16| {
                known
                    .get(&p)
                    .copied()
                    .unwrap_or_else(|| 16 + place(&[1024, 8192, 32768, 49152], p))
            };
            tables[i].records.iter().map(|r| code(side(r))).collect()
        });
    }
    let known = top(real.records.iter().map(|r| r.protocol), 12);
    push(&|i| {
        tables[i]
            .records
            .iter()
            .map(|r| known.get(&r.protocol).copied().unwrap_or(12))
            .collect()
    });
    if real.label_column.is_some() && synthetic.label_column.is_some() {
        let known = top(texts(real), 12);
        push(&|i| {
            texts(tables[i])
                .map(|t| known.get(t).copied().unwrap_or(12))
                .collect()
        });
    }
    let first = tables.map(|t| t.records.iter().map(|r| r.start_us).min().unwrap_or(0));
    let numbers: [Number<'_>; 4] = [
        &|i, r| (r.start_us - first[i]) as f64,
        &|_, r| r.duration_us as f64,
        &|_, r| r.packets as f64,
        &|_, r| r.bytes as f64,
    ];
    for number in numbers {
        let mut sorted: Vec<f64> = real.records.iter().map(|r| number(0, r)).collect();
        sorted.sort_by(f64::total_cmp);
        let mut edges: Vec<f64> = (1..16)
            .map(|k| quantile(&sorted, f64::from(k) / 16.0))
            .collect();
        edges.dedup();
        push(&|i| {
            let code = |v: f64| edges.partition_point(|e| *e < v) as u32;
            tables[i]
                .records
                .iter()
                .map(|r| code(number(i, r)))
                .collect()
        });
    }
    out
}

fn texts(table: &Table) -> impl Iterator<Item = &str> {
    table.records.iter().map(|r| {
        table
            .labels
            .get(r.label as usize)
            .map_or("", String::as_str)
    })
}

fn variation(
    real: impl Iterator<Item = (u32, u32)>,
    synthetic: impl Iterator<Item = (u32, u32)>,
) -> Option<f64> {
    let mut counts: BTreeMap<(u32, u32), [f64; 2]> = BTreeMap::new();
    let mut sums = [0.0; 2];
    for k in real {
        counts.entry(k).or_default()[0] += 1.0;
        sums[0] += 1.0;
    }
    for k in synthetic {
        counts.entry(k).or_default()[1] += 1.0;
        sums[1] += 1.0;
    }
    (sums[0] > 0.0 && sums[1] > 0.0).then(|| {
        counts
            .values()
            .map(|c| (c[0] / sums[0] - c[1] / sums[1]).abs())
            .sum::<f64>()
            / 2.0
    })
}

/// A service, coarsely: protocol and the lower port.
fn coarse(r: &Record) -> u32 {
    let port = r.src_port.min(r.dst_port);
    let class = if port < 1024 {
        u32::from(port)
    } else {
        1024 + place(&[8192, 32768, 49152], port)
    };
    u32::from(r.protocol) * 4096 + class
}

fn bigrams<'a>(table: &'a Table, known: &BTreeMap<u32, u32>) -> Vec<(u32, u32)> {
    let mut order: Vec<&'a Record> = table.records.iter().collect();
    order.sort_by_key(|r| (r.src, r.start_us));
    let code = |r: &Record| known.get(&coarse(r)).copied().unwrap_or(24);
    order
        .windows(2)
        .filter(|w| w[0].src == w[1].src)
        .map(|w| (code(w[0]), code(w[1])))
        .collect()
}

/// Compares two tables.
///
/// # Errors
/// [`SynthError::Empty`] when one has no records.
pub fn fidelity(real: &Table, synthetic: &Table) -> Result<Fidelity, SynthError> {
    if real.records.is_empty() || synthetic.records.is_empty() {
        return Err(SynthError::Empty);
    }
    let (a, b) = (&real.records, &synthetic.records);
    let bucket = |p: u16| {
        if p < 1024 {
            u32::from(p)
        } else {
            1024 + u32::from(p - 1024) / 512
        }
    };
    let mut d = BTreeMap::new();
    d.insert(
        "SA",
        rank_divergence(
            popularity(a.iter().map(|r| r.src)),
            popularity(b.iter().map(|r| r.src)),
        ),
    );
    d.insert(
        "DA",
        rank_divergence(
            popularity(a.iter().map(|r| r.dst)),
            popularity(b.iter().map(|r| r.dst)),
        ),
    );
    d.insert(
        "SP",
        divergence(a.iter().map(|r| r.src_port), b.iter().map(|r| r.src_port)),
    );
    d.insert(
        "DP",
        divergence(a.iter().map(|r| r.dst_port), b.iter().map(|r| r.dst_port)),
    );
    d.insert(
        "SP_bucket",
        divergence(
            a.iter().map(|r| bucket(r.src_port)),
            b.iter().map(|r| bucket(r.src_port)),
        ),
    );
    d.insert(
        "DP_bucket",
        divergence(
            a.iter().map(|r| bucket(r.dst_port)),
            b.iter().map(|r| bucket(r.dst_port)),
        ),
    );
    d.insert(
        "PR",
        divergence(a.iter().map(|r| r.protocol), b.iter().map(|r| r.protocol)),
    );
    if real.label_column.is_some() && synthetic.label_column.is_some() {
        d.insert("label", divergence(texts(real), texts(synthetic)));
    }
    let first = |v: &[Record]| v.iter().map(|r| r.start_us).min().unwrap_or(0);
    let (fa, fb) = (first(a), first(b));
    let mut e = BTreeMap::new();
    e.insert(
        "TS",
        distance(
            a.iter().map(|r| (r.start_us - fa) as f64),
            b.iter().map(|r| (r.start_us - fb) as f64),
        ),
    );
    let seconds = |r: &Record| r.duration_us as f64 / 1e6;
    e.insert("TD", distance(a.iter().map(seconds), b.iter().map(seconds)));
    e.insert(
        "PKT",
        distance(
            a.iter().map(|r| r.packets as f64),
            b.iter().map(|r| r.packets as f64),
        ),
    );
    e.insert(
        "BYT",
        distance(
            a.iter().map(|r| r.bytes as f64),
            b.iter().map(|r| r.bytes as f64),
        ),
    );
    let flows = |v: &[Record]| {
        let mut counts: BTreeMap<Tuple, f64> = BTreeMap::new();
        v.iter()
            .for_each(|r| *counts.entry(tuple(r)).or_default() += 1.0);
        counts.into_values().collect::<Vec<_>>()
    };
    e.insert("FS", distance(flows(a).into_iter(), flows(b).into_iter()));

    let columns = columns(real, synthetic);
    let mut pairs = Vec::new();
    for (i, x) in columns.iter().enumerate() {
        for y in &columns[i + 1..] {
            let both = |k: usize| x[k].iter().copied().zip(y[k].iter().copied());
            pairs.extend(variation(both(0), both(1)));
        }
    }
    let known = top(a.iter().map(coarse), 24);
    let whole = |r: &Record, label: &str| {
        (
            tuple(r),
            r.duration_us,
            r.packets,
            r.bytes,
            label.to_owned(),
        )
    };
    let seen: BTreeSet<_> = a
        .iter()
        .zip(texts(real))
        .map(|(r, l)| whole(r, l))
        .collect();
    let tuples: BTreeSet<Tuple> = a.iter().map(tuple).collect();
    let copies = b
        .iter()
        .zip(texts(synthetic))
        .filter(|(r, l)| seen.contains(&whole(r, l)))
        .count();
    let n = b.len() as f64;
    Ok(Fidelity {
        records: [a.len(), b.len()],
        divergence: d,
        distance: e,
        pair_tvd: pairs.iter().sum::<f64>() / pairs.len().max(1) as f64,
        bigram_tvd: variation(
            bigrams(real, &known).into_iter(),
            bigrams(synthetic, &known).into_iter(),
        ),
        copies: copies as f64 / n,
        five_tuple_copies: b.iter().filter(|r| tuples.contains(&tuple(r))).count() as f64 / n,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_known_samples() {
        assert!((wasserstein(&[0.0, 1.0, 3.0], &[5.0, 6.0, 8.0]) - 5.0).abs() < 1e-12);
        assert!((wasserstein(&[0.0], &[0.0, 1.0]) - 0.5).abs() < 1e-12);
        assert!((divergence([1, 1].into_iter(), [2, 2].into_iter()) - 2f64.ln()).abs() < 1e-12);
        assert_eq!(rank_divergence(vec![3.0, 1.0], vec![3.0, 1.0]), 0.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
    }

    #[test]
    fn a_copy_is_no_distance_and_all_copies() {
        let records: Vec<Record> = (0..50u64)
            .map(|i| Record {
                start_us: i,
                packets: 1 + i % 3,
                bytes: 40 * i,
                src_port: i as u16,
                ..Record::default()
            })
            .collect();
        let table = Table {
            records,
            labels: vec![String::new()],
            ..Table::default()
        };
        let same = fidelity(&table, &table).unwrap();
        assert_eq!(
            (same.pair_tvd, same.copies, same.bigram_tvd),
            (0.0, 1.0, Some(0.0))
        );
        assert!(same.divergence.values().all(|v| *v == 0.0));
        assert!(fidelity(&table, &Table::default()).is_err());
    }
}
