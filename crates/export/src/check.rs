//! Opens Parquet files that may be damaged: what they say of their sizes is compared with what can be, before the library
//! takes memory for it.
//!
//! A page's header says how large the page is when it is unpacked, and how many values it has; the library believes both. Here
//! no page may unpack to more than its codec can make of its bytes, nor to more than [`MOST_PAGE`]; dictionaries have no more
//! values than fit into their bytes, lists of the footer no more items than bytes follow.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ::parquet::basic::{Compression, Type as Physical};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use ::parquet::file::reader::{FileReader, SerializedFileReader};

use crate::compact::{Met, Stop, walk};

/// Bytes of an unpacked page. Writers close them at a megabyte or, one that is known, at a hundred.
pub const MOST_PAGE: u64 = 256 << 20;
/// Bytes after the footer: its length and the magic.
const TAIL: u64 = 8;
/// Bytes of a page's header that are read at first.
const HEADER: u64 = 256;
/// Fields of `FileMetaData` and `SchemaElement` in Parquet's Thrift.
const SCHEMA: i16 = 2;
const CHILDREN: i16 = 5;

/// Why a Parquet file is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParquetFlaw {
    /// The system refused.
    #[error("while reading it")]
    Io(#[source] io::Error),
    /// The file is cut, or is no Parquet.
    #[error("it has no readable end, where Parquet keeps its columns")]
    End,
    /// What stands there cannot be.
    #[error("{place}: cut short or damaged")]
    Broken {
        /// Where.
        place: String,
    },
    /// A number cannot be.
    #[error("{place}: {field} is {value}, but {allowed}")]
    Value {
        /// Where.
        place: String,
        /// Its name in Parquet's specification.
        field: &'static str,
        /// What stands there.
        value: i64,
        /// What may stand there.
        allowed: String,
    },
    /// The library refused. It may quote the file.
    #[error("it cannot be read as Parquet")]
    Library(#[source] ParquetError),
}

/// Opens a file and checks the sizes of all columns that are neither lists nor in lists.
///
/// The library may panic at what it does not expect in a footer.
///
/// # Errors
/// [`ParquetFlaw`], without the name of the file.
pub fn open_parquet(file: File) -> Result<SerializedFileReader<File>, ParquetFlaw> {
    let bytes = file.metadata().map_err(ParquetFlaw::Io)?.len();
    check_footer(&file, bytes)?;
    let pages = file.try_clone().map_err(ParquetFlaw::Io)?;
    let reader = SerializedFileReader::new(file).map_err(ParquetFlaw::Library)?;
    check_pages(&pages, bytes, reader.metadata())?;
    Ok(reader)
}

fn check_footer(file: &File, bytes: u64) -> Result<(), ParquetFlaw> {
    let mut tail = [0; TAIL as usize];
    let at = bytes.checked_sub(TAIL).ok_or(ParquetFlaw::End)?;
    file.read_exact_at(&mut tail, at).map_err(ParquetFlaw::Io)?;
    let [a, b, c, d, magic @ ..] = tail;
    let length = u32::from_le_bytes([a, b, c, d]);
    if &magic != b"PAR1" || u64::from(length) > at {
        return Err(ParquetFlaw::End);
    }
    let mut footer = vec![0; length as usize];
    file.read_exact_at(&mut footer, at - u64::from(length))
        .map_err(ParquetFlaw::Io)?;
    let place = || "footer".to_owned();
    let refused = |field, value: u64, allowed| ParquetFlaw::Value {
        place: place(),
        field,
        value: i64::try_from(value).unwrap_or(i64::MAX),
        allowed,
    };
    let mut nodes = 0;
    let walked = walk(&footer, |path, met| match met {
        Met::List { count, left } => {
            if path == [SCHEMA] {
                nodes = count;
            }
            let fits = usize::try_from(count).is_ok_and(|count| count <= left);
            let allowed = || format!("only {left} bytes follow");
            fits.then_some(())
                .ok_or_else(|| refused("the length of a list", count, allowed()))
        }
        Met::Number(n) if path == [SCHEMA, CHILDREN] => match u64::try_from(n) {
            Ok(n) if n > nodes => Err(refused(
                "num_children",
                n,
                format!("the schema has {nodes} nodes"),
            )),
            _ => Ok(()),
        },
        Met::Number(_) => Ok(()),
    });
    walked.map(|_| ()).map_err(|stop| match stop {
        Stop::Cut | Stop::Broken => ParquetFlaw::Broken { place: place() },
        Stop::Refused(flaw) => flaw,
    })
}

fn check_pages(file: &File, bytes: u64, metadata: &ParquetMetaData) -> Result<(), ParquetFlaw> {
    for (index, group) in metadata.row_groups().iter().enumerate() {
        if group.num_rows() < 0 {
            return Err(ParquetFlaw::Value {
                place: format!("row group {index}"),
                field: "num_rows",
                value: group.num_rows(),
                allowed: "a count is 0 or more".to_owned(),
            });
        }
        for column in group.columns() {
            if column.column_descr().max_rep_level() == 0 {
                let name = column.column_path().string();
                let chunk = Chunk {
                    file,
                    column,
                    place: format!("row group {index}, column {name}"),
                    rows: group.num_rows(),
                };
                chunk.check(bytes)?;
            }
        }
    }
    Ok(())
}

/// A column of a row group.
struct Chunk<'a> {
    file: &'a File,
    column: &'a ColumnChunkMetaData,
    place: String,
    rows: i64,
}

