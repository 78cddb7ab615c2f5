//! The files that a question is about: found, looked at, and given a version.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chaff_flow::nearest;
use sha2::{Digest, Sha256};

use crate::cell::Cell;
use crate::flows::{Direction, Format};
use crate::json::{self, JsonFile};
use crate::manifest::{self, Manifest, ManifestError};
use crate::parquet::{self, ParquetFile};
use crate::request::{Measure, Request};
use crate::text::{self, Rows, TextFile};

/// One or more files of one format.
#[derive(Clone, Debug)]
pub struct Source {
    /// What they are.
    pub format: Format,
    /// The files, by name.
    pub files: Vec<LogFile>,
    /// Changes when one of them does: a digest of names, sizes and times of change, none of which a question can influence.
    pub version: String,
    /// Bytes of all files.
    pub bytes: u64,
}

/// A file of flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFile {
    /// Lines, packed or not.
    Text(TextFile),
    /// nfdump's JSON, packed or not.
    Json(JsonFile),
    /// Columns.
    Parquet(ParquetFile),
}

/// A part of a file that one thread reads.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes of a text.
    Text(text::Piece),
    /// All of a file.
    Json(JsonFile),
    /// Row groups.
    Parquet(parquet::Piece),
}

/// Why files cannot be asked about. Says nothing of what stands in them after the first line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The system refused.
    #[error("{path}: while {doing}")]
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
    /// An imported file is not as its manifest says.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl LogFile {
    /// Looks at the first bytes of a file.
    ///
    /// # Errors
    /// [`SourceError`], naming the file.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let wrong = |source: io::Error| match source.kind() {
            io::ErrorKind::InvalidData => SourceError::Unknown {
                path: path.to_path_buf(),
                why: source.to_string(),
            },
            _ => io_error(path, "reading")(source),
        };
        if let Some(file) = parquet::look(path).map_err(wrong)? {
            return Ok(Self::Parquet(file));
        }
        match json::look(path) {
            Ok(Some(file)) => return Ok(Self::Json(file)),
            // It begins like JSON; what of its first record is wrong is private.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Err(SourceError::Unknown {
                    path: path.to_path_buf(),
                    why: "it begins like JSON but its first record is none of nfdump's".to_owned(),
                });
            }
            Ok(None) | Err(_) => {}
        }
        Ok(Self::Text(text::look(path).map_err(wrong)?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Text(file) => &file.path,
            Self::Json(file) => &file.path,
            Self::Parquet(file) => &file.path,
        }
    }

    /// What it is.
    pub fn format(&self) -> Format {
        match self {
            Self::Text(file) => file.format,
            Self::Json(_) => Format::Nfdump,
            Self::Parquet(file) => file.format,
        }
    }

    /// Names of its columns, as they are called in plans; empty where the column is of no use.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Text(file) => &file.names,
            Self::Json(file) => &file.names,
            Self::Parquet(file) => &file.names,
        }
    }

    /// Whether it has the column.
    pub fn has(&self, name: &str) -> bool {
        self.names().iter().any(|n| n == name)
    }

    /// Whether it is a Parquet file: what engines on several machines read.
    pub fn is_parquet(&self) -> bool {
        matches!(self, Self::Parquet(_))
    }

    /// Parts for at most `most` threads.
    ///
    /// # Errors
    /// What the system said.
    pub fn pieces(&self, most: usize) -> io::Result<Vec<Piece>> {
        Ok(match self {
            Self::Text(file) => file.pieces(most)?.into_iter().map(Piece::Text).collect(),
            Self::Json(file) => vec![Piece::Json(file.clone())],
            Self::Parquet(file) => file.pieces(most).into_iter().map(Piece::Parquet).collect(),
        })
    }
}

impl Piece {
    /// Gives each flow's values to `take`, by the places of their columns; those that the file lacks are missing. Gives the
    /// number of lines or records that could not be read at all.
    ///
    /// # Errors
    /// What the system said; never with what stands in the file.
    pub fn each<const N: usize>(
        &self,
        columns: &[&str],
        take: impl FnMut(&[Cell<'_>; N]),
    ) -> io::Result<u64> {
        match self {
            Self::Text(piece) => Rows::new(piece, columns.iter().copied())?.each(take),
            Self::Json(file) => file.each(columns, take),
            Self::Parquet(piece) => piece.each(columns, take).map(|()| 0),
        }
    }
}

impl Source {
    /// Looks at files; a folder stands for the files in it and below, but for hidden ones.
    ///
    /// # Errors
    /// [`SourceError`], naming the file.
    pub fn open(paths: &[PathBuf], format: Option<Format>) -> Result<Self, SourceError> {
        let found = find(paths)?;
        let mut expected = format;
        let mut files = Vec::with_capacity(found.len());
        let mut digest = Sha256::new();
        let mut bytes = 0;
        let mut manifests = BTreeMap::new();
        for path in found {
            let meta = fs::metadata(&path).map_err(io_error(&path, "reading its attributes"))?;
            bytes += meta.len();
            let stamp = (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
            digest.update(format!("{} {stamp:?}\n", path.display()));
            let file = LogFile::open(&path)?;
            let format = file.format();
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
            if let LogFile::Parquet(file) = &file
                && file.imported
            {
                let folder = file.path.parent().unwrap_or(Path::new(".")).to_path_buf();
                let manifest = match manifests.entry(folder) {
                    Slot::Occupied(known) => known.into_mut(),
                    Slot::Vacant(new) => {
                        let read = Manifest::read(new.key())?;
                        new.insert(read)
                    }
                };
                manifest.check(&file.path, file.bytes)?;
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

    /// Where the files are, by name.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(LogFile::path)
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

    fn missing(&self, file: &LogFile, column: String, request: &Request) -> SourceError {
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
            let names = file.names().iter().filter(|n| !n.is_empty());
            let guess = nearest(&column, names.map(String::as_str));
            guess.map_or(String::new(), |g| format!(", did you mean {g}?"))
        };
        SourceError::Column {
            path: file.path().to_path_buf(),
            column,
            hint,
        }
    }
}

/// The files that paths stand for, in order, each once.
///
/// # Errors
/// [`SourceError`], naming what is not there or is empty.
pub(crate) fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, SourceError> {
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
    Ok(found)
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
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // What an archive is still writing has no name yet.
        if !name.starts_with('.') && !name.ends_with(".part") && name != manifest::NAME {
            collect(&entry.path(), to, depth + 1)?;
        }
    }
    Ok(())
}

pub(crate) fn io_error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> SourceError {
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
