//! Distance to the nearest training rows.

use crate::codec::{Reader, Writer};
use crate::points::Points;
use crate::{Detector, FitError, Kind, MatRef, ModelError};

const KIND: &str = "knn";
const MAX_NEIGHBOURS: usize = 1024;

/// Settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How many neighbours are looked at, 1 to 1024.
    pub neighbours: usize,
    /// Their mean distance instead of the largest.
    pub mean: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            neighbours: 5,
            mean: false,
        }
    }
}

/// The training rows. The score is the Euclidean distance to the k-th nearest of them, or the mean distance to the k
/// nearest; with fewer rows than k, all count.
#[derive(Clone, Debug)]
pub struct Neighbours {
    settings: Settings,
    points: Points,
}

impl Neighbours {
    /// Learns from rows, all of which it keeps.
    ///
    /// # Errors
    /// [`FitError`].
    pub fn fit(settings: &Settings, rows: MatRef<'_>) -> Result<Self, FitError> {
        rows.check(1)?;
        if !(1..=MAX_NEIGHBOURS).contains(&settings.neighbours) {
            return Err(FitError::Setting {
                kind: KIND,
                name: "neighbours",
                value: settings.neighbours as f64,
                range: "1 to 1024",
            });
        }
        Ok(Self {
            settings: *settings,
            points: Points::new(rows),
        })
    }

    pub(crate) fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, ModelError> {
        let neighbours = from.size("the number of neighbours", MAX_NEIGHBOURS as u64)?;
        let mean = from.u64()? != 0;
        let rows = from.list()?;
        let rows = MatRef::new(columns, &rows)
            .ok()
            .filter(|r| r.rows() > 0 && neighbours > 0)
            .ok_or(ModelError::Invalid {
                what: "neighbours without rows",
            })?;
        Ok(Self {
            settings: Settings { neighbours, mean },
            points: Points::new(rows),
        })
    }
}

impl Detector for Neighbours {
    fn kind(&self) -> Kind {
        Kind::Knn
    }

    fn columns(&self) -> usize {
        self.points.columns
    }

    fn score(&self, rows: MatRef<'_>, out: &mut [f64]) {
        let k = self.settings.neighbours.min(self.points.rows);
        // Sorted, the farthest last.
        let mut nearest: Vec<f64> = Vec::with_capacity(k + 1);
        for (row, out) in rows.iter().zip(out) {
            nearest.clear();
            let mut farthest = f64::INFINITY;
            self.points.distances(row, |_, used, squared| {
                for &s in &squared[..used] {
                    if s < farthest || nearest.len() < k {
                        let at = nearest.partition_point(|n| *n <= s);
                        nearest.insert(at, s);
                        nearest.truncate(k);
                        if nearest.len() == k {
                            farthest = nearest.last().copied().unwrap_or(f64::INFINITY);
                        }
                    }
                }
            });
            *out = if self.settings.mean {
                nearest.iter().map(|s| s.sqrt()).sum::<f64>() / nearest.len().max(1) as f64
            } else {
                nearest.last().copied().unwrap_or(f64::INFINITY).sqrt()
            };
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::part();
        out.size(self.settings.neighbours);
        out.u64(u64::from(self.settings.mean));
        out.list(&self.points.to_rows());
        out.into_part()
    }
}
