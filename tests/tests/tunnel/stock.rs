//! Other WireGuard programs at either end, and around.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chaff_tests::{Running, program, skip_without_root, skipped};
use nix::sys::signal::Signal;
use serde_json::Value;
use xtask::tunnel_lab::{FAR, Lab, PORT, Stock};

use crate::scene::*;

/// Sets up wireguard-go in a namespace from a wg-style file; `None`, with a word, where it is not installed.
fn stock(test: &str, lab: &Lab, space: &str, conf: &str, route: &str) -> Result<Option<Stock>> {
    for tool in ["wireguard-go", "wg"] {
        if !xtask::command::installed(tool) {
            skipped(
                test,
                &format!("needs {tool} (packages wireguard-go, wireguard-tools)"),
            );
            return Ok(None);
        }
    }
    let stock = lab.stock(space, conf)?;
    if !route.is_empty() {
        lab.run(
            space,
            &format!("ip route replace {route} dev {}", stock.name),
        )?;
    }
    Ok(Some(stock))
}

#[test]
fn a_stock_far_end_passes_real_packets_and_drops_cover_silently() -> Result<()> {
    let test = "a_stock_far_end_passes_real_packets_and_drops_cover_silently";
    if skip_without_root(test) {
        return Ok(());
    }
    let mut scene = Scene::new("tunstock")?;
    serve(&scene.lab)?;
    let Some(stock) = stock(test, &scene.lab, "far", "far.conf", "")? else {
        return Ok(());
    };
    scene.lab.nft(
        "far",
        "table ip nat { chain post { type nat hook postrouting priority srcnat; oifname \"srv0\" masquerade } }",
    )?;
    scene.start_gateway(&Told {
        cover: "generator = \"constant\"",
        tunnel: "",
    })?;
    tcp_echo(&scene.lab, servers()[0], 1_000_000)?;
    for len in [1, 300, 1_300] {
        udp_echo(&scene.lab, servers()[0], len)?;
    }
    let name = &stock.name;
    let counted = |lab: &Lab| -> Result<u64> {
        let text = lab.run("far", &format!("ip -s -json link show dev {name}"))?;
        let links: Value = serde_json::from_str(&text)?;
        let packets = links
            .pointer("/0/stats64/rx/packets")
            .and_then(Value::as_u64);
        packets.context("no count")
    };
    ensure!(counted(&scene.lab)? > 100, "nothing was delivered");
    let (before, sent) = (counted(&scene.lab)?, scene.peer()?);
    sleep(Duration::from_secs(8));
    let (after, now) = (counted(&scene.lab)?, scene.peer()?);
    let dummies = now["cover_out"]["packets"].as_u64().unwrap_or(0)
        - sent["cover_out"]["packets"].as_u64().unwrap_or(0);
    println!(
        "stock far end: {dummies} dummies, {} packets at its interface",
        after - before
    );
    ensure!(dummies > 20, "{now}");
    ensure!(
        after - before <= 2,
        "{dummies} dummies, {} delivered",
        after - before
    );
    ensure!(
        now["real_in"] == sent["real_in"],
        "an answer to cover: {now}"
    );
    let handshakes = |p: &Value| p["handshakes_out"].as_u64().unwrap_or(0);
    let more = handshakes(&now) - handshakes(&sent);
    ensure!(more <= 1, "{more} handshakes for {dummies} dummies");
    Ok(())
}

#[test]
fn a_stock_near_end_works_against_our_far_end() -> Result<()> {
    let test = "a_stock_near_end_works_against_our_far_end";
    if skip_without_root(test) {
        return Ok(());
    }
    let mut scene = Scene::new("tunnear")?;
    serve(&scene.lab)?;
    scene.start_sink("")?;
    let Some(_stock) = stock(test, &scene.lab, "gw", "gw.conf", "10.4.0.0/24")? else {
        return Ok(());
    };
    scene.lab.nft(
        "gw",
        "table ip nat { chain post { type nat hook postrouting priority srcnat; oifname \"wg*\" masquerade } }",
    )?;
    tcp_echo(&scene.lab, servers()[0], 1_000_000)?;
    for len in [1, 300, 1_300] {
        udp_echo(&scene.lab, servers()[0], len)?;
    }
    ensure!(scene.lab.in_clear()? == 0);
    let _outer = FAR;
    Ok(())
}

