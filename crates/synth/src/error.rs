use chaff_privacy::ReleaseError;
use chaff_trace::TraceError;

/// Why a trace, a model or a request was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// A table of flows without a needed column.
    #[error("no column {name} in the header (also read as: {aliases}); the header has: {found}")]
    MissingColumn {
        /// NetShare's name of the column.
        name: &'static str,
        /// Other names that are understood.
        aliases: String,
        /// What the file has.
        found: String,
    },
    /// A value that cannot be right.
    #[error("line {line}, column {column}: {value:?} is not {allowed}")]
    Value {
        /// Line of the file, from 1.
        line: usize,
        /// Name in the header.
        column: String,
        /// As in the file, cut to 80 characters.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A line with another number of fields than the header.
    #[error("line {line} has {had} fields, the header has {needed}")]
    Fields {
        /// Line of the file, from 1.
        line: usize,
        /// Fields of the line.
        had: usize,
        /// Fields of the header.
        needed: usize,
    },
    /// Nothing to learn from.
    #[error("the input has no records")]
    Empty,
    /// More than is held in memory.
    #[error("more than {limit} {what}: split the input")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// An option outside what is allowed.
    #[error("{name}: {why}")]
    Option {
        /// Which option.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A value of a configuration outside what is allowed.
    #[error("key {key}: {value} is not {allowed}")]
    Config {
        /// Path of the key, with dots.
        key: String,
        /// As in the file, cut to 80 characters.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// Bytes that are not a model of this version.
    #[error("not a usable model: {0}")]
    Model(String),
    /// A capture could not be read or written.
    #[error(transparent)]
    Capture(#[from] TraceError),
    /// A paid release could not be made.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The input could not be read or the output written.
    #[error("cannot read or write")]
    Io(#[from] std::io::Error),
}
