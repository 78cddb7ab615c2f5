//! `gateway meter` as its users see it: files in, files out, one line for what is wrong, exit codes.

use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_trace::PcapWriter;
use flate2::Compression;
use flate2::write::GzEncoder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

/// A folder with captures, gone at the end.
struct Desk(tempfile::TempDir);

/// One UDP datagram in Ethernet and IPv4.
fn datagram(source: u8, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([
        0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 1, source, 10, 0, 0, 1,
    ]);
    frame.extend([high, low, 0, 53, 0, 9, 0, 0, 7]);
    frame
}

fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 12];
    frame.extend([8, 6]);
    frame.extend([0; 46]);
    frame
}

fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = PcapWriter::new(Vec::new(), Link::Ethernet).expect("memory");
    for (i, frame) in frames.iter().enumerate() {
        writer
            .write(
                Nanos::from_secs(1_700_000_000 + i as u64),
                frame,
                frame.len(),
            )
            .expect("memory");
    }
    writer.into_inner().expect("memory")
}

/// Two packets of a flow, and ARP between them.
fn small() -> Vec<u8> {
    pcap(&[datagram(9, 5000), arp(), datagram(9, 5000)])
}

/// Flows of one packet each.
fn many(flows: u16) -> Vec<u8> {
    pcap(
        &(0..flows)
            .map(|n| datagram((n % 200) as u8, 1000 + n))
            .collect::<Vec<_>>(),
    )
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// What a run said.
struct Said {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("no signal"),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

impl Said {
    /// The one line that is allowed for what is wrong.
    fn error(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{}", self.stderr);
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0]
    }

    fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_slice(&self.stdout).expect("JSON")
    }
}

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> &Self {
        fs::write(self.path(name), bytes).expect("written");
        self
    }

    fn keep_to_owner(&self, name: &str) {
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.path(name), mode).expect("set");
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("there")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("a folder");
        let mut names: Vec<_> = entries
            .map(|e| {
                e.expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
        command
            .arg("meter")
            .args(line.split_whitespace())
            .current_dir(self.0.path());
        command
    }

    fn meter(&self, line: &str) -> Said {
        self.command(line)
            .stdin(Stdio::null())
            .output()
            .expect("it starts")
            .into()
    }

    fn meter_stdin(&self, line: &str, bytes: &[u8]) -> Said {
        let mut command = self.command(line);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        // It may stop reading early.
        let _ = child.stdin.take().expect("a pipe").write_all(bytes);
        child.wait_with_output().expect("it ends").into()
    }
}

#[test]
fn flows_go_to_a_file_and_a_sum_to_the_terminal() {
    let desk = Desk::new();
    desk.put("a.pcap", &small())
        .put("devices.csv", b"device,mac\nlamp,02:00:00:00:00:02\n");
    let said =
        desk.meter("a.pcap a.pcap --output out.csv --devices devices.csv --report report.json");
    assert_eq!(said.code, 0);
    assert!(said.stdout.is_empty());
    let lines: Vec<&str> = said.stderr.lines().collect();
    assert_eq!(lines[0], "note: 1 packet older than one before");
    assert_eq!(
        lines[1],
        "note: a.pcap begins before a.pcap ends; give captures in the order of time"
    );
    assert_eq!(lines[2], "6 packets = 4 metered + 2 not ip");
    assert!(lines[3].starts_with("1 flow to out.csv ("), "{}", lines[3]);
    let text = desk.text("out.csv");
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows.len(), 2);
    for part in [
        "192.168.1.9,5000,10.0.0.1,53,17,4,",
        "02:00:00:00:00:02,02:00:00:00:00:01,out,",
    ] {
        assert!(rows[1].contains(part), "{part} is not in {}", rows[1]);
    }
    let json: serde_json::Value = serde_json::from_str(&desk.text("report.json")).expect("JSON");
    assert_eq!(
        (&json["packets_in"], &json["packets_metered"]),
        (&6.into(), &4.into())
    );
    assert_eq!(
        (&json["ignored"]["not_ip"], &json["balanced"]),
        (&2.into(), &true.into())
    );
    assert_eq!(json["inputs"][1]["packets"], 3);
    assert_eq!(json["output_bytes"], text.len());
}

