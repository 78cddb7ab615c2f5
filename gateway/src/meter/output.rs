//! From the command line to a place where rows go.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use chaff_export::{
    Collector, Csv, Dialect, Ipfix, IpfixOptions, JsonLines, Output, Parquet, ParquetOptions, Part,
    Rotating, Rotation, Target, Transport, UdpTarget, WholeFile,
};
use chaff_flow::Column;

use super::args::{Format, Profile};
use super::input::is_dash;

/// Where rows go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Standard output.
    Stdout,
    /// A file, or several with numbers in their names.
    File(PathBuf),
    /// A collector of IPFIX.
    Collector(Collector),
}

impl Place {
    /// For messages.
    pub fn name(&self) -> String {
        match self {
            Self::Stdout => "standard output".into(),
            Self::File(path) => path.display().to_string(),
            Self::Collector(collector) => collector.to_string(),
        }
    }
}

impl From<&Path> for Place {
    /// Whatever is no address of a collector is a path.
    fn from(path: &Path) -> Self {
        if is_dash(path) {
            return Self::Stdout;
        }
        match path.to_str().and_then(|text| text.parse().ok()) {
            Some(collector) => Self::Collector(collector),
            None => Self::File(path.to_path_buf()),
        }
    }
}

/// How rows are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPlan {
    /// Where to.
    pub place: Place,
    /// In which format.
    pub format: Format,
    /// Which columns, and which CSV.
    pub profile: Profile,
    /// When a file ends.
    pub rotation: Rotation,
    /// Enterprise number for columns that IPFIX has no element for.
    pub ipfix_enterprise: Option<u32>,
    /// Datagrams a second to a collector.
    pub ipfix_rate: u32,
}

/// What was opened.
pub struct Opened {
    /// Takes the rows.
    pub output: Box<dyn Output>,
    /// Bytes written, also while it closes.
    pub bytes: Arc<AtomicU64>,
    /// Datagrams that nobody took.
    pub refused: Option<Arc<AtomicU64>>,
}

impl OutputPlan {
    /// Opens the place; a rotated table, and one of the nfstream profile, makes its files with their first flow.
    ///
    /// # Errors
    /// The file or connection cannot be made, or the columns do not fit the format.
    pub fn open(&self, columns: &[Column]) -> anyhow::Result<Opened> {
        let maker = Maker {
            plan: self.clone(),
            columns: columns.to_vec(),
            bytes: Arc::default(),
        };
        let bytes = maker.bytes.clone();
        let mut refused = None;
        let output = match &self.place {
            Place::Stdout => maker.write_to(io::stdout(), IpfixOptions::reliable())?,
            Place::File(path) => {
                // NFStream writes no file for no flows.
                let is_late = !self.rotation.is_none() || self.profile == Profile::Nfstream;
                if is_late {
                    check_folder(path)?;
                    maker.rotating(path)
                } else {
                    maker.file(path)?
                }
            }
            Place::Collector(collector) => {
                let opening = || format!("cannot reach {collector}");
                match collector.transport {
                    Transport::Tcp => maker.write_to(
                        collector.tcp().with_context(opening)?,
                        IpfixOptions::reliable(),
                    )?,
                    Transport::Udp => {
                        let target = collector.udp().with_context(opening)?;
                        refused = Some(target.refused());
                        maker.write_to(
                            Paced::new(target, self.ipfix_rate),
                            IpfixOptions::default(),
                        )?
                    }
                }
            }
        };
        Ok(Opened {
            output,
            bytes,
            refused,
        })
    }
}

