//! Where a generator's outputs start: at the data's means and covariances.
//!
//! A last layer is linear in the hidden units before it. Hidden units are turned into uncorrelated numbers of unit
//! variance, and these into outputs with the data's covariance, both by incomplete pivoted Cholesky factors (Harbrecht,
//! Peters, Schneider 2012).

use chaff_learn::cut;
use ndarray::{Array1, Array2, Axis};

use super::field::Head;

/// Logits of two choices are this far apart where one is certain.
const CERTAIN: f64 = 4.0;
/// A hidden direction with less than this share of the mean variance is left alone: its weights would be large.
const LEAST: f64 = 0.05;
/// Rounds in which the shares of choices come to those of the data.
const ROUNDS: usize = 200;

/// Weights and bias of a last layer.
pub(crate) struct Last {
    pub(crate) weights: Array2<f64>,
    pub(crate) bias: Vec<f64>,
}

/// What values are before their activation.
fn before(heads: &[Head], values: &Array2<f64>) -> Array2<f64> {
    let mut out = values.clone();
    let mut at = 0;
    let edge = 0.5 / (values.ncols() as f64 + 1.0);
    for head in heads {
        for i in at..at + head.size() {
            out.row_mut(i).mapv_inplace(|v| match head {
                Head::Softmax(_) => CERTAIN * (v - 0.5),
                Head::Sigmoid(_) => {
                    let p = v.clamp(edge, 1.0 - edge);
                    (p / (1.0 - p)).ln()
                }
                Head::Tanh(_) => v.clamp(edge - 1.0, 1.0 - edge).atanh(),
            });
        }
        at += head.size();
    }
    out
}

fn centred(x: &Array2<f64>) -> (Array2<f64>, Array1<f64>) {
    let mean = x.mean_axis(Axis(1)).unwrap_or_default();
    (x - &mean.clone().insert_axis(Axis(1)), mean)
}

/// Directions of rows with mean zero: `x` is nearly `loads` times rows that are orthogonal and of unit variance, and
/// these are `makes` times `x`. At most `most`, the widest first, until what is left of every row has no more variance
/// than `least`.
fn directions(x: &Array2<f64>, most: usize, least: f64) -> (Array2<f64>, Array2<f64>) {
    let (rows, n) = x.dim();
    let scale = (n.max(1) as f64).sqrt();
    let mut left = x.mapv(|v| v / scale);
    let mut loads: Vec<Array1<f64>> = Vec::new();
    let mut makes: Vec<Array1<f64>> = Vec::new();
    while loads.len() < most.min(rows) {
        let variances = left.map_axis(Axis(1), |r| r.dot(&r));
        let widest = |best: usize, i: usize| {
            if variances[i] > variances[best] {
                i
            } else {
                best
            }
        };
        let pivot = (0..rows).fold(0, widest);
        if variances[pivot].is_nan() || variances[pivot] <= least {
            break;
        }
        let norm = variances[pivot].sqrt();
        let q = left.row(pivot).mapv(|v| v / norm);
        let mut make = Array1::zeros(rows);
        make[pivot] = 1.0;
        for (load, before) in loads.iter().zip(&makes) {
            make.scaled_add(-load[pivot], before);
        }
        makes.push(make / norm);
        let load = left.dot(&q);
        for (mut row, c) in left.outer_iter_mut().zip(&load) {
            row.scaled_add(-c, &q);
        }
        loads.push(load);
    }
    let stack =
        |list: &[Array1<f64>]| Array2::from_shape_fn((rows, list.len()), |(i, j)| list[j][i]);
    (stack(&loads), stack(&makes).reversed_axes())
}

