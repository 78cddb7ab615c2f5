//! Real packets of a peer: padded, held back, sealed.

use bytes::BytesMut;
use chaff_abi::Nanos;
use chaff_cover::Waiting;
use gotatun::packet::Packet;

use super::{Held, Peer, REKEY_AFTER, Real, Shared};
use crate::tunnel::{Class, Datagram};

/// Packets that leave at once before others may use the tunnel.
const RELEASE: usize = 128;

impl Peer {
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
    pub(super) fn depart(&mut self, now: Nanos, real: Real, with: &mut Shared<'_>) {
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
    pub(super) fn release(&mut self, now: Nanos, with: &mut Shared<'_>) {
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
        if let Err(real) = self.seal_real(now, real, with) {
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

    /// Seals and sends a packet, or gives it back where there is no session.
    fn seal_real(&mut self, now: Nanos, real: Real, with: &mut Shared<'_>) -> Result<(), Real> {
        let Some(to) = self.endpoint else {
            *self.report.real_dropped.entry("no_endpoint").or_default() += 1;
            return Ok(());
        };
        if !self.has_session(now) {
            return Err(real);
        }
        let Real { packet, came, tag } = real;
        let top = packet.len() == usize::from(with.bins.mtu());
        let unsent = |packet| Real { packet, came, tag };
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
    pub(super) fn note_sent(&mut self, now: Nanos, top: bool, counts: bool, with: &mut Shared<'_>) {
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
    pub(super) fn flush(&mut self, now: Nanos, with: &mut Shared<'_>) -> usize {
        let waited = std::mem::take(&mut self.waiting);
        let sent = waited.len();
        for real in waited {
            self.depart(now, real, with);
        }
        sent
    }

    /// A real packet takes the slot of a dummy, and the size that it would have had.
    pub(super) fn replace(&mut self, now: Nanos, mut real: Real, size: u16, with: &mut Shared<'_>) {
        self.report.replaced += 1;
        if real.packet.len() < usize::from(size) && with.bins.profile() != crate::Profile::Off {
            real.packet.buf_mut().resize(usize::from(size), 0);
        }
        self.depart(now, real, with);
    }
}
