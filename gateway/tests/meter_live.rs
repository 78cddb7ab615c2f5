//! The attached meter in namespaces: totals under load, several CPUs, tags, death and restart of the process.

mod meter_support;

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chaff_abi::{DeviceKey, FlowKey, MeterConfig, Nanos, Reason};
use chaff_gateway::datapath::{Hook, HookInUse, Meter, MeterOptions};
use chaff_sys::clock::monotonic;
use meter_support::net::{DEVICE_IP, Home, SERVER_IP, send_frame};
use meter_support::{frame, ipv4, udp};

const PORT: u16 = 9_000;

fn options(home_dir: Option<PathBuf>) -> MeterOptions {
    MeterOptions {
        lan: vec!["lan0".into()],
        wan: Some("wan0".into()),
        config: MeterConfig {
            slot_epoch: monotonic(),
            slot_len: Nanos::from_secs(3_600),
            ..MeterConfig::default()
        },
        devices: vec![(DeviceKey::ip(FlowKey::mapped(DEVICE_IP)), 1)],
        max_flows: 256,
        pin_dir: home_dir,
        ..MeterOptions::default()
    }
}

/// A directory in bpffs, or `None` with the reason.
fn pin_dir(name: &str) -> Option<PathBuf> {
    let bpffs = PathBuf::from("/sys/fs/bpf");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|l| l.contains(" /sys/fs/bpf bpf ")) {
        println!("skipped: bpffs is not mounted on {}", bpffs.display());
        return None;
    }
    Some(
        bpffs
            .join("chaff")
            .join(format!("test{}-{name}", std::process::id())),
    )
}

/// Sends `n` datagrams to as many ports in turn as `ports`.
fn send(socket: &UdpSocket, n: u64, ports: u16, size: usize) {
    let to = std::net::Ipv4Addr::from(SERVER_IP);
    let body = vec![7u8; size];
    for i in 0..n {
        let port = PORT + (i % ports as u64) as u16;
        // A full queue is waited out: what counts is that every datagram is sent.
        while socket.send_to(&body, (to, port)).is_err() {
            std::thread::yield_now();
        }
    }
}

/// Packets of UDP flows from the device to the server's ports.
fn ours(k: &FlowKey) -> bool {
    k.protocol == 17 && k.src == FlowKey::mapped(DEVICE_IP)
}

#[test]
fn drains_under_load_lose_no_packet() {
    let Some(home) = Home::new() else { return };
    let mut o = options(None);
    o.config.match_ip = 1;
    let mut meter = home.within("gw", || Meter::load(&o)).expect("meter");
    assert_eq!(meter.hook_in_use(), [("lan0".to_string(), HookInUse::Tcx)]);
    let sockets = [
        home.socket("dev", "10.77.1.2:0"),
        home.socket("dev", "10.77.1.2:0"),
    ];
    let sink = home.socket("srv", "10.77.2.2:9000");
    let (packets, size) = (40_000u64, 60);
    let done = AtomicBool::new(false);
    let (mut counted, mut bytes, mut direct, mut drains) = (0u64, 0u64, 0u64, 0u32);
    std::thread::scope(|s| {
        // Two senders on two CPUs share the flows' address and differ in port: 300 flows for 256 places.
        let senders: Vec<_> = sockets
            .iter()
            .map(|socket| s.spawn(move || send(socket, packets, 150, size)))
            .collect();
        let done = &done;
        s.spawn(move || {
            for t in senders {
                t.join().expect("sender");
            }
            done.store(true, Ordering::Release);
        });
        let mut take = |meter: &mut Meter| {
            meter
                .drain(|k, v| {
                    if ours(&k) {
                        counted += v.counters[0].packets;
                        bytes += v.counters[0].bytes;
                        assert_eq!(v.device, 1);
                    }
                })
                .expect("drain");
            meter.poll_records(|r| {
                if ours(&r.key) {
                    direct += 1;
                    bytes += r.bytes as u64;
                }
            });
            drains += 1;
        };
        while !done.load(Ordering::Acquire) {
            take(&mut meter);
        }
        take(&mut meter);
        take(&mut meter);
    });
    let r = meter.reasons().expect("reasons");
    let of = |x: Reason| r[x as usize];
    println!(
        "{drains} drains, {counted} in flows, {direct} direct, {} lost",
        of(Reason::Lost)
    );
    assert_eq!(counted + direct + of(Reason::Lost), 2 * packets);
    if of(Reason::Lost) == 0 {
        assert_eq!(bytes, 2 * packets * (size as u64 + 28));
    }
    let parts = [
        Reason::Flow,
        Reason::Ring,
        Reason::Lost,
        Reason::NotIp,
        Reason::Malformed,
    ];
    assert_eq!(of(Reason::Seen), parts.iter().map(|p| of(*p)).sum::<u64>());
    assert!(of(Reason::WanOut) >= 2 * packets);
    assert_eq!(meter.slots().read(1, 0).packets[0], 2 * packets);
    meter.detach().expect("detach");
    drop(sink);
}

