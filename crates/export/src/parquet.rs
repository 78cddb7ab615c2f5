use std::io;
use std::sync::Arc;

use ::parquet::basic::{
    Compression, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel,
};
use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::types::{ColumnPath, Type, TypePtr};
use bytes::Bytes;
use chaff_flow::{Column, Kind, Value};

use crate::{Output, Target, arrow_schema, check_row};
use chaff_flow::text::{Style, push_value};

/// Settings of a [`Parquet`] file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParquetOptions {
    /// Flows gathered in memory before they are written as one row group. Default 65,536.
    pub group_rows: usize,
    /// Bytes gathered in memory after which a row group is written earlier. Default 16 MiB.
    pub group_bytes: usize,
    /// Effort of zstd, 1 to 22. Default 1.
    pub zstd_level: i32,
    /// Further metadata of the file, by key.
    pub metadata: Vec<(String, String)>,
}

impl Default for ParquetOptions {
    fn default() -> Self {
        Self {
            group_rows: 65_536,
            group_bytes: 16 << 20,
            zstd_level: 1,
            metadata: Vec::new(),
        }
    }
}

/// An Apache Parquet file, compressed with zstd.
///
/// Each column is optional, with a null for [`Value::Missing`]: unsigned and signed numbers are `INT64` with their
/// logical type, texts, addresses and MAC addresses are strings, lists are `LIST`s, and columns whose unit is a time
/// *since 1970* (`ns since 1970`, also µs and ms) are UTC timestamps of that unit. Unit and meaning of each column are in
/// the Arrow schema as metadata of the field (`unit`, `doc`), which Arrow, pandas and polars read.
///
/// Flows are gathered until a row group is full, so memory is bounded by [`ParquetOptions::group_bytes`] and
/// [`Output::flush`] does nothing. Without [`Output::finish`] there is no file.
pub struct Parquet<T: Target> {
    writer: SerializedFileWriter<T>,
    columns: Vec<Gathered>,
    rows: usize,
    bytes: usize,
    group_rows: usize,
    group_bytes: usize,
}

/// The part of a column that waits for its row group.
struct Gathered {
    name: String,
    cell: Cell,
    values: Values,
    /// 0 where a value is missing; lists: 0 missing, 1 empty, 2 an item.
    definition: Vec<i16>,
    /// Lists: 0 for the first item, 1 for the others.
    repetition: Vec<i16>,
}

/// What a column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Unsigned,
    Signed,
    Float,
    Text,
    /// Time since 1970.
    Instant(Tick),
    UnsignedList,
    SignedList,
    TextList,
}

/// Unit of an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    Milli,
    Micro,
    Nano,
}

enum Values {
    Integers(Vec<i64>),
    Floats(Vec<f64>),
    Texts { bytes: Vec<u8>, ends: Vec<usize> },
}

impl Cell {
    pub(crate) fn of(column: &Column) -> Option<Self> {
        let instant = match column.unit.strip_suffix(" since 1970") {
            Some("ns") => Some(Tick::Nano),
            Some("µs") => Some(Tick::Micro),
            Some("ms") => Some(Tick::Milli),
            _ => None,
        };
        Some(match (column.kind, instant) {
            (Kind::Unsigned | Kind::Signed, Some(tick)) => Self::Instant(tick),
            (Kind::Unsigned, None) => Self::Unsigned,
            (Kind::Signed, None) => Self::Signed,
            (Kind::Float, _) => Self::Float,
            (Kind::Text, _) => Self::Text,
            (Kind::List, _) => Self::UnsignedList,
            (Kind::SignedList, _) => Self::SignedList,
            (Kind::TextList, _) => Self::TextList,
            _ => return None,
        })
    }

    fn is_list(self) -> bool {
        matches!(self, Self::UnsignedList | Self::SignedList | Self::TextList)
    }

    fn physical(self) -> (Physical, Option<LogicalType>) {
        match self {
            Self::Unsigned | Self::UnsignedList => {
                (Physical::INT64, Some(LogicalType::integer(64, false)))
            }
            Self::Signed | Self::SignedList => {
                (Physical::INT64, Some(LogicalType::integer(64, true)))
            }
            Self::Float => (Physical::DOUBLE, None),
            Self::Text | Self::TextList => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Self::Instant(tick) => {
                let unit = match tick {
                    Tick::Milli => TimeUnit::MILLIS,
                    Tick::Micro => TimeUnit::MICROS,
                    Tick::Nano => TimeUnit::NANOS,
                };
                (Physical::INT64, Some(LogicalType::timestamp(true, unit)))
            }
        }
    }