#[test]
fn every_format_holds_every_flow() {
    let desk = Desk::new();
    desk.put("a.pcap", &many(300));
    for profile in [
        "native",
        "native --statistics --splt 3 --dissect 5 --plugin slicer:limit=9",
        "nfstream --statistics --splt 4",
    ] {
        for ending in ["csv", "jsonl", "parquet", "ipfix"] {
            let said = desk.meter(&format!(
                "a.pcap --output out.{ending} --profile {profile} --json"
            ));
            assert_eq!(said.json()["records"], 300, "{ending}");
        }
        let csv = desk.text("out.csv");
        let columns: Vec<&str> = csv.lines().next().expect("a header").split(',').collect();
        assert_eq!(csv.lines().count(), 301);
        for line in desk.text("out.jsonl").lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(value.as_object().map(|o| o.len()), Some(columns.len()));
        }
        let file = SerializedFileReader::new(File::open(desk.path("out.parquet")).expect("there"))
            .expect("Parquet");
        let mut ports = Vec::new();
        for row in file.get_row_iter(None).expect("rows") {
            let row = row.expect("a row");
            let cells: Vec<_> = row.get_column_iter().collect();
            assert!(
                cells
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .eq(columns.iter().copied())
            );
            ports.extend(
                cells.iter().filter(|(name, _)| *name == "src_port").map(
                    |(_, field)| match field {
                        Field::ULong(port) => *port,
                        other => panic!("{other:?} is no port"),
                    },
                ),
            );
        }
        assert!(ports.into_iter().eq(1000..1300));
        let ipfix = fs::read(desk.path("out.ipfix")).expect("there");
        let mut rest = ipfix.as_slice();
        while let [0, 10, high, low, ..] = rest {
            rest = &rest[usize::from(u16::from_be_bytes([*high, *low]))..];
        }
        assert!(rest.is_empty());
        fs::remove_file(desk.path("out.parquet")).expect("there");
    }
    assert!(!desk.names().iter().any(|name| name.ends_with(".part")));
}

#[test]
fn threads_change_no_byte() {
    let desk = Desk::new();
    desk.put("a.pcap", &many(2_000))
        .put("b.pcap.gz", &gzip(&many(1_500)));
    for ending in ["csv", "parquet", "ipfix"] {
        for threads in 1..=3 {
            let name = format!("{threads}.{ending}");
            let line = format!(
                "a.pcap b.pcap.gz --output {name} --threads {threads} --idle-timeout 3 --json"
            );
            let json = desk.meter(&line).json();
            assert_eq!(
                (&json["packets_in"], &json["balanced"]),
                (&3_500.into(), &true.into())
            );
            let read = |name: &str| fs::read(desk.path(name)).expect("there");
            assert!(read(&name) == read(&format!("1.{ending}")), "{name}");
        }
    }
}

#[test]
fn standard_input_and_output_work_packed_or_not() {
    let desk = Desk::new();
    for bytes in [small(), gzip(&small())] {
        let said = desk.meter_stdin("- --output - --quiet", &bytes);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""));
        assert_eq!(said.stdout.iter().filter(|b| **b == b'\n').count(), 2);
    }
    let said = desk.meter_stdin("- --output - --format jsonl --json", &small());
    assert_eq!(said.code, 0);
    let summary: serde_json::Value = serde_json::from_str(&said.stderr).expect("JSON");
    assert_eq!(summary["output"], "standard output");
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let desk = Desk::new();
    desk.put("a.pcap", &many(5_000));
    let mut child = desk
        .command("a.pcap --output -")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let said: Said = child.wait_with_output().expect("it ends").into();
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
}

#[test]
fn vlans_share_flows_or_not() {
    let tagged = |id: u8| {
        let mut frame = datagram(9, 5000);
        frame.splice(12..12, [0x81, 0, 0, id]);
        frame
    };
    let desk = Desk::new();
    desk.put("a.pcap", &pcap(&[tagged(1), tagged(2), datagram(9, 5000)]));
    for (options, flows) in [("", 1), ("--vlan-key", 3), ("--profile nfstream", 3)] {
        let report = desk
            .meter(&format!("a.pcap -o out.csv --json {options}"))
            .json();
        assert_eq!(report["records"], flows, "{options}");
    }
}

#[test]
fn nfstream_names_its_file_and_writes_none_without_flows() {
    let desk = Desk::new();
    desk.put("a.pcap", &small())
        .put("none.pcap", &pcap(&[arp()]));
    let said = desk.meter("a.pcap none.pcap --profile nfstream --dissect 0");
    assert_eq!(said.code, 0, "{}", said.stderr);
    let text = desk.text("a.pcap.csv");
    assert!(
        text.starts_with("id,expiration_id,src_ip,src_mac,src_oui,src_port,")
            && text.ends_with("\r\n")
    );
    assert_eq!(text.lines().count(), 2);
    let said = desk.meter("none.pcap --profile nfstream");
    assert_eq!(said.code, 0);
    assert!(
        said.stderr.contains("no flow, so nothing was written"),
        "{}",
        said.stderr
    );
    assert_eq!(desk.names(), ["a.pcap", "a.pcap.csv", "none.pcap"]);
    // The native profile leaves a header.
    assert_eq!(desk.meter("none.pcap --output none.csv").code, 0);
    assert_eq!(desk.text("none.csv").lines().count(), 1);
}

#[test]
fn options_of_nfstream_make_its_columns() {
    let desk = Desk::new();
    let columns = |line: &str| {
        let said = desk.meter(&format!("--explain --profile nfstream {line}"));
        assert_eq!(said.code, 0, "{}", said.stderr);
        String::from_utf8(said.stdout)
            .expect("UTF-8")
            .lines()
            .count()
            - 2
    };
    assert_eq!(columns("--statistics --splt 20"), 89);
    assert_eq!(columns("--dissect 0"), 29);
    assert_eq!(columns("--dissect 0 --decode-tunnels false"), 28);
    assert_eq!(
        columns("--dissect 0 --plugin slicer:limit=4 --plugin splt:length=3"),
        32
    );
    let said = desk.meter("--explain");
    assert!(
        String::from_utf8(said.stdout)
            .expect("UTF-8")
            .contains("| `start_ns` | unsigned | ns since 1970 | 152 156 |")
    );
}

