//! DoppelGANger's generator (Lin, Jain, Wang, Fanti, Sekar 2020): attributes from noise, then records from an LSTM that
//! sees the attributes.

use chaff_learn::{Activation, BatchNorm, Dense, Lstm, Parameter, Real, cut, cut_mut, normal};
use ndarray::{Array2, ArrayView2};
use rand::RngCore;
use serde::{Deserialize, Serialize};

use super::config::Net;
use super::field::{Head, width};
use super::start;

/// Draws that the outputs' start is found from.
const DRAWS: usize = 1000;
/// The share of the newest batch in the running mean and variance.
const MOMENTUM: f64 = 0.9;

/// What a generator's sizes follow from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) attributes: Vec<Head>,
    pub(crate) record: Vec<Head>,
    /// Steps of the LSTM, and records of each.
    pub(crate) steps: usize,
    pub(crate) sample_len: usize,
    /// Hidden layers and units of the attributes, units of the LSTM.
    pub(crate) hidden: usize,
    pub(crate) width: usize,
    pub(crate) units: usize,
    /// Noise of attributes and of each step.
    pub(crate) latent: [usize; 2],
}

impl Shape {
    pub(crate) fn new(attributes: Vec<Head>, record: Vec<Head>, steps: usize, net: &Net) -> Self {
        Self {
            attributes,
            record,
            steps,
            sample_len: net.sample_len,
            hidden: net.widths[0].0,
            width: net.widths[0].1,
            units: net.units,
            latent: net.latent,
        }
    }

    /// Numbers of one record, of one step, of a flow's records, of its attributes.
    pub(crate) fn record_size(&self) -> usize {
        width(&self.record)
    }

    fn step_size(&self) -> usize {
        self.record_size() * self.sample_len
    }

    pub(crate) fn records_size(&self) -> usize {
        self.step_size() * self.steps
    }

    pub(crate) fn attribute_size(&self) -> usize {
        width(&self.attributes)
    }

    /// Numbers of a whole flow.
    pub(crate) fn size(&self) -> usize {
        self.records_size() + self.attribute_size()
    }
}

/// The generator's networks, with what a backward pass needs of the last forward one.
#[derive(Clone, Debug)]
pub(crate) struct Generator<T> {
    pub(crate) shape: Shape,
    layers: Vec<(Dense<T>, BatchNorm<T>)>,
    heads: Dense<T>,
    lstm: Lstm<T>,
    out: Dense<T>,
    attributes: Array2<T>,
    records: Array2<T>,
    /// Whether a record is part of its flow, `records x batch`.
    kept: Array2<bool>,
}

/// Noise that a batch is made from.
pub(crate) struct Noise<T> {
    attributes: Array2<T>,
    steps: Array2<T>,
    start: [Array2<T>; 2],
}

impl<T: Real> Noise<T> {
    pub(crate) fn draw(shape: &Shape, batch: usize, rng: &mut dyn RngCore) -> Self {
        let mut of = |rows: usize, columns: usize| {
            Array2::from_shape_simple_fn((rows, columns), || T::of(normal(rng)))
        };
        Self {
            attributes: of(shape.latent[0], batch),
            steps: of(shape.latent[1], shape.steps * batch),
            start: [of(shape.units, batch), of(shape.units, batch)],
        }
    }
}

fn activate<T: Real>(heads: &[Head], times: usize, y: &mut Array2<T>) {
    let mut at = 0;
    for head in std::iter::repeat_n(heads, times).flatten() {
        let mut part = cut_mut(y.view_mut(), at..at + head.size(), ..);
        match head {
            Head::Sigmoid(_) => part.mapv_inplace(Real::sigmoid),
            Head::Tanh(_) => part.mapv_inplace(Real::tanh),
            Head::Softmax(_) => {
                for mut column in part.columns_mut() {
                    let top = column.fold(T::of(-1e30), |a, b| if *b > a { *b } else { a });
                    column.mapv_inplace(|v| (v - top).exp());
                    let sum = column.sum();
                    column.mapv_inplace(|v| v / sum);
                }
            }
        }
        at += head.size();
    }
}

