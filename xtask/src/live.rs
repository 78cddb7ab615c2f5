//! One capture through the real programs in three namespaces, with tcpdump on the uplink as a witness that is not Chaff's.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::account::{Account, live};
use crate::command::{Interrupt, Running, output};
use crate::demo::{Programs, Run};
use crate::netns::{self, GATEWAY, Layout, SINK, Topology};

/// First part of the namespaces' names; the process id follows.
const PREFIX: &str = "chaff-demo-";
/// Seconds in which the demo's gateway learns what its devices do, before it alerts.
pub(crate) const LEARN: u32 = 5;
/// Seconds between private releases.
pub(crate) const PERIOD: u32 = 10;
/// UDP port of the sink.
const PORT: u16 = 4789;
const READY: Duration = Duration::from_secs(20);
const ENDING: Duration = Duration::from_secs(15);
/// Time for cover to flow before the first and after the last real packet.
const MARGIN: Duration = Duration::from_millis(1500);

/// Files of one run that others must read or that must not outlive it, apart from the results: the gateway gives up root
/// and could not reach a results folder inside root's home.
struct Scratch {
    folder: PathBuf,
    topology: Topology,
    keep: bool,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The key is in there; a failed removal has no remedy here.
        let _ = fs::remove_dir_all(&self.folder);
        if self.keep {
            let [home, gw, net] = [
                self.topology.home(),
                self.topology.gateway(),
                self.topology.network(),
            ];
            eprintln!(
                "kept: {home}, {gw}, {net}; remove by: cargo xtask netns down --prefix {}",
                gw.trim_end_matches("-gw")
            );
        } else if let Err(error) = self.topology.down() {
            eprintln!("left behind: {error:#}");
        }
    }
}

/// Runs one capture live and returns its account.
///
/// # Errors
/// When a program cannot start, ends early, or does not stop; its last log lines are part of the message.
pub(crate) fn run(programs: &Programs, run: &Run, keep: bool, stop: &Interrupt) -> Result<Account> {
    remove_leftovers()?;
    let id = std::process::id();
    let scratch = Scratch {
        folder: std::env::temp_dir().join(format!("{PREFIX}{id}")),
        topology: Topology::new(&format!("{PREFIX}{id}"))?,
        keep,
    };
    scratch.topology.up(Layout::Bridge)?;
    fs::create_dir_all(&scratch.folder)?;
    let key = scratch.folder.join("sink.key");
    write_key(&key)?;
    let devices = scratch.folder.join("devices.csv");
    fs::copy(&run.devices, &devices)?;
    let state = scratch.folder.join("state");
    let config = scratch.folder.join("gateway.toml");
    fs::write(&config, gateway_config(run, &state, &key, &devices))?;
    fs::copy(&config, run.out.join("gateway.toml"))?;

    let (gateway_space, network) = (scratch.topology.gateway(), scratch.topology.network());
    let uplink = run.out.join("uplink.pcap");
    let mut witness = netns::command(&gateway_space, "tcpdump");
    witness
        .args([
            "-Z",
            "root",
            "-i",
            "wan0",
            "-s",
            "128",
            "-B",
            "16384",
            "--immediate-mode",
            "-w",
        ])
        .arg(&uplink);
    let mut witness = Program::start("tcpdump", witness, &run.out)?;
    let mut sink = netns::command(&network, programs.path("sink-server"));
    sink.args(["--listen", &format!("{SINK}:{PORT}"), "--key"])
        .arg(&key);
    sink.arg("--packets").arg(run.out.join("sink-packets.csv"));
    sink.arg("--report").arg(run.out.join("sink.json"));
    let mut sink = Program::start("sink-server", sink, &run.out)?;
    sink.ready(stop, || udp_port_is_open(&network, PORT))?;
    let mut gateway = netns::command(&gateway_space, programs.path("gateway"));
    gateway.args(["run", "--config"]).arg(&config);
    let mut gateway = Program::start("gateway", gateway, &run.out)?;
    gateway.ready(stop, || Ok(state.join("control.sock").exists()))?;
    witness.ready(stop, || Ok(uplink.exists()))?;
    thread::sleep(MARGIN);

    replay(
        programs,
        run,
        &scratch.topology,
        [&mut sink, &mut gateway],
        stop,
    )?;
    thread::sleep(MARGIN);
    // Cover that is planned or under way still arrives while nobody plans more, so that both ends can agree.
    let mut pause = Command::new(programs.path("gateway"));
    pause
        .arg("pause")
        .arg("--socket")
        .arg(state.join("control.sock"));
    output(pause).context("while pausing the cover")?;
    thread::sleep(MARGIN);
    gateway.end()?;
    sink.end()?;
    witness.end()?;
    for name in [
        "report.json",
        "flows.csv",
        "slots.csv",
        "alerts.jsonl",
        "telemetry.jsonl",
    ] {
        let from = state.join(name);
        fs::copy(&from, run.out.join(name))
            .with_context(|| format!("the gateway wrote no {name}"))?;
    }
    live(run)
}

