//! Conditional tables that back off from long contexts to short ones.

use rand::{Rng, RngCore};

/// Distributions of one symbol given a context, sorted by the context's key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Level {
    /// Ascending.
    pub(crate) keys: Vec<u64>,
    /// Where each context's symbols begin; one more than keys.
    pub(crate) starts: Vec<u32>,
    pub(crate) symbols: Vec<u32>,
    /// Running sums of weights inside a context.
    pub(crate) sums: Vec<f32>,
    /// Weight of each context that goes to the next level.
    pub(crate) rest: Vec<f32>,
}

/// Levels from the longest context to the shortest, tried in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chain {
    pub(crate) levels: Vec<Level>,
}

impl Level {
    /// From weights; contexts in ascending order of key. Contexts without weight are left out.
    pub(crate) fn from_weights(
        rows: impl IntoIterator<Item = (u64, Vec<(u32, f64)>, f64)>,
    ) -> Self {
        let mut level = Self {
            starts: vec![0],
            ..Self::default()
        };
        for (key, weights, rest) in rows {
            let mut sum = 0.0;
            for (symbol, weight) in weights.into_iter().filter(|(_, w)| *w > 0.0) {
                sum += weight;
                level.symbols.push(symbol);
                level.sums.push(sum as f32);
            }
            if sum > 0.0 {
                level.keys.push(key);
                level.starts.push(level.symbols.len() as u32);
                level.rest.push(rest.max(0.0) as f32);
            }
        }
        level
    }

    fn context(&self, key: u64) -> Option<(&[u32], &[f32], f32)> {
        let at = self.keys.binary_search(&key).ok()?;
        let range = self.starts[at] as usize..self.starts[at + 1] as usize;
        Some((
            &self.symbols[range.clone()],
            &self.sums[range],
            self.rest[at],
        ))
    }

    /// Whether it can be used, symbols below `limit`: a model file may say anything.
    pub(crate) fn valid(&self, limit: u32) -> bool {
        let n = self.keys.len();
        self.starts.len() == n + 1
            && self.starts[0] == 0
            && self.starts.windows(2).all(|w| w[0] < w[1])
            && self.starts[n] as usize == self.symbols.len()
            && self.sums.len() == self.symbols.len()
            && self.rest.len() == n
            && self.keys.windows(2).all(|w| w[0] < w[1])
            && self.symbols.iter().all(|s| *s < limit)
            && self
                .rest
                .iter()
                .chain(&self.sums)
                .all(|w| w.is_finite() && *w >= 0.0)
    }
}

impl Chain {
    /// Draws a symbol: at each level the context's own weights, or with the rest's share the next level. `None` when
    /// even the last level passes on: a symbol that was never seen.
    pub(crate) fn draw(&self, keys: &[u64], rng: &mut dyn RngCore) -> Option<u32> {
        for (level, key) in self.levels.iter().zip(keys) {
            let Some((symbols, sums, rest)) = level.context(*key) else {
                continue;
            };
            let own = sums.last().copied().unwrap_or(0.0);
            let u = rng.random::<f32>() * (own + rest);
            if u < own {
                let at = sums.partition_point(|s| *s <= u).min(symbols.len() - 1);
                return Some(symbols[at]);
            }
        }
        None
    }

    /// The likelihood of a symbol: that [`Chain::draw`] gives it, or, of a symbol that no level has, that it gives none.
    pub(crate) fn likelihood(&self, keys: &[u64], symbol: u32) -> f64 {
        let (mut sum, mut share, mut found) = (0.0, 1.0, false);
        for (level, key) in self.levels.iter().zip(keys) {
            let Some((symbols, sums, rest)) = level.context(*key) else {
                continue;
            };
            let own = f64::from(sums.last().copied().unwrap_or(0.0));
            let all = own + f64::from(rest);
            if all <= 0.0 {
                continue;
            }
            // Symbols of a context ascend.
            if let Ok(at) = symbols.binary_search(&symbol) {
                let before = at.checked_sub(1).map_or(0.0, |b| sums[b]);
                sum += share * f64::from(sums[at] - before) / all;
                found = true;
            }
            share *= f64::from(rest) / all;
        }
        if found { sum } else { share }
    }

