//! The privacy budget and the only way to make a differentially private number.
//!
//! Rows of (user, value) go in, a [`Released`] value comes out, and the [`Ledger`] pays for it first. In Chaff's data
//! flow this is the last step before telemetry leaves the gateway. The crate knows nothing of packets, does no I/O
//! (`chaff-ledger` keeps a ledger in a file) and depends on no other Chaff crate, so an audit of the privacy claim reads only this crate and OpenDP.
//!
//! ```
//! use chaff_privacy::{Bounds, Epsilon, Ledger, Noise};
//!
//! let mut file = Vec::new(); // stands for the file that holds the ledger
//! let mut ledger = Ledger::open(Epsilon::new(1.0)?, 0.0, &file)?;
//! if let Some(store) = ledger.to_store() {
//!     file.truncate(store.keep);
//!     file.extend_from_slice(&store.append); // and make it durable
//!     ledger.mark_stored();
//! }
//! let pending = ledger.spend("bytes of the day", Epsilon::new(0.5)?)?;
//! file.extend_from_slice(pending.entry()); // durable before the next line
//! let grant = pending.stored();
//! let rows = [("cam", 900.0), ("cam", 700.0), ("plug", 40.0)];
//! let per_user = Bounds::new(0.0, 1000.0, 1.0)?.unit("bytes");
//! let total = grant.sum(rows, &per_user, Noise::System)?;
//! println!("{} ± {} {}", total.value(), total.half_width(), total.unit());
//! assert!(ledger.spend("once more", Epsilon::new(0.6)?).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//! *Relation*: two inputs are neighbours when one has all rows of one more user than the other. *Guarantee*: everything
//! ever released from one ledger is ε-differentially private for that relation, ε being the ledger's total, for any
//! order of questions and when later questions depend on earlier answers (sequential composition of pure ε; the sum of
//! ε is a valid filter under full adaptivity: Rogers, Roth, Ullman, Vadhan, "Privacy Odometers and Filters", 2016).
//! With [`Ledger::spend_approximate`] it is (ε, δ), δ being the sum of what those releases paid.
//! A label is stored and released in the clear: it must not depend on the data.
//!
//! # What it does not do
//! The approximate (δ > 0) mechanisms are [`Tables`] and [`Gradients`]; numbers go through [`Grant::sum`] and its like. The hash chain finds
//! accidents and careless edits, not an owner who recomputes it: there is no key. Time per release is not constant.
//! The noise generator of a live release is OpenDP's: without OpenSSL that is ChaCha20 keyed by the operating system
//! and rekeyed every 64 KiB, which the `rand` crate calls cryptographic and OpenDP's documentation does not.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod epsilon;
mod grant;
mod ledger;
mod noise;
mod rdp;
mod released;
pub mod telemetry;
mod vector;
mod zcdp;

pub use epsilon::{Epsilon, EpsilonError};
pub use grant::{Bounds, BoundsError, Grant, ReleaseError};
pub use grant::{Deviation, Expected, Mean, Percent, Percentile};
pub use ledger::{
    Budget, CutLine, DAY_NS, Day, Expense, Head, Ledger, LedgerError, Paid, Pending, PendingGrant,
    Refused, Rho, ToStore,
};
pub use noise::Noise;
pub use rdp::{Gradients, Run, Sampled, epsilon_of_sampled};
pub use released::{Mechanism, Released};
pub use zcdp::{Charge, Entropy, Tables, epsilon_of_rho, rho_of_epsilon};
