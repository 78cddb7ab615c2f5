use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use chaff_abi::Nanos;
use chaff_flow::Value;

use crate::Output;

/// When a table goes on in a new file. Without any limit there is one file, made with the first flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Flows a file, exactly.
    pub rows: Option<u64>,
    /// Bytes after which a file ends, with the flow that passed them; formats that gather flows first pass them by up
    /// to one such group.
    pub bytes: Option<u64>,
    /// Length of the periods that have files of their own, counted from the Unix epoch: 3600 s gives files by the hour.
    pub period: Option<Nanos>,
    /// Number of files that stay. Without a period their names are used again from the first on; with one, whose names
    /// are all different, the oldest file of this [`Rotating`] is removed before another is made.
    pub files: Option<u64>,
}

impl Rotation {
    /// Whether it ever begins a second file.
    pub fn is_none(&self) -> bool {
        self.rows.is_none() && self.bytes.is_none() && self.period.is_none()
    }
}

/// Which file of a rotated table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Number of the file, from 0: in its period where files have one, else below [`Rotation::files`].
    pub index: u64,
    /// Beginning of its period, where files have one.
    pub period: Option<Nanos>,
}

impl Part {
    /// The file's name: `flows.csv` becomes `flows.0.csv`, or with a period `flows.20260131T130000Z.0.csv`; `flows.csv.gz`
    /// becomes `flows.0.csv.gz`.
    pub fn name(&self, path: &Path) -> PathBuf {
        if path.extension().is_some_and(|e| e == "gz") {
            let mut name = self.name(&path.with_extension("")).into_os_string();
            name.push(".gz");
            return name.into();
        }
        let mut name = path.file_stem().unwrap_or_default().to_os_string();
        if let Some(period) = self.period {
            name.push(OsString::from(format!(".{}", utc(period))));
        }
        name.push(OsString::from(format!(".{}", self.index)));
        if let Some(extension) = path.extension() {
            name.push(OsString::from("."));
            name.push(extension);
        }
        path.with_file_name(name)
    }
}

/// ISO 8601 in its short form, in UTC.
fn utc(at: Nanos) -> String {
    let seconds = at.0 / 1_000_000_000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 {
        (month + 3, era * 400 + year)
    } else {
        (month - 9, era * 400 + year + 1)
    };
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Makes the file of a part.
pub type Make = Box<dyn FnMut(Part) -> io::Result<Box<dyn Output>> + Send>;

/// Removes the file of a part.
pub type Remove = Box<dyn FnMut(Part) -> io::Result<()> + Send>;

/// A table in several files, each whole by itself. A file is made with its first flow.
pub struct Rotating {
    make: Make,
    remove: Remove,
    rotation: Rotation,
    /// Files that stay, oldest first; only with [`Rotation::files`] and a period.
    kept: VecDeque<Part>,
    open: Option<Box<dyn Output>>,
    rows: u64,
    next: u64,
    period: Option<Nanos>,
    now: Nanos,
    closed_bytes: u64,
}

impl Rotating {
    /// Nothing is made yet. A file is removed only where [`Rotation::files`] and a period ask for it, and a file that is
    /// gone already is no error.
    pub fn new(rotation: Rotation, make: Make, remove: Remove) -> Self {
        Self {
            make,
            remove,
            rotation,
            kept: VecDeque::new(),
            open: None,
            rows: 0,
            next: 0,
            period: None,
            now: Nanos::ZERO,
            closed_bytes: 0,
        }
    }

    /// Which file comes next.
    fn part(&self) -> Part {
        let index = match (self.rotation.files, self.period) {
            (Some(files), None) if files > 0 => self.next % files,
            _ => self.next,
        };
        Part {
            index,
            period: self.period,
        }
    }

    /// Makes room for the next file.
    fn remove_oldest(&mut self) -> io::Result<()> {
        let (Some(files), Some(_)) = (self.rotation.files.filter(|n| *n > 0), self.period) else {
            return Ok(());
        };
        while self.kept.len() as u64 >= files {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            match (self.remove)(oldest) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => (),
            }
        }
        self.kept.push_back(self.part());
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        self.rows = 0;
        match self.open.take() {
            Some(output) => {
                self.closed_bytes += output.bytes();
                output.finish()
            }
            None => Ok(()),
        }
    }
}

impl Output for Rotating {
    fn write(&mut self, row: &[Value]) -> io::Result<()> {
        if self.open.is_none() {
            self.remove_oldest()?;
            let part = self.part();
            let mut output = (self.make)(part)?;
            output.time(self.now)?;
            self.next += 1;
            self.open = Some(output);
        }
        let Some(output) = &mut self.open else {
            return Ok(());
        };
        output.write(row)?;
        self.rows += 1;
        let is_full = |limit: Option<u64>, size: u64| limit.is_some_and(|limit| size >= limit);
        if is_full(self.rotation.rows, self.rows)
            || self.rotation.bytes.is_some() && is_full(self.rotation.bytes, output.bytes())
        {
            self.close()?;
        }
        Ok(())
    }

    fn time(&mut self, now: Nanos) -> io::Result<()> {
        self.now = now;
        if let Some(period) = self.rotation.period.filter(|p| p.0 > 0) {
            let begin = Nanos(now.0 - now.0 % period.0);
            if self.period.is_some_and(|p| p < begin) {
                self.close()?;
                // Names tell the period, so each period counts its files from 0.
                self.next = 0;
            }
            self.period = self.period.max(Some(begin));
        }
        match &mut self.open {
            Some(output) => output.time(now),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.as_mut().map_or(Ok(()), |output| output.flush())
    }

    fn bytes(&self) -> u64 {
        self.closed_bytes + self.open.as_ref().map_or(0, |output| output.bytes())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_period_and_number() {
        let name = |path: &str, index, period| {
            let part = Part { index, period };
            part.name(Path::new(path)).display().to_string()
        };
        assert_eq!(name("a/csv.d/flows.csv", 2, None), "a/csv.d/flows.2.csv");
        assert_eq!(name("flows", 0, None), "flows.0");
        assert_eq!(name("d.gz/f.csv.gz", 3, None), "d.gz/f.3.csv.gz");
        let period = Some(Nanos::from_secs(951_782_400));
        assert_eq!(name("f.parquet", 0, period), "f.20000229T000000Z.0.parquet");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (1_700_000_000, "20231114T221320Z"),
            (1_709_251_199, "20240229T235959Z"),
            (1_709_251_200, "20240301T000000Z"),
            (4_102_444_800, "21000101T000000Z"),
        ] {
            assert_eq!(utc(Nanos::from_secs(seconds)), expected);
        }
    }
}
