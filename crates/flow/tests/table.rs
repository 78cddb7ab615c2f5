//! The flow table against a naive model, and against itself fed by a simulated kernel.

use std::collections::BTreeMap;

use chaff_abi::{
    Counters, CoverCounters, Dir, DirectRecord, FlowKey, FlowValue, Mac, Nanos, SEQUENCE_LEN,
    Sample, SequenceEntry,
};
use chaff_flow::{EndReason, Packet, Record, Table, TableConfig, Tunnel, TunnelKind};
use proptest::prelude::*;

const IDLE: u64 = 120_000_000;
const ACTIVE: u64 = 1_800_000_000;
const LINGER: u64 = 5_000_000;

const FIN: u16 = 1;
const SYN: u16 = 2;
const RST: u16 = 4;
const ACK: u16 = 16;

/// One packet of a test stream. Times are in µs unless a test says otherwise.
#[derive(Clone, Copy, Debug)]
struct Event {
    gap: u64,
    flow: u8,
    dir: Dir,
    bytes: u32,
    flags: u16,
    drain: bool,
}

fn event() -> impl Strategy<Value = Event> {
    let gap = prop_oneof![Just(0u64), 1..5_000_000u64, 1..200_000_000u64];
    (
        gap,
        0..5u8,
        any::<bool>(),
        28..2000u32,
        prop_oneof![6 => (0..256u16).prop_map(|f| f & !(FIN | RST)), 2 => Just(FIN), 1 => Just(RST), 1 => Just(SYN)],
        prop::bool::weighted(0.15),
    )
        .prop_map(|(gap, flow, out, bytes, flags, drain)| Event {
            gap,
            flow,
            dir: if out { Dir::Out } else { Dir::In },
            bytes,
            flags,
            drain,
        })
}

/// Device-first key. The devices of flows 0 and 1 have addresses on either side of their peer's; flows 3 and 4 are UDP.
fn key(flow: u8) -> FlowKey {
    FlowKey {
        src: FlowKey::mapped([10, 0, 0, 100 + flow * 30]),
        dst: FlowKey::mapped([10, 0, 0, 150]),
        src_port: [0, 99],
        dst_port: [1, flow],
        protocol: if flow < 3 { 6 } else { 17 },
        version: 4,
        ..FlowKey::default()
    }
}

fn sample(e: &Event) -> Sample {
    Sample {
        wire: e.bytes + 14,
        bytes: e.bytes,
        payload: e.bytes - 28,
        segments: 1,
        tcp_flags: e.flags,
    }
}

const DEVICE: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn packet(e: &Event) -> Packet<'static> {
    let mut p = Packet {
        key: key(e.flow),
        sample: sample(e),
        src_mac: DEVICE,
        ..Packet::default()
    };
    if e.dir == Dir::In {
        p.key = p.key.reversed();
        (p.src_mac, p.dst_mac) = (p.dst_mac, p.src_mac);
    }
    p
}

fn config() -> TableConfig {
    TableConfig {
        idle_timeout: Nanos::from_micros(IDLE),
        active_timeout: Nanos::from_micros(ACTIVE),
        tcp_linger: Some(Nanos::from_micros(LINGER)),
        ..TableConfig::default()
    }
}

fn records(table: &mut Table) -> Vec<Record> {
    std::iter::from_fn(|| table.poll_record()).collect()
}

/// Order and number of records depend on when the timer is served; what they hold does not.
fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_by_key(|r| (r.start, r.key, r.end));
    for r in &mut records {
        r.id = 0;
    }
    records
}

fn observed(events: &[Event], unit: u64, timer: bool) -> Vec<Record> {
    let mut table = Table::new(config());
    let mut now = Nanos::ZERO;
    let mut out = Vec::new();
    for e in events {
        let next = now + Nanos(e.gap * unit);
        while let Some(at) = table.poll_timeout().filter(|at| timer && *at <= next) {
            table.handle_timeout(at);
            out.extend(records(&mut table));
        }
        now = next;
        table.observe(now, Some(e.dir), &packet(e));
    }
    table.finish(now);
    out.extend(records(&mut table));
    assert!(table.is_empty());
    out
}

/// What a flow's packets make, the slow way.
struct Model {
    key: FlowKey,
    first_dir: Dir,
    part: u32,
    last: u64,
    packets: Vec<(u64, Event)>,
    fin: [bool; 2],
    closed: bool,
}

