//! A million hostile datagrams: none accepted, no byte allocated. 1,000,000 with `--release`, 30,000 without.

use chaff_abi::{Dir, Nanos};
use chaff_test_support::{CountingAllocator, allocations};
use chaff_wire::{EPOCH, Key, Kind, Opener, Sealer, WINDOW, WireError};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Good enough to make test input (xorshift64*).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }

    fn fill(&mut self, out: &mut [u8]) {
        out.fill_with(|| (self.next() >> 24) as u8);
    }
}

fn recorded(key: &Key, dir: Dir, stream: u16, at: Nanos, n: usize) -> Vec<Vec<u8>> {
    let mut sealer = Sealer::new(key, dir, stream, at);
    let mut dice = Dice(u64::from(stream) + 1);
    let mut buf = [0; 1_400];
    (0..n)
        .map(|_| {
            let len = 24 + dice.below(120);
            sealer
                .seal(at, Kind::Cover, b"", len, &mut buf)
                .expect("seals")
                .to_vec()
        })
        .collect()
}

#[test]
fn accepts_none_of_a_million_and_allocates_nothing() {
    let n = if cfg!(debug_assertions) {
        30_000
    } else {
        1_000_000
    };
    let now = Nanos::from_secs(1_800_000_000 + 300);
    let key = Key::from_bytes(*b"a key that only the test knows..");
    let other = Key::from_bytes(*b"another key, also for tests only");
    let mut opener = Opener::new(&key, Dir::Out);

    // What an attacker has seen on the wire: accepted datagrams of two streams, some that were overtaken by more than
    // the window, some of the epochs before, of the other direction, of another key, and some never delivered.
    let mut seen = Vec::new();
    for stream in 0..2 {
        let mut all = recorded(&key, Dir::Out, stream, now, WINDOW as usize + 600);
        let undelivered = all.split_off(WINDOW as usize + 500);
        for d in &all[500..] {
            assert!(opener.open(now, &mut d.clone()).is_ok());
        }
        // The first 500 are now behind the window; the last 100 only serve as raw material for forgeries.
        seen.extend(all.into_iter().map(|d| (d, true)));
        seen.extend(undelivered.into_iter().map(|d| (d, false)));
    }
    for (k, dir, at) in [
        (&key, Dir::Out, now - EPOCH - EPOCH),
        (&key, Dir::Out, now - EPOCH),
        (&key, Dir::Out, now + EPOCH),
        (&key, Dir::In, now),
        (&other, Dir::Out, now),
    ] {
        seen.extend(recorded(k, dir, 2, at, 500).into_iter().map(|d| (d, true)));
    }

    let mut dice = Dice(42);
    let mut buf = [0u8; 2_000];
    let mut outcomes = [0u64; WireError::NAMES.len()];
    let before = allocations();
    for i in 0..n {
        let (material, as_it_is) = &seen[dice.below(seen.len())];
        let mut len = material.len();
        buf[..len].copy_from_slice(material);
        match dice.below(6) {
            0 => {
                len = dice.below(1_500);
                dice.fill(&mut buf[..len]);
            }
            1 => buf[dice.below(len)] ^= 1 << dice.below(8),
            2 => len = dice.below(len),
            3 => {
                let more = 1 + dice.below(100);
                dice.fill(&mut buf[len..len + more]);
                len += more;
            }
            // Header of one, rest of another.
            4 => {
                let (head, _) = &seen[dice.below(seen.len())];
                buf[..8].copy_from_slice(&head[..8]);
                if head[..8] == material[..8] {
                    buf[0] ^= 1;
                }
            }
            _ if *as_it_is => {}
            _ => buf[len - 1] ^= 0x80,
        }
        match opener.open(now, &mut buf[..len]) {
            Ok(opened) => panic!("datagram {i} was accepted: {opened:?}"),
            Err(e) => outcomes[e.index()] += 1,
        }
    }
    let allocated = allocations() - before;
    let table: Vec<_> = WireError::NAMES
        .iter()
        .zip(outcomes)
        .filter(|(_, n)| *n > 0)
        .collect();
    println!(
        "{n} datagrams: {table:?}, {allocated} allocations, {} windows",
        opener.windows()
    );
    assert_eq!((allocated, opener.windows()), (0, 2));
    for name in ["short", "bad_tag", "replay", "old_epoch"] {
        assert!(table.iter().any(|(n, _)| **n == name), "{name} was tried");
    }
    // The owner's datagrams still get in.
    let mut fresh = recorded(&key, Dir::Out, 2, now + Nanos::from_secs(1), 1).remove(0);
    assert!(opener.open(now, &mut fresh).is_ok());
}
