//! Rows as a gateway needs them: two-way flows, fixed dimensions, IPv6, nothing dropped.
//!
//! A flow is both directions of a connection, seen from whoever opened it. It ends after a silence, or after the longest
//! time a row may take, or when its port is used for a new connection; one packet is enough for a row. What a row is made
//! of depends on [`Settings`] alone, never on the capture, so that a model can carry them. Lengths are those of IP
//! packets, so that link layers and padding do not matter.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use chaff_abi::{FlowKey, Nanos};

use super::source::{self, Around, Begin, End};
use super::{FeatureError, Kind, Sequence, Shape, header, quantile, spectrum};
use crate::Packet;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u16 = 1;
const SYN: u16 = 2;
const RST: u16 = 4;
const ACK: u16 = 16;

/// What rows are made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Representation. [`Kind::Stats`] has [`STATS`]; in the kinds with lengths, those of packets back to the opener are
    /// negative.
    pub kind: Kind,
    /// As [`Shape::fft`].
    pub fft: bool,
    /// As [`Shape::header`], over the first [`Settings::packets`] packets.
    pub header: bool,
    /// Packets of a flow that are looked at one by one, 2 to 1024; the dimension base of [`Kind::columns`].
    pub packets: usize,
    /// Length of a window of the samp kinds, seconds.
    pub window_s: f64,
    /// A flow silent for longer has ended, seconds.
    pub idle_s: f64,
    /// A flow that lasts longer gives a row and goes on as a new one, seconds.
    pub active_s: f64,
    /// Add what source and target did lately: the columns [`source::NAMES`], each the larger of its values when the flow
    /// began and when its row is given.
    pub around: bool,
    /// How far back "lately" goes, seconds.
    pub around_s: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kind: Kind::Stats,
            fft: false,
            header: false,
            packets: 32,
            window_s: 1.0,
            idle_s: 30.0,
            active_s: 120.0,
            around: true,
            around_s: 60.0,
        }
    }
}

/// Columns of [`Kind::Stats`]: `out` is from the opener, `in` is back to it. Rates are over the duration and 0 without
/// one; deviations are of the population; quantiles are of the packets that are looked at one by one. Times between
/// packets are 0 for a flow of one packet.
pub const STATS: [&str; 26] = [
    "duration_s",
    "packets_per_s",
    "bytes_per_s",
    "out_packets",
    "out_bytes",
    "out_mean_bytes",
    "out_std_bytes",
    "out_min_bytes",
    "out_median_bytes",
    "out_max_bytes",
    "in_packets",
    "in_bytes",
    "in_mean_bytes",
    "in_std_bytes",
    "in_min_bytes",
    "in_median_bytes",
    "in_max_bytes",
    "gap_mean_s",
    "gap_std_s",
    "gap_max_s",
    "syn_packets",
    "fin_packets",
    "rst_packets",
    "push_packets",
    "is_tcp",
    "is_udp",
];

impl Settings {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`FeatureError::Range`].
    pub fn check(&self) -> Result<(), FeatureError> {
        if !(2..=1024).contains(&self.packets) {
            return Err(FeatureError::Range {
                name: "the number of packets",
                value: self.packets as f64,
                range: "2 to 1024",
            });
        }
        for (name, value) in [
            ("the sampling window", self.window_s),
            ("the idle timeout", self.idle_s),
            ("the active timeout", self.active_s),
            ("the window around a flow", self.around_s),
        ] {
            if !(1e-6..=1e6).contains(&value) {
                return Err(FeatureError::Range {
                    name,
                    value,
                    range: "1e-6 to 1e6 seconds",
                });
            }
        }
        Ok(())
    }

    fn shape(&self) -> Shape {
        Shape {
            kind: self.kind,
            fft: false,
            header: false,
            base: self.packets,
            window_s: self.window_s,
        }
    }

    fn vector_columns(&self) -> usize {
        match self.kind {
            Kind::Stats => STATS.len(),
            other => other.columns(self.packets),
        }
    }

    fn header_columns(&self) -> usize {
        if self.header { 8 + self.packets } else { 0 }
    }

    /// Columns of a row.
    pub fn columns(&self) -> usize {
        let around = if self.around { source::COLUMNS } else { 0 };
        self.header_columns() + self.vector_columns() + around
    }

    /// Names of the columns.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = header::names(self.header_columns(), self.fft).collect();
        if self.fft {
            let kind = self.kind.name().replace('-', "_");
            names.extend((0..self.vector_columns()).map(|i| format!("{kind}_bin{i}")));
        } else if self.kind == Kind::Stats {
            names.extend(STATS.iter().map(|&s| s.to_owned()));
        } else {
            names.extend(self.shape().names());
        }
        if self.around {
            names.extend(source::NAMES.iter().map(|&s| s.to_owned()));
        }
        names
    }
}

