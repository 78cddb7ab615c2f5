mod clock;
mod config;
mod deadlines;
mod flow;
mod identity;
mod kernel;
mod more;

use std::collections::VecDeque;

use chaff_abi::{Dir, Nanos, SEQUENCE_LEN, Sample, SequenceEntry};

use crate::app::Room;
use crate::index::Index;
use crate::plugin::{Extension, MeterView, Next, PluginError, Plugins};
use crate::{Column, EndReason, Layout, Packet, Record};
use clock::Clock;
pub(crate) use config::DISSECT_ROOM;
pub use config::{TableConfig, TableStats};
use deadlines::{Deadlines, Entry};
use flow::{Arrival, Flow, Lane};
use identity::Seeded;
use more::Wants;

/// Flows in progress. See the crate's first page for the whole loop.
///
/// A flow ends when its earliest deadline has come: the last packet plus its idle timeout, or the first one plus
/// `active_timeout`; a packet at the very deadline begins the next record. Which record a packet belongs to, and why a
/// record ended, does not depend on when [`Table::handle_timeout`] is called. Nor does any output depend on hashing.
///
/// A packet keeps its own time in the values of its record; deadlines go by a clock, the newest time so far. A packet far
/// from the clock (behind it by more than the longest idle timeout, at least 10 s, or ahead by more than the active timeout
/// and an hour) is held back until four in a row agree or one near the clock comes. Four behind move the clock back: all
/// flows end with [`EndReason::TimeStep`], and [`TableStats::time_steps`] counts it. Four ahead end a long silence. One to
/// three are [`TableStats::outliers`], counted in flows of their own. At most three packets are held.
///
/// Packets belong to one flow when addresses, ports and protocol agree in either direction and they came through the same
/// tunnel: kind, depth, virtual network or GRE key, and the ends, in either order. VLAN ids tell flows apart with
/// [`TableConfig::vlan_key`].
pub struct Table {
    config: TableConfig,
    seeded: Seeded,
    clock: Clock,
    index: Index,
    flows: Vec<Flow>,
    free: Vec<u32>,
    idle: Deadlines,
    active: Deadlines,
    serial: u64,
    done: VecDeque<Record>,
    /// Slots of flows that were there when the input ended, the last one first; [`Table::poll_record`] ends them.
    rest: Vec<u32>,
    plugins: Plugins,
    room: Room,
    /// Whether flows hold more than the core columns need.
    wants_more: bool,
    stats: TableStats,
}

impl Table {
    /// An empty table.
    pub fn new(config: TableConfig) -> Self {
        Self {
            seeded: Seeded::new(config.hash_seed),
            clock: Clock::new(config.longest_idle(), config.active_timeout),
            index: Index::default(),
            flows: Vec::new(),
            free: Vec::new(),
            idle: Deadlines::default(),
            active: Deadlines::default(),
            serial: 0,
            done: VecDeque::new(),
            rest: Vec::new(),
            plugins: Plugins::default(),
            room: Room::new(config.dissect_room),
            wants_more: config.statistics || config.splt > 0 || config.dissect > 0,
            stats: TableStats::default(),
            config,
        }
    }

    /// Adds a plugin; its columns come after all others as `plugin.NAME`. It sees the packets given to
    /// [`Table::observe`] from now on. Whether its columns have names of their own is the caller's business;
    /// [`Table::try_add_plugin`] looks.
    pub fn add_plugin(&mut self, plugin: impl Into<Extension>) {
        self.plugins.add(self.attached(plugin));
        self.wants_more = true;
    }

    /// [`Table::add_plugin`] unless a column of the plugin has the name of another plugin's.
    ///
    /// # Errors
    /// [`PluginError::Column`]; the table is as before.
    pub fn try_add_plugin(&mut self, plugin: impl Into<Extension>) -> Result<(), PluginError> {
        self.plugins.try_add(self.attached(plugin))?;
        self.wants_more = true;
        Ok(())
    }

    fn attached(&self, plugin: impl Into<Extension>) -> Extension {
        let mut plugin = plugin.into();
        plugin.attach(&MeterView {
            active_timeout: self.config.active_timeout,
        });
        plugin
    }

