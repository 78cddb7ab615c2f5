use std::collections::BTreeMap;

use rand::RngCore;

use crate::codec::{Reader, Writer};
use crate::scaler::quantile;
use crate::{
    Detector, FitError, Kind, MatRef, Matrix, ModelError, Scaler, Scaling, Settings, detector,
    draw, threshold,
};

/// Columns a stored model may have.
const MAX_COLUMNS: u64 = 1 << 16;
/// Facts a stored model may carry.
const MAX_FACTS: u64 = 1024;
/// Rows set aside to draw the line are one in so many.
const HELD_OUT: usize = 5;
/// With fewer rows the line is drawn through the training rows themselves.
const MIN_HELD_OUT: usize = 4;

/// Everything that classification needs: names of the columns, scaling, detector, threshold, and what the caller wants to
/// know again about how rows were made.
pub struct Model {
    names: Vec<String>,
    facts: BTreeMap<String, String>,
    scaler: Scaler,
    detector: Box<dyn Detector>,
    threshold: f64,
    false_alarm: f64,
    trained_rows: u64,
    /// Ordinary values of each column: quantiles 0.05, 0.5 and 0.95, before scaling.
    usual: Vec<[f64; 3]>,
}

/// What made a row novel.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// Number of the column.
    pub column: usize,
    /// The row's value.
    pub value: f64,
    /// 5 % quantile, median and 95 % quantile of the training rows.
    pub usual: [f64; 3],
    /// How much the score falls when the value is replaced by the usual one.
    pub effect: f64,
}

impl Model {
    /// Learns from rows of known traffic.
    ///
    /// The threshold is drawn through scores of a fifth of the rows, by a detector fitted to the others, so that about
    /// `false_alarm` of known rows lie above; then the detector is fitted to all rows.
    ///
    /// # Errors
    /// [`FitError`]; [`FitError::Shape`] when there are not as many names as columns.
    pub fn fit(
        settings: &Settings,
        scaling: Scaling,
        names: Vec<String>,
        rows: MatRef<'_>,
        false_alarm: f64,
        rng: &mut dyn RngCore,
    ) -> Result<Self, FitError> {
        rows.check(1)?;
        if names.len() != rows.columns() {
            return Err(FitError::Shape {
                columns: names.len(),
                values: rows.columns(),
            });
        }
        if !(0.0..=1.0).contains(&false_alarm) {
            return Err(FitError::Setting {
                kind: "threshold",
                name: "false-alarm target",
                value: false_alarm,
                range: "0 to 1",
            });
        }
        let scaler = Scaler::fit(scaling, rows)?;
        let scaled = scaler.apply(rows);
        let order = draw::permutation(rng, rows.rows());
        let (held, others) = order.split_at(rows.rows() / HELD_OUT);
        let detector = settings.fit(scaled.view(), rng)?;
        let scores = if held.len() >= MIN_HELD_OUT {
            let first = settings.fit(scaled.select(others).view(), rng)?;
            scores(first.as_ref(), scaled.select(held).view())
        } else {
            scores(detector.as_ref(), scaled.view())
        };
        // Scores that differ by rounding only are the same.
        let line = threshold(&scores, false_alarm).min(f64::MAX);
        let line = (line + 1e-9 * line.abs()).min(f64::MAX);
        let usual = (0..rows.columns())
            .map(|k| {
                let mut column: Vec<f64> = rows.iter().map(|r| r[k]).collect();
                column.sort_unstable_by(f64::total_cmp);
                [0.05, 0.5, 0.95].map(|q| quantile(&column, q))
            })
            .collect();
        Ok(Self {
            names,
            facts: BTreeMap::new(),
            scaler,
            detector,
            threshold: line,
            false_alarm,
            trained_rows: rows.rows() as u64,
            usual,
        })
    }

    /// Names of the columns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Which detector.
    pub fn kind(&self) -> Kind {
        self.detector.kind()
    }

    /// Which scaling.
    pub fn scaling(&self) -> Scaling {
        self.scaler.scaling()
    }

    /// Rows above this score are called novel.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Share of known rows that the threshold was drawn for.
    pub fn false_alarm(&self) -> f64 {
        self.false_alarm
    }

    /// Rows it was trained on.
    pub fn trained_rows(&self) -> u64 {
        self.trained_rows
    }

    /// What the caller wants to know again: how rows are made, when and from what it was trained. Stored with the model.
    pub fn facts(&self) -> &BTreeMap<String, String> {
        &self.facts
    }

    /// The facts, to be changed.
    pub fn facts_mut(&mut self) -> &mut BTreeMap<String, String> {
        &mut self.facts
    }

    /// Scores rows as they come, not scaled; higher is stranger. A row with a value that is not finite has an infinite
    /// score.
    ///
    /// # Errors
    /// [`ModelError::Columns`].
    pub fn score(&self, rows: MatRef<'_>) -> Result<Vec<f64>, ModelError> {
        self.check(rows.columns())?;
        let scaled = self.scaler.apply(rows);
        Ok(scores(self.detector.as_ref(), scaled.view()))
    }

    /// Scores one row and lets a detector that goes on learning learn from it.
    ///
    /// # Errors
    /// [`ModelError::Columns`].
    pub fn observe(&mut self, row: &[f64]) -> Result<f64, ModelError> {
        self.check(row.len())?;
        let mut scaled = row.to_vec();
        self.scaler.apply_row(&mut scaled);
        if scaled.iter().any(|v| !v.is_finite()) {
            return Ok(f64::INFINITY);
        }
        if let Some(online) = self.detector.as_online() {
            return Ok(online.observe(&scaled));
        }
        let view = MatRef::new(scaled.len(), &scaled).map_err(|_| ModelError::Columns {
            found: row.len(),
            known: self.names.len(),
        })?;
        Ok(scores(self.detector.as_ref(), view)
            .first()
            .copied()
            .unwrap_or(f64::INFINITY))
    }