#[test]
fn what_is_wrong_with_an_input_is_one_line() {
    let desk = Desk::new();
    desk.put("notes.txt", b"no capture")
        .put("empty.pcap", b"")
        .put("good.pcap", &small());
    desk.put("packed.txt.gz", &gzip(b"no capture"))
        .put("cut.gz", &gzip(&small())[..9]);
    for (input, line) in [
        (
            "missing.pcap",
            "error: cannot read missing.pcap: No such file or directory (os error 2)",
        ),
        (".", "error: . is a directory, not a capture"),
        ("empty.pcap", "error: empty.pcap: the file is empty"),
        (
            "notes.txt",
            "error: notes.txt: not a pcap or pcapng file: it begins with 0x6e6f2063",
        ),
        (
            "packed.txt.gz",
            "error: packed.txt.gz: not a pcap or pcapng file: it begins with 0x6e6f2063",
        ),
        (
            "cut.gz",
            "error: cut.gz: the gzip data is damaged after 0 good packets: it ends early",
        ),
        (
            "good.pcap notes.txt",
            "error: notes.txt: not a pcap or pcapng file: it begins with 0x6e6f2063",
        ),
        ("- -", "error: standard input is given 2 times"),
        (
            "good.pcap --output good.pcap --format csv",
            "error: good.pcap is input and output",
        ),
    ] {
        let output = if input.contains("--output") {
            ""
        } else {
            "--output out.csv"
        };
        let said = desk.meter(&format!("{input} {output}"));
        assert_eq!(said.error(2), line);
        assert!(!desk.path("out.csv").exists(), "{input}");
    }
    assert_eq!(desk.text("notes.txt"), "no capture");
}

#[test]
fn damage_is_told_after_the_good_packets_were_metered() {
    let desk = Desk::new();
    let whole = small();
    let packed = gzip(&many(50));
    desk.put("cut.pcap", &whole[..whole.len() - 3])
        .put("cut.pcap.gz", &packed[..packed.len() - 9]);
    let said = desk.meter("cut.pcap --output out.csv --quiet");
    assert_eq!(
        said.error(1),
        "error: cut.pcap: the file ends inside packet 3, which begins at byte 159"
    );
    assert_eq!(desk.text("out.csv").lines().count(), 2);
    let said = desk.meter("cut.pcap.gz --output out.csv --quiet");
    let line = said.error(1);
    assert!(
        line.starts_with("error: cut.pcap.gz: the gzip data is damaged after "),
        "{line}"
    );
    assert!(line.ends_with(" good packets: it ends early"), "{line}");
    // Of a pipe the beginning is read before the output is made.
    let before = desk.text("out.csv");
    let said = desk.meter_stdin("- --output out.csv --quiet", b"no capture");
    assert_eq!(
        said.error(2),
        "error: standard input: not a pcap or pcapng file: it begins with 0x6e6f2063"
    );
    assert_eq!(desk.text("out.csv"), before);
    desk.put("header.pcap", &whole[..10]);
    assert_eq!(
        desk.meter("header.pcap --output out.csv").error(2),
        "error: header.pcap: the file ends inside its header"
    );
}

