//! A flood of flows that are all new, through the real program (BPF_PROG_TEST_RUN), drained as the gateway drains: every
//! packet is in exactly one flow record or ring record, or in the counted overflow.
//!
//! Half a million packets by default, five million with `CHAFF_LONG=1`.

mod meter_support;

use std::time::{Duration, Instant};

use aya::programs::TestRunOptions;
use chaff_abi::{FlowKey, Reason, program};
use chaff_gateway::datapath::{Meter, MeterOptions};
use meter_support::{frame, ipv4, udp, unattached};

const MAX_FLOWS: u32 = 65_536;
/// Packets between two drains: from fewer than the map holds to more than map and ring hold together.
const BETWEEN_DRAINS: std::ops::Range<u64> = 30_000..230_000;
/// The three ways in, in turn.
const PROGRAMS: [&str; 3] = [
    program::XDP_LAN,
    program::TCX_LAN_INGRESS,
    program::TCX_LAN_EGRESS,
];
/// Where addresses and ports are in an Ethernet frame with a plain IPv4 header.
const SRC: usize = 26;
const DST: usize = 30;
const SRC_PORT: usize = 34;
const DST_PORT: usize = 36;
const IP_LEN: u64 = 20 + 8 + 18;

/// An odd number: multiplying by it maps the numbers of 64 bits one to one, and small ones all over the place.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The inverse of an odd number modulo 2^64, by Newton's iteration: each step doubles the number of right bits.
fn inverse(odd: u64) -> u64 {
    (0..6).fold(odd, |x, _| {
        x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)))
    })
}

/// Makes packet `i`: the stranger's address and both ports are 64 bits that no other packet has.
fn write_flow(f: &mut [u8], i: u64) {
    let [a, b, c, d, e, g, h, k] = i.wrapping_mul(SPREAD).to_be_bytes();
    // From the device the stranger is the destination; towards it, the source.
    let (stranger, device) = if i % 3 == 2 { (SRC, DST) } else { (DST, SRC) };
    f[stranger..stranger + 4].copy_from_slice(&[a, b, c, d]);
    f[device..device + 4].copy_from_slice(&[192, 168, 7, 2]);
    f[SRC_PORT..SRC_PORT + 2].copy_from_slice(&[e, g]);
    f[DST_PORT..DST_PORT + 2].copy_from_slice(&[h, k]);
}

/// The number of the packet whose flow this is. The key has the device first, whatever the direction.
fn number(key: &FlowKey, dir: usize) -> u64 {
    assert_eq!(key.src, FlowKey::mapped([192, 168, 7, 2]), "{key:?}");
    assert_eq!((key.protocol, key.version), (17, 4), "{key:?}");
    let [.., a, b, c, d] = key.dst;
    let (from, to) = if dir == 1 {
        (key.dst_port, key.src_port)
    } else {
        (key.src_port, key.dst_port)
    };
    let spread = u64::from_be_bytes([a, b, c, d, from[0], from[1], to[0], to[1]]);
    spread.wrapping_mul(inverse(SPREAD))
}

/// What was recorded of packets 0 to `n`.
struct Recorded {
    seen: Vec<bool>,
    flows: u64,
    ring: u64,
}

impl Recorded {
    fn note(&mut self, key: &FlowKey, dir: usize) {
        let i = number(key, dir);
        assert_eq!(dir, usize::from(i % 3 == 2), "direction of packet {i}");
        let seen = self
            .seen
            .get_mut(i as usize)
            .expect("a packet that was sent");
        assert!(!std::mem::replace(seen, true), "packet {i} came twice");
    }

    /// Reads as `gateway run` does each second: ring first, then the generation. Returns (flows, ring records).
    fn drain(&mut self, meter: &mut Meter) -> (u64, u64) {
        let ring = meter.poll_records(|r| {
            assert_eq!((u64::from(r.bytes), r.segments, r.cover), (IP_LEN, 1, 0));
            self.note(&r.key, r.dir as usize);
        });
        let report = meter
            .drain(|key, value| {
                let dir = value.first_dir as usize;
                let (one, other) = (value.counters[dir], value.counters[1 - dir]);
                assert_eq!((one.packets, one.bytes, other.packets), (1, IP_LEN, 0));
                self.note(&key, dir);
            })
            .expect("drain");
        self.flows += report.flows;
        self.ring += ring;
        (report.flows, ring)
    }
}

