//! How well scores tell novel from known, and where to draw the line.

/// The score above which rows are called novel so that about `false_alarm` of known rows are: the
/// `ceil((n + 1)(1 - false_alarm))`-th smallest of `scores`, which come from rows that the detector was not trained on
/// (split conformal prediction; the share of false alarms is then at most `false_alarm` on average). The largest score
/// when there are too few for that; infinite without scores.
pub fn threshold(scores: &[f64], false_alarm: f64) -> f64 {
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = ((sorted.len() + 1) as f64 * (1.0 - false_alarm.clamp(0.0, 1.0))).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::INFINITY)
}

/// Probability that a novel row scores above a known one, ties counting half: the area under the curve of true over
/// false positives. `None` when one of the two kinds is absent or the lengths differ.
pub fn roc_auc(scores: &[f64], is_novel: &[bool]) -> Option<f64> {
    let groups = groups(scores, is_novel)?;
    let (mut below, mut wins) = (0.0, 0.0);
    for g in groups.iter().rev() {
        wins += g.novel * (below + g.known / 2.0);
        below += g.known;
    }
    let novel: f64 = groups.iter().map(|g| g.novel).sum();
    Some(wins / (novel * below))
}

/// Average precision: the mean over the novel rows of the precision at their score. `None` as for [`roc_auc`].
pub fn pr_auc(scores: &[f64], is_novel: &[bool]) -> Option<f64> {
    let groups = groups(scores, is_novel)?;
    let total: f64 = groups.iter().map(|g| g.novel).sum();
    let (mut novel, mut all, mut area) = (0.0, 0.0, 0.0);
    for g in &groups {
        novel += g.novel;
        all += g.novel + g.known;
        area += g.novel / total * (novel / all);
    }
    Some(area)
}

/// A point of both curves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Rows at or above this score are called novel.
    pub threshold: f64,
    /// Share of the known rows called novel.
    pub false_positive: f64,
    /// Share of the novel rows called novel (recall).
    pub true_positive: f64,
    /// Share of the rows called novel that are.
    pub precision: f64,
}

/// The curves, from the highest score down, one point per distinct score. `None` as for [`roc_auc`].
pub fn curve(scores: &[f64], is_novel: &[bool]) -> Option<Vec<Point>> {
    let groups = groups(scores, is_novel)?;
    let total_novel: f64 = groups.iter().map(|g| g.novel).sum();
    let total_known: f64 = groups.iter().map(|g| g.known).sum();
    let (mut novel, mut known) = (0.0, 0.0);
    Some(
        groups
            .iter()
            .map(|g| {
                novel += g.novel;
                known += g.known;
                Point {
                    threshold: g.score,
                    false_positive: known / total_known,
                    true_positive: novel / total_novel,
                    precision: novel / (novel + known),
                }
            })
            .collect(),
    )
}

struct Group {
    score: f64,
    novel: f64,
    known: f64,
}

/// Rows of equal score, from the highest score down.
fn groups(scores: &[f64], is_novel: &[bool]) -> Option<Vec<Group>> {
    let novel = is_novel.iter().filter(|&&n| n).count();
    if scores.len() != is_novel.len() || novel == 0 || novel == is_novel.len() {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut out: Vec<Group> = Vec::new();
    for i in order {
        let (n, k) = if is_novel[i] { (1.0, 0.0) } else { (0.0, 1.0) };
        match out.last_mut() {
            Some(g) if g.score == scores[i] => {
                g.novel += n;
                g.known += k;
            }
            _ => out.push(Group {
                score: scores[i],
                novel: n,
                known: k,
            }),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn area_counts_pairs() {
        let scores = [0.1, 0.4, 0.35, 0.8];
        let labels = [false, false, true, true];
        assert_eq!(roc_auc(&scores, &labels), Some(0.75));
        // scikit-learn's average_precision_score gives the same.
        assert!((pr_auc(&scores, &labels).unwrap() - 0.833_333_333_333_333_3).abs() < 1e-12);
        assert_eq!(roc_auc(&[1.0, 1.0], &[true, false]), Some(0.5));
        assert_eq!(roc_auc(&[1.0, 1.0], &[true, true]), None);
    }

    #[test]
    fn curve_ends_in_the_corner() {
        let points = curve(&[3.0, 2.0, 2.0, 1.0], &[true, false, true, false]).unwrap();
        assert_eq!(points.len(), 3);
        let last = points[2];
        assert_eq!(
            (last.false_positive, last.true_positive, last.precision),
            (1.0, 1.0, 0.5)
        );
    }

    #[test]
    fn threshold_leaves_the_share_above() {
        let scores: Vec<f64> = (1..=99).map(f64::from).collect();
        assert_eq!(threshold(&scores, 0.1), 90.0);
        assert_eq!(threshold(&scores, 0.0), 99.0);
        assert_eq!(threshold(&[], 0.1), f64::INFINITY);
    }
}
