//! Protocols over UDP.

use super::super::detect::{self, Payload};
use super::super::http::Head;
use super::super::names::{self, App};
use super::super::quic::{Kind, Long};
use super::super::{Seen, coap, text};
use super::dtls::{self, Dtls};
use super::quic::Quic;
use super::tcp::MAX_SEARCHED;
use super::{Dialect, Dissector, Stage, Verdict, quic};

impl Dissector {
    pub(super) fn udp(&mut self, packet: &Seen<'_>) {
        if packet.payload.is_empty() {
            return;
        }
        let first = self.payloads == 0;
        self.payloads = self.payloads.saturating_add(1);
        let stage = std::mem::take(&mut self.stage);
        match stage {
            Stage::Searching if first => self.first_datagram(packet),
            Stage::Searching => self.search_datagram(packet),
            Stage::Dtls(state) => self.dtls(state, packet),
            Stage::Stun => self.after_stun(packet),
            Stage::StunDtls(state) => self.after_call(state, packet),
            Stage::Quic(mut state) => {
                let verdict = state.packet(self.dialect, packet, &mut self.found);
                self.go_on(verdict, Stage::Quic(state));
            }
            Stage::Dns => self.dns(names::DNS, packet.payload),
            Stage::Mdns => self.dns(names::MDNS, packet.payload),
            stage => self.stage = stage,
        }
    }

    /// Looks for what must show in the flow's first datagram, then for the rest.
    fn first_datagram(&mut self, packet: &Seen<'_>) {
        let has = |port| packet.ports.contains(&port);
        let payload = packet.payload;
        if has(5353) {
            self.dns(names::MDNS, payload);
        } else if has(5355) {
            self.llmnr(payload);
        } else if has(53) {
            self.dns(names::DNS, payload);
        } else if packet.ports.iter().all(|p| matches!(p, 67 | 68)) {
            self.dhcp(payload);
        } else if packet.ports[usize::from(packet.forward)] == 137 {
            self.netbios_name(payload);
        } else if has(138) {
            self.netbios_datagram(packet);
        } else if let Some(head) = Head::parse(payload) {
            self.ssdp(&head);
        } else if dtls::is_start(payload) {
            self.dtls(Box::default(), packet);
        }
        if let Stage::Searching = self.stage {
            self.search_datagram(packet);
        }
    }

    fn dtls(&mut self, mut state: Box<Dtls>, packet: &Seen<'_>) {
        match state.packet(self.dialect, packet, &mut self.found) {
            Verdict::No => {}
            Verdict::Finished => self.stage = Stage::Done,
            Verdict::Perhaps | Verdict::Mine => self.known(Stage::Dtls(state), u8::MAX),
        }
    }

    /// Looks for protocols that show in one of the first datagrams, or in a few of them.
    fn search_datagram(&mut self, packet: &Seen<'_>) {
        let later = self.payloads == 1 && is_later_quic(packet.payload);
        self.no_quic |= later && self.dialect == Dialect::Ndpi;
        if !self.no_quic
            && let Some((state, verdict)) = Quic::first(self.dialect, packet, &mut self.found)
        {
            self.known(Stage::Done, quic::PATIENCE);
            self.go_on(verdict, Stage::Quic(Box::new(state)));
            return;
        }
        if self.payloads > MAX_SEARCHED {
            return;
        }
        let payload = Payload {
            bytes: packet.payload,
            ports: packet.ports,
        };
        match detect::udp(&payload) {
            Some((names::STUN, _)) => self.stun(packet),
            Some(found) => {
                self.told_by(found.0, packet.payload);
                self.detected(found);
            }
            None => self.rtp(packet),
        }
    }

    /// Notes what else a detected protocol tells.
    fn told_by(&mut self, app: App, payload: &[u8]) {
        let host = match app {
            names::MGCP => mgcp_endpoint(payload),
            names::COLLECTD => collectd_host(payload),
            _ => None,
        };
        if let Some(host) = host {
            self.found.server(text::host(host), self.dialect);
        }
        if app == names::COAP
            && let Some(request) = coap::Request::parse(payload)
        {
            self.found.hints.device_hint = text::utf8(&request.path);
            if let Some(host) = request.host
                && self.dialect == Dialect::Standard
            {
                self.found.server(text::host(host), self.dialect);
            }
        }
    }
}

/// Whether a datagram is from the middle of a QUIC connection.
fn is_later_quic(datagram: &[u8]) -> bool {
    Long::kind(datagram).is_some_and(|kind| matches!(kind, Kind::Handshake | Kind::Retry))
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
