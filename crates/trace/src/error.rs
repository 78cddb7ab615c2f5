use std::io;

/// Why a capture could not be read on or written. Offsets are bytes from the start of the input; packets count from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The input is empty.
    #[error("the file is empty")]
    Empty,
    /// The first bytes are neither of pcap nor of pcapng.
    #[error(
        "not a pcap or pcapng file: it begins with {}{}",
        hexadecimal(magic),
        hint(magic)
    )]
    Unknown {
        /// The first bytes, at most four.
        magic: Vec<u8>,
    },
    /// The input ended before the file header did.
    #[error("the file ends inside its header")]
    Header,
    /// The input ended in the middle of a packet or a block.
    #[error("the file ends inside packet {packet}, which begins at byte {offset}")]
    Cut {
        /// Where the packet or block begins.
        offset: u64,
        /// Number the packet would have had.
        packet: u64,
    },
    /// A length beyond [`crate::MAX_BLOCK`], most likely a broken one.
    #[error(
        "packet {packet} at byte {offset} claims {length} bytes, more than the limit of {limit}"
    )]
    TooLarge {
        /// Where the packet or block begins.
        offset: u64,
        /// Number the packet would have had.
        packet: u64,
        /// What it claims, bytes.
        length: usize,
        /// [`crate::MAX_BLOCK`].
        limit: usize,
    },
    /// A pcapng packet of an interface that the section has not described.
    #[error(
        "packet {packet} at byte {offset} is of interface {interface}, the section has {known}"
    )]
    Interface {
        /// Where the block begins.
        offset: u64,
        /// Number of the packet.
        packet: u64,
        /// What the packet says.
        interface: u32,
        /// Interfaces described so far.
        known: usize,
    },
    /// A pcapng packet block that is too short for what it says it holds.
    #[error("packet {packet} at byte {offset} has a block of {had} bytes, it needs {needed}")]
    Block {
        /// Where the block begins.
        offset: u64,
        /// Number of the packet.
        packet: u64,
        /// Bytes it needs.
        needed: usize,
        /// Bytes the block has.
        had: usize,
    },
    /// Broken structure of the file header or of a pcapng block.
    #[error("broken structure at byte {offset}, before packet {packet}: {reason}")]
    Structure {
        /// Where the block begins.
        offset: u64,
        /// Number of the packet that would have come next.
        packet: u64,
        /// What the format's parser found.
        reason: String,
    },
    /// The gzip data around the capture is broken or cut.
    #[error("the gzip data is damaged after {packets} good packets: {reason}")]
    Gzip {
        /// Packets that were read before.
        packets: u64,
        /// What the unpacker found.
        reason: String,
    },
    /// The input could not be read.
    #[error("cannot read on at byte {offset}")]
    Read {
        /// How far it got.
        offset: u64,
        /// From the system.
        source: io::Error,
    },
    /// The output could not be written.
    #[error("cannot write")]
    Write(#[from] io::Error),
    /// A time or length that the pcap format cannot hold (seconds and lengths have 32 bits).
    #[error("{what} {value} does not fit into a pcap file")]
    Range {
        /// Which value.
        what: &'static str,
        /// The value: seconds or bytes.
        value: u64,
    },
}

/// `0x6e6f` for the bytes 6e, 6f.
fn hexadecimal(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("0x{digits}")
}

fn hint(magic: &[u8]) -> &'static str {
    match magic {
        [0x1f, 0x8b, ..] => " (packed twice with gzip)",
        [0x28, 0xb5, 0x2f, 0xfd] => {
            " (zstd; unpack it first, for example with `zstdcat FILE | ... -`)"
        }
        [0x34, 0xcd, 0xb2, 0xa1] | [0xa1, 0xb2, 0xcd, 0x34] => {
            " (modified pcap of old Linux systems)"
        }
        _ => "",
    }
}