#[test]
fn reading_records_ends_while_a_flood_goes_on() {
    const RING_RECORDS: u64 = (1 << 20) / 96;
    let Some(home) = Home::new() else { return };
    let mut meter = home
        .within("gw", || Meter::load(&options(None)))
        .expect("meter");
    let socket = home.socket("dev", "10.77.1.2:0");
    let to = std::net::Ipv4Addr::from(SERVER_IP);
    let mut sent = 0u64;
    let mut send_new = |n| {
        for _ in 0..n {
            // Each port is a flow of its own, and there are more of them than the map holds.
            let _full = socket.send_to(b"new", (to, 1_024 + (sent % 60_000) as u16));
            sent += 1;
        }
        sent
    };
    send_new(1_000);
    // Every record that is read is followed by two new ones.
    let read = meter.poll_records(|_| {
        assert!(send_new(2) < 100_000, "reading goes on and on");
    });
    println!("{read} records read, {} sent", send_new(0));
    assert!((1..=RING_RECORDS).contains(&read), "{read}");
}

#[test]
fn one_flow_counted_on_two_cpus_is_exact() {
    let Some(home) = Home::new() else { return };
    let mut meter = home
        .within("gw", || Meter::load(&options(None)))
        .expect("meter");
    let socket = home.socket("dev", "10.77.1.2:7777");
    let _sink = home.socket("srv", "10.77.2.2:9000");
    let packets = 50_000u64;
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| send(&socket, packets, 1, 100));
        }
    });
    let mut total = (0, 0, 0, 0);
    meter
        .drain(|k, v| {
            if ours(&k) {
                let c = v.counters[0];
                total = (c.packets, c.bytes, c.wire, c.payload);
            }
        })
        .expect("drain");
    let n = 2 * packets;
    assert_eq!(total, (n, n * 128, n * 142, n * 100));
}

#[test]
fn tcx_sees_the_vlan_that_is_not_in_the_bytes() {
    let Some(home) = Home::new() else { return };
    let mut meter = home
        .within("gw", || Meter::load(&options(None)))
        .expect("meter");
    // The kernel takes the outer tag out of the bytes before the hook runs; an inner one stays in them.
    let packet = ipv4(17, 0, &[], &udp(5_001, 5_000, 5));
    for tags in [&[(0x8100, 42)][..], &[(0x88a8, 43), (0x8100, 42)][..]] {
        let f = frame(tags, &packet);
        home.within("dev", || send_frame("dev0", &f));
    }
    std::thread::sleep(Duration::from_millis(200));
    let mut seen = Vec::new();
    meter
        .drain(|k, v| {
            if k.protocol == 17 && k.destination_port() == 5000 {
                let c = v.counters[0];
                seen.push((k.vlan_id(), c.packets, c.bytes, c.wire, c.payload));
            }
        })
        .expect("drain");
    seen.sort_unstable();
    assert_eq!(seen, [(42, 1, 33, 33 + 18, 5), (43, 1, 33, 33 + 22, 5)]);
}

#[test]
fn super_packets_equal_the_wire() {
    let Some(home) = Home::new() else { return };
    let mut meter = home
        .within("gw", || Meter::load(&options(None)))
        .expect("meter");
    let listener = home
        .within("srv", || std::net::TcpListener::bind("10.77.2.2:80"))
        .expect("listener");
    let total = 4_000_000usize;
    let reader = std::thread::spawn(move || {
        use std::io::Read as _;
        let (mut s, _) = listener.accept().expect("accept");
        let mut got = Vec::new();
        s.read_to_end(&mut got).expect("read");
        got.len()
    });
    home.within("dev", || {
        use std::io::Write as _;
        let mut s = std::net::TcpStream::connect("10.77.2.2:80").expect("connect");
        s.write_all(&vec![1u8; total]).expect("write");
    });
    assert_eq!(reader.join().expect("reader"), total);
    let mut c = None;
    std::thread::sleep(Duration::from_millis(100));
    meter
        .drain(|k, v| {
            if k.protocol == 6 {
                c = Some(v.counters[0]);
            }
        })
        .expect("drain");
    let c = c.expect("the flow");
    // Retransmissions could add, nothing may be missing; segments carry 1,448 bytes and 52 of headers.
    assert!(c.payload >= total as u64, "{c:?}");
    assert!(c.bytes_max <= 1_500, "{c:?}");
    let full = c.payload / 1_448;
    assert!(c.packets >= full, "{c:?}");
    let headers = c.bytes - c.payload;
    assert!(
        (52 * c.packets..=60 * c.packets).contains(&headers),
        "{c:?}"
    );
    assert_eq!(c.wire, c.bytes + 14 * c.packets);
}

