//! The two profiles behind one face: frames in, flows out, rows of values.

use std::collections::BTreeSet;

use chaff_abi::{Dir, FlowKey, Mac, Nanos};
use chaff_engine::mapped;
use chaff_flow::plugin::Extension;
use chaff_flow::{
    Column, Ignored, Layout, Packet, Parser, ParserConfig, Record, Table, TableConfig, TunnelKind,
    Value, nfstream,
};
use chaff_trace::Frame;

use crate::processes::Processes;

/// A meter of one of the profiles.
pub enum Meter {
    /// Everything that Chaff knows, in ns.
    Native(Box<Native>),
    /// What NFStream 6.6.0 gives.
    NfStream(Box<nfstream::Meter>),
}

/// The native profile.
pub struct Native {
    parser: Parser,
    table: Table,
    devices: BTreeSet<Mac>,
    ignored: [u64; Ignored::ALL.len()],
}

/// A flow that has ended.
pub enum Flow {
    /// Of the native profile.
    Native(Record),
    /// Of the nfstream profile.
    NfStream(nfstream::Flow),
}

/// What a meter has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeterStats {
    /// Packets in flows.
    pub metered: u64,
    /// Frames left out, by reason.
    pub ignored: Vec<(&'static str, u64)>,
    /// Flows that ended early because there were too many.
    pub evicted: u64,
    /// Packets older than one before them.
    pub clamped: u64,
    /// Most flows held at once.
    pub peak_flows: usize,
}

impl Meter {
    /// A native meter.
    pub fn native(
        parser: ParserConfig,
        table: TableConfig,
        plugins: Vec<Extension>,
        devices: BTreeSet<Mac>,
    ) -> Self {
        let mut table = Table::new(table);
        for plugin in plugins {
            table.add_plugin(plugin);
        }
        Self::Native(Box::new(Native {
            parser: Parser::new(parser),
            table,
            devices,
            ignored: [0; Ignored::ALL.len()],
        }))
    }

    /// A meter of NFStream's kind.
    pub fn nfstream(config: nfstream::Config, plugins: Vec<Extension>) -> Self {
        let mut meter = nfstream::Meter::new(config);
        for plugin in plugins {
            meter.add_plugin(plugin);
        }
        Self::NfStream(Box::new(meter))
    }

    /// The columns of its flows.
    pub fn columns(&self) -> Vec<Column> {
        match self {
            Self::Native(native) => native.table.columns().into_iter().map(told).collect(),
            Self::NfStream(meter) => meter.columns().into_iter().map(told).collect(),
        }
    }

    /// What turns its flows into rows.
    pub fn rows(&self) -> RowMaker {
        match self {
            Self::Native(native) => RowMaker {
                native: native.table.layout(),
                nfstream: nfstream::Config::default(),
            },
            Self::NfStream(meter) => RowMaker {
                native: Layout::default(),
                nfstream: meter.config().clone(),
            },
        }
    }

