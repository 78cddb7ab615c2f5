//! IPFIX messages, read by a decoder that knows only RFC 7011, 5103 and 5610.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

use chaff_abi::{Mac, Nanos};
use chaff_export::{
    Anonymizer, Collector, Ipfix, IpfixOptions, Key, Mode, Output, Target, ipfix_elements,
};
use chaff_flow::{Column, Kind, Value};
use proptest::prelude::*;

fn column(name: &'static str, kind: Kind, unit: &'static str) -> Column {
    Column {
        name: name.into(),
        kind,
        unit: unit.into(),
        doc: "Meaning.".into(),
    }
}

fn columns() -> Vec<Column> {
    vec![
        column("id", Kind::Unsigned, ""),
        column("end_reason", Kind::Text, ""),
        column("start_ns", Kind::Unsigned, "ns since 1970"),
        column("end_ns", Kind::Unsigned, "ns since 1970"),
        column("src_ip", Kind::Text, ""),
        column("src_port", Kind::Unsigned, ""),
        column("dst_ip", Kind::Text, ""),
        column("dst_port", Kind::Unsigned, ""),
        column("protocol", Kind::Unsigned, ""),
        column("src_mac", Kind::Text, ""),
        column("tcp_flags", Kind::Unsigned, ""),
        column("fwd_packets", Kind::Unsigned, "packets"),
        column("fwd_bytes", Kind::Unsigned, "bytes"),
        column("bwd_packets", Kind::Unsigned, "packets"),
        column("bwd_bytes", Kind::Unsigned, "bytes"),
        column("fwd_tcp_flags", Kind::Unsigned, ""),
        column("application_name", Kind::Text, ""),
        column("fwd_bytes_mean", Kind::Float, "bytes"),
        column("server_name", Kind::Text, ""),
        column("offset", Kind::Signed, "ms"),
        column("sizes", Kind::List, "bytes"),
    ]
}

fn row(n: u64, v6: bool) -> Vec<Value> {
    let ip = |last: u64| {
        if v6 {
            Value::Ip(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last as u16).into())
        } else {
            Value::Ip(Ipv4Addr::new(10, 0, 0, last as u8).into())
        }
    };
    vec![
        Value::Unsigned(n),
        Value::Word("active"),
        Value::Unsigned(1_700_000_000_123_456_789 + n),
        Value::Unsigned(1_700_000_007_999_999_999),
        ip(1),
        Value::Unsigned(5_000),
        ip(2),
        Value::Unsigned(443),
        Value::Unsigned(6),
        Value::Mac(Mac([2, 0, 0, 0, 0, 9])),
        Value::Unsigned(0x1b),
        Value::Unsigned(10 + n),
        Value::Unsigned(1_000 + n),
        Value::Unsigned(7),
        Value::Unsigned(u64::MAX),
        Value::Unsigned(2),
        Value::Text("TLS".into()),
        Value::Float(100.5),
        Value::Text("é".repeat(200)),
        Value::Signed(-3),
        Value::List(vec![1, 2]),
    ]
}

/// Keeps the messages apart.
#[derive(Default)]
struct Messages(Vec<Vec<u8>>);

impl io::Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes.to_vec());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target for Messages {}

fn messages(columns: &[Column], options: IpfixOptions, rows: &[Vec<Value>]) -> Vec<Vec<u8>> {
    let mut messages = Messages::default();
    let mut output: Box<dyn Output + '_> =
        Box::new(Ipfix::new(&mut messages, columns, options).expect("it fits"));
    output
        .time(Nanos::from_secs(1_700_000_100))
        .expect("memory");
    for row in rows {
        output.write(row).expect("memory");
    }
    output.finish().expect("memory");
    messages.0
}

type Name = (u32, u16);

/// What a collector knows.
#[derive(Default)]
struct Decoder {
    templates: BTreeMap<u16, Vec<(Name, u16)>>,
    records: Vec<BTreeMap<Name, Vec<u8>>>,
    types: Vec<BTreeMap<Name, Vec<u8>>>,
    option_templates: Vec<u16>,
    sequence: u32,
    template_sets: usize,
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

impl Decoder {
    fn message(&mut self, message: &[u8]) {
        assert_eq!(be(&message[..2]), 10);
        assert_eq!(be(&message[2..4]), message.len() as u64);
        assert_eq!(be(&message[4..8]), 1_700_000_100);
        assert_eq!(be(&message[8..12]) as u32, self.sequence);
        let mut rest = &message[16..];
        while !rest.is_empty() {
            let (id, length) = (be(&rest[..2]) as u16, be(&rest[2..4]) as usize);
            let body = &rest[4..length];
            match id {
                2 => self.template(body, false),
                3 => self.template(body, true),
                _ => self.data(id, body),
            }
            rest = &rest[length..];
        }
    }

