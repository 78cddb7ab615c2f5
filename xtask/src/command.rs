//! Runs programs: one-shot commands with errors that quote their stderr, and long-running ones that are always stopped.

use std::fmt;
use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Why a task stopped, where the exit code says more than 1. The message goes into the error chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The task ran, but what it checks does not hold: exit code 1.
    Check,
    /// Wrong usage or configuration: exit code 2.
    Usage,
    /// A privilege, kernel feature or package is missing: exit code 3.
    Privilege,
}

impl Stop {
    /// Returns the process exit code of this reason.
    pub fn code(self) -> u8 {
        match self {
            Stop::Check => 1,
            Stop::Usage => 2,
            Stop::Privilege => 3,
        }
    }

    /// Makes an error that carries this reason and `message`.
    pub fn error(self, message: impl fmt::Display) -> anyhow::Error {
        anyhow!(self).context(message.to_string())
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stop::Check => "a check failed",
            Stop::Usage => "see --help",
            Stop::Privilege => "run as root (sudo), or with --no-privileged where the task has it",
        })
    }
}

impl std::error::Error for Stop {}

/// Returns whether this process may make network namespaces.
pub fn privileged() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Fails with [`Stop::Privilege`] unless [`privileged`].
pub fn require_root(what: &str) -> Result<()> {
    if privileged() {
        return Ok(());
    }
    Err(Stop::Privilege.error(format_args!("{what} needs root")))
}

/// Splits `line` at spaces into a command. For fixed command lines only; arguments with spaces go through `Command`.
pub fn words(line: &str) -> Command {
    let mut parts = line.split_whitespace();
    let mut command = Command::new(parts.next().unwrap_or("true"));
    command.args(parts);
    command
}

/// Runs a command to its end and returns its stdout.
///
/// # Errors
/// When it cannot be started or ends with a failure; the message quotes the command and its stderr.
pub fn output(mut command: Command) -> Result<String> {
    let shown = shown(&command);
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("while starting `{shown}` (is it installed?)"))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!("`{shown}`: {}: {}", out.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs the fixed command line `line`; see [`output`].
pub fn run(line: &str) -> Result<()> {
    output(words(line)).map(drop)
}

/// Returns whether `program` is found on the PATH (or in the sbin folders, which some users lack there).
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// Returns the command as a user would type it.
pub fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Notices Ctrl-C and SIGTERM, so that a task can stop its programs and remove its namespaces before it ends.
#[derive(Clone, Debug)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
}

impl Interrupt {
    /// Starts watching; from now on the signals no longer end this process by themselves.
    pub fn watch() -> Result<Self> {
        let raised = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&raised))
                .context("while asking for signals")?;
        }
        Ok(Self { raised })
    }

    /// Fails once a signal has come.
    pub fn check(&self) -> Result<()> {
        anyhow::ensure!(!self.raised.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}

/// A running program that is stopped when this is dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
}

impl Running {
    /// Starts `command`; `name` appears in messages.
    pub fn start(name: &str, mut command: Command) -> Result<Self> {
        let shown = shown(&command);
        let child = command
            .spawn()
            .with_context(|| format!("while starting {name} (`{shown}`)"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
        })
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes one line to the program's stdin (which must be piped).
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("stdin is not piped")?;
        writeln!(stdin, "{line}").with_context(|| format!("while writing to {}", self.name))?;
        stdin
            .flush()
            .with_context(|| format!("while writing to {}", self.name))
    }

    /// Fails when the program has already ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended early: {status}", self.name),
        }
    }

    /// Waits at most `limit` for the program to end by itself; `None` when it is still running.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the program to end with `signal`, waits at most `limit`, then kills it.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&mut self, signal: Signal, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        kill(pid(&self.child), signal).with_context(|| format!("while stopping {}", self.name))?;
        if let Some(status) = self.wait(limit)? {
            return Ok(status);
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!(
            "{} did not end within {limit:?} after {signal} and was killed",
            self.name
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing can be reported here; `stop` is the call that checks.
        let _ = self.stop(Signal::SIGTERM, Duration::from_secs(3));
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_carries_reason_and_message() {
        let error = Stop::Privilege.error("netns needs root");
        assert_eq!(error.downcast_ref::<Stop>(), Some(&Stop::Privilege));
        assert!(format!("{error:#}").starts_with("netns needs root: run as root"));
    }

    #[test]
    fn failing_command_quotes_its_stderr() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken >&2; exit 4"]);
        let text = format!("{:#}", output(command).unwrap_err());
        assert!(text.contains("broken") && text.contains('4'), "{text}");
    }

    #[test]
    fn stop_kills_what_ignores_the_signal() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' INT; while :; do sleep 0.05; done"]);
        let mut running = Running::start("stubborn", command).unwrap();
        thread::sleep(Duration::from_millis(100));
        let error = running
            .stop(Signal::SIGINT, Duration::from_millis(200))
            .unwrap_err();
        assert!(error.to_string().contains("killed"), "{error}");
        assert!(running.check().is_err());
    }
}
