use std::collections::{BTreeMap, BTreeSet};

use crate::noise::{Noised, add_laplace};
use crate::{Epsilon, Mechanism, Noise, Released};

mod statistics;
pub use statistics::{Deviation, Expected, Mean, Percent, Percentile};

const USER: &str = "one user";

/// The right to one release, paid for and stored. Using it consumes it.
#[derive(Debug, PartialEq)]
#[must_use = "the budget is already spent"]
pub struct Grant {
    label: String,
    epsilon: Epsilon,
    delta: f64,
    entry: u64,
}

/// What one user may contribute to a sum: `lower..=upper`, in steps of `resolution`.
///
/// Bounds are public: choose them without looking at the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    lower: i64,
    upper: i64,
    resolution: f64,
    unit: String,
    user: String,
}

/// The bounds cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BoundsError {
    /// A number is NaN or infinite, or the resolution is not positive.
    #[error("bounds must be finite and the resolution positive")]
    NotFinite,
    /// `lower > upper`.
    #[error("the lower bound is above the upper one")]
    Crossed,
    /// Both bounds round to zero: every answer would be zero.
    #[error("both bounds are zero at this resolution")]
    Empty,
    /// A bound is more than 2^52 steps from zero.
    #[error("a bound is more than 2^52 steps of the resolution from zero")]
    TooWide,
}

/// A paid release could not be made. The cause never depends on the data; the budget stays spent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The mechanism refused or found no randomness.
    #[error("the noise mechanism failed: {why}")]
    Mechanism {
        /// What it said.
        why: String,
    },
}

impl Bounds {
    /// Makes bounds. Totals are rounded to whole steps of `resolution` before noise is added.
    ///
    /// # Errors
    /// [`BoundsError`].
    pub fn new(lower: f64, upper: f64, resolution: f64) -> Result<Self, BoundsError> {
        if !(lower.is_finite() && upper.is_finite() && resolution.is_finite() && resolution > 0.0) {
            return Err(BoundsError::NotFinite);
        }
        if lower > upper {
            return Err(BoundsError::Crossed);
        }
        let (low, high) = ((lower / resolution).round(), (upper / resolution).round());
        let most = (1u64 << 52) as f64;
        if low.abs() > most || high.abs() > most {
            return Err(BoundsError::TooWide);
        }
        if low == 0.0 && high == 0.0 {
            return Err(BoundsError::Empty);
        }
        Ok(Self {
            lower: low as i64,
            upper: high as i64,
            resolution,
            unit: String::new(),
            user: USER.to_owned(),
        })
    }

    /// Names what the values count, for example `bytes`.
    #[must_use]
    pub fn unit(mut self, unit: &str) -> Self {
        unit.clone_into(&mut self.unit);
        self
    }

    /// Says what stands for a user in the rows, for example `one day of one device`; the release repeats it.
    #[must_use]
    pub fn protects(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// One user's total in whole steps. NaN counts as zero.
    fn steps(&self, total: f64) -> i64 {
        let steps = (total / self.resolution).round();
        let steps = if steps.is_nan() { 0.0 } else { steps };
        (steps.clamp(self.lower as f64, self.upper as f64)) as i64
    }

    /// The most that one user can change a sum, in steps.
    fn sensitivity(&self) -> u64 {
        self.lower.unsigned_abs().max(self.upper.unsigned_abs())
    }
}

impl Grant {
    pub(crate) fn new(label: &str, epsilon: Epsilon, delta: f64, entry: u64) -> Self {
        Self {
            label: label.to_owned(),
            epsilon,
            delta,
            entry,
        }
    }

    /// Two rights for one: the first with this ε, the other with the rest and with δ. Together they are what was paid.
    ///
    /// # Errors
    /// The grant as it was, when `first` is not less than it.
    pub fn split(self, first: Epsilon) -> Result<(Self, Self), Self> {
        let rest = self.epsilon.nanos().checked_sub(first.nanos());
        let Some(Ok(rest)) = rest.map(Epsilon::from_nanos) else {
            return Err(self);
        };
        let part = Self::new(&self.label, first, 0.0, self.entry);
        Ok((
            part,
            Self {
                epsilon: rest,
                ..self
            },
        ))
    }

    /// What was paid.
    pub fn epsilon(&self) -> Epsilon {
        self.epsilon
    }

    /// δ that was paid; 0 for a pure release.
    pub fn delta(&self) -> f64 {
        self.delta
    }

