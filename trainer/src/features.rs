//! `trainer features`: captures to tables of flow features.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_flow::features::netml::Labels;
use chaff_flow::features::{Kind, Profile, native, netml};
use chaff_trace::Reader;
use chaff_trace::features::{self, Flow, Request, Table};
use clap::ValueEnum;

/// How flows are made and what they are made into; shared by `features` and `learn`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How flows are made: netml's directed flows with dimensions that follow from the capture, or two-way flows of fixed
    /// dimensions with nothing dropped.
    #[arg(long, value_enum, default_value = "native")]
    pub profile: ProfileArg,
    /// What describes a flow: iat, size, iat-size, stats, samp-num, samp-size.
    #[arg(long, default_value = "stats")]
    pub kind: Kind,
    /// Real part of the discrete Fourier transform.
    #[arg(long)]
    pub fft: bool,
    /// Add counts of TCP flags and the times to live.
    #[arg(long)]
    pub header: bool,
    /// netml: quantile of durations and packet counts that makes interval and dimension.
    #[arg(long, default_value_t = 0.9)]
    pub q_interval: f64,
    /// netml: packets that a flow needs.
    #[arg(long, default_value_t = 2)]
    pub flow_pkts_threshold: usize,
    /// native: packets of a flow that are looked at one by one.
    #[arg(long, default_value_t = native::Settings::default().packets)]
    pub packets: usize,
    /// native: window of the samp kinds, seconds.
    #[arg(long, default_value_t = native::Settings::default().window_s)]
    pub window: f64,
    /// native: a flow silent for longer has ended, seconds.
    #[arg(long, default_value_t = native::Settings::default().idle_s)]
    pub idle_timeout: f64,
    /// native: a flow that lasts longer gives a row and goes on, seconds.
    #[arg(long, default_value_t = native::Settings::default().active_s)]
    pub active_timeout: f64,
    /// native: leave out what source and target did lately.
    #[arg(long)]
    pub no_around: bool,
}

/// Where flows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileArg {
    /// For gateways.
    Native,
    /// As netml 0.7.1.
    Netml,
}

impl Options {
    /// The request they stand for.
    pub fn request(&self) -> Request {
        match self.profile {
            ProfileArg::Netml => Request::Netml {
                config: netml::Config {
                    min_packets: self.flow_pkts_threshold,
                    q_interval: self.q_interval,
                    ..netml::Config::default()
                },
                kind: self.kind,
                fft: self.fft,
                header: self.header,
            },
            ProfileArg::Native => Request::Exactly(Profile::Native(native::Settings {
                kind: self.kind,
                fft: self.fft,
                header: self.header,
                packets: self.packets,
                window_s: self.window,
                idle_s: self.idle_timeout,
                active_s: self.active_timeout,
                around: !self.no_around,
                ..native::Settings::default()
            })),
        }
    }
}

/// A capture and what is known about its flows.
#[derive(Clone, Debug)]
pub struct Source {
    /// pcap or pcapng; `-` is standard input.
    pub path: PathBuf,
    /// Label file with the columns of CIC-IDS2017.
    pub labels: Option<PathBuf>,
    /// All flows have this label.
    pub attack: Option<bool>,
}

/// Makes one table of several captures. What follows from the first one holds for all, so that rows can be compared.
///
/// # Errors
/// Files that cannot be read, captures without flows.
pub fn extract(sources: &[Source], request: &Request, done: &mut dyn FnMut()) -> Result<Table> {
    let mut request = *request;
    let mut all: Option<Table> = None;
    for source in sources {
        let name = source.path.display();
        let labels = match &source.labels {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("while reading {}", path.display()))?;
                Some(Labels::parse(&text).with_context(|| format!("in {}", path.display()))?)
            }
            None => None,
        };
        let input: Box<dyn Read> = if source.path == Path::new("-") {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(File::open(&source.path).with_context(|| format!("while opening {name}"))?)
        };
        let mut reader =
            Reader::new(BufReader::new(input)).with_context(|| format!("while reading {name}"))?;
        let mut table = features::extract(&mut reader, &request, labels.as_ref())
            .with_context(|| format!("in {name}"))?;
        if source.attack.is_some() {
            table
                .flows
                .iter_mut()
                .for_each(|f| f.attack = source.attack);
        }
        request = Request::Exactly(table.profile);
        match &mut all {
            Some(all) => all.flows.append(&mut table.flows),
            None => all = Some(table),
        }
        done();
    }
    match all {
        Some(table) if !table.flows.is_empty() => Ok(table),
        _ => bail!("no flows: nothing to make features of"),
    }
}

/// Writes rows as comma-separated text; `-` is standard output.
///
/// # Errors
/// Those of the file.
pub fn write_csv(path: &Path, table: &Table) -> Result<()> {
    let names = table.profile.names();
    let put = |out: &mut dyn Write, flows: &[Flow]| -> std::io::Result<()> {
        let mut out = BufWriter::new(out);
        features::write_csv(&mut out, &names, flows)?;
        out.flush()
    };
    if path == Path::new("-") {
        return match put(&mut std::io::stdout().lock(), &table.flows) {
            // Whoever reads the table has seen enough.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            done => Ok(done?),
        };
    }
    let mut file =
        File::create(path).with_context(|| format!("while writing {}", path.display()))?;
    put(&mut file, &table.flows).with_context(|| format!("while writing {}", path.display()))
}
