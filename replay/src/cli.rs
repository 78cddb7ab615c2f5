//! The command line, and its conversion into checked [`Options`].
use std::path::PathBuf;

use chaff_abi::{Dir, Nanos};
use chaff_replay::verify::Host;
use chaff_replay::{
    LoadOptions, Options, Oversize, Pacing, Place, ReplayError, Rewrite, Synthetic, Target,
};
use clap::{ArgGroup, Parser, ValueEnum};

/// Replays captures into interfaces at exact times.
#[derive(Debug, Parser)]
#[command(
    name = "replay",
    version,
    after_long_help = AFTER,
    group(ArgGroup::new("target").required(true).args(["interface", "pair", "udp", "tun"])),
    group(ArgGroup::new("pacing").args(["speed", "topspeed", "pps", "mbps"])),
    group(ArgGroup::new("oversize").args(["truncate_to_mtu", "skip_oversize"])),
)]
pub(crate) struct Args {
    /// Captures (pcap or pcapng; `-` is standard input). Several start together, each on its own timeline.
    #[arg(required_unless_present = "synthetic", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Draw the traffic from a model of `trainer synth fit`; with FILE beside the captures. Hosts with private addresses have a
    /// MAC address each.
    #[arg(long, value_name = "MODEL")]
    synthetic: Option<PathBuf>,
    /// Flows to draw with --synthetic; default: as many as the model has learned from. --limit and --duration cut.
    #[arg(long, value_name = "N", requires = "synthetic", value_parser = clap::value_parser!(u32).range(1..=20_000_000))]
    records: Option<u32>,
    /// Seed of --synthetic: the same model, number and seed give the same packets.
    #[arg(long, value_name = "N", requires = "synthetic", default_value_t = 1)]
    seed: u64,

    /// Send everything into one interface. `IF@NETNS` names one in a network namespace.
    #[arg(long, short, value_name = "IF")]
    interface: Option<String>,
    /// Send frames from the devices into IF_A and all others into IF_B.
    #[arg(long, num_args = 2, value_names = ["IF_A", "IF_B"])]
    pair: Option<Vec<String>>,
    /// Send the devices' UDP and TCP payloads as datagrams and count echoes. `HOST:PORT@NETNS` sends from there.
    #[arg(long, value_name = "HOST:PORT")]
    udp: Option<String>,
    /// Send IP packets into a TUN device, made when there is none.
    #[arg(long, value_name = "NAME")]
    tun: Option<String>,

    /// A protected device: MAC, IP, or a name of --devices. Without any, --pair and --udp take the MAC address in
    /// most frames among those that never send from a public IPv4 address.
    #[arg(long, value_name = "MAC|IP|NAME")]
    device: Vec<String>,
    /// Device list: CSV with the columns device, mac, ip.
    #[arg(long, value_name = "CSV")]
    devices: Option<PathBuf>,
    /// Only frames from the devices (out) or to them (in).
    #[arg(long, value_name = "out|in")]
    direction: Option<Direction>,
    /// Leave out frames that neither come from nor go to a device (with --interface and --device this is so anyway).
    #[arg(long)]
    only_devices: bool,
    /// Leave out frames between two devices.
    #[arg(long)]
    skip_local: bool,

    /// Times of the capture divided by X.
    #[arg(long, value_name = "X")]
    speed: Option<f64>,
    /// As fast as possible, in batches of 64.
    #[arg(long)]
    topspeed: bool,
    /// Equal distances: N packets per second over both interfaces together.
    #[arg(long, value_name = "N")]
    pps: Option<f64>,
    /// N million bits per second, frame bytes counted.
    #[arg(long, value_name = "N")]
    mbps: Option<f64>,
    /// Keep the real distance between several files instead of starting all together.
    #[arg(long)]
    keep_gaps: bool,
    /// How often; 0 until interrupted.
    #[arg(long = "loop", value_name = "N", default_value_t = 1)]
    loops: u64,
    /// At most N packets in all.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// At most S seconds.
    #[arg(long, value_name = "S")]
    duration: Option<f64>,