/// From the derivative by the activated values to that by what they were made from.
fn pull<T: Real>(heads: &[Head], times: usize, d: &mut Array2<T>, y: &Array2<T>) {
    let one = T::one();
    let mut at = 0;
    for head in std::iter::repeat_n(heads, times).flatten() {
        let mut d = cut_mut(d.view_mut(), at..at + head.size(), ..);
        let y = cut(y.view(), at..at + head.size(), ..);
        match head {
            Head::Sigmoid(_) => d.zip_mut_with(&y, |d, y| *d = *d * *y * (one - *y)),
            Head::Tanh(_) => d.zip_mut_with(&y, |d, y| *d = *d * (one - *y * *y)),
            Head::Softmax(_) => {
                for (mut d, y) in d.columns_mut().into_iter().zip(y.columns()) {
                    let sum = d.iter().zip(&y).fold(T::zero(), |s, (d, y)| s + *d * *y);
                    d.zip_mut_with(&y, |d, y| *d = *y * (*d - sum));
                }
            }
        }
        at += head.size();
    }
}

/// What each output is to be before its activation for these means of `n` values.
fn biases(heads: &[Head], means: &[f64], n: f64) -> Vec<f64> {
    let least = 0.5 / (n + 1.0);
    let mut at = 0;
    let mut out = Vec::with_capacity(means.len());
    for head in heads {
        for mean in &means[at..at + head.size()] {
            out.push(match head {
                Head::Softmax(_) => mean.max(least).ln(),
                Head::Sigmoid(_) => {
                    let p = mean.clamp(least, 1.0 - least);
                    (p / (1.0 - p)).ln()
                }
                Head::Tanh(_) => mean.clamp(-1.0 + least, 1.0 - least).atanh(),
            });
        }
        at += head.size();
    }
    out
}

/// The most probable choice of each softmax as 1, the others 0; other numbers as they are.
pub(crate) fn hardened<T: Real>(heads: &[Head], x: ArrayView2<'_, T>) -> Array2<T> {
    let mut out = x.to_owned();
    let mut at = 0;
    for head in heads {
        if let Head::Softmax(n) = head {
            for mut column in cut_mut(out.view_mut(), at..at + n, ..).columns_mut() {
                let mut best = 0;
                for i in 1..*n {
                    if column[i] > column[best] {
                        best = i;
                    }
                }
                column.fill(T::zero());
                column[best] = T::one();
            }
        }
        at += head.size();
    }
    out
}

impl<T: Real> Generator<T> {
    /// Linear and input weights after Glorot, recurrent ones orthogonal, biases zero but the forget gate's.
    pub(crate) fn new(shape: Shape, rng: &mut dyn RngCore) -> Self {
        let mut layers = Vec::new();
        let mut from = shape.latent[0];
        for _ in 0..shape.hidden {
            layers.push((
                Dense::new(from, shape.width, Activation::Relu, rng),
                BatchNorm::new(shape.width, MOMENTUM),
            ));
            from = shape.width;
        }
        let inputs = shape.attribute_size() + shape.latent[1];
        let none = Activation::None;
        Self {
            heads: Dense::new(from, shape.attribute_size(), none, rng),
            lstm: Lstm::new(inputs, shape.units, false, rng),
            out: Dense::new(shape.units, shape.step_size(), none, rng),
            layers,
            shape,
            attributes: Array2::zeros((0, 0)),
            records: Array2::zeros((0, 0)),
            kept: Array2::default((0, 0)),
        }
    }

    /// Sets the outputs' biases so that the first flows have the mean of these, output by output, in place of one half:
    /// what is rare (a set bit, a label) starts rare.
    pub(crate) fn start_at(&mut self, flows: &Array2<T>, rng: &mut dyn RngCore) {
        let record = self.shape.record_size();
        let slots = self.shape.records_size() / record.max(1);
        // Of records only those that are there: one of the last two numbers is 1.
        let mut sums = vec![0.0; record];
        let mut count = 0.0;
        for flow in flows.columns() {
            for k in 0..slots {
                let of = |i: usize| flow[k * record + i].f64();
                if of(record - 2) + of(record - 1) > 0.5 {
                    count += 1.0;
                    sums.iter_mut().enumerate().for_each(|(i, s)| *s += of(i));
                }
            }
        }
        let means: Vec<f64> = sums.iter().map(|s| s / f64::max(count, 1.0)).collect();
        let start = biases(&self.shape.record, &means, count);
        for (i, b) in self.out.bias.value.iter_mut().enumerate() {
            *b = T::of(start[i % record]);
        }
        let values = cut(flows.view(), self.shape.records_size().., ..).mapv(Real::f64);
        let hidden = self
            .hidden(self.attribute_noise(DRAWS, rng))
            .mapv(Real::f64);
        let last = start::last(&self.shape.attributes, &values, &hidden);
        self.heads.weights.value = last.weights.mapv(T::of);
        for (b, v) in self.heads.bias.value.iter_mut().zip(last.bias) {
            *b = T::of(v);
        }
    }

