//! `trainer synth` from end to end: formats, ledger, side-cars, scores, pictures, and what goes wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn trainer(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainer"))
        .arg("synth")
        .args(args)
        .current_dir(dir)
        .output()
        .expect("it starts")
}

fn done(dir: &Path, args: &[&str]) -> String {
    let out = trainer(dir, args);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{args:?}: {said}");
    said + &String::from_utf8_lossy(&out.stdout)
}

fn refused(dir: &Path, args: &[&str]) -> String {
    let out = trainer(dir, args);
    assert_eq!(out.status.code(), Some(2), "{args:?}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("folder");
    let mut csv = String::from("srcip,dstip,srcport,dstport,proto,ts,td,pkt,byt,type\n");
    for i in 0..600u64 {
        let (proto, port, label) = if i % 3 == 0 {
            ("UDP", 53, "dns")
        } else {
            ("TCP", 443, "web")
        };
        let packets = if i % 3 == 0 { 1 } else { 3 + i % 7 };
        let duration = if packets == 1 { "0" } else { "0.25" };
        csv += &format!(
            "192.168.1.{},203.0.113.{},{},{port},{proto},{},{duration},{packets},{},{label}\n",
            i % 9,
            i % 5,
            40_000 + i * 37 % 20_000,
            1_458_298_072_000_000 + i * 130_000,
            packets * (60 + i % 900),
        );
    }
    fs::write(dir.path().join("flows.csv"), csv).expect("writes");
    dir
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/demo.pcap")
}

fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).expect("reads")).expect("JSON")
}

#[test]
fn formats_agree_and_repeat() {
    let dir = folder();
    let dir = dir.path();
    done(dir, &["fit", "flows.csv", "-o", "m.synth"]);
    for name in [
        "a.csv",
        "b.csv",
        "a.parquet",
        "b.parquet",
        "a.pcap",
        "b.pcap",
    ] {
        done(
            dir,
            &[
                "sample",
                "m.synth",
                "--seed",
                "5",
                "--records",
                "300",
                "-o",
                name,
            ],
        );
    }
    for kind in ["csv", "parquet", "pcap"] {
        let read = |n: &str| fs::read(dir.join(format!("{n}.{kind}"))).expect("reads");
        assert_eq!(read("a"), read("b"), "{kind}");
    }
    // The same records whatever the format and the columns' names: models of them are the same.
    let chaff = [
        "sample",
        "m.synth",
        "--seed",
        "5",
        "--records",
        "300",
        "--columns",
        "chaff",
    ];
    done(dir, &[&chaff[..], &["-o", "c.csv"]].concat());
    done(dir, &[&chaff[..], &["-o", "c.parquet"]].concat());
    for name in ["a.csv", "a.parquet", "c.csv", "c.parquet"] {
        let model = format!("{name}.synth");
        done(dir, &["fit", name, "-o", &model]);
        let read = |n: &str| fs::read(dir.join(n)).expect("reads");
        assert_eq!(read(&model), read("a.csv.synth"), "{name}");
    }
    let sidecar = json(dir.join("a.parquet.json"));
    assert_eq!(
        (&sidecar["records"], &sidecar["seed"]),
        (&300.into(), &5.into())
    );
    assert!(
        fs::read_to_string(dir.join("c.csv"))
            .expect("reads")
            .starts_with("start_ns,")
    );
}

#[test]
fn captures_give_models_of_packets_privately_too() {
    let dir = folder();
    let dir = dir.path();
    let demo = demo();
    let demo = demo.to_str().expect("a path");
    done(dir, &["fit", demo, "-o", "demo.synth"]);
    done(
        dir,
        &["sample", "demo.synth", "--seed", "1", "-o", "s.pcap"],
    );
    let ledger = [
        "--ledger",
        "site.ledger",
        "--ledger-epsilon",
        "5",
        "--ledger-delta",
        "1e-4",
    ];
    // So few flows do not tell when they were.
    let range = [
        "--public-time-range",
        "1795000000000000..1796000000000000",
        "--noise-seed",
        "1",
    ];
    let paid = [
        &[
            "fit",
            demo,
            "--epsilon",
            "2",
            "--delta",
            "1e-5",
            "-o",
            "p.synth",
        ],
        &ledger[..],
        &range,
    ]
    .concat();
    done(dir, &paid);
    done(dir, &paid);
    done(
        dir,
        &[
            "sample",
            "p.synth",
            "--seed",
            "1",
            "--records",
            "70",
            "-o",
            "p.pcap",
        ],
    );
    let privacy = &json(dir.join("p.pcap.json"))["model"]["privacy"];
    assert_eq!(
        (&privacy["epsilon"], &privacy["unit"]),
        (&2.0.into(), &"record".into())
    );
    let names = privacy["releases"].to_string();
    for name in [
        "packet sizes, level 0",
        "time to live",
        "gaps given",
        "marks",
    ] {
        assert!(names.contains(name), "{name}");
    }
    assert!(
        privacy["public_assumptions"]
            .to_string()
            .contains("one packet of each flow")
    );
    assert_eq!(privacy["ledger_entry"], 2);
    let said = refused(dir, &paid);
    assert!(said.contains("budget"), "{said}");
    // A packet model draws exactly what is asked.
    let flows = json(dir.join("s.pcap.json"))["records"].clone();
    let said = done(
        dir,
        &[
            "evaluate",
            demo,
            "s.pcap",
            "--output",
            "r.json",
            "--picture",
            "r.svg",
        ],
    );
    assert!(said.contains("pairs of fields"), "{said}");
    let report = json(dir.join("r.json"));
    assert_eq!(report["kind"], "packets");
    assert_eq!(report["rules"]["synthetic"]["ip_checksum_valid"], 1.0);
    assert_eq!(report["rules"]["synthetic"]["timestamps_ordered"], 1.0);
    assert!(flows.as_u64().is_some_and(|n| n > 50));
    let picture = fs::read_to_string(dir.join("r.svg")).expect("reads");
    assert!(picture.starts_with("<svg") && picture.contains("length of a packet"));
}

