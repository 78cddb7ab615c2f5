use crate::{Dir, FlowKey, Nanos};

/// Version of everything in this crate that crosses the kernel border; the loader refuses an object with another one.
pub const ABI_VERSION: u32 = 2;

/// Devices that have their own slot counters; index 0 is "all other devices".
pub const MAX_DEVICES: u32 = 256;

/// Slots kept per device in the `SLOTS` map. User space zeroes a slot half a ring before it is used again; a gateway
/// that hangs for more than the ring smears counts over slots but loses none.
pub const SLOT_RING: u32 = 64;

/// Names of the kernel's maps.
pub mod map {
    /// `ARRAY` of one [`super::MeterConfig`].
    pub const CONFIG: &str = "CONFIG";
    /// `HASH` of [`crate::DeviceKey`] to a `u32` index below [`super::MAX_DEVICES`].
    pub const DEVICES: &str = "DEVICES";
    /// Mmap-able `ARRAY` of [`super::SlotCounters`], a block for each possible CPU, so that programs need no atomic
    /// instructions: index `(cpu * MAX_DEVICES + device) * SLOT_RING + slot % SLOT_RING`.
    pub const SLOTS: &str = "SLOTS";
    /// `RINGBUF` of [`super::DirectRecord`].
    pub const RECORDS: &str = "RECORDS";
    /// `PERCPU_ARRAY` of one `[u64; COUNT]`, indexed by [`super::Reason`].
    pub const REASONS: &str = "REASONS";
    /// Two generations of flows: `HASH` of [`crate::FlowKey`] (device first) to [`crate::FlowValue`].
    pub const FLOWS: [&str; 2] = ["FLOWS_0", "FLOWS_1"];
    /// `ARRAY` of one `u32`, which counts generations: the programs fill [`FLOWS`]`[n % 2]`.
    pub const GENERATION: &str = "GENERATION";
    /// `PERCPU_ARRAY` of one value private to the programs.
    pub const SCRATCH: &str = "SCRATCH";
    /// `RINGBUF` of [`super::HintHeader`] with the first bytes of a frame behind it.
    pub const HINTS: &str = "HINTS";
    /// `LRU_HASH` of [`crate::FlowKey`] (device first) to [`super::HintState`].
    pub const HINTED: &str = "HINTED";
}

/// Names of constants of the programs that the loader sets before the kernel checks them.
pub mod constant {
    /// `u32`: packets with payload that are copied up of each flow, at most 255. With 0 the kernel removes the code.
    pub const HINT_PACKETS: &str = "HINT_PACKETS";
    /// `u64`, ns: a flow that was silent for so long is a new one, and its first packets are copied again.
    pub const HINT_IDLE: &str = "HINT_IDLE";
}

/// Names of the kernel's programs.
pub mod program {
    /// XDP, device side, ingress.
    pub const XDP_LAN: &str = "chaff_xdp_lan";
    /// tcx, device side, from the device.
    pub const TCX_LAN_INGRESS: &str = "chaff_lan_in";
    /// tcx, device side, to the device.
    pub const TCX_LAN_EGRESS: &str = "chaff_lan_out";
    /// tcx, network side, from the network.
    pub const TCX_WAN_INGRESS: &str = "chaff_wan_in";
    /// tcx, network side, to the network.
    pub const TCX_WAN_EGRESS: &str = "chaff_wan_out";
}

/// Far end of the cover channel as the network side sees it, for telling downlink cover apart. 20 bytes, no padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CoverPeer {
    /// Address, IPv4 mapped; all zero when there is none.
    pub address: [u8; 16],
    /// The sink's UDP port, wire order.
    pub port: [u8; 2],
    /// Zero.
    pub pad: [u8; 2],
}

/// Settings of the meter, written once before attach. 56 bytes, no padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MeterConfig {
    /// Start of slot 0 on the kernel's monotonic clock.
    pub slot_epoch: Nanos,
    /// Length of a slot, ns; 0 switches the slot counters off.
    pub slot_len: Nanos,
    /// [`ABI_VERSION`].
    pub abi_version: u32,
    /// `SO_MARK` of cover packets; 0 for none.
    pub cover_mark: u32,
    /// 1 when devices are also looked up by IP address.
    pub match_ip: u32,
    /// Sender of downlink cover.
    pub cover_peer: CoverPeer,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<MeterConfig>() == 56);

/// Counts of one device in one slot, real and cover apart. 80 bytes, no padding. Arrays are indexed by [`crate::Dir`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SlotCounters {
    /// Real packets.
    pub packets: [u64; 2],
    /// Real IP bytes.
    pub bytes: [u64; 2],
    /// Real transport payload bytes.
    pub payload: [u64; 2],
    /// Cover packets.
    pub cover_packets: [u64; 2],
    /// Cover IP bytes.
    pub cover_bytes: [u64; 2],
}

const _: () = assert!(size_of::<SlotCounters>() == 80);

