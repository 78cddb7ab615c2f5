//! The sending thread: everything due leaves in one batch, on an absolute schedule.
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chaff_abi::Nanos;
use chaff_sys::clock::{monotonic, unix};
use chaff_sys::thread::{make_realtime, wake_precisely};
use hdrhistogram::Histogram;

use crate::ReplayError;
use crate::plan::Lane;
use crate::schedule::loop_start;
use crate::sys::{self, BATCH, SendBatch};

/// Longest sleep before a look at the stop flag.
const NAP: Nanos = Nanos::from_millis(200);
/// A kernel that takes nothing for this long is broken, not busy.
const STALL: Nanos = Nanos::from_secs(10);
/// Loops that are reported one by one; a bound on memory, later ones are only summed.
pub const MAX_LOOPS: usize = 1024;

/// Where frames go.
#[derive(Debug)]
pub enum Output {
    /// A packet socket or a connected UDP socket: one `sendmmsg` per batch.
    Socket(OwnedFd),
    /// A TUN device: one `write` per packet, it knows no batches.
    Tun(OwnedFd),
}

/// How much of the plan runs, and when.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Full loops.
    pub loops: u64,
    /// Packets of the timeline in one more, partial loop.
    pub tail: u32,
    /// From one loop's start to the next, ns.
    pub period: f64,
    /// Without waiting.
    pub top: bool,
    /// Spin instead of sleeping for the last part before a packet is due.
    pub spin: Nanos,
    /// Ask for real-time priority.
    pub realtime: bool,
    /// Ends the replay, counted from its start.
    pub duration: Option<Nanos>,
}

/// What the sending thread lets others see.
#[derive(Debug, Default)]
pub struct Progress {
    /// Packets whose system call has begun.
    pub announced: AtomicU64,
    /// Packets that left.
    pub sent: AtomicU64,
    /// Unix time at which each slot was last handed to the kernel; empty when nobody asks.
    pub sent_at: Vec<AtomicU64>,
}

/// Shared by the lanes of one replay.
#[derive(Debug, Default)]
pub struct Control {
    /// Monotonic start time of the first loop.
    pub start: AtomicU64,
    /// Ends the replay early.
    pub stop: AtomicBool,
}

/// What a loop did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopStats {
    /// Packets that left.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Monotonic time at which the first left.
    pub first: Nanos,
    /// Monotonic time at which the last left.
    pub last: Nanos,
}

/// What a lane did.
#[derive(Clone, Debug)]
pub struct LaneStats {
    /// Packets that left.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// System calls that were repeated because a queue was full (ENOBUFS, EAGAIN).
    pub retries: u64,
    /// Errors of earlier datagrams that the far end refused; they did not keep this one from leaving.
    pub refused: u64,
    /// ns between a packet's due time and its system call.
    pub lateness: Histogram<u64>,
    /// When the first packet left and when it was due, monotonic.
    pub first: Option<(Nanos, Nanos)>,
    /// When the last packet left and when it was due, monotonic.
    pub last: Option<(Nanos, Nanos)>,
    /// The first [`MAX_LOOPS`] loops.
    pub loops: Vec<LoopStats>,
    /// Whether it ended before its plan did.
    pub stopped: bool,
    /// Why real-time priority was refused, when it was asked for.
    pub no_realtime: Option<io::ErrorKind>,
}

impl LaneStats {
    /// Empty statistics with all memory they will need.
    ///
    /// # Panics
    /// Never: the histogram's bounds are valid.
    pub fn new() -> Self {
        Self {
            packets: 0,
            bytes: 0,
            retries: 0,
            refused: 0,
            lateness: histogram(),
            first: None,
            last: None,
            loops: Vec::with_capacity(MAX_LOOPS),
            stopped: false,
            no_realtime: None,
        }
    }

    /// By how much the distance of first and last packet is longer than planned, ns.
    pub fn drift(&self) -> i64 {
        match (self.first, self.last) {
            (Some((f, f_due)), Some((l, l_due))) => (l - f).0 as i64 - (l_due - f_due).0 as i64,
            _ => 0,
        }
    }
}

impl Default for LaneStats {
    fn default() -> Self {
        Self::new()
    }
}

/// A histogram of nanoseconds up to an hour with three digits; values above count as an hour.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("the bounds are valid")
}

/// Prepares the calling thread: priority, timers, memory.
pub fn prepare(lane: &Lane, run: &Run, stats: &mut LaneStats) {
    wake_precisely();
    // At top speed a real-time thread would starve whoever has to receive.
    if run.realtime
        && !run.top
        && let Err(e) = make_realtime(50)
    {
        stats.no_realtime = Some(e.kind());
    }
    // Best effort: the bytes were just written, so they are in memory anyway.
    let _ = sys::lock_memory(&lane.bytes);
}

