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
//! It opens no file and reads no clock; capture formats are `chaff-trace`. It does not reassemble fragments and does
//! not look into tunnels.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod app;
mod column;
pub mod features;
mod fields;
mod packet;
mod record;
mod table;

pub use column::{Column, Kind, Value};
pub use fields::{FIELDS, Field, fields_markdown};
pub use packet::{
    Fragment, Ignored, Layer, Link, MAX_EXTENSIONS, MAX_TAGS, Packet, ParseError, TcpFacts, parse,
};
pub use record::{EndReason, Record};
pub use table::{Table, TableConfig, TableStats};
