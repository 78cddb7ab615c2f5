//! Draws from a generator.

use std::f64::consts::TAU;

use rand::RngCore;

/// From 0 up to, without, 1; 53 bits.
pub(crate) fn unit(rng: &mut dyn RngCore) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Below `n`, which is above 0.
pub(crate) fn below(rng: &mut dyn RngCore, n: usize) -> usize {
    ((rng.next_u64() as u128 * n as u128) >> 64) as usize
}

/// Mean 0, variance 1 (Box and Muller).
pub(crate) fn normal(rng: &mut dyn RngCore) -> f64 {
    (-2.0 * (1.0 - unit(rng)).ln()).sqrt() * (TAU * unit(rng)).cos()
}

/// The numbers below `n` in random order.
pub(crate) fn permutation(rng: &mut dyn RngCore, n: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        all.swap(i, below(rng, i + 1));
    }
    all
}
