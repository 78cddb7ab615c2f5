//! The live gateway reports a device that begins to scan, to beacon or to upload within 30 s, and no other; what it learnt
//! survives a restart, and the owner's word counts. A day of normal traffic raises next to nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chaff_tests::stage::Stage;
use chaff_tests::{program, shared, skip_without_root};
use serde_json::Value;

/// Devices, by the last byte of their address; device `n` talks to servers in 10.77.n.0/24 only.
const DEVICES: [(&str, u8); 4] = [("camera", 11), ("plug", 12), ("sensor", 13), ("lamp", 14)];
/// Of `dev0` and `srv0`, as `xtask netns` gives them.
const HOME_MAC: &str = "02:c4:af:f0:00:01";
const SERVER_MAC: &str = "02:c4:af:f0:00:05";
const LEARN: Duration = Duration::from_secs(20);
const WITHIN: Duration = Duration::from_secs(30);
/// Time the gateway has to write down what it told, on a machine that does other things too.
const SLACK: Duration = Duration::from_secs(15);

fn server(device: u8, host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, device, host)), port)
}

/// Gives the home four devices and the network their servers; each server has 254 addresses.
fn addresses(stage: &Stage) -> Result<()> {
    let ip = |inside: Command, words: &str| -> Result<()> {
        let mut inside = inside;
        let out = inside.args(words.split_whitespace()).output()?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "ip {words}: {said}");
        Ok(())
    };
    for (_, n) in DEVICES {
        let home = |words: &str| ip(stage.home.in_home("ip"), words);
        let network = |words: &str| ip(stage.home.in_network("ip"), words);
        home(&format!("addr add 10.77.0.{n}/24 dev dev0"))?;
        home(&format!(
            "route add 10.77.{n}.0/24 via 10.77.0.254 src 10.77.0.{n}"
        ))?;
        network(&format!("route add local 10.77.{n}.0/24 dev lo"))?;
        // Nobody answers ARP in these namespaces.
        network(&format!("neigh add 10.77.0.{n} lladdr {HOME_MAC} dev srv0"))?;
    }
    let router = format!("neigh add 10.77.0.254 lladdr {SERVER_MAC} dev dev0");
    ip(stage.home.in_home("ip"), &router)?;
    ip(
        stage.home.in_network("ip"),
        "route add 10.77.0.0/24 dev srv0 src 10.77.11.1",
    )
}

/// Answers what it is asked, on every address; reads uploads and throws them away.
fn serve(listener: &TcpListener, stop: &AtomicBool) {
    while let Ok((mut stream, _)) = listener.accept() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            let _timeout = stream.set_read_timeout(Some(Duration::from_secs(60)));
            while let Ok(n) = stream.read(&mut buffer) {
                if n == 0 || stream.write_all(&[7; 120]).is_err() {
                    return;
                }
            }
        });
    }
}

/// One short exchange; whether it worked.
fn ask(to: SocketAddr, bytes: usize) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(2)) else {
        return false;
    };
    let _timeout = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut answer = [0; 120];
    stream.write_all(&vec![1; bytes]).is_ok() && stream.read_exact(&mut answer).is_ok()
}

/// What the devices do all the time: a few hundred bytes to their server, at times that no clock gives.
fn habits(stop: &AtomicBool) {
    let mut x = 88_172_645_463_325_252u64;
    while !stop.load(Ordering::Relaxed) {
        for (_, n) in DEVICES {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            ask(server(n, 1, 443), 200 + (x % 400) as usize);
            thread::sleep(Duration::from_millis(100 + x % 400));
        }
    }
}

fn alerts(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The last line may be on its way.
    let whole = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
    whole
        .map(|l| serde_json::from_str(l).with_context(|| format!("not JSON: {l}")))
        .collect()
}

/// Waits for an alert of a device and a kind; gives it and the seconds since `began`.
fn wait_for(path: &Path, device: &str, kind: &str, began: Instant) -> Result<(Value, f64)> {
    let end = began + WITHIN + SLACK;
    loop {
        let found = alerts(path)?
            .into_iter()
            .find(|a| a["device"] == device && a["kind"] == kind);
        if let Some(alert) = found {
            return Ok((alert, began.elapsed().as_secs_f64()));
        }
        ensure!(
            Instant::now() < end,
            "no {kind} alert of {device}: {:#?}",
            alerts(path)?
        );
        thread::sleep(Duration::from_millis(100));
    }
}

