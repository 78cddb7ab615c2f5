//! Releases of several parts, or by other mechanisms: mean, standard deviation, percentile, counts of unknown keys.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

use super::{Bounds, Grant, ReleaseError, USER};
use crate::noise::{Noised, add_laplace, below};
use crate::zcdp::bernoulli_exp_any;
use crate::{Entropy, Epsilon, Mechanism, Noise, Released};

/// Share of a mean's ε that its sum gets, per cent; the count gets the others.
const SUM_OF_MEAN: u64 = 70;
/// Shares of a standard deviation's ε, per cent: sum, sum of squares; the count gets the others.
const SUM_OF_DEVIATION: u64 = 40;
const SQUARES_OF_DEVIATION: u64 = 40;

/// A noised mean over users and what it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mean {
    /// `centre + centred_sum / max(count, 1)`, kept within the bounds (which are public).
    pub mean: f64,
    /// Lower end of a 95 % interval, for the noise only.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Noised sum over users of the clamped value less the middle of the bounds.
    pub centred_sum: f64,
    /// Noised number of users that have a value.
    pub count: i64,
}

/// A noised standard deviation over users (divided by n) and what it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Deviation {
    /// Square root of mean square less square of the mean, kept within 0 and half of the bounds' width.
    pub deviation: f64,
    /// Lower end of a 95 % interval, for the noise only.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Noised sum of clamped values less the middle of the bounds.
    pub centred_sum: f64,
    /// Noised sum of the squares of these.
    pub centred_squares: f64,
    /// Noised number of users that have a value.
    pub count: i64,
}

/// A candidate near a percentile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentile {
    /// One of the candidates.
    pub value: f64,
    /// With 95 % the share of users below is wrong by at most this many users, beyond what the grid itself costs.
    pub rank_error: f64,
}

/// A share asked for, in hundredths of a per cent: 0 to 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(u16);

impl Percent {
    /// The whole, in hundredths of a per cent.
    const WHOLE: u64 = 10_000;

    /// Makes a share from per cent, rounded to two decimals; `None` outside 0 to 100.
    pub fn new(percent: f64) -> Option<Self> {
        (0.0..=100.0)
            .contains(&percent)
            .then(|| Self((percent * 100.0).round() as u16))
    }

    /// Per cent.
    pub fn value(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// What a release will cost in accuracy, known before it is made: [`Bounds`] and ε are public.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Expected {
    /// Scale of the noise, in units of the value.
    pub scale: f64,
    /// Mean absolute noise.
    pub mean_absolute: f64,
    /// Half of the 95 % interval.
    pub half_width: f64,
}

impl Expected {
    /// Of discrete Laplace noise for values that one user changes by `sensitivity` steps of `resolution` at most.
    pub fn laplace(sensitivity: u64, resolution: f64, epsilon: Epsilon) -> Self {
        let scale = sensitivity as f64 / epsilon.value();
        let x = (-1.0 / scale).exp();
        Self {
            scale: scale * resolution,
            // 2x / (1 - x²); for large scales 1 - x² by a form that does not cancel.
            mean_absolute: 2.0 * x / -(-2.0 / scale).exp_m1() * resolution,
            half_width: width(scale, 0.05) * resolution,
        }
    }

    /// Of [`Grant::sum`].
    pub fn sum(per_user: &Bounds, epsilon: Epsilon) -> Self {
        Self::laplace(per_user.sensitivity(), per_user.resolution, epsilon)
    }

    /// Of [`Grant::mean`] over `users` users that have a value: the square root of its mean squared error, to first order,
    /// for a mean at the middle of the bounds. At their edge it is larger by the count's share.
    pub fn mean(per_user: &Bounds, users: u64, epsilon: Epsilon) -> f64 {
        let (sum, _) = mean_shares(epsilon);
        let half = per_user.half() as f64 * per_user.resolution;
        2f64.sqrt() * half / sum.value() / users.max(1) as f64
    }

    /// Of [`Grant::deviation`] over `users` users that have a value: the square root of its mean squared error, to first
    /// order, for values spread evenly over the bounds. Where the true deviation is smaller the error is larger, as one over it.
    pub fn deviation(per_user: &Bounds, users: u64, epsilon: Epsilon) -> f64 {
        let [_, squares, count] = deviation_shares(epsilon).map(Epsilon::value);
        let half = per_user.half() as f64 * per_user.resolution;
        // With the half width h: the variance is h²/3, its error that of squares (noise h²/ε₂) and of the count (1/ε₃, times h²/3).
        let of_variance = (1.0 / squares).hypot(1.0 / (3.0 * count));
        2f64.sqrt() * half * of_variance / users.max(1) as f64 / (2.0 / 3f64.sqrt())
    }

