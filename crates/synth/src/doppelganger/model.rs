//! A trained model and its file.

use serde::{Deserialize, Serialize};

use super::chunk::{Plan, Times};
use super::column::Kind;
use super::draw::{Source, draw, shares};
use super::generator::{Generator, Shape};
use crate::engine::{self, Engine};
use crate::model::{Info, Method, Model};
use crate::{SynthError, Table};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The most weights of a generator that is read.
const MAX_WEIGHTS: usize = 1 << 28;

/// A chunk's generators.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChunkModel {
    pub(crate) times: Times,
    pub(crate) records: u64,
    pub(crate) flows: u64,
    /// Weights of the generator of attributes (the last one) and of records (the best one).
    pub(crate) attributes: Vec<f32>,
    pub(crate) weights: Vec<f32>,
}

/// A trained configuration of NetShare.
#[derive(Clone, Debug, PartialEq)]
pub struct Doppelganger {
    pub(crate) info: Info,
    pub(crate) kind: Kind,
    pub(crate) label_column: Option<String>,
    /// Unit of start times and of durations, µs.
    pub(crate) units_us: (u64, u64),
    pub(crate) shape: Shape,
    pub(crate) plan: Plan,
    pub(crate) chunks: Vec<ChunkModel>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    info: Info,
    kind: Kind,
    label_column: Option<String>,
    units_us: (u64, u64),
    shape: Shape,
    plan: Plan,
    /// Times, records, flows, and whether both generators are the same.
    chunks: Vec<(Times, u64, u64, bool)>,
}

impl Engine for Doppelganger {
    fn info(&self) -> &Info {
        &self.info
    }

    /// Packets of captures are records of one packet each.
    fn sample(&self, records: usize, seed: u64) -> Result<Table, SynthError> {
        engine::check_records(records)?;
        let mut pairs = Vec::with_capacity(self.chunks.len());
        for chunk in &self.chunks {
            pairs.push([
                self.generator(&chunk.attributes)?,
                self.generator(&chunk.weights)?,
            ]);
        }
        let mut sources: Vec<Source<'_>> = pairs
            .iter_mut()
            .zip(&self.chunks)
            .map(|(generators, chunk)| Source {
                times: chunk.times,
                flows: chunk.flows as usize,
                generators,
            })
            .collect();
        let weights: Vec<u64> = self.chunks.iter().map(|c| c.records).collect();
        let targets = shares(records, &weights);
        let rows = draw(&self.plan, self.kind, &mut sources, &targets, seed);
        let mut table = Table {
            records: rows.concat().into_iter().map(|r| r.record).collect(),
            labels: self.plan.labels.clone(),
            label_column: self.label_column.clone(),
            capture: self.kind == Kind::Packets,
        };
        let (start, duration) = (self.units_us.0.max(1), self.units_us.1.max(1));
        for r in &mut table.records {
            r.start_us = r.start_us / start * start;
            r.duration_us = (r.duration_us + duration / 2) / duration * duration;
        }
        table.sort();
        Ok(table)
    }

    fn to_bytes(&self) -> Result<Vec<u8>, SynthError> {
        let of = |c: &ChunkModel| (c.times, c.records, c.flows, c.attributes == c.weights);
        let mut out = engine::begin(&Header {
            info: self.info.clone(),
            kind: self.kind,
            label_column: self.label_column.clone(),
            units_us: self.units_us,
            shape: self.shape.clone(),
            plan: self.plan.clone(),
            chunks: self.chunks.iter().map(of).collect(),
        })?;
        let mut put = |weights: &[f32]| weights.iter().for_each(|w| out.extend(w.to_le_bytes()));
        for chunk in &self.chunks {
            put(&chunk.weights);
            if chunk.attributes != chunk.weights {
                put(&chunk.attributes);
            }
        }
        Ok(engine::seal(out))
    }

    fn tables(&self) -> Option<&Model> {
        None
    }
}

impl Doppelganger {
    fn generator(&self, weights: &[f32]) -> Result<Generator<f32>, SynthError> {
        // The weights that are drawn here are replaced.
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut generator = Generator::new(self.shape.clone(), &mut rng);
        if generator.set_weights(weights) {
            Ok(generator)
        } else {
            Err(SynthError::Model("its weights are not usable".to_owned()))
        }
    }

