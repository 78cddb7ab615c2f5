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
    /// Creates the files. Telemetry is appended to, since it belongs to a ledger that outlives a run.
    ///
    /// # Errors
    /// A file cannot be created; the error names it.
    pub fn create(paths: &Paths<'_>, slot_s: f64) -> anyhow::Result<Self> {
        let mut flows = create(paths.flows, false)?;
        if let Some(f) = &mut flows {
            writeln!(f, "{}", Record::csv_header())?;
        }
        let mut slots = create(paths.slots, false)?;
        if let Some(f) = &mut slots {
            writeln!(f, "{SLOT_COLUMNS}")?;
        }
        let alerts = create(paths.alerts, false)?;
        let telemetry = create(paths.telemetry, true)?;
        Ok(Self {
            flows,
            slots,
            alerts,
            telemetry,
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
    /// The disk is full or gone.
    pub fn flush(&mut self) -> std::io::Result<()> {
        for out in [
            &mut self.flows,
            &mut self.slots,
            &mut self.alerts,
            &mut self.telemetry,
        ]
        .into_iter()
        .flatten()
        {
            out.flush()?;
        }
        Ok(())
    }
}

fn create(path: &Path, append: bool) -> anyhow::Result<Out> {
    if path.as_os_str().is_empty() || path.file_name().is_none() {
        return Ok(None);
    }
    let mut options = File::options();
    options.create(true);
    if append {
        options.append(true)
    } else {
        options.write(true).truncate(true)
    };
    let file = options
        .open(path)
        .with_context(|| format!("while creating {}", path.display()))?;
    Ok(Some(BufWriter::new(file)))
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
