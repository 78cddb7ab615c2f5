//! Imported logs and other Parquet answer as the text does; what is not whole is refused.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::common::question::request;
use crate::common::{Flow, Site, text, tstat};
use chaff_export::{Output as _, Parquet, ParquetOptions};
use chaff_flow::{Column, Kind, Layout, TableConfig, Value};
use chaff_query::import::import;
use chaff_query::manifest::{Manifest, verify};
use chaff_query::request::{Matching, Measure, Name};
use chaff_query::source::Source;
use chaff_query::{
    Databases, Direction, Engine as _, Filter, Format, Plain, Request, Table, UnitKey,
};

fn requests(feature: &str) -> Vec<Request> {
    let named = |matching| Filter {
        name: Some(Name {
            matching,
            ignore_case: true,
        }),
        ..Filter::default()
    };
    vec![
        request(Measure::Bytes(Direction::Ingoing)),
        request(Measure::Bytes(Direction::Outgoing)),
        request(Measure::Mean(feature.to_owned())),
        request(Measure::Flows),
        request(Measure::Names),
        Request {
            filter: named(Matching::Pattern("%3.example".to_owned())),
            ..request(Measure::Flows)
        },
        Request {
            unit: UnitKey::Network,
            filter: Filter {
                ip: Some("2001:db8:cafe::5".parse().expect("an address")),
                ..Filter::default()
            },
            ..request(Measure::Bytes(Direction::Ingoing))
        },
        Request {
            home: vec!["10.0.0.0/8".parse().expect("a network")],
            ..request(Measure::Any)
        },
        Request {
            direction: Direction::Ingoing,
            ..request(Measure::Flows)
        },
    ]
}

fn table(paths: &[PathBuf], request: &Request) -> Table {
    let source = Source::open(paths, None).expect("opens");
    source.check(request).expect("has the columns");
    Plain { threads: 2 }
        .table(&source, request, &Databases::default())
        .expect("a table")
}

/// A log in which fields are of all kinds that logs have.
fn varied() -> String {
    let users: Vec<String> = (0..40)
        .map(|u| match u % 4 {
            0 => format!("2001:db8:0:{}::1", u % 3),
            _ => format!("10.0.0.{u}"),
        })
        .collect();
    let names: Vec<String> = (0..9).map(|n| format!("N{n}.example")).collect();
    let flows: Vec<Flow<'_>> = (0..3_000)
        .map(|i| Flow {
            user: &users[i * 7 % users.len()],
            server: if i % 5 == 0 {
                "2001:db8:cafe:0::5"
            } else {
                "198.18.0.1"
            },
            up: i as u64,
            down: i as u64 * 1_000_003,
            name: if i % 11 == 0 {
                "-"
            } else {
                &names[i % names.len()]
            },
            rtt: i as f64 / 7.0,
        })
        .collect();
    let mut log = tstat(&flows);
    log +=
        "10.0.0.1 198.18.0.1 1 0 x 5 n nan\n10.0.0.1 198.18.0.1 1\nnobody b 1 0 1.6 -7 \"q 1e3\n\n";
    log
}

#[test]
fn imported_logs_give_the_same_tables() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    std::fs::write(&log, varied()).unwrap();
    // The same flows in two files, one packed, one with its columns the other way round.
    let lines: Vec<String> = varied().lines().map(str::to_owned).collect();
    let halves = dir.path().join("halves");
    std::fs::create_dir(&halves).unwrap();
    let mut packed = flate2::write::GzEncoder::new(
        std::fs::File::create(halves.join("log.gz")).unwrap(),
        flate2::Compression::fast(),
    );
    packed
        .write_all(lines[..1000].join("\n").as_bytes())
        .unwrap();
    packed.finish().unwrap();
    let turned: Vec<String> = std::iter::once(&lines[0])
        .chain(&lines[1000..])
        // Only whole rows can be turned.
        .filter(|l| l.split(' ').count() == 8)
        .map(|l| l.split(' ').rev().collect::<Vec<_>>().join(" "))
        .collect();
    let short: Vec<&String> = lines[1000..]
        .iter()
        .filter(|l| l.split(' ').count() != 8)
        .collect();
    std::fs::write(
        halves.join("turned"),
        format!("#{}\n", turned.join("\n").replacen("#15#", "", 1)),
    )
    .unwrap();
    let rest: Vec<&str> = std::iter::once(lines[0].as_str())
        .chain(short.iter().map(|l| l.as_str()))
        .collect();
    std::fs::write(halves.join("short"), rest.join("\n")).unwrap();
    let [one, many] = ["one", "many"].map(|name| dir.path().join(name));
    let manifest = import(std::slice::from_ref(&log), None, &one, |_| ()).unwrap();
    assert_eq!(
        (manifest.format, manifest.files[0].rows),
        (Format::Tstat, 3_003)
    );
    let errors = manifest.files[0].errors;
    assert_eq!(
        (
            errors.fields,
            errors.numbers,
            errors.addresses,
            errors.lines
        ),
        (1, 2, 2, 0)
    );
    assert_eq!(
        import(std::slice::from_ref(&halves), None, &many, |_| ())
            .unwrap()
            .files
            .len(),
        3
    );
    verify(&many).unwrap();
    for request in requests("c_rtt_avg") {
        let want = table(std::slice::from_ref(&log), &request);
        assert!(want != Table::Whole(Vec::new()) || request.direction == Direction::Ingoing);
        for folder in [&one, &many] {
            assert_eq!(
                table(std::slice::from_ref(folder), &request),
                want,
                "{request:?}"
            );
        }
    }
}

