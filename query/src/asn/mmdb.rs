//! MaxMind's binary databases: GeoLite2-ASN's layout (a number) and IPinfo's (`AS64512` as text).

use std::net::IpAddr;

use maxminddb::Reader;
use serde::Deserialize;

/// Stands before the metadata at a database's end.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
/// It is looked for in this many bytes at the end.
const TAIL: usize = 128 << 10;

pub(super) struct Database(Reader<Vec<u8>>);

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

#[derive(Deserialize)]
struct Row<'a> {
    autonomous_system_number: Option<u32>,
    #[serde(borrow)]
    asn: Option<&'a str>,
}

pub(super) fn is(bytes: &[u8]) -> bool {
    memchr::memmem::find(&bytes[bytes.len().saturating_sub(TAIL)..], MARKER).is_some()
}

impl Database {
    pub(super) fn new(bytes: Vec<u8>) -> Result<Self, String> {
        Reader::from_source(bytes)
            .map(Self)
            .map_err(|error| format!("damaged database: {error}"))
    }

    pub(super) fn lookup(&self, address: IpAddr) -> Option<u32> {
        let row: Row<'_> = self.0.lookup(address).ok()?.decode().ok()??;
        row.autonomous_system_number.or_else(|| {
            let text = row.asn?;
            text.strip_prefix("AS").unwrap_or(text).parse().ok()
        })
    }
}