    /// Whether a score is above the threshold.
    pub fn is_novel(&self, score: f64) -> bool {
        score > self.threshold
    }

    /// The columns that make a row strange, the strongest first, at most `limit` and only those that make it stranger.
    ///
    /// Columns are set to their usual value (the median of the training rows) one after the other, each time the one that
    /// lowers the score most, until the row is no longer novel; the effect of a column is how much the score fell when it
    /// was its turn. Two columns that say the same thing therefore do not hide each other.
    ///
    /// # Errors
    /// [`ModelError::Columns`].
    pub fn explain(&self, row: &[f64], limit: usize) -> Result<Vec<Reason>, ModelError> {
        self.check(row.len())?;
        let d = row.len();
        let mut scaled = row.to_vec();
        self.scaler.apply_row(&mut scaled);
        let mut median: Vec<f64> = self.usual.iter().map(|u| u[1]).collect();
        self.scaler.apply_row(&mut median);
        let start = MatRef::new(d, &scaled)
            .map(|v| scores(self.detector.as_ref(), v))
            .unwrap_or_default();
        let mut current = start.first().copied().unwrap_or(f64::INFINITY);
        let mut left: Vec<usize> = (0..d).filter(|&k| scaled[k] != median[k]).collect();
        let mut reasons = Vec::new();
        while reasons.len() < limit && !left.is_empty() {
            let mut tries = Vec::with_capacity(left.len() * d);
            for &k in &left {
                tries.extend_from_slice(&scaled);
                let at = tries.len() - d + k;
                tries[at] = median[k];
            }
            let Ok(tries) = Matrix::new(d, tries) else {
                break;
            };
            let found = scores(self.detector.as_ref(), tries.view());
            let best = (0..left.len()).min_by(|&a, &b| found[a].total_cmp(&found[b]));
            let Some((best, score)) = best.map(|b| (b, found[b])) else {
                break;
            };
            let effect = current - score;
            // Two infinite scores have no difference, but a value that is not finite is a reason.
            let odd = current.is_infinite() && !scaled[left[best]].is_finite();
            if !odd && (effect.is_nan() || effect <= 0.0) {
                break;
            }
            let column = left.swap_remove(best);
            scaled[column] = median[column];
            reasons.push(Reason {
                column,
                value: row[column],
                usual: self.usual[column],
                effect: if effect.is_finite() { effect } else { f64::MAX },
            });
            current = score;
            if current <= self.threshold && reasons.len() > 1 {
                break;
            }
        }
        Ok(reasons)
    }

    fn check(&self, found: usize) -> Result<(), ModelError> {
        if found == self.names.len() {
            Ok(())
        } else {
            Err(ModelError::Columns {
                found,
                known: self.names.len(),
            })
        }
    }

    /// The model as bytes for a file: a magic word, the version, everything else, a checksum (SHA-256).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.size(self.names.len());
        for name in &self.names {
            out.text(name);
        }
        out.size(self.facts.len());
        for (key, value) in &self.facts {
            out.text(key);
            out.text(value);
        }
        out.f64(self.threshold);
        out.f64(self.false_alarm);
        out.u64(self.trained_rows);
        for usual in &self.usual {
            usual.iter().for_each(|v| out.f64(*v));
        }
        self.scaler.write(&mut out);
        out.text(self.detector.kind().name());
        out.bytes(&self.detector.to_bytes());
        out.finish()
    }

    /// Reads what [`Model::to_bytes`] made. Whatever the bytes are, this does not panic, and a model that it gives does
    /// not panic either.
    ///
    /// # Errors
    /// [`ModelError`] says what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let mut from = Reader::new(bytes)?;
        let columns = from.size("the number of columns", MAX_COLUMNS)?;
        if columns == 0 {
            return Err(ModelError::Invalid {
                what: "it has no columns",
            });
        }
        let names = (0..columns)
            .map(|_| from.text())
            .collect::<Result<_, _>>()?;
        let mut facts = BTreeMap::new();
        for _ in 0..from.size("the number of facts", MAX_FACTS)? {
            facts.insert(from.text()?, from.text()?);
        }
        let threshold = from.f64()?;
        let false_alarm = from.f64()?;
        let trained_rows = from.u64()?;
        let usual = (0..columns)
            .map(|_| Ok([from.f64()?, from.f64()?, from.f64()?]))
            .collect::<Result<_, ModelError>>()?;
        let scaler = Scaler::read(&mut from, columns)?;
        let kind: Kind = from.text()?.parse().map_err(|_| ModelError::Invalid {
            what: "its detector is not known",
        })?;
        let detector = detector::read(kind, &mut from, columns)?;
        from.end()?;
        if detector.columns() != columns {
            return Err(ModelError::Columns {
                found: columns,
                known: detector.columns(),
            });
        }
        Ok(Self {
            names,
            facts,
            scaler,
            detector,
            threshold,
            false_alarm,
            trained_rows,
            usual,
        })
    }
}

fn scores(detector: &dyn Detector, rows: MatRef<'_>) -> Vec<f64> {
    let mut out = vec![0.0; rows.rows()];
    detector.score(rows, &mut out);
    for (score, row) in out.iter_mut().zip(rows.iter()) {
        if !score.is_finite() || row.iter().any(|v| !v.is_finite()) {
            *score = f64::INFINITY;
        }
    }
    out
}
