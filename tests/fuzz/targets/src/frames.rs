//! Frames made layer by layer from the inside out: what the seeds of packet targets are made of.

use chaff_flow::Link;
use chaff_test_support::frame;
pub(crate) use chaff_test_support::frame::{tcp, udp};

const A4: [u8; 4] = [192, 168, 7, 10];
const B4: [u8; 4] = [198, 51, 100, 20];
const A6: [u8; 16] = [0xfd, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10];
const B6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20];
const MACS: [[u8; 6]; 2] = [[2, 0, 0x5e, 0x10, 0, 1], [2, 0, 0x5e, 0x10, 0, 2]];

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// `head` and then `rest`.
pub(crate) fn join(head: &[u8], rest: &[u8]) -> Vec<u8> {
    [head, rest].concat()
}

pub(crate) fn ipv4(protocol: u8, fragment: u16, options: &[u8], rest: &[u8]) -> Vec<u8> {
    frame::ipv4([A4, B4], protocol, fragment, options, rest)
}

pub(crate) fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    frame::ipv6([A6, B6], next, rest)
}

/// An IPv6 extension header of 8 bytes.
fn extension(next: u8, rest: &[u8]) -> Vec<u8> {
    join(&[next, 0, 1, 4, 0, 0, 0, 0], rest)
}

pub(crate) fn ethernet(ethertype: u16, rest: &[u8]) -> Vec<u8> {
    frame::ethernet(MACS, ethertype, rest)
}

fn tag(kind: u16, id: u16, rest: &[u8]) -> Vec<u8> {
    // The ethertype of what follows stands behind the tag.
    let mut out = MACS.concat();
    out.extend(kind.to_be_bytes());
    out.extend(id.to_be_bytes());
    join(&out, &rest[12..])
}

pub(crate) fn dns_query() -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["hub", "example"] {
        out.push(label.len() as u8);
        out.extend(label.bytes());
    }
    out.extend([0, 0, 1, 0, 1]);
    out
}

