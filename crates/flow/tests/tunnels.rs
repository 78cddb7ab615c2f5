//! Wrapping a packet into tunnels and parsing gives the packet; what is not a tunnel stays the outer packet.

use chaff_abi::{Mac, Nanos};
use chaff_flow::{
    Fragment, Link, MAX_DEPTH, Packet, Parser, ParserConfig, Table, TableConfig, TunnelKind, parse,
};
use chaff_test_support::frame;
use proptest::prelude::*;

const INNER_SRC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const INNER_DST: [u8; 6] = [2, 0, 0, 0, 1, 2];
const OUTER_SRC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUTER_DST: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn ip(v6: bool, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if v6 {
        out.extend([0x60, 0, 0, 0]);
        out.extend((body.len() as u16).to_be_bytes());
        out.extend([protocol, 60]);
        out.extend([0x20; 16]);
        out.extend([0x21; 16]);
    } else {
        out.extend([0x45, 0]);
        out.extend((body.len() as u16 + 20).to_be_bytes());
        out.extend([0, 9, 0x40, 0, 60, protocol, 0, 0, 10, 9, 9, 1, 10, 9, 9, 2]);
    }
    out.extend(body);
    out
}

fn udp(src: u16, dst: u16, body: &[u8]) -> Vec<u8> {
    frame::udp([src, dst], body)
}

fn ethernet(ip: &[u8]) -> Vec<u8> {
    frame::ethernet([INNER_DST, INNER_SRC], frame::ethertype(ip), ip)
}

fn outer_frame(ip: &[u8]) -> Vec<u8> {
    let mut out = ethernet(ip);
    out[..6].copy_from_slice(&OUTER_DST);
    out[6..12].copy_from_slice(&OUTER_SRC);
    out
}

fn wifi(ip: &[u8], swapped: bool) -> Vec<u8> {
    let mut out = vec![0x88, 0x02, 0, 0];
    if swapped {
        out.swap(0, 1);
    }
    out.extend(INNER_DST);
    out.extend([7; 6]);
    out.extend(INNER_SRC);
    out.extend([0, 0, 0, 0]);
    out.extend([0xaa, 0xaa, 3, 0, 0, 0]);
    out.extend(&ethernet(ip)[12..]);
    out
}

fn ppp(ip: &[u8]) -> [u8; 2] {
    if ip[0] >> 4 == 4 {
        [0, 0x21]
    } else {
        [0, 0x57]
    }
}

/// Every way in which a packet is put into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Ip,
    MplsInIp,
    Gre,
    GreAllFields,
    GreEthernet,
    GrePptp,
    ErspanI,
    ErspanII,
    ErspanIII,
    Vxlan,
    VxlanOldPort,
    VxlanGpe,
    Geneve,
    GeneveIp,
    GtpU,
    GtpUExtended,
    Teredo,
    TeredoBoth,
    L2tp,
    L2tpAllFields,
    L2tp3Udp,
    L2tp3Ip,
    L2tp3Cookie,
    Capwap,
    CapwapWifi,
    CapwapSwapped,
    Tzsp,
    TzspTagsWifi,
    EtherIp,
}

const WAYS: [Way; 29] = [
    Way::Ip,
    Way::MplsInIp,
    Way::Gre,
    Way::GreAllFields,
    Way::GreEthernet,
    Way::GrePptp,
    Way::ErspanI,
    Way::ErspanII,
    Way::ErspanIII,
    Way::Vxlan,
    Way::VxlanOldPort,
    Way::VxlanGpe,
    Way::Geneve,
    Way::GeneveIp,
    Way::GtpU,
    Way::GtpUExtended,
    Way::Teredo,
    Way::TeredoBoth,
    Way::L2tp,
    Way::L2tpAllFields,
    Way::L2tp3Udp,
    Way::L2tp3Ip,
    Way::L2tp3Cookie,
    Way::Capwap,
    Way::CapwapWifi,
    Way::CapwapSwapped,
    Way::Tzsp,
    Way::TzspTagsWifi,
    Way::EtherIp,
];

