//! The tunnel's engines beside wireguard-go on the same path, and what cover costs.
//!
//! Each round brings every contender up anew, both ends the same program, in turn: device, near end, network, far end,
//! server (see [`crate::tunnel_lab`]). CPU is that of both ends' processes; the kernel's share outside them is the same for
//! all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::command::{Running, installed};
use crate::tunnel_lab::{Lab, SERVER, Stock};
use crate::{packages, root};

/// Bulk transfer, seconds.
const BULK: u32 = 3;
/// Clock ticks of `/proc` a second: fixed in the kernel's interface.
const TICKS: f64 = 100.0;

/// A way to carry packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    WireguardGo,
    /// Engine, bins, ms between ticks of the clock.
    Ours(&'static str, &'static str, u32),
}

const CONTENDERS: [(&str, Contender); 5] = [
    ("wireguard-go", Contender::WireguardGo),
    ("portable", Contender::Ours("portable", "default", 0)),
    ("fast", Contender::Ours("fast", "default", 0)),
    ("fast without bins", Contender::Ours("fast", "off", 0)),
    ("fast with clock", Contender::Ours("fast", "default", 5)),
];

/// Numbers of one contender in one round.
#[derive(Default)]
struct Numbers {
    tcp_mbit_s: f64,
    cpu_ms_per_mbit: f64,
    udp_mbit_s: f64,
    rtt_us: [f64; 2],
}

