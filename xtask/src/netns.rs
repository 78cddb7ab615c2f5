//! A home, its gateway and the network behind it, as three namespaces `<prefix>-home`, `<prefix>-gw`, `<prefix>-net`.
//!
//! ```text
//! home: dev0 ──── lan0 :gw: wan0 ──── srv0 :net
//! ```
//!
//! [`Layout::Bridge`] joins `lan0` and `wan0` by a bridge that behaves as a wire: every captured frame crosses unchanged
//! whatever its addresses, and nothing else does. The gateway has 10.99.0.1 on `br0` for cover only; its sink is
//! 10.99.0.2 on `srv0`. [`Layout::Route`] is an ordinary router, 192.168.77.0/24 in front of 10.99.0.0/24.
//!
//! Programs enter a namespace by `nsenter --net`, not by `ip netns exec`: the latter mounts a fresh `/sys`, which hides
//! the bpf file system and with it every pinned program.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Stop, output, require_root, run, words};

/// How the gateway namespace joins home and network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// A wire: frames cross byte for byte. For replaying captures.
    #[default]
    Bridge,
    /// A router with kernel forwarding and default offloads. For hands-on use and benches.
    Route,
}

/// Address of the gateway itself, where its cover starts and ends.
pub const GATEWAY: &str = "10.99.0.1";
/// Address of the sink in the network namespace.
pub const SINK: &str = "10.99.0.2";

const HOME: &str = "home";
const GW: &str = "gw";
const NET: &str = "net";
const SPACES: [&str; 3] = [HOME, GW, NET];
/// Interfaces with their namespace and a MAC that no capture has. A bridge takes frames to its own addresses for itself.
const INTERFACES: [(&str, &str, &str); 5] = [
    (HOME, "dev0", "02:c4:af:f0:00:01"),
    (GW, "lan0", "02:c4:af:f0:00:02"),
    (GW, "wan0", "02:c4:af:f0:00:03"),
    (GW, "br0", "02:c4:af:f0:00:04"),
    (NET, "srv0", "02:c4:af:f0:00:05"),
];
const BRIDGE_MAC: &str = INTERFACES[3].2;
const SINK_MAC: &str = INTERFACES[4].2;
/// The largest MTU of veth: captures hold receive-offloaded frames of up to 64 KiB, and a bridge drops what exceeds its MTU.
const MTU: u32 = 65535;
/// Everything that merges, splits or completes packets outside the sender: off, so that frames cross as they were written.
const OFFLOADS: &str = "gro off gso off tso off sg off tx off rx off txvlan off rxvlan off";

/// The three namespaces of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    prefix: String,
}

impl Topology {
    /// Names a topology; makes nothing yet.
    ///
    /// # Errors
    /// When `prefix` is not 1 to 64 letters, digits or dashes.
    pub fn new(prefix: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(plain) {
            return Err(Stop::Usage.error(format_args!(
                "prefix {prefix:?}: 1 to 64 letters, digits or dashes"
            )));
        }
        Ok(Self {
            prefix: prefix.to_owned(),
        })
    }

    /// Returns the name of the home's namespace, which holds `dev0`.
    pub fn home(&self) -> String {
        self.space(HOME)
    }

    /// Returns the name of the gateway's namespace, which holds `lan0` and `wan0` (and `br0` in bridge layout).
    pub fn gateway(&self) -> String {
        self.space(GW)
    }

    /// Returns the name of the network's namespace, which holds `srv0`.
    pub fn network(&self) -> String {
        self.space(NET)
    }

