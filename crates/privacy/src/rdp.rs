//! Rényi differential privacy of the sampled Gaussian mechanism: many noisy gradient steps for one (ε, δ).
//!
//! Source: Mironov, Talwar, Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism" (2019), section 3.3;
//! conversion to (ε, δ): Canonne, Kamath, Steinke (2020), proposition 12, as in [`crate::epsilon_of_rho`].

use rand::{Rng, RngCore};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use crate::zcdp::{Charge, Entropy, MAX_SIGMA, STEP, discrete_gaussian};
use crate::{Epsilon, Grant, ReleaseError, rho_of_epsilon};

/// Largest noise multiplier that is looked for.
const MOST_NOISE: f64 = 1e4;

/// Equal steps: each takes every unit with probability `rate` on its own, sums vectors of norm at most C, and adds a
/// Gaussian of deviation `noise` times C to each number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// Probability of a unit to take part in a step, above 0 and at most 1.
    pub rate: f64,
    /// Steps.
    pub steps: u64,
    /// Deviation of the noise over the bound of a unit's vector.
    pub noise: f64,
}

/// Orders that are tried: every one gives a valid bound.
fn orders() -> impl Iterator<Item = f64> {
    let fine = (1..100).map(|k| 1.0 + f64::from(k) / 10.0);
    let whole = (11..64).map(f64::from);
    fine.chain(whole)
        .chain([80.0, 96.0, 128.0, 192.0, 256.0, 512.0])
}

/// The smallest ε for which all of `parts` together with releases of `rho`-zCDP are (ε, δ)-DP, units added or removed.
pub fn epsilon_of_sampled(parts: &[Sampled], rho: f64, delta: f64) -> f64 {
    orders()
        .map(|alpha| {
            let sum: f64 = parts
                .iter()
                .map(|p| p.steps as f64 * log_moment(p.rate, p.noise, alpha))
                .sum();
            let renyi = sum / (alpha - 1.0) + rho * alpha;
            renyi - (delta.ln() + alpha.ln()) / (alpha - 1.0) + ((alpha - 1.0) / alpha).ln()
        })
        .filter(|e| !e.is_nan())
        .fold(f64::INFINITY, f64::min)
        .max(0.0)
}

/// ln E[(p/q)^α] of one step.
fn log_moment(rate: f64, noise: f64, alpha: f64) -> f64 {
    if !(rate > 0.0 && noise > 0.0) {
        return if rate > 0.0 { f64::INFINITY } else { 0.0 };
    }
    if rate >= 1.0 {
        return alpha * (alpha - 1.0) / (2.0 * noise * noise);
    }
    if alpha.fract() < 1e-9 {
        whole_moment(rate, noise, alpha as u32)
    } else {
        part_moment(rate, noise, alpha)
    }
}

fn whole_moment(q: f64, noise: f64, alpha: u32) -> f64 {
    let a = f64::from(alpha);
    let mut binomial = 0.0;
    let mut sum = f64::NEG_INFINITY;
    for k in 0..=alpha {
        let k = f64::from(k);
        let term =
            binomial + (a - k) * (-q).ln_1p() + k * q.ln() + (k * k - k) / (2.0 * noise * noise);
        sum = add(sum, term);
        binomial += ((a - k) / (k + 1.0)).ln();
    }
    sum
}

fn part_moment(q: f64, noise: f64, alpha: f64) -> f64 {
    let root = std::f64::consts::SQRT_2 * noise;
    let middle = noise * noise * (1.0 / q - 1.0).ln() + 0.5;
    let (mut low, mut high) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    let mut size = 0.0;
    let mut positive = true;
    for i in 0..10_000u32 {
        let i = f64::from(i);
        let j = alpha - i;
        let of = |n: f64| (n * n - n) / (2.0 * noise * noise) - std::f64::consts::LN_2;
        let a = size + i * q.ln() + j * (-q).ln_1p() + of(i) + log_erfc((i - middle) / root);
        let b = size + j * q.ln() + i * (-q).ln_1p() + of(j) + log_erfc((middle - j) / root);
        let join = if positive { add } else { subtract };
        low = join(low, a);
        high = join(high, b);
        if a.max(b) < -40.0 && i > alpha {
            break;
        }
        // The next binomial coefficient of a power that is no whole number.
        let factor = (alpha - i) / (i + 1.0);
        size += factor.abs().ln();
        positive = positive == (factor > 0.0);
    }
    add(low, high)
}

