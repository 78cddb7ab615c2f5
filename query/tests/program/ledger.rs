//! The ledger through the program: purses of 24 hours, processes that race, and ledgers that are refused.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Flow, Site, text, tstat};
use chaff_ledger::LedgerFile;
use chaff_privacy::{Budget, DAY_NS, Day, Epsilon, Expense, Rho};
use chaff_query::purse::{UNIT, now_ns};
use serde_json::Value;

fn site(budget: &str) -> Site {
    Site::new(&tstat(&[Flow::default()]), budget)
}

fn question(epsilon: &str) -> [&str; 3] {
    ["user-count", "--epsilon", epsilon]
}

fn shown(site: &Site) -> Value {
    let output = site.query(&["ledger", "--ledger", "LEDGER", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn processes_that_race_never_exceed_a_purse() {
    let site = site("1");
    let mut racing = Vec::new();
    for n in 0..10 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_query"));
        command
            .current_dir(site.dir.path())
            .args(["volume-on-ip", "--ip", &format!("198.18.0.{n}")])
            .args(["--bounds", "0..10", "--epsilon", "0.3", "--data", "log"])
            .args(["--ledger", "ledger", "--prompt-time", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        racing.push(command.spawn().expect("starts"));
    }
    let ended: Vec<_> = racing
        .into_iter()
        .map(|child| child.wait_with_output().expect("ends"))
        .collect();
    let answered = ended.iter().filter(|o| o.status.success()).count();
    assert_eq!(answered, 3);
    for output in ended.iter().filter(|o| !o.status.success()) {
        assert_eq!(output.status.code(), Some(2));
        let said = text(&output.stderr);
        assert!(
            said.contains("any 24 hours: asked for epsilon 0.3, left 0.1 of 1"),
            "{said}"
        );
        assert!(output.stdout.is_empty());
    }
    assert!((site.spent() - 0.9).abs() < 1e-9);
}

/// A ledger with one expense that many nanoseconds ago.
fn paid_ago(site: &Site, ago: u64) {
    for name in ["ledger", "ledger.head"] {
        std::fs::remove_file(site.path(name)).expect("removes");
    }
    let epsilon = Some(Epsilon::new(1.0).expect("an epsilon"));
    let budget = Budget::daily(UNIT, Day { epsilon, rho: None }, 0.0);
    let mut ledger = LedgerFile::open_shared(&site.path("ledger"), budget).expect("opens");
    let expense = Expense {
        label: "before",
        at_ns: now_ns() - ago,
        epsilon,
        ..Expense::default()
    };
    let _ = ledger.charge(&expense).expect("there is budget");
}

#[test]
fn what_was_spent_counts_for_24_hours() {
    const MINUTE: u64 = 60_000_000_000;
    let site = site("1");
    paid_ago(&site, DAY_NS - 5 * MINUTE);
    let said = site.refused(&question("0.1"));
    assert!(
        said.contains("any 24 hours: asked for epsilon 0.1, left 0 of 1"),
        "{said}"
    );
    let ledger = shown(&site);
    assert_eq!(
        (&ledger["left"], &ledger["questions_left"]),
        (&0.0.into(), &0.into())
    );
    let free_in = ledger["next_free_ns"].as_u64().expect("a time") - now_ns();
    assert!(free_in <= 5 * MINUTE, "{free_in}");
    assert_eq!(ledger["next_free"], 1.0);
    paid_ago(&site, DAY_NS + MINUTE);
    site.ask(&question("0.7"));
    let ledger = shown(&site);
    assert_eq!(
        (
            ledger["spent"].as_f64(),
            ledger["purses"][0]["spent"].as_f64()
        ),
        (Some(1.7), Some(0.7))
    );
    assert!((ledger["left"].as_f64().expect("a number") - 0.3).abs() < 1e-9);
}

#[test]
fn a_total_holds_for_ever() {
    let site = site("1");
    let make = |name: &str, more: &[&str]| {
        let mut all = vec!["ledger", "--ledger", name, "--budget", "1"];
        all.extend(more);
        site.query(&all)
    };
    let low = make("capped", &["--total", "0.5"]);
    assert!(
        text(&low.stderr).contains("--total"),
        "{}",
        text(&low.stderr)
    );
    assert!(make("capped", &["--total", "1.5"]).status.success());
    let again = make("capped", &[]);
    assert!(
        text(&again.stderr).contains("there already"),
        "{}",
        text(&again.stderr)
    );
    let shown = site.query(&["ledger", "--ledger", "capped"]);
    assert!(
        text(&shown.stdout).contains("at most 1.5 for ever"),
        "{}",
        text(&shown.stdout)
    );
    // Delta is a purse too.
    assert!(make("both", &["--delta", "1e-6"]).status.success());
    let shown = site.query(&["ledger", "--ledger", "both"]);
    let said = text(&shown.stdout);
    for line in ["epsilon  0 of 1 spent", "delta  0 of 1e-6 spent, 1e-6 left"] {
        assert!(said.contains(line), "{said}");
    }
    let ask = |delta: &str| {
        site.query(&[
            "top-domains",
            "--epsilon",
            "0.1",
            "--delta",
            delta,
            "--data",
            "LOG",
            "--ledger",
            "both",
            "--prompt-time",
        ])
    };
    assert!(ask("7e-7").status.success());
    let said = text(&ask("4e-7").stderr);
    assert!(
        said.contains("asked for delta 0.0000004, left 0.0000003 of 0.000001"),
        "{said}"
    );
}

#[test]
fn ledgers_that_were_changed_cut_or_put_back_answer_nothing() {
    type Change = fn(&Path, &[u8], &str);
    let changes: [(Change, &str); 6] = [
        (
            |path, _, now| write(path, &now.replacen("0.25", "0.05", 1)),
            "line 2 does not follow from the line before it",
        ),
        (
            |path, _, now| {
                let lines: Vec<&str> = now.lines().collect();
                write(path, &format!("{}\n{}\n", lines[0], lines[2]));
            },
            "line 2",
        ),
        (
            |path, before, _| std::fs::write(path, before).expect("writes"),
            "entry 2 was stored but is not in the ledger",
        ),
        (
            |path, _, _| write(path, ""),
            "line 1 is not a ledger line: it is not whole",
        ),
        (
            |path, _, _| std::fs::remove_file(path).expect("removes"),
            "no such ledger",
        ),
        (
            |path, _, _| std::fs::remove_file(path.with_extension("head")).expect("removes"),
            "ledger.head: missing or damaged",
        ),
    ];
    for (change, says) in changes {
        let site = site("1");
        site.ask(&question("0.25"));
        let before = std::fs::read(site.path("ledger")).expect("reads");
        site.ask(&question("0.125"));
        let now = std::fs::read_to_string(site.path("ledger")).expect("reads");
        change(&site.path("ledger"), &before, &now);
        // Not even what was answered before, nor a look at it.
        for epsilon in ["0.5", "0.25"] {
            let said = site.refused(&question(epsilon));
            assert!(said.contains(says), "{says}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
        let look = site.query(&["ledger", "--ledger", "LEDGER"]);
        assert!(text(&look.stderr).contains(says), "{}", text(&look.stderr));
    }
}

fn write(path: &Path, content: &str) {
    std::fs::write(path, content).expect("writes");
}

#[test]
fn a_ledger_that_was_deleted_is_not_made_anew_unnoticed() {
    let site = site("1");
    site.ask(&question("0.5"));
    std::fs::remove_file(site.path("ledger")).expect("removes");
    let made = site.query(&[
        "ledger", "--ledger", "LEDGER", "--budget", "1", "--delta", "1e-6",
    ]);
    assert!(
        text(&made.stderr).contains("put back from a backup"),
        "{}",
        text(&made.stderr)
    );
}

#[test]
fn a_ledger_of_version_1_is_told_apart() {
    let site = site("1");
    let path = site.path("old");
    drop(LedgerFile::open(&path, Epsilon::new(1.0).expect("an epsilon"), 0.0).expect("opens"));
    let output = site.query(&[
        "user-count",
        "--epsilon",
        "1",
        "--data",
        "LOG",
        "--ledger",
        "old",
    ]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said.contains("version 1") && said.contains("query ledger --ledger FILE --budget"),
        "{said}"
    );
}

#[test]
fn a_ledger_of_a_gateway_pays_too() {
    let site = site("1");
    let path = site.path("shared");
    let day = Day {
        epsilon: Some(Epsilon::new(1.0).expect("an epsilon")),
        rho: Some(Rho::at_most(0.02).expect("a rho")),
    };
    let mut gateway =
        LedgerFile::open_shared(&path, Budget::daily("one UTC day of one device", day, 1e-6))
            .expect("opens");
    let ask = || {
        site.query(&[
            "user-count",
            "--epsilon",
            "0.6",
            "--data",
            "LOG",
            "--ledger",
            "shared",
            "--prompt-time",
        ])
    };
    let answered = ask();
    assert!(answered.status.success());
    let said = text(&answered.stderr);
    assert!(
        said.contains("one UTC day of one device") && said.contains("--unit mac"),
        "{said}"
    );
    let expense = Expense {
        label: "telemetry",
        at_ns: now_ns(),
        epsilon: Some(Epsilon::new(0.5).expect("an epsilon")),
        ..Expense::default()
    };
    assert!(gateway.charge(&expense).is_err());
    let shown = site.query(&["ledger", "--ledger", "shared"]);
    assert!(
        text(&shown.stdout).contains("rho  0 of 0.02 spent, 0.02 left"),
        "{}",
        text(&shown.stdout)
    );
}
