//! A site: logs, their Parquet, ledgers, and worker processes.
#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod proxy;
#[path = "../../../query/tests/common/question.rs"]
mod question;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use chaff_privacy::{Budget, Day, Epsilon};
use chaff_query::ask::{AskError, Outcome, Question, ask};
use chaff_query::request::{Filter, Measure, Request, Statistic};
use chaff_query::source::Source;
use chaff_query::{Databases, Direction, Engine, purse, release};
use chaff_query_cluster::link::{Links, Tls};
use chaff_query_cluster::{Cluster, Limits};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_query-cluster");
/// Noise of all tests that compare answers.
const SEED: u64 = 20_261_121;

pub(crate) struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Parquet of logs, in a folder.
    pub(crate) fn import(&self, logs: &[PathBuf], name: &str) -> PathBuf {
        let folder = self.path(name);
        chaff_query::import::import(logs, None, &folder, |_| {}).unwrap();
        folder
    }

    /// A site with `flows` flows in some Parquet files; the logs stay beside them.
    pub(crate) fn with_flows(flows: usize) -> Self {
        let site = Self::new();
        let logs: Vec<PathBuf> = (0..4)
            .map(|n| site.write(&format!("logs/log {n}"), &tstat(flows / 4, n)))
            .collect();
        // Signs that a pattern of files would take for wildcards.
        site.import(&logs, "flows %20[*]");
        site
    }

    pub(crate) fn parquet(&self) -> PathBuf {
        self.path("flows %20[*]")
    }

    pub(crate) fn source(&self) -> Source {
        Source::open(&[self.parquet()], None).unwrap()
    }

    pub(crate) fn ledger(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        if !path.exists() {
            let day = Day {
                epsilon: Some(Epsilon::new(1000.0).unwrap()),
                rho: None,
            };
            purse::make(&path, Budget::daily(purse::UNIT, day, 1e-3)).unwrap();
        }
        path
    }

    /// Asks with noise from a seed; the ledger is made when it is not there.
    pub(crate) fn ask(
        &self,
        engine: &dyn Engine,
        source: &Source,
        request: &Request,
        databases: &Databases,
        ledger: &str,
    ) -> Result<Outcome, AskError> {
        let question = Question {
            request,
            source,
            databases,
        };
        let noise = release::Source::seeded(SEED);
        ask(engine, &question, &self.ledger(ledger), noise)
    }

    pub(crate) fn entries(&self, ledger: &str) -> usize {
        purse::entries(&self.path(ledger)).unwrap().len()
    }

    /// The program, asking about the flows.
    pub(crate) fn command(&self, workers: &[&str], data: &Path, ledger: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["query", "--workers", &workers.join(",")])
            .args([
                "volume-on-domain",
                "--domain",
                "video.example",
                "--epsilon",
                "0.5",
            ])
            .args(["--bounds", "0..1000000", "--json", "--prompt-time"])
            .arg("--data")
            .arg(data)
            .arg("--ledger")
            .arg(self.ledger(ledger))
            .stdin(Stdio::null());
        command
    }
}

/// A log of Tstat. The same number, the same log.
pub(crate) fn tstat(flows: usize, seed: u64) -> String {
    const NAMES: [&str; 9] = [
        "video.example",
        "cdn.video.example",
        "VIDEO.example",
        "a_b.example",
        "axb.example",
        "100%.example",
        "o'neil.example",
        "bücher.example",
        "-",
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % n
    };
    let mut text =
        "#15#c_ip:1 s_ip:2 c_isint:3 s_isint:4 c_bytes_all:5 s_bytes_all:6 c_tls_SNI:7 c_rtt_avg:8\n"
            .to_owned();
    for _ in 0..flows {
        let user = draw(60);
        let (user, server) = if user < 50 {
            (format!("10.0.0.{user}"), format!("198.18.{}.1", draw(4)))
        } else {
            let network = user % 5;
            (
                format!("2001:DB8:0:{network}::{user:x}"),
                format!("2001:db8:ff::{:x}", draw(4)),
            )
        };
        let inward = draw(5) == 0;
        let (client, server, label) = if inward {
            (&server, &user, "0 1")
        } else {
            (&user, &server, "1 0")
        };
        let (up, down) = (draw(1000), draw(100_000));
        let name = NAMES[draw(9) as usize];
        let rtt = match draw(20) {
            0 => "-".to_owned(),
            1 => "-0.0000005".to_owned(),
            n => format!("{}.{:06}", n * 3, draw(1_000_000)),
        };
        let _ = writeln!(text, "{client} {server} {label} {up} {down} {name} {rtt}");
    }
    text
}

pub(crate) fn request(filter: Filter, measure: Measure, statistic: Statistic) -> Request {
    Request {
        filter,
        statistic,
        ..question::request(measure)
    }
}

/// The sum of all bytes.
pub(crate) fn volume() -> Request {
    question::request(Measure::Bytes(Direction::Ingoing))
}

/// A worker process; ends with the test.
pub(crate) struct Worker {
    child: Child,
    pub(crate) url: String,
    pub(crate) port: u16,
}

impl Worker {
    pub(crate) fn start(data: &Path) -> Self {
        Self::with(data, &[])
    }

    pub(crate) fn with(data: &Path, options: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["worker", "--bind", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        let scheme = if options.is_empty() { "http" } else { "https" };
        Self {
            child,
            url: format!("{scheme}://{address}"),
            port,
        }
    }

    /// Two of them.
    pub(crate) fn pair(data: &Path) -> [Self; 2] {
        [Self::start(data), Self::start(data)]
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be stopped: SIGKILL ends it all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn cluster(workers: &[&str]) -> Cluster {
    over(workers, None, Limits::default())
}

pub(crate) fn over(workers: &[&str], tls: Option<Tls>, limits: Limits) -> Cluster {
    let workers = workers.iter().map(|w| w.parse().unwrap()).collect();
    Cluster::new(workers, Links::new(tls), limits).unwrap()
}

pub(crate) fn within(seconds: u64) -> Limits {
    Limits {
        deadline: Duration::from_secs(seconds),
        ..Limits::default()
    }
}

pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
