//! The flow archive: Parquet files by period, each whole by itself, removed when they are old.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use chaff_abi::Nanos;
use chaff_export::{Output, Parquet, ParquetOptions, Part, Rotating, Rotation, WholeFile};
use chaff_flow::{Column, Layout, Record, Value};
use serde::{Deserialize, Serialize};

use crate::config::within;
use crate::units::{Bytes, Duration};

/// Flows gathered in memory before they are written: 8 MB of them at most.
const GROUP_ROWS: usize = 8_192;
const GROUP_BYTES: usize = 8 << 20;

/// `[archive]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Archive {
    /// Also keep flow records as Parquet, for `query`, pandas, DuckDB. Raw data: stays on the gateway.
    pub enabled: bool,
    /// Folder of the files, inside `state_dir` unless absolute.
    pub folder: PathBuf,
    /// Time that a file covers, 1min to 24h. Flows of the running period are lost when the gateway is killed.
    pub period: Duration,
    /// Flows a file at most, 1000 to 100000000; then another one begins in the same period.
    pub rows: u64,
    /// Files whose period ended this long ago are removed, 1h to 100000h; 0s: never.
    pub keep: Duration,
    /// The oldest files are removed while all together are larger; 0B for no limit.
    pub max_bytes: Bytes,
}

impl Default for Archive {
    fn default() -> Self {
        Self {
            enabled: false,
            folder: "archive".into(),
            period: Duration(Nanos::from_secs(3_600)),
            rows: 1_000_000,
            keep: Duration(Nanos::from_secs(30 * 86_400)),
            max_bytes: Bytes(0),
        }
    }
}

impl Archive {
    /// Checks ranges.
    ///
    /// # Errors
    /// The first value that is out of its range, with key, value and range.
    pub fn check(&self) -> anyhow::Result<()> {
        let s = |s: u64| Duration(Nanos::from_secs(s));
        within("archive.period", self.period, s(60), s(86_400))?;
        within("archive.rows", self.rows, 1_000, 100_000_000)?;
        if self.keep.0 > Nanos::ZERO {
            within("archive.keep", self.keep, s(3_600), s(360_000_000))?;
        }
        Ok(())
    }
}

/// The archive while it grows.
pub struct Archiver {
    output: Box<Rotating>,
    folder: PathBuf,
    config: Archive,
    layout: Layout,
    row: Vec<Value>,
    /// Beginning of the running period.
    period: Option<Nanos>,
}

/// The name that files' names are made from: `flows.20261121T130000Z.0.parquet`.
const NAME: &str = "flows.parquet";

