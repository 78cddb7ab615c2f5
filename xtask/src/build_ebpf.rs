//! Rebuilds the kernel programs' object and the facts beside it.
//!
//! The object is committed, so nobody needs this to build or test Chaff. Two routes: Debian's `rustc-web` with its
//! library source, or a pinned nightly of rustup. Without BTF and debug information the object holds no path of the
//! machine and is the same bit for bit in every folder. The committed one comes from the Debian route; `--check` with
//! the other route compares what it can (sums, facts) and says so.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::command::{self, Stop};
use crate::packages::{self, Package};

/// Where rustc and the library source come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Toolchain {
    /// Debian where its packages can be had, else rustup.
    #[default]
    Auto,
    /// `/usr/bin/rustc` of Debian's package rustc-web, library source of rust-web-src.
    Debian,
    /// The nightly [`NIGHTLY`] with component rust-src.
    Rustup,
}

/// The nightly of the rustup route: rustc 1.96, the LLVM major of [`LLVM_MAJOR`].
pub const NIGHTLY: &str = "nightly-2026-04-10";

/// Version of bpf-linker.
pub const LINKER: &str = "0.13.0";

/// LLVM that rustc's bitcode and bpf-linker must share.
pub const LLVM_MAJOR: u32 = 22;

const RUSTC: &str = "rustc 1.96.";

/// What the Debian route installs when root.
const DEBIAN: &[Package] = &[
    Package {
        name: "rustc-web",
        probe: "/usr/share/doc/rustc-web",
    },
    Package {
        name: "cargo-web",
        probe: "/usr/share/doc/cargo-web",
    },
    Package {
        name: "rust-web-src",
        probe: "/usr/lib/rustlib/src/rust/library/core/Cargo.toml",
    },
    Package {
        name: "gcc",
        probe: "cc",
    },
    Package {
        name: "libc6-dev",
        probe: "/usr/include/stdio.h",
    },
];

/// Rebuilds the object, or with `check` compares the committed one with a fresh build.
///
/// # Errors
/// [`Stop::Privilege`] with a one-line remedy for a missing tool, [`Stop::Check`] when `check` finds a difference, or
/// the error of a build.
pub fn run(check: bool, toolchain: Toolchain) -> Result<()> {
    let root = crate::root();
    let tools = Tools::find(toolchain)?;
    let built = tools.build(root)?;
    let objects: Vec<Object> = PROGRAMS
        .iter()
        .map(|program| {
            let path = built.join(program);
            let bytes =
                fs::read(&path).with_context(|| format!("while reading {}", path.display()))?;
            Ok(Object {
                name: format!("{program}.bpfel.o"),
                bytes,
            })
        })
        .collect::<Result<_>>()?;
    let facts = facts(root, &tools, &objects)?;
    let folder = root.join("gateway/ebpf");
    if check {
        return compare(&folder, &objects, &facts);
    }
    fs::create_dir_all(&folder)?;
    for object in &objects {
        fs::write(folder.join(&object.name), &object.bytes)?;
        let (name, bytes) = (&object.name, object.bytes.len());
        eprintln!("wrote gateway/ebpf/{name}, {bytes} bytes");
    }
    fs::write(folder.join("SHA256SUMS"), sums(&objects))?;
    fs::write(folder.join("BUILDINFO"), &facts)?;
    Ok(())
}

/// The programs of `gateway-ebpf`: the meter, and who owns the sockets of this host.
const PROGRAMS: [&str; 2] = ["chaff", "owners"];

/// A built object under the name that it is committed by.
struct Object {
    name: String,
    bytes: Vec<u8>,
}

/// Chosen programs and folders.
struct Tools {
    rustc: PathBuf,
    cargo: PathBuf,
    version: String,
    linker: PathBuf,
}

impl Tools {
    fn find(toolchain: Toolchain) -> Result<Self> {
        let (rustc, cargo) = match toolchain {
            Toolchain::Debian => debian()?,
            Toolchain::Rustup => rustup()?,
            Toolchain::Auto => match debian() {
                Ok(found) => found,
                Err(no) if command::installed("rustup") => {
                    eprintln!("no Debian route ({no:#}); using rustup");
                    rustup()?
                }
                Err(no) => return Err(no),
            },
        };
        let mut command = Command::new(&rustc);
        command
            .arg("--version")
            .arg("--verbose")
            .env_remove("RUSTUP_TOOLCHAIN");
        let version = command::output(command)?;
        let llvm = field(&version, "LLVM version");
        let major = llvm.split('.').next().and_then(|m| m.parse::<u32>().ok());
        ensure!(
            major == Some(LLVM_MAJOR),
            Stop::Privilege.error(format_args!(
                "{} has LLVM {llvm}, needed is {LLVM_MAJOR}",
                rustc.display()
            ))
        );
        let linker = linker(&rustc, &cargo)?;
        Ok(Self {
            rustc,
            cargo,
            version,
            linker,
        })
    }

