//! Captures to tables of flow features, and such tables as text.
//!
//! ```
//! use chaff_flow::features::{Profile, native};
//! use chaff_trace::{Reader, features};
//! # let mut file = Vec::new();
//! # let mut writer = chaff_trace::PcapWriter::new(&mut file, chaff_flow::Link::Ethernet)?;
//! # writer.write(chaff_abi::Nanos::from_secs(1), &[0; 60], 60)?;
//! let request = features::Request::Exactly(Profile::Native(native::Settings::default()));
//! let table = features::extract(&mut Reader::new(&file[..])?, &request, None)?;
//! let mut text = Vec::new();
//! features::write(&mut text, &table)?;
//! assert_eq!(features::read(std::str::from_utf8(&text)?)?, table);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr};

use chaff_abi::FlowKey;
use chaff_flow::features::netml::{Flows, Key, Labels};
use chaff_flow::features::{FeatureError, Kind, Profile, native, netml};

use crate::{Frame, Reader, TraceError};

const FIRST_LINE: &str = "#chaff-features 1";
const COLUMNS: [&str; 7] = [
    "src_ip",
    "dst_ip",
    "src_port",
    "dst_port",
    "proto",
    "start_time",
    "end_time",
];

/// What rows shall be made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Request {
    /// netml's flows, with dimensions that follow from the capture.
    Netml {
        /// How flows are made.
        config: netml::Config,
        /// Representation.
        kind: Kind,
        /// Transform.
        fft: bool,
        /// Block of flags and times to live.
        header: bool,
    },
    /// As a model was trained: all is known.
    Exactly(Profile),
}

/// Which flow a row is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Source and destination; `None` for netml's flow of everything without an IPv4 header.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Source and destination port, 0 without ports.
    pub ports: (u16, u16),
    /// Protocol number.
    pub protocol: u8,
    /// First packet's time, seconds since the epoch.
    pub start_s: f64,
    /// Last packet's time, seconds since the epoch.
    pub end_s: f64,
    /// Whether it is known to be an attack.
    pub attack: Option<bool>,
    /// As many as the profile has columns.
    pub values: Vec<f64>,
}

/// Rows and how they were made.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// How; complete, so that later captures can be treated alike.
    pub profile: Profile,
    /// One per flow.
    pub flows: Vec<Flow>,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The capture.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The features.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// A line of a stored table.
    #[error("line {line}: {reason}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// Makes a table of a capture. With labels, flows that they do not name are left out; two-way flows are named by either
/// direction.
///
/// # Errors
/// [`TableError`].
pub fn extract<R: Read>(
    reader: &mut Reader<R>,
    request: &Request,
    labels: Option<&Labels>,
) -> Result<Table, TableError> {
    match extract_until_damage(reader, request, labels)? {
        (table, None) => Ok(table),
        (_, Some(damage)) => Err(damage.into()),
    }
}

/// As [`extract`], of what comes before the damage where a capture is damaged; the damage is beside it.
///
/// # Errors
/// [`TableError`], except those of the capture.
pub fn extract_until_damage<R: Read>(
    reader: &mut Reader<R>,
    request: &Request,
    labels: Option<&Labels>,
) -> Result<(Table, Option<TraceError>), TableError> {
    match *request {
        Request::Netml {
            config,
            kind,
            fft,
            header,
        } => {
            let (flows, attacks, damage) = netml_flows(reader, config, labels)?;
            let shape = flows.shape(kind, fft, header)?;
            let config = netml::Config {
                interval_s: Some(flows.interval_s()),
                ..config
            };
            let table = netml_table(&flows, attacks, Profile::Netml { config, shape })?;
            Ok((table, damage))
        }
        Request::Exactly(profile @ Profile::Netml { config, .. }) => {
            let (flows, attacks, damage) = netml_flows(reader, config, labels)?;
            Ok((netml_table(&flows, attacks, profile)?, damage))
        }
        Request::Exactly(profile @ Profile::Native(settings)) => {
            let mut flows = Vec::new();
            let mut meter = native::Meter::new(settings, native::Limits::default())?;
            let mut take = |meter: &mut native::Meter| {
                while let Some(row) = meter.poll() {
                    flows.extend(of_row(row, labels));
                }
            };
            let damage = loop {
                match reader.next_borrowed() {
                    Ok(Some((frame, bytes))) => {
                        observe(&mut meter, &frame, bytes);
                        take(&mut meter);
                    }
                    Ok(None) => break None,
                    Err(e) => break Some(e),
                }
            };
            meter.finish();
            take(&mut meter);
            flows.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
            Ok((Table { profile, flows }, damage))
        }
    }
}

