//! Private telemetry as the configuration file has it, and where it keeps its budget and its state.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use chaff_engine::{Releases, Signal};
use chaff_export::{Target, WholeFile};
use chaff_ledger::{LedgerFile, LedgerFileError};
use chaff_privacy::telemetry::{
    Aim, Book, BoxError, Cap, Config, Counters, Exporter, Flows, Metric, PayError, Plan, Published,
    Size, Sparse, Tier,
};
use chaff_privacy::{Budget, Day, Entropy, Epsilon, Expense, Paid, Rho, rho_of_epsilon};
use serde::{Deserialize, Serialize};

use crate::config::within;
use crate::units::{Bytes, Duration};

/// What a ledger of telemetry protects.
const UNIT: &str = "one UTC day of one device";

/// `[telemetry]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Release noisy totals of the listed devices. Off unless the owner wants it.
    pub enabled: bool,
    /// Budget ledger, inside `state_dir` unless absolute; `query` may spend from the same.
    pub ledger: PathBuf,
    /// What telemetry keeps over a restart, inside `state_dir` unless absolute.
    pub state: PathBuf,
    /// How many devices there are, roughly, said in public: `home` (20), `office` (200), `campus` (2,000) or `operator` (20,000).
    pub size: SizeName,
    /// What is released: `bytes`, `bytes_out`, `bytes_in`, `packets`, `flows`, `alerts`.
    pub metrics: Vec<String>,
    /// Most that one device contributes to a metric in a day, if to nothing else: about three times what a usual device does.
    pub bounds: Bounds,
    /// Most that one device contributes to all metrics together in a day, in bounds, 0.01 to 1000; 0: half the number of metrics, at
    /// least 1.
    pub norm: f64,
    /// Purse of pure ε of any 24 hours, for Laplace noise.
    pub epsilon: f64,
    /// Purse of any 24 hours for Gaussian noise, as the ε that it is at `delta`.
    pub gauss_epsilon: f64,
    /// Probability with which the promise of Gaussian noise may fail, above 0 and at most 0.001.
    pub delta: f64,
    /// Part of both purses that telemetry uses, above 0 to 1; the rest is for `query`.
    pub share: f64,
    /// Largest relative error that is good enough; the finest period that keeps it is chosen, by `size` alone.
    pub target_error: f64,
    /// `auto`, or the time between releases, which divides a day, such as `6h`.
    pub period: String,
    /// `day`: what a device leaves of its bound in one window stays for later ones of the UTC day. `window`: the same bound for each.
    pub cap: CapName,
    /// With Gaussian noise: how many times more one window of a device may hold than an evenly spread day, 1 to 1000.
    pub burst: f64,
    /// Release totals only when they moved. Experimental.
    pub sparse: bool,
    /// Also flows and their bytes each minute. Protects single flows only: for a local dashboard.
    pub flow_level: bool,
    /// ε of one flow, with `flow_level`.
    pub flow_epsilon: f64,
    /// Bytes of one flow that count at most, with `flow_level`.
    pub flow_bound: Bytes,
    /// Also totals since a start, which never fall, as Prometheus wants them. They take half of the purse of Gaussian noise.
    pub counters: bool,
    /// Time between values of the counters, which divides a day.
    pub counter_period: Duration,
    /// Keep exact numbers nowhere but in the memory of the open window.
    pub pan_private: bool,
}

/// `[telemetry.bounds]`, by device and day.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Of `bytes`, `bytes_out` and `bytes_in`, at least 1B.
    pub bytes: Bytes,
    /// Of `packets`.
    pub packets: u64,
    /// Of `flows`.
    pub flows: u64,
    /// Of `alerts`.
    pub alerts: u64,
}

/// See [`Size`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum SizeName {
    /// About 20 devices.
    #[default]
    Home,
    /// About 200.
    Office,
    /// About 2,000.
    Campus,
    /// About 20,000.
    Operator,
}

/// See [`Cap`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum CapName {
    /// Of a UTC day.
    #[default]
    Day,
    /// Of each window.
    Window,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            enabled: false,
            ledger: "ledger.jsonl".into(),
            state: "telemetry.state".into(),
            size: SizeName::Home,
            metrics: vec!["bytes".into(), "flows".into()],
            bounds: Bounds::default(),
            norm: 0.0,
            epsilon: 1.0,
            gauss_epsilon: 1.0,
            delta: 1e-6,
            share: 1.0,
            target_error: 0.25,
            period: "auto".into(),
            cap: CapName::Day,
            burst: 1.0,
            sparse: false,
            flow_level: false,
            flow_epsilon: 1.0,
            flow_bound: Bytes(1_000_000),
            counters: false,
            counter_period: Duration(chaff_abi::Nanos::from_secs(3_600)),
            pan_private: false,
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes: Bytes(1_000_000_000),
            packets: 1_000_000,
            flows: 10_000,
            alerts: 3,
        }
    }
}

