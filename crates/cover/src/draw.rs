//! Random numbers of the shapes that cover needs.

use chaff_abi::Nanos;
use rand::{Rng, RngCore};

use crate::envelope::BINS;

pub(crate) fn seconds_to_nanos(seconds: f64) -> Nanos {
    Nanos((seconds * 1e9) as u64)
}

/// Standard normal, by Box and Muller (1958).
pub(crate) fn normal(rng: &mut dyn RngCore) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// Log-normal with mean 1.
pub(crate) fn log_normal(rng: &mut dyn RngCore, sigma: f64) -> f64 {
    (sigma * normal(rng) - sigma * sigma / 2.0).exp()
}

/// Log-uniform.
pub(crate) fn between(rng: &mut dyn RngCore, [low, high]: [f64; 2]) -> f64 {
    low * (high / low).powf(rng.random())
}

pub(crate) fn exponential(rng: &mut dyn RngCore, mean: f64) -> f64 {
    -mean * (1.0 - rng.random::<f64>()).ln()
}

/// Longest that [`geometric`] gives.
const LONGEST: u32 = 64;
/// Most that [`poisson`] gives; bounds the work of extreme draws.
const MOST: u32 = 10_000;

/// 1, 2, ... with this mean, cut at [`LONGEST`].
pub(crate) fn geometric(rng: &mut dyn RngCore, mean: f64) -> u32 {
    if mean <= 1.0 {
        return 1;
    }
    let tail = (1.0 - rng.random::<f64>()).ln() / (1.0 - 1.0 / mean).ln();
    (tail as u32).saturating_add(1).min(LONGEST)
}

/// Arrivals of a Poisson process in a time that holds `mean` of them, at most [`MOST`].
pub(crate) fn poisson(rng: &mut dyn RngCore, mean: f64) -> u32 {
    let mut time = exponential(rng, 1.0);
    let mut n = 0;
    while time < mean && n < MOST {
        n += 1;
        time += exponential(rng, 1.0);
    }
    n
}

pub(crate) fn dirichlet(rng: &mut dyn RngCore, weights: &[f64; BINS]) -> [f64; BINS] {
    let draws = weights.map(|w| gamma(rng, w));
    let sum: f64 = draws.iter().sum();
    if sum > 0.0 {
        draws.map(|x| x / sum)
    } else {
        [1.0, 0.0, 0.0]
    }
}

/// Gamma with this shape and scale 1 (Marsaglia and Tsang 2000; for shapes below 1 with the boost of its section 6).
fn gamma(rng: &mut dyn RngCore, shape: f64) -> f64 {
    if shape < 1.0 {
        let boost = (1.0 - rng.random::<f64>()).powf(1.0 / shape);
        return gamma(rng, shape + 1.0) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(rng);
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - rng.random::<f64>();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

pub(crate) fn draw_bin(rng: &mut dyn RngCore, mix: &[f64; BINS]) -> u8 {
    let u = rng.random::<f64>();
    if u < mix[0] {
        0
    } else if u < mix[0] + mix[1] {
        1
    } else {
        2
    }
}
