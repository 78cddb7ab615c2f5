//! Sessions of a peer: handshakes, authentic messages, signs of life.

use std::net::SocketAddr;

use bytes::BytesMut;
use chaff_abi::Nanos;
use gotatun::noise::TunnResult;
use gotatun::noise::errors::WireGuardError;
use gotatun::packet::{Packet, WgData, WgKind};
use rand::Rng;

use super::{ERASE, Handshake, Peer, REJECT_AFTER, Received, Session, Shared};
use crate::bins::Bins;
use crate::config::Config;
use crate::dummy::{self, Kind, Report};
use crate::tunnel::{Class, Datagram};

// WireGuard's times (whitepaper, section 6.1).
const ATTEMPT_TIME: Nanos = Nanos::from_secs(90);
const REKEY_TIMEOUT: Nanos = Nanos::from_secs(5);
const KEEPALIVE: Nanos = Nanos::from_secs(10);
/// An end whose peer asked for cover answers this soon: the peer then notices within seconds when it is gone.
const ANSWER: Nanos = Nanos::from_secs(2);
/// Least silence that means anything: WireGuard's own, and where answers come after [`ANSWER`].
const SILENCE: [Nanos; 2] = [Nanos::from_secs(15), Nanos::from_secs(4)];
/// Most of the random time added to a retry.
const JITTER: u64 = 333_000_000;
/// An end that was asked for cover within this time answers within [`ANSWER`]: its lease still runs.
const ASKED: Nanos = Nanos::from_secs(4);
/// Sessions that are remembered: as many as the session layer keeps.
const MAX_SESSIONS: usize = 8;
/// Bytes of a data message before what is encrypted.
const HEAD: usize = 16;

impl Peer {
    /// Whether there is a session that may be used for sending.
    pub(crate) fn has_session(&self, now: Nanos) -> bool {
        self.current
            .is_some_and(|s| now.since(s.since) < REJECT_AFTER)
    }

    /// Since when a handshake waits for its answer.
    pub(crate) fn waiting_since(&self) -> Option<Nanos> {
        self.handshake.map(|h| h.started)
    }

    /// When an authentic message arrived last.
    pub(crate) fn last_received(&self) -> Option<Nanos> {
        self.last_received
    }

    /// Starts a handshake, or starts it again when the last one got no answer.
    pub(crate) fn initiate(&mut self, now: Nanos, with: &mut Shared<'_>) {
        let Some(to) = self.endpoint else { return };
        self.refresh(now, with.config);
        let Some(packet) = self.tunn.format_handshake_initiation(true) else {
            return;
        };
        with.indices.push(packet.sender_idx.get());
        let retry_at = now + REKEY_TIMEOUT + Nanos(self.rng.random_range(0..=JITTER));
        let started = self.handshake.map_or(now, |h| h.started);
        self.handshake = Some(Handshake { started, retry_at });
        self.answer_by = None;
        self.report.handshakes_out += 1;
        self.push(to, packet.into(), Class::Handshake, with);
    }

    /// Lets the session layer look at its clock: it forgets sessions past their time and notes when new ones began.
    pub(crate) fn refresh(&mut self, now: Nanos, config: &Config) {
        if !config.erase_keys {
            return;
        }
        // With its timers switched off it answers nothing but "expired", which `current` knows by itself.
        let _expired = self.tunn.update_timers();
        self.erase_at = (!self.sessions.is_empty()).then_some(now + ERASE);
    }

    fn push(&mut self, to: SocketAddr, packet: WgKind, class: Class, with: &mut Shared<'_>) {
        let bytes: Packet = packet.into();
        with.out.push_back(Datagram {
            to,
            peer: with.number,
            class,
            came: Nanos::ZERO,
            tag: 0,
            bytes,
        });
    }

