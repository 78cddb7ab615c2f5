//! Bins over whole numbers, and values back out of them.

use chaff_privacy::{ReleaseError, Tables};
use rand::{Rng, RngCore};
use serde::{Deserialize, Serialize};

/// Above every counter and time that is read.
pub(crate) const MOST: u64 = (1 << 53) - 1;

/// Disjoint closed intervals in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grid {
    low: Vec<u64>,
    high: Vec<u64>,
}

impl Grid {
    fn push(&mut self, low: u64, high: u64) {
        self.low.push(low);
        self.high.push(high);
    }

    pub(crate) fn len(&self) -> usize {
        self.low.len()
    }

    /// Whether it can be used: a model file may say anything.
    pub(crate) fn valid(&self) -> bool {
        let bins = self.low.iter().zip(&self.high);
        !self.low.is_empty()
            && self.low.len() == self.high.len()
            && bins.clone().all(|(l, h)| l <= h && *h <= MOST)
            && self
                .low
                .iter()
                .skip(1)
                .zip(&self.high)
                .all(|(next, high)| next > high)
    }

    /// The largest value of all bins.
    pub(crate) fn largest(&self) -> u64 {
        self.high.last().copied().unwrap_or(0)
    }

    /// The bin of a value; of the nearest below it when it is in none.
    pub(crate) fn find(&self, value: u64) -> u32 {
        self.low
            .partition_point(|low| *low <= value)
            .saturating_sub(1) as u32
    }

    pub(crate) fn bounds(&self, bin: u32) -> (u64, u64) {
        let at = (bin as usize).min(self.len().saturating_sub(1));
        (
            self.low.get(at).copied().unwrap_or(0),
            self.high.get(at).copied().unwrap_or(0),
        )
    }

    /// A value of the bin: uniform, or uniform in the logarithm for a bin wider than a factor of two.
    pub(crate) fn draw(&self, bin: u32, rng: &mut dyn RngCore) -> u64 {
        let (low, high) = self.bounds(bin);
        if low > 0 && high / 2 > low {
            let u: f64 = rng.random();
            let value = (low as f64) * ((high as f64 + 1.0) / low as f64).powf(u);
            return (value as u64).clamp(low, high);
        }
        rng.random_range(low..=high)
    }

    /// A value of the bin, uniform.
    pub(crate) fn draw_evenly(&self, bin: u32, rng: &mut dyn RngCore) -> u64 {
        let (low, high) = self.bounds(bin);
        rng.random_range(low..=high)
    }

    /// Bins of equal weight, from the data as they are: values seen at least `atom` times alone, the others in groups
    /// of at least `group`; a step of more than `gap` between values ends a group.
    pub(crate) fn exact(mut values: Vec<u64>, atom: usize, group: usize, gap: u64) -> Self {
        values.sort_unstable();
        let mut grid = Self::default();
        let mut open: Option<(u64, u64, usize)> = None;
        for run in values.chunk_by(|a, b| a == b) {
            let value = run[0].min(MOST);
            let alone = run.len() >= atom;
            if let Some((low, high, n)) = open
                && (alone || n >= group || value - high > gap)
            {
                grid.push(low, high);
                open = None;
            }
            open = if alone {
                grid.push(value, value);
                None
            } else {
                let (low, n) = open.map_or((value, 0), |(low, _, n)| (low, n));
                Some((low, value, n + run.len()))
            };
        }
        if let Some((low, high, _)) = open {
            grid.push(low, high);
        }
        if grid.low.is_empty() {
            grid.push(0, 0);
        }
        grid
    }

    /// Bins from noisy counts only: `start`, then what is heavy is split in eight, for `levels` rounds that share `rho`.
    ///
    /// Also gives the last noisy count of each bin.
    pub(crate) fn noisy(
        values: &[u64],
        start: &[(u64, u64)],
        levels: usize,
        tables: &mut Tables,
        name: &str,
        rho: f64,
    ) -> Result<(Self, Vec<f64>), ReleaseError> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let count = |low: u64, high: u64| {
            (sorted.partition_point(|v| *v <= high) - sorted.partition_point(|v| *v < low)) as i64
        };
        // Bins with what they were last counted as.
        let mut done: Vec<(u64, u64, f64)> = Vec::new();
        let mut open: Vec<(u64, u64)> = start.to_vec();
        for level in 0..levels {
            if open.is_empty() {
                break;
            }
            let mut counts: Vec<i64> = open.iter().map(|(l, h)| count(*l, *h)).collect();
            let sigma = tables.release(
                &format!("{name}, level {level}"),
                &mut counts,
                rho / levels as f64,
            )?;
            let mut next = Vec::new();
            let mut light: Vec<(u64, u64, f64)> = Vec::new();
            let mut after = false;
            for ((low, high), noisy) in open.iter().zip(&counts) {
                let noisy = *noisy as f64;
                let apart = light.last().is_some_and(|(_, h, _)| h + 1 != *low);
                if noisy >= 3.0 * sigma || apart {
                    let run = std::mem::take(&mut light);
                    let heavy = noisy >= 3.0 * sigma && !apart;
                    bundle(&run, (after, heavy), sigma, &mut done);
                    after = false;
                }
                if noisy < 3.0 * sigma {
                    light.push((*low, *high, noisy));
                    continue;
                }
                after = true;
                if level + 1 < levels && low < high && noisy > 8.0 * sigma {
                    next.extend(eighths(*low, *high));
                } else {
                    done.push((*low, *high, noisy));
                }
            }
            bundle(&light, (after, false), sigma, &mut done);
            open = next;
        }
        done.sort_unstable_by_key(|(low, _, _)| *low);
        let mut grid = Self::default();
        let mut weights = Vec::new();
        for (low, high, weight) in done {
            grid.push(low, high);
            weights.push(weight);
        }
        Ok((grid, weights))
    }
}

