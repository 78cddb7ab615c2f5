//! Steady exchanges of cover as of devices that are not there: a packet and its answer every so often, for some minutes, of a few kinds
//! that a home keeps for an epoch.
//!
//! A device that asks its server every second or two, or keeps a connection alive, shows by minutes in which no second or no five
//! seconds are empty, which random cover rarely has. Such exchanges are small, so they cost little.

use chaff_abi::{Dir, Nanos};
use rand::Rng;
use rand_chacha::ChaCha20Rng;

use crate::CoverError;
use crate::draw::{between, dirichlet, draw_bin, log_normal, normal, poisson, seconds_to_nanos};
use crate::envelope::{BINS, Planned};

/// Longest time that exchanges go on, s.
const LONGEST: f64 = 1_200.0;
/// Weights (of a Dirichlet distribution) of the size classes.
const MIX: [f64; BINS] = [8.0, 0.5, 0.1];
/// Shortest and longest mean time to an answer, s.
const ANSWER: [f64; 2] = [0.01, 0.2];
/// Smallest and largest standard deviation of the logarithm of the time between exchanges of a kind.
const JITTER: [f64; 2] = [0.02, 0.5];

/// Settings of steady exchanges.
#[derive(Clone, Debug, PartialEq)]
pub struct PollConfig {
    /// How often one begins, mean a second, default 0: none.
    pub rate: f64,
    /// Kinds of an epoch, 1 to 64, default 2: each has its own rate, duration, interval and sizes.
    pub kinds: u32,
    /// Standard deviation of the logarithm of a kind's rate, default 0.8.
    pub rate_spread: f64,
    /// Mean time that they go on, default 120 s.
    pub seconds: f64,
    /// Shortest and longest median time between exchanges of a kind, default 0.25 s and 4 s.
    pub interval: [f64; 2],
}

impl Default for PollConfig {
    fn default() -> Self {
        Self {
            rate: 0.0,
            kinds: 2,
            rate_spread: 0.8,
            seconds: 120.0,
            interval: [0.25, 4.0],
        }
    }
}

/// What exchanges of one kind are like.
#[derive(Clone, Debug)]
pub(crate) struct Poll {
    /// Begun/s.
    rate: f64,
    /// Mean duration, s.
    seconds: f64,
    /// Median time between exchanges, s.
    interval: f64,
    jitter: f64,
    /// Median time to an answer, s.
    answer: f64,
    /// Direction of the first packet.
    first: Dir,
    /// Chance of each size class, by [`Dir`].
    mix: [[f64; BINS]; 2],
}

impl PollConfig {
    pub(crate) fn check(&self) -> Result<(), CoverError> {
        let [low, high] = self.interval;
        let ranges = [
            ("polls.rate", self.rate, 0.0..=10.0, "0 to 10 a second"),
            ("polls.kinds", f64::from(self.kinds), 1.0..=64.0, "1 to 64"),
            ("polls.rate_spread", self.rate_spread, 0.0..=3.0, "0 to 3"),
            ("polls.seconds", self.seconds, 1.0..=LONGEST, "1 to 1,200 s"),
            ("polls.interval", low, 0.05..=60.0, "0.05 s to 60 s"),
            (
                "polls.interval",
                high,
                low..=60.0,
                "the shortest one to 60 s",
            ),
        ];
        for (name, value, range, allowed) in ranges {
            crate::onoff::in_range(name, value, range, allowed)?;
        }
        Ok(())
    }

    /// The kinds of an epoch.
    pub(crate) fn draw(&self, scale: f64, rng: &mut ChaCha20Rng) -> Vec<Poll> {
        if self.rate == 0.0 {
            return Vec::new();
        }
        let kind = |_| {
            let interval = between(rng, self.interval);
            let (answer, jitter) = (between(rng, ANSWER), between(rng, JITTER));
            Poll {
                rate: scale * self.rate / f64::from(self.kinds) * log_normal(rng, self.rate_spread),
                seconds: self.seconds * log_normal(rng, 0.5),
                interval,
                jitter,
                answer,
                first: if rng.random::<f64>() < 0.7 {
                    Dir::Out
                } else {
                    Dir::In
                },
                mix: Dir::BOTH.map(|_| dirichlet(rng, &MIX)),
            }
        };
        (0..self.kinds).map(kind).collect()
    }
}