impl Model {
    fn record(&self, reason: EndReason) -> Record {
        let mut sides = [Counters::EMPTY; 2];
        let mut sequence = Vec::new();
        let start = self.packets[0].0;
        for (at, e) in &self.packets {
            let side = usize::from(e.dir != self.first_dir);
            sides[side].add(Nanos(*at), sample(e));
            if sequence.len() < SEQUENCE_LEN {
                sequence.push(SequenceEntry {
                    offset_us: ((at - start) / 1000).min(u32::MAX as u64) as u32,
                    bytes: e.bytes as u16,
                    dir_flags: (side as u16) << 8 | e.flags,
                });
            }
        }
        let mut mac = [Mac::default(); 2];
        mac[self.first_dir.index()] = DEVICE;
        Record {
            id: 0,
            part: self.part,
            key: self.key,
            reverse_vlan: 0,
            tunnel: Tunnel::default(),
            outer: None,
            inner_vlan: 0,
            forward: sides[0],
            backward: sides[1],
            cover: [CoverCounters::default(); 2],
            start: Nanos(start),
            end: Nanos(self.last),
            reason,
            device_dir: Some(self.first_dir),
            mac,
            device: 0,
            ifindex: 0,
            sequence,
            statistics: None,
            splt: Vec::new(),
            hints: None,
            plugin_values: Vec::new(),
            process: None,
        }
    }

    /// Ends what must end before `at`; gives whether the flow goes on.
    fn expire(&mut self, at: u64, opens: bool, out: &mut Vec<Record>) -> bool {
        let idle = self.last + if self.closed { LINGER } else { IDLE } * 1000;
        let over = |otherwise| {
            if self.closed {
                EndReason::TcpEnd
            } else {
                otherwise
            }
        };
        if let Some((start, _)) = self.packets.first() {
            let active = start + ACTIVE * 1000;
            if active < idle && active <= at {
                out.push(self.record(over(EndReason::Active)));
                if self.closed {
                    return false;
                }
                self.packets.clear();
                self.part += 1;
            }
        }
        if idle > at && !(self.closed && opens) {
            return true;
        }
        if !self.packets.is_empty() {
            out.push(self.record(over(EndReason::Idle)));
        }
        false
    }

    fn push(&mut self, at: u64, e: &Event) {
        self.packets.push((at, *e));
        self.last = at;
        if self.key.protocol == 6 {
            self.fin[usize::from(e.dir != self.first_dir)] |= e.flags & FIN != 0;
            self.closed |= e.flags & RST != 0 || self.fin == [true; 2];
        }
    }
}

/// Runs the model; `begins(i)` hears of packets that begin a record of a flow seen before.
fn modelled(events: &[Event], unit: u64, begins: &mut dyn FnMut(usize)) -> Vec<Record> {
    let mut flows: BTreeMap<u8, Model> = BTreeMap::new();
    let mut out = Vec::new();
    let mut now = 0;
    for (i, e) in events.iter().enumerate() {
        now += e.gap * unit;
        if let Some(flow) = flows.get_mut(&e.flow) {
            let before = out.len();
            let opens = e.flags & (SYN | ACK) == SYN;
            let goes_on = flow.expire(now, opens, &mut out);
            if out.len() > before {
                begins(i);
            }
            if !goes_on {
                flows.remove(&e.flow);
            }
        }
        let first = packet(e).key;
        let flow = flows.entry(e.flow).or_insert(Model {
            key: first,
            first_dir: e.dir,
            part: 0,
            last: now,
            packets: vec![],
            fin: [false; 2],
            closed: false,
        });
        flow.push(now, e);
    }
    for flow in flows.values_mut() {
        if flow.expire(now, false, &mut out) && !flow.packets.is_empty() {
            out.push(flow.record(if flow.closed {
                EndReason::TcpEnd
            } else {
                EndReason::EndOfInput
            }));
        }
    }
    out
}

