//! No tunnel: kill switch, fall-back, recovery.

use std::net::UdpSocket;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chaff_tests::{program, skip_without_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::tunnel_lab::SERVER;

use crate::scene::*;

#[test]
fn the_kill_switch_lets_nothing_out_in_clear() -> Result<()> {
    if skip_without_root("the_kill_switch_lets_nothing_out_in_clear") {
        return Ok(());
    }
    let mut scene = Scene::new("tunkill")?;
    scene.start_sink("")?;
    scene.start_gateway(&QUIET)?;
    for (family, to) in [("-4", SERVER[0]), ("-6", SERVER[1])] {
        for (what, signals) in [
            ("SIGKILL", &[Signal::SIGKILL][..]),
            ("SIGSTOP", &[Signal::SIGSTOP]),
            ("SIGSTOP, SIGCONT", &[Signal::SIGSTOP, Signal::SIGCONT]),
        ] {
            scene.answers()?;
            let worker = scene.worker()?;
            let (sent, received, gap) = ping_through(&scene.lab, family, to, || {
                for (i, s) in signals.iter().enumerate() {
                    sleep(Duration::from_millis(if i > 0 { 200 } else { 0 }));
                    kill(worker, *s)?;
                }
                Ok(())
            })?;
            let clear = scene.lab.in_clear()?;
            println!(
                "kill switch, {family}, {what}: {received} of {sent}, longest gap {gap:?}, in clear {clear}"
            );
            ensure!(clear == 0, "{what}: {clear} packets in clear");
            ensure!(received > sent / 2, "{what}: {received} of {sent}");
            ensure!(gap < Duration::from_secs(4), "{what}: {gap:?}");
        }
    }
    // A second gateway by mistake ends with a word, and leaves the rules of the first alone.
    let mut second = scene.lab.command("gw", program("gateway")?);
    let file = scene.lab.path("gateway.toml");
    let out = second.args(["run", "--config"]).arg(file).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.code() == Some(2) && said.contains("another gateway"),
        "{said}"
    );
    let (rules, chains) = (
        scene.lab.run("gw", "ip rule")?,
        scene.lab.run("gw", "nft list ruleset")?,
    );
    ensure!(
        rules.contains("51877") && chains.contains("chain belt"),
        "{rules}{chains}"
    );
    // Not even with the supervisor gone.
    scene.answers()?;
    let supervisor = Pid::from_raw(scene.gateway.as_ref().context("no gateway")?.id() as i32);
    let worker = scene.worker()?;
    kill(supervisor, Signal::SIGKILL)?;
    kill(worker, Signal::SIGKILL)?;
    sleep(Duration::from_millis(500));
    for (family, to) in [("-4", SERVER[0]), ("-6", SERVER[1])] {
        let text = ping(&scene.lab, &format!("{family} -n -c 20 -i 0.02 -W 1"), to)?;
        ensure!(number(&text, "received").unwrap_or(0) == 0, "{text}");
    }
    ensure!(
        scene.lab.in_clear()? == 0,
        "packets in clear without a supervisor"
    );
    // The next start takes over what was left; a clean stop opens the way.
    scene.gateway = None;
    scene.start_gateway(&QUIET)?;
    let text = ping(&scene.lab, "-4 -n -c 5 -i 0.2 -W 1", SERVER[0])?;
    ensure!(number(&text, "received").unwrap_or(0) >= 4, "{text}");
    scene.stop()?;
    let rules = scene.lab.run("gw", "ip rule")?;
    ensure!(!rules.contains("51877"), "{rules}");
    Ok(())
}

