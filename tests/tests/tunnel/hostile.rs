//! What comes in unasked, what the gateway itself sends, and clocks that are set while it runs.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chaff_tests::{skip_without_root, skipped};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::tunnel_lab::{Lab, SERVER};

use crate::scene::*;

#[test]
fn what_comes_out_of_the_tunnel_unasked_reaches_nobody() -> Result<()> {
    if skip_without_root("what_comes_out_of_the_tunnel_unasked_reaches_nobody") {
        return Ok(());
    }
    let mut scene = Scene::new("tunask")?;
    serve(&scene.lab)?;
    // A far end that knows the home's addresses and means no good.
    let conf = scene.lab.path("far.conf");
    let text = fs::read_to_string(&conf)?;
    let curious = text.replace("AllowedIPs = ", "AllowedIPs = 10.1.0.0/24, ");
    ensure!(curious != text, "{text}");
    fs::write(&conf, curious)?;
    scene.start_sink("")?;
    scene.start_gateway(&QUIET)?;
    scene.answers()?;
    let lab = &scene.lab;
    let device: SocketAddr = "10.1.0.2:7003".parse()?;
    let gateway: SocketAddr = "10.203.7.2:7004".parse()?;
    let _device = lab.inside("dev", || TcpListener::bind(device))??;
    let _gateway = lab.inside("gw", || TcpListener::bind(gateway))??;
    for to in [device, gateway] {
        let reached = lab.inside("far", || {
            TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_ok()
        })?;
        ensure!(!reached, "{to} was reached from the far end");
    }
    // The way was there: the gateway answers an echo request, and counted what it refused.
    let out = lab.attempt("far", Duration::from_secs(5), "ping -c 1 -W 3 10.203.7.2")?;
    ensure!(out.status.success(), "no way to the gateway");
    let rules = lab.run("gw", "nft list ruleset")?;
    let counted = |chain: &str| -> Option<u64> {
        let (_, rest) = rules.split_once(&format!("chain {chain} {{"))?;
        let (_, count) = rest.split_once("counter packets ")?;
        count.split(' ').next()?.parse().ok()
    };
    for chain in ["unasked", "unasked_here"] {
        ensure!(counted(chain) > Some(0), "{chain}: {rules}");
    }
    // Answers still come.
    tcp_echo(lab, servers()[0], 100_000)?;
    scene.stop()?;
    Ok(())
}

/// No address in particular, and the tunnel's.
const ANY: &str = "0.0.0.0:0";
const INNER: &str = "10.203.7.2:0";

/// Asks the server something from the gateway itself, as a resolver on it would; tells whether it answered.
fn asks(lab: &Lab, from: &str) -> Result<bool> {
    lab.inside("gw", || -> Result<bool> {
        // The tunnel's address may be gone with its interface.
        let Ok(socket) = UdpSocket::bind(from) else {
            return Ok(false);
        };
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut buf = [0; 64];
        for _ in 0..6 {
            // Without a way there sending fails at once.
            if socket.send_to(b"who is there?", servers()[0]).is_ok()
                && socket.recv(&mut buf).is_ok()
            {
                return Ok(true);
            }
        }
        Ok(false)
    })?
}

#[test]
fn the_gateways_own_traffic_takes_the_tunnel_where_told_to() -> Result<()> {
    if skip_without_root("the_gateways_own_traffic_takes_the_tunnel_where_told_to") {
        return Ok(());
    }
    let mut scene = Scene::new("tunown")?;
    serve(&scene.lab)?;
    scene.start_sink("")?;
    scene.start_gateway(&Told {
        tunnel: "own_traffic = true",
        ..QUIET
    })?;
    scene.answers()?;
    ensure!(asks(&scene.lab, ANY)?, "no answer to the gateway itself");
    ensure!(scene.lab.in_clear()? == 0, "it went in clear");
    // Nor does it without a tunnel, whoever is killed.
    let supervisor = Pid::from_raw(scene.gateway.as_ref().context("no gateway")?.id() as i32);
    let worker = scene.worker()?;
    kill(supervisor, Signal::SIGKILL)?;
    kill(worker, Signal::SIGKILL)?;
    sleep(Duration::from_millis(300));
    for from in [ANY, INNER] {
        ensure!(!asks(&scene.lab, from)?, "an answer without a tunnel");
    }
    ensure!(scene.lab.in_clear()? == 0, "it went in clear");
    // A start without the option takes the rule away again; what is sent from the tunnel's address takes it all the same.
    scene.gateway = None;
    scene.start_gateway(&QUIET)?;
    ensure!(
        asks(&scene.lab, INNER)?,
        "no answer to the tunnel's address"
    );
    ensure!(scene.lab.in_clear()? == 0, "it went in clear");
    ensure!(asks(&scene.lab, ANY)?, "no answer by the ordinary route");
    ensure!(scene.lab.in_clear()? > 0, "the rule is still there");
    scene.stop()?;
    Ok(())
}