fn replay(
    programs: &Programs,
    run: &Run,
    topology: &Topology,
    others: [&mut Program; 2],
    stop: &Interrupt,
) -> Result<()> {
    let mut command = Command::new(programs.path("replay"));
    command
        .arg(&run.pcap)
        .arg("--devices")
        .arg(&run.devices)
        .arg("--pair");
    command
        .arg(format!("dev0@{}", topology.home()))
        .arg(format!("srv0@{}", topology.network()));
    command.args([
        "--verify",
        "--ignore-host",
        SINK,
        "--speed",
        &run.speed.to_string(),
        "--stats",
    ]);
    command.arg(run.out.join("replay.json"));
    command.stdout(File::create(run.out.join("replay.txt"))?);
    eprintln!(
        "replaying {} frames in {:.0} s",
        run.frames,
        run.seconds / run.speed
    );
    let mut replay = Running::start("replay", command)?;
    let limit = Duration::from_secs_f64(run.seconds / run.speed + 60.0);
    let end = Instant::now() + limit;
    let [sink, gateway] = others;
    while Instant::now() < end {
        if let Some(status) = replay.wait(Duration::from_millis(200))? {
            // 1: its own comparison failed; the account below says how.
            ensure!(matches!(status.code(), Some(0 | 1)), "replay: {status}");
            return Ok(());
        }
        stop.check()?;
        sink.check()?;
        gateway.check()?;
    }
    bail!("replay did not end within {limit:?}")
}

/// A program with its log file.
struct Program {
    name: &'static str,
    running: Running,
    log: PathBuf,
}

impl Program {
    fn start(name: &'static str, mut command: Command, out: &Path) -> Result<Self> {
        let log = out.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("while making {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        Ok(Self {
            name,
            running: Running::start(name, command)?,
            log,
        })
    }

    fn check(&mut self) -> Result<()> {
        self.running.check().with_context(|| self.last_lines())
    }

    /// Waits until `done` is true.
    fn ready(&mut self, stop: &Interrupt, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + READY;
        while Instant::now() < end {
            self.check()?;
            stop.check()?;
            if done()? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(anyhow::anyhow!(
            "{} was not ready within {READY:?}",
            self.name
        ))
        .with_context(|| self.last_lines())
    }

    fn end(&mut self) -> Result<()> {
        let status = self
            .running
            .stop(Signal::SIGINT, ENDING)
            .with_context(|| self.last_lines())?;
        ensure!(
            status.success(),
            "{} ended with {status}\n{}",
            self.name,
            self.last_lines()
        );
        Ok(())
    }

    fn last_lines(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(8)..];
        format!(
            "last lines of {}:\n  {}\n",
            self.log.display(),
            last.join("\n  ")
        )
    }
}

fn write_key(path: &Path) -> Result<()> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .context("while making a key")?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(path, "")?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    fs::write(path, text).context("while writing the key file")
}

fn gateway_config(run: &Run, state: &Path, key: &Path, devices: &Path) -> String {
    let mode = if run.cover == "none" { "off" } else { "plain" };
    let text = |path: &Path| format!("{:?}", path.display().to_string());
    let instance = format!("demo-{}", std::process::id());
    format!(
        "# Written by cargo xtask demo.\n\
         [gateway]\nstate_dir = {state}\ninstance = {instance:?}\ndevices_file = {devices}\n\n\
         [interfaces]\nlan = [\"lan0\"]\nwan = \"wan0\"\n\n\
         [cover]\nmode = {mode:?}\nsink = \"{SINK}:{PORT}\"\nkey_file = {key}\ngenerator = {generator:?}\n\n\
         [alerts]\nlearn = \"{LEARN}s\"\n\n\
         [telemetry]\nenabled = true\nperiod = \"{PERIOD}s\"\nepsilon = 0.5\n\n\
         [export]\nslots = \"slots.csv\"\n",
        state = text(state),
        devices = text(devices),
        key = text(key),
        generator = run.cover,
    )
}

/// Returns whether a UDP socket of namespace `name` is bound to `port`.
fn udp_port_is_open(name: &str, port: u16) -> Result<bool> {
    let table = netns::inside(name, || fs::read_to_string("/proc/thread-self/net/udp"))??;
    let wanted = format!(":{port:04X}");
    Ok(table.lines().any(|line| {
        line.split_whitespace()
            .nth(1)
            .is_some_and(|address| address.ends_with(&wanted))
    }))
}

/// Removes namespaces of demos that were killed before they could: those whose process is gone.
fn remove_leftovers() -> Result<()> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Ok(());
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let id = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_suffix("-gw"));
        if let Some(id) = id.filter(|id| !Path::new("/proc").join(id).exists()) {
            eprintln!("removing what an interrupted or kept demo ({id}) left");
            Topology::new(&format!("{PREFIX}{id}"))?.down()?;
            // What the killed programs left; not there when they ended well.
            let _ = fs::remove_dir_all(std::env::temp_dir().join(format!("{PREFIX}{id}")));
            let _ = fs::remove_dir_all(Path::new("/sys/fs/bpf/chaff").join(format!("demo-{id}")));
        }
    }
    Ok(())
}

/// Returns the gateway's own address, whose packets on the uplink are cover.
pub(crate) fn cover_addresses() -> Result<[std::net::Ipv4Addr; 2]> {
    Ok([GATEWAY.parse()?, SINK.parse()?])
}
