//! Flows into packets, and packets into a capture with checksums that are right.

use std::collections::HashMap;
use std::io::Write;
use std::net::IpAddr;

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_trace::PcapWriter;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use crate::address::key;
use crate::capture::{Capture, Step};
use crate::chain::Chain;
use crate::encode::{Encoder, SERVICE, SIZE};
use crate::grid::Grid;
use crate::table::{Record, Table, header_bytes};
use crate::{Model, SynthError};

/// The most packets that are written at once: 20 million.
pub const MAX_WRITTEN: u64 = 20_000_000;
/// Shares of a flow's time, in 64ths of the logarithm.
const GAPS: u32 = 64;

/// Bins of packet sizes; the tables are the model's last two chains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PacketModel {
    pub(crate) sizes: Grid,
}

/// A packet to write.
struct Out {
    at: u64,
    flow: u32,
    bytes: u32,
    first: bool,
    last: bool,
}

fn size_contexts(service: u32, mean: u32, place: u32, before: u32, out: &mut [u64]) {
    let n = u64::from;
    out[0] = key(&[n(service), n(mean), n(place), n(before)]);
    out[1] = key(&[n(service), n(mean), n(before)]);
    out[2] = key(&[n(service), n(place.min(1)), n(before)]);
    out[3] = key(&[n(service)]);
    out[4] = key(&[]);
}

fn gap_contexts(service: u32, place: u32, before: u32, out: &mut [u64]) {
    let n = u64::from;
    out[0] = key(&[n(service), n(place), n(before)]);
    out[1] = key(&[n(service), n(before)]);
    out[2] = key(&[]);
}

/// The logarithm of a gap in µs, in half octaves.
fn gap_symbol(gap: u64) -> u32 {
    (((gap + 1) as f64).log2() * 1.5) as u32 % GAPS
}

/// Learns sizes and gaps of packets inside their flows. `table` is the capture's table as the encoder has learned it,
/// in the capture's order.
pub(crate) fn learn(capture: &Capture, encoder: &Encoder) -> (PacketModel, [Chain; 2]) {
    let n = capture.steps.len();
    let sizes = capture.steps.iter().map(|s| u64::from(s.bytes)).collect();
    let sizes = Grid::exact(sizes, (n / 2048).max(5), (n / 512).max(8), u64::MAX);
    let index = encoder.index();
    let symbols: Vec<_> = capture
        .table
        .records
        .iter()
        .map(|r| encoder.symbols(&index, r))
        .collect();
    let mut state = vec![(0u32, 0u32, 0u32); symbols.len()];
    let mut size_keys = Vec::with_capacity(n * 5);
    let mut gap_keys = Vec::with_capacity(n * 3);
    for Step {
        flow,
        bytes,
        gap_us,
    } in &capture.steps
    {
        let flow = *flow as usize;
        let (place, size, gap) = state[flow];
        let (service, mean) = (symbols[flow][SERVICE], symbols[flow][SIZE]);
        let mut keys = [0; 5];
        size_contexts(service, mean, place.min(4), size, &mut keys);
        size_keys.extend(keys);
        let mut keys = [0; 3];
        gap_contexts(service, place.min(4), gap, &mut keys);
        gap_keys.extend(keys);
        state[flow] = (
            place + 1,
            sizes.find(u64::from(*bytes)) + 1,
            gap_symbol(*gap_us) + 1,
        );
    }
    let copy = |from: &[u64], depth: usize, i: usize, out: &mut [u64]| {
        out.copy_from_slice(&from[i * depth..(i + 1) * depth]);
    };
    let steps = &capture.steps;
    let size = Chain::exact(
        5,
        n,
        |i, out| copy(&size_keys, 5, i, out),
        |i| sizes.find(u64::from(steps[i].bytes)),
    );
    let gap = Chain::exact(
        3,
        n,
        |i, out| copy(&gap_keys, 3, i, out),
        |i| gap_symbol(steps[i].gap_us),
    );
    (PacketModel { sizes }, [size, gap])
}

