use std::io;
use std::path::PathBuf;

use chaff_abi::Mac;

/// Why a replay could not start or finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A capture cannot be opened.
    #[error("cannot open {}: {source}", .file.display())]
    Open {
        /// The capture.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing can be drawn from a model.
    #[error("{}: {source}", .file.display())]
    Synthetic {
        /// The model.
        file: PathBuf,
        /// Why.
        source: chaff_synth::SynthError,
    },
    /// A capture is broken.
    #[error("{}: {source}", .file.display())]
    Capture {
        /// The capture.
        file: PathBuf,
        /// What is wrong, with the number of the packet (from 1) and the offset in the file.
        source: chaff_trace::TraceError,
    },
    /// There is nothing to send.
    #[error("nothing to replay: {read} packets read, none left after {filter}")]
    Empty {
        /// Packets in the captures.
        read: u64,
        /// What left none.
        filter: &'static str,
    },
    /// The packets do not fit into the allowed memory.
    #[error("the captures need more than the allowed {allowed} MiB of memory (at packet {packet} of {})", .file.display())]
    Memory {
        /// `--max-memory`.
        allowed: u64,
        /// Number of the packet that did not fit, from 1.
        packet: u64,
        /// The capture.
        file: PathBuf,
    },
    /// A frame is larger than its interface allows.
    #[error("packet {packet} of {}: {len} bytes do not fit into the {allowed} bytes that {interface} (MTU {mtu}) can send ({others} more such packets)", .file.display())]
    TooLarge {
        /// Number of the packet, from 1.
        packet: u64,
        /// The capture.
        file: PathBuf,
        /// Frame length, bytes.
        len: usize,
        /// Largest frame, bytes.
        allowed: usize,
        /// The interface.
        interface: String,
        /// Its MTU, bytes.
        mtu: u32,
        /// How many more do not fit.
        others: u64,
    },
    /// The capture has no Ethernet headers and none were given.
    #[error("packet {packet} of {}: link type {link} has no Ethernet header to send", .file.display())]
    NoEthernet {
        /// Number of the packet, from 1.
        packet: u64,
        /// The capture.
        file: PathBuf,
        /// What it has.
        link: String,
    },
    /// A device is not in the list.
    #[error("no device named {0:?} in the device list")]
    UnknownDevice(String),
    /// The device list cannot be used.
    #[error("{}: {what}", .file.display())]
    DeviceList {
        /// The list.
        file: PathBuf,
        /// What is wrong, and in which line.
        what: chaff_trace::ListError,
    },
    /// No device was named and none could be told from the captures.
    #[error("cannot tell which MAC address is the device: none sends from private addresses only")]
    NoDevice,
    /// An option's value makes no sense.
    #[error("{option} {value:?}: {what}")]
    Option {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What is wrong or allowed.
        what: &'static str,
    },
    /// An interface, namespace, or socket cannot be used.
    #[error("{target}: {source}")]
    Interface {
        /// The interface as given.
        target: String,
        /// What the system said.
        source: io::Error,
    },
    /// An interface is not up.
    #[error("{0} is down")]
    Down(String),
    /// The interface has no Ethernet frames.
    #[error("{target} (address {mac}) is not an Ethernet interface")]
    NotEthernet {
        /// The interface as given.
        target: String,
        /// Its address.
        mac: Mac,
    },
    /// Sending failed for good.
    #[error("{target}: sending packet {packet} failed: {source}")]
    Send {
        /// The interface as given.
        target: String,
        /// Which of the packets sent there, from 1, loops counted on.
        packet: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The report cannot be written.
    #[error("cannot write {}: {source}", .file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ReplayError {
    /// The program's exit code: 1 ran but failed, 2 usage or input, 3 privilege or kernel feature missing.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interface { source, .. } if lacks_privilege(source) => 3,
            Self::Send { .. } | Self::Write { .. } => 1,
            _ => 2,
        }
    }

    /// What the user can do about it.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Interface { source, .. } => match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => Some(
                    "needs CAP_NET_RAW (and CAP_SYS_ADMIN for IF@NETNS, CAP_NET_ADMIN for --tun): run as root or `setcap cap_net_raw,cap_sys_nice+ep` the program",
                ),
                Some(libc::ENOPROTOOPT) => Some("--verify needs Linux 4.20"),
                Some(libc::ENODEV | libc::ENXIO) => {
                    Some("`ip link` lists interfaces; write IF@NAMESPACE for one in a namespace")
                }
                Some(libc::ENOENT) => Some("`ip netns list` lists namespaces"),
                _ => None,
            },
            Self::Capture { .. } => Some("--lax replays what is good before that packet"),
            Self::Memory { .. } => Some("raise --max-memory or replay fewer files"),
            Self::TooLarge { .. } => {
                Some("raise the MTU, or use --truncate-to-mtu or --skip-oversize")
            }
            Self::NoEthernet { .. } => {
                Some("give both --rewrite src-mac=MAC,dst-mac=MAC, or use --tun")
            }
            Self::NoDevice => Some("name it with --device MAC or --device IP"),
            Self::Down(_) => Some("`ip link set dev IF up`"),
            Self::Send { source, .. } if source.raw_os_error() == Some(libc::ENETDOWN) => {
                Some("the interface went down during the replay")
            }
            _ => None,
        }
    }
}

fn lacks_privilege(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::ENOPROTOOPT | libc::EAFNOSUPPORT)
    )
}
