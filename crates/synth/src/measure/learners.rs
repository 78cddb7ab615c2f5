//! Small classifiers over columns of bins, for tests of usefulness.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::neighbours::Neighbours;

/// Rows of codes.
pub(super) struct Codes {
    pub(super) rows: Vec<Vec<u32>>,
}

/// A classifier: the shares of each class for a row.
pub(super) trait Learner {
    fn shares(&self, row: &[u32]) -> Vec<f64>;

    fn class(&self, row: &[u32]) -> u32 {
        let shares = self.shares(row);
        // The first of equals.
        let best = shares
            .iter()
            .enumerate()
            .fold(
                (0, f64::NEG_INFINITY),
                |b, (i, s)| {
                    if *s > b.1 { (i, *s) } else { b }
                },
            );
        best.0 as u32
    }
}

enum Node {
    Leaf(Vec<f64>),
    /// Codes of the column up to `at` go to the next node, others to `right`.
    Split {
        column: usize,
        at: u32,
        right: usize,
    },
}

/// A decision tree by Gini's impurity (CART: Breiman, Friedman, Olshen, Stone 1984).
pub(super) struct Tree {
    nodes: Vec<Node>,
}

/// How trees grow.
#[derive(Clone, Copy)]
struct Growth {
    depth: usize,
    leaf: usize,
    /// Columns tried at each node; `None`: all.
    columns: Option<usize>,
    classes: usize,
}

impl Tree {
    pub(super) fn learn(x: &Codes, y: &[u32], classes: usize, rng: &mut ChaCha8Rng) -> Self {
        let growth = Growth {
            depth: 9,
            leaf: 4,
            columns: None,
            classes,
        };
        Self::grown(x, y, (0..y.len()).collect(), growth, rng)
    }

    fn grown(x: &Codes, y: &[u32], rows: Vec<usize>, growth: Growth, rng: &mut ChaCha8Rng) -> Self {
        let mut tree = Self { nodes: Vec::new() };
        tree.grow(x, y, rows, 0, growth, rng);
        tree
    }

    fn grow(
        &mut self,
        x: &Codes,
        y: &[u32],
        rows: Vec<usize>,
        depth: usize,
        growth: Growth,
        rng: &mut ChaCha8Rng,
    ) {
        let mut counts = vec![0.0; growth.classes];
        for i in &rows {
            counts[y[*i] as usize] += 1.0;
        }
        let n = rows.len() as f64;
        let smooth = n + 1e-3 * growth.classes as f64;
        let me = self.nodes.len();
        let shares = counts.iter().map(|c| (c + 1e-3) / smooth).collect();
        self.nodes.push(Node::Leaf(shares));
        let pure = counts.contains(&n);
        if depth >= growth.depth || rows.len() < 2 * growth.leaf || pure {
            return;
        }
        let Some((column, at)) = best_split(x, y, &rows, &counts, growth, rng) else {
            return;
        };
        let (left, right): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|i| x.rows[*i][column] <= at);
        self.grow(x, y, left, depth + 1, growth, rng);
        let next = self.nodes.len();
        self.nodes[me] = Node::Split {
            column,
            at,
            right: next,
        };
        self.grow(x, y, right, depth + 1, growth, rng);
    }
}

/// Column and highest code of the left side of the split that lowers the impurity most.
fn best_split(
    x: &Codes,
    y: &[u32],
    rows: &[usize],
    counts: &[f64],
    growth: Growth,
    rng: &mut ChaCha8Rng,
) -> Option<(usize, u32)> {
    let width = x.rows.first().map_or(0, Vec::len);
    let tried: Vec<usize> = match growth.columns {
        Some(n) => {
            let mut all: Vec<usize> = (0..width).collect();
            all.partial_shuffle(rng, n.min(width)).0.to_vec()
        }
        None => (0..width).collect(),
    };
    let (n, classes) = (rows.len() as f64, growth.classes);
    let impurity =
        |counts: &[f64], n: f64| 1.0 - counts.iter().map(|c| c * c).sum::<f64>() / (n * n);
    let whole = impurity(counts, n);
    let mut best = (1e-9, None);
    for column in tried {
        let most = rows.iter().map(|i| x.rows[*i][column]).max()?;
        let mut table = vec![0.0; (most as usize + 1) * classes];
        for i in rows {
            table[x.rows[*i][column] as usize * classes + y[*i] as usize] += 1.0;
        }
        let mut left = vec![0.0; classes];
        for at in 0..most {
            let from = at as usize * classes;
            for (l, t) in left.iter_mut().zip(&table[from..from + classes]) {
                *l += t;
            }
            let nl: f64 = left.iter().sum();
            let nr = n - nl;
            if nl < growth.leaf as f64 || nr < growth.leaf as f64 {
                continue;
            }
            let right: Vec<f64> = counts.iter().zip(&left).map(|(c, l)| c - l).collect();
            let gain = whole - (nl * impurity(&left, nl) + nr * impurity(&right, nr)) / n;
            if gain > best.0 {
                best = (gain, Some((column, at)));
            }
        }
    }
    best.1
}