#[test]
fn with_fall_back_traffic_goes_on_in_clear() -> Result<()> {
    if skip_without_root("with_fall_back_traffic_goes_on_in_clear") {
        return Ok(());
    }
    let mut scene = Scene::new("tunfall")?;
    serve(&scene.lab)?;
    scene.start_sink("")?;
    scene.start_gateway(&Told {
        tunnel: "when_down = \"fall-back\"",
        ..QUIET
    })?;
    let to = SERVER[0];
    for (what, signal) in [("SIGKILL", Signal::SIGKILL), ("SIGSTOP", Signal::SIGSTOP)] {
        scene.answers()?;
        let worker = scene.worker()?;
        let (sent, received, gap) =
            ping_through(&scene.lab, "-4", to, || Ok(kill(worker, signal)?))?;
        println!("fall-back, {what}: {received} of {sent}, longest gap {gap:?}");
        ensure!(gap < Duration::from_millis(2_500), "{what}: {gap:?}");
        ensure!(received > sent * 2 / 3, "{what}: {received} of {sent}");
    }
    // The far end goes: the ordinary route within seconds. It comes back: so does the tunnel.
    let mut sink = scene.sink.take().context("no sink")?;
    sink.stop(Signal::SIGTERM, Duration::from_secs(10))?;
    // A router without the tunnel's program still routes.
    scene.lab.run("far", "sysctl -qw net.ipv4.ip_forward=1")?;
    let begin = Instant::now();
    let clear = scene.lab.in_clear()?;
    loop {
        ping(&scene.lab, "-4 -n -c 1 -W 1", to)?;
        if scene.lab.in_clear()? > clear + 1 {
            break;
        }
        ensure!(begin.elapsed() < Duration::from_secs(60), "no fall-back");
    }
    println!("far end gone: ordinary route after {:?}", begin.elapsed());
    // A flow keeps its ports from one way to the other, and gets answers on both.
    let flow = scene.lab.inside("dev", || -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(servers()[0])?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    })??;
    let answered = |flow: &UdpSocket| -> Result<bool> {
        let mut buf = [0; 64];
        for _ in 0..10 {
            flow.send(b"which way?")?;
            if flow.recv(&mut buf).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    ensure!(answered(&flow)?, "no answer by the ordinary route");
    scene.start_sink("")?;
    let begin = Instant::now();
    loop {
        let clear = scene.lab.in_clear()?;
        let text = ping(&scene.lab, "-4 -n -c 3 -i 0.2 -W 1", to)?;
        if number(&text, "received") == Some(3) && scene.lab.in_clear()? == clear {
            break;
        }
        ensure!(
            begin.elapsed() < Duration::from_secs(60),
            "no way back: {text}"
        );
    }
    println!("far end back: tunnel after {:?}", begin.elapsed());
    let clear = scene.lab.in_clear()?;
    ensure!(answered(&flow)?, "a flow did not come back into the tunnel");
    ensure!(scene.lab.in_clear()? == clear, "a flow stayed in clear");
    scene.stop()?;
    Ok(())
}

#[test]
fn roaming_a_restart_of_the_far_end_and_loss_are_survived() -> Result<()> {
    if skip_without_root("roaming_a_restart_of_the_far_end_and_loss_are_survived") {
        return Ok(());
    }
    let mut scene = Scene::new("tunroam")?;
    serve(&scene.lab)?;
    scene.start_sink("")?;
    scene.start_gateway(&Told {
        cover: "generator = \"constant\"",
        ..QUIET
    })?;
    tcp_echo(&scene.lab, servers()[0], 100_000)?;
    // The gateway's address changes.
    let (sent, received, gap) = ping_through(&scene.lab, "-4", SERVER[0], || {
        let lab = &scene.lab;
        lab.run("gw", "ip address add 10.2.0.77/24 dev wan0")?;
        lab.run("gw", "ip address delete 10.2.0.1/24 dev wan0")?;
        lab.run("gw", "ip address delete 10.2.0.77/24 dev wan0")
            .ok();
        lab.run("gw", "ip address add 10.2.0.77/24 dev wan0").ok();
        lab.run("gw", "ip route replace default via 10.2.0.254")?;
        Ok(())
    })?;
    println!("roaming: {received} of {sent}, longest gap {gap:?}");
    ensure!(received > sent * 2 / 3, "roaming: {received} of {sent}");
    // The far end restarts and has forgotten everything.
    let (sent, received, gap) = ping_through(&scene.lab, "-4", SERVER[0], || {
        let mut sink = scene.sink.take().context("no sink")?;
        sink.stop(Signal::SIGTERM, Duration::from_secs(10))?;
        Ok(())
    })?;
    println!("far end stopped: {received} of {sent}, {gap:?}");
    scene.start_sink("")?;
    let begin = Instant::now();
    loop {
        let text = ping(&scene.lab, "-4 -n -c 1 -W 1", SERVER[0])?;
        if number(&text, "received") == Some(1) {
            break;
        }
        ensure!(begin.elapsed() < Duration::from_secs(30), "no answer since");
    }
    println!(
        "restarted far end: first answer after {:?}",
        begin.elapsed()
    );
    // A fifth of all packets is lost, each way.
    scene.lab.lose(20)?;
    let (sent, received, _) = ping_through(&scene.lab, "-4", SERVER[0], || Ok(()))?;
    println!("20 % loss: {received} of {sent}");
    let share = received as f64 / sent as f64;
    ensure!((0.5..0.75).contains(&share), "0.64 expected, {share}");
    tcp_echo(&scene.lab, servers()[0], 20_000)?;
    scene.lab.lose(0)?;
    tcp_echo(&scene.lab, servers()[1], 100_000)?;
    scene.stop()?;
    Ok(())
}
