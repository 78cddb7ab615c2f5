/// Counters behind the newest one that are still accepted, once each.
pub const WINDOW: u32 = 8_192;

const WORDS: usize = WINDOW as usize / 64;

/// Which of the last [`WINDOW`] counters were seen: a ring of bits, as in RFC 6479.
pub(crate) struct Window {
    newest: u32,
    empty: bool,
    seen: [u64; WORDS],
}

impl Window {
    pub(crate) const fn new() -> Self {
        Self {
            newest: 0,
            empty: true,
            seen: [0; WORDS],
        }
    }

    /// Notes a counter; `false` when it was noted before or lies [`WINDOW`] or more behind the newest.
    pub(crate) fn insert(&mut self, counter: u32) -> bool {
        if self.empty {
            self.empty = false;
            self.newest = counter;
        } else if counter > self.newest {
            self.advance(counter);
        } else if self.newest - counter >= WINDOW {
            return false;
        }
        let (word, bit) = place(counter);
        let fresh = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        fresh
    }

    /// Forgets the bits of the counters between the old newest and the new one, whose places they take over.
    fn advance(&mut self, to: u32) {
        if to - self.newest >= WINDOW {
            self.seen = [0; WORDS];
        } else {
            let mut c = self.newest + 1;
            while c <= to {
                if c.is_multiple_of(64) && to - c >= 63 {
                    self.seen[place(c).0] = 0;
                    c += 63;
                } else {
                    let (word, bit) = place(c);
                    self.seen[word] &= !bit;
                }
                if c == to {
                    break;
                }
                c += 1;
            }
        }
        self.newest = to;
    }
}

const fn place(counter: u32) -> (usize, u64) {
    let i = counter % WINDOW;
    ((i / 64) as usize, 1 << (i % 64))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn accepts_each_counter_of_the_window_once() {
        let mut w = Window::new();
        assert!(w.insert(10_000));
        assert!(!w.insert(10_000));
        assert!(w.insert(10_000 - (WINDOW - 1)));
        assert!(!w.insert(10_000 - WINDOW));
        assert!(w.insert(9_999));
        assert!(w.insert(u32::MAX));
        assert!(!w.insert(u32::MAX));
        assert!(w.insert(u32::MAX - 1));
        assert!(!w.insert(9_998));
    }

    #[test]
    fn agrees_with_a_plain_set_over_random_jumps() {
        let mut w = Window::new();
        let (mut set, mut newest) = (BTreeSet::new(), 0u32);
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let mut at = 1_000_000u32;
        for _ in 0..200_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let counter = match x % 8 {
                0 => at.saturating_sub((x >> 8) as u32 % 10_000),
                1 => at + (x >> 8) as u32 % 9_000,
                2 => at.saturating_sub((x >> 8) as u32 % 70),
                _ => at + 1,
            };
            let fresh = (set.is_empty() || counter > newest || newest - counter < WINDOW)
                && set.insert(counter);
            newest = newest.max(counter);
            assert_eq!(w.insert(counter), fresh, "counter {counter}");
            at = at.max(counter);
        }
    }
}
