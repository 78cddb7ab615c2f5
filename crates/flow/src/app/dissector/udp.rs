//! Protocols over UDP.

use std::net::IpAddr;

use super::super::detect::{self, Payload};
use super::super::dhcp::Dhcp;
use super::super::dns::{self, Header};
use super::super::http::{Head, Start};
use super::super::names::{self, App};
use super::super::netbios;
use super::super::stun;
use super::super::{Seen, text};
use super::dtls::Dtls;
use super::quic::Quic;
use super::tcp::MAX_SEARCHED;
use super::{Dialect, Dissector, Media, Stage, Verdict, dtls, quic};

/// Packets after a DNS query that may still bring its response.
const DNS_PATIENCE: u8 = 5;
/// Packets after the first message of STUN that may still bring a call.
const STUN_PATIENCE: u8 = 6;
/// Packets after the ClientHello of a call that may still bring the ServerHello and media.
const STUN_DTLS_PATIENCE: u8 = 15;
/// Payloads of RTP in a row that tell.
const RTP_ROW: u8 = 3;
/// Bytes of a DHCP option list that are kept.
const MAX_DHCP_PRINT: usize = 47;

impl Dissector {
    pub(super) fn udp(&mut self, packet: &Seen<'_>) {
        let first = self.payloads == 0;
        self.payloads = self.payloads.saturating_add(1);
        let stage = std::mem::take(&mut self.stage);
        match stage {
            Stage::Searching => self.search_datagram(packet, first),
            Stage::Dtls(state) => self.dtls(state, packet),
            Stage::Stun => self.after_stun(packet),
            Stage::StunDtls(state) => self.stun_dtls(state, packet),
            Stage::Quic(mut state) => {
                let verdict = state.packet(self.dialect, packet, &mut self.found);
                self.go_on(verdict, Stage::Quic(state));
            }
            Stage::Dns => self.dns(names::DNS, packet.payload, Header::parse(packet.payload)),
            Stage::Mdns => self.dns(names::MDNS, packet.payload, Header::parse(packet.payload)),
            stage => self.stage = stage,
        }
    }

    fn search_datagram(&mut self, packet: &Seen<'_>, first: bool) {
        if let Some((state, verdict)) = Quic::first(self.dialect, packet, &mut self.found) {
            self.known(Stage::Done, quic::PATIENCE);
            self.go_on(verdict, Stage::Quic(Box::new(state)));
        } else if first {
            self.first_datagram(packet);
        } else {
            self.search_more(packet);
        }
    }

    /// Looks for protocols that show in one of the first datagrams, or in two of them.
    fn search_more(&mut self, packet: &Seen<'_>) {
        if self.payloads > MAX_SEARCHED {
            return;
        }
        let payload = Payload {
            bytes: packet.payload,
            ports: packet.ports,
        };
        if let Some(found) = detect::udp(&payload) {
            if found.0 == names::STUN {
                self.stun(packet);
                return;
            }
            let named = match found.0 {
                names::MGCP => mgcp_endpoint(packet.payload),
                names::COLLECTD => collectd_host(packet.payload),
                _ => None,
            };
            if let Some(name) = named {
                self.found.server(text::host(name), self.dialect);
            }
            self.detected(found);
            return;
        }
        self.rtp(packet);
    }

    /// RTP shows when several payloads of one type follow each other.
    fn rtp(&mut self, packet: &Seen<'_>) {
        let kind = stun::rtp_kind(packet.payload);
        self.media = kind.map(|kind| match self.media {
            Some(media) if media.kind == kind => Media {
                row: media.row + 1,
                ..media
            },
            _ => Media { kind, row: 1 },
        });
        if self.media.is_some_and(|media| media.row >= RTP_ROW) {
            self.detected((names::RTP, None));
        }
    }

    /// The first message of STUN; a call may follow in the same flow.
    fn stun(&mut self, packet: &Seen<'_>) {
        self.found.name(names::STUN);
        self.found.own_category = true;
        self.found.service = self.network.and_then(call_by_network);
        self.realm(packet.payload);
        self.known(Stage::Stun, STUN_PATIENCE);
    }

    /// The relay's domain names the server, and perhaps the application.
    fn realm(&mut self, message: &[u8]) {
        if let Some(realm) =
            stun::realm(message).filter(|_| self.found.hints.server_name.is_empty())
        {
            let before = self.found.service;
            self.found.server(text::host(realm), self.dialect);
            self.found.service = self.found.service.and_then(call_by_domain).or(before);
        }
        if self.found.service.is_some() {
            self.found.own_category = false;
            self.found.category = Some("VoIP");
        }
    }

