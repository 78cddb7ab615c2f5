//! Writes one small table in every file format: `cargo run -p chaff-export --example sample -- FOLDER [FLOWS]`.

use std::error::Error;
use std::fs::File;
use std::path::Path;

use chaff_abi::Mac;
use chaff_export::{Csv, Dialect, JsonLines, Output, Parquet, ParquetOptions, WholeFile};
use chaff_flow::{Column, Kind, Value};

fn column(name: &'static str, kind: Kind, unit: &'static str, doc: &'static str) -> Column {
    Column {
        name: name.into(),
        kind,
        unit: unit.into(),
        doc: doc.into(),
    }
}

fn columns() -> Vec<Column> {
    vec![
        column("id", Kind::Unsigned, "", "Number of the flow."),
        column("start_ns", Kind::Unsigned, "ns since 1970", "First packet."),
        column(
            "seen_ms",
            Kind::Signed,
            "ms since 1970",
            "First packet, too.",
        ),
        column("src_ip", Kind::Text, "", "Initiator."),
        column("src_mac", Kind::Text, "", "MAC address of the initiator."),
        column("end_reason", Kind::Text, "", "Why it ended."),
        column("bytes", Kind::Unsigned, "bytes", "Sum of IP lengths."),
        column("offset", Kind::Signed, "ms", "May be negative."),
        column("mean", Kind::Float, "bytes", "Mean IP length."),
        column("server", Kind::Text, "", "Server name."),
        column("sizes", Kind::List, "bytes", "First packets."),
        column("gaps", Kind::SignedList, "ms", "Before them."),
        column("names", Kind::TextList, "", "Of services."),
    ]
}

fn row(n: u64) -> Vec<Value> {
    let has = |value: Value| if n % 3 == 2 { Value::Missing } else { value };
    vec![
        Value::Unsigned(n),
        Value::Unsigned(1_700_000_000_123_456_789 + n),
        Value::Signed(1_700_000_000_123 + n as i64),
        Value::Ip(if n % 2 == 0 {
            [192, 168, 1, (n % 256) as u8].into()
        } else {
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, (n % 65_536) as u16].into()
        }),
        has(Value::Mac(Mac([2, 0x5e, 0, 0, 0, (n % 256) as u8]))),
        Value::Word(if n % 2 == 0 { "idle" } else { "active" }),
        Value::Unsigned(if n == 1 { u64::MAX } else { 1000 + n }),
        has(Value::Signed(-(n as i64))),
        has(Value::Float(n as f64 / 3.0)),
        has(Value::Text(format!("a \"server\", n. {n} é"))),
        has(Value::List((0..n % 4).map(|i| 60 + i).collect())),
        has(Value::SignedList(
            (0..n % 4).map(|i| i as i64 - 1).collect(),
        )),
        has(Value::TextList(
            (0..n % 3).map(|i| format!("it's {i}")).collect(),
        )),
    ]
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("which folder?")?;
    let flows = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let (folder, columns) = (Path::new(&folder), columns());
    let outputs: [Box<dyn Output>; 4] = [
        Box::new(Csv::new(
            File::create(folder.join("native.csv"))?,
            &columns,
            Dialect::Native,
        )),
        Box::new(Csv::new(
            File::create(folder.join("nfstream.csv"))?,
            &columns,
            Dialect::NfStream,
        )),
        Box::new(JsonLines::new(
            File::create(folder.join("flows.jsonl"))?,
            &columns,
        )),
        Box::new(Parquet::new(
            WholeFile::create(&folder.join("flows.parquet"))?,
            &columns,
            &ParquetOptions::default(),
        )?),
    ];
    for mut output in outputs {
        for n in 0..flows {
            output.write(&row(n))?;
        }
        output.finish()?;
    }
    Ok(())
}
