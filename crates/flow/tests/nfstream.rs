//! The odd rules of the NFStream profile, one by one, and the cache against a naive model.

use std::net::{IpAddr, Ipv4Addr};

use chaff_flow::nfstream::{Config, Expiration, Flow, Ignored, Meter, write_csv_row};
use chaff_flow::plugin::{Extension, Slicer};
use chaff_flow::{Link, Value};
use chaff_test_support::frame::{self, udp};
use proptest::prelude::*;

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];

/// IPv4 from A to B.
fn ipv4(protocol: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
    frame::ipv4([A, B], protocol, fragment, &[], body)
}

fn ipv6(next: u8, body: &[u8]) -> Vec<u8> {
    let end = |last| [0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    frame::ipv6([end(1), end(2)], next, body)
}

fn ethernet(ethertype: u16, body: &[u8]) -> Vec<u8> {
    frame::ethernet([[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]], ethertype, body)
}

fn plain() -> Vec<u8> {
    ipv4(17, 0, &udp([5000, 53], &[0; 12]))
}

fn full() -> Config {
    Config {
        statistics: true,
        splt: 5,
        ..Config::default()
    }
}

/// The flows of frames at their times.
fn flows(config: Config, link: Link, frames: &[(i64, &[u8])]) -> Vec<Flow> {
    let mut meter = Meter::new(config);
    for &(at, frame) in frames {
        // What is left out shows in the flows.
        let _ = meter.observe(link, at, frame, frame.len());
    }
    meter.finish();
    std::iter::from_fn(|| meter.poll()).collect()
}

/// Values of one column.
fn values(config: &Config, flows: &[Flow], column: &str) -> Vec<Value> {
    let meter = Meter::new(config.clone());
    let columns = meter.columns();
    let place = columns.iter().position(|c| c.name == column);
    let place = place.unwrap_or_else(|| panic!("no column {column}"));
    let value = |flow: &Flow| {
        let mut row = Vec::new();
        flow.values(config, &mut row);
        assert_eq!(row.len(), columns.len());
        row[place].clone()
    };
    flows.iter().map(value).collect()
}

/// One frame's values of some columns, with defaults.
fn one(link: Link, frame: &[u8], columns: &[&str]) -> Vec<Value> {
    let found = flows(full(), link, &[(1000, frame)]);
    assert_eq!(found.len(), 1, "one flow of {frame:02x?}");
    let first = |column| values(&full(), &found, column).remove(0);
    columns.iter().map(|column| first(*column)).collect()
}

fn ignored(link: Link, frame: &[u8]) -> Ignored {
    let mut meter = Meter::new(full());
    let reason = meter.observe(link, 0, frame, frame.len());
    assert_eq!(meter.stats().total_ignored(), 1);
    reason.expect_err("the frame is left out")
}

#[test]
fn names_89_columns_in_the_order_of_nfstream() {
    let config = Config {
        dissect: 20,
        ..full()
    };
    let columns = Meter::new(config).columns();
    assert_eq!(columns.len(), 89);
    let names: Vec<_> = columns.iter().map(|c| &*c.name).collect();
    assert_eq!(names[..3], ["id", "expiration_id", "src_ip"]);
    assert_eq!(
        names[12..15],
        ["vlan_id", "tunnel_id", "bidirectional_first_seen_ms"]
    );
    assert_eq!(names[29], "bidirectional_min_ps");
    assert_eq!(names[52], "dst2src_max_piat_ms");
    assert_eq!(
        names[53..55],
        ["bidirectional_syn_packets", "bidirectional_cwr_packets"]
    );
    assert_eq!(names[77], "splt_direction");
    assert_eq!(names[88], "content_type");
    assert_eq!(Meter::new(Config::default()).columns().len(), 29);
}

#[test]
fn looks_at_the_version_and_not_at_the_ethertype() {
    for ethertype in [0x0800, 0x86dd, 0x0806, 0x88a8, 0x1234] {
        let frame = ethernet(ethertype, &plain());
        let row = one(Link::Ethernet, &frame, &["ip_version", "src_port"]);
        assert_eq!(row, [Value::Unsigned(4), Value::Unsigned(5000)]);
    }
    let arp = ethernet(0x0806, &[0; 46]);
    assert_eq!(ignored(Link::Ethernet, &arp), Ignored::NotIp);
}

#[test]
fn takes_the_innermost_tag_and_does_not_know_qinq() {
    let mut tagged = vec![0, 5, 0x81, 0, 0xf0, 7, 8, 0];
    tagged.extend(plain());
    let row = one(Link::Ethernet, &ethernet(0x8100, &tagged), &["vlan_id"]);
    assert_eq!(row, [Value::Unsigned(7)]);
    let qinq = ethernet(0x88a8, &tagged);
    assert_eq!(ignored(Link::Ethernet, &qinq), Ignored::NotIp);
}

#[test]
fn counts_fragments_that_it_does_not_recognise() {
    let later = ipv4(17, 100, &udp([5000, 53], &[0; 12]));
    assert_eq!(
        ignored(Link::Ethernet, &ethernet(0x0800, &later)),
        Ignored::Fragment
    );
    // With SNAP the ethertype is read in the other byte order, so it is not IPv4's.
    let mut snap = vec![0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
    snap.extend(&later);
    one(Link::Ethernet, &ethernet(snap.len() as u16, &snap), &["id"]);
    // Little-endian family 2.
    let mut null = vec![2, 0, 0, 0];
    null.extend(&later);
    one(Link::Null, &null, &["id"]);
    null[..4].copy_from_slice(&[0, 0, 0, 2]);
    assert_eq!(ignored(Link::Null, &null), Ignored::Fragment);
    let inside = ipv6(4, &later);
    one(Link::RawIp, &inside, &["id"]);
}

#[test]
fn reads_cut_ipv4_but_not_cut_ipv6() {
    let body = udp([5000, 53], &[0; 100]);
    let v4 = ipv4(17, 0, &body);
    let sizes = ["bidirectional_bytes", "splt_ps"];
    let row = one(Link::RawIp, &v4[..40], &sizes);
    assert_eq!(row[0], Value::Unsigned(40));
    let v6 = ipv6(17, &body);
    assert_eq!(ignored(Link::RawIp, &v6[..100]), Ignored::Short);
}

#[test]
fn leaves_out_packets_with_a_total_length_of_zero() {
    let mut packet = plain();
    packet[2..4].fill(0);
    assert_eq!(ignored(Link::RawIp, &packet), Ignored::Malformed);
}

#[test]
fn wraps_sizes_at_65536() {
    let mut meter = Meter::new(full());
    let packet = plain();
    meter
        .observe(Link::RawIp, 0, &packet, 65613)
        .expect("a packet");
    meter.finish();
    let flow = meter.poll().expect("a flow");
    let bytes = values(&full(), &[flow], "bidirectional_bytes");
    assert_eq!(bytes, [Value::Unsigned(77)]);
}

#[test]
fn counts_each_accounting_mode() {
    let frame = ethernet(0x0800, &plain());
    let v6 = ethernet(0x86dd, &ipv6(17, &udp([1, 2], &[0; 4])));
    for (accounting, v4_size, v6_size) in [(0, 54, 66), (1, 40, 52), (2, 20, 12), (3, 12, 4)] {
        let config = Config {
            accounting,
            ..Config::default()
        };
        for (frame, size) in [(&frame, v4_size), (&v6, v6_size)] {
            let found = flows(config.clone(), Link::Ethernet, &[(0, frame)]);
            let bytes = values(&config, &found, "bidirectional_bytes");
            assert_eq!(bytes, [Value::Unsigned(size)], "mode {accounting}");
        }
    }
}

#[test]
fn unwraps_ip_in_ip_always_and_gtp_when_asked() {
    let gtp = {
        let inner = frame::ipv4([B, A], 17, 0, &[], &udp([7, 8], &[0; 4]));
        let mut body = vec![0x30, 255, 0, 0, 0, 0, 0, 1];
        body.extend(inner);
        ipv4(17, 0, &udp([2152, 2152], &body))
    };
    let ipip = ipv4(4, 0, &gtp);
    let ports = ["src_port", "tunnel_id"];
    let row = one(Link::RawIp, &ipip, &ports);
    assert_eq!(row, [Value::Unsigned(7), Value::Unsigned(1)]);
    let config = Config {
        decode_tunnels: false,
        ..Config::default()
    };
    let found = flows(config, Link::RawIp, &[(0, &ipip)]);
    assert_eq!(found[0].ports(), [2152, 2152]);
    // Behind an IPv6 header the tunnel is looked for in the wrong place.
    let outer6 = ipv6(17, &gtp[20..]);
    let row = one(Link::RawIp, &outer6, &ports);
    assert_eq!(row, [Value::Unsigned(2152), Value::Unsigned(0)]);
}

#[test]
fn marks_tzsp_whatever_is_in_it() {
    let body = [&[1, 0, 0, 1, 1][..], &ethernet(0x0800, &plain())].concat();
    let ports = ["dst_port", "tunnel_id"];
    let row = one(
        Link::Ethernet,
        &ethernet(0x0800, &ipv4(17, 0, &udp([9, 37008], &body))),
        &ports,
    );
    assert_eq!(row, [Value::Unsigned(53), Value::Unsigned(3)]);
    let other = ipv4(17, 0, &udp([9, 37008], &[2; 40]));
    let row = one(Link::Ethernet, &ethernet(0x0800, &other), &ports);
    assert_eq!(row, [Value::Unsigned(37008), Value::Unsigned(3)]);
}

#[test]
fn has_one_direction_when_both_ends_are_the_same() {
    let loop_back = frame::ipv4([A, A], 17, 0, &[], &udp([5, 5], &[]));
    let found = flows(full(), Link::RawIp, &[(0, &loop_back), (1, &loop_back)]);
    assert_eq!(found[0].packets(), [2, 0]);
    let there = frame::ipv4([A, A], 17, 0, &[], &udp([5, 6], &[]));
    let back = frame::ipv4([A, A], 17, 0, &[], &udp([6, 5], &[]));
    let found = flows(full(), Link::RawIp, &[(0, &there), (1, &back)]);
    assert_eq!(found[0].packets(), [1, 1]);
}

#[test]
fn flips_the_direction_after_a_cut() {
    let there = frame::ipv4([A, B], 17, 0, &[], &udp([5, 6], &[]));
    let back = frame::ipv4([B, A], 17, 0, &[], &udp([6, 5], &[]));
    let config = Config {
        active_timeout_s: 1,
        ..full()
    };
    let found = flows(
        config,
        Link::RawIp,
        &[(0, &there), (500, &back), (1000, &back)],
    );
    let facts: Vec<_> = found
        .iter()
        .map(|f| (f.source(), f.expiration(), f.packets()))
        .collect();
    let ip = |bytes| IpAddr::from(Ipv4Addr::from(bytes));
    assert_eq!(
        facts,
        [
            (ip(A), Expiration::Active, [1, 1]),
            (ip(B), Expiration::Idle, [1, 0])
        ]
    );
}

#[test]
fn never_ends_a_flow_at_tcp_flags() {
    let mut tcp = vec![0, 5, 0, 6];
    tcp.extend([0; 8]);
    tcp.extend([0x50, 0b101, 0, 0, 0, 0, 0, 0]);
    let packet = ipv4(6, 0, &tcp);
    let found = flows(
        full(),
        Link::RawIp,
        &[(0, &packet), (1, &packet), (2, &packet)],
    );
    assert_eq!(found.len(), 1);
    let flags = values(&full(), &found, "src2dst_rst_packets");
    assert_eq!(flags, [Value::Unsigned(3)]);
}

#[test]
fn makes_a_flow_of_each_packet_without_timeouts() {
    let packet = plain();
    let frames: Vec<(i64, &[u8])> = (0..5).map(|i| (i, &packet[..])).collect();
    for (idle, active, expected) in [(0, 1800, Expiration::Idle), (120, 0, Expiration::Active)] {
        let config = Config {
            idle_timeout_s: idle,
            active_timeout_s: active,
            ..full()
        };
        let found = flows(config, Link::RawIp, &frames);
        assert_eq!(found.len(), 5);
        assert!(found[..4].iter().all(|f| f.expiration() == expected));
    }
}

#[test]
fn moves_late_packets_up_to_the_clock() {
    let packet = plain();
    let found = flows(
        full(),
        Link::RawIp,
        &[(5000, &packet), (1000, &packet), (5007, &packet)],
    );
    let lists = values(&full(), &found, "splt_piat_ms");
    assert_eq!(lists, [Value::SignedList(vec![0, 0, 7, -1, -1])]);
    assert_eq!(found[0].seen_ms(), [5000, 5007]);
}

#[test]
fn keeps_idle_flows_behind_an_old_one_that_is_not() {
    let frame = |port| ipv4(17, 0, &udp([port, 53], &[]));
    let (old, young) = (frame(1), frame(2));
    let mut meter = Meter::new(full());
    let mut emitted = Vec::new();
    for (at, packet) in [(0, &old), (10, &young), (100_000, &old), (200_000, &old)] {
        meter
            .observe(Link::RawIp, at, packet, packet.len())
            .expect("a packet");
        while let Some(flow) = meter.poll() {
            emitted.push((at, flow.ports()[0]));
        }
    }
    // The young flow has been idle since 120,010 ms and still waits.
    assert_eq!((meter.cached(), emitted.len()), (2, 0));
    let other = frame(3);
    meter
        .observe(Link::RawIp, 320_000, &other, other.len())
        .expect("a packet");
    let ports: Vec<_> = std::iter::from_fn(|| meter.poll())
        .map(|f| f.ports()[0])
        .collect();
    assert_eq!(ports, [1, 2]);
}

#[test]
fn scans_every_10_ms_and_emits_1000_flows_at_most() {
    let config = Config {
        idle_timeout_s: 1,
        ..Config::default()
    };
    let mut meter = Meter::new(config);
    let frame = |i: u16| ipv4(17, 0, &udp([i, 53], &[]));
    for i in 1..=1500 {
        let packet = frame(i);
        meter
            .observe(Link::RawIp, 5, &packet, packet.len())
            .expect("a packet");
    }
    let mut emitted_at = |at, port| {
        let packet = frame(port);
        meter
            .observe(Link::RawIp, at, &packet, packet.len())
            .expect("a packet");
        std::iter::from_fn(|| meter.poll()).count()
    };
    assert_eq!(emitted_at(2000, 2000), 1000);
    assert_eq!(emitted_at(2009, 2001), 0);
    assert_eq!(emitted_at(2010, 2002), 500);
}

#[test]
fn stops_after_the_wanted_number_of_flows() {
    let config = Config {
        max_flows: 2,
        ..Config::default()
    };
    let frames: Vec<Vec<u8>> = (1..=5).map(|i| ipv4(17, 0, &udp([i, 53], &[]))).collect();
    let frames: Vec<(i64, &[u8])> = frames.iter().map(|f| (0, &f[..])).collect();
    let found = flows(config, Link::RawIp, &frames);
    assert_eq!(
        found.iter().map(|f| f.ports()[0]).collect::<Vec<_>>(),
        [1, 2]
    );
}

#[test]
fn evicts_the_flow_created_first_when_the_cache_is_full() {
    let config = Config {
        max_cached: 2,
        ..Config::default()
    };
    let mut meter = Meter::new(config);
    for i in [1, 2, 1, 3] {
        let packet = ipv4(17, 0, &udp([i, 53], &[]));
        meter
            .observe(Link::RawIp, 0, &packet, packet.len())
            .expect("a packet");
    }
    let first = meter.poll().expect("an evicted flow");
    assert_eq!((first.ports()[0], first.packets()), (1, [2, 0]));
    assert_eq!((meter.stats().evicted, meter.cached()), (1, 2));
}

#[test]
fn puts_addresses_without_first_groups_in_dotted_form() {
    let mut packet = ipv6(17, &udp([1, 2], &[]));
    packet[8..24].fill(0);
    packet[20..24].copy_from_slice(&[0, 43, 0, 2]);
    let row = one(Link::RawIp, &packet, &["src_ip", "dst_ip"]);
    let mut line = Vec::new();
    write_csv_row(&mut line, &row, "\n");
    assert_eq!(line, b"::0.43.0.2,2001::2\n");
}

#[test]
fn ends_flows_that_plugins_cut() {
    let mut meter = Meter::new(Config::default());
    meter.add_plugin(Slicer { limit: 2 });
    meter.add_plugin(Extension::built_in("splt,length=3,size=payload").expect("a plugin"));
    let packet = plain();
    for at in 0..5 {
        meter
            .observe(Link::RawIp, at, &packet, packet.len())
            .expect("a packet");
    }
    meter.finish();
    let found: Vec<_> = std::iter::from_fn(|| meter.poll()).collect();
    let ends: Vec<_> = found
        .iter()
        .map(|f| (f.expiration(), f.packets()[0]))
        .collect();
    assert_eq!(
        ends,
        [
            (Expiration::Custom, 2),
            (Expiration::Custom, 2),
            (Expiration::Idle, 1)
        ]
    );
    let mut row = Vec::new();
    found[0].values(meter.config(), &mut row);
    assert_eq!(row.len(), meter.columns().len());
    assert_eq!(row[row.len() - 2], Value::SignedList(vec![12, 12, -1]));
}

/// Every link type, and a number of no meaning.
fn links() -> impl Strategy<Value = Link> {
    prop_oneof![
        13 => prop::sample::select(Link::ALL.to_vec()),
        1 => Just(Link::Other(200)),
    ]
}

/// Bytes with a liking for the values that headers turn on.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let telling = [
        0, 1, 4, 5, 6, 8, 17, 41, 44, 58, 59, 60, 0x30, 0x34, 0x40, 0x45, 0x46, 0x47, 0x48, 0x60,
        0x64, 0x81, 0x86, 0x88, 0xaa, 0xdd, 0xff,
    ];
    let byte = prop_oneof![prop::sample::select(telling.to_vec()), any::<u8>()];
    prop::collection::vec(byte, 0..300)
}