/// Named frames of every kind that a parser tells apart.
pub(crate) fn all() -> Vec<(String, Link, Vec<u8>)> {
    let dns = udp([40_000, 53], &dns_query());
    let web = tcp(
        [40_001, 80],
        0x18,
        &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        b"GET / HTTP/1.1\r\n\r\n",
    );
    let syn = tcp([40_002, 443], 2, &[2, 4, 5, 0xb4], b"");
    let (dns4, dns6) = (ipv4(17, 0, &[], &dns), ipv6(17, &dns));
    let (web4, web6) = (ipv4(6, 0x4000, &[], &web), ipv6(6, &web));
    let inner = ethernet(IPV4, &dns4);
    let ping = [8, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3, 4];

    let mut ether: Vec<(&str, Vec<u8>)> = vec![
        ("v4-udp", ethernet(IPV4, &dns4)),
        ("v4-tcp", ethernet(IPV4, &web4)),
        ("v4-syn", ethernet(IPV4, &ipv4(6, 0, &[7, 4, 0, 0], &syn))),
        ("v4-icmp", ethernet(IPV4, &ipv4(1, 0, &[], &ping))),
        (
            "v4-first-fragment",
            ethernet(IPV4, &ipv4(17, 0x2000, &[], &dns)),
        ),
        (
            "v4-later-fragment",
            ethernet(IPV4, &ipv4(17, 0x2005, &[], &ping)),
        ),
        ("v6-udp", ethernet(IPV6, &dns6)),
        ("v6-tcp", ethernet(IPV6, &web6)),
        ("v6-icmp", ethernet(IPV6, &ipv6(58, &ping))),
        (
            "v6-hop",
            ethernet(IPV6, &ipv6(0, &extension(60, &extension(17, &dns)))),
        ),
        ("v6-routing", ethernet(IPV6, &ipv6(43, &extension(6, &syn)))),
        (
            "v6-first-fragment",
            ethernet(IPV6, &ipv6(44, &join(&[17, 0, 0, 1, 0, 0, 0, 9], &dns))),
        ),
        (
            "v6-later-fragment",
            ethernet(IPV6, &ipv6(44, &join(&[17, 0, 0, 8, 0, 0, 0, 9], &dns))),
        ),
        (
            "v6-authentication",
            ethernet(
                IPV6,
                &ipv6(51, &join(&[17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], &dns)),
            ),
        ),
        ("vlan", tag(0x8100, 5, &inner)),
        ("qinq", tag(0x88a8, 6, &tag(0x8100, 5, &inner))),
        (
            "tags-three",
            tag(0x9100, 7, &tag(0x8100, 6, &tag(0x8100, 5, &inner))),
        ),
        (
            "mpls",
            ethernet(0x8847, &join(&[0, 1, 0, 64, 0, 2, 1, 64], &dns4)),
        ),
        (
            "pppoe",
            ethernet(0x8864, &join(&[0x11, 0, 0, 1, 0, 44, 0, 0x21], &dns4)),
        ),
        (
            "llc-snap",
            ethernet(60, &join(&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &dns4)),
        ),
        ("stp", ethernet(38, &[0x42, 0x42, 3, 0, 0, 0, 0, 0])),
        (
            "arp",
            ethernet(0x0806, &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2]),
        ),
        ("ipip", ethernet(IPV4, &ipv4(4, 0, &[], &dns4))),
        ("6in4", ethernet(IPV4, &ipv4(41, 0, &[], &web6))),
        ("4in6", ethernet(IPV6, &ipv6(4, &web4))),
        ("6in6", ethernet(IPV6, &ipv6(41, &dns6))),
        (
            "gre",
            ethernet(
                IPV4,
                &ipv4(47, 0, &[], &join(&[0x20, 0, 8, 0, 0, 0, 0, 9], &dns4)),
            ),
        ),
        (
            "gre-teb",
            ethernet(IPV4, &ipv4(47, 0, &[], &join(&[0, 0, 0x65, 0x58], &inner))),
        ),
        (
            "gre-pptp",
            ethernet(
                IPV4,
                &ipv4(
                    47,
                    0,
                    &[],
                    &join(&[0x30, 1, 0x88, 0x0b, 0, 44, 0, 1, 0, 0, 0, 1, 0x21], &dns4),
                ),
            ),
        ),
        (
            "esp",
            ethernet(
                IPV4,
                &ipv4(50, 0, &[], &[0, 0, 1, 0, 0, 0, 0, 1, 9, 9, 9, 9]),
            ),
        ),
    ];
    let tunnels: [(&str, u16, Vec<u8>); 9] = [
        ("vxlan", 4789, join(&[8, 0, 0, 0, 0, 0, 7, 0], &inner)),
        (
            "geneve",
            6081,
            join(&[1, 0, 0x65, 0x58, 0, 0, 7, 0, 0, 1, 1, 0], &inner),
        ),
        ("gtp", 2152, join(&[0x30, 255, 0, 44, 0, 0, 0, 1], &dns4)),
        (
            "gtp-extension",
            2152,
            join(
                &[0x34, 255, 0, 52, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0, 9, 0],
                &dns6,
            ),
        ),
        ("teredo", 3544, dns6.clone()),
        (
            "teredo-origin",
            3544,
            join(&[0, 0, 0x12, 0x34, 1, 2, 3, 4], &dns6),
        ),
        (
            "l2tp",
            1701,
            join(&[0x40, 2, 0, 54, 0, 1, 0, 1, 0xff, 3, 0, 0x21], &dns4),
        ),
        ("tzsp", 37_008, join(&[1, 0, 0, 1, 10, 1, 200, 1], &inner)),
        ("capwap", 5247, capwap(&dns4)),
    ];
    let named: Vec<(String, Vec<u8>)> = tunnels
        .iter()
        .flat_map(|(name, port, body)| {
            let body = udp([50_000, *port], body);
            [
                (
                    format!("{name}-v4"),
                    ethernet(IPV4, &ipv4(17, 0, &[], &body)),
                ),
                (format!("{name}-v6"), ethernet(IPV6, &ipv6(17, &body))),
            ]
        })
        .collect();
    let mut out: Vec<(String, Link, Vec<u8>)> = ether
        .drain(..)
        .map(|(name, frame)| (name.to_owned(), Link::Ethernet, frame))
        .chain(
            named
                .into_iter()
                .map(|(name, frame)| (name, Link::Ethernet, frame)),
        )
        .collect();

    let mut sll = vec![0, 0, 0, 1, 0, 6, 2, 0, 0x5e, 0x10, 0, 2, 0, 0];
    sll.extend(IPV4.to_be_bytes());
    let mut sll2 = IPV6.to_be_bytes().to_vec();
    sll2.extend([0, 0, 0, 0, 0, 2, 0, 1, 4, 6, 2, 0, 0x5e, 0x10, 0, 2, 0, 0]);
    let wifi = wifi(&dns4);
    let radio = join(
        &[
            0, 0, 18, 0, 0x2e, 0x48, 0, 0, 0, 2, 0x6c, 9, 0xc0, 0, 0xd3, 1, 0, 0,
        ],
        &wifi,
    );
    out.extend(
        [
            ("raw-v4", Link::RawIp, dns4.clone()),
            ("raw-v6", Link::RawIp, dns6.clone()),
            ("raw4", Link::RawIpv4, web4.clone()),
            ("raw6", Link::RawIpv6, web6.clone()),
            ("sll", Link::LinuxSll, join(&sll, &dns4)),
            ("sll2", Link::LinuxSll2, join(&sll2, &dns6)),
            ("null-little", Link::Null, join(&[2, 0, 0, 0], &dns4)),
            ("null-big", Link::Null, join(&[0, 0, 0, 30], &dns6)),
            ("loop", Link::Loop, join(&[0, 0, 0, 2], &dns4)),
            ("ppp", Link::Ppp, join(&[0, 0x21], &dns4)),
            ("ppp-hdlc", Link::Ppp, join(&[0xff, 3, 0, 0x57], &dns6)),
            (
                "ppp-serial",
                Link::PppSerial,
                join(&[0xff, 3, 0, 0x21], &dns4),
            ),
            ("cisco", Link::CiscoHdlc, join(&[0x0f, 0, 8, 0], &dns4)),
            ("wifi", Link::Ieee80211, wifi),
            ("radiotap", Link::Radiotap, radio),
            ("other-link", Link::Other(147), dns4),
        ]
        .map(|(name, link, frame)| (name.to_owned(), link, frame)),
    );
    out
}

