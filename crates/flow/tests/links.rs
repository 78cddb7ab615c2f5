//! Every link type and every encapsulation below IP: the packet inside is found, and what is none has its reason.

use chaff_abi::Mac;
use chaff_flow::{Ignored, Link, MAX_LABELS, Packet, ParseError, parse};
use proptest::prelude::*;

const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
const C: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
const D: [u8; 6] = [2, 0, 0, 0, 0, 0xd];

/// UDP 5000 -> 53 with a payload of 4 bytes.
const IPV4: [u8; 32] = [
    0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 1, 9, 10, 0, 0, 1, 0x13, 0x88, 0, 53, 0,
    12, 0, 0, 1, 2, 3, 4,
];

fn ipv6() -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
    out.extend([0x20; 16]);
    out.extend([0x21; 16]);
    out.extend(&IPV4[20..]);
    out
}

fn glue(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn read(link: Link, frame: &[u8]) -> Packet<'_> {
    parse(link, frame, frame.len()).unwrap_or_else(|e| panic!("{link:?}: {e}: {frame:02x?}"))
}

fn reason(link: Link, frame: &[u8]) -> Ignored {
    match parse(link, frame, frame.len()) {
        Ok(p) => panic!("{link:?}: {p:?}"),
        Err(e) => e.reason(),
    }
}

/// The frame holds one of the two packets, and all of it.
fn holds(link: Link, frame: &[u8]) {
    let p = read(link, frame);
    assert_eq!(
        (p.key.source_port(), p.key.destination_port()),
        (5000, 53),
        "{link:?}"
    );
    assert_eq!(p.payload, [1, 2, 3, 4], "{link:?}");
    assert_eq!(p.sample.wire as usize, frame.len());
    assert_eq!(
        p.ip_offset + p.sample.bytes as usize,
        frame.len(),
        "{link:?}"
    );
}

fn macs(link: Link, frame: &[u8]) -> [Mac; 2] {
    let p = read(link, frame);
    [p.src_mac, p.dst_mac]
}

#[test]
fn ppp_with_and_without_framing_and_compression() {
    for link in [Link::Ppp, Link::PppSerial] {
        for before in [&[][..], &[0xff, 0x03]] {
            holds(link, &glue(&[before, &[0x00, 0x21], &IPV4]));
            holds(link, &glue(&[before, &[0x21], &IPV4]));
            holds(link, &glue(&[before, &[0x00, 0x57], &ipv6()]));
            holds(link, &glue(&[before, &[0x57], &ipv6()]));
            holds(link, &glue(&[before, &[0x02, 0x81, 0, 1, 1, 64], &IPV4]));
            for control in [[0xc0, 0x21], [0x80, 0x21], [0x80, 0x57], [0xc2, 0x23]] {
                let frame = glue(&[before, &control, &[1, 1, 0, 4]]);
                assert_eq!(reason(link, &frame), Ignored::Control);
            }
            // Compressed datagrams and Van Jacobson headers.
            assert_eq!(
                reason(link, &glue(&[before, &[0x00, 0xfd, 1, 2]])),
                Ignored::NotIp
            );
            assert_eq!(
                reason(link, &glue(&[before, &[0x2d, 1, 2]])),
                Ignored::NotIp
            );
        }
        holds(link, &glue(&[&[0x0f, 0, 8, 0], &IPV4]));
        holds(link, &glue(&[&[0x8f, 0, 0x86, 0xdd], &ipv6()]));
        assert_eq!(reason(link, &[0xff]), Ignored::Malformed);
        assert_eq!(reason(link, &[0xff, 3]), Ignored::Malformed);
    }
}

#[test]
fn cisco_hdlc() {
    holds(Link::CiscoHdlc, &glue(&[&[0x0f, 0, 8, 0], &IPV4]));
    holds(Link::CiscoHdlc, &glue(&[&[0x8f, 0, 0x86, 0xdd], &ipv6()]));
    let slarp = glue(&[&[0x8f, 0, 0x80, 0x35], &[0; 18]]);
    assert_eq!(reason(Link::CiscoHdlc, &slarp), Ignored::Control);
    assert_eq!(
        reason(Link::CiscoHdlc, &[0x8f, 0, 0x20, 0, 1]),
        Ignored::NotIp
    );
}

