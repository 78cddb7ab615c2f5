//! Each format, written and read back.

use std::io::{self, Read as _};
use std::path::Path;

use bytes::Bytes;
use chaff_abi::Nanos;
use chaff_export::{
    Csv, Dialect, Gzip, JsonLines, Output, Parquet, ParquetOptions, Part, Rotating, Rotation,
    WholeFile,
};
use chaff_flow::{Column, Value};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

mod table;
use table::{columns, row};

/// What an output makes of rows.
fn written(
    make: impl FnOnce(&mut Vec<u8>) -> Box<dyn Output + '_>,
    rows: &[Vec<Value>],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut output = make(&mut bytes);
    for row in rows {
        output.write(row).expect("memory");
    }
    output.finish().expect("memory");
    bytes
}

fn csv(dialect: Dialect, rows: &[Vec<Value>]) -> String {
    let bytes = written(|out| Box::new(Csv::new(out, &columns(), dialect)), rows);
    String::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn native_csv_is_as_documented() {
    let expected = "id,start_ns,seen_ms,src_ip,src_mac,end_reason,bytes,offset,mean,server,sizes,gaps,names\n\
        3,1700000000123456792,1700000000126,2001:db8::3,02:5e:00:00:00:03,active,1003,-3,1,\"a \"\"server\"\", n. 3 é\",60 61 62,-1 0 1,[]\n\
        5,1700000000123456794,1700000000128,2001:db8::5,,active,1005,,,,,,\n";
    assert_eq!(csv(Dialect::Native, &[row(3), row(5)]), expected);
}

#[test]
fn nfstream_csv_is_as_python_writes_it() {
    let expected = "id,start_ns,seen_ms,src_ip,src_mac,end_reason,bytes,offset,mean,server,sizes,gaps,names\r\n\
        3,1700000000123456792,1700000000126,2001:db8::3,02:5e:00:00:00:03,active,1003,-3,1.0,\"a \"\"server\"\", n. 3 é\",\"[60, 61, 62]\",\"[-1, 0, 1]\",[]\r\n\
        4,1700000000123456793,1700000000127,192.168.1.4,02:5e:00:00:00:04,idle,1004,-4,1.3333333333333333,\"a \"\"server\"\", n. 4 é\",[],[],\"[\"\"it's 0\"\"]\"\r\n\
        5,1700000000123456794,1700000000128,2001:db8::5,,active,1005,,,,,,\r\n";
    assert_eq!(csv(Dialect::NfStream, &[row(3), row(4), row(5)]), expected);
}

#[test]
fn json_lines_are_objects_with_all_columns() {
    let rows: Vec<_> = (0..6).map(row).collect();
    let bytes = written(|out| Box::new(JsonLines::new(out, &columns())), &rows);
    let text = String::from_utf8(bytes).expect("UTF-8");
    for (n, line) in text.lines().enumerate() {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let object = value.as_object().expect("an object");
        assert_eq!(object.len(), columns().len());
        assert!(columns().iter().all(|c| object.contains_key(&*c.name)));
        assert_eq!(value["id"], n);
    }
    let line: serde_json::Value =
        serde_json::from_str(text.lines().nth(1).expect("there")).expect("JSON");
    assert_eq!(line["bytes"], u64::MAX);
    assert_eq!(line["server"], "a \"server\", n. 1 é");
    assert_eq!(line["gaps"], serde_json::json!([-1]));
    assert_eq!(line["mean"], 1.0 / 3.0);
}

fn parquet(rows: u64, options: &ParquetOptions) -> SerializedFileReader<Bytes> {
    let rows: Vec<_> = (0..rows).map(row).collect();
    let bytes = written(
        |out| Box::new(Parquet::new(out, &columns(), options).expect("columns")),
        &rows,
    );
    SerializedFileReader::new(Bytes::from(bytes)).expect("a Parquet file")
}

/// What a reader of Parquet makes of a value.
fn is_same(field: &Field, value: &Value) -> bool {
    let list = |field: &Field, values: Vec<Value>| match field {
        Field::ListInternal(items) => {
            items.len() == values.len()
                && items
                    .elements()
                    .iter()
                    .zip(&values)
                    .all(|(f, v)| is_same(f, v))
        }
        _ => false,
    };
    match (field, value) {
        (Field::Null, Value::Missing) => true,
        (Field::ULong(a), Value::Unsigned(b)) => a == b,
        (Field::Long(a), Value::Unsigned(b)) => *a as u64 == *b,
        (Field::Long(a) | Field::TimestampMillis(a), Value::Signed(b)) => a == b,
        (Field::Double(a), Value::Float(b)) => a == b,
        (Field::Str(a), Value::Ip(b)) => *a == b.to_string(),
        (Field::Str(a), Value::Mac(b)) => *a == b.to_string(),
        (Field::Str(a), Value::Word(b)) => a == b,
        (Field::Str(a), Value::Text(b)) => a == b,
        (f, Value::List(items)) => list(f, items.iter().map(|n| Value::Unsigned(*n)).collect()),
        (f, Value::SignedList(items)) => list(f, items.iter().map(|n| Value::Signed(*n)).collect()),
        (f, Value::TextList(items)) => {
            list(f, items.iter().map(|t| Value::Text(t.clone())).collect())
        }
        _ => false,
    }
}

#[test]
fn parquet_reads_back_as_it_was_written() {
    let options = ParquetOptions {
        group_rows: 7,
        ..ParquetOptions::default()
    };
    let reader = parquet(50, &options);
    assert_eq!(reader.num_row_groups(), 8);
    let mut seen = 0;
    for (n, read) in reader.get_row_iter(None).expect("rows").enumerate() {
        let read = read.expect("a row");
        let expected = row(n as u64);
        for ((name, field), value) in read.get_column_iter().zip(&expected) {
            assert!(
                is_same(field, value),
                "row {n}, {name}: {field:?} is not {value:?}"
            );
        }
        seen += 1;
    }
    assert_eq!(seen, 50);
}

#[test]
fn parquet_groups_are_bounded_by_bytes_and_a_file_without_flows_is_whole() {
    let options = ParquetOptions {
        group_bytes: 1_000,
        ..ParquetOptions::default()
    };
    let reader = parquet(100, &options);
    assert!(
        (10..=50).contains(&reader.num_row_groups()),
        "{}",
        reader.num_row_groups()
    );
    let empty = parquet(0, &ParquetOptions::default());
    assert_eq!(empty.metadata().file_metadata().num_rows(), 0);
    assert_eq!(
        empty
            .metadata()
            .file_metadata()
            .schema_descr()
            .num_columns(),
        columns().len()
    );
}

#[test]
fn parquet_names_types_and_metadata_of_columns() {
    use parquet::basic::{LogicalType, TimeUnit};
    let options = ParquetOptions {
        metadata: vec![("chaff.profile".into(), "test".into())],
        ..ParquetOptions::default()
    };
    let reader = parquet(1, &options);
    let file = reader.metadata().file_metadata();
    let types: Vec<_> = file
        .schema_descr()
        .columns()
        .iter()
        .map(|c| c.logical_type_ref().cloned())
        .collect();
    assert_eq!(types[0], Some(LogicalType::integer(64, false)));
    assert_eq!(
        types[1],
        Some(LogicalType::timestamp(true, TimeUnit::NANOS))
    );
    assert_eq!(
        types[2],
        Some(LogicalType::timestamp(true, TimeUnit::MILLIS))
    );
    assert_eq!(types[3], Some(LogicalType::String));
    let metadata = file.key_value_metadata().expect("metadata");
    let value = |key: &str| {
        metadata
            .iter()
            .find(|m| m.key == key)
            .and_then(|m| m.value.clone())
    };
    assert_eq!(value("chaff.profile").as_deref(), Some("test"));
    // Every name, unit and meaning is in the Arrow schema.
    let schema = value("ARROW:schema").expect("an Arrow schema");
    let bytes = base64(&schema);
    for Column {
        name, unit, doc, ..
    } in columns()
    {
        for text in [name, unit, doc] {
            assert!(
                bytes
                    .windows(text.len().max(1))
                    .any(|w| w == text.as_bytes())
                    || text.is_empty(),
                "{text}"
            );
        }
    }
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let bits = |chunk: &[u8]| {
        chunk
            .iter()
            .fold(0u32, |n, c| n << 6 | u32::from(digit(*c)))
    };
    text.trim_end_matches('=')
        .as_bytes()
        .chunks(4)
        .flat_map(|chunk| {
            let n = bits(chunk) << (6 * (4 - chunk.len()));
            n.to_be_bytes()[1..chunk.len()].to_vec()
        })
        .collect()
}

#[test]
fn rows_that_do_not_fit_are_refused_and_leave_the_file_whole() {
    let mut bytes = Vec::new();
    let mut output: Box<dyn Output + '_> = Box::new(
        Parquet::new(&mut bytes, &columns(), &ParquetOptions::default()).expect("columns"),
    );
    output.write(&row(0)).expect("memory");
    let mut wrong = row(1);
    wrong[6] = Value::Word("no number");
    let error = output.write(&wrong).expect_err("a word is no number");
    assert_eq!(error.to_string(), "column bytes: a value of another kind");
    let error = output.write(&row(1)[1..]).expect_err("too short");
    assert_eq!(error.to_string(), "a row of 12 values for 13 columns");
    output.write(&row(2)).expect("memory");
    output.finish().expect("memory");
    let reader = SerializedFileReader::new(Bytes::from(bytes)).expect("a Parquet file");
    assert_eq!(reader.metadata().file_metadata().num_rows(), 2);
}