/// An IEEE 802.11 data frame from a station to its access point.
fn wifi(ip: &[u8]) -> Vec<u8> {
    let mut out = vec![8, 1, 0, 0];
    out.extend([2, 0, 0x5e, 0x10, 0, 9]);
    out.extend([2, 0, 0x5e, 0x10, 0, 2]);
    out.extend([2, 0, 0x5e, 0x10, 0, 1]);
    out.extend([0, 0, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0]);
    join(&out, ip)
}

/// CAPWAP data with an 802.11 frame in it.
fn capwap(ip: &[u8]) -> Vec<u8> {
    join(&[0, 0x10, 2, 0, 0, 0, 0, 0], &wifi(ip))
}

/// Payloads of the protocols that are looked into, with the ports they are seen on.
pub(crate) fn talk() -> Vec<([u16; 2], Vec<u8>)> {
    let mut answer = dns_query();
    answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 20]);
    let mut mdns = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    mdns.extend(b"\x04_hue\x04_tcp\x05local\0\0\x0c\0\x01\0\0\x11\x94\0\x09\x06lamp-1\xc0\x0c");
    vec![
        ([40_000, 53], answer),
        ([5353, 5353], mdns),
        ([40_000, 443], client_hello()),
        ([443, 40_000], server_hello()),
        ([40_000, 4433], dtls_hello()),
        (
            [40_000, 80],
            b"POST /a?b HTTP/1.1\r\nHost: hub.example\r\nUser-Agent: lamp/1.0 (x)\r\nContent-Type: text/plain\r\n\r\nhi".to_vec(),
        ),
        (
            [80, 40_000],
            b"HTTP/1.1 200 OK\r\nServer: hub\r\nContent-Type: application/json; charset=utf-8\r\n\r\n{}".to_vec(),
        ),
        ([40_000, 22], b"SSH-2.0-lamp_1.0\r\n".to_vec()),
        ([40_000, 22], kex_init()),
        ([68, 67], dhcp()),
        ([137, 137], netbios()),
        (
            [50_000, 1900],
            b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nST: ssdp:all\r\n\r\n".to_vec(),
        ),
        ([40_000, 1883], b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06lamp-1".to_vec()),
        ([40_000, 5683], b"\x40\x01\x12\x34\xb4test\x05state".to_vec()),
        ([123, 123], [&[0x23, 0, 6, 0xec][..], &[0; 44]].concat()),
    ]
}

