//! From packet to counters: flow value, slot, reasons.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use chaff_abi::{
    DeviceKey, Dir, DirectRecord, FlowValue, MAX_DEVICES, Mac, MeterConfig, Nanos, Reason,
    SEQUENCE_LEN, SLOT_RING, SequenceEntry, SlotCounters,
};

use crate::hints::{self, Frame};
use crate::maps::{
    CONFIG, DEVICES, FLOWS_0, FLOWS_1, GENERATION, REASONS, RECORDS, SLOTS, Scratch, Slot,
};
use crate::parse::Packet;

/// Linux's error number for a map without room.
const E2BIG: i32 = 7;
/// Linux's error number for an element that exists.
const EEXIST: i32 = 17;

/// The row of reason counters of this CPU. Programs do not interrupt each other on one CPU, so plain additions are exact.
pub type Reasons = [u64; Reason::COUNT as usize];

#[inline(always)]
pub fn reasons() -> Option<&'static mut Reasons> {
    let row = REASONS.get_ptr_mut(0)?;
    // SAFETY: the row belongs to this CPU, and every program takes it once.
    Some(unsafe { &mut *row })
}

#[inline(always)]
pub fn count(row: &mut Reasons, reason: Reason, n: u64) {
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
pub fn meter(frame: &impl Frame, scratch: &mut Scratch, c: Context, row: &mut Reasons) {
    let Scratch {
        beside,
        packet: p,
        value,
        slot: last,
        full,
        ..
    } = scratch;
    let Some(config) = CONFIG.get(0) else { return };
    let now = Nanos(
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_ns() },
    );
    if matches!(c.dir, Dir::In) {
        p.key.reverse();
    }
    // Two lookups with a constant map each: the kernel inlines them, which it cannot for a map chosen at run time.
    let generation = GENERATION.get(0).map_or(0, |g| *g);
    let first = generation % 2 == 0;
    let found = if first {
        FLOWS_0.get_ptr_mut(p.key.as_flow_key())
    } else {
        FLOWS_1.get_ptr_mut(p.key.as_flow_key())
    };
    let (device, reason, copy) = match found {
        Some(v) => {
            // SAFETY: the entry stays allocated while the program runs; racing updates are limited to what `update`
            // says.
            let v = unsafe { &mut *v };
            let copy = update(v, p, c, now);
            (v.device, Reason::Flow, copy)
        }
        None => new_flow(p, value, c, now, config, generation, full),
    };
    slot(config, now, device, p, c, last);
    let reason = match (c.cover, reason) {
        (true, Reason::Lost) => Reason::CoverLost,
        (true, _) => Reason::Cover,
        (false, r) => r,
    };
    count(row, reason, p.sample.packets());
    if copy {
        hints::send(frame, beside, p, c, now, row);
    }
}