    /// Which columns its records have.
    pub fn layout(&self) -> Layout {
        Layout::new(&self.config, self.plugins.columns("plugin."))
    }

    /// The columns of its records, as [`Record::values`] fills them.
    pub fn columns(&self) -> Vec<Column> {
        self.layout().columns()
    }

    /// Counts one packet seen at `now`. `dir` is its direction seen from the protected device, where that is known.
    pub fn observe(&mut self, now: Nanos, dir: Option<Dir>, packet: &Packet<'_>) {
        if self.clock.follow(now) {
            self.take(now, dir, packet, false, false);
        } else {
            self.observe_out_of_order(now, dir, packet, false);
        }
    }

    /// Shows a packet to the dissector of its flow without counting it: for flows that the kernel counts, whose first packets
    /// come up beside the counters. `at` is when the kernel counted it, which may lie before the times of other calls.
    /// Nothing happens without [`TableConfig::dissect`], nor to a flow that has no place in a full table.
    pub fn dissect(&mut self, at: Nanos, dir: Option<Dir>, packet: &Packet<'_>) {
        if self.config.dissect == 0 {
            return;
        }
        if !self.rest.is_empty() {
            self.end_rest(usize::MAX);
        }
        let arrival = Arrival {
            from_kernel: true,
            ..self.arrival(at, dir, packet)
        };
        let hash = self.seeded.hash(arrival.identity());
        let (slot, side) = match self.find(hash, &arrival) {
            Some(found) => found,
            None if self.index.len() >= self.config.max_flows => return,
            None => (self.insert(hash, &arrival), 0),
        };
        if let Some(flow) = self.flows.get_mut(slot as usize) {
            flow.last = flow.last.max(at);
            let more = flow.more.get_or_insert_default();
            more.dissect(&self.config, &self.room, &flow.key, side, packet);
        }
    }

    /// Counts one cover packet seen at `now`, apart from the real ones.
    pub fn observe_cover(&mut self, now: Nanos, dir: Option<Dir>, packet: &Packet<'_>) {
        if self.clock.follow(now) {
            self.take(now, dir, packet, true, false);
        } else {
            self.observe_out_of_order(now, dir, packet, true);
        }
    }

    /// Ends every flow whose deadline is not after `now`, in the order of deadlines.
    pub fn handle_timeout(&mut self, now: Nanos) {
        self.note_time(now);
        self.serve(self.clock.now);
    }

