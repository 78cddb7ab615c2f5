//! One replay from options to report: open, load, plan, send, compare.
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use chaff_abi::{Dir, Nanos};
use chaff_sys::clock::{monotonic, unix};

use crate::ReplayError;
use crate::capture::Capture;
use crate::devices::Devices;
use crate::options::{Options, Synthetic, Target};
use crate::outlet::{self, Port};
use crate::plan::{Lane, Plan, PlanOptions, Shape};
use crate::report::{Epoch, Report, VerdictReport, VerifyReport};
use crate::schedule::Pacing;
use crate::send::{self, Control, LaneStats, Progress, Run};
use crate::sys;
use crate::verify::{self, Ending, Matcher, Verdict};

/// From the start barrier to the first packet: long enough that every thread sleeps when its first packet is due,
/// on a loaded machine too.
const LEAD: Nanos = Nanos::from_millis(100);
/// Between two looks at the threads.
const TICK: Duration = Duration::from_millis(100);

/// Told what happens on the way.
pub trait Observer {
    /// Something the user should know, one line.
    fn note(&mut self, line: &str);
    /// Something only the curious want to know, one line.
    fn detail(&mut self, line: &str);
    /// Before the first packet: packets in all, or `None` when there is no end.
    fn start(&mut self, total: Option<u64>);
    /// Now and then: packets sent so far.
    fn progress(&mut self, sent: u64);
}

/// An observer that does not care.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn note(&mut self, _: &str) {}
    fn detail(&mut self, _: &str) {}
    fn start(&mut self, _: Option<u64>) {}
    fn progress(&mut self, _: u64) {}
}

/// A capture drawn from a model.
fn draw(synthetic: &Synthetic) -> Result<(PathBuf, Vec<u8>), ReplayError> {
    let file = synthetic.model.clone();
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(source) => return Err(ReplayError::Open { file, source }),
    };
    let records = synthetic.records.map(|n| n as usize);
    let drawn = chaff_synth::load(&bytes)
        .and_then(|model| chaff_synth::draw_frames(model.as_ref(), records, synthetic.seed));
    match drawn {
        Ok(frames) => Ok((file, frames)),
        Err(source) => Err(ReplayError::Synthetic { file, source }),
    }
}

/// Replays captures and blocks until it is done, interrupted ([`sys::catch_interrupts`]) or out of time.
///
/// # Errors
/// See [`ReplayError`]; a comparison that fails is no error but shows in [`Report::is_clean`].
pub fn run(options: &Options, observer: &mut dyn Observer) -> Result<Report, ReplayError> {
    // Sockets first: a missing privilege shows before a large capture is read.
    let ports = outlet::open(&options.target, options.verify)?;
    let drawn = options.synthetic.as_ref().map(draw).transpose()?;
    let capture = Capture::load_with(&options.files, drawn, &options.load)?;
    for line in &capture.damage {
        observer.note(&format!("broken capture, the rest is left out: {line}"));
    }
    let devices = devices(options, &capture, observer)?;
    let plan = Plan::new(&capture, &plan_options(options, &devices, &ports))?;
    let damage = capture.damage.clone();
    drop(capture);
    say_selection(options, &plan, observer);
    for (port, lane) in ports.iter().zip(&plan.lanes) {
        observer.detail(&format!(
            "{}: {} packets, {} bytes a loop",
            port.outlet.name,
            lane.slots.len(),
            lane.bytes.len()
        ));
    }
    observer.detail(&format!(
        "one loop takes {:.6} s, the next starts after {:.6} s",
        plan.length.as_secs_f64(),
        plan.period / 1e9
    ));

    let compared = ports.iter().any(|p| p.input.is_some());
    let mut matchers = matchers(options, &ports, &plan.lanes);
    let progress: Vec<Progress> = plan
        .lanes
        .iter()
        .map(|lane| Progress {
            sent_at: lane
                .slots
                .iter()
                .filter(|_| compared)
                .map(|_| AtomicU64::new(0))
                .collect(),
            ..Progress::default()
        })
        .collect();
    let run = bounds(options, &plan);
    observer.start(total(&run, options, &plan));
    let epoch = Epoch {
        monotonic: monotonic(),
        unix: unix(),
    };
    let lanes = drive(
        &ports,
        &plan,
        &run,
        options,
        &progress,
        &mut matchers,
        observer,
    )?;

    let files: Vec<String> = options
        .files
        .iter()
        .chain(options.synthetic.iter().map(|s| &s.model))
        .map(|f| f.display().to_string())
        .collect();
    let named = ports
        .iter()
        .zip(lanes)
        .map(|(p, s)| (p.outlet.name.clone(), s, options.realtime && !run.top))
        .collect::<Vec<_>>();
    let mut report = Report::new(
        files,
        damage,
        devices.to_string(),
        plan.selection,
        &named,
        epoch,
    );
    if compared {
        report.verify = Some(judge(matchers, &plan, &ports, &named, &report.files));
    }
    Ok(report)
}

