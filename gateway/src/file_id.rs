//! Which file a path means, however it is spelt.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A file as the system tells it from others: all hard and symbolic links to it are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileId {
    /// Device and inode.
    There(u64, u64),
    /// Device and inode of the folder, and the name that the file will have in it.
    New(u64, u64, OsString),
}

impl FileId {
    /// `None` for what is no file (a pipe, a device), and where there is no such folder.
    pub fn of(path: &Path) -> Option<Self> {
        match fs::metadata(path) {
            Ok(meta) if meta.is_file() => Some(Self::There(meta.dev(), meta.ino())),
            Ok(_) => None,
            Err(_) => {
                let folder = path
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty())
                    .unwrap_or(Path::new("."));
                let meta = fs::metadata(folder).ok()?;
                let name = path.file_name()?.to_os_string();
                Some(Self::New(meta.dev(), meta.ino(), name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_and_links_of_a_file_are_the_same() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), "").expect("room");
        fs::write(path("b"), "").expect("room");
        fs::hard_link(path("a"), path("hard")).expect("a link");
        std::os::unix::fs::symlink(path("a"), path("soft")).expect("a link");
        let a = FileId::of(&path("a"));
        assert!(a.is_some());
        for same in ["hard", "soft", "./a"] {
            assert_eq!(FileId::of(&path(same)), a, "{same}");
        }
        assert_ne!(FileId::of(&path("b")), a);
        let new = FileId::of(&path("new"));
        assert!(new.is_some() && new != a);
        assert_eq!(FileId::of(&path("./new")), new);
        assert_ne!(FileId::of(&path("other")), new);
        assert_eq!(FileId::of(dir.path()), None);
        assert_eq!(FileId::of(Path::new("/dev/null")), None);
        assert_eq!(FileId::of(&path("no/such")), None);
    }
}
