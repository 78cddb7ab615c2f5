//! The nfstream profile ([`chaff_flow::nfstream::Meter`]) on any frames at any times.
//!
//! Input: settings (4 bytes), plugin, then frames (see [`run`]).
//!
//! - Frames are packets of flows or left out for a reason; packets of flows are all packets.
//! - Flows are numbered in order; there are no more at once than there is room for.
//! - Every flow has a value of the right kind for each column, and a line of CSV has as many cells as the header.
//! - The hash function's key changes nothing.

use chaff_flow::nfstream::{Config, Flow, Meter, write_csv_header, write_csv_row};
use chaff_flow::plugin::Extension;
use chaff_flow::{Kind, Value};

use crate::bytes::{Bytes, push_piece};
use crate::parse::{index, link, wire_len};
use crate::rows::cells;
use crate::{Seeds, frames};

const PLUGINS: [&str; 7] = [
    "",
    "slicer,limit=3",
    "splt,length=5,size=ip",
    "dhcp",
    "mdns",
    "ja4",
    "wavelet,levels=3,active=2",
];

/// See the module. Each frame: link, wire length, time in 4 ms (2 bytes, the upper half goes back), a piece.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let [bits, idle, active, room] = input.array();
    let plugin = PLUGINS[usize::from(input.u8()) % PLUGINS.len()];
    let bit = |n: u8| bits >> n & 1 == 1;
    let config = Config {
        accounting: bits & 3,
        idle_timeout_s: u32::from(idle % 8),
        active_timeout_s: u32::from(active % 16),
        statistics: bit(2),
        splt: if bit(3) { 4 } else { 0 },
        decode_tunnels: !bit(4),
        dissect: if bit(5) { 6 } else { 0 },
        dissect_room: 1 << 12,
        processes: bit(6),
        max_flows: 0,
        max_cached: 1 + usize::from(room % 16),
        hash_seed: 0,
    };
    let other = Config {
        hash_seed: 0x1234_5678_9abc_def0,
        ..config.clone()
    };
    let (mut first, mut second) = (meter(config, plugin), meter(other, plugin));
    let (mut flows, mut others) = (Vec::new(), Vec::new());
    let (mut now, mut given) = (1_700_000_000_000_i64, 0);
    while !input.is_empty() {
        let (link, more, step) = (link(input.u8()), input.u8(), input.u16());
        now += 4 * i64::from(step as i16);
        let frame = input.piece();
        let wire_len = wire_len(more, frame.len());
        given += 1;
        let result = first.observe(link, now, frame, wire_len);
        assert_eq!(result, second.observe(link, now, frame, wire_len));
        assert!(first.cached() <= first.config().max_cached);
        flows.extend(std::iter::from_fn(|| first.poll()));
        others.extend(std::iter::from_fn(|| second.poll()));
    }
    first.finish();
    second.finish();
    flows.extend(std::iter::from_fn(|| first.poll()));
    others.extend(std::iter::from_fn(|| second.poll()));
    assert_eq!(first.cached(), 0);
    let stats = first.stats();
    assert_eq!(stats.packets + stats.total_ignored(), given);
    assert_eq!(stats.flows, flows.len() as u64);
    let counted: u64 = flows.iter().flat_map(Flow::packets).sum();
    assert_eq!(counted, stats.packets);
    check(&first, &flows, &others);
}

fn meter(config: Config, plugin: &str) -> Meter {
    let mut meter = Meter::new(config);
    if !plugin.is_empty() {
        meter.add_plugin(Extension::built_in(plugin).unwrap());
    }
    meter
}

fn check(meter: &Meter, flows: &[Flow], others: &[Flow]) {
    let columns = meter.columns();
    let (mut row, mut other_row, mut line) = (Vec::new(), Vec::new(), Vec::new());
    write_csv_header(&mut line, &columns, "\r\n");
    assert_eq!(
        cells(&line),
        [columns
            .iter()
            .map(|c| c.name.to_string())
            .collect::<Vec<_>>()]
    );
    assert_eq!(flows.len(), others.len());
    for (i, (flow, other)) in flows.iter().zip(others).enumerate() {
        assert_eq!(flow.id(), i as u64);
        row.clear();
        other_row.clear();
        flow.values(meter.config(), &mut row);
        other.values(meter.config(), &mut other_row);
        assert_eq!(row, other_row);
        assert_eq!(row.len(), columns.len());
        line.clear();
        write_csv_row(&mut line, &row, "\r\n");
        let lines = cells(&line);
        assert_eq!(lines.len(), 1, "{}", String::from_utf8_lossy(&line));
        assert_eq!(lines[0].len(), columns.len());
        for ((value, column), cell) in row.iter().zip(&columns).zip(&lines[0]) {
            assert!(value.fits(column.kind), "{}: {value:?}", column.name);
            if let (Value::Text(text), Kind::Text) = (value, column.kind) {
                assert_eq!(cell, text, "{}", column.name);
            }
        }
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    for (name, settings) in [
        ("plain", [0, 2, 5, 15, 0]),
        ("statistics", [0x0d, 0, 0, 3, 2]),
        ("dissect", [0x2f, 7, 15, 15, 5]),
        ("outer", [0x1c, 1, 2, 1, 6]),
    ] {
        let mut input = settings.to_vec();
        for round in 0..2 {
            for (_, link, frame) in frames::all() {
                input.extend([index(link), 0, 0, 40 + round]);
                push_piece(&mut input, &frame);
            }
        }
        seeds.push((name.into(), input));
    }
    for (i, plugin) in PLUGINS.iter().enumerate().skip(1) {
        let mut input = vec![0x0c, 3, 9, 9, i as u8];
        for (ports, payload) in frames::talk() {
            for (ports, payload) in [(ports, &payload), ([ports[1], ports[0]], &payload)] {
                let udp = frames::udp(ports, payload);
                let frame = frames::ethernet(0x0800, &frames::ipv4(17, 0, &[], &udp));
                input.extend([0, 0, 0, 200]);
                push_piece(&mut input, &frame);
                let tcp = frames::tcp(ports, 0x18, &[], payload);
                let frame = frames::ethernet(0x0800, &frames::ipv4(6, 0, &[], &tcp));
                input.extend([0, 0, 0, 90]);
                push_piece(&mut input, &frame);
            }
        }
        let name = plugin.split(',').next().unwrap_or_default();
        seeds.push((format!("plugin-{name}"), input));
    }
    seeds
}
