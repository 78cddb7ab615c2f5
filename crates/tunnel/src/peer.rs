//! One peer: sessions and their timers, real packets, cover both ways.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use chaff_abi::{Dir, Nanos};
use gotatun::noise::{TimerParams, Tunn};
use gotatun::packet::{Packet, WgKind};
use rand::Rng;
use rand_chacha::ChaCha20Rng;

use chaff_cover::{Envelope, ReleaseClock, Waiting};

use crate::bins::{Bins, Mix};
use crate::budget::Budget;
use crate::config::Config;
use crate::downlink::{Asked, Downlink, LATE};
use crate::dummy::{self, Entry, Kind, Report};
use crate::key::PublicKey;
use crate::report::PeerReport;
use crate::tunnel::{Class, Datagram};

// WireGuard's times (whitepaper, section 6.1).
const REKEY_AFTER: Nanos = Nanos::from_secs(120);
pub(crate) const REJECT_AFTER: Nanos = Nanos::from_secs(180);
const REKEY_TIMEOUT: Nanos = Nanos::from_secs(5);
const ATTEMPT_TIME: Nanos = Nanos::from_secs(90);
const KEEPALIVE: Nanos = Nanos::from_secs(10);
/// An end whose peer asked for cover answers this soon: the peer then notices within seconds when it is gone.
const ANSWER: Nanos = Nanos::from_secs(2);
/// Least silence that means anything: WireGuard's own, and where answers come after [`ANSWER`].
const SILENCE: [Nanos; 2] = [Nanos::from_secs(15), Nanos::from_secs(4)];
/// Most of the random time added to a retry.
const JITTER: u64 = 333_000_000;
/// Time between looks of the session layer at its own clock, which erase old keys.
const ERASE: Nanos = Nanos::from_secs(10);
/// Time between reports, which ride on dummies.
const REPORT: Nanos = Nanos::from_secs(10);
/// Schedule entries wait this long for a dummy that carries them; then one is sent for them.
const CARRY: Nanos = Nanos::from_millis(100);
/// How far ahead an envelope's dummies are taken from it. Below the far end's lease, so that asking in time keeps it.
const AHEAD: Nanos = Nanos::from_secs(4);
/// Time before a downlink dummy of an envelope is due at which it is asked for at the latest, by a dummy of its own, and how much
/// earlier that may be.
const LEAD: (Nanos, u64) = (Nanos::from_millis(300), 700_000_000);
/// An end that was asked for cover within this time answers within [`ANSWER`]: its lease still runs.
const ASKED: Nanos = Nanos::from_secs(4);
/// Packets of each kind that may wait for a tick of the clock: 4.6 Gbit/s of full-size packets with 5 ms.
const MAX_CLOCKED: usize = 2_048;
/// Packets that leave at once before others may use the tunnel.
const RELEASE: usize = 128;
/// Time between two cuts of an envelope's rate because the budget was used up.
const CUT: Nanos = Nanos::from_secs(600);
/// Dummies that may be planned ahead.
const MAX_PLANNED: usize = 65_536;
/// Schedule entries that wait for a dummy.
const MAX_ENTRIES: usize = 4_096;
/// Sessions that are remembered: as many as the session layer keeps.
const MAX_SESSIONS: usize = 8;
/// Outer headers of UDP: over IPv4 and IPv6.
const HEADERS: [usize; 2] = [28, 48];

/// Why a real packet has to wait or go.
enum Unsent {
    NoSession(Real),
}

#[derive(Clone, Copy, Debug)]
struct Session {
    index: u32,
    since: Nanos,
    initiator: bool,
}

