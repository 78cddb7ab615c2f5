//! The files that a question is about: found, looked at, and given a version.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::flows::{Direction, Format, nearest};
use crate::request::{Measure, Request};
use crate::text::{self, TextFile};

/// One or more files of one format.
#[derive(Clone, Debug)]
pub struct Source {
    /// What they are.
    pub format: Format,
    /// The files, by name.
    pub files: Vec<TextFile>,
    /// Changes when one of them does: a digest of names, sizes and times of change, none of which a question can influence.
    pub version: String,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Why files cannot be asked about. Says nothing of what stands in them after the first line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The system refused.
    #[error("{path}: while {doing}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Not a flow log.
    #[error("{path}: {why}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// In one sentence.
        why: String,
    },
    /// Nothing there.
    #[error("--data: no files in {path}")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// Formats differ.
    #[error("{path}: a {found} log, not {expected}; ask about one format at a time")]
    Mixed {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What was asked for or came first.
        expected: &'static str,
    },
    /// A column is missing.
    #[error("{path}: no column {column}, which this question needs{hint}")]
    Column {
        /// The file.
        path: PathBuf,
        /// Its name.
        column: String,
        /// What can be done.
        hint: String,
    },
}

impl Source {
    /// Looks at files; a folder stands for the files in it and below, but for hidden ones.
    ///
    /// # Errors
    /// [`SourceError`], naming the file.
    pub fn open(paths: &[PathBuf], format: Option<Format>) -> Result<Self, SourceError> {
        let mut found = Vec::new();
        for path in paths {
            let before = found.len();
            collect(path, &mut found, 0)?;
            if found.len() == before {
                return Err(SourceError::Empty { path: path.clone() });
            }
        }
        found.sort();
        found.dedup();
        let mut expected = format;
        let mut files = Vec::with_capacity(found.len());
        let mut digest = Sha256::new();
        let mut bytes = 0;
        for path in found {
            let meta = fs::metadata(&path).map_err(io_error(&path, "reading its attributes"))?;
            bytes += meta.len();
            let stamp = (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
            digest.update(format!("{} {stamp:?}\n", path.display()));
            let file = look(&path)?;
            let format = file.format;
            match expected {
                Some(expected) if expected != format => {
                    return Err(SourceError::Mixed {
                        path,
                        found: format.name(),
                        expected: expected.name(),
                    });
                }
                _ => expected = Some(format),
            }
            files.push(file);
        }
        let format = expected.unwrap_or(Format::Tstat);
        Ok(Self {
            format,
            files,
            version: hex(&digest.finalize()),
            bytes,
        })
    }

    /// Whether the files have what a question needs. Decided by first lines and schemas alone.
    ///
    /// # Errors
    /// [`SourceError::Column`].
    pub fn check(&self, request: &Request) -> Result<(), SourceError> {
        for file in &self.files {
            for column in request.columns(self.format) {
                if !file.has(&column) {
                    return Err(self.missing(file, column, request));
                }
            }
        }
        Ok(())
    }

    fn missing(&self, file: &TextFile, column: String, request: &Request) -> SourceError {
        let roles = self.format.roles();
        let hint = if roles.labels.contains(&column.as_str()) {
            "; --home NETWORK says whose flow it is without it".to_owned()
        } else if Some(column.as_str()) == roles.domain {
            "; no server names were logged".to_owned()
        } else if column == roles.server_bytes || column == roles.client_bytes {
            let other = match request.measure {
                Measure::Bytes(Direction::Ingoing) => "outgoing",
                _ => "ingoing",
            };
            format!("; --volume {other} needs the other direction's column")
        } else {
            let names = file.names.iter().filter(|n| !n.is_empty());
            let guess = nearest(&column, names.map(String::as_str));
            guess.map_or(String::new(), |g| format!(", did you mean {g}?"))
        };
        SourceError::Column {
            path: file.path.clone(),
            column,
            hint,
        }
    }
}

fn collect(path: &Path, to: &mut Vec<PathBuf>, depth: usize) -> Result<(), SourceError> {
    let path = path
        .canonicalize()
        .map_err(io_error(path, "looking for it"))?;
    if !path.is_dir() {
        to.push(path);
        return Ok(());
    }
    // Links are followed; a circle of them ends here.
    if depth > 16 {
        return Ok(());
    }
    for entry in fs::read_dir(&path).map_err(io_error(&path, "listing it"))? {
        let entry = entry.map_err(io_error(&path, "listing it"))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            collect(&entry.path(), to, depth + 1)?;
        }
    }
    Ok(())
}

fn look(path: &Path) -> Result<TextFile, SourceError> {
    text::look(path).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => SourceError::Unknown {
            path: path.to_path_buf(),
            why: source.to_string(),
        },
        _ => io_error(path, "reading")(source),
    })
}

fn io_error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_path_buf();
    move |source| SourceError::Io {
        path,
        doing,
        source,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
