//! Training of a whole configuration: all models of its grid, all chunks, the best of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::chunk::{self, Chunk, Plan, Times};
use super::column::{Column, Kind, Row, Rows};
use super::config::{Encoding, Settings};
use super::draw::{Source, draw, set_reaches, shares};
use super::field::Field;
use super::generator::{Generator, Shape};
use super::model::{ChunkModel, Doppelganger};
use super::select;
use super::train::{Losses, Nets, Stream, epoch};
use super::words::Words;
use crate::address::key;
use crate::model::{Info, Method};
use crate::{SynthError, Table};

/// Checkpoints of a chunk that are compared, the latest ones.
const MAX_CANDIDATES: usize = 16;
/// Records that checkpoints are compared on.
const COMPARED: usize = 20_000;

/// What a fit of networks takes besides NetShare's configuration.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// Replace addresses by made-up ones of the same kind and neighbourhood before anything is learned.
    pub fresh_addresses: bool,
    /// Key of the made-up addresses, of all initial weights and all noise: the same input and seed give the same model,
    /// however many threads there are.
    pub seed: u64,
    /// Chunks and models that train at the same time, at least 1.
    pub threads: usize,
}

/// What happened in a pass over a chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// `sample_len` of the model.
    pub sample_len: usize,
    /// Chunk, from 0, of `chunks`.
    pub chunk: usize,
    /// How many there are.
    pub chunks: usize,
    /// Passes done, of `epochs`.
    pub epoch: usize,
    /// How many there will be.
    pub epochs: usize,
    /// Means over the pass; `None` with differential privacy, and when it was read from a checkpoint.
    pub losses: Option<Losses>,
}

/// Who is told of progress and keeps checkpoints.
pub trait Watch: Sync {
    /// A pass is done.
    fn progress(&self, progress: &Progress);

    /// Keeps these bytes under a name (letters, digits, `-`, `.`), replacing earlier ones.
    ///
    /// # Errors
    /// Why they could not be kept.
    fn keep(&self, name: &str, bytes: &[u8]) -> std::io::Result<()>;

    /// What was kept under the name in an earlier run.
    fn kept(&self, name: &str) -> Option<Vec<u8>>;
}

/// Tells nobody and keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn progress(&self, _: &Progress) {}

    fn keep(&self, _: &str, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    fn kept(&self, _: &str) -> Option<Vec<u8>> {
        None
    }
}

/// Learns a configuration's models from rows, and keeps the best one. There is **no** formal privacy guarantee.
///
/// # Errors
/// [`SynthError::Empty`]; [`SynthError::Option`] when rows and configuration do not fit together;
/// [`SynthError::TooMany`] for flows that are too long together; [`SynthError::Io`] from keeping checkpoints.
pub fn fit_doppelganger(
    rows: &Rows,
    grid: &[Settings],
    options: &NetworkOptions,
    watch: &dyn Watch,
) -> Result<Doppelganger, SynthError> {
    let mut rows = rows.clone();
    let first = check(&rows, grid)?;
    if options.fresh_addresses {
        rows.make_up_addresses(options.seed);
    }
    let cuts = chunk::cut(&rows.rows, first);
    let chunks = chunk::chunks(&rows.rows, &cuts, first);
    let plan = plan(&rows, first, &chunks);
    let jobs: Vec<Job<'_>> = grid
        .iter()
        .enumerate()
        .map(|(number, settings)| {
            let plan = Plan {
                sample_len: settings.net.sample_len,
                ..plan.clone()
            };
            let of = |c: &Chunk| chunk::times(c, &rows.rows, &plan, settings.signed_time);
            Job {
                number,
                settings,
                times: chunks.iter().map(of).collect(),
                plan,
                rows: &rows.rows,
                chunks: &chunks,
                seed: options.seed,
                watch,
            }
        })
        .collect();
    let threads = options.threads.max(1);
    let firsts = parallel(threads, jobs.len(), |g| jobs[g].train(0, None))?;
    let more = chunks.len() - 1;
    let others = parallel(threads, jobs.len() * more, |i| {
        jobs[i / more].train(1 + i % more, Some(&firsts[i / more].nets))
    })?;
    let mut trained: Vec<Vec<Trained>> = firsts.into_iter().map(|t| vec![t]).collect();
    for (i, t) in others.into_iter().enumerate() {
        trained[i / more].push(t);
    }
    let chosen = parallel(threads, jobs.len(), |g| jobs[g].choose(&trained[g]))?;
    let whole = |i: usize| {
        let made = &chosen[i].rows;
        select::distances(
            &plan,
            first.kind,
            &rows.rows[..rows.len().min(COMPARED)],
            made,
        )
    };
    let best = select::best(&(0..chosen.len()).map(whole).collect::<Vec<_>>());
    let records = rows.len() as u64;
    let resolution = resolution(&rows);
    let chosen = chosen.into_iter().nth(best).ok_or(SynthError::Empty)?;
    let job = &jobs[best];
    Ok(Doppelganger {
        info: Info {
            version: 1,
            method: Method::Doppelganger,
            records,
            fresh_addresses: options.fresh_addresses,
            packets: match first.kind {
                Kind::Packets => records,
                Kind::Flows => 0,
            },
            privacy: None,
        },
        kind: first.kind,
        label_column: rows.label_column.clone(),
        units_us: resolution,
        shape: job.shape(0),
        plan: chosen.plan,
        chunks: chosen.models,
    })
}

