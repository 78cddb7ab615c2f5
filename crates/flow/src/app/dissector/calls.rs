//! Calls: media alone, or STUN first and then DTLS and media in the same flow.

use super::super::names::{self, App};
use super::super::{Seen, stun, text};
use super::dtls::Dtls;
use super::{Dissector, Stage, Verdict, dtls};

/// Packets after the first message of STUN that may still bring a call.
const STUN_PATIENCE: u8 = 6;
/// Packets after the ClientHello of a call that may still bring the ServerHello and media.
const DTLS_PATIENCE: u8 = 15;
/// Payloads of RTP in a row that tell.
const RTP_ROW: u8 = 3;
const VOIP: &str = "VoIP";

/// Payloads that may be RTP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Media {
    /// Payload type.
    kind: u8,
    /// How many came in a row.
    row: u8,
}

impl Dissector {
    /// RTP shows when several payloads of one type follow each other.
    pub(super) fn rtp(&mut self, packet: &Seen<'_>) {
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
    pub(super) fn stun(&mut self, packet: &Seen<'_>) {
        self.found.name(names::STUN);
        self.found.own_category = true;
        self.found.service = self.network.and_then(call_by_network);
        self.realm(packet.payload);
        self.known(Stage::Stun, STUN_PATIENCE);
    }

    /// The relay's domain names the server, and perhaps the application.
    fn realm(&mut self, message: &[u8]) {
        let unnamed = self.found.hints.server_name.is_empty();
        if let Some(realm) = stun::realm(message).filter(|_| unnamed) {
            let before = self.found.service;
            self.found.server(text::host(realm), self.dialect);
            self.found.service = self.found.service.and_then(call_by_domain).or(before);
        }
        if self.found.service.is_some() {
            self.found.own_category = false;
            self.found.category = Some(VOIP);
        }
    }

    /// A later payload of a flow with STUN.
    pub(super) fn after_stun(&mut self, packet: &Seen<'_>) {
        let inside = relayed(packet);
        self.stage = Stage::Stun;
        if stun::is_message(inside.payload, false) {
            self.realm(inside.payload);
        } else if stun::rtp_kind(inside.payload).is_some() && self.found.service.is_none() {
            self.found.own_category = false;
            self.found.carries(names::RTP);
        } else if dtls::is_start(inside.payload) {
            self.call(&inside);
        }
    }

    /// The first record of DTLS after STUN.
    fn call(&mut self, inside: &Seen<'_>) {
        let service = self.found.service.take();
        let mut state = Box::<Dtls>::default();
        self.found.master = None;
        if state.packet(self.dialect, inside, &mut self.found) == Verdict::No {
            self.found.name(names::STUN);
            self.found.service = service;
            return;
        }
        match service {
            Some(names::RTP) => self.found.carries(names::SRTP),
            Some(_) => {}
            None => {
                self.found.own_category = false;
                self.found.category = Some(names::STUN.category);
            }
        }
        self.known(Stage::StunDtls(state), DTLS_PATIENCE);
    }

    /// A later payload of a flow with STUN and DTLS.
    pub(super) fn after_call(&mut self, mut state: Box<Dtls>, packet: &Seen<'_>) {
        let inside = relayed(packet);
        if stun::rtp_kind(inside.payload).is_some() {
            self.found.carries(names::SRTP);
            self.stage = Stage::Done;
            return;
        }
        if dtls::is_start(inside.payload) {
            state.packet(self.dialect, &inside, &mut self.found);
        }
        self.stage = Stage::StunDtls(state);
    }
}

/// The packet with what a relay carries as its payload.
fn relayed<'a>(packet: &Seen<'a>) -> Seen<'a> {
    let payload = stun::inner(packet.payload);
    Seen {
        payload,
        payload_len: payload.len(),
        ..*packet
    }
}

/// The application of a call by the domain of its relay.
fn call_by_domain(service: App) -> Option<App> {
    let name = match service.name {
        "Facebook" => "FacebookVoip",
        "Google" => "GoogleCall",
        "Signal" => "SignalVoip",
        "Telegram" => "TelegramVoip",
        _ => return None,
    };
    let category = VOIP;
    Some(App { name, category })
}

/// The application of a call by the network of its relay.
fn call_by_network(network: App) -> Option<App> {
    let name = match network.name {
        "Google" => "GoogleCall",
        "Teams" => "TeamsCall",
        _ => return None,
    };
    let category = VOIP;
    Some(App { name, category })
}
