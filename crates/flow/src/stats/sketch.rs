/// Bins that a sketch holds at most, 8 bytes each.
pub const MAX_BINS: usize = 512;
/// Bits of a value that its bin keeps behind the first one.
const FINEST: u8 = 5;

/// Quantiles of whole numbers in bounded memory, each within a stated relative error, from bins that parts merge exactly.
///
/// As in DDSketch (Masson, Rim and Lee, VLDB 2019) the width of a bin grows with the value, so the error is relative and
/// two sketches of the same resolution add up bin by bin; bins are made as in HdrHistogram, from the leading bits of the
/// value, so no logarithm is needed and every machine gives the same. Only bins in use are kept. When there are more than
/// [`MAX_BINS`], all neighbours merge in pairs and the resolution halves, as in UDDSketch (Epicoco et al., 2020); which
/// resolution a sketch ends with depends only on the values, not on their order or on merges.
///
/// The quantile of rank `r` is at most [`Sketch::relative_error`] away from the `r`-th smallest value: 1/64 (1.6 %) for
/// as long as the values need no more than [`MAX_BINS`] bins, which sizes of packets never do and which times do not
/// below sixteen powers of two. Values below 64 are exact at the finest resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch {
    /// In order: the number of the bin in the upper 16 bits, the count in the lower 48.
    bins: Vec<u64>,
    count: u64,
    min: u64,
    max: u64,
    /// Bits of a value that its bin keeps behind the first one.
    resolution: u8,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            bins: Vec::new(),
            count: 0,
            min: u64::MAX,
            max: 0,
            resolution: FINEST,
        }
    }
}

const COUNT_BITS: u32 = 48;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// The bin of a value: values below `2^(resolution + 1)` have their own, then `2^resolution` bins for each power of two.
#[inline(always)]
fn bin(value: u64, resolution: u8) -> u64 {
    let power = 63 - (value | 1).leading_zeros();
    let shift = power.saturating_sub(resolution.into());
    (u64::from(shift) << resolution) + (value >> shift)
}

/// The smallest value of a bin, and how many values it has.
fn values(bin: u64, resolution: u8) -> (u64, u64) {
    let shift = (bin >> resolution).saturating_sub(1);
    ((bin - (shift << resolution)) << shift, 1 << shift)
}

