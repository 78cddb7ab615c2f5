use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::Target;

/// Packs what is written with gzip (RFC 1952) on its way to a target.
///
/// A flush ends a block, so that a reader can unpack everything written before it; [`Target::close`] writes the trailer,
/// without which `gunzip` gives all flows and complains.
pub struct Gzip<T: Target> {
    encoder: GzEncoder<T>,
}

impl<T: Target> Gzip<T> {
    /// Effort 6 of 9, as gzip itself.
    pub fn new(target: T) -> Self {
        Self {
            encoder: GzEncoder::new(target, Compression::new(6)),
        }
    }
}

impl<T: Target> Write for Gzip<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.encoder.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

impl<T: Target> Target for Gzip<T> {
    fn close(&mut self) -> io::Result<()> {
        self.encoder.try_finish()?;
        self.encoder.get_mut().close()
    }
}
