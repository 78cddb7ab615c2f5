//! `sink-server`: the far end of the cover channel. Sockets and files around [`chaff_engine::Sink`].

mod config;
mod peer;
mod rights;
mod sys;
mod tunnel;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use chaff_abi::Nanos;
use chaff_engine::{Sink, SinkReport, Verdict};
use chaff_sys::clock::{monotonic, unix};
use chaff_sys::{Batch, set_option};
use clap::Parser;
use config::{Args, Settings};
use hdrhistogram::Histogram;
use serde::Serialize;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.command {
        Some(config::Command::Keygen(keygen)) => tunnel::keygen(keygen),
        None => run(&args),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("sink-server: {e:#}");
            let denied = e.chain().any(|c| {
                c.downcast_ref::<std::io::Error>()
                    .is_some_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
            });
            ExitCode::from(if denied { 3 } else { 2 })
        }
    }
}

/// Everything the sink says at its end.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    sink: &'a SinkReport,
    /// Seconds from start to end.
    duration_s: f64,
    /// From the intended sending time to arrival; meaningful where both clocks are the same or synchronised.
    latency_us: Quantiles,
    /// From due time to sending of downlink dummies.
    downlink_lateness_us: Quantiles,
    /// Downlink dummies that the kernel did not take; not in `downlink`.
    downlink_errors: u64,
    /// Refused datagrams without a row in `--packets`.
    rows_left_out: u64,
}

/// Batches received in a row before signals, the lease and the downlink have their turn.
const BATCHES_PER_TURN: usize = 16;
/// Datagrams taken from the socket by one system call.
const BATCH: usize = 64;
/// Room for one datagram, bytes. Longer ones are cut and then fail authentication.
const ROOM: usize = 2_048;

/// Rows of `--packets` that refused datagrams may take: strangers must not fill the disk.
const REFUSED_ROWS: u64 = 100_000;

#[derive(Serialize)]
struct Quantiles {
    count: u64,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Quantiles {
    /// Of a histogram of nanoseconds, in microseconds.
    fn of(h: &Histogram<u64>) -> Self {
        let us = |ns: u64| if h.is_empty() { 0.0 } else { ns as f64 / 1e3 };
        Self {
            count: h.len(),
            p50: us(h.value_at_quantile(0.5)),
            p99: us(h.value_at_quantile(0.99)),
            max: us(h.max()),
        }
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::new(args)?;
    let becomes = match settings.tunnel {
        None => rights::seal(&args.user)?,
        Some(_) => None,
    };
    for at in &args.echo {
        peer::echo(*at)?;
    }
    for (from, to) in &args.forward {
        peer::forward(*from, *to)?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .context("while registering signals")?;
    }
    let end = args.duration.map(|s| monotonic() + Nanos::from_secs_f64(s));
    let tunnel = match &settings.tunnel {
        Some(t) => {
            // With --listen the file is that of the datagrams.
            let packets = args.packets.as_deref().filter(|_| settings.cover.is_none());
            Some(tunnel::Far::start(t, &settings.sink, packets)?)
        }
        None => None,
    };
    let Some((listen, key)) = settings.cover else {
        if tunnel.is_none() {
            rights::give_up(becomes, args)?;
            eprintln!("sink-server: echo and forward only; stop with Ctrl-C");
        }
        while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| monotonic() < end) {
            std::thread::sleep(Duration::from_millis(50));
        }
        return match tunnel {
            Some(t) => t.finish(args),
            None => Ok(ExitCode::SUCCESS),
        };
    };
    let socket = UdpSocket::bind(listen)
        .with_context(|| format!("while binding UDP {listen} for --listen"))?;
    // The kernel may give less.
    let _less = set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 4 << 20);
    let start = monotonic();
    let sink = Sink::new(settings.sink, key, unix() - start, start);
    let mut server = Server::new(socket, sink, start, args)?;
    if tunnel.is_none() {
        rights::give_up(becomes, args)?;
    }
    eprintln!("sink-server: winnowing at {listen}; stop with Ctrl-C");
    server.serve(&stop, end)?;
    let report = server.finish(args)?;
    // The cover's report goes to --report then; the tunnel's is said in words.
    drop(tunnel);
    Ok(report)
}

fn created(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("while creating {}", path.display()))
}

struct Server {
    socket: UdpSocket,
    sink: Sink,
    start: Nanos,
    packets: Option<BufWriter<File>>,
    report: Option<File>,
    write_failed: bool,
    refused_rows: u64,
    rows_left_out: u64,
    downlink_errors: u64,
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
}

impl Server {
    fn new(socket: UdpSocket, sink: Sink, start: Nanos, args: &Args) -> anyhow::Result<Self> {
        let packets = match &args.packets {
            Some(path) => {
                let mut out = BufWriter::new(created(path)?);
                writeln!(
                    out,
                    "time_s,dir,size_bytes,is_dummy,device,verdict,slot,latency_us"
                )?;
                Some(out)
            }
            None => None,
        };
        // Open before there are no rights to make it.
        let report = args.report.as_deref().map(created).transpose()?;
        let histogram =
            || Histogram::new_with_max(60_000_000_000, 3).context("while making a histogram");
        Ok(Self {
            socket,
            sink,
            start,
            packets,
            report,
            write_failed: false,
            refused_rows: 0,
            rows_left_out: 0,
            downlink_errors: 0,
            latency: histogram()?,
            lateness: histogram()?,
        })
    }