/// How much is held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open flows; a new one beyond makes the one that would end first give its row early. About 1 KiB each.
    pub flows: usize,
    /// Hosts of which is known what they did lately. About 2 KiB each.
    pub hosts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 65_536,
            hosts: 8192,
        }
    }
}

/// One flow as a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Seen from the opener.
    pub key: FlowKey,
    /// First packet.
    pub start: Nanos,
    /// Last packet.
    pub end: Nanos,
    /// Packets, both directions.
    pub packets: u64,
    /// Bytes of IP, both directions.
    pub bytes: u64,
    /// [`Settings::columns`] numbers.
    pub values: Vec<f64>,
}

/// Turns packets into rows.
#[derive(Debug)]
pub struct Meter {
    settings: Settings,
    limits: Limits,
    idle: u64,
    active: u64,
    flows: HashMap<FlowKey, Flow>,
    /// When flows are looked at next, with their key and birth; most are looked at once.
    due: BinaryHeap<Reverse<(Nanos, u64, FlowKey)>>,
    around: Around,
    ready: VecDeque<Row>,
    now: Nanos,
    born: u64,
    early: u64,
}

#[derive(Debug)]
struct Flow {
    /// The canonical key turned round is the opener's.
    turned: bool,
    born: u64,
    start: Nanos,
    last: Nanos,
    ways: [Way; 2],
    gaps: Sums,
    flags: [u32; 4],
    closed: bool,
    refused: bool,
    payload_back: bool,
    first: Vec<Step>,
    windows: Vec<f64>,
    /// What source and target had done when it began.
    before: [f64; source::COLUMNS],
}

#[derive(Clone, Copy, Debug)]
struct Step {
    after: f64,
    /// Negative on the way back.
    bytes: f64,
    flags: u8,
    ttl: u8,
}

#[derive(Clone, Copy, Debug, Default)]
struct Way {
    bytes: Sums,
}

/// Count, sum, sum of squares, extremes.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    n: f64,
    sum: f64,
    squares: f64,
    min: f64,
    max: f64,
}

impl Sums {
    fn add(&mut self, v: f64) {
        self.min = if self.n == 0.0 { v } else { self.min.min(v) };
        self.max = if self.n == 0.0 { v } else { self.max.max(v) };
        self.n += 1.0;
        self.sum += v;
        self.squares += v * v;
    }

    fn mean(&self) -> f64 {
        self.sum / self.n.max(1.0)
    }

    fn deviation(&self) -> f64 {
        let mean = self.mean();
        (self.squares / self.n.max(1.0) - mean * mean)
            .max(0.0)
            .sqrt()
    }
}

impl Meter {
    /// Without flows.
    ///
    /// # Errors
    /// [`FeatureError::Range`].
    pub fn new(settings: Settings, limits: Limits) -> Result<Self, FeatureError> {
        settings.check()?;
        Ok(Self {
            settings,
            limits,
            idle: Nanos::from_secs_f64(settings.idle_s).0,
            active: Nanos::from_secs_f64(settings.active_s).0,
            flows: HashMap::new(),
            due: BinaryHeap::new(),
            around: Around::new(settings.around_s, limits.hosts),
            ready: VecDeque::new(),
            now: Nanos::ZERO,
            born: 0,
            early: 0,
        })
    }

    /// What rows are made of.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Flows that gave their row early because there were too many.
    pub fn early(&self) -> u64 {
        self.early
    }