#[test]
fn a_full_disk_keeps_its_kind_of_error() {
    let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else {
        println!("skipped: no /dev/full");
        return;
    };
    let options = ParquetOptions {
        group_rows: 1,
        ..ParquetOptions::default()
    };
    let mut output = Parquet::new(full, &columns(), &options).expect("columns");
    let done = (0..10_000).try_for_each(|n| output.write(&row(n)));
    assert_eq!(
        done.expect_err("no room").kind(),
        io::ErrorKind::StorageFull
    );
}

#[test]
fn a_whole_file_has_its_name_only_when_it_is_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("flows.parquet");
    let make = || {
        Parquet::new(
            WholeFile::create(&path)?,
            &columns(),
            &ParquetOptions::default(),
        )
    };
    let mut output = Box::new(make().expect("a file"));
    output.write(&row(0)).expect("room");
    assert!(!path.exists());
    output.finish().expect("room");
    let first = std::fs::read(&path).expect("there");
    // The next one stops before its end: the first stays.
    let mut output = make().expect("a file");
    output.write(&row(1)).expect("room");
    drop(output);
    assert_eq!(std::fs::read(&path).expect("there"), first);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1);
}

fn rotating(dir: &Path, rotation: Rotation) -> Box<dyn Output> {
    let path = dir.join("flows.csv");
    let made = path.clone();
    let make = move |part: Part| -> io::Result<Box<dyn Output>> {
        let file = std::fs::File::create(part.name(&made))?;
        Ok(Box::new(Csv::new(file, &columns(), Dialect::Native)))
    };
    let remove = move |part: Part| std::fs::remove_file(part.name(&path));
    Box::new(Rotating::new(rotation, Box::new(make), Box::new(remove)))
}

