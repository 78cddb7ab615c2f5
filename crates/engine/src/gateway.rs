//! The gateway's state machine: real traffic in, records, alerts, cover and private releases out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chaff_abi::{
    Counters, Dir, DirectRecord, FlowKey, FlowValue, Mac, Nanos, Sample, SlotCounters,
};
use chaff_cover::{Demand, Dummy, Generator, Overhead, Scheduler, SchedulerConfig, Tally, Window};
use chaff_flow::{Ignored, Link, Record, Table};
use chaff_privacy::telemetry::{Book, Published, Unreleased};
use chaff_wire::{Key, Kind, MIN_LEN, OVERHEAD, Opener, Sealer, WireError};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use serde::Serialize;

use crate::config::{Config, ConfigError, Device, Source};
use crate::event::{Event, SlotTotals};
use crate::schedule::{self, Entry};
use crate::stamp::Stamp;
use crate::telemetry::{Releases, Signal};
use crate::watch::{AcceptError, Watch};

/// The parts that are made outside: secrets, generators, budget.
#[derive(Default)]
pub struct Parts {
    /// Key shared with the sink; without one there is no cover.
    pub key: Option<Key>,
    /// One generator for each unit that is covered, see [`Config::covered`].
    pub generators: Vec<Box<dyn Generator>>,
    /// Budget and noise of the telemetry.
    pub releases: Option<Releases>,
    /// What [`Gateway::history`] returned before the last stop; empty for none.
    pub history: Vec<u8>,
}

/// A cover datagram, sealed into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// When it should leave; may lie in the future.
    pub at: Nanos,
    /// Bytes of the buffer that are the datagram.
    pub len: usize,
    /// Index of the device it covers.
    pub device: u32,
    /// What it is.
    pub kind: Kind,
}

/// Planned cover that somebody else makes and sends: the way out for a tunnel, in place of [`Gateway::poll_transmit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// A dummy towards the sink.
    Dummy {
        /// When it is due.
        at: Nanos,
        /// Stream of its device.
        stream: u16,
    },
    /// Dummies that the sink should send: when, and of which stream. Empty ones come too: they keep the lease.
    Downlink(Vec<(Nanos, u16)>),
}

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GatewayReport {
    /// Schema version of this report.
    pub version: u32,
    /// Frames given to the gateway, or seen by the kernel's meter.
    pub seen: u64,
    /// Of these, counted in a flow.
    pub metered: u64,
    /// Of these, not, by reason.
    pub ignored: BTreeMap<&'static str, u64>,
    /// Flow records made.
    pub flows: u64,
    /// Uplink cover handed out for sending.
    pub cover: Tally,
    /// Schedules handed out for sending.
    pub schedules: Tally,
    /// Downlink cover planned.
    pub downlink_planned: Tally,
    /// Authentic downlink cover received.
    pub downlink: Tally,
    /// Datagrams from the sink's address that are not authentic, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Slots for which no cover was planned because the gateway came too late.
    pub slots_missed: u64,
    /// Dummies that limits or budget removed, and generator failures.
    pub cover_dropped: u64,
    /// Alerts raised.
    pub alerts: u64,
    /// Alerts not raised because they had been said already or there were too many.
    pub alerts_suppressed: u64,
    /// Changes of flows that the alerts did not look at one by one because there were too many.
    pub changes_skipped: u64,
    /// Slots and alerts dropped because nobody collected them; never flow records.
    pub events_dropped: u64,
    /// Windows of telemetry that were released.
    pub releases: u64,
    /// Windows that the budget or its storage refused.
    pub releases_refused: u64,
    /// Windows that nobody watched, or collected in time.
    pub releases_missed: u64,
    /// Pure ε of devices' days that was spent in this run.
    pub epsilon_spent: f64,
    /// ρ of devices' days that was spent in this run.
    pub rho_spent: f64,
    /// Real traffic (IP bytes) and cover with headers, over all devices.
    pub overhead: OverheadReport,
}

