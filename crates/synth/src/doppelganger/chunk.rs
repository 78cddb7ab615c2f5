//! Chunks of time, their flows, and these as the matrix that a network learns.

use std::collections::BTreeMap;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::column::Row;
use super::config::Settings;
use super::field::{Field, Head, Scale, width};
use super::words::Words;

/// The largest matrix of a chunk, numbers.
const MAX_NUMBERS: usize = 1 << 30;

/// What all chunks share: fields and the shape of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) metadata: Vec<Field>,
    pub(crate) series: Vec<Field>,
    pub(crate) words: Words,
    pub(crate) labels: Vec<String>,
    /// Number of chunks that the tags tell apart; without tags when 1.
    pub(crate) tags: usize,
    /// Tags are all zero in the chunks after a flow's first one.
    pub(crate) first_tags_only: bool,
    pub(crate) raw_time: bool,
    /// Records of a flow at most.
    pub(crate) length: usize,
    /// Records that a step makes.
    pub(crate) sample_len: usize,
}

impl Plan {
    /// Steps of a flow.
    pub(crate) fn steps(&self) -> usize {
        self.length.div_ceil(self.sample_len)
    }

    /// Metadata, then tags, then the flow's start.
    pub(crate) fn attribute_heads(&self, times: &Times) -> Vec<Head> {
        let word = self.words.size;
        let mut heads: Vec<Head> = self.metadata.iter().flat_map(|f| f.heads(word)).collect();
        if self.tags > 1 {
            heads.extend(vec![Head::Softmax(2); 1 + self.tags]);
        }
        if !self.raw_time {
            heads.push(times.start.head());
        }
        heads
    }

    /// The gap or time, then the series, then whether a further record follows.
    pub(crate) fn record_heads(&self, times: &Times) -> Vec<Head> {
        let mut heads = vec![if self.raw_time {
            times.start.head()
        } else {
            times.gap.head()
        }];
        heads.extend(self.series.iter().flat_map(|f| f.heads(self.words.size)));
        heads.push(Head::Softmax(2));
        heads
    }

    /// Outputs of the metadata: where the tags begin.
    pub(crate) fn tags_at(&self) -> usize {
        self.metadata
            .iter()
            .map(|f| width(&f.heads(self.words.size)))
            .sum()
    }
}

/// Times of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Times {
    /// First and last record, µs since 1970.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Starts of flows, or times of records, µs after `first`.
    pub(crate) start: Scale,
    /// Between records of a flow, µs.
    pub(crate) gap: Scale,
}

/// A flow of a chunk: its rows in order of time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Flow {
    pub(crate) rows: Vec<usize>,
    /// Whether the flow has records in an earlier chunk; then the chunks it has records in.
    pub(crate) started: bool,
    pub(crate) present: Vec<bool>,
}

/// A chunk: rows `from..to` of all.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) flows: Vec<Flow>,
}

/// Where rows, in order of time, are cut: equal times or equal numbers; no chunk is empty.
pub(crate) fn cut(rows: &[Row], settings: &Settings) -> Vec<(usize, usize)> {
    let n = settings.chunks;
    let at = |i: usize| rows.get(i).map_or(0, |r| r.record.start_us);
    let (first, last) = (at(0), at(rows.len().saturating_sub(1)));
    edges(rows, n, settings.fixed_size, first, last)
        .windows(2)
        .map(|w| (w[0], w[1]))
        .filter(|(a, b)| a < b)
        .collect()
}

fn edges(rows: &[Row], n: usize, fixed_size: bool, first: u64, last: u64) -> Vec<usize> {
    (0..=n)
        .map(|k| {
            if k == n {
                rows.len()
            } else if fixed_size {
                (k * rows.len().div_ceil(n)).min(rows.len())
            } else {
                let edge =
                    first + ((u128::from(last - first) * k as u128).div_ceil(n as u128)) as u64;
                rows.partition_point(|r| r.record.start_us < edge)
            }
        })
        .collect()
}

/// As [`cut`], by a range that is given; rows outside it are in no chunk.
pub(crate) fn cut_public(rows: &[Row], n: usize, (first, last): (u64, u64)) -> Vec<(usize, usize)> {
    let skipped = rows.partition_point(|r| r.record.start_us < first);
    let end = rows.partition_point(|r| r.record.start_us <= last);
    let edges = edges(&rows[skipped..end], n, false, first, last);
    edges
        .windows(2)
        .map(|w| (skipped + w[0], skipped + w[1]))
        .collect()
}

