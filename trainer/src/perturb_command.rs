//! The command `trainer perturb`: demands of a generator as a table.

use std::path::Path;

use anyhow::{Context, Result, bail};
use chaff_cover::{Demand, Generator as _, OnnxGenerator, Window, parity};

use crate::cover::stream;
use crate::ipet_command::generator;

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
    let stage = folder.join(format!("Generators/Epoch_{generation}"));
    let mut labels: Vec<String> = std::fs::read_dir(&stage)
        .with_context(|| {
            format!(
                "no generation {generation}: while listing {}",
                stage.display()
            )
        })?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".onnx")?.to_owned())
        })
        .collect();
    labels.sort();
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
