//! Tables of flows out: CSV, JSON lines, Parquet, IPFIX; anonymised, rotated.
//!
//! Data flow: `columns and rows of values (chaff_flow) → [`Anonymizer`] → [`Output`] → [`Target`]`. Which profile or
//! plugin made the columns does not matter here. Start at [`Output`].
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod anonymize;
mod arrow_schema;
mod cryptopan;
mod csv;
mod jsonl;
mod output;
mod parquet;
mod rotate;
mod text;

pub use anonymize::{Anonymizer, Key, KeyError, Mode};
pub use csv::{Csv, Dialect};
pub use jsonl::JsonLines;
pub use output::{Output, Target, WholeFile};
pub use parquet::{Parquet, ParquetOptions};
pub use rotate::{Make, Part, Rotating, Rotation};

use output::check_row;
