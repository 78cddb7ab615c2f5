//! Principal components: rows that leave the directions in which the training rows vary.

use smartcore::linalg::basic::arrays::{Array, Array2, MutArray};
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::linalg::traits::evd::EVDDecomposable;

use crate::codec::{Reader, Writer};
use crate::{Detector, FitError, Kind, MatRef, ModelError};

const KIND: &str = "pca";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Squared distance from the mean with each component divided by its variance (Shyu et al. 2003), small variances
    /// raised to the floor.
    Variance,
    /// Sum over the components of the distance to the tip of the unit eigenvector, divided by the share of the variance
    /// that it explains: what pyod, and so netml, computes. Shares near 0 make it rounding noise, so the floor holds here
    /// too; it is off in [`Settings::NETML`].
    Tips,
}

/// Settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// What is measured.
    pub measure: Measure,
    /// Least variance of a component, as a share of the largest; 0: no floor.
    pub floor: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            measure: Measure::Variance,
            floor: 1e-4,
        }
    }
}

impl Settings {
    /// As pyod and netml have it.
    pub const NETML: Self = Self {
        measure: Measure::Tips,
        floor: 0.0,
    };
}

/// Fitted components of the standardised columns.
#[derive(Clone, Debug)]
pub struct Pca {
    measure: Measure,
    centre: Vec<f64>,
    spread: Vec<f64>,
    /// One component after the other.
    vectors: Vec<f64>,
    /// What each component's part is divided by.
    divisors: Vec<f64>,
}

impl Pca {
    /// Learns from rows; columns are standardised first (population deviation; constant columns are only shifted).
    ///
    /// # Errors
    /// [`FitError`].
    pub fn fit(settings: &Settings, rows: MatRef<'_>) -> Result<Self, FitError> {
        rows.check(2)?;
        if !(0.0..1.0).contains(&settings.floor) {
            return Err(FitError::Setting {
                kind: KIND,
                name: "floor",
                value: settings.floor,
                range: "0 or more and below 1",
            });
        }
        let (n, d) = (rows.rows() as f64, rows.columns());
        let mut centre = vec![0.0; d];
        for row in rows.iter() {
            centre.iter_mut().zip(row).for_each(|(c, v)| *c += v / n);
        }
        let mut spread = vec![0.0; d];
        for row in rows.iter() {
            for ((s, v), c) in spread.iter_mut().zip(row).zip(&centre) {
                *s += (v - c) * (v - c) / n;
            }
        }
        for (s, c) in spread.iter_mut().zip(&centre) {
            *s = s.sqrt();
            if *s <= 1e-12 * c.abs() || *s == 0.0 {
                *s = 1.0;
            }
        }
        let mut covariance = DenseMatrix::zeros(d, d);
        let mut z = vec![0.0; d];
        let mut sums = vec![0.0; d * d];
        for row in rows.iter() {
            standardise(row, &centre, &spread, &mut z);
            for i in 0..d {
                for j in 0..=i {
                    sums[i * d + j] += z[i] * z[j];
                }
            }
        }
        for i in 0..d {
            for j in 0..=i {
                let value = sums[i * d + j] / (n - 1.0);
                covariance.set((i, j), value);
                covariance.set((j, i), value);
            }
        }
        let found = covariance.evd_mut(true).map_err(|e| FitError::Numerical {
            kind: KIND,
            reason: e.to_string(),
        })?;
        let mut order: Vec<usize> = (0..d).collect();
        order.sort_by(|&a, &b| found.d[b].total_cmp(&found.d[a]));
        // As many directions as the rows can span.
        order.truncate(d.min(rows.rows()));
        let values: Vec<f64> = order.iter().map(|&i| found.d[i].max(0.0)).collect();
        let total: f64 = values.iter().sum();
        let most = values.first().copied().unwrap_or(0.0);
        if !(total > 0.0 && total.is_finite()) {
            return Err(FitError::Numerical {
                kind: KIND,
                reason: "all rows are alike".to_owned(),
            });
        }
        let mut vectors = Vec::with_capacity(order.len() * d);
        for &i in &order {
            let column: Vec<f64> = (0..d).map(|r| *found.V.get((r, i))).collect();
            // The sign is free: the largest part is made positive.
            let sign = column
                .iter()
                .fold(0.0f64, |m, v| if v.abs() > m.abs() { *v } else { m })
                .signum();
            vectors.extend(column.iter().map(|v| v * sign));
        }
        let divisors = values
            .iter()
            .map(|v| {
                let v = v.max(settings.floor * most).max(f64::MIN_POSITIVE);
                match settings.measure {
                    Measure::Variance => v,
                    Measure::Tips => v / total,
                }
            })
            .collect();
        Ok(Self {
            measure: settings.measure,
            centre,
            spread,
            vectors,
            divisors,
        })
    }

    pub(crate) fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, ModelError> {
        let measure = if from.u64()? == 0 {
            Measure::Variance
        } else {
            Measure::Tips
        };
        let centre = from.list_of(columns)?;
        let spread = from.list_of(columns)?;
        let divisors = from.list()?;
        let vectors = from.list_of(columns * divisors.len())?;
        if divisors.iter().chain(&spread).any(|v| *v <= 0.0) {
            return Err(ModelError::Invalid {
                what: "a variance is not above 0",
            });
        }
        Ok(Self {
            measure,
            centre,
            spread,
            vectors,
            divisors,
        })
    }
}

fn standardise(row: &[f64], centre: &[f64], spread: &[f64], z: &mut [f64]) {
    for (((z, v), c), s) in z.iter_mut().zip(row).zip(centre).zip(spread) {
        *z = (v - c) / s;
    }
}

impl Detector for Pca {
    fn kind(&self) -> Kind {
        Kind::Pca
    }

    fn columns(&self) -> usize {
        self.centre.len()
    }

    fn score(&self, rows: MatRef<'_>, out: &mut [f64]) {
        let d = self.centre.len();
        let mut z = vec![0.0; d];
        for (row, out) in rows.iter().zip(out) {
            standardise(row, &self.centre, &self.spread, &mut z);
            *out = self
                .vectors
                .chunks_exact(d)
                .zip(&self.divisors)
                .map(|(vector, by)| match self.measure {
                    Measure::Variance => {
                        let part: f64 = z.iter().zip(vector).map(|(a, b)| a * b).sum();
                        part * part / by
                    }
                    Measure::Tips => {
                        let squared: f64 =
                            z.iter().zip(vector).map(|(a, b)| (a - b) * (a - b)).sum();
                        squared.sqrt() / by
                    }
                })
                .sum();
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::part();
        out.u64(u64::from(self.measure == Measure::Tips));
        out.list(&self.centre);
        out.list(&self.spread);
        out.list(&self.divisors);
        out.list(&self.vectors);
        out.into_part()
    }
}
