//! Lateness of the injector against a tokio timer doing the same sends, in interleaved rounds on one machine.
//!
//! ```text
//! cargo run --release -p chaff-gateway --example bench_injector -- [ROUNDS] [SENDS] [plain]
//! ```
//! One datagram per millisecond on loopback. Lateness is the time of the system call minus the due time. Prints JSON:
//! per method the median over rounds of p50, p99, p99.9 and the worst in microseconds, and the ratios to tokio that
//! are the bars. The injector asks for real-time priority as it does live, unless `plain` is given; tokio's thread is
//! ordinary, and `tokio_realtime` shows how much of the difference is priority. Exit code 1 when a bar is missed.

use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chaff_abi::Nanos;
use chaff_gateway::injector::{Injector, InjectorOptions};
use chaff_gateway::sys_net::open_cover_socket;
use chaff_sys::clock::monotonic;
use chaff_sys::thread::make_realtime;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

const STEP: Nanos = Nanos::from_millis(1);
const PAYLOAD: [u8; 172] = [0; 172];
const METHODS: [&str; 4] = ["injector", "injector_spin", "tokio", "tokio_realtime"];
const SPIN: Duration = Duration::from_micros(150);
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];

/// A sink that is read by nobody: the kernel drops what does not fit, at the same cost for every method.
fn pair() -> anyhow::Result<(UdpSocket, UdpSocket)> {
    let sink = UdpSocket::bind("127.0.0.1:0").context("while opening the sink")?;
    let cover = open_cover_socket("127.0.0.1:0".parse()?, sink.local_addr()?, 0)?;
    Ok((cover, sink))
}

fn injector(sends: u64, fifo: bool, spin: bool) -> anyhow::Result<(Histogram<u64>, bool)> {
    let (socket, _sink) = pair()?;
    let mut options = InjectorOptions::new(socket);
    options.fifo = fifo;
    options.spin = spin.then_some(SPIN);
    options.queue = sends as usize;
    let injector = Injector::spawn(options)?;
    let start = monotonic() + Nanos::from_millis(50);
    for i in 0..sends {
        injector.submit(start + STEP.times(i), &PAYLOAD)?;
    }
    std::thread::sleep(Duration::from_millis(150 + sends));
    let lateness = injector.lateness();
    let realtime = injector.is_realtime();
    let stats = injector.stop();
    anyhow::ensure!(stats.sent == sends, "not everything was sent: {stats:?}");
    Ok((lateness, realtime))
}

fn tokio_timer(sends: u64) -> anyhow::Result<Histogram<u64>> {
    let (socket, _sink) = pair()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let mut lateness = Histogram::new_with_bounds(1, 60_000_000_000, 2)?;
    runtime.block_on(async {
        let start = tokio::time::Instant::now() + Duration::from_millis(50);
        for i in 0..sends {
            let due = start + Duration::from_millis(i);
            tokio::time::sleep_until(due).await;
            let late = tokio::time::Instant::now().saturating_duration_since(due);
            socket.send(&PAYLOAD)?;
            lateness.saturating_record((late.as_nanos() as u64).max(1));
        }
        anyhow::Ok(())
    })?;
    Ok(lateness)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> anyhow::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |i: usize, default: u64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (rounds, sends) = (number(0, 5).max(1), number(1, 2000).max(1));
    let fifo = !args.iter().any(|a| a == "plain");
    let mut realtime = false;
    // [method][quantile][round], microseconds
    let mut seen = vec![vec![Vec::new(); QUANTILES.len()]; METHODS.len()];
    for round in 0..rounds {
        for offset in 0..METHODS.len() {
            let m = (offset + round as usize) % METHODS.len(); // each method runs first, second and third
            let lateness = match METHODS[m] {
                "tokio" => tokio_timer(sends)?,
                // A thread of its own, so that only it is real-time; where that is not allowed it is ordinary too.
                "tokio_realtime" => std::thread::scope(|scope| {
                    let thread = scope.spawn(|| {
                        let _ = fifo.then(|| make_realtime(10));
                        tokio_timer(sends)
                    });
                    thread
                        .join()
                        .map_err(|_| anyhow::anyhow!("the tokio thread panicked"))?
                })?,
                method => {
                    let (lateness, got) = injector(sends, fifo, method == "injector_spin")?;
                    realtime = got;
                    lateness
                }
            };
            for (q, (_, quantile)) in QUANTILES.iter().enumerate() {
                seen[m][q].push(lateness.value_at_quantile(*quantile) as f64 / 1e3);
            }
        }
    }
    let of = |m: usize, q: usize| median(seen[m][q].clone());
    let mut methods = serde_json::Map::new();
    for (m, name) in METHODS.iter().enumerate() {
        let row: serde_json::Map<String, Value> = QUANTILES
            .iter()
            .enumerate()
            .map(|(q, (quantile, _))| ((*quantile).to_owned(), json!(of(m, q))))
            .collect();
        methods.insert((*name).to_owned(), row.into());
    }
    let bars = [
        ("injector_p50_vs_tokio", of(0, 0) / of(2, 0), 1.0 / 20.0),
        ("injector_p99_vs_tokio", of(0, 1) / of(2, 1), 1.0 / 10.0),
        ("spin_p50_vs_tokio", of(1, 0) / of(2, 0), 1.0 / 500.0),
    ];
    let met = bars.iter().all(|(_, ratio, bar)| ratio <= bar);
    let ratios: Vec<Value> = bars
        .iter()
        .map(|(name, ratio, bar)| json!({"name": name, "ratio": ratio, "bar": bar, "met": ratio <= bar}))
        .collect();
    println!(
        "{:#}",
        json!({
            "version": 1, "bench": "injector", "step_us": 1000, "rounds": rounds, "sends": sends,
            "realtime": realtime, "lateness_us": methods, "ratios": ratios, "met": met,
        })
    );
    Ok(ExitCode::from(u8::from(!met)))
}
