//! Cover datagrams ([`chaff_wire::Opener`]) from someone who sees all of them and may change, keep, repeat and invent some.
//!
//! Input: operations (see [`run`]).
//!
//! - Only what was sealed opens, and it opens to the sealed stream, kind and body.
//! - Nothing opens twice, and nothing that was changed in any bit.
//! - A datagram delivered at once and for the first time opens.

use std::collections::BTreeMap;

use chaff_abi::{Dir, Nanos};
use chaff_wire::{BODY_PREFIX, Key, Kind, MAX_LEN, MIN_LEN, OVERHEAD, Opener, Sealer};

use crate::Seeds;
use crate::bytes::{Bytes, push_piece};

const KINDS: [Kind; 3] = [Kind::Cover, Kind::Schedule, Kind::Report];

struct Sent {
    bytes: Vec<u8>,
    stream: u16,
    kind: Kind,
    body: Vec<u8>,
    sealed_at: Nanos,
    opened: bool,
}

/// See the module. Operations: 0 time passes (2 bytes, in 10 ms), 1 seal (stream, kind, padding, body), 2 deliver (which),
/// 3 deliver changed (which, at, by), 4 invent (bytes), 5 deliver cut or lengthened (which, by).
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let key = Key::from_bytes([7; 32]);
    let mut now = Nanos::from_secs(1_700_000_000 / 600 * 600);
    let mut opener = Opener::new(&key, Dir::Out);
    let mut sealers: BTreeMap<u16, Sealer> = BTreeMap::new();
    let mut sent: Vec<Sent> = Vec::new();
    let mut buffer = vec![0; MAX_LEN];
    while !input.is_empty() && sent.len() < 4_096 {
        match input.u8() % 6 {
            0 => now += Nanos::from_millis(10 * u64::from(input.u16())),
            1 => {
                let (stream, kind, padding) = (u16::from(input.u8() % 5), input.u8(), input.u8());
                let (kind, body) = (KINDS[usize::from(kind) % 3], input.piece());
                let sealer = sealers
                    .entry(stream)
                    .or_insert_with(|| Sealer::new(&key, Dir::Out, stream, now));
                let total = if body.is_empty() && kind == Kind::Cover {
                    MIN_LEN + usize::from(padding)
                } else {
                    OVERHEAD + BODY_PREFIX + body.len() + usize::from(padding)
                };
                match sealer.seal(now, kind, body, total, &mut buffer) {
                    Ok(bytes) => sent.push(Sent {
                        bytes: bytes.to_vec(),
                        stream,
                        kind,
                        body: body.to_vec(),
                        sealed_at: now,
                        opened: false,
                    }),
                    Err(error) => assert!(total > MAX_LEN, "{error}"),
                }
            }
            2 => {
                let back = usize::from(input.u8());
                let last = sent.len().saturating_sub(1);
                if let Some(one) = sent.get_mut(last.saturating_sub(back)) {
                    deliver(&mut opener, now, one);
                }
            }
            3 => {
                let (which, at, by) = (input.u8(), input.u16(), input.u8());
                if let Some(one) = pick(&sent, which) {
                    let mut bytes = one.bytes.clone();
                    let at = usize::from(at) % bytes.len();
                    bytes[at] ^= by.max(1);
                    assert!(opener.open(now, &mut bytes).is_err());
                }
            }
            4 => {
                let mut bytes = input.piece().to_vec();
                let known = sent.iter().any(|one| one.bytes == bytes);
                assert!(known || opener.open(now, &mut bytes).is_err());
            }
            _ => {
                let (which, by) = (input.u8(), usize::from(input.u8()) + 1);
                if let Some(one) = pick(&sent, which) {
                    let mut longer = one.bytes.clone();
                    longer.resize(longer.len() + by, 0);
                    assert!(opener.open(now, &mut longer).is_err());
                    let mut shorter = one.bytes.clone();
                    shorter.truncate(shorter.len().saturating_sub(by));
                    assert!(opener.open(now, &mut shorter).is_err());
                }
            }
        }
    }
}

fn pick(sent: &[Sent], which: u8) -> Option<&Sent> {
    sent.get(usize::from(which) % sent.len().max(1))
}

fn deliver(opener: &mut Opener, now: Nanos, one: &mut Sent) {
    let mut bytes = one.bytes.clone();
    match opener.open(now, &mut bytes) {
        Ok(opened) => {
            assert!(!one.opened, "opened twice");
            assert_eq!(opened.header.stream, one.stream);
            assert_eq!(opened.kind, one.kind);
            assert_eq!(opened.body, one.body);
            one.opened = true;
        }
        Err(error) => {
            assert!(one.opened || one.sealed_at != now, "{error}");
        }
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let seal = |stream: u8, kind: u8, padding: u8, body: &[u8]| {
        let mut out = vec![1, stream, kind, padding];
        push_piece(&mut out, body);
        out
    };
    let each = [
        seal(1, 0, 0, b""),
        seal(1, 1, 9, b"schedule"),
        seal(2, 2, 200, b"report"),
    ];
    let mut talk = Vec::new();
    for one in &each {
        talk.extend(one);
        talk.extend([2, 0, 2, 0]);
    }
    let mut hostile = each.concat();
    for which in 0..3 {
        hostile.extend([
            3, which, 0, 4, 1, 3, which, 0, 30, 128, 5, which, 0, 5, which, 3,
        ]);
    }
    hostile.extend([4]);
    push_piece(&mut hostile, &[0x55; 60]);
    let mut late = each.concat();
    late.extend([0, 0xff, 0xff, 2, 2, 2, 1, 2, 0]);
    late.extend(&each[0]);
    late.extend([2, 0]);
    vec![
        ("talk".into(), talk),
        ("hostile".into(), hostile),
        ("late".into(), late),
    ]
}