    /// Reads a model file; whatever the bytes, drawing from the result is safe.
    ///
    /// # Errors
    /// [`SynthError::Model`], also when the accounting of a private model does not add up.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SynthError> {
        let bad = |what: &str| SynthError::Model(what.to_owned());
        let (json, mut input) = engine::open(bytes)?;
        let header: Header =
            serde_json::from_slice(json).map_err(|e| SynthError::Model(e.to_string()))?;
        let Header {
            info,
            kind,
            label_column,
            units_us,
            shape,
            plan,
            chunks,
        } = header;
        if info.version != 1 || info.method != Method::Doppelganger {
            return Err(bad("it is not a network of version 1"));
        }
        let count = weights_of(&shape).ok_or_else(|| bad("its networks are too large"))?;
        let fields = || plan.metadata.iter().chain(&plan.series);
        let has_words = !plan.words.ports.is_empty() && !plan.words.protocols.is_empty();
        let words = |f: &super::field::Field| f.code != super::field::Code::Word || has_words;
        let fits = |(times, ..): &(Times, u64, u64, bool)| {
            times.first <= times.last
                && times.start.valid()
                && times.gap.valid()
                && plan.attribute_heads(times) == shape.attributes
                && plan.record_heads(times) == shape.record
        };
        if plan.sample_len == 0
            || plan.length == 0
            || plan.sample_len != shape.sample_len
            || plan.steps() != shape.steps
            || chunks.is_empty()
            || !fields().all(|f| f.valid() && words(f))
            || !plan.words.valid()
            || (plan.tags > 1 && plan.tags != chunks.len())
            || !chunks.iter().all(fits)
            || chunks
                .iter()
                .try_fold(0u64, |sum, c| sum.checked_add(c.1))
                .is_none_or(|n| n == 0)
        {
            return Err(bad("its parts do not fit together"));
        }
        if let Some(privacy) = &info.privacy {
            privacy.verify()?;
        }
        let mut models = Vec::new();
        for (times, records, flows, same) in chunks {
            let weights = input.array(count, f32::from_le_bytes)?;
            let attributes = if same {
                weights.clone()
            } else {
                input.array(count, f32::from_le_bytes)?
            };
            models.push(ChunkModel {
                times,
                records,
                flows,
                attributes,
                weights,
            });
        }
        if !input.0.is_empty() {
            return Err(bad("it is longer than its header says"));
        }
        let model = Self {
            info,
            kind,
            label_column,
            units_us,
            shape,
            plan,
            chunks: models,
        };
        for chunk in &model.chunks {
            model.generator(&chunk.weights)?;
            model.generator(&chunk.attributes)?;
        }
        Ok(model)
    }
}

/// How many weights a generator of this shape has; `None` when that is more than is read.
fn weights_of(shape: &Shape) -> Option<usize> {
    let sizes = shape
        .attributes
        .iter()
        .chain(&shape.record)
        .map(|h| h.size());
    let heads = sizes.clone().try_fold(0usize, usize::checked_add)?;
    let own = [
        shape.hidden,
        shape.width,
        shape.units,
        shape.latent[0],
        shape.latent[1],
        heads,
    ];
    if own.iter().any(|n| *n == 0 || *n > 1 << 16)
        || shape.record.len() < 2
        || sizes.clone().any(|n| n == 0)
    {
        return None;
    }
    if shape.sample_len > 10_000 || shape.steps > 100_000 || shape.hidden > 20 {
        return None;
    }
    let (attributes, record) = (shape.attribute_size(), shape.record_size());
    let dense = |from: usize, to: usize| to * (from + 1);
    let mut sum = 0usize;
    let mut from = shape.latent[0];
    for _ in 0..shape.hidden {
        // Weights, bias; scale, shift, running mean and variance.
        sum += dense(from, shape.width) + 4 * shape.width;
        from = shape.width;
    }
    sum += dense(from, attributes);
    sum += 4 * shape.units * (attributes + shape.latent[1] + shape.units + 1);
    sum += dense(shape.units, record.checked_mul(shape.sample_len)?);
    (sum <= MAX_WEIGHTS).then_some(sum)
}
