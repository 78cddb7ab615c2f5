//! `gateway meter`: captures, or the traffic of an interface, to flow records.
//!
//! `input (files, pipes, an interface) → filter → profile (native, nfstream) → rows → output`. Start at [`run`]; the loop
//! is in [`pipeline`].

pub mod ahead;
pub mod args;
pub mod bpf;
pub mod filter;
pub mod input;
pub mod libpcap;
pub mod live;
pub mod ndpi;
pub mod output;
pub mod pipeline;
pub mod profile;
pub mod report;
pub mod ring;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chaff_export::{Anonymizer, ipfix_elements};
use chaff_flow::{Column, Link, nearest};
use chaff_trace::Reader;

use ahead::Ahead;
pub use args::{Args, Format, Profile};
use filter::Filter;
use input::{Captures, Source, explain, is_dash};
use libpcap::FilterError;
use live::Live;
use ndpi::NdpiError;
use output::{Opened, OutputPlan, Place};
use pipeline::{Counts, Pipeline, PipelineError, Rows};
use profile::Meter;
use report::{Progress, Summary, counted, cpu_seconds, peak_memory};

use crate::file_id::FileId;
use crate::processes::Processes;
use crate::sys_net::{interfaces, there_are};

/// Exit code of an input that is damaged or an output that fails.
const FAILED: u8 = 1;
/// Exit code of wrong usage.
const USAGE: u8 = 2;
/// Exit code of what the system lacks or forbids.
const MISSING: u8 = 3;

/// Runs the command. What is wrong is printed, in one line.
///
/// # Errors
/// None; the type is that of all commands.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let code = match work(&args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            code_of(&e)
        }
    };
    Ok(ExitCode::from(code))
}

fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Failure>() {
        Some(failure) => failure.code,
        None => FAILED,
    }
}

/// An error with its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Failure {
    text: String,
    code: u8,
}

/// Gives errors an exit code.
trait OrCode<T> {
    fn or_code(self, code: u8) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrCode<T> for Result<T, E> {
    fn or_code(self, code: u8) -> anyhow::Result<T> {
        self.map_err(|e| {
            let error: anyhow::Error = e.into();
            let text = format!("{error:#}");
            Failure { text, code }.into()
        })
    }
}

fn filter_code(error: &FilterError) -> u8 {
    match error {
        FilterError::Missing => MISSING,
        FilterError::Wrong { .. } => USAGE,
    }
}

fn plugin_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(NdpiError::Missing | NdpiError::Revision(_)) => MISSING,
        _ => USAGE,
    }
}

fn work(args: &Args) -> anyhow::Result<u8> {
    let started = Instant::now();
    args.check().or_code(USAGE)?;
    let made = args.meter();
    let code = made.as_ref().err().map_or(USAGE, plugin_code);
    let mut meter = made.or_code(code)?;
    let plain = meter.columns();
    check_names(&plain).or_code(USAGE)?;
    let (anonymizer, columns) = anonymizer(args, &plain).or_code(USAGE)?;
    if args.explain {
        say(&markdown(&columns))?;
        return Ok(0);
    }
    let mut plan = args.output().or_code(USAGE)?;
    plan.taken = check_files(args, &plan).or_code(USAGE)?;
    plan.check(&columns).or_code(USAGE)?;
    let links = check_inputs(args).or_code(USAGE)?;
    let mut filter = open_filter(args, &links)?;
    let stop = stop_flag()?;
    // Before the first packet: a socket that is made later is seen being made.
    let processes = args.processes.then(|| open_processes(args));
    let mut source = open_source(args, filter.as_mut(), stop.clone())?;
    if !args.quiet {
        note_left_out(args, &plan, &plain, &columns);
    }
    let opened = plan.open(&columns).or_code(match plan.place {
        Place::Collector(_) => FAILED,
        Place::Stdout | Place::File(_) => USAGE,
    })?;
    let Opened {
        output,
        bytes,
        refused,
    } = opened;
    let threads = threads(args);
    if threads > 2 {
        source = Box::new(Ahead::start(source)?);
    }
    let progress = Progress::new(&args.input, source.position(), !args.quiet);
    let pipeline = Pipeline {
        filter,
        max_flows: args.max_flows,
        writer_thread: threads > 1,
        live: args.live.is_some(),
        processes,
        watch: Box::new(watch(args, &progress, started)),
    };
    let rows = Rows::new(meter.rows(), anonymizer, output);
    let done = pipeline.run(source.as_mut(), &mut meter, rows);
    progress.finish();
    let counts = match done {
        Ok(counts) => counts,
        Err(PipelineError::Filter(e)) => return Err(e).or_code(USAGE),
        // Who read the flows has seen enough.
        Err(PipelineError::Output(e))
            if plan.place == Place::Stdout && e.kind() == io::ErrorKind::BrokenPipe =>
        {
            return Ok(0);
        }
        Err(PipelineError::Output(e)) => {
            return Err(e).with_context(|| format!("while writing {}", plan.place.name()));
        }
    };
    let summary = Summary {
        inputs: source.inputs(),
        counts,
        stats: meter.stats(),
        interrupted: args.live.is_none() && stop.load(Ordering::Relaxed),
        refused: refused.map(|n| n.load(Ordering::Relaxed)),
        output: plan.place.name(),
        output_bytes: bytes.load(Ordering::Relaxed),
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds(),
        memory: peak_memory(),
    };
    tell(args, &summary, &plan.place)
}

