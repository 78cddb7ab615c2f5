//! Kernel density estimation with a Gaussian kernel.

use std::f64::consts::TAU;

use crate::codec::{Reader, Writer};
use crate::points::{LANES, Points, exp_lanes};
use crate::{Detector, FitError, Kind, MatRef, ModelError};

const KIND: &str = "kde";

/// Settings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// Standard deviation of the kernel; `None`: Scott's rule for columns of variance 1, `rows^(-1 / (columns + 4))`.
    pub bandwidth: Option<f64>,
}

/// A fitted density. The score is minus the logarithm of the density.
#[derive(Clone, Debug)]
pub struct Kde {
    bandwidth: f64,
    points: Points,
}

impl Kde {
    /// Learns from rows, all of which it keeps.
    ///
    /// # Errors
    /// [`FitError`].
    pub fn fit(settings: &Settings, rows: MatRef<'_>) -> Result<Self, FitError> {
        rows.check(1)?;
        let exponent = -1.0 / (rows.columns() as f64 + 4.0);
        let bandwidth = settings
            .bandwidth
            .unwrap_or_else(|| (rows.rows() as f64).powf(exponent));
        if !(bandwidth > 0.0 && bandwidth.is_finite()) {
            return Err(FitError::Setting {
                kind: KIND,
                name: "bandwidth",
                value: bandwidth,
                range: "above 0",
            });
        }
        Ok(Self {
            bandwidth,
            points: Points::new(rows),
        })
    }

    pub(crate) fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, ModelError> {
        let bandwidth = from.f64()?;
        let rows = from.list()?;
        let rows = MatRef::new(columns, &rows)
            .ok()
            .filter(|r| r.rows() > 0 && bandwidth > 0.0)
            .ok_or(ModelError::Invalid {
                what: "a density without rows or bandwidth",
            })?;
        Ok(Self {
            bandwidth,
            points: Points::new(rows),
        })
    }
}

impl Detector for Kde {
    fn kind(&self) -> Kind {
        Kind::Kde
    }

    fn columns(&self) -> usize {
        self.points.columns
    }

    fn score(&self, rows: MatRef<'_>, out: &mut [f64]) {
        let scale = -0.5 / (self.bandwidth * self.bandwidth);
        let norm = (self.points.rows as f64).ln()
            + self.points.columns as f64 * (0.5 * TAU.ln() + self.bandwidth.ln());
        let mut exponents = Vec::with_capacity(self.points.rows + LANES);
        for (row, out) in rows.iter().zip(out) {
            exponents.clear();
            let mut most = f64::NEG_INFINITY;
            self.points.distances(row, |_, used, squared| {
                for (i, s) in squared.iter_mut().enumerate() {
                    *s = if i < used {
                        *s * scale
                    } else {
                        f64::NEG_INFINITY
                    };
                    most = most.max(*s);
                }
                exponents.extend_from_slice(squared);
            });
            let mut sum = [0.0; LANES];
            for block in exponents.chunks_exact(LANES) {
                let mut lanes = [0.0; LANES];
                let mut any = false;
                for (l, e) in lanes.iter_mut().zip(block) {
                    *l = e - most;
                    // Smaller terms vanish in the sum.
                    any |= *l > -50.0;
                }
                if any {
                    exp_lanes(&mut lanes);
                    for (s, l) in sum.iter_mut().zip(lanes) {
                        *s += l;
                    }
                }
            }
            *out = norm - most - sum.iter().sum::<f64>().ln();
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::part();
        out.f64(self.bandwidth);
        out.list(&self.points.to_rows());
        out.into_part()
    }
}
