//! Cover of a peer: what is planned, asked for and sent.

use std::cmp::Reverse;
use std::net::SocketAddr;

use bytes::BytesMut;
use chaff_abi::{Dir, Nanos};
use chaff_cover::{HEADERS_V4, HEADERS_V6};
use gotatun::packet::Packet;
use rand::Rng;

use super::{Dummy, Peer, Planned, REPORT, Shared};
use crate::bins::Bins;
use crate::config::Config;
use crate::downlink::{Asked, LATE};
use crate::dummy::{self, Entry, Kind, Report};
use crate::tunnel::{Class, Datagram};

/// How far ahead an envelope's dummies are taken from it. Below the far end's lease, so that asking in time keeps it.
const AHEAD: Nanos = Nanos::from_secs(4);
/// Schedule entries wait this long for a dummy that carries them; then one is sent for them.
const CARRY: Nanos = Nanos::from_millis(100);
/// Time before a downlink dummy of an envelope is due at which it is asked for at the latest, by a dummy of its own, and how much
/// earlier that may be.
const LEAD: (Nanos, u64) = (Nanos::from_millis(300), 700_000_000);
/// Time between two cuts of an envelope's rate because the budget was used up.
const CUT: Nanos = Nanos::from_secs(600);
/// Dummies that may be planned ahead.
const MAX_PLANNED: usize = 65_536;
/// Schedule entries that wait for a dummy.
const MAX_ENTRIES: usize = 4_096;

impl Peer {
    /// When a dummy that is due at `due` has to be looked at: at the tick at which it leaves, unless a packet that is held back
    /// may take its place.
    pub(super) fn tick(&self, due: Nanos, config: &Config) -> Nanos {
        match &self.clock {
            Some(clock) if config.hold == Nanos::ZERO => clock.tick_after(due),
            _ => due,
        }
    }

    /// When dummies are next taken from the envelope: several at a time, in time to be asked for.
    pub(super) fn take_at(&self) -> Option<Nanos> {
        (self.next.at < Nanos::MAX).then(|| self.next.at - Nanos(AHEAD.0 / 2))
    }

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
        match self.endpoint {
            Some(SocketAddr::V6(_)) => HEADERS_V6.into(),
            _ => HEADERS_V4.into(),
        }
    }

    /// Inner bytes of a dummy; `wanted` (or 0) counts as far as there is no traffic to follow.
    fn draw_size(&mut self, now: Nanos, wanted: u16, bins: &Bins) -> u16 {
        let own = (wanted > 0)
            .then(|| bins.fit(wanted.max(crate::bins::MIN_BIN).into()))
            .flatten();
        let bin = self.mix.draw(now, own.map(|o| o.0), &mut self.rng);
        bins.sizes().get(bin).copied().unwrap_or_default()
    }

    /// Sends the dummies that are due, planned here and asked for.
    pub(super) fn serve_cover(&mut self, now: Nanos, with: &mut Shared<'_>) {
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
    pub(super) fn send_dummy(
        &mut self,
        now: Nanos,
        wanted: u16,
        stream: u16,
        with: &mut Shared<'_>,
    ) {
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
    pub(super) fn seal_dummy(&mut self, now: Nanos, dummy: Dummy, with: &mut Shared<'_>) {
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
