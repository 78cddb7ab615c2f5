//! The programs on crafted frames (BPF_PROG_TEST_RUN), against the same arithmetic on the host.

mod meter_support;

use aya::programs::TestRunOptions;
use chaff_abi::{Counters, Dir, FlowKey, FlowValue, Nanos, Reason, Sample, SlotCounters, program};
use chaff_gateway::datapath::{Meter, MeterError};
use meter_support::*;

const ALL: [&str; 3] = [
    program::XDP_LAN,
    program::TCX_LAN_INGRESS,
    program::TCX_LAN_EGRESS,
];

fn run(m: &mut Meter, name: &str, frame: &[u8]) {
    assert!(try_run(m, name, frame), "the kernel took no such frame");
}

/// Runs a program; `false` when the kernel's test run refuses the frame (classifiers: shorter than its IP header).
fn try_run(m: &mut Meter, name: &str, frame: &[u8]) -> bool {
    let mut o = TestRunOptions::new();
    o.data_in = Some(frame);
    match m.test_run(name, o) {
        Ok(r) => {
            let pass = if name == program::XDP_LAN {
                2
            } else {
                u32::MAX
            };
            assert_eq!(r.return_value, pass, "every frame must pass");
            true
        }
        Err(MeterError::Kernel { .. }) => false,
        Err(e) => panic!("{e:?}"),
    }
}

struct Want {
    what: &'static str,
    frame: Vec<u8>,
    key: FlowKey,
    sample: Sample,
}

fn key(version: u8, protocol: u8, ports: (u16, u16), vlan: u16) -> FlowKey {
    FlowKey {
        src: if version == 4 {
            FlowKey::mapped([192, 168, 7, 2])
        } else {
            V6_SRC
        },
        dst: if version == 4 {
            FlowKey::mapped([203, 0, 113, 9])
        } else {
            V6_DST
        },
        src_port: ports.0.to_be_bytes(),
        dst_port: ports.1.to_be_bytes(),
        vlan: vlan.to_be_bytes(),
        protocol,
        version,
    }
}

fn sample(frame: usize, bytes: u32, payload: u32, tcp_flags: u16) -> Sample {
    Sample {
        wire: frame as u32,
        bytes,
        payload,
        segments: 1,
        tcp_flags,
    }
}

fn want(
    what: &'static str,
    frame: Vec<u8>,
    key: FlowKey,
    bytes: u32,
    payload: u32,
    flags: u16,
) -> Want {
    let sample = sample(frame.len(), bytes, payload, flags);
    Want {
        what,
        frame,
        key,
        sample,
    }
}

