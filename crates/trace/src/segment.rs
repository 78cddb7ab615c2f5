//! What a sender makes of its data when packets must be smaller than those of a capture.

use std::collections::HashMap;
use std::hash::Hash;

use chaff_abi::Nanos;

/// Longest pause between two packets of one transfer whose data may share a packet.
const TOGETHER: Nanos = Nanos::from_millis(10);

/// A packet of a capture, as far as its length goes.
#[derive(Clone, Copy, Debug)]
pub struct Whole<K> {
    /// When it was sent.
    pub at: Nanos,
    /// Its flow and direction.
    pub key: K,
    /// Headers of network and transport layer, bytes.
    pub headers: u32,
    /// Payload of the transport layer, bytes.
    pub payload: u32,
}

/// A packet that is sent in place of one of a capture, or of a part of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// When.
    pub at: Nanos,
    /// The packet whose headers it has.
    pub of: usize,
    /// Payload of the transport layer, bytes.
    pub payload: u32,
    /// Where that begins, counted from the first byte of that packet's own payload: below 0 for data that an earlier one brought.
    pub offset: i32,
}

/// The packets that carry the same data when none may be longer than `mtu`, in order of time.
///
/// A TCP sender that is told a smaller maximum segment size (RFC 9293, 3.7.1) fills its segments: what does not fit is sent with the
/// data that follows at once, so a transfer of many packets gets few more, all but the last of them full. Packets that fit and
/// follow none that does not are kept as they are. `packets` are in order of time; `mtu` must be larger than the headers.
pub fn resegment<K: Eq + Hash>(
    packets: impl IntoIterator<Item = Whole<K>>,
    mtu: u32,
) -> Vec<Segment> {
    let mut out = Vec::new();
    // Data that waits, with the packet that brought it.
    let mut left: HashMap<K, Segment> = HashMap::new();
    for (of, p) in packets.into_iter().enumerate() {
        let fits = p.headers + p.payload <= mtu;
        let most = mtu.saturating_sub(p.headers).max(1);
        let mut next = Segment {
            at: p.at,
            of,
            payload: p.payload,
            offset: 0,
        };
        // A bare acknowledgement takes nothing along.
        let waiting = (p.payload > 0).then(|| left.remove(&p.key)).flatten();
        match waiting {
            Some(w) if p.at.since(w.at) > TOGETHER => out.push(w),
            Some(w) => {
                next.payload += w.payload;
                next.offset = -(w.payload as i32);
            }
            None => {}
        }
        while next.payload > most {
            out.push(Segment {
                payload: most,
                ..next
            });
            next.payload -= most;
            next.offset += most as i32;
        }
        if fits {
            out.push(next);
        } else {
            left.insert(p.key, next);
        }
    }
    out.extend(left.into_values());
    out.sort_by_key(|s| (s.at, s.of, s.offset));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(of: &[(u64, char, u32)]) -> Vec<Whole<char>> {
        let whole = |&(ms, key, payload)| Whole {
            at: Nanos::from_millis(ms),
            key,
            headers: 40,
            payload,
        };
        of.iter().map(whole).collect()
    }

    fn sizes(of: &[(u64, char, u32)]) -> Vec<(u64, usize, u32)> {
        resegment(packets(of), 1_420)
            .iter()
            .map(|s| (s.at.as_millis(), s.of, s.payload))
            .collect()
    }

    #[test]
    fn packets_that_fit_are_kept() {
        let all = [(0, 'a', 1_380), (1, 'a', 10), (1, 'b', 0), (90, 'a', 700)];
        assert_eq!(
            sizes(&all),
            [(0, 0, 1_380), (1, 1, 10), (1, 2, 0), (90, 3, 700)]
        );
    }

    #[test]
    fn a_transfer_fills_its_segments() {
        // 4 x 1,460 and 100 bytes are 4 full segments and one of 420.
        let all: Vec<_> = (0..4)
            .map(|i| (i, 'a', 1_460))
            .chain([(4, 'a', 100)])
            .collect();
        assert_eq!(
            sizes(&all),
            [
                (0, 0, 1_380),
                (1, 1, 1_380),
                (2, 2, 1_380),
                (3, 3, 1_380),
                (4, 4, 420)
            ]
        );
    }

    #[test]
    fn what_is_left_leaves_with_the_last_packet() {
        // A pause, an acknowledgement and the other direction do not carry it.
        let all = [
            (0, 'a', 1_460),
            (1, 'a', 0),
            (2, 'b', 50),
            (500, 'a', 20),
            (600, 'a', 1_460),
        ];
        assert_eq!(
            sizes(&all),
            [
                (0, 0, 1_380),
                (0, 0, 80),
                (1, 1, 0),
                (2, 2, 50),
                (500, 3, 20),
                (600, 4, 1_380),
                (600, 4, 80)
            ]
        );
    }

    #[test]
    fn what_a_recording_machine_merged_is_cut() {
        assert_eq!(
            sizes(&[(0, 'a', 3_000)]),
            [(0, 0, 1_380), (0, 0, 1_380), (0, 0, 240)]
        );
    }

    #[test]
    fn no_byte_is_lost_and_nothing_is_too_long() {
        let mut state = 1u64;
        let mut next = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % n
        };
        let mut ms = 0;
        let all: Vec<_> = (0..20_000)
            .map(|_| {
                ms += next(8);
                (ms, ['a', 'b', 'c'][next(3) as usize], next(1_600) as u32)
            })
            .collect();
        let out = resegment(packets(&all), 1_420);
        let sum = |key: char| all.iter().filter(|p| p.1 == key).map(|p| p.2).sum::<u32>();
        for key in ['a', 'b', 'c'] {
            let sent = out.iter().filter(|s| all[s.of].1 == key).map(|s| s.payload);
            assert_eq!(sent.sum::<u32>(), sum(key));
            // Every byte once, in order.
            let starts: Vec<u32> = all
                .iter()
                .scan(0, |at, p| {
                    let own = *at;
                    *at += if p.1 == key { p.2 } else { 0 };
                    Some(own)
                })
                .collect();
            let mut at = 0;
            let mut own: Vec<_> = out.iter().filter(|s| all[s.of].1 == key).collect();
            own.retain(|s| s.payload > 0);
            for s in own {
                assert_eq!(starts[s.of].wrapping_add_signed(s.offset), at);
                at += s.payload;
            }
        }
        assert!(out.iter().all(|s| s.payload <= 1_380));
        assert!(out.is_sorted_by_key(|s| s.at));
    }
}
