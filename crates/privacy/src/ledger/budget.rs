use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Refused;
use crate::epsilon::{Decimal, nanos_from_decimal};
use crate::{Epsilon, EpsilonError};

/// Nanoseconds of 24 hours.
pub const DAY_NS: u64 = 86_400_000_000_000;
/// How far before the newest expense a new one may lie: a day's windows are paid for from the day's beginning, after its end.
const BACK_NS: u64 = 2 * DAY_NS;
/// δ is added up in steps of this.
pub(super) const DELTA_STEP: f64 = 1e-18;

/// A loss ρ of zero-concentrated differential privacy: positive, a whole number of billionths.
///
/// Source: Bun, Steinke, "Concentrated Differential Privacy" (2016). Sums are exact; what is charged is rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rho(u64);

impl Rho {
    /// The largest ρ: 100,000.
    pub const MAX: Self = Self(Epsilon::MAX.nanos());

    /// Makes a ρ, rounded up to a billionth: for what is charged.
    ///
    /// # Errors
    /// [`EpsilonError`] when `value` is not positive and finite or above [`Rho::MAX`].
    pub fn at_least(value: f64) -> Result<Self, EpsilonError> {
        Self::from_f64((value * 1e9).ceil())
    }

    /// Makes a ρ, rounded down to a billionth: for what may be spent.
    ///
    /// # Errors
    /// As [`Rho::at_least`], and below a billionth.
    pub fn at_most(value: f64) -> Result<Self, EpsilonError> {
        Self::from_f64((value * 1e9).floor())
    }

    fn from_f64(nanos: f64) -> Result<Self, EpsilonError> {
        if !nanos.is_finite() {
            return Err(EpsilonError::NotANumber);
        }
        if !(1.0..=Self::MAX.0 as f64).contains(&nanos) {
            return Err(EpsilonError::OutOfRange);
        }
        Ok(Self(nanos as u64))
    }

    /// Makes a ρ from billionths.
    ///
    /// # Errors
    /// [`EpsilonError::OutOfRange`] for 0 and above [`Rho::MAX`].
    pub fn from_nanos(nanos: u64) -> Result<Self, EpsilonError> {
        Epsilon::from_nanos(nanos).map(|e| Self(e.nanos()))
    }

    /// ρ in billionths.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The nearest `f64`.
    pub fn value(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl fmt::Display for Rho {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Decimal(self.0).fmt(f)
    }
}

impl FromStr for Rho {
    type Err = EpsilonError;
    /// Reads an exact decimal such as `0.0244`; nothing is rounded.
    fn from_str(text: &str) -> Result<Self, EpsilonError> {
        Self::from_nanos(nanos_from_decimal(text)?)
    }
}

impl Serialize for Rho {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(self.value())
    }
}

impl<'de> Deserialize<'de> for Rho {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(d)?;
        Self::from_f64((value * 1e9).round()).map_err(serde::de::Error::custom)
    }
}

/// What may be spent within any 24 hours, end included and begin not. Nothing in a purse means that it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Day {
    /// The purse of pure releases.
    pub epsilon: Option<Epsilon>,
    /// The purse of Gaussian releases.
    pub rho: Option<Rho>,
}

/// What a ledger is set up with, for good.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// What is protected: one of these more or less is what no answer tells. For example `one UTC day of one device`.
    pub unit: String,
    /// Cap of pure ε for ever; [`Epsilon::MAX`] for none.
    pub total: Epsilon,
    /// Most δ. With daily purses within any 24 hours, else for ever.
    pub delta: f64,
    /// Daily purses. Without them only the total counts, and expenses have no time.
    pub day: Option<Day>,
}

impl Budget {
    /// A budget for ever, without daily purses.
    pub fn lifetime(total: Epsilon, delta: f64) -> Self {
        Self {
            unit: String::new(),
            total,
            delta,
            day: None,
        }
    }

    /// A budget that is there again every day: what was spent counts for 24 hours.
    pub fn daily(unit: &str, day: Day, delta: f64) -> Self {
        Self {
            unit: unit.to_owned(),
            total: Epsilon::MAX,
            delta,
            day: Some(day),
        }
    }
}