#[test]
fn nfdumps_text_and_json_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let old = "ts,te,td,sa,da,ipkt,ibyt,opkt,obyt,dir\nx,x,1.5,10.0.0.1,198.18.0.1,3,500,2,70,1\nx,x,1,10.0.0.2,2001:db8:cafe::5,1,9,0,0,1\nx,x,1,198.18.0.1,10.0.0.2,1,9,0,0,0\nSummary\nflows,bytes\n3,518\n";
    let json = r#"[ { "type" : "FLOW", "in_packets" : 3, "in_bytes" : 500, "out_packets" : 2, "out_bytes" : 70, "src4_addr" : "10.0.0.1", "dst4_addr" : "198.18.0.1", "direction" : 1 },
{ "in_packets":1, "in_bytes":9, "src4_addr":"10.0.0.2", "dst6_addr":"2001:db8:cafe:0::5", "direction":1 },
{ "in_packets":1, "in_bytes":9, "src4_addr":"198.18.0.1", "dst4_addr":"10.0.0.2", "direction":0 } ]"#;
    let [old_path, json_path] = [("old.csv", old), ("flows.json", json)].map(|(name, text)| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let imported = dir.path().join("imported");
    let manifest = import(std::slice::from_ref(&json_path), None, &imported, |_| ()).unwrap();
    assert_eq!(
        (manifest.format, manifest.files[0].errors.total()),
        (Format::Nfdump, 0)
    );
    for request in requests("ipkt") {
        if request.measure == Measure::Names || request.filter.name.is_some() {
            continue;
        }
        let want = table(std::slice::from_ref(&old_path), &request);
        for path in [&json_path, &imported] {
            assert_eq!(
                table(std::slice::from_ref(path), &request),
                want,
                "{request:?}"
            );
        }
    }
}

/// Flows as the gateway archives them and `gateway meter` writes them.
fn archive(path: &Path, flows: &[(&str, &str, u64, Option<&str>)]) {
    let mut columns: Vec<Column> = Layout::new(&TableConfig::default(), Vec::new()).columns();
    // As with `flows.hints`.
    columns.push(Column {
        name: "server_name".into(),
        kind: Kind::Text,
        unit: "".into(),
        doc: "".into(),
    });
    let file = std::fs::File::create(path).expect("a file");
    let options = ParquetOptions {
        group_rows: 2,
        ..ParquetOptions::default()
    };
    let mut out = Box::new(Parquet::new(file, &columns, &options).expect("begins"));
    for (user, peer, bytes, name) in flows {
        let value = |column: &Column| match &*column.name {
            "src_ip" => Value::Ip(user.parse().expect("an address")),
            "dst_ip" => Value::Ip(peer.parse().expect("an address")),
            "device_dir" => Value::Word("out"),
            "bwd_bytes" => Value::Unsigned(*bytes),
            "fwd_bytes" => Value::Unsigned(1),
            "server_name" => name.map_or(Value::Missing, |n| Value::Text(n.to_owned())),
            _ => Value::Missing,
        };
        let row: Vec<Value> = columns.iter().map(value).collect();
        out.write(&row).expect("writes");
    }
    out.finish().expect("ends");
}