/// The same packets through kernel generations that end at random, and wherever a record begins.
fn absorbed(events: &[Event], unit: u64) -> Vec<Record> {
    let mut cuts = vec![false; events.len()];
    modelled(events, unit, &mut |i| cuts[i] = true);
    let mut table = Table::new(config());
    let mut generation: BTreeMap<FlowKey, FlowValue> = BTreeMap::new();
    let mut now = Nanos::ZERO;
    for (e, cut) in events.iter().zip(cuts) {
        now += Nanos(e.gap * unit);
        if e.drain || cut {
            // Any order of flows will do; this one is not the order of arrival.
            for (k, v) in std::mem::take(&mut generation).iter().rev() {
                table.absorb(now, *k, v);
            }
            // The packet at `now` itself is still in the kernel.
            table.handle_timeout(now - Nanos(1));
        }
        let value = generation.entry(key(e.flow)).or_insert(FlowValue {
            first: now,
            first_dir: e.dir as u8,
            mac: DEVICE.0,
            ..FlowValue::EMPTY
        });
        value.counters[e.dir.index()].add(now, sample(e));
        if (value.sequence_len as usize) < SEQUENCE_LEN {
            value.sequence[value.sequence_len as usize] = SequenceEntry {
                offset_us: now.since(value.first).as_micros().min(u32::MAX as u64) as u32,
                bytes: e.bytes as u16,
                dir_flags: (e.dir as u16) << 8 | e.flags,
            };
            value.sequence_len += 1;
        }
    }
    for (k, v) in &generation {
        table.absorb(now, *k, v);
    }
    table.finish(now);
    records(&mut table)
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_naive_model(events in prop::collection::vec(event(), 1..200)) {
        let expected = sorted(modelled(&events, 1000, &mut |_| ()));
        prop_assert_eq!(sorted(observed(&events, 1000, false)), expected.clone());
        prop_assert_eq!(sorted(observed(&events, 1000, true)), expected);
    }

    #[test]
    fn kernel_generations_make_the_records_of_the_packets(events in prop::collection::vec(event(), 1..200)) {
        prop_assert_eq!(sorted(absorbed(&events, 1000)), sorted(observed(&events, 1000, true)));
    }

    /// Offsets of single packets are whole microseconds since the start of their generation: with finer times two
    /// roundings can differ from one by a microsecond. All else is exact.
    #[test]
    fn kernel_generations_are_exact_but_for_a_microsecond_in_the_sequence(
        events in prop::collection::vec(event(), 1..200),
    ) {
        let (mut a, mut b) = (sorted(absorbed(&events, 997)), sorted(observed(&events, 997, true)));
        for (x, y) in a.iter_mut().zip(&mut b) {
            for (p, q) in x.sequence.iter_mut().zip(&mut y.sequence) {
                prop_assert!(p.offset_us.abs_diff(q.offset_us) <= 1);
                p.offset_us = q.offset_us;
            }
        }
        prop_assert_eq!(a, b);
    }

    #[test]
    fn a_full_table_ends_the_least_recently_active_flow(
        touches in prop::collection::vec((0..40u8, 0..3u64), 1..300),
        room in 1..8usize,
    ) {
        let mut table = Table::new(TableConfig { max_flows: room, ..config() });
        let mut recent: Vec<u8> = Vec::new();
        let mut now = 0;
        let mut packets = 0;
        for (flow, gap) in touches {
            // Distinct times, so that there is one least recent flow.
            now += gap + 1;
            let e = Event { gap: 0, flow: 0, dir: Dir::Out, bytes: 60, flags: 0, drain: false };
            let mut p = packet(&e);
            p.key.src_port[1] = flow;
            table.observe(Nanos::from_micros(now), None, &p);
            let expected = match recent.iter().position(|f| *f == flow) {
                Some(i) => { recent.remove(i); None }
                None if recent.len() == room => Some(recent.remove(0)),
                None => None,
            };
            recent.push(flow);
            let got = records(&mut table);
            prop_assert_eq!(got.iter().map(|r| r.key.src_port[1]).next(), expected);
            prop_assert!(got.iter().all(|r| r.reason == EndReason::Resource));
            packets += got.iter().map(Record::packets).sum::<u64>();
            prop_assert_eq!(table.len(), recent.len());
        }
        table.finish(Nanos::from_micros(now));
        packets += records(&mut table).iter().map(Record::packets).sum::<u64>();
        prop_assert_eq!(packets, table.stats().packets);
    }

    #[test]
    fn output_does_not_depend_on_the_hash_seed(events in prop::collection::vec(event(), 1..100), seed: u64) {
        let run = |seed| {
            let mut table = Table::new(TableConfig { hash_seed: seed, max_flows: 3, ..config() });
            let mut now = Nanos::ZERO;
            for e in &events {
                now += Nanos::from_micros(e.gap);
                table.observe(now, Some(e.dir), &packet(e));
            }
            table.finish(now);
            records(&mut table)
        };
        prop_assert_eq!(run(seed), run(0));
    }
}

