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

/// Half-life of the memory of what real traffic looked like.
const HALF_LIFE: Nanos = Nanos::from_secs(10);
/// Weight that each bin keeps without any traffic, in packets.
const PRIOR: f64 = 0.5;

/// How often each bin was used by real packets lately; dummies are drawn from it.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    weights: Vec<f64>,
    at: Nanos,
}

impl Mix {
    pub(crate) fn new(bins: &Bins, now: Nanos) -> Self {
        Self {
            weights: vec![0.0; bins.sizes.len()],
            at: now,
        }
    }

    /// Notes real packets of bin `index`.
    pub(crate) fn note(&mut self, now: Nanos, index: usize) {
        self.decay(now);
        if let Some(w) = self.weights.get_mut(index) {
            *w += 1.0;
        }
    }

    fn decay(&mut self, now: Nanos) {
        let passed = now.since(self.at);
        // Steps of an eighth of the half-life: exact enough, and no power function per packet.
        let step = Nanos(HALF_LIFE.0 / 8);
        if passed < step {
            return;
        }
        let factor = 0.5f64.powf(passed.0 as f64 / HALF_LIFE.0 as f64);
        self.weights.iter_mut().for_each(|w| *w *= factor);
        self.at = now;
    }

    /// Draws the index of a bin.
    pub(crate) fn draw(&mut self, now: Nanos, rng: &mut dyn RngCore) -> usize {
        self.decay(now);
        let prior = PRIOR / self.weights.len().max(1) as f64;
        let total: f64 = self.weights.iter().map(|w| w + prior).sum();
        let mut left = rng.random::<f64>() * total;
        for (i, w) in self.weights.iter().enumerate() {
            left -= w + prior;
            if left < 0.0 {
                return i;
            }
        }
        self.weights.len().saturating_sub(1)
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
            drawn[mix.draw(Nanos::from_secs(1), &mut rng)] += 1;
        }
        assert!(
            (1_900..2_100).contains(&drawn[0]) && drawn[1] < 30,
            "{drawn:?}"
        );
        let mut later = [0u32; 3];
        for _ in 0..3_000 {
            later[mix.draw(Nanos::from_secs(400), &mut rng)] += 1;
        }
        assert!(later.iter().all(|n| (850..1_150).contains(n)), "{later:?}");
    }
}
