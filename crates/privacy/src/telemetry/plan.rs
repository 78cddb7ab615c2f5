use std::fmt;

use serde::Serialize;

use crate::vector::Law;
use crate::{DAY_NS, Epsilon, Rho};

/// Periods that are chosen from, finest first, seconds; each divides a day.
pub const PERIODS_S: [u64; 5] = [60, 900, 3_600, 21_600, 86_400];
/// A mean device is taken to use this part of its bounds: the assumption behind every predicted error.
pub const MEAN_OF_BOUND: f64 = 1.0 / 3.0;
/// Steps that a bound is divided into at most.
const MOST_STEPS: u64 = 1 << 16;

/// How many devices the place has, roughly. Public: said by the owner, never counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Size {
    /// About 20.
    #[default]
    Home,
    /// About 200.
    Office,
    /// About 2,000.
    Campus,
    /// About 20,000.
    Operator,
}

impl Size {
    /// The number of devices that errors are predicted for.
    pub const fn devices(self) -> u64 {
        match self {
            Self::Home => 20,
            Self::Office => 200,
            Self::Campus => 2_000,
            Self::Operator => 20_000,
        }
    }
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aim {
    /// Devices, roughly.
    pub size: Size,
    /// Pure ε that a device's day may cost.
    pub epsilon: Option<Epsilon>,
    /// ρ that a device's day may cost.
    pub rho: Option<Rho>,
    /// Most that one device contributes in a day, all metrics together, in bounds: the sum of its shares of each metric's bound.
    pub norm: f64,
    /// For Gaussian noise: how many times more one window may hold than an evenly spread day, at least 1.
    pub burst: f64,
    /// Largest relative error (standard deviation of the noise over the expected value) that is good enough.
    pub target: f64,
    /// A period to use whatever its error, seconds; it divides a day.
    pub period_s: Option<u64>,
}

impl Default for Aim {
    fn default() -> Self {
        Self {
            size: Size::Home,
            epsilon: Some(Epsilon::ONE),
            rho: None,
            norm: 1.0,
            burst: 1.0,
            target: 0.25,
            period_s: None,
        }
    }
}

/// A plan cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A number is outside its range.
    #[error("{what} is {value}, allowed is {allowed}")]
    Range {
        /// Which.
        what: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        allowed: &'static str,
    },
    /// The period does not divide a day.
    #[error("the period is {0} s, it must divide a day: 60, 900, 3600, 21600 and 86400 s do")]
    Period(u64),
    /// Neither ε nor ρ, or less than a billionth a window.
    #[error("the purses are empty, or too small for so many windows")]
    Empty,
}

/// How often a vector of totals is released, with which noise, and how wrong it will be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Length of a window.
    pub(super) period_ns: u64,
    /// Windows a day.
    pub(super) windows: u64,
    /// Steps that each metric's bound is divided into.
    pub(super) steps: u64,
    /// Noise of each coordinate; its loss is that of a device's whole day.
    pub(super) law: Law,
    /// Predicted error of one window's total, see [`Aim::target`].
    pub(super) error: f64,
    pub(super) aim: Aim,
}

