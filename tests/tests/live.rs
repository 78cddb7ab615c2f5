//! The live gateway against virtual time: same capture, same seed, same records and same cover.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use chaff_tests::stage::{Stage, rows};
use chaff_tests::{fixture, program, skip_without_root};

const SEED: u64 = 11;

/// Key, counts and sizes of a flow record (not the order of its first packets: two that are microseconds apart in opposite
/// directions may swap on a live wire); times apart, in ns since the first record's start.
type Flow = (Vec<String>, [i64; 2]);

fn flows(path: &Path) -> Result<Vec<Flow>> {
    let (header, lines) = rows(path)?;
    let at = |name: &str| {
        header
            .iter()
            .position(|h| h == name)
            .with_context(|| format!("no column {name}"))
    };
    let names = [
        "src_ip",
        "src_port",
        "dst_ip",
        "dst_port",
        "protocol",
        "vlan_id",
        "packets",
        "bytes",
        "wire_bytes",
        "payload_bytes",
        "tcp_flags",
        "fwd_packets",
        "fwd_bytes",
        "fwd_bytes_min",
        "fwd_bytes_max",
        "bwd_packets",
        "bwd_bytes",
        "bwd_bytes_min",
        "bwd_bytes_max",
    ];
    let exact = names.iter().map(|n| at(n)).collect::<Result<Vec<_>>>()?;
    let (cover, start, end) = (at("fwd_cover_packets")?, at("start_ns")?, at("end_ns")?);
    let mut out = Vec::new();
    for l in &lines {
        // Flows of cover alone exist only where cover is a real packet on a real interface.
        if l[cover] != "0" {
            continue;
        }
        let times = [l[start].parse()?, l[end].parse()?];
        let mut fields: Vec<String> = exact.iter().map(|i| l[*i].clone()).collect();
        // Two packets that are microseconds apart in opposite directions may swap on a live wire, and then the other end
        // counts as the initiator: compare with the smaller end first.
        if (&fields[0], &fields[1]) > (&fields[2], &fields[3]) {
            for (a, b) in [(0, 2), (1, 3), (11, 15), (12, 16), (13, 17), (14, 18)] {
                fields.swap(a, b);
            }
        }
        out.push((fields, times));
    }
    let first = out.iter().map(|(_, t): &Flow| t[0]).min().unwrap_or(0);
    for (_, t) in &mut out {
        *t = t.map(|ns| ns - first);
    }
    out.sort();
    Ok(out)
}

/// Planned cover of each slot and device.
fn cover(path: &Path) -> Result<BTreeMap<(u64, String), Vec<String>>> {
    let (header, lines) = rows(path)?;
    let from = header
        .iter()
        .position(|h| h == "cover_out_packets")
        .context("no cover column")?;
    lines
        .iter()
        .map(|l| Ok(((l[0].parse()?, l[2].clone()), l[from..].to_vec())))
        .filter(|r: &Result<(_, Vec<String>)>| {
            r.as_ref().is_ok_and(|(_, c)| c.iter().any(|n| n != "0")) || r.is_err()
        })
        .collect()
}

