//! The data path: the meter in the kernel, loaded, attached, read and removed.
//!
//! Start at [`Meter::load`]. Real packets never leave the kernel; what comes here are sums per flow
//! ([`Meter::drain`]), single packets for which the flow map had no room ([`Meter::poll_records`]), counts per device
//! and slot ([`SlotView`], shared memory), and counts by [`chaff_abi::Reason`] that make every frame accountable:
//! seen = flow + ring + lost + not IP + malformed.
//!
//! ```no_run
//! use chaff_abi::MeterConfig;
//! use chaff_gateway::datapath::{Meter, MeterOptions};
//! let mut meter = Meter::load(&MeterOptions { lan: vec!["lan0".into()], ..MeterOptions::default() })?;
//! let report = meter.drain(|key, value| println!("{key:?} {}", value.counters[0].packets))?;
//! println!("{} flows in {} ns", report.flows, report.took.0);
//! meter.detach()?;
//! # Ok::<(), chaff_gateway::datapath::MeterError>(())
//! ```
//!
//! Loading needs root or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and Linux 5.15 (tcx links: 6.6). Everything after it,
//! clean removal included, works for user `nobody` without any capability (Linux 5.19; before that the kernel refuses
//! map calls without CAP_BPF where `unprivileged_bpf_disabled` is set).
//!
//! With a pin directory the programs stay attached and go on counting when the process dies; the next
//! [`Meter::load`] swaps the programs atomically and continues with the same maps. It does not send, drop or change
//! packets.

mod attach;
mod drain;
mod error;
mod meter;
mod options;
mod pins;
mod slots;
pub(crate) mod sys;

pub use attach::HookInUse;
pub use drain::{DrainMethod, DrainReport};
pub use error::MeterError;
pub(crate) use error::os_code;
pub use meter::{Meter, ReasonCounts};
pub use options::{HintOptions, Hook, MeterOptions};
pub use slots::SlotView;

use chaff_abi::Nanos;
use chaff_sys::clock::{boottime, monotonic, unix};

/// Three clocks read back to back, so that steps of the wall clock and suspended time become visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockTriple {
    /// CLOCK_MONOTONIC: stands still while the machine sleeps.
    pub monotonic: Nanos,
    /// CLOCK_BOOTTIME: goes on while the machine sleeps.
    pub boottime: Nanos,
    /// CLOCK_REALTIME: Unix time; steps when it is set.
    pub realtime: Nanos,
}

impl ClockTriple {
    /// Converts a time on the monotonic clock to Unix time, as of when this was read.
    pub fn unix(&self, at: Nanos) -> Nanos {
        if at >= self.monotonic {
            self.realtime + at.since(self.monotonic)
        } else {
            self.realtime.since(self.monotonic.since(at))
        }
    }
}

/// Reads the three clocks.
pub fn clock_triple() -> ClockTriple {
    ClockTriple {
        monotonic: monotonic(),
        boottime: boottime(),
        realtime: unix(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_monotonic_times_before_and_after_the_reading() {
        let t = ClockTriple {
            monotonic: Nanos(1_000),
            boottime: Nanos(1_500),
            realtime: Nanos(50_000),
        };
        assert_eq!(t.unix(Nanos(1_200)), Nanos(50_200));
        assert_eq!(t.unix(Nanos(900)), Nanos(49_900));
    }
}
