//! Rows and their columns, by NetShare's names.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};

use chaff_flow::parse;
use chaff_trace::Reader;
use serde::{Deserialize, Serialize};

use crate::address::pseudonym;
use crate::capture::MAX_PACKETS;
use crate::columns::{protocol_name, protocol_number};
use crate::{Record, SynthError, Table};

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// One-way flows.
    Flows,
    /// Packets.
    Packets,
}

impl Kind {
    pub(crate) fn time_name(self) -> &'static str {
        match self {
            Self::Flows => "ts",
            Self::Packets => "time",
        }
    }
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Column {
    Source,
    Destination,
    SourcePort,
    DestinationPort,
    Protocol,
    /// Seconds.
    Duration,
    Packets,
    Bytes,
    Label,
    /// IP length, bytes.
    Length,
    Service,
    Id,
    /// Three bits: reserved, don't fragment, more fragments.
    Flags,
    /// Of the fragment, in 8 bytes.
    Offset,
    Ttl,
}

const SHARED: [(&str, Column); 5] = [
    ("srcip", Column::Source),
    ("dstip", Column::Destination),
    ("srcport", Column::SourcePort),
    ("dstport", Column::DestinationPort),
    ("proto", Column::Protocol),
];
const FLOWS: [(&str, Column); 5] = [
    ("td", Column::Duration),
    ("pkt", Column::Packets),
    ("byt", Column::Bytes),
    ("type", Column::Label),
    ("label", Column::Label),
];
const PACKETS: [(&str, Column); 6] = [
    ("pkt_len", Column::Length),
    ("tos", Column::Service),
    ("id", Column::Id),
    ("flag", Column::Flags),
    ("off", Column::Offset),
    ("ttl", Column::Ttl),
];

fn all(kind: Kind) -> impl Iterator<Item = &'static (&'static str, Column)> {
    let own: &[(&str, Column)] = match kind {
        Kind::Flows => &FLOWS,
        Kind::Packets => &PACKETS,
    };
    SHARED.iter().chain(own)
}

impl Column {
    pub(crate) fn find(name: &str, kind: Kind) -> Option<Self> {
        all(kind).find(|(n, _)| *n == name).map(|(_, c)| *c)
    }

    pub(crate) fn names(kind: Kind) -> String {
        let names: Vec<&str> = all(kind).map(|(n, _)| *n).collect();
        names.join(", ")
    }

    /// How many bits its values need; 0 where they are no whole numbers.
    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::Source | Self::Destination => 32,
            Self::SourcePort | Self::DestinationPort | Self::Length | Self::Id => 16,
            Self::Protocol | Self::Service | Self::Ttl => 8,
            Self::Flags => 3,
            Self::Offset => 13,
            Self::Packets | Self::Bytes => 32,
            Self::Duration | Self::Label => 0,
        }
    }

    pub(crate) fn is_number(self) -> bool {
        !matches!(
            self,
            Self::Label | Self::Protocol | Self::Source | Self::Destination
        )
    }

    /// Smallest and largest value that are possible or, for counters, public by agreement.
    pub(crate) fn public_range(self) -> [f64; 2] {
        match self {
            Self::Duration => [0.0, 3600.0],
            Self::Packets => [1.0, 1e6],
            Self::Bytes => [20.0, 1e9],
            Self::Length => [20.0, 65_535.0],
            other => [0.0, (1u64 << other.bits()) as f64 - 1.0],
        }
    }
}

/// A record, with what only packets have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) record: Record,
    pub(crate) id: u16,
    pub(crate) flags: u8,
    pub(crate) offset: u16,
}

fn v4(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(a) => a.into(),
        IpAddr::V6(_) => 0,
    }
}

impl Row {
    /// The value of a column that is a number; addresses and protocols as their numbers.
    pub(crate) fn number(&self, column: Column) -> f64 {
        let r = &self.record;
        match column {
            Column::Source => f64::from(v4(r.src)),
            Column::Destination => f64::from(v4(r.dst)),
            Column::SourcePort => f64::from(r.src_port),
            Column::DestinationPort => f64::from(r.dst_port),
            Column::Protocol => f64::from(r.protocol),
            Column::Duration => r.duration_us as f64 / 1e6,
            Column::Packets => r.packets as f64,
            Column::Bytes | Column::Length => r.bytes as f64,
            Column::Label => f64::from(r.label),
            Column::Service => f64::from(r.tos),
            Column::Id => f64::from(self.id),
            Column::Flags => f64::from(self.flags),
            Column::Offset => f64::from(self.offset),
            Column::Ttl => f64::from(r.ttl),
        }
    }

    /// The value as text, for categories.
    pub(crate) fn text(&self, column: Column, labels: &[String]) -> String {
        match column {
            Column::Label => labels
                .get(self.record.label as usize)
                .cloned()
                .unwrap_or_default(),
            Column::Protocol => protocol_name(self.record.protocol),
            other => self.number(other).to_string(),
        }
    }

