//! `gateway run`'s configuration file: one TOML, every key with a default, unknown keys refused.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use chaff_abi::{Mac, Nanos};
use chaff_cover::EnvelopeConfig;
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::telemetry::Telemetry;
use crate::units::{Bytes, Duration};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Where things live and who the gateway becomes.
    pub gateway: GatewaySection,
    /// Interfaces and the meter's hook.
    pub interfaces: Interfaces,
    /// Cover traffic.
    pub cover: Cover,
    /// The gateway's own tunnel, for `cover.mode` tunnel.
    pub tunnel: Tunnel,
    /// Flow records.
    pub flows: Flows,
    /// Local alerts.
    pub alerts: Alerts,
    /// Private telemetry.
    pub telemetry: Telemetry,
    /// Flow records as Parquet.
    pub archive: Archive,
    /// Output files.
    pub export: Export,
    /// The devices of the home.
    #[serde(rename = "device")]
    pub devices: Vec<DeviceEntry>,
}

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
    /// All traffic of the devices in a WireGuard tunnel to a sink-server, cover inside: see [`Tunnel`].
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
    /// or `home`: about as much as `normal`, and short bursts of large packets, as of devices that are not there.
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

/// `[tunnel]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tunnel {
    /// wg-style file with own key and one peer, mode 0600; `sink-server keygen` makes it.
    pub config: Option<PathBuf>,
    /// Name of the tunnel's interface.
    pub interface: String,
    /// `auto` (offload where it works), `fast` or `portable`.
    pub engine: chaff_tunport::EngineName,
    /// Lengths on the wire: `off` (as plain WireGuard), `fine` (six), `default` (three), `mtu` (one).
    pub bins: chaff_tunnel::Profile,
    /// Longest time a real packet may wait to take the place of a dummy, 0ms to 1s; 20ms to 50ms makes times regular.
    pub hold: Duration,
    /// Time between the moments at which packets leave, real ones and cover alike, 0ms to 100ms; 0ms lets each leave at once. Delays
    /// packets by half of it on average and hides the gaps between them, which tell devices apart.
    pub clock: Duration,
    /// `block`: without a tunnel devices are cut off (kill switch). `fall-back`: they take the ordinary route, in clear.
    pub when_down: chaff_tunport::WhenDown,
    /// What a clean stop leaves: `open`, or with when_down `block` also `block`, until `gateway open`.
    pub when_stopped: WhenStopped,
    /// Keep a session also without real traffic, so that cover never pauses.
    pub always_on: bool,
    /// Silence of the far end that makes a new handshake, 4s to 15s; below 15s only while its cover is asked for.
    pub silence: Duration,
    /// MTU inside the tunnel, 1280 to 8920; the wg-style file's own value goes before it.
    pub mtu: u16,
    /// Most cover bytes per calendar month (UTC), uplink; 0B for no limit.
    pub month: Bytes,
    /// Cover pauses while this file exists: for a script that knows when the uplink is metered.
    pub pause_file: Option<PathBuf>,
    /// Datagrams that leave in one burst, 1 to 64.
    pub burst: usize,
    /// Devices take the tunnel's address inside it, and nothing comes out of it unasked. Off when the far end knows the home's
    /// addresses, and is trusted with its devices.
    pub masquerade: bool,
    /// What this machine itself sends goes into the tunnel too, such as the questions of a resolver that devices ask; with when_down
    /// `block` none of it leaves in clear. Connections from outside to this machine then get no answers.
    pub own_traffic: bool,
    /// Number of the routing table used, 256 or more.
    pub table: u32,
}

/// What is left in force after a clean stop.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum WhenStopped {
    /// Nothing: devices take the ordinary route.
    #[default]
    Open,
    /// The kill switch.
    Block,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            config: None,
            interface: "chaff0".into(),
            engine: chaff_tunport::EngineName::Auto,
            bins: chaff_tunnel::Profile::Default,
            hold: Duration(Nanos::ZERO),
            clock: Duration(Nanos::from_millis(5)),
            when_down: chaff_tunport::WhenDown::Block,
            when_stopped: WhenStopped::Open,
            always_on: true,
            silence: Duration(Nanos::from_secs(5)),
            mtu: 1_420,
            month: Bytes(0),
            pause_file: None,
            burst: 8,
            masquerade: true,
            own_traffic: false,
            table: 51_877,
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

