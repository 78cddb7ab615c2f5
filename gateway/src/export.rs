//! Writes what the engine reports: flow records, slots, alerts, private releases.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use chaff_abi::Nanos;
use chaff_engine::{Alert, Event, Seconds, SlotTotals};
use chaff_export::{Csv, Dialect, Output, Target};
use chaff_flow::{Layout, Record, Value};
use chaff_privacy::telemetry::Published;

use crate::archive::Archiver;

type Out = Option<BufWriter<File>>;

/// Output files of a run; each may be absent.
pub struct Exports {
    flows: Option<Flows>,
    slots: Out,
    alerts: Out,
    telemetry: Out,
    /// Flow records as Parquet.
    pub archive: Option<Archiver>,
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
    pub fn create(paths: &Paths<'_>, slot_s: f64, layout: Layout) -> anyhow::Result<Self> {
        Self::open(paths, slot_s, layout, false)
    }

    /// Opens the files to append to them, so that a restart loses nothing; a new file gets its header. Flow records whose
    /// columns are others than in `layout` are put aside under another name.
    ///
    /// # Errors
    /// A file cannot be opened; the error names it.
    pub fn append(paths: &Paths<'_>, slot_s: f64, layout: Layout) -> anyhow::Result<Self> {
        Self::open(paths, slot_s, layout, true)
    }

    fn open(paths: &Paths<'_>, slot_s: f64, layout: Layout, append: bool) -> anyhow::Result<Self> {
        Ok(Self {
            flows: Flows::open(paths.flows, layout, append)?,
            slots: open(paths.slots, SLOT_COLUMNS, append)?,
            alerts: open(paths.alerts, "", append)?,
            telemetry: open(paths.telemetry, "", append)?,
            archive: None,
            slot_s,
            time_offset: Nanos::ZERO,
            failed: 0,
        })
    }

    /// Writes one event; what has no file is dropped.
    pub fn write(&mut self, event: &Event, label: impl Fn(u32) -> String) {
        let done = match event {
            Event::Flow(record) => self.flow(&shifted(record, self.time_offset)),
            Event::Slot(slot) => slot_row(&mut self.slots, slot, self.slot_s, label(slot.device)),
            Event::Alert(alert) => {
                let at = Seconds(alert.at.0 + self.time_offset);
                json(
                    &mut self.alerts,
                    &Alert {
                        at,
                        ..(**alert).clone()
                    },
                )
            }
            Event::NewDevice(_) => Ok(()),
        };
        self.note(done);
    }

    fn flow(&mut self, record: &Record) -> io::Result<()> {
        let archived = self
            .archive
            .as_mut()
            .map_or(Ok(()), |archive| archive.write(record));
        let written = self
            .flows
            .as_mut()
            .map_or(Ok(()), |flows| flows.write(record));
        archived.and(written)
    }

    /// Tells Unix time, for files that end with their period.
    pub fn time(&mut self, now: Nanos) {
        if let Some(archive) = &mut self.archive {
            let done = archive.time(now);
            self.note(done);
        }
    }

    /// Ends the files that are only whole at their end.
    ///
    /// # Errors
    /// The disk is full or gone; counted, and said once.
    pub fn finish(&mut self) -> io::Result<()> {
        let Some(archive) = self.archive.take() else {
            return Ok(());
        };
        let done = archive.finish();
        if let Err(e) = &done {
            let copy = io::Error::new(e.kind(), e.to_string());
            self.note(Err(copy));
        }
        done
    }