/// Whether rows and configuration fit together; gives the grid's first model.
pub(crate) fn check<'a>(rows: &Rows, grid: &'a [Settings]) -> Result<&'a Settings, SynthError> {
    let refuse = |why: String| SynthError::Option {
        name: "config",
        why,
    };
    let first = grid
        .first()
        .ok_or_else(|| refuse("it has no model".to_owned()))?;
    if rows.is_empty() {
        return Err(SynthError::Empty);
    }
    if rows.packets != first.packets {
        let [is, wants] =
            [rows.packets, first.packets].map(|p| if p { "a capture" } else { "a flow table" });
        return Err(refuse(format!(
            "the input is {is}, global_config.dataset_type asks for {wants}"
        )));
    }
    let used = |column: Column| {
        let mut all = first.metadata.iter().chain(&first.series);
        all.any(|s| s.column == column)
    };
    if used(Column::Label) && rows.label_column.is_none() {
        return Err(refuse(
            "it has the column type, but the input has no label column (see --label)".to_owned(),
        ));
    }
    for needed in [Column::Source, Column::Destination, Column::Protocol] {
        if !used(needed) {
            return Err(refuse(format!("metadata needs a field for the {needed:?}")));
        }
    }
    Ok(first)
}

fn plan(rows: &Rows, settings: &Settings, chunks: &[Chunk]) -> Plan {
    let learn = |specs: &[super::config::Spec]| -> Vec<Field> {
        specs
            .iter()
            .map(|s| Field::learn(s, &rows.rows, &rows.labels))
            .collect()
    };
    let words: Vec<Column> = settings
        .metadata
        .iter()
        .chain(&settings.series)
        .filter(|s| s.encoding == Encoding::Word)
        .map(|s| s.column)
        .collect();
    let words = if words.is_empty() {
        Words::default()
    } else {
        Words::learn(&rows.rows, &words, settings.word_size)
    };
    Plan {
        metadata: learn(&settings.metadata),
        series: learn(&settings.series),
        words,
        labels: rows.labels.clone(),
        tags: chunks.len(),
        first_tags_only: settings.first_tags_only,
        raw_time: settings.raw_time,
        length: settings
            .max_flow_len
            .unwrap_or_else(|| chunk::longest(chunks)),
        sample_len: settings.net.sample_len,
    }
}

fn resolution(rows: &Rows) -> (u64, u64) {
    Table {
        records: rows.rows.iter().map(|r| r.record).collect(),
        ..Table::default()
    }
    .resolution_us()
}

/// Results of `of(0)` to `of(n - 1)`, computed by so many threads; the first error in that order.
pub(crate) fn parallel<T: Send>(
    threads: usize,
    n: usize,
    of: impl Fn(usize) -> Result<T, SynthError> + Sync,
) -> Result<Vec<T>, SynthError> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Result<T, SynthError>>>> =
        Mutex::new((0..n).map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(n) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        break;
                    }
                    let result = of(i);
                    if let Ok(mut done) = done.lock() {
                        done[i] = Some(result);
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_default();
    done.into_iter().flatten().collect()
}

/// A trained chunk: its networks, and the generator's weights at checkpoints.
struct Trained {
    nets: Nets,
    candidates: Vec<Vec<f32>>,
}

