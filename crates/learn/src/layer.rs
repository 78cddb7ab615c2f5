use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Slice};
use rand::{Rng, RngCore};

use crate::recurrent::{Gru, Lstm};
use crate::{Optimizer, Real};

/// Numbers that are learned, with their gradient and the optimizer's moments.
#[derive(Clone, Debug)]
pub struct Parameter<T> {
    /// `outputs x inputs`, or `outputs x 1`.
    pub value: Array2<T>,
    /// Derivative of the loss, summed since the last step.
    pub gradient: Array2<T>,
    /// Weight of the penalty: this times the sum of squares is added to the loss.
    pub penalty: f64,
    first: Array2<T>,
    second: Array2<T>,
}

impl<T: Real> Parameter<T> {
    /// Starts from these numbers.
    pub fn new(value: Array2<T>) -> Self {
        let zero = Array2::zeros(value.raw_dim());
        Self {
            value,
            gradient: zero.clone(),
            penalty: 0.0,
            first: zero.clone(),
            second: zero,
        }
    }

    /// Uniform in `±sqrt(6 / (inputs + outputs))` (Glorot and Bengio 2010).
    pub fn glorot(outputs: usize, inputs: usize, rng: &mut dyn RngCore) -> Self {
        let bound = (6.0 / (inputs + outputs) as f64).sqrt();
        Self::new(Array2::from_shape_simple_fn((outputs, inputs), || {
            T::of((2.0 * rng.random::<f64>() - 1.0) * bound)
        }))
    }

    /// Zeros.
    pub fn zeros(outputs: usize, inputs: usize) -> Self {
        Self::new(Array2::zeros((outputs, inputs)))
    }

    /// `count` orthogonal square blocks of random numbers, one below the other (Saxe and others 2014).
    pub(crate) fn orthogonal(count: usize, size: usize, rng: &mut dyn RngCore) -> Self {
        let mut value = Array2::zeros((count * size, size));
        for block in 0..count {
            for (i, row) in basis(size, size, rng).iter().enumerate() {
                for (j, x) in row.iter().enumerate() {
                    value[[block * size + i, j]] = T::of(*x);
                }
            }
        }
        Self::new(value)
    }

    /// Orthonormal columns, uniformly distributed (Saxe and others 2014); at least as many rows as columns.
    pub(crate) fn orthonormal(rows: usize, columns: usize, rng: &mut dyn RngCore) -> Self {
        let mut value = Array2::zeros((rows, columns));
        for (mut column, numbers) in value
            .columns_mut()
            .into_iter()
            .zip(basis(columns, rows, rng))
        {
            for (to, x) in column.iter_mut().zip(numbers) {
                *to = T::of(x);
            }
        }
        Self::new(value)
    }

    /// Sets the optimizer's moments to zero.
    pub fn forget(&mut self) {
        self.first.fill(T::zero());
        self.second.fill(T::zero());
    }

    pub(crate) fn penalty(&self) -> f64 {
        if self.penalty == 0.0 {
            return 0.0;
        }
        self.penalty * self.value.iter().map(|x| x.f64() * x.f64()).sum::<f64>()
    }

    /// The numbers and the optimizer's two moments: all that later steps depend on.
    pub fn parts_mut(&mut self) -> [&mut Array2<T>; 3] {
        [&mut self.value, &mut self.first, &mut self.second]
    }

    /// One step down the gradient, which becomes zero. [`Optimizer::advance`] comes before.
    pub fn step(&mut self, how: &Optimizer) {
        let c = how.coefficients();
        let t = T::of;
        let (b1, epsilon) = how.betas();
        let (beta1, beta2) = (t(b1), t(Optimizer::BETA2));
        let (own1, own2) = (t(1.0 - b1), t(1.0 - Optimizer::BETA2));
        let (now, past, second, rate) = (t(c.gradient), t(c.momentum), t(c.second), t(how.rate));
        let (epsilon, penalty) = (t(epsilon), t(2.0 * self.penalty));
        ndarray::Zip::from(&mut self.value)
            .and(&mut self.gradient)
            .and(&mut self.first)
            .and(&mut self.second)
            .for_each(|p, g, m, v| {
                let d = *g + penalty * *p;
                *m = beta1 * *m + own1 * d;
                *v = beta2 * *v + own2 * d * d;
                let root = (*v * second).sqrt() + epsilon;
                *p = *p - rate * (past * *m + now * d) / root;
                *g = T::zero();
            });
    }
}