fn at(flow: u8, dir: Dir) -> Packet<'static> {
    packet(&Event {
        gap: 0,
        flow,
        dir,
        bytes: 100,
        flags: 2,
        drain: false,
    })
}

#[test]
fn expires_idle_flow_at_its_deadline() {
    let mut table = Table::new(config());
    table.observe(Nanos::from_secs(1), None, &at(0, Dir::Out));
    assert_eq!(table.poll_timeout(), Some(Nanos::from_secs(121)));
    table.handle_timeout(Nanos::from_secs(121) - Nanos(1));
    assert_eq!(table.poll_record(), None);
    table.handle_timeout(Nanos::from_secs(121));
    let r = table.poll_record().expect("idle");
    assert_eq!(
        (r.reason, r.end, r.device_dir),
        (EndReason::Idle, Nanos::from_secs(1), None)
    );
    assert!(table.is_empty());
}

#[test]
fn a_cut_flow_keeps_its_initiator() {
    let mut table = Table::new(config());
    for s in (0..1800).step_by(100) {
        table.observe(Nanos::from_secs(s), Some(Dir::Out), &at(0, Dir::Out));
    }
    table.observe(Nanos::from_secs(1801), Some(Dir::In), &at(0, Dir::In));
    let first = table.poll_record().expect("cut");
    table.finish(Nanos::from_secs(1801));
    let second = table.poll_record().expect("the rest");
    assert_eq!(
        (first.reason, first.part, second.reason, second.part),
        (EndReason::Active, 0, EndReason::EndOfInput, 1)
    );
    assert_eq!(first.key, second.key);
    assert_eq!(
        (
            second.forward.packets,
            second.backward.packets,
            second.device_dir
        ),
        (0, 1, Some(Dir::Out))
    );
    assert_eq!(second.start, Nanos::from_secs(1801));
}

#[test]
fn a_cut_flow_without_more_packets_leaves_no_second_record() {
    let mut table = Table::new(config());
    for s in (0..1800).step_by(100) {
        table.observe(Nanos::from_secs(s), None, &at(0, Dir::Out));
    }
    table.handle_timeout(Nanos::from_secs(9999));
    assert_eq!(records(&mut table).len(), 1);
    assert!(table.is_empty());
    assert_eq!(table.poll_timeout(), None);
}

#[test]
fn a_packet_that_comes_late_keeps_its_time() {
    let mut table = Table::new(config());
    for s in [10, 11, 3, 12] {
        table.observe(Nanos::from_secs(s), None, &at(0, Dir::Out));
    }
    table.finish(Nanos::from_secs(12));
    let r = table.poll_record().expect("one");
    let secs = Nanos::from_secs;
    assert_eq!(
        (r.start, r.end, r.forward.first),
        (secs(3), secs(12), secs(3))
    );
    assert_eq!((r.forward.iat_min, r.forward.iat_max), (0, 1_000_000_000));
    let offsets: Vec<u32> = r.sequence.iter().map(|e| e.offset_us / 1_000_000).collect();
    assert_eq!(offsets, [7, 8, 0, 9]);
    assert_eq!((table.stats().disordered, table.stats().outliers), (1, 0));
}

/// Start in seconds, packets, reason of every record of packets of flow 0 at these seconds.
fn timed(seconds: &[u64], end: u64) -> (Vec<(u64, u64, EndReason)>, chaff_flow::TableStats) {
    let mut table = Table::new(config());
    for s in seconds {
        table.observe(Nanos::from_secs(*s), None, &at(0, Dir::Out));
    }
    table.finish(Nanos::from_secs(end));
    let told = records(&mut table)
        .iter()
        .map(|r| {
            assert!(r.end >= r.start && r.duration() < Nanos::from_micros(ACTIVE));
            (r.start.as_millis() / 1000, r.packets(), r.reason)
        })
        .collect();
    assert!(table.is_empty());
    (told, table.stats())
}

