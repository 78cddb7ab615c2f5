use super::{Field, field, join};
use crate::stats::{Moments, Side, Statistics, Tcp, TcpSide};
use crate::{Kind, Record, Value};

/// Minimum, maximum, mean and sample standard deviation of an `Option<Moments>`.
macro_rules! spread {
    ($name:expr, $end:literal, $unit:literal, $what:literal, |$r:ident| $of:expr) => {
        [
            field(
                concat!($name, "_min", $end),
                Kind::Unsigned,
                $unit,
                concat!("Smallest ", $what, "; empty without one."),
                |$r| whole($of.and_then(|m: Moments| m.min())),
            ),
            field(
                concat!($name, "_max", $end),
                Kind::Unsigned,
                $unit,
                concat!("Largest ", $what, "; empty without one."),
                |$r| whole($of.and_then(|m: Moments| m.max())),
            ),
            field(
                concat!($name, "_mean", $end),
                Kind::Float,
                $unit,
                concat!("Mean ", $what, "; empty without one."),
                |$r| float($of.and_then(|m: Moments| m.mean())),
            ),
            field(
                concat!($name, "_stddev", $end),
                Kind::Float,
                $unit,
                concat!(
                    "Sample standard deviation (n - 1) of each ",
                    $what,
                    "; empty with fewer than two."
                ),
                |$r| float($of.and_then(|m: Moments| m.stddev())),
            ),
        ]
    };
}

/// Five quantiles, each an `Option<u64>`.
macro_rules! quantiles {
    ($name:expr, $end:literal, $unit:literal, $what:literal, |$r:ident, $q:ident| $of:expr) => {
        [
            quantiles!(one $name, "_p5", $end, $unit, "5 % quantile of each ", $what, |$r, $q| $of, 0.05),
            quantiles!(one $name, "_p25", $end, $unit, "25 % quantile of each ", $what, |$r, $q| $of, 0.25),
            quantiles!(one $name, "_p50", $end, $unit, "Median ", $what, |$r, $q| $of, 0.5),
            quantiles!(one $name, "_p75", $end, $unit, "75 % quantile of each ", $what, |$r, $q| $of, 0.75),
            quantiles!(one $name, "_p95", $end, $unit, "95 % quantile of each ", $what, |$r, $q| $of, 0.95),
        ]
    };
    (one $name:expr, $p:literal, $end:literal, $unit:literal, $word:literal, $what:literal, |$r:ident, $q:ident| $of:expr, $value:literal) => {
        field(
            concat!($name, $p, $end),
            Kind::Unsigned,
            $unit,
            concat!($word, $what, "; empty without one."),
            |$r| {
                let $q = $value;
                whole($of)
            },
        )
    };
}

/// A count of one side of a TCP connection.
macro_rules! tcp_count {
    ($prefix:literal, $side:literal, $name:ident, $column:literal, $unit:literal, $doc:literal) => {
        field(
            concat!($prefix, "_tcp_", $column),
            Kind::Unsigned,
            $unit,
            $doc,
            |r| whole(tcp_side(r, $side).map(|t| t.$name)),
        )
    };
}

