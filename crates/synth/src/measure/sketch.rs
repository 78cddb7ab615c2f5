//! How well sketches sized on the synthetic trace foretell their error on the real one.

use std::collections::BTreeMap;

use serde::Serialize;

use super::distance::quantile;
use super::view::{Tuple, View};
use crate::address::key;

/// Relative difference of the mean error of heavy hitters (from a thousandth on), synthetic against real; 0 is right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sketch {
    /// Of a count-min sketch (Cormode, Muthukrishnan 2005).
    pub count_min: f64,
    /// Of a count-sketch (Charikar, Chen, Farach-Colton 2002).
    pub count_sketch: f64,
}

const WIDTH: usize = 512;
const ROWS: usize = 4;

fn words(t: &Tuple) -> [u64; 2] {
    let bits = |a: std::net::IpAddr| match a {
        std::net::IpAddr::V4(a) => u64::from(u32::from(a)),
        std::net::IpAddr::V6(a) => key(&[u128::from(a) as u64, (u128::from(a) >> 64) as u64]),
    };
    [bits(t.0), bits(t.1)]
}

/// Mean relative error of the heavy hitters of both sketches.
fn errors(keys: &[u64], weights: &[f64], seed: u64) -> Option<[f64; 2]> {
    let mut totals: BTreeMap<u64, f64> = BTreeMap::new();
    for (k, w) in keys.iter().zip(weights) {
        *totals.entry(*k).or_default() += w;
    }
    let least = (0.001 * weights.iter().sum::<f64>()).max(1.0);
    let hash = |row: usize, k: u64| {
        let h = key(&[seed, row as u64, k]);
        let sign = if h >> 63 == 1 { 1.0 } else { -1.0 };
        ((h % WIDTH as u64) as usize, sign)
    };
    let mut cells = vec![[[0.0; 2]; WIDTH]; ROWS];
    for (k, total) in &totals {
        for (row, cells) in cells.iter_mut().enumerate() {
            let (at, sign) = hash(row, *k);
            cells[at][0] += total;
            cells[at][1] += total * sign;
        }
    }
    let (mut sum, mut n) = ([0.0; 2], 0.0);
    for (k, total) in totals.iter().filter(|(_, t)| **t >= least) {
        let found = cells.iter().enumerate().map(|(row, cells)| {
            let (at, sign) = hash(row, *k);
            [cells[at][0], cells[at][1] * sign]
        });
        let found: Vec<[f64; 2]> = found.collect();
        let least = found.iter().map(|f| f[0]).fold(f64::INFINITY, f64::min);
        let mut signed: Vec<f64> = found.iter().map(|f| f[1]).collect();
        signed.sort_by(f64::total_cmp);
        sum[0] += (least - total).abs() / total;
        sum[1] += (quantile(&signed, 0.5) - total).abs() / total;
        n += 1.0;
    }
    (n > 0.0).then(|| sum.map(|s| s / n))
}

/// By source address, destination address and 5-tuple, weighted with packets; means of five sketches.
pub(super) fn measure(real: &View, synthetic: &View) -> BTreeMap<&'static str, Sketch> {
    type Key = fn(&Tuple) -> u64;
    let kinds: [(&str, Key); 3] = [
        ("srcip", |t| words(t)[0]),
        ("dstip", |t| words(t)[1]),
        ("five", |t| {
            let [a, b] = words(t);
            key(&[a, b, u64::from(t.2), u64::from(t.3), u64::from(t.4)])
        }),
    ];
    let mut out = BTreeMap::new();
    for (name, of) in kinds {
        let side = |view: &View, seed: u64| {
            let keys: Vec<u64> = view.tuples.iter().map(of).collect();
            let one = vec![1.0; view.len()];
            errors(&keys, view.number("pkt").unwrap_or(&one), seed)
        };
        let differences: Vec<[f64; 2]> = (0..5)
            .filter_map(|seed| {
                let (a, b) = (side(real, seed)?, side(synthetic, seed)?);
                Some([0, 1].map(|i| (a[i] - b[i]).abs() / a[i].max(1e-3)))
            })
            .collect();
        if differences.is_empty() {
            continue;
        }
        let mean =
            |i: usize| differences.iter().map(|d| d[i]).sum::<f64>() / differences.len() as f64;
        out.insert(
            name,
            Sketch {
                count_min: mean(0),
                count_sketch: mean(1),
            },
        );
    }
    out
}