#[derive(Clone, Copy, Debug)]
struct Handshake {
    started: Nanos,
    retry_at: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Planned {
    due: Nanos,
    order: u64,
    stream: u16,
    /// Inner bytes that are wanted where there is no traffic to follow, or 0.
    size: u16,
}

/// A real packet on its way out, padded.
struct Real {
    packet: Packet,
    came: Nanos,
    tag: u32,
}

/// A dummy on its way out.
#[derive(Clone, Copy, Debug)]
struct Dummy {
    size: u16,
    stream: u16,
}

struct Held {
    deadline: Nanos,
    real: Real,
}

/// Counters that reports compare.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    messages: u64,
    at_top: u64,
}

/// An envelope's dummy that is never due.
const NEVER: chaff_cover::Planned = chaff_cover::Planned {
    at: Nanos::MAX,
    dir: Dir::Out,
    bin: 0,
};

/// A peer. The tunnel routes packets to it.
pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    tunn: Tunn,
    pub(crate) endpoint: Option<SocketAddr>,
    sessions: Vec<Session>,
    current: Option<Session>,
    handshake: Option<Handshake>,
    /// First data received without anything sent since.
    want_keepalive: Option<Nanos>,
    /// When silence after data that was sent means that nobody is there.
    answer_by: Option<Nanos>,
    last_received: Option<Nanos>,
    erase_at: Option<Nanos>,
    /// Real packets that wait for a session, padded already.
    waiting: VecDeque<Real>,
    held: VecDeque<Held>,
    planned: BinaryHeap<Reverse<Planned>>,
    envelope: Option<Envelope>,
    /// The envelope's first dummy that was not taken from it yet.
    next: chaff_cover::Planned,
    scale: f64,
    cut_at: Nanos,
    /// Departures of both kinds, in order to be sealed when they leave: the message counter is in clear.
    clock: Option<ReleaseClock<Real, Dummy>>,
    order: u64,
    entries: VecDeque<(Nanos, Entry)>,
    carry_at: Option<Nanos>,
    keep_lease: bool,
    asked_at: Option<Nanos>,
    downlink: Downlink,
    budget: Budget,
    mix: Mix,
    rng: ChaCha20Rng,
    sequence: u32,
    stream: u16,
    /// The peer sent a dummy of our layout.
    speaks: bool,
    received: Report,
    sent: Sent,
    compared: Option<(Report, Sent)>,
    report_at: Nanos,
    congested_until: Nanos,
    /// Full-size packets vanish on the way.
    pub(crate) black_hole: bool,
    pub(crate) report: PeerReport,
}

/// What all peers share while one is served.
pub(crate) struct Shared<'a> {
    pub(crate) config: &'a Config,
    pub(crate) bins: &'a Bins,
    pub(crate) paused: bool,
    pub(crate) out: &'a mut VecDeque<Datagram>,
    /// Receiver indices that were given out, to be noted by the tunnel.
    pub(crate) indices: &'a mut Vec<u32>,
    pub(crate) number: usize,
}

/// What became of an authentic data message.
pub(crate) enum Received {
    /// Nothing for the inner side.
    Nothing,
    /// An inner packet, padded still.
    Packet(Packet),
}

