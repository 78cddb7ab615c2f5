//! Inputs that are odd: a clear error, or a right result.

use chaff_synth::{
    Engine, Model, Options, PcapOptions, Record, SynthError, Table, TableMethod, fit, header_bytes,
    read_capture, read_csv, write_csv, write_pcap,
};
use proptest::prelude::*;

const HEADER: &str = "srcip,dstip,srcport,dstport,proto,ts,td,pkt,byt,type\n";

fn read(text: &str) -> Result<Table, SynthError> {
    read_csv(text.as_bytes(), None)
}

fn error(text: &str) -> String {
    read(text).expect_err("it is refused").to_string()
}

fn options(method: TableMethod) -> Options {
    Options {
        method,
        fresh_addresses: true,
        seed: 1,
    }
}

fn possible(r: &Record) {
    assert!(r.packets >= 1 && r.bytes >= header_bytes(r.protocol, false) * r.packets);
    assert!(
        r.bytes <= 65_535 * r.packets && (r.packets > 1 || r.duration_us == 0),
        "{r:?}"
    );
}

#[test]
fn says_what_is_wrong_and_where() {
    assert!(matches!(read(""), Err(SynthError::Empty)));
    assert!(matches!(read(HEADER), Err(SynthError::Empty)));
    assert!(error("srcip,dstip,proto,ts,pkt\n1,2,TCP,3,4\n").contains("no column byt"));
    let row = |row: &str| error(&format!("{HEADER}{row}\n"));
    assert!(row("1,2,3,4,TCP,5,6,7").contains("line 2 has 8 fields, the header has 10"));
    assert!(row("1,2,3,4,TCP,5,6,7,-8,x").contains("line 2, column byt: \"-8\""));
    assert!(row("1,2,3,70000,TCP,5,6,7,8,x").contains("column dstport"));
    assert!(row("1,2,3,4,TCPX,5,6,7,8,x").contains("a protocol name"));
    assert!(row("nobody,2,3,4,TCP,5,6,7,8,x").contains("column srcip"));
    assert!(row("1,2,3,4,TCP,NaN,6,7,8,x").contains("column ts"));
    assert!(row("1,2,3,4,TCP,5,1e300,7,8,x").contains("column td"));
    assert!(row("1,2,3,4,TCP,5,6,1e30,8,x").contains("column pkt"));
    assert!(row("1,2,3,4,300,5,6,7,8,x").contains("column proto"));
    assert!(
        read_csv(
            format!("{HEADER}1,2,3,4,6,5,6,7,8,x\n").as_bytes(),
            Some("colour")
        )
        .is_err()
    );
    assert!(read_capture(&b"\xd4\xc3\xb2\xa1"[..]).is_err());
}

#[test]
fn understands_names_times_and_addresses() {
    let table = read("sa,da,sp,dp,pr,Date first seen,td,ipkt,ibyt\n2001:db8::1,2001:db8::2,5,443,udp,2016-03-18 10:47:52.364,0.5,3.0,300\n").unwrap();
    let r = table.records[0];
    assert_eq!(
        (r.start_us, r.duration_us, r.protocol, r.packets),
        (1_458_298_072_364_000, 500_000, 17, 3)
    );
    assert!(r.src.is_ipv6() && table.label_column.is_none());
    for (text, us) in [
        ("1458298072", 1_458_298_072_000_000),
        ("1458298072364", 1_458_298_072_364_000),
        ("1458298072364000.0", 1_458_298_072_364_000),
        ("1458298072364000123", 1_458_298_072_364_000),
    ] {
        let table = read(&format!(
            "{HEADER}1.2.3.4,16909060,0,0,1,{text},0,1,28,\"a,b\"\n"
        ))
        .unwrap();
        assert_eq!(
            (table.records[0].start_us, table.records[0].src),
            (us, table.records[0].dst)
        );
        assert_eq!(table.labels, ["a,b"]);
    }
}

