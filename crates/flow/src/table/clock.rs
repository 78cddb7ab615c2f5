//! What time it is, when packets disagree.
//!
//! A packet keeps its own time in all values. Deadlines go by the clock, which is the newest time of all packets but for
//! those that lie far from it: more than the longest idle timeout (at least 10 s) behind, or more than the active timeout
//! and an hour ahead. Such a packet is held until [`CONFIRMATIONS`] of them came in a row without one near the clock; then
//! the clock follows them. When it goes back, all flows end with [`EndReason::TimeStep`]; when it goes ahead, that was a
//! long silence, and deadlines end flows as ever. When a packet near the clock comes before that, the held ones have wrong
//! times: they are counted in flows of their own, apart from others with the same key, and move nothing. So ordered input
//! makes the same records as if nothing were ever held; at the end of the input packets that lie ahead are believed.

use chaff_abi::{Dir, Nanos};

use super::flow::{Arrival, Flow};
use super::{EndReason, Table};
use crate::Packet;

/// Packets in a row far from the clock that move it.
pub(super) const CONFIRMATIONS: usize = 4;
/// How far behind the clock a packet is late at most, however short the idle timeouts are.
const LATE: Nanos = Nanos::from_secs(10);
/// How much longer than the active timeout the silence before a packet is that need not be confirmed.
const AHEAD: Nanos = Nanos::from_secs(3600);

/// What keeps flows of outliers apart: a bit that no VLAN id has.
const OUTLIER: u64 = 1 << 15;

/// The clock of a table.
#[derive(Default)]
pub(super) struct Clock {
    /// What deadlines are compared with.
    pub(super) now: Nanos,
    /// How far ahead a packet may lie.
    reach: Nanos,
    /// How far behind.
    slack: Nanos,
    /// Whether a packet in order may pass without another look: there was one before, none is held, and no flows of a
    /// finished input are left.
    settled: bool,
    started: bool,
    /// Packets far from the clock, fewer than [`CONFIRMATIONS`].
    held: Vec<Held>,
    /// Calls in a row without a packet whose time lay far behind.
    behind: usize,
    /// Latest time of packets that lay ahead and were not confirmed.
    disbelieved: Option<Nanos>,
}

/// A packet with what it borrowed.
struct Held {
    at: Nanos,
    dir: Option<Dir>,
    cover: bool,
    packet: Packet<'static>,
    payload: Vec<u8>,
    ip_packet: Vec<u8>,
}

impl Held {
    fn new(at: Nanos, dir: Option<Dir>, packet: &Packet<'_>, cover: bool) -> Self {
        Self {
            at,
            dir,
            cover,
            payload: packet.payload.to_vec(),
            ip_packet: packet.ip_packet.to_vec(),
            packet: Packet {
                payload: &[],
                ip_packet: &[],
                ..*packet
            },
        }
    }

    fn packet(&self) -> Packet<'_> {
        Packet {
            payload: &self.payload,
            ip_packet: &self.ip_packet,
            ..self.packet
        }
    }
}

impl Clock {
    /// A clock that takes the time of the first packet.
    pub(super) fn new(longest_idle: Nanos, active_timeout: Nanos) -> Self {
        Self {
            reach: active_timeout + AHEAD,
            slack: longest_idle.max(LATE),
            ..Self::default()
        }
    }

    /// Moves to the time of a packet that is in order; gives whether it is.
    #[inline(always)]
    pub(super) fn follow(&mut self, at: Nanos) -> bool {
        let in_order = self.settled && at >= self.now && at <= self.now + self.reach;
        if in_order {
            self.now = at;
        }
        in_order
    }

    fn is_near(&self, at: Nanos) -> bool {
        at + self.slack >= self.now && at <= self.now + self.reach
    }

    /// The next packet starts it anew.
    pub(super) fn stop(&mut self) {
        (self.started, self.settled, self.behind) = (false, false, 0);
        self.disbelieved = None;
    }
}

impl Table {
    /// A packet that is not simply the next one.
    #[cold]
    #[inline(never)]
    pub(super) fn observe_out_of_order(
        &mut self,
        at: Nanos,
        dir: Option<Dir>,
        packet: &Packet<'_>,
        cover: bool,
    ) {
        if !self.rest.is_empty() {
            self.end_rest(usize::MAX);
        }
        self.clock.behind = 0;
        if !self.clock.started {
            self.clock.started = true;
            self.clock.now = at;
        }
        if self.clock.is_near(at) {
            self.disbelieve();
            if at < self.clock.now {
                self.stats.disordered += 1;
            }
            self.clock.now = self.clock.now.max(at);
            self.take_slowly(at, dir, packet, cover, false);
        } else {
            let last = self.clock.held.last();
            if last.is_some_and(|last| at + self.clock.slack < last.at) {
                self.disbelieve();
            }
            let held = Held::new(at, dir, packet, cover);
            self.clock.held.push(held);
            if self.clock.held.len() >= CONFIRMATIONS {
                self.believe();
            }
        }
        self.clock.settled = self.clock.held.is_empty();
    }

