use std::io;
use std::path::PathBuf;

/// Why the meter could not be set up or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeterError {
    /// A privilege is missing.
    #[error("no permission while {doing} (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root)")]
    Privilege {
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel lacks a feature.
    #[error("the kernel cannot do this: {doing} (XDP needs Linux 5.15, tcx 6.6)")]
    Kernel {
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no interface of that name in this network namespace.
    #[error("no such interface: {name}")]
    Interface {
        /// The name.
        name: String,
    },
    /// The object file is not a meter of this version.
    #[error("not a usable meter object: {what}")]
    Object {
        /// What is wrong.
        what: String,
    },
    /// An argument is out of range.
    #[error("{what}")]
    Options {
        /// What is wrong.
        what: String,
    },
    /// Something in bpffs failed.
    #[error("while {doing} {path}")]
    Pin {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another call failed.
    #[error("while {doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// The answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl MeterError {
    /// Whether the cause is a missing privilege or kernel feature (exit code 3 of the programs).
    pub fn is_environment(&self) -> bool {
        matches!(self, Self::Privilege { .. } | Self::Kernel { .. })
    }

    /// Sorts an error by the operating system's code in its chain of causes.
    pub(super) fn of(
        doing: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let doing = doing.into();
        let code = os_code(&source);
        let source = Box::new(source);
        match code {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege { doing, source },
            Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::E2BIG | 524) => {
                Self::Kernel { doing, source }
            }
            _ => Self::Io { doing, source },
        }
    }

    pub(super) fn pin(
        doing: &'static str,
        path: impl Into<PathBuf>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let path = path.into();
        match os_code(&source) {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege {
                doing: format!("{doing} {}", path.display()),
                source: Box::new(source),
            },
            _ => Self::Pin {
                doing,
                path,
                source: Box::new(source),
            },
        }
    }
}

/// The first operating system error code in a chain of causes.
pub(crate) fn os_code(e: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut at = Some(e);
    while let Some(e) = at {
        if let Some(code) = e
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(code);
        }
        at = e.source();
    }
    None
}
