//! What comes from the kernel's meter.

use chaff_abi::{Dir, DirectRecord, FlowKey, FlowValue, Mac, Nanos, SEQUENCE_LEN, Sample};

use super::Table;
use super::flow::{ACK, Arrival, SYN};
use crate::Tunnel;

impl Table {
    /// Adds what the kernel counted of one flow in one map generation; `key` has the device first.
    ///
    /// Parts of one flow are given in the order of time. The part is not split: it belongs to the record in which its first
    /// packet falls. So times are exact when the kernel is drained more often than the idle timeout, and an active timeout
    /// cuts at the next drain. Without [`crate::TableConfig::vlan_key`] the parts of one flow in several VLANs are joined, the
    /// one that began first being the initiator's; exactly so when each direction has one VLAN id. A connection that begins in the generation in which one with the same key ended is a part of
    /// that one. Call [`Table::handle_timeout`] after a whole drain, not in the middle of one.
    pub fn absorb(&mut self, now: Nanos, key: FlowKey, value: &FlowValue) {
        self.note_time(now);
        let now = self.clock.now;
        let dir = if value.first_dir == Dir::In as u8 {
            Dir::In
        } else {
            Dir::Out
        };
        let (key, mac) = from_device(dir, key, Mac(value.mac));
        let has_cover = value.cover.iter().any(|c| c.packets > 0);
        let first_flags = match value.sequence_len {
            0 => 0,
            _ => value.sequence[0].dir_flags & 0xff,
        };
        let arrival = Arrival {
            at: value.first,
            seen: value.first,
            outlier: false,
            vlan: key.vlan,
            key: self.without_vlan(key),
            beyond: 0,
            tunnel: Tunnel::default(),
            outer: None,
            inner_vlan: 0,
            dir: Some(dir),
            mac,
            device: value.device,
            ifindex: value.ifindex,
            from_kernel: true,
            opens: first_flags & (SYN | ACK) == SYN,
        };
        let (slot, side) = self.touch(&arrival);
        let Some(flow) = self.flows.get_mut(slot as usize) else {
            return;
        };
        // Index of the device's outgoing direction among (forward, backward).
        let out = usize::from((side == 0) != (dir == Dir::Out));
        let shift = value.first.since(flow.start).as_micros();
        let mut flags = [0; 2];
        for (d, part) in value.counters.iter().enumerate() {
            if out ^ d == 1 && part.packets > 0 && flow.counters[1].packets == 0 {
                flow.vlan[1] = arrival.vlan;
            }
            flow.counters[out ^ d].merge(part);
            flags[out ^ d] = part.flags_seen().into();
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
        let mut entries = value.sequence;
        for entry in &mut entries[..valid] {
            entry.offset_us = (shift + entry.offset_us as u64).min(u32::MAX as u64) as u32;
            entry.dir_flags ^= (out as u16) << 8;
        }
        flow.push_all(&entries[..valid]);
        for (side, flags) in flags.into_iter().enumerate() {
            self.note_ending(slot, side, flags);
        }
    }

    /// The key under which the table has a flow: what the kernel counts for each VLAN apart is one flow without it.
    fn without_vlan(&self, key: FlowKey) -> FlowKey {
        let vlan = if self.config.vlan_key {
            key.vlan
        } else {
            [0; 2]
        };
        FlowKey { vlan, ..key }
    }

    /// Adds one frame that found no room in the kernel's map.
    pub fn absorb_direct(&mut self, now: Nanos, record: &DirectRecord) {
        self.note_time(now);
        let dir = if record.dir == Dir::In as u8 {
            Dir::In
        } else {
            Dir::Out
        };
        let (key, mac) = from_device(dir, record.key, Mac(record.mac));
        let arrival = Arrival {
            at: record.at,
            seen: record.at,
            outlier: false,
            vlan: key.vlan,
            key: self.without_vlan(key),
            beyond: 0,
            tunnel: Tunnel::default(),
            outer: None,
            inner_vlan: 0,
            dir: Some(dir),
            mac,
            device: record.device,
            ifindex: record.ifindex,
            from_kernel: true,
            opens: record.tcp_flags & (SYN | ACK) == SYN,
        };
        let sample = Sample {
            wire: record.wire,
            bytes: record.bytes,
            payload: record.payload,
            segments: record.segments,
            tcp_flags: record.tcp_flags,
        };
        if record.cover == 0 {
            self.add(&arrival, sample);
        } else {
            self.add_cover(&arrival, sample);
        }
    }
}

/// Turns a device-first key into a sender-first one, with the MACs of sender and receiver.
fn from_device(dir: Dir, key: FlowKey, device: Mac) -> (FlowKey, [Mac; 2]) {
    match dir {
        Dir::Out => (key, [device, Mac::default()]),
        Dir::In => (key.reversed(), [Mac::default(), device]),
    }
}
