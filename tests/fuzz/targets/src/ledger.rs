//! Stored privacy ledgers ([`chaff_privacy::Ledger`]): a crash may waste budget, never privacy.
//!
//! Input: which check (1 byte), then its own.
//!
//! - Any bytes: an opened ledger has spent no more than its total; after the repair it asks for, its file opens to the same
//!   head and sum and asks for nothing more.
//! - Lines with a right hash chain but any text: the same, so that what is behind the hash is reached.
//! - Expenses with a crash inside a write: whatever part of the entry is there, at least all answered expenses count, and at
//!   most the interrupted one more.
//! - A finished ledger with one changed bit does not open, or has lost nothing.

use chaff_privacy::{CutLine, Epsilon, Head, Ledger};
use sha2::{Digest, Sha256};

use crate::Seeds;
use crate::bytes::{Bytes, push_piece};

const DELTA: f64 = 0.0;

fn total() -> Epsilon {
    Epsilon::from_nanos(2_000_000_000).unwrap()
}

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    match input.u8() % 3 {
        0 => {
            settle(input.rest().to_vec());
        }
        1 => {
            settle(chained(&mut input));
        }
        _ => expenses(&mut input),
    }
}

/// Opens, repairs, opens again; gives what was spent.
fn settle(mut file: Vec<u8>) -> Option<(u64, Option<CutLine>)> {
    let ledger = Ledger::open(total(), DELTA, &file).ok()?;
    assert!(ledger.spent_nanos() <= ledger.total().nanos());
    assert_eq!(ledger.spent_nanos() + ledger.left_nanos(), total().nanos());
    if let Some(store) = ledger.to_store() {
        assert!(store.keep <= file.len());
        file.truncate(store.keep);
        file.extend_from_slice(&store.append);
    }
    let again = Ledger::open_since(total(), DELTA, &file, Some(ledger.head())).unwrap();
    assert_eq!(again.head(), ledger.head());
    assert_eq!(again.spent_nanos(), ledger.spent_nanos());
    assert_eq!((again.to_store(), again.cut_line()), (None, None));
    let other = Head {
        entry: ledger.head().entry + 1,
        hash: [3; 32],
    };
    assert!(Ledger::open_since(total(), DELTA, &file, Some(other)).is_err());
    Some((ledger.spent_nanos(), ledger.cut_line()))
}

/// Lines of any text, each closed with the hash it needs.
fn chained(input: &mut Bytes<'_>) -> Vec<u8> {
    let mut file = Vec::new();
    let mut before = [0u8; 32];
    while !input.is_empty() && file.len() < 1 << 16 {
        let body = input.piece();
        let mut sha = Sha256::new();
        sha.update(before);
        sha.update(body);
        before = sha.finalize().into();
        file.extend_from_slice(body);
        file.extend_from_slice(b",\"hash\":\"");
        file.extend(before.iter().flat_map(|b| format!("{b:02x}").into_bytes()));
        file.extend_from_slice(b"\"}\n");
    }
    file
}

/// Expenses as the input says, a crash in the middle of the last one, then one changed bit.
fn expenses(input: &mut Bytes<'_>) {
    let (cut, flip_at, flip) = (input.u16(), input.u16(), input.u8());
    let mut file = Vec::new();
    let mut ledger = Ledger::open(total(), DELTA, &file).unwrap();
    file.extend_from_slice(&ledger.to_store().unwrap().append);
    ledger.mark_stored();
    let mut answered = 0;
    let mut last: Option<(Vec<u8>, u64)> = None;
    while !input.is_empty() && file.len() < 1 << 15 {
        // Small ones fit the budget for a while.
        let nanos = u64::from(input.u32() >> (input.u8() % 32));
        let label = String::from_utf8_lossy(input.piece()).into_owned();
        let Ok(epsilon) = Epsilon::from_nanos(nanos) else {
            continue;
        };
        let left = ledger.left_nanos();
        let head = ledger.head();
        match ledger.spend(&label, epsilon) {
            Ok(pending) => {
                assert!(nanos <= left);
                let entry = pending.entry().to_vec();
                assert_eq!(
                    entry.iter().filter(|b| **b == b'\n').count(),
                    1,
                    "{label:?}"
                );
                let grant = pending.stored();
                assert_eq!(grant.epsilon(), epsilon);
                if let Some((before, amount)) = last.replace((entry, nanos)) {
                    file.extend_from_slice(&before);
                    answered += amount;
                }
            }
            Err(_) => {
                assert!(nanos > left);
                assert_eq!((ledger.head(), ledger.left_nanos()), (head, left));
            }
        }
    }
    // All but the last were answered; of the last, some bytes reached the disk.
    if let Some((entry, amount)) = &last {
        let mut crashed = file.clone();
        crashed.extend_from_slice(&entry[..usize::from(cut) % entry.len()]);
        let (spent, _) = settle(crashed).unwrap();
        assert!(
            spent == answered || spent == answered + amount,
            "{spent} of {answered} + {amount}"
        );
        file.extend_from_slice(entry);
        answered += amount;
    }
    let (spent, cut_line) = settle(file.clone()).unwrap();
    assert_eq!((spent, cut_line), (answered, None));
    let at = usize::from(flip_at) % file.len();
    file[at] ^= 1 << (flip % 8);
    if let Some((spent, _)) = settle(file) {
        assert!(
            spent >= answered,
            "{spent} after a change at byte {at}, {answered} before"
        );
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let mut file = Vec::new();
    let mut ledger = Ledger::open(total(), DELTA, &file).unwrap();
    file.extend_from_slice(&ledger.to_store().unwrap().append);
    ledger.mark_stored();
    for nanos in [1_000, 500_000_000, 7] {
        let epsilon = Epsilon::from_nanos(nanos).unwrap();
        let pending = ledger.spend("slots \"of\" camera", epsilon).unwrap();
        file.extend_from_slice(pending.entry());
        let _paid = pending.stored();
    }
    let raw = |file: &[u8]| [&[0], file].concat();
    let mut lines = vec![1];
    for body in [
        "{\"version\":1,\"total\":2,\"delta\":0",
        "{\"entry\":1,\"label\":\"a\",\"epsilon\":0.5,\"spent\":0.5",
        "{\"entry\":2,\"label\":\"b\",\"epsilon\":1,\"spent\":1.5",
    ] {
        push_piece(&mut lines, body.as_bytes());
    }
    let mut crash = vec![2, 0, 40, 0, 99, 3];
    for (amount, label) in [(9, "one"), (1 << 20, "two \u{1}\""), (77, "")] {
        crash.extend(u32::to_be_bytes(amount));
        crash.push(0);
        push_piece(&mut crash, label.as_bytes());
    }
    vec![
        ("whole".into(), raw(&file)),
        ("cut".into(), raw(&file[..file.len() - 30])),
        ("cut-early".into(), raw(&file[..20])),
        ("lines".into(), lines),
        ("crash".into(), crash),
    ]
}
