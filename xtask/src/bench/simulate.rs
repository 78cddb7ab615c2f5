//! A thousand devices in virtual time, four homes of 250: how many seconds of them one core computes in a second of CPU time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::measure::Used;
use super::offline::gateway;
use super::{Options, household::Random};
use crate::command;
use crate::pcap::{Capture, Frame};

const HOMES: usize = 4;
/// Of each home.
const DEVICES: u32 = 250;
/// Virtual time.
const SECONDS: u64 = 60;
/// Time between a device's packets, milliseconds.
const EVERY: u64 = 2_000;
/// 2026-03-01 18:00:00 UTC.
const START_S: u64 = 1_772_388_000;
/// What makes cover, the mode it needs.
const COVERS: [(&str, &str); 5] = [
    ("none", "plain"),
    ("random", "plain"),
    ("learned", "plain"),
    ("ipet", "plain"),
    ("envelope", "tunnel"),
];

/// Runs `gateway simulate` on devices that send a datagram every two seconds and get an answer; medians over rounds that take
/// turns, as `/realtime/COVER`: virtual seconds for each CPU second.
pub(super) fn measure(options: &Options) -> Result<Value> {
    let gateway = gateway(options)?;
    let folder = std::env::temp_dir().join(format!("chaff-bench-simulate-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("while making {}", folder.display()))?;
    let measured = rounds(options, &gateway, &folder);
    fs::remove_dir_all(&folder).with_context(|| format!("while removing {}", folder.display()))?;
    measured
}

fn rounds(options: &Options, gateway: &Path, folder: &Path) -> Result<Value> {
    let homes: Vec<[PathBuf; 2]> = (0..HOMES)
        .map(|home| ["pcap", "csv"].map(|kind| folder.join(format!("home{home}.{kind}"))))
        .collect();
    let mut packets = 0;
    for (home, [capture, list]) in homes.iter().enumerate() {
        packets += write(capture, list, home as u64)?;
    }
    let mut cpu = vec![Vec::new(); COVERS.len()];
    let mut dummies = vec![0usize; COVERS.len()];
    for round in 1..=options.rounds {
        for (k, (cover, mode)) in COVERS.iter().enumerate() {
            eprintln!("round {round} of {}: {cover}", options.rounds);
            let (mut seconds, mut real) = (0.0, 0);
            dummies[k] = 0;
            for [capture, list] in &homes {
                let out = folder.join("out");
                let mut measure = Command::new(std::env::current_exe()?);
                measure.arg("measure");
                measure.arg("--stdout").arg(folder.join("stdout"));
                measure.arg("--stderr").arg(folder.join("stderr"));
                measure.arg("--").arg(gateway).arg("simulate");
                measure.arg("--pcap").arg(capture);
                measure.arg("--devices").arg(list).arg("--out").arg(&out);
                measure.args(["--json", "--cover", cover, "--mode", mode, "--duration"]);
                measure.arg(SECONDS.to_string());
                let used: Used = serde_json::from_str(&command::output(measure)?)?;
                let said = fs::read_to_string(folder.join("stderr")).unwrap_or_default();
                ensure!(used.code == 0, "gateway simulate: {}", said.trim());
                seconds += used.cpu_s;
                // What an observer sees: every packet of the capture, and the cover.
                let seen = fs::read_to_string(out.join("packets.csv"))?;
                for line in seen.lines().skip(1) {
                    match line.split(',').nth(3) {
                        Some("1") => dummies[k] += 1,
                        _ => real += 1,
                    }
                }
            }
            ensure!(real >= packets, "{real} of {packets} packets came through");
            cpu[k].push(seconds);
        }
    }
    let mut result =
        json!({"homes": HOMES, "devices": DEVICES, "seconds": SECONDS, "packets": packets});
    for ((cover, _), (mut cpu, dummies)) in COVERS.iter().zip(cpu.into_iter().zip(dummies)) {
        cpu.sort_by(f64::total_cmp);
        let median = cpu[cpu.len() / 2];
        result["realtime"][cover] = json!(SECONDS as f64 / median);
        result["dummies"][cover] = json!(dummies);
        eprintln!("{cover}: {median:.2} CPU s for {SECONDS} s, {dummies} dummies");
    }
    Ok(result)
}

/// Writes capture and list of devices; gives the packets.
fn write(capture: &Path, list: &Path, seed: u64) -> Result<usize> {
    let mut random = Random::new(seed);
    let mut frames = Vec::new();
    let mut text = String::from("device,mac,ip,label\n");
    for device in 0..DEVICES {
        let [_, _, high, low] = device.to_be_bytes();
        let mac = [2, 0, 0x5e, 0x30, high, low];
        let ip = [10, 1, high, low];
        text.push_str(&format!(
            "d{device},02:00:5e:30:{high:02x}:{low:02x},{}.{}.{}.{},d{device}\n",
            ip[0], ip[1], ip[2], ip[3]
        ));
        let mut at = random.below(EVERY);
        while at < (SECONDS - 1) * 1_000 {
            for (out, later) in [(true, 0), (false, 30)] {
                let bytes = datagram(mac, ip, out, 40 + random.below(400) as usize);
                frames.push(Frame {
                    at: START_S * 1_000_000_000 + (at + later) * 1_000_000,
                    wire_len: bytes.len() as u32,
                    bytes,
                });
            }
            at += EVERY / 2 + random.below(EVERY);
        }
    }
    frames.sort_by_key(|f| f.at);
    let packets = frames.len();
    Capture { frames }.write(capture)?;
    fs::write(list, text).with_context(|| format!("while writing {}", list.display()))?;
    Ok(packets)
}

/// Ethernet, IPv4, UDP between a device and a server behind a router.
fn datagram(mac: [u8; 6], ip: [u8; 4], out: bool, payload: usize) -> Vec<u8> {
    let (router, server) = ([2, 0, 0x5e, 0x20, 0, 1], [198, 51, 100, 7]);
    let (macs, ips, ports) = if out {
        ([router, mac], [ip, server], [40_000u16, 443])
    } else {
        ([mac, router], [server, ip], [443, 40_000])
    };
    let mut head = vec![0x45, 0];
    head.extend((28 + payload as u16).to_be_bytes());
    head.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    head.extend(ips.concat());
    let words = head
        .chunks_exact(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    head[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let mut frame = macs.concat();
    frame.extend([8, 0]);
    frame.extend(head);
    frame.extend(ports.map(u16::to_be_bytes).concat());
    frame.extend((8 + payload as u16).to_be_bytes());
    // No checksum, as IPv4 allows.
    frame.extend([0, 0]);
    frame.resize(42 + payload, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_listed_once_and_sends() {
        let folder =
            std::env::temp_dir().join(format!("chaff-simulate-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (capture, list) = (folder.join("a.pcap"), folder.join("a.csv"));
        let packets = write(&capture, &list, 1).unwrap();
        let read = Capture::read(&capture).unwrap();
        let text = fs::read_to_string(&list).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(read.frames.len(), packets);
        let mut macs: Vec<[u8; 6]> = read.frames.iter().map(|f| f.macs()[1]).collect();
        macs.sort();
        macs.dedup();
        // The router answers.
        assert_eq!(macs.len(), DEVICES as usize + 1);
        let mut ips: Vec<&str> = text
            .lines()
            .skip(1)
            .filter_map(|l| l.split(',').nth(2))
            .collect();
        ips.sort();
        ips.dedup();
        assert_eq!(ips.len(), DEVICES as usize);
    }
}
