//! The ledger file under crashes and races: what was answered never exceeds what it holds.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use chaff_ledger::{LedgerFile, LedgerFileError};
use chaff_privacy::{Budget, DAY_NS, Day, Epsilon, Expense, LedgerError, Refused};
use chaff_test_support::folder_in_memory;

/// Set in child processes: the ledger they spend from.
const LEDGER: &str = "CHAFF_TEST_LEDGER";
/// What one answer costs, billionths; the purse holds ten.
const ANSWER: u64 = 100_000_000;
const PURSE: u64 = 10;

fn budget() -> Budget {
    let day = Day {
        epsilon: Some(Epsilon::ONE),
        rho: None,
    };
    Budget::daily("one UTC day of one device", day, 0.0)
}

fn open(path: &Path) -> Result<LedgerFile, LedgerFileError> {
    LedgerFile::open_shared(path, budget())
}

fn answer(ledger: &mut LedgerFile, at_ns: u64) -> Result<u64, LedgerFileError> {
    let expense = Expense {
        label: "an answer",
        at_ns,
        epsilon: Some(Epsilon::from_nanos(ANSWER).expect("in range")),
        ..Expense::default()
    };
    Ok(ledger.charge(&expense)?.entry())
}

/// Answers until the purse is empty; gives how many.
fn drain(path: &Path, at_ns: u64) -> u64 {
    let mut ledger = open(path).expect("a crash leaves a ledger that opens");
    let mut answers = 0;
    loop {
        match answer(&mut ledger, at_ns) {
            Ok(_) => answers += 1,
            Err(LedgerFileError::Refused(Refused::OverDay { .. })) => return answers,
            Err(e) => panic!("{e}"),
        }
    }
}

/// Every state of both files that a crash at any byte of any write can leave: the entry appended byte by byte, then the head's
/// slot written byte by byte. More than 1,000 of them; after each the purse holds no more than it should.
#[test]
fn a_crash_at_any_byte_of_any_write_never_over_spends() {
    let dir = folder_in_memory();
    let path = dir.path().join("ledger.jsonl");
    let head = dir.path().join("ledger.jsonl.head");
    let at = 20_000 * DAY_NS;
    let mut ledger = open(&path).expect("a new ledger");
    let mut points = 0;
    let mut over = 0;
    let mut check = |answered: u64, ledger_bytes: &[u8], head_bytes: &[u8]| {
        let dir = folder_in_memory();
        let path = dir.path().join("ledger.jsonl");
        for (path, bytes) in [
            (&path, ledger_bytes),
            (&dir.path().join("ledger.jsonl.head"), head_bytes),
        ] {
            private(path, bytes);
        }
        points += 1;
        over += u32::from(answered + drain(&path, at) > PURSE);
    };
    for answered in 0..PURSE {
        let before = (
            fs::read(&path).expect("reads"),
            fs::read(&head).expect("reads"),
        );
        answer(&mut ledger, at).expect("there is budget");
        let after = (
            fs::read(&path).expect("reads"),
            fs::read(&head).expect("reads"),
        );
        assert!(after.0.starts_with(&before.0));
        for cut in before.0.len()..=after.0.len() {
            check(answered, &after.0[..cut], &before.1);
        }
        // The head's new slot replaces an older one from its beginning on.
        let first = (0..after.1.len()).find(|i| before.1.get(*i) != after.1.get(*i));
        let first = first.expect("the head moved");
        for cut in first..=after.1.len() {
            let mut torn = before.1.clone();
            torn.resize(torn.len().max(cut), 0);
            torn[first..cut].copy_from_slice(&after.1[first..cut]);
            check(answered, &after.0, &torn);
        }
    }
    assert!(points >= 1_000, "{points}");
    assert_eq!(over, 0, "of {points}");
    println!("{points} kill points, {over} over-spends");
}

fn private(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).expect("creates");
    file.write_all(bytes).expect("writes");
}

/// Not a test of its own: what the children of the tests below run. Says each answer once it may be given.
#[test]
fn child() {
    let Some(path) = std::env::var_os(LEDGER) else {
        return;
    };
    let mut ledger = open(Path::new(&path)).expect("opens");
    let mut out = std::io::stdout().lock();
    for window in 0u64.. {
        // Every ten answers a day further, so that there is always something to answer.
        let at = (20_000 + ledger.ledger().head().entry / PURSE) * DAY_NS;
        match answer(&mut ledger, at) {
            Ok(entry) => {
                // A parent that is gone ends it.
                if writeln!(out, "answer {entry} {at}")
                    .and_then(|()| out.flush())
                    .is_err()
                {
                    return;
                }
            }
            Err(LedgerFileError::Refused(_)) if window < 100_000 => (),
            Err(e) => panic!("{e}"),
        }
    }
}