impl Plan {
    /// Chooses the finest period whose predicted error is within the target, or else the coarsest, and the noise that does
    /// better there.
    ///
    /// The error of one window's total of a metric, `n` devices, `k` windows a day: `3 k sd / n`, as a mean device uses a
    /// third of its bound. `sd`, in bounds: `√2 norm / ε` with Laplace noise, `norm · burst / √(2 k ρ)` with Gaussian noise.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(aim: &Aim) -> Result<Self, PlanError> {
        for (what, value, low, high, allowed) in [
            ("norm", aim.norm, 0.01, 1e3, "0.01 to 1000"),
            ("burst", aim.burst, 1.0, 1e3, "1 to 1000"),
            ("target", aim.target, 1e-6, 1e6, "0.000001 to 1000000"),
        ] {
            if !(low..=high).contains(&value) {
                return Err(PlanError::Range {
                    what,
                    value,
                    allowed,
                });
            }
        }
        if let Some(period) = aim.period_s {
            if period == 0 || 86_400 % period != 0 {
                return Err(PlanError::Period(period));
            }
            return Self::best(aim, period).ok_or(PlanError::Empty);
        }
        let mut plan = None;
        for period in PERIODS_S {
            plan = Self::best(aim, period).or(plan);
            if plan.is_some_and(|p| p.error <= aim.target) {
                break;
            }
        }
        plan.ok_or(PlanError::Empty)
    }

    /// The better of both mechanisms for a period.
    fn best(aim: &Aim, period_s: u64) -> Option<Self> {
        let laplace = aim.epsilon.and_then(|e| Self::laplace(aim, period_s, e));
        let gaussian = aim.rho.and_then(|r| Self::gaussian(aim, period_s, r));
        match (laplace, gaussian) {
            (Some(a), Some(b)) => Some(if b.error < a.error { b } else { a }),
            (a, b) => a.or(b),
        }
    }

    fn laplace(aim: &Aim, period_s: u64, epsilon: Epsilon) -> Option<Self> {
        let windows = 86_400 / period_s;
        // Whole billionths a window: the windows of a day together cost what the day does, exactly.
        let epsilon = Epsilon::from_nanos(epsilon.nanos() / windows * windows).ok()?;
        let l1 = (aim.norm * MOST_STEPS as f64) as u64;
        let law = Law::Laplace { l1, epsilon };
        Some(Self::with(aim, period_s, MOST_STEPS, law))
    }

    fn gaussian(aim: &Aim, period_s: u64, rho: Rho) -> Option<Self> {
        let windows = 86_400 / period_s;
        let rho = Rho::from_nanos(rho.nanos() / windows * windows).ok()?;
        let norm = aim.norm * (aim.burst / (windows as f64).sqrt()).min(1.0);
        let mut steps = MOST_STEPS;
        while steps > 1 {
            let squares = (norm * steps as f64).powi(2) as u64;
            let law = Law::Gaussian { squares, rho };
            if squares > 0 && law.is_drawable() {
                return Some(Self::with(aim, period_s, steps, law));
            }
            // Noise beyond what the sampler draws hides steps of any size.
            steps /= 2;
        }
        None
    }

    fn with(aim: &Aim, period_s: u64, steps: u64, law: Law) -> Self {
        let windows = 86_400 / period_s;
        let value = aim.size.devices() as f64 * MEAN_OF_BOUND / windows as f64;
        Self {
            period_ns: period_s * 1_000_000_000,
            windows,
            steps,
            law,
            error: law.sd() / steps as f64 / value,
            aim: *aim,
        }
    }

    /// Length of a window, seconds.
    pub fn period_s(&self) -> u64 {
        self.period_ns / 1_000_000_000
    }

    /// Windows a day.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Predicted relative error of one window's total, as a standard deviation.
    pub fn error(&self) -> f64 {
        self.error
    }

    /// Whether the predicted error is within the target.
    pub fn is_within_target(&self) -> bool {
        self.error <= self.aim.target
    }

    /// Standard deviation of the noise, in bounds of a metric.
    pub fn noise_sd(&self) -> f64 {
        self.law.sd() / self.steps as f64
    }

    /// ε that a device's day costs; `None` when it is paid in ρ.
    pub fn epsilon(&self) -> Option<Epsilon> {
        match self.law {
            Law::Laplace { epsilon, .. } => Some(epsilon),
            Law::Gaussian { .. } => None,
        }
    }

    /// ρ that a device's day costs; `None` when it is paid in ε.
    pub fn rho(&self) -> Option<Rho> {
        match self.law {
            Law::Laplace { .. } => None,
            Law::Gaussian { rho, .. } => Some(rho),
        }
    }

    /// The same for one window of [`Plan::windows`].
    pub(super) fn share(&self) -> (Option<Epsilon>, Option<Rho>) {
        let share = |nanos: u64| nanos / self.windows;
        match self.law {
            Law::Laplace { epsilon, .. } => {
                (Epsilon::from_nanos(share(epsilon.nanos())).ok(), None)
            }
            Law::Gaussian { rho, .. } => (None, Rho::from_nanos(share(rho.nanos())).ok()),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (noise, currency, paid) = match self.law {
            Law::Laplace { epsilon, .. } => ("Laplace", "epsilon", epsilon.to_string()),
            Law::Gaussian { rho, .. } => ("Gaussian", "rho", rho.to_string()),
        };
        write!(
            f,
            "every {} s, {noise} noise, {currency} {paid} a device and day, predicted error {:.0} % with {} devices",
            self.period_s(),
            100.0 * self.error,
            self.aim.size.devices()
        )
    }
}

