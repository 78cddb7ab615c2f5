//! The command line, and what it means once checked.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use chaff_abi::{Mac, Nanos};
use chaff_export::{Key, Mode, Rotation, Transport};
use chaff_flow::plugin::Extension;
use chaff_flow::{ParserConfig, TableConfig, nfstream};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use super::live::LiveOptions;
use super::output::{OutputPlan, Place};
use super::profile::Meter;
use super::ring::RingOptions;

/// Turns captures, or the traffic of an interface, into flow records.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(
    override_usage = "gateway meter [OPTIONS] INPUT...\n       gateway meter [OPTIONS] --live INTERFACE",
    after_long_help = "\
Examples:
  gateway meter home.pcap --output flows.csv
  gateway meter monday.pcap tuesday.pcapng.gz --output flows.parquet --idle-timeout 60
  gateway meter home.pcap --profile nfstream --statistics --splt 20        writes home.pcap.csv, as NFStream would
  gateway meter home.pcap --output - --format jsonl --filter 'tcp port 443' | head
  gateway meter home.pcap --output flows.csv --anonymize src_ip,dst_ip,src_mac,dst_mac --anonymize-mode prefix
  gateway meter --live eth0 --output flows.csv --rotate-every 3600 --report-interval 60
  gateway meter --live eth0 --output flows.csv --processes                 with the process behind each socket of this machine
  gateway meter home.pcap --output ipfix://10.0.0.5:4739
  gateway meter --explain --profile nfstream --statistics                  which columns there will be

Every packet ends up in one flow or is counted by the reason why not; the report has the sum.

