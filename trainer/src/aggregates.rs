//! What attackers compute from a window of packets: sizes, gaps, counts at several scales.

use chaff_abi::{Dir, Nanos};

use crate::traces::Seen;

/// Upper edges of size classes, bytes.
const EDGES: [f64; 13] = [
    60.0, 80.0, 100.0, 120.0, 150.0, 200.0, 300.0, 400.0, 600.0, 800.0, 1000.0, 1200.0, 1400.0,
];
/// Lengths of bins, s, for the features at several scales.
const SCALES: [f64; 4] = [0.1, 1.0, 5.0, 15.0];

/// Splits packets into windows of this length that start with a packet, as index ranges, with the silence before, s.
pub fn cut(packets: &[Seen], length: Nanos) -> Vec<(std::ops::Range<usize>, f64)> {
    let mut out: Vec<(std::ops::Range<usize>, f64)> = Vec::new();
    let mut from = 0;
    while from < packets.len() {
        let end = packets[from].at + length;
        let to = from + packets[from..].partition_point(|p| p.at < end).max(1);
        let silence = match from {
            0 => 0.0,
            _ => packets[from].at.since(packets[from - 1].at).as_secs_f64(),
        };
        out.push((from..to, silence));
        from = to;
    }
    out
}

/// Mean, standard deviation, smallest, largest, quartiles; zeros without numbers.
fn statistics(mut x: Vec<f64>, out: &mut Vec<f32>) {
    if x.is_empty() {
        out.extend([0.0; 7]);
        return;
    }
    x.sort_by(f64::total_cmp);
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    let quantile = |q: f64| {
        let at = q * (n - 1.0);
        let (low, part) = (at.floor() as usize, at.fract());
        let high = (low + 1).min(x.len() - 1);
        x[low] + part * (x[high] - x[low])
    };
    let all = [
        mean,
        variance.sqrt(),
        x[0],
        x[x.len() - 1],
        quantile(0.25),
        quantile(0.5),
        quantile(0.75),
    ];
    out.extend(all.map(|v| v as f32));
}

/// Aggregates of one window: silence; for each direction count, bytes, statistics of sizes and of the logarithm of gaps, shares of
/// size classes; active seconds, length, packets.
pub fn aggregates(window: &[Seen], silence: f64) -> Vec<f32> {
    let mut out = vec![silence.ln_1p() as f32];
    for dir in Dir::BOTH {
        let own: Vec<&Seen> = window.iter().filter(|p| p.dir == dir).collect();
        let sizes: Vec<f64> = own.iter().map(|p| f64::from(p.size)).collect();
        let gaps = own
            .windows(2)
            .map(|w| (w[1].at.since(w[0].at).as_secs_f64() + 1e-6).log10());
        out.extend([own.len() as f32, sizes.iter().sum::<f64>() as f32]);
        let mut classes = [0.0f32; EDGES.len() + 1];
        for s in &sizes {
            classes[EDGES.partition_point(|e| e <= s)] += 1.0 / own.len() as f32;
        }
        statistics(sizes, &mut out);
        statistics(gaps.collect(), &mut out);
        out.extend(classes);
    }
    let (Some(first), Some(last)) = (window.first(), window.last()) else {
        out.extend([0.0; 3]);
        return out;
    };
    let mut seconds: Vec<u64> = window
        .iter()
        .map(|p| p.at.since(first.at).0 / 1_000_000_000)
        .collect();
    seconds.dedup();
    out.extend([
        seconds.len() as f32,
        last.at.since(first.at).as_secs_f64() as f32,
        window.len() as f32,
    ]);
    out
}

