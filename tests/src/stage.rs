//! A gateway and a sink in the three namespaces, started and stopped for one test.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{Home, Layout, Running, SINK, program};

/// UDP port of the sink in tests.
pub const PORT: u16 = 4789;
const READY: Duration = Duration::from_secs(20);
const ENDING: Duration = Duration::from_secs(20);

/// Namespaces, a folder that the unprivileged gateway can reach, a key, and the programs that run.
#[derive(Debug)]
pub struct Stage {
    /// The namespaces.
    pub home: Home,
    /// Lines of the configuration's section `[export]`; a file of slots at first.
    pub export: String,
    folder: tempfile::TempDir,
    instance: String,
    sink: Option<Running>,
    gateway: Option<Running>,
}

impl Stage {
    /// Makes namespaces and key; starts nothing.
    ///
    /// # Errors
    /// Without root, or when a tool refuses.
    pub fn new(prefix: &str) -> Result<Self> {
        let home = Home::new(prefix, Layout::Bridge)?;
        let folder = tempfile::tempdir().context("while making a folder")?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let key = folder.path().join("sink.key");
        fs::write(&key, "5a4b".repeat(16))?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let instance = format!("test-{prefix}-{}", std::process::id());
        Ok(Self {
            home,
            export: "slots = \"slots.csv\"".to_owned(),
            folder,
            instance,
            sink: None,
            gateway: None,
        })
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in the gateway's state folder.
    pub fn state(&self, name: &str) -> PathBuf {
        self.path("state").join(name)
    }

    /// Where the gateway pins its programs.
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/chaff").join(&self.instance)
    }

    /// Starts the sink and waits until it listens.
    ///
    /// # Errors
    /// It ends early or never listens.
    pub fn start_sink(&mut self) -> Result<()> {
        let mut command = self.home.in_network(program("sink-server")?);
        command
            .args(["--listen", &format!("{SINK}:{PORT}"), "--key"])
            .arg(self.path("sink.key"));
        command.arg("--report").arg(self.path("sink.json"));
        command.arg("--packets").arg(self.path("sink-packets.csv"));
        self.sink = Some(Running::start("sink-server", command)?);
        let end = Instant::now() + READY;
        let port = format!(":{PORT:04X} ");
        while !self
            .home
            .in_network("cat")
            .arg("/proc/net/udp")
            .output()?
            .stdout_contains(&port)
        {
            self.sink.as_mut().map_or(Ok(()), Running::check)?;
            ensure!(Instant::now() < end, "the sink does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Writes the configuration with `extra` at its end, starts the gateway and waits until it answers.
    ///
    /// # Errors
    /// It ends early or never answers.
    pub fn start_gateway(&mut self, devices: &Path, cover: &str, extra: &str) -> Result<()> {
        let listed = self.path("devices.csv");
        fs::copy(devices, &listed)?;
        let config = format!(
            "[gateway]\nstate_dir = {:?}\ninstance = {:?}\ndevices_file = {listed:?}\n\
             [interfaces]\nlan = [\"lan0\"]\nwan = \"wan0\"\nhook = \"tcx\"\n\
             [export]\n{}\n\
             [cover]\nmode = \"plain\"\nsink = \"{SINK}:{PORT}\"\nkey_file = {:?}\n{cover}\n{extra}\n",
            self.path("state"),
            self.instance,
            self.export,
            self.path("sink.key"),
        );
        let file = self.path("gateway.toml");
        fs::write(&file, config)?;
        let mut command = self.home.in_gateway(program("gateway")?);
        command.args(["run", "--config"]).arg(&file);
        self.gateway = Some(Running::start("gateway", command)?);
        let end = Instant::now() + READY;
        while self.status().is_err() {
            self.gateway.as_mut().map_or(Ok(()), Running::check)?;
            ensure!(Instant::now() < end, "the gateway does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What `gateway status --json` says.
    ///
    /// # Errors
    /// The gateway does not answer.
    pub fn status(&self) -> Result<Value> {
        self.ask(&["status", "--json"])
    }

    /// Runs a control command of the gateway and returns its answer.
    ///
    /// # Errors
    /// The gateway does not answer.
    pub fn ask(&self, words: &[&str]) -> Result<Value> {
        let mut command = std::process::Command::new(program("gateway")?);
        let out = command
            .args(words)
            .arg("--socket")
            .arg(self.state("control.sock"))
            .output()?;
        ensure!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// Process number of the gateway.
    pub fn gateway_id(&self) -> u32 {
        self.gateway.as_ref().map_or(0, Running::id)
    }

    /// Kills the gateway without a chance to clean up.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill_gateway(&mut self) -> Result<()> {
        if let Some(mut g) = self.gateway.take() {
            g.stop(Signal::SIGKILL, ENDING)?;
        }
        Ok(())
    }

    /// Stops the gateway and returns its report.
    ///
    /// # Errors
    /// It does not stop, or not with code 0.
    pub fn stop_gateway(&mut self) -> Result<Value> {
        let Some(mut g) = self.gateway.take() else {
            bail!("no gateway runs")
        };
        let status = g.stop(Signal::SIGTERM, ENDING)?;
        ensure!(status.success(), "gateway: {status}");
        Ok(serde_json::from_slice(&fs::read(
            self.state("report.json"),
        )?)?)
    }

    /// Stops the sink and returns its report.
    ///
    /// # Errors
    /// It does not stop, or not with code 0.
    pub fn stop_sink(&mut self) -> Result<Value> {
        let Some(mut s) = self.sink.take() else {
            bail!("no sink runs")
        };
        let status = s.stop(Signal::SIGTERM, ENDING)?;
        ensure!(status.success(), "sink-server: {status}");
        Ok(serde_json::from_slice(&fs::read(self.path("sink.json"))?)?)
    }

    /// A replay of `capture` across the gateway that compares what comes out; its report goes to `replay.json`.
    ///
    /// # Errors
    /// The program is not built.
    pub fn replay(
        &self,
        capture: &Path,
        devices: &Path,
        more: &[&str],
    ) -> Result<std::process::Command> {
        let mut command = std::process::Command::new(program("replay")?);
        command
            .arg(capture)
            .arg("--devices")
            .arg(devices)
            .arg("--pair");
        command.arg(format!("dev0@{}", self.home.topology().home()));
        command.arg(format!("srv0@{}", self.home.topology().network()));
        command
            .args(["--verify", "--ignore-host", SINK, "--stats"])
            .arg(self.path("replay.json"));
        command.args(more);
        Ok(command)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The programs end first, then what a failed test left pinned can go.
        drop((self.gateway.take(), self.sink.take()));
        let _gone = fs::remove_dir_all(self.pins());
        let _gone = fs::remove_file(format!("/run/chaff-{}.lock", self.instance));
    }
}

/// Whether a program wrote a text.
trait StdoutContains {
    fn stdout_contains(&self, text: &str) -> bool;
}

impl StdoutContains for std::process::Output {
    fn stdout_contains(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.stdout).contains(text)
    }
}

/// Lines of a CSV file as fields, without the header.
///
/// # Errors
/// It cannot be read.
pub fn rows(path: &Path) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let text =
        fs::read_to_string(path).with_context(|| format!("while reading {}", path.display()))?;
    let mut lines = text
        .lines()
        .map(|l| l.split(',').map(str::to_owned).collect::<Vec<_>>());
    let header = lines
        .next()
        .with_context(|| format!("{} is empty", path.display()))?;
    Ok((header, lines.collect()))
}
