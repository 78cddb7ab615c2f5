//! The sink-server under a million datagrams that are not its gateway's.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use chaff_abi::{Dir, Nanos};
use chaff_tests::{Running, program};
use chaff_wire::{Key, Kind, Sealer};
use nix::sys::signal::Signal;

const HOSTILE: u64 = 1_000_000;
/// Datagrams between two looks at whether the sink keeps up.
const BURST: u64 = 100;

fn unix() -> Nanos {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Nanos(since.as_nanos() as u64)
}

/// Resident memory of a process, KiB.
fn resident(id: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text
        .lines()
        .find(|l| l.starts_with("VmRSS"))
        .context("no VmRSS")?;
    Ok(line
        .split_whitespace()
        .nth(1)
        .context("no number")?
        .parse()?)
}

/// Bytes that wait in the receive buffer of a local UDP port, and datagrams dropped there.
fn waiting(port: u16) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/net/udp")?;
    let line = text
        .lines()
        .find(|l| l.contains(&format!(":{port:04X} 00000000")))
        .context("no socket")?;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let queue = u64::from_str_radix(fields[4].split_once(':').context("no queue")?.1, 16)?;
    Ok((queue, fields[fields.len() - 1].parse()?))
}

/// Cheap reproducible numbers (SplitMix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn root_is_no_user_to_become() -> Result<()> {
    if !nix::unistd::getuid().is_root() {
        println!("skipped: needs root");
        return Ok(());
    }
    let out = Command::new(program("sink-server")?)
        .args(["--echo", "127.0.0.1:0", "--user", "root"])
        .output()?;
    let text = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.code() == Some(2), "{:?} {text}", out.status);
    ensure!(
        text.contains("--user") && text.contains("is root"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_million_hostile_datagrams_are_refused_in_silence_and_without_memory() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let key_file = dir.path().join("key");
    std::fs::write(&key_file, "a1".repeat(31) + "b2")?;
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600))?;
    let key = Key::parse(&std::fs::read_to_string(&key_file)?)?;
    let free = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let report = dir.path().join("sink.json");
    let mut command = Command::new(program("sink-server")?);
    command
        .args(["--listen", &free.to_string(), "--key"])
        .arg(&key_file)
        .arg("--report")
        .arg(&report);
    let mut sink = Running::start("sink-server", command)?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(free)?;
    socket.set_nonblocking(true)?;
    let mut ready = false;
    for _ in 0..500 {
        ready = ready || waiting(free.port()).is_ok();
        if ready {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    ensure!(ready, "the sink does not listen");

    let mut good = Sealer::new(&key, Dir::Out, 7, unix());
    let mut buf = [0; 1_400];
    let mut reserve = Vec::new();
    for _ in 0..2_000 {
        reserve.push(good.seal(unix(), Kind::Cover, b"", 120, &mut buf)?.to_vec());
    }
    for datagram in &reserve {
        send(&socket, datagram, free.port())?;
    }
    settle(free.port())?;
    if nix::unistd::getuid().is_root() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", sink.id()))?;
        for line in [
            "Uid:\t65534\t65534\t65534\t65534",
            "CapPrm:\t0000000000000000",
            "Seccomp:\t2",
        ] {
            ensure!(status.contains(line), "no {line} in {status}");
        }
    }
    let before = resident(sink.id())?;
    let mut rng = 1;
    for i in 0..HOSTILE {
        let pick = &reserve[(next(&mut rng) % 2_000) as usize];
        let mut d = pick.clone();
        match i % 4 {
            0 => {
                let bit = next(&mut rng) as usize % (d.len() * 8);
                d[bit / 8] ^= 1 << (bit % 8);
            }
            1 => d.truncate(next(&mut rng) as usize % d.len()),
            2 => {}
            _ => d.iter_mut().for_each(|b| *b = next(&mut rng) as u8),
        }
        socket.send(&d).or_else(|e| {
            if e.kind() == std::io::ErrorKind::WouldBlock {
                Ok(0)
            } else {
                Err(e)
            }
        })?;
        if i % BURST == 0 {
            settle(free.port())?;
        }
    }
    settle(free.port())?;
    let after = resident(sink.id())?;
    let (_, dropped) = waiting(free.port())?;
    let answer = socket.recv(&mut buf).map_err(|e| e.kind());
    ensure!(
        sink.stop(Signal::SIGTERM, Duration::from_secs(10))?
            .success(),
        "the sink ended badly"
    );

    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report)?)?;
    let refused: u64 = report["refused"]
        .as_object()
        .context("no counts")?
        .values()
        .filter_map(|v| v.as_u64())
        .sum();
    eprintln!(
        "{refused} refused, {dropped} dropped by the kernel, memory {before} -> {after} KiB: {}",
        report["refused"]
    );
    assert_eq!(
        report["cover"]["packets"].as_u64(),
        Some(2_000),
        "only the authentic ones count"
    );
    assert_eq!(refused + dropped, HOSTILE);
    assert_eq!(dropped, 0, "the sender outran the socket");
    assert_eq!(
        answer,
        Err(std::io::ErrorKind::WouldBlock),
        "the sink answered"
    );
    ensure!(
        after <= before + 512,
        "memory grew from {before} to {after} KiB"
    );
    Ok(())
}

fn send(socket: &UdpSocket, d: &[u8], port: u16) -> Result<()> {
    socket.send(d)?;
    settle(port)
}

/// Waits until the sink has taken everything.
fn settle(port: u16) -> Result<()> {
    for _ in 0..20_000 {
        if waiting(port)?.0 == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    anyhow::bail!("the sink does not keep up")
}
