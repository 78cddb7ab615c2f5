//! The commands `trainer features` and `trainer learn`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_novelty::{Kind, Scaling};
use chaff_trace::features::{self as tables, Table};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use crate::features::{self, Options, Source};
use crate::learn::{self, Config};

/// `trainer features`.
#[derive(Args)]
#[command(after_long_help = "Examples:\n  \
    trainer features home.pcap --kind stats --output stats.csv\n  \
    trainer features demo.pcap --kind iat --profile netml --output iat.csv")]
pub struct Features {
    /// Captures (pcap, pcapng); `-` is standard input.
    #[arg(required = true, num_args = 1..)]
    pcap: Vec<PathBuf>,
    /// Label files with the columns of CIC-IDS2017, one for each capture: only flows that they name are kept.
    #[arg(long, short)]
    label: Vec<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Where the table goes, comma-separated; `-` is standard output.
    #[arg(long, short)]
    output: PathBuf,
}

/// `trainer learn`.
#[derive(Args)]
#[command(after_long_help = "Examples:\n  \
    trainer learn --pcap home.pcap --output home.model\n  \
    trainer learn --pcap-normal monday.pcap --pcap-abnormal scan.pcap --algorithm gmm --curves gmm.svg --output home.model\n  \
    trainer learn extract --pcap demo.pcap --label demo.csv --feature demo.features\n  \
    trainer learn train --feature demo.features --algorithm ocsvm --param 'nu: 0.1' --output demo.model")]
pub struct Learn {
    /// Only one of the two steps; both without it.
    #[arg(value_enum)]
    action: Option<Action>,
    /// Captures.
    #[arg(long, short)]
    pcap: Vec<PathBuf>,
    /// Label files with the columns of CIC-IDS2017, one for each --pcap.
    #[arg(long, short)]
    label: Vec<PathBuf>,
    /// Captures of normal traffic.
    #[arg(long)]
    pcap_normal: Vec<PathBuf>,
    /// Captures of attacks.
    #[arg(long)]
    pcap_abnormal: Vec<PathBuf>,
    /// Table of features: written by extract, read by train.
    #[arg(long, short)]
    feature: Option<PathBuf>,
    /// Model file.
    #[arg(long, short, visible_alias = "model", short_alias = 'm')]
    output: Option<PathBuf>,
    /// Detector: ocsvm, kde, gmm, pca, if, ae, knn, online.
    #[arg(long, default_value = "gmm")]
    algorithm: Kind,
    /// Settings of the detector: YAML text, or a file with it.
    #[arg(long)]
    param: Option<String>,
    /// Scaling of the columns: none, z-score, log-z-score, robust, log-robust, min-max, rank.
    #[arg(long, default_value = "rank")]
    scaling: Scaling,
    /// Share of the labelled flows to test on.
    #[arg(long, default_value_t = 0.33)]
    test_size: f64,
    /// Share of normal flows that may be called novel.
    #[arg(long, default_value_t = 0.01)]
    false_alarm: f64,
    /// Seed: the same captures and options give the same model.
    #[arg(long, visible_alias = "random-state", default_value_t = 42)]
    seed: u64,
    /// Where the curves go, SVG.
    #[arg(long)]
    curves: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Print the detectors and stop.
    #[arg(long)]
    help_algorithm: bool,
    /// Print the settings of all detectors with their defaults and stop.
    #[arg(long)]
    help_param: bool,
    #[command(flatten)]
    options: Options,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Captures to a table of features.
    Extract,
    /// A table of features to a model.
    Train,
}

fn bar(total: usize, what: &'static str) -> ProgressBar {
    ProgressBar::new(total as u64).with_message(what)
}

fn source(path: PathBuf) -> Source {
    Source {
        path,
        labels: None,
        attack: None,
    }
}

/// Runs `trainer features`.
///
/// # Errors
/// Files, captures without flows.
pub fn run_features(args: Features) -> Result<()> {
    if !args.label.is_empty() && args.label.len() != args.pcap.len() {
        bail!(
            "{} --label for {} captures: give one for each",
            args.label.len(),
            args.pcap.len()
        );
    }
    let mut sources: Vec<Source> = args.pcap.into_iter().map(source).collect();
    for (source, labels) in sources.iter_mut().zip(args.label) {
        source.labels = Some(labels);
    }
    let reading = bar(sources.len(), "captures");
    let table = features::extract(&sources, &args.options.request(), &mut || reading.inc(1))?;
    reading.finish_and_clear();
    features::write_csv(&args.output, &table)?;
    if std::io::stderr().is_terminal() {
        eprintln!(
            "{} flows, {} columns",
            table.flows.len(),
            table.profile.names().len()
        );
    }
    Ok(())
}

