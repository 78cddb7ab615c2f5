//! Lists and captures as homes have them, and what is said of options that cannot be.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_test_support::frame::{ethernet, ethertype, ipv4, ipv6, udp};
use chaff_trace::PcapWriter;

const DEVICE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 1, 1];

fn trainer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(args)
        .output()
        .expect("starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Eighty packets of a device, 150 ms apart, every third one from outside; over IPv4 or IPv6.
fn packets(six: bool) -> Vec<(u64, Vec<u8>, bool)> {
    let packet = |out: bool, payload: usize| {
        let body = udp([5000, 443], &vec![0; payload]);
        if six {
            let mut ends = [[0; 16]; 2];
            ends[usize::from(!out)][..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
            ends[usize::from(!out)][15] = 1;
            ends[usize::from(out)][..4].copy_from_slice(&[0x2a, 0, 0, 1]);
            ipv6(ends, 17, &body)
        } else {
            let (own, server) = ([192, 168, 1, 10], [203, 0, 113, 5]);
            let ends = if out { [own, server] } else { [server, own] };
            ipv4(ends, 17, 0, &[], &body)
        }
    };
    (0..80)
        .map(|i| (150 * i, packet(i % 3 != 0, 20 + i as usize), i % 3 != 0))
        .collect()
}

fn framed(packet: &[u8], out: bool, tag: bool) -> Vec<u8> {
    let ends = if out {
        [ROUTER, DEVICE]
    } else {
        [DEVICE, ROUTER]
    };
    let kind = ethertype(packet);
    if tag {
        let tagged = [&[0, 5], kind.to_be_bytes().as_slice(), packet].concat();
        return ethernet(ends, 0x8100, &tagged);
    }
    ethernet(ends, kind, packet)
}

fn pcap(path: &Path, link: Link, frames: &[(u64, Vec<u8>)]) {
    let file = std::fs::File::create(path).expect("creates");
    let mut writer = PcapWriter::new(file, link).expect("writes");
    for (ms, frame) in frames {
        let at = Nanos::from_millis(1_000_000 + ms);
        writer.write(at, frame, frame.len()).expect("writes");
    }
}

/// pcapng of Ethernet with times in nanoseconds.
fn pcapng(path: &Path, frames: &[(u64, Vec<u8>)]) {
    let block = |kind: u32, body: &[u8]| {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        let length = (body.len() as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes()[..], &length, &body, &length].concat()
    };
    let head = [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0];
    let mut file = block(0x0a0d_0d0a, &[&head[..], &[0xff; 8]].concat());
    // The interface: Ethernet, packets of any length, times in units of 10^-9 s.
    let about = [1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    file.extend(block(1, &about));
    for (ms, frame) in frames {
        let at = (1_000_000 + ms) * 1_000_000;
        let length = frame.len() as u32;
        let numbers = [0, (at >> 32) as u32, at as u32, length, length];
        let mut body: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        body.extend(frame);
        file.extend(block(6, &body));
    }
    std::fs::write(path, file).expect("writes");
}

/// The windows of a capture, byte by byte; nothing but a success is expected.
fn windows(dir: &Path, capture: &Path, list: &str) -> Vec<u8> {
    let devices = dir.join("devices.csv");
    std::fs::write(&devices, list).expect("writes");
    let out = dir.join("windows");
    let done = trainer(&[
        "windows",
        "--pcap",
        text(capture),
        "--devices",
        text(&devices),
        "--home",
        "private,2001:db8::/32",
        "--output",
        text(&out),
    ]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{}: {list:?}: {said}",
        capture.display()
    );
    std::fs::read(out.join("windows.npy")).expect("reads")
}

#[test]
fn lists_of_addresses_and_captures_of_any_kind_give_the_same_windows() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    let frames = |six, tag| -> Vec<(u64, Vec<u8>)> {
        let framed = |(ms, p, out): (u64, Vec<u8>, bool)| (ms, framed(&p, out, tag));
        packets(six).into_iter().map(framed).collect()
    };
    let (plain, six) = (frames(false, false), frames(true, false));
    let bare: Vec<_> = packets(false).into_iter().map(|p| (p.0, p.1)).collect();
    pcap(&path("plain.pcap"), Link::Ethernet, &plain);
    pcap(&path("tagged.pcap"), Link::Ethernet, &frames(false, true));
    pcap(&path("six.pcap"), Link::Ethernet, &six);
    pcap(&path("bare.pcap"), Link::RawIp, &bare);
    pcapng(&path("plain.pcapng"), &plain);
    let mac = "device,mac\ncam,02:00:00:00:00:01\n";
    let four = "# of the house\ndevice,ip,label\ncam,2001:db8::1;192.168.1.10,camera\n";
    let want = windows(dir.path(), &path("plain.pcap"), mac);
    assert!(want.len() > 128 + 8 * 40 * 4);
    for (name, list) in [
        ("plain.pcap", four),
        ("tagged.pcap", mac),
        ("tagged.pcap", four),
        ("six.pcap", mac),
        ("six.pcap", four),
        ("bare.pcap", four),
        ("plain.pcapng", mac),
        ("plain.pcapng", four),
    ] {
        assert!(
            windows(dir.path(), &path(name), list) == want,
            "{name}: {list:?}"
        );
    }
}

#[test]
fn a_home_that_the_devices_are_not_in_is_noted() {
    let dir = tempfile::tempdir().expect("a folder");
    let (capture, list) = (dir.path().join("a.pcap"), dir.path().join("devices.csv"));
    let frames: Vec<_> = packets(false)
        .into_iter()
        .map(|(ms, p, out)| (ms, framed(&p, out, false)))
        .collect();
    pcap(&capture, Link::Ethernet, &frames);
    let out = dir.path().join("windows");
    let lines = "cam,02:00:00:00:00:01,192.168.1.10\nplug,02:00:00:00:00:02,10.0.0.9\n";
    std::fs::write(&list, format!("device,mac,ip\n{lines}")).expect("writes");
    let done = trainer(&[
        "windows",
        "--profile",
        "ipet",
        "--pcap",
        text(&capture),
        "--devices",
        text(&list),
        "--output",
        text(&out),
    ]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(
        said.contains(
            "note: 1 of 2 listed devices have no address that belongs to the home, 192: plug; see --home"
        ),
        "{said}"
    );
}

#[test]
fn what_cannot_be_is_said_with_what_can() {
    let dir = tempfile::tempdir().expect("a folder");
    let capture = dir.path().join("a.pcap");
    let frames: Vec<_> = packets(true)
        .into_iter()
        .map(|(ms, p, out)| (ms, framed(&p, out, false)))
        .collect();
    pcap(&capture, Link::Ethernet, &frames);
    let (one, out) = (text(&capture), dir.path().join("out"));
    let list = dir.path().join("devices.csv");
    let lines = "cam,02:00:00:00:00:01\nplug,02:00:00:00:00:02\n";
    std::fs::write(&list, format!("device,mac\n{lines}")).expect("writes");
    let (list, folder) = (text(&list), text(dir.path()));
    let listed = ["--pcap", one, "--devices", list];
    let nowhere = dir.path().join("none");
    // Command, input, options, what is said.
    type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a str);
    let cases: [Case<'_>; 18] = [
        (
            "attack",
            &listed,
            &["--trees", "0"],
            "0 is not in 1..=10000",
        ),
        ("attack", &listed, &["--cap", "0"], "0 is not in 1..="),
        ("attack", &listed, &["--least", "0"], "0 is not in 1..="),
        ("attack", &listed, &["--epochs", "0"], "0 is not in 1..="),
        (
            "attack",
            &listed,
            &["--max-seconds", "-1"],
            "--max-seconds is -1, allowed is above 0",
        ),
        ("attack", &listed, &["--least", "1"], "found cam only"),
        (
            "attack",
            &["--pcap", one],
            &[],
            "no device found: no MAC address sends from private",
        ),
        ("cover", &listed, &["--epochs", "0"], "0 is not in 1..="),
        (
            "cover",
            &listed,
            &["--attacker-epochs", "0"],
            "0 is not in 1..=",
        ),
        (
            "cover",
            &listed,
            &["--max-windows", "0"],
            "0 is not in 1..=",
        ),
        (
            "cover",
            &listed,
            &["--overhead-weight", "-1"],
            "--overhead-weight is -1, allowed is 0 or more",
        ),
        (
            "cover",
            &listed,
            &["--sizes", "5000"],
            "different numbers from 1 to 1452, smallest first",
        ),
        (
            "cover",
            &listed,
            &["--resume"],
            "--resume is for --profile ipet only",
        ),
        (
            "cover",
            &listed,
            &["--split-seed", "1"],
            "--split-seed is for --profile ipet only",
        ),
        (
            "cover",
            &listed,
            &["--validation", "held-out"],
            "held-out is for --profile ipet only",
        ),
        (
            "cover",
            &listed,
            &["--shared"],
            "1 label of the list without any window",
        ),
        (
            "cover",
            &listed,
            &["--profile", "ipet", "--shared"],
            "leave out --shared",
        ),
        ("defend", &["--pcap", text(&nowhere)], &[], "while opening"),
    ];
    for (command, input, more, want) in cases {
        let mut args = vec![command];
        args.extend(input);
        args.extend(more);
        args.extend(["--seed", "1", "--output", text(&out)]);
        let done = trainer(&args);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(want), "{args:?}: {want:?} is not in {said:?}");
    }
    for (more, want) in [
        (["--seeds", "1,2,1"], "--seeds has 1 twice"),
        (
            ["--scales", "0"],
            "--scales has 0, allowed is above 0 to 100",
        ),
        (["--scales", "2,2"], "--scales has 2 twice"),
        (["--defences", "none,none"], "--defences has none twice"),
        (["--home-devices", "0"], "1..=1000"),
        (["--home-pause", "0"], "allowed is 1 to 86400"),
        (["--trees", "0"], "1..=10000"),
        (["--copies", "17"], "0..=16"),
    ] {
        let mut args = vec!["evaluate"];
        args.extend(listed);
        args.extend(more);
        args.extend(["--output", text(&out)]);
        if more[0] != "--seeds" {
            args.extend(["--seeds", "1"]);
        }
        let done = trainer(&args);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(want), "{args:?}: {want:?} is not in {said:?}");
    }
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    let file = dir.path().join("x.onnx");
    let bad = dir.path().join("bad.onnx");
    std::fs::write(&bad, b"no model").expect("writes");
    for (args, want) in [
        (
            vec![
                "cover",
                "--profile",
                "ipet",
                "--pcap",
                one,
                "--seed",
                "1",
                "--output",
                text(&file),
            ],
            "is one file: --profile ipet fills a folder",
        ),
        (
            vec![
                "attack",
                "--pcap",
                text(&empty),
                "--seed",
                "1",
                "--output",
                text(&out),
            ],
            "no file that ends in .pcap, .pcapng or .cap in ",
        ),
        (
            vec![
                "perturb", "--model", folder, "--slots", "1", "--seed", "1", "--output", "-",
            ],
            "is a folder: give one of its files",
        ),
        (
            vec!["perturb", "1", "cam", "0", "1", "--model", text(&empty)],
            "is it a folder of `trainer cover --profile ipet`?",
        ),
    ] {
        let done = trainer(&args);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(want), "{args:?}: {want:?} is not in {said:?}");
    }
    // A reason is said once.
    let done = trainer(&[
        "perturb",
        "--model",
        text(&bad),
        "--slots",
        "1",
        "--seed",
        "1",
        "--output",
        "-",
    ]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(said.matches("not an ONNX model").count(), 1, "{said}");
}
