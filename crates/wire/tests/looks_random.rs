//! Datagrams of equal content do not show it: every byte position is uniform, and so are the bits between two of them.

use chaff_abi::{Dir, Nanos};
use chaff_wire::{Key, Kind, Sealer};

const LEN: usize = 64;
const N: usize = 12_800;

/// Datagrams of one stream with the same body: consecutive counters, same epoch, same stream.
fn datagrams() -> Vec<[u8; LEN]> {
    let now = Nanos::from_secs(1_800_000_000);
    let key = Key::parse(&"0123456789abcdef".repeat(4)).expect("key");
    let mut sealer = Sealer::new(&key, Dir::Out, 0, now);
    (0..N)
        .map(|_| {
            let mut buf = [0; LEN];
            sealer
                .seal(now, Kind::Cover, b"", LEN, &mut buf)
                .expect("seals");
            buf
        })
        .collect()
}

/// Pearson's statistic of 256 equally likely values; mean 255, standard deviation 22.6.
fn chi_square(counts: &[u32; 256]) -> f64 {
    let expected = counts.iter().sum::<u32>() as f64 / 256.0;
    counts
        .iter()
        .map(|c| (f64::from(*c) - expected).powi(2) / expected)
        .sum()
}

#[test]
fn every_byte_position_is_uniform() {
    let all = datagrams();
    let mut total = [0; 256];
    for position in 0..LEN {
        let mut counts = [0; 256];
        for d in &all {
            counts[usize::from(d[position])] += 1;
            total[usize::from(d[position])] += 1;
        }
        // 64 positions: the largest of them exceeds 355 by chance once in 600 keys, and the key is fixed.
        let chi = chi_square(&counts);
        assert!(
            (165.0..355.0).contains(&chi),
            "position {position}: {chi:.1}"
        );
    }
    let chi = chi_square(&total);
    assert!((180.0..340.0).contains(&chi), "all bytes: {chi:.1}");
}

#[test]
fn consecutive_datagrams_differ_in_half_of_their_bits() {
    let all = datagrams();
    for position in 0..LEN {
        let differing: u32 = all
            .windows(2)
            .map(|w| (w[0][position] ^ w[1][position]).count_ones())
            .sum();
        let share = f64::from(differing) / ((N - 1) * 8) as f64;
        // Standard deviation 0.0016.
        assert!(
            (share - 0.5).abs() < 0.0075,
            "position {position}: {share:.4}"
        );
    }
}

#[test]
fn no_two_datagrams_share_a_header_or_a_tag() {
    let all = datagrams();
    for range in [0..8, LEN - 16..LEN] {
        let mut parts: Vec<&[u8]> = all.iter().map(|d| &d[range.clone()]).collect();
        parts.sort_unstable();
        parts.dedup();
        assert_eq!(parts.len(), N);
    }
}
