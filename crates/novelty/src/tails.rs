//! How rare large values are, column by column, for a device of which little is known yet: a detector for a gateway.
//!
//! Each column has a histogram over the logarithm of its values that forgets with a half-life, and a prior: how often
//! devices of this kind in general exceed a value. The surprise of a value `v` is, in nats (natural logarithm),
//!
//! ```text
//! -ln((w(v) + k P(v)) / (w(0) + k)),   P(v) = (1 + v / scale)^-shape
//! ```
//!
//! with the weight `w(v)` of rows at or above `v` and the prior's strength `k` in rows: the posterior mean of the
//! exceedance probability under a Dirichlet prior whose mean is Lomax (Pareto II). At first the prior decides; the more
//! rows are known, the more the device's own habits do.
//!
//! Why this and not one of the other detectors: a device gives a few hundred windows an hour, most of them empty, too few
//! for mixtures or networks of ten columns; a false alarm a day means a rarity of 1 in 10,000 windows, where only a prior
//! and a tail know anything; each alarm has to say one number that a household understands; and its memory (112 numbers a
//! column) and time (as many additions) never grow. Of the published ones it is closest to HBOS (Goldstein, Dengel 2012) and
//! ECOD (Li et al. 2022), with decay and a prior.

use crate::ModelError;

/// Bins of a histogram; bin `i` begins at `exp(i / 4) - 1`, so the last at 1.1e12.
pub const BINS: usize = 112;
const PER_E: f64 = 4.0;

/// How often values of a column exceed `v` before anything is known: `(1 + v / scale)^-shape`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// In the unit of the column, above 0.
    pub scale: f64,
    /// The larger, the rarer are large values; above 0.
    pub shape: f64,
}

impl Prior {
    fn exceeds(&self, value: f64) -> f64 {
        (1.0 + value.max(0.0) / self.scale).powf(-self.shape)
    }
}

/// Settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Rows that the prior counts for, above 0.
    pub strength: f64,
    /// Rows over which half is forgotten, 1 or more.
    pub half_life: f64,
}

/// The detector. Rows are columns of finite numbers, 0 or more; negative ones count as 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Tails {
    settings: Settings,
    columns: Vec<Column>,
}

#[derive(Clone, Debug, PartialEq)]
struct Column {
    prior: Prior,
    bins: Vec<f64>,
    total: f64,
}

impl Tails {
    /// A detector that has seen nothing, one column for each prior.
    pub fn new(settings: Settings, priors: &[Prior]) -> Self {
        let column = |prior: &Prior| Column {
            prior: *prior,
            bins: vec![0.0; BINS],
            total: 0.0,
        };
        Self {
            settings,
            columns: priors.iter().map(column).collect(),
        }
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Weight of the rows of a column, at most 1.44 half-lives; 0 for a column that is not there.
    pub fn weight(&self, column: usize) -> f64 {
        self.columns.get(column).map_or(0.0, |c| c.total)
    }

    /// Learns from `times` equal rows (part of a row is allowed); what is beyond the columns is left out.
    pub fn learn(&mut self, row: &[f64], times: f64) {
        if !(times > 0.0 && times.is_finite()) {
            return;
        }
        let keep = 0.5f64.powf(times / self.settings.half_life.max(1.0));
        // The sum of a decaying series of `times` rows.
        let decay = 0.5f64.powf(1.0 / self.settings.half_life.max(1.0));
        let weight = if times <= 1.0 {
            times
        } else {
            (1.0 - keep) / (1.0 - decay)
        };
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.bins.iter_mut().for_each(|b| *b *= keep);
            column.bins[bin(*value)] += weight;
            column.total = column.bins.iter().sum();
        }
    }

    /// Makes `value` usual in one column: afterwards it counts as seen in one of fifty rows.
    pub fn accept(&mut self, column: usize, value: f64) {
        if let Some(c) = self.columns.get_mut(column) {
            c.bins[bin(value)] += (c.total + self.settings.strength) / 49.0;
            c.total = c.bins.iter().sum();
        }
    }

    /// How rare a value of at least this size is in a column, nats, 0 or more; not a number and infinity are as rare as the
    /// largest number.
    pub fn surprise(&self, column: usize, value: f64) -> f64 {
        let Some(c) = self.columns.get(column) else {
            return 0.0;
        };
        let value = if value.is_finite() { value } else { f64::MAX };
        let known: f64 = c.bins[bin(value)..].iter().sum();
        let k = self.settings.strength;
        let p = (known + k * c.prior.exceeds(value)) / (c.total + k);
        -p.clamp(f64::MIN_POSITIVE, 1.0).ln()
    }

    /// The largest surprise of a row's values, nats.
    pub fn score(&self, row: &[f64]) -> f64 {
        let all = row.iter().enumerate().map(|(k, v)| self.surprise(k, *v));
        all.fold(0.0, f64::max)
    }

    /// The value that a share `q` of the rows does not exceed: the end of its bin, at most 28 % too large; 0 when nothing is
    /// known.
    pub fn quantile(&self, column: usize, q: f64) -> f64 {
        let Some(c) = self.columns.get(column) else {
            return 0.0;
        };
        let mut left = c.total * q.clamp(0.0, 1.0);
        // Rounding and what is almost forgotten are no rows.
        let least = c.total * 1e-9;
        let mut last = 0;
        for (i, weight) in c.bins.iter().enumerate() {
            if *weight > least {
                last = i;
                left -= weight;
                if left <= least {
                    break;
                }
            }
        }
        if last == 0 { 0.0 } else { edge(last + 1) }
    }

