//! What one flow is made of: counters, running statistics, the sequence of its first packets.

use std::net::IpAddr;

use chaff_abi::Mac;

use super::Config;
use super::packet::{Address, Packet};
use crate::Process;
use crate::app::Hints;

/// Forward (source to destination) and backward.
const DIRECTIONS: usize = 2;

/// A finished flow. Its row of values is [`Flow::values`].
pub struct Flow {
    pub(super) id: u64,
    pub(super) expiration: Expiration,
    pub(super) core: Core,
    pub(super) statistics: Statistics,
    pub(super) sequence: Sequence,
    pub(super) hints: Option<Box<Hints>>,
    /// Values of the plugins, in the order of their columns.
    pub(super) extra: Vec<crate::Value>,
    pub(super) process: Option<Process>,
}

/// Why a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiration {
    /// No packet for the idle timeout, or the end of the input.
    Idle,
    /// It was as old as the active timeout.
    Active,
    /// A plugin ended it.
    Custom,
}

impl Expiration {
    /// The value of the column `expiration_id`: 0, 1 or -1.
    pub const fn id(self) -> i64 {
        match self {
            Self::Idle => 0,
            Self::Active => 1,
            Self::Custom => -1,
        }
    }
}

impl Flow {
    /// Number in the order of emission, from 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Why it ended.
    pub fn expiration(&self) -> Expiration {
        self.expiration
    }

    /// Who sent the first packet.
    pub fn source(&self) -> IpAddr {
        self.core.src.to_ip(self.core.ip_version)
    }

    /// Who it was sent to.
    pub fn destination(&self) -> IpAddr {
        self.core.dst.to_ip(self.core.ip_version)
    }

    /// Source and destination port; 0 without ports.
    pub fn ports(&self) -> [u16; 2] {
        [self.core.src_port, self.core.dst_port]
    }

    /// IP protocol number.
    pub fn protocol(&self) -> u8 {
        self.core.protocol
    }

    /// Packets from the source and from the destination.
    pub fn packets(&self) -> [u64; 2] {
        self.core.directions.map(|d| d.packets)
    }

    /// Sets whose socket on this host it is, for the columns of [`Config::processes`].
    pub fn set_process(&mut self, process: Option<Process>) {
        self.process = process;
    }

    /// Milliseconds of the first and the last packet.
    pub fn seen_ms(&self) -> [u64; 2] {
        [self.core.first, self.core.last]
    }
}

/// Identity and counters of a flow. The first 64 bytes are all that a look-up and a scan for idle flows touch.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Core {
    pub(super) src: Address,
    pub(super) dst: Address,
    /// Milliseconds of the newest packet.
    pub(super) last: u64,
    /// Milliseconds of the first packet.
    pub(super) first: u64,
    /// Hash, kept for removal.
    pub(super) tag: u32,
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    pub(super) vlan: u16,
    pub(super) protocol: u8,
    pub(super) tunnel: u8,
    pub(super) ip_version: u8,
    pub(super) src_mac: Mac,
    pub(super) dst_mac: Mac,
    pub(super) directions: [Direction; DIRECTIONS],
}

/// Counters of one direction; times in ms.
#[derive(Clone, Copy, Default)]
pub(super) struct Direction {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Core {
    /// A flow begun by `packet` at `at` ms, nothing counted yet.
    pub(super) fn new(packet: &Packet<'_>, at: u64, tag: u32) -> Self {
        Self {
            src: packet.src,
            dst: packet.dst,
            last: at,
            first: at,
            tag,
            src_port: packet.src_port,
            dst_port: packet.dst_port,
            vlan: packet.vlan,
            protocol: packet.protocol,
            tunnel: packet.tunnel,
            ip_version: packet.ip_version,
            src_mac: packet.src_mac,
            dst_mac: packet.dst_mac,
            directions: [Direction::default(); DIRECTIONS],
        }
    }

    /// Whether the packet is of this flow, in either direction.
    #[inline]
    pub(super) fn has(&self, packet: &Packet<'_>) -> bool {
        self.protocol == packet.protocol
            && self.vlan == packet.vlan
            && self.tunnel == packet.tunnel
            && (self.is_forward(packet)
                || (self.src == packet.dst
                    && self.dst == packet.src
                    && self.src_port == packet.dst_port
                    && self.dst_port == packet.src_port))
    }

    /// Whether a packet of this flow goes the way of its first one.
    #[inline]
    pub(super) fn is_forward(&self, packet: &Packet<'_>) -> bool {
        self.src == packet.src
            && self.dst == packet.dst
            && self.src_port == packet.src_port
            && self.dst_port == packet.dst_port
    }