/// A scan by nmap where it is installed, else by connecting to one port after the other.
fn scan(stage: &Stage) -> Result<&'static str> {
    if xtask::command::installed("nmap") {
        let mut nmap = stage.home.in_home("nmap");
        nmap.args(["-n", "-Pn", "-sT", "-T4", "-p", "1-400", "10.77.11.1"]);
        let status = nmap.stdout(Stdio::null()).status()?;
        ensure!(status.success(), "nmap: {status}");
        return Ok("nmap");
    }
    let home = stage.home.topology().home();
    xtask::netns::inside(&home, || {
        for port in 1..400 {
            let _refused =
                TcpStream::connect_timeout(&server(11, 1, port), Duration::from_millis(200));
            thread::sleep(Duration::from_millis(5));
        }
    })?;
    Ok("own scan")
}

fn beacon(stop: &AtomicBool) {
    let mut next = Instant::now();
    for _ in 0..20 {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        ask(server(12, 66, 4_444), 90);
        next += Duration::from_secs(3);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// 24 MB in 12 s.
fn upload() {
    let Ok(mut stream) = TcpStream::connect(server(13, 99, 443)) else {
        return;
    };
    let Ok(mut back) = stream.try_clone() else {
        return;
    };
    thread::spawn(move || {
        let mut buffer = [0; 4_096];
        while back.read(&mut buffer).is_ok_and(|n| n > 0) {}
    });
    let mut next = Instant::now();
    for _ in 0..120 {
        if stream.write_all(&vec![3; 200_000]).is_err() {
            return;
        }
        next += Duration::from_millis(100);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Traffic inside the namespaces that ends with this.
struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Traffic {
    fn run(&mut self, space: String, work: impl FnOnce(&AtomicBool) + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(thread::spawn(move || {
            if let Err(e) = xtask::netns::inside(&space, || work(&stop)) {
                eprintln!("{space}: {e:#}");
            }
        }));
    }

    fn end(self, home: &str) {
        self.stop.store(true, Ordering::Relaxed);
        // A listener notices with the next connection.
        let _woken = xtask::netns::inside(home, || {
            ask(server(14, 1, 443), 1);
            ask(server(14, 1, 4_444), 1);
        });
        for t in self.threads {
            let _ended = t.join();
        }
    }
}

#[test]
fn attacks_are_reported_within_30_s_and_nothing_else() -> Result<()> {
    if skip_without_root("attacks_are_reported_within_30_s_and_nothing_else") {
        return Ok(());
    }
    let mut stage = Stage::new("alerts")?;
    addresses(&stage)?;
    let list = stage.path("list.csv");
    let lines: String = DEVICES
        .iter()
        .map(|(label, n)| format!("{label},10.77.0.{n}\n"))
        .collect();
    fs::write(&list, format!("device,ip\n{lines}"))?;
    let config = format!("[alerts]\nlearn = \"{}s\"", LEARN.as_secs());
    stage.start_gateway(&list, "generator = \"none\"", &config)?;
    let file = stage.state("alerts.jsonl");
    let (home, network) = (
        stage.home.topology().home(),
        stage.home.topology().network(),
    );
    let mut traffic = Traffic {
        stop: Arc::default(),
        threads: Vec::new(),
    };
    for port in [443, 4_444] {
        let listener = xtask::netns::inside(&network, || TcpListener::bind(("0.0.0.0", port)))??;
        traffic.run(network.clone(), move |stop| serve(&listener, stop));
    }
    traffic.run(home.clone(), habits);
    let learnt = Instant::now() + LEARN + SLACK + Duration::from_secs(10);
    while stage.status()?["learnt_devices"] != 4 {
        ensure!(
            Instant::now() < learnt,
            "learning takes too long: {}",
            stage.status()?
        );
        thread::sleep(Duration::from_millis(200));
    }
    ensure!(alerts(&file)?.is_empty(), "{:#?}", alerts(&file)?);

    let mut seconds = BTreeMap::new();
    let began = Instant::now();
    traffic.run(home.clone(), beacon);
    let (called, s) = wait_for(&file, "plug", "beacon", began)?;
    seconds.insert("beacon", s);
    ensure!(
        called["address"] == "10.77.12.66" && called["port"] == 4_444,
        "{called}"
    );
    let began = Instant::now();
    let uploaded = began + Duration::from_secs(15);
    traffic.run(home.clone(), |_| upload());
    let (sent, s) = wait_for(&file, "sensor", "rate", began)?;
    seconds.insert("upload", s);
    ensure!(
        sent["way"] == "sent" && sent["address"] == "10.77.13.99",
        "{sent}"
    );
    let began = Instant::now();
    let by = scan(&stage)?;
    let (tried, s) = wait_for(&file, "camera", "many_destinations", began)?;
    seconds.insert("scan", s);
    ensure!(tried["ports"].as_u64() >= Some(8), "{tried}");
    eprintln!("reported after {seconds:.1?} s; the scan is {by}");
    for (what, s) in &seconds {
        ensure!(*s <= WITHIN.as_secs_f64(), "{what} took {s:.1} s");
    }
    for a in [&called, &sent, &tried] {
        let summary = a["summary"].as_str().context("no summary")?;
        eprintln!("{} {}: {summary}", a["severity"], a["kind"]);
        ensure!(
            summary.starts_with(a["device"].as_str().unwrap_or("-")),
            "{a}"
        );
        ensure!(
            !a["evidence"].as_array().context("no evidence")?.is_empty(),
            "{a}"
        );
    }
    let innocent = alerts(&file)?.into_iter().find(|a| a["device"] == "lamp");
    ensure!(innocent.is_none(), "{innocent:#?}");

    // The owner's word once the whole upload was seen, and a restart that forgets nothing.
    thread::sleep(uploaded.saturating_duration_since(Instant::now()));
    let id = sent["id"].to_string();
    let answer = stage.ask(&["feedback", &id, "--normal", "--json"])?;
    ensure!(answer["summary"] == sent["summary"], "{answer}");
    ensure!(
        stage
            .ask(&["feedback", "999", "--normal", "--json"])
            .is_err()
    );
    traffic.end(&home);
    stage.stop_gateway()?;
    let before = alerts(&file)?.len();
    stage.start_gateway(&list, "generator = \"none\"", &config)?;
    let mut traffic = Traffic {
        stop: Arc::default(),
        threads: Vec::new(),
    };
    let listener = xtask::netns::inside(&network, || TcpListener::bind(("0.0.0.0", 443)))??;
    traffic.run(network, move |stop| serve(&listener, stop));
    ensure!(
        stage.status()?["learnt_devices"] == 4,
        "{}",
        stage.status()?
    );
    // What was called normal stays so: the same upload again.
    xtask::netns::inside(&home, upload)?;
    thread::sleep(Duration::from_secs(2));
    let again: Vec<Value> = alerts(&file)?.split_off(before);
    ensure!(again.iter().all(|a| a["device"] != "sensor"), "{again:#?}");
    traffic.end(&home);
    stage.stop_gateway()?;

    // A damaged file is put aside, said, and learnt anew.
    fs::write(stage.state("history.json"), "{\"version\":2,")?;
    stage.start_gateway(&list, "generator = \"none\"", &config)?;
    ensure!(stage.status()?["learnt_devices"] == 0);
    ensure!(stage.state("history.json.bad").exists());
    stage.stop_gateway()?;
    Ok(())
}

/// A day of six real devices in virtual time, the first hour of it to learn.
#[test]
fn a_normal_day_raises_at_most_one_alert_a_device() -> Result<()> {
    const NAME: &str = "a_normal_day_raises_at_most_one_alert_a_device";
    let Some(data) = shared(NAME, "data/iot") else {
        return Ok(());
    };
    let names = [
        "blink-cam-01",
        "blink-cam-02",
        "blink-cam-03",
        "lockly-hub-01",
        "schlage-lock-01",
        "ultraloq-hub-01",
    ];
    for day in ["day1.pcap", "day2.pcap"] {
        let out = tempfile::tempdir()?;
        let mut simulate = Command::new(program("gateway")?);
        simulate.arg("simulate").arg("--pcap");
        simulate.args(names.map(|n| data.join(n).join(day)));
        simulate.arg("--devices").arg(data.join("devices.csv"));
        simulate.args(["--cover", "none", "--learn", "3600", "--epsilon-total", "0"]);
        simulate.args(["--out"]).arg(out.path());
        let done = simulate.output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "simulate: {said}");
        let found = alerts(&out.path().join("alerts.jsonl"))?;
        let mut of: BTreeMap<String, usize> = BTreeMap::new();
        for a in &found {
            *of.entry(a["device"].to_string()).or_default() += 1;
            eprintln!("{day}: {} {}", a["severity"], a["summary"]);
        }
        eprintln!("{day}: {} alerts of {} devices", found.len(), names.len());
        ensure!(of.values().all(|n| *n <= 1), "{day}: {of:?}");
    }
    Ok(())
}
