//! Bursts of cover as of devices that are not there: transfers of many large packets one way with short ones the other way, of a few
//! kinds that a home keeps for an epoch.
//!
//! A device that loads its firmware or sends a film shows by the fullest tenth of a second of a home's minutes, whatever small
//! cover there is around it. Bursts of about that height, rare enough to be paid for, make that say less.

use chaff_abi::{Dir, Nanos};
use rand::Rng;
use rand_chacha::ChaCha20Rng;

use crate::CoverError;
use crate::draw::{between, dirichlet, draw_bin, log_normal, normal, poisson, seconds_to_nanos};
use crate::envelope::{BINS, Planned};

/// Most packets of a burst.
const MOST: f64 = 4_000.0;
/// Most packets/s of a burst, both directions, so that a sender's limit of cover lets it pass.
const FASTEST: f64 = 250.0;
/// Shortest and longest mean length of a kind's bursts, s.
const SECONDS: [f64; 2] = [0.5, 5.0];
/// Weights (of a Dirichlet distribution) of the size classes in the direction that has most bytes.
const HEAVY: [f64; BINS] = [0.2, 0.1, 3.0];
/// The same for the other direction.
const LIGHT: [f64; BINS] = [5.0, 0.2, 0.05];
/// Smallest and largest mean number of packets of a kind's exchanges, of which a burst has several.
const EXCHANGE: [f64; 2] = [8.0, 320.0];
/// Smallest and largest median gap inside a kind's exchanges, s. Large exchanges at small gaps are as high as what cameras send.
const GAP: [f64; 2] = [0.0001, 0.001];

/// Settings of bursts.
#[derive(Clone, Debug, PartialEq)]
pub struct BurstConfig {
    /// Mean number of bursts a second, default 0: none.
    pub rate: f64,
    /// Kinds of bursts of an epoch, 1 to 64, default 6: each has its own rate, direction, number of packets, length and sizes.
    pub kinds: u32,
    /// Standard deviation of the logarithm of a kind's rate, default 0.8.
    pub rate_spread: f64,
    /// Mean number of packets of a burst, both directions, default 400.
    pub packets: f64,
    /// Standard deviation of the logarithm of a kind's mean number of packets, default 0.8.
    pub packets_spread: f64,
    /// Standard deviation of the logarithm of the number of packets within a kind, default 0.3.
    pub variation: f64,
}

impl Default for BurstConfig {
    fn default() -> Self {
        Self {
            rate: 0.0,
            kinds: 6,
            rate_spread: 0.8,
            packets: 400.0,
            packets_spread: 0.8,
            variation: 0.3,
        }
    }
}

/// What bursts of one kind are like.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    /// Bursts/s.
    rate: f64,
    /// Mean packets of a burst.
    packets: f64,
    variation: f64,
    /// Mean length of a burst.
    seconds: f64,
    /// Direction that has most bytes.
    heavy: Dir,
    /// Its share of the packets.
    share: f64,
    /// Mean packets of an exchange.
    exchange: f64,
    /// Median gap in it, s.
    gap: f64,
    /// Chance of each size class, by [`Dir`].
    mix: [[f64; BINS]; 2],
}

impl BurstConfig {
    pub(crate) fn check(&self) -> Result<(), CoverError> {
        let ranges = [
            ("bursts.rate", self.rate, 0.0..=10.0, "0 to 10 a second"),
            ("bursts.kinds", f64::from(self.kinds), 1.0..=64.0, "1 to 64"),
            ("bursts.rate_spread", self.rate_spread, 0.0..=3.0, "0 to 3"),
            ("bursts.packets", self.packets, 2.0..=MOST, "2 to 4,000"),
            (
                "bursts.packets_spread",
                self.packets_spread,
                0.0..=3.0,
                "0 to 3",
            ),
            ("bursts.variation", self.variation, 0.0..=3.0, "0 to 3"),
        ];
        for (name, value, range, allowed) in ranges {
            crate::onoff::in_range(name, value, range, allowed)?;
        }
        Ok(())
    }

    /// The kinds of an epoch.
    pub(crate) fn draw(&self, scale: f64, rng: &mut ChaCha20Rng) -> Vec<Kind> {
        if self.rate == 0.0 {
            return Vec::new();
        }
        let kind = |_| {
            let heavy = if rng.random::<bool>() {
                Dir::Out
            } else {
                Dir::In
            };
            let mut mix = [[0.0; BINS]; 2];
            for dir in Dir::BOTH {
                let weights = if dir == heavy { &HEAVY } else { &LIGHT };
                mix[dir.index()] = dirichlet(rng, weights);
            }
            let seconds = between(rng, SECONDS);
            let (exchange, gap) = (between(rng, EXCHANGE), between(rng, GAP));
            let rate = scale * self.rate / f64::from(self.kinds);
            Kind {
                rate: rate * log_normal(rng, self.rate_spread),
                packets: self.packets * log_normal(rng, self.packets_spread),
                variation: self.variation,
                seconds,
                heavy,
                share: 0.45 + 0.25 * rng.random::<f64>(),
                exchange,
                gap,
                mix,
            }
        };
        (0..self.kinds).map(kind).collect()
    }
}