    /// A time that comes without a packet: whoever calls knows what time it is, unless it lies behind.
    pub(super) fn note_time(&mut self, now: Nanos) {
        if !self.rest.is_empty() {
            self.end_rest(usize::MAX);
        }
        if now + self.clock.slack < self.clock.now {
            self.stats.disordered += 1;
            self.clock.behind += 1;
            if self.clock.behind >= CONFIRMATIONS {
                self.step_back(now);
                self.believe();
            }
            return;
        }
        self.clock.behind = 0;
        if let Some(first) = self.clock.held.first() {
            if first.at > self.clock.now && first.at <= now + self.clock.slack {
                self.believe();
            } else {
                self.disbelieve();
            }
        }
        if now < self.clock.now {
            self.stats.disordered += 1;
        } else {
            self.clock.now = now;
        }
    }

    /// The end of the input: what lies ahead is believed. Gives what time it is.
    pub(super) fn note_end(&mut self, now: Nanos) -> Nanos {
        match self.clock.held.first() {
            Some(first) if first.at > self.clock.now => self.believe(),
            _ => self.disbelieve(),
        }
        if self.clock.disbelieved.is_none_or(|at| now > at) {
            self.clock.now = self.clock.now.max(now);
        }
        self.clock.now
    }

    /// The clock goes where the held packets are.
    fn believe(&mut self) {
        let held = std::mem::take(&mut self.clock.held);
        match held.first() {
            Some(first) if first.at < self.clock.now => self.step_back(first.at),
            _ => (),
        }
        for held in &held {
            self.clock.now = self.clock.now.max(held.at);
            self.take_slowly(held.at, held.dir, &held.packet(), held.cover, false);
        }
        self.clock.settled = self.clock.started;
    }

    /// The held packets are not where the others are.
    fn disbelieve(&mut self) {
        for held in std::mem::take(&mut self.clock.held) {
            self.stats.outliers += 1;
            if held.at > self.clock.now {
                self.clock.disbelieved = self.clock.disbelieved.max(Some(held.at));
            }
            self.take_slowly(held.at, held.dir, &held.packet(), held.cover, true);
        }
        self.clock.settled = self.clock.started;
    }

    /// All flows lie in the future now; they end in the order of their first packets.
    fn step_back(&mut self, now: Nanos) {
        let mut all: Vec<(u64, u32)> = Vec::with_capacity(self.len());
        let flows = (0u32..).zip(&self.flows);
        all.extend(
            flows
                .filter(|(_, f)| f.serial != 0)
                .map(|(i, f)| (f.serial, i)),
        );
        all.sort_unstable();
        for (_, slot) in all {
            self.end(slot, EndReason::TimeStep);
        }
        self.clock.now = now;
        self.clock.behind = 0;
        self.clock.disbelieved = None;
        self.stats.time_steps += 1;
    }

    /// Counts a packet; the clock is right. An `outlier` goes to a flow apart.
    #[inline(always)]
    pub(super) fn take(
        &mut self,
        at: Nanos,
        dir: Option<Dir>,
        packet: &Packet<'_>,
        cover: bool,
        outlier: bool,
    ) {
        let seen = self.clock.now;
        self.serve(seen);
        let mut arrival = self.arrival(at, dir, packet);
        arrival.seen = seen;
        if outlier {
            self.set_apart(&mut arrival);
        }
        if cover {
            self.add_cover(&arrival, packet.sample);
            return;
        }
        if packet.fragment == crate::Fragment::Later {
            self.stats.later_fragments += 1;
        }
        let (slot, side) = self.add(&arrival, packet.sample);
        if self.wants_more {
            self.add_more(slot, side, at, packet);
        }
    }

    /// [`Table::take`] for those who are in no hurry.
    #[inline(never)]
    fn take_slowly(
        &mut self,
        at: Nanos,
        dir: Option<Dir>,
        packet: &Packet<'_>,
        cover: bool,
        outlier: bool,
    ) {
        self.take(at, dir, packet, cover, outlier);
    }

    /// Outliers of one key and about one time are one flow.
    #[cold]
    fn set_apart(&mut self, arrival: &mut Arrival) {
        arrival.outlier = true;
        arrival.beyond ^= OUTLIER;
        let hash = self.seeded.hash(arrival.identity());
        if let Some((slot, _)) = self.find(hash, arrival)
            && let Some(flow) = self.flows.get(slot as usize)
        {
            let slack = self.clock.slack;
            let (first, last) = flow.span();
            if arrival.at + slack < first || last + slack < arrival.at {
                self.end(slot, EndReason::Idle);
            }
        }
    }
}

impl Flow {
    /// Times of the first and the last packet of the part, their own.
    pub(super) fn span(&self) -> (Nanos, Nanos) {
        let [forward, backward] = &self.counters;
        (self.start, forward.last.max(backward.last).max(self.start))
    }

    /// A packet that is older than the part: its start moves, and with it what is counted from there.
    #[cold]
    #[inline(never)]
    pub(super) fn start_at(&mut self, at: Nanos) {
        let shift = self.start.since(at).as_micros();
        let len = usize::from(self.sequence_len);
        for entry in self.sequence.iter_mut().take(len) {
            let offset = shift + u64::from(entry.offset_us);
            entry.offset_us = offset.min(u32::MAX.into()) as u32;
        }
        self.start = at;
    }
}
