use crate::Placed;
use chaff_abi::{Dir, SlotCounters};

/// IPv4 and UDP header of a dummy, bytes.
pub const HEADERS_V4: u16 = 28;

/// IPv6 and UDP header of a dummy, bytes.
pub const HEADERS_V6: u16 = 48;

/// What cover costs in one direction, and what was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirOverhead {
    /// Dummies planned.
    pub packets: u64,
    /// Their UDP payload, bytes.
    pub payload_bytes: u64,
    /// Their IP length, bytes: payload plus the headers of [`crate::SchedulerConfig::header_bytes`].
    pub ip_bytes: u64,
    /// Payload bytes that no generator asked for: dummies have a smallest size.
    pub rounded_up_bytes: u64,
    /// Payload bytes asked for that did not fit into dummies of the largest size.
    pub cut_bytes: u64,
    /// Dummies left out because a slot has a largest number.
    pub capped_packets: u64,
    /// Dummies left out because the byte budget was used up.
    pub budget_packets: u64,
    /// IP bytes of those.
    pub budget_ip_bytes: u64,
    /// Real packets up to the last planned slot.
    pub real_packets: u64,
    /// Their IP length, bytes.
    pub real_ip_bytes: u64,
}

impl DirOverhead {
    pub(crate) fn note(&mut self, placed: &Placed) {
        self.rounded_up_bytes += placed.rounded_up;
        self.cut_bytes += placed.cut;
        self.capped_packets += u64::from(placed.capped);
    }

    pub(crate) fn sent(&mut self, payload: u64, ip: u64) {
        self.packets += 1;
        self.payload_bytes += payload;
        self.ip_bytes += ip;
    }

    pub(crate) fn dropped(&mut self, ip: u64) {
        self.budget_packets += 1;
        self.budget_ip_bytes += ip;
    }
}

/// What cover costs since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// By [`Dir`].
    pub by_dir: [DirOverhead; 2],
    /// Slots planned.
    pub slots: u64,
    /// Slots never asked for between two that were.
    pub skipped_slots: u64,
    /// Slots whose cover was left out because the device was silent ([`crate::Mode::Active`]).
    pub inactive_slots: u64,
}

impl Overhead {
    /// Dummies of both directions.
    pub fn packets(&self) -> u64 {
        self.by_dir.iter().map(|d| d.packets).sum()
    }

    /// IP bytes of the dummies of both directions.
    pub fn ip_bytes(&self) -> u64 {
        self.by_dir.iter().map(|d| d.ip_bytes).sum()
    }

    /// IP bytes of the real packets of both directions.
    pub fn real_ip_bytes(&self) -> u64 {
        self.by_dir.iter().map(|d| d.real_ip_bytes).sum()
    }

    /// Cover's IP bytes for each real one; `None` without real traffic.
    pub fn ratio(&self) -> Option<f64> {
        let real = self.real_ip_bytes();
        (real > 0).then(|| self.ip_bytes() as f64 / real as f64)
    }

    /// The same with the real traffic replaced by `total`, for the end of a run: the scheduler itself knows what the
    /// last planned slot's window said.
    #[must_use]
    pub fn with_real(mut self, total: &SlotCounters) -> Self {
        for dir in Dir::BOTH {
            let i = dir.index();
            self.by_dir[i].real_packets = total.packets[i];
            self.by_dir[i].real_ip_bytes = total.bytes[i];
        }
        self
    }
}
