//! Parquet as `query` reads it ([`chaff_query::parquet`]).
//!
//! Input: the file.
//!
//! - What does not begin like Parquet is none.
//! - However the row groups are shared out, the rows are the same, and as many as the file says.
//! - Each column alone has the values that it has among others.
//! - A word's number stands for one text in its column.
//! - What the library panics at is a broken file.

use std::collections::HashMap;
use std::panic;
use std::path::Path;
use std::sync::{Arc, Once};

use chaff_query::cell::Cell;
use chaff_query::parquet::{ParquetFile, Piece, look};
use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::Seeds;
use crate::scratch::with_file;

/// More rows take too long: few bytes can stand for many nulls.
const MOST_ROWS: u64 = 10_000;
const COLUMNS: [&str; 6] = [
    "c_ip",
    "s_ip",
    "c_isint",
    "c_bytes_all",
    "c_rtt_avg",
    "c_tls_SNI",
];

#[derive(Clone, Debug, PartialEq)]
enum Own {
    Missing,
    Text(Vec<u8>),
    Integer(i64),
    /// Bits: what is no number is equal to itself.
    Float(u64),
}

/// All rows of a piece; nothing where it is broken.
fn rows<const N: usize>(piece: &Piece, columns: &[&str]) -> Option<Vec<[Own; N]>> {
    let mut words: [HashMap<u32, Vec<u8>>; N] = std::array::from_fn(|_| HashMap::new());
    let mut rows = Vec::new();
    let read = piece.each(columns, |row: &[Cell<'_>; N]| {
        for (cell, words) in row.iter().zip(&mut words) {
            if let Cell::Word { text, number } = cell {
                let known = words.entry(*number).or_insert_with(|| text.to_vec());
                assert_eq!(known, text);
            }
        }
        rows.push(row.each_ref().map(|cell| match *cell {
            Cell::Missing => Own::Missing,
            Cell::Text(text) | Cell::Word { text, .. } => Own::Text(text.to_vec()),
            Cell::Integer(n) => Own::Integer(n),
            Cell::Float(x) => Own::Float(x.to_bits()),
        }));
    });
    read.is_ok().then_some(rows)
}

fn check(path: &Path, file: &ParquetFile) {
    let whole = file.pieces(1);
    let [piece] = &whole[..] else {
        panic!("{} pieces", whole.len());
    };
    let Some(all) = rows::<{ COLUMNS.len() }>(piece, &COLUMNS) else {
        return;
    };
    let parts = file.pieces(3);
    assert!(parts.len() <= 3, "{}", path.display());
    let parts: Option<Vec<_>> = parts.iter().map(|p| rows(p, &COLUMNS)).collect();
    assert_eq!(parts.map(|p| p.concat()).as_ref(), Some(&all));
    for (at, name) in COLUMNS.iter().enumerate() {
        let alone = rows::<1>(piece, &[name]).unwrap();
        assert_eq!(alone.len(), all.len(), "{name}");
        for ([alone], among) in alone.iter().zip(&all) {
            assert_eq!(alone, &among[at], "{name}");
        }
    }
}

/// libFuzzer ends at every panic, also at those of the Parquet library that the reader makes errors of.
fn let_the_library_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            let is_foreign = |l: &panic::Location<'_>| l.file().contains("/registry/src/");
            if !about.location().is_some_and(is_foreign) {
                hook(about);
            }
        }));
    });
}

/// See the module.
pub fn run(data: &[u8]) {
    let_the_library_panic();
    with_file(data, |path| {
        let found = look(path);
        if !data.starts_with(b"PAR1") {
            assert!(matches!(found, Ok(None)));
            return;
        }
        if let Ok(file) = found {
            let file = file.unwrap();
            assert_eq!(file.bytes, data.len() as u64);
            if file.rows <= MOST_ROWS {
                check(path, &file);
            }
        }
    });
}

/// Small files: packed in each way that is read or not, with and without dictionary, with both kinds of pages.
pub fn seeds() -> Seeds {
    let make = |packing, dictionary, version| {
        let properties = WriterProperties::builder()
            .set_compression(packing)
            .set_dictionary_enabled(dictionary)
            .set_writer_version(version)
            .set_created_by("chaff".to_owned())
            .build();
        file(properties)
    };
    let (one, two) = (WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0);
    let plain = Compression::UNCOMPRESSED;
    [
        ("dictionary", make(plain, true, one)),
        ("dictionary-v2", make(plain, true, two)),
        ("plain", make(plain, false, one)),
        ("plain-v2", make(plain, false, two)),
        ("snappy", make(Compression::SNAPPY, true, one)),
    ]
    .map(|(name, file)| (name.to_owned(), file))
    .into()
}

fn file(properties: WriterProperties) -> Vec<u8> {
    const SCHEMA: &str = "message log {
        required binary c_ip (UTF8); optional binary s_ip (UTF8); required int32 c_isint;
        optional int64 c_bytes_all; required double c_rtt_avg; optional binary c_tls_SNI (UTF8);
    }";
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, schema, Arc::new(properties)).unwrap();
    for group in 0..2u8 {
        let words = |texts: [&str; 3]| texts.map(|t| ByteArray::from(t.as_bytes().to_vec()));
        let mut columns = writer.next_row_group().unwrap();
        let mut place = 0;
        while let Some(mut column) = columns.next_column().unwrap() {
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(w) if place == 0 => {
                    let values = words(["10.0.0.1", "10.0.0.2", "10.0.0.1"]);
                    w.write_batch(&values, None, None)
                }
                ColumnWriter::ByteArrayColumnWriter(w) => {
                    let values = words(["a.example", " b ", ""]);
                    w.write_batch(&values[..2], Some(&[1, 0, 1]), None)
                }
                ColumnWriter::Int32ColumnWriter(w) => w.write_batch(&[1, 0, 1], None, None),
                ColumnWriter::Int64ColumnWriter(w) => {
                    w.write_batch(&[i64::from(group)], Some(&[0, 0, 1]), None)
                }
                ColumnWriter::DoubleColumnWriter(w) => {
                    w.write_batch(&[0.5, f64::NAN, -1.0], None, None)
                }
                _ => unreachable!("the schema has no other types"),
            }
            .unwrap();
            column.close().unwrap();
            place += 1;
        }
        columns.close().unwrap();
    }
    writer.close().unwrap();
    out
}
