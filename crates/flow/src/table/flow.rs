use chaff_abi::{Counters, CoverCounters, Dir, FlowKey, Mac, Nanos, SEQUENCE_LEN, SequenceEntry};

use super::identity::{Identity, Seeded};
use super::more::More;
use crate::{EndReason, Outer, Packet, Record, Tunnel, TunnelKind};

pub(super) const FIN: u16 = 1;
pub(super) const SYN: u16 = 2;
pub(super) const RST: u16 = 4;
pub(super) const ACK: u16 = 16;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Kinds of flows with an idle timeout of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Other = 0,
    Tcp = 1,
    Udp = 2,
    Icmp = 3,
}

impl Lane {
    #[inline(always)]
    pub(super) const fn of(protocol: u8) -> Self {
        match protocol {
            TCP => Self::Tcp,
            UDP => Self::Udp,
            ICMP | ICMPV6 => Self::Icmp,
            _ => Self::Other,
        }
    }
}

/// One direction-neutral packet or kernel part on its way in.
pub(super) struct Arrival {
    pub(super) at: Nanos,
    /// What the clock says, for deadlines.
    pub(super) seen: Nanos,
    /// Its time is wrong.
    pub(super) outlier: bool,
    /// Sender first; without VLAN id where that is no part of it.
    pub(super) key: FlowKey,
    /// [`Identity::beyond`].
    pub(super) beyond: u64,
    /// Outer VLAN id, wire order.
    pub(super) vlan: [u8; 2],
    pub(super) tunnel: Tunnel,
    pub(super) outer: Option<Outer>,
    pub(super) inner_vlan: u16,
    pub(super) dir: Option<Dir>,
    /// Sender, receiver.
    pub(super) mac: [Mac; 2],
    pub(super) device: u32,
    pub(super) ifindex: u32,
    pub(super) from_kernel: bool,
    /// It has the TCP flag SYN without ACK.
    pub(super) opens: bool,
}

impl Arrival {
    #[inline(always)]
    pub(super) fn of(
        at: Nanos,
        dir: Option<Dir>,
        packet: &Packet<'_>,
        vlan_key: bool,
        seeded: Seeded,
    ) -> Self {
        let mut key = packet.key;
        let mut beyond = u64::from(packet.inner_vlan);
        if !vlan_key {
            (key.vlan, beyond) = ([0; 2], 0);
        }
        if packet.tunnel.depth > 0 {
            beyond = tunnelled(beyond, packet, seeded);
        }
        Self {
            at,
            seen: at,
            outlier: false,
            key,
            beyond,
            vlan: packet.key.vlan,
            tunnel: packet.tunnel,
            outer: packet.outer,
            inner_vlan: packet.inner_vlan,
            dir,
            mac: [packet.src_mac, packet.dst_mac],
            device: 0,
            ifindex: 0,
            from_kernel: false,
            opens: packet.sample.tcp_flags & (SYN | ACK) == SYN,
        }
    }

    #[inline(always)]
    pub(super) fn identity(&self) -> Identity<'_> {
        Identity {
            key: &self.key,
            beyond: self.beyond,
        }
    }
}

/// Marks what is a digest: equal ones need another look.
const DIGEST: u64 = 1 << 63;

/// A digest of everything besides the key that tells flows in tunnels apart.
#[cold]
#[inline(never)]
fn tunnelled(inner_vlan: u64, packet: &Packet<'_>, seeded: Seeded) -> u64 {
    let tunnel = packet.tunnel;
    let words = inner_vlan
        | u64::from(tunnel.kind as u8) << 16
        | u64::from(tunnel.depth) << 24
        | u64::from(symmetric_id(tunnel)) << 32;
    let key = packet.outer.map_or(FlowKey::default(), |outer| FlowKey {
        src: outer.src,
        dst: outer.dst,
        version: outer.version,
        ..FlowKey::default()
    });
    seeded.digest(Identity {
        key: &key,
        beyond: words,
    }) | DIGEST
}

/// What both directions of a tunnel are called; endpoint identifiers are not.
fn symmetric_id(tunnel: Tunnel) -> u32 {
    match tunnel.kind {
        TunnelKind::Gre => tunnel.id,
        _ => tunnel.network,
    }
}

/// What ended or may end a TCP flow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ending {
    /// FIN of the initiator and of the responder.
    fin: [bool; 2],
    /// The connection is over; only stragglers are expected.
    pub(super) closed: bool,
}

