//! Makes cover generators from the names and files that command line and configuration give.

use std::path::Path;

use anyhow::{Context, bail};
use chaff_abi::Nanos;
use chaff_cover::{Generator, OnnxGenerator, model_file};

/// Makes the generator `name` for a device: a built-in one, a model that comes with Chaff, an ONNX file, or of a folder the first
/// `LABEL.onnx` that is there.
///
/// # Errors
/// There is no such generator or file, or the model is not a generator for this slot length.
pub fn make(name: &str, labels: &[&str], slot: Nanos) -> anyhow::Result<Box<dyn Generator>> {
    if let Some(built_in) = chaff_cover::by_name(name, slot) {
        return Ok(built_in);
    }
    if let Some(bytes) = chaff_cover::model(name) {
        return load(bytes, name, slot);
    }
    let mut path = Path::new(name).to_path_buf();
    if path.is_dir() {
        let files = labels.iter().map(|label| path.join(model_file(label)));
        path = files.clone().find(|file| file.exists()).with_context(|| {
            let wanted: Vec<_> = files.map(|file| file.display().to_string()).collect();
            format!("the folder `{name}` lacks {}", wanted.join(" or "))
        })?;
    }
    if !path.exists() {
        bail!(
            "generator `{name}`: neither one of {} nor a file or folder",
            [&chaff_cover::NAMES[..], &chaff_cover::MODELS]
                .concat()
                .join(", ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_the_generator_of_a_device_or_of_its_kind() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().display().to_string();
        let model = chaff_cover::model("ipet").expect("it comes along");
        for name in ["camera.onnx", "a_b.onnx"] {
            std::fs::write(dir.path().join(name), model).expect("writes");
        }
        let slot = Nanos::from_millis(100);
        for labels in [&["cam-door", "camera"][..], &["camera"], &["a/b"]] {
            make(&folder, labels, slot).unwrap_or_else(|e| panic!("{labels:?}: {e:#}"));
        }
        for (labels, want) in [
            (&["plug-tv", "plug"][..], "plug-tv.onnx or "),
            (&["plug"], "plug.onnx"),
        ] {
            let said = make(&folder, labels, slot)
                .map(|_| ())
                .expect_err("it lacks them");
            let said = said.to_string();
            assert!(said.contains("lacks") && said.contains(want), "{said}");
        }
    }
}
