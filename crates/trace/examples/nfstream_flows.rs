//! Captures to flows with NFStream's columns: `nfstream_flows [OPTION=VALUE]... CAPTURE...`, CSV to standard output.
//!
//! Options: accounting, idle, active, statistics (0 or 1), splt, tunnels (0 or 1), dissect, max, plugin, quiet (1: count only).

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use chaff_flow::nfstream::{Config, Meter, write_csv_header, write_csv_row};
use chaff_flow::plugin::Extension;
use chaff_trace::Reader;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let mut config = Config::default();
    let mut plugins: Vec<Extension> = Vec::new();
    let mut captures = Vec::new();
    let mut quiet = false;
    for argument in std::env::args().skip(1) {
        let Some((name, value)) = argument.split_once('=') else {
            captures.push(argument);
            continue;
        };
        match name {
            "accounting" => config.accounting = value.parse()?,
            "idle" => config.idle_timeout_s = value.parse()?,
            "active" => config.active_timeout_s = value.parse()?,
            "statistics" => config.statistics = value == "1",
            "splt" => config.splt = value.parse()?,
            "tunnels" => config.decode_tunnels = value == "1",
            "dissect" => config.dissect = value.parse()?,
            "max" => config.max_flows = value.parse()?,
            "plugin" => plugins.push(Extension::built_in(value)?),
            "quiet" => quiet = value == "1",
            _ => return Err(format!("no option is called {name}").into()),
        }
    }
    let mut meter = Meter::new(config);
    for plugin in plugins {
        meter.add_plugin(plugin);
    }
    let mut output = Output::new(quiet);
    if !quiet {
        write_csv_header(&mut output.text, &meter.columns(), "\n");
    }
    for capture in &captures {
        let mut reader = Reader::new(File::open(capture)?)?;
        while !meter.is_done() {
            match reader.next_borrowed() {
                Ok(Some((frame, bytes))) => {
                    let bytes = bytes.get(..frame.libpcap_len).unwrap_or(bytes);
                    // What is left out is counted by the meter.
                    let _ = meter.observe(frame.link, frame.millis, bytes, frame.wire_len);
                    output.drain(&mut meter)?;
                }
                Ok(None) => break,
                // What was read before it counts.
                Err(error) => {
                    eprintln!("note: {capture}: {error}");
                    break;
                }
            }
        }
    }
    meter.finish();
    output.drain(&mut meter)?;
    io::stdout().write_all(&output.text)?;
    if quiet {
        eprintln!("{:?}", meter.stats());
    }
    Ok(())
}

struct Output {
    quiet: bool,
    row: Vec<chaff_flow::Value>,
    text: Vec<u8>,
}

impl Output {
    fn new(quiet: bool) -> Self {
        Self {
            quiet,
            row: Vec::new(),
            text: Vec::new(),
        }
    }

    fn drain(&mut self, meter: &mut Meter) -> io::Result<()> {
        while let Some(flow) = meter.poll() {
            if self.quiet {
                continue;
            }
            self.row.clear();
            flow.values(meter.config(), &mut self.row);
            write_csv_row(&mut self.text, &self.row, "\n");
            if self.text.len() > 1 << 16 {
                io::stdout().write_all(&self.text)?;
                self.text.clear();
            }
        }
        Ok(())
    }
}
