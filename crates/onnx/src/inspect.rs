use crate::check::check;
use crate::graph::{decode, digest};
use crate::plan::Plan;
use crate::proto::ModelProto;
use crate::signature::{PREFIX, golden};
use crate::{Golden, ModelError, Port, Signature};

/// A model file of which everything was checked that can be checked without running it.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What the model is.
    pub signature: Signature,
    /// Its inputs.
    pub inputs: Vec<Port>,
    /// Its outputs.
    pub outputs: Vec<Port>,
    /// The stored test vectors; they fit the inputs and outputs and are finite.
    pub golden: Vec<Golden>,
    /// The graph as it was understood, without metadata: what the runtime would get.
    pub(crate) graph: ModelProto,
}

impl Inspected {
    /// The plan of the graph; `None` where the runtime is needed.
    pub(crate) fn plan(&self) -> Option<Plan> {
        Plan::of(self.graph.graph.as_ref()?, &self.inputs, &self.outputs)
    }

    /// What the graph makes of these inputs, without the runtime; `None` where that is needed, and for inputs that do not fit.
    pub fn run(&self, inputs: &[&[f32]]) -> Option<Vec<Vec<f32>>> {
        let sizes = self.inputs.iter().map(Port::elements);
        if !inputs.iter().map(|x| x.len()).eq(sizes) {
            return None;
        }
        let mut plan = self.plan()?;
        let mut made: Vec<Vec<f32>> = self
            .outputs
            .iter()
            .map(|p| vec![0.0; p.elements()])
            .collect();
        let mut slices: Vec<&mut [f32]> = made.iter_mut().map(Vec::as_mut_slice).collect();
        plan.run(inputs, &mut slices);
        Some(made)
    }
}

/// Reads a model without running it: bounds, signature, kind, graph, digest, stored vectors.
///
/// # Errors
/// Whatever is wrong with the bytes: see [`ModelError`].
pub fn inspect(bytes: &[u8], want_kind: &str) -> Result<Inspected, ModelError> {
    let proto = decode(bytes)?;
    let (signature, golden_text, signed) = Signature::from_properties(&proto.metadata_props)?;
    if signature.kind != want_kind {
        return Err(ModelError::WrongKind {
            found: signature.kind,
            want: want_kind.to_owned(),
        });
    }
    let checked = check(&proto)?;
    let ours: Vec<_> = proto
        .metadata_props
        .iter()
        .filter(|p| p.key.starts_with(PREFIX))
        .cloned()
        .collect();
    let found = digest(&checked.model, &ours);
    if found != signed {
        return Err(ModelError::Digest {
            found,
            want: signed.to_owned(),
        });
    }
    let sizes = |ports: &[Port]| ports.iter().map(Port::elements).collect::<Vec<_>>();
    let golden = golden(
        golden_text,
        &sizes(&checked.inputs),
        &sizes(&checked.outputs),
    )?;
    Ok(Inspected {
        signature,
        inputs: checked.inputs,
        outputs: checked.outputs,
        golden,
        graph: checked.model,
    })
}
