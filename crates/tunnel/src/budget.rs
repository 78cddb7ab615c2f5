//! What cover may cost: a rate with a burst, and bytes per calendar month.

use chaff_abi::Nanos;
use chaff_cover::TokenBucket;

/// Budget of a tunnel's own cover.
#[derive(Debug)]
pub(crate) struct Budget {
    bucket: TokenBucket,
    month: Option<MonthBudget>,
}

/// Cover bytes of a calendar month (UTC), for uplinks with a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonthBudget {
    /// Most bytes.
    pub cap: u64,
    /// Bytes used so far.
    pub used: u64,
    /// The month, counted from January 1970.
    pub month: u32,
}

impl MonthBudget {
    /// Bytes per second that are left of it until its end.
    pub fn left_per_second(&self, unix: Nanos) -> f64 {
        const DAY: u64 = 86_400;
        let seconds = unix.0 / 1_000_000_000;
        let mut days = seconds / DAY + 1;
        while month_of(Nanos::from_secs(days * DAY)) <= self.month {
            days += 1;
        }
        let left = (days * DAY).saturating_sub(seconds).max(1);
        self.cap.saturating_sub(self.used) as f64 / left as f64
    }

    /// Begins a new month when `unix` is not in this one. A clock that goes back changes nothing.
    pub fn turn(&mut self, unix: Nanos) {
        let now = month_of(unix);
        if now > self.month {
            self.month = now;
            self.used = 0;
        }
    }
}

/// The calendar month of a Unix time, counted from January 1970.
///
/// Days to date after the Gregorian calendar's 400-year cycle of 146,097 days, years beginning in March.
pub fn month_of(unix: Nanos) -> u32 {
    let days = unix.0 / 1_000_000_000 / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let months = (era * 400 + year) * 12 + march + 2;
    // Nanos end in the year 2554.
    (months - 1_970 * 12) as u32
}

impl Budget {
    pub(crate) fn new(rate: u64, burst: u64) -> Self {
        Self {
            bucket: TokenBucket::new(rate, burst),
            month: None,
        }
    }

    pub(crate) fn set_month(&mut self, month: Option<MonthBudget>) {
        self.month = month;
    }

    pub(crate) fn month(&self) -> Option<MonthBudget> {
        self.month
    }

    pub(crate) fn turn(&mut self, unix: Nanos) {
        if let Some(m) = &mut self.month {
            m.turn(unix);
        }
    }

    /// Takes the price of a dummy, or says which limit refuses.
    pub(crate) fn take(&mut self, now: Nanos, bytes: usize) -> Result<(), &'static str> {
        let bytes = bytes as u64;
        if self.month.is_some_and(|m| m.used + bytes > m.cap) {
            return Err("month");
        }
        if !self.bucket.take(now, bytes) {
            return Err("budget");
        }
        if let Some(m) = &mut self.month {
            m.used += bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_turn_at_their_first_day() {
        let day = |d: u64| Nanos::from_secs(d * 86_400);
        assert_eq!(month_of(Nanos::ZERO), 0);
        assert_eq!((month_of(day(30)), month_of(day(31))), (0, 1));
        // 29 February 2000 is day 11,016, 1 March the next.
        assert_eq!((month_of(day(11_016)), month_of(day(11_017))), (361, 362));
        // 1 January 2026 is day 20,454.
        assert_eq!(month_of(day(20_454)), 56 * 12);
        assert_eq!(month_of(day(20_453)), 56 * 12 - 1);
    }

    #[test]
    fn what_is_left_lasts_until_the_end_of_the_month() {
        let m = MonthBudget {
            cap: 1_000_000,
            used: 136_000,
            month: 1,
        };
        // Ten days before the end of February 1970.
        let rate = m.left_per_second(Nanos::from_secs((31 + 18) * 86_400));
        assert!((rate - 1.0).abs() < 1e-9, "{rate}");
        // A clock behind the budget's month counts until its end all the same.
        assert!(m.left_per_second(Nanos::ZERO) < rate);
    }

    #[test]
    fn a_used_up_month_passes_nothing_until_the_next() {
        let mut b = Budget::new(1_000_000, 1_000_000);
        b.set_month(Some(MonthBudget {
            cap: 1_000,
            used: 0,
            month: 0,
        }));
        assert_eq!(b.take(Nanos::ZERO, 900), Ok(()));
        assert_eq!(b.take(Nanos::ZERO, 200), Err("month"));
        b.turn(Nanos::from_secs(40 * 86_400));
        assert_eq!(b.take(Nanos::ZERO, 200), Ok(()));
        b.turn(Nanos::ZERO);
        assert_eq!(b.month().map(|m| (m.used, m.month)), Some((200, 1)));
    }
}
