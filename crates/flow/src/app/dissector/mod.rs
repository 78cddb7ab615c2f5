//! What a flow needs between packets, and the order in which protocols are tried.

mod calls;
mod dtls;
mod http;
mod local;
mod mail;
mod quic;
mod ssh;
mod tcp;
mod tls;
mod udp;

use std::borrow::Cow;

use super::names::{self, App};
use super::room::{Room, Share};
use super::stream::Order;
use super::{Confidence, Hints, Progress, Seen};
use super::{addresses, ports, services};

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
/// About 430 bytes, so box it. While a handshake is put together it holds up to 33 KiB more (nDPI's dialect, 16.5 KiB for
/// each direction) or 100 KiB (segments put in order); most flows hold less than 4 KiB, and nothing once it is
/// [`Progress::Done`]. [`Dissector::within`] bounds what those of many flows hold together.
#[derive(Clone, Debug, Default)]
pub struct Dissector {
    dialect: Dialect,
    found: Found,
    stage: Stage,
    protocol: u8,
    ports: [u16; 2],
    /// The network of one of the addresses.
    network: Option<App>,
    /// TCP sequence number after the newest payload of each side.
    next: [Option<u32>; 2],
    /// Payloads that were looked at.
    payloads: u16,
    /// The payload before, when it looked like RTP.
    media: Option<calls::Media>,
    /// Packets that may still come after the protocol is known.
    patience: u8,
    /// The flow began in the middle of a QUIC connection, which nDPI does not follow.
    no_quic: bool,
    share: Share,
}

/// Payloads of a dialogue in lines that are looked at.
const MAX_LINES: u16 = 24;

/// What a flow is known to be, and what is needed to learn more.
#[derive(Clone, Debug, Default)]
enum Stage {
    /// Not known yet; TLS needs whole records before it can tell.
    #[default]
    Searching,
    SearchingTls(Box<tls::Tls>),
    Tls(Box<tls::Tls>),
    Http(http::Http),
    Mail(Box<mail::Mail>),
    Ssh(Box<ssh::Ssh>),
    Dtls(Box<dtls::Dtls>),
    Stun,
    StunDtls(Box<dtls::Dtls>),
    Quic(Box<quic::Quic>),
    Dns,
    Mdns,
    Done,
}

impl Stage {
    /// Bytes that wait for the rest of a handshake.
    fn held(&self) -> usize {
        match self {
            Self::SearchingTls(tls) | Self::Tls(tls) => tls.held(),
            Self::Ssh(ssh) => ssh.held(),
            Self::Dtls(dtls) | Self::StunDtls(dtls) => dtls.held(),
            Self::Quic(quic) => quic.held(),
            Self::Searching
            | Self::Http(_)
            | Self::Mail(_)
            | Self::Stun
            | Self::Dns
            | Self::Mdns
            | Self::Done => 0,
        }
    }
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
    /// The category is that of the protocol, whatever the application.
    own_category: bool,
    confidence: Confidence,
    hints: Hints,
}

impl Found {
    fn name(&mut self, master: App) {
        self.master = Some(master);
        self.confidence = Confidence::Payload;
    }

    /// Notes the application inside the protocol.
    fn carries(&mut self, app: App) {
        self.service = Some(app);
        self.category = Some(app.category);
    }

    /// Notes a server's name and names the application that it belongs to.
    fn server(&mut self, name: String, dialect: Dialect) {
        if let Some(app) = services::lookup(&name, dialect == Dialect::Standard) {
            self.service = Some(app).filter(|app| !app.name.is_empty());
            self.category = Some(app.category);
        }
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

    /// The same, but what it puts together has to find its place in `room`.
    #[must_use]
    pub fn within(mut self, room: &Room) -> Self {
        self.share = Share::of(room);
        self
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
        if self.protocol == 0 {
            self.network = addresses::guess(packet.addresses);
        }
        self.protocol = packet.protocol;
        self.ports = packet.ports;
        if !matches!(
            self.stage,
            Stage::Searching | Stage::SearchingTls(_) | Stage::Mail(_)
        ) {
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
            8 => self.only(names::EGP),
            47 => self.only(names::GRE),
            50 => self.only(names::ESP),
            51 => self.only(names::AH),
            58 => self.only(names::ICMPV6),
            89 => self.only(names::IP_OSPF),
            103 => self.only(names::IP_PIM),
            112 => self.only(names::VRRP),
            113 => self.only(names::PGM),
            132 => self.only(names::SCTP),
            _ => {}
        }
        let over = match self.stage {
            Stage::Searching => self.has_given_up(),
            Stage::Mail(_) => self.payloads >= MAX_LINES,
            _ => false,
        };
        if over || !self.share.resize(self.stage.held()) {
            self.stage = Stage::Done;
            self.share.resize(0);
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

    /// The payload told the protocol, and perhaps the application.
    fn detected(&mut self, (master, service): (App, Option<App>)) {
        self.found.name(master);
        if service.is_some() {
            self.found.service = service;
        }
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

    /// Whether so many payloads told nothing that more will not either.
    const fn has_given_up(&self) -> bool {
        let bound = match (self.dialect, self.protocol) {
            (Dialect::Ndpi, 6) => 11,
            (Dialect::Ndpi, _) => 9,
            (Dialect::Standard, _) => 20,
        };
        self.payloads >= bound
    }

    /// Names the flow by its port or address.
    fn guess(&mut self) {
        let found = &mut self.found;
        found.hints.guessed = true;
        if let Stage::Ssh(_) = self.stage {
            found.master = Some(names::SSH);
            found.confidence = Confidence::Partial;
        } else if let Some(app) = ports::guess(self.protocol, self.ports) {
            found.master = Some(app);
            found.confidence = Confidence::Port;
        } else if let Some(app) = self.network {
            found.master = Some(app);
            found.confidence = Confidence::Address;
        } else {
            found.hints.guessed = false;
        }
    }

    /// What was found; with nothing found, what the port or the address is known for.
    pub fn finish(mut self) -> Hints {
        if self.found.master.is_none() {
            self.guess();
            self.found.hints.guessed &= !self.has_given_up();
        }
        let mut hints = self.found.hints;
        let master = self.found.master.unwrap_or(names::UNKNOWN);
        let service = self.found.service;
        hints.application = match service {
            Some(service) => Cow::Owned(format!("{}.{}", master.name, service.name)),
            None => Cow::Borrowed(master.name),
        };
        let own = self.found.own_category.then_some(master.category);
        hints.category = own
            .or(self.found.category)
            .unwrap_or(service.unwrap_or(master).category);
        hints.confidence = self.found.confidence;
        hints
    }
}