impl Learn {
    fn sources(&self) -> Result<Vec<Source>> {
        if !self.label.is_empty() && self.label.len() != self.pcap.len() {
            bail!(
                "{} --label for {} --pcap: give one for each",
                self.label.len(),
                self.pcap.len()
            );
        }
        let known = !self.pcap_normal.is_empty() || !self.pcap_abnormal.is_empty();
        if known && self.label.is_empty() && !self.pcap.is_empty() {
            bail!("--pcap without --label beside --pcap-normal or --pcap-abnormal: say what it is");
        }
        let mut out: Vec<Source> = self.pcap.iter().cloned().map(source).collect();
        for (source, labels) in out.iter_mut().zip(&self.label) {
            source.labels = Some(labels.clone());
        }
        for (list, attack) in [(&self.pcap_normal, false), (&self.pcap_abnormal, true)] {
            out.extend(list.iter().map(|path| Source {
                attack: Some(attack),
                ..source(path.clone())
            }));
        }
        if out.is_empty() {
            bail!("no capture: give --pcap, or --pcap-normal and --pcap-abnormal");
        }
        Ok(out)
    }

    fn extract(&self) -> Result<Table> {
        let sources = self.sources()?;
        let reading = bar(sources.len(), "captures");
        let table = features::extract(&sources, &self.options.request(), &mut || reading.inc(1))?;
        reading.finish_and_clear();
        Ok(table)
    }
}

/// Runs `trainer learn`.
///
/// # Errors
/// Files, options that do not go together, captures without flows, detectors that cannot learn from them.
pub fn run_learn(args: &Learn) -> Result<()> {
    if args.help_algorithm {
        for kind in Kind::ALL {
            println!("{:8} {}", kind.name(), kind.about());
        }
        return Ok(());
    }
    if args.help_param {
        print!("{}", learn::help_parameters());
        return Ok(());
    }
    if args.action.is_some() && args.feature.is_none() {
        bail!("a single step needs --feature: the table between the steps");
    }
    if args.action != Some(Action::Extract) && args.output.is_none() {
        bail!("--output is missing: where the model goes");
    }
    let table = match (args.action, &args.feature) {
        (Some(Action::Train), Some(path)) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("while reading {}", path.display()))?;
            tables::read(&text).with_context(|| format!("in {}", path.display()))?
        }
        (_, path) => {
            let table = args.extract()?;
            if let Some(path) = path {
                let mut text = Vec::new();
                tables::write(&mut text, &table)?;
                write(path, &text)?;
            }
            table
        }
    };
    let Some(output) = args
        .output
        .as_ref()
        .filter(|_| args.action != Some(Action::Extract))
    else {
        eprintln!(
            "{} flows, {} columns",
            table.flows.len(),
            table.profile.names().len()
        );
        return Ok(());
    };
    let mut settings = args.algorithm.settings();
    if let Some(param) = &args.param {
        let text = match std::fs::read_to_string(param) {
            Ok(text) => text,
            Err(_) if param.contains(':') => param.clone(),
            Err(e) => return Err(e).with_context(|| format!("while reading {param}")),
        };
        learn::parameters(&mut settings, &text)?;
    }
    let config = Config {
        settings,
        scaling: args.scaling,
        test_size: args.test_size,
        false_alarm: args.false_alarm,
        seed: args.seed,
    };
    let training = ProgressBar::new_spinner().with_message("training");
    training.enable_steady_tick(std::time::Duration::from_millis(200));
    let learnt = learn::train(&table, &config)?;
    training.finish_and_clear();
    write(output, &learnt.model.to_bytes())?;
    let r = &learnt.report;
    if let Some(path) = &args.curves {
        if learnt.curve.is_empty() {
            bail!("no curves: there are no labels of both kinds to test on");
        }
        write(path, learn::picture(&learnt.curve, r).as_bytes())?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(r)?);
        return Ok(());
    }
    println!(
        "{} with scaling {}: trained on {} flows, {} columns",
        r.algorithm, r.scaling, r.trained, r.columns
    );
    println!("threshold {:.6}", r.threshold);
    if let (Some(roc), Some(pr), Some(fp), Some(tp)) =
        (r.roc_auc, r.pr_auc, r.false_positives, r.true_positives)
    {
        println!(
            "tested on {} flows, {} of them attacks: ROC AUC {roc:.3}, PR AUC {pr:.3}, \
             at the threshold {:.1} % of attacks and {:.1} % of normal flows are called novel",
            r.tested,
            r.attacks,
            tp * 100.0,
            fp * 100.0
        );
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("while writing {}", path.display()))
}
