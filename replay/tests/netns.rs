//! The program on real interfaces, in namespaces of its own.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
mod lab;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_replay::{Options, Pacing, Report, Rewrite, Silent, Target, run};
use chaff_trace::PcapWriter;
use etherparse::PacketBuilder;
use lab::{Lab, drain, forwarding};

const DEVICE: [u8; 6] = [2, 0, 0, 0, 0, 9];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A frame from the device, or to it, told apart by `n`; every seventh is IPv6.
fn frame(out: bool, n: u16, payload: usize) -> Vec<u8> {
    let (src, dst) = if out { (DEVICE, PEER) } else { (PEER, DEVICE) };
    let (from, to) = if out {
        ([10, 0, 0, 9], [192, 0, 2, 1])
    } else {
        ([192, 0, 2, 1], [10, 0, 0, 9])
    };
    let mut b = Vec::new();
    if n % 7 == 1 {
        let v6 = |a: [u8; 4]| [[0xfd; 4], [0; 4], [0; 4], a].concat().try_into().unwrap();
        PacketBuilder::ethernet2(src, dst)
            .ipv6(v6(from), v6(to), 64)
            .udp(n, 4460)
            .write(&mut b, &vec![n as u8; payload])
            .unwrap();
        return b;
    }
    PacketBuilder::ethernet2(src, dst)
        .ipv4(from, to, 64)
        .udp(n, 4460)
        .write(&mut b, &vec![n as u8; payload])
        .unwrap();
    b
}

fn write(dir: &Path, frames: &[(Nanos, Vec<u8>)]) -> PathBuf {
    let file = dir.join("test.pcap");
    let mut w = PcapWriter::new(std::fs::File::create(&file).unwrap(), Link::Ethernet).unwrap();
    for (at, f) in frames {
        w.write(*at + Nanos::from_secs(1_700_000_000), f, f.len())
            .unwrap();
    }
    file
}

/// `n` frames at 1 ms distances, every third one to the device.
fn traffic(n: u16) -> Vec<(Nanos, Vec<u8>)> {
    (0..n)
        .map(|i| {
            let at = Nanos::from_millis(u64::from(i));
            (at, frame(i % 3 != 2, i, 20 + usize::from(i) % 900))
        })
        .collect()
}

fn replay(options: &Options) -> Report {
    run(options, &mut Silent).expect("a replay")
}

fn bytes(frames: Vec<(Nanos, Vec<u8>)>) -> Vec<Vec<u8>> {
    frames.into_iter().map(|f| f.1).collect()
}

struct Setting {
    lab: Lab,
    dir: tempfile::TempDir,
}

impl Setting {
    fn new() -> Option<Self> {
        Some(Self {
            lab: Lab::new()?,
            dir: tempfile::tempdir().unwrap(),
        })
    }

    fn one(&self, frames: &[(Nanos, Vec<u8>)]) -> Options {
        let file = write(self.dir.path(), frames);
        Options::new(vec![file], Target::Interface(self.lab.end("lan")))
    }

    fn pair(&self, frames: &[(Nanos, Vec<u8>)]) -> Options {
        let mut o = self.one(frames);
        o.target = Target::Pair(self.lab.end("lan"), self.lab.end("wan"));
        o.verify = true;
        o.grace = Nanos::from_millis(500);
        o
    }
}

#[test]
fn every_frame_arrives_in_order_byte_for_byte() {
    let Some(s) = Setting::new() else { return };
    let sent = traffic(300);
    let at = s.lab.listen("lan");
    let report = replay(&s.one(&sent));
    assert_eq!(bytes(drain(&at)), bytes(sent));
    assert_eq!((report.packets, report.capture.selected), (300, 300));
    assert_eq!(report.lanes[0].lateness_ns.count, 300);
}

/// <https://github.com/appneta/tcpreplay/issues/418>
#[test]
fn the_second_packet_is_not_early() {
    let Some(s) = Setting::new() else { return };
    let at = s.lab.listen("lan");
    let times = [0, 50, 51].map(Nanos::from_millis);
    let report = replay(&s.one(&times.map(|t| (t, frame(true, 1, 9)))));
    let got: Vec<Nanos> = drain(&at).iter().map(|f| f.0).collect();
    let late = Nanos(report.lanes[0].lateness_ns.max) + Nanos::from_micros(200);
    for i in 1..3 {
        let (gap, want) = (got[i] - got[0], times[i]);
        assert!(gap + late >= want, "packet {i}: {gap} instead of {want}");
        assert!(
            gap <= want + late + Nanos::from_millis(20),
            "packet {i}: {gap} instead of {want}"
        );
    }
}

