//! Chaff's development tasks: the README's two commands (`cargo xtask test`, `cargo xtask demo`) and what they stand on.
//!
//! Start at [`netns`]: the namespaces in which the demo, the end-to-end tests and hands-on work run.
//! It spawns the programs that a release build made and links none of Chaff's crates, so it starts fast.
//!
//! ```no_run
//! use xtask::netns::{Layout, Topology};
//! let home = Topology::new("example")?;
//! home.up(Layout::Bridge)?; // needs root
//! home.down()?;
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! It is not installed and not part of a release.
#![forbid(unsafe_code)]

mod account;
pub mod attacks;
pub mod bench;
pub mod build_ebpf;
pub mod cluster;
pub mod command;
pub mod conformance;
pub mod demo;
pub mod fuzz;
mod input;
mod live;
pub mod netns;
pub mod packages;
pub mod pcap;
pub mod picture;
pub mod record;
mod report;
pub mod test;
pub mod tunnel_lab;

/// Returns the repository's root.
pub fn root() -> &'static std::path::Path {
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}
