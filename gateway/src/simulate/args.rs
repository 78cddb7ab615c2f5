//! The command's options.

use std::path::PathBuf;

use anyhow::bail;
use chaff_abi::Nanos;
use serde::Serialize;

use crate::config::{Amount, ENVELOPE, within};
use crate::units::Bytes;

/// Runs captures through the gateway and the sink in virtual time.
///
/// Same captures, seed and generators: same output files, byte for byte.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  gateway simulate --pcap home.pcap --cover random --out out
  gateway simulate --pcap cam.pcap --pcap plug.pcap --devices devices.csv --cover generator.onnx --seed 7 --out out
  gateway simulate --synthetic home.synth --records 500 --seed 7 --cover random --out out

Writes packets.csv (time_s,dir,size_bytes,is_dummy,device; what an observer of the uplink sees, with the truth
beside it), observed.pcap, flows.csv, slots.csv, telemetry.jsonl, alerts.jsonl, report.json.")]
pub struct Args {
    /// Captures (pcap or pcapng, Ethernet); several are laid over one another.
    #[arg(long, value_name = "FILE", required_unless_present = "synthetic", num_args = 1..)]
    pub pcap: Vec<PathBuf>,
    /// Traffic drawn from a model of `trainer synth fit`, from --seed; with --pcap laid over the captures. Hosts with private
    /// addresses are devices; from a model without any, name them with --devices.
    #[arg(long, value_name = "MODEL")]
    pub synthetic: Option<PathBuf>,
    /// One-way flows to draw with --synthetic, of which flows.csv has fewer: it joins both directions. Default: as many as the
    /// model has learned from. --duration cuts in time.
    #[arg(long, value_name = "N", requires = "synthetic", value_parser = clap::value_parser!(u32).range(1..=20_000_000))]
    pub records: Option<u32>,
    /// CSV with columns device, mac, ip; without it devices are found in the captures.
    #[arg(long, value_name = "FILE")]
    pub devices: Option<PathBuf>,
    /// Generator: none, constant, random, random+, a model that comes with Chaff (ipet, learned), an ONNX file, or a folder with
    /// LABEL.onnx files; with --mode tunnel also envelope, one always-on process for the whole tunnel.
    #[arg(long, default_value = "none", value_name = "NAME|FILE|DIR")]
    pub cover: String,
    /// How cover travels. `rider` differs from `plain` only by the tunnel around it, which is not simulated; `tunnel`
    /// is the gateway's own, whose messages are made.
    #[arg(long, value_enum, default_value_t = ModeArg::Plain)]
    pub mode: ModeArg,
    /// Lengths in the tunnel, with --mode tunnel: off, fine, default, mtu.
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = bins_of)]
    pub bins: chaff_tunnel::Profile,
    /// Longest wait of a real packet for the slot of a dummy, with --mode tunnel, milliseconds, 0 to 1000.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    pub hold: f64,
    /// Time between the moments at which packets leave, with --mode tunnel, milliseconds, 0 to 100; 0: each at once.
    #[arg(long, value_name = "MS", default_value_t = 5.0)]
    pub clock: f64,
    /// How much cover an envelope makes.
    #[arg(long, value_enum, default_value_t = Amount::Normal)]
    pub profile: Amount,
    /// Cover only from a device's first packet until 5 s after its last, as iPET does.
    #[arg(long)]
    pub active: bool,
    /// Virtual seconds to simulate; default: the captures' length, at most 31 days, and 5 s.
    #[arg(long, value_name = "S")]
    pub duration: Option<f64>,
    /// Virtual time of the captures' first frame, seconds.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub start: f64,
    /// Delay between gateway and sink, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    pub delay: f64,
    /// Share of packets lost between gateway and sink, 0 to 1.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub loss: f64,
    /// Most cover bytes per second and device, headers included; 100B to 10GB.
    #[arg(long, value_name = "BYTES", default_value = "20kB")]
    pub rate: Bytes,
    /// A gateway's configuration file, of which the section `[telemetry]` is used; without it all its defaults.
    #[arg(long, value_name = "FILE")]
    pub telemetry: Option<PathBuf>,
    /// Most ε of all telemetry of the run; 0 switches telemetry off.
    #[arg(long, default_value_t = 1000.0)]
    pub epsilon_total: f64,
    /// `telemetry.epsilon`: ε of a device's day, 0.001 to 100.
    #[arg(long, value_name = "E")]
    pub epsilon: Option<f64>,
    /// `telemetry.period`: seconds between releases, a whole number that divides a day.
    #[arg(long, value_name = "S")]
    pub telemetry_period: Option<f64>,
    /// Seconds in which a device's habits are learnt before alerts are raised.
    #[arg(long, value_name = "S", default_value_t = 3600.0)]
    pub learn: f64,
    /// All randomness comes from this number.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder for the output files; created.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print the report as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

/// Modes that can be simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeArg {
    /// Datagrams without a tunnel.
    Plain,
    /// Datagrams inside somebody else's tunnel.
    Rider,
    /// All IP traffic in the gateway's own tunnel, cover inside: sizes and times on the wire are exact.
    Tunnel,
}

fn bins_of(text: &str) -> Result<chaff_tunnel::Profile, String> {
    use chaff_tunnel::Profile;
    match text {
        "off" => Ok(Profile::Off),
        "fine" => Ok(Profile::Fine),
        "default" => Ok(Profile::Default),
        "mtu" => Ok(Profile::Mtu),
        _ => Err("expected off, fine, default or mtu".into()),
    }
}

impl Args {
    /// Checks that every number is one and in its range.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        within("--loss", self.loss, 0.0, 1.0)?;
        within("--delay", self.delay, 0.0, 1e9)?;
        within("--hold", self.hold, 0.0, 1e3)?;
        within("--clock", self.clock, 0.0, 100.0)?;
        if self.cover == ENVELOPE && self.mode != ModeArg::Tunnel {
            bail!("--cover envelope needs --mode tunnel");
        }
        within("--start", self.start, 0.0, 1e9)?;
        within("--duration", self.duration.unwrap_or(1.0), 1e-9, 1e9)?;
        within("--learn", self.learn, 0.0, 1e9)?;
        if let Some(s) = self.telemetry_period
            && !(s.fract() == 0.0 && (1.0..=86_400.0).contains(&s) && 86_400 % s as u64 == 0)
        {
            bail!(
                "--telemetry-period is {s}, allowed is a whole number that divides a day, 1 to 86400"
            );
        }
        within("--epsilon", self.epsilon.unwrap_or(1.0), 0.001, 100.0)?;
        within("--epsilon-total", self.epsilon_total, 0.0, 100_000.0)?;
        within("--rate", self.rate, Bytes(100), Bytes(10_000_000_000))
    }

    pub(super) fn wan_delay(&self) -> Nanos {
        Nanos::from_secs_f64(self.delay / 1e3)
    }
}