impl Way {
    /// The outer IP packet around an inner one; kind and network number that the parser should tell, and whether the inner
    /// packet has MAC addresses of its own.
    fn wrap(self, v6: bool, inner: &[u8]) -> (Vec<u8>, TunnelKind, u32, bool) {
        let frame = ethernet(inner);
        let over_udp = |src, dst, header: &[u8], body: &[u8]| {
            ip(v6, 17, &udp(src, dst, &[header, body].concat()))
        };
        let over =
            |protocol, header: &[u8], body: &[u8]| ip(v6, protocol, &[header, body].concat());
        let t = frame::ethertype(inner).to_be_bytes();
        let vni = [0x08, 0, 0, 0, 0x01, 0x02, 0x03, 0];
        match self {
            Self::Ip => {
                let protocol = if inner[0] >> 4 == 4 { 4 } else { 41 };
                (over(protocol, &[], inner), TunnelKind::Ip, 0, false)
            }
            Self::MplsInIp => (
                over(137, &[0, 0, 0, 9, 0, 1, 1, 9], inner),
                TunnelKind::Ip,
                0,
                false,
            ),
            Self::Gre => (
                over(47, &[0, 0, t[0], t[1]], inner),
                TunnelKind::Gre,
                0,
                false,
            ),
            Self::GreAllFields => (
                over(
                    47,
                    &[0xb0, 0, t[0], t[1], 1, 2, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1],
                    inner,
                ),
                TunnelKind::Gre,
                0,
                false,
            ),
            Self::GreEthernet => (
                over(47, &[0x20, 0, 0x65, 0x58, 0, 0x12, 0x34, 1], &frame),
                TunnelKind::Gre,
                0x1234,
                true,
            ),
            Self::GrePptp => {
                let p = ppp(inner);
                let n = inner.len() as u8;
                (
                    over(
                        47,
                        &[
                            0x30, 0x81, 0x88, 0x0b, 0, n, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0xff, 3,
                            p[0], p[1],
                        ],
                        inner,
                    ),
                    TunnelKind::Gre,
                    0,
                    false,
                )
            }
            Self::ErspanI => (
                over(47, &[0, 0, 0x88, 0xbe], &frame),
                TunnelKind::Erspan,
                0,
                true,
            ),
            Self::ErspanII => (
                over(
                    47,
                    &[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 1, 0, 2, 0, 0, 0, 3],
                    &frame,
                ),
                TunnelKind::Erspan,
                0,
                true,
            ),
            Self::ErspanIII => (
                over(
                    47,
                    &[
                        0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 1, 9,
                        9, 9, 9, 9, 9, 9, 9,
                    ],
                    &frame,
                ),
                TunnelKind::Erspan,
                0,
                true,
            ),
            Self::Vxlan => (
                over_udp(50_000, 4789, &vni, &frame),
                TunnelKind::Vxlan,
                0x010203,
                true,
            ),
            Self::VxlanOldPort => (
                over_udp(50_000, 8472, &vni, &frame),
                TunnelKind::Vxlan,
                0x010203,
                true,
            ),
            Self::VxlanGpe => {
                let next = if inner[0] >> 4 == 4 { 1 } else { 2 };
                (
                    over_udp(50_000, 4790, &[0x0c, 0, 0, next, 0, 0, 9, 0], inner),
                    TunnelKind::Vxlan,
                    9,
                    false,
                )
            }
            Self::Geneve => (
                over_udp(
                    50_000,
                    6081,
                    &[2, 0, 0x65, 0x58, 0, 0, 77, 0, 1, 2, 3, 1, 4, 5, 6, 7],
                    &frame,
                ),
                TunnelKind::Geneve,
                77,
                true,
            ),
            Self::GeneveIp => (
                over_udp(50_000, 6081, &[0, 0, t[0], t[1], 0, 0, 78, 0], inner),
                TunnelKind::Geneve,
                78,
                false,
            ),
            Self::GtpU => (
                over_udp(2152, 2152, &[0x30, 255, 0, 0, 0, 0, 0, 1], inner),
                TunnelKind::GtpU,
                0,
                false,
            ),
            Self::GtpUExtended => (
                over_udp(
                    40_000,
                    2152,
                    &[
                        0x34, 255, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0x10, 1, 0xc0, 2, 1, 2, 3,
                        4, 5, 6, 0,
                    ],
                    inner,
                ),
                TunnelKind::GtpU,
                0,
                false,
            ),
            // Teredo carries IPv6 only.
            Self::Teredo | Self::TeredoBoth if inner[0] >> 4 == 4 => Self::Ip.wrap(v6, inner),
            Self::Teredo => (
                over_udp(3544, 50_000, &[], inner),
                TunnelKind::Teredo,
                0,
                false,
            ),
            Self::TeredoBoth => {
                let mut header = vec![0, 1, 2, 3, 0, 0, 9, 9, 9];
                header.extend([1; 8]);
                header.push(0);
                header.extend([0, 0, 1, 2, 3, 4, 5, 6]);
                (
                    over_udp(50_000, 3544, &header, inner),
                    TunnelKind::Teredo,
                    0,
                    false,
                )
            }
            Self::L2tp => {
                let p = ppp(inner);
                (
                    over_udp(1701, 1701, &[0, 2, 0, 1, 0, 2, 0xff, 3, p[0], p[1]], inner),
                    TunnelKind::L2tp,
                    0,
                    false,
                )
            }
            Self::L2tpAllFields => {
                let p = ppp(inner);
                let header = [
                    0x4a, 2, 0, 0, 0, 1, 0, 2, 0, 5, 0, 6, 0, 3, 0, 0, 0, p[0], p[1],
                ];
                (
                    over_udp(1701, 1701, &header, inner),
                    TunnelKind::L2tp,
                    0,
                    false,
                )
            }
            Self::L2tp3Udp => (
                over_udp(1701, 1701, &[0, 3, 0, 0, 0, 0, 0, 9], &frame),
                TunnelKind::L2tp,
                0,
                true,
            ),
            Self::L2tp3Ip => (over(115, &[0, 0, 0, 9], &frame), TunnelKind::L2tp, 0, true),
            Self::L2tp3Cookie => (
                over(
                    115,
                    &[
                        0, 0, 0, 9, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0x40, 0, 0, 1,
                    ],
                    &frame,
                ),
                TunnelKind::L2tp,
                0,
                true,
            ),
            Self::Capwap => (
                over_udp(5247, 50_000, &[0, 0x10, 0x02, 0, 0, 0, 0, 0], &frame),
                TunnelKind::Capwap,
                0,
                true,
            ),
            Self::CapwapWifi => {
                let header = [0, 0x20, 0x43, 0x20, 0, 0, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0];
                (
                    over_udp(50_000, 5247, &header, &wifi(inner, false)),
                    TunnelKind::Capwap,
                    0,
                    true,
                )
            }
            Self::CapwapSwapped => (
                over_udp(
                    50_000,
                    5247,
                    &[0, 0x10, 0x43, 0, 0, 0, 0, 0],
                    &wifi(inner, true),
                ),
                TunnelKind::Capwap,
                0,
                // Its addresses are those of the outer frame.
                false,
            ),
            Self::Tzsp => (
                over_udp(50_000, 37008, &[1, 0, 0, 1, 1], &frame),
                TunnelKind::Tzsp,
                0,
                true,
            ),
            Self::TzspTagsWifi => (
                over_udp(
                    50_000,
                    37008,
                    &[1, 1, 0, 18, 0, 10, 1, 0xb0, 13, 4, 1, 1, 1, 1, 1],
                    &wifi(inner, false),
                ),
                TunnelKind::Tzsp,
                0,
                true,
            ),
            Self::EtherIp => (over(97, &[0x30, 0], &frame), TunnelKind::EtherIp, 0, true),
        }
    }
}

