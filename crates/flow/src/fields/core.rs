use chaff_abi::{Counters, Dir, Mac, SequenceEntry};

use super::rows::push_core;
use super::{Field, join};
use crate::stats::sample_stddev;
use crate::{Kind, Record, TunnelKind, Value};

/// A field with a writer of its own, in which the kind of value is known, so that a row of text takes no values apart.
macro_rules! field {
    ($name:expr, $kind:expr, $unit:literal, $doc:literal, |$r:ident| $value:expr $(,)?) => {
        Field {
            name: $name,
            kind: $kind,
            unit: $unit,
            doc: $doc,
            get: |$r| $value,
            put: Some(|$r, out| push_core(out, $value)),
        }
    };
}

/// The fields of one direction, under the prefix of that direction.
macro_rules! direction {
    ($prefix:literal, $side:ident, $cover:literal) => {
        [
            field!(concat!($prefix, "_packets"), Kind::Unsigned, "packets", "Packets.", |r| Value::Unsigned(r.$side.packets)),
            field!(concat!($prefix, "_bytes"), Kind::Unsigned, "bytes", "Sum of IP lengths.", |r| Value::Unsigned(r.$side.bytes)),
            field!(concat!($prefix, "_wire_bytes"), Kind::Unsigned, "bytes", "Sum of frame lengths without FCS.", |r| Value::Unsigned(r.$side.wire)),
            field!(concat!($prefix, "_payload_bytes"), Kind::Unsigned, "bytes", "Sum of transport payloads.", |r| Value::Unsigned(r.$side.payload)),
            field!(concat!($prefix, "_payload_packets"), Kind::Unsigned, "packets", "Packets with a transport payload.", |r| Value::Unsigned(r.$side.payload_packets)),
            field!(concat!($prefix, "_first_ns"), Kind::Unsigned, "ns", "Time of the first packet; empty without one.", |r| seen(&r.$side, |c| c.first.0)),
            field!(concat!($prefix, "_last_ns"), Kind::Unsigned, "ns", "Time of the last packet; empty without one.", |r| seen(&r.$side, |c| c.last.0)),
            field!(concat!($prefix, "_bytes_min"), Kind::Unsigned, "bytes", "Smallest IP length; empty without a packet.", |r| seen(&r.$side, |c| c.bytes_min as u64)),
            field!(concat!($prefix, "_bytes_max"), Kind::Unsigned, "bytes", "Largest IP length; empty without a packet.", |r| seen(&r.$side, |c| c.bytes_max as u64)),
            field!(concat!($prefix, "_bytes_mean"), Kind::Float, "bytes", "Mean IP length; empty without a packet.", |r| bytes_mean(&r.$side)),
            field!(concat!($prefix, "_bytes_stddev"), Kind::Float, "bytes", "Sample standard deviation of IP lengths (n - 1); empty with fewer than two packets.", |r| bytes_stddev(&r.$side)),
            field!(concat!($prefix, "_iat_min_ns"), Kind::Unsigned, "ns", "Smallest time between packets of this direction; empty with fewer than two.", |r| gaps(&r.$side, |c| c.iat_min)),
            field!(concat!($prefix, "_iat_max_ns"), Kind::Unsigned, "ns", "Largest time between packets; empty with fewer than two.", |r| gaps(&r.$side, |c| c.iat_max)),
            field!(concat!($prefix, "_iat_mean_ns"), Kind::Float, "ns", "Mean time between packets; empty with fewer than two.", |r| iat_mean(&r.$side)),
            field!(concat!($prefix, "_iat_stddev_ns"), Kind::Float, "ns", "Sample standard deviation of the times between packets, from squares of whole microseconds; empty with fewer than three packets.", |r| iat_stddev(&r.$side)),
            field!(concat!($prefix, "_fin_packets"), Kind::Unsigned, "packets", "Packets with the TCP flag FIN.", |r| flag(&r.$side, 0)),
            field!(concat!($prefix, "_syn_packets"), Kind::Unsigned, "packets", "Packets with the TCP flag SYN.", |r| flag(&r.$side, 1)),
            field!(concat!($prefix, "_rst_packets"), Kind::Unsigned, "packets", "Packets with the TCP flag RST.", |r| flag(&r.$side, 2)),
            field!(concat!($prefix, "_psh_packets"), Kind::Unsigned, "packets", "Packets with the TCP flag PSH.", |r| flag(&r.$side, 3)),
            field!(concat!($prefix, "_ack_packets"), Kind::Unsigned, "packets", "Packets with the TCP flag ACK.", |r| flag(&r.$side, 4)),
            field!(concat!($prefix, "_urg_packets"), Kind::Unsigned, "packets", "Packets with the TCP flag URG.", |r| flag(&r.$side, 5)),
            field!(concat!($prefix, "_ece_packets"), Kind::Unsigned, "packets", "Packets with the TCP flag ECE.", |r| flag(&r.$side, 6)),
            field!(concat!($prefix, "_cwr_packets"), Kind::Unsigned, "packets", "Packets with the TCP flag CWR.", |r| flag(&r.$side, 7)),
            field!(concat!($prefix, "_cover_packets"), Kind::Unsigned, "packets", "Cover packets, in no other column.", |r| Value::Unsigned(r.cover[$cover].packets)),
            field!(concat!($prefix, "_cover_bytes"), Kind::Unsigned, "bytes", "Sum of IP lengths of cover packets.", |r| Value::Unsigned(r.cover[$cover].bytes)),
        ]
    };
}