    /// Ranks that [`Grant::percentile`] is wrong by at most, with 95 %: 2 ln(candidates / 0.05) / ε, scaled to its score.
    pub fn percentile(candidates: usize, percent: Percent, epsilon: Epsilon) -> f64 {
        let sensitivity = percent.sensitivity() as f64 / Percent::WHOLE as f64;
        2.0 * sensitivity * (candidates as f64 / 0.05).ln() / epsilon.value()
    }

    /// Users below which [`Grant::threshold_counts`] shows no key.
    pub fn threshold(per_user: usize, epsilon: Epsilon, delta: f64) -> i64 {
        threshold(per_user as u64, per_user as f64 / epsilon.value(), delta)
    }
}

impl Percent {
    /// The most that one user changes the score `|(whole - percent) below - percent above|`.
    fn sensitivity(self) -> u64 {
        u64::from(self.0).max(Self::WHOLE - u64::from(self.0))
    }
}

impl Bounds {
    /// The middle, in steps.
    fn centre(&self) -> i64 {
        self.lower + (self.upper - self.lower) / 2
    }

    /// The most that a clamped value differs from the middle, in steps; at least 1.
    fn half(&self) -> u64 {
        let centre = self.centre();
        (self.upper - centre)
            .max(centre - self.lower)
            .unsigned_abs()
            .max(1)
    }
}

impl Noise<'_> {
    /// The same source once more.
    fn again(&mut self) -> Noise<'_> {
        match self {
            Noise::System => Noise::System,
            Noise::Seeded(rng) => Noise::Seeded(&mut **rng),
        }
    }
}