    /// Builds into a folder of its own and returns the folder of the objects.
    fn build(&self, root: &Path) -> Result<PathBuf> {
        let target = root.join("target/ebpf");
        let remap = |from: &Path, to: &str| {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(from);
            flag.push("=");
            flag.push(to);
            flag
        };
        let mut sysroot = Command::new(&self.rustc);
        sysroot.args(["--print", "sysroot"]);
        let sysroot = PathBuf::from(command::output(sysroot)?.trim());
        let mut linker = OsString::from("-Clinker=");
        linker.push(&self.linker);
        let flags: Vec<OsString> = vec![
            linker,
            "-Ctarget-cpu=v3".into(),
            // Wide loads from packets, whose addresses have no alignment; the kernel allows them on x86-64 and arm64.
            "-Clink-arg=--cpu-features=+alu32,+allows-misaligned-mem-access".into(),
            "-Cdebuginfo=0".into(),
            remap(root, "/chaff"),
            remap(&home("CARGO_HOME", ".cargo")?, "/cargo"),
            remap(&sysroot, "/rust"),
        ];
        let mut command = Command::new(&self.cargo);
        command
            .current_dir(root.join("gateway-ebpf"))
            .args(["build", "--release", "--locked", "--quiet"])
            .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                flags.join(&OsString::from("\u{1f}")),
            );
        for name in [
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "CARGO_TARGET_DIR",
            "RUSTC_WRAPPER",
        ] {
            command.env_remove(name);
        }
        for (name, _) in std::env::vars_os() {
            // A running cargo's settings for this program are not those of the build.
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PROFILE_") || text.starts_with("CARGO_BUILD_") {
                command.env_remove(name);
            }
        }
        eprintln!(
            "building gateway-ebpf with {}",
            self.version.lines().next().unwrap_or_default()
        );
        command::output(command).context("while building gateway-ebpf")?;
        Ok(target.join("bpfel-unknown-none/release"))
    }
}

/// Debian's rustc and cargo, installed when root.
fn debian() -> Result<(PathBuf, PathBuf)> {
    let (rustc, cargo) = (
        PathBuf::from("/usr/bin/rustc"),
        PathBuf::from("/usr/bin/cargo"),
    );
    packages::ensure(DEBIAN)?;
    let mut command = Command::new(&rustc);
    command.arg("--version");
    let version = command::output(command)?;
    ensure!(
        version.starts_with(RUSTC),
        Stop::Privilege.error(format_args!(
            "/usr/bin/rustc is {}, needed is {RUSTC}x",
            version.trim()
        ))
    );
    Ok((rustc, cargo))
}

/// The pinned nightly's rustc and cargo.
fn rustup() -> Result<(PathBuf, PathBuf)> {
    if !command::installed("rustup") {
        return Err(Stop::Privilege.error("no rustup; type: apt-get install rustup"));
    }
    let which = |program: &str| {
        let mut command = Command::new("rustup");
        command.args(["which", "--toolchain", NIGHTLY, program]);
        command::output(command).map(|p| PathBuf::from(p.trim()))
    };
    let source = |rustc: &Path| {
        rustc.ancestors().nth(2).is_some_and(|p| {
            p.join("lib/rustlib/src/rust/library/core/Cargo.toml")
                .exists()
        })
    };
    match (which("rustc"), which("cargo")) {
        (Ok(rustc), Ok(cargo)) if source(&rustc) => Ok((rustc, cargo)),
        _ => Err(Stop::Privilege.error(format_args!(
            "no {NIGHTLY} with its source; type: rustup toolchain install {NIGHTLY} --profile minimal --component rust-src"
        ))),
    }
}

