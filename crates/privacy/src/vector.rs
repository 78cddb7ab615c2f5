//! Noise for vectors of counts whose norm per unit is bounded, with exact integer samplers.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::noise::{discrete_laplace, ratio};
use crate::zcdp::{MAX_SIGMA, STEP, discrete_gaussian};
use crate::{Entropy, Epsilon, Mechanism, Rho};

/// A generator of noise and whether its seed was given.
#[derive(Debug)]
pub(crate) struct Draws {
    rng: ChaCha20Rng,
    pub(crate) simulated: bool,
}

/// How the coordinates of a vector are noised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Law {
    /// Discrete Laplace of scale `l1 / epsilon`: `epsilon`-DP when one unit changes the vector by at most `l1` in L1 norm.
    Laplace {
        /// Sensitivity, steps.
        l1: u64,
        /// Loss.
        epsilon: Epsilon,
    },
    /// Discrete Gaussian of variance at least `squares / (2 rho)`: `rho`-zCDP when one unit changes the vector by at most
    /// the root of `squares` in L2 norm.
    Gaussian {
        /// Sensitivity squared, steps².
        squares: u64,
        /// Loss.
        rho: Rho,
    },
}

impl Draws {
    pub(crate) fn new(entropy: Entropy) -> Self {
        let (rng, simulated) = match entropy {
            Entropy::System(key) => (ChaCha20Rng::from_seed(key), false),
            Entropy::Seed(seed) => (ChaCha20Rng::seed_from_u64(seed), true),
        };
        Self { rng, simulated }
    }

    /// One draw of a law.
    pub(crate) fn draw(&mut self, law: Law) -> i64 {
        match law {
            Law::Laplace { l1, epsilon } => {
                let (t, s) = ratio(l1, epsilon);
                let drawn = discrete_laplace(&mut self.rng, t, s);
                drawn.clamp(i64::MIN.into(), i64::MAX.into()) as i64
            }
            Law::Gaussian { .. } => discrete_gaussian(&mut self.rng, law.numerator(), STEP),
        }
    }

    /// Adds noise to every coordinate.
    pub(crate) fn add(&mut self, values: &mut [i64], law: Law) {
        for value in values {
            *value = value.saturating_add(self.draw(law));
        }
    }
}

impl Law {
    /// The Gaussian variance in parts of [`STEP`], rounded up: the charge is never above what was paid.
    fn numerator(self) -> u128 {
        match self {
            Self::Laplace { .. } => 0,
            Self::Gaussian { squares, rho } => {
                let double = 2 * u128::from(rho.nanos());
                (STEP * u128::from(squares) * 1_000_000_000)
                    .div_ceil(double)
                    .max(1)
            }
        }
    }

    /// Whether the samplers can draw it.
    pub(crate) fn is_drawable(self) -> bool {
        self.sd() <= MAX_SIGMA || matches!(self, Self::Laplace { .. })
    }

    /// Scale of Laplace noise, σ of Gaussian noise; steps.
    pub(crate) fn scale(self) -> f64 {
        match self {
            Self::Laplace { l1, epsilon } => l1 as f64 / epsilon.value(),
            Self::Gaussian { .. } => (self.numerator() as f64 / STEP as f64).sqrt(),
        }
    }

    /// Standard deviation, steps. Discrete Laplace of scale b: 2 e^(-1/b) / (1 - e^(-1/b))² is the variance; the discrete
    /// Gaussian's is at most σ².
    pub(crate) fn sd(self) -> f64 {
        match self {
            Self::Laplace { .. } => {
                let q = (-1.0 / self.scale()).exp();
                (2.0 * q).sqrt() / (1.0 - q)
            }
            Self::Gaussian { .. } => self.scale(),
        }
    }

    /// Half the width of a 95 % interval, steps.
    pub(crate) fn half_width(self) -> f64 {
        match self {
            Self::Laplace { .. } => crate::grant::half_width(self.scale()),
            Self::Gaussian { .. } => (1.96 * self.scale()).ceil(),
        }
    }

