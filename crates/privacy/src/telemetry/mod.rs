//! Live telemetry that can run for ever: totals of a place's devices, noised once a window and replayed to whoever asks.
//!
//! A value is noised **once** for its window; asking again gives the same number ([`Exporter::published`]), also after a
//! restart. Tiers, each optional but the first:
//!
//! | tier | what | protects | paid from |
//! | --- | --- | --- | --- |
//! | [`Tier::Totals`] | one vector of totals a window of [`Plan`] | one UTC day of one device (or any 24 h: [`Cap::Window`]) | ε or ρ of the day |
//! | [`Tier::Flows`] | flows and their bytes each minute | one flow, **not** a device's presence | noted: each flow is in one minute, so ε is spent once for ever |
//! | [`Tier::Counters`] | totals since a start that never fall, by a tree | one UTC day of one device | ρ of the day |
//! | [`Sparse`] (experimental) | totals only when a noised distance says that they moved | any 24 h of one device | half of ε for the decisions, half for the values |
//!
//! Devices are numbers that stand for a public inventory. What a device adds to all metrics together is clipped to a norm
//! ([`Aim::norm`], in parts of each metric's public bound) before anything is summed.
//!
//! # What must be stored, and when
//! [`Exporter::poll`] pays ([`Book::pay`], durable), draws the noise, stores the state ([`Book::store`], durable) and only then
//! gives the value. A crash in between loses the window: it is never noised again, because the ledger keeps the last window of
//! each series. A state file that is older than the ledger (a crash at the wrong moment, or a restored backup) is not trusted:
//! with [`Cap::Day`] nothing is released until the next UTC day, since what each device has left is not known.
//!
//! With [`Config::pan_private`] the exact totals of the open window are nowhere but in memory and counters hold noise from
//! their beginning, so that the state file, or one look at the memory of counters, gives no exact number away.

mod allowance;
mod book;
mod counter;
mod exporter;
mod flows;
mod plan;
mod sparse;
mod state;
mod totals;

pub use allowance::Cap;
pub use book::{Book, BoxError, MemoryBook, PayError};
pub use exporter::{
    Config, ConfigError, Counters, Exporter, Flows, Metric, Published, Tier, Unreleased,
};
pub use plan::{Aim, MEAN_OF_BOUND, PERIODS_S, Plan, PlanError, Size};
pub use sparse::Sparse;
