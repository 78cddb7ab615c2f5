//! What goes through, and what an observer sees of it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chaff_tests::{Running, skip_without_root};
use nix::sys::signal::Signal;
use xtask::tunnel_lab::{FAR, FAR_V6, PORT, SERVER};

use crate::scene::*;

#[test]
fn tcp_udp_ipv6_and_path_mtu_work_through_both_engines() -> Result<()> {
    if skip_without_root("tcp_udp_ipv6_and_path_mtu_work_through_both_engines") {
        return Ok(());
    }
    for engine in ["fast", "portable"] {
        let mut scene = Scene::new("tunall")?;
        serve(&scene.lab)?;
        scene.start_sink(&format!("engine = {engine:?}"))?;
        scene.start_gateway(&Told {
            tunnel: &format!("engine = {engine:?}"),
            cover: "generator = \"constant\"",
        })?;
        let lab = &scene.lab;
        for to in servers() {
            tcp_echo(lab, to, 3_000_000).with_context(|| format!("{engine}: TCP to {to}"))?;
            for len in [1, 40, 300, 512, 1_232, 1_300] {
                udp_echo(lab, to, len).with_context(|| format!("{engine}: UDP to {to}"))?;
            }
        }
        // Inner MTU 1420: the largest packet passes, one byte more comes back as "too big".
        for (family, head, to) in [("-4", 28, SERVER[0]), ("-6", 48, SERVER[1])] {
            let fits = format!("{family} -n -M do -c 3 -i 0.2 -W 2 -s {}", 1_420 - head);
            let text = ping(lab, &fits, to)?;
            ensure!(number(&text, "received") == Some(3), "{engine}: {text}");
            let more = format!("{family} -n -M do -c 2 -i 0.2 -W 1 -s {}", 1_421 - head);
            let text = ping(lab, &more, to)?;
            ensure!(
                number(&text, "received").unwrap_or(0) == 0 && text.contains("1420"),
                "{engine}: {text}"
            );
        }
        ensure!(lab.in_clear()? == 0, "{engine}: packets in clear");
        ensure!(scene.status()?["tunnel"]["engine"] == engine);
        // Cover is planned from the second second on.
        sleep(Duration::from_secs(4));
        let lab = &scene.lab;
        let before = lab.run("gw", "nft list tables")?;
        ensure!(before.contains("chaff_"), "{before}");
        let (gateway, sink) = scene.stop()?;
        // Everything is taken down again.
        let lab = &scene.lab;
        for space in ["gw", "far"] {
            ensure!(!lab.run(space, "nft list tables")?.contains("chaff"));
            for family in ["-4", "-6"] {
                let rules = lab.run(space, &format!("ip {family} rule"))?;
                ensure!(
                    !rules.contains("51877") && !rules.contains("suppress"),
                    "{rules}"
                );
            }
            ensure!(lab.run(space, "ip link show dev chaff0").is_err());
        }
        let sent = &gateway["tunnel"]["tunnel"]["peers"][0];
        let got = &sink["tunnel"]["peers"][0];
        ensure!(sent["cover_out"]["packets"].as_u64() > Some(10), "{sent}");
        ensure!(got["cover_out"]["packets"].as_u64() > Some(2), "{got}");
        let refused = got["refused"].as_object().map_or(0, |r| r.len());
        ensure!(refused == 0, "{got}");
    }
    Ok(())
}

/// What a capture of the way between shows: UDP payload sizes, (DSCP and ECN, time-to-live, flow label), packets.
type Observed = (BTreeSet<usize>, BTreeSet<(u8, u8, u32)>, u64);

fn observed(path: &std::path::Path) -> Result<Observed> {
    let mut reader = chaff_trace::Reader::new(fs::File::open(path)?)?;
    let mut buf = Vec::new();
    let (mut sizes, mut heads, mut packets) = (BTreeSet::new(), BTreeSet::new(), 0);
    while let Some(_frame) = reader.next(&mut buf)? {
        let ip = &buf[14..];
        let word = u32::from_be_bytes([ip[0], ip[1], ip[2], ip[3]]);
        let udp = match (ip[0] >> 4, ip[9], ip[6]) {
            (4, 17, flags) => {
                ensure!(flags & 0x40 != 0, "may be fragmented");
                heads.insert((ip[1], ip[8], 0));
                &ip[usize::from(ip[0] & 15) * 4..]
            }
            (6, _, 17) => {
                heads.insert(((word >> 20) as u8, ip[7], word & 0xf_ffff));
                &ip[40..]
            }
            _ => continue,
        };
        sizes.insert(usize::from(u16::from_be_bytes([udp[4], udp[5]])) - 8);
        packets += 1;
    }
    Ok((sizes, heads, packets))
}

#[test]
fn an_observer_sees_only_bins_and_constant_headers() -> Result<()> {
    if skip_without_root("an_observer_sees_only_bins_and_constant_headers") {
        return Ok(());
    }
    observe(&format!("{FAR}:{PORT}"))?;
    observe(&format!("[{FAR_V6}]:{PORT}"))
}

fn observe(endpoint: &str) -> Result<()> {
    let mut scene = Scene::at("tunsee", endpoint)?;
    serve(&scene.lab)?;
    // No bursts as one message: a capture on veth would show them in one piece.
    scene.start_sink("burst = 1")?;
    scene.start_gateway(&Told {
        tunnel: "burst = 1",
        cover: "profile = \"high\"",
    })?;
    let capture = scene.lab.path("seen.pcap");
    let mut tcpdump = scene.lab.command("mid", "tcpdump");
    tcpdump.args(["-i", "a0", "-U", "-n", "-s", "128", "-Z", "root", "-w"]);
    tcpdump
        .arg(&capture)
        .args(["udp", "port", &PORT.to_string()]);
    tcpdump.stderr(Stdio::null());
    let mut tcpdump = Running::start("tcpdump", tcpdump)?;
    sleep(Duration::from_secs(1));
    for to in servers() {
        tcp_echo(&scene.lab, to, 500_000)?;
        for len in (1..1_350).step_by(97) {
            udp_echo(&scene.lab, to, len)?;
        }
    }
    // DSCP of devices stays inside.
    ping(&scene.lab, "-4 -Q 0xb8 -c 20 -i 0.05 -W 1", SERVER[0])?;
    sleep(Duration::from_secs(12));
    tcpdump.stop(Signal::SIGINT, Duration::from_secs(5))?;
    let (sizes, heads, packets) = observed(&capture)?;
    let allowed = BTreeSet::from([148, 92, 160, 608, 1_452]);
    ensure!(
        sizes.is_subset(&allowed) && sizes.is_superset(&BTreeSet::from([160, 608, 1_452])),
        "{sizes:?}"
    );
    // One time-to-live each way; no DSCP, no flow label.
    ensure!(
        heads.len() <= 2 && heads.iter().all(|h| (h.0, h.2) == (0, 0)),
        "{heads:?}"
    );
    println!("{endpoint}: {packets} packets of {sizes:?}, {heads:?}");
    ensure!(packets > 1_000, "{packets}");
    ensure!(scene.lab.in_clear()? == 0);
    scene.stop()?;
    Ok(())
}
