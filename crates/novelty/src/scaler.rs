//! Bringing columns to one scale before a detector sees them.

use std::fmt;
use std::str::FromStr;

use crate::codec::{Reader, Writer};
use crate::{FitError, MatRef, Matrix, ModelError};

/// How columns are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Mean 0, population standard deviation 1.
    ZScore,
    /// `sign(x) ln(1 + |x|)`, then as [`Scaling::ZScore`]: for columns over many orders of magnitude.
    LogZScore,
    /// Median 0, half the distance of the 5 % and 95 % quantiles 1.
    Robust,
    /// `sign(x) ln(1 + |x|)`, then as [`Scaling::Robust`].
    LogRobust,
    /// Minimum 0, maximum 1.
    MinMax,
    /// The normal score of the value's rank among the training values, and beyond their ends in proportion to the
    /// distance: keeps the order, drops the shape.
    Rank,
}

impl Scaling {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::ZScore,
        Self::LogZScore,
        Self::Robust,
        Self::LogRobust,
        Self::MinMax,
        Self::Rank,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ZScore => "z-score",
            Self::LogZScore => "log-z-score",
            Self::Robust => "robust",
            Self::LogRobust => "log-robust",
            Self::MinMax => "min-max",
            Self::Rank => "rank",
        }
    }

    const fn logs(self) -> bool {
        matches!(self, Self::LogZScore | Self::LogRobust)
    }
}

impl fmt::Display for Scaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scaling {
    type Err = FitError;

    fn from_str(name: &str) -> Result<Self, FitError> {
        Self::ALL
            .into_iter()
            .find(|s| s.name() == name)
            .ok_or_else(|| FitError::Name {
                what: "scaling",
                name: name.to_owned(),
                known: "none, z-score, log-z-score, robust, log-robust, min-max, rank",
            })
    }
}

/// Points kept of a column for [`Scaling::Rank`].
const KNOTS: usize = 129;

/// A scaling with what was learnt about each column. Columns that were constant are only shifted.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaler {
    scaling: Scaling,
    /// What becomes 0, for each column.
    centre: Vec<f64>,
    /// What becomes 1, for each column; above 0.
    spread: Vec<f64>,
    /// Quantiles of each column, for ranks only.
    knots: Vec<f64>,
}

impl Scaler {
    /// Learns from rows.
    ///
    /// # Errors
    /// [`FitError::TooFew`] without rows, [`FitError::NotFinite`].
    pub fn fit(scaling: Scaling, rows: MatRef<'_>) -> Result<Self, FitError> {
        rows.check(1)?;
        let d = rows.columns();
        let (mut centre, mut spread, mut knots) = (Vec::new(), Vec::new(), Vec::new());
        for k in 0..d {
            let mut column: Vec<f64> = rows.iter().map(|r| r[k]).collect();
            if scaling.logs() {
                column.iter_mut().for_each(|v| *v = log(*v));
            }
            let (c, s) = match scaling {
                Scaling::None => (0.0, 1.0),
                Scaling::ZScore | Scaling::LogZScore => moments(&column),
                Scaling::Robust | Scaling::LogRobust => {
                    column.sort_unstable_by(f64::total_cmp);
                    let q = |q| quantile(&column, q);
                    let half = (q(0.95) - q(0.05)) / 2.0;
                    // Nine in ten alike: what is left is judged by its deviation.
                    (q(0.5), if half > 0.0 { half } else { moments(&column).1 })
                }
                Scaling::MinMax => {
                    let low = column.iter().copied().fold(f64::INFINITY, f64::min);
                    let high = column.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    (low, high - low)
                }
                Scaling::Rank => {
                    column.sort_unstable_by(f64::total_cmp);
                    knots.extend(
                        (0..KNOTS).map(|i| quantile(&column, i as f64 / (KNOTS - 1) as f64)),
                    );
                    moments(&column)
                }
            };
            centre.push(c);
            spread.push(if s > 0.0 && s.is_finite() { s } else { 1.0 });
        }
        Ok(Self {
            scaling,
            centre,
            spread,
            knots,
        })
    }

    /// Which scaling.
    pub fn scaling(&self) -> Scaling {
        self.scaling
    }

    /// Columns it was learnt from.
    pub fn columns(&self) -> usize {
        self.centre.len()
    }

    /// Scales one row in place; rows of another length keep what is beyond.
    pub fn apply_row(&self, row: &mut [f64]) {
        let facts = self.centre.iter().zip(&self.spread);
        for (k, (v, (c, s))) in row.iter_mut().zip(facts).enumerate() {
            *v = match self.scaling {
                Scaling::None => *v,
                Scaling::ZScore | Scaling::Robust | Scaling::MinMax => (*v - c) / s,
                Scaling::LogZScore | Scaling::LogRobust => (log(*v) - c) / s,
                Scaling::Rank => {
                    let knots = &self.knots[k * KNOTS..(k + 1) * KNOTS];
                    rank(knots, *v, *s)
                }
            };
        }
    }

