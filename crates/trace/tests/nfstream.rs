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

#[path = "nfstream/compare.rs"]
mod compare;

use compare::{Table, compare};

/// Beside the repository.
const REFERENCE: &str = "../../../shared/conformance/nfstream";
/// Columns whose values depend on nDPI; the first four on its tables. How far they agree is reported, not required.
const APPLICATION: [&str; 9] = [
    "application_name",
    "application_category_name",
    "application_is_guessed",
    "application_confidence",
    "requested_server_name",
    "client_fingerprint",
    "server_fingerprint",
    "user_agent",
    "content_type",
];

/// One expected file: which captures, which settings.
struct Case {
    captures: Vec<PathBuf>,
    config: Config,
    plugin: Option<String>,
    filter: Option<fn(&[u8]) -> bool>,
}

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
        let (capture, setting) = split(name);
        let case = case(&root.join("pcaps"), capture, setting);
        let csv = run(&case);
        if let Some(folder) = &keep {
            fs::create_dir_all(folder).expect("the folder can be made");
            fs::write(folder.join(name), &csv).expect("the folder takes files");
        }
        let want = fs::read_to_string(root.join("expected").join(name)).expect("a text file");
        let (want, have) = (Table::parse(&want), Table::parse(&csv));
        let dissected = setting == "dpi20";
        let ignored: &[&str] = if dissected { &APPLICATION } else { &[] };
        let report = compare(&have, &want, ignored);
        if dissected {
            for (column, [same, all]) in &report.agreement {
                let sum = agreement.entry(column.clone()).or_default();
                sum[0] += same;
                sum[1] += all;
            }
        }
        let row = totals.entry(setting.to_owned()).or_default();
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

/// Capture and setting of `skype.pcap.m0.csv`.
fn split(name: &str) -> (&str, &str) {
    let stem = name.strip_suffix(".csv").unwrap_or(name);
    stem.rsplit_once('.').expect("capture.setting.csv")
}

fn case(captures: &Path, capture: &str, setting: &str) -> Case {
    let files: Vec<PathBuf> = if capture == "one_flow_multi" {
        ["1_5", "6_10", "11_15", "16_19"]
            .map(|part| captures.join(format!("one_flow_{part}.pcap")))
            .into()
    } else {
        vec![captures.join(capture)]
    };
    let full = Config {
        statistics: true,
        splt: 20,
        ..Config::default()
    };
    let mut case = Case {
        captures: files,
        config: full,
        plugin: None,
        filter: None,
    };
    let config = &mut case.config;
    let setting = match setting.strip_suffix("_notun") {
        Some(setting) => {
            config.decode_tunnels = false;
            setting
        }
        None => setting,
    };
    let timeouts = |config: &mut Config, idle, active| {
        config.idle_timeout_s = idle;
        config.active_timeout_s = active;
    };
    match setting {
        "m0" => (),
        "m1" => config.accounting = 1,
        "m2" => config.accounting = 2,
        "m3" => config.accounting = 3,
        "m0_i10a60" => timeouts(config, 10, 60),
        "m1_i1a5" => {
            config.accounting = 1;
            timeouts(config, 1, 5);
        }
        "m2_i0" => {
            config.accounting = 2;
            config.idle_timeout_s = 0;
        }
        "m3_a0" => {
            config.accounting = 3;
            config.active_timeout_s = 0;
        }
        "m0_max100" => config.max_flows = 100,
        "m0_bpf_udp53" => case.filter = Some(udp_port_53),
        "m0_bpf_tcp443" => case.filter = Some(tcp_port_443),
        "dpi20" => {
            case.config = Config {
                dissect: 20,
                ..Config::default()
            };
        }
        _ => plugin(&mut case, setting),
    }
    case
}

fn plugin(case: &mut Case, setting: &str) {
    let name = setting.strip_prefix("plug_").expect("a known setting");
    let text = match name {
        "splt5" => "splt,length=5".to_owned(),
        "wf3" => {
            case.config.active_timeout_s = 60;
            "wavelet,levels=3,active=60".to_owned()
        }
        _ => match name.strip_prefix("slicer") {
            Some(limit) => format!("slicer,limit={limit}"),
            None => name.to_owned(),
        },
    };
    case.config.splt = 0;
    case.config.statistics = name.starts_with("slicer");
    case.plugin = Some(text);
}

/// `udp port 53` on Ethernet without tags.
fn udp_port_53(frame: &[u8]) -> bool {
    is_port(frame, 17, 53)
}

/// `tcp and port 443` on Ethernet without tags.
fn tcp_port_443(frame: &[u8]) -> bool {
    is_port(frame, 6, 443)
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
fn run(case: &Case) -> String {
    let mut meter = Meter::new(case.config.clone());
    if let Some(text) = &case.plugin {
        meter.add_plugin(Extension::built_in(text).expect("a built-in plugin"));
    }
    let mut out = Vec::new();
    for capture in &case.captures {
        let file = fs::File::open(capture).expect("the capture is there");
        let mut reader = Reader::new(file).expect("a capture");
        // What comes after a broken record is not read by NFStream either.
        while let Ok(Some((frame, bytes))) = reader.next_borrowed() {
            if case.filter.is_none_or(|filter| filter(bytes)) {
                // Ignored frames are counted by the meter.
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
