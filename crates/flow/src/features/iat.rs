//! Times between packets.

use super::Sequence;

/// Appends at most `limit` times between neighbouring packets, seconds; a flow of n packets has n - 1.
pub fn vector(flow: &Sequence<'_>, limit: usize, out: &mut Vec<f64>) {
    out.extend(flow.at.windows(2).take(limit).map(|w| w[1] - w[0]));
}