    /// What it was paid for.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Releases the sum over users of each user's total, the total clamped to `per_user`.
    ///
    /// Noise: discrete Laplace of scale max(|lower|, |upper|) / ε, in steps of the resolution. Without rows the answer
    /// is noise around zero.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn sum<U: Ord>(
        self,
        rows: impl IntoIterator<Item = (U, f64)>,
        per_user: &Bounds,
        noise: Noise<'_>,
    ) -> Result<Released<f64>, ReleaseError> {
        let simulated = matches!(noise, Noise::Seeded(_));
        let sum = bounded_sum(rows, per_user);
        let noised = add_laplace(&[sum], per_user.sensitivity(), self.epsilon, noise)?;
        let resolution = per_user.resolution;
        Ok(self.release(
            noised,
            resolution,
            (&per_user.unit, &per_user.user),
            simulated,
            |values| values[0] as f64 * resolution,
        ))
    }

    /// Releases how many different users there are. Noise: discrete Laplace of scale 1 / ε.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn count<U: Ord>(
        self,
        users: impl IntoIterator<Item = U>,
        noise: Noise<'_>,
    ) -> Result<Released<i64>, ReleaseError> {
        let simulated = matches!(noise, Noise::Seeded(_));
        let users: BTreeSet<U> = users.into_iter().collect();
        let noised = add_laplace(&[users.len() as i128], 1, self.epsilon, noise)?;
        Ok(self.release(noised, 1.0, ("users", USER), simulated, |values| values[0]))
    }

    /// Releases how many users fall in each of `bins` bins; rows are (user, bin).
    ///
    /// A user counts at most once per bin and in at most `per_user` bins (at least 1): those it has most rows in, the
    /// lower number first among equals. Rows beyond the last bin are ignored. Noise: discrete Laplace of scale
    /// min(`per_user`, `bins`) / ε on every bin, empty ones too. Choose the bins without looking at the data.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn histogram<U: Ord>(
        self,
        rows: impl IntoIterator<Item = (U, usize)>,
        bins: usize,
        per_user: usize,
        noise: Noise<'_>,
    ) -> Result<Released<Vec<i64>>, ReleaseError> {
        let simulated = matches!(noise, Noise::Seeded(_));
        let per_user = per_user.clamp(1, bins.max(1));
        let counts = bounded_histogram(rows, bins, per_user);
        let noised = add_laplace(&counts, per_user as u64, self.epsilon, noise)?;
        Ok(
            self.release(noised, 1.0, ("users per bin", USER), simulated, |values| {
                values
            }),
        )
    }

    fn release<T>(
        self,
        noised: Noised,
        resolution: f64,
        (unit, user): (&str, &str),
        simulated: bool,
        convert: impl FnOnce(Vec<i64>) -> T,
    ) -> Released<T> {
        Released {
            half_width: half_width(noised.scale) * resolution,
            scale: noised.scale * resolution,
            value: convert(noised.values),
            unit: unit.to_owned(),
            label: self.label,
            epsilon: self.epsilon,
            mechanism: Mechanism::DiscreteLaplace,
            relation: format!("all rows of {user} added or removed"),
            rho: None,
            delta: 0.0,
            ledger_entry: self.entry,
            simulated,
        }
    }
}

fn bounded_sum<U: Ord>(rows: impl IntoIterator<Item = (U, f64)>, per_user: &Bounds) -> i128 {
    let mut totals: BTreeMap<U, f64> = BTreeMap::new();
    for (user, value) in rows {
        *totals.entry(user).or_insert(0.0) += value;
    }
    totals
        .into_values()
        .map(|total| i128::from(per_user.steps(total)))
        .sum()
}

fn bounded_histogram<U: Ord>(
    rows: impl IntoIterator<Item = (U, usize)>,
    bins: usize,
    per_user: usize,
) -> Vec<i128> {
    let mut users: BTreeMap<U, BTreeMap<usize, u64>> = BTreeMap::new();
    for (user, bin) in rows {
        if bin < bins {
            *users.entry(user).or_default().entry(bin).or_insert(0) += 1;
        }
    }
    let mut counts = vec![0i128; bins];
    for of_user in users.into_values() {
        let mut ranked: Vec<(usize, u64)> = of_user.into_iter().collect();
        ranked.sort_by_key(|(bin, rows)| (std::cmp::Reverse(*rows), *bin));
        for (bin, _) in ranked.into_iter().take(per_user) {
            counts[bin] += 1;
        }
    }
    counts
}

