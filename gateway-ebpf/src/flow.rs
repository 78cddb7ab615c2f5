//! From packet to counters: flow value, slot, reasons.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use chaff_abi::{
    DeviceKey, Dir, DirectRecord, FlowValue, Mac, MeterConfig, Nanos, Reason, SEQUENCE_LEN,
    SLOT_RING, SequenceEntry, SlotCounters,
};

use crate::maps::{CONFIG, DEVICES, FLOWS_0, FLOWS_1, GENERATION, REASONS, RECORDS, SLOTS};
use crate::parse::Packet;

/// The row of reason counters of this CPU. Programs do not interrupt each other on one CPU, so plain additions are exact.
pub type Reasons = &'static mut [u64; Reason::COUNT as usize];

#[inline(always)]
pub fn reasons() -> Option<Reasons> {
    let row = REASONS.get_ptr_mut(0)?;
    // SAFETY: the row belongs to this CPU, and every program takes it once.
    Some(unsafe { &mut *row })
}

#[inline(always)]
pub fn count(row: &mut [u64; Reason::COUNT as usize], reason: Reason, n: u64) {
    row[reason as usize] += n;
}

/// What is known of a frame besides the packet itself.
#[derive(Clone, Copy)]
pub struct Context {
    pub dir: Dir,
    pub cover: bool,
    pub ifindex: u32,
}

/// Adds to a counter that other CPUs and user space share.
#[inline(always)]
fn add(to: &mut u64, n: u64) {
    // SAFETY: `to` is an aligned, valid, initialised u64; the target has this instruction, but core hides the method
    // because it lacks compare-and-swap.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(to, n) };
}

/// Counts a packet in its flow and slot. The key is turned device first.
#[inline(always)]
pub fn meter(p: &mut Packet, value: &mut FlowValue, c: Context, row: Reasons) {
    let Some(config) = CONFIG.get(0) else { return };
    let now = Nanos(
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_ns() },
    );
    if matches!(c.dir, Dir::In) {
        p.key = p.key.reversed();
    }
    // Two lookups with a constant map each: the kernel inlines them, which it cannot for a map chosen at run time.
    let first = GENERATION.get(0).is_some_and(|g| *g == 0);
    let found = if first {
        FLOWS_0.get_ptr_mut(&p.key)
    } else {
        FLOWS_1.get_ptr_mut(&p.key)
    };
    let (device, reason) = match found {
        Some(v) => {
            // SAFETY: the entry stays allocated while the program runs; racing updates are limited to what `update`
            // says.
            let v = unsafe { &mut *v };
            update(v, p, c, now);
            (v.device, Reason::Flow)
        }
        None => new_flow(p, value, c, now, config, first),
    };
    slot(config, now, device, p, c);
    let reason = match (c.cover, reason) {
        (true, Reason::Lost) => Reason::CoverLost,
        (true, _) => Reason::Cover,
        (false, r) => r,
    };
    count(row, reason, p.sample.packets());
}

/// Adds a packet to a flow. The totals are atomic and so exact on any number of CPUs; minima, maxima, squares, flags
/// and times may miss one of two packets that two CPUs count at the same instant.
#[inline(always)]
fn update(v: &mut FlowValue, p: &Packet, c: Context, now: Nanos) {
    let d = c.dir.index();
    if c.cover {
        add(&mut v.cover[d].packets, p.sample.packets());
        add(&mut v.cover[d].bytes, p.sample.bytes as u64);
        return;
    }
    let w = &mut v.counters[d];
    w.note(now, p.sample);
    add(&mut w.packets, p.sample.packets());
    add(&mut w.bytes, p.sample.bytes as u64);
    add(&mut w.wire, p.sample.wire as u64);
    add(&mut w.payload, p.sample.payload as u64);
    sequence(v, p, c, now);
}

