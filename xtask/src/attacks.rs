//! Records what real attack tools do, one capture a tool, in namespaces: data to try detectors on that nobody made up.
//!
//! Everything runs between a home and a network namespace and never leaves the machine; each tool is bounded in packets and
//! time. `cargo run --release -p chaff-novelty --example quality -- DATA --captures FOLDER` scores the captures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::command::{Running, require_root};
use crate::netns::{self, Layout, SINK, Topology};
use crate::packages;

/// What `record-attacks` takes.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Folder for the captures; made.
    #[arg(long, default_value = "out/attacks")]
    out: PathBuf,
    /// Only attacks whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// A tool's command line in the home; `@` stands for the target's address.
struct Attack {
    name: &'static str,
    line: &'static str,
}

const ATTACKS: [Attack; 9] = [
    attack("nmap-connect", "nmap -n -Pn -sT -T4 -p 1-1000 @"),
    attack("nmap-syn", "nmap -n -Pn -sS -T4 -p 1-1000 @"),
    attack("nmap-xmas", "nmap -n -Pn -sX -T4 -p 1-500 @"),
    attack("nmap-version", "nmap -n -Pn -sV -p 80,443,5201 @"),
    attack(
        "nmap-slow",
        "nmap -n -Pn -sS --scan-delay 500ms --max-retries 0 -p 1-60 @",
    ),
    attack(
        "hping-syn-flood",
        "hping3 -q -n -S -p 80 -i u1000 -c 5000 @",
    ),
    attack(
        "hping-udp-flood",
        "hping3 -q -n --udp -p 53 -d 400 -i u1000 -c 5000 @",
    ),
    attack(
        "hping-icmp-flood",
        "hping3 -q -n --icmp -d 200 -i u1000 -c 5000 @",
    ),
    attack("iperf-upload", "iperf3 -c @ -t 8 -b 20M"),
];

const fn attack(name: &'static str, line: &'static str) -> Attack {
    Attack { name, line }
}

/// No attack takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Records one capture an attack, named after it.
///
/// # Errors
/// Without root or packages, or when a tool cannot run or sends nothing.
pub fn run(options: &Options) -> Result<()> {
    require_root("namespaces and raw sockets")?;
    packages::ensure(packages::NETNS)?;
    packages::ensure(packages::ATTACKS)?;
    fs::create_dir_all(&options.out)
        .with_context(|| format!("while making {}", options.out.display()))?;
    let place = Place(Topology::new(&format!("chaff-atk-{}", std::process::id()))?);
    place.0.up(Layout::Route)?;
    let mut servers = Vec::new();
    for line in ["iperf3 -s", "python3 -m http.server 80"] {
        let mut command = netns::command(&place.0.network(), "sh");
        command.args(["-c", &format!("exec {line}")]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        servers.push(Running::start(line, command)?);
    }
    thread::sleep(Duration::from_secs(2));
    for attack in ATTACKS.iter().filter(|a| a.name.contains(&options.only)) {
        let file = options.out.join(format!("{}.pcap", attack.name));
        let took = record(&place.0, attack, &file)?;
        let bytes = fs::metadata(&file)?.len();
        ensure!(bytes > 1_000, "{}: next to nothing was sent", attack.name);
        eprintln!(
            "{}: {bytes} bytes in {:.1} s",
            attack.name,
            took.as_secs_f64()
        );
    }
    for mut server in servers {
        server.stop(Signal::SIGTERM, Duration::from_secs(5))?;
    }
    Ok(())
}

fn record(place: &Topology, attack: &Attack, file: &Path) -> Result<Duration> {
    let mut tcpdump = netns::command(&place.gateway(), "tcpdump");
    tcpdump.args(["-i", "lan0", "-U", "-s", "128", "-Z", "root", "-w"]);
    tcpdump.arg(file).stderr(Stdio::null());
    let mut tcpdump = Running::start("tcpdump", tcpdump)?;
    let end = Instant::now() + Duration::from_secs(10);
    // It has begun when the file has its header.
    while fs::metadata(file).map_or(0, |m| m.len()) < 24 {
        tcpdump.check()?;
        ensure!(Instant::now() < end, "tcpdump does not begin");
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    let mut command = netns::command(&place.home(), "sh");
    command.args(["-c", &format!("exec {}", attack.line.replace('@', SINK))]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tool = Running::start(attack.name, command)?;
    // hping3 ends with 1 when nobody answers: what was sent counts.
    if tool.wait(LIMIT)?.is_none() {
        tool.stop(Signal::SIGTERM, Duration::from_secs(5))?;
    }
    let took = began.elapsed();
    thread::sleep(Duration::from_millis(500));
    tcpdump.stop(Signal::SIGINT, Duration::from_secs(10))?;
    Ok(took)
}

/// Namespaces that go away.
struct Place(Topology);

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            eprintln!("left behind: {error:#}");
        }
    }
}