impl SlotCounters {
    /// Adds another slot's counts.
    pub fn add(&mut self, o: &Self) {
        for d in Dir::BOTH {
            let i = d.index();
            self.packets[i] += o.packets[i];
            self.bytes[i] += o.bytes[i];
            self.payload[i] += o.payload[i];
            self.cover_packets[i] += o.cover_packets[i];
            self.cover_bytes[i] += o.cover_bytes[i];
        }
    }
}

/// One frame whose flow found no room in the map, sent through the ring buffer. 88 bytes, no padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DirectRecord {
    /// Device-first key.
    pub key: FlowKey,
    /// Kernel's monotonic time.
    pub at: Nanos,
    /// [`crate::Sample::wire`].
    pub wire: u32,
    /// [`crate::Sample::bytes`].
    pub bytes: u32,
    /// [`crate::Sample::payload`].
    pub payload: u32,
    /// [`crate::Sample::segments`].
    pub segments: u16,
    /// [`crate::Sample::tcp_flags`].
    pub tcp_flags: u16,
    /// Index of the device, 0 when unknown.
    pub device: u32,
    /// Interface.
    pub ifindex: u32,
    /// MAC address of the device side.
    pub mac: [u8; 6],
    /// [`crate::Dir`].
    pub dir: u8,
    /// 1 for cover.
    pub cover: u8,
    /// Zero.
    pub pad: [u8; 8],
}

const _: () = assert!(size_of::<DirectRecord>() == 88);

/// Head of the copy of a frame that is among the first of its flow with a payload. 24 bytes, no padding.
///
/// Behind it come the first bytes of the frame, Ethernet header first, in room for [`HINT_SMALL`] or [`HINT_LARGE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HintHeader {
    /// Kernel's monotonic time, the same as in the flow's counters.
    pub at: Nanos,
    /// Length of the frame, bytes, without a tag that is kept beside the bytes.
    pub frame_len: u32,
    /// Bytes of the frame that follow.
    pub len: u32,
    /// Outer VLAN id of the flow's key, wire order.
    pub vlan: [u8; 2],
    /// [`crate::Dir`].
    pub dir: u8,
    /// Zero.
    pub pad: [u8; 5],
}

const _: () = assert!(size_of::<HintHeader>() == 24);

/// Most bytes copied of a frame of up to this length.
pub const HINT_SMALL: usize = 256;

/// Most bytes copied of a longer frame: a whole one on Ethernet, and a large TLS hello in a super-packet.
pub const HINT_LARGE: usize = 2048;

/// What is known of a flow's copies beyond one map generation. 16 bytes, no padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HintState {
    /// Time of the last copy, or of the flow's first packet in a generation.
    pub last: Nanos,
    /// Packets copied.
    pub copied: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<HintState>() == 16);

/// What became of a frame; index into the `REASONS` map. Counts are wire packets (GSO segments counted).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Reason {
    /// Seen on the device side at all (sum of all others below that are of the device side).
    Seen = 0,
    /// Counted in a flow map.
    Flow = 1,
    /// Sent through the ring buffer because the map was full.
    Ring = 2,
    /// Lost to flow records: map and ring were full.
    Lost = 3,
    /// Not IP (ARP, EAPOL, ...).
    NotIp = 4,
    /// Cut short or malformed.
    Malformed = 5,
    /// Cover in a flow map or ring record (counted on the network side).
    Cover = 6,
    /// Seen on the network side, from the network, cover included.
    WanIn = 7,
    /// Seen on the network side, to the network, cover included.
    WanOut = 8,
    /// Bytes (IP length; frame length when not IP) on the network side, from the network.
    WanInBytes = 9,
    /// Bytes on the network side, to the network.
    WanOutBytes = 10,
    /// Cover lost to flow records: map and ring were full.
    CoverLost = 11,
    /// Copied up for application hints, besides being counted.
    HintCopied = 12,
    /// Not copied because the ring of copies was full.
    HintDropped = 13,
}

impl Reason {
    /// How many there are.
    pub const COUNT: u32 = 14;
    /// All of them in index order.
    pub const ALL: [Self; 14] = [
        Self::Seen,
        Self::Flow,
        Self::Ring,
        Self::Lost,
        Self::NotIp,
        Self::Malformed,
        Self::Cover,
        Self::WanIn,
        Self::WanOut,
        Self::WanInBytes,
        Self::WanOutBytes,
        Self::CoverLost,
        Self::HintCopied,
        Self::HintDropped,
    ];

    /// The name used in reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Flow => "flow",
            Self::Ring => "ring",
            Self::Lost => "lost",
            Self::NotIp => "not_ip",
            Self::Malformed => "malformed",
            Self::Cover => "cover",
            Self::WanIn => "wan_in",
            Self::WanOut => "wan_out",
            Self::WanInBytes => "wan_in_bytes",
            Self::WanOutBytes => "wan_out_bytes",
            Self::CoverLost => "cover_lost",
            Self::HintCopied => "hint_copied",
            Self::HintDropped => "hint_dropped",
        }
    }
}
