//! What records look like when written, and what their columns hold.
//!
//! `REFRESH=1 cargo test -p chaff-flow --test records` writes `FIELDS.md` and the golden files anew.

use std::path::Path;

use chaff_abi::{Dir, FlowKey, FlowValue, Mac, Nanos, Sample};
use chaff_flow::plugin::{Extension, FlowView, Next, PacketView, Plugin, Slicer, column};
use chaff_flow::{
    Column, EndReason, FIELDS, Fragment, Group, Kind, Layout, Packet, Record, Table, TableConfig,
    TcpFacts, Value, fields_markdown,
};
use proptest::prelude::*;

const KEY: FlowKey = FlowKey {
    src: FlowKey::mapped([192, 168, 1, 9]),
    dst: FlowKey::mapped([10, 0, 0, 1]),
    src_port: 5000u16.to_be_bytes(),
    dst_port: 80u16.to_be_bytes(),
    vlan: 7u16.to_be_bytes(),
    protocol: 6,
    version: 4,
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: \"a, b\"\r\n\r\n";

/// Time in ms, whether the initiator sends it, TCP flags, sequence and acknowledgement number, payload.
type Step = (u64, bool, u16, u32, u32, &'static [u8]);

const STEPS: [Step; 7] = [
    (0, true, 0x02, 100, 0, &[]),
    (30, false, 0x12, 900, 101, &[]),
    (31, true, 0x10, 101, 901, &[]),
    (32, true, 0x18, 101, 901, REQUEST),
    (300, true, 0x18, 101, 901, REQUEST),
    (320, false, 0x18, 901, 200, &[7; 40]),
    (7000, true, 0x18, 200, 941, &[8; 40]),
];

fn packet(step: &Step) -> Packet<'static> {
    let (_, out, flags, sequence, acknowledgement, payload) = *step;
    let bytes = 40 + payload.len() as u32;
    Packet {
        key: if out { KEY } else { KEY.reversed() },
        sample: Sample {
            wire: bytes + 18,
            bytes,
            payload: payload.len() as u32,
            segments: 1,
            tcp_flags: flags,
        },
        src_mac: if out {
            Mac([2, 0, 0, 0, 0, 1])
        } else {
            Mac::default()
        },
        ip_header_len: 20,
        ttl: if out { 64 } else { 55 },
        traffic_class: if out { 0xb8 } else { 0x03 },
        tcp: Some(TcpFacts {
            sequence,
            acknowledgement,
            window: 1000,
            window_scale: (flags & 2 != 0).then_some(3),
            segment_size: (flags & 2 != 0).then_some(1460),
        }),
        payload,
        ..Packet::default()
    }
}

fn table(config: TableConfig) -> Table {
    let mut table = Table::new(config);
    for step in &STEPS {
        let dir = if step.1 { Dir::Out } else { Dir::In };
        let at = Nanos::from_secs(1_600_000_000) + Nanos::from_millis(step.0);
        table.observe(at, Some(dir), &packet(step));
    }
    table.finish(Nanos::from_secs(1_600_000_010));
    table
}

fn record() -> Record {
    table(TableConfig::default())
        .poll_record()
        .expect("one flow")
}

fn everything() -> TableConfig {
    TableConfig {
        statistics: true,
        splt: 5,
        dissect: 20,
        processes: true,
        ..TableConfig::default()
    }
}

/// A committed file of this crate, which `REFRESH` writes anew.
fn committed(name: &str, fresh: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("REFRESH").is_some() {
        std::fs::write(&path, fresh).expect("written");
    }
    std::fs::read_to_string(path).expect("there")
}

#[test]
fn every_core_field_has_its_value_in_the_csv_row() {
    let mut row = Vec::new();
    record().write_csv(&mut row).expect("memory");
    let row = String::from_utf8(row).expect("text");
    let header = Record::csv_header();
    let got: String = header
        .split(',')
        .zip(row.trim_end().split(','))
        .map(|(name, cell)| format!("{name} {cell}\n"))
        .collect();
    assert_eq!(row.matches(',').count(), FIELDS.len() - 1);
    assert_eq!(got, committed("tests/record.golden", &got));
}

#[test]
fn every_column_of_a_layout_has_its_value() {
    let mut table = table(everything());
    let (columns, layout) = (table.columns(), table.layout());
    let mut row = Vec::new();
    table
        .poll_record()
        .expect("one flow")
        .values(&layout, &mut row);
    let got: String = columns
        .iter()
        .zip(&row)
        .skip(FIELDS.len())
        .map(|(column, value)| format!("{} {value:?}\n", column.name))
        .collect();
    assert_eq!(columns.len(), row.len());
    assert_eq!(layout.columns(), columns);
    assert_eq!(got, committed("tests/columns.golden", &got));
}

#[test]
fn groups_are_there_when_they_are_switched_on() {
    let groups = |config: TableConfig| Layout::new(&config, Vec::new()).groups().to_vec();
    let plain = TableConfig::default();
    assert_eq!(groups(plain.clone()), [Group::Core]);
    assert_eq!(groups(everything()), Group::ALL);
    let one = |config| groups(config).get(1).copied();
    let statistics = TableConfig {
        statistics: true,
        ..plain.clone()
    };
    assert_eq!(one(statistics), Some(Group::Statistics));
    let splt = TableConfig {
        splt: 1,
        ..plain.clone()
    };
    assert_eq!(one(splt), Some(Group::Sequence));
    let dissect = TableConfig {
        dissect: 1,
        ..plain
    };
    assert_eq!(one(dissect), Some(Group::Application));
}

#[test]
fn json_says_the_same_as_csv() {
    let (mut csv, mut json) = (Vec::new(), Vec::new());
    record().write_csv(&mut csv).expect("memory");
    record().write_json(&mut json).expect("memory");
    let (csv, json) = (
        String::from_utf8(csv).expect("text"),
        String::from_utf8(json).expect("text"),
    );
    assert!(
        json.starts_with("{\"id\":0,\"part\":0,\"end_reason\":\"end_of_input\",")
            && json.ends_with("}\n")
    );
    for (field, cell) in FIELDS.iter().zip(csv.trim_end().split(',')) {
        let value = match field.kind {
            Kind::List => format!("[{}]", cell.replace(' ', ",")),
            _ if cell.is_empty() => "null".to_string(),
            Kind::Text => format!("\"{cell}\""),
            _ => cell.to_string(),
        };
        assert!(
            json.contains(&format!("\"{}\":{value}", field.name)),
            "{} in {json}",
            field.name
        );
    }
}

#[test]
fn names_are_unique_and_documented() {
    let fields: Vec<_> = Group::ALL.iter().flat_map(|g| g.fields()).collect();
    let mut names: Vec<&str> = fields.iter().map(|f| f.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), fields.len());
    for f in fields {
        assert!(f.doc.ends_with('.') && f.doc.len() > 5, "{}", f.name);
    }
    for group in Group::ALL {
        assert!(group.doc().ends_with('.'));
    }
}

