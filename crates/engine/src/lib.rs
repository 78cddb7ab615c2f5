//! The two state machines of Chaff: [`Gateway`] in the house, [`Sink`] at the far end.
//!
//! They compose metering (`chaff-flow`), alerts (`chaff-novelty`), cover (`chaff-cover`), cover datagrams (`chaff-wire`) and private releases
//! (`chaff-privacy`). They open no socket, read no clock and start no thread: a driver (the programs, or `chaff-sim`)
//! hands in frames, counts, datagrams and the time through `handle_*`, and drains `poll_*` until `None`.
//!
//! ```
//! use chaff_abi::Nanos;
//! use chaff_engine::{Config, Gateway, Parts};
//! let parts = Parts { key: None, generators: vec![], releases: None, history: vec![] };
//! let mut gateway = Gateway::new(Config::default(), parts, [7; 32], Nanos::ZERO)?;
//! gateway.handle_timeout(Nanos::from_secs(1));
//! assert!(gateway.poll_event().is_none());
//! # Ok::<(), chaff_engine::ConfigError>(())
//! ```
//!
//! `now` never goes backwards: an earlier one is taken as the latest seen. Real packets pass through neither machine.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod alert;
mod config;
mod event;
mod gateway;
pub mod schedule;
mod sink;
mod stamp;
mod telemetry;
mod watch;

pub use alert::{Alert, AlertConfig, Evidence, Novelty, Severity, Way};
pub use chaff_cover::Tally;
pub use config::{Config, ConfigError, Device, Source, mapped};
pub use event::{Event, Seconds, SlotTotals};
pub use gateway::{DeviceTotals, Gateway, GatewayReport, OverheadReport, Parts, Plan, Transmit};
pub use sink::{MAX_PAYLOAD, Sink, SinkConfig, SinkReport, SinkTransmit, Verdict};
pub use stamp::Stamp;
pub use telemetry::{Releases, Signal};
pub use watch::{AcceptError, check_history};
