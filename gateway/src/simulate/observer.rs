//! What an observer of the uplink sees, with the truth beside it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use chaff_abi::{Dir, Nanos};
use chaff_engine::Verdict;
use chaff_flow::Link;
use chaff_sim::frame::{self, Path as CoverPath};
use chaff_sim::tunnel_nodes;
use chaff_trace::PcapWriter;
use chaff_tunnel::Class;
use chaff_wire::Kind;
use hdrhistogram::Histogram;

use super::UNIX_START;
use super::report::Observed;

/// Whether a message is cover or the tunnel's own, and of which device it is otherwise.
pub(super) type Message = (bool, Option<usize>);

/// What the tap on the uplink writes down.
pub(super) struct Tally {
    /// Messages on the way, in the order they were sent, with `--mode tunnel`: what each is, and of which device.
    pub(super) messages: Option<[VecDeque<Message>; 2]>,
    pub(super) packets: BufWriter<File>,
    pub(super) pcap: PcapWriter<BufWriter<File>>,
    pub(super) observed: Observed,
    pub(super) uplink: BTreeMap<(Nanos, u64), u32>,
    pub(super) order: u64,
    pub(super) downlink: VecDeque<u16>,
    pub(super) real: [VecDeque<usize>; 2],
    pub(super) streams: BTreeMap<u16, usize>,
    pub(super) labels: Vec<String>,
    pub(super) latency: Histogram<u64>,
    pub(super) waited: Histogram<u64>,
    pub(super) failure: Option<anyhow::Error>,
}

impl Tally {
    pub(super) fn create(
        out: &Path,
        streams: BTreeMap<u16, usize>,
        labels: Vec<String>,
    ) -> anyhow::Result<Self> {
        let create = |name: &str| {
            let path = out.join(name);
            File::create(&path)
                .map(BufWriter::new)
                .with_context(|| format!("while creating {}", path.display()))
        };
        let mut packets = create("packets.csv")?;
        writeln!(packets, "time_s,dir,size_bytes,is_dummy,device")?;
        Ok(Self {
            messages: None,
            packets,
            pcap: PcapWriter::new(create("observed.pcap")?, Link::Ethernet)?,
            observed: Observed::default(),
            uplink: BTreeMap::new(),
            order: 0,
            downlink: VecDeque::new(),
            real: [VecDeque::new(), VecDeque::new()],
            streams,
            labels,
            latency: Histogram::new_with_max(60_000_000_000, 3)
                .context("while making a histogram")?,
            waited: Histogram::new_with_max(60_000_000_000, 3)
                .context("while making a histogram")?,
            failure: None,
        })
    }

    pub(super) fn message(&mut self, m: &tunnel_nodes::Message) {
        let real = m.class == Class::Real;
        if real {
            self.waited.saturating_record(m.at.since(m.came).0);
        }
        if let Some(messages) = &mut self.messages {
            messages[m.dir.index()].push_back((!real, real.then_some(m.device)));
        }
    }

    pub(super) fn planned(&mut self, t: &chaff_engine::Transmit) {
        self.order += 1;
        let device = if t.kind == Kind::Schedule {
            u32::MAX
        } else {
            t.device
        };
        self.uplink.insert((t.at, self.order), device);
    }

    pub(super) fn winnowed(&mut self, now: Nanos, verdict: Verdict) {
        if let Verdict::Cover {
            meant: Some(stamp), ..
        } = verdict
        {
            self.latency
                .saturating_record((now + UNIX_START).since(stamp.at).0);
        }
    }

    pub(super) fn see(&mut self, now: Nanos, dir: Dir, bytes: &[u8], path: &CoverPath) {
        let address = if dir == Dir::Out { path.dst } else { path.src };
        let message = match &mut self.messages {
            Some(messages) => messages[dir.index()].pop_front(),
            None => None,
        };
        let dummy = message.map_or_else(
            || frame::udp_to(bytes, address).is_some(),
            |(dummy, _)| dummy,
        );
        let device = match (dummy, dir) {
            _ if self.messages.is_some() => message.and_then(|(_, d)| d).unwrap_or(usize::MAX),
            (true, Dir::Out) => self.uplink.pop_first().map_or(0, |(_, d)| d as usize),
            (true, Dir::In) => self
                .downlink
                .pop_front()
                .and_then(|s| self.streams.get(&s).copied())
                .unwrap_or(0),
            (false, _) => self.real[dir.index()].pop_front().unwrap_or(0),
        };
        let ip_bytes = chaff_flow::parse(Link::Ethernet, bytes, bytes.len())
            .map_or(bytes.len().saturating_sub(14) as u64, |p| {
                u64::from(p.sample.bytes)
            });
        let (packets, total) = match dummy {
            true => (
                &mut self.observed.cover_packets,
                &mut self.observed.cover_bytes,
            ),
            false => (
                &mut self.observed.real_packets,
                &mut self.observed.real_bytes,
            ),
        };
        packets[dir.index()] += 1;
        total[dir.index()] += ip_bytes;
        let label = self.labels.get(device).map_or("gateway", String::as_str);
        let at = now.as_secs_f64();
        let written = writeln!(
            self.packets,
            "{at:.9},{},{ip_bytes},{},{label}",
            dir.sign(),
            u8::from(dummy)
        )
        .context("while writing packets.csv")
        .and_then(|()| {
            self.pcap
                .write(UNIX_START + now, bytes, bytes.len())
                .context("while writing observed.pcap")
        });
        if let Err(e) = written {
            self.failure.get_or_insert(e);
        }
    }
}
