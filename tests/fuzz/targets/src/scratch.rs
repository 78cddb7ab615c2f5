//! A file for readers that take a path.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

thread_local! {
    static FOLDER: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

/// Calls `work` with the path of a file that holds these bytes. The thread's next file replaces it.
pub(crate) fn with_file<T>(bytes: &[u8], work: impl FnOnce(&Path) -> T) -> T {
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| tempfile::tempdir().unwrap());
        let path = folder.path().join("file");
        fs::write(&path, bytes).unwrap();
        work(&path)
    })
}
