use std::net::{IpAddr, Ipv4Addr};

/// The most records of a table: 20 million (about 2 GB).
pub const MAX_RECORDS: usize = 20_000_000;
/// The most different labels of a table.
pub const MAX_LABELS: usize = 4096;

/// One one-way flow, as NetFlow counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// First packet, µs since the Unix epoch.
    pub start_us: u64,
    /// First to last packet, µs.
    pub duration_us: u64,
    /// Packets, at least 1.
    pub packets: u64,
    /// Sum of IP lengths, bytes.
    pub bytes: u64,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, 0 where the protocol has none.
    pub src_port: u16,
    /// Destination port, 0 where the protocol has none.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Index into [`Table::labels`].
    pub label: u32,
    /// Time to live of its first packet; 0 when not known.
    pub ttl: u8,
    /// Type of service of its first packet.
    pub tos: u8,
    /// Marks of its first packet, 0 when not known: 2 do not fragment, 8 the identification of IPv4 is zero, 16 TCP's SYN.
    pub marks: u8,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            start_us: 0,
            duration_us: 0,
            packets: 1,
            bytes: 0,
            src: Ipv4Addr::UNSPECIFIED.into(),
            dst: Ipv4Addr::UNSPECIFIED.into(),
            src_port: 0,
            dst_port: 0,
            protocol: 0,
            label: 0,
            ttl: 0,
            tos: 0,
            marks: 0,
        }
    }
}

/// One-way flows with their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// In the order of the input; [`Table::sort`] orders by time.
    pub records: Vec<Record>,
    /// Texts of labels; records hold indexes. One empty text when the input has no labels.
    pub labels: Vec<String>,
    /// Name of the label column; `None` when the input has none.
    pub label_column: Option<String>,
    /// From a capture: time to live and type of service are known.
    pub capture: bool,
}

impl Table {
    /// Orders records by start time; equal times keep their order.
    pub fn sort(&mut self) {
        self.records.sort_by_key(|r| r.start_us);
    }

    /// The coarsest of 1 s, 1 ms, 1 µs that all times and durations are whole multiples of, µs.
    pub(crate) fn resolution_us(&self) -> (u64, u64) {
        let of = |value: &dyn Fn(&Record) -> u64| {
            [1_000_000, 1000]
                .into_iter()
                .find(|unit| self.records.iter().all(|r| value(r).is_multiple_of(*unit)))
                .unwrap_or(1)
        };
        (of(&|r| r.start_us), of(&|r| r.duration_us))
    }
}

/// The fewest bytes of IP and transport header that a packet of `protocol` has.
pub fn header_bytes(protocol: u8, v6: bool) -> u64 {
    let transport = match protocol {
        6 => 20,
        17 => 8,
        _ => 0,
    };
    transport + if v6 { 40 } else { 20 }
}

/// Whether packets of the protocol carry ports: TCP, UDP, SCTP, UDP-Lite, DCCP.
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}
