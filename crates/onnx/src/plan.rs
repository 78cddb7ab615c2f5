//! Runs small feed-forward graphs without the runtime: every buffer is made when the model is loaded, a run allocates nothing.
//!
//! A generator of cover is one or two dense layers; the runtime spends most of such a run on making and freeing tensors. A
//! [`Plan`] takes Gemm with constant weights, Sigmoid, Tanh, Relu, Round, Mul, Add, Reshape and Concat; a graph with any other
//! operator, or a large one, has none and is left to the runtime.

use std::collections::BTreeMap;

use crate::Port;
use crate::proto::{GraphProto, NodeProto, TensorProto, data_type};

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
    /// The plan of a checked graph; `None` where the runtime is needed, and for whatever the check should have refused: nothing here
    /// relies on it.
    pub(crate) fn of(graph: &GraphProto, inputs: &[Port], outputs: &[Port]) -> Option<Self> {
        let mut maker = Maker::default();
        for t in &graph.initializer {
            maker.initializer(t)?;
        }
        for port in inputs {
            maker.add(&port.name, port.dims.clone(), None)?;
        }
        for node in &graph.node {
            maker.node(node)?;
        }
        let place = |port: &Port| {
            let known = maker.known.get(port.name.as_str())?;
            (known.dims == port.dims && !known.constant).then_some(known.place)
        };
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

/// The number of elements; `None` for none and for too many.
fn elements(dims: &[usize]) -> Option<usize> {
    dims.iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|n| (1..=MAX_ELEMENTS).contains(n))
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
    fn initializer(&mut self, t: &'a TensorProto) -> Option<()> {
        let dims: Option<Vec<usize>> = t.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
        let dims = dims?;
        let count = elements(&dims)?;
        let raw = t.raw_data.as_deref()?;
        match t.data_type? {
            data_type::FLOAT => {
                let (numbers, rest) = raw.as_chunks::<4>();
                if numbers.len() != count || !rest.is_empty() {
                    return None;
                }
                let numbers = numbers.iter().map(|b| f32::from_le_bytes(*b)).collect();
                self.add(&t.name, dims, Some(numbers)).map(|_| ())
            }
            data_type::INT64 => {
                let (numbers, rest) = raw.as_chunks::<8>();
                if numbers.len() != count || !rest.is_empty() || dims.len() != 1 {
                    return None;
                }
                let shape = numbers
                    .iter()
                    .map(|b| usize::try_from(i64::from_le_bytes(*b)).ok())
                    .collect::<Option<Vec<usize>>>()?;
                let twice = self.shapes.insert(&t.name, shape).is_some();
                (!twice && !self.known.contains_key(t.name.as_str())).then_some(())
            }
            _ => None,
        }
    }

    /// A new value; `None` when there is one of that name, or all together become too large.
    fn add(&mut self, name: &'a str, dims: Vec<usize>, numbers: Option<Vec<f32>>) -> Option<usize> {
        let place = self.values.len();
        let constant = numbers.is_some();
        let count = elements(&dims)?;
        self.elements += count;
        if self.elements > MAX_ELEMENTS || self.shapes.contains_key(name) {
            return None;
        }
        let known = Known {
            place,
            dims,
            constant,
        };
        self.values
            .push(numbers.unwrap_or_else(|| vec![0.0; count]));
        self.known.insert(name, known).is_none().then_some(place)
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
                let (part, length) = (x.place, elements(&x.dims)?);
                let dims = self.shapes.get(node.input.get(1)?.as_str())?.clone();
                if elements(&dims)? != length {
                    return None;
                }
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
        let flag = |name: &str| attribute(name).and_then(|a| a.i).unwrap_or(0);
        let turned = match (flag("transA"), flag("transB")) {
            (0, turned @ 0..=1) => turned == 1,
            _ => return None,
        };
        let x = self.read(node, 0)?;
        let &[1, inputs] = x.dims.as_slice() else {
            return None;
        };
        let x = x.place;
        let (numbers, dims) = self.constant(node, 1)?;
        let &[rows, columns] = dims else { return None };
        let (height, width) = if turned {
            (columns, rows)
        } else {
            (rows, columns)
        };
        if height != inputs {
            return None;
        }
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
                if c.len() != 1 && c.len() != width {
                    return None;
                }
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
        let dims: Option<Vec<usize>> = (0..rank)
            .map(|i| match (size(&a.dims, i), size(&b.dims, i)) {
                (x, y) if x == y || y == 1 => Some(x),
                (1, y) => Some(y),
                _ => None,
            })
            .collect();
        let dims = dims?;
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
        let count = elements(&dims)?;
        let pairs = (0..count)
            .map(|e| [place(&a.dims, e), place(&b.dims, e)])
            .collect();
        let (a, b) = (a.place, b.place);
        let out = self.add(name, dims, None)?;
        self.steps.push(Step::Pair {
            a,
            b,
            out,
            elements: pairs,
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
            let own = *part.dims.get(at)?;
            let fits = part.dims.len() == dims.len()
                && (0..dims.len()).all(|i| i == at || part.dims[i] == dims[i]);
            if !fits {
                return None;
            }
            parts.push((part.place, elements(&part.dims[at..])?));
            along += own;
        }
        *dims.get_mut(at)? = along;
        let rows = elements(&dims[..at])?;
        let out = self.add(name, dims, None)?;
        self.steps.push(Step::Join { parts, out, rows });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{AttributeProto, attribute};

    fn floats(name: &str, dims: &[i64], count: usize) -> TensorProto {
        TensorProto {
            dims: dims.to_vec(),
            data_type: Some(data_type::FLOAT),
            name: name.to_owned(),
            raw_data: Some(0.5f32.to_le_bytes().repeat(count)),
            ..TensorProto::default()
        }
    }

    fn integers(name: &str, numbers: &[i64]) -> TensorProto {
        TensorProto {
            dims: vec![numbers.len() as i64],
            data_type: Some(data_type::INT64),
            raw_data: Some(numbers.iter().flat_map(|n| n.to_le_bytes()).collect()),
            ..floats(name, &[], 0)
        }
    }

    fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: op.to_owned(),
            input: input.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        }
    }

    fn with(mut node: NodeProto, name: &str, i: i64) -> NodeProto {
        node.attribute.push(AttributeProto {
            name: name.to_owned(),
            i: Some(i),
            r#type: Some(attribute::INT),
            ..AttributeProto::default()
        });
        node
    }

    /// The plan of a graph with the input `x` of 1 x 3 and the output `y`, run once.
    fn plan(constants: Vec<TensorProto>, nodes: Vec<NodeProto>, y: &[usize]) -> Option<Vec<f32>> {
        let port = |name: &str, dims: &[usize]| Port {
            name: name.to_owned(),
            dims: dims.to_vec(),
        };
        let graph = GraphProto {
            node: nodes,
            initializer: constants,
            ..GraphProto::default()
        };
        let mut plan = Plan::of(&graph, &[port("x", &[1, 3])], &[port("y", y)])?;
        let mut out = vec![0.0; y.iter().product()];
        plan.run(&[&[1.0, 2.0, 3.0]], &mut [&mut out]);
        Some(out)
    }

    fn gemm(weights: TensorProto, bias: TensorProto, y: usize) -> Option<Vec<f32>> {
        let (w, b) = (weights.name.clone(), bias.name.clone());
        plan(
            vec![weights, bias],
            vec![node("Gemm", &["x", &w, &b], "y")],
            &[1, y],
        )
    }

    #[test]
    fn graphs_that_the_check_refuses_have_no_plan() {
        let w = || floats("w", &[3, 2], 6);
        let b = || floats("b", &[2], 2);
        assert_eq!(gemm(w(), b(), 2), Some(vec![3.5, 3.5]));
        // Weights, biases, outputs of other sizes; numbers that are not there; other types.
        assert_eq!(gemm(floats("w", &[2, 3], 6), b(), 2), None);
        assert_eq!(gemm(floats("w", &[4, 2], 8), b(), 2), None);
        assert_eq!(gemm(floats("w", &[3, 2], 5), b(), 2), None);
        assert_eq!(gemm(floats("w", &[-3, -2], 6), b(), 2), None);
        assert_eq!(gemm(floats("w", &[i64::MAX, i64::MAX], 6), b(), 2), None);
        assert_eq!(gemm(w(), floats("b", &[3], 3), 2), None);
        assert_eq!(gemm(w(), floats("b", &[0], 0), 2), None);
        assert_eq!(gemm(w(), b(), 3), None);
        assert_eq!(gemm(w(), floats("w", &[2], 2), 2), None);
        let double = TensorProto {
            data_type: Some(11),
            ..w()
        };
        assert_eq!(gemm(double, b(), 2), None);
        let odd = TensorProto {
            raw_data: Some(vec![0; 25]),
            ..w()
        };
        assert_eq!(gemm(odd, b(), 2), None);
        let turned = with(node("Gemm", &["x", "w", "b"], "y"), "transA", 1);
        assert_eq!(plan(vec![w(), b()], vec![turned], &[1, 2]), None);

        let reshape = |shape: &[i64]| {
            let to = node("Reshape", &["x", "s"], "y");
            plan(vec![integers("s", shape)], vec![to], &[1, 1, 3])
        };
        assert_eq!(reshape(&[1, 1, 3]), Some(vec![1.0, 2.0, 3.0]));
        for shape in [
            &[1, 1, -1][..],
            &[1, 1, 0],
            &[1, 1, 4],
            &[1, 3],
            &[],
            &[i64::MAX, 3],
        ] {
            assert_eq!(reshape(shape), None, "{shape:?}");
        }

        let add = |c: TensorProto| plan(vec![c], vec![node("Add", &["x", "c"], "y")], &[1, 3]);
        assert_eq!(add(floats("c", &[1], 1)), Some(vec![1.5, 2.5, 3.5]));
        assert_eq!(add(floats("c", &[2], 2)), None);
        assert_eq!(add(floats("c", &[2, 3], 6)), None);

        let concat = |c: TensorProto, axis: i64, y: &[usize]| {
            let joined = with(node("Concat", &["x", "c"], "y"), "axis", axis);
            plan(vec![c], vec![joined], y)
        };
        let joined = Some(vec![1.0, 2.0, 3.0, 0.5]);
        assert_eq!(concat(floats("c", &[1, 1], 1), -1, &[1, 4]), joined);
        assert_eq!(concat(floats("c", &[2, 1], 2), -1, &[1, 4]), None);
        assert_eq!(concat(floats("c", &[1], 1), -1, &[1, 4]), None);
        assert_eq!(concat(floats("c", &[], 1), 0, &[1, 4]), None);

        // Names that are taken, or that nothing has; operators that need the runtime.
        let tanh = |from: &str, to: &str| node("Tanh", &[from], to);
        assert!(plan(vec![], vec![tanh("x", "y")], &[1, 3]).is_some());
        assert_eq!(
            plan(vec![], vec![tanh("x", "x"), tanh("x", "y")], &[1, 3]),
            None
        );
        assert_eq!(
            plan(vec![], vec![tanh("x", "y"), tanh("x", "y")], &[1, 3]),
            None
        );
        assert_eq!(plan(vec![], vec![tanh("z", "y")], &[1, 3]), None);
        assert_eq!(plan(vec![], vec![tanh("x", "z")], &[1, 3]), None);
        assert_eq!(plan(vec![], vec![node("Tanh", &[], "y")], &[1, 3]), None);
        assert_eq!(
            plan(vec![], vec![node("Softmax", &["x"], "y")], &[1, 3]),
            None
        );
        assert_eq!(
            plan(vec![floats("x", &[1, 3], 3)], vec![tanh("x", "y")], &[1, 3]),
            None
        );
        assert_eq!(
            plan(vec![integers("x", &[1])], vec![tanh("x", "y")], &[1, 3]),
            None
        );
    }
}
