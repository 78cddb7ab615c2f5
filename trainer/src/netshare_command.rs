//! `trainer synth fit --method doppelganger`: NetShare's configuration file and networks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_privacy::Epsilon;
use chaff_synth::{
    Config, Doppelganger, NetworkOptions, PrivateNetworkOptions, Progress, Rows, Settings, Watch,
    fit_doppelganger, fit_doppelganger_private, read_config, read_csv,
};

use crate::synth_command::{Addresses, Fit, entropy, needs_ledger, pay, time_range, write_model};
use crate::synth_input::{Opened, open, read_parquet};

/// Lines of progress of a chunk, at most.
const LINES: usize = 10;

/// Learns NetShare's networks.
///
/// # Errors
/// What is wrong with configuration, input, budget or output, naming the file.
pub(crate) fn run(args: &Fit, path: &Path, input: Option<&Path>, output: &Path) -> Result<()> {
    let mut config = read(path)?;
    for settings in &mut config.grid {
        settings.epochs = args.epochs.map_or(settings.epochs, |e| e as usize);
    }
    let Some(first) = config.grid.first() else {
        bail!("in {}: it has no model", path.display());
    };
    let rows = rows(args, input, path, first)?;
    let watch = Console {
        folder: args
            .checkpoints
            .as_ref()
            .map(|all| match output.file_name() {
                Some(name) if args.inputs.len() > 1 => all.join(name),
                _ => all.clone(),
            }),
    };
    if let Some(folder) = &watch.folder {
        fs::create_dir_all(folder).with_context(|| format!("while making {}", folder.display()))?;
    }
    let threads = args.threads.map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from) / args.jobs as usize,
        |n| n as usize,
    );
    let options = NetworkOptions {
        fresh_addresses: args.addresses == Addresses::Fresh,
        seed: args.seed,
        threads: threads.max(1),
    };
    if let (Some(epsilon), Some(delta)) = (args.epsilon, args.delta) {
        let model = fit_paid(args, &rows, &config, &options, &watch, (epsilon, delta))?;
        return write_model(&model, output);
    }
    if first.dp {
        bail!(
            "{}: global_config.dp is true; give --epsilon and --delta, or set it to false",
            path.display()
        );
    }
    if args.public_labels.is_some() || args.public_time_range.is_some() {
        bail!("--public-labels and --public-time-range are for --epsilon");
    }
    let model = fit_doppelganger(&rows, &config.grid, &options, &watch)?;
    write_model(&model, output)
}

fn fit_paid(
    args: &Fit,
    rows: &Rows,
    config: &Config,
    options: &NetworkOptions,
    watch: &Console,
    (epsilon, delta): (Epsilon, f64),
) -> Result<Doppelganger> {
    if !(delta > 0.0 && delta < 1.0) {
        bail!("--delta {delta}: must be above 0 and below 1");
    }
    if args.unit.is_some() {
        bail!("--unit is for --method marginal; the unit of doppelganger is the flow");
    }
    if args.checkpoints.is_some() {
        bail!(
            "--checkpoints: none are kept with --epsilon, for steps that are repeated are paid for again"
        );
    }
    let Some(range) = &args.public_time_range else {
        bail!(
            "--epsilon with doppelganger needs --public-time-range FIRST..LAST, which cuts the chunks"
        );
    };
    needs_ledger(args)?;
    let labels = match args.public_labels.as_deref() {
        Some("from-input") => {
            bail!("--public-labels from-input: name them; doppelganger reads none from the input")
        }
        Some(list) => Some(list.split(',').map(|l| l.trim().to_owned()).collect()),
        None => None,
    };
    let public = PrivateNetworkOptions {
        labels,
        time_range_us: time_range(range)?,
    };
    let Some(settings) = config.grid.first() else {
        bail!("the configuration has no model");
    };
    if config.grid.len() > 1 {
        eprintln!(
            "with --epsilon the grid's first model alone is trained: to choose by the data would cost budget"
        );
    }
    if let Some(noise) = settings.noise_multiplier {
        eprintln!(
            "dp_noise_multiplier {noise} is not used: the noise follows from --epsilon, and is in the side-car"
        );
    }
    let entropy = entropy(args)?;
    // Only public checks before this line, only the paid mechanism after it.
    let (grant, entry) = pay(args, epsilon, delta)?;
    let gradients = grant.into_gradients(entropy)?;
    Ok(fit_doppelganger_private(
        rows,
        settings,
        options,
        &public,
        gradients,
        (entry, (epsilon.value(), delta)),
        watch,
    )?)
}

fn read(path: &Path) -> Result<Config> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("while reading {name}"))?;
    let config = read_config(&text).with_context(|| format!("in {name}"))?;
    if !config.unknown.is_empty() {
        eprintln!(
            "{name}: unknown keys, without effect: {}",
            config.unknown.join(", ")
        );
    }
    Ok(config)
}

fn rows(args: &Fit, given: Option<&Path>, config: &Path, settings: &Settings) -> Result<Rows> {
    let input: PathBuf = match (given, &settings.data_file) {
        (Some(input), _) => input.to_owned(),
        // As NetShare reads it, from the working directory; or else beside the configuration.
        (None, Some(file)) if Path::new(file).exists() => file.into(),
        (None, Some(file)) => config.parent().unwrap_or(Path::new("")).join(file),
        (None, None) => bail!(
            "{}: no input and no global_config.original_data_file",
            config.display()
        ),
    };
    let name = input.display();
    let label = args.label.as_deref();
    let rows = match open(&input)? {
        Opened::Capture(bytes) => Rows::of_capture(bytes),
        Opened::Csv(bytes) => read_csv(bytes, label).and_then(|table| Rows::of_table(&table)),
        Opened::Parquet => {
            let table = read_parquet(&input, label).with_context(|| format!("in {name}"))?;
            Rows::of_table(&table)
        }
    };
    let rows = rows.with_context(|| format!("in {name}"))?;
    if rows.ignored > 0 {
        eprintln!(
            "{name}: {} frames are not IPv4 or damaged and were left out",
            rows.ignored
        );
    }
    Ok(rows)
}

/// Progress on standard error, checkpoints in a folder.
struct Console {
    folder: Option<PathBuf>,
}

impl Watch for Console {
    fn progress(&self, p: &Progress) {
        let every = p.epochs.div_ceil(LINES);
        if !p.epoch.is_multiple_of(every) && p.epoch != p.epochs {
            return;
        }
        let losses = p.losses.map_or(String::new(), |l| {
            format!(
                ", critic's distance {:.4}, penalty {:.4}, generator's loss {:.4}",
                -l.distance, l.penalty, l.generator
            )
        });
        eprintln!(
            "sample_len {}, chunk {} of {}: pass {} of {}{losses}",
            p.sample_len,
            p.chunk + 1,
            p.chunks,
            p.epoch,
            p.epochs
        );
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        // Whole or not at all.
        let part = folder.join(format!("{name}.part"));
        fs::write(&part, bytes)?;
        fs::rename(part, folder.join(name))
    }

    fn kept(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.folder.as_ref()?.join(name)).ok()
    }
}
