//! Distances between samples of one number or category.

use std::collections::BTreeMap;

use serde::Serialize;

/// A Wasserstein-1 distance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distance {
    /// In the field's unit: µs, s, packets, bytes, records.
    pub raw: f64,
    /// Over the real values' mean deviation from their median: 1 is as bad as a constant. `None`: the real values are all
    /// zero and the synthetic ones are not.
    pub relative: Option<f64>,
    /// As `relative`, of log(1 + x).
    pub log_relative: Option<f64>,
}

/// Jensen-Shannon divergence of two samples of categories, nats: 0 to ln 2.
pub(crate) fn divergence<K: Ord>(
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

/// Divergence of how popular the most popular, second most popular and so on are, whatever they are.
pub(super) fn rank_divergence<K: Ord>(
    real: impl Iterator<Item = K>,
    synthetic: impl Iterator<Item = K>,
) -> f64 {
    let (real, synthetic) = (popularity(real), popularity(synthetic));
    let at = |v: &[f64], i: usize| v.get(i).copied().unwrap_or(0.0);
    let length = real.len().max(synthetic.len());
    of_counts(
        &(0..length)
            .map(|i| [at(&real, i), at(&synthetic, i)])
            .collect::<Vec<_>>(),
    )
}

fn popularity<K: Ord>(values: impl Iterator<Item = K>) -> Vec<f64> {
    let mut counts: BTreeMap<K, f64> = BTreeMap::new();
    values.for_each(|v| *counts.entry(v).or_default() += 1.0);
    let mut sorted: Vec<f64> = counts.into_values().collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted
}

/// The area between the distribution functions of two sorted samples.
pub(crate) fn wasserstein(a: &[f64], b: &[f64]) -> f64 {
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

pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len().saturating_sub(1)) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let value = |i: usize| sorted.get(i).or(sorted.last()).copied().unwrap_or(0.0);
    value(low) + part * (value(low + 1) - value(low))
}

pub(super) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    v
}

/// Mean deviation from the median; at least a twentieth of the mean.
fn spread(sorted: &[f64]) -> f64 {
    let n = sorted.len().max(1) as f64;
    let middle = quantile(sorted, 0.5);
    let deviation = sorted.iter().map(|x| (x - middle).abs()).sum::<f64>() / n;
    deviation.max(0.05 * sorted.iter().map(|x| x.abs()).sum::<f64>() / n)
}

fn over(moved: f64, base: f64) -> Option<f64> {
    if base > 0.0 {
        Some(moved / base)
    } else {
        (moved == 0.0).then_some(0.0)
    }
}

pub(super) fn distance(real: &[f64], synthetic: &[f64]) -> Distance {
    let (a, b) = (sorted(real), sorted(synthetic));
    let log = |v: &[f64]| v.iter().map(|x| x.max(0.0).ln_1p()).collect::<Vec<f64>>();
    let (la, lb) = (log(&a), log(&b));
    let raw = wasserstein(&a, &b);
    Distance {
        raw,
        relative: over(raw, spread(&a)),
        log_relative: over(wasserstein(&la, &lb), spread(&la)),
    }
}

/// Total variation distance of two samples; `None` when one is empty.
pub(super) fn variation<K: Ord>(
    real: impl Iterator<Item = K>,
    synthetic: impl Iterator<Item = K>,
) -> Option<f64> {
    let mut counts: BTreeMap<K, [f64; 2]> = BTreeMap::new();
    let mut sums = [0.0; 2];
    for k in real {
        counts.entry(k).or_default()[0] += 1.0;
        sums[0] += 1.0;
    }
    for k in synthetic {
        counts.entry(k).or_default()[1] += 1.0;
        sums[1] += 1.0;
    }
    let apart = |c: &[f64; 2]| (c[0] / sums[0] - c[1] / sums[1]).abs();
    (sums[0] > 0.0 && sums[1] > 0.0).then(|| counts.values().map(apart).sum::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_known_samples() {
        assert!((wasserstein(&[0.0, 1.0, 3.0], &[5.0, 6.0, 8.0]) - 5.0).abs() < 1e-12);
        assert!((wasserstein(&[0.0], &[0.0, 1.0]) - 0.5).abs() < 1e-12);
        assert!((divergence([1, 1].into_iter(), [2, 2].into_iter()) - 2f64.ln()).abs() < 1e-12);
        let ranks = rank_divergence([1, 1, 1, 2].into_iter(), [5, 4, 4, 4].into_iter());
        assert_eq!(ranks, 0.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(variation([1, 2].into_iter(), [1, 3].into_iter()), Some(0.5));
        let none = distance(&[0.0, 0.0], &[0.0, 2.0]);
        assert_eq!((none.raw, none.relative), (1.0, None));
        // Constant values have a spread of a twentieth of themselves.
        assert_eq!(distance(&[20.0], &[21.0]).relative, Some(1.0));
    }
}
