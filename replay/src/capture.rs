//! Reading captures into memory on one timeline.
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_trace::Reader;

use crate::ReplayError;

/// One captured packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Time on the common timeline.
    pub at: Nanos,
    /// Where its captured bytes start in [`Capture::bytes`].
    pub offset: usize,
    /// Captured bytes.
    pub len: u32,
    /// Bytes on the wire.
    pub wire_len: u32,
    /// Index of its file.
    pub file: u32,
    /// Its number in the file, from 1.
    pub number: u32,
    /// What its bytes start with.
    pub link: Link,
}

/// Captures in memory, merged by time.
#[derive(Debug, Default)]
pub struct Capture {
    /// The files in the order given.
    pub files: Vec<PathBuf>,
    /// Captured bytes of all packets.
    pub bytes: Vec<u8>,
    /// In sending order; times never decrease.
    pub packets: Vec<Packet>,
    /// Packets whose time was before that of the packet ahead of them in their file.
    pub clamped: u64,
    /// What was wrong with broken files that `lax` accepted.
    pub damage: Vec<String>,
}

/// How captures are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Keep what is good before the first broken packet of a file instead of failing.
    pub lax: bool,
    /// Keep the real distance between files instead of starting all of them together.
    pub keep_gaps: bool,
    /// Most bytes to hold.
    pub max_bytes: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            lax: false,
            keep_gaps: false,
            max_bytes: 1 << 30,
        }
    }
}

impl Capture {
    /// Reads pcap and pcapng files (`-` is standard input).
    ///
    /// # Errors
    /// [`ReplayError::Open`], [`ReplayError::Capture`] naming file and packet, [`ReplayError::Memory`].
    pub fn load(files: &[PathBuf], options: &LoadOptions) -> Result<Self, ReplayError> {
        Self::load_with(files, None, options)
    }

    /// As [`Capture::load`], with one more capture that is in memory already, and what it is called.
    ///
    /// # Errors
    /// As [`Capture::load`].
    pub fn load_with(
        files: &[PathBuf],
        drawn: Option<(PathBuf, Vec<u8>)>,
        options: &LoadOptions,
    ) -> Result<Self, ReplayError> {
        let mut all = Self {
            files: files.to_vec(),
            ..Self::default()
        };
        for (index, file) in files.iter().enumerate() {
            let opened = open(file).map_err(|source| ReplayError::Open {
                file: file.clone(),
                source,
            })?;
            all.add(file, index as u32, opened, options)?;
        }
        if let Some((name, bytes)) = drawn {
            all.add(&name, files.len() as u32, bytes.as_slice(), options)?;
            all.files.push(name);
        }
        if all.files.len() > 1 {
            // Stable: packets of one file keep their order.
            all.packets.sort_by_key(|p| p.at);
        }
        if options.keep_gaps {
            shift(&mut all.packets);
        }
        Ok(all)
    }

    /// The captured bytes of a packet.
    pub fn frame(&self, p: &Packet) -> &[u8] {
        &self.bytes[p.offset..p.offset + p.len as usize]
    }

    /// The file a packet came from.
    pub fn file(&self, p: &Packet) -> &Path {
        &self.files[p.file as usize]
    }

    /// Adds a file's packets.
    fn add(
        &mut self,
        file: &Path,
        index: u32,
        input: impl Read,
        options: &LoadOptions,
    ) -> Result<(), ReplayError> {
        let first = self.packets.len();
        self.read(file, index, input, options)?;
        clamp(&mut self.packets[first..], &mut self.clamped);
        if !options.keep_gaps {
            shift(&mut self.packets[first..]);
        }
        Ok(())
    }