/// `count` orthonormal vectors of `length` numbers, by Gram and Schmidt's method; `count` is at most `length`.
fn basis(count: usize, length: usize, rng: &mut dyn RngCore) -> Vec<Vec<f64>> {
    let mut out: Vec<Vec<f64>> = Vec::new();
    while out.len() < count.min(length) {
        let mut v: Vec<f64> = (0..length).map(|_| normal(rng)).collect();
        for r in &out {
            let dot: f64 = v.iter().zip(r).map(|(a, b)| a * b).sum();
            v.iter_mut().zip(r).for_each(|(a, b)| *a -= dot * b);
        }
        let norm = v.iter().map(|a| a * a).sum::<f64>().sqrt();
        if norm > 1e-6 {
            out.push(v.into_iter().map(|a| a / norm).collect());
        }
    }
    out
}

/// Standard normal, by Box and Muller (1958).
pub fn normal(rng: &mut dyn RngCore) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// What follows the sum of a dense layer or a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// Hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl Activation {
    fn apply<T: Real>(self, y: &mut Array2<T>) {
        match self {
            Self::None => {}
            Self::Tanh => y.mapv_inplace(Real::tanh),
            Self::Relu => y.mapv_inplace(|x| if x > T::zero() { x } else { T::zero() }),
            Self::Sigmoid => y.mapv_inplace(Real::sigmoid),
        }
    }

    /// Multiplies by the derivative, which is a function of the result.
    fn pull<T: Real>(self, dy: &mut Array2<T>, y: &Array2<T>) {
        let one = T::one();
        match self {
            Self::None => {}
            Self::Tanh => dy.zip_mut_with(y, |d, y| *d = *d * (one - *y * *y)),
            Self::Relu => dy.zip_mut_with(y, |d, y| {
                if *y <= T::zero() {
                    *d = T::zero();
                }
            }),
            Self::Sigmoid => dy.zip_mut_with(y, |d, y| *d = *d * *y * (one - *y)),
        }
    }
}

/// `activation(weights * x + bias)` for each column.
#[derive(Clone, Debug)]
pub struct Dense<T> {
    /// `outputs x inputs`.
    pub weights: Parameter<T>,
    /// `outputs x 1`.
    pub bias: Parameter<T>,
    /// What follows.
    pub activation: Activation,
    x: Array2<T>,
    y: Array2<T>,
}

impl<T: Real> Dense<T> {
    /// Weights after Glorot, bias zero.
    pub fn new(
        inputs: usize,
        outputs: usize,
        activation: Activation,
        rng: &mut dyn RngCore,
    ) -> Self {
        Self {
            weights: Parameter::glorot(outputs, inputs, rng),
            bias: Parameter::zeros(outputs, 1),
            activation,
            x: Array2::zeros((0, 0)),
            y: Array2::zeros((0, 0)),
        }
    }

    /// Result for `inputs x columns`.
    pub fn forward(&mut self, x: Array2<T>) -> Array2<T> {
        let mut y = spread(&self.bias.value, x.ncols());
        general_mat_mul(T::one(), &self.weights.value, &x, T::one(), &mut y);
        self.activation.apply(&mut y);
        self.x = x;
        self.y.clone_from(&y);
        y
    }

    /// Adds to the gradients; gives the derivative by the input of the last [`Dense::forward`].
    pub fn backward(&mut self, mut dy: Array2<T>) -> Array2<T> {
        self.activation.pull(&mut dy, &self.y);
        general_mat_mul(
            T::one(),
            &dy,
            &self.x.t(),
            T::one(),
            &mut self.weights.gradient,
        );
        add_sums(&mut self.bias.gradient, dy.view());
        self.weights.value.t().dot(&dy)
    }
}

