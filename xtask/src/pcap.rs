//! Classic Ethernet captures, read and cut: the demo's own count of what went in and its own look at the link.
//!
//! Deliberately apart from `chaff-trace`: numbers that check Chaff's programs do not come from Chaff's reader.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

const ETHERNET: u32 = 1;
const HEADER: usize = 24;
const RECORD: usize = 16;
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// A capture in memory.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Frames in file order.
    pub frames: Vec<Frame>,
}

/// One captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Nanoseconds since the Unix epoch.
    pub at: u64,
    /// Length on the wire, without frame check sequence.
    pub wire_len: u32,
    /// Captured bytes.
    pub bytes: Vec<u8>,
}

/// Returns whether the file at `path` is a classic pcap (and not, for example, pcapng).
pub fn is_classic(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| layout(&bytes).is_ok())
}

impl Capture {
    /// Reads a classic pcap of Ethernet frames.
    ///
    /// # Errors
    /// When it cannot be read, is of another kind, or ends inside a record.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("while reading {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("in {}", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let (word, unit) = layout(bytes)?;
        let link = word(bytes, 20);
        ensure!(link == ETHERNET, "link type {link}, wanted Ethernet");
        let mut frames = Vec::new();
        let mut offset = HEADER;
        while offset < bytes.len() {
            ensure!(
                bytes.len() - offset >= RECORD,
                "cut in a record header at byte {offset}"
            );
            let [seconds, fraction, len, wire_len] =
                [0, 4, 8, 12].map(|field| word(bytes, offset + field));
            let start = offset + RECORD;
            offset = start + len as usize;
            let bytes = bytes
                .get(start..offset)
                .with_context(|| format!("record at byte {start} wants {len} bytes"))?;
            let at = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit;
            frames.push(Frame {
                at,
                wire_len,
                bytes: bytes.to_vec(),
            });
        }
        Ok(Self { frames })
    }

    /// Writes the frames as a pcap with nanosecond times.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut out = Vec::with_capacity(HEADER + self.frames.len() * RECORD);
        for value in [0xa1b2_3c4d, 0x0004_0002, 0, 0, 0x0004_0000, ETHERNET] {
            out.write_all(&u32::to_le_bytes(value))?;
        }
        for frame in &self.frames {
            let seconds = u32::try_from(frame.at / 1_000_000_000).context("time after 2106")?;
            let nanos = (frame.at % 1_000_000_000) as u32;
            for value in [seconds, nanos, frame.bytes.len() as u32, frame.wire_len] {
                out.write_all(&value.to_le_bytes())?;
            }
            out.write_all(&frame.bytes)?;
        }
        fs::write(path, out).with_context(|| format!("while writing {}", path.display()))
    }

    /// Returns the time from the earliest to the latest frame in seconds.
    pub fn seconds(&self) -> f64 {
        let times = || self.frames.iter().map(|f| f.at);
        let (Some(first), Some(last)) = (times().min(), times().max()) else {
            return 0.0;
        };
        (last - first) as f64 / 1e9
    }

    /// Keeps the `seconds` with the most frames (the first such, when several have as many).
    pub fn cut(&mut self, seconds: f64) {
        self.frames.sort_by_key(|f| f.at);
        let length = (seconds * 1e9) as u64;
        let mut best = 0..0;
        let mut end = 0;
        for (start, first) in self.frames.iter().enumerate() {
            end += self.frames[end..]
                .iter()
                .take_while(|f| f.at - first.at <= length)
                .count();
            if end - start > best.len() {
                best = start..end;
            }
        }
        self.frames = self.frames.drain(best).collect();
    }
}

impl Frame {
    /// Returns destination and source MAC address; zeros when the frame is too short.
    pub fn macs(&self) -> [[u8; 6]; 2] {
        let mac = |at: usize| {
            self.bytes
                .get(at..at + 6)
                .and_then(|b| b.try_into().ok())
                .unwrap_or_default()
        };
        [mac(0), mac(6)]
    }

    /// Returns the ethertype behind VLAN tags and the offset behind it.
    fn network(&self) -> Option<(u16, usize)> {
        let mut at = 12;
        loop {
            let kind = u16::from_be_bytes(self.bytes.get(at..at + 2)?.try_into().ok()?);
            if !TAGS.contains(&kind) {
                return Some((kind, at + 2));
            }
            at += 4;
        }
    }

