//! `open(seal(x)) == x`, and whatever is not sealed is refused without a panic.

use chaff_abi::{Dir, Nanos};
use chaff_wire::{BODY_PREFIX, EPOCH, Key, Kind, OVERHEAD, Opener, Sealer};
use proptest::prelude::*;

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Cover), Just(Kind::Schedule), Just(Kind::Report)]
}

fn dir() -> impl Strategy<Value = Dir> {
    prop_oneof![Just(Dir::Out), Just(Dir::In)]
}

proptest! {
    #[test]
    fn what_is_sealed_opens_to_the_same(
        key in any::<[u8; 32]>(), dir in dir(), stream in any::<u16>(), kind in kind(),
        body in proptest::collection::vec(any::<u8>(), 0..300), padding in 0usize..300,
        // Any time until the year 2540, nanoseconds.
        now in 0u64..18_000_000_000_000_000_000 , drift in 0u64..30_000_000_000,
    ) {
        let (key, now) = (Key::from_bytes(key), Nanos(now));
        let total = OVERHEAD + BODY_PREFIX + body.len() + padding;
        let mut buf = [0x55; 700];
        let mut sealer = Sealer::new(&key, dir, stream, now);
        let mut datagram = sealer.seal(now, kind, &body, total, &mut buf).expect("fits").to_vec();
        prop_assert_eq!(datagram.len(), total);
        prop_assert!(buf[total..].iter().all(|b| *b == 0x55));
        let mut opener = Opener::new(&key, dir);
        let opened = opener.open(now + Nanos(drift), &mut datagram).expect("opens");
        prop_assert_eq!(opened.header.stream, stream);
        prop_assert_eq!(opened.header.epoch, (now.0 / EPOCH.0) as u16);
        prop_assert_eq!((opened.kind, opened.body), (kind, &body[..]));
    }

    #[test]
    fn foreign_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1_600), now in any::<u64>()) {
        let mut opener = Opener::new(&Key::from_bytes([3; 32]), Dir::In);
        let mut copy = bytes.clone();
        prop_assert!(opener.open(Nanos(now), &mut copy).is_err());
        prop_assert_eq!(copy, bytes);
        prop_assert_eq!(opener.windows(), 0);
    }

    #[test]
    fn texts_that_are_no_keys_are_errors(text in ".{0,70}") {
        let plain = text.trim_ascii();
        let hex = plain.len() == 64 && plain.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex && !matches!(plain.len(), 43 | 44) {
            prop_assert!(Key::parse(&text).is_err());
        }
    }
}
