use ndarray::{LinalgScalar, ScalarOperand};

/// A floating-point type that networks compute with.
pub trait Real:
    LinalgScalar
    + ScalarOperand
    + PartialOrd
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + Send
    + Sync
{
    /// From a double, rounded.
    fn of(x: f64) -> Self;
    /// To a double.
    fn f64(self) -> f64;
    /// e to this power; for `f32` within 2 ulp and free of branches, so that loops over it become vector instructions.
    fn exp(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;

    /// `1 / (1 + exp(-x))`.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::one() / (Self::one() + (-self).exp())
    }

    /// The hyperbolic tangent; its absolute error is that of one rounding.
    #[inline(always)]
    fn tanh(self) -> Self {
        let two = Self::one() + Self::one();
        Self::one() - two / ((two * self).exp() + Self::one())
    }
}

impl Real for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn f64(self) -> f64 {
        self
    }
    fn exp(self) -> Self {
        self.exp()
    }
    fn sqrt(self) -> Self {
        self.sqrt()
    }
}

impl Real for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
    fn f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    /// Range reduction by a multiple of ln 2 and a polynomial (the coefficients of Cephes' `expf`, Moshier 1992).
    #[inline(always)]
    fn exp(self) -> Self {
        /// 1.5 x 2^23: adding it rounds to a whole number that then stands in the low bits.
        const MAGIC: f32 = 12_582_912.0;
        let x = self.clamp(-87.0, 88.0);
        let shifted = x * std::f32::consts::LOG2_E + MAGIC;
        let n = shifted - MAGIC;
        // ln 2 in two parts, the first one short enough for an exact product.
        let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
        let mut p = 1.987_569_2e-4;
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
            p = p * r + c;
        }
        let p = p * r * r + r + 1.0;
        let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
        p * scale
    }
}

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn the_fast_exponential_is_close() {
        for i in -8_700..8_700 {
            let x = i as f32 / 100.0;
            let (found, want) = (Real::exp(x), f64::from(x).exp());
            let error = (f64::from(found) - want).abs() / want;
            assert!(error < 2.5e-7, "{x}: {found} {want} {error}");
        }
        assert!((Real::tanh(0.3f32) - 0.3f32.tanh()).abs() < 1e-7);
        assert_eq!(Real::sigmoid(f32::MAX), 1.0);
        assert!(Real::sigmoid(f32::MIN) < 1e-30);
        assert_eq!((Real::tanh(f32::MAX), Real::tanh(f32::MIN)), (1.0, -1.0));
    }
}