/// A packet that is no tunnel: its addresses, ports and payload are random.
fn plain() -> impl Strategy<Value = Vec<u8>> {
    (
        any::<bool>(),
        prop_oneof![3 => Just(17u8), 3 => Just(6), 1 => Just(1), 1 => Just(89)],
        (10_000..30_000u16, 10_000..30_000u16),
        any::<[u8; 32]>(),
        prop::collection::vec(any::<u8>(), 0..100),
    )
        .prop_map(|(v6, protocol, (src, dst), addresses, payload)| {
            let body = match protocol {
                17 => udp(src, dst, &payload),
                6 => {
                    let mut tcp = udp(src, dst, &[])[..4].to_vec();
                    tcp.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
                    tcp.extend(&payload);
                    tcp
                }
                _ => payload,
            };
            let mut out = ip(v6, protocol, &body);
            if v6 {
                out[8..40].copy_from_slice(&addresses);
            } else {
                out[12..20].copy_from_slice(&addresses[..8]);
            }
            out
        })
}

fn decode<'a>(link: Link, frame: &'a [u8]) -> Packet<'a> {
    Parser::default()
        .parse(Nanos::ZERO, link, frame, frame.len())
        .unwrap_or_else(|e| panic!("{e}: {frame:02x?}"))
}

/// All that does not say where the packet was.
fn facts<'a>(p: &Packet<'a>) -> (Vec<u8>, u32, u32, u16, u8, &'a [u8]) {
    let key = [&p.key.src[..], &p.key.dst, &p.key.src_port, &p.key.dst_port];
    let key = [&key.concat()[..], &[p.key.protocol, p.key.version]].concat();
    let s = p.sample;
    (key, s.bytes, s.payload, s.tcp_flags, p.ttl, p.payload)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_wrapped_packet_is_found(
        inner in plain(),
        ways in prop::collection::vec((prop::sample::select(WAYS.to_vec()), any::<bool>()), 1..5),
        ether: bool,
    ) {
        let mut packet = inner.clone();
        let mut wanted = (TunnelKind::None, 0);
        let mut own_macs = false;
        // The innermost way is the first: its kind counts, and the innermost network number.
        for (i, (way, v6)) in ways.iter().enumerate() {
            let (outer, kind, network, macs) = way.wrap(*v6, &packet);
            packet = outer;
            if i == 0 { wanted.0 = kind; }
            if wanted.1 == 0 { wanted.1 = network; }
            own_macs |= macs;
        }
        let frame = if ether { outer_frame(&packet) } else { packet };
        let link = if ether { Link::Ethernet } else { Link::RawIp };
        let p = decode(link, &frame);
        let alone = parse(Link::RawIp, &inner, inner.len()).expect("valid");
        prop_assert_eq!(facts(&p), facts(&alone), "{:?}", ways);
        prop_assert_eq!((p.tunnel.kind, p.tunnel.network), wanted, "{:?}", ways);
        prop_assert_eq!(p.tunnel.depth as usize, ways.len());
        prop_assert_eq!(p.sample.wire as usize, frame.len());
        prop_assert_eq!(p.ip_offset + inner.len(), frame.len());
        let macs = if own_macs {
            [Mac(INNER_SRC), Mac(INNER_DST)]
        } else if ether {
            [Mac(OUTER_SRC), Mac(OUTER_DST)]
        } else {
            [Mac::default(); 2]
        };
        prop_assert_eq!([p.src_mac, p.dst_mac], macs);
    }

    /// A cut capture gives the inner packet, a packet around it, or says that it was cut.
    #[test]
    fn a_cut_tunnel_is_a_packet_of_some_depth(
        inner in plain(),
        ways in prop::collection::vec((prop::sample::select(WAYS.to_vec()), any::<bool>()), 1..4),
    ) {
        let mut packet = inner.clone();
        for (way, v6) in &ways {
            packet = way.wrap(*v6, &packet).0;
        }
        for cut in 0..packet.len() {
            match Parser::default().parse(Nanos::ZERO, Link::RawIp, &packet[..cut], packet.len()) {
                Ok(p) => {
                    prop_assert!(p.tunnel.depth as usize <= ways.len());
                    prop_assert!(p.payload.len() <= p.sample.payload as usize);
                    prop_assert!(p.ip_offset + p.sample.bytes as usize <= packet.len());
                }
                Err(e) => prop_assert_eq!(e.reason(), chaff_flow::Ignored::Truncated),
            }
        }
    }

    /// Tunnel headers of any bytes: the outer packet stays when nothing fits.
    #[test]
    fn no_tunnel_makes_it_panic_or_lose_a_packet(
        v6: bool,
        ports in (
            prop::sample::select(vec![1701u16, 2152, 3544, 4789, 4790, 5247, 6081, 8472, 37008, 9]),
            prop::sample::select(vec![1701u16, 2152, 3544, 4789, 4790, 5247, 6081, 8472, 37008, 9]),
        ),
        protocol in prop::sample::select(vec![17u8, 4, 41, 47, 97, 115, 137]),
        header in prop::collection::vec(any::<u8>(), 0..40),
        inner in plain(),
        cut in any::<prop::sample::Index>(),
    ) {
        let body = [header, inner].concat();
        let body = if protocol == 17 { udp(ports.0, ports.1, &body) } else { body };
        let packet = ip(v6, protocol, &body);
        let outer = parse(Link::RawIp, &packet, packet.len()).expect("valid");
        let p = decode(Link::RawIp, &packet);
        prop_assert_eq!(p.sample.wire, outer.sample.wire);
        prop_assert!(p.ip_offset + p.sample.bytes as usize <= packet.len());
        let kept = &packet[..cut.index(packet.len())];
        let _ = Parser::default().parse(Nanos::ZERO, Link::RawIp, kept, packet.len());
    }

    #[test]
    fn without_decoding_the_outer_packet_counts(inner in plain(), way in prop::sample::select(WAYS.to_vec()), v6: bool) {
        let packet = way.wrap(v6, &inner).0;
        let mut parser = Parser::new(ParserConfig { decode_tunnels: false, ..ParserConfig::default() });
        let p = parser.parse(Nanos::ZERO, Link::RawIp, &packet, packet.len()).expect("valid");
        prop_assert_eq!(p, parse(Link::RawIp, &packet, packet.len()).expect("valid"));
        prop_assert_eq!((p.tunnel.kind, p.tunnel.depth, p.ip_offset), (TunnelKind::None, 0, 0));
    }
}

