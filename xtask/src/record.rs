//! Records the demo's capture: four devices of a small home, each a real program in its own namespace, seen at the router.
//!
//! A sensor publishes by MQTT every 2 s, a camera uploads pictures of 20 to 60 kB about every 7 s, a thermostat polls a
//! web service by IPv4 and IPv6, a clock asks for the time. Router (dnsmasq) and servers (mosquitto, ntpd, Python's
//! http.server) are namespaces too; nothing leaves the machine. Addresses are private or reserved for documentation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::signal::Signal;

use crate::command::{Running, output, require_root, words};
use crate::{netns, packages};

/// What `record-demo` takes.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Length of the recording in seconds.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(10..=600))]
    duration: u64,
    /// Folder for demo.pcap and devices.csv; default: tests/fixtures.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seed of pauses and picture sizes (the programs' own timing still differs from run to run).
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What a device does until the given instant, with its seed.
type Behaviour = fn(&Home, u64, Instant) -> Result<()>;

struct Device {
    name: &'static str,
    mac: &'static str,
    host: u8,
    label: &'static str,
}

const DEVICES: [Device; 4] = [
    Device {
        name: "sensor",
        mac: "02:00:5e:10:00:01",
        host: 10,
        label: "sensor",
    },
    Device {
        name: "camera",
        mac: "02:00:5e:10:00:02",
        host: 11,
        label: "camera",
    },
    Device {
        name: "thermostat",
        mac: "02:00:5e:10:00:03",
        host: 12,
        label: "thermostat",
    },
    Device {
        name: "clock",
        mac: "02:00:5e:10:00:04",
        host: 13,
        label: "clock",
    },
];
const ROUTER: &str = "router";
const CLOUD: &str = "cloud";
const ROUTER_MAC: &str = "02:00:5e:10:00:fe";
const OFFLOADS: &str = "gro off gso off tso off tx off";
const WEB_SERVER: &str = r##"
import http.server, socket, urllib.parse
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        self.answer(b"#" * int(query.get("size", ["64"])[0]))
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"stored\n")
    def log_message(self, *arguments):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
Server(("::", 80), Handler).serve_forever()
"##;

