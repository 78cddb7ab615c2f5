//! `trainer`: learns cover generators and novelty models from captures.

use std::process::ExitCode;

use chaff_trainer::{
    attack_command, cover_command, evaluate_command, ipet_command, learn_command, perturb_command,
    synth_command, windows_command, winnow_command,
};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Learns cover generators (signed ONNX models) and novelty models from captures.
#[derive(Parser)]
#[command(version, after_help = "Exit codes: 0 done, 2 usage, input or output.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train one cover generator for each device, or for one of them.
    Cover(Box<cover_command::Cover>),
    /// Write the demands that a generator makes, as CSV with named columns.
    Perturb(perturb_command::Perturb),
    /// Cut captures or iPET's traces into windows of slots, as NumPy arrays.
    Windows(windows_command::Windows),
    /// Train an attacker on some sessions, try it on the others: table, picture, model file.
    Attack(Box<attack_command::Attack>),
    /// Try attackers on defences: one table and one picture of accuracy over cost.
    Evaluate(Box<evaluate_command::Evaluate>),
    /// Tell cover from real packets in a tunnel, packet by packet: area under the ROC curve by size, gaps and context.
    Winnow(winnow_command::Winnow),
    /// Show what an observer sees of captures under a defence, as packet tables.
    Defend(Box<ipet_command::Defend>),
    /// Turn captures into a table of flow features.
    Features(learn_command::Features),
    /// Learn what normal traffic looks like, for `gateway classify`.
    Learn(Box<learn_command::Learn>),
    /// Synthetic header traces, with or without differential privacy.
    #[command(subcommand)]
    Synth(synth_command::Synth),
}

/// Takes `-1` for the value of an option, whose range then says what is wrong with it.
fn with_negatives(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let has_value = arg.get_action().takes_values();
            arg.allow_negative_numbers(has_value)
        })
        .mut_subcommands(with_negatives)
}

fn main() -> ExitCode {
    let matches = with_negatives(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let done = match cli.command {
        Command::Cover(args) => cover_command::run(*args),
        Command::Perturb(args) => perturb_command::run(args),
        Command::Attack(args) => attack_command::run_attack(&args),
        Command::Evaluate(args) => evaluate_command::run_evaluate(&args),
        Command::Windows(args) => windows_command::run(&args),
        Command::Defend(args) => ipet_command::run_defend(&args),
        Command::Winnow(args) => winnow_command::run(&args, &mut std::io::stdout().lock()),
        Command::Features(args) => learn_command::run_features(args),
        Command::Learn(args) => learn_command::run_learn(&args),
        Command::Synth(args) => synth_command::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("trainer: {e:#}");
            ExitCode::from(2)
        }
    }
}
