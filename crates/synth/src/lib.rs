//! Synthetic header traces: tables of one-way flows in, a model, tables of the same kind out.
//!
//! Data flow: `CSV or capture → [Table] → [fit] or [fit_private] → [Model] → [Engine::sample] → CSV or packets`. What
//! NetShare (Yin et al., "Practical GAN-based Synthetic IP Header Trace Generation using NetShare", SIGCOMM 2022) does
//! with a network per chunk of time is done here with conditional tables that are counted once:
//!
//! - [`Method::Sequence`] draws record after record in time. Each field is drawn given the fields before it, the last
//!   record of all, of the source, and of the pair of hosts; contexts back off from long to short with Kneser-Ney's
//!   discounts, so that what was seen once is more often replaced than repeated.
//! - [`Method::Marginal`] has tables of two to four fields and no memory between records. With [`fit_private`] every count
//!   has discrete Gaussian noise from a budget of [`chaff_privacy::Tables`]: bins, popular ports and hosts, and the number
//!   of records come from noisy counts as well. Nothing else of the data is in the model, and [`Privacy::verify`] recomputes
//!   the account whenever a model is read.
//! - [`Method::Doppelganger`] trains NetShare's own networks from its configuration file ([`read_config`],
//!   [`fit_doppelganger`]; with [`fit_doppelganger_private`] the critics' gradients have the noise).
//!
//! In any case the record count is exact, counters are whole numbers, protocol rules hold, times are in order, and the same
//! seed gives the same records.
//!
//! ```
//! use chaff_synth::{Engine, Options, TableMethod, fit, read_csv, write_csv};
//! let csv = "srcip,dstip,srcport,dstport,proto,ts,td,pkt,byt,type\n\
//!     10.0.0.1,9.9.9.9,40001,443,TCP,1458298072364000,0.5,10,4200,benign\n\
//!     10.0.0.2,9.9.9.9,40002,443,TCP,1458298072365000,0.7,12,5100,benign\n";
//! let table = read_csv(csv.as_bytes(), None)?;
//! let model = fit(&table, &Options { method: TableMethod::Sequence, fresh_addresses: true, seed: 1 })?;
//! let drawn = model.sample(1000, 7)?;
//! assert_eq!(drawn.records.len(), 1000);
//! write_csv(std::io::sink(), &drawn, false)?;
//! # Ok::<(), chaff_synth::SynthError>(())
//! ```
//!
//! # What it does not do
//! Models without `fit_private` carry no formal guarantee, whatever the addresses look like. Tunnels, payloads and
//! application data are not modelled; marginal records do not depend on each other. It opens no file and reads no clock.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
mod capture;
mod chain;
mod columns;
mod csv;
mod doppelganger;
mod encode;
mod engine;
mod error;
mod fit;
mod grid;
mod marginal;
mod measure;
mod model;
mod packets;
mod popular;
mod private_packets;
mod purse;
mod rules;
mod sample;
mod schema;
mod score;
mod state;
mod table;
mod timeline;
mod wire;

pub use capture::{ACTIVE_US, Capture, IDLE_US, MAX_PACKETS, read_capture};
pub use columns::{TableReader, protocol_name};
pub use csv::{read_csv, write_csv};
pub use doppelganger::{
    Config, Doppelganger, Losses, NetworkOptions, PrivateNetworkOptions, Progress, Rows, Settings,
    Unwatched, Watch, fit_doppelganger, fit_doppelganger_private, read_config,
};
pub use engine::{Engine, load};
pub use error::SynthError;
pub use fit::{Options, PrivateOptions, fit, fit_capture, fit_capture_private, fit_private};
pub use measure::{
    Both, Classifier, Curve, Curves, Distance, Downstream, Fidelity, Holdout, Kind, Measures, Near,
    Report, Sketch, Summary, Temporal, curves, evaluate, fidelity,
};
pub use model::{Info, Method, Model, Paid, Privacy, TableMethod, Unit};
pub use packets::{MAX_WRITTEN, PcapOptions, draw_frames, write_pcap};
pub use schema::Names;
pub use score::{Scores, score};
pub use table::{MAX_LABELS, MAX_RECORDS, Record, Table, has_ports, header_bytes};