fn small(v6: bool) -> Vec<u8> {
    ip(v6, 17, &udp(5000, 53, &[1, 2, 3, 4]))
}

#[test]
fn nesting_is_followed_to_its_bound() {
    let mut packet = small(false);
    for n in 1..=MAX_DEPTH {
        packet = Way::Ip.wrap(n % 2 == 0, &packet).0;
        assert_eq!(decode(Link::RawIp, &packet).tunnel.depth, n);
    }
    let deeper = Way::Ip.wrap(false, &packet).0;
    let p = decode(Link::RawIp, &deeper);
    assert_eq!((p.tunnel.depth, p.key.protocol), (MAX_DEPTH, 4));
}

#[test]
fn what_a_tunnel_carries_besides_packets_stays_outside() {
    let arp = [&INNER_DST[..], &INNER_SRC, &[8, 6], &[0; 28]].concat();
    let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &arp].concat();
    let cases = [
        // ARP in VXLAN, no VNI flag, an echo request of GTP-U, GTP' of charging, DTLS in CAPWAP, L2TP control.
        udp(50_000, 4789, &vxlan),
        udp(
            50_000,
            4789,
            &[&[0; 8][..], &ethernet(&small(false))].concat(),
        ),
        udp(2152, 2152, &[0x32, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]),
        udp(
            2152,
            2152,
            &[&[0x20, 255, 0, 0, 0, 0, 0, 1][..], &small(false)].concat(),
        ),
        udp(5247, 5247, &[&[1, 0, 0, 0][..], &[0; 40]].concat()),
        udp(1701, 1701, &[0xc8, 2, 0, 12, 0, 1, 0, 0, 0, 0, 0, 0]),
        // A bubble with a length that is not its own.
        udp(
            3544,
            3544,
            &[&[0x60, 0, 0, 0, 0, 99, 59, 21][..], &[1; 32]].concat(),
        ),
    ];
    for body in cases {
        let packet = ip(false, 17, &body);
        let p = decode(Link::RawIp, &packet);
        assert_eq!(
            (p.tunnel.kind, p.ip_offset),
            (TunnelKind::None, 0),
            "{body:02x?}"
        );
        assert_eq!(p.sample.bytes as usize, packet.len());
    }
    // Keep-alives of GRE, and an L2TP session of control messages.
    for (protocol, body) in [(47, vec![0, 0, 0, 0]), (115, vec![0, 0, 0, 0, 1, 2, 3, 4])] {
        let packet = ip(false, protocol, &body);
        let p = decode(Link::RawIp, &packet);
        assert_eq!(
            (p.tunnel.kind, p.key.protocol),
            (TunnelKind::None, protocol)
        );
    }
}

