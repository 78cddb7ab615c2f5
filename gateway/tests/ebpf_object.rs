//! The committed object belongs to the sources beside it. Needs no eBPF toolchain and no privileges.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

const OBJECTS: [&str; 2] = ["chaff.bpfel.o", "owners.bpfel.o"];
const REMEDY: &str = "type: cargo xtask build-ebpf";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("in the repository")
        .into()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn fact(name: &str) -> String {
    let text = fs::read_to_string(root().join("gateway/ebpf/BUILDINFO")).expect("BUILDINFO");
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in BUILDINFO"))
        .trim()
        .into()
}

fn collect(folder: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root()).expect("below the root");
            let name = name.to_string_lossy().into_owned();
            files.insert(name, hex(&fs::read(&path).expect("a file")));
        }
    }
}

#[test]
fn the_sums_are_those_of_the_object() {
    let folder = root().join("gateway/ebpf");
    let sums = fs::read_to_string(folder.join("SHA256SUMS")).expect("SHA256SUMS");
    let mut wanted = String::new();
    for name in OBJECTS {
        let hash = hex(&fs::read(folder.join(name)).expect("the object"));
        wanted += &format!("{hash}  {name}\n");
        assert_eq!(fact(&format!("{name}-sha256")), hash, "{REMEDY}");
    }
    assert_eq!(sums, wanted, "{REMEDY}");
}

#[test]
fn the_object_was_built_from_these_sources() {
    let mut files = BTreeMap::new();
    for top in ["gateway-ebpf/src", "crates/abi/src"] {
        collect(&root().join(top), &mut files);
    }
    for file in ["gateway-ebpf/Cargo.toml", "crates/abi/Cargo.toml"] {
        files.insert(
            file.into(),
            hex(&fs::read(root().join(file)).expect("a file")),
        );
    }
    let text: String = files
        .iter()
        .map(|(path, hash)| format!("{path}\0{hash}\n"))
        .collect();
    assert_eq!(
        fact("sources-sha256"),
        hex(text.as_bytes()),
        "sources changed; {REMEDY}"
    );
    let lock = fs::read(root().join("gateway-ebpf/Cargo.lock")).expect("Cargo.lock");
    assert_eq!(
        fact("lockfile-sha256"),
        hex(&lock),
        "lock file changed; {REMEDY}"
    );
}

#[test]
fn the_object_names_no_folder_of_the_machine_that_built_it() {
    // A home of `/` says nothing.
    let home = std::env::var("HOME").ok().filter(|h| h.len() > 1);
    let home = home.unwrap_or_else(|| "/home/".into());
    for name in OBJECTS {
        let object = fs::read(root().join("gateway/ebpf").join(name)).expect("the object");
        for word in [home.as_str(), "/home/", ".cargo", "/usr/", "registry"] {
            let found = object.windows(word.len()).any(|w| w == word.as_bytes());
            assert!(!found, "{name} holds `{word}`");
        }
    }
}