fn spawn(path: &Path) -> Child {
    let test = std::env::current_exe().expect("this program");
    Command::new(test)
        .args(["--exact", "child", "--nocapture"])
        .env(LEDGER, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

/// The answer that a line of a child tells: entry and time.
fn told(line: &str) -> Option<(u64, u64)> {
    // The harness may have written something before it on the first line.
    let (_, rest) = line.split_once("answer ")?;
    let (entry, at) = rest.split_once(' ')?;
    Some((entry.parse().ok()?, at.trim().parse().ok()?))
}

/// Each entry pays for one answer, and no 24 hours (whole days here) hold more answers than the purse.
fn check_told(told: &[(u64, u64)], path: &Path) {
    let mut entries: Vec<u64> = told.iter().map(|(entry, _)| *entry).collect();
    entries.sort_unstable();
    assert!(
        entries.windows(2).all(|w| w[0] != w[1]),
        "an entry paid twice"
    );
    let mut days = std::collections::BTreeMap::<u64, u64>::new();
    for (_, at) in told {
        *days.entry(*at).or_default() += 1;
    }
    assert!(days.values().all(|n| *n <= PURSE), "{days:?}");
    let ledger = open(path).expect("opens");
    assert!(ledger.ledger().head().entry >= entries.last().copied().unwrap_or(0));
}

#[test]
fn a_killed_process_leaves_a_ledger_that_has_paid_for_every_answer() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ledger.jsonl");
    let mut answers = Vec::new();
    // Killed after a different number of answers each time, at whatever it does then.
    for round in 0..40u64 {
        let mut child = spawn(&path);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut seen = 0;
        while seen < 1 + round % 7 {
            let line = lines.next().expect("it goes on").expect("reads");
            if let Some(answer) = told(&line) {
                answers.push(answer);
                seen += 1;
            }
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("ends");
        // What was said before the kill and not read yet.
        answers.extend(lines.map_while(Result::ok).filter_map(|line| told(&line)));
    }
    assert!(answers.len() >= 40);
    check_told(&answers, &path);
}

#[test]
fn processes_that_race_share_one_purse() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ledger.jsonl");
    let mut children: Vec<Child> = (0..3).map(|_| spawn(&path)).collect();
    let readers: Vec<_> = children
        .iter_mut()
        .map(|child| {
            let out = BufReader::new(child.stdout.take().expect("piped"));
            std::thread::spawn(move || {
                out.lines()
                    .map_while(Result::ok)
                    .filter_map(|line| told(&line))
                    .take(60)
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let each: Vec<_> = readers
        .into_iter()
        .map(|r| r.join().expect("reads"))
        .collect();
    for child in &mut children {
        child.kill().expect("SIGKILL");
        child.wait().expect("ends");
    }
    assert!(each.iter().all(|a| a.len() == 60));
    check_told(&each.concat(), &path);
}

#[test]
fn two_open_at_once_see_what_the_other_spent() {
    let dir = folder_in_memory();
    let path = dir.path().join("ledger.jsonl");
    let (mut a, mut b) = (open(&path).expect("opens"), open(&path).expect("opens"));
    let at = 20_000 * DAY_NS;
    for _ in 0..PURSE / 2 {
        answer(&mut a, at).expect("there is budget");
        answer(&mut b, at).expect("there is budget");
    }
    for ledger in [&mut a, &mut b] {
        let refused = answer(ledger, at)
            .expect_err("the purse is empty")
            .to_string();
        assert_eq!(
            refused,
            "privacy budget of any 24 hours: asked for epsilon 0.1, left 0 of 1"
        );
    }
    a.refresh().expect("reads");
    assert_eq!(a.ledger().head(), b.ledger().head());
}

#[test]
fn a_ledger_that_is_changed_cut_put_back_or_replaced_while_open_is_refused() {
    let at = 20_000 * DAY_NS;
    /// What happens to a ledger: its path, what was in it before the last expense, what is in it now.
    type Change<'a> = &'a dyn Fn(&Path, &[u8], &[u8]);
    let refused = |change: Change<'_>| {
        let dir = folder_in_memory();
        let path = dir.path().join("ledger.jsonl");
        let mut ledger = open(&path).expect("opens");
        answer(&mut ledger, at).expect("there is budget");
        let old = fs::read(&path).expect("reads");
        answer(&mut ledger, at).expect("there is budget");
        let new = fs::read(&path).expect("reads");
        change(&path, &old, &new);
        let e = answer(&mut ledger, at).expect_err("refused").to_string();
        // So is whoever opens it then, but for a file that is a whole ledger of its own.
        (e, open(&path).map(|_| ()).map_err(|e| e.to_string()))
    };
    let (e, again) = refused(&|path, old, _| fs::write(path, old).expect("writes"));
    assert!(e.contains("it was cut or put back from a backup"), "{e}");
    assert!(again.expect_err("refused").contains("entry 2 was stored"));

    let (e, again) = refused(&|path, _, new| {
        let mut more = new.to_vec();
        more.extend_from_slice(b"{\"entry\":3}\n");
        fs::write(path, more).expect("writes");
    });
    assert!(
        e.contains("ledger.jsonl: line 4 is not a ledger line"),
        "{e}"
    );
    assert!(again.is_err());

    let (e, _) = refused(&|path, _, new| {
        fs::remove_file(path).expect("removes");
        private(path, new);
    });
    assert!(e.contains("replaced by another one"), "{e}");

    let (e, again) = refused(&|path, _, _| fs::remove_file(path).expect("removes"));
    assert!(e.contains("replaced by another one"), "{e}");
    assert!(
        again
            .expect_err("refused")
            .contains("put back from a backup")
    );

    // Changed where it was read already: found when it is opened next.
    let dir = folder_in_memory();
    let path = dir.path().join("ledger.jsonl");
    let mut ledger = open(&path).expect("opens");
    answer(&mut ledger, at).expect("there is budget");
    let text = fs::read_to_string(&path).expect("reads");
    fs::write(&path, text.replace("\"epsilon\":0.1", "\"epsilon\":0.0")).expect("writes");
    match open(&path) {
        Err(LedgerFileError::Ledger {
            source: LedgerError::Chain { line: 2 },
            ..
        }) => (),
        other => panic!("{other:?}"),
    }
}