    /// What the attributes' outputs are made from.
    fn hidden(&mut self, noise: Array2<T>) -> Array2<T> {
        let mut h = noise;
        for (dense, norm) in &mut self.layers {
            h = norm.forward(dense.forward(h));
        }
        h
    }

    /// Flows, a column each: records one below the other, then attributes. What follows a flow's last record is zero.
    pub(crate) fn forward(&mut self, noise: Noise<T>) -> Array2<T> {
        let h = self.hidden(noise.attributes);
        let mut attributes = self.heads.forward(h);
        activate(&self.shape.attributes, 1, &mut attributes);
        let hard = hardened(&self.shape.attributes, attributes.view());
        self.records(hard.view(), noise.steps, noise.start);
        let out = self.flows(&attributes);
        self.attributes = attributes;
        out
    }

    /// Attributes by the running means and variances, for generation.
    pub(crate) fn infer_attributes(&mut self, noise: Array2<T>) -> Array2<T> {
        let mut h = noise;
        for (dense, norm) in &mut self.layers {
            h = norm.infer(dense.forward(h));
        }
        let mut attributes = self.heads.forward(h);
        activate(&self.shape.attributes, 1, &mut attributes);
        attributes
    }

    /// As [`Generator::forward`], for attributes that are given.
    pub(crate) fn infer_records(&mut self, attributes: &Array2<T>, noise: Noise<T>) -> Array2<T> {
        let hard = hardened(&self.shape.attributes, attributes.view());
        self.records(hard.view(), noise.steps, noise.start);
        self.flows(attributes)
    }

    pub(crate) fn attribute_noise(&self, batch: usize, rng: &mut dyn RngCore) -> Array2<T> {
        Array2::from_shape_simple_fn((self.shape.latent[0], batch), || T::of(normal(rng)))
    }

    fn records(&mut self, hard: ArrayView2<'_, T>, noise: Array2<T>, start: [Array2<T>; 2]) {
        let (size, batch) = hard.dim();
        let steps = self.shape.steps;
        let mut x = Array2::zeros((size + self.shape.latent[1], steps * batch));
        for k in 0..steps {
            cut_mut(x.view_mut(), ..size, k * batch..(k + 1) * batch).assign(&hard);
        }
        cut_mut(x.view_mut(), size.., ..).assign(&noise);
        let hidden = self.lstm.forward_from(x, batch, Some(start));
        self.records = self.out.forward(hidden);
        activate(&self.shape.record, self.shape.sample_len, &mut self.records);
        // The last two numbers of a record: whether another one follows.
        let (record, per) = (self.shape.record_size(), self.shape.sample_len);
        self.kept = Array2::from_elem((steps * per, batch), true);
        for b in 0..batch {
            let mut on = true;
            for k in 0..steps * per {
                self.kept[[k, b]] = on;
                let (row, column) = ((k % per + 1) * record, k / per * batch + b);
                on &= self.records[[row - 2, column]] > self.records[[row - 1, column]];
            }
        }
    }

    fn flows(&self, attributes: &Array2<T>) -> Array2<T> {
        let batch = attributes.ncols();
        let (record, step) = (self.shape.record_size(), self.shape.step_size());
        let mut out = Array2::zeros((self.shape.size(), batch));
        for k in 0..self.shape.steps {
            let from = cut(self.records.view(), .., k * batch..(k + 1) * batch);
            let mut to = cut_mut(out.view_mut(), k * step..(k + 1) * step, ..);
            for ((i, b), v) in to.indexed_iter_mut() {
                if self.kept[[k * self.shape.sample_len + i / record, b]] {
                    *v = from[[i, b]];
                }
            }
        }
        cut_mut(out.view_mut(), self.shape.records_size().., ..).assign(attributes);
        out
    }