    /// Returns the full name of `home`, `gw` or `net`.
    pub fn space(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix)
    }

    /// Makes the namespaces, links and addresses; what stood under this prefix before is removed first.
    ///
    /// # Errors
    /// [`Stop::Privilege`] without root; otherwise the failing command and its message. Nothing is left standing then.
    pub fn up(&self, layout: Layout) -> Result<()> {
        require_root("a network namespace")?;
        self.down()?;
        let made = self.build(layout);
        if made.is_err() {
            self.down().context("while removing a half-made topology")?;
        }
        made.with_context(|| format!("while making the namespaces {}-*", self.prefix))
    }

    /// Stops programs that still run in the namespaces, then removes them with all they hold. Does nothing when there are none.
    pub fn down(&self) -> Result<()> {
        require_root("removing a network namespace")?;
        for short in SPACES {
            let name = self.space(short);
            if !path(&name).exists() {
                continue;
            }
            self.end_processes(&name)?;
            run(&format!("ip netns delete {name}"))?;
        }
        Ok(())
    }

    /// Ends what runs in namespace `name`: SIGTERM, and SIGKILL to what is still there after 2 s.
    fn end_processes(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut signal = Some(Signal::SIGTERM);
        loop {
            let pids = output(words(&format!("ip netns pids {name}")))?;
            if pids.trim().is_empty() {
                return Ok(());
            }
            let late = Instant::now() >= deadline;
            if let Some(signal) = signal.take().or(late.then_some(Signal::SIGKILL)) {
                for id in pids.split_whitespace() {
                    eprintln!("{name}: sending {signal} to process {id}");
                    let id = id.parse().with_context(|| format!("process id {id:?}"))?;
                    // It may have ended by itself since it was listed.
                    let _ = kill(Pid::from_raw(id), signal);
                }
            }
            if late {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn build(&self, layout: Layout) -> Result<()> {
        for short in SPACES {
            let name = self.space(short);
            run(&format!("ip netns add {name}"))?;
            inside(&name, quiet)??;
            run(&format!("ip -n {name} link set lo up"))?;
        }
        let [home, gw, net] = SPACES.map(|short| self.space(short));
        let mtu = if layout == Layout::Bridge { MTU } else { 1500 };
        run(&format!(
            "ip -n {home} link add dev0 mtu {mtu} type veth peer name lan0 mtu {mtu} netns {gw}"
        ))?;
        run(&format!(
            "ip -n {gw} link add wan0 mtu {mtu} type veth peer name srv0 mtu {mtu} netns {net}"
        ))?;
        if layout == Layout::Bridge {
            // No vlan_filtering attribute: off is the default, and kernels without it refuse even the zero.
            run(&format!(
                "ip -n {gw} link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 \
                 group_fwd_mask 0xfff8"
            ))?;
        }
        for (short, interface, mac) in INTERFACES {
            if interface == "br0" && layout == Layout::Route {
                continue;
            }
            let name = self.space(short);
            run(&format!("ip -n {name} link set {interface} address {mac}"))?;
            if layout == Layout::Bridge {
                inside_run(&name, &format!("ethtool -K {interface} {OFFLOADS}"))?;
            }
        }
        match layout {
            Layout::Bridge => self.bridge()?,
            Layout::Route => self.route()?,
        }
        self.settle(layout)
    }

    /// Waits until the kernel has noticed every carrier: until then, up to a second, interfaces drop what they are given.
    fn settle(&self, layout: Layout) -> Result<()> {
        let ready = || -> Result<bool> {
            for (short, interface, _) in INTERFACES {
                if interface == "br0" && layout == Layout::Route {
                    continue;
                }
                let name = self.space(short);
                let link = output(words(&format!(
                    "ip -n {name} -oneline link show {interface}"
                )))?;
                if !link.contains(" state UP ") {
                    return Ok(false);
                }
            }
            if layout == Layout::Route {
                return Ok(true);
            }
            let ports = output(words(&format!("bridge -n {} link show", self.gateway())))?;
            Ok(ports.matches("state forwarding").count() == 2)
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ready()? {
            ensure!(
                Instant::now() < deadline,
                "the links were not up within 10 s"
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn bridge(&self) -> Result<()> {
        let [home, gw, net] = SPACES.map(|short| self.space(short));
        for port in ["lan0", "wan0"] {
            run(&format!("ip -n {gw} link set {port} master br0"))?;
            run(&format!(
                "bridge -n {gw} link set dev {port} learning off flood on mcast_flood on bcast_flood on"
            ))?;
        }
        run(&format!("ip -n {gw} link set br0 mtu {MTU}"))?;
        self.links_up(&[
            (&home, "dev0"),
            (&gw, "lan0"),
            (&gw, "wan0"),
            (&gw, "br0"),
            (&net, "srv0"),
        ])?;
        run(&format!("ip -n {gw} address add {GATEWAY}/24 dev br0"))?;
        run(&format!("ip -n {net} address add {SINK}/24 dev srv0"))?;
        // Ports do not learn, so without this entry cover would be flooded to the home as well.
        run(&format!(
            "bridge -n {gw} fdb add {SINK_MAC} dev wan0 master static"
        ))?;
        self.neighbour(&gw, SINK, SINK_MAC, "br0")?;
        self.neighbour(&net, GATEWAY, BRIDGE_MAC, "srv0")
    }

    fn route(&self) -> Result<()> {
        let [home, gw, net] = SPACES.map(|short| self.space(short));
        self.links_up(&[
            (&home, "dev0"),
            (&gw, "lan0"),
            (&gw, "wan0"),
            (&net, "srv0"),
        ])?;
        run(&format!(
            "ip -n {home} address add 192.168.77.2/24 dev dev0"
        ))?;
        run(&format!("ip -n {gw} address add 192.168.77.1/24 dev lan0"))?;
        run(&format!("ip -n {gw} address add {GATEWAY}/24 dev wan0"))?;
        run(&format!("ip -n {net} address add {SINK}/24 dev srv0"))?;
        run(&format!("ip -n {home} route add default via 192.168.77.1"))?;
        run(&format!(
            "ip -n {net} route add 192.168.77.0/24 via {GATEWAY}"
        ))?;
        self.neighbour(&home, "192.168.77.1", INTERFACES[1].2, "dev0")?;
        self.neighbour(&gw, "192.168.77.2", INTERFACES[0].2, "lan0")?;
        self.neighbour(&gw, SINK, SINK_MAC, "wan0")?;
        self.neighbour(&net, GATEWAY, INTERFACES[2].2, "srv0")?;
        inside(&gw, || setting("net/ipv4/ip_forward", "1"))?
    }

    fn links_up(&self, links: &[(&str, &str)]) -> Result<()> {
        links
            .iter()
            .try_for_each(|(name, link)| run(&format!("ip -n {name} link set {link} up")))
    }

    fn neighbour(&self, name: &str, ip: &str, mac: &str, interface: &str) -> Result<()> {
        run(&format!(
            "ip -n {name} neighbour replace {ip} lladdr {mac} dev {interface} nud permanent"
        ))
    }
}

/// Returns the file by which namespace `name` is entered.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Returns a command that runs `program` inside namespace `name`; it keeps the process id and this process's `/sys`.
pub fn command(name: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", path(name).display()))
        .arg("--")
        .arg(program);
    command
}

/// Runs `work` on a thread inside namespace `name` and returns its result.
///
/// # Errors
/// When the namespace does not exist or may not be entered, or `work` panics.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file =
        File::open(path(name)).with_context(|| format!("while entering namespace {name}"))?;
    let entered = thread::scope(|scope| {
        scope
            .spawn(|| setns(&file, CloneFlags::CLONE_NEWNET).map(|()| work()))
            .join()
            .map_err(|_| anyhow!("work inside namespace {name} panicked"))
    })?;
    entered.with_context(|| format!("while entering namespace {name}"))
}

fn inside_run(name: &str, line: &str) -> Result<()> {
    let mut parts = line.split_whitespace();
    let mut command = command(name, parts.next().unwrap_or("true"));
    command.args(parts);
    output(command).map(drop)
}

/// Sets a new namespace so that the kernel sends nothing of its own: no IPv6 discovery, no ARP answers, no firewall on the bridge.
fn quiet() -> Result<()> {
    for scope in ["all", "default"] {
        let ipv6 = format!("net/ipv6/conf/{scope}/disable_ipv6");
        if sysctl(&ipv6).exists() {
            setting(&ipv6, "1")?;
        }
        // Neighbours are static: nothing here needs an ARP answer, and captured requests must not get one.
        setting(&format!("net/ipv4/conf/{scope}/arp_ignore"), "8")?;
        setting(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
    }
    for filter in ["arptables", "iptables", "ip6tables"] {
        let call = format!("net/bridge/bridge-nf-call-{filter}");
        if sysctl(&call).exists() {
            setting(&call, "0")?;
        }
    }
    Ok(())
}

fn sysctl(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}

fn setting(key: &str, value: &str) -> Result<()> {
    fs::write(sysctl(key), value).with_context(|| format!("while setting {key} = {value}"))
}

/// Opens an interactive shell inside `home`, `gw`, `net`, or a namespace given by its full name.
pub fn shell(topology: &Topology, name: &str) -> Result<()> {
    require_root("entering a network namespace")?;
    let name = if SPACES.contains(&name) {
        topology.space(name)
    } else {
        name.to_owned()
    };
    if !path(&name).exists() {
        return Err(Stop::Usage.error(format_args!(
            "no namespace {name}; make it by: cargo xtask netns up"
        )));
    }
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    eprintln!("{shell} in {name}; leave with exit");
    let status = command(&name, shell)
        .env("PS1", format!("{name}# "))
        .status();
    ensure!(
        status.context("while starting a shell")?.code().is_some(),
        "the shell was killed"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_prefix_that_is_not_plain() {
        for bad in ["", "a b", "../x", "a/b", &"x".repeat(65)] {
            let error = Topology::new(bad).unwrap_err();
            assert_eq!(error.downcast_ref::<Stop>(), Some(&Stop::Usage), "{bad}");
        }
        assert_eq!(Topology::new("chaff").unwrap().gateway(), "chaff-gw");
    }

    #[test]
    fn entering_a_missing_namespace_names_it() {
        let error = inside("no-such-namespace", || ()).unwrap_err();
        assert!(error.to_string().contains("no-such-namespace"));
    }
}
