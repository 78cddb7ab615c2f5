//! What a private model knows of packets: from at most one packet of each flow, so that a flow counts once.

use std::collections::{BTreeMap, BTreeSet};

use chaff_privacy::ReleaseError;

use crate::Record;
use crate::address::key;
use crate::capture::{Capture, DONT_FRAGMENT, NO_ID, OPENS};
use crate::chain::{Chain, Level};
use crate::encode::{HOPS, Hops, PROTOCOL};
use crate::grid::octaves;
use crate::marginal::context;
use crate::packets::{
    Before, GAP_LEVELS, GAP_SYMBOLS, PacketModel, SIZE_LEVELS, gap_contexts, inner, size_contexts,
};
use crate::purse::{Purse, heavy, threshold};

/// One packet of a flow that is not its last, and one gap that is neither.
#[derive(Clone, Copy, Default)]
pub(crate) struct Chosen {
    /// What each packet left had on average, and the size.
    size: Option<(u64, u32)>,
    /// The same of gaps, as symbols.
    gap: Option<(u32, u32)>,
}

/// Shares of the budget.
pub(crate) struct Shares {
    sizes: f64,
    size: f64,
    gap: f64,
    ttl: f64,
    tos: f64,
    marks: f64,
}

pub(crate) const SHARES: Shares = Shares {
    sizes: 0.05,
    size: 0.06,
    gap: 0.05,
    ttl: 0.05,
    tos: 0.02,
    marks: 0.03,
};

impl Shares {
    pub(crate) fn sum(&self) -> f64 {
        self.sizes + self.size + self.gap + self.ttl + self.tos + self.marks
    }
}

/// A packet of each flow. Which one depends on nothing but the flow itself, so that a flow more or less changes no other's.
pub(crate) fn choose(capture: &Capture) -> Vec<Chosen> {
    let records = &capture.table.records;
    let pick = |r: &Record, salt: u64, from: u64, to: u64| {
        let h = key(&[salt, r.start_us, r.duration_us, r.bytes, r.packets]);
        (to > from).then(|| from + h % (to - from))
    };
    let wanted: Vec<[Option<u64>; 2]> = records
        .iter()
        .map(|r| [pick(r, 1, 0, r.packets - 1), pick(r, 2, 1, r.packets - 1)])
        .collect();
    let mut place = vec![0u64; records.len()];
    let mut out = vec![Chosen::default(); records.len()];
    for p in inner(capture) {
        let flow = p.flow as usize;
        let at = Some(place[flow]);
        place[flow] += 1;
        if wanted[flow][0] == at {
            out[flow].size = Some((p.mean_bytes, p.bytes));
        }
        if wanted[flow][1] == at {
            out[flow].gap = p.gap.map(|(before, symbol)| (before.mean, symbol));
        }
    }
    out
}

/// Learns sizes and gaps.
pub(crate) fn learn(
    chosen: &[Chosen],
    purse: &mut Purse<'_>,
) -> Result<(PacketModel, [Chain; 2]), ReleaseError> {
    let values: Vec<u64> = chosen
        .iter()
        .filter_map(|c| c.size.map(|(_, bytes)| u64::from(bytes)))
        .collect();
    let start = &octaves()[..17];
    let (sizes, ones) = purse.grid("packet sizes", SHARES.sizes, &values, start, 4)?;
    let model = PacketModel {
        sizes,
        times: None,
        counts: Vec::new(),
    };
    let bins = model.sizes.len();
    let hits = chosen.iter().map(|c| {
        let (mean, bytes) = c.size?;
        let at = model.sizes.find(mean) as usize * bins;
        Some(at + model.sizes.find(u64::from(bytes)) as usize)
    });
    let given = |mean: u32| Before {
        mean,
        ..Before::default()
    };
    let size = chain(
        "packet sizes given the mean of those left",
        (SHARES.size, bins, SIZE_LEVELS),
        hits,
        |mean| size_contexts(&given(mean))[SIZE_LEVELS - 2],
        Some(ones),
        purse,
    )?;
    let bins = GAP_SYMBOLS as usize;
    let hits = chosen.iter().map(|c| {
        let (mean, gap) = c.gap?;
        Some(mean as usize * bins + gap as usize)
    });
    let gap = chain(
        "gaps given the mean of those left",
        (SHARES.gap, bins, GAP_LEVELS),
        hits,
        |mean| gap_contexts(&given(mean))[GAP_LEVELS - 2],
        None,
        purse,
    )?;
    Ok((model, [size, gap]))
}

