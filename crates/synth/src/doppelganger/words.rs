//! Vectors of ports and protocols that occur together (word2vec; Mikolov and others 2013), the same from the same rows.

use std::collections::BTreeMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::column::{Column, Row};

/// Passes, negative samples and learning rates of gensim's defaults, which NetShare uses.
const PASSES: usize = 5;
const NEGATIVES: usize = 5;
const RATES: (f64, f64) = (0.025, 0.0001);
/// The widest context; a sentence is shorter.
const SEED: u64 = 0x77_32_76;

/// A dictionary of unit vectors, ports and protocols apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Words {
    pub(crate) size: usize,
    pub(crate) ports: Vec<(u16, Vec<f32>)>,
    pub(crate) protocols: Vec<(u8, Vec<f32>)>,
}

fn unit(v: &[f64]) -> Vec<f32> {
    let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    v.iter().map(|x| (x / norm) as f32).collect()
}

impl Words {
    /// Continuous bag of words with negative sampling: a sentence is what a row has in these columns.
    pub(crate) fn learn(rows: &[Row], columns: &[Column], size: usize) -> Self {
        // Protocols come after all ports.
        let word = |row: &Row, column: &Column| {
            let shift = if *column == Column::Protocol {
                1 << 16
            } else {
                0
            };
            row.number(*column) as u32 + shift
        };
        let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
        for row in rows {
            for column in columns {
                *counts.entry(word(row, column)).or_default() += 1.0;
            }
        }
        let index: BTreeMap<u32, usize> = counts.keys().copied().zip(0..).collect();
        let sums: Vec<f64> = counts
            .values()
            .scan(0.0, |sum, n| {
                *sum += n.powf(0.75);
                Some(*sum)
            })
            .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let n = index.len();
        let mut input: Vec<f64> = (0..n * size)
            .map(|_| (rng.random::<f64>() - 0.5) / size as f64)
            .collect();
        let mut output = vec![0.0; n * size];
        let total = (PASSES * rows.len() * columns.len()).max(1) as f64;
        let mut done = 0.0;
        let mut sentence = Vec::new();
        for _ in 0..PASSES {
            for row in rows {
                sentence.clear();
                sentence.extend(columns.iter().map(|c| index[&word(row, c)]));
                for at in 0..sentence.len() {
                    done += 1.0;
                    let rate = RATES.0 + (RATES.1 - RATES.0) * done / total;
                    let others = sentence.iter().enumerate().filter(|(i, _)| *i != at);
                    let others: Vec<usize> = others.map(|(_, w)| *w).collect();
                    if others.is_empty() {
                        continue;
                    }
                    let share = 1.0 / others.len() as f64;
                    let mut mean = vec![0.0; size];
                    for w in &others {
                        let from = &input[w * size..(w + 1) * size];
                        mean.iter_mut().zip(from).for_each(|(m, v)| *m += v * share);
                    }
                    let mut back = vec![0.0; size];
                    for k in 0..=NEGATIVES {
                        let (target, truth) = if k == 0 {
                            (sentence[at], 1.0)
                        } else {
                            let u = rng.random::<f64>() * sums.last().copied().unwrap_or(0.0);
                            (sums.partition_point(|s| *s <= u).min(n - 1), 0.0)
                        };
                        if k > 0 && target == sentence[at] {
                            continue;
                        }
                        let to = &mut output[target * size..(target + 1) * size];
                        let dot: f64 = mean.iter().zip(to.iter()).map(|(a, b)| a * b).sum();
                        let g = rate * (truth - 1.0 / (1.0 + (-dot).exp()));
                        for i in 0..size {
                            back[i] += g * to[i];
                            to[i] += g * mean[i];
                        }
                    }
                    for w in &others {
                        let to = &mut input[w * size..(w + 1) * size];
                        to.iter_mut().zip(&back).for_each(|(v, b)| *v += b);
                    }
                }
            }
        }
        let mut words = Self {
            size,
            ..Self::default()
        };
        for (word, i) in index {
            let vector = unit(&input[i * size..(i + 1) * size]);
            if word >> 16 == 0 {
                words.ports.push((word as u16, vector));
            } else {
                words.protocols.push((word as u8, vector));
            }
        }
        words
    }

    /// The vector of a value that was learned; of the nearest number otherwise.
    pub(crate) fn vector(&self, column: Column, value: f64) -> &[f32] {
        let near = |number: f64| (number - value).abs();
        if column == Column::Protocol {
            let best = self
                .protocols
                .iter()
                .min_by(|a, b| near(a.0.into()).total_cmp(&near(b.0.into())));
            return best.map_or(&[], |(_, v)| v);
        }
        let at = self.ports.partition_point(|(p, _)| f64::from(*p) < value);
        let around = self.ports[at.saturating_sub(1)..(at + 1).min(self.ports.len())].iter();
        let best = around.min_by(|a, b| near(a.0.into()).total_cmp(&near(b.0.into())));
        best.map_or(&[], |(_, v)| v)
    }

    /// The value whose vector has the smallest angle to this one; the first of equals.
    pub(crate) fn nearest(&self, column: Column, vector: &[f32]) -> f64 {
        let along = |v: &[f32]| -> f32 { v.iter().zip(vector).map(|(a, b)| a * b).sum() };
        let mut best = (f32::NEG_INFINITY, 0.0);
        let mut look = |value: f64, v: &[f32]| {
            let a = along(v);
            if a > best.0 {
                best = (a, value);
            }
        };
        if column == Column::Protocol {
            self.protocols
                .iter()
                .for_each(|(w, v)| look((*w).into(), v));
        } else {
            self.ports.iter().for_each(|(w, v)| look((*w).into(), v));
        }
        best.1
    }

    /// Whether a file's dictionary can be used.
    pub(crate) fn valid(&self) -> bool {
        let fits = |v: &Vec<f32>| v.len() == self.size && v.iter().all(|x| x.is_finite());
        self.ports.iter().all(|(_, v)| fits(v))
            && self.protocols.iter().all(|(_, v)| fits(v))
            && self.ports.is_sorted_by_key(|(p, _)| *p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Record;

    #[test]
    fn words_that_share_their_company_are_near_and_all_come_back() {
        let row = |i: u16| Row {
            record: Record {
                src_port: 40_000 + i % 50,
                dst_port: if i.is_multiple_of(2) {
                    53
                } else {
                    80 + 363 * (i / 2 % 2)
                },
                protocol: if i.is_multiple_of(2) { 17 } else { 6 },
                ..Record::default()
            },
            ..Row::default()
        };
        let rows: Vec<Row> = (0..4000).map(row).collect();
        let columns = [
            Column::SourcePort,
            Column::DestinationPort,
            Column::Protocol,
        ];
        let words = Words::learn(&rows, &columns, 10);
        assert_eq!(words, Words::learn(&rows, &columns, 10));
        assert!(words.valid());
        for (port, v) in &words.ports {
            assert_eq!(words.nearest(Column::DestinationPort, v), f64::from(*port));
        }
        let of = |p: f64| words.vector(Column::DestinationPort, p);
        let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(x, y)| x * y).sum() };
        assert!(dot(of(80.0), of(443.0)) > dot(of(80.0), of(53.0)));
        // Unknown: the nearest number.
        assert_eq!(of(81.0), of(80.0));
        assert_eq!(
            words.nearest(Column::Protocol, words.vector(Column::Protocol, 18.0)),
            17.0
        );
    }
}
