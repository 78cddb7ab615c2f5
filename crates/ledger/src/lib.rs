//! The privacy ledger in a file, stored before answered, for one process ([`LedgerFile::open`]) or several at a time
//! ([`LedgerFile::open_shared`]).
//!
//! Beside `ledger.jsonl` stands `ledger.jsonl.head`, which repeats the number and hash of the last entry. A ledger that
//! was deleted, cut or put back from a backup does not contain that entry and is refused; where backups hold both files,
//! keep the head on another disk. Both files are opened once and written through those descriptors, so spending goes on
//! after privileges are given up. What a ledger is, and what its entries mean, is [`chaff_privacy::Ledger`]'s.
//!
//! ```
//! use chaff_ledger::LedgerFile;
//! use chaff_privacy::Epsilon;
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("ledger.jsonl");
//! let mut ledger = LedgerFile::open(&path, Epsilon::new(1.0)?, 0.0)?;
//! let _grant = ledger.spend("bytes of the day", Epsilon::new(0.6)?)?;
//! drop(ledger);
//! let mut ledger = LedgerFile::open(&path, Epsilon::new(1.0)?, 0.0)?;
//! assert!(ledger.spend("once more", Epsilon::new(0.6)?).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chaff_privacy::{
    Budget, CutLine, Epsilon, Expense, Grant, Head, Ledger, LedgerError, Paid, Pending, Refused,
};

/// A larger ledger is not read: about 1,000,000 entries.
const MAX_BYTES: u64 = 256 << 20;
/// A ledger's first line is shorter.
const MAX_HEADER: u64 = 16 << 10;
/// The head file has two slots written in turn, so a write that a crash tears leaves the other one whole.
const SLOT: usize = 256;

/// A ledger whose entries are durable before they count.
#[derive(Debug)]
pub struct LedgerFile {
    path: PathBuf,
    file: File,
    head_path: PathBuf,
    head_file: File,
    ledger: Ledger,
    len: u64,
    /// Whether the lock is held for each expense only.
    is_shared: bool,
}

