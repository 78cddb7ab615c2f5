//! The fuzz targets on stable Rust: their seeds, and every committed input of `tests/fuzz/corpus`.

use std::path::{Path, PathBuf};
use std::{fs, panic};

use chaff_fuzz_targets::{TARGETS, Target};

/// Most bytes that the committed corpus may have.
const LIMIT: u64 = 1 << 20;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus")
}

fn inputs(target: &Target) -> Vec<PathBuf> {
    let folder = corpus().join(target.name);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_committed_input_holds() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "no corpus for {}", target.name);
        for path in inputs {
            let bytes = fs::read(&path).unwrap();
            if panic::catch_unwind(|| (target.run)(&bytes)).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn committed_seeds_are_those_that_the_program_makes() {
    for target in TARGETS {
        for (name, bytes) in (target.seeds)() {
            let path = corpus().join(target.name).join(format!("seed-{name}"));
            let committed = fs::read(&path).unwrap_or_default();
            assert!(
                committed == bytes,
                "{}: refresh with `cargo run -p chaff-fuzz-targets --example seeds`",
                path.display()
            );
        }
    }
}

#[test]
fn the_corpus_is_small_and_every_folder_has_a_target_and_a_binary() {
    let mut bytes = 0;
    for folder in fs::read_dir(corpus()).unwrap() {
        let folder = folder.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert!(TARGETS.iter().any(|t| t.name == name), "no target {name}");
        for input in fs::read_dir(folder).unwrap() {
            bytes += input.unwrap().metadata().unwrap().len();
        }
    }
    assert!(bytes < LIMIT, "{bytes} bytes");
    let binaries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz_targets");
    for target in TARGETS {
        let binary = binaries.join(format!("{}.rs", target.name));
        assert!(binary.is_file(), "{}", binary.display());
    }
}

/// What libFuzzer does first, in small: every seed cut at every length and with every byte changed.
#[test]
fn cut_and_changed_seeds_hold() {
    for target in TARGETS {
        for (name, seed) in (target.seeds)() {
            let step = seed.len() / 64 + 1;
            for at in (0..seed.len()).step_by(step) {
                let mut changed = seed.clone();
                changed[at] ^= 1 << (at % 8);
                for input in [&seed[..at], &changed[..]] {
                    let holds = panic::catch_unwind(|| (target.run)(input)).is_ok();
                    assert!(
                        holds,
                        "{} seed {name} at byte {at}: {input:02x?}",
                        target.name
                    );
                }
            }
        }
    }
}