    /// Changes: src-mac, dst-mac, src-ip, dst-ip, ip (OLD:NEW, prefixes allowed, IPv6 in brackets), vlan (strip or an
    /// id); `out.` or `in.` ahead of a key limits it to a direction. Checksums are kept right.
    #[arg(long, value_name = "KEY=VALUE[,...]")]
    rewrite: Vec<String>,
    /// Fill frames that the capture cut with zeros to their length on the wire (default).
    #[arg(long, overrides_with = "no_pad")]
    pad: bool,
    /// Send cut frames as short as they are.
    #[arg(long)]
    no_pad: bool,
    /// Cut frames over the MTU instead of refusing to start.
    #[arg(long)]
    truncate_to_mtu: bool,
    /// Leave out frames over the MTU instead of refusing to start.
    #[arg(long)]
    skip_oversize: bool,
    /// Replay what is good before the first broken packet of a capture.
    #[arg(long)]
    lax: bool,
    /// Most memory for packets, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    max_memory: u64,

    /// Receive on both interfaces of --pair too: every frame must arrive at the other side once, byte for byte, and
    /// nothing else may (exit code 1). With --udp: every datagram must be echoed.
    #[arg(long)]
    verify: bool,
    /// Do not look at frames from or to this host (the cover channel).
    #[arg(long, value_name = "MAC|IP[:PORT]")]
    ignore_host: Vec<String>,
    /// Wait S seconds for the last packets to arrive.
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    grace: f64,

    /// Spin instead of sleeping for the last US microseconds before a packet is due.
    #[arg(long, value_name = "US", default_value_t = 0)]
    spin: u64,
    /// Do not ask for real-time priority.
    #[arg(long)]
    no_realtime: bool,

    /// Write the report as JSON (`-` is standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) stats: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Say more on the way.
    #[arg(long, short, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// No progress bar, no notes.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

const AFTER: &str = "\
Examples:
  replay home.pcap --interface eth1
  replay cam.pcap --pair lan0@device wan0@server --device 02:00:5e:10:00:01 --verify
  replay cam.pcap --interface eth1 --rewrite ip=10.10.10.0/24:192.168.7.0/24,dst-mac=02:00:00:00:00:01
  replay cam.pcap --udp 192.0.2.1:4460 --speed 10
  replay --synthetic home.synth --records 500 --seed 7 --interface eth1
  replay home.pcap --interface eth1 --topspeed --loop 100 --stats report.json

Memory: captures are held in memory. At most --max-memory for the captured bytes (plus 40 bytes a packet) and as much
again for the frames to send (plus 64 bytes a packet); the first part is given back before sending starts. --verify
adds about 100 bytes a packet and 8 MiB. Nothing grows while it runs, however many loops.

Exit codes: 0 done, 1 sending or --verify failed, 2 wrong usage or input, 3 privilege or kernel feature missing.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Direction {
    Out,
    In,
}

fn positive(option: &'static str, value: Option<f64>) -> Result<Option<f64>, ReplayError> {
    match value {
        Some(x) if !(x.is_finite() && x > 0.0) => Err(ReplayError::Option {
            option,
            value: x.to_string(),
            what: "must be above 0",
        }),
        _ => Ok(value),
    }
}

impl Args {
    /// Checks what clap cannot.
    pub(crate) fn options(&self) -> Result<Options, ReplayError> {
        let mut options = Options::new(self.files.clone(), self.target()?);
        options.synthetic = self.synthetic.clone().map(|model| Synthetic {
            model,
            records: self.records,
            seed: self.seed,
        });
        options.devices.clone_from(&self.device);
        options.device_list.clone_from(&self.devices);
        options.only = self.direction.map(|d| match d {
            Direction::Out => Dir::Out,
            Direction::In => Dir::In,
        });
        options.only_devices = self.only_devices;
        options.skip_local = self.skip_local;
        options.pacing = self.pacing()?;
        options.loops = self.loops;
        options.limit = self.limit;
        options.duration = positive("--duration", self.duration)?.map(Nanos::from_secs_f64);
        options.rewrite = Rewrite::parse(&self.rewrite)?;
        options.pad = !self.no_pad;
        options.oversize = if self.truncate_to_mtu {
            Oversize::Truncate
        } else if self.skip_oversize {
            Oversize::Skip
        } else {
            Oversize::Refuse
        };
        options.verify = self.verify;
        options.ignore = self
            .ignore_host
            .iter()
            .map(|h| h.parse::<Host>())
            .collect::<Result<_, _>>()?;
        options.grace = Nanos::from_secs_f64(self.grace);
        options.spin = Nanos::from_micros(self.spin);
        options.realtime = !self.no_realtime;
        options.load = LoadOptions {
            lax: self.lax,
            keep_gaps: self.keep_gaps,
            max_bytes: self.max_memory.saturating_mul(1 << 20),
        };
        Ok(options)
    }

