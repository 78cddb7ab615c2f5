//! Application hints against nDPI 5.0 as NFStream 6.6.0 reports it. Needs reference captures beside the checkout.
//!
//! `CHAFF_NDPI_MORE` may name more pairs, `captures-folder=tables-folder` separated by `:`; the table of `a/b.pcap` is
//! `b.pcap.csv`. `CHAFF_NDPI_LIST` is how many mismatches a column prints (20).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use chaff_abi::Nanos;
use chaff_flow::app::{Dissector, Hints, Progress, Seen};
use chaff_flow::{Fragment, parse};
use chaff_trace::Reader;

const DISSECTIONS: u32 = 20;
const IDLE: u64 = 120_000;
const ACTIVE: u64 = 1_800_000;
const COLUMNS: [&str; 9] = [
    "requested_server_name",
    "client_fingerprint",
    "server_fingerprint",
    "user_agent",
    "content_type",
    "application_name",
    "application_category_name",
    "application_confidence",
    "application_is_guessed",
];

/// Source, destination, ports, protocol and first millisecond, as NFStream writes them.
type FlowId = (IpAddr, u16, IpAddr, u16, u8, u64);

struct Flow {
    id: FlowId,
    last: u64,
    packets: u32,
    dissector: Option<Box<Dissector>>,
}

impl Flow {
    fn row(self) -> (FlowId, [String; 9]) {
        let hints = self.dissector.map_or_else(Hints::default, |d| d.finish());
        (
            self.id,
            [
                hints.server_name,
                hints.client_fingerprint,
                hints.server_fingerprint,
                hints.user_agent,
                hints.content_type,
                hints.application.into_owned(),
                hints.category.to_owned(),
                hints.confidence.ndpi().to_string(),
                u8::from(hints.confidence.is_guess()).to_string(),
            ],
        )
    }
}

fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

fn milliseconds(at: Nanos) -> u64 {
    at.0 / 1_000_000
}

/// Flows as NFStream cuts them, without its tunnels.
fn flows(capture: &Path) -> Vec<(FlowId, [String; 9])> {
    let Ok(mut reader) = Reader::new(File::open(capture).expect("the capture opens")) else {
        return Vec::new();
    };
    let mut bytes = Vec::new();
    let mut open: HashMap<_, Flow> = HashMap::new();
    let (mut done, mut clock) = (Vec::new(), 0);
    while let Ok(Some(frame)) = reader.next(&mut bytes) {
        let Ok(packet) = parse(frame.link, &bytes, frame.wire_len) else {
            continue;
        };
        if packet.fragment == Fragment::Later {
            continue;
        }
        clock = milliseconds(frame.at).max(clock);
        let k = packet.key;
        let from = (address(k.src), u16::from_be_bytes(k.src_port));
        let to = (address(k.dst), u16::from_be_bytes(k.dst_port));
        let key = (from.min(to), from.max(to), k.protocol, k.vlan);
        if let Some(flow) = open.get(&key)
            && (clock - flow.last >= IDLE || clock - flow.id.5 >= ACTIVE)
        {
            done.extend(open.remove(&key).map(Flow::row));
        }
        let flow = open.entry(key).or_insert_with(|| Flow {
            id: (from.0, from.1, to.0, to.1, k.protocol, clock),
            last: clock,
            packets: 0,
            dissector: Some(Box::default()),
        });
        flow.last = clock;
        flow.packets += 1;
        if flow.packets > DISSECTIONS {
            continue;
        }
        let id = flow.id;
        let seen = Seen {
            forward: (id.0, id.1) == from,
            protocol: k.protocol,
            ip_version: k.version,
            addresses: [id.0, id.2],
            ports: [id.1, id.3],
            tcp_flags: packet.sample.tcp_flags as u8,
            tcp_sequence: packet.tcp.map_or(0, |t| t.sequence),
            payload: packet.payload,
            payload_len: packet.sample.payload as usize,
        };
        if let Some(dissector) = &mut flow.dissector {
            let _: Progress = dissector.observe(&seen);
        }
    }
    done.extend(open.into_values().map(Flow::row));
    done
}

/// Fields of a CSV text with minimal quoting.
fn csv(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            c => field.push(c),
        }
    }
    rows
}

