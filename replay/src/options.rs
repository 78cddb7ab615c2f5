use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use chaff_abi::{Dir, Nanos};

use crate::ReplayError;
use crate::capture::LoadOptions;
use crate::plan::Oversize;
use crate::rewrite::Rewrite;
use crate::schedule::Pacing;
use crate::verify::Host;

/// A name, and the network namespace it lives in: `IF` or `IF@NETNS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Interface name.
    pub name: String,
    /// Name under `/run/netns`; `None` is the current namespace.
    pub netns: Option<String>,
}

impl FromStr for Place {
    type Err = std::convert::Infallible;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (name, netns) = match s.rsplit_once('@') {
            Some((name, netns)) => (name, Some(netns.to_owned())),
            None => (s, None),
        };
        Ok(Self {
            name: name.to_owned(),
            netns,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.netns {
            Some(netns) => write!(f, "{}@{netns}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Where packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All into one interface.
    Interface(Place),
    /// Frames from the devices into the first, all others into the second.
    Pair(Place, Place),
    /// Transport payloads of the devices as datagrams to an address, which may echo them.
    Udp(SocketAddr, Option<String>),
    /// IP packets into a TUN device, which is made when there is none.
    Tun(Place),
}

impl Target {
    /// Parses `HOST:PORT` or `HOST:PORT@NETNS`; names are looked up in the current namespace.
    ///
    /// # Errors
    /// [`ReplayError::Option`] when it is neither an address nor a name that resolves.
    pub fn udp(text: &str) -> Result<Self, ReplayError> {
        let (host, netns) = match text.rsplit_once('@') {
            Some((host, netns)) => (host, Some(netns.to_owned())),
            None => (text, None),
        };
        let address = host
            .to_socket_addrs()
            .ok()
            .and_then(|mut found| found.next());
        match address {
            Some(address) => Ok(Self::Udp(address, netns)),
            None => Err(ReplayError::Option {
                option: "--udp",
                value: text.to_owned(),
                what: "expected HOST:PORT",
            }),
        }
    }
}

/// Traffic to draw from a model of `trainer synth fit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synthetic {
    /// The model.
    pub model: PathBuf,
    /// Flows to draw; without it as many as the model has learned from.
    pub records: Option<u32>,
    /// Seed.
    pub seed: u64,
}

/// Everything a replay is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Captures.
    pub files: Vec<PathBuf>,
    /// Drawn from a model, beside the captures.
    pub synthetic: Option<Synthetic>,
    /// Where packets go.
    pub target: Target,
    /// MAC and IP addresses, and names of the device list.
    pub devices: Vec<String>,
    /// CSV of devices.
    pub device_list: Option<PathBuf>,
    /// Only frames of one direction.
    pub only: Option<Dir>,
    /// Leave out frames that neither come from nor go to a device (one interface with devices: always so).
    pub only_devices: bool,
    /// Leave out frames between two of the devices.
    pub skip_local: bool,
    /// Send times.
    pub pacing: Pacing,
    /// How often; 0 is without end.
    pub loops: u64,
    /// Most packets in all, over all loops.
    pub limit: Option<u64>,
    /// Longest time.
    pub duration: Option<Nanos>,
    /// Changes.
    pub rewrite: Rewrite,
    /// Fill cut frames with zeros up to their length on the wire.
    pub pad: bool,
    /// Frames over the MTU.
    pub oversize: Oversize,
    /// Receive on both interfaces and compare. For a pair only; datagram echoes are always compared.
    pub verify: bool,
    /// Hosts that `verify` does not look at.
    pub ignore: Vec<Host>,
    /// How long to wait for the last packets.
    pub grace: Nanos,
    /// Spin instead of sleeping for the last part before a packet is due.
    pub spin: Nanos,
    /// Ask for real-time priority.
    pub realtime: bool,
    /// How captures are read.
    pub load: LoadOptions,
}

impl Options {
    /// Options with defaults for everything but input and output: once, at the capture's own times, padded.
    pub fn new(files: Vec<PathBuf>, target: Target) -> Self {
        Self {
            files,
            synthetic: None,
            target,
            devices: Vec::new(),
            device_list: None,
            only: None,
            only_devices: false,
            skip_local: false,
            pacing: Pacing::Capture { speed: 1.0 },
            loops: 1,
            limit: None,
            duration: None,
            rewrite: Rewrite::default(),
            pad: true,
            oversize: Oversize::Refuse,
            verify: false,
            ignore: Vec::new(),
            grace: Nanos::from_secs(2),
            spin: Nanos::ZERO,
            realtime: true,
            load: LoadOptions::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_may_name_a_namespace() {
        let p: Place = "veth0@lab".parse().unwrap();
        assert_eq!(
            (p.name.as_str(), p.netns.as_deref()),
            ("veth0", Some("lab"))
        );
        assert_eq!(p.to_string(), "veth0@lab");
        let p: Place = "eth0".parse().unwrap();
        assert_eq!((p.to_string().as_str(), p.netns), ("eth0", None));
    }

    #[test]
    fn udp_targets_need_a_port() {
        assert_eq!(
            Target::udp("127.0.0.1:9@lab").unwrap(),
            Target::Udp("127.0.0.1:9".parse().unwrap(), Some("lab".into()))
        );
        assert!(Target::udp("127.0.0.1").is_err());
    }
}
