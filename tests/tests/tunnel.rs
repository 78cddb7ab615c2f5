//! Tunnel mode in namespaces: device, gateway, observer, far end, server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chaff_abi::Nanos;
use chaff_tests::{Running, program, skip_without_root, skipped};
use chaff_tunnel::{Config, PeerConfig, Tunnel};
use chaff_tunport::now;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use xtask::tunnel_lab::{FAR, FAR_V6, Lab, MIDDLE, PORT, SERVER};

const READY: Duration = Duration::from_secs(30);

/// A lab with a gateway and a far end.
struct Scene {
    // Programs end before the namespaces go.
    gateway: Option<Running>,
    sink: Option<Running>,
    lab: Lab,
}

/// What a gateway is told beyond the defaults.
struct Told<'a> {
    cover: &'a str,
    tunnel: &'a str,
}

const QUIET: Told<'static> = Told {
    cover: "generator = \"none\"",
    tunnel: "",
};

impl Scene {
    fn new(name: &str) -> Result<Self> {
        Self::at(name, &format!("{FAR}:{PORT}"))
    }

    /// A scene whose gateway finds the far end at `endpoint`.
    fn at(name: &str, endpoint: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        lab.keys_at(&program("sink-server")?, endpoint)?;
        Ok(Self {
            gateway: None,
            sink: None,
            lab,
        })
    }

    fn start_sink(&mut self, tunnel: &str) -> Result<()> {
        let toml = self.lab.path("sink.toml");
        fs::write(&toml, format!("[tunnel]\n{tunnel}\n"))?;
        let mut sink = self.lab.command("far", program("sink-server")?);
        sink.arg("--tunnel").arg(self.lab.path("far.conf"));
        sink.arg("--config").arg(&toml);
        sink.arg("--report").arg(self.lab.path("sink.json"));
        self.sink = Some(Running::start("sink-server", sink)?);
        self.wait_for("far", "chaff0")
    }