    /// Takes a handshake message or cookie reply that was checked, meant for this peer.
    pub(crate) fn handle_handshake(
        &mut self,
        now: Nanos,
        from: SocketAddr,
        message: WgKind,
        with: &mut Shared<'_>,
    ) {
        self.refresh(now, with.config);
        let (initiation, index) = match &message {
            WgKind::HandshakeInit(_) => (true, 0),
            WgKind::HandshakeResp(m) => (false, m.receiver_idx.get()),
            WgKind::CookieReply(_) => {
                if let TunnResult::Err(_) = self.tunn.handle_incoming_packet(message) {
                    self.refuse("cookie");
                }
                return;
            }
            WgKind::Data(_) => return,
        };
        match self.tunn.handle_incoming_packet(message) {
            TunnResult::WriteToNetwork(answer) => {
                self.heard(now, from);
                self.report.sessions += 1;
                if let (true, WgKind::HandshakeResp(response)) = (initiation, &answer) {
                    let index = response.sender_idx.get();
                    with.indices.push(index);
                    self.remember(Session {
                        index,
                        since: now,
                        initiator: false,
                    });
                    self.report.handshakes_out += 1;
                    self.push(from, answer, Class::Handshake, with);
                } else {
                    let session = Session {
                        index,
                        since: now,
                        initiator: true,
                    };
                    self.remember(session);
                    self.current = Some(session);
                    self.handshake = None;
                    self.confirm(now, from, answer, with);
                }
            }
            TunnResult::Err(_) => self.refuse("handshake"),
            TunnResult::Done | TunnResult::WriteToTunnel(_) => {}
        }
    }

    /// Sends the first message of a session that this end initiated: the other end waits for it.
    fn confirm(&mut self, now: Nanos, to: SocketAddr, keepalive: WgKind, with: &mut Shared<'_>) {
        let covers = with.bins.profile() != crate::Profile::Off && !with.paused;
        // The far end learns early what this end understands, so that it never has to send an empty message.
        let introduces = covers && with.config.always_on && !self.speaks;
        if self.flush(now, with) > 0 && !introduces {
            return;
        }
        if !covers {
            self.report.keepalives[0] += 1;
            self.want_keepalive = None;
            self.push(to, keepalive, Class::Keepalive, with);
        } else {
            // As long as any other packet, where an empty one would be a size of its own.
            self.send_dummy(now, 0, 0, with);
        }
    }

    fn remember(&mut self, session: Session) {
        if self.sessions.len() >= MAX_SESSIONS {
            self.sessions.remove(0);
        }
        self.sessions.push(session);
    }

    /// Notes an authentic message.
    fn heard(&mut self, now: Nanos, from: SocketAddr) {
        self.answer_by = None;
        self.last_received = Some(now);
        if self.endpoint != Some(from) {
            self.report.roamed += u64::from(self.endpoint.is_some());
            self.endpoint = Some(from);
        }
    }

    fn refuse(&mut self, why: &'static str) {
        *self.report.refused.entry(why).or_default() += 1;
    }

    /// Takes a data message that names one of this peer's sessions.
    pub(crate) fn handle_data(
        &mut self,
        now: Nanos,
        from: SocketAddr,
        message: WgKind,
        with: &mut Shared<'_>,
    ) -> Received {
        let WgKind::Data(data) = &message else {
            return Received::Nothing;
        };
        let index = data.header.receiver_idx.get();
        let len = HEAD + data.encrypted_encapsulated_packet().len() + WgData::TAG_LEN;
        let session = self.sessions.iter().rev().find(|s| s.index == index);
        let Some(session) = session.copied() else {
            self.refuse("unknown_session");
            return Received::Nothing;
        };
        if now.since(session.since) >= REJECT_AFTER {
            self.refuse("expired");
            return Received::Nothing;
        }
        let plain = match self.tunn.handle_incoming_packet(message) {
            TunnResult::WriteToTunnel(plain) => plain,
            TunnResult::Err(e) => {
                self.refuse(match e {
                    WireGuardError::DuplicateCounter | WireGuardError::InvalidCounter => "replay",
                    WireGuardError::InvalidAeadTag => "forged",
                    _ => "session",
                });
                return Received::Nothing;
            }
            TunnResult::Done | TunnResult::WriteToNetwork(_) => return Received::Nothing,
        };
        self.heard(now, from);
        self.downlink.earn(len);
        let newer = self
            .current
            .is_none_or(|c| c.index != index && session.since >= c.since);
        if newer {
            self.current = Some(session);
            if !session.initiator {
                // The other end began a session: an own handshake under way has no purpose any more.
                self.handshake = None;
            }
            self.flush(now, with);
        }
        let old = now.since(session.since) >= REJECT_AFTER - KEEPALIVE - REKEY_TIMEOUT;
        if session.initiator && old && self.handshake.is_none() {
            self.initiate(now, with);
        }
        if plain.is_empty() {
            self.report.keepalives[1] += 1;
            return Received::Nothing;
        }
        self.want_keepalive.get_or_insert(now);
        self.received.messages += 1;
        self.received.bytes += plain.len() as u64;
        self.received.at_top += u64::from(plain.len() == usize::from(with.bins.mtu()));
        if plain.first() != Some(&dummy::MARKER) {
            return Received::Packet(plain);
        }
        self.received.cover += 1;
        self.report.cover_in.add(plain.len());
        match dummy::decode(&plain) {
            Ok(d) => {
                self.speaks = true;
                match d.kind {
                    Kind::Cover => {}
                    Kind::Schedule(entries) => self.downlink.accept(now, &entries),
                    Kind::Report(r) => self.compare(r, with.bins),
                }
            }
            Err(dummy::DummyError::Layout { .. }) => self.refuse("foreign_cover"),
            Err(_) => self.refuse("malformed_cover"),
        }
        Received::Nothing
    }