impl Archiver {
    /// Opens the folder, made when it is not there. What an earlier run left unfinished is removed: it cannot be read.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(folder: &Path, config: &Archive, layout: Layout) -> anyhow::Result<Self> {
        let doing = || format!("archive.folder: while opening {}", folder.display());
        std::fs::create_dir_all(folder).with_context(doing)?;
        for (path, _) in files(folder, ".part").with_context(doing)? {
            std::fs::remove_file(&path)
                .with_context(|| format!("while removing {}", path.display()))?;
            tracing::warn!(file = %path.display(), "an earlier run was killed while it wrote this file; its flows are lost");
        }
        let columns = layout.columns();
        let rotation = Rotation {
            rows: Some(config.rows),
            period: Some(config.period.0),
            ..Rotation::default()
        };
        let base = folder.join(NAME);
        let make = move |part: Part| make(&base, part, &columns);
        // Old files are found by what is in the folder, so that those of earlier runs go as well.
        let remove = |_: Part| Ok(());
        Ok(Self {
            output: Box::new(Rotating::new(rotation, Box::new(make), Box::new(remove))),
            folder: folder.to_path_buf(),
            config: config.clone(),
            layout,
            row: Vec::new(),
            period: None,
        })
    }

    /// Tells Unix time: ends the file of a period that is over, and removes files that are too old or too many.
    ///
    /// # Errors
    /// Those of the system.
    pub fn time(&mut self, now: Nanos) -> io::Result<()> {
        let begin = Nanos(now.0 - now.0 % self.config.period.0.0.max(1));
        if self.period.is_some_and(|p| p >= begin) {
            return Ok(());
        }
        self.period = Some(begin);
        self.output.time(now)?;
        self.prune(now)
    }

    /// Takes a flow with Unix times.
    ///
    /// # Errors
    /// Those of the system.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        record.values(&self.layout, &mut self.row);
        self.output.write(&self.row)
    }

    /// Ends the last file.
    ///
    /// # Errors
    /// Those of the system.
    pub fn finish(self) -> io::Result<()> {
        self.output.finish()
    }

    fn prune(&self, now: Nanos) -> io::Result<()> {
        let mut kept = files(&self.folder, ".parquet")?;
        let mut bytes: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
        // Names are in order of time.
        kept.sort();
        let (keep, most) = (self.config.keep.0, self.config.max_bytes.0);
        for (path, size) in kept {
            let end = begin_of(&path).map(|begin| begin + self.config.period.0);
            let is_old = keep > Nanos::ZERO && end.is_some_and(|end| end + keep <= now);
            let is_much = most > 0 && bytes > most;
            if !(is_old || is_much) {
                break;
            }
            std::fs::remove_file(&path)?;
            bytes -= size;
        }
        Ok(())
    }
}

fn make(base: &Path, part: Part, columns: &[Column]) -> io::Result<Box<dyn Output>> {
    // A run before may have written in the same period.
    let free = (part.index..).map(|index| Part { index, ..part }.name(base));
    let path = free
        .into_iter()
        .find(|path| !path.exists() && !WholeFile::part_of(path).exists())
        .ok_or(io::ErrorKind::AlreadyExists)?;
    let options = ParquetOptions {
        group_rows: GROUP_ROWS,
        group_bytes: GROUP_BYTES,
        ..ParquetOptions::default()
    };
    let file = WholeFile::create(&path)?;
    Ok(Box::new(Parquet::new(file, columns, &options)?))
}

/// The archive's files of one ending, with their sizes.
fn files(folder: &Path, ending: &str) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("flows.") && name.ends_with(ending) && entry.file_type()?.is_file() {
            out.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(out)
}

