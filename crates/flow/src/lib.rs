//! Frames to packets to flow records.
//!
//! Data flow: `frame → [`parse`] → [`Packet`] → [`Table::observe`] → [`Record`]`. Live, the kernel parses and counts;
//! its map generations come in through [`Table::absorb`] and make the same records. What a record is made of is one
//! list, [`FIELDS`], from which the CSV header, the rows, the JSON and the documentation come.
//!
//! ```
//! use chaff_abi::Nanos;
//! use chaff_flow::{Link, Table, TableConfig, parse};
//! // Ethernet, IPv4, UDP 192.168.1.9:5000 -> 10.0.0.1:53, 4 bytes of payload.
//! let frame = [
//!     2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 1, 9, 10, 0, 0,
//!     1, 0x13, 0x88, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4,
//! ];
//! let packet = parse(Link::Ethernet, &frame, frame.len())?;
//! assert_eq!((packet.sample.bytes, packet.sample.payload, packet.payload), (32, 4, &[1, 2, 3, 4][..]));
//! let mut table = Table::new(TableConfig::default());
//! table.observe(Nanos::from_secs(1), None, &packet);
//! table.finish(Nanos::from_secs(2));
//! let record = table.poll_record().expect("one flow");
//! assert_eq!((record.forward.packets, record.key.destination_port()), (1, 53));
//! # Ok::<(), chaff_flow::ParseError>(())
//! ```
//!
//! [`Parser`] looks into tunnels and joins fragments to their flow; [`parse`] alone sees what the kernel's meter sees.
//! [`nfstream`] makes flows with NFStream's numbers instead, [`plugin`] adds columns to either, [`app`] looks at payloads,
//! [`stats`] goes beyond the sums that the kernel keeps.
//!
//! It opens no file and reads no clock; capture formats are `chaff-trace`. It does not reassemble fragments or streams,
//! but for the handshakes that [`app`] reads.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod app;
mod column;
pub mod features;
mod fields;
mod index;
pub mod nfstream;
mod packet;
pub mod plugin;
mod record;
pub mod stats;
mod table;
pub mod text;

pub use column::{Column, Kind, Value, nearest};
pub use fields::{FIELDS, Field, Group, Layout, fields_markdown};
pub use packet::{
    Fragment, Ignored, Layer, Link, MAX_DEPTH, MAX_EXTENSIONS, MAX_LABELS, MAX_TAGS, Outer, Packet,
    ParseError, Parser, ParserConfig, TcpFacts, Tunnel, TunnelKind, parse,
};
pub use record::{EndReason, Process, Record};
pub use table::{Table, TableConfig, TableStats};
