use chaff_abi::Nanos;

#[cfg(doc)]
use super::Table;
#[cfg(doc)]
use crate::{EndReason, Record};

/// Default of what unfinished handshakes may hold, bytes.
pub(crate) const DISSECT_ROOM: usize = 64 << 20;

/// Settings of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableConfig {
    /// A flow without a packet for this long ends. Default 120 s.
    pub idle_timeout: Nanos,
    /// Idle timeout of TCP flows; `None`, the default, for `idle_timeout`.
    pub idle_tcp: Option<Nanos>,
    /// Idle timeout of UDP flows; `None`, the default, for `idle_timeout`.
    pub idle_udp: Option<Nanos>,
    /// Idle timeout of ICMP and ICMPv6 flows; `None`, the default, for `idle_timeout`.
    pub idle_icmp: Option<Nanos>,
    /// A flow that is this old is cut. Default 1800 s.
    pub active_timeout: Nanos,
    /// How long a TCP flow stays after its end, which is a FIN from both sides or a RST from one: its idle timeout from
    /// then on, so that the last acknowledgements are in its record. A SYN ends it at once and begins the next flow. `None`
    /// for flows that end by timeouts only. Default 5 s.
    pub tcp_linger: Option<Nanos>,
    /// Flows kept at once, about 0.7 KiB each; at least 1. Default 262,144. When a new flow finds no room, the flow whose
    /// idle deadline comes first ends with [`EndReason::Resource`]: with one timeout, the least recently active one.
    pub max_flows: usize,
    /// How much later the timer ends flows that come from kernel generations, because younger packets may still be in the
    /// kernel. At least the time between two drains. It moves the moment of the record, not its content. Default 5 s.
    pub drain_grace: Nanos,
    /// Whether records have [`Record::statistics`], about 1.5 KiB more a flow and up to 22 KiB for long ones. Default false.
    pub statistics: bool,
    /// Time between packets above which a flow was silent, for the active and idle periods of the statistics. Default 5 s.
    pub activity_gap: Nanos,
    /// First packets of which [`Record::splt`] has direction, sizes and times, 24 bytes each. Default 0.
    pub splt: u16,
    /// First packets that are looked into for [`Record::hints`]. Default 0, none.
    pub dissect: u16,
    /// Bytes that the unfinished handshakes of all flows may hold together; a flow that finds no room keeps the hints that it
    /// has. Default 64 MiB.
    pub dissect_room: usize,
    /// Whether packets with different VLAN ids, inner or outer, are of different flows. Default false: where only one
    /// direction has a tag, or each its own, as on mirror ports and access points, a conversation is still one flow, and
    /// the record has the outer id of either direction. True where VLANs use the same addresses for different hosts.
    pub vlan_key: bool,
    /// Whether the columns have [`Record::process`], which the caller fills in. Default no.
    pub processes: bool,
    /// Key of the hash function; a gateway gives a random one so that nobody can aim at one bucket. No output depends on it.
    pub hash_seed: u64,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Nanos::from_secs(120),
            idle_tcp: None,
            idle_udp: None,
            idle_icmp: None,
            active_timeout: Nanos::from_secs(1800),
            tcp_linger: Some(Nanos::from_secs(5)),
            max_flows: 262_144,
            drain_grace: Nanos::from_secs(5),
            statistics: false,
            activity_gap: Nanos::from_secs(5),
            splt: 0,
            dissect: 0,
            dissect_room: DISSECT_ROOM,
            vlan_key: false,
            processes: false,
            hash_seed: 0,
        }
    }
}

impl TableConfig {
    /// The longest idle timeout of any protocol.
    pub(super) fn longest_idle(&self) -> Nanos {
        [self.idle_tcp, self.idle_udp, self.idle_icmp]
            .into_iter()
            .flatten()
            .fold(self.idle_timeout, Nanos::max)
    }
}

/// What a table has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Packets taken in (GSO segments counted), cover included.
    pub packets: u64,
    /// Records made.
    pub records: u64,
    /// Records made because the table was full.
    pub evicted: u64,
    /// Packets, and calls without a packet, whose time lay before an earlier one, but not far. Such packets keep their time;
    /// the gap before one is 0.
    pub disordered: u64,
    /// Packets far from all others in time, counted in flows of their own.
    pub outliers: u64,
    /// How often the clock went back with the packets and ended all flows: a clock was set, or captures are not in order.
    pub time_steps: u64,
    /// Later fragments. They are in the flow of the first one, or where that is not known in a flow with ports 0.
    pub later_fragments: u64,
    /// Largest number of flows held at once.
    pub peak_flows: usize,
}