/// `[[device]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceEntry {
    /// Name, unique; 1 to 64 characters without `,`, `"`, `/` and control characters.
    pub label: String,
    /// MAC address; no two devices share one.
    #[serde(default)]
    pub mac: Option<String>,
    /// IP addresses; no two devices share one.
    #[serde(default)]
    pub ip: Vec<IpAddr>,
    /// Whether it is covered.
    #[serde(default = "yes")]
    pub cover: bool,
    /// Generator of this device, overriding `[cover] generator`.
    #[serde(default)]
    pub generator: Option<String>,
}

fn yes() -> bool {
    true
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

impl File {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// It cannot be read, is not TOML, has an unknown key, or a value out of range; the error names file, key, value and
    /// what is allowed.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("while reading {}", path.display()))?;
        let base = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, base).with_context(|| format!("in {}", path.display()))
    }

    /// Reads and checks the text of a file; relative input paths start at `base`.
    ///
    /// # Errors
    /// As [`File::load`].
    pub fn parse(text: &str, base: &Path) -> anyhow::Result<Self> {
        let mut file: Self =
            toml::from_str(text).map_err(|e| anyhow::anyhow!("{}", e.to_string().trim_end()))?;
        for path in [
            &mut file.gateway.devices_file,
            &mut file.cover.key_file,
            &mut file.gateway.ebpf_object,
            &mut file.tunnel.config,
            &mut file.tunnel.pause_file,
        ]
        .into_iter()
        .flatten()
        {
            *path = base.join(&*path);
        }
        if let Some(csv) = &file.gateway.devices_file {
            let mut listed = read_devices(csv)?;
            // What the TOML says about a device goes before the list.
            listed.retain(|d| !file.devices.iter().any(|have| have.label == d.label));
            file.devices.append(&mut listed);
        }
        file.resolve_generators(base);
        file.check()?;
        Ok(file)
    }

    fn resolve_generators(&mut self, base: &Path) {
        if self.cover.generator == "auto" {
            let tunnel = self.cover.mode == Mode::Tunnel;
            self.cover.generator = if tunnel { ENVELOPE } else { "random" }.into();
        }
        self.cover.generator = resolve_generator(&self.cover.generator, base);
        for d in &mut self.devices {
            let named = d.generator.as_deref();
            d.generator = named.map(|name| resolve_generator(name, base));
        }
    }

    /// The cover process of the whole tunnel, where that is what makes cover.
    pub fn envelope(&self) -> Option<EnvelopeConfig> {
        let chosen = self.cover.generator == ENVELOPE;
        (self.cover.mode == Mode::Tunnel && chosen).then(|| self.cover.profile.envelope())
    }

    fn check(&self) -> anyhow::Result<()> {
        let c = &self.cover;
        within(
            "cover.max_packets_per_slot",
            c.max_packets_per_slot,
            1,
            10_000,
        )?;
        within("cover.min_payload", c.min_payload, 24, 1_452)?;
        within("cover.max_payload", c.max_payload, c.min_payload, 1_452)?;
        within("cover.mark", c.mark, 1, u32::MAX)?;
        within("flows.max_flows", self.flows.max_flows, 1_024, 1_000_000)?;
        let d = |s: &str| s.parse::<Duration>().unwrap_or(Duration(Nanos::ZERO));
        within("cover.slot", c.slot, d("10ms"), d("10s"))?;
        within("cover.spin", c.spin, d("0us"), d("1ms"))?;
        within(
            "flows.idle_timeout",
            self.flows.idle_timeout,
            d("1s"),
            d("1h"),
        )?;
        within(
            "flows.active_timeout",
            self.flows.active_timeout,
            d("1s"),
            d("24h"),
        )?;
        within("flows.hint_packets", self.flows.hint_packets, 1, 255)?;
        within("flows.drain", self.flows.drain, d("100ms"), d("10s"))?;
        if self.flows.drain > self.flows.idle_timeout {
            bail!(
                "flows.drain is {}, it must not exceed flows.idle_timeout, {}",
                self.flows.drain,
                self.flows.idle_timeout
            );
        }
        if self.interfaces.lan.len() > 8 {
            bail!(
                "interfaces.lan names {} interfaces, allowed are 1 to 8",
                self.interfaces.lan.len()
            );
        }
        for name in self.interfaces.lan.iter().chain(&self.interfaces.wan) {
            if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
                bail!(
                    "interfaces: `{name}` is not an interface name: 1 to 15 characters without / and spaces"
                );
            }
        }
        if let Some(wan) = self
            .interfaces
            .wan
            .as_ref()
            .filter(|w| self.interfaces.lan.contains(w))
        {
            bail!("interfaces.wan is `{wan}`, which is also in interfaces.lan");
        }
        let instance = &self.gateway.instance;
        if instance.is_empty()
            || !instance
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        {
            bail!("gateway.instance is `{instance}`, allowed are letters, digits, - and _");
        }
        let own = self.devices.iter().find_map(|d| {
            let name = d.generator.as_deref()?;
            Some((d, name)).filter(|_| name == ENVELOPE || self.envelope().is_some())
        });
        if let Some((device, name)) = own {
            bail!(
                "device {}: generator is `{name}`; an envelope covers the whole tunnel, so with cover.generator \"envelope\" no \
                 device has a generator of its own",
                device.label
            );
        }
        if c.generator == ENVELOPE && self.envelope().is_none() && c.mode != Mode::Off {
            bail!("cover.generator is \"envelope\", which needs cover.mode \"tunnel\"");
        }
        if c.mode == Mode::Tunnel {
            self.check_tunnel()?;
        } else if c.mode != Mode::Off {
            if c.sink.is_none() {
                bail!(
                    "cover.sink is missing: address:port of the sink-server, needed unless cover.mode is \"off\""
                );
            }
            if c.key_file.is_none() {
                bail!(
                    "cover.key_file is missing: file with the key shared with the sink, needed unless cover.mode is \"off\""
                );
            }
        }
        if c.rate.0 < 100 {
            bail!("cover.rate is {}, at least 100B are needed", c.rate);
        }
        within("alerts.threshold", self.alerts.threshold, 5.0, 40.0)?;
        within("alerts.hourly", self.alerts.hourly, 1, 1_000)?;
        if !(1.0..=1e6).contains(&self.alerts.rate_factor) {
            bail!(
                "alerts.rate_factor is {}, allowed is 1 to 1000000",
                self.alerts.rate_factor
            );
        }
        self.telemetry.terms()?;
        self.archive.check()?;
        self.check_devices()
    }

    fn check_tunnel(&self) -> anyhow::Result<()> {
        let t = &self.tunnel;
        let d = |s: &str| s.parse::<Duration>().unwrap_or(Duration(Nanos::ZERO));
        if t.config.is_none() {
            bail!(
                "tunnel.config is missing: the wg-style file of this gateway, made by `sink-server keygen --peer FILE`, needed with \
                 cover.mode \"tunnel\""
            );
        }
        within("tunnel.hold", t.hold, d("0ms"), d("1s"))?;
        within("tunnel.clock", t.clock, d("0ms"), d("100ms"))?;
        within("tunnel.silence", t.silence, d("4s"), d("15s"))?;
        within(
            "tunnel.mtu",
            t.mtu,
            chaff_tunnel::MIN_MTU,
            chaff_tunnel::MAX_MTU,
        )?;
        within("tunnel.burst", t.burst, 1, 64)?;
        within("tunnel.table", t.table, 256, u32::MAX)?;
        let name = &t.interface;
        if name.is_empty() || name.len() > 15 || name.contains(['/', ' ', '"']) {
            bail!(
                "tunnel.interface is `{name}`, allowed are 1 to 15 characters without /, \" and spaces"
            );
        }
        if self.interfaces.lan.contains(name) || self.interfaces.wan.as_ref() == Some(name) {
            bail!("tunnel.interface is `{name}`, which is also in interfaces");
        }
        if t.when_down == chaff_tunport::WhenDown::FallBack {
            if self.interfaces.wan.is_none() {
                bail!("interfaces.wan is missing: tunnel.when_down \"fall-back\" needs it");
            }
            if t.when_stopped == WhenStopped::Block {
                bail!(
                    "tunnel.when_stopped is \"block\", which tunnel.when_down \"fall-back\" contradicts"
                );
            }
        }
        Ok(())
    }

    fn check_devices(&self) -> anyhow::Result<()> {
        let mut labels = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for (d, number) in self.devices.iter().zip(1..) {
            check_label(&d.label).with_context(|| format!("device number {number}"))?;
            if let Some(other) = labels.insert(&d.label, number) {
                bail!(
                    "devices number {other} and {number} both have the label {}",
                    d.label
                );
            }
            let mac = d.mac()?.map(|mac| format!("MAC address {mac}"));
            // An IPv4 address and its IPv6-mapped form are the same on the wire.
            let ips =
                d.ip.iter()
                    .map(|ip| format!("IP address {}", ip.to_canonical()));
            for address in mac.into_iter().chain(ips) {
                if let Some(other) = addresses.get(&address) {
                    bail!("devices {other} and {} both have the {address}", d.label);
                }
                addresses.insert(address, &d.label);
            }
        }
        Ok(())
    }

    /// A path of the state folder.
    pub fn state(&self, path: &Path) -> PathBuf {
        self.gateway.state_dir.join(path)
    }

    /// The device list as the engine wants it.
    ///
    /// # Errors
    /// A MAC address cannot be read.
    pub fn engine_devices(&self) -> anyhow::Result<Vec<chaff_engine::Device>> {
        self.devices
            .iter()
            .map(|d| {
                Ok(chaff_engine::Device {
                    label: d.label.clone(),
                    mac: d.mac()?,
                    ip: d.ip.clone(),
                    cover: d.cover,
                })
            })
            .collect()
    }
}