fn add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}

/// ln(eᵃ - eᵇ); what rounding would make negative counts as a, which is above.
fn subtract(a: f64, b: f64) -> f64 {
    if b == f64::NEG_INFINITY || b >= a {
        return a;
    }
    a + (-(b - a).exp()).ln_1p()
}

/// ln erfc(x): the power series near zero, the continued fraction beyond.
fn log_erfc(x: f64) -> f64 {
    if x > 2.0 {
        let mut tail = 0.0;
        for k in (1..=60u32).rev() {
            tail = f64::from(k) / 2.0 / (x + tail);
        }
        return -x * x - (x + tail).ln() - std::f64::consts::PI.sqrt().ln();
    }
    if x < -2.0 {
        return (2.0 - log_erfc(-x).exp()).ln();
    }
    let mut term = x;
    let mut sum = x;
    for n in 1..40u32 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    (1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI).ln()
}

/// A paid right to take noisy gradient steps.
#[derive(Debug)]
pub struct Gradients {
    epsilon: Epsilon,
    delta: f64,
    rho: f64,
    rng: ChaCha20Rng,
    simulated: bool,
}

impl Grant {
    /// Turns the grant into a budget for gradient steps, paid with [`crate::Ledger::spend_approximate`] for the same δ.
    ///
    /// # Errors
    /// [`ReleaseError::Mechanism`] when the grant was not paid with a δ.
    pub fn into_gradients(self, entropy: Entropy) -> Result<Gradients, ReleaseError> {
        if self.delta() <= 0.0 {
            return Err(refuse(
                "Gaussian noise needs a delta above 0, paid from the ledger",
            ));
        }
        let (rng, simulated) = match entropy {
            Entropy::System(key) => (ChaCha20Rng::from_seed(key), false),
            Entropy::Seed(seed) => (ChaCha20Rng::seed_from_u64(seed), true),
        };
        Ok(Gradients {
            epsilon: self.epsilon(),
            delta: self.delta(),
            rho: 0.0,
            rng,
            simulated,
        })
    }
}

fn refuse(why: &str) -> ReleaseError {
    ReleaseError::Mechanism {
        why: why.to_owned(),
    }
}

impl Gradients {
    /// Releases a count with discrete Gaussian noise for this share (above 0, below 1) of the budget, and what it cost; a
    /// unit changes it by at most 1.
    ///
    /// # Errors
    /// [`ReleaseError::Mechanism`] for another share, or one so small that the noise would pass 10^6.
    pub fn count(
        &mut self,
        name: &str,
        value: i64,
        share: f64,
    ) -> Result<(i64, Charge), ReleaseError> {
        if !(share > 0.0 && share < 1.0) {
            return Err(refuse(
                "a count's share of the budget must lie between 0 and 1",
            ));
        }
        let rho = share * rho_of_epsilon(self.epsilon, self.delta);
        if (1.0 / (2.0 * rho)).sqrt() > MAX_SIGMA {
            return Err(refuse("the budget is too small for a count"));
        }
        let a = ((STEP as f64 / (2.0 * rho)).ceil() as u128).max(1) + 1;
        let charge = Charge {
            name: name.to_owned(),
            cells: 1,
            sigma: (a as f64 / STEP as f64).sqrt(),
            rho: STEP as f64 / (2.0 * a as f64),
        };
        self.rho += charge.rho;
        let noisy = value.saturating_add(discrete_gaussian(&mut self.rng, a, STEP));
        Ok((noisy, charge))
    }

