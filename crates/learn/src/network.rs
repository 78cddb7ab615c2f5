use ndarray::Array2;

use crate::layer::cut_mut;
use rand::RngCore;

use crate::training::Samples;
use crate::{Layer, Optimizer, Parameter, Real};

/// Samples of one batch while scoring.
const SCORE_BATCH: usize = 256;

/// A chain of layers from windows to the logits of classes.
#[derive(Clone, Debug)]
pub struct Network<T> {
    /// The layers in order.
    pub layers: Vec<Layer<T>>,
    steps: usize,
    /// Rows before each `Flatten`, by layer.
    rows: Vec<usize>,
}

impl<T: Real> Network<T> {
    /// A network on windows of `steps` steps.
    pub fn new(steps: usize, layers: Vec<Layer<T>>) -> Self {
        Self {
            rows: vec![0; layers.len()],
            layers,
            steps,
        }
    }

    /// Steps of a window.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Logits (`classes x batch`) of windows (`values x (steps * batch)`, columns by time first) with one extra number a
    /// sample. With a generator of random numbers dropout is on.
    pub fn forward(
        &mut self,
        x: Array2<T>,
        extra: &[T],
        mut rng: Option<&mut dyn RngCore>,
    ) -> Array2<T> {
        let mut x = x;
        for (layer, rows) in self.layers.iter_mut().zip(&mut self.rows) {
            *rows = x.nrows();
            let rng = rng.as_mut().map(|r| &mut **r as &mut dyn RngCore);
            x = layer.forward(x, extra, rng);
        }
        x
    }

    /// From the derivative by the logits: adds to all gradients, gives the derivative by the windows.
    pub fn backward(&mut self, d: Array2<T>) -> Array2<T> {
        let batch = d.ncols();
        let mut d = d;
        for (layer, rows) in self.layers.iter_mut().zip(&self.rows).rev() {
            d = match layer {
                Layer::Flatten => {
                    let f = *rows;
                    let steps = d.nrows() / f.max(1);
                    Array2::from_shape_fn((f, steps * batch), |(i, j)| {
                        d[[j / batch * f + i, j % batch]]
                    })
                }
                _ => layer.backward(d, batch),
            };
        }
        d
    }

    /// All that is learned.
    pub fn parameters(&mut self) -> Vec<&mut Parameter<T>> {
        self.layers.iter_mut().flat_map(Layer::parameters).collect()
    }

    /// Numbers that are learned.
    pub fn size(&mut self) -> usize {
        self.parameters().iter().map(|p| p.value.len()).sum()
    }

    /// All that is learned as one list, in order of layers.
    pub fn weights(&mut self) -> Vec<f32> {
        let all = self.parameters();
        all.iter()
            .flat_map(|p| p.value.iter().map(|v| v.f64() as f32))
            .collect()
    }

    /// Sets all that is learned from such a list. Gives whether it had the right length and held only finite numbers; otherwise
    /// nothing changes.
    pub fn set_weights(&mut self, weights: &[f32]) -> bool {
        if weights.len() != self.size() || !weights.iter().all(|w| w.is_finite()) {
            return false;
        }
        let mut from = weights.iter();
        for p in self.parameters() {
            for (value, w) in p.value.iter_mut().zip(&mut from) {
                *value = T::of(f64::from(*w));
            }
        }
        true
    }

    /// Goes one step down the gradients and sets them to zero.
    pub fn step(&mut self, how: &mut Optimizer) {
        how.advance();
        self.parameters().into_iter().for_each(|p| p.step(how));
    }

    /// Sets the gradients to zero.
    pub fn clear(&mut self) {
        let zero = T::zero();
        self.parameters()
            .into_iter()
            .for_each(|p| p.gradient.fill(zero));
    }

    /// Forgets gradients and the optimizer's moments, for training with a new [`Optimizer`].
    pub fn forget(&mut self) {
        self.clear();
        self.parameters().into_iter().for_each(Parameter::forget);
    }

    /// Sum of the penalties on weights.
    pub fn penalty(&mut self) -> f64 {
        self.parameters().iter().map(|p| p.penalty()).sum()
    }

    /// Probabilities of the classes, `classes x samples`.
    pub fn probabilities(&mut self, samples: &Samples) -> Array2<f64> {
        let mut out = Array2::zeros((0, samples.len()));
        let all: Vec<usize> = (0..samples.len()).collect();
        for (k, part) in all.chunks(SCORE_BATCH).enumerate() {
            let (x, extra, _) = samples.batch::<T>(part);
            let logits = self.forward(x, &extra, None);
            if out.nrows() != logits.nrows() {
                out = Array2::zeros((logits.nrows(), samples.len()));
            }
            let at = k * SCORE_BATCH;
            cut_mut(out.view_mut(), .., at..at + part.len()).assign(&softmax(&logits));
        }
        out
    }

    /// The most probable class of each sample.
    pub fn classify(&mut self, samples: &Samples) -> Vec<usize> {
        let p = self.probabilities(samples);
        p.columns()
            .into_iter()
            .map(|c| best(c.iter().copied()))
            .collect()
    }

    /// Share of samples whose most probable class is theirs; 0 without samples.
    pub fn accuracy(&mut self, samples: &Samples) -> f64 {
        let right = self
            .classify(samples)
            .into_iter()
            .zip(samples.classes())
            .filter(|(a, b)| a == *b)
            .count();
        right as f64 / samples.len().max(1) as f64
    }

    /// Mean cross-entropy of the true classes, nats.
    pub fn loss(&mut self, samples: &Samples) -> f64 {
        let p = self.probabilities(samples);
        let sum: f64 = samples
            .classes()
            .iter()
            .enumerate()
            .map(|(i, &c)| -p[[c, i]].max(1e-30).ln())
            .sum();
        sum / samples.len().max(1) as f64
    }
}

/// Index of the largest value, the first of equals.
pub(crate) fn best(values: impl Iterator<Item = f64>) -> usize {
    let mut top = (0, f64::NEG_INFINITY);
    for (i, v) in values.enumerate() {
        if v > top.1 {
            top = (i, v);
        }
    }
    top.0
}

/// Softmax of each column, in doubles.
pub(crate) fn softmax<T: Real>(logits: &Array2<T>) -> Array2<f64> {
    let mut p = logits.mapv(T::f64);
    for mut column in p.columns_mut() {
        let top = column.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        column.mapv_inplace(|x| (x - top).exp());
        let sum = column.sum();
        column.mapv_inplace(|x| x / sum);
    }
    p
}
