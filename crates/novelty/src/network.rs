//! A small fully connected network that learns to repeat its input.

use rand::RngCore;

use crate::ModelError;
use crate::codec::{Reader, Writer};
use crate::draw;

const MAX_WIDTH: u64 = 1 << 16;

/// Layers of given widths, hyperbolic tangent between them, none after the last.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    inputs: usize,
    outputs: usize,
    /// `outputs x inputs`.
    weights: Vec<f64>,
    biases: Vec<f64>,
}

/// Room for one row's way through a network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pass {
    /// Input, then the output of each layer.
    values: Vec<Vec<f64>>,
    errors: Vec<Vec<f64>>,
}

/// Adam (Kingma and Ba 2015).
#[derive(Clone, Debug)]
pub(crate) struct Adam {
    rate: f64,
    step: i32,
    /// First and second moments, per layer weights then biases.
    moments: Vec<(Vec<f64>, Vec<f64>)>,
    gradients: Vec<Vec<f64>>,
}

impl Network {
    /// Random weights (Glorot and Bengio 2010).
    pub(crate) fn new(widths: &[usize], rng: &mut dyn RngCore) -> Self {
        let layers = widths
            .windows(2)
            .map(|w| {
                let (inputs, outputs) = (w[0], w[1]);
                let limit = (6.0 / (inputs + outputs) as f64).sqrt();
                Layer {
                    inputs,
                    outputs,
                    weights: (0..inputs * outputs)
                        .map(|_| (2.0 * draw::unit(rng) - 1.0) * limit)
                        .collect(),
                    biases: vec![0.0; outputs],
                }
            })
            .collect();
        Self { layers }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.layers.first().map_or(0, |l| l.inputs)
    }

    /// The output for one row.
    pub(crate) fn forward<'p>(&self, row: &[f64], pass: &'p mut Pass) -> &'p [f64] {
        pass.values.resize(self.layers.len() + 1, Vec::new());
        pass.values[0].clear();
        pass.values[0].extend_from_slice(row);
        let last = self.layers.len().saturating_sub(1);
        for (i, layer) in self.layers.iter().enumerate() {
            let (before, after) = pass.values.split_at_mut(i + 1);
            let (input, output) = (&before[i], &mut after[0]);
            output.clear();
            for (weights, bias) in layer.weights.chunks_exact(layer.inputs).zip(&layer.biases) {
                let sum = bias + dot(weights, input);
                output.push(if i == last { sum } else { sum.tanh() });
            }
        }
        pass.values.last().map_or(&[], |v| v)
    }

    /// Squared distance of the output to `target`; adds the gradient of half of it to the optimiser's.
    pub(crate) fn backward(&self, target: &[f64], pass: &mut Pass, adam: &mut Adam) -> f64 {
        let n = self.layers.len();
        pass.errors.resize(n, Vec::new());
        let output = &pass.values[n];
        let mut loss = 0.0;
        pass.errors[n - 1].clear();
        for (o, t) in output.iter().zip(target) {
            loss += (o - t) * (o - t);
            pass.errors[n - 1].push(o - t);
        }
        for i in (0..n).rev() {
            let layer = &self.layers[i];
            let (before, rest) = pass.errors.split_at_mut(i);
            let error = &rest[0];
            let input = &pass.values[i];
            let (weights, biases) = adam.gradients.split_at_mut(2 * i + 1);
            for ((gradient, e), b) in weights[2 * i]
                .chunks_exact_mut(layer.inputs)
                .zip(error)
                .zip(&mut biases[0])
            {
                *b += e;
                for (g, x) in gradient.iter_mut().zip(input) {
                    *g += e * x;
                }
            }
            if let Some(below) = before.last_mut() {
                below.clear();
                below.resize(layer.inputs, 0.0);
                for (weights, e) in layer.weights.chunks_exact(layer.inputs).zip(error) {
                    for (b, w) in below.iter_mut().zip(weights) {
                        *b += e * w;
                    }
                }
                for (b, x) in below.iter_mut().zip(input) {
                    *b *= 1.0 - x * x;
                }
            }
        }
        loss
    }

    /// Moves the weights along the mean of `rows` gradients and forgets them.
    pub(crate) fn update(&mut self, adam: &mut Adam, rows: usize) {
        const B1: f64 = 0.9;
        const B2: f64 = 0.999;
        adam.step = adam.step.saturating_add(1);
        let corrected = adam.rate * (1.0 - B2.powi(adam.step)).sqrt() / (1.0 - B1.powi(adam.step));
        let scale = 1.0 / rows.max(1) as f64;
        let parameters = self
            .layers
            .iter_mut()
            .flat_map(|l| [&mut l.weights, &mut l.biases]);
        for ((values, (m, v)), gradients) in
            parameters.zip(&mut adam.moments).zip(&mut adam.gradients)
        {
            let state = m.iter_mut().zip(v.iter_mut());
            for ((x, (m, v)), g) in values.iter_mut().zip(state).zip(gradients) {
                let gradient = *g * scale;
                *m = B1 * *m + (1.0 - B1) * gradient;
                *v = B2 * *v + (1.0 - B2) * gradient * gradient;
                *x -= corrected * *m / (v.sqrt() + 1e-8);
                *g = 0.0;
            }
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.size(self.layers.len());
        for l in &self.layers {
            out.size(l.inputs);
            out.size(l.outputs);
            out.list(&l.weights);
            out.list(&l.biases);
        }
    }

    /// A network from and to `columns` numbers.
    pub(crate) fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, ModelError> {
        let count = from.size("the number of layers", 16)?;
        let mut layers: Vec<Layer> = Vec::new();
        for _ in 0..count {
            let inputs = from.size("a layer's inputs", MAX_WIDTH)?;
            let outputs = from.size("a layer's outputs", MAX_WIDTH)?;
            layers.push(Layer {
                inputs,
                outputs,
                weights: from.list_of(inputs.saturating_mul(outputs))?,
                biases: from.list_of(outputs)?,
            });
        }
        let chained = layers.windows(2).all(|w| w[0].outputs == w[1].inputs);
        let ends = layers.first().map(|l| l.inputs) == Some(columns)
            && layers.last().map(|l| l.outputs) == Some(columns);
        if !chained || !ends || layers.iter().any(|l| l.inputs == 0) {
            return Err(ModelError::Invalid {
                what: "the layers of a network do not fit together",
            });
        }
        Ok(Self { layers })
    }
}