#[test]
fn a_packet_from_the_future_moves_nothing() {
    use EndReason::{EndOfInput, Idle};
    let future = 4_000_000_000;
    let (got, stats) = timed(&[1000, 1010, future, 1020, 1030, 1200, 1210], future);
    let mut got = got;
    got.sort();
    assert_eq!(
        got,
        [(1000, 4, Idle), (1200, 2, EndOfInput), (future, 1, Idle)]
    );
    assert_eq!((stats.outliers, stats.time_steps), (1, 0));
}

#[test]
fn four_packets_in_the_past_take_the_clock_along() {
    use EndReason::{EndOfInput, Idle, TimeStep};
    let (got, stats) = timed(&[9000, 9010, 1000, 1010, 1020, 1030, 1040, 1200], 1200);
    assert_eq!(
        got,
        [(9000, 2, TimeStep), (1000, 5, Idle), (1200, 1, EndOfInput)]
    );
    assert_eq!((stats.outliers, stats.time_steps), (0, 1));
    assert_eq!((TimeStep.name(), TimeStep.ipfix()), ("time_step", 4));
    // Three are not enough: they are a flow apart.
    let (mut got, stats) = timed(&[9000, 9010, 1000, 1010, 1020, 9020], 9020);
    got.sort();
    assert_eq!(got, [(1000, 3, EndOfInput), (9000, 3, EndOfInput)]);
    assert_eq!((stats.outliers, stats.time_steps), (3, 0));
}

#[test]
fn a_long_silence_is_no_step() {
    use EndReason::{EndOfInput, Idle};
    for after in 1..7 {
        let late: Vec<u64> = (0..after).map(|i| 100_000 + i).collect();
        let (got, stats) = timed(&[&[1000], &late[..]].concat(), 100_000 + after);
        assert_eq!(got, [(1000, 1, Idle), (100_000, after, EndOfInput)]);
        assert_eq!(
            (stats.outliers, stats.time_steps, stats.disordered),
            (0, 0, 0)
        );
    }
    let sparse = [1000, 20_000, 40_000, 60_000, 80_000, 100_000];
    assert_eq!(timed(&sparse, 100_000).0.len(), sparse.len());
}

#[test]
fn a_timer_that_was_set_back_takes_the_clock_along() {
    let mut table = Table::new(config());
    table.observe(Nanos::from_secs(9000), None, &at(0, Dir::Out));
    for s in 0..4 {
        assert_eq!(table.len(), 1);
        table.handle_timeout(Nanos::from_secs(1000 + s));
    }
    assert_eq!(
        table.poll_record().map(|r| r.reason),
        Some(EndReason::TimeStep)
    );
    table.observe(Nanos::from_secs(1010), None, &at(0, Dir::Out));
    assert_eq!(table.poll_timeout(), Some(Nanos::from_secs(1130)));
}

proptest! {
    /// Any times at all: every packet is in one record, whose times are those of its packets.
    #[test]
    fn no_times_lose_a_packet(
        times in prop::collection::vec(
            prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..u64::MAX / 4, 1_000_000_000_000..1_300_000_000_000u64],
            1..60,
        ),
        timer: bool,
    ) {
        let mut table = Table::new(config());
        let mut out = Vec::new();
        for (i, t) in times.iter().enumerate() {
            let mut p = at(i as u8 % 3, if i % 2 == 0 { Dir::Out } else { Dir::In });
            p.sample.tcp_flags = 16;
            table.observe(Nanos(*t), None, &p);
            if timer && i % 5 == 0 {
                table.handle_timeout(Nanos(*t));
            }
            out.extend(records(&mut table));
        }
        table.finish(Nanos(times[times.len() - 1]));
        out.extend(records(&mut table));
        prop_assert!(table.is_empty() && table.poll_timeout().is_none());
        prop_assert_eq!(out.iter().map(Record::packets).sum::<u64>(), times.len() as u64);
        for r in &out {
            prop_assert!(r.start <= r.end && times.contains(&r.start.0) && times.contains(&r.end.0));
            for side in [&r.forward, &r.backward].into_iter().filter(|c| c.packets > 0) {
                prop_assert!(r.start <= side.first && side.first <= side.last && side.last <= r.end);
            }
        }
    }
}

