//! Makes cover generators from the names and files that command line and configuration give.

use std::path::Path;

use anyhow::{Context, bail};
use chaff_abi::Nanos;
use chaff_cover::{Generator, OnnxGenerator};

/// Makes the generator `name` for the device `label`: a built-in one, a model that comes with Chaff, an ONNX file, or `LABEL.onnx`
/// of a folder.
///
/// # Errors
/// There is no such generator or file, or the model is not a generator for this slot length.
pub fn make(name: &str, label: &str, slot: Nanos) -> anyhow::Result<Box<dyn Generator>> {
    if let Some(built_in) = chaff_cover::by_name(name, slot) {
        return Ok(built_in);
    }
    if let Some(bytes) = chaff_cover::model(name) {
        return load(bytes, name, slot);
    }
    let mut path = Path::new(name).to_path_buf();
    if path.is_dir() {
        path = path.join(format!("{label}.onnx"));
    }
    if !path.exists() {
        bail!(
            "generator `{name}`: neither one of {} nor a file or folder{}",
            [&chaff_cover::NAMES[..], &chaff_cover::MODELS]
                .concat()
                .join(", "),
            if path.ends_with(name) {
                String::new()
            } else {
                format!(" with {}", path.display())
            }
        );
    }
    let bytes =
        std::fs::read(&path).with_context(|| format!("while reading {}", path.display()))?;
    load(&bytes, &path.display().to_string(), slot)
}

fn load(bytes: &[u8], place: &str, slot: Nanos) -> anyhow::Result<Box<dyn Generator>> {
    let generator = OnnxGenerator::load(bytes).with_context(|| format!("in {place}"))?;
    if generator.slot() != slot {
        bail!(
            "{place}: trained for slots of {} s, the slots here are {slot} s",
            generator.slot()
        );
    }
    Ok(Box::new(generator))
}