fn devices(
    options: &Options,
    capture: &Capture,
    observer: &mut dyn Observer,
) -> Result<Devices, ReplayError> {
    let devices = Devices::parse(&options.devices, options.device_list.as_deref())?;
    let needed = options.only.is_some()
        || options.only_devices
        || matches!(options.target, Target::Pair(..) | Target::Udp(..));
    if !devices.is_empty() || !needed {
        return Ok(devices);
    }
    let found = Devices::detect(capture)?;
    observer.note(&format!(
        "the device seems to be {found}; --device names another"
    ));
    Ok(found)
}

fn plan_options(options: &Options, devices: &Devices, ports: &[Port]) -> PlanOptions {
    let shape = options.target.shape();
    PlanOptions {
        devices: devices.clone(),
        // An echo peer gets what the device said, unless told otherwise.
        only: options
            .only
            .or_else(|| (shape == Shape::Payloads).then_some(Dir::Out)),
        involving: options.only_devices || (!devices.is_empty() && ports.len() == 1),
        skip_local: options.skip_local,
        rewrite: options.rewrite.clone(),
        pad: options.pad,
        oversize: options.oversize,
        pacing: options.pacing,
        shape,
        outlets: ports.iter().map(|p| p.outlet.clone()).collect(),
        max_bytes: options.load.max_bytes,
    }
}

fn say_selection(options: &Options, plan: &Plan, observer: &mut dyn Observer) {
    let s = &plan.selection;
    if s.padded > 0 {
        observer.note(&format!(
            "{} of {} frames were cut by the capture; filled with {} zero bytes to their wire length (their payload checksums are wrong; --no-pad sends them short)",
            s.padded, s.selected, s.padding_bytes
        ));
    }
    if s.cut > 0 && !options.pad {
        observer.note(&format!(
            "{} of {} frames are sent shorter than they were",
            s.cut, s.selected
        ));
    }
    for (n, what) in [
        (
            s.clamped,
            "capture times went backwards and count as simultaneous",
        ),
        (
            s.malformed,
            "packets have a cut link header and are left out",
        ),
        (
            s.unusable,
            "packets have nothing to send to this target and are left out",
        ),
        (s.oversize_skipped, "frames over the MTU are left out"),
        (s.oversize_truncated, "frames over the MTU are cut"),
    ] {
        if n > 0 {
            observer.note(&format!("{n} {what}"));
        }
    }
    if s.between_devices > 0 && !options.skip_local {
        observer.note(&format!(
            "{} frames go from device to device; a bridge between the interfaces will not forward those (--skip-local leaves them out)",
            s.between_devices
        ));
    }
}

/// What arrives at a port: the other lane's frames, or the echoes of its own.
fn matchers(options: &Options, ports: &[Port], lanes: &[Lane]) -> Vec<Option<Matcher>> {
    let frames = options.target.shape() == Shape::Frames;
    (0..ports.len())
        .map(|i| {
            let lane = &lanes[lanes.len() - 1 - i];
            ports[i]
                .input
                .is_some()
                .then(|| Matcher::new(lane, frames, options.ignore.clone()))
        })
        .collect()
}

