//! The flow table under any packets, in any order, at any times ([`chaff_flow::Table`]).
//!
//! Input: idle timeout, active timeout, room for flows, hash seed, what records have, then operations (see [`run`]).
//!
//! - Packets in are packets in the records once the table is finished, none twice; so are bytes and cover.
//! - Never more flows than there is room for; nothing is left after the end.
//! - Records count from 0, end no earlier than they start, and a flow's parts count from 0.
//! - The next deadline lies in the future of a table that was just served.
//! - Every record has a value of the right kind for each column.
//! - A second table with another hash seed, which is also woken at other times, makes the same records.

use std::collections::BTreeMap;

use chaff_abi::{
    Counters, CoverCounters, Dir, DirectRecord, FlowKey, FlowValue, Mac, Nanos, Sample,
};
use chaff_flow::{Fragment, Packet, Parser, ParserConfig, Record, Table, TableConfig, Tunnel};

use crate::bytes::{Bytes, push_piece};
use crate::parse::{index, link, wire_len};
use crate::{Seeds, frames};

/// What went in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Total {
    packets: u64,
    bytes: u64,
    cover_packets: u64,
    cover_bytes: u64,
}

/// The table, and a second one that is woken at other times. They agree while no flow is turned out for room: which one
/// goes depends on what was served before.
struct Pair {
    first: Table,
    second: Table,
    parser: Parser,
    now: Nanos,
    /// When only the first table was woken: from then on time does not go back behind it, or the two would disagree.
    floor: Nanos,
    total: Total,
    records: Vec<Record>,
    others: Vec<Record>,
    room: usize,
}

/// See the module. Each operation is a byte (low three bits what, the others how), time passed (2 bytes, in 5 ms) where time
/// passes, and its own bytes.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let config = TableConfig {
        idle_timeout: Nanos::from_millis(10 * u64::from(input.u8())),
        active_timeout: Nanos::from_millis(20 * u64::from(input.u8())),
        max_flows: 1 + usize::from(input.u8()) % 32,
        drain_grace: Nanos::from_millis(100),
        hash_seed: u64::from(input.u8()),
        ..extras(input.u8())
    };
    let mut pair = Pair::new(config);
    let mut kernel = false;
    while !input.is_empty() {
        let what = input.u8();
        pair.pass(&mut input);
        match what & 7 {
            0..=3 => pair.packet(&mut input, what & 8 != 0),
            4 => pair.frame(&mut input),
            5 => {
                kernel = true;
                pair.direct(&mut input);
            }
            6 => {
                kernel = true;
                pair.part(&mut input);
            }
            _ => {
                pair.first.handle_timeout(pair.now);
                pair.floor = pair.now;
            }
        }
        pair.check();
    }
    pair.finish(kernel);
}

impl Pair {
    fn new(config: TableConfig) -> Self {
        let room = config.max_flows;
        let second = TableConfig {
            hash_seed: !config.hash_seed,
            ..config.clone()
        };
        Self {
            first: Table::new(config),
            second: Table::new(second),
            parser: Parser::new(ParserConfig {
                fragments: 8,
                ..ParserConfig::default()
            }),
            now: Nanos::from_secs(1),
            floor: Nanos::ZERO,
            total: Total::default(),
            records: Vec::new(),
            others: Vec::new(),
            room,
        }
    }

    /// Time passes; now and then it goes back a little, which a table takes as standing still.
    fn pass(&mut self, input: &mut Bytes<'_>) {
        let step = input.u16();
        self.now = if step >= 0xfff0 {
            Nanos(self.now.0.saturating_sub(u64::from(step & 15) * 3_000_000))
        } else {
            self.now + Nanos::from_millis(5 * u64::from(step & 0xff)) + Nanos(u64::from(step >> 8))
        };
        self.now = self.now.max(self.floor);
    }

    /// One of 256 flows, sizes and flags as the input says.
    fn packet(&mut self, input: &mut Bytes<'_>, cover: bool) {
        let key = key(input.u8());
        let [size, flags] = input.array::<2>();
        let sample = Sample {
            wire: u32::from(size) + 14,
            bytes: u32::from(size),
            payload: u32::from(size / 2),
            segments: u16::from(flags & 3),
            tcp_flags: u16::from(flags),
        };
        let packet = Packet {
            key,
            sample,
            src_mac: Mac([2, 0, 0, 0, 0, key.src[15]]),
            dst_mac: Mac([2, 0, 0, 0, 0, key.dst[15]]),
            fragment: if flags == 0xff {
                Fragment::Later
            } else {
                Fragment::None
            },
            ..Packet::default()
        };
        self.observe(&packet, direction(size), cover);
    }

    fn frame(&mut self, input: &mut Bytes<'_>) {
        let (kind, more) = (link(input.u8()), input.u8());
        let frame = input.piece();
        let wire_len = wire_len(more, frame.len());
        let mut parser = std::mem::take(&mut self.parser);
        if let Ok(packet) = parser.parse(self.now, kind, frame, wire_len) {
            self.observe(&packet, None, false);
        }
        self.parser = parser;
    }

