//! What the gateway tells its driver.

use chaff_abi::{Mac, Nanos, SlotCounters};
use chaff_cover::Demand;
use chaff_flow::Record;
use chaff_privacy::Released;
use serde::Serialize;

use crate::alert::Alert;

/// Something the driver may want to write down. All of it names devices and stays on the gateway: what may leave is a
/// [`Telemetry`], from [`crate::Gateway::poll_release`].
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

/// Noisy totals of one device over one period.
#[derive(Debug, Serialize)]
pub struct Telemetry {
    /// Number of the period since the gateway's start.
    pub period: u64,
    /// Length of the period, seconds.
    pub period_s: f64,
    /// Stands for the device: a number, never an address or a name.
    pub device: u32,
    /// IP bytes from and to the device.
    pub bytes: Released<f64>,
}
