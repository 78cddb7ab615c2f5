//! Start times of a private fit: the stretch of time that holds the records, and its bins.

use chaff_privacy::ReleaseError;

use crate::SynthError;
use crate::fit::PrivateOptions;
use crate::grid::{Grid, MOST};
use crate::purse::{Purse, SHARES};
use crate::table::Record;

/// What a pcap file can say: 2^32 s since 1970, µs.
const PCAP_US: u64 = (1 << 32) * 1_000_000;
/// Cells of the time line in a round that looks where records are, and in one that looks how far they reach.
const CELLS: [usize; 2] = [1024, 32];
/// Rounds that look how far records reach.
const REACH: usize = 2;

/// The share of the budget for the range of times; a public one costs nothing.
pub(crate) fn range_share(capture: bool, public: Option<(u64, u64)>) -> f64 {
    if public.is_some() {
        return 0.0;
    }
    SHARES.range[usize::from(capture)]
}

/// Finds the stretch of time that holds nearly all records.
///
/// Nearly all of the time line is empty, so at first two neighbouring cells hold them all: such rounds go on as long as the
/// counts do not contradict it (two standard deviations of the noise). Then records fill more cells than two, and the
/// shortest run with 95 % of them is taken, twice.
fn search(
    values: &[u64],
    capture: bool,
    n: f64,
    purse: &mut Purse<'_>,
) -> Result<(u64, u64), ReleaseError> {
    // Captures may be as short as a millisecond, and cannot go beyond what a pcap file holds. A round of the first kind
    // shortens the stretch to 1/512.
    let (mut span, shortest, rounds) = if capture {
        (PCAP_US, 1 << 11, 5)
    } else {
        (MOST + 1, 1 << 22, 4)
    };
    let share = range_share(capture, None) / (rounds + REACH) as f64;
    let mut low = 0u64;
    let mut look = |low: u64, cell: u64, round: usize, cells: usize| {
        let hits = values
            .iter()
            .map(|v| v.checked_sub(low).map(|far| (far / cell) as usize));
        purse.count(&format!("time range, round {round}"), share, cells, hits)
    };
    let mut round = 0;
    while round < rounds && span > shortest {
        let cell = (span / CELLS[0] as u64).max(1);
        let (counts, sigma) = look(low, cell, round, CELLS[0])?;
        round += 1;
        match heaviest(&counts, 2) {
            Some((first, sum)) if sum >= 0.95 * n - 2.0 * std::f64::consts::SQRT_2 * sigma => {
                low += first as u64 * cell;
                span = 2 * cell;
            }
            _ => break,
        }
    }
    for _ in 0..REACH {
        if span <= shortest {
            break;
        }
        let cell = span / CELLS[1] as u64;
        let (counts, _) = look(low, cell, round, CELLS[1])?;
        round += 1;
        let found = (2..=CELLS[1] / 2)
            .filter_map(|length| Some((length, heaviest(&counts, length)?)))
            .find(|(_, (_, sum))| *sum >= 0.95 * n);
        let Some((length, (first, _))) = found else {
            break;
        };
        low += first as u64 * cell;
        span = length as u64 * cell;
    }
    Ok((low, low + span - 1))
}

/// Where the run of so many cells begins that holds most, and how much it holds.
fn heaviest(counts: &[f64], length: usize) -> Option<(usize, f64)> {
    let sums = counts.windows(length).map(|run| run.iter().sum::<f64>());
    sums.enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
}

/// Bins of start times. Without a public range it is searched.
pub(crate) fn times(
    records: &[Record],
    (options, capture): (&PrivateOptions, bool),
    n: f64,
    purse: &mut Purse<'_>,
) -> Result<(Grid, Vec<f64>), SynthError> {
    let values: Vec<u64> = records.iter().map(|r| r.start_us.min(MOST)).collect();
    let (low, high) = match options.time_range_us {
        Some((low, high)) if low <= high && high <= MOST => (low, high),
        Some((low, high)) => {
            return Err(SynthError::Option {
                name: "time range",
                why: format!("{low}..{high} us is not a range"),
            });
        }
        None => search(&values, capture, n, purse)?,
    };
    let width = high - low + 1;
    let parts = width.min(8);
    let start: Vec<(u64, u64)> = (0..parts)
        .map(|i| {
            let edge =
                |j: u64| low + (u128::from(width) * u128::from(j) / u128::from(parts)) as u64;
            (edge(i), edge(i + 1) - 1)
        })
        .collect();
    let inside: Vec<u64> = values.iter().map(|v| (*v).clamp(low, high)).collect();
    let (grid, mut weights) = purse.grid("start times", SHARES.time, &inside, &start, 3)?;
    if weights.iter().all(|w| *w <= 0.0) {
        weights.fill(1.0);
    }
    Ok((grid, weights))
}