#[test]
fn nothing_is_written_over_what_is_read_or_written() {
    let desk = Desk::new();
    desk.put("in.pcap", &small())
        .put("key", "0123456789abcdef".repeat(8).as_bytes())
        .put("devices.csv", b"mac\n02:00:00:00:00:02\n")
        .put("flows.parquet.part", &small())
        .put("flows.0.csv", &small());
    desk.keep_to_owner("key");
    fs::hard_link(desk.path("in.pcap"), desk.path("hard.csv")).expect("a link");
    std::os::unix::fs::symlink("in.pcap", desk.path("soft.csv")).expect("a link");
    let key = "in.pcap --anonymize src_ip --anonymize-key key";
    for (line, text) in [
        (
            "in.pcap -o y.csv --report in.pcap",
            "in.pcap is input and report",
        ),
        (
            "in.pcap -o y.csv --report y.csv",
            "y.csv is output and report",
        ),
        (
            "in.pcap -o y.csv --report ./y.csv",
            "y.csv and ./y.csv are one file: output and report",
        ),
        (
            "in.pcap -o hard.csv",
            "in.pcap and hard.csv are one file: input and output",
        ),
        (
            "in.pcap -o soft.csv",
            "in.pcap and soft.csv are one file: input and output",
        ),
        (
            "flows.parquet.part -o flows.parquet",
            "flows.parquet.part is input and output",
        ),
        (
            &format!("{key} -o key --format csv"),
            "key is key and output",
        ),
        (
            &format!("{key} -o y.csv --report key"),
            "key is key and report",
        ),
        (
            "in.pcap --devices devices.csv -o devices.csv",
            "devices.csv is device table and output",
        ),
    ] {
        assert_eq!(
            desk.meter(line).error(2),
            format!("error: {text}"),
            "{line}"
        );
    }
    // Names of rotated files come later.
    let said = desk.meter("flows.0.csv -o flows.csv --rotate-flows 1");
    assert_eq!(
        said.error(1),
        "error: while writing flows.csv: flows.0.csv would overwrite the input flows.0.csv"
    );
    let said = desk.meter("in.pcap -o g.csv --rotate-flows 1 --report g.0.csv");
    assert_eq!(
        said.error(1),
        "error: while writing g.csv: g.0.csv would overwrite the report g.0.csv"
    );
    let mut command = desk.command("- -o in.pcap --format csv");
    let file = File::open(desk.path("in.pcap")).expect("there");
    let said: Said = command.stdin(file).output().expect("it starts").into();
    assert_eq!(
        said.error(2),
        "error: /dev/stdin and in.pcap are one file: input and output"
    );
    for name in ["in.pcap", "flows.0.csv", "flows.parquet.part"] {
        assert_eq!(fs::read(desk.path(name)).expect("there"), small(), "{name}");
    }
    assert!(!desk.path("y.csv").exists());
    // A name that nobody chose overwrites nothing.
    assert_eq!(desk.meter("in.pcap -q").code, 0);
    let before = desk.text("in.pcap.csv");
    assert_eq!(
        desk.meter("in.pcap -q --statistics").error(2),
        "error: in.pcap.csv exists; `--output in.pcap.csv` overwrites it"
    );
    assert_eq!(desk.text("in.pcap.csv"), before);
    assert_eq!(desk.meter("in.pcap -q -o in.pcap.csv --statistics").code, 0);
    assert_ne!(desk.text("in.pcap.csv"), before);
    for code in [0, 1] {
        let said = desk.meter("in.pcap -q --rotate-flows 1 --rotate-files 3");
        assert_eq!(said.code, code, "{}", said.stderr);
    }
}

#[test]
fn names_tell_format_and_packing() {
    let desk = Desk::new();
    desk.put("a.pcap", &many(20));
    let unpacked = |name: &str| {
        let packed = fs::read(desk.path(name)).expect("there");
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_slice())
            .read_to_string(&mut text)
            .expect("gzip");
        text
    };
    for (plain, packed) in [("y.csv", "y.csv.gz"), ("y.jsonl", "y.JSONL.GZ")] {
        for name in [plain, packed] {
            let json = desk.meter(&format!("a.pcap -o {name} --json")).json();
            let size = fs::metadata(desk.path(name)).expect("there").len();
            assert_eq!(json["output_bytes"], size, "{name}");
        }
        assert_eq!(unpacked(packed), desk.text(plain));
    }
    assert_eq!(
        desk.meter("a.pcap -o r.csv.gz --rotate-flows 15 -q").code,
        0
    );
    assert_eq!(unpacked("r.1.csv.gz").lines().count(), 6);
    assert_eq!(desk.meter("a.pcap -o plain -q").code, 0);
    assert_eq!(desk.text("plain"), desk.text("y.csv"));
    assert_eq!(desk.meter("a.pcap -o y.foo --format csv -q").code, 0);
    for (line, text) in [
        (
            "-o z.foo",
            "z.foo: the ending of the name tells no format; give --format",
        ),
        ("-o z.gz", "z.gz: the ending of the name tells no format"),
        ("-o z.parquet.gz", "z.parquet.gz: Parquet is packed already"),
        ("-o z.gz --format ipfix", "z.gz: IPFIX is not packed"),
        (
            "-o ipfix://",
            "--output ipfix://: expected ipfix://HOST:PORT",
        ),
        (
            "-o ipfix:host",
            "--output ipfix:host: expected ipfix://HOST:PORT",
        ),
        (
            "-o ipfix://localhost:99999",
            "--output ipfix://localhost:99999: expected ipfix://HOST:PORT",
        ),
        (
            "-o kafka://a/b",
            "--output kafka://a/b: flows do not go to kafka://",
        ),
    ] {
        let said = desk.meter(&format!("a.pcap {line}"));
        let error = said.error(2);
        assert!(error.starts_with(&format!("error: {text}")), "{error}");
    }
}

/// Sends a signal to the meter after it has read what was written, and gives what it said.
fn stopped(mut command: Command, signal: Signal, feed: impl FnOnce(&mut Child)) -> Said {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    feed(&mut child);
    let pid = Pid::from_raw(child.id() as i32);
    // The file of flows is made behind the capture's header: then signals are caught, and the frames are on their way.
    std::thread::sleep(Duration::from_millis(500));
    kill(pid, signal).expect("it runs");
    let pipe = child.stdin.take();
    let said = child.wait_with_output().expect("it ends").into();
    drop(pipe);
    said
}

