//! Protocols over TCP.

use super::super::detect::{self, Payload};
use super::super::ssh::is_banner;
use super::super::{Seen, mqtt, names, text};
use super::http::Http;
use super::mail::{self, Mail, Step};
use super::ssh::Ssh;
use super::tls::Tls;
use super::{Dialect, Dissector, Stage, Verdict, http, ssh, tls};

/// Payloads in which protocols are searched for that show in one.
pub(super) const MAX_SEARCHED: u16 = 4;

/// Payloads of which one may be the greeting of a server for mail or files.
const MAX_UNTIL_GREETING: u16 = 3;

impl Dissector {
    pub(super) fn tcp(&mut self, packet: &Seen<'_>) {
        if packet.payload.is_empty() || self.is_repeated(packet) {
            return;
        }
        let first = self.payloads == 0;
        self.payloads = self.payloads.saturating_add(1);
        let stage = std::mem::take(&mut self.stage);
        match stage {
            Stage::Searching if first => self.first_segment(packet),
            Stage::Searching => self.search_segment(packet),
            Stage::Mail(state) => self.mail(state, packet),
            Stage::SearchingTls(state) | Stage::Tls(state) => self.tls(state, packet),
            Stage::Http(mut state) => {
                let verdict = state.packet(self.dialect, packet, &mut self.found);
                self.go_on(verdict, Stage::Http(state));
            }
            Stage::Ssh(state) => self.ssh(state, packet),
            Stage::Dns => self.dns_tcp(packet),
            stage => self.stage = stage,
        }
    }

    pub(super) fn go_on(&mut self, verdict: Verdict, stage: Stage) {
        self.stage = match verdict {
            Verdict::No | Verdict::Finished => Stage::Done,
            Verdict::Perhaps | Verdict::Mine => stage,
        };
    }

    /// Whether the side sent what the segment begins with before.
    fn is_repeated(&mut self, packet: &Seen<'_>) -> bool {
        let next = &mut self.next[usize::from(!packet.forward)];
        let end = packet
            .tcp_sequence
            .wrapping_add(packet.payload.len() as u32);
        let behind = next.is_some_and(|n| (packet.tcp_sequence.wrapping_sub(n) as i32) < 0);
        if next.is_none_or(|n| (end.wrapping_sub(n) as i32) > 0) {
            *next = Some(end);
        }
        behind && self.dialect == Dialect::Ndpi
    }

    fn first_segment(&mut self, packet: &Seen<'_>) {
        if packet.ports.iter().any(|p| matches!(p, 53 | 5353 | 5355)) {
            self.dns_tcp(packet);
            if self.found.master.is_some() {
                return;
            }
        }
        if let Some((state, verdict)) = Http::first(self.dialect, packet, &mut self.found) {
            self.known(Stage::Done, http::PATIENCE);
            self.go_on(verdict, Stage::Http(state));
        } else if is_banner(packet.payload) {
            self.ssh(Box::default(), packet);
        } else if mail::may_begin(packet.payload) {
            self.mail(Box::default(), packet);
        } else {
            if tls::may_begin(packet.payload) {
                self.tls(Box::default(), packet);
            }
            if let Stage::Searching = self.stage {
                self.search_segment(packet);
            }
        }
    }

    /// Looks for protocols that show in one of the first segments.
    fn search_segment(&mut self, packet: &Seen<'_>) {
        if self.payloads > MAX_SEARCHED {
            return;
        }
        if self.payloads <= MAX_UNTIL_GREETING && mail::is_greeting(packet.payload) {
            self.mail(Box::default(), packet);
            return;
        }
        let payload = Payload {
            bytes: packet.payload,
            ports: packet.ports,
        };
        if let Some(found) = detect::tcp(&payload) {
            if found.0 == names::MQTT {
                let packet = mqtt::Packet::parse(packet.payload);
                let client = packet.and_then(|packet| mqtt::client_id(&packet));
                self.found.hints.device_hint = text::utf8(&client.unwrap_or_default());
            }
            self.detected(found);
        } else if let Some(name) = whois(packet) {
            self.found.server(text::host(name), self.dialect);
            self.found.service = None;
            self.found.own_category = true;
            self.detected((names::WHOIS, None));
        }
    }

    fn mail(&mut self, mut state: Box<Mail>, packet: &Seen<'_>) {
        match state.payload(self.dialect, packet.payload, &mut self.found) {
            Step::More => self.stage = Stage::Mail(state),
            Step::Is(app) => {
                self.found.own_category = true;
                self.only(app);
            }
            Step::Tls(app) => {
                self.found.own_category = true;
                self.found.name(app);
                let tls =
                    Tls::after_plain_text(app != names::FTPS || self.dialect == Dialect::Standard);
                self.known(Stage::Tls(Box::new(tls)), tls::PATIENCE);
            }
        }
    }

    fn tls(&mut self, mut state: Box<Tls>, packet: &Seen<'_>) {
        let named = self.found.master.is_some();
        match state.packet(self.dialect, packet, &mut self.found) {
            Verdict::No => {}
            Verdict::Perhaps => self.stage = Stage::SearchingTls(state),
            Verdict::Mine if !named => self.known(Stage::Tls(state), tls::PATIENCE),
            Verdict::Mine => self.stage = Stage::Tls(state),
            Verdict::Finished => self.stage = Stage::Done,
        }
    }

    fn ssh(&mut self, mut state: Box<Ssh>, packet: &Seen<'_>) {
        let named = self.found.master.is_some();
        let verdict = state.packet(self.dialect, packet, &mut self.found);
        if !named {
            self.known(Stage::Done, ssh::PATIENCE);
        }
        self.go_on(verdict, Stage::Ssh(state));
    }

    /// DNS with its length before it; the length is not trusted, as a message may be cut.
    fn dns_tcp(&mut self, packet: &Seen<'_>) {
        let Some(message) = packet.payload.get(2..) else {
            return;
        };
        match packet.ports.contains(&5355) {
            true => self.llmnr(message),
            false => self.dns(names::DNS, message),
        }
    }
}

/// The question of a WHOIS client (RFC 3912).
fn whois<'a>(packet: &Seen<'a>) -> Option<&'a [u8]> {
    if packet.ports[1] != 43 || !packet.forward {
        return None;
    }
    let line = packet.payload.strip_suffix(b"\r\n")?;
    let text = line.iter().all(|b| (b' '..=b'~').contains(b));
    (text && !line.is_empty()).then_some(line)
}
