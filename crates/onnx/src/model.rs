use std::sync::OnceLock;

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use prost::Message;

use crate::plan::Plan;
use crate::{Golden, Inspected, ModelError, Port, Signature, inspect};

/// Largest difference between the runtime's answer and a stored one, relative to the stored one where that is above 1.
/// Runtimes differ by 1e-7 of the output's scale; wrong ones by far more.
const TOLERANCE: f32 = 1e-4;

/// What computes.
enum Engine {
    /// Small feed-forward graphs: nothing is allocated in a run.
    Plan(Plan),
    /// All others.
    Runtime(Session),
}

/// A loaded, checked model.
pub struct Model {
    engine: Engine,
    signature: Signature,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("signature", &self.signature)
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .field("planned", &self.is_planned())
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Loads a model: everything that [`inspect`] checks, then the stored vectors against what runs it.
    ///
    /// Small feed-forward graphs, as generators of cover are, run in buffers made here, without the ONNX runtime and without an
    /// allocation; all others run in the runtime.
    ///
    /// # Errors
    /// See [`ModelError`]; nothing of the file reaches the runtime before all checks but the last have passed.
    pub fn load(bytes: &[u8], want_kind: &str) -> Result<Self, ModelError> {
        let inspected = inspect(bytes, want_kind)?;
        let engine = match inspected.plan() {
            Some(plan) => Engine::Plan(plan),
            None => Engine::Runtime(session(&inspected.graph.encode_to_vec())?),
        };
        Self::with(engine, inspected)
    }

    /// As [`Model::load`], but always in the ONNX runtime: to compare with.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_in_runtime(bytes: &[u8], want_kind: &str) -> Result<Self, ModelError> {
        let inspected = inspect(bytes, want_kind)?;
        let session = session(&inspected.graph.encode_to_vec())?;
        Self::with(Engine::Runtime(session), inspected)
    }

    fn with(engine: Engine, inspected: Inspected) -> Result<Self, ModelError> {
        let mut model = Self {
            engine,
            signature: inspected.signature,
            inputs: inspected.inputs,
            outputs: inspected.outputs,
        };
        model.self_test(&inspected.golden)?;
        Ok(model)
    }

    /// Whether it runs without the ONNX runtime.
    pub fn is_planned(&self) -> bool {
        matches!(self.engine, Engine::Plan(_))
    }

    /// What the model is.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Its inputs, in the order [`Model::run`] takes them.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// Its outputs, in the order [`Model::run`] fills them.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Runs the model once. Inputs and outputs are flattened, row-major.
    ///
    /// # Errors
    /// [`ModelError::Shape`] when a slice has the wrong length, [`ModelError::Runtime`] when the runtime refuses.
    pub fn run(&mut self, inputs: &[&[f32]], outputs: &mut [&mut [f32]]) -> Result<(), ModelError> {
        let wrong = |what, index, found, want| ModelError::Shape {
            what,
            index,
            found,
            want,
        };
        if inputs.len() != self.inputs.len() {
            return Err(wrong("inputs", 0, inputs.len(), self.inputs.len()));
        }
        if outputs.len() != self.outputs.len() {
            return Err(wrong("outputs", 0, outputs.len(), self.outputs.len()));
        }
        for (i, (port, out)) in self.outputs.iter().zip(outputs.iter()).enumerate() {
            if out.len() != port.elements() {
                return Err(wrong("output", i, out.len(), port.elements()));
            }
        }
        for (i, (port, x)) in self.inputs.iter().zip(inputs).enumerate() {
            if x.len() != port.elements() {
                return Err(wrong("input", i, x.len(), port.elements()));
            }
        }
        let session = match &mut self.engine {
            Engine::Plan(plan) => {
                plan.run(inputs, outputs);
                return Ok(());
            }
            Engine::Runtime(session) => session,
        };
        let mut values = Vec::with_capacity(inputs.len());
        for (port, x) in self.inputs.iter().zip(inputs) {
            let view = TensorRef::from_array_view((port.dims.clone(), *x))
                .map_err(|e| runtime("making an input", &e))?;
            values.push((port.name.as_str(), view));
        }
        let made = session
            .run(values)
            .map_err(|e| runtime("running the model", &e))?;
        for (i, (port, out)) in self.outputs.iter().zip(outputs).enumerate() {
            let value = made.get(&port.name).ok_or_else(|| ModelError::Runtime {
                step: "reading an output",
                text: format!("{:?} is missing", port.name),
            })?;
            let (_, numbers) = value
                .try_extract_tensor::<f32>()
                .map_err(|e| runtime("reading an output", &e))?;
            if numbers.len() != out.len() {
                return Err(wrong("output", i, numbers.len(), out.len()));
            }
            out.copy_from_slice(numbers);
        }
        Ok(())
    }

    fn self_test(&mut self, vectors: &[Golden]) -> Result<(), ModelError> {
        for (vector, golden) in vectors.iter().enumerate() {
            let inputs: Vec<&[f32]> = golden.inputs.iter().map(Vec::as_slice).collect();
            let mut made: Vec<Vec<f32>> =
                golden.outputs.iter().map(|o| vec![0.0; o.len()]).collect();
            let mut slices: Vec<&mut [f32]> = made.iter_mut().map(Vec::as_mut_slice).collect();
            self.run(&inputs, &mut slices)?;
            for (output, (made, want)) in made.iter().zip(&golden.outputs).enumerate() {
                for (element, (&found, &want)) in made.iter().zip(want).enumerate() {
                    let near = (found - want).abs() <= TOLERANCE * want.abs().max(1.0);
                    if !near {
                        return Err(ModelError::SelfTest {
                            vector,
                            output,
                            element,
                            found,
                            want,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

fn runtime(step: &'static str, error: &dyn std::fmt::Display) -> ModelError {
    ModelError::Runtime {
        step,
        text: error.to_string(),
    }
}

/// The process's one environment, on the tract backend.
fn environment() -> Result<&'static Environment, ModelError> {
    static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
    let made = ENVIRONMENT.get_or_init(|| {
        ort::set_api(ort_tract::api());
        ort::init().build().map_err(|e| e.to_string())
    });
    made.as_ref().map_err(|e| runtime("starting", e))
}

pub(crate) fn session(onnx: &[u8]) -> Result<Session, ModelError> {
    Session::builder(environment()?)
        .map_err(|e| runtime("starting a session", &e))?
        // Without it the backend optimises nothing and is 10 to 48 times slower.
        .with_optimization_level(GraphOptimizationLevel::Level3)
        .map_err(|e| runtime("setting the optimisation level", &e))?
        .commit_from_memory(onnx)
        .map_err(|e| runtime("loading the graph", &e))
}
