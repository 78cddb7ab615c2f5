//! iPET end to end: windows against a computation from scratch, training in one piece and in two, attacks and evaluation on generated
//! captures.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_onnx::{IPET_ATTACKER, IPET_GENERATOR, Model};
use chaff_trace::{PcapWriter, Reader};

fn trainer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(args)
        .output()
        .expect("starts")
}

fn done(args: &[&str]) -> String {
    let out = trainer(args);
    assert!(
        out.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn fails(args: &[&str], want: &str) {
    let out = trainer(args);
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
    assert!(text.contains(want), "{args:?}: {text}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// An Ethernet, IPv4, UDP frame between a device and a server on the Internet.
fn frame(device: u8, out: bool, payload: usize) -> Vec<u8> {
    let (mac, router) = ([2, 0, 0, 0, 0, device], [2, 0, 0, 0, 1, 1]);
    let (own, server) = ([192, 168, 1, 10 + device], [203, 0, 113, 5]);
    let mut f = Vec::new();
    f.extend(if out { router } else { mac });
    f.extend(if out { mac } else { router });
    f.extend([8, 0, 0x45, 0]);
    f.extend(((28 + payload) as u16).to_be_bytes());
    f.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    f.extend(if out { own } else { server });
    f.extend(if out { server } else { own });
    f.extend([0x13, 0x88, 0x01, 0xbb]);
    f.extend(((8 + payload) as u16).to_be_bytes());
    f.extend([0, 0]);
    f.resize(42 + payload, 0);
    f
}

/// Three devices with rhythms of their own.
fn capture(path: &Path, seconds: u64, shift: u64) {
    let mut packets = Vec::new();
    for ms in (0..seconds * 1000).step_by(100) {
        if ms % 5000 == 0 {
            packets.push((ms + shift, frame(0, true, 40)));
            packets.push((ms + 30, frame(0, false, 60)));
        }
        if ms % 300 == 0 {
            packets.push((ms + 7 + shift, frame(1, true, 500)));
        }
        if ms % 9000 == 0 {
            packets.push((ms + 3, frame(2, true, 30)));
        }
        if ms % 9000 < 1500 {
            packets.push((ms + 11, frame(2, false, 90)));
        }
    }
    // One packet more at another time of each day: what is the same packet by packet counts as one session.
    packets.extend((0..3).map(|device| (50_050 + 1000 * shift, frame(device, true, 40))));
    packets.sort_by_key(|p| p.0);
    let file = std::fs::File::create(path).expect("create");
    let mut writer = PcapWriter::new(file, Link::Ethernet).expect("header");
    for (ms, f) in packets {
        writer
            .write(Nanos::from_millis(ms), &f, f.len())
            .expect("write");
    }
}

struct Captures {
    dir: tempfile::TempDir,
    files: Vec<PathBuf>,
}

fn captures() -> Captures {
    let dir = tempfile::tempdir().expect("folder");
    let files: Vec<PathBuf> = (0..4)
        .map(|i| {
            let path = dir.path().join(format!("day{i}.pcap"));
            capture(&path, 200, i * 3);
            path
        })
        .collect();
    Captures { dir, files }
}

#[test]
fn training_in_two_parts_gives_the_files_of_one() {
    let c = captures();
    let run = |folder: &Path, stages: &str, more: &[&str]| {
        let mut args = vec!["cover", "--profile", "ipet", "--pcap"];
        args.extend(c.files.iter().map(|f| text(f)));
        args.extend([
            "--seed",
            "5",
            "--attacker-epochs",
            "4",
            "--max-windows",
            "60",
            "--stages",
            stages,
        ]);
        args.extend(["--output", text(folder)]);
        args.extend(more);
        done(&args)
    };
    let (one, two) = (c.dir.path().join("one"), c.dir.path().join("two"));
    run(&one, "2", &[]);
    run(&two, "1", &[]);
    run(&two, "2", &["--resume"]);
    let mut seen = 0;
    for part in [
        "Generators/Epoch_1",
        "Generators/Epoch_2",
        "Discriminators",
        ".",
    ] {
        for entry in std::fs::read_dir(one.join(part)).expect("folder") {
            let path = entry.expect("entry").path();
            if path.extension().is_none_or(|e| e != "onnx") {
                continue;
            }
            let name = path.file_name().expect("name");
            let (a, b) = (
                std::fs::read(&path),
                std::fs::read(two.join(part).join(name)),
            );
            let (a, b) = (a.expect("one"), b.expect("two"));
            assert!(a == b, "{part}/{name:?} differs");
            let kind = if part == "Discriminators" {
                IPET_ATTACKER
            } else {
                IPET_GENERATOR
            };
            Model::load(&a, kind).unwrap_or_else(|e| panic!("{name:?}: {e}"));
            let other = if part == "Discriminators" {
                IPET_GENERATOR
            } else {
                IPET_ATTACKER
            };
            assert!(Model::load(&a, other).is_err());
            seen += 1;
        }
    }
    assert_eq!(seen, 3 + 3 + 3 + 3);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(one.join("report.json")).expect("report"))
            .expect("JSON");
    let cover = report["cover_per_slot"].as_array().expect("list");
    for (value, want, near) in [(0, 2.0, 0.1), (1, 50.0, 2.0), (2, 2.0, 0.1), (3, 50.0, 2.0)] {
        let found = cover[value].as_f64().expect("number");
        assert!((found - want).abs() < near, "{cover:?}");
    }
    // iPET's predict: windows, device by name or number, series, stage.
    let table = |device: &str| {
        let args = ["perturb", "3", device, "0", "2", "--model", text(&one)];
        done(&args)
    };
    let by_name = table("02:00:00:00:00:01");
    assert_eq!(by_name, table("1"));
    assert_ne!(by_name, table("0"));
    assert!(by_name.starts_with("in_packets,in_bytes,out_packets,out_bytes\n"));
    assert_eq!(by_name.lines().count(), 1 + 3 * 40);
    let named = one.join("Generators/Epoch_2/02:00:00:00:00:01.onnx");
    let same = [
        "perturb",
        "--model",
        text(&named),
        "--slots",
        "120",
        "--seed",
        "0",
        "--output",
        "-",
    ];
    assert_eq!(done(&same), by_name);
    for (arguments, want) in [
        (["0", "1", "0", "2"], "NUM_SAMPLES"),
        (["3", "7", "0", "2"], "DEV_ID is \"7\", wanted 0 to 2"),
        (["3", "1", "4", "2"], "of chain 0, not 4"),
        (["3", "1", "0", "9"], "no generation 9"),
    ] {
        let args = [&["perturb"], &arguments[..], &["--model", text(&one)]].concat();
        fails(&args, want);
    }
    fails(&["perturb", "3", "1", "--model", text(&one)], "4 values");

    // Other settings do not go on from this folder.
    let mut args = vec![
        "cover",
        "--profile",
        "ipet",
        "--resume",
        "--seed",
        "6",
        "--output",
        text(&two),
        "--pcap",
    ];
    args.extend(c.files.iter().map(|f| text(f)));
    fails(&args, "is of other captures, settings or version");
    std::fs::write(two.join("checkpoint.json"), "{").expect("written");
    args[5] = "5";
    fails(&args, "is no checkpoint");
}

#[test]
fn attacks_and_evaluations_give_table_picture_and_model() {
    let c = captures();
    let plain = c.dir.path().join("plain");
    let mut args = vec![
        "defend",
        "--defence",
        "none",
        "--seed",
        "1",
        "--output",
        text(&plain),
        "--pcap",
    ];
    args.extend(c.files.iter().map(|f| text(f)));
    done(&args);
    let out = c.dir.path().join("attack");
    for (model, file) in [
        ("lstm", "attacker.onnx"),
        ("cnn", "attacker.onnx"),
        ("m-agg", "attacker.json"),
        ("forest", "attacker.json"),
        ("strong", "attacker.json"),
    ] {
        let json = done(&[
            "attack",
            "--traces",
            text(&plain),
            "--model",
            model,
            "--seed",
            "1",
            "--epochs",
            "15",
            "--trees",
            "20",
            "--json",
            "--output",
            text(&out),
        ]);
        let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let found = report["score"]["balanced"].as_f64().expect("number");
        assert!(found > 0.8, "{model}: {report}");
        assert!(out.join(file).exists() && out.join("labels.json").exists());
        let svg = std::fs::read_to_string(out.join("confusion.svg")).expect("picture");
        assert!(svg.starts_with("<svg"));
    }
    let evaluation = c.dir.path().join("evaluation");
    let json = done(&[
        "evaluate",
        "--traces",
        text(&plain),
        "--defences",
        "none,random+,envelope,maybenot,maybenot-bins",
        "--known-homes",
        "3",
        "--rate",
        "2",
        "--seeds",
        "1,2",
        "--trees",
        "20",
        "--least",
        "4",
        "--json",
        "--output",
        text(&evaluation),
    ]);
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[0]["bytes"]["mean"], 0.0);
    assert!(rows[2]["packets"]["mean"].as_f64().expect("number") > 0.1);
    let (clean, unaware) = (&rows[0]["attackers"][1], &rows[2]["attackers"][0]);
    assert!(
        clean["balanced"]["mean"].as_f64() > unaware["balanced"]["mean"].as_f64(),
        "{report}"
    );
    let table = std::fs::read_to_string(evaluation.join("table.md")).expect("table");
    assert!(table.contains("| envelope x1 |"), "{table}");
    assert!(table.contains("| maybenot x1 |"), "{table}");
    assert!(rows[3]["bytes"]["mean"].as_f64() > rows[4]["bytes"]["mean"].as_f64());
    assert!(evaluation.join("curve.svg").exists());
}

#[test]
fn what_cannot_be_done_is_said() {
    let c = captures();
    let one = text(&c.files[0]);
    let out = c.dir.path().join("out");
    let out = text(&out);
    fails(
        &[
            "defend", "--traces", "/nowhere", "--seed", "1", "--output", out,
        ],
        "/nowhere",
    );
    fails(
        &[
            "defend",
            "--pcap",
            one,
            "--defence",
            "magic",
            "--seed",
            "1",
            "--output",
            out,
        ],
        "the defence is \"magic\"",
    );
    fails(
        &[
            "defend",
            "--pcap",
            one,
            "--defence",
            "ipet",
            "--seed",
            "1",
            "--output",
            out,
        ],
        "needs --model",
    );
    fails(
        &[
            "defend",
            "--pcap",
            one,
            "--sizes",
            "500,100,1400",
            "--seed",
            "1",
            "--output",
            out,
        ],
        "--sizes",
    );
    fails(
        &[
            "attack",
            "--pcap",
            one,
            "--min-packets",
            "100000",
            "--seed",
            "1",
            "--output",
            out,
        ],
        "100000",
    );
    fails(
        &[
            "attack", "--pcap", one, "--least", "100000", "--seed", "1", "--output", out,
        ],
        "two labels",
    );
    fails(
        &[
            "windows",
            "--profile",
            "ipet",
            "--pcap",
            one,
            "--home",
            "10.",
            "--output",
            out,
        ],
        "no window",
    );
    fails(
        &[
            "windows",
            "--profile",
            "ipet",
            "--pcap",
            one,
            "--omega",
            "0",
            "--output",
            out,
        ],
        "slots",
    );
    let list = c.dir.path().join("devices.csv");
    std::fs::write(&list, "device,mac\nother,02:00:00:00:00:77\n").expect("written");
    fails(
        &[
            "windows",
            "--pcap",
            one,
            "--devices",
            text(&list),
            "--output",
            out,
        ],
        "no window",
    );
    fails(
        &[
            "cover",
            "--profile",
            "ipet",
            "--pcap",
            one,
            "--devices",
            text(&list),
            "--seed",
            "1",
            "--output",
            out,
        ],
        "two labels",
    );
    fails(
        &[
            "defend",
            "--pcap",
            one,
            "--defence",
            "maybenot",
            "--machines",
            text(&list),
            "--seed",
            "1",
            "--output",
            out,
        ],
        "line 1: wanted `home MACHINE`",
    );
    let bad = c.dir.path().join("bad.onnx");
    std::fs::write(&bad, b"no model").expect("written");
    fails(
        &[
            "defend",
            "--pcap",
            one,
            "--defence",
            "ipet",
            "--model",
            text(&bad),
            "--seed",
            "1",
            "--output",
            out,
        ],
        "bad.onnx",
    );
}

#[test]
fn traces_of_one_packet_are_windows_and_sessions_like_others() {
    let dir = tempfile::tempdir().expect("folder");
    let files: Vec<PathBuf> = (0..8u64)
        .map(|i| {
            let path = dir.path().join(format!("day{i}.pcap"));
            let out = std::fs::File::create(&path).expect("create");
            let mut writer = PcapWriter::new(out, Link::Ethernet).expect("header");
            for device in 0..2 {
                let f = frame(device, true, 40 + 400 * usize::from(device));
                let at = Nanos::from_millis(i * 10 + u64::from(device));
                writer.write(at, &f, f.len()).expect("write");
            }
            path
        })
        .collect();
    let with = |command: &[&str], folder: &str| -> String {
        let out = dir.path().join(folder);
        let mut args = command.to_vec();
        args.extend(["--output", text(&out), "--pcap"]);
        args.extend(files.iter().map(|f| text(f)));
        done(&args)
    };
    for profile in ["native", "ipet"] {
        let said = with(&["windows", "--profile", profile], profile);
        assert!(said.starts_with("16 windows of 40 slots"), "{said}");
    }
    let few = ["--min-packets", "1", "--seed", "1"];
    for defence in ["none", "random", "envelope", "maybenot"] {
        with(
            &[&["defend", "--defence", defence], &few[..]].concat(),
            defence,
        );
    }
    let model = ["--model", "ipet", "--defence", "ipet"];
    with(&[&["defend"], &model[..], &few[..]].concat(), "mixed");
    for model in ["mlp", "forest"] {
        let said = with(
            &[&["attack", "--model", model, "--least", "1"], &few[..]].concat(),
            model,
        );
        assert!(said.starts_with("2 labels"), "{said}");
    }
    with(&["cover", "--shared", "--seed", "1"], "models");
}

/// The rules of iPET's windows once more, on frames read byte by byte: Ethernet, one 802.1Q tag, IPv4, TCP or UDP.
fn by_the_rules(file: &Path, mac: [u8; 6]) -> (Vec<f64>, Vec<f64>) {
    let input = std::fs::File::open(file).expect("capture");
    let mut reader = Reader::new(input).expect("header");
    let (mut bytes, mut origin, mut kept) = (Vec::new(), None, Vec::new());
    while let Ok(Some(f)) = reader.next(&mut bytes) {
        let origin = *origin.get_or_insert(f.at.0);
        let word = |at: usize| {
            bytes
                .get(at..at + 2)
                .map(|b| usize::from(b[0]) << 8 | usize::from(b[1]))
        };
        let at = if word(12) == Some(0x8100) { 18 } else { 14 };
        if word(at - 2) != Some(0x0800)
            || bytes.len() < at + 20
            || word(at + 6).is_some_and(|w| w & 0x1fff != 0)
        {
            continue;
        }
        let (head, total) = (
            usize::from(bytes[at] & 15) * 4,
            word(at + 2).expect("there"),
        );
        let payload = match bytes[at + 9] {
            6 if bytes.len() > at + head + 12 => {
                total as i64 - head as i64 - i64::from(bytes[at + head + 12] >> 4) * 4
            }
            17 => word(at + head + 4).unwrap_or(8) as i64 - 8,
            _ => continue,
        };
        // Addresses whose text begins with 192.
        let (out, inside) = (bytes[at + 12] == 192, bytes[at + 16] == 192);
        let own = if out { &bytes[6..12] } else { &bytes[0..6] };
        if out != inside && payload != 0 && own == mac {
            kept.push(((f.at.0 - origin) as f64 / 1e9, out, payload as f64));
        }
    }
    let (mut tensor, mut silence) = (Vec::new(), Vec::new());
    let first = kept.first().map_or(0.0, |k| k.0);
    let times: Vec<f64> = kept.iter().map(|k| k.0 - first).collect();
    let mut i = 0;
    while i < times.len() {
        let from = tensor.len();
        tensor.resize(from + 160, 0.0);
        silence.push(if i == 0 { 0.0 } else { times[i] - times[i - 1] });
        let start = i;
        while i < times.len() && times[i] < times[start] + 4.0 {
            let t = times[i] - times[start];
            // NumPy's floor division.
            let slot = ((t - t % 0.1) / 0.1).round() as usize;
            let column = from + slot * 4 + if kept[i].1 { 2 } else { 0 };
            tensor[column] += 1.0;
            tensor[column + 1] += kept[i].2;
            i += 1;
        }
    }
    (tensor, silence)
}

/// The numbers of an array file.
fn numbers(path: &Path) -> Vec<f64> {
    let bytes = std::fs::read(path).expect("array");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[start..]
        .chunks_exact(8)
        .map(|b| f64::from_le_bytes(b.try_into().expect("eight")))
        .collect()
}

#[test]
fn windows_equal_the_rules_on_real_captures() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/iot");
    let Ok(list) = std::fs::read_to_string(folder.join("devices.csv")) else {
        println!("skipped: no captures at ../shared/data/iot");
        return;
    };
    let mut files: Vec<(PathBuf, [u8; 6])> = Vec::new();
    for line in list.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let mut mac = [0; 6];
        for (m, text) in mac.iter_mut().zip(cells[1].split(':')) {
            *m = u8::from_str_radix(text, 16).expect("MAC");
        }
        for entry in std::fs::read_dir(folder.join(cells[0]))
            .into_iter()
            .flatten()
        {
            let path = entry.expect("entry").path();
            if path.extension().is_some_and(|e| e == "pcap") {
                files.push((path, mac));
            }
        }
    }
    files.sort();
    let dir = tempfile::tempdir().expect("folder");
    let devices = folder.join("devices.csv");
    let mut args = vec![
        "windows",
        "--profile",
        "ipet",
        "--devices",
        text(&devices),
        "--output",
        text(dir.path()),
        "--pcap",
    ];
    args.extend(files.iter().map(|f| text(&f.0)));
    done(&args);
    let (mut tensor, mut silence) = (Vec::new(), Vec::new());
    for (file, mac) in &files {
        let (t, s) = by_the_rules(file, *mac);
        tensor.extend(t);
        silence.extend(s);
    }
    assert!(silence.len() > 10_000, "{}", silence.len());
    assert!(
        numbers(&dir.path().join("windows.npy")) == tensor,
        "windows differ"
    );
    assert!(
        numbers(&dir.path().join("silence.npy")) == silence,
        "silences differ"
    );

    // The same in NumPy, where that is at hand.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/windows_reference.py");
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import numpy"]).output();
    if !has.is_ok_and(|o| o.status.success()) {
        println!("skipped: no NumPy for {python}; compared with the rules in Rust only");
        return;
    }
    let out = Command::new(&python)
        .arg(script)
        .args([text(&devices), text(dir.path())])
        .args(files.iter().map(|f| text(&f.0)))
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        said.starts_with("equal"),
        "{said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
}
