//! A site: a folder with a log and a ledger, and the program.

pub(crate) mod question;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
}

/// One flow of a made log.
#[derive(Clone, Copy)]
pub(crate) struct Flow<'a> {
    pub(crate) user: &'a str,
    pub(crate) server: &'a str,
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) name: &'a str,
    pub(crate) rtt: f64,
}

impl Default for Flow<'_> {
    fn default() -> Self {
        Self {
            user: "10.0.0.1",
            server: "198.18.0.1",
            up: 10,
            down: 100,
            name: "video.example",
            rtt: 20.0,
        }
    }
}

/// A log of Tstat with these flows, all outgoing.
pub(crate) fn tstat(flows: &[Flow<'_>]) -> String {
    let mut text =
        "#15#c_ip:1 s_ip:2 c_isint:3 s_isint:4 c_bytes_all:5 s_bytes_all:6 c_tls_SNI:7 c_rtt_avg:8\n"
            .to_owned();
    for f in flows {
        let _ = writeln!(
            text,
            "{} {} 1 0 {} {} {} {}",
            f.user, f.server, f.up, f.down, f.name, f.rtt
        );
    }
    text
}

impl Site {
    /// With a ledger of this total.
    pub(crate) fn new(log: &str, budget: &str) -> Self {
        let site = Self {
            dir: tempfile::tempdir().expect("a folder"),
        };
        site.write(log);
        let made = site.query(&[
            "ledger", "--ledger", "LEDGER", "--budget", budget, "--delta", "1e-6",
        ]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        site
    }

    pub(crate) fn write(&self, log: &str) {
        std::fs::write(self.path("log"), log).expect("a log");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program; LEDGER and LOG stand for the site's.
    pub(crate) fn query(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_query"));
        for argument in arguments {
            match *argument {
                "LEDGER" => command.arg(self.path("ledger")),
                "LOG" => command.arg(self.path("log")),
                other => command.arg(other),
            };
        }
        command
            .current_dir(self.dir.path())
            .output()
            .expect("the program runs")
    }

    /// Asks about the site's log; the question ends with its own options.
    pub(crate) fn output(&self, question: &[&str]) -> Output {
        let mut all = question.to_vec();
        all.extend([
            "--data",
            "LOG",
            "--ledger",
            "LEDGER",
            "--prompt-time",
            "--json",
        ]);
        self.query(&all)
    }

    pub(crate) fn ask(&self, question: &[&str]) -> Value {
        let output = self.output(question);
        assert!(
            output.status.success(),
            "{question:?}: {}",
            text(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What the program says when it refuses.
    pub(crate) fn refused(&self, question: &[&str]) -> String {
        let output = self.output(question);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
        text(&output.stderr)
    }

    pub(crate) fn spent(&self) -> f64 {
        let shown = self.query(&["ledger", "--ledger", "LEDGER", "--json"]);
        let value: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        value["spent"].as_f64().expect("a number")
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
