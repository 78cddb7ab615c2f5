//! What Chaff's parsers of outside bytes must do with *any* bytes: one module a target, one function `run` in each.
//!
//! Data flow: `bytes → target → assertions`. libFuzzer calls the functions with bytes of its own making
//! (`cargo xtask fuzz`, binaries in `tests/fuzz`); `tests/replay.rs` calls them on stable Rust with the committed inputs of
//! `tests/fuzz/corpus`. Each module's first lines say what must hold; "no panic" and bounded memory hold for all.
//!
//! ```
//! for target in chaff_fuzz_targets::TARGETS {
//!     (target.run)(b"any bytes");
//! }
//! ```
//!
//! Seeds come from [`Target::seeds`]; `cargo run -p chaff-fuzz-targets --example seeds` writes them.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
// A target is a test: what does not hold must stop it.
#![allow(clippy::unwrap_used, reason = "a failed expectation is a finding")]

mod bytes;
pub mod conf;
pub mod dissector;
mod frames;
pub mod history;
pub mod key;
pub mod ledger;
pub mod model;
pub mod nfstream;
pub mod onnx;
pub mod parse;
pub mod payload;
pub mod query_json;
pub mod query_parquet;
mod quic;
pub mod rows;
mod scratch;
pub mod sink;
pub mod table;
pub mod trace;
pub mod tunnel;
pub mod tunnels;
pub mod wire;

pub use bytes::Bytes;

/// Named inputs that a target starts from.
pub type Seeds = Vec<(String, Vec<u8>)>;

/// One fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name of the module, the binary and the corpus folder.
    pub name: &'static str,
    /// Takes any bytes; panics when an invariant does not hold.
    pub run: fn(&[u8]),
    /// Makes the inputs that it starts from; always the same.
    pub seeds: fn() -> Seeds,
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        /// All targets in alphabetical order.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $name::run,
            seeds: $name::seeds,
        }),*];
    };
}

targets![
    conf,
    dissector,
    history,
    key,
    ledger,
    model,
    nfstream,
    onnx,
    parse,
    payload,
    query_json,
    query_parquet,
    rows,
    sink,
    table,
    trace,
    tunnel,
    tunnels,
    wire,
];
