//! The namespaces themselves: what the demo and every other end-to-end test rely on.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chaff_tests::{GATEWAY, Home, Layout, Netns, SINK, skip_without_root};
use xtask::netns;

/// Sends one datagram from one namespace to `to` in another; returns whether it arrives.
fn reaches(sender: &str, receiver: &str, to: &str) -> Result<bool> {
    let socket = netns::inside(receiver, || UdpSocket::bind((to, 0)))??;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    let port = socket.local_addr()?.port();
    netns::inside(sender, || -> Result<()> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        match socket.send_to(b"ping", (to, port)) {
            Err(error) if error.kind() != ErrorKind::NetworkUnreachable => Err(error.into()),
            _ => Ok(()),
        }
    })??;
    match socket.recv(&mut [0; 16]) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn namespace_is_removed_on_drop() -> Result<()> {
    if skip_without_root("namespace_is_removed_on_drop") {
        return Ok(());
    }
    let space = Netns::new("guard")?;
    let path = netns::path(space.name());
    ensure!(path.exists());
    drop(space);
    ensure!(!path.exists());
    Ok(())
}

#[test]
fn bridge_layout_joins_gateway_and_sink_only() -> Result<()> {
    if skip_without_root("bridge_layout_joins_gateway_and_sink_only") {
        return Ok(());
    }
    let home = Home::new("bridge", Layout::Bridge)?;
    let names = home.topology().clone();
    ensure!(
        reaches(&names.gateway(), &names.network(), SINK)?,
        "gateway to sink"
    );
    ensure!(
        reaches(&names.network(), &names.gateway(), GATEWAY)?,
        "sink to gateway"
    );
    ensure!(
        !reaches(&names.home(), &names.network(), SINK)?,
        "the home has no address"
    );
    // Cover must not reach the home: the sink's address is known on wan0, so it is not flooded.
    let received = home.in_gateway("cat").arg("/proc/net/dev").output()?.stdout;
    let received = String::from_utf8(received)?;
    let lan0 = received
        .lines()
        .find(|l| l.trim_start().starts_with("lan0:"))
        .context("lan0")?;
    let columns: Vec<&str> = lan0.split_whitespace().collect();
    ensure!(
        columns[2] == "0" && columns[10] == "0",
        "background packets on lan0: {lan0}"
    );
    Ok(())
}

#[test]
fn route_layout_forwards_from_home_to_network() -> Result<()> {
    if skip_without_root("route_layout_forwards_from_home_to_network") {
        return Ok(());
    }
    let home = Home::new("route", Layout::Route)?;
    let names = home.topology().clone();
    ensure!(
        reaches(&names.home(), &names.network(), SINK)?,
        "home to network"
    );
    ensure!(
        reaches(&names.network(), &names.home(), "192.168.77.2")?,
        "network to home"
    );
    Ok(())
}

#[test]
fn second_up_replaces_the_first_and_down_is_idempotent() -> Result<()> {
    if skip_without_root("second_up_replaces_the_first_and_down_is_idempotent") {
        return Ok(());
    }
    let home = Home::new("again", Layout::Bridge)?;
    home.topology().up(Layout::Route)?;
    ensure!(
        !home
            .in_gateway("ip")
            .args(["link", "show", "br0"])
            .output()?
            .status
            .success()
    );
    home.topology().down()?;
    home.topology().down()?;
    ensure!(!netns::path(&home.topology().gateway()).exists());
    Ok(())
}
