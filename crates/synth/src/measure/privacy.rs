//! Measures of what a synthetic trace tells about single records of the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::distance::{quantile, sorted};
use super::neighbours::Neighbours;
use super::view::{Tuple, View};

/// How near synthetic records are to real ones. Distances are sums over addresses, ports, protocol, ranks of counters and
/// time, each from 0 to about 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Near {
    /// Median distance of synthetic records to the closest real one.
    pub dcr_median_synthetic: f64,
    /// Median distance of real records to the closest other real one.
    pub dcr_median_real: f64,
    /// The former over the latter; 1 or more is right. Misleading for captures, where the closest packet is of the same burst.
    pub dcr_ratio: Option<f64>,
    /// Twentieths' first: of synthetic records.
    pub dcr_p5_synthetic: f64,
    /// Of real records.
    pub dcr_p5_real: f64,
    /// Share of synthetic records that are in the real trace, time aside.
    pub copies: f64,
    /// Share of synthetic records whose 5-tuple is in the real trace.
    pub five_tuple_copies: f64,
    /// Share of synthetic records with a source address of the real trace.
    pub sources_seen: f64,
    /// Share of synthetic records with a destination address of the real trace.
    pub destinations_seen: f64,
    /// With a holdout.
    pub holdout: Option<Holdout>,
}

/// What records of the real trace have ahead of records that the model has not seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Holdout {
    /// Median distance of holdout records to the closest real one.
    pub dcr_median: f64,
    /// Synthetic over holdout records' median distance; 1 is right.
    pub dcr_ratio: Option<f64>,
    /// Area under the ROC curve of telling real from holdout records by their distance to the synthetic ones; 0.5 is right.
    pub membership_auc: f64,
    /// Share of holdout records that are in the real trace, time aside: what is natural.
    pub copies: f64,
}

/// Area under the ROC curve of `positive` over `negative`.
pub(super) fn area(positive: &[f64], negative: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> = positive
        .iter()
        .map(|v| (*v, true))
        .chain(negative.iter().map(|v| (*v, false)))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut sum) = (0.0, 0.0);
    for run in all.chunk_by(|a, b| a.0 == b.0) {
        let positives = run.iter().filter(|r| r.1).count() as f64;
        let negatives = run.len() as f64 - positives;
        sum += positives * (below + negatives / 2.0);
        below += negatives;
    }
    sum / (positive.len().max(1) as f64 * negative.len().max(1) as f64)
}

/// Ranks, ranges and protocols of the real trace, by which records become points.
struct Embedding {
    protocols: Vec<u8>,
    numbers: Vec<(&'static str, Vec<f64>)>,
    first: f64,
    length: f64,
}

impl Embedding {
    fn of(real: &View) -> Self {
        let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
        for t in &real.tuples {
            *counts.entry(t.4).or_default() += 1;
        }
        let mut protocols: Vec<(u8, usize)> = counts.into_iter().collect();
        protocols.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let names = ["td", "pkt", "byt", "pkt_len", "ttl", "id"];
        let known = |name| Some((name, sorted(real.number(name)?)));
        let (first, last) = real
            .start
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), t| {
                (a.min(*t), b.max(*t))
            });
        Self {
            protocols: protocols.into_iter().take(6).map(|(p, _)| p).collect(),
            numbers: names.into_iter().filter_map(known).collect(),
            first,
            length: if last > first { last - first } else { 1.0 },
        }
    }

    fn dimension(&self) -> usize {
        8 + 2 + self.protocols.len() + self.numbers.len() + 1
    }

    fn points(&self, view: &View) -> Vec<f32> {
        let columns: Vec<Option<&[f64]>> = self
            .numbers
            .iter()
            .map(|(name, _)| view.number(name))
            .collect();
        let mut out = Vec::with_capacity(view.len() * self.dimension());
        for (i, t) in view.tuples.iter().enumerate() {
            for address in [t.0, t.1] {
                let bytes = low(address).to_be_bytes();
                let weights = [0.4, 0.3, 0.2, 0.1];
                out.extend(
                    bytes
                        .iter()
                        .zip(weights)
                        .map(|(b, w)| f32::from(*b) / 255.0 * w),
                );
            }
            out.extend([t.2, t.3].map(|p| f32::from(p) / 65_535.0));
            out.extend(
                self.protocols
                    .iter()
                    .map(|p| f32::from(u8::from(*p == t.4)) * 0.5),
            );
            for ((_, ranks), values) in self.numbers.iter().zip(&columns) {
                let value = values.map_or(0.0, |v| v[i]);
                let below = ranks.partition_point(|r| *r < value);
                out.push((below as f64 / ranks.len().max(1) as f64) as f32);
            }
            out.push(((view.start[i] - self.first) / self.length) as f32);
        }
        out
    }
}

