//! What DHCP clients tell about themselves (RFC 2131, options of RFC 2132 and 3004).

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::view::{NotParsed, ipv4_payload};
use super::{FlowView, Next, PacketView, Plugin, column};
use crate::{Column, Kind, Value};

/// Bytes of a message before its options, magic number included.
const HEADER: usize = 240;
const REQUEST: u64 = 3;

/// Client facts of flows to port 67, which end with each transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dhcp;

/// What a flow's messages have said so far.
#[derive(Debug, Default)]
pub struct Facts {
    host_name: Option<String>,
    requested: Option<IpAddr>,
    parameters: Option<String>,
    max_size: Option<u64>,
    vendor: Option<String>,
    user: Option<String>,
    options: Vec<u64>,
    address: Option<Ipv4Addr>,
    first_type: Option<u64>,
    oui: Option<String>,
}

/// Header fields and options of one message.
struct Message<'a> {
    client: Ipv4Addr,
    hardware: &'a [u8],
    options: Vec<(u8, &'a [u8])>,
    /// Option 53, 0 when it is not there.
    kind: u64,
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, NotParsed> {
        let (header, mut rest) = bytes.split_first_chunk::<HEADER>().ok_or(NotParsed)?;
        let hardware_len = usize::from(header[2]).min(16);
        let mut message = Self {
            client: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
            hardware: bytes.get(28..28 + hardware_len).unwrap_or(&[]),
            options: Vec::new(),
            kind: 0,
        };
        while let Some((&code, after)) = rest.split_first() {
            match code {
                0xff => break,
                0 => rest = after,
                _ => {
                    let (&len, after) = after.split_first().ok_or(NotParsed)?;
                    let len = usize::from(len).min(after.len());
                    let (value, after) = after.split_at(len);
                    if code == 53 {
                        message.kind = number(value).ok_or(NotParsed)?;
                    }
                    message.options.push((code, value));
                    rest = after;
                }
            }
        }
        if message.kind > 8 {
            return Err(NotParsed);
        }
        Ok(message)
    }
}

/// A big-endian number; `None` above 64 bits.
fn number(bytes: &[u8]) -> Option<u64> {
    bytes
        .iter()
        .try_fold(0u64, |n, &b| Some(n.checked_mul(256)? | u64::from(b)))
}

/// An address as a number: above 32 bits it is IPv6.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    if bytes.len() > 16 {
        return None;
    }
    let number = bytes.iter().fold(0u128, |n, &b| n << 8 | u128::from(b));
    Some(match u32::try_from(number) {
        Ok(v4) => Ipv4Addr::from(v4).into(),
        Err(_) => Ipv6Addr::from(number).into(),
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Facts {
    fn take(&mut self, message: &Message<'_>) {
        let mut requested = None;
        let mut parameters = None;
        for &(code, value) in &message.options {
            match code {
                12 if !value.is_empty() => self.host_name = Some(text(value)),
                60 => self.vendor = Some(text(value)),
                77 => self.user = Some(text(value)),
                57 => self.max_size = number(value),
                55 => parameters = Some(joined(value)),
                50 => requested = address(value),
                _ => (),
            }
        }
        if message.kind == REQUEST {
            if let [a, b, c, _, _, _] = message.hardware {
                self.oui = Some(format!("{a:02x}:{b:02x}:{c:02x}"));
            }
            self.options = message.options.iter().map(|o| u64::from(o.0)).collect();
            self.parameters = parameters;
            self.requested = requested;
            if !message.client.is_unspecified() {
                self.address = Some(message.client);
            }
        }
        self.first_type.get_or_insert(message.kind);
    }
}

/// `1,3,6`.
fn joined(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (i, byte) in bytes.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        // Writing into a String does not fail.
        let _ = write!(out, "{comma}{byte}");
    }
    out
}

impl Plugin for Dhcp {
    type State = Box<Facts>;

    fn name(&self) -> &'static str {
        "dhcp"
    }

    fn columns(&self) -> Vec<Column> {
        let text = |name, doc| column(name, Kind::Text, "", doc);
        vec![
            text("dhcp_12", "host name"),
            text("dhcp_50", "address that the client asks for"),
            text("dhcp_55", "options that the client asks for, in its order"),
            column(
                "dhcp_57",
                Kind::Unsigned,
                "bytes",
                "largest message that the client takes",
            ),
            text("dhcp_60", "vendor class"),
            text("dhcp_77", "user class"),
            column(
                "dhcp_options",
                Kind::List,
                "",
                "options of the request, in their order",
            ),
            text("dhcp_addr", "address that the client has"),
            text("dhcp_msg_type", "type of the first message"),
            text("dhcp_oui", "first half of the client's hardware address"),
        ]
    }

    fn start(&self, flow: &FlowView, packet: &PacketView<'_>) -> (Self::State, Next) {
        let mut state = Box::default();
        let next = self.update(&mut state, flow, packet);
        (state, next)
    }

    fn update(&self, state: &mut Self::State, flow: &FlowView, packet: &PacketView<'_>) -> Next {
        if flow.destination_port != 67 {
            return Next::Go;
        }
        let Ok(message) = ipv4_payload(packet.ip_packet).and_then(Message::parse) else {
            return Next::Go;
        };
        state.take(&message);
        // DECLINE, ACK, NAK and INFORM close a transaction; a client without address begins one.
        if matches!(message.kind, 4 | 5 | 6 | 8) || flow.source == Ipv4Addr::UNSPECIFIED {
            Next::End
        } else {
            Next::Go
        }
    }

    fn expire(&self, state: Self::State, _: &FlowView, row: &mut Vec<Value>) {
        let text = |value: Option<String>| value.map_or(Value::Missing, Value::Text);
        let kind = match state.first_type {
            None => Value::Missing,
            Some(0) => Value::Word("0"),
            Some(1) => Value::Word("MsgType.DISCOVER"),
            Some(2) => Value::Word("MsgType.OFFER"),
            Some(3) => Value::Word("MsgType.REQUEST"),
            Some(4) => Value::Word("MsgType.DECLINE"),
            Some(5) => Value::Word("MsgType.ACK"),
            Some(6) => Value::Word("MsgType.NACK"),
            Some(7) => Value::Word("MsgType.RELEASE"),
            Some(_) => Value::Word("MsgType.INFORM"),
        };
        row.extend([
            text(state.host_name),
            state.requested.map_or(Value::Missing, Value::Ip),
            text(state.parameters),
            state.max_size.map_or(Value::Missing, Value::Unsigned),
            text(state.vendor),
            text(state.user),
            Value::List(state.options),
            state
                .address
                .map_or(Value::Missing, |a| Value::Ip(a.into())),
            kind,
            text(state.oui),
        ]);
    }
}