/// Sends a lane's share of the whole run; blocks until it is done.
///
/// # Errors
/// [`ReplayError::Send`] for anything but a full queue.
pub fn send(
    name: &str,
    lane: &Lane,
    output: &Output,
    run: &Run,
    control: &Control,
    progress: &Progress,
    stats: &mut LaneStats,
) -> Result<(), ReplayError> {
    let start = Nanos(control.start.load(Ordering::Acquire));
    let mut sender = Sender {
        lane,
        output,
        progress,
        stats,
        batch: SendBatch::default(),
        spin: run.spin,
        end: run.duration.map_or(Nanos::MAX, |d| start + d),
        stop: &control.stop,
        begun: 0,
    };
    let mut number = 0;
    while number < run.loops || (number == run.loops && run.tail > 0) {
        let slots = if number < run.loops {
            lane.slots.len()
        } else {
            lane.slots.partition_point(|s| s.order < run.tail)
        };
        let base = loop_start(start, run.period, number);
        let done = if run.top {
            sender.loop_at_top_speed(slots)
        } else {
            sender.timed_loop(base, slots)
        };
        let done = done.map_err(|source| {
            control.stop.store(true, Ordering::Relaxed);
            ReplayError::Send {
                target: name.to_owned(),
                packet: sender.stats.packets + 1,
                source,
            }
        })?;
        if !done {
            sender.stats.stopped = true;
            break;
        }
        number += 1;
    }
    Ok(())
}

struct Sender<'a> {
    lane: &'a Lane,
    output: &'a Output,
    progress: &'a Progress,
    stats: &'a mut LaneStats,
    batch: SendBatch,
    spin: Nanos,
    end: Nanos,
    stop: &'a AtomicBool,
    /// Packets whose system call has begun.
    begun: u64,
}

impl Sender<'_> {
    /// Returns false when stopped.
    fn timed_loop(&mut self, base: Nanos, slots: usize) -> io::Result<bool> {
        let mut this = LoopStats::default();
        let mut next = 0;
        while next < slots {
            let due = base + self.lane.slots[next].due;
            let Some(now) = self.wait(due) else {
                self.close(this);
                return Ok(false);
            };
            let batch = self.lane.slots[next..slots.min(next + BATCH)]
                .iter()
                .take_while(|s| base + s.due <= now)
                .count();
            self.hand_over(next, batch)?;
            for slot in &self.lane.slots[next..next + batch] {
                self.stats
                    .lateness
                    .saturating_record((now - (base + slot.due)).0);
            }
            let last_due = base + self.lane.slots[next + batch - 1].due;
            self.account(next, batch, now, (due, last_due), &mut this);
            next += batch;
        }
        self.close(this);
        Ok(true)
    }

    fn loop_at_top_speed(&mut self, slots: usize) -> io::Result<bool> {
        let mut this = LoopStats::default();
        let mut next = 0;
        let mut now = monotonic();
        while next < slots {
            if self.stop.load(Ordering::Relaxed) || now >= self.end {
                self.close(this);
                return Ok(false);
            }
            let batch = BATCH.min(slots - next);
            self.hand_over(next, batch)?;
            self.account(next, batch, now, (now, now), &mut this);
            now = monotonic();
            next += batch;
        }
        this.last = now;
        if let Some(last) = &mut self.stats.last {
            *last = (now, now);
        }
        self.close(this);
        Ok(true)
    }

    /// Sleeps until `due`; returns the time then, or `None` to stop.
    fn wait(&self, due: Nanos) -> Option<Nanos> {
        loop {
            let now = monotonic();
            if self.stop.load(Ordering::Relaxed) || now >= self.end {
                return None;
            }
            if now >= due {
                return Some(now);
            }
            let wake = due - self.spin;
            if now < wake {
                sys::sleep_until(wake.min(now + NAP).min(self.end));
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Gives `count` slots from `first` on to the kernel, repeating what a full queue refuses.
    fn hand_over(&mut self, first: usize, count: usize) -> io::Result<()> {
        self.begun += count as u64;
        self.progress.announced.store(self.begun, Ordering::Release);
        if !self.progress.sent_at.is_empty() {
            let at = unix().0;
            for slot in &self.progress.sent_at[first..first + count] {
                slot.store(at, Ordering::Release);
            }
        }
        let mut left = &self.lane.slots[first..first + count];
        let mut stalled: Option<Nanos> = None;
        while !left.is_empty() {
            let sent = match self.output {
                Output::Socket(fd) => self
                    .batch
                    .send(fd.as_fd(), left.iter().map(|s| self.lane.frame(s))),
                Output::Tun(fd) => sys::write(fd.as_fd(), self.lane.frame(&left[0])).map(|()| 1),
            };
            match sent {
                Ok(n) => {
                    left = &left[n..];
                    stalled = None;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => self.stats.refused += 1,
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {
                    self.stats.retries += 1;
                    let now = monotonic();
                    if now - *stalled.get_or_insert(now) > STALL
                        || self.stop.load(Ordering::Relaxed)
                    {
                        return Err(e);
                    }
                    // A full queue gives no event to wait for; 50 µs is a few frames at 1 Gbit/s.
                    sys::sleep_until(now + Nanos::from_micros(50));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn account(
        &mut self,
        first: usize,
        count: usize,
        now: Nanos,
        (due, last_due): (Nanos, Nanos),
        this: &mut LoopStats,
    ) {
        let slots = &self.lane.slots[first..first + count];
        let bytes: u64 = slots.iter().map(|s| u64::from(s.len)).sum();
        if this.packets == 0 {
            this.first = now;
        }
        this.packets += count as u64;
        this.bytes += bytes;
        this.last = now;
        self.stats.packets += count as u64;
        self.stats.bytes += bytes;
        self.stats.first.get_or_insert((now, due));
        self.stats.last = Some((now, last_due));
        self.progress
            .sent
            .store(self.stats.packets, Ordering::Release);
    }

    fn close(&mut self, this: LoopStats) {
        if self.stats.loops.len() < MAX_LOOPS && this.packets > 0 {
            self.stats.loops.push(this);
        }
    }
}