    /// Scaled copies of rows.
    pub fn apply(&self, rows: MatRef<'_>) -> Matrix {
        let mut out = rows.to_matrix();
        let columns = rows.columns();
        for row in out.values_mut().chunks_exact_mut(columns.max(1)) {
            self.apply_row(row);
        }
        out
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.text(self.scaling.name());
        out.list(&self.centre);
        out.list(&self.spread);
        out.list(&self.knots);
    }

    pub(crate) fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, ModelError> {
        let scaling: Scaling = from.text()?.parse().map_err(|_| ModelError::Invalid {
            what: "its scaling is not known",
        })?;
        let centre = from.list_of(columns)?;
        let spread = from.list_of(columns)?;
        if spread.iter().any(|s| *s <= 0.0) {
            return Err(ModelError::Invalid {
                what: "a scale is not above 0",
            });
        }
        let knots = from.list_of(if scaling == Scaling::Rank {
            columns * KNOTS
        } else {
            0
        })?;
        Ok(Self {
            scaling,
            centre,
            spread,
            knots,
        })
    }
}

fn log(v: f64) -> f64 {
    v.abs().ln_1p().copysign(v)
}

/// Mean and population standard deviation.
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    // Rounding leaves something of a constant column.
    let deviation = variance.sqrt();
    if deviation <= 1e-12 * mean.abs() {
        (mean, 0.0)
    } else {
        (mean, deviation)
    }
}

/// Linear interpolation at index `(n - 1) q` of sorted values, of which there is at least one.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = last as f64 * q.clamp(0.0, 1.0);
    let below = (at.floor() as usize).min(last);
    let above = (below + 1).min(last);
    match (sorted.get(below), sorted.get(above)) {
        (Some(a), Some(b)) => a + (b - a) * (at - below as f64),
        _ => 0.0,
    }
}

/// Normal score of the place of `v` among the knots; about 2.5 at either end.
fn rank(knots: &[f64], v: f64, spread: f64) -> f64 {
    let last = KNOTS - 1;
    let below = knots.partition_point(|k| *k < v);
    let not_above = knots.partition_point(|k| *k <= v);
    let end = inverse_normal(0.5 / KNOTS as f64).abs();
    if below > last {
        return end + (v - knots[last]) / spread;
    }
    if not_above == 0 {
        return -end - (knots[0] - v) / spread;
    }
    // In the middle of knots of the same value, else between two.
    let place = if not_above > below {
        (below + not_above - 1) as f64 / 2.0
    } else {
        let (a, b) = (knots[below - 1], knots[below]);
        (below - 1) as f64 + (v - a) / (b - a)
    };
    inverse_normal((place + 0.5) / KNOTS as f64)
}

/// Quantile of the standard normal distribution, to 4.5e-4 (Abramowitz and Stegun, 26.2.23).
fn inverse_normal(p: f64) -> f64 {
    let tail = p.min(1.0 - p).max(1e-300);
    let t = (-2.0 * tail.ln()).sqrt();
    let x = t
        - (2.515_517 + 0.802_853 * t + 0.010_328 * t * t)
            / (1.0 + 1.432_788 * t + 0.189_269 * t * t + 0.001_308 * t * t * t);
    if p < 0.5 { -x } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        let rows = [
            [1.0, 5.0, 1e6],
            [2.0, 5.0, -3.0],
            [3.0, 5.0, 0.0],
            [4.0, 5.0, 9.0],
        ];
        Matrix::new(3, rows.concat()).unwrap()
    }

    #[test]
    fn z_scores_have_mean_0_and_deviation_1() {
        let m = matrix();
        let scaled = Scaler::fit(Scaling::ZScore, m.view())
            .unwrap()
            .apply(m.view());
        let first: Vec<f64> = scaled.view().iter().map(|r| r[0]).collect();
        let (mean, deviation) = moments(&first);
        assert!(mean.abs() < 1e-12 && (deviation - 1.0).abs() < 1e-12);
        // A constant column is shifted only.
        assert!(scaled.view().iter().all(|r| r[1] == 0.0));
    }

    #[test]
    fn every_scaling_keeps_the_order_and_stays_finite() {
        let m = matrix();
        for scaling in Scaling::ALL {
            let scaler = Scaler::fit(scaling, m.view()).unwrap();
            let mut last = f64::NEG_INFINITY;
            for x in [-1e9, -5.0, 0.0, 1.0, 1.5, 2.5, 4.0, 4.5, 1e9] {
                let mut row = [x, x, x];
                scaler.apply_row(&mut row);
                assert!(row.iter().all(|v| v.is_finite()), "{scaling} {x}");
                assert!(
                    row[0] > last || row[0] == last && scaling == Scaling::Rank,
                    "{scaling} {x}"
                );
                last = row[0];
            }
            assert_eq!(scaling.name().parse(), Ok(scaling));
        }
    }

    #[test]
    fn normal_quantiles_are_right_to_three_digits() {
        assert!((inverse_normal(0.975) - 1.959_964).abs() < 5e-4);
        assert!((inverse_normal(0.025) + 1.959_964).abs() < 5e-4);
        assert!(inverse_normal(0.5).abs() < 5e-4);
    }
}