fn cases() -> Vec<Want> {
    let ports = (40_000, 443);
    let mut hop = vec![17, 1];
    hop.extend([0; 14]);
    hop.extend(udp(5353, 53, 30));
    let mut chain = vec![60, 0, 0, 0, 0, 0, 0, 0]; // routing -> destination
    chain.extend([51, 0, 0, 0, 0, 0, 0, 0]); // destination -> AH
    chain.extend([6, 4]); // AH, 24 bytes -> TCP
    chain.extend([0; 22]);
    chain.extend(tcp(0x18, &[], 5));
    let mut first6 = vec![17, 0, 0, 1, 0, 0, 0, 9];
    first6.extend(udp(1000, 2000, 40));
    let mut later6 = vec![17, 0, 0, 0x09, 0, 0, 0, 9];
    later6.extend([1; 40]);
    let mut padded = frame(&[], &ipv4(17, 0, &[], &udp(68, 67, 0)));
    padded.resize(60, 0);
    vec![
        want(
            "IPv4 TCP with options",
            frame(&[], &ipv4(6, 0x4000, &[1; 8], &tcp(0x12, &[1; 12], 100))),
            key(4, 6, ports, 0),
            28 + 32 + 100,
            100,
            0x12,
        ),
        want(
            "IPv4 UDP, padded",
            padded,
            key(4, 17, (68, 67), 0),
            28,
            0,
            0,
        ),
        want(
            "IPv4 ICMP",
            frame(&[], &ipv4(1, 0, &[], &[8, 0, 0, 0, 1, 2, 3, 4])),
            key(4, 1, (0, 0), 0),
            28,
            8,
            0,
        ),
        want(
            "IPv4 other protocol",
            frame(&[], &ipv4(47, 0, &[], &[0; 16])),
            key(4, 47, (0, 0), 0),
            36,
            16,
            0,
        ),
        want(
            "IPv4 first fragment",
            frame(&[], &ipv4(17, 0x2000, &[], &udp(7, 9, 24))),
            key(4, 17, (7, 9), 0),
            52,
            24,
            0,
        ),
        want(
            "IPv4 later fragment",
            frame(&[], &ipv4(17, 0x0003, &[], &[9; 24])),
            key(4, 17, (0, 0), 0),
            44,
            24,
            0,
        ),
        want(
            "VLAN",
            frame(&[(0x8100, 0xe064)], &ipv4(17, 0, &[], &udp(7, 9, 10))),
            key(4, 17, (7, 9), 100),
            38,
            10,
            0,
        ),
        want(
            "QinQ",
            frame(
                &[(0x88a8, 200), (0x8100, 100)],
                &ipv6(6, &tcp(0x02, &[], 0)),
            ),
            key(6, 6, ports, 200),
            60,
            0,
            0x02,
        ),
        want(
            "IPv6 UDP",
            frame(&[], &ipv6(17, &udp(5353, 53, 30))),
            key(6, 17, (5353, 53), 0),
            78,
            30,
            0,
        ),
        want(
            "IPv6 hop-by-hop",
            frame(&[], &ipv6(0, &hop)),
            key(6, 17, (5353, 53), 0),
            94,
            30,
            0,
        ),
        want(
            "IPv6 routing, destination, AH",
            frame(&[], &ipv6(43, &chain)),
            key(6, 6, ports, 0),
            40 + 8 + 8 + 24 + 25,
            5,
            0x18,
        ),
        want(
            "IPv6 first fragment",
            frame(&[], &ipv6(44, &first6)),
            key(6, 17, (1000, 2000), 0),
            40 + 8 + 48,
            40,
            0,
        ),
        want(
            "IPv6 later fragment",
            frame(&[], &ipv6(44, &later6)),
            key(6, 17, (0, 0), 0),
            88,
            40,
            0,
        ),
        want(
            "ICMPv6",
            frame(&[], &ipv6(58, &[128, 0, 0, 0, 1, 2, 3, 4])),
            key(6, 58, (0, 0), 0),
            48,
            8,
            0,
        ),
        want(
            "IPv6 without next header",
            frame(&[], &ipv6(59, &[])),
            key(6, 59, (0, 0), 0),
            40,
            0,
            0,
        ),
    ]
}

/// What the host computes for the times and samples that a flow value shows.
fn on_host(v: &FlowValue, dir: Dir, samples: &[Sample]) -> FlowValue {
    let mut w = FlowValue::EMPTY;
    let times: Vec<Nanos> = v.sequence[..v.sequence_len as usize]
        .iter()
        .map(|e| Nanos(v.first.0 + e.offset_us as u64 * 1_000))
        .collect();
    let c = &mut w.counters[dir.index()];
    for (s, at) in samples.iter().zip(&times) {
        c.add(*at, *s);
    }
    w
}

#[test]
fn counts_each_kind_of_packet_as_the_host_does() {
    let Some(mut m) = unattached(options()) else {
        return;
    };
    for name in ALL {
        for w in cases() {
            let dir = if name == program::TCX_LAN_EGRESS {
                Dir::In
            } else {
                Dir::Out
            };
            let before = m.reasons().expect("reasons");
            for _ in 0..3 {
                run(&mut m, name, &w.frame);
            }
            let after = m.reasons().expect("reasons");
            let got = flows(&mut m);
            assert_eq!(got.len(), 1, "{name}: {}", w.what);
            let (k, v) = got[0];
            let wanted = if dir == Dir::In {
                w.key.reversed()
            } else {
                w.key
            };
            assert_eq!(k, wanted, "{name}: {}", w.what);
            assert_eq!(v.sequence_len, 3, "{name}: {}", w.what);
            assert_eq!(v.first_dir, dir as u8);
            // The device is the sender of an outgoing frame and the receiver of an incoming one.
            assert_eq!(
                v.mac,
                if dir == Dir::Out {
                    DEVICE_MAC
                } else {
                    GATEWAY_MAC
                }
            );
            let c = v.counters[dir.index()];
            let h = on_host(&v, dir, &[w.sample; 3]).counters[dir.index()];
            let sums = |c: &Counters| {
                (
                    c.packets,
                    c.bytes,
                    c.wire,
                    c.payload,
                    c.bytes_sq,
                    c.payload_packets,
                )
            };
            assert_eq!(sums(&c), sums(&h), "{name}: {}", w.what);
            assert_eq!(
                (c.bytes_min, c.bytes_max, c.tcp_flags),
                (h.bytes_min, h.bytes_max, h.tcp_flags)
            );
            assert!(c.first == v.first && c.last > c.first && c.iat_min <= c.iat_max);
            assert_eq!(
                c.iat_min + c.iat_max,
                c.last.0 - c.first.0,
                "two gaps between three packets"
            );
            assert_eq!(v.counters[dir.flip().index()], Counters::EMPTY);
            for e in &v.sequence[..3] {
                assert_eq!(e.bytes as u32, w.sample.bytes);
                assert_eq!(e.dir_flags, (dir as u16) << 8 | w.sample.tcp_flags);
            }
            let grown = |r: Reason| after[r as usize] - before[r as usize];
            assert_eq!((grown(Reason::Seen), grown(Reason::Flow)), (3, 3));
        }
    }
}

