use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};

use chaff_abi::{
    Counters, CoverCounters, Dir, DirectRecord, FlowKey, FlowValue, Mac, Nanos, SEQUENCE_LEN,
    Sample, SequenceEntry,
};

use crate::{EndReason, Packet, Record};

/// Settings of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableConfig {
    /// A flow without a packet for this long ends. Default 120 s.
    pub idle_timeout: Nanos,
    /// A flow that is this old is cut. Default 1800 s.
    pub active_timeout: Nanos,
    /// Flows kept at once, about 0.7 KiB each; at least 1. Default 262,144. When a new flow finds no room, the least
    /// recently active flow ends with [`EndReason::Resource`].
    pub max_flows: usize,
    /// How much later the timer ends flows that come from kernel generations, because younger packets may still be in the
    /// kernel. At least the time between two drains. It moves the moment of the record, not its content. Default 5 s.
    pub drain_grace: Nanos,
    /// Key of the hash function; a gateway gives a random one so that nobody can aim at one bucket. No output depends on it.
    pub hash_seed: u64,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Nanos::from_secs(120),
            active_timeout: Nanos::from_secs(1800),
            max_flows: 262_144,
            drain_grace: Nanos::from_secs(5),
            hash_seed: 0,
        }
    }
}

/// What a table has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Packets taken in (GSO segments counted), cover included.
    pub packets: u64,
    /// Records made.
    pub records: u64,
    /// Records made because the table was full.
    pub evicted: u64,
    /// Calls whose time lay before an earlier one; they were moved up to it.
    pub clamped: u64,
    /// Later fragments, counted in flows with ports 0.
    pub later_fragments: u64,
    /// Largest number of flows held at once.
    pub peak_flows: usize,
}

/// Flows in progress. See the crate's first page for the whole loop.
///
/// A flow ends when its earliest deadline has come: the last packet plus `idle_timeout`, or the first one plus
/// `active_timeout`; a packet at the very deadline begins the next record. Which record a packet belongs to, and why a
/// record ended, does not depend on when [`Table::handle_timeout`] is called. Nor does any output depend on hashing.
pub struct Table {
    config: TableConfig,
    now: Nanos,
    index: HashMap<Canonical, u32, Seeded>,
    flows: Vec<Flow>,
    free: Vec<u32>,
    idle: Deadlines,
    active: Deadlines,
    serial: u64,
    done: VecDeque<Record>,
    stats: TableStats,
}

/// One direction-neutral packet or kernel part on its way in.
struct Arrival {
    at: Nanos,
    /// Sender first.
    key: FlowKey,
    dir: Option<Dir>,
    /// Sender, receiver.
    mac: [Mac; 2],
    device: u32,
    ifindex: u32,
    from_kernel: bool,
}

struct Flow {
    /// Initiator first.
    key: FlowKey,
    /// Forward, backward.
    counters: [Counters; 2],
    cover: [CoverCounters; 2],
    sequence: [SequenceEntry; SEQUENCE_LEN],
    sequence_len: u8,
    /// Something was counted since the last cut.
    live: bool,
    from_kernel: bool,
    device_dir: Option<Dir>,
    mac: [Mac; 2],
    part: u32,
    device: u32,
    ifindex: u32,
    start: Nanos,
    last: Nanos,
    /// Identity in `idle`; 0 for a free place.
    serial: u64,
    /// Identity in `active`, changes with each part.
    part_serial: u64,
}

impl Table {
    /// An empty table.
    pub fn new(config: TableConfig) -> Self {
        let index = HashMap::with_hasher(Seeded(config.hash_seed));
        Self {
            config,
            now: Nanos::ZERO,
            index,
            flows: Vec::new(),
            free: Vec::new(),
            idle: Deadlines::default(),
            active: Deadlines::default(),
            serial: 0,
            done: VecDeque::new(),
            stats: TableStats::default(),
        }
    }

