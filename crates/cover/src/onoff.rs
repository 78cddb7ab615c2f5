//! iPET's three simple baselines as purely additive cover: nothing real is delayed or dropped.
//!
//! All three switch on and off. While off, each slot begins a period with probability `start_probability`; a period
//! has a fixed length and a quota of payload bytes, which it spends on dummies of one size in both directions.

use crate::{CoverError, Demand, Generator, Window};
use chaff_abi::{Dir, Nanos};
use rand::{Rng, RngCore};

/// Slots of a block. A block begins in the stationary state of the switching (elapsed part of a period included), so blocks need
/// nothing from each other; what that loses is that a period which runs over the edge of a block is drawn anew there.
const BLOCK: usize = 200;

/// Largest quota of a period, bytes; bounds the work of a block.
const MAX_QUOTA: f64 = 67_108_864.0;

/// A fixed quota, spent at equal distances, directions in turn.
///
/// With the defaults a device gets 20 dummies of 500 B per active second, active 73 % of the time: 7.3 kB/s of payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Length of a slot, default 100 ms.
    pub slot: Nanos,
    /// Length of a period, default 1 s; at least one slot.
    pub period: Nanos,
    /// Payload rate of both directions together while active, bytes/s, default 10,000.
    pub bytes_per_second: f64,
    /// Chance that an idle slot begins a period, default 0.2112; 1 is always on, 0 never.
    pub start_probability: f64,
    /// Payload of a dummy, bytes, default 500; the last one of a period is what is left.
    pub payload: u16,
    /// Share of the dummies that go out from the device, default 0.5.
    pub out_share: f64,
}

impl Default for Constant {
    fn default() -> Self {
        Self {
            slot: Nanos::from_millis(100),
            period: Nanos::from_secs(1),
            bytes_per_second: 10_000.0,
            start_probability: 0.2112,
            payload: 500,
            out_share: 0.5,
        }
    }
}

impl Generator for Constant {
    fn slot(&self) -> Nanos {
        self.slot
    }

    fn rows(&self) -> usize {
        BLOCK
    }

    fn fill(
        &mut self,
        _past: &Window,
        rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError> {
        let quota = self.bytes_per_second * self.period.as_secs_f64();
        in_range(
            "bytes_per_second * period",
            quota,
            0.0..=MAX_QUOTA,
            "0 to 64 MiB",
        )?;
        let switch = Switch::new(
            self.slot,
            self.period,
            self.start_probability,
            self.payload,
            self.out_share,
        )?;
        switch.fill(rng, out, Spread::Even, &mut |_| quota);
        Ok(())
    }

    fn name(&self) -> &str {
        "constant"
    }
}

/// A normally distributed quota, spent at random instants and in random directions.
///
/// With the defaults: |N(12,500, 4)| bytes each 5 s, i.e. 2.5 kB/s of payload in 25 dummies, almost without pauses.
#[derive(Clone, Debug, PartialEq)]
pub struct Random {
    /// Length of a slot, default 100 ms.
    pub slot: Nanos,
    /// Length of a period, default 5 s; at least one slot.
    pub period: Nanos,
    /// Mean of a period's quota, payload bytes of both directions, default 12,500.
    pub mean_bytes: f64,
    /// Its standard deviation, bytes, default 4; the absolute value of what is drawn counts.
    pub sigma_bytes: f64,
    /// Chance that an idle slot begins a period, default 0.5.
    pub start_probability: f64,
    /// Payload of a dummy, bytes, default 500; the last one of a period is what is left.
    pub payload: u16,
    /// Chance of a dummy to go out from the device, default 0.5.
    pub out_share: f64,
}

impl Default for Random {
    fn default() -> Self {
        Self {
            slot: Nanos::from_millis(100),
            period: Nanos::from_secs(5),
            mean_bytes: 12_500.0,
            sigma_bytes: 4.0,
            start_probability: 0.5,
            payload: 500,
            out_share: 0.5,
        }
    }
}

impl Random {
    fn fill_with(
        &self,
        mean: f64,
        rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError> {
        in_range("mean_bytes", mean, 0.0..=MAX_QUOTA, "0 to 64 MiB")?;
        in_range(
            "sigma_bytes",
            self.sigma_bytes,
            0.0..=MAX_QUOTA,
            "0 to 64 MiB",
        )?;
        let switch = Switch::new(
            self.slot,
            self.period,
            self.start_probability,
            self.payload,
            self.out_share,
        )?;
        let mut quota = |rng: &mut dyn RngCore| (mean + self.sigma_bytes * normal(rng)).abs();
        switch.fill(rng, out, Spread::Random, &mut quota);
        Ok(())
    }
}

impl Generator for Random {
    fn slot(&self) -> Nanos {
        self.slot
    }

    fn rows(&self) -> usize {
        BLOCK
    }

