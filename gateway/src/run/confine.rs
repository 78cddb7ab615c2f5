//! What a running gateway still has to write.

use std::path::{Path, PathBuf};

use anyhow::Context;
use chaff_confine::sandbox::{self, Enforced, Kept};

use super::BPF_DIR;
use crate::config::File;

/// TCP port of resolvers, for answers that do not fit a datagram.
const RESOLVERS: u16 = 53;

/// Confines the process to what [`writable`] names.
pub(super) fn confine(file: &File) -> anyhow::Result<()> {
    let kept = Kept {
        folders: writable(file),
        tcp_ports: vec![RESOLVERS],
    };
    let confined = sandbox::confine(&kept).context("gateway.sandbox (false leaves it out)")?;
    sandbox::verify().context("while checking the filter of system calls")?;
    match confined.files {
        Enforced::Fully => tracing::info!("confined to its own folders; system calls filtered"),
        Enforced::Partly => tracing::info!(
            "confined to its own folders as far as this kernel can; system calls filtered"
        ),
        Enforced::No => tracing::warn!(
            "this kernel has no Landlock: only system calls are filtered, files are kept by their permissions alone"
        ),
    }
    Ok(())
}

/// Folders that the gateway goes on to write: its own, those of configured outputs elsewhere, its pinned programs.
fn writable(file: &File) -> Vec<PathBuf> {
    let export = &file.export;
    let outputs = [
        &export.flows,
        &export.slots,
        &export.alerts,
        &export.telemetry,
        &export.prometheus,
        &export.report,
        &file.gateway.control,
        &file.telemetry.ledger,
        &file.telemetry.state,
    ];
    let elsewhere = outputs
        .into_iter()
        .filter(|path| path.is_absolute())
        .filter_map(|path| path.parent().map(Path::to_owned));
    let folders = [
        file.gateway.state_dir.clone(),
        file.state(&file.archive.folder),
        PathBuf::from(BPF_DIR),
    ];
    folders
        .into_iter()
        .chain(elsewhere)
        .filter(|folder| folder.exists())
        .collect()
}