fn expected(table: &Path) -> Vec<(FlowId, [String; 9])> {
    let text =
        String::from_utf8_lossy(&std::fs::read(table).expect("the table opens")).into_owned();
    let mut rows = csv(&text).into_iter();
    let Some(header) = rows.next() else {
        return Vec::new();
    };
    let place = |name: &str| header.iter().position(|h| h == name).expect("the column");
    let key = [
        "src_ip",
        "src_port",
        "dst_ip",
        "dst_port",
        "protocol",
        "bidirectional_first_seen_ms",
    ]
    .map(place);
    let columns = COLUMNS.map(place);
    rows.map(|row| {
        let get = |i: usize| &row[key[i]];
        let id = (
            get(0).parse().expect("an address"),
            get(1).parse().expect("a port"),
            get(2).parse().expect("an address"),
            get(3).parse().expect("a port"),
            get(4).parse().expect("a protocol"),
            get(5).parse().expect("a time"),
        );
        (id, columns.map(|c| row[c].clone()))
    })
    .collect()
}

#[derive(Default)]
struct Tally {
    flows: u64,
    missing: u64,
    /// Per column: flows that agree; flows where either side says something; of those, the ones that agree.
    columns: [[u64; 3]; 9],
    mismatches: BTreeMap<usize, Vec<String>>,
}

impl Tally {
    fn compare(&mut self, capture: &Path, table: &Path) {
        let mut ours: HashMap<FlowId, Vec<[String; 9]>> = HashMap::new();
        for (id, row) in flows(capture) {
            ours.entry(id).or_default().push(row);
        }
        for (id, theirs) in expected(table) {
            self.flows += 1;
            let Some(row) = ours.get_mut(&id).and_then(Vec::pop) else {
                self.missing += 1;
                continue;
            };
            for column in 0..9 {
                let (a, b) = (&row[column], &theirs[column]);
                let said = u64::from(!a.is_empty() || !b.is_empty());
                let same = u64::from(a == b);
                let [all, any, both] = &mut self.columns[column];
                *all += same;
                *any += said;
                *both += said & same;
                if a != b {
                    self.mismatches.entry(column).or_default().push(format!(
                        "{}: {}:{} > {}:{} p{} at {}: ours {a:?}, nDPI {b:?} ({})",
                        capture.display(),
                        id.0,
                        id.1,
                        id.2,
                        id.3,
                        id.4,
                        id.5,
                        theirs[5]
                    ));
                }
            }
        }
    }

    fn print(&self, title: &str) {
        let list = std::env::var("CHAFF_NDPI_LIST").map_or(20, |n| n.parse().expect("a number"));
        println!("{title}: {} flows, {} not found", self.flows, self.missing);
        for (column, name) in COLUMNS.into_iter().enumerate() {
            let [all, any, both] = self.columns[column];
            let found = (self.flows - self.missing).max(1);
            println!(
                "  {name:<28} {:7.3} % of flows, {both}/{any} = {:7.3} % of those with a value",
                100.0 * all as f64 / found as f64,
                100.0 * both as f64 / any.max(1) as f64
            );
        }
        for (column, lines) in &self.mismatches {
            println!("  {} differs {} times:", COLUMNS[*column], lines.len());
            for line in lines.iter().take(list) {
                println!("    {line}");
            }
        }
    }
}

fn captures(folder: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            captures(&path, out);
        } else if path
            .extension()
            .is_some_and(|e| e == "pcap" || e == "pcapng")
        {
            out.push(path);
        }
    }
}

#[test]
fn agrees_with_ndpi() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/nfstream");
    let mut files = Vec::new();
    captures(&shared.join("pcaps"), &mut files);
    if files.is_empty() {
        println!("skipped: no reference captures");
        return;
    }
    let mut tally = Tally::default();
    for file in files {
        let name = file.file_name().expect("a file").to_string_lossy();
        let table = shared.join("expected").join(format!("{name}.dpi20.csv"));
        if table.exists() {
            tally.compare(&file, &table);
        }
    }
    tally.print("reference captures");
}

#[test]
fn agrees_with_ndpi_on_more() {
    let Ok(pairs) = std::env::var("CHAFF_NDPI_MORE") else {
        println!("skipped: CHAFF_NDPI_MORE is not set");
        return;
    };
    for pair in pairs.split(':') {
        let (folder, tables) = pair.split_once('=').expect("captures=tables");
        let mut files = Vec::new();
        captures(Path::new(folder), &mut files);
        let mut tally = Tally::default();
        for file in files {
            let name = file.to_string_lossy().replace('/', "_");
            let table = Path::new(tables).join(format!("{}.csv", name.trim_start_matches('_')));
            if table.exists() {
                tally.compare(&file, &table);
            }
        }
        tally.print(folder);
    }
}
