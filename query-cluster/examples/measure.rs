//! The same question in process and over two workers of this machine: wall and CPU time, in turns.
//!
//! `cargo run --release --example measure -- target/release/query-cluster [FLOWS]` makes its own flows (2,000,000) in a folder of its own.

#[path = "../../query/tests/common/question.rs"]
mod question;

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use chaff_query::request::{Clamp, Filter, Matching, Measure, Name, Request, Statistic};
use chaff_query::source::Source;
use chaff_query::{Databases, Direction, Engine, Plain};
use chaff_query_cluster::link::Links;
use chaff_query_cluster::{Cluster, Limits};
use question::request;

const FILES: usize = 8;
const USERS: u64 = 5000;
const ROUNDS: usize = 5;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().ok_or("which query-cluster?")?;
    let flows = arguments.next().map_or(Ok(2_000_000), |n| n.parse())?;
    let folder = tempfile::tempdir()?;
    let parquet = folder.path().canonicalize()?.join("flows");
    let mut logs = Vec::new();
    for number in 0..FILES {
        let path = folder.path().join(format!("log{number}"));
        log(&path, flows / FILES, number as u64)?;
        logs.push(path);
    }
    chaff_query::import::import(&logs, None, &parquet, |_| {})?;
    let source = Source::open(std::slice::from_ref(&parquet), None)?;
    let (mut workers, mut urls) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (worker, url) = start(&program, &parquet)?;
        workers.push(worker);
        urls.push(url.parse()?);
    }
    let cluster = Cluster::new(urls, Links::new(None), Limits::default())?;
    println!(
        "{flows} flows in {FILES} files, {} bytes of Parquet",
        source.bytes
    );
    let own = std::process::id();
    for (name, request) in questions() {
        let none = Databases::default();
        let mut one = Vec::new();
        let mut two = Vec::new();
        for _ in 0..ROUNDS {
            let (start, cpu) = (Instant::now(), seconds(own)?);
            let want = Plain::default().table(&source, &request, &none)?;
            one.push((start.elapsed().as_secs_f64(), seconds(own)? - cpu));
            let all = || -> Outcome<f64> {
                let ids = workers.iter().map(|w| w.0.id()).chain([own]);
                ids.map(seconds).sum()
            };
            let (start, cpu) = (Instant::now(), all()?);
            let got = cluster.table(&source, &request, &none);
            let got = got.map_err(|_| cluster.last_failure().unwrap_or_default())?;
            two.push((start.elapsed().as_secs_f64(), all()? - cpu));
            if got != want {
                return Err("the tables differ".into());
            }
        }
        let (plain, clustered) = (median(one), median(two));
        println!(
            "{name}: in process {:.2} s wall, {:.2} s CPU; two workers {:.2} s, {:.2} s; ratio {:.1} wall, {:.1} CPU",
            plain.0,
            plain.1,
            clustered.0,
            clustered.1,
            clustered.0 / plain.0,
            clustered.1 / plain.1
        );
    }
    for (number, worker) in workers.iter().enumerate() {
        println!(
            "worker {number}: at most {} kB of memory",
            peak(worker.0.id())?
        );
    }
    Ok(())
}

fn questions() -> [(&'static str, Request); 2] {
    let filter = Filter {
        name: Some(Name {
            matching: Matching::Domain("name7.example".to_owned()),
            ignore_case: false,
        }),
        ..Filter::default()
    };
    let bounds = Clamp::Public(0.0, 1e6);
    let bytes = Measure::Bytes(Direction::Ingoing);
    let trips = Measure::Mean("c_rtt_avg".to_owned());
    [
        (
            "bytes by server name",
            Request {
                filter,
                statistic: Statistic::Sum { bounds },
                ..request(bytes)
            },
        ),
        (
            "mean round trip of each user",
            Request {
                statistic: Statistic::Mean { bounds },
                ..request(trips)
            },
        ),
    ]
}

fn start(program: &str, data: &Path) -> Outcome<(Worker, String)> {
    let mut child = Command::new(program)
        .args(["worker", "--bind", "127.0.0.1:0", "--data"])
        .arg(data)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let out = child.stdout.take().ok_or("no output")?;
    let worker = Worker(child);
    BufReader::new(out).read_line(&mut line)?;
    let address = line.trim().rsplit(' ').next().unwrap_or_default();
    Ok((worker, format!("http://{address}")))
}

fn log(path: &Path, flows: usize, seed: u64) -> Outcome<()> {
    let mut out = std::io::BufWriter::new(fs::File::create(path)?);
    writeln!(
        out,
        "#15#c_ip:1 s_ip:2 c_isint:3 s_isint:4 c_bytes_all:5 s_bytes_all:6 c_tls_SNI:7 c_rtt_avg:8"
    )?;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % n
    };
    for _ in 0..flows {
        let user = draw(USERS);
        writeln!(
            out,
            "10.0.{}.{} 198.18.{}.{} 1 0 {} {} name{}.example {}.{:06}",
            user / 256,
            user % 256,
            draw(16),
            draw(256),
            draw(10_000),
            draw(1_000_000),
            draw(200),
            draw(300),
            draw(1_000_000)
        )?;
    }
    Ok(out.flush()?)
}

/// CPU seconds of a process, of all its threads.
fn seconds(process: u32) -> Outcome<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after = text.rsplit(')').next().unwrap_or_default();
    let ticks = |index: usize| -> Outcome<f64> {
        Ok(after.split_whitespace().nth(index).ok_or("stat")?.parse()?)
    };
    // Fields 14 and 15, in hundredths on Linux.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

fn peak(process: u32) -> Outcome<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let number = line.and_then(|l| l.split_whitespace().next());
    Ok(number.ok_or("no VmHWM")?.parse()?)
}

/// Of each number alone.
fn median(rounds: Vec<(f64, f64)>) -> (f64, f64) {
    let middle = |mut numbers: Vec<f64>| {
        numbers.sort_by(f64::total_cmp);
        numbers[numbers.len() / 2]
    };
    let (wall, cpu) = rounds.into_iter().unzip();
    (middle(wall), middle(cpu))
}
