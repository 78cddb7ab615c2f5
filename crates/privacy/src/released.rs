use serde::{Deserialize, Serialize};

use crate::{Epsilon, Rho};

/// How the noise was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mechanism {
    /// Integers plus discrete Laplace noise: P(x) ∝ exp(-|x| / scale).
    DiscreteLaplace,
    /// The same; only keys whose noised count reaches a threshold are shown.
    DiscreteLaplaceThreshold,
    /// Integers plus discrete Gaussian noise: P(x) ∝ exp(-x² / 2 scale²).
    DiscreteGaussian,
    /// One of several public candidates, chosen at random: the better the likelier.
    PermuteAndFlip,
}

/// A value that may leave the gateway. Only this crate makes one, and only against a [`crate::Grant`].
///
/// ```compile_fail
/// let forged = chaff_privacy::Released { value: 1.0 };
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[must_use]
pub struct Released<T> {
    pub(crate) value: T,
    pub(crate) unit: String,
    pub(crate) label: String,
    pub(crate) epsilon: Epsilon,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rho: Option<Rho>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) delta: f64,
    pub(crate) mechanism: Mechanism,
    pub(crate) scale: f64,
    pub(crate) half_width: f64,
    pub(crate) relation: String,
    pub(crate) ledger_entry: u64,
    pub(crate) simulated: bool,
}

impl<T> Released<T> {
    /// The noised value. It may be negative or above what is possible: clamping it would add bias.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// What the value counts, for example `bytes`.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// The label the budget was spent under.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What the release cost. With Gaussian noise: the ε that [`Released::rho`] is at [`Released::delta`].
    pub fn epsilon(&self) -> Epsilon {
        self.epsilon
    }

    /// What it cost from the purse of Gaussian releases.
    pub fn rho(&self) -> Option<Rho> {
        self.rho
    }

    /// The δ of the guarantee; 0 for a pure one.
    pub fn delta(&self) -> f64 {
        self.delta
    }

    /// How the noise was made.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Scale of the noise in units of the value: with Laplace noise the standard deviation is about 1.41 times as much,
    /// with Gaussian noise it is the standard deviation.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Half the width of a 95 % interval around the value, for the noise only: what clamping took away is not in it.
    /// For a histogram it holds for each bin by itself.
    pub fn half_width(&self) -> f64 {
        self.half_width
    }

    /// What the guarantee protects: the difference between two inputs that cannot be told apart.
    pub fn relation(&self) -> &str {
        &self.relation
    }

    /// Number of the ledger's entry that paid.
    pub fn ledger_entry(&self) -> u64 {
        self.ledger_entry
    }

    /// Whether the noise came from a given seed: then the value protects nobody and must not leave a simulation.
    pub fn simulated(&self) -> bool {
        self.simulated
    }
}

fn is_zero(delta: &f64) -> bool {
    *delta == 0.0
}
