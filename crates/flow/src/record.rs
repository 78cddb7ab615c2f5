use chaff_abi::{Counters, CoverCounters, Dir, FlowKey, Mac, Nanos, SequenceEntry};

use crate::app::Hints;
use crate::stats::{SpltEntry, Statistics};
use crate::{Outer, Tunnel, Value};

/// Why a flow became a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// No packet for the idle timeout.
    Idle,
    /// Older than the active timeout; the flow may go on in a later record with the same initiator.
    Active,
    /// The input ended.
    EndOfInput,
    /// The table was full.
    Resource,
    /// The TCP connection ended, by a FIN from both sides or a RST.
    TcpEnd,
    /// A plugin ended it.
    Plugin,
    /// The clock of the packets went back by more than the idle timeout.
    TimeStep,
}

impl EndReason {
    /// The name used in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::EndOfInput => "end_of_input",
            Self::Resource => "resource",
            Self::TcpEnd => "tcp_end",
            Self::Plugin => "plugin",
            Self::TimeStep => "time_step",
        }
    }

    /// Value of IPFIX `flowEndReason` (information element 136): 1 idle, 2 active, 3 end of flow detected, 4 forced end, 5
    /// lack of resources.
    pub const fn ipfix(self) -> u8 {
        match self {
            Self::Idle => 1,
            Self::Active => 2,
            Self::TcpEnd => 3,
            Self::EndOfInput | Self::Plugin | Self::TimeStep => 4,
            Self::Resource => 5,
        }
    }
}

/// A process of the host that the traffic is metered on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id in the host's outermost pid namespace.
    pub pid: u32,
    /// Name, at most 15 bytes, as the kernel keeps it for the thread that made the socket.
    pub name: String,
}

/// One flow, or one part of a flow that was cut by the active timeout.
///
/// The initiator is whoever sent the first packet; it stays the initiator in every part.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Counts from 0 in the order in which records are made.
    pub id: u64,
    /// 0 for the first part of a flow, 1 for what followed the first active timeout, ...
    pub part: u32,
    /// Initiator first; the VLAN id is that of the initiator's packets.
    pub key: FlowKey,
    /// Outer VLAN id of the responder's packets, 0 when untagged or without one.
    pub reverse_vlan: u16,
    /// The tunnel its packets were in.
    pub tunnel: Tunnel,
    /// Its ends, as in the flow's first packet.
    pub outer: Option<Outer>,
    /// Id of the innermost of two or more VLAN tags, otherwise 0.
    pub inner_vlan: u16,
    /// Initiator to responder.
    pub forward: Counters,
    /// Responder to initiator.
    pub backward: Counters,
    /// Cover packets: forward, backward. They are in no other field but `start`.
    pub cover: [CoverCounters; 2],
    /// First packet of either direction.
    pub start: Nanos,
    /// Last packet of either direction.
    pub end: Nanos,
    /// Why it ended.
    pub reason: EndReason,
    /// `Some(Out)`: the initiator is the protected device; `None`: not known which side is.
    pub device_dir: Option<Dir>,
    /// MAC of the initiator and of the responder; zero when not known.
    pub mac: [Mac; 2],
    /// Index of the device in the kernel's table, 0 when unknown.
    pub device: u32,
    /// Interface of the first packet, 0 when unknown.
    pub ifindex: u32,
    /// The first packets, at most [`chaff_abi::SEQUENCE_LEN`]; offsets are from `start`, and bit 8 of `dir_flags` is 0
    /// for forward and 1 for backward.
    pub sequence: Vec<SequenceEntry>,
    /// With [`crate::TableConfig::statistics`], unless the kernel counted the flow.
    pub statistics: Option<Box<Statistics>>,
    /// The first packets, at most [`crate::TableConfig::splt`], unless the kernel counted them.
    pub splt: Vec<SpltEntry>,
    /// With [`crate::TableConfig::dissect`]; every part of a flow has what was known when the part ended.
    pub hints: Option<Box<Hints>>,
    /// Values of the plugins' columns.
    pub plugin_values: Vec<Value>,
    /// Whose socket on this host it is. A table leaves it empty: who knows of sockets fills it in.
    pub process: Option<Process>,
}

impl Record {
    /// Packets of both directions, cover excluded.
    pub fn packets(&self) -> u64 {
        self.forward.packets + self.backward.packets
    }

    /// IP bytes of both directions, cover excluded.
    pub fn bytes(&self) -> u64 {
        self.forward.bytes + self.backward.bytes
    }

    /// `end - start`.
    pub fn duration(&self) -> Nanos {
        self.end.since(self.start)
    }

    /// Counters seen from the device: `[out, in]`; `None` when it is not known which side the device is.
    pub fn by_device(&self) -> Option<[&Counters; 2]> {
        match self.device_dir? {
            Dir::Out => Some([&self.forward, &self.backward]),
            Dir::In => Some([&self.backward, &self.forward]),
        }
    }
}
