//! Always-on cover that never looks at real traffic: random rates, modulated in segments, in clumps of few sizes.
//!
//! A rate that nobody can predict hides more than a high one: the variance of the cover hides totals, clumps hide the gaps
//! between packets, and few sizes hide lengths. An [`Envelope`] runs once per tunnel, for all devices in it.

use crate::CoverError;
use crate::bursts::{BurstConfig, Kind};
use crate::draw::{
    dirichlet, draw_bin, exponential, geometric, log_normal, normal, poisson, seconds_to_nanos,
};
use crate::polls::{Poll, PollConfig};
use chaff_abi::{Dir, Nanos};
use rand::Rng;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Size classes of an envelope.
pub const BINS: usize = 3;

/// Latest dummy of a clump after its start; with the default gaps 1 in 10^7 would be later.
const CLUMP_SPAN: f64 = 60.0;
/// Settings of an [`Envelope`]. All rates are those of one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvelopeConfig {
    /// Mean rate, packets/s, default 3.6; 0 sends nothing.
    pub rate: f64,
    /// Standard deviation of the logarithm of an epoch's rate, default 0.8.
    pub rate_spread: f64,
    /// Correlation of both directions' rates, 0 to 1, default 0.5.
    pub coupling: f64,
    /// Mean length of an epoch, default 1 h: rate, clump length and mix of sizes are drawn anew after it.
    pub epoch: Nanos,
    /// Mean length of a segment, default 10 s: the rate gets a new factor after it.
    pub segment: Nanos,
    /// Standard deviation of the logarithm of that factor, default 1.5. Its mean is 1.
    pub modulation: f64,
    /// Largest mean number of dummies in a clump, default 6; 1 makes single dummies.
    pub clump: f64,
    /// Weights (parameters of a Dirichlet distribution) of the size classes, smallest class first; default 3, 0.4, 0.2.
    pub mix: [f64; BINS],
    /// Bursts as of devices that are not there, on top; default none.
    pub bursts: BurstConfig,
    /// Steady exchanges as of devices that are not there, on top; default none.
    pub polls: PollConfig,
}

impl Default for EnvelopeConfig {
    fn default() -> Self {
        Self {
            rate: 3.6,
            rate_spread: 0.8,
            coupling: 0.5,
            epoch: Nanos::from_secs(3_600),
            segment: Nanos::from_secs(10),
            modulation: 1.5,
            clump: 6.0,
            mix: [3.0, 0.4, 0.2],
            bursts: BurstConfig::default(),
            polls: PollConfig::default(),
        }
    }
}

impl EnvelopeConfig {
    /// For homes of several devices in one stream: besides what hides which device speaks, bursts and steady exchanges that hide which
    /// devices there are, and rates that differ more from home to home. About a third more bytes than the default.
    pub fn home() -> Self {
        Self {
            rate: 2.4,
            rate_spread: 1.2,
            modulation: 1.2,
            bursts: BurstConfig {
                rate: 0.0035,
                ..BurstConfig::default()
            },
            polls: PollConfig {
                rate: 0.01,
                ..PollConfig::default()
            },
            ..Self::default()
        }
    }

    /// The same with so many times as much cover.
    #[must_use]
    pub fn scaled(mut self, times: f64) -> Self {
        self.rate *= times;
        self.bursts.rate *= times;
        self.polls.rate *= times;
        self
    }

    fn is_silent(&self) -> bool {
        self.rate == 0.0 && self.bursts.rate == 0.0 && self.polls.rate == 0.0
    }

    fn check(&self) -> Result<(), CoverError> {
        let ranges = [
            ("rate", self.rate, 0.0..=10_000.0, "0 to 10,000 packets/s"),
            ("rate_spread", self.rate_spread, 0.0..=3.0, "0 to 3"),
            ("coupling", self.coupling, 0.0..=1.0, "0 to 1"),
            (
                "epoch",
                self.epoch.as_secs_f64(),
                1.0..=1e7,
                "1 s to 10^7 s",
            ),
            (
                "segment",
                self.segment.as_secs_f64(),
                0.1..=1e5,
                "0.1 s to 10^5 s",
            ),
            ("modulation", self.modulation, 0.0..=3.0, "0 to 3"),
            ("clump", self.clump, 1.0..=16.0, "1 to 16"),
        ];
        for (name, value, range, allowed) in ranges {
            crate::onoff::in_range(name, value, range, allowed)?;
        }
        for weight in self.mix {
            crate::onoff::in_range("mix", weight, 0.01..=1_000.0, "0.01 to 1,000 each")?;
        }
        self.polls.check()?;
        self.bursts.check()
    }
}

