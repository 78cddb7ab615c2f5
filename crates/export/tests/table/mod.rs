//! A small table with every kind of value, in the tests and in the example `sample`.

use chaff_abi::Mac;
use chaff_flow::{Column, Kind, Value};

fn column(name: &'static str, kind: Kind, unit: &'static str, doc: &'static str) -> Column {
    Column {
        name: name.into(),
        kind,
        unit: unit.into(),
        doc: doc.into(),
    }
}

/// Its columns.
pub(crate) fn columns() -> Vec<Column> {
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

/// Its `n`th row; each third has what can be missing missing.
pub(crate) fn row(n: u64) -> Vec<Value> {
    let has = |value: Value| if n % 3 == 2 { Value::Missing } else { value };
    vec![
        Value::Unsigned(n),
        Value::Unsigned(1_700_000_000_123_456_789 + n),
        Value::Signed(1_700_000_000_123 + n as i64),
        Value::Ip(if n.is_multiple_of(2) {
            [192, 168, 1, (n % 256) as u8].into()
        } else {
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, (n % 65_536) as u16].into()
        }),
        has(Value::Mac(Mac([2, 0x5e, 0, 0, 0, (n % 256) as u8]))),
        Value::Word(if n.is_multiple_of(2) {
            "idle"
        } else {
            "active"
        }),
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
