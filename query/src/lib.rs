//! Private answers to questions about flow logs: how much, how many, how long, over users, with a budget that lasts.
//!
//! A [`Request`] is checked against what is public, [paid](ask::ask) from a ledger, given to an
//! [engine](Engine), and the engine's exact table of units is clamped, noised and cached. Flow logs are Tstat's
//! (`log_tcp_complete`, any columns), nfdump's CSV (both headers) and JSON, Chaff's own CSV, and Parquet.
//!
//! # What is promised
//! *Relation*: two data sets are neighbours when one has all flows of one more unit, by default an address of the protected
//! side, see [`UnitKey`]. The answers of any 24 hours from one ledger together are (ε, δ)-differentially private, ε and δ
//! being its purses, and all of them ε with its total if it has one. Whoever asks sees three things only: checks of what
//! is public (the request, file names and sizes, headers, databases of prefixes), noised answers, and the ledger. Whatever
//! goes wrong after paying is answered as if there were no flows.
//!
//! # Map
//! [`request`] is what can be asked, [`flows`] the columns of the formats, [`source`] the files, [`text`], [`json`] and
//! [`parquet`] what is in them, as [`cell`]s; [`asn`] and [`units`] know addresses. [`import`] makes Parquet of the others.
//! An [`engine`] computes the exact table: [`plain`] does so in one pass, with [`sums`] and [`pattern`], which engines of
//! other programs share. [`release`] turns the table into an answer, [`ask`](mod@ask) is the whole way.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod ask;
pub mod asn;
pub mod cache;
pub mod cell;
pub mod command;
mod deltas;
pub mod engine;
pub mod flows;
pub mod import;
pub mod json;
pub mod manifest;
pub mod parquet;
pub mod pattern;
pub mod picture;
pub mod plain;
pub mod purse;
pub mod release;
pub mod request;
pub mod show;
pub mod source;
pub mod sums;
pub mod text;
pub mod units;
mod words;

pub use engine::{Databases, Engine, Table};
pub use flows::{Direction, Format};
pub use plain::Plain;
pub use release::Answer;
pub use request::{Filter, Request, Statistic, UnitKey};