    /// What the profile sees of a frame: NFStream gets what libpcap gives.
    #[inline]
    pub fn seen<'f>(&self, frame: &Frame, bytes: &'f [u8]) -> &'f [u8] {
        match self {
            Self::Native(_) => bytes,
            Self::NfStream(_) => bytes.get(..frame.libpcap_len).unwrap_or(bytes),
        }
    }

    /// Takes a frame in, of which `bytes` are [`Meter::seen`]; one that is left out is counted.
    #[inline]
    pub fn observe(&mut self, frame: &Frame, bytes: &[u8]) {
        match self {
            Self::Native(native) => native.observe(frame, bytes),
            Self::NfStream(meter) => {
                let seen = bytes.get(..frame.libpcap_len).unwrap_or(bytes);
                // The meter counts what it leaves out.
                let _ = meter.observe(frame.link, frame.millis, seen, frame.wire_len);
            }
        }
    }

    /// Ends flows whose time has come although no packet said so. NFStream knows no such thing.
    pub fn handle_timeout(&mut self, now: Nanos) {
        match self {
            Self::Native(native) => native.table.handle_timeout(now),
            Self::NfStream(_) => (),
        }
    }

    /// The next flow that has ended.
    #[inline]
    pub fn poll(&mut self) -> Option<Flow> {
        match self {
            Self::Native(native) => native.table.poll_record().map(Flow::Native),
            Self::NfStream(meter) => meter.poll().map(Flow::NfStream),
        }
    }

    /// Ends all flows.
    pub fn finish(&mut self, now: Nanos) {
        match self {
            Self::Native(native) => native.table.finish(now),
            Self::NfStream(meter) => meter.finish(),
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> MeterStats {
        match self {
            Self::Native(native) => {
                let stats = native.table.stats();
                MeterStats {
                    metered: stats.packets,
                    ignored: Ignored::ALL
                        .map(|r| (r.name(), native.ignored[r.index()]))
                        .to_vec(),
                    evicted: stats.evicted,
                    clamped: stats.disordered + stats.outliers,
                    peak_flows: stats.peak_flows,
                }
            }
            Self::NfStream(meter) => {
                let stats = meter.stats();
                let reasons = nfstream::Ignored::ALL;
                MeterStats {
                    metered: stats.packets,
                    ignored: reasons
                        .map(|r| (r.name(), stats.ignored[r.index()]))
                        .to_vec(),
                    evicted: stats.evicted,
                    clamped: stats.disordered,
                    peak_flows: stats.peak_cached,
                }
            }
        }
    }
}

impl Native {
    #[inline]
    fn observe(&mut self, frame: &Frame, bytes: &[u8]) {
        match self
            .parser
            .parse(frame.at, frame.link, bytes, frame.wire_len)
        {
            Ok(packet) => {
                let dir = direction(&self.devices, &packet);
                self.table.observe(frame.at, dir, &packet);
            }
            Err(e) => self.ignored[e.reason().index()] += 1,
        }
    }
}

/// A packet between two devices counts as going out.
fn direction(devices: &BTreeSet<Mac>, packet: &Packet<'_>) -> Option<Dir> {
    if devices.is_empty() {
        None
    } else if devices.contains(&packet.src_mac) {
        Some(Dir::Out)
    } else if devices.contains(&packet.dst_mac) {
        Some(Dir::In)
    } else {
        None
    }
}

impl Flow {
    /// Fills in whose socket on this host it is.
    pub fn find_process(&mut self, processes: &Processes) {
        match self {
            // What is inside a tunnel has no socket here.
            Self::Native(record) if record.tunnel.kind == TunnelKind::None => {
                record.process = processes.lookup(&record.key);
            }
            Self::Native(_) => (),
            Self::NfStream(flow) => {
                let [src, dst] = [flow.source(), flow.destination()];
                let key = FlowKey {
                    src: mapped(src),
                    dst: mapped(dst),
                    src_port: flow.ports()[0].to_be_bytes(),
                    dst_port: flow.ports()[1].to_be_bytes(),
                    protocol: flow.protocol(),
                    version: if src.is_ipv4() { 4 } else { 6 },
                    ..FlowKey::default()
                };
                flow.set_process(processes.lookup(&key));
            }
        }
    }

    /// Packets of both directions, cover too.
    pub fn packets(&self) -> u64 {
        match self {
            Self::Native(record) => {
                record.packets() + record.cover.iter().map(|c| c.packets).sum::<u64>()
            }
            Self::NfStream(flow) => flow.packets().iter().sum(),
        }
    }
}

/// Turns flows into rows, in another thread than the meter.
#[derive(Clone, Debug, Default)]
pub struct RowMaker {
    /// Columns of the meter, if it is a native one.
    native: Layout,
    /// Settings of the meter, if it is one of the nfstream profile.
    nfstream: nfstream::Config,
}

impl RowMaker {
    /// Fills `row` with a value for each column of the flow's meter.
    pub fn fill(&self, flow: &Flow, row: &mut Vec<Value>) {
        row.clear();
        match flow {
            Flow::Native(record) => record.values(&self.native, row),
            Flow::NfStream(flow) => flow.values(&self.nfstream, row),
        }
    }
}

/// Tells points in time from spans: outputs that know timestamps need to know which is which.
fn told(mut column: Column) -> Column {
    const POINTS: [&str; 4] = ["start_ns", "end_ns", "first_ns", "last_ns"];
    let is_point = |point: &&str| {
        column
            .name
            .strip_suffix(*point)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
    };
    let is_seen = column.name.ends_with("_first_seen_ms") || column.name.ends_with("_last_seen_ms");
    if is_seen || POINTS.iter().any(is_point) {
        column.unit = format!("{} since 1970", column.unit).into();
    }
    column
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_are_told_from_spans() {
        let unit = |meter: &Meter, name: &str| {
            let columns = meter.columns();
            let column = columns.iter().find(|c| c.name == name).expect("a column");
            column.unit.to_string()
        };
        let native = Meter::native(
            ParserConfig::default(),
            TableConfig::default(),
            Vec::new(),
            BTreeSet::new(),
        );
        for name in ["start_ns", "end_ns", "fwd_first_ns", "bwd_last_ns"] {
            assert_eq!(unit(&native, name), "ns since 1970");
        }
        for name in ["duration_ns", "fwd_iat_min_ns"] {
            assert_eq!(unit(&native, name), "ns");
        }
        let nfstream = Meter::nfstream(nfstream::Config::default(), Vec::new());
        assert_eq!(unit(&nfstream, "dst2src_first_seen_ms"), "ms since 1970");
        assert_eq!(unit(&nfstream, "bidirectional_duration_ms"), "ms");
    }
}