/// The child of the next test: loads, says so, and waits to be killed.
#[test]
fn child_that_is_killed() {
    let (Ok(dir), Ok(ns)) = (
        std::env::var("CHAFF_TEST_PINS"),
        std::env::var("CHAFF_TEST_NS"),
    ) else {
        return;
    };
    let file = std::fs::File::open(format!("/run/netns/{ns}")).expect("namespace");
    nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
    let _meter = Meter::load(&options(Some(dir.into()))).expect("meter");
    println!("ready");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn counting_survives_the_death_of_the_process() {
    use std::io::{BufRead as _, BufReader};
    let Some(home) = Home::new() else { return };
    let Some(dir) = pin_dir("kill") else { return };
    for hook in [Hook::Tcx, Hook::XdpSkb] {
        let mut child = Command::new(std::env::current_exe().expect("exe"))
            .args(["--exact", "child_that_is_killed", "--nocapture"])
            .env("CHAFF_TEST_PINS", &dir)
            .env("CHAFF_TEST_NS", home.ns("gw"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let out = BufReader::new(child.stdout.take().expect("stdout"));
        assert!(
            out.lines()
                .map_while(Result::ok)
                .any(|l| l.contains("ready")),
            "child is ready"
        );
        let socket = home.socket("dev", "10.77.1.2:0");
        let sink = home.socket("srv", "10.77.2.2:9000");
        sink.set_read_timeout(Some(Duration::from_secs(5)))
            .expect("timeout");
        let mut received = 0;
        let mut drained = || {
            let mut buf = [0; 64];
            sink.recv(&mut buf).expect("every datagram arrives");
            received += 1;
        };
        for i in 0..300 {
            send(&socket, 1, 1, 20);
            drained();
            if i == 100 {
                child.kill().expect("kill");
            }
        }
        child.wait().expect("wait");
        let before = Meter::pinned_config(&dir)
            .expect("settings")
            .expect("left behind");
        let mut o = options(Some(dir.clone()));
        o.hook = hook;
        o.config.slot_epoch = before.slot_epoch;
        // Traffic goes on while the programs are replaced.
        let stop = AtomicBool::new(false);
        let mut sent = 300u64;
        let mut meter = std::thread::scope(|s| {
            let sender = s.spawn(|| {
                let mut n = 0u64;
                while !stop.load(Ordering::Acquire) {
                    send(&socket, 1, 1, 20);
                    n += 1;
                }
                n
            });
            let meter = home.within("gw", || Meter::load(&o)).expect("adopt");
            stop.store(true, Ordering::Release);
            sent += sender.join().expect("sender");
            meter
        });
        assert!(meter.adopted().is_some());
        send(&socket, 50, 1, 20);
        sent += 50;
        let mut counted = 0;
        meter
            .drain(|k, v| counted += if ours(&k) { v.counters[0].packets } else { 0 })
            .expect("drain");
        if hook == Hook::Tcx {
            assert_eq!(counted, sent, "the replacement is atomic");
        } else {
            // Another hook is another link: a frame between both may be missed, none is counted twice.
            assert!(counted <= sent && counted >= 350, "{counted} of {sent}");
        }
        assert!(meter.slots().read(0, 0).packets[0] >= counted);
        meter.detach().expect("detach");
        assert!(!dir.exists(), "nothing stays");
        nothing_attached(&home);
    }
}

/// The kernel lets go of a removed pin after a grace period of RCU.
fn nothing_attached(home: &Home) {
    let waiting = std::time::Instant::now();
    while home.within("gw", attached) > 0 {
        let waited = waiting.elapsed();
        assert!(waited < Duration::from_secs(20), "nothing stays attached");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// tcx programs on the gateway's interfaces, in the caller's namespace.
fn attached() -> usize {
    use aya::programs::SchedClassifier;
    use aya::programs::tc::TcAttachType;
    let mut n = 0;
    for i in ["lan0", "wan0"] {
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            n += SchedClassifier::query_tcx(i, side).map_or(0, |(_, p)| p.len());
        }
    }
    n
}

/// The child of the next test: loads, becomes nobody without capabilities, and goes on reading.
#[test]
fn child_without_privileges() {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let (Ok(dir), Ok(ns)) = (
        std::env::var("CHAFF_TEST_DROP"),
        std::env::var("CHAFF_TEST_NS"),
    ) else {
        return;
    };
    let file = std::fs::File::open(format!("/run/netns/{ns}")).expect("namespace");
    nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
    let mut o = options(Some(dir.into()));
    o.pin_owner = Some((65_534, 65_534));
    let mut meter = Meter::load(&o).expect("meter");
    setgroups(&[]).expect("groups");
    let (uid, gid) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
    setresgid(gid, gid, gid).expect("gid");
    setresuid(uid, uid, uid).expect("uid");
    chaff_confine::privileges::drop_thread_capabilities().expect("capabilities");
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("line");
    let mut counted = 0;
    for _ in 0..2 {
        meter
            .drain(|k, v| counted += if ours(&k) { v.counters[0].packets } else { 0 })
            .expect("drain");
    }
    meter.poll_records(|_| {});
    let slots = meter.slots();
    let in_slots = slots.read(0, 0).packets[0];
    slots.clear(0);
    let seen = meter.reasons().expect("reasons")[Reason::Seen as usize];
    meter
        .set_devices(&[(DeviceKey::ip(FlowKey::mapped(DEVICE_IP)), 1)])
        .expect("devices");
    let again = Meter::load(&MeterOptions::default()).expect_err("no privilege");
    assert!(again.is_environment(), "{again:?}");
    meter.detach().expect("detach");
    assert!(counted <= in_slots && in_slots <= seen);
    println!("counted {counted}");
}

#[test]
fn everything_but_loading_works_without_privileges() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let Some(home) = Home::new() else { return };
    let Some(dir) = pin_dir("drop") else { return };
    let mut child = Command::new(std::env::current_exe().expect("exe"))
        .args(["--exact", "child_without_privileges", "--nocapture"])
        .env("CHAFF_TEST_DROP", &dir)
        .env("CHAFF_TEST_NS", home.ns("gw"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("child");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    assert!(
        lines
            .by_ref()
            .map_while(Result::ok)
            .any(|l| l.contains("ready"))
    );
    let socket = home.socket("dev", "10.77.1.2:0");
    let _sink = home.socket("srv", "10.77.2.2:9000");
    send(&socket, 500, 5, 20);
    std::thread::sleep(Duration::from_millis(100));
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(b"go\n")
        .expect("write");
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let status = child.wait().expect("wait");
    assert!(
        status.success() && rest.iter().any(|l| l.contains("counted 500")),
        "{rest:?}"
    );
    nothing_attached(&home);
    assert!(!dir.exists(), "nothing stays pinned");
}

#[test]
fn xdp_counts_like_tcx() {
    let Some(home) = Home::new() else { return };
    for (hook, name) in [
        (Hook::Xdp, HookInUse::XdpNative),
        (Hook::XdpSkb, HookInUse::XdpGeneric),
    ] {
        let mut o = options(None);
        o.hook = hook;
        let mut meter = home.within("gw", || Meter::load(&o)).expect("meter");
        assert_eq!(meter.hook_in_use()[0].1, name);
        let socket = home.socket("dev", "10.77.1.2:0");
        let _sink = home.socket("srv", "10.77.2.2:9000");
        send(&socket, 2_000, 3, 33);
        std::thread::sleep(Duration::from_millis(200));
        let mut total = (0, 0, 0);
        meter
            .drain(|k, v| {
                if ours(&k) {
                    let c = v.counters[0];
                    total = (total.0 + c.packets, total.1 + c.bytes, total.2 + c.wire);
                }
            })
            .expect("drain");
        assert_eq!(total, (2_000, 2_000 * 61, 2_000 * 75));
        meter.detach().expect("detach");
    }
}

#[test]
fn a_missing_interface_is_named() {
    let Some(home) = Home::new() else { return };
    for hook in [Hook::Auto, Hook::Tcx, Hook::XdpSkb] {
        let mut o = options(None);
        o.hook = hook;
        o.lan = vec!["nosuch0".into()];
        let e = home
            .within("gw", || Meter::load(&o))
            .expect_err("no such interface");
        assert_eq!(e.to_string(), "no such interface: nosuch0");
        assert!(!e.is_environment());
    }
}

#[test]
fn a_drain_of_nothing_is_quick() {
    let Some(home) = Home::new() else { return };
    let mut meter = home
        .within("gw", || Meter::load(&options(None)))
        .expect("meter");
    let start = Instant::now();
    for _ in 0..5 {
        meter.drain(|_, _| {}).expect("drain");
    }
    let each = start.elapsed() / 5;
    println!("{each:?} per empty drain");
    assert!(each < Duration::from_secs(2));
}