#[test]
fn both_directions_meet_in_one_flow_and_slot() {
    let Some(mut m) = unattached(options()) else {
        return;
    };
    let device = chaff_abi::DeviceKey::mac(chaff_abi::Mac(DEVICE_MAC));
    m.set_devices(&[(device, 3)]).expect("devices");
    let out = frame(&[], &ipv4(17, 0, &[], &udp(1111, 53, 20)));
    let mut back = out.clone();
    back[0..6].copy_from_slice(&DEVICE_MAC);
    back[6..12].copy_from_slice(&GATEWAY_MAC);
    for i in 0..4 {
        back.swap(26 + i, 30 + i);
    }
    for i in 0..2 {
        back.swap(34 + i, 36 + i);
    }
    run(&mut m, program::XDP_LAN, &out);
    run(&mut m, program::TCX_LAN_EGRESS, &back);
    run(&mut m, program::TCX_LAN_EGRESS, &back);
    let slots = m.slots();
    assert_eq!(
        slots.read(3, 0),
        SlotCounters {
            packets: [1, 2],
            bytes: [48, 96],
            payload: [20, 40],
            ..SlotCounters::default()
        }
    );
    let got = flows(&mut m);
    assert_eq!(got.len(), 1);
    let v = got[0].1;
    assert_eq!((v.device, v.mac), (3, DEVICE_MAC));
    assert_eq!((v.counters[0].packets, v.counters[1].packets), (1, 2));
    let dirs: Vec<u16> = v.sequence[..3].iter().map(|e| e.dir_flags >> 8).collect();
    assert_eq!(dirs, [0, 1, 1]);
}

#[test]
fn finds_devices_by_address_when_asked() {
    let mut o = options();
    o.config.match_ip = 1;
    o.devices = vec![
        (
            chaff_abi::DeviceKey::ip(FlowKey::mapped([192, 168, 7, 2])),
            5,
        ),
        (chaff_abi::DeviceKey::ip(V6_SRC), 6),
    ];
    let Some(mut m) = unattached(o) else { return };
    run(
        &mut m,
        program::XDP_LAN,
        &frame(&[], &ipv4(1, 0, &[], &[0; 8])),
    );
    run(
        &mut m,
        program::TCX_LAN_INGRESS,
        &frame(&[], &ipv6(58, &[0; 8])),
    );
    let mut found: Vec<u32> = flows(&mut m).iter().map(|(_, v)| v.device).collect();
    found.sort_unstable();
    assert_eq!(found, [5, 6]);
    assert_eq!(m.slots().read(5, 0).packets, [1, 0]);
}

#[test]
fn every_truncation_is_counted_and_passes() {
    let Some(mut m) = unattached(options()) else {
        return;
    };
    for name in ALL {
        for w in cases() {
            let needed = w.frame.len() - if w.what.contains("padded") { 18 } else { 0 };
            // The kernel's test run takes no frame without an Ethernet header.
            for len in 14..=w.frame.len() {
                let before = m.reasons().expect("reasons");
                if !try_run(&mut m, name, &w.frame[..len]) {
                    assert!(
                        name != program::XDP_LAN && len < 14 + 8 + 40,
                        "{name} at {len}"
                    );
                    continue;
                }
                let after = m.reasons().expect("reasons");
                let grown = |r: Reason| after[r as usize] - before[r as usize];
                assert_eq!(grown(Reason::Seen), 1);
                let flow = u64::from(len >= needed);
                assert_eq!(
                    grown(Reason::Flow),
                    flow,
                    "{name}: {} at {len} of {needed}",
                    w.what
                );
                assert_eq!(
                    grown(Reason::Malformed),
                    1 - flow,
                    "{name}: {} at {len}",
                    w.what
                );
            }
        }
    }
}

