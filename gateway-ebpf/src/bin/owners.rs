//! Which process owns which flow of this host.
//!
//! Sockets are noted when they are made (`sock_create`) and when they take a local port (`post_bind`), both in the
//! process's own context. Each packet that leaves or enters through a socket then notes its addresses for the socket's
//! owner. A socket that `accept` made belongs to who listens on its port. Nothing is refused or changed.
//!
//! Kernel: 5.15, cgroup version 2.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_socket_cookie};
use aya_ebpf::macros::{cgroup_skb, cgroup_sock, map};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::{SkBuffContext, SockContext};
use chaff_abi::{FlowKey, LocalPort, Owner};

/// Flows remembered; the least recently seen one makes room. 16,384 x (40 + 32) bytes.
const FLOWS: u32 = 16_384;

#[map]
static FLOW_OWNERS: LruHashMap<FlowKey, Owner> = LruHashMap::with_max_entries(FLOWS, 0);

#[map]
static SOCKET_OWNERS: LruHashMap<u64, Owner> = LruHashMap::with_max_entries(FLOWS, 0);

#[map]
static PORT_OWNERS: LruHashMap<LocalPort, Owner> = LruHashMap::with_max_entries(4_096, 0);

/// Both kinds of program let everything pass.
const PASS: i32 = 1;

const TCP: u8 = 6;
const UDP: u8 = 17;

#[cgroup_sock(sock_create)]
pub fn owner_create(ctx: SockContext) -> i32 {
    if let Some(owner) = current(&ctx) {
        let _full = SOCKET_OWNERS.insert(&owner.cookie, &owner, 0);
    }
    PASS
}

#[cgroup_sock(post_bind4)]
pub fn owner_bind4(ctx: SockContext) -> i32 {
    bound(&ctx);
    PASS
}

#[cgroup_sock(post_bind6)]
pub fn owner_bind6(ctx: SockContext) -> i32 {
    bound(&ctx);
    PASS
}

#[cgroup_skb]
pub fn owner_egress(ctx: SkBuffContext) -> i32 {
    note(&ctx, false);
    PASS
}

#[cgroup_skb]
pub fn owner_ingress(ctx: SkBuffContext) -> i32 {
    note(&ctx, true);
    PASS
}

/// The process that runs now, as the owner of the socket.
#[inline(always)]
fn current(ctx: &SockContext) -> Option<Owner> {
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let name = bpf_get_current_comm().ok()?;
    Some(Owner {
        cookie,
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        pad: 0,
        name,
    })
}

#[inline(always)]
fn bound(ctx: &SockContext) {
    // SAFETY: the context is valid while the program runs; the port is in host order here.
    let (protocol, port) = unsafe { ((*ctx.sock).protocol, (*ctx.sock).src_port) };
    let key = LocalPort {
        protocol: protocol as u16,
        port: port as u16,
    };
    if let Some(owner) = current(ctx) {
        let _full = PORT_OWNERS.insert(&key, &owner, 0);
    }
}

/// Notes the owner of a packet's flow. Bytes begin at the IP header.
#[inline(always)]
fn note(ctx: &SkBuffContext, incoming: bool) {
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if cookie == 0 {
        return;
    }
    let Some(key) = key(ctx, incoming) else {
        return;
    };
    // SAFETY: a value may be replaced while it is read; a torn one shows another cookie and is written again.
    if let Some(known) = unsafe { FLOW_OWNERS.get(&key) }
        && known.cookie == cookie
    {
        return;
    }
    let port = LocalPort {
        protocol: key.protocol as u16,
        port: u16::from_be_bytes(key.src_port),
    };
    // SAFETY: as above; owners of a socket or port are only ever replaced as a whole.
    let owner = unsafe {
        SOCKET_OWNERS
            .get(&cookie)
            .or_else(|| PORT_OWNERS.get(&port))
    };
    if let Some(owner) = owner {
        let owner = Owner { cookie, ..*owner };
        let _full = FLOW_OWNERS.insert(&key, &owner, 0);
    }
}

/// The flow's key with this host first.
#[inline(always)]
fn key(ctx: &SkBuffContext, incoming: bool) -> Option<FlowKey> {
    let first: u8 = ctx.load(0).ok()?;
    let mut src = [0u8; 16];
    let mut dst = [0u8; 16];
    let (protocol, transport);
    match first >> 4 {
        4 => {
            let a: [u8; 8] = ctx.load(12).ok()?;
            src[10] = 0xff;
            src[11] = 0xff;
            dst[10] = 0xff;
            dst[11] = 0xff;
            src[12] = a[0];
            src[13] = a[1];
            src[14] = a[2];
            src[15] = a[3];
            dst[12] = a[4];
            dst[13] = a[5];
            dst[14] = a[6];
            dst[15] = a[7];
            protocol = ctx.load::<u8>(9).ok()?;
            transport = ((first & 15) as usize) * 4;
        }
        6 => {
            // Sockets put no extension header before TCP and UDP unless asked to.
            protocol = ctx.load::<u8>(6).ok()?;
            src = ctx.load(8).ok()?;
            dst = ctx.load(24).ok()?;
            transport = 40;
        }
        _ => return None,
    }
    let ports: [u8; 4] = if protocol == TCP || protocol == UDP {
        ctx.load(transport).ok()?
    } else {
        [0; 4]
    };
    let (here, there) = if incoming { (dst, src) } else { (src, dst) };
    let (from, to) = ([ports[0], ports[1]], [ports[2], ports[3]]);
    let (here_port, there_port) = if incoming { (to, from) } else { (from, to) };
    Some(FlowKey {
        src: here,
        dst: there,
        src_port: here_port,
        dst_port: there_port,
        vlan: [0; 2],
        protocol,
        version: first >> 4,
    })
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The helpers that name the process are for programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