#[test]
fn live_gateway_and_virtual_time_agree() -> Result<()> {
    if skip_without_root("live_gateway_and_virtual_time_agree") {
        return Ok(());
    }
    let (capture, devices) = (fixture("demo.pcap")?, fixture("devices.csv")?);
    let mut stage = Stage::new("agree")?;
    stage.start_sink()?;
    stage.start_gateway(
        &devices,
        &format!("generator = \"random\"\nseed = {SEED}"),
        "",
    )?;
    let replayed = stage
        .replay(&capture, &devices, &["--only-devices"])?
        .status()?;
    ensure!(replayed.success(), "replay: {replayed}");
    let report = stage.stop_gateway()?;
    let sink = stage.stop_sink()?;

    let out = stage.path("sim");
    let mut simulate = Command::new(program("gateway")?);
    simulate
        .arg("simulate")
        .arg("--pcap")
        .arg(&capture)
        .arg("--devices")
        .arg(&devices);
    simulate
        .args(["--cover", "random", "--seed", &SEED.to_string(), "--out"])
        .arg(&out);
    let simulated = simulate.status()?;
    ensure!(simulated.success(), "simulate: {simulated}");

    // Every packet once, in one record, unchanged at the other side.
    let replay: serde_json::Value =
        serde_json::from_slice(&std::fs::read(stage.path("replay.json"))?)?;
    let sent = replay["packets"]
        .as_u64()
        .context("replay.json has no packets")?;
    let number = |v: &serde_json::Value, path: &str| {
        v.pointer(path)
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0)
    };
    ensure!(
        sent > 500,
        "the capture is too small to say anything: {sent}"
    );
    ensure!(
        number(&report, "/meter/seen") == sent,
        "replayed {sent}, metered {}",
        report["meter"]
    );
    let records = flows(&stage.state("flows.csv"))?;
    let packets: u64 = records
        .iter()
        .map(|(f, _)| f[6].parse::<u64>().unwrap_or(0))
        .sum();
    let ignored = number(&report, "/meter/not_ip") + number(&report, "/meter/malformed");
    ensure!(
        packets + ignored == sent,
        "{packets} in records and {ignored} ignored of {sent}"
    );

    // Same records as in virtual time.
    let virtual_records = flows(&out.join("flows.csv"))?;
    ensure!(
        records.len() == virtual_records.len(),
        "{} and {} records",
        records.len(),
        virtual_records.len()
    );
    let mut off: Vec<i64> = Vec::new();
    for (a, b) in records.iter().zip(&virtual_records) {
        assert_eq!(a.0, b.0);
        off.extend((0..2).map(|i| (a.1[i] - b.1[i]).abs()));
    }
    off.sort_unstable();
    let p99 = off[off.len() * 99 / 100] as f64 / 1e6;
    eprintln!(
        "{} records equal; times differ by {p99:.3} ms at p99, {:.3} ms at most",
        records.len(),
        off[off.len() - 1] as f64 / 1e6
    );

    // Same cover in every slot that both planned.
    let (live, simulated) = (
        cover(&stage.state("slots.csv"))?,
        cover(&out.join("slots.csv"))?,
    );
    let last = live
        .keys()
        .next_back()
        .map_or(0, |k| k.0)
        .min(simulated.keys().next_back().map_or(0, |k| k.0));
    // The live gateway skips slots that were over before its programs were attached.
    let first = live.keys().next().map_or(0, |k| k.0);
    let both = |m: BTreeMap<(u64, String), Vec<String>>| -> BTreeMap<_, _> {
        m.into_iter()
            .filter(|(k, _)| (first..last).contains(&k.0))
            .collect()
    };
    let (live, simulated) = (both(live), both(simulated));
    ensure!(first < 100, "the first slot with cover is {first}");
    ensure!(live.len() > 50, "too few slots with cover: {}", live.len());
    ensure!(
        live.len() == simulated.len(),
        "{} and {} slots",
        live.len(),
        simulated.len()
    );
    for (slot, cover) in &live {
        assert_eq!(Some(cover), simulated.get(slot), "slot {slot:?}");
    }

    // All cover that was sent is authentic at the sink; what the kernel marked is what was sent.
    ensure!(
        number(&sink, "/received/packets") == number(&report, "/injector/stats/sent"),
        "{sink} {}",
        report["injector"]
    );
    ensure!(
        sink["refused"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty),
        "{sink}"
    );
    eprintln!(
        "{} slots with equal cover; {} datagrams at the sink",
        live.len(),
        sink["received"]["packets"]
    );
    Ok(())
}