const _: () = assert!(DAY_NS == 86_400 * 1_000_000_000);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rho_of_epsilon;

    fn aim(size: Size) -> Aim {
        Aim {
            size,
            rho: Some(Rho::at_most(rho_of_epsilon(Epsilon::ONE, 1e-6)).unwrap()),
            ..Aim::default()
        }
    }

    /// The table of relative errors (standard deviation, clamp three times the mean, ε 1 a device and day, δ 1e-6), computed by
    /// hand from the closed forms: rows of devices, columns of one and four releases a day with Laplace noise, then hourly,
    /// quarter-hourly and by the minute with Gaussian noise.
    #[test]
    fn predicts_the_errors_of_the_closed_forms() {
        for (size, want) in [
            (Size::Home, [0.21, 0.85, 3.33, 6.66, 25.79]),
            (Size::Office, [0.021, 0.085, 0.333, 0.666, 2.579]),
            (Size::Campus, [0.0021, 0.0085, 0.0333, 0.0666, 0.2579]),
            (Size::Operator, [0.00021, 0.00085, 0.0033, 0.0067, 0.0258]),
        ] {
            for (period, want) in [86_400, 21_600, 3_600, 900, 60].into_iter().zip(want) {
                let aim = Aim {
                    period_s: Some(period),
                    ..aim(size)
                };
                let plan = Plan::new(&aim).unwrap();
                assert!((plan.error() / want - 1.0).abs() < 0.03, "{plan}: {want}");
                assert_eq!(plan.epsilon().is_some(), period >= 21_600, "{plan}");
            }
        }
    }

    #[test]
    fn chooses_the_finest_period_within_the_target() {
        for (size, period) in [
            (Size::Home, 86_400),
            (Size::Office, 21_600),
            (Size::Campus, 900),
            (Size::Operator, 60),
        ] {
            let plan = Plan::new(&aim(size)).unwrap();
            assert_eq!(plan.period_s(), period);
            assert!(plan.is_within_target());
        }
        let strict = Aim {
            target: 0.01,
            ..aim(Size::Home)
        };
        let plan = Plan::new(&strict).unwrap();
        assert_eq!((plan.period_s(), plan.is_within_target()), (86_400, false));
    }

    #[test]
    fn windows_of_a_day_cost_what_the_day_does() {
        for epsilon in ["1", "0.7", "0.333333333"] {
            for period_s in [1, 60, 7_200, 86_400] {
                let plan = Plan::new(&Aim {
                    epsilon: Some(epsilon.parse().unwrap()),
                    period_s: Some(period_s),
                    ..Aim::default()
                })
                .unwrap();
                let share = plan.share().0.unwrap().nanos();
                assert_eq!(share * plan.windows(), plan.epsilon().unwrap().nanos());
                assert!(plan.epsilon().unwrap() <= epsilon.parse().unwrap());
            }
        }
    }

    #[test]
    fn refuses_what_cannot_be() {
        let bad = |aim: Aim| Plan::new(&aim).unwrap_err().to_string();
        let with = |period| Aim {
            period_s: Some(period),
            ..Aim::default()
        };
        assert!(bad(with(7)).contains("must divide a day"));
        assert!(bad(with(0)).contains("must divide a day"));
        let norm = Aim {
            norm: f64::NAN,
            ..Aim::default()
        };
        assert!(bad(norm).contains("norm is NaN"));
        let none = Aim {
            epsilon: None,
            ..Aim::default()
        };
        assert_eq!(Plan::new(&none), Err(PlanError::Empty));
    }
}
