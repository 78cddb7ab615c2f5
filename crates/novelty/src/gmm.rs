//! Gaussian mixture by expectation maximisation, full covariances, k-means start.

use std::f64::consts::TAU;

use rand::RngCore;

use crate::codec::{Reader, Writer};
use crate::draw;
use crate::{Detector, FitError, Kind, MatRef, ModelError};

const KIND: &str = "gmm";
const MAX_COMPONENTS: usize = 256;
/// Rows worked on at once.
const LANES: usize = 8;

/// Settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Components, 1 to 256; fewer are fitted when there are not as many rows for each as columns, and one more.
    pub components: usize,
    /// Added to the diagonal of each covariance; above 0.
    pub regularisation: f64,
    /// Most rounds.
    pub rounds: usize,
    /// A round that gains less mean log-likelihood ends the fit.
    pub tolerance: f64,
    /// Starts, of which the likeliest is kept.
    pub starts: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            components: 8,
            regularisation: 1e-3,
            rounds: 100,
            tolerance: 1e-3,
            starts: 3,
        }
    }
}

impl Settings {
    /// One component, as netml has it.
    pub const NETML: Self = Self {
        components: 1,
        regularisation: 1e-6,
        rounds: 100,
        tolerance: 1e-3,
        starts: 1,
    };
}

/// A fitted mixture. The score is minus the logarithm of the density.
#[derive(Clone, Debug)]
pub struct Mixture {
    columns: usize,
    components: Vec<Component>,
}

#[derive(Clone, Debug)]
struct Component {
    log_weight: f64,
    mean: Vec<f64>,
    /// Inverse of the Cholesky factor of the covariance: lower triangle, row after row, full square.
    whiten: Vec<f64>,
    /// Half the logarithm of the covariance's determinant, and of 2 pi to the power of the columns.
    log_norm: f64,
}

impl Mixture {
    /// Learns from rows.
    ///
    /// # Errors
    /// [`FitError`].
    pub fn fit(
        settings: &Settings,
        rows: MatRef<'_>,
        rng: &mut dyn RngCore,
    ) -> Result<Self, FitError> {
        rows.check(2)?;
        let setting = |name, value, range| FitError::Setting {
            kind: KIND,
            name,
            value,
            range,
        };
        let k = settings.components;
        if !(1..=MAX_COMPONENTS).contains(&k) {
            return Err(setting("components", k as f64, "1 to 256"));
        }
        let least = settings.regularisation;
        if !(least > 0.0 && least.is_finite()) {
            return Err(setting("regularisation", least, "above 0"));
        }
        // A covariance of fewer rows than that knows directions without any variance, and calls whatever is new there infinitely rare.
        let k = k.min(rows.rows() / (rows.columns() + 1)).max(1);
        let mut best: Option<(f64, Self)> = None;
        for _ in 0..if k == 1 { 1 } else { settings.starts.max(1) } {
            let (likelihood, mixture) = run(settings, k, rows, rng)?;
            if best.as_ref().is_none_or(|(l, _)| likelihood > *l) {
                best = Some((likelihood, mixture));
            }
        }
        best.map(|(_, m)| m).ok_or(FitError::Numerical {
            kind: KIND,
            reason: "no start".to_owned(),
        })
    }

    /// Components there are.
    pub fn components(&self) -> usize {
        self.components.len()
    }