#[test]
fn loops_and_limits_count_every_packet() {
    let Some(s) = Setting::new() else { return };
    let at = s.lab.listen("lan");
    let mut o = s.one(&traffic(50));
    o.loops = 4;
    o.pacing = Pacing::PacketsPerSecond(5_000.0);
    let report = replay(&o);
    assert_eq!(
        (report.packets, report.loops.len(), drain(&at).len()),
        (200, 4, 200)
    );
    assert!(
        report
            .loops
            .windows(2)
            .all(|w| w[0].last_unix_ns < w[1].first_unix_ns)
    );
    o.limit = Some(120);
    let report = replay(&o);
    let per_loop: Vec<u64> = report.loops.iter().map(|l| l.packets).collect();
    assert_eq!((per_loop, drain(&at).len()), (vec![50, 50, 20], 120));
    o.limit = None;
    o.loops = 0;
    o.duration = Some(Nanos::from_millis(100));
    let report = replay(&o);
    assert!(report.stopped && report.packets > 0 && report.packets <= 500);
    assert_eq!(drain(&at).len() as u64, report.packets);
}

#[test]
fn top_speed_loses_and_reorders_nothing() {
    let Some(s) = Setting::new() else { return };
    let at = s.lab.listen("lan");
    let sent = traffic(1_000);
    let mut o = s.one(&sent);
    o.pacing = Pacing::Top;
    replay(&o);
    assert_eq!(bytes(drain(&at)), bytes(sent));
}

#[test]
fn rewritten_addresses_leave_the_interface() {
    let Some(s) = Setting::new() else { return };
    let at = s.lab.listen("lan");
    let mut o = s.one(&[(Nanos::ZERO, frame(true, 7, 9))]);
    o.rewrite =
        Rewrite::parse(&["ip=10.0.0.0/24:172.16.5.0/24,dst-mac=02:00:00:00:00:77"]).unwrap();
    replay(&o);
    let got = &drain(&at)[0].1;
    assert_eq!((got[5], &got[26..30]), (0x77, &[172, 16, 5, 9][..]));
}

#[test]
fn vlan_and_qinq_tags_survive() {
    let Some(s) = Setting::new() else { return };
    let mut tagged = frame(true, 1, 9);
    tagged.splice(12..12, [0x81, 0, 0x20, 0x07]);
    let mut double = tagged.clone();
    double.splice(12..12, [0x88, 0xa8, 0x00, 0x63]);
    let sent: Vec<_> = [tagged, double]
        .into_iter()
        .map(|f| (Nanos::ZERO, f))
        .collect();
    let at = s.lab.listen("lan");
    replay(&s.one(&sent));
    assert_eq!(bytes(drain(&at)), bytes(sent.clone()));
    s.lab.bridge();
    assert!(replay(&s.pair(&sent)).is_clean());
}

#[test]
fn a_bridge_passes_verification_in_both_directions() {
    let Some(s) = Setting::new() else { return };
    s.lab.bridge();
    let mut o = s.pair(&traffic(300));
    o.loops = 2;
    let report = replay(&o);
    let v = report.verify.expect("asked for");
    assert!(v.clean, "{:?}", v.directions);
    let sent: Vec<u64> = v.directions.iter().map(|d| d.sent).collect();
    assert_eq!(sent, [400, 200]);
    for d in &v.directions {
        assert_eq!(d.sent_hash, d.received_hash);
        assert_eq!(
            (d.matched, d.out_of_order, d.latency_ns.count),
            (d.sent, 0, d.sent)
        );
    }
}

/// Device traffic only, through a forwarder that does something to the frames.
fn verdict(
    s: &Setting,
    o: &Options,
    each: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send,
) -> chaff_replay::report::VerdictReport {
    let report = forwarding(&s.lab, each, || replay(o));
    report.verify.expect("asked for").directions[0].clone()
}

fn outgoing(s: &Setting) -> Options {
    let frames: Vec<_> = traffic(60)
        .into_iter()
        .filter(|f| f.1[6..12] == DEVICE)
        .collect();
    s.pair(&frames)
}

fn number(f: &[u8]) -> u16 {
    u16::from_be_bytes([f[34], f[35]])
}

