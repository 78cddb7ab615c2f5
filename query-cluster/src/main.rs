//! `query-cluster`: private answers about flow logs, computed on several machines.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use chaff_query_cluster::command::{Cli, run};
use clap::Parser as _;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