    fn observe(&mut self, packet: &Packet<'_>, dir: Option<Dir>, cover: bool) {
        let segments = u64::from(packet.sample.segments.max(1));
        let bytes = u64::from(packet.sample.bytes);
        for table in [&mut self.first, &mut self.second] {
            if cover {
                table.observe_cover(self.now, dir, packet);
            } else {
                table.observe(self.now, dir, packet);
            }
        }
        if cover {
            self.total.cover_packets += segments;
            self.total.cover_bytes += bytes;
        } else {
            self.total.packets += segments;
            self.total.bytes += bytes;
        }
    }

    /// A frame that found no room in the kernel's map.
    fn direct(&mut self, input: &mut Bytes<'_>) {
        let (key, size, ago, dir) = (key(input.u8()), input.u8(), input.u8(), input.u8());
        let record = DirectRecord {
            at: Nanos(self.now.0.saturating_sub(u64::from(ago) * 1_000_000)),
            key,
            dir: dir & 1,
            mac: [2, 0, 0, 0, 0, 9],
            wire: u32::from(size) + 14,
            bytes: u32::from(size),
            payload: u32::from(size / 2),
            segments: u16::from(dir >> 6),
            tcp_flags: u16::from(size),
            cover: (dir >> 1) & 1,
            ..DirectRecord::default()
        };
        let segments = u64::from(record.segments.max(1));
        if record.cover != 0 {
            self.total.cover_packets += segments;
            self.total.cover_bytes += u64::from(size);
        } else {
            self.total.packets += segments;
            self.total.bytes += u64::from(size);
        }
        self.first.absorb_direct(self.now, &record);
        self.second.absorb_direct(self.now, &record);
    }

    /// What the kernel counted of one flow in one generation.
    fn part(&mut self, input: &mut Bytes<'_>) {
        let key = key(input.u8());
        let begin = Nanos(self.now.0.saturating_sub(u64::from(input.u8()) * 1_000_000));
        let [counts, sizes, cover, dir] = input.array::<4>();
        let mut value = FlowValue {
            first: begin,
            first_dir: dir & 1,
            ..FlowValue::EMPTY
        };
        value.counters = [Counters::EMPTY; 2];
        for (side, n) in [counts & 15, counts >> 4].into_iter().enumerate() {
            for i in 0..u64::from(n) {
                let sample = Sample {
                    wire: u32::from(sizes) + 14,
                    bytes: u32::from(sizes),
                    payload: u32::from(sizes / 2),
                    segments: 1,
                    tcp_flags: u16::from(dir),
                };
                let at = Nanos((begin.0 + i * 1_000).min(self.now.0));
                value.counters[side].add(at, sample);
            }
            self.total.packets += u64::from(n);
            self.total.bytes += u64::from(n) * u64::from(sizes);
        }
        for (side, n) in [cover & 15, cover >> 4].into_iter().enumerate() {
            let bytes = u64::from(n) * 100;
            value.cover[side] = CoverCounters {
                packets: u64::from(n),
                bytes,
            };
            self.total.cover_packets += u64::from(n);
            self.total.cover_bytes += bytes;
        }
        self.first.absorb(self.now, key, &value);
        self.second.absorb(self.now, key, &value);
    }

    fn check(&mut self) {
        for (table, records) in [
            (&mut self.first, &mut self.records),
            (&mut self.second, &mut self.others),
        ] {
            assert!(
                table.len() <= self.room,
                "{} flows in {}",
                table.len(),
                self.room
            );
            assert!(table.stats().peak_flows <= self.room);
            while let Some(record) = table.poll_record() {
                records.push(record);
            }
        }
    }

    /// `kernel`: the moment at which a flow of the kernel ends depends on when the table is woken, within the grace.
    fn finish(mut self, kernel: bool) {
        self.first.finish(self.now);
        self.second.finish(self.now);
        self.check();
        for table in [&self.first, &self.second] {
            assert!(table.is_empty());
            assert_eq!(table.poll_timeout(), None);
        }
        sound(&self.records, self.total, &self.first);
        sound(&self.others, self.total, &self.second);
        if !kernel && self.first.stats().evicted == 0 && self.second.stats().evicted == 0 {
            assert_eq!(sorted(self.records), sorted(self.others));
        }
    }
}

/// Settings by bits: 0 statistics, 1 SPLT, 2 dissection, 3 TCP flows end by timeouts only, 4 idle timeouts by protocol.
fn extras(bits: u8) -> TableConfig {
    let bit = |n: u8| bits >> n & 1 == 1;
    let own = |ms| bit(4).then_some(Nanos::from_millis(ms));
    TableConfig {
        statistics: bit(0),
        splt: if bit(1) { 6 } else { 0 },
        dissect: if bit(2) { 8 } else { 0 },
        tcp_linger: (!bit(3)).then_some(Nanos::from_millis(50)),
        idle_tcp: own(70),
        idle_udp: own(300),
        idle_icmp: own(0),
        activity_gap: Nanos::from_millis(20),
        ..TableConfig::default()
    }
}

