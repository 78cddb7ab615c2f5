//! A flood of flows that are all new through the whole gateway: the home stays connected, every packet is in a flow record
//! or in the counted overflow, and cover goes on as planned.
//!
//! 300,000 packets once; with `CHAFF_LONG=1` in a second run seventeen times, 5.1 million.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use chaff_abi::{Mac, Nanos};
use chaff_flow::Link;
use chaff_sim::frame;
use chaff_tests::stage::{Stage, rows};
use chaff_tests::{fixture, program, skip_without_root};
use chaff_trace::PcapWriter;
use serde_json::Value;

/// Packets of the capture, each its own flow.
const FLOWS: u64 = 300_000;
/// Flows that kernel and gateway hold.
const MAX_FLOWS: u64 = 65_536;
/// Multiplying by an odd number maps the numbers of 64 bits one to one, and small ones all over the place.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Of the cover's plan.
const SEED: u64 = 11;
/// Slots that are planned at once.
const BLOCK: u64 = 10;
/// The first slot that counts comes at the latest so many slots after the start.
const LATEST: u64 = 60;
/// How much of the plan must be kept, per cent: the machine may stand still for a moment.
const KEPT: u64 = 95;

/// UDP packets between the camera of `devices.csv` and strangers; every fourth one goes to the camera. The stranger's
/// address and both ports are 64 bits that no other packet has.
fn flood(stage: &Stage) -> Result<PathBuf> {
    let file = stage.path("flood.pcap");
    let mut out = PcapWriter::new(BufWriter::new(File::create(&file)?), Link::Ethernet)?;
    let mut bytes = Vec::new();
    for i in 0..FLOWS {
        let [a, b, c, d, e, f, g, h] = i.wrapping_mul(SPREAD).to_be_bytes();
        let device = Ipv4Addr::new(192, 168, 77, 11);
        let mut path = frame::Path {
            src_mac: Mac([2, 0, 0x5e, 0x10, 0, 2]),
            dst_mac: Mac([2, 0, 0x5e, 0x10, 0, 9]),
            src: SocketAddrV4::new(device, u16::from_be_bytes([e, f])),
            dst: SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([g, h])),
        };
        if i % 4 == 3 {
            path = path.reversed();
        }
        path.build(&i.to_be_bytes().repeat(3), &mut bytes);
        let at = Nanos::from_secs(1_700_000_000) + Nanos(i * 10_000);
        out.write(at, &bytes, bytes.len())?;
    }
    out.into_inner()?;
    Ok(file)
}

fn number(v: &Value, path: &str) -> Result<u64> {
    v.pointer(path)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number {path} in {v}"))
}

/// Frames that the kernel itself threw away on the way across: queues of virtual interfaces that were full before the
/// receiving processor came to them.
fn kernel_drops(stage: &Stage) -> Result<u64> {
    let spaces = stage.home.topology();
    let mut drops = 0;
    for (space, interface) in [
        (spaces.home(), "dev0"),
        (spaces.gateway(), "lan0"),
        (spaces.gateway(), "wan0"),
        (spaces.network(), "srv0"),
    ] {
        let out = Command::new("ip")
            .args([
                "-netns", &space, "-json", "-stats", "link", "show", interface,
            ])
            .output()?;
        let links: Value = serde_json::from_slice(&out.stdout)
            .with_context(|| format!("ip -stats link show {interface}"))?;
        for side in ["rx", "tx"] {
            let n = number(&links, &format!("/0/stats64/{side}/dropped"))?;
            if n > 0 {
                eprintln!("{interface}: {n} {side} dropped");
            }
            drops += n;
        }
    }
    Ok(drops)
}

/// Packets and lines of a file of flow records; cover is in other columns.
fn recorded(path: &Path) -> Result<(u64, u64)> {
    let mut lines = BufReader::new(File::open(path)?).lines();
    let header = lines.next().context("no header")??;
    let column = header
        .split(',')
        .position(|h| h == "packets")
        .context("no column packets")?;
    let (mut packets, mut records) = (0, 0);
    for line in lines {
        let line = line?;
        let cell = line.split(',').nth(column).context("a short line")?;
        packets += cell.parse::<u64>()?;
        records += 1;
    }
    Ok((packets, records))
}

