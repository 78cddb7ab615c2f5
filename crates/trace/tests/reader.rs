//! Good, odd and broken captures, all generated.

use std::io::{self, Read, Write};

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_trace::{Format, Frame, MAX_BLOCK, PcapWriter, Reader, TraceError};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

/// Byte order of a generated file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Little,
    Big,
}
use Order::{Big, Little};

impl Order {
    fn u16(self, n: u16) -> [u8; 2] {
        if self == Big {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
    }
    fn u32(self, n: u32) -> [u8; 4] {
        if self == Big {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
    }
}

const MICROS: u32 = 0xa1b2_c3d4;
const NANOS: u32 = 0xa1b2_3c4d;

fn pcap(o: Order, magic: u32, snaplen: u32, link: u32) -> Vec<u8> {
    [
        &o.u32(magic)[..],
        &o.u16(2),
        &o.u16(4),
        &[0; 8],
        &o.u32(snaplen),
        &o.u32(link),
    ]
    .concat()
}

fn packet(o: Order, sec: u32, fraction: u32, original: u32, data: &[u8]) -> Vec<u8> {
    [
        &o.u32(sec)[..],
        &o.u32(fraction),
        &o.u32(data.len() as u32),
        &o.u32(original),
        data,
    ]
    .concat()
}

/// A good file of three packets; the second one is replaced.
fn with_second(snaplen: u32, second: Vec<u8>) -> Vec<u8> {
    let mut file = pcap(Little, MICROS, snaplen, 1);
    file.extend(packet(Little, 10, 1, 60, &[1; 60]));
    file.extend(second);
    file.extend(packet(Little, 12, 3, 60, &[3; 60]));
    file
}

fn block(o: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let len = o.u32(padded as u32 + 12);
    [
        &o.u32(kind)[..],
        &len,
        body,
        &vec![0; padded - body.len()],
        &len,
    ]
    .concat()
}

fn section(o: Order) -> Vec<u8> {
    block(
        o,
        0x0a0d_0d0a,
        &[&o.u32(0x1a2b_3c4d)[..], &o.u16(1), &o.u16(0), &[0xff; 8]].concat(),
    )
}

fn interface(o: Order, link: u16, snaplen: u32, options: &[u8]) -> Vec<u8> {
    block(
        o,
        1,
        &[&o.u16(link)[..], &o.u16(0), &o.u32(snaplen), options].concat(),
    )
}

fn option(o: Order, code: u16, value: &[u8]) -> Vec<u8> {
    let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
    [
        &o.u16(code)[..],
        &o.u16(value.len() as u16),
        value,
        &padding,
    ]
    .concat()
}

fn enhanced(o: Order, interface: u32, ticks: u64, original: u32, data: &[u8]) -> Vec<u8> {
    let head = [
        interface,
        (ticks >> 32) as u32,
        ticks as u32,
        data.len() as u32,
        original,
    ];
    let mut body: Vec<u8> = head.iter().flat_map(|n| o.u32(*n)).collect();
    body.extend(data);
    block(o, 6, &body)
}

/// All packets, and what ended the file.
fn read(file: &[u8]) -> (Vec<(Frame, Vec<u8>)>, Option<TraceError>) {
    let mut reader = match Reader::new(file) {
        Ok(reader) => reader,
        Err(e) => return (vec![], Some(e)),
    };
    let mut out = Vec::new();
    let mut buf = Vec::new();
    loop {
        match reader.next(&mut buf) {
            Ok(Some(frame)) => out.push((frame, buf.clone())),
            Ok(None) => {
                assert_eq!(reader.packets(), out.len() as u64);
                return (out, None);
            }
            Err(e) => {
                assert!(reader.next(&mut buf).expect("nothing more").is_none());
                return (out, Some(e));
            }
        }
    }
}

fn good(file: &[u8]) -> Vec<(Frame, Vec<u8>)> {
    let (packets, error) = read(file);
    assert!(error.is_none(), "{error:?}");
    packets
}

#[test]
fn reads_both_byte_orders_and_both_units() {
    for o in [Little, Big] {
        for (magic, ns) in [(MICROS, 5_000), (NANOS, 5)] {
            let mut file = pcap(o, magic, 65535, 1);
            file.extend(packet(o, 7, 5, 1500, &[9; 96]));
            let packets = good(&file);
            let at = Nanos(7_000_000_000 + ns);
            let frame = Frame {
                at,
                millis: at.as_millis() as i64,
                libpcap_len: 96,
                wire_len: 1500,
                link: Link::Ethernet,
                interface: 0,
            };
            assert_eq!(packets, [(frame, vec![9; 96])], "{o:?} {magic:x}");
        }
    }
}

#[test]
fn reads_what_libpcap_reads_of_odd_lengths_and_times() {
    let cases = [
        (
            "captured more than the snap length",
            with_second(50, packet(Little, 11, 2, 60, &[2; 60])),
        ),
        (
            "snap length 0",
            with_second(0, packet(Little, 11, 2, 60, &[2; 60])),
        ),
        (
            "captured more than the original length",
            with_second(65535, packet(Little, 11, 2, 40, &[2; 60])),
        ),
        (
            "a million microseconds and more",
            with_second(65535, packet(Little, 9, 2_000_002, 60, &[2; 60])),
        ),
        (
            "300 KB in one packet",
            with_second(400_000, packet(Little, 11, 2, 300_000, &[2; 300_000])),
        ),
        (
            "an empty packet",
            with_second(65535, packet(Little, 11, 2, 60, &[])),
        ),
    ];
    for (name, file) in cases {
        let packets = good(&file);
        assert_eq!(packets.len(), 3, "{name}");
        assert_eq!(packets[1].0.at, Nanos(11_000_002_000), "{name}");
        assert!(packets[1].1.iter().all(|b| *b == 2), "{name}");
        assert_eq!(packets[2].1, [3; 60], "{name}");
    }
}

#[test]
fn a_negative_fraction_goes_back_in_time() {
    let file = with_second(65535, packet(Little, 11, (-2i32) as u32, 60, &[2; 60]));
    assert_eq!(good(&file)[1].0.at, Nanos(10_999_998_000));
}

#[test]
fn a_cut_last_packet_is_told_after_the_good_ones() {
    let file = with_second(65535, packet(Little, 11, 2, 60, &[2; 60]));
    for cut in 1..76 {
        let (packets, error) = read(&file[..file.len() - cut]);
        assert_eq!(packets.len(), 2);
        assert!(
            matches!(
                error,
                Some(TraceError::Cut {
                    offset: 176,
                    packet: 3
                })
            ),
            "{cut}: {error:?}"
        );
    }
    assert_eq!(good(&file[..176]).len(), 2);
}

#[test]
fn an_absurd_length_is_told_after_the_good_packets() {
    let mut second = packet(Little, 11, 2, 60, &[2; 60]);
    second[8..12].copy_from_slice(&[0xff; 4]);
    let (packets, error) = read(&with_second(65535, second));
    assert_eq!(packets.len(), 1);
    let error = error.expect("too large");
    assert_eq!(
        error.to_string(),
        format!("packet 2 at byte 100 claims 4294967295 bytes, more than the limit of {MAX_BLOCK}")
    );
}

#[test]
fn says_what_is_no_capture() {
    assert!(matches!(read(&[]).1, Some(TraceError::Empty)));
    assert!(matches!(read(b"ab").1, Some(TraceError::Unknown { .. })));
    assert!(matches!(
        read(b"date,mac\n").1,
        Some(TraceError::Unknown { .. })
    ));
    let header = pcap(Little, MICROS, 65535, 1);
    assert!(matches!(read(&header[..10]).1, Some(TraceError::Header)));
    assert!(matches!(
        read(&section(Little)[..12]).1,
        Some(TraceError::Header)
    ));
    assert_eq!(good(&header).len(), 0);
}

#[test]
fn link_types_come_through() {
    for (number, link) in [
        (113, Link::LinuxSll),
        (276, Link::LinuxSll2),
        (101, Link::RawIp),
        (0, Link::Null),
        (147, Link::Other(147)),
    ] {
        let mut file = pcap(Little, NANOS, 65535, number);
        file.extend(packet(Little, 1, 0, 4, &[0; 4]));
        assert_eq!(good(&file)[0].0.link, link);
    }
    // The upper bits of the field describe frame check sequences.
    let mut file = pcap(Little, NANOS, 65535, 0x2400_0001);
    file.extend(packet(Little, 1, 0, 4, &[0; 4]));
    assert_eq!(good(&file)[0].0.link, Link::Ethernet);
}

#[test]
fn pcapng_sections_interfaces_and_resolutions() {
    let mut file = Vec::new();
    for (o, n) in [(Little, 0u8), (Big, 1)] {
        file.extend(section(o));
        file.extend(interface(o, 1, 65535, &[]));
        file.extend(interface(
            o,
            101,
            0,
            &[
                option(o, 9, &[9]),
                option(o, 14, &i64_bytes(o, 100)),
                option(o, 0, &[]),
            ]
            .concat(),
        ));
        file.extend(interface(o, 113, 0, &option(o, 9, &[0x80 | 10])));
        file.extend(block(o, 0x4242, b"unknown kind"));
        file.extend(enhanced(o, 0, 5_000_001, 61, &[n; 61]));
        file.extend(enhanced(o, 1, 7, 9, &[n; 3]));
        file.extend(enhanced(o, 2, 1536, 4, &[n; 4]));
        // Simple packet: original length, then data of interface 0.
        file.extend(block(o, 3, &[&o.u32(5)[..], &[n; 5]].concat()));
        // Obsolete packet block.
        let head = [
            &o.u16(1)[..],
            &o.u16(0),
            &o.u32(0),
            &o.u32(8),
            &o.u32(2),
            &o.u32(2),
            &[n; 2],
        ]
        .concat();
        file.extend(block(o, 2, &head));
    }
    let packets = good(&file);
    let facts: Vec<_> = packets
        .iter()
        .map(|(f, b)| (f.at.0, f.wire_len, f.link, f.interface, b.len()))
        .collect();
    let second = 1_000_000_000;
    let of = |base: u32| {
        [
            (5 * second + 1000, 61, Link::Ethernet, base, 61),
            (100 * second + 7, 9, Link::RawIp, base + 1, 3),
            (second * 3 / 2, 4, Link::LinuxSll, base + 2, 4),
            (second * 3 / 2, 5, Link::Ethernet, base, 5),
            (100 * second + 8, 2, Link::RawIp, base + 1, 2),
        ]
    };
    assert_eq!(facts, [of(0), of(3)].concat());
    assert!(packets[..5].iter().all(|p| p.1.iter().all(|b| *b == 0)));
    assert!(packets[5..].iter().all(|p| p.1.iter().all(|b| *b == 1)));
    assert_eq!(
        Reader::new(&file[..]).expect("pcapng").format(),
        Format::PcapNg
    );
}

fn i64_bytes(o: Order, n: i64) -> [u8; 8] {
    if o == Big {
        n.to_be_bytes()
    } else {
        n.to_le_bytes()
    }
}

fn pcapng_start() -> Vec<u8> {
    let mut file = section(Little);
    file.extend(interface(Little, 1, 65535, &[]));
    file.extend(enhanced(Little, 0, 1, 60, &[1; 60]));
    file
}

#[test]
fn broken_pcapng_is_told_after_the_good_packets() {
    let start = pcapng_start();
    let at = start.len() as u64;
    let mut bad = start.clone();
    bad.extend(enhanced(Little, 5, 1, 60, &[1; 60]));
    let (packets, error) = read(&bad);
    assert_eq!(packets.len(), 1);
    assert_eq!(
        error.expect("interface").to_string(),
        format!("packet 2 at byte {at} is of interface 5, the section has 1")
    );

    let mut bad = start.clone();
    let mut second = enhanced(Little, 0, 1, 60, &[1; 60]);
    second[20..24].copy_from_slice(&500u32.to_le_bytes());
    bad.extend(second);
    let (packets, error) = read(&bad);
    assert!(
        packets.len() == 1
            && matches!(
                error,
                Some(TraceError::Block {
                    packet: 2,
                    needed: 520,
                    had: 80,
                    ..
                })
            ),
        "{error:?}"
    );

    // A trailing length that contradicts the leading one.
    let mut bad = start.clone();
    bad.extend(enhanced(Little, 0, 1, 60, &[1; 60]));
    let last = bad.len() - 4;
    bad[last] ^= 4;
    let (packets, error) = read(&bad);
    assert!(
        packets.len() == 1 && matches!(error, Some(TraceError::Structure { packet: 2, .. })),
        "{error:?}"
    );

    // An option of an interface that runs out of its block.
    let mut bad = section(Little);
    bad.extend(interface(Little, 1, 65535, &[9, 0, 200, 0]));
    let (packets, error) = read(&bad);
    assert!(
        packets.is_empty() && matches!(error, Some(TraceError::Structure { packet: 1, .. })),
        "{error:?}"
    );

    let mut bad = start.clone();
    bad.extend([6, 0, 0, 0, 0xfc, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let (packets, error) = read(&bad);
    assert!(
        packets.len() == 1 && matches!(error, Some(TraceError::TooLarge { packet: 2, .. })),
        "{error:?}"
    );

    let (packets, error) = read(&start[..start.len() - 1]);
    assert!(
        packets.is_empty() && matches!(error, Some(TraceError::Cut { packet: 1, .. })),
        "{error:?}"
    );
}

#[test]
fn a_bad_option_of_a_packet_does_not_matter() {
    let mut file = pcapng_start();
    let mut body: Vec<u8> = [0u32, 0, 2, 4, 4]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    body.extend([7; 4]);
    body.extend([2, 0, 200, 0]);
    file.extend(block(Little, 6, &body));
    assert_eq!(good(&file)[1].1, [7; 4]);
}

/// Gives one byte at a time, with interruptions.
struct Trickle<'a>(&'a [u8], bool);

impl Read for Trickle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let n = buf.len().min(1);
        self.0.read(&mut buf[..n])
    }
}

#[test]
fn a_slow_pipe_gives_the_same_packets() {
    for file in [
        with_second(65535, packet(Little, 11, 2, 60, &[2; 60])),
        pcapng_start(),
    ] {
        let mut reader = Reader::new(Trickle(&file, false)).expect("a capture");
        let mut buf = Vec::new();
        let mut packets = Vec::new();
        while let Some(frame) = reader.next(&mut buf).expect("good") {
            packets.push((frame, buf.clone()));
        }
        assert_eq!(packets, good(&file));
        assert_eq!(reader.offset(), file.len() as u64);
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("disk on fire"))
    }
}

