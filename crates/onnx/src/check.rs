//! Decides whether a graph may be handed to the runtime, and rewrites it so that the runtime sees nothing else.
//!
//! The runtime's tract backend panics on some odd graphs, inside a callback with C linkage, which ends the process and
//! cannot be caught. So the graph is rebuilt from the fields understood here, with every shape computed and compared:
//! one domain, listed operators, fixed sizes, batch 1, 32-bit floats, constants of the right length.
//! A new operator is one arm in [`infer`] and one method of [`crate::Graph`].

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::ModelError;
use crate::proto::{
    AttributeProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, ValueInfoProto, attribute, data_type, value_info,
};

/// IR and operator-set version of what is written.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;
/// Operator sets whose listed operators mean the same as in [`OPSET`].
const OPSETS: std::ops::RangeInclusive<i64> = 13..=21;

/// Most nodes of a graph.
pub const MAX_NODES: usize = 256;
/// Most constants of a graph.
const MAX_CONSTANTS: usize = 1024;
/// Most inputs, and most outputs.
const MAX_PORTS: usize = 8;
/// Most dimensions of a tensor.
const MAX_RANK: usize = 6;
/// Most elements of all values together: a product of small constants can be large, and constants are folded at load.
const MAX_ELEMENTS: usize = 1 << 23;

/// An input or an output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name in the graph.
    pub name: String,
    /// Sizes; the first is the batch and is 1.
    pub dims: Vec<usize>,
}

impl Port {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// A graph that passed, rebuilt, without metadata.
pub(crate) struct Checked {
    pub(crate) model: ModelProto,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
}

/// What is known of a value: its sizes, and its numbers when it is a constant of integers.
struct Fact {
    dims: Vec<usize>,
    integers: Option<Vec<i64>>,
}

pub(crate) fn check(model: &ModelProto) -> Result<Checked, ModelError> {
    let graph = model
        .graph
        .as_ref()
        .ok_or_else(|| ModelError::Malformed("no graph".to_owned()))?;
    opset(&model.opset_import)?;
    bound("the nodes", graph.node.len(), MAX_NODES)?;
    bound("the constants", graph.initializer.len(), MAX_CONSTANTS)?;
    bound("the inputs", graph.input.len(), MAX_PORTS + MAX_CONSTANTS)?;
    bound("the outputs", graph.output.len(), MAX_PORTS)?;

    // Old exporters list constants among the inputs as well.
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let is_port = |v: &&ValueInfoProto| !constants.contains(v.name.as_str());
    let inputs: Vec<Port> = graph
        .input
        .iter()
        .filter(is_port)
        .map(port)
        .collect::<Result<_, _>>()?;
    let outputs: Vec<Port> = graph.output.iter().map(port).collect::<Result<_, _>>()?;
    if inputs.is_empty() || outputs.is_empty() {
        return Err(ModelError::graph(
            "the graph",
            "needs an input and an output",
        ));
    }
    bound("the inputs", inputs.len(), MAX_PORTS)?;

    let mut known = BTreeMap::new();
    for p in &inputs {
        define(&mut known, &p.name, p.dims.clone(), None)?;
    }
    let mut initializer = Vec::with_capacity(graph.initializer.len());
    for t in &graph.initializer {
        let (rebuilt, fact) = constant(t)?;
        define(&mut known, &t.name, fact.dims, fact.integers)?;
        initializer.push(rebuilt);
    }
    let mut node = Vec::with_capacity(graph.node.len());
    for (index, n) in graph.node.iter().enumerate() {
        let (rebuilt, dims) = infer(index, n, &known)?;
        define(&mut known, made(&rebuilt), dims, None)?;
        node.push(rebuilt);
    }
    finish(&node, &inputs, &outputs, &known)?;

    let ports = |ports: &[Port]| ports.iter().map(|p| value_info(&p.name, &p.dims)).collect();
    let graph = GraphProto {
        node,
        name: if graph.name.is_empty() {
            "graph".to_owned()
        } else {
            graph.name.clone()
        },
        initializer,
        input: ports(&inputs),
        output: ports(&outputs),
    };
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: "chaff".to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(OPSET),
        }],
        metadata_props: Vec::new(),
    };
    Ok(Checked {
        model,
        inputs,
        outputs,
    })
}