#[inline(always)]
fn sequence(v: &mut FlowValue, p: &Packet, c: Context, now: Nanos) {
    let n = v.sequence_len;
    if (n as usize) < SEQUENCE_LEN {
        let us = now.since(v.first).as_micros();
        v.sequence[n as usize & (SEQUENCE_LEN - 1)] = SequenceEntry {
            offset_us: if us > u32::MAX as u64 {
                u32::MAX
            } else {
                us as u32
            },
            bytes: if p.sample.bytes > u16::MAX as u32 {
                u16::MAX
            } else {
                p.sample.bytes as u16
            },
            dir_flags: (c.dir as u16) << 8 | p.sample.tcp_flags,
        };
        v.sequence_len = n + 1;
    }
}

/// Inserts a flow, built in `v`, or sends the packet through the ring buffer when there is no room.
#[inline(always)]
fn new_flow(
    p: &Packet,
    v: &mut FlowValue,
    c: Context,
    now: Nanos,
    config: &MeterConfig,
    first: bool,
) -> (u32, Reason) {
    let key = &p.key;
    let mac = match c.dir {
        Dir::Out => p.src_mac,
        Dir::In => p.dst_mac,
    };
    let device = if c.cover {
        0
    } else {
        device(mac, &key.src, config)
    };
    *v = FlowValue::EMPTY;
    v.first = now;
    v.device = device;
    v.ifindex = c.ifindex;
    v.mac = mac;
    v.first_dir = c.dir as u8;
    update(v, p, c, now);
    let inserted = if first {
        FLOWS_0.insert(key, &*v, BPF_NOEXIST as u64)
    } else {
        FLOWS_1.insert(key, &*v, BPF_NOEXIST as u64)
    };
    if inserted.is_ok() {
        return (device, Reason::Flow);
    }
    // Another CPU may have been first.
    let found = if first {
        FLOWS_0.get_ptr_mut(key)
    } else {
        FLOWS_1.get_ptr_mut(key)
    };
    if let Some(v) = found {
        // SAFETY: as in `meter`.
        update(unsafe { &mut *v }, p, c, now);
        return (device, Reason::Flow);
    }
    let Some(mut entry) = RECORDS.reserve::<DirectRecord>(0) else {
        return (device, Reason::Lost);
    };
    entry.write(DirectRecord {
        key: *key,
        at: now,
        wire: p.sample.wire,
        bytes: p.sample.bytes,
        payload: p.sample.payload,
        segments: p.sample.segments,
        tcp_flags: p.sample.tcp_flags,
        device,
        ifindex: c.ifindex,
        mac,
        dir: c.dir as u8,
        cover: c.cover as u8,
        pad: [0; 8],
    });
    entry.submit(0);
    (device, Reason::Ring)
}

/// The device's index: by MAC, then, when configured, by IP address.
#[inline(always)]
fn device(mac: [u8; 6], ip: &[u8; 16], config: &MeterConfig) -> u32 {
    let key = DeviceKey::mac(Mac(mac));
    // SAFETY: the value is one aligned word that user space replaces as a whole.
    if let Some(i) = unsafe { DEVICES.get(&key) } {
        return *i;
    }
    if config.match_ip == 0 {
        return 0;
    }
    let key = DeviceKey::ip(*ip);
    // SAFETY: as above.
    unsafe { DEVICES.get(&key) }.map_or(0, |i| *i)
}

/// Adds a packet to the counters of its device and slot.
#[inline(always)]
fn slot(config: &MeterConfig, now: Nanos, device: u32, p: &Packet, c: Context) {
    if config.slot_len.0 == 0 {
        return;
    }
    let number = now.since(config.slot_epoch).0 / config.slot_len.0;
    let index = device * SLOT_RING + (number as u32 & (SLOT_RING - 1));
    let Some(s) = SLOTS.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: entries of an array live as long as the map; all writers add atomically.
    let s: &mut SlotCounters = unsafe { &mut *s };
    let d = c.dir.index();
    if c.cover {
        add(&mut s.cover_packets[d], p.sample.packets());
        add(&mut s.cover_bytes[d], p.sample.bytes as u64);
    } else {
        add(&mut s.packets[d], p.sample.packets());
        add(&mut s.bytes[d], p.sample.bytes as u64);
        add(&mut s.payload[d], p.sample.payload as u64);
    }
}