/// Sets the clock of processes that preload it, by a file; the machine's clock stays as it is.
const CLOCK: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Gives a command a wall clock of its own, which `file` sets.
pub(crate) fn own_clock(command: &mut Command, file: &Path) {
    command.env("LD_PRELOAD", CLOCK);
    command.env("FAKETIME_TIMESTAMP_FILE", file);
    command.env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command.env("DONT_FAKE_MONOTONIC", "1");
    command.env("NO_FAKE_STAT", "1");
}

#[test]
fn a_wall_clock_that_is_set_while_the_tunnel_runs_costs_nothing() -> Result<()> {
    let test = "a_wall_clock_that_is_set_while_the_tunnel_runs_costs_nothing";
    if skip_without_root(test) {
        return Ok(());
    }
    if !Path::new(CLOCK).exists() {
        skipped(test, &format!("needs {CLOCK} (package faketime)"));
        return Ok(());
    }
    let mut scene = Scene::new("tunstep")?;
    serve(&scene.lab)?;
    let clock = scene.lab.path("clock");
    fs::write(&clock, "+0\n")?;
    scene.clock = Some(clock.clone());
    scene.start_sink("")?;
    scene.start_gateway(&Told {
        cover: "profile = \"high\"",
        tunnel: "",
    })?;
    scene.answers()?;
    let maps = fs::read_to_string(format!("/proc/{}/maps", scene.worker()?))?;
    ensure!(maps.contains("faketime"), "the clock is not in force");
    for step in ["+1d", "-2d"] {
        let (sent, received, gap) = ping_through(&scene.lab, "-4", SERVER[0], || {
            fs::write(&clock, format!("{step}\n"))?;
            let mut date = Command::new("date");
            own_clock(&mut date, &clock);
            let (there, here) = (
                date.arg("+%s").output()?,
                Command::new("date").arg("+%s").output()?,
            );
            let read = |out: &[u8]| String::from_utf8_lossy(out).trim().parse::<i64>();
            ensure!(
                (read(&there.stdout)? - read(&here.stdout)?).abs() > 80_000,
                "no step"
            );
            Ok(())
        })?;
        println!("both ends' wall clocks set to {step}: {received} of {sent}, longest gap {gap:?}");
        ensure!(received * 100 >= sent * 98, "{step}: {received} of {sent}");
        // The next handshake, a day or two off the one before by the wall clock: packets without an answer make one.
        let count = |scene: &Scene, what: &str| -> Result<u64> {
            scene.peer()?[what].as_u64().context("no count")
        };
        let (sessions, tried) = (count(&scene, "sessions")?, count(&scene, "handshakes_out")?);
        scene.lab.lose(100)?;
        let begin = Instant::now();
        while count(&scene, "handshakes_out")? == tried {
            ensure!(
                begin.elapsed() < Duration::from_secs(60),
                "silence goes unnoticed after {step}"
            );
            ping(&scene.lab, "-4 -n -c 1 -W 1", SERVER[0])?;
        }
        scene.lab.lose(0)?;
        let begin = Instant::now();
        while count(&scene, "sessions")? == sessions {
            ensure!(
                begin.elapsed() < Duration::from_secs(30),
                "no handshake after {step}"
            );
            sleep(Duration::from_millis(50));
        }
        println!(
            "handshake after {step}: {:?} after the network was back",
            begin.elapsed()
        );
        scene.answers()?;
    }
    ensure!(scene.lab.in_clear()? == 0);
    scene.stop()?;
    Ok(())
}
