use chaff_onnx::{Cell, Graph, Recurrent, Value};
use ndarray::Array2;

use crate::{Activation, Dense, Gru, Layer, Lstm, Network, Real};

impl<T: Real> Network<T> {
    /// The graph for one window: inputs `slots` (`1 x steps x values`) and, where a layer takes it, `silence` (`1 x 1`);
    /// output `probability` (`1 x classes`).
    pub fn to_graph(&self, name: &str, values: usize, classes: usize) -> Graph {
        let mut g = Graph::new(name);
        let mut x = g.input("slots", &[1, self.steps(), values]);
        // x is a matrix `steps x features`, one row once the sequence has ended.
        let (mut steps, mut features) = (self.steps(), values);
        x = g.reshape(&x, &[steps, features]);
        for layer in &self.layers {
            match layer {
                Layer::Dense(d) => {
                    x = dense(&mut g, &x, d);
                    features = d.bias.value.nrows();
                }
                Layer::BiLstm(pair, all) => {
                    let layer = lstm(pair, features);
                    let input = g.reshape(&x, &[steps, 1, features]);
                    let y = g.recurrent(&input, &layer, *all);
                    features = 2 * layer.units;
                    steps = if *all { steps } else { 1 };
                    x = g.reshape(&y, &[steps, features]);
                }
                Layer::Gru(gru, all) => {
                    let layer = gated(gru, features);
                    let input = g.reshape(&x, &[steps, 1, features]);
                    let y = g.recurrent(&input, &layer, *all);
                    features = layer.units;
                    steps = if *all { steps } else { 1 };
                    x = g.reshape(&y, &[steps, features]);
                }
                Layer::Conv1d(c) => {
                    let outputs = c.bias.value.nrows();
                    let tapped: Vec<f32> = (0..outputs * features * c.taps)
                        .map(|i| {
                            let (o, f, k) =
                                (i / (features * c.taps), i / c.taps % features, i % c.taps);
                            single(c.weights.value[[o, k * features + f]])
                        })
                        .collect();
                    let w = g.constant(&[outputs, features, c.taps], &tapped);
                    let b = g.constant(&[outputs], &numbers(&c.bias.value));
                    let input = channels_first(&mut g, &x, steps, features);
                    let y = g.conv(&input, &w, &b, c.taps);
                    (steps, features) = (steps + 1 - c.taps, outputs);
                    let y = activate(&mut g, y, c.activation);
                    x = steps_first(&mut g, &y, steps, features);
                }
                Layer::MaxPool(_) => {
                    let input = channels_first(&mut g, &x, steps, features);
                    let y = g.max_pool(&input, 2);
                    steps /= 2;
                    x = steps_first(&mut g, &y, steps, features);
                }
                Layer::Flatten => {
                    features *= steps;
                    steps = 1;
                    x = g.reshape(&x, &[1, features]);
                }
                Layer::Extra => {
                    let silence = g.input("silence", &[1, 1]);
                    x = g.concat(&[&x, &silence], 1);
                    features += 1;
                }
                Layer::Dropout(..) => {}
            }
        }
        let p = g.softmax(&x, -1);
        g.output("probability", &p, &[1, classes]);
        g
    }
}

/// `1 x features x steps` from `steps x features`.
fn channels_first(g: &mut Graph, x: &Value, steps: usize, features: usize) -> Value {
    let x = g.reshape(x, &[1, steps, features]);
    g.transpose(&x, &[0, 2, 1])
}

/// `steps x features` from `1 x features x steps`.
fn steps_first(g: &mut Graph, x: &Value, steps: usize, features: usize) -> Value {
    let x = g.transpose(x, &[0, 2, 1]);
    g.reshape(&x, &[steps, features])
}

fn activate(g: &mut Graph, x: Value, activation: Activation) -> Value {
    match activation {
        Activation::None => x,
        Activation::Tanh => g.tanh(&x),
        Activation::Relu => g.relu(&x),
        Activation::Sigmoid => g.sigmoid(&x),
    }
}

fn dense<T: Real>(g: &mut Graph, x: &Value, d: &Dense<T>) -> Value {
    let (outputs, inputs) = d.weights.value.dim();
    let transposed = d.weights.value.t().to_owned();
    let w = g.constant(&[inputs, outputs], &numbers(&transposed));
    let b = g.constant(&[outputs], &numbers(&d.bias.value));
    let y = g.gemm(x, &w, &b);
    activate(g, y, d.activation)
}

/// ONNX's order of gates is input, output, forget, cell; ours input, forget, cell, output.
fn lstm<T: Real>(pair: &[Lstm<T>; 2], inputs: usize) -> Recurrent {
    const ORDER: [usize; 4] = [0, 3, 1, 2];
    let units = pair[0].recurrent.value.ncols();
    let blocks = |of: &Array2<T>| -> Vec<f32> {
        let rows = |g: usize| of.outer_iter().skip(g * units).take(units);
        ORDER
            .iter()
            .flat_map(|&g| rows(g).flat_map(|r| r.iter().map(|v| single(*v)).collect::<Vec<_>>()))
            .collect()
    };
    let both =
        |part: fn(&Lstm<T>) -> &Array2<T>| pair.iter().flat_map(|l| blocks(part(l))).collect();
    Recurrent {
        cell: Cell::Lstm,
        directions: 2,
        inputs,
        units,
        weights: both(|l| &l.weights.value),
        recurrent: both(|l| &l.recurrent.value),
        biases: pair
            .iter()
            .flat_map(|l| {
                let mut b = blocks(&l.bias.value);
                b.resize(8 * units, 0.0);
                b
            })
            .collect(),
    }
}

fn gated<T: Real>(gru: &Gru<T>, inputs: usize) -> Recurrent {
    Recurrent {
        cell: Cell::Gru,
        directions: 1,
        inputs,
        units: gru.recurrent.value.ncols(),
        weights: numbers(&gru.weights.value),
        recurrent: numbers(&gru.recurrent.value),
        biases: numbers(&gru.bias.value)
            .into_iter()
            .chain(numbers(&gru.recurrent_bias.value))
            .collect(),
    }
}

fn single<T: Real>(x: T) -> f32 {
    x.f64() as f32
}

fn numbers<T: Real>(of: &Array2<T>) -> Vec<f32> {
    of.iter().map(|v| single(*v)).collect()
}
