//! Totals since a start, for ever: continual counting by a binary tree.
//!
//! Source: Chan, Shi, Song, "Private and Continual Release of Statistics" (2011), with Gaussian noise; estimates from below by
//! Honaker, "Efficient Use of Differentially Private Binary Trees" (2015).

use serde::{Deserialize, Serialize};

use super::state::Exact;
use crate::Rho;
use crate::vector::{Draws, Law};

/// A counter over the leaves (windows) of one metric.
///
/// Each leaf is in one node of each of `levels` heights, and each node gets its own noise when it is complete. A unit whose
/// contributions to all metrics have an L1 norm of at most `l1` changes the nodes of one height by at most `l1` in L2 norm, so
/// `σ = l1 √(levels / 2ρ)` makes everything ever published ρ-zCDP for that unit.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counter {
    levels: u32,
    leaves: u64,
    /// Sums of the open node of each height. With two draws they hold noise already.
    open: Vec<i64>,
    /// Estimates of complete nodes that wait for their sibling, by height: together they are the prefix.
    complete: Vec<Exact>,
    /// Total of the trees before this one.
    before: Exact,
    published: Exact,
}

/// How the nodes are noised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nodes {
    law: Law,
    /// Noise at a node's beginning too, so that the sums in memory and on disk protect as well; an intruder who sees them once
    /// learns no more than from what is published.
    pub(super) is_twice: bool,
    levels: u32,
}

impl Nodes {
    pub(super) fn new(l1: u64, levels: u32, rho: Rho, is_twice: bool) -> Self {
        let squares = (u128::from(l1) * u128::from(l1) * u128::from(levels)) as u64;
        Self {
            law: Law::Gaussian { squares, rho },
            is_twice,
            levels,
        }
    }

    pub(super) fn law(&self) -> Law {
        self.law
    }

    fn node_variance(&self) -> f64 {
        let variance = self.law.sd().powi(2);
        if self.is_twice {
            2.0 * variance
        } else {
            variance
        }
    }

    /// Variance of the estimate of a complete node of a height, from below: its own noise against its children's sum.
    fn variance(&self, height: u32) -> f64 {
        let own = self.node_variance();
        (0..height).fold(own, |below, _| 1.0 / (1.0 / own + 0.5 / below))
    }

    /// Standard deviation of the total after `leaves` leaves of the tree, steps.
    pub(super) fn sd(&self, leaves: u64) -> f64 {
        (0..self.levels)
            .filter(|h| leaves >> h & 1 == 1)
            .map(|h| self.variance(h))
            .sum::<f64>()
            .sqrt()
    }
}

impl Counter {
    pub(super) fn new(nodes: &Nodes, draws: &mut Draws) -> Self {
        let levels = nodes.levels;
        Self {
            levels,
            leaves: 0,
            open: (0..levels).map(|_| Self::first(nodes, draws)).collect(),
            complete: vec![Exact(0.0); levels as usize],
            before: Exact(0.0),
            published: Exact(0.0),
        }
    }

    fn first(nodes: &Nodes, draws: &mut Draws) -> i64 {
        if nodes.is_twice {
            draws.draw(nodes.law)
        } else {
            0
        }
    }

    /// Whether stored sums fit.
    pub(super) fn is_sound(&self, nodes: &Nodes) -> bool {
        let levels = nodes.levels as usize;
        self.levels == nodes.levels
            && self.open.len() == levels
            && self.complete.len() == levels
            && self.leaves < 1 << nodes.levels
            && self.complete.iter().all(|v| v.0.is_finite())
            && self.before.0.is_finite()
            && self.published.0.is_finite()
    }

