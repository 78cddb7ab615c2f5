//! Giving up what is needed only to start.
//!
//! Order, in a process that starts as root:
//! 1. [`seal`], first thing in `main`, before any thread: no new privileges ever, an empty bounding set. Threads made
//!    later inherit both. What the process holds stays usable: attaching programs and marking sockets still work.
//! 2. Open sockets, attach, start threads with real-time priority (it needs CAP_SYS_NICE and outlives it).
//! 3. [`drop_privileges`]: user, group and groups of *all* threads (the C library applies them to each), which makes
//!    the kernel clear every thread's capabilities; then this thread's by hand.
//! 4. [`verify`]: reads every thread's state back from `/proc` and names the thread that kept something.
//!
//! A process that starts as an ordinary user with ambient capabilities changes no user in step 3, so each other thread
//! must drop its own: [`drop_thread_capabilities`], after step 3.

use std::fs;
use std::io;

use caps::CapSet;
use nix::unistd::{Gid, Group, Uid, User, getgid, getuid, setgroups, setresgid, setresuid};

/// Whom to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User number, not 0.
    pub uid: u32,
    /// Group number, not 0.
    pub gid: u32,
}

/// Privileges could not be given up. The process must end: it is more powerful than its owner believes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivilegeError {
    /// No such user, or no `uid:gid`.
    #[error("no user named {0:?}, and it is not UID:GID")]
    NoUser(String),
    /// Becoming root gives up nothing.
    #[error("{0:?} is root; name an ordinary user")]
    Root(String),
    /// The system refused a step.
    #[error("while {doing}")]
    Step {
        /// The step.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thread still has what it must not have.
    #[error("thread {thread} ({name}) still has {what}")]
    Kept {
        /// Thread number.
        thread: u32,
        /// Thread name.
        name: String,
        /// Line of its state in `/proc`.
        what: String,
    },
}

impl Identity {
    /// Finds a user by name, or takes `uid:gid`.
    ///
    /// # Errors
    /// [`PrivilegeError::NoUser`], [`PrivilegeError::Root`].
    pub fn of(user: &str) -> Result<Self, PrivilegeError> {
        let missing = || PrivilegeError::NoUser(user.to_owned());
        let identity = if let Some((uid, gid)) = user.split_once(':') {
            let gid = match gid.parse() {
                Ok(number) => number,
                Err(_) => Group::from_name(gid)
                    .ok()
                    .flatten()
                    .ok_or_else(missing)?
                    .gid
                    .as_raw(),
            };
            Self {
                uid: uid.parse().map_err(|_| missing())?,
                gid,
            }
        } else {
            let found = User::from_name(user).ok().flatten().ok_or_else(missing)?;
            Self {
                uid: found.uid.as_raw(),
                gid: found.gid.as_raw(),
            }
        };
        if identity.uid == 0 || identity.gid == 0 {
            return Err(PrivilegeError::Root(user.to_owned()));
        }
        Ok(identity)
    }

    /// Who the process is now.
    pub fn current() -> Self {
        Self {
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
        }
    }
}

fn step<T, E: Into<io::Error>>(
    doing: &'static str,
    result: Result<T, E>,
) -> Result<T, PrivilegeError> {
    result.map_err(|source| PrivilegeError::Step {
        doing,
        source: source.into(),
    })
}

/// Forbids the process to gain privileges, now and in threads and programs it starts later.
///
/// Call it while the process has one thread. An empty bounding set needs CAP_SETPCAP; a process without it keeps the
/// set, which without root and without file capabilities gives nothing.
///
/// # Errors
/// [`PrivilegeError::Step`].
pub fn seal() -> Result<(), PrivilegeError> {
    step(
        "forbidding new privileges",
        nix::sys::prctl::set_no_new_privs(),
    )?;
    if caps::has_cap(None, CapSet::Effective, caps::Capability::CAP_SETPCAP).unwrap_or(false) {
        step(
            "emptying the bounding set",
            caps::clear(None, CapSet::Bounding).map_err(io::Error::other),
        )?;
    }
    Ok(())
}