const HEAD: [Field; 33] = [
    field!(
        "id",
        Kind::Unsigned,
        "",
        "Number of the record, from 0 in the order in which flows ended.",
        |r| Value::Unsigned(r.id),
    ),
    field!(
        "part",
        Kind::Unsigned,
        "",
        "0 for the first part of a flow, one more after each active timeout.",
        |r| Value::Unsigned(r.part as u64),
    ),
    field!(
        "end_reason",
        Kind::Text,
        "",
        "`idle`, `active`, `tcp_end`, `end_of_input`, `resource`, `plugin` or `time_step`.",
        |r| Value::Word(r.reason.name()),
    ),
    field!(
        "start_ns",
        Kind::Unsigned,
        "ns",
        "Time of the first packet; since the Unix epoch for captures.",
        |r| Value::Unsigned(r.start.0),
    ),
    field!(
        "end_ns",
        Kind::Unsigned,
        "ns",
        "Time of the last packet.",
        |r| Value::Unsigned(r.end.0),
    ),
    field!(
        "duration_ns",
        Kind::Unsigned,
        "ns",
        "`end_ns - start_ns`.",
        |r| Value::Unsigned(r.duration().0),
    ),
    field!(
        "src_ip",
        Kind::Text,
        "",
        "Address of the initiator: the sender of the flow's first packet.",
        |r| Value::Ip(r.key.source()),
    ),
    field!(
        "src_port",
        Kind::Unsigned,
        "",
        "Port of the initiator; 0 where there is none (ICMP). Later fragments have the ports of the first one, or 0 when it was not seen in the 60 s before.",
        |r| Value::Unsigned(r.key.source_port() as u64),
    ),
    field!("dst_ip", Kind::Text, "", "Address of the responder.", |r| {
        Value::Ip(r.key.destination())
    }),
    field!(
        "dst_port",
        Kind::Unsigned,
        "",
        "Port of the responder.",
        |r| Value::Unsigned(r.key.destination_port() as u64),
    ),
    field!("protocol", Kind::Unsigned, "", "IP protocol number.", |r| {
        Value::Unsigned(r.key.protocol as u64)
    }),
    field!("ip_version", Kind::Unsigned, "", "4 or 6.", |r| {
        Value::Unsigned(r.key.version as u64)
    }),
    field!(
        "vlan_id",
        Kind::Unsigned,
        "",
        "Id of the outer VLAN tag of the initiator's packets, 0 when untagged; in a tunnel of Ethernet frames that of the inner frame.",
        |r| Value::Unsigned(r.key.vlan_id() as u64),
    ),
    field!(
        "src_mac",
        Kind::Text,
        "",
        "MAC address of the initiator; empty when not known. In a tunnel of Ethernet frames that of the inner frame.",
        |r| mac(r.mac[0]),
    ),
    field!(
        "dst_mac",
        Kind::Text,
        "",
        "MAC address of the responder; empty when not known. In a tunnel of Ethernet frames that of the inner frame.",
        |r| mac(r.mac[1]),
    ),
    field!(
        "device_dir",
        Kind::Text,
        "",
        "`out`: the initiator is the protected device; `in`: the responder is; empty when not known.",
        |r| device_dir(r.device_dir),
    ),
    field!(
        "packets",
        Kind::Unsigned,
        "packets",
        "Packets of both directions.",
        |r| Value::Unsigned(r.packets()),
    ),
    field!(
        "bytes",
        Kind::Unsigned,
        "bytes",
        "Sum of IP lengths of both directions.",
        |r| Value::Unsigned(r.bytes()),
    ),
    field!(
        "wire_bytes",
        Kind::Unsigned,
        "bytes",
        "Sum of frame lengths of both directions, without FCS. Of a fragmented tunnel packet the inner flow has the first frame, with all its `bytes`, and the outer flow the others: there it can be less than `bytes`.",
        |r| Value::Unsigned(r.forward.wire + r.backward.wire),
    ),
    field!(
        "payload_bytes",
        Kind::Unsigned,
        "bytes",
        "Sum of transport payloads of both directions. What follows the IP headers where there is no TCP or UDP header, so that of ICMP has the ICMP header in it.",
        |r| Value::Unsigned(r.forward.payload + r.backward.payload),
    ),
    field!(
        "tcp_flags",
        Kind::Unsigned,
        "",
        "TCP flags seen in any packet, as byte 13 of the TCP header.",
        |r| Value::Unsigned((r.forward.flags_seen() | r.backward.flags_seen()) as u64),
    ),
    field!(
        "inner_vlan_id",
        Kind::Unsigned,
        "",
        "Id of the innermost of two or more VLAN tags, otherwise 0.",
        |r| Value::Unsigned(r.inner_vlan as u64),
    ),
    field!(
        "tunnel",
        Kind::Text,
        "",
        "Kind of the innermost tunnel: `ip`, `gre`, `erspan`, `vxlan`, `geneve`, `gtp_u`, `teredo`, `l2tp`, `capwap`, `tzsp`, `etherip` or `pseudowire`; empty without one.",
        |r| match r.tunnel.kind {
            TunnelKind::None => Value::Missing,
            kind => Value::Word(kind.name()),
        },
    ),
    field!(
        "tunnel_depth",
        Kind::Unsigned,
        "",
        "Tunnels around the packets.",
        |r| Value::Unsigned(r.tunnel.depth as u64),
    ),
    field!(
        "tunnel_network",
        Kind::Unsigned,
        "",
        "Number of the virtual network (VXLAN, Geneve, Ethernet in GRE), otherwise 0.",
        |r| Value::Unsigned(r.tunnel.network as u64),
    ),
    field!(
        "tunnel_id",
        Kind::Unsigned,
        "",
        "What the innermost tunnel's header calls it in the first packet: VNI (VXLAN, Geneve), key (GRE), TEID (GTP-U), otherwise 0.",
        |r| Value::Unsigned(r.tunnel.id as u64),
    ),
    field!(
        "outer_src_ip",
        Kind::Text,
        "",
        "Source address of the innermost tunnel in the first packet; empty without a tunnel.",
        |r| r.outer.map_or(Value::Missing, |o| Value::Ip(o.source())),
    ),
    field!(
        "outer_dst_ip",
        Kind::Text,
        "",
        "Destination address of the innermost tunnel in the first packet; empty without a tunnel.",
        |r| r
            .outer
            .map_or(Value::Missing, |o| Value::Ip(o.destination())),
    ),
    field!(
        "bwd_vlan_id",
        Kind::Unsigned,
        "",
        "Id of the outer VLAN tag of the responder's packets, 0 when untagged; empty without one. Flows are told apart by VLAN ids only when asked for.",
        |r| seen(&r.backward, |_| u64::from(r.reverse_vlan)),
    ),
    field!(
        "seq_dir",
        Kind::List,
        "",
        "First 16 packets: 0 forward, 1 backward.",
        |r| sequence(r, |e| (e.dir_flags >> 8) as u64 & 1),
    ),
    field!(
        "seq_bytes",
        Kind::List,
        "bytes",
        "First 16 packets: IP length.",
        |r| sequence(r, |e| e.bytes as u64),
    ),
    field!(
        "seq_offset_us",
        Kind::List,
        "µs",
        "First 16 packets: time since `start_ns`.",
        |r| sequence(r, |e| e.offset_us as u64),
    ),
    field!(
        "seq_tcp_flags",
        Kind::List,
        "",
        "First 16 packets: TCP flags.",
        |r| sequence(r, |e| (e.dir_flags & 0xff) as u64),
    ),
];

