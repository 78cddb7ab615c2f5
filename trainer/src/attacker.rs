use rand::RngCore;

use crate::network::{Adam, Dense, shuffle};
use crate::windows::COLUMNS;

/// Hidden units.
const HIDDEN: usize = 64;

/// A classifier that tells devices by one window: slots and silence, 64 units with tanh, softmax.
///
/// Inputs are compressed first: packets to `ln(1 + n)`, bytes and silence to `0.2 ln(1 + n)`, so that a burst of
/// 1,400-byte packets and a single keepalive are both of order one.
#[derive(Clone, Debug)]
pub struct Attacker {
    hidden: Dense,
    output: Dense,
}

/// A window with its label, ready for training: slots row by row, silence in seconds last.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// `rows x 4` values, then the silence.
    pub x: Vec<f64>,
    /// Index of the label.
    pub label: usize,
    /// What a generator may see of the slots before the window, newest first, compressed; empty when it does not look.
    pub past: Vec<f64>,
    /// Number of the session: one home, one secret.
    pub session: usize,
}

/// How an attacker is trained.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    /// Passes over the samples.
    pub epochs: usize,
    /// Samples of one step.
    pub batch: usize,
    /// Adam's learning rate.
    pub rate: f64,
}

/// Buffers of one evaluation.
#[derive(Clone, Debug)]
pub struct Scratch {
    u: Vec<f64>,
    h: Vec<f64>,
    p: Vec<f64>,
    dh: Vec<f64>,
}

/// Gradient by all parameters.
#[derive(Clone, Debug)]
pub struct Gradient {
    hidden: Dense,
    output: Dense,
}

fn factor(i: usize, slots: usize) -> f64 {
    // Packets stand in the even columns; the value after the slots is the silence.
    if i < slots && i.is_multiple_of(2) {
        1.0
    } else {
        0.2
    }
}

impl Attacker {
    /// A new attacker on windows of `rows` slots.
    pub fn new(rows: usize, labels: usize, rng: &mut dyn RngCore) -> Self {
        Self {
            hidden: Dense::new(rows * COLUMNS + 1, HIDDEN, rng),
            output: Dense::new(HIDDEN, labels, rng),
        }
    }

    /// Buffers that fit.
    pub fn scratch(&self) -> Scratch {
        Scratch {
            u: vec![0.0; self.hidden.weights.len() / HIDDEN],
            h: vec![0.0; HIDDEN],
            p: vec![0.0; self.output.bias.len()],
            dh: vec![0.0; HIDDEN],
        }
    }

