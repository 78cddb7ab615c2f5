use chaff_abi::Nanos;
use core::fmt;

/// Why a datagram was not made or not accepted.
///
/// Whoever receives counts these by [`WireError::name`] and stays silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// Fewer bytes than the smallest datagram (receiving), or than the body asked for needs (sealing).
    Short {
        /// Bytes there are, or were asked for.
        len: usize,
        /// Bytes needed.
        min: usize,
    },
    /// More bytes than a UDP datagram, or than the output buffer, can hold.
    TooLarge {
        /// Bytes asked for or received.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// The tag is wrong: not ours, changed on the way, or of another key or direction.
    BadTag,
    /// The counter was seen before, or is older than the replay window.
    Replay {
        /// Stream of the datagram.
        stream: u16,
        /// Its counter.
        counter: u32,
    },
    /// The epoch is not accepted now. Without the right key the masked epoch is random, so this is also what most
    /// foreign datagrams end as.
    OldEpoch {
        /// Epoch of the unmasked header.
        epoch: u16,
    },
    /// Authentic, but one stream more than [`crate::MAX_STREAMS`] in this epoch.
    TooManyStreams {
        /// The stream that was refused.
        stream: u16,
        /// The cap.
        max: usize,
    },
    /// Authentic, but of a layout this version does not know.
    Version {
        /// Version byte of the body.
        version: u8,
    },
    /// Authentic, but the kind is unknown or the length exceeds the datagram.
    Malformed {
        /// Kind byte.
        kind: u8,
        /// Length field.
        len: u16,
        /// Bytes behind the four-byte prefix.
        room: usize,
    },
    /// All counters of this epoch are used; it works again in the next epoch.
    Exhausted {
        /// The epoch.
        epoch: u16,
    },
    /// The clock went back by more than one epoch. Make a new [`crate::Sealer`] or [`crate::Opener`].
    ClockBack {
        /// How far.
        by: Nanos,
    },
}

impl WireError {
    /// Every name that [`WireError::name`] returns, in a fixed order for reports.
    pub const NAMES: [&'static str; 10] = [
        "short",
        "too_large",
        "bad_tag",
        "replay",
        "old_epoch",
        "too_many_streams",
        "version",
        "malformed",
        "exhausted",
        "clock_back",
    ];

    /// Position of [`WireError::name`] in [`WireError::NAMES`], for arrays of counters.
    pub const fn index(&self) -> usize {
        match self {
            Self::Short { .. } => 0,
            Self::TooLarge { .. } => 1,
            Self::BadTag => 2,
            Self::Replay { .. } => 3,
            Self::OldEpoch { .. } => 4,
            Self::TooManyStreams { .. } => 5,
            Self::Version { .. } => 6,
            Self::Malformed { .. } => 7,
            Self::Exhausted { .. } => 8,
            Self::ClockBack { .. } => 9,
        }
    }

    /// The name used in reports and metrics.
    pub const fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { len, min } => {
                write!(f, "{len} bytes are too short, at least {min} are needed")
            }
            Self::TooLarge { len, max } => write!(f, "{len} bytes are too large, {max} fit"),
            Self::BadTag => f.write_str("the tag does not match"),
            Self::Replay { stream, counter } => write!(
                f,
                "counter {counter} of stream {stream} was seen before or is too old"
            ),
            Self::OldEpoch { epoch } => write!(f, "epoch {epoch} is not accepted now"),
            Self::TooManyStreams { stream, max } => write!(
                f,
                "no room for stream {stream}, there are {max} in this epoch"
            ),
            Self::Version { version } => write!(f, "layout version {version} is unknown"),
            Self::Malformed { kind, len, room } => write!(
                f,
                "kind {kind} with length {len} does not fit a body of {room} bytes"
            ),
            Self::Exhausted { epoch } => write!(f, "all counters of epoch {epoch} are used"),
            Self::ClockBack { by } => write!(f, "the clock went back by {by} s"),
        }
    }
}

impl core::error::Error for WireError {}
