//! Nearest neighbours by the sum of absolute differences.

/// A k-d tree (Bentley 1975) over points of equal dimension.
pub(super) struct Neighbours {
    dimension: usize,
    points: Vec<f32>,
    /// Places of points, those of a node together.
    order: Vec<u32>,
    nodes: Vec<Node>,
}

enum Node {
    Leaf {
        from: u32,
        to: u32,
    },
    /// The left child is the next node.
    Split {
        axis: u32,
        at: f32,
        right: u32,
    },
}

/// Points of a leaf.
const LEAF: usize = 16;

/// A point that is near: distance and place.
pub(super) type Near = (f32, u32);

impl Neighbours {
    /// `points` has `dimension` numbers for each.
    pub(super) fn new(points: Vec<f32>, dimension: usize) -> Self {
        let n = points.len() / dimension.max(1);
        let mut tree = Self {
            dimension,
            points,
            order: (0..n as u32).collect(),
            nodes: Vec::new(),
        };
        tree.build(0, n);
        tree
    }

    pub(super) fn point(&self, at: u32) -> &[f32] {
        let from = at as usize * self.dimension;
        &self.points[from..from + self.dimension]
    }

    fn build(&mut self, from: usize, to: usize) {
        let me = self.nodes.len();
        self.nodes.push(Node::Leaf {
            from: from as u32,
            to: to as u32,
        });
        if to - from <= LEAF {
            return;
        }
        let widest = (0..self.dimension)
            .map(|axis| {
                let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
                for i in &self.order[from..to] {
                    let x = self.point(*i)[axis];
                    (low, high) = (low.min(x), high.max(x));
                }
                (axis, low, high)
            })
            .max_by(|a, b| (a.2 - a.1).total_cmp(&(b.2 - b.1)));
        let Some((axis, low, high)) = widest.filter(|(_, low, high)| low < high) else {
            return;
        };
        let mut values: Vec<f32> = self.order[from..to]
            .iter()
            .map(|i| self.point(*i)[axis])
            .collect();
        let half = values.len() / 2;
        let (_, median, _) = values.select_nth_unstable_by(half, f32::total_cmp);
        // Points below `at` go left: both sides have some.
        let at = if *median > low {
            *median
        } else {
            values.into_iter().filter(|v| *v > low).fold(high, f32::min)
        };
        let mut order = self.order[from..to].to_vec();
        order.sort_by_key(|i| self.point(*i)[axis] >= at);
        let left = order.partition_point(|i| self.point(*i)[axis] < at);
        self.order[from..to].copy_from_slice(&order);
        self.build(from, from + left);
        let right = self.nodes.len() as u32;
        self.build(from + left, to);
        self.nodes[me] = Node::Split {
            axis: axis as u32,
            at,
            right,
        };
    }

    /// The `k` nearest points, nearest first; fewer when there are fewer.
    pub(super) fn nearest(&self, query: &[f32], k: usize, out: &mut Vec<Near>) {
        out.clear();
        let mut apart = vec![0.0; self.dimension];
        self.search(0, query, k, 0.0, &mut apart, out);
    }

    /// The distance to the nearest point.
    pub(super) fn distance(&self, query: &[f32]) -> f64 {
        let mut found = Vec::new();
        self.nearest(query, 1, &mut found);
        found.first().map_or(f64::INFINITY, |n| f64::from(n.0))
    }

    /// `apart` holds how far the query is outside the node along each axis, `least` their sum.
    fn search(
        &self,
        node: usize,
        query: &[f32],
        k: usize,
        least: f32,
        apart: &mut [f32],
        out: &mut Vec<Near>,
    ) {
        let full = |out: &[Near], d: f32| out.len() == k && out.last().is_some_and(|w| d >= w.0);
        match self.nodes[node] {
            Node::Leaf { from, to } => {
                for i in &self.order[from as usize..to as usize] {
                    let both = self.point(*i).iter().zip(query);
                    let d: f32 = both.map(|(a, b)| (a - b).abs()).sum();
                    if !full(out, d) {
                        let at = out.partition_point(|n| n.0 <= d);
                        out.insert(at, (d, *i));
                        out.truncate(k);
                    }
                }
            }
            Node::Split { axis, at, right } => {
                let (axis, right) = (axis as usize, right as usize);
                let beyond = query[axis] - at;
                let (near, far) = if beyond < 0.0 {
                    (node + 1, right)
                } else {
                    (right, node + 1)
                };
                self.search(near, query, k, least, apart, out);
                let before = apart[axis];
                let further = least - before + beyond.abs();
                // Sums of many small numbers are a little off.
                if !full(out, further * (1.0 - 1e-5)) {
                    apart[axis] = beyond.abs();
                    self.search(far, query, k, further, apart, out);
                    apart[axis] = before;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn finds_what_a_look_at_all_points_finds() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for dimension in [1, 4, 12] {
            // Whole numbers, so that many are equal.
            let points: Vec<f32> = (0..300 * dimension)
                .map(|_| rng.random_range(0..6) as f32)
                .collect();
            let tree = Neighbours::new(points.clone(), dimension);
            for _ in 0..50 {
                let query: Vec<f32> = (0..dimension)
                    .map(|_| rng.random_range(0..60) as f32 / 10.0)
                    .collect();
                let mut all: Vec<f32> = points
                    .chunks(dimension)
                    .map(|p| p.iter().zip(&query).map(|(a, b)| (a - b).abs()).sum())
                    .collect();
                all.sort_by(f32::total_cmp);
                let mut found = Vec::new();
                tree.nearest(&query, 5, &mut found);
                let distances: Vec<f32> = found.iter().map(|n| n.0).collect();
                for (a, b) in distances.iter().zip(&all) {
                    assert!((a - b).abs() < 1e-4, "{distances:?} {:?}", &all[..5]);
                }
            }
        }
        let same = Neighbours::new(vec![2.0; 100], 1);
        assert_eq!(same.distance(&[3.5]), 1.5);
    }
}