#[test]
fn frames_from_the_ring_join_the_flow_of_the_map() {
    let mut table = Table::new(config());
    let now = Nanos::from_secs(5);
    let mut value = FlowValue {
        first: now,
        mac: DEVICE.0,
        device: 7,
        ..FlowValue::EMPTY
    };
    value.counters[0].add(
        now,
        Sample {
            wire: 74,
            bytes: 60,
            payload: 0,
            segments: 1,
            tcp_flags: 2,
        },
    );
    table.absorb(now, key(1), &value);
    let later = now + Nanos::from_millis(3);
    let direct = DirectRecord {
        key: key(1),
        at: later,
        wire: 3042,
        bytes: 3000,
        payload: 2900,
        segments: 2,
        tcp_flags: 16,
        dir: Dir::In as u8,
        mac: DEVICE.0,
        ..DirectRecord::default()
    };
    table.absorb_direct(later, &direct);
    table.absorb_direct(
        later,
        &DirectRecord {
            cover: 1,
            segments: 1,
            bytes: 500,
            ..direct
        },
    );
    table.finish(later);
    let r = table.poll_record().expect("one flow");
    assert_eq!((r.forward.packets, r.backward.packets, r.device), (1, 2, 7));
    assert_eq!(
        (r.cover[1].packets, r.cover[1].bytes, r.end),
        (1, 500, later)
    );
    assert_eq!(r.sequence.len(), 1);
    assert_eq!(
        (r.sequence[0].offset_us, r.sequence[0].dir_flags),
        (3000, 0x110)
    );
    assert_eq!(table.stats().packets, 4);
}

#[test]
fn kernel_flows_wait_for_the_next_drain_before_the_timer_ends_them() {
    let mut table = Table::new(config());
    let mut value = FlowValue {
        first: Nanos::from_secs(1),
        ..FlowValue::EMPTY
    };
    value.counters[0].add(
        Nanos::from_secs(1),
        Sample {
            segments: 1,
            bytes: 60,
            ..Sample::default()
        },
    );
    table.absorb(Nanos::from_secs(2), key(0), &value);
    table.handle_timeout(Nanos::from_secs(125));
    assert_eq!(table.poll_record(), None);
    table.handle_timeout(Nanos::from_secs(126));
    assert_eq!(table.poll_record().expect("due").reason, EndReason::Idle);
}

#[test]
fn a_flow_of_cover_alone_makes_a_record() {
    let mut table = Table::new(config());
    let mut value = FlowValue {
        first: Nanos::from_secs(1),
        ..FlowValue::EMPTY
    };
    value.cover[0] = CoverCounters {
        packets: 3,
        bytes: 900,
    };
    table.absorb(Nanos::from_secs(2), key(0), &value);
    table.finish(Nanos::from_secs(3));
    let r = table.poll_record().expect("one");
    assert_eq!(
        (r.packets(), r.cover[0].packets, r.start, r.end),
        (0, 3, Nanos::from_secs(1), Nanos::from_secs(2))
    );
}

#[test]
fn memory_stays_bounded_while_every_packet_is_a_new_flow() {
    let mut table = Table::new(TableConfig {
        max_flows: 100,
        ..config()
    });
    for i in 0..20_000u64 {
        let mut p = at(0, Dir::Out);
        p.key.src_port = (i as u16).to_be_bytes();
        p.key.dst[12] = (i >> 16) as u8;
        table.observe(Nanos::from_micros(i), None, &p);
        assert!(table.len() <= 100);
        while table.poll_record().is_some() {}
    }
    assert_eq!(
        (table.stats().evicted, table.stats().peak_flows),
        (19_900, 100)
    );
}

/// A TCP packet of flow 0 with these flags.
fn tcp(dir: Dir, flags: u16) -> Packet<'static> {
    packet(&Event {
        gap: 0,
        flow: 0,
        dir,
        bytes: 60,
        flags,
        drain: false,
    })
}