/// Gives a frame to a native meter; whether it was a packet of a flow.
pub fn observe(meter: &mut native::Meter, frame: &Frame, bytes: &[u8]) -> bool {
    match chaff_flow::parse(frame.link, bytes, frame.wire_len) {
        Ok(packet) => {
            meter.observe(frame.at, &packet);
            true
        }
        Err(_) => false,
    }
}

fn of_row(row: native::Row, labels: Option<&Labels>) -> Option<Flow> {
    let attack = match labels {
        Some(labels) => Some(
            netml_key(&row.key)
                .and_then(|k| labels.is_attack(&k))
                .or_else(|| netml_key(&row.key.reversed()).and_then(|k| labels.is_attack(&k)))?,
        ),
        None => None,
    };
    Some(Flow {
        attack,
        ..Flow::from(row)
    })
}

fn netml_key(key: &FlowKey) -> Option<Key> {
    let v4 = |a: [u8; 16]| Ipv6Addr::from(a).to_ipv4_mapped();
    Some(Key::Flow {
        source: v4(key.src)?,
        destination: v4(key.dst)?,
        source_port: u16::from_be_bytes(key.src_port),
        destination_port: u16::from_be_bytes(key.dst_port),
        protocol: key.protocol,
    })
}

impl From<native::Row> for Flow {
    fn from(row: native::Row) -> Self {
        let ip = |a: [u8; 16]| {
            let v6 = Ipv6Addr::from(a);
            match v6.to_ipv4_mapped() {
                Some(v4) if row.key.version == 4 => IpAddr::V4(v4),
                _ => IpAddr::V6(v6),
            }
        };
        Self {
            addresses: Some((ip(row.key.src), ip(row.key.dst))),
            ports: (
                u16::from_be_bytes(row.key.src_port),
                u16::from_be_bytes(row.key.dst_port),
            ),
            protocol: row.key.protocol,
            start_s: row.start.as_secs_f64(),
            end_s: row.end.as_secs_f64(),
            attack: None,
            values: row.values,
        }
    }
}

/// netml's flows, which of them are attacks, and the damage that ended the capture.
type NetmlFlows = (Flows, Option<Vec<bool>>, Option<TraceError>);

fn netml_flows<R: Read>(
    reader: &mut Reader<R>,
    config: netml::Config,
    labels: Option<&Labels>,
) -> Result<NetmlFlows, TableError> {
    let mut table = netml::Table::new(config);
    let damage = loop {
        match reader.next_borrowed() {
            Ok(Some((frame, bytes))) => table.observe(frame.link, frame.at, bytes)?,
            Ok(None) => break None,
            Err(e) => break Some(e),
        }
    };
    let mut flows = table.finish()?;
    let attacks = labels.map(|l| flows.label(l));
    Ok((flows, attacks, damage))
}

fn netml_table(
    flows: &Flows,
    attacks: Option<Vec<bool>>,
    profile: Profile,
) -> Result<Table, TableError> {
    let Profile::Netml { shape, .. } = profile else {
        return Err(FeatureError::Profile { name: "profile" }.into());
    };
    let matrix = flows.matrix(&shape)?;
    let flows = flows
        .flows()
        .iter()
        .enumerate()
        .map(|(i, flow)| {
            let (addresses, ports, protocol) = match flow.key {
                Key::Flow {
                    source,
                    destination,
                    source_port,
                    destination_port,
                    protocol,
                } => (
                    Some((source.into(), destination.into())),
                    (source_port, destination_port),
                    protocol,
                ),
                Key::Pooled => (None, (0, 0), 0),
            };
            Flow {
                addresses,
                ports,
                protocol,
                start_s: flow.start_s(),
                end_s: flow.end_s(),
                attack: attacks.as_ref().and_then(|a| a.get(i).copied()),
                values: matrix.row(i).to_vec(),
            }
        })
        .collect();
    Ok(Table { profile, flows })
}

