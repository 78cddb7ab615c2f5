//! Real traffic in: frames, or the kernel's counts of them.

use chaff_abi::{
    Counters, Dir, DirectRecord, FlowKey, FlowValue, Mac, Nanos, Sample, SlotCounters,
};
use chaff_cover::Demand;
use chaff_flow::{Ignored, Link, Record};

use super::Gateway;
use crate::event::{Event, SlotTotals};

/// Unlisted MAC addresses that are announced; beyond this nobody is told.
const MAX_ANNOUNCED: usize = 4_096;

impl Gateway {
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
    /// numbers that were left out count as empty. With [`Source::Frames`](crate::config::Source::Frames) the gateway does this itself.
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

    pub(super) fn close_slot(&mut self, slot: u64, counts: &[SlotCounters]) {
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
    pub(super) fn watch_record(&mut self, record: &Record) {
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
}