/// What the section means.
#[derive(Clone, Debug)]
pub struct Terms {
    /// For [`Exporter::new`]; without randomness of its own yet.
    config: Config,
    signals: Vec<Signal>,
    budget: Budget,
}

impl Telemetry {
    /// Checks the section and turns it into what it means.
    ///
    /// # Errors
    /// A value is out of range, or contradicts another; the error names key, value and what is allowed.
    pub fn terms(&self) -> anyhow::Result<Terms> {
        let signals = self.signals()?;
        for (key, value, low, high) in [
            ("telemetry.epsilon", self.epsilon, 0.001, 100.0),
            ("telemetry.gauss_epsilon", self.gauss_epsilon, 0.001, 100.0),
            ("telemetry.flow_epsilon", self.flow_epsilon, 0.001, 100.0),
            ("telemetry.delta", self.delta, 1e-15, 1e-3),
            ("telemetry.share", self.share, 0.001, 1.0),
            ("telemetry.target_error", self.target_error, 1e-4, 1e4),
            ("telemetry.burst", self.burst, 1.0, 1e3),
            ("telemetry.norm", self.norm, 0.0, 1e3),
        ] {
            within(key, value, low, high)?;
        }
        within(
            "telemetry.flow_bound",
            self.flow_bound,
            Bytes(1),
            Bytes(1 << 40),
        )?;
        let period_s = match self.period.as_str() {
            "auto" => None,
            text => Some(seconds("telemetry.period", text)?),
        };
        let whole = |part: f64| -> anyhow::Result<(Epsilon, Rho)> {
            let rho = rho_of_epsilon(Epsilon::new(self.gauss_epsilon)?, self.delta);
            Ok((
                Epsilon::new(part * self.epsilon)?,
                Rho::at_most(part * rho)?,
            ))
        };
        let purses = whole(1.0).context("telemetry.epsilon")?;
        let (epsilon, rho) = whole(self.share).context("telemetry.share")?;
        // Counters and totals halve it.
        let gauss = Rho::from_nanos((rho.nanos() / if self.counters { 2 } else { 1 }).max(1))?;
        let norm = match self.norm {
            0.0 => (signals.len() as f64 / 2.0).max(1.0),
            norm => norm,
        };
        let aim = Aim {
            size: match self.size {
                SizeName::Home => Size::Home,
                SizeName::Office => Size::Office,
                SizeName::Campus => Size::Campus,
                SizeName::Operator => Size::Operator,
            },
            epsilon: Some(epsilon),
            // Sparse releases have Laplace noise.
            rho: (!self.sparse).then_some(gauss),
            norm,
            burst: self.burst,
            target: self.target_error,
            period_s,
        };
        let plan = Plan::new(&aim).context("telemetry")?;
        let counters = if self.counters {
            Some(self.tree(gauss)?)
        } else {
            None
        };
        let flow_epsilon = Epsilon::new(self.flow_epsilon).context("telemetry.flow_epsilon")?;
        let config = Config {
            metrics: signals.iter().map(|s| self.metric(*s)).collect(),
            plan,
            cap: match self.cap {
                CapName::Day => Cap::Day,
                CapName::Window => Cap::Window,
            },
            sparse: self.sparse.then_some(Sparse),
            flows: self.flow_level.then_some(Flows {
                epsilon: flow_epsilon,
                bound: self.flow_bound.0,
            }),
            counters,
            pan_private: self.pan_private,
            delta: self.delta,
            entropy: Entropy::Seed(0),
        };
        let day = Day {
            epsilon: Some(purses.0),
            rho: Some(purses.1),
        };
        let terms = Terms {
            config,
            signals,
            budget: Budget::daily(UNIT, day, self.delta),
        };
        // What the exporter itself refuses.
        let empty = chaff_privacy::telemetry::MemoryBook::new(terms.budget.clone())?;
        Exporter::new(terms.config.clone(), &[], &empty).context("telemetry")?;
        Ok(terms)
    }

