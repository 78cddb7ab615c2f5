//! Generators with more than iPET's: made by the command, run by the scheduler that simulation and gateway run.

use std::path::{Path, PathBuf};
use std::process::Command;

use chaff_abi::{Dir, Nanos, SlotCounters};
use chaff_cover::{Demand, Generator, OnnxGenerator, Scheduler, SchedulerConfig, Window};
use chaff_onnx::{Extras, SIZE_BINS};

/// Trains one generator for the recorded demo home; `Err` is what the command said.
fn train(folder: &Path, name: &str, more: &[&str]) -> Result<PathBuf, String> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let out = folder.join(name);
    let made = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args([
            "cover",
            "--shared",
            "--stages",
            "2",
            "--attacker-epochs",
            "4",
        ])
        .args(["--epochs", "20", "--seed", "3", "--pcap"])
        .arg(fixtures.join("demo.pcap"))
        .arg("--devices")
        .arg(fixtures.join("devices.csv"))
        .args(more)
        .arg("--output")
        .arg(&out)
        .output()
        .expect("starts");
    if made.status.success() {
        Ok(out)
    } else {
        Err(String::from_utf8_lossy(&made.stderr).into_owned())
    }
}

fn load(path: &Path) -> OnnxGenerator {
    OnnxGenerator::load(&std::fs::read(path).expect("model")).expect("loads")
}

fn block(g: &mut OnnxGenerator, past: &Window, seed: u64) -> Vec<Demand> {
    let mut out = vec![Demand::NONE; g.rows()];
    let mut rng = chaff_trainer::cover::stream(seed, "block");
    g.fill(past, &mut rng, &mut out).expect("runs");
    out
}

#[test]
fn one_model_has_all_of_it_and_the_scheduler_does_what_its_signature_says() {
    let dir = tempfile::tempdir().expect("folder");
    let more = [
        "--past",
        "5",
        "--secret",
        "6",
        "--sizes",
        "68,516,1360",
        "--max-packets",
        "2",
        "--mask-hold",
        "20",
        "--mask-pause",
        "400",
    ];
    let path = train(dir.path(), "all.onnx", &more).expect("trains");
    let again = train(dir.path(), "again.onnx", &more).expect("trains");
    let bytes = |p: &Path| std::fs::read(p).expect("model");
    assert_eq!(bytes(&path), bytes(&again));
    let mut g = load(&path);
    let signature = g.signature().clone();
    let want = Extras {
        past: 5,
        secret: 6,
        sizes: vec![68, 516, 1360],
        mask_ms: Some([20_000, 400_000]),
    };
    assert_eq!(signature.extras, want);
    assert_eq!(
        (signature.feature_kind.as_str(), signature.columns),
        (SIZE_BINS, 6)
    );

    // The home's secret and the past count, the rest being equal.
    let idle = Window::new(40);
    let mut busy = Window::new(40);
    for _ in 0..5 {
        busy.push(SlotCounters {
            packets: [9, 30],
            payload: [900, 36_000],
            ..SlotCounters::default()
        });
    }
    let mut homes = [1, 2].map(|home| {
        let mut g = load(&path);
        g.start(&mut chaff_trainer::cover::stream(home, "home"));
        g
    });
    let [a, b] = homes.each_mut().map(|g| block(g, &idle, 7));
    assert_ne!(a, b, "another secret");
    assert_eq!(a, block(&mut homes[0], &idle, 7));
    assert_ne!(a, block(&mut homes[0], &busy, 7), "another past");
    // What lies further back than the model looks changes nothing.
    for _ in 0..5 {
        busy.push(SlotCounters::default());
    }
    assert_eq!(a, block(&mut homes[0], &busy, 7));

    // Only these sizes, only while the mask says so.
    g.start(&mut chaff_trainer::cover::stream(1, "home"));
    let config = SchedulerConfig {
        label: "plug".to_owned(),
        ..SchedulerConfig::default()
    };
    let mut scheduler = Scheduler::new(config, Box::new(g), [5; 32], Nanos::ZERO);
    let (mut past, mut all, mut covered) = (Window::new(40), Vec::new(), Vec::new());
    for slot in 0..3_000u64 {
        let from = all.len();
        scheduler.plan(slot, &past, &mut all).expect("plans");
        covered.push(all.len() > from);
        let active = (1_000..1_100).contains(&slot);
        past.push(SlotCounters {
            packets: [u64::from(active), 0],
            ..SlotCounters::default()
        });
    }
    assert!(all.iter().all(|d| [68, 516, 1360].contains(&d.payload)));
    for dir in Dir::BOTH {
        assert!(all.iter().any(|d| d.dir == dir));
    }
    let share = |from: usize, to: usize| {
        covered[from..to].iter().filter(|c| **c).count() as f64 / (to - from) as f64
    };
    let cost = scheduler.overhead();
    assert!(share(1_001, 1_100) > 0.5, "{}", share(1_001, 1_100));
    assert!(
        cost.inactive_slots > 0 && cost.inactive_slots < 3_000,
        "{cost:?}"
    );
}

#[test]
fn every_option_by_itself_and_none() {
    let dir = tempfile::tempdir().expect("folder");
    for (name, more, want) in [
        ("none.onnx", &[][..], Extras::default()),
        (
            "past.onnx",
            &["--past", "40"],
            Extras {
                past: 40,
                ..Extras::default()
            },
        ),
        (
            "secret.onnx",
            &["--secret", "1"],
            Extras {
                secret: 1,
                ..Extras::default()
            },
        ),
        (
            "sizes.onnx",
            &["--sizes", "500"],
            Extras {
                sizes: vec![500],
                ..Extras::default()
            },
        ),
        (
            "mask.onnx",
            &["--mask-hold", "1.5", "--mask-pause", "60"],
            Extras {
                mask_ms: Some([1_500, 60_000]),
                ..Extras::default()
            },
        ),
    ] {
        let mut g = load(&train(dir.path(), name, more).expect(name));
        assert_eq!(g.signature().extras, want);
        assert_eq!(g.mask().is_some(), want.mask_ms.is_some());
        let made = block(&mut g, &Window::new(1), 1);
        assert!(made.iter().any(|d| d.packets != [0, 0]), "{name}");
    }
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("folder");
    for (more, want) in [
        (&["--past", "1025"][..], "--past is 1025"),
        (&["--secret", "2000"], "--secret is 2000"),
        (&["--sizes", "500,68"], "--sizes"),
        (&["--sizes", "1,2,3,4"], "--sizes"),
        (
            &["--mask-hold", "0", "--mask-pause", "1"],
            "--mask-hold is 0",
        ),
        (&["--mask-hold", "1"], "--mask-pause"),
        (&["--profile", "ipet", "--past", "1"], "leave out"),
    ] {
        let said = train(dir.path(), "x.onnx", more).expect_err("refused");
        assert!(said.contains(want), "{said}");
    }
}
