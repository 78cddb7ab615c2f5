//! What the sink gives up once everything is open.

use anyhow::Context;
use chaff_confine::privileges::{self, Identity};
use chaff_confine::sandbox::{self, Enforced, Kept};

use crate::config::Args;

/// Forbids new privileges; returns whom to become later, if the process is root and may not stay so.
///
/// # Errors
/// There is no such user, or it is root.
pub(crate) fn seal(user: &str) -> anyhow::Result<Option<Identity>> {
    if user.is_empty() || Identity::current().uid != 0 {
        return Ok(None);
    }
    let identity = Identity::of(user).context("--user")?;
    privileges::seal()?;
    Ok(Some(identity))
}

/// Becomes `identity`, then writes no further file, starts no program, and connects to the targets of --forward only.
///
/// # Errors
/// The system refuses; the process must end.
pub(crate) fn give_up(identity: Option<Identity>, args: &Args) -> anyhow::Result<()> {
    let Some(identity) = identity else {
        return Ok(());
    };
    privileges::drop_privileges(identity)?;
    privileges::verify(identity)?;
    let kept = Kept {
        folders: Vec::new(),
        tcp_ports: args.forward.iter().map(|(_, to)| to.port()).collect(),
    };
    let confined = sandbox::confine(&kept).context("--user \"\" leaves it out")?;
    sandbox::verify().context("while checking the filter of system calls")?;
    if confined.files == Enforced::No {
        eprintln!("sink-server: this kernel has no Landlock; only system calls are filtered");
    }
    Ok(())
}
