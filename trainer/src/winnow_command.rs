//! The command `trainer winnow`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::cover::stream;
use crate::traces::{self, Seen};
use crate::winnow::{Options, winnow};

/// `trainer winnow`.
#[derive(Args)]
#[command(after_long_help = "Example:\n  \
    gateway simulate --mode tunnel --cover envelope --pcap monday.pcap --devices devices.csv --out monday\n  \
    gateway simulate --mode tunnel --cover envelope --pcap tuesday.pcap --devices devices.csv --out tuesday\n  \
    trainer winnow --train monday/packets.csv --test tuesday/packets.csv --seed 1")]
pub struct Winnow {
    /// Packets to learn from, as an observer of the tunnel sees them: packets.csv of `gateway simulate`, or of `sink-server
    /// --packets`.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    train: Vec<PathBuf>,
    /// Packets to try on. Without it the second half of each file of --train, by time.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    test: Vec<PathBuf>,
    /// Extremely randomized trees.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    trees: u32,
    /// Most packets of each kind and direction, in training and in testing each.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=10_000_000))]
    cap: u32,
    /// Seed.
    #[arg(long)]
    seed: u64,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// A file cannot be used, or a direction has no real packets or no cover.
pub fn run(args: &Winnow, out: &mut dyn Write) -> Result<()> {
    let read = |files: &[PathBuf]| -> Result<Vec<Vec<Seen>>> {
        files.iter().map(|f| traces::whole(f)).collect()
    };
    let mut train = read(&args.train)?;
    let test = if args.test.is_empty() {
        train.iter_mut().map(second_half).collect()
    } else {
        read(&args.test)?
    };
    let options = Options {
        trees: args.trees as usize,
        cap: args.cap as usize,
    };
    let mut rng = stream(args.seed, "winnow");
    let told = winnow(&train, &test, options, &mut rng, &mut || ())?;
    if args.json {
        let report = json!({"version": 1, "uplink": told[0], "downlink": told[1]});
        writeln!(out, "{report:#}")?;
        return Ok(());
    }
    writeln!(
        out,
        "| cover told from real packets, AUC | by size | by gaps | by everything | real | cover |\n| --- | --- | --- | --- | --- | --- |"
    )?;
    for (name, t) in ["uplink", "downlink"].iter().zip(told) {
        writeln!(
            out,
            "| {name} | {:.2} | {:.2} | {:.2} | {} | {} |",
            t.size, t.gaps, t.everything, t.tested[0], t.tested[1]
        )?;
    }
    Ok(())
}

/// Leaves the first half of a stream by time, and gives the other.
fn second_half(packets: &mut Vec<Seen>) -> Vec<Seen> {
    let half = packets.last().map_or(0, |p| p.at.0 / 2);
    packets.split_off(packets.partition_point(|p| p.at.0 < half))
}
