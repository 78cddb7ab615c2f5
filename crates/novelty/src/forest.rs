//! Isolation forest (Liu, Ting, Zhou 2008): rows that random cuts separate early.

use rand::RngCore;

use crate::codec::{Reader, Writer};
use crate::draw;
use crate::{Detector, FitError, Kind, MatRef, ModelError};

const KIND: &str = "if";
const MAX_TREES: usize = 10_000;
const MAX_SAMPLE: usize = 1 << 16;
/// Euler's constant.
const GAMMA: f64 = 0.577_215_664_901_532_9;

/// Settings; the defaults are those of the paper.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Trees, 1 to 10,000.
    pub trees: usize,
    /// Rows each tree is grown from, 2 to 65,536; all rows when there are fewer.
    pub sample: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            trees: 100,
            sample: 256,
        }
    }
}

/// A grown forest. The score is `2^(-E(h) / c)` with the mean depth E(h) at which a row is alone and c that of a random
/// search tree: from 0 to 1, about 0.5 for ordinary rows.
#[derive(Clone, Debug)]
pub struct Forest {
    columns: usize,
    sample: usize,
    /// Number of each tree's first node.
    roots: Vec<u32>,
    nodes: Vec<Node>,
    /// Of leaves: the depth they stand for.
    depths: Vec<f64>,
    /// Nodes from a root to a leaf at most.
    steps: u32,
}

/// An inner node has its children at `next` and `next + 1`. A leaf has itself at `next` and an infinite value, so that a
/// walk of too many steps stays there: walks of the same length need no branches.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Rows at or below go left.
    value: f64,
    column: u32,
    next: u32,
}

/// Levels a stored tree may have; a fitted one has at most 16.
const MAX_STEPS: u32 = 64;
/// Rows that walk through a tree together.
const LANES: usize = 8;

impl Forest {
    /// Grows from rows.
    ///
    /// # Errors
    /// [`FitError`].
    pub fn fit(
        settings: &Settings,
        rows: MatRef<'_>,
        rng: &mut dyn RngCore,
    ) -> Result<Self, FitError> {
        rows.check(2)?;
        let setting = |name, value: usize, range| FitError::Setting {
            kind: KIND,
            name,
            value: value as f64,
            range,
        };
        if !(1..=MAX_TREES).contains(&settings.trees) {
            return Err(setting("trees", settings.trees, "1 to 10000"));
        }
        if !(2..=MAX_SAMPLE).contains(&settings.sample) {
            return Err(setting("sample", settings.sample, "2 to 65536"));
        }
        let sample = settings.sample.min(rows.rows());
        let mut forest = Self {
            columns: rows.columns(),
            sample,
            roots: Vec::with_capacity(settings.trees),
            nodes: Vec::new(),
            depths: Vec::new(),
            steps: (sample as f64).log2().ceil() as u32,
        };
        let limit = forest.steps;
        let mut all: Vec<u32> = (0..rows.rows() as u32).collect();
        for _ in 0..settings.trees {
            for i in 0..sample {
                let j = i + draw::below(rng, all.len() - i);
                all.swap(i, j);
            }
            let root = forest.nodes.len();
            forest.roots.push(root as u32);
            forest.leaf();
            forest.grow(root, rows, &mut all[..sample], 0, limit, rng);
        }
        Ok(forest)
    }

    fn grow(
        &mut self,
        at: usize,
        rows: MatRef<'_>,
        of: &mut [u32],
        depth: u32,
        limit: u32,
        rng: &mut dyn RngCore,
    ) {
        let cut = if depth < limit && of.len() > 1 {
            self.cut(rows, of, rng)
        } else {
            None
        };
        let Some((column, value)) = cut else {
            self.depths[at] = f64::from(depth) + average_depth(of.len());
            return;
        };
        let mut left = 0;
        for i in 0..of.len() {
            if rows.row(of[i] as usize)[column] <= value {
                of.swap(left, i);
                left += 1;
            }
        }
        let next = self.nodes.len();
        self.leaf();
        self.leaf();
        self.nodes[at] = Node {
            value,
            column: column as u32,
            next: next as u32,
        };
        let (low, high) = of.split_at_mut(left);
        self.grow(next, rows, low, depth + 1, limit, rng);
        self.grow(next + 1, rows, high, depth + 1, limit, rng);
    }

    fn leaf(&mut self) {
        self.nodes.push(Node {
            value: f64::INFINITY,
            column: 0,
            next: self.nodes.len() as u32,
        });
        self.depths.push(0.0);
    }

