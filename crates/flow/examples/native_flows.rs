//! Captures to native flows: `native_flows [OPTION=VALUE]... CAPTURE...`, CSV of the core fields to standard output.
//!
//! Options: statistics and vlan_key (0 or 1), splt, dissect, max; `bench=N` meters the captures, held in memory, N times and prints the
//! ns that a packet takes at best, so that two builds can be run in turn and compared.

use std::fs::{self, File};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use chaff_abi::Nanos;
use chaff_flow::{Link, Parser, ParserConfig, Record, Table, TableConfig};
use chaff_trace::Reader;

type Failure = Box<dyn std::error::Error>;

/// Time, link, captured bytes, length on the wire.
type Frame = (Nanos, Link, Vec<u8>, usize);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn run() -> Result<(), Failure> {
    let mut config = TableConfig::default();
    let mut frames: Vec<Frame> = Vec::new();
    let mut rounds = 0u32;
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("statistics", value)) => config.statistics = value == "1",
            Some(("splt", value)) => config.splt = value.parse()?,
            Some(("dissect", value)) => config.dissect = value.parse()?,
            Some(("max", value)) => config.max_flows = value.parse()?,
            Some(("vlan_key", value)) => config.vlan_key = value == "1",
            Some(("bench", value)) => rounds = value.parse()?,
            Some((name, _)) if fs::metadata(&argument).is_err() => {
                return Err(format!("no option is called {name}").into());
            }
            _ => read(&argument, &mut frames)?,
        }
    }
    if rounds == 0 {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", Record::csv_header())?;
        let mut failed = Ok(());
        let table = meter(&config, &frames, |record| {
            if failed.is_ok() {
                failed = record.write_csv(&mut out);
            }
        });
        failed?;
        eprintln!("{:?}", table.stats());
        return Ok(());
    }
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        let mut records = 0u64;
        meter(&config, &frames, |_| records += 1);
        std::hint::black_box(records);
        best = best.min(start.elapsed().as_nanos() as f64 / frames.len().max(1) as f64);
    }
    println!("{best:.1}");
    Ok(())
}

fn read(path: &str, frames: &mut Vec<Frame>) -> Result<(), Failure> {
    let mut reader = Reader::new(File::open(path)?)?;
    loop {
        match reader.next_borrowed() {
            Ok(Some((frame, bytes))) => {
                frames.push((frame.at, frame.link, bytes.to_vec(), frame.wire_len));
            }
            Ok(None) => return Ok(()),
            // What was read before it counts.
            Err(error) => {
                eprintln!("note: {path}: {error}");
                return Ok(());
            }
        }
    }
}

fn meter(config: &TableConfig, frames: &[Frame], mut each: impl FnMut(Record)) -> Table {
    let mut parser = Parser::new(ParserConfig::default());
    let mut table = Table::new(config.clone());
    let mut last = Nanos::ZERO;
    for (at, link, bytes, wire_len) in frames {
        if let Ok(packet) = parser.parse(*at, *link, bytes, *wire_len) {
            table.observe(*at, None, &packet);
        }
        last = *at;
        while let Some(record) = table.poll_record() {
            each(record);
        }
    }
    table.finish(last);
    while let Some(record) = table.poll_record() {
        each(record);
    }
    table
}
