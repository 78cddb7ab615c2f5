//! A detector that goes on learning: an ensemble of small autoencoders over groups of columns that vary together, after
//! KitNET (Mirsky et al., NDSS 2018), with memory that does not grow.
//!
//! What differs from KitNET: columns are standardised by a decaying mean and deviation instead of the extremes seen, so
//! that one outlier does not squeeze all later rows together and slow drift is followed; errors are judged against their
//! own decaying mean instead of by one more network; and a row that looks novel is not learnt from, so that an attack
//! does not teach the detector that it is normal.

use rand::RngCore;

use crate::codec::{Reader, Writer};
use crate::network::{Adam, Network, Pass};
use crate::{Detector, FitError, Kind, MatRef, ModelError};

const KIND: &str = "online";
const MAX_GROUP: usize = 64;
/// Standardised values are cut here, so that no row moves the weights far.
const LIMIT: f64 = 20.0;
/// How far the line between known and novel may move from where the training rows put it.
const LIMIT_RANGE: f64 = 3.0;
/// The columns' correlations are taken from so many rows at most.
const MAP_ROWS: usize = 5000;

/// Settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Columns an autoencoder sees at most, 2 to 64.
    pub group: usize,
    /// Step size, above 0.
    pub rate: f64,
    /// Rows over which means and deviations forget half, 10 or more.
    pub half_life: f64,
    /// Passes over the training rows, 1 to 1000.
    pub passes: usize,
    /// Share of rows taken as novel while learning goes on, from 0 up to, without, 1: these are not learnt from.
    pub skip: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            group: 10,
            rate: 2e-3,
            half_life: 5000.0,
            passes: 10,
            skip: 0.02,
        }
    }
}

/// The detector. The score is the root of the mean over the groups of (error / usual error)², about 1 for ordinary rows.
/// It holds one number per weight and a few per column, whatever it has seen.
#[derive(Clone, Debug)]
pub struct Online {
    settings: Settings,
    columns: Vec<Moments>,
    members: Vec<Member>,
    /// Estimate of the quantile `1 - skip` of the scores.
    limit: f64,
    /// The same over the training rows.
    fitted_limit: f64,
    seen: u64,
}

#[derive(Clone, Debug)]
struct Member {
    columns: Vec<usize>,
    network: Network,
    adam: Adam,
    /// Of the root mean squared errors.
    usual: Moments,
}

/// Mean and variance that forget.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    weight: f64,
    mean: f64,
    square: f64,
}

impl Moments {
    fn add(&mut self, value: f64, decay: f64) {
        self.weight = self.weight * decay + 1.0;
        let step = value - self.mean;
        self.mean += step / self.weight;
        // Of West (1979), with decay.
        self.square = self.square * decay + step * (value - self.mean);
    }

    fn deviation(&self) -> f64 {
        let variance = self.square / self.weight.max(1.0);
        if variance > 1e-24 * self.mean * self.mean && variance > 0.0 {
            variance.sqrt()
        } else {
            1.0
        }
    }

    fn standardise(&self, value: f64) -> f64 {
        ((value - self.mean) / self.deviation()).clamp(-LIMIT, LIMIT)
    }
}

impl Online {
    /// Learns from rows in their order.
    ///
    /// # Errors
    /// [`FitError`].
    pub fn fit(
        settings: &Settings,
        rows: MatRef<'_>,
        rng: &mut dyn RngCore,
    ) -> Result<Self, FitError> {
        rows.check(2)?;
        let setting = |name, value, range| FitError::Setting {
            kind: KIND,
            name,
            value,
            range,
        };
        let s = settings;
        if !(2..=MAX_GROUP).contains(&s.group) {
            return Err(setting("group", s.group as f64, "2 to 64"));
        }
        if !(s.rate > 0.0 && s.rate < 1.0) {
            return Err(setting("rate", s.rate, "above 0 and below 1"));
        }
        if !(s.half_life >= 10.0 && s.half_life.is_finite()) {
            return Err(setting("half_life", s.half_life, "10 or more"));
        }
        if !(1..=1000).contains(&s.passes) {
            return Err(setting("passes", s.passes as f64, "1 to 1000"));
        }
        if !(0.0..1.0).contains(&s.skip) {
            return Err(setting("skip", s.skip, "0 or more and below 1"));
        }
        let members = groups(rows, s.group)
            .into_iter()
            .map(|columns| {
                let (d, code) = (columns.len(), (columns.len() * 3).div_ceil(4).max(1));
                let code = if d > 1 { code.min(d - 1) } else { 1 };
                let network = Network::new(&[d, code, d], rng);
                Member {
                    adam: Adam::new(&network, s.rate),
                    columns,
                    network,
                    usual: Moments::default(),
                }
            })
            .collect();
        let mut online = Self {
            settings: *s,
            columns: vec![Moments::default(); rows.columns()],
            members,
            limit: f64::MAX,
            fitted_limit: f64::MAX,
            seen: 0,
        };
        // Rows come again in each pass, so the first pass only gets the columns to know.
        let decay = online.decay();
        for row in rows.iter() {
            for (m, v) in online.columns.iter_mut().zip(row) {
                m.add(*v, decay);
            }
        }
        let mut pass = Pass::default();
        for _ in 0..s.passes {
            for row in rows.iter() {
                online.learn(row, false, &mut pass);
            }
        }
        let mut scores = vec![0.0; rows.rows()];
        online.score(rows, &mut scores);
        online.limit = crate::threshold(&scores, s.skip).min(f64::MAX);
        online.fitted_limit = online.limit;
        Ok(online)
    }

