//! Traces of `trainer synth`: flow tables as CSV or Parquet, and captures, told apart by their first bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::panic::catch_unwind;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use chaff_export::open_parquet;
use chaff_synth::{Capture, Engine, Model, Table, TableReader, load, read_capture, read_csv};
use parquet::basic::{ConvertedType, Type as Physical};
use parquet::file::reader::FileReader;
use parquet::record::Field;
use parquet::schema::types::Type;

/// An input, by its first bytes.
pub(crate) enum Opened {
    /// pcap or pcapng, packed or not.
    Capture(Box<dyn BufRead>),
    /// A flow table as text.
    Csv(Box<dyn BufRead>),
    /// A flow table as Parquet, which is read from its end.
    Parquet,
}

/// Looks at the first bytes of an input; `-` is standard input, which cannot be Parquet.
///
/// # Errors
/// It cannot be read, naming the file.
pub(crate) fn open(path: &Path) -> Result<Opened> {
    let name = path.display();
    let mut input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(path).with_context(|| format!("while opening {name}"))?)
    };
    let mut magic = Vec::new();
    input
        .by_ref()
        .take(4)
        .read_to_end(&mut magic)
        .with_context(|| format!("while reading {name}"))?;
    let first = magic.clone();
    let whole = Box::new(BufReader::new(Cursor::new(magic).chain(input)));
    Ok(match first.as_slice() {
        b"PAR1" if path == Path::new("-") => {
            bail!("standard input is Parquet, which is read from its end: give a file")
        }
        b"PAR1" => Opened::Parquet,
        [0x1f, 0x8b, ..] if is_packed_table(path) => {
            bail!(
                "{name}: a flow table packed with gzip, which is read of captures only: unpack it"
            )
        }
        [0x0a, 0x0d, 0x0d, 0x0a]
        | [0xd4, 0xc3, 0xb2, 0xa1]
        | [0xa1, 0xb2, 0xc3, 0xd4]
        | [0x4d, 0x3c, 0xb2, 0xa1]
        | [0xa1, 0xb2, 0x3c, 0x4d]
        | [0x1f, 0x8b, ..] => Opened::Capture(whole),
        _ => Opened::Csv(whole),
    })
}

/// Whether the name is that of a packed table.
fn is_packed_table(path: &Path) -> bool {
    let inner = path.file_stem().map(Path::new).and_then(Path::extension);
    inner.is_some_and(|e| {
        ["csv", "tsv", "txt", "parquet"]
            .iter()
            .any(|t| e.eq_ignore_ascii_case(t))
    })
}

/// Reads a trace; `label` names the label column of a table.
///
/// # Errors
/// What is wrong, naming file, line or row, column and value.
pub(crate) fn read(path: &Path, label: Option<&str>) -> Result<Capture> {
    let name = path.display();
    let table = match open(path)? {
        Opened::Capture(input) => {
            let read = read_capture(input).with_context(|| format!("in {name}"))?;
            if read.ignored > 0 {
                eprintln!(
                    "{name}: {} frames are not IP or damaged and were left out",
                    read.ignored
                );
            }
            return Ok(read);
        }
        Opened::Csv(input) => read_csv(input, label),
        Opened::Parquet => {
            // The library answers some damaged files with a panic.
            let table = catch_unwind(|| read_parquet(path, label))
                .unwrap_or_else(|_| Err(anyhow!("it cannot be read as Parquet")))
                .with_context(|| format!("in {name}"))?;
            return Ok(Capture::of_table(table));
        }
    };
    Ok(Capture::of_table(
        table.with_context(|| format!("in {name}"))?,
    ))
}

/// Reads the model of any engine.
///
/// # Errors
/// The file cannot be read or is not a model.
pub(crate) fn read_engine(path: &Path) -> Result<Box<dyn Engine>> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("while reading {name}"))?;
    load(&bytes).with_context(|| format!("in {name}"))
}

/// Reads a model of tables, which tells how likely records are.
///
/// # Errors
/// The file cannot be read or is no such model.
pub(crate) fn read_model(path: &Path) -> Result<Model> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("while reading {name}"))?;
    Model::from_bytes(&bytes).with_context(|| format!("in {name}"))
}