/// A last layer whose outputs have the means and, as far as the hidden units allow, the covariances of `values` (outputs
/// x flows), and choose as often; `hidden` is units x draws.
pub(crate) fn last(heads: &[Head], values: &Array2<f64>, hidden: &Array2<f64>) -> Last {
    let (targets, means) = centred(&before(heads, values));
    let (units, _) = centred(hidden);
    let spread = units.map_axis(Axis(1), |r| r.dot(&r)).sum() / units.len().max(1) as f64;
    let (_, makes) = directions(&units, usize::MAX, LEAST * spread.max(1e-9));
    let (loads, _) = directions(&targets, makes.nrows(), 1e-9);
    let weights = loads.dot(&cut(makes.view(), ..loads.ncols(), ..));
    let made = weights.dot(&units);
    let mut bias = means.to_vec();
    let mut at = 0;
    for head in heads {
        if let Head::Softmax(n) = head {
            choose_as_often(values, &made, at..at + n, &mut bias);
        }
        at += head.size();
    }
    // Hidden units do not have mean zero.
    let mean = hidden.mean_axis(Axis(1)).unwrap_or_default();
    let shift = weights.dot(&mean);
    for (b, s) in bias.iter_mut().zip(&shift) {
        *b -= s;
    }
    Last { weights, bias }
}

/// Moves the biases of a choice until each is made as often as in the data.
fn choose_as_often(
    values: &Array2<f64>,
    made: &Array2<f64>,
    rows: std::ops::Range<usize>,
    bias: &mut [f64],
) {
    let least = 0.5 / (values.ncols() as f64 + 1.0);
    let share = |row: usize| values.row(row).sum() / values.ncols().max(1) as f64;
    let wanted: Vec<f64> = rows.clone().map(|r| share(r).max(least)).collect();
    let draws = made.ncols().max(1) as f64;
    for round in 0..ROUNDS {
        let mut counts = vec![0.0; wanted.len()];
        for draw in made.columns() {
            let mut best = rows.start;
            for r in rows.clone() {
                if draw[r] + bias[r] > draw[best] + bias[best] {
                    best = r;
                }
            }
            counts[best - rows.start] += 1.0;
        }
        let step = 1.0 / (1.0 + round as f64 / 20.0);
        for ((r, count), want) in rows.clone().zip(&counts).zip(&wanted) {
            bias[r] += step * (want / f64::max(count / draws, least)).ln();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaff_learn::normal;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn outputs_have_the_data_s_means_and_covariances() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let n = 4000;
        // Two numbers that move together, a choice that follows them.
        let mut values = Array2::zeros((4, n));
        for j in 0..n {
            let (a, b) = (normal(&mut rng), normal(&mut rng));
            let x = 0.3 * a - 0.2;
            values[[0, j]] = x.tanh();
            values[[1, j]] = (0.2 * a + 0.1 * b + 0.4).tanh();
            values[[2, j]] = f64::from(a + b > 1.0);
            values[[3, j]] = 1.0 - values[[2, j]];
        }
        let hidden = Array2::from_shape_simple_fn((40, n), || normal(&mut rng).max(0.0));
        let heads = [Head::Tanh(1), Head::Tanh(1), Head::Softmax(2)];
        let last = last(&heads, &values, &hidden);
        let mut made = last.weights.dot(&hidden);
        for (mut row, b) in made.outer_iter_mut().zip(&last.bias) {
            row += *b;
        }
        let moments = |x: &Array2<f64>| {
            let (x, mean) = centred(x);
            (mean, x.dot(&x.t()) / n as f64)
        };
        let (wanted, found) = (moments(&before(&heads, &values)), moments(&made));
        for i in 0..2 {
            assert!((wanted.0[i] - found.0[i]).abs() < 1e-6, "mean {i}");
        }
        for ((place, a), b) in wanted.1.indexed_iter().zip(&found.1) {
            let scale = (wanted.1[[place.0, place.0]] * wanted.1[[place.1, place.1]]).sqrt();
            assert!(
                (a - b).abs() < 0.02 * scale,
                "covariance {place:?}: {a} {b}"
            );
        }
        let chosen = made.columns().into_iter().filter(|c| c[2] > c[3]).count() as f64 / n as f64;
        let share = values.row(2).sum() / n as f64;
        assert!((chosen - share).abs() < 0.01, "{chosen} {share}");
    }
}