/// Every output is made by a node with the declared sizes, and everything is used.
fn finish(
    nodes: &[NodeProto],
    inputs: &[Port],
    outputs: &[Port],
    known: &BTreeMap<String, Fact>,
) -> Result<(), ModelError> {
    let total = known
        .values()
        .map(|f| f.dims.iter().product::<usize>())
        .sum();
    bound("the elements of all values together", total, MAX_ELEMENTS)?;
    let used: BTreeSet<&str> = nodes
        .iter()
        .flat_map(|n| n.input.iter().map(String::as_str))
        .chain(outputs.iter().map(|o| o.name.as_str()))
        .collect();
    let made: BTreeSet<&str> = nodes.iter().map(made).collect();
    let mut seen = BTreeSet::new();
    for o in outputs {
        if !made.contains(o.name.as_str()) {
            return Err(ModelError::graph(
                format!("output {:?}", o.name),
                "no node makes it",
            ));
        }
        if !seen.insert(&o.name) {
            return Err(ModelError::graph(
                format!("output {:?}", o.name),
                "is listed twice",
            ));
        }
        let dims = &known[&o.name].dims;
        if *dims != o.dims {
            return Err(ModelError::graph(
                format!("output {:?}", o.name),
                format!("is declared {:?}, the nodes make {dims:?}", o.dims),
            ));
        }
    }
    let names = made
        .iter()
        .copied()
        .chain(inputs.iter().map(|i| i.name.as_str()));
    for name in names {
        if !used.contains(name) {
            return Err(ModelError::graph(
                format!("value {name:?}"),
                "is never used",
            ));
        }
    }
    Ok(())
}

fn bound(part: &'static str, found: usize, limit: usize) -> Result<(), ModelError> {
    if found > limit {
        return Err(ModelError::TooLarge { part, found, limit });
    }
    Ok(())
}

fn opset(imports: &[OperatorSetIdProto]) -> Result<(), ModelError> {
    let mut found = None;
    for import in imports {
        match import.domain.as_deref() {
            None | Some("" | "ai.onnx") => found = import.version,
            Some(other) => {
                return Err(ModelError::graph(
                    "the operator sets",
                    format!("domain {other:?} is not supported"),
                ));
            }
        }
    }
    match found {
        Some(v) if OPSETS.contains(&v) => Ok(()),
        other => Err(ModelError::graph(
            "the operator sets",
            format!(
                "version {other:?}, wanted {} to {}",
                OPSETS.start(),
                OPSETS.end()
            ),
        )),
    }
}

fn port(info: &ValueInfoProto) -> Result<Port, ModelError> {
    let place = || format!("value {:?}", info.name);
    let tensor = info
        .r#type
        .as_ref()
        .and_then(|t| t.tensor_type.as_ref())
        .ok_or_else(|| ModelError::graph(place(), "is not a tensor"))?;
    if tensor.elem_type != Some(data_type::FLOAT) {
        return Err(ModelError::graph(
            place(),
            format!(
                "has element type {:?}, only 32-bit floats are supported",
                tensor.elem_type
            ),
        ));
    }
    let shape = tensor
        .shape
        .as_ref()
        .ok_or_else(|| ModelError::graph(place(), "has no shape"))?;
    let mut dims = Vec::with_capacity(shape.dim.len().min(MAX_RANK + 1));
    bound("the dimensions of a value", shape.dim.len(), MAX_RANK)?;
    for (axis, d) in shape.dim.iter().enumerate() {
        let symbolic = |dimension: &str| ModelError::Symbolic {
            value: info.name.clone(),
            axis,
            dimension: dimension.to_owned(),
        };
        match &d.value {
            Some(DimensionValue::Fixed(n)) if *n >= 1 => dims.push(*n as usize),
            // Some exporters write -1 or 0 for "any".
            Some(DimensionValue::Fixed(n)) => return Err(symbolic(&n.to_string())),
            Some(DimensionValue::Symbol(s)) => return Err(symbolic(s)),
            None => return Err(symbolic("")),
        }
    }
    if dims.first() != Some(&1) {
        return Err(ModelError::graph(
            place(),
            format!("has sizes {dims:?}, the first must be the batch, 1"),
        ));
    }
    elements(&place(), &dims)?;
    Ok(Port {
        name: info.name.clone(),
        dims,
    })
}

