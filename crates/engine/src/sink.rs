//! The far end: winnows cover, counts it, and sends the downlink cover the gateway asked for.

use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;

use chaff_abi::{Dir, Nanos};
use chaff_cover::Tally;
use chaff_wire::{Key, Kind, MIN_LEN, Opener, Sealer, WireError};
use serde::Serialize;

use crate::schedule;
use crate::stamp::Stamp;

/// Settings of the sink. Everything a gateway can make it do is capped here.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Downlink cover stops when no fresh schedule arrived for this long; the gateway sends at least one a second.
    pub lease: Nanos,
    /// Downlink bytes allowed per authenticated uplink byte, so that a stolen key makes no amplifier.
    pub ratio: f64,
    /// Downlink bytes allowed before the ratio counts. Unspent credit never exceeds this and one lease at full rate.
    pub ratio_allowance: u64,
    /// Most downlink bytes per second (UDP payload).
    pub bytes_per_second: f64,
    /// Dummies waiting to be sent; more are dropped and counted.
    pub max_pending: usize,
    /// A schedule sealed longer ago than this, or further in the future, is ignored.
    pub max_schedule_age: Nanos,
    /// Farthest a dummy may be scheduled ahead.
    pub max_ahead: Nanos,
    /// Streams with counters of their own in the report; further ones share one row.
    pub max_streams: usize,
}

impl Default for SinkConfig {
    fn default() -> Self {
        Self {
            lease: Nanos::from_secs(5),
            ratio: 4.0,
            ratio_allowance: 64 * 1024,
            bytes_per_second: 250_000.0,
            max_pending: 65_536,
            max_schedule_age: Nanos::from_secs(30),
            max_ahead: Nanos::from_secs(10),
            max_streams: 1_024,
        }
    }
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Authentic cover.
    Cover {
        /// Stream it belongs to.
        stream: u16,
        /// Counter inside the stream.
        counter: u32,
        /// When the gateway meant to send it, on the Unix clock; absent in datagrams too short to say.
        meant: Option<Stamp>,
    },
    /// Authentic downlink schedule with this many accepted entries.
    Schedule {
        /// Entries that will be served.
        accepted: usize,
    },
    /// Refused, silently.
    Refused(WireError),
}

/// A downlink datagram to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkTransmit {
    /// Where to.
    pub to: SocketAddr,
    /// Bytes of the buffer that are the datagram.
    pub len: usize,
    /// When it was due.
    pub due: Nanos,
    /// Stream.
    pub stream: u16,
}

/// What the sink did so far; bytes are UDP payload. Every datagram is in exactly one of `cover`, `schedules` and `refused`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SinkReport {
    /// Schema version of this report.
    pub version: u32,
    /// Datagrams received.
    pub received: Tally,
    /// Authentic cover.
    pub cover: Tally,
    /// Authentic schedules.
    pub schedules: Tally,
    /// Refused datagrams by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Authentic cover by stream.
    pub streams: BTreeMap<u16, Tally>,
    /// Downlink dummies handed to the network: those from [`Sink::poll_transmit`] less those of [`Sink::note_unsent`].
    pub downlink: Tally,
    /// Downlink dummies not sent, by reason. `ratio`, `rate`: beyond a cap of [`SinkConfig`]. `lease`: the gateway went
    /// silent. `late`: due more than 1 s ago. `pending`: too many waiting. `stale`: the schedule is too old or from the
    /// future. `size`: too short, too long or too far ahead. `malformed`: an unreadable schedule, counted as one.
    pub downlink_dropped: BTreeMap<&'static str, u64>,
    /// Leases that ended because the gateway went silent.
    pub leases_ended: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pending {
    due: std::cmp::Reverse<Nanos>,
    order: std::cmp::Reverse<u64>,
    stream: u16,
    payload: u16,
}