/// Runs all of it; the result has ratios at the places that the bars name.
///
/// # Errors
/// A program is missing or a step fails.
pub(super) fn measure(rounds: u32, only: Option<&str>) -> Result<Value> {
    packages::ensure(packages::TUNNEL)?;
    packages::ensure(packages::TUNNEL_BENCH)?;
    let yardstick = installed("wireguard-go") && installed("wg");
    if !yardstick {
        eprintln!("no wireguard-go here (packages wireguard-go, wireguard-tools): no ratios to it");
    }
    let mut all: BTreeMap<&str, Vec<Numbers>> = BTreeMap::new();
    for round in 0..rounds {
        for (name, contender) in CONTENDERS {
            let wanted = only.is_none_or(|o| name.contains(o));
            if !wanted || contender == Contender::WireguardGo && !yardstick {
                continue;
            }
            let numbers = contest(contender).with_context(|| format!("{name}, round {round}"))?;
            eprintln!(
                "round {round}: {name}: TCP {:.0} Mbit/s, {:.3} ms CPU per Mbit, UDP {:.0} Mbit/s, RTT p50 {:.0} us p99 {:.0} us",
                numbers.tcp_mbit_s,
                numbers.cpu_ms_per_mbit,
                numbers.udp_mbit_s,
                numbers.rtt_us[0],
                numbers.rtt_us[1]
            );
            all.entry(name).or_default().push(numbers);
        }
    }
    let of = |name: &str, get: &dyn Fn(&Numbers) -> f64| {
        median(all.get(name).into_iter().flatten().map(get).collect())
    };
    let mut out = json!({});
    for (name, _) in CONTENDERS {
        out[name] = json!({
            "tcp_mbit_s": of(name, &|n| n.tcp_mbit_s),
            "cpu_ms_per_mbit": of(name, &|n| n.cpu_ms_per_mbit),
            "udp_mbit_s": of(name, &|n| n.udp_mbit_s),
            "rtt_p50_us": of(name, &|n| n.rtt_us[0]),
            "rtt_p99_us": of(name, &|n| n.rtt_us[1]),
        });
    }
    let ratio = |a: &str, b: &str, get: &dyn Fn(&Numbers) -> f64| match (of(a, get), of(b, get)) {
        (Some(a), Some(b)) if b > 0.0 => Some(a / b),
        _ => None,
    };
    let go = "wireguard-go";
    for name in ["portable", "fast", "fast with clock"] {
        out["ratio"][name] = json!({
            "tcp": ratio(name, go, &|n| n.tcp_mbit_s),
            "cpu": ratio(name, go, &|n| n.cpu_ms_per_mbit),
            "udp": ratio(name, go, &|n| n.udp_mbit_s),
            "rtt": ratio(name, go, &|n| n.rtt_us[0]),
        });
    }
    let bins = ratio("fast", "fast without bins", &|n| n.cpu_ms_per_mbit);
    out["ratio"]["bins_cpu"] = json!(bins);
    Ok(out)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn program(name: &str) -> Result<PathBuf> {
    let path = root().join("target/release").join(name);
    ensure!(
        path.is_file(),
        "no {}: cargo build --release",
        path.display()
    );
    Ok(path)
}

fn contest(contender: Contender) -> Result<Numbers> {
    let lab = Lab::new("btun")?;
    lab.keys(&program("sink-server")?)?;
    lab.nft(
        "gw",
        "table ip near { chain post { type nat hook postrouting priority srcnat; oifname != \"lan0\" masquerade } }",
    )?;
    let mut ends = Vec::new();
    let mut device = "chaff0".to_owned();
    for (space, conf) in [("far", "far.conf"), ("gw", "gw.conf")] {
        ends.push(match contender {
            Contender::WireguardGo => {
                let stock = stock(&lab, space, conf)?;
                device = stock.name;
                stock.running
            }
            Contender::Ours(engine, bins, clock) => ours(&lab, space, conf, engine, bins, clock)?,
        });
    }
    lab.run("gw", &format!("ip route replace 10.4.0.0/24 dev {device}"))?;
    let mut server = lab.command("srv", "iperf3");
    server.args(["-s", "-B", SERVER[0]]);
    server.stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Running::start("iperf3", server)?;
    answers(&lab)?;
    let ids: Vec<u32> = ends.iter().map(Running::id).collect();
    let before = cpu_ms(&ids)?;
    let tcp = iperf(&lab, &format!("-t {BULK}"))?;
    let spent = cpu_ms(&ids)? - before;
    let bits = number(&tcp, "/end/sum_received/bytes")? * 8.0;
    let udp = iperf(&lab, "-u -b 500M -l 1300 -t 2")?;
    let lost = number(&udp, "/end/sum/lost_percent")?;
    let sent = number(&udp, "/end/sum/bits_per_second")?;
    Ok(Numbers {
        tcp_mbit_s: number(&tcp, "/end/sum_received/bits_per_second")? / 1e6,
        cpu_ms_per_mbit: spent / (bits / 1e6),
        udp_mbit_s: sent / 1e6 * (1.0 - lost / 100.0),
        rtt_us: rtt(&lab)?,
    })
}

fn number(value: &Value, at: &str) -> Result<f64> {
    let found = value.pointer(at).and_then(Value::as_f64);
    found.with_context(|| format!("iperf3 says nothing at {at}"))
}

fn iperf(lab: &Lab, how: &str) -> Result<Value> {
    let line = format!("iperf3 -c {} -J {how}", SERVER[0]);
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let out = lab.attempt("dev", Duration::from_secs(30), &line)?;
        // With -J some versions end with 0 and say the error inside.
        let said: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        if out.status.success() && said.get("error").is_none() && said.get("end").is_some() {
            return Ok(said);
        }
        // The server is still busy with the last one, or not there yet.
        ensure!(
            Instant::now() < end,
            "{}",
            String::from_utf8_lossy(&out.stdout)
        );
        sleep(Duration::from_millis(200));
    }
}

/// Waits until the tunnel carries packets.
fn answers(lab: &Lab) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    let line = format!("ping -c 1 -W 1 {}", SERVER[0]);
    while !lab
        .attempt("dev", Duration::from_secs(2), &line)?
        .status
        .success()
    {
        ensure!(Instant::now() < end, "no answer through the tunnel");
    }
    Ok(())
}

/// Round-trip times, µs: median and 99th percentile of 500.
fn rtt(lab: &Lab) -> Result<[f64; 2]> {
    let line = format!("ping -n -i 0.004 -c 500 -W 1 {}", SERVER[0]);
    let out = lab.attempt("dev", Duration::from_secs(20), &line)?;
    let text = String::from_utf8_lossy(&out.stdout);
    let mut times: Vec<f64> = text
        .lines()
        .filter_map(|l| l.split_once("time=")?.1.split(' ').next()?.parse().ok())
        .collect();
    ensure!(times.len() > 300, "{} answers of 500", times.len());
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize] * 1e3;
    Ok([at(0.5), at(0.99)])
}

