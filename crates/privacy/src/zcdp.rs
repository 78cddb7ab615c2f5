//! Zero-concentrated differential privacy: many counted tables for one (ε, δ).
//!
//! Source: Bun, Steinke, "Concentrated Differential Privacy" (2016); Canonne, Kamath, Steinke, "The Discrete Gaussian
//! for Differential Privacy" (2020): algorithm 3 (exact sampler), theorem 4 (its ρ), corollary 13 (ρ to ε, δ).

use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

use crate::noise::{below, bernoulli_exp, discrete_laplace};
use crate::{Epsilon, Grant, ReleaseError};

/// Denominator of the variances that are used.
pub(crate) const STEP: u128 = 64;
/// The largest standard deviation: integers of the sampler stay below 2^127.
pub(crate) const MAX_SIGMA: f64 = 1e6;

/// The smallest ε (not rounded) for which ρ-zCDP implies (ε, δ)-DP, by corollary 13: the minimum over α > 1 of
/// ρα + ln(1 / (αδ)) / (α - 1) + ln(1 - 1/α). δ must be above 0 and below 1.
pub fn epsilon_of_rho(rho: f64, delta: f64) -> f64 {
    if rho <= 0.0 {
        return 0.0;
    }
    let loss = |log_a1: f64| {
        let a1 = log_a1.exp(); // α - 1
        let alpha = 1.0 + a1;
        rho * alpha - (alpha * delta).ln() / a1 + (a1 / alpha).ln()
    };
    // One minimum: golden section over ln(α - 1). Every α gives a valid bound, so an inexact minimum is still sound.
    let (mut low, mut high) = (-12.0f64, 40.0f64);
    let golden = 0.5 * (5f64.sqrt() - 1.0);
    for _ in 0..200 {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if loss(a) < loss(b) { high = b } else { low = a }
    }
    loss(0.5 * (low + high)).max(0.0)
}

/// A ρ for which ρ-zCDP implies (ε, δ)-DP, within 2^-50 of the largest, never above it.
pub fn rho_of_epsilon(epsilon: Epsilon, delta: f64) -> f64 {
    let want = epsilon.value_rounded_down() * (1.0 - 1e-12);
    let (mut low, mut high) = (0.0f64, want.max(1e-9));
    while epsilon_of_rho(high, delta) < want && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if epsilon_of_rho(middle, delta) <= want {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// Where the noise of a [`Tables`] comes from.
#[derive(Clone, Copy)]
pub enum Entropy {
    /// 32 bytes just drawn from the operating system's generator, used once and kept nowhere: the only choice for
    /// what is given away.
    System([u8; 32]),
    /// **Simulation only, gives no protection**: whoever knows the seed can subtract the noise.
    Seed(u64),
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::System(_) => "System",
            Self::Seed(_) => "Seed",
        })
    }
}

/// One table that was released.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Charge {
    /// What was counted; public.
    pub name: String,
    /// Cells, all of which got noise.
    pub cells: usize,
    /// Standard deviation parameter σ of the discrete Gaussian, counts.
    pub sigma: f64,
    /// What it cost: sensitivity² / (2σ²).
    pub rho: f64,
}

/// A paid right to release tables of counts with discrete Gaussian noise, until ρ is used up.
///
/// *Guarantee*: all tables together are (ε, δ)-DP, ε being the grant's, for the relation "one unit added or removed",
/// when one unit changes each table by at most `sensitivity` in Euclidean norm (a unit with at most k records: k).
/// Later tables may depend on earlier answers: the sum of ρ is a valid filter under full adaptivity (Feldman, Zrnic,
/// "Individual Privacy Accounting via a Rényi Filter", 2021).
#[derive(Debug)]
pub struct Tables {
    rho: f64,
    left: f64,
    sensitivity: u32,
    rng: ChaCha20Rng,
    charges: Vec<Charge>,
    simulated: bool,
}

impl Grant {
    /// Turns the grant into a budget for tables. The ledger must have been asked with
    /// [`crate::Ledger::spend_approximate`] for the same δ.
    ///
    /// # Errors
    /// [`ReleaseError::Mechanism`] when the grant was not paid with a δ, or `sensitivity` is 0.
    pub fn into_tables(self, sensitivity: u32, entropy: Entropy) -> Result<Tables, ReleaseError> {
        let refuse = |why: &str| {
            Err(ReleaseError::Mechanism {
                why: why.to_owned(),
            })
        };
        if sensitivity == 0 {
            return refuse("the sensitivity must be at least 1");
        }
        if self.delta() <= 0.0 {
            return refuse("Gaussian noise needs a delta above 0, paid from the ledger");
        }
        let rho = rho_of_epsilon(self.epsilon(), self.delta());
        let (rng, simulated) = match entropy {
            Entropy::System(key) => (ChaCha20Rng::from_seed(key), false),
            Entropy::Seed(seed) => (ChaCha20Rng::seed_from_u64(seed), true),
        };
        Ok(Tables {
            rho,
            left: rho,
            sensitivity,
            rng,
            charges: Vec::new(),
            simulated,
        })
    }
}

