use crate::Demand;
use chaff_abi::{Dir, Nanos};
use rand::{Rng, RngCore};

/// Bounds of what leaves in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Smallest UDP payload of a dummy, bytes; default 24, the smallest datagram of `chaff-wire`.
    pub min_payload: u16,
    /// Largest UDP payload of a dummy, bytes; default 1400. When it is below `min_payload`, that counts for both.
    pub max_payload: u16,
    /// Most dummies in one slot and direction; default 64.
    pub max_packets_per_slot: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            min_payload: 24,
            max_payload: 1_400,
            max_packets_per_slot: 64,
        }
    }
}

/// One datagram of cover to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dummy {
    /// When it leaves.
    pub at: Nanos,
    /// Which way, from the protected device.
    pub dir: Dir,
    /// UDP payload, bytes.
    pub payload: u16,
}

/// What became of the demand of one slot and direction.
///
/// `bytes == demanded bytes + rounded_up - cut` for a demand with packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Dummies made.
    pub packets: u32,
    /// Their UDP payload, bytes.
    pub bytes: u64,
    /// Bytes added because a dummy has a smallest size.
    pub rounded_up: u64,
    /// Bytes left out because dummies have a largest size.
    pub cut: u64,
    /// Dummies left out because of [`Limits::max_packets_per_slot`]; their bytes go to the others where they fit.
    pub capped: u32,
}

impl Placed {
    /// From packets (not fewer than made) and bytes wanted and made.
    fn of((wanted, bytes): (u32, u64), (packets, total): (u32, u64)) -> Self {
        Self {
            packets,
            bytes: total,
            rounded_up: total.saturating_sub(bytes),
            cut: bytes.saturating_sub(total),
            capped: wanted - packets,
        }
    }
}

/// Turns the demand of the slot that begins at `start` into dummies at random instants of `[start, start + slot)`,
/// appended to `out` in order of time.
///
/// Count 0 makes none, whatever its bytes. Sizes are whole numbers within the limits that sum to the bytes wanted exactly, or to
/// what is nearest when count and limits do not allow it. Returns what was done, by [`Dir`].
pub fn place(
    start: Nanos,
    slot: Nanos,
    want: Demand,
    limits: &Limits,
    rng: &mut dyn RngCore,
    out: &mut Vec<Dummy>,
) -> [Placed; 2] {
    let from = out.len();
    let placed = Dir::BOTH.map(|dir| place_direction(start, slot, dir, want, limits, rng, out));
    out[from..].sort_unstable();
    placed
}

/// [`place`] for one direction, not yet in order of time: with one rng per direction, the draws of one leave the other alone.
pub fn place_direction(
    start: Nanos,
    slot: Nanos,
    dir: Dir,
    want: Demand,
    limits: &Limits,
    rng: &mut dyn RngCore,
    out: &mut Vec<Dummy>,
) -> Placed {
    let (wanted, bytes) = (
        want.packets[dir.index()],
        u64::from(want.bytes[dir.index()]),
    );
    let packets = wanted.min(limits.max_packets_per_slot);
    if packets == 0 {
        let cut = if wanted == 0 { 0 } else { bytes };
        return Placed {
            cut,
            capped: wanted,
            ..Placed::default()
        };
    }
    let n = u64::from(packets);
    let min = u64::from(limits.min_payload);
    let max = u64::from(limits.max_payload).max(min);
    let total = bytes.clamp(n * min, n * max);

    // Each share above `min` is uniform with the mean of what is left, within what the others can still make up for.
    let room = max - min;
    let mut rest = total - n * min;
    for left in (1..=n).rev() {
        let low = rest.saturating_sub((left - 1) * room);
        let high = room.min(2 * rest / left).min(rest);
        let share = if left == 1 {
            rest
        } else {
            rng.random_range(low..=high.max(low))
        };
        rest -= share;
        out.push(Dummy {
            at: start + Nanos(instant(slot, rng)),
            dir,
            // min + share <= max, a u16.
            payload: (min + share) as u16,
        });
    }
    Placed::of((wanted, bytes), (packets, total))
}

/// [`place_direction`] with dummies of these sizes only (UDP payloads, ascending, at most three, moved into the limits), which sum to the
/// bytes wanted exactly where that can be done with this many.
#[expect(clippy::too_many_arguments, reason = "place_direction and the sizes")]
pub fn place_sizes(
    start: Nanos,
    slot: Nanos,
    dir: Dir,
    want: Demand,
    sizes: &[u16],
    limits: &Limits,
    rng: &mut dyn RngCore,
    out: &mut Vec<Dummy>,
) -> Placed {
    let wanted = want.packets[dir.index()];
    let bytes = u64::from(want.bytes[dir.index()]);
    let packets = wanted.min(limits.max_packets_per_slot);
    let mut total = 0;
    if let Some((_, counts)) = split(packets, bytes, sizes) {
        for (&size, count) in sizes.iter().zip(counts) {
            let most = limits.max_payload.max(limits.min_payload);
            let payload = size.clamp(limits.min_payload, most);
            for _ in 0..count {
                total += u64::from(payload);
                out.push(Dummy {
                    at: start + Nanos(instant(slot, rng)),
                    dir,
                    payload,
                });
            }
        }
    }
    Placed::of((wanted, bytes), (packets, total))
}

