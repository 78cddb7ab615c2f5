//! The maps, by the names of `chaff_abi::map`. Sizes here are defaults; the loader may set others.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use chaff_abi::{
    DeviceKey, FlowKey, FlowValue, HintState, MAX_DEVICES, MeterConfig, Nanos, Reason, SLOT_RING,
    SlotCounters,
};

use crate::parse::{Beside, Packet};

/// Flows of one generation: 16,384 x 488 bytes, preallocated, so that a flood of new flows allocates nothing.
pub const MAX_FLOWS: u32 = 16_384;

/// Room for about 11,000 direct records.
const RECORDS_BYTES: u32 = 1 << 20;

#[map]
pub static CONFIG: Array<MeterConfig> = Array::with_max_entries(1, 0);

#[map]
pub static GENERATION: Array<u32> = Array::with_max_entries(1, 0);

#[map]
pub static DEVICES: HashMap<DeviceKey, u32> = HashMap::with_max_entries(1024, 0);

/// The loader makes a block of this size for each CPU.
#[map]
pub static SLOTS: Array<SlotCounters> =
    Array::with_max_entries(MAX_DEVICES * SLOT_RING, BPF_F_MMAPABLE);

#[map]
pub static FLOWS_0: HashMap<FlowKey, FlowValue> = HashMap::with_max_entries(MAX_FLOWS, 0);

#[map]
pub static FLOWS_1: HashMap<FlowKey, FlowValue> = HashMap::with_max_entries(MAX_FLOWS, 0);

#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(RECORDS_BYTES, 0);

/// The loader gives it room when copies are wanted.
#[map]
pub static HINTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// As [`HINTS`]; the least recently seen flow makes room, and would be copied again.
#[map]
pub static HINTED: LruHashMap<FlowKey, HintState> = LruHashMap::with_max_entries(64, 0);

#[map]
pub static REASONS: PerCpuArray<[u64; Reason::COUNT as usize]> =
    PerCpuArray::with_max_entries(1, 0);

/// Memory of one CPU for what is too large for the stack, or better unknown to the verifier.
#[repr(C)]
pub struct Scratch {
    pub beside: Beside,
    pub packet: Packet,
    pub value: FlowValue,
    pub slot: Slot,
    /// Number + 1 of the generation that this CPU found full; 0 for none.
    pub full: u32,
    pub pad: u32,
}

/// The slot that this CPU used last; saves a division per packet.
#[repr(C)]
pub struct Slot {
    pub start: Nanos,
    pub end: Nanos,
    /// Number of the slot in the ring.
    pub place: u32,
    pub pad: u32,
}

#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
