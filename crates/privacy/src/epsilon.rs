use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const NANOS_PER_UNIT: u64 = 1_000_000_000;

/// A privacy loss ε: positive, finite, a whole number of billionths.
///
/// The billionths make sums exact: ten times 0.1 is 1, and no rounding ever adds budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Epsilon(u64);

/// The number is not a usable ε.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EpsilonError {
    /// Not a decimal number.
    #[error("epsilon is not a decimal number")]
    NotANumber,
    /// Outside the allowed range.
    #[error("epsilon must be from 0.000000001 to 100000")]
    OutOfRange,
    /// More than nine digits after the point.
    #[error("epsilon has more than nine digits after the point")]
    TooFine,
}

impl Epsilon {
    /// The largest ε: 100,000. Up to here the shortest decimal of an `f64` is exact.
    pub const MAX: Self = Self(100_000 * NANOS_PER_UNIT);
    /// 1.
    pub const ONE: Self = Self(NANOS_PER_UNIT);

    /// Makes an ε, rounded to the nearest billionth.
    ///
    /// # Errors
    /// [`EpsilonError`] when `value` is not finite, below half a billionth, or above [`Epsilon::MAX`].
    pub fn new(value: f64) -> Result<Self, EpsilonError> {
        if !value.is_finite() {
            return Err(EpsilonError::NotANumber);
        }
        let nanos = (value * NANOS_PER_UNIT as f64).round();
        if !(1.0..=Self::MAX.0 as f64).contains(&nanos) {
            return Err(EpsilonError::OutOfRange);
        }
        Ok(Self(nanos as u64))
    }

    /// Makes an ε from billionths.
    ///
    /// # Errors
    /// [`EpsilonError::OutOfRange`] for 0 and above [`Epsilon::MAX`].
    pub fn from_nanos(nanos: u64) -> Result<Self, EpsilonError> {
        if nanos == 0 || nanos > Self::MAX.0 {
            return Err(EpsilonError::OutOfRange);
        }
        Ok(Self(nanos))
    }

    /// ε in billionths.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The nearest `f64`.
    pub fn value(self) -> f64 {
        self.0 as f64 / NANOS_PER_UNIT as f64
    }

    /// An `f64` that is not above ε, for comparing with a loss that was rounded up.
    pub(crate) fn value_rounded_down(self) -> f64 {
        self.value().next_down()
    }
}

/// Writes billionths as an exact decimal.
pub(crate) struct Decimal(pub(crate) u64);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / NANOS_PER_UNIT, self.0 % NANOS_PER_UNIT);
        if part == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{part:09}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl fmt::Display for Epsilon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Decimal(self.0).fmt(f)
    }
}

/// Reads an exact decimal into billionths.
pub(crate) fn nanos_from_decimal(text: &str) -> Result<u64, EpsilonError> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return Err(EpsilonError::NotANumber);
    }
    let part = part.trim_end_matches('0');
    if part.len() > 9 {
        return Err(EpsilonError::TooFine);
    }
    let whole: u64 = whole.parse().map_err(|_| EpsilonError::OutOfRange)?;
    let part: u64 = format!("{part:0<9}")
        .parse()
        .map_err(|_| EpsilonError::NotANumber)?;
    whole
        .checked_mul(NANOS_PER_UNIT)
        .and_then(|n| n.checked_add(part))
        .ok_or(EpsilonError::OutOfRange)
}

impl FromStr for Epsilon {
    type Err = EpsilonError;
    /// Reads an exact decimal such as `0.25`; nothing is rounded.
    fn from_str(text: &str) -> Result<Self, EpsilonError> {
        Self::from_nanos(nanos_from_decimal(text)?)
    }
}

impl TryFrom<f64> for Epsilon {
    type Error = EpsilonError;
    fn try_from(value: f64) -> Result<Self, EpsilonError> {
        Self::new(value)
    }
}

impl From<Epsilon> for f64 {
    fn from(epsilon: Epsilon) -> Self {
        epsilon.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_not_a_positive_finite_number() {
        for bad in [
            0.0,
            -1.0,
            f64::NAN,
            f64::INFINITY,
            1e-10,
            100_000.1,
            f64::NEG_INFINITY,
        ] {
            assert!(Epsilon::new(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "1e3",
            "0",
            "0.0000000001",
            "NaN",
            "99999999999999999999",
        ] {
            assert!(bad.parse::<Epsilon>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ten_tenths_are_one() {
        let tenth = Epsilon::new(0.1).unwrap();
        assert_eq!(tenth.nanos() * 10, Epsilon::new(1.0).unwrap().nanos());
    }

    proptest! {
        #[test]
        fn prints_what_it_reads(nanos in 1..=Epsilon::MAX.nanos()) {
            let epsilon = Epsilon::from_nanos(nanos).unwrap();
            prop_assert_eq!(epsilon.to_string().parse::<Epsilon>().unwrap(), epsilon);
            let json = serde_json::to_string(&epsilon).unwrap();
            prop_assert_eq!(serde_json::from_str::<Epsilon>(&json).unwrap(), epsilon);
            prop_assert!(epsilon.value_rounded_down() * 1e9 <= nanos as f64);
        }
    }
}