Exit codes:
  0  done, also when a signal or a limit ended the reading
  1  an input was damaged (what came before the damage is in the output), or the output could not be written on
  2  wrong usage, no such file, not a capture, a wrong filter
  3  no libpcap for a filter, no privilege for an interface"
)]
pub struct Args {
    /// Captures (pcap, pcapng, packed with gzip or not), read one after another as one source; `-` is standard input. SIGINT
    /// or SIGTERM ends the reading; the flows so far are written.
    #[arg(value_name = "INPUT", required_unless_present_any = ["live", "explain"], conflicts_with = "live")]
    pub input: Vec<PathBuf>,
    /// Where the flows go: a file, which is overwritten, `-` for standard output, `ipfix://HOST:PORT` (UDP) or
    /// `ipfix+tcp://HOST:PORT`. Without it, a new file with the name of the first input and the format's ending behind it.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Format of the flows; without it, by the ending of the output's name (.csv, .jsonl, .parquet, .ipfix; .csv.gz and
    /// .jsonl.gz are packed), or CSV for a name without any.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Which columns, by whose rules.
    #[arg(long, value_enum, default_value = "native")]
    pub profile: Profile,
    /// Seconds without a packet after which a flow ends.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub idle_timeout: Nanos,
    /// Seconds after which a flow is cut.
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = seconds)]
    pub active_timeout: Nanos,
    /// Idle timeout of TCP flows, seconds. Native profile.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub idle_tcp: Option<Nanos>,
    /// Idle timeout of UDP flows, seconds. Native profile.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub idle_udp: Option<Nanos>,
    /// Idle timeout of ICMP flows, seconds. Native profile.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub idle_icmp: Option<Nanos>,
    /// Whether FIN and RST end TCP flows, a few seconds later. Native profile. [default: true]
    #[arg(long, value_name = "BOOL")]
    pub tcp_end: Option<bool>,
    /// Packets with different VLAN ids are of different flows, also when addresses and ports are the same: for VLANs that use
    /// the same addresses. Native profile; nfstream always does so.
    #[arg(long)]
    pub vlan_key: bool,
    /// Flows held in memory at once; beyond that one ends early. It bounds memory: a flow takes 0.7 kB, nfstream 0.2 kB,
    /// and more with --statistics (2 kB), --splt (25 bytes a packet), --dissect (0.6 kB, and 64 MiB for all handshakes
    /// that never end). [default: 262144, nfstream 8388608]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cache_flows: Option<u32>,
    /// Stop after so many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_packets: Option<u64>,
    /// Stop after so many flows; packets of flows that have not ended then are in none.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_flows: Option<u64>,
    /// Whether packets inside tunnels are metered instead of those around them.
    #[arg(long, value_name = "BOOL", default_value = "true", action = clap::ArgAction::Set)]
    pub decode_tunnels: bool,
    /// Meter only packets that this filter accepts, in the language of tcpdump. Needs libpcap.
    #[arg(long, value_name = "BPF")]
    pub filter: Option<String>,
    /// Table of protected devices with a column `mac`; it fills the column `device_dir`.
    #[arg(long, value_name = "CSV")]
    pub devices: Option<PathBuf>,
    /// Threads: 1 does all in one, 2 writes in the second, 3 also reads in the third. The output is the same. [default: as
    /// many as there are processors, at most 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: Option<u8>,

    /// Add columns with statistics: of sizes, gaps, flags; in the native profile also quantiles, rates, TCP health and more.
    #[arg(long, help_heading = "Columns")]
    pub statistics: bool,
    /// Add columns with direction, sizes and gaps of the first N packets. At most 255, so that a flow keeps below 7 kB for
    /// them (NFStream takes 65,535, with a warning above 255).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=255), help_heading = "Columns")]
    pub splt: Option<u16>,
    /// Which size counts in the nfstream profile: 0 frame, 1 IP packet, 2 transport, 3 payload. The native profile has all
    /// four. [default: 0]
    #[arg(long, value_name = "MODE", value_parser = clap::value_parser!(u8).range(0..=3), help_heading = "Columns")]
    pub accounting: Option<u8>,
    /// Packets of a flow that are looked into for application, server name and fingerprints; 0 for no such columns.
    /// [default: 0, nfstream 20]
    #[arg(long, value_name = "N", help_heading = "Columns")]
    pub dissect: Option<u8>,
    /// Add a plugin: slicer, splt, dhcp, mdns, ja4, wavelet, or ndpi where libndpi 4.2 is installed; options behind a
    /// colon, as in `slicer:limit=4`.
    #[arg(long, value_name = "NAME[:KEY=VALUE,...]", help_heading = "Columns")]
    pub plugin: Vec<String>,

    /// Replace the values of these columns by pseudonyms.
    #[arg(
        long,
        value_name = "COLUMNS",
        value_delimiter = ',',
        help_heading = "Anonymising"
    )]
    pub anonymize: Vec<String>,
    /// What values become. [default: hash]
    #[arg(long, value_enum, help_heading = "Anonymising")]
    pub anonymize_mode: Option<AnonymizeMode>,
    /// File with a key of 32 to 64 bytes or as many in hexadecimal digits, for pseudonyms that stay the same over runs.
    /// Without it, a random key that is forgotten.
    #[arg(long, value_name = "FILE", help_heading = "Anonymising")]
    pub anonymize_key: Option<PathBuf>,

    /// Begin a new file after so many flows; names get a number: `flows.0.csv`, `flows.1.csv`, ...
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Files")]
    pub rotate_flows: Option<u64>,
    /// Begin a new file after so many bytes, such as 100M; before packing.
    #[arg(long, value_name = "BYTES", value_parser = size, help_heading = "Files")]
    pub rotate_size: Option<u64>,
    /// Begin a new file every so many seconds of the clock; names get the period: `flows.20260131T130000Z.0.csv`.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Files")]
    pub rotate_every: Option<u32>,
    /// Keep so many files: names begin with the first again; with --rotate-every the oldest file of this run is removed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Files")]
    pub rotate_files: Option<u64>,
    /// Private enterprise number under which IPFIX carries columns that have no standard element.
    #[arg(long, value_name = "PEN", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Files")]
    pub ipfix_enterprise: Option<u32>,
    /// Datagrams a second to a collector at most; each holds about ten flows. [default: 5000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Files")]
    pub ipfix_rate: Option<u32>,

    /// Meter the traffic of this interface until SIGINT or SIGTERM. Needs CAP_NET_RAW.
    #[arg(long, value_name = "INTERFACE", help_heading = "Live")]
    pub live: Option<String>,
    /// Stop after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Live")]
    pub duration: Option<Nanos>,
    /// Whether packets for other machines are metered too. [default: true]
    #[arg(long, value_name = "BOOL", help_heading = "Live")]
    pub promiscuous: Option<bool>,
    /// Bytes kept of each packet. [default: 65535]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(64..=262_144), help_heading = "Live")]
    pub snaplen: Option<u32>,
    /// Room for packets that wait, 2M to 4G. [default: 16M]
    #[arg(long, value_name = "BYTES", value_parser = buffer, help_heading = "Live")]
    pub buffer_size: Option<u64>,
    /// Add columns with the process of this machine whose socket each flow is: its id and name. Traffic that is forwarded
    /// belongs to none. Exact with root (or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN), Linux 5.15 and cgroup version 2; else
    /// from /proc, which misses sockets that live for less than 0.1 s.
    #[arg(long, help_heading = "Live")]
    pub processes: bool,
    /// Print a line of JSON with the counts to standard error every so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Live")]
    pub report_interval: Option<u32>,

    /// Where to write what was read, metered and ignored, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print that as JSON to standard output instead of a few lines to standard error.
    #[arg(long)]
    pub json: bool,
    /// Print nothing when all went well, no notes and no progress either.
    #[arg(long, short, conflicts_with = "json")]
    pub quiet: bool,
    /// Print the columns that these options give, in Markdown, and stop.
    #[arg(long)]
    pub explain: bool,
}

