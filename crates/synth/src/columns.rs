//! Columns of flow tables, by NetShare's names, those of `gateway meter` and common aliases, and what their texts mean.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::table::{MAX_LABELS, MAX_RECORDS};
use crate::{Record, SynthError, Table};

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

/// A table that grows line by line.
///
/// Columns are found by name, in any order and case; others are ignored. Needed: addresses (text, or IPv4 as a number),
/// `proto` (name or number), `ts`, `pkt`, `byt`. `ts` is µs since 1970 as in NetShare; smaller numbers are taken as s or
/// ms, larger ones as ns, each value for itself; `YYYY-MM-DD hh:mm:ss[.f]` is read as UTC. `td` is in seconds, in ns when
/// the column's name ends in `_ns`, 0 when the column is missing. Ports are 0 when missing. `label` names the label
/// column; without it `label`, `type` and their like are looked for. With the columns of `gateway meter` for both
/// directions (`fwd_packets`, `bwd_packets`, ...) a line is two one-way flows, or one when nothing came back.
///
/// ```
/// let header = ["srcip", "dstip", "proto", "ts", "pkt", "byt"].map(String::from);
/// let mut reader = chaff_synth::TableReader::new(&header, None)?;
/// reader.push(&["10.0.0.1", "10.0.0.2", "ICMP", "1458298072364000", "1", "84"].map(String::from))?;
/// assert_eq!(reader.finish()?.records[0].protocol, 1);
/// # Ok::<(), chaff_synth::SynthError>(())
/// ```
pub struct TableReader {
    header: Vec<String>,
    columns: Columns,
    table: Table,
    labels: BTreeMap<String, u32>,
    line: usize,
}

impl TableReader {
    /// Finds the columns.
    ///
    /// # Errors
    /// [`SynthError::MissingColumn`]; [`SynthError::Option`] when there is no column `label`.
    pub fn new(header: &[String], label: Option<&str>) -> Result<Self, SynthError> {
        let columns = Columns::find(header, label)?;
        let mut table = Table {
            label_column: columns.label.map(|c| header[c].clone()),
            ..Table::default()
        };
        if columns.label.is_none() {
            table.labels.push(String::new());
        }
        Ok(Self {
            header: header.to_vec(),
            columns,
            table,
            labels: BTreeMap::new(),
            line: 1,
        })
    }

    /// Which columns of the header are read.
    pub fn is_used(&self, column: usize) -> bool {
        self.columns.all().any(|c| c == column)
    }

    /// The name of the label column.
    pub fn label(&self) -> Option<&str> {
        self.table.label_column.as_deref()
    }

    /// Passes over an empty line.
    pub fn skip(&mut self) {
        self.line += 1;
    }

    /// Takes the next line's texts.
    ///
    /// # Errors
    /// The first value that cannot be right, with line, column and what is allowed; [`SynthError::TooMany`].
    pub fn push(&mut self, fields: &[String]) -> Result<(), SynthError> {
        self.line += 1;
        if fields.len() != self.header.len() {
            return Err(SynthError::Fields {
                line: self.line,
                had: fields.len(),
                needed: self.header.len(),
            });
        }
        if self.table.records.len() + 2 > MAX_RECORDS {
            return Err(SynthError::TooMany {
                what: "records",
                limit: MAX_RECORDS,
            });
        }
        let row = Row {
            header: &self.header,
            fields,
            line: self.line,
        };
        let mut record = self.columns.record(&row)?;
        if let Some(column) = self.columns.label {
            let text = &fields[column];
            record.label = match self.labels.get(text) {
                Some(index) => *index,
                None if self.labels.len() == MAX_LABELS => {
                    return Err(SynthError::TooMany {
                        what: "different labels",
                        limit: MAX_LABELS,
                    });
                }
                None => {
                    let index = self.labels.len() as u32;
                    self.labels.insert(text.clone(), index);
                    self.table.labels.push(text.clone());
                    index
                }
            };
        }
        match &self.columns.both {
            None => self.table.records.push(record),
            Some(both) => {
                let [out, back] = both.split(&record, &row)?;
                self.table.records.extend(out.into_iter().chain(back));
            }
        }
        Ok(())
    }

