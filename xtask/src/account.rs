//! What a run did, from the reports of its programs and from independent counts, as equalities that hold or do not.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::demo::Run;
use crate::live::cover_addresses;
use crate::pcap::Capture;
use crate::picture::{Packet, Picture, read_packets};
use crate::report::{Flows, Json};

/// The gateway's slot length in seconds, which the demo does not change.
const SLOT: f64 = 0.1;

/// Two numbers that must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    what: &'static str,
    left: u64,
    right: u64,
}

/// The account of one run.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    how: &'static str,
    checks: Vec<Check>,
    packets: Vec<Packet>,
    seconds: f64,
    /// Sentences that are numbers, not checks; a line ending with a colon is a heading.
    facts: Vec<String>,
}

/// Makes the account of a live run from the files in its folder.
pub(crate) fn live(run: &Run) -> Result<Account> {
    let gateway = Json::read(&run.out.join("report.json"))?;
    let engine = gateway
        .at("/gateway")
        .context("report.json has no gateway")?;
    let replay = Json::read(&run.out.join("replay.json"))?;
    let sink = Json::read(&run.out.join("sink.json"))?;
    let packets = witnessed(run, &run.out.join("uplink.pcap"))?;
    write_packets(&packets, &run.out.join("packets.csv"))?;
    let flows = Flows::read(&run.out.join("flows.csv"))?;
    let (covered, real) = (count(&packets, true), count(&packets, false));

    let replayed = replay.number("/packets")?;
    let arrived = replay.sum("/verify/directions", "matched")?;
    let altered = replay.sum("/verify/directions", "altered")?
        + replay.sum("/verify/directions", "foreign")?
        + replay.sum("/verify/directions", "duplicated")?;
    let mut in_home = 0;
    for direction in replay.list("/verify/directions")? {
        if direction.text("/to").starts_with("dev0") {
            in_home += direction.number("/ignored")?;
        }
    }
    let mut checks = vec![
        Check::new("frames in the capture = replayed", run.frames, replayed),
        Check::new(
            "replayed = arrived, every byte unchanged (SHA-256)",
            replayed,
            arrived,
        ),
        Check::new("arrived altered, twice or from nowhere", altered, 0),
        Check::new(
            "replayed = on the uplink by tcpdump, cover aside",
            replayed,
            real,
        ),
        Check::new(
            "replayed = seen by the meter",
            replayed,
            engine.number("/seen")?,
        ),
    ];
    checks.extend(metered(flows, &engine)?);
    // What the injector gave to the kernel; without cover there is no injector.
    let injector = gateway.at("/injector/stats");
    let sent = injector.map_or(Ok(0), |stats| stats.number("/sent"))?;
    checks.extend(winnowed(sent, &engine, &sink)?);
    let on_wire = sink.number("/received/packets")? + sink.number("/downlink/packets")?;
    checks.push(Check::new(
        "cover at both ends = on the uplink by tcpdump",
        on_wire,
        covered,
    ));
    checks.push(Check::new("cover that leaked into the home", in_home, 0));

    let mut facts = traffic(&packets, flows, &engine)?;
    facts.push("Time:".to_owned());
    for direction in replay.list("/verify/directions")? {
        let (p50, p99) = (
            direction.number("/latency_ns/p50")?,
            direction.number("/latency_ns/p99")?,
        );
        let to = direction.text("/to");
        let way = if to.starts_with("dev0") { "in " } else { "out" };
        facts.push(format!(
            "latency {way}: p50 {}, p99 {}",
            micros(p50),
            micros(p99)
        ));
    }
    let late = replay.list("/lanes")?;
    let worst = |key: &str| -> Result<u64> {
        late.iter()
            .map(|lane| lane.number(key))
            .try_fold(0, |most, n| Ok(most.max(n?)))
    };
    facts.push(format!(
        "replay late: p50 {}, p99 {}",
        micros(worst("/lateness_ns/p50")?),
        micros(worst("/lateness_ns/p99")?)
    ));
    if let Some(late) = gateway.at("/injector/lateness_us") {
        let us = |key: &str| Ok::<_, anyhow::Error>(micros((late.float(key)? * 1000.0) as u64));
        facts.push(format!(
            "cover late: p50 {}, p99 {}",
            us("/p50")?,
            us("/p99")?
        ));
    }
    let seconds = packets.iter().map(|p| p.time).fold(0.1, f64::max);
    Ok(Account {
        how: "live, in namespaces",
        checks,
        packets,
        seconds,
        facts,
    })
}