    /// A later payload of a flow with STUN.
    fn after_stun(&mut self, packet: &Seen<'_>) {
        let payload = stun::inner(packet.payload);
        let inside = Seen {
            payload,
            payload_len: payload.len(),
            ..*packet
        };
        self.stage = Stage::Stun;
        if stun::is_message(payload, false) {
            self.realm(payload);
            return;
        }
        if stun::rtp_kind(payload).is_some() && self.found.service.is_none() {
            self.found.own_category = false;
            self.found.carries(names::RTP);
        } else if dtls::is_start(payload) {
            let service = self.found.service.take();
            let mut state = Box::<Dtls>::default();
            self.found.master = None;
            if state.packet(self.dialect, &inside, &mut self.found) == Verdict::No {
                self.found.name(names::STUN);
                self.found.service = service;
                return;
            }
            if service == Some(names::RTP) {
                self.found.carries(names::SRTP);
            } else if service.is_none() {
                self.found.own_category = false;
                self.found.category = Some(names::STUN.category);
            }
            self.known(Stage::StunDtls(state), STUN_DTLS_PATIENCE);
        }
    }

    /// A later payload of a flow with STUN and DTLS.
    fn stun_dtls(&mut self, mut state: Box<Dtls>, packet: &Seen<'_>) {
        let payload = stun::inner(packet.payload);
        let inside = Seen {
            payload,
            payload_len: payload.len(),
            ..*packet
        };
        if stun::rtp_kind(payload).is_some() {
            self.found.carries(names::SRTP);
            self.stage = Stage::Done;
            return;
        }
        if dtls::is_start(payload) {
            state.packet(self.dialect, &inside, &mut self.found);
        }
        self.stage = Stage::StunDtls(state);
    }

    fn dtls(&mut self, mut state: Box<Dtls>, packet: &Seen<'_>) {
        match state.packet(self.dialect, packet, &mut self.found) {
            Verdict::No => {}
            Verdict::Finished => self.stage = Stage::Done,
            Verdict::Perhaps | Verdict::Mine => self.known(Stage::Dtls(state), u8::MAX),
        }
    }

    fn first_datagram(&mut self, packet: &Seen<'_>) {
        let has = |port| packet.ports.contains(&port);
        let payload = packet.payload;
        if has(53) || has(5353) || has(5355) {
            match () {
                () if has(5353) => self.dns(names::MDNS, payload, Header::parse(payload)),
                () if has(5355) => self.llmnr(payload),
                () => self.dns(names::DNS, payload, Header::parse(payload)),
            }
        } else if packet.ports.iter().all(|p| matches!(p, 67 | 68)) {
            self.dhcp(payload);
        } else if packet.ports[usize::from(packet.forward)] == 137 {
            if let Some(name) = netbios::name(payload) {
                self.found.server(text::host(&name), self.dialect);
                self.only(names::NETBIOS);
            }
        } else if has(138) {
            if let Some(name) = netbios::datagram_source(payload, sender(packet)) {
                self.found.server(text::host(&name), self.dialect);
                self.found.service = Some(names::SMB1);
                self.found.own_category = true;
                self.only(names::NETBIOS);
            }
        } else if let Some(head) = Head::parse(payload) {
            self.ssdp(&head);
        } else {
            self.dtls(Box::default(), packet);
        }
        if let Stage::Searching = self.stage {
            self.search_more(packet);
        }
    }

    /// A message of DNS or multicast DNS; what is not known yet becomes known by the first one.
    pub(super) fn dns(&mut self, app: App, message: &[u8], header: Option<Header>) {
        let known = self.found.master.is_some();
        if known {
            self.stage = stage(app);
        }
        let Some(header) = header.filter(|h| is_sane(app, *h)) else {
            return;
        };
        if !known {
            self.found.name(app);
            self.found.own_category = true;
            self.known(stage(app), DNS_PATIENCE);
        }
        let mut at = Header::LENGTH;
        let name = match app == names::MDNS {
            true => dns::raw_name(message, &mut at).map(|n| mdns_text(&n)),
            false => dns::raw_name(message, &mut at).map(|n| text::domain(&n)),
        };
        if header.counts[0] > 0 || app == names::MDNS && header.counts[1] > 0 {
            self.found.server(name.unwrap_or_default(), self.dialect);
        }
        if header.is_response() && header.counts[1..].iter().any(|n| *n > 0) {
            self.stage = Stage::Done;
        }
    }