    /// From the derivative by the flows of the last [`Generator::forward`]: adds to all gradients. What the LSTM sees of
    /// the attributes passes none on, as in the original.
    pub(crate) fn backward(&mut self, d: ArrayView2<'_, T>) {
        let batch = d.ncols();
        let (record, step) = (self.shape.record_size(), self.shape.step_size());
        let mut back = Array2::zeros(self.records.raw_dim());
        for k in 0..self.shape.steps {
            let from = cut(d.view(), k * step..(k + 1) * step, ..);
            let mut to = cut_mut(back.view_mut(), .., k * batch..(k + 1) * batch);
            for ((i, b), v) in to.indexed_iter_mut() {
                if self.kept[[k * self.shape.sample_len + i / record, b]] {
                    *v = from[[i, b]];
                }
            }
        }
        pull(
            &self.shape.record,
            self.shape.sample_len,
            &mut back,
            &self.records,
        );
        let hidden = self.out.backward(back);
        self.lstm.backward(hidden, batch);
        let mut d = cut(d.view(), self.shape.records_size().., ..).to_owned();
        pull(&self.shape.attributes, 1, &mut d, &self.attributes);
        let mut d = self.heads.backward(d);
        for (dense, norm) in self.layers.iter_mut().rev() {
            d = dense.backward(norm.backward(d));
        }
    }

    /// What is learned.
    pub(crate) fn parameters(&mut self) -> Vec<&mut Parameter<T>> {
        let mut all = Vec::new();
        for (dense, norm) in &mut self.layers {
            all.extend([&mut dense.weights, &mut dense.bias]);
            all.extend(norm.parameters());
        }
        all.extend([&mut self.heads.weights, &mut self.heads.bias]);
        all.extend([
            &mut self.lstm.weights,
            &mut self.lstm.recurrent,
            &mut self.lstm.bias,
        ]);
        all.extend([&mut self.out.weights, &mut self.out.bias]);
        all
    }

    /// Running means and variances.
    pub(crate) fn running(&mut self) -> Vec<&mut Array2<T>> {
        let norms = self.layers.iter_mut().map(|(_, norm)| norm);
        norms.flat_map(|n| [&mut n.mean, &mut n.variance]).collect()
    }

    /// All that generation depends on, as one list.
    pub(crate) fn weights(&mut self) -> Vec<f32> {
        let mut out = Vec::new();
        for p in self.parameters() {
            out.extend(p.value.iter().map(|v| v.f64() as f32));
        }
        for m in self.running() {
            out.extend(m.iter().map(|v| v.f64() as f32));
        }
        out
    }