#[test]
fn the_committed_field_table_is_up_to_date() {
    let fresh = format!("# Fields of a flow record\n\n{}", fields_markdown());
    assert_eq!(committed("FIELDS.md", &fresh), fresh);
}

/// Counts packets with payload; ends the flow after so many.
struct Full(u64);

impl Plugin for Full {
    type State = u64;
    fn name(&self) -> &'static str {
        "full"
    }
    fn columns(&self) -> Vec<Column> {
        vec![column("full", Kind::Unsigned, "packets", "with payload")]
    }
    fn start(&self, flow: &FlowView, packet: &PacketView<'_>) -> (u64, Next) {
        assert_eq!(
            (flow.total_packets(), packet.gap, packet.forward),
            (1, Nanos(0), true)
        );
        let mut state = 0;
        let next = self.update(&mut state, flow, packet);
        (state, next)
    }
    fn update(&self, state: &mut u64, flow: &FlowView, packet: &PacketView<'_>) -> Next {
        assert_eq!(flow.last, packet.at);
        *state += u64::from(packet.payload_size > 0);
        if *state == self.0 {
            Next::End
        } else {
            Next::Go
        }
    }
    fn expire(&self, state: u64, _: &FlowView, row: &mut Vec<Value>) {
        row.push(Value::Unsigned(state));
    }
}

#[test]
fn plugins_see_every_packet_and_end_flows() {
    let mut table = Table::new(TableConfig::default());
    table.add_plugin(Full(2));
    assert_eq!(
        table.columns().last().map(|c| c.name.to_string()),
        Some("plugin.full".into())
    );
    // The third part of the flow begins with the initiator of its own first packet.
    for step in STEPS.iter().filter(|s| s.1) {
        table.observe(Nanos::from_millis(step.0), None, &packet(step));
    }
    table.finish(Nanos::from_secs(10));
    let (layout, mut row) = (table.layout(), Vec::new());
    let mut got = Vec::new();
    while let Some(record) = table.poll_record() {
        record.values(&layout, &mut row);
        got.push((record.reason, record.packets(), row.last().cloned()));
    }
    let values = |n| Some(Value::Unsigned(n));
    assert_eq!(
        got,
        [
            (EndReason::Plugin, 4, values(2)),
            (EndReason::EndOfInput, 1, values(1))
        ]
    );
    assert_eq!(
        (EndReason::Plugin.name(), EndReason::Plugin.ipfix()),
        ("plugin", 4)
    );
}