    /// Returns the length of the IP packet, or of what follows the Ethernet header when it is none.
    pub fn network_len(&self) -> u32 {
        let word = |at: usize| {
            let bytes = self.bytes.get(at..at + 2)?.try_into().ok()?;
            Some(u32::from(u16::from_be_bytes(bytes)))
        };
        let stated = match self.network() {
            Some((IPV4, at)) => word(at + 2),
            Some((IPV6, at)) => word(at + 4).map(|payload| payload + 40),
            _ => None,
        };
        stated
            .filter(|len| *len > 0)
            .unwrap_or(self.wire_len.saturating_sub(14))
    }

    /// Returns source and destination address of an IPv4 packet.
    pub fn ipv4(&self) -> Option<[Ipv4Addr; 2]> {
        let (IPV4, at) = self.network()? else {
            return None;
        };
        let address = |at: usize| -> Option<Ipv4Addr> {
            Some(Ipv4Addr::from(
                <[u8; 4]>::try_from(self.bytes.get(at..at + 4)?).ok()?,
            ))
        };
        Some([address(at + 12)?, address(at + 16)?])
    }
}

type Word = fn(&[u8], usize) -> u32;

/// Returns how to read a number of this file and the nanoseconds of a time fraction.
fn layout(bytes: &[u8]) -> Result<(Word, u64)> {
    fn raw(bytes: &[u8], at: usize) -> [u8; 4] {
        bytes
            .get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .unwrap_or_default()
    }
    let little: Word = |bytes, at| u32::from_le_bytes(raw(bytes, at));
    let big: Word = |bytes, at| u32::from_be_bytes(raw(bytes, at));
    ensure!(
        bytes.len() >= HEADER,
        "{} bytes are too few for a capture",
        bytes.len()
    );
    Ok(match little(bytes, 0) {
        0xa1b2_c3d4 => (little, 1000),
        0xa1b2_3c4d => (little, 1),
        0xd4c3_b2a1 => (big, 1000),
        0x4d3c_b2a1 => (big, 1),
        magic => bail!("magic number {magic:#010x} is not that of a classic pcap"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(at: u64, hex: &str) -> Frame {
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        Frame {
            at,
            wire_len: bytes.len() as u32,
            bytes,
        }
    }

    #[test]
    fn written_frames_read_back_and_cut_by_time() {
        let frames = vec![
            frame(1_000_000_007, "aa"),
            frame(2_000_000_007, "bbcc"),
            frame(3_500_000_000, ""),
        ];
        let path = std::env::temp_dir().join(format!("chaff-xtask-{}.pcap", std::process::id()));
        Capture {
            frames: frames.clone(),
        }
        .write(&path)
        .unwrap();
        let mut read = Capture::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(read.frames, frames);
        assert_eq!(read.seconds(), 2.499_999_993);
        read.cut(1.0);
        assert_eq!(read.frames.len(), 2);
        read.cut(0.5);
        assert_eq!(read.frames, frames[..1]);
    }

    #[test]
    fn cut_keeps_the_busiest_part() {
        let at = |second: u64| frame(second * 1_000_000_000, "");
        let mut capture = Capture {
            frames: [0, 50, 51, 53, 90, 91].map(at).to_vec(),
        };
        capture.cut(3.0);
        assert_eq!(capture.frames, [at(50), at(51), at(53)]);
        Capture { frames: Vec::new() }.cut(1.0);
    }

    #[test]
    fn broken_captures_are_errors() {
        let fails = |bytes: &[u8], want: &str| {
            let text = format!("{:#}", Capture::parse(bytes).unwrap_err());
            assert!(text.contains(want), "{text}");
        };
        fails(b"", "too few");
        fails(&[0x0a; 40], "magic");
        let mut good = Vec::new();
        for value in [0xa1b2_c3d4_u32, 0, 0, 0, 0, ETHERNET, 1, 2, 3, 3] {
            good.extend(value.to_le_bytes());
        }
        fails(&good, "wants 3 bytes");
        fails(&good[..30], "record header");
        good[20] = 113;
        fails(&good, "link type 113");
    }

    #[test]
    fn reads_length_and_addresses_behind_tags() {
        let macs = "02005e10000102005e1000fe";
        let ip = "45000054000000004011000 0c0a84d0ac6336414".replace(' ', "");
        for tags in ["", "81000005", "88a8000581000006"] {
            let f = frame(0, &format!("{macs}{tags}0800{ip}"));
            assert_eq!(f.network_len(), 84);
            assert_eq!(
                f.ipv4().unwrap().map(|a| a.to_string()),
                ["192.168.77.10", "198.51.100.20"]
            );
            assert_eq!(f.macs()[0], [2, 0, 0x5e, 0x10, 0, 1]);
        }
        assert_eq!(frame(0, &format!("{macs}0806{ip}")).network_len(), 20);
        assert_eq!(frame(0, "02").network_len(), 0);
    }
}
