//! The nodes of a simulation, their links, and the run over virtual time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write as _;
use std::net::SocketAddrV4;
use std::path::Path;
use std::rc::Rc;

use anyhow::Context;
use chaff_abi::{Dir, Mac, Nanos};
use chaff_cover::{Mode, SchedulerConfig};
use chaff_engine::{
    AlertConfig, Config, Event, Gateway, Parts, Releases, Sink, SinkConfig, Source, Verdict,
};
use chaff_privacy::telemetry::MemoryBook;
use chaff_privacy::{Entropy, Epsilon};
use chaff_sim::frame::Path as CoverPath;
use chaff_sim::nodes::{self, GatewayNode, SinkNode};
use chaff_sim::tunnel_nodes::{self, TunnelEnd};
use chaff_sim::{NodeId, Outcome, Sim};
use chaff_tunnel::TunnelReport;
use chaff_wire::Key;
use hdrhistogram::Histogram;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::args::{Args, ModeArg};
use super::observer::Tally;
use super::report::{Checks, Latency, Report, SimOutcome};
use super::{UNIX_START, file_name, tunnel};
use crate::captures::{COVER_ADDRESSES, Home, HomeFrame};
use crate::config::{DeviceEntry, ENVELOPE};
use crate::export::{Exports, Paths};
use crate::generators;

/// A home, its gateway and the sink, connected.
pub(super) struct Scene {
    sim: Sim,
    gateway: Rc<RefCell<Gateway>>,
    sink: Rc<RefCell<Sink>>,
    ends: Option<tunnel::Ends>,
    tally: Rc<RefCell<Tally>>,
    book: Option<MemoryBook>,
    /// Frames sent until the end.
    frames: u64,
    /// Those of them that reach the gateway until then.
    arriving: u64,
}

impl Scene {
    pub(super) fn build(
        args: &Args,
        home: &Rc<Home>,
        entries: &[DeviceEntry],
        start: Nanos,
        end: Nanos,
    ) -> anyhow::Result<Self> {
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
                let device = i.checked_sub(1).map(|i| home.devices[i].label.as_str());
                let listed = entries.iter().find(|e| Some(e.label.as_str()) == device);
                let labels = listed.map_or(vec![device.unwrap_or("home")], DeviceEntry::labels);
                generators::make(&args.cover, &labels, slot)
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
            ModeArg::Tunnel => Some(tunnel::ends(args, home, &mut rng, path.dst.into())?),
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

    pub(super) fn run(mut self, args: &Args, home: &Home, end: Nanos) -> anyhow::Result<Report> {
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
