//! What a process that gave up its privileges may still do: it writes below its own folders only, starts no program, and cannot
//! reach the system calls that administer the machine.
//!
//! Two layers of the kernel, both without privileges: [Landlock](https://docs.kernel.org/userspace-api/landlock.html) for
//! files, signals and TCP, and [seccomp](https://docs.kernel.org/userspace-api/seccomp_filter.html) for system calls. The
//! second holds for every thread at once; the first for the calling thread and those that it starts, and for all from
//! Linux 7.0 on. Reading stays as the user's rights allow.

use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, LandlockStatus, NetPort,
    PathBeneath, PathFd, RestrictSelfAttr as _, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    Scope,
};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What is asked of Landlock: that of Linux 6.12.
const KNOWN: ABI = ABI::V6;
/// Commands of bpf(2) that make something new: maps, programs, types, links, attachments. Those that use what is open
/// remain.
const BPF_MAKES: [u64; 6] = [0, 5, 8, 17, 18, 28];

/// System calls of no use to a program that carries packets: they start programs, trace, mount, change users, clocks, modules or
/// namespaces, or open large parts of the kernel.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_capset,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_settimeofday,
    libc::SYS_setuid,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// The process could not be confined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// Landlock refused, though the kernel has it.
    #[error("while confining the process to its folders")]
    Files(#[from] landlock::RulesetError),
    /// A folder that is to stay writable cannot be opened.
    #[error("while opening {path}, to be kept writable")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: landlock::PathFdError,
    },
    /// The filter of system calls was refused.
    #[error("while refusing system calls")]
    Calls(#[from] seccompiler::Error),
    /// The same, when the filter was put together.
    #[error("while refusing system calls on this processor")]
    Filter(#[from] seccompiler::BackendError),
}

/// How far the process is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confined {
    /// What Landlock enforces: all of it, a part (older kernel), nothing (none, or switched off).
    pub files: Enforced,
    /// Whether Landlock holds in threads that ran before, too.
    pub all_threads: bool,
}

/// How much of what was asked for the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// Everything.
    Fully,
    /// What this kernel knows of it.
    Partly,
    /// Nothing.
    No,
}

/// What the process goes on to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Folders below which it writes; they exist.
    pub folders: Vec<PathBuf>,
    /// TCP ports that it connects to, such as 53 for resolvers' answers that do not fit a datagram.
    pub tcp_ports: Vec<u16>,
}

/// Confines the process for good: writes and TCP connections only as in `kept`, no new program, no signal to others, none of the
/// system calls above. What is open stays so.
///
/// Needs no privileges, but `no_new_privs` ([`crate::privileges::seal`]). Call it when all that needs more is open.
///
/// # Errors
/// [`SandboxError`]. A kernel without Landlock is no error: see [`Confined::files`].
pub fn confine(kept: &Kept) -> Result<Confined, SandboxError> {
    let confined = confine_files(kept)?;
    refuse_calls()?;
    Ok(confined)
}

fn confine_files(kept: &Kept) -> Result<Confined, SandboxError> {
    let changes = AccessFs::from_write(KNOWN);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(changes | AccessFs::Execute)?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for path in &kept.folders {
        let folder = PathFd::new(path).map_err(|source| SandboxError::Folder {
            path: path.clone(),
            source,
        })?;
        rules = rules.add_rule(PathBeneath::new(folder, changes))?;
    }
    for port in &kept.tcp_ports {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    let status = rules.all_threads(true)?.restrict_self()?;
    Ok(Confined {
        files: match status.landlock {
            LandlockStatus::Available { effective_abi, .. } if effective_abi >= KNOWN => {
                Enforced::Fully
            }
            LandlockStatus::Available { .. } => Enforced::Partly,
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => Enforced::No,
        },
        all_threads: status.all_threads,
    })
}

fn refuse_calls() -> Result<(), SandboxError> {
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let bpf: Result<Vec<SeccompRule>, _> = BPF_MAKES
        .iter()
        .map(|command| {
            let is = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *command)?;
            SeccompRule::new(vec![is])
        })
        .collect();
    rules.insert(libc::SYS_bpf, bpf?);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter_all_threads(&program)?)
}

/// Checks every thread of the process: whether it has a filter of system calls.
///
/// # Errors
/// The first thread without, or `/proc` cannot be read.
pub fn verify() -> io::Result<()> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?;
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else {
            continue; // ended meanwhile
        };
        let filtered = status
            .lines()
            .filter_map(|line| line.strip_prefix("Seccomp:"))
            .any(|mode| mode.trim() == "2");
        if !filtered {
            let thread = task.file_name();
            let text = format!("thread {} has no filter", thread.to_string_lossy());
            return Err(io::Error::other(text));
        }
    }
    Ok(())
}
