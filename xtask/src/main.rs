//! `cargo xtask`: see `cargo xtask --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::build_ebpf::{self, Toolchain};
use xtask::command::Stop;
use xtask::netns::{self, Layout, Topology};
use xtask::{attacks, bench, cluster, conformance, demo, fuzz, record, test};

/// Chaff's development tasks.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    after_help = "Exit codes: 0 done, 1 a check failed, 2 usage, 3 missing privilege or package."
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs a capture through the gateway with cover, checks that everything adds up, and draws it.
    #[command(after_help = "Examples:
  cargo xtask demo
  cargo xtask demo --cover random+ --duration 20
  cargo xtask demo --pcap capture.pcap --devices devices.csv --speed 4

Live in namespaces as root (sudo), in virtual time otherwise.")]
    Demo(demo::Options),
    /// Formats, lints, builds, tests and demonstrates: what CI runs. Example: cargo xtask test --quick
    Test(test::Options),
    /// Namespaces for hands-on use: a home, its gateway, the network behind it.
    #[command(subcommand)]
    Netns(Netns),
    /// Rebuilds the kernel programs' object. Example: cargo xtask build-ebpf --check
    BuildEbpf {
        /// Compares with the committed object instead of replacing it.
        #[arg(long)]
        check: bool,
        /// Where rustc comes from.
        #[arg(long, value_enum, default_value_t)]
        toolchain: Toolchain,
    },
    /// Measures ours against peers and limits, side by side, and prints the ratios with their bars.
    #[command(after_help = "Examples:
  cargo xtask bench
  cargo xtask bench injector replay
  cargo xtask bench offline --rounds 5
  cargo xtask bench query

Needs root but for `query`, for `replay` tcpreplay, for `offline` softflowd, nfdump, tcpdump and NFStream 6.6.0 from PyPI (each is left out
with a line that says so when it cannot be had). Numbers mean something on a machine that does nothing else.")]
    Bench(bench::Options),
    /// Runs a program and prints what it used, as JSON; the offline benchmark calls this.
    #[command(hide = true)]
    Measure(bench::Measured),
    /// Feeds every parser of outside bytes with inputs of libFuzzer's making, and checks what must hold.
    #[command(after_help = "Examples:
  cargo xtask fuzz --list
  cargo xtask fuzz parse trace --seconds 600
  cargo xtask fuzz --keep              # adds what reaches new code to tests/fuzz/corpus

A C++ compiler is needed; with a nightly toolchain the address sanitizer is on. Inputs that grow are in
target/fuzz/corpus, findings in target/fuzz/artifacts. `cargo test -p chaff-fuzz-targets` replays tests/fuzz/corpus.")]
    Fuzz(fuzz::Options),
    /// Builds and tests `query-cluster`, which has a workspace of its own; the first time takes 15 to 20 minutes of CPU.
    #[command(after_help = "Examples:
  cargo xtask cluster
  cargo xtask cluster --build")]
    Cluster(cluster::Options),
    /// Compares the gateway's flows with those of another program on the same captures, file by file.
    #[command(after_help = "Examples:
  cargo xtask conformance nfstream
  cargo xtask conformance nfstream --filter 'skype*'
  cargo xtask conformance netml
  cargo xtask conformance dpmon
  cargo xtask conformance dpmon --set FOLDER

The captures and expected files lie in ../shared; without them it says \"skipped\".")]
    Conformance(conformance::Options),
    /// Records the demo's capture from real programs in namespaces, into tests/fixtures. Needs root.
    RecordDemo(record::Options),
    /// Records what nmap, hping3 and iperf3 send in namespaces, one capture each. Needs root.
    RecordAttacks(attacks::Options),
}

#[derive(Subcommand)]
enum Netns {
    /// Makes <prefix>-home, -gw and -net, anew if they stand. Example: cargo xtask netns up --route
    Up {
        /// Joins home and network by a wire: captured frames cross byte for byte (default).
        #[arg(long)]
        bridge: bool,
        /// Joins home and network by a router with the kernel's forwarding.
        #[arg(long, conflicts_with = "bridge")]
        route: bool,
        /// First part of the namespaces' names.
        #[arg(long, default_value = "chaff")]
        prefix: String,
    },
    /// Stops what runs in the namespaces and removes them, also after a crash.
    Down {
        /// First part of the namespaces' names.
        #[arg(long, default_value = "chaff")]
        prefix: String,
    },
    /// Opens a shell inside one of them. Example: cargo xtask netns shell gw
    Shell {
        /// home, gw, net, or the full name of a namespace.
        name: String,
        /// First part of the namespaces' names.
        #[arg(long, default_value = "chaff")]
        prefix: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(error.downcast_ref::<Stop>().map_or(1, |stop| stop.code()))
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Netns(Netns::Up {
            route,
            prefix,
            bridge: _,
        }) => {
            let layout = if route { Layout::Route } else { Layout::Bridge };
            Topology::new(&prefix)?.up(layout)?;
            eprintln!("up: {prefix}-home (dev0), {prefix}-gw (lan0, wan0), {prefix}-net (srv0)");
            eprintln!("next: cargo xtask netns shell gw --prefix {prefix}");
            Ok(())
        }
        Task::Netns(Netns::Down { prefix }) => Topology::new(&prefix)?.down(),
        Task::Netns(Netns::Shell { name, prefix }) => netns::shell(&Topology::new(&prefix)?, &name),
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(options),
        Task::BuildEbpf { check, toolchain } => build_ebpf::run(check, toolchain),
        Task::Bench(options) => bench::run(&options),
        Task::Cluster(options) => cluster::run(options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Measure(program) => program.run(),
        Task::Conformance(options) => conformance::run(&options),
        Task::RecordDemo(options) => record::run(&options),
        Task::RecordAttacks(options) => attacks::run(&options),
    }
}