fn elements(place: &str, dims: &[usize]) -> Result<usize, ModelError> {
    dims.iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= MAX_ELEMENTS)
        .ok_or_else(|| {
            ModelError::graph(
                place,
                format!("{dims:?} is more than {MAX_ELEMENTS} elements"),
            )
        })
}

fn define(
    known: &mut BTreeMap<String, Fact>,
    name: &str,
    dims: Vec<usize>,
    integers: Option<Vec<i64>>,
) -> Result<(), ModelError> {
    let place = || format!("value {name:?}");
    if name.is_empty() || name.len() > 256 {
        return Err(ModelError::graph(place(), "needs a name of 1 to 256 bytes"));
    }
    elements(&place(), &dims)?;
    if known
        .insert(name.to_owned(), Fact { dims, integers })
        .is_some()
    {
        return Err(ModelError::graph(place(), "is defined twice"));
    }
    Ok(())
}

/// Rebuilds a constant in its one canonical form: little-endian raw data.
fn constant(t: &TensorProto) -> Result<(TensorProto, Fact), ModelError> {
    let place = format!("constant {:?}", t.name);
    let fail = |what: String| Err(ModelError::graph(place.clone(), what));
    if t.data_location.unwrap_or(0) != 0 {
        return fail("is stored in another file".to_owned());
    }
    bound("the dimensions of a constant", t.dims.len(), MAX_RANK)?;
    let mut dims = Vec::with_capacity(t.dims.len());
    for &d in &t.dims {
        match usize::try_from(d) {
            Ok(n) if n >= 1 => dims.push(n),
            _ => return fail(format!("has sizes {:?}", t.dims)),
        }
    }
    let count = elements(&place, &dims)?;
    let raw = t.raw_data.as_deref().unwrap_or_default();
    let (raw_data, integers, found) = match t.data_type {
        Some(data_type::FLOAT) => {
            let raw = if raw.is_empty() {
                t.float_data.iter().flat_map(|x| x.to_le_bytes()).collect()
            } else {
                raw.to_vec()
            };
            let finite = |b: &[u8; 4]| f32::from_le_bytes(*b).is_finite();
            let (numbers, rest) = raw.as_chunks::<4>();
            if !numbers.iter().all(finite) {
                return fail("holds a number that is not finite".to_owned());
            }
            let found = if rest.is_empty() {
                numbers.len()
            } else {
                usize::MAX
            };
            (raw, None, found)
        }
        Some(data_type::INT64) => {
            let numbers: Vec<i64> = if raw.is_empty() {
                t.int64_data.clone()
            } else {
                raw.as_chunks::<8>()
                    .0
                    .iter()
                    .map(|b| i64::from_le_bytes(*b))
                    .collect()
            };
            let whole = raw.len().is_multiple_of(8);
            let found = if whole { numbers.len() } else { usize::MAX };
            (
                numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
                Some(numbers),
                found,
            )
        }
        other => {
            return fail(format!(
                "has element type {other:?}, only 32-bit floats and 64-bit integers are supported"
            ));
        }
    };
    if found != count {
        return fail(format!("has {} bytes for {count} elements", raw_data.len()));
    }
    let rebuilt = TensorProto {
        dims: t.dims.clone(),
        data_type: t.data_type,
        name: t.name.clone(),
        raw_data: Some(raw_data),
        ..TensorProto::default()
    };
    Ok((rebuilt, Fact { dims, integers }))
}

