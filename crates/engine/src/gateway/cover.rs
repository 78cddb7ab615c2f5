//! Cover out, and the sink's in: planned in blocks ahead of time, sealed or handed to a tunnel.

use std::collections::BTreeSet;

use chaff_abi::{Dir, Nanos};
use chaff_cover::{Demand, Dummy};
use chaff_wire::{Kind, MIN_LEN, OVERHEAD, Opener, Sealer, WireError};
use rand::{Rng, RngCore};

use super::Gateway;
use crate::schedule::{self, Entry};
use crate::stamp::Stamp;

/// Schedules are padded to one of these lengths, UDP payload bytes.
const SCHEDULE_BINS: [usize; 3] = [256, 576, 1_200];

/// A wall clock set back by this much is a step; less is a correction that sealing ahead of time absorbs.
const CLOCK_STEP: Nanos = Nanos::from_secs(5);
/// Stands for the control stream where a unit index is expected.
const CONTROL: usize = usize::MAX;

/// A cover datagram, sealed into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// When it should leave; may lie in the future.
    pub at: Nanos,
    /// Bytes of the buffer that are the datagram.
    pub len: usize,
    /// Index of the device it covers.
    pub device: u32,
    /// What it is.
    pub kind: Kind,
}

/// Planned cover that somebody else makes and sends: the way out for a tunnel, in place of [`Gateway::poll_transmit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// A dummy towards the sink.
    Dummy {
        /// When it is due.
        at: Nanos,
        /// Stream of its device.
        stream: u16,
    },
    /// Dummies that the sink should send: when, and of which stream. Empty ones come too: they keep the lease.
    Downlink(Vec<(Nanos, u16)>),
}

/// A planned dummy, or a schedule.
pub(super) struct Planned {
    at: Nanos,
    unit: usize,
    slot: u32,
    len: u16,
    entries: Vec<Entry>,
}

impl Gateway {
    /// Takes a datagram from the sink's address, decrypting it in place. `Ok` is the stream of authentic downlink cover.
    ///
    /// # Errors
    /// It is not authentic, old or a replay; counted by reason.
    pub fn handle_datagram(&mut self, now: Nanos, datagram: &mut [u8]) -> Result<u16, WireError> {
        let now = self.advance(now);
        let len = datagram.len();
        let Some(opener) = &mut self.opener else {
            return Err(WireError::BadTag);
        };
        match opener.open(now + self.config.unix_offset, datagram) {
            Ok(opened) => {
                self.report.downlink.add(len);
                Ok(opened.header.stream)
            }
            Err(e) => {
                *self.report.refused.entry(e.name()).or_default() += 1;
                Err(e)
            }
        }
    }