/// Writes the report, says what there is to say, and gives the exit code.
fn tell(args: &Args, summary: &Summary, place: &Place) -> anyhow::Result<u8> {
    let json = serde_json::to_string_pretty(&summary.to_json())? + "\n";
    if let Some(path) = &args.report {
        write_all(path, json.as_bytes())
            .with_context(|| format!("while writing {}", path.display()))?;
    }
    for input in &summary.inputs {
        if let Some(error) = &input.error {
            eprintln!("error: {}: {error}", input.name);
        }
    }
    if summary.stats.clamped > 0 && !args.quiet {
        note_disorder(summary);
    }
    if args.json && *place == Place::Stdout {
        eprint!("{json}");
    } else if args.json {
        say(&json)?;
    } else if !args.quiet {
        eprint!("{}", summary.to_text());
    }
    if !summary.is_balanced() {
        eprintln!(
            "error: packets in, metered and ignored do not add up; please report this with the capture"
        );
    }
    Ok(if summary.is_damaged() || !summary.is_balanced() {
        FAILED
    } else {
        0
    })
}

/// Prints to standard output; nobody has to read it.
fn say(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(e).context("while writing standard output")
        }
        _ => Ok(()),
    }
}

fn note_disorder(summary: &Summary) {
    eprintln!(
        "note: {} older than one before",
        counted(summary.stats.clamped, "packet")
    );
    for (before, input) in summary.inputs.iter().zip(summary.inputs.iter().skip(1)) {
        if input.first.is_some_and(|first| first < before.last) {
            eprintln!(
                "note: {} begins before {} ends; give captures in the order of time",
                input.name, before.name
            );
        }
    }
}

/// What is done now and then: the bar, and a line of JSON for who asked for it.
fn watch<'a>(
    args: &Args,
    progress: &'a Progress,
    started: Instant,
) -> impl FnMut(&Meter, &Counts, &mut dyn Source) + 'a {
    let interval = args.report_interval.map(|s| Duration::from_secs(s.into()));
    let mut due = interval.map(|i| started + i);
    let is_live = args.live.is_some();
    move |meter, counts, source| {
        if !is_live {
            progress.show();
        }
        let (Some(interval), Some(at)) = (interval, due) else {
            return;
        };
        let now = Instant::now();
        if now < at {
            return;
        }
        due = Some(now + interval);
        let stats = meter.stats();
        let ignored: u64 = stats.ignored.iter().map(|(_, n)| n).sum();
        let dropped: u64 = source.inputs().iter().filter_map(|i| i.dropped).sum();
        eprintln!(
            "{}",
            serde_json::json!({
                "seconds": started.elapsed().as_secs_f64(), "packets_in": counts.packets_in,
                "packets_metered": stats.metered, "packets_ignored": ignored, "packets_filtered": counts.filtered,
                "packets_dropped": dropped, "records": counts.flows, "peak_flows": stats.peak_flows,
            })
        );
    }
}

/// Refuses columns that nobody could tell apart.
fn check_names(columns: &[Column]) -> anyhow::Result<()> {
    let mut names = BTreeSet::new();
    match columns.iter().find(|c| !names.insert(&c.name)) {
        Some(column) => bail!(
            "two columns have the name {}: is a --plugin given twice, or does another option add its columns?",
            column.name
        ),
        None => Ok(()),
    }
}

