use prost::Message;
use sha2::{Digest, Sha256};

use crate::check::{Checked, check, ints, named};
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, attribute, data_type, value_info,
};
use crate::scan::scan;
use crate::signature::{DIGEST, golden, hex};
use crate::{Golden, ModelError, Signature};

/// A value inside a [`Graph`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(String);

/// Kind of a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Gates in the order input, output, forget, cell.
    Lstm,
    /// Gates in the order update, reset, candidate; the reset gate acts after the recurrent product.
    Gru,
}

impl Cell {
    /// Number of gates.
    pub const fn gates(self) -> usize {
        match self {
            Self::Lstm => 4,
            Self::Gru => 3,
        }
    }
}

/// The numbers of a recurrent layer, row-major, directions one after the other (forward first).
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrent {
    /// Which kind.
    pub cell: Cell,
    /// 1, or 2 for both directions.
    pub directions: usize,
    /// Values of a step.
    pub inputs: usize,
    /// Units of each direction.
    pub units: usize,
    /// `directions x (gates * units) x inputs`.
    pub weights: Vec<f32>,
    /// `directions x (gates * units) x units`.
    pub recurrent: Vec<f32>,
    /// `directions x (2 * gates * units)`: those of the input, then those of the recurrent part.
    pub biases: Vec<f32>,
}

/// Builds a graph node by node and writes it with its signature.
///
/// All tensors are 32-bit floats, row-major, with fixed sizes and batch 1. Sizes are checked when the graph is written.
#[derive(Clone, Debug)]
pub struct Graph {
    proto: GraphProto,
    values: usize,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        let proto = GraphProto {
            name: name.to_owned(),
            ..GraphProto::default()
        };
        Self { proto, values: 0 }
    }

    /// Adds an input; the first of its sizes is the batch, 1.
    pub fn input(&mut self, name: &str, dims: &[usize]) -> Value {
        self.proto.input.push(value_info(name, dims));
        Value(name.to_owned())
    }

    /// Adds a constant, row-major.
    pub fn constant(&mut self, dims: &[usize], numbers: &[f32]) -> Value {
        let raw = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(dims, data_type::FLOAT, raw)
    }

    /// Adds a dense layer: `x * weights + bias` with `weights` of `inputs x outputs` (operator Gemm).
    pub fn gemm(&mut self, x: &Value, weights: &Value, bias: &Value) -> Value {
        let attributes = vec![AttributeProto {
            name: "transB".to_owned(),
            i: Some(0),
            r#type: Some(attribute::INT),
            ..AttributeProto::default()
        }];
        self.node("Gemm", &[x, weights, bias], attributes)
    }

    /// Adds `1 / (1 + exp(-x))`.
    pub fn sigmoid(&mut self, x: &Value) -> Value {
        self.node("Sigmoid", &[x], Vec::new())
    }

    /// Adds the hyperbolic tangent.
    pub fn tanh(&mut self, x: &Value) -> Value {
        self.node("Tanh", &[x], Vec::new())
    }

    /// Adds `max(x, 0)`.
    pub fn relu(&mut self, x: &Value) -> Value {
        self.node("Relu", &[x], Vec::new())
    }

    /// Adds rounding to the nearest whole number, half to even.
    pub fn round(&mut self, x: &Value) -> Value {
        self.node("Round", &[x], Vec::new())
    }

    /// Adds a product, element by element; sizes of 1 are repeated.
    pub fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Mul", &[a, b], Vec::new())
    }

    /// Adds a sum, element by element; sizes of 1 are repeated.
    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Add", &[a, b], Vec::new())
    }

    /// Adds a softmax over one axis, counted from the end when negative.
    pub fn softmax(&mut self, x: &Value, axis: i64) -> Value {
        let attributes = vec![AttributeProto {
            name: "axis".to_owned(),
            i: Some(axis),
            r#type: Some(attribute::INT),
            ..AttributeProto::default()
        }];
        self.node("Softmax", &[x], attributes)
    }

    /// Changes the order of dimensions; the first stays first.
    pub fn transpose(&mut self, x: &Value, order: &[usize]) -> Value {
        self.node("Transpose", &[x], vec![ints("perm", order)])
    }

    /// Puts values one after the other along an axis, counted from the end when negative.
    pub fn concat(&mut self, parts: &[&Value], axis: i64) -> Value {
        let attributes = vec![AttributeProto {
            i: Some(axis),
            ..named("axis", attribute::INT)
        }];
        self.node("Concat", parts, attributes)
    }

    /// Adds a recurrent layer on `steps x 1 x inputs`; it makes `steps x directions x 1 x units`, or, unless all steps are wanted, the
    /// last step of each direction, `directions x 1 x units`.
    pub fn recurrent(&mut self, x: &Value, layer: &Recurrent, all_steps: bool) -> Value {
        let (d, g, h) = (layer.directions, layer.cell.gates(), layer.units);
        let weights = self.constant(&[d, g * h, layer.inputs], &layer.weights);
        let recurrent = self.constant(&[d, g * h, h], &layer.recurrent);
        let biases = self.constant(&[d, 2 * g * h], &layer.biases);
        let direction: &[u8] = if d == 2 { b"bidirectional" } else { b"forward" };
        let mut attributes = vec![
            AttributeProto {
                s: Some(direction.to_vec()),
                ..named("direction", attribute::STRING)
            },
            AttributeProto {
                i: Some(h as i64),
                ..named("hidden_size", attribute::INT)
            },
        ];
        if layer.cell == Cell::Gru {
            attributes.push(AttributeProto {
                i: Some(1),
                ..named("linear_before_reset", attribute::INT)
            });
        }
        let op = match layer.cell {
            Cell::Lstm => "LSTM",
            Cell::Gru => "GRU",
        };
        let y = self.node(op, &[x, &weights, &recurrent, &biases], attributes);
        if !all_steps && let Some(node) = self.proto.node.last_mut() {
            node.output.insert(0, String::new());
        }
        y
    }

    /// Adds a convolution over the last dimension of `1 x inputs x steps` with weights of `outputs x inputs x taps`.
    pub fn conv(&mut self, x: &Value, weights: &Value, bias: &Value, taps: usize) -> Value {
        self.node(
            "Conv",
            &[x, weights, bias],
            vec![ints("kernel_shape", &[taps])],
        )
    }

    /// Adds the maximum of every `size` steps of `1 x channels x steps`.
    pub fn max_pool(&mut self, x: &Value, size: usize) -> Value {
        let attributes = vec![ints("kernel_shape", &[size]), ints("strides", &[size])];
        self.node("MaxPool", &[x], attributes)
    }

    /// Gives the same elements other sizes.
    pub fn reshape(&mut self, x: &Value, dims: &[usize]) -> Value {
        let raw = dims
            .iter()
            .flat_map(|&d| (d as i64).to_le_bytes())
            .collect();
        let shape = self.tensor(&[dims.len()], data_type::INT64, raw);
        self.node("Reshape", &[x, &shape], Vec::new())
    }

    /// Makes a node's value an output of the model, under a name.
    pub fn output(&mut self, name: &str, value: &Value, dims: &[usize]) {
        for node in &mut self.proto.node {
            for v in node.input.iter_mut().chain(&mut node.output) {
                if *v == value.0 {
                    name.clone_into(v);
                }
            }
        }
        self.proto.output.push(value_info(name, dims));
    }

    /// Writes the model with its signature and test vectors. The same arguments give the same bytes.
    ///
    /// `golden` holds 1 to 64 vectors that the trainer's own arithmetic computed; [`crate::Model::load`] compares them
    /// with the runtime's.
    ///
    /// # Errors
    /// What [`crate::Model::load`] would refuse: sizes that do not fit, a signature out of range, vectors of other sizes.
    pub fn to_bytes(
        &self,
        signature: &Signature,
        golden: &[Golden],
    ) -> Result<Vec<u8>, ModelError> {
        let model = ModelProto {
            graph: Some(self.proto.clone()),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(17),
            }],
            ..ModelProto::default()
        };
        write(check(&model)?, signature, golden)
    }

    fn tensor(&mut self, dims: &[usize], data_type: i32, raw: Vec<u8>) -> Value {
        let name = self.name();
        self.proto.initializer.push(TensorProto {
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: Some(data_type),
            name: name.clone(),
            raw_data: Some(raw),
            ..TensorProto::default()
        });
        Value(name)
    }

    fn node(&mut self, op: &str, inputs: &[&Value], attribute: Vec<AttributeProto>) -> Value {
        let name = self.name();
        self.proto.node.push(NodeProto {
            input: inputs.iter().map(|v| v.0.clone()).collect(),
            output: vec![name.clone()],
            op_type: op.to_owned(),
            attribute,
            ..NodeProto::default()
        });
        Value(name)
    }

    fn name(&mut self) -> String {
        self.values += 1;
        format!("v{}", self.values)
    }
}

