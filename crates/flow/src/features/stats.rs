//! Twelve numbers that say what a flow was like as a whole.

use super::{Sequence, quantile};

/// Numbers in a vector.
pub const COLUMNS: usize = 12;

/// Their names.
pub const NAMES: [&str; COLUMNS] = [
    "duration_s",
    "packets_per_s",
    "bytes_per_s",
    "mean_bytes",
    "std_bytes",
    "q1_bytes",
    "median_bytes",
    "q3_bytes",
    "min_bytes",
    "max_bytes",
    "packets",
    "bytes",
];

/// Duration in seconds; packets and bytes per second of it (packets over duration, not gaps over duration; 0 for a flow
/// without duration); mean, population standard deviation, quartiles, minimum and maximum of the lengths in bytes;
/// packets; bytes. All 0 for a flow without packets.
pub fn vector(flow: &Sequence<'_>) -> [f64; COLUMNS] {
    let n = flow.bytes.len();
    if n == 0 {
        return [0.0; COLUMNS];
    }
    let packets = n as f64;
    let duration = flow.duration();
    let total: f64 = flow.bytes.iter().sum();
    let mean = total / packets;
    let variance = flow
        .bytes
        .iter()
        .map(|b| (b - mean) * (b - mean))
        .sum::<f64>()
        / packets;
    let rate = |what: f64| {
        if duration == 0.0 {
            0.0
        } else {
            what / duration
        }
    };
    let mut sorted = flow.bytes.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let q = |q| quantile(&sorted, q).unwrap_or(0.0);
    [
        duration,
        rate(packets),
        rate(total),
        mean,
        variance.sqrt(),
        q(0.25),
        q(0.5),
        q(0.75),
        sorted[0],
        sorted[n - 1],
        packets,
        total,
    ]
}