    pub(crate) fn mechanism(self) -> Mechanism {
        match self {
            Self::Laplace { .. } => Mechanism::DiscreteLaplace,
            Self::Gaussian { .. } => Mechanism::DiscreteGaussian,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P(X = x) up to a constant.
    fn weight(law: Law, x: i64) -> f64 {
        let scale = law.scale();
        match law {
            Law::Laplace { .. } => (-(x.abs() as f64) / scale).exp(),
            Law::Gaussian { .. } => (-(x as f64 / scale).powi(2) / 2.0).exp(),
        }
    }

    /// Chi-square statistic and cells of `draws` against the closed form, over cells of about equal probability.
    fn chi_square(law: Law, draws: &[i64]) -> (f64, f64) {
        let n = draws.len() as f64;
        let edge = (law.scale() * 14.0) as i64 + 20;
        let total: f64 = (-edge..=edge).map(|x| weight(law, x)).sum();
        let (mut cells, mut mass) = (Vec::new(), 0.0);
        for x in -edge..=edge {
            mass += weight(law, x) / total;
            if mass * n >= 400.0 {
                cells.push((x, mass));
                mass = 0.0;
            }
        }
        let mut seen = vec![0f64; cells.len() + 1];
        for d in draws {
            seen[cells.partition_point(|(until, _)| until < d)] += 1.0;
        }
        let expected = cells.iter().map(|(_, m)| m * n).chain([mass * n]);
        let statistic = seen
            .iter()
            .zip(expected)
            .filter(|(_, e)| *e > 5.0)
            .map(|(s, e)| (s - e).powi(2) / e)
            .sum();
        (statistic, cells.len() as f64)
    }

    fn laws() -> Vec<Law> {
        let mut laws = Vec::new();
        for (l1, epsilon) in [
            (1, 0.05),
            (1, 0.3),
            (1, 0.7),
            (1, 1.0),
            (1, 2.0),
            (1, 5.0),
            (3, 0.4),
            (7, 1.0),
            (10, 0.7),
            (100, 0.5),
            (1_500, 1.0),
            (65_536, 40.0),
            (65_536, 1.0),
            (3, 2.9),
        ] {
            let epsilon = Epsilon::new(epsilon).unwrap();
            laws.push(Law::Laplace { l1, epsilon });
        }
        for (squares, rho) in [
            (1, 2.0),
            (1, 0.5),
            (1, 0.1),
            (1, 0.0244),
            (4, 0.3),
            (9, 0.01),
            (50, 0.02),
            (1_000, 0.5),
            (10_000, 0.0244),
            (65_536, 0.0066),
            (1, 0.001),
            (123_456, 0.311),
        ] {
            let rho = Rho::at_most(rho).unwrap();
            laws.push(Law::Gaussian { squares, rho });
        }
        laws
    }

    /// 26 scales, 40,000 draws each. A right sampler fails with probability below 26 times 1e-9 (Laurent, Massart 2000:
    /// P(chi-square >= k + 2 sqrt(k x) + 2 x) <= exp(-x), x = 21); the seed is fixed.
    #[test]
    fn draws_follow_the_closed_forms() {
        let mut draws = Draws::new(Entropy::Seed(1));
        for law in laws() {
            let mut values = vec![0; 40_000];
            draws.add(&mut values, law);
            let (x, k) = chi_square(law, &values);
            let bar = k + 2.0 * (k * 21.0).sqrt() + 42.0;
            assert!(x < bar, "{law:?}: {x} over {k} cells");
            let mean = values.iter().sum::<i64>() as f64 / 4e4;
            assert!(mean.abs() < 6.0 * law.sd() / 200.0, "{law:?}: mean {mean}");
            // Teeth: a scale that is 10 % off is found.
            let wrong = match law {
                Law::Laplace { l1, epsilon } => Law::Laplace {
                    l1,
                    epsilon: Epsilon::new(epsilon.value() * 1.1).unwrap(),
                },
                Law::Gaussian { squares, rho } => Law::Gaussian {
                    squares,
                    rho: Rho::at_most(rho.value() * 1.21).unwrap(),
                },
            };
            let (x, k) = chi_square(wrong, &values);
            let few = law.sd() < 0.35;
            assert!(
                few || x > k + 2.0 * (k * 21.0).sqrt() + 42.0,
                "{law:?}: {x} over {k} cells"
            );
        }
    }

    #[test]
    fn half_widths_cover_nineteen_in_twenty() {
        for law in laws().into_iter().filter(|law| law.scale() < 1e4) {
            let edge = (law.scale() * 20.0) as i64 + 20;
            let total: f64 = (-edge..=edge).map(|x| weight(law, x)).sum();
            let w = law.half_width() as i64;
            let inside: f64 = (-w..=w).map(|x| weight(law, x)).sum();
            assert!(inside / total >= 0.9499, "{law:?}: {}", inside / total);
        }
    }

    /// OpenDP's proven maps say that each law costs what was paid for it, and hardly less.
    #[test]
    fn losses_are_those_of_opendp() {
        use opendp::domains::{AtomDomain, VectorDomain};
        use opendp::measurements::{make_gaussian, make_laplace};
        use opendp::measures::{MaxDivergence, ZeroConcentratedDivergence};
        use opendp::metrics::{L1Distance, L2Distance};
        for law in laws() {
            let (loss, paid) = match law {
                Law::Laplace { l1, epsilon } => {
                    let made = make_laplace::<_, _, MaxDivergence>(
                        VectorDomain::new(AtomDomain::<i64>::default()),
                        L1Distance::<i64>::default(),
                        law.scale(),
                        None,
                    );
                    let loss = made.unwrap().map(&(l1 as i64)).unwrap();
                    (loss, epsilon.value())
                }
                Law::Gaussian { squares, rho } => {
                    let made = make_gaussian::<_, _, ZeroConcentratedDivergence>(
                        VectorDomain::new(AtomDomain::<i64>::default()),
                        L2Distance::<f64>::default(),
                        law.scale(),
                        None,
                    );
                    let loss = made.unwrap().map(&(squares as f64).sqrt()).unwrap();
                    (loss, rho.value())
                }
            };
            assert!(loss <= paid * (1.0 + 1e-12), "{law:?}: {loss}");
            // A Gaussian variance is rounded up to 1/64.
            let rounding = match law {
                Law::Laplace { .. } => 0.0,
                Law::Gaussian { .. } => 1.0 / (64.0 * law.scale().powi(2)),
            };
            assert!(loss >= paid * (1.0 - rounding - 1e-12), "{law:?}: {loss}");
        }
    }
}
