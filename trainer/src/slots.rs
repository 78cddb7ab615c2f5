//! Cover that is asked for slot by slot, beside a session.

use anyhow::Result;
use chaff_abi::{Nanos, SlotCounters};
use chaff_cover::{
    CoverError, Demand, Generator, Limits, Mode, Scheduler, SchedulerConfig, Window,
};
use rand::RngCore;

use crate::defend::{dummy, merge};
use crate::traces::{Seen, Trace};

/// Slots of real traffic that a generator can look at, as many as the gateway keeps.
const PAST: usize = 40;

/// Demands of a table, in order, from a random row.
pub(crate) struct Rows {
    rows: Vec<Demand>,
    next: usize,
}

impl Rows {
    pub(crate) fn of(rows: &[Demand]) -> Self {
        Self {
            rows: rows.to_vec(),
            next: 0,
        }
    }
}

impl Generator for Rows {
    fn slot(&self) -> Nanos {
        Nanos::from_millis(100)
    }

    fn start(&mut self, rng: &mut dyn RngCore) {
        self.next = crate::network::below(rng, self.rows.len());
    }

    fn fill(
        &mut self,
        _past: &Window,
        _rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError> {
        for d in out {
            *d = self.rows[self.next % self.rows.len()];
            self.next += 1;
        }
        Ok(())
    }

    fn name(&self) -> &str {
        "rows"
    }
}

/// A generator with more or fewer packets than it asks for, of the same sizes.
pub(crate) struct Scaled {
    inner: Box<dyn Generator>,
    scale: f64,
}

impl Scaled {
    pub(crate) fn of(inner: Box<dyn Generator>, scale: f64) -> Box<dyn Generator> {
        if scale == 1.0 {
            return inner;
        }
        Box::new(Self { inner, scale })
    }
}

impl Generator for Scaled {
    fn slot(&self) -> Nanos {
        self.inner.slot()
    }

    fn rows(&self) -> usize {
        self.inner.rows()
    }

    fn start(&mut self, rng: &mut dyn RngCore) {
        self.inner.start(rng);
    }

    fn seek(&mut self, slot: u64) {
        self.inner.seek(slot);
    }

    fn fill(
        &mut self,
        past: &Window,
        rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError> {
        self.inner.fill(past, rng, out)?;
        for (packets, bytes) in out
            .iter_mut()
            .flat_map(|d| d.packets.iter_mut().zip(&mut d.bytes))
        {
            let asked = *packets;
            // Rounded up or down at random, so that the mean is exact.
            let wanted = f64::from(asked) * self.scale + crate::network::unit(rng);
            *packets = wanted as u32;
            let bytes_of_one = f64::from(*bytes) / f64::from(asked.max(1));
            *bytes = (bytes_of_one * f64::from(*packets)).round() as u32;
        }
        Ok(())
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn sizes(&self) -> &[u16] {
        self.inner.sizes()
    }

    fn mask(&self) -> Option<chaff_cover::Mask> {
        self.inner.mask()
    }
}

/// Runs a generator of slots beside a session, always on or as its mask says, until `end` (or longer with a mask).
///
/// # Errors
/// When the generator fails, and for times past the end of the clock.
pub(crate) fn slots(
    trace: &Trace,
    end: Nanos,
    generator: Box<dyn Generator>,
    rng: &mut dyn RngCore,
) -> Result<Vec<Seen>> {
    let config = SchedulerConfig {
        label: trace.label.clone(),
        limits: Limits {
            min_payload: 1,
            ..Limits::default()
        },
        mode: Mode::Always,
        ..SchedulerConfig::default()
    };
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    // Nearly all cover that goes on after the device has ended by then.
    let tail = generator.mask().map_or(Nanos::ZERO, |m| m.hold.times(5));
    let end = end + tail;
    let mut scheduler = Scheduler::new(config, generator, seed, Nanos::ZERO);
    let mut past = Window::new(PAST);
    let (mut planned, mut cover) = (Vec::new(), Vec::new());
    let mut real = trace.packets.iter().peekable();
    for slot in 0..=scheduler.slot_at(end) {
        scheduler.plan(slot, &past, &mut planned)?;
        let next = scheduler.slot_start(slot + 1)?;
        let mut counters = SlotCounters::default();
        while let Some(p) = real.next_if(|p| p.at < next) {
            let d = p.dir.index();
            counters.packets[d] += 1;
            counters.bytes[d] += u64::from(p.size);
            counters.payload[d] += u64::from(p.payload);
        }
        past.push(counters);
        let seen = |d: chaff_cover::Dummy| dummy(d.at, d.dir, d.payload.into());
        cover.extend(planned.drain(..).map(seen).filter(|p| p.at <= end));
    }
    Ok(merge(&trace.packets, cover))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn scaled_cover_has_that_multiple_of_packets_of_the_same_size() {
        let row = Demand {
            packets: [2, 1],
            bytes: [100, 70],
        };
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        for scale in [0.25, 3.0] {
            let mut g = Scaled::of(Box::new(Rows::of(&[row])), scale);
            let mut out = vec![Demand::NONE; 10_000];
            g.fill(&Window::new(1), &mut rng, &mut out).expect("fills");
            for (dir, (count, size)) in [(2.0, 50), (1.0, 70)].into_iter().enumerate() {
                let sum: u32 = out.iter().map(|d| d.packets[dir]).sum();
                assert!(out.iter().all(|d| d.bytes[dir] == size * d.packets[dir]));
                // The standard deviation of the sum of 10,000 roundings is at most 50.
                let off = f64::from(sum) - 10_000.0 * count * scale;
                assert!(off.abs() < 300.0, "{scale} {dir} {off}");
            }
        }
    }
}