/// CPU time of processes so far, user and system, ms.
fn cpu_ms(ids: &[u32]) -> Result<f64> {
    let mut ticks = 0.0;
    for id in ids {
        let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
        let after = text.rsplit_once(')').context("no name in stat")?.1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        for field in [11, 12] {
            ticks += fields.get(field).context("a short stat")?.parse::<f64>()?;
        }
    }
    Ok(ticks * 1e3 / TICKS)
}

fn ours(
    lab: &Lab,
    space: &str,
    conf: &str,
    engine: &str,
    bins: &str,
    clock: u32,
) -> Result<Running> {
    let toml = lab.path(&format!("{space}.toml"));
    // At the near end connections begin on the other side of it.
    let masquerade = space == "far";
    fs::write(
        &toml,
        format!(
            "[tunnel]\nengine = {engine:?}\nbins = {bins:?}\nclock_ms = {clock}\nmasquerade = {masquerade}\n"
        ),
    )?;
    let mut sink = lab.command(space, program("sink-server")?);
    sink.arg("--tunnel").arg(lab.path(conf));
    sink.arg("--config").arg(toml).stderr(Stdio::null());
    let running = Running::start("sink-server", sink)?;
    up(lab, space, "chaff0")?;
    Ok(running)
}

fn up(lab: &Lab, space: &str, device: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    let line = format!("ip address show dev {device} up");
    while !lab.run(space, &line).is_ok_and(|out| out.contains("inet ")) {
        ensure!(Instant::now() < end, "{space} has no {device}");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn stock(lab: &Lab, space: &str, conf: &str) -> Result<Stock> {
    let stock = lab.stock(space, conf)?;
    up(lab, space, &stock.name)?;
    Ok(stock)
}

/// Names of the amounts of cover, what the gateway is told, ms between ticks of the clock.
const COVERS: [(&str, &str, u32); 6] = [
    ("none, no clock", "generator = \"none\"", 0),
    ("none", "generator = \"none\"", 5),
    ("normal, no clock", "profile = \"normal\"", 0),
    ("low", "profile = \"low\"", 5),
    ("normal", "profile = \"normal\"", 5),
    ("high", "profile = \"high\"", 5),
];

/// What [`with_cover`] measures, and its heading.
const COLUMNS: [(&str, &str); 6] = [
    ("tcp_mbit_s", "TCP, Mbit/s"),
    ("cpu_ms_per_mbit", "CPU ms per Mbit"),
    ("idle_wakeups_per_s", "wake-ups per second when idle"),
    ("idle_cpu_ms_per_s", "CPU ms per second when idle"),
    ("rtt_p50_us", "round trip p50, us"),
    ("rtt_p99_us", "p99, us"),
];

/// What cover costs a gateway: delay, CPU and wake-ups, by how much of it there is; medians of rounds that take turns.
///
/// # Errors
/// A program is missing or a step fails.
pub(super) fn measure_cover(rounds: u32) -> Result<Value> {
    packages::ensure(packages::TUNNEL)?;
    packages::ensure(packages::TUNNEL_BENCH)?;
    let mut all: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for round in 0..rounds {
        for (name, settings, clock) in COVERS {
            let numbers = with_cover(settings, clock)
                .with_context(|| format!("cover {name}, round {round}"))?;
            eprintln!("round {round}: cover {name}: {numbers}");
            all.entry(name).or_default().push(numbers);
        }
    }
    let mut out = json!({});
    for (name, values) in all {
        for (column, _) in COLUMNS {
            let of = values.iter().filter_map(|v| v[column].as_f64()).collect();
            out[name][column] = json!(median(of));
        }
    }
    Ok(out)
}

/// The medians as a table.
pub(super) fn cover_table(result: &Value) -> String {
    let mut text = String::from("| cover |");
    COLUMNS.iter().for_each(|c| text += &format!(" {} |", c.1));
    text += "\n| --- |";
    text += &" --- |".repeat(COLUMNS.len());
    text.push('\n');
    for (name, ..) in COVERS {
        text += &format!("| {name} |");
        for (column, _) in COLUMNS {
            let number = result[name][column].as_f64().unwrap_or(f64::NAN);
            text += &if number < 10.0 {
                format!(" {number:.2} |")
            } else {
                format!(" {number:.0} |")
            };
        }
        text.push('\n');
    }
    text
}

fn with_cover(settings: &str, clock: u32) -> Result<Value> {
    let lab = Lab::new("bcov")?;
    lab.keys(&program("sink-server")?)?;
    let mut sink = ours(&lab, "far", "far.conf", "fast", "default", clock)?;
    let config = format!(
        "[gateway]\nstate_dir = {:?}\ninstance = {:?}\nuser = \"\"\n\
         [interfaces]\nlan = [\"lan0\"]\nwan = \"wan0\"\nhook = \"tcx\"\n\
         [cover]\nmode = \"tunnel\"\n{settings}\n[tunnel]\nconfig = {:?}\nengine = \"fast\"\nclock = \"{clock}ms\"\n\
         [[device]]\nlabel = \"dev\"\nip = [\"10.1.0.2\"]\n",
        lab.path("state"),
        lab.instance(),
        lab.path("gw.conf"),
    );
    let file = lab.path("gateway.toml");
    fs::write(&file, config)?;
    let mut gateway = lab.command("gw", program("gateway")?);
    gateway.args(["run", "--config"]).arg(&file);
    gateway.stderr(Stdio::null());
    let mut gateway = Running::start("gateway", gateway)?;
    up(&lab, "gw", "chaff0")?;
    answers(&lab)?;
    // What every start does is no cost of cover.
    sleep(Duration::from_secs(3));
    let child = fs::read_to_string(format!("/proc/{0}/task/{0}/children", gateway.id()))?;
    let child: u32 = child
        .split_whitespace()
        .next()
        .context("no child")?
        .parse()?;
    const IDLE: u64 = 8;
    let (cpu, woken) = (cpu_ms(&[child])?, wakeups(child)?);
    sleep(Duration::from_secs(IDLE));
    let (cpu, woken) = (cpu_ms(&[child])? - cpu, wakeups(child)? - woken);
    let rtt_us = rtt(&lab)?;
    let mut server = lab.command("srv", "iperf3");
    server.args(["-s", "-B", SERVER[0]]);
    server.stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Running::start("iperf3", server)?;
    let ids = [child, sink.id()];
    let before = cpu_ms(&ids)?;
    let tcp = iperf(&lab, &format!("-t {BULK}"))?;
    let spent = cpu_ms(&ids)? - before;
    let bits = number(&tcp, "/end/sum_received/bytes")? * 8.0;
    let mut status = std::process::Command::new(program("gateway")?);
    status.args(["status", "--json", "--socket"]);
    status.arg(lab.path("state").join("control.sock"));
    let status: Value = serde_json::from_slice(&status.output()?.stdout).unwrap_or_default();
    let peer = &status["tunnel"]["tunnel"]["peers"][0];
    gateway.stop(Signal::SIGTERM, Duration::from_secs(20))?;
    sink.stop(Signal::SIGTERM, Duration::from_secs(20))?;
    Ok(json!({
        "rtt_p50_us": rtt_us[0],
        "rtt_p99_us": rtt_us[1],
        "tcp_mbit_s": number(&tcp, "/end/sum_received/bits_per_second")? / 1e6,
        "cpu_ms_per_mbit": spent / (bits / 1e6),
        "idle_cpu_ms_per_s": cpu / IDLE as f64,
        "idle_wakeups_per_s": woken as f64 / IDLE as f64,
        "cover_out": peer["cover_out"],
        "cover_in": peer["cover_in"],
    }))
}

/// Times that the threads of a process slept and were woken.
fn wakeups(id: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(Path::new("/proc").join(id.to_string()).join("task"))? {
        let text = fs::read_to_string(task?.path().join("status"))?;
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.context("no count")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}