/// Formats of flows.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values with a header line; with the profile nfstream exactly as NFStream writes it.
    Csv,
    /// Apache Parquet with units and meanings, for pandas, polars, DuckDB.
    Parquet,
    /// One JSON object a line.
    Jsonl,
    /// IPFIX messages (RFC 7011, RFC 5655).
    Ipfix,
}

impl Format {
    /// The usual ending of file names.
    pub const fn ending(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
            Self::Ipfix => "ipfix",
        }
    }

    /// By the ending of a file's name; CSV without one, `None` for one that tells nothing.
    fn of(path: &Path) -> Option<Self> {
        let Some(ending) = path.extension() else {
            return Some(Self::Csv);
        };
        match ending.to_ascii_lowercase().to_str()? {
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            "jsonl" | "ndjson" | "json" => Some(Self::Jsonl),
            "ipfix" => Some(Self::Ipfix),
            _ => None,
        }
    }
}

/// The name without `.gz`, if it has that.
fn without_gz(path: &Path) -> Option<PathBuf> {
    let is_gz = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("gz"));
    is_gz.then(|| path.with_extension(""))
}

/// Whose rules decide what a flow is and what is said of it.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Everything that Chaff knows: times in ns, four sizes at once, why a flow ended.
    #[default]
    Native,
    /// The values of NFStream 6.6.0, byte for byte.
    Nfstream,
}

impl Profile {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Nfstream => "nfstream",
        }
    }
}

/// What anonymised values become.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnonymizeMode {
    /// Tokens: BLAKE2b with the key, as NFStream.
    #[default]
    Hash,
    /// Addresses that share what they shared before (Crypto-PAn); MAC addresses keep the manufacturer. Tokens for the rest.
    Prefix,
}

impl From<AnonymizeMode> for Mode {
    fn from(mode: AnonymizeMode) -> Self {
        match mode {
            AnonymizeMode::Hash => Self::Hash,
            AnonymizeMode::Prefix => Self::Prefix,
        }
    }
}

fn seconds(text: &str) -> Result<Nanos, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=1e9).contains(&s) => Ok(Nanos::from_secs_f64(s)),
        _ => Err("expected seconds between 0 and 1000000000, such as 120 or 0.5".into()),
    }
}

fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    match digits.parse::<u64>() {
        Ok(n) if (1..=1 << 33).contains(&n) => Ok(n << shift),
        _ => Err("expected bytes, such as 500000, 64M or 2G".into()),
    }
}

fn buffer(text: &str) -> Result<u64, String> {
    match size(text) {
        Ok(bytes) if (2 << 20..=4 << 30).contains(&bytes) => Ok(bytes),
        _ => Err("expected 2M to 4G, such as 64M".into()),
    }
}