/// Refuses to write over what is read, and two things into one file. Gives what files must stay as they are while flows
/// are written.
fn check_files(args: &Args, plan: &OutputPlan) -> anyhow::Result<Vec<(FileId, String)>> {
    let real = |path: &Path, stream: &str| {
        if is_dash(path) {
            Path::new(stream).to_path_buf()
        } else {
            path.to_path_buf()
        }
    };
    let inputs = args.input.iter().map(|p| ("input", real(p, "/dev/stdin")));
    let others = [
        ("key", &args.anonymize_key),
        ("device table", &args.devices),
    ];
    let others = others
        .into_iter()
        .filter_map(|(what, path)| Some((what, path.clone()?)));
    let report = args.report.as_deref().map(|p| real(p, "/dev/stdout"));
    let written = plan.paths().into_iter().map(|p| ("output", p));
    let written = written.chain(report.map(|p| ("report", p)));
    let mut taken: Vec<(FileId, &str, PathBuf)> = inputs
        .chain(others)
        .filter_map(|(what, path)| Some((FileId::of(&path)?, what, path)))
        .collect();
    for (what, path) in written {
        let Some(id) = FileId::of(&path) else {
            continue;
        };
        if let Some((_, other, known)) = taken.iter().find(|(taken, ..)| *taken == id) {
            let (known, path) = (known.display(), path.display());
            if known.to_string() == path.to_string() {
                bail!("{path} is {other} and {what}");
            }
            bail!("{known} and {path} are one file: {other} and {what}");
        }
        taken.push((id, what, path));
    }
    taken.retain(|(_, what, _)| *what != "output");
    Ok(taken
        .into_iter()
        .map(|(id, what, path)| (id, format!("{what} {}", path.display())))
        .collect())
}

/// Everything that can be wrong with the inputs before the first packet. Gives the link types of the files.
fn check_inputs(args: &Args) -> anyhow::Result<Vec<Link>> {
    let dashes = args.input.iter().filter(|p| is_dash(p)).count();
    if dashes > 1 {
        bail!("standard input is given {dashes} times");
    }
    let mut links = Vec::new();
    for path in args.input.iter().filter(|p| !is_dash(p)) {
        let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        if meta.is_dir() {
            bail!("{} is a directory, not a capture", path.display());
        }
        // A pipe can be read only once.
        if meta.is_file() {
            let file =
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            let mut reader = Reader::new(file)
                .map_err(|e| anyhow::anyhow!("{}: {}", path.display(), explain(&e)))?;
            // Damage behind the header is told when it is reached.
            if let Ok(Some((frame, _))) = reader.next_borrowed() {
                links.push(frame.link);
            }
        }
    }
    Ok(links)
}

fn open_filter(args: &Args, links: &[Link]) -> anyhow::Result<Option<Filter>> {
    let Some(text) = &args.filter else {
        return Ok(None);
    };
    let prepared = Filter::new(text).and_then(|mut filter| {
        links
            .iter()
            .try_for_each(|link| filter.prepare(*link).map(drop))?;
        Ok(filter)
    });
    match prepared {
        Ok(filter) => Ok(Some(filter)),
        Err(e) => {
            let code = filter_code(&e);
            Err(e).or_code(code)
        }
    }
}

/// What replaces values, and the columns that it leaves.
fn anonymizer(
    args: &Args,
    columns: &[Column],
) -> anyhow::Result<(Option<Anonymizer>, Vec<Column>)> {
    if args.anonymize.is_empty() {
        return Ok((None, columns.to_vec()));
    }
    let key = args.key()?;
    let names = args.anonymize.iter().map(|name| name.trim());
    let mode = args.anonymize_mode.unwrap_or_default();
    let (anonymizer, missing) = Anonymizer::new(columns, names, mode.into(), &key);
    if let Some(name) = missing.first() {
        let guess = nearest(name, columns.iter().map(|c| c.name.as_ref()));
        bail!(
            "--anonymize: there is no column {name}{}; --explain lists all",
            guess.map_or(String::new(), |g| format!(", but {g}"))
        );
    }
    let columns = anonymizer.columns(columns);
    Ok((Some(anonymizer), columns))
}

