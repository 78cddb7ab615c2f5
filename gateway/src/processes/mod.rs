//! Which process of this host owns a flow.
//!
//! The exact way is a small kernel program on the root cgroup ([`Kernel`]): sockets are noted when they are made, in their
//! process's own context, and each packet notes its addresses for its socket, so that a socket of a few milliseconds is
//! found too. `/proc` is read once besides, for sockets that are older than the program. Where the kernel or the privileges
//! do not allow the program, `/proc` is read ten times a second and remembered: that misses sockets which came and went
//! between two readings, those of other network namespaces, and, without privileges, those of other users.
//!
//! ```no_run
//! use chaff_abi::FlowKey;
//! use chaff_gateway::processes::{KEEP, Processes};
//! let processes = Processes::open(KEEP);
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
//! namespaces use the same addresses and ports at once, the one that sent last counts. The kernel program remembers the
//! 16,384 flows that were busy last.

mod kernel;
mod proc_table;
mod watch;

use std::time::Duration;

use chaff_abi::FlowKey;
pub use chaff_flow::Process;

pub use kernel::Kernel;
pub use proc_table::ProcTable;
pub use watch::Watch;

/// How long `/proc`'s sockets are remembered after they are gone, unless said otherwise: a flow's usual idle timeout and
/// five seconds.
pub const KEEP: Duration = Duration::from_secs(125);

/// Finds owners of flows.
pub struct Processes {
    source: Source,
}

enum Source {
    /// The program, and the sockets that are older.
    Kernel(Box<Kernel>, ProcTable),
    /// `/proc` alone, and why.
    Proc(Watch, String),
}

impl Processes {
    /// Loads the kernel program, or goes on without it: then sockets are remembered for `keep` after they are gone.
    pub fn open(keep: Duration) -> Self {
        Self::exact().unwrap_or_else(|why| Self::from_proc(keep, why))
    }

    /// With the kernel program. Needs privileges here and none later.
    ///
    /// # Errors
    /// What is missing, in one line.
    pub fn exact() -> Result<Self, String> {
        let kernel = Kernel::load().map_err(|e| format!("{e:#}"))?;
        // After the program: what is made in between is known to both.
        let older = ProcTable::read();
        Ok(Self {
            source: Source::Kernel(Box::new(kernel), older),
        })
    }

    /// Without the kernel program, for the reason given.
    pub fn from_proc(keep: Duration, why: String) -> Self {
        Self {
            source: Source::Proc(Watch::start(keep), why),
        }
    }

    /// Why sockets that live for less than a tenth of a second may be missed, in one line; `None` when none is.
    pub fn why_inexact(&self) -> Option<&str> {
        match &self.source {
            Source::Kernel(..) => None,
            Source::Proc(_, why) => Some(why),
        }
    }

    /// The process that owns the flow at this host's end; where both ends are on this host, that of the first in the key.
    pub fn lookup(&self, key: &FlowKey) -> Option<Process> {
        let here_first = FlowKey {
            vlan: [0; 2],
            ..*key
        };
        let both = [here_first, here_first.reversed()];
        match &self.source {
            Source::Kernel(kernel, older) => {
                let new = both.iter().find_map(|k| kernel.lookup(k));
                new.or_else(|| both.iter().find_map(|k| older.lookup(k)))
            }
            Source::Proc(watch, _) => watch.lookup(&both),
        }
    }
}
