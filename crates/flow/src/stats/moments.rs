/// Count, sum, sum of squares, smallest and largest of whole numbers. All are exact, so parts merge exactly in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    count: u64,
    sum: u64,
    /// Saturates; sums of squares of times in ns leave 64 bits.
    squares: u128,
    min: u64,
    max: u64,
}

impl Default for Moments {
    fn default() -> Self {
        Self {
            count: 0,
            sum: 0,
            squares: 0,
            min: u64::MAX,
            max: 0,
        }
    }
}

impl Moments {
    /// Those of `count` values whose sums and bounds are known; the bounds of none do not matter.
    pub(super) fn of(count: u64, sum: u64, squares: u128, min: u64, max: u64) -> Self {
        if count == 0 {
            return Self::default();
        }
        Self {
            count,
            sum,
            squares,
            min,
            max,
        }
    }

    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: u64) {
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.squares = self
            .squares
            .saturating_add(u128::from(value) * u128::from(value));
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds a value `times` times.
    #[inline]
    pub fn add_many(&mut self, value: u64, times: u64) {
        if times == 0 {
            return;
        }
        self.count += times;
        self.sum = self.sum.saturating_add(value.saturating_mul(times));
        let square = u128::from(value) * u128::from(value);
        self.squares = self
            .squares
            .saturating_add(square.saturating_mul(u128::from(times)));
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds the values of another.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.squares = self.squares.saturating_add(other.squares);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Values added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The smallest, `None` without a value.
    pub fn min(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min)
    }

    /// The largest, `None` without a value.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// The mean, `None` without a value.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// Sample standard deviation (n - 1), `None` with fewer than two values.
    pub fn stddev(&self) -> Option<f64> {
        sample_stddev(self.count, self.sum, self.squares)
    }
}

/// `sqrt((n * squares - sum^2) / (n * (n - 1)))`, the difference in integers so that nothing cancels; rounding of what was
/// squared can make it negative, which counts as 0. `None` with fewer than two values.
pub(crate) fn sample_stddev(n: u64, sum: u64, squares: u128) -> Option<f64> {
    if n < 2 {
        return None;
    }
    let (count, sum) = (u128::from(n), u128::from(sum));
    let numerator = count
        .saturating_mul(squares)
        .saturating_sub(sum.saturating_mul(sum));
    Some((numerator as f64 / (n as f64 * (n - 1) as f64)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_definitions(values in prop::collection::vec(0..2_000_000_000_000u64, 0..50)) {
            let mut m = Moments::default();
            values.iter().for_each(|v| m.add(*v));
            let n = values.len() as f64;
            prop_assert_eq!(m.count() as usize, values.len());
            prop_assert_eq!(m.sum(), values.iter().sum::<u64>());
            prop_assert_eq!(m.min(), values.iter().min().copied());
            prop_assert_eq!(m.max(), values.iter().max().copied());
            let mean = values.iter().sum::<u64>() as f64 / n;
            prop_assert_eq!(m.mean(), (n > 0.0).then_some(mean));
            let variance = values.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / (n - 1.0);
            match m.stddev() {
                Some(s) => prop_assert!((s - variance.sqrt()).abs() <= 1e-9 * s.max(1.0)),
                None => prop_assert!(values.len() < 2),
            }
        }

        #[test]
        fn merging_parts_equals_the_whole(values in prop::collection::vec(any::<u64>(), 0..50), cut in 0..50usize) {
            let of = |values: &[u64]| {
                let mut m = Moments::default();
                values.iter().for_each(|v| m.add(*v));
                m
            };
            let (a, b) = values.split_at(cut.min(values.len()));
            let mut merged = of(a);
            merged.merge(&of(b));
            prop_assert_eq!(merged, of(&values));
            let mut turned = of(b);
            turned.merge(&of(a));
            prop_assert_eq!(turned, of(&values));
        }
    }
}
