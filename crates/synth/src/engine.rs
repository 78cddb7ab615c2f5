//! What all engines have in common, and the frame of their files.

use serde::Serialize;

use crate::address::mix;
use crate::doppelganger::Doppelganger;
use crate::model::{Info, Method, Model};
use crate::{SynthError, Table};

const MAGIC: &[u8; 8] = b"CHAFSYN2";
/// The largest header of a model file, bytes.
const MAX_HEADER: usize = 256 << 20;

/// A model that draws traces.
pub trait Engine {
    /// What it says of itself.
    fn info(&self) -> &Info;

    /// Draws exactly `records` records, in order of time. The same model, number and seed give the same records.
    ///
    /// # Errors
    /// [`SynthError::TooMany`] above [`crate::MAX_RECORDS`].
    fn sample(&self, records: usize, seed: u64) -> Result<Table, SynthError>;

    /// The model file: magic, header as JSON, tables or weights, checksum; little-endian.
    ///
    /// # Errors
    /// [`SynthError::Model`] when it is larger than what is read back.
    fn to_bytes(&self) -> Result<Vec<u8>, SynthError>;

    /// The tables, for what only they can do: sizes and gaps of packets inside flows.
    fn tables(&self) -> Option<&Model>;
}

/// Reads the model file of any engine; whatever the bytes, drawing from the result is safe.
///
/// # Errors
/// [`SynthError::Model`], also when the accounting of a private model does not add up.
pub fn load(bytes: &[u8]) -> Result<Box<dyn Engine>, SynthError> {
    #[derive(serde::Deserialize)]
    struct Head {
        info: Info,
    }
    let (json, _) = open(bytes)?;
    let head: Head = serde_json::from_slice(json).map_err(|e| SynthError::Model(e.to_string()))?;
    Ok(match head.info.method {
        Method::Doppelganger => Box::new(Doppelganger::from_bytes(bytes)?),
        Method::Marginal | Method::Sequence => Box::new(Model::from_bytes(bytes)?),
    })
}

/// Refuses to draw more than a table holds.
pub(crate) fn check_records(records: usize) -> Result<(), SynthError> {
    if records > crate::MAX_RECORDS {
        return Err(SynthError::TooMany {
            what: "records",
            limit: crate::MAX_RECORDS,
        });
    }
    Ok(())
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(1, |h, c| {
        let mut word = [0; 8];
        word[..c.len()].copy_from_slice(c);
        mix(h ^ u64::from_le_bytes(word))
    })
}

/// Magic and header of a model file.
pub(crate) fn begin(header: &impl Serialize) -> Result<Vec<u8>, SynthError> {
    let json = serde_json::to_vec(header).map_err(|e| SynthError::Model(e.to_string()))?;
    if json.len() > MAX_HEADER {
        return Err(SynthError::Model("its header is too large".to_owned()));
    }
    let mut out = MAGIC.to_vec();
    out.extend((json.len() as u32).to_le_bytes());
    out.extend(json);
    Ok(out)
}

/// Adds the checksum.
pub(crate) fn seal(mut file: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&file);
    file.extend(sum.to_le_bytes());
    file
}

/// What a checksum was added to; `None` when it is wrong.
pub(crate) fn unsealed(file: &[u8]) -> Option<&[u8]> {
    let (signed, sum) = file.split_last_chunk::<8>()?;
    (checksum(signed) == u64::from_le_bytes(*sum)).then_some(signed)
}

/// The header of a model file, and what follows it.
pub(crate) fn open(bytes: &[u8]) -> Result<(&[u8], Input<'_>), SynthError> {
    let bad = |what: &str| SynthError::Model(what.to_owned());
    if !bytes.starts_with(MAGIC) {
        return Err(bad("it does not begin with CHAFSYN2"));
    }
    let signed = unsealed(bytes).ok_or_else(|| bad("it is cut or damaged (checksum)"))?;
    let mut input = Input(signed.get(MAGIC.len()..).unwrap_or(&[]));
    let length = input.number()?;
    Ok((input.take(length)?, input))
}

/// What is left of a model file.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], SynthError> {
        let (head, tail) = self
            .0
            .split_at_checked(n)
            .ok_or_else(|| SynthError::Model("it is cut".to_owned()))?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn number(&mut self) -> Result<usize, SynthError> {
        Ok(self.array(1, u32::from_le_bytes)?[0] as usize)
    }

    pub(crate) fn array<T, const N: usize>(
        &mut self,
        n: usize,
        read: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, SynthError> {
        let bytes = self.take(n.saturating_mul(N))?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|c| read(*c)).collect())
    }
}