impl Grant {
    /// Releases the mean over users of each user's value, the value clamped to `per_user`. Rows are one per user; of
    /// several the last counts. NaN counts as no value.
    ///
    /// Two parts, both paid from this grant: the sum of values less the middle of the bounds (70 % of ε) and the number of
    /// users (30 %), each with discrete Laplace noise. Without users the answer is noise within the bounds.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn mean<U: Ord>(
        self,
        rows: impl IntoIterator<Item = (U, f64)>,
        per_user: &Bounds,
        mut noise: Noise<'_>,
    ) -> Result<Released<Mean>, ReleaseError> {
        enough(self.epsilon)?;
        let simulated = matches!(noise, Noise::Seeded(_));
        let steps = centred(rows, per_user);
        let (for_sum, for_count) = mean_shares(self.epsilon);
        let half = per_user.half();
        let sum = add_laplace(&[steps.iter().sum()], half, for_sum, noise.again())?;
        let count = add_laplace(&[steps.len() as i128], 1, for_count, noise)?;
        let value = mean_of(per_user, &sum, &count, 0.025);
        Ok(self.statistic(
            value,
            (value.low, value.high),
            sum.scale,
            per_user,
            simulated,
        ))
    }

    /// Releases the standard deviation over users (divided by n) of each user's value, clamped to `per_user`. Rows as in
    /// [`Grant::mean`].
    ///
    /// Three parts: sum (40 % of ε) and sum of squares (40 %) of values less the middle of the bounds, and the number of
    /// users (20 %). Bounds of at most 2^20 steps keep the squares exact.
    ///
    /// # Errors
    /// [`ReleaseError`]; [`ReleaseError::Mechanism`] for bounds wider than 2^26 steps.
    pub fn deviation<U: Ord>(
        self,
        rows: impl IntoIterator<Item = (U, f64)>,
        per_user: &Bounds,
        mut noise: Noise<'_>,
    ) -> Result<Released<Deviation>, ReleaseError> {
        enough(self.epsilon)?;
        let half = per_user.half();
        if half > 1 << 25 {
            return Err(ReleaseError::Mechanism {
                why: "bounds of a standard deviation may have at most 2^26 steps".to_owned(),
            });
        }
        let simulated = matches!(noise, Noise::Seeded(_));
        let steps = centred(rows, per_user);
        let [for_sum, for_squares, for_count] = deviation_shares(self.epsilon);
        let squares: i128 = steps.iter().map(|s| s * s).sum();
        let sum = add_laplace(&[steps.iter().sum()], half, for_sum, noise.again())?;
        let squares = add_laplace(&[squares], half * half, for_squares, noise.again())?;
        let count = add_laplace(&[steps.len() as i128], 1, for_count, noise)?;
        let value = deviation_of(per_user, &sum, &squares, &count);
        let interval = (value.low, value.high);
        Ok(self.statistic(value, interval, squares.scale, per_user, simulated))
    }

    /// Releases the candidate that is near a percentile of users' values, by permute-and-flip (McKenna, Sheldon 2020) on the
    /// score -|(1 - p) below - p above|: candidates in random order, the first that a coin of probability
    /// exp(-ε gap / 2Δ) takes, gap being how much worse than the best one it is. It is ε-differentially private and never
    /// less exact than the exponential mechanism. Integers only.
    ///
    /// Rows are one per user; of several the last counts; NaN counts as no value. `candidates` are public. Ties of a user's
    /// value with a candidate count on neither side.
    ///
    /// # Errors
    /// [`ReleaseError::Mechanism`] without candidates or with one that is not finite.
    pub fn percentile<U: Ord>(
        self,
        rows: impl IntoIterator<Item = (U, f64)>,
        percent: Percent,
        candidates: &[f64],
        entropy: Entropy,
    ) -> Result<Released<Percentile>, ReleaseError> {
        if candidates.is_empty() || !candidates.iter().all(|c| c.is_finite()) {
            return Err(ReleaseError::Mechanism {
                why: "a percentile needs finite candidates".to_owned(),
            });
        }
        let (mut rng, simulated) = match entropy {
            Entropy::System(key) => (ChaCha20Rng::from_seed(key), false),
            Entropy::Seed(seed) => (ChaCha20Rng::seed_from_u64(seed), true),
        };
        let users: BTreeMap<U, f64> = rows.into_iter().filter(|(_, v)| !v.is_nan()).collect();
        let mut values: Vec<f64> = users.into_values().collect();
        values.sort_by(f64::total_cmp);
        let gaps = gaps(&values, percent, candidates);
        let chosen = permute_and_flip(&mut rng, &gaps, percent.sensitivity(), self.epsilon);
        let rank_error = Expected::percentile(candidates.len(), percent, self.epsilon);
        Ok(Released {
            value: Percentile {
                value: candidates[chosen],
                rank_error,
            },
            unit: String::new(),
            label: self.label,
            epsilon: self.epsilon,
            rho: None,
            delta: 0.0,
            mechanism: Mechanism::PermuteAndFlip,
            scale: 0.0,
            // In values it would tell of the data; in ranks it is in the answer.
            half_width: f64::INFINITY,
            relation: format!("all rows of {USER} added or removed"),
            ledger_entry: self.entry,
            simulated,
        })
    }

    /// Releases how many users have each key, for keys that are not known beforehand: only those whose noised count is
    /// at least [`Expected::threshold`], the largest first. Rows are (user, key, weight).
    ///
    /// A user counts in at most `per_user` keys (at least 1), those with most weight; among equals those that `salt` puts
    /// first, so that no key is always dropped. Noise: discrete Laplace of scale `per_user` / ε. (ε, δ)-differentially
    /// private: a key that only one user has shows with probability δ / `per_user` at most.
    ///
    /// # Errors
    /// [`ReleaseError::Mechanism`] when the grant was not paid with a δ.
    pub fn threshold_counts<U: Ord>(
        self,
        rows: impl IntoIterator<Item = (U, String, u64)>,
        per_user: usize,
        salt: u64,
        noise: Noise<'_>,
    ) -> Result<Released<Vec<(String, i64)>>, ReleaseError> {
        if self.delta <= 0.0 {
            return Err(ReleaseError::Mechanism {
                why: "counts of unknown keys need a delta above 0, paid from the ledger".to_owned(),
            });
        }
        let simulated = matches!(noise, Noise::Seeded(_));
        let per_user = per_user.max(1);
        let counts = keys_of_users(rows, per_user, salt);
        let exact: Vec<i128> = counts.values().map(|c| i128::from(*c)).collect();
        let noised = add_laplace(&exact, per_user as u64, self.epsilon, noise)?;
        let least = threshold(per_user as u64, noised.scale, self.delta);
        let mut shown: Vec<(String, i64)> = counts
            .into_keys()
            .zip(noised.values)
            .filter(|(_, count)| *count >= least)
            .collect();
        shown.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(Released {
            value: shown,
            unit: "users per key".to_owned(),
            label: self.label,
            epsilon: self.epsilon,
            rho: None,
            delta: self.delta,
            mechanism: Mechanism::DiscreteLaplaceThreshold,
            scale: noised.scale,
            half_width: width(noised.scale, 0.05),
            relation: format!("all rows of {USER} added or removed"),
            ledger_entry: self.entry,
            simulated,
        })
    }

    fn statistic<T>(
        self,
        value: T,
        (low, high): (f64, f64),
        scale: f64,
        per_user: &Bounds,
        simulated: bool,
    ) -> Released<T> {
        Released {
            value,
            unit: per_user.unit.clone(),
            label: self.label,
            epsilon: self.epsilon,
            rho: None,
            delta: 0.0,
            mechanism: Mechanism::DiscreteLaplace,
            scale: scale * per_user.resolution,
            half_width: (high - low) / 2.0,
            relation: format!("all rows of {} added or removed", per_user.user),
            ledger_entry: self.entry,
            simulated,
        }
    }
}