#[test]
fn malformed_and_foreign_frames_are_told_apart() {
    let Some(mut m) = unattached(options()) else {
        return;
    };
    let mut arp = ethernet(&[], 0x0806);
    arp.extend([0; 28]);
    let mut llc = ethernet(&[], 0x0027);
    llc.extend([0x42; 39]);
    let mut three_tags = ethernet(&[(0x8100, 1), (0x8100, 2), (0x8100, 3)], 0x0800);
    three_tags.extend(ipv4(17, 0, &[], &udp(1, 2, 3)));
    let mut short_ihl = frame(&[], &ipv4(17, 0, &[], &udp(1, 2, 3)));
    short_ihl[14] = 0x44;
    let mut wrong_version = frame(&[], &ipv4(17, 0, &[], &udp(1, 2, 3)));
    wrong_version[14] = 0x65;
    let mut short_tcp = frame(&[], &ipv4(6, 0, &[], &tcp(2, &[], 0)));
    short_tcp[46] = 0x40;
    let mut long_tcp = frame(&[], &ipv4(6, 0, &[], &tcp(2, &[], 0)));
    long_tcp[46] = 0xf0;
    let mut lying = frame(&[], &ipv4(17, 0, &[], &udp(1, 2, 3)));
    lying[16..18].copy_from_slice(&900u16.to_be_bytes());
    for (frame, reason) in [
        (arp, Reason::NotIp),
        (llc, Reason::NotIp),
        (three_tags, Reason::NotIp),
        (short_ihl, Reason::Malformed),
        (wrong_version, Reason::Malformed),
        (short_tcp, Reason::Malformed),
        (long_tcp, Reason::Malformed),
        (lying, Reason::Malformed),
    ] {
        for name in ALL {
            let before = m.reasons().expect("reasons")[reason as usize];
            run(&mut m, name, &frame);
            let after = m.reasons().expect("reasons")[reason as usize];
            assert_eq!(after - before, 1, "{name} {reason:?} {frame:02x?}");
        }
    }
    assert!(flows(&mut m).is_empty());
}

#[test]
fn segments_of_a_super_packet_count_as_wire_packets() {
    let Some(mut m) = unattached(options()) else {
        return;
    };
    // 3,000 bytes in segments of 1,400: 1,400 + 1,400 + 200, each with 14 + 20 + 20 bytes of headers.
    let f = frame(&[], &ipv4(6, 0, &[], &tcp(0x18, &[], 3_000)));
    for (segs, size) in [(3, 1_400), (0, 1_400)] {
        let context = skb(0, segs, size);
        let mut o = TestRunOptions::new();
        o.data_in = Some(&f);
        o.ctx_in = Some(&context);
        m.test_run(program::TCX_LAN_INGRESS, o).expect("test run");
        let got = flows(&mut m);
        let c = got[0].1.counters[0];
        assert_eq!(
            (c.packets, c.payload, c.bytes, c.wire),
            (3, 3_000, 3_000 + 3 * 40, 3_000 + 3 * 54)
        );
        let mut h = Counters::EMPTY;
        let s = Sample {
            wire: 3_162,
            bytes: 3_120,
            payload: 3_000,
            segments: 3,
            tcp_flags: 0x18,
        };
        h.add(c.first, s);
        assert_eq!(c, h);
    }
}

/// Frames of every kind, cut at every length, and with every byte of their headers changed in turn.
fn odd_frames() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut all: Vec<Vec<u8>> = cases().into_iter().map(|w| w.frame).collect();
    all.push(ethernet(&[], 0x0806).into_iter().chain([0; 46]).collect());
    all.push(frame(&[], &ipv6(17, &udp(4433, 4434, 30))));
    all.push(frame(&[], &ipv4(17, 0, &[], &udp(4433, 4434, 30))));
    for f in all {
        // The test run takes no frame that is shorter than its IP header.
        out.extend((14..f.len()).map(|len| f[..len].to_vec()));
        for at in 12..f.len().min(80) {
            for change in [0x01, 0x10, 0x40, 0x80, 0xff] {
                let mut g = f.clone();
                g[at] ^= change;
                out.push(g);
            }
        }
        out.push(f);
    }
    out
}