    /// Packets of both directions.
    pub(super) fn packets(&self) -> u64 {
        self.directions[0].packets + self.directions[1].packets
    }

    /// Counts a packet; returns the gaps to the newest packet of the flow and of its direction.
    #[inline]
    pub(super) fn add(&mut self, at: u64, forward: bool, size: u16) -> [u64; 2] {
        let direction = &mut self.directions[usize::from(!forward)];
        if direction.packets == 0 {
            direction.first = at;
            direction.last = at;
        }
        let gaps = [at - self.last, at - direction.last];
        direction.packets += 1;
        direction.bytes += u64::from(size);
        direction.last = at;
        self.last = at;
        gaps
    }
}

/// The 48 statistics of a flow, before their square roots.
#[derive(Clone, Copy, Default)]
pub(super) struct Statistics {
    /// Both directions, forward, backward.
    pub(super) sizes: [Moments<u16>; 3],
    pub(super) gaps: [Moments<u64>; 3],
    /// Packets by direction and flag, flags in the order of the TCP header's bits from FIN up.
    pub(super) flags: [[u32; 8]; DIRECTIONS],
}

impl Statistics {
    /// Takes in a packet that [`Core::add`] has counted.
    #[inline]
    pub(super) fn add(
        &mut self,
        core: &Core,
        forward: bool,
        size: u16,
        gaps: [u64; 2],
        tcp_flags: u8,
    ) {
        let direction = usize::from(!forward);
        let counts = [core.packets(), core.directions[direction].packets];
        for ((which, n), gap) in [0, 1 + direction].into_iter().zip(counts).zip(gaps) {
            self.sizes[which].add(size, f64::from(size), n);
            if n > 1 {
                self.gaps[which].add(gap, gap as f64, n - 1);
            }
        }
        if tcp_flags != 0 {
            for (bit, count) in self.flags[direction].iter_mut().enumerate() {
                *count = count.wrapping_add(u32::from((tcp_flags >> bit) & 1));
            }
        }
    }
}

/// Smallest, largest, mean and sum of squared differences from the mean (Welford, Technometrics 4, 1962).
#[derive(Clone, Copy, Default)]
pub(super) struct Moments<T> {
    pub(super) mean: f64,
    squares: f64,
    pub(super) min: T,
    pub(super) max: T,
}

impl<T: Copy + Ord> Moments<T> {
    /// Takes in the `n`th value, counted from 1. The order of the operations decides the last digits.
    #[inline]
    fn add(&mut self, value: T, x: f64, n: u64) {
        if n == 1 {
            *self = Self {
                mean: x,
                squares: 0.0,
                min: value,
                max: value,
            };
            return;
        }
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        let before = x - self.mean;
        self.mean += before / n as f64;
        self.squares += before * (x - self.mean);
    }

    /// Sample standard deviation of `n` values, 0 for fewer than two.
    pub(super) fn deviation(&self, n: u64) -> f64 {
        if n > 1 {
            (self.squares / (n - 1) as f64).sqrt()
        } else {
            0.0
        }
    }
}

/// Direction, size and gap of a flow's first packets, 8 bytes each: gap in ms (47 bits), size (16), backward (1).
#[derive(Default)]
pub(super) struct Sequence(Vec<u64>);

impl Sequence {
    /// Adds a packet unless there are `limit` already.
    #[inline]
    pub(super) fn push(&mut self, limit: u16, forward: bool, size: u16, gap: u64) {
        let limit = usize::from(limit);
        if self.0.len() >= limit {
            return;
        }
        if self.0.len() == self.0.capacity() {
            let more = self.0.len().max(4).min(limit - self.0.len());
            self.0.reserve_exact(more);
        }
        let gap = gap.min((1 << 47) - 1);
        self.0
            .push(gap << 17 | u64::from(size) << 1 | u64::from(!forward));
    }

    /// The three lists, each filled up with -1 to `limit` entries: direction (0 or 1), size, gap in ms.
    pub(super) fn lists(&self, limit: u16) -> [Vec<i64>; 3] {
        let list = |part: fn(u64) -> u64| {
            let mut out = Vec::with_capacity(usize::from(limit));
            out.extend(self.0.iter().map(|&entry| part(entry) as i64));
            out.resize(usize::from(limit), -1);
            out
        };
        [
            list(|e| e & 1),
            list(|e| (e >> 1) & 0xffff),
            list(|e| e >> 17),
        ]
    }
}

/// Size that counts in this configuration.
#[inline]
pub(super) fn size_of(config: &Config, packet: &Packet<'_>) -> u16 {
    packet.sizes[usize::from(config.accounting.min(3))]
}
