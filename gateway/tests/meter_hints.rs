//! Copies of first packets: which, how long, how often, and what happens when there is no room.

mod meter_support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use aya::programs::TestRunOptions;
use chaff_abi::{Dir, FlowKey, HINT_LARGE, HINT_SMALL, HintHeader, Nanos, Reason, program};
use chaff_engine::{Config, Event, Gateway, Parts, Source};
use chaff_flow::{Link, Record, Table, TableConfig};
use chaff_gateway::datapath::{HintOptions, Meter, MeterOptions};
use chaff_sys::clock::monotonic;
use chaff_trace::Reader;
use meter_support::*;

const LAN: [&str; 3] = [
    program::XDP_LAN,
    program::TCX_LAN_INGRESS,
    program::TCX_LAN_EGRESS,
];

fn with_hints(packets: u8) -> MeterOptions {
    MeterOptions {
        hints: Some(HintOptions {
            packets,
            ..HintOptions::default()
        }),
        ..options()
    }
}

fn run(m: &mut Meter, name: &str, frame: &[u8], mark: u32) {
    let context = skb(mark, 0, 0);
    let mut o = TestRunOptions::new();
    o.data_in = Some(frame);
    if name != program::XDP_LAN {
        o.ctx_in = Some(&context);
    }
    let pass = if name == program::XDP_LAN {
        2
    } else {
        u32::MAX
    };
    assert_eq!(m.test_run(name, o).expect("test run").return_value, pass);
}

fn copies(m: &mut Meter) -> Vec<(HintHeader, Vec<u8>)> {
    let mut out = Vec::new();
    m.poll_hints(|h, bytes| out.push((h, bytes.to_vec())));
    out
}

fn counted(m: &Meter) -> (u64, u64) {
    let r = m.reasons().expect("reasons");
    let of = |x: Reason| r[x as usize];
    (of(Reason::HintCopied), of(Reason::HintDropped))
}

fn datagram(payload: usize) -> Vec<u8> {
    frame(&[], &ipv4(17, 0, &[], &udp(5_000, 53, payload)))
}

fn segment(flags: u8, payload: usize) -> Vec<u8> {
    frame(&[], &ipv4(6, 0, &[], &tcp(flags, &[], payload)))
}

#[test]
fn copies_the_first_packets_with_a_payload_and_no_others() {
    let Some(mut m) = unattached(with_hints(3)) else {
        return;
    };
    for (i, name) in LAN.iter().enumerate() {
        // Another address for each program, so that each sees a new flow.
        let own = |mut f: Vec<u8>| {
            f[33] = i as u8;
            f
        };
        run(&mut m, name, &own(segment(0x02, 0)), 0);
        run(&mut m, name, &own(segment(0x10, 0)), 0);
        let sent: Vec<_> = [10, 100, 1_400, 5, 6].map(|n| own(segment(0x18, n))).into();
        for f in &sent {
            run(&mut m, name, f, 0);
        }
        let got = copies(&mut m);
        assert_eq!(got.len(), 3, "{name}");
        let dir = if *name == program::TCX_LAN_EGRESS {
            Dir::In
        } else {
            Dir::Out
        };
        let mut last = Nanos::ZERO;
        for ((h, bytes), f) in got.iter().zip(&sent) {
            assert_eq!(bytes, f, "{name}");
            assert_eq!((h.frame_len, h.len), (f.len() as u32, f.len() as u32));
            assert_eq!((h.dir, h.vlan, h.pad), (dir as u8, [0; 2], [0; 5]));
            assert!(h.at > last);
            last = h.at;
        }
    }
    // No ports, no copies.
    run(
        &mut m,
        LAN[0],
        &frame(&[], &ipv4(1, 0, &[], &[8, 0, 0, 0, 1, 2, 3, 4])),
        0,
    );
    run(&mut m, LAN[0], &frame(&[], &ipv4(47, 0, &[], &[1; 16])), 0);
    assert_eq!(copies(&mut m), []);
    assert_eq!(counted(&m), (9, 0));
}

#[test]
fn a_copy_has_the_time_of_the_counters_and_the_vlan_of_the_key() {
    let Some(mut m) = unattached(with_hints(1)) else {
        return;
    };
    let f = frame(&[(0x8100, 0xe064)], &ipv6(17, &udp(5_353, 53, 30)));
    run(&mut m, LAN[1], &f, 0);
    let got = copies(&mut m);
    let flow = flows(&mut m)[0];
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].0.vlan, flow.0.vlan);
    assert_eq!(got[0].0.at, flow.1.counters[0].first);
    assert_eq!((got[0].1.as_slice(), flow.1.copied), (f.as_slice(), 1));
}

