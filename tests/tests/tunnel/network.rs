//! A bad network, and a near end that asks for too much.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chaff_abi::Nanos;
use chaff_sys::clock::monotonic;
use chaff_tests::skip_without_root;
use chaff_tunnel::{Config, PeerConfig, Tunnel};
use nix::sys::signal::Signal;
use serde_json::Value;
use xtask::tunnel_lab::{FAR, Lab, MIDDLE, PORT, SERVER};

use crate::scene::*;

/// A network that loses a share of all datagrams and mixes up the rest: each waits a random time.
struct BadWay {
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl BadWay {
    /// Takes datagrams at `at` in the network between and passes them on to the far end, and back.
    fn start(lab: &Lab, at: SocketAddr, loss: f64, jitter: Duration) -> Result<Self> {
        let sockets = lab.inside("mid", || {
            (UdpSocket::bind(at), UdpSocket::bind("0.0.0.0:0"))
        })?;
        let sockets = [sockets.0?, sockets.1?];
        for s in &sockets {
            s.set_read_timeout(Some(Duration::from_millis(1)))?;
        }
        let far: SocketAddr = format!("{FAR}:{PORT}").parse()?;
        let end = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut waiting: BTreeMap<(Instant, u64), (usize, Vec<u8>)> = BTreeMap::new();
            let (mut near, mut count) = (None, 0u64);
            let mut buf = [0; 2_048];
            while !stop.load(Ordering::Relaxed) {
                for (i, socket) in sockets.iter().enumerate() {
                    while let Ok((n, from)) = socket.recv_from(&mut buf) {
                        if i == 0 {
                            near = Some(from);
                        }
                        count += 1;
                        // Evenly spread, the same in every run.
                        let draw = count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
                        let share = draw as f64 / (1u64 << 53) as f64;
                        let wait = jitter.mul_f64((share * 7.0).fract());
                        if share >= loss {
                            let due = (Instant::now() + wait, count);
                            waiting.insert(due, (1 - i, buf[..n].to_vec()));
                        }
                        if waiting.len() > 200 {
                            break;
                        }
                    }
                    while let Some(e) = waiting
                        .first_entry()
                        .filter(|e| e.key().0 <= Instant::now())
                    {
                        let (to, bytes) = e.remove();
                        let address = if to == 1 { Some(far) } else { near };
                        if let Some(address) = address {
                            let _lost = sockets[to].send_to(&bytes, address);
                        }
                    }
                }
            }
        });
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for BadWay {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

#[test]
fn a_network_that_loses_and_mixes_up_costs_only_what_it_loses() -> Result<()> {
    if skip_without_root("a_network_that_loses_and_mixes_up_costs_only_what_it_loses") {
        return Ok(());
    }
    let at = format!("{MIDDLE}:{PORT}");
    let mut scene = Scene::at("tunbad", &at)?;
    serve(&scene.lab)?;
    let way = BadWay::start(&scene.lab, at.parse()?, 0.2, Duration::from_millis(30))?;
    scene.start_sink("")?;
    scene.start_gateway(&Told {
        cover: "profile = \"high\"",
        tunnel: "",
    })?;
    scene.answers()?;
    let (sent, received, gap) = ping_through(&scene.lab, "-4", SERVER[0], || Ok(()))?;
    let peer = scene.peer()?;
    println!(
        "20 % loss, up to 30 ms of reordering: {received} of {sent}, longest gap {gap:?}; refused {}, sessions {}",
        peer["refused"], peer["sessions"]
    );
    let share = received as f64 / sent as f64;
    ensure!((0.5..0.78).contains(&share), "0.64 expected, {share}");
    let replayed = peer["refused"]["replay"].as_u64().unwrap_or(0);
    ensure!(replayed == 0, "{peer}");
    tcp_echo(&scene.lab, servers()[0], 20_000)?;
    drop(way);
    scene.stop()?;
    Ok(())
}

/// A near end that sends and asks what the test wants, in place of a gateway.
struct Client {
    tunnel: Tunnel,
    socket: UdpSocket,
    /// UDP payload bytes of authentic data, sent and received.
    bytes: [u64; 2],
    /// When cover arrived.
    arrived: Vec<Nanos>,
}

impl Client {
    fn new(lab: &Lab) -> Result<Self> {
        let conf = chaff_tunport::pair::read(&lab.path("gw.conf"))?;
        let far = conf.peers.first().context("no peer")?;
        let peer = PeerConfig {
            public_key: far.public_key,
            preshared_key: far.preshared_key.clone(),
            allowed: far.allowed.clone(),
            endpoint: Some(format!("{FAR}:{PORT}").parse()?),
        };
        let config = Config {
            always_on: true,
            cover_rate: 10_000_000,
            cover_burst: 10_000_000,
            ..Config::default()
        };
        let socket = lab.inside("gw", || UdpSocket::bind("0.0.0.0:0"))??;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        let tunnel = Tunnel::new(&conf.private_key, config, &[peer], [3; 32], monotonic())?;
        Ok(Self {
            tunnel,
            socket,
            bytes: [0; 2],
            arrived: Vec::new(),
        })
    }

    fn run(&mut self, until: Nanos) -> Result<()> {
        let mut buf = [0; 2_048];
        while monotonic() < until {
            self.tunnel.handle_timeout(monotonic());
            while let Some(d) = self.tunnel.poll_datagram() {
                self.bytes[0] += d.as_ref().len() as u64;
                self.socket.send_to(d.as_ref(), d.to)?;
            }
            while let Ok((n, from)) = self.socket.recv_from(&mut buf) {
                let before = self.tunnel.report().peers[0].cover_in.packets;
                let at = monotonic();
                self.tunnel.handle_datagram(at, from, buf[..n].into());
                if self.tunnel.report().peers[0].cover_in.packets > before {
                    self.bytes[1] += n as u64;
                    self.arrived.push(at);
                }
                if at >= until {
                    break;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn downlink_cover_follows_its_schedule_ends_with_its_lease_and_holds_its_ratio() -> Result<()> {
    if skip_without_root(
        "downlink_cover_follows_its_schedule_ends_with_its_lease_and_holds_its_ratio",
    ) {
        return Ok(());
    }
    let mut scene = Scene::new("tunask")?;
    scene.start_sink("")?;
    let mut client = Client::new(&scene.lab)?;
    while !client.tunnel.has_session(0) {
        client.run(monotonic() + Nanos::from_millis(100))?;
    }
    // On time: 60 dummies, a tenth of a second apart.
    let begin = monotonic();
    let mut asked = Vec::new();
    for second in 0..6 {
        let start = begin + Nanos::from_secs(second);
        let due = |i: u64| start + Nanos::from_millis(300 + 100 * i);
        let block: Vec<_> = (0..10).map(|i| (due(i), 1)).collect();
        client.tunnel.ask_downlink(monotonic(), 0, &block);
        asked.extend(block.iter().map(|d| d.0));
        client.run(start + Nanos::from_secs(1))?;
    }
    client.run(monotonic() + Nanos::from_millis(500))?;
    let late = |at: &Nanos| {
        let distance = |got: &Nanos| got.0.abs_diff(at.0);
        client
            .arrived
            .iter()
            .map(distance)
            .min()
            .unwrap_or(u64::MAX) as f64
            / 1e6
    };
    let mut late: Vec<f64> = asked.iter().map(late).collect();
    late.sort_by(f64::total_cmp);
    println!(
        "downlink, ms off the schedule: median {:.1}, worst {:.1}",
        late[30], late[59]
    );
    ensure!(late[30] <= 100.0, "{late:?}");
    // Asked for ten seconds ahead, then silence: what the lease does not reach is not sent.
    let due = |i: u64| monotonic() + Nanos::from_millis(100 * i);
    let block: Vec<_> = (1..95).map(|i| (due(i), 1)).collect();
    client.tunnel.ask_downlink(monotonic(), 0, &block);
    client.run(monotonic() + Nanos::from_millis(300))?;
    let silent = monotonic();
    client.tunnel.set_paused(true);
    let before = client.arrived.len();
    client.run(silent + Nanos::from_secs(9))?;
    let last = client.arrived.last().context("no cover")?.since(silent);
    let after = client.arrived.len() - before;
    println!(
        "lease: {after} dummies after the gateway fell silent, the last {:.2} s later",
        last.as_secs_f64()
    );
    ensure!(after >= 10, "{after}");
    ensure!(last < Nanos::from_secs(7), "{last:?}");
    client.tunnel.set_paused(false);
    // As much as can be asked for. What the lease test left in credit is part of what the ratio allows for all bytes so far.
    let begin = monotonic();
    for step in 0..50 {
        let due = |i: u64| monotonic() + Nanos::from_micros(100 * i);
        let block: Vec<_> = (0..1_000).map(|i| (due(i), 1)).collect();
        client.tunnel.ask_downlink(monotonic(), 0, &block);
        client.run(begin + Nanos::from_millis(100 * (step + 1)))?;
    }
    client.run(monotonic() + Nanos::from_secs(1))?;
    let [sent, received] = client.bytes;
    println!(
        "a greedy gateway sent {sent} B and got {received} B of cover: {:.2} for each beyond the allowance",
        received.saturating_sub(65_536) as f64 / sent as f64
    );
    // Headers count for what is sent, and not for what is received; signs of life come on top.
    ensure!(
        received <= 65_536 + 4 * sent + 20_000,
        "{received} B for {sent} B"
    );
    ensure!(received > 30_000, "{received}");
    let mut sink = scene.sink.take().context("no sink")?;
    sink.stop(Signal::SIGTERM, Duration::from_secs(20))?;
    let report: Value = serde_json::from_slice(&fs::read(scene.lab.path("sink.json"))?)?;
    let dropped = &report["tunnel"]["peers"][0]["downlink"]["dropped"];
    ensure!(dropped["ratio"].as_u64() > Some(100), "{dropped}");
    Ok(())
}