/// In four parts, so that the compiler can work on several products at once.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sum = [0.0; 4];
    let (a4, b4) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a4
        .remainder()
        .iter()
        .zip(b4.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in a4.zip(b4) {
        for i in 0..4 {
            sum[i] += x[i] * y[i];
        }
    }
    sum.iter().sum::<f64>() + rest
}

impl Adam {
    pub(crate) fn new(network: &Network, rate: f64) -> Self {
        let sizes: Vec<usize> = network
            .layers
            .iter()
            .flat_map(|l| [l.weights.len(), l.biases.len()])
            .collect();
        Self {
            rate,
            step: 0,
            moments: sizes
                .iter()
                .map(|&n| (vec![0.0; n], vec![0.0; n]))
                .collect(),
            gradients: sizes.iter().map(|&n| vec![0.0; n]).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn gradient_is_that_of_differences() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let network = Network::new(&[3, 4, 2, 3], &mut rng);
        let (row, target) = ([0.3, -0.7, 1.1], [0.1, 0.2, -0.4]);
        let mut pass = Pass::default();
        let mut adam = Adam::new(&network, 1e-3);
        let loss = |n: &Network, pass: &mut Pass| -> f64 {
            let out = n.forward(&row, pass);
            out.iter()
                .zip(&target)
                .map(|(o, t)| (o - t) * (o - t) / 2.0)
                .sum()
        };
        network.forward(&row, &mut pass);
        network.backward(&target, &mut pass, &mut adam);
        for layer in 0..3 {
            for i in 0..network.layers[layer].weights.len() {
                let mut moved = network.clone();
                moved.layers[layer].weights[i] += 1e-6;
                let up = loss(&moved, &mut pass);
                moved.layers[layer].weights[i] -= 2e-6;
                let down = loss(&moved, &mut pass);
                let numeric = (up - down) / 2e-6;
                let exact = adam.gradients[2 * layer][i];
                assert!(
                    (numeric - exact).abs() < 1e-8,
                    "{layer} {i} {numeric} {exact}"
                );
            }
        }
    }
}