fn resolve_generator(name: &str, base: &Path) -> String {
    let built_in = chaff_cover::NAMES.contains(&name) || chaff_cover::model(name).is_some();
    if name == ENVELOPE || built_in {
        return name.to_owned();
    }
    base.join(name).display().to_string()
}

impl DeviceEntry {
    fn mac(&self) -> anyhow::Result<Option<Mac>> {
        let Some(text) = &self.mac else {
            return Ok(None);
        };
        let mac: Mac = text
            .parse()
            .map_err(|e| anyhow::anyhow!("device {}: mac `{text}`: {e}", self.label))?;
        if mac.0[0] & 1 == 1 {
            bail!(
                "device {}: mac `{text}` is a group address, no device has it",
                self.label
            );
        }
        Ok(Some(mac))
    }
}

/// Checks that `low <= value <= high`, which no NaN is.
///
/// # Errors
/// It is not; the error names key, value and what is allowed.
pub(crate) fn within<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    low: T,
    high: T,
) -> anyhow::Result<()> {
    if !(&low..=&high).contains(&&value) {
        bail!("{key} is {value}, allowed is {low} to {high}");
    }
    Ok(())
}

/// Labels go into CSV fields and file names.
fn check_label(label: &str) -> anyhow::Result<()> {
    let unfit = |c: char| c.is_control() || [',', '"', '/'].contains(&c);
    if !(1..=64).contains(&label.chars().count()) || label.contains(unfit) {
        bail!(
            "label {label:?}: allowed are 1 to 64 characters without `,`, `\"`, `/` and control characters"
        );
    }
    if label == "home" {
        bail!("label \"home\" stands for all unlisted devices; choose another");
    }
    Ok(())
}