#[test]
fn cover_rides_in_a_foreign_tunnel() -> Result<()> {
    let test = "cover_rides_in_a_foreign_tunnel";
    if skip_without_root(test) {
        return Ok(());
    }
    let scene = Scene::new("tunride")?;
    serve(&scene.lab)?;
    let lab = &scene.lab;
    let Some(_far) = stock(test, lab, "far", "far.conf", "")? else {
        return Ok(());
    };
    let Some(near) = stock(test, lab, "gw", "gw.conf", "10.4.0.0/24")? else {
        return Ok(());
    };
    for (space, out) in [("far", "srv0"), ("gw", "wg*")] {
        lab.nft(
            space,
            &format!(
                "table ip nat {{ chain post {{ type nat hook postrouting priority srcnat; oifname \"{out}\" masquerade }} }}"
            ),
        )?;
    }
    // The sink's address is inside the tunnel.
    let inside = format!("ip route replace 10.203.7.0/24 dev {}", near.name);
    lab.run("gw", &inside)?;
    const SINK: &str = "10.203.7.1:4789";
    let key = lab.path("sink.key");
    fs::write(&key, "0a1b".repeat(16))?;
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let mut sink = lab.command("far", program("sink-server")?);
    sink.args(["--listen", SINK, "--key"]).arg(&key);
    sink.arg("--report").arg(lab.path("sink.json"));
    let mut sink = Running::start("sink-server", sink)?;
    let config = format!(
        "[gateway]\nstate_dir = {:?}\ninstance = {:?}\n\
         [interfaces]\nlan = [\"lan0\"]\nwan = \"wan0\"\nhook = \"tcx\"\n\
         [cover]\nmode = \"rider\"\nsink = {SINK:?}\nkey_file = {key:?}\ngenerator = \"constant\"\nmax_payload = 1300\n\
         [[device]]\nlabel = \"dev\"\nip = [\"10.1.0.2\"]\n",
        lab.path("state"),
        lab.instance(),
    );
    let file = lab.path("gateway.toml");
    fs::write(&file, config)?;
    let capture = lab.path("seen.pcap");
    let mut tcpdump = lab.command("mid", "tcpdump");
    tcpdump.args(["-i", "a0", "-U", "-n", "-s", "128", "-Z", "root", "-w"]);
    tcpdump.arg(&capture).args(["ip", "and", "not", "icmp"]);
    tcpdump.stderr(Stdio::null());
    let mut tcpdump = Running::start("tcpdump", tcpdump)?;
    let mut gateway = lab.command("gw", program("gateway")?);
    gateway.args(["run", "--config"]).arg(&file);
    let mut gateway = Running::start("gateway", gateway)?;
    tcp_echo(lab, servers()[0], 300_000)?;
    udp_echo(lab, servers()[0], 1_000)?;
    sleep(Duration::from_secs(8));
    tcp_echo(lab, servers()[0], 100_000)?;
    gateway.stop(Signal::SIGTERM, Duration::from_secs(20))?;
    sink.stop(Signal::SIGTERM, Duration::from_secs(20))?;
    tcpdump.stop(Signal::SIGINT, Duration::from_secs(5))?;
    let read =
        |name: &str| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(lab.path(name))?)?) };
    let (sink, gateway) = (read("sink.json")?, read("state/report.json")?);
    let up = sink["cover"]["packets"].as_u64().unwrap_or(0);
    let down = gateway["gateway"]["downlink"]["packets"]
        .as_u64()
        .unwrap_or(0);
    println!("in a foreign tunnel: {up} dummies arrived at the sink, {down} at the gateway");
    ensure!(up > 5 && down > 5, "{sink} {gateway}");
    ensure!(
        sink["refused"].as_object().is_none_or(|r| r.is_empty()),
        "{sink}"
    );
    // The observer sees the foreign tunnel's messages and nothing else.
    let mut reader = chaff_trace::Reader::new(fs::File::open(&capture)?)?;
    let (mut buf, mut packets) = (Vec::new(), 0);
    while reader.next(&mut buf)?.is_some() {
        let ip = &buf[14..];
        let ports = [[ip[20], ip[21]], [ip[22], ip[23]]].map(u16::from_be_bytes);
        ensure!(ip[9] == 17 && ports.contains(&PORT), "{ports:?}");
        packets += 1;
    }
    ensure!(packets > u64::from(up > 0), "nothing seen");
    Ok(())
}