#[test]
fn the_gateways_archive_is_read_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("archive");
    std::fs::create_dir(&folder).unwrap();
    archive(
        &folder.join("flows.20261121T130000Z.0.parquet"),
        &[
            ("10.0.0.1", "198.18.0.1", 900, Some("web.example")),
            ("10.0.0.2", "198.18.0.1", 30, None),
            ("10.0.0.1", "198.18.0.2", 5, Some("web.example")),
        ],
    );
    archive(
        &folder.join("flows.20261121T140000Z.0.parquet"),
        &[("10.0.0.1", "198.18.0.1", 7, Some("Web.example"))],
    );
    // What is still being written has another name.
    std::fs::write(folder.join("flows.20261121T150000Z.0.parquet.part"), "PAR1").unwrap();
    let whole = |rows: &[(&str, i64)]| {
        Table::Whole(rows.iter().map(|(u, v)| ((*u).to_owned(), *v)).collect())
    };
    let mut asked = request(Measure::Bytes(Direction::Ingoing));
    let ask = |asked: &Request| table(std::slice::from_ref(&folder), asked);
    assert_eq!(ask(&asked), whole(&[("10.0.0.1", 912), ("10.0.0.2", 30)]));
    asked.filter.name = Some(Name {
        matching: Matching::Domain("web.example".to_owned()),
        ignore_case: false,
    });
    assert_eq!(ask(&asked), whole(&[("10.0.0.1", 905), ("10.0.0.2", 0)]));
}

#[test]
fn columns_without_dictionary_are_read() {
    // So many different words that the writer gives its dictionary up, in several row groups.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.parquet");
    let column = |name: &'static str, kind| Column {
        name: name.into(),
        kind,
        unit: "".into(),
        doc: "".into(),
    };
    let columns = [
        column("c_ip", Kind::Text),
        column("s_ip", Kind::Text),
        column("c_isint", Kind::Signed),
        column("s_isint", Kind::Signed),
        column("c_tls_SNI", Kind::Text),
        column("s_bytes_all", Kind::Float),
    ];
    let options = ParquetOptions {
        group_rows: 60_000,
        ..ParquetOptions::default()
    };
    let file = std::fs::File::create(&path).unwrap();
    let mut out = Box::new(Parquet::new(file, &columns, &options).unwrap());
    let flows = 100_000u64;
    for n in 0..flows {
        let name = format!("a-name-that-no-other-flow-has-{n}.example");
        out.write(&[
            Value::Text(format!("10.0.0.{}", n % 10)),
            Value::Missing,
            Value::Signed(1),
            Value::Signed(0),
            if n % 3 == 0 {
                Value::Missing
            } else {
                Value::Text(name)
            },
            Value::Float(1.0),
        ])
        .unwrap();
    }
    out.finish().unwrap();
    let mut asked = request(Measure::Bytes(Direction::Ingoing));
    let Table::Whole(rows) = table(std::slice::from_ref(&path), &asked) else {
        panic!("sums")
    };
    assert_eq!(
        (rows.len(), rows.iter().map(|r| r.1).sum::<i64>()),
        (10, 100_000)
    );
    asked.filter.name = Some(Name {
        matching: Matching::Pattern("%7.example".to_owned()),
        ignore_case: false,
    });
    let Table::Whole(rows) = table(&[path], &asked) else {
        panic!("sums")
    };
    let want = (0..flows).filter(|n| n % 3 != 0 && n % 10 == 7).count() as i64;
    assert_eq!(rows.iter().map(|r| r.1).sum::<i64>(), want);
}

#[test]
fn half_an_import_and_changed_files_are_refused() {
    let site = Site::new(&tstat(&[Flow::default()]), "10");
    let run = |arguments: &[&str]| {
        let output = site.query(arguments);
        (output.status.code(), text(&output.stderr))
    };
    assert_eq!(run(&["import", "log", "--output", "flows"]).0, Some(0));
    let ask = || {
        run(&[
            "user-count",
            "--epsilon",
            "0.1",
            "--data",
            "flows",
            "--ledger",
            "LEDGER",
            "--prompt-time",
        ])
    };
    assert_eq!(ask().0, Some(0));
    assert_eq!(run(&["import", "--check", "flows"]).0, Some(0));
    let (code, said) = run(&["import", "log", "--output", "flows"]);
    assert!(code == Some(2) && said.contains("not empty"), "{said}");
    let (code, said) = run(&["import", "flows", "--output", "again"]);
    assert!(
        code == Some(2) && said.contains("Parquet already"),
        "{said}"
    );
    let folder = site.path("flows");
    let parquet = folder.join("log.parquet");
    let manifest = folder.join("manifest.json");
    let (whole, listed) = (
        std::fs::read(&parquet).unwrap(),
        std::fs::read(&manifest).unwrap(),
    );
    // The same size, another content: a digest tells.
    let mut other = whole.clone();
    other[20] ^= 1;
    std::fs::write(&parquet, &other).unwrap();
    let (code, said) = run(&["import", "--check", "flows"]);
    assert!(
        code == Some(2) && said.contains("digest is not as the manifest says"),
        "{said}"
    );
    std::fs::write(&parquet, &whole[..whole.len() - 3]).unwrap();
    assert!(ask().1.contains("no readable end"), "{}", ask().1);
    std::fs::write(&parquet, &whole).unwrap();
    std::fs::copy(&parquet, folder.join("more.parquet")).unwrap();
    assert!(
        ask().1.contains("more.parquet: not in its manifest"),
        "{}",
        ask().1
    );
    std::fs::remove_file(folder.join("more.parquet")).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    assert!(
        ask().1.contains("the import was not finished"),
        "{}",
        ask().1
    );
    std::fs::write(
        &manifest,
        String::from_utf8_lossy(&listed).replace("\"version\": 1", "\"version\": 9"),
    )
    .unwrap();
    assert!(ask().1.contains("version 9, known is 1"), "{}", ask().1);
    let (_, said) = run(&[
        "user-count",
        "--epsilon",
        "0.1",
        "--data",
        "flows",
        "log",
        "--ledger",
        "LEDGER",
        "--format",
        "nfdump",
    ]);
    assert!(said.contains("a tstat log, not nfdump"), "{said}");
    // All of that before paying.
    assert!((site.spent() - 0.1).abs() < 1e-9);
}

