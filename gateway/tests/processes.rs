//! Owners of flows, against processes that live for a moment.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use chaff_abi::FlowKey;
use chaff_gateway::processes::{KEEP, ProcTable, Processes};

fn key(protocol: u8, src: SocketAddr, dst: SocketAddr) -> FlowKey {
    let bytes = |a: SocketAddr| match a {
        SocketAddr::V4(a) => FlowKey::mapped(a.ip().octets()),
        SocketAddr::V6(a) => a.ip().octets(),
    };
    FlowKey {
        src: bytes(src),
        dst: bytes(dst),
        src_port: src.port().to_be_bytes(),
        dst_port: dst.port().to_be_bytes(),
        protocol,
        version: if src.is_ipv4() { 4 } else { 6 },
        ..FlowKey::default()
    }
}

/// A shell that opens one connection, says a word and is gone; returns its process id.
fn shell(script: &str) -> u32 {
    let mut child = Command::new("bash")
        .args(["-c", script])
        .spawn()
        .expect("bash");
    let id = child.id();
    assert!(child.wait().expect("it ends").success());
    id
}

#[test]
fn processes_that_are_gone_are_still_known() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: processes_that_are_gone_are_still_known needs root");
        return;
    }
    let processes = Processes::open(KEEP);
    assert_eq!(processes.why_inexact(), None);
    for local in ["127.0.0.1:0", "[::1]:0"] {
        // TCP: the shell connects; this process accepts.
        let Ok(listener) = TcpListener::bind(local) else {
            eprintln!("skipped: no {local}");
            continue;
        };
        let here = listener.local_addr().expect("bound");
        let ip = here.ip();
        let pid = shell(&format!("echo word >/dev/tcp/{ip}/{}", here.port()));
        let (mut stream, peer) = listener.accept().expect("a connection");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a word");
        assert_eq!(text, "word\n");
        let found = processes.lookup(&key(6, peer, here)).expect("known");
        // On one host both ends are local; the key's first end is looked for first.
        assert_eq!((found.pid, found.name.as_str()), (pid, "bash"));
        let own = processes.lookup(&key(6, here, peer)).expect("known");
        assert_eq!(own.pid, std::process::id());

        // UDP.
        let socket = UdpSocket::bind(local).expect("bound");
        let here = socket.local_addr().expect("bound");
        let pid = shell(&format!("echo word >/dev/udp/{ip}/{}", here.port()));
        let (_, peer) = socket.recv_from(&mut [0; 64]).expect("a datagram");
        let found = processes.lookup(&key(17, peer, here)).expect("known");
        assert_eq!((found.pid, found.name.as_str()), (pid, "bash"));
    }
    let stranger = key(
        17,
        "192.0.2.1:7".parse().expect("valid"),
        "192.0.2.2:9".parse().expect("valid"),
    );
    assert_eq!(processes.lookup(&stranger), None);
}

#[test]
fn proc_knows_sockets_that_are_open() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let there = listener.local_addr().expect("bound");
    let mut client = TcpStream::connect(there).expect("connected");
    client.write_all(b"x").expect("sent");
    let here = client.local_addr().expect("connected");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
    let port = socket.local_addr().expect("bound").port();
    let table = ProcTable::read();
    let own = table.lookup(&key(6, here, there)).expect("known");
    assert_eq!(own.pid, std::process::id());
    let udp = key(
        17,
        SocketAddr::new(here.ip(), port),
        "192.0.2.2:9".parse().expect("valid"),
    );
    assert_eq!(table.lookup(&udp).map(|p| p.pid), Some(std::process::id()));
}

#[test]
fn without_the_program_sockets_are_remembered() {
    let processes = Processes::from_proc(KEEP, "as asked".into());
    assert_eq!(processes.why_inexact(), Some("as asked"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let there = listener.local_addr().expect("bound");
    let client = TcpStream::connect(there).expect("connected");
    let connection = key(6, client.local_addr().expect("connected"), there);
    let deadline = Instant::now() + Duration::from_secs(20);
    while processes.lookup(&connection).is_none() {
        assert!(Instant::now() < deadline, "not seen");
        std::thread::yield_now();
    }
    drop((client, listener));
    // Long after it is gone from /proc.
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        let found = processes.lookup(&connection).map(|p| p.pid);
        assert_eq!(found, Some(std::process::id()));
        std::thread::sleep(Duration::from_millis(20));
    }
}