impl Tables {
    /// The whole budget ρ.
    pub fn rho(&self) -> f64 {
        self.rho
    }

    /// What is left of it.
    pub fn left(&self) -> f64 {
        self.left
    }

    /// The most records of one unit, as the noise is made for.
    pub fn sensitivity(&self) -> u32 {
        self.sensitivity
    }

    /// What was released so far.
    pub fn charges(&self) -> &[Charge] {
        &self.charges
    }

    /// Whether the noise came from a given seed and protects nobody.
    pub fn simulated(&self) -> bool {
        self.simulated
    }

    /// Adds noise to every count, in place, for at most `rho`, and gives σ (at least 0.125; the charge is then less).
    ///
    /// The number and order of cells must not depend on the data, other than through earlier answers.
    ///
    /// # Errors
    /// [`ReleaseError::Mechanism`] when `rho` is not positive, is more than what is left, or is so small that σ would
    /// pass 10^6. Nothing is charged or changed then.
    pub fn release(
        &mut self,
        name: &str,
        counts: &mut [i64],
        rho: f64,
    ) -> Result<f64, ReleaseError> {
        let refuse = |why: String| Err(ReleaseError::Mechanism { why });
        if !(rho > 0.0 && rho <= self.left) {
            return refuse(format!(
                "table {name}: asked for rho {rho}, left {}",
                self.left
            ));
        }
        let sensitivity = f64::from(self.sensitivity);
        let sigma = sensitivity / (2.0 * rho).sqrt();
        if sigma.is_nan() || sigma > MAX_SIGMA {
            return refuse(format!(
                "table {name}: rho {rho} needs noise of {sigma} counts"
            ));
        }
        // Variance a / STEP, rounded up: the charge is never above what was asked.
        let a = ((sigma * sigma * STEP as f64).ceil() as u128).max(1) + 1;
        let variance = a as f64 / STEP as f64;
        let charged = sensitivity * sensitivity / (2.0 * variance);
        self.left -= charged;
        let sigma = variance.sqrt();
        for count in counts.iter_mut() {
            *count = count.saturating_add(discrete_gaussian(&mut self.rng, a, STEP));
        }
        self.charges.push(Charge {
            name: name.to_owned(),
            cells: counts.len(),
            sigma,
            rho: charged,
        });
        Ok(sigma)
    }
}

/// Draws from the discrete Gaussian of variance `a / b`, P(x) ∝ exp(-x² b / 2a), exactly, with integers only.
pub(crate) fn discrete_gaussian(rng: &mut dyn RngCore, a: u128, b: u128) -> i64 {
    let t = (a / b).isqrt() + 1;
    loop {
        let y = discrete_laplace(rng, t, 1);
        let magnitude = y.unsigned_abs();
        // (|y| - σ²/t)² / 2σ² as a fraction; beyond 2^60 the draw is refused with certainty for all practical σ.
        let Some(scaled) = magnitude.checked_mul(b * t) else {
            continue;
        };
        let difference = scaled.abs_diff(a);
        let Some(numerator) = difference.checked_mul(difference) else {
            continue;
        };
        if bernoulli_exp_any(rng, numerator, 2 * a * b * t * t) {
            return y as i64;
        }
    }
}

