//! Application hints from the first payloads of a flow: which application, which server, which software.
//!
//! One file per protocol, each with pure functions over bytes. [`Dissector`] holds what a flow needs between packets;
//! give it the packets of a flow in order until it answers [`Progress::Done`].

mod addresses;
pub mod answers;
mod bytes;
pub mod coap;
mod detect;
pub mod dhcp;
mod dissector;
pub mod dns;
pub mod dtls;
pub mod fingerprint;
pub mod http;
pub mod mail;
pub mod mqtt;
mod names;
pub mod netbios;
mod ports;
pub mod quic;
mod room;
mod services;
pub mod ssh;
mod stream;
pub mod stun;
mod text;
pub mod tls;
pub mod x509;

use std::borrow::Cow;
use std::net::IpAddr;

pub use answers::Answers;
pub use dissector::{Dialect, Dissector};
pub use names::App;
pub use room::Room;
pub use text::MAX_SERVER_NAME;

/// One packet as a dissector sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Whether the flow's initiator sent it.
    pub forward: bool,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// Addresses of the flow, initiator first.
    pub addresses: [IpAddr; 2],
    /// Ports of the flow, initiator first; 0 where there are none.
    pub ports: [u16; 2],
    /// TCP flags, 0 otherwise.
    pub tcp_flags: u8,
    /// TCP sequence number, 0 otherwise.
    pub tcp_sequence: u32,
    /// Captured transport payload.
    pub payload: &'a [u8],
    /// Transport payload on the wire, bytes; more than `payload` holds when the capture was cut.
    pub payload_len: usize,
}

/// Whether more packets can change the hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Give the next packet too.
    More,
    /// Everything that will be found was found.
    Done,
}

/// On what an application name rests, weakest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// Nothing is known.
    #[default]
    Unknown,
    /// Only a port number.
    Port,
    /// Only an address.
    Address,
    /// A part of the payload, or what an earlier flow said (DNS answer).
    Partial,
    /// The payload follows the protocol.
    Payload,
}

impl Confidence {
    /// The number that nDPI 5.0, and so NFStream 6.6.0, gives for the same ground.
    pub const fn ndpi(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Port => 1,
            Self::Address => 7,
            Self::Partial => 3,
            Self::Payload => 6,
        }
    }
}

/// What was found. Empty texts mean that it was not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Application name, `Protocol` or `Protocol.Application`; `Unknown` when nothing is known.
    pub application: Cow<'static, str>,
    /// Category of the application.
    pub category: &'static str,
    /// On what the name rests.
    pub confidence: Confidence,
    /// Whether the name was guessed after the flow's end, because no payload had told.
    pub guessed: bool,
    /// TLS or QUIC server name, HTTP host, DNS question, ...
    pub server_name: String,
    /// JA4 of TLS, QUIC and DTLS clients, HASSH of SSH clients, option list of DHCP clients.
    pub client_fingerprint: String,
    /// JA3S of TLS servers, HASSH of SSH servers.
    pub server_fingerprint: String,
    /// JA3 of the TLS client; nDPI's dialect has none.
    pub ja3: String,
    /// First protocol offered by ALPN, or the one the server chose.
    pub alpn: String,
    /// HTTP, SSDP and QUIC user agent.
    pub user_agent: String,
    /// HTTP content type of the response.
    pub content_type: String,
    /// What the sender calls itself: DHCP host name, mDNS host.
    pub host_name: String,
    /// What it is: DHCP vendor class, mDNS services (PTR names), SSDP server or target, MQTT client id.
    pub device_hint: String,
}