/// The sink's state machine: datagrams in, verdicts and downlink datagrams out. One key, one gateway.
///
/// Call [`Sink::handle_datagram`] for every datagram, [`Sink::handle_timeout`] when [`Sink::poll_timeout`] says so, and drain
/// [`Sink::poll_transmit`] after each. It never answers what is not authentic, and its memory is bounded by [`SinkConfig`].
pub struct Sink {
    config: SinkConfig,
    key: Key,
    opener: Opener,
    sealers: BTreeMap<u16, Sealer>,
    unix_offset: Nanos,
    peer: Option<SocketAddr>,
    /// Arrival of the last schedule that was taken, and the newest sealing time of one, Unix.
    leased_at: Nanos,
    newest_sealed: Nanos,
    pending: BinaryHeap<Pending>,
    order: u64,
    bucket: f64,
    bucket_at: Nanos,
    /// Downlink bytes that authentic uplink bytes paid for.
    credit: f64,
    report: SinkReport,
}

impl Sink {
    /// Makes a sink. `unix_offset` is the Unix time at `now == 0`.
    pub fn new(config: SinkConfig, key: Key, unix_offset: Nanos, now: Nanos) -> Self {
        Self {
            opener: Opener::new(&key, Dir::Out),
            sealers: BTreeMap::new(),
            key,
            unix_offset,
            peer: None,
            leased_at: now,
            newest_sealed: Nanos::ZERO,
            pending: BinaryHeap::new(),
            order: 0,
            bucket: config.bytes_per_second,
            bucket_at: now,
            credit: config.ratio_allowance as f64,
            report: SinkReport {
                version: 1,
                ..SinkReport::default()
            },
            config,
        }
    }

    /// Sets the Unix time at `now == 0` anew, after a step of the wall clock. A step back of more than an epoch starts
    /// with an empty replay memory.
    pub fn set_unix_offset(&mut self, unix_offset: Nanos) {
        if self.unix_offset.since(unix_offset) >= chaff_wire::EPOCH {
            self.opener = Opener::new(&self.key, Dir::Out);
            self.sealers.clear();
        }
        // A step back moves the mark along, or schedules would count as old until the clock has caught up.
        let back = self.unix_offset.since(unix_offset);
        self.newest_sealed = self.newest_sealed.since(back);
        self.unix_offset = unix_offset;
    }

    /// Takes one datagram. Its bytes are decrypted in place.
    pub fn handle_datagram(
        &mut self,
        now: Nanos,
        from: SocketAddr,
        datagram: &mut [u8],
    ) -> Verdict {
        let len = datagram.len();
        self.report.received.add(len);
        let opened = match self.opener.open(now + self.unix_offset, datagram) {
            Ok(opened) => opened,
            Err(e) => {
                *self.report.refused.entry(e.name()).or_default() += 1;
                return Verdict::Refused(e);
            }
        };
        let most = self.config.ratio_allowance as f64
            + self.config.bytes_per_second * self.config.lease.as_secs_f64();
        self.credit = (self.credit + len as f64 * self.config.ratio).min(most);
        let (stream, counter) = (opened.header.stream, opened.header.counter);
        if opened.kind == Kind::Schedule {
            self.report.schedules.add(len);
            let accepted = match schedule::decode(opened.body) {
                Ok((sealed, entries)) => {
                    let entries: Vec<_> = entries.collect();
                    self.accept(now, from, sealed, &entries)
                }
                Err(_) => self.drop_downlink("malformed", 1),
            };
            return Verdict::Schedule { accepted };
        }
        self.report.cover.add(len);
        let row = if self.report.streams.len() < self.config.max_streams
            || self.report.streams.contains_key(&stream)
        {
            stream
        } else {
            u16::MAX
        };
        self.report.streams.entry(row).or_default().add(len);
        Verdict::Cover {
            stream,
            counter,
            meant: Stamp::decode(opened.body),
        }
    }

    fn accept(
        &mut self,
        now: Nanos,
        from: SocketAddr,
        sealed: Nanos,
        entries: &[schedule::Entry],
    ) -> usize {
        let unix = now + self.unix_offset;
        if unix.since(sealed) > self.config.max_schedule_age
            || sealed.since(unix) > self.config.max_schedule_age
        {
            return self.drop_downlink("stale", entries.len() as u64);
        }
        // Only the newest schedule says where the gateway is and that it lives: a captured datagram sent on from
        // elsewhere is older than the ones that passed it, and cover says nothing of its age.
        if sealed >= self.newest_sealed {
            self.newest_sealed = sealed;
            self.peer = Some(from);
            self.leased_at = now;
        }
        let mut accepted = 0;
        for e in entries {
            if self.pending.len() >= self.config.max_pending {
                self.drop_downlink("pending", 1);
            } else if usize::from(e.payload) < MIN_LEN
                || e.payload > MAX_PAYLOAD
                || e.offset > self.config.max_ahead
            {
                self.drop_downlink("size", 1);
            } else {
                self.order += 1;
                self.pending.push(Pending {
                    due: std::cmp::Reverse(now + e.offset),
                    order: std::cmp::Reverse(self.order),
                    stream: e.stream,
                    payload: e.payload,
                });
                accepted += 1;
            }
        }
        accepted
    }

