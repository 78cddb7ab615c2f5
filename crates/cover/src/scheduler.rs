use crate::mask::Masking;
use crate::streams::Streams;
use crate::{
    CoverError, Demand, Dummy, Generator, HEADERS_V4, Limits, Overhead, TokenBucket, Window,
    place_direction, place_sizes,
};
use chaff_abi::{Dir, Nanos};

/// When a device gets cover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Always. What the device does changes nothing.
    #[default]
    Always,
    /// From its first real packet until `tail` after its last one, as iPET does (5 s). Shows the observer when the device
    /// is active. What counts is the window at planning time, in whole slots: a scheduler that plans slots ahead starts
    /// and stops later by as many.
    Active {
        /// How long cover goes on in silence.
        tail: Nanos,
    },
}

impl Mode {
    /// iPET's: until 5 s after the last packet.
    pub const ACTIVE: Self = Self::Active {
        tail: Nanos::from_secs(5),
    };
}

/// A bound on IP bytes of cover, both directions together. Dummies that find the bucket empty are left out and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Mean rate.
    pub bytes_per_second: u64,
    /// Burst; at least one dummy of the largest size, or none of these ever passes.
    pub burst_bytes: u64,
}

/// Settings of a [`Scheduler`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// The device's name. Part of what the random streams depend on: devices with one seed need different labels.
    pub label: String,
    /// Sizes and counts, see there.
    pub limits: Limits,
    /// When, default always; a generator with a [`crate::Mask`] has its own say.
    pub mode: Mode,
    /// How many bytes at most, default unbounded.
    pub budget: Option<Budget>,
    /// Headers below a dummy's payload that are charged to the budget and reported, bytes; default [`HEADERS_V4`].
    pub header_bytes: u16,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            label: String::new(),
            limits: Limits::default(),
            mode: Mode::default(),
            budget: None,
            header_bytes: HEADERS_V4,
        }
    }
}

/// Longest block of a generator, slots; bounds a scheduler's memory to 1 MiB.
const MAX_ROWS: usize = 65_536;

/// Plans the cover of one device, slot by slot.
pub struct Scheduler {
    config: SchedulerConfig,
    generator: Box<dyn Generator>,
    streams: Streams,
    epoch: Nanos,
    bucket: Option<TokenBucket>,
    overhead: Overhead,
    masking: Option<Masking>,
    block: Vec<Demand>,
    /// Number of the block in `block`.
    filled: Option<u64>,
    /// The first slot that can still be planned, once one was.
    next: Option<u64>,
}

impl Scheduler {
    /// A scheduler whose slot 0 begins at `epoch`. All its randomness comes from `seed` and the label.
    pub fn new(
        config: SchedulerConfig,
        mut generator: Box<dyn Generator>,
        seed: [u8; 32],
        epoch: Nanos,
    ) -> Self {
        let streams = Streams::new(&seed, &config.label);
        generator.start(&mut streams.start());
        let bucket = config
            .budget
            .map(|b| TokenBucket::new(b.bytes_per_second, b.burst_bytes));
        Self {
            masking: generator.mask().map(Masking::new),
            config,
            generator,
            streams,
            epoch,
            bucket,
            overhead: Overhead::default(),
            block: Vec::new(),
            filled: None,
            next: None,
        }
    }

    /// Appends the dummies of a slot to `out`, in order of time; they lie in [`Scheduler::slot_start`] and the slot's length from there.
    ///
    /// Slots go up and may be skipped: what a slot gets depends on its number, not on the slots before (the budget
    /// aside). In [`Mode::Active`] `past` decides whether the slot has cover, never which.
    ///
    /// # Errors
    /// [`CoverError::SlotBack`] for a slot that was planned or passed, [`CoverError::SlotTime`], and the generator's. After an error nothing
    /// was appended and the same slot can be tried again.
    pub fn plan(
        &mut self,
        slot: u64,
        past: &Window,
        out: &mut Vec<Dummy>,
    ) -> Result<(), CoverError> {
        if let Some(next) = self.next
            && slot < next
        {
            return Err(CoverError::SlotBack { slot, next });
        }
        let start = self.slot_start(slot)?;
        let want = self.demand(slot, past)?;

        self.overhead.slots += 1;
        self.overhead.skipped_slots += self.next.map_or(0, |next| slot - next);
        self.overhead = self.overhead.with_real(past.total());
        self.next = Some(slot.saturating_add(1));
        if !self.active(slot, start, past) {
            self.overhead.inactive_slots += 1;
            return Ok(());
        }
        let from = out.len();
        for dir in Dir::BOTH {
            let mut rng = self.streams.place(dir, slot);
            let length = self.generator.slot();
            let limits = &self.config.limits;
            let placed = match self.generator.sizes() {
                [] => place_direction(start, length, dir, want, limits, &mut rng, out),
                sizes => place_sizes(start, length, dir, want, sizes, limits, &mut rng, out),
            };
            self.overhead.by_dir[dir.index()].note(&placed);
        }
        out[from..].sort_unstable();
        self.charge(from, out);
        Ok(())
    }