/// Light neighbours become one bin, which has no weight unless their sum stands out. Weight lies near heavy bins, for
/// distributions have tails: of a run that follows a heavy bin (or else comes before one) the part next to it that stands
/// out most gets the weight.
fn bundle(
    run: &[(u64, u64, f64)],
    (after, before): (bool, bool),
    sigma: f64,
    done: &mut Vec<(u64, u64, f64)>,
) {
    /// Standard deviations of the noise.
    const STANDS_OUT: f64 = 2.5;
    let part = |length: usize| match (after, before) {
        (true, _) => &run[..length],
        _ => &run[run.len() - length..],
    };
    let sum = |cells: &[(u64, u64, f64)]| cells.iter().map(|c| c.2).sum::<f64>();
    let score = |length: usize| sum(part(length)) / (sigma * (length as f64).sqrt());
    let lengths = if after || before { 1 } else { run.len() }..=run.len();
    let best = lengths.max_by(|a, b| score(*a).total_cmp(&score(*b)));
    let chosen = match best {
        Some(length) if length > 0 && score(length) > STANDS_OUT => part(length),
        _ => &[],
    };
    let mut push = |cells: &[(u64, u64, f64)], weight: f64| {
        if let (Some(first), Some(last)) = (cells.first(), cells.last()) {
            done.push((first.0, last.1, weight));
        }
    };
    push(chosen, sum(chosen));
    match (after, chosen.len()) {
        (true, n) => push(&run[n..], 0.0),
        (false, n) => push(&run[..run.len() - n], 0.0),
    }
}

/// `0`, `1`, `2..=3`, `4..=7`, ...: the public first bins of counters.
pub(crate) fn octaves() -> Vec<(u64, u64)> {
    let mut out = vec![(0, 0)];
    out.extend((0..53).map(|k| (1u64 << k, (2u64 << k) - 1)));
    out
}

fn eighths(low: u64, high: u64) -> impl Iterator<Item = (u64, u64)> {
    let width = high - low + 1;
    let parts = width.min(8);
    (0..parts).map(move |i| {
        let edge = |j: u64| low + (u128::from(width) * u128::from(j) / u128::from(parts)) as u64;
        (edge(i), edge(i + 1) - 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn heavy_values_stand_alone_and_groups_are_large() {
        let mut values = vec![7u64; 10];
        values.extend(100..120);
        values.push(100_000);
        let grid = Grid::exact(values, 5, 8, 1000);
        assert!(grid.valid());
        assert_eq!(grid.bounds(grid.find(7)), (7, 7));
        assert_eq!(grid.bounds(grid.find(103)), (100, 107));
        assert_eq!(grid.bounds(grid.find(100_000)), (100_000, 100_000));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for bin in 0..grid.len() as u32 {
            let (low, high) = grid.bounds(bin);
            for _ in 0..50 {
                let v = grid.draw(bin, &mut rng);
                assert!(low <= v && v <= high && grid.find(v) == bin);
            }
        }
        assert_eq!(Grid::exact(Vec::new(), 5, 8, 1).len(), 1);
    }

    #[test]
    fn light_weight_lies_next_to_what_is_heavy() {
        let cells = |counts: &[f64]| -> Vec<(u64, u64, f64)> {
            (10..).zip(counts).map(|(at, c)| (at, at, *c)).collect()
        };
        let bundled = |counts: &[f64], sides: (bool, bool)| {
            let mut done = Vec::new();
            bundle(&cells(counts), sides, 1.0, &mut done);
            done
        };
        let tail = [2.9, 2.0, 0.1, -0.5, 0.4, -1.0];
        let next = bundled(&tail, (true, false));
        assert_eq!(next, [(10, 11, 4.9), (12, 15, 0.0)]);
        let reversed: Vec<f64> = tail.iter().rev().copied().collect();
        let before = bundled(&reversed, (false, true));
        assert_eq!(before, [(14, 15, 4.9), (10, 13, 0.0)]);
        assert_eq!(bundled(&[0.4, -0.2, 1.0], (true, true)), [(10, 12, 0.0)]);
        assert_eq!(bundled(&[2.5, 2.0, 2.5], (false, false)), [(10, 12, 7.0)]);
        assert!(bundled(&[], (true, true)).is_empty());
    }

    #[test]
    fn octaves_and_their_parts_cover_everything_once() {
        let all = octaves();
        assert_eq!(all.last().map(|b| b.1), Some(MOST));
        assert!(all.windows(2).all(|w| w[0].1 + 1 == w[1].0));
        for (low, high) in [(5, 5), (8, 10), (1 << 52, MOST)] {
            let parts: Vec<_> = eighths(low, high).collect();
            assert_eq!((parts[0].0, parts[parts.len() - 1].1), (low, high));
            assert!(parts.windows(2).all(|w| w[0].1 + 1 == w[1].0));
        }
    }
}
