//! Protocols over UDP.

use std::net::IpAddr;

use super::super::dhcp::Dhcp;
use super::super::dns::{self, Header};
use super::super::http::{Head, Start};
use super::super::names::{self, App};
use super::super::netbios;
use super::super::{Seen, text};
use super::dtls::Dtls;
use super::quic::Quic;
use super::{Dialect, Dissector, Stage, Verdict, quic};

/// Packets after a DNS query that may still bring its response.
const DNS_PATIENCE: u8 = 5;
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
        }
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
                self.found.server(text::host(&name));
                self.only(names::NETBIOS);
            }
        } else if has(138) {
            if let Some(name) = netbios::datagram_source(payload, sender(packet)) {
                self.found.server(text::host(&name));
                self.found.service = Some(names::SMB1);
                self.found.category = Some(names::NETBIOS.category);
                self.only(names::NETBIOS);
            }
        } else if let Some(head) = Head::parse(payload) {
            self.ssdp(&head);
        } else {
            self.dtls(Box::default(), packet);
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
            self.known(stage(app), DNS_PATIENCE);
        }
        let mut at = Header::LENGTH;
        let name = match app == names::MDNS {
            true => dns::raw_name(message, &mut at).map(|n| mdns_text(&n)),
            false => dns::raw_name(message, &mut at).map(|n| text::domain(&n)),
        };
        if header.counts[0] > 0 || app == names::MDNS && header.counts[1] > 0 {
            self.found.server(name.unwrap_or_default());
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
        self.found.server(text::domain(&name));
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
            self.found.server(text::host(name));
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
            self.found.server(text::host(&host[..end]));
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