    /// What was learnt: for each column its histogram.
    pub fn histograms(&self) -> Vec<Vec<f64>> {
        self.columns.iter().map(|c| c.bins.clone()).collect()
    }

    /// Puts back what [`Tails::histograms`] gave.
    ///
    /// # Errors
    /// [`ModelError::Invalid`]: another number of columns or bins, or weights that are not finite and 0 or more. Nothing is
    /// changed then.
    pub fn restore(&mut self, histograms: &[Vec<f64>]) -> Result<(), ModelError> {
        if histograms.len() != self.columns.len() || histograms.iter().any(|h| h.len() != BINS) {
            return Err(ModelError::Invalid {
                what: "histograms have another shape",
            });
        }
        if histograms
            .iter()
            .flatten()
            .any(|w| !(0.0..1e15).contains(w))
        {
            return Err(ModelError::Invalid {
                what: "a weight of a histogram is no number from 0 to 1e15",
            });
        }
        for (column, bins) in self.columns.iter_mut().zip(histograms) {
            column.bins.clone_from(bins);
            column.total = bins.iter().sum();
        }
        Ok(())
    }
}

/// Bin of a value.
fn bin(value: f64) -> usize {
    if value.is_finite() {
        ((value.max(0.0).ln_1p() * PER_E) as usize).min(BINS - 1)
    } else {
        BINS - 1
    }
}

/// Where a bin begins.
fn edge(bin: usize) -> f64 {
    (bin as f64 / PER_E).exp_m1()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        strength: 1000.0,
        half_life: 10_000.0,
    };
    const PRIOR: Prior = Prior {
        scale: 100.0,
        shape: 1.5,
    };

    #[test]
    fn the_prior_decides_at_first_and_habits_later() {
        let mut t = Tails::new(SETTINGS, &[PRIOR]);
        let before = t.surprise(0, 9_900.0);
        assert!((before - 1.5 * 100f64.ln()).abs() < 1e-9, "{before}");
        t.learn(&[10.0], 5_000.0);
        let after = t.surprise(0, 9_900.0);
        assert!(after > before + 1.0, "{after}");
        // The value itself becomes usual with use.
        for _ in 0..100 {
            t.learn(&[9_900.0], 1.0);
        }
        assert!(t.surprise(0, 9_900.0) < 4.5);
    }

    #[test]
    fn rows_at_once_weigh_as_much_as_one_by_one() {
        let mut a = Tails::new(SETTINGS, &[PRIOR]);
        let mut b = a.clone();
        a.learn(&[3.0], 300.0);
        (0..300).for_each(|_| b.learn(&[3.0], 1.0));
        assert!((a.weight(0) - b.weight(0)).abs() < 1e-6);
        assert!(a.weight(0) < 300.0);
        assert_eq!(a.weight(7), 0.0);
    }

    #[test]
    fn what_is_not_seen_any_more_becomes_strange_again() {
        let mut t = Tails::new(
            Settings {
                half_life: 100.0,
                ..SETTINGS
            },
            &[PRIOR],
        );
        t.learn(&[1e6], 50.0);
        let usual = t.surprise(0, 1e6);
        t.learn(&[1.0], 5_000.0);
        assert!(t.surprise(0, 1e6) > usual + 2.0);
    }

    #[test]
    fn accepted_values_are_usual() {
        let mut t = Tails::new(SETTINGS, &[PRIOR, PRIOR]);
        t.learn(&[1.0, 1.0], 8_000.0);
        assert!(t.surprise(1, 1e7) > 12.0);
        t.accept(1, 1e7);
        assert!(t.surprise(1, 1e7) < 4.0);
        assert!(t.surprise(0, 1e7) > 12.0);
    }

    #[test]
    fn quantiles_and_odd_values() {
        let mut t = Tails::new(SETTINGS, &[PRIOR]);
        assert_eq!(t.quantile(0, 0.9), 0.0);
        t.learn(&[0.0], 90.0);
        t.learn(&[1_000.0], 10.0);
        assert_eq!(t.quantile(0, 0.5), 0.0);
        assert!((1_000.0..1_300.0).contains(&t.quantile(0, 0.99)));
        for odd in [f64::NAN, f64::INFINITY, -1.0, f64::MAX] {
            t.learn(&[odd], 1.0);
            assert!(t.surprise(0, odd).is_finite());
        }
        assert_eq!(t.surprise(5, 1.0), 0.0);
        assert_eq!(t.surprise(0, -3.0), 0.0);
    }

    #[test]
    fn what_was_learnt_can_be_stored() {
        let mut t = Tails::new(SETTINGS, &[PRIOR, PRIOR]);
        t.learn(&[5.0, 1e5], 77.0);
        let mut again = Tails::new(SETTINGS, &[PRIOR, PRIOR]);
        again.restore(&t.histograms()).expect("the same shape");
        assert_eq!(again, t);
        assert!(again.restore(&[vec![0.0; BINS]]).is_err());
        assert!(again.restore(&[vec![-1.0; BINS], vec![0.0; BINS]]).is_err());
        assert!(
            again
                .restore(&[vec![f64::NAN; BINS], vec![0.0; BINS]])
                .is_err()
        );
        assert_eq!(again, t);
    }
}
