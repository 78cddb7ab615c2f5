//! Training end to end: generated captures, and real ones where they are at hand.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use chaff_abi::Nanos;
use chaff_cover::{Demand, Generator, MODELS, OnnxGenerator, Window, model, parity};
use chaff_flow::Link;
use chaff_onnx::{Golden, Graph, IPET_GENERATOR, IPET_SLOTS, SIGNATURE_VERSION, Signature};
use chaff_trace::PcapWriter;

const HOME: [[u8; 4]; 3] = [[192, 168, 1, 10], [192, 168, 1, 11], [192, 168, 1, 12]];

/// An Ethernet, IPv4, UDP frame between a device and a server on the Internet, through a router.
fn frame(device: u8, out: bool, payload: usize) -> Vec<u8> {
    let (mac, router) = ([2, 0, 0, 0, 0, device], [2, 0, 0, 0, 1, 1]);
    let (own, server) = (HOME[usize::from(device)], [203, 0, 113, 5]);
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

/// Three devices with rhythms of their own: a sensor (one small packet every 5 s), a camera (steady, out), a speaker
/// (bursts in).
fn capture(path: &Path, seconds: u64) {
    let mut packets = Vec::new();
    for ms in (0..seconds * 1000).step_by(100) {
        if ms % 5000 == 0 {
            packets.push((ms, frame(0, true, 40)));
            packets.push((ms + 30, frame(0, false, 60)));
        }
        if ms % 300 == 0 {
            packets.push((ms + 7, frame(1, true, 500)));
        }
        if ms % 9000 == 0 {
            packets.push((ms + 3, frame(2, true, 30)));
        }
        if ms % 9000 < 1500 {
            packets.push((ms + 11, frame(2, false, 90)));
        }
    }
    let file = std::fs::File::create(path).expect("create");
    let mut writer = PcapWriter::new(file, Link::Ethernet).expect("header");
    for (ms, f) in packets {
        writer
            .write(Nanos::from_millis(ms), &f, f.len())
            .expect("write");
    }
}

fn trainer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(args)
        .output()
        .expect("starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn report(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).expect("report")).expect("JSON")
}

#[test]
fn a_seed_gives_the_same_models_and_they_hide_the_devices() {
    let dir = tempfile::tempdir().expect("folder");
    let (a, b) = (dir.path().join("a.pcap"), dir.path().join("b.pcap"));
    capture(&a, 400);
    capture(&b, 300);
    let run = |name: &str, seed: &str| -> PathBuf {
        let out = dir.path().join(name);
        let done = trainer(&[
            "cover",
            "--pcap",
            text(&a),
            text(&b),
            "--seed",
            seed,
            "--epochs",
            "5",
            "--attacker-epochs",
            "20",
            "--output",
            text(&out),
        ]);
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        out
    };
    let (one, two, other) = (run("one", "7"), run("two", "7"), run("other", "8"));
    // Without a devices file a device is a MAC address; the router is none.
    let models = [
        "02:00:00:00:00:00",
        "02:00:00:00:00:01",
        "02:00:00:00:00:02",
    ];
    for label in models {
        let name = format!("{}.onnx", label);
        let bytes = std::fs::read(one.join(&name)).expect("model");
        assert_eq!(bytes, std::fs::read(two.join(&name)).expect("model"));
        assert_ne!(bytes, std::fs::read(other.join(&name)).expect("model"));
        let mut g = OnnxGenerator::load(&bytes).expect("loads");
        assert_eq!(g.signature().device_label, label);
        assert_eq!((g.slot(), g.rows()), (Nanos::from_millis(100), 40));
        let mut demands = [Demand::NONE; 40];
        let mut rng = chaff_trainer::cover::stream(1, "test");
        g.fill(&Window::new(1), &mut rng, &mut demands)
            .expect("runs");
        assert!(demands.iter().all(|d| d.packets.iter().all(|p| *p <= 4)));
        assert!(demands.iter().all(|d| d.bytes.iter().all(|b| *b <= 100)));
        assert!(demands.iter().any(|d| d.bytes != [0, 0]));
    }
    let r = report(&one.join("report.json"));
    assert_eq!(r, report(&two.join("report.json")));
    let accuracy = |name: &str| r[name].as_f64().expect("number");
    assert!(accuracy("accuracy_before") > 0.95, "{r}");
    assert!(accuracy("accuracy_after") < 0.7, "{r}");

    let csv = dir.path().join("cover.csv");
    let model = one.join("02:00:00:00:00:01.onnx");
    let done = trainer(&[
        "perturb",
        "--model",
        text(&model),
        "--slots",
        "70",
        "--seed",
        "3",
        "--output",
        text(&csv),
    ]);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let table = std::fs::read(&csv).expect("csv");
    assert!(table.starts_with(b"in_packets,in_bytes,out_packets,out_bytes\n"));
    assert_eq!(parity::read_rows(&table[..]).expect("reads").len(), 70);
}

#[test]
fn what_cannot_be_trained_is_said_in_one_line() {
    let dir = tempfile::tempdir().expect("folder");
    let pcap = dir.path().join("a.pcap");
    capture(&pcap, 60);
    let devices = dir.path().join("devices.csv");
    std::fs::write(&devices, "device,mac\ncam,02:00:00:00:00:01\n").expect("write");
    let out = dir.path().join("out");
    let text_file = dir.path().join("b.pcap");
    std::fs::write(&text_file, "no capture at all").expect("write");
    let base = ["--pcap", text(&pcap), "--seed", "1", "--output", text(&out)];
    let cases: [(&[&str], &str); 6] = [
        (&["--devices", text(&devices)], "at least two devices"),
        (&["--device", "toaster"], "no device \"toaster\""),
        (&["--omega", "0.3"], "a window of 4 s with slots of 0.3 s"),
        (&["--max-packets", "0"], "--max-packets"),
        (&["--pcap", text(&text_file)], "while reading"),
        (&["--devices", text(&text_file)], "line 1"),
    ];
    for (extra, want) in cases {
        let done = trainer(&[&["cover"], &base[..], extra].concat());
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains(want), "{extra:?}: {said}");
        assert!(!out.exists());
    }
}

