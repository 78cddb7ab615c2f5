//! The program from outside: exit codes, messages, reports. Loopback only.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_trace::PcapWriter;
use etherparse::PacketBuilder;
use serde_json::Value;

fn capture(dir: &Path, payloads: &[&[u8]]) -> PathBuf {
    let file = dir.join("test.pcap");
    let mut w = PcapWriter::new(std::fs::File::create(&file).unwrap(), Link::Ethernet).unwrap();
    for (i, payload) in payloads.iter().enumerate() {
        let mut b = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
            .ipv4([10, 0, 0, 9], [192, 0, 2, 1], 64)
            .udp(5, 6)
            .write(&mut b, payload)
            .unwrap();
        w.write(Nanos::from_millis(i as u64), &b, b.len()).unwrap();
    }
    file
}

fn replay(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_replay"))
        .args(args)
        .output()
        .unwrap()
}

fn stderr(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

#[test]
fn help_has_examples_memory_and_exit_codes() {
    let o = replay(&["--help"]);
    let text = String::from_utf8_lossy(&o.stdout).into_owned();
    for part in [
        "Examples:",
        "Memory:",
        "Exit codes:",
        "--rewrite",
        "--ignore-host",
    ] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [
        &["x.pcap"][..],
        &["x.pcap", "--interface", "lo", "--speed", "0"],
        &["/nonexistent.pcap", "--udp", "127.0.0.1:9"],
        &["x.pcap", "--udp", "127.0.0.1"],
        &["x.pcap", "--interface", "lo@no-such-namespace"],
    ] {
        assert_eq!(replay(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_broken_capture_names_file_packet_and_offset_and_lax_takes_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let file = capture(dir.path(), &[b"one", b"two", b"three"]);
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 5]).unwrap();
    let name = file.to_str().unwrap();
    let o = replay(&[name, "--udp", "127.0.0.1:9"]);
    assert_eq!(o.status.code(), Some(2));
    let said = stderr(&o);
    assert!(
        said.contains(name) && said.contains("packet 3") && said.contains("byte"),
        "{said}"
    );
    assert!(said.contains("--lax"), "{said}");
    let o = replay(&[
        name,
        "--udp",
        "127.0.0.1:9",
        "--lax",
        "--json",
        "--grace",
        "0",
    ]);
    assert_eq!(o.status.code(), Some(0), "{}", stderr(&o));
    let report: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(report["packets"], 2);
    assert_eq!(report["damage"].as_array().unwrap().len(), 1);
}

#[test]
fn without_privilege_it_exits_with_3_and_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = capture(dir.path(), &[b"one"]);
    // Root gives its capabilities up by becoming somebody else.
    let mut command = Command::new(env!("CARGO_BIN_EXE_replay"));
    command.args([file.to_str().unwrap(), "--interface", "lo"]);
    command.uid(65_534);
    let Ok(o) = command.output() else {
        println!("skipped: needs to change its user");
        return;
    };
    assert_eq!(o.status.code(), Some(3), "{}", stderr(&o));
    assert!(stderr(&o).contains("CAP_NET_RAW"), "{}", stderr(&o));
}

/// Echoes datagrams but the `drop`th, until none came for a second.
fn echo(drop: Option<usize>) -> (String, thread::JoinHandle<usize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let at = socket.local_addr().unwrap().to_string();
    let handle = thread::spawn(move || {
        let mut buf = [0; 2048];
        let mut n = 0;
        while let Ok((len, from)) = socket.recv_from(&mut buf) {
            if Some(n) != drop {
                socket.send_to(&buf[..len], from).unwrap();
            }
            n += 1;
        }
        n
    });
    (at, handle)
}

#[test]
fn datagrams_are_echoed_and_timed() {
    let dir = tempfile::tempdir().unwrap();
    let file = capture(dir.path(), &[b"one", b"", b"two", b"two"]);
    let (at, peer) = echo(None);
    let o = replay(&[
        file.to_str().unwrap(),
        "--udp",
        &at,
        "--json",
        "--verify",
        "--loop",
        "3",
    ]);
    assert_eq!(o.status.code(), Some(0), "{}", stderr(&o));
    assert_eq!(peer.join().unwrap(), 9);
    let report: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(report["capture"]["unusable"], 1);
    let echoes = &report["verify"]["directions"][0];
    assert_eq!(
        (&echoes["sent"], &echoes["matched"]),
        (&9.into(), &9.into())
    );
    assert!(echoes["latency_ns"]["p50"].as_u64().unwrap() > 0);
}

#[test]
fn a_missing_echo_fails_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let file = capture(dir.path(), &[b"one", b"two", b"three"]);
    let file = file.to_str().unwrap();
    for (verify, code) in [(&["--verify"][..], 1), (&[], 0)] {
        let (at, peer) = echo(Some(1));
        let args = [&[file, "--udp", &at, "--grace", "0.2"], verify].concat();
        let o = replay(&args);
        assert_eq!(o.status.code(), Some(code), "{}", stderr(&o));
        assert!(String::from_utf8_lossy(&o.stdout).contains("2 of 3 arrived, 1 lost"));
        peer.join().unwrap();
    }
}

#[test]
fn an_interrupted_replay_still_reports() {
    let dir = tempfile::tempdir().unwrap();
    let file = capture(dir.path(), &[b"one", b"two"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap().to_string();
    let child = Command::new(env!("CARGO_BIN_EXE_replay"))
        .args([
            file.to_str().unwrap(),
            "--udp",
            &at,
            "--loop",
            "0",
            "--json",
            "--grace",
            "0",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The first datagram is the sign that it runs.
    socket.recv(&mut [0; 64]).unwrap();
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let o = child.wait_with_output().unwrap();
    assert_eq!(o.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(report["stopped"], true);
    assert!(report["packets"].as_u64().unwrap() > 0);
}

#[test]
fn the_report_keeps_its_form() {
    let dir = tempfile::tempdir().unwrap();
    let file = capture(dir.path(), &[b"one", b"two"]);
    let stats = dir.path().join("stats.json");
    let (at, _peer) = echo(None);
    let o = replay(&[
        file.to_str().unwrap(),
        "--udp",
        &at,
        "--stats",
        stats.to_str().unwrap(),
    ]);
    assert_eq!(o.status.code(), Some(0), "{}", stderr(&o));
    let report: Value = serde_json::from_slice(&std::fs::read(stats).unwrap()).unwrap();
    let mut keys = Vec::new();
    list_keys("", &report, &mut keys);
    keys.sort();
    let got = keys.join("\n") + "\n";
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report-keys.txt");
    if std::env::var_os("CHAFF_REFRESH_GOLDEN").is_some() {
        std::fs::write(&golden, &got).unwrap();
    }
    let want = std::fs::read_to_string(&golden).unwrap();
    assert!(got == want, "expected:\n{want}\ngot:\n{got}");
    assert_eq!(report["version"], 1);
}

fn list_keys(prefix: &str, value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                list_keys(&format!("{prefix}.{key}"), value, out);
            }
        }
        Value::Array(items) => match items.first() {
            Some(first) => list_keys(&format!("{prefix}[]"), first, out),
            None => out.push(format!("{prefix}[]")),
        },
        _ => out.push(prefix.to_owned()),
    }
}