    fn signals(&self) -> anyhow::Result<Vec<Signal>> {
        let mut signals = Vec::new();
        for name in &self.metrics {
            let known = Signal::ALL.iter().find(|s| s.name() == name);
            let Some(signal) = known else {
                let names = Signal::ALL.map(Signal::name).join(", ");
                bail!("telemetry.metrics names `{name}`, allowed are {names}");
            };
            if signals.contains(signal) {
                bail!("telemetry.metrics names `{name}` twice");
            }
            signals.push(*signal);
        }
        if signals.is_empty() {
            bail!("telemetry.metrics is empty, name at least one");
        }
        Ok(signals)
    }

    fn metric(&self, signal: Signal) -> Metric {
        let b = &self.bounds;
        Metric {
            name: signal.name().to_owned(),
            unit: signal.unit().to_owned(),
            bound: match signal {
                Signal::Bytes | Signal::BytesOut | Signal::BytesIn => b.bytes.0,
                Signal::Packets => b.packets,
                Signal::Flows => b.flows,
                Signal::Alerts => b.alerts,
            },
        }
    }

    /// A tree that lasts for two years at least.
    fn tree(&self, rho: Rho) -> anyhow::Result<Counters> {
        let key = "telemetry.counter_period";
        let period_s = seconds(key, &self.counter_period.to_string())?;
        let leaves = (2 * 366 * 86_400 / period_s).max(2);
        Ok(Counters {
            period_s,
            levels: leaves.ilog2() + 1,
            rho,
        })
    }
}

/// A time that divides a day, in seconds.
fn seconds(key: &str, text: &str) -> anyhow::Result<u64> {
    let refuse = || {
        format!("{key} is `{text}`, allowed is what divides a day, such as 60s, 15min, 1h, 6h, 24h")
    };
    let period: Duration = text
        .parse()
        .map_err(|e: String| anyhow::anyhow!(e))
        .with_context(refuse)?;
    let ns = period.0.0;
    let s = ns / 1_000_000_000;
    if !ns.is_multiple_of(1_000_000_000) || s == 0 || !86_400u64.is_multiple_of(s) {
        bail!(refuse());
    }
    Ok(s)
}

impl Terms {
    /// What the ledger is set up with.
    pub fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// How often, how wrong, for how much.
    pub fn plan(&self) -> &Plan {
        &self.config.plan
    }

    /// Makes the telemetry go on from `state`, with noise from `entropy`.
    ///
    /// # Errors
    /// As [`Exporter::new`].
    pub fn releases(
        &self,
        entropy: Entropy,
        state: &[u8],
        book: &dyn Book,
    ) -> anyhow::Result<Releases> {
        let config = Config {
            entropy,
            ..self.config.clone()
        };
        let (exporter, unused) = Exporter::new(config, state, book).context("telemetry")?;
        if let Some(why) = unused {
            tracing::warn!(
                why,
                "the telemetry's state cannot be used; what it had of the open window is lost, and a day that was paid for is not \
                 released further"
            );
        }
        Ok(Releases::new(exporter, self.signals.clone()))
    }
}

/// The ledger and the state as files.
pub struct FileBook {
    ledger: LedgerFile,
    state: PathBuf,
}

impl FileBook {
    /// Opens the ledger.
    ///
    /// # Errors
    /// As [`LedgerFile::open_shared`].
    pub fn open(ledger: &Path, state: PathBuf, budget: Budget) -> Result<Self, LedgerFileError> {
        Ok(Self {
            ledger: LedgerFile::open_shared(ledger, budget)?,
            state,
        })
    }

    /// The state as it was stored last; nothing when there is none.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(&self) -> anyhow::Result<Vec<u8>> {
        match std::fs::read(&self.state) {
            Ok(bytes) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e).with_context(|| format!("while reading {}", self.state.display())),
        }
    }
}

impl Book for FileBook {
    fn pay(&mut self, expense: &Expense<'_>) -> Result<Paid, PayError> {
        self.ledger.charge(expense).map_err(|e| match e {
            LedgerFileError::Refused(refused) => PayError::Refused(refused),
            other => PayError::Storage(other.into()),
        })
    }

    fn last_window(&self, stream: &str) -> Option<(u64, u64)> {
        self.ledger.ledger().last_window(stream)
    }

    fn store(&mut self, state: &[u8]) -> Result<(), BoxError> {
        whole(&self.state, state)?;
        let folder = self.state.parent().unwrap_or(Path::new("."));
        std::fs::File::open(folder)?.sync_all()?;
        Ok(())
    }
}

/// Writes a file whole or not at all.
fn whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = WholeFile::create(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.close()
}

