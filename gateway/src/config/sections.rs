//! The sections whose keys stand for themselves.

use std::path::PathBuf;

use chaff_abi::Nanos;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// `[gateway]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySection {
    /// Folder of everything the gateway writes; created with mode 0750, owned by `user`.
    pub state_dir: PathBuf,
    /// Name of this gateway among several on a machine; names the folder of its pinned programs.
    pub instance: String,
    /// Local control socket, inside `state_dir` unless absolute.
    pub control: PathBuf,
    /// User that the gateway becomes after it attached its programs; `""` keeps root (not advised).
    pub user: String,
    /// Whether the gateway, once it is `user`, confines itself with Landlock and seccomp: it writes below its own folders only,
    /// starts no program, opens no TCP connection but to resolvers.
    pub sandbox: bool,
    /// CSV with columns device, mac, ip (and others): further devices.
    pub devices_file: Option<PathBuf>,
    /// Compiled eBPF object to load instead of the built-in one.
    pub ebpf_object: Option<PathBuf>,
}

/// `[interfaces]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Interfaces {
    /// Interfaces that face the devices, 1 to 8.
    pub lan: Vec<String>,
    /// Interface that faces the network.
    pub wan: Option<String>,
    /// `auto` (XDP where the driver has it, else tcx), `xdp`, `xdp-skb` or `tcx`.
    pub hook: HookName,
}

/// Where the meter hooks in.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum HookName {
    /// XDP where the driver has it, else tcx.
    #[default]
    Auto,
    /// XDP in the driver.
    Xdp,
    /// Generic XDP.
    XdpSkb,
    /// tcx.
    Tcx,
}

/// `[flows]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flows {
    /// A flow without packets for this long ends, 1s to 1h.
    pub idle_timeout: Duration,
    /// A flow that lasts longer is cut, 1s to 24h.
    pub active_timeout: Duration,
    /// Open flows kept, in the kernel and in user space, 1024 to 1000000.
    pub max_flows: u32,
    /// How often the kernel's maps are read, 100ms to 10s.
    pub drain: Duration,
    /// Look into the first packets of each flow for the application, server and device behind it, and write what they tell
    /// in further columns of the flow records. Packets are read in memory and never stored. Costs the kernel about 10 % more
    /// per forwarded packet.
    pub hints: bool,
    /// Packets with payload that `hints` looks at, both directions together, 1 to 255.
    pub hint_packets: u8,
    /// Write the process of this machine whose socket each flow is, in columns `process_id` and `process_name`. Forwarded
    /// traffic belongs to none. Needs cgroup version 2; without it, `gateway.user = ""`, and sockets of a moment are missed.
    pub processes: bool,
}

/// `[alerts]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alerts {
    /// Report what listed devices never did before: scans, uploads, calls by a clock, odd connections.
    pub enabled: bool,
    /// Time in which a device's habits are learnt and nothing is reported; learning goes on afterwards.
    pub learn: Duration,
    /// How rare something must be to be reported, 5 to 40: minus the natural logarithm of its probability in 10 s.
    pub threshold: f64,
    /// How many times busier than ever before an interval must be to be reported.
    pub rate_factor: f64,
    /// The same thing is not reported again for this long, unless it becomes 20 times rarer.
    pub repeat: Duration,
    /// Alerts of a device in an hour at most, 1 to 1000; one of low severity a day.
    pub hourly: u32,
}

/// `[export]`: files inside `state_dir` unless absolute; an empty name switches one off.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Export {
    /// Flow records, CSV. Raw data: stays on the gateway.
    pub flows: PathBuf,
    /// Real and cover traffic per slot and device, CSV. Raw data; for testbeds.
    pub slots: PathBuf,
    /// Alerts, JSON lines.
    pub alerts: PathBuf,
    /// Private releases, JSON lines.
    pub telemetry: PathBuf,
    /// The newest private releases in Prometheus' text format, for a textfile collector.
    pub prometheus: PathBuf,
    /// Report written at exit, JSON.
    pub report: PathBuf,
}

impl Default for GatewaySection {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/chaff".into(),
            instance: "chaff".into(),
            control: "control.sock".into(),
            user: "nobody".into(),
            sandbox: true,
            devices_file: None,
            ebpf_object: None,
        }
    }
}

impl Default for Flows {
    fn default() -> Self {
        Self {
            idle_timeout: Duration(Nanos::from_secs(120)),
            active_timeout: Duration(Nanos::from_secs(1_800)),
            max_flows: 16_384,
            drain: Duration(Nanos::from_secs(1)),
            hints: false,
            hint_packets: 10,
            processes: false,
        }
    }
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            enabled: true,
            learn: Duration(Nanos::from_secs(3_600)),
            threshold: 10.0,
            rate_factor: 3.0,
            repeat: Duration(Nanos::from_secs(1_800)),
            hourly: 10,
        }
    }
}

impl Default for Export {
    fn default() -> Self {
        Self {
            flows: "flows.csv".into(),
            slots: "".into(),
            alerts: "alerts.jsonl".into(),
            telemetry: "telemetry.jsonl".into(),
            prometheus: "".into(),
            report: "report.json".into(),
        }
    }
}
