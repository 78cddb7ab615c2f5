//! Tables of flows with texts of strangers in them, written in every format ([`chaff_export`]).
//!
//! Input: which format, key of the anonymiser, columns, then values (see [`run`]).
//!
//! - CSV has as many cells in every line as there are columns, and texts read back as they are.
//! - A line of JSON is an object with every column; texts, numbers and lists read back.
//! - IPFIX messages are as long as they say, their sets fill them, and texts never leave their record.
//! - Parquet files begin and end as they should.
//! - Two addresses that share n bits do so after anonymising, and no more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chaff_export::{
    Anonymizer, Csv, Dialect, Ipfix, IpfixOptions, JsonLines, Key, Mode, Output, Parquet,
    ParquetOptions,
};
use chaff_flow::{Column, Kind, Value};

use crate::Seeds;
use crate::bytes::{Bytes, push_piece};

const KINDS: [Kind; 7] = [
    Kind::Unsigned,
    Kind::Signed,
    Kind::Float,
    Kind::Text,
    Kind::List,
    Kind::SignedList,
    Kind::TextList,
];
const NAMES: [&str; 12] = [
    "src_ip",
    "dst_ip",
    "src_port",
    "protocol",
    "packets",
    "start_ns",
    "application_name",
    "server_name",
    "x",
    "user_agent",
    "splt_ps",
    "bidirectional_packets",
];

/// See the module. A column: name or a piece as its name, kind; a value: missing or not, then its bytes.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let format = input.u8();
    if format % 8 == 7 {
        return prefixes(&mut input);
    }
    let columns = columns(&mut input);
    let mut rows = Vec::new();
    while !input.is_empty() && rows.len() < 64 {
        rows.push(
            columns
                .iter()
                .map(|c| value(&mut input, c.kind))
                .collect::<Vec<_>>(),
        );
    }
    let mut file = Vec::new();
    match format % 8 {
        0 | 1 => {
            write(Csv::new(&mut file, &columns, Dialect::Native), &rows);
            check_csv(&file, &columns, &rows);
        }
        2 => {
            write(Csv::new(&mut file, &columns, Dialect::NfStream), &rows);
            check_csv(&file, &columns, &rows);
        }
        3 | 4 => {
            write(JsonLines::new(&mut file, &columns), &rows);
            check_json(&file, &columns, &rows);
        }
        5 => {
            let options = IpfixOptions {
                max_message: 512 + usize::from(format) * 8,
                ..IpfixOptions::default()
            };
            if let Ok(ipfix) = Ipfix::new(&mut file, &columns, options) {
                write(ipfix, &rows);
                check_ipfix(&file);
            }
        }
        _ => {
            let options = ParquetOptions::default();
            let made = Parquet::new(&mut file, &columns, &options).map(|out| write(out, &rows));
            let whole = file.starts_with(b"PAR1") && file.ends_with(b"PAR1");
            assert!(whole || made.is_err());
        }
    }
}

fn columns(input: &mut Bytes<'_>) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for i in 0..1 + input.u8() % 12 {
        let (name, kind) = (input.u8(), input.u8());
        let name = match NAMES.get(usize::from(name)) {
            Some(name) => (*name).to_owned(),
            None => String::from_utf8_lossy(input.piece()).into_owned(),
        };
        // A table has each name once.
        let taken = columns.iter().any(|c| c.name == name);
        let name = if taken || name.is_empty() {
            format!("{name}{i}")
        } else {
            name
        };
        if columns.iter().any(|c| c.name == name) {
            continue;
        }
        columns.push(Column {
            name: name.into(),
            kind: KINDS[usize::from(kind) % KINDS.len()],
            unit: if kind & 0x80 == 0 {
                "".into()
            } else {
                "ms since the epoch".into()
            },
            doc: "".into(),
        });
    }
    columns
}

