//! Engines compute the exact table of units. Nothing of it leaves this process but through [`crate::release`].

use std::sync::Arc;

use crate::asn::Asns;
use crate::request::{Measure, Request};
use crate::source::Source;
use crate::units::Units;

/// Files of addresses that a question needs.
#[derive(Clone, Debug, Default)]
pub struct Databases {
    /// For a filter by autonomous system.
    pub asns: Option<Arc<Asns>>,
    /// For [`crate::UnitKey::Listed`].
    pub units: Option<Arc<Units>>,
}

/// Digits after the point that numbers are summed with: sums of whole numbers do not depend on the order of flows.
pub const DIGITS: i8 = 6;

/// What is counted of each unit, exact. **Private.**
#[derive(Clone, Debug, PartialEq)]
pub enum Table {
    /// Sums of bytes, numbers of flows, or 0 and 1.
    Whole(Vec<(String, i64)>),
    /// Means; units without a value have none.
    Means(Vec<(String, Option<f64>)>),
    /// Unit, server name, flows.
    Names(Vec<(String, String, u64)>),
}

/// It did not work. What went wrong may tell of the data, so it is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the query engine failed")]
pub struct Failure;

/// It cannot begin. Comes before paying, and depends on what is public only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unready(pub String);

/// Something that computes tables of units.
pub trait Engine {
    /// Whether it can begin now, decided without looking at flows. Asked before paying: within seconds.
    ///
    /// # Errors
    /// [`Unready`]; nothing is paid.
    fn ready(&self, _source: &Source, _request: &Request) -> Result<(), Unready> {
        Ok(())
    }

    /// The exact table of a checked request over checked files.
    ///
    /// # Errors
    /// [`Failure`], which never tells why.
    fn table(
        &self,
        source: &Source,
        request: &Request,
        databases: &Databases,
    ) -> Result<Table, Failure>;

    /// Why it failed the last time. **For the owner's log only**: there may be rows in it.
    fn last_failure(&self) -> Option<String> {
        None
    }
}

impl Table {
    /// What the answer is made of when there are no flows, or the engine failed.
    pub fn empty(measure: &Measure) -> Self {
        match measure {
            Measure::Mean(_) => Self::Means(Vec::new()),
            Measure::Names => Self::Names(Vec::new()),
            Measure::Bytes(_) | Measure::Flows | Measure::Any => Self::Whole(Vec::new()),
        }
    }
}

/// Threads for a number given on a command line; 0 is one for each processor.
pub fn threads(given: usize) -> usize {
    match given {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}
