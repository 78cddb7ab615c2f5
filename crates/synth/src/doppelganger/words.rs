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
/// A value is popular when so many of the vectors that reaches are found from ought to choose it; and the most of them.
const POPULAR: f64 = 5.0;
const MAX_POPULAR: usize = 256;
/// Rounds and first step, in cosines, of the search for reaches.
const ROUNDS: u32 = 150;
const STEP: f64 = 0.05;

/// A dictionary of unit vectors, ports and protocols apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Words {
    pub(crate) size: usize,
    pub(crate) ports: Vec<(u16, Vec<f32>)>,
    pub(crate) protocols: Vec<(u8, Vec<f32>)>,
    /// Of a column, values that are chosen from further away or only from nearer than others, ascending, with what is
    /// added to the cosine.
    #[serde(default)]
    pub(crate) reach: Vec<(Column, Vec<(u16, f32)>)>,
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

    /// The value whose vector has the smallest angle to this one, as far as each value reaches; the first of equals.
    pub(crate) fn nearest(&self, column: Column, vector: &[f32]) -> f64 {
        let reach = self.reach.iter().find(|(c, _)| *c == column);
        let reach = reach.map_or(&[][..], |(_, list)| list);
        let mut best = (f32::NEG_INFINITY, 0);
        for (word, cosine) in self.cosines(column, vector) {
            let more = match reach.binary_search_by_key(&word, |(w, _)| *w) {
                Ok(at) => reach[at].1,
                Err(_) => 0.0,
            };
            if cosine + more > best.0 {
                best = (cosine + more, word);
            }
        }
        f64::from(best.1)
    }

    /// All values of a column with the cosine of their angle to a vector.
    fn cosines<'a>(
        &'a self,
        column: Column,
        vector: &'a [f32],
    ) -> impl Iterator<Item = (u16, f32)> + 'a {
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        let along = move |v: &[f32]| -> f32 {
            v.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>() / length
        };
        let of = move |protocol: bool| usize::from((column == Column::Protocol) == protocol);
        let ports = self.ports.iter().take(of(false) * self.ports.len());
        let protocols = self.protocols.iter().take(of(true) * self.protocols.len());
        ports
            .map(move |(w, v)| (*w, along(v)))
            .chain(protocols.map(move |(w, v)| (u16::from(*w), along(v))))
    }

    /// Sets how far the popular values of a column reach, so that these vectors, as a generator makes them, choose each
    /// as often as it occurs: what ought to be transported where, with cosines for costs (semi-discrete optimal transport;
    /// Genevay, Cuturi, Peyré, Bach 2016). The others keep the common reach.
    pub(crate) fn reach(&mut self, column: Column, values: &[f64], made: &[Vec<f32>]) {
        self.reach.retain(|(c, _)| *c != column);
        let mut counts: BTreeMap<u16, f64> = BTreeMap::new();
        for value in values {
            *counts.entry(*value as u16).or_default() += 1.0 / values.len() as f64;
        }
        let draws = made.len() as f64;
        let mut popular: Vec<(u16, f64)> = counts.into_iter().collect();
        popular.retain(|(_, share)| share * draws >= POPULAR);
        popular.sort_by(|a, b| b.1.total_cmp(&a.1));
        popular.truncate(MAX_POPULAR);
        popular.sort_by_key(|(word, _)| *word);
        let rest = 1.0 - popular.iter().map(|(_, share)| share).sum::<f64>();
        // Cosines of each vector to the popular values, and to the nearest of all others.
        let near: Vec<(Vec<f32>, f32)> = made
            .iter()
            .map(|vector| {
                let mut own = vec![f32::NEG_INFINITY; popular.len()];
                let mut other = f32::NEG_INFINITY;
                for (word, cosine) in self.cosines(column, vector) {
                    match popular.binary_search_by_key(&word, |(w, _)| *w) {
                        Ok(at) => own[at] = cosine,
                        Err(_) => other = other.max(cosine),
                    }
                }
                (own, other)
            })
            .collect();
        let mut more = vec![0.0f32; popular.len()];
        let least = 0.5 / draws.max(1.0);
        for round in 0..ROUNDS {
            let mut chosen = vec![0.0; popular.len()];
            let mut others = 0.0;
            for (own, other) in &near {
                let mut best = (*other, None);
                for (i, cosine) in own.iter().enumerate() {
                    if cosine + more[i] > best.0 {
                        best = (cosine + more[i], Some(i));
                    }
                }
                match best.1 {
                    Some(i) => chosen[i] += 1.0 / draws,
                    None => others += 1.0 / draws,
                }
            }
            let step = STEP / (1.0 + f64::from(round) / 10.0);
            let wrong = |wanted: f64, found: f64| (wanted.max(least) / found.max(least)).ln();
            let common = wrong(rest, others);
            for ((more, (_, share)), found) in more.iter_mut().zip(&popular).zip(&chosen) {
                *more += (step * (wrong(*share, *found) - common)) as f32;
            }
        }
        let words = popular.iter().map(|(word, _)| *word);
        self.reach.push((column, words.zip(more).collect()));
    }

    /// Whether a file's dictionary can be used.
    pub(crate) fn valid(&self) -> bool {
        let fits = |v: &Vec<f32>| v.len() == self.size && v.iter().all(|x| x.is_finite());
        self.ports.iter().all(|(_, v)| fits(v))
            && self.protocols.iter().all(|(_, v)| fits(v))
            && self.ports.is_sorted_by_key(|(p, _)| *p)
            && self.reach.iter().all(|(_, list)| {
                list.is_sorted_by_key(|(word, _)| *word) && list.iter().all(|(_, m)| m.is_finite())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Record;

    #[test]
    fn values_reach_as_far_as_they_occur_often() {
        let spoke = |k: u16| {
            let angle = f64::from(k) * std::f64::consts::TAU / 8.0;
            (k, vec![angle.cos() as f32, angle.sin() as f32])
        };
        let mut words = Words {
            size: 2,
            ports: (0..8).map(spoke).collect(),
            ..Words::default()
        };
        let made: Vec<Vec<f32>> = (0..4000)
            .map(|i| {
                let angle = f64::from(i) * std::f64::consts::TAU / 4000.0;
                vec![2.0 * angle.cos() as f32, 2.0 * angle.sin() as f32]
            })
            .collect();
        // Half of all values are 3, a quarter 6, the others share the rest.
        let values: Vec<f64> = (0..80u32)
            .map(|i| match i % 4 {
                0 | 1 => 3.0,
                2 => 6.0,
                _ => [0.0, 1.0, 2.0, 4.0, 5.0, 7.0][(i / 4 % 6) as usize],
            })
            .collect();
        words.reach(Column::SourcePort, &values, &made);
        assert!(words.valid());
        let chosen = |value: f64| {
            let of = |v: &&Vec<f32>| words.nearest(Column::SourcePort, v) == value;
            made.iter().filter(of).count() as f64 / 4000.0
        };
        // By the angle alone each would be an eighth.
        assert!((chosen(3.0) - 0.5).abs() < 0.08, "{}", chosen(3.0));
        assert!((chosen(6.0) - 0.25).abs() < 0.08, "{}", chosen(6.0));
        // The other column is read as before.
        assert_eq!(words.nearest(Column::DestinationPort, &[1.0, 0.1]), 0.0);
    }

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
