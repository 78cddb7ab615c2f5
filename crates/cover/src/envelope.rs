//! Always-on cover that never looks at real traffic: random rates, modulated in segments, in clumps of few sizes.
//!
//! A rate that nobody can predict hides more than a high one: the variance of the cover hides totals, clumps hide the gaps
//! between packets, and few sizes hide lengths. An [`Envelope`] runs once per tunnel, for all devices in it.

use crate::CoverError;
use chaff_abi::{Dir, Nanos};
use rand::{Rng, RngCore};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Size classes of an envelope.
pub const BINS: usize = 3;

/// Most dummies of one clump; the mean length of clumps is at most [`EnvelopeConfig::clump`].
const LONGEST_CLUMP: u32 = 64;
/// Latest dummy of a clump after its start; with the default gaps 1 in 10^7 would be later.
const CLUMP_SPAN: f64 = 60.0;
/// Most clumps of one segment and direction; bounds the work of extreme draws.
const MOST_CLUMPS: u32 = 10_000;

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
        }
    }
}

impl EnvelopeConfig {
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
        Ok(())
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
            && (self.config.rate == 0.0 || self.scale == 0.0)
            && self.epoch.rate == [0.0; 2]
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
        Self {
            rate,
            clump,
            mix,
            end: start + seconds_to_nanos(length),
        }
    }
}

/// Something that waits for a tick of a [`ReleaseClock`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting<R, D> {
    /// A real packet: first in, first out among its like.
    Real(R),
    /// A dummy.
    Cover(D),
}

/// Lets everything of one direction leave on ticks, real packets and dummies mixed at random, so that the gaps between
/// packets tell nothing about what made them.
///
/// At a tick leaves what came since the last one, at equal distances; what does not fit between two ticks waits for the next. A
/// packet waits at most one tick, plus what is before it at the rate of `1 / spacing`. With no spacing all of it leaves at the
/// tick, as a burst that the sender may batch, and nothing waits longer than a tick. The queue is bounded: a real packet that
/// finds it full is given back, a dummy is dropped and counted.
pub struct ReleaseClock<R, D> {
    tick: Nanos,
    spacing: Nanos,
    phase: Nanos,
    real: std::collections::VecDeque<R>,
    cover: std::collections::VecDeque<D>,
    capacity: usize,
    dropped: u64,
    /// Departures of the tick under way, in order.
    leaving: std::collections::VecDeque<(Nanos, Waiting<R, D>)>,
    /// The first tick that was not dealt yet.
    next: Nanos,
    rng: ChaCha20Rng,
}

impl<R, D> ReleaseClock<R, D> {
    /// A clock with ticks `tick` apart, at a phase drawn from `seed`; `spacing` lies between two departures of one tick, 0 lets
    /// all of them leave at once. At most `capacity` real packets and as many dummies wait. A tick below 2 `spacing` counts as
    /// 2 `spacing`, one of 0 as 1 ns.
    pub fn new(tick: Nanos, spacing: Nanos, capacity: usize, seed: [u8; 32], start: Nanos) -> Self {
        let tick = tick.max(spacing + spacing).max(Nanos(1));
        let mut rng = ChaCha20Rng::from_seed(seed);
        let phase = Nanos(rng.random_range(0..tick.0));
        let mut clock = Self {
            tick,
            spacing,
            phase,
            real: std::collections::VecDeque::new(),
            cover: std::collections::VecDeque::new(),
            capacity: capacity.max(1),
            dropped: 0,
            leaving: std::collections::VecDeque::new(),
            next: Nanos::ZERO,
            rng,
        };
        clock.next = clock.tick_after(start);
        clock
    }

    /// The first tick after `at`: when something leaves that comes at `at` and finds nothing before it.
    pub fn tick_after(&self, at: Nanos) -> Nanos {
        if at < self.phase {
            return self.phase;
        }
        let number = at.since(self.phase).0 / self.tick.0 + 1;
        self.phase + self.tick.times(number)
    }

    /// Queues a real packet.
    ///
    /// # Errors
    /// Gives it back when the queue is full.
    pub fn push_real(&mut self, now: Nanos, packet: R) -> Result<(), R> {
        if self.real.len() >= self.capacity {
            return Err(packet);
        }
        self.skip_idle(now);
        self.real.push_back(packet);
        Ok(())
    }