/// How many loops, and how much of one more.
fn bounds(options: &Options, plan: &Plan) -> Run {
    let mut loops = if options.loops == 0 {
        u64::MAX
    } else {
        options.loops
    };
    let mut tail = 0;
    if let Some(limit) = options.limit {
        let full = limit / plan.selection.selected;
        if full < loops {
            loops = full;
            tail = (limit % plan.selection.selected) as u32;
        }
    }
    Run {
        loops,
        tail,
        period: plan.period,
        top: options.pacing == Pacing::Top,
        spin: options.spin,
        realtime: options.realtime,
        duration: options.duration,
    }
}

fn total(run: &Run, options: &Options, plan: &Plan) -> Option<u64> {
    if run.loops == u64::MAX || options.duration.is_some() {
        return None;
    }
    Some(run.loops * plan.selection.selected + u64::from(run.tail))
}

/// Runs a thread per lane and per receiver; all lanes start at the same instant.
fn drive(
    ports: &[Port],
    plan: &Plan,
    run: &Run,
    options: &Options,
    progress: &[Progress],
    matchers: &mut [Option<Matcher>],
    observer: &mut dyn Observer,
) -> Result<Vec<LaneStats>, ReplayError> {
    let control = Control::default();
    let barrier = Barrier::new(ports.len() + 1);
    let ending = Ending::default();
    thread::scope(|s| {
        let (control, barrier, ending) = (&control, &barrier, &ending);
        for (i, (port, matcher)) in ports.iter().zip(matchers).enumerate() {
            let sent = &progress[progress.len() - 1 - i];
            if let (Some(fd), Some(matcher)) = (&port.input, matcher) {
                s.spawn(move || verify::receive(fd, matcher, sent, ending, options.grace));
            }
        }
        let senders: Vec<_> = ports
            .iter()
            .zip(&plan.lanes)
            .zip(progress)
            .map(|((port, lane), progress)| {
                s.spawn(move || {
                    let mut stats = LaneStats::new();
                    send::prepare(lane, run, &mut stats);
                    barrier.wait();
                    barrier.wait();
                    let name = &port.outlet.name;
                    send::send(name, lane, &port.output, run, control, progress, &mut stats)
                        .map(|()| stats)
                })
            })
            .collect();
        barrier.wait();
        let lead = if run.top { Nanos::ZERO } else { LEAD };
        control
            .start
            .store((monotonic() + lead).0, Ordering::Release);
        barrier.wait();
        watch(&senders, control, progress, observer);
        let done: Vec<_> = senders.into_iter().map(ScopedJoinHandle::join).collect();
        ending.sent_all.store(true, Ordering::Release);
        let lanes: Result<Vec<LaneStats>, ReplayError> = done
            .into_iter()
            .map(|lane| lane.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        if let Ok(lanes) = &lanes
            && lanes.iter().any(|l| l.no_realtime.is_some())
        {
            observer.note("no real-time priority (needs CAP_SYS_NICE): packets may leave later on a busy machine");
        }
        lanes
    })
}

fn watch<T>(
    senders: &[ScopedJoinHandle<'_, T>],
    control: &Control,
    progress: &[Progress],
    observer: &mut dyn Observer,
) {
    let mut pause = Duration::from_millis(1);
    while !senders.iter().all(ScopedJoinHandle::is_finished) {
        if sys::interrupted() {
            control.stop.store(true, Ordering::Relaxed);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(TICK);
        observer.progress(sent(progress));
    }
    observer.progress(sent(progress));
}

fn sent(progress: &[Progress]) -> u64 {
    progress
        .iter()
        .map(|p| p.sent.load(Ordering::Acquire))
        .sum()
}

fn judge(
    matchers: Vec<Option<Matcher>>,
    plan: &Plan,
    ports: &[Port],
    named: &[(String, LaneStats, bool)],
    files: &[String],
) -> VerifyReport {
    let n = ports.len();
    let mut directions = Vec::new();
    let mut clean = true;
    for (i, matcher) in matchers.into_iter().enumerate().rev() {
        let from = n - 1 - i;
        let Some(matcher) = matcher else { continue };
        let verdict: Verdict = matcher.finish(&plan.lanes[from], named[from].1.packets);
        clean &= verdict.is_clean();
        directions.push(VerdictReport::new(
            &ports[from].outlet.name,
            &ports[i].outlet.name,
            &verdict,
            files,
        ));
    }
    VerifyReport { clean, directions }
}