/// Adds a packet to a flow; whether a copy of it shall go up. The totals are atomic and so exact on any number of CPUs; minima, maxima, squares, flags
/// and times may miss one of two packets that two CPUs count at the same instant.
#[inline(always)]
fn update(v: &mut FlowValue, p: &Packet, c: Context, now: Nanos) -> bool {
    let d = c.dir.index();
    if c.cover {
        add(&mut v.cover[d].packets, p.sample.packets());
        add(&mut v.cover[d].bytes, p.sample.bytes as u64);
        return false;
    }
    let w = &mut v.counters[d];
    w.note(now, p.sample);
    add(&mut w.packets, p.sample.packets());
    add(&mut w.bytes, p.sample.bytes as u64);
    add(&mut w.wire, p.sample.wire as u64);
    add(&mut w.payload, p.sample.payload as u64);
    sequence(v, p, c, now);
    hints::wanted(v, p)
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
    generation: u32,
    full: &mut u32,
) -> (u32, Reason, bool) {
    let key = p.key.as_flow_key();
    let mac = match c.dir {
        Dir::Out => p.src_mac,
        Dir::In => p.dst_mac,
    };
    let mac = mac_bytes(mac);
    let device = if c.cover {
        0
    } else {
        device(mac, &key.src, config)
    };
    // A full generation stays full until user space switches to the other one, so it is not tried again.
    if *full != generation.wrapping_add(1)
        && let Some(copy) = insert(p, v, c, now, device, mac, generation, full)
    {
        return (device, Reason::Flow, copy);
    }
    let Some(mut entry) = RECORDS.reserve::<DirectRecord>(0) else {
        return (device, Reason::Lost, false);
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
    (device, Reason::Ring, false)
}

/// Builds the flow in `v` and inserts it, and tells whether a copy of the packet shall go up; `None` when there is no room.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "inlined: a struct would only be taken apart again"
)]
fn insert(
    p: &Packet,
    v: &mut FlowValue,
    c: Context,
    now: Nanos,
    device: u32,
    mac: [u8; 6],
    generation: u32,
    full: &mut u32,
) -> Option<bool> {
    let first = generation % 2 == 0;
    let key = p.key.as_flow_key();
    // Word by word and volatile: the compiler would call a loop over bytes, or copy a constant whose name depends on
    // the folder of the build.
    let words = (v as *mut FlowValue).cast::<u64>();
    for i in 0..size_of::<FlowValue>() / 8 {
        // SAFETY: inside the value, which is aligned; zero is a value of every field.
        unsafe { words.add(i).write_volatile(0) };
    }
    for d in Dir::BOTH {
        v.counters[d.index()].iat_min = u64::MAX;
        v.counters[d.index()].bytes_min = u32::MAX;
    }
    v.first = now;
    v.device = device;
    v.ifindex = c.ifindex;
    v.mac = mac;
    v.first_dir = c.dir as u8;
    v.copied = if c.cover { 0 } else { hints::earlier(p, now) };
    let copy = update(v, p, c, now);
    let inserted = if first {
        FLOWS_0.insert(key, &*v, BPF_NOEXIST as u64)
    } else {
        FLOWS_1.insert(key, &*v, BPF_NOEXIST as u64)
    };
    match inserted {
        Ok(()) => return Some(copy),
        Err(e) if e == -EEXIST => {}
        Err(e) => {
            if e == -E2BIG {
                *full = generation.wrapping_add(1);
            }
            return None;
        }
    }
    // Another CPU was first.
    let found = if first {
        FLOWS_0.get_ptr_mut(key)
    } else {
        FLOWS_1.get_ptr_mut(key)
    };
    let v = found?;
    // SAFETY: as in `meter`.
    Some(update(unsafe { &mut *v }, p, c, now))
}

#[inline(always)]
fn mac_bytes(mac: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = mac.to_le_bytes();
    [a, b, c, d, e, f]
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

/// Adds a packet to this CPU's counters of its device and slot.
#[inline(always)]
fn slot(config: &MeterConfig, now: Nanos, device: u32, p: &Packet, c: Context, last: &mut Slot) {
    if config.slot_len.0 == 0 {
        return;
    }
    if now < last.start || now >= last.end {
        let number = now.since(config.slot_epoch).0 / config.slot_len.0;
        last.start = Nanos(config.slot_epoch.0 + number * config.slot_len.0);
        last.end = Nanos(last.start.0 + config.slot_len.0);
        last.place = number as u32 & (SLOT_RING - 1);
    }
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(s) = SLOTS.get_ptr_mut((cpu * MAX_DEVICES + device) * SLOT_RING + last.place) else {
        return;
    };
    // SAFETY: entries of an array live as long as the map, and only this CPU writes this one.
    let s: &mut SlotCounters = unsafe { &mut *s };
    let d = c.dir.index();
    if c.cover {
        s.cover_packets[d] += p.sample.packets();
        s.cover_bytes[d] += p.sample.bytes as u64;
    } else {
        s.packets[d] += p.sample.packets();
        s.bytes[d] += p.sample.bytes as u64;
        s.payload[d] += p.sample.payload as u64;
    }
}
