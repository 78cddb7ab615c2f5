//! `gateway simulate`: captures through the gateway and sink in virtual time.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, bail};
use chaff_abi::{Dir, Mac, Nanos};
use chaff_cover::{Mode, SchedulerConfig};
use chaff_engine::{
    AlertConfig, Config, Device, Event, Gateway, GatewayReport, Parts, Releases, Sink, SinkConfig,
    SinkReport, Source, Verdict,
};
use chaff_flow::Link;
use chaff_privacy::telemetry::MemoryBook;
use chaff_privacy::{Entropy, Epsilon};
use chaff_sim::frame::{self, Path as CoverPath};
use chaff_sim::nodes::{self, GatewayNode, SinkNode};
use chaff_sim::tunnel_nodes::{self, TunnelEnd};
use chaff_sim::{NodeId, Outcome, Sim};
use chaff_trace::PcapWriter;
use chaff_tunnel::{Class, PeerConfig, PrivateKey, Tunnel, TunnelReport};
use chaff_wire::{Key, Kind};
use hdrhistogram::Histogram;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use serde::Serialize;

use crate::captures::{self, COVER_ADDRESSES, Home, HomeFrame};
use crate::config::{Amount, ENVELOPE, read_devices, within};
use crate::export::{Exports, Paths};
use crate::generators;
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

/// Unix time of virtual time zero: fixed, so that runs repeat.
const UNIX_START: Nanos = Nanos::from_secs(1_700_000_000);

impl Args {
    /// Checks that every number is one and in its range.
    fn check(&self) -> anyhow::Result<()> {
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

    fn wan_delay(&self) -> Nanos {
        Nanos::from_secs_f64(self.delay / 1e3)
    }
}

/// `report.json`
#[derive(Serialize)]
struct Report {
    version: u32,
    captures: Vec<String>,
    devices: Vec<String>,
    cover: String,
    mode: ModeArg,
    seed: u64,
    duration_s: f64,
    frames: u64,
    frames_padded: u64,
    gateway: GatewayReport,
    sink: SinkReport,
    /// Both ends of the tunnel, with `--mode tunnel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<[TunnelReport; 2]>,
    observed: Observed,
    latency_us: Latency,
    /// Time that real packets waited at the tunnel's ends, with `--mode tunnel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_us: Option<Latency>,
    sim: SimOutcome,
    checks: Checks,
}

#[derive(Default, Serialize)]
struct Observed {
    real_packets: [u64; 2],
    real_bytes: [u64; 2],
    cover_packets: [u64; 2],
    cover_bytes: [u64; 2],
}

#[derive(Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
}

#[derive(Serialize)]
struct SimOutcome {
    delivered: u64,
    lost: u64,
    queue_drops: u64,
}

/// What must hold; `gateway simulate` exits with 1 when something does not.
#[derive(Serialize)]
struct Checks {
    frames_seen: bool,
    flows_plus_ignored_is_seen: bool,
    cover_authenticated: bool,
    nothing_refused: bool,
}

impl Checks {
    fn hold(&self) -> bool {
        self.frames_seen
            && self.flows_plus_ignored_is_seen
            && self.cover_authenticated
            && self.nothing_refused
    }
}

