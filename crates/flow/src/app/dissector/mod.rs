//! What a flow needs between packets, and the order in which protocols are tried.

mod dtls;
mod http;
mod quic;
mod ssh;
mod tcp;
mod tls;
mod udp;

use std::borrow::Cow;

use super::names::{self, App};
use super::stream::Order;
use super::{Confidence, Hints, Progress, Seen};

/// Whose rules decide where they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// nDPI 5.0's, so that texts are the same: no reassembly where it does none, its form of JA4, its limits on packets.
    #[default]
    Ndpi,
    /// The public specifications'; segments are put in order.
    Standard,
}

impl Dialect {
    const fn order(self) -> Order {
        match self {
            Self::Ndpi => Order::Required,
            Self::Standard => Order::Restore,
        }
    }
}

/// Finds out what a flow is from its first packets.
///
/// Under 700 bytes; while a handshake is put together, at most 66 KiB more. Box it.
#[derive(Clone, Debug, Default)]
pub struct Dissector {
    dialect: Dialect,
    found: Found,
    stage: Stage,
    protocol: u8,
    ports: [u16; 2],
    /// TCP sequence number after the newest payload of each side.
    next: [Option<u32>; 2],
    /// Payloads that were looked at.
    payloads: u16,
    /// Packets that may still come after the protocol is known.
    patience: u8,
}

/// What a flow is known to be, and what is needed to learn more.
#[derive(Clone, Debug, Default)]
enum Stage {
    /// Not known yet; TLS needs whole records before it can tell.
    #[default]
    Searching,
    SearchingTls(Box<tls::Tls>),
    Tls(Box<tls::Tls>),
    Http(http::Http),
    Ssh(Box<ssh::Ssh>),
    Dtls(Box<dtls::Dtls>),
    Quic(Box<quic::Quic>),
    Dns,
    Mdns,
    Done,
}

/// What a protocol says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is not mine.
    No,
    /// It may be; the next packet will tell.
    Perhaps,
    /// It is mine, and the next packet can tell more.
    Mine,
    /// It is mine, and that was all.
    Finished,
}

/// Hints before they are put into words.
#[derive(Clone, Debug, Default)]
struct Found {
    master: Option<App>,
    service: Option<App>,
    category: Option<&'static str>,
    confidence: Confidence,
    hints: Hints,
}

impl Found {
    fn name(&mut self, master: App) {
        self.master = Some(master);
        self.confidence = Confidence::Payload;
    }

    /// Names the application that a server's name belongs to.
    fn server(&mut self, name: String) {
        self.hints.server_name = name;
    }
}

impl Dissector {
    /// A dissector with other rules than nDPI's.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            ..Self::default()
        }
    }

    /// Takes the flow's next packet, those without payload included.
    pub fn observe(&mut self, packet: &Seen<'_>) -> Progress {
        if matches!(self.stage, Stage::Done) {
            return Progress::Done;
        }
        // nDPI leaves out datagrams that the capture cut.
        let cut = packet.protocol == 17 && packet.payload.len() < packet.payload_len;
        if cut && self.dialect == Dialect::Ndpi {
            return Progress::More;
        }
        self.protocol = packet.protocol;
        self.ports = packet.ports;
        if !matches!(self.stage, Stage::Searching | Stage::SearchingTls(_)) {
            if self.patience == 0 {
                self.stage = Stage::Done;
                return Progress::Done;
            }
            self.patience -= 1;
        }
        match packet.protocol {
            6 => self.tcp(packet),
            17 => self.udp(packet),
            1 => self.only(names::ICMP),
            2 => self.only(names::IGMP),
            58 => self.only(names::ICMPV6),
            _ => {}
        }
        match self.stage {
            Stage::Done => Progress::Done,
            _ => Progress::More,
        }
    }

    /// The protocol is known and has nothing more to tell.
    fn only(&mut self, app: App) {
        self.found.name(app);
        self.stage = Stage::Done;
    }

    /// The protocol is known; up to `packets` more may tell about it.
    fn known(&mut self, stage: Stage, packets: u8) {
        self.stage = stage;
        self.patience = match self.dialect {
            Dialect::Ndpi => packets,
            Dialect::Standard => packets.saturating_mul(4),
        };
    }

    /// What was found; with nothing found, what the port is known for.
    pub fn finish(self) -> Hints {
        let mut hints = self.found.hints;
        let master = self.found.master.unwrap_or(names::UNKNOWN);
        let service = self.found.service;
        hints.application = match service {
            Some(service) => Cow::Owned(format!("{}.{}", master.name, service.name)),
            None => Cow::Borrowed(master.name),
        };
        hints.category = self
            .found
            .category
            .unwrap_or(service.unwrap_or(master).category);
        hints.confidence = self.found.confidence;
        hints
    }
}
