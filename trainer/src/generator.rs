use chaff_cover::standard_normal;
use chaff_onnx::{Extras, Golden, Graph, ModelError, Signature, Value};
use rand::RngCore;

use crate::attacker::{Attacker, Sample, Training};
use crate::network::{Adam, Dense, shuffle};
use crate::windows::COLUMNS;

/// Length of the latent vector.
pub const LATENT: usize = 20;
/// Test vectors written into a model file.
const GOLDEN: usize = 8;

/// iPET's generator: latent vector, one dense layer, sigmoid, times the largest value of each column. With [`Extras`] it also takes
/// a secret of the home and recent real slots, and counts dummies by size.
#[derive(Clone, Debug)]
pub struct Generator {
    layer: Dense,
    /// Largest value of each column.
    scale: Vec<f64>,
    extras: Extras,
}

impl Generator {
    /// A new generator of windows with `rows` slots; `scale` is the largest value of each column.
    pub fn new(rows: usize, scale: [f64; COLUMNS], rng: &mut dyn RngCore) -> Self {
        Self::with_extras(rows, scale, Extras::default(), rng)
    }

    /// A new generator with more than iPET's; where it counts by size, `scale[0]` and `scale[2]` hold for each size.
    pub fn with_extras(
        rows: usize,
        scale: [f64; COLUMNS],
        extras: Extras,
        rng: &mut dyn RngCore,
    ) -> Self {
        let scale = match extras.sizes.len() {
            0 => scale.to_vec(),
            bins => [scale[0], scale[2]]
                .iter()
                .flat_map(|s| vec![*s; bins])
                .collect(),
        };
        let inputs = LATENT + extras.secret as usize + extras.past as usize * COLUMNS;
        Self {
            layer: Dense::new(inputs, rows * scale.len(), rng),
            scale,
            extras,
        }
    }

    /// A generator with these numbers.
    pub fn from_layer(layer: Dense, scale: [f64; COLUMNS]) -> Self {
        Self {
            layer,
            scale: scale.to_vec(),
            extras: Extras::default(),
        }
    }

    /// Draws a latent vector, as it is drawn where the model is used.
    pub fn latent(rng: &mut dyn RngCore) -> [f64; LATENT] {
        let mut z = [0.0; LATENT];
        standard_normal(rng, &mut z);
        z.map(f64::from)
    }

    /// Draws a home's secret, as it is drawn where the model is used.
    pub fn secret(&self, rng: &mut dyn RngCore) -> Vec<f64> {
        let mut secret = vec![0.0; self.extras.secret as usize];
        standard_normal(rng, &mut secret);
        secret.into_iter().map(f64::from).collect()
    }

    /// A latent vector, the secret, and the past (zeros where the sample has none), one after the other.
    fn input(&self, secret: &[f64], past: &[f64], rng: &mut dyn RngCore) -> Vec<f64> {
        let mut z = Self::latent(rng).to_vec();
        z.extend(secret);
        z.extend(past);
        z.resize(self.layer.weights.len() / self.layer.bias.len().max(1), 0.0);
        z
    }