/// One model of the grid.
struct Job<'a> {
    number: usize,
    settings: &'a Settings,
    plan: Plan,
    times: Vec<Times>,
    rows: &'a [Row],
    chunks: &'a [Chunk],
    seed: u64,
    watch: &'a dyn Watch,
}

impl Job<'_> {
    fn shape(&self, chunk: usize) -> Shape {
        shape(&self.plan, &self.times[chunk], self.settings)
    }

    fn epochs(&self, chunk: usize) -> usize {
        if chunk == 0 {
            self.settings.epochs
        } else {
            ((self.settings.epochs as f64 / self.settings.reduce) as usize).max(1)
        }
    }

    fn train(&self, chunk: usize, warm: Option<&Nets>) -> Result<Trained, SynthError> {
        let net = &self.settings.net;
        let flows = chunk::matrix(
            &self.chunks[chunk],
            self.rows,
            &self.plan,
            &self.times[chunk],
        )
        .ok_or(SynthError::TooMany {
            what: "numbers in the flows of a chunk (set max_flow_len, or more chunks)",
            limit: 1 << 30,
        })?;
        let stream = Stream(vec![self.seed, self.number as u64, chunk as u64]);
        let mut nets = match warm {
            Some(nets) => nets.clone(),
            None => {
                let mut rng = ChaCha8Rng::seed_from_u64(key(&[self.seed, self.number as u64]));
                let mut nets = Nets::new(self.shape(chunk), net, &mut rng);
                nets.generator.start_at(&flows, &mut rng);
                nets
            }
        };
        nets.restart(net);
        let epochs = self.epochs(chunk);
        // Of what a checkpoint depends on: settings but for how long, and the data.
        let mark = key(&[
            flows
                .iter()
                .fold(1, |h, v| key(&[h, u64::from(v.to_bits())])),
            format!("{net:?}")
                .bytes()
                .fold(2, |h, b| key(&[h, u64::from(b)])),
            self.seed,
            warm.map_or(0, |_| self.settings.epochs as u64),
        ]);
        let name = |end: &str| format!("{}-{chunk}.{end}", self.number);
        let checkpoint = |e: usize| e.is_multiple_of(net.checkpoint) || e == epochs;
        let mut from = 0;
        let mut candidates = Vec::new();
        if let Some((done, state)) = self
            .watch
            .kept(&name("state"))
            .and_then(|b| unmarked(&b, mark))
            && done <= epochs
            && nets.set_state(&state).is_some()
        {
            from = done;
            for e in (1..=done).filter(|e| checkpoint(*e)) {
                let kept = self.watch.kept(&name(&format!("{e}")));
                candidates.extend(kept.and_then(|b| unmarked(&b, mark)).map(|(_, w)| w));
            }
        }
        for e in from..epochs {
            let losses = epoch(&mut nets, &flows, net, &stream, e);
            if checkpoint(e + 1) {
                let weights = nets.generator.weights();
                if !weights.iter().all(|w| w.is_finite()) {
                    return Err(SynthError::Option {
                        name: "config",
                        why: format!(
                            "training diverged in pass {} of chunk {chunk}: use smaller rates (g_lr, d_lr, attr_d_lr)",
                            e + 1
                        ),
                    });
                }
                self.watch
                    .keep(&name(&format!("{}", e + 1)), &marked(mark, e + 1, &weights))?;
                self.watch
                    .keep(&name("state"), &marked(mark, e + 1, &nets.state()))?;
                candidates.push(weights);
            }
            self.watch.progress(&Progress {
                sample_len: net.sample_len,
                chunk,
                chunks: self.chunks.len(),
                epoch: e + 1,
                epochs,
                losses: Some(losses),
            });
        }
        let surplus = candidates.len().saturating_sub(MAX_CANDIDATES);
        candidates.drain(..surplus);
        Ok(Trained { nets, candidates })
    }

    /// The best checkpoint of each chunk, how vectors are read, and rows drawn so.
    fn choose(&self, trained: &[Trained]) -> Result<Chosen, SynthError> {
        let wanted: Vec<u64> = self.chunks.iter().map(|c| (c.to - c.from) as u64).collect();
        let total = wanted.iter().sum::<u64>().min(COMPARED as u64) as usize;
        let targets = shares(total, &wanted);
        let most = trained
            .iter()
            .map(|t| t.candidates.len())
            .max()
            .unwrap_or(0);
        let generator = |chunk: usize, candidate: usize| -> Result<Generator<f32>, SynthError> {
            let mut generator = trained[chunk].nets.generator.clone();
            let all = &trained[chunk].candidates;
            let of = all.get(candidate).or(all.last());
            if of.is_some_and(|w| generator.set_weights(w)) {
                Ok(generator)
            } else {
                Err(SynthError::Model("a checkpoint does not fit".to_owned()))
            }
        };
        let pairs = |pick: &dyn Fn(usize) -> usize| -> Result<Vec<_>, SynthError> {
            (0..trained.len())
                .map(|k| Ok([generator(k, usize::MAX)?, generator(k, pick(k))?]))
                .collect()
        };
        let mut plan = self.plan.clone();
        let first = |c: &Chunk| c.flows.iter().map(|f| self.rows[f.rows[0]]).collect();
        let metadata: Vec<Vec<Row>> = self.chunks.iter().map(first).collect();
        // The generators of attributes are the last ones, whichever makes the records.
        let mut last = pairs(&|_| usize::MAX)?;
        set_reaches(
            &mut plan,
            &mut self.sources(&mut last),
            &metadata.concat(),
            self.seed,
        );
        let made = |pick: &dyn Fn(usize) -> usize| -> Result<Vec<Vec<Row>>, SynthError> {
            let (mut pairs, kind) = (pairs(pick)?, self.settings.kind);
            Ok(draw(
                &plan,
                kind,
                &mut self.sources(&mut pairs),
                &targets,
                self.seed,
            ))
        };
        let mut distances: Vec<Vec<Vec<f64>>> = vec![Vec::new(); trained.len()];
        for candidate in 0..most {
            let rows = made(&|_| candidate)?;
            for (k, rows) in rows.iter().enumerate() {
                if candidate < trained[k].candidates.len() {
                    let real = &self.rows[self.chunks[k].from..self.chunks[k].to];
                    distances[k].push(select::distances(
                        &self.plan,
                        self.settings.kind,
                        real,
                        rows,
                    ));
                }
            }
        }
        let picks: Vec<usize> = distances.iter().map(|d| select::best(d)).collect();
        let rows = made(&|k| picks[k])?.concat();
        let models = trained.iter().enumerate().map(|(k, t)| ChunkModel {
            times: self.times[k],
            records: wanted[k],
            flows: self.chunks[k].flows.len() as u64,
            attributes: t.candidates.last().cloned().unwrap_or_default(),
            weights: t.candidates.get(picks[k]).cloned().unwrap_or_default(),
        });
        Ok(Chosen {
            models: models.collect(),
            plan,
            rows,
        })
    }

    fn sources<'a>(&self, pairs: &'a mut [[Generator<f32>; 2]]) -> Vec<Source<'a>> {
        let of = |(k, generators): (usize, &'a mut [Generator<f32>; 2])| Source {
            times: self.times[k],
            flows: self.chunks[k].flows.len(),
            generators,
        };
        pairs.iter_mut().enumerate().map(of).collect()
    }
}

