//! Flow tables as text: NetShare's and UGR16's names, common aliases, and the columns of `gateway meter`.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr};

use crate::table::{MAX_LABELS, MAX_RECORDS};
use crate::{Record, SynthError, Table};

/// The longest line that is read, bytes.
const MAX_LINE: u64 = 1 << 16;

const NAMES: [(&str, &[&str]); 10] = [
    (
        "srcip",
        &[
            "src_ip",
            "sa",
            "src ip addr",
            "source ip",
            "ipv4_src_addr",
            "saddr",
        ],
    ),
    (
        "dstip",
        &[
            "dst_ip",
            "da",
            "dst ip addr",
            "destination ip",
            "ipv4_dst_addr",
            "daddr",
        ],
    ),
    (
        "srcport",
        &[
            "src_port",
            "sp",
            "src pt",
            "source port",
            "l4_src_port",
            "sport",
        ],
    ),
    (
        "dstport",
        &[
            "dst_port",
            "dp",
            "dst pt",
            "destination port",
            "l4_dst_port",
            "dport",
        ],
    ),
    ("proto", &["protocol", "pr"]),
    (
        "ts",
        &[
            "start_ns",
            "fwd_first_ns",
            "date first seen",
            "timestamp",
            "time",
            "stime",
            "start",
        ],
    ),
    ("td", &["duration_ns", "duration", "dur", "flow duration"]),
    ("pkt", &["packets", "pkts", "ipkt", "in_pkts"]),
    ("byt", &["bytes", "ibyt", "in_bytes"]),
    (
        "label",
        &["type", "attacktype", "class", "attack", "application_name"],
    ),
];
const PROTOCOLS: [(&str, u8); 15] = [
    ("ICMP", 1),
    ("IGMP", 2),
    ("IPIP", 4),
    ("TCP", 6),
    ("UDP", 17),
    ("IPv6", 41),
    ("RSVP", 46),
    ("GRE", 47),
    ("ESP", 50),
    ("AH", 51),
    ("ICMP6", 58),
    ("ICMPV6", 58),
    ("OSPF", 89),
    ("SCTP", 132),
    ("OTHER", 255),
];

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

/// Reads a flow table with a header line.
///
/// Columns are found by name, in any order and case; others are ignored. Needed: addresses (text, or IPv4 as a number),
/// `proto` (name or number), `ts`, `pkt`, `byt`. `ts` is µs since 1970 as in NetShare; smaller numbers are taken as s or
/// ms, larger ones as ns, each value for itself; `YYYY-MM-DD hh:mm:ss[.f]` is read as UTC. `td` is in seconds, in ns when
/// the column's name ends in `_ns`, 0 when the column is missing. Ports are 0 when missing. `label` names the label
/// column; without it `label`, `type` and their like are looked for.
///
/// # Errors
/// The first line that cannot be right, with column, value and what is allowed; [`SynthError::Empty`] without records.
pub fn read_csv(mut input: impl BufRead, label: Option<&str>) -> Result<Table, SynthError> {
    let mut line = String::new();
    let mut number = 0;
    let mut fields = Vec::new();
    if !next_line(&mut input, &mut line, &mut number)? {
        return Err(SynthError::Empty);
    }
    split(line.trim_start_matches('\u{feff}'), &mut fields);
    let header = fields.clone();
    let columns = Columns::find(&header, label)?;
    let mut table = Table {
        label_column: columns.label.map(|c| header[c].clone()),
        ..Table::default()
    };
    let mut labels: BTreeMap<String, u32> = BTreeMap::new();
    if columns.label.is_none() {
        table.labels.push(String::new());
    }
    while next_line(&mut input, &mut line, &mut number)? {
        if line.is_empty() {
            continue;
        }
        split(&line, &mut fields);
        if fields.len() != header.len() {
            return Err(SynthError::Fields {
                line: number,
                had: fields.len(),
                needed: header.len(),
            });
        }
        if table.records.len() == MAX_RECORDS {
            return Err(SynthError::TooMany {
                what: "records",
                limit: MAX_RECORDS,
            });
        }
        let row = Row {
            header: &header,
            fields: &fields,
            line: number,
        };
        let mut record = columns.record(&row)?;
        if let Some(column) = columns.label {
            let text = &fields[column];
            record.label = match labels.get(text) {
                Some(index) => *index,
                None if labels.len() == MAX_LABELS => {
                    return Err(SynthError::TooMany {
                        what: "different labels",
                        limit: MAX_LABELS,
                    });
                }
                None => {
                    let index = labels.len() as u32;
                    labels.insert(text.clone(), index);
                    table.labels.push(text.clone());
                    index
                }
            };
        }
        table.records.push(record);
    }
    if table.records.is_empty() {
        return Err(SynthError::Empty);
    }
    Ok(table)
}