#[test]
fn one_row_one_protocol_and_ipv6_can_be_learned() {
    let mut rows = String::new();
    for i in 0..60 {
        rows += &format!(
            "2001:db8::{i},2001:db8:7::1,0,0,ICMP6,{},0.{i:02},{},{},x\n",
            1_000_000_000 + i,
            1 + i % 4,
            400 + i
        );
    }
    for rows in ["10.0.0.1,10.0.0.2,0,0,47,1458298072,1,2,900,a\n", &rows] {
        let table = read(&format!("{HEADER}{rows}")).unwrap();
        for method in [TableMethod::Marginal, TableMethod::Sequence] {
            let model = fit(&table, &options(method)).unwrap();
            for n in [0, 1, 7, 200] {
                let drawn = model.sample(n, 3).unwrap();
                assert_eq!(drawn.records.len(), n);
                for r in &drawn.records {
                    possible(r);
                    assert_eq!(r.protocol, table.records[0].protocol);
                    assert_eq!(r.src.is_ipv6(), table.records[0].src.is_ipv6());
                    assert_eq!(r.src.is_ipv6(), r.dst.is_ipv6());
                }
                assert!(drawn.records.is_sorted_by_key(|r| r.start_us));
            }
        }
    }
}

#[test]
fn absurd_counters_become_possible() {
    let most = 1u64 << 52;
    let table = read(&format!("{HEADER}0.0.0.0,255.255.255.255,68,67,17,0,3e9,0,0,x\n1,2,9,9,6,{most},1,{most},1,y\n1,1,0,0,6,0,0,1,{most},y\n")).unwrap();
    for method in [TableMethod::Marginal, TableMethod::Sequence] {
        for r in fit(&table, &options(method))
            .unwrap()
            .sample(300, 1)
            .unwrap()
            .records
        {
            possible(&r);
        }
    }
    let model = fit(&table, &options(TableMethod::Sequence)).unwrap();
    assert!(
        write_pcap(
            Vec::new(),
            &model.sample(300, 1).unwrap(),
            Some(&model),
            &PcapOptions::default()
        )
        .is_err()
    );
}

#[test]
fn what_is_written_is_read_back() {
    let mut text = HEADER.to_owned();
    for i in 0..100 {
        text += &format!(
            "{},10.0.0.{},{},443,{},{},{}.25,{},{},l{}\n",
            167772161 + i,
            i % 7,
            40000 + i,
            ["TCP", "UDP"][i % 2],
            1_458_298_072_000_000u64 + i as u64,
            i % 9,
            2 + i % 5,
            4000 + i,
            i % 3
        );
    }
    let table = read(&text).unwrap();
    let mut out = Vec::new();
    write_csv(&mut out, &table, true).unwrap();
    assert_eq!(read_csv(&out[..], None).unwrap(), table);
    let model = fit(&table, &options(TableMethod::Sequence)).unwrap();
    let bytes = model.to_bytes().unwrap();
    let again = Model::from_bytes(&bytes).unwrap();
    assert_eq!(again.sample(500, 9).unwrap(), model.sample(500, 9).unwrap());
    assert_eq!(
        fit(&table, &options(TableMethod::Sequence))
            .unwrap()
            .to_bytes()
            .unwrap(),
        bytes
    );
    assert_ne!(model.sample(500, 8).unwrap(), model.sample(500, 9).unwrap());
    assert!(Model::from_bytes(&bytes[..bytes.len() - 9]).is_err());

    let drawn = model.sample(200, 4).unwrap();
    let mut capture = Vec::new();
    let packets = write_pcap(&mut capture, &drawn, Some(&model), &PcapOptions::default()).unwrap();
    assert_eq!(
        packets,
        drawn.records.iter().map(|r| r.packets).sum::<u64>()
    );
    let back = read_capture(&capture[..]).unwrap();
    assert_eq!(
        (
            back.ignored,
            back.table.records.iter().map(|r| r.packets).sum::<u64>()
        ),
        (0, packets)
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[ -~\n\"]{0,300}") {
        let _ = read(&text);
        let _ = read(&format!("{HEADER}{text}"));
    }

    #[test]
    fn damaged_models_are_refused(at in 0usize..4000, to in any::<u8>()) {
        let table = read(&format!("{HEADER}1,2,3,4,TCP,5,6,7,800,x\n")).unwrap();
        let mut bytes = fit(&table, &options(TableMethod::Marginal)).unwrap().to_bytes().unwrap();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        prop_assert!(Model::from_bytes(&bytes).is_err());
    }
}
