//! `query`: private answers about flow logs.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use chaff_query::command::{Cli, run};
use clap::Parser as _;

fn main() -> ExitCode {
    // Whoever asks learns nothing of what goes wrong while flows are read.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |about| {
        if std::thread::current().name() == Some("main") {
            hook(about);
        }
    }));
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
