//! Workers and coordinators that end in the middle: what is paid, and what is answered.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use chaff_query::ask::AskError;
use chaff_query::{Databases, Engine, Plain};
use common::proxy::Proxy;
use common::{Site, Worker, cluster, over, said, volume, within};

fn send(signal: &str, process: u32) {
    let done = Command::new("kill")
        .args([signal, &process.to_string()])
        .status();
    assert!(done.unwrap().success());
}

/// An answer in time, right, and paid for once, although something happens to a worker while it has the plan.
fn survives(signal: &'static str, most: Duration) {
    let site = Site::with_flows(4000);
    let workers = Worker::pair(&site.parquet());
    let victim = workers[1].id();
    let proxy = Proxy::new(workers[1].port, move || send(signal, victim));
    let clustered = cluster(&[&workers[0].url, &proxy.url]);
    let (source, none) = (site.source(), Databases::default());
    let want = site
        .ask(&Plain::default(), &source, &volume(), &none, "one")
        .unwrap();
    let started = Instant::now();
    let got = site
        .ask(&clustered, &source, &volume(), &none, "two")
        .unwrap();
    assert!(proxy.happened());
    assert!(!got.engine_failed, "{:?}", clustered.last_failure());
    assert_eq!(got.answer, want.answer);
    assert!(
        clustered.last_failure().is_some(),
        "the first attempt failed"
    );
    assert_eq!(site.entries("two"), 1);
    // Far more than it takes, and what is promised.
    assert!(started.elapsed() < most, "{:?}", started.elapsed());
    println!("{signal}: answered after {:?}", started.elapsed());
    if signal != "-KILL" {
        return;
    }
    // The next question goes on without it.
    let next = site
        .ask(&clustered, &source, &volume(), &none, "three")
        .unwrap();
    assert_eq!(next.answer, want.answer);
}

#[test]
fn a_worker_killed_with_the_plan_is_done_without() {
    survives("-KILL", Duration::from_secs(30));
}

#[test]
fn a_worker_that_hangs_with_the_plan_is_done_without() {
    survives("-STOP", Duration::from_secs(30));
}

#[test]
fn all_workers_killed_before_a_question_cost_nothing() {
    let site = Site::with_flows(400);
    let mut workers = Worker::pair(&site.parquet());
    let clustered = cluster(&[&workers[0].url, &workers[1].url]);
    workers.iter_mut().for_each(Worker::kill);
    let (source, none) = (site.source(), Databases::default());
    let error = site
        .ask(&clustered, &source, &volume(), &none, "ledger")
        .unwrap_err();
    let says = error.to_string();
    assert!(matches!(error, AskError::Engine(_)), "{says}");
    assert!(
        says.contains("none can be reached") && says.contains(&workers[0].url),
        "{says}"
    );
    assert_eq!(site.entries("ledger"), 0);
    let urls = [workers[0].url.as_str(), workers[1].url.as_str()];
    let output = site
        .command(&urls, &site.parquet(), "ledger")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(
        said(&output).contains("none can be reached"),
        "{}",
        said(&output)
    );
    assert_eq!(site.entries("ledger"), 0);
}

#[test]
fn an_answer_given_before_needs_no_worker() {
    let site = Site::with_flows(400);
    let mut workers = Worker::pair(&site.parquet());
    let clustered = cluster(&[&workers[0].url, &workers[1].url]);
    let (source, none) = (site.source(), Databases::default());
    let first = site
        .ask(&clustered, &source, &volume(), &none, "ledger")
        .unwrap();
    workers.iter_mut().for_each(Worker::kill);
    let again = site
        .ask(&clustered, &source, &volume(), &none, "ledger")
        .unwrap();
    assert!(again.answer.cached);
    assert_eq!(again.answer.value, first.answer.value);
    assert_eq!(site.entries("ledger"), 1);
}