/// Runs the command.
///
/// # Errors
/// An input cannot be used or an output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.check()?;
    let listed = args.devices.as_deref().map(devices_of).transpose()?;
    let mut limits = captures::Limits::default();
    let longest = limits.longest.unwrap_or(Nanos::MAX);
    if args.duration.is_some() {
        limits.longest = None;
    }
    let mut home = captures::load_with(&args.pcap, draw(args)?, listed, &limits)?;
    keep_present(&mut home);
    let start = Nanos::from_secs_f64(args.start);
    let last = home.frames.last().map_or(Nanos::ZERO, |f| f.at);
    let end = match args.duration {
        Some(s) => Nanos::from_secs_f64(s),
        None if start > longest => bail!(
            "--start is {}, allowed is 0 to {} without --duration",
            args.start,
            longest.as_secs_f64()
        ),
        None => start + last + Nanos::from_secs(5),
    };
    home.check_on_the_way(args.wan_delay(), end - start, captures::MAX_ON_THE_WAY)?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("while creating {}", args.out.display()))?;
    let home = Rc::new(home);
    let scene = Scene::build(args, &home, start, end)?;
    let report = scene.run(args, &home, end)?;
    let text = serde_json::to_string_pretty(&report)?;
    let path = args.out.join("report.json");
    std::fs::write(&path, &text).with_context(|| format!("while writing {}", path.display()))?;
    if args.json {
        println!("{text}");
    }
    if args.devices.is_none() {
        let names = report.devices.join(", ");
        eprintln!(
            "no --devices: found {} by their local addresses: {names}",
            report.devices.len()
        );
    }
    summary(&report, &args.out);
    Ok(if report.checks.hold() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// The capture that `--synthetic` asks for.
fn draw(args: &Args) -> anyhow::Result<Option<(PathBuf, Vec<u8>)>> {
    let Some(path) = &args.synthetic else {
        return Ok(None);
    };
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("while reading {name}"))?;
    let model = chaff_synth::load(&bytes).with_context(|| format!("in {name}"))?;
    let records = args.records.map(|n| n as usize);
    let frames = chaff_synth::draw_frames(model.as_ref(), records, args.seed)
        .with_context(|| format!("while drawing from {name}"))?;
    Ok(Some((path.clone(), frames)))
}

/// The device list of a CSV file.
///
/// # Errors
/// As [`read_devices`].
pub fn devices_of(path: &Path) -> anyhow::Result<Vec<Device>> {
    let entries = read_devices(path)?;
    let file = crate::config::File {
        devices: entries,
        ..Default::default()
    };
    file.engine_devices()
}

/// Drops listed devices that the captures do not hold, so that a list of all devices can be given with one capture.
fn keep_present(home: &mut Home) {
    let mut present = vec![false; home.devices.len() + 1];
    for f in &home.frames {
        present[f.device] = true;
    }
    let mut index = vec![0; present.len()];
    let mut next = 0;
    for i in 1..present.len() {
        if present[i] {
            next += 1;
            index[i] = next;
        }
    }
    let mut i = 0;
    home.devices.retain(|_| {
        i += 1;
        present[i]
    });
    for f in &mut home.frames {
        f.device = index[f.device];
    }
}

struct Scene {
    sim: Sim,
    gateway: Rc<RefCell<Gateway>>,
    sink: Rc<RefCell<Sink>>,
    ends: Option<Ends>,
    tally: Rc<RefCell<Tally>>,
    book: Option<MemoryBook>,
    /// Frames sent until the end.
    frames: u64,
    /// Those of them that reach the gateway until then.
    arriving: u64,
}

/// Whether a message is cover or the tunnel's own, and of which device it is otherwise.
type Message = (bool, Option<usize>);

/// Both ends of a tunnel.
type Ends = [Rc<RefCell<Tunnel>>; 2];

/// What the tap on the uplink writes down.
struct Tally {
    /// Messages on the way, in the order they were sent, with `--mode tunnel`: what each is, and of which device.
    messages: Option<[VecDeque<Message>; 2]>,
    packets: BufWriter<File>,
    pcap: PcapWriter<BufWriter<File>>,
    observed: Observed,
    uplink: BTreeMap<(Nanos, u64), u32>,
    order: u64,
    downlink: VecDeque<u16>,
    real: [VecDeque<usize>; 2],
    streams: BTreeMap<u16, usize>,
    labels: Vec<String>,
    latency: Histogram<u64>,
    waited: Histogram<u64>,
    failure: Option<anyhow::Error>,
}

