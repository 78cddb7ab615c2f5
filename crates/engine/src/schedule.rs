//! The downlink schedule: which dummies the gateway wants the sink to send, and when.
//!
//! Travels as the body of a [`chaff_wire::Kind::Schedule`] datagram. Times are offsets from the moment the message
//! was sealed, so gateway and sink need no common clock; the sealing time itself only lets the sink refuse old ones.
//!
//! | offset | size | field, network byte order |
//! | --- | --- | --- |
//! | 0 | 8 | Unix time of sealing, ms |
//! | 8 | 2 | number of entries, n |
//! | 10 | 8·n | entries: stream u16, UDP payload bytes u16, offset from sealing in µs u32 |

use chaff_abi::Nanos;

const HEAD: usize = 10;
const ENTRY: usize = 8;

/// One dummy that the sink should send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Stream it belongs to.
    pub stream: u16,
    /// UDP payload length, bytes.
    pub payload: u16,
    /// When to send it, counted from the sealing of the message. At most 4,294 s.
    pub offset: Nanos,
}

/// A schedule body cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("schedule of {had} bytes, {needed} needed")]
pub struct ScheduleError {
    /// Bytes the announced entries need.
    pub needed: usize,
    /// Bytes there are.
    pub had: usize,
}

/// Entries that fit into a body of `len` bytes.
pub fn capacity(len: usize) -> usize {
    len.saturating_sub(HEAD) / ENTRY
}

/// Bytes that a schedule of `entries` needs.
pub fn encoded_len(entries: usize) -> usize {
    HEAD + ENTRY * entries
}

/// Appends a schedule to `out`; offsets beyond the field's range saturate.
pub fn encode(sealed_unix: Nanos, entries: &[Entry], out: &mut Vec<u8>) {
    out.extend_from_slice(&sealed_unix.as_millis().to_be_bytes());
    let n = u16::try_from(entries.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&n.to_be_bytes());
    for e in entries.iter().take(usize::from(n)) {
        out.extend_from_slice(&e.stream.to_be_bytes());
        out.extend_from_slice(&e.payload.to_be_bytes());
        let us = u32::try_from(e.offset.as_micros()).unwrap_or(u32::MAX);
        out.extend_from_slice(&us.to_be_bytes());
    }
}

/// Reads a schedule: when it was sealed, and its entries.
///
/// # Errors
/// The body is shorter than it announces. Surplus bytes are padding and ignored.
pub fn decode(body: &[u8]) -> Result<(Nanos, impl Iterator<Item = Entry> + '_), ScheduleError> {
    let Some((head, rest)) = body.split_at_checked(HEAD) else {
        return Err(ScheduleError {
            needed: HEAD,
            had: body.len(),
        });
    };
    let mut ms = [0u8; 8];
    ms.copy_from_slice(&head[..8]);
    let n = usize::from(u16::from_be_bytes([head[8], head[9]]));
    if rest.len() < n * ENTRY {
        return Err(ScheduleError {
            needed: encoded_len(n),
            had: body.len(),
        });
    }
    let entries = rest.chunks_exact(ENTRY).take(n).map(|e| Entry {
        stream: u16::from_be_bytes([e[0], e[1]]),
        payload: u16::from_be_bytes([e[2], e[3]]),
        offset: Nanos::from_micros(u64::from(u32::from_be_bytes([e[4], e[5], e[6], e[7]]))),
    });
    Ok((Nanos::from_millis(u64::from_be_bytes(ms)), entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let entries: Vec<Entry> = (0..9u16)
            .map(|i| Entry {
                stream: i,
                payload: 100 + i,
                offset: Nanos::from_micros(u64::from(i) * 1_234),
            })
            .collect();
        let mut body = Vec::new();
        encode(Nanos::from_millis(1_700_000_000_123), &entries, &mut body);
        assert_eq!(body.len(), encoded_len(9));
        assert_eq!(capacity(body.len()), 9);
        body.extend_from_slice(&[0; 33]);
        let (at, got) = decode(&body).expect("valid");
        assert_eq!(at, Nanos::from_millis(1_700_000_000_123));
        assert_eq!(got.collect::<Vec<_>>(), entries);
    }

    #[test]
    fn refuses_every_truncation() {
        let mut body = Vec::new();
        encode(
            Nanos::ZERO,
            &[Entry {
                stream: 1,
                payload: 2,
                offset: Nanos(3_000),
            }; 3],
            &mut body,
        );
        for cut in 0..body.len() {
            assert!(decode(&body[..cut]).is_err(), "cut at {cut}");
        }
    }
}
