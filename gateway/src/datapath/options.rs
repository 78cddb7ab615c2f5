use std::path::PathBuf;

use chaff_abi::{DeviceKey, MAX_DEVICES, MeterConfig};

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
    /// Flows per generation, 16 to 4,194,304; each takes about 550 bytes of kernel memory, twice.
    /// With pinned maps a change takes effect after a clean stop.
    pub max_flows: u32,
    /// Directory in bpffs for links and maps, for example `/sys/fs/bpf/chaff/home`; one instance each.
    /// `None`: everything ends with the process.
    pub pin_dir: Option<PathBuf>,
    /// User and group that shall be able to remove the pins; both directories are given to them.
    pub pin_owner: Option<(u32, u32)>,
    /// Another object file than the built-in one.
    pub object: Option<PathBuf>,
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