impl Kind {
    /// Whether it never comes.
    pub(crate) fn is_silent(&self) -> bool {
        self.rate == 0.0
    }

    /// Draws the bursts that begin in the `seconds` after `start`. They may end later.
    pub(crate) fn plan(
        &self,
        rng: &mut ChaCha20Rng,
        start: Nanos,
        seconds: f64,
        due: &mut dyn FnMut(Planned),
    ) {
        for _ in 0..poisson(rng, self.rate * seconds) {
            let begin = rng.random::<f64>() * seconds;
            let packets = self.packets * log_normal(rng, self.variation);
            let packets = packets.clamp(2.0, MOST).round();
            let length = (self.seconds * log_normal(rng, 0.4)).max(packets / FASTEST);
            let mut left = packets as u32;
            while left > 0 {
                let n = (1.0 - self.exchange * (1.0 - rng.random::<f64>()).ln()) as u32;
                let n = n.clamp(1, left);
                left -= n;
                let mut at = begin + length * rng.random::<f64>();
                for _ in 0..n {
                    let dir = match (rng.random::<f64>() < self.share, self.heavy) {
                        (true, heavy) => heavy,
                        (false, Dir::Out) => Dir::In,
                        (false, Dir::In) => Dir::Out,
                    };
                    let bin = draw_bin(rng, &self.mix[dir.index()]);
                    let at_now = start + seconds_to_nanos(at);
                    due(Planned {
                        at: at_now,
                        dir,
                        bin,
                    });
                    at += self.gap * normal(rng).exp();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    fn often() -> BurstConfig {
        BurstConfig {
            rate: 0.01,
            ..BurstConfig::default()
        }
    }

    /// Over many homes there are as many bursts and packets as configured, most bytes of a kind go one way, and homes differ.
    #[test]
    fn bursts_are_as_many_as_configured_and_go_one_way() {
        let (homes, seconds) = (600, 3_600.0);
        let (mut packets, mut large, mut totals) = (0u64, [0u64; 2], Vec::new());
        for home in 0..homes {
            let mut rng = ChaCha20Rng::seed_from_u64(home);
            let mut total = 0;
            for kind in often().draw(1.0, &mut rng) {
                let mut ways = [0u64; 2];
                kind.plan(&mut rng, Nanos::ZERO, seconds, &mut |p| {
                    total += 1;
                    ways[p.dir.index()] += u64::from(p.bin == 2);
                });
                packets += ways.iter().sum::<u64>();
                large[0] += ways[kind.heavy.index()];
                large[1] += ways[1 - kind.heavy.index()];
            }
            totals.push(total);
        }
        // 36 bursts an hour of 400 packets.
        let mean = totals.iter().sum::<u64>() as f64 / homes as f64;
        assert!((11_500.0..16_500.0).contains(&mean), "{mean}");
        assert!(large[0] > 20 * large[1], "{large:?} of {packets}");
        totals.sort_unstable();
        assert!(
            totals[540] > 3 * totals[60],
            "{} {}",
            totals[60],
            totals[540]
        );
    }

    /// A burst neither lasts long nor is faster than what limits of cover let pass.
    #[test]
    fn a_burst_is_short_and_bounded() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for _ in 0..300 {
            let mut kind = often().draw(1.0, &mut rng).remove(0);
            // One on average.
            kind.rate = 0.1;
            let mut last = Nanos::ZERO;
            let mut count = 0;
            kind.plan(&mut rng, Nanos::ZERO, 10.0, &mut |p| {
                last = last.max(p.at);
                count += 1;
                assert!(usize::from(p.bin) < BINS);
            });
            assert!(last < Nanos::from_secs(120), "{last:?}");
            assert!(count <= 10 * MOST as u32);
        }
    }

    #[test]
    fn wrong_settings_are_told() {
        let wrong = [
            (
                "bursts.rate",
                BurstConfig {
                    rate: -1.0,
                    ..often()
                },
            ),
            (
                "bursts.kinds",
                BurstConfig {
                    kinds: 0,
                    ..often()
                },
            ),
            (
                "bursts.packets",
                BurstConfig {
                    packets: 1e6,
                    ..often()
                },
            ),
            (
                "bursts.variation",
                BurstConfig {
                    variation: f64::NAN,
                    ..often()
                },
            ),
        ];
        for (name, config) in wrong {
            let told = config.check().expect_err("out of range").to_string();
            assert!(told.contains(name), "{told}");
        }
        assert!(
            BurstConfig::default()
                .draw(1.0, &mut ChaCha20Rng::seed_from_u64(1))
                .is_empty()
        );
    }
}
