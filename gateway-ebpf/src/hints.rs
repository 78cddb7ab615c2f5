//! Copies of the first packets of each flow, from which user space learns what the flow is about.
//!
//! Only packets with a payload over TCP and UDP, and only of flows that have their place in the map: a flood that fills it
//! is not copied. How many were copied is in the flow's value; across generations, [`HINTED`] remembers it.

use core::hint::black_box;

use aya_ebpf::Global;
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_xdp_load_bytes};
use aya_ebpf::programs::{TcContext, XdpContext};
use chaff_abi::{FlowValue, HINT_LARGE, HINT_SMALL, HintHeader, HintState, Nanos, Reason};

use crate::flow::{Context, Reasons, count};
use crate::maps::{HINTED, HINTS};
use crate::parse::{Beside, Packet, TCP, UDP};

/// Packets copied of each flow. A constant for the verifier, which drops all of this file when it is 0.
#[unsafe(no_mangle)]
static HINT_PACKETS: Global<u32> = Global::new(0);

/// Silence after which a key is a new flow, ns.
#[unsafe(no_mangle)]
static HINT_IDLE: Global<u64> = Global::new(0);

const SYN: u16 = 2;
const ACK: u16 = 16;

/// Whatever holds the bytes of a frame.
pub trait Frame {
    /// Copies the frame's first `len` bytes, wherever they lie; whether that worked.
    ///
    /// # Safety
    /// `to` has room for `len` bytes.
    unsafe fn load(&self, to: *mut u8, len: u32) -> bool;
}

impl Frame for TcContext {
    #[inline(always)]
    unsafe fn load(&self, to: *mut u8, len: u32) -> bool {
        // SAFETY: a valid context; the caller answers for the room.
        unsafe { bpf_skb_load_bytes(self.skb.skb.cast(), 0, to.cast(), len) == 0 }
    }
}

impl Frame for XdpContext {
    #[inline(always)]
    unsafe fn load(&self, to: *mut u8, len: u32) -> bool {
        // SAFETY: a valid context; the caller answers for the room.
        unsafe { bpf_xdp_load_bytes(self.ctx, 0, to.cast(), len) == 0 }
    }
}

/// Notes in the flow's value that a packet is copied; whether it is.
#[inline(always)]
pub fn wanted(v: &mut FlowValue, p: &Packet) -> bool {
    let most = HINT_PACKETS.load();
    // First and alone, so that the verifier removes all that follows.
    if most == 0 {
        return false;
    }
    let protocol = (p.key.rest >> 48) as u8;
    if (v.copied as u32) < most
        && p.sample.payload > 0
        && matches!(protocol, TCP | UDP)
    {
        v.copied += 1;
        return true;
    }
    false
}

/// Packets of a flow that were copied in earlier generations; 0 for a new connection.
#[inline(always)]
pub fn earlier(p: &Packet, now: Nanos) -> u8 {
    if HINT_PACKETS.load() == 0 {
        return 0;
    }
    let Some(state) = HINTED.get_ptr_mut(p.key.as_flow_key()) else {
        return 0;
    };
    // SAFETY: entries stay allocated while the program runs; racing writers at worst copy a packet more or less.
    let state: &mut HintState = unsafe { &mut *state };
    let silent = now.since(state.last).0 >= HINT_IDLE.load();
    if silent || p.sample.tcp_flags & (SYN | ACK) == SYN {
        state.copied = 0;
    }
    state.last = now;
    if state.copied > u8::MAX as u32 {
        u8::MAX
    } else {
        state.copied as u8
    }
}

/// Copies a frame up. The key is turned device first already.
#[inline(always)]
pub fn send(
    frame: &impl Frame,
    beside: &Beside,
    p: &Packet,
    c: Context,
    now: Nanos,
    row: &mut Reasons,
) {
    let key = p.key.as_flow_key();
    match HINTED.get_ptr_mut(key) {
        Some(state) => {
            // SAFETY: as in `earlier`.
            let state: &mut HintState = unsafe { &mut *state };
            state.copied += 1;
            state.last = now;
        }
        None => {
            let state = HintState {
                last: now,
                copied: 1,
                pad: 0,
            };
            let _no_room = HINTED.insert(key, &state, 0);
        }
    }
    let [a, b, ..] = (p.key.rest >> 32).to_le_bytes();
    let header = HintHeader {
        at: now,
        frame_len: beside.len,
        len: 0,
        vlan: [a, b],
        dir: c.dir as u8,
        pad: [0; 5],
    };
    let sent = if beside.len as usize <= HINT_SMALL {
        submit::<HINT_SMALL>(frame, header)
    } else {
        submit::<HINT_LARGE>(frame, header)
    };
    let reason = if sent {
        Reason::HintCopied
    } else {
        Reason::HintDropped
    };
    count(row, reason, 1);
}

#[repr(C)]
struct Copied<const N: usize> {
    header: HintHeader,
    bytes: [u8; N],
}

#[inline(always)]
fn submit<const N: usize>(frame: &impl Frame, header: HintHeader) -> bool {
    const { assert!(N.is_power_of_two()) };
    let Some(mut entry) = HINTS.reserve::<Copied<N>>(0) else {
        return false;
    };
    let most = N as u32;
    let len = if header.frame_len < most {
        header.frame_len
    } else {
        most
    };
    // The mask tells the verifier what the compiler knows, and would leave out without the black box.
    let len = (black_box(len).wrapping_sub(1) & (most - 1)) + 1;
    let to = entry.as_mut_ptr();
    // SAFETY: reserved memory of that type; `len` is at most N.
    let loaded = unsafe {
        (&raw mut (*to).header).write(HintHeader { len, ..header });
        frame.load((&raw mut (*to).bytes).cast(), len)
    };
    if loaded {
        entry.submit(0);
    } else {
        entry.discard(0);
    }
    loaded
}