/// Becomes `to` in every thread and drops the calling thread's capabilities.
///
/// A process that is already `to` changes no user. Map descriptors, sockets and attached programs keep working.
///
/// # Errors
/// [`PrivilegeError::Step`]; then the process may be half way and must end.
pub fn drop_privileges(to: Identity) -> Result<(), PrivilegeError> {
    if Identity::current() != to || getuid().is_root() {
        let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
        step("leaving supplementary groups", setgroups(&[]))?;
        step("changing the group", setresgid(gid, gid, gid))?;
        step("changing the user", setresuid(uid, uid, uid))?;
    }
    step("dropping capabilities", drop_thread_capabilities())?;
    step(
        "forbidding new privileges",
        nix::sys::prctl::set_no_new_privs(),
    )
}

/// Drops the calling thread's capabilities: ambient, effective, permitted, inheritable.
///
/// # Errors
/// What the system says.
pub fn drop_thread_capabilities() -> io::Result<()> {
    for set in [
        CapSet::Ambient,
        CapSet::Effective,
        CapSet::Permitted,
        CapSet::Inheritable,
    ] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Checks every thread of the process: user, groups, capabilities, no new privileges.
///
/// # Errors
/// [`PrivilegeError::Kept`], naming the thread; [`PrivilegeError::Step`] when `/proc` cannot be read.
pub fn verify(to: Identity) -> Result<(), PrivilegeError> {
    let tasks = step("listing threads", fs::read_dir("/proc/self/task"))?;
    for task in tasks {
        let task = step("listing threads", task)?;
        let status = match fs::read_to_string(task.path().join("status")) {
            Ok(status) => status,
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => continue, // ended meanwhile
            Err(e) => return step("reading a thread's state", Err(e)),
        };
        if let Some(what) = kept(&status, to) {
            return Err(PrivilegeError::Kept {
                thread: task.file_name().to_string_lossy().parse().unwrap_or(0),
                name: field(&status, "Name").to_owned(),
                what,
            });
        }
    }
    Ok(())
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or("")
        .trim()
}

/// The first line of a thread's state that is more than `to` should have.
fn kept(status: &str, to: Identity) -> Option<String> {
    let four = |n: u32| [n; 4].map(|n| n.to_string()).to_vec();
    let words = |name| -> Vec<String> {
        field(status, name)
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let report = |name: &str| Some(format!("{name} {}", field(status, name)));
    if words("Uid") != four(to.uid) {
        return report("Uid");
    }
    if words("Gid") != four(to.gid) {
        return report("Gid");
    }
    if words("Groups").iter().any(|g| *g != to.gid.to_string()) {
        return report("Groups");
    }
    for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        if u64::from_str_radix(field(status, name), 16) != Ok(0) {
            return report(name);
        }
    }
    if field(status, "NoNewPrivs") != "1" {
        return report("NoNewPrivs");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROPPED: &str = "Name:\tx\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\nGroups:\t \n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";
    const NOBODY: Identity = Identity {
        uid: 65534,
        gid: 65534,
    };

    #[test]
    fn finds_whatever_was_kept() {
        assert_eq!(kept(DROPPED, NOBODY), None);
        for (from, to, what) in [
            (
                "Uid:\t65534\t65534\t65534\t65534",
                "Uid:\t65534\t65534\t0\t65534",
                "Uid",
            ),
            (
                "Gid:\t65534\t65534\t65534\t65534",
                "Gid:\t0\t65534\t65534\t65534",
                "Gid",
            ),
            ("Groups:\t ", "Groups:\t0 4", "Groups"),
            (
                "CapPrm:\t0000000000000000",
                "CapPrm:\t0000000000000400",
                "CapPrm",
            ),
            ("CapEff:\t0000000000000000", "", "CapEff"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"),
        ] {
            let status = DROPPED.replace(from, to);
            assert!(kept(&status, NOBODY).unwrap().starts_with(what));
        }
    }

    #[test]
    fn names_become_numbers_and_root_is_refused() {
        assert_eq!(Identity::of("65534:65534").unwrap(), NOBODY);
        assert!(matches!(Identity::of("root"), Err(PrivilegeError::Root(_))));
        assert!(matches!(Identity::of("5:0"), Err(PrivilegeError::Root(_))));
        for bad in ["", "no-such-user-here", "x:1", "1:no-such-group"] {
            assert!(matches!(Identity::of(bad), Err(PrivilegeError::NoUser(_))));
        }
    }
}