/// The one value that a node makes. Recurrent operators may leave out their first output, which then has no name.
fn made(n: &NodeProto) -> &str {
    n.output.last().map_or("", String::as_str)
}

/// The node rebuilt, and the sizes of its output.
fn infer(
    index: usize,
    n: &NodeProto,
    known: &BTreeMap<String, Fact>,
) -> Result<(NodeProto, Vec<usize>), ModelError> {
    let node = Node {
        index,
        proto: n,
        known,
    };
    if !matches!(n.domain.as_str(), "" | "ai.onnx") {
        return Err(node.fail(format!("domain {:?} is not supported", n.domain)));
    }
    let recurrent = matches!(n.op_type.as_str(), "LSTM" | "GRU");
    let skips = recurrent && n.output.len() == 2 && n.output[0].is_empty();
    if n.output.len() != 1 && !skips {
        return Err(node.fail(format!("has {} outputs, wanted 1", n.output.len())));
    }
    let (dims, attributes) = match n.op_type.as_str() {
        "Gemm" => node.gemm()?,
        "Sigmoid" | "Tanh" | "Relu" | "Round" => (node.unary()?, Vec::new()),
        "Mul" | "Add" => (node.broadcast()?, Vec::new()),
        "Reshape" => (node.reshape()?, Vec::new()),
        "Softmax" => node.softmax()?,
        "Transpose" => node.transpose()?,
        "Concat" => node.concat()?,
        "LSTM" => node.recurrent(4)?,
        "GRU" => node.recurrent(3)?,
        "Conv" => node.convolution()?,
        "MaxPool" => node.pool()?,
        other => return Err(node.fail(format!("operator {other:?} is not supported"))),
    };
    let rebuilt = NodeProto {
        input: n.input.clone(),
        output: n.output.clone(),
        // One form for the digest, and no clash of names in the runtime.
        name: format!("{}_{index}", n.op_type),
        op_type: n.op_type.clone(),
        attribute: attributes,
        domain: String::new(),
    };
    Ok((rebuilt, dims))
}

/// A node being checked.
struct Node<'a> {
    index: usize,
    proto: &'a NodeProto,
    known: &'a BTreeMap<String, Fact>,
}

type Inferred = (Vec<usize>, Vec<AttributeProto>);