#[test]
fn a_tag_inside_a_tunnel_counts_as_the_vlan() {
    let mut frame = ethernet(&small(false));
    frame.splice(12..12, [0x81, 0, 0, 9]);
    let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &frame].concat();
    let mut outer = outer_frame(&ip(false, 17, &udp(50_000, 4789, &vxlan)));
    outer.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(decode(Link::Ethernet, &outer).key.vlan_id(), 9);
    // IP directly in IP leaves the link as it was.
    let mut outer = outer_frame(&Way::Ip.wrap(false, &small(true)).0);
    outer.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(decode(Link::Ethernet, &outer).key.vlan_id(), 5);
}

#[test]
fn a_pseudowire_in_mpls_holds_ethernet() {
    let labels = [
        &OUTER_DST[..],
        &OUTER_SRC,
        &[0x88, 0x47, 0, 1, 1, 64, 0, 0, 0, 0],
    ]
    .concat();
    let frame = [&labels[..], &ethernet(&small(true))].concat();
    let p = decode(Link::Ethernet, &frame);
    assert_eq!((p.tunnel.kind, p.tunnel.depth), (TunnelKind::Pseudowire, 1));
    assert_eq!((p.src_mac, p.key.destination_port()), (Mac(INNER_SRC), 53));
    assert!(parse(Link::Ethernet, &frame, frame.len()).is_err());
}