    /// A column in which these rows differ, and a place between their smallest and largest value; `None` when they are
    /// alike in all columns.
    fn cut(&self, rows: MatRef<'_>, of: &[u32], rng: &mut dyn RngCore) -> Option<(usize, f64)> {
        let range = |column: usize| {
            let mut ends = (f64::INFINITY, f64::NEG_INFINITY);
            for &i in of {
                let v = rows.row(i as usize)[column];
                ends = (ends.0.min(v), ends.1.max(v));
            }
            ends
        };
        // A few tries, then all columns in random order.
        let d = self.columns;
        let tries = (0..4).map(|_| draw::below(rng, d)).collect::<Vec<_>>();
        let mut found = tries
            .into_iter()
            .map(|c| (c, range(c)))
            .find(|(_, (low, high))| low < high);
        if found.is_none() {
            found = draw::permutation(rng, d)
                .into_iter()
                .map(|c| (c, range(c)))
                .find(|(_, (low, high))| low < high);
        }
        let (column, (low, high)) = found?;
        let value = low + (high - low) * draw::unit(rng);
        // Rounding may not leave one side empty.
        Some((column, if value < high { value.max(low) } else { low }))
    }

    pub(crate) fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, ModelError> {
        let sample = from.size("the sample of a tree", MAX_SAMPLE as u64)?;
        let roots = from.sizes(u64::from(u32::MAX))?;
        let values = from.list()?;
        let split = from.sizes(u64::from(u32::MAX))?;
        let next = from.sizes(u64::from(u32::MAX))?;
        let n = values.len();
        let whole = sample >= 2 && !roots.is_empty() && split.len() == n && next.len() == n;
        // Children come after their parent, so that every walk ends.
        let ordered = next
            .iter()
            .zip(&split)
            .enumerate()
            .all(|(i, (&c, &s))| c == 0 || (c > i && c + 1 < n && s < columns));
        if !whole || !ordered || roots.iter().any(|&r| r >= n) {
            return Err(ModelError::Invalid {
                what: "a tree's nodes do not hang together",
            });
        }
        let mut levels = vec![0u32; n];
        for (i, &c) in next.iter().enumerate().filter(|(_, c)| **c != 0) {
            let below = levels[i] + 1;
            levels[c] = levels[c].max(below);
            levels[c + 1] = levels[c + 1].max(below);
        }
        let steps = levels.into_iter().max().unwrap_or(0);
        if steps > MAX_STEPS {
            return Err(ModelError::Invalid {
                what: "a tree is too deep",
            });
        }
        let leaf = |i: usize| next[i] == 0;
        Ok(Self {
            columns,
            sample,
            roots: roots.into_iter().map(|r| r as u32).collect(),
            nodes: (0..n)
                .map(|i| Node {
                    value: if leaf(i) { f64::INFINITY } else { values[i] },
                    column: if leaf(i) { 0 } else { split[i] as u32 },
                    next: if leaf(i) { i as u32 } else { next[i] as u32 },
                })
                .collect(),
            depths: (0..n)
                .map(|i| if leaf(i) { values[i] } else { 0.0 })
                .collect(),
            steps,
        })
    }
}

/// Mean depth of a search for something that is not there, in a random search tree of `n` keys.
fn average_depth(n: usize) -> f64 {
    match n {
        0 | 1 => 0.0,
        2 => 1.0,
        n => {
            let n = n as f64;
            2.0 * ((n - 1.0).ln() + GAMMA) - 2.0 * (n - 1.0) / n
        }
    }
}

impl Detector for Forest {
    fn kind(&self) -> Kind {
        Kind::IsolationForest
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn score(&self, rows: MatRef<'_>, out: &mut [f64]) {
        let c = average_depth(self.sample) * self.roots.len() as f64;
        let all: Vec<&[f64]> = rows.iter().take(out.len()).collect();
        // Tree by tree over some rows at a time: a tree stays in the cache.
        for (rows, out) in all.chunks(256).zip(out.chunks_mut(256)) {
            out.fill(0.0);
            for &root in &self.roots {
                for (rows, out) in rows.chunks(LANES).zip(out.chunks_mut(LANES)) {
                    let mut at = [root as usize; LANES];
                    for _ in 0..self.steps {
                        for (at, row) in at.iter_mut().zip(rows) {
                            let node = self.nodes[*at];
                            let right = row[node.column as usize] > node.value;
                            *at = node.next as usize + usize::from(right);
                        }
                    }
                    for (out, at) in out.iter_mut().zip(at) {
                        *out += self.depths[at];
                    }
                }
            }
            out.iter_mut().for_each(|o| *o = (-*o / c).exp2());
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::part();
        let leaf = |i: usize| self.nodes[i].next as usize == i;
        let n = self.nodes.len();
        let value = |i| {
            if leaf(i) {
                self.depths[i]
            } else {
                self.nodes[i].value
            }
        };
        let next = |i| {
            if leaf(i) {
                0
            } else {
                self.nodes[i].next as usize
            }
        };
        out.size(self.sample);
        out.sizes(&self.roots.iter().map(|&r| r as usize).collect::<Vec<_>>());
        out.list(&(0..n).map(value).collect::<Vec<_>>());
        out.sizes(
            &(0..n)
                .map(|i| self.nodes[i].column as usize)
                .collect::<Vec<_>>(),
        );
        out.sizes(&(0..n).map(next).collect::<Vec<_>>());
        out.into_part()
    }
}