    /// Sets a column to the nearest value that it can have.
    pub(crate) fn set(&mut self, column: Column, value: f64) {
        let r = &mut self.record;
        // A cast from a float saturates and takes what is no number as zero.
        let whole = value.round();
        match column {
            Column::Source => r.src = Ipv4Addr::from(whole as u32).into(),
            Column::Destination => r.dst = Ipv4Addr::from(whole as u32).into(),
            Column::SourcePort => r.src_port = whole as u16,
            Column::DestinationPort => r.dst_port = whole as u16,
            Column::Protocol => r.protocol = whole as u8,
            Column::Duration => r.duration_us = (value.clamp(0.0, 3.2e9) * 1e6).round() as u64,
            Column::Packets => r.packets = whole.clamp(1.0, 1e15) as u64,
            Column::Bytes | Column::Length => r.bytes = whole.clamp(0.0, 1e15) as u64,
            Column::Label => r.label = whole as u32,
            Column::Service => r.tos = whole as u8,
            Column::Id => self.id = whole as u16,
            Column::Flags => self.flags = whole.clamp(0.0, 7.0) as u8,
            Column::Offset => self.offset = whole.clamp(0.0, 8191.0) as u16,
            Column::Ttl => r.ttl = whole.max(1.0) as u8,
        }
    }

    /// Sets a column to a category.
    pub(crate) fn set_text(&mut self, column: Column, text: &str, labels: &[String]) {
        match column {
            Column::Label => {
                self.record.label = labels.iter().position(|l| l == text).unwrap_or(0) as u32;
            }
            Column::Protocol => self.record.protocol = protocol_number(text).unwrap_or(255),
            other => self.set(other, text.parse().unwrap_or(0.0)),
        }
    }
}

/// What a network learns from: rows in order of time.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) labels: Vec<String>,
    pub(crate) label_column: Option<String>,
    pub(crate) packets: bool,
    /// Frames of a capture that are not IPv4 or cannot be read.
    pub ignored: u64,
}

impl Rows {
    /// A flow table's records; only IPv4, as NetShare's bits of addresses are.
    ///
    /// # Errors
    /// [`SynthError::Option`] for IPv6 addresses, [`SynthError::Empty`].
    pub fn of_table(table: &Table) -> Result<Self, SynthError> {
        if table.records.is_empty() {
            return Err(SynthError::Empty);
        }
        for (i, r) in table.records.iter().enumerate() {
            if r.src.is_ipv6() || r.dst.is_ipv6() {
                return Err(SynthError::Option {
                    name: "method doppelganger",
                    why: format!(
                        "record {} has an IPv6 address ({} to {}); it learns 32 bits of addresses: use sequence or marginal",
                        i + 1,
                        r.src,
                        r.dst
                    ),
                });
            }
        }
        let rows = table.records.iter().map(|r| Row {
            record: *r,
            ..Row::default()
        });
        Ok(Self {
            rows: rows.collect(),
            labels: table.labels.clone(),
            label_column: table.label_column.clone(),
            packets: false,
            ignored: 0,
        }
        .sorted())
    }

    /// A capture's IPv4 packets, one row each; tunnels are not looked into.
    ///
    /// # Errors
    /// [`SynthError::Capture`], [`SynthError::Empty`] without IPv4 packets, [`SynthError::TooMany`].
    pub fn of_capture(input: impl Read) -> Result<Self, SynthError> {
        let mut reader = Reader::new(input)?;
        let mut out = Self {
            labels: vec![String::new()],
            packets: true,
            ..Self::default()
        };
        while let Some((frame, bytes)) = reader.next_borrowed()? {
            let packet = parse(frame.link, bytes, frame.wire_len).ok();
            let Some(packet) = packet.filter(|p| p.key.source().is_ipv4()) else {
                out.ignored += 1;
                continue;
            };
            if out.rows.len() == MAX_PACKETS {
                return Err(SynthError::TooMany {
                    what: "packets",
                    limit: MAX_PACKETS,
                });
            }
            let word = |at: usize| {
                let pair = packet.ip_packet.get(at..at + 2);
                pair.map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
            };
            let k = packet.key;
            out.rows.push(Row {
                record: Record {
                    start_us: frame.at.0 / 1000,
                    bytes: u64::from(packet.sample.bytes),
                    src: k.source(),
                    dst: k.destination(),
                    src_port: u16::from_be_bytes(k.src_port),
                    dst_port: u16::from_be_bytes(k.dst_port),
                    protocol: k.protocol,
                    ttl: packet.ttl,
                    tos: packet.traffic_class,
                    ..Record::default()
                },
                id: word(4),
                flags: (word(6) >> 13) as u8,
                offset: word(6) & 0x1fff,
            });
            let r = &mut out.rows.last_mut().expect("just pushed").record;
            if !crate::has_ports(r.protocol) {
                (r.src_port, r.dst_port) = (0, 0);
            }
        }
        if out.rows.is_empty() {
            return Err(SynthError::Empty);
        }
        Ok(out.sorted())
    }

    fn sorted(mut self) -> Self {
        self.rows.sort_by_key(|r| r.record.start_us);
        self
    }

    /// Replaces addresses by made-up ones of the same kind and neighbourhood.
    pub fn make_up_addresses(&mut self, secret: u64) {
        for row in &mut self.rows {
            row.record.src = pseudonym(secret, row.record.src);
            row.record.dst = pseudonym(secret, row.record.dst);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