/// Shares of less than a billionth would be rounded up, beyond what was paid.
fn enough(epsilon: Epsilon) -> Result<(), ReleaseError> {
    if epsilon.nanos() < 100 {
        return Err(ReleaseError::Mechanism {
            why: "epsilon is too small to be shared among the parts of the answer".to_owned(),
        });
    }
    Ok(())
}

/// `percent` of ε, at least a billionth.
fn share(epsilon: Epsilon, percent: u64) -> Epsilon {
    let nanos = (epsilon.nanos() / 100 * percent + epsilon.nanos() % 100 * percent / 100).max(1);
    Epsilon::from_nanos(nanos).unwrap_or(epsilon)
}

/// What is left of ε; never less than a billionth.
fn rest(epsilon: Epsilon, parts: &[Epsilon]) -> Epsilon {
    let spent: u64 = parts.iter().map(|p| p.nanos()).sum();
    Epsilon::from_nanos(epsilon.nanos().saturating_sub(spent)).unwrap_or(parts[0])
}

fn mean_shares(epsilon: Epsilon) -> (Epsilon, Epsilon) {
    let sum = share(epsilon, SUM_OF_MEAN);
    (sum, rest(epsilon, &[sum]))
}

fn deviation_shares(epsilon: Epsilon) -> [Epsilon; 3] {
    let (sum, squares) = (
        share(epsilon, SUM_OF_DEVIATION),
        share(epsilon, SQUARES_OF_DEVIATION),
    );
    [sum, squares, rest(epsilon, &[sum, squares])]
}

/// Each user's clamped value less the middle of the bounds, in steps.
fn centred<U: Ord>(rows: impl IntoIterator<Item = (U, f64)>, per_user: &Bounds) -> Vec<i128> {
    let centre = per_user.centre();
    let users: BTreeMap<U, f64> = rows.into_iter().filter(|(_, v)| !v.is_nan()).collect();
    users
        .into_values()
        .map(|v| i128::from(per_user.steps(v) - centre))
        .collect()
}