impl Args {
    /// Options that would do nothing beside the others.
    ///
    /// # Errors
    /// One of them is given.
    pub fn check(&self) -> anyhow::Result<()> {
        let of_live = [
            ("--processes", self.processes),
            ("--duration", self.duration.is_some()),
            ("--report-interval", self.report_interval.is_some()),
            ("--promiscuous", self.promiscuous.is_some()),
            ("--snaplen", self.snaplen.is_some()),
            ("--buffer-size", self.buffer_size.is_some()),
        ];
        if self.live.is_none() && !self.explain {
            refuse(
                &of_live,
                "needs --live: it is for interfaces, not for captures",
            )?;
        }
        let of_anonymize = [
            ("--anonymize-mode", self.anonymize_mode.is_some()),
            ("--anonymize-key", self.anonymize_key.is_some()),
        ];
        if self.anonymize.is_empty() {
            refuse(&of_anonymize, "needs --anonymize")?;
        }
        Ok(())
    }

    /// The meter that these options describe.
    ///
    /// # Errors
    /// Options that do not go together, a wrong plugin, a device table that cannot be read.
    pub fn meter(&self) -> anyhow::Result<Meter> {
        match self.profile {
            Profile::Native => self.native(),
            Profile::Nfstream => self.nfstream(),
        }
    }

    fn native(&self) -> anyhow::Result<Meter> {
        if self.accounting.is_some() {
            bail!("--accounting needs --profile nfstream; the native profile has all four sizes");
        }
        let parser = ParserConfig {
            decode_tunnels: self.decode_tunnels,
            hash_seed: random_word()?,
            ..ParserConfig::default()
        };
        let defaults = TableConfig::default();
        let table = TableConfig {
            idle_timeout: self.idle_timeout,
            idle_tcp: self.idle_tcp,
            idle_udp: self.idle_udp,
            idle_icmp: self.idle_icmp,
            tcp_linger: defaults.tcp_linger.filter(|_| self.tcp_end.unwrap_or(true)),
            active_timeout: self.active_timeout,
            statistics: self.statistics,
            splt: self.splt.unwrap_or(0),
            dissect: self.dissect.unwrap_or(0).into(),
            vlan_key: self.vlan_key,
            processes: self.processes,
            max_flows: self.cache_flows.map_or(defaults.max_flows, |n| n as usize),
            hash_seed: random_word()?,
            ..defaults
        };
        Ok(Meter::native(parser, table, self.plugins()?, self.macs()?))
    }

    fn nfstream(&self) -> anyhow::Result<Meter> {
        let foreign = [
            ("--devices", self.devices.is_some()),
            ("--idle-tcp", self.idle_tcp.is_some()),
            ("--idle-udp", self.idle_udp.is_some()),
            ("--idle-icmp", self.idle_icmp.is_some()),
            ("--tcp-end", self.tcp_end.is_some()),
            ("--vlan-key", self.vlan_key),
        ];
        refuse(&foreign, "needs --profile native")?;
        let defaults = nfstream::Config::default();
        let config = nfstream::Config {
            accounting: self.accounting.unwrap_or(0),
            idle_timeout_s: whole_seconds("--idle-timeout", self.idle_timeout)?,
            active_timeout_s: whole_seconds("--active-timeout", self.active_timeout)?,
            statistics: self.statistics,
            splt: self.splt.unwrap_or(0),
            decode_tunnels: self.decode_tunnels,
            dissect: self.dissect.unwrap_or(20),
            processes: self.processes,
            max_cached: self.cache_flows.map_or(defaults.max_cached, |n| n as usize),
            hash_seed: random_word()?,
            ..defaults
        };
        Ok(Meter::nfstream(config, self.plugins()?))
    }

    fn plugins(&self) -> anyhow::Result<Vec<Extension>> {
        let all: anyhow::Result<Vec<Extension>> =
            self.plugin.iter().map(|text| plugin(text)).collect();
        let all = all?;
        chaff_flow::plugin::check(&all)?;
        Ok(all)
    }