/// A chain whose last two levels have something: given the mean, and given nothing.
fn chain(
    name: &str,
    (share, bins, levels): (f64, usize, usize),
    hits: impl Iterator<Item = Option<usize>>,
    of: impl Fn(u32) -> u64,
    ones: Option<Vec<f64>>,
    purse: &mut Purse<'_>,
) -> Result<Chain, ReleaseError> {
    let (counts, sigma) = purse.count(name, share, bins * bins, hits)?;
    let least = threshold(sigma, bins * bins);
    let mut rows = BTreeMap::new();
    let mut sums = vec![0.0; bins];
    for (mean, row) in counts.chunks(bins.max(1)).enumerate() {
        let kept: Vec<(u32, f64)> = (0u32..)
            .zip(row)
            .filter(|(_, c)| **c >= least)
            .map(|(symbol, c)| (symbol, *c))
            .collect();
        for (symbol, c) in &kept {
            sums[*symbol as usize] += c;
        }
        let own: f64 = kept.iter().map(|k| k.1).sum();
        let rest = (row.iter().sum::<f64>() - own).max(0.0);
        rows.insert(of(mean as u32), (kept, rest));
    }
    let last = ones.unwrap_or(sums);
    let last = (0u32..).zip(last).collect();
    let mut all: Vec<Level> = (2..levels).map(|_| Level::from_weights([])).collect();
    all.push(Level::from_weights(
        rows.into_iter().map(|(k, (kept, rest))| (k, kept, rest)),
    ));
    all.push(Level::from_weights([(key(&[]), last, 0.0)]));
    Ok(Chain { levels: all })
}

/// TCP, UDP, others.
const CLASSES: [Option<u8>; 3] = [Some(6), Some(17), None];

