use std::path::PathBuf;

use chaff_abi::{DeviceKey, MAX_DEVICES, MeterConfig, Nanos};

use super::error::MeterError;

/// Where the device side's ingress program sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Native XDP where the driver is worth it, tcx on virtual interfaces and as fallback. On veth native XDP costs
    /// 35-45 % more CPU per packet and switches TSO off, so it is never chosen there.
    #[default]
    Auto,
    /// Native XDP or an error.
    Xdp,
    /// Generic XDP: works on every driver, after the socket buffer is made.
    XdpSkb,
    /// tcx (`clsact` before Linux 6.6).
    Tcx,
}

impl std::str::FromStr for Hook {
    type Err = MeterError;
    fn from_str(s: &str) -> Result<Self, MeterError> {
        match s {
            "auto" => Ok(Self::Auto),
            "xdp" => Ok(Self::Xdp),
            "xdp-skb" => Ok(Self::XdpSkb),
            "tcx" => Ok(Self::Tcx),
            _ => Err(MeterError::Options {
                what: format!("hook `{s}` is none of auto, xdp, xdp-skb, tcx"),
            }),
        }
    }
}

/// What to load and where to attach it.
#[derive(Clone, Debug)]
pub struct MeterOptions {
    /// Where the device side's ingress program sits.
    pub hook: Hook,
    /// Interfaces towards the devices, Ethernet, in the caller's network namespace.
    pub lan: Vec<String>,
    /// Interface towards the network, if cover is to be told apart.
    pub wan: Option<String>,
    /// Settings of the programs; `abi_version` is filled in.
    pub config: MeterConfig,
    /// Devices with slot counters of their own; indices 1 to [`MAX_DEVICES`] - 1.
    pub devices: Vec<(DeviceKey, u32)>,
    /// Flows per generation, 16 to 4,194,304; each takes about 560 bytes of kernel memory, twice.
    /// With pinned maps a change takes effect after a clean stop.
    pub max_flows: u32,
    /// Directory in bpffs for links and maps, for example `/sys/fs/bpf/chaff/home`; one instance each.
    /// `None`: everything ends with the process.
    pub pin_dir: Option<PathBuf>,
    /// User and group that shall be able to remove the pins; both directories are given to them.
    pub pin_owner: Option<(u32, u32)>,
    /// Copies of first packets, if wanted; read them by [`super::Meter::poll_hints`].
    pub hints: Option<HintOptions>,
    /// Another object file than the built-in one.
    pub object: Option<PathBuf>,
}

/// Which first packets of a flow are copied up whole, for a look at what they say. Only TCP and UDP packets with a payload
/// count, and only of flows that have their place in the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintOptions {
    /// Packets of each flow, both directions together, 1 to 255.
    pub packets: u8,
    /// A flow that was silent for so long is a new one.
    pub idle: Nanos,
    /// Memory for copies on their way, bytes: a power of two, at least 4,096. A copy takes 280 or 2,072 bytes.
    pub ring_bytes: u32,
}

impl Default for HintOptions {
    fn default() -> Self {
        Self {
            packets: 10,
            idle: Nanos::from_secs(120),
            ring_bytes: 1 << 20,
        }
    }
}

impl Default for MeterOptions {
    fn default() -> Self {
        Self {
            hook: Hook::Auto,
            lan: Vec::new(),
            wan: None,
            config: MeterConfig::default(),
            devices: Vec::new(),
            max_flows: 16_384,
            pin_dir: None,
            pin_owner: None,
            hints: None,
            object: None,
        }
    }
}

impl MeterOptions {
    pub(super) fn check(&self) -> Result<(), MeterError> {
        let wrong = |what: String| Err(MeterError::Options { what });
        if !(16..=4_194_304).contains(&self.max_flows) {
            return wrong(format!(
                "max_flows is {}, allowed are 16 to 4194304",
                self.max_flows
            ));
        }
        if let Some(h) = &self.hints {
            if h.packets == 0 {
                return wrong("hints of 0 packets, allowed are 1 to 255".into());
            }
            if !h.ring_bytes.is_power_of_two() || !(4_096..=1 << 28).contains(&h.ring_bytes) {
                return wrong(format!(
                    "a ring of {} bytes for hints, allowed are powers of two from 4096 to 268435456",
                    h.ring_bytes
                ));
            }
        }
        check_devices(&self.devices)?;
        for (i, name) in self.lan.iter().enumerate() {
            if self.lan[..i].contains(name) || self.wan.as_ref() == Some(name) {
                return wrong(format!("interface {name} is named twice"));
            }
        }
        Ok(())
    }
}

pub(super) fn check_devices(devices: &[(DeviceKey, u32)]) -> Result<(), MeterError> {
    if let Some((_, i)) = devices.iter().find(|(_, i)| *i == 0 || *i >= MAX_DEVICES) {
        return Err(MeterError::Options {
            what: format!("device index {i}, allowed are 1 to {}", MAX_DEVICES - 1),
        });
    }
    if devices.len() > 1024 {
        return Err(MeterError::Options {
            what: format!("{} device addresses, allowed are 1024", devices.len()),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaff_abi::Mac;

    #[test]
    fn refuses_what_is_out_of_range() {
        let ok = MeterOptions::default();
        assert!(ok.check().is_ok());
        let bad = [
            MeterOptions {
                max_flows: 15,
                ..ok.clone()
            },
            MeterOptions {
                lan: vec!["a".into(), "a".into()],
                ..ok.clone()
            },
            MeterOptions {
                lan: vec!["a".into()],
                wan: Some("a".into()),
                ..ok.clone()
            },
            MeterOptions {
                devices: vec![(DeviceKey::mac(Mac([0; 6])), MAX_DEVICES)],
                ..ok.clone()
            },
            MeterOptions {
                hints: Some(HintOptions {
                    ring_bytes: 5_000,
                    ..HintOptions::default()
                }),
                ..ok.clone()
            },
            MeterOptions {
                hints: Some(HintOptions {
                    packets: 0,
                    ..HintOptions::default()
                }),
                ..ok
            },
        ];
        for o in bad {
            assert!(o.check().is_err(), "{o:?}");
        }
    }

    #[test]
    fn reads_hook_names() {
        assert_eq!("xdp-skb".parse::<Hook>().expect("valid"), Hook::XdpSkb);
        assert!("xpd".parse::<Hook>().is_err());
    }
}