    /// When [`Table::handle_timeout`] has something to do; it may turn out to be nothing, and then a later time follows.
    pub fn poll_timeout(&self) -> Option<Nanos> {
        match (self.idle.next(), self.active.next()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The next finished record. Drain it after every call: the queue has no bound of its own.
    #[inline]
    pub fn poll_record(&mut self) -> Option<Record> {
        if self.done.is_empty() && !self.rest.is_empty() {
            self.end_rest(1);
        }
        self.done.pop_front()
    }

    /// Ends all flows at the end of the input, in the order of their first packets. Their records are made one by one, as
    /// [`Table::poll_record`] asks for them.
    pub fn finish(&mut self, now: Nanos) {
        if !self.rest.is_empty() {
            self.end_rest(usize::MAX);
        }
        let now = self.note_end(now);
        self.serve(now);
        let mut rest: Vec<(u64, u32)> = Vec::with_capacity(self.index.len());
        for (slot, flow) in self.flows.iter().enumerate() {
            if flow.serial != 0 {
                rest.push((flow.serial, slot as u32));
            }
        }
        rest.sort_unstable_by(|a, b| b.cmp(a));
        self.rest = rest.into_iter().map(|(_, slot)| slot).collect();
        self.idle = Deadlines::default();
        self.active = Deadlines::default();
        self.clock.stop();
    }

    /// Ends flows that [`Table::finish`] left until there are `wanted` records or no flows.
    #[cold]
    fn end_rest(&mut self, wanted: usize) {
        while self.done.len() < wanted {
            let Some(slot) = self.rest.pop() else {
                return;
            };
            // Nothing is left in the kernel: deadlines hold without grace.
            self.expire_before(slot, self.clock.now);
            if self.is_used(slot) {
                self.end(slot, EndReason::EndOfInput);
            }
        }
    }

    /// Flows held, those that wait for more after an active timeout included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no flow is held.
    pub fn is_empty(&self) -> bool {
        self.index.len() == 0
    }

    /// What it has done so far.
    pub fn stats(&self) -> TableStats {
        self.stats
    }

    #[inline(always)]
    fn arrival(&self, at: Nanos, dir: Option<Dir>, packet: &Packet<'_>) -> Arrival {
        Arrival::of(at, dir, packet, self.config.vlan_key, self.seeded)
    }

    #[inline(always)]
    fn serve(&mut self, now: Nanos) {
        while self.poll_timeout().is_some_and(|at| is_due(at, now)) {
            self.serve_first_deadline();
        }
    }

    /// Takes the earliest entry of both queues: renews it, or ends its flow.
    fn serve_first_deadline(&mut self) {
        let idle_first = match (self.idle.next(), self.active.next()) {
            (Some(idle), Some(active)) => idle <= active,
            (idle, _) => idle.is_some(),
        };
        if idle_first {
            if let Some(slot) = self.pop_idle() {
                self.end(slot, EndReason::Idle);
            }
        } else if let Some(entry) = self.active.pop() {
            match self.flows.get(entry.slot as usize) {
                Some(flow) if flow.has_part(entry.serial) => self.cut(entry.slot),
                _ => (),
            }
        }
    }

    /// Pops one entry of the idle queue; gives a flow when the entry is true, and puts it back when the flow was active since.
    fn pop_idle(&mut self) -> Option<u32> {
        let entry = self.idle.pop()?;
        let flow = self
            .flows
            .get(entry.slot as usize)
            .filter(|f| f.has_idle(entry.serial))?;
        let due = flow.idle_at() + self.grace(flow);
        if due > entry.at {
            self.idle.renew(Entry { at: due, ..entry });
            return None;
        }
        Some(entry.slot)
    }

    fn grace(&self, flow: &Flow) -> Nanos {
        if flow.from_kernel {
            self.config.drain_grace
        } else {
            Nanos::ZERO
        }
    }

    fn is_used(&self, slot: u32) -> bool {
        self.flows.get(slot as usize).is_some_and(|f| f.serial != 0)
    }

    #[inline(always)]
    fn add(&mut self, arrival: &Arrival, sample: Sample) -> (u32, usize) {
        let (slot, side) = self.touch(arrival);
        self.stats.packets += sample.packets();
        let Some(flow) = self.flows.get_mut(slot as usize) else {
            return (slot, side);
        };
        flow.last = flow.last.max(arrival.seen);
        let counters = &mut flow.counters[side];
        if side == 1 && counters.packets == 0 {
            flow.vlan[1] = arrival.vlan;
        }
        counters.add(arrival.at, sample);
        if arrival.at < counters.first {
            counters.first = arrival.at;
        }
        if (flow.sequence_len as usize) < SEQUENCE_LEN {
            let offset = arrival.at.since(flow.start).as_micros();
            flow.push(SequenceEntry {
                offset_us: offset.min(u32::MAX as u64) as u32,
                bytes: sample.bytes.min(u16::MAX as u32) as u16,
                dir_flags: ((side as u16) << 8) | (sample.tcp_flags & 0xff),
            });
        }
        if sample.tcp_flags & (flow::FIN | flow::RST) != 0 {
            self.note_ending(slot, side, sample.tcp_flags);
        }
        (slot, side)
    }

    #[cold]
    #[inline(never)]
    fn add_more(&mut self, slot: u32, side: usize, at: Nanos, packet: &Packet<'_>) {
        let Some(flow) = self.flows.get_mut(slot as usize) else {
            return;
        };
        // Of a flow that the kernel counts too only a part of the packets comes here.
        if flow.from_kernel {
            return;
        }
        let mut more = flow.more.take().unwrap_or_default();
        let wants = Wants {
            config: &self.config,
            plugins: &self.plugins,
            room: &self.room,
        };
        let next = more.add(&wants, flow, side, at, packet);
        flow.more = Some(more);
        if next == Next::End {
            self.end(slot, EndReason::Plugin);
        }
    }

    fn add_cover(&mut self, arrival: &Arrival, sample: Sample) {
        let (slot, side) = self.touch(arrival);
        self.stats.packets += sample.packets();
        if let Some(flow) = self.flows.get_mut(slot as usize) {
            flow.last = flow.last.max(arrival.seen);
            flow.cover[side].packets += sample.packets();
            flow.cover[side].bytes += sample.bytes as u64;
        }
    }

    /// Shortens the idle timeout of a TCP flow whose connection these flags end.
    fn note_ending(&mut self, slot: u32, side: usize, flags: u16) {
        let Some(linger) = self.config.tcp_linger else {
            return;
        };
        let Some(flow) = self.flows.get_mut(slot as usize) else {
            return;
        };
        if Lane::of(flow.key.protocol) == Lane::Tcp
            && flow.ending.note(side, flags)
            && linger < flow.idle
        {
            flow.idle = linger;
            self.serial += 1;
            flow.idle_serial = self.serial;
            let at = flow.idle_at()
                + if flow.from_kernel {
                    self.config.drain_grace
                } else {
                    Nanos::ZERO
                };
            let serial = self.serial;
            self.idle
                .push(Lane::Other as usize, Entry { at, serial, slot });
        }
    }

    /// Finds or makes the flow of an arrival, after ending what must end before it. Gives its slot and which side of it
    /// sent this.
    #[inline(always)]
    fn touch(&mut self, arrival: &Arrival) -> (u32, usize) {
        let hash = self.seeded.hash(arrival.identity());
        let (slot, mut side) = match self.find(hash, arrival) {
            Some(found) => found,
            None => (self.insert(hash, arrival), 0),
        };
        match self.flows.get_mut(slot as usize) {
            Some(flow) if flow.live => {
                if arrival.at < flow.start {
                    // Of what the kernel counts apart the later part can come first.
                    if side == 1 && flow.part == 0 && flow.from_kernel && arrival.from_kernel {
                        flow.turn();
                        flow.vlan[0] = arrival.vlan;
                        side = 0;
                    }
                    flow.start_at(arrival.at);
                }
            }
            _ => self.begin_part(slot, arrival),
        }
        (slot, side)
    }

    /// The flow of an arrival, if there is one and it does not end before it.
    #[inline(always)]
    fn find(&mut self, hash: u32, arrival: &Arrival) -> Option<(u32, usize)> {
        let mut side = 0;
        let flows = &self.flows;
        let slot = self.index.find(hash, |slot| {
            match flows.get(slot as usize).and_then(|f| f.side(arrival)) {
                Some(s) => {
                    side = s;
                    true
                }
                None => false,
            }
        })?;
        let flow = self.flows.get(slot as usize)?;
        let reopens = flow.ending.closed && arrival.opens;
        // Flows without the kernel's grace were ended by their deadlines in the queues.
        if flow.from_kernel || arrival.from_kernel || reopens {
            self.expire_before(slot, arrival.seen);
            if reopens && self.is_used(slot) {
                self.end(slot, EndReason::TcpEnd);
            }
            if !self.is_used(slot) {
                return None;
            }
        }
        Some((slot, side))
    }

    #[inline(always)]
    fn expire_before(&mut self, slot: u32, at: Nanos) {
        let Some(flow) = self.flows.get(slot as usize) else {
            return;
        };
        let active_at = if flow.outlier {
            Nanos::MAX
        } else {
            flow.start + self.config.active_timeout
        };
        let idle_at = flow.idle_at();
        if is_due(idle_at, at) || is_due(active_at, at) {
            self.expire(slot, idle_at, active_at, at);
        }
    }

    #[cold]
    fn expire(&mut self, slot: u32, idle_at: Nanos, active_at: Nanos, at: Nanos) {
        let live = self.flows.get(slot as usize).is_some_and(|f| f.live);
        if live && active_at < idle_at && is_due(active_at, at) {
            self.cut(slot);
        }
        if is_due(idle_at, at) && self.is_used(slot) {
            self.end(slot, EndReason::Idle);
        }
    }

    fn begin_part(&mut self, slot: u32, arrival: &Arrival) {
        let Some(flow) = self.flows.get_mut(slot as usize) else {
            return;
        };
        self.serial += 1;
        flow.live = true;
        flow.start = arrival.at;
        flow.part_serial = self.serial;
        let grace = if flow.from_kernel {
            self.config.drain_grace
        } else {
            Nanos::ZERO
        };
        let entry = Entry {
            at: arrival.seen + self.config.active_timeout + grace,
            serial: self.serial,
            slot,
        };
        self.active.push(0, entry);
    }

    fn idle_timeout(&self, lane: Lane) -> Nanos {
        let own = match lane {
            Lane::Tcp => self.config.idle_tcp,
            Lane::Udp => self.config.idle_udp,
            Lane::Icmp => self.config.idle_icmp,
            Lane::Other => None,
        };
        own.unwrap_or(self.config.idle_timeout)
    }

    fn insert(&mut self, hash: u32, arrival: &Arrival) -> u32 {
        while self.index.len() >= self.config.max_flows && !self.idle.is_empty() {
            if let Some(slot) = self.pop_idle() {
                self.end(slot, EndReason::Resource);
            }
        }
        self.serial += 1;
        let lane = Lane::of(arrival.key.protocol);
        let flow = Flow::new(arrival, self.serial, self.idle_timeout(lane));
        let at = flow.idle_at() + self.grace(&flow);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.flows[slot as usize] = flow;
                slot
            }
            None => {
                self.flows.push(flow);
                (self.flows.len() - 1) as u32
            }
        };
        let serial = self.serial;
        self.idle.push(lane as usize, Entry { at, serial, slot });
        self.index.insert(hash, slot);
        self.stats.peak_flows = self.stats.peak_flows.max(self.index.len());
        slot
    }

