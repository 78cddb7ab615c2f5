use prost::Message;
use sha2::{Digest, Sha256};

use crate::check::{Checked, check};
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