/// What comes out of a model of the grid.
struct Chosen {
    models: Vec<ChunkModel>,
    plan: Plan,
    rows: Vec<Row>,
}

pub(crate) fn shape(plan: &Plan, times: &Times, settings: &Settings) -> Shape {
    Shape::new(
        plan.attribute_heads(times),
        plan.record_heads(times),
        plan.steps(),
        &settings.net,
    )
}

/// Weights with what they belong to, and a checksum.
fn marked(mark: u64, epoch: usize, weights: &[f32]) -> Vec<u8> {
    let mut out = mark.to_le_bytes().to_vec();
    out.extend((epoch as u64).to_le_bytes());
    weights.iter().for_each(|w| out.extend(w.to_le_bytes()));
    crate::engine::seal(out)
}

/// `None` for what is cut, damaged or belongs to other data or settings.
fn unmarked(bytes: &[u8], mark: u64) -> Option<(usize, Vec<f32>)> {
    let body = crate::engine::unsealed(bytes)?;
    let (own, rest) = body.split_first_chunk::<8>()?;
    let (epoch, rest) = rest.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*own) != mark {
        return None;
    }
    let weights = rest
        .as_chunks::<4>()
        .0
        .iter()
        .map(|c| f32::from_le_bytes(*c));
    Some((
        usize::try_from(u64::from_le_bytes(*epoch)).ok()?,
        weights.collect(),
    ))
}