#[test]
fn loopback_families_of_all_systems() {
    for family in [10u32, 24, 28, 30] {
        holds(Link::Null, &glue(&[&family.to_le_bytes(), &ipv6()]));
        holds(Link::Null, &glue(&[&family.to_be_bytes(), &ipv6()]));
        holds(Link::Loop, &glue(&[&family.to_be_bytes(), &ipv6()]));
    }
    holds(Link::Loop, &glue(&[&[0, 0, 0, 2], &IPV4]));
    assert_eq!(
        reason(Link::Loop, &glue(&[&[2, 0, 0, 0], &IPV4])),
        Ignored::NotIp
    );
    assert_eq!(
        reason(Link::Null, &glue(&[&[7, 0, 0, 0], &IPV4])),
        Ignored::NotIp
    );
}

#[test]
fn raw_ip_of_one_version_takes_no_other() {
    holds(Link::RawIpv4, &IPV4);
    holds(Link::RawIpv6, &ipv6());
    assert_eq!(reason(Link::RawIpv4, &ipv6()), Ignored::Malformed);
    assert_eq!(reason(Link::RawIpv6, &IPV4), Ignored::Malformed);
    assert_eq!(reason(Link::RawIp, &[0x50; 40]), Ignored::Malformed);
}

const SNAP: [u8; 6] = [0xaa, 0xaa, 3, 0, 0, 0];

#[test]
fn ethernet_with_llc_and_snap() {
    let header = [&B[..], &A].concat();
    holds(
        Link::Ethernet,
        &glue(&[&header, &[0, 40], &SNAP, &[8, 0], &IPV4]),
    );
    holds(
        Link::Ethernet,
        &glue(&[&header, &[0, 60], &SNAP, &[0x86, 0xdd], &ipv6()]),
    );
    let bridged = [0xaa, 0xaa, 3, 0, 0, 0xf8, 8, 0];
    holds(Link::Ethernet, &glue(&[&header, &[0, 40], &bridged, &IPV4]));
    holds(
        Link::Ethernet,
        &glue(&[&header, &[0, 35], &[6, 6, 3], &IPV4]),
    );
    let tagged = glue(&[&header, &[0x81, 0, 0, 5, 0, 40], &SNAP, &[8, 0], &IPV4]);
    assert_eq!(read(Link::Ethernet, &tagged).key.vlan_id(), 5);
    for other in [
        &[0x42, 0x42, 3, 0, 0, 0, 0, 0][..],
        &[0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0],
        &[0xaa, 0xaa, 3, 0, 0, 0, 0, 40],
        &[0xff, 0xff, 0, 0],
    ] {
        let frame = glue(&[&header, &[0, 40], other, &[0; 40]]);
        assert_eq!(reason(Link::Ethernet, &frame), Ignored::NotIp);
    }
    // Between length and type.
    let frame = glue(&[&header, &[0x05, 0xe0], &SNAP, &[8, 0], &IPV4]);
    assert_eq!(reason(Link::Ethernet, &frame), Ignored::NotIp);
}

#[test]
fn tags_of_all_kinds_in_any_order() {
    let header = [&B[..], &A].concat();
    for outer in [[0x81, 0], [0x88, 0xa8], [0x91, 0]] {
        for inner in [[0x81, 0], [0x88, 0xa8], [0x91, 0]] {
            let frame = glue(&[
                &header,
                &outer,
                &[0x60, 7],
                &inner,
                &[0xa0, 9],
                &[8, 0],
                &IPV4,
            ]);
            holds(Link::Ethernet, &frame);
            let p = read(Link::Ethernet, &frame);
            assert_eq!((p.key.vlan_id(), p.inner_vlan, p.tags), (7, 9, 2));
        }
    }
}