/// Fragments of an IPv4 packet: the first `cut` bytes of its body, a multiple of 8, and the rest.
fn fragmented(id: u8, body: &[u8], protocol: u8, cut: usize) -> [Vec<u8>; 2] {
    let mut first = ip(false, protocol, &body[..cut]);
    first[5] = id;
    first[6] = 0x20;
    let mut later = ip(false, protocol, &body[cut..]);
    later[5] = id;
    later[6..8].copy_from_slice(&(cut as u16 / 8).to_be_bytes());
    [first, later]
}

#[test]
fn later_fragments_join_the_flow_of_the_first() {
    let [first, later] = fragmented(7, &udp(5000, 53, &[9; 100]), 17, 56);
    let mut parser = Parser::default();
    let mut read = |at: u64, frame: &[u8]| {
        let p = parser
            .parse(Nanos::from_secs(at), Link::RawIp, frame, frame.len())
            .expect("valid");
        (p.fragment, p.key.source_port(), p.key.destination_port())
    };
    assert_eq!(read(0, &later), (Fragment::Later, 0, 0));
    assert_eq!(read(0, &first), (Fragment::First, 5000, 53));
    assert_eq!(read(0, &later), (Fragment::Later, 5000, 53));
    assert_eq!(read(60, &later), (Fragment::Later, 5000, 53));
    assert_eq!(read(61, &later), (Fragment::Later, 0, 0));
    let [_, stranger] = fragmented(8, &udp(5000, 53, &[9; 100]), 17, 56);
    assert_eq!(read(61, &stranger), (Fragment::Later, 0, 0));
    assert_eq!(parser.joined_fragments(), 2);
    let mut plain = Parser::new(ParserConfig::PLAIN);
    for frame in [&first, &later] {
        let p = plain
            .parse(Nanos::ZERO, Link::RawIp, frame, frame.len())
            .expect("valid");
        assert_eq!(p, parse(Link::RawIp, frame, frame.len()).expect("valid"));
    }
}

#[test]
fn ipv6_fragments_join_behind_options() {
    let body = udp(5000, 53, &[9; 40]);
    let part = |offset: u16, more: u16, next: u8, bytes: &[u8]| {
        let field = (offset | more).to_be_bytes();
        let header = [&[next, 0][..], &field, &[0, 0, 0, 77]].concat();
        ip(true, 44, &[&header, bytes].concat())
    };
    // The first one has destination options, so the later one does not know the transport protocol.
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    let first = part(0, 1, 60, &[&options[..], &body[..16]].concat());
    let later = part(24, 0, 60, &body[16..]);
    let mut parser = Parser::default();
    for frame in [&first, &later] {
        let p = parser
            .parse(Nanos::ZERO, Link::RawIp, frame, frame.len())
            .expect("valid");
        assert_eq!((p.key.protocol, p.key.source_port()), (17, 5000));
    }
}