    fn decay(&self) -> f64 {
        0.5f64.powf(1.0 / self.settings.half_life)
    }

    /// Rows learnt from since the fit.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Scores a row and, unless it looks novel, learns from it.
    pub fn observe(&mut self, row: &[f64]) -> f64 {
        let mut pass = Pass::default();
        let score = self.judge(row, &mut pass);
        if !score.is_finite() {
            return f64::INFINITY;
        }
        // The quantile is followed by steps relative to itself, `1 - skip` up and `skip` down: an attack that lasts can at
        // most double it in a half-life, and never move it out of its bounds.
        let step = self.limit * 2f64.ln() / self.settings.half_life;
        if score > self.limit {
            let most = self.fitted_limit * LIMIT_RANGE;
            self.limit = (self.limit + step * (1.0 - self.settings.skip)).min(most);
            return score;
        }
        let least = self.fitted_limit / LIMIT_RANGE;
        self.limit = (self.limit - step * self.settings.skip).max(least);
        self.learn(row, true, &mut pass);
        self.seen += 1;
        score
    }

    fn learn(&mut self, row: &[f64], adapt: bool, pass: &mut Pass) {
        let decay = self.decay();
        if adapt {
            for (m, v) in self.columns.iter_mut().zip(row) {
                m.add(*v, decay);
            }
        }
        let mut input = [0.0; MAX_GROUP];
        for member in &mut self.members {
            let input = pick(&self.columns, &member.columns, row, &mut input);
            member.network.forward(input, pass);
            let squared = member.network.backward(input, pass, &mut member.adam);
            member.network.update(&mut member.adam, 1);
            let error = (squared / input.len() as f64).sqrt();
            member.usual.add(error, decay);
        }
    }

    fn judge(&self, row: &[f64], pass: &mut Pass) -> f64 {
        let mut input = [0.0; MAX_GROUP];
        let mut sum = 0.0;
        for member in &self.members {
            let input = pick(&self.columns, &member.columns, row, &mut input);
            let back = member.network.forward(input, pass);
            let squared: f64 = back.iter().zip(input).map(|(a, b)| (a - b) * (a - b)).sum();
            let usual = member.usual.mean.max(1e-3);
            sum += squared / input.len() as f64 / (usual * usual);
        }
        (sum / self.members.len().max(1) as f64).sqrt()
    }

    pub(crate) fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, ModelError> {
        let settings = Settings {
            group: from.size("the size of a group", MAX_GROUP as u64)?,
            rate: from.f64()?,
            half_life: from.f64()?,
            passes: from.size("the number of passes", 1000)?,
            skip: from.f64()?,
        };
        let limit = from.f64()?;
        let fitted_limit = from.f64()?;
        let seen = from.u64()?;
        let moments = |from: &mut Reader<'_>| -> Result<Moments, ModelError> {
            Ok(Moments {
                weight: from.f64()?,
                mean: from.f64()?,
                square: from.f64()?,
            })
        };
        let facts = (0..columns)
            .map(|_| moments(from))
            .collect::<Result<_, _>>()?;
        let count = from.size("the number of groups", columns as u64)?;
        let mut members = Vec::new();
        for _ in 0..count {
            let picked = from.sizes(columns.saturating_sub(1) as u64)?;
            if picked.len() > MAX_GROUP {
                return Err(ModelError::Invalid {
                    what: "a group has too many columns",
                });
            }
            let usual = moments(from)?;
            let network = Network::read(from, picked.len())?;
            members.push(Member {
                columns: picked,
                adam: Adam::new(&network, settings.rate),
                network,
                usual,
            });
        }
        if members.is_empty() || !(settings.rate > 0.0 && settings.half_life > 0.0) {
            return Err(ModelError::Invalid {
                what: "an ensemble without members",
            });
        }
        Ok(Self {
            settings,
            columns: facts,
            members,
            limit,
            fitted_limit,
            seen,
        })
    }
}