/// Cost of cover against real traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OverheadReport {
    /// Real packets, out and in.
    pub real_packets: [u64; 2],
    /// Real IP bytes, out and in.
    pub real_bytes: [u64; 2],
    /// Planned cover packets, schedules included, out and in.
    pub cover_packets: [u64; 2],
    /// Planned cover bytes, out and in, with IP and UDP headers.
    pub cover_bytes: [u64; 2],
}

/// One device, or all unlisted ones (index 0).
struct Unit {
    device: Option<Device>,
    stream: u16,
    scheduler: Option<Scheduler>,
    sealer: Option<Sealer>,
    window: Window,
    current: SlotCounters,
    totals: DeviceTotals,
}

/// What one device, or all that is not listed, did so far; each pair is out and in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceTotals {
    /// Real packets.
    pub real_packets: [u64; 2],
    /// Their IP bytes.
    pub real_bytes: [u64; 2],
    /// Planned cover packets.
    pub cover_packets: [u64; 2],
    /// UDP payload bytes of these.
    pub cover_bytes: [u64; 2],
}

struct Planned {
    at: Nanos,
    unit: usize,
    slot: u32,
    len: u16,
    entries: Vec<Entry>,
}

/// Events kept for a driver that does not collect them; beyond this the newest are dropped and counted.
const MAX_EVENTS: usize = 65_536;
/// Unlisted MAC addresses that are announced; beyond this nobody is told.
const MAX_ANNOUNCED: usize = 4_096;
/// Schedules are padded to one of these lengths, UDP payload bytes.
const SCHEDULE_BINS: [usize; 3] = [256, 576, 1_200];

/// The gateway's state machine. It never touches real packets: it watches them (or the kernel's counts of them) and
/// produces cover beside them.
///
/// Input: [`handle_frame`](Self::handle_frame) or the kernel's counts through [`handle_counters`](Self::handle_counters),
/// [`handle_direct`](Self::handle_direct) and [`handle_slot`](Self::handle_slot), datagrams from the sink, time. Output:
/// [`poll_transmit`](Self::poll_transmit), [`poll_event`](Self::poll_event), [`poll_timeout`](Self::poll_timeout).
pub struct Gateway {
    config: Config,
    units: Vec<Unit>,
    by_mac: BTreeMap<Mac, usize>,
    by_ip: BTreeMap<[u8; 16], usize>,
    announced: BTreeSet<Mac>,
    table: Table,
    opener: Option<Opener>,
    key: Option<Key>,
    control: Option<Sealer>,
    control_rng: ChaCha20Rng,
    epoch: Nanos,
    now: Nanos,
    next_block: u64,
    next_slot: u64,
    planned: VecDeque<Planned>,
    plan_log: BTreeMap<(u64, usize), Demand>,
    events: VecDeque<Event>,
    releases: Option<Releases>,
    watch: Option<Watch>,
    paused: bool,
    report: GatewayReport,
}