    /// Open flows.
    pub fn open(&self) -> usize {
        self.flows.len()
    }

    /// Takes a packet. Time does not go backwards: an earlier one counts as now.
    pub fn observe(&mut self, at: Nanos, packet: &Packet<'_>) {
        self.handle_timeout(at);
        let now = self.now;
        let (key, turned) = packet.key.canonical();
        if let Some(flow) = self.flows.get(&key) {
            let again = flow.closed && packet.sample.tcp_flags & (SYN | ACK) == SYN;
            if again || now.0 - flow.start.0 > self.active {
                let going = (!again).then_some(flow.turned);
                self.end(&key);
                self.begin(key, going.unwrap_or_else(|| opener(packet, turned)), now);
            }
        } else {
            if self.flows.len() >= self.limits.flows.max(1) {
                self.end_early();
            }
            self.begin(key, opener(packet, turned), now);
        }
        let Some(flow) = self.flows.get_mut(&key) else {
            return;
        };
        flow.add(now, packet, turned, &self.settings);
    }

    /// Ends the flows that were silent for too long. Safe to call at any time.
    pub fn handle_timeout(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        while let Some(Reverse((at, born, key))) = self.due.peek().copied() {
            if at >= self.now {
                break;
            }
            self.due.pop();
            let Some(flow) = self.flows.get(&key).filter(|f| f.born == born) else {
                continue;
            };
            let ends = Nanos(flow.last.0.saturating_add(self.idle));
            if ends < self.now {
                self.end(&key);
            } else {
                self.due.push(Reverse((ends, born, key)));
            }
        }
    }

    /// When [`Meter::handle_timeout`] may have work; `None` without open flows.
    pub fn poll_timeout(&self) -> Option<Nanos> {
        self.due
            .peek()
            .map(|Reverse((at, ..))| Nanos(at.0.saturating_add(1)))
    }

    /// The next finished row.
    pub fn poll(&mut self) -> Option<Row> {
        self.ready.pop_front()
    }

    /// Ends all flows, by the time they would have ended.
    pub fn finish(&mut self) {
        let mut open: Vec<(Nanos, u64, FlowKey)> = self
            .flows
            .iter()
            .map(|(k, f)| (f.last, f.born, *k))
            .collect();
        open.sort_unstable();
        for (_, _, key) in open {
            self.end(&key);
        }
        self.due.clear();
    }

    fn begin(&mut self, key: FlowKey, turned: bool, at: Nanos) {
        self.born += 1;
        self.due.push(Reverse((
            Nanos(at.0.saturating_add(self.idle)),
            self.born,
            key,
        )));
        let mut before = [0.0; source::COLUMNS];
        if self.settings.around {
            let begin = about(&key, turned);
            self.around.begin(at, &begin);
            before = self.around.vector(at, &begin);
        }
        let windows = match self.settings.kind {
            Kind::SampNum | Kind::SampSize => self.settings.vector_columns(),
            _ => 0,
        };
        let flow = Flow {
            turned,
            born: self.born,
            start: at,
            last: at,
            ways: [Way::default(); 2],
            gaps: Sums::default(),
            flags: [0; 4],
            closed: false,
            refused: false,
            payload_back: false,
            first: Vec::new(),
            windows: vec![0.0; windows],
            before,
        };
        self.flows.insert(key, flow);
    }

    fn end_early(&mut self) {
        while let Some(Reverse((_, born, key))) = self.due.pop() {
            if self.flows.get(&key).is_some_and(|f| f.born == born) {
                self.early += 1;
                self.end(&key);
                return;
            }
        }
    }

