//! Application hints of the live gateway: what the first packets of each flow tell, copied up by the kernel.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use chaff_abi::{FlowKey, Nanos};
use chaff_flow::app::Hints;
use chaff_flow::{Link, Table, TableConfig};
use chaff_tests::stage::{Stage, rows};
use chaff_tests::{fixture, skip_without_root};
use chaff_trace::Reader;

/// Columns that are compared, and how the offline table's hints say the same.
type Texts = [String; 6];
const COLUMNS: [&str; 6] = [
    "application",
    "server_name",
    "user_agent",
    "content_type",
    "host_name",
    "device_hint",
];

fn texts(h: &Hints) -> Texts {
    [
        h.application.to_string(),
        h.server_name.clone(),
        h.user_agent.clone(),
        h.content_type.clone(),
        h.host_name.clone(),
        h.device_hint.clone(),
    ]
}

/// Addresses and ports, the smaller end first, and the protocol.
type Ends = (String, String, u8);

fn ends(a: (String, u16), b: (String, u16), protocol: u8) -> Ends {
    let [a, b] = [a, b].map(|(ip, port)| format!("{ip} {port}"));
    let (a, b) = if a < b { (a, b) } else { (b, a) };
    (a, b, protocol)
}

/// What a table of user space finds in every packet of a capture, by flow in order of time.
fn offline(capture: &Path) -> Result<BTreeMap<Ends, Vec<Texts>>> {
    let mut table = Table::new(TableConfig {
        dissect: u16::MAX,
        ..TableConfig::default()
    });
    let mut reader = Reader::new(BufReader::new(File::open(capture)?))?;
    let mut now = Nanos::ZERO;
    while let Some((frame, bytes)) = reader.next_borrowed()? {
        now = frame.at;
        if let Ok(packet) = chaff_flow::parse(Link::Ethernet, bytes, frame.wire_len) {
            table.observe(now, None, &packet);
        }
    }
    table.finish(now);
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    while let Some(record) = table.poll_record() {
        let FlowKey { protocol, .. } = record.key;
        let key = ends(
            (record.key.source().to_string(), record.key.source_port()),
            (
                record.key.destination().to_string(),
                record.key.destination_port(),
            ),
            protocol,
        );
        // The live gateway looks at what TCP and UDP carry.
        if matches!(protocol, 6 | 17) {
            let texts = record.hints.as_deref().map(texts).unwrap_or_default();
            found.entry(key).or_default().push(texts);
        }
    }
    Ok(found)
}

fn live(flows: &Path) -> Result<BTreeMap<Ends, Vec<Texts>>> {
    let (header, lines) = rows(flows)?;
    let at = |name: &str| {
        let found = header.iter().position(|h| h == name);
        found.with_context(|| format!("no column {name}"))
    };
    let [src, sport, dst, dport, protocol, cover, start] = [
        "src_ip",
        "src_port",
        "dst_ip",
        "dst_port",
        "protocol",
        "fwd_cover_packets",
        "start_ns",
    ]
    .map(at);
    let (src, sport, dst, dport) = (src?, sport?, dst?, dport?);
    let (protocol, cover, start) = (protocol?, cover?, start?);
    let columns = COLUMNS.map(at).into_iter().collect::<Result<Vec<_>>>()?;
    let mut found: BTreeMap<_, Vec<(u64, Texts)>> = BTreeMap::new();
    for l in &lines {
        let protocol: u8 = l[protocol].parse()?;
        if l[cover] != "0" || !matches!(protocol, 6 | 17) {
            continue;
        }
        ensure!(l.len() == header.len(), "a cell with a comma: {l:?}");
        let key = ends(
            (l[src].clone(), l[sport].parse()?),
            (l[dst].clone(), l[dport].parse()?),
            protocol,
        );
        let mut texts = Texts::default();
        for (text, column) in texts.iter_mut().zip(&columns) {
            text.clone_from(&l[*column]);
        }
        found
            .entry(key)
            .or_default()
            .push((l[start].parse()?, texts));
    }
    let by_time = |(key, mut texts): (Ends, Vec<(u64, Texts)>)| {
        texts.sort();
        (key, texts.into_iter().map(|(_, t)| t).collect())
    };
    Ok(found.into_iter().map(by_time).collect())
}

#[test]
fn hints_of_the_live_gateway_are_those_of_the_capture() -> Result<()> {
    if skip_without_root("hints_of_the_live_gateway_are_those_of_the_capture") {
        return Ok(());
    }
    let (capture, devices) = (fixture("demo.pcap")?, fixture("devices.csv")?);
    let mut stage = Stage::new("hints")?;
    stage.start_sink()?;
    stage.start_gateway(
        &devices,
        "generator = \"constant\"",
        "[flows]\nhints = true\n",
    )?;
    let replayed = stage
        .replay(&capture, &devices, &["--only-devices", "--speed", "3"])?
        .stdout(std::process::Stdio::null())
        .status()?;
    ensure!(replayed.success(), "replay: {replayed}");
    let report = stage.stop_gateway()?;
    let number = |path: &str| {
        let found = report.pointer(path).and_then(serde_json::Value::as_u64);
        found.with_context(|| format!("no {path} in {report}"))
    };
    ensure!(
        number("/meter/hint_dropped")? == 0,
        "copies were dropped: {}",
        report["meter"]
    );
    let (copied, read) = (number("/meter/hint_copied")?, number("/hints/read")?);
    ensure!(
        copied == read && copied > 100,
        "{copied} copied, {} ",
        report["hints"]
    );

    let (live, offline) = (live(&stage.state("flows.csv"))?, offline(&capture)?);
    let (mut equal, mut named) = (0, 0);
    for (key, found) in &live {
        let wanted = offline
            .get(key)
            .with_context(|| format!("{key:?} is not in the capture"))?;
        ensure!(
            found == wanted,
            "{key:?}\nlive    {found:?}\noffline {wanted:?}"
        );
        equal += found.len();
        named += found.iter().filter(|t| !t[1].is_empty()).count();
    }
    eprintln!(
        "hints of {equal} flows equal those of the capture, {named} with a server name; {copied} packets copied"
    );
    ensure!(equal > 50 && named > 20, "{equal} flows, {named} named");
    Ok(())
}