/// Why a ledger file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerFileError {
    /// The system refused an operation.
    #[error("{path}: while {doing}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is none of that name.
    #[error("{path}: no such ledger")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds it.
    #[error("{path}: another process uses this ledger")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Another file has its name: it was replaced while this process had it open.
    #[error("{path}: the file was replaced by another one while it was in use; start again")]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// Others than the owner may write it, or it is no regular file.
    #[error("{path}: the ledger must be a regular file that only its owner can write (mode 0600)")]
    Unsafe {
        /// The file.
        path: PathBuf,
    },
    /// It is larger than any real ledger.
    #[error("{path}: {bytes} bytes is too large for a ledger (at most {MAX_BYTES})")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The head file is missing or cannot be read while the ledger has entries.
    #[error(
        "{path}: missing or damaged; without it a ledger put back from a backup is not found. Restore it, or start a new ledger"
    )]
    NoHead {
        /// The head file.
        path: PathBuf,
    },
    /// The content is not a usable ledger.
    #[error("{path}: {source}")]
    Ledger {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: LedgerError,
    },
    /// The budget does not allow it; nothing was spent.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl LedgerFile {
    /// Opens or creates the ledger at `path` and locks it until dropped.
    ///
    /// A last line that a crash cut is settled; [`LedgerFile::cut_line`] tells how.
    ///
    /// # Errors
    /// [`LedgerFileError`], naming the file.
    pub fn open(path: &Path, total: Epsilon, delta: f64) -> Result<Self, LedgerFileError> {
        Self::open_as(path, Budget::lifetime(total, delta), false)
    }

    /// As [`LedgerFile::open`], for a ledger of any kind that several processes spend from: it is locked for each expense
    /// only, and what others spent is read first.
    ///
    /// # Errors
    /// As [`LedgerFile::open`].
    pub fn open_shared(path: &Path, budget: Budget) -> Result<Self, LedgerFileError> {
        Self::open_as(path, budget, true)
    }

    /// Opens a ledger that is there with the budget that it was set up with, shared as by [`LedgerFile::open_shared`]. Makes
    /// none.
    ///
    /// # Errors
    /// [`LedgerFileError::Missing`], and as [`LedgerFile::open`].
    pub fn reopen(path: &Path) -> Result<Self, LedgerFileError> {
        if !path
            .try_exists()
            .map_err(io_error(path, "looking for it"))?
        {
            return Err(LedgerFileError::Missing { path: path.into() });
        }
        let (file, _) = open_private(path)?;
        let mut start = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, MAX_HEADER), &mut start)
            .map_err(io_error(path, "reading"))?;
        let budget = Ledger::stored_budget(&start).map_err(|source| LedgerFileError::Ledger {
            path: path.into(),
            source,
        })?;
        Self::open_as(path, budget, true)
    }

    fn open_as(path: &Path, budget: Budget, is_shared: bool) -> Result<Self, LedgerFileError> {
        let mut head_path = path.as_os_str().to_owned();
        head_path.push(".head");
        let head_path = PathBuf::from(head_path);
        let (file, _) = open_private(path)?;
        lock(&file, path, is_shared)?;
        same_file(&file, path)?;
        let stored = read_from(&file, path, 0)?;
        let (head_file, new_head) = open_private(&head_path)?;
        let head_bytes = read_from(&head_file, &head_path, 0)?;
        let since = newest_head(&head_bytes);
        let broken = |source| LedgerFileError::Ledger {
            path: path.into(),
            source,
        };
        let ledger = Ledger::open_budget(budget, &stored, since).map_err(broken)?;
        // An empty head file is what a crash at creation leaves; then nothing was spent yet.
        if since.is_none() && (ledger.head().entry > 0 || !head_bytes.is_empty()) {
            if new_head {
                // Leave no empty head file behind: the next start must refuse for the same reason.
                let _ = std::fs::remove_file(&head_path);
            }
            return Err(LedgerFileError::NoHead { path: head_path });
        }
        let mut this = Self {
            path: path.into(),
            file,
            head_path,
            head_file,
            ledger,
            len: stored.len() as u64,
            is_shared,
        };
        this.settle()?;
        this.write_head()?;
        sync_directory(path)?;
        this.unlock();
        Ok(this)
    }

    /// Lets others spend.
    fn unlock(&self) {
        if self.is_shared {
            // Only of a lock that is not held could it be told that it fails.
            let _ = self.file.unlock();
        }
    }

    /// Reads what other processes spent, so that [`LedgerFile::ledger`] shows it. Without others it changes nothing.
    ///
    /// # Errors
    /// As [`LedgerFile::open_shared`]: the ledger was changed, cut, put back or replaced meanwhile.
    pub fn refresh(&mut self) -> Result<(), LedgerFileError> {
        if !self.is_shared {
            return Ok(());
        }
        lock(&self.file, &self.path, true)?;
        let read = self.read_on();
        self.unlock();
        read
    }

    /// Reads on; the lock is held.
    fn read_on(&mut self) -> Result<(), LedgerFileError> {
        same_file(&self.file, &self.path)?;
        same_file(&self.head_file, &self.head_path)?;
        let broken = |source| LedgerFileError::Ledger {
            path: self.path.clone(),
            source,
        };
        let size = self
            .file
            .metadata()
            .map_err(io_error(&self.path, "reading"))?
            .len();
        let head_bytes = read_from(&self.head_file, &self.head_path, 0)?;
        let Some(since) = newest_head(&head_bytes) else {
            return Err(LedgerFileError::NoHead {
                path: self.head_path.clone(),
            });
        };
        if size < self.len {
            return Err(broken(LedgerError::Older {
                want: self.ledger.head().entry,
                found: 0,
            }));
        }
        let appended = read_from(&self.file, &self.path, self.len)?;
        let from = self.len as usize;
        self.ledger
            .read_on(from, &appended, Some(since))
            .map_err(broken)?;
        self.len += appended.len() as u64;
        self.settle()
    }

    /// Carries out what opening asked for: header of a new ledger, or the end of a cut line.
    fn settle(&mut self) -> Result<(), LedgerFileError> {
        let Some(store) = self.ledger.to_store() else {
            return Ok(());
        };
        let keep = store.keep as u64;
        self.file
            .set_len(keep)
            .map_err(io_error(&self.path, "cutting an unfinished line"))?;
        self.file
            .write_all_at(&store.append, keep)
            .and_then(|()| self.file.sync_all())
            .map_err(io_error(&self.path, "writing"))?;
        self.len = keep + store.append.len() as u64;
        self.ledger.mark_stored();
        Ok(())
    }

    fn write_head(&self) -> Result<(), LedgerFileError> {
        let head = self.ledger.head();
        // Twice in one slot: a torn write leaves two different lines, which do not count.
        let mut slot = format!("{head}\n{head}\n").into_bytes();
        slot.resize(SLOT, b' ');
        let at = (head.entry % 2) * SLOT as u64;
        self.head_file
            .write_all_at(&slot, at)
            .and_then(|()| self.head_file.sync_all())
            .map_err(io_error(&self.head_path, "writing"))
    }

    /// Spends `epsilon` and makes the entry durable, then gives the grant.
    ///
    /// When the disk is full, nothing is spent and the ledger stays usable. When it cannot be told what reached the
    /// disk, every further call is refused until the ledger is opened again.
    ///
    /// # Errors
    /// [`LedgerFileError::Refused`] by the budget, [`LedgerFileError::Io`] by the disk.
    pub fn spend(&mut self, label: &str, epsilon: Epsilon) -> Result<Grant, LedgerFileError> {
        self.store(|ledger| ledger.spend(label, epsilon))
    }

    /// As [`LedgerFile::spend`], for approximate releases: [`Ledger::spend_approximate`].
    ///
    /// # Errors
    /// As [`LedgerFile::spend`].
    pub fn spend_approximate(
        &mut self,
        label: &str,
        epsilon: Epsilon,
        delta: f64,
    ) -> Result<Grant, LedgerFileError> {
        self.store(|ledger| ledger.spend_approximate(label, epsilon, delta))
    }

    /// As [`LedgerFile::spend`], from daily purses: [`Ledger::charge`].
    ///
    /// # Errors
    /// As [`LedgerFile::spend`].
    pub fn charge(&mut self, expense: &Expense<'_>) -> Result<Paid, LedgerFileError> {
        self.store(|ledger| ledger.charge(expense))
    }

    fn store<G>(
        &mut self,
        spend: impl FnOnce(&mut Ledger) -> Result<Pending<'_, G>, Refused>,
    ) -> Result<G, LedgerFileError> {
        if !self.is_shared {
            return self.store_locked(spend);
        }
        lock(&self.file, &self.path, true)?;
        let stored = self.read_on().and_then(|()| self.store_locked(spend));
        self.unlock();
        stored
    }

    fn store_locked<G>(
        &mut self,
        spend: impl FnOnce(&mut Ledger) -> Result<Pending<'_, G>, Refused>,
    ) -> Result<G, LedgerFileError> {
        let pending = spend(&mut self.ledger)?;
        let entry_len = pending.entry().len() as u64;
        if let Err(source) = self.file.write_all_at(pending.entry(), self.len) {
            // Part of the line may be there. Only when it is surely gone was nothing spent.
            if self
                .file
                .set_len(self.len)
                .and_then(|()| self.file.sync_all())
                .is_ok()
            {
                pending.abandon();
            }
            return Err(io_error(&self.path, "appending an entry")(source));
        }
        self.file
            .sync_data()
            .map_err(io_error(&self.path, "making an entry durable"))?;
        self.len += entry_len;
        let grant = pending.stored();
        self.write_head()?;
        Ok(grant)
    }

    /// The ledger, for reading.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What became of a line that a crash cut, if there was one.
    pub fn cut_line(&self) -> Option<CutLine> {
        self.ledger.cut_line()
    }

    /// Where the ledger is stored.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn io_error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> LedgerFileError {
    let path = path.to_path_buf();
    move |source| LedgerFileError::Io {
        path,
        doing,
        source,
    }
}