fn tls_extension(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.extend((body.len() as u16).to_be_bytes());
    join(&out, body)
}

/// Length of `body` in two bytes, then `body`.
fn vector(body: &[u8]) -> Vec<u8> {
    join(&(body.len() as u16).to_be_bytes(), body)
}

fn hello_body(version: [u8; 2], cookie: &[u8]) -> Vec<u8> {
    let mut out = version.to_vec();
    out.extend([7; 32]);
    out.push(0);
    out.extend(cookie);
    out.extend(vector(&[0x0a, 0x0a, 0x13, 1, 0x13, 2, 0xc0, 0x2b]));
    out.extend([1, 0]);
    let extensions = [
        tls_extension(0, &vector(&join(&[0], &vector(b"hub.example")))),
        tls_extension(10, &vector(&[0, 29, 0, 23])),
        tls_extension(11, &[1, 0]),
        tls_extension(13, &vector(&[4, 3, 8, 4])),
        tls_extension(16, &vector(b"\x02h2\x08http/1.1")),
        tls_extension(43, &[4, 3, 4, 3, 3]),
        tls_extension(
            57,
            &[1, 4, 0x80, 0, 0x75, 0x30, 0x31, 0x29, 3, b'l', b'a', b'b'],
        ),
    ]
    .concat();
    out.extend(vector(&extensions));
    out
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    join(
        &[22, 3, 1],
        &vector(&join(
            &join(&[kind, 0], &(body.len() as u16).to_be_bytes()),
            body,
        )),
    )
}

/// A TLS record with a ClientHello.
pub(crate) fn client_hello() -> Vec<u8> {
    handshake(1, &hello_body([3, 3], &[]))
}

fn server_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0x13, 1, 0]);
    let extensions = [
        tls_extension(43, &[3, 4]),
        tls_extension(16, &vector(b"\x02h2")),
    ]
    .concat();
    body.extend(vector(&extensions));
    handshake(2, &body)
}

fn dtls_hello() -> Vec<u8> {
    let body = hello_body([0xfe, 0xfd], &[0]);
    let length = (body.len() as u16).to_be_bytes();
    let mut message = vec![
        1, 0, length[0], length[1], 0, 0, 0, 0, 0, 0, length[0], length[1],
    ];
    message.extend(body);
    join(&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0], &vector(&message))
}

fn kex_init() -> Vec<u8> {
    let mut body = vec![6, 20];
    body.extend([5; 16]);
    for list in [
        "curve25519-sha256,ext-info-c",
        "ssh-ed25519",
        "aes128-ctr",
        "aes256-ctr",
        "hmac-sha2-256",
        "hmac-sha1",
        "none",
        "zlib",
        "",
        "",
    ] {
        body.extend((list.len() as u32).to_be_bytes());
        body.extend(list.bytes());
    }
    body.extend([0; 11]);
    join(&(body.len() as u32).to_be_bytes(), &body)
}

fn dhcp() -> Vec<u8> {
    let mut out = vec![1, 1, 6, 0, 0, 0, 0, 9];
    out.resize(28, 0);
    out.extend([2, 0, 0x5e, 0x10, 0, 1]);
    out.resize(236, 0);
    out.extend([
        0x63, 0x82, 0x53, 0x63, 53, 1, 3, 50, 4, 10, 0, 0, 9, 55, 3, 1, 3, 6, 57, 2, 5, 0xdc,
    ]);
    out.extend(b"\x0c\x04lamp\x3c\x06udhcpc\xff");
    out
}

fn netbios() -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0x10, 0, 1, 0, 0, 0, 0, 0, 0, 32];
    for byte in b"LAMP           \0" {
        out.extend([b'A' + (byte >> 4), b'A' + (byte & 15)]);
    }
    out.extend([0, 0, 32, 0, 1]);
    out
}