/// Flows are rows of one chunk with equal metadata.
pub(crate) fn chunks(rows: &[Row], cuts: &[(usize, usize)], settings: &Settings) -> Vec<Chunk> {
    let key = |row: &Row| -> Vec<u64> {
        let of = |s: &super::config::Spec| row.number(s.column).to_bits();
        settings.metadata.iter().map(of).collect()
    };
    let mut groups: Vec<BTreeMap<Vec<u64>, Vec<usize>>> = Vec::new();
    let mut present: BTreeMap<Vec<u64>, Vec<usize>> = BTreeMap::new();
    for (chunk, (from, to)) in cuts.iter().enumerate() {
        let mut flows: BTreeMap<Vec<u64>, Vec<usize>> = BTreeMap::new();
        for (at, row) in rows.iter().enumerate().take(*to).skip(*from) {
            flows.entry(key(row)).or_default().push(at);
        }
        for key in flows.keys() {
            present.entry(key.clone()).or_default().push(chunk);
        }
        groups.push(flows);
    }
    let of = |(chunk, flows): (usize, BTreeMap<Vec<u64>, Vec<usize>>)| Chunk {
        from: cuts[chunk].0,
        to: cuts[chunk].1,
        flows: flows
            .into_iter()
            .map(|(key, rows)| {
                let chunks = &present[&key];
                let started = chunks[0] < chunk;
                let blank = started && settings.first_tags_only;
                Flow {
                    rows,
                    started,
                    present: (0..cuts.len())
                        .map(|k| !blank && chunks.contains(&k))
                        .collect(),
                }
            })
            .collect(),
    };
    groups.into_iter().enumerate().map(of).collect()
}

/// The longest flow of any chunk.
pub(crate) fn longest(chunks: &[Chunk]) -> usize {
    let lengths = chunks
        .iter()
        .flat_map(|c| c.flows.iter().map(|f| f.rows.len()));
    lengths.max().unwrap_or(1)
}

/// Ranges of a chunk's times, as they are.
pub(crate) fn times(chunk: &Chunk, rows: &[Row], plan: &Plan, signed: bool) -> Times {
    let first = rows[chunk.from].record.start_us;
    let last = rows[chunk.to - 1].record.start_us;
    let at = |i: usize| (rows[i].record.start_us - first) as f64;
    let scale = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
            (a.min(v), b.max(v))
        });
        Scale {
            low: if low.is_finite() { low } else { 0.0 },
            high: if high.is_finite() { high } else { 0.0 },
            log1p: false,
            signed,
        }
    };
    let flows = || chunk.flows.iter();
    let start = if plan.raw_time {
        scale(&mut (chunk.from..chunk.to).map(at))
    } else {
        scale(&mut flows().map(|f| at(f.rows[0])))
    };
    let gaps = flows().flat_map(|f| f.rows[..f.rows.len().min(plan.length)].windows(2));
    let mut gaps = std::iter::once(0.0).chain(gaps.map(|w| at(w[1]) - at(w[0])));
    Times {
        first,
        last,
        start,
        gap: scale(&mut gaps),
    }
}

/// The chunk as a matrix, a flow a column: its records one below the other, padded with zeros, then its attributes.
/// `None` when that would be too large.
pub(crate) fn matrix(
    chunk: &Chunk,
    rows: &[Row],
    plan: &Plan,
    times: &Times,
) -> Option<Array2<f32>> {
    let (record, attribute) = (
        width(&plan.record_heads(times)),
        width(&plan.attribute_heads(times)),
    );
    let slots = plan.steps() * plan.sample_len;
    let height = slots.checked_mul(record)? + attribute;
    if height.checked_mul(chunk.flows.len())? > MAX_NUMBERS {
        return None;
    }
    let mut out = Array2::zeros((height, chunk.flows.len()));
    let mut x = Vec::with_capacity(height);
    let hot = |on: bool| if on { [0.0, 1.0] } else { [1.0, 0.0] };
    let at = |i: usize| rows[i].record.start_us.saturating_sub(times.first) as f64;
    for (j, flow) in chunk.flows.iter().enumerate() {
        x.clear();
        let kept = &flow.rows[..flow.rows.len().min(plan.length)];
        for (k, &i) in kept.iter().enumerate() {
            x.push(if plan.raw_time {
                times.start.encode(at(i))
            } else if k == 0 {
                times.gap.encode(0.0)
            } else {
                times.gap.encode(at(i) - at(kept[k - 1]))
            });
            for field in &plan.series {
                field.encode(&rows[i], &plan.words, &plan.labels, &mut x);
            }
            // A further record follows; this one is the last.
            x.extend(hot(k + 1 == kept.len()));
        }
        x.resize(slots * record, 0.0);
        for field in &plan.metadata {
            field.encode(&rows[kept[0]], &plan.words, &plan.labels, &mut x);
        }
        if plan.tags > 1 {
            x.extend(hot(!flow.started));
            for on in &flow.present {
                x.extend(hot(*on));
            }
        }
        if !plan.raw_time {
            x.push(times.start.encode(at(kept[0])));
        }
        for (i, v) in x.iter().enumerate() {
            out[[i, j]] = *v;
        }
    }
    Some(out)
}