#[test]
fn all_workers_killed_with_the_plan_are_as_no_flows_and_paid_once() {
    let site = Site::with_flows(4000);
    let workers = Worker::pair(&site.parquet());
    let ids = [workers[0].id(), workers[1].id()];
    let both = move || ids.iter().for_each(|id| send("-KILL", *id));
    let first = Proxy::new(workers[0].port, both);
    let clustered = cluster(&[&first.url, &workers[1].url]);
    let (source, none) = (site.source(), Databases::default());
    let outcome = site
        .ask(&clustered, &source, &volume(), &none, "ledger")
        .unwrap();
    assert!(first.happened());
    assert!(outcome.engine_failed, "{:?}", outcome.answer);
    assert!(
        clustered
            .last_failure()
            .unwrap()
            .contains("no worker is left")
    );
    assert_eq!(site.entries("ledger"), 1);
    // Noise around 0: its scale is 10^9 a unit, and the same seed's noise is known.
    let empty = site.write("empty.log", &common::tstat(0, 0));
    let empty = chaff_query::source::Source::open(&[empty], None).unwrap();
    let noise = site
        .ask(&Plain::default(), &empty, &volume(), &none, "empty")
        .unwrap();
    assert_eq!(outcome.answer.value, noise.answer.value);
}

#[test]
fn a_deadline_ends_a_question() {
    let site = Site::with_flows(400);
    let worker = Worker::start(&site.parquet());
    let victim = worker.id();
    let proxy = Proxy::new(worker.port, move || send("-STOP", victim));
    let clustered = over(&[&proxy.url], None, within(1));
    let (source, none) = (site.source(), Databases::default());
    let started = Instant::now();
    let outcome = site
        .ask(&clustered, &source, &volume(), &none, "ledger")
        .unwrap();
    assert!(proxy.happened());
    assert!(outcome.engine_failed, "{:?}", outcome.answer);
    assert!(
        clustered
            .last_failure()
            .unwrap()
            .contains("no answer within")
    );
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(site.entries("ledger"), 1);
}

#[test]
fn a_coordinator_killed_after_paying_wastes_budget_and_nothing_else() {
    let site = Site::with_flows(4000);
    let workers = Worker::pair(&site.parquet());
    let (there, wait) = mpsc::channel();
    let (go, hold) = mpsc::channel::<()>();
    let proxy = Proxy::new(workers[1].port, move || {
        there.send(()).unwrap();
        // The plan is held back until the coordinator is gone.
        let _ = hold.recv_timeout(Duration::from_secs(60));
    });
    let urls = [workers[0].url.as_str(), proxy.url.as_str()];
    let mut coordinator = site
        .command(&urls, &site.parquet(), "ledger")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait.recv_timeout(Duration::from_secs(60)).unwrap();
    coordinator.kill().unwrap();
    coordinator.wait().unwrap();
    go.send(()).unwrap();
    assert_eq!(site.entries("ledger"), 1, "paid before the workers began");
    let ask = || {
        site.command(&urls, &site.parquet(), "ledger")
            .output()
            .unwrap()
    };
    let output = ask();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        site.entries("ledger"),
        2,
        "as with query: an answer that nobody has is asked anew"
    );
    let again = ask();
    assert!(said(&again).contains("\"cached\":true"), "{}", said(&again));
    assert_eq!(site.entries("ledger"), 2);
}

#[test]
fn what_the_engine_says_of_broken_files_stays_with_the_owner() {
    let site = Site::with_flows(4000);
    let file = fs::read_dir(site.parquet())
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "parquet"))
        .unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let pages = bytes.len() / 2;
    bytes[4..pages].fill(0xaa);
    fs::write(&file, bytes).unwrap();
    let workers = Worker::pair(&site.parquet());
    let urls = [workers[0].url.as_str(), workers[1].url.as_str()];
    let output = site
        .command(&urls, &site.parquet(), "ledger")
        .arg("--owner-log")
        .arg(site.path("owner.log"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer["value"].is_i64(), "{answer}");
    assert_eq!(site.entries("ledger"), 1);
    let log = fs::read_to_string(site.path("owner.log")).unwrap();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.starts_with("the query engine failed; ") && log.len() > 100,
        "{log}"
    );
}

#[test]
fn two_questions_at_once_are_both_right() {
    let site = Site::with_flows(4000);
    let workers = Worker::pair(&site.parquet());
    let want = Plain::default()
        .table(&site.source(), &volume(), &Databases::default())
        .unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let clustered = cluster(&[&workers[0].url, &workers[1].url]);
                let got = clustered.table(&site.source(), &volume(), &Databases::default());
                assert_eq!(got.unwrap(), want);
            });
        }
    });
}