/// Reads a flow table as Parquet, as `gateway meter`, pandas or `trainer synth sample` write it; columns are those of
/// [`TableReader`]. Only the columns that are used are unpacked.
pub(crate) fn read_parquet(path: &Path, label: Option<&str>) -> Result<Table> {
    let reader = open_parquet(File::open(path)?)?;
    let root = reader.metadata().file_metadata().schema().clone();
    let fields = root.get_fields();
    let header: Vec<String> = fields.iter().map(|f| f.name().to_owned()).collect();
    let probe = TableReader::new(&header, label)?;
    let used: Vec<_> = (0..header.len())
        .filter(|i| probe.is_used(*i))
        .map(|i| fields[i].clone())
        .collect();
    if let Some(other) = used.iter().find(|f| !is_plain(f)) {
        bail!(
            "column {}: must be text, a number or a time since 1970",
            other.name()
        );
    }
    let names: Vec<String> = used.iter().map(|f| f.name().to_owned()).collect();
    let label = probe.label().map(str::to_owned);
    let mut table = TableReader::new(&names, label.as_deref())?;
    let wanted = Type::group_type_builder(root.name())
        .with_fields(used)
        .build()?;
    let mut texts = Vec::with_capacity(names.len());
    for row in reader.get_row_iter(Some(wanted))? {
        let row = row?;
        texts.clear();
        texts.extend(row.get_column_iter().map(|(_, field)| text(field)));
        table.push(&texts)?;
    }
    Ok(table.finish()?)
}

/// Whether values of the column are understood.
fn is_plain(field: &Type) -> bool {
    use ConvertedType as C;
    if !field.is_primitive() {
        return false;
    }
    let kind = field.get_basic_info().converted_type();
    match field.get_physical_type() {
        Physical::INT32 => !matches!(kind, C::DECIMAL | C::TIME_MILLIS | C::DATE),
        Physical::INT64 => !matches!(kind, C::DECIMAL | C::TIME_MICROS),
        Physical::BYTE_ARRAY => !matches!(kind, C::DECIMAL),
        Physical::INT96 | Physical::FLOAT | Physical::DOUBLE => true,
        Physical::BOOLEAN | Physical::FIXED_LEN_BYTE_ARRAY => false,
    }
}

/// A value as CSV has it. Times are numbers since 1970, whose unit their size tells.
fn text(field: &Field) -> String {
    match field {
        Field::Null => String::new(),
        Field::Str(s) => s.clone(),
        Field::Bytes(b) => String::from_utf8_lossy(b.data()).into_owned(),
        Field::TimestampMillis(t) | Field::TimestampMicros(t) | Field::Long(t) => t.to_string(),
        Field::Double(v) => v.to_string(),
        Field::Float(v) => v.to_string(),
        Field::ULong(v) => v.to_string(),
        Field::Int(v) => v.to_string(),
        Field::UInt(v) => v.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use chaff_export::{Output, Parquet, ParquetOptions, WholeFile};
    use chaff_synth::{Names, Record};

    use super::*;

    fn table() -> Table {
        let record = |i: u64| Record {
            start_us: 1_458_298_072_364_000 + i,
            duration_us: 1_500_000 * (i % 2),
            packets: 1 + i % 2,
            bytes: 40 + i,
            src: [10, 0, 0, i as u8].into(),
            dst: "2001:db8::1".parse().expect("an address"),
            src_port: 1,
            dst_port: 53,
            protocol: 17,
            label: (i % 2) as u32,
            ..Record::default()
        };
        Table {
            records: (0..50).map(record).collect(),
            labels: vec!["a".into(), "b, c".into()],
            label_column: Some("type".into()),
            capture: false,
        }
    }

    fn written(path: &Path, names: Names, table: &Table) {
        let file = WholeFile::create(path).expect("creates");
        let columns = names.columns(table);
        let mut out = Parquet::new(file, &columns, &ParquetOptions::default()).expect("writes");
        let mut row = Vec::new();
        for r in &table.records {
            names.values(table, r, &mut row);
            out.write(&row).expect("writes");
        }
        Box::new(out).finish().expect("writes");
    }

    #[test]
    fn parquet_of_either_schema_is_read_back() {
        let dir = tempfile::tempdir().expect("folder");
        let table = table();
        for names in [Names::NetShare, Names::Chaff] {
            let path = dir.path().join(format!("{names:?}.parquet"));
            written(&path, names, &table);
            assert_eq!(read(&path, None).expect("reads").table, table, "{names:?}");
            assert!(read(&path, Some("colour")).is_err());
        }
    }

    #[test]
    fn parquet_that_cannot_be_flows_is_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("x.parquet");
        let mut one = table();
        one.records.truncate(0);
        written(&path, Names::NetShare, &one);
        let e = format!("{:#}", read(&path, None).expect_err("it is empty"));
        assert!(e.contains("x.parquet") && e.contains("no records"), "{e}");
        written(&path, Names::Chaff, &table());
        let bytes = fs::read(&path).expect("reads");
        fs::write(&path, &bytes[..bytes.len() - 20]).expect("writes");
        assert!(read(&path, None).is_err());
        let columns = [chaff_flow::Column {
            name: "srcip".into(),
            kind: chaff_flow::Kind::Text,
            unit: "".into(),
            doc: "".into(),
        }];
        let file = WholeFile::create(&path).expect("creates");
        let out = Parquet::new(file, &columns, &ParquetOptions::default()).expect("writes");
        Box::new(out).finish().expect("writes");
        let e = format!("{:#}", read(&path, None).expect_err("columns are missing"));
        assert!(e.contains("no column dstip"), "{e}");
    }
}
