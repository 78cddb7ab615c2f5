use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chaff_abi::{MAX_DEVICES, SLOT_RING, SlotCounters};

use super::error::MeterError;
use super::sys::Mapping;

const WORDS: usize = size_of::<SlotCounters>() / 8;

/// Per-device counts of the last slots, read from memory shared with the kernel, without a system call.
///
/// Slots are numbered from `slot_epoch`: slot `n` covers `slot_epoch + n * slot_len` up to the next. The kernel keeps
/// [`SLOT_RING`] of them per device and CPU (reading adds the CPUs up) and never clears one; whoever reads clears each slot before its place is used
/// again, at best half a ring ahead. Cloning is cheap and gives another view of the same memory.
#[derive(Clone, Debug)]
pub struct SlotView {
    mapping: Arc<Mapping>,
    cpus: usize,
    devices: u32,
}

impl SlotView {
    pub(super) fn new(map: BorrowedFd<'_>, cpus: usize, devices: u32) -> Result<Self, MeterError> {
        let bytes = cpus * MAX_DEVICES as usize * SLOT_RING as usize * size_of::<SlotCounters>();
        let mapping =
            Mapping::new(map, bytes).map_err(|e| MeterError::of("mapping the slot counters", e))?;
        Ok(Self {
            mapping: Arc::new(mapping),
            cpus,
            devices: devices.min(MAX_DEVICES),
        })
    }

    /// Devices that can have counts: the highest configured index + 1.
    pub fn devices(&self) -> u32 {
        self.devices
    }

    fn word(cpu: usize, device: u32, slot: u64) -> usize {
        let row = cpu * MAX_DEVICES as usize + device as usize;
        (row * SLOT_RING as usize + (slot % SLOT_RING as u64) as usize) * WORDS
    }

    /// Returns the counts of a device (0: all that are not configured, and cover) in a slot.
    ///
    /// Each number is read atomically, but not all of them together: read slots that are over.
    pub fn read(&self, device: u32, slot: u64) -> SlotCounters {
        let mut sum = SlotCounters::default();
        if device >= MAX_DEVICES {
            return sum;
        }
        for cpu in 0..self.cpus {
            let at = Self::word(cpu, device, slot);
            let pair = |i: usize| {
                [
                    self.mapping.read(at + 2 * i),
                    self.mapping.read(at + 2 * i + 1),
                ]
            };
            sum.add(&SlotCounters {
                packets: pair(0),
                bytes: pair(1),
                payload: pair(2),
                cover_packets: pair(3),
                cover_bytes: pair(4),
            });
        }
        sum
    }

    /// Zeroes a slot's place for every device.
    pub fn clear(&self, slot: u64) {
        let words = self.mapping.words();
        for cpu in 0..self.cpus {
            for device in 0..self.devices {
                let at = Self::word(cpu, device, slot);
                for word in words.iter().skip(at).take(WORDS) {
                    // Most places are zero already; reading first keeps their cache lines clean.
                    if word.load(Ordering::Relaxed) != 0 {
                        word.store(0, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Zeroes everything.
    pub(super) fn clear_all(&self) {
        for word in self.mapping.words() {
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }
}
