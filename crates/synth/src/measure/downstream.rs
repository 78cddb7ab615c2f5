//! What classifiers that learn from the synthetic trace are worth on the real one.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::learners::{Bayes, Codes, Forest, Learner, Nearest, Softmax, Tree};
use super::privacy::{area, draw};
use super::view::{Column, View, columns, top};

/// A classifier on a fifth of the real trace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Classifier {
    /// Accuracy when it learned from the other four fifths.
    pub real_accuracy: f64,
    /// Accuracy when it learned from as many synthetic records.
    pub synthetic_accuracy: f64,
    /// Mean F1 of the classes that occur, learned from real records.
    pub real_f1: f64,
    /// The same, learned from synthetic records.
    pub synthetic_f1: f64,
}

/// Usefulness: train on synthetic, test on real.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Downstream {
    /// What is guessed: label, proto or dstport.
    pub target: &'static str,
    /// From what.
    pub features: Vec<&'static str>,
    /// Share of the most frequent class.
    pub majority: f64,
    /// tree, forest, bayes, softmax, nearest.
    pub classifiers: BTreeMap<&'static str, Classifier>,
    /// Mean ratio of accuracies, synthetic over real; 1 is right.
    pub accuracy_ratio: f64,
    /// Mean ratio of F1.
    pub f1_ratio: f64,
    /// Spearman's correlation of the classifiers' order; `None` when one side ranks them all equal.
    pub rank_correlation: Option<f64>,
    /// Area under the ROC curve of a forest that tells real from synthetic records; 0.5 is right, well below means copies.
    pub c2st_auc: f64,
}

/// The label when its second class has a hundredth, else the protocol, else the destination port.
fn target(real: &View, columns: &[Column]) -> &'static str {
    let n = real.len().max(1) as f64;
    let share = |mut counts: Vec<usize>, nth: usize| {
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts.get(nth).map_or(0.0, |c| *c as f64 / n)
    };
    if columns.iter().any(|c| c.name == "label") {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for i in 0..real.len() {
            *counts.entry(real.text(i).unwrap_or("")).or_default() += 1;
        }
        if share(counts.into_values().collect(), 1) >= 0.01 {
            return "label";
        }
    }
    let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
    for t in &real.tuples {
        *counts.entry(t.4).or_default() += 1;
    }
    if share(counts.into_values().collect(), 1) >= 0.02 {
        "proto"
    } else {
        "dstport"
    }
}

/// Columns that would give the target away are not features.
fn is_feature(name: &str, target: &str) -> bool {
    match (target, name) {
        (_, "ts") | ("label", "label") | ("dstport", "dstport" | "label") => false,
        ("proto", name) => !matches!(
            name,
            "proto" | "label" | "srcport" | "dstport" | "srcip" | "dstip"
        ),
        _ => true,
    }
}

fn codes(columns: &[&Column], side: usize, rows: &[usize]) -> Codes {
    let row = |i: &usize| columns.iter().map(|c| c.codes[side][*i]).collect();
    Codes {
        rows: rows.iter().map(row).collect(),
    }
}

/// Accuracy and mean F1 of the classes that occur.
fn judge(learner: &dyn Learner, x: &Codes, y: &[u32], classes: usize) -> (f64, f64) {
    let said: Vec<u32> = x.rows.iter().map(|r| learner.class(r)).collect();
    let right = said.iter().zip(y).filter(|(a, b)| a == b).count();
    let (mut sum, mut occurring) = (0.0, 0.0);
    for class in 0..classes as u32 {
        let count = |v: &[u32]| v.iter().filter(|c| **c == class).count();
        let (are, named) = (count(y), count(&said));
        if are == 0 {
            continue;
        }
        let both = said.iter().zip(y).filter(|(a, b)| a == b && **a == class);
        sum += 2.0 * both.count() as f64 / (are + named) as f64;
        occurring += 1.0;
    }
    let n = y.len().max(1) as f64;
    (right as f64 / n, sum / f64::max(occurring, 1.0))
}