/// What a release asks of a ledger with daily purses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expense<'a> {
    /// Stored and released in the clear: must not depend on the data.
    pub label: &'a str,
    /// When it counts, nanoseconds since 1970.
    pub at_ns: u64,
    /// From the purse of pure releases.
    pub epsilon: Option<Epsilon>,
    /// From the purse of Gaussian releases.
    pub rho: Option<Rho>,
    /// For thresholds and the like.
    pub delta: f64,
    /// Series of releases and number of the window in it: each number is paid once, in rising order, so that no restart
    /// noises a window twice. With a window an expense may ask for nothing: then another entry paid for it.
    pub window: Option<(&'a str, u64)>,
    /// Set when the release protects another unit than the ledger's. It is noted, and costs the ledger's unit nothing.
    pub other_unit: Option<&'a str>,
}

/// One sum in all three currencies: billionths, billionths, 10^-18.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    pub(super) epsilon: u64,
    pub(super) rho: u64,
    pub(super) delta: u64,
}

impl Amounts {
    pub(super) fn of(epsilon: Option<Epsilon>, rho: Option<Rho>, delta: f64) -> Self {
        Self {
            epsilon: epsilon.map_or(0, Epsilon::nanos),
            rho: rho.map_or(0, Rho::nanos),
            delta: (delta / DELTA_STEP).ceil() as u64,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            epsilon: self.epsilon.saturating_add(other.epsilon),
            rho: self.rho.saturating_add(other.rho),
            delta: self.delta.saturating_add(other.delta),
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            epsilon: self.epsilon.max(other.epsilon),
            rho: self.rho.max(other.rho),
            delta: self.delta.max(other.delta),
        }
    }
}

/// What may be spent of δ, rounded down; it is rounded up where it is spent.
fn delta_steps(delta: f64) -> u64 {
    (delta / DELTA_STEP * (1.0 + 1e-9)).floor() as u64
}

/// The expenses that can still share 24 hours with a new one.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    /// In order of time.
    entries: VecDeque<(u64, Amounts)>,
}

impl Recent {
    fn newest(&self) -> u64 {
        self.entries.back().map_or(0, |(at, _)| *at)
    }

    /// The most that any 24 hours around `at` have spent.
    pub(super) fn used(&self, at: u64) -> Amounts {
        let until = at.saturating_add(DAY_NS);
        // The sum of a window is largest when the window ends with an expense, or with the new one.
        let ends = self.entries.iter().map(|(end, _)| *end);
        let ends = ends.filter(|end| (at..until).contains(end)).chain([at]);
        ends.fold(Amounts::default(), |most, end| {
            let inside = self
                .entries
                .iter()
                .filter(|(when, _)| *when <= end && (end < DAY_NS || *when > end - DAY_NS));
            most.most(inside.fold(Amounts::default(), |sum, (_, a)| sum.plus(*a)))
        })
    }

    /// The δ that 24 hours around `at` leave of `delta`.
    pub(super) fn delta_left(&self, delta: f64, at: u64) -> f64 {
        let left = delta_steps(delta).saturating_sub(self.used(at).delta);
        (left as f64 * DELTA_STEP).min(delta)
    }

    /// Whether `amounts` at `at` leave every 24 hours within the purses.
    pub(super) fn check(
        &self,
        day: &Day,
        delta: f64,
        at: u64,
        amounts: Amounts,
    ) -> Result<(), Refused> {
        if at.saturating_add(BACK_NS) < self.newest() {
            return Err(Refused::Past);
        }
        let used = self.used(at);
        let purses = Amounts {
            delta: delta_steps(delta),
            ..Amounts::of(day.epsilon, day.rho, 0.0)
        };
        for (purse, asked, used, day_nanos) in [
            ("epsilon", amounts.epsilon, used.epsilon, purses.epsilon),
            ("rho", amounts.rho, used.rho, purses.rho),
            ("delta", amounts.delta, used.delta, purses.delta),
        ] {
            let left = day_nanos.saturating_sub(used);
            if asked > left {
                return Err(Refused::OverDay {
                    purse,
                    asked_nanos: asked,
                    left_nanos: left,
                    day_nanos,
                });
            }
        }
        Ok(())
    }

    pub(super) fn push(&mut self, at: u64, amounts: Amounts) {
        let place = self.entries.partition_point(|(when, _)| *when <= at);
        self.entries.insert(place, (at, amounts));
        // 24 hours around the earliest expense that is not refused as past.
        let keep = self.newest().saturating_sub(BACK_NS + DAY_NS);
        while self.entries.front().is_some_and(|(when, _)| *when < keep) {
            self.entries.pop_front();
        }
    }
}
