//! Flow tables as text.

use std::io::{BufRead, Write};
use std::net::IpAddr;

use crate::columns::{TableReader, protocol_name};
use crate::{SynthError, Table};

/// The longest line that is read, bytes.
const MAX_LINE: u64 = 1 << 16;

/// Splits a line at commas; quotes as in RFC 4180, without line breaks inside.
fn split(line: &str, out: &mut Vec<String>) {
    out.clear();
    let mut rest = line;
    loop {
        let trimmed = rest.trim_start();
        if let Some(quoted) = trimmed.strip_prefix('"') {
            let mut field = String::new();
            let mut chars = quoted.char_indices().peekable();
            let mut end = quoted.len();
            while let Some((at, c)) = chars.next() {
                if c != '"' {
                    field.push(c);
                } else if chars.peek().is_some_and(|(_, next)| *next == '"') {
                    field.push('"');
                    chars.next();
                } else {
                    end = at + 1;
                    break;
                }
            }
            out.push(field);
            let after = quoted.get(end..).unwrap_or("");
            match after.find(',') {
                Some(comma) => rest = &after[comma + 1..],
                None => return,
            }
        } else {
            match rest.split_once(',') {
                Some((field, after)) => {
                    out.push(field.trim().to_owned());
                    rest = after;
                }
                None => {
                    out.push(rest.trim().to_owned());
                    return;
                }
            }
        }
    }
}

/// Reads a flow table with a header line; the columns are those of [`TableReader`].
///
/// # Errors
/// The first line that cannot be right, with column, value and what is allowed; [`SynthError::Empty`] without records.
pub fn read_csv(mut input: impl BufRead, label: Option<&str>) -> Result<Table, SynthError> {
    let mut line = String::new();
    let mut fields = Vec::new();
    if !next_line(&mut input, &mut line)? {
        return Err(SynthError::Empty);
    }
    split(line.trim_start_matches('\u{feff}'), &mut fields);
    let mut reader = TableReader::new(&fields, label)?;
    while next_line(&mut input, &mut line)? {
        if line.is_empty() {
            reader.skip();
            continue;
        }
        split(&line, &mut fields);
        reader.push(&fields)?;
    }
    reader.finish()
}

fn next_line(input: &mut impl BufRead, line: &mut String) -> Result<bool, SynthError> {
    line.clear();
    let mut bytes = Vec::new();
    let read = std::io::Read::take(&mut *input, MAX_LINE).read_until(b'\n', &mut bytes)?;
    if read as u64 == MAX_LINE {
        return Err(SynthError::TooMany {
            what: "bytes in a line",
            limit: MAX_LINE as usize,
        });
    }
    line.push_str(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']));
    Ok(read > 0)
}

/// Writes NetShare's columns: `srcip,dstip,srcport,dstport,proto,ts,td,pkt,byt` and the label column where there is one.
/// IPv4 addresses are numbers when `numeric`; `ts` is in µs, `td` in s, both exact.
///
/// # Errors
/// Those of `out`.
pub fn write_csv(mut out: impl Write, table: &Table, numeric: bool) -> std::io::Result<()> {
    write!(out, "srcip,dstip,srcport,dstport,proto,ts,td,pkt,byt")?;
    if let Some(name) = &table.label_column {
        write!(out, ",{}", quoted(name))?;
    }
    writeln!(out)?;
    let address = |a: IpAddr| match a {
        IpAddr::V4(v4) if numeric => u32::from(v4).to_string(),
        other => other.to_string(),
    };
    for r in &table.records {
        write!(
            out,
            "{},{},{},{},{},{},{}.{:06},{},{}",
            address(r.src),
            address(r.dst),
            r.src_port,
            r.dst_port,
            protocol_name(r.protocol),
            r.start_us,
            r.duration_us / 1_000_000,
            r.duration_us % 1_000_000,
            r.packets,
            r.bytes
        )?;
        if table.label_column.is_some() {
            let text = table
                .labels
                .get(r.label as usize)
                .map_or("", String::as_str);
            write!(out, ",{}", quoted(text))?;
        }
        writeln!(out)?;
    }
    out.flush()
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!(
            "\"{}\"",
            text.replace('"', "\"\"").replace(['\n', '\r'], " ")
        )
    } else {
        text.to_owned()
    }
}
