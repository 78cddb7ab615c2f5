use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Zip};
use rand::RngCore;

use crate::layer::{add_sums, cut, cut_mut, spread};
use crate::{Parameter, Real};

/// Long short-term memory (Hochreiter and Schmidhuber 1997; with a forget gate, Gers and others 2000), the whole sequence in one
/// operation.
///
/// Gates in blocks of `units` rows, in this order: input, forget, cell, output. The forget gate's bias starts at 1.
#[derive(Clone, Debug)]
pub struct Lstm<T> {
    /// `4 units x inputs`.
    pub weights: Parameter<T>,
    /// `4 units x units`.
    pub recurrent: Parameter<T>,
    /// `4 units x 1`.
    pub bias: Parameter<T>,
    reverse: bool,
    /// Hidden state and cell before the first step; `None`: zeros.
    start: Option<[Array2<T>; 2]>,
    x: Array2<T>,
    /// Gates after their nonlinearity, `4 units x columns`.
    gates: Array2<T>,
    cell: Array2<T>,
    /// Hyperbolic tangent of the cell.
    shown: Array2<T>,
    hidden: Array2<T>,
}

/// Where column ranges of steps stand, in the order in which they are computed, with the step before.
fn order(columns: usize, batch: usize, reverse: bool) -> Vec<(usize, Option<usize>)> {
    let steps = columns / batch.max(1);
    (0..steps)
        .map(|k| {
            let at = |k: usize| if reverse { steps - 1 - k } else { k } * batch;
            (at(k), k.checked_sub(1).map(at))
        })
        .collect()
}

impl<T: Real> Lstm<T> {
    /// Input weights after Glorot, recurrent ones orthogonal gate by gate. `reverse` runs against time.
    pub fn new(inputs: usize, units: usize, reverse: bool, rng: &mut dyn RngCore) -> Self {
        let mut bias = Parameter::zeros(4 * units, 1);
        cut_mut(bias.value.view_mut(), units..2 * units, ..).fill(T::one());
        let empty = || Array2::zeros((0, 0));
        Self {
            weights: Parameter::glorot(4 * units, inputs, rng),
            recurrent: Parameter::orthogonal(4, units, rng),
            bias,
            reverse,
            start: None,
            x: empty(),
            gates: empty(),
            cell: empty(),
            shown: empty(),
            hidden: empty(),
        }
    }

    pub(crate) fn columns(&self) -> usize {
        self.x.ncols()
    }

    /// The hidden state at every step, `units x columns`, in order of time also when it runs against it.
    pub fn forward(&mut self, x: Array2<T>, batch: usize) -> Array2<T> {
        self.forward_from(x, batch, None)
    }

    /// As [`Lstm::forward`], from a hidden state and a cell (`units x batch` each), which get no gradient.
    pub fn forward_from(
        &mut self,
        x: Array2<T>,
        batch: usize,
        start: Option<[Array2<T>; 2]>,
    ) -> Array2<T> {
        self.start = start;
        let units = self.recurrent.value.ncols();
        let n = x.ncols();
        let mut gates = spread(&self.bias.value, n);
        general_mat_mul(T::one(), &self.weights.value, &x, T::one(), &mut gates);
        let zeros = || Array2::<T>::zeros((units, n));
        let (mut cell, mut shown, mut hidden) = (zeros(), zeros(), zeros());
        for (at, before) in order(n, batch, self.reverse) {
            let past = match (before, &self.start) {
                (Some(b), _) => Some([
                    cut(hidden.view(), .., b..b + batch),
                    cut(cell.view(), .., b..b + batch),
                ]),
                (None, Some([h, c])) => Some([h.view(), c.view()]),
                (None, None) => None,
            };
            if let Some([h, _]) = &past {
                let mut z = cut_mut(gates.view_mut(), .., at..at + batch);
                general_mat_mul(T::one(), &self.recurrent.value, h, T::one(), &mut z);
            }
            let now = || at..at + batch;
            let mut bend = |from: usize, to: usize, f: fn(T) -> T| {
                let rows = from * units..to * units;
                cut_mut(gates.view_mut(), rows, now()).mapv_inplace(f);
            };
            bend(0, 2, sigmoid);
            bend(2, 3, tanh);
            bend(3, 4, sigmoid);
            let gate = |g: usize| cut(gates.view(), g * units..(g + 1) * units, now());
            let (i, f, g, o) = (gate(0), gate(1), gate(2), gate(3));
            let mut c = &i * &g;
            if let Some([_, past]) = &past {
                Zip::from(&mut c)
                    .and(&f)
                    .and(past)
                    .for_each(|c, f, p| *c += *f * *p);
            }
            cut_mut(cell.view_mut(), .., now()).assign(&c);
            c.mapv_inplace(tanh);
            cut_mut(shown.view_mut(), .., now()).assign(&c);
            cut_mut(hidden.view_mut(), .., now()).assign(&(&c * &o));
        }
        self.x = x;
        self.gates = gates;
        self.cell = cell;
        self.shown = shown;
        self.hidden.clone_from(&hidden);
        hidden
    }