    fn schema(self, name: &str) -> Result<Type, ParquetError> {
        let (physical, logical) = self.physical();
        let value = |name: &str, repetition| {
            Type::primitive_type_builder(name, physical)
                .with_logical_type(logical.clone())
                .with_repetition(repetition)
                .build()
        };
        if !self.is_list() {
            return value(name, Repetition::OPTIONAL);
        }
        let list = Type::group_type_builder("list")
            .with_repetition(Repetition::REPEATED)
            .with_fields(vec![Arc::new(value("element", Repetition::REQUIRED)?)])
            .build()?;
        Type::group_type_builder(name)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(Some(LogicalType::List))
            .with_fields(vec![Arc::new(list)])
            .build()
    }
}

impl<T: Target> Parquet<T> {
    /// Begins a file.
    ///
    /// # Errors
    /// Those of the target; a column of a kind that is not known here; a wrong [`ParquetOptions::zstd_level`].
    pub fn new(out: T, columns: &[Column], options: &ParquetOptions) -> io::Result<Self> {
        let mut gathered = Vec::with_capacity(columns.len());
        for column in columns {
            let cell = Cell::of(column)
                .ok_or_else(|| wrong(&column.name, "a kind that Parquet has no type for"))?;
            gathered.push(Gathered::new(&column.name, cell));
        }
        let fields: Result<Vec<TypePtr>, _> = gathered
            .iter()
            .map(|g| g.cell.schema(&g.name).map(Arc::new))
            .collect();
        let schema = Type::group_type_builder("flows")
            .with_fields(fields.map_err(into_io)?)
            .build()
            .map_err(into_io)?;
        let cells: Vec<Cell> = gathered.iter().map(|g| g.cell).collect();
        let arrow = KeyValue::new("ARROW:schema".into(), arrow_schema::encode(columns, &cells));
        let further = options
            .metadata
            .iter()
            .map(|(k, v)| KeyValue::new(k.clone(), v.clone()));
        let level = ZstdLevel::try_new(options.zstd_level).map_err(into_io)?;
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by(concat!("chaff-export version ", env!("CARGO_PKG_VERSION")).into())
            .set_key_value_metadata(Some(std::iter::once(arrow).chain(further).collect()))
            .set_statistics_enabled(EnabledStatistics::Chunk);
        for g in &gathered {
            if matches!(g.cell, Cell::Instant(_)) {
                // Nearly all differ from each other and little from their neighbours.
                let path = ColumnPath::from(g.name.as_str());
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
        }
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties.build()))
            .map_err(into_io)?;
        Ok(Self {
            writer,
            columns: gathered,
            rows: 0,
            bytes: 0,
            group_rows: options.group_rows.max(1),
            group_bytes: options.group_bytes,
        })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.columns {
            if let Some(mut writer) = group.next_column()? {
                column.write(writer.untyped())?;
                writer.close()?;
            }
        }
        group.close()?;
        self.rows = 0;
        self.bytes = 0;
        Ok(())
    }
}

impl<T: Target> Output for Parquet<T> {
    fn write(&mut self, row: &[Value]) -> io::Result<()> {
        check_row(row, self.columns.len())?;
        // A row goes in whole or not at all, or the columns would be of different lengths.
        for (column, value) in self.columns.iter().zip(row) {
            if !column.takes(value) {
                return Err(wrong(&column.name, "a value of another kind"));
            }
        }
        for (column, value) in self.columns.iter_mut().zip(row) {
            self.bytes += column.push(value);
        }
        self.rows += 1;
        if self.rows >= self.group_rows || self.bytes >= self.group_bytes {
            self.write_group().map_err(into_io)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.writer.bytes_written() as u64
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.write_group().map_err(into_io)?;
        self.writer.finish().map_err(into_io)?;
        self.writer.inner_mut().close()
    }
}

impl Gathered {
    fn new(name: &str, cell: Cell) -> Self {
        let values = match cell.physical().0 {
            Physical::DOUBLE => Values::Floats(Vec::new()),
            Physical::BYTE_ARRAY => Values::Texts {
                bytes: Vec::new(),
                ends: Vec::new(),
            },
            _ => Values::Integers(Vec::new()),
        };
        Self {
            name: name.to_string(),
            cell,
            values,
            definition: Vec::new(),
            repetition: Vec::new(),
        }
    }

