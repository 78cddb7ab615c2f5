//! Size bins: the only lengths that inner packets have on the wire.

use chaff_abi::Nanos;
use rand::{Rng, RngCore};
use serde::{Deserialize, Serialize};

/// Smallest bin: room for every kind of dummy.
pub const MIN_BIN: u16 = 64;
/// Smallest tunnel MTU: what IPv6 needs.
pub const MIN_MTU: u16 = 1_280;
/// Largest tunnel MTU: a 9000-byte path over IPv6.
pub const MAX_MTU: u16 = 8_920;

/// Which lengths real packets are padded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Multiples of 16 bytes, as plain WireGuard: sizes stay visible.
    Off,
    /// Six bins: 96, 192, 384, 768, 1152 and the MTU.
    Fine,
    /// Three bins: 128, 576 and the MTU.
    #[default]
    Default,
    /// Every packet as long as the MTU.
    Mtu,
}

/// The bins in force for one MTU, ascending; the last is the MTU itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bins {
    sizes: Vec<u16>,
    profile: Profile,
}

impl Bins {
    /// The bins of a profile; the MTU is taken into [`MIN_MTU`]..=[`MAX_MTU`].
    pub fn new(profile: Profile, mtu: u16) -> Self {
        let mtu = mtu.clamp(MIN_MTU, MAX_MTU);
        let mut sizes: Vec<u16> = match profile {
            Profile::Off => (MIN_BIN / 16..mtu.div_ceil(16)).map(|n| n * 16).collect(),
            Profile::Fine => vec![96, 192, 384, 768, 1_152],
            Profile::Default => vec![128, 576],
            Profile::Mtu => Vec::new(),
        };
        sizes.retain(|s| *s < mtu);
        sizes.push(mtu);
        Self { sizes, profile }
    }

    /// The profile they belong to.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The lengths, ascending, inner bytes.
    pub fn sizes(&self) -> &[u16] {
        &self.sizes
    }

    /// The largest bin.
    pub fn mtu(&self) -> u16 {
        self.sizes.last().copied().unwrap_or(MIN_MTU)
    }

    /// Inner bytes of an envelope's size class, small, middle and full; a class that does not exist counts as full.
    pub fn class(&self, class: u8) -> u16 {
        match class {
            0 => 128,
            1 => 576,
            _ => self.mtu(),
        }
    }

    /// Index and length of the smallest bin that holds `len` bytes; `None` when `len` exceeds the MTU.
    ///
    /// With [`Profile::Off`] a packet below the smallest bin keeps its own multiple of 16.
    pub fn fit(&self, len: usize) -> Option<(usize, u16)> {
        let at = self.sizes.partition_point(|s| usize::from(*s) < len);
        let size = *self.sizes.get(at)?;
        if self.profile == Profile::Off && len < usize::from(MIN_BIN) {
            // Below 64, so it fits.
            return Some((at, (len.next_multiple_of(16)) as u16));
        }
        Some((at, size))
    }
}

/// Half-life of the memory of what real traffic looks like at the moment.
const FAST: Nanos = Nanos::from_secs(10);
/// Half-life of the memory of what it looks like on the whole.
const SLOW: Nanos = Nanos::from_secs(300);
/// Most packets that the slow memory is worth: one bulk transfer must not decide the sizes of a day.
const MOST: f64 = 2_000.0;
/// Packets of the last seconds that weigh as much as all of the slow memory.
const RECENT: f64 = 2.0;
/// Packets of the slow memory that weigh as much as what is taken without any traffic.
const PRIOR: f64 = 8.0;

/// How often each bin was used by real packets, lately and on the whole; dummies are drawn from it.
///
/// Memory fades, so that sizes tell little of what was sent; they follow traffic at all because a dummy of a size that is rare
/// among real packets would be known by it.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    fast: Memory,
    slow: Memory,
}

#[derive(Clone, Debug)]
struct Memory {
    weights: Vec<f64>,
    total: f64,
    half_life: Nanos,
    at: Nanos,
}

impl Memory {
    fn new(bins: usize, half_life: Nanos, now: Nanos) -> Self {
        Self {
            weights: vec![0.0; bins],
            total: 0.0,
            half_life,
            at: now,
        }
    }

    fn note(&mut self, now: Nanos, index: usize) {
        self.decay(now);
        if let Some(w) = self.weights.get_mut(index) {
            *w += 1.0;
            self.total += 1.0;
        }
    }