impl Scene {
    fn build(args: &Args, home: &Rc<Home>, start: Nanos, end: Nanos) -> anyhow::Result<Self> {
        // `gateway run` with this number as `cover.seed` plans the same cover.
        let cover_seed = ChaCha20Rng::seed_from_u64(args.seed).random();
        let mut rng = ChaCha20Rng::seed_from_u64(args.seed);
        rng.set_stream(1);
        let key = Key::from_bytes(rng.random());
        let config = engine_config(args, home);
        let slot = config.slot;
        let covered = match args.cover == ENVELOPE {
            // The tunnel plans its own cover.
            true => Vec::new(),
            false => config.covered(),
        };
        let generators = covered
            .into_iter()
            .map(|i| {
                generators::make(
                    &args.cover,
                    i.checked_sub(1).map_or("home", |i| &home.devices[i].label),
                    slot,
                )
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let (releases, book) = releases(args, rng.random())?;
        let parts = Parts {
            key: (args.cover != ENVELOPE).then(|| key.clone()),
            generators,
            releases,
            history: Vec::new(),
        };
        let gateway = Gateway::new(config, parts, cover_seed, Nanos::ZERO)?;
        let streams = gateway.streams().collect();
        let labels = (0..=home.devices.len())
            .map(|i| gateway.label(i).to_owned())
            .collect();
        let gateway = Rc::new(RefCell::new(gateway));
        let sink = Rc::new(RefCell::new(Sink::new(
            SinkConfig::default(),
            key,
            UNIX_START,
            Nanos::ZERO,
        )));
        let tally = Rc::new(RefCell::new(Tally::create(&args.out, streams, labels)?));

        let [gateway_address, sink_address] = COVER_ADDRESSES;
        let path = CoverPath {
            src_mac: Mac([2, 0, 0x5e, 0x10, 0xff, 1]),
            dst_mac: Mac([2, 0, 0x5e, 0x10, 0xff, 2]),
            src: SocketAddrV4::new(gateway_address, 40_000),
            dst: SocketAddrV4::new(sink_address, 4_789),
        };
        let ends = match args.mode {
            ModeArg::Tunnel => Some(tunnel_ends(args, home, &mut rng, path.dst.into())?),
            ModeArg::Plain | ModeArg::Rider => None,
        };
        let mut sim = Sim::new(args.seed);
        let side = |dir: Dir| Side {
            home: Rc::clone(home),
            next: 0,
            dir,
            start,
            end,
        };
        let devices = sim.add("devices", Box::new(nodes::Source::new(side(Dir::Out))));
        let servers = sim.add("servers", Box::new(nodes::Source::new(side(Dir::In))));
        let (gw, far) = match &ends {
            Some(ends) => {
                tally.borrow_mut().messages = Some([VecDeque::new(), VecDeque::new()]);
                let neighbours = tunnel_nodes::Neighbours::default();
                let note = |tally: &Rc<RefCell<Tally>>| -> tunnel_nodes::OnMessage {
                    let note = Rc::clone(tally);
                    Box::new(move |m| note.borrow_mut().message(&m))
                };
                let home = TunnelEnd::home(
                    Rc::clone(&gateway),
                    Rc::clone(&ends[0]),
                    path,
                    Rc::clone(&neighbours),
                    note(&tally),
                );
                let far = TunnelEnd::far(
                    Rc::clone(&gateway),
                    Rc::clone(&ends[1]),
                    path,
                    neighbours,
                    note(&tally),
                );
                let gw = sim.add("gateway", Box::new(home));
                (gw, sim.add("far end", Box::new(far)))
            }
            None => datagram_nodes(&mut sim, &gateway, &sink, &tally, path),
        };
        let lan = chaff_sim::Link::default();
        let wan = chaff_sim::Link {
            delay: args.wan_delay(),
            loss: args.loss,
            ..chaff_sim::Link::default()
        };
        sim.connect((devices, 0), (gw, nodes::LAN), lan.clone());
        let uplink = sim.connect((gw, nodes::WAN), (far, 0), wan);
        sim.connect((far, 1), (servers, 0), lan);
        let note = Rc::clone(&tally);
        sim.tap(
            uplink,
            Box::new(move |now: Nanos, from: NodeId, frame: &[u8]| {
                note.borrow_mut().see(
                    now,
                    if from == gw { Dir::Out } else { Dir::In },
                    frame,
                    &path,
                );
            }),
        );
        let in_time = |f: &&HomeFrame| start + f.at <= end;
        let (mut frames, mut arriving) = (0, 0);
        for f in home.frames.iter().filter(in_time) {
            tally.borrow_mut().real[f.dir.index()].push_back(f.device);
            frames += 1;
            // Frames from the network pass the gateway only after the way from there.
            let way = if f.dir == Dir::In {
                args.wan_delay()
            } else {
                Nanos::ZERO
            };
            arriving += u64::from(start + f.at + way <= end);
        }
        Ok(Self {
            sim,
            gateway,
            sink,
            ends,
            tally,
            book,
            frames,
            arriving,
        })
    }

    fn run(mut self, args: &Args, home: &Home, end: Nanos) -> anyhow::Result<Report> {
        let slot = self.gateway.borrow().config().slot;
        let file = |name: &str| args.out.join(name);
        let (flows, slots, alerts, telemetry) = (
            file("flows.csv"),
            file("slots.csv"),
            file("alerts.jsonl"),
            file("telemetry.jsonl"),
        );
        let _fresh = std::fs::remove_file(&telemetry);
        let paths = Paths {
            flows: &flows,
            slots: &slots,
            alerts: &alerts,
            telemetry: &telemetry,
        };
        let mut exports = Exports::create(
            &paths,
            slot.as_secs_f64(),
            self.gateway.borrow().flow_layout(),
        )?;
        let mut flow_packets = 0;
        let bar = crate::progress::bar(end.as_millis(), "ms of virtual time");
        let mut now = Nanos::ZERO;
        let mut outcome = Outcome::default();
        while now < end {
            now = end.min(now + slot.times(10));
            outcome = self.sim.run_until(now);
            flow_packets += self.collect(&mut exports);
            bar.set_position(now.as_millis());
        }
        self.gateway.borrow_mut().finish(now);
        flow_packets += self.collect(&mut exports);
        bar.finish_and_clear();
        exports.flush().context("while writing the output files")?;
        let mut tally = self.tally.borrow_mut();
        if let Some(e) = tally.failure.take() {
            return Err(e);
        }
        tally.packets.flush().context("while writing packets.csv")?;
        let gateway = self.gateway.borrow().report();
        let sink = self.sink.borrow().report().clone();
        let ignored: u64 = gateway.ignored.values().sum();
        let lossless = args.loss == 0.0;
        let sent = gateway.cover.packets + gateway.schedules.packets;
        let in_flight = tally.uplink.len() as u64;
        let tunnel = self
            .ends
            .as_ref()
            .map(|ends| [0, 1].map(|i| ends[i].borrow().report()));
        let tunnelled = tunnel.is_some();
        let refused =
            |t: &TunnelReport| t.refused.is_empty() && t.peers.iter().all(|p| p.refused.is_empty());
        let checks = Checks {
            // What a router keeps to itself, such as multicast of the other side, does not come through a tunnel, and what the
            // capture holds merged comes in pieces.
            frames_seen: tunnelled || !lossless || gateway.seen == self.arriving,
            flows_plus_ignored_is_seen: flow_packets + ignored == gateway.seen,
            cover_authenticated: tunnelled
                || !lossless
                || args.delay > 0.0
                || sink.cover.packets + sink.schedules.packets + in_flight == sent,
            nothing_refused: sink.refused.is_empty()
                && gateway.refused.is_empty()
                && tunnel.iter().flatten().all(refused),
        };
        let quantiles = |h: &Histogram<u64>| Latency {
            p50: h.value_at_quantile(0.5) as f64 / 1e3,
            p99: h.value_at_quantile(0.99) as f64 / 1e3,
        };
        Ok(Report {
            version: 1,
            captures: args.pcap.iter().map(|p| file_name(p)).collect(),
            devices: home.devices.iter().map(|d| d.label.clone()).collect(),
            cover: file_name(Path::new(&args.cover)),
            mode: args.mode,
            seed: args.seed,
            duration_s: end.as_secs_f64(),
            frames: self.frames,
            frames_padded: home.padded,
            gateway,
            sink,
            tunnel,
            latency_us: quantiles(&tally.latency),
            waited_us: tunnelled.then(|| quantiles(&tally.waited)),
            observed: std::mem::take(&mut tally.observed),
            sim: SimOutcome {
                delivered: outcome.delivered,
                lost: outcome.lost,
                queue_drops: outcome.queue_drops,
            },
            checks,
        })
    }

    fn collect(&mut self, exports: &mut Exports) -> u64 {
        let mut packets = 0;
        // The simulation's budget lives and dies with it: there is nothing to store.
        while let Some(book) = &mut self.book {
            match self.gateway.borrow_mut().poll_release(book) {
                Some(Ok(published)) => exports.release(&published),
                Some(Err(e)) => tracing::debug!(error = %e, "no release"),
                None => break,
            }
        }
        loop {
            let Some(event) = self.gateway.borrow_mut().poll_event() else {
                return packets;
            };
            if let Event::Flow(record) = &event {
                packets += record.packets();
            }
            let labels = &self.tally.borrow().labels;
            exports.write(&event, |i| {
                labels.get(i as usize).cloned().unwrap_or_default()
            });
        }
    }
}

/// The gateway and the sink of `plain` and `rider`.
fn datagram_nodes(
    sim: &mut Sim,
    gateway: &Rc<RefCell<Gateway>>,
    sink: &Rc<RefCell<Sink>>,
    tally: &Rc<RefCell<Tally>>,
    path: CoverPath,
) -> (NodeId, NodeId) {
    let note = Rc::clone(tally);
    let on_cover = Box::new(move |t: &chaff_engine::Transmit| note.borrow_mut().planned(t));
    let gw = sim.add(
        "gateway",
        Box::new(GatewayNode::new(Rc::clone(gateway), path, on_cover)),
    );
    let note = Rc::clone(tally);
    let on_datagram =
        Box::new(move |now: Nanos, _len: usize, v: Verdict| note.borrow_mut().winnowed(now, v));
    let note = Rc::clone(tally);
    let on_downlink = Box::new(move |t: &chaff_engine::SinkTransmit| {
        note.borrow_mut().downlink.push_back(t.stream)
    });
    let far = sim.add(
        "sink",
        Box::new(SinkNode::new(
            Rc::clone(sink),
            path,
            on_datagram,
            on_downlink,
        )),
    );
    (gw, far)
}

/// Both ends of a tunnel with new keys.
fn tunnel_ends(
    args: &Args,
    home: &Home,
    rng: &mut ChaCha20Rng,
    far_at: std::net::SocketAddr,
) -> anyhow::Result<Ends> {
    let covered = home.devices.iter().filter(|d| d.cover).count().max(1) as u64;
    let [home, far] = [PrivateKey::generate(rng), PrivateKey::generate(rng)];
    let config = chaff_tunnel::Config {
        profile: args.bins,
        hold: Nanos::from_secs_f64(args.hold / 1e3),
        clock: Nanos::from_secs_f64(args.clock / 1e3),
        // Virtual seconds are no real ones: nothing may depend on the system's clock.
        erase_keys: false,
        handshakes_per_second: u64::MAX,
        // The budget was kept where cover was planned.
        cover_rate: 1 << 40,
        cover_burst: 1 << 40,
        ..chaff_tunnel::Config::default()
    };
    let everything = ["0.0.0.0/0", "::/0"].iter();
    let everything: Vec<_> = everything.filter_map(|p| p.parse().ok()).collect();
    let peer = |key: &PrivateKey, endpoint| PeerConfig {
        public_key: key.public(),
        preshared_key: None,
        allowed: everything.clone(),
        endpoint,
    };
    let mut on = chaff_tunnel::Config {
        always_on: args.cover != "none",
        ..config.clone()
    };
    if args.cover == ENVELOPE {
        on.envelope = Some(args.profile.envelope());
        on.cover_rate = args.rate.0.saturating_mul(covered);
        on.cover_burst = on.cover_rate.saturating_mul(60);
    }
    let zero = Nanos::ZERO;
    let near = Tunnel::new(&home, on, &[peer(&far, Some(far_at))], rng.random(), zero)?;
    let far = Tunnel::new(&far, config, &[peer(&home, None)], rng.random(), zero)?;
    Ok([near, far].map(|t| Rc::new(RefCell::new(t))))
}

/// The frames of one direction as a source.
struct Side {
    home: Rc<Home>,
    next: usize,
    dir: Dir,
    start: Nanos,
    end: Nanos,
}

impl Iterator for Side {
    type Item = (Nanos, Vec<u8>);
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let f = self.home.frames.get(self.next)?;
            self.next += 1;
            if f.dir == self.dir && self.start + f.at <= self.end {
                return Some((self.start + f.at, f.padded()));
            }
        }
    }
}