    /// A question of LLMNR.
    pub(super) fn llmnr(&mut self, message: &[u8]) {
        let Some(header) = Header::parse(message) else {
            return;
        };
        if header.is_response() || header.counts[0] == 0 {
            return;
        }
        let mut at = Header::LENGTH;
        let name = dns::raw_name(message, &mut at).unwrap_or_default();
        self.found.server(text::domain(&name), self.dialect);
        self.only(names::LLMNR);
    }

    fn dhcp(&mut self, message: &[u8]) {
        let Some(dhcp) = Dhcp::parse(message) else {
            return;
        };
        if dhcp.message_type.is_none_or(|kind| kind > 8) {
            return;
        }
        let hints = &mut self.found.hints;
        hints.device_hint = text::utf8(dhcp.vendor_class.unwrap_or_default());
        hints.host_name = text::utf8(dhcp.host_name.unwrap_or_default());
        let seen = match self.dialect {
            Dialect::Ndpi => dhcp.after_message_type(),
            Dialect::Standard => dhcp,
        };
        if let Some(print) = seen.fingerprint() {
            hints.client_fingerprint = match self.dialect {
                Dialect::Ndpi => text::head(print.as_bytes(), MAX_DHCP_PRINT),
                Dialect::Standard => print,
            };
        }
        if let Some(name) = seen.host_name {
            self.found.server(text::host(name), self.dialect);
        }
        self.only(names::DHCP);
    }

    fn ssdp(&mut self, head: &Head<'_>) {
        if let Start::Request { method, .. } = head.start
            && !matches!(method, "M-SEARCH" | "NOTIFY")
        {
            return;
        }
        if let Some(host) = head.get("host") {
            let end = host.iter().rposition(|b| *b == b':').unwrap_or(host.len());
            self.found.server(text::host(&host[..end]), self.dialect);
        }
        for name in ["server", "st", "nt"] {
            if let Some(value) = head.get(name) {
                self.found.hints.device_hint = text::utf8(value);
                break;
            }
        }
        if let Some(agent) = head.get("user-agent") {
            self.found.hints.device_hint = text::utf8(agent);
        }
        self.only(names::SSDP);
    }
}

/// The host in the first line of an MGCP command (RFC 3435): what follows `@`.
fn mgcp_endpoint(message: &[u8]) -> Option<&[u8]> {
    let at = message.iter().take(128).position(|b| *b == b'@')?;
    message[at + 1..].split(|b| b.is_ascii_whitespace()).next()
}

/// The first part of a message of collectd: its host.
fn collectd_host(message: &[u8]) -> Option<&[u8]> {
    let length = u16::from_be_bytes([*message.get(2)?, *message.get(3)?]);
    message.get(4..usize::from(length))
}

/// The application of a call by the domain of its relay.
fn call_by_domain(service: App) -> Option<App> {
    let name = match service.name {
        "Facebook" => "FacebookVoip",
        "Signal" => "SignalVoip",
        "Telegram" => "TelegramVoip",
        "Google" => "GoogleCall",
        _ => return None,
    };
    let category = "VoIP";
    Some(App { name, category })
}

/// The application of a call by the network of its relay.
fn call_by_network(network: App) -> Option<App> {
    let name = match network.name {
        "Google" => "GoogleCall",
        "Teams" => "TeamsCall",
        _ => return None,
    };
    let category = "VoIP";
    Some(App { name, category })
}

/// Address of the side that sent the packet.
fn sender(packet: &Seen<'_>) -> IpAddr {
    packet.addresses[usize::from(!packet.forward)]
}

fn stage(app: App) -> Stage {
    match app == names::MDNS {
        true => Stage::Mdns,
        false => Stage::Dns,
    }
}

/// Whether the numbers of records are those of a message; those of other protocols on the port rarely are.
fn is_sane(app: App, header: Header) -> bool {
    const MAX: u16 = 48;
    let [questions, ..] = header.counts;
    header.counts.iter().take(3).all(|n| *n <= MAX)
        && (questions > 0 || !header.is_response() || app == names::MDNS)
}

/// Names of multicast DNS are for people: only the case is made one.
fn mdns_text(name: &[u8]) -> String {
    text::utf8(&text::tail(name).to_ascii_lowercase())
}