/// Signs a model that another program exported (fixed sizes, batch 1, supported operators).
///
/// Other metadata, documentation strings and names of nodes are dropped.
///
/// # Errors
/// As [`Graph::to_bytes`], and [`ModelError::Malformed`] when `onnx` is not a model.
pub fn sign(onnx: &[u8], signature: &Signature, golden: &[Golden]) -> Result<Vec<u8>, ModelError> {
    write(check(&decode(onnx)?)?, signature, golden)
}

/// Decodes within bounds.
pub(crate) fn decode(bytes: &[u8]) -> Result<ModelProto, ModelError> {
    scan(bytes)?;
    ModelProto::decode(bytes).map_err(|e| ModelError::Malformed(e.to_string()))
}

fn write(
    checked: Checked,
    signature: &Signature,
    vectors: &[Golden],
) -> Result<Vec<u8>, ModelError> {
    signature.check()?;
    let Checked {
        mut model,
        inputs,
        outputs,
    } = checked;
    let mut properties = signature.to_properties(vectors);
    let sizes = |ports: &[crate::Port]| ports.iter().map(crate::Port::elements).collect::<Vec<_>>();
    for p in &properties {
        if p.key == "chaff.golden" {
            golden(&p.value, &sizes(&inputs), &sizes(&outputs))?;
        }
    }
    let digest = digest(&model, &properties);
    properties.push(StringStringEntryProto {
        key: DIGEST.to_owned(),
        value: digest,
    });
    model.metadata_props = properties;
    let bytes = model.encode_to_vec();
    scan(&bytes)?;
    Ok(bytes)
}

/// SHA-256 of the rebuilt graph with the signature's properties, sorted by key, the digest left out.
pub(crate) fn digest(model: &ModelProto, properties: &[StringStringEntryProto]) -> String {
    let mut signed = model.clone();
    signed.metadata_props = properties
        .iter()
        .filter(|p| p.key != DIGEST)
        .cloned()
        .collect();
    signed.metadata_props.sort_by(|a, b| a.key.cmp(&b.key));
    hex(&Sha256::digest(signed.encode_to_vec()))
}
