use ndarray::{Array2, Axis, Zip};

use crate::layer::add_sums;
use crate::{Parameter, Real};

/// Batch normalization of each row (Ioffe and Szegedy 2015): while training by the batch's own mean and variance,
/// afterwards by running ones.
#[derive(Clone, Debug)]
pub struct BatchNorm<T> {
    /// `rows x 1`, starts at 1.
    pub scale: Parameter<T>,
    /// `rows x 1`, starts at 0.
    pub shift: Parameter<T>,
    /// Running mean, `rows x 1`.
    pub mean: Array2<T>,
    /// Running variance, `rows x 1`.
    pub variance: Array2<T>,
    momentum: f64,
    /// The last batch with mean 0 and variance 1.
    plain: Array2<T>,
    /// 1 over the deviation of each row, `rows x 1`.
    factor: Array2<T>,
}

impl<T: Real> BatchNorm<T> {
    /// Added to variances.
    const EPSILON: f64 = 1e-5;

    /// `momentum` (0 to 1) is the share of the newest batch in the running numbers.
    pub fn new(rows: usize, momentum: f64) -> Self {
        let ones = Array2::from_elem((rows, 1), T::one());
        Self {
            scale: Parameter::new(ones.clone()),
            shift: Parameter::zeros(rows, 1),
            mean: Array2::zeros((rows, 1)),
            variance: ones,
            momentum,
            plain: Array2::zeros((0, 0)),
            factor: Array2::zeros((0, 0)),
        }
    }

    /// By the batch's mean and variance, which go into the running ones (the variance with n - 1, as torch does).
    pub fn forward(&mut self, mut x: Array2<T>) -> Array2<T> {
        let n = T::of(x.ncols() as f64);
        let unbiased = T::of(x.ncols() as f64 / (x.ncols() as f64 - 1.0).max(1.0));
        let (new, old) = (T::of(self.momentum), T::of(1.0 - self.momentum));
        self.factor = Array2::zeros((x.nrows(), 1));
        for (i, mut row) in x.outer_iter_mut().enumerate() {
            let mean = row.sum() / n;
            row.mapv_inplace(|v| v - mean);
            let variance = row.fold(T::zero(), |sum, v| sum + *v * *v) / n;
            self.mean[[i, 0]] = old * self.mean[[i, 0]] + new * mean;
            self.variance[[i, 0]] = old * self.variance[[i, 0]] + new * variance * unbiased;
            let factor = T::one() / (variance + T::of(Self::EPSILON)).sqrt();
            row.mapv_inplace(|v| v * factor);
            self.factor[[i, 0]] = factor;
        }
        self.plain.clone_from(&x);
        self.spread(x)
    }

    /// By the running mean and variance; nothing is kept for a backward pass.
    pub fn infer(&self, mut x: Array2<T>) -> Array2<T> {
        for (i, mut row) in x.outer_iter_mut().enumerate() {
            let mean = self.mean[[i, 0]];
            let factor = T::one() / (self.variance[[i, 0]] + T::of(Self::EPSILON)).sqrt();
            row.mapv_inplace(|v| (v - mean) * factor);
        }
        self.spread(x)
    }

    fn spread(&self, mut x: Array2<T>) -> Array2<T> {
        for (i, mut row) in x.outer_iter_mut().enumerate() {
            let (scale, shift) = (self.scale.value[[i, 0]], self.shift.value[[i, 0]]);
            row.mapv_inplace(|v| v * scale + shift);
        }
        x
    }

    /// Adds to the gradients; gives the derivative by the input of the last [`BatchNorm::forward`].
    pub fn backward(&mut self, mut dy: Array2<T>) -> Array2<T> {
        let n = T::of(dy.ncols() as f64);
        add_sums(&mut self.shift.gradient, dy.view());
        for (i, mut row) in dy.axis_iter_mut(Axis(0)).enumerate() {
            let plain = self.plain.row(i);
            let sum = row.sum();
            let along = Zip::from(&row)
                .and(&plain)
                .fold(T::zero(), |s, d, p| s + *d * *p);
            self.scale.gradient[[i, 0]] += along;
            let factor = self.factor[[i, 0]] * self.scale.value[[i, 0]];
            row.zip_mut_with(&plain, |d, p| *d = factor * (*d - sum / n - *p * along / n));
        }
        dy
    }

    /// What is learned.
    pub fn parameters(&mut self) -> [&mut Parameter<T>; 2] {
        [&mut self.scale, &mut self.shift]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_agree_with_finite_differences() {
        let x = Array2::from_shape_fn((3, 6), |(i, j)| ((i * 7 + j * 5) % 11) as f64 / 4.0);
        let weight = Array2::from_shape_fn((3, 6), |(i, j)| ((i * 3 + j * j) % 7) as f64 - 2.0);
        let mut norm = BatchNorm::<f64>::new(3, 0.9);
        norm.scale.value.mapv_inplace(|v| v * 1.7);
        let loss = |norm: &BatchNorm<f64>, x: &Array2<f64>| {
            let y = norm.clone().forward(x.clone());
            (&y * &y * &weight).sum()
        };
        let y = norm.forward(x.clone());
        let dx = norm.backward(&y * &weight * 2.0);
        let h = 1e-6;
        for (i, j) in (0..3).flat_map(|i| (0..6).map(move |j| (i, j))) {
            let (mut up, mut down) = (x.clone(), x.clone());
            up[[i, j]] += h;
            down[[i, j]] -= h;
            let want = (loss(&norm, &up) - loss(&norm, &down)) / (2.0 * h);
            assert!(
                (dx[[i, j]] - want).abs() < 1e-6,
                "{i} {j}: {} {want}",
                dx[[i, j]]
            );
        }
        for i in 0..3 {
            for shift in [false, true] {
                let at = |by: f64| {
                    let mut moved = norm.clone();
                    let p = if shift {
                        &mut moved.shift
                    } else {
                        &mut moved.scale
                    };
                    p.value[[i, 0]] += by;
                    loss(&moved, &x)
                };
                let want = (at(h) - at(-h)) / (2.0 * h);
                let p = if shift { &norm.shift } else { &norm.scale };
                assert!((p.gradient[[i, 0]] - want).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn running_numbers_are_those_of_the_batches() {
        let mut norm = BatchNorm::<f64>::new(1, 1.0);
        let x = Array2::from_shape_vec((1, 4), vec![1.0, 2.0, 3.0, 6.0]).unwrap();
        norm.forward(x.clone());
        assert!((norm.mean[[0, 0]] - 3.0).abs() < 1e-12);
        assert!((norm.variance[[0, 0]] - 14.0 / 3.0).abs() < 1e-12);
        let y = norm.infer(x);
        assert!(y[[0, 2]].abs() < 1e-12);
    }
}
