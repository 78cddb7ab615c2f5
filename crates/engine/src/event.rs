//! What the gateway tells its driver.

use chaff_abi::{Mac, Nanos, SlotCounters};
use chaff_cover::Demand;
use chaff_flow::Record;
use serde::Serialize;

use crate::alert::Alert;

/// Something the driver may want to write down. All of it names devices and stays on the gateway: what may leave comes from
/// [`crate::Gateway::poll_release`].
#[derive(Debug)]
pub enum Event {
    /// A flow ended.
    Flow(Box<Record>),
    /// A slot of one device is over. Emitted for slots in which something happened.
    Slot(Box<SlotTotals>),
    /// A device did something new.
    Alert(Box<Alert>),
    /// A device that no configuration names was seen for the first time.
    NewDevice(Mac),
}

/// Real and planned cover traffic of one device in one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTotals {
    /// Slot number since the gateway's start.
    pub slot: u64,
    /// Index of the device, 0 for all unlisted ones.
    pub device: u32,
    /// What the device really sent and received, and cover counted by the kernel.
    pub real: SlotCounters,
    /// Cover planned for the slot: UDP payload.
    pub cover: Demand,
}

/// Seconds with nanosecond digits, as JSON number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Nanos);

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(self.0.as_secs_f64())
    }
}