impl Tally {
    fn create(
        out: &Path,
        streams: BTreeMap<u16, usize>,
        labels: Vec<String>,
    ) -> anyhow::Result<Self> {
        let create = |name: &str| {
            let path = out.join(name);
            File::create(&path)
                .map(BufWriter::new)
                .with_context(|| format!("while creating {}", path.display()))
        };
        let mut packets = create("packets.csv")?;
        writeln!(packets, "time_s,dir,size_bytes,is_dummy,device")?;
        Ok(Self {
            messages: None,
            packets,
            pcap: PcapWriter::new(create("observed.pcap")?, Link::Ethernet)?,
            observed: Observed::default(),
            uplink: BTreeMap::new(),
            order: 0,
            downlink: VecDeque::new(),
            real: [VecDeque::new(), VecDeque::new()],
            streams,
            labels,
            latency: Histogram::new_with_max(60_000_000_000, 3)
                .context("while making a histogram")?,
            waited: Histogram::new_with_max(60_000_000_000, 3)
                .context("while making a histogram")?,
            failure: None,
        })
    }

    fn message(&mut self, m: &tunnel_nodes::Message) {
        let real = m.class == Class::Real;
        if real {
            self.waited.saturating_record(m.at.since(m.came).0);
        }
        if let Some(messages) = &mut self.messages {
            messages[m.dir.index()].push_back((!real, real.then_some(m.device)));
        }
    }

