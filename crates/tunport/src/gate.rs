//! What has to be around a tunnel on its machine: at the gateway policy routing, kill switch or fall-back; at the far end
//! forwarding and address translation.

use std::fs;
use std::io;
use std::path::PathBuf;

use chaff_tunnel::Prefix;
use serde::{Deserialize, Serialize};

use crate::netlink::{self, Family, MAIN, Netlink, Rule};
use crate::nft::{self, GateRules};

/// What happens to devices' traffic while there is no tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenDown {
    /// It is refused: nothing ever leaves in clear (kill switch).
    #[default]
    Block,
    /// It takes the ordinary route, in clear.
    FallBack,
}

/// A gateway's surroundings.
#[derive(Clone, Debug)]
pub struct GateOptions {
    /// Interfaces that face the devices.
    pub lan: Vec<String>,
    /// Interface that faces the network; needed for [`WhenDown::FallBack`].
    pub wan: Option<String>,
    /// The tunnel's interface.
    pub interface: String,
    /// Inner addresses.
    pub addresses: Vec<Prefix>,
    /// Mark of outer packets.
    pub mark: u32,
    /// Number of the routing table used.
    pub table: u32,
    /// What happens without a tunnel.
    pub when_down: WhenDown,
    /// Devices take the tunnel's address inside it.
    pub masquerade: bool,
    /// What this machine itself sends goes the devices' way too, but for outer packets.
    pub own_traffic: bool,
    /// Name of the firewall table.
    pub name: String,
}

/// The interface that rules say of packets that begin on this machine.
const OWN: &str = "lo";
/// Priorities of the rules, as in the README.
const RULE_MARK: u32 = 1_000;
const RULE_LOCAL: u32 = 1_005;
const RULE_DEVICES: u32 = 1_010;
/// Metric of the route into the tunnel.
const METRIC: u32 = 10;
/// Metric of the route that refuses, what is left when the tunnel's interface is gone.
const METRIC_REFUSE: u32 = 4_000;

/// A kernel without IPv6 has no IPv6 traffic to care for.
fn unless_absent(family: Family, done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e)
            if family == Family::V6
                && matches!(
                    e.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
                ) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn while_doing<T>(what: &str, done: io::Result<T>) -> io::Result<T> {
    done.map_err(|e| io::Error::new(e.kind(), format!("while {what}: {e}")))
}

impl GateOptions {
    /// Rules of a family, by whether they are wanted: what is not may be left from a run with other options.
    fn rules(&self, family: Family) -> Vec<(Rule, bool)> {
        let rule = |priority, table| Rule {
            family,
            priority,
            mark: None,
            interface: None,
            source: None,
            table,
            suppress: None,
        };
        let mark = Rule {
            mark: Some(self.mark),
            ..rule(RULE_MARK, MAIN)
        };
        let local = Rule {
            suppress: Some(0),
            ..rule(RULE_LOCAL, MAIN)
        };
        let from = |name: &str| Rule {
            interface: Some(name.to_owned()),
            ..rule(RULE_DEVICES, self.table)
        };
        let mut rules = vec![(mark, true), (local, true), (from(OWN), self.own_traffic)];
        rules.extend(self.lan.iter().map(|lan| (from(lan), true)));
        // What this machine sends from the tunnel's own address never leaves by another way.
        let own = self.addresses.iter().map(Prefix::address);
        let own = own.filter(|a| a.is_ipv4() == (family == Family::V4));
        rules.extend(own.map(|a| {
            let rule = Rule {
                source: Some(a),
                ..rule(RULE_DEVICES, self.table)
            };
            (rule, true)
        }));
        rules
    }