impl Ending {
    /// Takes the flags of a packet of one side; gives whether they ended the connection just now.
    #[inline(always)]
    pub(super) fn note(&mut self, side: usize, flags: u16) -> bool {
        if flags & (FIN | RST) == 0 || self.closed {
            return false;
        }
        self.fin[side & 1] |= flags & FIN != 0;
        self.closed = flags & RST != 0 || self.fin == [true; 2];
        self.closed
    }
}

/// A flow in progress. What every packet looks at is in the first cache line.
#[repr(C, align(64))]
pub(super) struct Flow {
    /// Initiator first; as in [`Arrival::key`].
    pub(super) key: FlowKey,
    /// [`Identity::beyond`].
    beyond: u64,
    /// The clock at the newest packet.
    pub(super) last: Nanos,
    /// Something was counted since the last cut.
    pub(super) live: bool,
    pub(super) from_kernel: bool,
    pub(super) outlier: bool,
    pub(super) ending: Ending,
    pub(super) sequence_len: u8,
    pub(super) device_dir: Option<Dir>,
    /// Forward, backward.
    pub(super) counters: [Counters; 2],
    pub(super) sequence: [SequenceEntry; SEQUENCE_LEN],
    /// Time of the oldest packet of the part.
    pub(super) start: Nanos,
    /// Idle timeout.
    pub(super) idle: Nanos,
    /// Identity; 0 for a free place.
    pub(super) serial: u64,
    /// Which entry in the queue of idle deadlines is true; another one takes its place when the timeout shrinks.
    pub(super) idle_serial: u64,
    /// The same in the queue of active deadlines; changes with each part.
    pub(super) part_serial: u64,
    pub(super) cover: [CoverCounters; 2],
    pub(super) mac: [Mac; 2],
    /// Only flows in tunnels have one.
    tunnel: Option<Box<(Tunnel, Option<Outer>)>>,
    /// Outer VLAN ids of initiator and responder, wire order.
    pub(super) vlan: [[u8; 2]; 2],
    pub(super) part: u32,
    pub(super) device: u32,
    pub(super) ifindex: u32,
    pub(super) inner_vlan: u16,
    /// What is wanted beyond the core columns.
    pub(super) more: Option<Box<More>>,
}

/// Whether one key is the other turned round.
#[inline(always)]
fn turned(a: &FlowKey, b: &FlowKey) -> bool {
    (a.src, a.dst) == (b.dst, b.src)
        && (a.src_port, a.dst_port) == (b.dst_port, b.src_port)
        && (a.vlan, a.protocol, a.version) == (b.vlan, b.protocol, b.version)
}

impl Flow {
    pub(super) fn new(arrival: &Arrival, serial: u64, idle: Nanos) -> Self {
        Self {
            key: arrival.key,
            beyond: arrival.beyond,
            last: arrival.seen,
            live: false,
            from_kernel: arrival.from_kernel,
            outlier: arrival.outlier,
            ending: Ending::default(),
            sequence_len: 0,
            device_dir: arrival.dir,
            counters: [Counters::EMPTY; 2],
            sequence: [SequenceEntry::default(); SEQUENCE_LEN],
            start: arrival.at,
            idle,
            serial,
            idle_serial: serial,
            part_serial: 0,
            cover: [CoverCounters::default(); 2],
            mac: arrival.mac,
            tunnel: (arrival.tunnel != Tunnel::default())
                .then(|| Box::new((arrival.tunnel, arrival.outer))),
            vlan: [arrival.vlan, [0; 2]],
            part: 0,
            device: arrival.device,
            ifindex: arrival.ifindex,
            inner_vlan: arrival.inner_vlan,
            more: None,
        }
    }

