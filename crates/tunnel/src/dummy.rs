//! What is inside a dummy.
//!
//! | offset | size | field, network byte order |
//! | --- | --- | --- |
//! | 0 | 1 | 0xff: version nibble 15, which every WireGuard peer drops after authentication |
//! | 1 | 1 | 0 |
//! | 2 | 2 | inner length, all of it |
//! | 4 | 1 | kind: 0 cover, 1 downlink schedule, 2 report |
//! | 5 | 1 | layout version, 1 |
//! | 6 | 2 | stream |
//! | 8 | 4 | sequence |
//! | 12 | .. | by kind, then zeros |
//!
//! A schedule (kind 1) is a count u16 and entries of stream u16, inner bytes u16 (0: no wish), offset
//! from arrival in µs u32. A report (kind 2) is [`Report`].

use chaff_abi::Nanos;
use serde::Serialize;

/// First byte of every dummy.
pub const MARKER: u8 = 0xff;
/// Bytes before what the kind adds.
pub const HEAD: usize = 12;
const VERSION: u8 = 1;
const ENTRY: usize = 8;

/// What a dummy carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Cover,
    /// Dummies that the receiver should send back.
    Schedule(Vec<Entry>),
    /// What the sender received so far.
    Report(Report),
}

/// One dummy that the far end should send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Stream it belongs to.
    pub stream: u16,
    /// Inner bytes, taken up to a bin, that are wanted as far as the sender has no traffic of its own to follow; 0: no wish.
    pub size: u16,
    /// When, counted from the message's arrival.
    pub offset: Nanos,
}

/// Counts since the session layer started, for loss and path measurements at the other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Authentic data messages with content.
    pub messages: u64,
    /// Of these, cover.
    pub cover: u64,
    /// Inner bytes of all of them.
    pub bytes: u64,
    /// Messages of the length `top`.
    pub at_top: u64,
    /// The sender's own MTU.
    pub top: u16,
}

impl Report {
    const LEN: usize = 34;
}

/// A dummy as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dummy {
    /// Stream.
    pub stream: u16,
    /// Sequence within the sender.
    pub sequence: u32,
    /// Content.
    pub kind: Kind,
}

/// A packet with the marker is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DummyError {
    /// Shorter than a dummy can be.
    #[error("a dummy of {0} bytes")]
    Short(usize),
    /// The length field does not agree with the length.
    #[error("a dummy of {had} bytes says {said}")]
    Length {
        /// Bytes there are.
        had: usize,
        /// Bytes announced.
        said: usize,
    },
    /// Another layout, such as the decoys of other programs.
    #[error("dummy layout {version}, kind {kind}")]
    Layout {
        /// Layout version.
        version: u8,
        /// Kind.
        kind: u8,
    },
}

/// Entries that fit into a dummy of `size` inner bytes.
pub fn capacity(size: usize) -> usize {
    size.saturating_sub(HEAD + 2) / ENTRY
}