    /// What cover costs so far.
    pub const fn overhead(&self) -> Overhead {
        self.overhead
    }

    /// Length of a slot.
    pub fn slot(&self) -> Nanos {
        self.generator.slot()
    }

    /// The slot in which a time lies, 0 before the first.
    pub fn slot_at(&self, now: Nanos) -> u64 {
        now.since(self.epoch)
            .0
            .checked_div(self.slot().0)
            .unwrap_or(0)
    }

    /// When a slot begins.
    ///
    /// # Errors
    /// [`CoverError::SlotTime`] when slots have no length or time has no room for the slot.
    pub fn slot_start(&self, slot: u64) -> Result<Nanos, CoverError> {
        let length = self.slot();
        let start = length
            .0
            .checked_mul(slot)
            .and_then(|t| t.checked_add(self.epoch.0))
            .filter(|t| length.0 > 0 && t.checked_add(length.0).is_some());
        start.map(Nanos).ok_or(CoverError::SlotTime {
            slot,
            length,
            epoch: self.epoch,
        })
    }

    /// The settings.
    pub const fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Name of the generator.
    pub fn generator(&self) -> &str {
        self.generator.name()
    }

    fn demand(&mut self, slot: u64, past: &Window) -> Result<Demand, CoverError> {
        let rows = self.generator.rows();
        if !(1..=MAX_ROWS).contains(&rows) {
            return Err(CoverError::Parameter {
                name: "rows",
                value: rows as f64,
                allowed: "1 to 65,536 slots in a block",
            });
        }
        let block = slot / rows as u64;
        if self.filled != Some(block) {
            self.filled = None;
            self.block.clear();
            self.block.resize(rows, Demand::NONE);
            self.generator.seek(block * rows as u64);
            let mut rng = self.streams.generate(block);
            self.generator.fill(past, &mut rng, &mut self.block)?;
            self.filled = Some(block);
        }
        // The remainder is below `rows`, the length.
        Ok(self.block[(slot % rows as u64) as usize])
    }

    fn active(&mut self, slot: u64, start: Nanos, past: &Window) -> bool {
        let length = self.slot();
        if let Some(masking) = &mut self.masking {
            let now = past.idle_slots() == Some(0);
            return masking.covers(start, length, now, &mut self.streams.mask(slot));
        }
        match self.config.mode {
            Mode::Always => true,
            Mode::Active { tail } => past
                .idle_slots()
                .is_some_and(|idle| self.slot().times(idle) < tail),
        }
    }

    /// Takes the dummies from `from` on out of the budget, in order of time, and removes those that find none left.
    fn charge(&mut self, from: usize, out: &mut Vec<Dummy>) {
        let mut kept = from;
        for i in from..out.len() {
            let dummy = out[i];
            let payload = u64::from(dummy.payload);
            let ip = payload + u64::from(self.config.header_bytes);
            let cost = &mut self.overhead.by_dir[dummy.dir.index()];
            if self.bucket.as_mut().is_none_or(|b| b.take(dummy.at, ip)) {
                cost.sent(payload, ip);
                out[kept] = dummy;
                kept += 1;
            } else {
                cost.dropped(ip);
            }
        }
        out.truncate(kept);
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler")
            .field("config", &self.config)
            .field("generator", &self.generator.name())
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
