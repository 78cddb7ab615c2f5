use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chaff_abi::Nanos;
use chaff_flow::Value;

/// A table of flows on its way out.
pub trait Output: Send {
    /// Takes one flow, a value for each column in order.
    ///
    /// # Errors
    /// Those of the target; [`io::ErrorKind::InvalidInput`] for a row that does not fit the columns.
    fn write(&mut self, row: &[Value]) -> io::Result<()>;

    /// Tells the time, since the Unix epoch: of packets offline, of the clock live. It never goes back. Outputs that
    /// rotate by time, or say when they were sent, need it before the rows.
    ///
    /// # Errors
    /// Those of the target.
    fn time(&mut self, now: Nanos) -> io::Result<()> {
        let _ = now;
        Ok(())
    }

    /// Hands everything on that can be handed on before the end, for a reader that waits.
    ///
    /// # Errors
    /// Those of the target.
    fn flush(&mut self) -> io::Result<()>;

    /// Size so far, bytes; what is not written yet may be an estimate.
    fn bytes(&self) -> u64;

    /// Writes the rest and closes. What was not finished may be incomplete.
    ///
    /// # Errors
    /// Those of the target.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Where the bytes of a table go.
pub trait Target: Write + Send {
    /// Makes what was written complete.
    ///
    /// # Errors
    /// Those of the system.
    fn close(&mut self) -> io::Result<()> {
        self.flush()
    }
}

impl Target for File {}
impl Target for io::Stdout {}
impl Target for Vec<u8> {}
impl Target for io::Sink {}
impl<T: Target + ?Sized> Target for &mut T {
    fn close(&mut self) -> io::Result<()> {
        (**self).close()
    }
}
impl<T: Target + ?Sized> Target for Box<T> {
    fn close(&mut self) -> io::Result<()> {
        (**self).close()
    }
}

/// A file that has its name only when it is whole: it is written as `NAME.part` and renamed by [`Target::close`].
///
/// Dropped before that it removes what it wrote; a crash leaves `NAME.part`, which the next run overwrites.
pub struct WholeFile {
    file: File,
    path: PathBuf,
    part: PathBuf,
    done: bool,
}

impl WholeFile {
    /// Begins the file. What has the name already stays until then.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        let part = Self::part_of(path);
        Ok(Self {
            file: File::create(&part)?,
            path: path.to_path_buf(),
            part,
            done: false,
        })
    }

    /// The name until [`Target::close`].
    pub fn part_of(path: &Path) -> PathBuf {
        let mut part = path.as_os_str().to_os_string();
        part.push(OsString::from(".part"));
        part.into()
    }

    /// A [`WholeFile`], or the thing itself where `path` is something else than a file (a pipe, a device).
    ///
    /// # Errors
    /// The file cannot be created or opened.
    pub fn create_or_open(path: &Path) -> io::Result<Box<dyn Target>> {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(meta) if !meta.is_file() => Ok(Box::new(File::options().write(true).open(path)?)),
            _ => Ok(Box::new(Self::create(path)?)),
        }
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Target for WholeFile {
    /// Waits until the bytes are on the disk, so that a power cut leaves the old file or the new one.
    fn close(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.part, &self.path)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if !self.done {
            // Nobody is left to tell.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// The error of a row that has too many or too few values.
pub(crate) fn check_row(row: &[Value], columns: usize) -> io::Result<()> {
    if row.len() == columns {
        return Ok(());
    }
    let text = format!("a row of {} values for {columns} columns", row.len());
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}
