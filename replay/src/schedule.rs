//! When each packet is due, as plain arithmetic.
use chaff_abi::Nanos;

/// How send times are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pacing {
    /// The capture's own times divided by `speed` (1.0 is real time, 2.0 twice as fast).
    Capture {
        /// Factor, above 0.
        speed: f64,
    },
    /// Equal distances, this many packets per second.
    PacketsPerSecond(f64),
    /// Distances that give this many bits per second, frame bytes counted (no FCS, preamble, gap).
    BitsPerSecond(f64),
    /// As fast as the kernel takes them.
    Top,
}

/// Send times of one loop, and the distance between loops.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// Per packet, since the loop's start. Never decreasing.
    pub due: Vec<Nanos>,
    /// From one loop's start to the next one's, ns. A fraction, so that many loops do not drift.
    pub period: f64,
    /// Packets whose capture time was before that of the packet ahead of them; they count as simultaneous.
    pub clamped: u64,
}

impl Timeline {
    /// Makes the send times of packets `(capture time, frame bytes)` given in sending order.
    ///
    /// With [`Pacing::Capture`] the period is the last send time plus the mean distance, so that the last packet of
    /// one loop and the first of the next do not coincide; a single packet repeats without a distance.
    pub fn new(pacing: Pacing, packets: impl IntoIterator<Item = (Nanos, usize)>) -> Self {
        let mut due = Vec::new();
        let mut clamped = 0;
        let mut first = None;
        let mut latest = Nanos::ZERO;
        let mut bits = 0.0f64;
        for (n, (at, len)) in packets.into_iter().enumerate() {
            let first = *first.get_or_insert(at);
            if at < latest {
                clamped += 1;
            }
            latest = latest.max(at);
            due.push(match pacing {
                Pacing::Capture { speed } => scaled(latest - first, speed),
                Pacing::PacketsPerSecond(pps) => Nanos((n as f64 * 1e9 / pps) as u64),
                Pacing::BitsPerSecond(bps) => Nanos((bits * 1e9 / bps) as u64),
                Pacing::Top => Nanos::ZERO,
            });
            bits += len as f64 * 8.0;
        }
        let last = due.last().copied().unwrap_or_default().0 as f64;
        let period = match pacing {
            Pacing::Capture { .. } if due.len() > 1 => last + last / (due.len() - 1) as f64,
            Pacing::Capture { .. } | Pacing::Top => 0.0,
            Pacing::PacketsPerSecond(pps) => due.len() as f64 * 1e9 / pps,
            Pacing::BitsPerSecond(bps) => bits * 1e9 / bps,
        };
        Self {
            due,
            period,
            clamped,
        }
    }
}

fn scaled(t: Nanos, speed: f64) -> Nanos {
    if speed == 1.0 {
        t
    } else {
        Nanos((t.0 as f64 / speed) as u64)
    }
}

/// When loop number `n` (from 0) starts: exact to 1 ns for 100 days.
pub fn loop_start(start: Nanos, period: f64, n: u64) -> Nanos {
    start + Nanos((n as f64 * period) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ms: &[u64]) -> Vec<(Nanos, usize)> {
        ms.iter().map(|&t| (Nanos::from_millis(t), 125)).collect()
    }

    fn due_ms(t: &Timeline) -> Vec<u64> {
        t.due.iter().map(|d| d.as_millis()).collect()
    }

    #[test]
    fn capture_times_start_at_zero_and_scale() {
        let t = Timeline::new(Pacing::Capture { speed: 1.0 }, times(&[1000, 1002, 1010]));
        assert_eq!(due_ms(&t), [0, 2, 10]);
        let t = Timeline::new(Pacing::Capture { speed: 0.5 }, times(&[1000, 1002, 1010]));
        assert_eq!(due_ms(&t), [0, 4, 20]);
    }

    #[test]
    fn keeps_nanoseconds_at_real_time() {
        let at = [
            Nanos(1_600_000_000_000_000_001),
            Nanos(1_600_000_000_000_000_008),
        ];
        let t = Timeline::new(Pacing::Capture { speed: 1.0 }, at.map(|a| (a, 60)));
        assert_eq!(t.due, [Nanos(0), Nanos(7)]);
    }

    #[test]
    fn times_going_backwards_are_clamped_and_counted() {
        let t = Timeline::new(Pacing::Capture { speed: 1.0 }, times(&[10, 30, 20, 25, 40]));
        assert_eq!(due_ms(&t), [0, 20, 20, 20, 30]);
        assert_eq!(t.clamped, 2);
    }

    #[test]
    fn packet_rate_does_not_drift_over_many_loops() {
        let t = Timeline::new(Pacing::PacketsPerSecond(3.0), times(&[0, 0, 0, 0, 0, 0, 0]));
        let last = loop_start(Nanos::ZERO, t.period, 1_000_000) + t.due[6];
        let want = (7_000_006.0 * 1e9 / 3.0) as u64;
        assert!(last.0.abs_diff(want) <= 2, "{} vs {want}", last.0);
    }

    #[test]
    fn bit_rate_counts_the_bits_before_a_packet() {
        let t = Timeline::new(Pacing::BitsPerSecond(1e6), times(&[0, 0, 0]));
        assert_eq!(due_ms(&t), [0, 1, 2]);
        assert_eq!(t.period, 3e6);
    }

    #[test]
    fn loops_keep_a_mean_distance_between_them() {
        let t = Timeline::new(Pacing::Capture { speed: 1.0 }, times(&[0, 5, 10]));
        assert_eq!(t.period, 15e6);
        let one = Timeline::new(Pacing::Capture { speed: 1.0 }, times(&[7]));
        assert_eq!((one.period, one.due[0]), (0.0, Nanos::ZERO));
    }

    #[test]
    fn empty_input_makes_an_empty_timeline() {
        let t = Timeline::new(Pacing::Top, times(&[]));
        assert!(t.due.is_empty());
    }
}
