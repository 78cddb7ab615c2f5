//! Sessions of several captures: none is lost to another one's name, none counts twice.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use chaff_trainer::devices::Devices;
use chaff_trainer::split::{Held, split_by};
use chaff_trainer::traces::{Limits, from_captures};

#[test]
fn captures_of_one_name_stay_apart_and_copies_count_once() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let dir = tempfile::tempdir().expect("folder");
    let whole = std::fs::read(fixtures.join("demo.pcap")).expect("fixture");
    // The same capture twice, and one that breaks off in the middle.
    for (folder, bytes) in [
        ("home", &whole[..]),
        ("again", &whole),
        ("short", &whole[..whole.len() / 2]),
    ] {
        let folder = dir.path().join(folder);
        std::fs::create_dir(&folder).expect("folder");
        std::fs::write(folder.join("monday.pcap"), bytes).expect("written");
    }
    let defend = |folders: &[&str]| -> (BTreeSet<String>, String) {
        let out = tempfile::tempdir().expect("folder");
        let done = Command::new(env!("CARGO_BIN_EXE_trainer"))
            .args(["defend", "--defence", "none", "--seed", "1", "--devices"])
            .arg(fixtures.join("devices.csv"))
            .arg("--output")
            .arg(out.path())
            .arg("--pcap")
            .args(folders.iter().map(|f| dir.path().join(f)))
            .output()
            .expect("starts");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{said}");
        let names = std::fs::read_dir(out.path()).expect("folder");
        let name = |e: std::fs::DirEntry| e.file_name().into_string().expect("UTF-8");
        (names.map(|e| name(e.expect("entry"))).collect(), said)
    };
    let (one, _) = defend(&["home"]);
    assert!(
        one.len() >= 2 && one.iter().all(|n| n.ends_with("__monday.csv")),
        "{one:?}"
    );
    let (twice, said) = defend(&["home", "again"]);
    assert_eq!(twice, one);
    assert!(
        said.contains("sessions are packet by packet those of other captures"),
        "{said}"
    );
    let run = |command: &str, folders: &[&str], more: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_trainer"))
            .args([command, "--devices"])
            .arg(fixtures.join("devices.csv"))
            .arg("--pcap")
            .args(folders.iter().map(|f| dir.path().join(f)))
            .arg("--output")
            .arg(dir.path().join(command))
            .args(more)
            .output()
            .expect("starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&done.stdout), text(&done.stderr))
    };
    // The other readers have the same rule.
    let copies = "sessions are packet by packet those of other captures";
    let brief = "--seed 1 --epochs 1 --attacker-epochs 1 --json";
    let brief: Vec<&str> = brief.split(' ').collect();
    let cover = |folders: &[&str]| -> serde_json::Value {
        let (out, said) = run("cover", folders, &brief);
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{said}"))
    };
    let (one_cover, two_covers) = (cover(&["home"]), cover(&["home", "again"]));
    assert_eq!(one_cover["training_digest"], two_covers["training_digest"]);
    assert!(
        two_covers["notes"].to_string().contains(copies),
        "{two_covers}"
    );
    let (windows, _) = run("windows", &["home"], &[]);
    let (same, said) = run("windows", &["home", "again"], &[]);
    assert_eq!(windows, same);
    assert!(said.contains(copies), "{said}");
    let (fewer, _) = run("windows", &["home"], &["--max-seconds", "20"]);
    let count = |text: &str| text.split(' ').next().and_then(|n| n.parse::<u32>().ok());
    assert!(
        count(&fewer) < count(&windows) && count(&fewer) > Some(0),
        "{fewer}"
    );
    for command in ["cover", "windows"] {
        let more = ["--max-seconds", "0", "--seed", "1"];
        let (_, said) = run(
            command,
            &["home"],
            &more[..if command == "cover" { 4 } else { 2 }],
        );
        assert!(said.contains("--max-seconds is 0"), "{said}");
    }
    let (all, _) = defend(&["home", "again", "short"]);
    let of = |folder: &str| all.iter().filter(|n| n.contains(folder)).count();
    assert_eq!(of("@short"), one.len(), "{all:?}");
    assert_eq!(all.len(), 2 * one.len(), "{all:?}");
}

/// A classic little-endian capture with all times moved by `seconds`.
fn later(capture: &[u8], seconds: u32) -> Vec<u8> {
    let mut out = capture.to_vec();
    let number = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let mut at = 24;
    while at + 16 <= out.len() {
        let moved = number(&out[at..]) + seconds;
        out[at..at + 4].copy_from_slice(&moved.to_le_bytes());
        at += 16 + number(&out[at + 8..]) as usize;
    }
    out
}

#[test]
fn the_latest_sessions_are_those_captured_last() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let whole = std::fs::read(fixtures.join("demo.pcap")).expect("fixture");
    assert_eq!(whole[..4], 0xa1b2_c3d4u32.to_le_bytes());
    let dir = tempfile::tempdir().expect("folder");
    // Names run against time; of other lengths, so that none is a copy.
    let mut files = Vec::new();
    for (name, seconds, bytes) in [
        ("a", 7200, &whole[..]),
        ("b", 3600, &whole[..whole.len() * 3 / 4]),
        ("c", 0, &whole[..whole.len() / 2]),
    ] {
        files.push(dir.path().join(format!("{name}.pcap")));
        std::fs::write(files.last().expect("pushed"), later(bytes, seconds)).expect("written");
    }
    let list = std::fs::read_to_string(fixtures.join("devices.csv")).expect("fixture");
    let devices = Devices::parse(&list).expect("a list");
    let mut notes = Vec::new();
    let traces =
        from_captures(&files, &devices, Limits::default(), &mut notes, &mut || ()).expect("read");
    let split = split_by(&traces, Held::Latest(0.3)).expect("times are known");
    let of = |list: &[usize]| -> BTreeSet<&str> {
        list.iter().map(|&i| traces[i].session.as_str()).collect()
    };
    assert_eq!(of(&split.test), BTreeSet::from(["a"]));
    assert_eq!(of(&split.train), BTreeSet::from(["b", "c"]));
}
