//! The loop that drives the engine. Whatever it does in one turn is bounded, so that planned cover leaves in time.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use chaff_abi::{Nanos, Reason, SLOT_RING, SlotCounters};
use chaff_engine::{Event, Gateway};
use serde_json::json;
use tokio::io::Interest;
use tokio::time::{Instant, sleep_until};

use super::control::Control;
use super::feed::{Batch, Feed};
use super::locks::Locks;
use super::{CoverSide, Opened, Setup, Signals};
use crate::alerts;
use crate::config::File;
use crate::control::Request;
use crate::datapath::{HookInUse, ReasonCounts, SlotView, clock_triple};
use crate::export::Exports;
use crate::hints::Hints;
use crate::processes::Processes;
use crate::telemetry::{self, FileBook};
use crate::tunnel::TunnelSide;
use chaff_privacy::telemetry::Book as _;
use chaff_sys::clock::monotonic;

/// Datagrams from the sink, taken by one system call.
type Arrivals = chaff_sys::Batch<64>;

/// Time after which a sink that never answered is worth a word.
const SILENCE: Nanos = Nanos::from_secs(10);
/// Time between two writings of what the alerts learnt.
const HISTORY: Nanos = Nanos::from_secs(600);
/// Places of the slot ring that stay readable behind the reader; they are cleared after that, long before they are used
/// again, so a place never holds counts that were read already.
const BEHIND: u64 = 8;
/// Time after a slot's end at which its counts are read: programs that began inside the slot have ended by then.
const SETTLE: Nanos = Nanos::from_millis(2);
/// Events written in one turn; the others wait for the next.
const EVENTS: usize = 1_024;

/// The running gateway.
pub(super) struct Live {
    pub(super) file: File,
    pub(super) feed: Feed,
    slots: SlotView,
    pub(super) reasons: ReasonCounts,
    pub(super) hooks: Vec<(String, HookInUse)>,
    pub(super) cover: Option<CoverSide>,
    pub(super) tunnel: Option<TunnelSide>,
    pub(super) engine: Gateway,
    processes: Option<Processes>,
    pub(super) exports: Exports,
    book: Option<FileBook>,
    control: Control,
    _locks: Locks,
    pub(super) started: Nanos,
    next_slot: u64,
    next_second: Nanos,
    next_history: Nanos,
    resume_at: Option<Nanos>,
    pub(super) adopted: bool,
    /// Counts of an earlier process whose maps were taken over.
    pub(super) before: [u64; Reason::COUNT as usize],
    /// Packets in flow records of this process, open flows included.
    pub(super) recorded: u64,
    pub(super) direct: u64,
    pub(super) hints: Option<Hints>,
    /// Events are left for the next turn.
    has_more: bool,
    warned_of_silence: bool,
    buf: Vec<u8>,
    refused_release: bool,
}

impl Live {
    pub(super) fn new(
        file: &File,
        setup: Setup,
        opened: Opened,
        locks: Locks,
    ) -> anyhow::Result<Self> {
        let Setup {
            meter,
            cover,
            tunnel,
            engine,
            processes,
        } = setup;
        let processes = processes.map(|exact| {
            exact.unwrap_or_else(|why| {
                tracing::warn!(
                    why,
                    "processes are read from /proc ten times a second: sockets that live shorter are missed, and without \
                     root (gateway.user) all sockets of others"
                );
                let keep = file.flows.idle_timeout.0 + Nanos::from_secs(10);
                Processes::from_proc(Duration::from_nanos(keep.0), why)
            })
        });
        for (name, hook) in meter.hook_in_use() {
            tracing::info!(interface = %name, hook = ?hook, "meter attached");
        }
        let adopted = meter.adopted().is_some();
        if adopted {
            let seen = opened.before[Reason::Seen as usize];
            tracing::warn!(
                seen,
                "took over the meter of an earlier run; flows that were open there have no record (unrecorded_packets)"
            );
        }
        let started = engine.epoch();
        Ok(Self {
            file: file.clone(),
            slots: meter.slots(),
            reasons: meter.reason_counts(),
            hooks: meter.hook_in_use().to_vec(),
            feed: Feed::start(meter, file.flows.drain.0)?,
            cover,
            tunnel,
            engine,
            processes,
            exports: opened.exports,
            book: opened.book,
            control: opened.control,
            _locks: locks,
            started,
            next_slot: 0,
            next_second: started + Nanos::from_secs(1),
            next_history: started + HISTORY,
            resume_at: None,
            adopted,
            before: opened.before,
            recorded: 0,
            direct: 0,
            hints: file.flows.hints.then(|| Hints::new(started)),
            has_more: false,
            warned_of_silence: false,
            buf: vec![0; 2_048],
            refused_release: false,
        })
    }

