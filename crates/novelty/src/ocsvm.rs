//! One-class support vector machine (Schölkopf et al. 2001) with a Gaussian kernel, solved by libsvm's algorithm.

use libsvm_rs::train::svm_train;
use libsvm_rs::{KernelType, SvmNode, SvmParameter, SvmProblem, SvmType};

use crate::codec::{Reader, Writer};
use crate::points::{LANES, Points, exp_lanes};
use crate::{Detector, FitError, Kind, MatRef, ModelError};

const KIND: &str = "ocsvm";
/// The solver's time grows with the square of the rows.
const MAX_ROWS: usize = 200_000;

/// Settings; the defaults are those of scikit-learn and netml.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Upper bound of the share of training rows outside, lower bound of the share of support vectors; above 0, at most 1.
    pub nu: f64,
    /// Kernel `exp(-gamma |x - y|^2)`; `None`: 1 / (columns x variance of all values).
    pub gamma: Option<f64>,
    /// When the solver stops.
    pub tolerance: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nu: 0.5,
            gamma: None,
            tolerance: 1e-3,
        }
    }
}

/// A fitted machine. The score is rho minus the kernel sum: 0 on the boundary, above it outside.
#[derive(Clone, Debug)]
pub struct OneClassSvm {
    gamma: f64,
    rho: f64,
    alpha: Vec<f64>,
    vectors: Points,
}

impl OneClassSvm {
    /// Learns from rows.
    ///
    /// # Errors
    /// [`FitError`].
    pub fn fit(settings: &Settings, rows: MatRef<'_>) -> Result<Self, FitError> {
        rows.check(2)?;
        if rows.rows() > MAX_ROWS {
            return Err(FitError::TooMany {
                rows: rows.rows(),
                limit: MAX_ROWS,
            });
        }
        let setting = |name, value, range| FitError::Setting {
            kind: KIND,
            name,
            value,
            range,
        };
        if !(settings.nu > 0.0 && settings.nu <= 1.0) {
            return Err(setting("nu", settings.nu, "above 0 and at most 1"));
        }
        if !(settings.tolerance > 0.0 && settings.tolerance.is_finite()) {
            return Err(setting("tolerance", settings.tolerance, "above 0"));
        }
        let gamma = settings.gamma.unwrap_or_else(|| scale(rows));
        if !(gamma > 0.0 && gamma.is_finite()) {
            return Err(setting("gamma", gamma, "above 0"));
        }
        let instances = rows
            .iter()
            .map(|row| {
                (1..)
                    .zip(row)
                    .map(|(index, &value)| SvmNode { index, value })
                    .collect()
            })
            .collect();
        let problem = SvmProblem {
            labels: vec![1.0; rows.rows()],
            instances,
        };
        let parameters = SvmParameter {
            svm_type: SvmType::OneClass,
            kernel_type: KernelType::Rbf,
            gamma,
            nu: settings.nu,
            eps: settings.tolerance,
            cache_size: 200.0,
            ..SvmParameter::default()
        };
        libsvm_rs::set_quiet(true);
        let model = svm_train(&problem, &parameters);
        let (Some(alpha), Some(&rho)) = (model.sv_coef.first(), model.rho.first()) else {
            return Err(FitError::Numerical {
                kind: KIND,
                reason: "no support vectors".to_owned(),
            });
        };
        let picked: Vec<f64> = model
            .sv_indices
            .iter()
            .flat_map(|&i| rows.row(i.saturating_sub(1)))
            .copied()
            .collect();
        let vectors = MatRef::new(rows.columns(), &picked)?;
        Ok(Self {
            gamma,
            rho,
            alpha: alpha.clone(),
            vectors: Points::new(vectors),
        })
    }

    /// Support vectors.
    pub fn vectors(&self) -> usize {
        self.alpha.len()
    }

    /// The offset: scores plus minus rho are the raw kernel sums that netml prints negated.
    pub fn rho(&self) -> f64 {
        self.rho
    }

    pub(crate) fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, ModelError> {
        let (gamma, rho, alpha) = (from.f64()?, from.f64()?, from.list()?);
        let rows = from.list_of(alpha.len() * columns)?;
        let rows = MatRef::new(columns, &rows).map_err(|_| ModelError::Invalid {
            what: "support vectors have no columns",
        })?;
        if gamma <= 0.0 {
            return Err(ModelError::Invalid {
                what: "gamma is not above 0",
            });
        }
        Ok(Self {
            gamma,
            rho,
            alpha,
            vectors: Points::new(rows),
        })
    }
}

/// 1 / (columns x population variance of all values), 1 for rows that are all alike.
fn scale(rows: MatRef<'_>) -> f64 {
    let n = rows.values().len().max(1) as f64;
    let mean = rows.values().iter().sum::<f64>() / n;
    let variance = rows
        .values()
        .iter()
        .map(|v| (v - mean) * (v - mean))
        .sum::<f64>()
        / n;
    if variance > 0.0 {
        1.0 / (rows.columns() as f64 * variance)
    } else {
        1.0
    }
}

impl Detector for OneClassSvm {
    fn kind(&self) -> Kind {
        Kind::Ocsvm
    }

    fn columns(&self) -> usize {
        self.vectors.columns
    }

    fn score(&self, rows: MatRef<'_>, out: &mut [f64]) {
        for (row, out) in rows.iter().zip(out) {
            let mut sum = [0.0; LANES];
            self.vectors.distances(row, |first, used, squared| {
                squared.iter_mut().for_each(|s| *s *= -self.gamma);
                exp_lanes(squared);
                for ((s, k), a) in sum
                    .iter_mut()
                    .zip(squared)
                    .zip(&self.alpha[first..first + used])
                {
                    *s += *k * a;
                }
            });
            *out = self.rho - sum.iter().sum::<f64>();
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::part();
        out.f64(self.gamma);
        out.f64(self.rho);
        out.list(&self.alpha);
        out.list(&self.vectors.to_rows());
        out.into_part()
    }
}