/// A convolution over time without padding: step `t` of the result sees steps `t` to `t + taps - 1`.
#[derive(Clone, Debug)]
pub struct Conv1d<T> {
    /// One `outputs x inputs` matrix a tap, side by side: `outputs x (taps * inputs)`.
    pub weights: Parameter<T>,
    /// `outputs x 1`.
    pub bias: Parameter<T>,
    /// Steps seen.
    pub taps: usize,
    /// What follows.
    pub activation: Activation,
    x: Array2<T>,
    y: Array2<T>,
}

impl<T: Real> Conv1d<T> {
    fn forward(&mut self, x: Array2<T>, batch: usize) -> Array2<T> {
        let columns = (x.ncols() / batch + 1).saturating_sub(self.taps) * batch;
        let mut y = spread(&self.bias.value, columns);
        let inputs = x.nrows();
        for k in 0..self.taps {
            let w = cut(self.weights.value.view(), .., k * inputs..(k + 1) * inputs);
            let part = cut(x.view(), .., k * batch..k * batch + columns);
            general_mat_mul(T::one(), &w, &part, T::one(), &mut y);
        }
        self.activation.apply(&mut y);
        self.x = x;
        self.y.clone_from(&y);
        y
    }

    fn backward(&mut self, mut dy: Array2<T>, batch: usize) -> Array2<T> {
        self.activation.pull(&mut dy, &self.y);
        add_sums(&mut self.bias.gradient, dy.view());
        let inputs = self.x.nrows();
        let mut dx = Array2::zeros(self.x.raw_dim());
        for k in 0..self.taps {
            let place = || k * inputs..(k + 1) * inputs;
            let columns = || k * batch..k * batch + dy.ncols();
            let part = cut(self.x.view(), .., columns());
            let mut dw = cut_mut(self.weights.gradient.view_mut(), .., place());
            general_mat_mul(T::one(), &dy, &part.t(), T::one(), &mut dw);
            let w = cut(self.weights.value.view(), .., place());
            let mut dx = cut_mut(dx.view_mut(), .., columns());
            general_mat_mul(T::one(), &w.t(), &dy, T::one(), &mut dx);
        }
        dx
    }
}

/// A part of a matrix.
pub fn cut<T>(
    mut of: ArrayView2<'_, T>,
    rows: impl Into<Slice>,
    columns: impl Into<Slice>,
) -> ArrayView2<'_, T> {
    of.slice_axis_inplace(Axis(0), rows.into());
    of.slice_axis_inplace(Axis(1), columns.into());
    of
}

/// A part of a matrix, to be changed.
pub fn cut_mut<T>(
    mut of: ArrayViewMut2<'_, T>,
    rows: impl Into<Slice>,
    columns: impl Into<Slice>,
) -> ArrayViewMut2<'_, T> {
    of.slice_axis_inplace(Axis(0), rows.into());
    of.slice_axis_inplace(Axis(1), columns.into());
    of
}

/// A column repeated.
pub(crate) fn spread<T: Real>(column: &Array2<T>, columns: usize) -> Array2<T> {
    let mut y = Array2::zeros((column.nrows(), columns));
    for (mut row, x) in y.outer_iter_mut().zip(column) {
        row.fill(*x);
    }
    y
}

/// Adds the sum of each row.
pub(crate) fn add_sums<T: Real>(sums: &mut Array2<T>, of: ArrayView2<'_, T>) {
    for (sum, row) in sums.iter_mut().zip(of.outer_iter()) {
        *sum += row.sum();
    }
}

/// One layer.
#[derive(Clone, Debug)]
pub enum Layer<T> {
    /// On each column, so also on each step of a sequence.
    Dense(Box<Dense<T>>),
    /// Two LSTMs, one against time; their results one below the other. With `false` only where each of them ends.
    BiLstm(Box<[Lstm<T>; 2]>, bool),
    /// A GRU; with `false` only its last step.
    Gru(Box<Gru<T>>, bool),
    /// A convolution over time.
    Conv1d(Box<Conv1d<T>>),
    /// The larger one of every two steps; an odd last step is dropped.
    MaxPool(Array2<bool>),
    /// All steps of a sequence one below the other, `steps * features x batch`.
    Flatten,
    /// Appends the sample's extra number (the silence before a window) as the last row.
    Extra,
    /// While training, sets this share of the numbers to zero and scales up the others.
    Dropout(f64, Array2<T>),
}

