use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, concatenate};
use rand::RngCore;

use crate::layer::{add_sums, cut, cut_mut, spread};
use crate::{Parameter, Real};

/// Added under the root of a slope.
const SLOPE_EPSILON: f64 = 1e-8;

/// What a critic says of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// Mean score of what is real.
    pub real: f64,
    /// Mean score of what is made up.
    pub fake: f64,
    /// Mean of (slope - 1)², without its coefficient.
    pub penalty: f64,
}

/// The critic of a Wasserstein GAN with gradient penalty (Gulrajani and others 2017): dense layers with rectifiers and one
/// score.
///
/// The derivative of the score by the input is W₁ᵀD₁W₂ᵀD₂…w, the masks D constant almost everywhere. The penalty is
/// therefore a function of the weights by plain products, and its gradient takes one more pass forward through them; no
/// second derivatives are needed.
#[derive(Clone, Debug)]
pub struct Critic<T> {
    /// Weights (`outputs x inputs`) and bias (`outputs x 1`) of each layer.
    pub layers: Vec<[Parameter<T>; 2]>,
    /// Derivatives by what enters each layer's rectifier.
    deltas: Vec<Array2<T>>,
    /// What each delta is multiplied with for the gradient of the weights.
    partners: Vec<Array2<T>>,
    /// Columns of real, made-up and mixed samples.
    columns: [usize; 3],
}

impl<T: Real> Critic<T> {
    /// `hidden` layers of `units`; weights after Glorot, biases zero.
    pub fn new(inputs: usize, hidden: usize, units: usize, rng: &mut dyn RngCore) -> Self {
        let mut layers = Vec::new();
        let mut from = inputs;
        for _ in 0..hidden {
            layers.push([
                Parameter::glorot(units, from, rng),
                Parameter::zeros(units, 1),
            ]);
            from = units;
        }
        layers.push([Parameter::glorot(1, from, rng), Parameter::zeros(1, 1)]);
        Self {
            layers,
            deltas: Vec::new(),
            partners: Vec::new(),
            columns: [0; 3],
        }
    }

    /// What is learned.
    pub fn parameters(&mut self) -> impl Iterator<Item = &mut Parameter<T>> {
        self.layers.iter_mut().flatten()
    }

    /// Scores, `1 x samples`; keeps what enters each layer.
    fn forward(&mut self, x: Array2<T>) -> Array2<T> {
        self.partners.clear();
        let mut h = x;
        let last = self.layers.len() - 1;
        for (i, [weights, bias]) in self.layers.iter().enumerate() {
            let mut y = spread(&bias.value, h.ncols());
            general_mat_mul(T::one(), &weights.value, &h, T::one(), &mut y);
            if i < last {
                y.mapv_inplace(|v| if v > T::zero() { v } else { T::zero() });
            }
            self.partners.push(h);
            h = y;
        }
        h
    }

    /// From the derivatives by the scores to those by what enters each rectifier.
    fn backward(&mut self, scores: Array2<T>) {
        let mut all = vec![scores];
        for i in (1..self.layers.len()).rev() {
            let above = &all[all.len() - 1];
            let mut d = self.layers[i][0].value.t().dot(above);
            d.zip_mut_with(&self.partners[i], |d, h| {
                if *h <= T::zero() {
                    *d = T::zero();
                }
            });
            all.push(d);
        }
        all.reverse();
        self.deltas = all;
    }

    /// Prepares the gradient of `mean D(fake) - mean D(real) + coefficient * mean (|dD(mixed)/dx| - 1)²`, one sample a
    /// column; [`Critic::collect`] adds it. With `each` the sums over real and mixed samples are not divided by their
    /// number, so that every sample's share can be bounded ([`Critic::squared_norms`]).
    pub fn sweep(
        &mut self,
        real: ArrayView2<'_, T>,
        fake: ArrayView2<'_, T>,
        mixed: ArrayView2<'_, T>,
        coefficient: f64,
        each: bool,
    ) -> Scores {
        let counts = [real.ncols(), fake.ncols(), mixed.ncols()];
        let share = |n: usize| 1.0 / n.max(1) as f64;
        let own = |n: usize| if each { 1.0 } else { share(n) };
        let x = concatenate(Axis(1), &[real, fake, mixed])
            .expect("all three have a row for each input");
        let scores = self.forward(x);
        let [a, b, c] = counts;
        let mean = |from: usize, to: usize| {
            let sum: f64 = cut(scores.view(), .., from..to)
                .iter()
                .map(|v| v.f64())
                .sum();
            sum * share(to - from)
        };
        let (of_real, of_fake) = (mean(0, a), mean(a, a + b));
        let mut d = Array2::from_elem((1, a + b + c), T::one());
        cut_mut(d.view_mut(), .., ..a).fill(T::of(-own(a)));
        cut_mut(d.view_mut(), .., a..a + b).fill(T::of(share(b)));
        self.backward(d);
        // The slopes at the mixed samples, and the derivative of the penalty by them.
        let first = cut(self.deltas[0].view(), .., a + b..);
        let mut v = self.layers[0][0].value.t().dot(&first);
        let mut penalty = 0.0;
        for mut column in v.columns_mut() {
            let square: f64 = column.iter().map(|g| g.f64() * g.f64()).sum();
            let slope = (square + SLOPE_EPSILON).sqrt();
            penalty += (slope - 1.0) * (slope - 1.0) * share(c);
            let factor = T::of(coefficient * own(c) * 2.0 * (slope - 1.0) / slope);
            column.mapv_inplace(|g| g * factor);
        }
        // Through the weights and masks once more; the result takes the place of the mixed samples' activations.
        for i in 0..self.layers.len() {
            cut_mut(self.partners[i].view_mut(), .., a + b..).assign(&v);
            let Some(h) = self.partners.get(i + 1) else {
                break;
            };
            let mut next = self.layers[i][0].value.dot(&v);
            next.zip_mut_with(&cut(h.view(), .., a + b..), |v, h| {
                if *h <= T::zero() {
                    *v = T::zero();
                }
            });
            v = next;
        }
        self.columns = counts;
        Scores {
            real: of_real,
            fake: of_fake,
            penalty,
        }
    }