impl Learner for Tree {
    fn shares(&self, row: &[u32]) -> Vec<f64> {
        let mut at = 0;
        loop {
            match &self.nodes[at] {
                Node::Leaf(shares) => return shares.clone(),
                Node::Split {
                    column,
                    at: edge,
                    right,
                } => {
                    at = if row[*column] <= *edge {
                        at + 1
                    } else {
                        *right
                    }
                }
            }
        }
    }
}

/// A random forest (Breiman 2001).
pub(super) struct Forest(Vec<Tree>);

impl Forest {
    pub(super) fn learn(
        x: &Codes,
        y: &[u32],
        classes: usize,
        (trees, depth): (usize, usize),
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let width = x.rows.first().map_or(0, Vec::len);
        let growth = Growth {
            depth,
            leaf: 3,
            columns: Some(((width as f64).sqrt().ceil() as usize + 1).max(2)),
            classes,
        };
        let mut all = Vec::new();
        for _ in 0..trees {
            let rows = (0..y.len()).map(|_| rng.random_range(0..y.len())).collect();
            all.push(Tree::grown(x, y, rows, growth, rng));
        }
        Self(all)
    }
}

impl Learner for Forest {
    fn shares(&self, row: &[u32]) -> Vec<f64> {
        let mut sum: Vec<f64> = Vec::new();
        for tree in &self.0 {
            let shares = tree.shares(row);
            sum.resize(shares.len(), 0.0);
            for (s, share) in sum.iter_mut().zip(shares) {
                *s += share / self.0.len() as f64;
            }
        }
        sum
    }
}

/// Naive Bayes with half a count added to each bin.
pub(super) struct Bayes {
    prior: Vec<f64>,
    /// By column, code, class.
    tables: Vec<Vec<f64>>,
}

/// Bins of a column that Bayes tells apart.
const BINS: usize = 64;

impl Bayes {
    pub(super) fn learn(x: &Codes, y: &[u32], classes: usize) -> Self {
        let mut prior = vec![1.0; classes];
        y.iter().for_each(|c| prior[*c as usize] += 1.0);
        let width = x.rows.first().map_or(0, Vec::len);
        let mut tables = vec![vec![0.5; BINS * classes]; width];
        for (row, class) in x.rows.iter().zip(y) {
            for (table, code) in tables.iter_mut().zip(row) {
                table[(*code as usize).min(BINS - 1) * classes + *class as usize] += 1.0;
            }
        }
        for table in &mut tables {
            for class in 0..classes {
                let cells = (0..BINS).map(|b| b * classes + class);
                let sum: f64 = cells.clone().map(|c| table[c]).sum();
                cells.for_each(|c| table[c] = (table[c] / sum).ln());
            }
        }
        Self {
            prior: prior.iter().map(|p: &f64| p.ln()).collect(),
            tables,
        }
    }
}

/// In place: logarithms to shares that add up to one.
fn normalise(logs: &mut [f64]) {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logs.iter_mut().for_each(|l| *l = (*l - most).exp());
    let sum: f64 = logs.iter().sum();
    logs.iter_mut().for_each(|l| *l /= sum);
}

impl Learner for Bayes {
    fn shares(&self, row: &[u32]) -> Vec<f64> {
        let mut out = self.prior.clone();
        let classes = out.len();
        for (table, code) in self.tables.iter().zip(row) {
            let from = (*code as usize).min(BINS - 1) * classes;
            for (o, log) in out.iter_mut().zip(&table[from..from + classes]) {
                *o += log;
            }
        }
        normalise(&mut out);
        out
    }
}