    /// Sets them; gives whether the list has the right length and holds only finite numbers and variances from zero up.
    pub(crate) fn set_weights(&mut self, weights: &[f32]) -> bool {
        let learned: usize = self.parameters().iter().map(|p| p.value.len()).sum();
        let running: usize = self.running().iter().map(|m| m.len()).sum();
        if weights.len() != learned + running || !weights.iter().all(|w| w.is_finite()) {
            return false;
        }
        let mut from = weights.iter();
        let mut fill = |m: &mut Array2<T>| {
            m.iter_mut()
                .zip(&mut from)
                .for_each(|(v, w)| *v = T::of(f64::from(*w)));
        };
        self.parameters()
            .into_iter()
            .for_each(|p| fill(&mut p.value));
        self.running().into_iter().for_each(fill);
        self.layers
            .iter()
            .all(|(_, n)| n.variance.iter().all(|v| *v >= T::zero()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn shape() -> Shape {
        Shape {
            attributes: vec![Head::Softmax(2), Head::Tanh(2), Head::Sigmoid(1)],
            record: vec![Head::Sigmoid(1), Head::Softmax(3), Head::Softmax(2)],
            steps: 2,
            sample_len: 2,
            hidden: 2,
            width: 6,
            units: 4,
            latent: [3, 2],
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        // Attributes of choices only: numbers reach the LSTM as well, and on that way pass no gradient on.
        let shape = Shape {
            attributes: vec![Head::Softmax(2), Head::Softmax(3)],
            record: vec![
                Head::Sigmoid(1),
                Head::Tanh(2),
                Head::Softmax(3),
                Head::Softmax(2),
            ],
            ..shape()
        };
        let mut rng = ChaCha20Rng::seed_from_u64(8);
        let mut generator = Generator::<f64>::new(shape.clone(), &mut rng);
        let batch = 7;
        let keep = rng.clone();
        let noise = || Noise::draw(&shape, batch, &mut keep.clone());
        let y = generator.forward(noise());
        let weight =
            Array2::from_shape_fn(y.raw_dim(), |(i, j)| ((i * 5 + j * 3) % 11) as f64 - 4.0);
        generator.backward(weight.view());
        // Some flows end early, some do not.
        assert!(generator.kept.iter().any(|k| !k) && generator.kept.iter().any(|k| *k));
        let gradients: Vec<Array2<f64>> = generator
            .parameters()
            .iter()
            .map(|p| p.gradient.clone())
            .collect();
        let h = 1e-6;
        for (k, gradient) in gradients.iter().enumerate() {
            assert!(
                gradient.iter().any(|g| g.abs() > 1e-9),
                "parameter {k} has no gradient"
            );
            for ((i, j), g) in gradient.indexed_iter().step_by(3) {
                let at = |by: f64| {
                    let mut moved = generator.clone();
                    moved.parameters()[k].value[[i, j]] += by;
                    (&moved.forward(noise()) * &weight).sum()
                };
                let want = (at(h) - at(-h)) / (2.0 * h);
                assert!(
                    (g - want).abs() < 1e-5 * want.abs().max(1.0),
                    "{k} [{i},{j}]: {g} {want}"
                );
            }
        }
    }

    #[test]
    fn a_generator_starts_at_the_data_s_means() {
        let mut rng = ChaCha20Rng::seed_from_u64(8);
        let mut generator = Generator::<f64>::new(shape(), &mut rng);
        generator.out.weights.value.fill(0.0);
        // Two of four flows have a second record, none a third.
        let flow = |k: usize| {
            let first = [0.2, 0.0, 1.0, 0.0, f64::from(k < 2), f64::from(k >= 2)];
            let second = if k < 2 {
                [0.6, 1.0, 0.0, 0.0, 0.0, 1.0]
            } else {
                [0.0; 6]
            };
            let attributes = [f64::from(k == 0), f64::from(k != 0), 0.5, -0.3, 0.9];
            [&first[..], &second, &[0.0; 12], &attributes].concat()
        };
        let flows = Array2::from_shape_fn((29, 4), |(i, j)| flow(j)[i]);
        generator.start_at(&flows, &mut rng);
        let draws = 2000;
        let y = generator.forward(Noise::draw(&shape(), draws, &mut rng));
        // The first record is there in all flows.
        for (i, mean) in [(0, 2.0 / 6.0), (2, 4.0 / 6.0), (4, 2.0 / 6.0)] {
            let found = y[[i, 0]];
            assert!((found - mean).abs() < 0.06, "{i}: {found} {mean}");
        }
        for (i, mean) in [(26, 0.5), (27, -0.3), (28, 0.9)] {
            let found = y.row(i).sum() / draws as f64;
            assert!((found - mean).abs() < 0.06, "{i}: {found} {mean}");
        }
        let chosen = (0..draws).filter(|j| y[[24, *j]] > y[[25, *j]]).count();
        let share = chosen as f64 / draws as f64;
        assert!((share - 0.25).abs() < 0.08, "{share}");
    }

    #[test]
    fn weights_come_back() {
        let mut rng = ChaCha20Rng::seed_from_u64(8);
        let mut a = Generator::<f32>::new(shape(), &mut rng);
        a.forward(Noise::draw(&shape(), 5, &mut rng));
        let mut b = Generator::<f32>::new(shape(), &mut rng);
        let weights = a.weights();
        assert!(b.set_weights(&weights) && b.weights() == weights);
        assert!(!b.set_weights(&weights[1..]));
        let mut bad = weights;
        bad[0] = f32::NAN;
        assert!(!b.set_weights(&bad));
    }
}