impl<T: Real> Layer<T> {
    /// [`Dense`].
    pub fn dense(
        inputs: usize,
        outputs: usize,
        activation: Activation,
        rng: &mut dyn RngCore,
    ) -> Self {
        Self::Dense(Box::new(Dense::new(inputs, outputs, activation, rng)))
    }

    /// A pair of [`Lstm`]s with `units` each, `2 * units` rows. `penalty` is that of their input weights. The recurrent weights of all
    /// gates together start with orthonormal columns, as in Keras.
    pub fn bi_lstm(
        inputs: usize,
        units: usize,
        sequence: bool,
        penalty: f64,
        rng: &mut dyn RngCore,
    ) -> Self {
        let mut pair = [
            Lstm::new(inputs, units, false, rng),
            Lstm::new(inputs, units, true, rng),
        ];
        for l in &mut pair {
            l.weights.penalty = penalty;
            l.recurrent = Parameter::orthonormal(4 * units, units, rng);
        }
        Self::BiLstm(Box::new(pair), sequence)
    }

    /// [`Gru`].
    pub fn gru(
        inputs: usize,
        units: usize,
        sequence: bool,
        penalty: f64,
        rng: &mut dyn RngCore,
    ) -> Self {
        let mut gru = Gru::new(inputs, units, rng);
        gru.weights.penalty = penalty;
        Self::Gru(Box::new(gru), sequence)
    }

    /// [`Conv1d`] with rectifiers.
    pub fn conv(inputs: usize, outputs: usize, taps: usize, rng: &mut dyn RngCore) -> Self {
        let bound = (6.0 / (taps * (inputs + outputs)) as f64).sqrt();
        let weights = Array2::from_shape_simple_fn((outputs, taps * inputs), || {
            T::of((2.0 * rng.random::<f64>() - 1.0) * bound)
        });
        Self::Conv1d(Box::new(Conv1d {
            weights: Parameter::new(weights),
            bias: Parameter::zeros(outputs, 1),
            taps,
            activation: Activation::Relu,
            x: Array2::zeros((0, 0)),
            y: Array2::zeros((0, 0)),
        }))
    }

    /// Pooling by twos.
    pub fn max_pool() -> Self {
        Self::MaxPool(Array2::default((0, 0)))
    }

    /// Dropout of this share, 0 to below 1.
    pub fn dropout(share: f64) -> Self {
        Self::Dropout(share.clamp(0.0, 0.99), Array2::zeros((0, 0)))
    }

    pub(crate) fn forward(
        &mut self,
        x: Array2<T>,
        extra: &[T],
        rng: Option<&mut dyn RngCore>,
    ) -> Array2<T> {
        let batch = extra.len();
        match self {
            Self::Dense(d) => d.forward(x),
            Self::BiLstm(pair, sequence) => {
                let [forth, back] = pair.as_mut();
                let back = back.forward(x.clone(), batch);
                let forth = forth.forward(x, batch);
                let n = forth.ncols();
                let both = if *sequence {
                    [forth.view(), back.view()]
                } else {
                    [
                        cut(forth.view(), .., n - batch..),
                        cut(back.view(), .., ..batch),
                    ]
                };
                stack(&both)
            }
            Self::Gru(gru, sequence) => {
                let h = gru.forward(x, batch);
                let n = h.ncols();
                if *sequence {
                    h
                } else {
                    cut(h.view(), .., n - batch..).to_owned()
                }
            }
            Self::Conv1d(c) => c.forward(x, batch),
            Self::MaxPool(first) => {
                let steps = x.ncols() / batch / 2;
                *first = Array2::default(x.raw_dim());
                let mut y = Array2::zeros((x.nrows(), steps * batch));
                for ((i, j), y) in y.indexed_iter_mut() {
                    let at = j / batch * 2 * batch + j % batch;
                    let (a, b) = (x[[i, at]], x[[i, at + batch]]);
                    first[[i, at]] = a >= b;
                    *y = if a >= b { a } else { b };
                }
                y
            }
            Self::Flatten => {
                let (f, steps) = (x.nrows(), x.ncols() / batch);
                Array2::from_shape_fn((steps * f, batch), |(i, b)| x[[i % f, i / f * batch + b]])
            }
            Self::Extra => {
                let row = ArrayView2::from_shape((1, batch), extra);
                match row {
                    Ok(row) => stack(&[x.view(), row]),
                    Err(_) => x,
                }
            }
            Self::Dropout(share, mask) => {
                let Some(rng) = rng else {
                    *mask = Array2::zeros((0, 0));
                    return x;
                };
                let keep = T::of(1.0 / (1.0 - *share));
                *mask = Array2::from_shape_simple_fn(x.raw_dim(), || {
                    if rng.random::<f64>() < *share {
                        T::zero()
                    } else {
                        keep
                    }
                });
                x * &*mask
            }
        }
    }