    /// Writes the sigmoid's values, 0 to 1.
    fn levels(&self, z: &[f64], s: &mut [f64]) {
        self.layer.forward(z, s);
        s.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp()));
    }

    /// Writes the outputs for one window, not rounded. `z`: latent vector, then the secret, then the past.
    pub fn demands(&self, z: &[f64], out: &mut [f64]) {
        self.levels(z, out);
        for (i, v) in out.iter_mut().enumerate() {
            *v *= self.scale[i % self.scale.len()];
        }
    }

    /// Where output `i` goes: places in a window of iPET's four columns, and how much of it goes there.
    fn effects(&self, i: usize) -> [(usize, f64); 2] {
        let bins = self.extras.sizes.len();
        if bins == 0 {
            return [(i, 1.0), (i, 0.0)];
        }
        let (row, column) = (i / (2 * bins), i % (2 * bins));
        let at = row * COLUMNS + column / bins * 2;
        [
            (at, 1.0),
            (at + 1, f64::from(self.extras.sizes[column % bins])),
        ]
    }

    /// Adds a rounded window of cover to a sample; gives what was added, in iPET's four columns.
    pub fn perturb(&self, sample: &mut Sample, secret: &[f64], rng: &mut dyn RngCore) -> Vec<f64> {
        let mut made = vec![0.0; self.layer.bias.len()];
        self.demands(&self.input(secret, &sample.past, rng), &mut made);
        let mut cover = vec![0.0; made.len() / self.scale.len() * COLUMNS];
        for (i, v) in made.iter().enumerate() {
            for (at, factor) in self.effects(i) {
                cover[at] += v.round_ties_even() * factor;
            }
        }
        sample.x.iter_mut().zip(&cover).for_each(|(x, c)| *x += c);
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
        for (i, s) in work.level.iter().enumerate() {
            for (at, factor) in self.effects(i) {
                work.x[at] += s * self.scale[i % self.scale.len()] * factor;
            }
        }
        let entropy =
            attacker.input_gradient(&work.x, sample.label, &mut work.scratch, &mut work.dx);
        let n = work.level.len() as f64;
        let mut cost = 0.0;
        for (i, s) in work.level.iter().enumerate() {
            let scale = self.scale[i % self.scale.len()];
            let gain: f64 = self
                .effects(i)
                .iter()
                .map(|(at, factor)| work.dx[*at] * factor)
                .sum();
            let price = overhead / n * self.price(i);
            work.delta[i] = (price - gain * scale) * s * (1.0 - s);
            cost += price * s;
        }
        self.layer.backward(z, &work.delta, gradient);
        cost - entropy
    }

    /// What output `i` costs; 1 on average. Large dummies cost by their size.
    fn price(&self, i: usize) -> f64 {
        let sizes = &self.extras.sizes;
        if sizes.is_empty() {
            return 1.0;
        }
        let sum: f64 = sizes.iter().map(|s| f64::from(*s)).sum();
        f64::from(sizes[i % sizes.len()]) * sizes.len() as f64 / sum
    }

    fn work(&self, attacker: &Attacker) -> Work {
        let n = self.layer.bias.len();
        Work {
            scratch: attacker.scratch(),
            level: vec![0.0; n],
            delta: vec![0.0; n],
            x: Vec::new(),
            dx: vec![0.0; n / self.scale.len() * COLUMNS + 1],
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
                    // Every pass sees other homes.
                    let secret = self.secret(rng);
                    let z = self.input(&secret, &samples[i].past, rng);
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
        let columns = self.scale.len();
        let rows = n / columns;
        let single = |v: &[f64]| v.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        let (weights, bias, scale) = (
            single(&self.layer.weights),
            single(&self.layer.bias),
            single(&self.scale),
        );
        let more: Vec<(&str, usize)> = [
            ("secret", self.extras.secret as usize),
            ("past", self.extras.past as usize * COLUMNS),
        ]
        .into_iter()
        .filter(|(_, size)| *size > 0)
        .collect();
        let mut g = Graph::new("ipet-generator");
        let mut z = g.input("latent", &[1, LATENT]);
        let inputs: Vec<Value> = more
            .iter()
            .map(|(name, size)| g.input(name, &[1, *size]))
            .collect();
        if !inputs.is_empty() {
            let parts: Vec<&Value> = std::iter::once(&z).chain(&inputs).collect();
            z = g.concat(&parts, -1);
        }
        let w = g.constant(&[weights.len() / n.max(1), n], &weights);
        let b = g.constant(&[n], &bias);
        let h = g.gemm(&z, &w, &b);
        let h = g.sigmoid(&h);
        let m = g.reshape(&h, &[1, rows, columns]);
        let k = g.constant(&[1, 1, columns], &scale);
        let y = g.mul(&m, &k);
        g.output("demand", &y, &[1, rows, columns]);
        let double = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let written = Self {
            layer: Dense {
                weights: double(&weights),
                bias: double(&bias),
            },
            scale: double(&scale),
            extras: self.extras.clone(),
        };
        let golden: Vec<Golden> = (0..GOLDEN)
            .map(|_| {
                let mut z = Self::latent(rng).to_vec();
                let mut inputs = vec![single(&z)];
                for (_, size) in &more {
                    let mut part = vec![0.0; *size];
                    standard_normal(rng, &mut part);
                    z.extend(double(&part));
                    inputs.push(part);
                }
                let mut y = vec![0.0; n];
                written.demands(&z, &mut y);
                Golden {
                    inputs,
                    outputs: vec![single(&y)],
                }
            })
            .collect();
        g.to_bytes(signature, &golden)
    }
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

    /// The analytic gradient by every weight against finite differences.
    fn check_gradient(extras: Extras) {
        let mut rng = ChaCha20Rng::from_seed([4; 32]);
        let attacker = Attacker::new(2, 3, &mut rng);
        let past = vec![0.5; extras.past as usize * COLUMNS];
        let mut g = Generator::with_extras(2, [4.0, 100.0, 4.0, 100.0], extras, &mut rng);
        let sample = Sample {
            x: vec![0.0, 0.0, 1.0, 52.0, 2.0, 99.0, 0.0, 0.0, 3.5],
            label: 2,
            ..Sample::default()
        };
        let secret = g.secret(&mut rng);
        let z = g.input(&secret, &past, &mut rng);
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
    fn the_gradient_through_the_attacker_agrees_with_finite_differences() {
        check_gradient(Extras::default());
        check_gradient(Extras {
            past: 2,
            secret: 3,
            sizes: vec![68, 516, 1_360],
            mask_ms: None,
        });
    }

    #[test]
    fn counts_by_size_are_packets_and_bytes_of_the_window() {
        let mut rng = ChaCha20Rng::from_seed([6; 32]);
        let extras = Extras {
            sizes: vec![100, 1_000],
            ..Extras::default()
        };
        let mut g = Generator::with_extras(1, [4.0, 0.0, 6.0, 0.0], extras, &mut rng);
        g.layer.weights.fill(0.0);
        // Levels of 1, 0, 0 and 1: four small ones in, six large ones out.
        g.layer.bias = vec![50.0, -50.0, -50.0, 50.0];
        let mut sample = Sample {
            x: vec![1.0, 10.0, 0.0, 0.0, 2.5],
            ..Sample::default()
        };
        let cover = g.perturb(&mut sample, &[], &mut rng);
        assert_eq!(cover, [4.0, 400.0, 6.0, 6_000.0]);
        assert_eq!(sample.x, [5.0, 410.0, 6.0, 6_000.0, 2.5]);
    }

    #[test]
    fn a_cost_alone_drives_the_output_to_zero() {
        let mut rng = ChaCha20Rng::from_seed([5; 32]);
        let attacker = Attacker::new(2, 2, &mut rng);
        let mut g = Generator::new(2, [4.0, 100.0, 4.0, 100.0], &mut rng);
        let sample = Sample {
            x: vec![0.0; 9],
            label: 0,
            ..Sample::default()
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