fn value(input: &mut Bytes<'_>, kind: Kind) -> Value {
    let how = input.u8();
    if how & 1 == 1 {
        return Value::Missing;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match kind {
        Kind::Unsigned => Value::Unsigned(input.u64() >> (how >> 2)),
        Kind::Signed => Value::Signed((input.u64() as i64) >> (how >> 2)),
        Kind::Float => {
            let x = f64::from_bits(input.u64());
            Value::Float(if x.is_finite() { x } else { 0.5 })
        }
        Kind::Text => match how >> 1 & 3 {
            0 => Value::Ip(Ipv4Addr::from(input.u32()).into()),
            1 => Value::Ip(Ipv6Addr::from(input.array::<16>()).into()),
            2 => Value::Mac(chaff_abi::Mac(input.array())),
            _ => Value::Text(text(input.piece())),
        },
        Kind::List => Value::List(
            input
                .piece()
                .iter()
                .map(|b| u64::from(*b) << (b & 31))
                .collect(),
        ),
        Kind::SignedList => {
            Value::SignedList(input.piece().iter().map(|b| i64::from(*b) - 99).collect())
        }
        _ => Value::TextList(input.piece().split(|b| *b == b'/').map(text).collect()),
    }
}

fn write(output: impl Output, rows: &[Vec<Value>]) {
    let mut output: Box<dyn Output + '_> = Box::new(output);
    for row in rows {
        output.write(row).unwrap();
        assert!(output.write(&row[1..]).is_err());
    }
    output.finish().unwrap();
}

/// Lines and cells of a CSV text (RFC 4180), LF or CRLF.
pub(crate) fn cells(file: &[u8]) -> Vec<Vec<String>> {
    let (mut lines, mut line, mut cell) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = file.iter().copied().peekable();
    let text = |cell: &mut Vec<u8>| String::from_utf8(std::mem::take(cell)).unwrap();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if cell.is_empty() => loop {
                match bytes.next() {
                    Some(b'"') if bytes.peek() == Some(&b'"') => {
                        bytes.next();
                        cell.push(b'"');
                    }
                    Some(b'"') => {
                        assert!(matches!(bytes.peek(), Some(b',' | b'\r' | b'\n')));
                        break;
                    }
                    Some(byte) => cell.push(byte),
                    None => panic!("a quoted cell without an end"),
                }
            },
            b',' => line.push(text(&mut cell)),
            b'\r' => assert_eq!(bytes.peek(), Some(&b'\n'), "a bare carriage return"),
            b'\n' => {
                line.push(text(&mut cell));
                lines.push(std::mem::take(&mut line));
            }
            other => cell.push(other),
        }
    }
    assert!(line.is_empty() && cell.is_empty(), "no line end at the end");
    lines
}

fn check_csv(file: &[u8], columns: &[Column], rows: &[Vec<Value>]) {
    let lines = cells(file);
    assert_eq!(
        lines.len(),
        rows.len() + 1,
        "{}",
        String::from_utf8_lossy(file)
    );
    assert!(lines.iter().all(|line| line.len() == columns.len()));
    for (name, column) in lines[0].iter().zip(columns) {
        assert_eq!(name, &column.name);
    }
    for (line, row) in lines[1..].iter().zip(rows) {
        for (cell, value) in line.iter().zip(row) {
            match value {
                Value::Text(text) => assert_eq!(cell, text),
                Value::Missing => assert_eq!(cell, ""),
                Value::Unsigned(n) => assert_eq!(cell.parse(), Ok(*n)),
                Value::Signed(n) => assert_eq!(cell.parse(), Ok(*n)),
                Value::Float(x) => assert_eq!(cell.parse(), Ok(*x)),
                Value::Ip(ip) => assert_eq!(cell.parse(), Ok(*ip)),
                Value::Mac(mac) => assert_eq!(cell.parse(), Ok(*mac)),
                _ => (),
            }
        }
    }
}

fn check_json(file: &[u8], columns: &[Column], rows: &[Vec<Value>]) {
    let text = std::str::from_utf8(file).unwrap();
    let lines: Vec<&str> = text.split_terminator('\n').collect();
    assert_eq!(lines.len(), rows.len());
    for (line, row) in lines.iter().zip(rows) {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(line).unwrap();
        assert_eq!(object.len(), columns.len(), "{line}");
        for (column, value) in columns.iter().zip(row) {
            let found = &object[&*column.name];
            match value {
                Value::Missing => assert!(found.is_null()),
                Value::Unsigned(n) => assert_eq!(found.as_u64(), Some(*n)),
                Value::Signed(n) => assert_eq!(found.as_i64(), Some(*n)),
                // The reader is off by a few units in the last place.
                Value::Float(x) => {
                    let near = |y: f64| (y - x).abs() <= x.abs() * 1e-14 + 1e-300;
                    assert!(found.as_f64().is_some_and(near), "{x}: {found}");
                }
                Value::Text(text) => assert_eq!(found.as_str(), Some(&**text)),
                Value::TextList(texts) => assert_eq!(found, &serde_json::json!(texts)),
                Value::List(numbers) => assert_eq!(found, &serde_json::json!(numbers)),
                Value::SignedList(numbers) => assert_eq!(found, &serde_json::json!(numbers)),
                _ => assert!(found.is_string()),
            }
        }
    }
}