type Learn<'a> = &'a dyn Fn(&Codes, &[u32], &mut ChaCha8Rng) -> Box<dyn Learner>;

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |v: &f64| {
        let below = values.iter().filter(|w| *w < v).count() as f64;
        let equal = values.iter().filter(|w| *w == v).count() as f64;
        below + (equal + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let (ra, rb) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let both = ra.iter().zip(&rb);
    let xy: f64 = both.map(|(x, y)| (x - mean) * (y - mean)).sum();
    let square = |r: &[f64]| r.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
    let scale = (square(&ra) * square(&rb)).sqrt();
    (scale > 0.0).then(|| xy / scale)
}

/// `most`: records of each trace that are used.
pub(super) fn measure(
    real: &View,
    synthetic: &View,
    most: usize,
    rng: &mut ChaCha8Rng,
) -> Downstream {
    let (real, synthetic) = (draw(real, most, rng), draw(synthetic, most, rng));
    let all = columns(&real, &synthetic);
    let target = target(&real, &all);
    let features: Vec<&Column> = all.iter().filter(|c| is_feature(c.name, target)).collect();
    let goal = all.iter().find(|c| c.name == target);
    let classes = goal.map_or(1, |c| c.size as usize);
    let class = |side: usize, rows: &[usize]| -> Vec<u32> {
        let of = |i: &usize| goal.map_or(0, |c| c.codes[side][*i]);
        rows.iter().map(of).collect()
    };
    let shuffled = |n: usize, rng: &mut ChaCha8Rng| {
        let mut rows: Vec<usize> = (0..n).collect();
        rows.shuffle(rng);
        rows
    };
    let rows = shuffled(real.len(), rng);
    let (learned, tested) = rows.split_at(real.len() * 4 / 5);
    let mut drawn = shuffled(synthetic.len(), rng);
    drawn.truncate(learned.len().max(1));
    let (x, y) = (codes(&features, 0, learned), class(0, learned));
    let (sx, sy) = (codes(&features, 1, &drawn), class(1, &drawn));
    let (tx, ty) = (codes(&features, 0, tested), class(0, tested));
    let learners: [(&str, Learn<'_>); 5] = [
        ("tree", &|x, y, rng| {
            Box::new(Tree::learn(x, y, classes, rng))
        }),
        ("forest", &|x, y, rng| {
            Box::new(Forest::learn(x, y, classes, (12, 9), rng))
        }),
        ("bayes", &|x, y, _| Box::new(Bayes::learn(x, y, classes))),
        ("softmax", &|x, y, _| {
            Box::new(Softmax::learn(x, y, classes))
        }),
        ("nearest", &|x, y, _| {
            Box::new(Nearest::learn(x, y, classes))
        }),
    ];
    let mut classifiers = BTreeMap::new();
    for (name, learn) in learners {
        let (a, b) = (learn(&x, &y, rng), learn(&sx, &sy, rng));
        let (real, synthetic) = (
            judge(a.as_ref(), &tx, &ty, classes),
            judge(b.as_ref(), &tx, &ty, classes),
        );
        classifiers.insert(
            name,
            Classifier {
                real_accuracy: real.0,
                synthetic_accuracy: synthetic.0,
                real_f1: real.1,
                synthetic_f1: synthetic.1,
            },
        );
    }
    let mean = |value: &dyn Fn(&Classifier) -> (f64, f64)| {
        let ratios = classifiers.values().map(|c| {
            let (mine, of) = value(c);
            if of > 0.0 { mine / of } else { 0.0 }
        });
        ratios.sum::<f64>() / classifiers.len() as f64
    };
    let accuracies = |value: &dyn Fn(&Classifier) -> f64| -> Vec<f64> {
        classifiers.values().map(value).collect()
    };
    let most_frequent = top(ty.iter().copied(), 1).into_keys().next();
    let majority = ty.iter().filter(|c| Some(**c) == most_frequent).count();
    Downstream {
        target,
        features: features.iter().map(|c| c.name).collect(),
        majority: majority as f64 / ty.len().max(1) as f64,
        accuracy_ratio: mean(&|c| (c.synthetic_accuracy, c.real_accuracy)),
        f1_ratio: mean(&|c| (c.synthetic_f1, c.real_f1)),
        rank_correlation: spearman(
            &accuracies(&|c| c.real_accuracy),
            &accuracies(&|c| c.synthetic_accuracy),
        ),
        classifiers,
        c2st_auc: told_apart(&all, [real.len(), synthetic.len()], most / 2, rng),
    }
}

/// Area of a forest that learned half of both traces on the other half.
fn told_apart(columns: &[Column], sizes: [usize; 2], most: usize, rng: &mut ChaCha8Rng) -> f64 {
    let m = sizes[0].min(sizes[1]).min(most);
    let every: Vec<&Column> = columns.iter().collect();
    let mut rows: Vec<(Vec<u32>, u32)> = Vec::with_capacity(2 * m);
    for (side, size) in sizes.into_iter().enumerate() {
        let mut order: Vec<usize> = (0..size).collect();
        order.shuffle(rng);
        let codes = codes(&every, side, &order[..m]);
        rows.extend(codes.rows.into_iter().map(|r| (r, side as u32)));
    }
    rows.shuffle(rng);
    let tested = rows.split_off(m);
    let (x, y): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let forest = Forest::learn(&Codes { rows: x }, &y, 2, (16, 8), rng);
    let scores = |side: u32| -> Vec<f64> {
        let of = tested.iter().filter(|(_, s)| *s == side);
        of.map(|(row, _)| forest.shares(row)[1]).collect()
    };
    area(&scores(1), &scores(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_correlate() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0]), [2.5, 1.0, 2.5]);
        let c = spearman(&[1.0, 2.0, 3.0], &[9.0, 8.0, 1.0]);
        assert!(c.is_some_and(|c| (c + 1.0).abs() < 1e-12));
        assert_eq!(spearman(&[1.0, 2.0], &[1.0, 1.0]), None);
    }
}
