//! Loads, checks, runs and writes ONNX models that carry their own signature.
//!
//! Where it sits: `trainer` writes generators with [`Graph::to_bytes`]; `cover` loads them with [`Model::load`] and asks
//! them for demands, slot by slot. This is the only crate that knows the inference runtime (`ort` on the tract backend).
//!
//! ```
//! use chaff_onnx::{Golden, Graph, IPET_SLOTS, SIGNATURE_VERSION, Signature};
//!
//! let mut graph = Graph::new("halver");
//! let x = graph.input("x", &[1, 2]);
//! let half = graph.constant(&[1], &[0.5]);
//! let y = graph.mul(&x, &half);
//! graph.output("y", &y, &[1, 2]);
//! let signature = Signature {
//!     version: SIGNATURE_VERSION, kind: "halver".into(), feature_kind: IPET_SLOTS.into(),
//!     rows: 1, columns: 2, slot_ms: 100, window_ms: 100, scale: vec![1.0, 1.0], threshold: None,
//!     device_label: "plug".into(), chain: 0, stage: 1, seed: 7, training_digest: [0; 32],
//!     extras: Default::default(),
//! };
//! let golden = Golden { inputs: vec![vec![4.0, 6.0]], outputs: vec![vec![2.0, 3.0]] };
//! let bytes = graph.to_bytes(&signature, &[golden])?;
//!
//! # #[cfg(feature = "runtime")] {
//! use chaff_onnx::Model;
//! let mut model = Model::load(&bytes, "halver")?;
//! let mut y = [0.0; 2];
//! model.run(&[&[10.0, 1.0]], &mut [&mut y])?;
//! assert_eq!(y, [5.0, 0.5]);
//! # }
//! # Ok::<(), chaff_onnx::ModelError>(())
//! ```
//!
//! # What is checked before anything runs
//! Size of file and structure; signature present, in range and of the kind asked for; SHA-256 of graph and signature (it
//! finds accidents, it proves no origin: anybody can sign); every operator, constant, attribute and size. The graph is
//! rebuilt from what was understood, and only the rebuilt one reaches the runtime. At last the stored test vectors are
//! run and compared element by element to 1e-4, relative where values are above 1.
//!
//! # What runs it
//! Graphs of at most 131,072 elements that are made of Gemm with constant weights, Sigmoid, Tanh, Relu, Round, Mul, Add, Reshape and
//! Concat run in buffers made at loading, without an allocation and without the runtime, which gets all others.
//!
//! # What it does not do
//! No symbolic sizes, no batch but 1, no operator outside Gemm, Sigmoid, Tanh, Relu, Round, Mul, Add,
//! Reshape, Transpose, Concat, Softmax, LSTM, GRU, Conv and MaxPool over one dimension.
//! The tract backend panics on some graphs, inside a callback with C linkage: the process ends and nothing can
//! catch it. All such graphs that are known have symbolic sizes; the strict check keeps out whatever it has not sized.
//! A run-time loaded ONNX Runtime library is not offered.
//!
//! # Features
//! `runtime` adds `Model` and the inference runtime, which is most of the build. Without it files are written, signed
//! and checked ([`inspect`]), but not run.
#![forbid(unsafe_code)]

mod check;
mod error;
mod graph;
mod inspect;
#[cfg(feature = "runtime")]
mod model;
mod plan;
mod proto;
mod scan;
mod signature;
#[cfg(all(test, feature = "runtime"))]
mod tests;

pub use check::{MAX_NODES, Port};
pub use error::ModelError;
pub use graph::{Cell, Graph, Recurrent, Value, sign};
pub use inspect::{Inspected, inspect};
#[cfg(feature = "runtime")]
pub use model::Model;
pub use scan::MAX_FILE;
pub use signature::{
    Extras, Golden, IPET_ATTACKER, IPET_GENERATOR, IPET_SLOTS, SIGNATURE_VERSION, SIZE_BINS,
    Signature,
};