impl Sketch {
    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: u64) {
        self.add_many(value, 1);
    }

    /// Adds a value `times` times.
    pub fn add_many(&mut self, value: u64, times: u64) {
        if times == 0 {
            return;
        }
        self.count += times;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.put(bin(value, self.resolution), times);
        self.shrink();
    }

    /// Adds the values of another.
    pub fn merge(&mut self, other: &Self) {
        while self.resolution > other.resolution {
            self.coarsen();
        }
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        for entry in &other.bins {
            let (smallest, _) = values(entry >> COUNT_BITS, other.resolution);
            self.put(bin(smallest, self.resolution), entry & COUNT);
        }
        self.shrink();
    }

    /// Values added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value of which a share `q` (0 to 1) of all are not larger: of `n` values the one of rank `ceil(q * n)`, at least
    /// the first. The middle of its bin, but not beyond the smallest and the largest value; `None` without a value.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        self.quantile_with(&Self::default(), q)
    }

    /// [`Sketch::quantile`] of the values of both, at the resolution of the coarser one.
    pub fn quantile_with(&self, other: &Self, q: f64) -> Option<u64> {
        if self.count > 0 && other.count > 0 && self.resolution != other.resolution {
            let mut both = self.clone();
            both.merge(other);
            return both.quantile(q);
        }
        let resolution = self.resolution.min(other.resolution);
        let count = self.count + other.count;
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count.max(1));
        let (mut a, mut b) = (self.bins.iter().peekable(), other.bins.iter().peekable());
        let mut seen = 0;
        loop {
            let entry = match (a.peek(), b.peek()) {
                (Some(x), Some(y)) if x <= y => a.next(),
                (_, Some(_)) => b.next(),
                _ => a.next(),
            }?;
            seen += entry & COUNT;
            if seen >= rank {
                let (smallest, width) = values(entry >> COUNT_BITS, resolution);
                let (min, max) = (self.min.min(other.min), self.max.max(other.max));
                return Some((smallest + (width - 1) / 2).clamp(min, max));
            }
        }
    }

    /// Largest distance of a quantile from the true value, as a share of that value: `1 / 2^(resolution + 1)`.
    pub fn relative_error(&self) -> f64 {
        0.5 / f64::from(1u32 << self.resolution)
    }

    fn put(&mut self, bin: u64, times: u64) {
        match self.bins.binary_search_by_key(&bin, |e| e >> COUNT_BITS) {
            Ok(i) => {
                if let Some(entry) = self.bins.get_mut(i) {
                    *entry += times.min(COUNT - (*entry & COUNT));
                }
            }
            Err(i) => self.bins.insert(i, bin << COUNT_BITS | times.min(COUNT)),
        }
    }

    #[inline(always)]
    fn shrink(&mut self) {
        while self.bins.len() > MAX_BINS && self.resolution > 0 {
            self.coarsen();
        }
    }

    #[cold]
    fn coarsen(&mut self) {
        let (before, after) = (self.resolution, self.resolution - 1);
        self.resolution = after;
        for entry in &mut self.bins {
            let (smallest, _) = values(*entry >> COUNT_BITS, before);
            *entry = bin(smallest, after) << COUNT_BITS | (*entry & COUNT);
        }
        self.bins.dedup_by(|next, kept| {
            let same = *next >> COUNT_BITS == *kept >> COUNT_BITS;
            if same {
                *kept += (*next & COUNT).min(COUNT - (*kept & COUNT));
            }
            same
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Sketch {
        let mut s = Sketch::default();
        values.iter().for_each(|v| s.add(*v));
        s
    }

    /// Values of all sizes.
    fn value() -> impl Strategy<Value = u64> {
        (0..64u32, any::<u64>()).prop_map(|(shift, v)| v >> shift)
    }

    #[test]
    fn bins_cover_all_values_once_and_in_order() {
        for resolution in 0..=FINEST {
            let mut next = 0u64;
            for number in 0..2_000 {
                let (smallest, width) = values(number, resolution);
                assert_eq!(smallest, next, "bin {number} of resolution {resolution}");
                assert_eq!(bin(smallest, resolution), number);
                assert_eq!(bin(smallest + (width - 1), resolution), number);
                match smallest.checked_add(width) {
                    Some(n) => next = n,
                    None => break,
                }
            }
        }
        assert!(bin(u64::MAX, FINEST) < 1 << 16);
    }

    proptest! {
        #[test]
        fn quantiles_are_within_the_stated_error(
            mut all in prop::collection::vec(value(), 1..1500),
            q in 0.0..=1.0f64,
        ) {
            let s = of(&all);
            all.sort_unstable();
            let rank = ((q * all.len() as f64).ceil() as usize).clamp(1, all.len());
            let (exact, got) = (all[rank - 1], s.quantile(q).expect("not empty"));
            prop_assert!(exact.abs_diff(got) as f64 <= s.relative_error() * exact as f64);
            prop_assert!(s.bins.len() <= MAX_BINS);
        }

        #[test]
        fn sizes_of_packets_keep_the_finest_resolution(all in prop::collection::vec(0..=65_535u64, 1..3000)) {
            prop_assert_eq!(of(&all).relative_error(), 1.0 / 64.0);
        }

        #[test]
        fn merging_parts_equals_the_whole(all in prop::collection::vec(value(), 0..1500), cut in any::<prop::sample::Index>()) {
            let (a, b) = all.split_at(cut.index(all.len() + 1).min(all.len()));
            let mut merged = of(a);
            merged.merge(&of(b));
            prop_assert_eq!(&merged, &of(&all));
            // Without a merge no resolution is lost.
            if merged.resolution == FINEST {
                for q in [0.0, 0.3, 0.5, 0.99, 1.0] {
                    prop_assert_eq!(of(a).quantile_with(&of(b), q), merged.quantile(q));
                }
            }
            let mut turned = of(b);
            turned.merge(&of(a));
            prop_assert_eq!(turned, merged);
        }
    }

    #[test]
    fn small_values_are_exact_and_an_empty_sketch_has_no_quantile() {
        let s = of(&(0..64).collect::<Vec<_>>());
        for q in [0.25, 0.5, 1.0] {
            assert_eq!(s.quantile(q), Some((q * 64.0) as u64 - 1));
        }
        assert_eq!(
            (s.quantile(0.0), Sketch::default().quantile(0.5)),
            (Some(0), None)
        );
    }
}
