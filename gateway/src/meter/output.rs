//! From the command line to a place where rows go.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chaff_export::{
    Collector, Csv, Dialect, Gzip, Ipfix, IpfixOptions, JsonLines, Output, Parquet, ParquetOptions,
    Part, Rotating, Rotation, Target, Transport, UdpTarget, WholeFile,
};
use chaff_flow::Column;

use super::args::{Format, Profile};
use super::input::is_dash;
use crate::file_id::FileId;

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

impl TryFrom<&Path> for Place {
    type Error = anyhow::Error;

    /// Whatever does not look like an address is a path.
    fn try_from(path: &Path) -> anyhow::Result<Self> {
        if is_dash(path) {
            return Ok(Self::Stdout);
        }
        let text = path.to_str().unwrap_or("");
        if text.starts_with("ipfix:") || text.starts_with("ipfix+") {
            let collector = text.parse().with_context(|| format!("--output {text}"))?;
            return Ok(Self::Collector(collector));
        }
        let is_scheme = |s: &str| {
            s.starts_with(|c: char| c.is_ascii_alphabetic())
                && s.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        };
        match text.split_once("://") {
            Some((scheme, _)) if is_scheme(scheme) => bail!(
                "--output {text}: flows do not go to {scheme}://; there are ipfix://HOST:PORT (UDP), ipfix+tcp://HOST:PORT, \
                 a file, and - for standard output"
            ),
            _ => Ok(Self::File(path.to_path_buf())),
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
    /// Packed with gzip. Only CSV and JSON lines.
    pub gzip: bool,
    /// The name follows from the input's: nobody said that what has it may be overwritten.
    pub is_derived: bool,
    /// What must not be overwritten, and what it is.
    pub taken: Vec<(FileId, String)>,
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
    /// Whether columns fit the format, before anything is opened.
    ///
    /// # Errors
    /// They do not; the error says what to do.
    pub fn check(&self, columns: &[Column]) -> anyhow::Result<()> {
        if self.format != Format::Ipfix {
            return Ok(());
        }
        let fits = |options| Ipfix::new(io::sink(), columns, options);
        let Err(e) = fits(self.ipfix()) else {
            return Ok(());
        };
        let larger = IpfixOptions {
            enterprise: self.ipfix_enterprise,
            ..IpfixOptions::reliable()
        };
        let advice = if fits(larger).is_ok() {
            "use ipfix+tcp:// or a file, whose messages are larger, or fewer columns"
        } else {
            "use other columns"
        };
        bail!("IPFIX to {}: {e}; {advice}", self.place.name())
    }

    /// Paths that opening the plan's file without rotation writes to.
    pub fn paths(&self) -> Vec<PathBuf> {
        match &self.place {
            Place::File(path) if self.format == Format::Parquet => {
                vec![path.clone(), WholeFile::part_of(path)]
            }
            Place::File(path) => vec![path.clone()],
            Place::Stdout => vec!["/dev/stdout".into()],
            Place::Collector(_) => Vec::new(),
        }
    }

    fn ipfix(&self) -> IpfixOptions {
        let options = match &self.place {
            Place::Collector(collector) if collector.transport == Transport::Udp => {
                IpfixOptions::default()
            }
            _ => IpfixOptions::reliable(),
        };
        IpfixOptions {
            enterprise: self.ipfix_enterprise,
            ..options
        }
    }

    /// Opens the place; a rotated table, and one of the nfstream profile, makes its files with their first flow.
    ///
    /// # Errors
    /// The file or connection cannot be made, or the columns do not fit the format.
    pub fn open(&self, columns: &[Column]) -> anyhow::Result<Opened> {
        let mut maker = Maker {
            plan: self.clone(),
            columns: columns.to_vec(),
            bytes: Arc::default(),
            made: 0,
        };
        let bytes = maker.bytes.clone();
        let mut refused = None;
        let output = match &self.place {
            Place::Stdout => maker.write_to(io::stdout())?,
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
                    Transport::Tcp => maker.write_to(collector.tcp().with_context(opening)?)?,
                    Transport::Udp => {
                        let target = collector.udp().with_context(opening)?;
                        refused = Some(target.refused());
                        maker.write_to(Paced::new(target, self.ipfix_rate))?
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
    /// Files made so far.
    made: u64,
}

impl Maker {
    fn rotating(mut self, path: &Path) -> Box<dyn Output> {
        let (path, rotation) = (path.to_path_buf(), self.plan.rotation);
        let base = path.clone();
        let make = move |part: Part| {
            let path = if rotation.is_none() {
                path.clone()
            } else {
                part.name(&path)
            };
            self.file(&path)
                .map_err(|e| io::Error::other(format!("{e:#}")))
        };
        let remove = move |part: Part| std::fs::remove_file(part.name(&base));
        Box::new(Rotating::new(rotation, Box::new(make), Box::new(remove)))
    }

    /// Refuses a file that must stay.
    fn check(&self, path: &Path) -> anyhow::Result<()> {
        let id = FileId::of(path);
        if let Some((_, what)) = self
            .plan
            .taken
            .iter()
            .find(|(taken, _)| Some(taken) == id.as_ref())
        {
            bail!("{} would overwrite the {what}", path.display());
        }
        // From the second round on the files of a ring are this run's own.
        let rotation = &self.plan.rotation;
        let is_own = rotation.period.is_none() && rotation.files.is_some_and(|n| self.made >= n);
        if self.plan.is_derived && !is_own && path.exists() {
            bail!("{} exists; --output with a name overwrites", path.display());
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> anyhow::Result<Box<dyn Output>> {
        self.check(path)?;
        if self.plan.format == Format::Parquet {
            self.check(&WholeFile::part_of(path))?;
        }
        self.made += 1;
        let target: io::Result<Box<dyn Target>> = match self.plan.format {
            // Unreadable before their end, so they get their name then.
            Format::Parquet => WholeFile::create_or_open(path),
            Format::Csv | Format::Jsonl | Format::Ipfix => {
                File::create(path).map(|f| Box::new(f) as Box<dyn Target>)
            }
        };
        let target = target.with_context(|| format!("cannot write {}", path.display()))?;
        self.write_to(target)
    }

    fn write_to(&self, target: impl Target + 'static) -> anyhow::Result<Box<dyn Output>> {
        let target = Counted {
            target,
            bytes: self.bytes.clone(),
        };
        if self.plan.gzip {
            self.format(Gzip::new(target))
        } else {
            self.format(target)
        }
    }

    fn format(&self, target: impl Target + 'static) -> anyhow::Result<Box<dyn Output>> {
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
            Format::Ipfix => Box::new(Ipfix::new(target, columns, plan.ipfix())?),
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
        let place = |text: &str| Place::try_from(Path::new(text)).expect("a place");
        assert_eq!(place("-"), Place::Stdout);
        for path in ["flows.csv", "./kafka://a", "ipfix/flows.csv", "a:b"] {
            assert_eq!(place(path), Place::File(path.into()));
        }
        assert!(matches!(place("ipfix://[::1]:2055"), Place::Collector(c) if c.port == 2055));
        assert!(
            matches!(place("ipfix+tcp://collector"), Place::Collector(c) if c.transport == Transport::Tcp)
        );
        for text in [
            "ipfix:",
            "ipfix://",
            "ipfix://localhost:99999",
            "ipfix+sctp://a",
            "kafka://a",
        ] {
            let e = Place::try_from(Path::new(text)).expect_err("no place");
            let e = format!("{e:#}");
            assert!(e.contains(text) && e.contains("ipfix+tcp://"), "{e}");
        }
    }
}