#[test]
fn of_a_fragmented_tunnel_packet_the_first_part_counts_for_the_inner_flow() {
    let inner = ip(false, 17, &udp(5000, 53, &[5; 400]));
    let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &ethernet(&inner)].concat();
    let [first, later] = fragmented(3, &udp(50_000, 4789, &vxlan), 17, 160);
    let mut parser = Parser::default();
    let mut table = Table::new(TableConfig::default());
    for frame in [&first, &later] {
        let p = parser
            .parse(Nanos::ZERO, Link::RawIp, frame, frame.len())
            .expect("valid");
        table.observe(Nanos::ZERO, None, &p);
    }
    table.finish(Nanos::ZERO);
    let records: Vec<_> = std::iter::from_fn(|| table.poll_record()).collect();
    let of = |r: &chaff_flow::Record| {
        (
            r.key.destination_port(),
            r.packets(),
            r.bytes() as usize,
            r.forward.payload,
        )
    };
    assert_eq!(records.len(), 2);
    assert_eq!(of(&records[0]), (53, 1, inner.len(), 400));
    assert_eq!(of(&records[1]).0, 4789);
}

#[test]
fn fragment_memory_is_bounded_and_forgets_the_oldest() {
    let mut parser = Parser::new(ParserConfig {
        fragments: 8,
        ..ParserConfig::default()
    });
    let mut joined = 0;
    for round in 0..50u8 {
        let [first, later] = fragmented(round, &udp(5000, 53, &[9; 100]), 17, 56);
        for (frame, is_later) in [(&first, false), (&later, true)] {
            let p = parser
                .parse(Nanos(round.into()), Link::RawIp, frame, frame.len())
                .expect("valid");
            joined += u64::from(is_later && p.key.source_port() == 5000);
        }
    }
    assert_eq!(joined, 50);
    // All 50 first fragments again, then the later ones: no more than there are places can be known.
    for round in 0..50u8 {
        let [first, _] = fragmented(round, &udp(5000, 53, &[9; 100]), 17, 56);
        let _ = parser.parse(Nanos(100), Link::RawIp, &first, first.len());
    }
    let before = parser.joined_fragments();
    for round in 0..50u8 {
        let [_, later] = fragmented(round, &udp(5000, 53, &[9; 100]), 17, 56);
        let _ = parser.parse(Nanos(100), Link::RawIp, &later, later.len());
    }
    assert!(parser.joined_fragments() - before <= 8);
}

#[test]
fn tunnels_of_other_ends_or_keys_are_other_flows() {
    let gre = |from: u8, to: u8, key: u32, back: bool| {
        let mut inner = ip(false, 17, &udp(5000, 53, &[5; 8]));
        if back {
            inner = ip(false, 17, &udp(53, 5000, &[5; 8]));
            let (source, destination) = (inner[12..16].to_vec(), inner[16..20].to_vec());
            inner[12..16].copy_from_slice(&destination);
            inner[16..20].copy_from_slice(&source);
        }
        let header = [&[0x20, 0, 8, 0][..], &key.to_be_bytes()].concat();
        let mut outer = ip(false, 47, &[header, inner].concat());
        outer[12..20].copy_from_slice(&[9, 9, 9, from, 9, 9, 9, to]);
        outer
    };
    let mut parser = Parser::default();
    let mut table = Table::new(TableConfig::default());
    let frames = [
        gre(1, 2, 1, false),
        gre(3, 2, 1, false),
        gre(1, 2, 7, false),
        // The answer, and the same conversation mirrored: both ends count, not their order.
        gre(2, 1, 1, true),
        gre(1, 2, 1, true),
    ];
    for frame in &frames {
        let p = parser
            .parse(Nanos::ZERO, Link::RawIp, frame, frame.len())
            .expect("valid");
        table.observe(Nanos::ZERO, None, &p);
    }
    table.finish(Nanos::ZERO);
    let got: Vec<_> = std::iter::from_fn(|| table.poll_record())
        .map(|r| {
            let outer = r.outer.expect("a tunnel");
            let ends = (outer.source().to_string(), outer.destination().to_string());
            (ends, r.tunnel.id, r.forward.packets, r.backward.packets)
        })
        .collect();
    let ends = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        got,
        [
            (ends("9.9.9.1", "9.9.9.2"), 1, 1, 2),
            (ends("9.9.9.3", "9.9.9.2"), 1, 1, 0),
            (ends("9.9.9.1", "9.9.9.2"), 7, 1, 0),
        ]
    );
}