/// Reads a device list: comma-separated, with a header that names at least `device` and one of `mac` and `ip`. Several
/// IP addresses are separated by `;` or spaces; an empty field or `-` means none.
///
/// # Errors
/// The file cannot be read, a column is missing, or a name or an address is malformed; the error names file and line.
pub fn read_devices(path: &Path) -> anyhow::Result<Vec<DeviceEntry>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("while reading {}", path.display()))?;
    let mut lines = text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
    let (_, header) = lines
        .next()
        .with_context(|| format!("{}: empty, a header line is needed", path.display()))?;
    let columns: Vec<&str> = header.split(',').map(str::trim).collect();
    let column = |name: &str| columns.iter().position(|c| *c == name);
    let device = column("device")
        .with_context(|| format!("{}: no column `device` in `{header}`", path.display()))?;
    let (mac, ip) = (column("mac"), column("ip"));
    if mac.is_none() && ip.is_none() {
        bail!(
            "{}: neither a column `mac` nor `ip` in `{header}`",
            path.display()
        );
    }
    let mut out = Vec::new();
    for (i, line) in lines {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let field = |c: Option<usize>| {
            c.and_then(|c| fields.get(c))
                .copied()
                .filter(|f| !f.is_empty() && *f != "-")
        };
        let place = || format!("{} line {}", path.display(), i + 1);
        let label = field(Some(device)).with_context(|| format!("{}: no device name", place()))?;
        let ips = field(ip)
            .unwrap_or("")
            .split([';', ' '])
            .filter(|s| !s.is_empty());
        let entry = DeviceEntry {
            label: label.to_owned(),
            mac: field(mac).map(str::to_owned),
            ip: ips
                .map(|s| {
                    s.parse()
                        .with_context(|| format!("{}: `{s}` is not an IP address", place()))
                })
                .collect::<anyhow::Result<_>>()?,
            cover: true,
            generator: None,
        };
        check_label(label).with_context(place)?;
        entry.mac().with_context(place)?;
        out.push(entry);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let e = File::parse(text, Path::new(".")).expect_err(text);
        format!("{e:#}")
    }

    #[test]
    fn an_empty_file_is_the_defaults_and_they_print_and_read_back() {
        let file = File::parse("", Path::new(".")).expect("defaults are valid");
        let printed = toml::to_string(&file).expect("serialises");
        let again = File::parse(&printed, Path::new(".")).expect("reads back");
        assert_eq!(toml::to_string(&again).expect("serialises"), printed);
    }

    #[test]
    fn errors_name_key_value_and_range() {
        let long = format!("[[device]]\nlabel = \"{}\"", "x".repeat(65));
        for (text, wants) in [
            (
                "[cover]\nslot = \"1ms\"",
                vec!["cover.slot", "1ms", "10ms to 10s"],
            ),
            ("[cover]\nslots = \"1ms\"", vec!["slots", "unknown field"]),
            ("[cover]\nslot = 5", vec!["slot", "line 2"]),
            ("[cover]\nmode = \"plain\"", vec!["cover.sink is missing"]),
            (
                "[cover]\nmin_payload = 3",
                vec!["cover.min_payload is 3", "24 to 1452"],
            ),
            (
                "[cover]\nmode = \"secret\"",
                vec!["secret", "plain", "rider", "tunnel"],
            ),
            (
                "[cover]\nmode = \"tunnel\"",
                vec!["tunnel.config is missing", "keygen"],
            ),
            (
                "[cover]\nmode = \"tunnel\"\n[tunnel]\nconfig = \"x\"\nmtu = 1000",
                vec!["tunnel.mtu is 1000", "1280 to 8920"],
            ),
            (
                "[cover]\nmode = \"tunnel\"\n[tunnel]\nconfig = \"x\"\nwhen_down = \"fall-back\"",
                vec!["interfaces.wan is missing"],
            ),
            (
                "[cover]\nmode = \"tunnel\"\n[tunnel]\nconfig = \"x\"\nclock = \"1s\"",
                vec!["tunnel.clock is 1s", "0ns to 100ms"],
            ),
            (
                "[cover]\nmode = \"tunnel\"\n[tunnel]\nconfig = \"x\"\n[[device]]\nlabel = \"x\"\ngenerator = \"random\"",
                vec!["device x", "random", "envelope"],
            ),
            (
                "[cover]\nmode = \"plain\"\nsink = \"192.0.2.1:1\"\nkey_file = \"x\"\ngenerator = \"envelope\"",
                vec!["cover.generator", "needs cover.mode"],
            ),
            ("[tunnel]\nkill = true", vec!["kill", "unknown field"]),
            (
                "[flows]\nidle_timeout = \"5 days\"",
                vec!["5 days", "such as 100ms"],
            ),
            (
                "[[device]]\nlabel = \"x\"\nmac = \"1:2\"",
                vec!["device x", "1:2", "not a MAC"],
            ),
            (
                "[telemetry]\nepsilon = -1.0",
                vec!["telemetry.epsilon is -1"],
            ),
            (
                "[gateway]\ninstance = \"../x\"",
                vec!["gateway.instance", "letters"],
            ),
            (
                "[interfaces]\nlan = [\"a/b\"]",
                vec!["a/b", "interface name"],
            ),
            (
                "[telemetry]\nperiod = \"5h\"",
                vec!["telemetry.period is `5h`", "divides a day"],
            ),
            (
                "[archive]\nperiod = \"1s\"",
                vec!["archive.period is 1s", "1min to 24h"],
            ),
            (
                "[[device]]\nlabel = \"\"",
                vec!["device number 1", "label \"\"", "1 to 64"],
            ),
            (
                "[[device]]\nlabel = \"x\"\n[[device]]\nlabel = \"../y\"",
                vec!["device number 2", "../y", "without"],
            ),
            ("[[device]]\nlabel = \"a,b\"", vec!["a,b", "without"]),
            ("[[device]]\nlabel = 'a\"b'", vec![r#"a\"b"#, "without"]),
            (
                "[[device]]\nlabel = \"a\\nb\"",
                vec![r"a\nb", "control characters"],
            ),
            (long.as_str(), vec!["device number 1", "1 to 64"]),
            (
                "[[device]]\nlabel = \"x\"\n[[device]]\nlabel = \"x\"",
                vec!["devices number 1 and 2", "label x"],
            ),
            (
                "[[device]]\nlabel = \"x\"\nmac = \"02:00:5e:10:00:0a\"\n\
                 [[device]]\nlabel = \"y\"\nmac = \"02:00:5E:10:00:0A\"",
                vec!["devices x and y", "MAC address 02:00:5e:10:00:0a"],
            ),
            (
                "[[device]]\nlabel = \"x\"\nip = [\"192.0.2.1\"]\n\
                 [[device]]\nlabel = \"y\"\nip = [\"192.0.2.2\", \"::ffff:192.0.2.1\"]",
                vec!["devices x and y", "IP address 192.0.2.1"],
            ),
            ("lan = 1", vec!["lan", "unknown field"]),
            ("[[[", vec!["line 1"]),
        ] {
            let e = error(text);
            for want in wants {
                assert!(e.contains(want), "{text:?}: `{want}` is not in `{e}`");
            }
        }
    }

    #[test]
    fn reads_a_device_list_and_names_the_bad_line() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("devices.csv");
        std::fs::write(
            &path,
            "device,mac,ip,label\ncam,02:00:5e:10:00:01,192.0.2.1;2001:db8::1,x\n",
        )
        .expect("write");
        let list = read_devices(&path).expect("valid");
        assert_eq!((list.len(), list[0].ip.len()), (1, 2));
        let long = "x".repeat(65);
        for (line, wants) in [
            ("cam,02:00", vec!["02:00", "not a MAC"]),
            ("../cam,02:00:5e:10:00:01", vec!["../cam", "without"]),
            ("a\"b,02:00:5e:10:00:01", vec!["without"]),
            ("a\tb,02:00:5e:10:00:01", vec![r"a\tb", "control"]),
            (&format!("{long},02:00:5e:10:00:01"), vec!["1 to 64"]),
            (",02:00:5e:10:00:01", vec!["no device name"]),
        ] {
            std::fs::write(&path, format!("device,mac\n{line}\n")).expect("write");
            let e = format!("{:#}", read_devices(&path).expect_err(line));
            for want in ["devices.csv", "line 2"].iter().chain(&wants) {
                assert!(e.contains(want), "{line:?}: `{want}` is not in `{e}`");
            }
        }
    }

    #[test]
    fn a_device_of_the_file_goes_before_the_list_and_doubles_of_the_list_are_found() {
        let dir = tempfile::tempdir().expect("temp dir");
        let text = "gateway.devices_file = \"devices.csv\"\n\
                    [[device]]\nlabel = \"cam\"\nmac = \"02:00:5e:10:00:07\"\n";
        let list = |lines: &str| {
            let all = format!("device,mac\ncam,02:00:5e:10:00:01\n{lines}");
            std::fs::write(dir.path().join("devices.csv"), all).expect("write");
            File::parse(text, dir.path()).map_err(|e| format!("{e:#}"))
        };
        let file = list("plug,02:00:5e:10:00:02\n").expect("valid");
        let macs: Vec<_> = file
            .devices
            .iter()
            .filter_map(|d| d.mac.as_deref())
            .collect();
        assert_eq!(macs, ["02:00:5e:10:00:07", "02:00:5e:10:00:02"]);
        for (lines, want) in [
            (
                "plug,02:00:5e:10:00:02\nplug,02:00:5e:10:00:03\n",
                "devices number 2 and 3 both have the label plug",
            ),
            (
                "plug,02:00:5e:10:00:07\n",
                "devices cam and plug both have the MAC address 02:00:5e:10:00:07",
            ),
        ] {
            let e = list(lines).expect_err(lines);
            assert!(e.contains(want), "`{want}` is not in `{e}`");
        }
    }
}