    /// Queues a dummy that is due; it is dropped when the queue is full.
    pub fn push_cover(&mut self, now: Nanos, dummy: D) {
        if self.cover.len() >= self.capacity {
            self.dropped += 1;
            return;
        }
        self.skip_idle(now);
        self.cover.push_back(dummy);
    }

    /// Dummies dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Packets and dummies that wait.
    pub fn len(&self) -> usize {
        self.real.len() + self.cover.len() + self.leaving.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the next departure is; `None` when nothing waits.
    pub fn poll_timeout(&self) -> Option<Nanos> {
        match self.leaving.front() {
            Some((at, _)) => Some(*at),
            None => (!self.real.is_empty() || !self.cover.is_empty()).then_some(self.next),
        }
    }

    /// What leaves by `now`, with the moment that was meant for it. Call it until it gives `None`.
    pub fn poll(&mut self, now: Nanos) -> Option<(Nanos, Waiting<R, D>)> {
        if self.leaving.is_empty() && self.next <= now {
            self.deal();
        }
        match self.leaving.front() {
            Some((at, _)) if *at <= now => self.leaving.pop_front(),
            _ => None,
        }
    }

    /// Ticks at which nothing waited are over.
    fn skip_idle(&mut self, now: Nanos) {
        if self.real.is_empty() && self.cover.is_empty() {
            self.next = self.next.max(self.tick_after(now));
        }
    }

    /// Gives places of the tick at `self.next` to what waits.
    fn deal(&mut self) {
        let room = match self.spacing {
            Nanos::ZERO => self.real.len() + self.cover.len(),
            spacing => (self.tick.0 / spacing.0) as usize,
        };
        let mut at = self.next;
        for _ in 0..room {
            let (real, cover) = (self.real.len(), self.cover.len());
            if real + cover == 0 {
                break;
            }
            // Each order of real and cover is as likely as every other.
            let item = if self.rng.random_range(0..real + cover) < real {
                self.real.pop_front().map(Waiting::Real)
            } else {
                self.cover.pop_front().map(Waiting::Cover)
            };
            if let Some(item) = item {
                self.leaving.push_back((at, item));
            }
            at += self.spacing;
        }
        self.next += self.tick;
    }
}

fn seconds_to_nanos(seconds: f64) -> Nanos {
    Nanos((seconds * 1e9) as u64)
}

/// Standard normal, by Box and Muller (1958).
fn normal(rng: &mut dyn RngCore) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// Log-normal with mean 1.
fn log_normal(rng: &mut dyn RngCore, sigma: f64) -> f64 {
    (sigma * normal(rng) - sigma * sigma / 2.0).exp()
}

fn exponential(rng: &mut dyn RngCore, mean: f64) -> f64 {
    -mean * (1.0 - rng.random::<f64>()).ln()
}

/// 1, 2, ... with this mean, cut at [`LONGEST_CLUMP`].
fn geometric(rng: &mut dyn RngCore, mean: f64) -> u32 {
    if mean <= 1.0 {
        return 1;
    }
    let tail = (1.0 - rng.random::<f64>()).ln() / (1.0 - 1.0 / mean).ln();
    (tail as u32).saturating_add(1).min(LONGEST_CLUMP)
}

/// Arrivals of a Poisson process in a time that holds `mean` of them, at most [`MOST_CLUMPS`].
fn poisson(rng: &mut dyn RngCore, mean: f64) -> u32 {
    let mut time = exponential(rng, 1.0);
    let mut n = 0;
    while time < mean && n < MOST_CLUMPS {
        n += 1;
        time += exponential(rng, 1.0);
    }
    n
}

fn dirichlet(rng: &mut dyn RngCore, weights: &[f64; BINS]) -> [f64; BINS] {
    let draws = weights.map(|w| gamma(rng, w));
    let sum: f64 = draws.iter().sum();
    if sum > 0.0 {
        draws.map(|x| x / sum)
    } else {
        [1.0, 0.0, 0.0]
    }
}

/// Gamma with this shape and scale 1 (Marsaglia and Tsang 2000; for shapes below 1 with the boost of its section 6).
fn gamma(rng: &mut dyn RngCore, shape: f64) -> f64 {
    if shape < 1.0 {
        let boost = (1.0 - rng.random::<f64>()).powf(1.0 / shape);
        return gamma(rng, shape + 1.0) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(rng);
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - rng.random::<f64>();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

fn draw_bin(rng: &mut dyn RngCore, mix: &[f64; BINS]) -> u8 {
    let u = rng.random::<f64>();
    if u < mix[0] {
        0
    } else if u < mix[0] + mix[1] {
        1
    } else {
        2
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
    fn a_packet_waits_for_the_tick_and_keeps_its_order() {
        let tick = Nanos::from_millis(5);
        let mut c: ReleaseClock<u32, u32> =
            ReleaseClock::new(tick, Nanos::from_micros(50), 1_000, [9; 32], Nanos::ZERO);
        let now = Nanos::from_millis(101);
        for i in 0..150 {
            c.push_real(now, i).expect("room");
            c.push_cover(now, i);
        }
        let mut at = now;
        let (mut real, mut departures) = (Vec::new(), Vec::new());
        while let Some(t) = c.poll_timeout() {
            at = at.max(t);
            while let Some((when, what)) = c.poll(at) {
                departures.push(when);
                if let Waiting::Real(i) = what {
                    real.push(i);
                }
            }
        }
        assert!(real.is_sorted() && real.len() == 150);
        assert_eq!(departures.len(), 300);
        assert!(departures[0] > now && departures[0] <= now + tick);
        assert!(
            departures
                .windows(2)
                .all(|w| w[1] >= w[0] + Nanos::from_micros(50))
        );
        // 100 places a tick.
        assert!(departures[299] < departures[0] + tick.times(3));
        assert!(c.is_empty());
    }

    #[test]
    fn without_spacing_all_that_waits_leaves_at_the_tick() {
        let tick = Nanos::from_millis(5);
        let mut c: ReleaseClock<u32, u32> =
            ReleaseClock::new(tick, Nanos::ZERO, 1_000, [4; 32], Nanos::ZERO);
        let now = Nanos::from_millis(77);
        for i in 0..900 {
            c.push_real(now, i).expect("room");
        }
        c.push_cover(now, 0);
        let at = c.poll_timeout().expect("something waits");
        assert_eq!(at, c.tick_after(now));
        assert!(c.poll(Nanos(at.0 - 1)).is_none());
        let mut left = 0;
        while let Some((when, _)) = c.poll(at) {
            assert_eq!(when, at);
            left += 1;
            if left == 10 {
                // What comes while a tick is served waits for the next.
                c.push_real(at, 900).expect("room");
            }
        }
        assert_eq!((left, c.len()), (901, 1));
        assert_eq!(c.poll_timeout(), Some(at + tick));
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

        #[test]
        fn nothing_waits_longer_than_a_tick_when_there_is_room(
            arrivals in proptest::collection::vec((0u64..20_000_000, any::<bool>()), 1..50),
            tick in 100_000u64..20_000_000,
            seed: [u8; 32],
        ) {
            let mut arrivals = arrivals;
            arrivals.sort_unstable();
            let (tick, spacing) = (Nanos(tick), Nanos(1_000));
            let mut c: ReleaseClock<Nanos, Nanos> = ReleaseClock::new(tick, spacing, 64, seed, Nanos::ZERO);
            let mut left = 0;
            let mut check = |c: &mut ReleaseClock<Nanos, Nanos>, now: Nanos| {
                while let Some((at, what)) = c.poll(now) {
                    let (Waiting::Real(came) | Waiting::Cover(came)) = what;
                    assert!(at >= came && at <= came + tick + tick, "{came:?} {at:?} {tick:?}");
                    left += 1;
                }
            };
            for (at, is_real) in &arrivals {
                let at = Nanos(*at);
                check(&mut c, at);
                if *is_real {
                    prop_assert!(c.push_real(at, at).is_ok());
                } else {
                    c.push_cover(at, at);
                }
            }
            check(&mut c, Nanos::from_secs(10));
            prop_assert_eq!(left, arrivals.len());
        }
    }
}