    /// Makes a record of what the flow has, and keeps the flow, its initiator known, for what may follow. A connection that
    /// is over is not kept.
    fn cut(&mut self, slot: u32) {
        match self.flows.get(slot as usize) {
            Some(flow) if flow.ending.closed => return self.end(slot, EndReason::TcpEnd),
            _ => self.emit(slot, EndReason::Active, true),
        }
        if let Some(flow) = self.flows.get_mut(slot as usize) {
            flow.reset();
        }
    }

    /// Makes a record of what the flow has and forgets the flow.
    fn end(&mut self, slot: u32, reason: EndReason) {
        self.emit(slot, reason, false);
        let Some(flow) = self.flows.get_mut(slot as usize) else {
            return;
        };
        flow.serial = 0;
        flow.more = None;
        let hash = self.seeded.hash(flow.identity());
        self.index.remove(hash, slot);
        self.free.push(slot);
        let (flows, held) = (&self.flows, self.index.len());
        let flow = |e: &Entry| flows.get(e.slot as usize);
        self.idle
            .compact(held, |e| flow(e).is_some_and(|f| f.has_idle(e.serial)));
        self.active
            .compact(held, |e| flow(e).is_some_and(|f| f.has_part(e.serial)));
    }

    fn emit(&mut self, slot: u32, reason: EndReason, goes_on: bool) {
        let Some(flow) = self.flows.get_mut(slot as usize).filter(|f| f.live) else {
            return;
        };
        let reason = match reason {
            EndReason::Idle | EndReason::EndOfInput | EndReason::Resource | EndReason::TimeStep
                if flow.ending.closed =>
            {
                EndReason::TcpEnd
            }
            other => other,
        };
        let mut record = flow.record(self.stats.records, reason);
        if let Some(mut more) = flow.more.take() {
            more.take(&self.plugins, flow, goes_on).put(&mut record);
            flow.more = goes_on.then_some(more);
        } else if self.config.dissect > 0 && record.packets() > 0 {
            // Of a flow without payload the kernel shows nothing; its ports tell something all the same.
            record.hints = Some(more::guess(&flow.key));
        }
        self.done.push_back(record);
        self.stats.records += 1;
        self.stats.evicted += u64::from(reason == EndReason::Resource);
    }
}

/// A deadline beyond the end of time, where broken captures have their packets, never comes.
fn is_due(deadline: Nanos, now: Nanos) -> bool {
    deadline <= now && deadline < Nanos::MAX
}
