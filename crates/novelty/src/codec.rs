//! The bytes of a stored model: little-endian numbers, lengths before lists, a checksum at the end.

use sha2::{Digest, Sha256};

use crate::ModelError;

const MAGIC: [u8; 8] = *b"CHAFFNOV";
/// Version of the format; a file with another one is refused.
pub(crate) const VERSION: u16 = 1;
/// Values in one list.
const MAX_LIST: u64 = 1 << 28;
const MAX_TEXT: u64 = 1 << 20;
const SUM: usize = 32;

pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        Self { bytes }
    }

    /// Bytes that become a part of a model.
    pub(crate) fn part() -> Self {
        Self { bytes: Vec::new() }
    }

    pub(crate) fn into_part(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn bytes(&mut self, part: &[u8]) {
        self.bytes.extend(part);
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(crate) fn size(&mut self, value: usize) {
        self.u64(value as u64);
    }

    pub(crate) fn f64(&mut self, value: f64) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.size(value.len());
        self.bytes.extend(value.as_bytes());
    }

    pub(crate) fn list(&mut self, values: &[f64]) {
        self.size(values.len());
        for v in values {
            self.f64(*v);
        }
    }

    pub(crate) fn sizes(&mut self, values: &[usize]) {
        self.size(values.len());
        for v in values {
            self.size(*v);
        }
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let sum = Sha256::digest(&self.bytes);
        self.bytes.extend(sum);
        self.bytes
    }
}

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a [u8]) -> Result<Self, ModelError> {
        if file.get(..MAGIC.len()) != Some(&MAGIC) {
            return Err(ModelError::Magic);
        }
        let mut reader = Self {
            bytes: file,
            at: MAGIC.len(),
        };
        let found = u16::from_le_bytes(*reader.take::<2>()?);
        if found != VERSION {
            return Err(ModelError::Version {
                found,
                known: VERSION,
            });
        }
        let Some((body, sum)) = file.split_last_chunk::<SUM>() else {
            return Err(reader.cut(SUM));
        };
        if body.len() < reader.at {
            return Err(reader.cut(SUM));
        }
        if Sha256::digest(body).as_slice() != sum {
            return Err(ModelError::Checksum);
        }
        reader.bytes = body;
        Ok(reader)
    }

    fn cut(&self, needed: usize) -> ModelError {
        ModelError::Cut {
            offset: self.at,
            needed,
            had: self.bytes.len().saturating_sub(self.at),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], ModelError> {
        let found = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .ok_or_else(|| self.cut(N))?;
        self.at += N;
        Ok(found)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(*self.take::<8>()?))
    }

    /// A number of things, at most `limit`.
    pub(crate) fn size(&mut self, what: &'static str, limit: u64) -> Result<usize, ModelError> {
        let found = self.u64()?;
        if found > limit {
            return Err(ModelError::TooLarge { what, found, limit });
        }
        Ok(found as usize)
    }

    /// A finite number.
    pub(crate) fn f64(&mut self) -> Result<f64, ModelError> {
        let value = f64::from_le_bytes(*self.take::<8>()?);
        if value.is_finite() {
            Ok(value)
        } else {
            Err(ModelError::Invalid {
                what: "a number is not finite",
            })
        }
    }

    pub(crate) fn text(&mut self) -> Result<String, ModelError> {
        let length = self.size("a text's length", MAX_TEXT)?;
        let bytes = self
            .bytes
            .get(self.at..self.at + length)
            .ok_or_else(|| self.cut(length))?;
        self.at += length;
        String::from_utf8(bytes.to_vec()).map_err(|_| ModelError::Invalid {
            what: "a text is not UTF-8",
        })
    }

    fn length(&mut self) -> Result<usize, ModelError> {
        let length = self.size("a list's length", MAX_LIST)?;
        // Nothing is reserved for what is not there.
        if (self.bytes.len() - self.at) / 8 < length {
            return Err(self.cut(length.saturating_mul(8)));
        }
        Ok(length)
    }

    /// Any number of finite numbers.
    pub(crate) fn list(&mut self) -> Result<Vec<f64>, ModelError> {
        let length = self.length()?;
        (0..length).map(|_| self.f64()).collect()
    }

    /// Exactly `length` finite numbers.
    pub(crate) fn list_of(&mut self, length: usize) -> Result<Vec<f64>, ModelError> {
        let list = self.list()?;
        if list.len() == length {
            Ok(list)
        } else {
            Err(ModelError::Invalid {
                what: "a list has another length than the model's shape asks for",
            })
        }
    }

    pub(crate) fn sizes(&mut self, limit: u64) -> Result<Vec<usize>, ModelError> {
        let length = self.length()?;
        (0..length).map(|_| self.size("an index", limit)).collect()
    }

    pub(crate) fn end(&self) -> Result<(), ModelError> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(ModelError::Invalid {
                what: "bytes are left over",
            })
        }
    }
}