impl Node<'_> {
    fn fail(&self, what: impl Into<String>) -> ModelError {
        ModelError::graph(
            format!("node {} ({})", self.index, self.proto.op_type),
            what,
        )
    }

    fn count(&self, allowed: std::ops::RangeInclusive<usize>) -> Result<(), ModelError> {
        let n = self.proto.input.len();
        if allowed.contains(&n) {
            Ok(())
        } else {
            Err(self.fail(format!(
                "has {n} inputs, wanted {} to {}",
                allowed.start(),
                allowed.end()
            )))
        }
    }

    fn fact(&self, input: usize) -> Result<&Fact, ModelError> {
        let name = &self.proto.input[input];
        self.known
            .get(name)
            .ok_or_else(|| self.fail(format!("input {name:?} is not defined before it is used")))
    }

    /// The sizes of an input of floats.
    fn floats(&self, input: usize) -> Result<&[usize], ModelError> {
        let fact = self.fact(input)?;
        if fact.integers.is_some() {
            return Err(self.fail(format!("input {input} is of integers")));
        }
        Ok(&fact.dims)
    }

    /// Fails on an attribute that is not listed, so that none is ignored silently.
    fn only(&self, allowed: &[&str]) -> Result<(), ModelError> {
        let mut seen = BTreeSet::new();
        for a in &self.proto.attribute {
            if !allowed.contains(&a.name.as_str()) {
                return Err(self.fail(format!("attribute {:?} is not supported", a.name)));
            }
            if !seen.insert(&a.name) {
                return Err(self.fail(format!("attribute {:?} occurs twice", a.name)));
            }
        }
        Ok(())
    }

    fn integer(&self, name: &str, default: i64) -> Result<i64, ModelError> {
        match self.proto.attribute.iter().find(|a| a.name == name) {
            None => Ok(default),
            Some(AttributeProto {
                i,
                r#type: Some(attribute::INT),
                ..
            }) => Ok(i.unwrap_or(0)),
            Some(_) => Err(self.fail(format!("attribute {name:?} is not an integer"))),
        }
    }

    fn float(&self, name: &str, default: f32) -> Result<f32, ModelError> {
        let found = match self.proto.attribute.iter().find(|a| a.name == name) {
            None => default,
            Some(AttributeProto {
                f,
                r#type: Some(attribute::FLOAT),
                ..
            }) => f.unwrap_or(0.0),
            Some(_) => return Err(self.fail(format!("attribute {name:?} is not a float"))),
        };
        if !found.is_finite() {
            return Err(self.fail(format!("attribute {name:?} is {found}")));
        }
        Ok(found)
    }

    /// `alpha * A * B + beta * C` for a batch of one row.
    fn gemm(&self) -> Result<Inferred, ModelError> {
        self.count(2..=3)?;
        self.only(&["alpha", "beta", "transA", "transB"])?;
        let (alpha, beta) = (self.float("alpha", 1.0)?, self.float("beta", 1.0)?);
        let trans_b = self.integer("transB", 0)?;
        if self.integer("transA", 0)? != 0 || !(0..=1).contains(&trans_b) {
            return Err(self.fail("transA must be 0 and transB 0 or 1"));
        }
        let (&[m, k], &[b0, b1]) = (self.floats(0)?, self.floats(1)?) else {
            return Err(self.fail("the factors must be matrices"));
        };
        let (kb, n) = if trans_b == 1 { (b1, b0) } else { (b0, b1) };
        if k != kb {
            return Err(self.fail(format!("{k} columns times {kb} rows")));
        }
        if self.proto.input.len() == 3 {
            let c = self.floats(2)?;
            let fits = match *c {
                [c1] => c1 == n || c1 == 1,
                [c0, c1] => (c0 == m || c0 == 1) && (c1 == n || c1 == 1),
                _ => false,
            };
            if !fits {
                return Err(self.fail(format!("{c:?} cannot be added to [{m}, {n}]")));
            }
        }
        let attributes = vec![
            AttributeProto {
                f: Some(alpha),
                ..named("alpha", attribute::FLOAT)
            },
            AttributeProto {
                f: Some(beta),
                ..named("beta", attribute::FLOAT)
            },
            AttributeProto {
                i: Some(trans_b),
                ..named("transB", attribute::INT)
            },
        ];
        Ok((vec![m, n], attributes))
    }

    fn unary(&self) -> Result<Vec<usize>, ModelError> {
        self.count(1..=1)?;
        self.only(&[])?;
        Ok(self.floats(0)?.to_vec())
    }

    /// Multidirectional broadcasting: sizes are equal from the right, or 1.
    fn broadcast(&self) -> Result<Vec<usize>, ModelError> {
        self.count(2..=2)?;
        self.only(&[])?;
        let (a, b) = (self.floats(0)?, self.floats(1)?);
        let rank = a.len().max(b.len());
        let at = |d: &[usize], i: usize| (i + d.len()).checked_sub(rank).map_or(1, |j| d[j]);
        (0..rank)
            .map(|i| match (at(a, i), at(b, i)) {
                (x, y) if x == y || y == 1 => Ok(x),
                (1, y) => Ok(y),
                _ => Err(self.fail(format!("{a:?} and {b:?} do not broadcast"))),
            })
            .collect()
    }

    fn reshape(&self) -> Result<Vec<usize>, ModelError> {
        self.count(2..=2)?;
        self.only(&[])?;
        let from = self.floats(0)?;
        let shape = self.fact(1)?;
        let (Some(want), [_]) = (&shape.integers, shape.dims.as_slice()) else {
            return Err(self.fail("the shape must be a constant vector of integers"));
        };
        bound("the dimensions of a reshape", want.len(), MAX_RANK)?;
        let dims: Option<Vec<usize>> = want
            .iter()
            .map(|&d| usize::try_from(d).ok().filter(|&d| d >= 1))
            .collect();
        let count = elements("a reshape", from)?;
        match dims {
            Some(dims) if elements("a reshape", &dims)? == count => Ok(dims),
            _ => Err(self.fail(format!("cannot reshape {from:?} to {want:?}"))),
        }
    }

    fn softmax(&self) -> Result<Inferred, ModelError> {
        self.count(1..=1)?;
        self.only(&["axis"])?;
        let dims = self.floats(0)?.to_vec();
        let rank = dims.len() as i64;
        let axis = self.integer("axis", -1)?;
        if !(-rank..rank).contains(&axis) {
            return Err(self.fail(format!("axis {axis} of {rank} dimensions")));
        }
        let attributes = vec![AttributeProto {
            i: Some(axis),
            ..named("axis", attribute::INT)
        }];
        Ok((dims, attributes))
    }
}

