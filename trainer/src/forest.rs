//! Forests of decision trees: random forests and extremely randomized trees.

use anyhow::{Result, bail};
use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::network::{below, unit};

/// Version of the file's layout.
const VERSION: u32 = 1;
/// Deepest tree.
const MAX_DEPTH: usize = 64;

/// How trees are grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Samples drawn with replacement, best threshold of each feature looked at (Breiman 2001).
    RandomForest,
    /// All samples, one random threshold for each feature looked at (Geurts, Ernst and Wehenkel 2006).
    ExtraTrees,
}

/// A node: with `feature >= 0` an inner one, otherwise a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Node {
    /// Feature compared, or -1.
    feature: i32,
    /// Goes left when the value is at most this.
    threshold: f32,
    /// Left child; the right one for larger values; of a leaf, its place among the leaves.
    left: u32,
    /// Right child.
    right: u32,
}

/// Trees whose leaves hold the shares of classes; the forest's answer is their mean.
///
/// Its file is JSON: the nodes of every tree, and the distribution of every leaf. (ONNX has tree ensembles in a second operator set, which
/// Chaff's checked runtime does not load.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forest {
    version: u32,
    kind: Kind,
    /// Features of a row.
    features: usize,
    /// Names of the classes.
    labels: Vec<String>,
    trees: Vec<Vec<Node>>,
    /// One row a leaf, all trees.
    leaves: Vec<Vec<f32>>,
}

/// Rows with their classes.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Features of a row.
    pub features: usize,
    /// Row-major.
    pub x: Vec<f32>,
    /// Class of each row.
    pub y: Vec<usize>,
}

impl Table {
    /// A row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.x[i * self.features..(i + 1) * self.features]
    }

    /// Adds a row; a row of another length than the first is cut or filled with zeros.
    pub fn push(&mut self, row: &[f32], class: usize) {
        if self.y.is_empty() {
            self.features = row.len();
        }
        let to = self.x.len() + self.features;
        self.x.extend(row.iter().take(self.features));
        self.x.resize(to, 0.0);
        self.y.push(class);
    }
}

impl Forest {
    /// Grows `trees` trees; classes are weighted equally. `square root of features` of them are looked at in each node.
    pub fn fit(
        table: &Table,
        labels: &[String],
        kind: Kind,
        trees: usize,
        rng: &mut dyn RngCore,
        tick: &mut dyn FnMut(),
    ) -> Self {
        let mut forest = Self {
            version: VERSION,
            kind,
            features: table.features,
            labels: labels.to_vec(),
            trees: Vec::new(),
            leaves: Vec::new(),
        };
        let n = table.y.len();
        let mut count = vec![0usize; labels.len()];
        table.y.iter().for_each(|&c| count[c] += 1);
        let weight: Vec<f64> = count.iter().map(|&c| 1.0 / c.max(1) as f64).collect();
        let columns: Vec<f32> = (0..table.features)
            .flat_map(|f| (0..n).map(move |row| table.x[row * table.features + f]))
            .collect();
        for _ in 0..if n == 0 { 0 } else { trees } {
            let mut rows: Vec<u32> = match kind {
                Kind::RandomForest => (0..n).map(|_| below(rng, n) as u32).collect(),
                Kind::ExtraTrees => (0..n as u32).collect(),
            };
            let mut grower = Grower {
                columns: &columns,
                classes_of: &table.y,
                weight: &weight,
                kind,
                classes: labels.len(),
                values: Vec::with_capacity(n),
                tries: (table.features as f64).sqrt().ceil() as usize,
                order: (0..table.features).collect(),
                nodes: Vec::new(),
                leaves: &mut forest.leaves,
            };
            grower.grow(&mut rows, 0, rng);
            forest.trees.push(grower.nodes);
            tick();
        }
        forest
    }

    /// Names of the classes.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Probability of each class.
    pub fn probabilities(&self, row: &[f32]) -> Vec<f64> {
        let mut sum = vec![0.0; self.labels.len()];
        for tree in &self.trees {
            let mut at = 0;
            while tree[at].feature >= 0 {
                let n = &tree[at];
                let value = row.get(n.feature as usize).copied().unwrap_or(0.0);
                at = if value <= n.threshold {
                    n.left
                } else {
                    n.right
                } as usize;
            }
            for (s, p) in sum.iter_mut().zip(&self.leaves[tree[at].left as usize]) {
                *s += f64::from(*p);
            }
        }
        let total: f64 = sum.iter().sum();
        sum.iter_mut().for_each(|s| *s /= total.max(1e-300));
        sum
    }

