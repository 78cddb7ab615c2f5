//! From the command line to a place where rows go.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
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
    /// Datagrams that nobody took.
    pub refused: Option<Arc<AtomicU64>>,
}

impl OutputPlan {
    /// Opens the place; a rotated table, and one of the nfstream profile, makes its files with their first flow.
    ///
    /// # Errors
    /// The file or connection cannot be made, or the columns do not fit the format.
    pub fn open(&self, columns: &[Column]) -> anyhow::Result<Opened> {
        let whole = |output| Opened {
            output,
            refused: None,
        };
        match &self.place {
            Place::Stdout => Ok(whole(self.write_to(Box::new(io::stdout()), columns)?)),
            Place::File(path) => {
                // NFStream writes no file for no flows.
                let is_late = !self.rotation.is_none() || self.profile == Profile::Nfstream;
                let output = if is_late {
                    self.rotating(path, columns)
                } else {
                    self.file(path, columns)?
                };
                Ok(whole(output))
            }
            Place::Collector(collector) => self.collector(collector, columns),
        }
    }

    fn rotating(&self, path: &Path, columns: &[Column]) -> Box<dyn Output> {
        let (plan, path, columns) = (self.clone(), path.to_path_buf(), columns.to_vec());
        let make = move |part: Part| {
            let path = if plan.rotation.is_none() {
                path.clone()
            } else {
                part.name(&path)
            };
            plan.file(&path, &columns).map_err(io::Error::other)
        };
        Box::new(Rotating::new(self.rotation, Box::new(make)))
    }

    fn file(&self, path: &Path, columns: &[Column]) -> anyhow::Result<Box<dyn Output>> {
        let target: io::Result<Box<dyn Target>> = match self.format {
            // Unreadable before their end, so they get their name then.
            Format::Parquet => WholeFile::create_or_open(path),
            Format::Csv | Format::Jsonl | Format::Ipfix => {
                File::create(path).map(|f| Box::new(f) as Box<dyn Target>)
            }
        };
        let target = target.with_context(|| format!("cannot write {}", path.display()))?;
        self.write_to(target, columns)
    }

    fn write_to(
        &self,
        target: Box<dyn Target>,
        columns: &[Column],
    ) -> anyhow::Result<Box<dyn Output>> {
        Ok(match self.format {
            Format::Csv => {
                let dialect = match self.profile {
                    Profile::Native => Dialect::Native,
                    Profile::Nfstream => Dialect::NfStream,
                };
                Box::new(Csv::new(target, columns, dialect))
            }
            Format::Jsonl => Box::new(JsonLines::new(target, columns)),
            Format::Parquet => {
                let options = ParquetOptions {
                    metadata: vec![("chaff.profile".into(), self.profile.name().into())],
                    ..ParquetOptions::default()
                };
                Box::new(Parquet::new(target, columns, &options)?)
            }
            Format::Ipfix => Box::new(Ipfix::new(
                target,
                columns,
                self.ipfix(IpfixOptions::reliable()),
            )?),
        })
    }

    fn ipfix(&self, options: IpfixOptions) -> IpfixOptions {
        IpfixOptions {
            enterprise: self.ipfix_enterprise,
            ..options
        }
    }

    fn collector(&self, collector: &Collector, columns: &[Column]) -> anyhow::Result<Opened> {
        let opening = || format!("cannot reach {collector}");
        match collector.transport {
            Transport::Tcp => {
                let target = collector.tcp().with_context(opening)?;
                let output = Ipfix::new(target, columns, self.ipfix(IpfixOptions::reliable()))?;
                Ok(Opened {
                    output: Box::new(output),
                    refused: None,
                })
            }
            Transport::Udp => {
                let target = collector.udp().with_context(opening)?;
                let refused = Some(target.refused());
                let paced = Paced::new(target, self.ipfix_rate);
                let output = Ipfix::new(paced, columns, self.ipfix(IpfixOptions::default()))?;
                Ok(Opened {
                    output: Box::new(output),
                    refused,
                })
            }
        }
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
