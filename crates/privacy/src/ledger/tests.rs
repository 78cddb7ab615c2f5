use super::line::HASH_FIELD;
use super::*;
use proptest::prelude::*;

fn eps(text: &str) -> Epsilon {
    text.parse().unwrap()
}

fn settle(ledger: &mut Ledger, file: &mut Vec<u8>) {
    if let Some(store) = ledger.to_store() {
        file.truncate(store.keep);
        file.extend_from_slice(&store.append);
        ledger.mark_stored();
    }
}

fn sample() -> Vec<u8> {
    let mut file = Vec::new();
    let mut ledger = Ledger::open(eps("1"), 0.0, &file).unwrap();
    settle(&mut ledger, &mut file);
    for (label, e) in [
        ("a \"quoted\",\n label", "0.1"),
        ("b", "0.25"),
        ("c", "0.1"),
    ] {
        let pending = ledger.spend(label, eps(e)).unwrap();
        file.extend_from_slice(pending.entry());
        let _ = pending.stored();
    }
    file
}

fn spent(file: &[u8]) -> u64 {
    Ledger::open(eps("1"), 0.0, file).unwrap().spent_nanos()
}

#[test]
fn reopens_with_what_was_spent() {
    let file = sample();
    assert_eq!(spent(&file), 450_000_000);
    assert!(file.starts_with(b"{\"version\":1,\"total\":1,\"delta\":0,\"hash\":\""));
    for line in file.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        serde_json::from_slice::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn every_changed_byte_is_found() {
    let file = sample();
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 1;
        let opened = Ledger::open(eps("1"), 0.0, &bad);
        // The very last line end is the one byte whose loss looks like a crash; what it became then is not a line.
        assert!(opened.is_err() || at == file.len() - 1, "byte {at}");
    }
}

#[test]
fn removed_swapped_and_doubled_lines_are_found() {
    let file = sample();
    let lines: Vec<&[u8]> = file.split_inclusive(|b| *b == b'\n').collect();
    let join = |order: &[usize]| {
        let bytes: Vec<u8> = order.iter().flat_map(|i| lines[*i].to_vec()).collect();
        Ledger::open(eps("1"), 0.0, &bytes).map(|_| ())
    };
    assert_eq!(join(&[0, 1, 2, 3]), Ok(()));
    assert_eq!(join(&[0, 2, 3]), Err(LedgerError::Chain { line: 2 }));
    assert_eq!(join(&[0, 1, 3]), Err(LedgerError::Chain { line: 3 }));
    assert_eq!(join(&[0, 1, 3, 2]), Err(LedgerError::Chain { line: 3 }));
    assert_eq!(join(&[0, 1, 1, 2, 3]), Err(LedgerError::Chain { line: 3 }));
    assert_eq!(join(&[1, 2, 3]), Err(LedgerError::Chain { line: 1 }));
}