    /// Learns from counts as they are: interpolated Kneser-Ney (Kneser, Ney 1995; as a hierarchical Pitman-Yor process:
    /// Teh 2006). Row i has the key of each level and its symbol. Every count loses a level's discount
    /// n₁ / (n₁ + 2 n₂), which is what a context gives to the next level; there each pair of context and symbol counts
    /// once, so that the symbols' shares stay as they were.
    pub(crate) fn exact(
        levels: usize,
        rows: usize,
        keys: impl Fn(usize, &mut [u64]),
        symbol: impl Fn(usize) -> u32,
    ) -> Self {
        let mut chain = Self::default();
        let mut all = vec![0u64; levels];
        // Records that still count, and at the next level.
        let mut alive: Vec<u32> = (0..rows as u32).collect();
        for level in 0..levels {
            let mut sorted: Vec<(u64, u32, u32)> = alive
                .iter()
                .map(|row| {
                    keys(*row as usize, &mut all);
                    (all[level], symbol(*row as usize), *row)
                })
                .collect();
            sorted.sort_unstable();
            let runs = || sorted.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
            let ones = runs().filter(|r| r.len() == 1).count() as f64;
            let twos = runs().filter(|r| r.len() == 2).count() as f64;
            let discount = if ones > 0.0 {
                (ones / (ones + 2.0 * twos)).clamp(0.1, 0.9)
            } else {
                0.05
            };
            alive.clear();
            let mut table = Level {
                starts: vec![0],
                ..Level::default()
            };
            for context in sorted.chunk_by(|a, b| a.0 == b.0) {
                let (mut sum, mut rest) = (0.0, 0.0);
                for run in context.chunk_by(|a, b| a.1 == b.1) {
                    sum += run.len() as f64 - discount;
                    rest += discount;
                    table.symbols.push(run[0].1);
                    table.sums.push(sum as f32);
                    alive.push(run[0].2);
                }
                table.keys.push(context[0].0);
                table.starts.push(table.symbols.len() as u32);
                table.rest.push(rest as f32);
            }
            chain.levels.push(table);
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn backs_off_and_keeps_shares() {
        // Context 1 always says 5; context 2 says 5 or 6; the empty context knows all.
        let data = [(1u64, 5u32), (1, 5), (1, 5), (2, 5), (2, 6), (2, 6), (3, 7)];
        let chain = Chain::exact(
            2,
            data.len(),
            |i, keys| {
                keys[0] = data[i].0;
                keys[1] = 0;
            },
            |i| data[i].1,
        );
        assert!(chain.levels.iter().all(|l| l.valid(8)));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = [0u32; 9];
        for _ in 0..20_000 {
            seen[chain.draw(&[1, 0], &mut rng).map_or(8, |s| s as usize)] += 1;
        }
        assert!(
            seen[5] > 14_000 && seen[6] > 0 && seen[7] > 0 && seen[8] > 0,
            "{seen:?}"
        );
        // An unknown context is the empty one; a chain without levels knows nothing.
        assert!((0..100).any(|_| chain.draw(&[9, 0], &mut rng) == Some(7)));
        assert_eq!(Chain::default().draw(&[], &mut rng), None);
        // Likelihoods are what is drawn.
        let drawn = |symbol: u32| f64::from(seen[symbol as usize]) / 20_000.0;
        for symbol in 5..8 {
            let p = chain.likelihood(&[1, 0], symbol);
            assert!((p - drawn(symbol)).abs() < 0.02, "{symbol}: {p}");
        }
        assert!((chain.likelihood(&[1, 0], 4) - drawn(8)).abs() < 0.02);
    }
}
