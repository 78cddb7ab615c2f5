use chaff_abi::Nanos;

/// Lets bytes through at a mean rate with a bounded burst. Exact: no rounding accumulates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    rate: u64,
    burst: u128,
    /// Byte-nanoseconds: bytes times 10^9.
    level: u128,
    last: Option<Nanos>,
}

const UNIT: u128 = 1_000_000_000;

impl TokenBucket {
    /// A full bucket of `burst_bytes` that fills at `bytes_per_second`. What is larger than the burst never passes.
    pub const fn new(bytes_per_second: u64, burst_bytes: u64) -> Self {
        let burst = burst_bytes as u128 * UNIT;
        Self {
            rate: bytes_per_second,
            burst,
            level: burst,
            last: None,
        }
    }

    /// Takes `bytes` at `now`, or takes nothing and returns `false`. Time that goes back counts as standing still.
    pub fn take(&mut self, now: Nanos, bytes: u64) -> bool {
        self.fill(now);
        let want = u128::from(bytes) * UNIT;
        let enough = want <= self.level;
        if enough {
            self.level -= want;
        }
        enough
    }

    /// Whole bytes that could be taken at `now`.
    pub fn available(&mut self, now: Nanos) -> u64 {
        self.fill(now);
        // level <= burst, which was a u64 of bytes.
        (self.level / UNIT) as u64
    }

    fn fill(&mut self, now: Nanos) {
        let last = self.last.unwrap_or(now);
        let gained = u128::from(now.since(last).0) * u128::from(self.rate);
        self.level = (self.level + gained).min(self.burst);
        self.last = Some(last.max(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_the_burst_then_the_rate_and_no_byte_more() {
        let mut b = TokenBucket::new(1_000, 500);
        let t = Nanos::from_secs(9);
        assert!(b.take(t, 500));
        assert!(!b.take(t, 1));
        assert!(!b.take(t + Nanos(999_999), 1));
        assert!(b.take(t + Nanos::from_millis(1), 1));
        assert_eq!(b.available(t + Nanos::from_secs(60)), 500);
        assert!(!b.take(t + Nanos::from_secs(60), 501));
        // Back in time: as if it stood still.
        assert!(b.take(t, 500));
        assert!(!b.take(t + Nanos::from_secs(59), 1));
    }

    #[test]
    fn many_small_steps_gain_what_one_large_step_gains() {
        let mut b = TokenBucket::new(3, 1_000_000);
        assert!(b.take(Nanos::ZERO, 1_000_000));
        for i in 0..1_000_000u64 {
            b.available(Nanos(i * 7_001));
        }
        // 3 B/s for 1000 s.
        assert_eq!(b.available(Nanos::from_secs(1_000)), 3_000);
    }
}