/// How many of each size make `packets` dummies with a sum nearest to `bytes`, and how far from it that is.
fn split(packets: u32, bytes: u64, sizes: &[u16]) -> Option<(u64, [u32; 3])> {
    let (&largest, smaller) = sizes.split_last()?;
    let at = smaller.len();
    if at == 0 {
        let off = bytes.abs_diff(u64::from(packets) * u64::from(largest));
        return Some((off, [packets, 0, 0]));
    }
    let with = |count: u32| {
        let rest = bytes.saturating_sub(u64::from(count) * u64::from(largest));
        let over = (u64::from(count) * u64::from(largest)).saturating_sub(bytes);
        let (off, mut counts) = split(packets - count, rest, smaller)?;
        *counts.get_mut(at)? = count;
        Some((off + over, counts))
    };
    (0..=packets).filter_map(with).min_by_key(|found| found.0)
}

/// A uniform offset inside the slot, to the nanosecond.
fn instant(slot: Nanos, rng: &mut dyn RngCore) -> u64 {
    if slot.0 == 0 {
        0
    } else {
        rng.random_range(0..slot.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    const SLOT: Nanos = Nanos::from_millis(100);

    proptest! {
        #[test]
        fn counts_of_sizes_come_back_as_dummies_of_these_sizes(
            counts in [0u32..8, 0u32..8, 0u32..8],
            kinds in 1usize..4,
        ) {
            let sizes = &[40u16, 500, 1_350][..kinds];
            let sum = |c: &[u32]| c.iter().zip(sizes).map(|(c, s)| c * u32::from(*s)).sum::<u32>();
            let packets: u32 = counts[..kinds].iter().sum();
            let mut want = Demand::NONE;
            want.add(Dir::In, packets, sum(&counts[..kinds]));
            let mut out = Vec::new();
            let mut rng = ChaCha20Rng::seed_from_u64(1);
            let placed = place_sizes(
                Nanos::from_secs(5), SLOT, Dir::In, want, sizes, &Limits::default(), &mut rng, &mut out,
            );
            prop_assert_eq!((placed.rounded_up, placed.cut, placed.capped), (0, 0, 0));
            prop_assert_eq!(out.len(), packets as usize);
            prop_assert!(out.iter().all(|d| sizes.contains(&d.payload) && d.dir == Dir::In));
            let found: u32 = out.iter().map(|d| u32::from(d.payload)).sum();
            prop_assert_eq!(found, want.bytes[Dir::In.index()]);
        }
    }

    fn run(want: Demand, limits: &Limits, seed: u64) -> (Vec<Dummy>, [Placed; 2]) {
        let mut out = Vec::new();
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let placed = place(Nanos::from_secs(5), SLOT, want, limits, &mut rng, &mut out);
        (out, placed)
    }

    #[test]
    fn no_packets_means_no_dummies_whatever_the_bytes() {
        let want = Demand {
            packets: [0, 0],
            bytes: [5_000, 1],
        };
        assert_eq!(
            run(want, &Limits::default(), 1),
            (vec![], [Placed::default(); 2])
        );
    }

    #[test]
    fn bytes_that_count_and_limits_do_not_allow_become_the_nearest_that_they_do() {
        let want = Demand {
            packets: [3, 2],
            bytes: [50, 9_000],
        };
        let (out, [up, down]) = run(want, &Limits::default(), 1);
        assert_eq!(out.len(), 5);
        assert_eq!((up.bytes, up.rounded_up, up.cut), (72, 22, 0));
        assert_eq!((down.bytes, down.rounded_up, down.cut), (2_800, 0, 6_200));
    }

    #[test]
    fn times_are_uniform_over_the_slot() {
        let want = Demand {
            packets: [10, 0],
            bytes: [1_000, 0],
        };
        let mut tenths = [0u32; 10];
        for seed in 0..1_000 {
            for d in run(want, &Limits::default(), seed).0 {
                tenths[((d.at - Nanos::from_secs(5)).0 * 10 / SLOT.0) as usize] += 1;
            }
        }
        // 1000 expected each, standard deviation 30.
        assert!(
            tenths.iter().all(|n| (850..1_150).contains(n)),
            "{tenths:?}"
        );
    }

    proptest! {
        #[test]
        fn sums_are_exact_and_everything_is_inside_slot_and_limits(
            packets in any::<[u32; 2]>().prop_map(|p| p.map(|n| n % 100)),
            bytes in any::<[u32; 2]>().prop_map(|b| b.map(|n| n % 150_000)),
            min in 1u16..200, span in 0u16..1500, most in 0u32..90, seed in any::<u64>(),
        ) {
            let limits = Limits { min_payload: min, max_payload: min + span, max_packets_per_slot: most };
            let want = Demand { packets, bytes };
            let (out, placed) = run(want, &limits, seed);
            prop_assert!(out.is_sorted_by_key(|d| d.at));
            for dir in Dir::BOTH {
                let i = dir.index();
                let p = placed[i];
                let mine: Vec<_> = out.iter().filter(|d| d.dir == dir).collect();
                prop_assert_eq!(mine.len() as u32, packets[i].min(most));
                prop_assert_eq!(p.packets + p.capped, packets[i]);
                prop_assert_eq!(mine.iter().map(|d| u64::from(d.payload)).sum::<u64>(), p.bytes);
                if packets[i] > 0 {
                    prop_assert_eq!(p.bytes, u64::from(bytes[i]) + p.rounded_up - p.cut);
                    prop_assert!(p.rounded_up == 0 || p.cut == 0);
                }
                let n = u64::from(p.packets);
                if n * u64::from(min) <= u64::from(bytes[i]) && u64::from(bytes[i]) <= n * u64::from(min + span) && n > 0 {
                    prop_assert_eq!(p.bytes, u64::from(bytes[i]));
                }
                for d in mine {
                    prop_assert!(d.payload >= min && d.payload <= min + span);
                    prop_assert!(d.at >= Nanos::from_secs(5) && d.at < Nanos::from_secs(5) + SLOT);
                }
            }
            prop_assert_eq!(run(want, &limits, seed).0, out);
        }
    }
}
