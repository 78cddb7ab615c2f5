//! Firewall rules through the `nft` program, whose every failure is an error here.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// Gives `nft` a file of commands, which it carries out as a whole or not at all.
///
/// # Errors
/// `NotFound` without the program; otherwise its own words.
pub fn apply(script: &str) -> io::Result<()> {
    let mut child = nft()
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
    }
    finish(child.wait_with_output()?)
}

/// Whether a chain is in force.
///
/// # Errors
/// It is not, or cannot be looked at.
pub fn check_chain(table: &str, chain: &str) -> io::Result<()> {
    let out = nft()
        .args(["list", "chain", "inet", table, chain])
        .stdin(Stdio::null())
        .output()
        .map_err(missing)?;
    finish(out)
}

/// Removes a table; nothing there is no error.
///
/// # Errors
/// As [`apply`].
pub fn delete(table: &str) -> io::Result<()> {
    // Creating it first makes deleting succeed in any case.
    apply(&format!("table inet {table}\ndelete table inet {table}\n"))
}

fn nft() -> Command {
    // Services often have no sbin in their path.
    let program = ["/usr/sbin/nft", "/sbin/nft"]
        .into_iter()
        .find(|p| std::path::Path::new(p).exists());
    Command::new(program.unwrap_or("nft"))
}

fn missing(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::NotFound {
        io::Error::new(
            io::ErrorKind::NotFound,
            "the program nft is not installed (package nftables)",
        )
    } else {
        e
    }
}

fn finish(out: std::process::Output) -> io::Result<()> {
    if out.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&out.stderr);
    let words = words.trim();
    let kind = if words.contains("Operation not permitted") {
        io::ErrorKind::PermissionDenied
    } else {
        io::ErrorKind::Other
    };
    Err(io::Error::new(kind, format!("nft: {words}")))
}

fn set(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|n| format!("\"{n}\"")).collect();
    format!("{{ {} }}", quoted.join(", "))
}

/// A table that replaces what an earlier run left of it.
fn table(name: &str, chains: &str) -> String {
    format!("table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n{chains}}}\n")
}

/// TCP connections through the tunnel announce segments that fit it, whichever side asks.
fn clamp(interface: &str) -> String {
    format!(
        "  chain clamp {{\n    type filter hook forward priority mangle; policy accept;\n    \
         oifname \"{interface}\" tcp flags syn tcp option maxseg size set rt mtu\n    \
         iifname \"{interface}\" tcp flags syn tcp option maxseg size set rt mtu\n  }}\n"
    )
}

/// Nothing that comes out of the tunnel begins a connection: not to devices, nor to this machine, which answers echo requests
/// only. Whoever is at the far end would otherwise reach what the home's own firewall keeps others from.
fn unasked(interface: &str) -> String {
    format!(
        "  chain unasked {{\n    type filter hook forward priority -10; policy accept;\n    \
         iifname \"{interface}\" ct state new counter drop\n  }}\n  \
         chain unasked_here {{\n    type filter hook input priority -10; policy accept;\n    \
         iifname \"{interface}\" meta l4proto != {{ icmp, ipv6-icmp }} ct state new counter drop\n  }}\n"
    )
}

/// The bit of a connection's mark that says that a device opened it, with fall-back.
pub const CONNECTION_MARK: u32 = 0x4000_0000;

/// The rules of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct GateRules<'a> {
    /// Table name.
    pub table: &'a str,
    /// The tunnel's interface.
    pub interface: &'a str,
    /// Interfaces that face the devices.
    pub lan: &'a [&'a str],
    /// Devices may go nowhere but into the tunnel.
    pub belt: bool,
    /// Devices take the tunnel's address inside it, and nothing comes out of it unasked.
    pub masquerade: bool,
    /// Interface on which devices take the gateway's address when there is no tunnel.
    pub fall_back: Option<&'a str>,
}

impl GateRules<'_> {
    /// The file for [`apply`].
    pub fn script(&self) -> String {
        let (lan, tun) = (set(self.lan), self.interface);
        let mut chains = clamp(tun);
        if self.belt {
            let mut ways = vec![tun];
            ways.extend_from_slice(self.lan);
            let ways = set(&ways);
            // Writing to a string cannot fail.
            let _done = write!(
                chains,
                "  chain belt {{\n    type filter hook forward priority -10; policy accept;\n    \
                 iifname {lan} oifname != {ways} counter drop\n  }}\n"
            );
        }
        if self.fall_back.is_some() {
            let _done = write!(
                chains,
                "  chain known {{\n    type filter hook forward priority -10; policy accept;\n    \
                 iifname {lan} ct mark set ct mark or {CONNECTION_MARK:#x}\n  }}\n"
            );
        }
        if self.masquerade {
            chains.push_str(&unasked(tun));
        }
        if self.masquerade || self.fall_back.is_some() {
            chains.push_str(
                "  chain source {\n    type nat hook postrouting priority srcnat; policy accept;\n",
            );
            if self.masquerade {
                let _done = writeln!(chains, "    iifname {lan} oifname \"{tun}\" masquerade");
            }
            if let Some(wan) = self.fall_back {
                let _done = writeln!(chains, "    iifname {lan} oifname \"{wan}\" masquerade");
            }
            chains.push_str("  }\n");
        }
        table(self.table, &chains)
    }
}

/// The rules of the far end: what comes out of the tunnel takes this machine's address, and what goes in answers it.
pub fn exit_script(name: &str, interface: &str) -> String {
    let chains = format!(
        "{}  chain unasked {{\n    type filter hook forward priority -10; policy accept;\n    \
         iifname != \"{interface}\" oifname \"{interface}\" ct state new counter drop\n  }}\n  chain source {{\n    type nat hook postrouting priority srcnat; policy accept;\n    \
         iifname \"{interface}\" oifname != \"{interface}\" masquerade\n  }}\n",
        clamp(interface)
    );
    table(name, &chains)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_belt_names_every_way_that_is_left_open() {
        let rules = GateRules {
            table: "t",
            interface: "chaff0",
            lan: &["lan0", "lan1"],
            belt: true,
            masquerade: true,
            fall_back: None,
        };
        let script = rules.script();
        assert!(script.contains(
            r#"iifname { "lan0", "lan1" } oifname != { "chaff0", "lan0", "lan1" } counter drop"#
        ));
        assert!(script.contains(r#"iifname "chaff0" ct state new counter drop"#));
        assert!(script.starts_with("table inet t\ndelete table inet t\ntable inet t {\n"));
        let open = GateRules {
            belt: false,
            masquerade: false,
            fall_back: Some("wan0"),
            ..rules
        };
        assert!(!open.script().contains("drop"));
        assert!(open.script().contains(r#"oifname "wan0" masquerade"#));
        assert!(open.script().contains("ct mark or 0x40000000"));
    }
}