    fn end(&mut self, key: &FlowKey) {
        let Some(flow) = self.flows.remove(key) else {
            return;
        };
        let begin = about(key, flow.turned);
        let mut values = Vec::with_capacity(self.settings.columns());
        flow.row(&self.settings, key, &mut values);
        if self.settings.around {
            let end = End {
                of: begin,
                fruitless: !flow.payload_back && (flow.ways[1].bytes.n == 0.0 || flow.refused),
                bytes: flow.ways[0].bytes.sum as u64,
            };
            self.around.end(flow.last, &end);
            let after = self.around.vector(self.now, &begin);
            values.extend(flow.before.iter().zip(after).map(|(b, a)| b.max(a)));
        }
        self.ready.push_back(Row {
            key: if flow.turned { key.reversed() } else { *key },
            start: flow.start,
            end: flow.last,
            packets: (flow.ways[0].bytes.n + flow.ways[1].bytes.n) as u64,
            bytes: (flow.ways[0].bytes.sum + flow.ways[1].bytes.sum) as u64,
            values,
        });
    }
}

/// Whether the opener's key is the canonical one turned round. A SYN opens; an answer to one does not; otherwise the end
/// with a well-known port is the one that was asked when the other has none, and else whoever spoke first opened.
fn opener(packet: &Packet<'_>, turned: bool) -> bool {
    let port = |p: [u8; 2]| u16::from_be_bytes(p);
    let (source, target) = (port(packet.key.src_port), port(packet.key.dst_port));
    let flags = packet.sample.tcp_flags;
    let answers = if packet.key.protocol == TCP && flags & SYN != 0 {
        flags & ACK != 0
    } else {
        source != 0 && source < 1024 && target >= 1024
    };
    turned != answers
}

fn about(key: &FlowKey, turned: bool) -> Begin {
    let key = if turned { key.reversed() } else { *key };
    Begin {
        source: key.src,
        target: key.dst,
        port: u16::from_be_bytes(key.dst_port),
    }
}

impl Flow {
    fn add(&mut self, at: Nanos, packet: &Packet<'_>, turned: bool, settings: &Settings) {
        let back = turned != self.turned;
        let bytes = f64::from(packet.sample.bytes);
        let after = (at.0 - self.start.0) as f64 / 1e9;
        if self.ways[0].bytes.n + self.ways[1].bytes.n > 0.0 {
            self.gaps.add((at.0 - self.last.0) as f64 / 1e9);
        }
        self.last = at;
        self.ways[usize::from(back)].bytes.add(bytes);
        let flags = packet.sample.tcp_flags;
        for (count, flag) in self.flags.iter_mut().zip([SYN, FIN, RST, 8]) {
            *count = count.saturating_add(u32::from(flags & flag != 0));
        }
        self.closed |= flags & (FIN | RST) != 0;
        self.refused |= back && flags & RST != 0;
        self.payload_back |= back && packet.sample.payload > 0;
        if self.first.len() < settings.packets {
            self.first.push(Step {
                after,
                bytes: if back { -bytes } else { bytes },
                flags: (flags & 0xff) as u8,
                ttl: packet.ttl,
            });
        }
        if let Some(window) = self.windows.get_mut((after / settings.window_s) as usize) {
            *window += match settings.kind {
                Kind::SampSize => bytes,
                _ => 1.0,
            };
        }
    }

    fn row(&self, settings: &Settings, key: &FlowKey, out: &mut Vec<f64>) {
        let at: Vec<f64> = self.first.iter().map(|s| s.after).collect();
        let bytes: Vec<f64> = self.first.iter().map(|s| s.bytes).collect();
        let flags: Vec<u8> = self.first.iter().map(|s| s.flags).collect();
        let ttl: Vec<u8> = self.first.iter().map(|s| s.ttl).collect();
        let sequence = Sequence {
            at: &at,
            bytes: &bytes,
            flags: &flags,
            ttl: &ttl,
            headless: 0,
        };
        if settings.header {
            let columns = settings.header_columns();
            // Nothing is headless here.
            let block = header::vector(&sequence, columns).unwrap_or_default();
            fill(&block, columns, settings.fft, out);
        }
        let columns = settings.vector_columns();
        let mut raw = Vec::with_capacity(columns);
        match settings.kind {
            Kind::Stats => self.stats(key, &mut raw),
            Kind::Iat => super::iat::vector(&sequence, columns, &mut raw),
            Kind::Size => super::size::vector(&sequence, columns, &mut raw),
            Kind::IatSize => super::size::interleaved(&sequence, columns, &mut raw),
            Kind::SampNum | Kind::SampSize => raw.extend_from_slice(&self.windows),
        }
        fill(&raw, columns, settings.fft, out);
    }