/// A generator that looks at the past, has a secret, counts by size and stops and starts by a mask, as `trainer cover` makes it.
#[test]
fn a_trained_model_with_every_option_covers_live() -> Result<()> {
    if skip_without_root("a_trained_model_with_every_option_covers_live") {
        return Ok(());
    }
    const SIZES: [&str; 3] = ["68", "516", "1200"];
    let (capture, devices) = (fixture("demo.pcap")?, fixture("devices.csv")?);
    let mut stage = Stage::new("trained")?;
    let model = stage.path("all.onnx");
    let mut train = Command::new(program("trainer")?);
    train.args(["cover", "--shared", "--stages", "1", "--epochs", "3"]);
    train.args(["--attacker-epochs", "2", "--seed", "3"]);
    train.args(["--past", "5", "--secret", "4", "--sizes", &SIZES.join(",")]);
    train.args(["--mask-hold", "30", "--mask-pause", "60", "--pcap"]);
    train.arg(&capture).arg("--devices").arg(&devices);
    let trained = train.arg("--output").arg(&model).output()?;
    ensure!(
        trained.status.success(),
        "trainer: {}",
        String::from_utf8_lossy(&trained.stderr)
    );
    stage.start_sink()?;
    let generator = format!("generator = {model:?}\nmax_payload = 1300");
    stage.start_gateway(&devices, &generator, "")?;
    let replayed = stage
        .replay(&capture, &devices, &["--only-devices", "--speed", "6"])?
        .status()?;
    ensure!(replayed.success(), "replay: {replayed}");
    let report = stage.stop_gateway()?;
    let sink = stage.stop_sink()?;
    let sent = report.pointer("/injector/stats/sent");
    ensure!(
        sent == sink.pointer("/received/packets") && sent.is_some_and(|n| n.as_u64() > Some(50)),
        "{report} {sink}"
    );
    let (header, lines) = rows(&stage.path("sink-packets.csv"))?;
    let column = |name: &str| {
        let at = header.iter().position(|h| h == name);
        at.with_context(|| format!("no column {name}"))
    };
    let (size, verdict) = (column("size_bytes")?, column("verdict")?);
    // The other rows are schedules for the way back, and that.
    let mut seen: Vec<u32> = Vec::new();
    for l in lines.iter().filter(|l| l[verdict] == "cover") {
        seen.push(l[size].parse()?);
    }
    let dummies = seen.len();
    seen.sort_unstable();
    seen.dedup();
    let wanted = SIZES.iter().map(|s| Ok(s.parse::<u32>()? + 28));
    let wanted = wanted.collect::<Result<Vec<_>>>()?;
    ensure!(
        dummies > 50 && seen.iter().all(|s| wanted.contains(s)),
        "{seen:?}, wanted {wanted:?}"
    );
    eprintln!("{dummies} dummies of sizes {seen:?} at the sink");
    Ok(())
}

#[test]
fn nothing_stays_attached_after_a_clean_stop() -> Result<()> {
    if skip_without_root("nothing_stays_attached_after_a_clean_stop") {
        return Ok(());
    }
    let mut stage = Stage::new("clean")?;
    stage.start_sink()?;
    stage.start_gateway(&fixture("devices.csv")?, "generator = \"constant\"", "")?;
    ensure!(stage.pins().exists(), "no pins while running");
    let id = stage.gateway_id();
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = |name: &str| {
        status
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or("")
            .to_owned()
    };
    ensure!(
        line("CapEff").ends_with("0000000000000000"),
        "{}",
        line("CapEff")
    );
    ensure!(
        !line("Uid").split_whitespace().any(|w| w == "0"),
        "{}",
        line("Uid")
    );
    let attached = attached(&stage)?;
    ensure!(attached >= 4, "{attached} programs attached");

    // Cover goes on without real traffic, and `top` shows for which devices.
    let look = stage.ask(&["top", "--rounds", "1", "--interval", "2s", "--json"])?;
    let covered = look["devices"].as_array().context("no devices")?.iter();
    let covered = covered
        .filter(|d| d["cover_packets_per_s"][0].as_f64() > Some(0.0))
        .count();
    ensure!(covered > 0, "no device has cover: {look}");
    ensure!(look["seconds"].as_f64() >= Some(1.5), "{look}");

    // Pause and resume through the control socket.
    stage.ask(&["pause", "1h", "--json"])?;
    ensure!(stage.status()?["paused"] == true, "not paused");
    stage.ask(&["resume", "--json"])?;
    ensure!(stage.status()?["paused"] == false, "still paused");

    stage.stop_gateway()?;
    ensure!(!stage.pins().exists(), "pins remain");
    ensure!(self::attached(&stage)? == 0, "programs remain attached");
    ensure!(
        !stage.state("control.sock").exists(),
        "the control socket remains"
    );
    Ok(())
}

/// Programs on the gateway's interfaces, as the kernel lists them.
fn attached(stage: &Stage) -> Result<usize> {
    use aya::programs::{SchedClassifier, TcAttachType};
    xtask::netns::inside(&stage.home.topology().gateway(), || -> Result<usize> {
        let mut programs = 0;
        for interface in ["lan0", "wan0"] {
            for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                let (_, on) = SchedClassifier::query_tcx(interface, side)
                    .with_context(|| format!("while asking what is attached to {interface}"))?;
                programs += on.len();
            }
        }
        Ok(programs)
    })?
}
