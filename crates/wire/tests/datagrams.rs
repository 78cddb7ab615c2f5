//! What a receiver accepts and refuses, case by case.

use chaff_abi::{Dir, Nanos};
use chaff_wire::{
    EPOCH, Header, Key, Kind, MAX_STREAMS, MIN_LEN, NEXT_ACCEPTED, Opener, PREVIOUS_ACCEPTED,
    Sealer, WINDOW, WireError,
};

const START: Nanos = Nanos::from_secs(1_800_000_000);

fn key(n: u8) -> Key {
    let mut bytes = [n; 32];
    bytes[0] ^= 1;
    Key::from_bytes(bytes)
}

fn out_pair(now: Nanos) -> (Sealer, Opener) {
    (
        Sealer::new(&key(1), Dir::Out, 9, now),
        Opener::new(&key(1), Dir::Out),
    )
}

fn make(sealer: &mut Sealer, now: Nanos, len: usize) -> Vec<u8> {
    let mut buf = [0; 2_000];
    sealer
        .seal(now, Kind::Cover, b"", len, &mut buf)
        .expect("seals")
        .to_vec()
}

/// The name of what opening gives; `ok` when accepted.
fn outcome(opener: &mut Opener, now: Nanos, datagram: &[u8]) -> &'static str {
    let mut copy = datagram.to_vec();
    match opener.open(now, &mut copy) {
        Ok(_) => "ok",
        Err(e) => {
            if matches!(e.name(), "short" | "bad_tag" | "old_epoch" | "replay") {
                assert_eq!(copy, datagram, "a refused datagram is left as it was");
            }
            e.name()
        }
    }
}

#[test]
fn every_length_from_the_smallest_on_opens() {
    let (mut sealer, mut opener) = out_pair(START);
    for len in MIN_LEN..=1_472 {
        let mut d = make(&mut sealer, START, len);
        assert_eq!(d.len(), len);
        let opened = opener.open(START, &mut d).expect("opens");
        assert_eq!((opened.kind, opened.body), (Kind::Cover, &b""[..]));
    }
}

#[test]
fn kinds_and_bodies_come_back_without_padding() {
    let (mut sealer, mut opener) = out_pair(START);
    let mut buf = [0; 1_500];
    for (kind, body, len) in [
        (Kind::Cover, &b"ignored"[..], 35),
        (Kind::Schedule, b"", 28),
        (Kind::Schedule, b"abc", 31),
        (Kind::Report, &[7; 900][..], 1_400),
    ] {
        let mut d = sealer
            .seal(START, kind, body, len, &mut buf)
            .expect("seals")
            .to_vec();
        let opened = opener.open(START, &mut d).expect("opens");
        assert_eq!((opened.kind, opened.body), (kind, body));
        assert_eq!(opened.header.stream, 9);
        assert_eq!(opened.header.epoch, (START.0 / EPOCH.0) as u16);
    }
}

#[test]
fn sizes_that_do_not_fit_are_errors_and_use_no_counter() {
    let (mut sealer, mut opener) = out_pair(START);
    let mut buf = [0; 100];
    let mut try_seal = |kind, body: &[u8], len| {
        sealer
            .seal(START, kind, body, len, &mut buf)
            .map(<[u8]>::len)
    };
    assert_eq!(
        try_seal(Kind::Cover, b"", 23),
        Err(WireError::Short { len: 23, min: 24 })
    );
    assert_eq!(
        try_seal(Kind::Report, b"", 27),
        Err(WireError::Short { len: 27, min: 28 })
    );
    assert_eq!(
        try_seal(Kind::Cover, b"x", 28),
        Err(WireError::Short { len: 28, min: 29 })
    );
    assert_eq!(
        try_seal(Kind::Cover, b"", 101),
        Err(WireError::TooLarge { len: 101, max: 100 })
    );
    let mut large = vec![0; 70_000];
    let got = sealer.seal(START, Kind::Cover, b"", 65_508, &mut large);
    assert_eq!(
        got,
        Err(WireError::TooLarge {
            len: 65_508,
            max: 65_507
        })
    );
    assert_eq!(
        opener.open(START, &mut large).map(|_| ()),
        Err(WireError::TooLarge {
            len: 70_000,
            max: 65_507
        })
    );
    let mut first = make(&mut sealer, START, 24);
    assert_eq!(
        opener
            .open(START, &mut first)
            .expect("opens")
            .header
            .counter,
        0
    );
}

