//! nfdump's JSON: an array of objects (`-o json`) or one object after the other (`-o ndjson`).
//!
//! Each object has the fields of the extensions that its record has, so there is no header. (`-o ndjson` of some nfdump
//! 1.7 writes the packets as `in_bytes`; the array is right.)

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde_json::Value;

use crate::cell::Cell;

/// Bytes read at once.
const BLOCK: usize = 256 << 10;

/// A file of nfdump's JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonFile {
    /// Where it is.
    pub path: PathBuf,
    /// Names of the columns that it is taken to have.
    pub names: Vec<String>,
    /// Packed with gzip.
    pub packed: bool,
    /// Bytes of the file.
    pub bytes: u64,
}

/// The fields that questions use. A value of an unexpected type is a missing one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    src4_addr: Value,
    src6_addr: Value,
    dst4_addr: Value,
    dst6_addr: Value,
    in_packets: Value,
    in_bytes: Value,
    out_packets: Value,
    out_bytes: Value,
    direction: Value,
    sni: Value,
}

impl Record {
    /// Whether it has anything that nfdump writes of each flow.
    fn is_flow(&self) -> bool {
        let fields = [
            &self.src4_addr,
            &self.src6_addr,
            &self.in_packets,
            &self.in_bytes,
        ];
        fields.iter().any(|v| !v.is_null())
    }

    fn cell(&self, column: &str) -> Cell<'_> {
        let either = |a, b| match cell(a) {
            Cell::Missing => cell(b),
            found => found,
        };
        match column {
            "sa" => either(&self.src4_addr, &self.src6_addr),
            "da" => either(&self.dst4_addr, &self.dst6_addr),
            "ipkt" => cell(&self.in_packets),
            "ibyt" => cell(&self.in_bytes),
            "opkt" => cell(&self.out_packets),
            "obyt" => cell(&self.out_bytes),
            "dir" => cell(&self.direction),
            "sni" => cell(&self.sni),
            _ => Cell::Missing,
        }
    }
}

fn cell(value: &Value) -> Cell<'_> {
    match value {
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => Cell::Integer(n),
            (None, Some(x)) => Cell::Float(x),
            (None, None) => Cell::Missing,
        },
        Value::String(text) => Cell::Text(text.trim().as_bytes()),
        _ => Cell::Missing,
    }
}

/// Looks at the first bytes of a file: nothing when it is no JSON.
///
/// What a file has is not said by its first record, which is private, but for the direction: a collector either notes it
/// or not.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when it is other JSON; else what the system said.
pub fn look(path: &Path) -> io::Result<Option<JsonFile>> {
    let mut objects = Objects::open(path)?;
    let Some(first) = objects.start()? else {
        return Ok(None);
    };
    let mut names = vec!["sa", "da", "ipkt", "ibyt", "opkt", "obyt", "sni"];
    if first == b'{'
        && let Some(record) = objects.next_record()?
    {
        if !record.is_flow() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if !record.direction.is_null() {
            names.push("dir");
        }
    }
    Ok(Some(JsonFile {
        path: path.to_path_buf(),
        names: names.into_iter().map(str::to_owned).collect(),
        packed: objects.packed,
        bytes: std::fs::metadata(path)?.len(),
    }))
}

