use crate::epoch::{EPOCH, EpochKeys, Mask, epoch_of, first_counter};
use crate::format::{BODY_PREFIX, HEADER_LEN, MAX_LEN, MIN_LEN, OVERHEAD, TAG_LEN, VERSION};
use crate::{Header, Key, Kind, WireError};
use chaff_abi::{Dir, Nanos};
use core::fmt;

/// Makes datagrams of one stream.
///
/// At any time at most one sealer may exist for a key, direction and stream: two of them would use the same nonces. One
/// after the other is safe, also without any memory of the first: a sealer starts every epoch at the counter
/// `floor(elapsed / EPOCH * 2^32)` and then counts up by one, so the later one is ahead as long as the system's clock
/// was not set back between the two. What a set-back clock costs: cover with equal bytes twice, and refusals as replay.
/// Datagrams may be sealed ahead of the time they leave, if the next sealer of the same stream begins later than the last
/// of these times; a new random stream for every run has no such condition.
pub struct Sealer {
    key: Key,
    mask: Mask,
    keys: EpochKeys,
    dir: Dir,
    stream: u16,
    /// Counter of the next datagram; 2^32 when all are used.
    next: u64,
    latest: Nanos,
}

impl Sealer {
    /// A sealer of `stream`; `unix_now` is time since the Unix epoch.
    pub fn new(key: &Key, dir: Dir, stream: u16, unix_now: Nanos) -> Self {
        Self {
            key: key.clone(),
            mask: Mask::new(key, dir),
            keys: EpochKeys::new(key, dir, epoch_of(unix_now)),
            dir,
            stream,
            next: u64::from(first_counter(unix_now)),
            latest: unix_now,
        }
    }

    /// The stream this sealer sends.
    pub const fn stream(&self) -> u16 {
        self.stream
    }

    /// Makes one datagram of exactly `total_len` bytes at the start of `out` and returns it.
    ///
    /// Cover without a body may have any length from [`MIN_LEN`]; everything else needs
    /// [`OVERHEAD`] + [`BODY_PREFIX`] + `body.len()` bytes or more, and the rest is padding. Time that goes back by less
    /// than an epoch counts as standing still.
    ///
    /// # Errors
    /// [`WireError::Short`], [`WireError::TooLarge`]: `total_len` does not fit the body, `out` or a UDP datagram.
    /// [`WireError::Exhausted`]: 2^32 counters of the epoch are used. [`WireError::ClockBack`]: make a new sealer.
    /// After an error no counter is used and `out` is unchanged.
    pub fn seal<'b>(
        &mut self,
        unix_now: Nanos,
        kind: Kind,
        body: &[u8],
        total_len: usize,
        out: &'b mut [u8],
    ) -> Result<&'b [u8], WireError> {
        let needed = if kind == Kind::Cover && body.is_empty() {
            MIN_LEN
        } else {
            OVERHEAD + BODY_PREFIX + body.len()
        };
        if total_len < needed {
            return Err(WireError::Short {
                len: total_len,
                min: needed,
            });
        }
        let max = MAX_LEN.min(out.len());
        if total_len > max {
            return Err(WireError::TooLarge {
                len: total_len,
                max,
            });
        }
        let header = self.advance(unix_now)?;

        let out = &mut out[..total_len];
        let (head, rest) = out.split_at_mut(HEADER_LEN);
        let (text, tag_out) = rest.split_at_mut(total_len - OVERHEAD);
        text.fill(0);
        if text.len() >= BODY_PREFIX {
            text[0] = kind as u8;
            text[1] = VERSION;
            // body.len() < MAX_LEN < 2^16
            text[2..4].copy_from_slice(&(body.len() as u16).to_be_bytes());
            text[BODY_PREFIX..BODY_PREFIX + body.len()].copy_from_slice(body);
        }
        self.keys.apply(header, text);
        let mut header = header.to_bytes();
        let tag: [u8; TAG_LEN] = self.keys.tag(&header, text);
        self.mask.apply(&tag, &mut header);
        head.copy_from_slice(&header);
        tag_out.copy_from_slice(&tag);
        Ok(out)
    }

    /// Moves to the epoch of `unix_now` and takes a counter.
    fn advance(&mut self, unix_now: Nanos) -> Result<Header, WireError> {
        let by = self.latest.since(unix_now);
        if by > EPOCH {
            return Err(WireError::ClockBack { by });
        }
        self.latest = self.latest.max(unix_now);
        let epoch = epoch_of(self.latest);
        if epoch != self.keys.epoch {
            self.keys = EpochKeys::new(&self.key, self.dir, epoch);
            self.next = u64::from(first_counter(self.latest));
        }
        let low = epoch as u16;
        let Ok(counter) = u32::try_from(self.next) else {
            return Err(WireError::Exhausted { epoch: low });
        };
        self.next += 1;
        Ok(Header {
            epoch: low,
            stream: self.stream,
            counter,
        })
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("dir", &self.dir)
            .field("stream", &self.stream)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