#[test]
fn real_devices_are_told_apart_less_with_cover() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/iot");
    if !folder.exists() {
        println!("skipped: no captures at ../shared/data/iot");
        return;
    }
    let dir = tempfile::tempdir().expect("folder");
    let names = ["HueBridge", "D-LinkSensor", "WeMoLink", "fw-tplink-plug"];
    let captures: Vec<PathBuf> = names.iter().map(|n| folder.join(n)).collect();
    let list = folder.join("devices.csv");
    let mut args = vec!["cover", "--pcap"];
    args.extend(captures.iter().map(|p| text(p)));
    args.extend([
        "--devices",
        text(&list),
        "--seed",
        "1",
        "--epochs",
        "5",
        "--attacker-epochs",
        "8",
        "--max-windows",
        "120",
        "--output",
        text(dir.path()),
    ]);
    let done = trainer(&args);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let r = report(&dir.path().join("report.json"));
    let accuracy = |name: &str| r[name].as_f64().expect("number");
    assert!(accuracy("accuracy_before") > 0.45, "{r}");
    assert!(
        accuracy("accuracy_after") < accuracy("accuracy_before") - 0.15,
        "{r}"
    );
    assert_eq!(r["devices"].as_array().map(Vec::len), Some(4));
}

#[test]
fn models_that_come_along_load_and_make_what_they_say() {
    for (name, packets, bytes) in [
        ("ipet", 1.9..2.1, 48.0..52.0),
        ("learned", 0.4..1.2, 25.0..90.0),
    ] {
        let mut g = OnnxGenerator::load(model(name).expect("there")).expect("loads");
        assert_eq!((g.slot(), g.rows()), (Nanos::from_millis(100), 40));
        let done = trainer(&[
            "perturb", "--model", name, "--slots", "2000", "--seed", "1", "--output", "-",
        ]);
        let rows = parity::read_rows(&done.stdout[..]).expect("reads");
        let mean = |of: fn(&Demand) -> [u32; 2]| {
            let sum: u32 = rows.iter().flat_map(of).sum();
            f64::from(sum) / 2.0 / rows.len() as f64
        };
        let found = (mean(|d| d.packets), mean(|d| d.bytes));
        let right = packets.contains(&found.0) && bytes.contains(&found.1);
        assert!(right, "{name} {found:?}");
        let mut block = vec![Demand::NONE; 40];
        let mut rng = chaff_trainer::cover::stream(1, "perturb");
        g.fill(&Window::new(1), &mut rng, &mut block).expect("runs");
        assert_eq!(block, rows[..40]);
    }
    assert!(MODELS.iter().all(|name| model(name).is_some()));
    assert!(model("iPET").is_none());
}