    /// Weighted log densities of up to [`LANES`] rows, `out[component][lane]`.
    fn densities(&self, rows: &[&[f64]], work: &mut Work, out: &mut [[f64; LANES]]) {
        let d = self.columns;
        for (component, out) in self.components.iter().zip(out) {
            for (i, lanes) in work.centred.iter_mut().enumerate() {
                for (l, row) in lanes.iter_mut().zip(rows) {
                    *l = row[i] - component.mean[i];
                }
            }
            let mut squares = [0.0; LANES];
            for i in 0..d {
                let mut sum = [0.0; LANES];
                let factors = &component.whiten[i * d..i * d + i + 1];
                for (f, lanes) in factors.iter().zip(&work.centred) {
                    for (s, l) in sum.iter_mut().zip(lanes) {
                        *s += f * l;
                    }
                }
                for (q, s) in squares.iter_mut().zip(sum) {
                    *q += s * s;
                }
            }
            for (o, q) in out.iter_mut().zip(squares) {
                *o = component.log_weight - component.log_norm - 0.5 * q;
            }
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, ModelError> {
        let count = from.size("the number of components", MAX_COMPONENTS as u64)?;
        let mut components = Vec::new();
        for _ in 0..count {
            components.push(Component {
                log_weight: from.f64()?,
                log_norm: from.f64()?,
                mean: from.list_of(columns)?,
                whiten: from.list_of(columns * columns)?,
            });
        }
        if components.is_empty() {
            return Err(ModelError::Invalid {
                what: "a mixture without components",
            });
        }
        Ok(Self {
            columns,
            components,
        })
    }
}

struct Work {
    centred: Vec<[f64; LANES]>,
}

impl Work {
    fn new(columns: usize) -> Self {
        Self {
            centred: vec![[0.0; LANES]; columns],
        }
    }
}

/// Logarithm of the sum of exponentials of one lane.
fn log_sum(densities: &[[f64; LANES]], lane: usize) -> f64 {
    let most = densities
        .iter()
        .map(|d| d[lane])
        .fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY {
        return most;
    }
    if let [one] = densities {
        return one[lane];
    }
    most + densities
        .iter()
        .map(|d| (d[lane] - most).exp())
        .sum::<f64>()
        .ln()
}

/// One start; mean log-likelihood and what was found.
fn run(
    settings: &Settings,
    k: usize,
    rows: MatRef<'_>,
    rng: &mut dyn RngCore,
) -> Result<(f64, Mixture), FitError> {
    let (n, d) = (rows.rows(), rows.columns());
    let mut shares = vec![0.0; n * k];
    for (i, c) in k_means(k, rows, rng).into_iter().enumerate() {
        shares[i * k + c] = 1.0;
    }
    let mut mixture = maximise(settings, k, rows, &shares)?;
    let mut last = f64::NEG_INFINITY;
    let mut work = Work::new(d);
    let mut densities = vec![[0.0; LANES]; k];
    let all: Vec<&[f64]> = rows.iter().collect();
    for _ in 0..settings.rounds {
        let mut likelihood = 0.0;
        for (b, block) in all.chunks(LANES).enumerate() {
            mixture.densities(block, &mut work, &mut densities);
            for lane in 0..block.len() {
                let total = log_sum(&densities, lane);
                likelihood += total;
                let share = &mut shares[(b * LANES + lane) * k..][..k];
                for (s, c) in share.iter_mut().zip(&densities) {
                    *s = if total.is_finite() {
                        (c[lane] - total).exp()
                    } else {
                        1.0 / k as f64
                    };
                }
            }
        }
        likelihood /= n as f64;
        mixture = maximise(settings, k, rows, &shares)?;
        let gain = likelihood - last;
        last = likelihood;
        if gain.abs() < settings.tolerance {
            break;
        }
    }
    Ok((last, mixture))
}

fn maximise(
    settings: &Settings,
    k: usize,
    rows: MatRef<'_>,
    shares: &[f64],
) -> Result<Mixture, FitError> {
    let (n, d) = (rows.rows(), rows.columns());
    let mut components = Vec::with_capacity(k);
    let mut centred = vec![0.0; d];
    for c in 0..k {
        let weight: f64 = shares.iter().skip(c).step_by(k).sum::<f64>() + 10.0 * f64::EPSILON;
        let mut mean = vec![0.0; d];
        for (row, share) in rows.iter().zip(shares.chunks_exact(k)) {
            for (m, v) in mean.iter_mut().zip(row) {
                *m += share[c] * v;
            }
        }
        mean.iter_mut().for_each(|m| *m /= weight);
        let mut covariance = vec![0.0; d * d];
        for (row, share) in rows.iter().zip(shares.chunks_exact(k)) {
            let share = share[c];
            if share < 1e-12 {
                continue;
            }
            for ((x, v), m) in centred.iter_mut().zip(row).zip(&mean) {
                *x = v - m;
            }
            for i in 0..d {
                let scaled = share * centred[i];
                let line = &mut covariance[i * d..i * d + i + 1];
                for (s, x) in line.iter_mut().zip(&centred) {
                    *s += scaled * x;
                }
            }
        }
        for i in 0..d {
            for j in 0..=i {
                covariance[i * d + j] /= weight;
            }
            covariance[i * d + i] += settings.regularisation;
        }
        let (whiten, half_log_determinant) =
            whitening(covariance, d).ok_or_else(|| FitError::Numerical {
                kind: KIND,
                reason: format!(
                    "the covariance of component {c} is not positive definite: scale the columns or raise the regularisation"
                ),
            })?;
        components.push(Component {
            log_weight: (weight / n as f64).ln(),
            mean,
            whiten,
            log_norm: 0.5 * d as f64 * TAU.ln() + half_log_determinant,
        });
    }
    Ok(Mixture {
        columns: d,
        components,
    })
}

/// Inverse of the Cholesky factor (lower triangle) and half the logarithm of the determinant; `None` when the matrix is
/// not positive definite.
fn whitening(mut a: Vec<f64>, d: usize) -> Option<(Vec<f64>, f64)> {
    let mut half_log = 0.0;
    for i in 0..d {
        for j in 0..=i {
            let (upper, lower) = a.split_at(i * d);
            let row_j = if j == i { lower } else { &upper[j * d..] };
            let sum: f64 = lower[..j].iter().zip(&row_j[..j]).map(|(x, y)| x * y).sum();
            let rest = a[i * d + j] - sum;
            if i == j {
                if !(rest > 0.0 && rest.is_finite()) {
                    return None;
                }
                let root = rest.sqrt();
                half_log += root.ln();
                a[i * d + i] = root;
            } else {
                a[i * d + j] = rest / a[j * d + j];
            }
        }
    }
    let mut inverse = vec![0.0; d * d];
    for j in 0..d {
        for i in j..d {
            let sum: f64 = (j..i).map(|k| a[i * d + k] * inverse[k * d + j]).sum();
            let one = if i == j { 1.0 } else { 0.0 };
            inverse[i * d + j] = (one - sum) / a[i * d + i];
        }
    }
    Some((inverse, half_log))
}

/// Which of `k` clusters each row belongs to: k-means++ seeding, then at most 30 rounds of Lloyd's algorithm.
fn k_means(k: usize, rows: MatRef<'_>, rng: &mut dyn RngCore) -> Vec<usize> {
    let (n, d) = (rows.rows(), rows.columns());
    let mut of = vec![0; n];
    if k == 1 {
        return of;
    }
    let squared =
        |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum() };
    let mut centres: Vec<f64> = rows.row(draw::below(rng, n)).to_vec();
    let mut nearest = vec![f64::INFINITY; n];
    while centres.len() < k * d {
        let newest = &centres[centres.len() - d..];
        for (near, row) in nearest.iter_mut().zip(rows.iter()) {
            *near = near.min(squared(row, newest));
        }
        let mut left = draw::unit(rng) * nearest.iter().sum::<f64>();
        let next = nearest
            .iter()
            .position(|s| {
                left -= s;
                left < 0.0
            })
            .unwrap_or_else(|| draw::below(rng, n));
        centres.extend_from_slice(rows.row(next));
    }
    for _ in 0..30 {
        let mut moved = false;
        for (row, of) in rows.iter().zip(of.iter_mut()) {
            let mut best = (f64::INFINITY, 0);
            for (c, centre) in centres.chunks_exact(d).enumerate() {
                let s = squared(row, centre);
                if s < best.0 {
                    best = (s, c);
                }
            }
            moved |= *of != best.1;
            *of = best.1;
        }
        if !moved {
            break;
        }
        let mut counts = vec![0.0; k];
        let mut sums = vec![0.0; k * d];
        for (row, &c) in rows.iter().zip(&of) {
            counts[c] += 1.0;
            for (s, v) in sums[c * d..].iter_mut().zip(row) {
                *s += v;
            }
        }
        let lines = centres.chunks_exact_mut(d).zip(sums.chunks_exact(d));
        for ((centre, sum), count) in lines.zip(&counts) {
            // A cluster that lost all its rows stays where it was.
            if *count > 0.0 {
                for (c, s) in centre.iter_mut().zip(sum) {
                    *c = s / count;
                }
            }
        }
    }
    of
}

impl Detector for Mixture {
    fn kind(&self) -> Kind {
        Kind::Gmm
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn score(&self, rows: MatRef<'_>, out: &mut [f64]) {
        let mut work = Work::new(self.columns);
        let mut densities = vec![[0.0; LANES]; self.components.len()];
        let mut block: Vec<&[f64]> = Vec::with_capacity(LANES);
        let mut rows = rows.iter();
        for out in out.chunks_mut(LANES) {
            block.clear();
            block.extend(rows.by_ref().take(out.len()));
            self.densities(&block, &mut work, &mut densities);
            for (lane, out) in out.iter_mut().enumerate() {
                *out = -log_sum(&densities, lane);
            }
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::part();
        out.size(self.components.len());
        for c in &self.components {
            out.f64(c.log_weight);
            out.f64(c.log_norm);
            out.list(&c.mean);
            out.list(&c.whiten);
        }
        out.into_part()
    }
}
