//! Cost of the attached tcx meter for forwarded traffic, as JSON; needs root and the package iproute2.
//!
//! `cargo run --release --example bench_tcx [rounds]`. Three namespaces (device, gateway, server) joined by veth; short
//! slices of plain routing and of routing with the meter on both sides take turns, twelve pairs to a round, and the medians
//! of the pairs' ratios count.
//! CPU is that of the sending thread, in which veth runs the whole way to the receiver's socket, per datagram of 100
//! bytes payload; bulk is one TCP connection with segmentation offload.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use chaff_abi::{MeterConfig, Nanos};
use chaff_gateway::datapath::{Hook, Meter, MeterOptions, now_monotonic};

#[path = "bench_support/mod.rs"]
mod bench_support;
#[path = "../tests/meter_support/net.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the tests, which use more"
)]
mod net;
use bench_support::median;
use net::Home;

/// Pairs of measurements per round: the shorter each is, the less the machine's load changes between its two halves.
const SLICES: usize = 12;
/// One pair in so many also measures bulk TCP.
const BULK_EVERY: usize = 3;
const DATAGRAMS: u32 = 25_600;
const BULK: Duration = Duration::from_millis(250);

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .and_then(|a| a.parse().ok())
        .unwrap_or(7);
    let Some(home) = Home::new() else {
        std::process::exit(3);
    };
    let mut cpu = Vec::new();
    let mut bulk = Vec::new();
    let (mut route_ns, mut lost) = (Vec::new(), 0u64);
    for slice in 0..rounds * SLICES {
        // Which goes first changes from slice to slice, so that drift of the machine's load cancels out.
        let mut results = [(0.0, 0.0); 2];
        for k in [slice % 2, 1 - slice % 2] {
            let meter = (k == 1).then(|| load(&home));
            let (ns, missing) = datagrams(&home);
            lost += missing;
            let bulk_too = slice % BULK_EVERY == 0;
            results[k] = (ns, if bulk_too { stream(&home) } else { 0.0 });
            drop(meter);
        }
        let [route, metered] = results;
        route_ns.push(route.0);
        cpu.push(metered.0 / route.0);
        if route.1 > 0.0 {
            bulk.push(metered.1 / route.1);
        }
    }
    println!(
        "{{\"rounds\":{rounds},\"route_cpu_ns_per_datagram\":{:.0},\"tcx_cpu_vs_route\":{:.3},\
         \"tcx_bulk_tcp_vs_route\":{:.3},\"datagrams_lost\":{lost}}}",
        median(route_ns),
        median(cpu),
        median(bulk)
    );
}

fn load(home: &Home) -> Meter {
    let o = MeterOptions {
        hook: Hook::Tcx,
        lan: vec!["lan0".into()],
        wan: Some("wan0".into()),
        config: MeterConfig {
            slot_epoch: now_monotonic(),
            slot_len: Nanos::from_millis(100),
            cover_mark: 0xc0,
            ..MeterConfig::default()
        },
        ..MeterOptions::default()
    };
    home.within("gw", || Meter::load(&o)).expect("meter")
}

/// CPU nanoseconds of the sending thread, in which veth also runs the gateway and the receiver.
fn thread_cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    stat.split_whitespace()
        .next()
        .and_then(|w| w.parse().ok())
        .unwrap_or(0)
}

/// Sends datagrams through the gateway; CPU nanoseconds per datagram, and how many did not arrive.
fn datagrams(home: &Home) -> (f64, u64) {
    let sink = home.socket("srv", "10.77.2.2:9000");
    sink.set_nonblocking(true).expect("nonblocking");
    let socket = home.socket("dev", "10.77.1.2:9001");
    socket.connect("10.77.2.2:9000").expect("connect");
    let mut buf = [0; 128];
    let mut received = 0u64;
    let mut drain = |sink: &UdpSocket| {
        while sink.recv(&mut buf).is_ok() {
            received += 1;
        }
    };
    let mut cpu = 0;
    let body = [7u8; 100];
    let burst = 64;
    for _ in 0..DATAGRAMS / burst {
        let start = thread_cpu();
        for _ in 0..burst {
            let _ = socket.send(&body);
        }
        cpu += thread_cpu() - start;
        drain(&sink);
    }
    std::thread::sleep(Duration::from_millis(20));
    drain(&sink);
    let sent = (DATAGRAMS / burst * burst) as u64;
    (cpu as f64 / sent as f64, sent - received)
}

/// Bytes per second of one TCP connection.
fn stream(home: &Home) -> f64 {
    let listener = home
        .within("srv", || TcpListener::bind("10.77.2.2:9100"))
        .expect("bind");
    let reader = std::thread::spawn(move || {
        let (mut s, _) = listener.accept().expect("accept");
        let (mut total, mut buf) = (0u64, vec![0; 1 << 18]);
        let start = Instant::now();
        while let Ok(n) = s.read(&mut buf) {
            if n == 0 {
                break;
            }
            total += n as u64;
        }
        total as f64 / start.elapsed().as_secs_f64()
    });
    let mut s = home
        .within("dev", || TcpStream::connect("10.77.2.2:9100"))
        .expect("connect");
    let (body, start) = (vec![1u8; 1 << 17], Instant::now());
    while start.elapsed() < BULK {
        s.write_all(&body).expect("write");
    }
    drop(s);
    reader.join().expect("reader")
}
