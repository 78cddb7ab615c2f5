use chaff_cover::standard_normal;
use chaff_onnx::{Golden, Graph, ModelError, Signature};
use rand::RngCore;

use crate::attacker::{Attacker, Sample, Training};
use crate::network::{Adam, Dense, shuffle};
use crate::windows::COLUMNS;

/// Length of the latent vector.
pub const LATENT: usize = 20;
/// Test vectors written into a model file.
const GOLDEN: usize = 8;

/// iPET's generator: latent vector, one dense layer, sigmoid, times the largest value of each column.
#[derive(Clone, Debug)]
pub struct Generator {
    layer: Dense,
    scale: [f64; COLUMNS],
}

impl Generator {
    /// A new generator of windows with `rows` slots; `scale` is the largest value of each column.
    pub fn new(rows: usize, scale: [f64; COLUMNS], rng: &mut dyn RngCore) -> Self {
        Self {
            layer: Dense::new(LATENT, rows * COLUMNS, rng),
            scale,
        }
    }

    /// A generator with these numbers.
    pub fn from_layer(layer: Dense, scale: [f64; COLUMNS]) -> Self {
        Self { layer, scale }
    }

    /// Draws a latent vector, as it is drawn where the model is used.
    pub fn latent(rng: &mut dyn RngCore) -> [f64; LATENT] {
        let mut z = [0.0; LATENT];
        standard_normal(rng, &mut z);
        z.map(f64::from)
    }

    /// Writes the sigmoid's values, 0 to 1.
    fn levels(&self, z: &[f64], s: &mut [f64]) {
        self.layer.forward(z, s);
        s.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp()));
    }

    /// Writes the demands of one window, not rounded.
    pub fn demands(&self, z: &[f64], out: &mut [f64]) {
        self.levels(z, out);
        for (i, v) in out.iter_mut().enumerate() {
            *v *= self.scale[i % COLUMNS];
        }
    }

    /// Adds a rounded window of cover to a sample.
    pub fn perturb(&self, sample: &mut Sample, rng: &mut dyn RngCore) -> Vec<f64> {
        let mut cover = vec![0.0; self.layer.bias.len()];
        self.demands(&Self::latent(rng), &mut cover);
        for (v, c) in sample.x.iter_mut().zip(&mut cover) {
            *c = c.round_ties_even();
            *v += *c;
        }
        cover
    }

    /// Adds the gradient of `overhead * mean(level) - cross-entropy` for one sample; returns that loss.
    fn accumulate(
        &self,
        attacker: &Attacker,
        sample: &Sample,
        z: &[f64],
        overhead: f64,
        work: &mut Work,
        gradient: &mut Dense,
    ) -> f64 {
        self.levels(z, &mut work.level);
        work.x.clone_from(&sample.x);
        for (i, (x, s)) in work.x.iter_mut().zip(&work.level).enumerate() {
            *x += s * self.scale[i % COLUMNS];
        }
        let entropy =
            attacker.input_gradient(&work.x, sample.label, &mut work.scratch, &mut work.dx);
        let n = work.level.len() as f64;
        for (i, (d, s)) in work.delta.iter_mut().zip(&work.level).enumerate() {
            let by_level = overhead / n - work.dx[i] * self.scale[i % COLUMNS];
            *d = by_level * s * (1.0 - s);
        }
        self.layer.backward(z, &work.delta, gradient);
        overhead * work.level.iter().sum::<f64>() / n - entropy
    }

    fn work(&self, attacker: &Attacker) -> Work {
        let n = self.layer.bias.len();
        Work {
            scratch: attacker.scratch(),
            level: vec![0.0; n],
            delta: vec![0.0; n],
            x: vec![0.0; n + 1],
            dx: vec![0.0; n + 1],
        }
    }

    /// Trains against a frozen attacker on the samples of the generator's device.
    ///
    /// Maximises the cross-entropy of the true label minus `overhead` (nats) times the mean level of the output, 0 to 1.
    pub fn train(
        &mut self,
        attacker: &Attacker,
        samples: &[&Sample],
        overhead: f64,
        how: Training,
        rng: &mut dyn RngCore,
        tick: &mut dyn FnMut(f64),
    ) {
        let mut adam = Adam::new(&self.layer, how.rate);
        let mut gradient = self.layer.zero();
        let mut work = self.work(attacker);
        let mut order: Vec<usize> = (0..samples.len()).collect();
        for _ in 0..how.epochs {
            shuffle(&mut order, rng);
            let mut loss = 0.0;
            for batch in order.chunks(how.batch.max(1)) {
                for &i in batch {
                    let z = Self::latent(rng);
                    loss += self.accumulate(
                        attacker,
                        samples[i],
                        &z,
                        overhead,
                        &mut work,
                        &mut gradient,
                    );
                }
                adam.step(&mut self.layer, &mut gradient, batch.len());
            }
            tick(loss / samples.len().max(1) as f64);
        }
    }

    /// The model file. Test vectors come from this crate's arithmetic on the rounded weights.
    ///
    /// # Errors
    /// As [`Graph::to_bytes`], for a signature that does not fit.
    pub fn to_onnx(
        &self,
        signature: &Signature,
        rng: &mut dyn RngCore,
    ) -> Result<Vec<u8>, ModelError> {
        let n = self.layer.bias.len();
        let rows = n / COLUMNS;
        let single = |v: &[f64]| v.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        let (weights, bias, scale) = (
            single(&self.layer.weights),
            single(&self.layer.bias),
            single(&self.scale),
        );
        let mut g = Graph::new("ipet-generator");
        let z = g.input("latent", &[1, LATENT]);
        let w = g.constant(&[LATENT, n], &weights);
        let b = g.constant(&[n], &bias);
        let h = g.gemm(&z, &w, &b);
        let h = g.sigmoid(&h);
        let m = g.reshape(&h, &[1, rows, COLUMNS]);
        let k = g.constant(&[1, 1, COLUMNS], &scale);
        let y = g.mul(&m, &k);
        g.output("demand", &y, &[1, rows, COLUMNS]);
        let double = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let written = Self {
            layer: Dense {
                weights: double(&weights),
                bias: double(&bias),
            },
            scale: scale_of(&scale),
        };
        let golden: Vec<Golden> = (0..GOLDEN)
            .map(|_| {
                let z = Self::latent(rng);
                let mut y = vec![0.0; n];
                written.demands(&z, &mut y);
                Golden {
                    inputs: vec![single(&z)],
                    outputs: vec![single(&y)],
                }
            })
            .collect();
        g.to_bytes(signature, &golden)
    }
}