/// Frames that get past the link layer.
fn wrapped() -> impl Strategy<Value = Vec<u8>> {
    let ports = prop::sample::select(vec![2152u16, 5247, 37008, 67, 5353, 443]);
    let kind = 0..5u8;
    (kind, ports, frames()).prop_map(|(kind, port, bytes)| match kind {
        0 => ethernet(0x0800, &bytes),
        1 => ethernet(0x0800, &ipv4(17, 0, &udp([port, 9], &bytes))),
        2 => ethernet(0x86dd, &ipv6(17, &udp([9, port], &bytes))),
        3 => ethernet(0x0800, &ipv4(6, 0, &bytes)),
        _ => bytes,
    })
}

proptest! {
    #[test]
    fn survives_any_bytes_and_loses_no_packet(
        link in links(),
        frames in prop::collection::vec((wrapped(), 0..100_000i64, 0..70_000usize), 1..60),
        decode_tunnels in any::<bool>(),
        with_plugins in any::<bool>(),
    ) {
        let config = Config {
            decode_tunnels,
            dissect: 3,
            idle_timeout_s: 20,
            active_timeout_s: 60,
            ..full()
        };
        let mut meter = Meter::new(config);
        if with_plugins {
            for text in ["slicer,limit=3", "dhcp", "mdns", "ja4", "wavelet", "splt"] {
                meter.add_plugin(Extension::built_in(text).expect("a plugin"));
            }
        }
        let mut accepted = 0;
        for (frame, at, wire_len) in &frames {
            accepted += u64::from(meter.observe(link, *at, frame, *wire_len).is_ok());
        }
        meter.finish();
        let mut counted = 0;
        let mut row = Vec::new();
        let width = meter.columns().len();
        let mut id = 0;
        while let Some(flow) = meter.poll() {
            prop_assert_eq!(flow.id(), id);
            id += 1;
            counted += flow.packets().iter().sum::<u64>();
            row.clear();
            flow.values(meter.config(), &mut row);
            prop_assert_eq!(row.len(), width);
        }
        prop_assert_eq!(counted, accepted);
        prop_assert_eq!(meter.stats().packets, accepted);
        prop_assert_eq!(accepted + meter.stats().total_ignored(), frames.len() as u64);
    }

    #[test]
    fn emits_flows_as_a_naive_cache_does(
        events in prop::collection::vec((prop_oneof![0..40i64, 0..3000i64], 1..9u16, any::<bool>()), 1..200),
        idle in 0..3u32,
        active in 0..6u32,
        seed in any::<u64>(),
    ) {
        let config = Config { idle_timeout_s: idle, active_timeout_s: active, hash_seed: seed, ..Config::default() };
        let mut meter = Meter::new(config);
        let mut model = Model::new(i64::from(idle) * 1000, i64::from(active) * 1000);
        let mut at = 0;
        let mut emitted = Vec::new();
        let mut take = |meter: &mut Meter| {
            while let Some(flow) = meter.poll() {
                let port = flow.ports().into_iter().min().unwrap_or(0);
                emitted.push((port, flow.expiration(), flow.packets().iter().sum::<u64>()));
            }
        };
        for (gap, port, forward) in events {
            at += gap;
            let ports = if forward { [port, 999] } else { [999, port] };
            let (src, dst) = if forward { (A, B) } else { (B, A) };
            let packet = frame::ipv4([src, dst], 17, 0, &[], &udp(ports, &[]));
            meter.observe(Link::RawIp, at, &packet, packet.len()).expect("a packet");
            model.observe(at, port);
            take(&mut meter);
        }
        meter.finish();
        take(&mut meter);
        prop_assert_eq!(emitted, model.finish());
    }
}

