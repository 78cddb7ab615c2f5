//! Databases, messages, files.

use super::super::mqtt;
use super::super::names::{self, App};
use super::{Match, Payload, when};

type Test = fn(&Payload<'_>) -> Option<bool>;

const TCP: [(App, Test); 22] = [
    (names::MQTT, is_mqtt),
    (names::RESP, is_redis),
    (names::MONGODB, is_mongodb),
    (names::MYSQL, is_mysql),
    (names::POSTGRESQL, is_postgresql),
    (names::MSSQL, is_tds),
    (names::ORACLE, is_oracle),
    (names::CASSANDRA, is_cassandra),
    (names::KAFKA, is_kafka),
    (names::MEMCACHED, is_memcached),
    (names::AMQP, is_amqp),
    (names::NATS, is_nats),
    (names::NEST_LOG_SINK, is_nest_log_sink),
    (names::ZABBIX, is_zabbix),
    (names::GIT, is_git),
    (names::RSYNC, is_rsync),
    (names::SOCKS, is_socks),
    (names::HTTP2, is_http2),
    (names::AJP, is_ajp),
    (names::NFS, is_rpc_tcp),
    (names::MINING, is_mining),
    (names::JSON_RPC, is_json_rpc),
];

pub(super) fn tcp(p: &Payload<'_>) -> Match {
    if let Some(found) = smb(p) {
        return Some(found);
    }
    TCP.iter().find_map(|(app, test)| when(test(p), *app))
}

pub(super) fn udp(p: &Payload<'_>) -> Match {
    when(is_tftp(p), names::TFTP)
        .or_else(|| when(is_rpc(p, 0), names::NFS))
        .or_else(|| when(is_dropbox(p), names::DROPBOX))
}

/// SMB over NetBIOS session or directly over TCP (MS-SMB, MS-SMB2).
fn smb(p: &Payload<'_>) -> Match {
    let session = p.has_port(139) || p.has_port(445);
    match p.bytes.get(4..8)? {
        b"\xffSMB" if p.u8(0)? == 0 => Some((names::NETBIOS, Some(names::SMB1))),
        b"\xfeSMB" | b"\xfdSMB" if p.u8(0)? == 0 => Some((names::NETBIOS, Some(names::SMB2))),
        _ => when(
            Some(session && p.u16(0)? == 0x8100 && usize::from(p.u16(2)?) + 4 == p.len()),
            names::NETBIOS,
        ),
    }
}

/// MQTT: CONNECT, its answer, or a short packet on its port.
fn is_mqtt(p: &Payload<'_>) -> Option<bool> {
    let packet = mqtt::Packet::parse(p.bytes)?;
    let whole = packet.fills(p.len());
    let port = p.has_port(1883) || p.has_port(17501);
    Some(match packet.kind {
        mqtt::CONNECT => mqtt::client_id(&packet).is_some(),
        mqtt::CONNACK => {
            let (session, reason) = (packet.rest.first()?, packet.rest.get(1)?);
            packet.flags == 0 && whole && *session <= 1 && *reason <= 5
        }
        mqtt::PUBLISH | mqtt::SUBSCRIBE => port && whole && packet.length > 4,
        mqtt::PINGREQ | mqtt::PINGRESP => port && whole && packet.flags == 0 && packet.length == 0,
        _ => false,
    })
}

/// Redis serialisation: an array of bulk strings.
fn is_redis(p: &Payload<'_>) -> Option<bool> {
    if !p.starts_with(b"*") {
        return None;
    }
    let line = p.line()?;
    let count = line.strip_prefix(b"*")?;
    let digits = !count.is_empty() && count.len() <= 4 && count.iter().all(u8::is_ascii_digit);
    Some(digits && p.u8(line.len() + 2)? == b'$')
}

/// MongoDB wire protocol: length, identifiers, operation.
fn is_mongodb(p: &Payload<'_>) -> Option<bool> {
    let length = p.u32_le(0)?;
    let known = matches!(p.u32_le(12)?, 1 | 1000 | 2001..=2007 | 2010..=2013);
    let cut = p.len() >= 1200 && length as usize > p.len() && length < 48 * 1024 * 1024;
    Some(known && p.len() >= 16 && (length as usize == p.len() || cut))
}

/// MySQL: the server's greeting.
fn is_mysql(p: &Payload<'_>) -> Option<bool> {
    let length = p.u32_le(0)? as usize;
    let version = p.bytes.get(5..)?;
    let end = version.iter().take(64).position(|b| *b == 0)?;
    let text = version[..end].iter().all(u8::is_ascii_graphic);
    Some(length >> 24 == 0 && length + 4 == p.len() && p.u8(4)? == 10 && end > 2 && text)
}

/// PostgreSQL: a request for TLS or a start with its parameters.
fn is_postgresql(p: &Payload<'_>) -> Option<bool> {
    if p.u32(0)? as usize != p.len() {
        return None;
    }
    Some(match p.u32(4)? {
        80_877_103 | 80_877_104 => p.len() == 8,
        196_608 => p.bytes.get(8..)?.starts_with(b"user\0") || p.has_port(5432),
        _ => false,
    })
}

/// Microsoft's tabular data stream: a pre-login or login.
fn is_tds(p: &Payload<'_>) -> Option<bool> {
    let kind = matches!(p.u8(0)?, 0x01 | 0x10 | 0x12);
    let whole = usize::from(p.u16(2)?) == p.len();
    Some(kind && p.u8(1)? <= 1 && whole && p.u8(6)? <= 1 && p.u8(7)? == 0 && p.len() > 8)
}

/// Oracle's transparent network substrate: a connect packet.
fn is_oracle(p: &Payload<'_>) -> Option<bool> {
    let whole = usize::from(p.u16(0)?) == p.len();
    Some(whole && p.u16(2)? == 0 && p.u8(4)? == 1 && p.u8(5)? == 0 && p.len() >= 34)
}

/// Cassandra's binary protocol on its port.
fn is_cassandra(p: &Payload<'_>) -> Option<bool> {
    let version = matches!(p.u8(0)? & 0x7f, 1..=6);
    let length = p.u32(5)? as usize;
    Some(p.has_port(9042) && version && p.u8(4)? <= 16 && length + 9 == p.len() && length > 0)
}

/// Kafka: a request with its size, key, version and client.
fn is_kafka(p: &Payload<'_>) -> Option<bool> {
    let whole = p.u32(0)? as usize + 4 == p.len();
    let client = usize::from(p.u16(12)?);
    let text = p.bytes.get(14..14 + client)?;
    Some(
        p.has_port(9092)
            && whole
            && p.u16(4)? < 80
            && p.u16(6)? < 20
            && text.iter().all(u8::is_ascii_graphic),
    )
}

/// Memcached: a command in text, or the binary header, on its port.
fn is_memcached(p: &Payload<'_>) -> Option<bool> {
    const WORDS: [&[u8]; 10] = [
        b"get ", b"gets ", b"set ", b"add ", b"delete ", b"stats", b"version", b"VALUE ", b"STAT ",
        b"STORED",
    ];
    let text = WORDS.iter().any(|w| p.starts_with(w));
    Some(p.has_port(11211) && (text || matches!(p.u8(0)?, 0x80 | 0x81) && p.len() >= 24))
}

/// AMQP: the protocol header (OASIS 1.0, 0-9-1).
fn is_amqp(p: &Payload<'_>) -> Option<bool> {
    Some(p.starts_with(b"AMQP") && p.len() == 8)
}

/// NATS: text commands.
fn is_nats(p: &Payload<'_>) -> Option<bool> {
    Some(p.starts_with(b"INFO {\"") || p.starts_with(b"CONNECT {"))
}

/// Nest's log sink on its port.
fn is_nest_log_sink(p: &Payload<'_>) -> Option<bool> {
    Some(p.has_port(11095) && p.len() > 8)
}

fn is_zabbix(p: &Payload<'_>) -> Option<bool> {
    Some(p.starts_with(b"ZBXD\x01"))
}

/// Git's own protocol: a packet line that asks for a service.
fn is_git(p: &Payload<'_>) -> Option<bool> {
    let digits = p.bytes.get(..4)?.iter().all(u8::is_ascii_hexdigit);
    Some(digits && p.bytes.get(4..8)? == b"git-")
}

fn is_rsync(p: &Payload<'_>) -> Option<bool> {
    Some(p.starts_with(b"@RSYNCD:"))
}

/// SOCKS (RFC 1928 and version 4): a greeting that fills the segment.
fn is_socks(p: &Payload<'_>) -> Option<bool> {
    Some(match p.u8(0)? {
        5 => {
            let methods = p.bytes.get(2..)?;
            let known = methods.iter().all(|m| *m <= 9 || *m >= 0x80);
            usize::from(p.u8(1)?) == methods.len() && !methods.is_empty() && known
        }
        4 => matches!(p.u8(1)?, 1 | 2) && p.len() >= 9 && p.has_port(1080),
        _ => false,
    })
}

/// HTTP/2: the client's preface (RFC 9113).
fn is_http2(p: &Payload<'_>) -> Option<bool> {
    Some(p.starts_with(b"PRI * HTTP/2.0\r\n"))
}

/// Apache JServ: magic of either direction.
fn is_ajp(p: &Payload<'_>) -> Option<bool> {
    let whole = usize::from(p.u16(2)?) + 4 == p.len();
    let magic = p.u16(0)? == 0x1234 || p.starts_with(b"AB");
    Some(magic && whole && p.has_port(8009))
}

/// ONC RPC (RFC 5531): a call of the port mapper, NFS or mount; `at` is where it begins.
fn is_rpc(p: &Payload<'_>, at: usize) -> Option<bool> {
    let program = matches!(p.u32(at + 12)?, 100_000 | 100_003 | 100_005);
    Some(p.u32(at + 4)? == 0 && p.u32(at + 8)? == 2 && program)
}

fn is_rpc_tcp(p: &Payload<'_>) -> Option<bool> {
    let fragment = p.u32(0)?;
    Some(fragment >> 31 == 1 && (fragment & 0x7fff_ffff) as usize + 4 <= p.len() && is_rpc(p, 4)?)
}

/// JSON-RPC in a line.
fn is_json_rpc(p: &Payload<'_>) -> Option<bool> {
    Some(p.starts_with(b"{") && p.contains(b"\"jsonrpc\":"))
}

/// Stratum: how miners talk to their pool.
fn is_mining(p: &Payload<'_>) -> Option<bool> {
    let method = [&b"\"mining."[..], b"\"eth_submit", b"\"eth_getWork"];
    Some(p.starts_with(b"{") && method.iter().any(|m| p.contains(m)))
}

/// TFTP (RFC 1350): a request, or data on its port.
fn is_tftp(p: &Payload<'_>) -> Option<bool> {
    Some(match p.u16(0)? {
        1 | 2 => {
            let rest = p.bytes.get(2..)?;
            let name = rest.iter().position(|b| *b == 0)?;
            let mode = rest.get(name + 1..)?;
            let known = [&b"octet\0"[..], b"netascii\0", b"mail\0"];
            let mode: Vec<u8> = mode.iter().take(16).map(u8::to_ascii_lowercase).collect();
            name > 0
                && rest[..name].iter().all(|b| (b' '..=b'~').contains(b))
                && known.iter().any(|k| mode.starts_with(k))
        }
        3 => p.u16(2)? == 1 && p.len() == 516,
        _ => false,
    })
}

/// Dropbox looking for its own in the local network.
fn is_dropbox(p: &Payload<'_>) -> Option<bool> {
    Some(p.ports == [17500; 2] && p.contains(b"\"host_int\""))
}
