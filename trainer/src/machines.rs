//! Maybenot machines on traces: both ends of a tunnel run the framework of the crate `maybenot`, in virtual time.
//!
//! The observer is at the home. Packets take no time between the ends, so that what machines do is all that changes. Padding
//! lasts as long as the session, blocking delays real packets until it ends.

use std::collections::VecDeque;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use chaff_abi::{Dir, Nanos};
use chaff_cover::BINS;
use maybenot::action::Action;
use maybenot::dist::{Dist, DistType};
use maybenot::event::Event;
use maybenot::state::{State, Trans};
use maybenot::{Framework, Machine, MachineId, Timer, TriggerAction, TriggerEvent};
use rand::{Rng, RngCore};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::defend::fitting;
use crate::traces::Seen;

/// Most things that happen in a session; machines that send without pause are stopped here.
const MOST: usize = 5_000_000;
/// Machines of one end.
const MOST_MACHINES: usize = 64;
/// Microseconds of a second: the framework's unit.
const SECOND: f64 = 1e6;

/// Settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Machines by [`Dir`] of what their end sends (the home sends out); without them every session draws its own, see
    /// [`draw`].
    pub fixed: Option<[Vec<Machine>; 2]>,
    /// For drawn machines: how much padding.
    pub scale: f64,
    /// Sizes on the wire, bytes, smallest first; real packets are padded to the next one.
    pub sizes: [u32; BINS],
    /// All packets have the largest size, as in DAITA.
    pub constant_size: bool,
    /// Weights of the sizes of padding packets, where they differ.
    pub mix: [f64; BINS],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fixed: None,
            scale: 1.0,
            sizes: [128, 576, 1420],
            constant_size: false,
            mix: chaff_cover::EnvelopeConfig::default().mix,
        }
    }
}

/// A moment of virtual time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Moment(Nanos);

/// A length of virtual time.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Span(Nanos);

impl std::ops::AddAssign for Span {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl maybenot::time::Duration for Span {
    fn zero() -> Self {
        Self(Nanos::ZERO)
    }
    fn from_micros(us: u64) -> Self {
        Self(Nanos(us.saturating_mul(1_000)))
    }
    fn is_zero(&self) -> bool {
        self.0 == Nanos::ZERO
    }
    fn div_duration_f64(self, other: Self) -> f64 {
        self.0.0 as f64 / other.0.0 as f64
    }
}

impl maybenot::time::Instant for Moment {
    type Duration = Span;
    fn saturating_duration_since(&self, earlier: Self) -> Span {
        Span(self.0.since(earlier.0))
    }
}

/// Reads machines: lines `home MACHINE` or `far MACHINE`, empty ones and such that begin with `#` left out.
///
/// # Errors
/// When the file cannot be read or holds something else; the text names file and line.
pub fn read(path: &Path) -> Result<[Vec<Machine>; 2]> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("while reading {}", path.display()))?;
    let mut out = [Vec::new(), Vec::new()];
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = || format!("{}, line {number}", path.display());
        let dir = match line.split_once(char::is_whitespace) {
            Some(("home", _)) => Dir::Out,
            Some(("far", _)) => Dir::In,
            _ => bail!("{}: wanted `home MACHINE` or `far MACHINE`", place()),
        };
        let machine = line.split_whitespace().nth(1).unwrap_or("");
        let machine = Machine::from_str(machine)
            .map_err(|e| anyhow::anyhow!("{}: no machine: {e}", place()))?;
        out[dir.index()].push(machine);
    }
    match out.iter().map(Vec::len).max() {
        Some(1..=MOST_MACHINES) => Ok(out),
        _ => bail!(
            "{}: wanted 1 to {MOST_MACHINES} machines an end",
            path.display()
        ),
    }
}

/// Two machines with random numbers, so that no two homes run the same ones: one that pads in silence, after pauses that it draws, and
/// one that pads in runs of random length behind some of the real packets. `scale` multiplies the padding.
///
/// # Errors
/// Never for a positive scale; the framework's own checks.
pub fn draw(scale: f64, rng: &mut dyn RngCore) -> Result<Vec<Machine>, maybenot::Error> {
    let mut between = |low: f64, high: f64| low * (high / low).powf(rng.random::<f64>());
    let low = between(0.2, 1.5) * SECOND / scale;
    let high = low * between(2.0, 8.0);
    let chance = between(0.05, 0.3) as f32;
    let longest = (between(4.0, 30.0) * scale).max(2.0);
    let gap = (between(0.005, 0.1) * SECOND).ln();
    let uniform = |low: f64, high: f64| Dist {
        dist: DistType::Uniform { low, high },
        start: 0.0,
        max: 0.0,
    };
    let pad = |timeout: Dist, limit: Option<Dist>| Action::SendPadding {
        bypass: false,
        replace: false,
        timeout,
        limit,
    };
    let to = |state: usize, p: f32| vec![Trans(state, p)];

    let wait = State::new(enum_map::enum_map! {
        Event::NormalSent | Event::NormalRecv => to(1, 1.0),
        _ => vec![],
    });
    let mut silence = State::new(enum_map::enum_map! {
        Event::NormalSent | Event::NormalRecv | Event::PaddingSent => to(1, 1.0),
        _ => vec![],
    });
    silence.action = Some(pad(uniform(low, high), None));
    let first = Machine::new(u64::MAX, 0.0, 0, 0.0, vec![wait, silence])?;

    let wait = State::new(enum_map::enum_map! {
        Event::NormalSent | Event::NormalRecv => to(1, chance),
        _ => vec![],
    });
    let mut run = State::new(enum_map::enum_map! {
        Event::PaddingSent => to(1, 1.0),
        Event::LimitReached => to(0, 1.0),
        _ => vec![],
    });
    let timeout = Dist {
        dist: DistType::LogNormal {
            mu: gap,
            sigma: 1.5,
        },
        start: 0.0,
        max: 10.0 * SECOND,
    };
    run.action = Some(pad(timeout, Some(uniform(1.0, longest))));
    let second = Machine::new(u64::MAX, 0.0, 0, 0.0, vec![wait, run])?;
    Ok(vec![first, second])
}