    /// Gives the tunnel's interface, which has to exist, its addresses and the devices' default route.
    ///
    /// # Errors
    /// What the system says, and while doing what.
    pub fn attach(&self) -> io::Result<()> {
        let mut kernel = Netlink::new()?;
        let index = while_doing("looking for the tunnel", netlink::index(&self.interface))?;
        // Packets from everywhere come in here while the route back depends on rules: loose checking at most.
        set(&format!("net/ipv4/conf/{}/rp_filter", self.interface), "2")?;
        for a in &self.addresses {
            let done = kernel.add_address(index, *a);
            let family = if a.address().is_ipv4() {
                Family::V4
            } else {
                Family::V6
            };
            while_doing("setting the tunnel's address", unless_absent(family, done))?;
        }
        self.route(true)
    }

    /// As [`GateOptions::route`]; devices' connections of the other way are forgotten, so that their next packets take the address
    /// that belongs to this one.
    ///
    /// # Errors
    /// What the system says; the route is set all the same when connections cannot be forgotten.
    pub fn switch(&self, up: bool) -> io::Result<()> {
        self.route(up)?;
        let done = netlink::Netlink::forget_connections(nft::CONNECTION_MARK);
        while_doing("forgetting devices' connections", done)
    }

    /// Sets or removes the devices' default route into the tunnel; with [`WhenDown::FallBack`] they take the ordinary one
    /// while it is away.
    ///
    /// # Errors
    /// What the system says.
    pub fn route(&self, up: bool) -> io::Result<()> {
        let mut kernel = Netlink::new()?;
        let index = netlink::index(&self.interface)?;
        for family in Family::BOTH {
            let done = if up {
                kernel.set_default(family, self.table, METRIC, Some(index))
            } else {
                kernel.delete_default(family, self.table, METRIC, Some(index))
            };
            // Without an inner IPv6 address the interface may have IPv6 switched off.
            let wanted =
                family == Family::V4 || self.addresses.iter().any(|a| a.address().is_ipv6());
            match unless_absent(family, done) {
                Err(e) if wanted => return while_doing("setting the tunnel's route", Err(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Sets the MTU of the tunnel's interface.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        Netlink::new()?.set_mtu(netlink::index(&self.interface)?, mtu)
    }
}

/// Rules around a gateway's tunnel, in force until dropped.
#[derive(Debug)]
pub struct Gate {
    options: GateOptions,
    forwarding: Vec<Setting>,
    keep: bool,
}

impl Gate {
    /// Puts the rules in force, in the order that leaves no gap: belt, refusing route, rules. What an earlier run left is
    /// replaced without being taken away first.
    ///
    /// # Errors
    /// What the system says, and while doing what. What was set by then is removed.
    pub fn install(options: GateOptions) -> io::Result<Self> {
        let block = options.when_down == WhenDown::Block;
        let lan: Vec<&str> = options.lan.iter().map(String::as_str).collect();
        let fall_back = (!block).then_some(options.wan.as_deref()).flatten();
        let script = GateRules {
            table: &options.name,
            interface: &options.interface,
            lan: &lan,
            belt: block,
            masquerade: options.masquerade,
            fall_back,
        }
        .script();
        while_doing("setting firewall rules", nft::apply(&script))?;
        let gate = Self {
            options,
            forwarding: Vec::new(),
            keep: false,
        };
        if block {
            let there = nft::check_chain(&gate.options.name, "belt");
            while_doing("checking the kill switch", there)?;
        }
        gate.rules()?;
        Ok(gate)
    }

    fn rules(&self) -> io::Result<()> {
        let o = &self.options;
        let mut kernel = Netlink::new()?;
        for family in Family::BOTH {
            let refuse = if o.when_down == WhenDown::Block {
                kernel.set_default(family, o.table, METRIC_REFUSE, None)
            } else {
                kernel.delete_default(family, o.table, METRIC_REFUSE, None)
            };
            while_doing("setting the refusing route", unless_absent(family, refuse))?;
            for (rule, wanted) in o.rules(family) {
                let done = if wanted {
                    kernel.add_rule(&rule)
                } else {
                    kernel.delete_rule(&rule)
                };
                while_doing("setting routing rules", unless_absent(family, done))?;
            }
        }
        Ok(())
    }

    /// Switches forwarding on where it is off; it is switched back at the end.
    ///
    /// # Errors
    /// What the system says.
    pub fn forward(&mut self) -> io::Result<()> {
        self.forwarding = forward()?;
        Ok(())
    }

    /// The settings.
    pub fn options(&self) -> &GateOptions {
        &self.options
    }

    /// Leaves everything in force when this is dropped: devices stay cut off until the next start or [`Gate::remove`].
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Removes everything that [`Gate::install`] with these options sets, whoever did.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest is tried all the same.
    pub fn remove(options: &GateOptions) -> io::Result<()> {
        let mut kernel = Netlink::new()?;
        let mut done = nft::delete(&options.name);
        for family in Family::BOTH {
            for (rule, _) in options.rules(family) {
                done = done.and(unless_absent(family, kernel.delete_rule(&rule)));
            }
            let refuse = kernel.delete_default(family, options.table, METRIC_REFUSE, None);
            done = done.and(unless_absent(family, refuse));
        }
        done
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if self.keep {
            self.forwarding.clear();
            return;
        }
        if let Err(error) = Self::remove(&self.options) {
            tracing::error!(%error, "rules of the tunnel stay in force");
        }
    }
}

/// The far end's surroundings.
#[derive(Clone, Debug)]
pub struct ExitOptions {
    /// The tunnel's interface.
    pub interface: String,
    /// Inner addresses.
    pub addresses: Vec<Prefix>,
    /// Inner addresses of the peers, to be routed into the tunnel.
    pub peers: Vec<Prefix>,
    /// Translate peers' addresses to this machine's.
    pub masquerade: bool,
    /// Name of the firewall table.
    pub name: String,
}

/// What the far end needs to pass peers' packets on, in force until dropped.
#[derive(Debug)]
pub struct Exit {
    name: String,
    _forwarding: Vec<Setting>,
}

impl Exit {
    /// Sets addresses, routes, forwarding and translation. The interface has to exist.
    ///
    /// # Errors
    /// What the system says, and while doing what.
    pub fn install(options: &ExitOptions) -> io::Result<Self> {
        let mut kernel = Netlink::new()?;
        let index = while_doing("looking for the tunnel", netlink::index(&options.interface))?;
        set(
            &format!("net/ipv4/conf/{}/rp_filter", options.interface),
            "2",
        )?;
        for a in &options.addresses {
            while_doing(
                "setting the tunnel's address",
                kernel.add_address(index, *a),
            )?;
        }
        for p in options.peers.iter().filter(|p| p.bits() > 0) {
            let done = kernel.add_route(*p, index);
            while_doing("setting a route to a peer", done)?;
        }
        let forwarding = while_doing("switching forwarding on", forward())?;
        let exit = Self {
            name: options.name.clone(),
            _forwarding: forwarding,
        };
        if options.masquerade {
            let script = nft::exit_script(&options.name, &options.interface);
            while_doing("setting firewall rules", nft::apply(&script))?;
        }
        Ok(exit)
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        if let Err(error) = nft::delete(&self.name) {
            tracing::error!(%error, "firewall rules of the tunnel stay in force");
        }
    }
}

/// A kernel setting that was changed, and is changed back when dropped.
#[derive(Debug)]
struct Setting {
    key: &'static str,
    before: String,
}

impl Drop for Setting {
    fn drop(&mut self) {
        // The namespace may be gone by now; then so is the setting.
        let _gone = set(self.key, &self.before);
    }
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}

/// Writes a kernel setting, unless it has the value already.
fn set(key: &str, value: &str) -> io::Result<()> {
    let path = path(key);
    if fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    while_doing(&format!("setting {key}"), fs::write(path, value))
}

fn forward() -> io::Result<Vec<Setting>> {
    let mut changed = Vec::new();
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        let Ok(before) = fs::read_to_string(path(key)) else {
            continue; // A kernel without IPv6.
        };
        let before = before.trim().to_owned();
        if before == "0" {
            set(key, "1")?;
            changed.push(Setting { key, before });
        }
    }
    Ok(changed)
}
