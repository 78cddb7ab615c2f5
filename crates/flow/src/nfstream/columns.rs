//! The columns of a flow and its values, in NFStream's order.

use std::borrow::Cow;

use chaff_abi::Mac;

use super::flow::{Flow, Moments};
use super::{Config, Expiration};
use crate::app::Hints;
use crate::{Column, Kind, Value};

/// Both directions and each of them, as column names begin.
const PREFIXES: [&str; 3] = ["bidirectional", "src2dst", "dst2src"];
/// Flags in the order of their columns, with their bits in the TCP header.
const FLAGS: [(&str, usize); 8] = [
    ("syn", 1),
    ("cwr", 7),
    ("ece", 6),
    ("urg", 5),
    ("ack", 4),
    ("psh", 3),
    ("rst", 2),
    ("fin", 0),
];

fn column(
    name: impl Into<Cow<'static, str>>,
    kind: Kind,
    unit: &'static str,
    doc: impl Into<Cow<'static, str>>,
) -> Column {
    Column {
        name: name.into(),
        kind,
        unit: unit.into(),
        doc: doc.into(),
    }
}

/// The columns of a configuration.
pub(super) fn columns(config: &Config) -> Vec<Column> {
    let mut all = identity(config.decode_tunnels);
    for prefix in PREFIXES {
        let core = [
            ("first_seen_ms", "ms", "time of the first packet"),
            ("last_seen_ms", "ms", "time of the last packet"),
            ("duration_ms", "ms", "last less first"),
            ("packets", "packets", "packets"),
            ("bytes", "bytes", "sum of the packets' sizes"),
        ];
        for (name, unit, doc) in core {
            all.push(column(
                format!("{prefix}_{name}"),
                Kind::Unsigned,
                unit,
                doc,
            ));
        }
    }
    if config.statistics {
        statistics(&mut all);
    }
    if config.splt > 0 {
        let list = |name, unit, doc| column(name, Kind::SignedList, unit, doc);
        all.push(list("splt_direction", "", "0 forward, 1 backward, -1 none"));
        all.push(list("splt_ps", "bytes", "sizes, -1 none"));
        all.push(list(
            "splt_piat_ms",
            "ms",
            "gaps to the packet before, -1 none",
        ));
    }
    if config.dissect > 0 {
        let text = |name, doc| column(name, Kind::Text, "", doc);
        let number = |name, doc| column(name, Kind::Unsigned, "", doc);
        all.push(text(
            "application_name",
            "protocol, or protocol.application",
        ));
        all.push(text("application_category_name", "kind of application"));
        all.push(number(
            "application_is_guessed",
            "1 when only port or address tell",
        ));
        all.push(number(
            "application_confidence",
            "nDPI's number, 0 unknown to 6 inspected",
        ));
        all.push(text(
            "requested_server_name",
            "TLS or QUIC server name, HTTP host, DNS name",
        ));
        all.push(text("client_fingerprint", "JA4, HASSH or DHCP option list"));
        all.push(text("server_fingerprint", "JA3S or HASSH"));
        all.push(text("user_agent", "HTTP or QUIC user agent"));
        all.push(text("content_type", "HTTP content type"));
    }
    all
}

/// Those of NFStream's system visibility.
pub(super) fn processes() -> [Column; 2] {
    [
        column(
            "system_process_pid",
            Kind::Signed,
            "",
            "process of this host whose socket it is, -1 for none",
        ),
        column("system_process_name", Kind::Text, "", "its name"),
    ]
}

fn identity(tunnels: bool) -> Vec<Column> {
    let text = |name, doc| column(name, Kind::Text, "", doc);
    let number = |name, doc| column(name, Kind::Unsigned, "", doc);
    let mut all = vec![
        number("id", "order of emission"),
        column(
            "expiration_id",
            Kind::Signed,
            "",
            "0 idle or end of input, 1 active timeout, -1 plugin",
        ),
    ];
    for (ip, mac, oui, port, doc) in [
        (
            "src_ip",
            "src_mac",
            "src_oui",
            "src_port",
            "sender of the first packet",
        ),
        (
            "dst_ip",
            "dst_mac",
            "dst_oui",
            "dst_port",
            "receiver of the first packet",
        ),
    ] {
        all.extend([
            text(ip, doc),
            text(mac, doc),
            text(oui, doc),
            number(port, doc),
        ]);
    }
    all.push(number("protocol", "IP protocol number"));
    all.push(number("ip_version", "4 or 6"));
    all.push(number("vlan_id", "innermost 802.1Q id"));
    if tunnels {
        all.push(number("tunnel_id", "0 none, 1 GTP, 2 CAPWAP, 3 TZSP"));
    }
    all
}