/// Largest gap symbol plus one.
pub(crate) const GAP_SYMBOLS: u32 = GAPS;

/// Writes flows as packets: a capture of raw IP with right lengths and checksums. Payloads are zeros; only with `payloads`
/// are they in the file, otherwise packets are cut after their headers, as header traces are.
///
/// A flow has exactly its number of packets, the first at its start, the last at its end. TCP connections open with SYN
/// and close with FIN where the flow is long enough; sequence numbers count the payload, acknowledgements what the other
/// direction sent. Without a model of packets (flow tables, differential privacy) sizes are near the flow's mean and times
/// even. Gives the number of packets.
///
/// # Errors
/// [`SynthError::TooMany`] above [`MAX_WRITTEN`] packets, [`SynthError::Capture`] for a time that pcap cannot hold.
pub fn write_pcap(
    out: impl Write,
    table: &Table,
    model: Option<&Model>,
    seed: u64,
    payloads: bool,
) -> Result<u64, SynthError> {
    let total = table
        .records
        .iter()
        .try_fold(0u64, |n, r| n.checked_add(r.packets));
    if total.is_none_or(|n| n > MAX_WRITTEN) {
        return Err(SynthError::TooMany {
            what: "packets in a capture",
            limit: MAX_WRITTEN as usize,
        });
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x70_61_63_6b);
    let mut packets: Vec<Out> = Vec::with_capacity(total.unwrap_or(0) as usize);
    let learned = model.and_then(|m| Some((m, m.packets.as_ref()?, m.encoder.index())));
    for (flow, r) in table.records.iter().enumerate() {
        let known = learned
            .as_ref()
            .map(|(m, p, index)| (*m, *p, m.encoder.symbols(index, r)));
        let times = times(
            r,
            known.as_ref().map(|(m, _, s)| (*m, s[SERVICE])),
            &mut rng,
        );
        let n = times.len();
        let mut before = 0;
        let mut left = r.bytes;
        for (i, at) in times.into_iter().enumerate() {
            let bytes = match &known {
                Some((m, p, s)) => {
                    let mut keys = [0; 5];
                    size_contexts(s[SERVICE], s[SIZE], (i as u32).min(4), before, &mut keys);
                    let chain = m.chains.get(crate::encode::FIELDS);
                    let symbol = (0..16)
                        .find_map(|_| chain?.draw(&keys, &mut rng))
                        .unwrap_or(0);
                    before = symbol + 1;
                    p.sizes.draw(symbol, &mut rng)
                }
                None => left / (n - i) as u64,
            };
            let least = header_bytes(r.protocol, r.src.is_ipv6()).max(least_bytes(r));
            let bytes = bytes.clamp(least, 65_535);
            left = left.saturating_sub(bytes);
            packets.push(Out {
                at,
                flow: flow as u32,
                bytes: bytes as u32,
                first: i == 0,
                last: i + 1 == n && n > 3,
            });
        }
    }
    packets.sort_by_key(|p| p.at);
    let mut writer = PcapWriter::new(out, Link::RawIp)?;
    let mut sent: HashMap<(IpAddr, IpAddr, u16, u16), u32> = HashMap::new();
    let mut ids: HashMap<IpAddr, u16> = HashMap::new();
    let mut bytes = Vec::new();
    for p in &packets {
        let r = &table.records[p.flow as usize];
        let id = ids.entry(r.src).or_insert_with(|| rng.random());
        *id = id.wrapping_add(1);
        build(r, p, *id, &mut sent, &mut bytes);
        let kept = if payloads {
            bytes.len()
        } else {
            headers(r, &bytes).min(bytes.len())
        };
        writer.write(
            Nanos(p.at.saturating_mul(1000)),
            &bytes[..kept],
            bytes.len(),
        )?;
    }
    writer.into_inner()?;
    Ok(packets.len() as u64)
}