    /// The table.
    ///
    /// # Errors
    /// [`SynthError::Empty`] without records.
    pub fn finish(self) -> Result<Table, SynthError> {
        if self.table.records.is_empty() {
            return Err(SynthError::Empty);
        }
        Ok(self.table)
    }
}

/// Columns of the two directions of a flow, as `gateway meter` writes them.
struct Directions {
    packets: [usize; 2],
    bytes: [usize; 2],
    first: [usize; 2],
    last: [usize; 2],
}

impl Directions {
    fn find(header: &[String]) -> Option<Self> {
        let both = |name: &str| -> Option<[usize; 2]> {
            let at = |side: &str| header.iter().position(|h| *h == format!("{side}_{name}"));
            Some([at("fwd")?, at("bwd")?])
        };
        Some(Self {
            packets: both("packets")?,
            bytes: both("bytes")?,
            first: both("first_ns")?,
            last: both("last_ns")?,
        })
    }

    fn all(&self) -> impl Iterator<Item = usize> {
        [self.packets, self.bytes, self.first, self.last]
            .into_iter()
            .flatten()
    }

    /// The directions that have packets, as records of their own.
    fn split(&self, r: &Record, row: &Row<'_>) -> Result<[Option<Record>; 2], SynthError> {
        let mut out = [None; 2];
        for (side, record) in out.iter_mut().enumerate() {
            let packets = row.counter(self.packets[side])?;
            if packets == 0 {
                continue;
            }
            let start_us = row.time(self.first[side])?;
            let mut one = Record {
                start_us,
                duration_us: row.time(self.last[side])?.saturating_sub(start_us),
                packets,
                bytes: row.counter(self.bytes[side])?,
                ..*r
            };
            if side == 1 {
                (one.src, one.dst) = (r.dst, r.src);
                (one.src_port, one.dst_port) = (r.dst_port, r.src_port);
            }
            *record = Some(one);
        }
        Ok(out)
    }
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

    fn counter(&self, column: usize) -> Result<u64, SynthError> {
        self.whole(column, 1 << 52, "a whole number from 0 to 2^52")
    }

    fn protocol(&self, column: usize) -> Result<u8, SynthError> {
        let text = &self.fields[column];
        if let Some(number) = named_protocol(text) {
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
    both: Option<Directions>,
}

impl Columns {
    fn all(&self) -> impl Iterator<Item = usize> {
        let ports = [self.src_port, self.dst_port, self.duration, self.label];
        [
            self.src,
            self.dst,
            self.protocol,
            self.start,
            self.packets,
            self.bytes,
        ]
        .into_iter()
        .chain(ports.into_iter().flatten())
        .chain(self.both.iter().flat_map(Directions::all))
    }

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
                found: header
                    .join(", ")
                    .chars()
                    .take(400)
                    .flat_map(char::escape_debug)
                    .collect(),
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
            both: Directions::find(header),
        })
    }

    fn record(&self, row: &Row<'_>) -> Result<Record, SynthError> {
        let port = |column: Option<usize>| {
            column.map_or(Ok(0), |c| row.whole(c, 65535, "a port from 0 to 65535"))
        };
        Ok(Record {
            src: row.address(self.src)?,
            dst: row.address(self.dst)?,
            src_port: port(self.src_port)? as u16,
            dst_port: port(self.dst_port)? as u16,
            protocol: row.protocol(self.protocol)?,
            start_us: row.time(self.start)?,
            duration_us: self.duration.map_or(Ok(0), |c| row.duration(c))?,
            packets: row.counter(self.packets)?.max(1),
            bytes: row.counter(self.bytes)?,
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