/// Says what anonymising does not reach, and what IPFIX cannot carry afterwards.
fn note_left_out(args: &Args, plan: &OutputPlan, plain: &[Column], columns: &[Column]) {
    /// Columns that are addresses.
    const ADDRESSES: [&str; 4] = ["src_ip", "dst_ip", "src_mac", "dst_mac"];
    /// Columns of hints and plugins in which devices tell addresses or names of their own, or ask for those of others.
    const HINTS: [&str; 8] = [
        "host_name",
        "server_name",
        "requested_server_name",
        "device_hint",
        "dhcp_12",
        "dhcp_50",
        "dhcp_addr",
        "mdns_ptr",
    ];
    let is_chosen = |name: &str| args.anonymize.iter().any(|chosen| chosen.trim() == name);
    if ADDRESSES.iter().any(|name| is_chosen(name)) {
        let left: Vec<&str> = columns
            .iter()
            .map(|c| c.name.as_ref())
            .filter(|name| {
                // Behind the prefix of plugins.
                let bare = name.rsplit('.').next().unwrap_or(name);
                (ADDRESSES.contains(&bare) || HINTS.contains(&bare)) && !is_chosen(name)
            })
            .collect();
        if !left.is_empty() {
            eprintln!(
                "note: not anonymised, and can hold addresses or names of devices: {}",
                left.join(", ")
            );
        }
    }
    if plan.format == Format::Ipfix && plan.ipfix_enterprise.is_none() {
        let lost: Vec<&str> = plain
            .iter()
            .zip(columns)
            .filter(|(before, after)| {
                !ipfix_elements(before).is_empty() && ipfix_elements(after).is_empty()
            })
            .map(|(_, column)| column.name.as_ref())
            .collect();
        if !lost.is_empty() {
            eprintln!(
                "note: IPFIX has no elements for the pseudonyms of {}; they are left out",
                lost.join(", ")
            );
        }
    }
}

/// Set by SIGINT and SIGTERM.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("cannot catch signals")?;
    }
    Ok(stop)
}

/// Opens the captures or the interface; of the latter the filter learns what its frames are.
fn open_source(
    args: &Args,
    filter: Option<&mut Filter>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Box<dyn Source>> {
    let Some(options) = args.interface() else {
        let mut captures = Captures::new(args.input.clone(), stop, args.max_packets);
        captures
            .open_first()
            .map_err(|text| Failure { text, code: USAGE })?;
        return Ok(Box::new(captures));
    };
    let interface = options.interface.clone();
    let live = Live::open(options, stop).map_err(|e| unopened(&interface, &e))?;
    if let Some(filter) = filter {
        // Not with the first frame, which may be long in coming.
        filter.prepare(live.link()).map(drop).or_code(USAGE)?;
    }
    Ok(Box::new(live))
}

/// Why an interface was not opened, and what would help.
fn unopened(interface: &str, error: &io::Error) -> Failure {
    let (code, hint) = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => (MISSING, " (it needs root or CAP_NET_RAW)".to_owned()),
        Some(libc::ENODEV) => (USAGE, format!(" ({})", there_are(&interfaces()))),
        Some(libc::ENETDOWN) => (USAGE, format!(" (ip link set {interface} up)")),
        _ => (USAGE, String::new()),
    };
    Failure {
        text: format!("cannot meter {interface}{hint}: {error}"),
        code,
    }
}

/// What tells processes, and a word where it cannot tell all.
fn open_processes(args: &Args) -> Processes {
    let keep = Duration::from_nanos(args.idle_timeout.0) + Duration::from_secs(5);
    let processes = Processes::open(keep);
    if let Some(why) = processes.why_inexact().filter(|_| !args.quiet) {
        eprintln!(
            "note: processes are read from /proc ten times a second, which misses sockets that live shorter and those of \
             other network namespaces{}: {why}",
            if nix::unistd::geteuid().is_root() {
                ""
            } else {
                " and users"
            },
        );
    }
    processes
}

fn threads(args: &Args) -> u8 {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    args.threads.unwrap_or(available.min(3) as u8)
}

fn write_all(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if is_dash(path) {
        io::stdout().lock().write_all(bytes)
    } else {
        fs::write(path, bytes)
    }
}

/// A Markdown table of columns.
fn markdown(columns: &[Column]) -> String {
    let mut text =
        String::from("| Column | Type | Unit | IPFIX | Meaning |\n|---|---|---|---|---|\n");
    for c in columns {
        let elements: Vec<String> = ipfix_elements(c)
            .into_iter()
            .map(|(enterprise, id)| {
                if enterprise == 0 {
                    id.to_string()
                } else {
                    format!("{enterprise}/{id}")
                }
            })
            .collect();
        let elements = elements.join(" ");
        // Writing into a text cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {elements} | {} |",
            c.name,
            c.kind.name(),
            c.unit,
            c.doc
        );
    }
    text
}
