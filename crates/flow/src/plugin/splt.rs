//! Direction, size and gap of a flow's first packets.

use super::{FlowView, Next, Options, PacketView, Plugin, PluginError, column};
use crate::{Column, Kind, Value};

/// Which of a packet's sizes counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Size {
    /// The frame on the wire.
    #[default]
    Frame,
    /// The IP packet.
    Ip,
    /// Transport header and payload.
    Transport,
    /// Transport payload.
    Payload,
}

impl Size {
    fn of(self, packet: &PacketView<'_>) -> u32 {
        match self {
            Self::Frame => packet.frame_size,
            Self::Ip => packet.ip_size,
            Self::Transport => packet.transport_size,
            Self::Payload => packet.payload_size,
        }
    }
}

/// Three lists of `length` values: direction (0 forward, 1 backward), size, gap in ms; -1 where there was no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splt {
    /// Packets, at least 1.
    pub length: u16,
    /// The size that counts.
    pub size: Size,
}

impl Splt {
    pub(super) fn from_options(options: &Options<'_>) -> Result<Self, PluginError> {
        options.only("splt", "length, size", &["length", "size"])?;
        let wanted = "a number of packets, 1 to 65535";
        let length = options.number("splt", "length", wanted, 65535, 20)?;
        let size = match options.get("size") {
            None | Some("frame") => Size::Frame,
            Some("ip") => Size::Ip,
            Some("transport") => Size::Transport,
            Some("payload") => Size::Payload,
            Some(other) => {
                return Err(PluginError::Value {
                    plugin: "splt",
                    option: "size",
                    value: other.to_owned(),
                    wanted: "frame, ip, transport or payload",
                });
            }
        };
        Ok(Self {
            length: length as u16,
            size,
        })
    }

    fn entry(&self, packet: &PacketView<'_>) -> [i64; 3] {
        [
            i64::from(!packet.forward),
            i64::from(self.size.of(packet)),
            packet.gap.as_millis() as i64,
        ]
    }
}

impl Plugin for Splt {
    type State = Vec<[i64; 3]>;

    fn name(&self) -> &'static str {
        "splt"
    }

    fn columns(&self) -> Vec<Column> {
        let list = |name, unit, doc| column(name, Kind::SignedList, unit, doc);
        vec![
            list("splt_direction", "", "0 forward, 1 backward, -1 no packet"),
            list("splt_ps", "bytes", "size, -1 no packet"),
            list(
                "splt_piat_ms",
                "ms",
                "gap to the packet before, -1 no packet",
            ),
        ]
    }

    fn start(&self, _: &FlowView, packet: &PacketView<'_>) -> (Self::State, Next) {
        (vec![self.entry(packet)], Next::Go)
    }

    fn update(&self, state: &mut Self::State, _: &FlowView, packet: &PacketView<'_>) -> Next {
        if state.len() < usize::from(self.length) {
            state.push(self.entry(packet));
        }
        Next::Go
    }

    fn expire(&self, mut state: Self::State, _: &FlowView, row: &mut Vec<Value>) {
        state.resize(usize::from(self.length), [-1; 3]);
        for part in 0..3 {
            row.push(Value::SignedList(state.iter().map(|e| e[part]).collect()));
        }
    }
}
