//! The NFStream profile against flows that NFStream 6.6.0 itself made; skipped where the reference set is absent.
//!
//! `NFSTREAM_ONLY=part-of-a-file-name` restricts it, `NFSTREAM_WRITE=folder` keeps the candidate files for the reference's
//! own checker.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use chaff_flow::nfstream::{Config, Meter, write_csv_header, write_csv_row};
use chaff_flow::plugin::Extension;
use chaff_trace::Reader;

#[expect(unreachable_pub, reason = "it is public where it lives")]
#[path = "../../../xtask/src/conformance/case.rs"]
mod case;
#[expect(unreachable_pub, reason = "it is public where it lives")]
#[path = "../../../xtask/src/conformance/compare.rs"]
mod compare;

use case::Case;
use compare::{APPLICATION, Table, compare};

/// Beside the repository.
const REFERENCE: &str = "../../../shared/conformance/nfstream";
#[test]
fn makes_the_flows_of_nfstream() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(REFERENCE);
    let Ok(expected) = fs::read_dir(root.join("expected")) else {
        println!("skipped: no reference set at {REFERENCE}");
        return;
    };
    let only = std::env::var("NFSTREAM_ONLY").unwrap_or_default();
    let keep = std::env::var_os("NFSTREAM_WRITE").map(PathBuf::from);
    let mut names: Vec<String> = expected
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".csv") && name.contains(&only))
        .collect();
    names.sort();
    let mut totals: BTreeMap<String, [usize; 4]> = BTreeMap::new();
    let mut agreement: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    let mut failures = Vec::new();
    for name in &names {
        let case = Case::of(name).expect("a known setting");
        let csv = run(&case, &root.join("pcaps"));
        if let Some(folder) = &keep {
            fs::create_dir_all(folder).expect("the folder can be made");
            fs::write(folder.join(name), &csv).expect("the folder takes files");
        }
        let want = fs::read_to_string(root.join("expected").join(name)).expect("a text file");
        let (want, have) = (Table::parse(&want), Table::parse(&csv));
        let dissected = case.dissect > 0;
        let ignored = if dissected { &APPLICATION[..4] } else { &[] };
        let report = compare(&have, &want, ignored);
        if dissected {
            for (column, [same, all]) in &report.agreement {
                let sum = agreement.entry(column.clone()).or_default();
                sum[0] += same;
                sum[1] += all;
            }
        }
        let row = totals.entry(case.setting).or_default();
        row[0] += 1;
        row[1] += usize::from(report.matches());
        row[2] += report.expected;
        row[3] += report.exact;
        if !report.matches() {
            failures.push(format!("{name}: {report}"));
        }
    }
    println!("setting: files, matching, flows, exact");
    for (setting, [files, good, flows, exact]) in &totals {
        println!("{setting}: {files}, {good}, {flows}, {exact}");
    }
    for column in APPLICATION {
        let [same, all] = agreement.get(column).copied().unwrap_or_default();
        println!("dpi20 {column}: {same} of {all}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn config(case: &Case) -> Config {
    Config {
        accounting: case.accounting,
        idle_timeout_s: case.idle_timeout,
        active_timeout_s: case.active_timeout,
        statistics: case.statistics,
        splt: case.splt,
        decode_tunnels: case.decode_tunnels,
        dissect: case.dissect,
        max_flows: case.max_flows,
        ..Config::default()
    }
}

/// The two filters of the set, on Ethernet without tags; there may be no libpcap here.
fn passes(filter: Option<&str>, frame: &[u8]) -> bool {
    match filter {
        Some("udp port 53") => is_port(frame, 17, 53),
        Some("tcp and port 443") => is_port(frame, 6, 443),
        _ => true,
    }
}

fn is_port(frame: &[u8], protocol: u8, port: u16) -> bool {
    let u16_at = |at: usize| {
        let bytes = frame.get(at..).and_then(|b| b.first_chunk::<2>());
        bytes.map(|b| u16::from_be_bytes(*b))
    };
    let transport = match u16_at(12) {
        Some(0x0800) if u16_at(20).is_some_and(|f| f & 0x1fff == 0) => {
            let ihl = usize::from(frame.get(14).copied().unwrap_or(0) & 15) * 4;
            (frame.get(23) == Some(&protocol)).then_some(14 + ihl)
        }
        Some(0x86dd) => (frame.get(20) == Some(&protocol)).then_some(54),
        _ => None,
    };
    transport.is_some_and(|at| u16_at(at) == Some(port) || u16_at(at + 2) == Some(port))
}

/// The candidate file: no text at all when there is no flow.
fn run(case: &Case, captures: &Path) -> String {
    let mut meter = Meter::new(config(case));
    if let Some(text) = &case.plugin {
        meter.add_plugin(Extension::built_in(text).expect("a built-in plugin"));
    }
    let mut out = Vec::new();
    for capture in &case.captures {
        let file = fs::File::open(captures.join(capture)).expect("the capture is there");
        let mut reader = Reader::new(file).expect("a capture");
        // What comes after a broken record is not read by NFStream either.
        while let Ok(Some((frame, bytes))) = reader.next_borrowed() {
            if passes(case.filter, bytes) {
                // Ignored frames are counted by the meter.
                let bytes = bytes.get(..frame.libpcap_len).unwrap_or(bytes);
                let _ = meter.observe(frame.link, frame.millis, bytes, frame.wire_len);
                drain(&mut meter, &mut out);
            }
        }
    }
    meter.finish();
    drain(&mut meter, &mut out);
    String::from_utf8(out).expect("text")
}

fn drain(meter: &mut Meter, out: &mut Vec<u8>) {
    let mut row = Vec::new();
    while let Some(flow) = meter.poll() {
        if out.is_empty() {
            write_csv_header(out, &meter.columns(), "\n");
        }
        row.clear();
        flow.values(meter.config(), &mut row);
        write_csv_row(out, &row, "\n");
    }
}