/// Bytes that are kept of a packet when payloads are not.
fn headers(r: &Record, packet: &[u8]) -> usize {
    let ip = if r.src.is_ipv6() { 40 } else { 20 };
    ip + match r.protocol {
        4 => 20,
        6 => packet.get(ip + 12).map_or(20, |b| usize::from(b >> 4) * 4),
        41 => 40,
        47 => 4,
        _ => 8,
    }
}

/// Protocols that need more than their header to be well formed.
fn least_bytes(r: &Record) -> u64 {
    let ip = if r.src.is_ipv6() { 40 } else { 20 };
    ip + match r.protocol {
        1 | 2 | 58 => 8,
        4 => 20,
        41 => 40,
        47 => 4,
        _ => 0,
    }
}

/// Times of a flow's packets, ascending, the first and last as the record says.
fn times(r: &Record, known: Option<(&Model, u32)>, rng: &mut dyn RngCore) -> Vec<u64> {
    let n = r.packets.max(1) as usize;
    let Some((model, service)) = known else {
        return (0..n as u64)
            .map(|i| {
                r.start_us
                    + (u128::from(r.duration_us) * u128::from(i)
                        / (n as u128).max(2).saturating_sub(1)) as u64
            })
            .collect();
    };
    let chain = model.chains.get(crate::encode::FIELDS + 1);
    let mut sum = 0.0;
    let mut before = 0;
    let mut edges = vec![0.0];
    for i in 0..n {
        let mut keys = [0; 3];
        gap_contexts(service, (i as u32).min(4), before, &mut keys);
        let symbol = (0..16).find_map(|_| chain?.draw(&keys, rng)).unwrap_or(0);
        before = symbol + 1;
        if i > 0 {
            sum += ((f64::from(symbol) + rng.random::<f64>()) / 1.5).exp2();
            edges.push(sum);
        }
    }
    let scale = if sum > 0.0 {
        r.duration_us as f64 / sum
    } else {
        0.0
    };
    edges
        .into_iter()
        .map(|e| r.start_us + ((e * scale) as u64).min(r.duration_us))
        .collect()
}

fn ones_sum(bytes: &[u8]) -> u64 {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let sum: u64 = pairs
        .iter()
        .map(|p| u64::from(u16::from_be_bytes(*p)))
        .sum();
    sum + odd.first().map_or(0, |b| u64::from(*b) << 8)
}

