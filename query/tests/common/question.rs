//! A question to change one part of. `query-cluster`'s tests and examples use this file too.

use chaff_privacy::Epsilon;
use chaff_query::request::{Clamp, Measure};
use chaff_query::{Direction, Filter, Request, Statistic, UnitKey};

/// The sum of `measure` over all outgoing flows, by address.
pub(crate) fn request(measure: Measure) -> Request {
    Request {
        direction: Direction::Outgoing,
        home: Vec::new(),
        unit: UnitKey::Address,
        filter: Filter::default(),
        measure,
        statistic: Statistic::Sum {
            bounds: Clamp::Public(0.0, 1e9),
        },
        epsilon: Epsilon::new(1.0).expect("an epsilon"),
        delta: None,
    }
}