    /// Where and how rows are written.
    ///
    /// # Errors
    /// No name for the output, options that do not go together.
    pub fn output(&self) -> anyhow::Result<OutputPlan> {
        let place = match &self.output {
            Some(path) => Place::try_from(path.as_path())?,
            None => Place::File(self.default_output()?),
        };
        let (format, gzip) = self.format_of(&place)?;
        let of_ipfix = [
            ("--ipfix-enterprise", self.ipfix_enterprise.is_some()),
            ("--ipfix-rate", self.ipfix_rate.is_some()),
        ];
        if format != Format::Ipfix {
            refuse(&of_ipfix, "needs an output in IPFIX")?;
        }
        let is_udp = matches!(&place, Place::Collector(c) if c.transport == Transport::Udp);
        if !is_udp {
            refuse(&of_ipfix[1..], "needs --output ipfix://HOST:PORT")?;
        }
        let rotation = Rotation {
            rows: self.rotate_flows,
            bytes: self.rotate_size,
            period: self.rotate_every.map(|s| Nanos::from_secs(s.into())),
            files: self.rotate_files,
        };
        if !rotation.is_none() && !matches!(place, Place::File(_)) {
            bail!("only files are rotated, not {}", place.name());
        }
        if place == Place::Stdout && self.report.as_deref().is_some_and(super::input::is_dash) {
            bail!("flows and report cannot both go to standard output");
        }
        if rotation.is_none() && self.rotate_files.is_some() {
            bail!("--rotate-files needs --rotate-flows, --rotate-size or --rotate-every");
        }
        let hides_addresses = self.anonymize_mode.unwrap_or_default() == AnonymizeMode::Hash
            && self
                .anonymize
                .iter()
                .any(|name| ["src_ip", "dst_ip", "src_mac", "dst_mac"].contains(&name.trim()));
        if format == Format::Ipfix && hides_addresses {
            bail!(
                "IPFIX has no room for tokens in place of addresses; use --anonymize-mode prefix"
            );
        }
        let is_derived = self.output.is_none();
        if let Place::File(path) = &place
            && is_derived
            && rotation.is_none()
            && path.exists()
        {
            let name = path.display();
            bail!("{name} exists; `--output {name}` overwrites it");
        }
        Ok(OutputPlan {
            place,
            format,
            gzip,
            is_derived,
            taken: Vec::new(),
            profile: self.profile,
            rotation,
            ipfix_enterprise: self.ipfix_enterprise,
            ipfix_rate: self.ipfix_rate.unwrap_or(5_000),
        })
    }

    /// The format, and whether it is packed.
    fn format_of(&self, place: &Place) -> anyhow::Result<(Format, bool)> {
        let path = match place {
            Place::Collector(_) => {
                if self.format.is_some_and(|f| f != Format::Ipfix) {
                    bail!("a collector takes --format ipfix");
                }
                return Ok((Format::Ipfix, false));
            }
            Place::Stdout => return Ok((self.format.unwrap_or(Format::Csv), false)),
            Place::File(path) => path,
        };
        let bare = without_gz(path);
        let by_name = match &bare {
            // `flows.gz` does not tell what is packed.
            Some(bare) if bare.extension().is_none() => None,
            _ => Format::of(bare.as_deref().unwrap_or(path)),
        };
        let Some(format) = self.format.or(by_name) else {
            bail!(
                "{}: the ending of the name tells no format; give --format, or a name that ends with .csv, .csv.gz, .jsonl, \
                 .jsonl.gz, .parquet or .ipfix",
                path.display()
            );
        };
        match format {
            Format::Parquet if bare.is_some() => {
                bail!(
                    "{}: Parquet is packed already; leave .gz away",
                    path.display()
                )
            }
            Format::Ipfix if bare.is_some() => {
                bail!("{}: IPFIX is not packed; leave .gz away", path.display())
            }
            _ => Ok((format, bare.is_some())),
        }
    }

    fn default_output(&self) -> anyhow::Result<PathBuf> {
        let ending = self.format.unwrap_or(Format::Csv).ending();
        let name = match (&self.live, self.input.first()) {
            (Some(interface), _) => interface.clone().into(),
            (None, Some(first)) if !super::input::is_dash(first) => first.clone().into_os_string(),
            _ => bail!("standard input has no name for the output: give --output"),
        };
        let mut name = name;
        name.push(format!(".{ending}"));
        Ok(name.into())
    }