/// What an action timer does when it expires.
#[derive(Clone, Copy)]
enum Due {
    Padding {
        bypass: bool,
        replace: bool,
    },
    Block {
        length: Nanos,
        bypass: bool,
        replace: bool,
    },
}

/// Blocking of what an end sends.
#[derive(Clone, Copy)]
struct Block {
    until: Nanos,
    /// Padding with the same flag may pass.
    bypass: bool,
}

/// One end of the tunnel.
struct End {
    framework: Framework<Vec<Machine>, ChaCha20Rng, Moment>,
    actions: Vec<Option<(Nanos, Due)>>,
    timers: Vec<Option<Nanos>>,
    block: Option<Block>,
    waiting: VecDeque<Seen>,
}

/// What happens next.
#[derive(Clone, Copy)]
enum Next {
    Real,
    Action(usize, usize),
    Timer(usize, usize),
    Unblock(usize),
}

struct Tunnel<'a> {
    ends: [End; 2],
    options: &'a Options,
    rng: ChaCha20Rng,
    events: VecDeque<(usize, TriggerEvent)>,
    out: Vec<Seen>,
}

/// The session with these machines, which run until `last`, as an observer sees it.
///
/// # Errors
/// For machines that the framework refuses, and such that send without end.
pub fn apply(
    real: &[Seen],
    last: Nanos,
    options: &Options,
    rng: &mut dyn RngCore,
) -> Result<Vec<Seen>> {
    let real = fitting(real, options.sizes[BINS - 1]);
    let mut end = |dir: Dir| -> Result<End> {
        let machines = match &options.fixed {
            Some(fixed) => fixed[dir.index()].clone(),
            None => draw(options.scale, rng)?,
        };
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let count = machines.len();
        let rng = ChaCha20Rng::from_seed(seed);
        Ok(End {
            framework: Framework::new(machines, 0.0, 0.0, Moment(Nanos::ZERO), rng)?,
            actions: vec![None; count],
            timers: vec![None; count],
            block: None,
            waiting: VecDeque::new(),
        })
    };
    let ends = [end(Dir::BOTH[0])?, end(Dir::BOTH[1])?];
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    let mut tunnel = Tunnel {
        ends,
        options,
        rng: ChaCha20Rng::from_seed(seed),
        events: VecDeque::new(),
        out: Vec::with_capacity(real.len()),
    };
    let mut next_real = 0;
    for _ in 0..MOST {
        let Some((at, next)) = tunnel.next(real.get(next_real).map(|p| p.at), last) else {
            tunnel.out.sort_by_key(|p| p.at);
            return Ok(tunnel.out);
        };
        match next {
            Next::Real => {
                tunnel.real(at, real[next_real]);
                next_real += 1;
            }
            Next::Action(end, machine) => tunnel.action(at, end, machine),
            Next::Timer(end, machine) => {
                tunnel.ends[end].timers[machine] = None;
                let machine = MachineId::from_raw(machine);
                tunnel.tell(at, end, TriggerEvent::TimerEnd { machine });
            }
            Next::Unblock(end) => {
                tunnel.ends[end].block = None;
                let queue = std::mem::take(&mut tunnel.ends[end].waiting);
                queue.into_iter().for_each(|p| tunnel.send(at, end, p));
                tunnel.tell(at, end, TriggerEvent::BlockingEnd);
            }
        }
    }
    bail!("the machines do more than {MOST} things in one session")
}