/// The columns of one direction; `$core` is its field of [`Record`].
macro_rules! direction {
    ($prefix:literal, $side:literal, $core:ident) => {
        join(&[
            &[
                field(
                    concat!($prefix, "_packets_per_s"),
                    Kind::Float,
                    "1/s",
                    "Packets by the duration of the flow; empty for a duration of 0.",
                    |r| rate(r, r.$core.packets),
                ),
                field(
                    concat!($prefix, "_bytes_per_s"),
                    Kind::Float,
                    "bytes/s",
                    "IP bytes by the duration of the flow; empty for a duration of 0.",
                    |r| rate(r, r.$core.bytes),
                ),
                field(
                    concat!($prefix, "_transport_bytes"),
                    Kind::Unsigned,
                    "bytes",
                    "Sum of what follows the IP headers.",
                    |r| whole(side(r, $side).map(|s| s.transport.sum())),
                ),
            ],
            &spread!(concat!($prefix, "_wire_bytes"), "", "bytes", "frame length", |r| {
                side(r, $side).map(|s| s.wire)
            }),
            &spread!(
                concat!($prefix, "_transport_bytes"),
                "",
                "bytes",
                "length of what follows the IP headers",
                |r| side(r, $side).map(|s| s.transport)
            ),
            &spread!(
                concat!($prefix, "_payload_bytes"),
                "",
                "bytes",
                "transport payload",
                |r| side(r, $side).map(|s| s.payload)
            ),
            &quantiles!(concat!($prefix, "_bytes"), "", "bytes", "IP length", |r, q| {
                side(r, $side).and_then(|s| s.sizes.quantile(q))
            }),
            &quantiles!(
                concat!($prefix, "_iat"),
                "_ns",
                "ns",
                "time between packets",
                |r, q| side(r, $side).and_then(|s| s.gaps.quantile(q))
            ),
            &[
                field(
                    concat!($prefix, "_ttl_min"),
                    Kind::Unsigned,
                    "",
                    "Smallest time to live or hop limit.",
                    |r| whole(side(r, $side).and_then(|s| s.ttl).map(|t| t.0.into())),
                ),
                field(
                    concat!($prefix, "_ttl_max"),
                    Kind::Unsigned,
                    "",
                    "Largest time to live or hop limit.",
                    |r| whole(side(r, $side).and_then(|s| s.ttl).map(|t| t.1.into())),
                ),
                field(
                    concat!($prefix, "_dscp"),
                    Kind::List,
                    "",
                    "DSCP values that occurred (RFC 2474), in order.",
                    |r| dscp(side(r, $side)),
                ),
                field(
                    concat!($prefix, "_ecn_ce_packets"),
                    Kind::Unsigned,
                    "packets",
                    "Packets marked \"congestion experienced\" (RFC 3168).",
                    |r| whole(side(r, $side).map(|s| s.congestion_marks)),
                ),
                field(
                    concat!($prefix, "_first_payload_bytes"),
                    Kind::Unsigned,
                    "bytes",
                    "Size of the first payload; empty without one.",
                    |r| whole(side(r, $side).and_then(|s| s.first_payload).map(u64::from)),
                ),
                tcp_count!($prefix, $side, retransmissions, "retransmissions", "packets", "Segments whose sequence numbers had been seen; empty without TCP."),
                tcp_count!($prefix, $side, retransmitted_bytes, "retransmitted_bytes", "bytes", "Payload of those segments."),
                tcp_count!($prefix, $side, out_of_order, "out_of_order", "packets", "Segments that came late and filled a gap in the sequence numbers."),
                tcp_count!($prefix, $side, gaps, "gaps", "", "Gaps in the sequence numbers: segments were lost, came late, or were not captured."),
                tcp_count!($prefix, $side, keep_alives, "keep_alives", "packets", "Probes of an idle connection."),
                tcp_count!($prefix, $side, duplicate_acks, "duplicate_acks", "packets", "Acknowledgements that repeat the one before, without payload; probes of an idle connection and their answers aside."),
                tcp_count!($prefix, $side, zero_windows, "zero_windows", "packets", "Packets that announce a window of 0, those with SYN or RST aside."),
                field(
                    concat!($prefix, "_tcp_window_min"),
                    Kind::Unsigned,
                    "bytes",
                    "Smallest announced window, scaled when the handshake was seen; packets with SYN or RST aside.",
                    |r| whole(tcp_side(r, $side).and_then(|t| t.window).map(|w| w.0)),
                ),
                field(
                    concat!($prefix, "_tcp_window_max"),
                    Kind::Unsigned,
                    "bytes",
                    "Largest announced window.",
                    |r| whole(tcp_side(r, $side).and_then(|t| t.window).map(|w| w.1)),
                ),
                field(
                    concat!($prefix, "_tcp_mss"),
                    Kind::Unsigned,
                    "bytes",
                    "Maximum segment size that the SYN announces; empty without the option.",
                    |r| {
                        whole(
                            tcp_side(r, $side)
                                .and_then(|t| t.segment_size)
                                .map(u64::from),
                        )
                    },
                ),
            ],
        ])
    };
}