/// bpf-linker of the right version, built into the user's cache when absent.
fn linker(rustc: &Path, cargo: &Path) -> Result<PathBuf> {
    let cache = home("XDG_CACHE_HOME", ".cache")?.join("chaff");
    let tools = cache.join("tools");
    let linker = tools.join("bin/bpf-linker");
    if linker.exists() {
        let mut command = Command::new(&linker);
        command.arg("--version");
        // One that does not start (its LLVM went away) is built anew.
        if command::output(command).is_ok_and(|v| v.trim() == format!("bpf-linker {LINKER}")) {
            return Ok(linker);
        }
    }
    let prefix = cache.join(format!("llvm{LLVM_MAJOR}"));
    let link = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib"))?;
    let library = llvm(rustc)?;
    let folder = library.parent().unwrap_or(Path::new("/usr/lib"));
    if fs::read_link(&link).ok().as_ref() != Some(&library) {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&library, &link)
            .with_context(|| format!("while linking {}", link.display()))?;
    }
    eprintln!(
        "building bpf-linker {LINKER} into {} (a few minutes, once)",
        tools.display()
    );
    let mut command = Command::new(cargo);
    command
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER,
            "--locked",
            "--quiet",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{LLVM_MAJOR}"),
        ])
        .arg("--root")
        .arg(&tools)
        .env("RUSTC", rustc)
        .env("LLVM_PREFIX", &prefix)
        // rustup's library lies where the dynamic linker does not look.
        .env(
            "RUSTFLAGS",
            format!("-Clink-arg=-Wl,-rpath,{}", folder.display()),
        )
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO_TARGET_DIR");
    command::output(command).context("while building bpf-linker")?;
    Ok(linker)
}

/// The shared LLVM library of the toolchain: beside rustup's rustc, or Debian's.
fn llvm(rustc: &Path) -> Result<PathBuf> {
    let mut folders = vec![
        PathBuf::from(format!("/usr/lib/llvm-{LLVM_MAJOR}/lib")),
        PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH)),
    ];
    if let Some(prefix) = rustc.ancestors().nth(2) {
        folders.insert(0, prefix.join("lib"));
    }
    let names = [
        format!("libLLVM-{LLVM_MAJOR}.so"),
        format!("libLLVM.so.{LLVM_MAJOR}.1"),
    ];
    for folder in &folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if names.contains(&name) || name.starts_with(&format!("libLLVM.so.{LLVM_MAJOR}.")) {
                return Ok(entry.path());
            }
        }
    }
    Err(Stop::Privilege.error(format_args!(
        "no shared LLVM {LLVM_MAJOR}; type: sudo apt-get install libllvm{LLVM_MAJOR}"
    )))
}

/// A folder from the environment, or below the user's home.
fn home(variable: &str, below: &str) -> Result<PathBuf> {
    if let Some(value) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
        return Ok(value.into());
    }
    let home = std::env::var_os("HOME").context("neither HOME nor a cache folder is set")?;
    Ok(Path::new(&home).join(below))
}

/// One `name: value` line of `rustc --version --verbose`.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
        .unwrap_or("unknown")
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

fn sums(objects: &[Object]) -> String {
    objects
        .iter()
        .map(|o| format!("{}  {}\n", hex(&o.bytes), o.name))
        .collect()
}

/// Hash of the sources: SHA-256 over `path NUL hash LF` of each file of `gateway-ebpf` and `crates/abi`, sorted by path.
/// `gateway/tests/ebpf_object.rs` computes the same.
fn source_hash(root: &Path) -> Result<String> {
    let mut files = BTreeMap::new();
    for top in ["gateway-ebpf/src", "crates/abi/src"] {
        collect(root, &root.join(top), &mut files)?;
    }
    for file in ["gateway-ebpf/Cargo.toml", "crates/abi/Cargo.toml"] {
        files.insert(file.to_string(), hex(&fs::read(root.join(file))?));
    }
    let mut text = String::new();
    for (path, hash) in files {
        let _ = writeln!(text, "{path}\0{hash}");
    }
    Ok(hex(text.as_bytes()))
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("while listing {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path
                .strip_prefix(root)?
                .to_string_lossy()
                .replace('\\', "/");
            files.insert(name, hex(&fs::read(&path)?));
        }
    }
    Ok(())
}

