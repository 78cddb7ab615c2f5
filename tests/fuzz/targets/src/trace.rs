//! Capture files ([`chaff_trace::Reader`]).
//!
//! Input: how the reads are cut (1 byte), then the file.
//!
//! - Packets hold no more bytes than the file, and the reader never says that it used more than there is.
//! - After an error or the end there is only the end.
//! - How the bytes arrive changes nothing: one read of everything gives what many small ones give.
//! - What was read can be written and read again: same times (that fit), lengths and bytes.

use std::io::{self, Read};

use chaff_flow::Link;
use chaff_trace::{Frame, PcapWriter, Reader};

use crate::bytes::Bytes;
use crate::{Seeds, frames};

/// Gives its bytes in pieces of the size a byte stands for, with interruptions between.
pub(crate) struct Pieces<'a> {
    rest: &'a [u8],
    size: usize,
    reads: usize,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(rest: &'a [u8], size: u8) -> Self {
        let size = usize::from(size).max(1);
        Self {
            rest,
            size,
            reads: 0,
        }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.reads % 5 == 3 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let n = self.size.min(out.len()).min(self.rest.len());
        let (now, later) = self.rest.split_at(n);
        out[..n].copy_from_slice(now);
        self.rest = later;
        Ok(n)
    }
}

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let size = input.u8();
    let file = input.rest();
    let whole = read(file, file.len());
    let pieces = read(Pieces::new(file, size), file.len());
    assert_eq!(whole, pieces);
    let captured: usize = whole.0.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(captured <= file.len(), "{captured} of {}", file.len());
    write_and_read(&whole.0);
}

type Frames = Vec<(Frame, Vec<u8>)>;

/// All packets of a stream of `len` bytes, and the error that ended it.
fn read(from: impl Read, len: usize) -> (Frames, Option<String>) {
    let mut frames = Vec::new();
    let mut reader = match Reader::new(from) {
        Ok(reader) => reader,
        Err(error) => return (frames, Some(error.to_string())),
    };
    let mut buffer = Vec::new();
    let mut before = 0;
    let error = loop {
        match reader.next(&mut buffer) {
            Ok(Some(frame)) => frames.push((frame, buffer.clone())),
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
        assert!(before <= reader.offset(), "the offset goes on");
        before = reader.offset();
    };
    assert!(reader.offset() <= len as u64);
    assert_eq!(reader.packets(), frames.len() as u64);
    assert!(reader.next(&mut buffer).is_ok_and(|next| next.is_none()));
    assert!(reader.next_borrowed().is_ok_and(|next| next.is_none()));
    (frames, error)
}

fn write_and_read(frames: &[(Frame, Vec<u8>)]) {
    let mut file = Vec::new();
    let mut writer = PcapWriter::new(&mut file, Link::Ethernet).unwrap();
    let written: Vec<_> = frames
        .iter()
        .filter(|(frame, bytes)| writer.write(frame.at, bytes, frame.wire_len).is_ok())
        .collect();
    let (again, error) = read(&file[..], file.len());
    assert_eq!((again.len(), error), (written.len(), None));
    for ((wrote, bytes), (frame, read)) in written.into_iter().zip(&again) {
        assert_eq!((wrote.at, bytes), (frame.at, read));
        assert_eq!(frame.wire_len, wrote.wire_len.max(bytes.len()));
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let frames: Vec<Vec<u8>> = frames::all()
        .into_iter()
        .take(4)
        .map(|(_, _, f)| f)
        .collect();
    let mut seeds: Seeds = [
        ("pcap-us-little", pcap(0xa1b2_c3d4, false, &frames)),
        ("pcap-us-big", pcap(0xa1b2_c3d4, true, &frames)),
        ("pcap-ns-little", pcap(0xa1b2_3c4d, false, &frames)),
        ("pcap-ns-big", pcap(0xa1b2_3c4d, true, &frames)),
        ("pcapng-little", pcapng(false, &frames)),
        ("pcapng-big", pcapng(true, &frames)),
        ("text", b"this is not a capture".to_vec()),
        ("gzip", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]),
        ("empty", Vec::new()),
    ]
    .into_iter()
    .map(|(name, file)| (name.to_owned(), frames::join(&[7], &file)))
    .collect();
    let whole = pcap(0xa1b2_c3d4, false, &frames);
    seeds.push((
        "pcap-cut".into(),
        frames::join(&[3], &whole[..whole.len() - 5]),
    ));
    let mut huge = whole;
    huge[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    seeds.push(("pcap-huge-length".into(), frames::join(&[0], &huge)));
    seeds
}

/// Appends numbers in one byte order.
struct Words {
    out: Vec<u8>,
    big: bool,
}

impl Words {
    fn u16(&mut self, n: u16) {
        self.out.extend(if self.big {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        });
    }

    fn u32(&mut self, n: u32) {
        self.out.extend(if self.big {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        });
    }

    /// A pcapng block around `body`.
    fn block(&mut self, kind: u32, body: &[u8]) {
        let padded = body.len().next_multiple_of(4);
        self.u32(kind);
        self.u32(padded as u32 + 12);
        self.out.extend(body);
        self.out.resize(self.out.len() + padded - body.len(), 0);
        self.u32(padded as u32 + 12);
    }
}

/// A classic capture.
pub(crate) fn pcap(magic: u32, big: bool, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut words = Words {
        out: Vec::new(),
        big,
    };
    words.u32(magic);
    words.u16(2);
    words.u16(4);
    for n in [0, 0, 65_535, 1] {
        words.u32(n);
    }
    for (i, frame) in frames.iter().enumerate() {
        for n in [
            1_700_000_000 + i as u32,
            250_000,
            frame.len() as u32,
            frame.len() as u32,
        ] {
            words.u32(n);
        }
        words.out.extend(frame);
    }
    words.out
}

/// A pcapng file with two interfaces, packet blocks of all three kinds, a block to skip and a second section.
fn pcapng(big: bool, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut words = Words {
        out: Vec::new(),
        big,
    };
    let body = |build: &dyn Fn(&mut Words)| {
        let mut words = Words {
            out: Vec::new(),
            big,
        };
        build(&mut words);
        words.out
    };
    let section = body(&|w| {
        w.u32(0x1a2b_3c4d);
        w.u16(1);
        w.u16(0);
        w.out.extend([0xff; 8]);
    });
    let interface = |resolution: u8| {
        body(&|w| {
            w.u16(1);
            w.u16(0);
            w.u32(256);
            // if_tsresol, then the end of options.
            w.u16(9);
            w.u16(1);
            w.out.extend([resolution, 0, 0, 0]);
            w.u16(0);
            w.u16(0);
        })
    };
    for _ in 0..2 {
        words.block(0x0a0d_0d0a, &section);
        words.block(1, &interface(9));
        words.block(1, &interface(0x80 | 10));
        words.block(0x0bad, b"skipped");
        for (i, frame) in frames.iter().enumerate() {
            let len = frame.len() as u32;
            let (kind, packet) = match i % 3 {
                0 => (
                    3,
                    body(&|w| {
                        w.u32(len);
                        w.out.extend(frame);
                    }),
                ),
                k => (
                    if k == 1 { 6 } else { 2 },
                    body(&|w| {
                        if k == 1 {
                            w.u32(1);
                        } else {
                            w.u16(1);
                            w.u16(0);
                        }
                        for n in [7, i as u32, len, len] {
                            w.u32(n);
                        }
                        w.out.extend(frame);
                    }),
                ),
            };
            words.block(kind, &packet);
        }
    }
    words.out
}
