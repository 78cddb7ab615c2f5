//! Runs small feed-forward graphs without the runtime: every buffer is made when the model is loaded, a run allocates nothing.
//!
//! A generator of cover is one or two dense layers; the runtime spends most of such a run on making and freeing tensors. A
//! [`Plan`] takes Gemm with constant weights, Sigmoid, Tanh, Relu, Round, Mul, Add, Reshape and Concat; a graph with any other
//! operator, or a large one, has none and is left to the runtime.

use std::collections::BTreeMap;

use crate::Port;
use crate::proto::{GraphProto, NodeProto, data_type};

/// Most elements of all values together; beyond, the runtime's blocked products are faster.
const MAX_ELEMENTS: usize = 1 << 17;

/// A graph as a list of steps on buffers.
#[derive(Debug)]
pub(crate) struct Plan {
    values: Vec<Vec<f32>>,
    steps: Vec<Step>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

/// One node. `x`, `a`, `b` and `out` are places in [`Plan::values`].
#[derive(Debug)]
enum Step {
    /// The row `x` times `weights` (inputs x outputs, row-major), plus `bias`.
    Dense {
        x: usize,
        out: usize,
        weights: Vec<f32>,
        bias: Vec<f32>,
    },
    Each {
        x: usize,
        out: usize,
        function: fn(f32) -> f32,
    },
    /// Which element of `a` and of `b` makes each element of `out`.
    Pair {
        a: usize,
        b: usize,
        out: usize,
        elements: Vec<[u32; 2]>,
        function: fn(f32, f32) -> f32,
    },
    /// Parts one after the other, `rows` times; a part is a value and how many of its elements come in one row.
    Join {
        parts: Vec<(usize, usize)>,
        out: usize,
        rows: usize,
    },
}

/// What is known of a value while a plan is made.
struct Known {
    place: usize,
    dims: Vec<usize>,
    constant: bool,
}

impl Plan {
    /// The plan of a checked graph; `None` where the runtime is needed.
    pub(crate) fn of(graph: &GraphProto, inputs: &[Port], outputs: &[Port]) -> Option<Self> {
        let mut maker = Maker::default();
        for t in &graph.initializer {
            let dims: Option<Vec<usize>> =
                t.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
            let raw = t.raw_data.as_deref().unwrap_or_default();
            if t.data_type == Some(data_type::INT64) {
                let numbers = raw.as_chunks::<8>().0.iter();
                let shape = numbers.map(|b| i64::from_le_bytes(*b) as usize).collect();
                maker.shapes.insert(&t.name, shape);
                continue;
            }
            let numbers = raw.as_chunks::<4>().0.iter();
            let numbers = numbers.map(|b| f32::from_le_bytes(*b)).collect();
            maker.add(&t.name, dims?, Some(numbers))?;
        }
        for port in inputs {
            maker.add(&port.name, port.dims.clone(), None)?;
        }
        for node in &graph.node {
            maker.node(node)?;
        }
        let place = |port: &Port| maker.known.get(port.name.as_str()).map(|k| k.place);
        Some(Self {
            inputs: inputs.iter().map(place).collect::<Option<_>>()?,
            outputs: outputs.iter().map(place).collect::<Option<_>>()?,
            values: maker.values,
            steps: maker.steps,
        })
    }