    pub(super) fn identity(&self) -> Identity<'_> {
        Identity {
            key: &self.key,
            beyond: self.beyond,
        }
    }

    /// Whether it is the flow of an identity, and then which side of it comes first there: 0 the initiator, 1 the
    /// responder.
    #[inline(always)]
    pub(super) fn side(&self, arrival: &Arrival) -> Option<usize> {
        let other = self.beyond != arrival.beyond;
        if other || (arrival.beyond & DIGEST != 0 && !self.is_in_tunnel_of(arrival)) {
            None
        } else if self.key == arrival.key {
            Some(0)
        } else if turned(&self.key, &arrival.key) {
            Some(1)
        } else {
            None
        }
    }

    #[cold]
    #[inline(never)]
    fn is_in_tunnel_of(&self, arrival: &Arrival) -> bool {
        let (own, own_outer) = self.tunnel.as_deref().copied().unwrap_or_default();
        let other = arrival.tunnel;
        let same_ends = match (&own_outer, &arrival.outer) {
            (Some(own), Some(other)) => own.has_ends_of(other),
            (None, None) => true,
            _ => false,
        };
        same_ends
            && (own.kind, own.depth, own.network) == (other.kind, other.depth, other.network)
            && symmetric_id(own) == symmetric_id(other)
            && self.outlier == arrival.outlier
    }

    /// The responder was the first after all.
    pub(super) fn turn(&mut self) {
        self.key = self.key.reversed();
        self.counters.swap(0, 1);
        self.cover.swap(0, 1);
        self.mac.swap(0, 1);
        self.vlan.swap(0, 1);
        self.ending.fin.swap(0, 1);
        self.device_dir = self.device_dir.map(|dir| match dir {
            Dir::Out => Dir::In,
            Dir::In => Dir::Out,
        });
        for entry in &mut self.sequence {
            entry.dir_flags ^= 0x100;
        }
    }

    /// Adds entries in the order of time; those of parts that were counted apart mix.
    pub(super) fn push_all(&mut self, entries: &[SequenceEntry]) {
        let known = usize::from(self.sequence_len);
        let last = self.sequence.get(..known).and_then(|s| s.last());
        let mixes = match (last, entries.first()) {
            (Some(last), Some(first)) => first.offset_us < last.offset_us,
            _ => false,
        };
        if !mixes {
            entries.iter().for_each(|entry| self.push(*entry));
            return;
        }
        let mut all = self.sequence.get(..known).unwrap_or(&[]).to_vec();
        all.extend_from_slice(entries);
        all.sort_by_key(|entry| entry.offset_us);
        self.sequence_len = 0;
        all.iter().for_each(|entry| self.push(*entry));
    }

    pub(super) fn idle_at(&self) -> Nanos {
        self.last + self.idle
    }

    pub(super) fn has_part(&self, serial: u64) -> bool {
        self.serial != 0 && self.live && self.part_serial == serial
    }

    pub(super) fn has_idle(&self, serial: u64) -> bool {
        self.serial != 0 && self.idle_serial == serial
    }

    /// Begins the next part, in which nothing was counted yet.
    pub(super) fn reset(&mut self) {
        self.counters = [Counters::EMPTY; 2];
        self.cover = [CoverCounters::default(); 2];
        self.sequence_len = 0;
        self.live = false;
        self.part += 1;
    }

    pub(super) fn push(&mut self, entry: SequenceEntry) {
        if let Some(place) = self.sequence.get_mut(self.sequence_len as usize) {
            *place = entry;
            self.sequence_len += 1;
        }
    }

    pub(super) fn record(&self, id: u64, reason: EndReason) -> Record {
        let [forward, backward] = self.counters;
        let end = if forward.packets + backward.packets > 0 {
            forward.last.max(backward.last).max(self.start)
        } else {
            self.last
        };
        let sequence = self.sequence.get(..self.sequence_len as usize);
        Record {
            id,
            part: self.part,
            key: FlowKey {
                vlan: self.vlan[0],
                ..self.key
            },
            reverse_vlan: u16::from_be_bytes(self.vlan[1]),
            tunnel: self.tunnel.as_deref().map_or(Tunnel::default(), |t| t.0),
            outer: self.tunnel.as_deref().and_then(|t| t.1),
            inner_vlan: self.inner_vlan,
            forward,
            backward,
            cover: self.cover,
            start: self.start,
            end,
            reason,
            device_dir: self.device_dir,
            mac: self.mac,
            device: self.device,
            ifindex: self.ifindex,
            sequence: sequence.unwrap_or(&[]).to_vec(),
            statistics: None,
            splt: Vec::new(),
            hints: None,
            plugin_values: Vec::new(),
            process: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`crate::TableConfig::max_flows`] says of memory: the flow, its places in index and queues, and what growing
    /// vectors leave unused.
    #[test]
    fn a_flow_takes_the_memory_that_is_documented() {
        assert_eq!(size_of::<Flow>(), 576);
    }
}