    /// Writes private releases: the only thing here that may leave the house.
    pub fn release(&mut self, published: &[Published]) {
        for p in published {
            let done = telemetry(&mut self.telemetry, p);
            self.note(done);
        }
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
        let mut done = match &mut self.flows {
            Some(flows) => flows.csv.flush(),
            None => Ok(()),
        };
        for out in [&mut self.slots, &mut self.alerts, &mut self.telemetry]
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

/// Flow records on their way into a CSV file.
struct Flows {
    csv: Csv<Rest>,
    layout: Layout,
    row: Vec<Value>,
}

impl Flows {
    fn open(path: &Path, layout: Layout, append: bool) -> anyhow::Result<Option<Self>> {
        let columns = layout.columns();
        let names: Vec<&str> = columns.iter().map(|c| c.name.as_ref()).collect();
        let header = names.join(",");
        if append {
            put_aside(path, &header)
                .with_context(|| format!("while reading {}", path.display()))?;
        }
        let Some(file) = open(path, &header, append)? else {
            return Ok(None);
        };
        let skip = header.len() + 1;
        Ok(Some(Self {
            csv: Csv::new(Rest { file, skip }, &columns, Dialect::Native),
            layout,
            row: Vec::new(),
        }))
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        record.values(&self.layout, &mut self.row);
        self.csv.write(&self.row)
    }
}

/// A file that takes a table without its header, which is there already.
struct Rest {
    file: BufWriter<File>,
    skip: usize,
}

impl Write for Rest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.skip > 0 {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            return Ok(skipped);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Target for Rest {}

/// Gives a table with another header another name: `flows.csv.1`, `.2` and so on.
fn put_aside(path: &Path, header: &str) -> io::Result<()> {
    let mut line = String::new();
    match File::open(path) {
        Ok(file) if file.metadata()?.is_file() => {
            // Whatever the file is, its first line is not longer than it should be.
            let most = header.len() as u64 + 1;
            let _not_text = BufReader::new(io::Read::take(file, most)).read_line(&mut line);
        }
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    if path.metadata()?.len() == 0 || line.strip_suffix('\n') == Some(header) {
        return Ok(());
    }
    let aside = (1..)
        .map(|n: u32| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        })
        .find(|p| !p.exists());
    if let Some(aside) = aside {
        std::fs::rename(path, &aside)?;
        tracing::warn!(moved_to = %aside.display(), "the flow records so far have other columns; a new file begins");
    }
    Ok(())
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
fn telemetry(out: &mut Out, t: &Published) -> std::io::Result<()> {
    let Some(f) = out else { return Ok(()) };
    serde_json::to_writer(&mut *f, t)?;
    f.write_all(b"\n")?;
    f.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaff_flow::TableConfig;

    fn layout(dissect: u16) -> Layout {
        let config = TableConfig {
            dissect,
            ..TableConfig::default()
        };
        Layout::new(&config, Vec::new())
    }

    fn append(path: &Path, dissect: u16) {
        let none = Path::new("");
        let paths = Paths {
            flows: path,
            slots: none,
            alerts: none,
            telemetry: none,
        };
        let mut exports = Exports::append(&paths, 0.1, layout(dissect)).expect("opens");
        let mut table = chaff_flow::Table::new(TableConfig::default());
        let key = chaff_abi::FlowKey::default();
        table.absorb(Nanos(1), key, &chaff_abi::FlowValue::EMPTY);
        table.finish(Nanos(2));
        let record = table.poll_record().expect("a record");
        exports.write(&Event::Flow(Box::new(record)), |_| String::new());
        exports.flush().expect("writes");
        assert_eq!(exports.failed, 0);
    }

    #[test]
    fn goes_on_with_a_file_of_the_same_columns_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("flows.csv");
        append(&path, 0);
        append(&path, 0);
        let text = std::fs::read_to_string(&path).expect("reads");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], Record::csv_header());
        assert_eq!(lines[1], lines[2]);
        append(&path, 10);
        let aside = std::fs::read_to_string(dir.path().join("flows.csv.1")).expect("put aside");
        assert_eq!(aside, text);
        let with_hints = std::fs::read_to_string(&path).expect("reads");
        assert!(with_hints.starts_with(&format!("{},application", Record::csv_header())));
        assert_eq!(with_hints.lines().count(), 2);
    }
}
