//! `gateway meter --live`: an interface of a namespace, packet by packet.

mod meter_support;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use meter_support::net::{Home, send_frame};

const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again until the answer is yes.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} took too long");
        std::thread::yield_now();
    }
}

/// Packet sockets of the gateway's namespace that get all packets.
fn bound(home: &Home) -> usize {
    let text = home.within("gw", || fs::read_to_string("/proc/thread-self/net/packet"));
    let text = text.unwrap_or_default();
    text.lines()
        .skip(1)
        .filter(|line| line.split_whitespace().nth(3) == Some("0003"))
        .count()
}

/// A meter that has opened its interface.
fn start(home: &Home, folder: &Path, options: &str) -> Child {
    let before = bound(home);
    let child = Command::new("ip")
        .args([
            "netns",
            "exec",
            &home.ns("gw"),
            env!("CARGO_BIN_EXE_gateway"),
            "meter",
            "--live",
            "lan0",
            "--json",
        ])
        .args(options.split_whitespace())
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // `ip` becomes the program. A ring is there when the socket is, and the socket is bound last.
    until("opening the interface", || bound(home) > before);
    child
}

fn stop(child: Child) -> serde_json::Value {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    end(child)
}

fn end(child: Child) -> serde_json::Value {
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Rows of a CSV file as cells by column.
fn rows(path: &Path) -> Vec<std::collections::BTreeMap<String, String>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The last line may not be whole yet.
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let mut lines = whole.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    lines
        .map(|line| {
            names
                .iter()
                .zip(line.split(','))
                .map(|(n, c)| (n.to_string(), c.to_string()))
                .collect()
        })
        .collect()
}

#[test]
fn each_packet_is_in_a_flow_and_flows_end_by_the_clock() {
    let Some(home) = Home::new() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("flows.csv");
    let child = start(&home, folder.path(), "--output flows.csv --idle-timeout 1");
    let (device, server) = (
        home.socket("dev", "10.77.1.2:5000"),
        home.socket("srv", "10.77.2.2:9000"),
    );
    for n in 0..500u16 {
        device
            .send_to(&vec![7; usize::from(n % 100)], "10.77.2.2:9000")
            .expect("sent");
        let mut buffer = [0; 200];
        let (_, from) = server.recv_from(&mut buffer).expect("received");
        server.send_to(b"yes", from).expect("sent");
        device.recv(&mut buffer).expect("received");
    }
    // Nothing more is sent, and yet the flow ends and is in the file.
    until("the flow's end", || {
        rows(&path).iter().any(|row| row["src_port"] == "5000")
    });
    let summary = stop(child);
    assert_eq!(summary["balanced"], true, "{summary}");
    assert_eq!(summary["packets_dropped"], 0, "{summary}");
    let rows = rows(&path);
    let row = rows
        .iter()
        .find(|row| row["src_port"] == "5000")
        .expect("the flow");
    let cell = |name: &str| row[name].as_str();
    assert_eq!(
        (cell("src_ip"), cell("dst_ip"), cell("dst_port")),
        ("10.77.1.2", "10.77.2.2", "9000")
    );
    assert_eq!((cell("fwd_packets"), cell("bwd_packets")), ("500", "500"));
    assert_eq!((cell("fwd_bytes"), cell("bwd_bytes")), ("38750", "15500"));
    assert_eq!(cell("end_reason"), "idle");
    let packets: u64 = rows
        .iter()
        .map(|row| row["packets"].parse::<u64>().expect("a number"))
        .sum();
    assert_eq!(summary["packets_metered"], packets);
}

