//! The privacy ledger in a file: one process at a time, stored before answered.
//!
//! Beside `ledger.jsonl` stands `ledger.jsonl.head`, which repeats the number and hash of the last entry. A ledger that
//! was deleted, cut or put back from a backup does not contain that entry and is refused. Both files are opened once
//! and written through those descriptors, so spending goes on after privileges and file access are given up.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::{CutLine, Epsilon, Grant, Head, Ledger, LedgerError, PendingGrant, Refused};

/// A larger ledger is not read: about 300,000 entries.
const MAX_BYTES: u64 = 64 << 20;
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
    /// Another process holds it.
    #[error("{path}: another process uses this ledger")]
    Locked {
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
        let mut head_path = path.as_os_str().to_owned();
        head_path.push(".head");
        let head_path = PathBuf::from(head_path);
        let (mut file, _) = open_private(path)?;
        lock(&file, path)?;
        let stored = read_all(&mut file, path)?;
        let (mut head_file, new_head) = open_private(&head_path)?;
        let head_bytes = read_all(&mut head_file, &head_path)?;
        let since = newest_head(&head_bytes);
        let broken = |source| LedgerFileError::Ledger {
            path: path.into(),
            source,
        };
        let ledger = Ledger::open_since(total, delta, &stored, since).map_err(broken)?;
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
        };
        this.settle()?;
        this.write_head()?;
        sync_directory(path)?;
        Ok(this)
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

    fn store(
        &mut self,
        spend: impl FnOnce(&mut Ledger) -> Result<PendingGrant<'_>, Refused>,
    ) -> Result<Grant, LedgerFileError> {
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

fn read_all(file: &mut File, path: &Path) -> Result<Vec<u8>, LedgerFileError> {
    let bytes = file.metadata().map_err(io_error(path, "reading"))?.len();
    if bytes > MAX_BYTES {
        return Err(LedgerFileError::TooLarge {
            path: path.into(),
            bytes,
        });
    }
    let mut out = Vec::with_capacity(bytes as usize);
    file.read_to_end(&mut out)
        .map_err(io_error(path, "reading"))?;
    Ok(out)
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
/// the moment until it becomes another program.
#[expect(
    clippy::disallowed_methods,
    reason = "a file of the system, and nobody else runs in this thread"
)]
fn lock(file: &File, path: &Path) -> Result<(), LedgerFileError> {
    const TRIES: u32 = 10;
    for attempt in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt == TRIES => {
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
mod tests {
    use super::*;

    fn eps(text: &str) -> Epsilon {
        text.parse().unwrap()
    }

    fn open(path: &Path) -> Result<LedgerFile, LedgerFileError> {
        LedgerFile::open(path, eps("1"), 0.0)
    }

    #[test]
    fn spends_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        for round in 1..=3u64 {
            let mut ledger = open(&path).unwrap();
            let _ = ledger.spend("q", eps("0.3")).unwrap();
            assert_eq!(ledger.ledger().spent_nanos(), round * 300_000_000);
        }
        let mut ledger = open(&path).unwrap();
        let refused = ledger.spend("q", eps("0.3")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "privacy budget: asked for 0.3, left 0.1 of 1"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4);
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let first = open(&path).unwrap();
        assert!(matches!(open(&path), Err(LedgerFileError::Locked { .. })));
        drop(first);
        assert!(open(&path).is_ok());
    }

    #[test]
    fn a_deleted_cut_or_older_ledger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let mut ledger = open(&path).unwrap();
        let _ = ledger.spend("a", eps("0.1")).unwrap();
        let old = std::fs::read(&path).unwrap();
        let _ = ledger.spend("b", eps("0.1")).unwrap();
        drop(ledger);
        let refused = || match open(&path) {
            Err(LedgerFileError::Ledger { source, .. }) => source,
            other => panic!("{other:?}"),
        };
        std::fs::write(&path, &old).unwrap();
        assert_eq!(refused(), LedgerError::Older { want: 2, found: 1 });
        std::fs::write(&path, []).unwrap();
        assert_eq!(refused(), LedgerError::Older { want: 2, found: 0 });
        std::fs::remove_file(&path).unwrap();
        assert_eq!(refused(), LedgerError::Older { want: 2, found: 0 });
    }

    #[test]
    fn a_missing_head_is_refused_once_something_was_spent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let head = dir.path().join("ledger.jsonl.head");
        drop(open(&path).unwrap());
        let mut ledger = open(&path).unwrap();
        let _ = ledger.spend("a", eps("0.1")).unwrap();
        drop(ledger);
        std::fs::remove_file(&head).unwrap();
        for _ in 0..2 {
            let error = open(&path).unwrap_err();
            assert!(matches!(error, LedgerFileError::NoHead { .. }));
            assert!(error.to_string().contains("ledger.jsonl.head"));
        }
    }

    #[test]
    fn a_torn_head_slot_falls_back_to_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let head = dir.path().join("ledger.jsonl.head");
        let mut ledger = open(&path).unwrap();
        for _ in 0..3 {
            let _ = ledger.spend("a", eps("0.1")).unwrap();
        }
        drop(ledger);
        let mut bytes = std::fs::read(&head).unwrap();
        bytes[SLOT + 80..SLOT + 100].fill(b'0');
        std::fs::write(&head, bytes).unwrap();
        assert_eq!(open(&path).unwrap().ledger().head().entry, 3);
    }

    #[test]
    fn a_cut_line_is_settled_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let mut ledger = open(&path).unwrap();
        let _ = ledger.spend("a", eps("0.1")).unwrap();
        drop(ledger);
        // As if a second entry had been cut while it was written.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(br#"{"entry":2,"label":"b","epsilon":0.2,"sp"#);
        std::fs::write(&path, &bytes).unwrap();
        let ledger = open(&path).unwrap();
        assert_eq!(ledger.cut_line(), Some(CutLine::Charged(eps("0.2"))));
        drop(ledger);
        let ledger = open(&path).unwrap();
        assert_eq!(
            (ledger.cut_line(), ledger.ledger().spent_nanos()),
            (None, 300_000_000)
        );
    }

    #[test]
    fn refuses_files_that_others_can_write_and_links() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        drop(open(&path).unwrap());
        let link = dir.path().join("link.jsonl");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(open(&link), Err(LedgerFileError::Io { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(open(&path), Err(LedgerFileError::Unsafe { .. })));
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let mut ledger = open(&path).unwrap();
        let _ = ledger.spend("a", eps("0.1")).unwrap();
        drop(ledger);
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .replace("\"epsilon\":0.1", "\"epsilon\":0.0");
        std::fs::write(&path, text).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("ledger.jsonl: line 2 "), "{error}");
        let missing = dir.path().join("no/such/ledger.jsonl");
        assert!(
            open(&missing)
                .unwrap_err()
                .to_string()
                .contains("no/such/ledger.jsonl")
        );
    }

    /// A file system of 64 KiB shows the full disk for real.
    #[test]
    fn a_full_disk_spends_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "chaff-test"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
        if !mounted {
            println!("skipped: needs CAP_SYS_ADMIN to mount a small file system");
            return;
        }
        let path = dir.path().join("ledger.jsonl");
        let result = std::panic::catch_unwind(|| {
            let mut ledger = LedgerFile::open(&path, eps("1000"), 0.0).unwrap();
            let _ = ledger.spend("before", eps("0.1")).unwrap();
            let filler = dir.path().join("filler");
            let _ = std::fs::write(&filler, vec![0u8; 1 << 20]);
            let long = "x".repeat(5000);
            let error = ledger.spend(&long, eps("0.1")).unwrap_err();
            assert!(matches!(error, LedgerFileError::Io { .. }), "{error}");
            assert_eq!(ledger.ledger().spent_nanos(), 100_000_000);
            std::fs::remove_file(&filler).unwrap();
            let _ = ledger.spend("after", eps("0.1")).unwrap();
            drop(ledger);
            let ledger = LedgerFile::open(&path, eps("1000"), 0.0).unwrap();
            assert_eq!(ledger.ledger().spent_nanos(), 200_000_000);
        });
        let _ = std::process::Command::new("umount")
            .arg(dir.path())
            .status();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    }
}