fn facts(root: &Path, tools: &Tools, objects: &[Object]) -> Result<String> {
    let lock = fs::read(root.join("gateway-ebpf/Cargo.lock"))?;
    Ok(format!(
        "{}sources-sha256 {}\nlockfile-sha256 {}\nrustc {}\nllvm {}\nbpf-linker {LINKER}\n",
        objects
            .iter()
            .map(|o| format!("{}-sha256 {}\n", o.name, hex(&o.bytes)))
            .collect::<String>(),
        source_hash(root)?,
        hex(&lock),
        field(&tools.version, "release"),
        field(&tools.version, "LLVM version"),
    ))
}

fn compare(folder: &Path, objects: &[Object], facts: &str) -> Result<()> {
    let recorded = fs::read_to_string(folder.join("BUILDINFO"))?;
    let line = |text: &str, name: &str| -> String {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or("absent")
            .trim()
            .to_string()
    };
    for name in ["sources-sha256", "lockfile-sha256"] {
        if line(&recorded, name) != line(facts, name) {
            return Err(Stop::Check.error(format_args!(
                "{name} of BUILDINFO is not that of the sources; type: cargo xtask build-ebpf"
            )));
        }
    }
    let committed: Vec<Object> = objects
        .iter()
        .map(|o| {
            let path = folder.join(&o.name);
            let bytes =
                fs::read(&path).with_context(|| format!("while reading {}", path.display()))?;
            let name = o.name.clone();
            Ok(Object { name, bytes })
        })
        .collect::<Result<_>>()?;
    let sums_now = fs::read_to_string(folder.join("SHA256SUMS"))?;
    if sums_now != sums(&committed) {
        return Err(Stop::Check.error("SHA256SUMS does not fit the objects"));
    }
    let same_tools = ["rustc", "llvm", "bpf-linker"]
        .iter()
        .all(|name| line(&recorded, &format!("{name} ")) == line(facts, &format!("{name} ")));
    for (old, new) in committed.iter().zip(objects) {
        let (name, at) = (
            &old.name,
            old.bytes.iter().zip(&new.bytes).position(|(a, b)| a != b),
        );
        if old.bytes == new.bytes {
            eprintln!("{name}: identical, {} bytes", new.bytes.len());
            continue;
        }
        let section = section_at(&old.bytes, at.unwrap_or(0)).unwrap_or_else(|| "headers".into());
        let what = format!(
            "{name} differs from a fresh build in section {section} ({} and {} bytes)",
            old.bytes.len(),
            new.bytes.len()
        );
        if same_tools {
            return Err(Stop::Check.error(what));
        }
        // Another compiler makes other code; the tests decide whether it is right.
        eprintln!(
            "{what}; it was built by rustc {}, not compared further",
            line(&recorded, "rustc ")
        );
    }
    Ok(())
}

/// Name of the ELF section (64-bit, little-endian) that holds the byte at `offset`.
fn section_at(elf: &[u8], offset: usize) -> Option<String> {
    let word = |at: usize, n: usize| -> Option<usize> {
        let mut value = [0; 8];
        value[..n].copy_from_slice(elf.get(at..at + n)?);
        usize::try_from(u64::from_le_bytes(value)).ok()
    };
    let (table, size) = (word(40, 8)?, word(58, 2)?);
    let (count, names) = (word(60, 2)?, word(62, 2)?);
    let names_at = word(table + names * size + 24, 8)?;
    for i in 0..count {
        let header = table + i * size;
        let (at, len) = (word(header + 24, 8)?, word(header + 32, 8)?);
        if (at..at + len).contains(&offset) && word(header + 4, 4)? != 8 {
            let name = elf.get(names_at + word(header, 4)?..)?;
            let end = name.iter().position(|b| *b == 0)?;
            return Some(String::from_utf8_lossy(&name[..end]).into_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_section_of_an_offset() {
        let object = fs::read(crate::root().join("gateway/ebpf/chaff.bpfel.o")).expect("committed");
        let license = b"Dual MIT/GPL\0";
        let at = object
            .windows(license.len())
            .position(|w| w == license)
            .expect("licence");
        assert_eq!(section_at(&object, at).as_deref(), Some("license"));
        assert_eq!(section_at(&object, 0), None);
        assert_eq!(section_at(&object[..50], 0), None);
    }

    #[test]
    fn reads_the_compilers_facts() {
        let text = "rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.2\n";
        assert_eq!(
            (field(text, "release"), field(text, "LLVM version")),
            ("1.96.0", "22.1.2")
        );
        assert_eq!(field(text, "host"), "unknown");
    }
}