#[test]
fn tags_that_the_kernel_took_out_come_back_and_limits_hold() {
    let Some(home) = Home::new() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let child = start(
        &home,
        folder.path(),
        "--output flows.csv --max-packets 3 --snaplen 64 --threads 1",
    );
    let mut tagged = vec![
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0xd1, 0x81, 0, 0, 42, 8, 0,
    ];
    tagged.extend([
        0x45, 0, 0, 128, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 1, 2, 10, 77, 9, 9,
    ]);
    tagged.extend([0x13, 0x88, 0x23, 0x28, 0, 108, 0, 0]);
    tagged.extend([7; 100]);
    home.within("dev", || (0..3).for_each(|_| send_frame("dev0", &tagged)));
    let summary = end(child);
    assert_eq!(summary["packets_in"], 3);
    let rows = rows(&folder.path().join("flows.csv"));
    let row = &rows[0];
    assert_eq!(
        (row["vlan_id"].as_str(), row["packets"].as_str()),
        ("42", "3"),
        "{row:?}"
    );
    assert_eq!(
        (row["bytes"].as_str(), row["wire_bytes"].as_str()),
        ("384", "438"),
        "{row:?}"
    );
}

/// Header and cells of the row whose destination port is 9000.
fn first_row(path: &Path) -> (Vec<String>, Vec<String>) {
    let text = fs::read_to_string(path).expect("flows");
    let split = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut lines = text.lines().map(split);
    let header = lines.next().expect("a header");
    let port = header.iter().position(|name| name == "dst_port");
    let port = port.expect("a column of ports");
    let row = lines.find(|row| row[port] == "9000").expect("the flow");
    (header, row)
}

#[test]
fn a_client_of_a_moment_is_named_and_nothing_else_changes() {
    let Some(home) = Home::new() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let runs = [
        ("native", "--threads 1"),
        ("native", "--threads 1 --processes"),
        ("nfstream", "--threads 1"),
        ("nfstream", "--threads 1 --processes"),
    ];
    let meters: Vec<Child> = (0..)
        .zip(runs)
        .map(|(i, (profile, more))| {
            let options = format!("--output {i}.csv --profile {profile} {more}");
            start(&home, folder.path(), &options)
        })
        .collect();
    let server = home.socket("dev", "10.77.1.2:9000");
    // It says a word and is gone before any flow ends.
    let mut client = Command::new("ip")
        .args(["netns", "exec", &home.ns("gw"), "bash", "-c"])
        .arg("echo word >/dev/udp/10.77.1.2/9000")
        .spawn()
        .expect("it starts");
    let pid = client.id().to_string();
    assert!(client.wait().expect("it ends").success());
    server.recv_from(&mut [0; 16]).expect("received");
    for child in meters {
        stop(child);
    }
    let table = |i: usize| first_row(&folder.path().join(format!("{i}.csv")));
    for (without, with, names) in [
        (table(0), table(1), ["process_id", "process_name"]),
        (
            table(2),
            table(3),
            ["system_process_pid", "system_process_name"],
        ),
    ] {
        let n = without.0.len();
        assert_eq!(with.0[..n], without.0);
        // The kernel's own packets are flows too, and each socket reads the clock for itself.
        let differs = |name: &str| name == "id" || name.ends_with("_ns") || name.ends_with("_ms");
        for (i, name) in without.0.iter().enumerate().filter(|(_, n)| !differs(n)) {
            assert_eq!(with.1[i], without.1[i], "{name}");
        }
        assert_eq!(with.0[n..], names);
        assert_eq!(with.1[n..], [pid.as_str(), "bash"]);
    }
}

#[test]
fn processes_of_a_capture_are_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["meter", "home.pcap", "--processes"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("--processes needs --live"), "{stderr}");
}

#[test]
fn without_privilege_it_says_what_it_needs() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can give privileges up");
        return;
    }
    let folder = std::env::temp_dir();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command
        .args(["meter", "--live", "lo", "--output", "-"])
        .current_dir(folder)
        .uid(65_534)
        .gid(65_534);
    let Ok(output) = command.output() else {
        println!("skipped: nobody may not run the program where it is");
        return;
    };
    assert_eq!(output.status.code(), Some(3));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        stderr.trim_end(),
        "error: cannot meter lo (it needs root or CAP_NET_RAW): Operation not permitted (os error 1)"
    );
}