/// The lowest 32 bits of an address.
fn low(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(a) => u32::from(a),
        IpAddr::V6(a) => u128::from(a) as u32,
    }
}

/// A record without its time.
type Timeless = (Tuple, Vec<u64>, Option<String>);

fn timeless(view: &View, at: usize) -> Timeless {
    let mut numbers: Vec<u64> = view.numbers.iter().map(|(_, v)| v[at].to_bits()).collect();
    if let Some(header) = view.headers.get(at) {
        numbers.push(header.tcp_flags.map_or(256, u64::from));
    }
    (view.tuples[at], numbers, view.text(at).map(str::to_owned))
}

/// Share of `of` that is in `within`, time aside.
pub(super) fn copies(of: &View, within: &View) -> f64 {
    let known: BTreeSet<Timeless> = (0..within.len()).map(|i| timeless(within, i)).collect();
    let found = (0..of.len()).filter(|i| known.contains(&timeless(of, *i)));
    found.count() as f64 / of.len().max(1) as f64
}

/// Share of `of` whose key is in `within`.
pub(super) fn seen<K: Ord>(of: &View, within: &View, key: impl Fn(&Tuple) -> K) -> f64 {
    let known: BTreeSet<K> = within.tuples.iter().map(&key).collect();
    let found = of.tuples.iter().filter(|t| known.contains(&key(t)));
    found.count() as f64 / of.len().max(1) as f64
}

/// At most `most` of the view, drawn without replacement.
pub(super) fn draw(view: &View, most: usize, rng: &mut ChaCha8Rng) -> View {
    if view.len() <= most {
        return view.clone();
    }
    let mut rows: Vec<usize> = (0..view.len()).collect();
    let (picked, _) = rows.partial_shuffle(rng, most);
    view.pick(picked)
}

pub(super) fn measure(
    real: &View,
    synthetic: &View,
    holdout: Option<&View>,
    most: usize,
    rng: &mut ChaCha8Rng,
) -> Near {
    let embedding = Embedding::of(real);
    let dimension = embedding.dimension();
    let (few_real, few) = (draw(real, most, rng), draw(synthetic, most, rng));
    let (real_points, points) = (embedding.points(&few_real), embedding.points(&few));
    let tree = Neighbours::new(embedding.points(real), dimension);
    let mut found = Vec::new();
    let mut second = |points: &[f32], at: usize| -> Vec<f64> {
        let all = points.chunks(dimension).map(|p| {
            tree.nearest(p, at + 1, &mut found);
            found.get(at).map_or(0.0, |n| f64::from(n.0))
        });
        sorted(&all.collect::<Vec<_>>())
    };
    // The closest real record of a real one is itself.
    let (to_real, among_real) = (second(&points, 0), second(&real_points, 1));
    let ratio = |a: f64, b: f64| (b > 0.0).then(|| a / b);
    let (median, median_real) = (quantile(&to_real, 0.5), quantile(&among_real, 0.5));
    let holdout = holdout.map(|held| {
        let few_held = draw(held, most, rng);
        let n = few_real.len().min(few_held.len()) * dimension;
        let held_points = embedding.points(&few_held);
        let to_held = sorted(
            &held_points[..n]
                .chunks(dimension)
                .map(|p| tree.distance(p))
                .collect::<Vec<_>>(),
        );
        let drawn = Neighbours::new(points.clone(), dimension);
        let near = |points: &[f32]| -> Vec<f64> {
            let all = points[..n].chunks(dimension);
            all.map(|p| -drawn.distance(p)).collect()
        };
        let held_median = quantile(&to_held, 0.5);
        Holdout {
            dcr_median: held_median,
            dcr_ratio: ratio(median, held_median),
            membership_auc: area(&near(&real_points), &near(&held_points)),
            copies: copies(held, real),
        }
    });
    Near {
        dcr_median_synthetic: median,
        dcr_median_real: median_real,
        dcr_ratio: ratio(median, median_real),
        dcr_p5_synthetic: quantile(&to_real, 0.05),
        dcr_p5_real: quantile(&among_real, 0.05),
        copies: copies(synthetic, real),
        five_tuple_copies: seen(synthetic, real, |t| *t),
        sources_seen: seen(synthetic, real, |t| t.0),
        destinations_seen: seen(synthetic, real, |t| t.1),
        holdout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_of_known_scores() {
        assert_eq!(area(&[2.0, 3.0], &[0.0, 1.0]), 1.0);
        assert_eq!(area(&[1.0], &[1.0]), 0.5);
        assert_eq!(area(&[0.0, 2.0], &[1.0]), 0.5);
    }
}
