//! Every parser of application payloads by itself ([`chaff_flow::app`]): whatever the order in which a dissector tries them, no
//! bytes may trouble one.
//!
//! Input: which parser (1 byte), the payload.
//!
//! - What a parser points at lies within the payload.
//! - Lengths, names and fingerprints are within the bounds of their formats.

use std::net::{IpAddr, Ipv4Addr};

use chaff_flow::app::{dhcp, dns, dtls, fingerprint, http, netbios, quic as app_quic, ssh, tls};

use crate::bytes::Bytes;
use crate::{Seeds, frames, quic};

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let which = input.u8();
    let payload = input.rest();
    match which % 8 {
        0 => read_dns(payload),
        1 => read_tls(payload),
        2 => read_dtls(payload),
        3 => read_http(payload),
        4 => read_ssh(payload),
        5 => read_dhcp(payload),
        6 => read_netbios(payload),
        _ => read_quic(payload),
    }
}

/// Asserts that `part` is a piece of `whole`.
fn within(part: &[u8], whole: &[u8]) {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    assert!(part.start == part.end || whole.start <= part.start && part.end <= whole.end);
}

fn read_dns(payload: &[u8]) {
    let header = dns::Header::parse(payload);
    if let Some(message) = dns::Message::parse(payload) {
        assert_eq!(header.as_ref().map(|h| h.id), Some(message.header.id));
        assert!(message.questions.len() + message.records.len() <= payload.len());
        for (name, _) in &message.questions {
            assert!(name.len() <= 4 * 255, "{name:?}");
        }
    }
    for start in [0, 12, payload.len() / 2] {
        let mut at = start;
        let name = dns::raw_name(payload, &mut at);
        assert!(name.is_none_or(|n| n.len() <= 255 && at <= payload.len() && at > start));
    }
}

fn read_tls(payload: &[u8]) {
    let mut body = payload;
    if let Some(record) = tls::Record::parse(payload) {
        within(record.content, payload);
        assert!(record.content.len() <= record.length);
        body = record.content;
    }
    if let Some(message) = tls::Message::parse(body) {
        within(message.body, body);
        assert!(message.body.len() <= message.length);
        body = message.body;
    }
    hellos(body);
    hellos(payload);
}

fn hellos(body: &[u8]) {
    for dtls in [false, true] {
        let Some(hello) = tls::ClientHello::parse(body, dtls) else {
            continue;
        };
        let listed = hello.ciphers.len() + hello.extensions.len() + hello.groups.len();
        assert!(listed <= body.len());
        let ja3 = fingerprint::ja3(&hello);
        assert!(
            ja3.len() == 32 && ja3.bytes().all(|b| b.is_ascii_hexdigit()),
            "{ja3}"
        );
        use fingerprint::Transport;
        for transport in [Transport::Tcp, Transport::Quic, Transport::Dtls] {
            let ja4 = fingerprint::ja4(&hello, transport);
            assert_eq!(ja4.len(), 36, "{ja4}");
            let parts: Vec<usize> = ja4.split('_').map(str::len).collect();
            assert_eq!(parts, [10, 12, 12], "{ja4}");
            let ndpi = fingerprint::ja4_ndpi(&hello, transport, "host.example");
            assert!(ndpi.is_none_or(|text| text.len() <= 64));
        }
    }
    if let Some(hello) = tls::ServerHello::parse(body) {
        assert!(hello.extensions.len() <= body.len());
        assert_eq!(fingerprint::ja3s(&hello).len(), 32);
    }
}

fn read_dtls(payload: &[u8]) {
    let Some(record) = dtls::Record::parse(payload) else {
        return;
    };
    within(record.content, payload);
    assert!(record.content.len() <= record.length);
    if let Some(message) = dtls::Message::parse(record.content) {
        within(message.fragment, payload);
        hellos(message.fragment);
    }
}

fn read_http(payload: &[u8]) {
    let _ = http::method(payload);
    let headers = http::Headers::parse(payload);
    for (name, value) in &headers.pairs {
        within(name, payload);
        within(value, payload);
    }
    if let Some(head) = http::Head::parse(payload) {
        for (name, value) in &head.headers.pairs {
            within(name, payload);
            within(value, payload);
        }
        for name in ["host", "User-Agent", "content-type"] {
            if let Some(value) = head.headers.get(name) {
                within(value, payload);
            }
        }
    }
}

fn read_ssh(payload: &[u8]) {
    let _ = ssh::is_banner(payload);
    assert!(ssh::banner_length(payload).is_none_or(|length| length <= payload.len()));
    let _ = ssh::KexInit::length(payload);
    if let Some(kex) = ssh::KexInit::parse(payload) {
        assert!(ssh::KexInit::is(payload));
        for list in [
            kex.methods,
            kex.ciphers[0],
            kex.macs[1],
            kex.compressions[0],
        ] {
            within(list, payload);
        }
        assert_eq!(kex.hassh().len(), 32);
        assert!(kex.hassh_server().is_none_or(|text| text.len() == 32));
    }
}

fn read_dhcp(payload: &[u8]) {
    if let Some(message) = dhcp::Dhcp::parse(payload) {
        for text in [message.host_name, message.requests, message.vendor_class] {
            within(text.unwrap_or_default(), payload);
        }
        assert!(message.options.len() <= payload.len());
        assert!(
            message
                .fingerprint()
                .is_none_or(|text| text.len() <= 4 * payload.len())
        );
    }
}

fn read_netbios(payload: &[u8]) {
    let sender = IpAddr::V4(Ipv4Addr::new(192, 168, 7, 9));
    for name in [
        netbios::decode(payload),
        netbios::name(payload),
        netbios::datagram_source(payload, sender),
    ] {
        assert!(name.is_none_or(|name| name.len() <= 64));
    }
}

/// The payload as a datagram, and as frames of a datagram that opens.
fn read_quic(payload: &[u8]) {
    let _ = app_quic::google_version(payload);
    if let Some((packet, rest)) = app_quic::Long::initial(payload) {
        within(packet.destination, payload);
        within(rest, payload);
        let opened = packet.open(packet.destination);
        assert!(opened.is_none_or(|text| text.len() < payload.len()));
    }
    for chlo in [
        app_quic::Chlo::find(payload),
        app_quic::Chlo::parse(payload),
    ]
    .into_iter()
    .flatten()
    {
        within(chlo.server_name.unwrap_or_default(), payload);
    }
    within(app_quic::user_agent(payload).unwrap_or_default(), payload);
    let mut crypto = app_quic::Crypto::default();
    crypto.datagram(payload);
    for part in payload.chunks(payload.len() / 3 + 1) {
        crypto.datagram(&quic::initial(part));
        assert!(crypto.bytes().len() <= app_quic::MAX_CRYPTO);
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    let talk = frames::talk();
    let mut add = |name: &str, which: u8, payload: &[u8]| {
        seeds.push((name.to_owned(), [&[which], payload].concat()));
    };
    let which = [0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 6, 3];
    for (n, ((_, payload), which)) in talk.iter().zip(which).enumerate() {
        add(&format!("talk-{n}"), which, payload);
    }
    let hello = frames::client_hello();
    let frame = [quic::crypto(0, &hello[5..]), vec![0; 30]].concat();
    add("quic", 7, &quic::initial(&frame));
    add("quic-frames", 7, &frame);
    add("hello-body", 1, &hello[9..]);
    seeds
}