#[test]
fn verification_names_a_lost_frame() {
    let Some(s) = Setting::new() else { return };
    let d = verdict(&s, &outgoing(&s), |f| {
        if number(f) == 4 {
            vec![]
        } else {
            vec![f.to_vec()]
        }
    });
    assert_eq!(
        (d.sent, d.matched, d.lost, d.foreign + d.altered),
        (40, 39, 1, 0)
    );
    // Frames 0, 1, 3, 4: the fourth of the file.
    assert!(
        d.lost_examples[0].starts_with("packet 4 of"),
        "{:?}",
        d.lost_examples
    );
    assert_ne!(d.sent_hash, d.received_hash);
}

#[test]
fn verification_finds_a_changed_byte() {
    let Some(s) = Setting::new() else { return };
    let d = verdict(&s, &outgoing(&s), |f| {
        let mut f = f.to_vec();
        if number(&f) == 4 {
            *f.last_mut().unwrap() ^= 1;
        }
        vec![f]
    });
    assert_eq!((d.lost, d.altered, d.foreign, d.duplicated), (1, 1, 0, 0));
}

#[test]
fn verification_finds_duplicates_and_counts_reordering() {
    let Some(s) = Setting::new() else { return };
    let held = Cell::new(None);
    let mut o = outgoing(&s);
    o.pacing = Pacing::Top;
    let d = verdict(&s, &o, move |f| match number(f) {
        4 => {
            held.set(Some(f.to_vec()));
            vec![]
        }
        10 => [Some(f.to_vec()), held.take(), Some(f.to_vec())]
            .into_iter()
            .flatten()
            .collect(),
        _ => vec![f.to_vec()],
    });
    assert_eq!((d.lost, d.altered, d.foreign), (0, 0, 0));
    assert_eq!((d.duplicated, d.out_of_order), (1, 1));
}

#[test]
fn verification_finds_foreign_frames_unless_ignored() {
    let Some(s) = Setting::new() else { return };
    let mut stranger = frame(true, 1, 40);
    stranger[11] = 0x55;
    let mut o = outgoing(&s);
    let inject = |f: &[u8]| vec![f.to_vec(), stranger.clone()];
    let d = verdict(&s, &o, inject);
    assert_eq!((d.lost, d.foreign, d.ignored), (0, 40, 0));
    o.ignore = vec!["02:00:00:00:00:55".parse().unwrap()];
    let report = forwarding(&s.lab, inject, || replay(&o));
    assert!(report.is_clean());
    assert_eq!(report.verify.unwrap().directions[0].ignored, 40);
}

#[test]
fn a_dead_middle_is_noticed_within_the_grace_time() {
    let Some(s) = Setting::new() else { return };
    let d = replay(&outgoing(&s)).verify.unwrap().directions[0].clone();
    assert_eq!((d.sent, d.matched, d.lost), (40, 0, 40));
    assert_eq!(d.lost_examples.len(), 16);
}

#[test]
fn tun_gets_ip_packets() {
    let Some(s) = Setting::new() else { return };
    s.lab.run_ip("lan", "tuntap add dev tun0 mode tun");
    s.lab.run_ip("lan", "link set tun0 up");
    let ns = s.lab.ns("lan");
    let listen = || {
        chaff_replay::sys::in_netns(Some(&ns), || {
            chaff_replay::sys::open_receiver(chaff_replay::sys::interface("tun0")?.index)
        })
        .unwrap()
    };
    let at = listen();
    let sent = traffic(20);
    let mut o = s.one(&sent);
    o.target = Target::Tun(format!("tun0@{ns}").parse().unwrap());
    assert_eq!(replay(&o).packets, 20);
    let want: Vec<Vec<u8>> = sent.iter().map(|f| f.1[14..].to_vec()).collect();
    assert_eq!(bytes(drain(&at)), want);
}

#[test]
fn a_week_long_capture_with_vlan_tags_passes_verification() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data/iot/schlage-lock-01/day2.pcap");
    if !file.exists() {
        println!("skipped: no captures in ../shared/data/iot");
        return;
    }
    let Some(s) = Setting::new() else { return };
    s.lab.bridge();
    // The capturing card merged segments: some frames are longer than any on the wire.
    for (side, name) in [
        ("lan", "lan0"),
        ("wan", "wan0"),
        ("mid", "to-lan"),
        ("mid", "to-wan"),
        ("mid", "br0"),
    ] {
        s.lab.run_ip(side, &format!("link set {name} mtu 9000"));
    }
    let mut o = s.pair(&[(Nanos::ZERO, frame(true, 1, 1))]);
    o.files = vec![file];
    o.pacing = Pacing::PacketsPerSecond(10_000.0);
    let report = replay(&o);
    assert!(report.is_clean(), "{report}");
    assert!(report.capture.padded > 0 && report.packets == report.capture.read);
}
