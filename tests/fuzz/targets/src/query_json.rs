//! nfdump's JSON as `query` reads it ([`chaff_query::json`]).
//!
//! Input: the file.
//!
//! - What does not begin like JSON is none.
//! - Each column alone has the values that it has among others.
//! - Packed with gzip it is the same file.
//! - An array of objects that is whole has a record for each object, with that object's values.

use std::io::Write as _;

use chaff_query::cell::Cell;
use chaff_query::json::look;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value};

use crate::Seeds;
use crate::scratch::with_file;

/// Name in questions and of the object's fields, the first that is there counts.
const COLUMNS: [(&str, [&str; 2]); 8] = [
    ("sa", ["src4_addr", "src6_addr"]),
    ("da", ["dst4_addr", "dst6_addr"]),
    ("ipkt", ["in_packets", ""]),
    ("ibyt", ["in_bytes", ""]),
    ("opkt", ["out_packets", ""]),
    ("obyt", ["out_bytes", ""]),
    ("dir", ["direction", ""]),
    ("sni", ["sni", ""]),
];

/// A [`Cell`] that outlives its record.
#[derive(Clone, Debug, PartialEq)]
enum Own {
    Missing,
    Text(Vec<u8>),
    Integer(i64),
    Float(f64),
}

fn own(cell: &Cell<'_>) -> Own {
    match *cell {
        Cell::Missing => Own::Missing,
        Cell::Text(text) | Cell::Word { text, .. } => Own::Text(text.to_vec()),
        Cell::Integer(n) => Own::Integer(n),
        Cell::Float(x) => Own::Float(x),
    }
}

type Row = [Own; COLUMNS.len()];

/// The records and whether the file broke off; nothing where it is not taken for nfdump's JSON.
fn read(file: &[u8]) -> Option<(Vec<Row>, bool)> {
    with_file(file, |path| {
        let found = look(path).ok().flatten()?;
        assert_eq!(
            (found.path.as_path(), found.bytes),
            (path, file.len() as u64)
        );
        let names = COLUMNS.map(|(name, _)| name);
        let mut rows: Vec<Row> = Vec::new();
        let mut take = |row: &[Cell<'_>; COLUMNS.len()]| rows.push(row.each_ref().map(own));
        let broken = found.each(&names, &mut take).ok()?;
        assert!(broken <= 1);
        for (column, name) in names.iter().enumerate() {
            let mut at = 0;
            let again = found.each(&[name], |row: &[Cell<'_>; 1]| {
                assert_eq!(own(&row[0]), rows[at][column], "{name}");
                at += 1;
            });
            assert_eq!((again.ok(), at), (Some(broken), rows.len()), "{name}");
        }
        Some((rows, broken == 1))
    })
}

fn wanted(object: &Map<String, Value>, fields: [&str; 2]) -> Own {
    let names = fields.iter().filter(|field| !field.is_empty());
    let values = names.filter_map(|field| object.get(*field));
    let own = values.map(|value| match value {
        Value::Number(n) => match n.as_i64() {
            Some(n) => Own::Integer(n),
            None => n.as_f64().map_or(Own::Missing, Own::Float),
        },
        Value::String(text) => Own::Text(text.trim().as_bytes().to_vec()),
        _ => Own::Missing,
    });
    own.into_iter()
        .find(|v| *v != Own::Missing)
        .unwrap_or(Own::Missing)
}

/// See the module.
pub fn run(data: &[u8]) {
    let found = read(data);
    let is_packed = data.starts_with(&[0x1f, 0x8b]);
    if !is_packed {
        let first = data.iter().find(|b| !b.is_ascii_whitespace());
        assert!(found.is_none() || matches!(first, Some(b'[' | b'{')));
        let mut packed = GzEncoder::new(Vec::new(), Compression::none());
        packed.write_all(data).unwrap();
        assert_eq!(read(&packed.finish().unwrap()), found);
    }
    let Some((rows, broken)) = found else {
        return;
    };
    if let Ok(objects) = serde_json::from_slice::<Vec<Map<String, Value>>>(data)
        // A field that stands twice ends the reading.
        && !broken
    {
        let want: Vec<Row> = objects
            .iter()
            .map(|object| COLUMNS.map(|(_, fields)| wanted(object, fields)))
            .collect();
        assert_eq!(rows, want);
    }
}

/// Arrays, objects in a row, packed, cut and strange ones.
pub fn seeds() -> Seeds {
    let first = r#"{"type":"FLOW","src4_addr":"10.0.0.1","dst4_addr":"198.18.0.1","in_packets":3,"in_bytes":180,"direction":1}"#;
    let second = r#"{"in_bytes":1.5e3,"src6_addr":"2001:db8::1 ","sni":"v\u00e9.example","more":{"a":[1,"}"]},"out_bytes":-1}"#;
    let array = format!("[\n{first},\n{second}\n]\n");
    let mut packed = GzEncoder::new(Vec::new(), Compression::none());
    packed.write_all(array.as_bytes()).unwrap();
    let texts = [
        ("array", array.clone()),
        ("objects", format!("{first}\n{second}\n")),
        ("cut", array[..array.len() - 20].to_owned()),
        ("empty", "[]".to_owned()),
        (
            "deep",
            format!("[{{\"in_bytes\":{}1{}}}]", "[".repeat(140), "]".repeat(140)),
        ),
        ("twice", r#"[{"in_bytes":1,"in_bytes":2}]"#.to_owned()),
        (
            "numbers",
            r#"[{"in_bytes":18446744073709551615,"in_packets":1e400,"out_bytes":-0.0}]"#.to_owned(),
        ),
        ("other", r#"{"version":2}"#.to_owned()),
    ];
    let mut seeds: Seeds = texts
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.into_bytes()))
        .collect();
    seeds.push(("packed".to_owned(), packed.finish().unwrap()));
    seeds
}
