//! Measures of what comes after what.

use serde::Serialize;

use super::distance::{Distance, distance, variation};
use super::view::{Kind, Tuple, View, place, top};

const BINS: usize = 100;
const LAGS: usize = 10;

/// Two numbers, of the real and of the synthetic trace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Both<T> {
    /// Of the real trace.
    pub real: T,
    /// Of the synthetic trace.
    pub synthetic: T,
}

/// Measures over time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Temporal {
    /// Mean difference of the autocorrelation of records in a hundredth of the time, lags 1 to 10.
    pub acf_count_mae: f64,
    /// The same of bytes.
    pub acf_bytes_mae: f64,
    /// Total variation distance of records over hundredths of the time.
    pub rate_profile_tvd: f64,
    /// Times between records, in thousandths of their mean.
    pub interarrival: Distance,
    /// Correlation of the logarithms of one record's and the next one's size, of the same source (packets: 5-tuple).
    pub lag1_size_correlation: Both<Option<f64>>,
    /// Total variation distance of pairs of one service and the next of the same source.
    pub bigram_tvd: Option<f64>,
    /// Records whose source had one before, as a share.
    pub same_source_follow_share: Both<f64>,
}

/// A series' correlation with itself some steps later; zeros for a constant one.
fn autocorrelation(series: &[f64]) -> Vec<f64> {
    let mean = series.iter().sum::<f64>() / series.len().max(1) as f64;
    let x: Vec<f64> = series.iter().map(|v| v - mean).collect();
    let variance: f64 = x.iter().map(|v| v * v).sum();
    (1..=LAGS)
        .map(|lag| {
            let product: f64 = x.iter().zip(x.iter().skip(lag)).map(|(a, b)| a * b).sum();
            if variance == 0.0 {
                0.0
            } else {
                product / variance
            }
        })
        .collect()
}

/// Records and bytes in each hundredth of the time.
pub(super) fn rates(view: &View) -> [Vec<f64>; 2] {
    let since = view.since();
    let length = since.iter().copied().fold(0.0, f64::max);
    let length = if length > 0.0 { length } else { 1.0 };
    let mut out = [vec![0.0; BINS], vec![0.0; BINS]];
    for (t, size) in since.iter().zip(view.size()) {
        let bin = ((t / length * BINS as f64) as usize).min(BINS - 1);
        out[0][bin] += 1.0;
        out[1][bin] += size;
    }
    out
}

fn mean_difference(a: &[f64], b: &[f64]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(x, y)| (x - y).abs()).sum();
    sum / a.len().max(1) as f64
}

/// Gaps between records in order of time, in thousandths of their mean.
fn gaps(view: &View) -> Vec<f64> {
    let mut times = view.start.clone();
    times.sort_by(f64::total_cmp);
    let gaps: Vec<f64> = times.windows(2).map(|w| w[1] - w[0]).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len().max(1) as f64;
    let scale = 1e3 / mean.max(1e-12);
    gaps.iter().map(|g| g * scale).collect()
}

/// Places in order of a key, then time.
fn ordered<K: Ord>(view: &View, key: impl Fn(&Tuple) -> K) -> Vec<usize> {
    let mut order: Vec<usize> = (0..view.len()).collect();
    order.sort_by(|a, b| {
        key(&view.tuples[*a])
            .cmp(&key(&view.tuples[*b]))
            .then(view.start[*a].total_cmp(&view.start[*b]))
    });
    order
}

fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let n = pairs.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| pairs.iter().map(f).sum::<f64>() / n.max(1.0);
    let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        xx += (x - mx) * (x - mx);
        yy += (y - my) * (y - my);
        xy += (x - mx) * (y - my);
    }
    (pairs.len() > 10 && xx > 0.0 && yy > 0.0).then(|| xy / (xx * yy).sqrt())
}

fn lag1(view: &View) -> Option<f64> {
    let size: Vec<f64> = view.size().iter().map(|s| s.ln_1p()).collect();
    let pairs = |order: Vec<usize>, same: &dyn Fn(&Tuple, &Tuple) -> bool| {
        let next = order.windows(2);
        next.filter(|w| same(&view.tuples[w[0]], &view.tuples[w[1]]))
            .map(|w| (size[w[1]], size[w[0]]))
            .collect::<Vec<_>>()
    };
    correlation(&match view.kind {
        Kind::Flows => pairs(ordered(view, |t| t.0), &|a, b| a.0 == b.0),
        Kind::Packets => pairs(ordered(view, |t| *t), &|a, b| a == b),
    })
}

/// A service, coarsely: protocol and the lower port.
fn coarse(t: &Tuple) -> u32 {
    let port = t.2.min(t.3);
    let class = if port < 1024 {
        u32::from(port)
    } else {
        1024 + place(&[8192, 32768, 49152], port)
    };
    u32::from(t.4) * 4096 + class
}

/// Pairs of services, and the share of records that have one of the same source before them.
fn bigrams(view: &View, known: &std::collections::BTreeMap<u32, u32>) -> (Vec<(u32, u32)>, f64) {
    let order = ordered(view, |t| t.0);
    let code = |i: usize| known.get(&coarse(&view.tuples[i])).copied().unwrap_or(24);
    let pairs: Vec<_> = order
        .windows(2)
        .filter(|w| view.tuples[w[0]].0 == view.tuples[w[1]].0)
        .map(|w| (code(w[0]), code(w[1])))
        .collect();
    let share = pairs.len() as f64 / order.len().saturating_sub(1).max(1) as f64;
    (pairs, share)
}

pub(super) fn bigram_tvd(real: &View, synthetic: &View) -> (Option<f64>, Both<f64>) {
    let known = top(real.tuples.iter().map(coarse), 24);
    let (a, b) = (bigrams(real, &known), bigrams(synthetic, &known));
    let shares = Both {
        real: a.1,
        synthetic: b.1,
    };
    (variation(a.0.into_iter(), b.0.into_iter()), shares)
}

pub(super) fn measure(real: &View, synthetic: &View) -> Temporal {
    let (a, b) = (rates(real), rates(synthetic));
    let acf = |i: usize| mean_difference(&autocorrelation(&a[i]), &autocorrelation(&b[i]));
    let (n, m) = (real.len().max(1) as f64, synthetic.len().max(1) as f64);
    let apart = a[0].iter().zip(&b[0]).map(|(x, y)| (x / n - y / m).abs());
    let (bigram_tvd, same_source_follow_share) = bigram_tvd(real, synthetic);
    Temporal {
        acf_count_mae: acf(0),
        acf_bytes_mae: acf(1),
        rate_profile_tvd: apart.sum::<f64>() / 2.0,
        interarrival: distance(&gaps(real), &gaps(synthetic)),
        lag1_size_correlation: Both {
            real: lag1(real),
            synthetic: lag1(synthetic),
        },
        bigram_tvd,
        same_source_follow_share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_correlates_with_itself_a_period_later() {
        let wave: Vec<f64> = (0..100).map(|i| f64::from(i % 5)).collect();
        let acf = autocorrelation(&wave);
        assert!(acf[4] > 0.9 && acf[1] < 0.0, "{acf:?}");
        assert_eq!(autocorrelation(&[3.0; 40]), [0.0; LAGS]);
        let line: Vec<_> = (0..20)
            .map(|i| (f64::from(i), 5.0 - f64::from(i)))
            .collect();
        assert!(correlation(&line).is_some_and(|c| (c + 1.0).abs() < 1e-12));
        assert_eq!(correlation(&line[..5]), None);
    }
}
