//! What the dissector makes of whole flows, in both dialects.

use std::net::{IpAddr, Ipv4Addr};

use chaff_flow::app::{Confidence, Dialect, Dissector, Hints, Progress, Room, Seen};
use proptest::prelude::*;

/// A flow under the dissector's eyes.
struct Flow {
    dissector: Dissector,
    protocol: u8,
    ports: [u16; 2],
    next: [u32; 2],
    progress: Progress,
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 9));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

impl Flow {
    fn new(dialect: Dialect, protocol: u8, ports: [u16; 2]) -> Self {
        Self {
            dissector: Dissector::new(dialect),
            protocol,
            ports,
            next: [1000, 5000],
            progress: Progress::More,
        }
    }

    fn packet(&mut self, forward: bool, sequence: u32, payload: &[u8]) -> &mut Self {
        self.progress = self.dissector.observe(&Seen {
            forward,
            protocol: self.protocol,
            ip_version: 4,
            addresses: [CLIENT, SERVER],
            ports: self.ports,
            tcp_flags: 0x18,
            tcp_sequence: sequence,
            payload,
            payload_len: payload.len(),
        });
        self
    }

    fn send(&mut self, side: usize, payload: &[u8]) -> &mut Self {
        let sequence = self.next[side];
        self.next[side] = sequence.wrapping_add(payload.len() as u32);
        self.packet(side == 0, sequence, payload)
    }

    /// From the initiator.
    fn client(&mut self, payload: &[u8]) -> &mut Self {
        self.send(0, payload)
    }

    fn server(&mut self, payload: &[u8]) -> &mut Self {
        self.send(1, payload)
    }

    fn finish(&self) -> Hints {
        self.dissector.clone().finish()
    }
}

const BOTH: [Dialect; 2] = [Dialect::Ndpi, Dialect::Standard];

fn tcp(dialect: Dialect, port: u16) -> Flow {
    Flow::new(dialect, 6, [40_000, port])
}

fn udp(dialect: Dialect, port: u16) -> Flow {
    Flow::new(dialect, 17, [40_000, port])
}

fn vector(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(value)].concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[kind][..], &length[1..], body].concat()
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &vector(content)].concat()
}

/// A ClientHello that asks for `name`, with padding of `padding` bytes.
fn client_hello(name: &str, padding: usize) -> Vec<u8> {
    let entry = [&[0][..], &vector(name.as_bytes())].concat();
    let extensions = [
        extension(0, &vector(&entry)),
        extension(10, &vector(&[0, 29])),
        extension(13, &vector(&[4, 3])),
        extension(16, &vector(b"\x02h2")),
        extension(21, &vec![0; padding]),
    ];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(vector(&[0x13, 1, 0xc0, 0x2f]));
    body.extend([1, 0]);
    body.extend(vector(&extensions.concat()));
    message(1, &body)
}

fn server_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([8; 32]);
    body.extend([0, 0xc0, 0x2f, 0]);
    body.extend(vector(&extension(16, &vector(b"\x02h2"))));
    message(2, &body)
}

/// A Certificate message with one alternative name.
fn certificate(name: &str) -> Vec<u8> {
    let element = |tag: u8, value: &[u8]| [&[tag, value.len() as u8][..], value].concat();
    let names = element(0x30, &element(0x82, name.as_bytes()));
    let extension = [&[6, 3, 0x55, 0x1d, 0x11][..], &element(4, &names)].concat();
    let length = |n: usize| (n as u32).to_be_bytes()[1..].to_vec();
    let one = [length(extension.len()), extension].concat();
    message(11, &[length(one.len()), one].concat())
}