fn sound(records: &[Record], want: Total, table: &Table) {
    let mut found = Total::default();
    let mut parts: BTreeMap<(FlowKey, Tunnel, u16, u32), Nanos> = BTreeMap::new();
    let (layout, columns, mut row) = (table.layout(), table.columns(), Vec::new());
    for (i, record) in records.iter().enumerate() {
        assert_eq!(record.id, i as u64);
        assert!(record.start <= record.end, "{record:?}");
        assert!(record.sequence.len() as u64 <= record.packets().max(1) || record.packets() > 0);
        let part = |n| (record.key, record.tunnel, record.inner_vlan, n);
        let before = record.part.checked_sub(1);
        assert!(
            before.is_none_or(|n| parts.contains_key(&part(n))),
            "part without the one before it: {record:?}"
        );
        parts.insert(part(record.part), record.start);
        record.values(&layout, &mut row);
        assert_eq!(row.len(), columns.len());
        for (value, column) in row.iter().zip(&columns) {
            assert!(value.fits(column.kind), "{}: {value:?}", column.name);
        }
        for counters in [&record.forward, &record.backward] {
            found.packets += counters.packets;
            found.bytes += counters.bytes;
            if counters.packets > 0 {
                assert!(counters.first <= counters.last, "{record:?}");
                assert!(record.start <= counters.first, "{record:?}");
            }
        }
        for cover in record.cover {
            found.cover_packets += cover.packets;
            found.cover_bytes += cover.bytes;
        }
    }
    assert_eq!(found, want);
    let stats = table.stats();
    assert_eq!(stats.packets, want.packets + want.cover_packets);
    assert_eq!(stats.records, records.len() as u64);
}

/// Records without the number that the order gave them.
fn sorted(records: Vec<Record>) -> Vec<Record> {
    let mut records: Vec<Record> = records
        .into_iter()
        .map(|record| Record { id: 0, ..record })
        .collect();
    records.sort_by_key(|r| (r.start, r.key, r.part));
    records
}

fn direction(byte: u8) -> Option<Dir> {
    match byte & 3 {
        0 => Some(Dir::Out),
        1 => Some(Dir::In),
        _ => None,
    }
}

/// Few addresses and ports, so that flows meet: bits 0-1 source, 2-3 destination, 4 ports, 5 protocol, 6 version, 7 turned.
fn key(byte: u8) -> FlowKey {
    let bit = |n: u8| (byte >> n) & 1;
    let address = |host: u8| {
        let mut address = if bit(6) == 0 {
            FlowKey::mapped([10, 0, 0, 0])
        } else {
            [0xfd; 16]
        };
        address[15] = host;
        address
    };
    let key = FlowKey {
        src: address(byte & 3),
        dst: address((byte >> 2) & 3),
        src_port: [0, 10 + bit(4)],
        dst_port: [0, 10],
        vlan: [0; 2],
        protocol: if bit(5) == 0 { 6 } else { 17 },
        version: if bit(6) == 0 { 4 } else { 6 },
    };
    if bit(7) == 0 { key } else { key.reversed() }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let mut conversation = vec![30, 40, 8, 1, 3];
    for i in 0..40u8 {
        // A packet of one of four flows after a few milliseconds, now and then a wake-up.
        conversation.extend([0, 0, i % 7, (i % 4) | (i & 1) << 7, 60 + i, 0x10]);
        if i % 9 == 0 {
            conversation.extend([7, 0, i]);
        }
    }
    let mut crowd = vec![255, 255, 3, 2, 0];
    for i in 0..60u8 {
        crowd.extend([i & 8, 0, 1, i.wrapping_mul(37), i, i]);
    }
    let mut kernel = vec![20, 20, 4, 3, 8];
    for i in 0..20u8 {
        kernel.extend([6, 0, 5, i % 3, 4, 0x21, 99, i & 1, i]);
        kernel.extend([5, 0, 2, i % 5, 80, 3, i]);
        kernel.extend([7, 0, 30]);
    }
    let mut raw = vec![100, 100, 16, 4, 0x17];
    for (_, link, frame) in frames::all() {
        raw.extend([4, 0, 1, index(link), 0]);
        push_piece(&mut raw, &frame);
    }
    vec![
        ("conversation".into(), conversation),
        ("crowd".into(), crowd),
        ("kernel".into(), kernel),
        ("raw".into(), raw),
        (
            "back-in-time".into(),
            vec![5, 5, 5, 5, 0, 0, 0, 9, 1, 2, 3, 0, 0xff, 0xff, 1, 2, 3],
        ),
    ]
}
