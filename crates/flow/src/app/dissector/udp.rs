//! Protocols over UDP.

use super::super::dhcp::Dhcp;
use super::super::dns::{self, Header};
use super::super::http::{Head, Start};
use super::super::names::{self, App};
use super::super::netbios;
use super::super::{Seen, text};
use super::{Dissector, Stage};

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
            Stage::Searching if first => self.first_datagram(packet),
            Stage::Searching => {}
            Stage::Dns => self.dns(names::DNS, packet.payload, Header::parse(packet.payload)),
            Stage::Mdns => self.dns(names::MDNS, packet.payload, Header::parse(packet.payload)),
            stage => self.stage = stage,
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
        } else if has(137) {
            if let Some(name) = netbios::name(payload) {
                self.found.server(text::host(&name));
                self.only(names::NETBIOS);
            }
        } else if let Some(head) = Head::parse(payload) {
            self.ssdp(&head);
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
        if let Some(print) = dhcp.fingerprint() {
            hints.client_fingerprint = text::head(print.as_bytes(), MAX_DHCP_PRINT);
        }
        if let Some(name) = dhcp.vendor_class {
            hints.device_hint = text::utf8(name);
        }
        if let Some(name) = dhcp.host_name {
            hints.host_name = text::utf8(name);
            self.found.server(text::host(name));
        }
        self.only(names::DHCP);
    }

    fn ssdp(&mut self, head: &Head<'_>) {
        match head.start {
            Start::Request { method, .. } if matches!(method, "M-SEARCH" | "NOTIFY") => {}
            Start::Response(_) => {}
            Start::Request { .. } => return,
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