#[test]
fn handshakes_without_an_end_share_a_room() {
    const LIMIT: usize = 64 << 10;
    let hello = record(22, &client_hello("www.example.org", 6000));
    for dialect in BOTH {
        let room = Room::new(LIMIT);
        let mut flows: Vec<Flow> = (0..100)
            .map(|_| {
                let mut flow = tcp(dialect, 443);
                flow.dissector = flow.dissector.within(&room);
                for part in hello[..5600].chunks(1400) {
                    flow.client(part);
                }
                flow
            })
            .collect();
        let waiting = |flow: &&mut Flow| flow.progress == Progress::More;
        assert!((4..20).contains(&flows.iter_mut().filter(waiting).count()));
        assert!(
            (LIMIT / 2..=LIMIT).contains(&room.used()),
            "{}",
            room.used()
        );
        // Who has a place is served to the end, and makes room.
        for flow in flows.iter_mut().filter(waiting) {
            flow.client(&hello[5600..]);
            assert_eq!(flow.finish().server_name, "www.example.org");
        }
        assert!(room.used() < LIMIT / 2, "{}", room.used());
        drop(flows);
        assert_eq!(room.used(), 0);
    }
}

#[test]
fn reads_hellos_over_segments() {
    for dialect in BOTH {
        let hello = record(22, &client_hello("WWW.Google.com", 1800));
        let mut flow = tcp(dialect, 8443);
        flow.client(&hello[..1400]).client(&hello[1400..]);
        let answer = record(22, &server_hello());
        flow.server(&answer[..30]).server(&answer[30..]);
        let hints = flow.finish();
        assert_eq!(hints.application, "TLS.Google");
        assert_eq!(
            (hints.category, hints.confidence),
            ("Web", Confidence::Payload)
        );
        assert_eq!(hints.server_name, "www.google.com");
        assert!(hints.client_fingerprint.starts_with("t12d0205h2_"));
        let ja3 = if dialect == Dialect::Standard { 32 } else { 0 };
        assert_eq!((hints.ja3.len(), hints.server_fingerprint.len()), (ja3, 32));
        assert_eq!(hints.alpn, "h2");
        assert!(!hints.guessed);
    }
}

#[test]
fn only_the_standard_dialect_restores_order() {
    let hello = record(22, &client_hello("example.org", 1800));
    let run = |dialect| {
        let mut flow = tcp(dialect, 443);
        flow.packet(true, 2400, &hello[1400..]);
        flow.packet(true, 1000, &hello[..1400]);
        flow.finish()
    };
    // The first segment of a stream decides where it begins.
    assert_eq!(run(Dialect::Ndpi).server_name, "");
    assert!(run(Dialect::Ndpi).guessed);
    let late = |dialect| {
        let mut flow = tcp(dialect, 443);
        flow.packet(true, 1000, &hello[..700]);
        flow.packet(true, 2400, &hello[1400..]);
        flow.packet(true, 1700, &hello[700..1400]);
        flow.finish().server_name
    };
    assert_eq!(
        (&*late(Dialect::Ndpi), &*late(Dialect::Standard)),
        ("", "example.org")
    );
}

#[test]
fn only_the_standard_dialect_joins_records() {
    let hello = client_hello("example.org", 0);
    let (first, second) = (record(22, &hello[..40]), record(22, &hello[40..]));
    let run = |dialect| {
        let mut flow = tcp(dialect, 40_001);
        flow.client(&first).client(&second);
        flow.finish().server_name
    };
    assert_eq!(
        (&*run(Dialect::Ndpi), &*run(Dialect::Standard)),
        ("", "example.org")
    );
}

#[test]
fn many_small_records_are_bounded() {
    let mut flow = tcp(Dialect::Standard, 443);
    let piece = record(22, &[1, 0xff, 0xff, 0xff]);
    let more = record(22, &[0]).repeat(10_000);
    flow.client(&piece);
    for _ in 0..40 {
        flow.client(&more);
    }
    assert_eq!(flow.progress, Progress::Done);
}

#[test]
fn names_a_server_by_its_certificate() {
    for dialect in BOTH {
        let mut flow = tcp(dialect, 443);
        let hello = record(22, &bare_hello());
        flow.client(&hello).server(&record(22, &server_hello()));
        assert_eq!(flow.progress, Progress::More);
        flow.server(&record(22, &certificate("*.facebook.com")));
        let hints = flow.finish();
        assert_eq!(
            (&*hints.application, hints.category),
            ("TLS.Facebook", "SocialNetwork")
        );
        assert_eq!((&*hints.server_name, flow.progress), ("", Progress::Done));
    }
}

/// A ClientHello without extensions.
fn bare_hello() -> Vec<u8> {
    let mut body = vec![3, 1];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    message(1, &body)
}