    /// Waits until a namespace has an interface.
    fn wait_for(&self, space: &str, interface: &str) -> Result<()> {
        let end = Instant::now() + READY;
        let line = format!("ip address show dev {interface} up");
        while !self
            .lab
            .run(space, &line)
            .is_ok_and(|out| out.contains("inet "))
        {
            ensure!(Instant::now() < end, "{space} has no {interface}");
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn start_gateway(&mut self, told: &Told<'_>) -> Result<()> {
        let lab = &self.lab;
        let config = format!(
            "[gateway]\nstate_dir = {:?}\ninstance = {:?}\n\
             [interfaces]\nlan = [\"lan0\"]\nwan = \"wan0\"\nhook = \"tcx\"\n\
             [cover]\nmode = \"tunnel\"\n{}\n\
             [tunnel]\nconfig = {:?}\n{}\n\
             [[device]]\nlabel = \"dev\"\nip = [\"10.1.0.2\", \"fd01::2\"]\n",
            lab.path("state"),
            lab.instance(),
            told.cover,
            lab.path("gw.conf"),
            told.tunnel,
        );
        let file = lab.path("gateway.toml");
        fs::write(&file, config)?;
        let mut gateway = lab.command("gw", program("gateway")?);
        gateway.args(["run", "--config"]).arg(&file);
        self.gateway = Some(Running::start("gateway", gateway)?);
        self.wait_for("gw", "chaff0")?;
        let end = Instant::now() + READY;
        while self.status().is_err() {
            self.gateway.as_mut().map_or(Ok(()), Running::check)?;
            ensure!(Instant::now() < end, "the gateway does not answer");
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        let mut status = std::process::Command::new(program("gateway")?);
        status.args(["status", "--json", "--socket"]);
        status.arg(self.lab.path("state").join("control.sock"));
        let out = status.output()?;
        ensure!(out.status.success(), "no answer");
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    fn peer(&self) -> Result<Value> {
        Ok(self.status()?["tunnel"]["tunnel"]["peers"][0].clone())
    }

    /// Waits until the device reaches the server.
    fn answers(&self) -> Result<()> {
        let end = Instant::now() + READY;
        while number(&ping(&self.lab, "-4 -n -c 1 -W 1", SERVER[0])?, "received") != Some(1) {
            ensure!(Instant::now() < end, "no answer through the tunnel");
        }
        Ok(())
    }

    /// The process that moves packets: the supervisor's child.
    fn worker(&self) -> Result<Pid> {
        let parent = self.gateway.as_ref().context("no gateway")?.id();
        let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        let id = text.split_whitespace().next().context("no child")?;
        Ok(Pid::from_raw(id.parse()?))
    }

    fn stop(&mut self) -> Result<(Value, Value)> {
        let ending = Duration::from_secs(20);
        let mut gateway = self.gateway.take().context("no gateway")?;
        let status = gateway.stop(Signal::SIGTERM, ending)?;
        ensure!(status.success(), "gateway: {status}");
        let mut sink = self.sink.take().context("no sink")?;
        let status = sink.stop(Signal::SIGTERM, ending)?;
        ensure!(status.success(), "sink-server: {status}");
        let read =
            |path: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        Ok((
            read(self.lab.path("state").join("report.json"))?,
            read(self.lab.path("sink.json"))?,
        ))
    }
}

/// Echoes TCP and UDP at the server until the test ends.
fn serve(lab: &Lab) -> Result<()> {
    for (address, port) in [(SERVER[0], 7_001), (SERVER[1], 7_002)] {
        let at: SocketAddr = (address.parse::<std::net::IpAddr>()?, port).into();
        let (tcp, udp) = lab.inside("srv", || (TcpListener::bind(at), UdpSocket::bind(at)))?;
        let (tcp, udp) = (tcp?, udp?);
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                std::thread::spawn(move || {
                    let (mut from, mut to) = (&stream, &stream);
                    let _closed = std::io::copy(&mut from, &mut to);
                });
            }
        });
        std::thread::spawn(move || {
            let mut buf = [0; 65_536];
            while let Ok((n, from)) = udp.recv_from(&mut buf) {
                let _lost = udp.send_to(&buf[..n], from);
            }
        });
    }
    Ok(())
}

fn servers() -> [SocketAddr; 2] {
    [
        format!("{}:7001", SERVER[0]).parse().expect("an address"),
        format!("[{}]:7002", SERVER[1]).parse().expect("an address"),
    ]
}

/// Sends `len` bytes to the server's echo over TCP and compares what comes back.
fn tcp_echo(lab: &Lab, to: SocketAddr, len: usize) -> Result<()> {
    lab.inside("dev", || -> Result<()> {
        let end = Instant::now() + READY;
        let stream = loop {
            match TcpStream::connect_timeout(&to, Duration::from_secs(10)) {
                Ok(stream) => break stream,
                Err(e) => ensure!(Instant::now() < end, "connecting to {to}: {e}"),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let data: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
        std::thread::scope(|s| -> Result<()> {
            let writer = s.spawn(|| (&stream).write_all(&data));
            let mut got = vec![0; len];
            (&stream).read_exact(&mut got)?;
            writer.join().expect("no panic")?;
            ensure!(got == data, "altered on the way");
            Ok(())
        })
    })?
}

/// Sends a datagram to the echo, again when it is lost, and compares what comes back.
fn udp_echo(lab: &Lab, to: SocketAddr, len: usize) -> Result<()> {
    lab.inside("dev", || -> Result<()> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let data: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        let mut buf = [0; 4_096];
        for _ in 0..20 {
            socket.send(&data)?;
            if let Ok(n) = socket.recv(&mut buf) {
                ensure!(buf[..n] == data, "altered on the way");
                return Ok(());
            }
        }
        anyhow::bail!("{len} bytes to {to} never came back")
    })?
}

fn ping(lab: &Lab, words: &str, to: &str) -> Result<String> {
    let line = format!("ping {words} {to}");
    let out = lab.attempt("dev", Duration::from_secs(15), &line)?;
    Ok(format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    ))
}

/// The number in front of a word of ping's summary.
fn number(text: &str, word: &str) -> Option<u64> {
    let end = text.find(word)?;
    let not_digit = |c: char| !c.is_ascii_digit();
    let digits = text[..end].trim_end().rsplit(not_digit).next()?;
    digits.parse().ok()
}

#[test]
fn tcp_udp_ipv6_and_path_mtu_work_through_both_engines() -> Result<()> {
    if skip_without_root("tcp_udp_ipv6_and_path_mtu_work_through_both_engines") {
        return Ok(());
    }
    for engine in ["fast", "portable"] {
        let mut scene = Scene::new("tunall")?;
        serve(&scene.lab)?;
        scene.start_sink(&format!("engine = {engine:?}"))?;
        scene.start_gateway(&Told {
            tunnel: &format!("engine = {engine:?}"),
            cover: "generator = \"constant\"",
        })?;
        let lab = &scene.lab;
        for to in servers() {
            tcp_echo(lab, to, 3_000_000).with_context(|| format!("{engine}: TCP to {to}"))?;
            for len in [1, 40, 300, 512, 1_232, 1_300] {
                udp_echo(lab, to, len).with_context(|| format!("{engine}: UDP to {to}"))?;
            }
        }
        // Inner MTU 1420: the largest packet passes, one byte more comes back as "too big".
        for (family, head, to) in [("-4", 28, SERVER[0]), ("-6", 48, SERVER[1])] {
            let fits = format!("{family} -n -M do -c 3 -i 0.2 -W 2 -s {}", 1_420 - head);
            let text = ping(lab, &fits, to)?;
            ensure!(number(&text, "received") == Some(3), "{engine}: {text}");
            let more = format!("{family} -n -M do -c 2 -i 0.2 -W 1 -s {}", 1_421 - head);
            let text = ping(lab, &more, to)?;
            ensure!(
                number(&text, "received").unwrap_or(0) == 0 && text.contains("1420"),
                "{engine}: {text}"
            );
        }
        ensure!(lab.in_clear()? == 0, "{engine}: packets in clear");
        ensure!(scene.status()?["tunnel"]["engine"] == engine);
        // Cover is planned from the second second on.
        sleep(Duration::from_secs(4));
        let lab = &scene.lab;
        let before = lab.run("gw", "nft list tables")?;
        ensure!(before.contains("chaff_"), "{before}");
        let (gateway, sink) = scene.stop()?;
        // Everything is taken down again.
        let lab = &scene.lab;
        for space in ["gw", "far"] {
            ensure!(!lab.run(space, "nft list tables")?.contains("chaff"));
            for family in ["-4", "-6"] {
                let rules = lab.run(space, &format!("ip {family} rule"))?;
                ensure!(
                    !rules.contains("51877") && !rules.contains("suppress"),
                    "{rules}"
                );
            }
            ensure!(lab.run(space, "ip link show dev chaff0").is_err());
        }
        let sent = &gateway["tunnel"]["tunnel"]["peers"][0];
        let got = &sink["tunnel"]["peers"][0];
        ensure!(sent["cover_out"]["packets"].as_u64() > Some(10), "{sent}");
        ensure!(got["cover_out"]["packets"].as_u64() > Some(2), "{got}");
        let refused = got["refused"].as_object().map_or(0, |r| r.len());
        ensure!(refused == 0, "{got}");
    }
    Ok(())
}

/// What a capture of the way between shows: UDP payload sizes, (DSCP and ECN, time-to-live, flow label), packets.
type Observed = (BTreeSet<usize>, BTreeSet<(u8, u8, u32)>, u64);

fn observed(path: &std::path::Path) -> Result<Observed> {
    let mut reader = chaff_trace::Reader::new(fs::File::open(path)?)?;
    let mut buf = Vec::new();
    let (mut sizes, mut heads, mut packets) = (BTreeSet::new(), BTreeSet::new(), 0);
    while let Some(_frame) = reader.next(&mut buf)? {
        let ip = &buf[14..];
        let word = u32::from_be_bytes([ip[0], ip[1], ip[2], ip[3]]);
        let udp = match (ip[0] >> 4, ip[9], ip[6]) {
            (4, 17, flags) => {
                ensure!(flags & 0x40 != 0, "may be fragmented");
                heads.insert((ip[1], ip[8], 0));
                &ip[usize::from(ip[0] & 15) * 4..]
            }
            (6, _, 17) => {
                heads.insert(((word >> 20) as u8, ip[7], word & 0xf_ffff));
                &ip[40..]
            }
            _ => continue,
        };
        sizes.insert(usize::from(u16::from_be_bytes([udp[4], udp[5]])) - 8);
        packets += 1;
    }
    Ok((sizes, heads, packets))
}

#[test]
fn an_observer_sees_only_bins_and_constant_headers() -> Result<()> {
    if skip_without_root("an_observer_sees_only_bins_and_constant_headers") {
        return Ok(());
    }
    observe(&format!("{FAR}:{PORT}"))?;
    observe(&format!("[{FAR_V6}]:{PORT}"))
}

fn observe(endpoint: &str) -> Result<()> {
    let mut scene = Scene::at("tunsee", endpoint)?;
    serve(&scene.lab)?;
    // No bursts as one message: a capture on veth would show them in one piece.
    scene.start_sink("engine = \"portable\"")?;
    scene.start_gateway(&Told {
        tunnel: "engine = \"portable\"",
        cover: "profile = \"high\"",
    })?;
    let capture = scene.lab.path("seen.pcap");
    let mut tcpdump = scene.lab.command("mid", "tcpdump");
    tcpdump.args(["-i", "a0", "-U", "-n", "-s", "128", "-Z", "root", "-w"]);
    tcpdump
        .arg(&capture)
        .args(["udp", "port", &PORT.to_string()]);
    tcpdump.stderr(Stdio::null());
    let mut tcpdump = Running::start("tcpdump", tcpdump)?;
    sleep(Duration::from_secs(1));
    for to in servers() {
        tcp_echo(&scene.lab, to, 500_000)?;
        for len in (1..1_350).step_by(97) {
            udp_echo(&scene.lab, to, len)?;
        }
    }
    // DSCP of devices stays inside.
    ping(&scene.lab, "-4 -Q 0xb8 -c 20 -i 0.05 -W 1", SERVER[0])?;
    sleep(Duration::from_secs(12));
    tcpdump.stop(Signal::SIGINT, Duration::from_secs(5))?;
    let (sizes, heads, packets) = observed(&capture)?;
    let allowed = BTreeSet::from([148, 92, 160, 608, 1_452]);
    ensure!(
        sizes.is_subset(&allowed) && sizes.is_superset(&BTreeSet::from([160, 608, 1_452])),
        "{sizes:?}"
    );
    // One time-to-live each way; no DSCP, no flow label.
    ensure!(
        heads.len() <= 2 && heads.iter().all(|h| (h.0, h.2) == (0, 0)),
        "{heads:?}"
    );
    println!("{endpoint}: {packets} packets of {sizes:?}, {heads:?}");
    ensure!(packets > 1_000, "{packets}");
    ensure!(scene.lab.in_clear()? == 0);
    scene.stop()?;
    Ok(())
}

/// Pings 200 times a second while something happens; returns sent, received and the longest time without an answer.
fn ping_through(
    lab: &Lab,
    family: &str,
    to: &str,
    happens: impl FnOnce() -> Result<()>,
) -> Result<(u64, u64, Duration)> {
    let mut ping = lab.command("dev", "timeout");
    ping.args([
        "20", "ping", family, "-n", "-D", "-i", "0.005", "-c", "800", "-W", "1", to,
    ]);
    ping.stdout(Stdio::piped()).stderr(Stdio::null());
    let child = ping.spawn()?;
    sleep(Duration::from_millis(1_000));
    happens()?;
    let out = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let times: Vec<f64> = text
        .lines()
        .filter(|l| l.contains("bytes from"))
        .filter_map(|l| l.strip_prefix('[')?.split(']').next()?.parse().ok())
        .collect();
    let gap = times.windows(2).map(|w| w[1] - w[0]).fold(0.0, f64::max);
    let summary = text.lines().rev().take(4).collect::<Vec<_>>().join("\n");
    Ok((
        number(&summary, "packets transmitted").unwrap_or(0),
        number(&summary, "received").unwrap_or(0),
        Duration::from_secs_f64(gap),
    ))
}

#[test]
fn the_kill_switch_lets_nothing_out_in_clear() -> Result<()> {
    if skip_without_root("the_kill_switch_lets_nothing_out_in_clear") {
        return Ok(());
    }
    let mut scene = Scene::new("tunkill")?;
    scene.start_sink("")?;
    scene.start_gateway(&QUIET)?;
    for (family, to) in [("-4", SERVER[0]), ("-6", SERVER[1])] {
        for (what, signals) in [
            ("SIGKILL", &[Signal::SIGKILL][..]),
            ("SIGSTOP", &[Signal::SIGSTOP]),
            ("SIGSTOP, SIGCONT", &[Signal::SIGSTOP, Signal::SIGCONT]),
        ] {
            scene.answers()?;
            let worker = scene.worker()?;
            let (sent, received, gap) = ping_through(&scene.lab, family, to, || {
                for (i, s) in signals.iter().enumerate() {
                    sleep(Duration::from_millis(if i > 0 { 200 } else { 0 }));
                    kill(worker, *s)?;
                }
                Ok(())
            })?;
            let clear = scene.lab.in_clear()?;
            println!(
                "kill switch, {family}, {what}: {received} of {sent}, longest gap {gap:?}, in clear {clear}"
            );
            ensure!(clear == 0, "{what}: {clear} packets in clear");
            ensure!(received > sent / 2, "{what}: {received} of {sent}");
            ensure!(gap < Duration::from_secs(4), "{what}: {gap:?}");
        }
    }
    // Not even with the supervisor gone.
    scene.answers()?;
    let supervisor = Pid::from_raw(scene.gateway.as_ref().context("no gateway")?.id() as i32);
    let worker = scene.worker()?;
    kill(supervisor, Signal::SIGKILL)?;
    kill(worker, Signal::SIGKILL)?;
    sleep(Duration::from_millis(500));
    for (family, to) in [("-4", SERVER[0]), ("-6", SERVER[1])] {
        let text = ping(&scene.lab, &format!("{family} -n -c 20 -i 0.02 -W 1"), to)?;
        ensure!(number(&text, "received").unwrap_or(0) == 0, "{text}");
    }
    ensure!(
        scene.lab.in_clear()? == 0,
        "packets in clear without a supervisor"
    );
    // The next start takes over what was left; a clean stop opens the way.
    scene.gateway = None;
    scene.start_gateway(&QUIET)?;
    let text = ping(&scene.lab, "-4 -n -c 5 -i 0.2 -W 1", SERVER[0])?;
    ensure!(number(&text, "received").unwrap_or(0) >= 4, "{text}");
    scene.stop()?;
    let rules = scene.lab.run("gw", "ip rule")?;
    ensure!(!rules.contains("51877"), "{rules}");
    Ok(())
}

#[test]
fn with_fall_back_traffic_goes_on_in_clear() -> Result<()> {
    if skip_without_root("with_fall_back_traffic_goes_on_in_clear") {
        return Ok(());
    }
    let mut scene = Scene::new("tunfall")?;
    serve(&scene.lab)?;
    scene.start_sink("")?;
    scene.start_gateway(&Told {
        tunnel: "when_down = \"fall-back\"",
        ..QUIET
    })?;
    let to = SERVER[0];
    for (what, signal) in [("SIGKILL", Signal::SIGKILL), ("SIGSTOP", Signal::SIGSTOP)] {
        scene.answers()?;
        let worker = scene.worker()?;
        let (sent, received, gap) =
            ping_through(&scene.lab, "-4", to, || Ok(kill(worker, signal)?))?;
        println!("fall-back, {what}: {received} of {sent}, longest gap {gap:?}");
        ensure!(gap < Duration::from_millis(2_500), "{what}: {gap:?}");
        ensure!(received > sent * 2 / 3, "{what}: {received} of {sent}");
    }
    // The far end goes: the ordinary route within seconds. It comes back: so does the tunnel.
    let mut sink = scene.sink.take().context("no sink")?;
    sink.stop(Signal::SIGTERM, Duration::from_secs(10))?;
    // A router without the tunnel's program still routes.
    scene.lab.run("far", "sysctl -qw net.ipv4.ip_forward=1")?;
    let begin = Instant::now();
    let clear = scene.lab.in_clear()?;
    loop {
        ping(&scene.lab, "-4 -n -c 1 -W 1", to)?;
        if scene.lab.in_clear()? > clear + 1 {
            break;
        }
        ensure!(begin.elapsed() < Duration::from_secs(60), "no fall-back");
    }
    println!("far end gone: ordinary route after {:?}", begin.elapsed());
    // A flow keeps its ports from one way to the other, and gets answers on both.
    let flow = scene.lab.inside("dev", || -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(servers()[0])?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    })??;
    let answered = |flow: &UdpSocket| -> Result<bool> {
        let mut buf = [0; 64];
        for _ in 0..10 {
            flow.send(b"which way?")?;
            if flow.recv(&mut buf).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    ensure!(answered(&flow)?, "no answer by the ordinary route");
    scene.start_sink("")?;
    let begin = Instant::now();
    loop {
        let clear = scene.lab.in_clear()?;
        let text = ping(&scene.lab, "-4 -n -c 3 -i 0.2 -W 1", to)?;
        if number(&text, "received") == Some(3) && scene.lab.in_clear()? == clear {
            break;
        }
        ensure!(
            begin.elapsed() < Duration::from_secs(60),
            "no way back: {text}"
        );
    }
    println!("far end back: tunnel after {:?}", begin.elapsed());
    let clear = scene.lab.in_clear()?;
    ensure!(answered(&flow)?, "a flow did not come back into the tunnel");
    ensure!(scene.lab.in_clear()? == clear, "a flow stayed in clear");
    scene.stop()?;
    Ok(())
}

#[test]
fn roaming_a_restart_of_the_far_end_and_loss_are_survived() -> Result<()> {
    if skip_without_root("roaming_a_restart_of_the_far_end_and_loss_are_survived") {
        return Ok(());
    }
    let mut scene = Scene::new("tunroam")?;
    serve(&scene.lab)?;
    scene.start_sink("")?;
    scene.start_gateway(&Told {
        cover: "generator = \"constant\"",
        ..QUIET
    })?;
    tcp_echo(&scene.lab, servers()[0], 100_000)?;
    // The gateway's address changes.
    let (sent, received, gap) = ping_through(&scene.lab, "-4", SERVER[0], || {
        let lab = &scene.lab;
        lab.run("gw", "ip address add 10.2.0.77/24 dev wan0")?;
        lab.run("gw", "ip address delete 10.2.0.1/24 dev wan0")?;
        lab.run("gw", "ip address delete 10.2.0.77/24 dev wan0")
            .ok();
        lab.run("gw", "ip address add 10.2.0.77/24 dev wan0").ok();
        lab.run("gw", "ip route replace default via 10.2.0.254")?;
        Ok(())
    })?;
    println!("roaming: {received} of {sent}, longest gap {gap:?}");
    ensure!(received > sent * 2 / 3, "roaming: {received} of {sent}");
    // The far end restarts and has forgotten everything.
    let (sent, received, gap) = ping_through(&scene.lab, "-4", SERVER[0], || {
        let mut sink = scene.sink.take().context("no sink")?;
        sink.stop(Signal::SIGTERM, Duration::from_secs(10))?;
        Ok(())
    })?;
    println!("far end stopped: {received} of {sent}, {gap:?}");
    scene.start_sink("")?;
    let begin = Instant::now();
    loop {
        let text = ping(&scene.lab, "-4 -n -c 1 -W 1", SERVER[0])?;
        if number(&text, "received") == Some(1) {
            break;
        }
        ensure!(begin.elapsed() < Duration::from_secs(30), "no answer since");
    }
    println!(
        "restarted far end: first answer after {:?}",
        begin.elapsed()
    );
    // A fifth of all packets is lost, each way.
    scene.lab.lose(20)?;
    let (sent, received, _) = ping_through(&scene.lab, "-4", SERVER[0], || Ok(()))?;
    println!("20 % loss: {received} of {sent}");
    let share = received as f64 / sent as f64;
    ensure!((0.5..0.75).contains(&share), "0.64 expected, {share}");
    tcp_echo(&scene.lab, servers()[0], 20_000)?;
    scene.lab.lose(0)?;
    tcp_echo(&scene.lab, servers()[1], 100_000)?;
    scene.stop()?;
    Ok(())
}

/// Each end has an interface of its own name: the control sockets are not in the namespaces.
fn stock_name(space: &str) -> String {
    format!("wg{space}{}", std::process::id() % 100_000)
}

/// Sets up wireguard-go in a namespace from a wg-style file; `None`, with a word, where it is not installed.
fn stock(test: &str, lab: &Lab, space: &str, conf: &str, route: &str) -> Result<Option<Running>> {
    for tool in ["wireguard-go", "wg"] {
        if !xtask::command::installed(tool) {
            skipped(
                test,
                &format!("needs {tool} (packages wireguard-go, wireguard-tools)"),
            );
            return Ok(None);
        }
    }
    let mut go = lab.command(space, "wireguard-go");
    let name = stock_name(space);
    go.args(["-f", &name])
        .env("LOG_LEVEL", "error")
        .stdout(Stdio::null());
    let running = Running::start("wireguard-go", go)?;
    let end = Instant::now() + READY;
    // Its control socket may be there before its interface, and that of an earlier one of the same name without it.
    for ready in [
        format!("ip link show dev {name}"),
        format!("wg show {name}"),
    ] {
        while lab.run(space, &ready).is_err() {
            ensure!(Instant::now() < end, "wireguard-go is not ready: {ready}");
            sleep(Duration::from_millis(50));
        }
    }
    // wg knows no addresses.
    let text = fs::read_to_string(lab.path(conf))?;
    let plain: Vec<&str> = text.lines().filter(|l| !l.starts_with("Address")).collect();
    let file = lab.path("stock.conf");
    fs::write(&file, plain.join("\n") + "\n")?;
    lab.run(space, &format!("wg setconf {name} {}", file.display()))?;
    let addresses = text.lines().find_map(|l| l.strip_prefix("Address = "));
    for a in addresses.context("no addresses")?.split(", ") {
        lab.run(space, &format!("ip address add {a} dev {name} nodad"))
            .or_else(|_| lab.run(space, &format!("ip address add {a} dev {name}")))?;
    }
    lab.run(space, &format!("ip link set {name} mtu 1420 up"))?;
    if !route.is_empty() {
        lab.run(space, &format!("ip route replace {route} dev {name}"))?;
    }
    Ok(Some(running))
}

#[test]
fn a_stock_far_end_passes_real_packets_and_drops_cover_silently() -> Result<()> {
    let test = "a_stock_far_end_passes_real_packets_and_drops_cover_silently";
    if skip_without_root(test) {
        return Ok(());
    }
    let mut scene = Scene::new("tunstock")?;
    serve(&scene.lab)?;
    let Some(_stock) = stock(test, &scene.lab, "far", "far.conf", "")? else {
        return Ok(());
    };
    scene.lab.nft(
        "far",
        "table ip nat { chain post { type nat hook postrouting priority srcnat; oifname \"srv0\" masquerade } }",
    )?;
    scene.start_gateway(&Told {
        cover: "generator = \"constant\"",
        tunnel: "",
    })?;
    tcp_echo(&scene.lab, servers()[0], 1_000_000)?;
    for len in [1, 300, 1_300] {
        udp_echo(&scene.lab, servers()[0], len)?;
    }
    let name = stock_name("far");
    let counted = |lab: &Lab| -> Result<u64> {
        let text = lab.run("far", &format!("ip -s -json link show dev {name}"))?;
        let links: Value = serde_json::from_str(&text)?;
        let packets = links
            .pointer("/0/stats64/rx/packets")
            .and_then(Value::as_u64);
        packets.context("no count")
    };
    ensure!(counted(&scene.lab)? > 100, "nothing was delivered");
    let (before, sent) = (counted(&scene.lab)?, scene.peer()?);
    sleep(Duration::from_secs(8));
    let (after, now) = (counted(&scene.lab)?, scene.peer()?);
    let dummies = now["cover_out"]["packets"].as_u64().unwrap_or(0)
        - sent["cover_out"]["packets"].as_u64().unwrap_or(0);
    println!(
        "stock far end: {dummies} dummies, {} packets at its interface",
        after - before
    );
    ensure!(dummies > 20, "{now}");
    ensure!(
        after - before <= 2,
        "{dummies} dummies, {} delivered",
        after - before
    );
    ensure!(
        now["real_in"] == sent["real_in"],
        "an answer to cover: {now}"
    );
    let handshakes = |p: &Value| p["handshakes_out"].as_u64().unwrap_or(0);
    let more = handshakes(&now) - handshakes(&sent);
    ensure!(more <= 1, "{more} handshakes for {dummies} dummies");
    Ok(())
}

#[test]
fn a_stock_near_end_works_against_our_far_end() -> Result<()> {
    let test = "a_stock_near_end_works_against_our_far_end";
    if skip_without_root(test) {
        return Ok(());
    }
    let mut scene = Scene::new("tunnear")?;
    serve(&scene.lab)?;
    scene.start_sink("")?;
    let Some(_stock) = stock(test, &scene.lab, "gw", "gw.conf", "10.4.0.0/24")? else {
        return Ok(());
    };
    scene.lab.nft(
        "gw",
        "table ip nat { chain post { type nat hook postrouting priority srcnat; oifname \"wg*\" masquerade } }",
    )?;
    tcp_echo(&scene.lab, servers()[0], 1_000_000)?;
    for len in [1, 300, 1_300] {
        udp_echo(&scene.lab, servers()[0], len)?;
    }
    ensure!(scene.lab.in_clear()? == 0);
    let _outer = FAR;
    Ok(())
}

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
        let tunnel = Tunnel::new(&conf.private_key, config, &[peer], [3; 32], now())?;
        Ok(Self {
            tunnel,
            socket,
            bytes: [0; 2],
            arrived: Vec::new(),
        })
    }

