//! Replays captures into interfaces at exact times, and checks that everything arrives.
//!
//! Data flow: `captures → `[`Capture`]` → `[`Plan`]` (per interface: bytes and due times) → a sending thread per
//! interface → `[`Report`]. Start at [`run`]; the program `replay` is a thin command line around it. Each sending
//! thread follows an absolute schedule on the monotonic clock, hands everything that is due to the kernel in one
//! call, and allocates nothing while it sends. With [`Options::verify`] a second thread per interface receives what
//! comes out at the other side and compares it frame by frame.
//!
//! ```
//! use chaff_abi::Nanos;
//! use chaff_replay::{Pacing, Timeline};
//! // Two packets 10 ms apart, replayed four times as fast.
//! let captured = [(Nanos::from_millis(70), 60), (Nanos::from_millis(80), 60)];
//! let timeline = Timeline::new(Pacing::Capture { speed: 4.0 }, captured);
//! assert_eq!(timeline.due, [Nanos::ZERO, Nanos::from_micros(2_500)]);
//! ```
//!
//! It keeps no connection state: TCP is replayed as it was captured, whatever the peer says.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod capture;
pub mod devices;
mod error;
pub mod frame;
pub mod headers;
mod options;
pub mod outlet;
pub mod plan;
pub mod report;
mod rewrite;
mod run;
mod schedule;
pub mod send;
#[expect(unsafe_code, reason = "system calls; the only file with unsafe code")]
pub mod sys;
pub mod verify;

pub use capture::{Capture, LoadOptions};
pub use devices::Devices;
pub use error::ReplayError;
pub use options::{Options, Place, Synthetic, Target};
pub use plan::{Oversize, Plan};
pub use report::Report;
pub use rewrite::Rewrite;
pub use run::{Observer, Silent, run};
pub use schedule::{Pacing, Timeline, loop_start};