    pub(super) async fn serve(mut self, mut signals: Signals) -> anyhow::Result<ExitCode> {
        let socket = match &self.cover {
            Some(c) => {
                let shared = c
                    .socket
                    .try_clone()
                    .context("while sharing the cover socket")?;
                shared
                    .set_nonblocking(true)
                    .context("while sharing the cover socket")?;
                Some(
                    tokio::net::UdpSocket::from_std(shared)
                        .context("while watching the cover socket")?,
                )
            }
            None => None,
        };
        let mut batch = Arrivals::new(2_048);
        tracing::info!(devices = self.file.devices.len(), cover = ?self.file.cover.mode, "gateway runs");
        loop {
            // What is due comes first, whatever else waits.
            let mut delay = self.next_wake().since(monotonic());
            if delay == Nanos::ZERO {
                self.tick();
                delay = self.next_wake().since(monotonic());
            }
            let delay = Duration::from_nanos(delay.0);
            tokio::select! {
                () = signals.any() => break,
                () = sleep_until(Instant::now() + delay) => (),
                ready = readable(socket.as_ref()) => {
                    ready.context("while watching the cover socket")?;
                    if let Some(s) = &socket {
                        // Only `WouldBlock` matters, and tokio takes note of it.
                        let _ready = s.try_io(Interest::READABLE, || self.receive(&mut batch));
                    }
                }
                asked = self.control.next() => {
                    let answer = self.handle(&asked.request);
                    asked.answer(&answer);
                }
                batch = self.feed.next() => {
                    let Some(batch) = batch else {
                        bail!("the thread that reads flows has ended");
                    };
                    self.take(batch);
                    // Timers and sockets are looked at between two batches, however many wait.
                    tokio::task::yield_now().await;
                }
            }
        }
        drop(socket);
        self.stop().await
    }

    fn slot_end(&self, slot: u64) -> Nanos {
        self.started + self.file.cover.slot.0.times(slot + 1)
    }

    fn next_wake(&self) -> Nanos {
        if self.has_more {
            return Nanos::ZERO;
        }
        let slot = self.slot_end(self.next_slot) + SETTLE;
        let engine = self.engine.poll_timeout().map_or(Nanos::MAX, |(t, _)| t);
        let resume = self.resume_at.unwrap_or(Nanos::MAX);
        slot.min(engine).min(self.next_second).min(resume)
    }

    fn tick(&mut self) {
        let now = monotonic();
        self.read_slots(now);
        self.engine.handle_timeout(now);
        self.transmit();
        if self.resume_at.is_some_and(|at| now >= at) {
            self.set_paused(false, None);
        }
        self.collect();
        if now >= self.next_second {
            self.next_second = now + Nanos::from_secs(1);
            let clock = clock_triple();
            self.engine
                .set_unix_offset(clock.realtime - clock.monotonic);
            self.exports.time(clock.realtime);
            // Counted and said by the exports.
            let _counted = self.exports.flush();
            if let Some(t) = &mut self.tunnel {
                t.tick(clock.realtime);
            }
            self.warn_of_silence(now);
        }
        if now >= self.next_history {
            self.next_history = now + HISTORY;
            self.save_history();
            self.save_telemetry();
        }
    }

    /// Says once that nothing authentic comes back although it should.
    fn warn_of_silence(&mut self, now: Nanos) {
        let Some(c) = &self.cover else { return };
        if self.warned_of_silence || now < self.started + SILENCE || self.engine.is_paused() {
            return;
        }
        let report = self.engine.report();
        let wanted = report.downlink_planned.packets >= 10;
        if wanted && report.downlink.packets == 0 {
            let errors = c.injector.stats().errors;
            tracing::warn!(
                errors,
                "no downlink cover came back from the sink: is it running, and is its key the same?"
            );
            self.warned_of_silence = true;
        }
    }

