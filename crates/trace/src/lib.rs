//! Capture file formats: streaming readers and writers of pcap and pcapng.
//!
//! Data flow: `bytes from anywhere → [`Reader`] → frames for chaff_flow::parse`. Nothing here opens a file: standard input
//! works like a file. What is packed with gzip, in one member or several, is unpacked on the way. The reader is as lax as libpcap where captures are known to be odd, and holds one
//! buffer of 256 KiB that grows to a packet or block of at most [`MAX_BLOCK`] bytes.
//!
//! ```
//! use chaff_abi::Nanos;
//! use chaff_flow::Link;
//! use chaff_trace::{PcapWriter, Reader};
//! let mut file = Vec::new();
//! let mut writer = PcapWriter::new(&mut file, Link::Ethernet)?;
//! writer.write(Nanos::from_millis(1500), &[0; 60], 60)?;
//! let mut reader = Reader::new(&file[..])?;
//! let mut bytes = Vec::new();
//! let frame = reader.next(&mut bytes)?.expect("one packet");
//! assert_eq!((frame.at, frame.wire_len, bytes.len()), (Nanos::from_millis(1500), 60, 60));
//! assert!(reader.next(&mut bytes)?.is_none());
//! # Ok::<(), chaff_trace::TraceError>(())
//! ```
//!
//! It does not look into packets. [`resegment`] says what senders make of their data when packets must be smaller.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod error;
pub mod features;
mod input;
mod reader;
mod segment;
mod writer;

pub use error::TraceError;
pub use reader::{Format, Frame, MAX_BLOCK, Reader};
pub use segment::{Segment, Whole, resegment};
pub use writer::PcapWriter;