#[test]
fn other_settings_are_refused() {
    let file = sample();
    let settings = |r: Result<Ledger, LedgerError>| match r {
        Err(LedgerError::Settings { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        settings(Ledger::open(eps("2"), 0.0, &file)),
        "total epsilon"
    );
    assert_eq!(settings(Ledger::open(eps("1"), 1e-9, &file)), "delta");
    for delta in [-0.1, 1.0, f64::NAN] {
        assert_eq!(
            Ledger::open(eps("1"), delta, &[]).unwrap_err(),
            LedgerError::Delta
        );
    }
}

#[test]
fn a_crash_at_any_byte_never_gives_budget_back() {
    let file = sample();
    let ends: Vec<usize> = (0..file.len()).filter(|i| file[*i] == b'\n').collect();
    for cut in 0..=file.len() {
        let mut short = file[..cut].to_vec();
        let mut ledger = Ledger::open(eps("1"), 0.0, &short).unwrap();
        let whole = ends.iter().filter(|e| **e < cut).count();
        let at_least = [0u64, 0, 100, 350, 450][whole] * 1_000_000;
        assert!(ledger.spent_nanos() >= at_least, "cut at {cut}");
        assert!(
            matches!(ledger.spend("x", eps("0.1")), Err(Refused::InDoubt))
                == ledger.to_store().is_some()
        );
        settle(&mut ledger, &mut short);
        // What was settled reads the same again, without a cut line.
        let again = Ledger::open(eps("1"), 0.0, &short).unwrap();
        assert_eq!(
            (again.cut_line(), again.spent_nanos(), again.head()),
            (None, ledger.spent_nanos(), ledger.head())
        );
    }
}

#[test]
fn a_cut_line_with_a_legible_amount_is_charged() {
    let file = sample();
    let cut = |drop: usize| {
        Ledger::open(eps("1"), 0.0, &file[..file.len() - drop])
            .unwrap()
            .cut_line()
    };
    assert_eq!(cut(0), None);
    assert_eq!(cut(1), Some(CutLine::Completed));
    assert_eq!(cut(2), Some(CutLine::Charged(eps("0.1"))));
    assert_eq!(cut(HASH_FIELD + 20), Some(CutLine::Dropped));
}

#[test]
fn a_ledger_from_a_backup_is_refused() {
    let file = sample();
    let head = Ledger::open(eps("1"), 0.0, &file).unwrap().head();
    let head: Head = head.to_string().parse().unwrap();
    assert!(Ledger::open_since(eps("1"), 0.0, &file, Some(head)).is_ok());
    let second_end = file
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'\n')
        .nth(1)
        .unwrap()
        .0;
    for old in [&file[..=second_end], &[]] {
        let got = Ledger::open_since(eps("1"), 0.0, old, Some(head));
        assert!(matches!(got, Err(LedgerError::Older { want: 3, .. })));
    }
    for bad in ["", "3", "3 zz", "x 00"] {
        assert!(bad.parse::<Head>().is_err());
    }
}

#[test]
fn a_refused_question_leaves_no_trace() {
    let file = sample();
    let mut ledger = Ledger::open(eps("1"), 0.0, &file).unwrap();
    let before = (ledger.head(), ledger.spent_nanos());
    let refused = ledger.spend("too much", eps("0.550000001")).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "privacy budget: asked for 0.550000001, left 0.55 of 1"
    );
    assert_eq!((ledger.head(), ledger.spent_nanos()), before);
    let _ = ledger.spend("all of it", eps("0.55")).unwrap().stored();
    assert_eq!((ledger.left_nanos(), ledger.left()), (0, None));
}

#[test]
fn a_dropped_pending_grant_stops_the_ledger() {
    let file = sample();
    let mut ledger = Ledger::open(eps("1"), 0.0, &file).unwrap();
    drop(ledger.spend("lost", eps("0.1")).unwrap());
    assert_eq!(
        ledger.spend("next", eps("0.1")).unwrap_err(),
        Refused::InDoubt
    );
    let mut ledger = Ledger::open(eps("1"), 0.0, &file).unwrap();
    ledger
        .spend("nothing written", eps("0.1"))
        .unwrap()
        .abandon();
    assert_eq!(ledger.spent_nanos(), 450_000_000);
    assert!(ledger.spend("next", eps("0.1")).is_ok());
}