impl Chunk<'_> {
    fn refused(&self, field: &'static str, value: i64, allowed: String) -> ParquetFlaw {
        ParquetFlaw::Value {
            place: self.place.clone(),
            field,
            value,
            allowed,
        }
    }

    fn check(&self, bytes: u64) -> Result<(), ParquetFlaw> {
        let first = self.column.dictionary_page_offset();
        let first = first.unwrap_or(self.column.data_page_offset());
        let start = u64::try_from(first).ok().filter(|start| *start <= bytes);
        let Some(mut at) = start else {
            let allowed = format!("the file has {bytes} bytes");
            return Err(self.refused("the offset of its first page", first, allowed));
        };
        let packed = self.column.compressed_size();
        let end = u64::try_from(packed).ok().and_then(|n| at.checked_add(n));
        let Some(end) = end.filter(|end| *end <= bytes) else {
            let allowed = format!("{} bytes follow in the file", bytes - at);
            return Err(self.refused("total_compressed_size", packed, allowed));
        };
        let mut values = 0;
        // What comes after the last value is not read.
        while at < end && values < self.rows {
            let (page, length) = self.header(at, end)?;
            at += length;
            let Some(next) = at.checked_add(page.packed).filter(|next| *next <= end) else {
                let allowed = format!("{} bytes of the column follow", end - at);
                return Err(self.refused(
                    "compressed_page_size",
                    page.packed.cast_signed(),
                    allowed,
                ));
            };
            self.check_page(&page)?;
            at = next;
            values += page.rows;
        }
        Ok(())
    }

    /// Reads the header of a page, and tells how long it is.
    fn header(&self, at: u64, end: u64) -> Result<(Page, u64), ParquetFlaw> {
        let broken = || ParquetFlaw::Broken {
            place: format!("{}, header of the page at byte {at}", self.place),
        };
        let mut take = HEADER;
        loop {
            let length = take.min(end - at);
            let mut bytes = vec![0; usize::try_from(length).map_err(|_| broken())?];
            self.file
                .read_exact_at(&mut bytes, at)
                .map_err(ParquetFlaw::Io)?;
            match Page::read(&bytes) {
                // Statistics can be long.
                Err(Stop::Cut) if length < end - at => take *= 8,
                Ok((page, length)) => return Ok((page, length as u64)),
                Err(Stop::Refused((field, value))) => {
                    let allowed = "sizes and counts are 0 to 2147483647".to_owned();
                    return Err(self.refused(field, value, allowed));
                }
                Err(_) => return Err(broken()),
            }
        }
    }

    fn check_page(&self, page: &Page) -> Result<(), ParquetFlaw> {
        let (most, why) = match self.column.compression() {
            // A copy of 64 bytes takes three.
            Compression::SNAPPY => (page.packed.saturating_mul(22), "Snappy makes at most 22"),
            // A block of 128 KiB takes four.
            Compression::ZSTD(_) => (
                page.packed.saturating_mul(1 << 15),
                "zstd makes at most 32768",
            ),
            // Not unpacked, or with codecs that are not built in.
            _ => (u64::MAX, ""),
        };
        let is_packed = most < u64::MAX;
        if is_packed && page.unpacked > most.min(MOST_PAGE) {
            let allowed = if most < MOST_PAGE {
                format!("{why} bytes of one")
            } else {
                format!("a page has at most {MOST_PAGE}")
            };
            let value = page.unpacked.cast_signed();
            return Err(self.refused("uncompressed_page_size", value, allowed));
        }
        if page.rows > self.rows {
            let allowed = format!("the row group has {} rows", self.rows);
            return Err(self.refused("num_values of a page", page.rows, allowed));
        }
        // Bytes of one value at least.
        let one = match self.column.column_type() {
            Physical::BOOLEAN => 1,
            Physical::INT32 | Physical::FLOAT | Physical::BYTE_ARRAY => 4,
            Physical::INT64 | Physical::DOUBLE => 8,
            Physical::INT96 => 12,
            Physical::FIXED_LEN_BYTE_ARRAY => {
                u64::try_from(self.column.column_descr().type_length())
                    .unwrap_or(1)
                    .max(1)
            }
        };
        let size = if is_packed {
            page.unpacked
        } else {
            page.packed
        };
        if page.words > size / one {
            let allowed = format!("values of {one} bytes or more must fit into its page");
            let value = page.words.cast_signed();
            return Err(self.refused("num_values of the dictionary", value, allowed));
        }
        Ok(())
    }
}

/// What a page's header says.
#[derive(Default)]
struct Page {
    unpacked: u64,
    packed: u64,
    /// Values of a page of data.
    rows: i64,
    /// Values of a dictionary.
    words: u64,
}

impl Page {
    /// Reads a header, or tells the field that cannot be.
    fn read(bytes: &[u8]) -> Result<(Self, usize), Stop<(&'static str, i64)>> {
        let mut page = Self::default();
        let length = walk(bytes, |path, met| {
            let Met::Number(n) = met else { return Ok(()) };
            let size = |field| match i32::try_from(n).map(u32::try_from) {
                Ok(Ok(size)) => Ok(u64::from(size)),
                _ => Err((field, n)),
            };
            match path {
                [2] => page.unpacked = size("uncompressed_page_size")?,
                [3] => page.packed = size("compressed_page_size")?,
                [5 | 8, 1] => page.rows = size("num_values of a page")?.cast_signed(),
                [7, 1] => page.words = size("num_values of the dictionary")?,
                _ => {}
            }
            Ok(())
        })?;
        Ok((page, length))
    }
}