    /// Writes what the alerts learnt, so that a crash leaves either the old or the new file.
    fn save_history(&mut self) -> bool {
        let path = self.file.state(Path::new("history.json"));
        let written = alerts::write(&path, &self.engine.history());
        if let Err(e) = &written {
            tracing::warn!(error = %e, "cannot store what the alerts learnt");
        }
        written.is_ok()
    }

    /// Stores what the telemetry has of the open window.
    fn save_telemetry(&mut self) -> bool {
        let (Some(book), Some(releases)) = (&mut self.book, self.engine.releases()) else {
            return true;
        };
        let stored = book.store(&releases.exporter().to_state());
        if let Err(e) = &stored {
            tracing::warn!(error = %e, "cannot store the telemetry's state");
        }
        stored.is_ok()
    }

    /// Makes the next private release. Paying waits for the disk, so one a turn: cover must not wait for all.
    fn release(&mut self) {
        let Some(book) = &mut self.book else { return };
        match self.engine.poll_release(book) {
            None => return,
            Some(Ok(published)) => self.exports.release(&published),
            Some(Err(e)) => {
                if !self.refused_release {
                    tracing::warn!(error = %e, "a window of telemetry is not released; further ones are only counted");
                    self.refused_release = true;
                }
                return;
            }
        }
        let path = &self.file.export.prometheus;
        if let Some(releases) = self.engine.releases()
            && !path.as_os_str().is_empty()
        {
            let published = releases.exporter().published();
            if let Err(e) = telemetry::write_prometheus(&self.file.state(path), published) {
                tracing::warn!(error = %e, "cannot write export.prometheus");
            }
        }
    }

    /// Hands every finished slot to the engine. A place of the ring is cleared once it was read, so after standing still
    /// for longer than the ring, counts of several slots are in one, but none is lost or counted twice.
    fn read_slots(&mut self, now: Nanos) {
        let ring = u64::from(SLOT_RING);
        let current = now.since(self.started).0 / self.file.cover.slot.0.0;
        let oldest = current.saturating_sub(ring - BEHIND - 1);
        if self.next_slot < oldest {
            tracing::warn!(
                slots = current - self.next_slot,
                "the gateway stood still; counts of slots are merged"
            );
            let view = self.slots.clone();
            (self.next_slot.saturating_sub(BEHIND)..self.next_slot).for_each(|s| view.clear(s));
            self.next_slot = oldest;
        }
        while self.slot_end(self.next_slot) + SETTLE <= now {
            self.read_slot(now);
        }
    }

    /// Hands the next slot over, finished or not.
    fn read_slot(&mut self, now: Nanos) {
        let view = &self.slots;
        let units = self.file.devices.len() as u32 + 1;
        let slot = self.next_slot;
        let counts: Vec<SlotCounters> = (0..units).map(|i| view.read(i, slot)).collect();
        self.engine.handle_slot(now, slot, &counts);
        if slot >= BEHIND {
            view.clear(slot - BEHIND);
        }
        self.next_slot += 1;
    }

    /// Moves what the kernel counted into the table.
    fn take(&mut self, batch: Batch) {
        let now = monotonic();
        match batch {
            Batch::Records(records) => {
                self.direct += records.len() as u64;
                for record in &records {
                    if record.cover == 0 {
                        self.recorded += u64::from(record.segments.max(1));
                    }
                    self.engine.handle_direct(now, record);
                }
            }
            Batch::Flows(flows) => {
                for (key, value) in flows {
                    self.recorded += value.counters.iter().map(|c| c.packets).sum::<u64>();
                    self.engine.handle_counters(now, key, &value);
                }
            }
            Batch::Hints(copies) => {
                for (header, bytes) in copies {
                    if let Some(hints) = &mut self.hints {
                        hints.push(header, bytes);
                    }
                }
            }
            Batch::Drained(at) => {
                if let Some(hints) = &mut self.hints {
                    hints.show(at, &mut self.engine);
                }
            }
        }
        self.collect();
    }

