//! `[cover]`: how much cover there is, and how it travels.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use chaff_abi::Nanos;
use chaff_cover::EnvelopeConfig;
use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Duration};

/// How cover travels.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// No cover: meter, alerts and telemetry only.
    #[default]
    Off,
    /// Datagrams to the sink without a tunnel. An observer tells them apart by address: testbeds only.
    Plain,
    /// Datagrams to the sink inside a tunnel that something else provides.
    Rider,
    /// All traffic of the devices in a WireGuard tunnel to a sink-server, cover inside: see [`Tunnel`](super::Tunnel).
    Tunnel,
}

/// The generator that covers a whole tunnel.
pub const ENVELOPE: &str = "envelope";

/// `[cover]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cover {
    /// `off`, `plain`, `rider` or `tunnel`.
    pub mode: Mode,
    /// The sink-server's address and port.
    pub sink: Option<SocketAddr>,
    /// File with the 32-byte key shared with the sink, hexadecimal or base64, mode 0600.
    pub key_file: Option<PathBuf>,
    /// `auto` (`envelope` with mode `tunnel`, else `random`), `envelope` (one always-on process for the whole tunnel), `none`,
    /// `constant`, `random`, `random+`, an ONNX file, or a folder with one ONNX file a device (`LABEL.onnx`).
    pub generator: String,
    /// How much cover `envelope` makes for the home: `low`, `normal` or `high`, 1.8, 3.6 or 7.2 packets a second and direction on average,
    /// or `home`: 2.4, and bursts of large packets and steady exchanges of small ones, as of devices that are not there.
    pub profile: Amount,
    /// Slot length, 10ms to 10s.
    pub slot: Duration,
    /// `always`, or `active`: only from a device's first packet until 5 s after its last (as iPET does).
    pub activity: Activity,
    /// Most cover bytes per second and device, headers included.
    pub rate: Bytes,
    /// Cover bytes that may be sent at once above the rate. In force are at least a second's worth of `rate` and the
    /// largest packet, `max_payload` and 48 bytes of headers.
    pub burst: Bytes,
    /// Most cover packets per slot, device and direction, 1 to 10000.
    pub max_packets_per_slot: u32,
    /// Smallest UDP payload, 24 to 1452 bytes.
    pub min_payload: u16,
    /// Largest UDP payload, 24 to 1452 bytes.
    pub max_payload: u16,
    /// Let the sink send cover towards the devices.
    pub downlink: bool,
    /// Mark (SO_MARK) by which the meter tells cover apart, not 0.
    pub mark: u32,
    /// Real-time priority for the sending thread, where allowed.
    pub realtime: bool,
    /// Busy-wait this long before each sending time, 0us to 1ms. Costs CPU, gains precision.
    pub spin: Duration,
    /// Fixes the random stream. For tests only: whoever knows it can remove the cover.
    pub seed: Option<u64>,
}

/// How much cover an envelope makes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// For metered uplinks.
    Low,
    /// For most homes.
    #[default]
    Normal,
    /// Where volume does not matter.
    High,
    /// For homes of several devices on uplinks that bear bursts of half a megabyte: hides better which devices there are.
    Home,
}

impl Amount {
    /// The process for all devices of a home.
    pub fn envelope(self) -> EnvelopeConfig {
        match self {
            Self::Low => EnvelopeConfig::default().scaled(0.5),
            Self::Normal => EnvelopeConfig::default(),
            Self::High => EnvelopeConfig::default().scaled(2.0),
            Self::Home => EnvelopeConfig::home(),
        }
    }
}

/// When cover is sent.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// Always.
    #[default]
    Always,
    /// From a device's first packet until 5 s after its last.
    Active,
}

impl Default for Cover {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            sink: None,
            key_file: None,
            generator: "auto".into(),
            profile: Amount::Normal,
            slot: Duration(Nanos::from_millis(100)),
            activity: Activity::Always,
            rate: Bytes(20_000),
            burst: Bytes(40_000),
            max_packets_per_slot: 64,
            min_payload: 24,
            max_payload: 1_400,
            downlink: true,
            mark: 0x4348_4146,
            realtime: true,
            spin: Duration(Nanos::ZERO),
            seed: None,
        }
    }
}

/// The generator that `name` stands for: a built-in one, or a file or folder that starts at `base`.
pub(super) fn resolve_generator(name: &str, base: &Path) -> String {
    let built_in = chaff_cover::NAMES.contains(&name) || chaff_cover::model(name).is_some();
    if name == ENVELOPE || built_in {
        return name.to_owned();
    }
    base.join(name).display().to_string()
}
