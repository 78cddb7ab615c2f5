//! Cost of the attached tcx meter for forwarded traffic, as JSON; needs root and the package iproute2.
//!
//! `cargo run --release --example bench_tcx [rounds]`. Three namespaces (device, gateway, server) joined by veth; short
//! slices of plain routing, of routing with the meter on both sides, and of the same with copies of first packets (hints)
//! take turns, twelve of each to a round, and the medians of their ratios to plain routing count.
//! CPU is that of the sending thread, in which veth runs the whole way to the receiver's socket, per datagram of 100
//! bytes payload: of one flow, and of flows of 64 datagrams each, of which hints copy ten. Bulk is one TCP connection with
//! segmentation offload.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use chaff_abi::{MeterConfig, Nanos};
use chaff_gateway::datapath::{HintOptions, Hook, Meter, MeterOptions};
use chaff_sys::clock::monotonic;

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
/// Datagrams sent one after another between two readings of the clock.
const BURST: u32 = 64;
const BURSTS: u32 = 400;
const BULK: Duration = Duration::from_millis(250);

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .and_then(|a| a.parse().ok())
        .unwrap_or(7);
    let Some(home) = Home::new() else {
        std::process::exit(3);
    };
    let mut ratios: [[Vec<f64>; 2]; 2] = Default::default();
    let mut bulk = Vec::new();
    let (mut route_ns, mut lost) = (Vec::new(), 0u64);
    for slice in 0..rounds * SLICES {
        // Which goes first changes from slice to slice, so that drift of the machine's load cancels out.
        let mut results = [[0.0; 3]; 3];
        for k in (0..3).map(|k| (slice + k) % 3) {
            let mut meter = (k > 0).then(|| load(&home, k == 2));
            for (flows, result) in [1, BURSTS].into_iter().zip(&mut results[k]) {
                let (ns, missing) = datagrams(&home, meter.as_mut(), flows);
                lost += missing;
                *result = ns;
            }
            if k < 2 && slice % BULK_EVERY == 0 {
                results[k][2] = stream(&home);
            }
        }
        let [route, plain, hinted] = results;
        route_ns.push(route[0]);
        for (metered, of) in [plain, hinted].iter().zip(&mut ratios) {
            for (i, of) in of.iter_mut().enumerate() {
                of.push(metered[i] / route[i]);
            }
        }
        if route[2] > 0.0 {
            bulk.push(plain[2] / route[2]);
        }
    }
    let [[one, short], [hinted_one, hinted_short]] = ratios.map(|of| of.map(median));
    println!(
        "{{\"rounds\":{rounds},\"route_cpu_ns_per_datagram\":{:.0},\"tcx_cpu_vs_route\":{one:.3},\
         \"tcx_cpu_vs_route_short_flows\":{short:.3},\"hints_cpu_vs_route\":{hinted_one:.3},\
         \"hints_cpu_vs_route_short_flows\":{hinted_short:.3},\"tcx_bulk_tcp_vs_route\":{:.3},\"datagrams_lost\":{lost}}}",
        median(route_ns),
        median(bulk)
    );
}

fn load(home: &Home, with_hints: bool) -> Meter {
    let o = MeterOptions {
        hook: Hook::Tcx,
        lan: vec!["lan0".into()],
        wan: Some("wan0".into()),
        config: MeterConfig {
            slot_epoch: monotonic(),
            slot_len: Nanos::from_millis(100),
            cover_mark: 0xc0,
            ..MeterConfig::default()
        },
        hints: with_hints.then(HintOptions::default),
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

/// Sends datagrams of so many flows through the gateway; CPU nanoseconds per datagram, and how many did not arrive.
fn datagrams(home: &Home, mut meter: Option<&mut Meter>, flows: u32) -> (f64, u64) {
    let sink = home.socket("srv", "10.77.2.2:9000");
    sink.set_nonblocking(true).expect("nonblocking");
    let sockets: Vec<UdpSocket> = home.within("dev", || {
        let port = |i| UdpSocket::bind(("10.77.1.2", 9_001 + i as u16)).expect("bind");
        (0..flows).map(port).collect()
    });
    for socket in &sockets {
        socket.connect("10.77.2.2:9000").expect("connect");
    }
    let mut buf = [0; 128];
    let mut received = 0u64;
    let mut drain = |sink: &UdpSocket| {
        while sink.recv(&mut buf).is_ok() {
            received += 1;
        }
        // As the gateway does, so that copies find room.
        if let Some(meter) = &mut meter {
            meter.poll_hints(|_, _| ());
        }
    };
    let mut cpu = 0;
    let body = [7u8; 100];
    for socket in sockets.iter().cycle().take(BURSTS as usize) {
        let start = thread_cpu();
        for _ in 0..BURST {
            let _ = socket.send(&body);
        }
        cpu += thread_cpu() - start;
        drain(&sink);
    }
    std::thread::sleep(Duration::from_millis(20));
    drain(&sink);
    let sent = u64::from(BURSTS * BURST);
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