fn files(dir: &Path) -> Vec<(String, usize)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .expect("a folder")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let lines = std::fs::read_to_string(&path)
                .expect("text")
                .lines()
                .count();
            (
                path.file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned(),
                lines - 1,
            )
        })
        .collect();
    all.sort();
    all
}

#[test]
fn files_hold_exactly_their_flows_and_names_come_round() {
    let dir = tempfile::tempdir().expect("a folder");
    let rotation = Rotation {
        rows: Some(4),
        ..Rotation::default()
    };
    let mut output = rotating(dir.path(), rotation);
    (0..10).for_each(|n| output.write(&row(n)).expect("room"));
    output.finish().expect("room");
    let expected = [("flows.0.csv", 4), ("flows.1.csv", 4), ("flows.2.csv", 2)];
    assert_eq!(files(dir.path()), expected.map(|(n, l)| (n.to_string(), l)));

    let dir = tempfile::tempdir().expect("a folder");
    let mut output = rotating(
        dir.path(),
        Rotation {
            files: Some(2),
            ..rotation
        },
    );
    (0..10).for_each(|n| output.write(&row(n)).expect("room"));
    output.finish().expect("room");
    let expected = [("flows.0.csv", 2), ("flows.1.csv", 4)];
    assert_eq!(files(dir.path()), expected.map(|(n, l)| (n.to_string(), l)));
}