    fn planned(&mut self, t: &chaff_engine::Transmit) {
        self.order += 1;
        let device = if t.kind == Kind::Schedule {
            u32::MAX
        } else {
            t.device
        };
        self.uplink.insert((t.at, self.order), device);
    }

    fn winnowed(&mut self, now: Nanos, verdict: Verdict) {
        if let Verdict::Cover {
            meant: Some(stamp), ..
        } = verdict
        {
            self.latency
                .saturating_record((now + UNIX_START).since(stamp.at).0);
        }
    }

    fn see(&mut self, now: Nanos, dir: Dir, bytes: &[u8], path: &CoverPath) {
        let address = if dir == Dir::Out { path.dst } else { path.src };
        let message = match &mut self.messages {
            Some(messages) => messages[dir.index()].pop_front(),
            None => None,
        };
        let dummy = message.map_or_else(
            || frame::udp_to(bytes, address).is_some(),
            |(dummy, _)| dummy,
        );
        let device = match (dummy, dir) {
            _ if self.messages.is_some() => message.and_then(|(_, d)| d).unwrap_or(usize::MAX),
            (true, Dir::Out) => self.uplink.pop_first().map_or(0, |(_, d)| d as usize),
            (true, Dir::In) => self
                .downlink
                .pop_front()
                .and_then(|s| self.streams.get(&s).copied())
                .unwrap_or(0),
            (false, _) => self.real[dir.index()].pop_front().unwrap_or(0),
        };
        let ip_bytes = chaff_flow::parse(Link::Ethernet, bytes, bytes.len())
            .map_or(bytes.len().saturating_sub(14) as u64, |p| {
                u64::from(p.sample.bytes)
            });
        let (packets, total) = match dummy {
            true => (
                &mut self.observed.cover_packets,
                &mut self.observed.cover_bytes,
            ),
            false => (
                &mut self.observed.real_packets,
                &mut self.observed.real_bytes,
            ),
        };
        packets[dir.index()] += 1;
        total[dir.index()] += ip_bytes;
        let label = self.labels.get(device).map_or("gateway", String::as_str);
        let at = now.as_secs_f64();
        let written = writeln!(
            self.packets,
            "{at:.9},{},{ip_bytes},{},{label}",
            dir.sign(),
            u8::from(dummy)
        )
        .context("while writing packets.csv")
        .and_then(|()| {
            self.pcap
                .write(UNIX_START + now, bytes, bytes.len())
                .context("while writing observed.pcap")
        });
        if let Err(e) = written {
            self.failure.get_or_insert(e);
        }
    }
}