    /// Counts one packet seen at `now`. `dir` is its direction seen from the protected device, where that is known.
    pub fn observe(&mut self, now: Nanos, dir: Option<Dir>, packet: &Packet<'_>) {
        let at = self.handle_due(now);
        if packet.fragment == crate::Fragment::Later {
            self.stats.later_fragments += 1;
        }
        let mac = [packet.src_mac, packet.dst_mac];
        let arrival = Arrival {
            at,
            key: packet.key,
            dir,
            mac,
            device: 0,
            ifindex: 0,
            from_kernel: false,
        };
        self.add(&arrival, packet.sample, false);
    }

    /// Counts one cover packet seen at `now`, apart from the real ones.
    pub fn observe_cover(&mut self, now: Nanos, dir: Option<Dir>, packet: &Packet<'_>) {
        let at = self.handle_due(now);
        let mac = [packet.src_mac, packet.dst_mac];
        let arrival = Arrival {
            at,
            key: packet.key,
            dir,
            mac,
            device: 0,
            ifindex: 0,
            from_kernel: false,
        };
        self.add(&arrival, packet.sample, true);
    }

    /// Adds what the kernel counted of one flow in one map generation; `key` has the device first.
    ///
    /// Parts of one flow are given in the order of time. The part is not split: it belongs to the record in which its first
    /// packet falls. So times are exact when the kernel is drained more often than the idle timeout, and an active timeout
    /// cuts at the next drain. Call [`Table::handle_timeout`] after a whole drain, not in the middle of one.
    pub fn absorb(&mut self, now: Nanos, key: FlowKey, value: &FlowValue) {
        let now = self.clock(now);
        let dir = if value.first_dir == Dir::In as u8 {
            Dir::In
        } else {
            Dir::Out
        };
        let (key, mac) = from_device(dir, key, Mac(value.mac));
        let has_cover = value.cover.iter().any(|c| c.packets > 0);
        let arrival = Arrival {
            at: value.first,
            key,
            dir: Some(dir),
            mac,
            device: value.device,
            ifindex: value.ifindex,
            from_kernel: true,
        };
        let slot = self.touch(&arrival);
        let Some(flow) = self.flows.get_mut(slot as usize) else {
            return;
        };
        // Index of the device's outgoing direction among (forward, backward).
        let out = usize::from((flow.key == key) != (dir == Dir::Out));
        let shift = value.first.since(flow.start).as_micros();
        for (d, part) in value.counters.iter().enumerate() {
            flow.counters[out ^ d].merge(part);
            self.stats.packets += part.packets;
            if part.packets > 0 {
                flow.last = flow.last.max(part.last);
            }
        }
        for (d, cover) in value.cover.iter().enumerate() {
            flow.cover[out ^ d].packets += cover.packets;
            flow.cover[out ^ d].bytes += cover.bytes;
            self.stats.packets += cover.packets;
        }
        // Cover has no last time of its own.
        flow.last = flow.last.max(if has_cover { now } else { value.first });
        let valid = (value.sequence_len as usize).min(SEQUENCE_LEN);
        for entry in &value.sequence[..valid] {
            flow.push(SequenceEntry {
                offset_us: (shift + entry.offset_us as u64).min(u32::MAX as u64) as u32,
                dir_flags: entry.dir_flags ^ ((out as u16) << 8),
                ..*entry
            });
        }
    }

    /// Adds one frame that found no room in the kernel's map.
    pub fn absorb_direct(&mut self, now: Nanos, record: &DirectRecord) {
        self.clock(now);
        let dir = if record.dir == Dir::In as u8 {
            Dir::In
        } else {
            Dir::Out
        };
        let (key, mac) = from_device(dir, record.key, Mac(record.mac));
        let arrival = Arrival {
            at: record.at,
            key,
            dir: Some(dir),
            mac,
            device: record.device,
            ifindex: record.ifindex,
            from_kernel: true,
        };
        let sample = Sample {
            wire: record.wire,
            bytes: record.bytes,
            payload: record.payload,
            segments: record.segments,
            tcp_flags: record.tcp_flags,
        };
        self.add(&arrival, sample, record.cover != 0);
    }