    /// Reads a forest and checks that every walk ends in a leaf.
    ///
    /// # Errors
    /// When it is no forest of this version, or a node leads outside.
    pub fn read(json: &[u8]) -> Result<Self> {
        let forest: Self = serde_json::from_slice(json)?;
        if forest.version != VERSION {
            bail!("version {} of a forest, wanted {VERSION}", forest.version);
        }
        let leaf = |l: &Vec<f32>| {
            l.len() == forest.labels.len() && l.iter().all(|p| p.is_finite() && *p >= 0.0)
        };
        if !forest.leaves.iter().all(leaf) {
            bail!(
                "a leaf does not hold one share for each of the {} labels",
                forest.labels.len()
            );
        }
        for (t, tree) in forest.trees.iter().enumerate() {
            if tree.is_empty() {
                bail!("tree {t} has no node");
            }
            for (i, n) in tree.iter().enumerate() {
                let fits = if n.feature < 0 {
                    (n.left as usize) < forest.leaves.len()
                } else {
                    // Children come later, so a walk ends.
                    let child = |c: u32| (i + 1..tree.len()).contains(&(c as usize));
                    (n.feature as usize) < forest.features
                        && n.threshold.is_finite()
                        && child(n.left)
                        && child(n.right)
                };
                if !fits {
                    bail!("tree {t}: node {i} leads outside of the tree");
                }
            }
        }
        Ok(forest)
    }
}

struct Grower<'a> {
    /// All values of the first feature, then all of the second, and so on.
    columns: &'a [f32],
    classes_of: &'a [usize],
    weight: &'a [f64],
    kind: Kind,
    classes: usize,
    /// Values of the feature looked at, of the rows of a node.
    values: Vec<f32>,
    tries: usize,
    order: Vec<usize>,
    nodes: Vec<Node>,
    leaves: &'a mut Vec<Vec<f32>>,
}

impl Grower<'_> {
    fn grow(&mut self, rows: &mut [u32], depth: usize, rng: &mut dyn RngCore) -> u32 {
        let at = self.nodes.len();
        self.nodes.push(Node {
            feature: -1,
            threshold: 0.0,
            left: 0,
            right: 0,
        });
        let total = self.counts(rows);
        let pure = total.iter().filter(|w| **w > 0.0).count() <= 1;
        let split = if pure || depth >= MAX_DEPTH || rows.len() < 2 {
            None
        } else {
            self.split(rows, &total, rng)
        };
        let Some((feature, threshold)) = split else {
            let sum: f64 = total.iter().sum();
            self.nodes[at].left = self.leaves.len() as u32;
            let shares = total.iter().map(|w| (w / sum.max(1e-300)) as f32);
            self.leaves.push(shares.collect());
            return at as u32;
        };
        let mut middle = 0;
        let column = self.column(feature);
        for i in 0..rows.len() {
            if column[rows[i] as usize] <= threshold {
                rows.swap(i, middle);
                middle += 1;
            }
        }
        let (left, right) = rows.split_at_mut(middle);
        let left = self.grow(left, depth + 1, rng);
        let right = self.grow(right, depth + 1, rng);
        self.nodes[at] = Node {
            feature: feature as i32,
            threshold,
            left,
            right,
        };
        at as u32
    }

    /// A feature, by row.
    fn column(&self, feature: usize) -> &[f32] {
        let n = self.classes_of.len();
        &self.columns[feature * n..][..n]
    }

    fn counts(&self, rows: &[u32]) -> Vec<f64> {
        let mut out = vec![0.0; self.classes];
        for &r in rows {
            let c = self.classes_of[r as usize];
            out[c] += self.weight[c];
        }
        out
    }

    /// The best of a few random features by Gini impurity. Features that are constant here do not count as looked at.
    fn split(
        &mut self,
        rows: &[u32],
        total: &[f64],
        rng: &mut dyn RngCore,
    ) -> Option<(usize, f32)> {
        let mut best: Option<(f64, usize, f32)> = None;
        let mut left = vec![0.0; self.classes];
        let mut looked = 0;
        for k in 0..self.order.len() {
            let other = k + below(rng, self.order.len() - k);
            self.order.swap(k, other);
            let feature = self.order[k];
            let mut values = std::mem::take(&mut self.values);
            values.clear();
            let column = self.column(feature);
            values.extend(rows.iter().map(|&r| column[r as usize]));
            let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
            for &v in &values {
                (low, high) = (low.min(v), high.max(v));
            }
            self.values = values;
            if low >= high {
                continue;
            }
            let found = match self.kind {
                Kind::ExtraTrees => {
                    let t =
                        (f64::from(low) + unit(rng) * (f64::from(high) - f64::from(low))) as f32;
                    // Rounding must leave something on the right.
                    let t = if t >= high { low } else { t };
                    left.fill(0.0);
                    for (&r, v) in rows.iter().zip(&self.values) {
                        let c = self.classes_of[r as usize];
                        left[c] += if *v <= t { self.weight[c] } else { 0.0 };
                    }
                    (purity(&left, total), t)
                }
                Kind::RandomForest => self.sweep(rows, total),
            };
            if best.is_none_or(|(b, ..)| found.0 > b) {
                best = Some((found.0, feature, found.1));
            }
            looked += 1;
            if looked >= self.tries {
                break;
            }
        }
        best.map(|(_, feature, threshold)| (feature, threshold))
    }

    /// The best threshold of the feature looked at.
    fn sweep(&self, rows: &[u32], total: &[f64]) -> (f64, f32) {
        let mut sorted: Vec<(f32, usize)> = rows
            .iter()
            .zip(&self.values)
            .map(|(&r, &v)| (v, self.classes_of[r as usize]))
            .collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut left = vec![0.0; self.classes];
        let sum: f64 = total.iter().sum();
        let (mut left_sum, mut left_squares) = (0.0, 0.0);
        let mut right_squares: f64 = total.iter().map(|w| w * w).sum();
        let mut best = (f64::NEG_INFINITY, 0.0);
        for pair in sorted.windows(2) {
            let (value, class) = pair[0];
            let w = self.weight[class];
            let right = total[class] - left[class];
            left_squares += w * (2.0 * left[class] + w);
            right_squares += w * (w - 2.0 * right);
            left[class] += w;
            left_sum += w;
            if value < pair[1].0 {
                let gain = left_squares / left_sum + right_squares / (sum - left_sum).max(1e-300);
                if gain > best.0 {
                    let middle = value + (pair[1].0 - value) / 2.0;
                    best = (gain, if middle < pair[1].0 { middle } else { value });
                }
            }
        }
        best
    }
}

