//! Application hints of the first packets of a flow.

use super::Config;
use super::flow::Core;
use super::packet::Packet;
use crate::app::{Dissector, Hints, Progress, Room, Seen};

/// Where a flow is on the way to its hints. Boxed parts, because most of a flow's life they are not there.
#[derive(Default)]
pub(super) enum Dissection {
    /// No packet was looked at.
    #[default]
    New,
    /// More packets are wanted.
    Open(Box<Dissector>),
    /// Nothing more will be found.
    Closed(Box<Hints>),
}

impl Dissection {
    /// Gives the dissector a packet that `core` counts already, as long as it wants more.
    #[inline]
    pub(super) fn observe(
        &mut self,
        config: &Config,
        room: &Room,
        core: &Core,
        packet: &Packet<'_>,
    ) {
        let mut dissector = match std::mem::take(self) {
            Self::New => Box::new(Dissector::default().within(room)),
            Self::Open(dissector) => dissector,
            closed @ Self::Closed(_) => {
                *self = closed;
                return;
            }
        };
        let version = core.ip_version;
        let progress = dissector.observe(&Seen {
            forward: core.is_forward(packet),
            protocol: packet.protocol,
            ip_version: packet.ip_version,
            addresses: [core.src.to_ip(version), core.dst.to_ip(version)],
            ports: [core.src_port, core.dst_port],
            tcp_flags: packet.tcp_flags,
            tcp_sequence: packet.tcp_sequence(),
            payload: packet.payload(),
            payload_len: usize::from(packet.sizes[3]),
        });
        *self = if progress == Progress::Done || core.packets() >= u64::from(config.dissect) {
            Self::Closed(Box::new(dissector.finish()))
        } else {
            Self::Open(dissector)
        };
    }

    /// What was found.
    pub(super) fn finish(self) -> Option<Box<Hints>> {
        match self {
            Self::New => None,
            Self::Open(dissector) => Some(Box::new(dissector.finish())),
            Self::Closed(hints) => Some(hints),
        }
    }
}
