//! What the end-to-end tests in `tests/` share: namespaces that go away, the built programs, reasons to skip.
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! use chaff_tests::{Home, Layout, skip_without_root};
//! if skip_without_root("crosses_the_gateway") {
//!     return Ok(()); // has said why on stderr
//! }
//! let home = Home::new("doc", Layout::Bridge)?;
//! let mut gateway = home.in_gateway("ip"); // a Command inside the gateway's namespace
//! assert!(gateway.args(["link", "show", "lan0"]).output()?.status.success());
//! # Ok(())
//! # }
//! ```
//!
//! It tests nothing itself and depends on no Chaff crate; the files in `tests/` name those that they test.
#![forbid(unsafe_code)]

pub mod stage;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
pub use xtask::command::{Running, privileged};
pub use xtask::netns::{GATEWAY, Layout, SINK, Topology};
pub use xtask::root;
use xtask::{command, netns};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Returns a name that no other test, process or earlier run of this machine uses at the same time.
fn unique(prefix: &str) -> String {
    format!(
        "{prefix}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// One empty network namespace with loopback up; removed on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace whose name starts with `prefix` and is unique.
    ///
    /// # Errors
    /// Without root, or when `ip` is missing or refuses.
    pub fn new(prefix: &str) -> Result<Self> {
        command::require_root("a network namespace")?;
        let name = unique(prefix);
        command::run(&format!("ip netns add {name}"))?;
        let made = Self { name };
        command::run(&format!("ip -n {} link set lo up", made.name))?;
        Ok(made)
    }

    /// Returns the name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a command that runs `program` inside (own process id, the caller's `/sys`).
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        netns::command(&self.name, program)
    }

    /// Runs `work` on a thread inside: sockets made there belong to the namespace for good.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        netns::inside(&self.name, work)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = command::run(&format!("ip netns delete {}", self.name)) {
            eprintln!("left behind: {error:#}");
        }
    }
}

/// The home, gateway and network namespaces of `cargo xtask netns`, under a unique name; removed on drop.
#[derive(Debug)]
pub struct Home {
    topology: Topology,
}

impl Home {
    /// Makes the three namespaces; their names start with `prefix`.
    ///
    /// # Errors
    /// Without root, or when a tool is missing or refuses.
    pub fn new(prefix: &str, layout: Layout) -> Result<Self> {
        let topology = Topology::new(&unique(prefix))?;
        topology.up(layout)?;
        Ok(Self { topology })
    }

    /// Returns the names of the namespaces.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Returns a command in the home (interface `dev0`).
    pub fn in_home(&self, program: impl AsRef<OsStr>) -> Command {
        netns::command(&self.topology.home(), program)
    }

    /// Returns a command in the gateway (interfaces `lan0`, `wan0`, and `br0` in bridge layout).
    pub fn in_gateway(&self, program: impl AsRef<OsStr>) -> Command {
        netns::command(&self.topology.gateway(), program)
    }

    /// Returns a command in the network behind the gateway (interface `srv0`).
    pub fn in_network(&self, program: impl AsRef<OsStr>) -> Command {
        netns::command(&self.topology.network(), program)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = self.topology.down() {
            eprintln!("left behind: {error:#}");
        }
    }
}

/// Returns the built program `name` (gateway, replay, sink-server, trainer) of the same profile as this test.
///
/// # Errors
/// When it is not built: `cargo test -p chaff-tests` alone does not build programs, `cargo build --release` does.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("while finding the test's own folder")?;
    let mut folders = test.ancestors().skip(1);
    let found = folders
        .by_ref()
        .take(2)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file());
    found.with_context(|| {
        format!(
            "no program {name} beside {}; build the workspace first",
            test.display()
        )
    })
}

/// Returns a file of `tests/fixtures`.
///
/// # Errors
/// When there is no such file.
pub fn fixture(name: &str) -> Result<PathBuf> {
    let path = root().join("tests/fixtures").join(name);
    ensure!(path.is_file(), "no fixture {}", path.display());
    Ok(path)
}

/// Says "skipped" and returns true without root, or when `CHAFF_UNPRIVILEGED` is set (`cargo xtask test --no-privileged`).
/// With `CHAFF_NO_SKIP=1` it panics instead: a CI job must not skip unseen.
pub fn skip_without_root(test: &str) -> bool {
    let usable = privileged() && std::env::var_os("CHAFF_UNPRIVILEGED").is_none();
    !usable && skipped(test, "needs root for network namespaces")
}

/// Says why `test` is skipped and returns true; panics when `CHAFF_NO_SKIP=1`.
pub fn skipped(test: &str, why: &str) -> bool {
    assert!(
        std::env::var_os("CHAFF_NO_SKIP").is_none_or(|v| v != "1"),
        "{test}: {why}"
    );
    eprintln!("skipped: {test}: {why}");
    true
}

/// Returns a folder or file of the developers' captures beside the repository, or says "skipped" and returns `None`.
pub fn shared(test: &str, relative: &str) -> Option<PathBuf> {
    let path = root().join("../shared").join(relative);
    if !path.exists() {
        eprintln!("skipped: {test}: no {}", path.display());
        return None;
    }
    Some(path)
}