    /// Learns from a report what was lost on the way there.
    fn compare(&mut self, report: Report, bins: &Bins) {
        let sent = self.sent;
        if let Some((before, then)) = self.compared {
            let arrived = report.messages.saturating_sub(before.messages);
            let left = sent.messages.saturating_sub(then.messages);
            if left > 0 && report.messages >= before.messages {
                let loss = (1.0 - arrived as f64 / left as f64).clamp(0.0, 1.0);
                let smooth = self.report.loss.map_or(loss, |l| l + (loss - l) / 4.0);
                self.report.loss = Some(smooth);
            }
            let top_left = sent.at_top.saturating_sub(then.at_top);
            let top_arrived = report.at_top.saturating_sub(before.at_top);
            // Smaller ones arrive, none of the largest does: the path is narrower than the MTU. Only while both ends
            // mean the same by "largest".
            if top_left >= 8 && top_arrived == 0 && arrived >= 4 && report.top == bins.mtu() {
                self.black_hole = true;
            }
        }
        self.compared = Some((report, sent));
    }

    /// Time after `since` in which an answer is due from here.
    pub(super) fn keepalive(&self, since: Nanos) -> Nanos {
        if self.speaks && self.downlink.is_leased(since) {
            ANSWER
        } else {
            KEEPALIVE
        }
    }

    /// Notes that an answer is due.
    pub(super) fn expect_answer(&mut self, now: Nanos, config: &Config) {
        let asked = self.speaks && self.asked_at.is_some_and(|t| now.since(t) < ASKED);
        let by = now + config.silence.max(SILENCE[usize::from(asked)]);
        self.answer_by = Some(self.answer_by.map_or(by, |t| t.min(by)));
    }

    /// Does what is due of handshakes, keys and signs of life.
    pub(super) fn serve_sessions(&mut self, now: Nanos, with: &mut Shared<'_>) {
        if self.erase_at.is_some_and(|t| now >= t) {
            self.sessions
                .retain(|s| now.since(s.since) < REJECT_AFTER + ERASE);
            self.refresh(now, with.config);
        }
        if self.current.is_some() && !self.has_session(now) {
            self.current = None;
            self.want_keepalive = None;
        }
        if let Some(h) = self.handshake.filter(|h| now >= h.retry_at) {
            if now.since(h.started) >= ATTEMPT_TIME {
                self.handshake = None;
                let n = self.waiting.len() as u64;
                self.waiting.clear();
                *self.report.real_dropped.entry("no_session").or_default() += n;
            } else {
                self.initiate(now, with);
            }
        }
        if self.answer_by.is_some_and(|t| now >= t) {
            self.answer_by = None;
            if self.handshake.is_none() {
                self.initiate(now, with);
            }
        }
        if with.config.always_on && self.handshake.is_none() && !self.has_session(now) {
            self.initiate(now, with);
        }
        if self
            .want_keepalive
            .is_some_and(|t| now >= t + self.keepalive(t))
        {
            self.keep_alive(now, with);
        }
    }

    fn keep_alive(&mut self, now: Nanos, with: &mut Shared<'_>) {
        self.want_keepalive = None;
        let Some(to) = self.endpoint.filter(|_| self.has_session(now)) else {
            return;
        };
        let dummies = self.speaks || with.config.always_on;
        if dummies && !with.paused && with.bins.profile() != crate::Profile::Off {
            self.report_at = now;
            self.send_dummy(now, 0, 0, with);
            return;
        }
        if let Ok(m) = self
            .tunn
            .encapsulate_with_session(Packet::from_bytes(BytesMut::new()))
        {
            self.report.keepalives[0] += 1;
            self.push(to, m.into(), Class::Keepalive, with);
        }
    }
}