impl Node<'_> {
    /// A list of positive numbers; `None` when it is absent.
    fn list(&self, name: &str) -> Result<Option<Vec<usize>>, ModelError> {
        let Some(a) = self.proto.attribute.iter().find(|a| a.name == name) else {
            return Ok(None);
        };
        let numbers: Option<Vec<usize>> = a
            .ints
            .iter()
            .map(|&n| usize::try_from(n).ok().filter(|n| *n <= MAX_ELEMENTS))
            .collect();
        match numbers {
            Some(list) if a.r#type == Some(attribute::INTS) && list.len() <= MAX_RANK => {
                Ok(Some(list))
            }
            _ => Err(self.fail(format!(
                "attribute {name:?} is no short list of whole numbers"
            ))),
        }
    }

    /// The batch stays first.
    fn transpose(&self) -> Result<Inferred, ModelError> {
        self.count(1..=1)?;
        self.only(&["perm"])?;
        let from = self.floats(0)?;
        let Some(perm) = self.list("perm")? else {
            return Err(self.fail("needs the attribute \"perm\""));
        };
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        if perm.first() != Some(&0) || !sorted.iter().copied().eq(0..from.len()) {
            return Err(self.fail(format!("perm {perm:?} of {} dimensions", from.len())));
        }
        let dims = perm.iter().map(|&i| from[i]).collect();
        Ok((dims, vec![ints("perm", &perm)]))
    }

    fn concat(&self) -> Result<Inferred, ModelError> {
        self.count(2..=MAX_PORTS)?;
        self.only(&["axis"])?;
        let mut dims = self.floats(0)?.to_vec();
        let rank = dims.len() as i64;
        let axis = self.integer("axis", i64::MAX)?;
        if !(-rank..rank).contains(&axis) {
            return Err(self.fail(format!("axis {axis} of {rank} dimensions")));
        }
        let at = axis.rem_euclid(rank) as usize;
        for input in 1..self.proto.input.len() {
            let other = self.floats(input)?;
            let fits = other.len() == dims.len()
                && (0..dims.len()).all(|i| i == at || other[i] == dims[i]);
            if !fits {
                return Err(self.fail(format!("{other:?} does not continue {dims:?}")));
            }
            dims[at] += other[at];
        }
        let attributes = vec![AttributeProto {
            i: Some(axis),
            ..named("axis", attribute::INT)
        }];
        Ok((dims, attributes))
    }

    /// LSTM (4 gates) and GRU (3), forward or in both directions, with weights, recurrent weights and biases. Makes
    /// all steps, `steps x directions x 1 x units`, or, with the first output left out, the last ones.
    fn recurrent(&self, gates: usize) -> Result<Inferred, ModelError> {
        self.count(4..=4)?;
        let gru = gates == 3;
        self.only(if gru {
            &["hidden_size", "direction", "linear_before_reset"]
        } else {
            &["hidden_size", "direction"]
        })?;
        if gru && self.integer("linear_before_reset", 0)? != 1 {
            return Err(self.fail("linear_before_reset must be 1"));
        }
        let direction = match self.proto.attribute.iter().find(|a| a.name == "direction") {
            None => "forward",
            Some(a) => match a.s.as_deref() {
                Some(b"forward") => "forward",
                Some(b"bidirectional") => "bidirectional",
                _ => return Err(self.fail("direction must be forward or bidirectional")),
            },
        };
        let directions = if direction == "forward" { 1 } else { 2 };
        let units = self.integer("hidden_size", 0)?;
        let &[steps, 1, inputs] = self.floats(0)? else {
            return Err(self.fail("the input must be steps x 1 x values"));
        };
        let Some(h) = usize::try_from(units)
            .ok()
            .filter(|h| (1..=4096).contains(h))
        else {
            return Err(self.fail(format!("hidden_size is {units}")));
        };
        let want: [(&str, Vec<usize>); 3] = [
            ("weights", vec![directions, gates * h, inputs]),
            ("recurrent weights", vec![directions, gates * h, h]),
            ("biases", vec![directions, 2 * gates * h]),
        ];
        for (input, (what, want)) in (1..).zip(want) {
            let found = self.floats(input)?;
            if found != want {
                return Err(self.fail(format!("the {what} are {found:?}, wanted {want:?}")));
            }
        }
        let mut attributes = vec![
            AttributeProto {
                s: Some(direction.as_bytes().to_vec()),
                ..named("direction", attribute::STRING)
            },
            AttributeProto {
                i: Some(units),
                ..named("hidden_size", attribute::INT)
            },
        ];
        if gru {
            attributes.push(AttributeProto {
                i: Some(1),
                ..named("linear_before_reset", attribute::INT)
            });
        }
        let dims = if self.proto.output.len() == 1 {
            vec![steps, directions, 1, h]
        } else {
            vec![directions, 1, h]
        };
        Ok((dims, attributes))
    }

    /// Over one dimension, stride 1, no padding: `1 x inputs x steps` to `1 x outputs x (steps - taps + 1)`.
    fn convolution(&self) -> Result<Inferred, ModelError> {
        self.count(3..=3)?;
        self.only(&["kernel_shape"])?;
        let (&[1, channels, steps], &[outputs, inputs, taps], &[biases]) =
            (self.floats(0)?, self.floats(1)?, self.floats(2)?)
        else {
            return Err(self.fail("wanted 1 x inputs x steps, outputs x inputs x taps, outputs"));
        };
        let kernel = self.list("kernel_shape")?;
        if channels != inputs || biases != outputs || kernel.is_some_and(|k| k != [taps]) {
            return Err(self.fail("weights, biases and kernel_shape do not fit together"));
        }
        if taps > steps {
            return Err(self.fail(format!("{taps} taps over {steps} steps")));
        }
        Ok((
            vec![1, outputs, steps - taps + 1],
            vec![ints("kernel_shape", &[taps])],
        ))
    }

    /// Over one dimension, no padding.
    fn pool(&self) -> Result<Inferred, ModelError> {
        self.count(1..=1)?;
        self.only(&["kernel_shape", "strides"])?;
        let &[1, channels, steps] = self.floats(0)? else {
            return Err(self.fail("the input must be 1 x channels x steps"));
        };
        let single = |name: &str| -> Result<usize, ModelError> {
            match self.list(name)?.as_deref() {
                Some(&[n]) if (1..=steps).contains(&n) => Ok(n),
                other => Err(self.fail(format!("attribute {name:?} is {other:?}"))),
            }
        };
        let (kernel, stride) = (single("kernel_shape")?, single("strides")?);
        let attributes = vec![ints("kernel_shape", &[kernel]), ints("strides", &[stride])];
        Ok((vec![1, channels, (steps - kernel) / stride + 1], attributes))
    }
}

/// A list attribute.
pub(crate) fn ints(name: &str, numbers: &[usize]) -> AttributeProto {
    AttributeProto {
        ints: numbers.iter().map(|&n| n as i64).collect(),
        ..named(name, attribute::INTS)
    }
}

pub(crate) fn named(name: &str, r#type: i32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: Some(r#type),
        ..AttributeProto::default()
    }
}
