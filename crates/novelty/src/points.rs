//! Distances from a row to many stored rows, and the exponential of many numbers: the inner loops of every detector that
//! keeps its training rows. Rows are stored in blocks of [`LANES`], column after column, so that the compiler can work on
//! several rows at once.

use std::f64::consts::{LN_2, LOG2_E};

use crate::MatRef;

/// Rows worked on at once.
pub(crate) const LANES: usize = 16;

/// Stored rows.
#[derive(Clone, Debug)]
pub(crate) struct Points {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    blocks: Vec<f64>,
}

impl Points {
    pub(crate) fn new(rows: MatRef<'_>) -> Self {
        let (n, d) = (rows.rows(), rows.columns());
        let mut blocks = vec![0.0; n.div_ceil(LANES) * LANES * d];
        for (i, row) in rows.iter().enumerate() {
            let block = i / LANES * LANES * d;
            for (k, v) in row.iter().enumerate() {
                blocks[block + k * LANES + i % LANES] = *v;
            }
        }
        Self {
            rows: n,
            columns: d,
            blocks,
        }
    }

    /// The rows again, row after row.
    pub(crate) fn to_rows(&self) -> Vec<f64> {
        let mut out = Vec::with_capacity(self.rows * self.columns);
        for i in 0..self.rows {
            let block = i / LANES * LANES * self.columns;
            out.extend((0..self.columns).map(|k| self.blocks[block + k * LANES + i % LANES]));
        }
        out
    }

    /// Calls `each` with the number of the block's first row, how many of its lanes are rows, and the squared distances.
    #[inline]
    pub(crate) fn distances(
        &self,
        row: &[f64],
        mut each: impl FnMut(usize, usize, &mut [f64; LANES]),
    ) {
        for (b, block) in self.blocks.chunks_exact(LANES * self.columns).enumerate() {
            let mut sum = [0.0; LANES];
            for (x, lanes) in row.iter().zip(block.chunks_exact(LANES)) {
                for (s, l) in sum.iter_mut().zip(lanes) {
                    let difference = x - l;
                    *s += difference * difference;
                }
            }
            let first = b * LANES;
            each(first, LANES.min(self.rows - first), &mut sum);
        }
    }
}

/// `exp` of numbers that are at most 0, in place, to about 1e-15 relative; below -700 the result is that of -700.
#[inline]
pub(crate) fn exp_lanes(values: &mut [f64; LANES]) {
    // Adding it leaves the nearest whole number in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN_2_HIGH: f64 = f64::from_bits(LN_2.to_bits() & !0xffff_ffff);
    const LN_2_LOW: f64 = 4.749_325_039_031_672_6e-7;
    for v in values {
        let x = if *v < -700.0 { -700.0 } else { *v };
        let shifted = x * LOG2_E + ROUND;
        let whole = shifted - ROUND;
        let r = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
        // The series, to the power 13: |r| is at most 0.347.
        let mut p = 1.0 / 6_227_020_800.0;
        p = p * r + 1.0 / 479_001_600.0;
        p = p * r + 1.0 / 39_916_800.0;
        p = p * r + 1.0 / 3_628_800.0;
        p = p * r + 1.0 / 362_880.0;
        p = p * r + 1.0 / 40_320.0;
        p = p * r + 1.0 / 5_040.0;
        p = p * r + 1.0 / 720.0;
        p = p * r + 1.0 / 120.0;
        p = p * r + 1.0 / 24.0;
        p = p * r + 1.0 / 6.0;
        p = p * r + 0.5;
        p = p * r + 1.0;
        p = p * r + 1.0;
        *v = p * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Matrix;

    #[test]
    fn exponential_is_that_of_the_standard_library() {
        let mut worst = 0.0f64;
        for i in 0..70_000 {
            let x = -0.01 * f64::from(i) - 0.000_3;
            let mut lanes = [x; LANES];
            exp_lanes(&mut lanes);
            worst = worst.max((lanes[3] / x.exp() - 1.0).abs());
        }
        assert!(worst < 4e-15, "{worst}");
        let mut lanes = [0.0; LANES];
        exp_lanes(&mut lanes);
        assert_eq!(lanes[0], 1.0);
    }

    #[test]
    fn rows_come_back_and_distances_are_exact() {
        let values: Vec<f64> = (0..37 * 3).map(|i| f64::from(i * i % 101)).collect();
        let matrix = Matrix::new(3, values.clone()).unwrap();
        let points = Points::new(matrix.view());
        assert_eq!(points.to_rows(), values);
        let row = [1.0, 2.0, 3.0];
        let mut seen = 0;
        points.distances(&row, |first, used, squared| {
            for (i, got) in squared.iter().enumerate().take(used) {
                let stored = matrix.view().row(first + i);
                let pairs = stored.iter().zip(&row);
                let want: f64 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
                assert_eq!(*got, want);
                seen += 1;
            }
        });
        assert_eq!(seen, 37);
    }
}