/// Times to live, types of service and marks, as if they had nothing to do with each other but the protocol; and the tables
/// to draw them from, given the protocol and given nothing.
pub(crate) fn hops(
    records: &[Record],
    purse: &mut Purse<'_>,
) -> Result<(Vec<Hops>, Chain), ReleaseError> {
    let class = |r: &Record| match r.protocol {
        6 => 0,
        17 => 1,
        _ => 2,
    };
    let mut counted = |name: &str, share: f64, cells: usize, of: &dyn Fn(&Record) -> u8, most| {
        let hits = records
            .iter()
            .map(|r| Some(class(r) * cells + usize::from(of(r))));
        let (counts, sigma) = purse.count(name, share, CLASSES.len() * cells, hits)?;
        let each = counts.chunks(cells).map(|row| {
            let cells = heavy(row, sigma, most);
            cells.into_iter().map(|c| (c as u8, row[c])).collect()
        });
        Ok::<Vec<Vec<(u8, f64)>>, ReleaseError>(each.collect())
    };
    let ttl = counted("time to live", SHARES.ttl, 256, &|r| r.ttl, 32)?;
    let tos = counted("type of service", SHARES.tos, 256, &|r| r.tos, 6)?;
    let marks = counted("marks", SHARES.marks, 32, &|r| r.marks & 31, 4)?;
    let mut weights: Vec<BTreeMap<Hops, f64>> = Vec::new();
    for (i, class) in CLASSES.iter().enumerate() {
        let or = |found: &[(u8, f64)], usual: u8| match found {
            [] => vec![(usual, 1.0)],
            some => some.to_vec(),
        };
        let usual = if *class == Some(6) {
            DONT_FRAGMENT | OPENS
        } else {
            0
        };
        let (ttl, tos, marks) = (or(&ttl[i], 64), or(&tos[i], 0), or(&marks[i], usual));
        let mut all = BTreeMap::new();
        for (a, x) in &ttl {
            for (b, y) in &tos {
                for (c, z) in &marks {
                    let marks = c & (DONT_FRAGMENT | NO_ID | OPENS);
                    all.insert(((*a).max(1), *b, marks), x * y * z);
                }
            }
        }
        weights.push(all);
    }
    let hops: BTreeSet<Hops> = weights.iter().flat_map(|w| w.keys().copied()).collect();
    let hops: Vec<Hops> = hops.into_iter().collect();
    let place: BTreeMap<Hops, u32> = hops.iter().copied().zip(0..).collect();
    let symbols = |w: &BTreeMap<Hops, f64>| -> Vec<(u32, f64)> {
        let largest = w.values().copied().fold(1e-300, f64::max);
        w.iter().map(|(h, x)| (place[h], x / largest)).collect()
    };
    let mut rows: BTreeMap<u64, Vec<(u32, f64)>> = BTreeMap::new();
    for (class, w) in CLASSES.iter().zip(&weights) {
        if let Some(protocol) = class {
            let k = context(&[PROTOCOL], |_| u32::from(*protocol));
            rows.insert(k, symbols(w));
        }
    }
    let others = symbols(&weights[2]);
    let levels = vec![
        Level::from_weights(rows.into_iter().map(|(k, w)| (k, w, 0.0))),
        Level::from_weights([(context(&[], |_| 0), others, 0.0)]),
    ];
    Ok((hops, Chain { levels }))
}

/// The parents of [`HOPS`]' tables.
pub(crate) fn plan(parents: &mut [Vec<Vec<usize>>]) {
    if let Some(tables) = parents.get_mut(HOPS) {
        *tables = vec![vec![PROTOCOL], vec![]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Step;
    use crate::table::Table;

    /// Flows of 1, 2, 3, ... packets, their packets in turns.
    fn capture(flows: &[u64]) -> Capture {
        let mut steps = Vec::new();
        let mut records = Vec::new();
        for (flow, n) in flows.iter().enumerate() {
            for i in 0..*n {
                steps.push(Step {
                    flow: flow as u32,
                    at_us: n * 1000 + i * (n + i),
                    bytes: (40 + 7 * i + n) as u32,
                    id: 0,
                    fragment: 0,
                    ttl: 64,
                    tos: 0,
                    tcp_flags: None,
                    ip_checksum: None,
                    transport_checksum: None,
                });
            }
            records.push(Record {
                start_us: n * 1000,
                duration_us: (n - 1) * (2 * n - 1),
                packets: *n,
                bytes: (0..*n).map(|i| 40 + 7 * i + n).sum(),
                ..Record::default()
            });
        }
        steps.sort_by_key(|s| s.at_us);
        Capture {
            table: Table {
                records,
                capture: true,
                ..Table::default()
            },
            ignored: 0,
            steps,
        }
    }

    #[test]
    fn a_flow_more_changes_no_other_flow() {
        let flows: Vec<u64> = (1..30).collect();
        let all = choose(&capture(&flows));
        for gone in 0..flows.len() {
            let mut fewer = flows.clone();
            fewer.remove(gone);
            let mut left = choose(&capture(&fewer));
            left.insert(gone, all[gone]);
            for (a, b) in all.iter().zip(&left) {
                assert_eq!((a.size, a.gap), (b.size, b.gap));
            }
        }
        // One packet says all of its size, two leave no gap between inner ones.
        assert_eq!((all[0].size, all[1].gap), (None, None));
        assert!(all[1].size.is_some() && all[2].gap.is_some());
    }
}
