//! Parquet files whose sizes cannot be are refused before memory is taken for them, and say where and why.

use std::io::Write as _;
use std::sync::Arc;

use chaff_export::{ParquetFlaw, open_parquet};
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::reader::FileReader;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

const SCHEMA: &str = "message flows { required int64 bytes; optional binary name (UTF8); }";
/// As a number of 32 bits that can be positive at most.
const HUGE: u32 = i32::MAX as u32;

fn zstd() -> Compression {
    Compression::ZSTD(ZstdLevel::default())
}

/// A file of 600 flows in two row groups, with a dictionary.
fn file(codec: Compression, version: WriterVersion) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_writer_version(version)
        .build();
    let mut out = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut out, schema, Arc::new(properties)).expect("memory");
    for _ in 0..2 {
        let mut group = writer.next_row_group().expect("memory");
        while let Some(mut column) = group.next_column().expect("memory") {
            match column.untyped() {
                ColumnWriter::Int64ColumnWriter(w) => {
                    let values: Vec<i64> = (0..300).collect();
                    w.write_batch(&values, None, None).expect("memory");
                }
                ColumnWriter::ByteArrayColumnWriter(w) => {
                    let names: Vec<_> = (0..150)
                        .map(|n| ByteArray::from(format!("{}.example", n % 7).into_bytes()))
                        .collect();
                    let levels: Vec<i16> = (0..300).map(|n| n % 2).collect();
                    w.write_batch(&names, Some(&levels), None).expect("memory");
                }
                _ => unreachable!("the schema has no other types"),
            }
            column.close().expect("memory");
        }
        group.close().expect("memory");
    }
    writer.close().expect("memory");
    out
}

fn opened(bytes: &[u8]) -> Result<i64, ParquetFlaw> {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("writes");
    open_parquet(file).map(|reader| reader.metadata().file_metadata().num_rows())
}

/// Where the first page of the last column begins: what grows there moves no other column.
fn last_chunk(bytes: &[u8]) -> usize {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("writes");
    let reader = open_parquet(file).expect("it is whole");
    let group = reader.metadata().row_groups().last().expect("two groups");
    let column = group.columns().last().expect("two columns");
    usize::try_from(column.dictionary_page_offset().expect("a dictionary")).expect("small")
}

/// A signed number as Thrift writes it: folded, seven bits a byte.
fn number(value: u32) -> Vec<u8> {
    let mut left = u64::from(value) << 1;
    let mut out = Vec::new();
    loop {
        let bits = u8::try_from(left & 0x7f).expect("seven bits");
        left >>= 7;
        if left == 0 {
            out.push(bits);
            return out;
        }
        out.push(bits | 0x80);
    }
}

/// Replaces the number that stands after `before` numbers in the header at `at`. A header of a dictionary is: field 1, its kind;
/// 2, unpacked; 3, packed bytes; (4, a checksum;) 7, a struct of which field 1 is how many values it has.
fn with_number(bytes: &[u8], at: usize, before: usize, value: u32) -> Vec<u8> {
    let mut place = at;
    for _ in 0..before {
        place += 1;
        while bytes[place] & 0x80 != 0 {
            place += 1;
        }
        place += 1;
    }
    if bytes[place] == 0x4c {
        place += 1;
    }
    assert_eq!(bytes[place] & 0x0f, 5, "a number of 32 bits");
    let mut end = place + 1;
    while bytes[end] & 0x80 != 0 {
        end += 1;
    }
    [&bytes[..=place], &number(value), &bytes[end + 1..]].concat()
}

#[test]
fn whole_files_are_opened() {
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for codec in [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd()] {
            let bytes = file(codec, version);
            assert_eq!(opened(&bytes).expect("it is whole"), 600, "{codec:?}");
            // The helper finds what it shall replace.
            let at = last_chunk(&bytes);
            assert_eq!(with_number(&bytes, at, 3, 7), bytes, "{codec:?}");
        }
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let cases = [
        (
            Compression::SNAPPY,
            1,
            "uncompressed_page_size",
            "Snappy makes at most 22 bytes of one",
        ),
        (
            zstd(),
            1,
            "uncompressed_page_size",
            "zstd makes at most 32768 bytes of one",
        ),
        (
            zstd(),
            2,
            "compressed_page_size",
            "bytes of the column follow",
        ),
        (
            Compression::UNCOMPRESSED,
            3,
            "num_values of the dictionary",
            "values of 4 bytes or more must fit into its page",
        ),
        (
            zstd(),
            3,
            "num_values of the dictionary",
            "values of 4 bytes or more must fit into its page",
        ),
    ];
    for (codec, before, field, allowed) in cases {
        let bytes = file(codec, WriterVersion::PARQUET_1_0);
        let bytes = with_number(&bytes, last_chunk(&bytes), before, HUGE);
        let said = opened(&bytes).expect_err("it cannot be").to_string();
        for part in ["row group 1, column name", field, "is 2147483647", allowed] {
            assert!(said.contains(part), "{part:?}: {said}");
        }
    }
}

#[test]
fn footers_that_cannot_be_are_refused() {
    let with_footer = |footer: &[u8]| {
        let length = u32::try_from(footer.len()).expect("small").to_le_bytes();
        [b"PAR1", footer, &length, b"PAR1"].concat()
    };
    // Two thousand million nodes of a schema; as many children of its only node; as many row groups.
    let many = [0xff, 0xff, 0xff, 0xff, 7];
    let nodes = [&[0x15, 2, 0x19, 0xfc], many.as_slice(), &[0; 20]].concat();
    let children = [
        &[0x15, 2, 0x19, 0x1c, 0x55],
        number(HUGE).as_slice(),
        &[0; 20],
    ]
    .concat();
    let groups = [
        &[
            0x15, 2, 0x19, 0x1c, 0x48, 1, b'f', 0x15, 0, 0, 0x16, 0, 0x19, 0xfc,
        ],
        many.as_slice(),
        &[0; 20],
    ]
    .concat();
    for (footer, said) in [
        (
            nodes,
            "footer: the length of a list is 2147483647, but only 20 bytes follow",
        ),
        (
            children,
            "footer: num_children is 2147483647, but the schema has 1 nodes",
        ),
        (
            groups,
            "footer: the length of a list is 2147483647, but only 20 bytes follow",
        ),
        ([0x1c; 60].to_vec(), "footer: cut short or damaged"),
    ] {
        let flaw = opened(&with_footer(&footer)).expect_err("it cannot be");
        assert_eq!(flaw.to_string(), said);
    }
}

#[test]
fn cut_files_have_no_end() {
    let bytes = file(zstd(), WriterVersion::PARQUET_1_0);
    for length in [0, 4, 11, bytes.len() - 1] {
        let flaw = opened(&bytes[..length]).expect_err("it is cut");
        assert!(matches!(flaw, ParquetFlaw::End), "{length}: {flaw}");
    }
    let mut long = bytes.clone();
    let at = long.len() - 8;
    long[at..at + 4].fill(0xff);
    assert!(matches!(opened(&long), Err(ParquetFlaw::End)));
}