    fn serve(&mut self, stop: &AtomicBool, end: Option<Nanos>) -> anyhow::Result<()> {
        let mut batch = Batch::new(ROOM);
        let mut out = [0; 2_048];
        let mut clock_checked = self.start;
        while !stop.load(Ordering::Relaxed) {
            let now = monotonic();
            if end.is_some_and(|end| now >= end) {
                break;
            }
            if now.since(clock_checked) > Nanos::from_secs(1) {
                clock_checked = now;
                self.sink.set_unix_offset(unix() - now);
            }
            self.sink.handle_timeout(now);
            while let Some(t) = self.sink.poll_transmit(now, &mut out) {
                let sent = monotonic();
                if let Err(e) = self.socket.send_to(&out[..t.len], t.to) {
                    if self.downlink_errors == 0 {
                        eprintln!(
                            "sink-server: cannot send to {} ({e}); counted from now on",
                            t.to
                        );
                    }
                    self.downlink_errors += 1;
                    self.sink.note_unsent(t.len);
                    continue;
                }
                self.lateness.saturating_record(sent.since(t.due).0);
                self.row(sent, -1, t.len, t.stream, "downlink", None, None);
            }
            let next = self.sink.poll_timeout().map_or(Nanos::MAX, |(t, _)| t);
            let next = next
                .min(end.unwrap_or(Nanos::MAX))
                .min(now + Nanos::from_millis(200));
            let now = monotonic();
            sys::wait(&self.socket, Duration::from_nanos(next.since(now).0))
                .context("while waiting for datagrams")?;
            self.receive(&mut batch)?;
        }
        Ok(())
    }

    fn receive(&mut self, batch: &mut Batch<BATCH>) -> anyhow::Result<()> {
        for _ in 0..BATCHES_PER_TURN {
            let n = match batch.receive(&self.socket) {
                Ok(n) => n,
                Err(e) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&e.kind()) => {
                    break;
                }
                Err(e) => return Err(e).context("while receiving"),
            };
            let now = monotonic();
            let unix = unix();
            for (from, datagram) in batch.datagrams() {
                let len = datagram.len();
                match self.sink.handle_datagram(now, from, datagram) {
                    Verdict::Cover { stream, meant, .. } => {
                        let late = meant.map(|m| unix.since(m.at));
                        if let Some(late) = late {
                            self.latency.saturating_record(late.0);
                        }
                        self.row(now, 1, len, stream, "cover", meant.map(|m| m.slot), late);
                    }
                    Verdict::Schedule { .. } => self.row(now, 1, len, 0, "schedule", None, None),
                    Verdict::Refused(e) => self.refused_row(now, len, e.name()),
                }
            }
            if n < BATCH {
                break;
            }
        }
        Ok(())
    }

    fn refused_row(&mut self, now: Nanos, len: usize, why: &str) {
        if self.packets.is_none() {
            return;
        }
        if self.refused_rows < REFUSED_ROWS {
            self.refused_rows += 1;
            self.row(now, 1, len, 0, why, None, None);
            return;
        }
        if self.rows_left_out == 0 {
            eprintln!(
                "sink-server: {REFUSED_ROWS} refused datagrams in --packets; further ones are only counted"
            );
        }
        self.rows_left_out += 1;
    }

    #[expect(clippy::too_many_arguments, reason = "one argument a column")]
    fn row(
        &mut self,
        now: Nanos,
        dir: i8,
        len: usize,
        stream: u16,
        what: &str,
        slot: Option<u32>,
        late: Option<Nanos>,
    ) {
        let Some(out) = &mut self.packets else { return };
        let at = now.since(self.start).as_secs_f64();
        let dummy = u8::from(["cover", "downlink", "schedule"].contains(&what));
        let size = len + 28;
        let slot = slot.map(|s| s.to_string()).unwrap_or_default();
        let late = late
            .map(|l| format!("{:.1}", l.0 as f64 / 1e3))
            .unwrap_or_default();
        let done = writeln!(
            out,
            "{at:.6},{dir},{size},{dummy},{stream},{what},{slot},{late}"
        );
        if let (Err(e), false) = (&done, self.write_failed) {
            eprintln!("sink-server: cannot write --packets ({e}); counting goes on");
            self.write_failed = true;
        }
    }

    fn finish(mut self, args: &Args) -> anyhow::Result<ExitCode> {
        let report = Report {
            sink: self.sink.report(),
            duration_s: monotonic().since(self.start).as_secs_f64(),
            latency_us: Quantiles::of(&self.latency),
            downlink_lateness_us: Quantiles::of(&self.lateness),
            downlink_errors: self.downlink_errors,
            rows_left_out: self.rows_left_out,
        };
        let text = serde_json::to_string_pretty(&report)?;
        if let Some(file) = &mut self.report
            && let Err(e) = file.write_all(text.as_bytes())
        {
            eprintln!("sink-server: cannot write --report ({e})");
            self.write_failed = true;
        }
        if args.json
            && let Err(e) = writeln!(std::io::stdout(), "{text}")
        {
            eprintln!("sink-server: cannot write the report to standard output ({e})");
            self.write_failed = true;
        }
        let r = report.sink;
        eprintln!(
            "sink-server: {} datagrams: {} cover, {} schedules, {} refused; {} downlink dummies sent",
            r.received.packets,
            r.cover.packets,
            r.schedules.packets,
            r.refused.values().sum::<u64>(),
            r.downlink.packets,
        );
        if let Some(out) = &mut self.packets
            && let Err(e) = out.flush()
        {
            eprintln!("sink-server: cannot write --packets: {e}");
            self.write_failed = true;
        }
        Ok(if self.write_failed {
            ExitCode::from(1)
        } else {
            ExitCode::SUCCESS
        })
    }
}