#[test]
fn copies_are_cut_to_their_bounds() {
    let Some(mut m) = unattached(with_hints(200)) else {
        return;
    };
    // Headers take 42 bytes; XDP's test run takes at most a page, with headroom.
    for name in LAN {
        let mut wanted = Vec::new();
        for len in [
            43,
            HINT_SMALL - 1,
            HINT_SMALL,
            HINT_SMALL + 1,
            HINT_LARGE - 1,
            HINT_LARGE,
            HINT_LARGE + 1,
            3_000,
        ] {
            let f = datagram(len - 42);
            assert_eq!(f.len(), len);
            run(&mut m, name, &f, 0);
            wanted.push((len as u32, f[..len.min(HINT_LARGE)].to_vec()));
        }
        let got: Vec<_> = copies(&mut m)
            .into_iter()
            .map(|(h, bytes)| (h.frame_len, bytes))
            .collect();
        assert_eq!(got, wanted, "{name}");
    }
}

#[test]
fn drains_do_not_begin_a_flow_anew_but_connections_and_silence_do() {
    let mut o = with_hints(3);
    let silence = std::time::Duration::from_millis(300);
    if let Some(h) = &mut o.hints {
        h.idle = Nanos(silence.as_nanos() as u64);
    }
    let Some(mut m) = unattached(o) else { return };
    let (f, u) = (segment(0x18, 20), datagram(20));
    let burst = |m: &mut Meter, frame: &[u8], n: usize| {
        for _ in 0..n {
            run(m, LAN[1], frame, 0);
        }
        let got = copies(m).len();
        flows(m);
        got
    };
    assert_eq!((burst(&mut m, &f, 2), burst(&mut m, &u, 2)), (2, 2));
    assert_eq!((burst(&mut m, &f, 2), burst(&mut m, &u, 2)), (1, 1));
    assert_eq!((burst(&mut m, &f, 2), burst(&mut m, &u, 2)), (0, 0));
    // A new connection between the same ports.
    assert_eq!(burst(&mut m, &segment(0x02, 0), 1), 0);
    assert_eq!(burst(&mut m, &f, 5), 3);
    std::thread::sleep(silence);
    assert_eq!((burst(&mut m, &f, 5), burst(&mut m, &u, 5)), (3, 3));
}

#[test]
fn a_full_ring_drops_copies_and_counts_them_but_no_packet() {
    let mut o = with_hints(255);
    if let Some(h) = &mut o.hints {
        h.ring_bytes = 4_096;
    }
    let Some(mut m) = unattached(o) else { return };
    for _ in 0..100 {
        run(&mut m, LAN[1], &datagram(20), 0);
    }
    let got = copies(&mut m).len() as u64;
    let (copied, dropped) = counted(&m);
    assert!(got > 0 && dropped > 0, "{got} {dropped}");
    assert_eq!((copied, copied + dropped), (got, 100));
    assert_eq!(flows(&mut m)[0].1.counters[0].packets, 100);
    // There is room again.
    run(&mut m, LAN[1], &datagram(20), 0);
    assert_eq!(copies(&mut m).len(), 1);
}

#[test]
fn nothing_is_copied_of_cover_of_floods_or_when_not_asked() {
    let mut o = with_hints(5);
    o.max_flows = 16;
    o.config.cover_mark = 0xc0;
    let Some(mut m) = unattached(o) else { return };
    run(&mut m, program::TCX_WAN_EGRESS, &datagram(50), 0xc0);
    run(&mut m, program::TCX_WAN_EGRESS, &datagram(50), 0);
    assert_eq!(copies(&mut m), []);
    flows(&mut m);
    for i in 0..100u32 {
        let mut f = datagram(20);
        f[26..30].copy_from_slice(&i.to_be_bytes());
        run(&mut m, LAN[0], &f, 0);
    }
    let r = m.reasons().expect("reasons");
    assert_eq!(r[Reason::HintCopied as usize], 16);
    assert_eq!(copies(&mut m).len(), 16);
    let Some(mut off) = unattached(options()) else {
        return;
    };
    run(&mut off, LAN[0], &datagram(20), 0);
    assert_eq!((copies(&mut off).len(), counted(&off)), (0, (0, 0)));
    assert_eq!(flows(&mut off)[0].1.copied, 0);
}

/// Packets with payload that are looked at, live and here.
const LOOKED_AT: u8 = 10;
/// Longest frame that a test run takes.
const LONGEST: usize = 3_000;

/// Who talks to whom, whichever end is first.
fn ends(key: &FlowKey) -> (FlowKey, FlowKey) {
    let plain = FlowKey {
        vlan: [0; 2],
        ..*key
    };
    let reversed = plain.reversed();
    if plain < reversed {
        (plain, reversed)
    } else {
        (reversed, plain)
    }
}

type Found = BTreeMap<(FlowKey, FlowKey), Vec<String>>;

fn note(found: &mut Found, record: &Record) {
    if matches!(record.key.protocol, 6 | 17) {
        let hints = format!("{:?}", record.hints);
        found.entry(ends(&record.key)).or_default().push(hints);
    }
}

