use std::path::Path;

use tempfile::TempDir;

/// A folder in memory where there is one, for tests that wait for the disk thousands of times. It goes with the value.
///
/// # Panics
/// It cannot be made.
pub fn folder_in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    made.expect("a folder")
}
