//! Lengths of packets, alone or interleaved with times.

use super::Sequence;

/// Appends the lengths of at most `limit` packets, bytes.
pub fn vector(flow: &Sequence<'_>, limit: usize, out: &mut Vec<f64>) {
    out.extend(flow.bytes.iter().take(limit));
}

/// Appends at most `limit` of: time to the next packet, length, and so on; the last packet has a length only.
/// A flow of n packets has 2 n - 1.
pub fn interleaved(flow: &Sequence<'_>, limit: usize, out: &mut Vec<f64>) {
    let end = out.len() + limit;
    for (step, &bytes) in flow.at.windows(2).zip(flow.bytes) {
        if out.len() >= end {
            break;
        }
        out.extend([step[1] - step[0], bytes]);
    }
    out.extend(flow.bytes.last());
    out.truncate(end);
}