/// Walks messages and sets by their lengths (RFC 7011, section 3).
fn check_ipfix(file: &[u8]) {
    let mut rest = file;
    let number =
        |bytes: &[u8], at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    while !rest.is_empty() {
        assert_eq!(number(rest, 0), 10, "version");
        let length = number(rest, 2);
        assert!(
            (16..=rest.len()).contains(&length),
            "message of {length} bytes"
        );
        let mut sets = &rest[16..length];
        while !sets.is_empty() {
            let (id, length) = (number(sets, 0), number(sets, 2));
            assert!(id == 2 || id == 3 || id >= 256, "set {id}");
            assert!((4..=sets.len()).contains(&length), "set of {length} bytes");
            sets = &sets[length..];
        }
        rest = &rest[length..];
    }
}

/// Bits that two addresses share at the front.
fn shared(a: IpAddr, b: IpAddr) -> Option<u32> {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => Some((u32::from(a) ^ u32::from(b)).leading_zeros()),
        (IpAddr::V6(a), IpAddr::V6(b)) => Some((u128::from(a) ^ u128::from(b)).leading_zeros()),
        _ => None,
    }
}

fn prefixes(input: &mut Bytes<'_>) {
    let ipv6 = input.u8() & 1 == 1;
    let pair: [IpAddr; 2] = if ipv6 {
        [(); 2].map(|()| IpAddr::V6(input.array::<16>().into()))
    } else {
        [(); 2].map(|()| IpAddr::V4(input.array::<4>().into()))
    };
    // IPv4 addresses inside IPv6 ones follow the rule of IPv4.
    let mapped = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    let Ok(key) = Key::from_file_content(input.rest()) else {
        return;
    };
    let columns = ["src_ip", "dst_ip"].map(|name| Column {
        name: name.into(),
        kind: Kind::Text,
        unit: "".into(),
        doc: "".into(),
    });
    let (mut anonymizer, missing) =
        Anonymizer::new(&columns, ["src_ip", "dst_ip"], Mode::Prefix, &key);
    assert!(missing.is_empty());
    let mut row = pair.map(Value::Ip);
    anonymizer.apply(&mut row);
    let [Value::Ip(a), Value::Ip(b)] = row else {
        panic!("{row:?} are no addresses");
    };
    if !pair.iter().any(mapped) {
        assert_eq!(shared(a, b), shared(pair[0], pair[1]));
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let mut table = vec![7];
    for (name, kind) in [(0u8, 3u8), (4, 0), (5, 0x80), (9, 3), (10, 5), (8, 2)] {
        table.extend([name, kind]);
    }
    table.extend([200, 6]);
    push_piece(&mut table, b"own, \"column\"");
    table.extend([7, 3]);
    for text in [
        "plain",
        "a,b \"c\"\r\n",
        "=HYPERLINK(\"x\")",
        "\u{0}\u{7f}\u{2028}",
    ] {
        table.extend([0, 192, 168, 7, 1]);
        table.push(0);
        table.extend(7u64.to_be_bytes());
        table.push(0);
        table.extend(1_700_000_000_000u64.to_be_bytes());
        table.push(6);
        push_piece(&mut table, text.as_bytes());
        table.push(0);
        push_piece(&mut table, &[1, 99, 200]);
        table.push(0);
        table.extend(0.1f64.to_bits().to_be_bytes());
        table.push(0);
        push_piece(&mut table, b"one/t\"wo/");
        table.push(1);
    }
    let mut seeds: Seeds = (0..7u8)
        .map(|format| (format!("format-{format}"), [&[format], &table[..]].concat()))
        .collect();
    let addresses = [&[7, 0, 10, 0, 0, 1, 10, 0, 1, 1][..], &[b'k'; 32]].concat();
    seeds.push(("addresses".into(), addresses));
    seeds
}