#[test]
fn a_built_in_plugin_slices_flows() {
    let mut table = Table::new(TableConfig::default());
    table.add_plugin(Slicer { limit: 3 });
    for step in &STEPS {
        table.observe(Nanos::from_millis(step.0), None, &packet(step));
    }
    table.finish(Nanos::from_secs(10));
    let sizes: Vec<u64> = std::iter::from_fn(|| table.poll_record())
        .map(|r| r.packets())
        .collect();
    assert_eq!(sizes, [3, 3, 1]);
}

/// A flow whose packets came through the kernel's map.
fn absorbed(config: TableConfig) -> Table {
    let mut table = Table::new(config);
    let mut value = FlowValue {
        first: Nanos(5),
        ..FlowValue::EMPTY
    };
    for step in &STEPS {
        let side = usize::from(!step.1);
        value.counters[side].add(Nanos(5) + Nanos::from_millis(step.0), packet(step).sample);
    }
    // The first packets come up beside the counters, before them or after.
    table.dissect(Nanos(5), Some(Dir::Out), &packet(&STEPS[0]));
    table.absorb(Nanos::from_secs(8), KEY, &value);
    for step in &STEPS[1..] {
        let dir = if step.1 { Dir::Out } else { Dir::In };
        table.dissect(Nanos::from_secs(8), Some(dir), &packet(step));
    }
    table
}

#[test]
fn flows_of_the_kernel_have_what_follows_from_its_counters() {
    let mut config = everything();
    let mut seen = table(config.clone());
    let layout = seen.layout();
    let mut whole = Vec::new();
    seen.poll_record()
        .expect("one flow")
        .values(&layout, &mut whole);
    for dissect in [0, 20] {
        config.dissect = dissect;
        let mut table = absorbed(config.clone());
        table.finish(Nanos::from_secs(9));
        let record = table.poll_record().expect("one flow");
        assert!(table.poll_record().is_none());
        assert_eq!(record.packets(), 7);
        assert_eq!((record.statistics.is_none(), record.splt.len()), (true, 0));
        let hints = record.hints.as_deref().map(|h| h.server_name.as_str());
        assert_eq!(hints, (dissect > 0).then_some("example.org"));
        let mut row = Vec::new();
        record.values(&layout, &mut row);
        let columns = layout.columns();
        let same: Vec<&str> = columns
            .iter()
            .zip(row.iter().zip(&whole))
            .skip(FIELDS.len())
            .filter(|(c, (a, b))| a == b && **a != Value::Missing && !c.name.contains("app"))
            .map(|(c, _)| &*c.name)
            .filter(|name| name.contains("bytes") || name.contains("per_s"))
            .collect();
        assert_eq!(
            same,
            [
                "bi_packets_per_s",
                "bi_bytes_per_s",
                "bi_bytes_min",
                "bi_bytes_max",
                "bi_bytes_mean",
                "bi_bytes_stddev",
                "fwd_packets_per_s",
                "fwd_bytes_per_s",
                "bwd_packets_per_s",
                "bwd_bytes_per_s",
            ]
        );
    }
}

#[test]
fn packets_that_are_only_shown_make_no_record() {
    let mut table = Table::new(everything());
    table.dissect(Nanos(5), None, &packet(&STEPS[0]));
    assert_eq!((table.len(), table.stats().packets), (1, 0));
    table.finish(Nanos::from_secs(900));
    assert!(table.poll_record().is_none() && table.is_empty());
}

#[test]
fn parts_of_a_cut_flow_have_statistics_of_their_own_and_the_same_hints() {
    let mut table = Table::new(TableConfig {
        active_timeout: Nanos::from_millis(200),
        ..everything()
    });
    for step in &STEPS[..6] {
        table.observe(Nanos::from_millis(step.0), None, &packet(step));
    }
    table.finish(Nanos::from_secs(2));
    let records: Vec<Record> = std::iter::from_fn(|| table.poll_record()).collect();
    let facts = |r: &Record| {
        let statistics = r.statistics.as_ref().expect("switched on");
        let repeated = statistics.tcp.as_ref().map(|t| t.sides[0].retransmissions);
        (
            r.packets(),
            statistics.sides[0].wire.count(),
            r.splt.len(),
            repeated,
        )
    };
    // The second request repeats the first, which the part before had.
    assert_eq!(facts(&records[0]), (4, 3, 4, Some(0)));
    assert_eq!(facts(&records[1]), (2, 1, 2, Some(1)));
    for r in &records {
        assert_eq!(
            r.hints.as_ref().map(|h| &*h.server_name),
            Some("example.org")
        );
        assert_eq!(r.splt[0].gap, Nanos(0));
    }
}

