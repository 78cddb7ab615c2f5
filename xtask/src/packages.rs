//! The Debian packages that tasks need, in one place, and their installation.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{self, Stop, privileged};

/// A program or file that a task needs and the Debian package that brings it.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// Debian and Ubuntu package name.
    pub name: &'static str,
    /// Program that shows that it is present, or a path when it starts with `/`.
    pub probe: &'static str,
}

const fn package(name: &'static str, probe: &'static str) -> Package {
    Package { name, probe }
}

/// What the namespaces need.
pub const NETNS: &[Package] = &[
    package("iproute2", "ip"),
    package("ethtool", "ethtool"),
    package("util-linux", "nsenter"),
];

/// What the tunnel needs, and what its tests and its benchmark compare with and look through.
pub const TUNNEL: &[Package] = &[
    package("nftables", "nft"),
    package("iputils-ping", "ping"),
    package("tcpdump", "tcpdump"),
    package("wireguard-go", "wireguard-go"),
    package("wireguard-tools", "wg"),
];

/// What the benchmark of the tunnel sends with.
pub const TUNNEL_BENCH: &[Package] = &[package("iperf3", "iperf3")];

/// What the demo uses besides the namespaces: a witness on the uplink, and the picture as PNG.
pub const DEMO: &[Package] = &[
    package("tcpdump", "tcpdump"),
    package("librsvg2-bin", "rsvg-convert"),
];

/// Libraries that the programs use where they are: without them their tests say "skipped".
pub const OPTIONAL: &[Package] = &[
    package("libpcap0.8", "/usr/lib/x86_64-linux-gnu/libpcap.so.0.8"),
    package("libndpi4.2", "/usr/lib/x86_64-linux-gnu/libndpi.so.4.2"),
];

/// What the benchmarks compare with.
pub const BENCH: &[Package] = &[package("iproute2", "ip"), package("tcpreplay", "tcpreplay")];

/// The meters that the offline benchmark compares with.
pub const METERS: &[Package] = &[
    package("softflowd", "softflowd"),
    package("nfdump", "nfpcapd"),
    package("tcpdump", "tcpdump"),
    package("python3-venv", "python3"),
];

/// What building Chaff needs besides Rust.
pub const BUILD: &[Package] = &[
    package("gcc", "cc"),
    package("libc6-dev", "/usr/include/stdio.h"),
];

/// What building libFuzzer needs: a compiler of C++.
pub const FUZZ: &[Package] = &[package("g++", "c++")];

/// The tools whose traffic `record-attacks` records; the live test of the alerts uses nmap where it is.
pub const ATTACKS: &[Package] = &[
    package("nmap", "nmap"),
    package("hping3", "hping3"),
    package("iperf3", "iperf3"),
    package("hydra", "hydra"),
    package("iodine", "iodine"),
    package("apache2-utils", "ab"),
    package("curl", "curl"),
    package("python3", "python3"),
    package("dropbear-bin", "dropbear"),
    package("inetutils-telnetd", "/usr/sbin/telnetd"),
    package("busybox", "busybox"),
    package("tcpdump", "tcpdump"),
];

/// What recording the demo capture needs: the real programs of a small home.
pub const RECORD: &[Package] = &[
    package("mosquitto", "mosquitto"),
    package("mosquitto-clients", "mosquitto_pub"),
    package("dnsmasq-base", "dnsmasq"),
    package("curl", "curl"),
    package("python3", "python3"),
    package("ntpsec", "ntpd"),
    package("ntpsec-ntpdig", "ntpdig"),
    package("tcpdump", "tcpdump"),
];

impl Package {
    /// Returns whether the package's program or file is there.
    pub fn present(&self) -> bool {
        if self.probe.starts_with('/') {
            std::path::Path::new(self.probe).exists()
        } else {
            command::installed(self.probe)
        }
    }
}

/// Returns the names of those of `wanted` that are absent.
pub fn missing(wanted: &[Package]) -> Vec<&'static str> {
    wanted
        .iter()
        .filter(|p| !p.present())
        .map(|p| p.name)
        .collect()
}

/// Installs what is absent of `wanted` when root on a machine with apt.
///
/// # Errors
/// [`Stop::Privilege`] with the command to type when not root or without apt; the error of apt otherwise.
pub fn ensure(wanted: &[Package]) -> Result<()> {
    let names = missing(wanted);
    if names.is_empty() {
        return Ok(());
    }
    let line = format!(
        "apt-get install --yes --no-install-recommends {}",
        names.join(" ")
    );
    if !privileged() || !command::installed("apt-get") {
        return Err(Stop::Privilege.error(format_args!("missing packages; type: sudo {line}")));
    }
    eprintln!("installing: {}", names.join(" "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        command::output(command)
    };
    apt(&["update", "--quiet"]).context("while updating the package list")?;
    let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    arguments.extend(&names);
    apt(&arguments).with_context(|| format!("while installing {}", names.join(" ")))?;
    let still = missing(wanted);
    anyhow::ensure!(
        still.is_empty(),
        "installed, but still not found: {}",
        still.join(" ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_only_what_is_absent() {
        let wanted = [
            package("dash", "sh"),
            package("nothing", "no-such-program"),
            package("etc", "/etc"),
        ];
        assert_eq!(missing(&wanted), ["nothing"]);
    }
}