    /// The interface to meter, if any.
    pub fn interface(&self) -> Option<LiveOptions> {
        Some(LiveOptions {
            interface: self.live.clone()?,
            ring: RingOptions {
                buffer: self.buffer_size.unwrap_or(16 << 20) as usize,
                snaplen: self.snaplen.unwrap_or(65_535),
                promiscuous: self.promiscuous.unwrap_or(true),
            },
            duration: self.duration.map(|d| Duration::from_nanos(d.0)),
            max_packets: self.max_packets,
        })
    }

    /// The key for pseudonyms: from its file, or drawn.
    ///
    /// # Errors
    /// The file cannot be read or holds no key.
    pub fn key(&self) -> anyhow::Result<Key> {
        let Some(path) = &self.anonymize_key else {
            let mut bytes = Zeroizing::new([0; Key::MAX]);
            OsRng
                .try_fill_bytes(&mut bytes[..])
                .map_err(|e| anyhow!("the system gives no random bytes: {e}"))?;
            return Ok(Key::new(&bytes[..])?);
        };
        let reading = || format!("key file {}", path.display());
        let mode = fs::metadata(path)
            .with_context(reading)?
            .permissions()
            .mode()
            & 0o777;
        if mode & 0o077 != 0 {
            bail!(
                "{} has mode {mode:04o}: others can read it; run chmod 600 on it",
                reading()
            );
        }
        let content = KeyFile(fs::read(path).with_context(reading)?);
        Key::from_file_content(&content.0).with_context(reading)
    }

    fn macs(&self) -> anyhow::Result<BTreeSet<Mac>> {
        match &self.devices {
            Some(path) => {
                read_devices(path).with_context(|| format!("in device table {}", path.display()))
            }
            None => Ok(BTreeSet::new()),
        }
    }
}

/// Refuses the first option that is given.
fn refuse(options: &[(&str, bool)], why: &str) -> anyhow::Result<()> {
    match options.iter().find(|(_, given)| *given) {
        Some((option, _)) => bail!("{option} {why}"),
        None => Ok(()),
    }
}

/// So that no capture can aim at one bucket of a table. No output depends on it.
fn random_word() -> anyhow::Result<u64> {
    OsRng
        .try_next_u64()
        .map_err(|e| anyhow!("the system gives no random bytes: {e}"))
}

/// Content of a key file, wiped when dropped.
struct KeyFile(Vec<u8>);

impl Drop for KeyFile {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(self.0.as_mut_slice());
    }
}

fn whole_seconds(flag: &str, time: Nanos) -> anyhow::Result<u32> {
    let seconds = time.0 / 1_000_000_000;
    if !time.0.is_multiple_of(1_000_000_000) {
        bail!("{flag}: NFStream knows whole seconds only");
    }
    u32::try_from(seconds).with_context(|| format!("{flag} is too long"))
}

/// `NAME[:KEY=VALUE,...]`.
fn plugin(text: &str) -> anyhow::Result<Extension> {
    if let Some(options) = text.strip_prefix("ndpi:") {
        return Ok(super::ndpi::plugin(Some(options))?);
    } else if text == "ndpi" {
        return Ok(super::ndpi::plugin(None)?);
    }
    Ok(Extension::built_in(&text.replacen(':', ",", 1))?)
}

/// The MACs in column `mac`. Quoted cells are not needed for MACs; other columns are not looked at.
fn read_devices(path: &Path) -> anyhow::Result<BTreeSet<Mac>> {
    let text = fs::read_to_string(path)?;
    let mut lines = text.lines();
    let header = lines.next().context("it is empty")?;
    let column = header
        .split(',')
        .position(|name| name.trim() == "mac")
        .context("it has no column `mac`")?;
    let mut macs = BTreeSet::new();
    for (i, line) in lines
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let cell = line.split(',').nth(column).unwrap_or("").trim();
        let mac = cell
            .parse::<Mac>()
            .with_context(|| format!("line {}: `{cell}`", i + 2))?;
        macs.insert(mac);
    }
    Ok(macs)
}