    fn fill(
        &mut self,
        _past: &Window,
        rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError> {
        self.fill_with(self.mean_bytes, rng, out)
    }

    fn name(&self) -> &str {
        "random"
    }
}

/// [`Random`] with a mean that is drawn once per run and device, and a wide spread around it.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomPlus {
    /// The parameters of the process; its `mean_bytes` is not used. Default as [`Random`], but sigma 10,000 bytes.
    pub random: Random,
    /// Smallest mean, bytes a period, default 5,000.
    pub mean_from: f64,
    /// Largest mean, bytes a period, default 40,000.
    pub mean_to: f64,
    /// The mean that was drawn; the middle before [`Generator::start`].
    drawn: Option<f64>,
}

impl RandomPlus {
    /// With means drawn uniformly from `mean_from..=mean_to` bytes a period.
    pub const fn new(random: Random, mean_from: f64, mean_to: f64) -> Self {
        Self {
            random,
            mean_from,
            mean_to,
            drawn: None,
        }
    }
}

impl Default for RandomPlus {
    fn default() -> Self {
        let random = Random {
            sigma_bytes: 10_000.0,
            ..Random::default()
        };
        Self::new(random, 5_000.0, 40_000.0)
    }
}

impl Generator for RandomPlus {
    fn slot(&self) -> Nanos {
        self.random.slot
    }

    fn rows(&self) -> usize {
        BLOCK
    }

    fn start(&mut self, rng: &mut dyn RngCore) {
        let u: f64 = rng.random();
        self.drawn = Some(self.mean_from + u * (self.mean_to - self.mean_from));
    }

    fn fill(
        &mut self,
        _past: &Window,
        rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError> {
        let middle = (self.mean_from + self.mean_to) / 2.0;
        self.random
            .fill_with(self.drawn.unwrap_or(middle), rng, out)
    }

    fn name(&self) -> &str {
        "random+"
    }
}

/// How a period's dummies lie in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spread {
    Even,
    Random,
}

/// The switching that the three have in common, parameters checked.
struct Switch {
    period_slots: usize,
    start_probability: f64,
    payload: u64,
    out_share: f64,
}

impl Switch {
    fn new(
        slot: Nanos,
        period: Nanos,
        start_probability: f64,
        payload: u16,
        out_share: f64,
    ) -> Result<Self, CoverError> {
        let slots = period.0.checked_div(slot.0).unwrap_or(0);
        in_range(
            "period / slot",
            slots as f64,
            1.0..=1e6,
            "1 to 1,000,000 slots",
        )?;
        in_range("start_probability", start_probability, 0.0..=1.0, "0 to 1")?;
        in_range(
            "payload",
            f64::from(payload),
            24.0..=65_507.0,
            "24 to 65,507 bytes",
        )?;
        in_range("out_share", out_share, 0.0..=1.0, "0 to 1")?;
        Ok(Self {
            // At most 10^6, see above.
            period_slots: slots as usize,
            start_probability,
            payload: u64::from(payload),
            out_share,
        })
    }

    fn fill(
        &self,
        rng: &mut dyn RngCore,
        out: &mut [Demand],
        spread: Spread,
        quota: &mut dyn FnMut(&mut dyn RngCore) -> f64,
    ) {
        out.fill(Demand::NONE);
        let mut at = 0;
        if rng.random_bool(self.active_share()) {
            let elapsed = rng.random_range(0..self.period_slots);
            self.period(rng, out, at, elapsed, spread, quota);
            at = self.period_slots - elapsed;
        }
        while at < out.len() {
            if rng.random_bool(self.start_probability) {
                self.period(rng, out, at, 0, spread, quota);
                at += self.period_slots;
            } else {
                at += 1;
            }
        }
    }

    /// Chance of a slot to lie in a period: a period and on average (1 - q) / q idle slots take turns.
    fn active_share(&self) -> f64 {
        let q = self.start_probability;
        if q == 0.0 {
            return 0.0;
        }
        let slots = self.period_slots as f64;
        slots / (slots + (1.0 - q) / q)
    }