    /// Ends every flow whose deadline is not after `now`, in the order of deadlines.
    pub fn handle_timeout(&mut self, now: Nanos) {
        self.handle_due(now);
    }

    /// When [`Table::handle_timeout`] has something to do; it may turn out to be nothing, and then a later time follows.
    pub fn poll_timeout(&self) -> Option<Nanos> {
        match (self.idle.next(), self.active.next()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The next finished record. Drain it after every call: the queue has no bound of its own.
    pub fn poll_record(&mut self) -> Option<Record> {
        self.done.pop_front()
    }

    /// Ends all flows at the end of the input, in the order of their first packets.
    pub fn finish(&mut self, now: Nanos) {
        self.handle_due(now.max(self.now));
        let mut rest: Vec<(u64, u32)> = Vec::with_capacity(self.index.len());
        for (slot, flow) in self.flows.iter().enumerate() {
            if flow.serial != 0 {
                rest.push((flow.serial, slot as u32));
            }
        }
        rest.sort_unstable();
        for (_, slot) in rest {
            // Nothing is left in the kernel: deadlines hold without grace.
            self.expire_before(slot, self.now);
            if self.flows.get(slot as usize).is_some_and(|f| f.serial != 0) {
                self.end(slot, EndReason::EndOfInput);
            }
        }
        self.idle = Deadlines::default();
        self.active = Deadlines::default();
    }

    /// Flows held, those that wait for more after an active timeout included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no flow is held.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// What it has done so far.
    pub fn stats(&self) -> TableStats {
        self.stats
    }

    fn clock(&mut self, now: Nanos) -> Nanos {
        if now < self.now {
            self.stats.clamped += 1;
        } else {
            self.now = now;
        }
        self.now
    }

    #[inline]
    fn handle_due(&mut self, now: Nanos) -> Nanos {
        let now = self.clock(now);
        while self.poll_timeout().is_some_and(|at| at <= now) {
            self.serve_first_deadline();
        }
        now
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
            .filter(|f| f.serial == entry.serial)?;
        let due = self.idle_at(flow) + self.grace(flow);
        if due > entry.at {
            self.idle.push(Entry { at: due, ..entry });
            return None;
        }
        Some(entry.slot)
    }

    fn idle_at(&self, flow: &Flow) -> Nanos {
        flow.last + self.config.idle_timeout
    }

    fn active_at(&self, flow: &Flow) -> Nanos {
        flow.start + self.config.active_timeout
    }

    fn grace(&self, flow: &Flow) -> Nanos {
        if flow.from_kernel {
            self.config.drain_grace
        } else {
            Nanos::ZERO
        }
    }

    fn add(&mut self, arrival: &Arrival, sample: Sample, cover: bool) {
        let slot = self.touch(arrival);
        let segments = sample.segments.max(1) as u64;
        self.stats.packets += segments;
        let Some(flow) = self.flows.get_mut(slot as usize) else {
            return;
        };
        let side = usize::from(flow.key != arrival.key);
        flow.last = flow.last.max(arrival.at);
        if cover {
            flow.cover[side].packets += segments;
            flow.cover[side].bytes += sample.bytes as u64;
            return;
        }
        flow.counters[side].add(arrival.at, sample);
        if (flow.sequence_len as usize) < SEQUENCE_LEN {
            flow.push(SequenceEntry {
                offset_us: arrival
                    .at
                    .since(flow.start)
                    .as_micros()
                    .min(u32::MAX as u64) as u32,
                bytes: sample.bytes.min(u16::MAX as u32) as u16,
                dir_flags: ((side as u16) << 8) | (sample.tcp_flags & 0xff),
            });
        }
    }

    /// Finds or makes the flow of an arrival, after ending what must end before it.
    #[inline]
    fn touch(&mut self, arrival: &Arrival) -> u32 {
        let canonical = Canonical(arrival.key.canonical().0);
        if let Some(&slot) = self.index.get(&canonical) {
            self.expire_before(slot, arrival.at);
            // The place still belongs to the flow unless that ended it.
            if self.flows.get(slot as usize).is_some_and(|f| f.serial != 0) {
                self.begin_part(slot, arrival);
                return slot;
            }
        }
        self.insert(canonical, arrival)
    }

    fn expire_before(&mut self, slot: u32, at: Nanos) {
        let Some(flow) = self.flows.get(slot as usize) else {
            return;
        };
        let (idle_at, active_at) = (self.idle_at(flow), self.active_at(flow));
        if flow.live && active_at < idle_at && active_at <= at {
            self.cut(slot);
        }
        if idle_at <= at {
            self.end(slot, EndReason::Idle);
        }
    }

    fn begin_part(&mut self, slot: u32, arrival: &Arrival) {
        let active = arrival.at + self.config.active_timeout;
        let Some(flow) = self.flows.get_mut(slot as usize) else {
            return;
        };
        if flow.live {
            flow.start = flow.start.min(arrival.at);
            return;
        }
        self.serial += 1;
        flow.live = true;
        flow.start = arrival.at;
        flow.part_serial = self.serial;
        let grace = if flow.from_kernel {
            self.config.drain_grace
        } else {
            Nanos::ZERO
        };
        self.active.push(Entry {
            at: active + grace,
            serial: self.serial,
            slot,
        });
    }

    fn insert(&mut self, canonical: Canonical, arrival: &Arrival) -> u32 {
        while !self.index.is_empty() && self.index.len() >= self.config.max_flows {
            if let Some(slot) = self.pop_idle() {
                self.end(slot, EndReason::Resource);
            }
        }
        self.serial += 1;
        let flow = Flow::new(arrival, self.serial);
        let at = self.idle_at(&flow) + self.grace(&flow);
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
        self.idle.push(Entry {
            at,
            serial: self.serial,
            slot,
        });
        self.index.insert(canonical, slot);
        self.stats.peak_flows = self.stats.peak_flows.max(self.index.len());
        self.begin_part(slot, arrival);
        slot
    }

    /// Makes a record of what the flow has, and keeps the flow, its initiator known, for what may follow.
    fn cut(&mut self, slot: u32) {
        self.emit(slot, EndReason::Active);
        if let Some(flow) = self.flows.get_mut(slot as usize) {
            flow.reset();
        }
    }

    /// Makes a record of what the flow has and forgets the flow.
    fn end(&mut self, slot: u32, reason: EndReason) {
        self.emit(slot, reason);
        let Some(flow) = self.flows.get_mut(slot as usize) else {
            return;
        };
        flow.serial = 0;
        self.index.remove(&Canonical(flow.key.canonical().0));
        self.free.push(slot);
        let (flows, held) = (&self.flows, self.index.len());
        let flow = |e: &Entry| flows.get(e.slot as usize);
        self.idle
            .compact(held, |e| flow(e).is_some_and(|f| f.serial == e.serial));
        self.active
            .compact(held, |e| flow(e).is_some_and(|f| f.has_part(e.serial)));
    }

    fn emit(&mut self, slot: u32, reason: EndReason) {
        let Some(flow) = self.flows.get(slot as usize).filter(|f| f.live) else {
            return;
        };
        self.done.push_back(flow.record(self.stats.records, reason));
        self.stats.records += 1;
        self.stats.evicted += u64::from(reason == EndReason::Resource);
    }
}

/// Turns a device-first key into a sender-first one, with the MACs of sender and receiver.
fn from_device(dir: Dir, key: FlowKey, device: Mac) -> (FlowKey, [Mac; 2]) {
    match dir {
        Dir::Out => (key, [device, Mac::default()]),
        Dir::In => (key.reversed(), [Mac::default(), device]),
    }
}

impl Flow {
    fn new(arrival: &Arrival, serial: u64) -> Self {
        Self {
            key: arrival.key,
            counters: [Counters::EMPTY; 2],
            cover: [CoverCounters::default(); 2],
            sequence: [SequenceEntry::default(); SEQUENCE_LEN],
            sequence_len: 0,
            live: false,
            from_kernel: arrival.from_kernel,
            device_dir: arrival.dir,
            mac: arrival.mac,
            part: 0,
            device: arrival.device,
            ifindex: arrival.ifindex,
            start: arrival.at,
            last: arrival.at,
            serial,
            part_serial: 0,
        }
    }

    fn has_part(&self, serial: u64) -> bool {
        self.serial != 0 && self.live && self.part_serial == serial
    }

    fn reset(&mut self) {
        self.counters = [Counters::EMPTY; 2];
        self.cover = [CoverCounters::default(); 2];
        self.sequence_len = 0;
        self.live = false;
        self.part += 1;
    }

    fn push(&mut self, entry: SequenceEntry) {
        if let Some(place) = self.sequence.get_mut(self.sequence_len as usize) {
            *place = entry;
            self.sequence_len += 1;
        }
    }

    fn record(&self, id: u64, reason: EndReason) -> Record {
        let [forward, backward] = self.counters;
        let end = if forward.packets + backward.packets > 0 {
            forward.last.max(backward.last).max(self.start)
        } else {
            self.last
        };
        Record {
            id,
            part: self.part,
            key: self.key,
            forward,
            backward,
            cover: self.cover,
            start: self.start,
            end,
            reason,
            device_dir: self.device_dir,
            mac: self.mac,
            device: self.device,
            ifindex: self.ifindex,
            sequence: self.sequence[..self.sequence_len as usize].to_vec(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Nanos,
    serial: u64,
    slot: u32,
}

/// A queue of deadlines with at most one true entry per flow. Entries of flows that are gone stay until they come up, or
/// until there are more of them than of flows.
#[derive(Default)]
struct Deadlines(BinaryHeap<Reverse<Entry>>);

impl Deadlines {
    fn next(&self) -> Option<Nanos> {
        self.0.peek().map(|e| e.0.at)
    }

    fn push(&mut self, entry: Entry) {
        self.0.push(Reverse(entry));
    }

    fn pop(&mut self) -> Option<Entry> {
        self.0.pop().map(|e| e.0)
    }

    fn compact(&mut self, flows: usize, is_true: impl Fn(&Entry) -> bool) {
        if self.0.len() > 2 * flows + 64 {
            self.0.retain(|e| is_true(&e.0));
        }
    }
}

/// A key in its direction-neutral form.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Canonical(FlowKey);

impl Hash for Canonical {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let word = |b: &[u8]| b.first_chunk::<8>().map_or(0, |c| u64::from_le_bytes(*c));
        let k = &self.0;
        state.write_u64(word(&k.src[..8]));
        state.write_u64(word(&k.src[8..]));
        state.write_u64(word(&k.dst[..8]));
        state.write_u64(word(&k.dst[8..]));
        let [a, b] = k.src_port;
        let [c, d] = k.dst_port;
        let [e, f] = k.vlan;
        state.write_u64(u64::from_le_bytes([
            a, b, c, d, e, f, k.protocol, k.version,
        ]));
    }
}

/// Hashes by folded 64x64-bit multiplication.
#[derive(Clone, Copy)]
struct Seeded(u64);

struct Folded(u64);

impl BuildHasher for Seeded {
    type Hasher = Folded;
    fn build_hasher(&self) -> Folded {
        Folded(self.0 ^ 0x9e37_79b9_7f4a_7c15)
    }
}

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(b as u64);
        }
    }
    #[inline(always)]
    fn write_u64(&mut self, n: u64) {
        let wide = ((self.0 ^ n) as u128) * 0xa076_1d64_78bd_642f_u128;
        self.0 = (wide as u64) ^ ((wide >> 64) as u64);
    }
}