    /// Adds to the gradients; gives the derivative by the input of the last [`Lstm::forward`].
    pub fn backward(&mut self, mut dh: Array2<T>, batch: usize) -> Array2<T> {
        let units = self.recurrent.value.ncols();
        let n = self.x.ncols();
        let one = T::one();
        let mut dz = Array2::<T>::zeros((4 * units, n));
        // Derivative by the cell, carried back from the step after.
        let mut carry = Array2::<T>::zeros((units, batch));
        for (at, before) in order(n, batch, self.reverse).into_iter().rev() {
            let now = || at..at + batch;
            let gate = |g: usize| cut(self.gates.view(), g * units..(g + 1) * units, now());
            let (i, f, g, o) = (gate(0), gate(1), gate(2), gate(3));
            let shown = cut(self.shown.view(), .., now());
            let d = cut(dh.view(), .., now());
            Zip::from(&mut carry)
                .and(&d)
                .and(&o)
                .and(&shown)
                .for_each(|c, d, o, s| *c += *d * *o * (one - *s * *s));
            // Derivative by what enters gate k: that by the gate's value, `a * b`, bent back.
            let mut put =
                |k: usize, a: ArrayView2<'_, T>, b: ArrayView2<'_, T>, v: ArrayView2<'_, T>| {
                    let rows = k * units..(k + 1) * units;
                    let z = cut_mut(dz.view_mut(), rows, now());
                    Zip::from(z).and(&a).and(&b).and(&v).for_each(|z, a, b, v| {
                        *z = *a
                            * *b
                            * if k == 2 {
                                one - *v * *v
                            } else {
                                *v * (one - *v)
                            };
                    });
                };
            put(0, carry.view(), g, i);
            match (before, &self.start) {
                (Some(b), _) => put(1, carry.view(), cut(self.cell.view(), .., b..b + batch), f),
                (None, Some([_, c])) => put(1, carry.view(), c.view(), f),
                (None, None) => {}
            }
            put(2, carry.view(), i, g);
            put(3, d, shown, o);
            carry.zip_mut_with(&f, |c, f| *c = *c * *f);
            if let Some(b) = before {
                let z = cut(dz.view(), .., at..at + batch);
                let mut past = cut_mut(dh.view_mut(), .., b..b + batch);
                general_mat_mul(one, &self.recurrent.value.t(), &z, one, &mut past);
                let h = cut(self.hidden.view(), .., b..b + batch);
                general_mat_mul(one, &z, &h.t(), one, &mut self.recurrent.gradient);
            } else if let Some([h, _]) = &self.start {
                let z = cut(dz.view(), .., at..at + batch);
                general_mat_mul(one, &z, &h.t(), one, &mut self.recurrent.gradient);
            }
        }
        general_mat_mul(one, &dz, &self.x.t(), one, &mut self.weights.gradient);
        add_sums(&mut self.bias.gradient, dz.view());
        self.weights.value.t().dot(&dz)
    }
}

/// A gated recurrent unit (Cho and others 2014) whose reset gate acts after the recurrent product.
///
/// Gates in blocks of `units` rows, in this order: update, reset, candidate.
#[derive(Clone, Debug)]
pub struct Gru<T> {
    /// `3 units x inputs`.
    pub weights: Parameter<T>,
    /// `3 units x units`.
    pub recurrent: Parameter<T>,
    /// `3 units x 1`, added to the input's part.
    pub bias: Parameter<T>,
    /// `3 units x 1`, added to the recurrent part.
    pub recurrent_bias: Parameter<T>,
    x: Array2<T>,
    /// Update, reset and candidate after their nonlinearity.
    gates: Array2<T>,
    /// The candidate's recurrent part, before the reset gate.
    candidate: Array2<T>,
    hidden: Array2<T>,
}

impl<T: Real> Gru<T> {
    /// Input weights after Glorot, recurrent ones with orthonormal columns, biases zero.
    pub fn new(inputs: usize, units: usize, rng: &mut dyn RngCore) -> Self {
        let empty = || Array2::zeros((0, 0));
        Self {
            weights: Parameter::glorot(3 * units, inputs, rng),
            recurrent: Parameter::orthonormal(3 * units, units, rng),
            bias: Parameter::zeros(3 * units, 1),
            recurrent_bias: Parameter::zeros(3 * units, 1),
            x: empty(),
            gates: empty(),
            candidate: empty(),
            hidden: empty(),
        }
    }

    pub(crate) fn columns(&self) -> usize {
        self.x.ncols()
    }