    fn target(&self) -> Result<Target, ReplayError> {
        let place = |s: &String| s.parse::<Place>().unwrap_or_else(|e| match e {});
        let target = match (&self.pair, &self.interface, &self.tun, &self.udp) {
            (Some(pair), ..) => Target::Pair(place(&pair[0]), place(&pair[1])),
            (_, Some(interface), ..) => Target::Interface(place(interface)),
            (_, _, Some(tun), _) => Target::Tun(place(tun)),
            (.., udp) => Target::udp(udp.as_deref().unwrap_or_default())?,
        };
        if self.verify && !matches!(target, Target::Pair(..) | Target::Udp(..)) {
            return Err(ReplayError::Option {
                option: "--verify",
                value: String::new(),
                what: "needs --pair or --udp: with one interface nothing comes back",
            });
        }
        Ok(target)
    }

    fn pacing(&self) -> Result<Pacing, ReplayError> {
        Ok(if self.topspeed {
            Pacing::Top
        } else if let Some(pps) = positive("--pps", self.pps)? {
            Pacing::PacketsPerSecond(pps)
        } else if let Some(mbps) = positive("--mbps", self.mbps)? {
            Pacing::BitsPerSecond(mbps * 1e6)
        } else {
            Pacing::Capture {
                speed: positive("--speed", self.speed)?.unwrap_or(1.0),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Result<Options, String> {
        let args = Args::try_parse_from([&["replay", "a.pcap"], args].concat());
        args.map_err(|e| e.to_string())?
            .options()
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn needs_exactly_one_target() {
        assert!(options(&[]).is_err());
        assert!(options(&["--interface", "a", "--udp", "127.0.0.1:9"]).is_err());
        assert!(options(&["--pair", "a"]).is_err());
        assert!(options(&["--pair", "a", "b@n"]).is_ok());
        let drawn = options(&["--tun", "t", "--synthetic", "m", "--records", "5"]).unwrap();
        let synthetic = drawn.synthetic.unwrap();
        assert_eq!((synthetic.records, synthetic.seed), (Some(5), 1));
        assert!(options(&["--tun", "t", "--records", "5"]).is_err());
    }

    #[test]
    fn refuses_nonsense_with_the_option_named() {
        for (args, part) in [
            (&["--speed", "0"][..], "--speed"),
            (&["--pps", "0"], "--pps"),
            (&["--mbps", "nan"], "--mbps"),
            (&["--speed", "1", "--topspeed"], "--topspeed"),
            (&["--rewrite", "x=1"], "--rewrite"),
            (&["--ignore-host", "x"], "--ignore-host"),
            (&["--verify"], "--verify"),
        ] {
            let e = options(&[&["--interface", "a"], args].concat()).unwrap_err();
            assert!(e.contains(part), "{args:?}: {e}");
        }
    }

    #[test]
    fn pads_unless_told_otherwise() {
        assert!(options(&["--interface", "a"]).unwrap().pad);
        assert!(!options(&["--interface", "a", "--no-pad"]).unwrap().pad);
    }
}
