//! Formats: the same flows give the same tables, whatever they are written in.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::common::question::request;
use crate::common::{Flow, Site, tstat};
use chaff_query::request::Measure;
use chaff_query::source::Source;
use chaff_query::{Databases, Direction, Engine as _, Format, Plain, Request, Table, UnitKey};

fn table(source: &Source, request: &Request) -> Table {
    let mut table = Plain { threads: 2 }
        .table(source, request, &Databases::default())
        .expect("a table");
    match &mut table {
        Table::Whole(rows) => rows.sort(),
        Table::Means(rows) => rows.sort_by(|a, b| a.0.cmp(&b.0)),
        Table::Names(rows) => rows.sort(),
    }
    table
}

fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/dpmon");
    let there = folder.join("expected.json").exists();
    if !there {
        println!("skipped: no reference set at {}", folder.display());
    }
    there.then_some(folder)
}

#[test]
fn plain_text_gzip_and_many_files_agree() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..300).map(|i| format!("10.0.0.{}", i % 17)).collect();
    let flows: Vec<Flow<'_>> = names
        .iter()
        .enumerate()
        .map(|(i, user)| Flow {
            user,
            down: i as u64 * 1000,
            rtt: i as f64 / 7.0,
            ..Flow::default()
        })
        .collect();
    let whole = dir.path().join("whole");
    std::fs::write(&whole, tstat(&flows)).unwrap();
    let packed = dir.path().join("packed.gz");
    let mut gz = flate2::write::GzEncoder::new(
        std::fs::File::create(&packed).unwrap(),
        flate2::Compression::fast(),
    );
    gz.write_all(tstat(&flows).as_bytes()).unwrap();
    gz.finish().unwrap();
    // Two files, one with its columns the other way round: found by name.
    let halves = dir.path().join("halves");
    std::fs::create_dir(&halves).unwrap();
    std::fs::write(halves.join("a"), tstat(&flows[..100])).unwrap();
    let turned: String = tstat(&flows[100..])
        .lines()
        .map(|line| line.split(' ').rev().collect::<Vec<_>>().join(" ") + "\n")
        .collect();
    std::fs::write(
        halves.join("b"),
        format!("#{}", turned.replacen("#15#", "", 1)),
    )
    .unwrap();
    let open = |path: &Path| Source::open(&[path.to_path_buf()], None).unwrap();
    for measure in [
        Measure::Bytes(Direction::Ingoing),
        Measure::Flows,
        Measure::Mean("c_rtt_avg".to_owned()),
        Measure::Names,
    ] {
        let request = request(measure);
        let want = table(&open(&whole), &request);
        for path in [&packed, &halves] {
            assert_eq!(table(&open(path), &request), want, "{}", path.display());
        }
    }
}

#[test]
fn chaffs_own_records_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.csv");
    // As written by `gateway meter --format csv`, with fewer columns and in another order.
    let text = "src_ip,dst_ip,src_mac,dst_mac,device_dir,duration_ns,fwd_bytes,bwd_bytes,server_name,user_agent
192.168.77.11,198.51.100.20,02:00:5e:10:00:02,02:00:5e:10:00:fe,out,2000,500,900,web.example,\"a, b\"
192.168.77.11,198.51.100.21,02:00:5e:10:00:02,02:00:5e:10:00:fe,out,4000,70,30,,
2001:db8::7,198.51.100.21,02:00:5e:10:00:02,02:00:5e:10:00:fe,out,1,1,2,,
198.51.100.20,192.168.77.12,02:00:5e:10:00:fe,02:00:5e:10:00:03,in,1,11,22,,
";
    std::fs::write(&path, text).unwrap();
    let source = Source::open(&[path], None).unwrap();
    assert_eq!(source.format, Format::Chaff);
    let ask = |request: &Request| {
        source.check(request).unwrap();
        table(&source, request)
    };
    let whole = |rows: &[(&str, i64)]| {
        Table::Whole(rows.iter().map(|(u, v)| ((*u).to_owned(), *v)).collect())
    };
    let mut request = request(Measure::Bytes(Direction::Outgoing));
    let by_address = [("192.168.77.11", 570), ("2001:db8::7", 1)];
    assert_eq!(ask(&request), whole(&by_address));
    request.unit = UnitKey::Mac;
    assert_eq!(ask(&request), whole(&[("02:00:5e:10:00:02", 571)]));
    request.unit = UnitKey::Address;
    // The same where nothing says which devices are whose.
    request.home = vec![
        "192.168.77.0/24".parse().unwrap(),
        "2001:db8::/64".parse().unwrap(),
    ];
    assert_eq!(ask(&request), whole(&by_address));
    request.direction = Direction::Ingoing;
    assert_eq!(ask(&request), whole(&[("192.168.77.12", 22)]));
    request.direction = Direction::Outgoing;
    request.measure = Measure::Mean("duration_ns".to_owned());
    let Table::Means(means) = ask(&request) else {
        panic!("means")
    };
    assert_eq!(means[0], ("192.168.77.11".to_owned(), Some(3000.0)));
}

