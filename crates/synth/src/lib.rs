//! Synthetic header traces: tables of one-way flows in, a model, tables of the same kind out.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
mod capture;
mod chain;
mod csv;
mod encode;
mod error;
mod fit;
mod grid;
mod marginal;
mod model;
mod packets;
mod rules;
mod sample;
mod state;
mod table;

pub use capture::{ACTIVE_US, Capture, IDLE_US, MAX_PACKETS, read_capture};
pub use csv::{protocol_name, read_csv, write_csv};
pub use error::SynthError;
pub use fit::{Options, PrivateOptions, fit, fit_capture, fit_private};
pub use model::{Engine, Info, Method, Model, Paid, Privacy, Unit};
pub use packets::{MAX_WRITTEN, write_pcap};
pub use table::{MAX_LABELS, MAX_RECORDS, Record, Table, has_ports, header_bytes};