/// Makes the account of a simulated run from the files in its folder.
pub(crate) fn simulated(run: &Run) -> Result<Account> {
    let report = Json::read(&run.out.join("report.json"))?;
    let engine = report
        .at("/gateway")
        .context("report.json has no gateway")?;
    let sink = report.at("/sink").context("report.json has no sink")?;
    let packets = read_packets(&run.out.join("packets.csv"))?;
    let flows = Flows::read(&run.out.join("flows.csv"))?;
    let (covered, real) = (count(&packets, true), count(&packets, false));
    let mut checks = vec![
        Check::new(
            "frames in the capture = seen by the gateway",
            run.frames,
            engine.number("/seen")?,
        ),
        Check::new(
            "frames in the capture = on the uplink, cover aside",
            run.frames,
            real,
        ),
    ];
    checks.extend(metered(flows, &engine)?);
    // What left: some planned cover is due only after the end.
    let sent = packets.iter().filter(|p| p.cover && p.out).count() as u64;
    checks.extend(winnowed(sent, &engine, &sink)?);
    let on_wire = sink.number("/received/packets")? + sink.number("/downlink/packets")?;
    checks.push(Check::new(
        "cover at both ends = on the uplink",
        on_wire,
        covered,
    ));
    let facts = traffic(&packets, flows, &engine)?;
    let seconds = packets.iter().map(|p| p.time).fold(0.1, f64::max);
    Ok(Account {
        how: "in virtual time",
        checks,
        packets,
        seconds,
        facts,
    })
}

/// Meter against flow records.
fn metered(flows: Flows, engine: &Json) -> Result<Vec<Check>> {
    let ignored: u64 = engine.map("/ignored")?.iter().map(|(_, n)| n).sum();
    let what = "seen = packets in flow records + ignored";
    Ok(vec![Check::new(
        what,
        engine.number("/seen")?,
        flows.packets + ignored,
    )])
}

/// Gateway against sink, both ways.
fn winnowed(sent: u64, engine: &Json, sink: &Json) -> Result<Vec<Check>> {
    let packets = |json: &Json, key: &str| json.number(&format!("/{key}/packets"));
    let authentic = packets(sink, "cover")? + packets(sink, "schedules")?;
    let refused: u64 = [engine, sink]
        .into_iter()
        .map(|json| Ok(json.map("/refused")?.iter().map(|(_, n)| n).sum::<u64>()))
        .sum::<Result<u64>>()?;
    let (down, back) = (packets(sink, "downlink")?, packets(engine, "downlink")?);
    Ok(vec![
        Check::new("cover sent up = authenticated by the sink", sent, authentic),
        Check::new("cover sent down = authenticated by the gateway", down, back),
        Check::new("datagrams refused", refused, 0),
    ])
}

/// Numbers of traffic and cover for the text box.
fn traffic(packets: &[Packet], flows: Flows, engine: &Json) -> Result<Vec<String>> {
    let bytes = |cover: bool| -> u64 {
        packets
            .iter()
            .filter(|p| p.cover == cover)
            .map(|p| u64::from(p.bytes))
            .sum()
    };
    let (real, cover) = (bytes(false), bytes(true));
    let ignored = engine.map("/ignored")?;
    let mut facts = vec![
        "Real traffic:".to_owned(),
        format!(
            "{} packets, {}",
            thousands(count(packets, false)),
            kilobytes(real)
        ),
        format!("{} flow records", thousands(flows.records)),
    ];
    facts.extend(
        ignored
            .iter()
            .map(|(why, n)| format!("{n} frames in no flow: {why}")),
    );
    if flows.cover_only > 0 {
        facts.push(format!(
            "{} more of cover only",
            thousands(flows.cover_only)
        ));
    }
    facts.push("Cover:".to_owned());
    facts.push(format!(
        "{} packets, {}",
        thousands(count(packets, true)),
        kilobytes(cover)
    ));
    facts.push(format!(
        "{} up, {} down",
        thousands(packets.iter().filter(|p| p.cover && p.out).count() as u64),
        thousands(packets.iter().filter(|p| p.cover && !p.out).count() as u64)
    ));
    if real > 0 {
        facts.push(format!(
            "overhead {:.1} % of the real bytes",
            100.0 * cover as f64 / real as f64
        ));
    }
    facts.push("Owner:".to_owned());
    let alerts = engine.number("/alerts")?;
    let count = if alerts == 1 { "alert" } else { "alerts" };
    facts.push(format!(
        "{} {count} of new destinations or rates",
        thousands(alerts)
    ));
    facts.push(format!(
        "{} private releases for ε = {}",
        thousands(engine.number("/releases")?),
        engine.float("/epsilon_spent")?
    ));
    let dropped = engine.number("/cover_dropped")?;
    if dropped > 0 {
        facts.push(format!(
            "{} more held back by the budget",
            thousands(dropped)
        ));
    }
    Ok(facts)
}

/// Reads the witness' capture of the uplink.
fn witnessed(run: &Run, pcap: &Path) -> Result<Vec<Packet>> {
    let capture = Capture::read(pcap)?;
    let cover_ends = cover_addresses()?;
    let first = capture.frames.iter().map(|f| f.at).min().unwrap_or(0);
    let packet = |frame: &crate::pcap::Frame| {
        let cover = frame
            .ipv4()
            .is_some_and(|pair| pair.iter().all(|ip| cover_ends.contains(ip)));
        let out = if cover {
            frame.ipv4().is_some_and(|[from, _]| from == cover_ends[0])
        } else {
            run.macs.contains(&frame.macs()[1])
        };
        Packet {
            time: (frame.at - first) as f64 / 1e9,
            out,
            bytes: frame.network_len(),
            cover,
        }
    };
    Ok(capture.frames.iter().map(packet).collect())
}