#[test]
fn a_signal_ends_the_reading_and_loses_no_flow() {
    let desk = Desk::new();
    for (ending, threads) in [("csv", 1), ("parquet", 3), ("csv.gz", 2)] {
        let line = format!("- -o out.{ending} --threads {threads} --report report.json");
        let mut command = desk.command(&line);
        command.stdin(Stdio::piped());
        let output = desk.path(&format!("out.{ending}"));
        let said = stopped(command, Signal::SIGTERM, |child| {
            // A capture that breaks off within a packet, from somebody who holds the pipe open.
            let bytes = many(300);
            let pipe = child.stdin.as_mut().expect("a pipe");
            pipe.write_all(&bytes[..bytes.len() - 5]).expect("room");
            let part = output.with_extension("parquet.part");
            for _ in 0..1_000 {
                if output.exists() || part.exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        assert_eq!(said.code, 0, "{}", said.stderr);
        assert!(
            said.stderr
                .contains("stopped by a signal before the end of the input"),
            "{}",
            said.stderr
        );
        let report: serde_json::Value =
            serde_json::from_str(&desk.text("report.json")).expect("JSON");
        assert_eq!(
            (
                &report["records"],
                &report["interrupted"],
                &report["balanced"]
            ),
            (&299.into(), &true.into(), &true.into())
        );
    }
    assert_eq!(desk.text("out.csv").lines().count(), 300);
    let file = File::open(desk.path("out.parquet")).expect("there");
    let parquet = SerializedFileReader::new(file).expect("Parquet");
    assert_eq!(parquet.metadata().file_metadata().num_rows(), 299);
    assert!(!desk.names().iter().any(|name| name.ends_with(".part")));
    // While it waits for somebody to write into a named pipe, nothing is made yet.
    nix::unistd::mkfifo(&desk.path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let said = stopped(desk.command("fifo -o none.csv"), Signal::SIGINT, |_| {
        std::thread::sleep(Duration::from_secs(1));
    });
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(
        said.stderr.starts_with("0 packets = 0 metered"),
        "{}",
        said.stderr
    );
    // And it reads what comes through it to the end.
    let writer = {
        let path = desk.path("fifo");
        std::thread::spawn(move || fs::write(path, many(50)))
    };
    let said = desk.meter("fifo -o fifo.csv --json");
    writer.join().expect("no panic").expect("written");
    assert_eq!(said.json()["records"], 50);
}

#[test]
fn limits_count_the_same_with_any_threads() {
    let desk = Desk::new();
    desk.put("a.pcap", &many(3_000)).put("b.pcap", &many(9_000));
    let run = |options: &str, threads: u8| {
        let line = format!("a.pcap b.pcap -o o.csv --json --threads {threads} {options}");
        let mut json = desk.meter(&line).json();
        json.as_object_mut().expect("an object").retain(|name, _| {
            ![
                "seconds",
                "cpu_seconds",
                "packets_per_second",
                "peak_memory_bytes",
            ]
            .contains(&name.as_str())
        });
        json
    };
    for options in [
        "--max-packets 3500",
        "--max-packets 3000",
        "--max-flows 1000 --idle-timeout 3",
        "--max-flows 3500 --idle-timeout 3",
    ] {
        let one = run(options, 1);
        assert_eq!(one["balanced"], true);
        assert_eq!(one, run(options, 2));
        assert_eq!(one, run(options, 3), "{options}");
    }
    let json = run("--max-packets 3500", 2);
    assert_eq!(
        (
            &json["packets_in"],
            &json["record_packets"],
            &json["unwritten_packets"]
        ),
        (&3_500.into(), &3_500.into(), &0.into())
    );
    assert_eq!(json["inputs"][1]["packets"], 500);
    let json = run("--max-flows 1000 --idle-timeout 30", 3);
    let metered = json["packets_metered"].as_u64().expect("a number");
    assert_eq!(json["unwritten_packets"], metered - 1_000);
    let said = desk.meter("a.pcap -o o.csv --max-flows 1000 --idle-timeout 30");
    assert!(
        said.stderr
            .contains(&format!("{} packets in flows not written", metered - 1_000)),
        "{}",
        said.stderr
    );
}

#[test]
fn what_anonymising_leaves_is_told() {
    let desk = Desk::new();
    desk.put("a.pcap", &small());
    let error = |options: &str| {
        desk.meter(&format!("a.pcap -o y.csv {options}"))
            .error(2)
            .to_string()
    };
    assert_eq!(
        error("--anonymize src-ip,dst_ip"),
        "error: --anonymize: there is no column src-ip, but src_ip; --explain lists all"
    );
    assert_eq!(
        error("--anonymize qqqqqqqq"),
        "error: --anonymize: there is no column qqqqqqqq; --explain lists all"
    );
    desk.put("zeros", &[0; 32]);
    desk.keep_to_owner("zeros");
    assert!(error("--anonymize src_ip --anonymize-key zeros").contains("a key of zeros only"));
    assert!(!desk.path("y.csv").exists());
    let line =
        "a.pcap -o y.csv --anonymize src_ip,dst_ip,src_mac --plugin dhcp --plugin mdns --dissect 5";
    let said = desk.meter(line);
    assert_eq!(
        said.stderr.lines().next(),
        Some(
            "note: not anonymised, and can hold addresses or names of devices: dst_mac, server_name, host_name, device_hint, \
             plugin.dhcp_12, plugin.dhcp_50, plugin.dhcp_addr, plugin.mdns_ptr"
        )
    );
    let said = desk.meter(&format!("{line} --quiet"));
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let line = "a.pcap -o y.ipfix --anonymize start_ns,src_port";
    let said = desk.meter(line);
    assert_eq!(
        said.stderr.lines().next(),
        Some(
            "note: IPFIX has no elements for the pseudonyms of start_ns, src_port; they are left out"
        )
    );
    let said = desk.meter("--explain --anonymize start_ns");
    let text = String::from_utf8(said.stdout).expect("UTF-8");
    assert!(
        text.contains("| `start_ns` | text |  |  | ") && text.contains("Anonymised."),
        "{text}"
    );
}

#[test]
fn link_types_that_are_not_read_are_named() {
    let desk = Desk::new();
    let mut bytes = small();
    bytes[20..24].copy_from_slice(&999u32.to_le_bytes());
    desk.put("a.pcap", &bytes);
    for profile in ["native", "nfstream"] {
        let said = desk.meter(&format!("a.pcap -o y.csv --profile {profile}"));
        assert!(
            said.stderr
                .starts_with("3 packets = 0 metered + 3 link type (999)\n"),
            "{}",
            said.stderr
        );
    }
}

#[test]
fn what_is_wrong_with_the_output_is_one_line() {
    let desk = Desk::new();
    desk.put("a.pcap", &many(5_000));
    for format in ["csv", "jsonl", "parquet", "ipfix"] {
        let said = desk.meter(&format!("a.pcap --output /dev/full --format {format}"));
        assert_eq!(
            said.error(1),
            "error: while writing /dev/full: No space left on device (os error 28)"
        );
    }
    let said = desk.meter("a.pcap --output nowhere/out.csv");
    assert_eq!(
        said.error(2),
        "error: cannot write nowhere/out.csv: No such file or directory (os error 2)"
    );
    for line in [
        "a.pcap --output nowhere/out.csv --rotate-flows 5",
        "a.pcap --output nowhere/out.csv --profile nfstream",
    ] {
        assert_eq!(
            desk.meter(line).error(2),
            "error: cannot write nowhere/out.csv: No such file or directory (os error 2)"
        );
    }
    let said = desk.meter("a.pcap --output . --format parquet");
    assert_eq!(said.error(2), "error: cannot write .: is a directory");
    let said = desk.meter("a.pcap --output ipfix+tcp://127.0.0.1:1");
    assert!(
        said.error(1)
            .starts_with("error: cannot reach ipfix+tcp://127.0.0.1:1: "),
        "{}",
        said.stderr
    );
    let said = desk.meter("a.pcap --output ok.csv --report nowhere/report.json --quiet");
    assert!(
        said.error(1)
            .starts_with("error: while writing nowhere/report.json: "),
        "{}",
        said.stderr
    );
}

#[test]
fn options_that_do_not_go_together_are_one_line() {
    let desk = Desk::new();
    desk.put("a.pcap", &small()).put("key", b"short");
    desk.keep_to_owner("key");
    for (line, text) in [
        (
            "a.pcap --accounting 3",
            "error: --accounting needs --profile nfstream; the native profile has all four sizes",
        ),
        (
            "a.pcap --profile nfstream --idle-timeout 0.5",
            "error: --idle-timeout: NFStream knows whole seconds only",
        ),
        (
            "a.pcap --profile nfstream --plugin nothing",
            "error: no plugin is called \"nothing\"",
        ),
        (
            "-",
            "error: standard input has no name for the output: give --output",
        ),
        (
            "a.pcap --output - --rotate-flows 5",
            "error: only files are rotated, not standard output",
        ),
        (
            "a.pcap --rotate-files 5",
            "error: --rotate-files needs --rotate-flows, --rotate-size or --rotate-every",
        ),
        (
            "a.pcap --output ipfix://[::1]:9 --format csv",
            "error: a collector takes --format ipfix",
        ),
        (
            "a.pcap --output a.ipfix --anonymize src_ip",
            "error: IPFIX has no room for tokens in place of addresses",
        ),
        (
            "a.pcap --anonymize src_ip --anonymize-key key",
            "error: key file key: a key of 5 bytes; it needs 32 to 64",
        ),
        (
            "a.pcap --anonymize src_ip --anonymize-key none",
            "error: key file none: No such file or directory",
        ),
        (
            "--live no-such-if0 --output a.csv",
            "error: cannot meter no-such-if0",
        ),
        ("a.pcap --duration 5", "error: --duration needs --live"),
        (
            "a.pcap --report-interval 5",
            "error: --report-interval needs --live",
        ),
        ("a.pcap --snaplen 100", "error: --snaplen needs --live"),
        (
            "a.pcap --promiscuous false",
            "error: --promiscuous needs --live",
        ),
        (
            "a.pcap --buffer-size 2M",
            "error: --buffer-size needs --live",
        ),
        (
            "a.pcap --anonymize-mode hash",
            "error: --anonymize-mode needs --anonymize",
        ),
        (
            "a.pcap --anonymize-key key",
            "error: --anonymize-key needs --anonymize",
        ),
        (
            "a.pcap --ipfix-enterprise 9",
            "error: --ipfix-enterprise needs an output in IPFIX",
        ),
        (
            "a.pcap --ipfix-rate 9",
            "error: --ipfix-rate needs an output in IPFIX",
        ),
        (
            "a.pcap -o y.ipfix --ipfix-rate 9",
            "error: --ipfix-rate needs --output ipfix://HOST:PORT",
        ),
        (
            "a.pcap --profile nfstream --tcp-end false",
            "error: --tcp-end needs --profile native",
        ),
        (
            "a.pcap --profile nfstream --vlan-key",
            "error: --vlan-key needs --profile native",
        ),
        (
            "a.pcap --profile nfstream --idle-tcp 5",
            "error: --idle-tcp needs --profile native",
        ),
        (
            "a.pcap --plugin slicer --plugin ja4 --plugin ja4",
            "error: plugin ja4 has a column \"ja4\", and plugin ja4 has it already; give only one of them",
        ),
        (
            "a.pcap -o ipfix://127.0.0.1:9 --statistics --ipfix-enterprise 9",
            "error: IPFIX to ipfix://127.0.0.1:9: ",
        ),
    ] {
        let said = desk.meter(line);
        let error = said.error(2);
        assert!(error.starts_with(text), "{error}");
    }
    assert_eq!(desk.names(), ["a.pcap", "key"]);
}

#[test]
fn filters_choose_packets_and_wrong_ones_are_told() {
    let desk = Desk::new();
    desk.put("a.pcap", &many(100));
    let run = |filter: &str| {
        let mut command = desk.command("a.pcap --output out.csv --json");
        let output = command.args(["--filter", filter]).output();
        Said::from(output.expect("it starts"))
    };
    let said = run("udp src port 1007 or udp src port 1008");
    if said.code == 3 {
        assert!(
            said.error(3)
                .starts_with("error: filters need libpcap, which is not installed")
        );
        println!("skipped: no libpcap");
        return;
    }
    let json = said.json();
    assert_eq!(
        (&json["records"], &json["packets_filtered"]),
        (&2.into(), &98.into())
    );
    assert_eq!(json["balanced"], true);
    let said = run("udp prt 53");
    assert!(
        said.error(2).starts_with("error: filter `udp prt 53`: "),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("syntax error"), "{}", said.stderr);
}

/// A query for `www.example.org`, type A, as nDPI wants it: a whole message.
fn dns_query(port: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["www", "example", "org"] {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    let mut frame = datagram(9, port);
    frame.truncate(42);
    frame[17] = (28 + message.len()) as u8;
    frame[39] = (8 + message.len()) as u8;
    frame.extend(message);
    frame
}

#[test]
fn ndpi_names_applications_where_the_system_has_it() {
    let desk = Desk::new();
    let flows: Vec<_> = (1..=200).map(|p| dns_query(5_000 + p)).collect();
    desk.put("a.pcap", &pcap(&[flows, vec![datagram(9, 6000)]].concat()));
    let wrong = desk.meter("a.pcap --output - --plugin ndpi:packets=0");
    assert_eq!(
        wrong.error(2),
        "error: plugin ndpi: `packets=0`: there is one option, packets=1..255"
    );
    for profile in ["native", "nfstream"] {
        let said = desk.meter(&format!(
            "a.pcap --output {profile}.csv --plugin ndpi:packets=8 --profile {profile} --quiet"
        ));
        if said.code == 3 {
            assert!(
                said.error(3)
                    .starts_with("error: plugin ndpi needs libndpi 4.2"),
                "{}",
                said.stderr
            );
            println!("skipped: {}", said.stderr.trim());
            return;
        }
        assert_eq!(said.code, 0, "{}", said.stderr);
        let text = desk.text(&format!("{profile}.csv"));
        let mut lines = text.lines();
        let names: Vec<_> = lines.next().expect("a header").split(',').collect();
        let at = names.iter().position(|n| n.ends_with("ndpi_application"));
        let at = at.expect("the column");
        let mut dns = 0;
        for line in lines {
            let cells: Vec<_> = line.split(',').collect();
            assert_eq!(cells.len(), names.len());
            dns += u32::from(cells[at..at + 3] == ["DNS", "Network", "0"]);
        }
        assert_eq!(dns, 200, "{profile}");
    }
}

#[test]
fn anonymised_columns_are_the_same_under_one_key_and_others_without() {
    let desk = Desk::new();
    desk.put("a.pcap", &small())
        .put("key", "0123456789abcdef".repeat(8).as_bytes());
    let said = desk.meter("a.pcap --output out.csv --anonymize src_ip --anonymize-key key");
    assert_eq!(
        said.error(2),
        "error: key file key has mode 0644: others can read it; run chmod 600 on it"
    );
    desk.keep_to_owner("key");
    let run = |options: &str| {
        let said = desk.meter(&format!(
            "a.pcap --output out.csv --quiet --anonymize src_ip,dst_ip {options}"
        ));
        assert_eq!((said.code, said.stderr.as_str()), (0, ""));
        let text = desk.text("out.csv");
        assert!(
            !text.contains("192.168.1.9") && !text.contains("10.0.0.1"),
            "{text}"
        );
        text
    };
    assert_eq!(run("--anonymize-key key"), run("--anonymize-key key"));
    assert_ne!(run(""), run(""));
    let prefix = run("--anonymize-mode prefix --anonymize-key key");
    let cells: Vec<&str> = prefix.lines().nth(1).expect("a row").split(',').collect();
    assert!(
        cells
            .iter()
            .filter(|cell| cell.parse::<std::net::Ipv4Addr>().is_ok())
            .count()
            == 2,
        "{prefix}"
    );
}

#[test]
fn files_are_rotated_and_flows_limited() {
    let desk = Desk::new();
    desk.put("a.pcap", &many(25));
    let said = desk.meter("a.pcap --output flows.csv --rotate-flows 10 --profile nfstream --quiet");
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert_eq!(
        desk.names(),
        ["a.pcap", "flows.0.csv", "flows.1.csv", "flows.2.csv"]
    );
    assert_eq!(desk.text("flows.1.csv").lines().count(), 11);
    assert_eq!(desk.text("flows.2.csv").lines().count(), 6);
    let said =
        desk.meter("a.pcap --output flows.parquet --rotate-every 10 --idle-timeout 2 --quiet");
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let parquet: Vec<String> = desk
        .names()
        .into_iter()
        .filter(|name| name.ends_with(".parquet"))
        .collect();
    assert_eq!(
        parquet,
        [
            "flows.20231114T221320Z.0.parquet",
            "flows.20231114T221330Z.0.parquet",
            "flows.20231114T221340Z.0.parquet"
        ]
    );
    let said =
        desk.meter("a.pcap -o ring.jsonl --rotate-every 5 --rotate-files 2 --idle-timeout 1 -q");
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let ring: Vec<String> = desk
        .names()
        .into_iter()
        .filter(|name| name.starts_with("ring"))
        .collect();
    assert_eq!(
        ring,
        [
            "ring.20231114T221335Z.0.jsonl",
            "ring.20231114T221340Z.0.jsonl"
        ]
    );
    for threads in 1..=3 {
        let said = desk.meter(&format!(
            "a.pcap --output few.csv --max-flows 7 --threads {threads} --json"
        ));
        let json = said.json();
        assert_eq!(
            (
                &json["records"],
                &json["stopped_at_limit"],
                &json["balanced"]
            ),
            (&7.into(), &true.into(), &true.into())
        );
        assert_eq!(desk.text("few.csv").lines().count(), 8);
    }
}

#[test]
fn a_collector_gets_datagrams_and_its_absence_is_told() {
    let desk = Desk::new();
    desk.put("a.pcap", &many(500));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("a port").port();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("set");
    // The collector reads while the meter sends; an empty datagram ends it.
    let collector = std::thread::spawn(move || {
        let (mut bytes, mut message) = (0, [0; 2_000]);
        loop {
            match socket.recv(&mut message).expect("a datagram") {
                0 => return bytes,
                n => {
                    assert!(n <= 1_400 && message[..2] == [0, 10]);
                    bytes += n;
                }
            }
        }
    });
    let said = desk.meter(&format!("a.pcap --output ipfix://127.0.0.1:{port} --json"));
    let json = said.json();
    assert_eq!(
        (&json["records"], &json["refused_datagrams"]),
        (&500.into(), &0.into())
    );
    let end = UdpSocket::bind("127.0.0.1:0").expect("a port");
    end.send_to(&[], ("127.0.0.1", port)).expect("sent");
    let bytes = collector.join().expect("a sum");
    assert_eq!(json["output_bytes"], bytes);
    let said = desk.meter(&format!("a.pcap --output ipfix://127.0.0.1:{port}"));
    assert_eq!(said.code, 0);
    assert!(
        said.stderr
            .contains("datagrams refused: is a collector listening?"),
        "{}",
        said.stderr
    );
}

fn shared(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared")
        .join(path)
}

fn captures(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() {
            captures(&path, found);
        } else if path
            .extension()
            .is_some_and(|e| e == "pcap" || e == "pcapng" || e == "cap")
        {
            found.push(path);
        }
    }
}

#[test]
fn accounts_for_every_packet_of_real_and_odd_captures() {
    let mut files = Vec::new();
    for folder in ["data/iot", "conformance/nfstream/pcaps"] {
        captures(&shared(folder), &mut files);
    }
    if files.is_empty() {
        println!("skipped: no captures in ../shared");
        return;
    }
    let desk = Desk::new();
    for file in files {
        for profile in ["native", "nfstream"] {
            let mut command = desk.command(&format!(
                "--profile {profile} --output out.csv --report report.json --quiet"
            ));
            let said: Said = command.arg(&file).output().expect("it starts").into();
            if said.code == 2 {
                continue;
            }
            let report: serde_json::Value =
                serde_json::from_str(&desk.text("report.json")).expect("JSON");
            assert_eq!(report["balanced"], true, "{}: {report}", file.display());
            assert!(!said.stderr.contains("do not add up"), "{}", said.stderr);
        }
    }
}