/// Networks small enough for a test.
const NETSHARE: &str = r#"{
    "global_config": {"dataset_type": "netflow", "n_chunks": 2, "dp": false},
    "pre_post_processor": {"config": {
        "timestamp": {"column": "ts", "generation": true, "encoding": "interarrival", "normalization": "ZERO_ONE"},
        "word2vec": {"vec_size": 4},
        "metadata": [
            {"column": "srcip", "encoding": "bit", "n_bits": 32}, {"column": "dstip", "encoding": "bit", "n_bits": 32},
            {"column": "srcport", "encoding": "word2vec_port"}, {"column": "dstport", "encoding": "word2vec_port"},
            {"column": "proto", "encoding": "word2vec_proto"}],
        "timeseries": [
            {"column": "pkt", "type": "float", "normalization": "ZERO_ONE", "log1p_norm": true},
            {"column": "byt", "type": "float", "normalization": "ZERO_ONE", "log1p_norm": true}] }},
    "model": {"config": {
        "batch_size": 20, "sample_len": 1, "epochs": 2, "epoch_checkpoint_freq": 1,
        "generator_attribute_num_units": 8, "discriminator_num_units": 8, "attr_discriminator_num_units": 8,
        "generator_feature_num_units": 4 }} }"#;

#[test]
fn models_do_not_depend_on_how_many_are_learned_at_the_same_time() {
    let dir = folder();
    let dir = dir.path();
    fs::write(dir.join("netshare.json"), NETSHARE).expect("writes");
    let whole = fs::read_to_string(dir.join("flows.csv")).expect("reads");
    for n in [200, 300, 400] {
        let part: Vec<&str> = whole.lines().take(n).collect();
        fs::write(dir.join(format!("{n}.csv")), part.join("\n")).expect("writes");
    }
    for how in [
        &["--method", "sequence"][..],
        &["--method", "marginal"],
        &[
            "--epsilon",
            "2",
            "--delta",
            "1e-5",
            "--no-ledger",
            "--noise-seed",
            "3",
        ],
        &["--config", "netshare.json"],
    ] {
        for jobs in ["1", "3"] {
            let inputs = [
                "fit", "200.csv", "300.csv", "400.csv", "--jobs", jobs, "-o", jobs,
            ];
            done(dir, &[&inputs[..], how].concat());
        }
        for n in [200, 300, 400] {
            let read = |jobs: &str| {
                let path = dir.join(jobs).join(format!("{n}.csv.synth"));
                fs::read(path).expect("reads")
            };
            assert_eq!(read("1"), read("3"), "{how:?} {n}");
        }
    }
}

#[test]
fn several_inputs_become_several_models() {
    let dir = folder();
    let dir = dir.path();
    fs::copy(dir.join("flows.csv"), dir.join("more.csv")).expect("copies");
    done(
        dir,
        &[
            "fit",
            "flows.csv",
            "more.csv",
            "--jobs",
            "2",
            "-o",
            "models",
        ],
    );
    let read = |n: &str| fs::read(dir.join("models").join(n)).expect("reads");
    assert_eq!(read("flows.csv.synth"), read("more.csv.synth"));
    let said = refused(dir, &["fit", "flows.csv", "none.csv", "-o", "models"]);
    assert!(said.contains("none.csv"), "{said}");
    let said = refused(dir, &["fit", "flows.csv", "./flows.csv", "-o", "models"]);
    assert!(said.contains("the same file name"), "{said}");
}

