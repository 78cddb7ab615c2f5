//! What a flow holds when more is wanted of it than the core columns.

use std::mem;

use chaff_abi::{FlowKey, Nanos};

use super::TableConfig;
use super::flow::Flow;
use crate::app::{Dialect, Dissector, Hints, Progress, Room, Seen};
use crate::plugin::{FlowView, Next, PacketView, Plugins, States};
use crate::stats::{SpltEntry, Statistics};
use crate::{Packet, Record, Value};

/// Made with the first packet that wants it.
#[derive(Default)]
pub(super) struct More {
    statistics: Option<Box<Statistics>>,
    splt: Vec<SpltEntry>,
    dissection: Dissection,
    /// Packets that the dissector has seen.
    dissected: u16,
    states: Option<States>,
    /// Of the newest packet.
    last: Option<Nanos>,
}

/// What a table wants beside the core columns.
pub(super) struct Wants<'a> {
    pub(super) config: &'a TableConfig,
    pub(super) plugins: &'a Plugins,
    pub(super) room: &'a Room,
}

/// Where a flow is on the way to its hints.
#[derive(Default)]
enum Dissection {
    #[default]
    New,
    /// More packets are wanted.
    Open(Box<Dissector>),
    /// Nothing more will be found.
    Closed(Box<Hints>),
}

/// What [`More`] adds to a record.
#[derive(Default)]
pub(super) struct Extras {
    pub(super) statistics: Option<Box<Statistics>>,
    pub(super) splt: Vec<SpltEntry>,
    pub(super) hints: Option<Box<Hints>>,
    pub(super) plugin_values: Vec<Value>,
}

impl Extras {
    pub(super) fn put(self, record: &mut Record) {
        record.statistics = self.statistics;
        record.splt = self.splt;
        record.hints = self.hints;
        record.plugin_values = self.plugin_values;
    }
}

impl More {
    /// Takes a packet of one side at `at`, which the flow counts already; gives whether the flow goes on.
    pub(super) fn add(
        &mut self,
        wants: &Wants<'_>,
        flow: &Flow,
        side: usize,
        at: Nanos,
        packet: &Packet<'_>,
    ) -> Next {
        let Wants {
            config,
            plugins,
            room,
        } = wants;
        if config.statistics {
            self.statistics
                .get_or_insert_with(|| Box::new(Statistics::new(config.activity_gap)))
                .add(at, side, packet);
        }
        let gap = self.last.map_or(Nanos::ZERO, |last| at.since(last));
        self.last = self.last.max(Some(at));
        if self.splt.len() < usize::from(config.splt) {
            let sample = &packet.sample;
            self.splt.push(SpltEntry {
                gap,
                wire: sample.wire,
                bytes: sample.bytes,
                payload: sample.payload,
                backward: side != 0,
                tcp_flags: sample.tcp_flags as u8,
            });
        }
        self.dissect(config, room, &flow.key, side, packet);
        if plugins.is_empty() {
            return Next::Go;
        }
        let (flow, packet) = (flow_view(flow), packet_view(packet, at, gap, side == 0));
        match &mut self.states {
            Some(states) => plugins.update(states, &flow, &packet),
            None => {
                let (states, next) = plugins.start(&flow, &packet);
                self.states = Some(states);
                next
            }
        }
    }

    /// Shows the dissector a packet, as long as it wants more.
    pub(super) fn dissect(
        &mut self,
        config: &TableConfig,
        room: &Room,
        key: &FlowKey,
        side: usize,
        packet: &Packet<'_>,
    ) {
        if config.dissect == 0 || matches!(self.dissection, Dissection::Closed(_)) {
            return;
        }
        let mut dissector = match mem::take(&mut self.dissection) {
            Dissection::Open(dissector) => dissector,
            Dissection::New | Dissection::Closed(_) => {
                Box::new(Dissector::new(Dialect::Standard).within(room))
            }
        };
        self.dissected += 1;
        let progress = dissector.observe(&Seen {
            forward: side == 0,
            protocol: key.protocol,
            ip_version: key.version,
            addresses: [key.source(), key.destination()],
            ports: [key.source_port(), key.destination_port()],
            tcp_flags: packet.sample.tcp_flags as u8,
            tcp_sequence: packet.tcp.map_or(0, |tcp| tcp.sequence),
            payload: packet.payload,
            payload_len: packet.sample.payload as usize,
        });
        self.dissection = if progress == Progress::Done || self.dissected >= config.dissect {
            Dissection::Closed(Box::new(dissector.finish()))
        } else {
            Dissection::Open(dissector)
        };
    }

    /// What belongs to a record of the part of the flow that ends now. With `goes_on` the next part may follow.
    pub(super) fn take(&mut self, plugins: &Plugins, flow: &Flow, goes_on: bool) -> Extras {
        let mut plugin_values = Vec::new();
        if let Some(states) = self.states.take() {
            plugins.expire(states, &flow_view(flow), &mut plugin_values);
        }
        let next = match &self.statistics {
            Some(statistics) if goes_on => Some(Box::new(statistics.next_part())),
            _ => None,
        };
        let hints = match &self.dissection {
            Dissection::New => None,
            Dissection::Open(dissector) => Some(Box::new(dissector.clone().finish())),
            Dissection::Closed(hints) => Some(hints.clone()),
        };
        self.last = None;
        Extras {
            statistics: mem::replace(&mut self.statistics, next),
            splt: mem::take(&mut self.splt),
            hints,
            plugin_values,
        }
    }
}

/// What protocol, addresses and ports alone tell.
pub(super) fn guess(key: &FlowKey) -> Box<Hints> {
    let mut dissector = Dissector::new(Dialect::Standard);
    dissector.observe(&Seen {
        forward: true,
        protocol: key.protocol,
        ip_version: key.version,
        addresses: [key.source(), key.destination()],
        ports: [key.source_port(), key.destination_port()],
        tcp_flags: 0,
        tcp_sequence: 0,
        payload: &[],
        payload_len: 0,
    });
    Box::new(dissector.finish())
}

fn flow_view(flow: &Flow) -> FlowView {
    let key = &flow.key;
    FlowView {
        source: key.source(),
        destination: key.destination(),
        source_port: key.source_port(),
        destination_port: key.destination_port(),
        protocol: key.protocol,
        first: flow.start,
        last: flow.last,
        packets: [flow.counters[0].packets, flow.counters[1].packets],
        bytes: [flow.counters[0].bytes, flow.counters[1].bytes],
    }
}

fn packet_view<'a>(packet: &Packet<'a>, at: Nanos, gap: Nanos, forward: bool) -> PacketView<'a> {
    let (key, sample) = (&packet.key, &packet.sample);
    PacketView {
        at,
        gap,
        forward,
        frame_size: sample.wire,
        ip_size: sample.bytes,
        transport_size: match key.protocol {
            1 | 6 | 17 | 58 => packet.transport_len(),
            _ => 0,
        },
        payload_size: sample.payload,
        source: key.source(),
        destination: key.destination(),
        source_mac: packet.src_mac,
        destination_mac: packet.dst_mac,
        source_port: key.source_port(),
        destination_port: key.destination_port(),
        protocol: key.protocol,
        ip_version: key.version,
        vlan: key.vlan_id(),
        tunnel: packet.tunnel.kind as u8,
        tcp_flags: sample.tcp_flags as u8,
        ip_packet: packet.ip_packet,
    }
}