/// Writes rows as comma-separated text: `src_ip,dst_ip,src_port,dst_port,proto,start_time`, then one column per number.
/// Times are seconds since the epoch. The flow of everything without an IPv4 header has empty addresses and -1 for the
/// numbers. Numbers are written so that they read back exactly.
///
/// # Errors
/// Those of `out`.
pub fn write_csv(out: &mut impl Write, names: &[String], flows: &[Flow]) -> io::Result<()> {
    write!(out, "{}", COLUMNS[..6].join(","))?;
    for name in names {
        write!(out, ",{name}")?;
    }
    writeln!(out)?;
    for flow in flows {
        write_key(out, flow)?;
        for value in &flow.values {
            write!(out, ",{value}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_key(out: &mut impl Write, flow: &Flow) -> io::Result<()> {
    match flow.addresses {
        Some((source, destination)) => write!(
            out,
            "{source},{destination},{},{},{}",
            flow.ports.0, flow.ports.1, flow.protocol
        )?,
        None => write!(out, ",,-1,-1,-1")?,
    }
    write!(out, ",{}", flow.start_s)
}

/// Writes a table so that [`read()`] gives it back: lines with `#` say how rows were made, then comma-separated text with
/// the columns `end_time` and `label` (empty, 0 or 1) before the numbers.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl Write, table: &Table) -> io::Result<()> {
    writeln!(out, "{FIRST_LINE}")?;
    for (key, value) in table.profile.to_entries() {
        writeln!(out, "#{key}={value}")?;
    }
    writeln!(
        out,
        "{},label,{}",
        COLUMNS.join(","),
        table.profile.names().join(",")
    )?;
    for flow in &table.flows {
        write_key(out, flow)?;
        let label = flow.attack.map(|a| if a { "1" } else { "0" });
        write!(out, ",{},{}", flow.end_s, label.unwrap_or(""))?;
        for value in &flow.values {
            write!(out, ",{value}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Reads what [`write()`] made.
///
/// # Errors
/// [`TableError`].
pub fn read(text: &str) -> Result<Table, TableError> {
    let mut lines = text.lines().enumerate().peekable();
    if lines.next().map(|(_, l)| l) != Some(FIRST_LINE) {
        return Err(TableError::Line {
            line: 1,
            reason: format!("a table of features begins with `{FIRST_LINE}`"),
        });
    }
    let mut entries = BTreeMap::new();
    while let Some((_, line)) = lines.next_if(|(_, l)| l.starts_with('#')) {
        if let Some((key, value)) = line[1..].split_once('=') {
            entries.insert(key.to_owned(), value.to_owned());
        }
    }
    let profile = Profile::from_entries(&entries)?;
    let columns = profile.names().len();
    let mut flows = Vec::new();
    for (index, line) in lines.skip(1) {
        let bad = |reason: String| TableError::Line {
            line: index + 1,
            reason,
        };
        let fields: Vec<&str> = line.split(',').collect();
        if fields.len() != COLUMNS.len() + 1 + columns {
            return Err(bad(format!(
                "{} fields where {} are needed",
                fields.len(),
                COLUMNS.len() + 1 + columns
            )));
        }
        let number = |text: &str| {
            text.parse::<f64>()
                .map_err(|_| bad(format!("`{text}` is no number")))
        };
        let pooled = fields[0].is_empty();
        let address = |text: &str| {
            text.parse::<IpAddr>()
                .map_err(|_| bad(format!("`{text}` is no address")))
        };
        let whole = |text: &str, most: f64| {
            let value = number(text)?;
            if value >= 0.0 && value <= most && value.fract() == 0.0 {
                Ok(value as u16)
            } else {
                Err(bad(format!("`{text}` is no port or protocol")))
            }
        };
        let (addresses, ports, protocol) = if pooled {
            (None, (0, 0), 0)
        } else {
            (
                Some((address(fields[0])?, address(fields[1])?)),
                (whole(fields[2], 65535.0)?, whole(fields[3], 65535.0)?),
                whole(fields[4], 255.0)? as u8,
            )
        };
        flows.push(Flow {
            addresses,
            ports,
            protocol,
            start_s: number(fields[5])?,
            end_s: number(fields[6])?,
            attack: match fields[7] {
                "" => None,
                "0" => Some(false),
                "1" => Some(true),
                other => return Err(bad(format!("`{other}` is no label: empty, 0 or 1"))),
            },
            values: fields[8..]
                .iter()
                .map(|f| number(f))
                .collect::<Result<_, _>>()?,
        });
    }
    Ok(Table { profile, flows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_come_back_and_bad_ones_are_told() {
        let profile = Profile::Native(native::Settings {
            kind: Kind::Size,
            packets: 2,
            around: false,
            ..native::Settings::default()
        });
        let flow = Flow {
            addresses: Some((IpAddr::from([10, 0, 0, 1]), IpAddr::V6(Ipv6Addr::LOCALHOST))),
            ports: (1, 65535),
            protocol: 17,
            start_s: 0.1 + 0.2,
            end_s: 1e9,
            attack: Some(true),
            values: vec![1.5, -0.0],
        };
        let pooled = Flow {
            addresses: None,
            ports: (0, 0),
            protocol: 0,
            attack: None,
            ..flow.clone()
        };
        let table = Table {
            profile,
            flows: vec![flow, pooled],
        };
        let mut text = Vec::new();
        write(&mut text, &table).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(read(&text).unwrap(), table);
        assert!(read("src_ip\n").is_err());
        assert!(read(&text.replace(",65535,", ",65536,")).is_err());
        assert!(read(&text.replace(",1.5,", ",x,")).is_err());
        assert!(read(&text.replace(",1.5,", ",")).is_err());
    }
}
