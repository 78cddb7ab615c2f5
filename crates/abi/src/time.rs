use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// An instant or a duration in nanoseconds.
///
/// The zero is chosen by whoever makes the first instant: the kernel's monotonic clock, the start of a simulation,
/// or the Unix epoch for capture timestamps. Arithmetic saturates: time neither wraps nor panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The zero instant.
    pub const ZERO: Self = Self(0);
    /// The last representable instant.
    pub const MAX: Self = Self(u64::MAX);

    /// Makes a time from microseconds.
    pub const fn from_micros(us: u64) -> Self {
        Self(us.saturating_mul(1_000))
    }

    /// Makes a time from milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// Makes a time from whole seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000_000))
    }

    /// Makes a time from seconds; negative and NaN become zero, and what is too large becomes [`Nanos::MAX`].
    pub fn from_secs_f64(s: f64) -> Self {
        Self((s * 1e9) as u64)
    }

    /// The time in seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The time in whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The time in whole microseconds, rounded down.
    #[inline(always)]
    pub const fn as_micros(self) -> u64 {
        // The BPF target has no widening multiplication and so divides, which costs more than the rest of a counter's
        // update. Up to 34 s this is exact: 0x10624dd3 = ceil(2^35 / 125), Granlund and Montgomery 1994.
        let eighth = self.0 >> 3;
        if eighth <= u32::MAX as u64 {
            (eighth * 0x1062_4dd3) >> 35
        } else {
            self.0 / 1_000
        }
    }

    /// `self - earlier`, or zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// The time multiplied by a whole number.
    pub const fn times(self, n: u64) -> Self {
        Self(self.0.saturating_mul(n))
    }
}

impl Add for Nanos {
    type Output = Self;
    fn add(self, rhs: Self) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, rhs: Self) {
        *self = *self + rhs;
    }
}

impl Sub for Nanos {
    type Output = Self;
    fn sub(self, rhs: Self) -> Self {
        self.since(rhs)
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000
        )
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn saturates_instead_of_wrapping() {
        assert_eq!(Nanos::ZERO - Nanos(5), Nanos::ZERO);
        assert_eq!(Nanos::MAX + Nanos(5), Nanos::MAX);
        assert_eq!(Nanos::from_secs_f64(-1.0), Nanos::ZERO);
        assert_eq!(Nanos::from_secs_f64(f64::NAN), Nanos::ZERO);
    }

    #[test]
    fn rounds_microseconds_down_on_both_paths() {
        let edge = (u32::MAX as u64) << 3;
        let near = |x: u64| x.saturating_sub(2_100)..x + 2_100;
        let all = (0..5_000).chain(near(edge)).chain(near(1 << 34));
        for ns in all.chain((0..60).map(|b| (1u64 << b).wrapping_mul(0x9e37_79b9))) {
            assert_eq!(Nanos(ns).as_micros(), ns / 1_000, "{ns}");
        }
    }

    #[test]
    fn prints_seconds_with_nine_digits() {
        assert_eq!(Nanos(1_000_000_042).to_string(), "1.000000042");
    }
}
