//! Settings of the gateway's state machine.

use std::net::IpAddr;

use chaff_abi::{FlowKey, MAX_DEVICES, Mac, Nanos, SLOT_RING};
use chaff_cover::SchedulerConfig;
use chaff_flow::TableConfig;

use crate::alert::AlertConfig;

/// A device of the home that has counters, cover and alerts of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name in records, alerts and the local page.
    pub label: String,
    /// MAC address.
    pub mac: Option<Mac>,
    /// IP addresses.
    pub ip: Vec<IpAddr>,
    /// Whether cover is sent for it.
    pub cover: bool,
}

/// Where the gateway learns about real traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From frames, through [`crate::Gateway::handle_frame`]; it closes slots itself.
    Frames,
    /// From the kernel's counts; the driver hands over slots.
    Kernel,
}

/// Settings of [`crate::Gateway`].
#[derive(Clone, Debug)]
pub struct Config {
    /// The devices; index `i` of this list is device `i + 1` everywhere. Device 0 stands for all others.
    pub devices: Vec<Device>,
    /// Where real traffic is learnt from.
    pub source: Source,
    /// Length of a slot; iPET uses 100 ms.
    pub slot: Nanos,
    /// Slots between planning and the first planned slot; gives the downlink schedule time to reach the sink.
    pub lead_slots: u64,
    /// Slots planned at once.
    pub plan_slots: u64,
    /// Slots of real traffic that generators may look at.
    pub window_slots: usize,
    /// Flow table.
    pub flow: TableConfig,
    /// Limits and budget of cover, for each device; label and header bytes are filled in.
    pub cover: SchedulerConfig,
    /// Ask the sink for downlink cover.
    pub downlink: bool,
    /// IP and UDP header bytes added to each cover payload in the overhead account: 28 over IPv4, 48 over IPv6.
    pub header_bytes: u16,
    /// Local alerts; `None` switches them off.
    pub alerts: Option<AlertConfig>,
    /// Emit [`crate::Event::Slot`].
    pub slot_events: bool,
    /// Unix time at `now == 0`.
    pub unix_offset: Nanos,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            devices: Vec::new(),
            source: Source::Frames,
            slot: Nanos::from_millis(100),
            lead_slots: 3,
            plan_slots: 10,
            window_slots: 40,
            flow: TableConfig::default(),
            cover: SchedulerConfig::default(),
            downlink: true,
            header_bytes: 28,
            alerts: Some(AlertConfig::default()),
            slot_events: true,
            unix_offset: Nanos::ZERO,
        }
    }
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number is outside its range.
    #[error("{field} is {value}, allowed is {allowed}")]
    Range {
        /// The field.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// Two devices share a label, MAC or IP address.
    #[error("two devices have {field} {value}")]
    Duplicate {
        /// `label`, `mac` or `ip`.
        field: &'static str,
        /// The shared value.
        value: String,
    },
    /// A device has neither MAC nor IP address.
    #[error("device {label} has neither a MAC nor an IP address")]
    NoAddress {
        /// The device.
        label: String,
    },
    /// The number of generators is not the number of covered devices.
    #[error("{had} generators for {needed} covered devices")]
    Generators {
        /// Covered devices.
        needed: usize,
        /// Generators.
        had: usize,
    },
    /// A generator's slots are not the gateway's.
    #[error("generator {name} has slots of {slot} s, the gateway's are {wanted} s")]
    GeneratorSlot {
        /// Its name.
        name: String,
        /// Its slot length.
        slot: Nanos,
        /// The gateway's.
        wanted: Nanos,
    },
    /// The stored alert history cannot be read.
    #[error("alert history: {what}")]
    History {
        /// What is wrong with it.
        what: String,
    },
}

impl Config {
    /// Indices of the units that have cover: the devices that want it, or unit 0 (the whole home) when no device is
    /// configured at all.
    pub fn covered(&self) -> Vec<usize> {
        if self.devices.is_empty() {
            return vec![0];
        }
        self.devices
            .iter()
            .enumerate()
            .filter(|(_, d)| d.cover)
            .map(|(i, _)| i + 1)
            .collect()
    }

    /// Checks ranges and contradictions.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let range = |field, value: String, allowed| {
            Err(ConfigError::Range {
                field,
                value,
                allowed,
            })
        };
        if !(Nanos::from_millis(10)..=Nanos::from_secs(10)).contains(&self.slot) {
            return range("slot", format!("{} s", self.slot), "10 ms to 10 s");
        }
        if !(1..=100).contains(&self.lead_slots) {
            return range("lead_slots", self.lead_slots.to_string(), "1 to 100");
        }
        if !(1..=u64::from(SLOT_RING / 2)).contains(&self.plan_slots) {
            return range("plan_slots", self.plan_slots.to_string(), "1 to 32");
        }
        if !(1..=10_000).contains(&self.window_slots) {
            return range("window_slots", self.window_slots.to_string(), "1 to 10000");
        }
        if self.devices.len() >= MAX_DEVICES as usize {
            return range("devices", self.devices.len().to_string(), "at most 255");
        }
        let mut seen = std::collections::BTreeSet::new();
        for d in &self.devices {
            let mac = d.mac.map(|m| ("mac", m.to_string()));
            let ips = d.ip.iter().map(|ip| ("ip", ip.to_string()));
            if d.mac.is_none() && d.ip.is_empty() {
                return Err(ConfigError::NoAddress {
                    label: d.label.clone(),
                });
            }
            for (field, value) in [("label", d.label.clone())]
                .into_iter()
                .chain(mac)
                .chain(ips)
            {
                if !seen.insert((field, value.clone())) {
                    return Err(ConfigError::Duplicate { field, value });
                }
            }
        }
        Ok(())
    }
}

/// The 16-byte form of an address that keys use.
pub fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => FlowKey::mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}