    pub(crate) fn backward(&mut self, dy: Array2<T>, batch: usize) -> Array2<T> {
        match self {
            Self::Dense(d) => d.backward(dy),
            Self::BiLstm(pair, sequence) => {
                let h = dy.nrows() / 2;
                let [forth, back] = pair.as_mut();
                let halves = [cut(dy.view(), ..h, ..), cut(dy.view(), h.., ..)];
                let full = |half: ArrayView2<'_, T>, columns: usize, last: bool| {
                    if *sequence {
                        return half.to_owned();
                    }
                    let mut out = Array2::zeros((h, columns));
                    let from = if last { columns - batch } else { 0 };
                    cut_mut(out.view_mut(), .., from..from + batch).assign(&half);
                    out
                };
                let columns = forth.columns();
                let dx = forth.backward(full(halves[0], columns, true), batch);
                dx + back.backward(full(halves[1], columns, false), batch)
            }
            Self::Gru(gru, sequence) => {
                if *sequence {
                    return gru.backward(dy, batch);
                }
                let columns = gru.columns();
                let mut full = Array2::zeros((dy.nrows(), columns));
                cut_mut(full.view_mut(), .., columns - batch..).assign(&dy);
                gru.backward(full, batch)
            }
            Self::Conv1d(c) => c.backward(dy, batch),
            Self::MaxPool(first) => {
                let mut dx = Array2::zeros(first.raw_dim());
                for ((i, j), d) in dy.indexed_iter() {
                    let at = j / batch * 2 * batch + j % batch;
                    let at = if first[[i, at]] { at } else { at + batch };
                    dx[[i, at]] = *d;
                }
                dx
            }
            // Without the number of features the shape is found by the caller; see `Network`.
            Self::Flatten => dy,
            Self::Extra => cut(dy.view(), ..dy.nrows() - 1, ..).to_owned(),
            Self::Dropout(_, mask) => {
                if mask.is_empty() {
                    dy
                } else {
                    dy * &*mask
                }
            }
        }
    }

    pub(crate) fn parameters(&mut self) -> Vec<&mut Parameter<T>> {
        match self {
            Self::Dense(d) => vec![&mut d.weights, &mut d.bias],
            Self::BiLstm(pair, _) => pair
                .iter_mut()
                .flat_map(|l| [&mut l.weights, &mut l.recurrent, &mut l.bias])
                .collect(),
            Self::Gru(g, _) => vec![
                &mut g.weights,
                &mut g.recurrent,
                &mut g.bias,
                &mut g.recurrent_bias,
            ],
            Self::Conv1d(c) => vec![&mut c.weights, &mut c.bias],
            Self::MaxPool(_) | Self::Flatten | Self::Extra | Self::Dropout(..) => Vec::new(),
        }
    }
}

fn stack<T: Real>(parts: &[ArrayView2<'_, T>]) -> Array2<T> {
    let rows = parts.iter().map(|p| p.nrows()).sum();
    let columns = parts.first().map_or(0, |p| p.ncols());
    let mut out = Array2::zeros((rows, columns));
    let mut at = 0;
    for p in parts {
        cut_mut(out.view_mut(), at..at + p.nrows(), ..).assign(p);
        at += p.nrows();
    }
    out
}