/// Dummies towards the sink by slot, all devices together.
fn planned(slots: &Path) -> Result<BTreeMap<u64, u64>> {
    let (header, lines) = rows(slots)?;
    let column = header
        .iter()
        .position(|h| h == "cover_out_packets")
        .context("no column cover_out_packets")?;
    let mut plan = BTreeMap::new();
    for line in &lines {
        let slot = line[0].parse()?;
        *plan.entry(slot).or_default() += line[column].parse::<u64>()?;
    }
    Ok(plan)
}

/// The same seed's plan in virtual time, where there is no flood.
fn quiet_plan(stage: &Stage, devices: &Path, seconds: f64) -> Result<BTreeMap<u64, u64>> {
    let out = stage.path("quiet");
    let simulated = Command::new(program("gateway")?)
        .args([
            "simulate",
            "--cover",
            "constant",
            "--seed",
            &SEED.to_string(),
        ])
        .args(["--duration", &seconds.ceil().to_string(), "--pcap"])
        .arg(fixture("demo.pcap")?)
        .arg("--devices")
        .arg(devices)
        .arg("--out")
        .arg(&out)
        .output()?;
    ensure!(simulated.status.success(), "simulate: {simulated:?}");
    planned(&out.join("slots.csv"))
}

/// Cover kept to the plan that it would have had without the flood, and left in time.
fn check_cover(stage: &Stage, devices: &Path, report: &Value) -> Result<()> {
    let seconds = report["uptime_s"].as_f64().context("no uptime_s")?;
    let live = planned(&stage.state("slots.csv"))?;
    let quiet = quiet_plan(stage, devices, seconds)?;
    // The first block began while programs were attached, and the last slots may be cut.
    let first = live.iter().find(|(_, n)| **n > 0).map(|(slot, _)| *slot);
    let start = first.context("no cover at all")? + BLOCK;
    ensure!(start <= LATEST, "cover begins with slot {start}");
    let end = live
        .keys()
        .next_back()
        .map_or(0, |last| last.saturating_sub(2));
    let sum = |plan: &BTreeMap<u64, u64>| {
        plan.range(start..end.max(start))
            .map(|(_, n)| n)
            .sum::<u64>()
    };
    let (wanted, got) = (sum(&quiet), sum(&live));
    let number = |path: &str| number(report, path);
    let missed = number("/gateway/slots_missed")?;
    let sent = number("/injector/stats/sent")?;
    let handed_out = number("/gateway/cover/packets")? + number("/gateway/schedules/packets")?;
    // What was to leave after the stop.
    let later = number("/injector/stats/dropped_paused")? + number("/injector/stats/waiting")?;
    let handed_out = handed_out - later;
    let too_late = number("/injector/stats/dropped_late")?;
    eprintln!(
        "cover: {got} dummies planned of {wanted} without a flood, in {} slots ({missed} missed, those of the start among them); {sent} of {handed_out} \
         datagrams sent, {} of them over 1 ms late, {too_late} dropped as too late; lateness in us {}",
        end.saturating_sub(start),
        number("/injector/stats/late")?,
        report["injector"]["lateness_us"],
    );
    ensure!(wanted > 0, "nothing was planned: {report}");
    ensure!(
        got * 100 >= wanted * KEPT,
        "{got} dummies planned, {wanted} without a flood"
    );
    ensure!(
        sent * 100 >= handed_out * KEPT,
        "{sent} of {handed_out} datagrams sent: {}",
        report["injector"]
    );
    Ok(())
}