/// Multinomial logistic regression on bins, by gradient descent with momentum.
pub(super) struct Softmax {
    weights: Vec<f64>,
    classes: usize,
}

/// Bins of a column that the softmax tells apart.
const WEIGHTS: usize = 24;

/// Which weights a row uses; the last one is the same for all rows.
fn active(row: &[u32]) -> impl Iterator<Item = usize> + '_ {
    let bins = row.iter().enumerate();
    bins.map(|(j, code)| WEIGHTS * j + (*code as usize).min(WEIGHTS - 1))
        .chain([WEIGHTS * row.len()])
}

impl Softmax {
    pub(super) fn learn(x: &Codes, y: &[u32], classes: usize) -> Self {
        let width = x.rows.first().map_or(0, Vec::len);
        let size = (WEIGHTS * width + 1) * classes;
        let mut model = Self {
            weights: vec![0.0; size],
            classes,
        };
        let mut speed = vec![0.0; size];
        let n = y.len().max(1) as f64;
        for _ in 0..120 {
            let mut gradient = vec![0.0; size];
            for (row, class) in x.rows.iter().zip(y) {
                let mut shares = model.shares(row);
                shares[*class as usize] -= 1.0;
                for at in active(row) {
                    let part = &mut gradient[at * classes..(at + 1) * classes];
                    for (g, s) in part.iter_mut().zip(&shares) {
                        *g += s;
                    }
                }
            }
            for ((w, v), g) in model.weights.iter_mut().zip(&mut speed).zip(&gradient) {
                *v = 0.9 * *v - 2.0 * (g / n + 1e-5 * *w);
                *w += *v;
            }
        }
        model
    }
}

impl Learner for Softmax {
    fn shares(&self, row: &[u32]) -> Vec<f64> {
        let mut out = vec![0.0; self.classes];
        for at in active(row) {
            let part = &self.weights[at * self.classes..(at + 1) * self.classes];
            for (o, w) in out.iter_mut().zip(part) {
                *o += w;
            }
        }
        normalise(&mut out);
        out
    }
}

/// The five nearest neighbours.
pub(super) struct Nearest {
    tree: Neighbours,
    classes: Vec<u32>,
    count: usize,
}

impl Nearest {
    pub(super) fn learn(x: &Codes, y: &[u32], classes: usize) -> Self {
        let width = x.rows.first().map_or(1, Vec::len);
        let points = x.rows.iter().flatten().map(|c| *c as f32).collect();
        Self {
            tree: Neighbours::new(points, width),
            classes: y.to_vec(),
            count: classes,
        }
    }
}

impl Learner for Nearest {
    fn shares(&self, row: &[u32]) -> Vec<f64> {
        let query: Vec<f32> = row.iter().map(|c| *c as f32).collect();
        let mut found = Vec::new();
        self.tree.nearest(&query, 5, &mut found);
        let mut out = vec![0.0; self.count];
        for (_, at) in &found {
            out[self.classes[*at as usize] as usize] += 1.0 / found.len() as f64;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn all_learn_what_one_column_tells() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut draw = |n: usize| {
            let rows: Vec<Vec<u32>> = (0..n)
                .map(|_| vec![rng.random_range(0..9), rng.random_range(0..16), 3])
                .collect();
            let y: Vec<u32> = rows.iter().map(|r| r[1] / 6).collect();
            (Codes { rows }, y)
        };
        let ((x, y), (tx, ty)) = (draw(400), draw(200));
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let learners: [Box<dyn Learner>; 5] = [
            Box::new(Tree::learn(&x, &y, 3, &mut rng)),
            Box::new(Forest::learn(&x, &y, 3, (12, 9), &mut rng)),
            Box::new(Bayes::learn(&x, &y, 3)),
            Box::new(Softmax::learn(&x, &y, 3)),
            Box::new(Nearest::learn(&x, &y, 3)),
        ];
        for (i, learner) in learners.iter().enumerate() {
            let right = tx
                .rows
                .iter()
                .zip(&ty)
                .filter(|(r, c)| learner.class(r) == **c);
            let right = right.count();
            assert!(right > 150, "learner {i}: {right} of 200");
            let sum: f64 = learner.shares(&tx.rows[0]).iter().sum();
            assert!((sum - 1.0).abs() < 1e-6);
        }
    }
}
