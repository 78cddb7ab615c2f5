//! The budget of a private fit: shares of it, noisy counts for them, and what of these is taken for noise.

use chaff_privacy::{ReleaseError, Tables};

use crate::grid::Grid;

/// A cell below it is taken for noise: few of `cells` empty ones are above.
pub(crate) fn threshold(sigma: f64, cells: usize) -> f64 {
    let usual = (2.0 * (cells.max(2) as f64).ln()).sqrt();
    sigma * (usual - 0.8).max(1.5)
}

/// The budget, in shares.
pub(crate) struct Purse<'a> {
    pub(crate) tables: &'a mut Tables,
    pub(crate) unit: f64,
}

impl Purse<'_> {
    pub(crate) fn count(
        &mut self,
        name: &str,
        share: f64,
        cells: usize,
        hits: impl Iterator<Item = Option<usize>>,
    ) -> Result<(Vec<f64>, f64), ReleaseError> {
        let mut counts = vec![0i64; cells];
        for cell in hits.flatten() {
            if let Some(count) = counts.get_mut(cell) {
                *count += 1;
            }
        }
        let rho = (share * self.unit).min(self.tables.left());
        let sigma = self.tables.release(name, &mut counts, rho)?;
        Ok((counts.into_iter().map(|c| c as f64).collect(), sigma))
    }

    pub(crate) fn grid(
        &mut self,
        name: &str,
        share: f64,
        values: &[u64],
        start: &[(u64, u64)],
        levels: usize,
    ) -> Result<(Grid, Vec<f64>), ReleaseError> {
        let rho = (share * self.unit).min(self.tables.left());
        Grid::noisy(values, start, levels, self.tables, name, rho)
    }
}

/// Shares of the budget that each step gets; they add up to what [`Purse::unit`] is divided by.
pub(crate) struct Shares {
    pub(crate) count: f64,
    pub(crate) labels: f64,
    pub(crate) ports: f64,
    pub(crate) services: f64,
    pub(crate) hosts: [f64; 2],
    pub(crate) host_kinds: [f64; 2],
    pub(crate) ranks: f64,
    /// Of flow tables, of captures.
    pub(crate) range: [f64; 2],
    pub(crate) time: f64,
    pub(crate) packets: f64,
    pub(crate) sizes: f64,
    pub(crate) durations: f64,
    pub(crate) port_ranges: f64,
    pub(crate) table: f64,
}

pub(crate) const SHARES: Shares = Shares {
    count: 0.01,
    labels: 0.02,
    ports: 0.06,
    services: 0.12,
    hosts: [0.04, 0.08],
    host_kinds: [0.03, 0.05],
    ranks: 0.03,
    range: [0.04, 0.09],
    time: 0.05,
    packets: 0.06,
    sizes: 0.08,
    durations: 0.08,
    port_ranges: 0.02,
    table: 0.06,
};

impl Shares {
    /// For these tables, and for finding the range of times.
    pub(crate) fn sum(&self, plan: &[Vec<Vec<usize>>], range: f64) -> f64 {
        let tables: usize = plan.iter().map(|t| t.len() - 1).sum();
        self.count
            + self.labels
            + 2.0 * self.ports
            + self.services
            + self.hosts[0]
            + self.hosts[1]
            + self.host_kinds[0]
            + self.host_kinds[1]
            + 2.0 * self.ranks
            + range
            + self.time
            + self.packets
            + self.sizes
            + self.durations
            + 2.0 * self.port_ranges
            + self.table * tables as f64
    }
}

/// Counts above the threshold; when none is, the largest.
pub(crate) fn positive(counts: &[f64], sigma: f64) -> Vec<f64> {
    let least = threshold(sigma, counts.len());
    let mut out: Vec<f64> = counts
        .iter()
        .map(|c| if *c >= least { *c } else { 0.0 })
        .collect();
    if out.iter().all(|w| *w == 0.0) {
        let best = (0..counts.len()).max_by(|a, b| counts[*a].total_cmp(&counts[*b]));
        if let Some(best) = best {
            out[best] = 1.0;
        }
    }
    out
}

/// Cells above the threshold, at most `most`, the heaviest first.
pub(crate) fn heavy(counts: &[f64], sigma: f64, most: usize) -> Vec<usize> {
    let least = threshold(sigma, counts.len());
    let mut cells: Vec<usize> = (0..counts.len()).filter(|c| counts[*c] >= least).collect();
    cells.sort_by(|a, b| counts[*b].total_cmp(&counts[*a]).then(a.cmp(b)));
    cells.truncate(most);
    cells
}