fn next_line(
    input: &mut impl BufRead,
    line: &mut String,
    number: &mut usize,
) -> Result<bool, SynthError> {
    line.clear();
    *number += 1;
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

struct Row<'a> {
    header: &'a [String],
    fields: &'a [String],
    line: usize,
}

impl Row<'_> {
    fn wrong(&self, column: usize, allowed: &'static str) -> SynthError {
        SynthError::Value {
            line: self.line,
            column: self.header[column].clone(),
            value: self.fields[column].chars().take(80).collect(),
            allowed,
        }
    }

    /// A whole number from 0 to `most`; `62.0` is one, too, and exporters' decimals are rounded.
    fn whole(&self, column: usize, most: u64, allowed: &'static str) -> Result<u64, SynthError> {
        let text = &self.fields[column];
        if let Ok(value) = text.parse::<u64>() {
            return if value <= most {
                Ok(value)
            } else {
                Err(self.wrong(column, allowed))
            };
        }
        match text.parse::<f64>() {
            Ok(v) if v >= 0.0 && v <= most as f64 => Ok(v.round() as u64),
            _ => Err(self.wrong(column, allowed)),
        }
    }

    fn address(&self, column: usize) -> Result<IpAddr, SynthError> {
        let text = &self.fields[column];
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(match address {
                IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
                v4 => v4,
            });
        }
        let allowed = "an IPv4 or IPv6 address, or an IPv4 address as a number below 2^32";
        let value = self.whole(column, u64::from(u32::MAX), allowed)?;
        Ok(Ipv4Addr::from(value as u32).into())
    }

    fn protocol(&self, column: usize) -> Result<u8, SynthError> {
        if let Some(number) = named_protocol(&self.fields[column]) {
            return Ok(number);
        }
        self.whole(
            column,
            255,
            "a protocol name (TCP, UDP, ICMP, ...) or a number from 0 to 255",
        )
        .map(|v| v as u8)
    }

    fn time(&self, column: usize) -> Result<u64, SynthError> {
        let allowed = "a time: a number since 1970, or YYYY-MM-DD hh:mm:ss";
        let text = &self.fields[column];
        // Exact for integers: ns do not fit a double.
        let scaled = |whole: u64| match whole {
            0..100_000_000_000 => whole * 1_000_000,
            100_000_000_000..100_000_000_000_000 => whole * 1000,
            100_000_000_000_000..100_000_000_000_000_000 => whole,
            _ => whole / 1000,
        };
        if let Ok(value) = text.parse::<u64>() {
            return Ok(scaled(value));
        }
        if let Ok(value) = text.parse::<f64>() {
            if !(0.0..1.8e19).contains(&value) {
                return Err(self.wrong(column, allowed));
            }
            let factor = if value < 1e11 {
                1e6
            } else if value < 1e14 {
                1e3
            } else if value < 1e17 {
                1.0
            } else {
                1e-3
            };
            return Ok((value * factor).round() as u64);
        }
        date_us(text).ok_or_else(|| self.wrong(column, allowed))
    }

    fn duration(&self, column: usize) -> Result<u64, SynthError> {
        let allowed = "a duration: at least 0 and at most 100 years";
        let unit = if self.header[column].ends_with("_ns") {
            1e-3
        } else {
            1e6
        };
        match self.fields[column].parse::<f64>() {
            Ok(v) if v >= 0.0 && v * unit < 3.2e15 => Ok((v * unit).round() as u64),
            _ => Err(self.wrong(column, allowed)),
        }
    }
}