fn statistics(all: &mut Vec<Column>) {
    for (what, unit, kind) in [("ps", "bytes", "size"), ("piat_ms", "ms", "gap")] {
        for prefix in PREFIXES {
            for (name, doc) in [
                ("min", "smallest"),
                ("mean", "mean"),
                ("stddev", "sample standard deviation of the"),
                ("max", "largest"),
            ] {
                let number = if matches!(name, "min" | "max") {
                    Kind::Unsigned
                } else {
                    Kind::Float
                };
                let name = format!("{prefix}_{name}_{what}");
                all.push(column(name, number, unit, format!("{doc} {kind}")));
            }
        }
    }
    for prefix in PREFIXES {
        for (flag, _) in FLAGS {
            let name = format!("{prefix}_{flag}_packets");
            let doc = format!("packets with {}", flag.to_uppercase());
            all.push(column(name, Kind::Unsigned, "packets", doc));
        }
    }
}

impl Flow {
    /// Adds the flow's values to `row`, one a column of [`super::Meter::columns`]. `config` is that of its meter.
    pub fn values(&self, config: &Config, row: &mut Vec<Value>) {
        self.identity(config.decode_tunnels, row);
        let [forward, backward] = self.core.directions;
        let (first, last) = (self.core.first, self.core.last);
        let both = [first, last, last - first];
        row.extend(both.map(Value::Unsigned));
        row.push(Value::Unsigned(forward.packets + backward.packets));
        row.push(Value::Unsigned(forward.bytes + backward.bytes));
        for d in [forward, backward] {
            let duration = d.last - d.first;
            let values = [d.first, d.last, duration, d.packets, d.bytes];
            row.extend(values.map(Value::Unsigned));
        }
        if config.statistics {
            self.statistics(row);
        }
        if config.splt > 0 {
            row.extend(self.sequence.lists(config.splt).map(Value::SignedList));
        }
        if config.dissect > 0 {
            hints(self.hints.as_deref(), row);
        }
        row.extend_from_slice(&self.extra);
        if config.processes {
            let (pid, name) = match &self.process {
                Some(process) => (process.pid.into(), process.name.clone()),
                None => (-1, String::new()),
            };
            row.extend([Value::Signed(pid), Value::Text(name)]);
        }
    }

    fn identity(&self, tunnels: bool, row: &mut Vec<Value>) {
        let core = &self.core;
        let number = |n: u16| Value::Unsigned(n.into());
        row.push(Value::Unsigned(self.id));
        row.push(Value::Signed(self.expiration.id()));
        let [src_port, dst_port] = self.ports();
        for (ip, mac, port) in [
            (self.source(), core.src_mac, src_port),
            (self.destination(), core.dst_mac, dst_port),
        ] {
            row.extend([Value::Ip(ip), Value::Mac(mac), oui(mac), number(port)]);
        }
        row.push(number(core.protocol.into()));
        row.push(number(core.ip_version.into()));
        row.push(number(core.vlan));
        if tunnels {
            row.push(number(core.tunnel.into()));
        }
    }

    fn statistics(&self, row: &mut Vec<Value>) {
        let statistics = &self.statistics;
        let [forward, backward] = self.packets();
        let packets = [forward + backward, forward, backward];
        for (moments, n) in statistics.sizes.iter().zip(packets) {
            summary(moments, n, row);
        }
        for (moments, n) in statistics.gaps.iter().zip(packets) {
            summary(moments, n.saturating_sub(1), row);
        }
        let [forward, backward] = statistics.flags.map(|f| f.map(u64::from));
        for (_, bit) in FLAGS {
            row.push(Value::Unsigned(forward[bit] + backward[bit]));
        }
        for counts in [forward, backward] {
            row.extend(FLAGS.map(|(_, bit)| Value::Unsigned(counts[bit])));
        }
    }
}

fn summary<T: Copy + Ord + Into<u64>>(moments: &Moments<T>, n: u64, row: &mut Vec<Value>) {
    row.extend([
        Value::Unsigned(moments.min.into()),
        Value::Float(moments.mean),
        Value::Float(moments.deviation(n)),
        Value::Unsigned(moments.max.into()),
    ]);
}

/// The first three bytes of an address.
fn oui(mac: Mac) -> Value {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(8);
    for (i, byte) in mac.0.iter().take(3).enumerate() {
        if i > 0 {
            text.push(':');
        }
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    Value::Text(text)
}

/// The nine application columns.
fn hints(hints: Option<&Hints>, row: &mut Vec<Value>) {
    let empty = Hints::default();
    let hints = hints.unwrap_or(&empty);
    let name = match &*hints.application {
        "" => Cow::Borrowed("Unknown"),
        _ => hints.application.clone(),
    };
    let word = |text: Cow<'static, str>| match text {
        Cow::Borrowed(word) => Value::Word(word),
        Cow::Owned(text) => Value::Text(text),
    };
    row.push(word(name));
    row.push(Value::Word(match hints.category {
        "" => "Unspecified",
        category => category,
    }));
    row.push(Value::Unsigned(hints.guessed.into()));
    row.push(Value::Unsigned(hints.confidence.ndpi().into()));
    for text in [
        &hints.server_name,
        &hints.client_fingerprint,
        &hints.server_fingerprint,
        &hints.user_agent,
        &hints.content_type,
    ] {
        row.push(Value::Text(text.clone()));
    }
}

// The column says what the value is.
const _: () = assert!(matches!(Expiration::Custom.id(), -1));