/// What the kernel's counts and copies say of frames, with the directions that they had, and what a table says that saw
/// the same frames.
fn both_ways(m: &mut Meter, frames: &[Vec<u8>]) -> (Found, Found) {
    let config = Config {
        source: Source::Kernel,
        flow: TableConfig {
            dissect: LOOKED_AT.into(),
            ..TableConfig::default()
        },
        ..Config::default()
    };
    let start = monotonic();
    let mut engine = Gateway::new(config, Parts::default(), [0; 32], start).expect("valid");
    let mut table = Table::new(TableConfig {
        dissect: u16::MAX,
        ..TableConfig::default()
    });
    let mut seen: BTreeMap<_, (FlowKey, u8)> = BTreeMap::new();
    let mut got = Vec::new();
    for bytes in frames {
        let Ok(packet) = chaff_flow::parse(Link::Ethernet, bytes, bytes.len()) else {
            continue;
        };
        // Whoever speaks first is the device.
        let (first, copied) = seen.entry(ends(&packet.key)).or_insert((packet.key, 0));
        let dir = if packet.key.src == first.src && packet.key.src_port == first.src_port {
            Dir::Out
        } else {
            Dir::In
        };
        let name = match dir {
            Dir::Out => program::TCX_LAN_INGRESS,
            Dir::In => program::TCX_LAN_EGRESS,
        };
        run(m, name, bytes, 0);
        let has_payload = packet.sample.payload > 0;
        if !has_payload || *copied < LOOKED_AT {
            *copied += u8::from(has_payload);
            table.observe(monotonic(), Some(dir), &packet);
        }
        if m.poll_hints(|h, bytes| got.push((h, bytes.to_vec()))) > 0 {
            assert!(got.last().is_some_and(|(_, b)| b.len() <= HINT_LARGE));
        }
    }
    let end = monotonic();
    for (key, value) in flows(m) {
        engine.handle_counters(end, key, &value);
    }
    for (h, bytes) in got {
        let dir = if h.dir == Dir::In as u8 {
            Dir::In
        } else {
            Dir::Out
        };
        assert!(engine.handle_payload(h.at, dir, h.vlan, &bytes, h.frame_len as usize));
    }
    engine.finish(end);
    table.finish(end);
    let (mut live, mut offline) = (Found::new(), Found::new());
    while let Some(event) = engine.poll_event() {
        if let Event::Flow(record) = event {
            note(&mut live, &record);
        }
    }
    while let Some(record) = table.poll_record() {
        note(&mut offline, &record);
    }
    (live, offline)
}

#[test]
fn hints_of_the_kernels_copies_are_those_of_the_captures() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/nfstream/pcaps");
    let Ok(entries) = fs::read_dir(&folder) else {
        eprintln!("skipped: no {}", folder.display());
        return;
    };
    // With each capture all flows are new ones.
    let mut o = with_hints(LOOKED_AT);
    if let Some(h) = &mut o.hints {
        h.idle = Nanos(1);
    }
    let Some(mut m) = unattached(o) else { return };
    let mut files: Vec<_> = entries.map(|e| e.expect("readable").path()).collect();
    files.sort();
    let (mut captures, mut equal, mut told, mut unmetered) = (0, 0, 0, 0);
    let mut other = Vec::new();
    for file in files {
        let Ok(mut reader) = Reader::new(File::open(&file).expect("there")) else {
            continue;
        };
        let mut frames = Vec::new();
        while let Ok(Some((frame, bytes))) = reader.next_borrowed() {
            let is_whole = bytes.len() == frame.wire_len && bytes.len() <= LONGEST;
            if is_whole && frame.link == Link::Ethernet {
                frames.push(bytes.to_vec());
            }
        }
        if frames.is_empty() {
            continue;
        }
        let (live, offline) = both_ways(&mut m, &frames);
        captures += 1;
        for (key, wanted) in &offline {
            // Ports that are used again within one drain are one flow to the kernel.
            if wanted.len() > 1 {
                continue;
            }
            // SNAP, PPPoE, MPLS and false lengths, which the kernel counts as not IP or malformed.
            if !live.contains_key(key) {
                unmetered += 1;
            } else if live.get(key) == Some(wanted) {
                equal += 1;
                told += usize::from(!wanted[0].contains("Unknown"));
            } else {
                other.push(format!(
                    "{}: {key:?}\nlive    {:?}\noffline {wanted:?}",
                    file.display(),
                    live.get(key)
                ));
            }
        }
    }
    eprintln!(
        "hints of {equal} flows of {captures} captures are equal ({told} name something), {} are not; {unmetered} the kernel leaves out",
        other.len()
    );
    assert!(other.is_empty(), "{}", other.join("\n"));
    assert!(
        equal > 500 && told > 200 && unmetered < 20,
        "{equal} {told} {unmetered}"
    );
}