#[test]
fn of_files_by_period_the_newest_stay() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("flows.0.csv"), "another run's\n").expect("room");
    let rotation = Rotation {
        rows: Some(2),
        period: Some(Nanos::from_secs(10)),
        files: Some(3),
        ..Rotation::default()
    };
    let mut output = rotating(dir.path(), rotation);
    for n in 0..10 {
        let at = Nanos::from_secs(1_700_000_000 + 3 * n);
        output.time(at).expect("room");
        output.write(&row(n)).expect("room");
        assert!(files(dir.path()).len() <= 4);
        if n == 4 {
            // Somebody took it away.
            std::fs::remove_file(dir.path().join("flows.20231114T221320Z.0.csv")).expect("there");
        }
    }
    output.finish().expect("room");
    let expected = [
        ("flows.0.csv", 0),
        ("flows.20231114T221330Z.1.csv", 1),
        ("flows.20231114T221340Z.0.csv", 2),
        ("flows.20231114T221340Z.1.csv", 1),
    ];
    assert_eq!(files(dir.path()), expected.map(|(n, l)| (n.to_string(), l)));
}

#[test]
fn packed_text_unpacks_to_the_same() {
    let rows: Vec<_> = (0..50).map(row).collect();
    let packed = written(
        |out| Box::new(Csv::new(Gzip::new(out), &columns(), Dialect::Native)),
        &rows,
    );
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice())
        .read_to_string(&mut text)
        .expect("gzip");
    assert_eq!(text, csv(Dialect::Native, &rows));
    // After a flush all is readable, though the end is missing.
    let mut bytes = Vec::new();
    let mut output = JsonLines::new(Gzip::new(&mut bytes), &columns());
    output.write(&rows[0]).expect("memory");
    output.flush().expect("memory");
    std::mem::forget(output);
    let mut line = vec![0; 20];
    flate2::read::GzDecoder::new(bytes.as_slice())
        .read_exact(&mut line)
        .expect("a part");
    assert!(line.starts_with(b"{\"id\":0,"));
}

#[test]
fn files_end_by_size_and_by_period_and_none_is_made_without_flows() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut output = rotating(
        dir.path(),
        Rotation {
            bytes: Some(1_000),
            ..Rotation::default()
        },
    );
    (0..50).for_each(|n| output.write(&row(n)).expect("room"));
    output.finish().expect("room");
    for entry in std::fs::read_dir(dir.path()).expect("a folder") {
        assert!(entry.and_then(|e| e.metadata()).expect("a file").len() < 1_300);
    }
    assert!(files(dir.path()).len() > 4);

    let dir = tempfile::tempdir().expect("a folder");
    let mut output = rotating(
        dir.path(),
        Rotation {
            period: Some(Nanos::from_secs(3_600)),
            ..Rotation::default()
        },
    );
    for n in 0..6 {
        output
            .time(Nanos::from_secs(1_700_000_000 + 1_000 * n))
            .expect("room");
        output.write(&row(n)).expect("room");
    }
    // A period without flows closes the file before it, and makes none.
    output.time(Nanos::from_secs(1_700_100_000)).expect("room");
    output.finish().expect("room");
    let expected = [
        ("flows.20231114T220000Z.0.csv", 3),
        ("flows.20231114T230000Z.0.csv", 3),
    ];
    assert_eq!(files(dir.path()), expected.map(|(n, l)| (n.to_string(), l)));

    let dir = tempfile::tempdir().expect("a folder");
    rotating(dir.path(), Rotation::default())
        .finish()
        .expect("room");
    assert!(files(dir.path()).is_empty());
}