/// A dummy of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Planned {
    /// When it is due.
    pub at: Nanos,
    /// Which way, seen from the home.
    pub dir: Dir,
    /// Its size class, below [`BINS`].
    pub bin: u8,
}

/// What an epoch keeps.
#[derive(Clone, Debug)]
struct Epoch {
    /// Packets/s, by [`Dir`].
    rate: [f64; 2],
    /// Mean length of a clump.
    clump: f64,
    /// Chance of each size class, by [`Dir`].
    mix: [[f64; BINS]; 2],
    /// What bursts there are.
    bursts: Vec<Kind>,
    /// What steady exchanges there are.
    polls: Vec<Poll>,
    end: Nanos,
}

/// The schedule of an always-on cover, dummy by dummy.
///
/// Everything follows from the seed, which must come from the system's entropy and be told to nobody: whoever knows it
/// can take the cover away. Memory: the dummies of one segment and of clumps under way.
pub struct Envelope {
    config: EnvelopeConfig,
    rng: ChaCha20Rng,
    /// What epochs are drawn from, where that is not `rng`.
    epochs: Option<ChaCha20Rng>,
    scale: f64,
    epoch: Epoch,
    /// Where the next segment begins; nothing later than this is missing from `due`.
    frontier: Nanos,
    due: BinaryHeap<Reverse<Planned>>,
}

impl Envelope {
    /// An envelope that begins at `start`.
    ///
    /// # Errors
    /// [`CoverError::Parameter`] for a setting outside its range.
    pub fn new(config: EnvelopeConfig, seed: [u8; 32], start: Nanos) -> Result<Self, CoverError> {
        Self::make(config, seed, None, start)
    }

    /// An envelope whose epochs (rates, clump lengths, mixes, their ends) follow from `parameters` and everything else from `seed`.
    /// For measurements: what an observer gains who knows the parameters of a home but not its dummies.
    ///
    /// # Errors
    /// As [`Envelope::new`].
    pub fn with_parameters(
        config: EnvelopeConfig,
        seed: [u8; 32],
        parameters: [u8; 32],
        start: Nanos,
    ) -> Result<Self, CoverError> {
        Self::make(config, seed, Some(parameters), start)
    }

    fn make(
        config: EnvelopeConfig,
        seed: [u8; 32],
        parameters: Option<[u8; 32]>,
        start: Nanos,
    ) -> Result<Self, CoverError> {
        config.check()?;
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut epochs = parameters.map(ChaCha20Rng::from_seed);
        let epoch = Epoch::draw(&config, 1.0, start, epochs.as_mut().unwrap_or(&mut rng));
        Ok(Self {
            config,
            rng,
            epochs,
            scale: 1.0,
            epoch,
            frontier: start,
            due: BinaryHeap::new(),
        })
    }

    /// Multiplies the mean rate from the next epoch on: how a byte budget is kept without stopping at a busy moment,
    /// which would show real traffic. Outside 0 to 16 it is moved to the nearer end.
    pub fn set_scale(&mut self, scale: f64) {
        self.scale = if scale.is_nan() {
            0.0
        } else {
            scale.clamp(0.0, 16.0)
        };
    }

    /// The next dummy; dummies come in order of time and never end.
    pub fn next_dummy(&mut self) -> Planned {
        loop {
            match self.due.peek() {
                Some(Reverse(first)) if first.at < self.frontier => {
                    let first = *first;
                    self.due.pop();
                    return first;
                }
                _ if self.is_silent() => {
                    // Nothing will ever come.
                    return Planned {
                        at: Nanos::MAX,
                        dir: Dir::Out,
                        bin: 0,
                    };
                }
                _ => self.plan_segment(),
            }
        }
    }

    fn is_silent(&self) -> bool {
        self.due.is_empty()
            && (self.scale == 0.0 || self.config.is_silent())
            && self.epoch.rate == [0.0; 2]
            && self.epoch.bursts.iter().all(Kind::is_silent)
            && self.epoch.polls.iter().all(Poll::is_silent)
    }

