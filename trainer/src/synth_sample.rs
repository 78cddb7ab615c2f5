//! The command `trainer synth sample`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_export::{Csv, Dialect, Output, Parquet, ParquetOptions, Target, WholeFile};
use chaff_synth::{MAX_RECORDS, Names, PcapOptions, Table, write_csv, write_pcap};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::synth_command::{beside, write_text};
use crate::synth_input::read_engine;

/// `trainer synth sample`.
#[derive(Args)]
pub struct Sample {
    /// Model of `trainer synth fit`.
    model: PathBuf,
    /// How many records, exactly; default: as many as were learned from (noisy with privacy).
    #[arg(long)]
    records: Option<usize>,
    /// Seed.
    #[arg(long)]
    seed: u64,
    /// Where they go; `-` is standard output. Beside a file, FILE.json says what it was drawn from.
    #[arg(long, short)]
    output: PathBuf,
    /// Format; default: by the file's name, otherwise csv.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Captures with whole packets, their payloads zeros; otherwise packets are cut after their headers.
    #[arg(long)]
    payloads: bool,
    /// Captures of Ethernet frames instead of raw IP; private and link-local hosts have MAC addresses of their own.
    #[arg(long)]
    ethernet: bool,
    /// Whose names the columns of CSV and Parquet have.
    #[arg(long, value_enum, default_value = "netshare")]
    columns: ColumnsArg,
    /// IPv4 addresses as NetShare writes them, as numbers; CSV with NetShare's columns only.
    #[arg(long)]
    numeric_addresses: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// Comma-separated, with a header line.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// Packets.
    Pcap,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ColumnsArg {
    /// srcip, dstip, srcport, dstport, proto, ts (µs), td (s), pkt, byt.
    Netshare,
    /// Those of `gateway meter`, times in ns; `query` reads them, too.
    Chaff,
}

impl From<ColumnsArg> for Names {
    fn from(columns: ColumnsArg) -> Self {
        match columns {
            ColumnsArg::Netshare => Self::NetShare,
            ColumnsArg::Chaff => Self::Chaff,
        }
    }
}

/// Runs `trainer synth sample`.
///
/// # Errors
/// What is wrong with model, options or output, naming the file.
pub(crate) fn run_sample(args: &Sample) -> Result<()> {
    let model = read_engine(&args.model)?;
    let extension = args.output.extension().and_then(|e| e.to_str());
    let format = args.format.unwrap_or(match extension {
        Some("pcap") => Format::Pcap,
        Some("parquet") => Format::Parquet,
        _ => Format::Csv,
    });
    let to_stdout = args.output == Path::new("-");
    if format == Format::Parquet && to_stdout {
        bail!("--output -: Parquet is written to a file only");
    }
    if (args.ethernet || args.payloads) && format != Format::Pcap {
        bail!("--ethernet and --payloads are for captures (--format pcap)");
    }
    let numeric = args.numeric_addresses;
    if numeric && (format != Format::Csv || args.columns != ColumnsArg::Netshare) {
        bail!("--numeric-addresses is for CSV with NetShare's columns");
    }
    let records = args
        .records
        .unwrap_or(model.info().records.min(MAX_RECORDS as u64) as usize);
    let drawn = model.sample(records, args.seed)?;
    let written = || format!("while writing {}", args.output.display());
    let out = || -> Result<Box<dyn Write + Send>> {
        Ok(if to_stdout {
            Box::new(std::io::stdout())
        } else {
            Box::new(
                File::create(&args.output)
                    .with_context(|| format!("while creating {}", args.output.display()))?,
            )
        })
    };
    let buffered = || -> Result<_> { Ok(BufWriter::with_capacity(1 << 20, out()?)) };
    let mut packets = None;
    match format {
        Format::Csv if args.columns == ColumnsArg::Netshare => {
            write_csv(buffered()?, &drawn, numeric).with_context(written)?;
        }
        Format::Csv => {
            let columns = Names::Chaff.columns(&drawn);
            let target: Box<dyn Target> = if to_stdout {
                Box::new(std::io::stdout())
            } else {
                Box::new(WholeFile::create(&args.output).with_context(written)?)
            };
            let csv = Csv::new(target, &columns, Dialect::Native);
            write_rows(Box::new(csv), Names::Chaff, &drawn).with_context(written)?;
        }
        Format::Parquet => {
            let names = Names::from(args.columns);
            let file = WholeFile::create(&args.output).with_context(written)?;
            let options = ParquetOptions {
                metadata: vec![("synthetic".to_owned(), "true".to_owned())],
                ..ParquetOptions::default()
            };
            let parquet = Parquet::new(file, &names.columns(&drawn), &options)?;
            write_rows(Box::new(parquet), names, &drawn).with_context(written)?;
        }
        Format::Pcap => {
            let options = PcapOptions {
                seed: args.seed,
                payloads: args.payloads,
                ethernet: args.ethernet,
            };
            packets = Some(
                write_pcap(buffered()?, &drawn, model.tables(), &options).with_context(written)?,
            );
        }
    }
    if !to_stdout {
        let sidecar = json!({
            "synthetic": true,
            "records": drawn.records.len(),
            "packets": packets,
            "seed": args.seed,
            "model": model.info(),
        });
        write_text(
            &beside(&args.output),
            &serde_json::to_string_pretty(&sidecar)?,
        )?;
    }
    Ok(())
}

fn write_rows(mut output: Box<dyn Output>, names: Names, table: &Table) -> std::io::Result<()> {
    let mut row = Vec::new();
    for r in &table.records {
        names.values(table, r, &mut row);
        output.write(&row)?;
    }
    output.finish()
}