impl Gateway {
    /// Makes a gateway whose slot 0 begins at `now`. The seed feeds cover only; the telemetry's noise has its own source.
    ///
    /// # Errors
    /// The configuration contradicts itself or the parts.
    pub fn new(
        config: Config,
        parts: Parts,
        seed: [u8; 32],
        now: Nanos,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let covered = if parts.key.is_some() {
            config.covered()
        } else {
            Vec::new()
        };
        if parts.key.is_some() && covered.len() != parts.generators.len() {
            return Err(ConfigError::Generators {
                needed: covered.len(),
                had: parts.generators.len(),
            });
        }
        if let Some(g) = parts.generators.iter().find(|g| g.slot() != config.slot) {
            let (name, slot) = (g.name().to_owned(), g.slot());
            return Err(ConfigError::GeneratorSlot {
                name,
                slot,
                wanted: config.slot,
            });
        }
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut generators: BTreeMap<usize, Box<dyn Generator>> =
            covered.iter().copied().zip(parts.generators).collect();
        let unix = now + config.unix_offset;
        let mut streams = BTreeSet::new();
        let mut units = Vec::with_capacity(config.devices.len() + 1);
        for index in 0..=config.devices.len() {
            let device = index
                .checked_sub(1)
                .and_then(|i| config.devices.get(i))
                .cloned();
            let stream = unused_stream(&mut rng, &mut streams);
            let unit_seed = rng.random::<[u8; 32]>();
            let label = device.as_ref().map_or("home", |d| d.label.as_str());
            let scheduler = generators.remove(&index).map(|generator| {
                Scheduler::new(scheduler_config(&config, label), generator, unit_seed, now)
            });
            let sealer = match (&scheduler, &parts.key) {
                (Some(_), Some(key)) => Some(Sealer::new(key, Dir::Out, stream, unix)),
                _ => None,
            };
            units.push(Unit {
                stream,
                scheduler,
                sealer,
                window: Window::new(config.window_slots),
                current: SlotCounters::default(),
                totals: DeviceTotals::default(),
                device,
            });
        }
        let mut by_mac = BTreeMap::new();
        let mut by_ip = BTreeMap::new();
        for (i, d) in config.devices.iter().enumerate() {
            if let Some(mac) = d.mac {
                by_mac.insert(mac, i + 1);
            }
            for ip in &d.ip {
                by_ip.insert(crate::config::mapped(*ip), i + 1);
            }
        }
        let labels = std::iter::once("home".to_owned())
            .chain(config.devices.iter().map(|d| d.label.clone()))
            .collect();
        let watch = config
            .alerts
            .clone()
            .map(|alerts| Watch::new(alerts, labels, &parts.history, now))
            .transpose()
            .map_err(|what| ConfigError::History { what })?;
        let control_stream = unused_stream(&mut rng, &mut streams);
        Ok(Self {
            units,
            by_mac,
            by_ip,
            announced: BTreeSet::new(),
            table: Table::new(config.flow.clone()),
            opener: parts.key.as_ref().map(|k| Opener::new(k, Dir::In)),
            control: parts
                .key
                .as_ref()
                .map(|k| Sealer::new(k, Dir::Out, control_stream, unix)),
            key: parts.key,
            control_rng: ChaCha20Rng::from_seed(rng.random()),
            epoch: now,
            now,
            next_block: 0,
            next_slot: 0,
            planned: VecDeque::new(),
            plan_log: BTreeMap::new(),
            events: VecDeque::new(),
            releases: parts.releases,
            watch,
            paused: false,
            report: GatewayReport {
                version: 1,
                ..GatewayReport::default()
            },
            config,
        })
    }

    /// Index of the device with this MAC or IP address; 0 for all others.
    pub fn device_index(&self, mac: Mac, ip: [u8; 16]) -> usize {
        self.by_mac
            .get(&mac)
            .or_else(|| self.by_ip.get(&ip))
            .copied()
            .unwrap_or(0)
    }

    /// Label of a device index.
    pub fn label(&self, index: usize) -> &str {
        self.units
            .get(index)
            .and_then(|u| u.device.as_ref())
            .map_or("home", |d| &d.label)
    }