/// Says early what would be wrong later.
fn check_folder(path: &Path) -> anyhow::Result<()> {
    let folder = path
        .parent()
        .filter(|f| !f.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let writing = || format!("cannot write {}", path.display());
    let meta = std::fs::metadata(folder).with_context(writing)?;
    let problem = if !meta.is_dir() {
        io::ErrorKind::NotADirectory
    } else if path.is_dir() {
        io::ErrorKind::IsADirectory
    } else {
        return Ok(());
    };
    Err(io::Error::from(problem)).with_context(writing)
}

/// Makes the outputs of a plan.
struct Maker {
    plan: OutputPlan,
    columns: Vec<Column>,
    bytes: Arc<AtomicU64>,
}

impl Maker {
    fn rotating(self, path: &Path) -> Box<dyn Output> {
        let (path, rotation) = (path.to_path_buf(), self.plan.rotation);
        let make = move |part: Part| {
            let path = if rotation.is_none() {
                path.clone()
            } else {
                part.name(&path)
            };
            self.file(&path)
                .map_err(|e| io::Error::other(format!("{e:#}")))
        };
        Box::new(Rotating::new(rotation, Box::new(make)))
    }

    fn file(&self, path: &Path) -> anyhow::Result<Box<dyn Output>> {
        let target: io::Result<Box<dyn Target>> = match self.plan.format {
            // Unreadable before their end, so they get their name then.
            Format::Parquet => WholeFile::create_or_open(path),
            Format::Csv | Format::Jsonl | Format::Ipfix => {
                File::create(path).map(|f| Box::new(f) as Box<dyn Target>)
            }
        };
        let target = target.with_context(|| format!("cannot write {}", path.display()))?;
        self.write_to(target, IpfixOptions::reliable())
    }

    fn write_to(
        &self,
        target: impl Target + 'static,
        ipfix: IpfixOptions,
    ) -> anyhow::Result<Box<dyn Output>> {
        let target = Counted {
            target,
            bytes: self.bytes.clone(),
        };
        let (plan, columns) = (&self.plan, self.columns.as_slice());
        Ok(match plan.format {
            Format::Csv => {
                let dialect = match plan.profile {
                    Profile::Native => Dialect::Native,
                    Profile::Nfstream => Dialect::NfStream,
                };
                Box::new(Csv::new(target, columns, dialect))
            }
            Format::Jsonl => Box::new(JsonLines::new(target, columns)),
            Format::Parquet => {
                let options = ParquetOptions {
                    metadata: vec![("chaff.profile".into(), plan.profile.name().into())],
                    ..ParquetOptions::default()
                };
                Box::new(Parquet::new(target, columns, &options)?)
            }
            Format::Ipfix => {
                let options = IpfixOptions {
                    enterprise: plan.ipfix_enterprise,
                    ..ipfix
                };
                Box::new(Ipfix::new(target, columns, options)?)
            }
        })
    }
}

/// Counts what is written.
struct Counted<T> {
    target: T,
    bytes: Arc<AtomicU64>,
}

impl<T: Write> Write for Counted<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.target.write(bytes)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}

impl<T: Target> Target for Counted<T> {
    fn close(&mut self) -> io::Result<()> {
        self.target.close()
    }
}

/// Spreads datagrams over time: a collector's socket holds about a hundred, and a capture is metered faster than any
/// collector reads.
struct Paced {
    target: UdpTarget,
    interval: Duration,
    /// When the next datagram may leave; it may lie a burst behind.
    due: Instant,
}

impl Paced {
    /// Datagrams that may leave at once after a pause.
    const BURST: u32 = 32;

    fn new(target: UdpTarget, per_second: u32) -> Self {
        Self {
            target,
            interval: Duration::from_secs(1) / per_second.max(1),
            due: Instant::now(),
        }
    }
}

impl Write for Paced {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let now = Instant::now();
        if let Some(wait) = self.due.checked_duration_since(now) {
            std::thread::sleep(wait);
        }
        let burst = self.interval * Self::BURST;
        let earliest = now.checked_sub(burst).unwrap_or(now);
        self.due = self.due.max(earliest) + self.interval;
        self.target.write(message)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}

impl Target for Paced {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let place = |text: &str| Place::from(Path::new(text));
        assert_eq!(place("-"), Place::Stdout);
        assert_eq!(place("flows.csv"), Place::File("flows.csv".into()));
        assert!(matches!(place("ipfix://[::1]:2055"), Place::Collector(c) if c.port == 2055));
        assert!(
            matches!(place("ipfix+tcp://collector"), Place::Collector(c) if c.transport == Transport::Tcp)
        );
    }
}
