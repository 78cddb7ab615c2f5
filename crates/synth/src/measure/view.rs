//! A trace as columns, the same for flows and for packets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::capture::{Capture, Step};
use crate::table::{Table, has_ports};

use super::distance::{quantile, sorted};

/// Records above it are left out, the latest ones.
pub(super) const MOST: usize = 200_000;

/// What the records of a trace are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One-way flows.
    Flows,
    /// Packets.
    Packets,
}

/// A 5-tuple.
pub(super) type Tuple = (IpAddr, IpAddr, u16, u16, u8);

/// Columns of a trace. Those in `numbers` are, of flows: `td` s, `pkt`, `byt`; of packets: `pkt_len`, `ttl`, `tos`, `flag`,
/// `id`, `off`.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) kind: Kind,
    pub(super) tuples: Vec<Tuple>,
    /// µs since 1970.
    pub(super) start: Vec<f64>,
    pub(super) numbers: Vec<(&'static str, Vec<f64>)>,
    /// Indexes into `texts`.
    pub(super) label: Option<Vec<u32>>,
    pub(super) texts: Vec<String>,
    /// Of packets.
    pub(super) headers: Vec<Header>,
    /// Packets that are earlier than the one before.
    pub(super) backwards: usize,
}

/// What the rules look at beside the columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) tcp_flags: Option<u8>,
    pub(super) ip_checksum: Option<bool>,
    pub(super) transport_checksum: Option<bool>,
}

impl View {
    pub(super) fn flows(table: &Table) -> Self {
        let all = &table.records;
        let order = earliest(all.len(), |i| all[i].start_us);
        let of = |value: &dyn Fn(usize) -> f64| order.iter().map(|i| value(*i)).collect();
        Self {
            kind: Kind::Flows,
            tuples: order
                .iter()
                .map(|i| &all[*i])
                .map(|r| (r.src, r.dst, r.src_port, r.dst_port, r.protocol))
                .collect(),
            start: of(&|i| all[i].start_us as f64),
            numbers: vec![
                ("td", of(&|i| all[i].duration_us as f64 / 1e6)),
                ("pkt", of(&|i| all[i].packets as f64)),
                ("byt", of(&|i| all[i].bytes as f64)),
            ],
            label: table
                .label_column
                .is_some()
                .then(|| order.iter().map(|i| all[*i].label).collect()),
            texts: table.labels.clone(),
            headers: Vec::new(),
            backwards: 0,
        }
    }

