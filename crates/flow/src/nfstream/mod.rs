//! Flow records with the values of NFStream 6.6.0, byte for byte, its odd rules included.
//!
//! For models that were trained on NFStream's columns. It has its own parser and flow cache, because NFStream's rules
//! differ from those of [`crate::Table`] in many places: sizes are 16 bits wide, time has milliseconds, the ethertype does not decide
//! what a packet is, TCP never ends a flow, and flows leave the cache in the order of their creation.
//!
//! ```
//! use chaff_flow::Link;
//! use chaff_flow::nfstream::{Config, Meter, write_csv_row};
//! // Ethernet, IPv4, UDP 192.168.1.9:5000 -> 10.0.0.1:53, 4 bytes of payload.
//! let frame = [
//!     2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 1, 9, 10, 0, 0,
//!     1, 0x13, 0x88, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4,
//! ];
//! let mut meter = Meter::new(Config { statistics: true, ..Config::default() });
//! meter.observe(Link::Ethernet, 1_500, &frame, frame.len())?;
//! meter.finish();
//! let flow = meter.poll().expect("one flow");
//! let (mut row, mut line) = (Vec::new(), Vec::new());
//! flow.values(meter.config(), &mut row);
//! assert_eq!(row.len(), meter.columns().len());
//! write_csv_row(&mut line, &row, "\n");
//! assert!(line.starts_with(b"0,0,192.168.1.9,02:00:00:00:00:02,02:00:00,5000,10.0.0.1,"));
//! # Ok::<(), chaff_flow::nfstream::Ignored>(())
//! ```
//!
//! Not here: reading captures and filters (the caller's work), several meters at once (one meter is one of NFStream's),
//! and nDPI itself: application names come from [`crate::app`].

mod cache;
mod columns;
mod csv;
mod dissect;
mod flow;
mod hasher;
mod meter;
mod packet;
mod tunnel;

pub use csv::{write_csv_header, write_csv_row};
pub use flow::{Expiration, Flow};
pub use meter::{Meter, MeterStats};
pub use packet::Ignored;

/// Settings of a [`Meter`]; the defaults are NFStream's, but for dissection, which is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The size that counts: 0 frame, 1 IP packet, 2 transport header and payload, 3 payload. Default 0.
    pub accounting: u8,
    /// Seconds without a packet after which a flow has ended. 0 makes each packet a flow. Default 120.
    pub idle_timeout_s: u32,
    /// Age in seconds at which a flow is cut. 0 makes each packet a flow. Default 1800.
    pub active_timeout_s: u32,
    /// Adds the 48 columns of statistics. Default off.
    pub statistics: bool,
    /// Packets of the three sequence columns, 0 for no such columns. Default 0.
    pub splt: u16,
    /// Looks into GTP-U, CAPWAP and TZSP, and adds the column `tunnel_id`. Default on.
    pub decode_tunnels: bool,
    /// Packets of a flow that are looked into for the nine application columns, 0 for no such columns. Default 0.
    pub dissect: u8,
    /// Bytes that the unfinished handshakes of all flows may hold together; a flow that finds no room keeps the hints that it
    /// has. NFStream has no such bound. Default 64 MiB.
    pub dissect_room: usize,
    /// Adds the columns of system visibility, `system_process_pid` and `system_process_name`, behind all others; their values
    /// come from [`Flow::set_process`]. Default off.
    pub processes: bool,
    /// Flows after which the meter stops, 0 for no limit. Default 0.
    pub max_flows: u64,
    /// Flows kept at once, about 0.5 KiB each with everything on. NFStream has no such bound; when it is reached the flow created
    /// first is emitted early, and counted in [`MeterStats::evicted`]. Default 4,194,304.
    pub max_cached: usize,
    /// Key of the hash function. No output depends on it.
    pub hash_seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            accounting: 0,
            idle_timeout_s: 120,
            active_timeout_s: 1800,
            statistics: false,
            splt: 0,
            decode_tunnels: true,
            dissect: 0,
            dissect_room: crate::table::DISSECT_ROOM,
            processes: false,
            max_flows: 0,
            max_cached: 4 << 20,
            hash_seed: 0,
        }
    }
}