    fn stats(&self, key: &FlowKey, out: &mut Vec<f64>) {
        let duration = (self.last.0 - self.start.0) as f64 / 1e9;
        let [there, back] = [&self.ways[0].bytes, &self.ways[1].bytes];
        let rate = |what: f64| if duration > 0.0 { what / duration } else { 0.0 };
        out.extend([duration, rate(there.n + back.n), rate(there.sum + back.sum)]);
        for (way, sign) in [(there, 1.0), (back, -1.0)] {
            let mut sizes: Vec<f64> = self
                .first
                .iter()
                .map(|s| s.bytes * sign)
                .filter(|b| *b > 0.0)
                .collect();
            sizes.sort_unstable_by(f64::total_cmp);
            out.extend([
                way.n,
                way.sum,
                way.mean(),
                way.deviation(),
                way.min,
                quantile(&sizes, 0.5).unwrap_or(0.0),
                way.max,
            ]);
        }
        out.extend([self.gaps.mean(), self.gaps.deviation(), self.gaps.max]);
        out.extend(self.flags.map(f64::from));
        let is = |protocol| f64::from(u8::from(key.protocol == protocol));
        out.extend([is(TCP), is(UDP)]);
    }
}

fn fill(raw: &[f64], columns: usize, fft: bool, out: &mut Vec<f64>) {
    let raw = &raw[..raw.len().min(columns)];
    if fft {
        spectrum::real_part(raw, columns, out);
    } else {
        out.extend_from_slice(raw);
        out.extend(std::iter::repeat_n(0.0, columns - raw.len()));
    }
}

#[cfg(test)]
mod tests {
    use chaff_abi::Sample;

    use super::*;