/// [`aggregates`], and for each direction and several lengths of bins: statistics of packets and of bytes in bins, share of
/// bins that are not empty, the five fullest; ratios between directions; the sizes of the first packets.
pub fn multi_scale(window: &[Seen], silence: f64, length: Nanos) -> Vec<f32> {
    const FIRST: usize = 12;
    const TOP: usize = 5;
    let mut out = aggregates(window, silence);
    let start = window.first().map_or(Nanos::ZERO, |p| p.at);
    for scale in SCALES {
        let bins = (length.as_secs_f64() / scale).ceil().max(1.0) as usize;
        for dir in Dir::BOTH {
            let (mut packets, mut bytes) = (vec![0.0; bins], vec![0.0; bins]);
            for p in window.iter().filter(|p| p.dir == dir) {
                let at = ((p.at.since(start).as_secs_f64() / scale) as usize).min(bins - 1);
                packets[at] += 1.0;
                bytes[at] += f64::from(p.size);
            }
            let full = packets.iter().filter(|n| **n > 0.0).count() as f32 / bins as f32;
            out.push(full);
            let mut top = bytes.clone();
            top.sort_by(|a, b| b.total_cmp(a));
            top.resize(TOP, 0.0);
            out.extend(top.iter().map(|v| v.ln_1p() as f32));
            statistics(packets, &mut out);
            statistics(bytes.into_iter().map(f64::ln_1p).collect(), &mut out);
        }
    }
    let sum = |dir: Dir| -> f64 {
        window
            .iter()
            .filter(|p| p.dir == dir)
            .map(|p| f64::from(p.size))
            .sum()
    };
    out.push(((sum(Dir::Out) + 1.0) / (sum(Dir::In) + 1.0)).ln() as f32);
    for i in 0..FIRST {
        out.push(
            window
                .get(i)
                .map_or(0.0, |p| p.size as f32 * f32::from(p.dir.sign())),
        );
    }
    out
}

/// iPET's features of a window (its attacker M_agg): for each direction, TCP then UDP, the number of packets, mean, smallest and
/// largest payload, and the time between the first and the last one.
pub fn m_agg(window: &[Seen]) -> Vec<f32> {
    let mut out = Vec::with_capacity(20);
    for dir in [Dir::In, Dir::Out] {
        for udp in [false, true] {
            let own: Vec<&Seen> = window
                .iter()
                .filter(|p| p.dir == dir && p.udp == udp)
                .collect();
            let n = own.len();
            let sizes = || own.iter().map(|p| p.payload);
            let time = match (own.first(), own.last()) {
                (Some(a), Some(b)) => b.at.since(a.at).as_secs_f64(),
                _ => 0.0,
            };
            out.extend([
                n as f32,
                sizes().map(f64::from).sum::<f64>() as f32 / n.max(1) as f32,
                sizes().min().unwrap_or(0) as f32,
                sizes().max().unwrap_or(0) as f32,
                time as f32,
            ]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ms: u64, dir: Dir, size: u32) -> Seen {
        Seen {
            at: Nanos::from_millis(ms),
            dir,
            size,
            payload: size - 40,
            udp: false,
            dummy: false,
        }
    }

    #[test]
    fn windows_start_with_packets() {
        let p: Vec<Seen> = [0, 500, 60_000, 200_000]
            .map(|ms| seen(ms, Dir::Out, 60))
            .into();
        let w = cut(&p, Nanos::from_secs(60));
        assert_eq!(w, [(0..2, 0.0), (2..3, 59.5), (3..4, 140.0)]);
        assert!(cut(&[], Nanos::from_secs(60)).is_empty());
    }

    #[test]
    fn numbers_are_those_of_the_definition() {
        let p = [
            seen(0, Dir::Out, 60),
            seen(10, Dir::Out, 100),
            seen(1500, Dir::In, 1420),
        ];
        let f = aggregates(&p, 0.0);
        assert_eq!(f[1..6], [2.0, 160.0, 80.0, 20.0, 60.0]);
        // Gap of 10 ms.
        assert!((f[10] + 1.99996).abs() < 1e-3, "{}", f[10]);
        assert_eq!(f[f.len() - 3..], [2.0, 1.5, 3.0]);
        let m = m_agg(&p);
        assert_eq!(m[..5], [1.0, 1380.0, 1380.0, 1380.0, 0.0]);
        assert_eq!((m[10], m[11]), (2.0, 40.0));
        assert_eq!(m.len(), 20);
    }

    #[test]
    fn every_window_gives_as_many_finite_numbers() {
        let minute = Nanos::from_secs(60);
        let one = [seen(0, Dir::In, 60)];
        let many: Vec<Seen> = (0..500)
            .map(|i| seen(i * 100, Dir::Out, 60 + i as u32))
            .collect();
        let lengths = [&[][..], &one, &many].map(|w| {
            let f = multi_scale(w, 1.0, minute);
            assert!(f.iter().all(|v| v.is_finite()));
            f.len()
        });
        assert_eq!(lengths[0], lengths[1]);
        assert_eq!(lengths[1], lengths[2]);
    }
}
