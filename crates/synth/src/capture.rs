//! Captures as one-way flows, and what their packets look like.

use std::collections::HashMap;
use std::io::Read;
use std::net::IpAddr;

use chaff_flow::{Packet, parse};
use chaff_trace::Reader;

use crate::table::MAX_RECORDS;
use crate::wire::{folded, ones_sum};
use crate::{Record, SynthError, Table};

/// A flow ends when it has been silent for longer, µs.
pub const IDLE_US: u64 = 60_000_000;
/// A flow is cut when it has lasted longer, µs.
pub const ACTIVE_US: u64 = 300_000_000;
/// The most packets that are read: 50 million.
pub const MAX_PACKETS: usize = 50_000_000;

/// Marks of a record: its first packet must not be fragmented,
pub(crate) const DONT_FRAGMENT: u8 = 2;
/// its identification is zero,
pub(crate) const NO_ID: u8 = 8;
/// it has TCP's SYN.
pub(crate) const OPENS: u8 = 16;

/// A packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Index of its flow in [`Capture::table`].
    pub(crate) flow: u32,
    /// µs since 1970.
    pub(crate) at_us: u64,
    /// IP length, bytes.
    pub(crate) bytes: u32,
    /// Identification of IPv4, 0 of IPv6.
    pub(crate) id: u16,
    /// Fragment bits (3) and offset (13) of IPv4, 0 of IPv6.
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) tcp_flags: Option<u8>,
    /// Of IPv4.
    pub(crate) ip_checksum: Option<bool>,
    /// Of TCP and UDP over IPv4 where the packet is whole.
    pub(crate) transport_checksum: Option<bool>,
}

/// A capture as flows.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// One-way flows: packets of equal addresses, ports and protocol, cut at [`IDLE_US`] and [`ACTIVE_US`].
    pub table: Table,
    /// Frames that are not IP or cannot be read.
    pub ignored: u64,
    pub(crate) steps: Vec<Step>,
}

impl Capture {
    /// A flow table, of whose packets nothing is known.
    pub fn of_table(table: Table) -> Self {
        Self {
            table,
            ..Self::default()
        }
    }

    /// How many packets were read.
    pub fn packets(&self) -> usize {
        self.steps.len()
    }
}

/// Reads a capture: pcap or pcapng, packed with gzip or not. Tunnels are not looked into.
///
/// # Errors
/// [`SynthError::Capture`] for a broken file, [`SynthError::Empty`] without IP packets, [`SynthError::TooMany`].
pub fn read_capture(input: impl Read) -> Result<Capture, SynthError> {
    let mut reader = Reader::new(input)?;
    let mut capture = Capture::default();
    capture.table.capture = true;
    capture.table.labels.push(String::new());
    let mut open: HashMap<(IpAddr, IpAddr, u16, u16, u8), usize> = HashMap::new();
    while let Some((frame, bytes)) = reader.next_borrowed()? {
        let Ok(packet) = parse(frame.link, bytes, frame.wire_len) else {
            capture.ignored += 1;
            continue;
        };
        if capture.steps.len() == MAX_PACKETS {
            return Err(SynthError::TooMany {
                what: "packets",
                limit: MAX_PACKETS,
            });
        }
        let k = packet.key;
        let (src_port, dst_port) = match packet.icmp {
            // As NetFlow does.
            Some((kind, code)) => (0, u16::from(kind) << 8 | u16::from(code)),
            None => (
                u16::from_be_bytes(k.src_port),
                u16::from_be_bytes(k.dst_port),
            ),
        };
        let (src, dst) = (k.source(), k.destination());
        let at = frame.at.0 / 1000;
        let length = packet.sample.bytes;
        let records = &mut capture.table.records;
        let known = open
            .get(&(src, dst, src_port, dst_port, k.protocol))
            .copied();
        let going_on = known.filter(|flow| {
            let r = &records[*flow];
            let last = r.start_us + r.duration_us;
            at <= last.saturating_add(IDLE_US) && at <= r.start_us.saturating_add(ACTIVE_US)
        });
        match going_on {
            Some(flow) => {
                let r = &mut records[flow];
                r.packets += 1;
                r.bytes += u64::from(length);
                // A packet that is earlier than the one before it does not shorten the flow.
                r.duration_us = r.duration_us.max(at.saturating_sub(r.start_us));
                capture.steps.push(step(&packet, flow, at));
            }
            None => {
                let flow = records.len();
                if flow == MAX_RECORDS {
                    return Err(SynthError::TooMany {
                        what: "flows",
                        limit: MAX_RECORDS,
                    });
                }
                open.insert((src, dst, src_port, dst_port, k.protocol), flow);
                records.push(Record {
                    start_us: at,
                    duration_us: 0,
                    packets: 1,
                    bytes: u64::from(length),
                    src,
                    dst,
                    src_port,
                    dst_port,
                    protocol: k.protocol,
                    label: 0,
                    ttl: packet.ttl,
                    tos: packet.traffic_class,
                    marks: marks(&packet),
                });
                capture.steps.push(step(&packet, flow, at));
            }
        }
    }
    if capture.table.records.is_empty() {
        return Err(SynthError::Empty);
    }
    Ok(capture)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn is_v4(ip: &[u8]) -> bool {
    ip.first().is_some_and(|b| b >> 4 == 4)
}

fn marks(packet: &Packet<'_>) -> u8 {
    let ip = packet.ip_packet;
    let mut marks = 0;
    if is_v4(ip) {
        marks |= word(ip, 6).map_or(0, |w| (w >> 13) as u8) & DONT_FRAGMENT;
        if word(ip, 4) == Some(0) {
            marks |= NO_ID;
        }
    }
    if packet.tcp.is_some() && packet.sample.tcp_flags & 2 != 0 {
        marks |= OPENS;
    }
    marks
}

fn step(packet: &Packet<'_>, flow: usize, at_us: u64) -> Step {
    let ip = packet.ip_packet;
    let mut step = Step {
        flow: flow as u32,
        at_us,
        bytes: packet.sample.bytes,
        id: 0,
        fragment: 0,
        ttl: packet.ttl,
        tos: packet.traffic_class,
        tcp_flags: packet.tcp.map(|_| packet.sample.tcp_flags as u8),
        ip_checksum: None,
        transport_checksum: None,
    };
    if !is_v4(ip) {
        return step;
    }
    step.id = word(ip, 4).unwrap_or(0);
    step.fragment = word(ip, 6).unwrap_or(0);
    let header = usize::from(ip[0] & 15) * 4;
    step.ip_checksum = ip.get(..header).map(|h| folded(ones_sum(h)) == 0);
    let whole = step.fragment & 0x3fff == 0;
    let body = word(ip, 2).and_then(|length| ip.get(header..usize::from(length)));
    if let (true, 6 | 17, Some(body)) = (whole, packet.key.protocol, body)
        && body.len() >= 8
    {
        let pseudo = ones_sum(&ip[12..20]) + u64::from(packet.key.protocol) + body.len() as u64;
        let none = packet.key.protocol == 17 && body[6..8] == [0, 0];
        step.transport_checksum = Some(none || folded(pseudo + ones_sum(body)) == 0);
    }
    step
}
