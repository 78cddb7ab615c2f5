//! How well an attacker does.

use std::collections::BTreeMap;

use serde::Serialize;

/// Scores of one attacker on held-out windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// Share of windows whose most probable label is right.
    pub accuracy: f64,
    /// Mean over labels of the share of their windows that are found.
    pub balanced: f64,
    /// Mean over labels of the harmonic mean of precision and recall.
    pub macro_f1: f64,
    /// Mean over labels of the share of their sessions that are found; a session's label is the one with the largest mean logarithm of
    /// probability over its windows, at most 50 of them.
    pub session: f64,
    /// Windows.
    pub windows: usize,
    /// Windows of each label (row) taken for each label (column).
    pub confusion: Vec<Vec<u32>>,
}

/// Windows of a session that are asked.
const SESSION_WINDOWS: usize = 50;

/// A classified window.
#[derive(Clone, Debug)]
pub struct Guess {
    /// Probability of each label.
    pub probability: Vec<f64>,
    /// The true label.
    pub label: usize,
    /// Which session it is from.
    pub session: usize,
}

impl Guess {
    /// The most probable label, the first of equals.
    pub fn best(&self) -> usize {
        best(&self.probability)
    }
}

fn best(values: &[f64]) -> usize {
    let mut top = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[top] {
            top = i;
        }
    }
    top
}

/// Scores guesses among `labels` labels. Labels without a window do not count.
pub fn score(labels: usize, guesses: &[Guess]) -> Score {
    let mut confusion = vec![vec![0u32; labels]; labels];
    let mut sessions: BTreeMap<usize, (usize, usize, Vec<f64>)> = BTreeMap::new();
    for g in guesses {
        confusion[g.label][g.best()] += 1;
        let (_, n, sum) = sessions
            .entry(g.session)
            .or_insert_with(|| (g.label, 0, vec![0.0; labels]));
        if *n < SESSION_WINDOWS {
            *n += 1;
            for (s, p) in sum.iter_mut().zip(&g.probability) {
                *s += (p + 1e-9).ln();
            }
        }
    }
    let share = |right: u32, all: u32| f64::from(right) / f64::from(all.max(1));
    let (mut recall, mut f1, mut right, mut all) = (Vec::new(), Vec::new(), 0, 0);
    for c in 0..labels {
        let of: u32 = confusion[c].iter().sum();
        let taken: u32 = confusion.iter().map(|row| row[c]).sum();
        let hit = confusion[c][c];
        (right, all) = (right + hit, all + of);
        if of > 0 {
            recall.push(share(hit, of));
            f1.push(share(2 * hit, of + taken));
        }
    }
    let mut by_label: BTreeMap<usize, (u32, u32)> = BTreeMap::new();
    for (label, _, sum) in sessions.values() {
        let (hit, of) = by_label.entry(*label).or_default();
        *of += 1;
        *hit += u32::from(best(sum) == *label);
    }
    let found: Vec<f64> = by_label.values().map(|&(hit, of)| share(hit, of)).collect();
    Score {
        accuracy: share(right, all),
        balanced: mean(&recall),
        macro_f1: mean(&f1),
        session: mean(&found),
        windows: guesses.len(),
        confusion,
    }
}

/// 0 without numbers.
pub fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len().max(1) as f64
}

/// Mean and half the width of the 95 % interval of the mean by Student's t; the width is 0 for fewer than two numbers.
pub fn interval(x: &[f64]) -> (f64, f64) {
    /// 97.5 % quantiles for 1 to 20 degrees of freedom.
    const T: [f64; 20] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    ];
    let m = mean(x);
    if x.len() < 2 {
        return (m, 0.0);
    }
    let n = x.len() as f64;
    let variance = x.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / (n - 1.0);
    let t = T.get(x.len() - 2).copied().unwrap_or(1.96);
    (m, t * (variance / n).sqrt())
}

/// Chance that a positive has a higher score than a negative (area under the receiver operating characteristic); equal scores
/// count half. 0.5 when one kind is missing.
pub fn auc(scores: &[(f64, bool)]) -> f64 {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = scores.iter().filter(|s| s.1).count() as f64;
    let negatives = scores.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return 0.5;
    }
    let (mut below, mut sum, mut i) = (0.0, 0.0, 0);
    while i < sorted.len() {
        let equal = sorted[i..]
            .iter()
            .take_while(|s| s.0 == sorted[i].0)
            .count();
        let up = sorted[i..i + equal].iter().filter(|s| s.1).count() as f64;
        let down = equal as f64 - up;
        sum += up * (below + down / 2.0);
        below += down;
        i += equal;
    }
    sum / (positives * negatives)
}

/// The middle value, or the mean of both; 0 without numbers.
pub(crate) fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    let half = x.len() / 2;
    match x.as_slice() {
        [] => 0.0,
        x if x.len() % 2 == 1 => x[half],
        x => f64::midpoint(x[half - 1], x[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(label: usize, p: [f64; 2], session: usize) -> Guess {
        Guess {
            probability: p.to_vec(),
            label,
            session,
        }
    }

    #[test]
    fn scores_are_those_of_the_definitions() {
        let s = score(
            2,
            &[
                guess(0, [0.9, 0.1], 0),
                guess(0, [0.4, 0.6], 0),
                guess(0, [0.8, 0.2], 1),
                guess(1, [0.7, 0.3], 2),
            ],
        );
        assert_eq!(s.confusion, [[2, 1], [1, 0]]);
        assert!((s.accuracy - 0.5).abs() < 1e-12);
        assert!((s.balanced - (2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert!((s.macro_f1 - (4.0 / 6.0) / 2.0).abs() < 1e-12);
        assert!((s.session - 0.5).abs() < 1e-12);
        assert_eq!(score(3, &[]).balanced, 0.0);
    }

    #[test]
    fn areas_and_intervals() {
        assert_eq!(auc(&[(0.1, false), (0.9, true)]), 1.0);
        assert_eq!(auc(&[(0.5, false), (0.5, true)]), 0.5);
        assert_eq!(auc(&[(0.5, true)]), 0.5);
        let (m, w) = interval(&[1.0, 2.0, 3.0]);
        assert!((m - 2.0).abs() < 1e-12 && (w - 4.303 / 3f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(median(Vec::new()), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}
