//! A clock on whose ticks everything leaves.

use chaff_abi::Nanos;
use rand::Rng;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    proptest! {
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