/// Larger is purer: the sum over both sides of squared weights over weight.
fn purity(left: &[f64], total: &[f64]) -> f64 {
    fn side(weights: impl Iterator<Item = f64>) -> f64 {
        let (sum, squares) = weights.fold((0.0, 0.0), |(s, q), w| (s + w, q + w * w));
        squares / f64::max(sum, 1e-300)
    }
    side(left.iter().copied()) + side(left.iter().zip(total).map(|(l, t)| t - l))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn rings(n: usize, rng: &mut ChaCha20Rng) -> Table {
        let mut t = Table::default();
        for _ in 0..n {
            let (x, y) = (unit(rng) * 2.0 - 1.0, unit(rng) * 2.0 - 1.0);
            let class = usize::from(x * x + y * y > 0.5);
            t.push(&[x as f32, y as f32, unit(rng) as f32], class);
        }
        t
    }

    #[test]
    fn both_kinds_learn_a_ring_and_survive_their_file() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let (train, test) = (rings(600, &mut rng), rings(300, &mut rng));
        let labels = ["in".to_owned(), "out".to_owned()];
        for kind in [Kind::RandomForest, Kind::ExtraTrees] {
            let forest = Forest::fit(&train, &labels, kind, 40, &mut rng, &mut || {});
            let json = serde_json::to_vec(&forest).expect("JSON");
            let forest = Forest::read(&json).expect("reads");
            let right = (0..300)
                .filter(|&i| {
                    let p = forest.probabilities(test.row(i));
                    usize::from(p[1] > p[0]) == test.y[i]
                })
                .count();
            assert!(right > 275, "{kind:?}: {right}");
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let labels = ["in".to_owned(), "out".to_owned()];
        let forest = Forest::fit(
            &rings(50, &mut rng),
            &labels,
            Kind::ExtraTrees,
            2,
            &mut rng,
            &mut || {},
        );
        let damage: [fn(&mut Forest); 6] = [
            |f| f.version = 9,
            |f| f.trees[0][0].left = 0,
            |f| f.trees[0][0].right = 100_000,
            |f| f.trees[1][0].feature = 3,
            |f| f.trees[1].clear(),
            |f| f.leaves[0].clear(),
        ];
        for change in damage {
            let mut bad = forest.clone();
            change(&mut bad);
            assert!(Forest::read(&serde_json::to_vec(&bad).expect("JSON")).is_err());
        }
        assert!(Forest::read(b"{").is_err());
    }

    #[test]
    fn constant_features_and_no_rows_are_no_trouble() {
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let labels = ["a".to_owned(), "b".to_owned()];
        let mut t = Table::default();
        (0..10).for_each(|i| t.push(&[1.0, 2.0], i % 2));
        let f = Forest::fit(&t, &labels, Kind::RandomForest, 3, &mut rng, &mut || {});
        assert!((f.probabilities(&[1.0, 2.0])[0] - 0.5).abs() < 0.35);
        let f = Forest::fit(
            &Table::default(),
            &labels,
            Kind::ExtraTrees,
            3,
            &mut rng,
            &mut || {},
        );
        assert_eq!(f.probabilities(&[0.0]), [0.0, 0.0]);
    }
}