fn pick<'b>(
    facts: &[Moments],
    columns: &[usize],
    row: &[f64],
    into: &'b mut [f64; MAX_GROUP],
) -> &'b [f64] {
    let mut n = 0;
    for (slot, &c) in into.iter_mut().zip(columns) {
        *slot = facts[c].standardise(row[c]);
        n += 1;
    }
    &into[..n]
}

/// Columns that vary together, at most `limit` in a group: single columns are joined, the closest first, by the smallest
/// `1 - |correlation|` between the members of two groups.
fn groups(rows: MatRef<'_>, limit: usize) -> Vec<Vec<usize>> {
    let d = rows.columns();
    let step = rows.rows().div_ceil(MAP_ROWS).max(1);
    let picked: Vec<&[f64]> = rows.iter().step_by(step).collect();
    let n = picked.len() as f64;
    let mut mean = vec![0.0; d];
    for row in &picked {
        mean.iter_mut().zip(*row).for_each(|(m, v)| *m += v / n);
    }
    let mut covariance = vec![0.0; d * d];
    for row in &picked {
        for i in 0..d {
            for j in 0..=i {
                covariance[i * d + j] += (row[i] - mean[i]) * (row[j] - mean[j]);
            }
        }
    }
    let mut pairs = Vec::new();
    for i in 0..d {
        for j in 0..i {
            let both = (covariance[i * d + i] * covariance[j * d + j]).sqrt();
            if both > 0.0 && both.is_finite() {
                pairs.push((1.0 - (covariance[i * d + j] / both).abs(), i, j));
            }
        }
    }
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let mut of: Vec<usize> = (0..d).collect();
    let mut size = vec![1; d];
    let join = |of: &mut Vec<usize>, size: &mut Vec<usize>, a: usize, b: usize| {
        let (a, b) = (of[a], of[b]);
        if a != b && size[a] + size[b] <= limit {
            of.iter_mut().filter(|g| **g == b).for_each(|g| *g = a);
            size[a] += size[b];
            size[b] = 0;
        }
    };
    for (_, i, j) in pairs {
        join(&mut of, &mut size, i, j);
    }
    // What varies with nothing shares groups too: one column alone cannot be told from its reconstruction.
    for i in 1..d {
        if size[of[i]] == 1 {
            for j in 0..d {
                join(&mut of, &mut size, j, i);
            }
        }
    }
    let mut out: Vec<Vec<usize>> = vec![Vec::new(); d];
    for (column, group) in of.into_iter().enumerate() {
        out[group].push(column);
    }
    out.retain(|g| !g.is_empty());
    out
}

impl Detector for Online {
    fn kind(&self) -> Kind {
        Kind::Online
    }

    fn columns(&self) -> usize {
        self.columns.len()
    }

    fn score(&self, rows: MatRef<'_>, out: &mut [f64]) {
        let mut pass = Pass::default();
        for (row, out) in rows.iter().zip(out) {
            *out = self.judge(row, &mut pass);
        }
    }

    fn as_online(&mut self) -> Option<&mut Online> {
        Some(self)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::part();
        let s = &self.settings;
        out.size(s.group);
        out.f64(s.rate);
        out.f64(s.half_life);
        out.size(s.passes);
        out.f64(s.skip);
        out.f64(self.limit);
        out.f64(self.fitted_limit);
        out.u64(self.seen);
        let moments = |out: &mut Writer, m: &Moments| {
            out.f64(m.weight);
            out.f64(m.mean);
            out.f64(m.square);
        };
        for m in &self.columns {
            moments(&mut out, m);
        }
        out.size(self.members.len());
        for m in &self.members {
            out.sizes(&m.columns);
            moments(&mut out, &m.usual);
            m.network.write(&mut out);
        }
        out.into_part()
    }
}