    /// What each device did so far, by its index; 0 is all that is not listed.
    pub fn totals(&self) -> impl Iterator<Item = DeviceTotals> + '_ {
        self.units.iter().map(|u| u.totals)
    }

    /// Stream numbers of the covered devices in this run, with their index.
    pub fn streams(&self) -> impl Iterator<Item = (u16, usize)> + '_ {
        self.units
            .iter()
            .enumerate()
            .filter(|(_, u)| u.scheduler.is_some())
            .map(|(i, u)| (u.stream, i))
    }

    /// Takes one frame that passed the device side, `wire_len` bytes long on the wire.
    pub fn handle_frame(&mut self, now: Nanos, dir: Dir, frame: &[u8], wire_len: usize) {
        let now = self.advance(now);
        self.report.seen += 1;
        let packet = match chaff_flow::parse(Link::Ethernet, frame, wire_len) {
            Ok(packet) => packet,
            Err(e) => {
                self.ignore(e.reason());
                return;
            }
        };
        self.report.metered += u64::from(packet.sample.segments.max(1));
        let (mac, key) = match dir {
            Dir::Out => (packet.src_mac, packet.key),
            Dir::In => (packet.dst_mac, packet.key.reversed()),
        };
        let unit = self.device_index(mac, key.src);
        let slot = &mut self.units[unit].current;
        slot.packets[dir.index()] += u64::from(packet.sample.segments.max(1));
        slot.bytes[dir.index()] += u64::from(packet.sample.bytes);
        slot.payload[dir.index()] += u64::from(packet.sample.payload);
        self.table.observe(now, Some(dir), &packet);
        if unit == 0 {
            self.announce(mac);
        }
        if let Some(watch) = &mut self.watch {
            let mut ways = [Counters::EMPTY; 2];
            ways[dir.index()].add(now, packet.sample);
            watch.observe(now, unit, &key, [&ways[0], &ways[1]]);
        }
    }

    /// Takes what the kernel counted of one flow since it was last drained.
    pub fn handle_counters(&mut self, now: Nanos, key: FlowKey, value: &FlowValue) {
        let now = self.advance(now);
        self.table.absorb(now, key, value);
        if value.counters.iter().all(|c| c.packets == 0) {
            return;
        }
        let unit = self.known(value.device);
        if unit == 0 {
            self.announce(Mac(value.mac));
        }
        if let Some(watch) = &mut self.watch {
            let [out, back] = &value.counters;
            watch.observe(now, unit, &key, [out, back]);
        }
    }

    /// Takes a frame that found no room in the kernel's map.
    pub fn handle_direct(&mut self, now: Nanos, record: &DirectRecord) {
        let now = self.advance(now);
        self.table.absorb_direct(now, record);
        let unit = self.known(record.device);
        if let Some(watch) = &mut self.watch
            && record.cover == 0
        {
            let mut ways = [Counters::EMPTY; 2];
            let dir = usize::from(record.dir != Dir::Out as u8);
            let sample = Sample {
                wire: record.wire,
                bytes: record.bytes,
                payload: record.payload,
                segments: record.segments,
                tcp_flags: record.tcp_flags,
            };
            ways[dir].add(record.at, sample);
            watch.observe(now, unit, &record.key, [&ways[0], &ways[1]]);
        }
    }

    /// Takes the copy of a packet that the kernel counts, for what its payload tells of the flow ([`chaff_flow::app`]); whether
    /// it is a packet. `at` is when the kernel counted it, `vlan` that of the flow's key, `wire_len` the frame's length on
    /// the wire. Give copies after the counts of their flow. Nothing is counted or kept but hints; without
    /// [`chaff_flow::TableConfig::dissect`] not even these.
    pub fn handle_payload(
        &mut self,
        at: Nanos,
        dir: Dir,
        vlan: [u8; 2],
        frame: &[u8],
        wire_len: usize,
    ) -> bool {
        let Ok(mut packet) = chaff_flow::parse(Link::Ethernet, frame, wire_len) else {
            return false;
        };
        // The kernel's keys hold no inner tag.
        packet.key.vlan = vlan;
        packet.inner_vlan = 0;
        self.table.dissect(at, Some(dir), &packet);
        true
    }

    /// Takes the real counts of a finished slot, one element a device (index 0: all unlisted). Slots come in order;
    /// numbers that were left out count as empty. With [`Source::Frames`] the gateway does this itself.
    pub fn handle_slot(&mut self, now: Nanos, slot: u64, counts: &[SlotCounters]) {
        self.advance(now);
        if slot < self.next_slot {
            return;
        }
        if slot > self.next_slot + self.config.window_slots as u64 {
            self.next_slot = slot - self.config.window_slots as u64;
        }
        while self.next_slot < slot {
            self.close_slot(self.next_slot, &[]);
        }
        self.close_slot(slot, counts);
    }

    fn close_slot(&mut self, slot: u64, counts: &[SlotCounters]) {
        self.next_slot = slot + 1;
        let begin = self.epoch + self.config.slot.times(slot) + self.config.unix_offset;
        if let Some(r) = &mut self.releases {
            r.advance(begin.0);
        }
        for i in 0..self.units.len() {
            let real = counts.get(i).copied().unwrap_or_default();
            let cover = self.plan_log.remove(&(slot, i)).unwrap_or_default();
            let unit = &mut self.units[i];
            unit.window.push(real);
            for d in Dir::BOTH.map(Dir::index) {
                self.report.overhead.real_packets[d] += real.packets[d];
                self.report.overhead.real_bytes[d] += real.bytes[d];
                unit.totals.real_packets[d] += real.packets[d];
                unit.totals.real_bytes[d] += real.bytes[d];
                unit.totals.cover_packets[d] += u64::from(cover.packets[d]);
                unit.totals.cover_bytes[d] += u64::from(cover.bytes[d]);
            }
            if let Some(r) = &mut self.releases {
                r.slot(i, real.packets, real.bytes);
            }
            let empty = real == SlotCounters::default() && cover == Demand::default();
            if !empty && self.config.slot_events {
                self.push(Event::Slot(Box::new(SlotTotals {
                    slot,
                    device: i as u32,
                    real,
                    cover,
                })));
            }
        }
        self.plan_log.retain(|(s, _), _| *s > slot);
    }

    /// Makes the private releases of the next window that is over: the only thing that may leave the house. `book` charges
    /// the budget ledger and stores the telemetry's state, durably; nothing is answered before.
    pub fn poll_release(
        &mut self,
        book: &mut dyn Book,
    ) -> Option<Result<Vec<Published>, Unreleased>> {
        self.releases.as_mut()?.poll(book)
    }

    /// Telemetry from now on; it replaces [`Parts::releases`].
    pub fn set_releases(&mut self, releases: Releases) {
        self.releases = Some(releases);
    }

    /// The telemetry, for what was published last and its state.
    pub fn releases(&self) -> Option<&Releases> {
        self.releases.as_ref()
    }

    /// Takes a datagram from the sink's address, decrypting it in place. `Ok` is the stream of authentic downlink cover.
    ///
    /// # Errors
    /// It is not authentic, old or a replay; counted by reason.
    pub fn handle_datagram(&mut self, now: Nanos, datagram: &mut [u8]) -> Result<u16, WireError> {
        let now = self.advance(now);
        let len = datagram.len();
        let Some(opener) = &mut self.opener else {
            return Err(WireError::BadTag);
        };
        match opener.open(now + self.config.unix_offset, datagram) {
            Ok(opened) => {
                self.report.downlink.add(len);
                Ok(opened.header.stream)
            }
            Err(e) => {
                *self.report.refused.entry(e.name()).or_default() += 1;
                Err(e)
            }
        }
    }

    /// Stops or resumes cover. Metering, alerts and telemetry go on.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        if paused {
            self.planned.clear();
        }
    }

    /// Whether cover is stopped.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Sets the Unix time at `now == 0` anew, after a step of the wall clock.
    ///
    /// After a step back the old streams' counters lie in the future, so every stream is replaced by a new one: no
    /// counter is used twice, and the sink takes the new ones at once.
    pub fn set_unix_offset(&mut self, unix_offset: Nanos) {
        let back = self.config.unix_offset.since(unix_offset);
        self.config.unix_offset = unix_offset;
        if back < CLOCK_STEP {
            return;
        }
        let Some(key) = &self.key else { return };
        self.opener = Some(Opener::new(key, Dir::In));
        let unix = self.now + unix_offset;
        let mut used: BTreeSet<u16> = self.units.iter().map(|u| u.stream).collect();
        let stream = unused_stream(&mut self.control_rng, &mut used);
        self.control = Some(Sealer::new(key, Dir::Out, stream, unix));
        for unit in self.units.iter_mut().filter(|u| u.sealer.is_some()) {
            unit.stream = unused_stream(&mut self.control_rng, &mut used);
            unit.sealer = Some(Sealer::new(key, Dir::Out, unit.stream, unix));
        }
    }

    /// When to call [`Gateway::handle_timeout`] next, and why.
    pub fn poll_timeout(&self) -> Option<(Nanos, &'static str)> {
        let block = (self.block_time(self.next_block), "plan cover");
        let slot = match self.config.source {
            Source::Frames => Some((
                self.epoch + self.config.slot.times(self.next_slot + 1),
                "slot end",
            )),
            Source::Kernel => None,
        };
        let flows = self.table.poll_timeout().map(|t| (t, "flow timeout"));
        [Some(block), slot, flows].into_iter().flatten().min()
    }

    /// Does what is due at `now`. Safe to call early or late; late calls serve everything in deadline order, but cover
    /// whose time has passed is not sent.
    pub fn handle_timeout(&mut self, now: Nanos) {
        let now = self.advance(now);
        loop {
            let slot_end = self.epoch + self.config.slot.times(self.next_slot + 1);
            let slot_due = self.config.source == Source::Frames && slot_end <= now;
            let block_at = self.block_time(self.next_block);
            if slot_due && slot_end <= block_at {
                let counts: Vec<_> = self
                    .units
                    .iter_mut()
                    .map(|u| std::mem::take(&mut u.current))
                    .collect();
                self.close_slot(self.next_slot, &counts);
            } else if block_at <= now {
                self.plan_block(now, self.next_block);
                self.next_block += 1;
            } else {
                break;
            }
        }
        self.table.handle_timeout(now);
        if let Some(watch) = &mut self.watch {
            watch.look(now);
        }
    }

    /// Ends the input: every open flow becomes a record, and the running slot is closed.
    pub fn finish(&mut self, now: Nanos) {
        self.handle_timeout(now);
        if self.config.source == Source::Frames {
            let counts: Vec<_> = self
                .units
                .iter_mut()
                .map(|u| std::mem::take(&mut u.current))
                .collect();
            self.close_slot(self.next_slot, &counts);
        }
        self.table.finish(now);
    }

    fn block_time(&self, block: u64) -> Nanos {
        self.epoch + self.config.slot.times(block * self.config.plan_slots)
    }

    fn plan_block(&mut self, now: Nanos, block: u64) {
        if self.key.is_none() || self.paused {
            return;
        }
        let first = block * self.config.plan_slots + self.config.lead_slots;
        let mut uplink: Vec<Planned> = Vec::new();
        let mut downlink: Vec<(Nanos, Entry)> = Vec::new();
        let mut dummies: Vec<Dummy> = Vec::new();
        let mut has_downlink = false;
        for slot in first..first + self.config.plan_slots {
            let start = self.epoch + self.config.slot.times(slot);
            if start < now {
                self.report.slots_missed += 1;
                continue;
            }
            for i in 0..self.units.len() {
                let unit = &mut self.units[i];
                let Some(scheduler) = &mut unit.scheduler else {
                    continue;
                };
                has_downlink |= scheduler.generator() != "none";
                dummies.clear();
                if scheduler.plan(slot, &unit.window, &mut dummies).is_err() {
                    self.report.cover_dropped += 1;
                    continue;
                }
                let mut total = Demand::default();
                for d in &dummies {
                    total.packets[d.dir.index()] += 1;
                    total.bytes[d.dir.index()] += u32::from(d.payload);
                    let cost = u64::from(d.payload) + u64::from(self.config.header_bytes);
                    self.report.overhead.cover_packets[d.dir.index()] += 1;
                    self.report.overhead.cover_bytes[d.dir.index()] += cost;
                    match d.dir {
                        Dir::Out => uplink.push(Planned {
                            at: d.at,
                            unit: i,
                            slot: slot as u32,
                            len: d.payload,
                            entries: Vec::new(),
                        }),
                        Dir::In => {
                            self.report.downlink_planned.add(usize::from(d.payload));
                            downlink.push((
                                d.at,
                                Entry {
                                    stream: unit.stream,
                                    payload: d.payload,
                                    offset: Nanos::ZERO,
                                },
                            ));
                        }
                    }
                }
                self.plan_log.insert((slot, i), total);
            }
        }
        if has_downlink && self.config.downlink {
            self.plan_schedules(now, &mut downlink, &mut uplink);
        }
        uplink.sort_by_key(|p| (p.at, p.unit));
        self.planned.extend(uplink);
    }

    /// Puts the downlink's dummies into schedules of constant lengths. An empty block sends one too: it keeps the lease,
    /// and its absence would say something.
    fn plan_schedules(
        &mut self,
        now: Nanos,
        downlink: &mut [(Nanos, Entry)],
        uplink: &mut Vec<Planned>,
    ) {
        downlink.sort_by_key(|(at, e)| (*at, e.stream));
        let body = |len: usize| len - OVERHEAD - 4;
        let per_message = schedule::capacity(body(SCHEDULE_BINS[2]));
        let mut chunks: Vec<&[(Nanos, Entry)]> = downlink.chunks(per_message).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for chunk in chunks {
            let jitter = self.control_rng.random_range(0..self.config.slot.0.max(1));
            let at = now + Nanos(jitter);
            let need = schedule::encoded_len(chunk.len());
            let len = SCHEDULE_BINS
                .into_iter()
                .find(|bin| body(*bin) >= need)
                .unwrap_or(SCHEDULE_BINS[2]);
            self.report.overhead.cover_packets[Dir::Out.index()] += 1;
            self.report.overhead.cover_bytes[Dir::Out.index()] +=
                (len + usize::from(self.config.header_bytes)) as u64;
            let entries = chunk
                .iter()
                .map(|(due, e)| Entry {
                    offset: due.since(at),
                    ..*e
                })
                .collect();
            uplink.push(Planned {
                at,
                unit: CONTROL,
                slot: 0,
                len: len as u16,
                entries,
            });
        }
    }

    /// Seals the next planned datagram into `buf` (1,500 bytes are enough). Datagrams come in time order, before they
    /// are due: the caller sends them at [`Transmit::at`].
    pub fn poll_transmit(&mut self, buf: &mut [u8]) -> Option<Transmit> {
        loop {
            let p = self.planned.pop_front()?;
            let unix = p.at + self.config.unix_offset;
            let total = usize::from(p.len).max(MIN_LEN);
            let (sealed, device, kind) = if p.unit == CONTROL {
                let mut body = Vec::with_capacity(total);
                schedule::encode(unix, &p.entries, &mut body);
                let sealer = self.control.as_mut()?;
                (
                    sealer.seal(unix, Kind::Schedule, &body, total, buf),
                    0,
                    Kind::Schedule,
                )
            } else {
                let mut room = [0u8; Stamp::LEN];
                let body = Stamp {
                    slot: p.slot,
                    at: unix,
                }
                .encode(&mut room, total);
                let Some(sealer) = self.units[p.unit].sealer.as_mut() else {
                    continue;
                };
                (
                    sealer.seal(unix, Kind::Cover, body, total, buf),
                    p.unit,
                    Kind::Cover,
                )
            };
            let Ok(sealed) = sealed else {
                self.report.cover_dropped += 1;
                continue;
            };
            let len = sealed.len();
            if kind == Kind::Cover {
                self.report.cover.add(len);
            } else {
                self.report.schedules.add(len);
            }
            return Some(Transmit {
                at: p.at,
                len,
                device: device as u32,
                kind,
            });
        }
    }

    /// The next planned dummy or schedule, unsealed, for a tunnel that makes its own; in time order, before it is due.
    pub fn poll_plan(&mut self) -> Option<Plan> {
        let p = self.planned.pop_front()?;
        if p.unit == CONTROL {
            self.report.schedules.add(usize::from(p.len));
            let asked = p.entries.iter().map(|e| (p.at + e.offset, e.stream));
            return Some(Plan::Downlink(asked.collect()));
        }
        self.report.cover.add(usize::from(p.len));
        let stream = self.units.get(p.unit).map_or(0, |u| u.stream);
        Some(Plan::Dummy { at: p.at, stream })
    }

    /// The next event, or `None`. Flow records wait in the table until they are asked for: none is ever dropped.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if let Some(alert) = self.watch.as_mut().and_then(Watch::poll) {
            self.report.alerts += 1;
            if let Some(r) = &mut self.releases {
                let of = |d: &Device| d.label == alert.device;
                let device = self.config.devices.iter().position(of);
                r.add(device.map_or(0, |i| i + 1), Signal::Alerts, 1);
            }
            return Some(Event::Alert(Box::new(alert)));
        }
        let record = self.table.poll_record()?;
        self.report.flows += 1;
        self.watch_record(&record);
        Some(Event::Flow(Box::new(record)))
    }

    /// The counts so far.
    pub fn report(&self) -> GatewayReport {
        let mut report = self.report.clone();
        if let Some(r) = &self.releases {
            let exporter = r.exporter();
            report.releases = exporter.releases();
            report.releases_refused = r.refused();
            report.releases_missed = exporter.missed();
            report.epsilon_spent = exporter.spent_nanos().0 as f64 / 1e9;
            report.rho_spent = exporter.spent_nanos().1 as f64 / 1e9;
        }
        if let Some(watch) = &self.watch {
            report.alerts_suppressed = watch.suppressed();
            report.changes_skipped = watch.skipped();
        }
        for u in &self.units {
            if let Some(s) = &u.scheduler {
                let o: Overhead = s.overhead();
                report.cover_dropped += o
                    .by_dir
                    .iter()
                    .map(|d| d.capped_packets + d.budget_packets)
                    .sum::<u64>();
            }
        }
        report
    }

    /// What the alerts learnt, for [`Parts::history`] at the next start; empty without alerts.
    pub fn history(&self) -> Vec<u8> {
        self.watch
            .as_ref()
            .map(|w| w.store(self.now))
            .unwrap_or_default()
    }

    /// The owner says that what the alert with this id told is normal: the same, and up to twice as much, is not reported
    /// again. Gives the alert's sentence.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub fn accept(&mut self, id: u64) -> Result<String, AcceptError> {
        match &mut self.watch {
            Some(watch) => watch.accept(id),
            None => Err(AcceptError::Off),
        }
    }

    /// Listed devices that are past their learning time, and those that were seen at all.
    pub fn learnt(&self) -> [usize; 2] {
        self.watch.as_ref().map_or([0; 2], |w| w.learnt(self.now))
    }

    /// Flows that are open now.
    pub fn open_flows(&self) -> usize {
        self.table.len()
    }

    /// Start of slot 0.
    pub fn epoch(&self) -> Nanos {
        self.epoch
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Which columns the flow records have.
    pub fn flow_layout(&self) -> chaff_flow::Layout {
        self.table.layout()
    }

    fn advance(&mut self, now: Nanos) -> Nanos {
        self.now = self.now.max(now);
        self.now
    }

    fn known(&self, device: u32) -> usize {
        let i = device as usize;
        if i < self.units.len() { i } else { 0 }
    }

    fn ignore(&mut self, reason: Ignored) {
        *self.report.ignored.entry(reason.name()).or_default() += 1;
    }

    fn announce(&mut self, mac: Mac) {
        let group = mac.0[0] & 1 == 1 || mac == Mac::default();
        if !group && self.announced.len() < MAX_ANNOUNCED && self.announced.insert(mac) {
            self.push(Event::NewDevice(mac));
        }
    }

    /// Takes note of a flow that ended.
    fn watch_record(&mut self, record: &Record) {
        let (Some(dir), Some([out, back])) = (record.device_dir, record.by_device()) else {
            return;
        };
        let (mac, key) = match dir {
            Dir::Out => (record.mac[0], record.key),
            Dir::In => (record.mac[1], record.key.reversed()),
        };
        let unit = match self.known(record.device) {
            0 => self.device_index(mac, key.src),
            unit => unit,
        };
        let [packets, bytes] = [out.packets + back.packets, out.bytes + back.bytes];
        if let Some(r) = &mut self.releases
            && packets > 0
        {
            r.flow(unit, bytes);
        }
        // Flows that the device was asked for have a peer with an arbitrary port.
        if dir == Dir::Out
            && let Some(watch) = &mut self.watch
        {
            watch.flow_ended(self.now, unit, &key, [out, back], record.duration());
        }
    }

    fn push(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            self.report.events_dropped += 1;
        }
    }
}

/// A wall clock set back by this much is a step; less is a correction that sealing ahead of time absorbs.
const CLOCK_STEP: Nanos = Nanos::from_secs(5);
/// Stands for the control stream where a unit index is expected.
const CONTROL: usize = usize::MAX;

fn unused_stream(rng: &mut impl RngCore, used: &mut BTreeSet<u16>) -> u16 {
    loop {
        let stream = rng.random::<u16>();
        if stream != u16::MAX && used.insert(stream) {
            return stream;
        }
    }
}

fn scheduler_config(config: &Config, label: &str) -> SchedulerConfig {
    SchedulerConfig {
        label: label.to_owned(),
        header_bytes: config.header_bytes,
        ..config.cover.clone()
    }
}
