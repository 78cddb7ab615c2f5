//! What is known of units while an engine reads flows, and the table that is made of it.

use std::collections::{BTreeMap, HashMap};

use crate::engine::{DIGITS, Table};
use crate::flows::{Format, Kind};
use crate::request::{Measure, Request};

/// Numbers that are not whole are counted up to here, so that no sum of them overflows.
const MOST: f64 = 1e28;

/// What is known of a unit so far.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Sum of the counted flows' values, of numbers that are not whole as [`whole`].
    pub sum: i128,
    /// How many counted flows there are, for means: with a value.
    pub count: u64,
    /// Flows by server name.
    pub names: HashMap<String, u64>,
}

/// What is known of all units. **Private.**
pub type Sums = HashMap<String, Sum>;

/// Adds what is known from other flows.
pub fn merge(into: &mut Sums, from: Sums) {
    if into.is_empty() {
        *into = from;
        return;
    }
    for (unit, sum) in from {
        let known = into.entry(unit).or_default();
        known.sum += sum.sum;
        known.count += sum.count;
        for (name, flows) in sum.names {
            *known.names.entry(name).or_default() += flows;
        }
    }
}

/// The table, in order of units, so that equal logs give equal tables.
pub fn table(sums: Sums, measure: &Measure, kind: Kind) -> Table {
    let sums: BTreeMap<String, Sum> = sums.into_iter().collect();
    let whole = |of: fn(&Sum) -> i128| {
        let rows = sums.iter().map(|(unit, sum)| {
            let value = of(sum).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
            (unit.clone(), value)
        });
        Table::Whole(rows.collect())
    };
    match measure {
        Measure::Bytes(_) => whole(|s| s.sum),
        Measure::Flows => whole(|s| s.count.into()),
        Measure::Any => whole(|s| i128::from(s.count > 0)),
        Measure::Mean(_) => {
            let one = match kind {
                Kind::Float => one(),
                _ => 1.0,
            };
            let rows = sums.into_iter().map(|(unit, s)| {
                let mean = (s.count > 0).then(|| s.sum as f64 / s.count as f64 / one);
                (unit, mean)
            });
            Table::Means(rows.collect())
        }
        Measure::Names => {
            let mut rows = Vec::new();
            for (unit, sum) in sums {
                let names: BTreeMap<String, u64> = sum.names.into_iter().collect();
                rows.extend(names.into_iter().map(|(name, n)| (unit.clone(), name, n)));
            }
            Table::Names(rows)
        }
    }
}

fn one() -> f64 {
    10f64.powi(DIGITS.into())
}

/// A number as it is summed: in whole steps of the last of [`DIGITS`].
pub fn whole(value: f64) -> i128 {
    (value * one()).round().clamp(-MOST, MOST) as i128
}

/// The kind of the column that a request takes the mean of.
pub fn column_kind(format: Format, request: &Request) -> Kind {
    let Measure::Mean(name) = &request.measure else {
        return Kind::Integer;
    };
    let column = format.columns().iter().find(|c| c.name == name);
    column.map_or(Kind::Float, |c| c.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_and_never_overflow() {
        for (value, want) in [(1.5, 1_500_000), (-0.000_000_4, 0), (-0.000_000_6, -1)] {
            assert_eq!(whole(value), want, "{value}");
        }
        assert!(whole(f64::MAX).checked_mul(1 << 32).is_some());
        assert_eq!(whole(f64::MIN), -whole(f64::MAX));
    }
}
