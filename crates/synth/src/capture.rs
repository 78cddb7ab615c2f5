//! Captures as one-way flows, and what their packets look like.

use std::collections::HashMap;
use std::io::Read;
use std::net::IpAddr;

use chaff_flow::parse;
use chaff_trace::Reader;

use crate::table::MAX_RECORDS;
use crate::{Record, SynthError, Table};

/// A flow ends when it has been silent for longer, µs.
pub const IDLE_US: u64 = 60_000_000;
/// A flow is cut when it has lasted longer, µs.
pub const ACTIVE_US: u64 = 300_000_000;
/// The most packets that are read: 50 million.
pub const MAX_PACKETS: usize = 50_000_000;

/// A packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Index of its flow in [`Capture::table`].
    pub(crate) flow: u32,
    /// IP length, bytes.
    pub(crate) bytes: u32,
    /// Since the packet before it in its flow, µs.
    pub(crate) gap_us: u64,
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
                let last = r.start_us + r.duration_us;
                r.packets += 1;
                r.bytes += u64::from(length);
                // A packet that is earlier than the one before it does not shorten the flow.
                r.duration_us = r.duration_us.max(at.saturating_sub(r.start_us));
                let gap_us = at.saturating_sub(last);
                capture.steps.push(Step {
                    flow: flow as u32,
                    bytes: length,
                    gap_us,
                });
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
                });
                capture.steps.push(Step {
                    flow: flow as u32,
                    bytes: length,
                    gap_us: 0,
                });
            }
        }
    }
    if capture.table.records.is_empty() {
        return Err(SynthError::Empty);
    }
    Ok(capture)
}