#[test]
fn every_packet_of_a_flood_of_new_flows_is_accounted_for() {
    let long = std::env::var_os("CHAFF_LONG").is_some_and(|v| v == "1");
    let packets = if long { 5_000_000u64 } else { 500_000 };
    let options = MeterOptions {
        max_flows: MAX_FLOWS,
        ..meter_support::options()
    };
    let Some(mut meter) = unattached(options) else {
        return;
    };
    let mut f = frame(&[], &ipv4(17, 0, &[], &udp(0, 0, 18)));
    let mut recorded = Recorded {
        seen: vec![false; packets as usize],
        flows: 0,
        ring: 0,
    };
    let (mut drains, mut full, mut draining) = (0u32, 0u32, Duration::ZERO);
    let (mut lost_before, mut since, mut next) = (0, 0, BETWEEN_DRAINS.start);
    let started = Instant::now();
    for i in 0..packets {
        write_flow(&mut f, i);
        let mut o = TestRunOptions::new();
        o.data_in = Some(&f);
        meter
            .test_run(PROGRAMS[(i % 3) as usize], o)
            .expect("test run");
        since += 1;
        if since < next && i + 1 < packets {
            continue;
        }
        let at = Instant::now();
        let (flows, ring) = recorded.drain(&mut meter);
        draining += at.elapsed();
        let lost = meter.reasons().expect("reasons")[Reason::Lost as usize];
        // In each interval by itself, not only at the end.
        assert_eq!(flows + ring + lost - lost_before, since, "drain {drains}");
        assert_eq!(flows, since.min(MAX_FLOWS.into()), "drain {drains}");
        full += u32::from(flows == u64::from(MAX_FLOWS));
        drains += 1;
        (lost_before, since) = (lost, 0);
        let span = BETWEEN_DRAINS.end - BETWEEN_DRAINS.start;
        next = BETWEEN_DRAINS.start + (i.wrapping_mul(SPREAD) >> 32) % span;
    }
    let took = started.elapsed();
    // Nothing is left behind in either generation.
    for _ in 0..2 {
        assert_eq!(recorded.drain(&mut meter), (0, 0));
    }
    let r = meter.reasons().expect("reasons");
    let of = |x: Reason| r[x as usize];
    println!(
        "{packets} packets of new flows in {:.1} s: {} in the map, {} through the ring, {} counted as overflow; \
         {full} of {drains} drains found the map full; draining took {:.2} s",
        took.as_secs_f64(),
        recorded.flows,
        recorded.ring,
        of(Reason::Lost),
        draining.as_secs_f64(),
    );
    assert_eq!(of(Reason::Seen), packets);
    assert_eq!(of(Reason::Flow), recorded.flows);
    assert_eq!(of(Reason::Ring), recorded.ring);
    assert_eq!(recorded.flows + recorded.ring + of(Reason::Lost), packets);
    assert_eq!((of(Reason::NotIp), of(Reason::Malformed)), (0, 0));
    assert_eq!((of(Reason::Cover), of(Reason::CoverLost)), (0, 0));
    let unrecorded = recorded.seen.iter().filter(|s| !**s).count() as u64;
    assert_eq!(unrecorded, of(Reason::Lost));
    // Slot counters have no overflow: they hold every packet.
    let slot = meter.slots().read(0, 0);
    assert_eq!(slot.packets.iter().sum::<u64>(), packets);
    assert_eq!(slot.bytes.iter().sum::<u64>(), packets * IP_LEN);
    assert!(full > 0 && full < drains, "both kinds of interval occur");
    assert!(of(Reason::Ring) > 0 && of(Reason::Lost) > 0);
}
