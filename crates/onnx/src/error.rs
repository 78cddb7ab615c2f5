use thiserror::Error;

/// Why a model was not loaded, not run or not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The file, or a part of it, is larger than allowed.
    #[error("{part} is too large: {found}, at most {limit}")]
    TooLarge {
        /// Which part.
        part: &'static str,
        /// Its size (bytes, nodes, elements).
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// The bytes are not an ONNX model.
    #[error("not an ONNX model: {0}")]
    Malformed(String),
    /// The metadata has no field of Chaff's signature: a model from elsewhere.
    #[error(
        "the model carries no Chaff signature: no `{field}` among its {properties} metadata properties; \
         write it with `trainer`, or sign it with chaff_onnx::sign"
    )]
    NotSigned {
        /// The key that was looked for first.
        field: &'static str,
        /// How many metadata properties there are.
        properties: usize,
    },
    /// A field of the signature is absent.
    #[error("the signature lacks `{field}`")]
    MissingField {
        /// Metadata key.
        field: &'static str,
    },
    /// A field of the signature has a value that it cannot have.
    #[error("signature field `{field}` is {found:?}, wanted {want}")]
    BadField {
        /// Metadata key.
        field: &'static str,
        /// Its text.
        found: String,
        /// What it may be.
        want: String,
    },
    /// The model is of another kind than the caller can use.
    #[error("this is a model of kind {found:?}, wanted {want:?}")]
    WrongKind {
        /// Kind in the file.
        found: String,
        /// Kind asked for.
        want: String,
    },
    /// Graph or signature were changed after the model was signed.
    #[error("the model was changed after it was signed: digest {found}, signed {want}")]
    Digest {
        /// SHA-256 of the content, hexadecimal.
        found: String,
        /// SHA-256 in the signature.
        want: String,
    },
    /// An input or output has a size that is not a number.
    #[error(
        "{value:?} has the symbolic or unknown dimension {dimension:?} at axis {axis}; export the model with fixed sizes and batch 1"
    )]
    Symbolic {
        /// Name of the input or output.
        value: String,
        /// Index of the dimension.
        axis: usize,
        /// Its symbol, empty when nothing was given.
        dimension: String,
    },
    /// The graph is not one that this crate hands to the inference runtime.
    #[error("at {place}: {what}")]
    Graph {
        /// Node, tensor or value.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The runtime's answer differs from the one stored in the file.
    #[error(
        "self-test failed: vector {vector}, output {output}, element {element} is {found}, stored {want}"
    )]
    SelfTest {
        /// Index of the stored vector.
        vector: usize,
        /// Index of the model's output.
        output: usize,
        /// Index in the flattened output.
        element: usize,
        /// What the runtime computed.
        found: f32,
        /// What the file says.
        want: f32,
    },
    /// Inputs or outputs given to `run` do not fit the model.
    #[error("{what} {index} has {found} elements, the model has {want}")]
    Shape {
        /// `input`, `output`, `inputs` or `outputs`.
        what: &'static str,
        /// Position.
        index: usize,
        /// Given.
        found: usize,
        /// In the model.
        want: usize,
    },
    /// The inference runtime refused.
    #[error("inference runtime, {step}: {text}")]
    Runtime {
        /// What it was asked to do.
        step: &'static str,
        /// Its message.
        text: String,
    },
}

impl ModelError {
    pub(crate) fn graph(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Graph {
            place: place.into(),
            what: what.into(),
        }
    }
}