/// Records the capture and writes `demo.pcap` and `devices.csv`.
///
/// # Errors
/// Without root, when a package is missing and cannot be installed, when a program fails, or when a device is not in the result.
pub fn run(options: &Options) -> Result<()> {
    require_root("recording in namespaces")?;
    packages::ensure(packages::NETNS)?;
    packages::ensure(packages::RECORD)?;
    let out = options
        .out
        .clone()
        .unwrap_or_else(|| crate::root().join("tests/fixtures"));
    fs::create_dir_all(&out).with_context(|| format!("while making {}", out.display()))?;
    let scratch = std::env::temp_dir().join(format!("chaff-record-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let home = Home {
        id: std::process::id(),
        scratch,
    };
    home.build().context("while making the namespaces")?;
    let pcap = out.join("demo.pcap");
    home.record(options, &pcap)?;
    check(&pcap)?;
    let mut table = String::from("device,mac,ip,label\n");
    for device in &DEVICES {
        let Device {
            name,
            mac,
            host,
            label,
        } = device;
        table.push_str(&format!("{name},{mac},192.168.77.{host},{label}\n"));
    }
    fs::write(out.join("devices.csv"), table)?;
    eprintln!(
        "recorded {} ({} bytes)",
        pcap.display(),
        fs::metadata(&pcap)?.len()
    );
    Ok(())
}

/// The namespaces and scratch files of one recording; removed on drop.
struct Home {
    id: u32,
    scratch: PathBuf,
}

impl Drop for Home {
    fn drop(&mut self) {
        for name in self.spaces() {
            // Cleaning up is best effort: a half-made home has fewer of them.
            let _ = sh(&format!("ip netns delete {name}"));
            let _ = fs::remove_dir_all(Path::new("/etc/netns").join(name));
        }
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

impl Home {
    fn space(&self, name: &str) -> String {
        format!("chaff-record-{}-{name}", self.id)
    }

    fn spaces(&self) -> Vec<String> {
        let names = DEVICES.iter().map(|d| d.name).chain([ROUTER, CLOUD]);
        names.map(|name| self.space(name)).collect()
    }

    fn build(&self) -> Result<()> {
        for name in self.spaces() {
            sh(&format!("ip netns add {name}"))?;
            sh(&format!("ip -n {name} link set lo up"))?;
        }
        let (router, cloud) = (self.space(ROUTER), self.space(CLOUD));
        sh(&format!(
            "ip -n {router} link add br-lan address {ROUTER_MAC} type bridge forward_delay 0"
        ))?;
        sh(&format!(
            "ip -n {router} link add wan0 type veth peer name srv0 netns {cloud}"
        ))?;
        for device in &DEVICES {
            let Device {
                name, mac, host, ..
            } = device;
            let space = self.space(name);
            sh(&format!(
                "ip -n {space} link add eth0 address {mac} type veth peer name {name} netns {router}"
            ))?;
            sh(&format!("ip -n {router} link set {name} master br-lan up"))?;
            self.offload(&space, "eth0")?;
            self.offload(&router, name)?;
            self.address(
                &space,
                "eth0",
                &[
                    &format!("192.168.77.{host}/24"),
                    &format!("2001:db8:77::{host}/64"),
                ],
            )?;
            self.default_route(&space, "192.168.77.1", "2001:db8:77::1")?;
            let etc = Path::new("/etc/netns").join(&space);
            fs::create_dir_all(&etc)?;
            fs::write(etc.join("resolv.conf"), "nameserver 192.168.77.1\n")?;
        }
        for (space, interface) in [(&router, "br-lan"), (&router, "wan0"), (&cloud, "srv0")] {
            self.offload(space, interface)?;
        }
        self.address(&router, "br-lan", &["192.168.77.1/24", "2001:db8:77::1/64"])?;
        self.address(&router, "wan0", &["198.51.100.1/24", "2001:db8:51::1/64"])?;
        let servers = [
            "198.51.100.10/24",
            "198.51.100.20/24",
            "198.51.100.30/24",
            "2001:db8:51::20/64",
        ];
        self.address(&cloud, "srv0", &servers)?;
        self.default_route(&cloud, "198.51.100.1", "2001:db8:51::1")?;
        netns::inside(&router, || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })?
        .context("while switching on forwarding")
    }

    /// Turns off what would make captured packets larger than those on a wire.
    fn offload(&self, space: &str, interface: &str) -> Result<()> {
        let mut command = netns::command(space, "ethtool");
        command.args(["-K", interface]).args(OFFLOADS.split(' '));
        output(command).map(drop)
    }

    fn address(&self, space: &str, interface: &str, addresses: &[&str]) -> Result<()> {
        sh(&format!("ip -n {space} link set {interface} up"))?;
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            sh(&format!(
                "ip -n {space} address add {address} dev {interface}{nodad}"
            ))?;
        }
        Ok(())
    }

    fn default_route(&self, space: &str, v4: &str, v6: &str) -> Result<()> {
        sh(&format!("ip -n {space} route add default via {v4}"))?;
        sh(&format!("ip -n {space} -6 route add default via {v6}"))
    }

    /// Returns the command `line` inside namespace `name`, with that namespace's resolv.conf.
    fn inside(&self, name: &str, line: &str) -> Command {
        words(&format!("ip netns exec {} {line}", self.space(name)))
    }

    fn start(&self, name: &str, line: &str) -> Result<Running> {
        let mut command = self.inside(name, line);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Running::start(line.split(' ').next().unwrap_or(line), command)
    }

    fn servers(&self) -> Result<Vec<Running>> {
        let broker = self.scratch.join("mosquitto.conf");
        fs::write(
            &broker,
            "listener 1883 198.51.100.10\nallow_anonymous true\nuser root\nlog_type error\n",
        )?;
        let time = self.scratch.join("ntp.conf");
        // An orphan trusts its own clock, and `disable ntp` leaves that clock alone: this server only answers.
        fs::write(
            &time,
            "disable ntp\ntos orphan 5 orphanwait 1\nrestrict default noquery\n",
        )?;
        let web = self.scratch.join("web.py");
        fs::write(&web, WEB_SERVER)?;
        Ok(vec![
            self.start(
                ROUTER,
                "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --user=root \
                 --bind-interfaces --interface=br-lan --except-interface=lo --log-facility=/dev/null \
                 --host-record=broker.example,198.51.100.10 --host-record=time.example,198.51.100.30 \
                 --host-record=web.example,198.51.100.20,2001:db8:51::20 --local=/example/",
            )?,
            self.start(CLOUD, &format!("mosquitto -c {}", broker.display()))?,
            self.start(CLOUD, &format!("ntpd --nofork --configfile {} --panicgate", time.display()))?,
            self.start(CLOUD, &format!("python3 {}", web.display()))?,
        ])
    }

    fn record(&self, options: &Options, pcap: &Path) -> Result<()> {
        let mut servers = self.servers()?;
        // Servers open their sockets, ntpd waits for others before it answers alone.
        thread::sleep(Duration::from_secs(4));
        servers.iter_mut().try_for_each(Running::check)?;
        let capture = format!(
            "tcpdump -Z root -q -s 0 -B 8192 -i br-lan -w {}",
            pcap.display()
        );
        let mut capture = self.start(ROUTER, &capture)?;
        thread::sleep(Duration::from_millis(500));
        let end = Instant::now() + Duration::from_secs(options.duration);
        thread::scope(|scope| {
            let devices: [Behaviour; 4] =
                [Home::sensor, Home::camera, Home::thermostat, Home::clock];
            let running: Vec<_> = devices
                .into_iter()
                .zip(options.seed..)
                .map(|(device, seed)| scope.spawn(move || device(self, seed, end)))
                .collect();
            running.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .map_err(|_| anyhow!("a device's thread panicked"))?
            })
        })?;
        thread::sleep(Duration::from_millis(500));
        capture
            .stop(Signal::SIGINT, Duration::from_secs(5))
            .map(drop)
    }

    fn sensor(&self, seed: u64, end: Instant) -> Result<()> {
        let mut pause = Pauses::new(seed);
        let _commands = self.start(
            "sensor",
            "mosquitto_sub -h broker.example -i sensor-set -k 15 -t home/sensor/set",
        )?;
        let mut publish = self.inside(
            "sensor",
            "mosquitto_pub -h broker.example -i sensor -k 15 -q 1 -t home/sensor -l",
        );
        publish.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut publish = Running::start("mosquitto_pub", publish)?;
        for round in 0u64.. {
            if !pause.until(end, 1800..2300) {
                break;
            }
            let (value, humidity) = (190 + pause.next(40), 400 + pause.next(200));
            publish.write_line(&format!(
                r#"{{"round":{round},"temperature":{}.{},"humidity":{}.{}}}"#,
                value / 10,
                value % 10,
                humidity / 10,
                humidity % 10
            ))?;
            if round % 5 == 3 {
                let set = "mosquitto_pub -h 198.51.100.10 -t home/sensor/set -m interval=2";
                output(self.inside(CLOUD, set))?;
            }
        }
        publish
            .stop(Signal::SIGTERM, Duration::from_secs(3))
            .map(drop)
    }

    fn camera(&self, seed: u64, end: Instant) -> Result<()> {
        let mut pause = Pauses::new(seed);
        let picture = self.scratch.join("picture");
        for round in 0u64.. {
            if !pause.until(end, 5500..8500) {
                break;
            }
            let size = 20_000 + pause.next(40_000);
            let pixels: Vec<u8> = (0..size)
                .map(|_| pause.next(256).to_le_bytes()[0])
                .collect();
            fs::write(&picture, pixels)?;
            let upload = format!(
                "curl -4 -sS -o /dev/null --max-time 5 --data-binary @{} http://web.example/camera/{round}",
                picture.display()
            );
            output(self.inside("camera", &upload))?;
            if round % 3 == 1 {
                let settings = "curl -4 -sS -o /dev/null --max-time 5 http://web.example/camera/settings?size=24000";
                output(self.inside("camera", settings))?;
            }
        }
        Ok(())
    }

    fn thermostat(&self, seed: u64, end: Instant) -> Result<()> {
        let mut pause = Pauses::new(seed);
        for round in 0u64.. {
            if !pause.until(end, 2500..4500) {
                break;
            }
            let family = if round % 2 == 0 { 4 } else { 6 };
            let size = 300 + pause.next(2500);
            let poll = format!(
                "curl -{family} -sS -o /dev/null --max-time 5 http://web.example/thermostat/plan?size={size}"
            );
            output(self.inside("thermostat", &poll))?;
        }
        Ok(())
    }

    fn clock(&self, seed: u64, end: Instant) -> Result<()> {
        let mut pause = Pauses::new(seed);
        while pause.until(end, 3500..6500) {
            let ask = self.inside("clock", "ntpdig -4 --timeout 2 time.example");
            output(ask)?;
        }
        Ok(())
    }
}

fn sh(line: &str) -> Result<()> {
    crate::command::run(line)
}

/// Fails unless every device is in the capture with at least 20 packets.
fn check(pcap: &Path) -> Result<()> {
    for device in &DEVICES {
        let mut command = Command::new("tcpdump");
        command
            .args(["-q", "-nn", "-r"])
            .arg(pcap)
            .args(["ether", "host", device.mac]);
        let packets = output(command)?.lines().count();
        ensure!(
            packets >= 20,
            "only {packets} packets of {} in {}",
            device.name,
            pcap.display()
        );
        eprintln!("{:<12}{packets:>6} packets", device.name);
    }
    Ok(())
}

/// Pauses and sizes from a seed (SplitMix64; nothing here needs more).
struct Pauses {
    state: u64,
}

impl Pauses {
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns a number below `bound`.
    fn next(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Sleeps for a random time from `range` (milliseconds); false, at once, when that would end after `end`.
    fn until(&mut self, end: Instant, range: std::ops::Range<u64>) -> bool {
        let pause = Duration::from_millis(range.start + self.next(range.end - range.start));
        if Instant::now() + pause >= end {
            return false;
        }
        thread::sleep(pause);
        true
    }
}