/// Marked frames take the full parser, which decides what cover is; unmarked ones the short way. Same frame, same counts.
#[test]
fn the_short_way_counts_as_the_full_parser_does() {
    const MARK: u32 = 0xc0;
    let mut o = options();
    o.config.cover_mark = MARK;
    o.config.cover_peer = chaff_abi::CoverPeer {
        address: FlowKey::mapped([192, 168, 7, 2]),
        port: 4433u16.to_be_bytes(),
        pad: [0; 2],
    };
    o.max_flows = 65_536;
    let Some(mut m) = unattached(o) else { return };
    let mut before = m.reasons().expect("reasons");
    let mut grown = |m: &mut Meter, name: &str, frame: &[u8], context: &[u8]| {
        let mut o = TestRunOptions::new();
        o.data_in = Some(frame);
        o.ctx_in = Some(context);
        match m.test_run(name, o) {
            Ok(r) => assert_eq!(r.return_value, u32::MAX),
            Err(MeterError::Kernel { .. }) => return None,
            Err(e) => panic!("{e:?}"),
        }
        let after = m.reasons().expect("reasons");
        let of = |x: Reason| after[x as usize] - before[x as usize];
        let counts = if name == program::TCX_WAN_EGRESS {
            (of(Reason::WanOut), of(Reason::WanOutBytes))
        } else {
            (of(Reason::WanIn), of(Reason::WanInBytes))
        };
        let cover = of(Reason::Cover) + of(Reason::CoverLost);
        assert_eq!(of(Reason::Seen), 0);
        before = after;
        Some((counts, cover))
    };
    let (mut taken, mut packets, mut from_the_peer) = (0, 0, 0);
    for (f, gso) in odd_frames()
        .iter()
        .flat_map(|f| [(f, (0, 0)), (f, (2, 20)), (f, (0, 20))])
    {
        let short = grown(&mut m, program::TCX_WAN_EGRESS, f, &skb(0, gso.0, gso.1));
        let full = grown(&mut m, program::TCX_WAN_EGRESS, f, &skb(MARK, gso.0, gso.1));
        let inward = grown(&mut m, program::TCX_WAN_INGRESS, f, &skb(0, gso.0, gso.1));
        let (Some((short, no_cover)), Some((full, cover)), Some((inward, from_peer))) =
            (short, full, inward)
        else {
            continue;
        };
        assert_eq!((short, inward), (full, full), "{gso:?} {f:02x?}");
        assert_eq!(no_cover, 0);
        assert!(cover == 0 || cover == full.0, "{gso:?} {f:02x?}");
        from_the_peer += from_peer;
        taken += 1;
        packets += u64::from(cover > 0);
    }
    assert!(taken > 5_000 && packets > 1_000, "{taken} {packets}");
    // Cover from the peer is what the parser says comes from its address and port.
    let cover = flows(&mut m);
    let (mut out, mut inward) = (0, 0);
    for (k, v) in &cover {
        inward += v.cover[1].packets;
        if k.protocol == 17 && k.source_port() == 4433 && k.src == FlowKey::mapped([192, 168, 7, 2])
        {
            let back = cover.iter().find(|(other, _)| *other == k.reversed());
            assert_eq!(back.map(|(_, b)| b.cover[1]), Some(v.cover[0]), "{k:?}");
            out += v.cover[0].packets;
        }
    }
    assert!(out > 0);
    assert_eq!((inward, from_the_peer), (out, out));
}

