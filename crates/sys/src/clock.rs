//! The kernel's clocks.

use chaff_abi::Nanos;

/// Time since some moment before the start; never goes back and stands still while the machine sleeps. The kernel's programs
/// use it too.
pub fn monotonic() -> Nanos {
    read(libc::CLOCK_MONOTONIC)
}

/// As [`monotonic`], but goes on while the machine sleeps.
pub fn boottime() -> Nanos {
    read(libc::CLOCK_BOOTTIME)
}

/// Time since the Unix epoch; steps when it is set.
pub fn unix() -> Nanos {
    read(libc::CLOCK_REALTIME)
}

fn read(id: libc::clockid_t) -> Nanos {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec, which is on this stack frame; these clocks exist on every kernel that Chaff runs on.
    unsafe { libc::clock_gettime(id, &raw mut t) };
    Nanos::from_secs(t.tv_sec as u64) + Nanos(t.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_forward_from_where_they_are() {
        let (a, b) = (monotonic(), monotonic());
        assert!(a <= b && b <= boottime() + Nanos::from_millis(1));
        // After Chaff was written.
        assert!(unix() > Nanos::from_secs(1_700_000_000));
    }
}
