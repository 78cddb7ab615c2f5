//! Parquet: what `query import` makes, what the gateway archives, and any other file with the columns of a format.
//!
//! Only the columns that are asked for are read, and of a row group a few thousand rows are in memory at a time.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ::parquet::basic::Type as Physical;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use chaff_export::{ParquetFlaw, open_parquet};

use crate::cell::Cell;
use crate::deltas::Counted;
use crate::flows::Format;
use crate::words::Words;

/// Rows that are decoded at once.
const BATCH: usize = 4096;
/// Words that are numbered in a piece; what is known of them takes memory.
pub(crate) const MOST_WORDS: u32 = 1 << 20;
/// First bytes of a Parquet file.
const MAGIC: &[u8] = b"PAR1";
/// Key of the metadata that an import leaves in its files.
pub const IMPORTED: &str = "chaff.import";

/// A Parquet file and what its schema says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParquetFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whose columns it has.
    pub format: Format,
    /// Names of its columns, as they are called in plans; empty where the column is of no use.
    pub names: Vec<String>,
    /// Whether `query import` made it: then a manifest goes with it.
    pub imported: bool,
    /// Row groups.
    pub groups: usize,
    /// Rows.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Looks at the schema of a file: nothing when it is no Parquet.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with a sentence when it has no flows that are known here; else what the system said.
pub fn look(path: &Path) -> io::Result<Option<ParquetFile>> {
    let mut file = File::open(path)?;
    let mut magic = [0; 4];
    match io::Read::read_exact(&mut file, &mut magic) {
        Ok(()) if magic == MAGIC => {}
        Ok(()) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let bytes = file.metadata()?.len();
    // What the library says of a broken file may quote it.
    let reader = guarded(|| open_parquet(file).map_err(flaw)).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => wrong(format!("it begins like Parquet, but {e}")),
        _ => e,
    })?;
    let metadata = reader.metadata();
    let about = metadata.file_metadata();
    let schema = about.schema_descr();
    let all: Vec<&str> = (0..schema.num_columns())
        .map(|index| {
            let column = schema.column(index);
            // Lists and nested columns are of no use here.
            let is_flat = column.max_rep_level() == 0 && column.path().parts().len() == 1;
            if is_flat {
                about.schema().get_fields()[schema.get_column_root_idx(index)].name()
            } else {
                ""
            }
        })
        .collect();
    let format = Format::of_columns(&all).ok_or_else(|| {
        wrong("Parquet, but without the columns of a flow log: c_ip and s_ip (Tstat), sa and da (nfdump), or src_ip, dst_ip and fwd_bytes (Chaff)".to_owned())
    })?;
    let imported = about
        .key_value_metadata()
        .is_some_and(|keys| keys.iter().any(|k| k.key == IMPORTED));
    Ok(Some(ParquetFile {
        path: path.to_path_buf(),
        format,
        names: all.iter().map(|name| format.known(name)).collect(),
        imported,
        groups: metadata.num_row_groups(),
        rows: u64::try_from(about.num_rows()).unwrap_or(0),
        bytes,
    }))
}

/// Row groups that one thread reads.
#[derive(Clone, Debug)]
pub struct Piece {
    file: ParquetFile,
    from: usize,
    to: usize,
}

impl ParquetFile {
    /// Parts for at most `most` threads.
    pub fn pieces(&self, most: usize) -> Vec<Piece> {
        let count = self.groups.clamp(1, most.max(1));
        (0..count)
            .map(|i| Piece {
                file: self.clone(),
                from: self.groups * i / count,
                to: self.groups * (i + 1) / count,
            })
            .collect()
    }
}

impl Piece {
    /// Gives each row's values to `take`, by the places of their columns; those that the file lacks are missing.
    ///
    /// # Errors
    /// The file cannot be read, or is broken; never with what stands in it.
    pub fn each<const N: usize>(
        &self,
        columns: &[&str],
        mut take: impl FnMut(&[Cell<'_>; N]),
    ) -> io::Result<()> {
        let file = File::open(&self.file.path)?;
        let reader = guarded(|| SerializedFileReader::new(file).map_err(broken))?;
        let places: Vec<Option<usize>> = columns
            .iter()
            .take(N)
            .map(|name| {
                let found = self.file.names.iter().position(|n| n == name);
                found.filter(|_| !name.is_empty())
            })
            .collect();
        let mut bases = vec![0; places.len()];
        for index in self.from..self.to {
            let group = guarded(|| reader.get_row_group(index).map_err(broken))?;
            let mut left = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let mut read = Vec::with_capacity(places.len());
            for place in &places {
                read.push(match place {
                    Some(column) => Some(guarded(|| {
                        Column::open(group.as_ref(), *column, bases[read.len()])
                    })?),
                    None => None,
                });
            }
            while left > 0 {
                let rows = left.min(BATCH);
                for column in read.iter_mut().flatten() {
                    guarded(|| column.fill(rows))?;
                }
                for row in 0..rows {
                    let mut cells = [Cell::Missing; N];
                    for (cell, column) in cells.iter_mut().zip(&mut read) {
                        if let Some(column) = column {
                            *cell = column.get(row);
                        }
                    }
                    take(&cells);
                }
                left -= rows;
            }
            for (base, column) in bases.iter_mut().zip(&read) {
                *base += column.as_ref().map_or(0, Column::words);
            }
        }
        Ok(())
    }
}

/// Calls the library, which answers some broken files with a panic. What was being read is not used again then.
fn guarded<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(damaged()))
}