    fn takes(&self, value: &Value) -> bool {
        matches!(
            (self.cell, value),
            (_, Value::Missing)
                | (Cell::Unsigned | Cell::Instant(_), Value::Unsigned(_))
                | (Cell::Signed | Cell::Instant(_), Value::Signed(_))
                | (Cell::Float, Value::Float(_))
                | (
                    Cell::Text,
                    Value::Ip(_) | Value::Mac(_) | Value::Word(_) | Value::Text(_)
                )
                | (Cell::UnsignedList, Value::List(_))
                | (Cell::SignedList, Value::SignedList(_))
                | (Cell::TextList, Value::TextList(_))
        )
    }

    /// Takes a value and gives the memory it takes, bytes.
    fn push(&mut self, value: &Value) -> usize {
        match (value, &mut self.values) {
            (Value::Unsigned(n), Values::Integers(v)) => {
                // Timestamps are signed: those after the year 2262 stay at its end. Other numbers keep their bits.
                let n = if matches!(self.cell, Cell::Instant(_)) {
                    (*n).min(i64::MAX as u64)
                } else {
                    *n
                };
                v.push(n as i64);
                self.define(1) + 8
            }
            (Value::Signed(n), Values::Integers(v)) => {
                v.push(*n);
                self.define(1) + 8
            }
            (Value::Float(x), Values::Floats(v)) => {
                v.push(*x);
                self.define(1) + 8
            }
            (Value::List(items), Values::Integers(v)) => {
                v.extend(items.iter().map(|n| *n as i64));
                self.define_list(items.len()) + 8 * items.len()
            }
            (Value::SignedList(items), Values::Integers(v)) => {
                v.extend_from_slice(items);
                self.define_list(items.len()) + 8 * items.len()
            }
            (Value::TextList(items), Values::Texts { bytes, ends }) => {
                let before = bytes.len();
                for item in items {
                    bytes.extend_from_slice(item.as_bytes());
                    ends.push(bytes.len());
                }
                let grown = bytes.len() - before;
                self.define_list(items.len()) + grown + 8 * items.len()
            }
            (Value::Missing, _) => {
                if self.cell.is_list() {
                    self.repetition.push(0);
                }
                self.define(0)
            }
            (text, Values::Texts { bytes, ends }) => {
                let before = bytes.len();
                push_value(bytes, text, Style::Native);
                ends.push(bytes.len());
                let grown = bytes.len() - before;
                self.define(1) + grown + 8
            }
            // `takes` has refused the others.
            _ => 0,
        }
    }

    fn define(&mut self, level: i16) -> usize {
        self.definition.push(level);
        2
    }

    fn define_list(&mut self, items: usize) -> usize {
        if items == 0 {
            self.definition.push(1);
            self.repetition.push(0);
        } else {
            self.definition.resize(self.definition.len() + items, 2);
            self.repetition.push(0);
            self.repetition.resize(self.repetition.len() + items - 1, 1);
        }
        4 * items.max(1)
    }

    fn write(&mut self, writer: &mut ColumnWriter<'_>) -> Result<(), ParquetError> {
        let definition = Some(self.definition.as_slice());
        let repetition = self.cell.is_list().then_some(self.repetition.as_slice());
        match (writer, &mut self.values) {
            (ColumnWriter::Int64ColumnWriter(w), Values::Integers(v)) => {
                w.write_batch(v, definition, repetition)?;
                v.clear();
            }
            (ColumnWriter::DoubleColumnWriter(w), Values::Floats(v)) => {
                w.write_batch(v, definition, repetition)?;
                v.clear();
            }
            (ColumnWriter::ByteArrayColumnWriter(w), Values::Texts { bytes, ends }) => {
                let all = Bytes::from(std::mem::take(bytes));
                let mut from = 0;
                let texts: Vec<ByteArray> = ends
                    .iter()
                    .map(|&to| ByteArray::from(all.slice(std::mem::replace(&mut from, to)..to)))
                    .collect();
                w.write_batch(&texts, definition, repetition)?;
                ends.clear();
            }
            _ => {
                return Err(ParquetError::General(format!(
                    "column {} has another type",
                    self.name
                )));
            }
        }
        self.definition.clear();
        self.repetition.clear();
        Ok(())
    }
}

fn wrong(column: &str, what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("column {column}: {what}"),
    )
}

/// The system's error where there is one: a full disk or a closed pipe is told apart by its kind.
fn into_io(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(e) => *e,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}