/// Opens a file that is private to its owner; the flag says whether it was created now.
fn open_private(path: &Path) -> Result<(File, bool), LedgerFileError> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let created = options.clone().create_new(true).open(path);
    let (file, new) = match created {
        Ok(file) => (file, true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => (
            options.open(path).map_err(io_error(path, "opening"))?,
            false,
        ),
        Err(e) => return Err(io_error(path, "creating")(e)),
    };
    let meta = file
        .metadata()
        .map_err(io_error(path, "reading its attributes"))?;
    if !meta.is_file() || meta.mode() & 0o022 != 0 {
        return Err(LedgerFileError::Unsafe { path: path.into() });
    }
    Ok((file, new))
}

fn read_from(file: &File, path: &Path, from: u64) -> Result<Vec<u8>, LedgerFileError> {
    let bytes = file.metadata().map_err(io_error(path, "reading"))?.len();
    if bytes > MAX_BYTES {
        return Err(LedgerFileError::TooLarge {
            path: path.into(),
            bytes,
        });
    }
    let mut out = vec![0; bytes.saturating_sub(from) as usize];
    file.read_exact_at(&mut out, from)
        .map_err(io_error(path, "reading"))?;
    Ok(out)
}

/// Whether the open file is still the one of that name.
fn same_file(file: &File, path: &Path) -> Result<(), LedgerFileError> {
    let open = file
        .metadata()
        .map_err(io_error(path, "reading its attributes"))?;
    match std::fs::symlink_metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (open.dev(), open.ino()) => Ok(()),
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(io_error(path, "reading its attributes")(e))
        }
        _ => Err(LedgerFileError::Replaced { path: path.into() }),
    }
}

fn newest_head(bytes: &[u8]) -> Option<Head> {
    bytes
        .chunks(SLOT)
        .filter_map(|slot| {
            let mut lines = std::str::from_utf8(slot).ok()?.lines();
            let (first, second) = (lines.next()?, lines.next()?);
            (first == second).then(|| first.parse().ok())?
        })
        .max_by_key(|head: &Head| head.entry)
}

fn sync_directory(path: &Path) -> Result<(), LedgerFileError> {
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|d| d.sync_all())
        .map_err(io_error(parent, "making the directory durable"))
}

/// Locks the ledger, or waits for it for half a second: a process that another one has just started holds its open files for
/// the moment until it becomes another program. Where several share it, for ten seconds: each holds it while the disk writes.
fn lock(file: &File, path: &Path, is_shared: bool) -> Result<(), LedgerFileError> {
    let tries = if is_shared { 200 } else { 10 };
    for attempt in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt == tries => {
                return Err(LedgerFileError::Locked { path: path.into() });
            }
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            Err(TryLockError::Error(source)) => return Err(io_error(path, "locking")(source)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
