use chaff_abi::Nanos;

/// Why a datagram was not made or not accepted.
///
/// Whoever receives counts these by [`WireError::name`] and stays silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Fewer bytes than the smallest datagram (receiving), or than the body asked for needs (sealing).
    #[error("{len} bytes are too short, at least {min} are needed")]
    Short {
        /// Bytes there are, or were asked for.
        len: usize,
        /// Bytes needed.
        min: usize,
    },
    /// More bytes than a UDP datagram, or than the output buffer, can hold.
    #[error("{len} bytes are too large, {max} fit")]
    TooLarge {
        /// Bytes asked for or received.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// The tag is wrong: not ours, changed on the way, or of another key or direction.
    #[error("the tag does not match")]
    BadTag,
    /// The counter was seen before, or is older than the replay window.
    #[error("counter {counter} of stream {stream} was seen before or is too old")]
    Replay {
        /// Stream of the datagram.
        stream: u16,
        /// Its counter.
        counter: u32,
    },
    /// The epoch is not accepted now. Without the right key the masked epoch is random, so this is also what most
    /// foreign datagrams end as.
    #[error("epoch {epoch} is not accepted now")]
    OldEpoch {
        /// Epoch of the unmasked header.
        epoch: u16,
    },
    /// Authentic, but one stream more than [`crate::MAX_STREAMS`] in this epoch.
    #[error("no room for stream {stream}, there are {max} in this epoch")]
    TooManyStreams {
        /// The stream that was refused.
        stream: u16,
        /// The cap.
        max: usize,
    },
    /// Authentic, but of a layout this version does not know.
    #[error("layout version {version} is unknown")]
    Version {
        /// Version byte of the body.
        version: u8,
    },
    /// Authentic, but the kind is unknown or the length exceeds the datagram.
    #[error("kind {kind} with length {len} does not fit a body of {room} bytes")]
    Malformed {
        /// Kind byte.
        kind: u8,
        /// Length field.
        len: u16,
        /// Bytes behind the four-byte prefix.
        room: usize,
    },
    /// All counters of this epoch are used; it works again in the next epoch.
    #[error("all counters of epoch {epoch} are used")]
    Exhausted {
        /// The epoch.
        epoch: u16,
    },
    /// The clock went back by more than one epoch. Make a new [`crate::Sealer`] or [`crate::Opener`].
    #[error("the clock went back by {by} s")]
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