fn labels(n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for i in 0..n {
        out.extend([0, 1, u8::from(i + 1 == n), 64]);
    }
    out
}

#[test]
fn mpls_label_stacks() {
    let header = [&B[..], &A].concat();
    for ethertype in [[0x88, 0x47], [0x88, 0x48]] {
        for n in [1, 2, MAX_LABELS] {
            holds(
                Link::Ethernet,
                &glue(&[&header, &ethertype, &labels(n), &IPV4]),
            );
            holds(
                Link::Ethernet,
                &glue(&[&header, &ethertype, &labels(n), &ipv6()]),
            );
        }
        let deep = glue(&[&header, &ethertype, &labels(MAX_LABELS + 1), &IPV4]);
        assert_eq!(reason(Link::Ethernet, &deep), Ignored::Malformed);
        let channel = glue(&[&header, &ethertype, &labels(1), &[0x10, 0, 0, 0x21]]);
        assert_eq!(reason(Link::Ethernet, &channel), Ignored::NotIp);
        let endless = glue(&[&header, &ethertype, &[0, 1, 0, 64].repeat(3)]);
        assert_eq!(reason(Link::Ethernet, &endless), Ignored::Malformed);
    }
}

#[test]
fn pppoe_sessions() {
    let header = [&B[..], &A].concat();
    let session = |length: usize| [0x11, 0, 0, 7, 0, length as u8 + 2];
    holds(
        Link::Ethernet,
        &glue(&[&header, &[0x88, 0x64], &session(32), &[0, 0x21], &IPV4]),
    );
    let six = ipv6();
    holds(
        Link::Ethernet,
        &glue(&[
            &header,
            &[0x81, 0, 0, 3, 0x88, 0x64],
            &session(six.len()),
            &[0, 0x57],
            &six,
        ]),
    );
    let echo = glue(&[
        &header,
        &[0x88, 0x64],
        &session(8),
        &[0xc0, 0x21],
        &[9, 0, 0, 8, 1, 2, 3, 4],
    ]);
    assert_eq!(reason(Link::Ethernet, &echo), Ignored::Control);
    let discovery = glue(&[&header, &[0x88, 0x63, 0x11, 9, 0, 0, 0, 0], &[0; 30]]);
    assert_eq!(reason(Link::Ethernet, &discovery), Ignored::Control);
}