const BOTH: [Field; 50] = join(&[
    &[
        field(
            "bi_packets_per_s",
            Kind::Float,
            "1/s",
            "Packets by the duration of the flow; empty for a duration of 0.",
            |r| rate(r, r.packets()),
        ),
        field(
            "bi_bytes_per_s",
            Kind::Float,
            "bytes/s",
            "IP bytes by the duration of the flow; empty for a duration of 0.",
            |r| rate(r, r.bytes()),
        ),
        field(
            "bi_transport_bytes",
            Kind::Unsigned,
            "bytes",
            "Sum of what follows the IP headers.",
            |r| whole(both(r, |s| s.transport).map(|m| m.sum())),
        ),
    ],
    &spread!("bi_bytes", "", "bytes", "IP length", |r| Some(ip_lengths(
        r
    ))),
    &spread!("bi_wire_bytes", "", "bytes", "frame length", |r| both(
        r,
        |s| s.wire
    )),
    &spread!(
        "bi_transport_bytes",
        "",
        "bytes",
        "length of what follows the IP headers",
        |r| both(r, |s| s.transport)
    ),
    &spread!("bi_payload_bytes", "", "bytes", "transport payload", |r| {
        both(r, |s| s.payload)
    }),
    &quantiles!("bi_bytes", "", "bytes", "IP length", |r, q| size(r, q)),
    &spread!(
        "bi_iat",
        "_ns",
        "ns",
        "time between packets of either direction",
        |r| statistics(r).map(|s| s.gaps)
    ),
    &quantiles!(
        "bi_iat",
        "_ns",
        "ns",
        "time between packets of either direction",
        |r, q| statistics(r).and_then(|s| s.gap_quantiles.quantile(q))
    ),
    &[
        field(
            "active_periods",
            Kind::Unsigned,
            "",
            "Runs of packets without a silence of more than the activity threshold (default 5 s) between them.",
            |r| whole(statistics(r).map(|s| s.periods.active().count())),
        ),
        field(
            "active_sum_ns",
            Kind::Unsigned,
            "ns",
            "Sum of their lengths, first packet to last.",
            |r| whole(statistics(r).map(|s| s.periods.active().sum())),
        ),
    ],
    &spread!("active", "_ns", "ns", "active period", |r| statistics(r)
        .map(|s| s.periods.active())),
    &[field(
        "idle_sum_ns",
        Kind::Unsigned,
        "ns",
        "Sum of the silences between active periods.",
        |r| whole(statistics(r).map(|s| s.periods.idle().sum())),
    )],
    &spread!("idle", "_ns", "ns", "silence between active periods", |r| {
        statistics(r).map(|s| s.periods.idle())
    }),
    &[
        field(
            "fragment_packets",
            Kind::Unsigned,
            "packets",
            "Packets that are IP fragments.",
            |r| whole(statistics(r).map(|s| s.fragments)),
        ),
        field(
            "icmp_type",
            Kind::Unsigned,
            "",
            "ICMP or ICMPv6 type of the first packet.",
            |r| whole(icmp(r).map(|i| i.0.into())),
        ),
        field(
            "icmp_code",
            Kind::Unsigned,
            "",
            "ICMP or ICMPv6 code of the first packet.",
            |r| whole(icmp(r).map(|i| i.1.into())),
        ),
        field(
            "payload_seq_bytes",
            Kind::SignedList,
            "bytes",
            "Sizes of the first eight payloads: those of the initiator positive, those of the responder negative.",
            |r| match statistics(r) {
                Some(s) => Value::SignedList(s.payloads().iter().map(|n| i64::from(*n)).collect()),
                None => Value::Missing,
            },
        ),
        field(
            "tcp_syn_to_answer_ns",
            Kind::Unsigned,
            "ns",
            "Time from the SYN to the answer with SYN and ACK: round trip beyond the meter; empty when not seen.",
            |r| whole(tcp(r).and_then(|t| t.syn_to_answer).map(|t| t.0)),
        ),
        field(
            "tcp_answer_to_ack_ns",
            Kind::Unsigned,
            "ns",
            "Time from that answer to its acknowledgement: round trip on the initiator's side; empty when not seen.",
            |r| whole(tcp(r).and_then(|t| t.answer_to_ack).map(|t| t.0)),
        ),
    ],
]);
const FORWARD: [Field; 40] = direction!("fwd", 0, forward);
const BACKWARD: [Field; 40] = direction!("bwd", 1, backward);

/// What takes a look at every packet, or a long division.
pub(super) const STATISTICS: [Field; 130] = join(&[&BOTH, &FORWARD, &BACKWARD]);

fn statistics(r: &Record) -> Option<&Statistics> {
    r.statistics.as_deref()
}

fn side(r: &Record, side: usize) -> Option<&Side> {
    statistics(r)?.sides.get(side)
}

fn tcp(r: &Record) -> Option<&Tcp> {
    statistics(r)?.tcp.as_deref()
}

fn tcp_side(r: &Record, side: usize) -> Option<&TcpSide> {
    tcp(r)?.sides.get(side)
}

fn icmp(r: &Record) -> Option<(u8, u8)> {
    statistics(r)?.icmp
}

/// Moments of both directions.
fn both(r: &Record, of: fn(&Side) -> Moments) -> Option<Moments> {
    let [forward, backward] = &statistics(r)?.sides;
    let mut all = of(forward);
    all.merge(&of(backward));
    Some(all)
}

fn ip_lengths(r: &Record) -> Moments {
    let mut all = Moments::from(&r.forward);
    all.merge(&Moments::from(&r.backward));
    all
}

/// Quantile of the IP lengths of both directions.
fn size(r: &Record, q: f64) -> Option<u64> {
    let [forward, backward] = &statistics(r)?.sides;
    forward.sizes.quantile_with(&backward.sizes, q)
}

fn rate(r: &Record, count: u64) -> Value {
    match r.duration().0 {
        0 => Value::Missing,
        _ => Value::Float(count as f64 / r.duration().as_secs_f64()),
    }
}

fn dscp(side: Option<&Side>) -> Value {
    match side {
        Some(side) => Value::List((0..64).filter(|bit| side.dscp >> bit & 1 != 0).collect()),
        None => Value::Missing,
    }
}

fn whole(value: Option<u64>) -> Value {
    value.map_or(Value::Missing, Value::Unsigned)
}

fn float(value: Option<f64>) -> Value {
    value.map_or(Value::Missing, Value::Float)
}