    /// Leaves of the present tree.
    pub(super) fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Adds a leaf and gives the estimated total so far, steps; it never falls.
    pub(super) fn push(&mut self, leaf: i64, nodes: &Nodes, draws: &mut Draws) -> f64 {
        for open in &mut self.open {
            *open = open.saturating_add(leaf);
        }
        self.leaves += 1;
        let top = self.leaves.trailing_zeros().min(self.levels - 1);
        let mut estimate = 0.0;
        for height in 0..=top {
            let h = height as usize;
            let exact = std::mem::replace(&mut self.open[h], Self::first(nodes, draws));
            let own = exact.saturating_add(draws.draw(nodes.law)) as f64;
            estimate = if height == 0 {
                own
            } else {
                // The left sibling of the one just estimated, and that one, against the node itself.
                let children = std::mem::take(&mut self.complete[h - 1]).0 + estimate;
                let (a, b) = (nodes.node_variance(), 2.0 * nodes.variance(height - 1));
                (own * b + children * a) / (a + b)
            };
        }
        self.complete[top as usize].0 += estimate;
        let total = self.total();
        if self.leaves == 1 << self.levels {
            // The next tree; the top nodes of this one stay as they were estimated.
            self.before = Exact(total);
            self.leaves = 0;
            self.complete.fill(Exact(0.0));
        }
        self.published = Exact(self.published.0.max(total));
        self.published.0
    }

    /// The estimated total, which may fall.
    fn total(&self) -> f64 {
        self.before.0 + self.complete.iter().map(|v| v.0).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entropy, Epsilon, rho_of_epsilon};

    fn nodes(levels: u32, twice: bool) -> Nodes {
        let rho = Rho::at_most(rho_of_epsilon(Epsilon::ONE, 1e-6)).unwrap();
        Nodes::new(1, levels, rho, twice)
    }

    /// Without estimates from below: the textbook's error of a prefix, average and worst over a tree's leaves.
    fn textbook(nodes: &Nodes) -> (f64, f64) {
        let count = 1u64 << nodes.levels;
        let sd = |t: u64| (f64::from(t.count_ones()) * nodes.node_variance()).sqrt();
        let all = (1..count).map(sd);
        (
            (1..count).map(sd).sum::<f64>() / (count - 1) as f64,
            all.fold(0.0, f64::max),
        )
    }

    #[test]
    fn errors_are_those_of_the_closed_forms() {
        // T = 1,440 minutes, unit sensitivity, eps 1, delta 1e-6: 37 on average, 52 at worst.
        let (average, worst) = textbook(&nodes(11, false));
        assert!((average - 35.5).abs() < 2.0, "{average}");
        assert!((worst - 50.0).abs() < 3.0, "{worst}");
        // Estimates from below and every node used: never worse, and better for tall nodes.
        let nodes = nodes(11, false);
        for t in 1..1u64 << 11 {
            let plain = (f64::from(t.count_ones()) * nodes.node_variance()).sqrt();
            assert!(nodes.sd(t) <= plain * (1.0 + 1e-12));
        }
        assert!(nodes.sd(1 << 10) < 0.75 * nodes.node_variance().sqrt());
    }

    #[test]
    fn totals_are_as_wrong_as_predicted() {
        for twice in [false, true] {
            let nodes = nodes(6, twice);
            let mut draws = Draws::new(Entropy::Seed(4));
            let runs = 3_000;
            let mut squares = vec![0f64; 64];
            for _ in 0..runs {
                let mut counter = Counter::new(&nodes, &mut draws);
                let mut exact = 0;
                for t in 1..64i64 {
                    exact += t % 5;
                    counter.push(t % 5, &nodes, &mut draws);
                    squares[t as usize] += (counter.total() - exact as f64).powi(2);
                }
            }
            for t in 1..64u64 {
                let sd = (squares[t as usize] / f64::from(runs)).sqrt();
                // A standard deviation from 3,000 draws is off by more than 7 % with probability below 1e-7.
                let ratio = sd / nodes.sd(t);
                assert!((0.93..1.07).contains(&ratio), "{twice} {t}: {ratio}");
            }
        }
    }

    #[test]
    fn published_totals_do_not_fall_and_go_on_over_trees_and_restarts() {
        let nodes = nodes(4, false);
        let mut draws = Draws::new(Entropy::Seed(5));
        let mut counter = Counter::new(&nodes, &mut draws);
        let (mut last, mut exact) = (0.0, 0.0);
        for t in 0..1_000 {
            let total = counter.push(1_000, &nodes, &mut draws);
            exact += 1_000.0;
            assert!(total >= last);
            last = total;
            if t % 7 == 0 {
                let text = serde_json::to_string(&counter).unwrap();
                counter = serde_json::from_str(&text).unwrap();
                assert!(counter.is_sound(&nodes));
            }
        }
        // 62 trees' totals of noise of about 10 each.
        assert!((last - exact).abs() < 1_000.0, "{last}");
    }
}
