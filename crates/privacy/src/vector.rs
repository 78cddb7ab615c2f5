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