#[test]
fn a_closed_connection_keeps_its_last_acknowledgement_and_ends_after_the_linger() {
    let mut table = Table::new(config());
    let ms = Nanos::from_millis;
    for (t, dir, flags) in [
        (0, Dir::Out, SYN),
        (1, Dir::In, SYN | ACK),
        (2, Dir::Out, ACK),
        (10, Dir::Out, FIN | ACK),
        (11, Dir::In, FIN | ACK),
        (12, Dir::Out, ACK),
    ] {
        table.observe(ms(t), None, &tcp(dir, flags));
    }
    assert_eq!(table.poll_timeout(), Some(ms(5011)));
    table.handle_timeout(ms(5011));
    assert_eq!(table.poll_record(), None);
    table.handle_timeout(ms(5012));
    let r = table.poll_record().expect("over");
    assert_eq!(
        (r.reason, r.packets(), r.end),
        (EndReason::TcpEnd, 6, ms(12))
    );
    assert_eq!((r.reason.ipfix(), r.reason.name()), (3, "tcp_end"));
    assert!(table.is_empty());
}

#[test]
fn a_syn_after_the_end_begins_the_next_flow_at_once() {
    let mut table = Table::new(config());
    table.observe(Nanos(0), None, &tcp(Dir::Out, SYN));
    table.observe(Nanos(1), None, &tcp(Dir::In, RST | ACK));
    // Not a new connection: a retransmitted answer.
    table.observe(Nanos(2), None, &tcp(Dir::In, SYN | ACK));
    table.observe(Nanos(3), None, &tcp(Dir::In, SYN));
    let first = table.poll_record().expect("the first connection");
    assert_eq!((first.reason, first.packets()), (EndReason::TcpEnd, 3));
    table.finish(Nanos(4));
    let second = table.poll_record().expect("the second one");
    assert_eq!(
        (second.reason, second.packets()),
        (EndReason::EndOfInput, 1)
    );
    assert_eq!(second.key, first.key.reversed());
}

#[test]
fn without_linger_flags_end_nothing() {
    let mut table = Table::new(TableConfig {
        tcp_linger: None,
        ..config()
    });
    for t in 0..10 {
        table.observe(Nanos::from_secs(t * 10), None, &tcp(Dir::Out, RST));
    }
    table.finish(Nanos::from_secs(100));
    let r = table.poll_record().expect("one flow");
    assert_eq!((r.reason, r.packets()), (EndReason::EndOfInput, 10));
}

#[test]
fn protocols_have_idle_timeouts_of_their_own() {
    let mut table = Table::new(TableConfig {
        idle_tcp: Some(Nanos::from_secs(300)),
        idle_udp: Some(Nanos::from_secs(30)),
        idle_icmp: Some(Nanos::from_secs(10)),
        ..config()
    });
    for protocol in [6, 17, 1, 58, 47] {
        let mut p = at(0, Dir::Out);
        p.key.protocol = protocol;
        table.observe(Nanos::ZERO, None, &p);
    }
    let mut ends = Vec::new();
    while let Some(at) = table.poll_timeout() {
        table.handle_timeout(at);
        ends.extend(
            records(&mut table)
                .iter()
                .map(|r| (at.as_millis() / 1000, r.key.protocol)),
        );
    }
    assert_eq!(ends, [(10, 1), (10, 58), (30, 17), (120, 47), (300, 6)]);
}

#[test]
fn packets_of_different_tunnels_and_inner_tags_are_different_flows() {
    let mut table = Table::new(TableConfig {
        vlan_key: true,
        ..config()
    });
    let tunnel = |kind, depth, network| Tunnel {
        kind,
        depth,
        network,
        id: network,
    };
    let ways = [
        (Tunnel::default(), 0),
        (Tunnel::default(), 9),
        (tunnel(TunnelKind::GtpU, 1, 0), 0),
        (tunnel(TunnelKind::Vxlan, 1, 0), 0),
        (tunnel(TunnelKind::Vxlan, 1, 77), 0),
        (tunnel(TunnelKind::Vxlan, 2, 77), 0),
    ];
    for dir in [Dir::Out, Dir::In] {
        for (tunnel, inner_vlan) in ways {
            let p = Packet {
                tunnel,
                inner_vlan,
                ..at(0, dir)
            };
            table.observe(Nanos::ZERO, None, &p);
        }
    }
    table.finish(Nanos::ZERO);
    let got: Vec<_> = records(&mut table)
        .iter()
        .map(|r| {
            (
                r.tunnel,
                r.inner_vlan,
                r.forward.packets,
                r.backward.packets,
            )
        })
        .collect();
    let expected: Vec<_> = ways.iter().map(|(t, v)| (*t, *v, 1, 1)).collect();
    assert_eq!(got, expected);
}