/// Sends the flood `loops` times across a gateway that covers, and checks both accounts: of the replay and of the meter.
fn attack(prefix: &str, loops: u64, with_records: bool) -> Result<()> {
    let devices = fixture("devices.csv")?;
    let mut stage = Stage::new(prefix)?;
    if !with_records {
        "flows = \"\"\nslots = \"slots.csv\"".clone_into(&mut stage.export);
    }
    let capture = flood(&stage)?;
    stage.start_sink()?;
    stage.start_gateway(
        &devices,
        &format!("generator = \"constant\"\nseed = {SEED}"),
        &format!("[flows]\nmax_flows = {MAX_FLOWS}"),
    )?;
    let drops_before = kernel_drops(&stage)?;
    let started = Instant::now();
    let loops_text = loops.to_string();
    let status = stage
        .replay(
            &capture,
            &devices,
            &["--topspeed", "--quiet", "--loop", &loops_text],
        )?
        .status()?;
    let took = started.elapsed().as_secs_f64();
    let drops = kernel_drops(&stage)? - drops_before;
    let report = stage.stop_gateway()?;
    let sink = stage.stop_sink()?;

    // Every packet crossed, once and unchanged, but for what the kernel says it dropped on its own.
    let replay: Value = serde_json::from_slice(&std::fs::read(stage.path("replay.json"))?)?;
    let sent = number(&replay, "/packets")?;
    ensure!(sent == FLOWS * loops, "{sent} sent: {status}");
    let (mut lost, mut unread) = (0, 0);
    for d in replay["verify"]["directions"]
        .as_array()
        .context("no directions")?
    {
        for never in ["/altered", "/foreign", "/duplicated"] {
            ensure!(number(d, never)? == 0, "{d}");
        }
        lost += number(d, "/lost")?;
        unread += number(d, "/receiver_dropped")?;
    }
    let retries: u64 = (0..2)
        .map(|i| number(&replay, &format!("/lanes/{i}/retries")))
        .sum::<Result<u64>>()?;
    eprintln!(
        "{sent} packets of {FLOWS} flows in {took:.1} s, {:.0} packets/s; {lost} did not arrive, the kernel counts \
         {drops} drops between the ends and {unread} in the receiving sockets; {retries} sends were repeated",
        replay["packets_per_second"].as_f64().unwrap_or(0.0),
    );
    ensure!(
        lost <= drops + unread,
        "{lost} packets did not arrive, but only {drops} + {unread} are accounted for"
    );

    // All that the meter saw is in records or counted.
    let meter = |name: &str| number(&report, &format!("/meter/{name}"));
    let (seen, flow, ring, overflow) = (
        meter("seen")?,
        meter("flow")?,
        meter("ring")?,
        meter("lost")?,
    );
    let in_records = number(&report, "/recorded_packets")?;
    eprintln!(
        "{seen} seen: {flow} in the map, {ring} through the ring, {overflow} overflow; cover {} and {} overflow; {}",
        meter("cover")?,
        meter("cover_lost")?,
        sink["received"]
    );
    ensure!(
        seen <= sent && sent - seen <= drops,
        "{seen} seen of {sent}, {drops} dropped"
    );
    ensure!(
        meter("not_ip")? == 0 && meter("malformed")? == 0,
        "{}",
        report["meter"]
    );
    ensure!(seen == flow + ring + overflow, "{}", report["meter"]);
    ensure!(
        in_records == flow + ring,
        "{in_records} of {}",
        report["meter"]
    );
    ensure!(number(&report, "/direct_records")? >= ring, "{report}");
    ensure!(number(&report, "/unrecorded_packets")? == 0, "{report}");
    ensure!(number(&report, "/drain_errors")? == 0, "{report}");
    ensure!(number(&report, "/output_errors")? == 0, "{report}");
    if with_records {
        let (packets, records) = recorded(&stage.state("flows.csv"))?;
        ensure!(
            packets == in_records,
            "{packets} in flows.csv, {in_records} recorded"
        );
        eprintln!("{records} flow records");
    }
    check_cover(&stage, &devices, &report)?;
    ensure!(
        sink["refused"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty),
        "{sink}"
    );
    Ok(())
}

#[test]
fn every_packet_of_a_flood_of_new_flows_crosses_and_is_accounted_for() -> Result<()> {
    if skip_without_root("every_packet_of_a_flood_of_new_flows_crosses_and_is_accounted_for") {
        return Ok(());
    }
    attack("flood", 1, true)?;
    if std::env::var_os("CHAFF_LONG").is_some_and(|v| v == "1") {
        attack("deluge", 17, false)?;
    }
    Ok(())
}