    pub(super) fn packets(capture: &Capture) -> Self {
        let steps = &capture.steps;
        let order = earliest(steps.len(), |i| steps[i].at_us);
        let of = |value: &dyn Fn(&Step) -> f64| order.iter().map(|i| value(&steps[*i])).collect();
        let tuple = |step: &Step| {
            let r = &capture.table.records[step.flow as usize];
            let ports = if has_ports(r.protocol) {
                (r.src_port, r.dst_port)
            } else {
                (0, 0)
            };
            (r.src, r.dst, ports.0, ports.1, r.protocol)
        };
        Self {
            kind: Kind::Packets,
            tuples: order.iter().map(|i| tuple(&steps[*i])).collect(),
            start: of(&|s| s.at_us as f64),
            numbers: vec![
                ("pkt_len", of(&|s| f64::from(s.bytes))),
                ("ttl", of(&|s| f64::from(s.ttl))),
                ("tos", of(&|s| f64::from(s.tos))),
                ("flag", of(&|s| f64::from(s.fragment >> 13))),
                ("id", of(&|s| f64::from(s.id))),
                ("off", of(&|s| f64::from(s.fragment & 0x1fff))),
            ],
            label: None,
            texts: Vec::new(),
            headers: order
                .iter()
                .map(|i| Header {
                    tcp_flags: steps[*i].tcp_flags,
                    ip_checksum: steps[*i].ip_checksum,
                    transport_checksum: steps[*i].transport_checksum,
                })
                .collect(),
            backwards: steps.windows(2).filter(|w| w[1].at_us < w[0].at_us).count(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tuples.len()
    }

    pub(super) fn number(&self, name: &str) -> Option<&[f64]> {
        let found = self.numbers.iter().find(|(n, _)| *n == name);
        found.map(|(_, values)| values.as_slice())
    }

    pub(super) fn text(&self, at: usize) -> Option<&str> {
        let index = self.label.as_ref()?.get(at)?;
        Some(self.texts.get(*index as usize).map_or("", String::as_str))
    }

    pub(super) fn first(&self) -> f64 {
        self.start.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Time since the first record, µs.
    pub(super) fn since(&self) -> Vec<f64> {
        let first = self.first();
        self.start.iter().map(|t| t - first).collect()
    }

    /// Bytes of a flow, length of a packet.
    pub(super) fn size(&self) -> &[f64] {
        let name = match self.kind {
            Kind::Flows => "byt",
            Kind::Packets => "pkt_len",
        };
        self.number(name).unwrap_or(&[])
    }

    /// The records at these places, in this order.
    pub(super) fn pick(&self, rows: &[usize]) -> Self {
        Self {
            kind: self.kind,
            tuples: rows.iter().map(|i| self.tuples[*i]).collect(),
            start: rows.iter().map(|i| self.start[*i]).collect(),
            numbers: self
                .numbers
                .iter()
                .map(|(n, v)| (*n, rows.iter().map(|i| v[*i]).collect()))
                .collect(),
            label: self
                .label
                .as_ref()
                .map(|l| rows.iter().map(|i| l[*i]).collect()),
            texts: self.texts.clone(),
            headers: if self.headers.is_empty() {
                Vec::new()
            } else {
                rows.iter().map(|i| self.headers[*i]).collect()
            },
            backwards: self.backwards,
        }
    }
}

/// All of `n`; of too many the earliest, in order of time.
fn earliest(n: usize, at: impl Fn(usize) -> u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    if n > MOST {
        order.sort_by_key(|i| at(*i));
        order.truncate(MOST);
    }
    order
}

/// A column as small numbers, of the real and the synthetic trace; bins and categories come from the real one.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) codes: [Vec<u32>; 2],
    /// Codes are below it.
    pub(super) size: u32,
}

/// Codes of the most frequent values; ties in order of value.
pub(super) fn top<K: Ord + Clone>(
    values: impl Iterator<Item = K>,
    most: usize,
) -> BTreeMap<K, u32> {
    let mut counts: BTreeMap<K, usize> = BTreeMap::new();
    values.for_each(|v| *counts.entry(v).or_default() += 1);
    let mut sorted: Vec<(K, usize)> = counts.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let most = sorted.into_iter().take(most).zip(0..);
    most.map(|((k, _), i)| (k, i)).collect()
}

/// How many of the ascending edges are at most the value.
pub(super) fn place<T: PartialOrd>(edges: &[T], value: T) -> u32 {
    edges.partition_point(|e| *e <= value) as u32
}

/// Edges of 16 equally filled bins.
fn sixteenths(values: &[f64]) -> Vec<f64> {
    let sorted = sorted(values);
    let mut edges: Vec<f64> = (1..16)
        .map(|k| quantile(&sorted, f64::from(k) / 16.0))
        .collect();
    edges.dedup();
    edges
}

/// A part of a 5-tuple.
type Named<T> = (&'static str, fn(&Tuple) -> T);
/// A column as it is.
type Values<'a> = &'a dyn Fn(&View) -> Option<Vec<f64>>;

/// All columns in bins.
pub(super) fn columns(real: &View, synthetic: &View) -> Vec<Column> {
    let views = [real, synthetic];
    let mut out: Vec<Column> = Vec::new();
    let mut push = |name, size, code: &dyn Fn(&View) -> Vec<u32>| {
        out.push(Column {
            name,
            codes: views.map(code),
            size,
        });
    };
    let hosts: [Named<IpAddr>; 2] = [("srcip", |t| t.0), ("dstip", |t| t.1)];
    for (name, side) in hosts {
        push(name, 9, &|v| {
            let ranks = top(v.tuples.iter().map(side), usize::MAX);
            let edges = [2, 4, 11, 31, 101, 301, 1001, 5001];
            let rank = |t| ranks.get(&side(t)).map_or(0, |k| k + 1);
            v.tuples.iter().map(|t| place(&edges, rank(t))).collect()
        });
    }
    let ports: [Named<u16>; 2] = [("srcport", |t| t.2), ("dstport", |t| t.3)];
    for (name, side) in ports {
        let known = top(real.tuples.iter().map(side), 16);
        let class = |p: u16| 16 + place(&[1024, 8192, 32768, 49152], p);
        push(name, 21, &|v| {
            let code = |p: u16| known.get(&p).copied().unwrap_or_else(|| class(p));
            v.tuples.iter().map(|t| code(side(t))).collect()
        });
    }
    let known = top(real.tuples.iter().map(|t| t.4), 12);
    push("proto", 13, &|v| {
        let code = |t: &Tuple| known.get(&t.4).copied().unwrap_or(12);
        v.tuples.iter().map(code).collect()
    });
    if real.label.is_some() && synthetic.label.is_some() {
        let all = |v: &View| -> Vec<String> {
            (0..v.len())
                .map(|i| v.text(i).unwrap_or("").to_owned())
                .collect()
        };
        let known = top(all(real).into_iter(), 12);
        push("label", 13, &|v| {
            let code = |t: String| known.get(&t).copied().unwrap_or(12);
            all(v).into_iter().map(code).collect()
        });
    }
    if let (Some(flags), Some(_)) = (real.number("flag"), synthetic.number("flag")) {
        let known = top(flags.iter().map(|f| *f as u8), 12);
        push("flag", 13, &|v| {
            let values = v.number("flag").unwrap_or(&[]).iter();
            values
                .map(|f| known.get(&(*f as u8)).copied().unwrap_or(12))
                .collect()
        });
    }
    let binned: [(&str, Values<'_>); 7] = [
        ("ts", &|v| Some(v.since())),
        ("td", &|v| v.number("td").map(<[f64]>::to_vec)),
        ("pkt", &|v| v.number("pkt").map(<[f64]>::to_vec)),
        ("byt", &|v| v.number("byt").map(<[f64]>::to_vec)),
        ("pkt_len", &|v| v.number("pkt_len").map(<[f64]>::to_vec)),
        ("ttl", &|v| v.number("ttl").map(<[f64]>::to_vec)),
        ("tos", &|v| v.number("tos").map(<[f64]>::to_vec)),
    ];
    let ratio = |v: &View| {
        let (packets, bytes) = (v.number("pkt")?, v.number("byt")?);
        let both = packets.iter().zip(bytes);
        Some(both.map(|(p, b)| b / p.max(1.0)).collect::<Vec<f64>>())
    };
    for (name, values) in binned.into_iter().chain([(RATIO, &ratio as Values<'_>)]) {
        let (Some(mine), Some(_)) = (values(real), values(synthetic)) else {
            continue;
        };
        let edges = sixteenths(&mine);
        push(name, edges.len() as u32 + 1, &|v| {
            let values = values(v).unwrap_or_default();
            values
                .iter()
                .map(|x| edges.partition_point(|e| e < x) as u32)
                .collect()
        });
    }
    out
}

/// A column for learners that follows from two others and so is in no pair.
pub(super) const RATIO: &str = "byt/pkt";