/// The smallest whole w with P(|noise| > w) <= 5 %, from P(|X| > w) = 2 e^(-(w+1)/b) / (1 + e^(-1/b)).
pub(crate) fn half_width(scale: f64) -> f64 {
    let w = scale * (2.0 / (0.05 * (1.0 + (-1.0 / scale).exp()))).ln();
    (w.ceil() - 1.0).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ledger;
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn grant(epsilon: f64) -> Grant {
        Grant::new("test", Epsilon::new(epsilon).unwrap(), 0.0, 1)
    }

    #[test]
    fn clamps_the_user_and_not_the_row() {
        let bounds = Bounds::new(0.0, 100.0, 1.0).unwrap();
        let rows = [
            ("a", 90.0),
            ("b", 30.0),
            ("a", 90.0),
            ("c", -5.0),
            ("d", f64::NAN),
        ];
        assert_eq!(bounded_sum(rows, &bounds), 130);
        assert_eq!(bounded_sum([("a", f64::INFINITY)], &bounds), 100);
        assert_eq!(bounded_sum(Vec::<(u8, f64)>::new(), &bounds), 0);
    }

    #[test]
    fn refuses_bounds_without_meaning() {
        assert_eq!(Bounds::new(0.0, f64::NAN, 1.0), Err(BoundsError::NotFinite));
        assert_eq!(Bounds::new(0.0, 1.0, 0.0), Err(BoundsError::NotFinite));
        assert_eq!(Bounds::new(2.0, 1.0, 1.0), Err(BoundsError::Crossed));
        assert_eq!(Bounds::new(-0.1, 0.1, 1.0), Err(BoundsError::Empty));
        assert_eq!(Bounds::new(0.0, 1e300, 1.0), Err(BoundsError::TooWide));
    }

    #[test]
    fn a_user_counts_once_per_bin_and_in_its_main_bins() {
        let rows = [(1, 0), (1, 0), (1, 2), (1, 1), (2, 2), (2, 9)];
        assert_eq!(bounded_histogram(rows, 3, 1), [1, 0, 1]);
        assert_eq!(bounded_histogram(rows, 3, 2), [1, 1, 1]);
        assert_eq!(bounded_histogram(rows, 0, 1), Vec::<i128>::new());
    }

    #[test]
    fn a_release_carries_what_is_needed_to_read_it() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let bounds = Bounds::new(0.0, 3000.0, 0.5)
            .unwrap()
            .unit("bytes")
            .protects("one slot of one device");
        let released = grant(0.5)
            .sum([(1, 10.0)], &bounds, Noise::Seeded(&mut rng))
            .unwrap();
        let json = serde_json::to_value(&released).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "value": *released.value(), "unit": "bytes", "label": "test", "epsilon": 0.5,
                "mechanism": "discrete_laplace", "scale": 6000.0, "half_width": released.half_width(),
                "relation": "all rows of one slot of one device added or removed", "ledger_entry": 1, "simulated": true,
            })
        );
        assert!((released.half_width() / released.scale() - 20f64.ln()).abs() < 0.001);
        let live = grant(0.5).sum([(1, 10.0)], &bounds, Noise::System).unwrap();
        assert!(!live.simulated());
    }

    #[test]
    fn the_half_width_is_the_smallest_that_covers_nineteen_in_twenty() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        for epsilon in [0.01f64, 0.1, 0.7, 1.0, 3.0, 10.0] {
            // Sum of P(X = x) = tanh(1 / 2b) e^(-|x| / b) over |x| <= w.
            let cover = |w: i64| -> f64 {
                let p = |x: i64| (epsilon / 2.0).tanh() * (-(x.abs() as f64) * epsilon).exp();
                (-w..=w).map(p).sum()
            };
            let w = half_width(1.0 / epsilon) as i64;
            assert!(cover(w) >= 0.95, "{epsilon}: {w}");
            assert!(w == 0 || cover(w - 1) < 0.95, "{epsilon}: {w}");
            // Drawn: within six standard deviations (wrong with probability 2e-9 each).
            let n = 10_000;
            let inside = (0..n)
                .filter(|_| {
                    let r = grant(epsilon)
                        .count([1, 2, 3], Noise::Seeded(&mut rng))
                        .unwrap();
                    (r.value() - 3).abs() <= w
                })
                .count() as f64;
            let p = cover(w);
            let sd = (p * (1.0 - p) * f64::from(n)).sqrt();
            assert!((inside - p * f64::from(n)).abs() <= 6.0 * sd + 1.0);
        }
    }

    /// The largest log ratio of how often an event happens on two inputs, over events `x <= k` and `x >= k`, less six
    /// standard errors: above ε with probability below 1e-7 for a private mechanism (about 80 events, 1e-9 each).
    fn loss(a: &[i64], b: &[i64]) -> f64 {
        let mut worst = 0f64;
        for k in -20..=20 {
            for event in [
                (|x, k| x <= k) as fn(i64, i64) -> bool,
                (|x, k| x >= k) as fn(i64, i64) -> bool,
            ] {
                let count = |v: &[i64]| v.iter().filter(|x| event(**x, k)).count() as f64;
                let (p, q) = (count(a), count(b));
                if p >= 200.0 && q >= 200.0 {
                    let error = (1.0 / p + 1.0 / q).sqrt();
                    worst = worst.max((p / q).ln().abs() - 6.0 * error);
                }
            }
        }
        worst
    }

    #[test]
    fn neighbouring_inputs_cannot_be_told_apart_beyond_epsilon() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let bounds = Bounds::new(0.0, 1.0, 1.0).unwrap();
        for epsilon in [0.5, 1.0, 2.0] {
            let mut draws = |users: i32, paid: f64| -> Vec<i64> {
                (0..60_000)
                    .map(|_| {
                        let rows = (0..users).map(|u| (u, 9.0));
                        let r = grant(paid)
                            .sum(rows, &bounds, Noise::Seeded(&mut rng))
                            .unwrap();
                        *r.value() as i64
                    })
                    .collect()
            };
            let (without, with) = (draws(0, epsilon), draws(1, epsilon));
            let found = loss(&without, &with);
            assert!(found <= epsilon, "{found} > {epsilon}");
            // The audit has teeth: noise for twice the ε is found.
            let (without, with) = (draws(0, 2.0 * epsilon), draws(1, 2.0 * epsilon));
            assert!(loss(&without, &with) > epsilon);
        }
    }

    #[test]
    fn a_live_release_takes_the_whole_way() {
        let mut ledger = Ledger::open(Epsilon::new(3.0).unwrap(), 0.0, &[]).unwrap();
        ledger.mark_stored();
        let mut paid = |label| {
            ledger
                .spend(label, Epsilon::new(1.0).unwrap())
                .unwrap()
                .stored()
        };
        let users = 0..1_000_000u32;
        let count = paid("count").count(users, Noise::System).unwrap();
        // P(|noise| > 40) < 1e-17 at scale 1.
        assert!((count.value() - 1_000_000).abs() <= 40);
        let histogram = paid("histogram")
            .histogram([(1, 0), (2, 1)], 4, 1, Noise::System)
            .unwrap();
        assert_eq!((histogram.value().len(), histogram.ledger_entry()), (4, 2));
    }

    proptest! {
        #[test]
        fn one_user_changes_a_sum_by_no_more_than_the_sensitivity(
            rows in proptest::collection::vec((0..6u8, -1e4..1e4f64), 0..40),
            one in 0..6u8,
            (low, high) in (-5000i32..5000, -5000i32..5000),
            resolution in prop_oneof![Just(1.0), Just(0.1), Just(7.3)],
        ) {
            let (low, high) = (low.min(high), low.max(high));
            let Ok(bounds) = Bounds::new(low.into(), high.into(), resolution) else { return Ok(()) };
            let without: Vec<_> = rows.iter().copied().filter(|(u, _)| *u != one).collect();
            let difference = bounded_sum(rows, &bounds) - bounded_sum(without, &bounds);
            prop_assert!(difference.unsigned_abs() <= bounds.sensitivity().into());
        }

        #[test]
        fn one_user_changes_a_histogram_by_no_more_than_its_bins(
            rows in proptest::collection::vec((0..6u8, 0..8usize), 0..60),
            one in 0..6u8,
            per_user in 1..5usize,
        ) {
            let without: Vec<_> = rows.iter().copied().filter(|(u, _)| *u != one).collect();
            let (a, b) = (bounded_histogram(rows, 6, per_user), bounded_histogram(without, 6, per_user));
            let difference: u128 = a.iter().zip(&b).map(|(x, y)| (x - y).unsigned_abs()).sum();
            prop_assert!(difference <= per_user as u128);
        }
    }
}