    /// ρ of the counts so far.
    pub fn rho(&self) -> f64 {
        self.rho
    }

    /// Whether the noise comes from a given seed and protects nobody.
    pub fn simulated(&self) -> bool {
        self.simulated
    }

    /// Spends the rest on runs of (rate, steps), which one unit may all take part in: the same noise multiplier for all,
    /// the smallest that the budget allows, rounded up.
    ///
    /// # Errors
    /// [`ReleaseError::Mechanism`] when no noise up to 10,000 times the bound is enough, or a rate is not above 0 and
    /// at most 1.
    pub fn into_runs(mut self, runs: &[(f64, u64)]) -> Result<Vec<Run>, ReleaseError> {
        if runs.iter().any(|(rate, _)| !(*rate > 0.0 && *rate <= 1.0)) {
            return Err(refuse(
                "a step's sampling rate must be above 0 and at most 1",
            ));
        }
        let with = |noise: f64| -> Vec<Sampled> {
            runs.iter()
                .map(|&(rate, steps)| Sampled { rate, steps, noise })
                .collect()
        };
        let want = self.epsilon.value() * (1.0 - 1e-9);
        let fits = |noise: f64| epsilon_of_sampled(&with(noise), self.rho, self.delta) <= want;
        if !fits(MOST_NOISE) {
            return Err(refuse("the budget is too small for so many steps"));
        }
        let (mut low, mut high) = (1e-2f64.ln(), MOST_NOISE.ln());
        for _ in 0..30 {
            let middle = 0.5 * (low + high);
            if fits(middle.exp()) {
                high = middle;
            } else {
                low = middle;
            }
        }
        Ok(with(high.exp())
            .into_iter()
            .map(|plan| Run {
                plan,
                left: plan.steps,
                rng: ChaCha20Rng::from_rng(&mut self.rng),
            })
            .collect())
    }
}

/// Steps that are paid for.
#[derive(Debug)]
pub struct Run {
    plan: Sampled,
    left: u64,
    rng: ChaCha20Rng,
}

impl Run {
    /// What was paid for.
    pub fn plan(&self) -> Sampled {
        self.plan
    }

