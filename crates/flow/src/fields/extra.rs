use super::{Field, field};
use crate::app::{Confidence, Hints};
use crate::stats::SpltEntry;
use crate::{Kind, Record, Value};

/// The first packets one by one.
pub(super) const SEQUENCE: [Field; 6] = [
    field(
        "splt_dir",
        Kind::List,
        "",
        "First packets: 0 forward, 1 backward.",
        |r| splt(r, |e| e.backward.into()),
    ),
    field(
        "splt_bytes",
        Kind::List,
        "bytes",
        "First packets: IP length.",
        |r| splt(r, |e| e.bytes.into()),
    ),
    field(
        "splt_wire_bytes",
        Kind::List,
        "bytes",
        "First packets: frame length without FCS.",
        |r| splt(r, |e| e.wire.into()),
    ),
    field(
        "splt_payload_bytes",
        Kind::List,
        "bytes",
        "First packets: transport payload.",
        |r| splt(r, |e| e.payload.into()),
    ),
    field(
        "splt_gap_ns",
        Kind::List,
        "ns",
        "First packets: time since the packet before, of either direction; 0 for the first.",
        |r| splt(r, |e| e.gap.0),
    ),
    field(
        "splt_tcp_flags",
        Kind::List,
        "",
        "First packets: TCP flags.",
        |r| splt(r, |e| e.tcp_flags.into()),
    ),
];

/// Whose socket it is.
pub(super) const PROCESS: [Field; 2] = [
    field(
        "process_id",
        Kind::Unsigned,
        "",
        "Process that made the socket, by its id in the outermost pid namespace.",
        |r| match &r.process {
            Some(process) => Value::Unsigned(process.pid.into()),
            None => Value::Missing,
        },
    ),
    field(
        "process_name",
        Kind::Text,
        "",
        "Name of the thread that made the socket, at most 15 bytes.",
        |r| match &r.process {
            Some(process) => Value::Text(process.name.clone()),
            None => Value::Missing,
        },
    ),
];

/// What the payloads tell.
pub(super) const APPLICATION: [Field; 12] = [
    field(
        "application",
        Kind::Text,
        "",
        "Protocol, or protocol and application with a dot between; `Unknown` when nothing is known.",
        |r| text(r, |h| &h.application),
    ),
    field(
        "application_category",
        Kind::Text,
        "",
        "Category of the application.",
        |r| text(r, |h| h.category),
    ),
    field(
        "application_confidence",
        Kind::Text,
        "",
        "On what the name rests: `payload`, `partial`, `address`, `port` or `unknown`.",
        |r| match &r.hints {
            Some(hints) => Value::Word(confidence(hints.confidence)),
            None => Value::Missing,
        },
    ),
    field(
        "server_name",
        Kind::Text,
        "",
        "Server name of TLS or QUIC, HTTP host, DNS question.",
        |r| text(r, |h| &h.server_name),
    ),
    field(
        "client_fingerprint",
        Kind::Text,
        "",
        "JA4 of TLS, QUIC and DTLS clients, HASSH of SSH clients, option list of DHCP clients.",
        |r| text(r, |h| &h.client_fingerprint),
    ),
    field(
        "server_fingerprint",
        Kind::Text,
        "",
        "JA3S of TLS servers, HASSH of SSH servers.",
        |r| text(r, |h| &h.server_fingerprint),
    ),
    field("ja3", Kind::Text, "", "JA3 of the TLS client.", |r| {
        text(r, |h| &h.ja3)
    }),
    field(
        "alpn",
        Kind::Text,
        "",
        "First protocol that ALPN offers, or the one that the server chose.",
        |r| text(r, |h| &h.alpn),
    ),
    field(
        "user_agent",
        Kind::Text,
        "",
        "User agent of HTTP, SSDP and QUIC.",
        |r| text(r, |h| &h.user_agent),
    ),
    field(
        "content_type",
        Kind::Text,
        "",
        "Content type of the HTTP response.",
        |r| text(r, |h| &h.content_type),
    ),
    field(
        "host_name",
        Kind::Text,
        "",
        "What the sender calls itself: DHCP host name, mDNS host.",
        |r| text(r, |h| &h.host_name),
    ),
    field(
        "device_hint",
        Kind::Text,
        "",
        "What it is: DHCP vendor class, mDNS services, SSDP server or target, MQTT client.",
        |r| text(r, |h| &h.device_hint),
    ),
];

fn splt(r: &Record, get: fn(&SpltEntry) -> u64) -> Value {
    if r.splt.is_empty() {
        Value::Missing
    } else {
        Value::List(r.splt.iter().map(get).collect())
    }
}

fn text(r: &Record, get: fn(&Hints) -> &str) -> Value {
    match r.hints.as_deref().map(get) {
        None | Some("") => Value::Missing,
        Some(text) => Value::Text(text.to_owned()),
    }
}

fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Unknown => "unknown",
        Confidence::Port => "port",
        Confidence::Address => "address",
        Confidence::Partial => "partial",
        Confidence::Payload => "payload",
    }
}