#[test]
fn a_failing_disk_is_told_with_its_cause() {
    let file = with_second(65535, packet(Little, 11, 2, 60, &[2; 60]));
    let mut reader = Reader::new(io::Read::chain(&file[..110], Broken)).expect("a header");
    let mut buf = Vec::new();
    assert!(reader.next(&mut buf).expect("good").is_some());
    let error = reader.next(&mut buf).expect_err("failed");
    assert!(
        matches!(&error, TraceError::Read { offset: 110, source } if source.to_string() == "disk on fire")
    );
}

#[test]
fn refuses_to_write_what_pcap_cannot_hold() {
    let mut writer = PcapWriter::new(Vec::new(), Link::Ethernet).expect("memory");
    let late = Nanos::from_secs(1 << 32);
    assert!(matches!(
        writer.write(late, &[], 0),
        Err(TraceError::Range { what: "time", .. })
    ));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn packed_captures_are_unpacked_whatever_their_members() {
    for file in [
        with_second(65535, packet(Little, 11, 2, 60, &[2; 60])),
        pcapng_start(),
    ] {
        let whole = good(&file);
        assert_eq!(good(&gzip(&file)), whole);
        // As `cat a.gz b.gz` makes it, with borders inside a packet and an empty member.
        for border in [1, 5, 30, file.len() / 2] {
            let (a, b) = file.split_at(border);
            assert_eq!(good(&[gzip(a), gzip(&[]), gzip(b)].concat()), whole);
        }
    }
}

#[test]
fn damage_of_the_packing_is_told_with_the_number_of_good_packets() {
    let file = with_second(65535, packet(Little, 11, 2, 60, &[2; 60]));
    let told = |bytes: &[u8]| {
        let (packets, error) = read(bytes);
        (packets.len(), error.expect("damage").to_string())
    };
    // The first member holds all but the last packet.
    let border = file.len() - 76;
    let first = gzip(&file[..border]);
    let second = gzip(&file[border..]);
    let cut = [&first[..], &second[..second.len() / 2]].concat();
    let text = "the gzip data is damaged after 2 good packets: ";
    assert_eq!(told(&cut), (2, format!("{text}it ends early")));
    let mut flipped = [&first[..], &second].concat();
    flipped[first.len() - 6] ^= 1;
    assert_eq!(
        told(&flipped),
        (
            2,
            format!("{text}corrupt gzip stream does not have a matching checksum")
        )
    );
    let garbage = [&first[..], b"garbage"].concat();
    assert_eq!(told(&garbage), (2, format!("{text}it ends early")));
    assert_eq!(
        told(&gzip(b"no capture at all")).1,
        "not a pcap or pcapng file: it begins with 0x6e6f2063"
    );
    assert!(
        told(&gzip(&gzip(&file)))
            .1
            .ends_with("(packed twice with gzip)")
    );
    assert_eq!(told(&gzip(&[])).1, "the file is empty");
    assert_eq!(
        told(&[0x1f, 0x8b, 8, 0, 0]).1,
        "the gzip data is damaged after 0 good packets: it ends early"
    );
}

proptest! {
    #[test]
    fn broken_packing_never_makes_it_panic(
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let file = with_second(65535, packet(Little, 11, 2, 60, &[2; 60]));
        let mut packed = gzip(&file);
        packed.truncate(cut.index(packed.len() + 1));
        for (at, to) in flips {
            if !packed.is_empty() {
                let i = at.index(packed.len());
                packed[i] = to;
            }
        }
        let (packets, _) = read(&packed);
        prop_assert!(packets.len() <= 1_000);
    }

    #[test]
    fn what_is_written_is_read(
        packets in prop::collection::vec((0..4_000_000_000_000_000_000u64, prop::collection::vec(any::<u8>(), 0..200), 0..2000usize), 0..50),
    ) {
        let mut writer = PcapWriter::new(Vec::new(), Link::RawIp).expect("memory");
        for (at, data, more) in &packets {
            writer.write(Nanos(*at), data, data.len() + more).expect("fits");
        }
        let file = writer.into_inner().expect("memory");
        let read: Vec<_> = good(&file).into_iter().map(|(f, b)| (f.at.0, b.clone(), f.wire_len - b.len())).collect();
        prop_assert_eq!(read, packets);
    }

    #[test]
    fn no_bytes_make_it_panic(
        start in prop::sample::select(vec![0usize, 1, 2]),
        tail in prop::collection::vec(any::<u8>(), 0..400),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut file = match start {
            0 => with_second(65535, packet(Little, 11, 2, 60, &[2; 60])),
            1 => pcapng_start(),
            _ => Vec::new(),
        };
        file.extend(tail);
        for (at, to) in flips {
            if !file.is_empty() {
                let i = at.index(file.len());
                file[i] = to;
            }
        }
        let (packets, _) = read(&file);
        prop_assert!(packets.iter().map(|p| p.1.len()).sum::<usize>() <= file.len());
    }

    #[test]
    fn every_cut_of_a_file_is_an_end_or_an_error(cut in 0..600usize) {
        for file in [with_second(65535, packet(Little, 11, 2, 60, &[2; 60])), pcapng_start()] {
            let cut = cut.min(file.len());
            let (packets, error) = read(&file[..cut]);
            let whole = good(&file);
            prop_assert!(whole.starts_with(&packets));
            prop_assert!(error.is_some() || cut == file.len() || read(&file[..cut]).0.len() == packets.len());
        }
    }
}