#[test]
fn a_changed_bit_anywhere_is_refused() {
    let (mut sealer, mut opener) = out_pair(START);
    for len in [24, 27, 28, 90] {
        let good = make(&mut sealer, START, len);
        for bit in 0..len * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let name = outcome(&mut opener, START, &bad);
            assert!(
                matches!(name, "bad_tag" | "old_epoch"),
                "bit {bit} of {len}: {name}"
            );
        }
        assert_eq!(outcome(&mut opener, START, &good), "ok");
    }
}

#[test]
fn a_cut_or_longer_datagram_is_refused() {
    let (mut sealer, mut opener) = out_pair(START);
    let good = make(&mut sealer, START, 300);
    for len in 0..300 {
        let name = outcome(&mut opener, START, &good[..len]);
        if len < MIN_LEN {
            assert_eq!(name, "short");
        } else {
            assert!(matches!(name, "bad_tag" | "old_epoch"), "{len}: {name}");
        }
    }
    for more in 1..40 {
        let mut long = good.clone();
        long.resize(300 + more, 0);
        assert_ne!(outcome(&mut opener, START, &long), "ok");
    }
    assert_eq!(opener.windows(), 0);
    assert_eq!(outcome(&mut opener, START, &good), "ok");
}

#[test]
fn another_key_or_direction_is_refused() {
    let (mut sealer, _) = out_pair(START);
    let good = make(&mut sealer, START, 200);
    for (k, dir) in [(2, Dir::Out), (1, Dir::In)] {
        let name = outcome(&mut Opener::new(&key(k), dir), START, &good);
        assert!(matches!(name, "bad_tag" | "old_epoch"), "{name}");
    }
}

#[test]
fn each_datagram_counts_once_in_any_order_within_the_window() {
    let (mut sealer, mut opener) = out_pair(START);
    let all: Vec<_> = (0..WINDOW + 100)
        .map(|_| make(&mut sealer, START, 24))
        .collect();
    // The newest first: then the window reaches down to number 100.
    assert_eq!(outcome(&mut opener, START, &all[all.len() - 1]), "ok");
    for i in (0..all.len() - 1).rev().step_by(97) {
        let want = if i >= 100 { "ok" } else { "replay" };
        assert_eq!(outcome(&mut opener, START, &all[i]), want, "{i}");
        assert_eq!(outcome(&mut opener, START, &all[i]), "replay", "{i}");
    }
}

#[test]
fn epochs_change_without_losing_datagrams_on_the_way() {
    let change = START + EPOCH;
    let (mut sealer, mut opener) = out_pair(START);
    let old = make(&mut sealer, change - Nanos(1), 50);
    let late = make(&mut sealer, change - Nanos(1), 50);
    let new = make(&mut sealer, change, 50);
    assert_eq!(outcome(&mut opener, change, &new), "ok");
    assert_eq!(
        outcome(&mut opener, change + Nanos(PREVIOUS_ACCEPTED.0 - 1), &old),
        "ok"
    );
    assert_eq!(
        outcome(&mut opener, change + Nanos(PREVIOUS_ACCEPTED.0 - 1), &old),
        "replay"
    );
    assert_eq!(opener.windows(), 2);
    assert_eq!(
        outcome(&mut opener, change + PREVIOUS_ACCEPTED, &late),
        "old_epoch"
    );
    assert_eq!(opener.windows(), 1);
    assert_eq!(
        outcome(&mut opener, change + PREVIOUS_ACCEPTED, &new),
        "replay"
    );
    // Much later nothing is left.
    assert_eq!(
        outcome(&mut opener, change + EPOCH + EPOCH, &new),
        "old_epoch"
    );
    assert_eq!(opener.windows(), 0);
}

#[test]
fn a_sender_whose_clock_is_a_little_ahead_is_accepted() {
    let change = START + EPOCH;
    let mut sealer = Sealer::new(&key(1), Dir::Out, 9, change);
    let early = make(&mut sealer, change, 50);
    let mut opener = Opener::new(&key(1), Dir::Out);
    assert_eq!(
        outcome(&mut opener, change - NEXT_ACCEPTED - Nanos(1), &early),
        "old_epoch"
    );
    assert_eq!(outcome(&mut opener, change - NEXT_ACCEPTED, &early), "ok");
    assert_eq!(outcome(&mut opener, change, &early), "replay");
}