fn engine_config(args: &Args, home: &Home) -> Config {
    let defaults = crate::config::Cover::default();
    Config {
        devices: home.devices.clone(),
        source: Source::Frames,
        slot: defaults.slot.0,
        cover: SchedulerConfig {
            mode: if args.active {
                Mode::ACTIVE
            } else {
                Mode::Always
            },
            ..crate::run_config::scheduler(&crate::config::Cover {
                rate: args.rate,
                ..defaults
            })
        },
        alerts: Some(AlertConfig {
            learn: Nanos::from_secs_f64(args.learn),
            ..AlertConfig::default()
        }),
        unix_offset: UNIX_START,
        ..Config::default()
    }
}

fn releases(args: &Args, noise: u64) -> anyhow::Result<(Option<Releases>, Option<MemoryBook>)> {
    if args.epsilon_total == 0.0 {
        return Ok((None, None));
    }
    let mut section = match &args.telemetry {
        Some(path) => crate::config::File::load(path)?.telemetry,
        None => crate::telemetry::Telemetry::default(),
    };
    if let Some(s) = args.telemetry_period {
        section.period = format!("{s}s");
    }
    section.epsilon = args.epsilon.unwrap_or(section.epsilon);
    let terms = section.terms()?;
    let mut budget = terms.budget();
    budget.total = Epsilon::new(args.epsilon_total)
        .with_context(|| format!("--epsilon-total is {}", args.epsilon_total))?;
    let book = MemoryBook::new(budget).context("while opening the budget ledger")?;
    let releases = terms.releases(Entropy::Seed(noise), &[], &book)?;
    Ok((Some(releases), Some(book)))
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    )
}

fn summary(r: &Report, out: &Path) {
    let sum = |a: [u64; 2]| a[0] + a[1];
    let real = sum(r.observed.real_bytes);
    let cover = sum(r.observed.cover_bytes);
    let percent = if real > 0 {
        format!("{:.0} %", 100.0 * cover as f64 / real as f64)
    } else {
        "-".to_owned()
    };
    eprintln!(
        "simulated {:.1} s: {} frames, {} in {} flow records, {} not IP or malformed",
        r.duration_s,
        r.frames,
        r.gateway.metered,
        r.gateway.flows,
        r.gateway.ignored.values().sum::<u64>()
    );
    eprintln!(
        "cover: {} packets up, {} down, {cover} bytes ({percent} of the real {real}); sink refused {}; alerts {}",
        r.observed.cover_packets[0],
        r.observed.cover_packets[1],
        r.sink.refused.values().sum::<u64>(),
        r.gateway.alerts
    );
    eprintln!("written to {}", out.display());
    if !r.checks.hold() {
        eprintln!("a check failed, see `checks` in report.json");
    }
}
