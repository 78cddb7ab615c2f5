//! What a flow needs between packets, and the order in which protocols are tried.

use std::borrow::Cow;

use super::dhcp::Dhcp;
use super::dns::Message;
use super::http::{Head, Start};
use super::stream::{MAX_STREAM, Stream};
use super::tls::{self, ClientHello, Records, ServerHello};
use super::{Confidence, Hints, Progress, Seen, fingerprint};

/// Characters of a server name that are kept.
pub(super) const MAX_NAME: usize = 79;

/// Finds out what a flow is from its first packets.
///
/// About 500 bytes; while a handshake is put together, at most 33 KiB more in each direction. Box it.
#[derive(Clone, Debug, Default)]
pub struct Dissector {
    stage: Stage,
    hints: Hints,
    protocol: u8,
    ports: [u16; 2],
    streams: [Stream; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Searching,
    Tls {
        client: bool,
        server: bool,
    },
    Http,
    Done,
}

impl Dissector {
    /// Takes the flow's next packet, those without payload included.
    pub fn observe(&mut self, packet: &Seen<'_>) -> Progress {
        if self.stage == Stage::Done {
            return Progress::Done;
        }
        self.protocol = packet.protocol;
        self.ports = packet.ports;
        match packet.protocol {
            6 => self.tcp(packet),
            17 => self.udp(packet),
            _ => {}
        }
        if self.stage == Stage::Done {
            self.streams = Default::default();
            return Progress::Done;
        }
        Progress::More
    }

    /// What was found; with nothing found, what the port is known for.
    pub fn finish(self) -> Hints {
        let mut hints = self.hints;
        if hints.application.is_empty() {
            hints.application = Cow::Borrowed("Unknown");
            hints.category = "Unspecified";
        }
        hints
    }

    fn name(&mut self, application: &'static str, category: &'static str) {
        self.hints.application = Cow::Borrowed(application);
        self.hints.category = category;
        self.hints.confidence = Confidence::Payload;
    }

    fn tcp(&mut self, packet: &Seen<'_>) {
        const SYN: u8 = 2;
        let side = usize::from(!packet.forward);
        if packet.tcp_flags & SYN != 0 {
            self.streams[side].starts_at(packet.tcp_sequence.wrapping_add(1));
        }
        if packet.payload.is_empty()
            || !self.streams[side].push(packet.tcp_sequence, packet.payload)
        {
            return;
        }
        match self.stage {
            Stage::Searching | Stage::Tls { .. } => self.tls(side),
            _ => {}
        }
        if matches!(self.stage, Stage::Searching | Stage::Http) {
            self.http(side);
        }
    }

    fn tls(&mut self, side: usize) {
        let mut messages = Vec::new();
        match tls::handshake(self.streams[side].bytes(), &mut messages) {
            Records::No | Records::More | Records::Other => return,
            Records::Handshake => {}
        }
        if self.stage == Stage::Searching {
            self.name("TLS", "Web");
            self.stage = Stage::Tls {
                client: false,
                server: false,
            };
        }
        let Stage::Tls { client, server } = &mut self.stage else {
            return;
        };
        let Some((kind, length, body)) = tls::message(&messages) else {
            return;
        };
        let full = self.streams[side].bytes().len() >= MAX_STREAM || length > tls::MAX_HELLO;
        if body.len() + 4 < length && !full {
            return;
        }
        match kind {
            tls::CLIENT_HELLO if !*client => {
                *client = true;
                if let Some(hello) = ClientHello::parse(body, false) {
                    let transport = fingerprint::Transport::Tcp;
                    self.hints.client_fingerprint = fingerprint::ja4(&hello, transport);
                    self.hints.ja3 = fingerprint::ja3(&hello);
                    if let Some(name) = hello.server_name {
                        self.hints.server_name = super::bytes::text(&name, MAX_NAME);
                    }
                }
            }
            tls::SERVER_HELLO if !*server => {
                *server = true;
                if let Some(hello) = ServerHello::parse(body) {
                    self.hints.server_fingerprint = fingerprint::ja3s(&hello);
                }
            }
            _ => {}
        }
        if *client && *server {
            self.stage = Stage::Done;
        }
    }

    fn http(&mut self, side: usize) {
        let Some(head) = Head::parse(self.streams[side].bytes()) else {
            return;
        };
        if self.stage == Stage::Searching {
            self.stage = Stage::Http;
            self.hints.application = Cow::Borrowed("HTTP");
            self.hints.category = "Web";
            self.hints.confidence = Confidence::Payload;
        }
        let keep = |value: Option<&[u8]>| super::bytes::text(value.unwrap_or_default(), 512);
        match head.start {
            Start::Request { .. } => {
                self.hints.server_name = keep(head.get("host"));
                self.hints.user_agent = keep(head.get("user-agent"));
            }
            Start::Response(_) => {
                self.hints.content_type = keep(head.get("content-type"));
                if head.complete {
                    self.stage = Stage::Done;
                }
            }
        }
    }

    fn udp(&mut self, packet: &Seen<'_>) {
        let [from, to] = packet.ports;
        if from == 53 || to == 53 || from == 5353 || to == 5353 {
            if let Some(message) = Message::parse(packet.payload) {
                match to == 5353 || from == 5353 {
                    true => self.name("MDNS", "Network"),
                    false => self.name("DNS", "Network"),
                }
                if let Some((name, _)) = message.questions.first() {
                    self.hints.server_name = name.to_ascii_lowercase();
                }
            }
        } else if [from, to].iter().any(|p| matches!(p, 67 | 68))
            && let Some(dhcp) = Dhcp::parse(packet.payload)
        {
            self.name("DHCP", "Network");
            if let Some(print) = dhcp.fingerprint() {
                self.hints.client_fingerprint = print;
            }
            if let Some(name) = dhcp.host_name {
                self.hints.host_name = super::bytes::text(name, 255);
            }
        }
    }
}