/// What is wrong with sizes can be said.
fn flaw(flaw: ParquetFlaw) -> io::Error {
    match flaw {
        ParquetFlaw::Io(e) => e,
        ParquetFlaw::Library(e) => broken(e),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

/// The file is broken: how may tell of the data.
fn broken(_: ParquetError) -> io::Error {
    damaged()
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it cannot be read as Parquet")
}

/// A column of a row group, some rows at a time.
struct Column {
    values: Values,
    /// 0 where a value is missing; empty when none can be.
    levels: Vec<i16>,
    /// The level of a value that is there.
    there: i16,
    /// The next value.
    next: usize,
    /// Words that row groups before had.
    base: usize,
}

enum Values {
    Bool(ColumnReaderImpl<::parquet::data_type::BoolType>, Vec<bool>),
    Int32(ColumnReaderImpl<::parquet::data_type::Int32Type>, Vec<i32>),
    Int64(ColumnReaderImpl<::parquet::data_type::Int64Type>, Vec<i64>),
    Float(ColumnReaderImpl<::parquet::data_type::FloatType>, Vec<f32>),
    Double(ColumnReaderImpl<::parquet::data_type::DoubleType>, Vec<f64>),
    Text(
        ColumnReaderImpl<::parquet::data_type::ByteArrayType>,
        Vec<ByteArray>,
    ),
    Word(
        ColumnReaderImpl<::parquet::data_type::Int32Type>,
        Vec<i32>,
        Words,
    ),
}

impl Column {
    fn open(group: &dyn RowGroupReader, column: usize, base: usize) -> io::Result<Self> {
        let there = group
            .metadata()
            .column(column)
            .column_descr()
            .max_def_level();
        let is_text = group.metadata().column(column).column_type() == Physical::BYTE_ARRAY;
        let words = if is_text {
            Words::open(group, column).map_err(broken)?
        } else {
            None
        };
        if let Some((reader, words)) = words {
            return Ok(Self {
                values: Values::Word(reader, Vec::new(), words),
                levels: Vec::new(),
                there,
                next: 0,
                base,
            });
        }
        let pages = group.get_column_page_reader(column).map_err(broken)?;
        let described = group.metadata().schema_descr().column(column);
        let pages = Counted {
            pages,
            has_levels: there > 0,
        };
        let values = match get_column_reader(described, Box::new(pages)) {
            ColumnReader::BoolColumnReader(r) => Values::Bool(r, Vec::new()),
            ColumnReader::Int32ColumnReader(r) => Values::Int32(r, Vec::new()),
            ColumnReader::Int64ColumnReader(r) => Values::Int64(r, Vec::new()),
            ColumnReader::FloatColumnReader(r) => Values::Float(r, Vec::new()),
            ColumnReader::DoubleColumnReader(r) => Values::Double(r, Vec::new()),
            ColumnReader::ByteArrayColumnReader(r) => Values::Text(r, Vec::new()),
            ColumnReader::Int96ColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                return Err(io::ErrorKind::InvalidData.into());
            }
        };
        Ok(Self {
            values,
            levels: Vec::new(),
            there,
            next: 0,
            base,
        })
    }

    /// How many words it had.
    fn words(&self) -> usize {
        match &self.values {
            Values::Word(_, _, words) => words.len(),
            _ => 0,
        }
    }

    /// Reads that many rows.
    fn fill(&mut self, rows: usize) -> io::Result<()> {
        self.levels.clear();
        self.next = 0;
        let levels = (self.there > 0).then_some(&mut self.levels);
        let got = match &mut self.values {
            Values::Bool(reader, values) => read(reader, rows, levels, values),
            Values::Int32(reader, values) => read(reader, rows, levels, values),
            Values::Int64(reader, values) => read(reader, rows, levels, values),
            Values::Float(reader, values) => read(reader, rows, levels, values),
            Values::Double(reader, values) => read(reader, rows, levels, values),
            Values::Text(reader, values) => read(reader, rows, levels, values),
            Values::Word(reader, values, words) => {
                let got = read(reader, rows, levels, values);
                words.catch_up();
                got
            }
        }?;
        if got == rows {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// The value of a row; rows are asked for in order.
    fn get(&mut self, row: usize) -> Cell<'_> {
        if self.there > 0 && self.levels.get(row) != Some(&self.there) {
            return Cell::Missing;
        }
        let at = self.next;
        self.next += 1;
        let found = match &self.values {
            Values::Bool(_, values) => values.get(at).map(|v| Cell::Integer((*v).into())),
            Values::Int32(_, values) => values.get(at).map(|v| Cell::Integer((*v).into())),
            Values::Int64(_, values) => values.get(at).map(|v| Cell::Integer(*v)),
            Values::Float(_, values) => values.get(at).map(|v| Cell::Float((*v).into())),
            Values::Double(_, values) => values.get(at).map(|v| Cell::Float(*v)),
            Values::Text(_, values) => values.get(at).map(|v| Cell::Text(v.data().trim_ascii())),
            Values::Word(_, values, words) => values.get(at).and_then(|number| {
                let text = words.get(*number)?;
                let number = self.base + *number as usize;
                Some(match u32::try_from(number) {
                    Ok(number) if number < MOST_WORDS => Cell::Word { text, number },
                    _ => Cell::Text(text),
                })
            }),
        };
        found.unwrap_or_default()
    }
}

fn read<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    levels: Option<&mut Vec<i16>>,
    values: &mut Vec<T::T>,
) -> io::Result<usize> {
    values.clear();
    let (records, ..) = reader
        .read_records(rows, levels, None, values)
        .map_err(broken)?;
    Ok(records)
}