    fn template(&mut self, body: &[u8], is_option: bool) {
        self.template_sets += 1;
        let (id, count) = (be(&body[..2]) as u16, be(&body[2..4]));
        let mut rest = &body[if is_option { 6 } else { 4 }..];
        let mut fields = Vec::new();
        for _ in 0..count {
            let (number, length) = (be(&rest[..2]) as u16, be(&rest[2..4]) as u16);
            let own = number & 0x8000 != 0;
            let enterprise = if own { be(&rest[4..8]) as u32 } else { 0 };
            fields.push(((enterprise, number & 0x7fff), length));
            rest = &rest[if own { 8 } else { 4 }..];
        }
        assert!(rest.is_empty());
        if is_option {
            self.option_templates.push(id);
        }
        self.templates.insert(id, fields);
    }

    fn data(&mut self, id: u16, body: &[u8]) {
        let fields = self
            .templates
            .get(&id)
            .expect("a template came first")
            .clone();
        let mut rest = body;
        while !rest.is_empty() {
            let mut record = BTreeMap::new();
            for (name, length) in &fields {
                let length = if *length == 0xffff {
                    let n = usize::from(rest[0]);
                    assert!(n < 255);
                    rest = &rest[1..];
                    n
                } else {
                    usize::from(*length)
                };
                assert!(
                    record.insert(*name, rest[..length].to_vec()).is_none(),
                    "{name:?} twice"
                );
                rest = &rest[length..];
            }
            self.sequence += 1;
            let to = if self.option_templates.contains(&id) {
                &mut self.types
            } else {
                &mut self.records
            };
            to.push(record);
        }
    }