fn folded(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

type Sent = HashMap<(IpAddr, IpAddr, u16, u16), u32>;

/// One packet of `p.bytes` bytes into `out`.
fn build(r: &Record, p: &Out, id: u16, sent: &mut Sent, out: &mut Vec<u8>) {
    let total = p.bytes as usize;
    out.clear();
    out.resize(total, 0);
    let ttl = if r.ttl == 0 { 64 } else { r.ttl };
    let length = |n: usize| (n as u16).to_be_bytes();
    let (ip, pseudo) = match (r.src, r.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let dont_fragment = if r.protocol == 6 { 0x40 } else { 0 };
            put(out, 0, &[0x45, r.tos]);
            put(out, 2, &length(total));
            put(out, 4, &id.to_be_bytes());
            put(out, 6, &[dont_fragment, 0, ttl, r.protocol]);
            put(out, 12, &src.octets());
            put(out, 16, &dst.octets());
            let sum = folded(ones_sum(&out[..20]));
            put(out, 10, &sum.to_be_bytes());
            (20, ones_sum(&src.octets()) + ones_sum(&dst.octets()))
        }
        (src, dst) => {
            let octets = |a: IpAddr| match a {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            put(out, 0, &[0x60 | r.tos >> 4, r.tos << 4]);
            put(out, 4, &length(total.saturating_sub(40)));
            put(out, 6, &[r.protocol, ttl]);
            put(out, 8, &octets(src));
            put(out, 24, &octets(dst));
            (40, ones_sum(&octets(src)) + ones_sum(&octets(dst)))
        }
    };
    let body = total.saturating_sub(ip);
    let pseudo = pseudo + u64::from(r.protocol) + body as u64;
    let Some(rest) = out.get_mut(ip..) else {
        return;
    };
    let ports = [r.src_port.to_be_bytes(), r.dst_port.to_be_bytes()].concat();
    match r.protocol {
        6 => {
            put(rest, 0, &ports);
            let payload = body.saturating_sub(20);
            let (mine, other) = (
                (r.src, r.dst, r.src_port, r.dst_port),
                (r.dst, r.src, r.dst_port, r.src_port),
            );
            let start = |k: &(IpAddr, IpAddr, u16, u16)| {
                key(&[
                    u64::from(k.2),
                    u64::from(k.3),
                    ones_sum(&k.0.to_string().into_bytes()),
                ]) as u32
            };
            let fresh = !sent.contains_key(&mine);
            let answer = sent.get(&other).copied();
            let next = sent.entry(mine).or_insert_with(|| start(&mine));
            // Options fill a first packet of up to 60 bytes: SYN packets are longer by them.
            let opening = p.first && fresh && payload <= 40 && payload.is_multiple_of(4);
            let (flags, header, counts) = if opening {
                (if answer.is_some() { 0x12 } else { 0x02 }, 20 + payload, 1)
            } else if p.last {
                (0x11, 20, payload as u32 + 1)
            } else {
                (if payload > 0 { 0x18 } else { 0x10 }, 20, payload as u32)
            };
            put(rest, 4, &next.to_be_bytes());
            if flags != 0x02 {
                put(rest, 8, &answer.unwrap_or(0).to_be_bytes());
            }
            *next = next.wrapping_add(counts);
            put(rest, 12, &[((header / 4) << 4) as u8, flags, 0xfa, 0xf0]);
            if opening {
                // Four at a time: maximum segment size first, then no-operation.
                rest[20..].fill(1);
                if payload >= 4 {
                    put(rest, 20, &[2, 4, 5, 0xb4]);
                }
            }
            let sum = folded(pseudo + ones_sum(rest));
            put(rest, 16, &sum.to_be_bytes());
        }
        17 => {
            put(rest, 0, &ports);
            put(rest, 4, &length(body));
            let sum = folded(pseudo + ones_sum(rest));
            put(
                rest,
                6,
                &(if sum == 0 { 0xffff } else { sum }).to_be_bytes(),
            );
        }
        1 | 58 => {
            let echo = if r.protocol == 1 { 8 } else { 128 };
            let known = r.dst_port != 0;
            put(
                rest,
                0,
                &if known {
                    r.dst_port.to_be_bytes()
                } else {
                    [echo, 0]
                },
            );
            let sum = folded(ones_sum(rest) + if r.protocol == 58 { pseudo } else { 0 });
            put(rest, 2, &sum.to_be_bytes());
        }
        2 => {
            // Membership report of version 2.
            put(rest, 0, &[0x16]);
            if let IpAddr::V4(group) = r.dst {
                put(rest, 4, &group.octets());
            }
            let sum = folded(ones_sum(rest));
            put(rest, 2, &sum.to_be_bytes());
        }
        4 => {
            // An inner packet of protocol 253 (experiments, RFC 3692).
            put(rest, 0, &[0x45, 0]);
            put(rest, 2, &length(body));
            put(rest, 8, &[ttl, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = folded(ones_sum(rest.get(..20).unwrap_or(&[])));
            put(rest, 10, &sum.to_be_bytes());
        }
        41 => {
            put(rest, 0, &[0x60]);
            put(rest, 4, &length(body.saturating_sub(40)));
            put(rest, 6, &[59, ttl]);
            put(rest, 8, &[0xfe, 0x80]);
            put(rest, 24, &[0xfe, 0x80]);
        }
        132 => put(rest, 0, &ports),
        _ => {}
    }
}