impl Peer {
    pub(crate) fn new(
        key: PublicKey,
        endpoint: Option<SocketAddr>,
        mut tunn: Tunn,
        config: &Config,
        bins: &Bins,
        mut rng: ChaCha20Rng,
        now: Nanos,
    ) -> Self {
        // The timers are kept here, on the caller's clock; the session layer's own would only get in their way. What is
        // left to it is erasing keys.
        let never = Duration::from_secs(1 << 32);
        tunn.dangerously_set_timer_params(TimerParams {
            keepalive_timeout: never..=never,
            new_handshake_timeout: never..=never,
            rekey_timeout: never..=never,
            rekey_after_time: never..=never,
        });
        let clock = (config.clock > Nanos::ZERO)
            .then(|| ReleaseClock::new(config.clock, Nanos::ZERO, MAX_CLOCKED, rng.random(), now));
        // Checked by the tunnel.
        let mut envelope = config
            .envelope
            .clone()
            .and_then(|e| Envelope::new(e, rng.random(), now).ok());
        let next = envelope.as_mut().map_or(NEVER, Envelope::next_dummy);
        let burst = config.cover_burst.max(u64::from(config.mtu) + 100);
        Self {
            key,
            tunn,
            endpoint,
            sessions: Vec::new(),
            current: None,
            handshake: None,
            want_keepalive: None,
            answer_by: None,
            last_received: None,
            erase_at: None,
            waiting: VecDeque::new(),
            held: VecDeque::new(),
            planned: BinaryHeap::new(),
            envelope,
            next,
            scale: 1.0,
            cut_at: now,
            clock,
            order: 0,
            entries: VecDeque::new(),
            carry_at: None,
            keep_lease: false,
            asked_at: None,
            downlink: Downlink::new(config.downlink.clone()),
            budget: Budget::new(config.cover_rate, burst),
            mix: Mix::new(bins, now),
            sequence: rng.random(),
            stream: rng.random(),
            rng,
            speaks: false,
            received: Report::default(),
            sent: Sent::default(),
            compared: None,
            report_at: now + REPORT,
            congested_until: Nanos::ZERO,
            black_hole: false,
            report: PeerReport::default(),
        }
    }

    pub(crate) fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    pub(crate) fn counts(&self) -> PeerReport {
        let mut report = self.report.clone();
        report.downlink = self.downlink.report.clone();
        report
    }

    /// Adapts to new bins.
    pub(crate) fn rebin(&mut self, bins: &Bins, now: Nanos) {
        self.mix = Mix::new(bins, now);
        // Counts of full-size packets start anew.
        self.compared = None;
        self.black_hole = false;
    }

    // Sessions and timers.

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
        use gotatun::noise::TunnResult;
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
        use gotatun::noise::TunnResult;
        use gotatun::noise::errors::WireGuardError;
        let WgKind::Data(data) = &message else {
            return Received::Nothing;
        };
        let index = data.header.receiver_idx.get();
        let len = data.encrypted_encapsulated_packet_and_tag_len() + 16;
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