    fn read(
        &mut self,
        file: &Path,
        index: u32,
        opened: impl Read,
        options: &LoadOptions,
    ) -> Result<(), ReplayError> {
        let mut number = 0u32;
        let mut buf = Vec::new();
        let broken = |source| ReplayError::Capture {
            file: file.to_owned(),
            source,
        };
        let mut reader = Reader::new(opened).map_err(broken)?;
        loop {
            number += 1;
            let frame = match reader.next(&mut buf) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(source) => {
                    let error = broken(source);
                    if options.lax {
                        self.damage.push(error.to_string());
                        return Ok(());
                    }
                    return Err(error);
                }
            };
            let held = self.bytes.len() + (self.packets.len() + 1) * size_of::<Packet>();
            if (held + buf.len()) as u64 > options.max_bytes {
                return Err(ReplayError::Memory {
                    allowed: options.max_bytes >> 20,
                    packet: u64::from(number),
                    file: file.to_owned(),
                });
            }
            self.packets.push(Packet {
                at: frame.at,
                offset: self.bytes.len(),
                len: buf.len() as u32,
                // A header that claims less than was captured is wrong.
                wire_len: frame.wire_len.max(buf.len()) as u32,
                file: index,
                number,
                link: frame.link,
            });
            self.bytes.extend_from_slice(&buf);
        }
    }
}

fn open(file: &Path) -> io::Result<Box<dyn Read>> {
    if file.as_os_str() == "-" {
        Ok(Box::new(io::stdin()))
    } else {
        Ok(Box::new(File::open(file)?))
    }
}

fn clamp(packets: &mut [Packet], clamped: &mut u64) {
    let mut latest = Nanos::ZERO;
    for p in packets {
        *clamped += u64::from(p.at < latest);
        latest = latest.max(p.at);
        p.at = latest;
    }
}

fn shift(packets: &mut [Packet]) {
    let first = packets.iter().map(|p| p.at).min().unwrap_or_default();
    for p in packets {
        p.at = p.at - first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaff_trace::PcapWriter;

    fn file(dir: &Path, name: &str, times_ms: &[u64]) -> PathBuf {
        let path = dir.join(name);
        let mut w = PcapWriter::new(File::create(&path).unwrap(), Link::Ethernet).unwrap();
        for &t in times_ms {
            w.write(Nanos::from_millis(t), &[t as u8; 20], 90).unwrap();
        }
        path
    }

    fn times(c: &Capture) -> Vec<(u64, u32)> {
        c.packets
            .iter()
            .map(|p| (p.at.as_millis(), p.file))
            .collect()
    }

    #[test]
    fn files_start_together_or_keep_their_distance() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            file(dir.path(), "a", &[500, 510]),
            file(dir.path(), "b", &[100, 105]),
        ];
        let together = Capture::load(&files, &LoadOptions::default()).unwrap();
        assert_eq!(times(&together), [(0, 0), (0, 1), (5, 1), (10, 0)]);
        let apart = LoadOptions {
            keep_gaps: true,
            ..LoadOptions::default()
        };
        let apart = Capture::load(&files, &apart).unwrap();
        assert_eq!(times(&apart), [(0, 1), (5, 1), (400, 0), (410, 0)]);
        assert_eq!(
            (apart.frame(&apart.packets[2])[0], apart.packets[2].wire_len),
            (244, 90)
        );
    }

    #[test]
    fn order_in_a_file_is_kept_when_its_times_go_backwards() {
        let dir = tempfile::tempdir().unwrap();
        let c = Capture::load(
            &[file(dir.path(), "a", &[7, 9, 8, 10])],
            &LoadOptions::default(),
        )
        .unwrap();
        assert_eq!(times(&c), [(0, 0), (2, 0), (2, 0), (3, 0)]);
        assert_eq!(c.clamped, 1);
    }

    #[test]
    fn memory_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let small = LoadOptions {
            max_bytes: 100,
            ..LoadOptions::default()
        };
        let e = Capture::load(&[file(dir.path(), "a", &[1, 2, 3])], &small).unwrap_err();
        assert!(matches!(e, ReplayError::Memory { packet: 2, .. }), "{e}");
    }
}