#[test]
fn packets_after_the_end_of_input_begin_anew() {
    let mut table = Table::new(config());
    for flow in 0..3 {
        table.observe(Nanos(1), None, &at(flow, Dir::Out));
    }
    table.finish(Nanos(2));
    assert_eq!(table.poll_timeout(), None);
    // One record is taken, the other two are still to be made when the next input begins.
    assert!(table.poll_record().is_some());
    table.observe(Nanos(3), None, &at(1, Dir::In));
    table.finish(Nanos(4));
    let rest = records(&mut table);
    assert_eq!(rest.len(), 3);
    assert!(
        rest.iter()
            .all(|r| r.packets() == 1 && r.reason == EndReason::EndOfInput)
    );
    assert_eq!(rest.iter().map(|r| r.id).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(table.is_empty());
}

#[test]
fn at_the_end_of_time_flows_go_on() {
    let mut table = Table::new(config());
    for dir in [Dir::Out, Dir::In, Dir::Out] {
        table.observe(Nanos::MAX, None, &at(0, dir));
    }
    table.handle_timeout(Nanos::MAX);
    table.finish(Nanos::MAX);
    let r = table.poll_record().expect("one flow");
    assert_eq!((r.forward.packets, r.backward.packets), (2, 1));
}

fn in_vlan(dir: Dir, vlan: u16) -> Packet<'static> {
    let mut p = at(0, dir);
    p.key.vlan = vlan.to_be_bytes();
    p
}

#[test]
fn a_tag_in_one_direction_only_splits_no_flow() {
    for (vlan_key, out, back) in [
        (false, 0, 100),
        (false, 7, 0),
        (false, 7, 8),
        (true, 0, 100),
    ] {
        let mut table = Table::new(TableConfig {
            vlan_key,
            ..config()
        });
        for (t, dir, vlan) in [(1, Dir::Out, out), (2, Dir::In, back), (3, Dir::Out, out)] {
            table.observe(Nanos(t), None, &in_vlan(dir, vlan));
        }
        table.finish(Nanos(4));
        let got: Vec<_> = records(&mut table)
            .iter()
            .map(|r| (r.key.vlan_id(), r.reverse_vlan, r.packets()))
            .collect();
        let expected = if vlan_key {
            vec![(out, 0, 2), (back, 0, 1)]
        } else {
            vec![(out, back, 3)]
        };
        assert_eq!(got, expected);
    }
}

/// The kernel has an entry for each VLAN id; whichever is drained first, the record is that of the packets.
#[test]
fn what_the_kernel_counts_for_each_vlan_is_one_flow() {
    let steps = [
        (1, Dir::Out, SYN),
        (2, Dir::In, SYN | ACK),
        (3, Dir::Out, ACK),
        (4, Dir::In, FIN | ACK),
        (6, Dir::Out, FIN | ACK),
    ];
    let vlan = |dir| if dir == Dir::Out { 5 } else { 0 };
    let mut offline = Table::new(config());
    let mut parts: BTreeMap<u16, FlowValue> = BTreeMap::new();
    for (t, dir, flags) in steps {
        let now = Nanos::from_secs(t);
        let mut p = in_vlan(dir, vlan(dir));
        p.sample.tcp_flags = flags;
        offline.observe(now, Some(dir), &p);
        let value = parts.entry(vlan(dir)).or_insert(FlowValue {
            first: now,
            first_dir: dir as u8,
            mac: DEVICE.0,
            ..FlowValue::EMPTY
        });
        value.counters[dir.index()].add(now, p.sample);
        value.sequence[usize::from(value.sequence_len)] = SequenceEntry {
            offset_us: now.since(value.first).as_micros() as u32,
            bytes: p.sample.bytes as u16,
            dir_flags: (dir as u16) << 8 | flags,
        };
        value.sequence_len += 1;
    }
    offline.finish(Nanos::from_secs(7));
    let expected = records(&mut offline);
    assert_eq!((expected.len(), expected[0].reverse_vlan), (1, 0));
    for order in [[0u16, 5], [5, 0]] {
        let mut live = Table::new(config());
        for vlan in order {
            let mut key = key(0);
            key.vlan = vlan.to_be_bytes();
            live.absorb(Nanos::from_secs(7), key, &parts[&vlan]);
        }
        live.finish(Nanos::from_secs(7));
        assert_eq!(records(&mut live), expected);
    }
}
