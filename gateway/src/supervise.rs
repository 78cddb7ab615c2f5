//! The process around a gateway with a tunnel: it keeps the kill switch or the fall-back in force, watches the gateway's
//! signs of life, and starts it anew at once when it ends or hangs.
//!
//! It holds the privileges that the gateway gives up, touches no packet and reads nothing but the configuration and short
//! lines from its child: `beat`, `mtu N`, `route up|down`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use chaff_tunport::Gate;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout_at};

use crate::config::{File, WhenStopped};
use crate::run::Signals;
use crate::tunnel;

/// Silence after which a gateway hangs.
const HANGS: Duration = Duration::from_millis(500);
/// Time for the first sign of life.
const STARTS: Duration = Duration::from_secs(30);
/// Time for a clean stop.
const STOPS: Duration = Duration::from_secs(10);
/// A gateway that lived shorter than this is not started again at once.
const SHORT: Duration = Duration::from_secs(1);

/// Why a gateway's life ended.
enum End {
    /// By itself.
    Exited,
    /// It gave no sign of life.
    Hung,
    /// A signal asks for the end of everything.
    Asked,
}

/// Runs gateways one after the other until SIGINT or SIGTERM.
///
/// # Errors
/// Configuration, privilege or kernel stand in the way.
pub fn run(file: &File, config: &Path) -> anyhow::Result<ExitCode> {
    let conf = tunnel::read_conf(file)?;
    let options = tunnel::gate(file, &conf);
    drop(conf);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("while starting")?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new().context("while waiting for signals")?
    };
    // Rules are taken away at the end: those of another one must not be touched.
    let _alone = alone(file.tunnel.table)?;
    let mut gate = Gate::install(options)?;
    gate.forward().context("while switching forwarding on")?;
    tracing::info!(when_down = ?file.tunnel.when_down, "rules in force");
    let done = runtime.block_on(lives(&gate, config, &mut signals));
    if file.tunnel.when_stopped == WhenStopped::Block {
        tracing::warn!("devices stay cut off, by tunnel.when_stopped; `gateway open` ends that");
        gate.keep();
    }
    done
}

/// One supervisor for each routing table. A name that the kernel keeps by network namespace, as it does the table, and gives back
/// however its owner ends.
fn alone(table: u32) -> anyhow::Result<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("chaff-tunnel-{table}"))
        .context("while naming the lock")?;
    match UnixListener::bind_addr(&name) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            bail!("another gateway runs with tunnel.table {table}; its rules stay in force")
        }
        bound => bound.context("while locking the routing table"),
    }
}

async fn lives(gate: &Gate, config: &Path, signals: &mut Signals) -> anyhow::Result<ExitCode> {
    loop {
        let born = Instant::now();
        let mut child = start(config).context("while starting the gateway's process")?;
        let (end, lived) = match child.stdout.take() {
            Some(out) => watch(gate, OwnedFd::from(out), signals).await?,
            None => (End::Exited, false),
        };
        match end {
            End::Asked => return stop(&mut child).await,
            End::Hung => {
                tracing::error!("the gateway hangs; it is killed and started anew");
                child.kill().context("while killing the gateway")?;
                child.wait().context("while waiting for the gateway")?;
            }
            End::Exited => {
                let status = child.wait().context("while waiting for the gateway")?;
                if !lived {
                    // It never ran: another start would end the same way.
                    let code = status.code().and_then(|c| u8::try_from(c).ok());
                    return Ok(ExitCode::from(code.unwrap_or(1)));
                }
                tracing::error!(%status, "the gateway ended; it is started anew");
            }
        }
        if born.elapsed() < SHORT {
            tokio::select! {
                () = tokio::time::sleep(SHORT) => {}
                () = signals.any() => return Ok(ExitCode::SUCCESS),
            }
        }
    }
}

fn start(config: &Path) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["run", "--supervised", "--config"])
        .arg(config);
    for a in std::env::args_os().skip(1) {
        let flag = a.to_string_lossy();
        let verbose = flag.starts_with("-v") || flag == "--verbose" || flag == "--log-json";
        if verbose {
            command.arg(&a);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}

/// Watches one life; tells whether there ever was a sign of it.
async fn watch(gate: &Gate, out: OwnedFd, signals: &mut Signals) -> anyhow::Result<(End, bool)> {
    let pipe = pipe::Receiver::from_owned_fd(out).context("while watching the gateway")?;
    let mut lines = BufReader::new(pipe).lines();
    let mut lived = false;
    let mut deadline = Instant::now() + STARTS;
    loop {
        let line = tokio::select! {
            line = timeout_at(deadline, lines.next_line()) => line,
            () = signals.any() => return Ok((End::Asked, lived)),
        };
        let Ok(line) = line else {
            return Ok((End::Hung, lived));
        };
        let Ok(Some(line)) = line else {
            return Ok((End::Exited, lived));
        };
        lived = true;
        deadline = Instant::now() + HANGS;
        let o = gate.options();
        let done = match line.split_once(' ') {
            Some(("mtu", mtu)) => mtu.parse().map_or(Ok(()), |mtu| o.set_mtu(mtu)),
            Some(("route", way)) => o.switch(way == "up"),
            _ => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!(%error, what = %line, "the tunnel's interface");
        }
    }
}

async fn stop(child: &mut Child) -> anyhow::Result<ExitCode> {
    let id = Pid::from_raw(child.id() as i32);
    // Already gone is fine.
    let _gone = kill(id, Signal::SIGTERM);
    let deadline = Instant::now() + STOPS;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().context("while waiting for the gateway")? {
            let code = status.code().and_then(|c| u8::try_from(c).ok());
            return Ok(ExitCode::from(code.unwrap_or(1)));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracing::error!("the gateway does not stop; it is killed");
    child.kill().context("while killing the gateway")?;
    child.wait().context("while waiting for the gateway")?;
    Ok(ExitCode::from(1))
}