    fn all(messages: &[Vec<u8>]) -> Self {
        let mut decoder = Self::default();
        messages.iter().for_each(|m| decoder.message(m));
        decoder
    }
}

#[test]
fn flows_are_read_back_with_both_directions() {
    let rows: Vec<_> = (0..100).map(|n| row(n, n % 3 == 0)).collect();
    let messages = messages(&columns(), IpfixOptions::default(), &rows);
    assert!(messages.iter().all(|m| m.len() <= 1_400));
    let decoder = Decoder::all(&messages);
    assert_eq!(decoder.records.len(), 100);
    for (n, record) in decoder.records.iter().enumerate() {
        let get = |id| be(&record[&(0, id)]);
        let reverse = |id| be(&record[&(29_305, id)]);
        assert_eq!((get(148), get(136), get(4), get(239)), (n as u64, 2, 6, 1));
        assert_eq!(
            (get(2), get(1), reverse(2), reverse(1)),
            (10 + n as u64, 1_000 + n as u64, 7, u64::MAX)
        );
        assert_eq!((get(7), get(11), get(6)), (5_000, 443, 0x1b));
        assert_eq!((get(152), get(153)), (1_700_000_000_123, 1_700_000_007_999));
        assert_eq!(record[&(0, 56)], [2, 0, 0, 0, 0, 9]);
        assert_eq!(record[&(0, 96)], b"TLS");
        // Nanoseconds come back exactly from the NTP format.
        let ntp = |id| {
            let (seconds, fraction) = (get(id) >> 32, get(id) & 0xffff_ffff);
            (seconds - 2_208_988_800) * 1_000_000_000
                + ((u128::from(fraction) * 1_000_000_000) >> 32) as u64
        };
        assert_eq!(
            (ntp(156), ntp(157)),
            (
                1_700_000_000_123_456_789 + n as u64,
                1_700_000_007_999_999_999
            )
        );
        if n % 3 == 0 {
            assert_eq!(record[&(0, 27)][..4], [0x20, 1, 0xd, 0xb8]);
            assert_eq!(record[&(0, 28)][15], 2);
        } else {
            assert_eq!(
                (record[&(0, 8)].as_slice(), record[&(0, 12)].as_slice()),
                (&[10, 0, 0, 1][..], &[10, 0, 0, 2][..])
            );
        }
        assert!(!record.keys().any(|(enterprise, _)| *enterprise == 32_473));
    }
}

#[test]
fn own_columns_travel_under_an_enterprise_number_with_their_meaning() {
    let options = IpfixOptions {
        enterprise: Some(32_473),
        ..IpfixOptions::default()
    };
    let decoder = Decoder::all(&messages(&columns(), options, &[row(0, false)]));
    let types: Vec<(u64, u64, String, String)> = decoder
        .types
        .iter()
        .map(|t| {
            let text = |id| String::from_utf8(t[&(0, id)].clone()).expect("UTF-8");
            assert_eq!(be(&t[&(0, 346)]), 32_473);
            (be(&t[&(0, 303)]), be(&t[&(0, 339)]), text(341), text(340))
        })
        .collect();
    // Flags of the initiator have the element of the flow's, and a list has none.
    let expected = [
        (18, 10, "fwd_bytes_mean", "Meaning. [bytes]"),
        (19, 13, "server_name", "Meaning."),
        (20, 8, "offset", "Meaning. [ms]"),
    ];
    assert_eq!(
        types,
        expected.map(|(i, t, n, d)| (i, t, n.to_string(), d.to_string()))
    );
    let record = &decoder.records[0];
    assert_eq!(f64::from_bits(be(&record[&(32_473, 18)])), 100.5);
    assert_eq!(be(&record[&(32_473, 20)]) as i64, -3);
    // 400 bytes of text are cut at a character.
    assert_eq!(record[&(32_473, 19)], "é".repeat(127).into_bytes());
}

#[test]
fn templates_come_again_for_collectors_that_came_late() {
    let rows: Vec<_> = (0..200).map(|n| row(n, false)).collect();
    let options = IpfixOptions {
        repeat_messages: 5,
        ..IpfixOptions::default()
    };
    let all = messages(&columns(), options, &rows);
    let decoder = Decoder::all(&all);
    assert_eq!(decoder.records.len(), 200);
    assert_eq!(decoder.template_sets, 2 * (all.len().div_ceil(6)));
    let once = Decoder::all(&messages(&columns(), IpfixOptions::reliable(), &rows));
    assert_eq!((once.template_sets, once.records.len()), (2, 200));
}

#[test]
fn tables_without_elements_and_records_without_room_are_refused() {
    let nothing = [column("note", Kind::Text, "")];
    let error = |columns: &[Column], options| {
        let made = Ipfix::new(Vec::new(), columns, options);
        made.err().expect("an error").to_string()
    };
    assert_eq!(
        error(&nothing, IpfixOptions::default()),
        "no column has an information element of IPFIX"
    );
    let many: Vec<_> = (0..300)
        .map(|n| Column {
            name: format!("n{n}").into(),
            ..column("", Kind::Float, "")
        })
        .collect();
    let options = IpfixOptions {
        enterprise: Some(32_473),
        ..IpfixOptions::default()
    };
    assert_eq!(
        error(&many, options),
        "300 elements make a record of 2400 bytes and a template of 2404; a message has room for 1380"
    );
    let mut ipfix = Ipfix::new(Vec::new(), &columns(), IpfixOptions::default()).expect("it fits");
    let mut token = row(0, false);
    token[4] = Value::Text("a token".into());
    assert_eq!(
        ipfix.write(&token).expect_err("no address").to_string(),
        "src_ip is not an address"
    );
}

#[test]
fn icmp_has_elements_by_version_and_other_flows_have_none() {
    let mut columns = columns();
    columns.push(column("icmp_type", Kind::Unsigned, ""));
    columns.push(column("icmp_code", Kind::Unsigned, ""));
    let flow = |n: u64, v6: bool, icmp: Option<(u64, u64)>| {
        let mut row = row(n, v6);
        let value = |n: Option<u64>| n.map_or(Value::Missing, Value::Unsigned);
        row.extend([value(icmp.map(|i| i.0)), value(icmp.map(|i| i.1))]);
        row
    };
    let rows = [
        flow(0, false, Some((3, 1))),
        flow(1, true, Some((135, 0))),
        flow(2, false, None),
        flow(3, true, None),
        flow(4, true, Some((136, 2))),
    ];
    let decoder = Decoder::all(&messages(&columns, IpfixOptions::default(), &rows));
    assert_eq!(decoder.template_sets, 4);
    let ids = [176, 177, 178, 179];
    let found: Vec<_> = decoder
        .records
        .iter()
        .map(|r| ids.map(|id| r.get(&(0, id)).map(|b| be(b))))
        .collect();
    assert_eq!(
        found,
        [
            [Some(3), Some(1), None, None],
            [None, None, Some(135), Some(0)],
            [None; 4],
            [None; 4],
            [None, None, Some(136), Some(2)],
        ]
    );
}

#[test]
fn numbers_and_times_that_became_tokens_are_left_out() {
    let key = Key::new(&[7; 32]).expect("a key");
    let chosen = ["start_ns", "src_port", "end_reason"];
    let (mut anonymizer, missing) = Anonymizer::new(&columns(), chosen, Mode::Hash, &key);
    assert!(missing.is_empty());
    let mut row = row(0, false);
    anonymizer.apply(&mut row);
    let changed = anonymizer.columns(&columns());
    assert!(is_left_out(&changed, "start_ns") && is_left_out(&changed, "src_port"));
    let decoder = Decoder::all(&messages(&changed, IpfixOptions::default(), &[row.clone()]));
    let record = &decoder.records[0];
    for id in [152, 156, 7] {
        assert!(!record.contains_key(&(0, id)), "{id}");
    }
    assert_eq!(be(&record[&(0, 153)]), 1_700_000_007_999);
    assert_eq!(record[&(0, 136)], [0]);
    // Under an enterprise number they are texts.
    let options = IpfixOptions {
        enterprise: Some(32_473),
        ..IpfixOptions::default()
    };
    let decoder = Decoder::all(&messages(&changed, options, &[row]));
    assert_eq!(decoder.records[0][&(32_473, 3)].len(), 128);
}

fn is_left_out(columns: &[Column], name: &str) -> bool {
    let column = columns.iter().find(|c| c.name == name);
    column.is_some_and(|c| ipfix_elements(c).is_empty())
}

#[test]
fn sockets_carry_the_messages() {
    let rows: Vec<_> = (0..30).map(|n| row(n, false)).collect();
    let send = |target: Box<dyn Target>, options| {
        let mut output = Box::new(Ipfix::new(target, &columns(), options).expect("it fits"));
        output
            .time(Nanos::from_secs(1_700_000_100))
            .expect("a clock");
        rows.iter()
            .for_each(|row| output.write(row).expect("a collector"));
        output.finish().expect("a collector");
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a port").port();
    let collector: Collector = format!("ipfix+tcp://127.0.0.1:{port}")
        .parse()
        .expect("an address");
    send(
        Box::new(collector.tcp().expect("a connection")),
        IpfixOptions::reliable(),
    );
    let mut stream = Vec::new();
    listener
        .accept()
        .expect("a connection")
        .0
        .read_to_end(&mut stream)
        .expect("bytes");
    let mut decoder = Decoder::default();
    let mut rest = stream.as_slice();
    while !rest.is_empty() {
        let (message, after) = rest.split_at(be(&rest[2..4]) as usize);
        decoder.message(message);
        rest = after;
    }
    assert_eq!(decoder.records.len(), 30);

    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("a port").port();
    let collector: Collector = format!("ipfix://127.0.0.1:{port}")
        .parse()
        .expect("an address");
    send(
        Box::new(collector.udp().expect("a socket")),
        IpfixOptions::default(),
    );
    let (mut decoder, mut message) = (Decoder::default(), [0; 2_000]);
    while decoder.records.len() < 30 {
        let length = socket.recv(&mut message).expect("a datagram");
        decoder.message(&message[..length]);
    }
}

#[test]
fn a_collector_that_is_away_costs_datagrams_and_nothing_else() {
    let port = UdpSocket::bind("127.0.0.1:0")
        .and_then(|s| s.local_addr())
        .expect("a port")
        .port();
    let collector: Collector = format!("ipfix://127.0.0.1:{port}")
        .parse()
        .expect("an address");
    let target = collector.udp().expect("a socket");
    let refused = target.refused();
    let mut output =
        Box::new(Ipfix::new(target, &columns(), IpfixOptions::default()).expect("it fits"));
    (0..500).for_each(|n| output.write(&row(n, false)).expect("it goes on"));
    output.finish().expect("it goes on");
    assert!(refused.load(std::sync::atomic::Ordering::Relaxed) > 0);
}

proptest! {
    /// Whatever the texts and whichever missing, a collector reads every record and loses its place nowhere.
    #[test]
    fn every_record_is_read_back(
        texts in prop::collection::vec((".{0,300}", any::<bool>(), any::<bool>()), 1..40),
        max in 512usize..3_000,
    ) {
        let rows: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(n, (text, v6, missing))| {
                let mut row = row(n as u64, *v6);
                row[16] = Value::Text(text.clone());
                row[18] = if *missing { Value::Missing } else { Value::Text(text.clone()) };
                row
            })
            .collect();
        let options = IpfixOptions { max_message: max, enterprise: Some(32_473), ..IpfixOptions::default() };
        let all = messages(&columns(), options, &rows);
        prop_assert!(all.iter().all(|m| m.len() <= max));
        let decoder = Decoder::all(&all);
        prop_assert_eq!(decoder.records.len(), rows.len());
        for (n, record) in decoder.records.iter().enumerate() {
            prop_assert_eq!(be(&record[&(0, 148)]), n as u64);
            let read = String::from_utf8(record[&(0, 96)].clone());
            prop_assert!(read.is_ok_and(|t| texts[n].0.starts_with(&t)));
        }
    }
}