    /// The hidden state at every step, `units x columns`.
    pub fn forward(&mut self, x: Array2<T>, batch: usize) -> Array2<T> {
        let units = self.recurrent.value.ncols();
        let n = x.ncols();
        let mut gates = spread(&self.bias.value, n);
        general_mat_mul(T::one(), &self.weights.value, &x, T::one(), &mut gates);
        let mut candidate = Array2::<T>::zeros((units, n));
        let mut hidden = Array2::<T>::zeros((units, n));
        for (at, before) in order(n, batch, false) {
            let mut past = spread(&self.recurrent_bias.value, batch);
            if let Some(b) = before {
                let h = cut(hidden.view(), .., b..b + batch);
                general_mat_mul(T::one(), &self.recurrent.value, &h, T::one(), &mut past);
            }
            let now = || at..at + batch;
            let mut z = cut_mut(gates.view_mut(), .., now());
            let mut open = cut_mut(z.view_mut(), ..2 * units, ..);
            open += &cut(past.view(), ..2 * units, ..);
            open.mapv_inplace(sigmoid);
            cut_mut(candidate.view_mut(), .., now()).assign(&cut(past.view(), 2 * units.., ..));
            let (open, mut tail) = z.split_at(ndarray::Axis(0), 2 * units);
            let reset = cut(open.view(), units.., ..);
            Zip::from(&mut tail)
                .and(&reset)
                .and(&cut(candidate.view(), .., now()))
                .for_each(|c, r, p| *c = tanh(*c + *r * *p));
            let update = cut(open.view(), ..units, ..);
            let old = match before {
                Some(b) => cut(hidden.view(), .., b..b + batch).to_owned(),
                None => Array2::zeros((units, batch)),
            };
            Zip::from(cut_mut(hidden.view_mut(), .., now()))
                .and(&update)
                .and(&tail)
                .and(&old)
                .for_each(|h, z, c, o| *h = *z * *o + (T::one() - *z) * *c);
        }
        self.x = x;
        self.gates = gates;
        self.candidate = candidate;
        self.hidden.clone_from(&hidden);
        hidden
    }

    /// Adds to the gradients; gives the derivative by the input of the last [`Gru::forward`].
    pub fn backward(&mut self, mut dh: Array2<T>, batch: usize) -> Array2<T> {
        let units = self.recurrent.value.ncols();
        let n = self.x.ncols();
        let one = T::one();
        let mut dz = Array2::<T>::zeros((3 * units, n));
        for (at, before) in order(n, batch, false).into_iter().rev() {
            let now = || at..at + batch;
            let old = match before {
                Some(b) => cut(self.hidden.view(), .., b..b + batch).to_owned(),
                None => Array2::zeros((units, batch)),
            };
            let gate = |g: usize| {
                cut(
                    self.gates.view(),
                    g * units..(g + 1) * units,
                    at..at + batch,
                )
            };
            let (z, r, c) = (gate(0), gate(1), gate(2));
            let d = cut(dh.view(), .., now()).to_owned();
            // Before the nonlinearities: update, candidate, reset.
            let du = Zip::from(&d)
                .and(&z)
                .and(&c)
                .and(&old)
                .map_collect(|d, z, c, o| *d * (*o - *c) * *z * (one - *z));
            let dc = Zip::from(&d)
                .and(&z)
                .and(&c)
                .map_collect(|d, z, c| *d * (one - *z) * (one - *c * *c));
            let dr = Zip::from(&dc)
                .and(&r)
                .and(&cut(self.candidate.view(), .., now()))
                .map_collect(|d, r, p| *d * *p * *r * (one - *r));
            // By the recurrent part.
            let mut dp = Array2::zeros((3 * units, batch));
            cut_mut(dp.view_mut(), ..units, ..).assign(&du);
            cut_mut(dp.view_mut(), units..2 * units, ..).assign(&dr);
            cut_mut(dp.view_mut(), 2 * units.., ..).assign(&(&dc * &r));
            add_sums(&mut self.recurrent_bias.gradient, dp.view());
            if let Some(b) = before {
                general_mat_mul(one, &dp, &old.t(), one, &mut self.recurrent.gradient);
                let mut past = cut_mut(dh.view_mut(), .., b..b + batch);
                general_mat_mul(one, &self.recurrent.value.t(), &dp, one, &mut past);
                past += &(&d * &z);
            }
            let mut dx = cut_mut(dz.view_mut(), .., now());
            dx.assign(&dp);
            cut_mut(dx.view_mut(), 2 * units.., ..).assign(&dc);
        }
        general_mat_mul(one, &dz, &self.x.t(), one, &mut self.weights.gradient);
        add_sums(&mut self.bias.gradient, dz.view());
        self.weights.value.t().dot(&dz)
    }
}

fn sigmoid<T: Real>(x: T) -> T {
    x.sigmoid()
}

fn tanh<T: Real>(x: T) -> T {
    x.tanh()
}
