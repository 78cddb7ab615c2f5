//! The command `trainer perturb`: demands of a generator as a table.

use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_cover::{Demand, Generator as _, OnnxGenerator, Window, parity};
use clap::Args;

use crate::cover::stream;
use crate::ipet_command::generator;

/// `trainer perturb`.
#[derive(Args)]
#[command(after_long_help = "Examples:\n  \
    trainer perturb --model camera.onnx --slots 400 --seed 1 --output cover.csv\n  \
    trainer perturb 100 camera 0 5 --model models/ > cover.csv   # iPET's predict: windows, device, chain, generation")]
pub struct Perturb {
    /// iPET's positional interface: windows to make, device (label, or its number in sorted order), series (--chain), stage; writes
    /// to standard output. --model is then the folder of `trainer cover --profile ipet`, default the current one.
    #[arg(num_args = 4, value_names = ["NUM_SAMPLES", "DEV_ID", "CHAIN", "GENERATION"])]
    positional: Vec<String>,
    /// Generator: a file, or a model that comes with Chaff (ipet, learned).
    #[arg(long, required_unless_present = "positional")]
    model: Option<PathBuf>,
    /// Slots to write.
    #[arg(long, required_unless_present = "positional", conflicts_with = "positional",
        value_parser = clap::value_parser!(u64).range(1..=parity::MAX_ROWS as u64))]
    slots: Option<u64>,
    /// Seed; with the positional interface default 0.
    #[arg(long, required_unless_present = "positional")]
    seed: Option<u64>,
    /// CSV file; `-` is standard output, and the default with the positional interface.
    #[arg(long, required_unless_present = "positional")]
    output: Option<PathBuf>,
}

/// Runs `trainer perturb`.
///
/// # Errors
/// For usage, input or output.
pub fn run(args: Perturb) -> Result<()> {
    let model = args.model.unwrap_or_else(|| PathBuf::from("."));
    let output = args.output.unwrap_or_else(|| PathBuf::from("-"));
    let seed = args.seed.unwrap_or(0);
    let rows = match args.positional.as_slice() {
        [samples, device, chain, generation] => {
            predict(&model, [samples, device, chain, generation], seed)?
        }
        _ => {
            if model.is_dir() {
                bail!(
                    "--model {} is a folder: give one of its files, or NUM_SAMPLES DEV_ID CHAIN GENERATION",
                    model.display()
                );
            }
            let mut loaded = generator(&model)?;
            rows(&mut loaded, args.slots.unwrap_or(0), seed)?
        }
    };
    if output == Path::new("-") {
        parity::write_rows(&rows, std::io::stdout().lock())?;
    } else {
        let out = std::fs::File::create(&output)
            .with_context(|| format!("while writing {}", output.display()))?;
        parity::write_rows(&rows, BufWriter::new(out))?;
    }
    Ok(())
}

/// The demands of this many slots.
///
/// # Errors
/// When the model fails.
pub fn rows(generator: &mut OnnxGenerator, slots: u64, seed: u64) -> Result<Vec<Demand>> {
    let mut rng = stream(seed, "perturb");
    let mut rows = vec![Demand::NONE; usize::try_from(slots)?];
    let window = Window::new(1);
    let mut block = vec![Demand::NONE; generator.rows()];
    for part in rows.chunks_mut(block.len()) {
        generator.fill(&window, &mut rng, &mut block)?;
        part.copy_from_slice(&block[..part.len()]);
    }
    Ok(rows)
}

/// iPET's `predict NUM_SAMPLES DEV_ID CHAIN GENERATION`: that many windows of the generator of this device, series and stage in a
/// folder that `trainer cover --profile ipet` wrote.
///
/// # Errors
/// For arguments out of range, and when there is no such generator.
pub fn predict(folder: &Path, arguments: [&str; 4], seed: u64) -> Result<Vec<Demand>> {
    let [samples, device, chain, generation] = arguments;
    let number = |name: &str, text: &str, least: u32| -> Result<u32> {
        match text.parse::<u32>() {
            Ok(n) if n >= least => Ok(n),
            _ => bail!("{name} is {text:?}, wanted a whole number from {least}"),
        }
    };
    let samples = number("NUM_SAMPLES", samples, 1)?;
    let chain = number("CHAIN", chain, 0)?;
    let generation = number("GENERATION", generation, 1)?;
    let all = folder.join("Generators");
    let names = |folder: &Path| -> Result<Vec<String>> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .with_context(|| format!("while listing {}", folder.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    };
    let stage = all.join(format!("Epoch_{generation}"));
    if !stage.is_dir() {
        let about = "is it a folder of `trainer cover --profile ipet`?";
        let mut there: Vec<u32> = names(&all)
            .context(about)?
            .iter()
            .filter_map(|name| name.strip_prefix("Epoch_")?.parse().ok())
            .collect();
        there.sort_unstable();
        bail!(
            "no generation {generation} in {}, GENERATION is one of {there:?}",
            all.display()
        );
    }
    let labels: Vec<String> = names(&stage)?
        .iter()
        .filter_map(|name| Some(name.strip_suffix(".onnx")?.to_owned()))
        .collect();
    let place = labels
        .iter()
        .position(|l| l == device)
        .or_else(|| device.parse().ok().filter(|i| *i < labels.len()));
    let Some(place) = place else {
        bail!(
            "DEV_ID is {device:?}, wanted 0 to {} or one of {}",
            labels.len().saturating_sub(1),
            labels.join(", ")
        );
    };
    let path = stage.join(format!("{}.onnx", labels[place]));
    let mut generator = generator(&path)?;
    let found = generator.signature().chain;
    if found != chain {
        bail!("{} is of chain {found}, not {chain}", path.display());
    }
    let slots = u64::from(samples) * generator.rows() as u64;
    if slots > parity::MAX_ROWS as u64 {
        bail!(
            "NUM_SAMPLES is {samples}, allowed are 1 to {}",
            parity::MAX_ROWS / generator.rows()
        );
    }
    rows(&mut generator, slots, seed)
}
