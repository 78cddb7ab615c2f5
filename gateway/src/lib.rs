//! Chaff's gateway as a library: what the program `gateway` is made of.
//!
//! `kernel's meter (datapath) -> engine::Gateway -> exports, injector`. Start at [`run`] for the live gateway and at
//! [`simulate`] for the same machine in virtual time. The state machines themselves are in `chaff-engine`.
#![warn(missing_docs)]

pub mod alerts;
pub mod archive;
pub mod captures;
pub mod classify;
pub mod config;
pub mod control;
pub mod datapath;
pub mod export;
pub mod file_id;
pub mod generators;
pub mod hints;
pub mod injector;
pub mod meter;
pub mod processes;
pub mod progress;
pub mod run;
pub mod run_config;
pub mod simulate;
pub mod supervise;
pub mod sys_net;
pub mod telemetry;
pub mod top;
pub mod tunnel;
pub mod units;
