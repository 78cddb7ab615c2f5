//! Chaff's meter in the kernel.
//!
//! Entries are thin: an XDP program and four tcx classifiers read what their hook knows beside the bytes, then share
//! [`parse`] and [`flow`]. The device side fills flows and slots; the network side counts all frames and keeps cover
//! apart. Every program lets every frame pass, whatever happens: this is a meter, never a filter.
//!
//! Kernel: 5.15 for XDP, 6.6 for tcx links (5.15 with the older `clsact` hook).
#![no_std]
#![no_main]
#![allow(
    internal_features,
    reason = "atomic addition exists on this target only as an intrinsic"
)]
#![feature(core_intrinsics)]

mod flow;
mod hints;
mod maps;
mod parse;
mod short;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::bpf_skb_pull_data;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use chaff_abi::{Dir, MeterConfig, Reason};

use flow::{Context, Reasons};
use hints::Frame;
use maps::Scratch;
use parse::{Bytes, Kind, MAX_OFFSET, Packet, parse};

#[xdp]
pub fn chaff_xdp_lan(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if let (Some(row), Some(scratch)) = (flow::reasons(), scratch()) {
        scratch.beside.set((end - data) as u32, None, 0, 0);
        let kind = parse(data, end, &scratch.beside, &mut scratch.packet);
        let c = Context {
            dir: Dir::Out,
            cover: false,
            ifindex: ctx.ingress_ifindex() as u32,
        };
        device_side(&ctx, kind, c, row, scratch);
    }
    xdp_action::XDP_PASS
}

#[classifier]
pub fn chaff_lan_in(ctx: TcContext) -> i32 {
    lan(&ctx, Dir::Out);
    TC_ACT_UNSPEC
}

#[classifier]
pub fn chaff_lan_out(ctx: TcContext) -> i32 {
    lan(&ctx, Dir::In);
    TC_ACT_UNSPEC
}

#[classifier]
pub fn chaff_wan_in(ctx: TcContext) -> i32 {
    wan(&ctx, Dir::In);
    TC_ACT_UNSPEC
}

#[classifier]
pub fn chaff_wan_out(ctx: TcContext) -> i32 {
    wan(&ctx, Dir::Out);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn lan(ctx: &TcContext, dir: Dir) {
    let (Some(row), Some(scratch)) = (flow::reasons(), scratch()) else {
        return;
    };
    let kind = parse_buffer(ctx, scratch);
    let c = Context {
        dir,
        cover: false,
        ifindex: skb(ctx).ifindex,
    };
    device_side(ctx, kind, c, row, scratch);
}

#[inline(always)]
fn wan(ctx: &TcContext, dir: Dir) {
    let (Some(row), Some(config)) = (flow::reasons(), maps::CONFIG.get(0)) else {
        return;
    };
    let s = skb(ctx);
    let bytes = Bytes {
        data: ctx.data(),
        end: ctx.data_end(),
    };
    if let Some(length) = short::length(bytes, s, dir, config) {
        seen(row, dir, 1, length as u64);
        return;
    }
    let Some(scratch) = scratch() else { return };
    let kind = parse_buffer(ctx, scratch);
    network_side(ctx, kind, dir, row, config, scratch);
}

/// Counts a frame of the device side.
#[inline(always)]
fn device_side(
    frame: &impl Frame,
    kind: Kind,
    c: Context,
    row: &mut Reasons,
    scratch: &mut Scratch,
) {
    if kind == Kind::Packet {
        flow::count(row, Reason::Seen, scratch.packet.sample.packets());
        flow::meter(frame, scratch, c, row);
    } else {
        flow::count(row, Reason::Seen, 1);
        let reason = match kind {
            Kind::NotIp => Reason::NotIp,
            _ => Reason::Malformed,
        };
        flow::count(row, reason, 1);
    }
}

/// Counts what a frame of the network side holds.
#[inline(always)]
fn seen(row: &mut Reasons, dir: Dir, packets: u64, bytes: u64) {
    let (seen, seen_bytes) = match dir {
        Dir::In => (Reason::WanIn, Reason::WanInBytes),
        Dir::Out => (Reason::WanOut, Reason::WanOutBytes),
    };
    flow::count(row, seen, packets);
    flow::count(row, seen_bytes, bytes);
}

/// Counts a frame of the network side; only cover goes to flows and slots.
#[inline(always)]
fn network_side(
    ctx: &TcContext,
    kind: Kind,
    dir: Dir,
    row: &mut Reasons,
    config: &MeterConfig,
    scratch: &mut Scratch,
) {
    let skb = skb(ctx);
    if kind != Kind::Packet {
        seen(row, dir, 1, skb.len as u64);
        return;
    }
    let p = &scratch.packet;
    seen(row, dir, p.sample.packets(), p.sample.bytes as u64);
    let cover = match dir {
        Dir::Out => config.cover_mark != 0 && skb.mark == config.cover_mark,
        Dir::In => from_peer(p, config),
    };
    if cover {
        let c = Context {
            dir,
            cover,
            ifindex: skb.ifindex,
        };
        flow::meter(ctx, scratch, c, row);
    }
}

/// Whether a packet comes from the cover channel's far end.
#[inline(always)]
fn from_peer(p: &Packet, config: &MeterConfig) -> bool {
    let key = p.key.as_flow_key();
    key.protocol == 17
        && config.cover_peer.port != [0; 2]
        && key.src_port == config.cover_peer.port
        && key.src == config.cover_peer.address
}

#[inline(always)]
fn scratch() -> Option<&'static mut Scratch> {
    let scratch = maps::SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the row belongs to this CPU, programs do not interrupt each other there, and each takes it once.
    Some(unsafe { &mut *scratch })
}

#[inline(always)]
fn skb(ctx: &TcContext) -> &__sk_buff {
    // SAFETY: the kernel passes a valid context that lives as long as the program runs.
    unsafe { &*ctx.skb.skb }
}

/// Parses a socket buffer. Its headers lie in linear memory in most frames, but not in those from a transmit ring;
/// there they are pulled into it, as the IP stack does anyhow, and parsed again.
#[inline(always)]
fn parse_buffer(ctx: &TcContext, scratch: &mut Scratch) -> Kind {
    let s = skb(ctx);
    // On this hook the outer tag is not in the bytes.
    let tag = if s.vlan_present != 0 {
        Some(s.vlan_tci & 0xfff)
    } else {
        None
    };
    let Scratch {
        beside, packet: p, ..
    } = scratch;
    beside.set(s.len, tag, s.gso_segs, s.gso_size);
    let (data, end) = (ctx.data(), ctx.data_end());
    let kind = parse(data, end, beside, p);
    if kind != Kind::Short || s.data_end - s.data >= s.len {
        return kind;
    }
    let most = MAX_OFFSET + 40;
    let len = if s.len < most { s.len } else { most };
    // SAFETY: a valid context; packet pointers are read again below.
    if unsafe { bpf_skb_pull_data(ctx.skb.skb, len) } != 0 {
        return kind;
    }
    parse(ctx.data(), ctx.data_end(), beside, p)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Clock and map helpers used here need no GPL; declared for kernels that ask.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