/// Writes packets.csv as `gateway simulate` does; the witness cannot name the device of a packet.
fn write_packets(packets: &[Packet], path: &Path) -> Result<()> {
    let mut text = String::from("time_s,dir,size_bytes,is_dummy,device\n");
    for p in packets {
        let dir = if p.out { 1 } else { -1 };
        text.push_str(&format!(
            "{:.9},{dir},{},{},\n",
            p.time,
            p.bytes,
            u8::from(p.cover)
        ));
    }
    fs::write(path, text).with_context(|| format!("while writing {}", path.display()))
}

impl Check {
    fn new(what: &'static str, left: u64, right: u64) -> Self {
        Self { what, left, right }
    }

    fn holds(&self) -> bool {
        self.left == self.right
    }

    fn line(&self) -> String {
        let verdict = if self.holds() { "ok" } else { "WRONG" };
        let numbers = if self.right == 0 && self.holds() {
            "0".to_owned()
        } else {
            format!("{} = {}", thousands(self.left), thousands(self.right))
        };
        let numbers = if self.holds() {
            numbers
        } else {
            numbers.replace('=', "is not")
        };
        format!("  {verdict:<6}{:<52}{numbers}", self.what)
    }
}

impl Account {
    /// Returns whether every equality holds.
    pub(crate) fn holds(&self) -> bool {
        self.checks.iter().all(Check::holds)
    }

    /// The account in words.
    pub(crate) fn text(&self, run: &Run) -> String {
        let mut text = format!(
            "\n{}: {:.0} s of {} device(s), {}, cover: {}\n\n",
            run.name,
            run.seconds,
            run.macs.len(),
            self.how,
            cover_name(run)
        );
        for check in &self.checks {
            text.push_str(&check.line());
            text.push('\n');
        }
        text.push('\n');
        for fact in &self.facts {
            let indent = if fact.ends_with(':') { "" } else { "  " };
            text.push_str(&format!("{indent}{fact}\n"));
        }
        text.push_str(if self.holds() {
            "\nEverything adds up.\n"
        } else {
            "\nSomething does NOT add up: see the lines marked WRONG.\n"
        });
        if count(&self.packets, true) > 0 {
            text.push_str(
                "Cover goes without a tunnel here (mode plain): by address an observer could still tell it apart.\n",
            );
        }
        text
    }

    /// One line for a table of runs.
    pub(crate) fn row(&self, name: &str) -> String {
        let verdict = if self.holds() { "ok" } else { "WRONG" };
        let real = thousands(count(&self.packets, false));
        let cover = thousands(count(&self.packets, true));
        format!("  {verdict:<6}{name:<40}{real:>9} real {cover:>9} cover")
    }

    /// The picture of the run.
    pub(crate) fn picture(&self, run: &Run) -> Picture {
        let mut facts = self.facts.clone();
        facts.push("Checks:".to_owned());
        let holding = self.checks.iter().filter(|c| c.holds()).count();
        facts.push(format!(
            "{holding} of {} equalities hold",
            self.checks.len()
        ));
        Picture {
            title: format!(
                "Chaff, {}: {}, cover: {}",
                self.how,
                run.name,
                cover_name(run)
            ),
            packets: self.packets.clone(),
            seconds: self.seconds,
            slot: SLOT,
            facts,
        }
    }
}

fn cover_name(run: &Run) -> String {
    let path = Path::new(&run.cover);
    if path.is_dir() {
        return "one trained generator per device".to_owned();
    }
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn count(packets: &[Packet], cover: bool) -> u64 {
    packets.iter().filter(|p| p.cover == cover).count() as u64
}

fn micros(nanos: u64) -> String {
    if nanos < 10_000_000 {
        format!("{} us", nanos / 1000)
    } else {
        format!("{} ms", nanos / 1_000_000)
    }
}

fn kilobytes(bytes: u64) -> String {
    format!("{:.1} kB", bytes as f64 / 1000.0)
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unequal_numbers_fail_the_account() {
        let mut account = Account {
            how: "live",
            checks: vec![Check::new("a = b", 1_234, 1_234)],
            packets: Vec::new(),
            seconds: 1.0,
            facts: Vec::new(),
        };
        assert!(account.holds());
        assert!(account.checks[0].line().ends_with("1,234 = 1,234"));
        account.checks.push(Check::new("a = b", 5, 4));
        assert!(!account.holds());
        assert!(
            account.checks[1].line().contains("WRONG")
                && account.checks[1].line().ends_with("5 is not 4")
        );
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
