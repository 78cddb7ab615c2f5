use rand::RngCore;

/// A fully connected layer: `y = x * weights + bias`.
#[derive(Clone, Debug)]
pub struct Dense {
    /// `inputs x outputs`, row-major.
    pub weights: Vec<f64>,
    /// One number an output.
    pub bias: Vec<f64>,
}

/// A uniform number in `[0, 1)` with 53 bits.
pub(crate) fn unit(rng: &mut dyn RngCore) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A whole number below `n`, which is not zero. The bias is below `n / 2^64`.
pub(crate) fn below(rng: &mut dyn RngCore, n: usize) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// Shuffles in place (Fisher and Yates).
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut dyn RngCore) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i + 1));
    }
}

impl Dense {
    /// Weights uniform in `±sqrt(6 / (inputs + outputs))` (Glorot and Bengio 2010), bias zero.
    pub fn new(inputs: usize, outputs: usize, rng: &mut dyn RngCore) -> Self {
        let bound = (6.0 / (inputs + outputs) as f64).sqrt();
        Self {
            weights: (0..inputs * outputs)
                .map(|_| (2.0 * unit(rng) - 1.0) * bound)
                .collect(),
            bias: vec![0.0; outputs],
        }
    }

    /// A gradient of this layer's shape, zero.
    pub fn zero(&self) -> Self {
        Self {
            weights: vec![0.0; self.weights.len()],
            bias: vec![0.0; self.bias.len()],
        }
    }

    /// Writes the outputs.
    pub fn forward(&self, x: &[f64], y: &mut [f64]) {
        y.copy_from_slice(&self.bias);
        for (row, &xi) in self.weights.chunks_exact(y.len()).zip(x) {
            // Most slots of a window are empty.
            if xi != 0.0 {
                for (yj, w) in y.iter_mut().zip(row) {
                    *yj += xi * w;
                }
            }
        }
    }

    /// Adds the gradient of a loss whose derivative by the outputs is `dy` to `gradient`.
    pub fn backward(&self, x: &[f64], dy: &[f64], gradient: &mut Self) {
        for (row, &xi) in gradient.weights.chunks_exact_mut(dy.len()).zip(x) {
            if xi != 0.0 {
                for (g, d) in row.iter_mut().zip(dy) {
                    *g += xi * d;
                }
            }
        }
        for (g, d) in gradient.bias.iter_mut().zip(dy) {
            *g += d;
        }
    }

    /// Writes the derivative by the inputs.
    pub fn input_gradient(&self, dy: &[f64], dx: &mut [f64]) {
        for (d, row) in dx.iter_mut().zip(self.weights.chunks_exact(dy.len())) {
            *d = row.iter().zip(dy).map(|(w, g)| w * g).sum();
        }
    }

    fn parameters(&mut self) -> impl Iterator<Item = &mut f64> {
        self.weights.iter_mut().chain(&mut self.bias)
    }

    fn reset(&mut self) {
        self.weights.fill(0.0);
        self.bias.fill(0.0);
    }
}

/// Adam (Kingma and Ba 2015) for one layer: beta 0.9 and 0.999, epsilon 1e-8.
#[derive(Clone, Debug)]
pub struct Adam {
    rate: f64,
    step: i32,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Adam {
    /// For a layer of this shape, with this learning rate.
    pub fn new(layer: &Dense, rate: f64) -> Self {
        let n = layer.weights.len() + layer.bias.len();
        Self {
            rate,
            step: 0,
            first: vec![0.0; n],
            second: vec![0.0; n],
        }
    }

    /// Takes a step down the gradient, which is a sum over `count` samples, and sets it to zero.
    pub fn step(&mut self, layer: &mut Dense, gradient: &mut Dense, count: usize) {
        self.step = self.step.saturating_add(1);
        let (c1, c2) = (1.0 - 0.9f64.powi(self.step), 1.0 - 0.999f64.powi(self.step));
        let each = 1.0 / count.max(1) as f64;
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((p, g), (m, v)) in layer.parameters().zip(gradient.parameters()).zip(moments) {
            let g = *g * each;
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.999 * *v + 0.001 * g * g;
            *p -= self.rate * (*m / c1) / ((*v / c2).sqrt() + 1e-8);
        }
        gradient.reset();
    }
}