/// Writes the newest values in Prometheus' text format, for the textfile collector of its node exporter: every scrape reads the
/// same numbers.
///
/// # Errors
/// Those of the system.
pub fn write_prometheus(path: &Path, published: &[Published]) -> io::Result<()> {
    whole(path, prometheus(published).as_bytes())
}

fn prometheus(published: &[Published]) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for p in published {
        let (kind, name) = match p.tier {
            Tier::Counters => ("counter", format!("chaff_{}_total", p.value.label())),
            Tier::Totals => ("gauge", format!("chaff_window_{}", p.value.label())),
            Tier::Flows => ("gauge", format!("chaff_minute_{}", p.value.label())),
        };
        let (v, until) = (&p.value, p.from_s + p.period_s);
        // Writing into a text does not fail.
        let _ = write!(
            out,
            "# HELP {name} {} with noise, half of a 95 % interval {}; protects {}\n# TYPE {name} {kind}\n{name} {}\n\
             # TYPE {name}_until_seconds gauge\n{name}_until_seconds {until}\n",
            v.unit(),
            v.half_width(),
            v.relation(),
            v.value(),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Result<Terms, String> {
        let section: Telemetry = toml::from_str(text).map_err(|e| e.to_string())?;
        section.terms().map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn the_period_follows_from_the_public_size() {
        for (size, period) in [
            ("home", 86_400),
            ("office", 21_600),
            ("campus", 900),
            ("operator", 60),
        ] {
            let terms = terms(&format!("size = \"{size}\"")).expect("valid");
            assert_eq!(terms.plan().period_s(), period, "{size}");
        }
    }

    #[test]
    fn errors_name_key_value_and_range() {
        for (text, wants) in [
            (
                "epsilon = -1.0",
                vec!["telemetry.epsilon is -1", "0.001 to 100"],
            ),
            ("delta = 0.5", vec!["telemetry.delta is 0.5"]),
            (
                "period = \"7h\"",
                vec!["telemetry.period is `7h`", "divides a day", "15min"],
            ),
            (
                "period = \"often\"",
                vec!["telemetry.period is `often`", "divides a day"],
            ),
            (
                "counters = true\ncounter_period = \"7s\"",
                vec!["telemetry.counter_period is `7s`"],
            ),
            ("metrics = [\"byte\"]", vec!["`byte`", "bytes, bytes_out"]),
            ("metrics = [\"flows\", \"flows\"]", vec!["`flows` twice"]),
            ("metrics = []", vec!["telemetry.metrics is empty"]),
            (
                "slot_bound = \"1kB\"",
                vec!["slot_bound", "expected one of", "bounds"],
            ),
            ("size = \"house\"", vec!["house", "home", "operator"]),
            ("[bounds]\nflows = 0", vec!["bound of flows is 0"]),
            ("share = 0.0", vec!["telemetry.share is 0"]),
        ] {
            let e = terms(text).expect_err(text);
            for want in wants {
                assert!(e.contains(want), "{text:?}: `{want}` is not in `{e}`");
            }
        }
    }

    #[test]
    fn every_option_works_with_every_other() {
        for text in [
            "sparse = true\ncounters = true\nflow_level = true",
            "pan_private = true\ncounters = true\nsize = \"office\"",
            "cap = \"window\"\nsize = \"operator\"\nmetrics = [\"bytes\", \"packets\", \"alerts\"]",
            "epsilon = 0.001\ngauss_epsilon = 0.001\ndelta = 1e-12\nperiod = \"60s\"\ncounters = true\ncounter_period = \"60s\"",
        ] {
            let terms = terms(text).expect(text);
            let mut book =
                chaff_privacy::telemetry::MemoryBook::new(terms.budget()).expect("a book");
            let mut exporter = Exporter::new(terms.config.clone(), &[], &book)
                .expect("works")
                .0;
            for hour in 0..49u64 {
                exporter.advance((20_000 * 24 + hour) * 3_600_000_000_000);
                exporter.add(1, 0, 1_000);
                exporter.flow(100);
                while let Some(made) = exporter.poll(&mut book) {
                    made.expect(text);
                }
            }
            let told = prometheus(exporter.published());
            // Sparse totals come when the noise says that they moved, which flat ones need not do at all.
            let window = told.contains("# TYPE chaff_window_bytes gauge");
            assert!(window || terms.config.sparse.is_some(), "{told}");
            let minutes = told.contains("# TYPE chaff_minute_flows gauge");
            assert_eq!(minutes, terms.config.flows.is_some(), "{told}");
        }
    }
}
