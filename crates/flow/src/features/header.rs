//! TCP flags and times to live.

use super::{FeatureError, Sequence};

/// Names of the flags in the order of the block.
pub const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

/// Counts of the eight flags over the flow, then the time to live of each packet, at most `limit` numbers in all.
///
/// # Errors
/// [`FeatureError::NoHeader`].
pub fn vector(flow: &Sequence<'_>, limit: usize) -> Result<Vec<f64>, FeatureError> {
    if flow.headless > 0 {
        return Err(FeatureError::NoHeader {
            packets: flow.headless,
        });
    }
    let mut out: Vec<f64> = (0..8)
        .map(|bit| flow.flags.iter().filter(|&&f| f >> bit & 1 == 1).count() as f64)
        .collect();
    let packets = limit.saturating_sub(out.len());
    out.extend(flow.ttl.iter().take(packets).map(|&t| f64::from(t)));
    out.truncate(limit);
    Ok(out)
}

/// Names of the block's columns.
pub fn names(columns: usize, fft: bool) -> impl Iterator<Item = String> {
    (0..columns).map(move |i| match FLAGS.get(i) {
        _ if fft => format!("header_bin{i}"),
        Some(flag) => format!("{flag}_packets"),
        None => format!("ttl{}", i - FLAGS.len()),
    })
}