/// `2016-03-18 10:47:52.364` (or with a T) as µs since 1970.
fn date_us(text: &str) -> Option<u64> {
    let (day, clock) = text.split_once([' ', 'T'])?;
    let mut parts = day.split('-');
    let mut part = || parts.next()?.parse::<u64>().ok();
    let (year, month, day) = (part()?, part()?, part()?);
    if !(1970..2200).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let mut parts = clock.trim_end_matches('Z').split(':');
    let hour: u64 = parts.next()?.parse().ok()?;
    let minute: u64 = parts.next()?.parse().ok()?;
    let second: f64 = parts.next()?.parse().ok()?;
    if hour > 23 || minute > 59 || !(0.0..61.0).contains(&second) {
        return None;
    }
    // Days from civil (Howard Hinnant's algorithm), for years from 1970.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000_000 + (second * 1e6).round() as u64)
}

struct Columns {
    src: usize,
    dst: usize,
    src_port: Option<usize>,
    dst_port: Option<usize>,
    protocol: usize,
    start: usize,
    duration: Option<usize>,
    packets: usize,
    bytes: usize,
    label: Option<usize>,
}

impl Columns {
    fn find(header: &[String], label: Option<&str>) -> Result<Self, SynthError> {
        let at = |name: &str| header.iter().position(|h| h.eq_ignore_ascii_case(name));
        let maybe = |index: usize| {
            let (name, aliases) = NAMES[index];
            at(name).or_else(|| aliases.iter().find_map(|a| at(a)))
        };
        let need = |index: usize| {
            maybe(index).ok_or_else(|| SynthError::MissingColumn {
                name: NAMES[index].0,
                aliases: NAMES[index].1.join(", "),
                found: header.join(", ").chars().take(400).collect(),
            })
        };
        let label = match label {
            Some(name) => Some(at(name).ok_or_else(|| SynthError::Option {
                name: "label",
                why: format!("no column {name:?} in the header"),
            })?),
            None => maybe(9),
        };
        Ok(Self {
            src: need(0)?,
            dst: need(1)?,
            src_port: maybe(2),
            dst_port: maybe(3),
            protocol: need(4)?,
            start: need(5)?,
            duration: maybe(6),
            packets: need(7)?,
            bytes: need(8)?,
            label,
        })
    }

    fn record(&self, row: &Row<'_>) -> Result<Record, SynthError> {
        let port = |column: Option<usize>| {
            column.map_or(Ok(0), |c| row.whole(c, 65535, "a port from 0 to 65535"))
        };
        let counter = |column| row.whole(column, 1 << 52, "a whole number from 0 to 2^52");
        Ok(Record {
            src: row.address(self.src)?,
            dst: row.address(self.dst)?,
            src_port: port(self.src_port)? as u16,
            dst_port: port(self.dst_port)? as u16,
            protocol: row.protocol(self.protocol)?,
            start_us: row.time(self.start)?,
            duration_us: self.duration.map_or(Ok(0), |c| row.duration(c))?,
            packets: counter(self.packets)?.max(1),
            bytes: counter(self.bytes)?,
            ..Record::default()
        })
    }
}

fn named_protocol(text: &str) -> Option<u8> {
    let named = PROTOCOLS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    named.map(|(_, number)| *number)
}

/// The protocols that have names, each once; public knowledge.
pub(crate) fn named_protocols() -> Vec<String> {
    let names = PROTOCOLS.iter().map(|(name, _)| (*name).to_owned());
    names.filter(|name| name != "ICMPV6").collect()
}

/// A protocol from its name or number.
pub(crate) fn protocol_number(text: &str) -> Option<u8> {
    named_protocol(text).or_else(|| text.parse().ok())
}

/// NetShare's name of a protocol, otherwise its number.
pub fn protocol_name(protocol: u8) -> String {
    PROTOCOLS
        .iter()
        .find(|(_, number)| *number == protocol && protocol != 255)
        .map_or_else(|| protocol.to_string(), |(name, _)| (*name).to_owned())
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