    /// Runs it; the slices were compared with the ports.
    pub(crate) fn run(&mut self, inputs: &[&[f32]], outputs: &mut [&mut [f32]]) {
        for (&place, x) in self.inputs.iter().zip(inputs) {
            self.values[place].copy_from_slice(x);
        }
        for step in &self.steps {
            step.run(&mut self.values);
        }
        for (&place, y) in self.outputs.iter().zip(outputs) {
            y.copy_from_slice(&self.values[place]);
        }
    }
}

impl Step {
    fn run(&self, values: &mut [Vec<f32>]) {
        let (Self::Dense { out, .. }
        | Self::Each { out, .. }
        | Self::Pair { out, .. }
        | Self::Join { out, .. }) = self;
        // Taken out, so that the others can be read: no node reads what it makes.
        let mut y = std::mem::take(&mut values[*out]);
        match self {
            Self::Dense {
                x, weights, bias, ..
            } => {
                y.copy_from_slice(bias);
                dense(&values[*x], weights, &mut y);
            }
            Self::Each { x, function, .. } => {
                for (y, x) in y.iter_mut().zip(&values[*x]) {
                    *y = function(*x);
                }
            }
            Self::Pair {
                a,
                b,
                elements,
                function,
                ..
            } => {
                let (a, b) = (&values[*a], &values[*b]);
                for (y, [i, j]) in y.iter_mut().zip(elements) {
                    *y = function(a[*i as usize], b[*j as usize]);
                }
            }
            Self::Join { parts, rows, .. } => {
                let mut at = 0;
                for row in 0..*rows {
                    for &(part, length) in parts {
                        let from = &values[part][row * length..][..length];
                        y[at..at + length].copy_from_slice(from);
                        at += length;
                    }
                }
            }
        }
        values[*out] = y;
    }
}

/// Adds `x * weights`, weights row-major.
fn dense(x: &[f32], weights: &[f32], y: &mut [f32]) {
    for (x, row) in x.iter().zip(weights.chunks_exact(y.len().max(1))) {
        for (y, w) in y.iter_mut().zip(row) {
            *y += x * w;
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn relu(x: f32) -> f32 {
    x.max(0.0)
}

/// A plan being made.
#[derive(Default)]
struct Maker<'a> {
    values: Vec<Vec<f32>>,
    steps: Vec<Step>,
    known: BTreeMap<&'a str, Known>,
    /// Constants of integers.
    shapes: BTreeMap<&'a str, Vec<usize>>,
    elements: usize,
}

impl<'a> Maker<'a> {
    /// A new value; `None` when all together become too large.
    fn add(&mut self, name: &'a str, dims: Vec<usize>, numbers: Option<Vec<f32>>) -> Option<usize> {
        let place = self.values.len();
        let constant = numbers.is_some();
        let count: usize = dims.iter().product();
        self.elements += count;
        if self.elements > MAX_ELEMENTS {
            return None;
        }
        self.values
            .push(numbers.unwrap_or_else(|| vec![0.0; count]));
        self.known.insert(
            name,
            Known {
                place,
                dims,
                constant,
            },
        );
        Some(place)
    }

    /// The value that a node reads at this input; `None` where it has none.
    fn read(&self, node: &NodeProto, input: usize) -> Option<&Known> {
        self.known.get(node.input.get(input)?.as_str())
    }

    /// The numbers of a constant input.
    fn constant(&self, node: &NodeProto, input: usize) -> Option<(&[f32], &[usize])> {
        let known = self.read(node, input).filter(|k| k.constant)?;
        Some((&self.values[known.place], &known.dims))
    }

    fn node(&mut self, node: &'a NodeProto) -> Option<()> {
        let name = node.output.last()?.as_str();
        match node.op_type.as_str() {
            "Gemm" => self.gemm(node, name),
            "Sigmoid" => self.each(node, name, sigmoid),
            "Tanh" => self.each(node, name, f32::tanh),
            "Relu" => self.each(node, name, relu),
            "Round" => self.each(node, name, f32::round_ties_even),
            "Mul" => self.pair(node, name, |a, b| a * b),
            "Add" => self.pair(node, name, |a, b| a + b),
            "Reshape" => {
                let x = self.read(node, 0)?;
                let (part, length) = (x.place, x.dims.iter().product());
                let dims = self.shapes.get(node.input.get(1)?.as_str())?.clone();
                let out = self.add(name, dims, None)?;
                let parts = vec![(part, length)];
                self.steps.push(Step::Join {
                    parts,
                    out,
                    rows: 1,
                });
                Some(())
            }
            "Concat" => self.concat(node, name),
            _ => None,
        }
    }

    fn gemm(&mut self, node: &'a NodeProto, name: &'a str) -> Option<()> {
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
        let number = |name: &str| attribute(name).and_then(|a| a.f).unwrap_or(1.0);
        let (alpha, beta) = (number("alpha"), number("beta"));
        let turned = attribute("transB").and_then(|a| a.i) == Some(1);
        let x = self.read(node, 0)?;
        let &[1, inputs] = x.dims.as_slice() else {
            return None;
        };
        let x = x.place;
        let (numbers, dims) = self.constant(node, 1)?;
        let &[rows, columns] = dims else { return None };
        let width = if turned { rows } else { columns };
        let weights: Vec<f32> = (0..inputs * width)
            .map(|i| {
                let (k, n) = (i / width, i % width);
                alpha * numbers[if turned { n * columns + k } else { i }]
            })
            .collect();
        let bias = match node.input.len() {
            2 => vec![0.0; width],
            _ => {
                let (c, _) = self.constant(node, 2)?;
                (0..width).map(|n| beta * c[n % c.len()]).collect()
            }
        };
        let out = self.add(name, vec![1, width], None)?;
        self.steps.push(Step::Dense {
            x,
            out,
            weights,
            bias,
        });
        Some(())
    }

    fn each(&mut self, node: &'a NodeProto, name: &'a str, function: fn(f32) -> f32) -> Option<()> {
        let x = self.read(node, 0)?;
        let (x, dims) = (x.place, x.dims.clone());
        let out = self.add(name, dims, None)?;
        self.steps.push(Step::Each { x, out, function });
        Some(())
    }

    fn pair(
        &mut self,
        node: &'a NodeProto,
        name: &'a str,
        function: fn(f32, f32) -> f32,
    ) -> Option<()> {
        let (a, b) = (self.read(node, 0)?, self.read(node, 1)?);
        let rank = a.dims.len().max(b.dims.len());
        let size = |d: &[usize], i: usize| (i + d.len()).checked_sub(rank).map_or(1, |j| d[j]);
        let dims: Vec<usize> = (0..rank)
            .map(|i| size(&a.dims, i).max(size(&b.dims, i)))
            .collect();
        let place = |from: &[usize], mut element: usize| {
            let (mut at, mut stride) = (0, 1);
            for i in (0..rank).rev() {
                let own = size(from, i);
                at += if own == 1 {
                    0
                } else {
                    element % dims[i] * stride
                };
                stride *= own;
                element /= dims[i];
            }
            at as u32
        };
        let count: usize = dims.iter().product();
        if count > MAX_ELEMENTS {
            return None;
        }
        let elements = (0..count)
            .map(|e| [place(&a.dims, e), place(&b.dims, e)])
            .collect();
        let (a, b) = (a.place, b.place);
        let out = self.add(name, dims, None)?;
        self.steps.push(Step::Pair {
            a,
            b,
            out,
            elements,
            function,
        });
        Some(())
    }

    fn concat(&mut self, node: &'a NodeProto, name: &'a str) -> Option<()> {
        let axis = node.attribute.iter().find(|a| a.name == "axis")?.i?;
        let first = self.read(node, 0)?;
        let mut dims = first.dims.clone();
        let at = usize::try_from(axis.rem_euclid(dims.len().max(1) as i64)).ok()?;
        let mut parts = Vec::with_capacity(node.input.len());
        let mut along = 0;
        for input in 0..node.input.len() {
            let part = self.read(node, input)?;
            parts.push((part.place, part.dims[at..].iter().product()));
            along += part.dims[at];
        }
        dims[at] = along;
        let rows = dims[..at].iter().product();
        let out = self.add(name, dims, None)?;
        self.steps.push(Step::Join { parts, out, rows });
        Some(())
    }
}
