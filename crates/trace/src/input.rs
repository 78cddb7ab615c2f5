use std::io::{self, Chain, Cursor, Read};

use flate2::read::MultiGzDecoder;

use crate::{MAX_BLOCK, TraceError};

/// Twice the CPU time is spent with an 8 MB buffer: this one stays in the cache.
const BUFFER: usize = 256 << 10;

/// How gzip begins (RFC 1952); its only method is 8.
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];

/// A window on the input.
pub(crate) struct Input<R> {
    source: Source<R>,
    pub(crate) buffer: Vec<u8>,
    pub(crate) start: usize,
    end: usize,
    /// Of `start`, from the beginning of the input, after unpacking.
    pub(crate) offset: u64,
}

enum Source<R> {
    Plain(R),
    /// Boxed: the unpacker's state is large.
    Gzip(Box<MultiGzDecoder<Chain<Cursor<Vec<u8>>, R>>>),
    /// Only while one becomes the other.
    Gone,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Gone => Ok(0),
        }
    }
}

impl<R: Read> Input<R> {
    /// Reads the first bytes and finds out whether they are packed.
    pub(crate) fn open(reader: R) -> Result<Self, TraceError> {
        let mut input = Self {
            source: Source::Plain(reader),
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            offset: 0,
        };
        input.begin()?;
        if input.bytes().starts_with(&GZIP) {
            let first = Cursor::new(input.bytes().to_vec());
            input.end = 0;
            if let Source::Plain(reader) = std::mem::replace(&mut input.source, Source::Gone) {
                let decoder = MultiGzDecoder::new(first.chain(reader));
                input.source = Source::Gzip(Box::new(decoder));
            }
            input.begin().map_err(|e| input.explain(e, 0))?;
        }
        Ok(input)
    }

    fn begin(&mut self) -> Result<(), TraceError> {
        while self.bytes().len() < 4 && self.fill(1)? {}
        Ok(())
    }

    /// What an error of the unpacker means to a reader of packets.
    pub(crate) fn explain(&self, error: TraceError, packets: u64) -> TraceError {
        match error {
            TraceError::Read { source, .. } if self.is_damage(&source) => TraceError::Gzip {
                packets,
                reason: if source.kind() == io::ErrorKind::UnexpectedEof {
                    "it ends early".into()
                } else {
                    source.to_string()
                },
            },
            other => other,
        }
    }

    /// Whether the unpacker complains, not the system.
    fn is_damage(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        matches!(self.source, Source::Gzip(_))
            && matches!(error.kind(), UnexpectedEof | InvalidInput | InvalidData)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.start += n;
        self.offset += n as u64;
    }

    pub(crate) fn has_more(&mut self) -> Result<bool, TraceError> {
        Ok(self.start < self.end || self.fill(1)?)
    }

    /// Reads until a parser that had `had` of the `needed` bytes can go on.
    pub(crate) fn more(
        &mut self,
        packet: u64,
        needed: usize,
        had: usize,
    ) -> Result<(), TraceError> {
        let offset = self.offset;
        if needed > MAX_BLOCK {
            return Err(TraceError::TooLarge {
                offset,
                packet,
                length: needed,
                limit: MAX_BLOCK,
            });
        }
        if self.fill(needed.saturating_sub(had).max(1))? {
            Ok(())
        } else {
            Err(TraceError::Cut { offset, packet })
        }
    }

    /// One read, with room for at least `wanted` more bytes; false at the end of the input.
    fn fill(&mut self, wanted: usize) -> Result<bool, TraceError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < self.end + wanted {
            self.buffer.resize(self.end + wanted, 0);
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(n) => {
                    self.end += n;
                    return Ok(n > 0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                Err(source) => {
                    return Err(TraceError::Read {
                        offset: self.offset + self.end as u64,
                        source,
                    });
                }
            }
        }
    }

    pub(crate) fn structure(&self, packet: u64, error: &dyn std::error::Error) -> TraceError {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(e) = cause {
            reason = format!("{reason}: {e}");
            cause = e.source();
        }
        TraceError::Structure {
            offset: self.offset,
            packet,
            reason,
        }
    }
}
