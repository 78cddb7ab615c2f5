//! Fits a flow table or a capture and writes as many draws: `fidelity IN OUT SEED sequence|marginal|keep|dp [EPSILON]`;
//! names that end in `.pcap` are captures.

#![allow(
    clippy::disallowed_methods,
    reason = "an example measures; the library has no clock"
)]

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::time::Instant;

use chaff_privacy::{Entropy, Epsilon, Ledger};
use chaff_synth::{
    Capture, Engine, Options, PcapOptions, PrivateOptions, TableMethod, Unit, fit, fit_capture,
    fit_capture_private, fit_private, read_capture, read_csv, write_csv, write_pcap,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, seed, how, rest @ ..] = args.as_slice() else {
        return Err("IN OUT SEED sequence|marginal|keep|dp [EPSILON]".into());
    };
    let seed: u64 = seed.parse()?;
    let file = BufReader::new(File::open(input)?);
    let capture = if input.ends_with(".pcap") {
        read_capture(file)?
    } else {
        Capture::of_table(read_csv(file, None)?)
    };
    let table = &capture.table;
    let start = Instant::now();
    let model = if how == "dp" {
        let epsilon: Epsilon = rest.first().map_or("2", String::as_str).parse()?;
        let mut ledger = Ledger::open(epsilon, 1e-5, &[])?;
        ledger.mark_stored();
        let grant = ledger.spend_approximate("example", epsilon, 1e-5)?.stored();
        let mut tables = grant.into_tables(1, Entropy::Seed(seed))?;
        let options = PrivateOptions {
            unit: Unit::Record,
            labels: table.label_column.is_some().then(|| table.labels.clone()),
            time_range_us: None,
            label_column: table.label_column.clone(),
        };
        let paid = (epsilon.value(), 1e-5);
        if table.capture {
            fit_capture_private(&capture, &options, &mut tables, None, paid)?
        } else {
            fit_private(table, &options, &mut tables, None, paid)?
        }
    } else {
        let method = if how == "marginal" {
            TableMethod::Marginal
        } else {
            TableMethod::Sequence
        };
        let options = Options {
            method,
            fresh_addresses: how != "keep",
            seed,
        };
        if table.capture {
            fit_capture(&capture, &options)?
        } else {
            fit(table, &options)?
        }
    };
    let fitted = start.elapsed();
    let drawn = model.sample(table.records.len(), seed)?;
    eprintln!("fit {:.2?}, draw {:.2?}", fitted, start.elapsed() - fitted);
    let out = BufWriter::new(File::create(output)?);
    if output.ends_with(".pcap") {
        let options = PcapOptions {
            seed,
            ..PcapOptions::default()
        };
        write_pcap(out, &drawn, Some(&model), &options)?;
    } else {
        write_csv(out, &drawn, true)?;
    }
    Ok(())
}