    /// When [`Peer::handle_timeout`] has something to do, and what.
    pub(crate) fn poll_timeout(
        &self,
        now: Nanos,
        config: &Config,
    ) -> Option<(Nanos, &'static str)> {
        let restless = config.always_on
            && self.endpoint.is_some()
            && self.handshake.is_none()
            && !self.has_session(now);
        let expiry = self.current.map(|s| s.since + REJECT_AFTER);
        [
            restless.then_some((now, "always on")),
            self.handshake.map(|h| (h.retry_at, "handshake retry")),
            self.want_keepalive
                .map(|t| (t + self.keepalive(t), "keepalive")),
            self.answer_by.map(|t| (t, "no answer")),
            expiry.map(|t| (t, "session expires")),
            self.erase_at.map(|t| (t, "erase keys")),
            self.held.front().map(|h| (h.deadline, "held packet")),
            self.planned
                .peek()
                .map(|p| (self.tick(p.0.due, config), "dummy")),
            self.take_at().map(|t| (t, "envelope")),
            self.carry_at.map(|t| (t, "schedule")),
            self.downlink
                .poll_timeout()
                .map(|t| (self.tick(t, config), "downlink dummy")),
            self.clock
                .as_ref()
                .and_then(ReleaseClock::poll_timeout)
                .map(|t| (t, "clock")),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Time after `since` in which an answer is due from here.
    fn keepalive(&self, since: Nanos) -> Nanos {
        if self.speaks && self.downlink.is_leased(since) {
            ANSWER
        } else {
            KEEPALIVE
        }
    }

    /// Notes that an answer is due.
    fn expect_answer(&mut self, now: Nanos, config: &Config) {
        let asked = self.speaks && self.asked_at.is_some_and(|t| now.since(t) < ASKED);
        let by = now + config.silence.max(SILENCE[usize::from(asked)]);
        self.answer_by = Some(self.answer_by.map_or(by, |t| t.min(by)));
    }

    /// When a dummy that is due at `due` has to be looked at: at the tick at which it leaves, unless a packet that is held back
    /// may take its place.
    fn tick(&self, due: Nanos, config: &Config) -> Nanos {
        match &self.clock {
            Some(clock) if config.hold == Nanos::ZERO => clock.tick_after(due),
            _ => due,
        }
    }

    /// When dummies are next taken from the envelope: several at a time, in time to be asked for.
    fn take_at(&self) -> Option<Nanos> {
        (self.next.at < Nanos::MAX).then(|| self.next.at - Nanos(AHEAD.0 / 2))
    }

    pub(crate) fn handle_timeout(&mut self, now: Nanos, with: &mut Shared<'_>) {
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
        while let Some(h) = self.held.pop_front_if(|h| h.deadline <= now) {
            self.depart(now, h.real, with);
        }
        self.follow_envelope(now, with);
        while let Some(Reverse(p)) = self.planned.peek().copied().filter(|p| p.0.due <= now) {
            self.planned.pop();
            if now.since(p.due) > LATE {
                self.miss("late");
            } else {
                self.send_planned(now, p, with);
            }
        }
        if self.carry_at.is_some_and(|t| now >= t) {
            // Until it is sealed, which may be at the next tick, no second one for the same.
            self.carry_at = self.envelope.is_some().then(|| now + CARRY);
            let own = Planned {
                due: now,
                order: 0,
                stream: self.stream,
                size: 0,
            };
            self.send_planned(now, own, with);
        }
        while let Some(asked) = self.downlink.poll(now) {
            self.send_downlink(now, asked, with);
        }
        self.release(now, with);
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

    // Real packets.

    /// Sends an inner packet, padded to its bin, or keeps it for later.
    pub(crate) fn send_real(
        &mut self,
        now: Nanos,
        inner: &[u8],
        tag: u32,
        bin: (usize, u16),
        with: &mut Shared<'_>,
    ) {
        let (index, size) = bin;
        self.mix.note(now, index);
        self.report.real_out_inner += inner.len() as u64;
        let mut packet = BytesMut::with_capacity(usize::from(size));
        packet.extend_from_slice(inner);
        packet.resize(usize::from(size), 0);
        let real = Real {
            packet: Packet::from_bytes(packet),
            came: now,
            tag,
        };
        if with.config.hold > Nanos::ZERO && self.has_session(now) {
            self.held.push_back(Held {
                deadline: now + with.config.hold,
                real,
            });
            if self.held.len() > with.config.max_waiting * 3 / 4 {
                // Nearly full: order is kept, waiting ends.
                while let Some(h) = self.held.pop_front() {
                    self.depart(now, h.real, with);
                }
            }
            return;
        }
        self.depart(now, real, with);
    }

    /// Sends a real packet at the next tick of the clock, or at once without one.
    fn depart(&mut self, now: Nanos, real: Real, with: &mut Shared<'_>) {
        match &mut self.clock {
            None => self.send_padded(now, real, with),
            Some(clock) => {
                if clock.push_real(now, real).is_err() {
                    *self.report.real_dropped.entry("queue").or_default() += 1;
                }
            }
        }
    }

    /// Sends what waited for a tick, some of it: the caller comes again at once for the rest.
    fn release(&mut self, now: Nanos, with: &mut Shared<'_>) {
        for _ in 0..RELEASE {
            let Some(clock) = &mut self.clock else { return };
            match clock.poll(now) {
                Some((_, Waiting::Real(real))) => self.send_padded(now, real, with),
                Some((_, Waiting::Cover(d))) => self.seal_dummy(now, d, with),
                None => return,
            }
        }
    }

    fn send_padded(&mut self, now: Nanos, real: Real, with: &mut Shared<'_>) {
        if let Err(Unsent::NoSession(real)) = self.seal_real(now, real, with) {
            if self.waiting.len() >= with.config.max_waiting {
                self.waiting.pop_front();
                *self.report.real_dropped.entry("no_session").or_default() += 1;
            }
            self.waiting.push_back(real);
            if self.handshake.is_none() {
                self.initiate(now, with);
            }
        }
    }

    fn seal_real(&mut self, now: Nanos, real: Real, with: &mut Shared<'_>) -> Result<(), Unsent> {
        let Some(to) = self.endpoint else {
            *self.report.real_dropped.entry("no_endpoint").or_default() += 1;
            return Ok(());
        };
        if !self.has_session(now) {
            return Err(Unsent::NoSession(real));
        }
        let Real { packet, came, tag } = real;
        let top = packet.len() == usize::from(with.bins.mtu());
        let unsent = |packet| Unsent::NoSession(Real { packet, came, tag });
        let message = self.tunn.encapsulate_with_session(packet).map_err(unsent)?;
        self.note_sent(now, top, true, with);
        let bytes: Packet = message.into();
        self.report.real_out.add(bytes.len());
        with.out.push_back(Datagram {
            to,
            peer: with.number,
            class: Class::Real,
            came,
            tag,
            bytes,
        });
        Ok(())
    }

    /// Notes a data message; real ones, and cover of an end that is always on, keep the session fresh.
    fn note_sent(&mut self, now: Nanos, top: bool, counts: bool, with: &mut Shared<'_>) {
        self.want_keepalive = None;
        self.sent.messages += 1;
        self.sent.at_top += u64::from(top);
        if !counts {
            return;
        }
        self.expect_answer(now, with.config);
        let stale = self
            .current
            .is_some_and(|s| s.initiator && now.since(s.since) >= REKEY_AFTER);
        if stale && self.handshake.is_none() {
            self.initiate(now, with);
        }
    }

    /// Sends what waited for a session, and returns how many that were.
    fn flush(&mut self, now: Nanos, with: &mut Shared<'_>) -> usize {
        let waited = std::mem::take(&mut self.waiting);
        let sent = waited.len();
        for real in waited {
            self.depart(now, real, with);
        }
        sent
    }

    // Cover.

    /// Plans a dummy for `due`; `size`: inner bytes where there is no traffic to follow, or 0.
    pub(crate) fn plan(&mut self, due: Nanos, stream: u16, size: u16) {
        if self.planned.len() >= MAX_PLANNED {
            self.miss("late");
            return;
        }
        self.order += 1;
        self.planned.push(Reverse(Planned {
            due,
            order: self.order,
            stream,
            size,
        }));
    }

    /// Takes from the envelope what is due soon: uplink dummies are planned, downlink dummies wait to be asked for.
    fn follow_envelope(&mut self, now: Nanos, with: &mut Shared<'_>) {
        while let Some(envelope) = self
            .envelope
            .as_mut()
            .filter(|_| self.next.at <= now + AHEAD)
        {
            let dummy = std::mem::replace(&mut self.next, envelope.next_dummy());
            if with.paused || dummy.at < now {
                continue;
            }
            let size = with.bins.class(dummy.bin);
            match dummy.dir {
                Dir::Out => self.plan(dummy.at, self.stream, size),
                Dir::In if self.entries.len() < MAX_ENTRIES => {
                    let entry = Entry {
                        stream: self.stream,
                        size,
                        offset: Nanos::ZERO,
                    };
                    self.entries.push_back((dummy.at, entry));
                    self.keep_lease = true;
                }
                Dir::In => self.miss("late"),
            }
        }
        if self.envelope.is_some() {
            self.plan_carrier(now);
        }
    }

    /// An own dummy asks for the envelope's downlink dummies where no other one did by the time they are due.
    fn plan_carrier(&mut self, now: Nanos) {
        while self.entries.pop_front_if(|(due, _)| *due <= now).is_some() {
            self.miss("unasked");
        }
        self.keep_lease = !self.entries.is_empty();
        let Some((due, _)) = self.entries.front().filter(|_| self.speaks) else {
            self.carry_at = None;
            return;
        };
        let latest = *due - LEAD.0;
        if self.planned.peek().is_some_and(|p| p.0.due < latest) {
            self.carry_at = None;
        } else if self.carry_at.is_none() {
            self.carry_at = Some(latest - Nanos(self.rng.random_range(0..=LEAD.1)));
        }
    }

    /// Changes the rate of the envelope from its next epoch on.
    pub(crate) fn scale_cover(&mut self, scale: f64) {
        self.scale = scale;
        if let Some(e) = &mut self.envelope {
            e.set_scale(scale);
        }
    }

    /// A budget that does not suffice lowers the rate of the next epoch: cover that stops at busy moments would show them.
    fn cut(&mut self, now: Nanos) {
        if now >= self.cut_at && self.envelope.is_some() {
            self.cut_at = now + CUT;
            self.scale_cover(self.scale * 0.75);
        }
    }

    /// Asks the far end for dummies at the times given; none at all keeps its lease.
    pub(crate) fn ask(&mut self, now: Nanos, entries: &[(Nanos, u16)]) {
        for (due, stream) in entries {
            if self.entries.len() < MAX_ENTRIES {
                let entry = Entry {
                    stream: *stream,
                    size: 0,
                    offset: Nanos::ZERO,
                };
                self.entries.push_back((*due, entry));
            }
        }
        self.keep_lease = true;
        self.asked_at = Some(now);
        if self.carry_at.is_none() {
            let wait = self.rng.random_range(CARRY.0 / 2..=CARRY.0);
            self.carry_at = Some(now + Nanos(wait));
        }
    }

    pub(crate) fn forget_plans(&mut self) {
        self.planned.clear();
        self.entries.clear();
        self.carry_at = None;
        self.keep_lease = false;
    }

    pub(crate) fn congested(&mut self, until: Nanos) {
        self.congested_until = self.congested_until.max(until);
    }

    fn miss(&mut self, why: &'static str) {
        *self.report.cover_dropped.entry(why).or_default() += 1;
    }

    fn headers(&self) -> usize {
        HEADERS[usize::from(self.endpoint.is_some_and(|e| e.is_ipv6()))]
    }

    /// Inner bytes of a dummy; `wanted` (or 0) counts as far as there is no traffic to follow.
    fn draw_size(&mut self, now: Nanos, wanted: u16, bins: &Bins) -> u16 {
        let own = (wanted > 0)
            .then(|| bins.fit(wanted.max(crate::bins::MIN_BIN).into()))
            .flatten();
        let bin = self.mix.draw(now, own.map(|o| o.0), &mut self.rng);
        bins.sizes().get(bin).copied().unwrap_or_default()
    }

    fn send_planned(&mut self, now: Nanos, planned: Planned, with: &mut Shared<'_>) {
        if with.paused {
            self.miss("paused");
        } else if now < self.congested_until {
            self.miss("congested");
        } else if !self.has_session(now) {
            self.miss("no_session");
        } else {
            let size = self.draw_size(now, planned.size, with.bins);
            if let Some(held) = self.held.pop_front() {
                self.replace(now, held.real, size, with);
                return;
            }
            let cost = usize::from(size) + 32 + self.headers();
            match self.budget.take(now, cost) {
                Ok(()) => self.depart_dummy(now, planned.due, size, planned.stream, with),
                Err(why) => {
                    self.miss(why);
                    self.cut(now);
                }
            }
        }
    }

    /// A real packet takes the slot of a dummy, and the size that it would have had.
    fn replace(&mut self, now: Nanos, mut real: Real, size: u16, with: &mut Shared<'_>) {
        self.report.replaced += 1;
        if real.packet.len() < usize::from(size) && with.bins.profile() != crate::Profile::Off {
            real.packet.buf_mut().resize(usize::from(size), 0);
        }
        self.depart(now, real, with);
    }

    fn send_downlink(&mut self, now: Nanos, asked: Asked, with: &mut Shared<'_>) {
        if with.paused {
            self.miss("paused");
            return;
        }
        if !self.has_session(now) {
            self.miss("no_session");
            return;
        }
        let size = self.draw_size(now, asked.size, with.bins);
        let cost = usize::from(size) + 32 + self.headers();
        if self.downlink.pay(now, cost) {
            if let Some(held) = self.held.pop_front() {
                self.replace(now, held.real, size, with);
            } else {
                self.depart_dummy(now, asked.due, size, asked.stream, with);
            }
        }
    }

    /// Sends a dummy of a drawn size now, or at the next tick of the clock.
    fn send_dummy(&mut self, now: Nanos, wanted: u16, stream: u16, with: &mut Shared<'_>) {
        let size = self.draw_size(now, wanted, with.bins);
        self.depart_dummy(now, now, size, stream, with);
    }

    /// Sends a dummy of `size` inner bytes at the tick after `due`, which is over, or now where there is no clock.
    fn depart_dummy(
        &mut self,
        now: Nanos,
        due: Nanos,
        size: u16,
        stream: u16,
        with: &mut Shared<'_>,
    ) {
        let dummy = Dummy { size, stream };
        match &mut self.clock {
            Some(clock) => clock.push_cover(due, dummy),
            None => self.seal_dummy(now, dummy, with),
        }
    }

    /// Seals a dummy with whatever is to be said at the moment.
    fn seal_dummy(&mut self, now: Nanos, dummy: Dummy, with: &mut Shared<'_>) {
        let Some(to) = self.endpoint else { return };
        let size = dummy.size;
        let kind = self.content(now, size.into(), with.bins);
        if matches!(kind, Kind::Schedule(_)) {
            self.asked_at = Some(now);
        }
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = BytesMut::zeroed(size.into());
        dummy::encode(dummy.stream, self.sequence, &kind, &mut packet);
        let Ok(message) = self
            .tunn
            .encapsulate_with_session(Packet::from_bytes(packet))
        else {
            self.miss("no_session");
            return;
        };
        let top = size == with.bins.mtu();
        self.note_sent(now, top, with.config.always_on, with);
        let bytes: Packet = message.into();
        self.report.cover_out.add(bytes.len());
        with.out.push_back(Datagram {
            to,
            peer: with.number,
            class: Class::Cover,
            came: now,
            tag: 0,
            bytes,
        });
    }

    fn content(&mut self, now: Nanos, size: usize, bins: &Bins) -> Kind {
        let room = dummy::capacity(size);
        if self.keep_lease && room > 0 {
            let n = room.min(self.entries.len());
            let entries = self
                .entries
                .drain(..n)
                .map(|(due, e)| Entry {
                    offset: due.since(now),
                    ..e
                })
                .collect();
            self.carry_at = None;
            if self.entries.is_empty() {
                self.keep_lease = false;
            } else if self.envelope.is_some() {
                self.plan_carrier(now);
            } else {
                self.carry_at = Some(now + CARRY);
            }
            return Kind::Schedule(entries);
        }
        if now >= self.report_at {
            self.report_at = now + REPORT;
            return Kind::Report(Report {
                top: bins.mtu(),
                ..self.received
            });
        }
        Kind::Cover
    }
}

/// Length of the encrypted part of a data message.
trait DataLen {
    fn encrypted_encapsulated_packet_and_tag_len(&self) -> usize;
}

impl DataLen for gotatun::packet::WgData {
    fn encrypted_encapsulated_packet_and_tag_len(&self) -> usize {
        self.encrypted_encapsulated_packet().len() + Self::TAG_LEN
    }
}