/// Beginning of the period in a file's name.
fn begin_of(path: &Path) -> Option<Nanos> {
    let name = path.file_name()?.to_str()?;
    let text = name.split('.').nth(1)?;
    let at = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (at(0..4)?, at(4..6)?, at(6..8)?);
    let (hour, minute, second) = (at(9..11)?, at(11..13)?, at(13..15)?);
    // Days since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = if month > 2 { year } else { year - 1 };
    let of_month = (month + 9) % 12;
    let of_year = (153 * of_month + 2) / 5 + day - 1;
    let days = shifted / 400 * 146_097
        + (shifted % 400 * 365 + shifted % 400 / 4 - shifted % 400 / 100)
        + of_year;
    let days = days.checked_sub(719_468)?;
    Some(Nanos::from_secs(
        days * 86_400 + hour * 3_600 + minute * 60 + second,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaff_flow::{Table, TableConfig};
    use parquet::file::reader::{FileReader, SerializedFileReader};

    const HOUR: Nanos = Nanos::from_secs(3_600);
    /// 2026-01-31 13:00 UTC.
    const START: Nanos = Nanos::from_secs(1_769_864_400);

    fn archive(folder: &Path, config: &Archive) -> Archiver {
        let layout = Layout::new(&TableConfig::default(), Vec::new());
        Archiver::open(folder, config, layout).expect("opens")
    }

    fn write(archive: &mut Archiver, now: Nanos, flows: u64) {
        archive.time(now).expect("tells the time");
        let mut table = Table::new(TableConfig::default());
        for n in 0..flows {
            let key = chaff_abi::FlowKey {
                src_port: [(n >> 8) as u8, n as u8],
                ..Default::default()
            };
            table.absorb(now, key, &chaff_abi::FlowValue::EMPTY);
        }
        table.finish(now);
        while let Some(record) = table.poll_record() {
            archive.write(&record).expect("writes");
        }
    }

    fn rows(folder: &Path) -> Vec<(String, i64)> {
        let mut names: Vec<_> = files(folder, ".parquet").expect("reads");
        names.sort();
        let row = |(path, _): (PathBuf, u64)| {
            let file = std::fs::File::open(&path).expect("opens");
            let reader = SerializedFileReader::new(file).expect("is Parquet");
            let name = path.file_name().expect("named").to_string_lossy();
            (
                name.into_owned(),
                reader.metadata().file_metadata().num_rows(),
            )
        };
        names.into_iter().map(row).collect()
    }

    #[test]
    fn files_of_ended_periods_are_whole_whatever_happens_then() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut a = archive(dir.path(), &Archive::default());
        write(&mut a, START, 5);
        write(&mut a, START + Nanos::from_secs(3_599), 2);
        write(&mut a, START + HOUR, 3);
        let first = ("flows.20260131T130000Z.0.parquet".to_owned(), 7);
        assert_eq!(rows(dir.path()), std::slice::from_ref(&first));
        // A crash: nothing more of it runs. Its file has not got its name.
        std::mem::forget(a);
        assert_eq!(files(dir.path(), ".part").expect("reads").len(), 1);
        // The next run goes on in the same period beside what is there.
        let mut a = archive(dir.path(), &Archive::default());
        write(&mut a, START + Nanos::from_secs(60), 1);
        a.finish().expect("ends");
        let second = ("flows.20260131T130000Z.1.parquet".to_owned(), 1);
        assert_eq!(rows(dir.path()), [first, second]);
        assert!(files(dir.path(), ".part").expect("reads").is_empty());
    }

    #[test]
    fn old_files_go_by_age_and_by_size_also_those_of_earlier_runs() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("notes.parquet"), "not the archive's").expect("writes");
        let config = Archive {
            keep: Duration(HOUR.times(3)),
            ..Archive::default()
        };
        for run in 0..6 {
            let mut a = archive(dir.path(), &config);
            write(&mut a, START + HOUR.times(run), 4);
            a.finish().expect("ends");
        }
        let names = rows(dir.path());
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names[0].0.contains("T150000Z"), "{names:?}");
        let small = Archive {
            max_bytes: Bytes(1),
            ..config
        };
        let mut a = archive(dir.path(), &small);
        a.time(START + HOUR.times(6)).expect("prunes");
        assert!(rows(dir.path()).is_empty());
        assert!(dir.path().join("notes.parquet").exists());
    }

    #[test]
    fn a_full_file_is_followed_by_another() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = Archive {
            rows: 1_000,
            ..Archive::default()
        };
        let mut a = archive(dir.path(), &config);
        write(&mut a, START, 2_500);
        a.finish().expect("ends");
        let sizes: Vec<i64> = rows(dir.path()).into_iter().map(|(_, n)| n).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
    }

    #[test]
    fn names_tell_their_period() {
        for seconds in [1_769_864_400u64, 951_782_400, 4_102_444_800, 0] {
            let period = Some(Nanos::from_secs(seconds));
            let name = Part { index: 3, period }.name(Path::new(NAME));
            assert_eq!(begin_of(&name), period);
        }
        assert_eq!(begin_of(Path::new("flows.x.parquet")), None);
    }

    #[test]
    fn errors_name_key_value_and_range() {
        for (text, want) in [
            ("period = \"1s\"", "archive.period is 1s"),
            ("rows = 1", "archive.rows is 1, allowed is 1000 to"),
            ("keep = \"1min\"", "archive.keep is 1min"),
        ] {
            let config: Archive = toml::from_str(text).expect(text);
            let e = config.check().expect_err(text).to_string();
            assert!(e.contains(want), "{e}");
        }
    }
}