#[test]
fn strange_records_score_high() {
    let dir = folder();
    let dir = dir.path();
    done(dir, &["fit", "flows.csv", "-o", "m.synth"]);
    let normal = fs::read_to_string(dir.join("flows.csv")).expect("reads");
    let mut mixed: Vec<String> = normal.lines().take(300).map(str::to_owned).collect();
    for i in 0..20 {
        mixed.push(format!(
            "192.168.1.77,198.51.100.{i},5555,23,TCP,{},9,900,90000,scan",
            1_458_298_072_000_000u64 + i * 40_000
        ));
    }
    fs::write(dir.join("mixed.csv"), mixed.join("\n")).expect("writes");
    let said = done(
        dir,
        &[
            "score",
            "m.synth",
            "mixed.csv",
            "--normal",
            "flows.csv",
            "--normal-label",
            "web",
            "-o",
            "s.csv",
        ],
    );
    assert!(said.contains("threshold"), "{said}");
    let scores = fs::read_to_string(dir.join("s.csv")).expect("reads");
    let rows: Vec<Vec<&str>> = scores
        .lines()
        .skip(1)
        .map(|l| l.split(',').collect())
        .collect();
    let alarm = |row: &Vec<&str>| row[8] == "1";
    assert_eq!(rows.len(), 319);
    assert!(rows[299..].iter().all(alarm), "{scores}");
    assert!(rows[..299].iter().filter(|r| alarm(r)).count() < 20);
    let private = [
        "--epsilon",
        "2",
        "--delta",
        "1e-5",
        "--no-ledger",
        "-o",
        "p.synth",
    ];
    done(dir, &[&["fit", "flows.csv"], &private[..]].concat());
    let said = refused(dir, &["score", "p.synth", "mixed.csv"]);
    assert!(said.contains("private"), "{said}");
}

#[test]
fn mistakes_are_named() {
    let dir = folder();
    let dir = dir.path();
    fs::write(dir.join("empty.csv"), "").expect("writes");
    fs::write(
        dir.join("cut.csv"),
        "srcip,dstip,proto,ts,pkt\n1,2,TCP,3,4\n",
    )
    .expect("writes");
    let header = "srcip,dstip,srcport,dstport,proto,ts,td,pkt,byt,type\n";
    let absurd = format!("{header}1,2,3,4,TCP,5,6,1e30,8,x\n");
    fs::write(dir.join("absurd.csv"), absurd).expect("writes");
    fs::write(dir.join("packed.csv.gz"), [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]).expect("writes");
    fs::write(dir.join("noise.csv"), [1, 2, 3, 0xff, 7]).expect("writes");
    for (args, parts) in [
        (
            &["fit", "empty.csv", "-o", "m"][..],
            &["empty.csv", "no records"][..],
        ),
        (
            &["fit", "cut.csv", "-o", "m"],
            &["cut.csv", "no column byt", "ibyt"],
        ),
        (
            &["fit", "absurd.csv", "-o", "m"],
            &["absurd.csv", "line 2", "column pkt", "1e30"],
        ),
        (&["fit", "none.csv", "-o", "m"], &["while opening none.csv"]),
        (
            &["fit", "packed.csv.gz", "-o", "m"],
            &["packed.csv.gz", "gzip", "unpack it"],
        ),
        (
            &["fit", "noise.csv", "-o", "m"],
            &["noise.csv", "no column srcip", "\\u{1}"],
        ),
        (
            &["fit", "flows.csv", "--method", "doppelganger", "-o", "m"],
            &["--config"],
        ),
        (
            &[
                "fit",
                "flows.csv",
                "--method",
                "sequence",
                "--epsilon",
                "1",
                "--delta",
                "1e-5",
                "--no-ledger",
                "-o",
                "m",
            ],
            &["--method sequence"],
        ),
        (
            &["sample", "flows.csv", "--seed", "1", "-o", "x"],
            &["flows.csv", "CHAFSYN"],
        ),
        (
            &[
                "fit",
                "flows.csv",
                "-o",
                "m",
                "--epsilon",
                "1",
                "--delta",
                "1e-5",
            ],
            &["--ledger"],
        ),
        (
            &["fit", "flows.csv", "-o", "m", "--label", "colour"],
            &["colour"],
        ),
        (
            &["evaluate", "flows.csv", "empty.csv"],
            &["empty.csv", "no records"],
        ),
    ] {
        let said = refused(dir, args);
        for part in parts {
            assert!(said.contains(part), "{args:?}: {part} is not in {said}");
        }
    }
    done(dir, &["fit", "flows.csv", "-o", "m.synth"]);
    for args in [
        &[
            "sample", "m.synth", "--seed", "1", "--format", "parquet", "-o", "-",
        ][..],
        &[
            "sample",
            "m.synth",
            "--seed",
            "1",
            "--ethernet",
            "-o",
            "x.csv",
        ],
        &[
            "sample",
            "m.synth",
            "--seed",
            "1",
            "--numeric-addresses",
            "--columns",
            "chaff",
            "-o",
            "x.csv",
        ],
    ] {
        refused(dir, args);
    }
}