#[test]
fn a_manifest_tells_what_could_not_be_read_and_shows_none_of_it() {
    let site = Site::new(&varied(), "1");
    let output = site.query(&["import", "LOG", "--output", "flows", "--json"]);
    let manifest: Manifest = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(manifest.files[0].errors.total(), 5);
    let said = text(&output.stdout) + &text(&output.stderr);
    for private in ["nobody", "10.0.0.1", "N3.example", "\"q"] {
        assert!(!said.contains(private), "{said}");
    }
}

#[test]
fn broken_files_are_refused_or_fail_and_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let flows = ["10.0.0.1", "10.0.0.2"].map(|user| Flow {
        user,
        ..Flow::default()
    });
    std::fs::write(&log, tstat(&flows)).unwrap();
    let folder = dir.path().join("flows");
    import(&[log], None, &folder, |_| ()).unwrap();
    let whole = std::fs::read(folder.join("log.parquet")).unwrap();
    let path = dir.path().join("broken.parquet");
    // Its own file, without a manifest that would refuse it.
    let plain = replaced(&whole, b"chaff.import", b"chaff.broken");
    let asked = [
        request(Measure::Bytes(Direction::Ingoing)),
        request(Measure::Names),
    ];
    let (mut refused, mut failed, mut answered) = (0, 0, 0);
    for at in (0..plain.len() * 2).step_by(17) {
        let mut bytes = plain.clone();
        match at % 2 {
            0 => bytes[at / 2] ^= 1 << (at % 7),
            _ => bytes.truncate(at / 2),
        }
        std::fs::write(&path, &bytes).unwrap();
        let Ok(source) = Source::open(std::slice::from_ref(&path), None) else {
            refused += 1;
            continue;
        };
        for request in &asked {
            if source.check(request).is_err() {
                refused += 1;
                continue;
            }
            match (Plain { threads: 1 }).table(&source, request, &Databases::default()) {
                Ok(_) => answered += 1,
                Err(_) => failed += 1,
            }
        }
    }
    assert!(
        refused > 0 && failed > 0 && answered > 0,
        "{refused} {failed} {answered}"
    );
}

#[test]
fn a_page_that_cannot_be_so_large_is_refused_before_paying() {
    let site = Site::new(&tstat(&[Flow::default()]), "1");
    let made = site.query(&["import", "LOG", "--output", "flows"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let path = site.path("flows").join("log.parquet");
    let whole = std::fs::read(&path).unwrap();
    // The first page begins after the magic with its kind; then comes its size, of one byte or two.
    assert_eq!((&whole[..5], whole[6]), (&b"PAR1\x15"[..], 0x15));
    let plain = replaced(&whole, b"chaff.import", b"chaff.broken");
    let rest = if plain[7] & 0x80 == 0 { 8 } else { 9 };
    let huge = [&plain[..7], &[0xfe, 0xff, 0xff, 0xff, 0x0f], &plain[rest..]].concat();
    std::fs::write(site.path("huge.parquet"), &huge).unwrap();
    let output = site.query(&[
        "user-count",
        "--epsilon",
        "0.1",
        "--data",
        "huge.parquet",
        "--ledger",
        "LEDGER",
        "--prompt-time",
    ]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in [
        "huge.parquet: it begins like Parquet, but row group 0, column c_ip",
        "uncompressed_page_size is 2147483647, but zstd makes at most 32768 bytes of one",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(site.spent().abs() < 1e-9);
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes
        .windows(from.len())
        .position(|w| w == from)
        .expect("it is there");
    let mut out = bytes.to_vec();
    out[at..at + to.len()].copy_from_slice(to);
    out
}
