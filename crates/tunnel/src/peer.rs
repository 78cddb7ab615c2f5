//! One peer: what it is made of, and when which part of it has something to do.

mod cover;
mod real;
mod session;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use chaff_abi::{Dir, Nanos};
use chaff_cover::{Envelope, ReleaseClock};
use gotatun::noise::{TimerParams, Tunn};
use gotatun::packet::Packet;
use rand::Rng;
use rand_chacha::ChaCha20Rng;

use crate::bins::{Bins, Mix};
use crate::budget::Budget;
use crate::config::Config;
use crate::downlink::Downlink;
use crate::dummy::{Entry, Report};
use crate::key::PublicKey;
use crate::report::PeerReport;
use crate::tunnel::Datagram;

// WireGuard's times (whitepaper, section 6.1).
const REKEY_AFTER: Nanos = Nanos::from_secs(120);
const REJECT_AFTER: Nanos = Nanos::from_secs(180);
/// Time between looks of the session layer at its own clock, which erase old keys.
const ERASE: Nanos = Nanos::from_secs(10);
/// Time between reports, which ride on dummies.
const REPORT: Nanos = Nanos::from_secs(10);
/// Packets of each kind that may wait for a tick of the clock: 4.6 Gbit/s of full-size packets with 5 ms.
const MAX_CLOCKED: usize = 2_048;

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

    pub(crate) fn handle_timeout(&mut self, now: Nanos, with: &mut Shared<'_>) {
        self.serve_sessions(now, with);
        while let Some(h) = self.held.pop_front_if(|h| h.deadline <= now) {
            self.depart(now, h.real, with);
        }
        self.serve_cover(now, with);
        self.release(now, with);
    }
}