#[test]
fn home_networks_say_whose_flow_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nfdump.csv");
    // As made by nfpcapd: the direction is always 0. The newer header has none.
    for text in [
        "ts,te,td,sa,da,ibyt,obyt,dir\nx,x,1,10.20.0.1,198.18.0.1,5,0,0\nx,x,1,198.18.0.1,10.20.0.1,7,0,0\n",
        "firstSeen,duration,proto,srcAddr,srcPort,dstAddr,dstPort,packets,bytes,flows\nx,1,6,10.20.0.1,1,198.18.0.1,2,1,5,1\nx,1,6,198.18.0.1,2,10.20.0.1,1,1,7,1\n",
    ] {
        std::fs::write(&path, text).unwrap();
        let source = Source::open(std::slice::from_ref(&path), None).unwrap();
        let mut request = request(Measure::Bytes(Direction::Outgoing));
        request.home = vec!["10.20.0.0/16".parse().unwrap()];
        source.check(&request).unwrap();
        assert_eq!(
            table(&source, &request),
            Table::Whole(vec![("10.20.0.1".to_owned(), 5)])
        );
        request.direction = Direction::Ingoing;
        request.measure = Measure::Bytes(Direction::Ingoing);
        assert_eq!(
            table(&source, &request),
            Table::Whole(vec![("10.20.0.1".to_owned(), 7)])
        );
    }
}

#[test]
fn the_reduced_log_is_the_beginning_of_the_complete_one() {
    let Some(folder) = shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    let complete = std::fs::read_to_string(folder.join("log_tcp_complete")).unwrap();
    let lines: Vec<&str> = complete.lines().take(401).collect();
    std::fs::write(&first, lines.join("\n")).unwrap();
    let want = Source::open(&[first], None).unwrap();
    let reduced = Source::open(&[folder.join("log_tcp_reduced")], None).unwrap();
    for measure in [
        Measure::Bytes(Direction::Ingoing),
        Measure::Mean("c_rtt_avg".to_owned()),
        Measure::Names,
    ] {
        let request = request(measure);
        assert_eq!(table(&reduced, &request), table(&want, &request));
    }
    let error = reduced.check(&request(Measure::Mean("c_pkts_retx_".to_owned())));
    assert!(error.is_err());
}

#[test]
fn the_variants_of_nfdump_are_read_or_refused() {
    let Some(folder) = shared() else { return };
    let request = request(Measure::Bytes(Direction::Outgoing));
    for (file, units) in [
        ("nfdump.csv", 340),
        ("nfdump_nodir.csv", 0),
        ("nfdump_biflow.csv", 0),
    ] {
        let source = Source::open(&[folder.join(file)], None).unwrap();
        let Table::Whole(rows) = table(&source, &request) else {
            panic!("sums")
        };
        assert_eq!(rows.len(), units, "{file}");
    }
    let error = Source::open(&[folder.join("nfdump_quiet.csv")], None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no header"), "{error}");
}

#[test]
fn refuses_before_paying() {
    let site = Site::new(&tstat(&[Flow::default()]), "1");
    for (question, says) in [
        (
            &[
                "volume-on-asn",
                "--asn",
                "1",
                "--bounds",
                "0..1",
                "--epsilon",
                "1",
            ][..],
            "--asn-db",
        ),
        (
            &[
                "flow-feature",
                "--feature",
                "c_rtt_mean",
                "--metric",
                "mean",
                "--bounds",
                "0..1",
                "--epsilon",
                "1",
            ],
            "did you mean c_rtt_m",
        ),
        (
            &[
                "flow-feature",
                "--feature",
                "durat",
                "--metric",
                "mean",
                "--bounds",
                "0..1",
                "--epsilon",
                "1",
            ],
            "no column durat",
        ),
        (
            &[
                "volume-on-ip",
                "--ip",
                "::1",
                "--bounds",
                "5..1",
                "--epsilon",
                "1",
            ],
            "LO..HI",
        ),
        (
            &[
                "volume-on-ip",
                "--ip",
                "::1",
                "--bounds",
                "0..0.2",
                "--epsilon",
                "1",
            ],
            "--bounds",
        ),
        (&["user-count", "--epsilon", "2"], "left 1 of 1"),
        (&["user-count", "--epsilon", "0"], "--epsilon"),
        (
            &["user-count", "--epsilon", "1", "--format", "nfdump"],
            "a tstat log",
        ),
    ] {
        let error = site.refused(question);
        assert!(error.contains(says), "{question:?}: {error}");
    }
    assert_eq!(site.spent(), 0.0);
    let output = site.query(&[
        "user-count",
        "--epsilon",
        "1",
        "--data",
        "LOG",
        "--ledger",
        "none",
    ]);
    assert!(crate::common::text(&output.stderr).contains("query ledger --ledger"));
}

#[test]
fn plans_tell_cost_and_error_without_data_and_for_free() {
    let site = Site::new(&tstat(&[Flow::default()]), "1");
    let plan = |question: &[&str]| -> serde_json::Value {
        let mut all = vec!["plan"];
        all.extend(question);
        all.extend(["--epsilon", "0.5", "--ledger", "LEDGER", "--json"]);
        let output = site.query(&all);
        assert!(
            output.status.success(),
            "{}",
            crate::common::text(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let sum = plan(&[
        "volume-on-domain",
        "--domain",
        "x",
        "--bounds",
        "0..1000000",
    ]);
    assert_eq!(sum["times"], 2);
    let half = sum["plan"]["half_width"].as_f64().unwrap();
    assert!((half / 2e6 - 20f64.ln()).abs() < 0.01);
    assert_eq!(plan(&["user-count"])["plan"]["half_width"], 6.0);
    let mean = plan(&[
        "flow-feature",
        "--feature",
        "durat",
        "--metric",
        "mean",
        "--bounds",
        "0..100",
        "--assume-units",
        "500",
    ]);
    assert!(mean["plan"]["root_mean_square_error"].as_f64().unwrap() < 1.0);
    assert_eq!(site.spent(), 0.0);
}