    /// Draws the dummies of the segment that begins at the frontier.
    fn plan_segment(&mut self) {
        if self.frontier >= self.epoch.end {
            let rng = self.epochs.as_mut().unwrap_or(&mut self.rng);
            self.epoch = Epoch::draw(&self.config, self.scale, self.frontier, rng);
        }
        let rng = &mut self.rng;
        let start = self.frontier;
        let seconds = exponential(rng, self.config.segment.as_secs_f64()).clamp(0.001, 1e6);
        let end = (start + seconds_to_nanos(seconds)).min(self.epoch.end);
        let seconds = end.since(start).as_secs_f64();
        let factor = log_normal(rng, self.config.modulation);
        for dir in Dir::BOTH {
            let d = dir.index();
            let clumps = poisson(
                rng,
                self.epoch.rate[d] * factor / self.epoch.clump * seconds,
            );
            for _ in 0..clumps {
                let at = rng.random::<f64>() * seconds;
                let common = draw_bin(rng, &self.epoch.mix[d]);
                let length = geometric(rng, self.epoch.clump);
                for j in 0..length {
                    let gap = (-4.0 + 1.5 * normal(rng)).exp();
                    let later = (f64::from(j) * gap).min(CLUMP_SPAN);
                    let bin = if rng.random::<bool>() {
                        common
                    } else {
                        draw_bin(rng, &self.epoch.mix[d])
                    };
                    let at = start + seconds_to_nanos(at + later);
                    self.due.push(Reverse(Planned { at, dir, bin }));
                }
            }
        }
        for kind in &self.epoch.bursts {
            kind.plan(rng, start, seconds, &mut |p| self.due.push(Reverse(p)));
        }
        for poll in &self.epoch.polls {
            poll.plan(rng, start, seconds, &mut |p| self.due.push(Reverse(p)));
        }
        // At least a nanosecond, so that this ends.
        self.frontier = end.max(start + Nanos(1));
    }
}

