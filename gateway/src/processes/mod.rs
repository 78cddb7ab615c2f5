//! Which process of this host owns a flow.
//!
//! The exact way is a small kernel program on the root cgroup ([`Kernel`]): sockets are noted when they are made, in their
//! process's own context, and each packet notes its addresses for its socket, so that a socket of a few milliseconds is
//! found too. Where the kernel or the privileges do not allow it, and for sockets that are older than the program, `/proc`
//! is read: that misses sockets which came and went between two readings.
//!
//! ```no_run
//! use chaff_abi::FlowKey;
//! let mut processes = chaff_gateway::processes::Processes::open();
//! if let Some(why) = processes.why_inexact() {
//!     eprintln!("process names come from /proc only: {why}");
//! }
//! let flow = FlowKey::default();
//! if let Some(process) = processes.lookup(&flow) {
//!     println!("{} {}", process.pid, process.name);
//! }
//! ```
//!
//! Only sockets of this host are known: traffic that is forwarded belongs to no process here. Where several network
//! namespaces use the same addresses and ports at once, the one that sent last counts.

mod kernel;
mod proc_table;

use std::time::{Duration, Instant};

use chaff_abi::FlowKey;

pub use kernel::Kernel;
pub use proc_table::ProcTable;

/// A process of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Name, at most 15 bytes, as the kernel keeps it for the thread that made the socket.
    pub name: String,
}

/// Time between two readings of `/proc`.
const REFRESH: Duration = Duration::from_secs(1);

/// Finds owners of flows.
pub struct Processes {
    kernel: Result<Kernel, String>,
    table: ProcTable,
    read_at: Instant,
}

impl Processes {
    /// Loads the kernel program, or goes on without it; reads `/proc` once for sockets that exist already.
    pub fn open() -> Self {
        Self {
            kernel: Kernel::load().map_err(|e| format!("{e:#}")),
            table: ProcTable::read(),
            read_at: Instant::now(),
        }
    }

    /// Without the kernel program.
    pub fn from_proc() -> Self {
        Self {
            kernel: Err("not asked for".into()),
            table: ProcTable::read(),
            read_at: Instant::now(),
        }
    }

    /// Why sockets that live for less than a second may be missed; `None` when none is.
    pub fn why_inexact(&self) -> Option<&str> {
        self.kernel.as_ref().err().map(String::as_str)
    }

    /// The process that owns the flow at this host's end; it does not matter which end is first in the key.
    pub fn lookup(&mut self, key: &FlowKey) -> Option<Process> {
        let here_first = FlowKey {
            vlan: [0; 2],
            ..*key
        };
        let there_first = here_first.reversed();
        let found = self
            .kernel
            .as_ref()
            .ok()
            .and_then(|k| k.lookup(&here_first).or_else(|| k.lookup(&there_first)));
        if found.is_some() {
            return found;
        }
        let both = [here_first, there_first];
        if let Some(found) = both.iter().find_map(|k| self.table.lookup(k)) {
            return Some(found);
        }
        if self.read_at.elapsed() < REFRESH {
            return None;
        }
        self.table = ProcTable::read();
        self.read_at = Instant::now();
        both.iter().find_map(|k| self.table.lookup(k))
    }
}