#[test]
fn the_model_learned_is_made_by_its_command() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("learned.onnx");
    let (pcap, list) = (fixtures.join("demo.pcap"), fixtures.join("devices.csv"));
    let said = trainer(&[
        "cover",
        "--shared",
        "--stages",
        "10",
        "--epochs",
        "100",
        "--overhead-weight",
        "1",
        "--max-payload",
        "400",
        "--pcap",
        text(&pcap),
        "--devices",
        text(&list),
        "--seed",
        "1",
        "--output",
        text(&out),
    ]);
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let bytes = std::fs::read(&out).expect("model");
    let mut made = OnnxGenerator::load(&bytes).expect("loads");
    let mut ours = OnnxGenerator::load(model("learned").expect("there")).expect("loads");
    assert_eq!(made.signature().device_label, "any");
    assert_eq!(
        made.signature().training_digest,
        ours.signature().training_digest
    );
    // Another machine may round exponentials differently; the demands are the same but for that.
    let (mut a, mut b) = ([Demand::NONE; 40], [Demand::NONE; 40]);
    let draw = || chaff_trainer::cover::stream(3, "compare");
    made.fill(&Window::new(1), &mut draw(), &mut a)
        .expect("runs");
    ours.fill(&Window::new(1), &mut draw(), &mut b)
        .expect("runs");
    for (a, b) in a.iter().zip(&b) {
        for d in 0..2 {
            assert!(a.packets[d].abs_diff(b.packets[d]) <= 1, "{a:?} {b:?}");
            assert!(a.bytes[d].abs_diff(b.bytes[d]) <= 4, "{a:?} {b:?}");
        }
    }
}

/// A generator whose graph has these sizes, with a signature of 3 rows.
fn written(rows: usize, latent: usize, weight: f32) -> Result<Vec<u8>, chaff_onnx::ModelError> {
    let n = rows * 4;
    let mut g = Graph::new("test");
    let z = g.input("latent", &[1, latent]);
    let w = g.constant(&[latent, n], &vec![weight; latent * n]);
    let b = g.constant(&[n], &vec![1.0; n]);
    let y = g.gemm(&z, &w, &b);
    let y = g.reshape(&y, &[1, rows, 4]);
    g.output("demand", &y, &[1, rows, 4]);
    let signature = Signature {
        version: SIGNATURE_VERSION,
        kind: IPET_GENERATOR.to_owned(),
        feature_kind: IPET_SLOTS.to_owned(),
        rows: 3,
        columns: 4,
        slot_ms: 100,
        window_ms: 300,
        scale: vec![4.0, 100.0, 4.0, 100.0],
        threshold: None,
        device_label: "plug".to_owned(),
        chain: 0,
        stage: 1,
        seed: 1,
        training_digest: [0; 32],
        extras: chaff_onnx::Extras::default(),
    };
    let golden = Golden {
        inputs: vec![vec![0.0; latent]],
        outputs: vec![vec![1.0; n]],
    };
    g.to_bytes(&signature, &[golden])
}

#[test]
fn models_of_another_shape_and_weights_that_are_no_numbers_are_refused() {
    assert!(OnnxGenerator::load(&written(3, 2, 0.5).expect("written")).is_ok());
    let told = |bytes: &[u8]| {
        let error = OnnxGenerator::load(bytes).expect_err("refused");
        format!("{:#}", anyhow::Error::from(error))
    };
    let rows = told(&written(4, 2, 0.5).expect("written"));
    assert!(rows.contains("the outputs"), "{rows}");
    let latent = told(&written(3, 5_000, 0.5).expect("written"));
    assert!(latent.contains("the inputs"), "{latent}");
    for bad in [f32::NAN, f32::INFINITY] {
        let error = written(3, 2, bad).expect_err("refused").to_string();
        assert!(error.contains("not finite"), "{error}");
    }
    // The same in a file that was made elsewhere: one weight becomes NaN.
    let mut bytes = written(3, 2, 0.5).expect("written");
    let weight = 0.5f32.to_le_bytes();
    let at = bytes
        .windows(8)
        .position(|w| w[..4] == weight && w[4..] == weight)
        .expect("weights");
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = told(&bytes);
    assert!(
        error.contains("not finite") || error.contains("digest"),
        "{error}"
    );
}