    /// The squared norm of each real sample's share of the gradient, its mixed sample's included; after a
    /// [`Critic::sweep`] with `each` and as many mixed samples as real ones.
    pub fn squared_norms(&self) -> Vec<f64> {
        let [a, b, _] = self.columns;
        let mut out = vec![0.0; a];
        for (delta, partner) in self.deltas.iter().zip(&self.partners) {
            // Two outer products: |u p' + v q'|² = |u|²|p|² + |v|²|q|² + 2 (u v)(p q); the bias takes part in the first.
            let dots = |m: &Array2<T>, from: usize, with: usize| -> Vec<f64> {
                let mut sums = vec![0.0; a];
                for row in m.outer_iter() {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum += row[from + i].f64() * row[with + i].f64();
                    }
                }
                sums
            };
            let at = a + b;
            let (uu, vv, uv) = (dots(delta, 0, 0), dots(delta, at, at), dots(delta, 0, at));
            let (pp, qq, pq) = (
                dots(partner, 0, 0),
                dots(partner, at, at),
                dots(partner, 0, at),
            );
            for i in 0..a {
                out[i] += uu[i] * (pp[i] + 1.0) + vv[i] * qq[i] + 2.0 * uv[i] * pq[i];
            }
        }
        out
    }

    /// Multiplies each real sample's share of the gradient by its factor.
    pub fn scale(&mut self, factors: &[f64]) {
        let [a, b, _] = self.columns;
        for delta in &mut self.deltas {
            for mut row in delta.outer_iter_mut() {
                for (i, f) in factors.iter().enumerate().take(a) {
                    let f = T::of(*f);
                    row[i] = row[i] * f;
                    row[a + b + i] = row[a + b + i] * f;
                }
            }
        }
    }

    /// Adds the gradient that was prepared.
    pub fn collect(&mut self) {
        let [a, b, _] = self.columns;
        let parts = self.deltas.iter().zip(&self.partners);
        for ([weights, bias], (delta, partner)) in self.layers.iter_mut().zip(parts) {
            let gradient = &mut weights.gradient;
            general_mat_mul(T::one(), delta, &partner.t(), T::one(), gradient);
            // The slope does not depend on the bias.
            add_sums(&mut bias.gradient, cut(delta.view(), .., ..a + b));
        }
    }

    /// Mean score of `x`, and the derivative of `-weight * mean D(x)` by `x`: what a generator follows.
    pub fn pull(&mut self, x: Array2<T>, weight: f64) -> (f64, Array2<T>) {
        let n = x.ncols();
        let scores = self.forward(x);
        let mean = scores.iter().map(|v| v.f64()).sum::<f64>() / n.max(1) as f64;
        self.backward(Array2::from_elem((1, n), T::of(-weight / n.max(1) as f64)));
        (mean, self.layers[0][0].value.t().dot(&self.deltas[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    const COEFFICIENT: f64 = 10.0;

    fn draw(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        Array2::from_shape_simple_fn((rows, columns), || rng.random::<f64>() - 0.4)
    }

    fn critic() -> Critic<f64> {
        let mut critic = Critic::new(4, 3, 6, &mut ChaCha20Rng::seed_from_u64(3));
        for [_, bias] in &mut critic.layers {
            bias.value.mapv_inplace(|_| 0.05);
        }
        critic
    }

    /// The score by the layers' definition.
    fn score(critic: &Critic<f64>, x: &[f64]) -> f64 {
        let mut h = x.to_vec();
        for (k, [w, b]) in critic.layers.iter().enumerate() {
            h = (0..w.value.nrows())
                .map(|i| {
                    let sum = h.iter().enumerate().map(|(j, v)| w.value[[i, j]] * v);
                    let y = b.value[[i, 0]] + sum.sum::<f64>();
                    if k + 1 < critic.layers.len() {
                        y.max(0.0)
                    } else {
                        y
                    }
                })
                .collect();
        }
        h[0]
    }

    /// The loss by its definition, slopes by central differences.
    fn loss(
        critic: &Critic<f64>,
        real: &Array2<f64>,
        fake: &Array2<f64>,
        mixed: &Array2<f64>,
    ) -> [f64; 3] {
        let mean = |m: &Array2<f64>| {
            let sum: f64 = m
                .columns()
                .into_iter()
                .map(|c| score(critic, &c.to_vec()))
                .sum();
            sum / m.ncols() as f64
        };
        let h = 1e-6;
        let mut penalty = 0.0;
        for column in mixed.columns() {
            let mut square = 0.0;
            for i in 0..column.len() {
                let at = |by: f64| {
                    let mut x = column.to_vec();
                    x[i] += by;
                    score(critic, &x)
                };
                let slope = (at(h) - at(-h)) / (2.0 * h);
                square += slope * slope;
            }
            penalty += ((square + SLOPE_EPSILON).sqrt() - 1.0).powi(2) / mixed.ncols() as f64;
        }
        [mean(real), mean(fake), penalty]
    }

    #[test]
    fn the_first_order_penalty_and_its_gradient_are_those_of_the_definition() {
        let (real, fake, mixed) = (draw(4, 5, 1), draw(4, 3, 2), draw(4, 4, 7));
        let mut c = critic();
        let found = c.sweep(real.view(), fake.view(), mixed.view(), COEFFICIENT, false);
        c.collect();
        let want = loss(&c, &real, &fake, &mixed);
        for (a, b) in [found.real, found.fake, found.penalty].iter().zip(want) {
            assert!((a - b).abs() < 1e-8, "{a} {b}");
        }
        let total = |c: &Critic<f64>| {
            let [r, f, p] = loss(c, &real, &fake, &mixed);
            f - r + COEFFICIENT * p
        };
        let h = 1e-5;
        for k in 0..c.layers.len() {
            for part in 0..2 {
                let gradient = c.layers[k][part].gradient.clone();
                assert!(k + 1 == c.layers.len() || gradient.iter().any(|g| *g != 0.0));
                for ((i, j), g) in gradient.indexed_iter() {
                    let at = |by: f64| {
                        let mut moved = c.clone();
                        moved.layers[k][part].value[[i, j]] += by;
                        total(&moved)
                    };
                    let want = (at(h) - at(-h)) / (2.0 * h);
                    assert!((g - want).abs() < 2e-4, "{k} {part} [{i},{j}]: {g} {want}");
                }
            }
        }
    }

    #[test]
    fn each_samples_norm_is_that_of_its_own_gradient() {
        let (real, fake, mixed) = (draw(4, 3, 1), draw(4, 2, 2), draw(4, 3, 7));
        let mut c = critic();
        c.sweep(real.view(), fake.view(), mixed.view(), COEFFICIENT, true);
        let norms = c.squared_norms();
        let nothing = Array2::zeros((4, 0));
        for (i, norm) in norms.iter().enumerate() {
            let mut alone = critic();
            let one = |m: &Array2<f64>| cut(m.view(), .., i..i + 1).to_owned();
            alone.sweep(
                one(&real).view(),
                nothing.view(),
                one(&mixed).view(),
                COEFFICIENT,
                true,
            );
            alone.collect();
            let squares = |p: &mut Parameter<f64>| p.gradient.iter().map(|g| g * g).sum::<f64>();
            let want: f64 = alone.parameters().map(squares).sum();
            assert!((norm - want).abs() < 1e-9 * (1.0 + want), "{norm} {want}");
        }
        // Scaled to a bound, the sum of all shares is within it times their number.
        let factors: Vec<f64> = norms.iter().map(|n| (0.5 / n.sqrt()).min(1.0)).collect();
        c.sweep(real.view(), nothing.view(), mixed.view(), COEFFICIENT, true);
        c.scale(&factors);
        c.collect();
        let sum: f64 = c
            .parameters()
            .map(|p| p.gradient.iter().map(|g| g * g).sum::<f64>())
            .sum();
        assert!(sum.sqrt() <= 0.5 * norms.len() as f64 + 1e-9);
    }

    #[test]
    fn the_derivative_by_the_input_agrees_with_finite_differences() {
        let x = draw(4, 3, 5);
        let mut c = critic();
        let (mean, d) = c.pull(x.clone(), 0.7);
        let value = |x: &Array2<f64>| -> f64 {
            let sum: f64 = x
                .columns()
                .into_iter()
                .map(|v| score(&critic(), &v.to_vec()))
                .sum();
            sum / 3.0
        };
        assert!((mean - value(&x)).abs() < 1e-12);
        let h = 1e-6;
        for ((i, j), g) in d.indexed_iter() {
            let (mut up, mut down) = (x.clone(), x.clone());
            up[[i, j]] += h;
            down[[i, j]] -= h;
            let want = -0.7 * (value(&up) - value(&down)) / (2.0 * h);
            assert!((g - want).abs() < 1e-8, "{g} {want}");
        }
    }
}