/// The written rules of expiry, as plainly as they can be said.
struct Model {
    idle: i64,
    active: i64,
    scanned: i64,
    /// Oldest first: port, first, last, packets.
    flows: Vec<(u16, i64, i64, u64)>,
    emitted: Vec<(u16, Expiration, u64)>,
}

impl Model {
    fn new(idle: i64, active: i64) -> Self {
        Self {
            idle,
            active,
            scanned: 0,
            flows: Vec::new(),
            emitted: Vec::new(),
        }
    }

    fn observe(&mut self, at: i64, port: u16) {
        let place = self.flows.iter().position(|f| f.0 == port);
        let end = place.and_then(|i| {
            let (_, first, last, _) = self.flows[i];
            if at - last >= self.idle {
                Some((i, Expiration::Idle))
            } else if at - first >= self.active {
                Some((i, Expiration::Active))
            } else {
                None
            }
        });
        match (place, end) {
            (_, Some((i, expiration))) => {
                let flow = self.flows.remove(i);
                self.emitted.push((flow.0, expiration, flow.3));
                self.flows.push((port, at, at, 1));
            }
            (Some(i), None) => {
                self.flows[i].2 = at;
                self.flows[i].3 += 1;
            }
            (None, None) => self.flows.push((port, at, at, 1)),
        }
        if at - self.scanned >= 10 {
            self.scanned = at;
            while self.flows.first().is_some_and(|f| at - self.idle >= f.2) {
                let flow = self.flows.remove(0);
                self.emitted.push((flow.0, Expiration::Idle, flow.3));
            }
        }
    }

    fn finish(mut self) -> Vec<(u16, Expiration, u64)> {
        for flow in std::mem::take(&mut self.flows) {
            self.emitted.push((flow.0, Expiration::Idle, flow.3));
        }
        self.emitted
    }
}
