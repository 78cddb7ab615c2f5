//! Columns that tables are written with.

use std::borrow::Cow;

use chaff_flow::{Column, Kind, Value};

use crate::columns::protocol_name;
use crate::{Record, Table};

/// Whose names the columns of a written table have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// `srcip,dstip,srcport,dstport,proto,ts,td,pkt,byt`: protocols by name, `ts` in µs, `td` in s.
    NetShare,
    /// Those of `gateway meter`'s flow records that one-way flows have; times in ns. `query` reads them, too.
    Chaff,
}

const NETSHARE: [(&str, Kind, &str, &str); 9] = [
    ("srcip", Kind::Text, "", "Source address"),
    ("dstip", Kind::Text, "", "Destination address"),
    ("srcport", Kind::Unsigned, "", "Source port"),
    ("dstport", Kind::Unsigned, "", "Destination port"),
    ("proto", Kind::Text, "", "Protocol"),
    ("ts", Kind::Unsigned, "µs", "First packet, since 1970"),
    ("td", Kind::Float, "s", "First to last packet"),
    ("pkt", Kind::Unsigned, "packets", "Packets"),
    ("byt", Kind::Unsigned, "bytes", "Sum of IP lengths"),
];

const CHAFF: [(&str, Kind, &str, &str); 16] = [
    ("start_ns", Kind::Unsigned, "ns since 1970", "First packet"),
    ("end_ns", Kind::Unsigned, "ns since 1970", "Last packet"),
    ("duration_ns", Kind::Unsigned, "ns", "First to last packet"),
    ("src_ip", Kind::Text, "", "Source address"),
    ("src_port", Kind::Unsigned, "", "Source port"),
    ("dst_ip", Kind::Text, "", "Destination address"),
    ("dst_port", Kind::Unsigned, "", "Destination port"),
    ("protocol", Kind::Unsigned, "", "IP protocol"),
    ("packets", Kind::Unsigned, "packets", "Packets"),
    ("bytes", Kind::Unsigned, "bytes", "Sum of IP lengths"),
    (
        "fwd_packets",
        Kind::Unsigned,
        "packets",
        "Packets of the source",
    ),
    ("fwd_bytes", Kind::Unsigned, "bytes", "Bytes of the source"),
    (
        "fwd_first_ns",
        Kind::Unsigned,
        "ns since 1970",
        "First packet of the source",
    ),
    (
        "fwd_last_ns",
        Kind::Unsigned,
        "ns since 1970",
        "Last packet of the source",
    ),
    (
        "bwd_packets",
        Kind::Unsigned,
        "packets",
        "Packets of the destination: 0",
    ),
    (
        "bwd_bytes",
        Kind::Unsigned,
        "bytes",
        "Bytes of the destination: 0",
    ),
];

impl Names {
    /// The columns of a table, its label column last.
    pub fn columns(self, table: &Table) -> Vec<Column> {
        let fixed: &[_] = match self {
            Self::NetShare => &NETSHARE,
            Self::Chaff => &CHAFF,
        };
        let label = table.label_column.iter().map(|name| Column {
            name: Cow::Owned(name.clone()),
            kind: Kind::Text,
            unit: "".into(),
            doc: "Label".into(),
        });
        let column =
            |(name, kind, unit, doc): &(&'static str, Kind, &'static str, &'static str)| Column {
                name: (*name).into(),
                kind: *kind,
                unit: (*unit).into(),
                doc: (*doc).into(),
            };
        fixed.iter().map(column).chain(label).collect()
    }

    /// A record's values in the order of the columns.
    pub fn values(self, table: &Table, r: &Record, out: &mut Vec<Value>) {
        use Value::{Float, Ip, Text, Unsigned};
        out.clear();
        let port = |p: u16| Unsigned(p.into());
        match self {
            Self::NetShare => out.extend([
                Ip(r.src),
                Ip(r.dst),
                port(r.src_port),
                port(r.dst_port),
                Text(protocol_name(r.protocol)),
                Unsigned(r.start_us),
                Float(r.duration_us as f64 / 1e6),
                Unsigned(r.packets),
                Unsigned(r.bytes),
            ]),
            Self::Chaff => {
                let (first, duration) = (r.start_us * 1000, r.duration_us * 1000);
                let last = first.saturating_add(duration);
                out.extend([first, last, duration].map(Unsigned));
                out.extend([Ip(r.src), port(r.src_port), Ip(r.dst), port(r.dst_port)]);
                out.push(Unsigned(r.protocol.into()));
                out.extend(
                    [r.packets, r.bytes, r.packets, r.bytes, first, last, 0, 0].map(Unsigned),
                );
            }
        }
        if table.label_column.is_some() {
            let text = table.labels.get(r.label as usize);
            out.push(Text(text.cloned().unwrap_or_default()));
        }
    }
}