    /// Writes a period that is `elapsed` slots old at slot `at`, as far as it lies inside `out`.
    fn period(
        &self,
        rng: &mut dyn RngCore,
        out: &mut [Demand],
        at: usize,
        elapsed: usize,
        spread: Spread,
        quota: &mut dyn FnMut(&mut dyn RngCore) -> f64,
    ) {
        let bytes = quota(rng).clamp(0.0, MAX_QUOTA).round() as u64;
        let count = bytes.div_ceil(self.payload);
        for k in 0..count {
            let (slot, outward) = match spread {
                Spread::Even => (
                    // Below period_slots.
                    (k * self.period_slots as u64 / count) as usize,
                    ((k + 1) as f64 * self.out_share).floor() > (k as f64 * self.out_share).floor(),
                ),
                Spread::Random => (
                    rng.random_range(0..self.period_slots),
                    rng.random_bool(self.out_share),
                ),
            };
            let dir = if outward { Dir::Out } else { Dir::In };
            let payload = self.payload.min(bytes - k * self.payload);
            if slot >= elapsed
                && let Some(demand) = out.get_mut(at + slot - elapsed)
            {
                // At most the payload, a u16.
                demand.add(dir, 1, payload as u32);
            }
        }
    }
}

pub(crate) fn in_range(
    name: &'static str,
    value: f64,
    range: std::ops::RangeInclusive<f64>,
    allowed: &'static str,
) -> Result<(), CoverError> {
    if range.contains(&value) {
        Ok(())
    } else {
        Err(CoverError::Parameter {
            name,
            value,
            allowed,
        })
    }
}

/// A standard normal number (Box and Muller).
fn normal(rng: &mut dyn RngCore) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn hours(g: &mut dyn Generator, seed: u64) -> Vec<Demand> {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        g.start(&mut rng);
        let mut all = vec![Demand::NONE; BLOCK * 500];
        for block in all.chunks_mut(BLOCK) {
            g.fill(&Window::new(1), &mut rng, block)
                .expect("defaults are valid");
        }
        all
    }

    /// Payload bytes per second of both directions, and the share that goes out.
    fn rate(all: &[Demand]) -> (f64, f64) {
        let sum = |i: usize| all.iter().map(|d| f64::from(d.bytes[i])).sum::<f64>();
        let (out, back) = (sum(0), sum(1));
        ((out + back) / (all.len() as f64 / 10.0), out / (out + back))
    }

    #[test]
    fn mean_rates_are_what_the_parameters_say() {
        let (constant, share) = rate(&hours(&mut Constant::default(), 1));
        // Active share 10 / (10 + 3.735) of 10 kB/s.
        assert!((constant - 7_281.0).abs() < 150.0, "{constant}");
        assert!((share - 0.5).abs() < 0.01, "{share}");
        let (random, share) = rate(&hours(&mut Random::default(), 2));
        // Active share 50 / 51 of 2.5 kB/s.
        assert!((random - 2_451.0).abs() < 30.0, "{random}");
        assert!((share - 0.5).abs() < 0.02, "{share}");
    }

    #[test]
    fn random_plus_draws_a_mean_per_run() {
        let rates: Vec<f64> = (0..20)
            .map(|seed| rate(&hours(&mut RandomPlus::default(), seed)).0)
            .collect();
        let (low, high) = rates
            .iter()
            .fold((f64::MAX, 0.0f64), |(l, h), r| (l.min(*r), h.max(*r)));
        // 5 to 40 kB in 5 s; the absolute value lifts the low end.
        assert!(
            low > 1_000.0 && low < 3_500.0 && high < 8_200.0 && high > 6_000.0,
            "{low} {high}"
        );
    }

    #[test]
    fn constant_slots_are_idle_or_equal() {
        let all = hours(&mut Constant::default(), 3);
        for d in &all {
            assert!(
                *d == Demand::NONE || (d.packets, d.bytes) == ([1, 1], [500, 500]),
                "{d:?}"
            );
        }
        let always = Constant {
            start_probability: 1.0,
            ..Constant::default()
        };
        assert!(
            hours(&mut always.clone(), 3)
                .iter()
                .all(|d| d.packets == [1, 1])
        );
        let never = Constant {
            start_probability: 0.0,
            ..always
        };
        assert!(
            hours(&mut never.clone(), 3)
                .iter()
                .all(|d| *d == Demand::NONE)
        );
    }

    #[test]
    fn a_quota_is_spent_to_the_byte() {
        let mut g = Constant {
            period: Nanos::from_secs(20),
            bytes_per_second: 1_234.0 / 20.0,
            start_probability: 1.0,
            ..Constant::default()
        };
        // Blocks may begin inside a period; over two whole periods the sum does not depend on where.
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut out = vec![Demand::NONE; 800];
        g.fill(&Window::new(1), &mut rng, &mut out).expect("valid");
        let bytes: u32 = out[200..600].iter().map(|d| d.bytes[0] + d.bytes[1]).sum();
        assert_eq!(bytes, 2 * 1_234);
    }

    #[test]
    fn parameters_out_of_range_are_errors() {
        let mut out = [Demand::NONE; 1];
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let bad: [Constant; 5] = [
            Constant {
                slot: Nanos::ZERO,
                ..Constant::default()
            },
            Constant {
                period: Nanos::from_millis(50),
                ..Constant::default()
            },
            Constant {
                start_probability: f64::NAN,
                ..Constant::default()
            },
            Constant {
                payload: 3,
                ..Constant::default()
            },
            Constant {
                bytes_per_second: 1e12,
                ..Constant::default()
            },
        ];
        for mut g in bad {
            let got = g.fill(&Window::new(1), &mut rng, &mut out);
            assert!(matches!(got, Err(CoverError::Parameter { .. })), "{g:?}");
        }
    }
}