    fn decay(&mut self, now: Nanos) {
        let passed = now.since(self.at);
        // Steps of an eighth of the half-life: exact enough, and no power function per packet.
        if passed < Nanos(self.half_life.0 / 8) {
            return;
        }
        self.scale(0.5f64.powf(passed.0 as f64 / self.half_life.0 as f64));
        self.at = now;
    }

    fn scale(&mut self, factor: f64) {
        self.weights.iter_mut().for_each(|w| *w *= factor);
        self.total = self.weights.iter().sum();
    }

    fn draw(&self, rng: &mut dyn RngCore) -> usize {
        let mut left = rng.random::<f64>() * self.total;
        for (i, w) in self.weights.iter().enumerate() {
            left -= w;
            if left < 0.0 {
                return i;
            }
        }
        self.weights.len().saturating_sub(1)
    }
}

impl Mix {
    pub(crate) fn new(bins: &Bins, now: Nanos) -> Self {
        let memory = |half_life| Memory::new(bins.sizes.len(), half_life, now);
        Self {
            fast: memory(FAST),
            slow: memory(SLOW),
        }
    }

    /// Notes a real packet of bin `index`.
    pub(crate) fn note(&mut self, now: Nanos, index: usize) {
        self.fast.note(now, index);
        self.slow.note(now, index);
        if self.slow.total > 2.0 * MOST {
            self.slow.scale(0.5);
        }
    }

    /// Draws the index of a bin. As far as there is no traffic to follow it is `own`, or without that each bin as likely as
    /// every other.
    pub(crate) fn draw(&mut self, now: Nanos, own: Option<usize>, rng: &mut dyn RngCore) -> usize {
        self.fast.decay(now);
        self.slow.decay(now);
        for (memory, weight) in [(&self.fast, RECENT), (&self.slow, PRIOR)] {
            if rng.random::<f64>() * (memory.total + weight) < memory.total {
                return memory.draw(rng);
            }
        }
        let bins = self.fast.weights.len().max(1);
        own.unwrap_or_else(|| rng.random_range(0..bins))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn default_bins_are_three_and_end_at_the_mtu() {
        assert_eq!(
            Bins::new(Profile::Default, 1_420).sizes(),
            [128, 576, 1_420]
        );
        assert_eq!(Bins::new(Profile::Mtu, 1_420).sizes(), [1_420]);
        assert_eq!(Bins::new(Profile::Fine, 1_380).sizes().len(), 6);
        assert_eq!(Bins::new(Profile::Default, 100).mtu(), MIN_MTU);
    }

    proptest! {
        #[test]
        fn every_packet_up_to_the_mtu_fits_the_smallest_bin_that_holds_it(
            len in 1usize..9_000, mtu in 1_280u16..9_000, p in 0usize..4,
        ) {
            let profile = [Profile::Off, Profile::Fine, Profile::Default, Profile::Mtu][p];
            let bins = Bins::new(profile, mtu);
            match bins.fit(len) {
                None => prop_assert!(len > usize::from(bins.mtu())),
                Some((i, size)) => {
                    prop_assert!(usize::from(size) >= len);
                    prop_assert!(i == 0 || usize::from(bins.sizes()[i - 1]) < len);
                    prop_assert!(profile == Profile::Off || bins.sizes().contains(&size));
                }
            }
        }
    }

    #[test]
    fn dummies_follow_the_mix_of_real_packets_and_forget_it() {
        let bins = Bins::new(Profile::Default, 1_420);
        let mut mix = Mix::new(&bins, Nanos::ZERO);
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for i in 0..900 {
            mix.note(Nanos::from_millis(i), usize::from(i % 3 == 0) * 2);
        }
        let mut drawn = [0u32; 3];
        for _ in 0..3_000 {
            drawn[mix.draw(Nanos::from_secs(1), None, &mut rng)] += 1;
        }
        assert!(
            (1_900..2_100).contains(&drawn[0]) && drawn[1] < 30,
            "{drawn:?}"
        );
        let mut later = [0u32; 3];
        for _ in 0..3_000 {
            later[mix.draw(Nanos::from_secs(7_200), None, &mut rng)] += 1;
        }
        assert!(later.iter().all(|n| (850..1_150).contains(n)), "{later:?}");
        // In between it is the mix of the last minutes, and what a process of its own wants is asked for last.
        let mut mix = Mix::new(&bins, Nanos::ZERO);
        assert_eq!(mix.draw(Nanos::ZERO, Some(1), &mut rng), 1);
        for _ in 0..900 {
            mix.note(Nanos::ZERO, 2);
        }
        let minute = Nanos::from_secs(200);
        let large = (0..1_000).filter(|_| mix.draw(minute, Some(1), &mut rng) == 2);
        assert!(large.count() > 950);
    }
}
