//! Five namespaces for tunnels: a device, its gateway, the network between (where an observer sits), the far end, a server.
//!
//! ```text
//! dev ── lan0:gw:wan0 ── a0:mid:b0 ── wan0:far:srv0 ── srv
//! 10.1.0.2   10.2.0.1  10.2.0.254 10.3.0.254  10.3.0.1   10.4.0.2      (and fd0N:: alike)
//! ```
//!
//! Without a tunnel the gateway's own address reaches the server and the device's does not: its network has no route back,
//! as at home. A counter in `mid` counts packets to or from the server in clear.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::command::{Running, output, require_root, run, words};
use crate::netns;

/// The server, IPv4 and IPv6.
pub const SERVER: [&str; 2] = ["10.4.0.2", "fd04::2"];
/// The far end's outer address.
pub const FAR: &str = "10.3.0.1";
/// The same, IPv6.
pub const FAR_V6: &str = "fd03::1";
/// The network's address on the gateway's side.
pub const MIDDLE: &str = "10.2.0.254";
/// The tunnel's UDP port.
pub const PORT: u16 = 51_820;

/// How long wireguard-go may take until it can be set up.
const STOCK_READY: Duration = Duration::from_secs(30);

const SPACES: [&str; 5] = ["dev", "gw", "mid", "far", "srv"];
/// Links: namespace and interface at both ends, with the last byte of their addresses in network N.
const LINKS: [(&str, &str, u8, &str, &str, u8); 4] = [
    ("dev", "eth0", 2, "gw", "lan0", 1),
    ("gw", "wan0", 1, "mid", "a0", 254),
    ("mid", "b0", 254, "far", "wan0", 1),
    ("far", "srv0", 1, "srv", "eth0", 2),
];

/// The namespaces of one lab; removed on drop.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    folder: PathBuf,
}