impl Epoch {
    fn draw(config: &EnvelopeConfig, scale: f64, start: Nanos, rng: &mut ChaCha20Rng) -> Self {
        let (shared, own) = (config.coupling.sqrt(), (1.0 - config.coupling).sqrt());
        let common = normal(rng);
        let sigma = config.rate_spread;
        let rate = Dir::BOTH.map(|_| {
            let z = shared * common + own * normal(rng);
            config.rate * scale * (sigma * z - sigma * sigma / 2.0).exp()
        });
        let clump = (rng.random::<f64>() * config.clump.ln()).exp();
        let mix = Dir::BOTH.map(|_| dirichlet(rng, &config.mix));
        let length = exponential(rng, config.epoch.as_secs_f64()).clamp(1.0, 1e8);
        let bursts = config.bursts.draw(scale, rng);
        let polls = config.polls.draw(scale, rng);
        Self {
            rate,
            clump,
            mix,
            bursts,
            polls,
            end: start + seconds_to_nanos(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take_until(e: &mut Envelope, end: Nanos) -> Vec<Planned> {
        let mut out = Vec::new();
        loop {
            let d = e.next_dummy();
            if d.at >= end {
                return out;
            }
            out.push(d);
        }
    }

    /// Over many homes the mean rate, the mean size and the share of directions are those of the settings; over time one
    /// home's rate is nothing like constant.
    #[test]
    fn means_are_as_configured_and_homes_differ() {
        let (homes, seconds) = (400, 600);
        let mut counts = Vec::new();
        let mut bins = [0u64; BINS];
        let mut out = 0;
        for home in 0..homes {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&u32::to_be_bytes(home));
            let mut e =
                Envelope::new(EnvelopeConfig::default(), seed, Nanos::from_secs(5)).expect("valid");
            let dummies = take_until(&mut e, Nanos::from_secs(5 + seconds));
            counts.push(dummies.len() as f64 / (2.0 * seconds as f64));
            for d in &dummies {
                bins[usize::from(d.bin)] += 1;
                out += u64::from(d.dir == Dir::Out);
            }
        }
        let mean = counts.iter().sum::<f64>() / f64::from(homes);
        assert!((3.06..4.14).contains(&mean), "{mean} packets/s");
        let total: u64 = bins.iter().sum();
        let share = bins.map(|n| n as f64 / total as f64);
        // 3 : 0.4 : 0.2.
        assert!((share[0] - 0.833).abs() < 0.06, "{share:?}");
        assert!((share[1] - 0.111).abs() < 0.05, "{share:?}");
        assert!((0.4..0.6).contains(&(out as f64 / total as f64)));
        counts.sort_by(f64::total_cmp);
        assert!(
            counts[360] > 4.0 * counts[40],
            "{} {}",
            counts[40],
            counts[360]
        );
    }

    #[test]
    fn nothing_is_sent_at_rate_zero_and_wrong_settings_are_told() {
        let quiet = EnvelopeConfig {
            rate: 0.0,
            ..EnvelopeConfig::default()
        };
        let mut e = Envelope::new(quiet, [1; 32], Nanos::ZERO).expect("valid");
        assert_eq!(e.next_dummy().at, Nanos::MAX);
        let wrong = EnvelopeConfig {
            coupling: 1.5,
            ..EnvelopeConfig::default()
        };
        let told = Envelope::new(wrong, [1; 32], Nanos::ZERO)
            .err()
            .expect("out of range");
        assert!(told.to_string().contains("coupling"), "{told}");
    }

    #[test]
    fn bursts_alone_make_cover_of_large_packets() {
        let only = EnvelopeConfig {
            rate: 0.0,
            polls: PollConfig::default(),
            ..EnvelopeConfig::home()
        };
        let mut e = Envelope::new(only, [2; 32], Nanos::ZERO).expect("valid");
        let dummies = take_until(&mut e, Nanos::from_secs(7_200));
        assert!(dummies.len() > 400, "{}", dummies.len());
        let large = dummies.iter().filter(|d| d.bin == 2).count();
        assert!(4 * large > dummies.len(), "{large}");
        let none = EnvelopeConfig::home().scaled(0.0);
        assert_eq!((none.bursts.rate, none.polls.rate), (0.0, 0.0));
    }

    #[test]
    fn a_scale_counts_from_the_next_epoch() {
        let config = EnvelopeConfig {
            epoch: Nanos::from_secs(100),
            rate: 20.0,
            ..EnvelopeConfig::default()
        };
        let mut e = Envelope::new(config, [3; 32], Nanos::ZERO).expect("valid");
        assert!(e.next_dummy().at < Nanos::from_secs(60));
        e.set_scale(0.0);
        let mut last = Nanos::ZERO;
        loop {
            let d = e.next_dummy();
            if d.at == Nanos::MAX {
                break;
            }
            assert!(d.at >= last);
            last = d.at;
        }
        assert!(last > Nanos::from_secs(1));
    }

    #[test]
    fn known_parameters_fix_epochs_and_nothing_else() {
        let config = EnvelopeConfig {
            epoch: Nanos::from_secs(50),
            ..EnvelopeConfig::default()
        };
        let make = |seed: u8, parameters: u8| {
            let (seed, parameters) = ([seed; 32], [parameters; 32]);
            Envelope::with_parameters(config.clone(), seed, parameters, Nanos::ZERO).expect("valid")
        };
        let late = |mut e: Envelope| {
            let dummies = take_until(&mut e, Nanos::from_secs(20));
            while e.epoch.end < Nanos::from_secs(500) {
                e.next_dummy();
            }
            let epoch = (e.epoch.rate, e.epoch.clump, e.epoch.mix, e.epoch.end);
            (dummies, epoch)
        };
        let (a, b, c) = (late(make(1, 7)), late(make(2, 7)), late(make(1, 8)));
        assert_eq!(a.1, b.1);
        assert_ne!(a.0, b.0);
        assert_ne!(a.1, c.1);
    }

    proptest! {
        #[test]
        fn dummies_come_in_order(seed: [u8; 32], rate in 0.0f64..50.0, clump in 1.0f64..16.0) {
            let config = EnvelopeConfig { rate, clump, ..EnvelopeConfig::default() };
            let mut e = Envelope::new(config.clone(), seed, Nanos::ZERO).expect("in range");
            let mut again = Envelope::new(config, seed, Nanos::ZERO).expect("in range");
            let mut last = Nanos::ZERO;
            for _ in 0..500 {
                let d = e.next_dummy();
                prop_assert_eq!(d, again.next_dummy());
                prop_assert!(d.at >= last);
                prop_assert!(usize::from(d.bin) < BINS);
                last = d.at;
            }
        }
    }
}
