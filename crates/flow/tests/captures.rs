//! Real captures, where they are beside the project: every packet is metered or has its reason, and flows agree with
//! NFStream's where both mean the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use chaff_abi::Nanos;
use chaff_flow::{Ignored, Parser, ParserConfig, Record, Table, TableConfig};
use chaff_trace::Reader;

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(path);
    if !path.is_dir() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    Some(path)
}

fn captures(folder: &Path, out: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).expect("readable");
    for path in entries.map(|e| e.expect("readable").path()) {
        let name = path.to_string_lossy();
        if path.is_dir() {
            captures(&path, out);
        } else if name.ends_with(".pcap") || name.ends_with(".pcapng") {
            out.push(path);
        }
    }
    out.sort();
}

/// Records of a capture, packets read, packets ignored by reason, and whether they came in the order of time.
fn meter(
    path: &Path,
    parser: ParserConfig,
    table: TableConfig,
) -> Option<(Vec<Record>, u64, [u64; Ignored::ALL.len()], bool)> {
    let mut reader = Reader::new(File::open(path).expect("there")).ok()?;
    let (mut parser, mut table) = (Parser::new(parser), Table::new(table));
    let (mut read, mut ignored) = (0, [0; Ignored::ALL.len()]);
    let mut last = Nanos::ZERO;
    let mut records = Vec::new();
    while let Ok(Some((frame, bytes))) = reader.next_borrowed() {
        read += 1;
        last = last.max(frame.at);
        match parser.parse(frame.at, frame.link, bytes, frame.wire_len) {
            Ok(packet) => table.observe(frame.at, None, &packet),
            Err(e) => ignored[e.reason().index()] += 1,
        }
        records.extend(std::iter::from_fn(|| table.poll_record()));
    }
    table.finish(last);
    records.extend(std::iter::from_fn(|| table.poll_record()));
    assert!(table.is_empty());
    let stats = table.stats();
    let ordered = stats.disordered + stats.outliers == 0;
    Some((records, read, ignored, ordered))
}

#[test]
fn every_packet_is_metered_or_has_its_reason() {
    for folder in ["conformance", "data/iot"] {
        let Some(folder) = shared(folder) else {
            return;
        };
        let mut files = Vec::new();
        captures(&folder, &mut files);
        for file in files {
            for (parser, everything) in [
                (ParserConfig::PLAIN, false),
                (ParserConfig::default(), false),
                (ParserConfig::default(), true),
            ] {
                let table = TableConfig {
                    statistics: everything,
                    splt: if everything { 20 } else { 0 },
                    dissect: if everything { 20 } else { 0 },
                    idle_udp: everything.then_some(Nanos::from_secs(10)),
                    ..TableConfig::default()
                };
                let Some((records, read, ignored, ordered)) = meter(&file, parser, table) else {
                    continue;
                };
                let metered: u64 = records.iter().map(Record::packets).sum();
                assert_eq!(
                    read,
                    metered + ignored.iter().sum::<u64>(),
                    "{}: {ignored:?}",
                    file.display()
                );
                for record in &records {
                    let Some(statistics) = &record.statistics else {
                        continue;
                    };
                    let [forward, backward] = &statistics.sides;
                    assert_eq!(forward.wire.sum(), record.forward.wire);
                    assert_eq!(backward.payload.sum(), record.backward.payload);
                    assert_eq!(forward.sizes.count(), record.forward.packets);
                    assert_eq!(statistics.gaps.count(), record.packets() - 1);
                    let sum = statistics.gaps.sum();
                    assert!(sum <= record.duration().0);
                    assert!(!ordered || sum == record.duration().0);
                    let splt = record.splt.len() as u64;
                    assert_eq!(splt, record.packets().min(20));
                }
            }
        }
    }
}

/// What a flow is in both: protocol, VLAN, addresses and ports of initiator and responder, packets and frame bytes of
/// both directions.
type Facts = (u8, u16, IpAddr, u16, IpAddr, u16, [u64; 4]);

fn facts(r: &Record) -> Facts {
    let vlan = if r.inner_vlan > 0 {
        r.inner_vlan
    } else {
        r.key.vlan_id()
    };
    (
        r.key.protocol,
        vlan,
        r.key.source(),
        r.key.source_port(),
        r.key.destination(),
        r.key.destination_port(),
        [
            r.forward.packets,
            r.backward.packets,
            r.forward.wire,
            r.backward.wire,
        ],
    )
}

fn expected(path: &Path) -> Vec<Facts> {
    let text = fs::read_to_string(path).expect("readable");
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let rows = lines.map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        let cell = |name: &str| cells[header.iter().position(|h| *h == name).expect(name)];
        let number = |name: &str| cell(name).parse::<u64>().expect(name);
        (
            number("protocol") as u8,
            number("vlan_id") as u16,
            cell("src_ip").parse().expect("an address"),
            number("src_port") as u16,
            cell("dst_ip").parse().expect("an address"),
            number("dst_port") as u16,
            [
                "src2dst_packets",
                "dst2src_packets",
                "src2dst_bytes",
                "dst2src_bytes",
            ]
            .map(number),
        )
    });
    rows.collect()
}

/// Captures in which the two differ, and why. Those crafted for NFStream's odd rules (`edge_*`) are only counted.
const OTHERWISE: [(&str, &str); 5] = [
    (
        "6in6tunnel.pcap",
        "NFStream does not look at the ends of tunnels",
    ),
    (
        "badpackets.pcap",
        "IP packets longer than their frames are malformed here",
    ),
    (
        "capwap.pcap",
        "NFStream takes frames of another kind for 802.11",
    ),
    (
        "fuzz-2021-06-07-c6c72a0a56.pcap",
        "NFStream's sizes have 16 bits",
    ),
    (
        "ip_fragmented_garbage.pcap",
        "NFStream counts no later fragments",
    ),
];

#[test]
fn flows_agree_with_those_of_nfstream() {
    let Some(folder) = shared("conformance/nfstream") else {
        return;
    };
    let mut files = Vec::new();
    captures(&folder.join("pcaps"), &mut files);
    let (mut all, mut same) = (0, 0);
    for file in files {
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let wanted = folder.join("expected").join(format!("{name}.m0.csv"));
        if !wanted.is_file() {
            continue;
        }
        // NFStream ends no flow by TCP flags, tells flows apart by VLAN ids, and later fragments are in none of its flows.
        let table = TableConfig {
            tcp_linger: None,
            vlan_key: true,
            ..TableConfig::default()
        };
        let parser = ParserConfig {
            fragments: 0,
            ..ParserConfig::default()
        };
        let (records, ..) = meter(&file, parser, table).expect("a capture");
        let mut counts: BTreeMap<Facts, i64> = BTreeMap::new();
        let wanted = expected(&wanted);
        wanted
            .iter()
            .for_each(|f| *counts.entry(*f).or_default() += 1);
        records
            .iter()
            .for_each(|r| *counts.entry(facts(r)).or_default() -= 1);
        let missed: i64 = counts.values().filter(|n| **n > 0).sum();
        all += wanted.len() as i64;
        same += wanted.len() as i64 - missed;
        if missed > 0 {
            println!("{name}: {missed} of {} flows are otherwise", wanted.len());
        }
        let known = name.starts_with("edge_") || OTHERWISE.iter().any(|(other, _)| *other == name);
        // Flows with nothing but later fragments are ours alone.
        let more = counts.iter().find(|(f, n)| **n < 0 && f.3 != 0);
        assert!(
            known || (missed == 0 && more.is_none()),
            "{name}: {counts:#?}"
        );
    }
    println!("{same} of {all} flows are the same");
}