#[test]
fn cover_stays_apart_on_the_network_side() {
    let mut o = options();
    o.config.cover_mark = 0xc0;
    o.config.cover_peer = chaff_abi::CoverPeer {
        address: FlowKey::mapped([192, 168, 7, 2]),
        port: 4433u16.to_be_bytes(),
        pad: [0; 2],
    };
    let Some(mut m) = unattached(o) else { return };
    let f = frame(&[], &ipv4(17, 0, &[], &udp(4433, 4434, 50)));
    let plain = frame(&[], &ipv4(17, 0, &[], &udp(4432, 4434, 50)));
    let mut wan = |name: &str, frame: &[u8], mark: u32| {
        let context = skb(mark, 0, 0);
        let mut o = TestRunOptions::new();
        o.data_in = Some(frame);
        o.ctx_in = Some(&context);
        m.test_run(name, o).expect("test run");
    };
    wan(program::TCX_WAN_EGRESS, &f, 0xc0);
    wan(program::TCX_WAN_EGRESS, &f, 0xc0);
    wan(program::TCX_WAN_EGRESS, &f, 0);
    wan(program::TCX_WAN_EGRESS, &f, 1);
    wan(program::TCX_WAN_INGRESS, &f, 0);
    wan(program::TCX_WAN_INGRESS, &plain, 0xc0);
    let r = m.reasons().expect("reasons");
    let of = |x: Reason| r[x as usize];
    assert_eq!(
        (of(Reason::WanOut), of(Reason::WanIn), of(Reason::Cover)),
        (4, 2, 3)
    );
    assert_eq!(
        (of(Reason::WanOutBytes), of(Reason::WanInBytes)),
        (4 * 78, 2 * 78)
    );
    assert_eq!((of(Reason::Seen), of(Reason::Flow)), (0, 0));
    let s = m.slots().read(0, 0);
    assert_eq!(
        (s.packets, s.cover_packets, s.cover_bytes),
        ([0, 0], [2, 1], [156, 78])
    );
    let mut covers: Vec<_> = flows(&mut m)
        .iter()
        .map(|(_, v)| {
            assert_eq!((v.counters, v.sequence_len), ([Counters::EMPTY; 2], 0));
            [v.cover[0].packets, v.cover[1].packets]
        })
        .collect();
    covers.sort_unstable();
    assert_eq!(covers, [[0, 1], [2, 0]]);
}

#[test]
fn a_full_map_sends_records_and_then_counts_what_is_lost() {
    let mut o = options();
    o.max_flows = 64;
    let Some(mut m) = unattached(o) else { return };
    let (mut ringed, mut flow_packets) = (0u64, 0u64);
    let burst = |m: &mut Meter, n: u32| {
        for i in 0..n {
            let mut f = frame(&[], &ipv4(17, 0, &[], &udp(1, 2, 10)));
            f[26..30].copy_from_slice(&i.to_be_bytes());
            run(m, program::XDP_LAN, &f);
        }
    };
    burst(&mut m, 1_000);
    let mut last = None;
    ringed += m.poll_records(|r| last = Some(r));
    let r = last.expect("a record");
    assert_eq!(
        (r.bytes, r.payload, r.segments, r.mac),
        (38, 10, 1, DEVICE_MAC)
    );
    assert_eq!(r.key.src, FlowKey::mapped(999u32.to_be_bytes()));
    // The ring holds 1 MiB of records of 88 + 8 bytes.
    burst(&mut m, 12_000);
    ringed += m.poll_records(|_| {});
    m.drain(|_, v| flow_packets += v.counters[0].packets)
        .expect("drain");
    let reasons = m.reasons().expect("reasons");
    let of = |x: Reason| reasons[x as usize];
    let sent = 13_000;
    assert_eq!(of(Reason::Seen), sent);
    assert_eq!(of(Reason::Ring), ringed);
    assert_eq!(of(Reason::Flow), flow_packets);
    assert!(of(Reason::Lost) > 0, "the ring must have been full");
    assert_eq!(of(Reason::Flow) + of(Reason::Ring) + of(Reason::Lost), sent);
    // After the drain there is room again.
    burst(&mut m, 64);
    let mut n = 0;
    m.drain(|_, _| n += 1).expect("drain");
    assert_eq!(n, 64);
}

#[test]
fn clears_one_slot_and_no_other() {
    let mut o = options();
    o.config.slot_len = Nanos::from_secs(1_000_000);
    let Some(mut m) = unattached(o) else { return };
    run(
        &mut m,
        program::XDP_LAN,
        &frame(&[], &ipv4(1, 0, &[], &[0; 8])),
    );
    let s = m.slots();
    assert_eq!(s.read(0, 0).packets, [1, 0]);
    s.clear(1);
    assert_eq!(s.read(0, 0).packets, [1, 0]);
    s.clear(64); // same place as slot 0
    assert_eq!(s.read(0, 0), SlotCounters::default());
    assert_eq!(s.read(chaff_abi::MAX_DEVICES, 0), SlotCounters::default());
}
