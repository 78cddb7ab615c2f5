//! Tables of flows out: CSV, JSON lines, Parquet, IPFIX; anonymised, rotated, packed. Parquet in: opened with its sizes checked.
//!
//! Data flow: `columns and rows of values (chaff_flow) → [`Anonymizer`] → [`Output`] → [`Target`]`. Which profile or
//! plugin made the columns does not matter here. Start at [`Output`].
//!
//! ```
//! use chaff_export::{Anonymizer, Csv, Dialect, Key, Mode, Output};
//! use chaff_flow::{Column, Kind, Value};
//! let column = |name, kind| Column { name, kind, unit: "".into(), doc: "".into() };
//! let columns = [column("src_ip".into(), Kind::Text), column("packets".into(), Kind::Unsigned)];
//! let (mut anonymizer, missing) = Anonymizer::new(&columns, ["src_ip"], Mode::Prefix, &Key::new(&[7; 32])?);
//! assert!(missing.is_empty());
//! let mut row = [Value::Ip([10, 0, 0, 1].into()), Value::Unsigned(3)];
//! anonymizer.apply(&mut row);
//! let mut file = Vec::new();
//! let mut output: Box<dyn Output + '_> =
//!     Box::new(Csv::new(&mut file, &anonymizer.columns(&columns), Dialect::Native));
//! output.write(&row)?;
//! output.finish()?;
//! assert_eq!(file, b"src_ip,packets\n69.63.224.1,3\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It reads no clock, draws no random key, and sleeps for no slow collector: that is the caller's work.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod anonymize;
mod arrow_schema;
mod check;
mod compact;
mod cryptopan;
mod csv;
mod gzip;
mod ipfix;
mod jsonl;
mod lines;
mod output;
mod parquet;
mod rotate;

pub use anonymize::{Anonymizer, Key, KeyError, Mode};
pub use check::{MOST_PAGE, ParquetFlaw, open_parquet};
pub use csv::{Csv, Dialect};
pub use gzip::Gzip;
pub use ipfix::{
    Collector, CollectorError, Ipfix, IpfixOptions, Transport, UdpTarget, ipfix_elements,
};
pub use jsonl::JsonLines;
pub use output::{Output, Target, WholeFile};
pub use parquet::{Parquet, ParquetOptions};
pub use rotate::{Make, Part, Remove, Rotating, Rotation};

use output::check_row;
