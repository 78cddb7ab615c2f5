//! Application hints against nDPI 5.0 as NFStream 6.6.0 reports it. Needs reference captures beside the checkout.
//!
//! `CHAFF_NDPI_MORE` may name more pairs, `captures-folder=tables-folder` separated by `:`; the table of `a/b.pcap` is
//! `b.pcap.csv`. `CHAFF_NDPI_LIST` is how many mismatches a column prints (20).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};

use chaff_flow::nfstream::{Config, Meter, write_csv_header, write_csv_row};
use chaff_trace::Reader;

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

/// What tells a flow from the others of its capture.
const KEY: [&str; 8] = [
    "src_ip",
    "src_port",
    "dst_ip",
    "dst_port",
    "protocol",
    "vlan_id",
    "tunnel_id",
    "bidirectional_first_seen_ms",
];

type Key = [String; 8];
type Row = [String; 9];

/// Flows of a capture as a table in NFStream's form.
fn table(capture: &Path) -> String {
    let mut meter = Meter::new(Config {
        dissect: 20,
        ..Config::default()
    });
    let mut text = Vec::new();
    write_csv_header(&mut text, &meter.columns(), "\n");
    let mut rows = |meter: &mut Meter| {
        while let Some(flow) = meter.poll() {
            let mut row = Vec::new();
            flow.values(meter.config(), &mut row);
            write_csv_row(&mut text, &row, "\n");
        }
    };
    if let Ok(mut reader) = Reader::new(File::open(capture).expect("the capture opens")) {
        while let Ok(Some((frame, bytes))) = reader.next_borrowed() {
            let bytes = bytes.get(..frame.libpcap_len).unwrap_or(bytes);
            let _ = meter.observe(frame.link, frame.millis, bytes, frame.wire_len);
            rows(&mut meter);
        }
    }
    meter.finish();
    rows(&mut meter);
    String::from_utf8_lossy(&text).into_owned()
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

/// Keys and application columns of a table, in its order.
fn flows(text: &str) -> Vec<(Key, Row)> {
    let mut rows = csv(text).into_iter();
    let Some(header) = rows.next() else {
        return Vec::new();
    };
    let place = |name: &str| header.iter().position(|h| h == name).expect("the column");
    let (key, columns) = (KEY.map(place), COLUMNS.map(place));
    rows.map(|row| (key.map(|k| row[k].clone()), columns.map(|c| row[c].clone())))
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
    fn compare(&mut self, capture: &Path, reference: &Path) {
        let mut ours: HashMap<Key, VecDeque<Row>> = HashMap::new();
        for (id, row) in flows(&table(capture)) {
            ours.entry(id).or_default().push_back(row);
        }
        let text = std::fs::read(reference).expect("the table opens");
        for (id, theirs) in flows(&String::from_utf8_lossy(&text)) {
            self.flows += 1;
            let Some(row) = ours.get_mut(&id).and_then(VecDeque::pop_front) else {
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
                        id[0],
                        id[1],
                        id[2],
                        id[3],
                        id[4],
                        id[7],
                        theirs[5]
                    ));
                }
            }
        }
    }

    /// Texts are the same, names nearly always.
    fn require(&self) {
        assert_eq!(self.missing, 0, "flows were not found");
        for (column, name) in COLUMNS.into_iter().enumerate() {
            let bound = if column < 5 { 1.0 } else { 0.98 };
            let share = self.columns[column][0] as f64 / self.flows as f64;
            assert!(share >= bound, "{name} agrees in {share:.4} of flows");
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
    tally.require();
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