    fn packet(from: u8, to: u8, ports: (u16, u16), flags: u16, bytes: u32) -> Packet<'static> {
        Packet {
            key: FlowKey {
                src: FlowKey::mapped([10, 0, 0, from]),
                dst: FlowKey::mapped([10, 0, 0, to]),
                src_port: ports.0.to_be_bytes(),
                dst_port: ports.1.to_be_bytes(),
                protocol: TCP,
                version: 4,
                ..FlowKey::default()
            },
            sample: Sample {
                bytes,
                payload: bytes - 40,
                tcp_flags: flags,
                segments: 1,
                wire: bytes + 14,
            },
            ttl: 64,
            ..Packet::default()
        }
    }

    fn rows(settings: Settings, packets: &[(f64, Packet<'_>)]) -> Vec<Row> {
        let mut meter = Meter::new(settings, Limits::default()).unwrap();
        for (at, packet) in packets {
            meter.observe(Nanos::from_secs_f64(*at), packet);
        }
        meter.finish();
        std::iter::from_fn(|| meter.poll()).collect()
    }

    fn column(settings: &Settings, row: &Row, name: &str) -> f64 {
        row.values[settings.names().iter().position(|n| n == name).unwrap()]
    }

    #[test]
    fn both_directions_are_one_row_seen_from_the_opener() {
        let settings = Settings::default();
        let packets = [
            (1.0, packet(9, 1, (40_000, 80), SYN, 40)),
            (1.5, packet(1, 9, (80, 40_000), SYN | ACK, 40)),
            (2.0, packet(9, 1, (40_000, 80), ACK | 8, 140)),
        ];
        let found = rows(settings, &packets);
        assert_eq!(found.len(), 1);
        let get = |name| column(&settings, &found[0], name);
        assert_eq!(found[0].key, packets[0].1.key);
        assert_eq!(
            (get("duration_s"), get("out_packets"), get("in_packets")),
            (1.0, 2.0, 1.0)
        );
        assert_eq!(
            (get("out_bytes"), get("gap_mean_s"), get("syn_packets")),
            (180.0, 0.5, 2.0)
        );
        assert_eq!((get("source_flows"), get("source_fruitless")), (1.0, 0.0));
    }

    #[test]
    fn an_answer_that_is_seen_first_is_no_opener() {
        let found = rows(
            Settings::default(),
            &[(1.0, packet(1, 9, (80, 40_000), ACK, 1000))],
        );
        assert_eq!(found[0].key.dst_port, 80u16.to_be_bytes());
        assert_eq!(found[0].packets, 1);
    }

    #[test]
    fn silence_time_and_a_new_connection_end_a_flow() {
        let p = |flags| packet(9, 1, (40_000, 80), flags, 60);
        let times = |list: &[(f64, u16)]| -> Vec<u64> {
            let packets: Vec<_> = list.iter().map(|(t, f)| (*t, p(*f))).collect();
            rows(Settings::default(), &packets)
                .iter()
                .map(|r| r.packets)
                .collect()
        };
        assert_eq!(times(&[(0.0, SYN), (30.0, ACK), (60.1, ACK)]), [2, 1]);
        assert_eq!(times(&[(0.0, SYN), (0.1, FIN), (0.2, SYN)]), [2, 1]);
        let long: Vec<(f64, u16)> = (0..14).map(|i| (f64::from(i) * 10.0, ACK)).collect();
        assert_eq!(times(&long), [13, 1]);
    }

    #[test]
    fn a_scan_shows_in_every_one_of_its_rows() {
        let settings = Settings::default();
        let packets: Vec<_> = (0..100u16)
            .map(|i| {
                (
                    f64::from(i) * 0.1,
                    packet(9, 1, (50_000 + i, 1000 + i), SYN, 44),
                )
            })
            .collect();
        let found = rows(settings, &packets);
        assert_eq!(found.len(), 100);
        for row in &found {
            assert_eq!(column(&settings, row, "source_flows"), 100.0);
            assert!(column(&settings, row, "source_ports") > 85.0);
        }
    }

    #[test]
    fn all_kinds_give_their_columns_and_memory_is_bounded() {
        for kind in Kind::ALL {
            for (fft, header, around) in [
                (false, false, true),
                (true, true, false),
                (false, true, true),
            ] {
                let settings = Settings {
                    kind,
                    fft,
                    header,
                    around,
                    packets: 5,
                    ..Settings::default()
                };
                assert_eq!(settings.names().len(), settings.columns());
                let limits = Limits {
                    flows: 10,
                    hosts: 3,
                };
                let mut meter = Meter::new(settings, limits).unwrap();
                let mut count = 0;
                for i in 0..500u16 {
                    let p = packet((i % 7) as u8, 1, (2000 + i % 50, 80), ACK, 60);
                    meter.observe(Nanos::from_millis(u64::from(i) * 20), &p);
                    assert!(meter.open() <= 10);
                    while let Some(row) = meter.poll() {
                        assert_eq!(row.values.len(), settings.columns());
                        count += row.packets;
                    }
                }
                meter.finish();
                count += std::iter::from_fn(|| meter.poll())
                    .map(|r| r.packets)
                    .sum::<u64>();
                assert_eq!(count, 500, "no packet is lost");
            }
        }
    }

    #[test]
    fn a_long_flow_still_counts_itself() {
        let settings = Settings::default();
        let found = rows(
            settings,
            &[
                (1.0, packet(9, 1, (40_000, 80), SYN, 40)),
                (25.0, packet(9, 1, (40_000, 80), ACK, 40)),
                (50.0, packet(9, 1, (40_000, 80), ACK, 40)),
                (500.0, packet(9, 1, (40_001, 80), SYN, 40)),
            ],
        );
        assert_eq!(column(&settings, &found[0], "source_flows"), 1.0);
        assert!(found[0].values.iter().all(|v| v.is_sign_positive()));
    }

    #[test]
    fn sizes_tell_the_direction() {
        let settings = Settings {
            kind: Kind::Size,
            packets: 4,
            around: false,
            ..Settings::default()
        };
        let found = rows(
            settings,
            &[
                (1.0, packet(9, 1, (40_000, 80), SYN, 40)),
                (1.5, packet(1, 9, (80, 40_000), SYN | ACK, 44)),
            ],
        );
        assert_eq!(found[0].values, [40.0, -44.0, 0.0, 0.0]);
    }
}
