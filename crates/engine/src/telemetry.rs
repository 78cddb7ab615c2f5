//! Private telemetry: what listed devices do, as metrics of [`chaff_privacy::telemetry`].
//!
//! Cover is never in it: slots hold the real counts apart, and flows of cover belong to no device. Unlisted devices are not in
//! it either, because what one of them adds could not be bounded.

use chaff_privacy::telemetry::{Book, Exporter, Published, Unreleased};

/// A thing that is counted by device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// IP bytes from and to the device.
    Bytes,
    /// IP bytes from the device.
    BytesOut,
    /// IP bytes to the device.
    BytesIn,
    /// Packets from and to the device.
    Packets,
    /// Flows that ended.
    Flows,
    /// Alerts that were raised.
    Alerts,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Bytes,
        Self::BytesOut,
        Self::BytesIn,
        Self::Packets,
        Self::Flows,
        Self::Alerts,
    ];

    /// Its name as a metric.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::BytesOut => "bytes_out",
            Self::BytesIn => "bytes_in",
            Self::Packets => "packets",
            Self::Flows => "flows",
            Self::Alerts => "alerts",
        }
    }

    /// What it counts.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Bytes | Self::BytesOut | Self::BytesIn => "bytes",
            Self::Packets => "packets",
            Self::Flows => "flows",
            Self::Alerts => "alerts",
        }
    }
}

/// The exporter, fed by the gateway.
pub struct Releases {
    exporter: Exporter,
    signals: Vec<Signal>,
    refused: u64,
}

impl Releases {
    /// `signals` are the exporter's metrics, in its order.
    pub fn new(exporter: Exporter, signals: Vec<Signal>) -> Self {
        Self {
            exporter,
            signals,
            refused: 0,
        }
    }

    /// The exporter.
    pub fn exporter(&self) -> &Exporter {
        &self.exporter
    }

    /// Due windows that were not released.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Tells Unix time, nanoseconds, before anything of then is counted.
    pub(crate) fn advance(&mut self, unix_ns: u64) {
        self.exporter.advance(unix_ns);
    }

    /// Counts `amount` of a device; device 0 (all unlisted ones) has no telemetry.
    pub(crate) fn add(&mut self, device: usize, signal: Signal, amount: u64) {
        if device > 0 {
            let metrics = self.signals.iter().enumerate();
            for (metric, _) in metrics.filter(|(_, s)| **s == signal) {
                self.exporter.add(device as u32, metric, amount);
            }
        }
    }

    /// Counts a slot of a device: packets and IP bytes, out and in.
    pub(crate) fn slot(&mut self, device: usize, packets: [u64; 2], bytes: [u64; 2]) {
        self.add(device, Signal::Packets, packets[0] + packets[1]);
        self.add(device, Signal::Bytes, bytes[0] + bytes[1]);
        self.add(device, Signal::BytesOut, bytes[0]);
        self.add(device, Signal::BytesIn, bytes[1]);
    }

    /// Counts a flow of a listed device that ended.
    pub(crate) fn flow(&mut self, device: usize, bytes: u64) {
        if device > 0 {
            self.add(device, Signal::Flows, 1);
            self.exporter.flow(bytes);
        }
    }

    pub(crate) fn poll(
        &mut self,
        book: &mut dyn Book,
    ) -> Option<Result<Vec<Published>, Unreleased>> {
        let made = self.exporter.poll(book)?;
        self.refused += u64::from(made.is_err());
        Some(made)
    }
}
