//! Names of services that multicast DNS answers point to (RFC 6762).

use super::view::{NotParsed, ipv4_payload};
use super::{FlowView, Next, PacketView, Plugin, column};
use crate::{Column, Kind, Value};

const PORT: u16 = 5353;
const PTR: u16 = 12;
/// Names kept for a flow; NFStream has no bound.
const MAX_NAMES: usize = 4096;

/// PTR names of answers, each once, in flows to port 5353 over IPv4; commas become spaces.
///
/// A message counts only when all of it can be read, and it cannot when it has a record of a type that the parser
/// beneath NFStream does not know (NSEC is one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mdns;

impl Plugin for Mdns {
    type State = Vec<String>;

    fn name(&self) -> &'static str {
        "mdns"
    }

    fn columns(&self) -> Vec<Column> {
        let doc = "PTR names of answers, each once, in order";
        vec![column("mdns_ptr", Kind::TextList, "", doc)]
    }

    fn start(&self, flow: &FlowView, packet: &PacketView<'_>) -> (Self::State, Next) {
        let mut state = Vec::new();
        self.update(&mut state, flow, packet);
        (state, Next::Go)
    }

    fn update(&self, state: &mut Self::State, flow: &FlowView, packet: &PacketView<'_>) -> Next {
        if flow.destination_port == PORT
            && let Ok(names) = ipv4_payload(packet.ip_packet).and_then(pointers)
        {
            for name in names {
                let name = name.replace(',', " ");
                if state.len() < MAX_NAMES && !state.contains(&name) {
                    state.push(name);
                }
            }
        }
        Next::Go
    }

    fn expire(&self, state: Self::State, _: &FlowView, row: &mut Vec<Value>) {
        row.push(Value::TextList(state));
    }
}

/// PTR names of a message's answers.
fn pointers(message: &[u8]) -> Result<Vec<String>, NotParsed> {
    let u16_at = |at: usize| {
        let bytes = message.get(at..).and_then(|b| b.first_chunk::<2>());
        bytes.map(|b| u16::from_be_bytes(*b)).ok_or(NotParsed)
    };
    let counts = [u16_at(4)?, u16_at(6)?, u16_at(8)?, u16_at(10)?];
    let mut at = 12;
    for _ in 0..counts[0] {
        at = name(message, at)?.1 + 4;
        if at > message.len() {
            return Err(NotParsed);
        }
    }
    let mut found = Vec::new();
    for (section, count) in counts.into_iter().enumerate().skip(1) {
        for _ in 0..count {
            let header = name(message, at)?.1;
            let kind = u16_at(header)?;
            let len = usize::from(u16_at(header + 8)?);
            let data = header + 10;
            let pointer = record(message, kind, data, len)?;
            if let (1, Some(name)) = (section, pointer) {
                found.push(name);
            }
            at = data + len;
        }
    }
    Ok(found)
}

/// Checks a record's data as far as the known types need it; the name of a PTR record.
fn record(message: &[u8], kind: u16, data: usize, len: usize) -> Result<Option<String>, NotParsed> {
    let captured = message.len().saturating_sub(data).min(len);
    match kind {
        PTR => return name(message, data).map(|(name, _)| Some(name)),
        // A, NULL, HINFO, TXT, AAAA, OPT.
        1 | 10 | 13 | 16 | 28 | 41 => (),
        // NS, CNAME.
        2 | 5 => {
            name(message, data)?;
        }
        // SOA.
        6 => {
            let (_, responsible) = name(message, data)?;
            let (_, numbers) = name(message, responsible)?;
            if message.len() < numbers + 20 {
                return Err(NotParsed);
            }
        }
        // MX.
        15 if captured >= 2 => {
            name(message, data + 2)?;
        }
        // SRV.
        33 if captured >= 6 => {
            name(message, data + 6)?;
        }
        _ => return Err(NotParsed),
    }
    Ok(None)
}

/// A possibly compressed name (RFC 1035, 4.1.4) and where the bytes after it begin.
fn name(message: &[u8], start: usize) -> Result<(String, usize), NotParsed> {
    let mut labels: Vec<u8> = Vec::new();
    let (mut at, mut from) = (start, start);
    let mut after = None;
    let mut len = 0;
    let mut first = true;
    loop {
        let size = usize::from(*message.get(at).ok_or(NotParsed)?);
        match size >> 6 {
            0 if size == 0 => {
                at += 1;
                break;
            }
            0 => {
                len += size + 1;
                if len > 255 {
                    return Err(NotParsed);
                }
                if !first {
                    labels.push(b'.');
                }
                first = false;
                let end = (at + 1 + size).min(message.len());
                labels.extend_from_slice(message.get(at + 1..end).unwrap_or(&[]));
                at += 1 + size;
            }
            3 => {
                let low = usize::from(*message.get(at + 1).ok_or(NotParsed)?);
                let target = (size & 0x3f) << 8 | low;
                // Only backwards, so it ends.
                if target >= from {
                    return Err(NotParsed);
                }
                after.get_or_insert(at + 2);
                (at, from) = (target, target);
            }
            _ => return Err(NotParsed),
        }
    }
    let text = String::from_utf8(labels).map_err(|_| NotParsed)?;
    Ok((text, after.unwrap_or(at)))
}
