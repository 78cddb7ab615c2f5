//! `gateway`: the program. Parses the command line, runs one command, maps errors to exit codes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chaff_gateway::config::{File, Mode};
use chaff_gateway::control::{self, Request};
use chaff_gateway::units::Duration;
use chaff_gateway::{classify, meter, run, simulate, supervise, top, tunnel};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Meters every flow, sends cover traffic beside the real traffic, alerts the owner, releases private telemetry.
#[derive(Parser)]
#[command(
    name = "gateway",
    version,
    after_help = "Exit codes: 0 done, 1 ran but a check failed, 2 usage or configuration, 3 missing privilege or kernel feature."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more: -v debug, -vv trace.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Write logs as JSON lines.
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until SIGINT or SIGTERM.
    #[command(after_help = "Examples:
  gateway run --config /etc/chaff/gateway.toml
  gateway run --config gateway.toml --check           check the file and stop
  gateway run --print-config                          every key with its default")]
    Run {
        /// Configuration file, TOML.
        #[arg(long, value_name = "FILE", required_unless_present = "print_config")]
        config: Option<PathBuf>,
        /// Only check the configuration.
        #[arg(long)]
        check: bool,
        /// Print the configuration in force, defaults included, and stop.
        #[arg(long)]
        print_config: bool,
        /// This is the process that another one watches.
        #[arg(long, hide = true)]
        supervised: bool,
    },
    /// Make a key for the gateway's tunnel; the far end adds its public part.
    #[command(after_help = "Examples:
  gateway keygen --config gateway.conf        prints the public key, for `sink-server keygen --public-key KEY`, whose
                                              answer goes to the end of gateway.conf")]
    Keygen {
        /// wg-style file to make, mode 0600; one that exists is kept and its public key printed.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Let devices take the ordinary route again after a kill switch was left in force.
    Open {
        /// Configuration file of the gateway that is gone.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Turn captures into flow records.
    Meter(Box<meter::Args>),
    /// Tell which flows of a capture are unusual, and why.
    Classify(classify::Args),
    /// Run captures through the gateway and sink in virtual time.
    Simulate(Box<simulate::Args>),
    /// Show what a running gateway does.
    Status {
        #[command(flatten)]
        socket: Socket,
        /// Print the whole answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what each device of a running gateway does now, real and cover, until Ctrl-C.
    #[command(after_help = "Examples:
  gateway top
  gateway top --interval 10s --rounds 6 --json      a minute in six lines")]
    Top {
        /// Time between two looks.
        #[arg(long, value_name = "TIME", default_value = "1s")]
        interval: Duration,
        /// Looks until it ends; default: until stopped.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rounds: Option<u32>,
        #[command(flatten)]
        socket: Socket,
        /// Print one JSON object a look.
        #[arg(long)]
        json: bool,
    },
    /// Stop cover for a while; metering, alerts and telemetry go on, and real traffic is never touched.
    #[command(after_help = "Examples:
  gateway pause            until `gateway resume`
  gateway pause 10min")]
    Pause {
        /// How long, such as 10min; default: until resumed.
        duration: Option<Duration>,
        #[command(flatten)]
        socket: Socket,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell a running gateway what you think of an alert.
    #[command(after_help = "Examples:
  gateway feedback 17 --normal      what alert 17 told is normal: it, and up to twice as much, is not reported again")]
    Feedback {
        /// The alert's `id` in alerts.jsonl.
        id: u64,
        /// It is normal.
        #[arg(long, required = true)]
        normal: bool,
        #[command(flatten)]
        socket: Socket,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Send cover again.
    Resume {
        #[command(flatten)]
        socket: Socket,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Socket {
    /// Control socket of the gateway.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/chaff/control.sock",
        env = "CHAFF_CONTROL"
    )]
    socket: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.verbose, cli.log_json);
    let done = match cli.command {
        Command::Run {
            config,
            check,
            print_config,
            supervised,
        } => live(config.as_deref(), check, print_config, supervised),
        Command::Keygen { config } => keygen(&config),
        Command::Open { config } => File::load(&config).and_then(|file| tunnel::open(&file)),
        Command::Meter(args) => meter::run(*args),
        Command::Classify(args) => classify::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Status { socket, json } => status(&socket.socket, json),
        Command::Top {
            interval,
            rounds,
            socket,
            json,
        } => {
            let options = top::Options {
                interval: std::time::Duration::from_nanos(interval.0.0),
                rounds,
                json,
            };
            Ok(top::run(&socket.socket, options).unwrap_or_else(|e| no_answer(&e)))
        }
        Command::Pause {
            duration,
            socket,
            json,
        } => {
            let seconds = duration.map(|d| d.0.0.div_ceil(1_000_000_000));
            let words = match duration {
                Some(d) => format!("cover is paused for {d}"),
                None => "cover is paused until `gateway resume`".to_owned(),
            };
            say(&socket.socket, &Request::Pause { seconds }, json, &words)
        }
        Command::Feedback {
            id, socket, json, ..
        } => {
            let words = format!("learnt: what alert {id} told is normal");
            say(&socket.socket, &Request::Accept { id }, json, &words)
        }
        Command::Resume { socket, json } => {
            let words = "cover is sent again";
            say(&socket.socket, &Request::Resume, json, words)
        }
    };
    done.unwrap_or_else(|e| {
        eprintln!("gateway: {e:#}");
        let code = run::exit_code(&e);
        if code == run::MISSING {
            eprintln!(
                "hint: `gateway run` needs root, or CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_RAW (it gives them up \
                 after the start), and write access to its folders"
            );
        }
        ExitCode::from(code)
    })
}

fn log(verbose: u8, json: bool) {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("CHAFF_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    if json {
        builder.json().init()
    } else {
        builder.init()
    }
}

fn keygen(path: &Path) -> anyhow::Result<ExitCode> {
    use chaff_tunport::pair;
    let conf = if path.exists() {
        pair::read(path)?
    } else {
        pair::create(path, None)?
    };
    println!("{}", conf.private_key.public());
    Ok(ExitCode::SUCCESS)
}

fn live(
    config: Option<&Path>,
    check: bool,
    print: bool,
    supervised: bool,
) -> anyhow::Result<ExitCode> {
    let file = match config {
        Some(path) => File::load(path)?,
        None => File::parse("", Path::new("."))?,
    };
    if print {
        print!("{}", toml::to_string(&file)?);
        return Ok(ExitCode::SUCCESS);
    }
    if check {
        run::check(&file)?;
        eprintln!("gateway: the configuration is valid");
        return Ok(ExitCode::SUCCESS);
    }
    match config {
        Some(path) if file.cover.mode == Mode::Tunnel && !supervised => supervise::run(&file, path),
        _ => run::run(&file),
    }
}

fn say(socket: &Path, request: &Request, json: bool, words: &str) -> anyhow::Result<ExitCode> {
    let answer = match control::ask(socket, request) {
        Ok(answer) => answer,
        Err(e) => return Ok(no_answer(&e)),
    };
    if json {
        println!("{answer}");
    } else {
        println!("{words}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The command was right, the gateway is not there or refused.
fn no_answer(e: &anyhow::Error) -> ExitCode {
    eprintln!("gateway: {e:#}");
    ExitCode::from(1)
}

fn status(socket: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let answer = match control::ask(socket, &Request::Status) {
        Ok(answer) => answer,
        Err(e) => return Ok(no_answer(&e)),
    };
    if json {
        println!("{answer}");
        return Ok(ExitCode::SUCCESS);
    }
    let number = |path: &str| {
        answer
            .pointer(path)
            .and_then(serde_json::Value::as_f64)
            .unwrap_or(0.0)
    };
    let paused = answer["paused"].as_bool().unwrap_or(false);
    println!(
        "up {:.0} s, cover {}",
        number("/uptime_s"),
        if paused {
            "paused".into()
        } else {
            answer["mode"].to_string()
        }
    );
    println!(
        "{} packets seen, {} flows open, {} alerts",
        number("/meter/seen"),
        number("/open_flows"),
        number("/gateway/alerts")
    );
    println!(
        "{} of {} seen devices are past their learning time, {} alerts were not repeated",
        number("/learnt_devices"),
        number("/seen_devices"),
        number("/gateway/alerts_suppressed")
    );
    if answer["tunnel"].is_object() {
        let peer = |what: &str| number(&format!("/tunnel/tunnel/peers/0/{what}"));
        println!(
            "tunnel {}: {} sessions so far; real packets sent {}, received {}; cover sent {}, received {}",
            if answer["tunnel_up"].as_bool().unwrap_or(false) {
                "up"
            } else {
                "down"
            },
            peer("sessions"),
            peer("real_out/packets"),
            peer("real_in/packets"),
            peer("cover_out/packets"),
            peer("cover_in/packets"),
        );
    } else {
        println!(
            "cover sent {} packets ({} bytes), received {}, late p99 {} us",
            number("/injector/stats/sent"),
            number("/injector/stats/sent_bytes"),
            number("/gateway/downlink/packets"),
            number("/injector/lateness_us/p99")
        );
    }
    println!(
        "privacy budget spent in this run: {}",
        number("/gateway/epsilon_spent")
    );
    Ok(ExitCode::SUCCESS)
}