/// A wireguard-go that runs.
#[derive(Debug)]
pub struct Stock {
    /// Its interface. The control sockets are not in the namespaces and stay for a while when their process has ended: no other
    /// one has or had this name.
    pub name: String,
    /// Its process.
    pub running: Running,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// Makes the namespaces.
    ///
    /// # Errors
    /// Without root, or when a tool is missing or refuses.
    pub fn new(name: &str) -> Result<Self> {
        require_root("network namespaces")?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{name}-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&prefix);
        fs::create_dir_all(&folder)?;
        // The gateway drops its privileges and still writes below.
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        let lab = Self { prefix, folder };
        lab.build()?;
        Ok(lab)
    }

    /// Full name of `dev`, `gw`, `mid`, `far` or `srv`.
    pub fn space(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix)
    }

    /// A file of the lab.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Name of the gateway's instance.
    pub fn instance(&self) -> &str {
        &self.prefix
    }

    /// A command in a namespace.
    pub fn command(&self, short: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        netns::command(&self.space(short), program)
    }

    /// Runs a line in a namespace; its failure is an error.
    ///
    /// # Errors
    /// What the command says.
    pub fn run(&self, short: &str, line: &str) -> Result<String> {
        let mut parts = line.split_whitespace();
        let mut command = self.command(short, parts.next().unwrap_or("true"));
        command.args(parts);
        output(command)
    }

    /// Runs a line in a namespace whatever comes of it, at most `limit`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn attempt(&self, short: &str, limit: Duration, line: &str) -> Result<Output> {
        let mut command = self.command(short, "timeout");
        command.arg(format!("{}", limit.as_secs_f64()));
        command.args(line.split_whitespace());
        Ok(command.output()?)
    }

    /// Runs `work` on a thread inside a namespace: sockets made there stay there.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn inside<T: Send>(&self, short: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
        netns::inside(&self.space(short), work)
    }

    fn build(&self) -> Result<()> {
        for short in SPACES {
            let name = self.space(short);
            run(&format!("ip netns add {name}"))?;
            run(&format!("ip -n {name} link set lo up"))?;
            netns::inside(&name, || -> Result<()> {
                for key in ["all", "default"] {
                    let set = |k: &str, v: &str| fs::write(format!("/proc/sys/net/{k}"), v);
                    set(&format!("ipv6/conf/{key}/disable_ipv6"), "0")?;
                    set(&format!("ipv6/conf/{key}/accept_dad"), "0")?;
                    set(&format!("ipv6/conf/{key}/router_solicitations"), "0")?;
                    set(&format!("ipv4/conf/{key}/rp_filter"), "0")?;
                }
                Ok(())
            })??;
        }
        for (number, (a, a_if, a_ip, b, b_if, b_ip)) in (1..).zip(LINKS) {
            let (sa, sb) = (self.space(a), self.space(b));
            run(&format!(
                "ip -n {sa} link add {a_if} type veth peer name {b_if} netns {sb}"
            ))?;
            for (space, name, ip) in [(&sa, a_if, a_ip), (&sb, b_if, b_ip)] {
                run(&format!(
                    "ip -n {space} address add 10.{number}.0.{ip}/24 dev {name}"
                ))?;
                run(&format!(
                    "ip -n {space} address add fd0{number}::{ip:x}/64 dev {name} nodad"
                ))?;
                run(&format!("ip -n {space} link set {name} up"))?;
            }
        }
        for (space, v4, v6) in [
            ("dev", "default via 10.1.0.1", "default via fd01::1"),
            ("gw", "default via 10.2.0.254", "default via fd02::fe"),
            ("mid", "10.4.0.0/24 via 10.3.0.1", "fd04::/64 via fd03::1"),
            ("far", "default via 10.3.0.254", "default via fd03::fe"),
            ("srv", "default via 10.4.0.1", "default via fd04::1"),
        ] {
            let space = self.space(space);
            run(&format!("ip -n {space} route add {v4}"))?;
            run(&format!("ip -6 -n {space} route add {v6}"))?;
        }
        for space in ["gw", "mid", "far"] {
            netns::inside(&self.space(space), || -> Result<()> {
                fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
                Ok(fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?)
            })??;
        }
        self.nft(
            "mid",
            "table inet observer {
               counter clear { }
               chain forward { type filter hook forward priority 0; policy accept;
                 ip daddr 10.4.0.2 counter name clear
                 ip saddr 10.4.0.2 counter name clear
                 ip6 daddr fd04::2 counter name clear
                 ip6 saddr fd04::2 counter name clear
               } }",
        )?;
        // What the neighbours learn first takes a moment that is no part of any test.
        self.settle()
    }

    fn settle(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        for (space, to) in [
            ("dev", ["10.1.0.1", "fd01::1"]),
            ("gw", ["10.3.0.1", "fd03::1"]),
            ("far", SERVER),
        ] {
            for address in to {
                let line = format!("ping -c 1 -W 1 {address}");
                while !self
                    .attempt(space, Duration::from_secs(2), &line)?
                    .status
                    .success()
                {
                    ensure!(Instant::now() < end, "{space} does not reach {address}");
                }
            }
        }
        Ok(())
    }

    /// Gives a namespace firewall rules.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn nft(&self, short: &str, rules: &str) -> Result<()> {
        let file = self.path("rules.nft");
        // One statement a line: what follows a closing brace on its line is an error for some versions.
        fs::write(
            &file,
            rules
                .replace("; ", ";\n")
                .replace("{ ", "{\n")
                .replace(" }", "\n}"),
        )?;
        let mut nft = self.command(short, "nft");
        nft.arg("-f").arg(&file);
        output(nft).map(drop)
    }

    /// Packets to or from the server that the network between saw in clear.
    ///
    /// # Errors
    /// The counter cannot be read.
    pub fn in_clear(&self) -> Result<u64> {
        let text = self.run("mid", "nft list counter inet observer clear")?;
        let mut words = text.split_whitespace();
        words
            .find(|w| *w == "packets")
            .and_then(|_| words.next()?.parse().ok())
            .context("no count")
    }

    /// Drops a share of all packets on the way between, in percent; 0 ends that.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn lose(&self, percent: u32) -> Result<()> {
        let _none = self.run("mid", "nft delete table inet lossy");
        if percent == 0 {
            return Ok(());
        }
        let which = if percent < 100 {
            format!("numgen random mod 100 < {percent} ")
        } else {
            String::new()
        };
        self.nft(
            "mid",
            &format!(
                "table inet lossy {{ chain forward {{ type filter hook forward priority -5; policy accept; \
                 {which}drop }} }}"
            ),
        )
    }

    /// Makes `far.conf` and `gw.conf` by the far end's program.
    ///
    /// # Errors
    /// What the program says.
    pub fn keys(&self, sink: &Path) -> Result<()> {
        self.keys_at(sink, &format!("{FAR}:{PORT}"))
    }

    /// As [`Lab::keys`], with the far end at another `HOST:PORT`.
    ///
    /// # Errors
    /// What the program says.
    pub fn keys_at(&self, sink: &Path, endpoint: &str) -> Result<()> {
        let mut keygen = Command::new(sink);
        keygen
            .arg("keygen")
            .arg("--config")
            .arg(self.path("far.conf"));
        keygen.args(["--endpoint", endpoint, "--peer"]);
        keygen.arg(self.path("gw.conf"));
        output(keygen).map(drop)
    }

    /// Sets up wireguard-go, which must be installed, in a namespace from a wg-style file of [`Lab::keys`].
    ///
    /// # Errors
    /// It does not start, or `wg` or `ip` refuses.
    pub fn stock(&self, short: &str, conf: &str) -> Result<Stock> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wg{short}{}x{number}", std::process::id() % 100_000);
        let mut go = self.command(short, "wireguard-go");
        go.args(["-f", &name]).env("LOG_LEVEL", "error");
        go.stdout(Stdio::null());
        let running = Running::start("wireguard-go", go)?;
        let end = Instant::now() + STOCK_READY;
        // Its control socket may be there before its interface, and that of an earlier one of the same name without it.
        for ready in [
            format!("ip link show dev {name}"),
            format!("wg show {name}"),
        ] {
            while self.run(short, &ready).is_err() {
                ensure!(Instant::now() < end, "wireguard-go is not ready: {ready}");
                sleep(Duration::from_millis(50));
            }
        }
        // wg knows no addresses.
        let text = fs::read_to_string(self.path(conf))?;
        let plain: Vec<&str> = text.lines().filter(|l| !l.starts_with("Address")).collect();
        let file = self.path("stock.conf");
        fs::write(&file, plain.join("\n") + "\n")?;
        self.run(short, &format!("wg setconf {name} {}", file.display()))?;
        let addresses = text.lines().find_map(|l| l.strip_prefix("Address = "));
        for a in addresses.context("no addresses")?.split(", ") {
            self.run(short, &format!("ip address add {a} dev {name} nodad"))
                .or_else(|_| self.run(short, &format!("ip address add {a} dev {name}")))?;
        }
        self.run(short, &format!("ip link set {name} mtu 1420 up"))?;
        Ok(Stock { name, running })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for short in SPACES {
            let name = self.space(short);
            if !netns::path(&name).exists() {
                continue;
            }
            let pids = output(words(&format!("ip netns pids {name}"))).unwrap_or_default();
            for id in pids.split_whitespace().filter_map(|p| p.parse().ok()) {
                use nix::sys::signal::{Signal, kill};
                let _gone = kill(nix::unistd::Pid::from_raw(id), Signal::SIGKILL);
            }
            if let Err(error) = run(&format!("ip netns delete {name}")) {
                eprintln!("left behind: {error:#}");
            }
        }
        let _gone = fs::remove_dir_all(Path::new("/sys/fs/bpf/chaff").join(&self.prefix));
        let _gone = fs::remove_file(format!("/run/chaff-{}.lock", self.prefix));
        let _gone = fs::remove_dir_all(&self.folder);
    }
}
