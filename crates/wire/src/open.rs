use crate::epoch::{EPOCH, EpochKeys, Mask, accepted};
use crate::format::{BODY_PREFIX, HEADER_LEN, MAX_LEN, MIN_LEN, TAG_LEN, VERSION};
use crate::window::Window;
use crate::{Header, Key, Kind, WireError};
use alloc::boxed::Box;
use alloc::vec::Vec;
use chaff_abi::{Dir, Nanos};
use core::fmt;
use subtle::ConstantTimeEq;

/// Streams that one epoch can have. One more is refused with [`WireError::TooManyStreams`] until the epoch ends.
///
/// A stream costs one kibibyte and takes it only when its first authentic datagram arrives. At most two epochs are
/// accepted at a time, so an [`Opener`] never holds more than about 2 MiB, and nothing for those without the key.
pub const MAX_STREAMS: usize = 1_024;

/// An authentic datagram that was not seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened<'b> {
    /// Who sent it, and which one it is.
    pub header: Header,
    /// What it is for.
    pub kind: Kind,
    /// What it carries, padding removed; empty for most cover.
    pub body: &'b [u8],
}

/// Tells authentic datagrams of one key and direction from everything else.
pub struct Opener {
    key: Key,
    mask: Mask,
    dir: Dir,
    /// Keys of the at most three epochs around now.
    keys: Vec<EpochKeys>,
    /// Sorted by epoch, then stream.
    streams: Vec<Stream>,
    latest: Nanos,
}

struct Stream {
    epoch: u64,
    id: u16,
    window: Box<Window>,
}

impl Opener {
    /// An opener of the datagrams that go in direction `dir` (the same as the sealer's).
    pub fn new(key: &Key, dir: Dir) -> Self {
        Self {
            key: key.clone(),
            mask: Mask::new(key, dir),
            dir,
            keys: Vec::with_capacity(3),
            streams: Vec::new(),
            latest: Nanos::ZERO,
        }
    }

    /// Replay windows held now, at most twice [`MAX_STREAMS`].
    pub const fn windows(&self) -> usize {
        self.streams.len()
    }

    /// Checks one datagram, in this order: length, epoch, tag (constant time), replay, layout. The body is decrypted in
    /// place; after an error before that `datagram` is unchanged. Time that goes back by less than an epoch counts as standing still.
    ///
    /// Allocates only when an authentic datagram is the first of its stream in an epoch.
    ///
    /// # Errors
    /// See [`WireError`]; count them and do not answer.
    pub fn open<'b>(
        &mut self,
        unix_now: Nanos,
        datagram: &'b mut [u8],
    ) -> Result<Opened<'b>, WireError> {
        let len = datagram.len();
        if len < MIN_LEN {
            return Err(WireError::Short { len, min: MIN_LEN });
        }
        if len > MAX_LEN {
            return Err(WireError::TooLarge { len, max: MAX_LEN });
        }
        self.advance(unix_now)?;

        let (rest, tag) = datagram.split_at_mut(len - TAG_LEN);
        let (head, text) = rest.split_at_mut(HEADER_LEN);
        let (mut tag_bytes, mut head_bytes) = ([0; TAG_LEN], [0; HEADER_LEN]);
        tag_bytes.copy_from_slice(tag);
        head_bytes.copy_from_slice(head);
        self.mask.apply(&tag_bytes, &mut head_bytes);
        let header = Header::from_bytes(head_bytes);
        let epoch = accepted(self.latest, header.epoch)?;

        let keys = self.keys_of(epoch);
        if !bool::from(keys.tag(&head_bytes, text).ct_eq(&tag_bytes)) {
            return Err(WireError::BadTag);
        }
        self.note(epoch, header)?;
        self.keys_of(epoch).apply(header, text);
        let (kind, body) = layout(text)?;
        Ok(Opened { header, kind, body })
    }

    /// Moves on to `unix_now` and forgets the epochs that are no longer accepted.
    fn advance(&mut self, unix_now: Nanos) -> Result<(), WireError> {
        let by = self.latest.since(unix_now);
        if by > EPOCH {
            return Err(WireError::ClockBack { by });
        }
        if unix_now <= self.latest {
            return Ok(());
        }
        self.latest = unix_now;
        let gone = |epoch: u64| accepted(unix_now, epoch as u16) != Ok(epoch);
        if self.keys.iter().any(|k| gone(k.epoch)) {
            self.keys.retain(|k| !gone(k.epoch));
            self.streams.retain(|s| !gone(s.epoch));
            // Give the memory of a busy epoch back.
            self.streams.shrink_to(64);
        }
        Ok(())
    }

    /// Keys of an accepted epoch, derived at first use.
    fn keys_of(&mut self, epoch: u64) -> &EpochKeys {
        let i = match self.keys.iter().position(|k| k.epoch == epoch) {
            Some(i) => i,
            None => {
                self.keys.push(EpochKeys::new(&self.key, self.dir, epoch));
                self.keys.len() - 1
            }
        };
        &self.keys[i]
    }

    /// Notes an authentic header in the replay window of its stream.
    fn note(&mut self, epoch: u64, header: Header) -> Result<(), WireError> {
        let Header {
            stream, counter, ..
        } = header;
        let i = match self
            .streams
            .binary_search_by_key(&(epoch, stream), |s| (s.epoch, s.id))
        {
            Ok(i) => i,
            Err(i) => {
                let in_epoch = self.streams.iter().filter(|s| s.epoch == epoch).count();
                if in_epoch >= MAX_STREAMS {
                    return Err(WireError::TooManyStreams {
                        stream,
                        max: MAX_STREAMS,
                    });
                }
                let new = Stream {
                    epoch,
                    id: stream,
                    window: Box::new(Window::new()),
                };
                self.streams.insert(i, new);
                i
            }
        };
        if self.streams[i].window.insert(counter) {
            Ok(())
        } else {
            Err(WireError::Replay { stream, counter })
        }
    }
}

/// Kind and body of a decrypted text.
fn layout(text: &[u8]) -> Result<(Kind, &[u8]), WireError> {
    let Some((&[kind, version, hi, lo], rest)) = text.split_first_chunk::<BODY_PREFIX>() else {
        return Ok((Kind::Cover, &[]));
    };
    if version != VERSION {
        return Err(WireError::Version { version });
    }
    let len = u16::from_be_bytes([hi, lo]);
    match (Kind::from_byte(kind), rest.get(..usize::from(len))) {
        (Some(kind), Some(body)) => Ok((kind, body)),
        _ => Err(WireError::Malformed {
            kind,
            len,
            room: rest.len(),
        }),
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("dir", &self.dir)
            .field("windows", &self.streams.len())
            .finish_non_exhaustive()
    }
}
