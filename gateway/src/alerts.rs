//! The driver's side of the alerts: the file of what was learnt, the log, the owner's answers.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context;
use chaff_engine::{Alert, Gateway};
use serde_json::{Value, json};

/// What the alerts learnt in earlier runs. A file that is damaged or of another version is put aside as `NAME.bad`, and
/// learning begins anew.
///
/// # Errors
/// The file is there and cannot be read or renamed.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("while reading {}", path.display())),
    };
    let Err(what) = chaff_engine::check_history(&bytes) else {
        return Ok(bytes);
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(".bad");
    std::fs::rename(path, &aside).with_context(|| format!("while renaming {}", path.display()))?;
    tracing::warn!(
        file = %path.display(),
        moved_to = %Path::new(&aside).display(),
        "what the alerts learnt cannot be used ({what}); habits are learnt anew"
    );
    Ok(Vec::new())
}

/// Writes what the alerts learnt, so that a crash leaves either the old or the new file.
///
/// # Errors
/// The disk is full or gone.
pub fn write(path: &Path, learnt: &[u8]) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(learnt)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

/// Says that there is an alert; what it tells names devices and stays in its file.
pub fn log(alert: &Alert) {
    let (kind, severity) = (alert.novelty.name(), alert.severity);
    tracing::info!(id = alert.id, novelty = kind, ?severity, "alert");
}

/// Takes the owner's word that an alert told of something normal.
pub fn accept(engine: &mut Gateway, id: u64) -> Value {
    match engine.accept(id) {
        Ok(summary) => json!({ "accepted": id, "summary": summary }),
        Err(e) => json!({ "error": e.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_put_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("history.json");
        assert!(read(&path).expect("absent is empty").is_empty());
        let empty = Gateway::new(
            chaff_engine::Config::default(),
            chaff_engine::Parts::default(),
            [0; 32],
            chaff_abi::Nanos::ZERO,
        )
        .expect("the defaults are valid")
        .history();
        write(&path, &empty).expect("writes");
        assert_eq!(read(&path).expect("reads"), empty);
        for damage in [&empty[..empty.len() / 2], b"{\"version\":1}", b"\xff"] {
            write(&path, damage).expect("writes");
            assert!(read(&path).expect("begins anew").is_empty());
            assert!(!path.exists());
            let aside = std::fs::read(folder.path().join("history.json.bad")).expect("kept");
            assert_eq!(aside, damage);
        }
    }
}