    /// Stops or resumes cover. Metering, alerts and telemetry go on.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        if paused {
            self.planned.clear();
        }
    }

    /// Whether cover is stopped.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Sets the Unix time at `now == 0` anew, after a step of the wall clock.
    ///
    /// After a step back the old streams' counters lie in the future, so every stream is replaced by a new one: no
    /// counter is used twice, and the sink takes the new ones at once.
    pub fn set_unix_offset(&mut self, unix_offset: Nanos) {
        let back = self.config.unix_offset.since(unix_offset);
        self.config.unix_offset = unix_offset;
        if back < CLOCK_STEP {
            return;
        }
        let Some(key) = &self.key else { return };
        self.opener = Some(Opener::new(key, Dir::In));
        let unix = self.now + unix_offset;
        let mut used: BTreeSet<u16> = self.units.iter().map(|u| u.stream).collect();
        let stream = unused_stream(&mut self.control_rng, &mut used);
        self.control = Some(Sealer::new(key, Dir::Out, stream, unix));
        for unit in self.units.iter_mut().filter(|u| u.sealer.is_some()) {
            unit.stream = unused_stream(&mut self.control_rng, &mut used);
            unit.sealer = Some(Sealer::new(key, Dir::Out, unit.stream, unix));
        }
    }

    pub(super) fn block_time(&self, block: u64) -> Nanos {
        self.epoch + self.config.slot.times(block * self.config.plan_slots)
    }

    pub(super) fn plan_block(&mut self, now: Nanos, block: u64) {
        if self.key.is_none() || self.paused {
            return;
        }
        let first = block * self.config.plan_slots + self.config.lead_slots;
        let mut uplink: Vec<Planned> = Vec::new();
        let mut downlink: Vec<(Nanos, Entry)> = Vec::new();
        let mut dummies: Vec<Dummy> = Vec::new();
        let mut has_downlink = false;
        for slot in first..first + self.config.plan_slots {
            let start = self.epoch + self.config.slot.times(slot);
            if start < now {
                self.report.slots_missed += 1;
                continue;
            }
            for i in 0..self.units.len() {
                let unit = &mut self.units[i];
                let Some(scheduler) = &mut unit.scheduler else {
                    continue;
                };
                has_downlink |= scheduler.generator() != "none";
                dummies.clear();
                if scheduler.plan(slot, &unit.window, &mut dummies).is_err() {
                    self.report.cover_dropped += 1;
                    continue;
                }
                let mut total = Demand::default();
                for d in &dummies {
                    total.packets[d.dir.index()] += 1;
                    total.bytes[d.dir.index()] += u32::from(d.payload);
                    let cost = u64::from(d.payload) + u64::from(self.config.header_bytes);
                    self.report.overhead.cover_packets[d.dir.index()] += 1;
                    self.report.overhead.cover_bytes[d.dir.index()] += cost;
                    match d.dir {
                        Dir::Out => uplink.push(Planned {
                            at: d.at,
                            unit: i,
                            slot: slot as u32,
                            len: d.payload,
                            entries: Vec::new(),
                        }),
                        Dir::In => {
                            self.report.downlink_planned.add(usize::from(d.payload));
                            downlink.push((
                                d.at,
                                Entry {
                                    stream: unit.stream,
                                    payload: d.payload,
                                    offset: Nanos::ZERO,
                                },
                            ));
                        }
                    }
                }
                self.plan_log.insert((slot, i), total);
            }
        }
        if has_downlink && self.config.downlink {
            self.plan_schedules(now, &mut downlink, &mut uplink);
        }
        uplink.sort_by_key(|p| (p.at, p.unit));
        self.planned.extend(uplink);
    }

    /// Puts the downlink's dummies into schedules of constant lengths. An empty block sends one too: it keeps the lease,
    /// and its absence would say something.
    fn plan_schedules(
        &mut self,
        now: Nanos,
        downlink: &mut [(Nanos, Entry)],
        uplink: &mut Vec<Planned>,
    ) {
        downlink.sort_by_key(|(at, e)| (*at, e.stream));
        let body = |len: usize| len - OVERHEAD - 4;
        let per_message = schedule::capacity(body(SCHEDULE_BINS[2]));
        let mut chunks: Vec<&[(Nanos, Entry)]> = downlink.chunks(per_message).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for chunk in chunks {
            let jitter = self.control_rng.random_range(0..self.config.slot.0.max(1));
            let at = now + Nanos(jitter);
            let need = schedule::encoded_len(chunk.len());
            let len = SCHEDULE_BINS
                .into_iter()
                .find(|bin| body(*bin) >= need)
                .unwrap_or(SCHEDULE_BINS[2]);
            self.report.overhead.cover_packets[Dir::Out.index()] += 1;
            self.report.overhead.cover_bytes[Dir::Out.index()] +=
                (len + usize::from(self.config.header_bytes)) as u64;
            let entries = chunk
                .iter()
                .map(|(due, e)| Entry {
                    offset: due.since(at),
                    ..*e
                })
                .collect();
            uplink.push(Planned {
                at,
                unit: CONTROL,
                slot: 0,
                len: len as u16,
                entries,
            });
        }
    }

    /// Seals the next planned datagram into `buf` (1,500 bytes are enough). Datagrams come in time order, before they
    /// are due: the caller sends them at [`Transmit::at`].
    pub fn poll_transmit(&mut self, buf: &mut [u8]) -> Option<Transmit> {
        loop {
            let p = self.planned.pop_front()?;
            let unix = p.at + self.config.unix_offset;
            let total = usize::from(p.len).max(MIN_LEN);
            let (sealed, device, kind) = if p.unit == CONTROL {
                let mut body = Vec::with_capacity(total);
                schedule::encode(unix, &p.entries, &mut body);
                let sealer = self.control.as_mut()?;
                (
                    sealer.seal(unix, Kind::Schedule, &body, total, buf),
                    0,
                    Kind::Schedule,
                )
            } else {
                let mut room = [0u8; Stamp::LEN];
                let body = Stamp {
                    slot: p.slot,
                    at: unix,
                }
                .encode(&mut room, total);
                let Some(sealer) = self.units[p.unit].sealer.as_mut() else {
                    continue;
                };
                (
                    sealer.seal(unix, Kind::Cover, body, total, buf),
                    p.unit,
                    Kind::Cover,
                )
            };
            let Ok(sealed) = sealed else {
                self.report.cover_dropped += 1;
                continue;
            };
            let len = sealed.len();
            if kind == Kind::Cover {
                self.report.cover.add(len);
            } else {
                self.report.schedules.add(len);
            }
            return Some(Transmit {
                at: p.at,
                len,
                device: device as u32,
                kind,
            });
        }
    }

    /// The next planned dummy or schedule, unsealed, for a tunnel that makes its own; in time order, before it is due.
    pub fn poll_plan(&mut self) -> Option<Plan> {
        let p = self.planned.pop_front()?;
        if p.unit == CONTROL {
            self.report.schedules.add(usize::from(p.len));
            let asked = p.entries.iter().map(|e| (p.at + e.offset, e.stream));
            return Some(Plan::Downlink(asked.collect()));
        }
        self.report.cover.add(usize::from(p.len));
        let stream = self.units.get(p.unit).map_or(0, |u| u.stream);
        Some(Plan::Dummy { at: p.at, stream })
    }
}

pub(super) fn unused_stream(rng: &mut impl RngCore, used: &mut BTreeSet<u16>) -> u16 {
    loop {
        let stream = rng.random::<u16>();
        if stream != u16::MAX && used.insert(stream) {
            return stream;
        }
    }
}
