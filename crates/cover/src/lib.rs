//! Cover traffic for one device: how many dummies, how large, and when.
//!
//! `generator -> demand per slot -> timed dummies -> budget`, all without a clock or a socket. Start at [`Scheduler`]: it
//! owns a [`Generator`] and gives the dummies of a slot; [`place`] is the part that turns a [`Demand`] into [`Dummy`]s.
//! [`parity`] reads and writes demands as CSV. Sealing and sending is done elsewhere (`chaff-wire`, `chaff-engine`).
//!
//! ```
//! use chaff_abi::Nanos;
//! use chaff_cover::{Constant, Scheduler, SchedulerConfig, Window};
//! let config = SchedulerConfig { label: "camera".into(), ..SchedulerConfig::default() };
//! let generator = Box::new(Constant::default());
//! let mut scheduler = Scheduler::new(config, generator, [7; 32], Nanos::from_secs(100));
//! let past = Window::new(40); // real traffic; these generators do not look at it
//! let mut dummies = Vec::new();
//! for slot in 0..600 {
//!     scheduler.plan(slot, &past, &mut dummies)?;
//! }
//! let cost = scheduler.overhead();
//! assert_eq!(cost.packets(), dummies.len() as u64);
//! assert!(dummies.iter().all(|d| d.at >= Nanos::from_secs(100) && d.at < Nanos::from_secs(160)));
//! # Ok::<(), chaff_cover::CoverError>(())
//! ```
//!
//! Everything is a function of the seed, the device's label and the slot's number: two runs agree to the byte, a slot
//! that was skipped does not change the next one, and a draw more in one direction leaves the other alone. Cover
//! that reacts to real traffic is possible (a generator sees a [`Window`]), but the built-in ones do not look.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod bucket;
mod bursts;
mod clock;
mod demand;
mod draw;
mod envelope;
mod error;
mod generator;
mod mask;
#[cfg(feature = "onnx")]
mod onnx;
mod onoff;
mod overhead;
pub mod parity;
mod place;
mod polls;
mod recorded;
mod scheduler;
mod streams;
mod tally;

pub use bucket::TokenBucket;
pub use bursts::BurstConfig;
pub use clock::{ReleaseClock, Waiting};
pub use demand::{Demand, Window};
pub use envelope::{BINS, Envelope, EnvelopeConfig, Planned};
pub use error::CoverError;
pub use generator::{Generator, NAMES, None_, by_name};
pub use mask::Mask;
#[cfg(feature = "onnx")]
pub use onnx::{MODELS, OnnxGenerator, compress, model, standard_normal};
pub use onoff::{Constant, Random, RandomPlus};
pub use overhead::{DirOverhead, HEADERS_V4, HEADERS_V6, Overhead};
pub use place::{Dummy, Limits, Placed, place, place_direction, place_sizes};
pub use polls::PollConfig;
pub use recorded::Recorded;
pub use scheduler::{Budget, Mode, Scheduler, SchedulerConfig};
pub use tally::Tally;