#[test]
fn reads_http() {
    for dialect in BOTH {
        let mut flow = tcp(dialect, 8080);
        flow.client(
            b"GET /a HTTP/1.1\r\nHost: Example.org:8080\r\nUser-Agent: Thing/1.0 (x)\r\n\r\n",
        );
        flow.server(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>");
        let hints = flow.finish();
        assert_eq!((&*hints.application, hints.category), ("HTTP", "Web"));
        assert_eq!(
            (&*hints.server_name, &*hints.user_agent),
            ("example.org", "Thing/1.0 (x)")
        );
        assert_eq!(
            (&*hints.content_type, flow.progress),
            ("text/html", Progress::Done)
        );
    }
}

#[test]
fn reads_dns_and_its_kin() {
    let question = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03WWW\x07Example\x03org\0\0\x01\0\x01";
    let run = |port| {
        let mut flow = udp(Dialect::Ndpi, port);
        flow.client(question);
        let hints = flow.finish();
        (hints.application.into_owned(), hints.server_name)
    };
    let name = || "www.example.org".to_owned();
    assert_eq!(run(53), ("DNS".to_owned(), name()));
    assert_eq!(run(5353), ("MDNS".to_owned(), name()));
    assert_eq!(run(5355), ("LLMNR".to_owned(), name()));
    let mut flow = tcp(Dialect::Ndpi, 53);
    flow.client(&vector(question));
    assert_eq!(flow.finish().server_name, name());
}

#[test]
fn hears_hosts_introduce_themselves() {
    let mut answer = b"\0\0\x84\0\0\0\0\x02\0\0\0\0".to_vec();
    answer.extend(b"\x04_hap\x04_tcp\x05local\0\0\x0c\0\x01\0\0\0\x78\0\x07\x04Lamp\xc0\x0c");
    answer.extend(b"\x04lamp\xc0\x16\0\x01\x80\x01\0\0\0\x78\0\x04\x0a\0\0\x05");
    let mut flow = Flow::new(Dialect::Ndpi, 17, [5353, 5353]);
    flow.client(&answer);
    let hints = flow.finish();
    assert_eq!(
        (&*hints.server_name, &*hints.host_name),
        ("_hap._tcp.local", "lamp.local")
    );
    assert_eq!(hints.device_hint, "_hap._tcp.local");

    let mut flow = tcp(Dialect::Ndpi, 1883);
    flow.client(b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06lamp-7");
    let hints = flow.finish();
    assert_eq!(
        (&*hints.application, &*hints.device_hint),
        ("MQTT", "lamp-7")
    );

    let mut flow = udp(Dialect::Ndpi, 1900);
    flow.client(
        b"NOTIFY * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nSERVER: Lamp/2 UPnP/1.0\r\n\r\n",
    );
    let hints = flow.finish();
    assert_eq!(
        (&*hints.server_name, &*hints.device_hint),
        ("239.255.255.250", "Lamp/2 UPnP/1.0")
    );
}

#[test]
fn follows_mail_into_tls() {
    for dialect in BOTH {
        let mut flow = tcp(dialect, 587);
        flow.server(b"220 mx.example.net ESMTP\r\n")
            .client(b"EHLO me\r\n");
        flow.server(b"250-mx.example.net\r\n250 STARTTLS\r\n")
            .client(b"STARTTLS\r\n");
        flow.server(b"220 go ahead\r\n")
            .client(&record(22, &client_hello("mail.example.org", 0)));
        let hints = flow.finish();
        assert_eq!((&*hints.application, hints.category), ("SMTPS", "Email"));
        assert_eq!(hints.server_name, "mail.example.org");
        assert!(!hints.client_fingerprint.is_empty());
    }
}

#[test]
fn guesses_by_port_and_network_when_nothing_was_said() {
    let mut flow = tcp(Dialect::Ndpi, 8883);
    flow.client(b"");
    let hints = flow.finish();
    assert_eq!(
        (&*hints.application, hints.confidence),
        ("MQTT", Confidence::Port)
    );
    assert!(hints.guessed);

    let mut dissector = Dissector::default();
    dissector.observe(&Seen {
        forward: true,
        protocol: 6,
        ip_version: 4,
        addresses: [CLIENT, IpAddr::from([8, 8, 8, 8])],
        ports: [40_000, 40_001],
        tcp_flags: 2,
        tcp_sequence: 0,
        payload: &[],
        payload_len: 0,
    });
    let hints = dissector.finish();
    assert_eq!(
        (&*hints.application, hints.confidence.ndpi()),
        ("Google", 7)
    );

    let hints = Dissector::default().finish();
    assert_eq!(
        (&*hints.application, hints.category),
        ("Unknown", "Unspecified")
    );
    assert_eq!(
        (hints.confidence, hints.guessed),
        (Confidence::Unknown, false)
    );
}

#[test]
fn leaves_out_cut_datagrams_as_ndpi_does() {
    let question = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x03org\0\0\x01\0\x01";
    let run = |dialect| {
        let mut dissector = Dissector::new(dialect);
        dissector.observe(&Seen {
            forward: true,
            protocol: 17,
            ip_version: 4,
            addresses: [CLIENT, SERVER],
            ports: [40_000, 53],
            tcp_flags: 0,
            tcp_sequence: 0,
            payload: question,
            payload_len: question.len() + 1,
        });
        dissector.finish().application
    };
    assert_eq!(
        (&*run(Dialect::Ndpi), &*run(Dialect::Standard)),
        ("Unknown", "DNS")
    );
}

#[test]
fn ends_when_nothing_is_found() {
    for (protocol, dialect) in [
        (6, Dialect::Ndpi),
        (17, Dialect::Ndpi),
        (6, Dialect::Standard),
        (17, Dialect::Standard),
    ] {
        let mut flow = Flow::new(dialect, protocol, [40_000, 40_001]);
        for i in 0..40u8 {
            flow.client(&[0x99, i, 0x3c, 0x71]);
        }
        assert_eq!(flow.progress, Progress::Done);
        assert_eq!(flow.finish().application, "Unknown");
    }
}

/// Payloads that get parsers past their first look.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let starts: Vec<Vec<u8>> = vec![
        vec![],
        record(22, &client_hello("example.org", 0)),
        record(22, &server_hello()),
        record(23, &[0; 20]),
        b"GET / HTTP/1.1\r\nHost: ".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Type: ".to_vec(),
        b"SSH-2.0-x\r\n".to_vec(),
        b"220 a b\r\n".to_vec(),
        b"EHLO x\r\n".to_vec(),
        b"STARTTLS\r\n".to_vec(),
        vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0],
        vec![
            0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
        ],
        vec![
            22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20, 1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8,
        ],
        vec![
            0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0xb0,
        ],
        vec![0x80, 0x60, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4],
        vec![0x10, 0x20, 0, 4, b'M', b'Q', b'T', b'T'],
    ];
    let tail = prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..60),
        1 => prop::collection::vec(any::<u8>(), 1200..1500),
    ];
    (
        prop::sample::select(starts),
        tail,
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(mut start, tail, cut, whole)| {
            if !whole {
                start.truncate(cut.index(start.len() + 1));
            }
            start.extend(tail);
            start
        })
}

proptest! {
    #[test]
    fn takes_any_flow(
        standard: bool,
        protocol in prop::sample::select(vec![6u8, 17, 1, 132]),
        port in prop::sample::select(vec![22u16, 25, 53, 67, 80, 88, 137, 138, 161, 443, 993, 1883, 3478, 5353, 5355, 5683, 40_000]),
        packets in prop::collection::vec((any::<bool>(), prop_oneof![Just(None), any::<u32>().prop_map(Some)], payload()), 0..24),
    ) {
        let dialect = if standard { Dialect::Standard } else { Dialect::Ndpi };
        let mut flow = Flow::new(dialect, protocol, [68, port]);
        for (forward, sequence, payload) in packets {
            match sequence {
                Some(sequence) => flow.packet(forward, sequence, &payload),
                None => flow.send(usize::from(!forward), &payload),
            };
        }
        let hints = flow.finish();
        prop_assert!(!hints.application.is_empty() && !hints.category.is_empty());
        prop_assert!(hints.server_name.len() <= 79 * 4);
        prop_assert!(hints.user_agent.len() <= 255 && hints.content_type.len() <= 63);
    }
}