#[test]
fn a_restarted_sender_goes_on_above_its_predecessor() {
    let mut opener = Opener::new(&key(1), Dir::Out);
    let mut now = START + Nanos::from_secs(17);
    let mut last = None::<Header>;
    for _ in 0..20 {
        let mut sealer = Sealer::new(&key(1), Dir::Out, 9, now);
        // 500 datagrams in half a millisecond, then a restart.
        for _ in 0..500 {
            let mut d = make(&mut sealer, now, 24);
            let header = opener.open(now, &mut d).expect("accepted").header;
            assert!(last < Some(header));
            last = Some(header);
            now += Nanos(1_000);
        }
    }
}

#[test]
fn counters_run_out_with_an_error_until_the_next_epoch() {
    let end = START + EPOCH - Nanos(1);
    let (mut sealer, mut opener) = out_pair(end);
    let mut last = make(&mut sealer, end, 24);
    assert_eq!(
        opener.open(end, &mut last).expect("opens").header.counter,
        u32::MAX
    );
    let mut buf = [0; 24];
    let epoch = (START.0 / EPOCH.0) as u16;
    for _ in 0..3 {
        assert_eq!(
            sealer.seal(end, Kind::Cover, b"", 24, &mut buf),
            Err(WireError::Exhausted { epoch })
        );
    }
    let mut next = make(&mut sealer, START + EPOCH, 24);
    assert_eq!(
        opener
            .open(START + EPOCH, &mut next)
            .expect("opens")
            .header
            .counter,
        0
    );
}

#[test]
fn a_clock_that_goes_back_a_little_stands_still_and_a_lot_is_an_error() {
    let now = START + EPOCH + Nanos::from_secs(1);
    let (mut sealer, mut opener) = out_pair(now);
    let a = make(&mut sealer, now, 30);
    let b = make(&mut sealer, START + Nanos::from_secs(2), 30);
    assert_eq!(outcome(&mut opener, now, &a), "ok");
    assert_eq!(outcome(&mut opener, START + Nanos::from_secs(2), &b), "ok");
    let mut buf = [0; 30];
    let by = Nanos(EPOCH.0 + 1);
    assert_eq!(
        sealer.seal(now - by, Kind::Cover, b"", 30, &mut buf),
        Err(WireError::ClockBack { by })
    );
    assert_eq!(
        opener.open(now - by, &mut buf).map(|_| ()),
        Err(WireError::ClockBack { by })
    );
}

#[test]
fn streams_are_capped_and_make_room_with_the_epoch() {
    let mut opener = Opener::new(&key(1), Dir::Out);
    for stream in 0..=MAX_STREAMS as u16 {
        let d = make(
            &mut Sealer::new(&key(1), Dir::Out, stream, START),
            START,
            24,
        );
        let want = if usize::from(stream) < MAX_STREAMS {
            "ok"
        } else {
            "too_many_streams"
        };
        assert_eq!(outcome(&mut opener, START, &d), want, "{stream}");
    }
    assert_eq!(opener.windows(), MAX_STREAMS);
    // Known streams still work, and the next epoch has room of its own.
    let known = make(
        &mut Sealer::new(&key(1), Dir::Out, 3, START + Nanos(1_000)),
        START,
        24,
    );
    assert_eq!(outcome(&mut opener, START, &known), "ok");
    let next = START + EPOCH;
    let d = make(&mut Sealer::new(&key(1), Dir::Out, 5_000, next), next, 24);
    assert_eq!(outcome(&mut opener, next, &d), "ok");
    assert_eq!(outcome(&mut opener, next + PREVIOUS_ACCEPTED, &d), "replay");
    assert_eq!(opener.windows(), 1);
}

#[test]
fn names_are_the_ones_listed() {
    for (i, e) in [
        WireError::Short { len: 0, min: 24 },
        WireError::TooLarge { len: 0, max: 0 },
        WireError::BadTag,
        WireError::Replay {
            stream: 0,
            counter: 0,
        },
        WireError::OldEpoch { epoch: 0 },
    ]
    .iter()
    .enumerate()
    {
        assert_eq!((e.index(), e.name()), (i, WireError::NAMES[i]));
        assert!(!e.to_string().is_empty());
    }
}
