//! The home stays connected whatever happens to the gateway.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_tests::stage::Stage;
use chaff_tests::{Running, fixture, skip_without_root};
use chaff_trace::PcapWriter;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PACKETS: u64 = 24_000;
const RATE: u64 = 1_000;
/// Time given to a gateway that hung to write down what it missed.
const CATCH_UP: Duration = Duration::from_secs(8);

/// UDP packets of one device, alternating in direction, each with its number inside.
fn capture(stage: &Stage) -> Result<std::path::PathBuf> {
    use chaff_sim::frame::Path;
    let path = Path {
        src_mac: chaff_abi::Mac([2, 0, 0x5e, 0x10, 0, 1]),
        dst_mac: chaff_abi::Mac([2, 0, 0x5e, 0x10, 0, 9]),
        src: "192.168.77.10:5000".parse()?,
        dst: "198.51.100.7:9000".parse()?,
    };
    let file = stage.path("thousand.pcap");
    let mut out = PcapWriter::new(File::create(&file)?, Link::Ethernet)?;
    let mut frame = Vec::new();
    for i in 0..PACKETS {
        let way = if i % 2 == 0 { path } else { path.reversed() };
        way.build(&i.to_be_bytes().repeat(9), &mut frame);
        out.write(
            Nanos::from_secs(1_700_000_000) + Nanos(i * 1_000_000_000 / RATE),
            &frame,
            frame.len(),
        )?;
    }
    out.into_inner()?;
    Ok(file)
}

/// Real packets in the slots that were written so far.
fn real_packets(stage: &Stage) -> Result<u64> {
    let (_, lines) = chaff_tests::stage::rows(&stage.state("slots.csv"))?;
    // The last line may be half written.
    let whole = lines.iter().filter(|l| l.len() == 11);
    Ok(whole
        .filter_map(|l| Some(l[3].parse::<u64>().ok()? + l[5].parse::<u64>().ok()?))
        .sum())
}

#[test]
fn no_real_packet_is_lost_when_the_gateway_hangs_or_is_killed() -> Result<()> {
    if skip_without_root("no_real_packet_is_lost_when_the_gateway_hangs_or_is_killed") {
        return Ok(());
    }
    let devices = fixture("devices.csv")?;
    let mut stage = Stage::new("crash")?;
    let capture = capture(&stage)?;
    stage.start_sink()?;
    stage.start_gateway(&devices, "generator = \"constant\"", "")?;
    let mut replay = Running::start("replay", stage.replay(&capture, &devices, &[])?)?;
    let wait = |ms| std::thread::sleep(Duration::from_millis(ms));

    wait(1_500);
    let id = Pid::from_raw(i32::try_from(stage.gateway_id())?);
    kill(id, Signal::SIGSTOP).context("while stopping the gateway")?;
    // Longer than the ring of slot counters (6.4 s): their sums must still be right.
    wait(7_500);
    kill(id, Signal::SIGCONT).context("while waking the gateway")?;
    wait(2_000);
    let seen = stage.status()?["meter"]["seen"]
        .as_u64()
        .context("no count")?;
    // Counts of the time it hung come with the slots that share a place of the ring with them, and the file is written
    // once a second: so wait until it holds what was seen, and see that it never holds more.
    let until = Instant::now() + CATCH_UP;
    let in_slots = loop {
        let in_slots = real_packets(&stage)?;
        if in_slots >= seen || Instant::now() > until {
            break in_slots;
        }
        wait(100);
    };
    let now = stage.status()?["meter"]["seen"]
        .as_u64()
        .context("no count")?;
    ensure!(
        (seen..=now).contains(&in_slots),
        "{in_slots} packets in slots, {seen} seen before, {now} after"
    );
    stage.kill_gateway()?;
    ensure!(stage.pins().exists(), "the programs did not stay");
    wait(1_500);
    stage.start_gateway(&devices, "generator = \"constant\"", "")?;
    let taken_over = stage.status()?;
    ensure!(taken_over["took_over"] == true, "{taken_over}");
    ensure!(
        taken_over["seen_before_takeover"].as_u64() > Some(4_000),
        "{taken_over}"
    );

    let done = replay
        .wait(Duration::from_secs(60))?
        .context("the replay does not end")?;
    let text = std::fs::read_to_string(stage.path("replay.json"))?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    for d in report["verify"]["directions"]
        .as_array()
        .context("no directions")?
    {
        ensure!(
            d["lost"] == 0 && d["altered"] == 0 && d["foreign"] == 0,
            "{d}"
        );
    }
    ensure!(done.success(), "replay: {done}");
    let end = stage.stop_gateway()?;
    ensure!(
        end["meter"]["seen"].as_u64() == Some(PACKETS),
        "counting has gaps: {}",
        end["meter"]
    );
    ensure!(
        end["meter"]["flow"].as_u64() == Some(PACKETS),
        "{}",
        end["meter"]
    );
    ensure!(!stage.pins().exists(), "pins remain");
    let in_records = end["recorded_packets"].as_u64().context("no count")?;
    let after = PACKETS - taken_over["seen_before_takeover"].as_u64().unwrap_or(0);
    ensure!(
        in_records >= after,
        "{in_records} in records of {after} packets seen by the second gateway"
    );
    eprintln!(
        "{PACKETS} packets at {RATE}/s: 0 lost under SIGSTOP (7.5 s) and SIGKILL; {} seen before the restart, {PACKETS} in all",
        taken_over["seen_before_takeover"]
    );
    Ok(())
}
