//! How hosts of a local network find each other and introduce themselves: DNS and its kin, DHCP, NetBIOS, SSDP.

use std::net::IpAddr;

use super::super::dhcp::Dhcp;
use super::super::dns::{self, Data, Header, Message, kind};
use super::super::http::{Head, Start};
use super::super::names::{self, App};
use super::super::{Seen, netbios, text};
use super::{Dialect, Dissector, Stage};

/// Packets after a DNS query that may still bring its response.
const DNS_PATIENCE: u8 = 5;
/// Bytes of a DHCP option list that nDPI's callers keep.
const NDPI_DHCP_PRINT: usize = 47;
/// Services of a host that are kept.
const MAX_SERVICES: usize = 8;

impl Dissector {
    /// A message of DNS or multicast DNS; what is not known yet becomes known by the first one.
    pub(super) fn dns(&mut self, app: App, message: &[u8]) {
        let known = self.found.master.is_some();
        if known {
            self.stage = stage(app);
        }
        let Some(header) = Header::parse(message).filter(|h| is_sane(app, *h)) else {
            return;
        };
        if !known {
            self.found.name(app);
            self.found.own_category = true;
            self.known(stage(app), DNS_PATIENCE);
        }
        let name = dns::raw_name(message, &mut { Header::LENGTH }).unwrap_or_default();
        let multicast = app == names::MDNS;
        if header.counts[0] > 0 || multicast && header.counts[1] > 0 {
            let name = match multicast {
                // Names for people: only the case is made one.
                true => text::utf8(&text::tail(&name).to_ascii_lowercase()),
                false => text::domain(&name),
            };
            self.found.server(name, self.dialect);
        }
        if multicast && header.is_response() {
            self.introduction(message);
        }
        if header.is_response() && header.counts[1..].iter().any(|n| *n > 0) {
            self.stage = Stage::Done;
        }
    }

    /// What a host says of itself by multicast DNS: its name, its services.
    fn introduction(&mut self, message: &[u8]) {
        let Some(message) = Message::parse(message) else {
            return;
        };
        let mut services: Vec<&str> = Vec::new();
        for record in &message.records {
            match (record.kind, &record.data) {
                (kind::A | kind::AAAA, _) if self.found.hints.host_name.is_empty() => {
                    self.found.hints.host_name.clone_from(&record.name);
                }
                (kind::PTR, Data::Name(_)) if services.len() < MAX_SERVICES => {
                    let name = record.name.as_str();
                    if name.starts_with('_') && !services.contains(&name) {
                        services.push(name);
                    }
                }
                _ => {}
            }
        }
        if !services.is_empty() {
            self.found.hints.device_hint = services.join(",");
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
        let name = dns::raw_name(message, &mut { Header::LENGTH }).unwrap_or_default();
        self.found.server(text::domain(&name), self.dialect);
        self.only(names::LLMNR);
    }

    /// DHCP for IPv4.
    pub(super) fn dhcp(&mut self, message: &[u8]) {
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
                Dialect::Ndpi => text::head(print.as_bytes(), NDPI_DHCP_PRINT),
                Dialect::Standard => print,
            };
        }
        if let Some(name) = seen.host_name {
            self.found.server(text::host(name), self.dialect);
        }
        self.only(names::DHCP);
    }

    /// The name service of NetBIOS.
    pub(super) fn netbios_name(&mut self, message: &[u8]) {
        if let Some(name) = netbios::name(message) {
            self.found.server(text::host(&name), self.dialect);
            self.only(names::NETBIOS);
        }
    }

    /// The datagram service of NetBIOS, which carries SMB.
    pub(super) fn netbios_datagram(&mut self, packet: &Seen<'_>) {
        let sender: IpAddr = packet.addresses[usize::from(!packet.forward)];
        if let Some(name) = netbios::datagram_source(packet.payload, sender) {
            self.found.server(text::host(&name), self.dialect);
            self.found.service = Some(names::SMB1);
            self.found.own_category = true;
            self.only(names::NETBIOS);
        }
    }

    /// HTTP over UDP.
    pub(super) fn ssdp(&mut self, head: &Head<'_>) {
        if let Start::Request { method, .. } = head.start
            && !matches!(method, "M-SEARCH" | "NOTIFY")
        {
            return;
        }
        if let Some(host) = head.get("host") {
            let end = host.iter().rposition(|b| *b == b':').unwrap_or(host.len());
            self.found.server(text::host(&host[..end]), self.dialect);
        }
        let hints = &mut self.found.hints;
        let agent = head.get("user-agent").unwrap_or_default();
        let told = ["server", "st", "nt"].into_iter().find_map(|n| head.get(n));
        hints.device_hint = text::utf8(told.unwrap_or(agent));
        if self.dialect == Dialect::Standard {
            hints.user_agent = text::head(agent, text::MAX_USER_AGENT);
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
