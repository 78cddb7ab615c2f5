use chaff_abi::Nanos;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A link between two ports, the same in both directions.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Propagation delay.
    pub delay: Nanos,
    /// Line rate in bytes per second; `None` is infinite.
    pub bytes_per_second: Option<u64>,
    /// Share of frames lost, 0 to 1.
    pub loss: f64,
    /// Bytes that may wait for the line; more are dropped. Only matters with a line rate.
    pub queue_bytes: u64,
}

impl Default for Link {
    /// Infinitely fast and without loss.
    fn default() -> Self {
        Self {
            delay: Nanos::ZERO,
            bytes_per_second: None,
            loss: 0.0,
            queue_bytes: 256 * 1024,
        }
    }
}

/// What a link does to a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives(Nanos),
    Lost,
    QueueFull,
}

/// State of one direction of a link.
pub(crate) struct Direction {
    rng: ChaCha8Rng,
    busy_until: Nanos,
}

impl Direction {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self {
            rng,
            busy_until: Nanos::ZERO,
        }
    }

    pub(crate) fn fate(&mut self, now: Nanos, bytes: usize, link: &Link) -> Fate {
        if link.loss > 0.0 && self.rng.random::<f64>() < link.loss {
            return Fate::Lost;
        }
        let Some(rate) = link.bytes_per_second.filter(|r| *r > 0) else {
            return Fate::Arrives(now + link.delay);
        };
        let waiting = self.busy_until.since(now);
        let waiting_bytes = u128::from(waiting.0) * u128::from(rate) / 1_000_000_000;
        if waiting_bytes > u128::from(link.queue_bytes) {
            return Fate::QueueFull;
        }
        let sending = u128::from(bytes as u64) * 1_000_000_000 / u128::from(rate);
        self.busy_until =
            now.max(self.busy_until) + Nanos(u64::try_from(sending).unwrap_or(u64::MAX));
        Fate::Arrives(self.busy_until + link.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_line_queues_then_drops() {
        let link = Link {
            bytes_per_second: Some(1_000_000),
            queue_bytes: 2_000,
            ..Link::default()
        };
        let mut d = Direction::new(1, 0);
        let fates: Vec<Fate> = (0..5).map(|_| d.fate(Nanos::ZERO, 1_000, &link)).collect();
        let at = |ms| Fate::Arrives(Nanos::from_millis(ms));
        assert_eq!(
            fates,
            vec![at(1), at(2), at(3), Fate::QueueFull, Fate::QueueFull]
        );
    }

    #[test]
    fn loses_the_stated_share_and_the_same_frames_each_time() {
        let link = Link {
            loss: 0.25,
            ..Link::default()
        };
        let run = || {
            let mut d = Direction::new(9, 3);
            (0..10_000)
                .map(|_| d.fate(Nanos::ZERO, 60, &link) == Fate::Lost)
                .collect::<Vec<_>>()
        };
        let lost = run().iter().filter(|l| **l).count();
        assert!((2_300..2_700).contains(&lost), "{lost}");
        assert_eq!(run(), run());
    }
}