/// True with probability exp(-numerator / denominator) for any fraction (same paper, algorithm 1).
pub(crate) fn bernoulli_exp_any(rng: &mut dyn RngCore, numerator: u128, denominator: u128) -> bool {
    let whole = numerator / denominator;
    for _ in 0..whole {
        if !bernoulli_exp(rng, 1, 1) {
            return false;
        }
    }
    // Reduced so that the product with the round number stays small.
    let (mut n, mut d) = (numerator % denominator, denominator);
    if n == 0 {
        return true;
    }
    let (mut x, mut y) = (n, d);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    n /= x;
    d /= x;
    // P(A > n/d round k): as bernoulli_exp, with the factor 1/k drawn apart to stay within 128 bits.
    let mut k: u128 = 1;
    while below(rng, k) == 0 && below(rng, d) < n {
        k += 1;
    }
    k % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ledger;

    fn tables(epsilon: f64, delta: f64, sensitivity: u32, seed: u64) -> Tables {
        let mut ledger = Ledger::open(Epsilon::new(epsilon).unwrap(), delta, &[]).unwrap();
        ledger.mark_stored();
        let grant = ledger
            .spend_approximate("t", Epsilon::new(epsilon).unwrap(), delta)
            .unwrap()
            .stored();
        grant.into_tables(sensitivity, Entropy::Seed(seed)).unwrap()
    }

    #[test]
    fn conversion_agrees_with_published_values() {
        // Gaussian DP's simple bound ρ + 2 sqrt(ρ ln(1/δ)) is never beaten from above.
        for rho in [1e-4f64, 0.01, 0.1, 0.5, 2.0] {
            for delta in [1e-9f64, 1e-6, 1e-5] {
                let tight = epsilon_of_rho(rho, delta);
                let simple = rho + 2.0 * (rho * (1.0 / delta).ln()).sqrt();
                assert!(
                    tight <= simple && tight > 0.6 * simple,
                    "{rho} {delta}: {tight} {simple}"
                );
            }
        }
        let rho = rho_of_epsilon(Epsilon::new(1.0).unwrap(), 1e-6);
        assert!((0.0200..0.0260).contains(&rho), "{rho}"); // reference/dpmon: 0.0244
        assert!(epsilon_of_rho(rho, 1e-6) <= 1.0);
    }

    #[test]
    fn draws_follow_the_discrete_gaussian() {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        for (a, b) in [(1u128, 4u128), (64, 64), (64 * 9, 64), (64 * 400 + 7, 64)] {
            let variance = a as f64 / b as f64;
            let n = 60_000usize;
            let draws: Vec<i64> = (0..n).map(|_| discrete_gaussian(&mut rng, a, b)).collect();
            let edge = (6.0 * variance.sqrt()) as i64 + 2;
            let weight = |x: i64| (-(x * x) as f64 / (2.0 * variance)).exp();
            let sum: f64 = (-4 * edge..=4 * edge).map(weight).sum();
            let (mut chi, mut cells) = (0.0, 0.0);
            for x in -edge..=edge {
                let expected = weight(x) / sum * n as f64;
                if expected >= 20.0 {
                    let seen = draws.iter().filter(|d| **d == x).count() as f64;
                    chi += (seen - expected) * (seen - expected) / expected;
                    cells += 1.0;
                }
            }
            // Mean cells, deviation sqrt(2 cells): six of them.
            assert!(
                chi < cells + 6.0 * (2.0f64 * cells).sqrt() + 6.0,
                "{variance}: {chi} over {cells}"
            );
        }
    }

    #[test]
    fn charges_add_up_and_stop() {
        let mut budget = tables(2.0, 1e-5, 3, 1);
        let rho = budget.rho();
        let mut counts = [0i64; 4];
        let sigma = budget.release("a", &mut counts, rho / 2.0).unwrap();
        assert!((sigma - 3.0 / rho.sqrt()).abs() < 0.1);
        assert!(budget.release("b", &mut counts, rho * 0.51).is_err());
        budget.release("b", &mut counts, budget.left()).unwrap();
        assert!(budget.left() >= 0.0 && budget.release("c", &mut counts, rho).is_err());
        let spent: f64 = budget.charges().iter().map(|c| c.rho).sum();
        assert!(spent <= rho && spent > 0.99 * rho);
        assert!(epsilon_of_rho(spent, 1e-5) <= 2.0);
        assert!(budget.release("d", &mut counts, -1.0).is_err());
        assert!(budget.release("d", &mut counts, f64::NAN).is_err());
    }

    #[test]
    fn needs_a_paid_delta() {
        let mut ledger = Ledger::open(Epsilon::new(1.0).unwrap(), 1e-6, &[]).unwrap();
        ledger.mark_stored();
        let pure = ledger
            .spend("t", Epsilon::new(0.5).unwrap())
            .unwrap()
            .stored();
        assert!(pure.into_tables(1, Entropy::Seed(1)).is_err());
        assert!(
            ledger
                .spend_approximate("t", Epsilon::new(0.1).unwrap(), 2e-6)
                .is_err()
        );
        let grant = ledger
            .spend_approximate("t", Epsilon::new(0.1).unwrap(), 6e-7)
            .unwrap();
        drop(grant.stored());
        assert!(
            ledger
                .spend_approximate("t", Epsilon::new(0.1).unwrap(), 6e-7)
                .is_err()
        );
    }
}
