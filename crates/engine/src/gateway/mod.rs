//! The gateway's state machine: real traffic in, records, alerts, cover and private releases out.

mod cover;
mod report;
mod traffic;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chaff_abi::{Dir, Mac, Nanos, SlotCounters};
use chaff_cover::{Demand, Generator, Scheduler, SchedulerConfig, Window};
use chaff_flow::Table;
use chaff_privacy::telemetry::{Book, Published, Unreleased};
use chaff_wire::{Key, Opener, Sealer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

pub use self::cover::{Plan, Transmit};
use self::cover::{Planned, unused_stream};
pub use self::report::{DeviceTotals, GatewayReport, OverheadReport};
use crate::config::{Config, ConfigError, Device, Source};
use crate::event::Event;
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

/// Events kept for a driver that does not collect them; beyond this the newest are dropped and counted.
const MAX_EVENTS: usize = 65_536;

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
                self.close_running_slot();
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

    /// Closes the slot that frames were counted into.
    fn close_running_slot(&mut self) {
        let take = |u: &mut Unit| std::mem::take(&mut u.current);
        let counts: Vec<_> = self.units.iter_mut().map(take).collect();
        self.close_slot(self.next_slot, &counts);
    }

    /// Ends the input: every open flow becomes a record, and the running slot is closed.
    pub fn finish(&mut self, now: Nanos) {
        self.handle_timeout(now);
        if self.config.source == Source::Frames {
            self.close_running_slot();
        }
        self.table.finish(now);
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

    fn push(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            self.report.events_dropped += 1;
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