const FORWARD: [Field; 25] = direction!("fwd", forward, 0);
const BACKWARD: [Field; 25] = direction!("bwd", backward, 1);

/// The fields of every table: what the kernel's meter counts too.
pub(super) const CORE: [Field; HEAD.len() + FORWARD.len() + BACKWARD.len()] =
    join(&[&HEAD, &FORWARD, &BACKWARD]);

#[inline(always)]
fn mac(mac: Mac) -> Value {
    if mac == Mac::default() {
        Value::Missing
    } else {
        Value::Mac(mac)
    }
}

#[inline(always)]
fn device_dir(dir: Option<Dir>) -> Value {
    match dir {
        Some(Dir::Out) => Value::Word("out"),
        Some(Dir::In) => Value::Word("in"),
        None => Value::Missing,
    }
}

#[inline(always)]
fn flag(c: &Counters, bit: usize) -> Value {
    Value::Unsigned(c.tcp_flags[bit] as u64)
}

#[inline(always)]
fn seen(c: &Counters, get: impl Fn(&Counters) -> u64) -> Value {
    if c.packets == 0 {
        Value::Missing
    } else {
        Value::Unsigned(get(c))
    }
}

#[inline(always)]
fn gaps(c: &Counters, get: fn(&Counters) -> u64) -> Value {
    if c.packets < 2 {
        Value::Missing
    } else {
        Value::Unsigned(get(c))
    }
}