    fn transmit(&mut self) {
        if let Some(t) = &self.tunnel {
            let engine = &mut self.engine;
            t.plan(std::iter::from_fn(|| engine.poll_plan()));
            return;
        }
        while let Some(t) = self.engine.poll_transmit(&mut self.buf) {
            if let Some(c) = &self.cover {
                // A full queue is counted by the injector.
                let _counted = c.injector.submit(t.at, &self.buf[..t.len]);
            }
        }
    }

    fn receive(&mut self, batch: &mut Arrivals) -> io::Result<()> {
        let Some(c) = &self.cover else { return Ok(()) };
        let now = monotonic();
        batch.receive(&c.socket)?;
        for (_, datagram) in batch.datagrams() {
            let _counted = self.engine.handle_datagram(now, datagram);
        }
        Ok(())
    }

    /// Writes what happened, as much as one turn allows.
    fn collect(&mut self) {
        self.exports.time_offset = self.engine.config().unix_offset;
        let mut left = EVENTS;
        self.has_more = loop {
            if left == 0 {
                break true;
            }
            left -= 1;
            let Some(mut event) = self.engine.poll_event() else {
                break false;
            };
            match &mut event {
                Event::Alert(alert) => alerts::log(alert),
                Event::NewDevice(mac) => tracing::debug!(%mac, "a device that is not configured"),
                Event::Flow(record) => {
                    let find = |p: &Processes| p.lookup(&record.key);
                    record.process = self.processes.as_ref().and_then(find);
                }
                Event::Slot(_) => {}
            }
            let engine = &self.engine;
            self.exports
                .write(&event, |i| engine.label(i as usize).to_owned());
        };
        self.release();
    }

    fn set_paused(&mut self, paused: bool, until: Option<Nanos>) {
        self.engine.set_paused(paused);
        if let Some(c) = &self.cover {
            if paused {
                c.injector.pause()
            } else {
                c.injector.resume()
            }
        }
        if let Some(t) = &mut self.tunnel {
            t.set_paused(paused);
        }
        self.resume_at = until;
        tracing::info!(paused, "cover");
    }

    fn handle(&mut self, request: &Request) -> serde_json::Value {
        match request {
            Request::Status => self.status(),
            Request::Pause { seconds } => {
                let until = seconds.map(|s| monotonic() + Nanos::from_secs(s));
                self.set_paused(true, until);
                json!({ "paused": true, "seconds": seconds })
            }
            Request::Resume => {
                self.set_paused(false, None);
                json!({ "paused": false })
            }
            Request::Accept { id } => {
                let answer = alerts::accept(&mut self.engine, *id);
                self.save_history();
                answer
            }
        }
    }

    /// Ends cover, reads what is still in the kernel, writes everything out, detaches.
    async fn stop(mut self) -> anyhow::Result<ExitCode> {
        tracing::info!("stopping");
        if let Some(c) = &self.cover {
            c.injector.pause();
        }
        self.feed.stop();
        while let Some(batch) = self.feed.next().await {
            self.take(batch);
            self.read_slots(monotonic());
        }
        let now = monotonic();
        self.read_slots(now);
        self.read_slot(now);
        self.engine.finish(monotonic());
        self.has_more = true;
        while self.has_more {
            self.collect();
        }
        let status = self.status();
        let mut failed = !self.save_history();
        failed |= !self.save_telemetry();
        failed |= self.exports.finish().is_err();
        failed |= self.exports.flush().is_err() || self.exports.failed > 0;
        if !self.file.export.report.as_os_str().is_empty() {
            let path = self.file.state(&self.file.export.report);
            let text = format!("{status:#}");
            failed |= std::fs::write(&path, text)
                .map_err(|e| tracing::error!(error = %e, "report lost"))
                .is_err();
        }
        if let Some(c) = self.cover.take() {
            c.injector.stop();
        }
        if let Some(t) = self.tunnel.take() {
            let clock = clock_triple();
            t.finish(clock.realtime);
        }
        let ended = self.feed.join()?;
        ended.stopped.context("while detaching the meter")?;
        ended
            .meter
            .detach()
            .context("while removing the meter's maps")?;
        Ok(ExitCode::from(u8::from(failed)))
    }
}

/// Waits until the cover socket has something; forever when there is none.
async fn readable(socket: Option<&tokio::net::UdpSocket>) -> io::Result<()> {
    match socket {
        Some(s) => s.readable().await,
        None => std::future::pending().await,
    }
}