fn scale_of(scale: &[f32]) -> [f64; COLUMNS] {
    std::array::from_fn(|i| f64::from(scale[i]))
}

struct Work {
    scratch: crate::attacker::Scratch,
    level: Vec<f64>,
    delta: Vec<f64>,
    x: Vec<f64>,
    dx: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn the_gradient_through_the_attacker_agrees_with_finite_differences() {
        let mut rng = ChaCha20Rng::from_seed([4; 32]);
        let attacker = Attacker::new(2, 3, &mut rng);
        let mut g = Generator::new(2, [4.0, 100.0, 4.0, 100.0], &mut rng);
        let sample = Sample {
            x: vec![0.0, 0.0, 1.0, 52.0, 2.0, 99.0, 0.0, 0.0, 3.5],
            label: 2,
        };
        let z = Generator::latent(&mut rng);
        let mut work = g.work(&attacker);
        let mut gradient = g.layer.zero();
        g.accumulate(&attacker, &sample, &z, 0.7, &mut work, &mut gradient);
        let mut other = g.layer.zero();
        for i in 0..g.layer.weights.len() {
            let keep = g.layer.weights[i];
            let h = 1e-6;
            g.layer.weights[i] = keep + h;
            let up = g.accumulate(&attacker, &sample, &z, 0.7, &mut work, &mut other);
            g.layer.weights[i] = keep - h;
            let down = g.accumulate(&attacker, &sample, &z, 0.7, &mut work, &mut other);
            g.layer.weights[i] = keep;
            let want = (up - down) / (2.0 * h);
            let found = gradient.weights[i];
            assert!((found - want).abs() < 1e-7, "weight {i}: {found} {want}");
        }
    }

    #[test]
    fn a_cost_alone_drives_the_output_to_zero() {
        let mut rng = ChaCha20Rng::from_seed([5; 32]);
        let attacker = Attacker::new(2, 2, &mut rng);
        let mut g = Generator::new(2, [4.0, 100.0, 4.0, 100.0], &mut rng);
        let sample = Sample {
            x: vec![0.0; 9],
            label: 0,
        };
        let how = Training {
            epochs: 400,
            batch: 1,
            rate: 0.05,
        };
        g.train(&attacker, &[&sample; 4], 1000.0, how, &mut rng, &mut |_| {});
        let mut y = [0.0; 8];
        g.demands(&[0.0; LATENT], &mut y);
        assert!(y.iter().all(|v| *v < 1.0), "{y:?}");
    }
}