/// Writes a dummy over all of `out`; what does not fit (more entries than [`capacity`]) is left out.
///
/// `out` shorter than 64 bytes is zeroed as far as the head does not fit; callers use bins, which are longer.
pub fn encode(stream: u16, sequence: u32, kind: &Kind, out: &mut [u8]) {
    out.fill(0);
    let len = out.len();
    let Some((head, body)) = out.split_at_mut_checked(HEAD) else {
        return;
    };
    head[0] = MARKER;
    head[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    head[5] = VERSION;
    head[6..8].copy_from_slice(&stream.to_be_bytes());
    head[8..12].copy_from_slice(&sequence.to_be_bytes());
    match kind {
        Kind::Cover => {}
        Kind::Schedule(entries) => {
            head[4] = 1;
            let n = entries.len().min(capacity(len));
            let Some((count, rest)) = body.split_at_mut_checked(2) else {
                return;
            };
            count.copy_from_slice(&(n as u16).to_be_bytes());
            for (e, to) in entries.iter().zip(rest.chunks_exact_mut(ENTRY)).take(n) {
                to[..2].copy_from_slice(&e.stream.to_be_bytes());
                to[2..4].copy_from_slice(&e.size.to_be_bytes());
                let us = u32::try_from(e.offset.as_micros()).unwrap_or(u32::MAX);
                to[4..].copy_from_slice(&us.to_be_bytes());
            }
        }
        Kind::Report(r) => {
            head[4] = 2;
            if let Some(body) = body.get_mut(..Report::LEN) {
                for (to, n) in body
                    .chunks_exact_mut(8)
                    .zip([r.messages, r.cover, r.bytes, r.at_top])
                {
                    to.copy_from_slice(&n.to_be_bytes());
                }
                body[32..34].copy_from_slice(&r.top.to_be_bytes());
            }
        }
    }
}

/// Reads a dummy: an authenticated inner packet whose first byte is [`MARKER`].
///
/// # Errors
/// It is not one of ours; whoever sent it holds the keys, so this is another program, not an attack from outside.
pub fn decode(inner: &[u8]) -> Result<Dummy, DummyError> {
    let Some((head, body)) = inner.split_at_checked(HEAD) else {
        return Err(DummyError::Short(inner.len()));
    };
    let said = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if head[5] != VERSION || head[1] != 0 {
        return Err(DummyError::Layout {
            version: head[5],
            kind: head[4],
        });
    }
    if said != inner.len() {
        return Err(DummyError::Length {
            had: inner.len(),
            said,
        });
    }
    let kind = match head[4] {
        0 => Kind::Cover,
        1 => Kind::Schedule(entries(body)?),
        2 => Kind::Report(report(body)?),
        kind => {
            return Err(DummyError::Layout {
                version: VERSION,
                kind,
            });
        }
    };
    Ok(Dummy {
        stream: u16::from_be_bytes([head[6], head[7]]),
        sequence: u32::from_be_bytes([head[8], head[9], head[10], head[11]]),
        kind,
    })
}

fn entries(body: &[u8]) -> Result<Vec<Entry>, DummyError> {
    let short = DummyError::Short(HEAD + body.len());
    let (count, rest) = body.split_at_checked(2).ok_or(short)?;
    let n = usize::from(u16::from_be_bytes([count[0], count[1]]));
    if rest.len() < n * ENTRY {
        return Err(short);
    }
    let entry = |e: &[u8]| Entry {
        stream: u16::from_be_bytes([e[0], e[1]]),
        size: u16::from_be_bytes([e[2], e[3]]),
        offset: Nanos::from_micros(u64::from(u32::from_be_bytes([e[4], e[5], e[6], e[7]]))),
    };
    Ok(rest.chunks_exact(ENTRY).take(n).map(entry).collect())
}

fn report(body: &[u8]) -> Result<Report, DummyError> {
    let body = body
        .get(..Report::LEN)
        .ok_or(DummyError::Short(HEAD + body.len()))?;
    let number = |i: usize| {
        let mut n = [0; 8];
        n.copy_from_slice(&body[8 * i..8 * i + 8]);
        u64::from_be_bytes(n)
    };
    Ok(Report {
        messages: number(0),
        cover: number(1),
        bytes: number(2),
        at_top: number(3),
        top: u16::from_be_bytes([body[32], body[33]]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        let entry =
            (any::<u16>(), any::<u16>(), any::<u32>()).prop_map(|(stream, size, us)| Entry {
                stream,
                size,
                offset: Nanos::from_micros(us.into()),
            });
        let report = (any::<[u64; 4]>(), any::<u16>()).prop_map(|(n, top)| {
            Kind::Report(Report {
                messages: n[0],
                cover: n[1],
                bytes: n[2],
                at_top: n[3],
                top,
            })
        });
        prop_oneof![
            Just(Kind::Cover),
            prop::collection::vec(entry, 0..6).prop_map(Kind::Schedule),
            report
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            stream in any::<u16>(), sequence in any::<u32>(), kind in kinds(), size in 64usize..1_500,
        ) {
            let mut out = vec![7; size];
            encode(stream, sequence, &kind, &mut out);
            prop_assert_eq!(out[0] >> 4, 15);
            prop_assert_eq!(decode(&out), Ok(Dummy { stream, sequence, kind }));
            for cut in 0..size {
                prop_assert!(decode(&out[..cut]).is_err());
            }
        }

        #[test]
        fn nothing_makes_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _any = decode(&bytes);
            if let [_, _, a, b, ..] = bytes[..] {
                let len = bytes.len() as u16;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                let _any = (decode(&bytes), a, b);
            }
        }
    }

    #[test]
    fn decoys_of_other_programs_are_told_apart() {
        let mut daita = vec![0; 1_420];
        daita[0] = MARKER;
        daita[2..4].copy_from_slice(&1_420u16.to_be_bytes());
        assert!(matches!(
            decode(&daita),
            Err(DummyError::Layout { version: 0, .. })
        ));
    }
}
