//! Which checkpoint is best: the smallest sum of ranks over the fields' distances, as NetShare chooses.

use std::collections::BTreeMap;

use super::chunk::Plan;
use super::column::{Kind, Row};
use super::field::{Code, Field};
use crate::measure::{divergence, wasserstein};

/// The distance of each field of made-up rows from real ones: divergence of what is discrete, earth mover's distance of
/// numbers and times; of captures also that of packets of a flow.
pub(crate) fn distances(plan: &Plan, kind: Kind, real: &[Row], made: &[Row]) -> Vec<f64> {
    let distance = |real: &mut dyn Iterator<Item = f64>, made: &mut dyn Iterator<Item = f64>| {
        let sorted = |values: &mut dyn Iterator<Item = f64>| {
            let mut v: Vec<f64> = values.collect();
            v.sort_by(f64::total_cmp);
            v
        };
        wasserstein(&sorted(real), &sorted(made))
    };
    let field = |field: &Field| {
        let of =
            |rows: &[Row]| -> Vec<f64> { rows.iter().map(|r| r.number(field.column)).collect() };
        let (real, made) = (of(real), of(made));
        match &field.code {
            Code::Number(_) => distance(&mut real.into_iter(), &mut made.into_iter()),
            Code::Bits(_) | Code::Word | Code::Choice(_) => divergence(
                real.into_iter().map(f64::to_bits),
                made.into_iter().map(f64::to_bits),
            ),
        }
    };
    let mut out: Vec<f64> = plan
        .metadata
        .iter()
        .chain(&plan.series)
        .map(field)
        .collect();
    let start =
        |rows: &[Row]| -> Vec<f64> { rows.iter().map(|r| r.record.start_us as f64).collect() };
    out.push(distance(
        &mut start(real).into_iter(),
        &mut start(made).into_iter(),
    ));
    if kind == Kind::Packets {
        let sizes = |rows: &[Row]| -> Vec<f64> {
            let mut counts: BTreeMap<Vec<u64>, f64> = BTreeMap::new();
            for row in rows {
                let key = plan
                    .metadata
                    .iter()
                    .map(|f| row.number(f.column).to_bits())
                    .collect();
                *counts.entry(key).or_default() += 1.0;
            }
            counts.into_values().collect()
        };
        out.push(distance(
            &mut sizes(real).into_iter(),
            &mut sizes(made).into_iter(),
        ));
    }
    out
}

/// Index of the candidate with the smallest sum of ranks (equal distances share their mean rank); of equals the last,
/// which has trained longest.
pub(crate) fn best(candidates: &[Vec<f64>]) -> usize {
    let fields = candidates.iter().map(Vec::len).min().unwrap_or(0);
    let rank = |i: usize, field: usize| -> f64 {
        let own = candidates[i][field];
        let count = |wanted: std::cmp::Ordering| {
            let same = |c: &&Vec<f64>| c[field].total_cmp(&own) == wanted;
            candidates.iter().filter(same).count() as f64
        };
        count(std::cmp::Ordering::Less) + count(std::cmp::Ordering::Equal) / 2.0
    };
    let sums: Vec<f64> = (0..candidates.len())
        .map(|i| (0..fields).map(|f| rank(i, f)).sum())
        .collect();
    let mut best = 0;
    for (i, sum) in sums.iter().enumerate() {
        if *sum <= sums[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_decide_and_ties_go_to_the_last() {
        assert_eq!(
            best(&[
                vec![0.1, 9.0, 1.0],
                vec![0.2, 1.0, 0.5],
                vec![0.3, 2.0, 2.0]
            ]),
            1
        );
        assert_eq!(best(&[vec![1.0, 2.0], vec![2.0, 1.0]]), 1);
        assert_eq!(best(&[vec![1.0]]), 0);
    }
}