    fn drop_downlink(&mut self, reason: &'static str, n: u64) -> usize {
        *self.report.downlink_dropped.entry(reason).or_default() += n;
        0
    }

    /// When to call [`Sink::handle_timeout`] next, and why.
    pub fn poll_timeout(&self) -> Option<(Nanos, &'static str)> {
        let due = self.pending.peek().map(|p| (p.due.0, "downlink dummy"))?;
        let lease = (self.leased_at + self.config.lease, "lease");
        Some(due.min(lease))
    }

    /// Ends a lease that ran out. Safe to call early or late.
    pub fn handle_timeout(&mut self, now: Nanos) {
        if now >= self.leased_at + self.config.lease && !self.pending.is_empty() {
            let n = self.pending.len() as u64;
            self.pending.clear();
            self.drop_downlink("lease", n);
            self.report.leases_ended += 1;
        }
    }

    /// Seals the next downlink datagram that is due at `now` into `buf` (at least [`MAX_PAYLOAD`] bytes).
    pub fn poll_transmit(&mut self, now: Nanos, buf: &mut [u8]) -> Option<SinkTransmit> {
        loop {
            if self.pending.peek().is_none_or(|p| p.due.0 > now) {
                return None;
            }
            let p = self.pending.pop()?;
            let to = self.peer?;
            let bytes = usize::from(p.payload);
            if now.since(p.due.0) > LATE {
                self.drop_downlink("late", 1);
                continue;
            }
            if !self.within_caps(now, bytes) {
                continue;
            }
            let unix = now + self.unix_offset;
            let sealer = self
                .sealers
                .entry(p.stream)
                .or_insert_with(|| Sealer::new(&self.key, Dir::In, p.stream, unix));
            let mut body = [0u8; Stamp::LEN];
            let stamp = Stamp {
                slot: 0,
                at: p.due.0 + self.unix_offset,
            };
            let body = stamp.encode(&mut body, bytes);
            let Ok(sealed) = sealer.seal(unix, Kind::Cover, body, bytes, buf) else {
                self.drop_downlink("size", 1);
                continue;
            };
            let len = sealed.len();
            self.report.downlink.add(len);
            return Some(SinkTransmit {
                to,
                len,
                due: p.due.0,
                stream: p.stream,
            });
        }
    }

    fn within_caps(&mut self, now: Nanos, bytes: usize) -> bool {
        let earned = now.since(self.bucket_at).as_secs_f64() * self.config.bytes_per_second;
        self.bucket = (self.bucket + earned).min(self.config.bytes_per_second);
        self.bucket_at = now;
        if self.credit < bytes as f64 {
            self.drop_downlink("ratio", 1);
            return false;
        }
        if self.bucket < bytes as f64 {
            self.drop_downlink("rate", 1);
            return false;
        }
        self.bucket -= bytes as f64;
        self.credit -= bytes as f64;
        true
    }

    /// Takes back from the report a datagram of [`Sink::poll_transmit`] that the network did not take. The caps stay
    /// charged, so that an unreachable gateway is not tried harder.
    pub fn note_unsent(&mut self, len: usize) {
        let sent = &mut self.report.downlink;
        sent.packets = sent.packets.saturating_sub(1);
        sent.bytes = sent.bytes.saturating_sub(len as u64);
    }

    /// The counts so far.
    pub fn report(&self) -> &SinkReport {
        &self.report
    }

    /// Dummies waiting to be sent.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}

/// A dummy later than this is dropped: a sink that was held up must not catch up in a burst.
const LATE: Nanos = Nanos::from_secs(1);

/// Largest downlink datagram, UDP payload bytes: fits an Ethernet MTU over IPv6.
pub const MAX_PAYLOAD: u16 = 1_452;
