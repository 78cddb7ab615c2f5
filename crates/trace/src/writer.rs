use std::io::Write;

use chaff_abi::Nanos;
use chaff_flow::Link;

use crate::TraceError;

/// Writes a pcap file with nanosecond times, little-endian on every machine so that equal packets give equal files.
pub struct PcapWriter<W: Write> {
    out: W,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file header. `out` should be buffered: each packet is two writes.
    ///
    /// # Errors
    /// [`TraceError::Write`].
    pub fn new(mut out: W, link: Link) -> Result<Self, TraceError> {
        let mut header = [0u8; 24];
        header[..4].copy_from_slice(&0xa1b2_3c4d_u32.to_le_bytes());
        header[4..6].copy_from_slice(&2u16.to_le_bytes());
        header[6..8].copy_from_slice(&4u16.to_le_bytes());
        header[16..20].copy_from_slice(&262_144u32.to_le_bytes());
        header[20..24].copy_from_slice(&link.to_pcap().to_le_bytes());
        out.write_all(&header)?;
        Ok(Self { out })
    }

    /// Appends the captured bytes of a frame that had `wire_len` bytes on the wire; `at` is since the Unix epoch.
    ///
    /// # Errors
    /// [`TraceError::Write`], or [`TraceError::Range`] for a time after the year 2106 and for lengths beyond 32 bits.
    pub fn write(&mut self, at: Nanos, frame: &[u8], wire_len: usize) -> Result<(), TraceError> {
        let seconds = field("time", at.0 / 1_000_000_000)?;
        let captured = field("captured length", frame.len() as u64)?;
        let original = field("length", wire_len.max(frame.len()) as u64)?;
        let mut header = [0u8; 16];
        header[..4].copy_from_slice(&seconds.to_le_bytes());
        header[4..8].copy_from_slice(&((at.0 % 1_000_000_000) as u32).to_le_bytes());
        header[8..12].copy_from_slice(&captured.to_le_bytes());
        header[12..].copy_from_slice(&original.to_le_bytes());
        self.out.write_all(&header)?;
        Ok(self.out.write_all(frame)?)
    }

    /// Flushes and gives the output back.
    ///
    /// # Errors
    /// [`TraceError::Write`].
    pub fn into_inner(mut self) -> Result<W, TraceError> {
        self.out.flush()?;
        Ok(self.out)
    }
}

fn field(what: &'static str, value: u64) -> Result<u32, TraceError> {
    u32::try_from(value).map_err(|_| TraceError::Range { what, value })
}
