//! Logs into Parquet, once: each file becomes one of columns, so that a question reads only what it needs.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use chaff_export::{Output as _, Parquet, ParquetOptions, Target as _, WholeFile};
use chaff_flow::{Kind as Type, Value};

use crate::cell::{Cell, address};
use crate::flows::{Column, Format, Kind};
use crate::manifest::{self, Entry, Manifest, RowErrors};
use crate::parquet::IMPORTED;
use crate::source::{LogFile, SourceError, find, io_error};

/// Rows of a row group: what one thread reads at a time, and what is in memory while importing.
const GROUP_ROWS: usize = 131_072;
const GROUP_BYTES: usize = 64 << 20;
/// More columns than any format has.
const MOST_COLUMNS: usize = 64;

/// Why nothing is imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A log cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It is Parquet already.
    #[error("{path}: Parquet already; ask about it as it is")]
    Already {
        /// The file.
        path: PathBuf,
    },
    /// The folder is in use.
    #[error("--output {path}: {why}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// In a few words.
        why: &'static str,
    },
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
}

/// Imports logs into a folder, which is made, or must be empty. A manifest is written last: without it the files are not
/// asked about. `done` is told of each file.
///
/// # Errors
/// [`ImportError`]; what was written by then stays, without a manifest.
pub fn import(
    paths: &[PathBuf],
    format: Option<Format>,
    folder: &Path,
    mut done: impl FnMut(&Entry),
) -> Result<Manifest, ImportError> {
    let mut logs = Vec::new();
    let mut expected = format;
    for path in find(paths)? {
        let log = LogFile::open(&path)?;
        if log.is_parquet() {
            return Err(ImportError::Already { path });
        }
        match expected {
            Some(expected) if expected != log.format() => {
                return Err(SourceError::Mixed {
                    path,
                    found: log.format().name(),
                    expected: expected.name(),
                }
                .into());
            }
            _ => expected = Some(log.format()),
        }
        logs.push(log);
    }
    let failed = |doing| {
        move |source| ImportError::Io {
            path: folder.to_path_buf(),
            doing,
            source,
        }
    };
    fs::create_dir_all(folder).map_err(failed("making it"))?;
    if fs::read_dir(folder)
        .map_err(failed("listing it"))?
        .next()
        .is_some()
    {
        return Err(ImportError::Folder {
            path: folder.to_path_buf(),
            why: "it is not empty: an import has a folder of its own",
        });
    }
    let mut files = Vec::with_capacity(logs.len());
    let mut names = BTreeSet::new();
    for log in &logs {
        let name = free_name(log.path(), &mut names);
        let entry = one(log, &folder.join(&name), name)?;
        done(&entry);
        files.push(entry);
    }
    let manifest = Manifest {
        version: manifest::VERSION,
        format: expected.unwrap_or(Format::Tstat),
        files,
    };
    write_manifest(folder, &manifest).map_err(failed("writing its manifest"))?;
    Ok(manifest)
}

/// A name that no other log has taken.
fn free_name(log: &Path, taken: &mut BTreeSet<String>) -> String {
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".gz").unwrap_or(&name);
    let mut free = format!("{stem}.parquet");
    for number in 2.. {
        if taken.insert(free.clone()) {
            break;
        }
        free = format!("{stem}-{number}.parquet");
    }
    free
}

fn write_manifest(folder: &Path, manifest: &Manifest) -> io::Result<()> {
    let mut file = WholeFile::create(&folder.join(manifest::NAME))?;
    serde_json::to_writer_pretty(&mut file, manifest)?;
    io::Write::write_all(&mut file, b"\n")?;
    file.close()?;
    fs::File::open(folder)?.sync_all()
}

fn one(log: &LogFile, to: &Path, name: String) -> Result<Entry, ImportError> {
    let columns: Vec<Column> = log
        .format()
        .columns()
        .iter()
        .filter(|c| log.has(c.name))
        .copied()
        .take(MOST_COLUMNS)
        .collect();
    let failed = |doing| {
        move |source| ImportError::Io {
            path: to.to_path_buf(),
            doing,
            source,
        }
    };
    let options = ParquetOptions {
        group_rows: GROUP_ROWS,
        group_bytes: GROUP_BYTES,
        metadata: vec![(IMPORTED.to_owned(), log.format().name().to_owned())],
        ..ParquetOptions::default()
    };
    let file = WholeFile::create(to).map_err(failed("making it"))?;
    let types: Vec<chaff_flow::Column> = columns.iter().map(typed).collect();
    let mut output =
        Box::new(Parquet::new(file, &types, &options).map_err(failed("beginning it"))?);
    let mut errors = RowErrors::default();
    let mut rows = 0;
    let mut written = Ok(());
    let mut values: Vec<Value> = Vec::with_capacity(columns.len());
    let names: Vec<&str> = columns.iter().map(|c| c.name).collect();
    let is_text = matches!(log, LogFile::Text(_));
    // One piece is the whole file.
    for piece in log.pieces(1).map_err(io_error(log.path(), "reading"))? {
        let lines = piece
            .each(&names, |row: &[Cell<'_>; MOST_COLUMNS]| {
                if written.is_err() {
                    return;
                }
                values.clear();
                let cells = row.iter().zip(&columns);
                values.extend(cells.map(|(cell, c)| value(*cell, c.kind, &mut errors)));
                // A row of text without its last column is cut short; JSON has what it has.
                let is_short = row[..columns.len()].contains(&Cell::Missing);
                errors.fields += u64::from(is_text && is_short);
                rows += 1;
                written = output.write(&values);
            })
            .map_err(io_error(log.path(), "reading"))?;
        errors.lines += lines;
    }
    written.map_err(failed("writing"))?;
    output.finish().map_err(failed("writing"))?;
    let (bytes, sha256) = manifest::digest(to).map_err(failed("reading it again"))?;
    let source = log.path().file_name().unwrap_or_default();
    Ok(Entry {
        name,
        bytes,
        sha256,
        rows,
        columns: names.into_iter().map(str::to_owned).collect(),
        source: source.to_string_lossy().into_owned(),
        source_bytes: fs::metadata(log.path()).map_or(0, |m| m.len()),
        errors,
    })
}

fn typed(column: &Column) -> chaff_flow::Column {
    chaff_flow::Column {
        name: column.name.into(),
        kind: match column.kind {
            Kind::Address | Kind::Text => Type::Text,
            Kind::Integer => Type::Signed,
            Kind::Float => Type::Float,
        },
        unit: "".into(),
        doc: "".into(),
    }
}

/// What a question would take of the field; where that is nothing, a null.
fn value(cell: Cell<'_>, kind: Kind, errors: &mut RowErrors) -> Value {
    let is_empty = matches!(cell, Cell::Missing | Cell::Text(b"" | b"-"));
    match kind {
        Kind::Address => {
            let Some(text) = cell.text().and_then(address) else {
                return Value::Missing;
            };
            let is_wrong = !is_empty && text.parse::<IpAddr>().is_err();
            errors.addresses += u64::from(is_wrong);
            Value::Text(text.into_owned())
        }
        Kind::Text => cell.text().map_or(Value::Missing, |text| {
            Value::Text(String::from_utf8_lossy(text).into_owned())
        }),
        Kind::Integer => cell.integer().map_or_else(
            || {
                errors.numbers += u64::from(!is_empty);
                Value::Missing
            },
            Value::Signed,
        ),
        Kind::Float => cell.float().map_or_else(
            || {
                errors.numbers += u64::from(!is_empty);
                Value::Missing
            },
            Value::Float,
        ),
    }
}