/// Packets of one flow: gap in ns, side, sizes and header fields.
fn any_packet() -> impl Strategy<Value = (u64, bool, Packet<'static>)> {
    (
        (
            prop_oneof![Just(0u64), 0..10_000_000_000u64],
            any::<bool>(),
            1..4u16,
        ),
        (0..1500u32, any::<u8>(), any::<u8>(), 0..256u16),
        any::<(u32, u32, u16)>(),
        (any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |((gap, out, segments), (payload, ttl, class, flags), (s, a, w), (tcp, part))| {
                let bytes = (payload + 40) * u32::from(segments);
                let p = Packet {
                    key: if out { KEY } else { KEY.reversed() },
                    sample: Sample {
                        wire: bytes + 14 * u32::from(segments),
                        bytes,
                        payload: payload * u32::from(segments),
                        segments,
                        tcp_flags: if tcp { flags & !5 } else { 0 },
                    },
                    ip_header_len: 20,
                    ttl,
                    traffic_class: class,
                    fragment: if part {
                        Fragment::First
                    } else {
                        Fragment::None
                    },
                    tcp: tcp.then_some(TcpFacts {
                        sequence: s,
                        acknowledgement: a,
                        window: w,
                        ..TcpFacts::default()
                    }),
                    icmp: (!tcp).then_some((ttl, class)),
                    ..Packet::default()
                };
                (gap, out, p)
            },
        )
}

proptest! {
    #[test]
    fn every_value_has_the_type_of_its_column(packets in prop::collection::vec(any_packet(), 1..60)) {
        let mut table = Table::new(TableConfig { splt: 20, ..everything() });
        let mut at = Nanos(1);
        for (gap, _, p) in &packets {
            at += Nanos(*gap);
            table.observe(at, None, p);
        }
        table.finish(at);
        let (columns, layout, mut row) = (table.columns(), table.layout(), Vec::new());
        while let Some(record) = table.poll_record() {
            record.values(&layout, &mut row);
            prop_assert_eq!(row.len(), columns.len());
            for (column, value) in columns.iter().zip(&row) {
                prop_assert!(value.fits(column.kind), "{}: {:?}", column.name, value);
            }
        }
    }

    /// Statistics of parts merge to those of the whole, the TCP facts aside.
    #[test]
    fn statistics_of_parts_merge_to_those_of_the_whole(
        packets in prop::collection::vec(any_packet(), 1..80),
        cut in any::<prop::sample::Index>(),
    ) {
        use chaff_flow::stats::Statistics;
        let threshold = Nanos::from_secs(5);
        let mut whole = Statistics::new(threshold);
        let mut parts = [Statistics::new(threshold), Statistics::new(threshold)];
        let cut = cut.index(packets.len() + 1);
        let mut at = Nanos(1);
        for (i, (gap, out, p)) in packets.iter().enumerate() {
            at += Nanos(*gap);
            let p = Packet { tcp: None, ..*p };
            whole.add(at, usize::from(!out), &p);
            parts[usize::from(i >= cut)].add(at, usize::from(!out), &p);
        }
        let [mut merged, later] = parts;
        merged.merge(&later);
        prop_assert_eq!(merged, whole);
    }
}

#[test]
fn wavelets_span_the_active_timeout_of_their_meter() {
    let config = TableConfig {
        active_timeout: Nanos::from_secs(60),
        ..TableConfig::default()
    };
    let values = |text: &str| {
        let mut table = Table::new(config.clone());
        table.add_plugin(Extension::built_in(text).expect("built in"));
        for s in [0, 1, 20, 40, 59] {
            let at = Nanos::from_secs(s);
            table.observe(at, None, &packet(&STEPS[0]));
        }
        table.finish(Nanos::from_secs(59));
        table.poll_record().expect("one flow").plugin_values
    };
    let own = values("wavelet,levels=3");
    assert_eq!(own, values("wavelet,levels=3,active=60"));
    assert_ne!(own, values("wavelet,levels=3,active=1800"));
}

#[test]
fn a_table_takes_no_two_columns_of_one_name() {
    let mut table = Table::new(TableConfig::default());
    let made = || Extension::built_in("splt,length=2").expect("built in");
    assert_eq!(table.try_add_plugin(made()), Ok(()));
    let columns = table.columns();
    assert!(table.try_add_plugin(made()).is_err());
    assert_eq!(table.columns(), columns);
    let mut meter = chaff_flow::nfstream::Meter::new(chaff_flow::nfstream::Config::default());
    assert_eq!(meter.try_add_plugin(made()), Ok(()));
    assert!(meter.try_add_plugin(made()).is_err());
}