impl JsonFile {
    /// Gives each record's fields to `take`, by the places of their columns. Reading ends where the file is no longer JSON;
    /// gives 1 then, else 0.
    ///
    /// # Errors
    /// What the system said.
    pub fn each<const N: usize>(
        &self,
        columns: &[&str],
        mut take: impl FnMut(&[Cell<'_>; N]),
    ) -> io::Result<u64> {
        let mut objects = Objects::open(&self.path)?;
        objects.start()?;
        loop {
            match objects.next_record() {
                Ok(Some(record)) => {
                    let mut row = [Cell::Missing; N];
                    for (cell, name) in row.iter_mut().zip(columns) {
                        *cell = record.cell(name);
                    }
                    take(&row);
                }
                Ok(None) => return Ok(0),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                    ) =>
                {
                    return Ok(1);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// Objects one after the other, in an array or not.
struct Objects {
    input: Box<dyn BufRead>,
    packed: bool,
}

impl Objects {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(BLOCK, File::open(path)?);
        let packed = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
        let input: Box<dyn BufRead> = if packed {
            Box::new(BufReader::with_capacity(BLOCK, MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        };
        Ok(Self { input, packed })
    }

    /// Goes to the first object or the end; nothing when the file does not begin like JSON.
    fn start(&mut self) -> io::Result<Option<u8>> {
        match self.skip(b"")? {
            Some(b'[') => {
                self.input.consume(1);
                let first = self.skip(b"")?;
                Ok(first.filter(|b| matches!(b, b'{' | b']')))
            }
            other => Ok(other.filter(|b| *b == b'{')),
        }
    }

    /// The next byte that is neither a space nor one of these.
    fn skip(&mut self, these: &[u8]) -> io::Result<Option<u8>> {
        loop {
            let block = self.input.fill_buf()?;
            let Some(first) = block.first().copied() else {
                return Ok(None);
            };
            if !first.is_ascii_whitespace() && !these.contains(&first) {
                return Ok(Some(first));
            }
            self.input.consume(1);
        }
    }

    fn next_record(&mut self) -> io::Result<Option<Record>> {
        match self.skip(b",")? {
            Some(b'{') => {
                // It ends with the object's brace, so nothing behind it is lost.
                let mut json = serde_json::Deserializer::from_reader(self.input.by_ref());
                let record = Record::deserialize(&mut json).map_err(io::Error::from)?;
                Ok(Some(record))
            }
            Some(b']') | None => Ok(None),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> (Vec<String>, Vec<[String; 4]>, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows.json");
        std::fs::write(&path, text).unwrap();
        let file = look(&path).unwrap().unwrap();
        let mut out = Vec::new();
        let broken = file
            .each(&["sa", "da", "ibyt", "dir"], |row: &[Cell<'_>; 4]| {
                out.push(row.map(|cell| match cell {
                    Cell::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    Cell::Missing => "none".to_owned(),
                    other => other.integer().unwrap().to_string(),
                }));
            })
            .unwrap();
        (file.names, out, broken)
    }

    const FIRST: &str = r#"{ "type" : "FLOW", "in_bytes" : 60, "src4_addr" : "10.0.0.1", "dst4_addr" : "198.18.0.1", "direction" : 1, "label" : "<none>" }"#;
    const SECOND: &str = r#"{"in_bytes":"x","src6_addr":"2001:db8:0::1","dst6_addr":"2001:db8::2","more":{"a":[1,"}"]}}"#;

    #[test]
    fn reads_arrays_and_objects_in_a_row() {
        for text in [
            format!("[\n{FIRST},\n{SECOND}\n]\n"),
            format!("{FIRST}\n{SECOND}\n"),
        ] {
            let (names, rows, broken) = rows(&text);
            assert!(names.iter().any(|n| n == "dir"));
            assert_eq!(rows[0], ["10.0.0.1", "198.18.0.1", "60", "1"]);
            assert_eq!(rows[1][..2], ["2001:db8:0::1", "2001:db8::2"]);
            assert_eq!(rows[1][3], "none");
            assert_eq!((rows.len(), broken), (2, 0));
        }
    }

    #[test]
    fn what_is_cut_or_empty_ends_there() {
        let (names, none, broken) = rows("[\n]\n");
        assert!(!names.iter().any(|n| n == "dir"));
        assert_eq!((none.len(), broken), (0, 0));
        let (_, one, broken) = rows(&format!("[{FIRST},{{\"in_bytes\":"));
        assert_eq!((one.len(), broken), (1, 1));
        assert_eq!(rows(&format!("{FIRST} nonsense")).2, 1);
    }

    #[test]
    fn other_text_is_no_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for text in ["", "ts,sa,da\n", "[1,2]", "#c_ip:1"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(look(&path).unwrap(), None, "{text}");
        }
        std::fs::write(&path, "{\"version\":2,\"unit\":\"x\"}\n").unwrap();
        assert_eq!(look(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