    /// The probability of each label.
    pub fn probabilities<'s>(&self, x: &[f64], s: &'s mut Scratch) -> &'s [f64] {
        let slots = x.len() - 1;
        for (i, (u, v)) in s.u.iter_mut().zip(x).enumerate() {
            *u = v.max(0.0).ln_1p() * factor(i, slots);
        }
        self.hidden.forward(&s.u, &mut s.h);
        s.h.iter_mut().for_each(|h| *h = h.tanh());
        self.output.forward(&s.h, &mut s.p);
        let top = s.p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        s.p.iter_mut().for_each(|p| *p = (*p - top).exp());
        let sum: f64 = s.p.iter().sum();
        s.p.iter_mut().for_each(|p| *p /= sum);
        &s.p
    }

    /// The most probable label.
    pub fn guess(&self, x: &[f64], s: &mut Scratch) -> usize {
        let p = self.probabilities(x, s);
        let mut best = 0;
        for (i, v) in p.iter().enumerate() {
            if *v > p[best] {
                best = i;
            }
        }
        best
    }

    /// Cross-entropy of the label in nats, at most 700, and its derivative by the inputs in `dx`.
    pub fn input_gradient(&self, x: &[f64], label: usize, s: &mut Scratch, dx: &mut [f64]) -> f64 {
        let loss = self.backward(x, label, s);
        self.hidden.input_gradient(&s.dh, dx);
        let slots = x.len() - 1;
        for (i, (d, v)) in dx.iter_mut().zip(x).enumerate() {
            *d *= if *v > 0.0 {
                factor(i, slots) / (1.0 + v)
            } else {
                factor(i, slots)
            };
        }
        loss
    }

    /// Leaves `p - onehot` in `s.p` and the derivative before the tanh in `s.dh`.
    fn backward(&self, x: &[f64], label: usize, s: &mut Scratch) -> f64 {
        self.probabilities(x, s);
        let loss = -s.p[label].max(1e-304).ln();
        s.p[label] -= 1.0;
        self.output.input_gradient(&s.p, &mut s.dh);
        for (d, h) in s.dh.iter_mut().zip(&s.h) {
            *d *= 1.0 - h * h;
        }
        loss
    }

    /// Adds the weighted gradient of one sample; returns its cross-entropy.
    pub fn accumulate(
        &self,
        sample: &Sample,
        weight: f64,
        s: &mut Scratch,
        gradient: &mut Gradient,
    ) -> f64 {
        let loss = self.backward(&sample.x, sample.label, s);
        s.p.iter_mut().for_each(|d| *d *= weight);
        s.dh.iter_mut().for_each(|d| *d *= weight);
        self.output.backward(&s.h, &s.p, &mut gradient.output);
        self.hidden.backward(&s.u, &s.dh, &mut gradient.hidden);
        loss
    }

    /// A gradient of zero.
    pub fn gradient(&self) -> Gradient {
        Gradient {
            hidden: self.hidden.zero(),
            output: self.output.zero(),
        }
    }

    /// Trains on the samples, labels weighted equally; calls `tick` after each epoch with the mean cross-entropy.
    pub fn train(
        &mut self,
        samples: &[Sample],
        how: Training,
        rng: &mut dyn RngCore,
        tick: &mut dyn FnMut(f64),
    ) {
        let labels = self.output.bias.len();
        let mut count = vec![0usize; labels];
        samples.iter().for_each(|s| count[s.label] += 1);
        let weight =
            |label: usize| samples.len() as f64 / (labels as f64 * count[label].max(1) as f64);
        let mut gradient = self.gradient();
        let mut adam = (
            Adam::new(&self.hidden, how.rate),
            Adam::new(&self.output, how.rate),
        );
        let mut order: Vec<usize> = (0..samples.len()).collect();
        let mut scratch = self.scratch();
        for _ in 0..how.epochs {
            shuffle(&mut order, rng);
            let mut loss = 0.0;
            for batch in order.chunks(how.batch.max(1)) {
                for &i in batch {
                    let sample = &samples[i];
                    loss +=
                        self.accumulate(sample, weight(sample.label), &mut scratch, &mut gradient);
                }
                adam.0
                    .step(&mut self.hidden, &mut gradient.hidden, batch.len());
                adam.1
                    .step(&mut self.output, &mut gradient.output, batch.len());
            }
            tick(loss / samples.len().max(1) as f64);
        }
    }

    /// Right guesses of each label and samples of each label.
    pub fn score(&self, samples: &[Sample]) -> Vec<(usize, usize)> {
        let mut out = vec![(0, 0); self.output.bias.len()];
        let mut scratch = self.scratch();
        for s in samples {
            out[s.label].1 += 1;
            out[s.label].0 += usize::from(self.guess(&s.x, &mut scratch) == s.label);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn sample() -> Sample {
        // Values apart from 0, where the compression has a corner.
        let x = (0..13).map(|i| 0.3 + f64::from(i * i) * 0.7).collect();
        Sample {
            x,
            label: 1,
            ..Sample::default()
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut a = Attacker::new(3, 4, &mut ChaCha20Rng::from_seed([2; 32]));
        let (s, mut scratch) = (sample(), a.scratch());
        let mut gradient = a.gradient();
        a.accumulate(&s, 1.0, &mut scratch, &mut gradient);
        let mut dx = vec![0.0; s.x.len()];
        a.input_gradient(&s.x, s.label, &mut scratch, &mut dx);
        let loss = |a: &Attacker, x: &[f64], scratch: &mut Scratch| {
            -a.probabilities(x, scratch)[s.label].ln()
        };
        let h = 1e-6;
        for i in 0..s.x.len() {
            let (mut up, mut down) = (s.x.clone(), s.x.clone());
            up[i] += h;
            down[i] -= h;
            let want = (loss(&a, &up, &mut scratch) - loss(&a, &down, &mut scratch)) / (2.0 * h);
            assert!((dx[i] - want).abs() < 1e-7, "input {i}: {} {want}", dx[i]);
        }
        for i in (0..a.hidden.weights.len()).step_by(17) {
            let keep = a.hidden.weights[i];
            a.hidden.weights[i] = keep + h;
            let up = loss(&a, &s.x, &mut scratch);
            a.hidden.weights[i] = keep - h;
            let want = (up - loss(&a, &s.x, &mut scratch)) / (2.0 * h);
            a.hidden.weights[i] = keep;
            assert!(
                (gradient.hidden.weights[i] - want).abs() < 1e-7,
                "hidden {i}"
            );
        }
        for i in 0..a.output.bias.len() {
            let keep = a.output.bias[i];
            a.output.bias[i] = keep + h;
            let up = loss(&a, &s.x, &mut scratch);
            a.output.bias[i] = keep - h;
            let want = (up - loss(&a, &s.x, &mut scratch)) / (2.0 * h);
            a.output.bias[i] = keep;
            assert!((gradient.output.bias[i] - want).abs() < 1e-7, "output {i}");
        }
    }

    #[test]
    fn learns_to_tell_two_patterns_apart() {
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let samples: Vec<Sample> = (0..60)
            .map(|i| {
                let mut x = vec![0.0; 13];
                x[(i % 3) * 4 + 2 * (i % 2)] = 1.0;
                Sample {
                    x,
                    label: i % 2,
                    ..Sample::default()
                }
            })
            .collect();
        let mut a = Attacker::new(3, 2, &mut rng);
        let how = Training {
            epochs: 60,
            batch: 8,
            rate: 0.01,
        };
        a.train(&samples, how, &mut rng, &mut |_| {});
        assert_eq!(a.score(&samples), [(30, 30), (30, 30)]);
    }
}