impl Poll {
    /// Whether it never comes.
    pub(crate) fn is_silent(&self) -> bool {
        self.rate == 0.0
    }

    /// Draws the exchanges of those that begin in the `seconds` after `start`. They end later.
    pub(crate) fn plan(
        &self,
        rng: &mut ChaCha20Rng,
        start: Nanos,
        seconds: f64,
        due: &mut dyn FnMut(Planned),
    ) {
        for _ in 0..poisson(rng, self.rate * seconds) {
            let mut at = rng.random::<f64>() * seconds;
            let end = at + (self.seconds * log_normal(rng, 0.7)).min(LONGEST);
            while at < end {
                let answer = at + self.answer * (0.3 * normal(rng)).exp();
                for (at, dir) in [(at, self.first), (answer, self.first.flip())] {
                    let bin = draw_bin(rng, &self.mix[dir.index()]);
                    let at = start + seconds_to_nanos(at);
                    due(Planned { at, dir, bin });
                }
                at += self.interval * (self.jitter * normal(rng)).exp();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    fn often() -> PollConfig {
        PollConfig {
            rate: 0.01,
            ..PollConfig::default()
        }
    }

    /// Over many homes they take the share of time that is configured, both directions alike, in small packets.
    #[test]
    fn exchanges_go_on_for_as_long_as_configured() {
        let (homes, seconds) = (600, 3_600.0);
        let (mut ways, mut large, mut covered) = ([0u64; 2], 0u64, 0.0);
        for home in 0..homes {
            let mut rng = ChaCha20Rng::seed_from_u64(home);
            for kind in often().draw(1.0, &mut rng) {
                let mut count = 0u64;
                kind.plan(&mut rng, Nanos::ZERO, seconds, &mut |p| {
                    ways[p.dir.index()] += 1;
                    large += u64::from(p.bin == 2);
                    count += u64::from(p.dir == kind.first);
                });
                // The mean of a log-normal interval is a little above its median.
                covered += count as f64 * kind.interval * (kind.jitter * kind.jitter / 2.0).exp();
            }
        }
        // 36 an hour, 120 s each; the standard deviation of the mean is about 0.05.
        let share = covered / (homes as f64 * seconds);
        assert!((1.0..1.4).contains(&share), "{share}");
        assert_eq!(ways[0], ways[1]);
        assert!(large < ways[0] / 10, "{large} of {ways:?}");
    }

    /// While exchanges go on there is no long silence, and they end.
    #[test]
    fn exchanges_are_steady_and_end() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for _ in 0..200 {
            let mut kind = often().draw(1.0, &mut rng).remove(0);
            kind.rate = 0.01;
            let mut own: Vec<Nanos> = Vec::new();
            let mut begun = 0;
            kind.plan(&mut rng, Nanos::ZERO, 1.0, &mut |p| {
                if p.dir == kind.first {
                    begun += usize::from(own.last().is_none_or(|last| p.at < *last));
                    own.push(p.at);
                }
            });
            if begun > 1 {
                continue;
            }
            for pair in own.windows(2) {
                let gap = pair[1].since(pair[0]).as_secs_f64();
                // Seven standard deviations.
                assert!(gap <= kind.interval * (7.0 * kind.jitter).exp(), "{gap}");
            }
            let last = own.last().map_or(0.0, |at| at.as_secs_f64());
            assert!(last <= LONGEST + 1.0, "{last}");
        }
    }

    #[test]
    fn wrong_settings_are_told() {
        let wrong = [
            (
                "polls.rate",
                PollConfig {
                    rate: f64::NAN,
                    ..often()
                },
            ),
            (
                "polls.seconds",
                PollConfig {
                    seconds: 0.0,
                    ..often()
                },
            ),
            (
                "polls.interval",
                PollConfig {
                    interval: [2.0, 1.0],
                    ..often()
                },
            ),
            (
                "polls.kinds",
                PollConfig {
                    kinds: 65,
                    ..often()
                },
            ),
        ];
        for (name, config) in wrong {
            let told = config.check().expect_err("out of range").to_string();
            assert!(told.contains(name), "{told}");
        }
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        assert!(PollConfig::default().draw(1.0, &mut rng).is_empty());
    }
}