#[test]
fn cooked_captures() {
    let sll = |kind: u16, protocol: u16, body: &[u8]| {
        glue(&[
            &[0, 0],
            &kind.to_be_bytes(),
            &[0, 6],
            &A,
            &[0, 0],
            &protocol.to_be_bytes(),
            body,
        ])
    };
    let sll2 = |kind: u16, protocol: u16, body: &[u8]| {
        glue(&[
            &protocol.to_be_bytes(),
            &[0, 0, 0, 0, 0, 3],
            &kind.to_be_bytes(),
            &[0, 6],
            &A,
            &[0, 0],
            body,
        ])
    };
    type Make<'a> = &'a dyn Fn(u16, u16, &[u8]) -> Vec<u8>;
    let both: [(Link, Make<'_>); 2] = [(Link::LinuxSll, &sll), (Link::LinuxSll2, &sll2)];
    for (link, make) in both {
        holds(link, &make(1, 0x0800, &IPV4));
        holds(link, &make(1, 0x86dd, &ipv6()));
        assert_eq!(
            macs(link, &make(1, 0x0800, &IPV4)),
            [Mac(A), Mac::default()]
        );
        let tagged = make(1, 0x8100, &glue(&[&[0, 7, 8, 0], &IPV4]));
        assert_eq!(read(link, &tagged).key.vlan_id(), 7);
        holds(link, &make(1, 4, &glue(&[&SNAP, &[8, 0], &IPV4])));
        let air = glue(&[&[0, 0, 8, 0, 0, 0, 0, 0], &wifi(0x08, 0x02, &[], &IPV4)]);
        holds(link, &make(803, 4, &air));
        assert_eq!(reason(link, &make(824, 0x0800, &IPV4)), Ignored::NotIp);
        assert_eq!(reason(link, &make(1, 1, &IPV4)), Ignored::NotIp);
        assert_eq!(reason(link, &make(1, 0x0806, &[0; 28])), Ignored::NotIp);
    }
}

/// An 802.11 frame with three addresses (A, B, C), `more` behind them, and SNAP.
fn wifi(kind: u8, flags: u8, more: &[u8], ip: &[u8]) -> Vec<u8> {
    glue(&[
        &[kind, flags, 0, 0],
        &A,
        &B,
        &C,
        &[0x10, 0],
        more,
        &SNAP,
        if ip[0] >> 4 == 4 {
            &[8, 0]
        } else {
            &[0x86, 0xdd]
        },
        ip,
    ])
}

#[test]
fn wifi_addresses_by_direction() {
    let link = Link::Ieee80211;
    for (flags, source, destination) in [(0, B, A), (2, C, A), (1, B, C)] {
        let frame = wifi(0x08, flags, &[], &IPV4);
        holds(link, &frame);
        assert_eq!(macs(link, &frame), [Mac(source), Mac(destination)]);
    }
    let relayed = wifi(0x08, 3, &D, &ipv6());
    holds(link, &relayed);
    assert_eq!(macs(link, &relayed), [Mac(D), Mac(C)]);
}

#[test]
fn wifi_quality_of_service() {
    let link = Link::Ieee80211;
    holds(link, &wifi(0x88, 2, &[0, 0], &IPV4));
    // With the high-throughput control field, and with four addresses.
    holds(link, &wifi(0x88, 0x82, &[0, 0, 1, 2, 3, 4], &IPV4));
    holds(link, &wifi(0x88, 3, &[2, 0, 0, 0, 0, 0xd, 5, 0], &IPV4));
    // An aggregate: the first part has addresses of its own.
    let mut part = vec![0x80, 0];
    part.extend(D);
    part.extend(B);
    part.extend([0, 40]);
    let frame = wifi(0x88, 2, &part, &IPV4);
    holds(link, &frame);
    assert_eq!(macs(link, &frame), [Mac(B), Mac(D)]);
}

#[test]
fn wifi_frames_without_a_packet_say_why() {
    let link = Link::Ieee80211;
    for kind in [0x80, 0x40, 0xb4, 0xd4, 0x48, 0xc8] {
        assert_eq!(
            reason(link, &wifi(kind, 0, &[], &IPV4)),
            Ignored::Control,
            "{kind:#x}"
        );
    }
    assert_eq!(reason(link, &[0xd4, 0, 0, 0]), Ignored::Control);
    assert_eq!(
        reason(link, &wifi(0x08, 0x42, &[], &IPV4)),
        Ignored::Encrypted
    );
    let mut later = wifi(0x08, 2, &[], &IPV4);
    later[22] |= 3;
    assert_eq!(reason(link, &later), Ignored::LinkFragment);
    let mut eapol = wifi(0x08, 2, &[], &IPV4);
    eapol[30..32].copy_from_slice(&[0x88, 0x8e]);
    assert_eq!(reason(link, &eapol), Ignored::NotIp);
    assert_eq!(reason(link, &[0x08, 2, 0, 0]), Ignored::Malformed);
    let frame = wifi(0x08, 2, &[], &IPV4);
    let cut = parse(link, &frame[..20], frame.len()).expect_err("too few bytes");
    assert_eq!(cut.reason(), Ignored::Truncated);
}

#[test]
fn radiotap_headers_of_any_length() {
    let link = Link::Radiotap;
    let frame = wifi(0x88, 2, &[0, 0], &IPV4);
    // No field.
    holds(link, &glue(&[&[0, 0, 8, 0, 0, 0, 0, 0], &frame]));
    // Flags alone; a time stamp before them; two presence words, the time stamp aligned to 8.
    let plain = |flags: u8| vec![0, 0, 9, 0, 2, 0, 0, 0, flags];
    let stamped = |flags: u8| glue(&[&[0, 0, 17, 0, 3, 0, 0, 0], &[9; 8], &[flags]]);
    let two_words = |flags: u8| {
        glue(&[
            &[0, 0, 25, 0, 3, 0, 0, 0x80, 0, 0, 0, 0],
            &[0; 4],
            &[9; 8],
            &[flags],
        ])
    };
    for header in [&plain as &dyn Fn(u8) -> Vec<u8>, &stamped, &two_words] {
        holds(link, &glue(&[&header(0), &frame]));
        holds(link, &glue(&[&header(0x10), &frame]));
        assert_eq!(
            reason(link, &glue(&[&header(0x40), &frame])),
            Ignored::BadFcs
        );
        assert_eq!(
            reason(link, &glue(&[&header(0x50), &frame])),
            Ignored::BadFcs
        );
        // The header of 26 bytes is filled up to 28.
        let padded = wifi(0x88, 2, &[0, 0, 0, 0], &IPV4);
        holds(link, &glue(&[&header(0x20), &padded]));
    }
    assert_eq!(
        reason(link, &glue(&[&[0, 0, 7, 0, 0, 0, 0, 0], &frame])),
        Ignored::Malformed
    );
    assert_eq!(
        reason(link, &glue(&[&[0, 0, 255, 0, 0, 0, 0, 0], &frame])),
        Ignored::Malformed
    );
}

#[test]
fn reasons_are_numbered_named_and_distinct() {
    let mut names: Vec<&str> = Ignored::ALL.iter().map(|r| r.name()).collect();
    assert!(Ignored::ALL.iter().enumerate().all(|(i, r)| r.index() == i));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Ignored::ALL.len());
    assert_eq!(
        parse(Link::Other(147), &IPV4, 32),
        Err(ParseError::Link { link_type: 147 })
    );
}

/// The beginning of a frame of some link, so that what follows is looked into.
fn beginning() -> impl Strategy<Value = Vec<u8>> {
    let sized = |n: usize| prop::collection::vec(any::<u8>(), n);
    prop_oneof![
        sized(0),
        (
            sized(12),
            prop::sample::select(vec![0x0800u16, 0x86dd, 0x8100, 0x88a8, 0x8847, 0x8864, 40])
        )
            .prop_map(|(macs, t)| [&macs[..], &t.to_be_bytes()].concat()),
        Just(vec![0xff, 3]),
        Just(vec![0x0f, 0, 8, 0]),
        Just(vec![2, 0, 0, 0]),
        (
            prop::sample::select(vec![0x08u8, 0x88, 0x80]),
            any::<u8>(),
            sized(22)
        )
            .prop_map(|(kind, flags, rest)| [&[kind, flags][..], &rest].concat()),
        (8..40u8, any::<[u8; 4]>(), sized(30)).prop_map(|(n, present, rest)| [
            &[0, 0, n, 0][..],
            &present,
            &rest
        ]
        .concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_frame_of_any_link_makes_it_panic(
        start in beginning(),
        middle in prop::sample::select(vec![vec![], SNAP.to_vec(), vec![8, 0], vec![0, 0x21], vec![0, 0, 1, 64]]),
        ip in prop::sample::select(vec![vec![], IPV4.to_vec(), ipv6()]),
        rest in prop::collection::vec(any::<u8>(), 0..60),
        wire in 0..200usize,
    ) {
        let frame = glue(&[&start, &middle, &ip, &rest]);
        for link in Link::ALL.into_iter().chain([Link::Other(7)]) {
            for wire in [wire, frame.len()] {
                match parse(link, &frame, wire) {
                    Ok(p) => {
                        prop_assert!(p.payload.len() <= p.sample.payload as usize);
                        prop_assert!(p.sample.payload <= p.sample.bytes);
                        prop_assert!(p.ip_offset + p.sample.bytes as usize <= wire.max(frame.len()));
                    }
                    Err(e) => prop_assert!(!e.to_string().is_empty() && !e.reason().name().is_empty()),
                }
            }
        }
    }
}