impl Tunnel<'_> {
    /// The earliest thing to do; after `last` only what waits is let out.
    fn next(&self, real: Option<Nanos>, last: Nanos) -> Option<(Nanos, Next)> {
        let mut best = real.map(|at| (at, Next::Real));
        let mut take = |at: Nanos, what: Next| {
            if best.is_none_or(|(b, _)| at < b) {
                best = Some((at, what));
            }
        };
        for (e, end) in self.ends.iter().enumerate() {
            for m in 0..end.actions.len() {
                if let Some((at, _)) = end.actions[m].filter(|a| a.0 <= last) {
                    take(at, Next::Action(e, m));
                }
                if let Some(at) = end.timers[m].filter(|at| *at <= last) {
                    take(at, Next::Timer(e, m));
                }
            }
            if let Some(b) = end
                .block
                .filter(|b| b.until <= last || !end.waiting.is_empty())
            {
                take(b.until, Next::Unblock(e));
            }
        }
        best
    }

    fn real(&mut self, at: Nanos, packet: Seen) {
        let end = packet.dir.index();
        let size = if self.options.constant_size {
            self.options.sizes[BINS - 1].max(packet.size)
        } else {
            let next = self.options.sizes.iter().find(|s| **s >= packet.size);
            next.copied().unwrap_or(packet.size)
        };
        let packet = Seen { size, ..packet };
        self.tell(at, end, TriggerEvent::NormalSent);
        if self.ends[end].block.is_some() {
            self.ends[end].waiting.push_back(packet);
        } else {
            self.send(at, end, packet);
        }
    }

    /// A packet leaves.
    fn send(&mut self, at: Nanos, end: usize, packet: Seen) {
        let dummy = packet.dummy;
        self.out.push(Seen { at, ..packet });
        self.tell(at, end, TriggerEvent::TunnelSent);
        self.tell(at, 1 - end, TriggerEvent::TunnelRecv);
        let what = if dummy {
            TriggerEvent::PaddingRecv
        } else {
            TriggerEvent::NormalRecv
        };
        self.tell(at, 1 - end, what);
    }

    fn padding(&mut self, at: Nanos, end: usize) -> Seen {
        let sizes = self.options.sizes;
        let size = if self.options.constant_size {
            sizes[BINS - 1]
        } else {
            let all: f64 = self.options.mix.iter().sum();
            let mut u = self.rng.random::<f64>() * all;
            let bin = self.options.mix.iter().position(|w| {
                u -= w;
                u < 0.0
            });
            sizes[bin.unwrap_or(0)]
        };
        Seen {
            at,
            dir: Dir::BOTH[end],
            size,
            payload: 0,
            udp: true,
            dummy: true,
        }
    }

    fn action(&mut self, at: Nanos, end: usize, machine: usize) {
        let Some((_, due)) = self.ends[end].actions[machine].take() else {
            return;
        };
        let id = MachineId::from_raw(machine);
        match due {
            Due::Padding { bypass, replace } => {
                let dummy = self.padding(at, end);
                self.tell(at, end, TriggerEvent::PaddingSent { machine: id });
                let state = &mut self.ends[end];
                match state.block {
                    None => self.send(at, end, dummy),
                    Some(block) => {
                        let queued = replace && !state.waiting.is_empty();
                        if bypass && block.bypass {
                            let instead = if queued {
                                state.waiting.pop_front()
                            } else {
                                None
                            };
                            self.send(at, end, instead.unwrap_or(dummy));
                        } else if !queued {
                            state.waiting.push_back(dummy);
                        }
                    }
                }
            }
            Due::Block {
                length,
                bypass,
                replace,
            } => {
                let until = at + length;
                let state = &mut self.ends[end];
                if replace || state.block.is_none_or(|b| b.until < until) {
                    state.block = Some(Block { until, bypass });
                }
                self.tell(at, end, TriggerEvent::BlockingBegin { machine: id });
            }
        }
    }

    /// Tells the framework of an end, and does what it wants at once.
    fn tell(&mut self, at: Nanos, end: usize, event: TriggerEvent) {
        self.events.push_back((end, event));
        while let Some((end, event)) = self.events.pop_front() {
            let End {
                framework,
                actions,
                timers,
                ..
            } = &mut self.ends[end];
            for action in framework.trigger_events(&[event], Moment(at)) {
                match *action {
                    TriggerAction::Cancel { machine, timer } => {
                        let m = machine.into_raw();
                        if matches!(timer, Timer::Action | Timer::All) {
                            actions[m] = None;
                        }
                        if matches!(timer, Timer::Internal | Timer::All) {
                            timers[m] = None;
                        }
                    }
                    TriggerAction::SendPadding {
                        timeout,
                        bypass,
                        replace,
                        machine,
                    } => {
                        let due = Due::Padding { bypass, replace };
                        actions[machine.into_raw()] = Some((at + timeout.0, due));
                    }
                    TriggerAction::BlockOutgoing {
                        timeout,
                        duration,
                        bypass,
                        replace,
                        machine,
                    } => {
                        let due = Due::Block {
                            length: duration.0,
                            bypass,
                            replace,
                        };
                        actions[machine.into_raw()] = Some((at + timeout.0, due));
                    }
                    TriggerAction::UpdateTimer {
                        duration,
                        replace,
                        machine,
                    } => {
                        let timer = &mut timers[machine.into_raw()];
                        let until = at + duration.0;
                        if replace || timer.is_none_or(|t| t < until) {
                            *timer = Some(until);
                            self.events
                                .push_back((end, TriggerEvent::TimerBegin { machine }));
                        }
                    }
                }
            }
        }
    }
}