fn mean_of(per_user: &Bounds, sum: &Noised, count: &Noised, alpha: f64) -> Mean {
    let (s, n) = (sum.values[0] as f64, count.values[0]);
    let (by_sum, by_count) = (width(sum.scale, alpha), width(count.scale, alpha));
    let value = |steps: f64| {
        (per_user.centre() as f64 + steps).clamp(per_user.lower as f64, per_user.upper as f64)
            * per_user.resolution
    };
    let (few, many) = (n as f64 - by_count, n as f64 + by_count);
    // The quotient is extreme at a corner; with no user for sure it can be anything.
    let corners = [few, many].map(|n| n.max(1.0));
    let ends = |s: f64| corners.map(|n| s / n);
    let (mut low, mut high) = (
        ends(s - by_sum).into_iter().fold(f64::INFINITY, f64::min),
        ends(s + by_sum)
            .into_iter()
            .fold(f64::NEG_INFINITY, f64::max),
    );
    if few < 1.0 {
        (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
    }
    Mean {
        mean: value(s / (n as f64).max(1.0)),
        low: value(low),
        high: value(high),
        centred_sum: s * per_user.resolution,
        count: n,
    }
}

fn deviation_of(per_user: &Bounds, sum: &Noised, squares: &Noised, count: &Noised) -> Deviation {
    let r = per_user.resolution;
    let most = per_user.half() as f64;
    let (s, q, n) = (
        sum.values[0] as f64,
        squares.values[0] as f64,
        count.values[0],
    );
    let alpha = 0.05 / 3.0;
    let [by_sum, by_squares, by_count] = [sum, squares, count].map(|p| width(p.scale, alpha));
    let root = |variance: f64| variance.max(0.0).sqrt().min(most) * r;
    let of = |q: f64, s: f64, n: f64| q / n - (s / n) * (s / n);
    let (few, many) = (n as f64 - by_count, n as f64 + by_count);
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    if few < 1.0 {
        (low, high) = (0.0, most * most);
    } else {
        // Monotone in q and in |s|; in n the ends and the stationary point between them.
        for q in [q - by_squares, q + by_squares] {
            for s in [
                s.abs() + by_sum,
                if s.abs() > by_sum {
                    s.abs() - by_sum
                } else {
                    0.0
                },
            ] {
                let still = 2.0 * s * s / q;
                for n in [few, many, still] {
                    if (few..=many).contains(&n) {
                        low = low.min(of(q, s, n));
                        high = high.max(of(q, s, n));
                    }
                }
            }
        }
    }
    Deviation {
        deviation: root(of(q, s, (n as f64).max(1.0))),
        low: root(low),
        high: root(high),
        centred_sum: s * r,
        centred_squares: q * r * r,
        count: n,
    }
}

/// The smallest whole w with P(|noise| > w) <= alpha, for discrete Laplace noise of that scale.
fn width(scale: f64, alpha: f64) -> f64 {
    let w = scale * (2.0 / (alpha * (1.0 + (-1.0 / scale).exp()))).ln();
    (w.ceil() - 1.0).max(0.0)
}

/// The smallest t >= 2 with `keys` P(1 + noise >= t) <= δ, from P(noise >= m) = e^(-m / b) / (1 + e^(-1 / b)).
fn threshold(keys: u64, scale: f64, delta: f64) -> i64 {
    let m = scale * (keys as f64 / (delta * (1.0 + (-1.0 / scale).exp()))).ln();
    (1.0 + m.max(1.0)).ceil() as i64
}

fn keys_of_users<U: Ord>(
    rows: impl IntoIterator<Item = (U, String, u64)>,
    per_user: usize,
    salt: u64,
) -> BTreeMap<String, u64> {
    let mut users: BTreeMap<U, BTreeMap<String, u64>> = BTreeMap::new();
    for (user, key, weight) in rows {
        let sum = users.entry(user).or_default().entry(key).or_default();
        *sum = sum.saturating_add(weight);
    }
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for keys in users.into_values() {
        let mut ranked: BTreeSet<(std::cmp::Reverse<u64>, u64, String)> = BTreeSet::new();
        for (key, weight) in keys {
            ranked.insert((std::cmp::Reverse(weight), salted(&key, salt), key));
        }
        for (_, _, key) in ranked.into_iter().take(per_user) {
            *counts.entry(key).or_default() += 1;
        }
    }
    counts
}

/// A place among equals (FNV-1a, salted): no secret, only not the alphabet.
fn salted(key: &str, salt: u64) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ salt;
    key.bytes().fold(start, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// How much worse than the best candidate each one is, in hundredths of a per cent of a user.
fn gaps(sorted: &[f64], percent: Percent, candidates: &[f64]) -> Vec<u64> {
    let p = i128::from(percent.0);
    let whole = i128::from(Percent::WHOLE);
    let scores: Vec<u64> = candidates
        .iter()
        .map(|c| {
            let below = sorted.partition_point(|v| v < c) as i128;
            let above = (sorted.len() - sorted.partition_point(|v| v <= c)) as i128;
            ((whole - p) * below - p * above).unsigned_abs() as u64
        })
        .collect();
    let best = scores.iter().copied().min().unwrap_or(0);
    scores.into_iter().map(|s| s - best).collect()
}

fn permute_and_flip(
    rng: &mut dyn RngCore,
    gaps: &[u64],
    sensitivity: u64,
    epsilon: Epsilon,
) -> usize {
    let mut order: Vec<usize> = (0..gaps.len()).collect();
    let denominator = 2 * u128::from(sensitivity) * 1_000_000_000;
    let mut last = 0;
    for left in (1..=order.len()).rev() {
        last = order.swap_remove(below(rng, left as u128) as usize);
        let numerator = u128::from(epsilon.nanos()) * u128::from(gaps[last]);
        if bernoulli_exp_any(rng, numerator, denominator) {
            return last;
        }
    }
    // The best candidate's coin always falls on its side, so this is not reached.
    last
}

#[cfg(test)]
#[path = "statistics_tests.rs"]
mod tests;
