//! Writes what the engine reports: flow records, slots, alerts, private releases.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use chaff_abi::Nanos;
use chaff_engine::{Alert, Event, Seconds, SlotTotals, Telemetry};
use chaff_flow::Record;

type Out = Option<BufWriter<File>>;

/// Output files of a run; each may be absent.
pub struct Exports {
    flows: Out,
    slots: Out,
    alerts: Out,
    telemetry: Out,
    slot_s: f64,
    /// Added to the times of flow records and alerts, to turn the kernel's monotonic clock into Unix time.
    pub time_offset: Nanos,
    /// Lines that could not be written, by whatever reason; the first failure is also logged.
    pub failed: u64,
}

/// Where to write; an empty path switches a file off.
pub struct Paths<'a> {
    /// Flow records, CSV.
    pub flows: &'a Path,
    /// Slots, CSV.
    pub slots: &'a Path,
    /// Alerts, JSON lines.
    pub alerts: &'a Path,
    /// Releases, JSON lines.
    pub telemetry: &'a Path,
}

/// Columns of the slot file: real traffic is IP bytes, cover is planned UDP payload.
pub const SLOT_COLUMNS: &str = "slot,time_s,device,real_out_packets,real_out_bytes,real_in_packets,real_in_bytes,\
cover_out_packets,cover_out_bytes,cover_in_packets,cover_in_bytes";

impl Exports {
    /// Creates the files anew.
    ///
    /// # Errors
    /// A file cannot be created; the error names it.
    pub fn create(paths: &Paths<'_>, slot_s: f64) -> anyhow::Result<Self> {
        Self::open(paths, slot_s, false)
    }

    /// Opens the files to append to them, so that a restart loses nothing; a new file gets its header.
    ///
    /// # Errors
    /// A file cannot be opened; the error names it.
    pub fn append(paths: &Paths<'_>, slot_s: f64) -> anyhow::Result<Self> {
        Self::open(paths, slot_s, true)
    }

    fn open(paths: &Paths<'_>, slot_s: f64, append: bool) -> anyhow::Result<Self> {
        Ok(Self {
            flows: open(paths.flows, &Record::csv_header(), append)?,
            slots: open(paths.slots, SLOT_COLUMNS, append)?,
            alerts: open(paths.alerts, "", append)?,
            telemetry: open(paths.telemetry, "", append)?,
            slot_s,
            time_offset: Nanos::ZERO,
            failed: 0,
        })
    }

    /// Writes one event; what has no file is dropped.
    pub fn write(&mut self, event: &Event, label: impl Fn(u32) -> String) {
        let done = match event {
            Event::Flow(record) => flow(&mut self.flows, &shifted(record, self.time_offset)),
            Event::Slot(slot) => slot_row(&mut self.slots, slot, self.slot_s, label(slot.device)),
            Event::Alert(alert) => {
                let at = Seconds(alert.at.0 + self.time_offset);
                json(
                    &mut self.alerts,
                    &Alert {
                        at,
                        ..alert.clone()
                    },
                )
            }
            Event::NewDevice(_) => Ok(()),
        };
        self.note(done);
    }

    /// Writes one private release: the only thing here that may leave the house.
    pub fn release(&mut self, t: &Telemetry) {
        let done = telemetry(&mut self.telemetry, t);
        self.note(done);
    }

    fn note(&mut self, done: std::io::Result<()>) {
        if let Err(e) = done {
            if self.failed == 0 {
                tracing::warn!(error = %e, "cannot write an output file; further failures are only counted");
            }
            self.failed += 1;
        }
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The disk is full or gone; counted, and said once.
    pub fn flush(&mut self) -> std::io::Result<()> {
        let mut done = Ok(());
        for out in [
            &mut self.flows,
            &mut self.slots,
            &mut self.alerts,
            &mut self.telemetry,
        ]
        .into_iter()
        .flatten()
        {
            done = done.and(out.flush());
        }
        if let Err(e) = &done {
            let copy = std::io::Error::new(e.kind(), e.to_string());
            self.note(Err(copy));
        }
        done
    }
}

fn open(path: &Path, header: &str, append: bool) -> anyhow::Result<Out> {
    if path.as_os_str().is_empty() || path.file_name().is_none() {
        return Ok(None);
    }
    let opening = || format!("while opening {}", path.display());
    let mut options = File::options();
    options.create(true);
    if append {
        options.append(true);
    } else {
        options.write(true).truncate(true);
    }
    let file = options.open(path).with_context(opening)?;
    let is_new = file.metadata().with_context(opening)?.len() == 0;
    let mut out = BufWriter::new(file);
    if is_new && !header.is_empty() {
        writeln!(out, "{header}").with_context(opening)?;
    }
    Ok(Some(out))
}

fn flow(out: &mut Out, record: &Record) -> std::io::Result<()> {
    out.as_mut().map_or(Ok(()), |f| record.write_csv(f))
}

fn shifted(record: &Record, by: Nanos) -> Record {
    let mut r = record.clone();
    r.start += by;
    r.end += by;
    for c in [&mut r.forward, &mut r.backward] {
        if c.packets > 0 {
            c.first += by;
            c.last += by;
        }
    }
    r
}

fn slot_row(out: &mut Out, s: &SlotTotals, slot_s: f64, device: String) -> std::io::Result<()> {
    let Some(f) = out else { return Ok(()) };
    let (r, c) = (&s.real, &s.cover);
    writeln!(
        f,
        "{},{:.3},{device},{},{},{},{},{},{},{},{}",
        s.slot,
        s.slot as f64 * slot_s,
        r.packets[0],
        r.bytes[0],
        r.packets[1],
        r.bytes[1],
        c.packets[0],
        c.bytes[0],
        c.packets[1],
        c.bytes[1],
    )
}

fn json(out: &mut Out, alert: &Alert) -> std::io::Result<()> {
    let Some(f) = out else { return Ok(()) };
    serde_json::to_writer(&mut *f, alert)?;
    f.write_all(b"\n")
}

/// The only way out of the house: takes nothing but a release.
fn telemetry(out: &mut Out, t: &Telemetry) -> std::io::Result<()> {
    let Some(f) = out else { return Ok(()) };
    serde_json::to_writer(&mut *f, t)?;
    f.write_all(b"\n")?;
    f.flush()
}