    /// Begins a step: which of `units` take part, each on its own with the run's rate.
    ///
    /// # Errors
    /// [`ReleaseError::Mechanism`] when all steps are taken.
    pub fn sample(&mut self, units: usize) -> Result<Vec<usize>, ReleaseError> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| refuse("all paid steps are taken"))?;
        Ok((0..units)
            .filter(|_| self.rng.random::<f64>() < self.plan.rate)
            .collect())
    }

    /// A draw of the step's noise for a bound of `bound` on a unit's vector.
    pub fn noise(&mut self, bound: f64) -> f64 {
        // Box and Muller (1958); the low bits of a double may tell more than the ideal Gaussian would.
        let u = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let radius = (-2.0 * (1.0 - u).ln()).sqrt();
        let turn = std::f64::consts::TAU * self.rng.random::<f64>();
        radius * turn.cos() * self.plan.noise * bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ledger;

    /// Batches of 100 of 100,000 flows, 5 critic rounds an iteration, δ = 1e-5: what opacus' accountant gives.
    #[test]
    fn epsilons_agree_with_those_of_another_accountant() {
        let of = |noise: f64, epochs: u64| {
            let (rate, steps) = (0.001, epochs * 1000 * 5);
            epsilon_of_sampled(&[Sampled { rate, steps, noise }], 0.0, 1e-5)
        };
        for (noise, five, forty) in [
            (0.1, 2.9e4, 2.3e5),
            (0.2797, 100.0, 377.0),
            (0.5, 8.3, 20.8),
            (1.0, 0.97, 2.6),
        ] {
            for (epochs, want) in [(5, five), (40, forty)] {
                let found = of(noise, epochs);
                assert!(
                    (found / want - 1.0).abs() < 0.02,
                    "{noise} {epochs}: {found} {want}"
                );
            }
        }
    }

    #[test]
    fn without_sampling_it_is_the_gaussian_mechanism() {
        for noise in [0.7, 3.0, 20.0] {
            let steps = Sampled {
                rate: 1.0,
                steps: 10,
                noise,
            };
            let rho = 10.0 / (2.0 * noise * noise);
            let (a, b) = (
                epsilon_of_sampled(&[steps], 0.0, 1e-5),
                crate::epsilon_of_rho(rho, 1e-5),
            );
            // The orders are a grid: never below the minimum over all orders, and close.
            assert!(a >= b * (1.0 - 1e-9) && a < 1.05 * b, "{noise}: {a} {b}");
            let both = epsilon_of_sampled(&[], rho, 1e-5);
            assert!((a - both).abs() < 1e-9);
        }
    }

    #[test]
    fn moments_of_parts_lie_between_those_of_wholes() {
        for (q, noise) in [(0.01, 0.6), (0.1, 1.3), (0.4, 4.0)] {
            for k in 2..9 {
                let (below, above) = (whole_moment(q, noise, k), whole_moment(q, noise, k + 1));
                let at = part_moment(q, noise, f64::from(k) + 0.5);
                // Convex in the order, and growing.
                assert!(at > below && at < 0.5 * (below + above) + 1e-12);
                let near = part_moment(q, noise, f64::from(k) + 1e-7);
                assert!(
                    (near - below).abs() < 1e-4 * below.max(1e-6),
                    "{near} {below}"
                );
            }
        }
        for (x, want) in [
            (0.0, 0.0),
            (1.0, -1.849_605),
            (3.0, -10.720_367),
            (-1.0, 0.611_232_3),
        ] {
            assert!((log_erfc(x) - want).abs() < 1e-5, "{x}: {}", log_erfc(x));
        }
    }

    fn gradients(epsilon: f64) -> Gradients {
        let epsilon = Epsilon::new(epsilon).unwrap();
        let mut ledger = Ledger::open(epsilon, 1e-5, &[]).unwrap();
        ledger.mark_stored();
        let grant = ledger
            .spend_approximate("t", epsilon, 1e-5)
            .unwrap()
            .stored();
        grant.into_gradients(Entropy::Seed(4)).unwrap()
    }

    #[test]
    fn steps_end_when_they_are_used_up() {
        let mut budget = gradients(2.0);
        let (noisy, charge) = budget.count("n", 1000, 0.05).unwrap();
        assert_eq!(charge.rho, budget.rho());
        assert!((noisy - 1000).abs() < 200);
        let rho = budget.rho();
        assert!(rho > 0.0 && budget.count("n", 1, 0.0).is_err());
        let mut runs = budget.into_runs(&[(0.1, 20), (0.05, 3)]).unwrap();
        let plans: Vec<Sampled> = runs.iter().map(Run::plan).collect();
        let spent = epsilon_of_sampled(&plans, rho, 1e-5);
        assert!(spent <= 2.0 && spent > 1.99, "{spent}");
        for _ in 0..3 {
            assert!(runs[1].sample(100).unwrap().len() < 40);
        }
        assert!(runs[1].sample(100).is_err());
        let draws: Vec<f64> = (0..20_000).map(|_| runs[0].noise(0.5)).collect();
        let square = draws.iter().map(|d| d * d).sum::<f64>() / 2e4;
        let want = (0.5 * plans[0].noise).powi(2);
        // Deviation of the mean of squares: 1 % of it; six of them.
        assert!((square / want - 1.0).abs() < 0.06);
        assert!(
            gradients(0.001)
                .into_runs(&[(1.0, 1_000_000_000_000)])
                .is_err()
        );
        assert!(gradients(1.0).into_runs(&[(1.5, 1)]).is_err());
    }
}