#[inline(always)]
fn bytes_mean(c: &Counters) -> Value {
    match c.packets {
        0 => Value::Missing,
        n => Value::Float(c.bytes as f64 / n as f64),
    }
}

#[inline(always)]
fn bytes_stddev(c: &Counters) -> Value {
    stddev(c.packets, c.bytes, c.bytes_sq)
}

#[inline(always)]
fn iat_mean(c: &Counters) -> Value {
    match c.packets {
        0 | 1 => Value::Missing,
        n => Value::Float(c.last.since(c.first).0 as f64 / (n - 1) as f64),
    }
}

#[inline(always)]
fn iat_stddev(c: &Counters) -> Value {
    match stddev(
        c.packets.saturating_sub(1),
        c.last.since(c.first).as_micros(),
        c.iat_sq,
    ) {
        Value::Float(us) => Value::Float(us * 1000.0),
        other => other,
    }
}

#[inline(always)]
fn stddev(n: u64, sum: u64, sum_sq: u64) -> Value {
    sample_stddev(n, sum, sum_sq.into()).map_or(Value::Missing, Value::Float)
}

#[inline(always)]
fn sequence(r: &Record, get: fn(&SequenceEntry) -> u64) -> Value {
    Value::List(r.sequence.iter().map(get).collect())
}