    fn run(&mut self, until: Nanos) -> Result<()> {
        let mut buf = [0; 2_048];
        while now() < until {
            self.tunnel.handle_timeout(now());
            while let Some(d) = self.tunnel.poll_datagram() {
                self.bytes[0] += d.as_ref().len() as u64;
                self.socket.send_to(d.as_ref(), d.to)?;
            }
            while let Ok((n, from)) = self.socket.recv_from(&mut buf) {
                let before = self.tunnel.report().peers[0].cover_in.packets;
                let at = now();
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
        client.run(now() + Nanos::from_millis(100))?;
    }
    // On time: 60 dummies, a tenth of a second apart.
    let begin = now();
    let mut asked = Vec::new();
    for second in 0..6 {
        let start = begin + Nanos::from_secs(second);
        let due = |i: u64| start + Nanos::from_millis(300 + 100 * i);
        let block: Vec<_> = (0..10).map(|i| (due(i), 1)).collect();
        client.tunnel.ask_downlink(now(), 0, &block);
        asked.extend(block.iter().map(|d| d.0));
        client.run(start + Nanos::from_secs(1))?;
    }
    client.run(now() + Nanos::from_millis(500))?;
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
    let due = |i: u64| now() + Nanos::from_millis(100 * i);
    let block: Vec<_> = (1..95).map(|i| (due(i), 1)).collect();
    client.tunnel.ask_downlink(now(), 0, &block);
    client.run(now() + Nanos::from_millis(300))?;
    let silent = now();
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
    let begin = now();
    for step in 0..50 {
        let due = |i: u64| now() + Nanos::from_micros(100 * i);
        let block: Vec<_> = (0..1_000).map(|i| (due(i), 1)).collect();
        client.tunnel.ask_downlink(now(), 0, &block);
        client.run(begin + Nanos::from_millis(100 * (step + 1)))?;
    }
    client.run(now() + Nanos::from_secs(1))?;
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

#[test]
fn cover_rides_in_a_foreign_tunnel() -> Result<()> {
    let test = "cover_rides_in_a_foreign_tunnel";
    if skip_without_root(test) {
        return Ok(());
    }
    let scene = Scene::new("tunride")?;
    serve(&scene.lab)?;
    let lab = &scene.lab;
    let Some(_far) = stock(test, lab, "far", "far.conf", "")? else {
        return Ok(());
    };
    let Some(_near) = stock(test, lab, "gw", "gw.conf", "10.4.0.0/24")? else {
        return Ok(());
    };
    for (space, out) in [("far", "srv0"), ("gw", "wg*")] {
        lab.nft(
            space,
            &format!(
                "table ip nat {{ chain post {{ type nat hook postrouting priority srcnat; oifname \"{out}\" masquerade }} }}"
            ),
        )?;
    }
    // The sink's address is inside the tunnel.
    let inside = format!("ip route replace 10.203.7.0/24 dev {}", stock_name("gw"));
    lab.run("gw", &inside)?;
    const SINK: &str = "10.203.7.1:4789";
    let key = lab.path("sink.key");
    fs::write(&key, "0a1b".repeat(16))?;
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let mut sink = lab.command("far", program("sink-server")?);
    sink.args(["--listen", SINK, "--key"]).arg(&key);
    sink.arg("--report").arg(lab.path("sink.json"));
    let mut sink = Running::start("sink-server", sink)?;
    let config = format!(
        "[gateway]\nstate_dir = {:?}\ninstance = {:?}\n\
         [interfaces]\nlan = [\"lan0\"]\nwan = \"wan0\"\nhook = \"tcx\"\n\
         [cover]\nmode = \"rider\"\nsink = {SINK:?}\nkey_file = {key:?}\ngenerator = \"constant\"\nmax_payload = 1300\n\
         [[device]]\nlabel = \"dev\"\nip = [\"10.1.0.2\"]\n",
        lab.path("state"),
        lab.instance(),
    );
    let file = lab.path("gateway.toml");
    fs::write(&file, config)?;
    let capture = lab.path("seen.pcap");
    let mut tcpdump = lab.command("mid", "tcpdump");
    tcpdump.args(["-i", "a0", "-U", "-n", "-s", "128", "-Z", "root", "-w"]);
    tcpdump.arg(&capture).args(["ip", "and", "not", "icmp"]);
    tcpdump.stderr(Stdio::null());
    let mut tcpdump = Running::start("tcpdump", tcpdump)?;
    let mut gateway = lab.command("gw", program("gateway")?);
    gateway.args(["run", "--config"]).arg(&file);
    let mut gateway = Running::start("gateway", gateway)?;
    tcp_echo(lab, servers()[0], 300_000)?;
    udp_echo(lab, servers()[0], 1_000)?;
    sleep(Duration::from_secs(8));
    tcp_echo(lab, servers()[0], 100_000)?;
    gateway.stop(Signal::SIGTERM, Duration::from_secs(20))?;
    sink.stop(Signal::SIGTERM, Duration::from_secs(20))?;
    tcpdump.stop(Signal::SIGINT, Duration::from_secs(5))?;
    let read =
        |name: &str| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(lab.path(name))?)?) };
    let (sink, gateway) = (read("sink.json")?, read("state/report.json")?);
    let up = sink["cover"]["packets"].as_u64().unwrap_or(0);
    let down = gateway["gateway"]["downlink"]["packets"]
        .as_u64()
        .unwrap_or(0);
    println!("in a foreign tunnel: {up} dummies arrived at the sink, {down} at the gateway");
    ensure!(up > 5 && down > 5, "{sink} {gateway}");
    ensure!(
        sink["refused"].as_object().is_none_or(|r| r.is_empty()),
        "{sink}"
    );
    // The observer sees the foreign tunnel's messages and nothing else.
    let mut reader = chaff_trace::Reader::new(fs::File::open(&capture)?)?;
    let (mut buf, mut packets) = (Vec::new(), 0);
    while reader.next(&mut buf)?.is_some() {
        let ip = &buf[14..];
        let ports = [[ip[20], ip[21]], [ip[22], ip[23]]].map(u16::from_be_bytes);
        ensure!(ip[9] == 17 && ports.contains(&PORT), "{ports:?}");
        packets += 1;
    }
    ensure!(packets > u64::from(up > 0), "nothing seen");
    Ok(())
}