#[derive(Clone, Debug)]
enum Step {
    Spend(u64),
    Abandon(u64),
    CrashBeforeWrite(u64),
    CrashAfterWrite(u64),
    CrashInWrite(u64, usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let amount = 1..400_000_000u64;
    prop_oneof![
        4 => amount.clone().prop_map(Step::Spend),
        1 => amount.clone().prop_map(Step::Abandon),
        1 => amount.clone().prop_map(Step::CrashBeforeWrite),
        1 => amount.clone().prop_map(Step::CrashAfterWrite),
        1 => (amount, 0..200usize).prop_map(|(a, n)| Step::CrashInWrite(a, n)),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #[test]
    fn no_interleaving_answers_more_than_the_total(steps in proptest::collection::vec(step(), 1..40)) {
        let total = eps("1");
        let mut file = Vec::new();
        let mut answered = 0u64;
        let open = |file: &mut Vec<u8>| {
            let mut ledger = Ledger::open(total, 0.0, file).unwrap();
            settle(&mut ledger, file);
            ledger
        };
        let mut ledger = open(&mut file);
        for step in steps {
            let (Step::Spend(n) | Step::Abandon(n) | Step::CrashBeforeWrite(n) | Step::CrashAfterWrite(n)
                | Step::CrashInWrite(n, _)) = step
            else {
                ledger = open(&mut file);
                continue;
            };
            let epsilon = Epsilon::from_nanos(n).unwrap();
            let Ok(pending) = ledger.spend("q", epsilon) else {
                prop_assert!(n > ledger.left_nanos());
                continue;
            };
            match step {
                Step::Spend(_) => {
                    file.extend_from_slice(pending.entry());
                    answered += pending.stored().epsilon().nanos();
                }
                Step::Abandon(_) => pending.abandon(),
                Step::CrashAfterWrite(_) => {
                    file.extend_from_slice(pending.entry());
                    drop(pending);
                    ledger = open(&mut file);
                }
                Step::CrashInWrite(_, cut) => {
                    let cut = cut.min(pending.entry().len());
                    file.extend_from_slice(&pending.entry()[..cut]);
                    drop(pending);
                    ledger = open(&mut file);
                }
                _ => {
                    drop(pending);
                    ledger = open(&mut file);
                }
            }
            prop_assert!(answered <= ledger.spent_nanos());
            prop_assert!(ledger.spent_nanos() <= total.nanos());
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_made_new(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(ledger) = Ledger::open(eps("1"), 0.0, &bytes) {
            prop_assert_eq!(ledger.spent_nanos(), 0);
            prop_assert!(ledger.to_store().is_some());
        }
    }
}

mod daily {
    use super::*;

    const HOUR: u64 = DAY_NS / 24;

    fn rho(nanos: u64) -> Option<Rho> {
        Some(Rho::from_nanos(nanos).unwrap())
    }

    fn budget() -> Budget {
        let day = Day {
            epsilon: Some(eps("1")),
            rho: rho(24_400_000),
        };
        Budget::daily("one UTC day of one device", day, 1e-6)
    }

    fn open(file: &[u8]) -> Ledger {
        Ledger::open_budget(budget(), file, None).unwrap()
    }

    fn pure(at_ns: u64, epsilon: &str) -> Expense<'static> {
        Expense {
            label: "q",
            at_ns,
            epsilon: Some(eps(epsilon)),
            ..Expense::default()
        }
    }

    fn pay(ledger: &mut Ledger, file: &mut Vec<u8>, e: &Expense<'_>) -> Result<u64, Refused> {
        settle(ledger, file);
        let pending = ledger.charge(e)?;
        file.extend_from_slice(pending.entry());
        Ok(pending.stored().entry())
    }

    #[test]
    fn the_purse_is_there_again_after_24_hours_and_not_at_midnight() {
        let mut file = Vec::new();
        let mut ledger = open(&file);
        let start = 20_000 * DAY_NS + 23 * HOUR;
        pay(&mut ledger, &mut file, &pure(start, "0.7")).unwrap();
        let refused = pay(&mut ledger, &mut file, &pure(start + 2 * HOUR, "0.4")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "privacy budget of any 24 hours: asked for epsilon 0.4, left 0.3 of 1"
        );
        assert!(pay(&mut ledger, &mut file, &pure(start + DAY_NS - 1, "0.4")).is_err());
        assert_eq!(ledger.day_left_nanos(start + DAY_NS - 1).0, 300_000_000);
        pay(&mut ledger, &mut file, &pure(start + DAY_NS, "1")).unwrap();
        // What was paid before is in no 24 hours with what follows, and the file reads back.
        let again = open(&file);
        assert_eq!(again.spent_nanos(), 1_700_000_000);
        assert_eq!(again.day_left_nanos(start + DAY_NS + 1).0, 0);
    }

    #[test]
    fn an_earlier_time_counts_in_every_24_hours_that_hold_it() {
        let mut file = Vec::new();
        let mut ledger = open(&file);
        let at = 20_000 * DAY_NS;
        pay(&mut ledger, &mut file, &pure(at + 20 * HOUR, "0.6")).unwrap();
        pay(&mut ledger, &mut file, &pure(at + 40 * HOUR, "0.4")).unwrap();
        // Between both: with either 24 hours would hold all three.
        assert!(pay(&mut ledger, &mut file, &pure(at + 30 * HOUR, "0.1")).is_err());
        // Earlier than both: only the first is within 24 hours of it.
        assert!(pay(&mut ledger, &mut file, &pure(at + 10 * HOUR, "0.5")).is_err());
        pay(&mut ledger, &mut file, &pure(at + 10 * HOUR, "0.4")).unwrap();
        let past = pay(&mut ledger, &mut file, &pure(at - 9 * HOUR, "0.1"));
        assert_eq!(past.unwrap_err(), Refused::Past);
        assert_eq!(open(&file).spent_nanos(), 1_400_000_000);
    }

    #[test]
    fn purses_are_apart_and_so_are_other_units() {
        let mut file = Vec::new();
        let mut ledger = open(&file);
        let at = 20_000 * DAY_NS;
        let gauss = Expense {
            epsilon: None,
            rho: rho(20_000_000),
            ..pure(at, "1")
        };
        pay(&mut ledger, &mut file, &gauss).unwrap();
        pay(&mut ledger, &mut file, &pure(at, "1")).unwrap();
        let other = Expense {
            other_unit: Some("one flow"),
            ..pure(at, "5")
        };
        pay(&mut ledger, &mut file, &other).unwrap();
        assert!(matches!(
            pay(&mut ledger, &mut file, &gauss),
            Err(Refused::OverDay { purse: "rho", .. })
        ));
        let delta = Expense {
            epsilon: None,
            delta: 6e-7,
            ..pure(at, "1")
        };
        pay(&mut ledger, &mut file, &delta).unwrap();
        assert!(matches!(
            pay(&mut ledger, &mut file, &delta),
            Err(Refused::OverDay { purse: "delta", .. })
        ));
        let again = open(&file);
        assert_eq!(
            (again.spent_nanos(), again.day_left_nanos(at).1),
            (1_000_000_000, 4_400_000)
        );
    }

    #[test]
    fn a_window_is_paid_once() {
        let mut file = Vec::new();
        let mut ledger = open(&file);
        let at = 20_000 * DAY_NS;
        let window = |n| Expense {
            window: Some(("bytes", n)),
            ..pure(at, "0.1")
        };
        pay(&mut ledger, &mut file, &window(7)).unwrap();
        let noted = Expense {
            epsilon: None,
            ..window(8)
        };
        pay(&mut ledger, &mut file, &noted).unwrap();
        for (n, again) in [(7, true), (8, true), (9, false)] {
            let mut ledger = open(&file);
            let mut file = file.clone();
            let paid = pay(&mut ledger, &mut file, &window(n));
            assert_eq!(
                matches!(
                    paid,
                    Err(Refused::Again {
                        last: 8,
                        entry: 2,
                        ..
                    })
                ),
                again
            );
        }
        assert_eq!(open(&file).last_window("bytes"), Some((8, 2)));
        assert_eq!(open(&file).last_window("flows"), None);
        let nothing = Expense {
            epsilon: None,
            ..pure(at, "1")
        };
        assert!(matches!(
            pay(&mut ledger, &mut file, &nothing),
            Err(Refused::Expense { .. })
        ));
    }

    #[test]
    fn both_kinds_of_ledger_refuse_the_expenses_and_the_settings_of_the_other() {
        let mut file = Vec::new();
        let mut ledger = open(&file);
        settle(&mut ledger, &mut file);
        assert!(matches!(
            ledger.spend("q", eps("0.1")),
            Err(Refused::Expense { .. })
        ));
        let settings = |r: Result<Ledger, LedgerError>| match r {
            Err(e @ LedgerError::Settings { .. }) => e.to_string(),
            other => panic!("{other:?}"),
        };
        let e = settings(Ledger::open(eps("1"), 0.0, &file));
        assert!(e.contains("format version 2, not 1"), "{e}");
        for (change, want) in [
            (
                Budget {
                    unit: "one flow".into(),
                    ..budget()
                },
                "the unit `one UTC day of one device`",
            ),
            (
                Budget {
                    delta: 1e-5,
                    ..budget()
                },
                "delta 0.000001, not 0.00001",
            ),
            (
                Budget {
                    day: Some(Day {
                        epsilon: Some(eps("2")),
                        rho: rho(24_400_000),
                    }),
                    ..budget()
                },
                "epsilon of a day 1, not 2",
            ),
            (
                Budget {
                    day: Some(Day {
                        epsilon: Some(eps("1")),
                        rho: None,
                    }),
                    ..budget()
                },
                "rho of a day 0.0244, not nothing",
            ),
        ] {
            let e = settings(Ledger::open_budget(change, &file, None));
            assert!(e.contains(want), "{e}");
        }
        let old = sample();
        let e = settings(Ledger::open_budget(budget(), &old, None));
        assert!(e.contains("format version 1, not 2"), "{e}");
        let mut ledger = Ledger::open(eps("1"), 0.0, &old).unwrap();
        assert!(matches!(
            ledger.charge(&pure(0, "0.1")),
            Err(Refused::Expense { .. })
        ));
    }

    #[test]
    fn every_changed_byte_is_found_and_a_cut_line_goes() {
        let mut file = Vec::new();
        let mut ledger = open(&file);
        for n in 0..3 {
            let e = Expense {
                window: Some(("w", n)),
                ..pure(20_000 * DAY_NS + n, "0.3")
            };
            pay(&mut ledger, &mut file, &e).unwrap();
        }
        for at in 0..file.len() - 1 {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert!(
                Ledger::open_budget(budget(), &bad, None).is_err(),
                "byte {at}"
            );
        }
        let ends: Vec<usize> = (0..file.len()).filter(|i| file[*i] == b'\n').collect();
        for cut in 0..=file.len() {
            let mut short = file[..cut].to_vec();
            let mut ledger = open(&short);
            let whole = ends.iter().filter(|e| **e < cut).count().saturating_sub(1) as u64;
            assert!(ledger.spent_nanos() >= whole * 300_000_000, "cut at {cut}");
            settle(&mut ledger, &mut short);
            assert_eq!(open(&short).head(), ledger.head());
        }
    }

    #[derive(Clone, Copy, Debug)]
    struct Ask {
        hours: u64,
        nanos: u64,
        is_gauss: bool,
    }

    proptest! {
        /// Whatever is asked in whatever order of times: what was granted within any 24 hours is within both purses.
        #[test]
        fn no_24_hours_hold_more_than_the_purses(
            asks in proptest::collection::vec((0..60u64, 1..700_000_000u64, any::<bool>()), 1..80),
        ) {
            let mut file = Vec::new();
            let mut ledger = open(&file);
            let mut granted: Vec<(u64, Ask)> = Vec::new();
            for (hours, nanos, is_gauss) in asks {
                let ask = Ask { hours, nanos: if is_gauss { nanos / 40 + 1 } else { nanos }, is_gauss };
                let at = 20_000 * DAY_NS + ask.hours * HOUR;
                let e = Expense {
                    label: "q",
                    at_ns: at,
                    epsilon: (!is_gauss).then(|| Epsilon::from_nanos(ask.nanos).unwrap()),
                    rho: if is_gauss { rho(ask.nanos) } else { None },
                    ..Expense::default()
                };
                let sum = |end: u64, more: &[(u64, Ask)]| -> u64 {
                    granted.iter().chain(more)
                        .filter(|(t, a)| a.is_gauss == is_gauss && *t <= end && *t + DAY_NS > end)
                        .map(|(_, a)| a.nanos).sum()
                };
                let purse = if is_gauss { 24_400_000 } else { 1_000_000_000 };
                let new = [(at, ask)];
                let fits = (0..=84).all(|h| {
                    let end = 20_000 * DAY_NS + h * HOUR;
                    !(end >= at && end < at + DAY_NS) || sum(end, &new) <= purse
                });
                match pay(&mut ledger, &mut file, &e) {
                    Ok(_) => {
                        prop_assert!(fits);
                        granted.push((at, ask));
                    }
                    Err(Refused::Past) => (),
                    Err(_) => prop_assert!(!fits),
                }
            }
            prop_assert_eq!(open(&file).head(), ledger.head());
        }
    }
}
