//! What records look like when written.

use chaff_abi::{Dir, FlowKey, Mac, Nanos, Sample};
use chaff_flow::{FIELDS, Kind, Packet, Record, Table, TableConfig, Value, fields_markdown};

fn record() -> Record {
    let key = FlowKey {
        src: FlowKey::mapped([192, 168, 1, 9]),
        dst: FlowKey::mapped([10, 0, 0, 1]),
        src_port: 5000u16.to_be_bytes(),
        dst_port: 443u16.to_be_bytes(),
        vlan: 7u16.to_be_bytes(),
        protocol: 6,
        version: 4,
    };
    let mut table = Table::new(TableConfig::default());
    for (ms, out, bytes, flags) in [
        (0, true, 60, 0x02),
        (10, false, 60, 0x12),
        (20, true, 100, 0x18),
        (50, true, 140, 0x18),
    ] {
        let sample = Sample {
            wire: bytes + 18,
            bytes,
            payload: bytes - 60,
            segments: 1,
            tcp_flags: flags,
        };
        let mut p = Packet {
            key,
            sample,
            src_mac: Mac([2, 0, 0, 0, 0, 1]),
            ..Packet::default()
        };
        if !out {
            p.key = key.reversed();
        }
        let dir = if out { Dir::Out } else { Dir::In };
        table.observe(
            Nanos::from_secs(1_600_000_000) + Nanos::from_millis(ms),
            Some(dir),
            &p,
        );
    }
    table.finish(Nanos::from_secs(1_600_000_001));
    table.poll_record().expect("one flow")
}

/// Name and CSV cell of every field of [`record`].
const GOLDEN: &str = include_str!("record.golden");

#[test]
fn every_field_has_its_value_in_the_csv_row() {
    let mut row = Vec::new();
    record().write_csv(&mut row).expect("memory");
    let row = String::from_utf8(row).expect("text");
    let header = Record::csv_header();
    let got: String = header
        .split(',')
        .zip(row.trim_end().split(','))
        .map(|(name, cell)| format!("{name} {cell}\n"))
        .collect();
    assert_eq!(row.matches(',').count(), FIELDS.len() - 1);
    assert_eq!(got, GOLDEN, "got:\n{got}");
}

#[test]
fn json_says_the_same_as_csv() {
    let (mut csv, mut json) = (Vec::new(), Vec::new());
    record().write_csv(&mut csv).expect("memory");
    record().write_json(&mut json).expect("memory");
    let (csv, json) = (
        String::from_utf8(csv).expect("text"),
        String::from_utf8(json).expect("text"),
    );
    assert!(
        json.starts_with("{\"id\":0,\"part\":0,\"end_reason\":\"end_of_input\",")
            && json.ends_with("}\n")
    );
    for (field, cell) in FIELDS.iter().zip(csv.trim_end().split(',')) {
        let value = match field.kind {
            Kind::List => format!("[{}]", cell.replace(' ', ",")),
            _ if cell.is_empty() => "null".to_string(),
            Kind::Text => format!("\"{cell}\""),
            _ => cell.to_string(),
        };
        assert!(
            json.contains(&format!("\"{}\":{value}", field.name)),
            "{} in {json}",
            field.name
        );
    }
}

#[test]
fn values_have_the_type_that_their_field_says() {
    for field in FIELDS {
        let value = (field.get)(&record());
        let fits = match (&value, field.kind) {
            (Value::Missing, _) => true,
            (Value::Unsigned(_), kind) => kind == Kind::Unsigned,
            (Value::Float(x), kind) => kind == Kind::Float && x.is_finite(),
            (Value::Ip(_) | Value::Mac(_) | Value::Word(_), kind) => kind == Kind::Text,
            (Value::List(_), kind) => kind == Kind::List,
            _ => false,
        };
        assert!(fits, "{}: {value:?}", field.name);
    }
}

#[test]
fn names_are_unique_and_documented() {
    let mut names: Vec<&str> = FIELDS.iter().map(|f| f.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), FIELDS.len());
    assert!(
        FIELDS
            .iter()
            .all(|f| !f.doc.is_empty() && f.doc.ends_with('.'))
    );
    assert_eq!(fields_markdown().lines().count(), FIELDS.len() + 2);
}

/// To refresh: `gateway meter --explain ...` prints the table.
#[test]
fn the_committed_field_table_is_up_to_date() {
    let committed = include_str!("../FIELDS.md");
    let table = committed.split_once("\n\n").expect("a title").1;
    let fresh = fields_markdown();
    assert_eq!(table, fresh, "FIELDS.md should be:\n{fresh}");
}
